"""gevent-websocket's names over ours, beside the real gevent-websocket: one application, the same bytes, equal answers.

Where ours answers otherwise is a table of its own, with both answers.
"""

import json
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from geventgate.compat.geventwebsocket import create_logger, upgrade
from geventgate.compat.geventwebsocket.resource import Resource, WebSocketApplication
from geventgate.errors import ApplicationError, WebSocketError
from geventgate.testing import Http2Client, Http2WebSocketClient, Refused, WebSocketClient, running
from tests.conftest import Gate, await_listening, free_port

HERE = Path(__file__).parent
WAIT = 10.0
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\x01\x02\x03\x04"
numbers = count()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = MASK) -> bytes:
    """A client's frame; *mask* b"" leaves it unmasked."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    marked = bool(mask) << 7
    if len(payload) < 126:
        head += bytes([marked | len(payload)])
    else:
        head += bytes([marked | 127]) + len(payload).to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if mask else head + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The server's frames. All are final, none is masked."""
    found = []
    while data:
        opcode, size, at = data[0] & 15, data[1], 2
        if size > 125:
            at += 2 if size == 126 else 8
            size = int.from_bytes(data[2:at], "big")
        found.append((opcode, data[at : at + size]))
        data = data[at + size :]
    return found


class Answer(NamedTuple):
    status: str
    fields: dict[str, str]
    frames: list[tuple[int, bytes]]  # without Close
    closes: list[bytes]  # payloads of Close frames


class Peer:
    """A client that says what it is told to, by the byte."""

    def __init__(self, server: Gate, path: str, *fields: str) -> None:
        self.socket = server.connect(WAIT)
        lines = [
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *fields,
        ]  # fmt: skip
        if not any(line.startswith("Sec-WebSocket-Version") for line in fields):
            lines.append("Sec-WebSocket-Version: 13")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.data = b""

    def head(self) -> tuple[str, dict[str, str]]:
        while b"\r\n\r\n" not in self.data:
            data = self.socket.recv(65536)
            assert data, self.data
            self.data += data
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        status, *lines = head.decode().split("\r\n")
        return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def rest(self) -> bytes:
        while data := self._receive():
            self.data += data
        return self.data

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:  # it had bytes of ours to read when it closed
            return b""

    def until(self, size: int) -> list[tuple[int, bytes]]:
        """The frames of the next *size* bytes."""
        while len(self.data) < size:
            data = self.socket.recv(65536)
            assert data, self.data
            self.data += data
        found, self.data = frames(self.data[:size]), self.data[size:]
        return found


def talk(server: Gate, path: str, said: bytes, *fields: str) -> Answer:
    """Send *said* behind the 101, then nothing more, and take what comes until it is over."""
    peer = Peer(server, path, *fields)
    with peer.socket:
        status, answered = peer.head()
        if "101" not in status:
            return Answer(status, answered, [], [])
        with suppress(OSError):  # it has closed already
            peer.socket.sendall(said)
            peer.socket.shutdown(socket.SHUT_WR)
        found = frames(peer.rest())
        closes = [payload for opcode, payload in found if opcode == CLOSE]
        return Answer(status, answered, [one for one in found if one[0] != CLOSE], closes)


INSTALLED = "import runpy, sys; from geventgate import compat; compat.install('geventwebsocket'); "
PROGRAM = "sys.argv[1:] = [{}]; runpy.run_path('geventwebsocket_app.py', run_name='__main__')"


@contextmanager
def program(log: Path, *command: str) -> Iterator[Gate]:
    """The application, served by its own ``WebSocketServer``; *command* is given the port."""
    port = free_port()
    with log.open("wb") as stderr:
        words = [sys.executable, *(word.format(repr(str(port))) for word in command)]
        process = subprocess.Popen(words, cwd=HERE, stdout=stderr, stderr=stderr)
    server = Gate(process, ("127.0.0.1", port), log)
    try:
        await_listening(server)
        yield server
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[Gate]:
    """The real one, in gevent's own server."""
    with program(tmp_path_factory.mktemp("real") / "stderr.txt", "-c", f"import runpy, sys; {PROGRAM}") as server:
        yield server


@pytest.fixture(scope="module")
def command_line(module_gate) -> Gate:
    return module_gate("geventwebsocket_app:application", "--compat", "geventwebsocket", "--ws-close-timeout", "1")


@pytest.fixture(scope="module")
def websocket_server(tmp_path_factory) -> Iterator[Gate]:
    with program(tmp_path_factory.mktemp("ours") / "stderr.txt", "-c", INSTALLED + PROGRAM) as server:
        yield server


