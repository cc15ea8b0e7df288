"""The life of an HTTP/1 connection: what goes in and comes out over loopback, and who waits for whom."""

import contextvars
import io
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.local import local

from geventgate import observe
from geventgate.errors import ApplicationError, NotSupported, PeerError, PeerGone, PeerTimeout
from geventgate.exchange import Exchange
from geventgate.server.http1 import MAX_DRAIN, TURNS

from .conftest import PATIENCE, Client, Site

Until = Callable[..., None]


def request(target: str = "/", fields: str = "", method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n".encode()


def hello(exchange: Exchange) -> None:
    exchange.send_head("200 OK", [("Content-Type", "text/plain")])
    exchange.finish(b"hello")


def echo_target(exchange: Exchange) -> None:
    exchange.send_head("200 OK", [])
    exchange.finish(exchange.request.target)


def read_all(exchange: Exchange, size: int = 65536) -> bytes:
    return b"".join(iter(lambda: exchange.read(size), b""))


def echo(exchange: Exchange) -> None:
    data = read_all(exchange)
    exchange.send_head("200 OK", [])
    exchange.finish(data)


# --- persistence and order


def test_keep_alive(site: Site) -> None:
    site.serve(hello)
    client = site.connect()
    for _ in range(3):
        response = client.get()
        assert (response.status, response.content) == (200, b"hello")
        assert set(response.fields) == {"content-type", "content-length", "server", "date"}


@pytest.mark.parametrize(
    ("version", "fields", "connection"),
    [
        ("1.1", "", None),
        ("1.1", "Connection: close\r\n", "close"),
        ("1.0", "", "close"),
        ("1.0", "Connection: keep-alive\r\n", "keep-alive"),
        ("1.0", "Connection: keep-alive, close\r\n", "close"),
    ],
)
def test_what_is_said_of_the_connection_is_done(site: Site, version: str, fields: str, connection: str | None) -> None:
    site.serve(hello)
    client = site.connect()
    response = client.get(fields=fields, version=version)
    assert response.content == b"hello"
    assert response.fields.get("connection") == connection
    if connection == "close":
        assert client.rest() == b""
    else:
        assert client.get(fields="Connection: close\r\n").content == b"hello"


def test_application_may_close(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head("200 OK", [("Connection", "close")])
        exchange.finish(b"bye")

    site.serve(handle)
    client = site.connect()
    response = client.get()
    assert (response.content, response.fields["connection"]) == (b"bye", "close")
    assert client.rest() == b""


def test_pipelined_requests_are_answered_in_order_one_at_a_time(site: Site) -> None:
    running = [0]

    def handle(exchange: Exchange) -> None:
        running[0] += 1
        assert running[0] == 1
        gevent.sleep(0)
        exchange.send_head(200, [])
        exchange.finish(exchange.request.target)
        running[0] -= 1

    site.serve(handle)
    client = site.connect()
    client.send(b"".join(request(f"/{number}") for number in range(100)))
    assert [client.response().content for _ in range(100)] == [b"/%d" % number for number in range(100)]


def test_what_comes_behind_the_last_request_does_not_reset_its_answer(site: Site) -> None:
    """Closing on unread bytes, in the kernel too, would (RFC 9112 §9.6)."""
    begun, go = Event(), Event()

    def handle(exchange: Exchange) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        exchange.send_head(200, [("Connection", "close")])
        exchange.finish(b"a" * 100_000)

    site.serve(handle)
    client = site.connect()
    client.send(request())
    assert begun.wait(PATIENCE)
    client.send(request("/behind"))
    go.set()
    gevent.sleep(0.02)
    assert client.response().content == b"a" * 100_000
    assert client.rest() == b""


def test_nothing_is_read_for_the_next_request_while_one_runs(site: Site) -> None:
    """Pipeline depth 1: what a client sends meanwhile stays in the kernel, which stops it."""
    begun, go = Event(), Event()

    def handle(exchange: Exchange) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        hello(exchange)

    server = site.serve(handle)
    client = site.connect()
    client.send(request())
    assert begun.wait(PATIENCE)
    client.send(request("/next"))
    gevent.sleep(0.02)
    (connection,) = server.service.connections
    assert connection._stream.pending() == 0  # type: ignore[attr-defined]
    go.set()
    assert [client.response().status for _ in range(2)] == [200, 200]


def test_a_pipelining_client_does_not_starve_another(site: Site, until: Until) -> None:
    served = []

    def handle(exchange: Exchange) -> None:
        served.append(exchange.request.target)
        hello(exchange)

    site.serve(handle)
    greedy, modest = site.connect(), site.connect()
    sender = gevent.spawn(greedy.send, request("/greedy") * 100 * TURNS)
    until(lambda: served)
    assert modest.get("/modest").status == 200
    assert served.count(b"/greedy") < 50 * TURNS
    assert all(greedy.response().status == 200 for _ in range(100 * TURNS))
    sender.get()


def test_observers_hear_of_every_request(site: Site) -> None:
    class Ear:
        heard: list[Any] = []  # noqa: RUF012

        def request_ended(self, exchange: Exchange, seconds: float) -> None:
            self.heard.append((exchange.request.method, exchange.status, exchange.sent, 0 <= seconds < PATIENCE))

        def request_refused(self, peer: Any, status: int, why: str) -> None:
            self.heard.append((peer[0], status))

    ear = Ear()
    observe.listeners.append(ear)
    try:
        site.serve(hello)
        client = site.connect()
        client.get()
        client.get(method="HEAD")
        client.send(b"G@T / HTTP/1.1\r\n\r\n")
        assert client.response().status == 400
    finally:
        observe.listeners.remove(ear)
    assert Ear.heard == [("GET", 200, 5, True), ("HEAD", 200, 0, True), ("127.0.0.1", 400)]


# --- requests


def read_into(exchange: Exchange, size: int = 65536) -> bytes:
    """All of the content, as wsgi.input asks for what is large."""
    content, buffer = b"", bytearray(size)
    while count := exchange.readinto(memoryview(buffer)):
        content += buffer[:count]
    return content


@pytest.mark.parametrize("read", [read_all, read_into])
@pytest.mark.parametrize("size", [1, 3, 65536])
def test_content_and_trailers(site: Site, size: int, read: Callable[[Exchange, int], bytes]) -> None:
    def handle(exchange: Exchange) -> None:
        assert exchange.has_content
        data = read(exchange, size)
        assert exchange.read(size) == b""
        exchange.send_head(200, [])
        exchange.finish(data + b"%r" % (exchange.trailers(),))

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\n") + b"hello")
    assert client.response().content == b"hello()"
    client.send(request(method="POST", fields="Transfer-Encoding: chunked\r\n"))
    for piece in (b"3\r\nhel\r", b"\n2\r\nlo\r\n0\r\nA: b\r\n", b"\r\n"):
        client.send(piece)
        gevent.sleep(0.002)
    assert client.response().content == b"hello((b'a', b'b'),)"


@pytest.mark.parametrize("size", [1, 4096, 100_000, 1 << 20])
def test_large_content_comes_where_it_is_wanted(site: Site, size: int) -> None:
    """And nothing of the request behind it."""
    large = os.urandom(3_000_000)

    def handle(exchange: Exchange) -> None:
        content = exchange.take_whole() or read_into(exchange, size)
        exchange.send_head(200, [])
        exchange.finish(b"%d %r" % (len(content), content == large))

    site.serve(handle)
    client = site.connect()
    if size == 1:
        large = large[:3000]
    message = request(method="POST", fields=f"Content-Length: {len(large)}\r\n") + large
    sender = gevent.spawn(client.send, message[:50])
    gevent.sleep(0.01)
    sender = gevent.spawn(client.send, message[50:] + message)
    for _ in range(2):
        assert client.response().content == b"%d True" % len(large)
    sender.get()


def test_content_that_has_come_is_taken_whole(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        content = exchange.take_whole()
        exchange.send_head(200, [])
        exchange.finish(repr((content, content and exchange.read(9), exchange.take_whole())).encode())

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\n") + b"hello" + request())
    assert client.response().content == b"(b'hello', b'', None)"
    assert client.response().content == b"(None, None, None)"
    client.send(request(method="POST", fields="Content-Length: 5\r\n") + b"hell")
    assert client.response().content == b"(None, None, None)"
    client.send(b"o")
    for fields, content in (("Transfer-Encoding: chunked", b"0\r\n\r\n"), ("Content-Length: 0", b"")):
        client.send(request(method="POST", fields=fields + "\r\n") + content)
        assert client.response().content == b"(None, None, None)"


def test_100_continue_is_sent_by_the_first_read_only(site: Site) -> None:
    may_read = Event()

    def handle(exchange: Exchange) -> None:
        assert may_read.wait(PATIENCE)
        first = exchange.read(2)
        exchange.send_head(200, [])
        exchange.finish(first + read_all(exchange, 2))

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\nExpect: 100-continue\r\n"))
    client.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    client.sock.settimeout(PATIENCE)
    may_read.set()
    assert client.response().status == 100
    client.send(b"hello")
    response = client.response()
    assert (response.status, response.content, response.fields.get("connection")) == (200, b"hello", None)


def test_no_100_continue_for_content_that_has_come(site: Site) -> None:
    site.serve(echo)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\nExpect: 100-continue\r\n") + b"hello")
    assert client.response().content == b"hello"


def test_an_expecting_client_that_was_not_asked_for_its_content(site: Site) -> None:
    """It may send it or not: nothing behind it can be told apart (gevent #2075)."""
    site.serve(hello)
    client = site.connect()
    response = client.get(method="POST", fields="Content-Length: 50\r\nExpect: 100-continue\r\n")
    assert (response.status, response.fields["connection"]) == (200, "close")
    client.send(request("/smuggled").ljust(50))
    assert client.rest() == b""


def test_unknown_expectation(site: Site) -> None:
    site.serve(hello)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 1\r\nExpect: x\r\n") + b"a" + request())
    response = client.response()
    assert (response.status, response.fields["connection"]) == (417, "close")
    assert client.rest() == b""


@pytest.mark.parametrize(
    "wire",
    [
        request(method="POST", fields="Content-Length: 5\r\n") + b"hello",
        request(fields="Content-Length: 5\r\n") + b"hello",
        request(method="POST", fields="Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        request(method="POST", fields=f"Content-Length: {MAX_DRAIN}\r\n") + b"a" * MAX_DRAIN,
    ],
)
def test_a_little_unread_content_is_drained(site: Site, wire: bytes) -> None:
    site.serve(hello)
    client = site.connect()
    client.send(wire)
    assert client.response().status == 200
    assert client.get("/next").content == b"hello"


def test_much_unread_content_closes_and_says_so(site: Site) -> None:
    site.serve(hello)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 1000000\r\n"))
    response = client.response()
    assert (response.content, response.fields["connection"]) == (b"hello", "close")
    client.send(b"a" * 1000000)
    assert client.rest() == b""


def test_much_unread_chunked_content_closes(site: Site) -> None:
    site.serve(hello)
    client = site.connect()
    client.send(request(method="POST", fields="Transfer-Encoding: chunked\r\n") + b"1000\r\n" + b"a" * 4096 + b"\r\n")
    assert client.response().content == b"hello"
    for _ in range(40):
        client.send(b"1000\r\n" + b"a" * 4096 + b"\r\n")
    client.send(b"0\r\n\r\n" + request("/next"))
    assert client.rest() == b""


@pytest.mark.parametrize("keeps_sending", [b"a" * 2_000_000])
@pytest.mark.parametrize(
    ("fields", "status"),
    [("Content-Length: 2000000\r\n", 413), ("Content-Length: 2000000\r\nTransfer-Encoding: x\r\n", 400)],
)
def test_a_client_still_sending_reads_the_whole_refusal(
    site: Site, fields: str, status: int, keeps_sending: bytes
) -> None:
    """Closing on unread bytes would reset the connection and destroy the answer (RFC 9112 §9.6)."""
    site.serve(echo, limit_request_body=1000)
    client = site.connect()
    client.send(request(method="POST", fields=fields))
    client.send(keeps_sending)
    gevent.sleep(0.02)
    response = client.response()
    assert (response.status, response.fields["connection"]) == (status, "close")
    assert client.rest() == b""


def test_limit_of_chunked_content(site: Site) -> None:
    site.serve(echo, limit_request_body=1000)
    client = site.connect()
    client.send(request(method="POST", fields="Transfer-Encoding: chunked\r\n") + b"1000\r\n" + b"a" * 4096)
    response = client.response()
    assert (response.status, response.fields["connection"]) == (413, "close")
    assert client.rest() == b""


@pytest.mark.parametrize(
    ("content", "status"), [(b"5\nhello\r\n0\r\n\r\n", 400), (b"5\r\nhelloXX0\r\n\r\n", 400), (b"x\r\n", 400)]
)
def test_malformed_content_is_refused_and_nothing_behind_it_served(site: Site, content: bytes, status: int) -> None:
    for handle in (echo, hello):
        site.serve(handle)
        client = site.connect()
        client.send(request(method="POST", fields="Transfer-Encoding: chunked\r\n") + content + request("/smuggled"))
        response = client.response()
        assert response.status == (status if handle is echo else 200)
        assert client.rest() == b""


@pytest.mark.parametrize("read", [read_all, read_into])
@pytest.mark.parametrize("fields", ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"])
def test_truncated_content_is_an_error(site: Site, fields: str, read: Callable[[Exchange], bytes]) -> None:
    """Never b"": half an upload must not pass for a whole one (gunicorn #3382)."""
    caught: list[BaseException] = []
    ended = Event()

    def handle(exchange: Exchange) -> None:
        try:
            read(exchange)
        except ConnectionResetError as error:
            caught.append(error)
            raise
        finally:
            ended.set()

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields=fields) + b"5\r\nhello")
    client.sock.shutdown(1)
    assert ended.wait(PATIENCE)
    assert isinstance(caught[0], PeerGone)
    assert client.rest() == b""


def test_connect_is_not_enabled(site: Site) -> None:
    site.serve(hello)
    client = site.connect()
    client.send(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + request())
    assert client.response().status == 501
    assert client.rest() == b""


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 40000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ],
)
def test_refused_heads(site: Site, wire: bytes, status: int) -> None:
    site.serve(hello)
    client = site.connect()
    client.send(wire + request())
    response = client.response()
    assert (response.status, response.fields["connection"]) == (status, "close")
    assert "date" in response.fields
    assert client.rest() == b""


# --- responses


def answering(status: str | int, fields: Any, *pieces: bytes, trailers: Any = ()) -> Callable[[Exchange], None]:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(status, fields)
        for piece in pieces:
            exchange.send(piece)
        exchange.finish(trailers=trailers)

    return handle


def test_chunked_with_trailers(site: Site) -> None:
    site.serve(answering(200, [], b"a", b"", b"b" * 100_000, trailers=[("A", "b")]))
    client = site.connect()
    for _ in range(2):
        response = client.get()
        assert response.fields["transfer-encoding"] == "chunked"
        assert response.content == b"a" + b"b" * 100_000
        assert response.trailers == {"a": "b"}


def test_until_close_for_http_1_0(site: Site) -> None:
    site.serve(answering(200, [], b"a", b"b", trailers=[("A", "b")]))
    client = site.connect()
    response = client.get(version="1.0", fields="Connection: keep-alive\r\n")
    assert (response.content, response.fields["connection"]) == (b"ab", "close")
    assert not {"content-length", "transfer-encoding"} & set(response.fields)


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
def test_no_content(site: Site, method: str, status: int, fields: Any, length: str | None) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(status, fields)
        exchange.finish(b"hello")
        assert exchange.sent == 0

    site.serve(handle)
    client = site.connect()
    for _ in range(2):
        response = client.get(method=method)
        assert response.status == status
        assert response.fields.get("content-length") == length
        assert not {"transfer-encoding", "connection"} & set(response.fields)
    client.send(request(fields="Connection: close\r\n", method=method))
    assert client.rest().count(b"\r\n\r\n") == 1


def test_head_and_small_content_are_one_write(site: Site) -> None:
    site.serve(hello)
    client = site.connect()
    client.get()

    def segments() -> int:
        """That came with data (tcpi_data_segs_in of Linux)."""
        return int.from_bytes(client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)[152:156], sys.byteorder)

    before = segments()
    assert client.get().content == b"hello"
    assert segments() == before + 1


