"""TunnelSocket over a tunnel in memory, the keys that lead to it, and the whole of it over real connections."""

import io
import selectors
import socket as plain_socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RD, SHUT_RDWR, SHUT_WR
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.selectors import DefaultSelector

from geventgate.errors import ApplicationError, NotSupported, PeerGone
from geventgate.gateway.upgrade import TunnelSocket
from geventgate.testing import FakeExchange, MemoryTunnel, Running, WebSocketClient, running

PATIENCE = 5.0  # seconds for what takes milliseconds
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "lines/2, lines/1")]
MEBI = 1 << 20


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with gevent.Timeout(4 * PATIENCE, AssertionError("the test hangs")):
        yield


@pytest.fixture
def ends() -> Iterator[tuple[TunnelSocket, MemoryTunnel]]:
    """Ours and the peer's."""
    ours, peer = MemoryTunnel.pair()
    tunnel = TunnelSocket(ours, ("192.0.2.1", "5000"), ("127.0.0.1", "80"))
    yield tunnel, peer
    tunnel.finish(AssertionError())


Ends = tuple[TunnelSocket, MemoryTunnel]
HOW = ["direct", "pumped"]


def turn(tunnel: TunnelSocket, how: str) -> None:
    if how == "pumped":
        assert tunnel.fileno() >= 0


