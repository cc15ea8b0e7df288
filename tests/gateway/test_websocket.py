"""WebSocket over exchanges in memory: who reads, who writes, who waits. The test is the peer, by wsproto."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from geventgate.config import Config
from geventgate.errors import ApplicationError, PeerGone, WebSocketError
from geventgate.exchange import Bytes, ResponseFields
from geventgate.gateway import websocket as module
from geventgate.gateway.websocket import QUEUE_SIZE, WebSocket, WebSockets
from geventgate.protocol.handshake import check_handshake
from geventgate.testing import FakeExchange, MemoryTunnel

WAIT = 5.0  # seconds, for what is to happen at once
HANDSHAKE = [
    ("Host", "example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


class RecordedTunnel(MemoryTunnel):
    """A tunnel that remembers what was done with it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writes: list[bytes] = []
        self.aborted = False
        self.blocked = Event()  # a greenlet waits in here

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        self.writes.append(b"".join(buffers))
        super().sendv(buffers)

    def abort(self) -> None:
        self.aborted = True
        super().abort()

    def _wait(self) -> None:
        self.blocked.set()
        super()._wait()


class RecordedExchange(FakeExchange):
    """Its tunnel holds *capacity* bytes on their way."""

    capacity = 64 * 1024
    ours: RecordedTunnel

    def open_tunnel(self, fields: ResponseFields = ()) -> MemoryTunnel:
        super().open_tunnel(fields)
        self.ours, self.tunnel = RecordedTunnel.pair(self.capacity)
        return self.ours


class Peer:
    """A client's end, and the WebSocket at the other."""

    def __init__(
        self, fields: ResponseFields = (), capacity: int = 64 * 1024, target: str = "/", **options: Any
    ) -> None:
        self.exchange = RecordedExchange("GET", target, [*HANDSHAKE, *fields])
        self.exchange.capacity = capacity
        self.host = WebSockets(Config(**options))
        self.ws = WebSocket(self.exchange, check_handshake(self.exchange.request), self.host)
        self.protocol = Connection(ConnectionType.CLIENT)
        self.events: list[Any] = []
        self.begun: Any = None  # a message whose end has not come

    def accepted(self) -> "Peer":
        self.ws.accept()
        return self

    def accepted_for(self, max_message_size: int) -> "Peer":
        self.ws.accept(max_message_size=max_message_size)
        return self

    @property
    def ours(self) -> RecordedTunnel:
        return self.exchange.ours

    def wire(self, *events: Any) -> bytes:
        """Messages (str, bytes) and events, as a client sends them."""
        texts = {str: TextMessage, bytes: BytesMessage}
        return b"".join(self.protocol.send(texts[type(e)](data=e) if type(e) in texts else e) for e in events)

    def say(self, *events: Any) -> None:
        self.send(self.wire(*events))

    def send(self, data: bytes) -> None:
        assert self.exchange.tunnel is not None
        self.exchange.tunnel.sendall(data)

    def hear(self) -> Any:
        """The next event, messages whole and as their data; None at the end."""
        with gevent.Timeout(WAIT):
            while True:
                while not self.events:
                    assert self.exchange.tunnel is not None
                    data = self.exchange.tunnel.recv(65536)
                    if not data:
                        return None
                    self.protocol.receive_data(data)
                    self.events += self.protocol.events()
                event = self.events.pop(0)
                if not isinstance(event, (TextMessage, BytesMessage)):
                    return event
                message = event.data if self.begun is None else self.begun + event.data
                self.begun = None if event.message_finished else message
                if event.message_finished:
                    return message

    def hear_gone(self) -> bool:
        with gevent.Timeout(WAIT), pytest.raises(PeerGone):
            self.exchange.tunnel.recv(1)  # type: ignore[union-attr]
        return True


@contextmanager
def greenlet(call: Callable[..., Any], *arguments: Any) -> Iterator[gevent.Greenlet]:
    """Run *call* beside the test; it must be over, and well, when the test leaves."""
    running = gevent.spawn(call, *arguments)
    gevent.idle()  # it runs until it waits
    try:
        yield running
        running.get(timeout=WAIT)
    finally:
        running.kill()


def raises(error: type[BaseException], call: Callable[..., Any], *arguments: Any) -> None:
    """pytest.raises() as a function, for greenlets and tables."""
    with pytest.raises(error):
        call(*arguments)


def sweep(host: WebSockets, times: int = 1) -> None:
    """Seconds go by."""
    for _ in range(times):
        host.sweep()
        gevent.idle()  # what it started runs until it waits


# --- opening


