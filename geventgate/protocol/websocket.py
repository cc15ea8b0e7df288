"""The WebSocket protocol behind its opening handshake, server's side (RFC 6455 §5-§8), as values in and bytes out.

Knows no socket and no clock. Two floors: FrameCodec turns bytes into frames and back, WebSocketProtocol holds the
rules of messages, control frames and closing. Received bytes are parsed message by message as they are asked for,
so what a peer sends ahead is held as it came.
"""

from codecs import IncrementalDecoder, getincrementaldecoder
from enum import Enum, auto
from struct import Struct

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Frame, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

from geventgate.errors import ApplicationError, PeerError, WebSocketError
from geventgate.exchange import Bytes

Message = str | bytes

MAX_CONTROL = 125  # bytes of a control frame's payload (RFC 6455 §5.5)
MAX_REASON = MAX_CONTROL - 2
# Fragments are counted against their bytes: 65,536 of 64 bytes are legal (Autobahn 9.3.1), 500,000 empty ones attack.
FREE_FRAGMENTS = 16 * 1024
BYTES_PER_FRAGMENT = 16

# RFC 6455 §7.4.1
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL = 1000, 1001, 1002, 1005, 1006
BAD_DATA, POLICY, INTERNAL_ERROR = 1007, 1008, 1011

FIN, RSV1 = 0x80, 0x40
_length_16 = Struct("!BBH").pack
_length_64 = Struct("!BBQ").pack
_utf8_decoder = getincrementaldecoder("utf-8")
_NO_RSV = RsvBits(False, False, False)


