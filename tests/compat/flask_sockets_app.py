"""The README of Flask-Sockets: its example, its blueprints, and what else handlers do."""

from flask import Blueprint, Flask, request, session
from flask_sockets import Sockets

app = Flask(__name__)
app.secret_key = "for tests only"
sockets = Sockets(app)


@sockets.route("/echo")
def echo_socket(ws):
    while not ws.closed:
        message = ws.receive()
        ws.send(message)


@app.route("/")
def hello():
    session["name"] = "Ada"
    return "Hello World!"


html = Blueprint("html", __name__)
ws = Blueprint("ws", __name__)


@html.route("/page")
def page():
    return "a page"


@ws.route("/echo")
def echo_again(socket):
    while not socket.closed:
        message = socket.receive()
        socket.send(message)


app.register_blueprint(html, url_prefix="/pages")
sockets.register_blueprint(ws, url_prefix="/sockets")


@sockets.route("/room/<name>/<int:number>")
def room(ws, name, number):
    ws.send(f"{name} {number + 1} {request.args['who']} {session.get('name')}")


@sockets.route("/folder/")
def folder(ws):
    ws.send("in a folder")


@sockets.route("/kind")
def kind(ws):
    ws.send(type(ws.receive()).__name__)


@sockets.route("/fail")
def fail(ws):
    raise KeyError("as intended")
