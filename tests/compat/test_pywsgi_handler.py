"""Our handler inside gevent's own pywsgi.WSGIServer: HTTP, WebSockets, TLS, its Pool, its end."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
import gevent.ssl
import pytest
import socketio
from gevent import get_hub, pywsgi, socket
from gevent.event import Event

from geventgate.compat.pywsgi import WebSocketHandler
from geventgate.config import Config
from geventgate.testing import WebSocketClient
from tests.conftest import Authority, await_listening, free_port

PATIENCE = 10.0  # seconds for what takes milliseconds
TESTS = Path(__file__).parent


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/ws":
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []
    if path == "/hijack":
        connection, unread = environ["geventgate.hijack"]()
        connection.sendall(b"mine " + unread + connection.recv(10))
        connection.close()
        return []
    start_response("200 OK", [])
    if path == "/echo":
        return [environ["wsgi.input"].read()]
    if path == "/environ":
        return [json.dumps({key: repr(value) for key, value in environ.items()}).encode()]
    return [b"hello"]


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    told: list[Any] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda *error: told.append(error), raising=False)
    gevent.sleep(0)
    before = get_hub().loop.activecnt
    yield
    assert told == []
    until = time.monotonic() + PATIENCE
    while get_hub().loop.activecnt > before and time.monotonic() < until:
        gevent.sleep(0.01)
    assert get_hub().loop.activecnt <= before, "a watcher was left in the hub"


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Any] = []

    def start(app: Any = application, **options: Any) -> Any:
        options = {"log": None, "handler_class": WebSocketHandler, **options}
        server = pywsgi.WSGIServer(("127.0.0.1", 0), app, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


def connect(server: Any) -> Any:
    return socket.create_connection(("127.0.0.1", server.server_port), PATIENCE)


def get(path: str, fields: str = "Connection: close\r\n") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()


def ask(server: Any, path: str = "/") -> bytes:
    with connect(server) as peer:
        peer.sendall(get(path))
        answer: bytes = peer.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("spawn", ["default", 5, gevent.spawn_raw], ids=["default", "pool", "raw"])
def test_http_and_websockets(serve: Serve, spawn: Any) -> None:
    server = serve(spawn=spawn)
    assert ask(server) == b"hello"
    with connect(server) as peer:
        peer.sendall(get("/", "") + get("/", "") + get("/"))  # one behind the other
        assert peer.makefile("rb").read().count(b"\r\n\r\nhello") == 3
    with connect(server) as peer:
        peer.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 500000\r\n\r\n")
        peer.sendall(b"x" * 500_000)
        assert peer.makefile("rb").read().endswith(b"x" * 500_000)
    with WebSocketClient(f"ws://127.0.0.1:{server.server_port}", "/ws") as ws:
        for message in ("text", b"binary" * 100_000):
            ws.send(message)
            assert ws.receive() == message


def test_the_environ_is_the_servers(serve: Serve) -> None:
    server = serve(environ={"mine": "yes", "wsgi.url_scheme": "https"})
    environ = json.loads(ask(server, "/environ"))
    assert environ["mine"] == "'yes'"
    assert environ["wsgi.url_scheme"] == "'https'"
    assert environ["SERVER_NAME"] == repr(server.environ["SERVER_NAME"])
    assert environ["SERVER_SOFTWARE"].startswith("'gevent/")
    assert environ["REMOTE_ADDR"] == "'127.0.0.1'"
    assert environ["geventgate.request"] == "<Request GET b'/environ'>"


def test_logs_are_the_servers(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mine")
    server = serve(log=logging.getLogger("mine"), error_log=logging.getLogger("mine.errors"))
    ask(server)
    with connect(server) as peer:
        peer.sendall(b"nonsense\r\n\r\n")
        assert peer.recv(1000).startswith(b"HTTP/1.1 400 ")
    gevent.sleep(0.01)
    assert '"GET / HTTP/1.1" 200 5 ' in caplog.text
    assert ": 400: " in caplog.text


def test_hijack(serve: Serve) -> None:
    with connect(serve()) as peer:
        peer.sendall(get("/hijack", "") + b"early")
        gevent.sleep(0.05)
        peer.sendall(b" late")
        assert peer.makefile("rb").read() == b"mine early late"


def test_times(serve: Serve) -> None:
    class Handler(WebSocketHandler):
        config = Config(head_timeout=0.5, keep_alive=0.5)

    server = serve(handler_class=Handler)
    with connect(server) as slow, connect(server) as idle, connect(server) as kept:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        idle.sendall(get("/", ""))
        assert idle.recv(1000).endswith(b"hello")
        until = time.monotonic() + 2.2  # longer than an idle connection keeps its greenlet
        while time.monotonic() < until:
            kept.sendall(get("/", ""))
            assert kept.recv(1000).endswith(b"hello")
            gevent.sleep(0.3)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert idle.recv(1000) == b""


def test_an_idle_connection_is_served_again(serve: Serve) -> None:
    """Its greenlet is given back after two seconds."""
    with connect(serve()) as peer:
        for pause in (3.2, 0.0):
            peer.sendall(get("/", ""))
            assert peer.recv(1000).endswith(b"hello")
            gevent.sleep(pause)


# --- its end


@pytest.mark.parametrize("spawn", ["default", 5])
def test_stop_closes_websockets_and_idle_connections(serve: Serve, spawn: Any) -> None:
    server = serve(spawn=spawn)
    with connect(server) as idle, WebSocketClient(f"ws://127.0.0.1:{server.server_port}", "/ws") as ws:
        idle.sendall(get("/", ""))
        assert idle.recv(1000).endswith(b"hello")
        ws.send("hello")
        assert ws.receive() == "hello"
        stopped = gevent.spawn(server.stop, PATIENCE)
        assert ws.receive() is None
        assert ws.close_code == 1001
        assert idle.recv(1000) == b""
    stopped.get(timeout=PATIENCE)


def test_a_killed_pool(serve: Serve) -> None:
    """What its greenlets wait for is cut, and has ended when they have."""
    began, ended = Event(), Event()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        began.set()
        try:
            gevent.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    server = serve(app, spawn=5)
    with connect(server) as peer:
        peer.sendall(get("/"))
        assert began.wait(PATIENCE)
        server.stop(0.05)
        assert ended.is_set()
        assert len(server.pool) == 0
        with suppress(ConnectionResetError):
            assert peer.recv(1000) == b""


def test_started_again(serve: Serve) -> None:
    server = serve()
    for _ in range(3):
        assert ask(server) == b"hello"
        with WebSocketClient(f"ws://127.0.0.1:{server.server_port}", "/ws") as ws:
            ws.send("hello")
            assert ws.receive() == "hello"
        server.stop()
        gevent.sleep(0.01)
        server.start()


def test_a_server_that_is_gone_leaves_nothing() -> None:
    import gc
    import weakref

    server = pywsgi.WSGIServer(("127.0.0.1", 0), application, log=None, handler_class=WebSocketHandler)
    server.start()
    assert ask(server) == b"hello"
    server.stop()
    gevent.sleep(0.01)
    gone = weakref.ref(server)
    del server
    gc.collect()
    assert gone() is None


def test_peers_that_go_at_once(serve: Serve) -> None:
    server = serve()
    for _ in range(20):
        peer = connect(server)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
    assert ask(server) == b"hello"


# --- TLS


@pytest.fixture
def secure(serve: Serve, authority: Authority, tmp_path: Path) -> Any:
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    (tmp_path / "file").write_bytes(b"f" * 300_000)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/file":
            start_response("200 OK", [])
            return environ["wsgi.file_wrapper"](open(tmp_path / "file", "rb"))  # type: ignore[no-any-return]
        if environ["PATH_INFO"] == "/half":
            tunnel = environ["geventgate.upgrade"]()
            while data := tunnel.recv(1000):
                tunnel.sendall(data.upper())
            return []
        return application(environ, start_response)

    return serve(app, ssl_context=context)


def connect_tls(server: Any, authority: Authority) -> Any:
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_certs)
    return context.wrap_socket(connect(server), server_hostname="localhost")


def test_tls(secure: Any, authority: Authority) -> None:
    with connect_tls(secure, authority) as peer:
        peer.sendall(get("/environ"))
        environ = json.loads(peer.makefile("rb").read().partition(b"\r\n\r\n")[2])
    assert environ["wsgi.url_scheme"] == "'https'"
    assert environ["SSL_PROTOCOL"] == "'TLSv1.3'"
    with connect_tls(secure, authority) as peer:
        peer.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        peer.sendall(get("/file"))
        answers = peer.makefile("rb").read()
    assert b"\r\n\r\n" + b"x" * 3_000_000 + b"HTTP/1.1 200 " in answers
    assert answers.endswith(b"\r\n\r\n" + b"f" * 300_000)


def test_websockets_over_tls(secure: Any, authority: Authority) -> None:
    with WebSocketClient(f"wss://localhost:{secure.server_port}", "/ws", ca_certs=authority.ca_certs) as ws:
        for message in ("text", b"binary" * 300_000, "text"):
            ws.send(message)
            assert ws.receive() == message


def test_a_tunnel_over_tls(secure: Any, authority: Authority) -> None:
    with connect_tls(secure, authority) as peer:
        peer.sendall(get("/half", "Connection: upgrade\r\nUpgrade: shout\r\n") + b"early")
        file = peer.makefile("rb")
        assert file.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while file.readline() != b"\r\n":
            pass
        assert file.read(5) == b"EARLY"
        peer.sendall(b"later")
        assert file.read(5) == b"LATER"
        with suppress(OSError):
            peer.unwrap()


def test_a_peer_that_goes_amid_tls(secure: Any, authority: Authority) -> None:
    peer = connect_tls(secure, authority)
    peer.sendall(get("/file", "") * 50)
    gevent.sleep(0.05)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    with connect_tls(secure, authority) as peer:
        peer.sendall(get("/"))
        assert peer.makefile("rb").read().endswith(b"hello")


# --- programs as they are written for it


class Program:
    """A running program that listens on a port."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def stderr(self) -> str:
        return self._log.read_text(errors="replace")

    def connect(self, timeout: float) -> Any:
        return socket.create_connection(("127.0.0.1", self.port), timeout)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Runs the text of a program, which is told its PORT, and ends it; it must have said no traceback."""
    programs: list[Program] = []

    def start(text: str) -> Program:
        port = free_port()
        (tmp_path / "program.py").write_text(text.replace("PORT", str(port)))
        log = tmp_path / "stderr.txt"
        with log.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, stdout=stderr, stderr=stderr)
        programs.append(Program(process, port, log))
        await_listening(programs[-1])  # type: ignore[arg-type]
        return programs[-1]

    yield start
    for one in programs:
        one.process.terminate()
        one.process.wait(PATIENCE)
        assert "Traceback" not in one.stderr()


FLASK = """\
from gevent import monkey; monkey.patch_all()
from geventgate.compat import install; install("geventwebsocket")