def is_close_code(code: int) -> bool:
    """Whether *code* may stand in a Close frame: registered (RFC 6455 §7.4.1, IANA) or free to use (§7.4.2)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


# --- frames (RFC 6455 §5.2)


class SizeRule(Extension):
    """Judges a frame by its header, before any of its payload has come. Set RSV bits are refused by the decoder."""

    name = "geventgate-size"

    def __init__(self, room: int) -> None:
        self.room = room  # bytes the message being received may still grow by

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # Asked again when a header comes in pieces, so nothing may be counted here.
        return CloseReason.MESSAGE_TOO_BIG if payload_length > self.room and opcode < Opcode.CLOSE else _NO_RSV


class FrameCodec:
    """Bytes to frames and back; a frame of data comes in the pieces it arrives in, unmasked, a control frame whole."""

    __slots__ = ("_decoder", "_size")

    def __init__(self, room: int) -> None:
        self._size = SizeRule(room)
        self._decoder = FrameDecoder(client=False, extensions=[self._size])

    def allow(self, room: int) -> None:
        """The next frames of data may carry *room* bytes."""
        self._size.room = room

    def feed(self, data: bytes) -> None:
        self._decoder.receive_bytes(data)

    def frame(self) -> Frame | None:
        """The next piece of a frame, or None: more bytes are needed. Raises PeerError."""
        try:
            return self._decoder.process_buffer()
        except ParseFailed as error:
            too_big = error.code == CloseReason.MESSAGE_TOO_BIG
            raise _fault(error.code, "the message is too big" if too_big else str(error)) from None


def encode(opcode: int, payload: Bytes, fin: bool = True, rsv1: bool = False) -> list[Bytes]:
    """A frame as buffers: its header, and *payload* uncopied. "A server MUST NOT mask any frames" (RFC 6455 §5.1)."""
    size = len(payload)
    first = opcode | (FIN if fin else 0) | (RSV1 if rsv1 else 0)
    if size <= 125:
        return [bytes((first, size)), payload]
    if size <= 0xFFFF:
        return [_length_16(first, 126, size), payload]
    return [_length_64(first, 127, size), payload]


# --- messages (RFC 6455 §5.4-§8)


class State(Enum):
    OPEN = auto()
    CLOSING = auto()  # our Close is said, the peer's awaited: what else comes is dropped
    CLOSED = auto()  # nothing is read, and nothing sent but what is owed


class WebSocketProtocol:
    """One WebSocket: ``feed()`` and ``next_message()`` receive; the other methods return the buffers to send.

    ``owed`` is what must be sent between any two frames: pongs, pings, a Close. A fault of the peer's is never
    raised: it is kept in ``fault``, a Close that names it is owed, and the state is CLOSED (RFC 6455 §7.1.7).
    """

    __slots__ = (
        "state", "close_code", "close_reason", "fault", "owed",
        "_codec", "_max_size", "_opcode", "_data", "_utf8", "_fragments", "_sending",
    )  # fmt: skip

    def __init__(self, max_message_size: int) -> None:
        self.state = State.OPEN
        self.close_code: int | None = None  # of the first Close, the peer's or ours; 1005: it had none; 1006: none came
        self.close_reason = ""
        self.fault: PeerError | None = None
        self.owed: list[Bytes] = []
        self._codec = FrameCodec(max_message_size)
        self._max_size = max_message_size
        # The message being received, unless it came in one piece.
        self._opcode: Opcode | None = None
        self._data = bytearray()
        self._utf8: IncrementalDecoder | None = None
        self._fragments = 0
        # The opcode of the message being sent in fragments.
        self._sending: Opcode | None = None

    # --- receiving

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer's. Behind its Close they mean nothing (RFC 6455 §5.5.1)."""
        if self.state is not State.CLOSED:
            self._codec.feed(data)

    def next_message(self) -> Message | None:
        """The next message, or None: more bytes are needed, or, if the state is CLOSED, there will be no more."""
        while self.state is not State.CLOSED:
            try:
                frame = self._codec.frame()
                if frame is None:
                    return None
                opcode, payload, complete, fin = frame
                assert isinstance(payload, bytes)
                if opcode >= Opcode.CLOSE:
                    self._control(opcode, payload)
                elif self.state is State.OPEN:
                    message = self._message(opcode, payload, complete, complete and fin)
                    if message is not None:
                        return message
            except PeerError as error:
                self._fail(error)
        return None

    def lost(self, why: str) -> None:
        """The bytes have ended, or can no longer be sent."""
        if self.state is not State.CLOSED:
            self._note_close(ABNORMAL, why)
            self.state = State.CLOSED
        self.owed.clear()

    def _message(self, opcode: Opcode, payload: bytes, complete: bool, ends: bool) -> Message | None:
        """Take a piece of a data frame, *complete* when it is the frame's last, and *ends* when the message's."""
        if self._opcode is None:
            if opcode is Opcode.CONTINUATION:
                raise _fault(PROTOCOL_ERROR, "a continuation of no message")
            if ends:  # in one piece, as nearly all are
                return payload if opcode is Opcode.BINARY else _text(payload)
            self._opcode = opcode
            self._utf8 = _utf8_decoder() if opcode is Opcode.TEXT else None
        elif opcode is not Opcode.CONTINUATION:
            # "the fragments of one message MUST NOT be interleaved between the fragments of another message"
            raise _fault(PROTOCOL_ERROR, "a message inside another")
        if self._utf8 is not None:
            try:
                self._utf8.decode(payload, ends)  # judged as it comes; decoded at once in the end
            except UnicodeDecodeError:
                raise _fault(BAD_DATA, "the text is not UTF-8") from None
        self._data += payload
        if complete:
            self._fragments += 1
            if self._fragments > FREE_FRAGMENTS + len(self._data) // BYTES_PER_FRAGMENT:
                raise _fault(POLICY, "too many fragments for so little")
            self._codec.allow(self._max_size - len(self._data))
        return self._whole() if ends else None

    def _whole(self) -> Message:
        data = self._data
        message = bytes(data) if self._utf8 is None else data.decode("utf-8")
        self._forget()
        return message

    def _forget(self) -> None:
        """Drop what was received of a message."""
        self._opcode = self._utf8 = None
        self._data = bytearray()
        self._fragments = 0
        self._codec.allow(self._max_size)

    def _control(self, opcode: Opcode, payload: bytes) -> None:
        """Control frames, which may come between fragments (RFC 6455 §5.5)."""
        if opcode is Opcode.PING and self.state is State.OPEN:
            self._owe(Opcode.PONG, payload)
        elif opcode is Opcode.CLOSE:
            code, reason = parse_close(payload)
            self._note_close(code, reason)
            if self.state is State.OPEN:
                # "it typically echos the status code it received" (RFC 6455 §5.5.1)
                self._owe(Opcode.CLOSE, payload[:2])
            self._end()

    def _fail(self, fault: PeerError) -> None:
        """_Fail the WebSocket Connection_ (RFC 6455 §7.1.7)."""
        self.fault = fault
        if self.state is State.OPEN:
            self._owe(Opcode.CLOSE, close_payload(fault.close_code, str(fault)))
        self._note_close(fault.close_code, str(fault))
        self._end()

    def _end(self) -> None:
        self.state = State.CLOSED
        self._forget()

    def _note_close(self, code: int, reason: str) -> None:
        """The first Close says why it closed (RFC 6455 §7.1.5), whoever sent it."""
        if self.close_code is None:
            self.close_code = code
            self.close_reason = reason

    # --- sending

    def message(self, message: Message | Bytes) -> list[Bytes]:
        """A whole message: str is text, anything else binary. Raises WebSocketError when no longer open."""
        self.check_open()
        if self._sending is not None:
            raise ApplicationError("a message is being sent in fragments: finish it first")
        return encode(*_opcode_and_payload(message))

    def fragment(self, part: Message | Bytes) -> list[Bytes]:
        """The next fragment of a message; the first one opens it, end_fragments() closes it (RFC 6455 §5.4)."""
        self.check_open()
        opcode, payload = _opcode_and_payload(part)
        if self._sending is None:
            self._sending = opcode
            return encode(opcode, payload, fin=False)
        if opcode is not self._sending:
            raise ApplicationError("the fragments of a message are all text or all binary")
        return encode(Opcode.CONTINUATION, payload, fin=False)

    def end_fragments(self) -> list[Bytes]:
        """The end of the message fragment() opened; nothing if it opened none."""
        self.check_open()
        if self._sending is None:
            return []
        self._sending = None
        return encode(Opcode.CONTINUATION, b"")

    def ping(self, payload: bytes = b"") -> None:
        """Owe the peer a ping. Raises ValueError beyond 125 bytes."""
        self.check_open()
        self._owe(Opcode.PING, payload)

    def pong(self, payload: bytes = b"") -> None:
        """Owe a pong nobody asked for: a heartbeat in one direction (RFC 6455 §5.5.3)."""
        self.check_open()
        self._owe(Opcode.PONG, payload)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake: a Close is owed. Does nothing unless open. Raises ValueError."""
        payload = close_payload(code, reason)
        if self.state is State.OPEN:
            self._owe(Opcode.CLOSE, payload)
            self._note_close(code, reason)
            self.state = State.CLOSING
            self._forget()

    def take_owed(self) -> list[Bytes]:
        """What is owed, for the caller to send."""
        owed, self.owed = self.owed, []
        return owed

    def _owe(self, opcode: Opcode, payload: bytes) -> None:
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a control frame carries at most {MAX_CONTROL} bytes")
        self.owed.append(b"".join(encode(opcode, payload)))

    def check_open(self) -> None:
        """Raise WebSocketError unless messages may be sent."""
        if self.state is not State.OPEN:
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


def _opcode_and_payload(message: Message | Bytes) -> tuple[Opcode, Bytes]:
    if isinstance(message, str):
        return Opcode.TEXT, message.encode("utf-8")
    if isinstance(message, (bytes, bytearray)):
        return Opcode.BINARY, message
    if isinstance(message, memoryview):
        return Opcode.BINARY, message.tobytes()  # its items may be larger than bytes, or apart
    raise ApplicationError(f"a message is str or bytes, not {type(message).__name__}")


def _text(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        raise _fault(BAD_DATA, "the text is not UTF-8") from None


def _fault(close_code: int, why: str) -> PeerError:
    return PeerError(400, why, close_code=close_code)
