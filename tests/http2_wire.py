"""A raw HTTP/2 client for tests: it sends any octets, legal or not, and keeps what comes back.

hyperframe and hpack do the frames and the field blocks; there is no state machine (h2) that would refuse to misbehave,
and no gevent. What has come is kept, so that every method may be called at any time: what came before counts.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT = 10.0  # seconds until a condition that should hold at once counts as failed
FRAME_SIZE = 16_384  # SETTINGS_MAX_FRAME_SIZE, as every peer must accept it

# Frame types (RFC 9113 §6) and flags, for octets that hyperframe would not build
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY_FLAG = 0x4, 0x8, 0x20

# Error codes (RFC 9113 §7)
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)

Text = str | bytes
Fields = list[tuple[str, str]]
Address = tuple[str, int] | str  # a path is a unix socket's


def raw_frame(type_: int, flags: int, stream_id: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Any frame at all; *length* is what its head says, when that shall not be the truth."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((type_, flags)) + stream_id.to_bytes(4, "big") + payload


def request(
    method: str = "GET", path: str = "/", *more: tuple[Text, Text], scheme: str = "http", authority: str = "localhost"
) -> list[tuple[Text, Text]]:
    """The fields of a request, *more* behind the four pseudo-header fields."""
    return [(":method", method), (":scheme", scheme), (":path", path), (":authority", authority), *more]


@dataclass
class Response:
    """What has come on one stream so far."""

    status: int = 0  # 0: no final response yet
    fields: Fields = field(default_factory=list)
    content: bytes = b""
    trailers: Fields = field(default_factory=list)
    interim: list[Fields] = field(default_factory=list)  # the fields of each 1xx response, with :status
    ended: bool = False  # END_STREAM has come
    reset: int | None = None  # the code of its RST_STREAM


class Wire:
    """One connection. ``credit=False`` leaves the server's windows to the test; else they are refilled on each DATA."""

    def __init__(self, address: Address, *, tls: bool = False, timeout: float = TIMEOUT, credit: bool = True) -> None:
        self.timeout = timeout
        self.credit = credit
        self.acknowledge = True  # the server's SETTINGS and PINGs, as they come
        self.scheme = "https" if tls else "http"
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.frames: list[Frame] = []  # all that has come
        self.settings: dict[int, int] = {}  # the server's
        self.streams: dict[int, Response] = {}
        self.promises: dict[int, Fields] = {}  # promised stream: the request's fields
        self.goaway: GoAwayFrame | None = None  # the last one
        self.closed = False  # the server has closed, or reset, the connection
        self.ragged = False  # and over TLS it did not say so (RFC 8446 §6.1)
        self.rest = bytearray()  # octets that are no whole frame yet
        self._block: HeadersFrame | PushPromiseFrame | None = None  # a field block under way
        self._fragments = b""
        self._pings = count(1)
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        else:
            self.socket = socket.create_connection(address, timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            secure = context.wrap_socket(self.socket, server_hostname="localhost", suppress_ragged_eofs=False)
            self.socket = secure
            assert secure.selected_alpn_protocol() == "h2", f"ALPN gave {secure.selected_alpn_protocol()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def handshake(self, settings: dict[int, int] | None = None) -> Self:
        """The preface with our *settings*; then both sides' SETTINGS have been received and acknowledged."""
        self.send(PREFACE, SettingsFrame(settings=settings or {}))
        self.until(lambda: bool(self.settings_received and self.settings_acknowledged), "SETTINGS and its ACK")
        return self

    @property
    def settings_received(self) -> int:
        return sum(isinstance(frame, SettingsFrame) and "ACK" not in frame.flags for frame in self.frames)

    @property
    def settings_acknowledged(self) -> int:
        return sum(isinstance(frame, SettingsFrame) and "ACK" in frame.flags for frame in self.frames)

    # Sending

    def send(self, *pieces: Frame | bytes) -> None:
        """In one write. A connection that the server has closed takes it silently: what it sent is still to be read."""
        octets = b"".join(piece.serialize() if isinstance(piece, Frame) else piece for piece in pieces)
        try:
            self.socket.sendall(octets)
        except TimeoutError as error:
            raise AssertionError(f"the server took no octets for {self.timeout} s") from error
        except OSError:
            pass

    def block(self, fields: Iterable[tuple[Text, Text]]) -> bytes:
        """A field block, by our one encoder: every block it makes has to be sent, and in that order."""
        return self.encoder.encode(fields)

    def headers(
        self,
        stream_id: int,
        fields: Iterable[tuple[Text, Text]] | None = None,
        *,
        end_stream: bool = True,
        end_headers: bool = True,
    ) -> None:
        """A GET without *fields*. HEADERS, and as many CONTINUATIONs as the block needs."""
        self.send(self.headers_octets(stream_id, fields, end_stream=end_stream, end_headers=end_headers))

    def headers_octets(
        self,
        stream_id: int,
        fields: Iterable[tuple[Text, Text]] | None = None,
        *,
        end_stream: bool = True,
        end_headers: bool = True,
    ) -> bytes:
        block = self.block(request(scheme=self.scheme) if fields is None else fields)
        pieces = [block[start : start + FRAME_SIZE] for start in range(0, len(block), FRAME_SIZE)] or [b""]
        octets = b""
        for number, piece in enumerate(pieces):
            flags = END_HEADERS if end_headers and number == len(pieces) - 1 else 0
            flags |= END_STREAM if end_stream and number == 0 else 0
            octets += raw_frame(CONTINUATION if number else HEADERS, flags, stream_id, piece)
        return octets

    def data(self, stream_id: int, content: bytes = b"", *, end_stream: bool = True) -> None:
        """One DATA frame, however long."""
        self.send(raw_frame(DATA, END_STREAM if end_stream else 0, stream_id, content))

    # Receiving

    def until(self, holds: Callable[[], bool], what: str, timeout: float | None = None) -> None:
        """Read until *holds* does. AssertionError, saying *what* was awaited and what came, on timeout or close."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not holds():
            if self.closed or not self._receive(deadline):
                why = "the connection closed" if self.closed else "it did not come in time"
                raise AssertionError(f"no {what}: {why}; received: {self.frames or 'nothing'}")

    def poll(self, seconds: float = 0.001) -> None:
        """Take in what has come, and what comes within *seconds*."""
        deadline = time.monotonic() + seconds
        while not self.closed and self._receive(deadline):
            pass

    def await_close(self, timeout: float | None = None) -> None:
        """Read until the server has closed the connection."""
        self.until(lambda: self.closed, "close of the connection", timeout)

    def response(self, stream_id: int, timeout: float | None = None) -> Response:
        """The stream's whole response. AssertionError when it is reset, or the connection ends, before that."""
        stream = self.stream(stream_id)
        self.until(lambda: stream.ended or stream.reset is not None, f"response on stream {stream_id}", timeout)
        assert stream.ended, f"stream {stream_id} was reset with {stream.reset}; received: {self.frames}"
        return stream

    def expect_connection_error(self, *codes: int, timeout: float | None = None) -> None:
        """A GOAWAY with one of the *codes*, or the connection's close, whatever else was sent."""
        self.until(lambda: self._connection_error(codes), f"GOAWAY with {codes} or close", timeout)

    def expect_stream_error(self, stream_id: int, *codes: int, timeout: float | None = None) -> None:
        """A RST_STREAM with one of the *codes*, or a connection error in its place (RFC 9113 §5.4.2 lets it be)."""
        stream = self.stream(stream_id)
        self.until(
            lambda: stream.reset in codes or self._connection_error(codes),
            f"RST_STREAM or GOAWAY with {codes}, or close",
            timeout,
        )

    def ping_ok(self, timeout: float | None = None) -> None:
        """The connection still works, and all that was sent before has been read: a PING comes back."""
        opaque = b"ping%04d" % next(self._pings)
        self.send(PingFrame(opaque_data=opaque))
        self.until(lambda: self._pong(opaque), f"PING ACK with {opaque!r}", timeout)

    def stream(self, stream_id: int) -> Response:
        return self.streams.setdefault(stream_id, Response())

    def _connection_error(self, codes: tuple[int, ...]) -> bool:
        return self.closed or any(isinstance(frame, GoAwayFrame) and frame.error_code in codes for frame in self.frames)

    def _pong(self, opaque: bytes) -> bool:
        return any(
            isinstance(frame, PingFrame) and "ACK" in frame.flags and frame.opaque_data == opaque
            for frame in reversed(self.frames)
        )

    def _receive(self, deadline: float) -> bool:
        """Reads once and takes in every whole frame; False when the deadline is over."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        self.socket.settimeout(left)
        try:
            octets = self.socket.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError as error:
            octets, self.ragged = b"", isinstance(error, ssl.SSLEOFError)
        finally:
            self.socket.settimeout(self.timeout)
        self.closed = not octets
        self.rest += octets
        while len(self.rest) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self.rest[:9])))
            if len(self.rest) < 9 + length:
                break
            frame.parse_body(memoryview(bytes(self.rest[9 : 9 + length])))
            del self.rest[: 9 + length]
            self._take(frame, length)
        return True

    def _take(self, frame: Frame, length: int) -> None:
        self.frames.append(frame)
        match frame:
            case DataFrame():
                stream = self.stream(frame.stream_id)
                stream.content += frame.data
                stream.ended = "END_STREAM" in frame.flags
                if self.credit and length:
                    self.send(
                        WindowUpdateFrame(0, window_increment=length),
                        *([] if stream.ended else [WindowUpdateFrame(frame.stream_id, window_increment=length)]),
                    )
            case HeadersFrame() | PushPromiseFrame():
                self._block, self._fragments = frame, frame.data
            case ContinuationFrame():
                self._fragments += frame.data
            case SettingsFrame() if "ACK" not in frame.flags:
                self.settings |= frame.settings
                if self.acknowledge:
                    self.send(SettingsFrame(flags=["ACK"]))
            case PingFrame() if "ACK" not in frame.flags and self.acknowledge:
                self.send(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]))
            case RstStreamFrame():
                self.stream(frame.stream_id).reset = frame.error_code
            case GoAwayFrame():
                self.goaway = frame
        if "END_HEADERS" in frame.flags and self._block is not None:
            self._take_block(self._block, self.decoder.decode(self._fragments))
            self._block = None

    def _take_block(self, frame: HeadersFrame | PushPromiseFrame, decoded: Iterable[tuple[Text, Text]]) -> None:
        fields = [(str(name), str(value)) for name, value in decoded]
        if isinstance(frame, PushPromiseFrame):
            self.promises[frame.promised_stream_id] = fields
            return
        stream = self.stream(frame.stream_id)
        status = int(dict(fields).get(":status", "0"))
        if stream.status:
            stream.trailers = fields
        elif 100 <= status < 200:
            stream.interim.append(fields)
        else:
            stream.status, stream.fields = status, fields
        stream.ended = "END_STREAM" in frame.flags
