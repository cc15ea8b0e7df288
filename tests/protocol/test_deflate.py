"""permessage-deflate: what is agreed, and payloads byte for byte; websockets and wsproto are the oracles."""

import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import websockets.extensions.permessage_deflate as oracle
import websockets.frames
import websockets.protocol
import wsproto
import wsproto.events
import wsproto.extensions
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import ApplicationError, PeerError
from geventgate.protocol.deflate import PIECE, SLICE, TAIL, Agreement, Deflater, Inflater, negotiate
from geventgate.protocol.handshake import check_handshake
from geventgate.protocol.websocket import LEAST_DEFLATED, State, WebSocketProtocol
from geventgate.testing import request_head

LIMIT = 1 << 20
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40


def frame(first: int, payload: bytes = b"") -> bytes:
    """A client's frame with a mask of zeros; *first* is its first byte."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + bytes(4) + payload
    if size < 65536:
        return bytes((first, 0xFE)) + size.to_bytes(2, "big") + bytes(4) + payload
    return bytes((first, 0xFF)) + size.to_bytes(8, "big") + bytes(4) + payload


def hexa(text: str) -> bytes:
    return bytes.fromhex(text)


def offers(*values: str) -> Any:
    """The offers of a client's Sec-WebSocket-Extensions fields."""
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        *(("Sec-WebSocket-Extensions", value) for value in values),
    ]
    return check_handshake(request_head("GET", "/", fields)).extensions


def inflated(inflater: Inflater, payload: bytes, ends: bool = True) -> bytes:
    inflater.feed(payload, ends)
    return b"".join(iter(inflater.inflate, None))


def no_pause() -> None:
    """Nobody waits."""


# --- what is agreed

SERVER_12 = "permessage-deflate; server_max_window_bits=12"
BOTH_12 = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"

ACCEPTED: list[tuple[str, str]] = [
    ("permessage-deflate", SERVER_12),
    ("permessage-deflate; client_max_window_bits", BOTH_12),  # Chromium, Firefox
    ("permessage-deflate; client_max_window_bits=15", BOTH_12),
    ("permessage-deflate; client_max_window_bits=12", BOTH_12),
    ("permessage-deflate; client_max_window_bits=10", f"{SERVER_12}; client_max_window_bits=10"),
    ("permessage-deflate; client_max_window_bits=8", f"{SERVER_12}; client_max_window_bits=8"),
    ("permessage-deflate; server_max_window_bits=15", SERVER_12),
    ("permessage-deflate; server_max_window_bits=9", "permessage-deflate; server_max_window_bits=9"),
    ('permessage-deflate; server_max_window_bits="10"', "permessage-deflate; server_max_window_bits=10"),
    (r'permessage-deflate; server_max_window_bits="1\1"', "permessage-deflate; server_max_window_bits=11"),
    ("permessage-deflate; server_no_context_takeover", f"{SERVER_12}; server_no_context_takeover"),
    ("permessage-deflate; client_no_context_takeover", f"{SERVER_12}; client_no_context_takeover"),
    (
        "permessage-deflate;client_no_context_takeover;server_no_context_takeover ; client_max_window_bits = 9",
        f"{SERVER_12}; client_max_window_bits=9; server_no_context_takeover; client_no_context_takeover",
    ),
    # several offers, the client's favourite first: the first acceptable one
    ("permessage-deflate; server_max_window_bits=10, permessage-deflate", f"{SERVER_12[:-1]}0"),
    ("permessage-deflate; server_max_window_bits=8, permessage-deflate", SERVER_12),
    ("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", BOTH_12),
    ('mux; max-channels="4"; flow-control, permessage-deflate', SERVER_12),
    (", ,permessage-deflate ,", SERVER_12),
    ("permessage-deflate; unheard=of, permessage-deflate; also, permessage-deflate", SERVER_12),
]