from flask import Flask, request
from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler

app = Flask(__name__)

@app.route("/")
def index():
    return "hello"

@app.route("/echo", websocket=True)
def echo():
    ws = request.environ["wsgi.websocket"]
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(message)
    return ""

pywsgi.WSGIServer(("127.0.0.1", PORT), app, handler_class=WebSocketHandler).serve_forever()
"""

SOCKETIO = """\
from gevent import monkey; monkey.patch_all()
from geventgate.compat import install; install("geventwebsocket")

from flask import Flask
from flask_socketio import SocketIO, emit

app = Flask(__name__)
socketio = SocketIO(app, async_mode="gevent", cors_allowed_origins="*")

@socketio.on("shout")
def shout(text):
    emit("shouted", text.upper(), broadcast=True)

socketio.run(app, host="127.0.0.1", port=PORT)
"""


def test_flask_in_gevents_server(program: Callable[[str], Program]) -> None:
    running = program(FLASK)
    with running.connect(PATIENCE) as peer:
        peer.sendall(get("/"))
        answer = peer.makefile("rb").read()
    assert answer.endswith(b"hello")
    assert b"\r\nServer: geventgate\r\n" in answer
    with WebSocketClient(f"ws://127.0.0.1:{running.port}", "/echo") as ws:
        for message in ("text", b"binary"):
            ws.send(message)
            assert ws.receive() == message
    until = time.monotonic() + PATIENCE
    while '"GET /echo HTTP/1.1" 101 ' not in running.stderr() and time.monotonic() < until:
        gevent.sleep(0.01)
    assert '"GET /echo HTTP/1.1" 101 ' in running.stderr()


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_socketio_run(program: Callable[[str], Program], transports: list[str]) -> None:
    running = program(SOCKETIO)
    client, other = socketio.SimpleClient(), socketio.SimpleClient()
    for one in (client, other):
        one.connect(f"http://127.0.0.1:{running.port}", transports=transports, wait_timeout=10)
    try:
        assert client.transport == transports[-1]
        client.emit("shout", "hello" * 10_000)
        assert other.receive(timeout=10) == ["shouted", "HELLO" * 10_000]
    finally:
        for one in (client, other):
            one.disconnect()