def test_the_head_waits_for_content_but_not_for_the_end(site: Site) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"first")
        assert go.wait(PATIENCE)
        exchange.finish(b"last")

    site.serve(handle)
    client = site.connect()
    client.send(request())
    while b"first" not in client.buffer:
        client._more()
    go.set()
    assert client.response().content == b"firstlast"


def test_own_date_and_server(site: Site) -> None:
    site.serve(answering(200, [("Date", "d"), ("Server", "s")]))
    fields = site.connect().get().fields
    assert (fields["date"], fields["server"]) == ("d", "s")


def test_what_an_application_gets_wrong_is_dropped(site: Site) -> None:
    wrong = [("Connection", "x"), ("Transfer-Encoding", "chunked"), ("Keep-Alive", "5"), ("Upgrade", "x"),
             ("Date", "d"), ("Date", "e"), ("Content-Length", "2"), ("Content-Length", "3"), ("A", "b")]  # fmt: skip
    site.serve(answering(200, wrong, b"ab"))
    client = site.connect()
    for _ in range(2):
        response = client.get()
        assert response.content == b"ab"
        assert response.fields == {"date": "d", "content-length": "2", "a": "b", "server": response.fields["server"]}


def test_content_longer_than_stated_is_cut_off(site: Site) -> None:
    site.serve(answering(200, [("Content-Length", "3")], b"ab", b"cd", b"ef"))
    client = site.connect()
    for _ in range(2):
        assert client.get().content == b"abc"