def test_nothing_is_sent_until_it_is_used():
    peer = Peer()
    assert not peer.ws.accepted
    assert peer.exchange.status == 0
    with peer.ws:
        pass
    assert peer.exchange.status == 0
    peer.exchange.send_head(403, [])
    peer.exchange.finish(b"no")
    assert peer.exchange.status == 403
    with pytest.raises(ApplicationError):
        peer.ws.accept()


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.accept(),
        lambda ws: ws.send("x"),
        lambda ws: ws.ping(),
        lambda ws: ws.pong(),
        lambda ws: ws.send_fragments(["x"]),
        lambda ws: raises(TimeoutError, ws.receive, 0),
    ],
)
def test_the_first_use_accepts(use):
    peer = Peer()
    use(peer.ws)
    assert peer.ws.accepted
    assert not peer.ws.closed
    assert peer.exchange.status == 101
    assert peer.exchange.field("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert len(peer.host) == 1


def test_accept():
    peer = Peer([("Sec-WebSocket-Protocol", "a, b")])
    assert (peer.ws.subprotocols, peer.ws.subprotocol, peer.ws.protocol) == (("a", "b"), None, "a, b")
    peer.ws.accept("b", [("Set-Cookie", "c=d")])
    assert (peer.ws.subprotocol, peer.ws.protocol) == ("b", "b")
    assert peer.exchange.field("Sec-WebSocket-Protocol") == "b"
    assert peer.exchange.field("Set-Cookie") == "c=d"
    with pytest.raises(ApplicationError):
        peer.ws.accept()


@pytest.mark.parametrize("arguments", [("c",), (None, [("Sec-WebSocket-Accept", "x")]), (None, [("A", "b\r\nC: d")])])
def test_what_cannot_be_accepted_is_not_answered(arguments):
    peer = Peer([("Sec-WebSocket-Protocol", "a, b")])
    with pytest.raises(ApplicationError):
        peer.ws.accept(*arguments)
    assert peer.exchange.status == 0
    peer.ws.accept("a")
    assert peer.exchange.status == 101


def test_two_greenlets_accept_at_once():
    peer = Peer()
    with greenlet(peer.ws.receive), greenlet(peer.ws.send, "a"):
        assert peer.hear() == "a"
        peer.say("b")


def test_properties():
    peer = Peer([("Origin", "http://example.com")], target="/caf%C3%A9/%FF?x=1")
    ws = peer.ws
    assert (ws.origin, ws.path, ws.version) == ("http://example.com", "/café/\udcff", "13")
    assert (ws.subprotocols, ws.protocol, ws.close_code, ws.close_reason) == ((), None, None, "")


@pytest.mark.parametrize(
    ("use", "raises"),
    [
        (lambda ws: ws.accept(), True),
        (lambda ws: ws.send("x"), True),
        (lambda ws: ws.receive(), False),  # a handler that only loops over messages ends quietly
        (lambda ws: list(ws), False),
    ],
)
def test_a_foreign_origin_is_refused(use, raises, caplog):
    peer = Peer([("Origin", "https://evil.example")])
    with (
        caplog.at_level(logging.WARNING, "geventgate.websocket"),
        pytest.raises(WebSocketError) if raises else nullcontext(),
    ):
        assert not use(peer.ws)
    assert (peer.exchange.status, peer.exchange.finished) == (403, True)
    assert b"origin" in peer.exchange.content
    (record,) = caplog.records
    for word in ("https://evil.example", "example.com", "--ws-origins"):
        assert word in record.getMessage()
    assert (peer.ws.refused, peer.ws.accepted, peer.ws.closed, peer.ws.close_code) == (True, False, True, 1006)
    for again in (peer.ws.accept, lambda: peer.ws.send("x")):
        with pytest.raises(WebSocketError):
            again()
    assert peer.ws.receive() is None
    peer.ws.close()
    assert len(peer.host) == 0


def test_origins_that_are_named():
    fields = [("Origin", "https://other.example")]
    Peer(fields, ws_origins=("https://other.example",)).ws.accept()
    peer = Peer(fields)
    peer.ws.accept(origins=("https://other.example",))
    assert peer.exchange.status == 101
    with pytest.raises(WebSocketError):  # the application's list stands in place of the option's
        Peer(fields, ws_origins=("*",)).ws.accept(origins=())


# --- receiving


def test_receive_and_send():
    peer = Peer().accepted()
    peer.say("héllo", b"\x00\xff", "", CloseConnection(1001, "bye"))
    assert [peer.ws.receive(), peer.ws.receive(), peer.ws.receive()] == ["héllo", b"\x00\xff", ""]
    for message in ("é", b"a", bytearray(b"b"), memoryview(b"c"), "x" * 200_000):
        with greenlet(peer.ws.send, message):
            assert peer.hear() == (message if isinstance(message, str) else bytes(message))
    assert [peer.ws.receive(), peer.ws.receive(), peer.ws.receive(timeout=1)] == [None, None, None]
    assert (peer.ws.closed, peer.ws.close_code, peer.ws.close_reason) == (True, 1001, "bye")
    assert peer.hear() == CloseConnection(1001, "")
    assert peer.hear() is None  # our side is ended at once, the application may take its time
    with pytest.raises(WebSocketError) as closed:
        peer.ws.send("late")
    assert isinstance(closed.value, OSError)
    assert (closed.value.code, closed.value.reason) == (1001, "bye")


def test_iteration():
    peer = Peer()
    with greenlet(lambda: list(peer.ws)) as got:
        peer.say("a", b"b", CloseConnection(1000))
        assert got.get(timeout=WAIT) == ["a", b"b"]


@pytest.mark.parametrize("how", ["close", "abort"])
def test_an_abrupt_end(how):
    peer = Peer().accepted()
    peer.send(peer.wire("a") + b"\x81")
    getattr(peer.exchange.tunnel, "shutdown" if how == "close" else how)()
    if how == "close":
        assert peer.ws.receive() == "a"
    assert [peer.ws.receive(), peer.ws.receive()][-1] is None
    assert peer.ws.close_code == 1006
    assert len(peer.host) == 0
    with pytest.raises(WebSocketError):
        peer.ws.send("x")


def test_a_fault_of_the_peer(caplog):
    peer = Peer().accepted()
    peer.send(b"\x81\x01a")
    with caplog.at_level(logging.INFO, "geventgate.websocket"):
        assert [peer.ws.receive(), peer.ws.receive()] == [None, None]
    assert peer.ws.close_code == 1002
    assert peer.hear().code == 1002
    assert peer.hear() is None
    assert len(caplog.records) == 1


def test_receive_times_out_and_loses_nothing():
    peer = Peer().accepted()
    data = peer.wire("x" * 1000)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            peer.ws.receive(timeout)
    peer.send(data[:500])
    with pytest.raises(TimeoutError):
        peer.ws.receive(0.01)
    peer.send(data[500:] + peer.wire("there already"))
    assert peer.ws.receive(timeout=WAIT) == "x" * 1000
    assert peer.ws.receive(timeout=0) == "there already"


@pytest.mark.parametrize("thrown", [gevent.Timeout(), KeyError("x"), gevent.GreenletExit()])
def test_what_is_thrown_into_receive_leaves_it_usable(thrown):
    peer = Peer().accepted()
    data = peer.wire("x" * 1000)
    peer.send(data[:500])
    caught = []

    def receive() -> Any:
        try:
            return peer.ws.receive()
        except BaseException as error:
            caught.append(error)
            return peer.ws.receive()

    with greenlet(receive) as got:
        got.kill(thrown, block=False)
        gevent.idle()
        peer.send(data[500:])
        assert got.get(timeout=WAIT) == "x" * 1000
    assert caught == [thrown]


def test_several_greenlets_receive():
    peer = Peer().accepted()
    got: list[Any] = []

    def receive() -> None:
        for message in peer.ws:
            got.append(message)
            gevent.sleep(0)

    with greenlet(receive), greenlet(receive), greenlet(receive):
        data = peer.wire(*(str(n) for n in range(100)), CloseConnection(1000))
        for start in range(0, len(data), 7):
            peer.send(data[start : start + 7])
            gevent.sleep(0)
    assert sorted(map(int, got)) == list(range(100))


def test_a_second_receive_may_time_out_while_it_waits_for_its_turn():
    peer = Peer().accepted()
    with greenlet(peer.ws.receive) as first:
        with pytest.raises(TimeoutError):
            peer.ws.receive(0.01)
        peer.say("a")
        assert first.get(timeout=WAIT) == "a"
    peer.say("b")
    assert peer.ws.receive(WAIT) == "b"


def test_pings_are_answered_in_one_write():
    peer = Peer().accepted()
    with greenlet(peer.ws.receive):
        peer.say(Ping(b"1"), Ping(b"2"), Ping(b"3"))
        assert [peer.hear(), peer.hear(), peer.hear()] == [Pong(b"1"), Pong(b"2"), Pong(b"3")]
        assert len(peer.ours.writes) == 1
        peer.say("end")


def test_a_pong_does_not_wait_for_the_reader_nor_the_reader_for_it():
    """The peer takes nothing while it sends: reading goes on, and the pong leaves behind the message."""
    peer = Peer(capacity=1000).accepted()
    with greenlet(peer.ws.send, "x" * 5000):
        peer.say(Ping(b"p"), "a", "b")
        assert [peer.ws.receive(WAIT), peer.ws.receive(WAIT)] == ["a", "b"]
        assert peer.hear() == "x" * 5000
        assert peer.hear() == Pong(b"p")


def test_a_flood_of_pings_that_nobody_reads_the_answers_of_stops_the_reader():
    peer = Peer(capacity=10_000).accepted()
    with greenlet(raises, WebSocketError, peer.ws.send, "x" * 50_000), greenlet(peer.ws.receive) as got:
        pings = peer.wire(*[Ping(b"p")] * 100)
        with gevent.Timeout(0.2, False):
            while True:
                peer.send(pings)
        assert module.MAX_OWED < len(peer.ws._protocol.owed) < module.MAX_OWED + 10_000
        peer.exchange.tunnel.abort()
        assert got.get(timeout=WAIT) is None


class FloodedTunnel(RecordedTunnel):
    """Its peer has always sent more already: recv() never waits."""

    flood = b""
    reads = 0

    def recv(self, size: int) -> bytes:
        self.reads += 1
        return self.flood * (size // len(self.flood))

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        """The peer takes all, at once."""


@pytest.mark.parametrize(
    ("flood", "use"),
    [
        (b"\x81\x82\0\0\0\0xx", list),  # messages
        (b"\x89\x82\0\0\0\0xx", WebSocket.receive),  # pings
        (b"\x81\x82\0\0\0\0xx", WebSocket.close),  # messages behind our Close
        (bytes(65536), WebSocket.receive),
    ],
    ids=["messages", "pings", "behind our Close", "a message"],
)
def test_a_flood_leaves_others_their_turn(flood, use):
    peer = Peer(websocket_max_message_size=1 << 40).accepted()
    peer.ws._tunnel = tunnel = FloodedTunnel.pair(0)[0]
    tunnel.flood = flood
    if len(flood) > 8:  # all of it is one message's payload
        peer.ws._protocol.feed(b"\x82\xff" + (1 << 39).to_bytes(8, "big") + b"mask")
    handler = gevent.spawn(use, peer.ws)
    gevent.sleep(0.001)  # a timer, as any socket, comes to its turn
    assert 0 < tunnel.reads <= 200  # in a millisecond
    assert not handler.dead
    handler.kill()


def test_many_small_messages_leave_others_their_turn():
    peer = Peer().accepted()
    peer.say(*"x" * 500)
    got: list[Any] = []
    handler = gevent.spawn(got.extend, iter(peer.ws.receive, "end"))
    seen: list[int] = []
    with greenlet(lambda: [gevent.sleep(0), seen.append(peer.ws._turns)]):
        peer.say("end")
    handler.get(timeout=WAIT)
    assert 0 < seen[0] <= module.TURNS
    assert len(got) == 500


# --- while the application is elsewhere


def test_a_pump_answers_pings_and_sees_the_close():
    peer = Peer().accepted()
    peer.say(Ping(b"p"), CloseConnection(1000, "bye"))
    sweep(peer.host)
    assert peer.ours.writes == []  # the application may only be busy for a moment
    sweep(peer.host)
    assert [peer.hear(), peer.hear(), peer.hear()] == [Pong(b"p"), CloseConnection(1000, ""), None]
    assert (peer.ws.closed, peer.ws.close_reason) == (True, "bye")
    assert len(peer.host) == 0
    assert peer.ws.receive() is None


def test_messages_before_a_close_that_a_pump_has_seen():
    peer = Peer().accepted()
    assert peer.ws.ahead == 0
    peer.say("one", "two", CloseConnection(1000))
    sweep(peer.host, 2)
    assert (peer.ws.closed, peer.ws.ahead) == (True, 2)
    assert [peer.ws.receive(), peer.ws.receive(), peer.ws.receive()] == ["one", "two", None]
    assert peer.ws.ahead == 0


def test_no_pump_while_the_application_receives():
    peer = Peer().accepted()
    with greenlet(peer.ws.receive):
        sweep(peer.host, 5)
        assert not peer.ws._pumping
        peer.say("a")
    sweep(peer.host)
    peer.say("b")
    assert peer.ws.receive() == "b"
    sweep(peer.host)
    assert not peer.ws._pumping


def test_backpressure():
    """16 messages are taken ahead, and what one recv brought; then the peer waits. Nothing is lost or reordered."""
    peer = Peer(capacity=4000).accepted()
    messages = [f"{n:0994}" for n in range(100)]  # 1000 bytes each on the wire
    assert len(peer.wire(messages[0])) == 1002

    def say() -> None:
        for message in messages:
            peer.say(message)
        peer.say(CloseConnection(1000))

    with greenlet(say) as sender:
        sweep(peer.host, 10)
        assert len(peer.ws._queue or ()) == QUEUE_SIZE
        assert not peer.ws._pumping
        assert not sender.dead
        sweep(peer.host, 100)  # and however long that is, a peer that may not send is not dead
        assert not peer.ws.closed
        assert len(peer.ws._queue or ()) == QUEUE_SIZE
        assert list(peer.ws) == messages
    assert peer.ws.close_code == 1000


def test_receive_takes_over_from_the_pump():
    peer = Peer().accepted()
    peer.say("a", "b")
    sweep(peer.host, 2)
    assert peer.ws._pumping
    assert peer.ws.receive() == "a"
    assert peer.ws._pumping  # it is waiting for more
    assert peer.ws.receive() == "b"
    with greenlet(peer.ws.receive) as got:
        peer.say("c", "d")
        assert got.get(timeout=WAIT) == "c"
    assert not peer.ws._pumping
    assert peer.ws.receive() == "d"


def test_an_application_that_only_sends():
    peer = Peer(ws_ping_interval=2, ws_ping_timeout=2).accepted()
    for n in range(20):
        peer.ws.send(str(n))
        assert peer.hear() == str(n)
        sweep(peer.host)
        while peer.exchange.tunnel._inbox:  # type: ignore[union-attr]
            event = peer.hear()
            peer.say(event.response())
            gevent.idle()
    assert not peer.ws.closed
    assert sum(write[0] == 0x89 for write in peer.ours.writes) >= 4


# --- keep-alive


def test_a_quiet_peer_is_pinged():
    peer = Peer(ws_ping_interval=3, ws_ping_timeout=2).accepted()
    with greenlet(peer.ws.receive):
        for _ in range(3):
            sweep(peer.host, 2)
            assert not peer.exchange.tunnel._inbox  # type: ignore[union-attr]
            sweep(peer.host)
            ping = peer.hear()
            assert ping == Ping(b"")
            sweep(peer.host)
            peer.say(ping.response())
            gevent.idle()
        peer.say("a")


def test_a_peer_that_talks_is_not():
    peer = Peer(ws_ping_interval=3, ws_ping_timeout=2).accepted()
    with greenlet(lambda: [peer.ws.receive() for _ in range(10)]):
        for _ in range(10):
            sweep(peer.host, 2)
            peer.say("a")
            gevent.idle()
    assert peer.ours.writes == []


def test_ping_timeout():
    peer = Peer(ws_ping_interval=3, ws_ping_timeout=2).accepted()
    with greenlet(peer.ws.receive) as got:
        sweep(peer.host, 4)
        assert not peer.ws.closed
        sweep(peer.host)
        assert got.get(timeout=WAIT) is None
    assert (peer.ws.close_code, peer.ws.close_reason) == (1006, "ping timeout")
    assert peer.ours.aborted
    assert len(peer.host) == 0


def test_no_pings_when_the_interval_is_0():
    peer = Peer(ws_ping_interval=0, ws_ping_timeout=1).accepted()
    with greenlet(peer.ws.receive):
        sweep(peer.host, 100)
        peer.say("a")
    assert peer.ours.writes == []


def test_a_ping_that_waits_behind_a_long_message_is_not_overdue():
    peer = Peer(capacity=1000, ws_ping_interval=2, ws_ping_timeout=2).accepted()
    with greenlet(peer.ws.receive), greenlet(peer.ws.send, "x" * 5000):
        sweep(peer.host, 20)
        assert not peer.ws.closed
        assert peer.hear() == "x" * 5000
        assert peer.hear() == Ping(b"")
        peer.say("here")


def test_the_timer(monkeypatch):
    monkeypatch.setattr(module, "TICK", 0.001)
    peer = Peer(ws_ping_interval=0.003, ws_ping_timeout=60.0)
    peer.host.start()
    try:
        with greenlet(peer.ws.receive):
            assert peer.hear() == Ping(b"")
            peer.say("a")
    finally:
        peer.host.stop()


def test_application_pings():
    peer = Peer().accepted()
    peer.ws.ping(b"a")
    peer.ws.pong(b"b")
    assert [peer.hear(), peer.hear()] == [Ping(b"a"), Pong(b"b")]
    with pytest.raises(ValueError, match="125"):
        peer.ws.ping(b"x" * 126)


# --- sending


def test_several_greenlets_send():
    peer = Peer(capacity=700).accepted()
    texts = {letter * 3000 for letter in "abcdef"}

    def send(text: str) -> None:
        for _ in range(5):
            peer.ws.send(text)

    senders = [gevent.spawn(send, text) for text in texts]
    got = [peer.hear() for _ in range(30)]
    assert set(got) == texts
    gevent.joinall(senders, timeout=WAIT, raise_error=True)


@pytest.mark.parametrize("thrown", [gevent.Timeout(), gevent.GreenletExit()])
def test_what_is_thrown_into_send_ends_it(thrown):
    peer = Peer(capacity=100).accepted()
    sender = gevent.spawn(peer.ws.send, "x" * 1000)
    other = gevent.spawn(raises, WebSocketError, peer.ws.send, "y")
    reader = gevent.spawn(peer.ws.receive)
    gevent.idle()
    sender.kill(thrown, block=False)
    gevent.joinall([sender, other, reader], timeout=WAIT)
    assert (peer.ws.closed, peer.ws.close_code, peer.ours.aborted) == (True, 1006, True)
    assert other.successful()
    assert reader.value is None
    assert reader.successful()
    assert len(peer.host) == 0


def test_a_send_that_fails():
    peer = Peer().accepted()
    peer.exchange.tunnel.abort()
    with pytest.raises(WebSocketError) as gone:
        peer.ws.send("x")
    assert gone.value.code == 1006
    assert peer.ws.close_code == 1006
    assert peer.ws.receive() is None


# --- several frames, one write


def stuck(peer: Peer, *messages: Any) -> tuple[gevent.Greenlet, list[gevent.Greenlet]]:
    """A greenlet whose message the peer does not take yet, and one for each of *messages* behind it."""
    first = gevent.spawn(peer.ws.send, "x" * 5000)
    gevent.idle()
    others = [gevent.spawn(peer.ws.send, message) for message in messages]
    gevent.idle()
    return first, others


def test_messages_that_wait_leave_in_one_write():
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, *(str(number) for number in range(50)))
    assert len(peer.ours.writes) == 1
    assert not any(other.ready() for other in others)  # nobody is told before the bytes have left
    assert [peer.hear() for _ in range(51)] == ["x" * 5000, *map(str, range(50))]
    gevent.joinall([first, *others], WAIT, raise_error=True)
    assert len(peer.ours.writes) == 2


def test_what_waits_fails_together():
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, "a", b"b")
    peer.exchange.tunnel.abort()
    for greenlet in (first, *others):
        with pytest.raises(WebSocketError):
            greenlet.get(timeout=WAIT)
    assert peer.ws.close_code == 1006


