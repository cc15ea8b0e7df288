"""The WebSocket protocol behind its opening handshake, server's side (RFC 6455 §5-§8, RFC 7692): values in, bytes out.

Knows no socket and no clock. Two floors: FrameCodec turns bytes into frames and back, WebSocketProtocol holds the
rules of messages, control frames and closing. Received bytes are parsed message by message as they are asked for,
so what a peer sends ahead is held as it came.
"""

import sys
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable
from enum import Enum, auto
from struct import Struct

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

from geventgate import native
from geventgate.errors import ApplicationError, PeerError, WebSocketError
from geventgate.exchange import Bytes
from geventgate.protocol.deflate import Agreement, Deflater, Inflater

Message = str | bytes

MAX_CONTROL = 125  # bytes of a control frame's payload (RFC 6455 §5.5)
MAX_REASON = MAX_CONTROL - 2
# Fragments are counted against their bytes: 65,536 of 64 bytes are legal (Autobahn 9.3.1), 500,000 empty ones attack.
FREE_FRAGMENTS = 16 * 1024
BYTES_PER_FRAGMENT = 16
# Messages of fewer bytes are sent as they are, unless the application wants otherwise: they cannot get any shorter. Of
# 28 bytes of JSON deflate leaves 16, thanks to the messages before, and takes 2 us.
LEAST_DEFLATED = 16

# RFC 6455 §7.4.1
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL = 1000, 1001, 1002, 1005, 1006
BAD_DATA, POLICY, TOO_BIG, INTERNAL_ERROR, SERVICE_RESTART = 1007, 1008, 1009, 1011, 1012

# RFC 6455 §5.2
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NO_MESSAGE = -1  # in place of an opcode
FIN, RSV1 = 0x80, 0x40
_length_16 = Struct("!BBH").pack
_length_64 = Struct("!BBQ").pack
_utf8_decoder = getincrementaldecoder("utf-8")
_NO_RSV = RsvBits(False, False, False)
_RSV1 = RsvBits(True, False, False)


