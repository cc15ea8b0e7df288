"""The socket of a handshake, over exchanges in memory: applications that write their own 101, and bad ones."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from socket import SHUT_WR
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import ApplicationError, PeerGone
from geventgate.gateway import rawsocket
from geventgate.gateway.rawsocket import MAX_HEAD, FrameEnds, parse_response_head
from geventgate.gateway.upgrade import TunnelSocket
from geventgate.testing import FakeExchange

from .conftest import wsgi_gateway

WAIT = 5.0  # seconds, for what is to happen at once
KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
HANDSHAKE = [
    ("Host", "example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    KEY,
    ("Sec-WebSocket-Version", "13"),
]
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\nSet-Cookie: a=1\r\n\r\n"
)
HELLO = b"\x81\x05hello"
CLOSES = {code: b"\x88\x02" + code.to_bytes(2, "big") for code in (1000, 1001, 1011, 1012)}


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with gevent.Timeout(4 * WAIT, AssertionError("the test hangs")):
        yield


def handshake(*more: tuple[str, str]) -> FakeExchange:
    return FakeExchange("GET", "/", [*HANDSHAKE, *more])


def http2_handshake(*more: tuple[str, str]) -> FakeExchange:
    fields = [("sec-websocket-version", "13"), *more]
    return FakeExchange("CONNECT", "/", fields, http_version="2", protocol="websocket")


def socket_of(environ: dict[str, Any]) -> TunnelSocket:
    """As simple-websocket finds it, under gevent's server."""
    assert environ["SERVER_SOFTWARE"].startswith("gevent")
    return environ["wsgi.input"].raw._sock.dup()


