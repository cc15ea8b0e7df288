"""Flask-SocketIO with rooms: ``geventgate --chdir examples rooms:app``, and open a few windows.

Nothing here knows the server. The page speaks to Socket.IO in a few lines of its own, so that it runs offline; with
Socket.IO's client, as any other application, it could also poll.
"""

from pathlib import Path

from flask import Flask, request
from flask_socketio import SocketIO, emit, join_room, leave_room

ROOMS = "kitchen", "library", "garden"

app = Flask(__name__)
socketio = SocketIO(app)
page = Path(__file__).with_suffix(".html").read_text()
places = {}  # of who is here: session -> room


@app.route("/")
def index():
    return page


@socketio.on("connect")
def connect():
    emit("rooms", ROOMS)


@socketio.on("enter")
def enter(room):
    leave()
    if room in ROOMS:
        places[request.sid] = room
        join_room(room)
        emit("said", f"Somebody enters the {room}.", to=room)


@socketio.on("say")
def say(text):
    if request.sid in places:
        emit("said", str(text)[:1000], to=places[request.sid])


@socketio.on("disconnect")
def leave(reason=None):
    if room := places.pop(request.sid, None):
        leave_room(room)
        emit("said", f"Somebody leaves the {room}.", to=room)
