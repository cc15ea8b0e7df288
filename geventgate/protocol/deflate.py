"""permessage-deflate (RFC 7692), server's side: what is agreed, and the payloads of compressed messages.

Knows no frames and no sizes of messages. What a client sends is inflated piece by piece, each of a bounded size, so
that whoever asks for the pieces can stop long before a bomb has gone off. Contexts are made when first used.
"""

import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from geventgate.errors import PeerError
from geventgate.exchange import Bytes
from geventgate.protocol.handshake import ExtensionOffer

NAME = "permessage-deflate"
# Ours is small: with memLevel 5 a context is 20 kB, and 83 kB with zlib's defaults (15, 8), which shrink JSON messages
# of 1 kB to 29 % in place of 36 %.
WINDOW_BITS = 12
MEM_LEVEL = 5
LEVEL = 1  # twice as fast as 6, for messages 8 % larger
WIDEST = 15  # bits of a client's window, unless it lets us choose (RFC 7692 §7.1.2.2)
# "a decimal integer value without leading zeroes between 8 to 15, inclusive"
_bits = {str(bits): bits for bits in range(8, 16)}.get

PIECE = 64 * 1024  # bytes: the most that one call inflates, or deflates without a pause
SLICE = 4 * 1024  # bytes given to zlib at once: what it does not take it copies, every time
TAIL = b"\x00\x00\xff\xff"  # of an empty block: left out by the sender, put back by the receiver (RFC 7692 §7.2)
EMPTY = b"\x00"  # what is left of a message that has nothing (to add) (RFC 7692 §7.2.3.6)


class Agreement(NamedTuple):
    """What both sides keep to (RFC 7692 §7.1); windows are of 2**bits bytes."""

    server_max_window_bits: int = WINDOW_BITS
    client_max_window_bits: int = WIDEST
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False

    @property
    def answer(self) -> str:
        """The value of Sec-WebSocket-Extensions that accepts it. Our window is named unasked, as RFC 7692 §7.1.2.1
        allows: the client needs no larger one to read us. Its own is named only when it lets us choose."""
        named = [NAME, f"server_max_window_bits={self.server_max_window_bits}"]
        if self.client_max_window_bits < WIDEST:
            named.append(f"client_max_window_bits={self.client_max_window_bits}")
        if self.server_no_context_takeover:
            named.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            named.append("client_no_context_takeover")
        return "; ".join(named)


def negotiate(offers: Iterable[ExtensionOffer]) -> Agreement | None:
    """The first offer that can be accepted, in the client's order; None declines them all (RFC 7692 §5.1)."""
    for offer in offers:
        if offer.name == NAME and (agreement := _accept(offer)) is not None:
            return agreement
    return None


def _accept(offer: ExtensionOffer) -> Agreement | None:
    """None for unknown or repeated parameters and invalid values: "A server MUST decline" (RFC 7692 §7)."""
    agreed: dict[str, Any] = {}
    for name, value in offer.parameters:
        if name in agreed:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            agreed[name] = True
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            bits = WIDEST if value is None and name == "client_max_window_bits" else _bits(value or "")
            # zlib has no compressor with a window of 256 bytes, and promises nothing about its next larger one.
            if bits is None or (bits == 8 and name == "server_max_window_bits"):
                return None
            agreed[name] = min(bits, WINDOW_BITS)
        else:
            return None
    return Agreement(**agreed)


class Deflater:
    """Our messages' payloads, in the order in which they are sent."""

    __slots__ = ("_bits", "_context", "_forgets")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = agreement.server_max_window_bits
        self._forgets = agreement.server_no_context_takeover
        self._context: Any = None

    def deflate(self, data: Bytes, ends: bool, pause: Callable[[], None]) -> bytes:
        """The payload of the next frame, from which the peer can inflate all of *data* at once; *ends*: the message's
        last. *pause* is called between pieces. What it raises may leave the message unsent, but not begun."""
        context = self._context or zlib.compressobj(LEVEL, zlib.DEFLATED, -self._bits, MEM_LEVEL)
        self._context = None  # if pause() raises: the peer has missed something, so nothing may refer to it
        if len(data) <= PIECE:
            pieces = [context.compress(data)]
        else:
            pieces = []
            view = memoryview(data)
            for start in range(0, len(view), PIECE):
                pieces.append(context.compress(view[start : start + PIECE]))
                pause()
        flushed = context.flush(zlib.Z_SYNC_FLUSH)
        pieces.append(flushed[: -len(TAIL)] if ends else flushed)
        if not (ends and self._forgets):
            self._context = context
        return b"".join(pieces) or (EMPTY if ends else b"")


class Inflater:
    """The peer's messages, in the order in which they come: feed() a payload, then inflate() until None."""

    __slots__ = ("_bits", "_context", "_ends", "_forgets", "_input", "_place")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = max(agreement.client_max_window_bits, 9)  # zlib's compressors take 9 where 8 was agreed
        self._forgets = agreement.client_no_context_takeover
        self._context: Any = None
        self._input = b""
        self._place = 0
        self._ends = False

    def feed(self, payload: bytes, ends: bool) -> None:
        """Take a piece of a message; *ends*: its last."""
        self._input = payload + TAIL if ends else payload
        self._place = 0
        self._ends = ends

    def inflate(self) -> bytes | None:
        """The next 1 to PIECE bytes, or None: no more come of what was fed. Raises PeerError 1007."""
        while self._place < len(self._input):
            if self._context is None:
                self._context = zlib.decompressobj(-self._bits)
            context = self._context
            given = self._input[self._place : self._place + SLICE]
            try:
                data: bytes = context.decompress(given, PIECE)
            except zlib.error:
                raise PeerError(400, "the compressed data is invalid", close_code=1007) from None
            self._place += len(given) - len(context.unconsumed_tail)
            if context.eof:  # a block with BFINAL: legal, and the next one starts anew (RFC 7692 §7.2.3.4)
                self._place -= len(context.unused_data)
                self._context = None
            if data:
                return data
        self._input = b""
        if self._ends and self._forgets:
            self._context = None
        return None