def test_what_is_sent_for_others_fails_for_each():
    """The second write carries all three; each of them is told."""
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, *["y" * 3000] * 3)
    assert peer.hear() == "x" * 5000
    first.get(timeout=WAIT)
    gevent.idle()
    assert len(peer.ours.writes) == 2
    peer.exchange.tunnel.abort()
    for other in others:
        with pytest.raises(WebSocketError):
            other.get(timeout=WAIT)


@pytest.mark.parametrize("thrown", [gevent.Timeout(), KeyError("x"), gevent.GreenletExit()])
def test_what_is_thrown_into_one_that_waits_leaves_its_message_unsent(thrown):
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, "a", "b", "c")
    others[1].kill(thrown, block=True)
    assert [peer.hear() for _ in range(3)] == ["x" * 5000, "a", "c"]
    gevent.joinall([first, others[0], others[2]], WAIT, raise_error=True)
    assert not peer.ws.closed


def test_what_waits_leaves_before_a_close_and_nothing_behind_it():
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, "a")
    closing = gevent.spawn(peer.ws.close, 1001)
    gevent.idle()
    raises(WebSocketError, peer.ws.send, "late")
    assert [peer.hear(), peer.hear(), peer.hear()] == ["x" * 5000, "a", CloseConnection(1001, "")]
    gevent.joinall([first, *others], WAIT, raise_error=True)
    peer.exchange.tunnel.abort()
    closing.join(WAIT)


