"""HTTP/2 engine 1: the ``h2`` package, and around it what it leaves to its users. Knows no socket, no gevent, no clock.

h2 keeps the states of streams, the peer's settings and windows, and composes what is sent. It answers most faults with
the end of the connection where RFC 9113 asks for the end of a stream, its exceptions lose the events of what came too,
and it prints every frame it gets, for a log that nobody reads. So frames are taken apart and judged here, and h2 hears
of the good ones, without their fields (HPACK is decoded here, by h2's own package) and without their content (the
windows we grant are counted here). What h2 then still refuses is an error of the connection.

The outgoing queues, their order (RFC 9218), the budgets and the limits are all here.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace
from struct import Struct

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event as H2Event
from h2.events import StreamReset, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import Settings
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from geventgate.errors import PeerError, PeerGone
from geventgate.message import Field
from geventgate.protocol.http2 import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_HEAD,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    LAST_STREAM,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    NO_RFC7540_PRIORITIES,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Budget,
    Data,
    Event,
    Goaway,
    Limits,
    Pong,
    Request,
    Reset,
    Trailers,
    Writable,
    check_request,
    check_trailers,
    parse_priority,
)

KNOWN_SETTINGS = frozenset((1, 2, 3, 4, 5, 6, 8))  # to h2, which would remember others, 64 Ki of them
MAX_FRAME_SIZE = 16384  # octets of payload, in both directions: what everybody takes (RFC 9113 §4.2)
GOAWAY_SIZE = FRAME_HEAD + 8  # as h2 composes it
CONTROL_SIZE = FRAME_HEAD + 8  # of all other control frames that we queue, at most
MAX_ENCODER_TABLE = 4096  # octets: the peer may allow more, but a table is searched from end to end for every field
TURN = 64 * 1024  # octets of a response that is not incremental, until another of its urgency has its turn
# Of what a stream's peer may still send, this much is returned in one WINDOW_UPDATE at least.
LEAST_CREDIT = 1024
# A request pays for what clients send along with one (PRIORITY, WINDOW_UPDATE), and content of ours for the
# WINDOW_UPDATEs that will follow: of the stream and of the connection. But where the peer's window has cut a frame
# short only its size counts, or the peer could have us send everything octet by octet (CVE-2019-9511).
REQUEST_EARNS = 4
FRAME_EARNS = 2
EARNING_SIZE = 4096  # octets that earn one more

REMEMBERED = 256  # closed streams. Of earlier ones nothing is known
# How streams have closed: what frames that come late mean depends on it.
ENDED, LEFT, KILLED = "by both", "by the peer's RST_STREAM", "by our RST_STREAM"

_frame_head = Struct(">HBBBL")
_read_frame_head = _frame_head.unpack_from
_setting = Struct(">HL")
_word = Struct(">L")


def _frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _frame_head.pack(size >> 8, size & 255, kind, flags, stream_id) + payload


class _Connection(H2Connection):
    MAX_CLOSED_STREAMS = 1  # they are remembered here


class _Encoder(Encoder):
    """HPACK with a table of bounded size, whatever the peer allows."""

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        value = min(value, MAX_ENCODER_TABLE)
        if value == self.header_table.maxsize:  # hpack would forget that an earlier change is still to be announced
            return
        self.header_table.maxsize = value
        # "the smallest maximum table size that occurs in that interval MUST be signaled [...] The final maximum size is
        # always signaled, resulting in at most two dynamic table size updates" (RFC 7541 §4.2)
        sizes = [*self.table_size_changes, value]
        self.table_size_changes = sizes if len(sizes) < 3 else [min(sizes), value]

    def add(self, to_add: Field, sensitive: bool, huffman: bool = False) -> bytes:
        """Most fields of most responses are in the table, and so one octet (RFC 7541 §6.1): hpack's way is longer."""
        match = self.header_table.search(*to_add)
        if match is not None and match[2] is not None and match[0] < 0x7F:
            return b"%c" % (0x80 | match[0])
        return super().add(to_add, sensitive, huffman)


class _Stream:
    """One stream, open: what both sides have said so far, and what is queued of ours."""

    __slots__ = (
        "content_left", "credit", "ended", "finished", "headed", "heard_end", "incremental", "cycle", "place", "queue",
        "queued", "released", "sent", "stream_id", "trailers", "tunnel", "turn", "urgency", "waiting", "window",
        "window_size",
    )  # fmt: skip

    def __init__(self, stream_id: int, heard_end: bool, window: int, urgency: int, incremental: bool) -> None:
        self.stream_id = stream_id
        # What comes.
        self.heard_end = heard_end
        self.window_size = window  # octets that may come unread
        self.window = window  # octets that may come now
        self.credit = 0  # octets to be returned
        self.content_left: int | None = None  # as Content-Length has it
        self.tunnel = False
        self.released = False
        # What goes: heads are lists, all else is content.
        self.queue: deque[list[Field] | bytes | memoryview] = deque()
        self.queued = 0  # octets of content
        self.sent = 0
        self.headed = False  # the final head has been queued
        self.ended = False  # the end has been queued
        self.trailers: list[Field] = []
        self.finished = False  # the end has been sent
        self.waiting = False  # for Writable
        # When it goes.
        self.urgency = urgency
        self.incremental = incremental
        self.cycle = 0
        self.turn = 0  # octets sent in this cycle
        self.place: tuple[int, int, int] | None = None  # in the engine's line


