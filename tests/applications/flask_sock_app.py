"""flask-sock as it is published, as its documentation uses it; ``app`` finds the socket as under gevent's server.

``as_gunicorn`` and ``as_werkzeug`` are the same for code that finds it under those servers' keys, and leaves by their
exceptions.
"""

from contextlib import suppress

from flask import Flask, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server

app = Flask(__name__)
sock = Sock(app)


@app.get("/")
def index():
    return "a page beside it"


@sock.route("/echo")
def echo(ws):
    while True:
        data = ws.receive()
        if data == "close":
            break
        ws.send(data)


@sock.route("/push/<int:count>")
def push(ws, count):
    """Only sends."""
    for number in range(count):
        ws.send(f"{number} {'x' * 100}")


@sock.route("/endless")
def endless(ws):
    """Only sends, and does not even sleep."""
    while True:
        ws.send("x" * 1000)


@sock.route("/fail")
def fail(ws):
    ws.receive()
    raise RuntimeError("as the test asked")


@sock.route("/cookie")
def cookie(ws):
    ws.send(request.cookies.get("name", "nobody"))
    ws.send(request.environ["SERVER_PROTOCOL"])
    ws.close(4001, "as asked")


@app.route("/chosen", websocket=True)
def chosen():
    """simple-websocket without flask-sock: a subprotocol, and pings."""
    interval = request.args.get("ping", default=60, type=float)
    ws = Server.accept(request.environ, subprotocols=["b", "a"], ping_interval=interval)
    ws.send(f"{ws.subprotocol} {ws.mode}")
    with suppress(ConnectionClosed):
        while True:
            ws.send(ws.receive())
    return ""


@app.route("/forbidden", websocket=True)
def forbidden():
    return "not for you", 403


def under(key):
    def application(environ, start_response):
        if "wsgi.websocket" in environ:
            environ[key] = environ["wsgi.input"].raw._sock
        return app(environ, start_response)

    return application


as_gunicorn = under("gunicorn.socket")
as_werkzeug = under("werkzeug.socket")
