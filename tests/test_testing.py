"""The fakes keep the rules of what they stand for, or tests over them prove nothing."""

import io
import os

import gevent
import pytest
from gevent.event import Event

from geventgate.errors import ApplicationError, NotSupported, PeerError, PeerGone
from geventgate.testing import FakeExchange, MemoryTunnel, Refused, WebSocketClient, request_head, running

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "echo")]


# --- request_head(), and the request of a FakeExchange


def test_request_head():
    head = request_head("POST", "/a%20b?c", [("X-A", "é"), (b"x-a", b"\xff")])
    assert (head.method, head.target, head.path, head.query) == ("POST", b"/a%20b?c", b"/a%20b", b"c")
    assert head.fields == ((b"host", b"localhost"), (b"x-a", b"\xe9"), (b"x-a", b"\xff"))
    assert request_head(fields=[("host", "a")]).authority == b"a"
    assert request_head(http_version="1.0").fields == ()


@pytest.mark.parametrize(
    "arguments", [("GET", "/ /"), ("G T",), ("GET", "/", [("X A", "1")]), ("GET", "/", [("X", "\0")])]
)
def test_request_head_is_as_strict_as_a_carrier(arguments):
    with pytest.raises(PeerError):
        request_head(*arguments)


def test_request_head_is_one_head():
    with pytest.raises(ValueError, match="not one head"):
        request_head("GET", "/", [("X", "1\r\n\r\nGET / HTTP/1.1")])


@pytest.mark.parametrize(
    ("content", "fields", "framing", "has_content"),
    [
        (b"", [], None, False),
        (b"abc", [], (b"content-length", b"3"), True),
        (b"abc", [("Content-Length", "5")], (b"content-length", b"5"), True),
        ([b"a", b"bc"], [], (b"transfer-encoding", b"chunked"), True),
        ([b"a", b"bc"], [("Content-Length", "3")], (b"content-length", b"3"), True),
        (b"", [("Content-Length", "0")], (b"content-length", b"0"), False),
        (b"", [("Transfer-Encoding", "chunked")], (b"transfer-encoding", b"chunked"), True),
    ],
)
def test_content_is_framed(content, fields, framing, has_content):
    exchange = FakeExchange("POST", "/", fields, content)
    assert [field for field in exchange.request.fields if field[0] != b"host"] == ([framing] if framing else [])
    assert exchange.has_content == has_content


def test_reading():
    exchange = FakeExchange("POST", "/", content=[b"abc", b"", b"d"], trailers=((b"x", b"y"),))
    assert [exchange.read(2), exchange.read(2), exchange.read(2)] == [b"ab", b"c", b"d"]
    assert exchange.trailers() == ()
    assert exchange.read(1) == exchange.read(1) == b""
    assert exchange.trailers() == ((b"x", b"y"),)


def test_reading_what_fails():
    exchange = FakeExchange("POST", "/", content=[b"a", gevent.Timeout(), b"b", PeerGone(), b"never"])
    assert exchange.read(9) == b"a"
    with pytest.raises(gevent.Timeout):  # thrown in: resumable
        exchange.read(9)
    assert exchange.read(9) == b"b"
    for _ in range(2):
        with pytest.raises(PeerGone):
            exchange.read(9)


# --- the response of a FakeExchange