DECLINED: list[str] = [
    "",
    "deflate-frame",
    "Permessage-Deflate",
    "permessage-bzip2",
    *(
        f"permessage-deflate; {parameter}"
        for parameter in (
            "unknown",
            "server_max_window_bits",  # a value is needed
            *(f"server_max_window_bits={value}" for value in ("7", "16", "08", "abc", "0", "-9", "+9", "9.0", "1_0")),
            "server_max_window_bits=8",  # zlib cannot
            *(f"client_max_window_bits={value}" for value in ("7", "16", "08", "abc", "0", "-9")),
            'client_max_window_bits="x"',
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            'client_no_context_takeover="client_no_context_takeover"',
            "server_max_window_bits=10; server_max_window_bits=10",
            "client_max_window_bits; client_max_window_bits=10",
            "client_no_context_takeover; client_no_context_takeover",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; SERVER_MAX_WINDOW_BITS=10",
        )
    ),
]


@pytest.mark.parametrize(("offer", "answer"), ACCEPTED)
def test_accepted(offer, answer):
    agreement = negotiate(offers(offer))
    assert agreement is not None
    assert agreement.answer == answer


@pytest.mark.parametrize("offer", DECLINED)
def test_declined(offer):
    assert negotiate(offers(offer)) is None
    agreement = negotiate(offers(f"{offer}, permessage-deflate; server_max_window_bits=11"))  # the next one's turn
    assert agreement == Agreement(server_max_window_bits=11)


def test_several_fields_are_one_list():
    assert negotiate(offers("a; b", "permessage-deflate; server_max_window_bits=99", "permessage-deflate")) is not None


@given(st.lists(st.sampled_from(ACCEPTED + [(offer, "") for offer in DECLINED if offer]), min_size=1, max_size=4))
def test_the_order_of_offers_decides(several):
    agreement = negotiate(offers(", ".join(offer for offer, _ in several)))
    expected = next((answer for _, answer in several if answer), "")
    assert (agreement.answer if agreement else "") == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"client_max_window_bits": True},
        {"client_max_window_bits": 9},
        {"server_max_window_bits": 9},
        {"server_no_context_takeover": True, "client_no_context_takeover": True, "client_max_window_bits": 15},
    ],
)
def test_websockets_takes_our_answer(parameters):
    factory = oracle.ClientPerMessageDeflateFactory(**parameters)
    offer = factory.get_request_params()
    value = "; ".join(["permessage-deflate", *(f"{name}={said}" if said else name for name, said in offer)])
    agreement = negotiate(offers(value))
    assert agreement is not None
    answer = [tuple(one.split("=")) if "=" in one else (one, None) for one in agreement.answer.split("; ")[1:]]
    theirs = factory.process_response_params(answer, [])
    assert theirs.remote_max_window_bits == agreement.server_max_window_bits
    assert theirs.local_max_window_bits == agreement.client_max_window_bits
    assert theirs.remote_no_context_takeover == agreement.server_no_context_takeover
    assert theirs.local_no_context_takeover == agreement.client_no_context_takeover


# --- payloads

HELLO = hexa("f248cdc9c90700")
EXAMPLES: list[tuple[str, list[bytes], list[str]]] = [  # RFC 7692 §7.2.3, the client's frames unmasked there
    ("one message", [b"\xc1\x07" + HELLO], ["Hello"]),
    ("in fragments", [hexa("4103f248cd"), hexa("8004c9c90700")], ["Hello"]),
    ("sharing the window", [b"\xc1\x07" + HELLO, hexa("c105f200110000")], ["Hello", "Hello"]),
    ("a block without compression", [hexa("c10b000500faff48656c6c6f00")], ["Hello"]),
    ("a block with BFINAL", [hexa("c108f348cdc9c9070000")], ["Hello"]),
    ("two blocks", [hexa("c10df24805000000ffffcac9c90700")], ["Hello"]),
    ("nothing", [hexa("c10100")], [""]),
]


def masked(served: bytes) -> bytes:
    """A frame of the RFC's as a client sends it: its mask is of zeros."""
    return bytes((served[0], served[1] | 0x80)) + bytes(4) + served[2:]