def test_what_waits_never_stands_inside_a_message_in_fragments():
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, "a")
    fragments = gevent.spawn(peer.ws.send_fragments, ["1", "2", "3"])
    gevent.idle()
    late = [gevent.spawn(peer.ws.send, message) for message in ("b", "c")]
    gevent.idle()
    heard = [peer.hear() for _ in range(5)]
    assert heard[:3] == ["x" * 5000, "a", "123"]
    assert sorted(heard[3:]) == ["b", "c"]
    gevent.joinall([first, fragments, *others, *late], WAIT, raise_error=True)


def test_a_pong_rides_with_a_message_that_waits():
    peer = Peer(capacity=1000).accepted()
    first, others = stuck(peer, "a")
    with greenlet(peer.ws.receive):
        peer.say(Ping(b"p"), "end")
        gevent.idle()
    assert [peer.hear(), peer.hear(), peer.hear()][0] == "x" * 5000
    gevent.joinall([first, *others], WAIT, raise_error=True)
    assert len(peer.ours.writes) == 2


def test_compressed_messages_keep_their_order():
    peer = deflating(capacity=1000).accepted()
    first = gevent.spawn(peer.ws.send, os.urandom(5000))
    gevent.idle()
    others = [gevent.spawn(peer.ws.send, "waits " * number) for number in range(1, 20)]
    gevent.idle()
    peer.hear()
    assert [peer.hear() for _ in others] == ["waits " * number for number in range(1, 20)]
    gevent.joinall([first, *others], WAIT, raise_error=True)