def writing(*pieces: bytes) -> Callable[..., Iterable[bytes]]:
    """An application that writes *pieces* to the handshake's socket, and no more."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sock = socket_of(environ)
        for piece in pieces:
            assert sock.send(piece) == len(piece)
        return []

    return application


def heard(exchange: FakeExchange) -> bytes:
    """All that the peer receives."""
    assert exchange.tunnel is not None
    data = b""
    with suppress(PeerGone):
        while more := exchange.tunnel.recv(65536):
            data += more
    return data


def exactly(recv: Callable[[int], bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += recv(size - len(data))
    return data


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


SPLITS = {
    "whole": lambda data: [data],
    "byte by byte": lambda data: [data[place : place + 1] for place in range(len(data))],
    "behind the head": lambda data: pieces(data, [data.find(b"\r\n\r\n") + 4]),
    "within its end": lambda data: pieces(data, [data.find(b"\r\n\r\n") + 2]),
}
split = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)


# --- the head


@split
def test_a_101_opens_the_tunnel_with_its_fields(answer, split):
    exchange = answer(writing(*split(HEAD + HELLO)), handshake())
    assert exchange.status == 101
    assert [(name, value) for name, value in exchange.fields if name not in ("Upgrade", "Connection")] == [
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Sec-WebSocket-Protocol", "chat"),
        ("Set-Cookie", "a=1"),
    ]
    assert exchange.field("Upgrade") == "websocket"
    assert exchange.field("Connection") == "Upgrade"
    assert heard(exchange) == HELLO + CLOSES[1000]


@split
def test_over_http2_it_is_a_200_without_the_proof(answer, split):
    def application(environ, start_response):
        for name in ("REQUEST_METHOD", "HTTP_UPGRADE", "HTTP_CONNECTION", "HTTP_HOST"):
            seen[name] = environ[name]
        seen["key"] = len(environ["HTTP_SEC_WEBSOCKET_KEY"])
        return writing(*split(HEAD + HELLO))(environ, start_response)

    seen: dict[str, Any] = {}
    exchange = answer(application, http2_handshake())
    assert seen == {
        "REQUEST_METHOD": "GET", "HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_HOST": "localhost",
        "key": 24,
    }  # fmt: skip
    assert exchange.status == 200
    assert exchange.fields == [("Sec-WebSocket-Protocol", "chat"), ("Set-Cookie", "a=1")]
    assert heard(exchange) == HELLO + CLOSES[1000]


@split
@pytest.mark.parametrize("make", [handshake, http2_handshake])
def test_another_head_is_that_response(answer, split, make):
    head = (
        b"HTTP/1.1 401 Who Are You\r\nContent-Type: text/plain\r\nWWW-Authenticate: Basic\r\nConnection: close\r\n\r\n"
    )
    exchange = answer(writing(*split(head + b"log in first\n")), make())
    assert (exchange.status, exchange.content) == (401, b"log in first\n")
    assert exchange.field("WWW-Authenticate") == "Basic"
    assert exchange.finished


def test_a_response_without_content(answer):
    exchange = answer(writing(b"HTTP/1.0 403\r\n\r\n"), handshake())
    assert (exchange.status, exchange.content, exchange.finished) == (403, b"", True)


BAD_HEADS = {
    "nonsense": b"\x81\x05hello",
    "almost": b"HTTP/2 101\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a short status": b"HTTP/1.1 10\r\n\r\n",
    "no version": b"HTTP/1.1\r\n\r\n",
    "no colon": b"HTTP/1.1 101 X\r\nUpgrade\r\n\r\n",
    "a folded field": b"HTTP/1.1 101 X\r\nA: b\r\n c: d\r\n\r\n",
    "a control character": b"HTTP/1.1 101 X\r\nA: b\0c\r\n\r\n",
    "a bare LF": b"HTTP/1.1 101 X\nA: b\r\n\r\n",
    "an interim status": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a transfer coding": b"HTTP/1.1 403 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "too much": b"HTTP/1.1 101 X\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n",
    "too much, and no end": b"HTTP/1.1 101 X\r\nA: " + b"x" * MAX_HEAD,
    "no end": b"HTTP/1.1 101 X\r\nA: b\r\n",
    "half a word": b"HT",
}


@pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_a_bad_head_is_a_500_and_one_line_in_the_log(answer, caplog, head, size):
    split = [head[place : place + size] for place in range(0, len(head), size)]
    with caplog.at_level(logging.DEBUG):
        exchange = answer(writing(*split), handshake())
    assert (exchange.status, exchange.finished, exchange.tunnel) == (500, True, None)
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "the application wrote to the handshake's socket, but" in record.getMessage()
    assert record.exc_info is None
    assert len(record.getMessage()) < 300


def test_200_to_an_http2_handshake_is_refused_as_anybodys(answer, caplog):
    exchange = answer(writing(b"HTTP/1.1 200 OK\r\n\r\n"), http2_handshake())
    assert exchange.status == 500
    assert len(caplog.records) == 1


token = st.text("abcXYZ-_!", min_size=1, max_size=10)
value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30).filter(
    lambda text: text.isprintable()
)
fields = st.lists(st.tuples(token, value), max_size=5)


@given(st.integers(300, 599), fields, st.binary(max_size=30), st.lists(st.integers(0, 500), max_size=8))
def test_any_head_split_anywhere(status, fields, content, cuts):
    lines = [f"HTTP/1.1 {status} Because", *[f"{name}: {value}" for name, value in fields]]
    wire = "\r\n".join([*lines, "", ""]).encode("latin-1") + content
    expected = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    assert parse_response_head(wire.partition(b"\r\n\r\n")[0]) == (f"{status} Because", expected)
    exchange = handshake()
    wsgi_gateway(writing(*pieces(wire, cuts))).handle(exchange)
    assert exchange.status == status
    if status != 304:
        assert exchange.content == content


@given(
    st.binary(min_size=1, max_size=200), st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 101 X\r\n", HEAD[:-2], HEAD])
)
def test_any_bytes_get_an_answer(data, before):
    exchange = handshake()
    wsgi_gateway(writing(before, data, data)).handle(exchange)
    assert exchange.finished
    assert exchange.status


# --- the frames behind it


def frame(opcode: int, size: int, masked: bool = False) -> bytes:
    mask = 0x80 if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 1 << 16:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + bytes(4 if masked else 0) + bytes(size)


sizes = st.one_of(st.integers(0, 130), st.sampled_from([65535, 65536]))
frames = st.lists(st.builds(frame, st.sampled_from([0, 1, 2, 9, 10]), sizes, st.booleans()), max_size=6)


@given(frames, st.lists(st.integers(0, 1 << 20), max_size=8))
def test_ends_of_frames_are_found_however_they_are_split(frames, cuts):
    ends = [sum(map(len, frames[: count + 1])) for count in range(len(frames))]
    walker, place = FrameEnds(), 0
    for piece in pieces(b"".join(frames), cuts):
        assert walker.advance(memoryview(piece)) == len(piece)
        place += len(piece)
        assert walker.between == (place in ends)
    walker, found = FrameEnds(), [0]
    for piece in pieces(b"".join(frames), cuts):
        view = memoryview(piece)
        while view:
            step = walker.advance(view, stop=True)
            found[-1] += step
            view = view[step:]
            if walker.between:
                found.append(found[-1])
    assert found == [*ends, found[-1]]
    assert not walker.closed


def test_a_close_is_seen_once_it_is_whole():
    walker = FrameEnds()
    walker.advance(memoryview(HELLO + b"\x88\x02\x03"))
    assert not walker.closed
    walker.advance(memoryview(b"\xe8"))
    assert walker.closed
    assert walker.between


# --- either this way or another


def test_nothing_happens_unless_it_is_written_to(answer):
    def application(environ, start_response):
        sock = socket_of(environ)
        assert sock.getpeername() == ("127.0.0.1", 50000)
        assert sock.gettimeout() is None
        assert environ["wsgi.input"].read() == b""
        start_response("403 Forbidden", [("Content-Length", "2")])
        kept.append(sock)
        return [b"no"]

    kept: list[TunnelSocket] = []
    exchange = answer(application, handshake())
    assert (exchange.status, exchange.content) == (403, b"no")
    with pytest.raises(OSError, match="closed"):
        kept[0].send(HEAD)


def test_other_requests_have_none(answer):
    def application(environ, start_response):
        with pytest.raises(AttributeError):
            socket_of(environ)
        start_response("200 OK", [])
        return [b""]

    assert answer(application, FakeExchange()).status == 200
    other = FakeExchange("GET", "/", [("Connection", "Upgrade"), ("Upgrade", "chat")])
    assert answer(application, other).status == 200


def test_a_handshake_with_content_keeps_it(answer):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    exchange = FakeExchange("GET", "/", HANDSHAKE, b"content")
    assert answer(application, exchange).content == b"content"


def test_behind_a_websocket_it_refuses(answer):
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        for data in (HEAD[:30], HEAD, b"nonsense"):
            with suppress(ApplicationError):
                socket_of(environ).send(data)
                refused.append(data)
        ws.send("still here")
        gevent.spawn(exchange.tunnel.sendall, b"\x88\x80" + bytes(4))
        return []

    refused: list[bytes] = []
    exchange = handshake()
    answer(application, exchange)
    assert refused == [HEAD[:30]]  # it is told with the head's end
    assert heard(exchange) == b"\x81\x0astill here" + CLOSES[1000]


def test_behind_it_a_websocket_refuses(answer):
    def application(environ, start_response):
        socket_of(environ).send(HEAD)
        with pytest.raises(ApplicationError):
            environ["wsgi.websocket"].accept()
        with pytest.raises(ApplicationError):
            environ["geventgate.upgrade"]()
        start_response("200 OK", [])(b"not sent")
        return [b"nor is this"]

    exchange = answer(application, handshake())
    assert exchange.status == 101
    assert heard(exchange) == CLOSES[1000]


def test_behind_a_response_it_refuses_and_the_response_goes_on(answer):
    def application(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one ")
        with pytest.raises(ApplicationError):
            socket_of(environ).send(HEAD)
        return [b"two"]

    assert answer(application, handshake()).content == b"one two"


def test_it_is_offered_under_another_key_too():
    def application(environ, start_response):
        assert environ["gunicorn.socket"] is socket_of(environ)
        environ["gunicorn.socket"].sendall(HEAD)
        raise StopIteration

    exchange = handshake()
    wsgi_gateway(application, socket_key="gunicorn.socket").handle(exchange)
    assert heard(exchange) == CLOSES[1000]


# --- receiving


def test_bytes_both_ways(answer):
    def application(environ, start_response):
        sock = socket_of(environ)
        assert sock.dup() is sock
        sock.settimeout(WAIT)
        reader = gevent.spawn(exactly, sock.recv, 3)  # before there is anything to receive from
        gevent.idle()
        sock.sendall(HEAD)
        assert exchange.tunnel is not None
        exchange.tunnel.sendall(b"abcdefghi")
        got.append(reader.get(timeout=WAIT))
        buffer = bytearray(3)
        assert sock.recv_into(buffer) == 3
        got.append(bytes(buffer))
        assert sock.fileno() >= 0
        got.append(exactly(sock.recv, 3))
        sock.send(HELLO)
        sock.shutdown(SHUT_WR)
        return []

    got: list[bytes] = []
    exchange = handshake()
    answer(application, exchange)
    assert got == [b"abc", b"def", b"ghi"]
    assert heard(exchange) == HELLO + CLOSES[1000]


def test_all_of_a_large_message_is_sent(answer):
    message = frame(2, 8_000_000)

    def application(environ, start_response):
        sock = socket_of(environ)
        assert sock.send(HEAD) == len(HEAD)
        ears.append(gevent.spawn(heard, exchange))
        assert sock.send(message) == len(message)
        return []

    ears: list[Any] = []
    exchange = handshake()
    answer(application, exchange)
    assert ears[0].get(timeout=WAIT) == message + CLOSES[1000]


def test_a_descriptor_serves_from_the_first_byte_on(answer):
    """The head too may come through it."""

    def application(environ, start_response):
        sock = socket_of(environ)
        os.write(sock.fileno(), HEAD + HELLO)
        with gevent.Timeout(WAIT):
            while exchange.tunnel is None:
                gevent.sleep(0.001)
        exchange.tunnel.sendall(b"there")
        assert exactly(sock.recv, 5) == b"there"
        return []

    exchange = handshake()
    answer(application, exchange)
    assert heard(exchange) == HELLO + CLOSES[1000]


# --- pages of other sites


@pytest.mark.parametrize(
    ("origin", "options", "allowed"),
    [
        ("http://example.com", {}, True),
        ("http://example.com:81", {}, False),
        ("http://evil.example", {}, False),
        ("null", {}, False),
        ("http://evil.example", {"ws_origins": ("https://friend.example",)}, False),
        ("https://friend.example", {"ws_origins": ("https://friend.example",)}, True),
        ("http://evil.example", {"ws_origins": ("*",)}, True),
    ],
)
def test_origins(answer, caplog, origin, options, allowed):
    exchange = answer(writing(HEAD, HELLO), handshake(("Origin", origin)), **options)
    assert exchange.status == (101 if allowed else 403)
    assert len(caplog.records) == (not allowed)
    if not allowed:
        assert exchange.tunnel is None
        assert exchange.content == b"Pages of this origin may not open WebSockets here.\n"
        assert f"refused a page of {origin!r} to open example.com: list it with --ws-origins" in caplog.text


def test_what_is_refused_looks_like_a_peer_that_has_gone(answer, monkeypatch):
    def application(environ, start_response):
        sock = socket_of(environ)
        sock.sendall(HEAD)
        reader = gevent.spawn(sock.recv, 100)
        with suppress(PeerGone):  # in the end, who only writes is told
            while True:
                sent.append(sock.send(HELLO))
                heard.append(reader.ready())  # in time, although nobody here waits for anything
        assert reader.get() == b""
        return []

    monkeypatch.setattr(rawsocket, "VOID_SECONDS", 0.05)
    sent: list[int] = []
    heard: list[bool] = []
    exchange = answer(application, handshake(("Origin", "http://evil.example")))
    assert exchange.status == 403
    assert heard[-1]
    assert sent
    assert set(sent) == {len(HELLO)}
    assert HELLO not in exchange.content


def test_what_is_sent_to_a_peer_that_has_gone_vanishes_for_a_moment(answer, monkeypatch):
    """simple-websocket looks where it receives; an exception of its send() would be the application's failure."""

    def application(environ, start_response):
        sock = socket_of(environ)
        sock.sendall(HEAD)
        exchange.tunnel.abort()
        sent.append(sock.send(HELLO))
        with pytest.raises(PeerGone):
            sock.recv(100)
        sent.append(sock.send(HELLO))
        gevent.sleep(0.1)
        sock.send(HELLO)
        raise AssertionError("nobody was told")

    monkeypatch.setattr(rawsocket, "VOID_SECONDS", 0.05)
    sent: list[int] = []
    exchange = handshake()
    answer(application, exchange)  # and that is no failure either
    assert sent == [len(HELLO)] * 2


