"""The life of an HTTP/2 connection: many exchanges at once, over both engines."""

import contextvars
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.local import local

from geventgate.errors import ApplicationError, NotSupported, PeerError, PeerGone, PeerTimeout
from geventgate.exchange import Exchange
from geventgate.protocol.http2 import CANCEL, INTERNAL_ERROR, LAST_STREAM, NO_ERROR, REFUSED_STREAM
from geventgate.server.http2 import WIDER, Http2Connection
from geventgate.server.server import Server
from geventgate.testing import Http2Client, Http2Stream, StreamReset

from .conftest import PATIENCE, Site

Until = Callable[..., None]
Handle = Callable[[Exchange], None]
ENABLE_PUSH, INITIAL_WINDOW_SIZE = 2, 4  # settings
WINDOW = 65_535


@pytest.fixture(params=["h2", "ngh2"])
def site(request: pytest.FixtureRequest, site: Site, caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    """Nothing may be logged as an error but in tests that use ``failures``."""
    site.defaults |= {"http2_cleartext": "prior-knowledge", "http2_engine": request.param}
    yield site
    if "failures" not in request.fixturenames:
        assert [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


@pytest.fixture
def failures(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def hello(exchange: Exchange) -> None:
    exchange.send_head("200 OK", [("Content-Type", "text/plain")])
    exchange.finish(b"hello")


def until_gone(gone: Event) -> Handle:
    """Waits for its peer to go, and says so."""

    def handle(exchange: Exchange) -> None:
        assert exchange.closed.wait(PATIENCE)
        gone.set()
        hello(exchange)

    return handle


def read_all(exchange: Exchange, size: int = 65536) -> bytes:
    return b"".join(iter(lambda: exchange.read(size), b""))


def echo(exchange: Exchange) -> None:
    data = read_all(exchange)
    exchange.send_head("200 OK", [])
    exchange.finish(data)


def by_path(**handles: Handle) -> Handle:
    """``/name`` is answered by *name*; anything else with hello."""
    return lambda exchange: handles.get(exchange.request.path[1:].decode(), hello)(exchange)


def connection(server: Server) -> Http2Connection:
    (only,) = server.service.connections
    assert isinstance(only, Http2Connection)
    return only


def cut(stream: Http2Stream) -> int:
    """The code that the stream is reset with."""
    with pytest.raises(StreamReset) as caught:
        stream.response()
    return caught.value.code


def lost(client: Http2Client) -> None:
    """Read until the server has closed the connection."""

    def read() -> None:
        while True:
            client.wait()

    with pytest.raises(ConnectionResetError):
        read()


def refused(client: Http2Client, stream: Http2Stream, data: bytes) -> int:
    """Send *data* until the stream is reset; return the code."""

    def send() -> None:
        while True:
            stream.send(data)
            client.ping()

    with pytest.raises(StreamReset) as caught:
        send()
    return caught.value.code


# --- many at once


def test_a_request(site: Site) -> None:
    site.serve(hello)
    client = site.http2()
    for _ in range(3):
        response = client.request()
        assert (response.status, response.content) == (200, b"hello")
        assert [name for name, _ in response.fields] == ["content-type", "content-length", "server", "date"]
        assert (response.field("content-length"), response.field("server")) == ("5", "geventgate")


def test_what_a_handler_is_told(site: Site) -> None:
    told: list[Any] = []

    def handle(exchange: Exchange) -> None:
        head = exchange.request
        told.append((head.method, head.scheme, head.authority, head.path, head.query, head.http_version))
        assert (exchange.tls, exchange.peer[0], exchange.local[0]) == (None, "127.0.0.1", "127.0.0.1")
        hello(exchange)

    site.serve(handle)
    site.http2().request("PATCH", "/a%20b?c=d", [("Host", "example.com:80")])
    assert told == [("PATCH", "http", b"example.com:80", b"/a%20b", b"c=d", "2")]


def test_a_hundred_streams_run_at_once(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        gevent.sleep(0.2)
        hello(exchange)

    site.serve(handle)
    client = site.http2()
    began = time.monotonic()
    streams = [client.open(ended=True) for _ in range(100)]
    assert {stream.response().content for stream in streams} == {b"hello"}
    assert time.monotonic() - began < PATIENCE  # one after the other would be 20


def test_one_that_blocks_holds_up_nobody(site: Site) -> None:
    go = Event()

    def block(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    site.serve(by_path(block=block))
    client = site.http2()
    blocked = [client.open("GET", "/block", ended=True) for _ in range(3)]
    for _ in range(50):
        assert client.request().content == b"hello"
    streams = [client.open(ended=True) for _ in range(50)]
    assert {stream.response().status for stream in streams} == {200}
    assert [stream.status for stream in blocked] == [0, 0, 0]
    go.set()
    assert [stream.response().content for stream in blocked] == [b"hello"] * 3


def test_much_goes_both_ways_at_once(site: Site) -> None:
    """Neither side's full buffers may stop the other: a reader that writes, or a writer that reads, would."""
    content = os.urandom(8 * 1024 * 1024)

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        while data := exchange.read(65536):
            exchange.send(data)
        exchange.finish()

    site.serve(handle)
    client = site.http2()

    def talk() -> bool:
        stream = client.open("POST")
        sending = gevent.spawn(stream.send, content)
        sending.link_value(lambda _: stream.end())
        received = stream.response().content
        sending.get(timeout=PATIENCE)
        return received == content

    talks = [gevent.spawn(talk) for _ in range(3)]
    while not all(talk.dead for talk in talks):
        began = time.monotonic()
        assert client.request("PUT", "/").content == b""
        assert time.monotonic() - began < PATIENCE
        gevent.sleep(0.05)
    assert [talk.get() for talk in talks] == [True] * 3


def test_a_flood_of_work_on_one_connection_does_not_starve_another(site: Site) -> None:
    served = []

    def greedy(exchange: Exchange) -> None:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        served.append(exchange)
        hello(exchange)

    site.serve(by_path(greedy=greedy))
    flooding, modest = site.http2(), site.http2()
    for _ in range(100):
        section = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/greedy")]
        flooding.h2.send_headers(flooding.h2.get_next_available_stream_id(), section, end_stream=True)
    flooding.flush()
    while not served:
        gevent.sleep(0)
    for _ in range(3):
        assert modest.request().status == 200
    assert len(served) < 70


def test_nothing_leaks_from_one_stream_to_the_next(site: Site) -> None:
    """On recycled greenlets, and on one greenlet that serves what is pending."""
    mine, yours = local(), contextvars.ContextVar[int]("yours", default=0)
    seen, greenlets = [], set()

    def handle(exchange: Exchange) -> None:
        seen.append((getattr(mine, "value", None), yours.get()))
        mine.value = 1
        yours.set(1)
        greenlets.add(gevent.getcurrent())
        hello(exchange)

    site.serve(handle)
    client = site.http2()
    for _ in range(5):
        for stream in [client.open(ended=True) for _ in range(20)]:
            stream.response()
    assert seen == [(None, 0)] * 100
    assert len(greenlets) < 30


# --- the content of requests


@pytest.mark.parametrize("size", [1, 3, 65536])
def test_content_and_trailers(site: Site, size: int) -> None:
    def handle(exchange: Exchange) -> None:
        assert exchange.has_content
        data = read_all(exchange, size)
        assert exchange.read(size) == b""
        exchange.send_head(200, [])
        exchange.finish(data + b"%r" % (exchange.trailers(),))

    site.serve(handle)
    client = site.http2()
    assert client.request("POST", "/", [], b"hello").content == b"hello()"
    assert client.request("POST", "/", [], [b"hel", b"lo"], [("A", "b")]).content == b"hello((b'a', b'b'),)"


@pytest.mark.parametrize(
    ("size", "waits", "limit", "whole"),
    [(1, True, 0, True), (16_384, True, 0, True), (16_385, True, 0, False), (5, False, 0, False), (5, True, 5, True),
     (5, True, 4, False)],
)  # fmt: skip
def test_content_that_has_come(site: Site, size: int, waits: bool, limit: int, whole: bool) -> None:
    """Small content may be taken at once, by who has read none of it."""
    content = bytes(size)

    def handle(exchange: Exchange) -> None:
        if waits:
            gevent.sleep(0.05)
        else:
            assert exchange.read(1) == b"\0"
        taken = exchange.take_whole()
        assert (taken == content) is whole
        if not limit:
            assert read_all(exchange, 100) == (b"" if whole else content[not waits :])
        exchange.send_head(200, [])
        exchange.finish(b"done")

    server = site.serve(handle, limit_request_body=limit)
    client = site.http2()
    stream = client.open("POST", "/")
    stream.send(content)
    stream.end()
    assert stream.response().content == b"done"
    assert connection(server)._spare == connection(server)._service.http2_limits.spare_window


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_content(site: Site, method: str) -> None:
    def handle(exchange: Exchange) -> None:
        assert not exchange.has_content
        echo(exchange)

    site.serve(handle)
    assert site.http2().request(method).content == b""


def test_credit_follows_the_reads(site: Site) -> None:
    """Who does not read stops his own client, and nobody else's stream."""
    go, begun = Event(), Event()

    def later(exchange: Exchange) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        echo(exchange)

    site.serve(by_path(later=later, echo=echo))
    client = site.http2()
    stream = client.open("POST", "/later")
    content = os.urandom(1_000_000)
    sending = gevent.spawn(stream.send, content)
    assert begun.wait(PATIENCE)
    assert client.request("POST", "/echo", [], content).content == content
    assert not sending.dead
    assert client.h2.local_flow_control_window(stream.stream_id) == 0
    go.set()
    sending.get(timeout=PATIENCE)
    stream.end()
    assert stream.response().content == content


def test_content_that_nobody_reads_holds_up_nobody(site: Site) -> None:
    """The connection's window has room for all that streams may send unread."""
    go = Event()

    def ignore(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    site.serve(by_path(ignore=ignore, echo=echo))
    client = site.http2()
    streams = [client.open("POST", "/ignore") for _ in range(90)]
    for stream in streams:
        stream.send(b"a" * WINDOW)
    assert client.request("POST", "/echo", [], b"a" * 300_000).content == b"a" * 300_000
    go.set()
    for stream in streams:
        assert stream.response().content == b"hello"
    for _ in range(90):  # the credit of what was never read has come back
        assert client.request("POST", "/", [], b"a" * 300_000).content == b"hello"


def test_who_reads_has_more_at_hand_and_gives_it_back(site: Site, until: Until) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        exchange.read(1)
        assert go.wait(PATIENCE)
        hello(exchange)

    server = site.serve(handle)
    client = site.http2()
    spare = connection(server)._spare
    streams = [client.open("POST") for _ in range(20)]
    for stream in streams:
        stream.send(b"a")
    client.ping()
    windows = [client.h2.local_flow_control_window(stream.stream_id) for stream in streams]
    assert [window > WINDOW for window in windows] == [number < spare // WIDER for number in range(20)]
    assert max(windows) <= WINDOW + WIDER
    streams[0].send(b"a" * windows[0])
    go.set()
    assert {stream.response().status for stream in streams} == {200}
    until(lambda: connection(server)._spare == spare)


def test_an_answer_before_the_content_has_come(site: Site) -> None:
    """ "A server MAY request that the client abort transmission of a request without error" (RFC 9113 §8.1)."""
    site.serve(hello)
    client = site.http2()
    stream = client.open("POST")
    stream.send(b"a")
    assert stream.response().content == b"hello"
    assert refused(client, stream, b"a" * 10_000) == NO_ERROR
    assert client.request().content == b"hello"


@pytest.mark.parametrize("trailers", [[], [("x-sum", "1")]], ids=["", "trailers"])
def test_a_little_content_that_nobody_reads_may_end(site: Site, until: Until, trailers: list[tuple[str, str]]) -> None:
    """Clients exist that lose the answer to a reset."""
    server = site.serve(hello)
    client = site.http2()
    stream = client.open("POST")
    assert stream.response().content == b"hello"
    for _ in range(6):
        stream.send(b"a" * 10_000)
        client.ping()
    stream.end(trailers)
    until(lambda: not connection(server)._unread)
    client.ping()
    assert stream.reset_code is None
    assert client.request("POST", "/", [], b"a" * 60_000).content == b"hello"


def test_content_that_was_refused_is_reset_after_a_while(site: Site, until: Until) -> None:
    """Its client may stop by itself until then; it gets no more credit."""
    server = site.serve(hello, limit_request_body=10)
    client = site.http2()
    stream = client.open("POST", "/", [("content-length", "100000")])
    stream.send(b"a" * WINDOW)
    assert stream.response().status == 413
    client.ping()
    assert stream.reset_code is None
    assert client.h2.local_flow_control_window(stream.stream_id) == 0
    until(lambda: not connection(server)._unread)
    client.ping()
    assert stream.reset_code == NO_ERROR


def test_100_continue_is_sent_by_the_first_read_only(site: Site) -> None:
    may_read = Event()

    def handle(exchange: Exchange) -> None:
        assert may_read.wait(PATIENCE)
        first = exchange.read(2)
        exchange.send_head(200, [])
        exchange.finish(first + read_all(exchange, 2))

    site.serve(handle)
    client = site.http2()
    stream = client.open("POST", "/", [("Expect", "100-continue"), ("Content-Length", "5")])
    client.ping()
    assert stream.informational == []
    may_read.set()
    while not stream.informational:
        client.wait()
    stream.send(b"hello")
    stream.end()
    response = stream.response()
    assert (response.content, response.informational) == (b"hello", [(100, [])])


def test_no_100_continue_for_content_that_has_come(site: Site) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        echo(exchange)

    site.serve(handle)
    client = site.http2()
    stream = client.open("POST", "/", [("Expect", "100-continue")])
    stream.send(b"hello")
    client.ping()
    go.set()
    stream.end()
    response = stream.response()
    assert (response.content, response.informational) == (b"hello", [])


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("POST", "/", [("Content-Length", "1001")], 413),
        ("POST", "/", [("Expect", "x")], 417),
        ("GET", "/" + "a" * 9000, [], 414),
        ("GET", "/", [("A", "b")] * 101, 431),
        ("GET", "/", [("A", "b" * 33_000)], 431),
        ("CONNECT", "a:80", [], 501),
    ],
)
def test_refused_requests(site: Site, method: str, path: str, fields: Any, status: int) -> None:
    site.serve(echo, limit_request_body=1000)
    client = site.http2()
    response = client.open(method, path, fields).response()
    assert response.status == status
    assert response.field("content-type") == "text/plain; charset=utf-8"
    assert client.request("POST", "/", [], b"a" * 1000).status == 200


def test_a_tunnel_has_no_content_of_a_stated_length(site: Site) -> None:
    site.serve(hello, allow_connect=True)
    assert site.http2().open("CONNECT", "a:80", [("Content-Length", "5")]).response().status == 400


def test_limit_of_content_whose_length_is_not_stated(site: Site) -> None:
    site.serve(echo, limit_request_body=1000)
    client = site.http2()
    assert client.request("POST", "/", [], [b"a" * 600, b"a" * 600]).status == 413
    assert client.request("POST", "/", [], [b"a" * 500, b"a" * 500]).status == 200


# --- responses


def answering(status: str | int, fields: Any, *pieces: bytes, trailers: Any = ()) -> Handle:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(status, fields)
        for piece in pieces:
            exchange.send(piece)
        exchange.finish(trailers=trailers)

    return handle


def test_pieces_and_trailers(site: Site) -> None:
    site.serve(answering(200, [("A", "b")], b"a", b"", b"b" * 100_000, trailers=[("A", "b"), (b"C", b"d")]))
    client = site.http2()
    for _ in range(2):
        response = client.request()
        assert response.content == b"a" + b"b" * 100_000
        assert response.trailers == [("a", "b"), ("c", "d")]
        assert (response.field("a"), response.field("content-length")) == ("b", None)


def test_trailers_without_content(site: Site) -> None:
    site.serve(answering(200, [], trailers=[("grpc-status", "0")]))
    response = site.http2().request()
    assert (response.content, response.trailers) == (b"", [("grpc-status", "0")])


def test_no_content_but_its_end(site: Site) -> None:
    site.serve(answering(200, []))
    response = site.http2().request()
    assert (response.content, response.field("content-length")) == (b"", "0")


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        ("HEAD", 200, [], "5"),
        ("HEAD", 200, [("Content-Length", "77")], "77"),
        ("GET", 204, [], None),
        ("GET", 204, [("Content-Length", "5")], None),
        ("GET", 304, [], None),
        ("GET", 304, [("Content-Length", "77")], "77"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("trailers", [[], [("A", "b")]])
def test_responses_without_content(
    site: Site, method: str, status: int, fields: Any, length: str | None, whole: bool, trailers: Any
) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(status, fields)
        if not whole:
            exchange.send(b"hel")
            exchange.send(b"lo")
        exchange.finish(b"hello" if whole else b"", trailers)
        assert exchange.sent == 0
        ended.append(exchange)

    site.serve(handle)
    client = site.http2()
    ended: list[Exchange] = []
    for number in range(2):
        response = client.request(method)
        assert (response.status, response.content) == (status, b"")
        assert response.field("content-length") == (length if (whole and not trailers) or fields else None)
        assert len(ended) == number + 1


def test_content_longer_than_stated_is_cut_off(site: Site) -> None:
    site.serve(answering(200, [("Content-Length", "5")], b"hel", b"lo, and more"))
    client = site.http2()
    for _ in range(2):
        assert client.request().content == b"hello"


def test_content_shorter_than_stated_is_visible_as_cut(site: Site) -> None:
    site.serve(by_path(echo=echo, short=answering(200, [("Content-Length", "50")], b"hello")))
    client = site.http2()
    other = client.open("POST", "/echo")
    assert cut(client.open("GET", "/short", ended=True)) == INTERNAL_ERROR
    other.send(b"unharmed")
    other.end()
    assert other.response().content == b"unharmed"


class Mishap(Exception):
    pass


def test_a_handler_that_fails_after_its_head(site: Site, failures: Callable[[], list[str]]) -> None:
    def fail(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"begun")
        raise Mishap

    site.serve(by_path(fail=fail, echo=echo))
    client = site.http2()
    other = client.open("POST", "/echo")
    assert cut(client.open("GET", "/fail", ended=True)) == INTERNAL_ERROR
    assert len(failures()) == 1
    other.send(b"unharmed")
    other.end()
    assert other.response().content == b"unharmed"


@pytest.mark.parametrize("held", [True, False])
def test_a_handler_that_fails_before_its_head(site: Site, failures: Callable[[], list[str]], held: bool) -> None:
    def fail(exchange: Exchange) -> None:
        if held:
            exchange.send_head(200, [("X-Lost", "1")])
        raise Mishap

    site.serve(by_path(fail=fail))
    client = site.http2()
    response = client.request("GET", "/fail")
    assert (response.status, response.field("x-lost")) == (500, None)
    assert len(failures()) == 1
    assert client.request().content == b"hello"


def test_a_handler_that_answers_nothing(site: Site, failures: Callable[[], list[str]]) -> None:
    site.serve(lambda exchange: None)
    assert site.http2().request().status == 500
    assert len(failures()) == 1


def test_errors_of_the_peer_are_answered_as_what_they_are(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        raise PeerError(422, "so it is")

    site.serve(handle)
    response = site.http2().request()
    assert response.status == 422
    assert b"so it is" in response.content


@pytest.mark.parametrize(
    "misuse",
    [
        lambda e: e.send(b"a"),
        lambda e: e.finish(b"a"),
        lambda e: e.send_head(103, []),
        lambda e: e.send_head(200, [("A", "b\r\nC: d")]),
        lambda e: e.send_file(io.BytesIO(b"a"), 0, 1),
        lambda e: e.send_informational(101, []),
        lambda e: e.send_informational(103, [("A", "\0")]),
        lambda e: e.open_tunnel(),
        lambda e: e.hijack(),
        lambda e: e.push(b"no slash"),
        lambda e: e.push(b"/ space"),
        lambda e: e.push(b"/", [("A", "\n")]),
    ],
)  # fmt: skip
def test_misuse_is_refused_and_leaves_the_exchange_as_it_was(site: Site, misuse: Callable[[Any], None]) -> None:
    def handle(exchange: Exchange) -> None:
        with pytest.raises(ApplicationError):
            misuse(exchange)
        hello(exchange)

    site.serve(handle)
    assert site.http2().request().content == b"hello"


@pytest.mark.parametrize(
    "misuse",
    [
        lambda e: e.send(b"a"),
        lambda e: e.finish(),
        lambda e: e.send_head(200, []),
        lambda e: e.send_informational(103, []),
    ],
)
def test_nothing_comes_behind_the_end(site: Site, misuse: Callable[[Any], None]) -> None:
    caught = []

    def handle(exchange: Exchange) -> None:
        hello(exchange)
        with pytest.raises(ApplicationError):
            misuse(exchange)
        caught.append(True)

    site.serve(handle)
    assert site.http2().request().content == b"hello"
    assert caught == [True]


def test_fields_of_a_connection_are_no_fields_of_a_response(site: Site) -> None:
    """ "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields" (§8.2.2)."""
    fields = [("Connection", "close"), ("Keep-Alive", "a"), ("Transfer-Encoding", "chunked"), ("X-A", "b")]
    site.serve(by_path(upgrade=answering(426, [("Upgrade", "x")]), fields=answering(200, fields)))
    client = site.http2()
    for path in ("/fields", "/upgrade", "/fields"):
        response = client.request("GET", path)
        named = {name for name, _ in response.fields}
        assert named <= {"x-a", "content-length", "server", "date"}


def test_informational(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_informational(103, [("Link", "</a>")])
        exchange.send_informational(103, [("Link", "</b>")])
        hello(exchange)

    site.serve(handle)
    response = site.http2().request()
    assert response.informational == [(103, [("link", "</a>")]), (103, [("link", "</b>")])]
    assert response.content == b"hello"


def test_an_informational_response_leaves_at_once(site: Site) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_informational(103, [("Link", "</a>")])
        assert go.wait(PATIENCE)
        hello(exchange)

    site.serve(handle)
    client = site.http2()
    stream = client.open(ended=True)
    while not stream.informational:
        client.wait()
    assert stream.status == 0
    go.set()
    assert stream.response().status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_leaves_before_its_content(site: Site, method: str) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"")
        assert go.wait(PATIENCE)
        exchange.finish(b"a")

    site.serve(handle)
    stream = site.http2().open(method, ended=True)
    assert stream.head() == 200
    assert stream.ended == (method == "HEAD")
    go.set()
    assert stream.response().content == (b"" if method == "HEAD" else b"a")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("pieces", [[], [b"a"], [b"a", b"b"]])
def test_a_response_leaves_before_its_handler_returns(site: Site, method: str, pieces: list[bytes]) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        for piece in pieces[1:]:
            exchange.send(piece)
        exchange.finish(b"".join(pieces[:1]))
        assert go.wait(PATIENCE)

    site.serve(handle)
    response = site.http2().request(method)
    assert response.content == (b"" if method == "HEAD" else b"".join(reversed(pieces)))
    go.set()


@pytest.mark.parametrize("opened", ["file", "BytesIO"])
@pytest.mark.parametrize(("offset", "count"), [(0, 256_000), (7, 70_000), (0, 0), (255_000, 5000)])
def test_files(site: Site, tmp_path: Any, opened: str, offset: int, count: int) -> None:
    content = bytes(range(256)) * 1000
    path = tmp_path / "file"
    path.write_bytes(content)

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        with path.open("rb") if opened == "file" else io.BytesIO(content) as file:
            exchange.send_file(file, offset, count)
        exchange.finish()

    site.serve(handle)
    client = site.http2()
    assert client.request().content == content[offset : offset + count]
    assert client.request("HEAD").content == b""


# --- push


def test_a_pushed_response(site: Site) -> None:
    pushed = []

    def page(exchange: Exchange) -> None:
        assert exchange.can_push
        pushed.append(exchange.push(b"/style.css?v=1", [("Accept", "text/css")]))
        hello(exchange)

    def style(exchange: Exchange) -> None:
        assert (exchange.request.method, exchange.request.query, exchange.has_content) == ("GET", b"v=1", False)
        assert exchange.request.get(b"accept") == b"text/css"
        assert (exchange.can_push, exchange.push(b"/more")) == (False, False)
        echo_path(exchange)

    def echo_path(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.finish(exchange.request.target)

    site.serve(by_path(page=page, **{"style.css": style}))
    client = site.http2()
    response = client.request("GET", "/page")
    assert (response.content, pushed) == (b"hello", [True])
    (promised,) = response.pushed
    assert promised.request is not None
    assert dict(promised.request)[":path"] == "/style.css?v=1"
    assert promised.response().content == b"/style.css?v=1"


def test_a_client_that_wants_no_pushes(site: Site) -> None:
    pushed = []

    def handle(exchange: Exchange) -> None:
        pushed.append((exchange.can_push, exchange.push(b"/a")))
        hello(exchange)

    site.serve(handle)
    response = site.http2(settings={ENABLE_PUSH: 0}).request()
    assert (response.content, response.pushed, pushed) == (b"hello", [], [(False, False)])


def test_a_pushed_response_that_is_refused_is_not_made(site: Site, until: Until) -> None:
    ended = Event()

    def page(exchange: Exchange) -> None:
        exchange.push(b"/pushed")
        hello(exchange)

    server = site.serve(by_path(page=page, pushed=until_gone(ended)))
    client = site.http2()
    (promised,) = client.request("GET", "/page").pushed
    promised.reset()
    assert ended.wait(PATIENCE)
    until(lambda: not connection(server).exchanges)
    assert client.request().content == b"hello"


def test_nothing_is_pushed_behind_the_end(site: Site) -> None:
    pushed = []

    def handle(exchange: Exchange) -> None:
        hello(exchange)
        pushed.append(exchange.push(b"/a"))

    site.serve(handle)
    client = site.http2()
    assert client.request().pushed == []
    client.ping()
    assert pushed == [False]


# --- priorities (RFC 9218)


class Recorder(Http2Client):
    """``order``: the streams as their content comes."""

    def _hear(self, event: Any) -> None:
        super()._hear(event)
        if type(event).__name__ == "DataReceived":
            self.__dict__.setdefault("order", []).append(event.stream_id)


@pytest.mark.parametrize("who", ["client", "application"])
def test_urgent_answers_go_first(site: Site, who: str) -> None:
    go, waiting = Event(), []

    def handle(exchange: Exchange) -> None:
        waiting.append(exchange)
        assert go.wait(PATIENCE)
        said = [("Priority", exchange.request.path[1:])] if who == "application" else []
        exchange.send_head(200, said)
        exchange.finish(b"a" * 10_000)

    server = site.serve(handle)
    client = Recorder(server.addresses[0])
    site.clients.append(client)
    said = ("u=7", "u=3", "u=0, i", "u=5")
    streams = [
        client.open("GET", f"/{value.replace(' ', '')}", [("Priority", value)] if who == "client" else [], ended=True)
        for value in said
    ]
    client.ping()
    assert len(waiting) == 4
    go.set()
    assert {stream.response().content for stream in streams} == {b"a" * 10_000}
    ids = [stream.stream_id for stream in streams]
    assert client.__dict__["order"] == [ids[2], ids[1], ids[3], ids[0]]


# --- the gone


def test_a_peer_that_resets_a_stream_ends_who_waits_on_it(site: Site) -> None:
    caught: dict[bytes, BaseException] = {}
    ended = Event()

    def wait(exchange: Exchange) -> None:
        closed = exchange.closed
        assert not closed.is_set()
        try:
            if exchange.request.path == b"/read":
                read_all(exchange)
            else:
                exchange.send_head(200, [])
                exchange.send(b"a" * 1_000_000)
        except PeerGone as error:
            caught[exchange.request.path] = error
            assert closed.is_set()
            with pytest.raises(PeerGone):
                exchange.read(1)
            if exchange.request.path == b"/read":
                exchange.send_head(200, [])
            with pytest.raises(PeerGone):
                exchange.send(b"a")
            raise
        finally:
            if len(caught) == 2:
                ended.set()

    site.serve(by_path(read=wait, write=wait))
    client = site.http2()
    streams = client.open("POST", "/read"), client.open("POST", "/write")
    streams[0].send(b"abc")
    streams[1].head()
    for stream in streams:
        stream.reset()
    assert ended.wait(PATIENCE)
    assert isinstance(caught[b"/read"], ConnectionResetError)
    assert client.request().content == b"hello"


def test_closed_tells_a_reset(site: Site) -> None:
    seen = Event()

    site.serve(until_gone(seen))
    stream = site.http2().open(ended=True)
    gevent.sleep(0.02)
    stream.reset()
    assert seen.wait(PATIENCE)


def test_closed_at_its_first_use_behind_a_reset(site: Site) -> None:
    go, seen = Event(), []

    def handle(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        seen.append(exchange.closed.is_set())
        hello(exchange)

    site.serve(by_path(handle=handle))
    client = site.http2()
    stream = client.open("GET", "/handle", ended=True)
    client.ping()
    stream.reset()
    client.ping()
    go.set()
    assert client.request().status == 200
    assert seen == [True]


def test_closed_is_set_when_the_exchange_is_over(site: Site, until: Until) -> None:
    kept: list[Exchange] = []

    def handle(exchange: Exchange) -> None:
        kept.append(exchange)
        if exchange.request.path == b"/early":
            assert not exchange.closed.is_set()
        hello(exchange)

    site.serve(handle)
    client = site.http2()
    client.request("GET", "/early")
    client.request("GET", "/late")
    until(lambda: all(exchange.closed.is_set() for exchange in kept))


def test_a_request_that_was_reset_before_it_began_never_runs(site: Site) -> None:
    served = []

    def handle(exchange: Exchange) -> None:
        served.append(exchange.request.path)
        hello(exchange)

    site.serve(handle)
    client = site.http2()
    h2 = client.h2
    for path in ("/reset", "/kept"):
        stream_id = h2.get_next_available_stream_id()
        section = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
        h2.send_headers(stream_id, section, end_stream=True)
        if path == "/reset":
            h2.reset_stream(stream_id, CANCEL)
    client.flush()
    assert client.request("GET", "/behind").status == 200
    assert served == [b"/kept", b"/behind"]


def test_a_slot_is_free_when_its_greenlet_has_ended(site: Site, until: Until) -> None:
    """Not when its stream is reset: rapid resets would buy any number of greenlets (CVE-2023-44487)."""
    go = Event()

    def stubborn(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    server = site.serve(by_path(stubborn=stubborn), http2_max_concurrent_streams=3)
    client = site.http2()
    for stream in [client.open("GET", "/stubborn", ended=True) for _ in range(3)]:
        client.ping()
        stream.reset()
    client.ping()
    assert cut(client.open(ended=True)) == REFUSED_STREAM
    assert len(connection(server).exchanges) == 3
    go.set()
    until(lambda: not connection(server).exchanges)
    assert client.request().content == b"hello"


@pytest.mark.parametrize("how", ["RST", "FIN"])
def test_a_peer_that_vanishes_loses_all_its_streams(
    site: Site, until: Until, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    def handle(exchange: Exchange) -> None:
        try:
            if exchange.request.path == b"/read":
                read_all(exchange)
            elif exchange.request.path == b"/write":
                exchange.send_head(200, [])
                while True:
                    exchange.send(b"a" * 10_000)
            else:
                assert exchange.closed.wait(PATIENCE)
                hello(exchange)
        except PeerGone:
            ended.append(exchange.request.path)
            raise

    server = site.serve(handle)
    client = site.http2()
    streams = [client.open("POST", path) for path in ("/read", "/write", "/wait")]
    streams[1].receive()
    if how == "RST":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    until(lambda: not server.service.connections)
    assert sorted(ended) == [b"/read", b"/wait", b"/write"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_peer_that_goes_away_has_its_answers(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    site.serve(handle)
    client = site.http2()
    stream = client.open(ended=True)
    client.socket.sendall(b"\0\0\x0b\7\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\2" + b"why")  # GOAWAY
    client.ping()
    assert [record.getMessage() for record in caplog.records][-1].endswith("HTTP/2 peer gave up: error 2 why")
    go.set()
    assert stream.response().content == b"hello"


# --- exceptions thrown in, and who may wait


def test_killing_its_greenlet_cuts_the_answer_and_nothing_else(site: Site) -> None:
    running: list[Any] = []
    begun = Event()

    def kill(exchange: Exchange) -> None:
        running.append(gevent.getcurrent())
        exchange.send_head(200, [])
        exchange.send(b"a")
        begun.set()
        gevent.sleep(PATIENCE)

    server = site.serve(by_path(kill=kill, echo=echo))
    client = site.http2()
    client.request()
    other, killed = client.open("POST", "/echo"), client.open("GET", "/kill", ended=True)
    killed.head()
    assert begun.wait(PATIENCE)
    running[0].kill()
    assert cut(killed) == INTERNAL_ERROR
    assert running[0].dead
    assert running[0] not in server.service.workers._idle
    other.send(b"unharmed")
    other.end()
    assert other.response().content == b"unharmed"
    assert client.request().content == b"hello"


def test_what_is_pending_behind_a_greenlet_that_is_killed_is_served(site: Site) -> None:
    def suicide(exchange: Exchange) -> None:
        raise gevent.GreenletExit

    site.serve(by_path(suicide=suicide))
    client = site.http2()
    streams = [client.open("GET", path, ended=True) for path in ["/suicide", "/"] * 10]
    assert {cut(stream) for stream in streams[::2]} == {INTERNAL_ERROR}
    assert {stream.response().content for stream in streams[1::2]} == {b"hello"}


@pytest.mark.parametrize("protocol", [None, "x"])
def test_a_reader_left_behind_is_told_that_it_is_over(site: Site, protocol: str | None) -> None:
    kept: list[Any] = []

    def handle(exchange: Exchange) -> None:
        recv = exchange.open_tunnel().recv if protocol else exchange.read
        kept.append(gevent.spawn(pytest.raises, PeerGone, recv, 9))
        gevent.sleep(0.01)
        if not protocol:
            hello(exchange)

    site.serve(handle)
    client = site.http2()
    stream = client.open("CONNECT" if protocol else "POST", "/", protocol=protocol)
    assert stream.response().content == (b"" if protocol else b"hello")
    kept[0].get(timeout=PATIENCE)


def test_a_writer_left_behind_is_told_that_it_is_over(site: Site, failures: Callable[[], list[str]]) -> None:
    kept: list[Any] = []

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        kept.append(gevent.spawn(pytest.raises, PeerGone, exchange.send, b"a" * 1_000_000))
        gevent.sleep(0.01)

    site.serve(handle)
    assert cut(site.http2(settings={INITIAL_WINDOW_SIZE: 0}).open(ended=True)) == INTERNAL_ERROR
    kept[0].get(timeout=PATIENCE)
    assert len(failures()) == 1


def test_a_timeout_in_a_read_leaves_it_resumable(site: Site) -> None:
    timed_out = Event()

    def handle(exchange: Exchange) -> None:
        first = exchange.read(100)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
            exchange.read(100)
        timed_out.set()
        exchange.send_head(200, [])
        exchange.finish(first + read_all(exchange))

    site.serve(handle)
    stream = site.http2().open("POST")
    stream.send(b"he")
    assert timed_out.wait(PATIENCE)
    stream.send(b"llo")
    stream.end()
    assert stream.response().content == b"hello"


@pytest.mark.parametrize("last", [False, True])
def test_a_timeout_in_a_write_poisons_the_exchange(site: Site, last: bool, failures: Callable[[], list[str]]) -> None:
    poisoned = Event()

    def write(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"a")
        try:
            with gevent.Timeout(0.05):
                (exchange.finish if last else exchange.send)(b"a" * 20_000_000)
        finally:
            with pytest.raises((PeerGone, ApplicationError)):
                exchange.send(b"b")
            poisoned.set()

    site.serve(by_path(write=write))
    client = site.http2()
    stream = client.open("GET", "/write", ended=True)
    assert poisoned.wait(PATIENCE)
    assert cut(stream) == INTERNAL_ERROR
    assert client.request().content == b"hello"
    assert len(failures()) == 1


def test_one_reader_at_a_time(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        first = gevent.spawn(exchange.read, 100)
        gevent.sleep(0.02)
        with pytest.raises(ApplicationError):
            exchange.read(100)
        exchange.send_head(200, [])
        exchange.send(b"more?")
        exchange.finish(first.get(timeout=PATIENCE))

    site.serve(handle)
    stream = site.http2().open("POST")
    assert stream.receive() == b"more?"
    stream.send(b"hello")
    assert stream.response().content == b"hello"


def test_one_writer_at_a_time(site: Site) -> None:
    refused = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"begin")
        first = gevent.spawn(exchange.send, b"a" * 1_000_000)
        gevent.sleep(0.02)
        with pytest.raises(ApplicationError):
            exchange.send(b"b" * 100)
        with pytest.raises(ApplicationError):
            exchange.finish()
        refused.set()
        first.get(timeout=PATIENCE)
        exchange.finish(b"end")

    site.serve(handle)
    stream = site.http2().open(ended=True)
    assert refused.wait(PATIENCE)
    assert stream.response().content == b"begin" + b"a" * 1_000_000 + b"end"


# --- the slow


def test_slow_content_is_cut(site: Site) -> None:
    caught: list[BaseException] = []
    begun = Event()

    def slow(exchange: Exchange) -> None:
        begun.set()
        try:
            read_all(exchange)
        except PeerTimeout as error:
            caught.append(error)
            raise

    site.serve(by_path(slow=slow))
    client = site.http2()
    stream = client.open("POST", "/slow")
    assert begun.wait(PATIENCE)
    stream.send(b"a" * 480)  # two seconds' worth
    client.ping()
    site.sweep(times=11)
    assert not caught
    site.sweep(times=3)
    assert isinstance(caught[0], TimeoutError)
    assert stream.response().status == 408
    assert client.request().content == b"hello"


def test_an_application_that_does_not_read_does_not_make_its_client_slow(site: Site) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        echo(exchange)

    site.serve(handle, http2_ping_interval=0)
    client = site.http2()
    stream = client.open("POST")
    client.ping()
    site.sweep(times=60)
    go.set()
    stream.send(b"hello")
    stream.end()
    assert stream.response().content == b"hello"


@pytest.mark.parametrize("last", [False, True])
def test_a_stream_whose_window_stays_shut_is_reset(site: Site, last: bool) -> None:
    caught: list[BaseException] = []
    ended = Event()

    def stall(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        try:
            (exchange.finish if last else exchange.send)(b"a" * 1_000_000)
        except PeerTimeout as error:
            caught.append(error)
            with pytest.raises((PeerError, ApplicationError)):
                exchange.send(b"more")
            raise
        finally:
            ended.set()

    site.serve(by_path(stall=stall, empty=answering(204, [])), write_timeout=5)
    client = site.http2(settings={INITIAL_WINDOW_SIZE: 0})
    stream = client.open("GET", "/stall", ended=True)
    stream.head()
    site.sweep(times=5)
    assert not caught
    site.sweep(times=2)
    assert ended.wait(PATIENCE)
    assert isinstance(caught[0], TimeoutError)
    assert cut(stream) == CANCEL
    assert client.request("GET", "/empty").status == 204


def test_what_is_queued_when_its_handler_has_returned_is_held_to_the_same(site: Site) -> None:
    server = site.serve(by_path(empty=answering(204, [])), write_timeout=5, keep_alive=2)
    client = site.http2(settings={INITIAL_WINDOW_SIZE: 0})
    stream = client.open(ended=True)
    assert stream.head() == 200
    site.sweep(times=4)
    client.ping()
    assert (stream.reset_code, connection(server).engine.idle) == (None, False)
    site.sweep(times=2)
    assert cut(stream) == CANCEL
    assert client.request("GET", "/empty").status == 204


def test_a_peer_that_takes_nothing_at_all_is_cut(site: Site, until: Until) -> None:
    caught: list[BaseException] = []

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        try:
            exchange.send(b"a" * 20_000_000)
        except PeerError as error:
            caught.append(error)
            raise

    server = site.serve(handle, write_timeout=10, http2_ping_interval=0)
    client = site.http2(settings={INITIAL_WINDOW_SIZE: 2**31 - 1})
    client.h2.increment_flow_control_window(2**30)
    client.flush()
    client.open(ended=True)
    until(lambda: connection(server)._stream._writing is not None)
    site.sweep(times=8)
    assert not caught
    site.sweep(times=20)
    until(lambda: caught)
    until(lambda: not server.service.connections)


def test_a_slow_way_is_no_slow_stream(site: Site, until: Until) -> None:
    """What waits behind other streams' content for the way to be free is not stalled by its peer."""
    site.serve(answering(200, [], b"a" * 1_000_000), write_timeout=40, http2_ping_interval=0)
    client = site.http2(settings={INITIAL_WINDOW_SIZE: 2**24})
    client.h2.increment_flow_control_window(2**30)
    streams = [client.open(ended=True) for _ in range(30)]
    until(lambda: connection(site.servers[0])._stream._writing is not None)
    for _ in range(6):
        site.sweep(times=5)
        client.wait()
    assert {len(stream.response().content) for stream in streams} == {1_000_000}


# --- quiet peers


def test_a_quiet_peer_is_asked_whether_it_is_there(site: Site) -> None:
    seen = Event()
    server = site.serve(by_path(wait=until_gone(seen)), http2_ping_interval=5, http2_ping_timeout=5)
    client = site.http2()
    client.open("GET", "/wait", ended=True)
    client.ping()
    for _ in range(5):  # it answers, since somebody reads
        site.sweep(times=8)
        client.ping()
    assert server.service.connections
    site.sweep(times=9)
    assert not seen.is_set()
    site.sweep(times=4)
    assert seen.wait(PATIENCE)
    lost(client)


def test_nobody_is_asked_while_nothing_waits(site: Site) -> None:
    server = site.serve(hello, http2_ping_interval=5, http2_ping_timeout=5)
    client = site.http2()
    client.request()
    site.sweep(times=30)
    assert server.service.connections
    assert client.request().content == b"hello"


def test_a_slow_download_is_a_sign_of_life(site: Site, until: Until) -> None:
    """A PING waits behind what the kernel holds, and so does its answer."""
    site.serve(answering(200, [], b"a" * 30_000_000), http2_ping_interval=5, http2_ping_timeout=5)
    client = site.http2(settings={INITIAL_WINDOW_SIZE: 2**30})
    client.h2.increment_flow_control_window(2**30)
    stream = client.open(ended=True)
    until(lambda: connection(site.servers[0])._stream._writing is not None)
    total = 0
    for _ in range(10):
        for _ in range(20):
            total += len(client.socket.recv(64 * 1024))
        gevent.sleep(0.01)
        site.sweep(times=3)
    assert site.servers[0].service.connections
    assert total < 30_000_000
    assert stream.reset_code is None


# --- idling


@pytest.mark.parametrize("served", [False, True])
def test_an_idle_connection_is_closed_and_told_so(site: Site, served: bool) -> None:
    site.serve(hello, keep_alive=3, head_timeout=3)
    client = site.http2()
    if served:
        client.request()
    client.ping()
    site.sweep(1)
    client.ping()
    assert client.goaway is None
    site.sweep(5)
    lost(client)
    assert client.goaway is not None
    assert client.goaway[:2] == (1 if served else 0, NO_ERROR)


def test_a_connection_that_says_nothing_is_closed(site: Site) -> None:
    site.serve(hello, head_timeout=3)
    client = site.connect()
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    gevent.sleep(0.02)
    site.sweep(5)
    gevent.sleep(0.02)
    site.sweep(10)
    client.rest()


def test_an_idle_connection_gives_its_greenlets_back_and_has_them_again(site: Site) -> None:
    server = site.serve(hello, keep_alive=60)
    client = site.http2()
    for _ in range(2):
        assert client.request().content == b"hello"
        site.sweep(times=3)
        assert (connection(server)._reader, connection(server)._writer) == (None, None)


def test_a_quiet_connection_with_running_streams_does_so_too(site: Site) -> None:
    go = Event()

    def wait(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    server = site.serve(by_path(wait=wait))
    client = site.http2()
    stream = client.open("GET", "/wait", ended=True)
    client.ping()
    site.sweep(times=3)
    assert (connection(server)._reader, connection(server)._writer) == (None, None)
    go.set()
    assert stream.response().content == b"hello"
    assert client.request().content == b"hello"


def test_a_released_connection_is_still_swept(site: Site) -> None:
    site.serve(hello, keep_alive=10)
    client = site.http2()
    client.request()
    site.sweep(times=3)
    site.sweep(12)
    lost(client)


def test_a_released_connection_leaves_with_its_peer(site: Site, until: Until) -> None:
    server = site.serve(hello)
    client = site.http2()
    client.request()
    site.sweep(times=3)
    client.close()
    until(lambda: not server.service.connections)


# --- going away


def test_a_drain_answers_what_was_asked(site: Site, until: Until) -> None:
    """Also what was on its way when the peer heard of it (RFC 9113 §6.8)."""
    go = Event()

    def wait(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    server = site.serve(by_path(wait=wait))
    client = site.http2()
    running = client.open("GET", "/wait", ended=True)
    client.ping()
    stopping = gevent.spawn(server.stop, PATIENCE)
    until(server.service.draining.is_set)
    gevent.sleep(0.02)
    crossing = client.open(ended=True)
    assert client.goaway is None
    assert crossing.response().content == b"hello"
    assert client.goaway is not None
    until(lambda: client.goaway != (LAST_STREAM, NO_ERROR, b"") or client.ping())
    assert client.goaway[:2] == (crossing.stream_id, NO_ERROR)
    go.set()
    assert running.response().content == b"hello"
    lost(client)
    stopping.get(timeout=PATIENCE)


def test_a_drain_ends_idle_connections(site: Site) -> None:
    server = site.serve(hello)
    clients = [site.http2() for _ in range(5)]
    for client in clients[:3]:
        client.request()
    silent = clients.pop()
    silent.request()  # and reads no more
    began = time.monotonic()
    stopping = gevent.spawn(server.stop, PATIENCE * 2)
    for client in clients:
        lost(client)
        assert client.goaway is not None
    assert time.monotonic() - began < 0.8 * PATIENCE  # the silent one takes longer
    stopping.get(timeout=PATIENCE * 2)
    assert time.monotonic() - began < 2 * PATIENCE


def test_a_drain_ends_released_connections(site: Site) -> None:
    server = site.serve(hello, keep_alive=60)
    client = site.http2()
    client.request()
    site.sweep(times=3)
    assert connection(server)._reader is None
    stopping = gevent.spawn(server.stop, PATIENCE)
    lost(client)
    stopping.get(timeout=PATIENCE)


def test_a_drain_does_not_wait_for_a_client_that_says_nothing(site: Site, until: Until) -> None:
    """It has had its answer, and does not confirm that it knows."""
    go = Event()

    def wait(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        hello(exchange)

    server = site.serve(wait, keep_alive=60)
    site.http2().open(ended=True)
    until(lambda: connection(server).exchanges)
    stopping = gevent.spawn(server.stop, 10)
    until(server.service.draining.is_set)
    go.set()
    stopping.get(timeout=7)


def test_what_does_not_end_in_time_is_cut(site: Site) -> None:
    ended = []

    def wait(exchange: Exchange) -> None:
        try:
            if exchange.request.path == b"/deaf":
                gevent.sleep(60)
            exchange.send_head(200, [])
            exchange.send(b"a")
            read_all(exchange)
        finally:
            ended.append(exchange.request.path)

    server = site.serve(wait)
    client = site.http2()
    streams = [client.open("POST", path) for path in ("/deaf", "/read")]
    streams[1].head()
    server.stop(0.05)
    assert sorted(ended) == [b"/deaf", b"/read"]
    with pytest.raises(ConnectionResetError):
        streams[1].response()
    assert not server.service.connections


# --- tunnels


def test_a_tunnel(site: Site) -> None:
    """Early bytes, both directions at once, and half-closes."""
    size = 3_000_000
    kept = []

    def handle(exchange: Exchange) -> None:
        assert not exchange.has_content
        assert exchange.read(9) == b""
        tunnel = exchange.open_tunnel([("X-A", "b"), ("Content-Length", "5")])
        sending = gevent.spawn(tunnel.sendv, [b"o" * (size - 3), b"ooo"])
        received = b""
        while data := tunnel.recv(65536):
            received += data
        kept.append(received == b"i" * size)
        sending.get(timeout=PATIENCE)
        assert tunnel.pending() == 0
        assert tunnel.send(memoryview(b"behind your end")) == 15

    site.serve(handle, allow_connect=True)
    client = site.http2()
    stream = client.open("CONNECT", "a:80")
    stream.send(b"i" * 100)
    assert stream.head() == 200
    assert [name for name, _ in stream.fields] == ["x-a", "server", "date"]
    sending = gevent.spawn(stream.send, b"i" * (size - 100))
    received = b""
    while len(received) < size:
        received += stream.receive()
    assert received == b"o" * size
    sending.get(timeout=PATIENCE)
    stream.end()
    assert stream.response().content == b"behind your end"
    assert kept == [True]


def test_the_server_may_end_its_side_first(site: Site) -> None:
    kept = []

    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        tunnel.sendall(b"all of mine")
        tunnel.shutdown()
        with pytest.raises(PeerGone):
            tunnel.sendall(b"more")
        while data := tunnel.recv(99):
            kept.append(data)

    site.serve(by_path(**{"": handle}), allow_connect=True)
    client = site.http2()
    stream = client.open("CONNECT", "a:80")
    assert stream.response().content == b"all of mine"
    stream.send(b"yours")
    stream.end()
    client.ping()
    assert b"".join(kept) == b"yours"


def test_a_protocol_over_extended_connect(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        assert exchange.request.protocol == "echo"
        with pytest.raises(NotSupported):
            exchange.open_tunnel(protocol="other")
        tunnel = exchange.open_tunnel()
        for leave in (exchange.open_tunnel, exchange.hijack):
            with pytest.raises(ApplicationError):
                leave()
        with pytest.raises(ApplicationError):
            exchange.send_head(200, [])
        while data := tunnel.recv(99):
            tunnel.sendall(data)

    site.serve(handle)
    client = site.http2()
    streams = [client.open("CONNECT", "/", protocol="echo") for _ in range(2)]
    for stream in streams:
        stream.send(b"hello")
    for stream in streams:
        assert (stream.head(), stream.receive()) == (200, b"hello")
        stream.end()
        assert stream.response().content == b""


def test_a_request_for_a_tunnel_may_be_answered_otherwise(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(403, [])
        exchange.finish(b"not for you")
        with pytest.raises(ApplicationError):
            exchange.open_tunnel()

    site.serve(handle)
    client = site.http2()
    stream = client.open("CONNECT", "/", protocol="echo")
    stream.send(b"early")
    response = stream.response()
    assert (response.status, response.content) == (403, b"not for you")


def test_an_aborted_tunnel_is_visible_as_cut(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        tunnel.sendall(b"a")
        waiting = gevent.spawn(pytest.raises, PeerGone, tunnel.recv, 9)
        gevent.sleep(0.01)
        tunnel.abort()
        tunnel.abort()
        waiting.get(timeout=PATIENCE)
        for use in (lambda: tunnel.recv(9), lambda: tunnel.sendall(b"a")):
            with pytest.raises(PeerGone):
                use()
        tunnel.close()

    site.serve(handle)
    client = site.http2()
    stream = client.open("CONNECT", "/", protocol="x")
    stream.head()
    assert cut(stream) == CANCEL


def test_a_handler_that_fails_in_its_tunnel(site: Site, failures: Callable[[], list[str]]) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.open_tunnel().sendall(b"a")
        raise Mishap

    site.serve(handle)
    assert cut(site.http2().open("CONNECT", "/", protocol="x")) == CANCEL
    assert len(failures()) == 1


def test_a_peer_that_resets_a_tunnel(site: Site) -> None:
    caught = Event()

    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        with pytest.raises(PeerGone):
            tunnel.recv(9)
        with pytest.raises(PeerGone):
            tunnel.shutdown()
        tunnel.close()
        caught.set()

    site.serve(handle)
    stream = site.http2().open("CONNECT", "/", protocol="x")
    stream.head()
    stream.reset()
    assert caught.wait(PATIENCE)


def test_a_tunnel_that_is_closed_while_its_peer_sends_delivers_its_last_bytes(site: Site, until: Until) -> None:
    server = site.serve(lambda exchange: exchange.open_tunnel().sendall(b"last" * 10_000))
    client = site.http2()
    stream = client.open("CONNECT", "/", protocol="x")
    sending = gevent.spawn(stream.send, b"a" * 3_000_000)  # what nobody reads is read away
    assert stream.response().content == b"last" * 10_000
    sending.get(timeout=PATIENCE)
    stream.end()
    client.ping()
    until(lambda: connection(server).engine.idle)
    assert stream.reset_code is None


def test_a_peer_that_does_not_end_its_side_has_some_seconds(site: Site, until: Until) -> None:
    server = site.serve(lambda exchange: exchange.open_tunnel().close(), keep_alive=60)
    client = site.http2()
    stream = client.open("CONNECT", "/", protocol="x")
    assert stream.response().content == b""
    until(lambda: not connection(server).exchanges)
    site.sweep(3)
    client.ping()
    assert not connection(server).engine.idle
    site.sweep(7)
    until(lambda: connection(server).engine.idle)
    assert refused(client, stream, b"a") == CANCEL


def test_a_peer_that_takes_nothing_of_a_tunnel_is_cut(site: Site) -> None:
    caught: list[BaseException] = []
    ended = Event()

    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        try:
            tunnel.sendall(b"a" * 1_000_000)
        except PeerTimeout as error:
            caught.append(error)
            raise
        finally:
            ended.set()

    site.serve(handle, write_timeout=5, http2_ping_interval=0)
    client = site.http2()
    stream = client.open("CONNECT", "/", protocol="x")
    gevent.sleep(0.05)
    site.sweep(times=4)
    assert not caught
    site.sweep(times=4)
    assert ended.wait(PATIENCE)
    assert isinstance(caught[0], TimeoutError)
    assert cut(stream) == CANCEL


def test_an_idle_tunnel_is_not_slow(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        tunnel.sendall(tunnel.recv(9))

    site.serve(handle, http2_ping_interval=0)
    client = site.http2()
    stream = client.open("CONNECT", "/", protocol="x")
    stream.head()
    site.sweep(times=60)
    stream.send(b"still")
    assert stream.response().content == b"still"