def test_a_lock_of_two_minds():
    """A flag while one wants it, a semaphore from the first contention on."""
    lock = module.Lock()
    assert (lock.held(), lock.acquire(), lock.held()) == (False, True, True)
    lock.release()
    with lock:
        assert not lock.acquire(0.001)
        waiting = gevent.spawn(lock.acquire)
        gevent.idle()
        assert not waiting.ready()
    assert waiting.get(timeout=WAIT)
    assert lock.held()
    lock.release()
    assert not lock.held()


def test_what_cannot_be_sent_does_no_harm():
    peer = Peer().accepted()
    for wrong, error in ((1, ApplicationError), (None, ApplicationError), ("\ud800", UnicodeEncodeError)):
        with pytest.raises(error):
            peer.ws.send(wrong)
    peer.ws.send("right")
    assert peer.hear() == "right"


@pytest.mark.parametrize(
    ("message", "binary", "sent"),
    [
        ("ü", None, "ü"), ("ü", False, "ü"), ("ü", True, "ü".encode()),
        (b"b", None, b"b"), (b"b", True, b"b"), ("ü".encode(), False, "ü"), (memoryview(b"v"), False, "v"),
    ],
)  # fmt: skip
def test_text_or_binary_as_is_said(message, binary, sent):
    peer = Peer().accepted()
    peer.ws.send(message, binary)
    assert peer.hear() == sent