def test_content_shorter_than_stated_is_visible_as_cut(site: Site) -> None:
    site.serve(answering(200, [("Content-Length", "3")], b"ab"))
    client = site.connect()
    with pytest.raises(EOFError):
        client.get()


@pytest.mark.parametrize("sent", [b"", b"ab"])
@pytest.mark.parametrize(("fields", "version"), [([("Content-Length", "3")], "1.1"), ([], "1.1"), ([], "1.0")])
@pytest.mark.parametrize("how", ["raises", "aborts"])
def test_an_answer_that_fails_is_visible_as_cut(site: Site, how: str, fields: Any, version: str, sent: bytes) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, fields)
        exchange.send(sent)
        if how == "raises":
            raise ValueError("on purpose")
        exchange.abort("on purpose")

    site.serve(handle)
    client = site.connect()
    with pytest.raises((EOFError, ConnectionResetError)):
        client.get(version=version)


@pytest.mark.parametrize(
    "fail", [ValueError("on purpose"), SystemExit(3), gevent.Timeout(1), OSError("not the peer's")]
)
def test_an_application_that_fails_before_its_head(
    site: Site, caplog: pytest.LogCaptureFixture, fail: BaseException
) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.request.target == b"/fail":
            raise fail
        hello(exchange)

    site.serve(handle)
    client = site.connect()
    response = client.get("/fail")
    assert (response.status, response.content) == (500, b"Internal Server Error\n")
    assert sum(record.exc_info is not None for record in caplog.records) == 1
    assert client.get().content == b"hello"
    assert site.connect().get().content == b"hello"


