"""Where the engine over h2 goes its own way: what h2 would make of it, and what it holds in memory.

What it has in common with the other is in test_http2_engines.py, whose Peer is used here.
"""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hpack import Encoder
from http2_wire import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    raw_frame,
)
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import PeerGone
from geventgate.protocol.http2 import Data, Goaway, Limits, Request, Reset, Trailers, Writable
from geventgate.protocol.http2_h2 import MAX_ENCODER_TABLE, REMEMBERED, TURN, Engine
from protocol.test_http2_engines import (
    FRAME,
    GET,
    MAX_WINDOW,
    OK,
    POST,
    WINDOW,
    Peer,
    priority_update,
    rst_stream,
    window_update,
)


@pytest.fixture
def peer() -> Peer:
    """One that has heard our SETTINGS."""
    peer = Peer(Engine)
    peer.pull()
    return peer


def setting(identifier: int, value: int) -> bytes:
    return identifier.to_bytes(2, "big") + value.to_bytes(4, "big")


def settings(*entries: tuple[int, int]) -> bytes:
    return raw_frame(SETTINGS, 0, 0, b"".join(setting(*entry) for entry in entries))


# --- stream errors that h2 would answer with the end of the connection

ITSELF = (1).to_bytes(4, "big") + b"\x0f"
# (what, what comes on stream 1, an upload that has begun, the code of the reset)
STREAM_ERRORS = [
    ("WINDOW_UPDATE of nothing", lambda peer: window_update(1, 0), PROTOCOL_ERROR),
    ("WINDOW_UPDATE of too much", lambda peer: window_update(1, MAX_WINDOW), FLOW_CONTROL_ERROR),
    ("more than the stream's window", lambda peer: peer.data(1, bytes(WINDOW + 1)), FLOW_CONTROL_ERROR),
    ("PRIORITY of a wrong size", lambda peer: raw_frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    ("PRIORITY on itself", lambda peer: raw_frame(PRIORITY, 0, 1, ITSELF), PROTOCOL_ERROR),
    ("trailers without the end", lambda peer: peer.head(1, [("a", "b")], ended=False), PROTOCOL_ERROR),
    ("pseudo-fields in trailers", lambda peer: peer.head(1, [(":path", "/")]), PROTOCOL_ERROR),
    ("an informational request", lambda peer: peer.head(1, [(":status", "100")]), PROTOCOL_ERROR),
    ("trailers of 201 fields", lambda peer: peer.head(1, [("a", "b")] * 201), ENHANCE_YOUR_CALM),
    ("content behind the end", lambda peer: peer.data(1, b"", True) + peer.data(1, b"x"), STREAM_CLOSED),
    ("fields behind the end", lambda peer: peer.data(1, b"", True) + peer.head(1), STREAM_CLOSED),
]


@pytest.mark.parametrize(("say", "code"), [case[1:] for case in STREAM_ERRORS], ids=[case[0] for case in STREAM_ERRORS])
def test_stream_errors(peer, say, code):
    peer.request(1, POST, ended=False)
    peer.request(3)
    events = peer.send(say(peer))
    assert events[-1] == Reset(1, code)
    with pytest.raises(PeerGone):
        peer.engine.head(1, 200, OK)
    assert peer.works()
    assert peer.resets() == [(1, code)]
    peer.engine.head(3, 200, OK, True)
    peer.pull()
    assert peer.ended(3)


# (what, the request, the code of the reset)
REFUSED = [
    ("HEADERS that depend on themselves",
     lambda peer: raw_frame(HEADERS, END_STREAM | END_HEADERS | PRIORITY_FLAG, 1, ITSELF + peer.encoder.encode(GET)),
     PROTOCOL_ERROR),
    ("Content-Length that is no number", lambda peer: peer.head(1, [*POST, ("content-length", "x")]), PROTOCOL_ERROR),
    ("two Content-Lengths", lambda peer: peer.head(1, [*POST, *[("content-length", n) for n in "12"]]), PROTOCOL_ERROR),
    ("a response", lambda peer: peer.head(1, [(":status", "100")]), PROTOCOL_ERROR),
    ("no fields", lambda peer: raw_frame(HEADERS, END_HEADERS, 1), PROTOCOL_ERROR),
    ("201 fields", lambda peer: peer.head(1, [*GET, *[("a", "b")] * 197]), ENHANCE_YOUR_CALM),
]  # fmt: skip


@pytest.mark.parametrize(("say", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_requests(peer, say, code):
    assert peer.send(say(peer)) == []
    assert peer.works()
    assert peer.resets() == [(1, code)]
    peer.request(3)  # HPACK's state has followed


def test_trailers_end_a_tunnel_badly(peer):
    """RFC 9113 §8.5: no HEADERS on a connected stream."""
    peer.request(1, [(":method", "CONNECT"), (":authority", "example.com:443")], ended=False)
    assert peer.send(peer.head(1, [("a", "b")])) == [Reset(1, PROTOCOL_ERROR)]


def test_content_length_is_nothing_to_a_tunnel(peer):
    fields = [(":method", "CONNECT"), (":authority", "example.com:443"), ("content-length", "1")]
    peer.request(1, fields, ended=False)
    [event] = peer.send(peer.data(1, b"more than that"))
    assert event.data == b"more than that"


@pytest.mark.parametrize("content", [b"x", b"xyz"])
def test_trailers_do_not_make_up_for_content(peer, content):
    peer.request(1, [*POST, ("content-length", "2")], ended=False)
    assert peer.send(peer.data(1, content), peer.head(1, [("a", "b")]))[-1] == Reset(1, PROTOCOL_ERROR)


# --- the same for frames of closed streams


def closed_by_both(peer: Peer) -> None:
    peer.request(1)
    peer.engine.head(1, 200, OK, True)


def closed_by_the_peer(peer: Peer) -> None:
    peer.request(1)
    peer.send(rst_stream(1))


def closed_by_us(peer: Peer) -> None:
    peer.request(1, POST, ended=False)
    peer.engine.reset(1, NO_ERROR)


def refused_by_us(peer: Peer) -> None:
    peer.send(peer.head(1, POST[1:], ended=False))


# (how the stream has closed, the code of a connection error, of a stream error, or that all is ignored)
CLOSED = [
    (closed_by_both, STREAM_CLOSED, None),
    (closed_by_the_peer, None, STREAM_CLOSED),
    (closed_by_us, None, None),
    (refused_by_us, None, None),
]


@pytest.mark.parametrize("say", ["content", "nothing", "padding", "fields"])
@pytest.mark.parametrize(("close", "goaway", "reset"), CLOSED)
def test_late_frames(peer, close, goaway, reset, say):
    close(peer)
    peer.pull()
    resets = len(peer.resets())
    said = {
        "content": lambda: peer.data(1, b"content"),
        "nothing": lambda: peer.data(1),
        "padding": lambda: raw_frame(DATA, PADDED, 1, b"\x03\0\0\0"),
        "fields": lambda: peer.head(1, [("new", "to the table")]),
    }[say]()
    peer.send(said)
    if goaway is not None:
        assert peer.given_up() == goaway
        return
    assert peer.works()
    assert peer.resets()[resets:] == ([] if reset is None else [(1, reset)])
    request = peer.request(3, [*GET, ("new", "to the table")])
    assert request.head.get(b"new") == b"to the table"


@pytest.mark.parametrize("close", [case[0] for case in CLOSED])
def test_late_frames_that_are_always_good(peer, close):
    close(peer)
    peer.pull()
    resets = peer.resets()
    peer.send(window_update(1, 1), window_update(1, 0), rst_stream(1), raw_frame(PRIORITY, 0, 1, bytes(5)))
    peer.send(priority_update(1, b"u=1"))
    assert peer.works()
    assert peer.resets() == resets


def test_streams_that_were_passed_over_cannot_be_used(peer):
    peer.request(1)
    peer.request(5)
    peer.send(peer.head(3))
    assert peer.given_up() == PROTOCOL_ERROR


def test_of_streams_closed_long_ago_nothing_is_known(peer):
    for stream_id in range(1, 2 * REMEMBERED + 101, 2):
        peer.request(stream_id)
        peer.engine.head(stream_id, 200, OK, True)
        peer.pull()
    peer.send(peer.data(1, b"content"), peer.head(3))
    assert peer.works()
    assert not peer.resets()


# --- errors of the connection

# (what, what comes once stream 1 is an upload that has begun, the code)
CONNECTION_ERRORS = [
    ("DATA of more padding than frame", raw_frame(DATA, PADDED, 1, b"\x03xx"), PROTOCOL_ERROR),
    ("DATA of padding and its length", raw_frame(DATA, PADDED, 1, b"\x01"), PROTOCOL_ERROR),
    ("DATA of padding without a length", raw_frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
    ("HEADERS of more padding than frame", raw_frame(HEADERS, PADDED | END_HEADERS, 3, b"\x02\x82"), PROTOCOL_ERROR),
    ("HEADERS of padding without a length", raw_frame(HEADERS, PADDED | END_HEADERS, 3), FRAME_SIZE_ERROR),
    ("HEADERS of half a priority", raw_frame(HEADERS, PRIORITY_FLAG | END_HEADERS, 3, bytes(4)), FRAME_SIZE_ERROR),
    ("HEADERS whose padding is their priority",
     raw_frame(HEADERS, PRIORITY_FLAG | PADDED | END_HEADERS, 3, b"\x01" + bytes(5)), PROTOCOL_ERROR),
    ("GOAWAY of half a word", raw_frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    ("PRIORITY_UPDATE without a stream", raw_frame(16, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    ("PRIORITY_UPDATE on a stream", raw_frame(16, 0, 1, (1).to_bytes(4, "big")), PROTOCOL_ERROR),
    ("PRIORITY_UPDATE of a push that is idle", priority_update(2, b"u=1"), PROTOCOL_ERROR),
    ("PRIORITY of a wrong size, of an idle stream", raw_frame(PRIORITY, 0, 3, bytes(4)), FRAME_SIZE_ERROR),
    ("PRIORITY on itself, of an idle stream", raw_frame(PRIORITY, 0, 3, b"\0\0\0\x03\0"), PROTOCOL_ERROR),
    ("a frame in the middle of fields", raw_frame(HEADERS, 0, 3) + raw_frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    ("an unknown frame in the middle of fields", raw_frame(HEADERS, 0, 3) + raw_frame(77, 0, 3), PROTOCOL_ERROR),
    ("another stream's fields in the middle",
     raw_frame(HEADERS, 0, 3) + raw_frame(CONTINUATION, END_HEADERS, 5), PROTOCOL_ERROR),
]  # fmt: skip


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    ("octets", "code"), [case[1:] for case in CONNECTION_ERRORS], ids=[case[0] for case in CONNECTION_ERRORS]
)
def test_connection_errors(octets, code, step):
    peer = Peer(Engine, step=step)
    peer.request(1, POST, ended=False)
    peer.send(octets, rst_stream(1))
    assert peer.given_up() == code
    assert not any(isinstance(event, Reset) for event in peer.events)  # nothing is heard of what comes behind


@pytest.mark.parametrize(
    "first",
    [raw_frame(SETTINGS, ACK, 0), raw_frame(PING, 0, 0, bytes(8)), raw_frame(77, 0, 0), window_update(0, 1),
     raw_frame(HEADERS, END_HEADERS, 1, b"\x82"), raw_frame(HEADERS, 0, 1, b"\x82"), raw_frame(DATA, 0, 1)],
)  # fmt: skip
def test_the_first_frame_is_settings(first):
    engine = Engine(Limits())
    engine.receive(PREFACE + first, 1.0)
    assert [(event.code, event.local) for event in engine.events()] == [(PROTOCOL_ERROR, True)]


NARROW = Limits(streams=2, spare_window=0)  # 131,070 octets on the connection


def test_more_than_the_connections_window():
    peer = Peer(Engine, NARROW)
    for stream_id in (1, 3):
        peer.request(stream_id, POST, ended=False)
        peer.send(peer.data(stream_id, bytes(WINDOW)))
    peer.send(peer.data(3, b"x"))
    assert peer.given_up() == FLOW_CONTROL_ERROR


# (what, how stream at and 16 KiB of its content are wasted)
WASTED = [
    ("more content than was said",
     lambda peer, at: [peer.head(at, [*POST, ("content-length", "5")], ended=False), peer.data(at, bytes(FRAME))]),
    ("less content than was said",
     lambda peer, at: [peer.head(at, [*POST, ("content-length", "99999")], ended=False),
                       peer.data(at, bytes(FRAME), True)]),
    ("more than the stream's window",
     lambda peer, at: [peer.head(at, POST, ended=False), *(peer.data(at, bytes(FRAME)) for _ in range(5))]),
    ("content behind the end",
     lambda peer, at: [peer.head(at, POST), peer.data(at, bytes(FRAME))]),
    ("content of what has been refused",
     lambda peer, at: [peer.head(at, POST[1:], ended=False), peer.data(at, bytes(FRAME))]),
    ("padding",
     lambda peer, at: [peer.head(at, POST, ended=False), padding(peer, at), peer.data(at, b"", True)]),
]  # fmt: skip


def padding(peer: Peer, stream_id: int) -> bytes:
    peer.window -= 256 * 8
    return raw_frame(DATA, PADDED, stream_id, b"\xff" + bytes(255)) * 8


@pytest.mark.parametrize("waste", [case[1] for case in WASTED], ids=[case[0] for case in WASTED])
def test_no_credit_is_lost(waste):
    """What nobody will ever consume is returned by the engine."""
    peer = Peer(Engine, NARROW)
    peer.pull()
    for stream_id in range(1, 301, 2):
        for octets in waste(peer, stream_id):
            for event in peer.send(octets):
                if isinstance(event, Data):
                    peer.engine.consume(stream_id, len(event.data))
        peer.engine.reset(stream_id, NO_ERROR)
        peer.pull()
        assert peer.window >= 0
        assert not peer.goaways()


def test_content_of_a_released_stream_is_nobodys():
    peer = Peer(Engine, NARROW)
    peer.request(1, POST, ended=False)
    peer.engine.release(1)
    for _ in range(3):
        assert peer.send(peer.data(1, bytes(FRAME)), padding(peer, 1)) == []
    peer.request(3, POST, ended=False)
    for _ in range(20):
        for event in peer.send(peer.data(3, bytes(FRAME))):
            peer.engine.consume(3, len(event.data))
        peer.pull()
        assert peer.window >= 0
    assert peer.send(peer.head(1, [("a", "b")])) == []  # nor are its trailers
    peer.engine.head(1, 200, OK, True)
    peer.pull()
    assert peer.resets() == []  # its request has ended


# --- frames of our own


def test_a_bit_is_reserved(peer):
    """And must be ignored (RFC 9113 §6.9), which hyperframe does not."""
    peer.request(1)
    peer.send(raw_frame(WINDOW_UPDATE, 0, 1, b"\x80\0\0\x01"), raw_frame(WINDOW_UPDATE, 0, 1 << 31, b"\x80\0\0\x01"))
    assert peer.works()
    assert not peer.resets()


@pytest.mark.parametrize("octets", [settings((2, 2)), settings((4, 1 << 31)), window_update(0, MAX_WINDOW)])
def test_one_goaway_and_it_is_the_last(peer, octets):
    """h2 composes one of its own, which is dropped; what was queued before is not."""
    peer.request(1, POST, ended=False)
    peer.request(3)
    peer.engine.reset(1, NO_ERROR)
    peer.send(raw_frame(PING, 0, 0, bytes(8)), settings(), octets)
    frames = peer.pull()
    assert Counter(frame.kind for frame in frames) == {RST_STREAM: 1, PING: 1, SETTINGS: 1, GOAWAY: 1}
    assert frames[-1].kind == GOAWAY
    assert frames[-1].payload[0] == 3


def test_goaway_says_why(peer):
    peer.engine.goaway(ENHANCE_YOUR_CALM, "snowman: \N{SNOWMAN}")
    assert peer.engine.pull(1, 1.0).endswith(b"snowman: \\u2603")


def test_goaway_never_names_more_than_before(peer):
    """RFC 9113 §6.8."""
    peer.request(1)
    peer.engine.goaway()
    peer.send(peer.head(3))
    peer.engine.goaway(ENHANCE_YOUR_CALM, "enough")
    peer.pull()
    assert peer.goaways() == [(1, NO_ERROR), (1, ENHANCE_YOUR_CALM)]


# --- HPACK

UPDATE = b"\x20"  # the table's size shall be 0


@pytest.mark.parametrize("size", [b"\x20", b"\x3f\xe1\x1f", b"\x21"])
def test_a_section_may_change_the_table_twice(peer, size):
    """RFC 7541 §4.2. More would be decoded one by one, and count as nothing."""
    block = Encoder().encode(GET)
    peer.send(raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, size * 2 + block))
    assert isinstance(peer.events[-1], Request)
    peer.send(raw_frame(HEADERS, END_STREAM | END_HEADERS, 3, size * 3 + block))
    assert peer.given_up() == COMPRESSION_ERROR


@pytest.mark.parametrize("block", [b"\x3f", b"\x3f\xff\xff", b"\x20\x3f", b"\x20\x20", b"\x20\x20\x20", b"\x7f", b"\0"])
def test_sections_that_are_cut(peer, block):
    peer.send(raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
    peer.pull()
    assert peer.goaways() == [(0, COMPRESSION_ERROR)] or peer.resets() == [(1, PROTOCOL_ERROR)]


def test_a_section_has_no_more_octets_than_its_list_may_have(peer):
    peer.send(raw_frame(HEADERS, 0, 1, bytes(FRAME)))
    for _ in range(3):
        assert peer.send(raw_frame(CONTINUATION, 0, 1, bytes(FRAME))) == []
    peer.send(raw_frame(CONTINUATION, 0, 1, b"x"))
    assert peer.given_up() == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("sizes", "updates"),
    [
        ([4096], []),
        ([65_536], []),
        ([4096, 4096], []),
        ([100], [100]),
        ([100, 100], [100]),
        ([0, 4096], [0, 4096]),
        ([0, 65_536], [0, 4096]),
        ([0, 200, 100], [0, 100]),
        ([200, 0, 100, 300] * 50, [0, 300]),
    ],
)
def test_our_table_is_what_the_peer_allows_and_no_more(peer, sizes, updates):
    """And both sides know: the smallest size between, and the last one (RFC 7541 §4.2)."""
    for size in sizes:
        peer.send(settings((1, size)))
    for stream_id in range(1, 401, 2):
        peer.request(stream_id)
        peer.engine.head(stream_id, 200, [(b"field%d" % stream_id, b"x" * 40)], True)
        octets = peer.engine.pull(1 << 16, 1.0)
        if stream_id == 1:
            block = octets[octets.index(raw_frame(HEADERS, END_STREAM | END_HEADERS, 1)[3:]) + 6 :]
            heads = [b"\x3f" + varint(size - 31) if size > 30 else bytes((0x20 | size,)) for size in updates]
            assert block.startswith(b"".join(heads) + b"\x88")
        peer._hear(octets)
        assert peer.of(HEADERS, stream_id)[0].payload[1] == (b"field%d" % stream_id, b"x" * 40)
    table = peer.engine._h2.encoder.header_table
    assert table._current_size <= min(sizes[-1], MAX_ENCODER_TABLE)


def varint(number: int) -> bytes:
    octets = b""
    while number >= 128:
        octets += bytes((number & 127 | 128,))
        number >>= 7
    return octets + bytes((number,))


# --- what is held


def test_settings_that_nobody_knows_are_not_remembered(peer):
    for start in range(16, 1016, 25):
        peer.send(settings(*((identifier, 1) for identifier in range(start, start + 25))))
    assert len(peer.engine._h2.remote_settings) < 10
    assert peer.works()


def test_priorities_setting(peer):
    """RFC 9218 §2.1."""
    peer.send(settings((9, 1)), settings((9, 0)))
    assert peer.works()
    peer.send(settings((9, 2)))
    assert peer.given_up() == PROTOCOL_ERROR


def test_closed_streams_are_not_kept(peer):
    for stream_id in range(1, 4001, 2):
        peer.request(stream_id)
        if stream_id % 5:
            peer.engine.head(stream_id, 200, OK, True)
        elif stream_id % 3:
            peer.engine.reset(stream_id, NO_ERROR)
        peer.now += 0.1
        if stream_id % 15 == 0:
            peer.send(rst_stream(stream_id))
        peer.pull()
    engine = peer.engine
    assert engine.idle
    assert not engine._h2.streams
    assert len(engine._h2._closed_streams) <= 1
    assert len(engine._closed) <= REMEMBERED


def test_an_answer_that_is_not_taken_holds_its_stream(peer):
    """Heads are encoded in pull(): whoever never reads gets no more than 100 of them."""
    for stream_id in range(1, 201, 2):
        peer.request(stream_id)
        peer.engine.head(stream_id, 200, OK, True)
    assert peer.send(peer.head(201)) == []
    peer.pull()
    assert peer.resets() == [(201, REFUSED_STREAM)]
    peer.request(203)


def test_priorities_of_idle_streams_are_bounded(peer):
    """RFC 9218 §7.1: with those that are open they are no more than may be open."""
    for stream_id in range(1, 101, 2):
        peer.request(stream_id)
    for stream_id in range(101, 201, 2):
        peer.send(priority_update(stream_id, b"u=1"))
    peer.send(priority_update(199, b"u=2"), priority_update(1, b"u=2"))
    assert peer.works()
    peer.request(151)  # which closes those before it
    for stream_id in range(201, 251, 2):
        peer.send(priority_update(stream_id, b"u=1"))
    assert peer.works()
    peer.send(priority_update(301, b"u=1"), priority_update(303, b"u=1"))
    assert peer.given_up() == PROTOCOL_ERROR


def test_credit_is_one_frame_however_often_it_is_returned(peer):
    for stream_id in (1, 3):
        peer.request(stream_id, POST, ended=False)
        peer.send(peer.data(stream_id, bytes(WINDOW)))
        for _ in range(WINDOW):
            peer.engine.consume(stream_id, 1)
    updates = [frame for frame in peer.pull() if frame.kind == WINDOW_UPDATE]
    assert [(frame.stream_id, frame.payload) for frame in updates] == [(1, WINDOW), (3, WINDOW)]


def test_no_crumbs_of_credit(peer):
    """An application that reads octet by octet does not have us answer each (RFC 9113 §6.9: silly windows)."""
    peer.request(1, POST, ended=False)
    peer.send(peer.data(1, bytes(WINDOW)))
    for _ in range(WINDOW):
        peer.engine.consume(1, 1)
        peer.pull()
    assert peer.granted(1) >= 2 * WINDOW // 3
    assert len(peer.of(WINDOW_UPDATE, 1)) <= 64


def test_the_connections_credit_comes_in_time_however_little_is_left(peer):
    """Streams that nobody reads leave the rest to others."""
    for stream_id in range(1, 199, 2):
        peer.request(stream_id, POST, ended=False)
        peer.send(peer.data(stream_id, bytes(WINDOW)))
    peer.request(199, POST, ended=False)
    for _ in range(1000):
        peer.send(peer.data(199, bytes(FRAME)))
        peer.engine.consume(199, FRAME)
        peer.pull()
        assert peer.window >= 0


# --- abuse


def test_the_server_refuses_at_the_peers_cost(peer):
    """Slots are the server's; whoever asks for more all the same is cut (CVE-2025-8671)."""
    for stream_id in range(1, 1001, 2):
        for event in peer.send(peer.head(stream_id)):
            if isinstance(event, Request):
                peer.engine.reset(stream_id, REFUSED_STREAM)
        peer.pull()
        if peer.engine.done:
            break
    assert peer.given_up() == ENHANCE_YOUR_CALM
    assert len(peer.resets()) <= 201


def test_what_the_application_resets_is_not_the_peers_fault(peer):
    for stream_id in range(1, 2001, 2):
        peer.request(stream_id, POST, ended=False)
        peer.engine.head(stream_id, 200, OK, True)
        peer.engine.release(stream_id)
        peer.pull()
    assert peer.works()
    assert peer.resets() == [(stream_id, NO_ERROR) for stream_id in range(1, 2001, 2)]


@pytest.mark.parametrize("stream_id", [0, 1])
def test_content_cannot_be_drawn_octet_by_octet(stream_id):
    """CVE-2019-9511."""
    peer = Peer(Engine, window=0 if stream_id else MAX_WINDOW)
    peer.request(1)
    peer.engine.head(1, 200, OK)
    peer.engine.send(1, bytes(2 * WINDOW))
    peer.pull()
    for _ in range(2000):
        peer.send(window_update(stream_id, 1))
        peer.pull()
        if peer.engine.done:
            break
    assert peer.given_up() == ENHANCE_YOUR_CALM


def leave(peer: Peer) -> None:
    peer.engine.goaway()


# (what, the budget that it spends, what has been before, what is said without end)
LATE_FLOODS = [
    ("nothing, on a stream that we have reset", "control", closed_by_us, lambda peer, at: peer.data(1)),
    ("padding, on a stream that we have reset", "control", closed_by_us,
     lambda peer, at: raw_frame(DATA, PADDED, 1, b"\x03\0\0\0")),
    ("fields, on a stream that we have reset", "control", closed_by_us, lambda peer, at: peer.head(1)),
    ("requests that are refused silently", "control", leave, lambda peer, at: peer.head(at)),
    ("content on a stream that the peer has reset", "resets", closed_by_the_peer, lambda peer, at: peer.data(1, b"x")),
    ("PRIORITY of a wrong size", "resets", closed_by_the_peer, lambda peer, at: raw_frame(PRIORITY, 0, 1, bytes(4))),
    ("RST_STREAM of a closed stream", "resets", closed_by_both, lambda peer, at: rst_stream(1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spent", "before", "say"), [case[1:] for case in LATE_FLOODS], ids=[case[0] for case in LATE_FLOODS]
)
def test_late_floods(spent, before, say):
    budgets = {"control": (10**9, 0), "resets": (10**9, 0)}
    peer = Peer(Engine, Limits(**{**budgets, spent: (100, 0)}))
    before(peer)
    peer.pull()
    for stream_id in range(3, 401, 2):
        peer.send(say(peer, stream_id))
        peer.pull()
        if peer.events and isinstance(peer.events[-1], Goaway):
            break
    assert peer.goaways()[-1][1] == ENHANCE_YOUR_CALM
    assert stream_id < 220


# (what, what the peer says without end)
UNREAD = [
    ("PING", lambda peer, stream_id: raw_frame(PING, 0, 0, bytes(8))),
    ("SETTINGS", lambda peer, stream_id: settings()),
    ("malformed requests", lambda peer, stream_id: peer.head(stream_id, GET[1:])),
    ("too many requests", lambda peer, stream_id: peer.head(stream_id)),
    (
        "PRIORITY of a wrong size",
        lambda peer, stream_id: peer.head(stream_id) + raw_frame(PRIORITY, 0, stream_id, bytes(4)),
    ),
]


@pytest.mark.parametrize("say", [case[1] for case in UNREAD], ids=[case[0] for case in UNREAD])
def test_what_waits_for_a_peer_that_does_not_read_is_bounded(say):
    """Even if its budgets were not."""
    limits = Limits(control=(10**9, 0), resets=(10**9, 0))
    peer = Peer(Engine, limits)
    for stream_id in range(1, 5001, 2):
        peer.send(say(peer, stream_id))
        if peer.engine.done:
            break
    assert peer.given_up() == ENHANCE_YOUR_CALM
    assert len(peer.frames) <= limits.acknowledgements + 10


def test_requests_pay_for_what_clients_send_along(peer):
    for stream_id in range(1, 10_001, 2):
        peer.request(stream_id)
        peer.send(raw_frame(PRIORITY, 0, stream_id, bytes(5)), window_update(stream_id, 1), window_update(0, 1))
        peer.engine.head(stream_id, 200, OK, True)
        peer.pull()
    assert peer.works()


# --- the order


def wide() -> Peer:
    peer = Peer(Engine, window=MAX_WINDOW)
    peer.send(window_update(0, MAX_WINDOW - WINDOW))
    peer.pull()
    return peer


def test_no_response_is_so_long_that_others_starve():
    """RFC 9218 §10 lets those that are not incremental go one after the other: here, a turn at a time."""
    peer = wide()
    peer.request(1)
    peer.request(3)
    for stream_id in (1, 3):
        peer.engine.head(stream_id, 200, OK)
        peer.engine.send(stream_id, bytes(4 * TURN), True)
    peer.pull()
    turns = [first.stream_id for first, second in pairwise(peer.of(DATA)) if first.stream_id != second.stream_id]
    assert turns == [1, 3, 1, 3, 1, 3, 1]
    assert peer.ended(1)
    assert peer.ended(3)


def test_who_comes_late_has_nothing_to_make_up_for():
    peer = wide()
    peer.request(1)
    peer.engine.head(1, 200, OK)
    for _ in range(10):
        peer.engine.send(1, bytes(TURN))
        peer.pull()
    peer.request(3)
    peer.engine.head(3, 200, OK)
    for stream_id in (1, 3):
        peer.engine.send(stream_id, bytes(4 * TURN))
    frames = peer.pull()
    for stream_id in (1, 3):
        first = [frame.stream_id for frame in frames if frame.kind == DATA][: 2 * TURN // FRAME]
        assert first.count(stream_id) == TURN // FRAME


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.integers(0, 9)), min_size=2, max_size=30))
def test_the_order_holds_whoever_leaves(streams):
    """A stream's urgency, whether it is incremental, and what becomes of it: most stay, some are reset, or moved."""
    peer = wide()
    urgencies = {}
    for stream_id, (urgency, incremental, _) in zip(range(1, 61, 2), streams, strict=False):
        peer.request(stream_id, [*GET, ("priority", f"u={urgency}" + (", i" if incremental else ""))])
        peer.engine.head(stream_id, 200, OK)
        peer.engine.send(stream_id, bytes(2 * FRAME + 1), True)
        urgencies[stream_id] = urgency
    for stream_id, (urgency, _, fate) in zip(range(1, 61, 2), streams, strict=False):
        if fate == 0:
            peer.engine.reset(stream_id, NO_ERROR)
            del urgencies[stream_id]
        elif fate < 3:
            peer.send(priority_update(stream_id, b"u=%d" % (7 - urgency)))
            urgencies[stream_id] = 7 - urgency
    sent = [frame.stream_id for frame in peer.pull() if frame.kind == DATA]
    assert set(sent) == set(urgencies)
    assert [urgencies[stream_id] for stream_id in sent] == sorted(urgencies[stream_id] for stream_id in sent)


def test_a_small_response_overtakes_a_large_one():
    peer = wide()
    peer.request(1)
    peer.engine.head(1, 200, OK)
    peer.engine.send(1, bytes(100 * TURN))
    peer.pull(1 << 16, times=10)
    peer.request(3)
    peer.engine.head(3, 200, OK)
    peer.engine.send(3, b"content", True)
    peer.pull(1 << 16, times=2)
    assert peer.ended(3)
    assert not peer.ended(1)


PROMISE = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"localhost")]


def test_pushed_responses_wait_for_those_that_were_asked_for(peer):
    """Though the numbers of their streams are lower."""
    peer.request(1)
    peer.request(3)
    promised = peer.engine.push(1, PROMISE)
    assert promised == 2
    for stream_id in (2, 3):
        peer.engine.head(stream_id, 200, OK)
        peer.engine.send(stream_id, b"content", True)
    assert [(frame.kind, frame.stream_id) for frame in peer.pull()] == [
        (PUSH_PROMISE, 1), (HEADERS, 3), (DATA, 3), (HEADERS, 2), (DATA, 2),
    ]  # fmt: skip


def test_a_promised_response_has_no_interim_ones(peer):
    peer.request(1)
    promised = peer.engine.push(
        1, [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    )
    peer.engine.inform(promised, 103, OK)
    peer.engine.head(promised, 200, OK, True)
    peer.pull()
    assert [frame.payload[0] for frame in peer.of(HEADERS)] == [(b":status", b"200")]


def test_nothing_comes_on_a_promised_stream(peer):
    """RFC 9113 §5.1, reserved (local)."""
    peer.request(1)
    promised = peer.engine.push(
        1, [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    )
    peer.send(window_update(promised, 5), raw_frame(PRIORITY, 0, promised, bytes(5)), priority_update(promised, b"u=7"))
    assert peer.works()
    peer.send(peer.data(promised, b"x"))
    assert peer.given_up() == PROTOCOL_ERROR


# --- any order of commands


class Model:
    """What has been queued of each stream, and must come out."""

    def __init__(self) -> None:
        self.content: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.dead: set[int] = set()


@given(st.integers(0, 2**32), st.booleans())
def test_content_arrives_as_it_was_sent(seed, wide_windows):
    """Whatever is interleaved, in the order of its stream, and nothing of what is dead; the windows hold."""
    choices = random.Random(seed)
    limits = Limits(low_water=1000, control=(10**6, 1), resets=(10**6, 1))
    peer = Peer(Engine, limits, window=MAX_WINDOW if wide_windows else choices.choice((0, 1, 1000, WINDOW)))
    engine, model = peer.engine, Model()
    windows = Counter({0: WINDOW})
    initial = peer.engine._h2.remote_settings.initial_window_size
    waiting: set[int] = set()
    heard = 0  # events
    for _ in range(choices.randrange(5, 60)):
        alive = [one for one in model.content if one not in model.dead]
        sending = [one for one in alive if one not in model.ended]
        what = choices.choice(
            ["open", "send", "send", "end", "reset", "rst", "pull", "pull", "window", "first", "order"]
        )
        stream_id = choices.choice(alive) if alive else 0
        if what == "open":
            stream_id = 2 * len(model.content) + 1
            peer.request(stream_id, [*GET, ("priority", f"u={choices.randrange(8)}" + choices.choice(("", ", i")))])
            model.content[stream_id] = bytearray()
            windows[stream_id] = initial
            if choices.random() < 0.3:
                engine.inform(stream_id, 103, OK)
            engine.head(stream_id, 200, OK)
        elif what == "send" and sending:
            stream_id = choices.choice(sending)
            content = choices.randbytes(choices.choice((0, 1, 10, 999, 1001, FRAME, 50_000)))
            ended = choices.random() < 0.2
            if engine.send(stream_id, content, ended) > 1000:
                waiting.add(stream_id)
            model.content[stream_id] += content
            if ended:
                model.ended.add(stream_id)
        elif what == "end" and sending:
            stream_id = choices.choice(sending)
            engine.end(stream_id, choices.choice(((), [(b"a", b"b")])))
            model.ended.add(stream_id)
        elif what == "reset" and alive:
            engine.reset(stream_id, NO_ERROR)
        elif what == "rst" and alive:
            peer.send(rst_stream(stream_id))
        elif what == "window":
            stream_id = choices.choice((0, stream_id))
            size = choices.choice((1, 100, WINDOW))
            if windows[stream_id] + size <= MAX_WINDOW:
                windows[stream_id] += size
                peer.send(window_update(stream_id, size))
        elif what == "first" and sending:
            engine.prioritize(choices.choice(sending), choices.randrange(8), choices.random() < 0.5)
        elif what == "order" and alive:
            peer.send(priority_update(stream_id, b"u=%d" % choices.randrange(8)))
        elif what == "pull":
            peer.pull(choices.choice((1, 100, 1 << 16)), choices.choice((1, 3)))
        peer.events += engine.events()
        for event in peer.events[heard:]:
            if isinstance(event, Reset):
                model.dead.add(event.stream_id)
                waiting.discard(event.stream_id)
            elif isinstance(event, Writable):
                waiting.remove(event.stream_id)
        heard = len(peer.events)
        model.dead.update(one for one in model.content if peer.ended(one))
    # Then all windows open.
    for stream_id in [0, *(one for one in model.content if one not in model.dead)]:
        if windows[stream_id] < MAX_WINDOW // 2:
            windows[stream_id] += MAX_WINDOW // 2
            peer.send(window_update(stream_id, MAX_WINDOW // 2))
    peer.pull()
    reset = {event.stream_id for event in peer.events if isinstance(event, Reset)}
    for stream_id, content in model.content.items():
        arrived = peer.content(stream_id)
        assert len(arrived) <= windows[stream_id]
        if stream_id in reset:
            assert content.startswith(arrived)
        else:
            assert arrived == content
            assert peer.ended(stream_id) == (stream_id in model.ended)
    assert sum(len(peer.content(one)) for one in model.content) <= windows[0]
    assert engine.backlog() == []
    assert not engine._line
    assert not {event.stream_id for event in peer.events if isinstance(event, (Data, Trailers))}
    assert peer.works()