@pytest.mark.parametrize(("message", "error"), [(b"\xff", UnicodeDecodeError), (5, TypeError)])
def test_what_is_no_text_is_not_sent_as_such(message, error):
    peer = Peer().accepted()
    with pytest.raises(error):
        peer.ws.send(message, False)
    peer.ws.send("right")
    assert peer.hear() == "right"


def test_a_reason_in_bytes():
    peer = Peer(ws_close_timeout=0.01).accepted()
    peer.ws.close(4000, "ü".encode())
    assert peer.hear() == CloseConnection(4000, "ü")


def test_fragments():
    peer = Peer().accepted()
    begun, go_on = Event(), Event()

    def parts() -> Iterator[str]:
        yield "a"
        begun.set()
        go_on.wait()
        yield "b"

    with greenlet(peer.ws.send_fragments, parts()), greenlet(peer.ws.send, "another"):
        begun.wait(WAIT)
        peer.ws.ping(b"between")
        assert peer.ours.writes == [b"\x01\x01a", b"\x89\x07between"]
        go_on.set()
        assert [peer.hear(), peer.hear(), peer.hear()] == [Ping(b"between"), "ab", "another"]
    peer.ws.send_fragments([b"x", b"y"])
    assert peer.hear() == b"xy"
    peer.ws.send_fragments([])
    peer.ws.send("z")
    assert peer.hear() == "z"


def test_a_send_inside_a_fragmented_message_is_the_applications_fault():
    peer = Peer(ws_close_timeout=0.01).accepted()

    def parts() -> Iterator[str]:
        yield "a"
        peer.ws.send("b")

    with pytest.raises(ApplicationError):
        peer.ws.send_fragments(parts())
    assert peer.ws.close_code == 1011


@pytest.mark.parametrize("error", [ZeroDivisionError(), gevent.GreenletExit()])
def test_fragments_that_break_off(error):
    peer = Peer(ws_close_timeout=0.01).accepted()

    def parts() -> Iterator[str]:
        yield "a"
        raise error

    with pytest.raises(type(error)):
        peer.ws.send_fragments(parts())
    killed = isinstance(error, gevent.GreenletExit)
    assert (peer.ws.close_code, peer.ours.aborted) == ((1006, True) if killed else (1011, False))


# --- compression (RFC 7692)

DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")


def deflating(**options: Any) -> Peer:
    """A peer that offers permessage-deflate, and speaks it."""
    peer = Peer([DEFLATE], **options)
    extension = PerMessageDeflate(client_max_window_bits=12)
    extension.finalize("")
    peer.protocol = Connection(ConnectionType.CLIENT, [extension])
    return peer


@pytest.mark.parametrize(
    ("option", "accept", "agreed"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True), (True, True, True)],
)
def test_compression_is_agreed(option, accept, agreed):
    peer = Peer([DEFLATE], ws_per_message_deflate=option)
    peer.ws.accept(compress=accept)
    answer = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    assert peer.exchange.field("Sec-WebSocket-Extensions") == (answer if agreed else None)
    peer.ws.send("x" * 1000)
    assert (len(peer.ours.writes[0]) < 50) is agreed


def test_compression_is_not_agreed_unless_it_is_offered():
    peer = Peer([("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=abc")])
    peer.ws.accept(compress=True)
    assert peer.exchange.field("Sec-WebSocket-Extensions") is None
    peer.ws.send("x" * 1000, compress=True)
    assert peer.hear() == "x" * 1000


def test_the_application_chooses_what_is_compressed():
    peer = deflating().accepted()
    message = "x" * 1000
    for compress in (None, True, False):
        peer.ws.send(message, compress=compress)
        peer.ws.send_fragments([message, message], compress=compress)
        assert [peer.hear(), peer.hear()] == [message, message * 2]
    sizes = [len(write) for write in peer.ours.writes]
    assert max(sizes[:8]) < 60
    assert sizes[8:] == [1004, 1004, 1004, 2]
    peer.ws.send("x", compress=True)
    assert peer.ours.writes[-1][0] == 0xC1
    peer.say(message, b"", message * 100)
    assert [peer.ws.receive() for _ in range(3)] == [message, b"", message * 100]


def test_compressing_a_large_message_leaves_others_their_turn():
    peer = deflating(capacity=1 << 24).accepted()
    sender = gevent.spawn(peer.ws.send, b"x" * (1 << 23))
    turns = 0
    while not peer.ours.writes:
        gevent.sleep(0.0001)  # a timer, as any socket, comes to its turn
        turns += 1
    assert turns > 10
    sender.get(timeout=WAIT)
    assert peer.hear() == b"x" * (1 << 23)


@pytest.mark.parametrize("thrown", [gevent.Timeout(), gevent.GreenletExit()])
def test_what_is_thrown_in_while_a_message_is_compressed_leaves_it_unsent(thrown):
    peer = deflating().accepted()
    peer.ws.send("abc" * 100)
    sender = gevent.spawn(peer.ws.send, b"x" * (1 << 23))
    gevent.sleep(0.0001)
    assert len(peer.ours.writes) == 1
    sender.kill(thrown, block=False)
    sender.join(WAIT)
    assert sender.dead
    peer.ws.send("abc" * 100)
    assert [peer.hear(), peer.hear()] == ["abc" * 100] * 2
    assert not peer.ws.closed