def test_an_application_that_answers_nothing(site: Site) -> None:
    site.serve(lambda exchange: None)
    client = site.connect()
    assert client.get().status == 500


@pytest.mark.parametrize("field", [("A", "b\r\nSet-Cookie: c"), ("A\r\nB", "c"), ("A", "\0")])
def test_a_response_is_never_split(site: Site, field: tuple[str, str]) -> None:
    site.serve(answering(200, [field], b"x"))
    response = site.connect().get()
    assert response.status == 500
    assert "set-cookie" not in response.fields


def test_another_head_may_follow_one_that_was_refused(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        with pytest.raises(ApplicationError):
            exchange.send_head("200 OK\r\n", [])
        exchange.send_head("202 Accepted", [])
        with pytest.raises(ApplicationError):
            exchange.send_head("200 OK", [])
        exchange.finish(b"a")
        for late in (lambda: exchange.finish(b"b"), lambda: exchange.send(b"b"), exchange.finish,
                     lambda: exchange.send_informational(103, []), lambda: exchange.send_head(200, []),
                     lambda: exchange.send_file(io.BytesIO(b"b"), 0, 1)):  # fmt: skip
            with pytest.raises(ApplicationError):
                late()

    site.serve(handle)
    client = site.connect()
    assert client.get().status == 202
    assert client.get().content == b"a"


@pytest.mark.parametrize(
    "early",
    [lambda e: e.send(b"a"), lambda e: e.finish(b"a"), lambda e: e.finish(), lambda e: e.send_head(103, []),
     lambda e: e.send_file(io.BytesIO(b"a"), 0, 1), lambda e: e.send_informational(101, [])],
)  # fmt: skip
def test_content_before_a_head_is_refused(site: Site, early: Callable[[Exchange], None]) -> None:
    def handle(exchange: Exchange) -> None:
        with pytest.raises(ApplicationError):
            early(exchange)
        hello(exchange)

    site.serve(handle)
    assert site.connect().get().content == b"hello"


def test_informational(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_informational(103, [("Link", "</a>")])
        exchange.send_informational(103, [("Link", "</b>")])
        hello(exchange)

    site.serve(handle)
    client = site.connect()
    first = client.get()
    assert (first.status, first.fields) == (103, {"link": "</a>"})
    assert [client.response().status for _ in range(2)] == [103, 200]
    assert client.get(version="1.0").status == 200


# --- files

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("opened", ["file", "BytesIO", "pipe"])
@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("offset", "count"), [(0, len(CONTENT)), (7, 70_000), (0, 0)])
def test_files(site: Site, file: Path, opened: str, stated: bool, version: str, offset: int, count: int) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(count))] if stated else [])
        if opened == "pipe":
            reading, writing = os.pipe()
            os.write(writing, CONTENT[offset : offset + min(count, 60_000)])
            os.close(writing)
            with open(reading, "rb") as source:
                exchange.send_file(source, 0, min(count, 60_000))
            exchange.send(CONTENT[offset + min(count, 60_000) : offset + count])
        else:
            with file.open("rb") if opened == "file" else io.BytesIO(CONTENT) as source:
                exchange.send_file(source, offset, count)
        exchange.finish()
        assert exchange.sent == count

    site.serve(handle)
    client = site.connect()
    for _ in range(2 if version == "1.1" else 1):
        assert client.get(version=version).content == CONTENT[offset : offset + count]


