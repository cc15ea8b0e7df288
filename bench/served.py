"""What every server in the comparison serves: a hello, an echo, a mebibyte down and up, and WebSocket echo."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

HELLO = b"Hello, World!\n"
LARGE = b"x" * (1 << 20)


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/echo":
            content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        case "/upload":
            content = str(len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))).encode()
        case "/megabyte":
            content = LARGE
        case _:
            content = HELLO
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
    return [content]


def websocket(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Of geventgate and of gevent-websocket, which differ in how a socket's end is told."""
    ws = environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return []


def uwsgi_websocket(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    import uwsgi

    uwsgi.websocket_handshake()
    try:
        while True:
            uwsgi.websocket_send_binary(uwsgi.websocket_recv())
    except OSError:  # the peer has gone
        return []


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await asgi_websocket(receive, send)
    elif scope["type"] == "http":
        content = HELLO
        if scope["path"] in ("/echo", "/upload"):
            parts, more = [], True
            while more:
                message = await receive()
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
            content = b"".join(parts)
            if scope["path"] == "/upload":
                content = str(len(content)).encode()
        elif scope["path"] == "/megabyte":
            content = LARGE
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def asgi_websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
