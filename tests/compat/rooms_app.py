"""A Flask-SocketIO application, by the driver of python-engineio that is asked for."""

from flask import Flask
from flask_socketio import SocketIO, emit, join_room


def create(mode=None):
    app = Flask(__name__)
    socketio = SocketIO(app, async_mode=mode)
    app.socketio = socketio

    @app.get("/")
    def index():
        return socketio.async_mode

    @socketio.on("join")
    def join(room):
        join_room(room)
        return "joined"

    @socketio.on("say")
    def say(room, text):
        emit("said", text, to=room)

    @socketio.on("later")
    def later(what):
        def task():
            socketio.sleep(0.01)
            socketio.emit("said", f"later: {what}")

        socketio.start_background_task(task)

    @app.get("/stop")
    def stop():
        socketio.stop()

    return app