def test_a_known_length_goes_by_the_kernel(site: Site, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.sendfile

    def sendfile(*arguments: Any) -> int:
        calls.append(real(*arguments))
        return calls[-1]

    monkeypatch.setattr(os, "sendfile", sendfile)

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(len(CONTENT)))])
        with file.open("rb") as source:
            exchange.send_file(source, 0, len(CONTENT))
        exchange.finish()

    site.serve(handle)
    client = site.connect()
    assert client.get().content == CONTENT
    assert sum(calls) == len(CONTENT)
    client.get(method="HEAD")
    assert sum(calls) == len(CONTENT)


@pytest.mark.parametrize("opened", ["file", "BytesIO"])
def test_a_file_that_is_shorter_than_it_was(site: Site, file: Path, opened: str) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(len(CONTENT) + 1))])
        with file.open("rb") if opened == "file" else io.BytesIO(CONTENT) as source:
            exchange.send_file(source, 0, len(CONTENT) + 1)
        exchange.finish()

    site.serve(handle)
    with pytest.raises(EOFError):
        site.connect().get()


def test_a_file_that_fails_in_its_middle_is_not_sent_twice(
    site: Site, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.sendfile
    calls = [0]

    def sendfile(to: int, fd: int, offset: int, count: int) -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(5, "on purpose")
        return real(to, fd, offset, 1000)

    monkeypatch.setattr(os, "sendfile", sendfile)

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(len(CONTENT)))])
        with file.open("rb") as source:
            exchange.send_file(source, 0, len(CONTENT))
        exchange.finish()

    site.serve(handle)
    assert site.connect().get().content == CONTENT


# --- the slow


def test_a_slow_head_is_answered_408(site: Site) -> None:
    site.serve(hello, head_timeout=7)
    client = site.connect()
    client.send(b"GET / HTT")
    gevent.sleep(0.02)
    site.sweep(5)
    assert client.buffer == b""
    site.sweep(9)
    response = client.response()
    assert (response.status, response.fields["connection"]) == (408, "close")
    assert client.rest() == b""


def test_a_heads_deadline_is_not_put_off_by_its_bytes(site: Site) -> None:
    site.serve(hello, head_timeout=7)
    client = site.connect()
    client.get()
    for piece in (b"G", b"E", b"T", b" "):
        client.send(piece)
        gevent.sleep(0.01)
    site.sweep(9)
    assert client.response().status == 408


