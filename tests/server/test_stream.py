"""A stream over a socketpair: who waits, who wakes it, and what is left behind."""

import os
import socket as plain
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import get_hub, socket
from gevent.event import Event

from geventgate.errors import ApplicationError, PeerError, PeerGone, PeerTimeout
from geventgate.server import selector, switching
from geventgate.server.descriptor import JOIN_SIZE
from geventgate.server.stream import BURST, READ_AHEAD, Sleeper, Stream

LARGE = b"a" * 5_000_000
Ends = tuple[Stream, socket.socket]


@pytest.fixture(autouse=True, params=[True, False], ids=["epoll", "watchers"])
def told_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells a stream that bytes have come."""
    monkeypatch.setattr(selector, "HAS_EPOLL", request.param)
    monkeypatch.setattr(switching, "_all", {})


@pytest.fixture
def ends(faults: list[Any]) -> Iterator[Ends]:
    """A stream and its peer."""
    ours, theirs = plain.socketpair()
    ours.setblocking(False)
    stream = Stream(ours)
    peer = socket.socket(fileno=theirs.detach())
    peer.settimeout(5)
    yield stream, peer
    peer.close()
    stream.close()
    gevent.sleep(0)
    assert faults == []


@pytest.fixture
def tcp_ends(faults: list[Any]) -> Iterator[Ends]:
    """The same over TCP, where a reset can be sent."""
    with plain.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    stream = Stream(ours)
    yield stream, peer
    peer.close()
    stream.close()
    gevent.sleep(0)
    assert faults == []


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


def drain(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(65536), b""))


class Called(Sleeper):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def wake(self) -> None:
        self._call()


def readable(stream: Stream) -> None:
    """Wait until something has come."""
    come = Event()
    stream.when_readable(Called(come.set))
    assert come.wait(5)


def in_hub(call: Any, *arguments: Any) -> None:
    get_hub().loop.run_callback(call, *arguments)
    gevent.sleep(0)


def parked(call: Any, *arguments: Any) -> gevent.Greenlet:
    """A greenlet that waits in *call*; it returns what that raises."""

    def run() -> Any:
        try:
            return call(*arguments)
        except PeerError as error:
            return error

    greenlet = gevent.spawn(run)
    gevent.sleep(0.01)
    assert not greenlet.ready()
    return greenlet


def test_receive_take_append(ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"hello")
    assert stream.receive()
    assert (stream.inbox, stream.start, stream.pending(), stream.received) == (b"hello", 0, 5, 5)
    stream.take(2)
    assert stream.pending() == 3
    peer.sendall(b" world")
    assert stream.receive()
    assert stream.inbox[stream.start :] == b"llo world"
    stream.take(9)
    assert (stream.inbox, stream.start) == (b"", 0)
    peer.shutdown(socket.SHUT_WR)
    assert not stream.receive()
    assert not stream.receive()


def test_unread(ends: Ends) -> None:
    stream, peer = ends
    assert not stream.unread()
    peer.sendall(b"ab")
    assert stream.unread()
    assert stream.receive()
    assert stream.unread()
    stream.take(2)
    assert not stream.unread()
    peer.shutdown(socket.SHUT_WR)
    assert not stream.unread()
    stream.close()
    assert not stream.unread()


def test_receive_flushes_first(ends: Ends) -> None:
    """Else both sides may wait for each other."""
    stream, peer = ends
    stream.write(b"a")
    stream.write(b"b")
    reader = gevent.spawn(stream.receive)
    assert peer.recv(10) == b"ab"
    peer.sendall(b"c")
    assert reader.get(timeout=5)


@pytest.mark.parametrize(
    "buffers",
    [
        [b"a"],
        [b"a", b"b"],
        [b"", b"a", b""],
        [b"a" * JOIN_SIZE, b"b"],
        [b"a", b"b" * (JOIN_SIZE + 1), b"c"],
        [LARGE, LARGE],
        [LARGE],
        [b"%d" % number * JOIN_SIZE for number in range(200)],
        [bytearray(b"a"), memoryview(b"b" * 20_000)],
    ],
)
def test_all_of_what_is_sent_arrives(ends: Ends, buffers: list[Any]) -> None:
    stream, peer = ends
    receiver = gevent.spawn(drain, peer)
    stream.sendv(buffers)
    stream.shutdown()
    assert receiver.get(timeout=5) == b"".join(buffers)
    assert stream.sent == sum(map(len, buffers))


def test_sendfile(ends: Ends, tmp_path: Any) -> None:
    stream, peer = ends
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    receiver = gevent.spawn(drain, peer)
    stream.write(b"held ")
    with path.open("rb") as file:
        assert stream.sendfile(file.fileno(), 1000, len(LARGE)) == len(LARGE) - 1000
        reading, writing = os.pipe()
        with pytest.raises(OSError, match=r".") as caught:
            stream.sendfile(reading, 0, 10)
        assert not isinstance(caught.value, PeerGone)
        os.close(reading)
        os.close(writing)
    stream.shutdown()
    assert receiver.get(timeout=5) == b"held " + LARGE[1000:]


# --- waiting


def test_an_end_that_came_with_the_last_bytes_is_seen(ends: Ends) -> None:
    """Nothing is told of it afterwards."""
    stream, peer = ends
    for waits in (True, False):
        reader = gevent.spawn(stream.receive)
        if waits:
            gevent.sleep(0.01)
            peer.sendall(b"a")
        else:
            peer.sendall(b"b")
            peer.shutdown(socket.SHUT_WR)
        assert reader.get(timeout=5)
    assert stream.inbox == b"ab"
    with gevent.Timeout(5):
        assert not stream.receive()


def test_poll_takes_what_has_come(ends: Ends) -> None:
    stream, peer = ends
    assert not stream.poll()
    peer.sendall(b"a")
    readable(stream)
    assert stream.poll()
    assert stream.inbox == b"a"
    assert not stream.poll()
    peer.shutdown(socket.SHUT_WR)
    readable(stream)
    assert stream.poll(), "the end is news"
    assert stream.ended
    assert not stream.receive()


def test_who_does_not_wait_is_called_once(ends: Ends) -> None:
    stream, peer = ends
    calls: list[str] = []
    for number in range(1, 4):
        stream.when_readable(Called(lambda: calls.append("one")))
        gevent.sleep(0)
        peer.sendall(b"a")
        gevent.sleep(0.01)  # it is not told again, be the bytes taken or not
        assert calls == ["one"] * number
    assert stream.receive()
    assert stream.inbox == b"aaa"
    stream.when_readable(Called(lambda: calls.append("two")))
    gevent.sleep(0.01)
    assert "two" not in calls, "nothing has come"


def test_a_waiting_greenlet_comes_before_who_is_called(ends: Ends) -> None:
    stream, peer = ends
    called = Event()
    stream.when_readable(Called(called.set))
    reader = parked(stream.receive)
    peer.sendall(b"a")
    assert reader.get(timeout=5)
    assert not called.is_set()
    stream.when_readable(Called(called.set))
    peer.sendall(b"b")
    assert called.wait(5)


def test_an_exception_thrown_into_a_reader_leaves_it_resumable(ends: Ends) -> None:
    stream, peer = ends
    for _ in range(2):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            stream.receive()
        assert stream.reading is None
    peer.sendall(b"a")
    assert stream.receive()
    assert stream.inbox == b"a"


def test_an_exception_thrown_into_a_writer_breaks_the_stream(ends: Ends) -> None:
    stream, peer = ends
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        stream.sendv([LARGE])
    for again in (lambda: stream.sendv([b"a"]), lambda: stream.sendv([LARGE, LARGE]), lambda: stream.sendfile(0, 0, 1)):
        with pytest.raises(PeerGone):
            again()
    peer.sendall(b"a")
    assert stream.receive(), "reading goes on"


def test_a_spurious_switch_is_no_news(ends: Ends) -> None:
    stream, peer = ends
    reader = gevent.spawn(stream.receive)
    gevent.sleep(0)
    in_hub(reader.switch)
    assert not reader.ready()
    peer.sendall(b"a")
    assert reader.get(timeout=5)
    writer = gevent.spawn(stream.sendv, [LARGE])
    gevent.sleep(0.01)
    in_hub(writer.switch)
    assert not writer.ready()
    stream_end = gevent.spawn(drain, peer)
    writer.get(timeout=5)
    stream.shutdown()
    assert stream_end.get(timeout=5) == LARGE


def test_one_reader_and_one_writer(ends: Ends) -> None:
    stream, peer = ends
    reader = gevent.spawn(stream.receive)
    writer = gevent.spawn(stream.sendv, [LARGE])
    gevent.sleep(0.01)
    for second in (stream.receive, lambda: stream.sendv([b"a"]), lambda: stream.sendv([LARGE, b"a"])):
        with pytest.raises(ApplicationError):
            second()
    peer.sendall(b"a")
    assert reader.get(timeout=5)
    assert len(peer.recv(len(LARGE), socket.MSG_WAITALL)) > 0
    receiver = gevent.spawn(drain, peer)
    writer.get(timeout=5)
    stream.shutdown()
    receiver.get(timeout=5)


def test_closing_wakes_who_waits(ends: Ends) -> None:
    stream, _ = ends
    reader, writer = parked(stream.receive), parked(stream.sendv, [LARGE])
    stream.close()
    stream.close()
    for greenlet in (reader, writer):
        assert isinstance(greenlet.get(timeout=5), PeerGone)
    assert not stream.receive()
    with pytest.raises(PeerGone):
        stream.sendv([b"a"])


def test_closing_does_not_reach_who_was_woken_otherwise(ends: Ends) -> None:
    stream, _ = ends

    def read_and_go_on() -> str:
        with pytest.raises(gevent.Timeout):
            stream.receive()
        gevent.sleep(0.02)
        return "slept"

    reader = gevent.spawn(read_and_go_on)
    gevent.sleep(0)

    def close_and_wake() -> None:
        stream.close()
        reader.throw(gevent.Timeout())

    in_hub(close_and_wake)
    assert reader.get(timeout=5) == "slept"


@pytest.mark.parametrize(("rests", "turns"), [(True, 1), (False, BURST)])
def test_a_peer_that_always_has_more_leaves_others_their_turn(ends: Ends, rests: bool, turns: int) -> None:
    """It may be faster than we are."""

    class Endless(Stream):
        def _receive(self, size: int) -> bytes:
            return bytes(size)

    stream, peer = Endless(ends[0].give_up()), ends[1]
    peer.sendall(b"a")  # there is always something
    received = seen = 0
    reader = gevent.spawn(lambda: [read() for _ in range(10 * BURST)])

    def read() -> None:
        nonlocal received
        stream.receive()
        stream.take(stream.pending())
        received += 1
        if rests:
            stream.rest()

    while not reader.ready():
        assert received - seen <= turns
        seen = received
        gevent.sleep(0)
    assert received == 10 * BURST


# --- the gone and the slow


def test_watch_tells_a_reset(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    gone = Event()
    stream.watch(gone.set)
    reset(peer)
    assert gone.wait(5)
    with pytest.raises(PeerGone):
        stream.sendv([b"a"])


def send_forever(stream: Stream) -> None:
    while True:
        stream.sendv([b"a"])
        gevent.sleep(0)


def test_watch_begun_too_late_tells_at_once(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    reset(peer)
    with pytest.raises(PeerGone):
        send_forever(stream)
    gone = Event()
    stream.watch(gone.set)
    assert gone.is_set()


def test_watch_reads_ahead_within_bounds_and_goes_on_when_there_is_room(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    gone = Event()
    stream.watch(gone.set)
    sender = gevent.spawn(peer.sendall, b"a" * (READ_AHEAD + 1000))
    gevent.sleep(0.02)
    sender.get(timeout=5)
    assert stream.pending() == READ_AHEAD
    stream.take(READ_AHEAD)
    gevent.sleep(0.02)
    assert stream.pending() == 1000
    reset(peer)
    assert gone.wait(5)


def test_watch_takes_no_end_for_going_away(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    gone = Event()
    stream.watch(gone.set)
    peer.sendall(b"a")
    peer.shutdown(socket.SHUT_WR)
    assert not gone.wait(0.02)
    assert stream.inbox == b"a"
    assert not stream.receive()
    stream.unwatch()
    reset(peer)
    assert not gone.wait(0.02)


def test_a_reader_and_a_watch_share_what_comes(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    gone = Event()
    stream.watch(gone.set)
    reader = gevent.spawn(stream.receive)
    gevent.sleep(0)
    peer.sendall(b"a")
    assert reader.get(timeout=5)
    peer.sendall(b"b")
    gevent.sleep(0.02)
    assert stream.inbox == b"ab"


def test_sweep_ends_a_read_at_its_deadline(ends: Ends) -> None:
    stream, _ = ends
    stream.deadline = 100.0
    reader = parked(stream.receive)
    in_hub(stream.sweep, 99.0, False, 240, 30)
    assert not reader.ready()
    in_hub(stream.sweep, 100.0, False, 240, 30)
    assert isinstance(reader.get(timeout=5), PeerTimeout)


@pytest.mark.parametrize(("received", "ticks"), [(0, 10), (240, 11), (2400, 20)])
def test_sweep_asks_for_a_rate_after_a_grace(ends: Ends, received: int, ticks: int) -> None:
    stream, peer = ends
    stream.pace()
    if received:
        peer.sendall(b"a" * received)
        assert stream.receive()
    reader = parked(stream.receive)
    for _ in range(ticks):
        in_hub(stream.sweep, 0.0, True, 240, 30)
    assert not reader.ready()
    in_hub(stream.sweep, 0.0, True, 240, 30)
    assert isinstance(reader.get(timeout=5), PeerTimeout)


def test_sweep_asks_for_none_where_there_is_none(ends: Ends) -> None:
    stream, peer = ends
    reader = parked(stream.receive)
    for _ in range(100):
        in_hub(stream.sweep, 1e9, False, 240, 30)
        in_hub(stream.sweep, 1e9, True, 0, 30)
    assert not reader.ready()
    peer.sendall(b"a")
    assert reader.get(timeout=5)


def test_sweep_ends_a_write_that_stalls(ends: Ends) -> None:
    stream, peer = ends
    writer = parked(stream.sendv, [LARGE])
    for _ in range(5):
        in_hub(stream.sweep, 0.0, False, 0, 5)
        peer.recv(300_000)  # it moves
        gevent.sleep(0.01)
    for _ in range(5):
        assert not writer.ready()
        in_hub(stream.sweep, 0.0, False, 0, 5)
    in_hub(stream.sweep, 0.0, False, 0, 5)
    assert isinstance(writer.get(timeout=5), PeerTimeout)


def test_sweep_asks_who_takes_for_a_rate_too(ends: Ends) -> None:
    stream, peer = ends
    writer = parked(stream.sendv, [LARGE])
    for _ in range(10):
        in_hub(stream.sweep, 0.0, False, len(LARGE), 1000)
        peer.recv(1000)
    assert not writer.ready()
    in_hub(stream.sweep, 0.0, False, len(LARGE), 1000)
    assert isinstance(writer.get(timeout=5), PeerTimeout)


def test_sweep_leaves_alone_who_does_not_wait_here(ends: Ends) -> None:
    stream, _ = ends
    stream.deadline = 1.0
    sleeper = gevent.spawn(gevent.sleep, 0.05)
    for _ in range(50):
        in_hub(stream.sweep, 1e9, True, 240, 5)
    sleeper.get(timeout=5)


# --- the end


def test_linger_lets_a_peer_that_sends_read_our_last_bytes(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    stream.write(b"last")

    def end() -> None:
        stream.linger()
        stream.close()

    ender = gevent.spawn(end)
    peer.sendall(LARGE)
    assert drain(peer) == b"last"
    peer.close()
    ender.get(timeout=5)


def test_reset_is_an_error_to_the_peer(tcp_ends: Ends) -> None:
    stream, peer = tcp_ends
    stream.sendv([b"a"])
    stream.reset()
    stream.reset()
    with pytest.raises(ConnectionResetError):
        drain(peer)


def test_detach_keeps_the_connection(ends: Ends) -> None:
    stream, peer = ends
    with socket.socket(fileno=stream.detach()) as sock:
        sock.sendall(b"a")
        assert peer.recv(1) == b"a"
    stream.close()