def is_close_code(code: int) -> bool:
    """Whether *code* may stand in a Close frame: registered (RFC 6455 §7.4.1, IANA) or free to use (§7.4.2)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


# --- frames (RFC 6455 §5.2)


class HeaderRule(Extension):
    """Judges a frame by its header, before any of its payload has come. RSV bits not claimed here are refused by the
    decoder."""

    name = "geventgate-header"

    def __init__(self, room: int, deflate: bool, compressed: bool) -> None:
        self.room = room  # bytes the message being received may still grow by
        self.deflate = deflate  # permessage-deflate is agreed
        self.compressed = compressed  # whether the message being received is

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # Asked again when a header comes in pieces, so nothing may be counted here.
        if opcode >= Opcode.CLOSE:
            return _NO_RSV
        # "An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and non-first fragments" (RFC
        # 7692 §6.1)
        if opcode is not Opcode.CONTINUATION:
            self.compressed = rsv.rsv1 and self.deflate
            if self.compressed:
                return _RSV1
        # What is compressed is judged by what it inflates to.
        return CloseReason.MESSAGE_TOO_BIG if payload_length > self.room and not self.compressed else _NO_RSV


class FrameCodec:
    """Bytes to frames; a frame of data comes in the pieces it arrives in, unmasked, a control frame whole."""

    __slots__ = ("opcode", "complete", "fin", "_decoder", "_rule")

    def __init__(self, room: int, deflate: bool = False, compressed: bool = False) -> None:
        # Of the last frame().
        self.opcode = CONTINUATION
        self.complete = False  # it was the frame's last piece
        self.fin = False  # the frame is its message's last
        self._rule = HeaderRule(room, deflate, compressed)
        self._decoder = FrameDecoder(client=False, extensions=[self._rule])

    @property
    def compressed(self) -> bool:
        """Whether the last frame of data belongs to a compressed message."""
        return self._rule.compressed

    def allow(self, room: int) -> None:
        """The next frames of data may carry *room* bytes."""
        self._rule.room = room

    def feed(self, data: bytes) -> None:
        self._decoder.receive_bytes(data)

    def frame(self) -> bytes | None:
        """The payload of the next piece of a frame, or None: more bytes are needed. Raises PeerError."""
        try:
            frame = self._decoder.process_buffer()
        except ParseFailed as error:
            if error.code == CloseReason.MESSAGE_TOO_BIG:
                raise _too_big() from None
            raise _fault(error.code, str(error)) from None
        if frame is None:
            return None
        self.opcode, payload, self.complete, self.fin = frame
        assert isinstance(payload, bytes)
        return payload

    def encode(self, opcode: int, payload: Bytes, fin: bool = True, rsv1: bool = False) -> tuple[Bytes, Bytes]:
        return encode(opcode, payload, fin, rsv1)


def frame_codec(room: int, deflate: bool) -> FrameCodec:
    """Messages may grow to *room* bytes; *deflate*: permessage-deflate is agreed."""
    return FrameCodec(room, deflate)


def encode(opcode: int, payload: Bytes, fin: bool = True, rsv1: bool = False) -> tuple[Bytes, Bytes]:
    """A frame as buffers: its header, and *payload* uncopied. "A server MUST NOT mask any frames" (RFC 6455 §5.1)."""
    size = len(payload)
    first = opcode | (FIN if fin else 0) | (RSV1 if rsv1 else 0)
    if size <= 125:
        return bytes((first, size)), payload
    if size <= 0xFFFF:
        return _length_16(first, 126, size), payload
    return _length_64(first, 127, size), payload


# --- messages (RFC 6455 §5.4-§8)


def _no_pause() -> None:
    pass


class State(Enum):
    OPEN = auto()
    CLOSING = auto()  # our Close is said, the peer's awaited: what else comes is dropped
    CLOSED = auto()  # nothing is read, and nothing sent but what is owed


OPEN, CLOSING, CLOSED = State


class WebSocketProtocol:
    """One WebSocket: ``feed()``, ``next_message()`` and ``next_piece()`` receive; the other methods return the buffers
    to send. Messages are compressed as *deflate* says (RFC 7692).

    ``owed`` is what must be sent between any two frames: pongs, pings, a Close. A fault of the peer's is never
    raised: it is kept in ``fault``, a Close that names it is owed, and the state is CLOSED (RFC 6455 §7.1.7).
    """

    __slots__ = (
        "state", "close_code", "close_reason", "fault", "owed", "compresses",
        "_codec", "_max_size", "_opcode", "_held", "_size", "_utf8", "_fragments", "_inflater", "_inflating", "_ends",
        "_sending", "_deflater", "_deflating",
    )  # fmt: skip

    def __init__(self, max_message_size: int, deflate: Agreement | None = None) -> None:
        self.state = OPEN
        self.close_code: int | None = None  # of the first Close, the peer's or ours; 1005: it had none; 1006: none came
        self.close_reason = ""
        self.fault: PeerError | None = None
        self.owed: list[Bytes] = []
        self.compresses = deflate is not None  # messages may be compressed, each by what the ones before have said
        self._max_size = min(max_message_size, sys.maxsize)
        self._codec = frame_codec(self._max_size, deflate is not None)
        # The message being received, unless it came in one piece.
        self._opcode = NO_MESSAGE
        self._held: bytes | bytearray = b""  # of it, and not given out
        self._size = 0  # of all that has come, inflated
        self._utf8: IncrementalDecoder | None = None
        self._fragments = 0
        self._inflater = Inflater(deflate) if deflate else None
        self._inflating = False  # it may have more to give
        self._ends = False  # and then the message ends
        # The message being sent in fragments: its opcode, and whether it is compressed.
        self._sending = NO_MESSAGE
        self._deflater = Deflater(deflate) if deflate else None
        self._deflating = False

    # --- receiving

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer's. Behind its Close they mean nothing (RFC 6455 §5.5.1)."""
        if self.state is not CLOSED:
            self._codec.feed(data)

    def next_message(self, most: int = sys.maxsize) -> Message | None:
        """The next message, or the rest of one begun by next_piece(). None: more bytes are needed; or, if the state is
        CLOSED, there will be no more; or *most* bytes of one are held, and more would be."""
        try:
            while (ends := self._advance()) is not None:
                if ends:
                    return self._take(True)
                if len(self._held) >= most:
                    break
        except PeerError as error:
            self._fail(error)
        return None

    def next_piece(self) -> tuple[Message, bool] | None:
        """What has come of a message, text up to its last whole character, and whether that is its end. None: more
        bytes are needed, or, if the state is CLOSED, there will be no more."""
        try:
            ends: bool | None = False  # what is held comes first
            while ends is not None:
                piece = self._take(ends) if self._opcode != NO_MESSAGE else b""
                if piece or ends:
                    return piece, ends
                ends = self._advance()
        except PeerError as error:
            self._fail(error)
        return None

    def held(self) -> int:
        """Bytes of an unfinished message that next_message() has gathered."""
        return len(self._held)

    def lost(self, why: str) -> None:
        """The bytes have ended, or can no longer be sent."""
        if self.state is not CLOSED:
            self._note_close(ABNORMAL, why)
            self.state = CLOSED
        self.owed.clear()

    def _advance(self) -> bool | None:
        """Hold the next data of a message; whether it ends it. None: more bytes are needed, or no more will come."""
        while self.state is not CLOSED:
            if self._inflating:
                assert self._inflater is not None
                data = self._inflater.inflate()
                if data is None:
                    self._inflating = False
                    if not self._ends:
                        continue
                ends = data is None
                self._hold(data or b"", ends)
                return ends
            codec = self._codec
            payload = codec.frame()
            if payload is None:
                return None
            ends = codec.complete and codec.fin
            if codec.opcode >= CLOSE:
                self._control(codec.opcode, payload)
            elif self.state is OPEN and self._data(codec.opcode, payload, codec.complete, ends):
                return ends
        return None

    def _data(self, opcode: int, payload: bytes, complete: bool, ends: bool) -> bool:
        """Take a piece of a data frame, *complete* when it is the frame's last, and *ends* when the message's. Whether
        it is held now: what is compressed is not, before it is inflated."""
        compressed = self._codec.compressed
        if self._opcode == NO_MESSAGE:
            if opcode == CONTINUATION:
                raise _fault(PROTOCOL_ERROR, "a continuation of no message")
            self._opcode = opcode
            if ends and not compressed:  # in one piece, as nearly all are
                self._held = payload
                return True
            self._utf8 = _utf8_decoder() if opcode == TEXT else None
        elif opcode != CONTINUATION:
            # "the fragments of one message MUST NOT be interleaved between the fragments of another message"
            raise _fault(PROTOCOL_ERROR, "a message inside another")
        if complete:
            self._fragments += 1
            if self._fragments > FREE_FRAGMENTS + (self._size + len(payload)) // BYTES_PER_FRAGMENT:
                raise _fault(POLICY, "too many fragments for so little")
        if compressed:
            assert self._inflater is not None
            self._inflater.feed(payload, ends)
            self._inflating, self._ends = True, ends
            return False
        self._hold(payload, ends)
        return True

    def _hold(self, data: bytes, ends: bool) -> None:
        """Judge the next data of a message, inflated, and keep it."""
        self._size += len(data)
        if self._size > self._max_size:
            raise _too_big()
        if self._utf8 is not None:
            try:
                self._utf8.decode(data, ends)  # judged as it comes; decoded when it is given out
            except UnicodeDecodeError:
                raise _fault(BAD_DATA, "the text is not UTF-8") from None
        if isinstance(self._held, bytes):
            self._held = bytearray(self._held)
        self._held += data
        self._codec.allow(self._max_size - self._size)

    def _take(self, ends: bool) -> Message:
        """Give out what is held, all but the beginning of a character."""
        held = self._held
        cut = b"" if self._utf8 is None else self._utf8.getstate()[0]
        if cut:
            held = held[: len(held) - len(cut)]
        if self._opcode == TEXT:
            message: Message = _text(held)
        else:
            message = held if isinstance(held, bytes) else bytes(held)
        if ends:
            self._forget()
        else:
            self._held = cut
        return message

    def _forget(self) -> None:
        """Drop what was received of a message."""
        self._opcode = NO_MESSAGE
        self._utf8 = None
        self._held = b""
        self._size = self._fragments = 0
        self._inflating = False
        self._codec.allow(self._max_size)

    def _control(self, opcode: int, payload: bytes) -> None:
        """Control frames, which may come between fragments (RFC 6455 §5.5)."""
        if opcode == PING and self.state is OPEN:
            self._owe(PONG, payload)
        elif opcode == CLOSE:
            code, reason = parse_close(payload)
            self._note_close(code, reason)
            if self.state is OPEN:
                # "it typically echos the status code it received" (RFC 6455 §5.5.1)
                self._owe(CLOSE, payload[:2])
            self._end()

    def _fail(self, fault: PeerError) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 §7.1.7)."""
        self.fault = fault
        if self.state is OPEN:
            self._owe(CLOSE, close_payload(fault.close_code, str(fault)))
        self._note_close(fault.close_code, str(fault))
        self._end()

    def _end(self) -> None:
        self.state = CLOSED
        self._forget()

    def _note_close(self, code: int, reason: str) -> None:
        """The first Close says why it closed (RFC 6455 §7.1.5), whoever sent it."""
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason

    # --- sending

    def message(
        self, message: Message | Bytes, compress: bool | None = None, pause: Callable[[], None] = _no_pause
    ) -> tuple[Bytes, ...]:
        """A whole message: str is text, anything else binary. Raises WebSocketError when no longer open.

        *compress* says whether to, if it is agreed; None leaves small ones alone. *pause* is called now and then where
        that takes time; what it raises leaves the message unsent.
        """
        self.check_open()
        if self._sending != NO_MESSAGE:
            raise ApplicationError("a message is being sent in fragments: finish it first")
        opcode, payload = (BINARY, message) if type(message) is bytes else _opcode_and_payload(message)
        if self._deflater is None or not (len(payload) >= LEAST_DEFLATED if compress is None else compress):
            return self._codec.encode(opcode, payload)
        return self._codec.encode(opcode, self._deflater.deflate(payload, True, pause), True, True)

    def fragment(
        self, part: Message | Bytes, compress: bool | None = None, pause: Callable[[], None] = _no_pause
    ) -> tuple[Bytes, ...]:
        """The next fragment of a message; the first one opens it, and says whether to *compress* it (None: if agreed);
        end_fragments() closes it (RFC 6455 §5.4)."""
        self.check_open()
        opcode, payload = _opcode_and_payload(part)
        first = self._sending == NO_MESSAGE
        if first:
            self._sending = opcode
            self._deflating = self._deflater is not None and compress is not False
        elif opcode != self._sending:
            raise ApplicationError("the fragments of a message are all text or all binary")
        if self._deflating:
            assert self._deflater is not None
            payload = self._deflater.deflate(payload, False, pause)
        return self._codec.encode(opcode if first else CONTINUATION, payload, False, first and self._deflating)

    def end_fragments(self) -> tuple[Bytes, ...]:
        """The end of the message fragment() opened; nothing if it opened none."""
        self.check_open()
        if self._sending == NO_MESSAGE:
            return ()
        self._sending = NO_MESSAGE
        if self._deflating:
            assert self._deflater is not None
            return self._codec.encode(CONTINUATION, self._deflater.deflate(b"", True, _no_pause))
        return self._codec.encode(CONTINUATION, b"")

    def ping(self, payload: bytes = b"") -> None:
        """Owe the peer a ping. Raises ValueError beyond 125 bytes."""
        self.check_open()
        self._owe(PING, payload)

    def pong(self, payload: bytes = b"") -> None:
        """Owe a pong nobody asked for: a heartbeat in one direction (RFC 6455 §5.5.3)."""
        self.check_open()
        self._owe(PONG, payload)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake: a Close is owed. Does nothing unless open. Raises ValueError."""
        payload = close_payload(code, reason)
        if self.state is OPEN:
            self._owe(CLOSE, payload)
            self._note_close(code, reason)
            self.state = CLOSING
            self._forget()

    def take_owed(self) -> list[Bytes]:
        """What is owed, for the caller to send."""
        owed, self.owed = self.owed, []
        return owed

    def _owe(self, opcode: int, payload: bytes) -> None:
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a control frame carries at most {MAX_CONTROL} bytes")
        self.owed.append(b"".join(self._codec.encode(opcode, payload)))

    def check_open(self) -> None:
        """Raise WebSocketError unless messages may be sent."""
        if self.state is not OPEN:
            code = self.close_code or ABNORMAL
            why = f"the WebSocket is closed: {code} {self.close_reason}".rstrip()
            raise WebSocketError(why, code, self.close_reason)


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a Close frame; 1005 when it has none (RFC 6455 §5.5.1, §7.4). Raises PeerError."""
    if not payload:
        return NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not is_close_code(code):
        raise _fault(PROTOCOL_ERROR, "no such close code")
    return code, _text(payload[2:])


def close_payload(code: int, reason: str) -> bytes:
    """The payload of a Close frame. Raises ValueError for what may not stand in one."""
    if not is_close_code(code):
        raise ValueError(f"{code} cannot be sent as a close code (RFC 6455 §7.4)")
    text = reason.encode("utf-8")
    if len(text) > MAX_REASON:
        raise ValueError(f"a close reason has at most {MAX_REASON} bytes in UTF-8")
    return code.to_bytes(2, "big") + text


def _opcode_and_payload(message: Message | Bytes) -> tuple[int, Bytes]:
    if isinstance(message, str):
        return TEXT, message.encode("utf-8")
    if isinstance(message, (bytes, bytearray)):
        return BINARY, message
    if isinstance(message, memoryview):
        return BINARY, message.tobytes()  # its items may be larger than bytes, or apart
    raise ApplicationError(f"a message is str or bytes, not {type(message).__name__}")


def _text(payload: bytes | bytearray) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        raise _fault(BAD_DATA, "the text is not UTF-8") from None


def _too_big() -> PeerError:
    return _fault(TOO_BIG, "the message is too big")


def _fault(close_code: int, why: str) -> PeerError:
    return PeerError(400, why, close_code=close_code)


frame_codec = native.twin(frame_codec, "geventgate.protocol._frames")