@pytest.mark.parametrize("served", [False, True])
def test_an_idle_connection_is_closed_in_silence(site: Site, served: bool) -> None:
    site.serve(hello, keep_alive=3, head_timeout=3)
    client = site.connect()
    if served:
        client.get()
    gevent.sleep(0.02)
    site.sweep(1)
    client.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    client.sock.settimeout(PATIENCE)
    site.sweep(5)
    assert client.rest() == b""


def test_nobody_is_cut_early(site: Site, until: Until) -> None:
    """The clock of deadlines may lag a second behind."""
    server = site.serve(hello, keep_alive=0.7)
    gevent.sleep(0.5)
    client = site.connect()
    client.get()
    began = time.monotonic()
    until(lambda: not server.service.connections)
    assert time.monotonic() - began >= 0.7


def test_slow_content_is_cut(site: Site) -> None:
    caught: list[BaseException] = []
    begun = Event()

    def handle(exchange: Exchange) -> None:
        begun.set()
        try:
            read_all(exchange)
        except PeerTimeout as error:
            caught.append(error)
            raise

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 500000\r\n"))
    assert begun.wait(PATIENCE)
    client.send(b"a" * 480)  # two seconds' worth
    gevent.sleep(0.02)
    site.sweep(times=11)
    assert not caught
    site.sweep(times=3)
    assert isinstance(caught[0], TimeoutError)
    assert client.response().status == 408


def test_an_application_that_does_not_read_does_not_make_its_client_slow(site: Site) -> None:
    go = Event()

    def handle(exchange: Exchange) -> None:
        assert go.wait(PATIENCE)
        echo(exchange)

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\n"))
    gevent.sleep(0.02)
    site.sweep(times=60)
    go.set()
    client.send(b"hello")
    assert client.response().content == b"hello"


def test_a_client_that_takes_nothing_is_cut(site: Site) -> None:
    caught: list[BaseException] = []
    sent = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        try:
            exchange.send(b"a" * 20_000_000)
        except PeerTimeout as error:
            caught.append(error)
            with pytest.raises(PeerGone):
                exchange.send(b"more")
            raise
        finally:
            sent.set()

    site.serve(handle, write_timeout=5)
    client = site.connect()
    client.send(request())
    gevent.sleep(0.05)
    site.sweep(times=5)
    assert not caught
    site.sweep(times=2)
    assert sent.wait(PATIENCE)
    assert caught
    with pytest.raises((EOFError, ConnectionResetError)):
        client.response()


# --- the gone


def test_closed_tells_a_reset(site: Site) -> None:
    seen = Event()

    def handle(exchange: Exchange) -> None:
        assert not exchange.closed.is_set()
        assert exchange.closed.wait(PATIENCE)
        seen.set()

    site.serve(handle)
    client = site.connect()
    client.send(request())
    gevent.sleep(0.02)
    client.reset()
    assert seen.wait(PATIENCE)


def test_closed_does_not_take_a_half_close_for_going_away(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        assert not exchange.closed.wait(0.05)
        hello(exchange)

    site.serve(handle)
    client = site.connect()
    client.send(request())
    client.sock.shutdown(1)
    assert client.response().content == b"hello"
    assert client.rest() == b""


def test_closed_is_set_when_a_write_fails(site: Site) -> None:
    ended = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        closed = exchange.closed
        while not closed.wait(0.005):
            try:
                exchange.send(b"a")
            except ConnectionResetError:
                assert closed.is_set()
        ended.set()

    site.serve(handle)
    client = site.connect()
    client.send(request())
    client._more()
    client.close()
    assert ended.wait(PATIENCE)


def send_forever(exchange: Exchange) -> None:
    while True:
        exchange.send(b"a")
        gevent.sleep(0.002)


def test_closed_is_set_at_its_first_use_when_a_write_has_failed(site: Site) -> None:
    ended = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        with pytest.raises(PeerGone):
            send_forever(exchange)
        assert exchange.closed.is_set()
        ended.set()

    site.serve(handle)
    client = site.connect()
    client.send(request())
    client.reset()
    assert ended.wait(PATIENCE)


def test_closed_reads_ahead_within_bounds_and_loses_nothing(site: Site, until: Until) -> None:
    content = os.urandom(1_000_000)
    begun, go = Event(), Event()
    ahead = []

    def handle(exchange: Exchange) -> None:
        exchange.closed.is_set()
        begun.set()
        assert go.wait(PATIENCE)
        ahead.append(exchange._stream.pending())  # type: ignore[attr-defined]
        echo(exchange)

    server = site.serve(handle)
    client = site.connect()
    sender = gevent.spawn(
        client.send, request(method="POST", fields="Content-Length: 1000000\r\n") + content + request("/next")
    )
    assert begun.wait(PATIENCE)
    (connection,) = server.service.connections
    until(lambda: connection._stream.pending() == 64 * 1024)  # type: ignore[attr-defined]
    gevent.sleep(0.02)
    go.set()
    assert client.response().content == content
    assert client.response().content == b""
    sender.get()
    assert ahead[0] == 64 * 1024


def test_closed_still_watches_when_what_it_read_ahead_was_taken(site: Site) -> None:
    taken, seen = Event(), Event()

    def handle(exchange: Exchange) -> None:
        closed = exchange.closed
        gevent.sleep(0.05)  # the read-ahead fills
        assert len(read_all(exchange)) == 65 * 1024
        taken.set()
        assert closed.wait(PATIENCE)
        seen.set()

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields=f"Content-Length: {65 * 1024}\r\n"))
    client.send(b"a" * 65 * 1024)
    assert taken.wait(PATIENCE)
    client.reset()
    assert seen.wait(PATIENCE)


