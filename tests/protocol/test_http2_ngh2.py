"""What the engine over ngh2 does with nghttp2's own faults. What it shares with the other: test_http2_engines.py."""

import pytest
from http2_wire import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    raw_frame,
)

from geventgate.errors import PeerGone
from geventgate.protocol.http2 import Engine, Goaway, Reset, engine

from .test_http2_engines import GET, OK, POST, Peer, rst_stream, window_update

ngh2 = pytest.importorskip("ngh2")


@pytest.fixture
def made() -> type[Engine]:
    return engine("ngh2")


class Broken:
    """A connection that raises whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def events(self) -> list[object]:
        return []

    def fail(self, *arguments: object, **named: object) -> None:
        raise self.error

    receive_data = data_to_send = send_response = send_informational_response = send_data = send_trailers = fail
    send_push_promise = reset_stream = ping = send_goaway = send_shutdown_notice = terminate_connection = fail
    acknowledge_received_data = set_local_window_size = set_stream_priority = stream_remote_window_size = fail
    remote_window_size = property(fail)

    def queued_body_size(self, stream_id: int) -> int:
        return 0


ERRORS = [
    (ngh2.ConnectionStateError("no longer usable"), PROTOCOL_ERROR),
    (ngh2.ConnectionProtocolError("broken"), PROTOCOL_ERROR),
    (ngh2.DenialOfServiceError("flooded"), ENHANCE_YOUR_CALM),
    (ngh2.InternalError("oh"), INTERNAL_ERROR),
    (ValueError("what"), PROTOCOL_ERROR),
    (MemoryError("full"), INTERNAL_ERROR),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
@pytest.mark.parametrize("fault", [
    lambda peer: peer.send(b"x"),
    lambda peer: peer.pull(),
    lambda peer: peer.engine.goaway(7, "for this"),
], ids=["receive", "pull", "goaway"])  # fmt: skip
def test_whatever_it_raises_ends_the_connection(made, fault, error, code):
    peer = Peer(made)
    peer.pull()
    peer.request(1, POST, ended=False)
    peer.engine._connection = Broken(error)
    fault(peer)
    assert peer.given_up() == code
    assert peer.goaways() == [(1, code)]
    assert peer.pull() == []


def test_no_command_raises_but_that_the_peer_has_gone(made):
    peer = Peer(made)
    peer.pull()
    peer.request(1, POST, ended=False)
    peer.request(3, POST, ended=False)
    peer.engine.head(1, 200, OK)
    peer.engine.release(1)
    peer.engine.end(1)
    peer.engine._connection = Broken(ngh2.StreamUnavailableError("it is closed"))
    for command in (
        lambda: peer.engine.inform(3, 103, []),
        lambda: peer.engine.head(3, 200, OK),
        lambda: peer.engine.send(3, b"x"),
        lambda: peer.engine.end(3),
        lambda: peer.engine.end(3, OK),
        lambda: peer.engine.prioritize(3, 0, True),
    ):
        with pytest.raises(PeerGone, match="it is closed"):
            command()
    assert peer.engine.push(3, [(b":path", b"/")]) is None
    assert peer.engine._has_window(1) is False
    peer.engine.consume(3, 5)
    peer.engine.widen(3, 5)
    peer.engine.ping(bytes(8))
    peer.engine.drain()
    peer.engine.goaway()
    peer.engine.reset(3, 8)
    assert peer.events[-1] != Reset(3, 8)
    assert peer.engine.events() == [Reset(3, 8)]


def test_its_goaway_is_not_put_into_a_frame(made):
    """When it breaks in the middle of one, what it still had is lost, and nothing can be said any more."""
    peer = Peer(made, window=1 << 20)
    peer.send(window_update(0, 1 << 20))
    peer.pull()
    peer.request(1)
    peer.engine.head(1, 200, OK)
    peer.engine.send(1, bytes(100_000), True)
    peer.pull(limit=20_000, times=1)
    [event] = peer.send(peer.head(3, [*GET, *[("a", "b")] * 250]))
    assert isinstance(event, Goaway)
    assert event.code == ENHANCE_YOUR_CALM
    assert peer.engine.pull(1 << 16, 1.0) == b""
    assert peer.engine.done


def test_a_head_that_is_too_large_costs_its_stream_only(made):
    """A megabyte; and it is no reset of the peer's making."""
    peer = Peer(made)
    peer.pull()
    for stream_id in range(1, 501, 2):
        peer.request(stream_id)
        peer.engine.head(stream_id, 200, [(b"a", bytes(1 << 20))], True)
        peer.pull()
        assert peer.events[-1] == Reset(stream_id, INTERNAL_ERROR)
    assert peer.works()


def test_nghttp2_counts_nothing_by_its_own_clock(made):
    """Its budgets are out of the way: ours know the server's time."""
    peer = Peer(made)
    peer.pull()
    for stream_id in range(1, 4001, 2):
        peer.now += 1
        peer.send(peer.head(stream_id, GET[1:]))
        peer.pull()
    for stream_id in range(4001, 8001, 2):
        peer.now += 1
        peer.send(peer.head(stream_id), rst_stream(stream_id))
    assert len(peer.resets()) == 2000
    assert peer.works()


def test_who_goes_away_asks_for_nothing_more(made):
    """nghttp2 closes as soon as such a connection idles; so requests behind a GOAWAY are refused while others run."""
    peer = Peer(made)
    peer.pull()
    peer.request(1)
    events = peer.send(raw_frame(GOAWAY, 0, 0, bytes(8)), peer.head(3))
    assert [type(event) for event in events] == [Goaway]
    peer.engine.head(1, 200, OK, True)
    peer.pull()
    assert peer.resets() == [(3, REFUSED_STREAM)]
    assert peer.ended(1)
    assert peer.engine.done


def test_a_head_in_pieces_is_whole_or_nothing(made):
    peer = Peer(made)
    peer.pull()
    block = peer.encoder.encode(GET)
    assert peer.send(raw_frame(HEADERS, 1, 1, block[:3]), raw_frame(CONTINUATION, 0, 1, block[3:])) == []
    [event] = peer.send(raw_frame(CONTINUATION, 4, 1))
    assert event.head.method == "GET"
