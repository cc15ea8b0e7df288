"""HTTP/2 by the letter: the cases of h2spec's strict set, under its numbers, over cleartext and TLS and both engines.

The table is our own, from RFC 9113 and 7541 and from the rules of RFC 7540 that 9113 has dropped: "7540" in a comment
marks those, and the "http2" numbers are the sections of RFC 7540. It asks for more than h2spec where the RFC does: a
connection error is a GOAWAY with that code and then the close, a response is whole, and after a stream error the
connection works on. BEYOND has what h2spec leaves out. Each case is sent twice: a frame a segment, and all at once.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from http2_wire import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
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
    Wire,
    raw_frame,
)
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame

from tests.conftest import Authority, Gate, StartGate

Make = Callable[[Wire], bytes]
Verdict = Callable[[Wire], None]  # what must follow; AssertionError


class Await(NamedTuple):
    """A step that sends nothing."""

    what: Verdict


Step = bytes | Make | Await
Fields = list[tuple[str, str]]


class Case(NamedTuple):
    number: str
    title: str
    steps: list[Step]
    then: Verdict
    greeted: bool = True  # the steps come after the handshake


class Server(NamedTuple):
    address: tuple[str, int] | str
    tls: bool
    engine: str


# Requests. A scheme is the connection's own.

GET: Fields = [(":method", "GET"), (":scheme", ""), (":path", "/"), (":authority", "localhost")]
POST: Fields = [(":method", "POST"), *GET[1:]]
HEAD: Fields = [(":method", "HEAD"), *GET[1:]]
METHOD, SCHEME, PATH, AUTHORITY = ([field] for field in GET)
LARGE: Fields = [("x-large", "x" * 4000)]


# Field blocks (RFC 7541)


def string(text: str, huffman: bool = False) -> bytes:
    """A string literal of up to 126 octets or 127 + 2^14 (§5.2)."""
    octets = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text.encode()) if huffman else text.encode()
    return integer(0x80 if huffman else 0, 7, len(octets)) + octets


def integer(pattern: int, bits: int, number: int) -> bytes:
    """An integer behind a representation's *pattern*, with a prefix of that many *bits* (§5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([pattern | number])
    octets, number = bytearray([pattern | most]), number - most
    while number > 127:
        octets.append(0x80 | number & 127)
        number >>= 7
    return bytes([*octets, number])


INCREMENTAL, WITHOUT, NEVER = (0x40, 6), (0x00, 4), (0x10, 4)  # indexing: the pattern, and the bits of its index (§6.2)
USER_AGENT = 58  # in the static table


def literal(indexing: tuple[int, int], name: str | int, value: str, huffman: bool = False) -> bytes:
    named = integer(*indexing, name) if isinstance(name, int) else integer(*indexing, 0) + string(name, huffman)
    return named + string(value, huffman)


def indexed(index: int) -> bytes:
    return integer(0x80, 7, index)


def table_size(size: int) -> bytes:
    return integer(0x20, 5, size)


def huffman_value(octets: bytes) -> bytes:
    """A field x-test whose value claims to be Huffman-coded."""
    return literal(WITHOUT, "x-test", "")[:-1] + integer(0x80, 7, len(octets)) + octets


def bits(text: str) -> bytes:
    return int(text.replace(" ", ""), 2).to_bytes(len(text.replace(" ", "")) // 8, "big")


def block(wire: Wire, fields: Fields) -> bytes:
    """Literals without indexing: no state, so a block can be sent twice, or cut."""
    return b"".join(
        literal(WITHOUT, name, value or wire.scheme if name == ":scheme" else value) for name, value in fields
    )


# Frames

WHOLE = END_STREAM | END_HEADERS


def headers(
    stream_id: int, fields: Fields, flags: int = WHOLE, before: bytes = b"", after: bytes = b"", padding: int = -1
) -> Make:
    """HEADERS: the block of *fields* with octets *before* and *after*."""

    def make(wire: Wire) -> bytes:
        payload = before + block(wire, fields) + after
        if flags & PADDED:
            payload = bytes([padding]) + payload + bytes(padding)
        return raw_frame(HEADERS, flags, stream_id, payload)

    return make


def continuation(stream_id: int, fields: Fields, flags: int = END_HEADERS) -> Make:
    return lambda wire: raw_frame(CONTINUATION, flags, stream_id, block(wire, fields))


def split(*ends: int) -> list[Step]:
    """A GET on stream 1 as HEADERS and CONTINUATIONs, cut where told."""

    def piece(start: int, end: int | None, flags: int) -> Make:
        type_ = HEADERS if flags & END_STREAM else CONTINUATION
        return lambda wire: raw_frame(type_, flags, 1, block(wire, GET)[start:end])

    bounds = zip((0, *ends), (*ends, None), strict=True)
    return [
        piece(start, end, (0 if number else END_STREAM) | (END_HEADERS if end is None else 0))
        for number, (start, end) in enumerate(bounds)
    ]


def data(stream_id: int, content: bytes = b"test", flags: int = END_STREAM) -> bytes:
    return raw_frame(DATA, flags, stream_id, content)


def dependency(stream_id: int, weight: int = 255, exclusive: bool = False) -> bytes:
    return (stream_id | exclusive << 31).to_bytes(4, "big") + bytes([weight])


def priority(stream_id: int, depends_on: int = 0, weight: int = 255, exclusive: bool = False) -> bytes:
    return raw_frame(PRIORITY, 0, stream_id, dependency(depends_on, weight, exclusive))


def rst_stream(stream_id: int, code: int = CANCEL) -> bytes:
    return raw_frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def settings(*pairs: tuple[int, int]) -> bytes:
    """In this order, and twice if told so."""
    payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
    return raw_frame(SETTINGS, 0, 0, payload)


HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)


