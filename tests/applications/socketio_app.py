"""Flask-SocketIO as it is published, and flask-sock, in one application.

``app`` has gevent-websocket importable, as far as the environment has, and python-engineio uses ``wsgi.websocket``;
with SIMPLE_WEBSOCKET=1 it has not, and simple-websocket speaks. CORS is ``cors_allowed_origins``, if set.
"""

import os
import sys

if os.environ.get("SIMPLE_WEBSOCKET"):
    sys.modules["geventwebsocket"] = None

from flask import Flask, request
from flask_sock import Sock
from flask_socketio import SocketIO, emit, join_room, leave_room, send

app = Flask(__name__)
sock = Sock(app)
socketio = SocketIO(app, cors_allowed_origins=os.environ.get("CORS"), ping_interval=2, ping_timeout=5)


@app.get("/")
def index():
    from engineio.async_drivers.gevent import SimpleWebSocketWSGI

    speaks = "gevent-websocket" if SimpleWebSocketWSGI is None else "simple-websocket"
    return f"{socketio.async_mode} {speaks}"


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


@socketio.on("connect")
def connect():
    emit("welcome", request.sid)


@socketio.on("message")
def message(data):
    send(data)


@socketio.on("join")
def join(room):
    join_room(room)
    return room


@socketio.on("leave")
def leave(room):
    leave_room(room)
    return room


@socketio.on("say")
def say(room, text):
    emit("said", text, to=room)
    return len(text)


@socketio.on("shout")
def shout(text):
    emit("shouted", text, broadcast=True)


@socketio.on("large")
def large(data):
    return data
