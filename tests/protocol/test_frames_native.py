"""The native codec of frames against its reference: the same pieces, the same refusals, the input split anywhere.

The table of cases in test_websocket.py runs on whatever is there; this is for what only a comparison finds. In the pure
build there is nothing to compare.
"""

import os
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geventgate import native
from geventgate.errors import PeerError
from geventgate.protocol import websocket
from geventgate.protocol.websocket import FrameCodec, encode, frame_codec
from protocol.test_websocket import BINARY, CLOSE, CONTINUATION, CUTS, PING, TEXT, frame, split

SIZES = (0, 1, 125, 126, 127, 4096, 65535, 65536, 70_000)


def pieces(codec: Any, data: list[bytes], room: int) -> list[Any]:
    """What *codec* makes of *data*; each piece of a message leaves less room, and its end gives it back."""
    found: list[Any] = []
    left = room
    try:
        for part in data:
            codec.feed(part)
            while (payload := codec.frame()) is not None:
                found.append((codec.opcode, payload, codec.complete, codec.fin, codec.compressed))
                if codec.opcode < CLOSE:
                    left = room if codec.complete and codec.fin else max(left - len(payload), 0)
                    codec.allow(left)
    except PeerError as error:
        found.append((error.close_code, str(error)))
    return found


def check_same(data: list[bytes], room: int, deflate: bool) -> list[Any]:
    ours = pieces(frame_codec(room, deflate), data, room)
    assert ours == pieces(FrameCodec(room, deflate), data, room)
    return ours


FRAMES = st.builds(
    frame,
    st.sampled_from((CONTINUATION, TEXT, BINARY, 3, CLOSE, PING, 10, 11)),
    st.binary(max_size=200) | st.sampled_from(SIZES).map(lambda size: b"x" * size),
    st.booleans(),
    st.sampled_from((0, 0, 0, 4, 2, 1)),
    st.binary(min_size=4, max_size=4),
)
NOT_SHORTEST = [
    b"\x82\xfe" + struct.pack("!H", 125),
    b"\x82\xff" + struct.pack("!Q", 65535),
    b"\x82\xff" + struct.pack("!Q", 1 << 63),
    b"\x82\xff" + struct.pack("!Q", (1 << 63) - 1) + b"mask",
]
WIRE = st.lists(FRAMES | st.binary(max_size=20) | st.sampled_from(NOT_SHORTEST), max_size=6).map(b"".join)


@given(WIRE, CUTS, st.sampled_from((0, 100, 70_000, 1 << 62)), st.booleans())
@example(b"\xc1\x85mask" + b"abcde" + b"\x80\xfe\x10\x00mask", [], 100, True)  # the rest of what is compressed
@example(b"\xc1\x85mask" + b"abcde" + b"\xc0\x85mask", [], 100, True)
@example(b"\x81\x05", [], 100, False)
def test_any_frames_split_anywhere(wire: bytes, cuts: list[int], room: int, deflate: bool) -> None:
    check_same(split(wire, cuts), room, deflate)


@pytest.mark.parametrize("head", NOT_SHORTEST)
def test_every_prefix_of_a_head_is_judged_alike(head: bytes) -> None:
    for end in range(len(head) + 1):
        check_same([head[:end]], 1 << 62, False)
    assert check_same([head], 1 << 20, False)[-1][0] in (1002, 1009)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_unmasked(size: int) -> None:
    """All ways through the words and blocks, from any place in the key."""
    payload = os.urandom(size)
    wire = frame(BINARY, payload, key=os.urandom(4))
    for first in (len(wire), 7, 20):
        found = check_same([wire[:first], wire[first:]], size, False)
        assert b"".join(piece[1] for piece in found) == payload


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_encode(size: int, kind: type) -> None:
    codec = frame_codec(10, False)
    payload = kind(b"x" * size)
    for arguments in ((TEXT,), (BINARY, True, True), (CONTINUATION, False), (PING, True, False)):
        opcode, *flags = arguments
        assert codec.encode(opcode, payload, *flags) == encode(opcode, payload, *flags)
    assert codec.encode(BINARY, payload)[1] is payload


def test_many_pieces_cost_no_more_than_their_bytes() -> None:
    """Fed and not asked for: each byte is copied a few times, not once for every later one."""
    codec = frame_codec(1 << 30, False)
    wire = frame(BINARY, b"x" * (1 << 20))
    for place in range(0, len(wire), 64):
        codec.feed(wire[place : place + 64])
    assert codec.frame() == b"x" * (1 << 20)


def test_the_reference_says_what_is_wrong() -> None:
    """A head that the scanner would refuse and its reference not is our fault, and says so."""
    if not native.COMPILED:  # there is the reference alone
        assert type(frame_codec(10, False)) is FrameCodec
        return
    codec = type(frame_codec(10, False))(lambda room, deflate, compressed: FrameCodec(100, False), 10, False)
    codec.feed(frame(BINARY, b"x" * 50))
    with pytest.raises(AssertionError, match="82b2"):
        codec.frame()


def test_which_codec_is_there() -> None:
    codec = websocket.WebSocketProtocol(10)._codec
    assert isinstance(codec, FrameCodec) != native.COMPILED