def window_update(stream_id: int, increment: int) -> bytes:
    return raw_frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def ping(opaque: bytes, flags: int = 0, stream_id: int = 0) -> bytes:
    return raw_frame(PING, flags, stream_id, opaque)


def goaway(code: int, stream_id: int = 0) -> bytes:
    return raw_frame(GOAWAY, 0, stream_id, bytes(4) + code.to_bytes(4, "big"))


def unknown() -> bytes:
    return raw_frame(0x16, 0, 0, bytes(8))


def malformed(number: str, title: str, fields: Fields) -> Case:
    """A request that is answered by a stream error PROTOCOL_ERROR."""
    return Case(number, title, [headers(1, fields)], stream_error(PROTOCOL_ERROR))


# Steps that await something


def acknowledged(count: int) -> Await:
    """So many SETTINGS ACKs, that of the handshake among them."""
    return Await(lambda wire: wire.until(lambda: wire.settings_acknowledged == count, f"{count} SETTINGS ACK"))


def data_lengths(wire: Wire) -> list[int]:
    return [len(frame.data) for frame in wire.frames if isinstance(frame, DataFrame)]


# Verdicts


def connection_error(*codes: int) -> Verdict:
    """GOAWAY with one of the codes, then the close (RFC 9113 §5.4.1)."""

    def verdict(wire: Wire) -> None:
        wire.expect_connection_error(*codes)
        wire.await_close()
        assert not wire.ragged
        assert wire.goaway, f"closed without GOAWAY; received: {wire.frames}"
        assert wire.goaway.error_code in codes

    return verdict


def stream_error(*codes: int, stream_id: int = 1) -> Verdict:
    """RST_STREAM with one of the codes, and the connection works on (§5.4.2); or a connection error in its place."""

    def verdict(wire: Wire) -> None:
        wire.expect_stream_error(stream_id, *codes)
        if wire.stream(stream_id).reset in codes:
            wire.ping_ok()
        else:
            connection_error(*codes)(wire)

    return verdict


def reset_only(code: int) -> Verdict:
    """RST_STREAM on stream 1, and no connection error."""

    def verdict(wire: Wire) -> None:
        wire.until(lambda: wire.stream(1).reset is not None, "RST_STREAM")
        assert wire.stream(1).reset == code
        wire.ping_ok()

    return verdict


def closed(wire: Wire) -> None:
    """Closed, with or without a GOAWAY, and nothing that is no frame (§3.4)."""
    wire.await_close()
    assert not wire.rest, f"not a frame: {wire.rest!r}"
    assert wire.goaway is None or wire.goaway.error_code == PROTOCOL_ERROR


def answered(*parts: str, stream_id: int = 1) -> Verdict:
    """A whole response, with these parts in its content."""

    def verdict(wire: Wire) -> None:
        response = wire.response(stream_id)
        assert response.status == 200
        for part in parts:
            assert part in response.content.decode()

    return verdict


def no_content(wire: Wire) -> None:
    response = wire.response(1)
    assert (response.status, response.content) == (200, b"")


def pong(wire: Wire) -> None:
    wire.ping_ok()


def pong_or_closed(wire: Wire) -> None:
    with suppress(AssertionError):
        wire.ping_ok()
        return
    assert wire.closed, f"neither PING ACK nor close; received: {wire.frames}"


def echoed(*opaque: bytes) -> Verdict:
    """PING ACKs with exactly these octets, and then one more for a PING of ours."""

    def verdict(wire: Wire) -> None:
        wire.ping_ok()
        assert [frame.opaque_data for frame in wire.frames if isinstance(frame, PingFrame)][:-1] == [*opaque]

    return verdict


def sent_lengths(*lengths: int) -> Verdict:
    """DATA frames of these lengths and no more, as the window has it."""

    def verdict(wire: Wire) -> None:
        wire.until(lambda: sum(data_lengths(wire)) >= sum(lengths), f"DATA of {lengths}")
        wire.ping_ok()
        assert data_lengths(wire) == [*lengths]

    return verdict


def settings_first(wire: Wire) -> None:
    wire.until(lambda: bool(wire.frames), "a frame")
    assert isinstance(wire.frames[0], SettingsFrame)
    assert "ACK" not in wire.frames[0].flags