class Gone(FakeExchange):
    """Its peer goes away before anything can be said."""

    def open_tunnel(self, fields=(), protocol=None):
        raise PeerGone

    def finish(self, data=b"", trailers=()):
        raise PeerGone


@pytest.mark.parametrize("first", [HEAD, b"nonsense", b"HTTP/1.1 101 X\r\n\r\n"])
@pytest.mark.parametrize("origin", [(), (("Origin", "http://evil.example"),)])
def test_a_peer_that_is_gone_before_the_answer(answer, first, origin):
    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(first)
        assert sock.recv(100) == b""
        return []

    exchange = Gone("GET", "/", [*HANDSHAKE, *origin])
    answer(application, exchange)
    assert exchange.aborted == "the peer has gone"


# --- how it ends


def flask_sock_in_gevent(environ, start_response):
    return []


def flask_sock_in_gunicorn(environ, start_response):
    raise StopIteration


def flask_sock_in_werkzeug(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b""]


def engineio_in_werkzeug(environ, start_response):
    raise ConnectionError


def caught_by_its_framework(environ, start_response):
    start_response("500 Internal Server Error", [])
    return [b"a page about it"]


def failing(environ, start_response):
    raise RuntimeError("as the test asked")


ENDINGS: list[tuple[Any, int, type[BaseException] | None]] = [
    (flask_sock_in_gevent, 1000, None),
    (flask_sock_in_gunicorn, 1000, None),
    (flask_sock_in_werkzeug, 1000, None),
    (engineio_in_werkzeug, 1000, None),
    (caught_by_its_framework, 1011, None),
    (failing, 1011, RuntimeError),
]