@pytest.mark.parametrize(("frames", "messages"), [case[1:] for case in EXAMPLES], ids=[case[0] for case in EXAMPLES])
def test_examples_of_the_rfc(frames, messages):
    wire = b"".join(map(masked, frames))
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))], [wire + frame(FIN | TEXT, b"tail")]):
        protocol = WebSocketProtocol(LIMIT, Agreement())
        got = list(received(protocol, pieces))
        assert got == messages + ["tail"] * (len(pieces[0]) > len(wire))
        assert (protocol.state, protocol.fault) == (State.OPEN, None)


def received(protocol: WebSocketProtocol, pieces: list[bytes]) -> Iterator[str | bytes]:
    for piece in pieces:
        protocol.feed(piece)
        while (message := protocol.next_message()) is not None:
            yield message


def test_our_payloads_are_those_of_the_rfc():
    deflater = Deflater(Agreement())
    assert deflater.deflate(b"Hello", True, no_pause) == HELLO
    assert deflater.deflate(b"Hello", True, no_pause) == hexa("f200110000")  # shares the window
    assert deflater.deflate(b"", True, no_pause) == b"\x00"
    assert deflater.deflate(b"", True, no_pause) == b"\x00"
    forgetful = Deflater(Agreement(server_no_context_takeover=True))
    assert [forgetful.deflate(b"Hello", True, no_pause) for _ in range(2)] == [HELLO, HELLO]


def test_a_fragment_can_be_inflated_when_it_has_come():
    deflater, inflater = Deflater(Agreement()), Inflater(Agreement())
    for _ in range(2):
        for part in (b"Hello", b"", b"Hello again", os.urandom(1000)):
            assert inflated(inflater, deflater.deflate(part, False, no_pause), ends=False) == part
        assert inflated(inflater, deflater.deflate(b"", True, no_pause)) == b""


def test_bfinal_and_what_comes_behind():
    final = zlib.compressobj(9, zlib.DEFLATED, -15)
    whole = final.compress(b"one ") + final.flush(zlib.Z_FINISH)
    inflater = Inflater(Agreement())
    assert inflated(inflater, whole + whole + b"\x00") == b"one one "
    assert inflated(inflater, HELLO) == b"Hello"
    assert inflated(inflater, b"\x03\x00" * 20_000 + b"\x00") == b""  # empty final blocks: no quadratic time, no stack


def test_pauses_come_between_pieces():
    pauses: list[int] = []
    deflater = Deflater(Agreement())
    payload = deflater.deflate(bytearray(b"x" * (5 * PIECE + 1)), True, lambda: pauses.append(1))
    assert len(pauses) == 6
    assert inflated(Inflater(Agreement()), payload) == b"x" * (5 * PIECE + 1)
    deflater.deflate(b"x" * PIECE, True, lambda: pytest.fail("small enough"))


def test_a_message_given_up_in_a_pause_leaves_no_trace():
    deflater, inflater = Deflater(Agreement()), Inflater(Agreement())
    assert inflated(inflater, deflater.deflate(b"abcdefgh" * 10, True, no_pause)) == b"abcdefgh" * 10

    def interrupt() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        deflater.deflate(b"12345678" * PIECE, True, interrupt)
    assert inflated(inflater, deflater.deflate(b"12345678" * 10, True, no_pause)) == b"12345678" * 10


@pytest.mark.parametrize("window", [9, 12])
def test_no_distance_is_larger_than_the_window(window):
    """What repeats farther back than the window must not be referred to: a small inflater would not have it."""
    far = os.urandom(1 << window) * 4
    payload = Deflater(Agreement(server_max_window_bits=window)).deflate(far, True, no_pause)
    assert zlib.decompressobj(-window).decompress(payload + TAIL) == far


def test_contexts_are_made_when_used_and_kept_small():
    def held(make: Callable[[], Any]) -> float:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        keep = [make() for _ in range(50)]
        used = (tracemalloc.get_traced_memory()[0] - before) / len(keep)
        tracemalloc.stop()
        return used

    def deflating() -> Deflater:
        deflater = Deflater(Agreement())
        deflater.deflate(b"x" * 100, True, no_pause)
        return deflater

    assert held(lambda: (Deflater(Agreement()), Inflater(Agreement()))) < 400
    assert held(deflating) < 48_000  # as traced, zlib's own allocations included


