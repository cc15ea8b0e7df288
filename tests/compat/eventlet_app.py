"""A WebSocket application as eventlet's documentation has it. Alone it is served by ``eventlet.wsgi.server``."""

import json
import sys

import eventlet
from eventlet import websocket


@websocket.WebSocketWSGI
def echo(ws):
    while True:
        message = ws.wait()
        if message is None:
            break
        ws.send(message)


@websocket.WebSocketWSGI.configured(supported_protocols=["chat", "v2"])
def chat(ws):
    ws.send(str(ws.protocol))


@websocket.WebSocketWSGI.configured(origin_checker=lambda host, origin: bool(host) and origin != "http://bad.example")
def checked(ws):
    ws.send(str(ws.origin))


def limited(ws):
    while ws.wait() is not None:
        ws.send("taken")


@websocket.WebSocketWSGI
def about(ws):
    said = {"path": ws.path, "version": ws.version, "origin": ws.origin, "protocol": ws.protocol}
    ws.send(json.dumps(said | {"query": ws.environ["QUERY_STRING"], "closed": ws.websocket_closed}))


@websocket.WebSocketWSGI
def closes(ws):
    ws.close((4001, "as asked"))
    ws.close()


@websocket.WebSocketWSGI
def fails(ws):
    raise RuntimeError("as the test asked")


@websocket.WebSocketWSGI
def sends_late(ws):
    """What send() raises of a client that has gone ends the handler in silence."""
    assert ws.wait() is None
    ws.send("nobody is there")
    raise AssertionError("send() did not raise")


@websocket.WebSocketWSGI
def busy(ws):
    """Two green threads send, one of them for both; a Timeout strikes a wait() that loses nothing."""

    def ticks():
        for number in range(3):
            ws.send(f"tick {number}")
            eventlet.sleep(0.01)

    ticking = eventlet.spawn(ticks)
    message = None
    while message is None:
        with eventlet.Timeout(0.05, False):
            message = ws.wait()
    ticking.wait()
    ws.send(f"then {message}")


def page(environ, start_response):
    pool = eventlet.GreenPool(4)
    text = ",".join(pool.imap(str, range(10)))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{text} {environ.get('extra')} {'eventlet.input' in environ}".encode()]


def leaves(environ, start_response):
    raise SystemExit


PAGES = {
    "/echo": echo, "/chat": chat, "/checked": checked, "/about": about, "/closes": closes, "/fails": fails,
    "/limited": websocket.WebSocketWSGI(limited, max_frame_length=1000),
    "/sends-late": sends_late, "/busy": busy, "/page": page, "/leaves": leaves,
}  # fmt: skip


def application(environ, start_response):
    return PAGES[environ["PATH_INFO"]](environ, start_response)


if __name__ == "__main__":
    from eventlet import wsgi

    wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[1]))), application, environ={"extra": "more"})
    print("the server has ended")