GENERIC = [
    # Starting
    Case("generic/1/1", "client preface", [PREFACE, settings((INITIAL_WINDOW_SIZE, 65_535))], settings_first, False),
    # Streams and multiplexing
    Case("generic/2/1", "PRIORITY on an idle stream", [priority(1), ping(bytes(8))], echoed(bytes(8))),
    Case(
        "generic/2/2",
        "WINDOW_UPDATE on a half-closed (remote) stream",
        [settings((INITIAL_WINDOW_SIZE, 0)), headers(1, GET), window_update(1, 1)],
        sent_lengths(1),
    ),
    Case(
        "generic/2/3",
        "PRIORITY on a half-closed (remote) stream",
        [settings((INITIAL_WINDOW_SIZE, 0)), headers(1, GET), priority(1), window_update(1, 1)],
        sent_lengths(1),
    ),
    Case("generic/2/4", "RST_STREAM on a half-closed (remote) stream", [headers(1, GET), rst_stream(1)], pong),
    Case("generic/2/5", "PRIORITY on a closed stream", [headers(1, GET), Await(answered()), priority(1)], pong),
    # Frames
    Case("generic/3.1/1", "DATA", [headers(1, POST, END_HEADERS), data(1)], answered("POST, 4 octets")),
    Case(
        "generic/3.1/2", "DATA twice", [headers(1, POST, END_HEADERS), data(1, flags=0), data(1)], answered("8 octets")
    ),
    Case(
        "generic/3.1/3",
        "DATA with padding",
        [headers(1, POST, END_HEADERS), data(1, b"\x05test" + bytes(5), END_STREAM | PADDED)],
        answered("4 octets"),
    ),
    Case("generic/3.2/1", "HEADERS", [headers(1, GET)], answered("GET, 0 octets")),
    Case("generic/3.2/2", "HEADERS with padding", [headers(1, GET, WHOLE | PADDED, padding=8)], answered("GET")),
    Case(
        "generic/3.2/3",
        "HEADERS with priority",
        [headers(1, GET, WHOLE | PRIORITY_FLAG, before=dependency(0))],
        answered("GET"),
    ),
    Case("generic/3.3/1", "PRIORITY with weight 1", [priority(1, weight=0), headers(1, GET)], answered()),
    Case("generic/3.3/2", "PRIORITY with weight 256", [priority(1, weight=255), headers(1, GET)], answered()),
    Case("generic/3.3/3", "PRIORITY with a dependency", [priority(3, 1, weight=0), headers(1, GET)], answered()),
    Case("generic/3.3/4", "PRIORITY, exclusive", [priority(1, weight=0, exclusive=True), headers(1, GET)], answered()),
    Case("generic/3.3/5", "PRIORITY of an idle stream, then a lower one", [priority(3), headers(1, GET)], answered()),
    Case("generic/3.4/1", "RST_STREAM", [headers(1, GET, END_HEADERS), rst_stream(1)], pong),
    Case(
        "generic/3.5/1",
        "SETTINGS, each of them",
        [
            settings(
                (HEADER_TABLE_SIZE, 4096),
                (ENABLE_PUSH, 1),
                (MAX_CONCURRENT_STREAMS, 100),
                (INITIAL_WINDOW_SIZE, 65_535),
                (MAX_FRAME_SIZE, 16_384),
                (MAX_HEADER_LIST_SIZE, 100),
            )
        ],
        acknowledged(2).what,
    ),
    Case("generic/3.7/1", "PING", [ping(b"octets01")], echoed(b"octets01")),
    Case("generic/3.8/1", "GOAWAY", [goaway(NO_ERROR)], pong_or_closed),
    Case("generic/3.9/1", "WINDOW_UPDATE on stream 0", [window_update(0, 1)], pong),
    Case("generic/3.9/2", "WINDOW_UPDATE on stream 1", [headers(1, GET), window_update(1, 1)], answered()),
    Case("generic/3.10/1", "CONTINUATION", split(5), answered("GET")),
    Case("generic/3.10/2", "CONTINUATION twice", split(5, 10), answered("GET")),
    # Messages
    Case("generic/4/1", "GET", [headers(1, GET)], answered("GET, 0 octets")),
    Case("generic/4/2", "HEAD", [headers(1, HEAD)], no_content),
    Case("generic/4/3", "POST", [headers(1, POST, END_HEADERS), data(1)], answered("POST, 4 octets")),
    Case(
        "generic/4/4",
        "POST with trailers",
        [headers(1, [*POST, ("trailer", "x-test")], END_HEADERS), data(1, flags=0), headers(1, [("x-test", "ok")])],
        answered("POST, 4 octets"),
    ),
]


# Representations that must be accepted, behind a GET's own (RFC 7541 §6)


def representation(number: str, title: str, after: bytes, *parts: str) -> Case:
    return Case(number, title, [headers(1, GET, after=after)], answered(*parts))


AGENT, TEST = "User-Agent: h2", "X-Test: h2"
GENERIC += [
    representation("generic/5/1", "indexed", indexed(USER_AGENT), "User-Agent: ,"),
    representation("generic/5/2", "incremental, indexed name", literal(INCREMENTAL, USER_AGENT, "h2"), AGENT),
    representation("generic/5/3", "the same, Huffman", literal(INCREMENTAL, USER_AGENT, "h2", True), AGENT),
    representation("generic/5/4", "incremental, new name", literal(INCREMENTAL, "x-test", "h2"), TEST),
    representation("generic/5/5", "the same, Huffman", literal(INCREMENTAL, "x-test", "h2", True), TEST),
    representation("generic/5/6", "without indexing, indexed name", literal(WITHOUT, USER_AGENT, "h2"), AGENT),
    representation("generic/5/7", "the same, Huffman", literal(WITHOUT, USER_AGENT, "h2", True), AGENT),
    representation("generic/5/8", "without indexing, new name", literal(WITHOUT, "x-test", "h2"), TEST),
    representation("generic/5/9", "the same, Huffman", literal(WITHOUT, "x-test", "h2", True), TEST),
    representation("generic/5/10", "never indexed, indexed name", literal(NEVER, USER_AGENT, "h2"), AGENT),
    representation("generic/5/11", "the same, Huffman", literal(NEVER, USER_AGENT, "h2", True), AGENT),
    representation("generic/5/12", "never indexed, new name", literal(NEVER, "x-test", "h2"), TEST),
    representation("generic/5/13", "the same, Huffman", literal(NEVER, "x-test", "h2", True), TEST),
    Case("generic/5/14", "table size update", [headers(1, GET, before=table_size(128))], answered("GET")),
    Case(
        "generic/5/15",
        "table size update twice",
        [headers(1, GET, before=table_size(128) + table_size(4096))],
        answered("GET"),
    ),
]


# Blocks that cannot be decoded (RFC 9113 §4.3, RFC 7541)


def undecodable(number: str, title: str, *, before: bytes = b"", after: bytes = b"") -> Case:
    return Case(number, title, [headers(1, GET, before=before, after=after)], connection_error(COMPRESSION_ERROR))


def too_large_a_table(wire: Wire) -> bytes:
    size = wire.settings.get(HEADER_TABLE_SIZE, 4096) + 1
    return headers(1, GET, before=table_size(size))(wire)