class Engine:
    """One connection, the server's side: see ``geventgate.protocol.http2.Engine``."""

    name = "h2"

    def __init__(self, limits: Limits) -> None:
        # Set once.
        self._limits = limits
        self._h2 = _Connection(
            H2Configuration(
                client_side=False,
                header_encoding=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.encoder = _Encoder()
        # Ours are announced and enforced here; h2 would end the connection over the stream that is one too many.
        self._h2.local_settings = Settings(client=False)
        self._h2.receive_data(PREFACE)
        self._decoder = Decoder(2 * limits.field_section)
        # Input.
        self._preface = PREFACE  # what is still to come of it
        self._rest = bytearray()  # a frame's beginning
        self._settled = False  # the peer's first SETTINGS have come
        self._section: list[bytes] = []  # of a field section that goes on
        self._section_head = (0, 0, False)  # its stream, the flags of its HEADERS, whether that depends on itself
        self._events: list[Event] = []
        self._now = 0.0
        self._resets = Budget(limits.resets)
        self._control_budget = Budget(limits.control)
        # Streams.
        self._streams: dict[int, _Stream] = {}
        self._promised = 0  # of these, ours
        self._highest = 0  # the highest that the peer has opened
        self._last = 0  # the highest that may have been processed
        self._refused_above: int | None = None
        self._closed: dict[int, str] = {}  # the last ones, in the order of closing
        self._forgotten = 0  # of those up to here that are not in it, nothing is known
        self._foretold: dict[int, tuple[int, bool]] = {}  # priorities of streams that are still idle
        # The windows that we grant.
        self._window = limits.connection_window
        self._credit = 0
        self._creditors: dict[int, _Stream] = {}  # streams with credit to be returned at once
        # Output.
        self._control: list[bytes] = []
        self._queued_control = 0  # frames that the peer has not taken, h2's among them
        self._line: list[tuple[int, int, int]] = []  # a heap of (urgency, cycle, stream)
        self._cycles = [0] * 8
        self._given_up = False
        self._peer_leaves = False

        settings = (
            (MAX_CONCURRENT_STREAMS, limits.streams),
            (INITIAL_WINDOW_SIZE, limits.stream_window),
            (MAX_HEADER_LIST_SIZE, limits.field_section),
            (ENABLE_CONNECT_PROTOCOL, 1),
            (NO_RFC7540_PRIORITIES, 1),
        )
        self._queue_control(_frame(SETTINGS, 0, 0, b"".join(_setting.pack(*setting) for setting in settings)))
        if self._window > 65535:
            self._queue_control(_frame(WINDOW_UPDATE, 0, 0, _word.pack(self._window - 65535)))
        else:
            self._window = 65535  # it cannot be made smaller (RFC 9113 §6.9.2)

    # --- input

    def receive(self, data: bytes, now: float) -> None:
        self._now = now
        if self._preface and not self._given_up:
            data = self._receive_preface(data)
        if self._given_up or not data:
            return
        at, size = self._complete(data) if self._rest else 0, len(data)
        while size - at >= FRAME_HEAD and not self._given_up:
            high, low, kind, flags, stream_id = _read_frame_head(data, at)
            end = at + FRAME_HEAD + (high << 8 | low)
            if end - at > FRAME_HEAD + MAX_FRAME_SIZE:
                self._give_up(FRAME_SIZE_ERROR, "a frame is too large")
            elif end > size:
                break
            else:
                self._receive_frame(kind, flags, stream_id & LAST_STREAM, data[at + FRAME_HEAD : end])
                at = end
        if at < size and not self._given_up:
            self._rest += data[at:]

    def _complete(self, data: bytes) -> int:
        """Receive the frame that began before *data*, if it ends there; return how many octets of *data* that took.

        Only that frame is put together: copies of all that comes would leave holes in memory.
        """
        rest = self._rest
        at = max(FRAME_HEAD - len(rest), 0)
        rest += data[:at]
        if len(rest) < FRAME_HEAD:
            return len(data)
        high, low, kind, flags, stream_id = _read_frame_head(rest, 0)
        end: int = FRAME_HEAD + (high << 8 | low)
        if end > FRAME_HEAD + MAX_FRAME_SIZE:
            self._give_up(FRAME_SIZE_ERROR, "a frame is too large")
            return len(data)
        missing = end - len(rest)
        rest += data[at : at + missing]
        if len(rest) == end:
            payload = bytes(memoryview(rest)[FRAME_HEAD:])
            self._rest = bytearray()
            self._receive_frame(kind, flags, stream_id & LAST_STREAM, payload)
        return min(at + missing, len(data))

    def events(self) -> list[Event]:
        events = self._events
        if events:
            self._events = []
        return events

    def _receive_preface(self, data: bytes) -> bytes:
        """What follows the preface (RFC 9113 §3.4)."""
        expected = self._preface
        size = min(len(expected), len(data))
        if data[:size] != expected[:size]:
            self._give_up(PROTOCOL_ERROR, "not the preface of HTTP/2")
            return b""
        self._preface = expected[size:]
        return data[size:]

    def _receive_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._section:
            # "A HEADERS frame without the END_HEADERS flag set MUST be followed by a CONTINUATION frame for the same
            # stream" (§6.2)
            if kind == CONTINUATION and stream_id == self._section_head[0]:
                self._receive_continuation(flags, payload)
            else:
                self._give_up(PROTOCOL_ERROR, "a frame in the middle of a field section")
        elif kind == HEADERS and self._settled:
            self._receive_headers(flags, stream_id, payload)
        elif kind == DATA and self._settled:
            self._receive_data(flags, stream_id, payload)
        elif not self._settled and (kind != SETTINGS or flags & ACK):
            self._give_up(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        elif not self._control_budget.spend(self._now):
            self._give_up(ENHANCE_YOUR_CALM, "too many frames without content")
        elif kind == RST_STREAM:
            self._receive_rst_stream(stream_id, payload)
        elif kind == WINDOW_UPDATE:
            self._receive_window_update(stream_id, payload)
        elif kind == SETTINGS:
            self._receive_settings(flags, stream_id, payload)
        elif kind == PING:
            self._receive_ping(flags, stream_id, payload)
        elif kind == PRIORITY:
            self._receive_priority(stream_id, payload)
        elif kind == PRIORITY_UPDATE:
            self._receive_priority_update(stream_id, payload)
        elif kind == GOAWAY:
            self._receive_goaway(stream_id, payload)
        elif kind == PUSH_PROMISE:
            self._give_up(PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind == CONTINUATION:
            self._give_up(PROTOCOL_ERROR, "CONTINUATION of nothing")
        # "Implementations MUST ignore and discard frames of unknown types" (§5.5)

    def _tell_h2(self, frame: bytes) -> list[H2Event]:
        try:
            return self._h2.receive_data(frame)
        except ProtocolError as error:
            composed = self._h2.data_to_send()  # ends with h2's own GOAWAY; ours names what we have processed
            self._control.insert(0, composed[:-GOAWAY_SIZE])
            self._give_up(int(error.error_code), str(error))
            return []

    # --- input: field sections

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            # "Streams initiated by a client MUST use odd-numbered stream identifiers" (§5.1.1)
            self._give_up(PROTOCOL_ERROR, "no stream of a client's")
            return
        start, end = 0, len(payload)
        if flags & (PADDED | HAS_PRIORITY):
            start = (1 if flags & PADDED else 0) + (5 if flags & HAS_PRIORITY else 0)
            if start > end:
                self._give_up(FRAME_SIZE_ERROR, "HEADERS without what its flags promise")
                return
            if flags & PADDED:
                end -= payload[0]
                if end < start:
                    self._give_up(PROTOCOL_ERROR, "more padding than frame")
                    return
            # RFC 7540 §5.3.1: a stream error. RFC 9113 gives the field no meaning any more, and no such rule.
            depends = flags & HAS_PRIORITY and _word.unpack_from(payload, start - 5)[0] & LAST_STREAM == stream_id
        else:
            depends = False
        head = stream_id, flags, bool(depends)
        if flags & END_HEADERS:
            self._receive_section(head, payload[start:end])
        else:
            self._section_head = head
            self._section = [payload[start:end]]

    def _receive_continuation(self, flags: int, payload: bytes) -> None:
        section = self._section
        section.append(payload)
        if len(section) - 1 > self._limits.continuations:
            self._give_up(ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        elif sum(map(len, section)) > 2 * self._limits.field_section:  # which is counted larger than it is encoded
            self._give_up(ENHANCE_YOUR_CALM, "a field section is too large")
        elif flags & END_HEADERS:
            self._section = []
            self._receive_section(self._section_head, b"".join(section))

    def _receive_section(self, head: tuple[int, int, bool], section: bytes) -> None:
        """A field section has come whole. Whatever becomes of it, HPACK's state must follow."""
        stream_id, flags, depends = head
        try:
            if _resizes_too_often(section):
                raise HPACKError("more than two changes of the table's size")
            fields: Sequence[Field] = self._decoder.decode(section, raw=True)  # type: ignore[assignment]
        except OversizedHeaderListError:
            self._give_up(ENHANCE_YOUR_CALM, "a field section is too large")
            return
        except HPACKError as error:
            # "A decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR" (§4.3)
            self._give_up(COMPRESSION_ERROR, str(error))
            return
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._receive_trailers(stream, flags, fields, depends)
        elif stream_id > self._highest:
            self._open(stream_id, bool(flags & END_STREAM), fields, depends)
        else:
            self._receive_late(stream_id, False)

    def _open(self, stream_id: int, ended: bool, fields: Sequence[Field], depends: bool) -> None:
        limits = self._limits
        self._highest = stream_id
        priority = None
        if self._foretold:
            priority = self._foretold.pop(stream_id, None)
            # "The first use of a new stream identifier implicitly closes all streams in the "idle" state [...] with a
            # lower-valued stream identifier" (§5.1.1)
            for earlier in [earlier for earlier in self._foretold if earlier < stream_id]:
                del self._foretold[earlier]
        if self._refused_above is not None:
            self._spend_control()
            return
        self._last = stream_id
        if len(self._streams) - self._promised >= limits.streams:
            self._refuse(stream_id, REFUSED_STREAM)
            return
        if len(fields) > 2 * limits.fields:
            self._refuse(stream_id, ENHANCE_YOUR_CALM)
            return
        head = None if depends else check_request(fields, ended)
        if head is None:
            self._refuse(stream_id, PROTOCOL_ERROR)
            return
        self._control_budget.earn(REQUEST_EARNS)
        self._tell_h2(_frame_head.pack(0, 0, HEADERS, END_HEADERS | END_STREAM if ended else END_HEADERS, stream_id))
        if priority is None:
            value = head.get(b"priority")
            priority = (3, False) if value is None else parse_priority(value)
        stream = self._streams[stream_id] = _Stream(stream_id, ended, limits.stream_window, *priority)
        if head.method == "CONNECT":
            stream.tunnel = True
        elif head.content_length is not None:
            stream.content_left = int(head.content_length)
        self._events.append(Request(stream_id, head, ended))

    def _receive_trailers(self, stream: _Stream, flags: int, fields: Sequence[Field], depends: bool) -> None:
        if stream.heard_end:
            self._fault(stream, STREAM_CLOSED)  # §5.1, half-closed (remote)
            return
        trailers = None
        # "An endpoint that receives a HEADERS frame without the END_STREAM flag set after receiving the HEADERS frame
        # that opens a request [...] MUST treat the corresponding request [...] as malformed" (§8.1), and no frame but
        # DATA may "be sent on a connected stream" (§8.5)
        if flags & END_STREAM and not depends and not stream.content_left and not stream.tunnel:
            try:
                if len(fields) > 2 * self._limits.fields:
                    raise PeerError(431, "too many trailers")
                trailers = check_trailers(fields)
            except PeerError:
                self._fault(stream, ENHANCE_YOUR_CALM)
                return
        if trailers is None:
            self._fault(stream, PROTOCOL_ERROR)
            return
        self._control_budget.earn()
        if not stream.released:
            self._events.append(Trailers(stream.stream_id, trailers))
        self._hear_end(stream)

    def _refuse(self, stream_id: int, code: int) -> None:
        """A stream that nobody has heard of yet."""
        self._queue_control(_frame(RST_STREAM, 0, stream_id, _word.pack(code)))
        self._remember(stream_id, KILLED)
        self._spend_reset()

    def _receive_late(self, stream_id: int, has_content: bool) -> None:
        """DATA or HEADERS for a stream that is open no more (§5.1, closed)."""
        closed = self._closed.get(stream_id)
        if self._refused_above is not None and stream_id > self._refused_above:
            closed = KILLED  # in a way
        if closed == ENDED:
            # "An endpoint that receives any frames after receiving a frame with the END_STREAM flag set MUST treat that
            # as a connection error [...] of type STREAM_CLOSED" (RFC 7540 §5.1; RFC 9113 leaves the choice)
            self._give_up(STREAM_CLOSED, "a frame behind the end of its stream")
        elif closed == LEFT:
            self._fault_of(stream_id, STREAM_CLOSED, "")
        elif closed is None and stream_id > self._forgotten:
            self._give_up(PROTOCOL_ERROR, "stream identifiers must ascend")
        elif not has_content:  # the peer did not know yet
            self._spend_control()

    # --- input: content

    def _receive_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if not stream_id & 1:
            self._give_up(PROTOCOL_ERROR, "no stream of a client's")
            return
        if stream_id > self._highest:
            self._give_up(PROTOCOL_ERROR, "the stream is idle")
            return
        data = payload
        if flags & PADDED:
            if not size:
                self._give_up(FRAME_SIZE_ERROR, "DATA without what its flags promise")
                return
            end = size - payload[0]
            if end < 1:
                self._give_up(PROTOCOL_ERROR, "more padding than frame")
                return
            data = payload[1:end]
        self._window -= size
        if self._window < 0:
            self._give_up(FLOW_CONTROL_ERROR, "more than the connection's window")
            return
        ended = bool(flags & END_STREAM)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._credit += size
            self._receive_late(stream_id, bool(data))
            return
        if stream.heard_end:
            self._credit += size
            self._fault(stream, STREAM_CLOSED)  # §5.1, half-closed (remote)
            return
        stream.window -= size
        if stream.window < 0:
            self._credit += size
            self._fault(stream, FLOW_CONTROL_ERROR)
            return
        if stream.content_left is not None:
            # "A request or response that is defined as having content when it contains a Content-Length header field is
            # malformed if the value of the Content-Length header field does not equal the sum of the DATA frame payload
            # lengths" (§8.1.1)
            stream.content_left -= len(data)
            if stream.content_left < 0 or (ended and stream.content_left):
                self._credit += size
                self._fault(stream, PROTOCOL_ERROR)
                return
        if data:
            self._control_budget.earn()
        elif not ended and not self._spend_control():
            return
        if stream.released:
            self._credit += size
        else:
            if size > len(data):
                self.consume(stream_id, size - len(data))
            if data or ended:
                self._events.append(Data(stream_id, data, ended))
        if ended:
            self._hear_end(stream)

    def _hear_end(self, stream: _Stream) -> None:
        stream.heard_end = True
        stream_id = stream.stream_id
        self._creditors.pop(stream_id, None)
        self._tell_h2(_frame_head.pack(0, 0, DATA, END_STREAM, stream_id))
        if stream.finished:
            self._close(stream, ENDED)

    # --- input: all else

    def _receive_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            self._give_up(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        elif self._is_idle(stream_id):
            self._give_up(PROTOCOL_ERROR, "the stream is idle")
        elif self._spend_reset():
            stream = self._streams.get(stream_id)
            if stream is not None:
                self._tell_h2(_frame(RST_STREAM, 0, stream_id, payload))
                self._close(stream, LEFT)
                self._events.append(Reset(stream_id, _word.unpack(payload)[0]))

    def _receive_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            self._give_up(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
            return
        if stream_id and self._is_idle(stream_id):
            self._give_up(PROTOCOL_ERROR, "the stream is idle")
            return
        increment = _word.unpack(payload)[0] & LAST_STREAM
        stream = self._streams.get(stream_id)
        if stream is None and stream_id:
            return
        if not increment:
            # "a stream error [...] of type PROTOCOL_ERROR; errors on the connection flow-control window MUST be treated
            # as a connection error" (§6.9)
            if stream is None:
                self._give_up(PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            else:
                self._fault(stream, PROTOCOL_ERROR)
            return
        for event in self._tell_h2(_frame(WINDOW_UPDATE, 0, stream_id, _word.pack(increment))):
            if (
                isinstance(event, StreamReset) and stream is not None
            ):  # the window is too large: h2 has reset the stream
                self._queued_control += 1
                self._close(stream, KILLED)
                self._events.append(Reset(stream_id, FLOW_CONTROL_ERROR))
                self._spend_reset()
            elif isinstance(event, WindowUpdated):
                self._revive(stream)

    def _receive_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            self._give_up(PROTOCOL_ERROR, "SETTINGS of a stream")
            return
        if len(payload) % 6 or (flags & ACK and payload):
            self._give_up(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
            return
        if flags & ACK:
            return  # ours are in force from the beginning
        if len(payload) > 6 * self._limits.settings:
            self._give_up(ENHANCE_YOUR_CALM, "too many settings")
            return
        self._settled = True
        known = b""
        for identifier, value in _setting.iter_unpack(payload):
            if identifier in KNOWN_SETTINGS:
                known += _setting.pack(identifier, value)
            elif identifier == NO_RFC7540_PRIORITIES and value > 1:  # RFC 9218 §2.1
                self._give_up(PROTOCOL_ERROR, "a setting is neither 0 nor 1")
                return
        self._tell_h2(_frame(SETTINGS, 0, 0, known))
        if not self._given_up:
            self._count_control()
            self._revive(None)

    def _receive_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            self._give_up(PROTOCOL_ERROR, "PING of a stream")
        elif len(payload) != 8:
            self._give_up(FRAME_SIZE_ERROR, "PING of a wrong size")
        elif flags & ACK:
            self._events.append(Pong(payload))
        else:
            self._queue_control(_frame(PING, ACK, 0, payload))

    def _receive_priority(self, stream_id: int, payload: bytes) -> None:
        """RFC 7540 §5.3 and §6.3, without the meaning, which RFC 9113 took away."""
        if not stream_id:
            self._give_up(PROTOCOL_ERROR, "PRIORITY of no stream")
        elif len(payload) != 5:
            # "MUST be treated as a stream error [...] of type FRAME_SIZE_ERROR" (§6.3)
            self._fault_of(stream_id, FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        elif _word.unpack_from(payload)[0] & LAST_STREAM == stream_id:
            self._fault_of(stream_id, PROTOCOL_ERROR, "a stream depends on itself")

    def _receive_priority_update(self, stream_id: int, payload: bytes) -> None:
        """RFC 9218 §7.1."""
        if stream_id:
            self._give_up(PROTOCOL_ERROR, "PRIORITY_UPDATE of a stream")
            return
        if len(payload) < 4:
            self._give_up(FRAME_SIZE_ERROR, "PRIORITY_UPDATE without a stream")
            return
        named = _word.unpack_from(payload)[0] & LAST_STREAM
        if not named & 1 and self._is_idle(named):
            self._give_up(PROTOCOL_ERROR, "PRIORITY_UPDATE for no stream of a client's")
            return
        priority = parse_priority(payload[4:])
        stream = self._streams.get(named)
        if stream is not None:
            self._prioritize(stream, *priority)
        elif named > self._highest and named & 1 and self._refused_above is None:
            self._foretold[named] = priority
            # "The number of streams that have been prioritized but remain in the "idle" state plus the number of active
            # streams [...] MUST NOT exceed the value of the SETTINGS_MAX_CONCURRENT_STREAMS parameter"
            if len(self._foretold) + len(self._streams) - self._promised > self._limits.streams:
                self._give_up(PROTOCOL_ERROR, "more streams prioritized than may be open")

    def _receive_goaway(self, stream_id: int, payload: bytes) -> None:
        """h2 must not hear of it, or it would end all streams."""
        if stream_id:
            self._give_up(PROTOCOL_ERROR, "GOAWAY of a stream")
        elif len(payload) < 8:
            self._give_up(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        else:
            self._peer_leaves = True
            why = payload[8:].decode("ascii", "backslashreplace")
            self._events.append(Goaway(_word.unpack_from(payload, 4)[0], False, why))

    # --- faults, and what they cost

    def _is_idle(self, stream_id: int) -> bool:
        """Whether nobody has opened it; nor is stream 0 one."""
        if stream_id & 1:
            return stream_id > self._highest
        return not 0 < stream_id <= self._h2.highest_outbound_stream_id

    def _fault(self, stream: _Stream, code: int) -> None:
        """The peer's fault, on one stream (CVE-2025-8671: it may not make us reset streams for ever)."""
        self._kill(stream, code)
        self._spend_reset()

    def _fault_of(self, stream_id: int, code: int, why: str) -> None:
        """The same, whether the stream is open or not."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._fault(stream, code)
        elif self._is_idle(stream_id):
            # "RST_STREAM frames MUST NOT be sent for a stream in the "idle" state" (§6.4)
            self._give_up(code, why)
        else:
            self._queue_control(_frame(RST_STREAM, 0, stream_id, _word.pack(code)))
            self._spend_reset()

    def _spend_reset(self) -> bool:
        if not self._given_up and not self._resets.spend(self._now):
            self._give_up(ENHANCE_YOUR_CALM, "too many resets")
        return not self._given_up

    def _spend_control(self) -> bool:
        if not self._given_up and not self._control_budget.spend(self._now):
            self._give_up(ENHANCE_YOUR_CALM, "too many frames without content")
        return not self._given_up

    def _queue_control(self, frame: bytes) -> None:
        self._control.append(frame)
        self._count_control()

    def _count_control(self) -> None:
        """One more that the peer has not taken; one that never reads must not have us queue for ever."""
        self._queued_control += 1
        if self._queued_control > self._limits.acknowledgements:
            self._give_up(ENHANCE_YOUR_CALM, "the peer does not take our frames")

    def _give_up(self, code: int, why: str) -> None:
        """A connection error (RFC 9113 §5.4.1)."""
        if self._given_up:
            return
        self._given_up = True
        self._control.append(self._h2.data_to_send())
        self._control.append(self._compose_goaway(code, why))
        self._events.append(Goaway(code, True, why))
        self._rest = bytearray()
        self._section = []
        self._streams.clear()
        self._creditors.clear()
        self._line.clear()

    def _compose_goaway(self, code: int, why: str) -> bytes:
        last = self._last if self._refused_above is None else self._refused_above
        return _frame(GOAWAY, 0, 0, _word.pack(last) + _word.pack(code) + why.encode("ascii", "backslashreplace"))

    # --- the end of streams

    def _close(self, stream: _Stream, how: str) -> None:
        stream_id = stream.stream_id
        del self._streams[stream_id]
        self._h2.streams.pop(stream_id, None)  # h2 would do so later, and look at all of them until then
        self._leave_line(stream)
        self._creditors.pop(stream_id, None)
        if stream_id & 1:
            self._remember(stream_id, how)
        else:
            self._promised -= 1

    def _remember(self, stream_id: int, how: str) -> None:
        closed = self._closed
        closed[stream_id] = how
        if len(closed) > REMEMBERED:
            oldest = next(iter(closed))
            del closed[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def _kill(self, stream: _Stream, code: int) -> None:
        self._h2.reset_stream(stream.stream_id, code)
        self._close(stream, KILLED)
        self._events.append(Reset(stream.stream_id, code))
        self._count_control()

    # --- output

    def pull(self, limit: int, now: float) -> bytes:
        self._now = now
        h2 = self._h2
        if self._creditors or self._credit:
            self._return_credit()
        out, self._control = self._control, []
        size = self._queued_control * CONTROL_SIZE
        self._queued_control = 0
        line, streams = self._line, self._streams
        while line and size < limit:
            self._serve(streams[line[0][2]])
            composed = h2.data_to_send()
            size += len(composed)
            out.append(composed)
        out.append(h2.data_to_send())
        if self._given_up:
            out += self._control
            self._control = []
        return b"".join(out)

    def _serve(self, stream: _Stream) -> None:
        """Compose what is next of the first stream in line: its heads, and a frame of content. Or let it leave."""
        h2, queue, stream_id = self._h2, stream.queue, stream.stream_id
        while queue and type(queue[0]) is list:
            fields = queue.popleft()
            last = stream.ended and not queue and not stream.trailers
            h2.send_headers(stream_id, fields, last)  # type: ignore[arg-type]
            if last:
                self._finish(stream)
                return
        size = 0
        if queue:
            room = min(
                h2.outbound_flow_control_window, h2.streams[stream_id].outbound_flow_control_window, MAX_FRAME_SIZE
            )
            if room <= 0:
                self._leave_line(stream)
                return
            data = self._take(stream, room)
            size = len(data)
            last = stream.ended and not queue and not stream.trailers
            h2.send_data(stream_id, data, last)
            stream.sent += size
            earned = size // EARNING_SIZE
            if not queue or size == MAX_FRAME_SIZE:
                earned += FRAME_EARNS
            if earned:
                self._control_budget.earn(earned)
            if stream.waiting and stream.queued <= self._limits.low_water:
                stream.waiting = False
                self._events.append(Writable(stream_id))
        elif stream.ended and not stream.trailers:
            last = True
            h2.send_data(stream_id, b"", True)
        else:
            last = False
        if queue:
            self._take_turns(stream, size)
        elif last:
            self._finish(stream)
        elif stream.ended:
            h2.send_headers(stream_id, stream.trailers, True)
            self._finish(stream)
        else:
            self._leave_line(stream)

    def _take(self, stream: _Stream, room: int) -> bytes | memoryview:
        """At most *room* octets of what is queued; small pieces share a frame."""
        queue = stream.queue
        first = queue.popleft()
        assert not isinstance(first, list)
        if len(first) > room:
            view = memoryview(first)
            queue.appendleft(view[room:])
            stream.queued -= room
            return view[:room]
        if not queue or len(first) == room:
            stream.queued -= len(first)
            return first
        pieces = [first]
        room -= len(first)
        while queue and room:
            piece = queue.popleft()
            assert not isinstance(piece, list)
            if len(piece) > room:
                view = memoryview(piece)
                queue.appendleft(view[room:])
                piece = view[:room]
            pieces.append(piece)
            room -= len(piece)
        data = b"".join(pieces)
        stream.queued -= len(data)
        return data

    def _finish(self, stream: _Stream) -> None:
        """Our side has ended."""
        stream.finished = True
        self._leave_line(stream)
        if stream.heard_end:
            self._close(stream, ENDED)
        elif stream.released:
            self._kill(stream, NO_ERROR)

    def _return_credit(self) -> None:
        """WINDOW_UPDATEs, no more than there are streams, however often the peer had us count."""
        # What it may still send is no more than twice what it gets back: seldom, and never too late for streams that
        # are read while others are not.
        if self._credit and 2 * self._credit >= self._window:
            self._control.append(_frame(WINDOW_UPDATE, 0, 0, _word.pack(self._credit)))
            self._window += self._credit
            self._credit = 0
        for stream_id, stream in self._creditors.items():
            self._control.append(_frame(WINDOW_UPDATE, 0, stream_id, _word.pack(stream.credit)))
            stream.window += stream.credit
            stream.credit = 0
        self._creditors.clear()

    # --- output: its order
    # Lowest urgency first; of one urgency, the streams whose cycle is lowest, in their order. A cycle is one frame of
    # an incremental response, and a turn of others. RFC 9218 §10 would send those whole, one after the other: a
    # download without end would leave nothing to whatever is behind it.

    def _join_line(self, stream: _Stream) -> None:
        if stream.place is None:
            cycle = self._cycles[stream.urgency]
            if stream.cycle < cycle:
                stream.cycle = cycle
                stream.turn = 0
            place = stream.place = stream.urgency, stream.cycle, stream.stream_id
            heappush(self._line, place)

    def _leave_line(self, stream: _Stream) -> None:
        place, line = stream.place, self._line
        if place is None:
            return
        stream.place = None
        if line[0] is place:
            heappop(line)
            self._cycles[place[0]] = place[1]
        else:
            line.remove(place)
            heapify(line)

    def _take_turns(self, stream: _Stream, size: int) -> None:
        """The first in line has sent *size* octets, and has more."""
        stream.turn += size
        if stream.incremental or stream.turn >= TURN:
            self._cycles[stream.urgency] = stream.cycle
            stream.cycle += 1
            stream.turn = 0
            place = stream.place = stream.urgency, stream.cycle, stream.stream_id
            heapreplace(self._line, place)

    def _prioritize(self, stream: _Stream, urgency: int, incremental: bool) -> None:
        stream.incremental = incremental
        if urgency != stream.urgency:
            queued = stream.place is not None
            self._leave_line(stream)
            stream.urgency = urgency
            stream.cycle = stream.turn = 0
            if queued:
                self._join_line(stream)

    def _revive(self, stream: _Stream | None) -> None:
        """A window has grown: this stream's, or any's."""
        for each in self._streams.values() if stream is None else (stream,):
            if each.queue and each.place is None and self._h2.local_flow_control_window(each.stream_id) > 0:
                self._join_line(each)

    # --- commands of exchanges

    def _find(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            raise PeerGone
        return stream

    def inform(self, stream_id: int, status: int, fields: Sequence[Field]) -> None:
        stream = self._find(stream_id)
        if not stream.headed and stream_id & 1:  # h2 knows none of promised responses
            stream.queue.append([(b":status", b"%d" % status), *fields])
            self._join_line(stream)

    def head(self, stream_id: int, status: int, fields: Sequence[Field], ended: bool = False) -> None:
        stream = self._find(stream_id)
        assert not stream.headed
        stream.headed = True
        stream.ended = ended
        stream.queue.append([(b":status", b"%d" % status), *fields])
        self._join_line(stream)

    def send(self, stream_id: int, data: bytes, ended: bool = False) -> int:
        stream = self._find(stream_id)
        assert stream.headed
        if data:
            stream.queue.append(data)
            stream.queued += len(data)
            stream.waiting = stream.queued > self._limits.low_water
            # However small it is, credit for it may come twice: of the stream's window, and of the connection's.
            self._control_budget.earn(2)
        stream.ended = ended
        if data or ended:
            self._join_line(stream)
        return stream.queued

    def respond(self, stream_id: int, status: int, fields: Sequence[Field], content: bytes) -> None:
        self.head(stream_id, status, fields, not content)
        if content:
            self.send(stream_id, content, True)

    def end(self, stream_id: int, trailers: Sequence[Field] = ()) -> None:
        stream = self._find(stream_id)
        assert stream.headed
        stream.ended = True
        stream.trailers = list(trailers)
        self._join_line(stream)

    def push(self, stream_id: int, fields: Sequence[Field]) -> int | None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.finished:
            raise PeerGone
        # "PUSH_PROMISE frames MUST only be sent on a peer-initiated stream" (§6.6)
        if not self.can_push or not stream_id & 1:
            return None
        h2 = self._h2
        promised = max(2, h2.highest_outbound_stream_id + 2)
        if promised > LAST_STREAM:
            return None
        h2.push_stream(stream_id, promised, fields)
        stream = self._streams[promised] = _Stream(promised, True, 0, 3, False)
        stream.cycle = self._cycles[3] + 1  # behind what was asked for
        self._promised += 1
        self._count_control()
        return promised

    def prioritize(self, stream_id: int, urgency: int, incremental: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise PeerGone
        self._prioritize(stream, urgency, incremental)

    def consume(self, stream_id: int, count: int) -> None:
        if self._given_up:
            return
        self._credit += count
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.heard_end:
            stream.credit += count
            # As for the connection, but not for a few octets
            least = min(LEAST_CREDIT, stream.window_size // 4)
            if stream.credit >= least and 2 * stream.credit >= stream.window:
                self._creditors[stream_id] = stream

    def widen(self, stream_id: int, octets: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.heard_end:
            octets = min(octets, LAST_STREAM - stream.window_size)  # §6.9.1
            if octets > 0:
                stream.window_size += octets
                stream.credit += octets
                self._creditors[stream_id] = stream

    def reset(self, stream_id: int, code: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._kill(stream, code)
            if code not in (NO_ERROR, CANCEL, INTERNAL_ERROR):
                self._spend_reset()

    def release(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.heard_end:
            stream.released = True
            if stream.finished:
                self._kill(stream, NO_ERROR)

    # --- the connection

    @property
    def can_push(self) -> bool:
        settings = self._h2.remote_settings
        most = min(settings.max_concurrent_streams, self._limits.streams)
        return self._settled and not self._peer_leaves and bool(settings.enable_push) and self._promised < most

    def ping(self, opaque: bytes) -> None:
        if not self._given_up:
            self._queue_control(_frame(PING, 0, 0, opaque))

    def drain(self) -> None:
        if not self._given_up and self._refused_above is None:
            self._queue_control(_frame(GOAWAY, 0, 0, _word.pack(LAST_STREAM) + _word.pack(NO_ERROR)))

    def goaway(self, code: int = NO_ERROR, why: str = "") -> None:
        if code:
            self._give_up(code, why)
        elif not self._given_up and self._refused_above is None:
            self._queue_control(self._compose_goaway(code, why))
            self._refused_above = self._last

    def backlog(self) -> list[tuple[int, int]]:
        return [(stream.stream_id, stream.sent) for stream in self._streams.values() if stream.queued]

    @property
    def idle(self) -> bool:
        return not self._streams

    @property
    def done(self) -> bool:
        return self._given_up or (self._refused_above is not None and not self._streams)


def _resizes_too_often(section: bytes) -> bool:
    """Whether a field section begins with more changes of the table's size than the two that RFC 7541 §4.2 allows: they
    count as nothing in the size of the list, and each is decoded."""
    at = 0
    for _ in range(3):
        if at >= len(section) or section[at] & 0xE0 != 0x20:
            return False
        continued = section[at] & 0x1F == 0x1F
        at += 1
        while continued and at < len(section):
            continued = section[at] >= 0x80
            at += 1
    return True