@pytest.mark.parametrize(("leave", "code", "raised"), ENDINGS)
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("make", [handshake, http2_handshake])
def test_endings(answer, caplog, leave, code, raised, closed, make):
    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)
        if closed:
            sock.send(b"\x88\x02\x03\xe9")  # its own Close; then we say none
        return leave(environ, start_response)

    exchange = make()
    if raised:
        with pytest.raises(raised):
            answer(application, exchange)
    else:
        answer(application, exchange)
    assert heard(exchange) == (b"\x88\x02\x03\xe9" if closed else CLOSES[code])
    assert not caplog.records


@pytest.mark.parametrize("leave", [flask_sock_in_gunicorn, engineio_in_werkzeug])
def test_without_it_these_endings_are_failures(answer, leave):
    with pytest.raises((StopIteration, ConnectionError)):
        answer(leave, handshake())


def test_a_connection_error_of_its_own_is_a_failure(answer):
    """As of a database; only the server's own, and the bare one, are an end."""

    def application(environ, start_response):
        socket_of(environ).send(HEAD)
        raise ConnectionRefusedError("a database")

    exchange = handshake()
    with pytest.raises(ConnectionRefusedError):
        answer(application, exchange)
    assert heard(exchange) == CLOSES[1011]


def test_a_frame_that_was_cut_is_followed_by_nothing(answer):
    assert heard(answer(writing(HEAD, frame(2, 1000)[:500]), handshake())) == frame(2, 1000)[:500]


