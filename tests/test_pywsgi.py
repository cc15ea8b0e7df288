"""geventgate.pywsgi.WSGIServer: gevent's own tests pass with it, and what it does beyond gevent's is ours."""

import http.client
import io
import json
import logging
import os
import signal
import socket as plain_socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
import gevent.ssl
import pytest
from gevent import get_hub, socket
from gevent import pywsgi as gevents
from gevent.event import Event

from geventgate import pywsgi
from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.pywsgi import WebSocketHandler, WSGIServer
from geventgate.testing import Http2Client, WebSocketClient
from tests.conftest import Authority, free_port

PATIENCE = 10.0  # seconds for what takes milliseconds
ROOT = Path(__file__).parent.parent

# --- gevent's tests

# What does not pass, and why. Who passes must not be here.
DIFFERS = {
    "ChunkedInputTests.test_chunked_readline": "Content-Length beside Transfer-Encoding: 400 (RFC 9112 §6.3)",
    "ChunkedInputTests.test_close_before_finished": "looks for the application's OSError in the hub",
    "ChunkedInputTests.test_dirt": "a NUL in a chunk extension: 400",
    "ChunkedInputTests.test_short_read_with_content_length": "Content-Length beside Transfer-Encoding: 400",
    "ChunkedInputTests.test_short_read_with_zero_content_length": "Content-Length beside Transfer-Encoding: 400",
    "Expect100ContinueTests.test_continue": "content that was never asked for ends the connection (RFC 9110 §10.1.1)",
    "MultipleCookieHeadersTest.test": "joins Cookie2, which nobody sends, as it does Cookie",
    "TestBody304.test_err": "content of a 304 is dropped and logged, not appended to the answer as an error",
    "TestConnectionUpgrades.test_connection_upgrade": "101 is said by geventgate.upgrade, not by start_response()",
    "TestConnectionUpgrades.test_upgrade_websocket": "101 is said by geventgate.upgrade, not by start_response()",
    "TestContentLength304.test_err": "a Content-Length of a 304 is right (RFC 9110 §8.6)",
    "TestEmptyYield.test_err": "nothing is sent as Content-Length: 0, not as an empty chunked body",
    "TestErrorAfterChunk.test": "looks for the application's error in the hub",
    "TestErrorInApplication.test": "looks for the application's error in the hub",
    "TestError_after_start_response.test": "looks for the application's error in the hub",
    "TestHandlerSubclass.test": "overrides how gevent's handler reads a request line",
    "TestMultiLineHeader.test_multiline_116": "obsolete line folding: 400 (RFC 9112 §5.2)",
    "TestNonLatin1HeaderFromApplication.test": "bytes are taken as fields",
    "TestNonLatin1UnicodeHeaderFromApplication.test": "looks for the application's error in the hub",
    "TestWrite304.test_err": "write() of a text to a 304 raises another error",
}  # fmt: skip


def test_gevents_own_tests() -> None:
    ran = subprocess.run(
        [sys.executable, "tests/gevent_suite.py"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    ends = json.loads(ran.stdout[ran.stdout.index("{\n") :])
    skipped = [name for name, why in ends.items() if why.startswith("skipped")]
    failed = {name: why for name, why in ends.items() if why and name not in skipped}
    assert sorted(failed.keys() - DIFFERS.keys()) == [], "\n".join(
        failed[name] for name in failed.keys() - DIFFERS.keys()
    )
    assert sorted(DIFFERS.keys() - failed.keys()) == [], "these pass now"
    assert {name.partition(".")[2] for name in skipped} == {"test_006_reject_long_urls"}  # gevent skips it
    assert len(ends) - len(failed) - len(skipped) >= 93


# --- servers in this process, which is not patched


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/ws":
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []
    if path == "/fail":
        raise ValueError("on purpose")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/environ":
        return [json.dumps({key: repr(value) for key, value in environ.items()}).encode()]
    if path == "/echo":
        return [environ["wsgi.input"].read()]
    if path == "/list":
        return [b"one ", bytearray(b"two")]
    return [b"hello"]


@pytest.fixture(autouse=True)
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the hub was told of exceptions nobody caught. At the end there must be none, and no watcher left."""
    told: list[Any] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda *error: told.append(error), raising=False)
    gevent.sleep(0)
    before = get_hub().loop.activecnt
    yield told
    assert told == []
    until = time.monotonic() + PATIENCE
    while get_hub().loop.activecnt > before and time.monotonic() < until:
        gevent.sleep(0.01)
    assert get_hub().loop.activecnt <= before, "a watcher was left in the hub"


Serve = Callable[..., WSGIServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers on a free port, silent ones; stops them at the end."""
    servers: list[WSGIServer] = []

    def start(app: Any = application, listener: Any = ("127.0.0.1", 0), **options: Any) -> WSGIServer:
        server = WSGIServer(listener, app, **{"log": None, **options})
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


class Client(http.client.HTTPConnection):
    """An HTTP/1.1 connection on gevent's socket; with *context*, over TLS."""

    def __init__(self, server: WSGIServer, context: Any = None) -> None:
        address = server.address
        super().__init__("localhost", timeout=PATIENCE)
        if isinstance(address, tuple):
            self.sock = socket.create_connection(("127.0.0.1", address[1]), PATIENCE)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(address)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

    def ask(self, path: str = "/", content: bytes | None = None, **fields: str) -> tuple[int, bytes]:
        self.request("GET" if content is None else "POST", path, content, fields)
        response = self.getresponse()
        return response.status, response.read()


@contextmanager
def client(server: WSGIServer, context: Any = None) -> Iterator[Client]:
    peer = Client(server, context)
    try:
        yield peer
    finally:
        peer.close()


def ask(server: WSGIServer, path: str = "/", content: bytes | None = None, **fields: str) -> tuple[int, bytes]:
    with client(server) as peer:
        return peer.ask(path, content, **fields)


def environ_of(server: WSGIServer, **fields: str) -> dict[str, str]:
    return json.loads(ask(server, "/environ", **fields)[1])  # type: ignore[no-any-return]


# --- where it listens


def listening(kind: Any, family: int, address: Any) -> Any:
    sock = kind(family)
    sock.bind(address)
    sock.listen()
    return sock


@pytest.mark.parametrize(
    "listener",
    [
        lambda folder: ("127.0.0.1", 0),
        lambda folder: ("", 0),
        lambda folder: "127.0.0.1:0",
        lambda folder: ":0",
        lambda folder: "0",
        lambda folder: 0,
        lambda folder: listening(socket.socket, socket.AF_INET, ("127.0.0.1", 0)),
        lambda folder: listening(plain_socket.socket, socket.AF_INET, ("127.0.0.1", 0)),
        lambda folder: listening(socket.socket, socket.AF_UNIX, str(folder / "socket")),
    ],
    ids=["tuple", "all", "text", "port in text", "digits", "port", "gevent's socket", "socket", "unix socket"],
)
@pytest.mark.parametrize("spawn", ["default", 10])
def test_listeners(serve: Serve, listener: Callable[[Path], Any], spawn: Any, tmp_path: Path) -> None:
    server = serve(listener=listener(tmp_path), spawn=spawn)
    assert ask(server) == (200, b"hello")
    if server.family == socket.AF_UNIX:
        assert server.server_host is server.server_port is None
        assert server.address == str(tmp_path / "socket")
    else:
        assert server.server_port == server.address[1] > 0
        assert server.server_host == server.address[0]


@pytest.mark.parametrize(
    ("listener", "error"),
    [("localhost", ValueError), ("localhost:http", ValueError), (object(), TypeError), (1.5, TypeError)],
)
def test_what_is_no_listener(listener: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        WSGIServer(listener, application)


def test_a_port_in_use(serve: Serve) -> None:
    taken = serve()
    server = WSGIServer(("127.0.0.1", taken.server_port), application)
    with pytest.raises(OSError, match="in use"):
        server.start()
    assert not server.started
    assert server.closed


# --- who serves


@pytest.mark.parametrize(
    "spawn",
    ["default", "raw", 3, gevent.pool.Pool(3), gevent.spawn, gevent.spawn_raw],
    ids=["default", "raw", "number", "pool", "spawn", "spawn_raw"],
)
def test_spawn(serve: Serve, spawn: Any) -> None:
    server = serve(spawn=spawn)
    with client(server) as peer:
        for _ in range(3):  # kept alive
            assert peer.ask() == (200, b"hello")
        assert peer.ask("/echo", b"x" * 100_000) == (200, b"x" * 100_000)
    with WebSocketClient(f"ws://127.0.0.1:{server.server_port}", "/ws") as ws:
        ws.send("text")
        ws.send(b"y" * 200_000)
        assert ws.receive() == "text"
        assert ws.receive() == b"y" * 200_000
    assert ask(server, "/list") == (200, b"one two")
    assert (server.pool is not None) is (isinstance(spawn, int) or hasattr(spawn, "spawn"))


def test_spawn_in_the_hub_is_refused() -> None:
    with pytest.raises(ValueError, match="hub"):
        WSGIServer(("127.0.0.1", 0), application, spawn=None)


def test_a_pool_bounds_connections(serve: Serve) -> None:
    running, most, go = [], [], Event()

    def slow(environ: Any, start_response: Any) -> Iterable[bytes]:
        running.append(None)
        most.append(len(running))
        go.wait(PATIENCE)
        running.pop()
        start_response("200 OK", [("Connection", "close")])
        return [b"done"]

    server = serve(slow, spawn=2)
    asked = [gevent.spawn(ask, server) for _ in range(5)]
    until = time.monotonic() + PATIENCE
    while len(running) < 2 and time.monotonic() < until:
        gevent.sleep(0.01)
    gevent.sleep(0.1)
    assert len(running) == 2
    assert server.pool.full()
    go.set()
    assert [one.get(timeout=PATIENCE) for one in asked] == [(200, b"done")] * 5
    assert max(most) == 2


def test_who_names_pywsgis_handler_gets_ours(serve: Serve) -> None:
    for spawn in ("default", 5):
        server = serve(handler_class=gevents.WSGIHandler, spawn=spawn)
        assert "geventgate.request" in environ_of(server)


def test_gevent_websockets_own_handler(serve: Serve) -> None:
    """Its applications are given its WebSockets, open already."""
    from geventwebsocket.handler import WebSocketHandler as Theirs

    def echo(environ: Any, start_response: Any) -> Iterable[bytes]:
        ws = environ["wsgi.websocket"]
        message = ws.receive()
        ws.send(f"{type(message).__name__} {ws.version}")
        return []

    for spawn in ("default", 5):
        server = serve(echo, handler_class=Theirs, spawn=spawn)
        with WebSocketClient(f"ws://127.0.0.1:{server.server_port}") as ws:
            ws.send(b"binary")
            assert ws.receive() == "bytearray 13"


def test_another_handler_serves_itself(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Handler(gevents.WSGIHandler):  # type: ignore[misc]
        def get_environ(self) -> Any:
            return {**super().get_environ(), "MINE": "yes"}

    server = serve(handler_class=Handler)
    environ = environ_of(server)
    assert environ["MINE"] == "'yes'"
    assert "geventgate.request" not in environ
    assert "serves its connections itself" in caplog.text


def test_a_handler_of_ours_that_is_changed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    handled = []

    class Handler(WebSocketHandler):
        def handle(self) -> None:
            handled.append(self.client_address[0])
            super().handle()

        def log_request(self) -> None:
            raise AssertionError

    server = serve(handler_class=Handler)
    assert ask(server) == (200, b"hello")
    assert handled == ["127.0.0.1"]
    assert "nobody calls its log_request" in caplog.text


def test_a_server_that_is_changed(serve: Serve) -> None:
    class Mine(WSGIServer):
        def handle(self, sock: Any, address: Any) -> None:
            handled.append(address[0])
            super().handle(sock, address)

    handled: list[str] = []
    server = Mine(("127.0.0.1", 0), application, log=None)
    with server:
        server.start()
        assert ask(server) == (200, b"hello")
    assert handled == ["127.0.0.1"]
    assert isinstance(server, gevents.WSGIServer)


# --- the environ


def test_environ(serve: Serve) -> None:
    server = serve(environ={"mine": 1, "SERVER_NAME": "example.org", "PATH_INFO": "/elsewhere", "HTTP_HOST": "b"})
    environ = environ_of(server)
    assert environ["mine"] == "1"
    assert environ["SERVER_NAME"] == "'example.org'"
    assert environ["SERVER_PORT"] == repr(str(server.server_port))
    assert environ["PATH_INFO"] == "'/environ'"
    assert environ["HTTP_HOST"] == "'localhost'"
    assert environ["SERVER_SOFTWARE"].startswith("'geventgate/")
    assert environ["wsgi.url_scheme"] == "'http'"
    assert server.environ["mine"] == server.get_environ()["mine"] == 1


@pytest.mark.parametrize("spawn", ["default", 5])
def test_environ_may_be_changed(serve: Serve, spawn: Any) -> None:
    server = serve(environ={"wsgi.url_scheme": "https"}, spawn=spawn)  # behind a proxy that speaks TLS
    environ = environ_of(server)
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("'https'", "'on'")
    server.environ["later"] = 2
    assert environ_of(server)["later"] == "2"
    server.set_environ({"again": 3})
    assert environ_of(server)["again"] == "3"


def test_environ_class(serve: Serve) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [type(environ).__name__.encode(), b" " + environ["PATH_INFO"].encode()]

    server = serve(app)
    server.environ_class = pywsgi.SecureEnviron
    assert ask(server, "/x") == (200, b"SecureEnviron /x")


def test_the_application_may_be_changed(serve: Serve) -> None:
    def other(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"other"]

    server = serve()
    assert ask(server) == (200, b"hello")
    server.application = other
    assert ask(server) == (200, b"other")


def test_a_list_states_its_length(serve: Serve) -> None:
    with client(serve()) as peer:
        peer.request("GET", "/list")
        assert peer.getresponse().getheader("Content-Length") == "7"


@pytest.mark.parametrize(
    ("status", "headers"),
    [("200 OK\r\nX: y", []), ("200 OK", [("X", "a\nb")]), ("200 OK", [("X\r", "a")])],
    ids=["status", "value", "name"],
)
def test_start_response_raises_at_once(serve: Serve, status: str, headers: Any) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        try:
            start_response(status, headers)
        except ValueError as error:
            start_response("200 OK", [])
            return [str(error.args[0]).encode()]
        raise AssertionError

    assert ask(serve(app))[1].startswith(b"carriage return or newline in ")


# --- logs


class Lines(io.StringIO):
    def lines(self, count: int) -> list[str]:
        """Once there are so many."""
        until = time.monotonic() + PATIENCE
        while self.getvalue().count("\n") < count and time.monotonic() < until:
            gevent.sleep(0.01)
        return self.getvalue().splitlines()


@pytest.mark.parametrize("spawn", ["default", 5])
def test_each_server_logs_its_own(serve: Serve, spawn: Any) -> None:
    mine, others, errors = Lines(), Lines(), Lines()
    server, other = serve(log=mine, error_log=errors, spawn=spawn), serve(log=others, spawn=spawn)
    ask(server, "/mine")
    ask(other, "/others")
    with client(server) as peer:
        peer.sock.sendall(b"nonsense\r\n\r\n")
        assert peer.sock.recv(100).startswith(b"HTTP/1.1 400 ")
        lines = mine.lines(2)
    assert '"GET /mine HTTP/1.1" 200 5 ' in lines[0]
    assert '"-" 400 ' in lines[1]
    assert len(lines) == 2
    assert '"GET /others HTTP/1.1" 200 5 ' in others.lines(1)[0]
    assert ": 400: " in errors.lines(1)[0]


def test_errors_are_the_error_logs(serve: Serve) -> None:
    errors = Lines()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["wsgi.errors"].write("told\n")
        start_response("200 OK", [])
        return []

    ask(serve(app, error_log=errors))
    assert errors.lines(1) == ["told"]


def test_a_logger(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mine")
    server = serve(log=logging.getLogger("mine"))
    assert isinstance(server.log, pywsgi.LoggingLogAdapter)
    ask(server)
    gevent.sleep(0.01)
    assert '"GET / HTTP/1.1" 200 5 ' in caplog.text


def test_a_log_that_fails_fails_no_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    log = io.StringIO()
    log.close()
    server = serve(log=log)
    with client(server) as peer:
        assert peer.ask() == (200, b"hello")
        assert peer.ask() == (200, b"hello")
    assert caplog.text.count("cannot write to the server's log") <= 1


def test_an_application_that_fails(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with client(serve()) as peer:
        assert peer.ask("/fail")[0] == 500
        assert peer.ask() == (200, b"hello")
    assert "on purpose" in caplog.text


def test_by_default_logs_go_to_stderr(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from gevent import monkey; monkey.patch_all()\n"
        "from geventgate.pywsgi import WSGIServer\n"
        "import gevent, urllib.request\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'hello']\n"
        "server = WSGIServer(('127.0.0.1', 0), app)\n"
        "serving = gevent.spawn(server.serve_forever)\n"
        "gevent.sleep(0.1)\n"
        "print(urllib.request.urlopen(f'http://127.0.0.1:{server.server_port}/').read())\n"
        "server.stop()\n"
        "serving.join()\n"
        "gevent.get_hub().join(5)\n"
    )
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=30)
    assert ran.stdout == "b'hello'\n"
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert '"GET / HTTP/1.1" 200 5 ' in ran.stderr


# --- TLS


def believing(authority: Authority, *alpn: str, **pair: str) -> Any:
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_certs)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if pair:
        context.load_cert_chain(**pair)
    return context


@pytest.fixture(scope="module")
def pair(authority: Authority) -> dict[str, str]:
    return authority.issue("localhost", "127.0.0.1")._asdict()


def own_context(kind: Any, pair: dict[str, str], *alpn: str) -> Any:
    context = kind(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(**pair)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@pytest.mark.parametrize("spawn", ["default", 5])
@pytest.mark.parametrize("given", ["files", "context"])
def test_tls(serve: Serve, authority: Authority, pair: dict[str, str], spawn: Any, given: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"f" * 300_000)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/file":
            return application(environ, start_response)
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(tmp_path / "file", "rb"))  # type: ignore[no-any-return]

    options = pair if given == "files" else {"ssl_context": own_context(gevent.ssl.SSLContext, pair)}
    server = serve(app, spawn=spawn, **options)
    assert server.ssl_enabled
    with client(server, believing(authority)) as peer:
        environ = json.loads(peer.ask("/environ")[1])
        assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("'https'", "'on'")
        assert environ["SSL_PROTOCOL"] == "'TLSv1.3'"
        for size in (0, 1, 16_384, 3_000_000):
            assert peer.ask("/echo", b"z" * size) == (200, b"z" * size)
        assert peer.ask("/file") == (200, b"f" * 300_000)
    with WebSocketClient(f"wss://localhost:{server.server_port}", "/ws", ca_certs=authority.ca_certs) as ws:
        ws.send(b"w" * 1_000_000)
        ws.send("text")
        assert ws.receive() == b"w" * 1_000_000
        assert ws.receive() == "text"


def test_http2_over_tls(serve: Serve, authority: Authority, pair: dict[str, str]) -> None:
    server = serve(**pair)
    with Http2Client(f"https://localhost:{server.server_port}", ca_certs=authority.ca_certs) as peer:
        assert peer.request(path="/").content == b"hello"
        environ = json.loads(peer.request(path="/environ").content)
    assert environ["SERVER_PROTOCOL"] == "'HTTP/2'"


def test_http2_by_a_context_that_offers_it(serve: Serve, authority: Authority, pair: dict[str, str]) -> None:
    context = own_context(gevent.ssl.SSLContext, pair, "h2", "http/1.1")
    server = serve(ssl_context=context)
    with Http2Client(f"https://localhost:{server.server_port}", ca_certs=authority.ca_certs) as peer:
        assert peer.request(path="/").content == b"hello"
    server = serve(ssl_context=own_context(gevent.ssl.SSLContext, pair, "strange"))
    with client(server, believing(authority, "strange")) as peer:
        assert peer.ask() == (200, b"hello")


@pytest.mark.parametrize("spawn", ["default", 5])
def test_clients_certificates(serve: Serve, authority: Authority, pair: dict[str, str], spawn: Any) -> None:
    server = serve(**pair, ca_certs=authority.ca_certs, cert_reqs=gevent.ssl.CERT_OPTIONAL, spawn=spawn)
    known = authority.issue("me@example.org")._asdict()
    with client(server, believing(authority, **known)) as peer:
        assert json.loads(peer.ask("/environ")[1])["SSL_CLIENT_VERIFY"] == "'SUCCESS'"
    with client(server, believing(authority)) as peer:
        assert json.loads(peer.ask("/environ")[1])["SSL_CLIENT_VERIFY"] == "'NONE'"


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"certfile": "/nowhere.pem"}, ConfigError, "nowhere.pem: No such file"),
        ({"certfile": "/nowhere.pem", "spawn": 5}, ConfigError, "nowhere.pem: No such file"),
        ({"keyfile": "/nowhere.pem"}, ConfigError, "wants a certificate"),
        ({"server_side": True}, ConfigError, "wants a certificate"),
        ({"certfile": "PAIR", "cert_reqs": 2}, ConfigError, "whose certificates are believed"),
        ({"certfile": "PAIR", "ciphers": "none-such"}, ConfigError, "none-such"),
        ({"ssl_context": object(), "certfile": "PAIR"}, ConfigError, "ssl_context= brings"),
        ({"certfiel": "PAIR"}, TypeError, "'certfiel'"),
        ({"config": Config(certfile="x")}, ConfigError, "say certfile="),
        ({"config": Config(proxy_protocol="v1", proxy_allow_from=("*",)), "spawn": 5}, ConfigError, "PROXY"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_meant(pair: dict[str, str], options: Any, error: type[Exception], why: str) -> None:
    options = {name: pair["certfile"] if value == "PAIR" else value for name, value in options.items()}
    if "certfile" in options and options["certfile"] == pair["certfile"]:
        options["keyfile"] = pair["keyfile"]
    with pytest.raises(error, match=why):
        WSGIServer(("127.0.0.1", 0), application, **options).start()


@pytest.mark.parametrize("spawn", ["default", 5])
def test_what_is_no_handshake(serve: Serve, pair: dict[str, str], spawn: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "geventgate")
    server = serve(**pair, spawn=spawn, config=Config(tls_handshake_timeout=0.5))
    with client(server) as plain, client(server) as silent:
        plain.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(ConnectionResetError):
            plain.sock.recv(1000)
        silent.sock.sendall(b"\x16\x03\x01")
        assert silent.sock.recv(100) == b""
    assert "no TLS handshake" in caplog.text
    assert "Traceback" not in caplog.text


def test_no_certificate_is_no_tls(serve: Serve) -> None:
    """Programs pass on what they were not given."""
    server = serve(certfile=None, keyfile=None, ssl_context=None)
    assert not server.ssl_enabled
    assert ask(server) == (200, b"hello")


# --- its life


@pytest.mark.parametrize("spawn", ["default", 5])
def test_start_and_stop_and_start(spawn: Any) -> None:
    server = WSGIServer(("127.0.0.1", 0), application, log=None, spawn=spawn)
    assert not server.started
    for _ in range(2):
        server.start()
        assert server.started
        assert not server.closed
        assert ask(server) == (200, b"hello")
        server.stop()
        assert not server.started
        assert server.closed
        with pytest.raises(OSError, match="refused"):
            ask(server)
    server.stop()
    server.close()


def test_stop_waits_for_what_runs(serve: Serve) -> None:
    began, go = Event(), Event()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        began.set()
        go.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"whole"]

    server = serve(app)
    asked = gevent.spawn(ask, server)
    assert began.wait(PATIENCE)
    stopped = gevent.spawn(server.stop, PATIENCE)
    gevent.sleep(0.05)
    assert not server.started
    assert not stopped.ready()
    go.set()
    assert asked.get(timeout=PATIENCE) == (200, b"whole")
    stopped.get(timeout=PATIENCE)


@pytest.mark.parametrize("spawn", ["default", 5])
def test_stop_cuts_what_does_not_end(serve: Serve, spawn: Any) -> None:
    began, ended = Event(), Event()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        began.set()
        try:
            gevent.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    server = serve(app, spawn=spawn)
    with client(server) as peer:
        peer.request("GET", "/")
        assert began.wait(PATIENCE)
        server.stop(0.1)
        assert ended.wait(PATIENCE)
        with pytest.raises((http.client.HTTPException, OSError)):
            peer.getresponse()


@pytest.mark.parametrize("spawn", ["default", 5])
def test_stop_closes_websockets(serve: Serve, spawn: Any) -> None:
    server = serve(spawn=spawn)
    with WebSocketClient(f"ws://127.0.0.1:{server.server_port}", "/ws") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
        stopped = gevent.spawn(server.stop, PATIENCE)
        assert ws.receive() is None
        assert ws.close_code == 1001
    stopped.get(timeout=PATIENCE)


@pytest.mark.parametrize("spawn", ["default", 5])
def test_a_request_may_stop_the_server(serve: Serve, spawn: Any) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        server.stop()
        start_response("200 OK", [])
        return [b"bye"]

    server = serve(app, spawn=spawn)
    assert ask(server) == (200, b"bye")
    assert not server.started


def test_close_lets_what_runs_end(serve: Serve) -> None:
    began, go = Event(), Event()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        began.set()
        go.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"whole"]

    server = serve(app)
    asked = gevent.spawn(ask, server)
    assert began.wait(PATIENCE)
    server.close()
    assert server.closed
    assert not server.started
    with pytest.raises(OSError, match="refused"):
        ask(server)
    go.set()
    assert asked.get(timeout=PATIENCE) == (200, b"whole")


def test_serve_forever_ends_with_what_runs() -> None:
    began, go = Event(), Event()

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        began.set()
        go.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"whole"]

    server = WSGIServer(("127.0.0.1", free_port()), app, log=None)
    serving = gevent.spawn(server.serve_forever, PATIENCE)
    gevent.sleep(0)
    asked = gevent.spawn(ask, server)
    assert began.wait(PATIENCE)
    server.close()
    gevent.sleep(0.05)
    assert not serving.ready()
    go.set()
    serving.get(timeout=PATIENCE)
    assert asked.get(timeout=PATIENCE) == (200, b"whole")


