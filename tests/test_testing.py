"""The fakes keep the rules of what they stand for, or tests over them prove nothing."""

import io
import os
from contextlib import contextmanager

import gevent
import pytest
from gevent.event import Event
from gevent.server import StreamServer
from h2.exceptions import ProtocolError

from geventgate.errors import ApplicationError, NotSupported, PeerError, PeerGone
from geventgate.testing import (
    FakeExchange,
    Http2Client,
    Http2WebSocketClient,
    MemoryTunnel,
    Refused,
    StreamReset,
    WebSocketClient,
    request_head,
    running,
)

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "echo")]
H2C = {"http2_cleartext": "prior-knowledge"}


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


def test_request_head_of_http_2():
    head = request_head("POST", "/a%20b?c", [("X-A", "é"), (b"cookie", b"a"), ("Cookie", "b")], "2", ended=False)
    assert (head.method, head.target, head.path, head.query) == ("POST", b"/a%20b?c", b"/a%20b", b"c")
    assert (head.http_version, head.authority, head.protocol) == ("2", b"localhost", None)
    assert head.fields == ((b"x-a", b"\xe9"), (b"cookie", b"a; b"))
    assert request_head("GET", "/", [("Host", "a")], "2").authority == b"a"
    tunnel = request_head("CONNECT", "a:80", http_version="2")
    assert (tunnel.protocol, tunnel.authority, tunnel.target) == ("", b"a:80", b"a:80")
    extended = request_head("CONNECT", "/chat", http_version="2", protocol="websocket")
    assert (extended.protocol, extended.authority, extended.path) == ("websocket", b"localhost", b"/chat")


@pytest.mark.parametrize(
    ("method", "target", "fields", "protocol"),
    [
        ("GET", "no slash", [], None),
        ("G T", "/", [], None),
        ("GET", "/", [("X A", "1")], None),
        ("GET", "/", [("X", "\0")], None),
        ("GET", "/", [("Connection", "close")], None),
        ("GET", "/", [], "websocket"),
        ("GET", "/", [("Content-Length", "1")], None),
        ("CONNECT", "/", [], None),
    ],
)
def test_request_head_of_http_2_is_as_strict_as_a_carrier(method, target, fields, protocol):
    with pytest.raises(PeerError):
        request_head(method, target, fields, "2", protocol=protocol)


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


@pytest.mark.parametrize(
    ("content", "fields", "framing", "has_content"),
    [
        (b"", [], [], False),
        (b"abc", [], [(b"content-length", b"3")], True),
        ([b"a", b"bc"], [], [], True),
        ([b"a", b"bc"], [("Content-Length", "3")], [(b"content-length", b"3")], True),
        (b"", [("Content-Length", "0")], [(b"content-length", b"0")], False),
    ],
)
def test_content_over_http_2(content, fields, framing, has_content):
    exchange = FakeExchange("POST", "/", fields, content, http_version="2")
    assert list(exchange.request.fields) == framing
    assert exchange.has_content == has_content
    assert b"".join(iter(lambda: exchange.read(2), b"")) == (b"abc" if content else b"")


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


def test_pushing():
    exchange = FakeExchange("GET", "/", [("Host", "a:80")], http_version="2", can_push=True)
    assert exchange.can_push
    assert exchange.push(b"/style.css?v=1", [("Accept", "text/css")])
    (head,) = exchange.pushed
    assert (head.method, head.authority, head.path, head.query) == ("GET", b"a:80", b"/style.css", b"v=1")
    assert head.fields == ((b"accept", b"text/css"),)
    for path, fields in [(b"no slash", ()), (b"/", [("Connection", "close")]), (b"/", [("X", "\n")])]:
        with pytest.raises(ApplicationError):
            exchange.push(path, fields)
    exchange.send_head(200, [])
    exchange.finish()
    assert not exchange.push(b"/late")
    assert len(exchange.pushed) == 1
    exchange = FakeExchange(http_version="2")
    assert (exchange.can_push, exchange.push(b"/"), exchange.pushed) == (False, False, [])


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


@pytest.mark.parametrize(
    ("arguments", "protocol"), [(("CONNECT", "a:80"), None), (("CONNECT", "/"), "echo"), (("CONNECT", "/"), "ECHO")]
)
def test_a_tunnel_over_http_2(arguments, protocol):
    exchange = FakeExchange(*arguments, http_version="2", protocol=protocol)
    with pytest.raises(NotSupported):
        exchange.open_tunnel(protocol="another")
    with pytest.raises(NotSupported):
        exchange.hijack()
    ours = exchange.open_tunnel([("X", "1")])
    assert (exchange.status, exchange.fields) == (200, [("X", "1")])
    ours.sendall(b"abc")
    assert exchange.tunnel.recv(9) == b"abc"