def test_a_client_that_resets_costs_no_traceback(site: Site, caplog: pytest.LogCaptureFixture, until: Until) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        while True:
            exchange.send(b"a" * 100_000)

    server = site.serve(handle)
    for _ in range(5):
        client = site.connect()
        client.send(request())
        client._more()
        client.reset()
    until(lambda: not server.service.connections)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- exceptions thrown in


def test_killing_its_greenlet_cuts_the_answer_and_nothing_else(site: Site) -> None:
    running: list[Any] = []
    begun = Event()

    def handle(exchange: Exchange) -> None:
        if exchange.request.target != b"/kill":
            return hello(exchange)
        running.append(gevent.getcurrent())
        exchange.send_head(200, [])
        exchange.send(b"a")
        begun.set()
        return gevent.sleep(PATIENCE)

    server = site.serve(handle)
    client, other = site.connect(), site.connect()
    other.get()
    client.send(request("/kill"))
    assert begun.wait(PATIENCE)
    running[0].kill()
    with pytest.raises((EOFError, ConnectionResetError)):
        client.response()
    assert running[0].dead
    assert running[0] not in server.service.workers._idle
    assert other.get().content == b"hello"
    assert site.connect().get().content == b"hello"


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
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\n") + b"he")
    assert timed_out.wait(PATIENCE)
    client.send(b"llo")
    assert client.response().content == b"hello"
    client.send(request(method="POST", fields="Content-Length: 5\r\n") + b"he")
    gevent.sleep(0.05)
    client.send(b"llo")
    assert client.response().content == b"hello"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_timeout_in_a_write_poisons_the_exchange(site: Site, version: str, last: bool) -> None:
    """The peer sees a cut answer, however it is framed: an until-close answer that merely ended would look whole."""
    poisoned = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"a")
        try:
            with gevent.Timeout(0.05):
                (exchange.finish if last else exchange.send)(b"a" * 20_000_000)
        finally:
            with pytest.raises(PeerGone if not last else (PeerGone, ApplicationError)):
                exchange.send(b"b")
            poisoned.set()

    site.serve(handle)
    client = site.connect()
    client.send(request(version=version))
    assert poisoned.wait(PATIENCE)
    gevent.sleep(0.02)
    with pytest.raises((EOFError, ConnectionResetError)):
        client.response()


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
    client = site.connect()
    client.send(request(method="POST", fields="Content-Length: 5\r\n"))
    while b"more?" not in client.buffer:
        client._more()
    client.send(b"hello")
    assert client.response().content == b"more?hello"


def test_one_writer_at_a_time(site: Site) -> None:
    refused = Event()

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"begin")
        first = gevent.spawn(exchange.send, b"a" * 20_000_000)
        gevent.sleep(0.02)
        with pytest.raises(ApplicationError):
            exchange.send(b"b" * 100)
        refused.set()
        first.get(timeout=PATIENCE)
        exchange.finish(b"end")

    site.serve(handle)
    client = site.connect()
    client.send(request())
    assert refused.wait(PATIENCE)
    assert client.response().content == b"begin" + b"a" * 20_000_000 + b"end"


def test_a_writer_left_behind_is_told_that_it_is_over(site: Site) -> None:
    """A handler that returns while another greenlet still sends has not finished: the answer is cut."""
    left: list[gevent.Greenlet] = []

    def send_on(exchange: Exchange) -> BaseException | None:
        try:
            exchange.send(b"a" * 20_000_000)
        except PeerGone as error:
            return error
        return None

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"begin")
        left.append(gevent.spawn(send_on, exchange))
        gevent.sleep(0.02)

    site.serve(handle)
    client = site.connect()
    with pytest.raises((EOFError, ConnectionResetError)):
        client.get()
    assert isinstance(left[0].get(timeout=PATIENCE), PeerGone)


# --- tunnels

UPGRADE = "Connection: Upgrade\r\nUpgrade: x\r\n"


def test_behind_an_upgrade_that_is_declined_http_goes_on(site: Site, until: Until) -> None:
    server = site.serve(echo_target)
    client = site.connect()
    for _ in range(2):
        client.send(request("/1", UPGRADE) + request("/2", UPGRADE) + request("/3"))
        assert [client.response().content for _ in range(3)] == [b"/1", b"/2", b"/3"]
        gevent.sleep(0.02)  # it idles
    assert len(server.service.connections) == 1
    client.send(request("/4", UPGRADE + "Connection: close\r\n"))
    assert client.response().content == b"/4"
    assert client.rest() == b""
    until(lambda: not server.service.connections)