def test_a_killed_one_is_cut(answer):
    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)
        raise gevent.GreenletExit

    exchange = handshake()
    with pytest.raises(gevent.GreenletExit):
        answer(application, exchange)
    with pytest.raises(PeerGone):
        exchange.tunnel.recv(1)


def test_a_reader_in_the_background_sees_the_peers_close_before_the_end(answer):
    """As simple-websocket has one: it must not lose the turn to read, and ends with the WebSocket."""

    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)

        def read():
            with suppress(OSError):  # it may be closed when we come back
                while data := sock.recv(100):
                    got.append(data)
            sock.close()

        readers.append(gevent.spawn(read))
        gevent.idle()
        sock.send(CLOSES[1000])
        gevent.spawn_later(0.02, exchange.tunnel.sendall, b"\x88\x82\0\0\0\0\x03\xe8")
        return []

    got: list[bytes] = []
    readers: list[Any] = []
    exchange = handshake()
    answer(application, exchange)
    readers[0].get(timeout=WAIT)
    assert got == [b"\x88\x82\0\0\0\0\x03\xe8"]
    assert heard(exchange) == CLOSES[1000]


class SlowToClose(FakeExchange):
    """What its peer is still sending takes a while to be read away."""

    left = False

    def open_tunnel(self, fields=(), protocol=None):
        tunnel = super().open_tunnel(fields, protocol)
        close = tunnel.close

        def slowly():
            gevent.sleep(0.05)
            close()
            self.left = True

        tunnel.close = slowly
        return tunnel