@pytest.mark.parametrize("http_version", ["1.1", "2"])
def test_no_tunnel_without_an_offer(http_version):
    with pytest.raises(NotSupported):
        FakeExchange(http_version=http_version).open_tunnel()


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


def test_over_tls(authority):
    pair = authority.issue("127.0.0.1")
    options = {"certfile": pair.certfile, "keyfile": pair.keyfile}
    with running(echo, **options) as server:
        assert server.url.startswith("https:")
        for url in (server.url, server.url.replace("https:", "wss:")):
            with WebSocketClient(url, ca_certs=authority.ca_certs) as client:
                client.send("over TLS")
                assert client.receive() == "over TLS"
        with pytest.raises(OSError, match="certificate verify failed"):
            WebSocketClient(server.url)
        with Http2Client(server.url, ca_certs=authority.ca_certs) as client:
            assert client.request().status == 404
            with Http2WebSocketClient(client) as websocket:
                websocket.send("over all of it")
                assert websocket.receive() == "over all of it"
    with running(echo, http2=False, **options) as server, pytest.raises(ConnectionError, match="HTTP/2"):
        Http2Client(server.url, ca_certs=authority.ca_certs)


# --- HTTP/2


def speak(environ, start_response):
    """/wait/N sleeps N seconds; /push promises /pushed; /cut fails behind its head; else what came goes back."""
    path = environ["PATH_INFO"]
    if path.startswith("/wait/"):
        gevent.sleep(float(path[6:]))
    if path == "/push":
        assert environ["geventgate.push"]("/pushed", [("X-A", "b")])
    if path == "/hints":
        environ["wsgi.early_hints"]([("Link", "</a>")])
        environ["wsgi.early_hints"]([("Link", "</b>")])
    write = start_response("200 OK", [("X-Method", environ["REQUEST_METHOD"])])
    if path == "/cut":
        write(b"begun")
        raise gevent.GreenletExit
    content = environ["wsgi.input"].read()
    if content:
        environ["geventgate.send_trailers"]([("X-Length", str(len(content)))])
    return [content]


@pytest.fixture
def client():
    with running(speak, **H2C) as server, Http2Client(server.url) as client:
        yield client


def test_a_request_over_http_2(client):
    response = client.request("PUT", "/", [("X-A", "b")], b"content")
    assert (response.status, response.field("X-METHOD"), response.field("x-other")) == (200, "PUT", None)
    assert (response.content, response.trailers) == (b"content", [("x-length", "7")])
    assert (response.informational, response.pushed) == ([], [])
    assert client.request("POST", "/", [], [b"in ", b"pieces"], [("X-A", "b")]).content == b"in pieces"
    assert client.request("HEAD").content == b""
    hinted = client.request("GET", "/hints")
    assert hinted.informational == [(103, [("link", "</a>")]), (103, [("link", "</b>")])]
    pushing = client.request("GET", "/push")
    (promised,) = pushing.pushed
    assert {(":path", "/pushed"), ("x-a", "b")} <= set(promised.request)
    assert promised.response().field("x-method") == "GET"
    client.ping()


def test_many_requests_from_many_greenlets(client):
    content = os.urandom(300_000)
    asking = [gevent.spawn(client.request, "POST", f"/wait/{0.01 * number}", [], content) for number in range(20)]
    assert [greenlet.get(timeout=20).content == content for greenlet in asking] == [True] * 20


def test_many_streams_of_one_greenlet(client):
    streams = [client.open("POST", "/") for _ in range(20)]
    for number, stream in enumerate(streams):
        stream.send(b"%d" % number)
    for stream in streams:
        stream.end([("X-A", "b")])
    assert [stream.response().content for stream in reversed(streams)] == [b"%d" % n for n in reversed(range(20))]


def test_content_is_received_as_it_comes(client):
    stream = client.open("POST")
    stream.send(b"x" * 10)
    stream.end()
    assert stream.head() == 200
    assert [stream.receive(7), stream.receive(7), stream.receive(7), stream.receive()] == [b"x" * 7, b"xxx", b"", b""]
    assert stream.response().content == b""


def test_what_is_not_received_is_not_sent(client):
    content = bytes(1_000_000)
    unread = client.open("POST")
    sending = gevent.spawn(lambda: (unread.send(content), unread.end()))
    assert client.request("POST", "/", [], content).content == content
    sending.get(timeout=5)
    for _ in range(5):
        client.ping()
    assert sum(map(len, unread._inbox)) == 65_535
    assert unread.response().content == content


def test_streams_that_are_reset(client):
    with pytest.raises(StreamReset) as caught:
        client.request("GET", "/cut")
    assert (caught.value.code, isinstance(caught.value, ConnectionResetError)) == (2, True)
    stream = client.open("POST")
    for _ in range(2):
        stream.reset()
    assert stream.reset_code == 8
    for use in (lambda: stream.send(b"a"), stream.end, stream.head, stream.receive, stream.response):
        with pytest.raises(StreamReset):
            use()
    assert client.request().status == 200