# --- what must not be believed


@cache
def bomb() -> bytes:
    """256 MiB of zeros, as one message's payload."""
    deflating, zeros = zlib.compressobj(6, zlib.DEFLATED, -12), bytes(1 << 20)
    payload = b"".join(deflating.compress(zeros) for _ in range(256)) + deflating.flush(zlib.Z_SYNC_FLUSH)
    assert len(payload) < 1 << 20
    return payload[: -len(TAIL)]


def test_inflating_is_bounded_however_large_the_bomb():
    inflater = Inflater(Agreement())
    inflater.feed(bomb(), True)
    sizes = [len(inflater.inflate() or b"") for _ in range(100)]
    assert max(sizes) <= PIECE
    assert sum(sizes) > 100 * PIECE // 2


@pytest.mark.parametrize("size", [1, SLICE, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
@pytest.mark.parametrize("noise", [False, True])
def test_every_size_comes_back(size, noise):
    data = os.urandom(size) if noise else b"ab" * (size // 2) + b"c" * (size % 2)
    deflater, inflater = Deflater(Agreement()), Inflater(Agreement())
    for _ in range(3):
        assert inflated(inflater, deflater.deflate(data, True, no_pause)) == data


DAMAGED: list[tuple[str, bytes]] = [
    ("a reserved block type", b"\x07"),
    ("a stored block whose lengths differ", b"\x00\x05\x00\x00\x00Hello"),
    ("a distance too far back", hexa("f200110000")),
    ("not deflate at all", b"\xff" * 20),
    ("zlib's own header", zlib.compress(b"Hello" * 10)),
]


@pytest.mark.parametrize("payload", [case[1] for case in DAMAGED], ids=[case[0] for case in DAMAGED])
def test_damaged_data_closes_with_1007(payload):
    for pieces in ([frame(FIN | RSV1 | TEXT, payload)], [frame(RSV1 | BINARY, payload), frame(FIN, b"")]):
        protocol = WebSocketProtocol(LIMIT, Agreement())
        assert list(received(protocol, pieces)) == []
        assert (protocol.state, protocol.close_code) == (State.CLOSED, 1007)
    with pytest.raises(PeerError, match="compressed data"):
        inflated(Inflater(Agreement()), payload)


NOT_THERE: list[tuple[str, bytes, bool]] = [  # RFC 7692 §6.1; and whether it is wrong only where deflate is agreed
    ("RSV1 not agreed", frame(FIN | RSV1 | TEXT, HELLO), False),
    ("RSV1 on a ping", frame(FIN | RSV1 | PING), True),
    ("RSV1 on a pong", frame(FIN | RSV1 | PONG, b"x"), True),
    ("RSV1 on a Close", frame(FIN | RSV1 | CLOSE), True),
    ("RSV1 on a continuation", frame(RSV1 | TEXT, HELLO[:3]) + frame(FIN | RSV1, HELLO[3:]), True),
    ("RSV1 on a continuation of a plain message", frame(TEXT, b"a") + frame(FIN | RSV1, HELLO), True),
    ("RSV1 on a continuation of nothing", frame(FIN | RSV1, HELLO), True),
    ("RSV2 as well", frame(FIN | RSV1 | 0x20 | TEXT, HELLO), True),
    ("RSV3", frame(FIN | 0x10 | TEXT, b"a"), True),
    ("a compressed message inside another", frame(RSV1 | TEXT, HELLO[:3]) + frame(FIN | RSV1 | TEXT, HELLO), True),
    ("a continuation of no compressed message", frame(FIN | RSV1 | TEXT, HELLO) + frame(FIN, b"a"), True),
]


@pytest.mark.parametrize(("data", "agreed"), [case[1:] for case in NOT_THERE], ids=[case[0] for case in NOT_THERE])
def test_the_bit_where_it_must_not_be(data, agreed):
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        protocol = WebSocketProtocol(LIMIT, Agreement() if agreed else None)
        list(received(protocol, pieces))
        assert (protocol.state, protocol.close_code) == (State.CLOSED, 1002)


def test_the_limit_is_of_what_it_inflates_to():
    for limit in (1, 100, PIECE, PIECE + 1, 3 * PIECE):
        protocol = WebSocketProtocol(limit, Agreement(client_no_context_takeover=True))
        fits = Deflater(Agreement(server_no_context_takeover=True)).deflate(b"x" * limit, True, no_pause)
        noise = os.urandom(limit)
        stored = Deflater(Agreement(server_no_context_takeover=True)).deflate(noise, True, no_pause)
        assert len(stored) > limit  # and yet no message is too big
        wire = [frame(FIN | RSV1 | BINARY, payload) for payload in (fits, stored, fits)]
        assert list(received(protocol, wire)) == [b"x" * limit, noise, b"x" * limit]
        protocol.feed(frame(FIN | RSV1 | BINARY, Deflater(Agreement()).deflate(b"x" * (limit + 1), True, no_pause)))
        assert protocol.next_message() is None
        assert (protocol.close_code, protocol.close_reason) == (1009, "the message is too big")
    protocol = WebSocketProtocol(100, Agreement())
    protocol.feed(frame(FIN | BINARY, b"x" * 101)[:8])  # a plain message is judged by its header, deflate or not
    assert (protocol.next_message(), protocol.close_code) == (None, 1009)


def test_a_bomb_is_cut_with_little_memory():
    payload = bomb()
    protocol = WebSocketProtocol(16 << 20, Agreement())
    tracemalloc.start()
    for start in range(0, len(payload), PIECE):
        wire = frame(RSV1 | BINARY if not start else CONTINUATION, payload[start : start + PIECE])
        protocol.feed(wire)
        assert protocol.next_message() is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert protocol.close_code == 1009
    assert peak < 24 << 20
    assert protocol.held() == 0


def test_text_is_judged_after_inflating():
    for text, good in (("é☃𝄞" * 30_000).encode(), True), (b"a" * 100_000 + b"\xff", False), (b"\xc3", False):
        protocol = WebSocketProtocol(LIMIT, Agreement())
        protocol.feed(frame(FIN | RSV1 | TEXT, Deflater(Agreement()).deflate(text, True, no_pause)))
        assert protocol.next_message() == (text.decode() if good else None)
        assert protocol.close_code == (None if good else 1007)
    protocol = WebSocketProtocol(LIMIT, Agreement())
    protocol.feed(
        frame(RSV1 | TEXT, Deflater(Agreement()).deflate(b"a\xff", False, no_pause))
    )  # at its first wrong byte
    assert (protocol.next_message(), protocol.close_code) == (None, 1007)


# --- choosing


def test_what_is_compressed():
    protocol = WebSocketProtocol(LIMIT, Agreement())
    short, long = "x" * (LEAST_DEFLATED - 1), "x" * LEAST_DEFLATED

    def bits(message: Any, **how: Any) -> int:
        return bytes(protocol.message(message, **how)[0])[0]

    assert (bits(short), bits(long), bits(short.encode()), bits(long.encode())) == (0x81, 0xC1, 0x82, 0xC2)
    assert (bits(short, compress=True), bits(long, compress=False), bits("", compress=True)) == (0xC1, 0x81, 0xC1)
    plain = WebSocketProtocol(LIMIT)
    assert [bytes(plain.message(long, compress=how)[0])[0] for how in (None, True, False)] == [0x81] * 3


@pytest.mark.parametrize(("compress", "first"), [(None, 0x42), (True, 0x42), (False, 0x02)])
def test_fragments(compress, first):
    protocol = WebSocketProtocol(LIMIT, Agreement())
    for _ in range(2):
        frames = [b"".join(protocol.fragment(b"x" * 100, compress)) for _ in range(3)]
        end = b"".join(protocol.end_fragments())
        assert [one[0] for one in (*frames, end)] == [first, 0x00, 0x00, 0x80]
        assert end == (b"\x80\x00" if compress is False else b"\x80\x01\x00")
    protocol.fragment("a")
    with pytest.raises(ApplicationError):
        protocol.message("b")
    with pytest.raises(ApplicationError):
        protocol.fragment(b"b")


# --- messages in pieces


def test_pieces():
    protocol = WebSocketProtocol(LIMIT, Agreement())
    assert protocol.next_piece() is None
    protocol.feed(frame(TEXT, "aé".encode()[:2]))
    assert protocol.next_piece() == ("a", False)
    assert protocol.next_piece() is None
    protocol.feed(frame(CONTINUATION, "é".encode()[1:]))
    assert protocol.next_piece() == ("é", False)
    protocol.feed(frame(FIN | PING, b"p") + frame(FIN, b"") + frame(FIN | BINARY, b"next") + frame(FIN | TEXT))
    assert protocol.next_piece() == ("", True)
    assert protocol.next_piece() == (b"next", True)
    assert protocol.next_piece() == ("", True)
    assert protocol.next_piece() is None
    assert protocol.take_owed() == [b"\x8a\x01p"]


def test_what_was_gathered_comes_first_and_what_is_left_can_be_gathered():
    protocol = WebSocketProtocol(LIMIT)
    protocol.feed(frame(TEXT, b"abc\xc3"))
    assert protocol.next_message() is None
    assert protocol.held() == 4
    assert protocol.next_piece() == ("abc", False)
    assert protocol.held() == 1
    protocol.feed(frame(FIN, b"\xa9d"))
    assert protocol.next_message() == "éd"
    assert protocol.held() == 0


def test_a_compressed_message_in_pieces():
    text = "é☃𝄞" * 100_000
    protocol = WebSocketProtocol(LIMIT, Agreement())
    protocol.feed(frame(FIN | RSV1 | TEXT, Deflater(Agreement()).deflate(text.encode(), True, no_pause)))
    pieces, ends = [], False
    while not ends:
        piece, ends = protocol.next_piece()  # type: ignore[misc]
        pieces.append(piece)
        assert len(piece.encode()) < PIECE + 4
    assert len(pieces) > 10
    assert "".join(pieces) == text


def test_the_limit_is_of_all_pieces_together():
    protocol = WebSocketProtocol(10)
    protocol.feed(frame(BINARY, b"x" * 6))
    assert protocol.next_piece() == (b"x" * 6, False)
    protocol.feed(frame(CONTINUATION, b"x" * 5)[:6])
    assert (protocol.next_piece(), protocol.close_code) == (None, 1009)


def test_gathering_stops_at_the_most():
    protocol = WebSocketProtocol(LIMIT, Agreement())
    payload = Deflater(Agreement()).deflate(b"x" * 10 * PIECE, True, no_pause)
    protocol.feed(frame(FIN | RSV1 | BINARY, payload))
    assert protocol.next_message(2 * PIECE) is None
    assert 2 * PIECE <= protocol.held() <= 3 * PIECE
    assert protocol.next_message() == b"x" * 10 * PIECE


def test_closing_inside_a_compressed_message_forgets_it():
    protocol = WebSocketProtocol(LIMIT, Agreement())
    protocol.feed(frame(RSV1 | BINARY, Deflater(Agreement()).deflate(b"x" * 10 * PIECE, False, no_pause)))
    assert protocol.next_piece() is not None
    protocol.close()
    protocol.feed(frame(FIN, HELLO) + frame(FIN | RSV1 | TEXT, b"\xff\xff") + frame(FIN | CLOSE, b"\x03\xe8"))
    assert protocol.next_message() is None
    assert (protocol.state, protocol.fault) == (State.CLOSED, None)


# --- oracles

MESSAGES = st.lists(
    st.one_of(
        st.text(max_size=100),
        st.binary(max_size=100),
        st.sampled_from(["", b"", "abc" * 2000, b"\0" * 70_000, "é☃" * 40_000]),
        st.integers(1, 70_000).map(os.urandom),
    ),
    max_size=6,
)
AGREEMENTS = st.builds(Agreement, st.integers(9, 12), st.integers(8, 15), st.booleans(), st.booleans())
CUTS = st.lists(st.integers(0, 1 << 20), max_size=8)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]


def as_bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def theirs(agreement: Agreement, **settings: Any) -> oracle.PerMessageDeflate:
    """websockets' extension as the client of *agreement* has it."""
    return oracle.PerMessageDeflate(
        remote_no_context_takeover=agreement.server_no_context_takeover,
        local_no_context_takeover=agreement.client_no_context_takeover,
        remote_max_window_bits=agreement.server_max_window_bits,
        local_max_window_bits=max(agreement.client_max_window_bits, 9),
        compress_settings=settings,
    )


@given(MESSAGES, AGREEMENTS, st.integers(0, 9), CUTS, CUTS)
def test_we_understand_websockets(messages, agreement, level, fragments, cuts):
    extension, wire = theirs(agreement, level=level), b""
    for message in messages:
        parts = split(as_bytes(message), fragments)
        for number, part in enumerate(parts):
            opcode = CONTINUATION if number else TEXT if isinstance(message, str) else BINARY
            made = extension.encode(
                websockets.frames.Frame(websockets.frames.Opcode(opcode), part, number == len(parts) - 1)
            )
            wire += frame((FIN if made.fin else 0) | (RSV1 if made.rsv1 else 0) | opcode, bytes(made.data))
            wire += frame(FIN | PONG, b"between")
    protocol = WebSocketProtocol(LIMIT, agreement)
    assert list(received(protocol, split(wire, cuts))) == messages
    assert protocol.state is State.OPEN


@given(MESSAGES, AGREEMENTS, st.sampled_from([None, True, False]), st.booleans(), CUTS)
def test_websockets_understands_us(messages, agreement, compress, fragmented, cuts):
    protocol, extension = WebSocketProtocol(LIMIT, agreement), theirs(agreement)
    peer = websockets.protocol.Protocol(websockets.protocol.CLIENT, max_size=None)
    peer.extensions = [extension]
    got: list[bytes] = []
    for message in messages:
        wire = b""
        if fragmented:
            for part in split(as_bytes(message), cuts):
                wire += b"".join(protocol.fragment(part, compress))
            wire += b"".join(protocol.end_fragments())
        else:
            wire = b"".join(protocol.message(message, compress))
        peer.receive_data(wire)
        got.append(b"".join(bytes(one.data) for one in peer.events_received()))
    assert peer.parser_exc is None
    assert got == [as_bytes(message) for message in messages]


def wsproto_client(agreement: Agreement) -> wsproto.connection.Connection:
    extension = wsproto.extensions.PerMessageDeflate(
        agreement.client_no_context_takeover,
        max(agreement.client_max_window_bits, 9),
        agreement.server_no_context_takeover,
        agreement.server_max_window_bits,
    )
    extension._enabled = True
    return wsproto.connection.Connection(wsproto.ConnectionType.CLIENT, [extension])


@given(MESSAGES, AGREEMENTS, CUTS)
def test_wsproto_and_we_understand_each_other(messages, agreement, cuts):
    client, protocol = wsproto_client(agreement), WebSocketProtocol(LIMIT, agreement)
    kinds = {str: wsproto.events.TextMessage, bytes: wsproto.events.BytesMessage}
    wire = b"".join(client.send(kinds[type(message)](data=message)) for message in messages)
    assert list(received(protocol, split(wire, cuts))) == messages
    got: list[str | bytes] = []
    for message in messages:
        parts: list[Any] = []
        for piece in split(b"".join(protocol.message(message)), cuts):
            client.receive_data(piece)
            parts += [event.data for event in client.events()]
        got.append(type(message)().join(parts))
    assert got == messages


@given(AGREEMENTS, st.binary(max_size=300), st.booleans(), CUTS)
def test_any_payload_is_a_message_or_a_fault_however_it_is_split(agreement, payload, text, cuts):
    outcomes = []
    wire = frame(FIN | RSV1 | (TEXT if text else BINARY), payload) + frame(FIN | PING)
    for pieces in ([wire], split(wire, cuts)):
        protocol = WebSocketProtocol(1000, agreement)
        outcomes.append((list(received(protocol, pieces)), protocol.close_code))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] in (None, 1007, 1009)
