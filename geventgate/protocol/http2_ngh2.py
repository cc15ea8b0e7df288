"""The HTTP/2 engine over the ``ngh2`` package: nghttp2 in Cython (see http2.py for the seam). No socket, no gevent.

nghttp2 keeps the states of streams, the windows, and the queues in the order of RFC 9218. Here stands what it leaves
out: the rules of messages, the conduct of peers (conduct.py), what is queued of each stream, and that nothing raises.
"""

from collections.abc import Sequence
from contextlib import suppress

import ngh2
from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    DataReceived,
    DenialOfServiceError,
    ErrorCode,
    GoAwayReceived,
    InternalError,
    NGH2Error,
    PingAcknowledged,
    Priority,
    RequestReceived,
    Role,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

from geventgate.errors import PeerError, PeerGone
from geventgate.message import Field
from geventgate.protocol.conduct import Conduct
from geventgate.protocol.http2 import (
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    KIB,
    LAST_STREAM,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    NO_RFC7540_PRIORITIES,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Budget,
    Data,
    Event,
    Goaway,
    Limits,
    Memory,
    Pong,
    Request,
    Reset,
    Trailers,
    Writable,
    check_request,
    check_trailers,
)

DEFAULT_WINDOW = 64 * KIB - 1
NEVER = 1 << 40, 1 << 40  # nghttp2's own budgets run by the wall clock; ours are in conduct.py
MAX_HEAD = 1024 * KIB  # of ours, before it is compressed: else nghttp2 resets the stream

FAULTS = (NGH2Error, ValueError, MemoryError)  # what ngh2 raises: all are ours to turn into frames and events
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # "the server connection preface consists of a potentially empty SETTINGS frame"

# What carries END_STREAM to the peer, and so whether it has left when the stream's queue is empty.
WITH_CONTENT = 0  # the last frame of content: it has
IN_FIELDS = 1  # HEADERS: has once all that could be sent has been
IN_EMPTY_FRAME = 2  # so has DATA without content, but nghttp2 sends it only while there is a window

_priorities = {
    (urgency, incremental): Priority(urgency, incremental) for urgency in range(8) for incremental in (False, True)
}
_statuses = {status: (b":status", b"%d" % status) for status in range(100, 1000)}


class _Stream:
    """What is known of a stream that is open. Most differ from these values in little, and so cost little."""

    request_ended = False
    tunnel = False  # of a CONNECT
    queued = 0  # octets that nghttp2 had not taken when last asked, or that have come since
    sent = 0  # octets that it had taken
    waiting = False  # to be told Writable
    window = 0  # octets that may come unread, if it has been widened
    end_rides: int | None = None  # where, once our side has ended and the request has not
    released = False