HPACK = [
    undecodable("hpack/2.3.3/1", "indexed, with an index beyond both tables", after=indexed(70)),
    undecodable("hpack/2.3.3/2", "literal, with such an index", after=literal(INCREMENTAL, 70, "")),
    undecodable("hpack/4.2/1", "table size update at the end of the block", after=table_size(1)),
    undecodable("hpack/5.2/1", "Huffman padding of more than 7 bits", after=huffman_value(b"\x49\x50\x9f\xff")),
    undecodable("hpack/5.2/2", "Huffman padding of zeros", after=huffman_value(b"\x49\x50\x90")),
    undecodable(
        "hpack/5.2/3",
        "EOS in a Huffman string",
        after=huffman_value(bits("01001 00101 01000" + "1" * 30 + "01001" + "111111")),
    ),
    undecodable("hpack/6.1/1", "indexed, with index 0", after=indexed(0)),
    Case(
        "hpack/6.3/1",
        "table size update beyond SETTINGS_HEADER_TABLE_SIZE",
        [too_large_a_table],
        connection_error(COMPRESSION_ERROR),
    ),
]


# The sections of RFC 7540


def full_frame(more: int) -> Make:
    """DATA on stream 1 as long as the server lets frames be, and *more*."""
    return lambda wire: data(1, bytes(wire.settings.get(MAX_FRAME_SIZE, 16_384) + more))


def bad_padding(wire: Wire) -> bytes:
    """HEADERS whose padding is longer than the rest of the frame."""
    payload = block(wire, GET)
    return raw_frame(HEADERS, WHOLE | PADDED, 1, bytes([len(payload) + 2]) + payload)


def one_stream_more(wire: Wire) -> bytes:
    """As many streams as the server allows, and one."""
    return b"".join(headers(2 * number + 1, GET)(wire) for number in range(wire.settings[MAX_CONCURRENT_STREAMS] + 1))


def one_stream_refused(wire: Wire) -> None:
    stream_error(PROTOCOL_ERROR, REFUSED_STREAM, stream_id=2 * wire.settings[MAX_CONCURRENT_STREAMS] + 1)(wire)


def push_promise(wire: Wire) -> bytes:
    return raw_frame(PUSH_PROMISE, END_HEADERS, 1, (3).to_bytes(4, "big") + block(wire, GET))


REQUESTED: list[Step] = [headers(1, GET)]
CLOSED: list[Step] = [headers(1, GET), Await(answered())]
RESET: list[Step] = [headers(1, GET, END_HEADERS), rst_stream(1)]
UNFINISHED: list[Step] = [headers(1, GET, END_STREAM)]  # its CONTINUATION is due