@pytest.fixture(scope="module", params=["command_line", "websocket_server"])
def ours(request) -> Gate:
    return request.getfixturevalue(request.param)


def seen(server: Gate, case: str) -> list[list[object]]:
    """What the application saw of *case*, once it has ended."""
    until = time.monotonic() + WAIT
    while True:
        ended, values, is_websocket = httpx.get(f"{server.url}/seen/{case}", trust_env=False).json()
        assert not is_websocket
        if ended:
            return values
        assert time.monotonic() < until, f"{case} has not ended: {values}\n{server.stderr()}"
        time.sleep(0.02)


BYE = frame(CLOSE, b"\x03\xe8")

# name: (kind, path behind the case, what the client says, fields); both are to answer alike
CASES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "kinds of messages": (
        "receive_all", frame(TEXT, b"text") + frame(BINARY, b"\x00\xff") + frame(TEXT) + frame(BINARY) + BYE, (),
    ),
    "a large message": ("receive_all", frame(BINARY, bytes(100_000)) + BYE, ()),
    "fragments, and a ping between": (
        "receive_all",
        frame(TEXT, "ü".encode()[:1], fin=False) + frame(PING, b"are you there")
        + frame(0, "ü".encode()[1:], fin=False) + frame(0) + BYE,
        (),
    ),
    "a pong nobody asked for": ("receive_all", frame(PONG, b"x") + frame(TEXT, b"y") + BYE, ()),
    "a Close of the peer": ("receive_all", BYE, ()),
    "a Close without a code": ("receive_all", frame(CLOSE), ()),
    "a Close with a reason": ("receive_all", frame(CLOSE, b"\x0f\xa0going away"), ()),
    "no Close": ("receive_all", frame(TEXT, b"last words"), ()),
    "nothing at all": ("receive_all", b"", ()),
    "an end within a frame": ("receive_all", frame(TEXT, b"cut")[:-1], ()),
    "an end within a head": ("receive_all", frame(TEXT, b"cut")[:1], ()),
    "an end within a message": ("receive_all", frame(TEXT, b"cut", fin=False), ()),
    "text that is not UTF-8": ("receive_all", frame(TEXT, b"\xff\xfe") + frame(TEXT, b"more"), ()),
    "reserved bits": ("receive_all", frame(TEXT, b"x", rsv=1), ()),
    "an unknown opcode": ("receive_all", frame(3), ()),
    "a continuation of nothing": ("receive_all", frame(0, b"x"), ()),
    "a message within a message": ("receive_all", frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), ()),
    "a control frame in pieces": ("receive_all", frame(PING, b"x", fin=False), ()),
    "a large control frame": ("receive_all", frame(PING, bytes(126)), ()),
    "a close code that cannot be": ("receive_all", frame(CLOSE, b"\x03\xed"), ()),
    "what it is": ("properties", b"", ("Sec-WebSocket-Protocol: foo, bar",)),
    "errors": ("errors", b"", ()),
    "sending": ("send", b"", ()),
    "closing": ("close", b"", ()),
    "closing oddly": ("close_oddly", b"", ()),
    "sending to nobody": ("send_to_nobody", BYE, ()),
    "an application of a Resource": ("resource/noting", frame(TEXT, b"x") + BYE, ()),
    "one that does not end with a Close": ("resource/noting", frame(TEXT, b"x"), ()),
    "one that closes": ("resource/noting", frame(TEXT, b"close"), ()),
    "a subprotocol": ("resource/chosen", BYE, ("Sec-WebSocket-Protocol: other, chosen",)),
    "no common subprotocol": ("resource/chosen", BYE, ("Sec-WebSocket-Protocol: other",)),
    "a loop": ("loop", frame(TEXT, b"a") + frame(BINARY, b"b") + BYE, ()),
}  # fmt: skip


def run_case(server: Gate, name: str) -> tuple[Answer, list[list[object]]]:
    kind, said, fields = CASES[name]
    case = f"case{next(numbers)}"
    answer = talk(server, f"/{kind}/{case}?a=b", said, *fields)
    return answer, [[value.replace(case, "CASE") if isinstance(value, str) else value for value in values]
                    for values in seen(server, case)]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_the_real_one(real, ours, name):
    wanted, wanted_seen = run_case(real, name)
    answer, values = run_case(ours, name)
    assert values == wanted_seen
    assert answer.frames == wanted.frames
    assert "101" in answer.status
    assert "101" in wanted.status
    for name in ("sec-websocket-accept", "sec-websocket-protocol"):
        assert answer.fields.get(name) == wanted.fields.get(name)