def exactly(recv: Callable[[int], bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = recv(size - len(data))
        assert piece, f"ended after {len(data)} of {size} bytes"
        data += piece
    return data


def until_end(recv: Callable[[int], bytes]) -> bytes:
    return b"".join(iter(lambda: recv(MEBI), b""))


# --- a socket's ways


@pytest.mark.parametrize("how", HOW)
def test_bytes_both_ways(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    peer.sendall(b"early")
    turn(tunnel, how)
    assert exactly(tunnel.recv, 5) == b"early"
    peer.sendall(b"abcdef")
    assert exactly(tunnel.recv, 2) == b"ab"
    buffer = bytearray(8)
    assert tunnel.recv_into(buffer, 3) == 3
    assert tunnel.recv_into(memoryview(buffer)[3:]) == 1
    assert buffer == b"cdef\0\0\0\0"
    assert tunnel.recv(0) == b""
    with pytest.raises(ValueError, match="negative"):
        tunnel.recv(-1)
    assert tunnel.send(memoryview(b"12")) == 2
    tunnel.sendall(bytearray(b"3"))
    tunnel.sendv([b"4", b"", memoryview(b"56")])
    assert exactly(peer.recv, 6) == b"123456"


@pytest.mark.parametrize("how", HOW)
def test_half_closes_both_ways(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    tunnel.sendall(b"all I say")
    tunnel.shutdown(SHUT_WR)
    tunnel.shutdown(SHUT_WR)
    assert until_end(peer.recv) == b"all I say"
    with pytest.raises(BrokenPipeError):
        tunnel.sendall(b"more")
    peer.sendall(b"what they say")
    peer.shutdown()
    assert until_end(tunnel.recv) == b"what they say"
    assert tunnel.recv(1) == b""


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("side", [SHUT_RD, SHUT_RDWR])
def test_shutdown_ends_a_recv_that_waits(ends: Ends, how: str, side: int) -> None:
    tunnel, _ = ends
    turn(tunnel, how)
    waiting = gevent.spawn(tunnel.recv, 1)
    gevent.idle()
    tunnel.shutdown(side)
    assert waiting.get(timeout=PATIENCE) == b""
    assert tunnel.recv(1) == b""


def test_shutdown_wants_to_know_how(ends: Ends) -> None:
    with pytest.raises(OSError, match="SHUT_RD"):
        ends[0].shutdown(7)


@pytest.mark.parametrize("how", HOW)
def test_a_recv_that_timed_out_lost_nothing(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    tunnel.settimeout(0.01)
    assert (tunnel.gettimeout(), tunnel.getblocking()) == (0.01, True)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="timed out"):
            tunnel.recv(1)
    peer.sendall(b"late")
    tunnel.settimeout(None)
    assert exactly(tunnel.recv, 4) == b"late"
    with pytest.raises(ValueError, match="out of range"):
        tunnel.settimeout(-1)


@pytest.mark.parametrize("how", HOW)
def test_a_send_times_out(ends: Ends, how: str) -> None:
    tunnel, _ = ends
    turn(tunnel, how)
    tunnel.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        tunnel.sendall(bytes(4 * MEBI))


def test_without_waiting(ends: Ends) -> None:
    tunnel, peer = ends
    tunnel.setblocking(False)
    assert (tunnel.gettimeout(), tunnel.getblocking()) == (0.0, False)
    with pytest.raises(BlockingIOError):
        tunnel.recv(1)
    sent = tunnel.send(bytes(4 * MEBI))  # what fits, as non-blocking sockets do
    assert 0 < sent < 4 * MEBI
    with pytest.raises(BlockingIOError):
        tunnel.sendall(bytes(4 * MEBI))
    peer.sendall(b"x")
    with DefaultSelector() as selector:
        selector.register(tunnel, selectors.EVENT_READ)
        assert selector.select(PATIENCE)
    assert tunnel.recv(9) == b"x"
    tunnel.setblocking(True)
    tunnel.shutdown(SHUT_WR)
    assert len(until_end(peer.recv)) >= sent


@pytest.mark.parametrize("how", HOW)
def test_what_several_greenlets_send_stays_together(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    senders = [gevent.spawn(tunnel.sendall, bytes([letter]) * 300_000) for letter in b"abc"]
    data = exactly(peer.recv, 900_000)
    gevent.joinall(senders, PATIENCE, raise_error=True)
    assert sorted(data[n : n + 300_000] for n in range(0, 900_000, 300_000)) == [
        letter * 300_000 for letter in (b"a", b"b", b"c")
    ]


def test_one_greenlet_receives_at_a_time(ends: Ends) -> None:
    tunnel, peer = ends
    waiting = gevent.spawn(tunnel.recv, 1)
    gevent.idle()
    with pytest.raises(ApplicationError, match="another greenlet"):
        tunnel.recv(1)
    peer.sendall(b"x")
    assert waiting.get(timeout=PATIENCE) == b"x"


@pytest.mark.parametrize("how", HOW)
def test_a_peer_that_is_gone(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    peer.sendall(b"last")
    assert exactly(tunnel.recv, 4) == b"last"
    peer.abort()
    with pytest.raises(PeerGone):
        tunnel.recv(1)
    with pytest.raises(PeerGone):
        tunnel.sendall(b"x")


def test_a_peer_that_is_gone_is_told_to_who_does_not_wait(ends: Ends) -> None:
    tunnel, peer = ends
    tunnel.setblocking(False)
    peer.abort()
    gevent.idle()
    for use in (lambda: tunnel.recv(1), lambda: tunnel.send(b"x"), lambda: tunnel.sendall(b"x")):
        with pytest.raises(PeerGone):
            use()


@pytest.mark.parametrize("how", HOW)
def test_after_close(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    with tunnel:
        tunnel.sendall(b"x" * 60_000)
        assert not tunnel.closed
    assert tunnel.closed
    tunnel.close()
    assert until_end(peer.recv) == b"x" * 60_000
    uses: list[Callable[[], Any]] = [
        lambda: tunnel.recv(1), lambda: tunnel.send(b"x"), lambda: tunnel.sendv([b"x"]),
        lambda: tunnel.shutdown(SHUT_WR), tunnel.pending, tunnel.makefile,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(OSError, match="closed"):
            use()
    assert tunnel.fileno() == -1
    assert "closed" in repr(tunnel)


def test_names(ends: Ends) -> None:
    tunnel, _ = ends
    assert tunnel.getpeername() == ("192.0.2.1", 5000)
    assert tunnel.getsockname() == ("127.0.0.1", 80)
    assert TunnelSocket(ends[1], ("", ""), ("", "")).getpeername() == ""
    assert tunnel.dup() is tunnel
    assert "192.0.2.1" in repr(tunnel)


# --- files


@pytest.mark.parametrize("how", HOW)
def test_makefile(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    peer.sendall(b"one\ntwo\nr\xc3\xa9st")
    peer.shutdown()
    both = tunnel.makefile("rwb")
    assert isinstance(both, io.BufferedRWPair)
    assert both.readline() == b"one\n"
    both.write(b"held back")
    assert both.read(4) == b"two\n"
    both.flush()
    assert exactly(peer.recv, 9) == b"held back"
    with tunnel.makefile("rb", 0) as raw:
        assert isinstance(raw, io.RawIOBase)
    assert both.read() == "rést".encode()
    with tunnel.makefile("w", encoding="utf-8", newline="\r\n") as text:
        text.write("é\n")
    assert exactly(peer.recv, 4) == "é\r\n".encode()
    with pytest.raises(ValueError, match="invalid mode"):
        tunnel.makefile("a")


def test_files_keep_it_open(ends: Ends) -> None:
    tunnel, peer = ends
    file = tunnel.makefile("rwb", buffering=4)
    tunnel.close()
    peer.sendall(b"still here")
    assert file.read(10) == b"still here"
    file.write(b"bye")
    file.close()
    assert until_end(peer.recv) == b"bye"
    assert tunnel.fileno() == -1


def test_a_text_file_has_a_buffer(ends: Ends) -> None:
    with pytest.raises(ValueError, match="binary"):
        ends[0].makefile("r", 0)


def test_a_timeout_in_a_file(ends: Ends) -> None:
    tunnel, _ = ends
    tunnel.settimeout(0.01)
    with tunnel.makefile("rb") as file, pytest.raises(TimeoutError):
        file.read(1)


# --- fileno


def test_pending(ends: Ends) -> None:
    tunnel, peer = ends
    peer.sendall(b"abc")
    assert tunnel.pending() == 3
    with DefaultSelector() as selector:
        selector.register(tunnel, selectors.EVENT_READ)
        assert tunnel.pending() == 0  # select() tells of them now
        assert selector.select(PATIENCE)
    assert exactly(tunnel.recv, 3) == b"abc"


def test_select_sees_bytes_and_the_end(ends: Ends) -> None:
    tunnel, peer = ends
    with DefaultSelector() as selector:
        selector.register(tunnel, selectors.EVENT_READ)
        assert selector.select(0.01) == []
        gevent.spawn_later(0.01, peer.sendall, b"x")
        assert selector.select(PATIENCE)
        assert tunnel.recv(9) == b"x"
        assert selector.select(0.01) == []
        peer.shutdown()
        assert selector.select(PATIENCE)
        assert tunnel.recv(9) == b""


def test_reading_and_writing_by_the_descriptor_and_by_name_can_be_mixed(ends: Ends) -> None:
    tunnel, peer = ends
    other = plain_socket.socket(fileno=plain_socket.dup(tunnel.fileno()))
    with other:
        peer.sendall(b"abcd")
        gevent.idle()
        assert other.recv(2) == b"ab"
        assert exactly(tunnel.recv, 2) == b"cd"
        other.sendall(b"1")
        tunnel.sendall(b"2")
        assert exactly(peer.recv, 2) == b"12"


def test_a_recv_that_waits_goes_on_when_the_pump_takes_over(ends: Ends) -> None:
    tunnel, peer = ends
    waiting = gevent.spawn(tunnel.recv, 9)
    gevent.idle()
    assert tunnel.fileno() >= 0
    gevent.idle()
    assert not waiting.ready()
    peer.sendall(b"x")
    assert waiting.get(timeout=PATIENCE) == b"x"


def test_a_send_under_way_comes_before_what_the_pump_carries(ends: Ends) -> None:
    tunnel, peer = ends
    sending = gevent.spawn(tunnel.sendall, b"a" * 200_000)
    gevent.idle()
    assert tunnel.fileno() >= 0
    later = gevent.spawn(tunnel.sendall, b"b" * 900_000)
    gevent.idle()
    assert exactly(peer.recv, 1_100_000) == b"a" * 200_000 + b"b" * 900_000
    gevent.joinall([sending, later], PATIENCE, raise_error=True)


def test_the_pump_takes_over_half_closed(ends: Ends) -> None:
    tunnel, peer = ends
    tunnel.shutdown(SHUT_WR)
    assert tunnel.fileno() >= 0
    with pytest.raises(BrokenPipeError):
        tunnel.sendall(b"x")
    peer.sendall(b"x")
    assert tunnel.recv(1) == b"x"
    assert until_end(peer.recv) == b""
    tunnel.shutdown(SHUT_RD)
    assert tunnel.recv(1) == b""


def test_the_pump_takes_over_when_nothing_is_read(ends: Ends) -> None:
    tunnel, peer = ends
    tunnel.shutdown(SHUT_RD)
    assert tunnel.fileno() >= 0
    assert tunnel.recv(1) == b""
    tunnel.sendall(b"still heard")
    peer.sendall(b"not heard")
    assert exactly(peer.recv, 11) == b"still heard"


def test_flags_are_the_kernels(ends: Ends) -> None:
    tunnel, peer = ends
    peer.sendall(b"ab")
    assert tunnel.recv(9, socket.MSG_PEEK) == b"ab"
    assert tunnel.recv(9) == b"ab"


def test_closing_with_bytes_unread_still_delivers(ends: Ends) -> None:
    tunnel, peer = ends
    assert tunnel.fileno() >= 0
    peer.sendall(b"unread")
    gevent.idle()
    tunnel.sendall(b"y" * 50_000)
    tunnel.close()
    assert until_end(peer.recv) == b"y" * 50_000


@pytest.mark.parametrize("how", HOW)
def test_large_transfers_both_ways_at_once(ends: Ends, how: str) -> None:
    tunnel, peer = ends
    turn(tunnel, how)
    size = 3 * MEBI
    sending = gevent.spawn(tunnel.sendall, b"o" * size), gevent.spawn(peer.sendall, b"i" * size)
    theirs = gevent.spawn(exactly, peer.recv, size)
    assert exactly(tunnel.recv, size) == b"i" * size
    assert theirs.get(timeout=PATIENCE) == b"o" * size
    gevent.joinall(sending, PATIENCE, raise_error=True)


# --- the keys


def test_the_keys_are_there_when_they_mean_something(answer: Any) -> None:
    seen: list[dict[str, Any]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append({key: environ[key] for key in environ if key in ("geventgate.protocol", "geventgate.upgrade")})
        assert callable(environ["geventgate.hijack"])
        start_response(200 if environ["REQUEST_METHOD"] != "CONNECT" else 403, [])
        return [b"plain"]

    for method, target, fields, protocol in (
        ("GET", "/", [], None),
        ("GET", "/", [("Upgrade", "lines/1")], None),
        ("GET", "/", [("Connection", "Upgrade"), ("Upgrade", ", ,")], None),
        ("GET", "/", UPGRADE, "lines/2"),
        ("CONNECT", "a:80", [], ""),
    ):
        assert answer(app, FakeExchange(method, target, fields)).content == b"plain"
        assert seen[-1].get("geventgate.protocol") == protocol
        assert ("geventgate.upgrade" in seen[-1]) is (protocol is not None)


@pytest.mark.parametrize(("protocol", "chosen"), [(None, "lines/2"), ("LINES/1", "lines/1")])
def test_upgrade(answer: Any, protocol: str | None, chosen: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])  # changes its mind
        tunnel = environ["geventgate.upgrade"]([("X-Node", "7")], protocol)
        assert tunnel.getpeername() == ("127.0.0.1", 50000)
        tunnel.sendall(b"hello")
        start_response("200 OK", [], (ValueError, ValueError(), None))(b"late")
        return [b"late too"]

    exchange = answer(app, FakeExchange("GET", "/", UPGRADE))
    assert exchange.status == 101
    assert (exchange.field("Upgrade"), exchange.field("X-Node"), exchange.content) == (chosen, "7", b"")
    assert until_end(exchange.tunnel.recv) == b"hello"


def test_upgrade_to_what_was_not_offered(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with pytest.raises(NotSupported, match="lines/3"):
            environ["geventgate.upgrade"](protocol="lines/3")
        start_response("426 Upgrade Required", [("Upgrade", "lines/3")])
        return [b"lines/3 only"]

    exchange = answer(app, FakeExchange("GET", "/", UPGRADE))
    assert (exchange.status, exchange.tunnel) == (426, None)


def test_a_second_upgrade(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["geventgate.upgrade"]()
        for use in ("geventgate.upgrade", "geventgate.hijack"):
            with pytest.raises(ApplicationError, match="begun"):
                environ[use]()
        return []

    assert answer(app, FakeExchange("GET", "/", UPGRADE)).status == 101


def test_no_upgrade_behind_a_head(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"first")
        with pytest.raises(ApplicationError, match="begun"):
            environ["geventgate.upgrade"]()
        return [b" last"]

    assert answer(app, FakeExchange("GET", "/", UPGRADE)).content == b"first last"


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("error", [ValueError("a bug"), gevent.GreenletExit()])
def test_an_application_that_raises_cuts_its_tunnel(answer: Any, how: str, error: BaseException) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        turn(environ["geventgate.upgrade"](), how)
        raise error

    exchange = FakeExchange("GET", "/", UPGRADE)
    with pytest.raises(type(error)):
        answer(app, exchange)
    with pytest.raises(PeerGone):
        exchange.tunnel.recv(1)


def test_what_the_pump_still_carries_arrives_when_the_application_has_returned(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        assert tunnel.fileno() >= 0
        kept.append(tunnel.makefile("wb"))  # keeps nothing open behind the application's end
        tunnel.sendall(b"z" * 200_000)
        return []

    kept: list[Any] = []
    exchange = FakeExchange("GET", "/", UPGRADE)
    answering = gevent.spawn(answer, app, exchange)
    gevent.idle()
    assert until_end(exchange.tunnel.recv) == b"z" * 200_000
    answering.get(timeout=PATIENCE)


def test_hijack(answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        sock, unread = environ["geventgate.hijack"]()
        kept.append((sock, unread))
        start_response("200 OK", [])(b"late")
        return [b"late too"]

    kept: list[Any] = []
    exchange = answer(app)
    ((sock, unread),) = kept
    sock.sendall(b"mine")
    assert (exchange.hijacked.recv(9), unread, exchange.content, exchange.status) == (b"mine", b"", b"", 0)
    sock.close()
    exchange.hijacked.close()


def test_what_is_no_socket_is_given_away_as_one(answer: Any) -> None:
    class OverTls(FakeExchange):
        def hijack(self) -> tuple[Any, bytes]:
            self.finished = True
            return ours, b"unread"

    def app(environ: Any, start_response: Any) -> list[bytes]:
        kept.append(environ["geventgate.hijack"]())
        return []

    ours, peer = MemoryTunnel.pair()
    kept: list[Any] = []
    answer(app, OverTls())
    ((tunnel, unread),) = kept
    assert (type(tunnel), unread, tunnel.getpeername()) == (TunnelSocket, b"unread", ("127.0.0.1", 50000))
    tunnel.sendall(b"open behind the application's end")
    assert peer.recv(99) == b"open behind the application's end"
    tunnel.close()


def test_a_websocket_or_a_tunnel(answer: Any) -> None:
    """Of one handshake either may be made, and then not the other."""
    handshake = [
        ("Connection", "Upgrade"), ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]  # fmt: skip

    def tunnel_first(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["geventgate.protocol"] == "websocket"
        environ["geventgate.upgrade"]([("Sec-WebSocket-Accept", "mine")]).sendall(b"raw")
        with pytest.raises(ApplicationError):
            environ["wsgi.websocket"].accept()
        return []

    exchange = answer(tunnel_first, FakeExchange("GET", "/", handshake))
    assert (exchange.status, exchange.field("Sec-WebSocket-Accept")) == (101, "mine")
    assert until_end(exchange.tunnel.recv) == b"raw"


# --- over real connections


class Client:
    def __init__(self, server: Running) -> None:
        self.sock = server.connect(PATIENCE)

    def upgrade(self, behind: bytes = b"", offer: str = "lines/1", more: str = "", method: str = "GET") -> bytes:
        """Ask, with *behind* in the same segment; returns the head of the answer."""
        head = f"{method} / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {offer}\r\n{more}\r\n"
        self.sock.sendall(head.encode() + behind)
        return self.head()

    def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            assert byte, f"ended behind {head!r}"
            head += byte
        return head


@contextmanager
def served(app: Any, **options: Any) -> Iterator[Client]:
    with running(app, **options) as server:
        client = Client(server)
        with client.sock:
            yield client


@pytest.fixture(params=["tcp", "unix"])
def way(request: pytest.FixtureRequest, tmp_path: Any) -> dict[str, Any]:
    return {} if request.param == "tcp" else {"bind": (f"unix:{tmp_path}/s",)}


@pytest.mark.parametrize("how", HOW)
def test_bytes_behind_the_upgrade_come_first(how: str, way: dict[str, Any]) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        turn(tunnel, how)
        with tunnel.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()
        return []

    with served(app, **way) as client:
        head = client.upgrade(b"early\nand ", "lines/1, other")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nUpgrade: lines/1\r\n" in head
        client.sock.sendall(b"late\n")
        assert exactly(client.sock.recv, 15) == b"EARLY\nAND LATE\n"
        client.sock.shutdown(SHUT_WR)
        assert client.sock.recv(1) == b""


@pytest.mark.parametrize("how", HOW)
def test_a_hundred_megabits_both_ways_at_once(how: str, way: dict[str, Any]) -> None:
    size = 12 * MEBI

    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        turn(tunnel, how)
        sending = gevent.spawn(tunnel.sendall, b"o" * size)
        received.append(exactly(tunnel.recv, size) == b"i" * size)
        sending.get(timeout=PATIENCE)
        tunnel.shutdown(SHUT_WR)
        received.append(tunnel.recv(1))
        return []

    received: list[Any] = []
    with served(app, **way) as client:
        client.upgrade()
        sending = gevent.spawn(client.sock.sendall, b"i" * size)
        assert until_end(client.sock.recv) == b"o" * size
        sending.get(timeout=PATIENCE)
        client.sock.shutdown(SHUT_WR)
    assert received == [True, b""]


def test_the_content_comes_before_the_tunnel() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        read = environ["wsgi.input"].read(2) if environ["HTTP_X_READ"] == "some" else b""
        tunnel = environ["geventgate.upgrade"]()
        tunnel.sendall(read + b"|" + environ["wsgi.input"].read() + b"|" + tunnel.recv(99))
        return []

    for read, expected in (("none", b"||tunnel"), ("some", b"he|")):
        with served(app) as client:
            head = client.upgrade(b"hello" + b"tunnel", more=f"Content-Length: 5\r\nX-Read: {read}\r\n", method="POST")
            assert head.startswith(b"HTTP/1.1 101")
            client.sock.shutdown(SHUT_WR)
            assert until_end(client.sock.recv).startswith(expected)


def test_an_upgrade_that_expects_100_is_told_so_first() -> None:
    """RFC 9110 §7.8."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        tunnel.sendall(tunnel.recv(9))
        return []

    with served(app) as client:
        head = client.upgrade(more="Content-Length: 5\r\nExpect: 100-continue\r\n", method="POST")
        assert head == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sock.sendall(b"hello")
        assert client.head().startswith(b"HTTP/1.1 101")
        client.sock.sendall(b"echo")
        assert until_end(client.sock.recv) == b"echo"


def test_too_much_content_is_refused() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with pytest.raises(NotSupported, match="too much content"):
            environ["geventgate.upgrade"]()
        start_response("413 Content Too Large", [])
        return [b""]

    with served(app) as client:
        assert client.upgrade(more="Content-Length: 10000000\r\n", method="POST").startswith(b"HTTP/1.1 413")


def test_an_application_that_raises_is_logged_and_its_tunnel_cut(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["geventgate.upgrade"]()
        raise ValueError("a bug")

    with served(app) as client:
        client.upgrade()
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)
    assert "a bug" in caplog.text


@pytest.mark.parametrize("how", HOW)
def test_a_peer_that_resets_is_no_failure_of_the_application(how: str, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        turn(tunnel, how)
        tunnel.recv(1)
        return []

    with running(app) as server:
        client = Client(server)
        client.upgrade()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sock.close()
    assert "Traceback" not in caplog.text


def test_tunnels_learn_of_the_drain_and_end_in_peace() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        environ["geventgate.draining"].wait()
        tunnel.sendall(b"goodbye")
        return []

    with running(app) as server:
        client = Client(server)
        client.upgrade()
        stopping = gevent.spawn(server.server.stop)
        assert until_end(client.sock.recv) == b"goodbye"
        client.sock.close()
        stopping.get(timeout=PATIENCE)


@pytest.mark.parametrize("how", HOW)
def test_tunnels_are_cut_when_the_graceful_timeout_is_over(how: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        tunnel = environ["geventgate.upgrade"]()
        turn(tunnel, how)
        tunnel.sendall(b"x")
        tunnel.recv(1)
        return []

    with running(app) as server:
        client = Client(server)
        client.upgrade()
        assert client.sock.recv(1) == b"x"
        server.server.stop(0.05)
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)


def test_hijack_gives_the_connection_away() -> None:
    """The application answers twice on it, after its handler has returned and the server forgotten it."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        sock, unread = environ["geventgate.hijack"]()
        for use in ("geventgate.hijack", "geventgate.upgrade"):
            with pytest.raises(ApplicationError, match="hijacked"):
                environ[use]()
        gevent.spawn(serve, sock, unread)
        return [b"ignored"]

    def serve(sock: Any, unread: bytes) -> None:
        told.append((type(sock), unread, sock.getpeername()[0]))
        returned.wait()
        sock.sendall(b"HTTP/1.1 299 Mine\r\nContent-Length: 2\r\n\r\n:)")
        file = sock.makefile("rwb")
        while (line := file.readline()) not in (b"\r\n", b""):
            told.append(line)
        file.write(b"HTTP/1.1 204 Mine\r\n\r\n")
        file.close()
        sock.close()

    told: list[Any] = []
    returned = gevent.event.Event()
    with running(app) as server:
        client = Client(server)
        client.sock.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nbody"
        )
        with gevent.Timeout(PATIENCE):
            while not told or server.server.service.connections:
                gevent.sleep(0.001)
        server.server.stop()  # no longer its own
        returned.set()
        assert client.head() == b"HTTP/1.1 299 Mine\r\nContent-Length: 2\r\n\r\n"
        assert exactly(client.sock.recv, 2) == b":)"
        client.sock.sendall(b"GET /2 HTTP/1.1\r\n\r\n")
        assert until_end(client.sock.recv) == b"HTTP/1.1 204 Mine\r\n\r\n"
        client.sock.close()
    assert told == [(socket.socket, b"body", "127.0.0.1"), b"GET /2 HTTP/1.1\r\n"]


def test_a_hijacked_connection_outlives_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        kept.append(environ["geventgate.hijack"]()[0])
        raise ValueError("a bug")

    kept: list[Any] = []
    with served(app) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with gevent.Timeout(PATIENCE):
            while "a bug" not in caplog.text:
                gevent.sleep(0.001)
        kept[0].sendall(b"still mine")
        assert exactly(client.sock.recv, 10) == b"still mine"
        kept[0].close()


def test_content_is_not_read_behind_a_hijack() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"]
        read = body.read(int(environ["HTTP_X_READ"]))
        sock, unread = environ["geventgate.hijack"]()
        sock.sendall(read + b"|" + unread + b"|" + body.read())
        sock.close()
        return []

    for count, expected in ((0, b"|bodybehind|"), (2, b"bo|dybehind|"), (4, b"body|behind|")):
        with served(app) as client:
            head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Read: %d\r\nContent-Length: 4\r\n\r\n" % count
            client.sock.sendall(head + b"bodybehind")
            assert until_end(client.sock.recv) == expected


# --- CONNECT


def connect_app(environ: Any, start_response: Any) -> list[bytes]:
    if environ["HTTP_HOST"] != "echo:7":
        start_response("403 Forbidden", [])
        return [b"not there\n"]
    assert (environ["REQUEST_METHOD"], environ["geventgate.protocol"], environ["PATH_INFO"]) == ("CONNECT", "", "")
    tunnel = environ["geventgate.upgrade"]([("X-Node", "7"), ("Content-Length", "0")])
    while data := tunnel.recv(99):
        tunnel.sendall(data)
    return []


def test_connect() -> None:
    with served(connect_app, allow_connect=True) as client:
        client.sock.sendall(b"CONNECT echo:7 HTTP/1.1\r\nHost: echo:7\r\n\r\nearly")
        assert client.head() == b"HTTP/1.1 200 OK\r\nX-Node: 7\r\n\r\n"
        assert exactly(client.sock.recv, 5) == b"early"
        client.sock.shutdown(SHUT_WR)
        assert client.sock.recv(1) == b""


def test_nothing_is_served_behind_a_refused_connect() -> None:
    """It may have been meant for the tunnel."""
    with served(connect_app, allow_connect=True) as client:
        client.sock.sendall(b"CONNECT no:1 HTTP/1.1\r\nHost: no:1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = until_end(client.sock.recv)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert (answer.count(b"HTTP/1.1"), b"\r\nConnection: close\r\n" in answer) == (1, True)


@pytest.mark.parametrize(
    ("options", "more", "status"),
    [({}, b"", b"501"), ({"allow_connect": True}, b"Content-Length: 5\r\n", b"400"),
     ({"allow_connect": True}, b"Transfer-Encoding: chunked\r\n", b"400")],
)  # fmt: skip
def test_connect_is_refused(options: dict[str, Any], more: bytes, status: bytes) -> None:
    with served(connect_app, **options) as client:
        client.sock.sendall(b"CONNECT echo:7 HTTP/1.1\r\nHost: echo:7\r\n" + more + b"\r\n")
        assert until_end(client.sock.recv).startswith(b"HTTP/1.1 " + status)


def test_an_application_that_does_not_know_connect(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"hello"]

    with served(app, allow_connect=True) as client:
        client.sock.sendall(b"CONNECT echo:7 HTTP/1.1\r\nHost: echo:7\r\n\r\n")
        assert until_end(client.sock.recv).startswith(b"HTTP/1.1 500 ")
    assert "200 to CONNECT is said by opening the tunnel" in caplog.text


# --- old code


def test_simple_websocket_on_a_tunnel() -> None:
    """It writes its own 101, ignores what send() returns, and selects on the socket when it pings."""
    simple_websocket = pytest.importorskip("simple_websocket")

    class Handshake:
        """A socket that turns the head written to it into an upgrade, and is the tunnel from then on."""

        def __init__(self, environ: Any) -> None:
            self._environ = environ

        def send(self, head: bytes) -> int:
            lines = head.decode("latin-1").split("\r\n")[1:]
            fields = [tuple(line.split(": ", 1)) for line in lines if line]
            self.tunnel = self._environ["geventgate.upgrade"](
                [field for field in fields if field[0].lower() not in ("upgrade", "connection")]
            )
            self.send = self.tunnel.send  # type: ignore[method-assign]
            return len(head)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tunnel, name)

    class Thread:
        name = ""

        def __init__(self, target: Any) -> None:
            self.start = lambda: gevent.spawn(target)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["werkzeug.socket"] = Handshake(environ)
        ws = simple_websocket.Server(
            environ, thread_class=Thread, event_class=gevent.event.Event, selector_class=DefaultSelector,
            ping_interval=float(environ["QUERY_STRING"]) or None,
        )  # fmt: skip
        with suppress(simple_websocket.ConnectionClosed):
            while True:
                pongs.append(ws.pong_received)
                ws.send(ws.receive())
        return []

    pongs: list[bool] = []
    with running(app) as server:
        for ping_interval in (0, 60):
            with WebSocketClient(server.url, f"/?{ping_interval}") as ws:
                ws.send(b"8" * 8_000_000)  # which arrives as 3.87 MB elsewhere
                assert ws.receive() == b"8" * 8_000_000
                ws.close()
        with WebSocketClient(server.url, "/?0.5") as ws:
            sending = gevent.spawn_later(0.7, ws.send, "behind a ping")  # receive() answers it meanwhile
            assert ws.receive() == "behind a ping"
            sending.get(timeout=PATIENCE)
            ws.close()
    assert all(pongs)
