"""What every server in the comparison serves: a hello, and WebSocket echo by ``environ['wsgi.websocket']``."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

HELLO = b"Hello, World!\n"


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []
