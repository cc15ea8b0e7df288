"""flask-sock and simple-websocket as published: over HTTP/1.1, TLS and HTTP/2, however they find the socket."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import gevent
import httpx
import pytest

from geventgate.testing import Http2Client, Http2WebSocketClient, Refused, WebSocketClient

WAIT = 20.0  # seconds anything may take before it counts as broken
CARRIERS = ["http1", "tls", "http2", "http2 in tls"]
ENGINES = ["h2", "ngh2"]
MODES = {"gevent": "app", "gunicorn": "as_gunicorn", "werkzeug": "as_werkzeug"}
LARGE = bytes(range(256)) * 31250  # 8,000,000 bytes
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HELLO, CLOSE = b"\x81\x85\0\0\0\0hello", b"\x88\x82\0\0\0\0\x03\xe8"  # as a client masks them
HELLO_BACK, CLOSE_BACK = b"\x81\x05hello", b"\x88\x02\x03\xe8"


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with gevent.Timeout(3 * WAIT, AssertionError("the test hangs")):
        yield


class Carrier:
    """Servers of one application, and how to reach it over each carrier."""

    def __init__(self, plain, secure, ca_certs: str) -> None:
        self.plain = plain
        self.secure = secure
        self._ca_certs = ca_certs

    @contextmanager
    def open(self, carrier: str, path: str, **options) -> Iterator[WebSocketClient]:
        tls = "tls" in carrier
        url = f"https://localhost:{self.secure.port}" if tls else self.plain.url
        trust = {"ca_certs": self._ca_certs} if tls else {}
        with ExitStack() as stack:
            if "http2" in carrier:
                client = stack.enter_context(Http2Client(url, timeout=WAIT, **trust))
                ws = Http2WebSocketClient(client, path, **options)
            else:
                ws = WebSocketClient(url, path, timeout=WAIT, **trust, **options)
            yield stack.enter_context(ws)


@pytest.fixture(scope="module")
def servers(module_gate, authority):
    pair = authority.issue("localhost", "127.0.0.1")
    plain = module_gate("flask_sock_app:app", "--h2c")
    secure = module_gate("flask_sock_app:app", "--certfile", pair.certfile, "--keyfile", pair.keyfile)
    return Carrier(plain, secure, authority.ca_certs)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_echo_and_a_large_message(servers, carrier):
    with servers.open(carrier, "/echo") as ws:
        for message in ("text", b"binary", "", "ü" * 70_000, LARGE, LARGE.hex()[:1_000_000], "last"):
            ws.send(message)
            assert ws.receive() == message
        ws.send("close")
        assert ws.receive() is None
        assert ws.close_code == 1000


@pytest.mark.parametrize("carrier", CARRIERS)
def test_several_large_messages_at_once_to_a_reader_that_pauses(servers, carrier):
    """Elsewhere what a socket did not take at once is lost, and the next frame stands in its place."""
    with servers.open(carrier, "/echo") as ws:
        sender = gevent.spawn(lambda: [ws.send(LARGE[:count]) for count in (3_000_000, 1_000_000, 10)])
        gevent.sleep(0.2)
        assert [len(ws.receive()) for _ in range(3)] == [3_000_000, 1_000_000, 10]
        sender.get()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_only_sends(servers, carrier):
    with servers.open(carrier, "/push/1000") as ws:
        assert [int(ws.receive().split()[0]) for _ in range(1000)] == list(range(1000))
        assert ws.receive() is None
        assert ws.close_code == 1000


@pytest.mark.parametrize("carrier", CARRIERS)
def test_cookies_come_and_a_close_code_goes(servers, carrier):
    with servers.open(carrier, "/cookie", headers=[("Cookie", "name=Zoe")]) as ws:
        assert ws.receive() == "Zoe"
        assert ws.receive() == ("HTTP/2" if "http2" in carrier else "HTTP/1.1")
        assert ws.receive() is None
        assert (ws.close_code, ws.close_reason) == (4001, "as asked")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_selector_misses_nothing(servers, carrier):
    """With ping_interval simple-websocket selects; bytes that were read ahead, or decrypted, are in no socket."""
    with servers.open(carrier, "/chosen", subprotocols=["x", "a", "b"]) as ws:
        assert ws.receive() == "a gevent"
        assert ws.subprotocol == "a"
        for count in range(4):
            for number in range(5):
                ws.send(f"{count} {number}")
            assert [ws.receive() for number in range(5)] == [f"{count} {number}" for number in range(5)]
        ws.send(LARGE[:1_000_000])
        assert ws.receive() == LARGE[:1_000_000]


@pytest.mark.parametrize("carrier", ["http1", "http2 in tls"])
def test_pings(servers, carrier):
    """A peer that answers them stays, one that does not is closed."""
    with servers.open(carrier, "/chosen?ping=0.2") as deaf, servers.open(carrier, "/chosen?ping=1.5") as ws:
        receiving = gevent.spawn(lambda: [ws.receive(), ws.receive()])
        gevent.sleep(3.5)
        assert not receiving.ready()
        ws.send("still here")
        assert receiving.get() == ["None gevent", "still here"]
        assert deaf.receive() == "None gevent"
        assert deaf.receive() is None
        assert deaf.close_code == 1008


@pytest.mark.parametrize("path", [b"/echo", b"/chosen"])
def test_frames_that_come_with_the_handshake_are_received_and_nothing_behind_the_close_is(servers, path):
    """The connection does not come back to HTTP."""
    with servers.plain.connect(WAIT) as peer:
        peer.sendall(HANDSHAKE % path + HELLO + HELLO)
        answer = b""
        while not answer.endswith(2 * HELLO_BACK):
            answer += peer.recv(65536)
        peer.sendall(CLOSE + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while data := peer.recv(65536):
            answer += data
    head, _, frames = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    greeting = b"" if path == b"/echo" else b"\x81\x0bNone gevent"
    assert frames == greeting + 2 * HELLO_BACK + CLOSE_BACK


@pytest.mark.parametrize("carrier", CARRIERS)
def test_it_may_still_answer_otherwise(servers, carrier):
    with pytest.raises(Refused) as refused, servers.open(carrier, "/forbidden"):
        pass
    assert (refused.value.status, refused.value.content) == (403, b"not for you")
    with pytest.raises(Refused) as refused, servers.open(carrier, "/nowhere"):
        pass
    assert refused.value.status == 404
    assert httpx.get(servers.plain.url, trust_env=False).text == "a page beside it"
    assert httpx.get(f"{servers.plain.url}/echo", trust_env=False).status_code == 400  # Werkzeug's, for its rule


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("path", ["/echo", "/push/1000", "/endless", "/chosen"])
def test_a_page_of_another_site_is_refused(servers, carrier, path):
    for origin in ("http://evil.example", "null"):
        with pytest.raises(Refused) as refused, servers.open(carrier, path, headers=[("Origin", origin)]):
            pass
        assert refused.value.status == 403
        assert b"may not open WebSockets here" in refused.value.content
    with servers.open("http1", "/cookie", headers=[("Origin", servers.plain.url)]) as ws:
        assert ws.receive() == "nobody"


def test_refusing_leaves_one_line_each_and_blocks_nobody(gate):
    server = gate("flask_sock_app:app", "--ws-origins", "http://friend.example")
    for _ in range(3):
        with pytest.raises(Refused):
            WebSocketClient(server.url, "/endless", headers=[("Origin", "http://evil.example")], timeout=WAIT)
    began = time.monotonic()
    assert httpx.get(server.url, trust_env=False).status_code == 200
    assert time.monotonic() - began < WAIT / 4
    with WebSocketClient(server.url, "/cookie", headers=[("Origin", "http://friend.example")], timeout=WAIT) as ws:
        assert ws.receive() == "nobody"
    assert server.stop() == 0
    assert server.stderr().count("refused a page of 'http://evil.example'") == 3
    assert "--ws-origins" in server.stderr()


@pytest.mark.parametrize("mode", MODES)
def test_the_ways_to_find_the_socket_and_to_leave(gate, mode):
    """gunicorn's mode leaves by StopIteration, Werkzeug's answers, gevent's does not even call start_response."""
    server = gate(f"flask_sock_app:{MODES[mode]}")
    for _ in range(2):
        with WebSocketClient(server.url, "/chosen", timeout=WAIT) as ws:
            assert ws.receive() == f"None {mode}"
            ws.send(LARGE[:1_000_000])
            assert ws.receive() == LARGE[:1_000_000]
        with WebSocketClient(server.url, "/push/2", timeout=WAIT) as ws:
            while ws.receive():
                pass
            assert ws.close_code == 1000
        assert httpx.get(server.url, trust_env=False).status_code == 200
    gone = WebSocketClient(server.url, "/echo", timeout=WAIT)
    gone.socket.close()
    rude = WebSocketClient(server.url, "/endless", timeout=WAIT)
    rude.receive()
    rude.socket.close()
    assert server.stop() == 0
    assert len(server.stderr().splitlines()) == 2, server.stderr()  # that it serves, and that it stops


