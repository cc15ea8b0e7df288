"""Frames, messages and closing: bytes in, messages and bytes out. wsproto and websockets are the oracles."""

import os
import struct
import sys
from collections.abc import Sequence
from timeit import repeat
from typing import Any

import pytest
import websockets.exceptions
import websockets.frames
import websockets.http11
import websockets.protocol
import wsproto
import wsproto.events
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import ApplicationError, PeerError, WebSocketError
from geventgate.protocol.websocket import (
    BYTES_PER_FRAGMENT,
    FREE_FRAGMENTS,
    State,
    WebSocketProtocol,
    close_payload,
    encode,
    is_close_code,
    parse_close,
)

LIMIT = 1 << 20
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, key: bytes = b"\x01\x80\xff\x5a") -> bytes:
    """A client's frame, written down from RFC 6455 §5.2 once more."""
    size = len(payload)
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0x80 | 126,)) + struct.pack("!H", size)
    else:
        head += bytes((0x80 | 127,)) + struct.pack("!Q", size)
    mask = (key * (size // 4 + 1))[:size]
    return head + key + bytes(a ^ b for a, b in zip(payload, mask, strict=True))


def begin(payload: bytes) -> bytes:
    """The first fragment of a text."""
    return frame(TEXT, payload, fin=False)


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def served(opcode: int, payload: bytes = b"") -> bytes:
    """A server's short frame."""
    return bytes((0x80 | opcode, len(payload))) + payload


def receive_all(protocol: WebSocketProtocol, pieces: Sequence[bytes]) -> tuple[list[str | bytes], bytes]:
    """The messages, and what was owed."""
    messages = []
    sent = b""
    for piece in pieces:
        protocol.feed(piece)
        while (message := protocol.next_message()) is not None:
            messages.append(message)
        sent += b"".join(protocol.take_owed())
    return messages, sent


def fed(data: bytes) -> dict[str, list[bytes]]:
    return {"whole": [data], "byte by byte": [data[i : i + 1] for i in range(len(data))]}


# --- messages

MESSAGES: list[tuple[str, bytes, list[str | bytes], bytes]] = [
    ("text", frame(TEXT, b"hello"), ["hello"], b""),
    ("empty text", frame(TEXT), [""], b""),
    ("binary", frame(BINARY, b"\x00\xff"), [b"\x00\xff"], b""),
    ("empty binary", frame(BINARY), [b""], b""),
    ("two", frame(TEXT, b"a") + frame(BINARY, b"b"), ["a", b"b"], b""),
    ("125", frame(BINARY, b"x" * 125), [b"x" * 125], b""),
    ("126", frame(BINARY, b"x" * 126), [b"x" * 126], b""),
    ("65535", frame(BINARY, b"x" * 65535), [b"x" * 65535], b""),
    ("65536", frame(TEXT, b"x" * 65536), ["x" * 65536], b""),
    ("fragments", begin(b"a") + frame(0, b"b", fin=False) + frame(0, b"c"), ["abc"], b""),
    ("empty fragments", frame(BINARY, fin=False) + frame(0, fin=False) + frame(0), [b""], b""),
    ("a character across fragments", begin(b"\xc3") + frame(0, b"\xa9"), ["é"], b""),
    ("a ping between fragments", begin(b"a") + frame(PING, b"p") + frame(0, b"b"), ["ab"], served(PONG, b"p")),
    ("pings", frame(PING, b"1") + frame(PING) + frame(PING), [], served(PONG, b"1") + served(PONG) + served(PONG)),
    ("a full ping", frame(PING, b"x" * 125), [], served(PONG, b"x" * 125)),
    ("a pong", frame(PONG, b"whatever"), [], b""),
    ("binary behind fragments", begin(b"a") + frame(0, b"b") + frame(BINARY, b"c"), ["ab", b"c"], b""),
    ("no mask to speak of", frame(TEXT, b"abc", key=b"\0\0\0\0"), ["abc"], b""),
    ("astral", frame(TEXT, "\U0001f40a".encode()), ["\U0001f40a"], b""),
    ("non-characters", frame(TEXT, "\ufffe\uffff\0".encode()), ["\ufffe\uffff\0"], b""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "messages", "sent"), [case[1:] for case in MESSAGES], ids=[case[0] for case in MESSAGES]
)
def test_messages(data, messages, sent):
    for way, pieces in fed(data).items():
        protocol = WebSocketProtocol(LIMIT)
        assert receive_all(protocol, pieces) == (messages, sent), way
        assert (protocol.state, protocol.fault, protocol.close_code) == (State.OPEN, None, None)
    protocol = WebSocketProtocol(LIMIT)
    assert receive_all(protocol, [data + frame(TEXT, b"tail"), frame(PING)]) == (
        [*messages, "tail"],
        sent + served(PONG),
    )


def test_messages_are_parsed_as_they_are_asked_for():
    protocol = WebSocketProtocol(LIMIT)
    protocol.feed(frame(TEXT, b"a") + frame(PING) + frame(TEXT, b"b") + frame(7))
    assert protocol.next_message() == "a"
    assert protocol.owed == []
    assert protocol.next_message() == "b"
    assert protocol.take_owed() == [served(PONG)]
    assert (protocol.state, protocol.next_message(), protocol.state) == (State.OPEN, None, State.CLOSED)


# --- closing

CLOSES: list[tuple[bytes, int, str, bytes]] = [
    (close(), 1005, "", served(CLOSE)),
    (close(1000), 1000, "", served(CLOSE, b"\x03\xe8")),
    (close(1001, b"going away"), 1001, "going away", served(CLOSE, b"\x03\xe9")),
    (close(4999, "é".encode()), 4999, "é", served(CLOSE, b"\x13\x87")),
    (close(1000, b"x" * 123), 1000, "x" * 123, served(CLOSE, b"\x03\xe8")),
]


@pytest.mark.parametrize(("data", "code", "reason", "sent"), CLOSES)
def test_the_peer_closes(data, code, reason, sent):
    for pieces in [*fed(data).values(), [data + frame(TEXT, b"late") + b"\xff" * 100], [data, frame(3)]]:
        protocol = WebSocketProtocol(LIMIT)
        assert receive_all(protocol, pieces) == ([], sent)
        assert (protocol.state, protocol.close_code, protocol.close_reason) == (State.CLOSED, code, reason)
        assert protocol.fault is None


FAULTS: list[tuple[str, bytes, int]] = [
    ("unmasked", b"\x81\x01a", 1002),
    ("RSV1", frame(TEXT, b"a", rsv=4), 1002),
    ("RSV2", frame(TEXT, b"a", rsv=2), 1002),
    ("RSV3 on a ping", frame(PING, b"a", rsv=1), 1002),
    *((f"opcode {opcode}", frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    ("a fragmented ping", frame(PING, b"a", fin=False), 1002),
    ("a long ping", frame(PING, b"a" * 126), 1002),
    ("a long close", frame(CLOSE, b"\x03\xe8" + b"a" * 124), 1002),
    ("a continuation of nothing", frame(CONTINUATION, b"a"), 1002),
    ("an empty continuation of nothing", frame(CONTINUATION, fin=False), 1002),
    ("a message inside another", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    ("a length of 16 bits for 7", b"\x82\xfe\x00\x7d" + b"mask" + b"a" * 125, 1002),
    ("a length of 64 bits for 16", b"\x82\xff" + struct.pack("!Q", 65535) + b"mask", 1002),
    ("a length of 64 bits and the highest set", b"\x82\xff" + struct.pack("!Q", 1 << 63 | 200_000) + b"mask", 1002),
    ("half a close code", frame(CLOSE, b"\x03"), 1002),
    *((f"close {code}", close(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)),
    ("a close reason that is not UTF-8", close(1000, b"\xce\xba\xff"), 1007),
    ("a cut close reason", close(1000, "é".encode()[:1]), 1007),
    ("Latin-1", frame(TEXT, b"caf\xe9"), 1007),
    ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
    ("overlong", frame(TEXT, b"\xc0\xaf"), 1007),
    ("too high", frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    ("text that ends in a character", frame(TEXT, b"\xce", fin=False) + frame(CONTINUATION, b""), 1007),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_faults(data, code):
    for pieces in [*fed(data).values(), [data + frame(TEXT, b"late") + frame(PING)], [data, b"\xff" * 100]]:
        protocol = WebSocketProtocol(LIMIT)
        messages, sent = receive_all(protocol, pieces)
        assert messages == []
        assert (protocol.state, protocol.close_code) == (State.CLOSED, code)
        assert isinstance(protocol.fault, PeerError)
        assert protocol.fault.close_code == code
        assert sent == served(CLOSE, close_payload(code, protocol.close_reason))
        assert protocol.close_reason == str(protocol.fault) != ""


@pytest.mark.parametrize(
    "text",
    [b"\xce\xba\xe1\xbd\xb9\xf4\x90", b"ab\xed\xa0\x80", b"\xff", b"a\x80", b"\xf5", b"\xc0", b"\xe0\x80", b"\xf0\x80"],
)
@pytest.mark.parametrize("fragmented", [True, False])
def test_bad_text_is_refused_at_its_first_wrong_byte(text, fragmented):
    """Autobahn 6.4: the message is not over, and need not be."""
    protocol = WebSocketProtocol(LIMIT)
    data = frame(TEXT, text, fin=False) if fragmented else frame(TEXT, text + b"a" * 100)[:-100]
    protocol.feed(data[:-1])
    assert protocol.next_message() is None
    assert protocol.state is State.OPEN
    protocol.feed(data[-1:])
    assert protocol.next_message() is None
    assert protocol.close_code == 1007


def test_a_message_in_front_of_a_fault_is_received():
    message = frame(TEXT, b"a", fin=False) + frame(CONTINUATION)
    for pieces in fed(message + frame(CONTINUATION)).values():
        protocol = WebSocketProtocol(LIMIT)
        assert receive_all(protocol, pieces)[0] == ["a"]
        assert protocol.close_code == 1002


# --- limits


@pytest.mark.parametrize("limit", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_the_limit_is_inclusive_and_known_from_the_header(limit):
    protocol = WebSocketProtocol(limit)
    assert receive_all(protocol, [frame(BINARY, b"x" * limit)] * 2)[0] == [b"x" * limit] * 2
    header = frame(BINARY, b"x" * (limit + 1))[: -limit - 1]
    messages, sent = receive_all(protocol, [header])
    assert (messages, protocol.close_code) == ([], 1009)
    assert sent == served(CLOSE, close_payload(1009, "the message is too big"))


def test_sixteen_mebibytes_are_legal_and_a_byte_more_is_not():
    protocol = WebSocketProtocol(16 << 20)
    payload = bytes(16 << 20)
    head = b"\x82\xff" + struct.pack("!Q", len(payload)) + b"\0\0\0\0"
    pieces = [head, *(payload[i : i + 65536] for i in range(0, len(payload), 65536))]
    assert receive_all(protocol, pieces)[0] == [payload]
    protocol.feed(b"\x82\xff" + struct.pack("!Q", len(payload) + 1) + b"\0\0\0\0")
    assert (protocol.next_message(), protocol.close_code) == (None, 1009)


def test_the_limit_is_of_all_fragments_together():
    protocol = WebSocketProtocol(10)
    fragments = [frame(TEXT, b"abcd", fin=False), frame(CONTINUATION, b"efgh", fin=False), frame(CONTINUATION, b"ij")]
    assert receive_all(protocol, fragments * 2)[0] == ["abcdefghij"] * 2
    fragments[2] = frame(CONTINUATION, b"ijk")[:-3]
    assert receive_all(protocol, fragments)[0] == []
    assert protocol.close_code == 1009


def test_a_control_frame_is_not_counted():
    protocol = WebSocketProtocol(1)
    messages, sent = receive_all(protocol, [frame(PING, b"x" * 125), frame(TEXT, b"a")])
    assert (messages, sent) == (["a"], served(PONG, b"x" * 125))


def test_many_small_fragments_are_legal():
    """Autobahn 9.3.1: 4 MiB in fragments of 64 bytes."""
    protocol = WebSocketProtocol(16 << 20)
    first, more, last = (frame(TEXT, b"x" * 64, fin=False), frame(0, b"x" * 64, fin=False), frame(0, b"x" * 64))
    messages, _ = receive_all(protocol, [first, *[more * 1023 for _ in range(64)], more * 62, last])
    assert messages == ["x" * 64 * 65_536]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_endless_tiny_fragments_are_cut(size):
    protocol = WebSocketProtocol(16 << 20)
    more = frame(CONTINUATION, b"x" * size, fin=False)
    protocol.feed(frame(BINARY, b"x" * size, fin=False) + more * 500_000)
    assert protocol.next_message() is None
    assert protocol.close_code == 1008
    most = FREE_FRAGMENTS * BYTES_PER_FRAGMENT // (BYTES_PER_FRAGMENT - size)
    protocol = WebSocketProtocol(16 << 20)
    protocol.feed(frame(BINARY, b"x" * size, fin=False) + more * (most - 2) + frame(CONTINUATION, b"x" * size))
    assert protocol.next_message() == b"x" * size * most


def test_dribbled_bytes_cost_no_more_than_themselves():
    protocol = WebSocketProtocol(LIMIT)
    protocol.feed(frame(BINARY, bytes(100_000))[:14])
    for _ in range(20_000):
        protocol.feed(b"ab")
        assert protocol.next_message() is None
    assert sys.getsizeof(protocol._held) < 50_000


# --- our side of closing


def test_we_close():
    protocol = WebSocketProtocol(LIMIT)
    protocol.close(4000, "enough")
    assert protocol.state is State.CLOSING
    assert protocol.take_owed() == [served(CLOSE, b"\x0f\xa0enough")]
    protocol.close(1000)  # once is enough
    assert protocol.owed == []
    # "After sending a control frame indicating the connection should be closed, a peer does not send any further data"
    late = frame(TEXT, b"late") + frame(PING) + frame(TEXT, b"x" * 100_000, fin=False)
    assert receive_all(protocol, [late, close(1001, b"theirs") + frame(PING)]) == ([], b"")
    assert (protocol.state, protocol.close_code, protocol.close_reason) == (State.CLOSED, 4000, "enough")
    assert protocol.fault is None


def test_a_fault_behind_our_close_is_not_answered():
    protocol = WebSocketProtocol(LIMIT)
    protocol.close()
    protocol.take_owed()
    assert receive_all(protocol, [frame(5)]) == ([], b"")
    assert (protocol.state, protocol.close_code) == (State.CLOSED, 1000)
    assert protocol.fault is not None


def test_closing_inside_a_message_forgets_it():
    protocol = WebSocketProtocol(100)
    receive_all(protocol, [frame(TEXT, b"x" * 90, fin=False)])
    protocol.close()
    receive_all(protocol, [frame(CONTINUATION, b"x" * 90), close(1000)])
    assert (protocol.state, protocol.fault) == (State.CLOSED, None)


def test_lost():
    protocol = WebSocketProtocol(LIMIT)
    protocol.ping()
    protocol.lost("gone")
    assert (protocol.state, protocol.close_code, protocol.close_reason) == (State.CLOSED, 1006, "gone")
    assert protocol.owed == []
    protocol = WebSocketProtocol(LIMIT)
    receive_all(protocol, [close(1001)])
    protocol.lost("gone")
    assert protocol.close_code == 1001


def test_nothing_is_sent_when_closed():
    for end in ("closing", "closed", "lost"):
        protocol = WebSocketProtocol(LIMIT)
        if end == "closing":
            protocol.close(1001, "bye")
        elif end == "closed":
            receive_all(protocol, [close(1001, b"bye")])
        else:
            protocol.lost("bye")
        for call in (
            lambda: protocol.message("x"),  # noqa: B023
            lambda: protocol.fragment("x"),  # noqa: B023
            lambda: protocol.end_fragments(),  # noqa: B023
            lambda: protocol.ping(),  # noqa: B023
            lambda: protocol.pong(),  # noqa: B023
        ):
            with pytest.raises(WebSocketError) as refused:
                call()
            assert (refused.value.code, refused.value.reason) == (1006 if end == "lost" else 1001, "bye")


# --- sending


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        ("", b"\x81\x00"),
        ("é", b"\x81\x02\xc3\xa9"),
        (b"\x00", b"\x82\x01\x00"),
        (bytearray(b"ab"), b"\x82\x02ab"),
        (memoryview(b"abcd")[::2], b"\x82\x02ac"),
        (memoryview(struct.pack("=HH", 0x6161, 0x6262)).cast("H"), b"\x82\x04aabb"),
        (b"x" * 125, b"\x82\x7d" + b"x" * 125),
        (b"x" * 126, b"\x82\x7e\x00\x7e" + b"x" * 126),
        (b"x" * 65535, b"\x82\x7e\xff\xff" + b"x" * 65535),
        (b"x" * 65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + b"x" * 65536),
    ],
    ids=lambda value: None,
)
def test_message(message, wire):
    assert b"".join(WebSocketProtocol(LIMIT).message(message)) == wire


def test_a_large_payload_is_not_copied():
    payload = b"x" * 100_000
    assert WebSocketProtocol(LIMIT).message(payload)[1] is payload


@pytest.mark.parametrize("message", [None, 1, ["a"]])
def test_what_is_no_message(message):
    with pytest.raises(ApplicationError):
        WebSocketProtocol(LIMIT).message(message)


def test_a_lone_surrogate_is_the_callers_fault():
    protocol = WebSocketProtocol(LIMIT)
    with pytest.raises(UnicodeEncodeError):
        protocol.message("\ud800")
    assert b"".join(protocol.message("a")) == b"\x81\x01a"


def test_fragments():
    protocol = WebSocketProtocol(LIMIT)
    assert protocol.end_fragments() == ()
    wire = [protocol.fragment("a"), protocol.fragment("é"), protocol.end_fragments()]
    assert [b"".join(part) for part in wire] == [b"\x01\x01a", b"\x00\x02\xc3\xa9", b"\x80\x00"]
    assert b"".join(protocol.fragment(b"a")) == b"\x02\x01a"
    with pytest.raises(ApplicationError):
        protocol.fragment("text")
    with pytest.raises(ApplicationError):
        protocol.message("whole")
    protocol.ping(b"between")
    assert protocol.take_owed() == [served(PING, b"between")]
    assert b"".join(protocol.end_fragments()) == b"\x80\x00"
    assert b"".join(protocol.message("whole")) == b"\x81\x05whole"


def test_control_frames():
    protocol = WebSocketProtocol(LIMIT)
    protocol.ping(b"a")
    protocol.pong(b"b")
    protocol.feed(frame(PING, b"c"))
    assert protocol.next_message() is None
    assert protocol.take_owed() == [served(PING, b"a"), served(PONG, b"b"), served(PONG, b"c")]
    for call in (protocol.ping, protocol.pong):
        with pytest.raises(ValueError, match="125"):
            call(b"x" * 126)
    assert protocol.owed == []


LEGAL_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_close_codes_as_websockets_judges_them():
    for code in [*range(6000), 65535]:
        payload = code.to_bytes(2, "big")
        try:
            websockets.frames.Close.parse(payload)
            legal = True
        except websockets.exceptions.ProtocolError:
            legal = False
        assert is_close_code(code) is legal is (code in LEGAL_CODES), code
        if legal:
            assert parse_close(payload) == (code, "")
            assert close_payload(code, "") == payload
        else:
            with pytest.raises(ValueError, match="close code"):
                close_payload(code, "")


def test_close_reasons():
    assert len(close_payload(1000, "é" * 61 + "a")) == 125
    with pytest.raises(ValueError, match="123"):
        close_payload(1000, "é" * 62)


def test_reserved_bit_for_extensions():
    assert b"".join(encode(TEXT, b"a", rsv1=True)) == b"\xc1\x01a"


# --- oracles, and any split


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[str | bytes]]:
    """A legal stream of frames and its messages."""
    wire, messages = b"", []
    for _ in range(draw(st.integers(0, 4))):
        message = draw(st.one_of(st.text(max_size=200), st.binary(max_size=200), st.just(b"x" * 70_000)))
        messages.append(message)
        data = message.encode() if isinstance(message, str) else message
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
        parts = [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for number, part in enumerate(parts):
            if draw(st.booleans()):
                wire += frame(draw(st.sampled_from((PING, PONG))), draw(st.binary(max_size=125)))
            opcode = CONTINUATION if number else TEXT if isinstance(message, str) else BINARY
            wire += frame(opcode, part, number == len(parts) - 1, key=draw(st.binary(min_size=4, max_size=4)))
    return wire, messages


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 1 << 20), max_size=8)


def as_wsproto(pieces: Sequence[bytes]) -> tuple[list[Any], int | None]:
    """What wsproto makes of them, and the code it would close with."""
    connection = wsproto.connection.Connection(wsproto.ConnectionType.SERVER)
    messages: list[Any] = []
    parts: list[Any] = []
    try:
        for piece in pieces:
            connection.receive_data(piece)
            for event in connection.events():
                if isinstance(event, wsproto.events.Message):
                    parts.append(event.data)
                    if event.message_finished:
                        messages.append((b"" if isinstance(event, wsproto.events.BytesMessage) else "").join(parts))
                        parts = []
                elif isinstance(event, wsproto.events.CloseConnection):
                    return messages, int(event.code)
    except wsproto.utilities.RemoteProtocolError as error:
        return messages, int(error.event_hint.code) if error.event_hint else 1002
    return messages, None


@given(conversations(), CUTS)
def test_any_split_gives_the_same_messages(conversation, cuts):
    wire, messages = conversation
    protocol = WebSocketProtocol(LIMIT)
    assert receive_all(protocol, split(wire, cuts))[0] == messages
    assert protocol.state is State.OPEN
    assert as_wsproto([wire]) == (messages, None)


@given(conversations(), st.integers(0, 1 << 20), st.integers(1, 255), CUTS)
def test_one_wrong_byte_is_judged_as_wsproto_judges_it_however_it_is_split(conversation, place, change, cuts):
    wire, _ = conversation
    wire += close(1000)
    place %= min(len(wire), 400)  # within 70,000 bytes of binary there is nothing to find
    wire = wire[:place] + bytes((wire[place] ^ change,)) + wire[place + 1 :]
    whole, parted = WebSocketProtocol(LIMIT), WebSocketProtocol(LIMIT)
    assert receive_all(whole, [wire]) == receive_all(parted, split(wire, cuts))
    assert whole.close_code == parted.close_code
    ours = receive_all(WebSocketProtocol(LIMIT), [wire])[0]
    messages, code = as_wsproto([wire])
    if whole.close_code not in (1009, *range(1012, 1015)):  # wsproto has no limit, and does not know the newest codes
        assert (ours, whole.close_code) == (messages, code)


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300), st.just("é" * 40_000)), st.integers(0, 3))
def test_websockets_understands_us_and_we_it(message, fragments):
    client = websockets.protocol.Protocol(websockets.protocol.CLIENT, max_size=None)
    ours = WebSocketProtocol(LIMIT)
    wire = b"".join(ours.message(message))
    for _ in range(fragments):
        wire += b"".join(ours.fragment(message))
    wire += b"".join(ours.end_fragments())
    ours.ping(b"p")
    wire += b"".join(ours.take_owed())
    client.receive_data(wire)
    frames = client.events_received()
    data = message.encode() if isinstance(message, str) else message
    opcode = websockets.frames.Opcode.TEXT if isinstance(message, str) else websockets.frames.Opcode.BINARY
    assert (frames[0].opcode, bytes(frames[0].data), frames[0].fin) == (opcode, data, True)
    assert b"".join(bytes(f.data) for f in frames[1:-1]) == data * fragments
    assert [f.fin for f in frames[1:-1]] == ([False] * fragments + [True] if fragments else [])
    assert frames[-1] == websockets.frames.Frame(websockets.frames.Opcode.PING, b"p")

    send = client.send_text if isinstance(message, str) else client.send_binary
    send(data)
    client.send_close(1001, "bye")
    messages, sent = receive_all(ours, client.data_to_send())
    assert messages == [message]
    assert (ours.close_code, ours.close_reason) == (1001, "bye")
    client.receive_data(sent)
    assert client.close_rcvd == websockets.frames.Close(1001, "")


def test_wsproto_understands_how_we_close():
    client = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT)
    ours = WebSocketProtocol(LIMIT)
    ours.close(3000, "é")
    client.receive_data(b"".join(ours.take_owed()))
    (event,) = client.events()
    assert event == wsproto.events.CloseConnection(code=3000, reason="é")
    ours.feed(client.send(event.response()))
    assert (ours.next_message(), ours.state) == (None, State.CLOSED)


def test_a_16_kib_echo_is_quick():
    """Pure Python, all of the protocol's work: 150 us is the budget; ten times that, for slow machines, the bound."""
    wire = frame(BINARY, os.urandom(16384))
    protocol = WebSocketProtocol(LIMIT)

    def echo() -> None:
        protocol.feed(wire)
        message = protocol.next_message()
        assert message is not None
        protocol.message(message)

    assert min(repeat(echo, number=20, repeat=10)) / 20 < 1.5e-3
