"""HTTP/2 floods and stalls against a real server: each is cut, is cheap for the server, and nobody else notices.

A case is a function that gives the octets of the attack's n-th step. Every one is thrown twice: step by step, with a
PING between, so that it can be said how many the server took before it cut; and all at once, to see what that costs.
"""

import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from http2_wire import (
    ACK,
    CANCEL,
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
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Wire,
    raw_frame,
)
from test_faults import cpu, sockets

MIB = 1 << 20
MEMORY = 8 * MIB  # what any attack may cost
CPU = 1.0  # seconds
SWEEP = 3.0  # seconds by which a deadline may be exceeded: by the sweep, the clock it is set by, and a busy machine
PRIORITY_UPDATE = 0x10  # RFC 9218 §7.1
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 0x1, 0x4
MAX_WINDOW = 0x7FFF_FFFF

# Field blocks of the static table and of literals that no table keeps, so that any of them may be sent at any time
LOCALHOST = b"\x01\x09localhost"


def literal(name: bytes, value: bytes) -> bytes:
    """A field line that is not indexed (RFC 7541 §6.2.2); both shorter than 127 octets."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def block(path: bytes, method: bytes = b"\x82") -> bytes:
    return method + b"\x86\x04" + bytes((len(path),)) + path + LOCALHOST


GET, HOLD, POST = block(b"/ok"), block(b"/hold"), block(b"/hold", b"\x83")


def stream_id(step: int) -> int:
    """A new stream for every step, after the one that a case may have opened beforehand."""
    return 2 * step + 3


def head(stream: int, fields: bytes = HOLD, flags: int = END_STREAM | END_HEADERS) -> bytes:
    return raw_frame(HEADERS, flags, stream, fields)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def window(stream: int, increment: int) -> bytes:
    return raw_frame(WINDOW_UPDATE, 0, stream, number(increment))


def with_length(length: bytes) -> bytes:
    return POST + literal(b"content-length", length)


class Flood(NamedTuple):
    name: str
    step: Callable[[int], bytes]
    bound: int  # steps that may be taken
    total: int  # steps thrown at once
    codes: tuple[int, ...] = (ENHANCE_YOUR_CALM,)
    first: bytes = b""  # sent beforehand


RESETS = 300  # 200 and 33 a second
CALM_OR_WRONG = (ENHANCE_YOUR_CALM, PROTOCOL_ERROR)  # an engine may be strict about 100 streams, whose resets are due
RESET_FLOODS = [
    Flood(
        "rapid reset (CVE-2023-44487)",
        lambda n: head(stream_id(n)) + raw_frame(RST_STREAM, 0, stream_id(n), number(CANCEL)),
        RESETS,
        20_000,
    ),
    Flood(
        "rapid reset with content under way",
        lambda n: (
            head(stream_id(n), POST, END_HEADERS)
            + raw_frame(DATA, 0, stream_id(n), b"x" * 100)
            + raw_frame(RST_STREAM, 0, stream_id(n), number(CANCEL))
        ),
        RESETS,
        20_000,
    ),
    Flood(
        "malformed requests (CVE-2019-9514)",
        lambda n: head(stream_id(n), GET + literal(b"A", b"b")),
        RESETS,
        20_000,
        CALM_OR_WRONG,
    ),
    Flood("empty HEADERS (CVE-2019-9518)", lambda n: head(stream_id(n), b""), RESETS, 20_000, CALM_OR_WRONG),
    Flood("streams beyond 100", lambda n: head(stream_id(n)), RESETS + 100, 20_000, CALM_OR_WRONG),
    Flood(
        "a stream that is reset again and again",
        lambda n: raw_frame(RST_STREAM, 0, 1, number(CANCEL)),
        RESETS,
        20_000,
        (ENHANCE_YOUR_CALM, STREAM_CLOSED, PROTOCOL_ERROR),
        first=head(1),
    ),
]

# CVE-2025-8671: what makes the server reset a stream. Some of it is a connection error to an engine: the better.
MADE = (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, FLOW_CONTROL_ERROR)
MADE_YOU_RESET = [
    Flood(f"MadeYouReset (CVE-2025-8671) by {name}", step, RESETS, 20_000, MADE)
    for name, step in [
        ("WINDOW_UPDATE of 0", lambda n: head(stream_id(n)) + window(stream_id(n), 0)),
        ("WINDOW_UPDATE overflow", lambda n: head(stream_id(n)) + window(stream_id(n), MAX_WINDOW)),
        ("HEADERS after END_STREAM", lambda n: head(stream_id(n)) + head(stream_id(n))),
        ("DATA after END_STREAM", lambda n: head(stream_id(n)) + raw_frame(DATA, 0, stream_id(n), b"x")),
        ("PRIORITY of 4 octets", lambda n: head(stream_id(n)) + raw_frame(PRIORITY, 0, stream_id(n), bytes(4))),
        (
            "PRIORITY on itself",
            lambda n: head(stream_id(n)) + raw_frame(PRIORITY, 0, stream_id(n), number(stream_id(n)) + b"\x10"),
        ),
        (
            "DATA beyond content-length",
            lambda n: head(stream_id(n), with_length(b"1"), END_HEADERS) + raw_frame(DATA, 0, stream_id(n), b"hello"),
        ),
        (
            "DATA short of content-length",
            lambda n: (
                head(stream_id(n), with_length(b"5"), END_HEADERS) + raw_frame(DATA, END_STREAM, stream_id(n), b"x")
            ),
        ),
        ("END_STREAM without content", lambda n: head(stream_id(n), with_length(b"5"))),
        (
            "trailers without END_STREAM",
            lambda n: head(stream_id(n), POST, END_HEADERS) + head(stream_id(n), literal(b"a", b"b"), END_HEADERS),
        ),
        (
            "pseudo-fields in trailers",
            lambda n: head(stream_id(n), POST, END_HEADERS) + head(stream_id(n), b"\x84"),
        ),
    ]
]

CONTROLS = 1_300  # 1000 and 100 a second
OPEN = head(1, POST, END_HEADERS)
CLOSED = head(1, GET)
CONTROL_FLOODS = [
    Flood("PING (CVE-2019-9512)", lambda n: raw_frame(PING, 0, 0, bytes(8)), CONTROLS, 300_000),
    Flood("PING ACK nobody asked for", lambda n: raw_frame(PING, ACK, 0, bytes(8)), CONTROLS, 300_000),
    Flood("SETTINGS (CVE-2019-9515)", lambda n: raw_frame(SETTINGS, 0, 0), CONTROLS, 300_000),
    Flood(
        "SETTINGS that change a table",
        lambda n: raw_frame(SETTINGS, 0, 0, b"\0\1" + number(4096 * (n % 2))),
        CONTROLS,
        300_000,
    ),
    Flood(
        "SETTINGS that change all windows",
        lambda n: raw_frame(SETTINGS, 0, 0, b"\0\4" + number(65_535 * (n % 2))),
        CONTROLS,
        300_000,
        first=b"".join(head(stream, block(b"/hold")) for stream in range(1, 199, 2)),
    ),
    Flood(
        "SETTINGS ACK nobody asked for",
        lambda n: raw_frame(SETTINGS, ACK, 0),
        CONTROLS,
        300_000,
        (ENHANCE_YOUR_CALM, PROTOCOL_ERROR),
    ),
    Flood(
        "PRIORITY of idle streams (CVE-2019-9513)",
        lambda n: raw_frame(PRIORITY, 0, 2 * (n % 1_000_000) + 101, bytes(4) + b"\x10"),
        CONTROLS,
        100_000,
    ),
    Flood(
        "PRIORITY of one stream (CVE-2019-9513)",
        lambda n: raw_frame(PRIORITY, 0, 1, number(0) + bytes((n % 256,))),
        CONTROLS,
        100_000,
        first=OPEN,
    ),
    Flood(
        "PRIORITY_UPDATE of idle streams",
        lambda n: raw_frame(PRIORITY_UPDATE, 0, 0, number(stream_id(n)) + b"u=1"),
        CONTROLS,
        100_000,
        (ENHANCE_YOUR_CALM, PROTOCOL_ERROR),
    ),
    Flood(
        "PRIORITY_UPDATE of one stream (CVE-2019-9513)",
        lambda n: raw_frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=%d, i" % (n % 8)),
        CONTROLS,
        100_000,
        first=OPEN,
    ),
    Flood("WINDOW_UPDATE of the connection", lambda n: window(0, 1), CONTROLS, 100_000),
    Flood("WINDOW_UPDATE of a stream", lambda n: window(1, 1), CONTROLS, 100_000, first=OPEN),
    Flood("WINDOW_UPDATE of a closed stream", lambda n: window(1, 1), CONTROLS, 100_000, first=CLOSED),
    Flood("frames of an unknown type", lambda n: raw_frame(0xFA, 0, 0), CONTROLS, 100_000),
    Flood("frames of an unknown type on a stream", lambda n: raw_frame(0xFA, 0xFF, 1, b"x"), CONTROLS, 100_000,
          first=OPEN),
    Flood("large frames of an unknown type", lambda n: raw_frame(0xFA, 0, 0, bytes(16384)), CONTROLS, 20_000),
    Flood("empty DATA (CVE-2019-9518)", lambda n: raw_frame(DATA, 0, 1), CONTROLS, 100_000, first=OPEN),
    Flood("DATA of no octets, padded by 0", lambda n: raw_frame(DATA, PADDED, 1, b"\0"), CONTROLS, 100_000,
          first=OPEN),
    Flood("DATA of 255 octets of padding", lambda n: raw_frame(DATA, PADDED, 1, b"\xff" + bytes(255)), CONTROLS,
          100_000, (ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR), first=OPEN),  # padding takes of the window
    Flood("DATA on a closed stream", lambda n: raw_frame(DATA, 0, 1, b"x"), CONTROLS, 100_000,
          (ENHANCE_YOUR_CALM, STREAM_CLOSED), first=CLOSED),
    Flood("GOAWAY", lambda n: raw_frame(GOAWAY, 0, 0, bytes(8)), CONTROLS, 100_000,
          (ENHANCE_YOUR_CALM, NO_ERROR), first=OPEN),
    Flood("PUSH_PROMISE (CVE-2019-9518)", lambda n: raw_frame(PUSH_PROMISE, END_HEADERS, 1, number(stream_id(n))), 1,
          20_000, (PROTOCOL_ERROR,), first=OPEN),
    Flood("CONTINUATION behind nothing", lambda n: raw_frame(CONTINUATION, END_HEADERS, 1), 1, 20_000,
          (PROTOCOL_ERROR,), first=OPEN),
    Flood("SETTINGS of 33 entries", lambda n: raw_frame(SETTINGS, 0, 0, (b"\xfa\xfa" + bytes(4)) * 33), 1, 20_000),
    Flood("SETTINGS of 2700 entries", lambda n: raw_frame(SETTINGS, 0, 0, (b"\xfa\xfa" + bytes(4)) * 2700), 1, 2_000),
]  # fmt: skip
FLOODS = RESET_FLOODS + MADE_YOU_RESET + CONTROL_FLOODS


# --- the server, and what an attack may cost it


@pytest.fixture(scope="module", params=["h2", "ngh2"])
def server(request, module_gate):
    return start(module_gate, request.param)


def start(gate, engine: str, *options: str):
    """A server that has answered once, so that what is loaded at first use does not count."""
    server = gate(
        "http2_flood_app:application",
        *("--http2-cleartext", "prior-knowledge", "--http2-engine", engine, *options),
    )
    count(server)
    return server


def count(server) -> dict[str, int]:
    """What the application says of itself: requests running, and requests called, on a connection of its own."""
    with Wire(server.address).handshake() as wire:
        return json.loads(ask(wire, 1, b"/count"))


def ask(wire: Wire, stream: int, path: bytes = b"/ok") -> bytes:
    wire.send(head(stream, block(path)))
    response = wire.response(stream)
    assert response.status == 200
    return response.content


def wait_for(what: Callable[[], bool], message: str, within: float = 5.0) -> None:
    until = time.monotonic() + within
    while not what():
        assert time.monotonic() < until, message
        time.sleep(0.02)


@contextmanager
def unharmed(server, *, memory: int = MEMORY, seconds: float = CPU) -> Iterator[None]:
    """What happens within costs the server little, stops nobody else, and leaves nothing behind."""
    files, tracebacks = sockets(server), server.stderr().count("Traceback")
    with Wire(server.address).handshake() as other:
        assert ask(other, 1) == b"ok"
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        before, used = server.memory(), cpu(server.process.pid)
        yield
        grown, used = server.memory() - before, cpu(server.process.pid) - used
        other.send(head(3, GET))
        other.until(lambda: other.stream(3).ended or other.closed, "answer")
        if other.closed:  # it has idled for too long
            assert other.goaway is not None
            assert other.goaway.error_code == NO_ERROR
        else:
            assert other.stream(3).content == b"ok"
    wait_for(lambda: sockets(server) <= files, "a connection was left open")
    wait_for(lambda: count(server)["running"] == 0, "a request still runs")
    print(f"{grown / MIB:.1f} MiB more, {used:.2f} s of CPU")
    assert server.stderr().count("Traceback") == tracebacks, server.stderr()
    assert grown < memory
    assert used < seconds


def alive(wire: Wire) -> bool:
    """Whether the server still talks to us, all that was sent having been taken."""
    try:
        wire.ping_ok(30)
    except AssertionError:
        return False
    return wire.goaway is None


def assert_cut(wire: Wire, codes: tuple[int, ...]) -> None:
    """GOAWAY with one of *codes*, and the close of the connection."""
    wire.await_close(5)
    assert wire.goaway is not None, "closed without GOAWAY"
    assert wire.goaway.error_code in codes


# --- floods


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.name)
def test_a_flood_is_cut_in_time(server, flood):
    """Step by step, or ten of them."""
    batch = max(1, min(10, flood.bound // 20))
    with unharmed(server), Wire(server.address, credit=False).handshake() as wire:
        wire.send(flood.first)
        if flood.first == CLOSED:
            wire.response(1)
        taken = 0
        while alive(wire):
            assert taken <= flood.bound, f"not cut after {taken}"
            wire.send(b"".join(flood.step(taken + more) for more in range(batch)))
            taken += batch
        print(f"cut by {taken}, code {wire.goaway and wire.goaway.error_code}")
        assert_cut(wire, flood.codes)


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.name)
def test_a_flood_costs_little(server, flood):
    """All at once, while the answers are read."""
    with unharmed(server), Wire(server.address, credit=False).handshake() as wire:
        wire.send(flood.first)
        if flood.first == CLOSED:
            wire.response(1)
        for octets in written(flood.step, flood.total):
            wire.send(octets)
            wire.poll()
            if wire.goaway or wire.closed:
                break
        assert_cut(wire, flood.codes)


def written(step: Callable[[int], bytes], total: int, size: int = 65536) -> Iterator[bytes]:
    """The octets of *total* steps, in writes of about *size*."""
    octets = bytearray()
    for n in range(total):
        octets += step(n)
        if len(octets) >= size or n == total - 1:
            yield bytes(octets)
            octets.clear()


LARGE_FIELDS = literal(b"a", b"b" * 121) * 8  # 1 KiB
# (what, the frames of a field block that never ends, after HEADERS without END_HEADERS)
CONTINUATIONS = [
    ("CONTINUATION (CVE-2024-27316, CVE-2024-28182)", LARGE_FIELDS),
    ("CONTINUATION of 16 KiB", LARGE_FIELDS * 16),
    ("empty CONTINUATION (CVE-2019-9518)", b""),
    ("CONTINUATION of one octet", b"\x90"),
]


@pytest.mark.parametrize("fragment", [case[1] for case in CONTINUATIONS], ids=[case[0] for case in CONTINUATIONS])
def test_a_field_block_without_end_is_cut_in_time(server, fragment):
    """At the ninth CONTINUATION, and before 64 KiB have been taken. No PING fits in, so the last is given time."""
    with unharmed(server), Wire(server.address).handshake() as wire:
        wire.send(head(1, GET, END_STREAM))
        taken = 0
        while not (wire.goaway or wire.closed):
            assert taken < 12, "not cut after 12 frames"
            wire.send(raw_frame(CONTINUATION, 0, 1, fragment))
            taken += 1
            until = time.monotonic() + (0.05 if taken < 9 and taken * len(fragment) < 64 * 1024 else 5)
            while not (wire.goaway or wire.closed) and time.monotonic() < until:
                wire.poll(0.01)
        assert taken <= 9
        assert taken * len(fragment) < 80 * 1024  # of which the last frame was not taken
        assert_cut(wire, (ENHANCE_YOUR_CALM,))


@pytest.mark.parametrize("fragment", [case[1] for case in CONTINUATIONS], ids=[case[0] for case in CONTINUATIONS])
def test_a_field_block_without_end_costs_little(server, fragment):
    frame = raw_frame(CONTINUATION, 0, 1, fragment)
    with unharmed(server), Wire(server.address).handshake() as wire:
        wire.send(head(1, GET, END_STREAM))
        for octets in written(lambda n: frame, min(100_000, 22 * MIB // len(frame))):
            wire.send(octets)
            wire.poll()
            if wire.goaway or wire.closed:
                break
        assert_cut(wire, (ENHANCE_YOUR_CALM,))


def indexed(size: int) -> tuple[bytes, bytes]:
    """A field of *size* octets that enters the dynamic table, and the octet that stands for it (RFC 7541 §6.2.1)."""
    value = b"b" * size
    length = bytes((127,))
    left = size - 127
    while left >= 128:
        length += bytes((left % 128 + 128,))
        left //= 128
    return b"\x40\x01a" + length + bytes((left,)) + value, b"\xbe"


# (what, a block that is sent first, the block of each further stream): each stands for far more than its octets
BOMBS = [
    ("a field of 4 KiB, 16,000 times (CVE-2016-6581)", GET + indexed(4000)[0], GET + indexed(4000)[1] * 16_000),
    ("a field of 4 KiB, 40 times (CVE-2016-6581)", GET + indexed(4000)[0], GET + indexed(4000)[1] * 40),
    ("5,000 fields of nothing (CVE-2019-9516)", GET, GET + b"\0\0\0" * 5_000),
    ("101 fields of nothing (CVE-2019-9516)", GET, GET + b"\0\0\0" * 101),
    ("16,000 cookies", GET, GET + b"\xa0" * 16_000),
    ("16,000 times :path", GET, GET + b"\x84" * 16_000),
]


@pytest.mark.parametrize(("first", "bomb"), [case[1:] for case in BOMBS], ids=[case[0] for case in BOMBS])
def test_field_blocks_that_swell_are_refused(server, first, bomb):
    """300 of them, with no window for the answers."""
    with unharmed(server), Wire(server.address) as wire:
        wire.handshake({INITIAL_WINDOW_SIZE: 0})
        wire.send(head(1, first))
        called = count(server)["called"]
        for step in range(300):
            wire.send(head(stream_id(step), bomb))
            wire.poll()
            if wire.goaway or wire.closed:
                break
        alive(wire)
        answered = [one.status for stream, one in wire.streams.items() if stream > 1 and one.status]
        reset = [one.reset for one in wire.streams.values() if one.reset is not None]
        print(f"{set(answered)} {len(answered)} times, reset {len(reset)}, cut: {wire.goaway}")
        if wire.goaway is not None:
            assert wire.goaway.error_code in (ENHANCE_YOUR_CALM, COMPRESSION_ERROR, PROTOCOL_ERROR)
            assert_cut(wire, (wire.goaway.error_code,))
        else:
            assert len(answered) + len(reset) >= 300
        assert set(answered) <= {431}
        assert set(reset) <= {PROTOCOL_ERROR, ENHANCE_YOUR_CALM}
        assert count(server)["called"] == called, "the application was called"


def test_a_large_table_of_the_peer_is_not_filled(server):
    """SETTINGS_HEADER_TABLE_SIZE is how much the peer offers to remember, and nothing that we must use: 3 MiB here."""
    with unharmed(server, memory=2 * MIB, seconds=10), Wire(server.address) as wire:
        wire.decoder.max_allowed_table_size = 0xFFFF_FFFF
        wire.handshake({HEADER_TABLE_SIZE: 0xFFFF_FFFF})
        for start in range(1, 801, 100):
            streams = range(start, start + 100, 2)
            wire.send(b"".join(head(stream, block(b"/unique")) for stream in streams))
            for stream in streams:
                assert wire.response(stream).content == b"ok"
            wire.frames.clear()


@pytest.mark.parametrize(("size", "streams"), [(16_384, 100), (64, 100), (2, 10)])
def test_content_that_nobody_reads_costs_no_more_than_itself(server, size, streams):
    """However small the frames it comes in: all that the windows allow, and half of that for malloc, which cannot put
    the next 64 KiB that are received where such pieces lie."""
    memory = streams * 65_535 * 3 // 2 + MIB
    with unharmed(server, memory=memory, seconds=3), Wire(server.address).handshake() as wire:
        for step in range(streams):
            octets = head(stream_id(step), POST, END_HEADERS)
            octets += raw_frame(DATA, 0, stream_id(step), bytes(size)) * (65_535 // size)
            wire.send(octets)
        assert alive(wire)


# --- peers that do not read


WRITE_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE, PING_INTERVAL, PING_TIMEOUT = 1, 2, 1, 2, 1


@pytest.fixture(scope="module", params=["h2", "ngh2"])
def hasty(request, module_gate):
    """A server of small timeouts."""
    times = {
        "write-timeout": WRITE_TIMEOUT,
        "head-timeout": HEAD_TIMEOUT,
        "keep-alive": KEEP_ALIVE,
        "http2-ping-interval": PING_INTERVAL,
        "http2-ping-timeout": PING_TIMEOUT,
    }
    options = [text for name, seconds in times.items() for text in (f"--{name}", str(seconds))]
    return start(module_gate, request.param, *options)


def stuff(wire: Wire, pieces: Iterator[bytes], still: float = 1.0) -> str:
    """Send *pieces* and read nothing, until the server closes ("cut"), takes no more ("stalled"), or all is sent."""
    wire.socket.setblocking(False)
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if not select.select([], [wire.socket], [], still)[1]:
                return "stalled"
            try:
                view = view[wire.socket.send(view) :]
            except OSError:
                return "cut"
    return "sent"


DEAF = [
    ("PING", lambda n: raw_frame(PING, 0, 0, bytes(8)), 300_000),
    ("SETTINGS", lambda n: raw_frame(SETTINGS, 0, 0), 300_000),
    ("requests", lambda n: head(stream_id(n), GET), 100_000),
    ("requests and resets", lambda n: head(stream_id(n)) + raw_frame(RST_STREAM, 0, stream_id(n), number(0)), 20_000),
    ("malformed requests", lambda n: head(stream_id(n), b"\x84"), 20_000),
]


def test_peers_that_never_read_are_cut(hasty):
    """All of them at once: the answers that wait for them do not grow without end, and are not kept for them."""
    with ExitStack() as stack:
        stack.enter_context(unharmed(hasty))
        files = sockets(hasty)
        for name, step, total in DEAF:
            wire = stack.enter_context(deaf(hasty)).handshake()
            print(name, stuff(wire, written(step, total)))
        wait_for(lambda: sockets(hasty) <= files, "they were not cut", WRITE_TIMEOUT + SWEEP + 1)


def deaf(server) -> Wire:
    wire = Wire(server.address, credit=False)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return wire


# --- windows that stay shut, and peers that stall


@pytest.mark.parametrize("path", [b"/large", b"/pieces"])
def test_100_responses_without_a_window_are_reset(hasty, path):
    with unharmed(hasty), Wire(hasty.address) as wire:
        wire.handshake({INITIAL_WINDOW_SIZE: 0})
        began = time.monotonic()
        streams = range(1, 200, 2)
        wire.send(b"".join(head(stream, block(path)) for stream in streams))
        wire.until(lambda: all(wire.stream(stream).reset is not None for stream in streams), "reset of each stream")
        took = time.monotonic() - began
        assert {wire.stream(stream).reset for stream in streams} == {CANCEL}
        assert {wire.stream(stream).status for stream in streams} == {200}
        assert not any(wire.stream(stream).content for stream in streams)
        assert took < WRITE_TIMEOUT + SWEEP


@pytest.mark.parametrize("path", [b"/large", b"/pieces"])
def test_100_responses_that_nobody_reads_end_with_the_connection(hasty, path):
    """CVE-2019-9517: HTTP/2's windows stand wide open, and TCP's is shut."""
    with unharmed(hasty), deaf(hasty) as wire:
        wire.handshake({INITIAL_WINDOW_SIZE: MAX_WINDOW})
        files = sockets(hasty)
        wire.send(window(0, MAX_WINDOW - 65_535) + b"".join(head(n, block(path)) for n in range(1, 200, 2)))
        wait_for(lambda: sockets(hasty) < files, "the connection was not cut", WRITE_TIMEOUT + SWEEP + 1)


def send_nothing(turn: int) -> bytes:
    return b""


class Slow(NamedTuple):
    name: str
    first: bytes
    then: Callable[[int], bytes] = send_nothing  # what comes once in 0.3 s
    handshake: bool = True
    within: float = HEAD_TIMEOUT
    code: int | None = None  # that GOAWAY must have


QUIET = PING_INTERVAL + PING_TIMEOUT  # while a request runs, the peer must answer PINGs
SLOW = [
    Slow("nothing", b"", handshake=False),
    Slow("a part of the preface", PREFACE[:10], handshake=False),
    Slow("the preface octet by octet", b"", lambda turn: PREFACE[turn : turn + 1], handshake=False),
    Slow("the preface without SETTINGS", PREFACE, handshake=False),
    Slow("a part of a frame's head", head(1)[:5]),
    Slow("a part of HEADERS", head(1)[:15]),
    Slow("HEADERS octet by octet", b"", lambda turn: head(1)[turn : turn + 1]),
    Slow("HEADERS without END_HEADERS", head(1, GET, END_STREAM)),
    Slow("HEADERS without END_HEADERS while a request runs", head(1) + head(3, GET, END_STREAM), within=QUIET),
    Slow("a part of HEADERS while a request runs", head(1) + head(3)[:15], within=QUIET),
    Slow("silence while a request runs", head(1), within=QUIET),
    Slow("CONTINUATION after CONTINUATION", head(1, GET, END_STREAM), lambda turn: raw_frame(CONTINUATION, 0, 1)),
    Slow("no request", b"", code=NO_ERROR),
    Slow("no second request", head(1, GET), within=KEEP_ALIVE, code=NO_ERROR),
    Slow("no second request, but PINGs", head(1, GET), lambda turn: raw_frame(PING, 0, 0, bytes(8)),
         within=KEEP_ALIVE, code=NO_ERROR),
]  # fmt: skip


@pytest.fixture(scope="module")
def cuts(hasty):
    """All slow peers at once; for each the seconds until it was cut and its connection."""
    wires: dict[str, Wire] = {}
    with ExitStack() as stack:
        for case in SLOW:
            wire = wires[case.name] = stack.enter_context(Wire(hasty.address))
            if case.handshake:
                wire.handshake()
            wire.acknowledge = False
            wire.send(case.first)
        began, turn, seconds = time.monotonic(), 0, {}
        while len(seconds) < len(wires) and (now := time.monotonic() - began) < QUIET + SWEEP + 1:
            for case in SLOW:
                if now >= turn * 0.3:
                    wires[case.name].send(case.then(turn))
                wires[case.name].poll()
                if wires[case.name].closed:
                    seconds.setdefault(case.name, now)
            if now >= turn * 0.3:
                turn += 1
            time.sleep(0.02)
        yield {name: (seconds.get(name), wire) for name, wire in wires.items()}


@pytest.mark.parametrize("case", SLOW, ids=[case.name for case in SLOW])
def test_a_slow_peer_is_cut(cuts, case):
    seconds, wire = cuts[case.name]
    assert seconds is not None, "it was not cut"
    print(f"cut after {seconds:.1f} s")
    assert case.within - 1 <= seconds < case.within + SWEEP
    if case.code is not None:
        assert wire.goaway is not None
        assert wire.goaway.error_code == case.code


GRACE = 10.0  # seconds before the rate counts

# (what, the settings, the first octets, what comes ten times a second)
DRIBBLES = [
    (
        "a window opened by one octet (CVE-2019-9511)",
        {INITIAL_WINDOW_SIZE: 0},
        head(1, block(b"/large")),
        window(1, 1),
    ),
    ("content of one octet", {}, head(1, block(b"/record", b"\x83"), END_HEADERS), raw_frame(DATA, 0, 1, b"x")),
]


@pytest.mark.slow
def test_streams_that_dribble_are_cut(server):
    """Slower than 240 octets a second in either direction, with the streams waited for: RST_STREAM or close."""
    with ExitStack() as stack:
        stack.enter_context(unharmed(server))
        wires = {}
        for name, settings, first, _ in DRIBBLES:
            wires[name] = stack.enter_context(Wire(server.address, credit=False)).handshake(settings)
            wires[name].send(first)
        began, cut = time.monotonic(), {}
        while len(cut) < len(wires) and (now := time.monotonic() - began) < GRACE + 6:
            for name, _, _, then in DRIBBLES:
                wire = wires[name]
                wire.send(then)
                wire.poll()
                if wire.closed or wire.stream(1).reset is not None:
                    cut.setdefault(name, now)
            time.sleep(0.1)
        print(cut)
        for wire in wires.values():
            wire.close()
        assert set(cut) == set(wires)
        assert min(cut.values()) > GRACE - 1
