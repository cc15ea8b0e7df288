"""An application written for gevent-websocket, served by the real one and by ours. What it sees of a WebSocket is at
``/seen/CASE`` afterwards. Run as a program it serves itself by whatever ``geventwebsocket`` is installed."""

import json
import signal
import sys
from collections import OrderedDict, defaultdict

import gevent
from gevent.event import Event
from geventwebsocket import Resource, WebSocketApplication, WebSocketError
from geventwebsocket.exceptions import FrameTooLargeException, ProtocolError
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_CLOSED, MSG_SOCKET_DEAD, WebSocket

seen = defaultdict(list)
ended = set()
kept = []


def attempt(call, *arguments):
    """What comes of a call, as text."""
    try:
        value = call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{type(value).__name__} {bytes(value) if isinstance(value, bytearray) else value!r}"


def receive_all(ws, note):
    """Until it is closed, and once more."""
    for _ in range(20):
        note(attempt(ws.receive), ws.closed)
        if ws.closed:
            break
    note(attempt(ws.receive), ws.closed)


def properties(ws, note):
    note(isinstance(ws, WebSocket), ws.path, ws.origin, ws.protocol, ws.version, ws.closed)
    note(ws.environ["QUERY_STRING"], ws.environ["wsgi.websocket"] is ws, ws.environ["wsgi.websocket_version"])
    note([ws.OPCODE_CONTINUATION, ws.OPCODE_TEXT, ws.OPCODE_BINARY, ws.OPCODE_CLOSE, ws.OPCODE_PING, ws.OPCODE_PONG])
    handler = ws.handler
    note(ws.stream.handler is handler, handler.websocket is ws, handler.environ is ws.environ)
    client = handler.active_client
    client.nickname = "Ada"  # as the chat of its examples does
    note(client.ws is ws, client.address == handler.client_address, len(handler.client_address))
    note([one.nickname for one in handler.server.clients.values() if one.ws is ws])
    note(callable(ws.logger.debug), attempt(ws.current_app.on_close, "why"))


def errors(ws, note):
    note(isinstance(WebSocketError(), OSError), str(WebSocketError("why")), WebSocketError("why").args)
    note(issubclass(ProtocolError, WebSocketError), issubclass(FrameTooLargeException, ProtocolError))
    note(MSG_SOCKET_DEAD, MSG_ALREADY_CLOSED, MSG_CLOSED)


def send(ws, note):
    for arguments in (
        ("text",), ("ü" * 40_000,), ("",), (b"bytes",), (b"",), (bytearray(b"array"),), (memoryview(b"view"),),
        ("text", False), (b"bytes", True), (12.5, False), (None, False), ([1, 2, 3],),
    ):  # fmt: skip
        note(attempt(ws.send, *arguments))
    note(attempt(ws.send, None), attempt(ws.send, 1.5), ws.closed)
    ws.send_frame("", ws.OPCODE_PING)
    ws.send_frame(b"\xff", ws.OPCODE_PONG)


def close(ws, note):
    note(attempt(ws.close), ws.closed, attempt(ws.close), attempt(ws.close, 1001, "reason"))
    note(attempt(ws.send, "late"), attempt(ws.send_frame, "late", ws.OPCODE_TEXT), attempt(ws.receive), ws.stream)


def close_oddly(ws, note):
    note(attempt(ws.close, 7, None), ws.closed)


def send_to_nobody(ws, note):
    note(attempt(ws.receive), attempt(ws.send, "late"), attempt(ws.close), ws.closed)


def loop(ws, note):
    """As the README of Flask-Sockets has it."""
    while not ws.closed:
        message = ws.receive()
        note(repr(message))
        if message is not None:
            ws.send(message)


def keep(ws, note):
    """Its messages come from others; it does not touch the WebSocket."""
    told = Event()
    kept.append((ws, told))
    told.wait()


def tell_kept(ws, note):
    while kept:
        one, told = kept.pop()
        one.send("from elsewhere")
        told.set()


def close_with_code(ws, note):
    ws.close(4000, "enough")


def text_as_binary(ws, note):
    note(attempt(ws.send, "text", True))


def binary_as_text(ws, note):
    note(attempt(ws.send, b"bytes", False))


def environ_once_closed(ws, note):
    ws.close()
    note(ws.environ is None, ws.path is None)


def clients(ws, note):
    """How long the addresses of the clients are."""
    ws.send(json.dumps(sorted(len(one) for one in ws.handler.server.clients)))


def fail(ws, note):
    raise LookupError("as intended")


CASES = {
    call.__name__: call
    for call in (
        receive_all, properties, errors, send, close, close_oddly, send_to_nobody, loop, keep, tell_kept,
        close_with_code, text_as_binary, binary_as_text, environ_once_closed, clients, fail
    )
}  # fmt: skip


def serve_case(environ, start_response):
    """``/KIND/CASE``. It returns None, as the README's does, or is a generator."""
    _, kind, case, *_ = environ["PATH_INFO"].split("/")
    if kind == "seen":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps([case in ended, seen[case], "wsgi.websocket" in environ]).encode()]
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [b"a WebSocket, please"]
    try:
        CASES[kind](ws, lambda *values: seen[case].append(values))
    finally:
        ended.add(case)
    return None


def yielding(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    environ["wsgi.websocket"].send("from a generator")
    yield b"nobody reads this"


class Noting(WebSocketApplication):
    """Notes what is called."""

    def __init__(self, ws):
        super().__init__(ws)
        self.case = ws.path.rpartition("/")[2]

    def note(self, *values):
        seen[self.case].append(values)

    def on_open(self):
        self.note("open", self.protocol.handler is self.ws.handler, self.protocol.server is self.ws.handler.server)

    def on_message(self, message):
        self.note("message", message)
        if message == "close":
            self.ws.close()
        elif message is not None:
            self.ws.send(message)

    def on_close(self, reason):
        self.note("close", reason)
        ended.add(self.case)


class Chosen(Noting):
    @classmethod
    def protocol_name(cls):
        return "chosen"


class Plain(Noting):
    """Echoes, None at the end too, as the README's does."""

    def on_message(self, message):
        self.note("message", message)
        try:
            self.ws.send(message)
        finally:
            ended.add(self.case)


resource = Resource(
    OrderedDict(
        {
            "/resource/noting/": Noting,
            "/resource/chosen/": Chosen,
            "/resource/plain/": Plain,
            "/resource/.*": serve_case,
        }
    )
)
few = Resource([("/few/one", Noting)])
RESOURCES = {"resource": resource, "few": few}


class Application:
    """By the beginning of the path, and what gevent-websocket asks an application for."""

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/yielding":
            return yielding(environ, start_response)
        if path == "/nothing":
            return []
        return RESOURCES.get(path.split("/")[1], serve_case)(environ, start_response)

    def app_protocol(self, path):
        one = RESOURCES.get(path.split("/")[1])
        return one.app_protocol(path) if one else ""


application = Application()

if __name__ == "__main__":
    from geventwebsocket import WebSocketServer

    server = WebSocketServer(("127.0.0.1", int(sys.argv[1])), application)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()