def test_the_end_waits_for_whoever_closes_already(answer):
    """It is simple-websocket's reader that closes, as a rule."""

    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)
        gevent.spawn(sock.close)
        gevent.idle()
        return []

    exchange = SlowToClose("GET", "/", HANDSHAKE)
    answer(application, exchange)
    assert exchange.left


def test_who_still_reads_once_it_ends_gets_the_end(answer):
    """Files keep a socket open, but not behind the application's end."""

    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)
        file = sock.makefile("rb", 0)

        def read():
            while data := file.read(1):
                got.append(data)
            return "to the end"

        readers.append(gevent.spawn(read))
        gevent.spawn_later(0.02, exchange.tunnel.sendall, b"abc")
        gevent.idle()
        return []

    got: list[bytes] = []
    readers: list[Any] = []
    exchange = SlowToClose("GET", "/", HANDSHAKE)
    answer(application, exchange)
    assert readers[0].get(timeout=WAIT) == "to the end"
    assert got == [b"a"]


def test_a_peer_that_does_not_answer_its_close_is_not_waited_for(answer):
    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)
        readers.append(gevent.spawn(sock.recv, 100))
        gevent.idle()
        return []

    readers: list[Any] = []
    with gevent.Timeout(WAIT):
        answer(application, handshake(), ws_close_timeout=0.05)
        with suppress(OSError):
            assert readers[0].get(timeout=WAIT) == b""


# --- the server stops


class Serving:
    """A gateway that serves one handshake, beside the test."""

    def __init__(self, application: Callable[..., Any], **options: Any) -> None:
        self.exchange = handshake()
        self.gateway = wsgi_gateway(application, **options)
        self.gateway.start()
        self.handling = gevent.spawn(self.gateway.handle, self.exchange)
        with gevent.Timeout(WAIT):
            while self.exchange.tunnel is None:
                gevent.sleep(0.001)
        self.peer = self.exchange.tunnel

    def heard(self, size: int) -> bytes:
        with gevent.Timeout(WAIT):
            return exactly(self.peer.recv, size)