@dataclass
class Outcome:
    """What a client and the application have seen."""

    status: int
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    closes: list[bytes] = field(default_factory=list)
    seen: list[list[object]] = field(default_factory=list)


CLOSED = ["WebSocketError: Connection is already closed", True]
OVER = [["NoneType None", True], CLOSED]  # what receive_all() sees of the end
FOREIGN = "Origin: https://elsewhere.example"

# name: (path, what the client says, fields, what the real one does, what ours does)
DIFFERENCES: dict[str, tuple[str, bytes, tuple[str, ...], Outcome, Outcome]] = {
    "the peer's close code is echoed": (
        "/receive_all/{}", frame(CLOSE, b"\x0f\xa1"), (),
        Outcome(101, [], [b""], OVER), Outcome(101, [], [b"\x0f\xa1"], OVER),
    ),
    "our close code and reason are sent": (  # a Close of one reason and no code is none (RFC 6455 §5.5.1)
        "/close_with_code/{}", b"", (), Outcome(101, [], [b"enough"]), Outcome(101, [], [b"\x0f\xa0enough"]),
    ),
    "faults have a close code": (
        "/receive_all/{}", frame(TEXT, b"\xff"), (),
        Outcome(101, [], [b""], OVER), Outcome(101, [], [b"\x03\xefthe text is not UTF-8"], OVER),
    ),
    "unmasked frames are refused": (
        "/receive_all/{}", frame(TEXT, b"x", mask=b"") + BYE, (),
        Outcome(101, [], [b""], [["str 'x'", False], *OVER]),
        Outcome(101, [], [b"\x03\xeaserver received unexpected unmasked frame"], OVER),
    ),
    "messages have a limit": (
        "/receive_all/{}", frame(BINARY, bytes(126))[:2] + (1 << 30).to_bytes(8, "big") + MASK, (),
        Outcome(101, [], [b""], OVER), Outcome(101, [], [b"\x03\xf1the message is too big"], OVER),
    ),
    "text can be sent as binary": (
        "/text_as_binary/{}", b"", (),
        Outcome(101, [], [b""], [["TypeError: string argument without an encoding"]]),
        Outcome(101, [(BINARY, b"text")], [b"\x03\xe8"], [["NoneType None"]]),
    ),
    "bytes sent as text are UTF-8": (
        "/binary_as_text/{}", b"", (),
        Outcome(101, [(TEXT, b"b'bytes'")], [b""], [["NoneType None"]]),
        Outcome(101, [(TEXT, b"bytes")], [b"\x03\xe8"], [["NoneType None"]]),
    ),
    "the environ outlives the Close": (
        "/environ_once_closed/{}", b"", (),
        Outcome(101, [], [b""], [[True, True]]), Outcome(101, [], [b"\x03\xe8"], [[False, False]]),
    ),
    "on_close() is called when on_message() finds it closed": (
        "/resource/plain/{}", frame(TEXT, b"x") + BYE, (),
        Outcome(101, [(TEXT, b"x")], [b""], [["open", True, True], ["message", "x"], ["message", None]]),
        Outcome(
            101, [(TEXT, b"x")], [b"\x03\xe8"],
            [["open", True, True], ["message", "x"], ["message", None], ["close", None]],
        ),
    ),
    "pages of other origins are refused": (
        "/receive_all/{}", BYE, (FOREIGN,), Outcome(101, [], [b""], OVER), Outcome(403),
    ),
    "a Resource without an application for the path is 404": (
        "/few/none", b"", (), Outcome(101, [], [b""]), Outcome(404),
    ),
    "drafts are refused": (
        "/receive_all/{}", BYE, ("Sec-WebSocket-Version: 8",), Outcome(101, [], [b""], OVER), Outcome(426),
    ),
}  # fmt: skip


def observe(server: Gate, path: str, said: bytes, fields: tuple[str, ...]) -> Outcome:
    case = f"case{next(numbers)}"
    answer = talk(server, path.format(case), said, *fields)
    status = int(answer.status.split()[1])
    values = seen(server, case) if status == 101 and "{}" in path else []
    return Outcome(status, answer.frames, answer.closes, values)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_other_than_the_real_one(real, ours, name):
    path, said, fields, theirs, wanted = DIFFERENCES[name]
    assert observe(ours, path, said, fields) == wanted
    assert observe(real, path, said, fields) == theirs


def test_the_101_comes_before_the_application_does_anything(real, ours):
    """It keeps the WebSocket for another to send on, and waits."""
    for server in (real, ours):
        kept = Peer(server, "/keep/kept")
        with kept.socket:
            assert "101" in kept.head()[0]
            talk(server, "/tell_kept/teller", b"")
            assert kept.until(16) == [(TEXT, b"from elsewhere")]


