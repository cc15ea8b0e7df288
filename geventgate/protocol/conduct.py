"""What a peer may do by its own account of its streams (RFC 9113 §5.1), read off the heads of its frames.

nghttp2 keeps silent about frames on closed streams and, since RFC 7540's priorities are off, about PRIORITY; and a
frame that nobody hears of is a flood that nobody counts. So the frames are judged here, before it has them. Knows
nothing of what we send: a stream that *we* have reset may still get frames, for the peer may not know yet (§5.1).
"""

from collections import deque
from struct import Struct
from typing import NamedTuple

from geventgate.protocol.http2 import (
    CONTINUATION,
    DATA,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_HEAD,
    HEADERS,
    LAST_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    Budget,
    Limits,
)

PRIORITY_SIZE = 5
MAX_PADDING = 256  # octets, that of its length included
MAX_UNENDED = 1024  # streams that the peer has not ended, reset ones included: the oldest are forgotten
MAX_GAPS = 64

_frame_head = Struct(">IBI").unpack_from  # length and type in one word, flags, stream
_stream_field = Struct(">I").unpack_from


class Verdict(NamedTuple):
    """The connection is to be given up: *before* octets of what was inspected are still good."""

    before: int
    code: int
    why: str


class Conduct:
    """Fed with all that a client sends. What it finds does not depend on how that is split."""

    __slots__ = (
        "_continuations", "_control", "_forgotten", "_gaps", "_head", "_left", "_limits",
        "_resets", "_unended", "earned", "highest", "inside", "opened",
    )  # fmt: skip

    def __init__(self, limits: Limits, resets: Budget) -> None:
        self.opened = 0  # streams, by the peer
        self.highest = -1  # of their identifiers
        self.earned = 0  # the peer was served: so many more frames without content are no abuse
        self.inside = 0  # the stream of a DATA frame of which a part is still to come, or 0
        self._limits = limits
        self._resets = resets
        self._control = Budget(limits.control)
        self._head = b""  # what has come of a frame's head
        self._left = len(PREFACE)  # octets still to come of a frame whose head has been judged
        self._continuations = 0
        self._gaps: deque[tuple[int, int]] = deque(maxlen=MAX_GAPS)  # identifiers passed over lie between these
        self._unended: set[int] = set()
        self._forgotten = 0  # of streams up to this one nothing is asserted

    def inspect(self, data: bytes, now: float) -> Verdict | None:
        """Judge what has come next. After a verdict there is no next."""
        held = len(self._head)
        if held:
            data = self._head + data
            self._head = b""
        size = len(data)
        at = self._left
        inside = self.inside
        while at + FRAME_HEAD <= size:
            start = at
            word, flags, stream_id = _frame_head(data, at)
            length, kind = word >> 8, word & 255
            if stream_id > LAST_STREAM:
                stream_id &= LAST_STREAM  # "This bit is reserved"
            at += FRAME_HEAD + length
            if kind == HEADERS:
                self.earned += 1
                self._continuations = 0
                inside = 0
                if stream_id > self.highest and stream_id & 1:
                    if stream_id != self.highest + 2:
                        self._gaps.append((self.highest, stream_id))
                    self.highest = stream_id
                    self.opened += 1
                    if not flags & END_STREAM:
                        self._unended.add(stream_id)
                        if len(self._unended) > MAX_UNENDED:
                            self._forget()
                    continue
                fault = self._judge_stream(stream_id, flags)
            elif kind == DATA:
                inside = stream_id
                fault = self._judge_stream(stream_id, flags)
                if not fault:
                    if length > (MAX_PADDING if flags & PADDED else 0) or flags & END_STREAM:
                        self.earned += 1
                        continue
                    fault = self._spend(now)
            elif kind == CONTINUATION:
                inside = 0
                self._continuations += 1
                if self._continuations <= self._limits.continuations:
                    continue
                fault = ENHANCE_YOUR_CALM, "too many CONTINUATION frames"
            else:
                inside = 0
                if start + FRAME_HEAD + 4 > size and (
                    (kind == PRIORITY and length == PRIORITY_SIZE) or (kind == PRIORITY_UPDATE and length >= 4)
                ):
                    at = start  # judged when the stream it depends on, or is about, has come, too
                    break
                fault = self._spend(now) or self._judge_control(kind, stream_id, length, data, start, now)
            if fault:
                code, why = fault
                return Verdict(max(start - held, 0), code, why)
        if at > size:
            self._left = at - size
            self.inside = inside
        else:
            self._left = self.inside = 0
            self._head = data[at:]
        return None

    def _judge_stream(self, stream_id: int, flags: int) -> tuple[int, str] | None:
        """DATA, or HEADERS that open nothing: only on streams the peer has opened and not ended."""
        if stream_id in self._unended:
            if flags & END_STREAM:
                self._unended.remove(stream_id)
            return None
        if not stream_id & 1:
            return PROTOCOL_ERROR, "no stream of a client's"
        if stream_id > self.highest:
            return PROTOCOL_ERROR, "the stream is idle"
        if [gap for gap in self._gaps if gap[0] < stream_id < gap[1]]:
            # "The first use of a new stream identifier implicitly closes all streams in the "idle" state [...] with a
            # lower-valued stream identifier" (§5.1.1)
            return PROTOCOL_ERROR, "stream identifiers must ascend"
        if stream_id > self._forgotten:
            return STREAM_CLOSED, "the stream has ended"
        return None

    def _judge_control(
        self, kind: int, stream_id: int, length: int, data: bytes, start: int, now: float
    ) -> tuple[int, str] | None:
        """What else there is to frames without content, of which most is the engine's affair."""
        if kind == RST_STREAM:
            self._unended.discard(stream_id)
            if not self._resets.spend(now):
                return ENHANCE_YOUR_CALM, "too many resets"
        elif kind == PRIORITY:
            if stream_id == 0:
                return PROTOCOL_ERROR, "PRIORITY of no stream"
            if length == PRIORITY_SIZE and _stream_field(data, start + FRAME_HEAD)[0] & LAST_STREAM == stream_id:
                return PROTOCOL_ERROR, "a stream depends on itself"  # RFC 7540 §5.3.1
        elif kind == PRIORITY_UPDATE:
            if length >= 4 and not _stream_field(data, start + FRAME_HEAD)[0] & LAST_STREAM:
                return PROTOCOL_ERROR, "PRIORITY_UPDATE for no stream"  # nghttp2 ignores it
        elif kind == SETTINGS and length > 6 * self._limits.settings:
            return ENHANCE_YOUR_CALM, "too many settings"
        return None

    def _spend(self, now: float) -> tuple[int, str] | None:
        """A frame without content."""
        self._control.earn(self.earned)
        self.earned = 0
        if self._control.spend(now):
            return None
        return ENHANCE_YOUR_CALM, "too many frames without content"

    def _forget(self) -> None:
        """Half of the streams that the peer has left unended. Those of them that live are the engine's to judge."""
        ascending = sorted(self._unended)
        half = len(ascending) // 2
        self._forgotten = ascending[half - 1]
        self._unended = set(ascending[half:])