def test_a_server_that_goes_away():
    with running(speak, **H2C) as server, Http2Client(server.url) as client:
        client.request()
        running_stream = client.open("GET", "/wait/0.2", ended=True)
        client.ping()
        stopping = gevent.spawn(server.server.stop)
        assert running_stream.response().status == 200
        assert client.goaway is not None
        with pytest.raises(ConnectionResetError, match="goes away"):
            client.open()
        while client.goaway != (3, 0, b""):
            client.wait()
        with pytest.raises(ConnectionResetError):
            client.ping()
        client.close()
        stopping.get(timeout=5)


@contextmanager
def answering(*answers):
    """The URL of a server that says each answer when the event before it is set, and then only listens."""

    def handle(peer, address):
        for event, answer in answers:
            event.wait()
            peer.sendall(answer)
        while peer.recv(65536):
            pass

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stop(5)


NOW = Event()
NOW.set()
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def test_streams_that_a_server_has_not_processed():
    """As its GOAWAY says (RFC 9113 §6.8): they may be asked for again elsewhere."""
    opened = Event()
    goaway = b"\0\0\x0b\7\0\0\0\0\0" + b"\0\0\0\1" + b"\0\0\0\2" + b"why"
    with answering((NOW, SETTINGS), (opened, goaway)) as url, Http2Client(url, timeout=1) as client:
        processed, refused = client.open(ended=True), client.open(ended=True)
        opened.set()
        with pytest.raises(StreamReset) as caught:
            refused.response()
        assert caught.value.code == 7
        assert client.goaway == (1, 2, b"why")
        with pytest.raises(TimeoutError):
            processed.response()
        assert processed.reset_code is None


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0\0\1\0\0\0\0\0\1a"])
def test_a_server_that_speaks_something_else(answer):
    with answering((NOW, answer)) as url, pytest.raises((OSError, ProtocolError)):
        Http2Client(url, timeout=0.2)


def test_nothing_works_behind_a_fault_of_the_server():
    opened = Event()
    with answering((NOW, SETTINGS), (opened, b"\0\0\1\0\0\0\0\0\5a")) as url, Http2Client(url, timeout=5) as client:
        streams = client.open(), client.open()
        opened.set()
        with pytest.raises(ProtocolError):
            streams[0].response()
        stream = streams[1]
        for use in (stream.response, stream.end, stream.reset, lambda: stream.send(b"a"), client.open, client.ping):
            with pytest.raises(ConnectionResetError, match="has ended"):
                use()
        stream.close()


def test_settings_are_told_and_kept():
    with running(speak, **H2C) as server, Http2Client(server.url, settings={4: 0}) as client:
        stream = client.open("POST", "/")
        stream.send(b"content")
        stream.end()
        assert stream.head() == 200
        client.ping()
        assert (list(stream._inbox), stream.ended) == ([], False)
        client.h2.increment_flow_control_window(100, stream.stream_id)
        client.flush()
        assert stream.response().content == b"content"


# --- WebSockets over HTTP/2


def test_conversations_over_one_connection():
    with running(echo, **H2C) as server, Http2Client(server.url) as http2:
        with Http2WebSocketClient(http2, "/", subprotocols=["a", "b"]) as client, Http2WebSocketClient(http2) as other:
            assert (client.subprotocol, ("x-a", "1") in client.headers) == ("b", True)
            assert other.subprotocol is None
            for message in ("text é€", b"binary", "", b"", "x" * 300_000):
                client.send(message)
                other.send(message)
                for answer in (client.receive(), other.receive()):
                    assert (type(answer), answer) == (type(message), message)
            client.ping(b"payload")
            client.send("behind it")
            assert (client.receive(), client.pongs) == ("behind it", [b"payload"])
            assert http2.request().status == 404
        assert (client.close_code, other.close_code) == (1000, 1000)
        assert client.receive() is None
        http2.ping()
        assert client.socket.ended


def test_how_a_websocket_over_http_2_was_closed():
    with running(echo, **H2C) as server, Http2Client(server.url) as http2:
        with Http2WebSocketClient(http2) as client:
            client.send("close")
            assert (client.receive(), client.close_code, client.close_reason) == (None, 4000, "as you wish")
        client = Http2WebSocketClient(http2)
        client.send("cut")
        assert (client.receive(), client.close_code) == (None, 1006)
        for _ in range(2):
            client.close()


def test_a_refusal_over_http_2():
    def application(environ, start_response):
        start_response("403 Forbidden", [("X-A", "1")])
        return [b"not ", b"for you"]

    with running(application, **H2C) as server, Http2Client(server.url) as http2:
        with pytest.raises(Refused) as caught:
            Http2WebSocketClient(http2)
        assert (caught.value.status, caught.value.content) == (403, b"not for you")
        assert ("x-a", "1") in caught.value.fields
        assert http2.request().status == 403