def test_small_messages_that_inflate_to_much_leave_others_their_turn():
    peer = deflating(capacity=1 << 20).accepted()
    peer.say(*[b"\0" * (1 << 22)] * 8)
    got: list[Any] = []
    handler = gevent.spawn(got.extend, iter(peer.ws.receive, None))
    gevent.sleep(0.0001)
    assert len(got) <= 2
    peer.say(CloseConnection(1000))
    handler.get(timeout=WAIT)
    assert len(got) == 8


# --- messages in pieces


def test_receive_fragments():
    peer = Peer().accepted()
    peer.say(TextMessage("é" * 10, message_finished=False))
    pieces = peer.ws.receive_fragments(timeout=WAIT)
    assert next(pieces) == "é" * 10
    peer.say(Ping(b"p"), TextMessage("b", message_finished=True), b"whole", "")
    assert list(pieces) == ["b"]
    assert list(peer.ws.receive_fragments()) == [b"whole"]
    assert list(peer.ws.receive_fragments()) == [""]
    peer.say(CloseConnection(1000))
    assert list(peer.ws.receive_fragments()) == []
    assert peer.ws.close_code == 1000


def test_a_message_larger_than_any_memory():
    """64 MiB go through in pieces, a compressed message of a few kB."""
    peer = deflating().accepted_for(1 << 40)
    peer.exchange.capacity = 1 << 20
    seen = [0, 0]
    with greenlet(peer.say, b"\0" * (64 << 20), b"next"):
        for piece in peer.ws.receive_fragments():
            seen = [seen[0] + len(piece), max(seen[1], len(piece))]
            assert peer.ws._protocol.held() == 0
        assert seen == [64 << 20, 64 << 10]
        assert peer.ws.receive() == b"next"


def test_what_is_left_of_a_message_is_received_next():
    peer = Peer().accepted()
    peer.say(TextMessage("a", message_finished=False))
    for _ in peer.ws.receive_fragments():
        break
    peer.say(TextMessage("b", message_finished=False), TextMessage("c", message_finished=True), "next")
    assert [peer.ws.receive(), peer.ws.receive()] == ["bc", "next"]


def test_a_message_whose_rest_a_pump_has_taken():
    peer = Peer().accepted()
    peer.say(TextMessage("a", message_finished=False))
    pieces = peer.ws.receive_fragments()
    assert next(pieces) == "a"
    peer.say(TextMessage("b", message_finished=False))
    sweep(peer.host, 2)
    peer.say(TextMessage("c", message_finished=True), "next")
    gevent.idle()
    assert list(peer.ws._queue) == ["bc", "next"]
    assert list(pieces) == ["bc"]
    assert peer.ws.receive() == "next"


def test_a_pump_takes_only_so_much_of_a_message(monkeypatch):
    monkeypatch.setattr(module, "READ_AHEAD", 1000)
    peer = Peer().accepted()
    sweep(peer.host, 2)
    peer.say(TextMessage("a" * 1500, message_finished=False))
    gevent.idle()
    assert not peer.ws._pumping
    sweep(peer.host, 5)
    assert not peer.ws._pumping
    pieces = peer.ws.receive_fragments()
    assert next(pieces) == "a" * 1500
    peer.say(TextMessage("b", message_finished=True))
    assert list(pieces) == ["b"]


def test_a_piece_may_not_come_in_time():
    peer = Peer().accepted()
    peer.say(TextMessage("a", message_finished=False))
    pieces = peer.ws.receive_fragments(timeout=0)
    assert next(pieces) == "a"
    with pytest.raises(TimeoutError):
        next(pieces)
    peer.say(TextMessage("b", message_finished=True))
    assert list(peer.ws.receive_fragments()) == ["b"]


@pytest.mark.parametrize(("end", "code"), [("close", 1001), ("gone", 1006), ("too big", 1009)])
def test_a_message_cut_in_its_middle_is_no_whole_one(end, code):
    peer = Peer(websocket_max_message_size=10).accepted()
    peer.say(TextMessage("a", message_finished=False))
    pieces = peer.ws.receive_fragments()
    assert next(pieces) == "a"
    if end == "close":
        peer.say(CloseConnection(1001))
    elif end == "gone":
        peer.exchange.tunnel.close()
    else:
        peer.say(TextMessage("x" * 10, message_finished=True))
    with pytest.raises(WebSocketError) as cut:
        next(pieces)
    assert cut.value.code == peer.ws.close_code == code


def test_a_size_of_its_own():
    peer = Peer(websocket_max_message_size=10)
    peer.ws.accept(max_message_size=100)
    peer.say("x" * 100, "x" * 101)
    assert peer.ws.receive() == "x" * 100
    assert peer.ws.receive() is None
    assert peer.ws.close_code == 1009


# --- closing


def test_close():
    peer = Peer().accepted()
    with greenlet(peer.ws.close, 4000, "enough"):
        peer.say("dropped", Ping(b"dropped"))
        close = peer.hear()
        assert close == CloseConnection(4000, "enough")
        assert not peer.ours.closed
        peer.say(close.response())
    assert peer.ours.closed
    assert (peer.ws.close_code, peer.ws.close_reason) == (4000, "enough")
    peer.ws.close(1000)
    assert (peer.ws.close_code, peer.ws.receive(), len(peer.host)) == (4000, None, 0)


def test_close_is_a_use_too():
    peer = Peer()
    with greenlet(peer.ws.close, 4001):
        close = peer.hear()
        assert close.code == 4001
        peer.say(close.response())


@pytest.mark.parametrize(
    ("code", "reason"),
    [(999, ""), (1004, ""), (1005, ""), (1006, ""), (1015, ""), (2999, ""), (5000, ""), (1000, "é" * 62)],
)
def test_a_close_that_cannot_be_sent(code, reason):
    peer = Peer().accepted()
    with pytest.raises(ValueError, match="close"):
        peer.ws.close(code, reason)
    assert not peer.ws.closed