def test_the_head_is_held():
    exchange = FakeExchange()
    exchange.send_head("200 OK", [("X", "1")])
    assert (exchange.status, exchange.fields, exchange.field("x")) == (0, [("X", "1")], "1")
    exchange.send(b"a")
    assert exchange.status == 200
    exchange.finish(b"b")
    assert (exchange.sends, exchange.content, exchange.sent, exchange.finished) == ([b"a", b"b"], b"ab", 2, True)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda exchange: exchange.send(b"x"),
        lambda exchange: exchange.finish(b"x"),
        lambda exchange: exchange.send_head("100 Continue", []),
        lambda exchange: exchange.send_head("200 OK", [("X", "\r\n")]),
        lambda exchange: exchange.send_informational(200, []),
        lambda exchange: (exchange.send_head(200, []), exchange.send_head(200, [])),
        lambda exchange: (exchange.send_head(200, []), exchange.send_informational(103, [])),
        lambda exchange: (exchange.send_head(200, []), exchange.finish(), exchange.send(b"x")),
        lambda exchange: (exchange.send_head(200, []), exchange.finish(), exchange.send_head(200, [])),
        lambda exchange: (exchange.send_head(200, []), exchange.open_tunnel()),
        lambda exchange: (exchange.send_head(200, []), exchange.finish(b"", [("Content-Length", "1")])),
    ],
)
def test_misuse_raises(misuse):
    with pytest.raises(ApplicationError):
        misuse(FakeExchange("GET", "/", UPGRADE))


def test_a_refused_head_leaves_room_for_another():
    exchange = FakeExchange()
    with pytest.raises(ApplicationError):
        exchange.send_head("200 OK", [("X", "\r\n")])
    exchange.send_head(500, [])
    exchange.finish()
    assert (exchange.status, exchange.fields) == (500, [])


def test_faults_are_told():
    exchange = FakeExchange()
    exchange.send_head(200, [("Content-Length", "1"), ("Content-Length", "1"), ("Transfer-Encoding", "chunked")])
    assert exchange.fields == [("Content-Length", "1")]
    assert len(exchange.faults) == 2


def test_a_stated_length_is_kept():
    exchange = FakeExchange()
    exchange.send_head(200, [("Content-Length", "3")])
    exchange.finish(b"longer")
    assert (exchange.content, exchange.aborted) == (b"lon", None)
    exchange = FakeExchange()
    exchange.send_head(200, [("Content-Length", "3")])
    exchange.finish(b"x")
    assert exchange.aborted


def test_interim_responses_trailers_files():
    exchange = FakeExchange()
    exchange.send_informational(103, [("Link", "</a>")])
    exchange.send_head(200, [])
    exchange.send_file(io.BytesIO(b"0123456789"), 2, 3)
    exchange.finish(b"", [("X-Sum", b"1")])
    assert exchange.informational == [(103, [("Link", "</a>")])]
    assert (exchange.content, exchange.files, exchange.sent_trailers) == (b"234", [(2, 3)], [("X-Sum", "1")])


def test_hanging_up():
    exchange = FakeExchange()
    exchange.send_head(200, [])
    exchange.send(b"a")
    assert not exchange.watched
    exchange.hang_up()
    assert exchange.closed.is_set()
    assert exchange.watched
    with pytest.raises(PeerGone):
        exchange.send(b"b")
    with pytest.raises(PeerGone):
        exchange.finish()
    assert (exchange.content, exchange.finished) == (b"a", False)


# --- tunnels


def test_a_tunnel_has_two_ends():
    exchange = FakeExchange("GET", "/", UPGRADE)
    ours = exchange.open_tunnel([("X", "1")])
    peer = exchange.tunnel
    assert (exchange.status, exchange.field("X"), exchange.field("Upgrade")) == (101, "1", "echo")
    ours.sendv([b"ab", memoryview(b"c")])
    assert (peer.recv(2), peer.recv(2)) == (b"ab", b"c")
    assert peer.send(b"xyz") == 3
    peer.shutdown()
    assert (ours.recv(9), ours.recv(9)) == (b"xyz", b"")
    ours.sendall(b"still open")
    assert peer.recv(99) == b"still open"


def test_no_tunnel_without_an_offer():
    with pytest.raises(NotSupported):
        FakeExchange().open_tunnel()