def test_what_it_returns_is_run_and_dropped(real, ours):
    for server in (real, ours):
        assert talk(server, "/yielding", b"").frames == [(TEXT, b"from a generator")]
        assert "101" in talk(server, "/nothing", b"").status


def test_other_requests_are_as_ever(real, ours):
    for server in (real, ours):
        for path in ("/resource/any", "/loop/none"):
            answer = httpx.get(server.url + path, trust_env=False)
            assert (answer.status_code, answer.text) == (400, "a WebSocket, please")


def test_a_resource_without_an_application_for_a_request(ours):
    answer = httpx.get(ours.url + "/few/one", trust_env=False)
    assert (answer.status_code, answer.text) == (404, "Nothing is here.\n")


def test_an_application_that_fails(gate):
    server = gate("geventwebsocket_app:application", "--compat", "geventwebsocket", tracebacks=1)
    assert talk(server, "/fail/it", b"").closes == [b"\x03\xf3"]


def test_two_websockets_of_one_connection(gate):
    """Over HTTP/2; both are among the clients."""
    server = gate("geventwebsocket_app:application", "--compat", "geventwebsocket", "--h2c")
    with Http2Client(server.url) as client:
        first = Http2WebSocketClient(client, "/loop/first")
        second = Http2WebSocketClient(client, "/clients/second")
        assert json.loads(second.receive()) == [2, 3]
        first.send("still here")
        assert first.receive() == "still here"
        first.close()
        second.close()


# Its README, with Python 3's print


LOW_LEVEL = """
from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler

def websocket_app(environ, start_response):
    if environ["PATH_INFO"] == '/echo':
        ws = environ["wsgi.websocket"]
        message = ws.receive()
        ws.send(message)

if __name__ == "__main__":
    server = pywsgi.WSGIServer(("", PORT), websocket_app,
        handler_class=WebSocketHandler)
    server.serve_forever()
"""

RESOURCE = """
from geventwebsocket import WebSocketServer, WebSocketApplication, Resource

class EchoApplication(WebSocketApplication):
    def on_open(self):
        print("Connection opened", flush=True)

    def on_message(self, message):
        self.ws.send(message)

    def on_close(self, reason):
        print(reason, flush=True)

if __name__ == "__main__":
    WebSocketServer(
        ('', PORT),
        Resource({'/': EchoApplication})
    ).serve_forever()
application = Resource({'/': EchoApplication})
"""

START = "import runpy, sys; from geventgate import compat; {}runpy.run_path('app.py', run_name='__main__')"
INSTALL = "compat.install('geventwebsocket'); "


@pytest.mark.parametrize("install", ["", INSTALL], ids=["real", "ours"])
@pytest.mark.parametrize("text", [LOW_LEVEL, RESOURCE], ids=["low level", "resource"])
def test_readme_as_a_program(tmp_path, text, install):
    port = free_port()
    (tmp_path / "app.py").write_text(text.replace("PORT", str(port)))
    log = tmp_path / "stderr.txt"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", START.format(install)], cwd=tmp_path, stdout=stderr, stderr=stderr
        )
    try:
        server = Gate(process, ("127.0.0.1", port), log)
        await_listening(server)
        assert talk(server, "/echo", frame(TEXT, b"hello") + BYE).frames == [(TEXT, b"hello")]
    finally:
        process.kill()
        process.wait()
    if install:
        assert "Traceback" not in server.stderr()


@pytest.mark.parametrize(("text", "target"), [(LOW_LEVEL, "app:websocket_app"), (RESOURCE, "app")])
def test_readme_by_the_command_line(tmp_path, gate, text, target):
    (tmp_path / "app.py").write_text(text)
    server = gate(target, "--compat", "geventwebsocket", chdir=tmp_path)
    assert talk(server, "/echo", frame(TEXT, b"hello") + BYE).frames == [(TEXT, b"hello")]


def test_gunicorns_worker(tmp_path):
    """The name of its worker class, once the shim is installed by gunicorn's settings."""
    port = free_port()
    settings = tmp_path / "settings.py"
    settings.write_text("from geventgate import compat\ncompat.install('geventwebsocket')\n")
    log = tmp_path / "stderr.txt"
    command = [
        sys.executable, "-m", "gunicorn", "--config", str(settings), "--bind", f"127.0.0.1:{port}",
        "--worker-class", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "geventwebsocket_app:application",
    ]  # fmt: skip
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=HERE, stdout=stderr, stderr=stderr)
    server = Gate(process, ("127.0.0.1", port), log)
    try:
        await_listening(server)
        for name in ("what it is", "an application of a Resource"):
            _, said = run_case(server, name)
            assert said, name
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in server.stderr()