def test_a_context_manager() -> None:
    with WSGIServer(("127.0.0.1", 0), application, log=None) as server:
        server.start()
        assert ask(server) == (200, b"hello")
    assert server.closed


@pytest.mark.parametrize("spawn", ["default", 5])
def test_accepting_can_pause(serve: Serve, spawn: Any) -> None:
    server = serve(spawn=spawn)
    with client(server) as kept:
        assert kept.ask() == (200, b"hello")
        server.stop_accepting()
        asked = gevent.spawn(ask, server)
        gevent.sleep(0.1)
        assert not asked.ready()
        assert kept.ask() == (200, b"hello")
        server.start_accepting()
        assert asked.get(timeout=PATIENCE) == (200, b"hello")


def test_bound_first_and_forked_then(tmp_path: Path) -> None:
    """As programs do that serve one socket by several processes; one that ends leaves it to the others."""
    program = tmp_path / "program.py"
    program.write_text(
        "from gevent import monkey; monkey.patch_all()\n"
        "import os, sys, signal, gevent\n"
        "from geventgate.pywsgi import WSGIServer\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Connection', 'close')])\n"
        "    return [str(os.getpid()).encode()]\n"
        "server = WSGIServer(('127.0.0.1', 0), app, log=None)\n"
        "server.init_socket()\n"
        "children = []\n"
        "ready, say = os.pipe()\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        server.start_accepting()\n"
        "        ended = gevent.event.Event()\n"
        "        gevent.signal_handler(signal.SIGTERM, ended.set)\n"
        "        os.write(say, b'.')\n"
        "        ended.wait()\n"
        "        server.stop()\n"
        "        os._exit(0)\n"
        "    children.append(pid)\n"
        "    os.read(ready, 1)\n"
        "print(server.server_port, *children, flush=True)\n"
        "for pid in children:\n"
        "    print(os.waitpid(pid, 0)[1], flush=True)\n"
    )
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, *children = map(int, process.stdout.readline().split())

        def answers() -> int:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                return int(peer.makefile("rb").read().rpartition(b"\n")[2])

        try:
            assert answers() in children
            os.kill(children[0], signal.SIGTERM)
            assert process.stdout.readline() == "0\n"
            assert [answers() for _ in range(3)] == [children[1]] * 3
        finally:
            os.kill(children[1], signal.SIGTERM)
        assert process.stdout.readline() == "0\n"
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "handler", ["gevent.signal_handler(15, server.stop)", "signal.signal(15, lambda *_: server.stop())"]
)
def test_signals(handler: str, tmp_path: Path) -> None:
    """A handler of Python's own runs in the hub, which cannot wait, or in a request."""
    program = tmp_path / "program.py"
    program.write_text(
        "import signal, gevent\n"
        "from geventgate.pywsgi import WSGIServer\n"
        "def app(environ, start_response):\n"
        "    print('began', flush=True)\n"
        "    gevent.sleep(0.5)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'whole']\n"
        "server = WSGIServer(('127.0.0.1', 0), app, log=None)\n"
        f"{handler}\n"
        "server.start()\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever(stop_timeout=10)\n"
        "print('ended')\n"
    )
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert process.stdout.readline() == "began\n"
            process.terminate()
            assert peer.makefile("rb").read().endswith(b"\r\n\r\nwhole")
        assert process.stdout.read() == "ended\n"
        assert process.wait(PATIENCE) == 0


# --- limits


@pytest.mark.parametrize("spawn", ["default", 5])
def test_limits_and_times(serve: Serve, spawn: Any) -> None:
    config = Config(head_timeout=0.5, keep_alive=0.5, limit_request_line=100, websocket_max_message_size=1000)
    server = serve(config=config, spawn=spawn)
    assert ask(server, "/" + "x" * 200)[0] == 414
    with WebSocketClient(f"ws://127.0.0.1:{server.server_port}", "/ws") as ws:
        ws.send(b"x" * 1001)
        assert ws.receive() is None
        assert ws.close_code == 1009
    with client(server) as slow, client(server) as idle:
        slow.sock.sendall(b"GET / HTTP/1.1\r\n")
        assert idle.ask() == (200, b"hello")
        assert slow.sock.recv(100).startswith(b"HTTP/1.1 408 ")
        assert idle.sock.recv(100) == b""


def test_names() -> None:
    for name in ("Environ", "LoggingLogAdapter", "SecureEnviron", "WSGIHandler", "WSGISecureEnviron"):
        assert getattr(pywsgi, name) is getattr(gevents, name)