HTTP2 = [
    Case("http2/3.5/1", "the preface", [PREFACE, settings((INITIAL_WINDOW_SIZE, 65_535))], settings_first, False),
    Case("http2/3.5/2", "an invalid preface", [b"INVALID CONNECTION PREFACE\r\n\r\n"], closed, False),
    Case("http2/4.1/1", "unknown frame type", [unknown(), ping(bytes(8))], echoed(bytes(8))),
    Case("http2/4.1/2", "undefined flags", [ping(bytes(8), 0x16)], echoed(bytes(8))),
    Case("http2/4.1/3", "reserved bit", [ping(bytes(8), 0x16, 1 << 31)], echoed(bytes(8))),
    Case("http2/4.2/1", "DATA of 2^14 octets", [headers(1, POST, END_HEADERS), full_frame(0)], answered("POST, 16384")),
    Case(
        "http2/4.2/2",
        "DATA beyond SETTINGS_MAX_FRAME_SIZE",
        [headers(1, POST, END_HEADERS), full_frame(1)],
        stream_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "http2/4.2/3",
        "HEADERS beyond SETTINGS_MAX_FRAME_SIZE",
        [headers(1, GET + 5 * LARGE)],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "http2/4.3/1",
        "a block that is cut short",
        [raw_frame(HEADERS, WHOLE, 1, b"\x40")],
        connection_error(COMPRESSION_ERROR),
    ),
    Case(
        "http2/4.3/2",
        "PRIORITY within a block",
        [headers(1, GET, 0), priority(1), continuation(1, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/4.3/3",
        "HEADERS of another stream within a block",
        [headers(1, GET, 0), headers(3, GET), continuation(1, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    # Stream states
    Case("http2/5.1/1", "idle: DATA", [data(1)], stream_error(PROTOCOL_ERROR, STREAM_CLOSED)),
    Case("http2/5.1/2", "idle: RST_STREAM", [rst_stream(1)], connection_error(PROTOCOL_ERROR)),
    Case("http2/5.1/3", "idle: WINDOW_UPDATE", [window_update(1, 100)], connection_error(PROTOCOL_ERROR)),
    Case("http2/5.1/4", "idle: CONTINUATION", [continuation(1, GET)], connection_error(PROTOCOL_ERROR)),
    Case("http2/5.1/5", "half-closed (remote): DATA", [*REQUESTED, data(1)], stream_error(STREAM_CLOSED)),
    Case("http2/5.1/6", "half-closed (remote): HEADERS", [*REQUESTED, headers(1, GET)], stream_error(STREAM_CLOSED)),
    Case(
        "http2/5.1/7",
        "half-closed (remote): CONTINUATION",
        [*REQUESTED, continuation(1, GET)],
        connection_error(STREAM_CLOSED, PROTOCOL_ERROR),
    ),
    # 9113 lets RST_STREAM's sender be answered by nothing; 7540 §5.1 did not
    Case("http2/5.1/8", "closed by RST_STREAM: DATA", [*RESET, data(1)], stream_error(STREAM_CLOSED)),
    Case("http2/5.1/9", "closed by RST_STREAM: HEADERS", [*RESET, headers(1, GET)], stream_error(STREAM_CLOSED)),
    Case(
        "http2/5.1/10",
        "closed by RST_STREAM: CONTINUATION",
        [*RESET, continuation(1, LARGE)],
        connection_error(STREAM_CLOSED, PROTOCOL_ERROR),
    ),
    Case("http2/5.1/11", "closed: DATA", [*CLOSED, data(1)], stream_error(STREAM_CLOSED)),
    Case("http2/5.1/12", "closed: HEADERS", [*CLOSED, headers(1, GET)], connection_error(STREAM_CLOSED)),
    Case(
        "http2/5.1/13",
        "closed: CONTINUATION",
        [*CLOSED, continuation(1, LARGE)],
        connection_error(STREAM_CLOSED, PROTOCOL_ERROR),
    ),
    Case("http2/5.1.1/1", "even stream identifier", [headers(2, GET)], connection_error(PROTOCOL_ERROR)),
    Case(
        "http2/5.1.1/2", "decreasing identifiers", [headers(5, GET), headers(3, GET)], connection_error(PROTOCOL_ERROR)
    ),
    Case(
        "http2/5.1.2/1",
        "one stream more than allowed",
        [settings((INITIAL_WINDOW_SIZE, 0)), one_stream_more],
        one_stream_refused,
    ),
    # 7540: 9113 has no dependencies
    Case(
        "http2/5.3.1/1",
        "HEADERS: a stream that depends on itself",
        [headers(1, GET, WHOLE | PRIORITY_FLAG, before=dependency(1))],
        stream_error(PROTOCOL_ERROR),
    ),
    Case("http2/5.3.1/2", "PRIORITY: the same", [priority(1, 1)], stream_error(PROTOCOL_ERROR)),
    Case("http2/5.4.1/1", "invalid PING: the close", [ping(bytes(8), 0, 3)], Wire.await_close),
    Case("http2/5.4.1/2", "invalid PING: GOAWAY", [ping(bytes(8), 0, 3)], connection_error(PROTOCOL_ERROR)),
    Case("http2/5.5/1", "unknown frame type", [unknown(), ping(bytes(8))], echoed(bytes(8))),
    Case(
        "http2/5.5/2", "unknown frame type within a block", [*UNFINISHED, unknown()], connection_error(PROTOCOL_ERROR)
    ),
    # Frames
    Case("http2/6.1/1", "DATA on stream 0", [data(0)], connection_error(PROTOCOL_ERROR)),
    Case("http2/6.1/2", "DATA on a half-closed (remote) stream", [*REQUESTED, data(1)], stream_error(STREAM_CLOSED)),
    Case(
        "http2/6.1/3",
        "DATA with more padding than frame",
        [headers(1, [*POST, ("content-length", "4")], END_HEADERS), data(1, b"\x06test", END_STREAM | PADDED)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.2/1",
        "HEADERS without END_HEADERS, then PRIORITY",
        [headers(1, GET, 0), priority(1), continuation(1, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.2/2",
        "HEADERS without END_HEADERS, then HEADERS of another stream",
        [headers(1, GET, 0), headers(3, GET), continuation(1, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("http2/6.2/3", "HEADERS on stream 0", [headers(0, GET)], connection_error(PROTOCOL_ERROR)),
    Case("http2/6.2/4", "HEADERS with more padding than frame", [bad_padding], connection_error(PROTOCOL_ERROR)),
    Case("http2/6.3/1", "PRIORITY on stream 0", [priority(0)], connection_error(PROTOCOL_ERROR)),
    Case(
        "http2/6.3/2",
        "PRIORITY of 4 octets",
        [*REQUESTED, raw_frame(PRIORITY, 0, 1, b"\x80\0\0\1")],
        stream_error(FRAME_SIZE_ERROR),
    ),
    Case("http2/6.4/1", "RST_STREAM on stream 0", [rst_stream(0)], connection_error(PROTOCOL_ERROR)),
    Case("http2/6.4/2", "RST_STREAM on an idle stream", [rst_stream(1)], connection_error(PROTOCOL_ERROR)),
    Case(
        "http2/6.4/3",
        "RST_STREAM of 3 octets",
        [*REQUESTED, raw_frame(RST_STREAM, 0, 1, bytes(3))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "http2/6.5/1",
        "SETTINGS ACK of an octet",
        [raw_frame(SETTINGS, ACK, 0, b"\0")],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "http2/6.5/2",
        "SETTINGS on stream 1",
        [raw_frame(SETTINGS, 0, 1, settings((MAX_CONCURRENT_STREAMS, 100))[9:])],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.5/3",
        "SETTINGS of 3 octets",
        [raw_frame(SETTINGS, 0, 0, b"\0\3\0")],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case("http2/6.5.2/1", "ENABLE_PUSH of 2", [settings((ENABLE_PUSH, 2))], connection_error(PROTOCOL_ERROR)),
    Case(
        "http2/6.5.2/2",
        "INITIAL_WINDOW_SIZE of 2^31",
        [settings((INITIAL_WINDOW_SIZE, 1 << 31))],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "http2/6.5.2/3",
        "MAX_FRAME_SIZE of 2^14 - 1",
        [settings((MAX_FRAME_SIZE, (1 << 14) - 1))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.5.2/4",
        "MAX_FRAME_SIZE of 2^24",
        [settings((MAX_FRAME_SIZE, 1 << 24))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("http2/6.5.2/5", "unknown setting", [settings((0xFF, 1)), ping(bytes(8))], echoed(bytes(8))),
    Case(
        "http2/6.5.3/1",
        "the last of two values holds",
        [settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)), acknowledged(2), headers(1, GET)],
        sent_lengths(1),
    ),
    Case("http2/6.5.3/2", "SETTINGS are acknowledged", [settings((ENABLE_PUSH, 0))], acknowledged(2).what),
    Case("http2/6.7/1", "PING", [ping(b"octets01")], echoed(b"octets01")),
    Case("http2/6.7/2", "PING ACK is not answered", [ping(b"octets01", ACK), ping(b"octets02")], echoed(b"octets02")),
    Case("http2/6.7/3", "PING on stream 1", [ping(bytes(8), 0, 1)], connection_error(PROTOCOL_ERROR)),
    Case("http2/6.7/4", "PING of 6 octets", [ping(bytes(6))], connection_error(FRAME_SIZE_ERROR)),
    Case("http2/6.8/1", "GOAWAY on stream 1", [goaway(NO_ERROR, 1)], connection_error(PROTOCOL_ERROR)),
    Case("http2/6.9/1", "WINDOW_UPDATE by 0", [window_update(0, 0)], connection_error(PROTOCOL_ERROR)),
    Case(
        "http2/6.9/2",
        "WINDOW_UPDATE of a stream by 0",
        [headers(1, GET, END_HEADERS), window_update(1, 0)],
        stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.9/3",
        "WINDOW_UPDATE of 3 octets",
        [raw_frame(WINDOW_UPDATE, 0, 0, b"\0\0\1")],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "http2/6.9.1/1",
        "a stream window of 1",
        [settings((INITIAL_WINDOW_SIZE, 1)), acknowledged(2), headers(1, GET)],
        sent_lengths(1),
    ),
    Case(
        "http2/6.9.1/2",
        "the connection's window beyond 2^31 - 1",
        [window_update(0, (1 << 31) - 1), window_update(0, (1 << 31) - 1)],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "http2/6.9.1/3",
        "a stream's window beyond 2^31 - 1",
        [headers(1, GET, END_HEADERS), window_update(1, (1 << 31) - 1), window_update(1, (1 << 31) - 1)],
        reset_only(FLOW_CONTROL_ERROR),
    ),
    Case(
        "http2/6.9.2/1",
        "INITIAL_WINDOW_SIZE widens the windows of open streams",
        [
            settings((INITIAL_WINDOW_SIZE, 0)),
            acknowledged(2),
            headers(1, GET),
            settings((INITIAL_WINDOW_SIZE, 1)),
        ],
        sent_lengths(1),
    ),
    Case(
        "http2/6.9.2/2",
        "a window that is negative",
        [
            settings((INITIAL_WINDOW_SIZE, 3)),
            acknowledged(2),
            headers(1, GET),
            Await(sent_lengths(3)),
            settings((INITIAL_WINDOW_SIZE, 2)),
            acknowledged(3),
            window_update(1, 2),
        ],
        sent_lengths(3, 1),
    ),
    Case(
        "http2/6.9.2/3",
        "INITIAL_WINDOW_SIZE of 2^31",
        [settings((INITIAL_WINDOW_SIZE, 1 << 31))],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "http2/6.10/1",
        "CONTINUATION twice",
        [*UNFINISHED, continuation(1, LARGE, 0), continuation(1, LARGE)],
        answered("GET"),
    ),
    Case(
        "http2/6.10/2",
        "CONTINUATION, then another frame",
        [headers(1, POST, 0), continuation(1, LARGE, 0), data(1)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.10/3",
        "CONTINUATION on stream 0",
        [*UNFINISHED, continuation(0, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.10/4",
        "CONTINUATION behind HEADERS with END_HEADERS",
        [*REQUESTED, continuation(1, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.10/5",
        "CONTINUATION behind CONTINUATION with END_HEADERS",
        [*UNFINISHED, continuation(1, LARGE), continuation(1, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/6.10/6",
        "CONTINUATION behind DATA",
        [headers(1, POST, 0), data(1), continuation(1, LARGE, 0), continuation(0, LARGE)],
        connection_error(PROTOCOL_ERROR),
    ),
    # Error codes
    Case("http2/7/1", "GOAWAY with an unknown code", [goaway(0xFF)], pong_or_closed),
    Case("http2/7/2", "RST_STREAM with an unknown code", [headers(1, POST, END_HEADERS), rst_stream(1, 0xFF)], pong),
    # Messages
    Case(
        "http2/8.1/1",
        "trailers without END_STREAM",
        [headers(1, POST, END_HEADERS), data(1, flags=0), headers(1, [("x-test", "ok")], END_HEADERS)],
        stream_error(PROTOCOL_ERROR),
    ),
    malformed("http2/8.1.2/1", "name in uppercase", [*GET, ("X-TEST", "ok")]),
    malformed("http2/8.1.2.1/1", "unknown pseudo-header field", [*GET, (":test", "ok")]),
    malformed("http2/8.1.2.1/2", "pseudo-header field of a response", [*GET, (":status", "200")]),
    Case(
        "http2/8.1.2.1/3",
        "pseudo-header field in trailers",
        [headers(1, POST, END_HEADERS), data(1, flags=0), headers(1, [(":method", "POST")])],
        stream_error(PROTOCOL_ERROR),
    ),
    malformed("http2/8.1.2.1/4", "pseudo-header field behind another", [("x-test", "ok"), *GET]),
    malformed("http2/8.1.2.2/1", "connection-specific field", [*GET, ("connection", "keep-alive")]),
    malformed("http2/8.1.2.2/2", "TE other than trailers", [*GET, ("trailers", "test"), ("te", "trailers, deflate")]),
    malformed("http2/8.1.2.3/1", "empty :path", [*METHOD, *SCHEME, (":path", ""), *AUTHORITY]),
    malformed("http2/8.1.2.3/2", "no :method", [*SCHEME, *PATH, *AUTHORITY]),
    malformed("http2/8.1.2.3/3", "no :scheme", [*METHOD, *PATH, *AUTHORITY]),
    malformed("http2/8.1.2.3/4", "no :path", [*METHOD, *SCHEME, *AUTHORITY]),
    malformed("http2/8.1.2.3/5", "two of :method", [*GET, *METHOD]),
    malformed("http2/8.1.2.3/6", "two of :scheme", [*GET, *SCHEME]),
    malformed("http2/8.1.2.3/7", "two of :path", [*GET, *PATH]),
    Case(
        "http2/8.1.2.6/1",
        "more content than Content-Length",
        [headers(1, [*POST, ("content-length", "1")], END_HEADERS), data(1)],
        stream_error(PROTOCOL_ERROR),
    ),
    Case(
        "http2/8.1.2.6/2",
        "the same in two frames",
        [headers(1, [*POST, ("content-length", "1")], END_HEADERS), data(1, flags=0), data(1)],
        stream_error(PROTOCOL_ERROR),
    ),
    Case("http2/8.2/1", "PUSH_PROMISE", [push_promise], connection_error(PROTOCOL_ERROR)),
]


# What h2spec leaves out. A number is RFC, section, case.

PRIORITY_UPDATE = 0x10  # RFC 9218 §7.1
NO_RFC7540_PRIORITIES = 9
OPEN: list[Step] = [headers(1, POST, END_HEADERS)]
DYNAMIC = 62  # the newest entry of the dynamic table


def priority_update(prioritized: int, value: bytes = b"u=1", stream_id: int = 0) -> bytes:
    return raw_frame(PRIORITY_UPDATE, 0, stream_id, prioritized.to_bytes(4, "big") + value)


def no_dynamic_table(wire: Wire) -> None:
    """From now on only what is encoded without one is decoded: the server has to say that it obeys (RFC 7541 §4.2)."""
    wire.decoder.max_allowed_table_size = 0


REMEMBERED = literal(INCREMENTAL, "x-test", "h2")
BEYOND = [
    Case(
        "9113/3.4/1", "the preface without SETTINGS", [PREFACE, ping(bytes(8))], connection_error(PROTOCOL_ERROR), False
    ),
    Case("9113/5.1/1", "closed: WINDOW_UPDATE and RST_STREAM", [*CLOSED, window_update(1, 1), rst_stream(1)], pong),
    Case("9113/5.1/2", "closed by RST_STREAM: the same", [*RESET, window_update(1, 1), rst_stream(1)], pong),
    Case(
        "9113/5.1/3",
        "closed by trailers: DATA",
        [*OPEN, data(1, flags=0), headers(1, [("x-test", "ok")]), data(1)],
        stream_error(STREAM_CLOSED),
    ),
    Case("9113/5.1.1/1", "identifiers with gaps", [headers(3, GET), headers(9, GET)], answered(stream_id=9)),
    Case("9113/6.1/1", "DATA of no octets", [*OPEN, data(1, b"")], answered("POST, 0 octets")),
    Case(
        "9113/6.1/2",
        "DATA of nothing but padding",
        [*OPEN, data(1, b"\x03" + bytes(3), WHOLE | PADDED)],
        answered("0 octets"),
    ),
    Case(
        "9113/6.1/3",
        "DATA with PADDED and no octet",
        [*OPEN, data(1, b"", PADDED)],
        connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    ),
    Case(
        "9113/6.2/1",
        "HEADERS with padding and priority",
        [headers(1, GET, WHOLE | PADDED | PRIORITY_FLAG, before=dependency(3), padding=200)],
        answered("GET"),
    ),
    Case("9113/6.5/1", "SETTINGS without any", [settings()], acknowledged(2).what),
    Case("9113/6.7/1", "PING of 9 octets", [ping(bytes(9))], connection_error(FRAME_SIZE_ERROR)),
    Case("9113/6.8/1", "GOAWAY of 7 octets", [raw_frame(GOAWAY, 0, 0, bytes(7))], connection_error(FRAME_SIZE_ERROR)),
    Case(
        "9113/6.8/2", "GOAWAY leaves open streams their end", [*OPEN, goaway(NO_ERROR), data(1)], answered("4 octets")
    ),
    Case(
        "9113/6.9.1/1",
        "DATA beyond the stream's window, of which nothing is read",
        [
            headers(1, [(":method", "POST"), *SCHEME, (":path", "/late"), *AUTHORITY], END_HEADERS),
            5 * data(1, bytes(16_384), 0),
        ],
        stream_error(FLOW_CONTROL_ERROR),
    ),
    Case(
        "9113/6.9.2/1",
        "INITIAL_WINDOW_SIZE widens a stream's window beyond 2^31 - 1",
        [*OPEN, window_update(1, (1 << 31) - 1 - 65_535), settings((INITIAL_WINDOW_SIZE, 65_536))],
        connection_error(FLOW_CONTROL_ERROR),
    ),
    Case("9113/6.10/1", "CONTINUATION behind HEADERS without octets", split(0, 20), answered("GET")),
    Case(
        "9113/8.1.1/1",
        "less content than Content-Length",
        [headers(1, [*POST, ("content-length", "5")], END_HEADERS), data(1)],
        stream_error(PROTOCOL_ERROR),
    ),
    malformed("9113/8.1.1/2", "Content-Length and no content", [*POST, ("content-length", "4")]),
    Case("9113/8.2.2/1", "TE: trailers", [headers(1, [*GET, ("te", "trailers")])], answered()),
    malformed("9113/8.2.2/2", "Transfer-Encoding", [*POST, ("transfer-encoding", "chunked")]),
    malformed("9113/8.3.1/1", ":path without slash", [*METHOD, *SCHEME, (":path", "a"), *AUTHORITY]),
    malformed("9113/8.3.1/2", "Host other than :authority", [*GET, ("host", "other")]),
    malformed("9113/8.5/1", "CONNECT with :scheme and :path", [(":method", "CONNECT"), *GET[1:]]),
    malformed("8441/4/1", ":protocol without CONNECT", [*GET, (":protocol", "websocket")]),
    Case(
        "9218/2.1/1",
        "NO_RFC7540_PRIORITIES of 2",
        [settings((NO_RFC7540_PRIORITIES, 2))],
        connection_error(PROTOCOL_ERROR),
    ),
    Case("9218/7.1/1", "PRIORITY_UPDATE, then the request", [priority_update(1), headers(1, GET)], answered()),
    Case(
        "9218/7.1/2",
        "PRIORITY_UPDATE that cannot be parsed",
        [priority_update(1, b"u=;"), headers(1, GET)],
        answered(),
    ),
    Case("9218/7.1/3", "PRIORITY_UPDATE on stream 1", [priority_update(1, b"", 1)], connection_error(PROTOCOL_ERROR)),
    Case("9218/7.1/4", "PRIORITY_UPDATE of stream 0", [priority_update(0)], connection_error(PROTOCOL_ERROR)),
    Case(
        "9218/7.1/5",
        "PRIORITY_UPDATE of 3 octets",
        [raw_frame(PRIORITY_UPDATE, 0, 0, bytes(3))],
        connection_error(FRAME_SIZE_ERROR),
    ),
    Case(
        "7541/2.3.2/1",
        "a table entry of an earlier stream",
        [headers(1, GET, after=REMEMBERED), headers(3, GET, after=indexed(DYNAMIC))],
        answered("X-Test: h2", stream_id=3),
    ),
    Case(
        "7541/2.3.2/2",
        "a table entry of a malformed request",
        [headers(1, METHOD, after=REMEMBERED), headers(3, GET, after=indexed(DYNAMIC))],
        answered("X-Test: h2", stream_id=3),
    ),
    Case(
        "7541/2.3.2/3",
        "a table entry of trailers that meet a reset stream",
        [
            headers(1, METHOD, END_HEADERS),
            data(1, flags=0),
            headers(1, [], after=REMEMBERED),
            headers(3, GET, after=indexed(DYNAMIC)),
        ],
        answered("X-Test: h2", stream_id=3),
    ),
    Case(
        "7541/4.2/1",
        "HEADER_TABLE_SIZE of 0 is obeyed",
        [settings((HEADER_TABLE_SIZE, 0)), acknowledged(2), Await(no_dynamic_table), headers(1, GET)],
        answered("GET"),
    ),
    Case(
        "7541/4.3/1",
        "table size update to 0 evicts",
        [headers(1, GET, after=REMEMBERED), headers(3, GET, before=table_size(0), after=indexed(DYNAMIC))],
        connection_error(COMPRESSION_ERROR),
    ),
    undecodable("7541/5.1/1", "an index of 70 bits", after=b"\xff" + b"\xff" * 9 + b"\x7f"),
    undecodable("7541/5.2/1", "a string longer than its block", after=literal(WITHOUT, "x-test", "h2")[:-1]),
]

H2SPEC = GENERIC + HPACK + HTTP2
TABLE = H2SPEC + BEYOND


# HTTP/1.1 on the same port: not one octet of it is taken for HTTP/2.

REST = b"Host: a\r\nConnection: close\r\n\r\n"
BESIDE = [
    ("a request", b"GET / HTTP/1.1\r\n" + REST, b"HTTP/1.1 200 "),
    ("an empty line before it", b"\r\nGET / HTTP/1.1\r\n" + REST, b"HTTP/1.1 200 "),
    ("a method like the preface", b"PRI /* HTTP/1.1\r\n" + REST, b"HTTP/1.1 200 "),
    ("a malformed request", b"G@T / HTTP/1.1\r\n" + REST, b"HTTP/1.1 400 "),
    ("another version", b"GET / HTTP/2.0\r\n" + REST, b"HTTP/1.1 505 "),
    ("the beginning of the preface", PREFACE[:16] + REST, b"HTTP/1.1 505 "),
]


# The servers


@pytest.fixture(scope="module", params=["cleartext-h2", "cleartext-ngh2", "tls-h2", "tls-ngh2"])
def server(request: pytest.FixtureRequest, module_gate: StartGate, authority: Authority) -> Server:
    layer, engine = request.param.split("-")
    pytest.importorskip(engine)
    options = ["--http2-engine", engine]
    if layer == "tls":
        certfile, keyfile = authority.issue("localhost")
        options += ["--certfile", certfile, "--keyfile", keyfile]
    else:
        options += ["--h2c"]
    return Server(module_gate("apps:mirror", *options).address, layer == "tls", engine)


@pytest.fixture(scope="module")
def beside(module_gate: StartGate) -> Gate:
    return module_gate("apps:mirror", "--h2c")


# "It MUST terminate either the stream or the connection, as appropriate" (RFC 9113 §6.9.1): nghttp2 has chosen the
# connection.
ARGUED: dict[tuple[str, str], Verdict] = {("ngh2", "http2/6.9.1/3"): connection_error(FLOW_CONTROL_ERROR)}
WAYS = [(case, way) for case in TABLE for way in ("apart", "together") if len(case.steps) > 1 or way == "apart"]


@pytest.mark.parametrize(("case", "way"), WAYS, ids=[f"{case.number} {case.title}-{way}" for case, way in WAYS])
def test_case(server: Server, case: Case, way: str) -> None:
    with Wire(server.address, tls=server.tls, credit=False) as wire:
        if case.greeted:
            wire.handshake()
        take(wire, case.steps, way == "together")
        ARGUED.get((server.engine, case.number), case.then)(wire)


@pytest.mark.parametrize(("octets", "begins"), [case[1:] for case in BESIDE], ids=[case[0] for case in BESIDE])
def test_http1_beside(beside: Gate, octets: bytes, begins: bytes) -> None:
    assert beside.talk(octets).startswith(begins)
    assert beside.talk(*(bytes([octet]) for octet in octets)).startswith(begins)


def test_the_table_is_whole() -> None:
    assert len(H2SPEC) == 147
    assert len({case.number for case in TABLE}) == len(TABLE)


def take(wire: Wire, steps: Iterable[Step], together: bool) -> None:
    waiting = b""
    for step in steps:
        if isinstance(step, Await):
            wire.send(waiting)
            waiting = b""
            step.what(wire)
        else:
            waiting += step if isinstance(step, bytes) else step(wire)
        if not together:
            wire.send(waiting)
            waiting = b""
    wire.send(waiting)