def test_tunnel(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel([("A", "b")])
        received = b""
        while data := tunnel.recv(3):
            assert len(data) <= 3
            received += data
            if received.endswith(b"."):
                tunnel.sendv([b"<", received, memoryview(b">")])
        assert tunnel.send(b"bye") == 3
        tunnel.shutdown()
        assert exchange.status == 101

    server = site.serve(handle)
    client = site.connect()
    client.send(request(fields=UPGRADE) + b"early bytes,")
    response = client.response()
    assert response.status == 101
    assert response.fields == {"a": "b", "upgrade": "x", "connection": "Upgrade"}
    client.send(b" late ones.")
    while b">" not in client.buffer:
        client._more()
    assert client.buffer == b"<early bytes, late ones.>"
    site.sweep(1000, times=40)  # no deadline reaches what is not HTTP
    assert server.service.connections
    client.buffer = b""
    client.sock.shutdown(1)
    assert client.rest() == b"bye"


def test_a_tunnel_comes_behind_the_requests_content(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        tunnel.sendall(tunnel.recv(100))

    site.serve(handle)
    client = site.connect()
    client.send(request(method="POST", fields=UPGRADE + "Content-Length: 5\r\n") + b"hello" + b"tunnelled")
    assert client.response().status == 101
    assert client.rest() == b"tunnelled"


def test_a_tunnel_that_is_closed_while_its_peer_sends_delivers_its_last_bytes(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        tunnel.recv(1)
        tunnel.sendall(b"last")
        tunnel.close()
        tunnel.close()
        assert tunnel.recv(1) == b""
        with pytest.raises(PeerGone):
            tunnel.sendall(b"more")

    site.serve(handle)
    client = site.connect()
    client.send(request(fields=UPGRADE) + b"a")
    assert client.response().status == 101
    client.send(b"b" * 1_000_000)
    assert client.rest() == b"last"


def test_an_aborted_tunnel_is_visible_as_cut(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        tunnel.abort()
        tunnel.abort()

    site.serve(handle)
    client = site.connect()
    client.send(request(fields=UPGRADE))
    with pytest.raises(ConnectionResetError):
        client.rest()


@pytest.mark.parametrize("fields", ["", "Upgrade: x\r\n", "Connection: Upgrade\r\n"])
def test_no_tunnel_without_an_offer(site: Site, fields: str) -> None:
    def handle(exchange: Exchange) -> None:
        with pytest.raises(NotSupported):
            exchange.open_tunnel()
        hello(exchange)

    site.serve(handle)
    assert site.connect().get(fields=fields).content == b"hello"


def test_no_tunnel_behind_a_head_and_no_response_behind_a_tunnel(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.request.target == b"/tunnel":
            exchange.open_tunnel()
            with pytest.raises(ApplicationError):
                exchange.send_head(200, [])
            return
        exchange.send_head(200, [])
        with pytest.raises(ApplicationError):
            exchange.open_tunnel()
        exchange.finish(b"a")

    site.serve(handle)
    client = site.connect()
    assert client.get(fields=UPGRADE).content == b"a"
    assert client.get("/tunnel", fields=UPGRADE).status == 101
    assert client.rest() == b""


# --- idling


def test_an_idle_connection_gives_its_greenlet_back_and_has_one_again(site: Site) -> None:
    server = site.serve(hello, keep_alive=60)
    client = site.connect()
    for _ in range(3):
        assert client.get().content == b"hello"
        gevent.sleep(0.02)
        site.sweep(times=3)
        (connection,) = server.service.connections
        assert connection._worker is None  # type: ignore[attr-defined]
    client.close()
    site.sweep()


def test_a_released_connection_is_still_swept(site: Site) -> None:
    site.serve(hello, keep_alive=60)
    client = site.connect()
    client.get()
    gevent.sleep(0.02)
    site.sweep(times=3)
    site.sweep(70)
    assert client.rest() == b""


def test_a_released_connection_leaves_with_its_peer(site: Site, until: Until) -> None:
    server = site.serve(hello, keep_alive=60)
    for end in (Client.close, Client.reset):
        client = site.connect()
        client.get()
        gevent.sleep(0.02)
        site.sweep(times=3)
        end(client)
        until(lambda: not server.service.connections)


def test_nothing_leaks_from_one_request_to_the_next(site: Site) -> None:
    mine = local()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    greenlets = set()

    def handle(exchange: Exchange) -> None:
        greenlets.add(gevent.getcurrent())
        found = f"{getattr(mine, 'value', 'unset')} {variable.get()}".encode()
        mine.value = exchange.request.target.decode()
        variable.set(exchange.request.target.decode())
        exchange.send_head(200, [])
        exchange.finish(found)

    server = site.serve(handle)
    for number in range(4):
        client = site.connect()
        assert client.get(f"/{number}").content == b"unset unset"
        assert client.get(f"/{number}/b").content == b"unset unset"
        client.close()
        gevent.sleep(0.02)
        assert not server.service.connections
    assert len(greenlets) < 4, "greenlets were not recycled: this shows nothing"


def test_errors_of_the_peer_are_answered_as_what_they_are(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        raise PeerError(418, "short and stout")

    site.serve(handle)
    response = site.connect().get()
    assert (response.status, response.fields["connection"]) == (418, "close")
    assert b"short and stout" in response.content