def echoing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Ends when it is told: like simple-websocket it answers a Close in any case."""
    sock = socket_of(environ)
    sock.send(HEAD)
    while data := sock.recv(100):
        sock.send(data)
        if data[:1] == b"\x88":
            break
    return []


@pytest.mark.parametrize(("restarts", "code"), [(False, 1001), (True, 1012)])
def test_a_stop_says_close_and_the_application_hears_the_peers(restarts, code):
    serving = Serving(echoing)
    serving.peer.sendall(HELLO)
    assert serving.heard(len(HELLO)) == HELLO
    serving.gateway.drain(restarts)
    assert serving.heard(4) == CLOSES[code]
    assert not serving.handling.ready()
    serving.peer.sendall(CLOSES[code])
    serving.handling.get(timeout=WAIT)
    assert heard(serving.exchange) == b""  # its answer to the answer is not sent


def test_one_that_comes_while_the_server_stops_is_closed_too():
    def application(environ, start_response):
        begin.wait()
        return echoing(environ, start_response)

    begin = Event()
    exchange, gateway = handshake(), wsgi_gateway(application)
    gateway.start()
    handling = gevent.spawn(gateway.handle, exchange)
    gevent.idle()
    gateway.drain(False)
    begin.set()
    with gevent.Timeout(WAIT):
        while exchange.tunnel is None:
            gevent.sleep(0.001)
        assert exactly(exchange.tunnel.recv, 4) == CLOSES[1001]
    exchange.tunnel.sendall(CLOSES[1001])
    handling.get(timeout=WAIT)


@pytest.mark.parametrize("pumped", [False, True])
def test_within_a_frame_the_close_waits_for_its_end(pumped):
    def application(environ, start_response):
        sock = socket_of(environ)
        if pumped:
            assert sock.fileno() >= 0
        sock.send(HEAD + message[:400])
        rest.wait()
        sock.send(message[400:] + HELLO)
        assert sock.recv(100) == b""
        return []

    message = frame(2, 1000)
    rest = Event()
    serving = Serving(application)
    assert serving.heard(400) == message[:400]
    serving.gateway.drain(False)
    gevent.sleep(0.01)
    assert not serving.peer.pending()
    rest.set()
    assert serving.heard(len(message) - 400 + 4) == message[400:] + CLOSES[1001]
    serving.peer.shutdown()
    serving.handling.get(timeout=WAIT)
    assert heard(serving.exchange) == b""


@pytest.mark.parametrize("deaf", ["peer", "application", "both write"])
def test_a_stop_waits_for_nobody_longer_than_the_closing_handshake_may_take(deaf, caplog):
    """A peer that does not answer, an application that does not listen, and one that only writes to such a peer."""

    def application(environ, start_response):
        sock = socket_of(environ)
        sock.send(HEAD)
        if deaf == "peer":
            with suppress(OSError):
                while sock.recv(100):
                    pass
            return []
        with suppress(OSError):
            while True:
                sock.send(frame(2, 30_000 if deaf == "both write" else 10))
                gevent.sleep(0.001)
        return []

    caplog.set_level(logging.INFO)
    serving = Serving(application, ws_close_timeout=0.1)
    gevent.sleep(0.02)
    serving.gateway.drain(False)
    if deaf == "application":
        gevent.spawn(heard, serving.exchange)
    serving.handling.get(timeout=WAIT)
    assert caplog.messages == [f"{serving.exchange}: cut: our Close was not answered"]


def test_a_raw_socket_is_no_member_once_it_is_over(answer):
    gateway = wsgi_gateway(writing(HEAD))
    gateway.handle(handshake())
    assert len(gateway._websockets) == 0