class Engine:
    """See http2.Engine."""

    name = "ngh2"

    __slots__ = (
        "_accepted", "_aligned", "_busy", "_closed", "_conduct", "_connection", "_events", "_given_up",
        "_last_words", "_late", "_leaving", "_limits", "_low_water", "_memory", "_peer_code", "_peer_streams",
        "_peer_takes_pushes", "_released", "_resets", "_started", "_streams",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._low_water = limits.low_water
        self._resets = Budget(limits.resets)
        self._conduct = Conduct(limits, self._resets)
        self._events: list[Event] = []
        self._memory = Memory()
        # Streams
        self._streams: dict[int, _Stream] = {}
        self._busy: dict[int, _Stream] = {}  # those with octets queued
        self._released: dict[int, _Stream] = {}  # those that may have to be reset yet
        self._accepted = 0  # of the streams that Conduct saw opened: delivered, or counted as resets
        self._late: tuple[int, int] | None = None  # the stream and code of a reset that has to wait
        # The connection
        self._leaving = False  # we have refused new streams
        self._peer_takes_pushes = True
        self._peer_streams = limits.streams  # that it takes at once
        self._peer_code: int | None = None  # of its GOAWAY
        self._closed = False  # nghttp2 says so: given up, or gone away and idle
        self._given_up = False
        self._last_words = b""  # once it is
        self._started = False  # something has been sent
        self._aligned = True  # what has been sent ended with a frame
        self._connection = Connection(
            Role.SERVER,
            Configuration(
                auto_window_update=False,
                max_outbound_ack=limits.acknowledgements,
                max_settings=limits.settings,
                max_continuations=limits.continuations,
                max_inbound_header_count=2 * limits.fields,
                max_inbound_header_list_size=2 * limits.field_section,
                max_send_header_block_length=MAX_HEAD,
                stream_reset_rate_limit=NEVER,
                glitch_rate_limit=NEVER,
            ),
        )
        settings = {
            MAX_CONCURRENT_STREAMS: limits.streams,
            MAX_HEADER_LIST_SIZE: limits.field_section,
            ENABLE_CONNECT_PROTOCOL: 1,
            NO_RFC7540_PRIORITIES: 1,
        }
        if limits.stream_window != DEFAULT_WINDOW:
            settings[INITIAL_WINDOW_SIZE] = limits.stream_window
        self._connection.initiate_connection(settings)
        self._connection.set_local_window_size(limits.connection_window)

    # --- called by the reader

    def receive(self, data: bytes, now: float) -> None:
        if self._given_up or self._closed:
            return
        conduct = self._conduct
        verdict = conduct.inspect(data, now)
        if verdict is not None:
            data = data[: verdict.before]
        try:
            self._connection.receive_data(data)
        except FAULTS as error:
            self._take(self._connection.events(), now)
            self._break(error)
            return
        if self._late is not None and self._late[0] != conduct.inside:
            stream_id, code = self._late
            self._late = None
            self._submit_reset(stream_id, code)
        self._take(self._connection.events(), now)
        # All but the last of the streams opened are either delivered or malformed, or were too many, of which nghttp2
        # says nothing: it has reset them itself. The last one's head may be incomplete.
        while conduct.opened - self._accepted > 1:
            self._accepted += 1
            self._spend_reset(now)
        if verdict is not None:
            self._give_up(verdict.code, verdict.why)

    def events(self) -> list[Event]:
        events = self._events
        self._events = []
        return events

    # --- called by the writer

    def pull(self, limit: int, now: float) -> bytes:
        if self._given_up:
            octets, self._last_words = self._last_words[:limit], self._last_words[limit:]
            return octets
        octets = self._pull(limit, now)
        if self._busy:
            self._account()
        if self._released and self._reset_released() and len(octets) < limit:
            octets += self._pull(limit - len(octets), now)
        return octets

    def _pull(self, limit: int, now: float) -> bytes:
        try:
            octets = self._connection.data_to_send(limit)
        except FAULTS as error:
            self._break(error)
            return b""
        if octets:
            self._started = True
        self._aligned = len(octets) < limit
        self._take(self._connection.events(), now)
        return octets

    def _account(self) -> None:
        """What nghttp2 has taken of the queues. The streams that are done now are gone already."""
        queued_body_size = self._connection.queued_body_size
        for stream_id, stream in list(self._busy.items()):
            left = queued_body_size(stream_id)
            stream.sent += stream.queued - left
            stream.queued = left
            if not left:
                del self._busy[stream_id]
            if stream.waiting and left <= self._low_water:
                stream.waiting = False
                self._events.append(Writable(stream_id))

    def _reset_released(self) -> bool:
        """Reset the streams that nobody reads and whose END_STREAM has left; whether there were any."""
        reset = False
        for stream_id, stream in list(self._released.items()):
            rides = stream.end_rides
            if rides is None or stream.queued:
                continue
            if rides == WITH_CONTENT or (self._aligned and (rides == IN_FIELDS or self._has_window(stream_id))):
                self._kill(stream_id, NO_ERROR)
                reset = True
        return reset

    def _has_window(self, stream_id: int) -> bool:
        connection = self._connection
        try:
            return connection.remote_window_size > 0 and connection.stream_remote_window_size(stream_id) > 0
        except FAULTS:
            return False

    # --- called by exchanges

    def inform(self, stream_id: int, status: int, fields: Sequence[Field]) -> None:
        if stream_id not in self._streams:
            raise PeerGone
        if not stream_id & 1:
            return  # nghttp2 would take it for the promised response
        try:
            self._connection.send_informational_response(stream_id, [_statuses[status], *fields])
        except FAULTS as error:
            raise PeerGone(str(error)) from error

    def head(self, stream_id: int, status: int, fields: Sequence[Field], ended: bool = False) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise PeerGone
        try:
            self._connection.send_response(stream_id, [_statuses[status], *fields], end_stream=ended)
        except FAULTS as error:
            raise PeerGone(str(error)) from error
        if ended and not stream.request_ended:
            stream.end_rides = IN_FIELDS

    def send(self, stream_id: int, data: bytes, ended: bool = False) -> int:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise PeerGone
        try:
            self._connection.send_data(stream_id, data, end_stream=ended)
        except FAULTS as error:
            raise PeerGone(str(error)) from error
        size = len(data)
        queued = stream.queued + size
        if queued:
            stream.queued = queued
            self._busy[stream_id] = stream
            # The peer will return credit for it, of the stream's window and of the connection's.
            self._conduct.earned += 2 + (size >> 10)
            if queued > self._low_water:
                stream.waiting = True
        if ended and not stream.request_ended:
            stream.end_rides = WITH_CONTENT if queued else IN_EMPTY_FRAME
        return queued

    def respond(self, stream_id: int, status: int, fields: Sequence[Field], content: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise PeerGone
        connection = self._connection
        size = len(content)
        try:
            connection.send_response(stream_id, [_statuses[status], *fields], end_stream=not size)
            if size:
                connection.send_data(stream_id, content, end_stream=True)
        except FAULTS as error:
            raise PeerGone(str(error)) from error
        if size:
            stream.queued = size
            self._busy[stream_id] = stream
            self._conduct.earned += 2 + (size >> 10)  # as in send()
            if size > self._low_water:
                stream.waiting = True
        if not stream.request_ended:
            stream.end_rides = WITH_CONTENT if size else IN_FIELDS

    def end(self, stream_id: int, trailers: Sequence[Field] = ()) -> None:
        if not trailers:
            self.send(stream_id, b"", True)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            raise PeerGone
        try:
            self._connection.send_trailers(stream_id, trailers)
        except FAULTS as error:
            raise PeerGone(str(error)) from error
        if not stream.request_ended:
            stream.end_rides = IN_FIELDS if stream.queued else IN_EMPTY_FRAME

    def push(self, stream_id: int, fields: Sequence[Field]) -> int | None:
        if stream_id not in self._streams:
            raise PeerGone
        # "PUSH_PROMISE frames MUST only be sent on a peer-initiated stream" (§6.6)
        if not stream_id & 1 or not self.can_push:
            return None
        if sum(not each & 1 for each in self._streams) >= self._peer_streams:
            return None
        try:
            promised = self._connection.send_push_promise(stream_id, fields)
        except FAULTS:
            return None
        stream = self._streams[promised] = _Stream()
        stream.request_ended = True
        return promised

    def prioritize(self, stream_id: int, urgency: int, incremental: bool) -> None:
        if stream_id not in self._streams:
            raise PeerGone
        priority = _priorities[urgency, incremental]
        try:
            self._connection.set_stream_priority(stream_id, priority)
        except FAULTS as error:
            raise PeerGone(str(error)) from error

    # --- the same, but never raise

    def consume(self, stream_id: int, count: int) -> None:
        try:
            self._connection.acknowledge_received_data(count, stream_id)
        except FAULTS:
            return  # the connection is over, or somebody consumes what never came

    def widen(self, stream_id: int, octets: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.request_ended:
            return
        window = min((stream.window or self._limits.stream_window) + octets, LAST_STREAM)
        with suppress(*FAULTS):
            self._connection.set_local_window_size(window, stream_id=stream_id)
            stream.window = window

    def reset(self, stream_id: int, code: int) -> None:
        if stream_id in self._streams:
            self._kill(stream_id, code)

    def release(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.request_ended:
            stream.released = True
            self._released[stream_id] = stream

    # --- the connection

    @property
    def can_push(self) -> bool:
        if self._given_up or self._leaving or self._peer_code is not None:
            return False
        return self._peer_takes_pushes and self._peer_streams > 0

    def ping(self, opaque: bytes) -> None:
        if not self._given_up:
            with suppress(*FAULTS):  # the connection has just closed
                self._connection.ping(opaque)

    def drain(self) -> None:
        if not self._given_up:
            with suppress(*FAULTS):
                self._connection.send_shutdown_notice()

    def goaway(self, code: int = NO_ERROR, why: str = "") -> None:
        if code != NO_ERROR:
            self._give_up(code, why)
        elif not self._leaving and not self._given_up:
            self._leaving = True
            with suppress(*FAULTS):
                self._connection.send_goaway(NO_ERROR, debug_data=why.encode())

    def backlog(self) -> list[tuple[int, int]]:
        return [(stream_id, stream.sent) for stream_id, stream in self._busy.items()]

    @property
    def idle(self) -> bool:
        return not self._streams

    @property
    def done(self) -> bool:
        return self._given_up or ((self._leaving or self._peer_code is not None) and not self._streams)

    # --- what nghttp2 tells

    def _take(self, natives: list[ngh2.Event], now: float) -> None:
        streams, events, memory = self._streams, self._events, self._memory
        for native in natives:
            if isinstance(native, RequestReceived):
                self._accepted += 1
                stream_id, ended = native.stream_id, native.end_stream
                head = check_request(native.headers, ended, memory)
                if head is None or self._leaving or self._peer_code is not None:
                    self._submit_reset(stream_id, PROTOCOL_ERROR if head is None else REFUSED_STREAM)
                    if not self._spend_reset(now):
                        return
                    continue
                stream = streams[stream_id] = _Stream()
                if ended:
                    stream.request_ended = True
                if head.protocol is not None:
                    stream.tunnel = True
                events.append(Request(stream_id, head, ended))
            elif isinstance(native, StreamClosed):
                stream_id = native.stream_id
                gone = streams.pop(stream_id, None)
                if gone is None:
                    continue
                self._busy.pop(stream_id, None)
                if self._released:
                    self._released.pop(stream_id, None)
                if native.error_code:
                    # nghttp2 has reset it: for a fault of the peer's, or (local_error) since our head is too large
                    events.append(Reset(stream_id, native.error_code))
                    if native.local_error is None and not self._spend_reset(now):
                        return
                elif gone.waiting:
                    events.append(Writable(stream_id))
            elif isinstance(native, DataReceived):
                self._take_data(native.stream_id, native.data, native.end_stream)
            elif isinstance(native, TrailersReceived):
                self._take_trailers(native.stream_id, native.headers, now)
                if self._given_up:
                    return
            elif isinstance(native, StreamReset):
                if native.stream_id in streams:
                    self._forget(native.stream_id)
                    events.append(Reset(native.stream_id, native.error_code))
            elif isinstance(native, SettingsReceived):
                settings = native.settings
                self._peer_takes_pushes = bool(settings.get(ENABLE_PUSH, self._peer_takes_pushes))
                self._peer_streams = settings.get(MAX_CONCURRENT_STREAMS, self._peer_streams)
            elif isinstance(native, PingAcknowledged):
                events.append(Pong(native.opaque_data))
            elif isinstance(native, GoAwayReceived):
                self._peer_code = native.error_code
                events.append(Goaway(native.error_code, False, native.debug_data.decode("utf-8", "replace")))
            elif isinstance(native, ConnectionClosed):
                self._closed = True
                if native.error_code and native.error_code != self._peer_code:
                    self._surrender(native.error_code, _reason(native))

    def _take_data(self, stream_id: int, data: bytes, ended: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and ended:
            self._end_request(stream_id, stream)
        if stream is None or stream.released:
            if data:
                self.consume(stream_id, len(data))
        elif data or ended:
            self._events.append(Data(stream_id, data, ended))

    def _take_trailers(self, stream_id: int, headers: Sequence[Field], now: float) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self._end_request(stream_id, stream)
        if stream.released:
            return
        code = PROTOCOL_ERROR
        try:
            # Frames other than DATA "MUST NOT be sent on a connected stream" (§8.5)
            fields = None if stream.tunnel else check_trailers(headers)
        except PeerError:
            fields, code = None, ENHANCE_YOUR_CALM
        if fields is not None:
            self._events.append(Trailers(stream_id, fields))
        else:
            self._kill(stream_id, code)
            self._spend_reset(now)

    # --- ends

    def _end_request(self, stream_id: int, stream: _Stream) -> None:
        stream.request_ended = True
        self._released.pop(stream_id, None)

    def _forget(self, stream_id: int) -> None:
        del self._streams[stream_id]
        self._busy.pop(stream_id, None)
        self._released.pop(stream_id, None)

    def _kill(self, stream_id: int, code: int) -> None:
        """Reset a stream that is open."""
        self._forget(stream_id)
        self._events.append(Reset(stream_id, code))
        self._submit_reset(stream_id, code)

    def _submit_reset(self, stream_id: int, code: int) -> None:
        if stream_id == self._conduct.inside:
            # nghttp2 would never tell what has come of the frame under way, and the connection would lack that credit
            self._late = stream_id, code
            return
        with suppress(*FAULTS):  # the connection may be over
            self._connection.reset_stream(stream_id, code)

    def _spend_reset(self, now: float) -> bool:
        """Whether the connection goes on."""
        if not self._given_up and not self._resets.spend(now):
            self._give_up(ENHANCE_YOUR_CALM, "too many resets")
        return not self._given_up

    def _give_up(self, code: int, why: str) -> None:
        """Close the connection with a GOAWAY."""
        if self._given_up:
            return
        if self._closed:  # all has been said
            self._surrender(code, why)
            return
        connection = self._connection
        try:
            connection.terminate_connection(code)
            self._last_words = connection.data_to_send()  # without content: that comes behind GOAWAY, and so never
        except FAULTS as error:
            self._break(error)
            return
        for native in connection.events():
            # Unless it had given up itself, unnoticed until something is sent
            if isinstance(native, ConnectionClosed) and native.error_code != code:
                code, why = native.error_code, _reason(native)
        self._surrender(code, why)

    def _break(self, error: Exception) -> None:
        """nghttp2 takes no more input, and has dropped its output: the GOAWAY is ours to write."""
        if self._given_up:
            return
        code = PROTOCOL_ERROR
        if isinstance(error, DenialOfServiceError):
            code = ENHANCE_YOUR_CALM
        elif isinstance(error, (InternalError, MemoryError)):
            code = INTERNAL_ERROR
        self._surrender(code, str(error))
        if self._aligned:
            last = max(self._conduct.highest, 0)
            goaway = last.to_bytes(4, "big") + code.to_bytes(4, "big")
            self._last_words = b"%b%c\0%b%b" % (len(goaway).to_bytes(3, "big"), GOAWAY, bytes(4), goaway)
            if not self._started:
                self._last_words = EMPTY_SETTINGS + self._last_words

    def _surrender(self, code: int, why: str) -> None:
        self._given_up = True
        self._events.append(Goaway(code, True, why))
        self._streams.clear()
        self._busy.clear()
        self._released.clear()


def _reason(closed: ConnectionClosed) -> str:
    """nghttp2's, which it does not always give."""
    return closed.debug_data.decode("utf-8", "replace") or f"nghttp2 calls it {ErrorCode(closed.error_code).name}"