def test_a_peer_that_does_not_answer_our_close():
    peer = Peer(ws_close_timeout=0.01).accepted()
    with gevent.Timeout(WAIT):
        peer.ws.close(1001)
    assert peer.ours.closed
    assert (peer.ws.close_code, len(peer.host)) == (1001, 0)


def test_a_peer_that_sends_on_behind_our_close():
    peer = Peer(ws_close_timeout=0.05).accepted()

    def send() -> None:
        while True:
            peer.say("x" * 10_000)
            gevent.sleep(0)

    with greenlet(raises, PeerGone, send):
        peer.ws.close()
    assert peer.ours.closed


@pytest.mark.parametrize("answered", [True, False])
def test_close_while_another_greenlet_receives(answered):
    peer = Peer(ws_close_timeout=WAIT if answered else 0.01).accepted()
    with greenlet(peer.ws.receive) as got, greenlet(peer.ws.close, 1001):
        dropped = peer.wire("dropped")
        close = peer.hear()
        if answered:
            peer.send(dropped + peer.wire(close.response()))
        assert got.get(timeout=WAIT) is None
    assert (peer.ours.closed, peer.ws.close_code) == (True, 1001)


def test_close_while_another_greenlet_sends():
    """Its message is sent to the end, and the Close behind it."""
    peer = Peer(capacity=100).accepted()
    with greenlet(peer.ws.send, "x" * 1000), greenlet(peer.ws.close, 1001):
        with pytest.raises(WebSocketError):
            peer.ws.send("too late")
        assert peer.hear() == "x" * 1000
        close = peer.hear()
        assert close.code == 1001
        peer.say(close.response())


def test_close_against_a_writer_that_is_stuck():
    peer = Peer(capacity=100, ws_close_timeout=0.01).accepted()
    with greenlet(raises, WebSocketError, peer.ws.send, "x" * 1000):
        peer.ws.close()
    assert peer.ours.closed


def test_both_close():
    peer = Peer().accepted()
    peer.say(CloseConnection(4001, "mine"))
    with greenlet(peer.ws.close, 4002, "no, mine"):
        assert peer.hear().code == 4002
    assert (peer.ws.close_code, peer.ours.closed) == (4002, True)


def test_a_timeout_of_the_applications_in_close_is_its_own():
    peer = Peer().accepted()
    with pytest.raises(gevent.Timeout) as expired, gevent.Timeout(0.01) as timer:
        peer.ws.close()
    assert expired.value is timer
    with greenlet(peer.ws.finish):
        assert peer.hear().code == 1000
        peer.say(CloseConnection(1000))


def test_close_all():
    peers = [Peer().accepted() for _ in range(5)]
    host = peers[0].host
    for peer in peers[1:]:
        peer.ws._host = host
        host.enter(peer.ws)
    handlers = [gevent.spawn(lambda peer=peer: (peer.ws.receive(), peer.ws.receive())) for peer in peers[:4]]
    gevent.idle()  # the fifth handler is not in receive()
    host.close_all(1001, "going away")
    closes = [peer.hear() for peer in peers]  # all at once: nobody has answered yet
    assert closes == [CloseConnection(1001, "going away")] * 5
    for peer, close in zip(peers, closes, strict=True):
        with pytest.raises(WebSocketError):
            peer.ws.send("late")
        peer.say(close.response())
    gevent.joinall(handlers, timeout=WAIT)
    assert [handler.value for handler in handlers] == [(None, None)] * 4
    for peer in peers:
        peer.ws.finish()
    assert [(p.ws.close_code, p.ours.closed, p.hear()) for p in peers] == [(1001, True, None)] * 5
    assert len(host) == 0


def test_a_late_comer_is_closed_too():
    peer = Peer()
    peer.host.start()
    peer.host.stop()
    peer.host.stop()
    with greenlet(peer.ws.receive) as got:
        close = peer.hear()
        assert close.code == 1001
        peer.say(close.response())
        assert got.get(timeout=WAIT) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 1000), (ZeroDivisionError(), 1011), (gevent.Timeout(), 1011), (SystemExit(1), 1011)],
)
def test_finish(error, code):
    peer = Peer().accepted()
    with greenlet(peer.ws.finish, error):
        close = peer.hear()
        assert close == CloseConnection(code, "")
        peer.say(close.response())
    assert (peer.ours.closed, peer.ws.close_code) == (True, code)


def test_finish_of_a_killed_greenlet():
    peer = Peer().accepted()
    peer.ws.finish(gevent.GreenletExit())
    assert (peer.ours.aborted, peer.ws.close_code, len(peer.host)) == (True, 1006, 0)
    assert peer.hear_gone()


def test_finish_behind_the_peers_close():
    peer = Peer().accepted()
    peer.say(CloseConnection(1000))
    assert peer.ws.receive() is None
    assert not peer.ours.closed
    peer.ws.finish(WebSocketError("the application did not mind"))
    assert peer.ours.closed
    assert len(peer.ours.writes) == 1


def test_finish_while_a_pump_reads():
    peer = Peer().accepted()
    sweep(peer.host, 2)
    assert peer.ws._pumping
    with greenlet(peer.ws.finish):
        close = peer.hear()
        peer.say(close.response())
    gevent.idle()
    assert not peer.ws._pumping


def test_context_manager():
    peer = Peer()

    def use(error: BaseException | None) -> None:
        with peer.ws as ws:
            ws.accept()
            if error is not None:
                raise error

    with greenlet(use, None):
        close = peer.hear()
        assert close.code == 1000
        peer.say(close.response())
    peer = Peer()
    with greenlet(raises, ZeroDivisionError, use, ZeroDivisionError()):
        close = peer.hear()
        assert close.code == 1011
        peer.say(close.response())