# In memory


class Native:
    """Our WebSocket, whose pump has taken messages and a Close ahead of its application."""

    closed = True

    def __init__(self) -> None:
        self.messages = ["first", b"second"]

    @property
    def ahead(self) -> int:
        return len(self.messages)

    def receive(self) -> object:
        return self.messages.pop(0) if self.messages else None


def test_what_came_before_the_close_is_received():
    ws = upgrade.WebSocket(Native(), {}, upgrade.RequestHandler(upgrade.Host(print), {}))
    received = []
    while not ws.closed:
        received.append(ws.receive())
    assert received == ["first", bytearray(b"second")]
    assert ws.receive() is None
    with pytest.raises(WebSocketError, match="already closed"):
        ws.receive()


def test_our_names_are_there_too():
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        for message in ws:
            ws.send(message)
        told.append((ws.close_code, ws.subprotocols, list(ws), ws.stream))
        ws.close()

    told = []
    with running(upgrade.wrap(application)) as ours, WebSocketClient(ours.url, subprotocols=["a", "b"]) as ws:
        ws.send("x")
        assert ws.receive() == "x"
        ws.send(b"x")
        assert ws.receive() == b"x"
        ws.close(4001)
    assert told == [(4001, ("a", "b"), [], None)]


def test_frames():
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.send_frame("text", ws.OPCODE_TEXT)
        with pytest.raises(ApplicationError, match="no frame of opcode 0"):
            ws.send_frame("rest", ws.OPCODE_CONTINUATION)
        ws.send_frame("bye", ws.OPCODE_CLOSE)

    with running(upgrade.wrap(application)) as ours, WebSocketClient(ours.url) as ws:
        assert [ws.receive(), ws.receive(), ws.close_code, ws.close_reason] == ["text", None, 1000, "bye"]


def test_an_error_of_an_applications_own():
    """It is not taken for the WebSocket's end."""
    closed = []

    class Failing(WebSocketApplication):
        def on_message(self, message):
            raise WebSocketError("of another WebSocket")

        def on_close(self, reason):
            closed.append(reason)

    with running(upgrade.wrap(Resource({"/": Failing}))) as ours, WebSocketClient(ours.url) as ws:
        ws.send("x")
        assert (ws.receive(), ws.close_code) == (None, 1011)
    assert closed == []


def test_a_protocol_without_its_websocket():
    protocol = WebSocketApplication.__new__(WebSocketApplication).protocol_class(object())
    assert (protocol.handler, protocol.server) == (None, None)


class Hooked:
    """A server with a hook, as WebSocketServer takes it."""

    def __init__(self, application) -> None:
        self.application = application
        self.asked = []

    def pre_start_hook(self, handler) -> bool:
        self.asked.append(handler.environ["PATH_INFO"])
        return handler.environ["PATH_INFO"] == "/plain"


def test_pre_start_hook():
    def application(environ, start_response):
        if "wsgi.websocket" in environ:
            environ["wsgi.websocket"].send("a WebSocket")
            return None
        start_response("200 OK", [])
        return [b"an ordinary request"]

    server = Hooked(application)
    with running(upgrade.wrap(application, server)) as ours:
        with WebSocketClient(ours.url, "/echo") as ws:
            assert ws.receive() == "a WebSocket"
        with pytest.raises(Refused) as refused:
            WebSocketClient(ours.url, "/plain")
        assert (refused.value.status, refused.value.content) == (200, b"an ordinary request")
    assert server.asked == ["/echo", "/plain"]
    assert server.clients == {}


def test_a_server_may_own_its_wrapped_application():
    """No cycle, which a weak dictionary of servers could not get rid of."""
    server = Hooked(print)
    wrapped = upgrade.wrap(print, server)
    gone = weakref.ref(server)
    del server
    assert gone() is None
    assert upgrade.wrap(wrapped) is wrapped


def test_clients_come_and_go_in_a_broadcast():
    clients = upgrade.Clients({("a", 1): upgrade.Client(("a", 1), None)})
    for client in clients.values():
        clients["b", 2] = client
    for _ in clients.items():
        clients["c", 3] = client
    assert len(clients) == 3


def test_create_logger(capsys):
    quiet, loud = create_logger("compat.quiet"), create_logger("compat.loud", True, "%(levelname)s: %(message)s")
    quiet.debug("nobody")
    loud.debug("somebody")
    assert capsys.readouterr().err == "DEBUG: somebody\n"
