"""permessage-deflate through a real server: bombs, streams, memory, offers; tests/test_examples.py has Chromium."""

import zlib
from contextlib import ExitStack, suppress
from functools import cache

import pytest
from apps import MIB, Pattern
from websockets.exceptions import ConnectionClosedError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import ClientConnection, connect

LIMIT = 16 * MIB
AGREED = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"


@cache
def bomb(size: int) -> bytes:
    """*size* zeros, as a message's payload."""
    deflating, zeros = zlib.compressobj(6, zlib.DEFLATED, -12), bytes(MIB)
    payload = b"".join(deflating.compress(zeros) for _ in range(size // MIB)) + deflating.flush(zlib.Z_SYNC_FLUSH)
    return payload[:-4]


def frame(first: int, payload: bytes) -> bytes:
    """A client's frame of more than 125 bytes, its mask of zeros."""
    size = len(payload)
    length = b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    return bytes((first,)) + length + bytes(4) + payload


def agreed(websocket: ClientConnection) -> str | None:
    assert websocket.response is not None
    return websocket.response.headers.get("Sec-WebSocket-Extensions")


@pytest.mark.parametrize("opcode", [1, 2])
@pytest.mark.parametrize("fragmented", [False, True])
def test_a_bomb_of_256_mib_gets_1009_and_little_memory(gate, opcode, fragmented):
    server = gate("apps:sockets")
    payload = bomb(256 * MIB)
    assert len(payload) < MIB
    with connect(f"{server.ws_url}/length", max_size=None) as websocket:
        websocket.send(b"x" * 1000)
        assert websocket.recv() == "1000"
        before = server.memory()
        wire = frame(0xC0 | opcode, payload)
        if fragmented:
            half = len(payload) // 2
            wire = frame(0x40 | opcode, payload[:half]) + frame(0x80, payload[half:])
        with suppress(OSError):  # it need not read all of that
            websocket.socket.sendall(wire)
        with pytest.raises(ConnectionClosedError) as closed:
            websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert server.memory() - before < LIMIT + 8 * MIB


def test_a_message_of_just_the_limit_is_taken(gate):
    server = gate("apps:sockets")
    with connect(f"{server.ws_url}/length", max_size=None) as websocket:
        websocket.socket.sendall(frame(0xC2, bomb(LIMIT)))
        assert websocket.recv() == str(LIMIT)


def test_streams_both_ways_hold_little_memory(gate):
    """Up in one frame that inflates to 256 MiB, down in fragments; neither is ever held whole."""
    server = gate("apps:sockets")
    size = 256 * MIB
    with connect(f"{server.ws_url}/streams", max_size=None) as websocket:
        websocket.send(b"1")
        assert websocket.recv() == "1"
        assert b"".join(websocket.recv_streaming()) == b"".join(Pattern(1))
        before = server.memory()
        websocket.socket.sendall(frame(0xC2, bomb(size)))
        assert websocket.recv() == str(size)
        received = 0
        for piece in websocket.recv_streaming():
            received += len(piece)
        assert received == size
        assert server.memory() - before < 12 * MIB


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ({}, AGREED),
        ({"client_max_window_bits": 10}, AGREED[:-1] + "0"),
        ({"server_max_window_bits": 9, "client_max_window_bits": None}, "permessage-deflate; server_max_window_bits=9"),
        (
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
            f"{AGREED}; server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
def test_websockets_as_a_client(gate, offer, answer):
    server = gate("apps:sockets")
    extension = ClientPerMessageDeflateFactory(**offer)
    with connect(f"{server.ws_url}/echo", compression=None, extensions=[extension]) as websocket:
        assert agreed(websocket) == answer
        for message in ("", b"", "x", "é" * 50_000, bytes(100_000), "the same again", "the same again"):
            websocket.send(message)
            assert websocket.recv() == message


def test_it_can_be_turned_off(gate):
    server = gate("apps:sockets", "--no-ws-per-message-deflate")
    with connect(f"{server.ws_url}/echo") as websocket:
        assert agreed(websocket) is None
        websocket.send("x" * 1000)
        assert websocket.recv() == "x" * 1000


@pytest.mark.parametrize(
    ("offer", "status"),
    [
        ("permessage-deflate; server_max_window_bits=abc", b"101"),
        ("permessage-deflate; client_max_window_bits=99", b"101"),
        ("permessage-deflate; server_max_window_bits=", b"400"),  # no extension list at all (RFC 6455 §9.1)
        ('permessage-deflate; server_max_window_bits="10', b"400"),
    ],
)
def test_bad_offers_are_answered_in_words(gate, offer, status):
    server = gate("apps:sockets")
    answer = server.talk(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: %b\r\n\r\n" % offer.encode(),
        b"\x88\x80\0\0\0\0" * (status == b"101"),
    )
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    assert b"sec-websocket-extensions" not in head.lower()
    assert content == (b"\x88\x00" if status == b"101" else b"malformed Sec-WebSocket-Extensions\n")


def test_contexts_come_with_the_first_message_and_are_small(gate):
    """What 200 WebSockets take, in bytes each: without permessage-deflate, with it but idle, and once they spoke."""
    count, grown = 200, {}
    server = gate("apps:sockets")
    with ExitStack() as stack:

        def grow(compression: str | None) -> list[ClientConnection]:
            before = server.memory("VmRSS")
            made = [
                stack.enter_context(connect(f"{server.ws_url}/echo", compression=compression, ping_interval=None))
                for _ in range(count)
            ]
            grown[compression] = (server.memory("VmRSS") - before) // count
            return made

        for websocket in grow("deflate"):  # what is loaded at first use, and what is not given back
            websocket.send("abcdefgh" * 40)
            websocket.recv()
        grow(None)
        fresh = grow("deflate")
        before = server.memory("VmRSS")
        for websocket in fresh:
            websocket.send("abcdefgh" * 40)
            websocket.recv()
        grown["contexts"] = (server.memory("VmRSS") - before) // count
    assert grown["deflate"] - grown[None] < 4 * 1024, grown
    assert 20 * 1024 < grown["contexts"] < 64 * 1024, grown