def test_a_failure_closes_with_1011_and_is_told_once(gate):
    server = gate("flask_sock_app:app", tracebacks=1)
    with WebSocketClient(server.url, "/fail", timeout=WAIT) as ws:
        ws.send("now")
        assert ws.receive() is None
        assert ws.close_code == 1011
    assert server.stop() == 0
    assert "RuntimeError: as the test asked" in server.stderr()


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_closes_them_with_1001(gate, mode):
    server = gate(f"flask_sock_app:{MODES[mode]}", "--h2c")
    with ExitStack() as stack:
        client = stack.enter_context(Http2Client(server.url, timeout=WAIT))
        opened = [
            stack.enter_context(WebSocketClient(server.url, "/echo", timeout=WAIT)),
            stack.enter_context(WebSocketClient(server.url, "/chosen", timeout=WAIT)),
            stack.enter_context(Http2WebSocketClient(client, "/echo")),
        ]
        for ws in opened:
            ws.send("hello")
            while ws.receive() != "hello":
                pass
        began = time.monotonic()
        server.process.terminate()
        for ws in opened:
            assert ws.receive() is None
            assert ws.close_code == 1001
    assert server.stop() == 0
    assert time.monotonic() - began < WAIT / 2
    assert len(server.stderr().splitlines()) == 2, server.stderr()


def test_a_stop_does_not_wait_for_a_peer_that_does_not_answer(gate):
    server = gate("flask_sock_app:app", "--ws-close-timeout", "0.2", "--graceful-timeout", "60")
    with WebSocketClient(server.url, "/echo", timeout=WAIT) as deaf:
        deaf.send("hello")
        assert deaf.receive() == "hello"
        assert server.stop() == 0
    assert "cut: our Close was not answered" in server.stderr()


@pytest.mark.parametrize("engine", ENGINES)
def test_many_on_one_http2_connection(gate, engine):
    server = gate("flask_sock_app:app", "--h2c", "--http2-engine", engine)
    with Http2Client(server.url, timeout=WAIT) as client, ExitStack() as stack:
        opened = [stack.enter_context(Http2WebSocketClient(client, "/echo")) for _ in range(50)]
        for number, ws in enumerate(opened):
            ws.send(f"{number}")
        assert [ws.receive() for ws in opened] == [str(number) for number in range(50)]
        assert client.request(path="/").content == b"a page beside it"