def test_a_tunnel_waits_for_bytes_and_for_room():
    one, other = MemoryTunnel.pair(capacity=4)
    sending = gevent.spawn(one.sendall, b"0123456789")
    gevent.idle()
    assert not sending.dead
    received = b""
    while len(received) < 10:
        received += other.recv(3)
    assert received == b"0123456789"
    sending.get(timeout=5)
    receiving = gevent.spawn(other.recv, 9)
    gevent.idle()
    one.sendall(b"x")
    assert receiving.get(timeout=5) == b"x"


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_tunnel_ends(end):
    one, other = MemoryTunnel.pair()
    waiting = gevent.spawn(one.recv, 9)
    gevent.idle()
    other.sendall(b"x")
    getattr(other, end)()
    getattr(other, end)()
    assert waiting.get(timeout=5) == b"x"
    if end == "close":
        assert one.recv(9) == b""
    else:
        with pytest.raises(PeerGone):
            one.recv(9)
    for use in (lambda: one.sendall(b"x"), lambda: other.sendall(b"x"), lambda: other.recv(9)):
        with pytest.raises(PeerGone):
            use()


def test_closing_wakes_who_waits():
    one, other = MemoryTunnel.pair(capacity=1)
    receiving, sending = gevent.spawn(one.recv, 9), gevent.spawn(other.sendall, b"x")
    assert receiving.get(timeout=5) == b"x"
    sending.get(timeout=5)
    blocked = gevent.spawn(other.sendall, b"xx")
    gevent.idle()
    one.close()
    with pytest.raises(PeerGone):
        blocked.get(timeout=5)


# --- for real


def echo(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        start_response("404 Not Found", [("X-A", "1")])
        return [b"no WebSocket here"]
    websocket.accept(websocket.subprotocols[-1] if websocket.subprotocols else None, [("X-A", "1")])
    for message in websocket:
        if message == "close":
            websocket.close(4000, "as you wish")
        elif message == "cut":
            raise gevent.GreenletExit
        else:
            websocket.send(message)
    return []


def test_running(tmp_path):
    with running(echo) as server:
        assert server.url == f"http://{server.host}:{server.port}"
        with server.connect() as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"".join(iter(lambda: peer.recv(4096), b"")).endswith(b"no WebSocket here")
    with pytest.raises(OSError, match="refused"):
        server.connect()
    with running(echo, bind=(f"unix:{tmp_path}/socket",)) as server, WebSocketClient(server.url) as client:
        client.send("over a file")
        assert client.receive() == "over a file"


def test_a_conversation():
    with running(echo) as server:
        with WebSocketClient(server.url, "/", subprotocols=["a", "b"]) as client:
            assert (client.subprotocol, client.headers) == ("b", [("x-a", "1")])
            for message in ("text é€", b"binary", "", b"", "x" * 100_000):
                client.send(message)
                answer = client.receive()
                assert (type(answer), answer) == (type(message), message)
            client.ping(b"payload")
            client.send("behind it")
            assert client.receive() == "behind it"
            assert client.pongs == [b"payload"]
        assert client.close_code == 1000
        assert client.receive() is None


def test_how_a_websocket_was_closed():
    with running(echo) as server:
        with WebSocketClient(server.url) as client:
            client.send("close")
            assert (client.receive(), client.close_code, client.close_reason) == (None, 4000, "as you wish")
            assert client.receive() is None
        client = WebSocketClient(server.url)
        client.send("cut")
        assert (client.receive(), client.close_code) == (None, 1006)
        for _ in range(2):
            client.close()


def test_a_refusal():
    def application(environ, start_response):
        start_response("403 Forbidden", [("X-A", "1")])
        return [b"not ", b"for you"]

    with running(application) as server:
        with pytest.raises(Refused) as caught:
            WebSocketClient(server.url)
        assert (caught.value.status, caught.value.content) == (403, b"not for you")
        assert ("x-a", "1") in [(name.lower(), value) for name, value in caught.value.fields]


def test_a_client_that_is_not_answered():
    never = Event()

    def application(environ, start_response):
        never.wait()

    with running(application, graceful_timeout=0.0) as server, pytest.raises(TimeoutError):
        WebSocketClient(server.url, timeout=0.05)


def test_a_server_on_an_abstract_socket():
    def hello(environ, start_response):
        start_response("200 OK", [])
        return [b"hello"]

    with running(hello, bind=(f"unix:@geventgate-{os.getpid()}",)) as server, server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
