"""The socket of a WebSocket handshake, for applications that write even the 101 themselves: simple-websocket, and with
it flask-sock and Flask-SocketIO. Opens no socket, and knows no server.

They look for it where gevent's server has its own, ``environ["wsgi.input"].raw._sock``. Nothing happens before they
write: until then they may answer otherwise. The head they write is parsed and said through the exchange, so that it
serves over HTTP/1.1, TLS and HTTP/2, and so that pages of other sites are refused. Behind it the bytes are theirs, both
ways; only where frames end is noted, for there a Close of ours can stand when the server stops.
"""

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from io import RawIOBase
from time import monotonic
from typing import TYPE_CHECKING

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.lock import Semaphore
from wsproto.frame_protocol import Opcode

from geventgate.errors import ApplicationError, PeerError, PeerGone
from geventgate.exchange import Bytes, Exchange, Tunnel
from geventgate.gateway.upgrade import TunnelSocket
from geventgate.gateway.websocket import WebSockets, refuse_origin
from geventgate.protocol.handshake import Handshake, origin_allowed
from geventgate.protocol.websocket import INTERNAL_ERROR, NORMAL, close_payload, encode

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_HEAD = 64 * 1024  # bytes of the head an application writes; clients take less, Python's http.client 100 such lines
VOID_SECONDS = 1.0  # what is written to a peer that was turned away vanishes so long, as it does behind a reset
VOID_PAUSE = 0.01  # seconds that each such write takes: who only writes is to notice, and to let others run

_status_line = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})((?: [^\r\n]*)?)").fullmatch
_OURS = (b"connection", b"upgrade")  # the carrier's to say

log = logging.getLogger("geventgate.websocket")


class HandshakeFile(RawIOBase):
    """``wsgi.input`` of a handshake, which has no content, and its own ``raw``. *make* gives the socket, of the
    handshake and for its host, when it is asked for."""

    __slots__ = ("_handshake", "_host", "_make")

    def __init__(
        self, make: Callable[[Handshake, WebSockets], TunnelSocket], handshake: Handshake, host: WebSockets
    ) -> None:
        self._make = make
        self._handshake = handshake
        self._host = host

    @property
    def raw(self) -> "HandshakeFile":
        return self

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return 0

    @property
    def _sock(self) -> TunnelSocket:
        return self._make(self._handshake, self._host)


def parse_response_head(head: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """Status and fields of a response's *head*, without the empty line. Raises ApplicationError for what is none."""
    first, *lines = head.split(b"\r\n")
    match = _status_line(first)
    if match is None:
        raise ApplicationError(f"no status line: {first[:80]!r}")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ApplicationError(f"no field line: {line[:80]!r}")
        fields.append((name, value.strip(b" \t")))
    return (match[1] + match[2]).decode("latin-1"), fields


class FrameEnds:
    """Where the frames in a stream of bytes end (RFC 6455 §5.2)."""

    __slots__ = ("_header", "_left", "closed")

    def __init__(self) -> None:
        self._header = bytearray()  # of the frame we are in, as far as it has come
        self._left = -1  # bytes of it behind that; -1: not yet known
        self.closed = False  # a Close has passed

    @property
    def between(self) -> bool:
        """Whether the last byte was a frame's last, or there was none."""
        return not self._header

    def advance(self, data: memoryview, stop: bool = False) -> int:
        """Go along *data*, to the first end of a frame if *stop*; how far that was."""
        header, place = self._header, 0
        while place < len(data):
            if self._left < 0:
                header.append(data[place])
                place += 1
                self._left = _size_behind(header)
            if self._left >= 0:
                step = min(self._left, len(data) - place)
                self._left -= step
                place += step
                if self._left == 0:
                    self.closed = self.closed or header[0] & 0x0F == Opcode.CLOSE
                    header.clear()
                    self._left = -1
                    if stop:
                        break
        return place


def _size_behind(header: bytearray) -> int:
    """Bytes of a frame behind its *header*, a mask's among them; -1 unless that is complete."""
    if len(header) < 2:
        return -1
    length = header[1] & 0x7F
    extended = {126: 2, 127: 8}.get(length, 0)
    if len(header) < 2 + extended:
        return -1
    if extended:
        length = int.from_bytes(header[2:], "big")
    return length + (4 if header[1] & 0x80 else 0)


class State(Enum):
    """What the application has written."""

    UNUSED = auto()  # nothing
    HEAD = auto()  # a part of a head
    OPEN = auto()  # a 101: what follows are frames
    ANSWER = auto()  # another response: what follows is its content
    VOID = auto()  # what was answered in its place: there is nobody to read more


class RawTunnel(Tunnel):
    """A tunnel that begins with a response's head, as HTTP/1.1 writes it.

    A peer that has gone shows where the application receives. What it still sends vanishes for a moment, as it does in
    a network: simple-websocket takes an exception there for a failure of its own. To a page of a foreign origin, and
    behind a bad head, we are such a peer.
    """

    __slots__ = (
        "used", "code",
        "_exchange", "_handshake", "_host", "_member",
        "_writing", "_state", "_head", "_tunnel", "_frames", "_farewell", "_parted", "_shut", "_void_until",
        "_answered", "_idle",
        "_closing", "_over",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, handshake: Handshake, host: WebSockets, member: "RawWebSocket") -> None:
        # Set once.
        self._exchange = exchange
        self._handshake = handshake
        self._host = host
        self._member = member
        # Of the gateway.
        self.code = NORMAL  # what we close with, if the application does not
        # Of whoever writes, and holds _writing.
        self._writing = Semaphore()
        self.used = False
        self._state = State.UNUSED
        self._head = bytearray()
        self._tunnel: Tunnel | None = None  # behind a 101
        self._frames = FrameEnds()  # of what is sent
        self._farewell = b""  # a Close that is due at the next end of a frame
        self._parted = False  # it was sent, and nothing may follow it (RFC 6455 §5.5.1)
        self._shut = False
        self._void_until = 0.0
        # Of who receives.
        self._answered = Event()  # there is something to receive, or nothing ever will be
        self._idle = Event()  # nobody is parked in recv()
        self._idle.set()
        # Of who closes.
        self._closing = Event()  # it has begun
        self._over = Event()

    # --- sending

    def sendall(self, data: Bytes) -> None:
        self.sendv((data,))

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        """Raises ApplicationError when the request was answered in another way."""
        with self._writing:
            if self._state in (State.UNUSED, State.HEAD):
                buffers = self._take_head(b"".join(buffers))
            if self._parted or self._state is State.VOID:
                self._lose(buffers)
            elif self._state is State.OPEN:
                try:
                    self._pass_on(buffers)
                except PeerError as error:
                    log.debug("%s: %s", self._exchange, error)
                    self._to_void()
            elif self._state is State.ANSWER:
                for buffer in buffers:
                    self._exchange.send(bytes(buffer))

    def _take_head(self, data: bytes) -> Sequence[Bytes]:
        """Collect the head, and answer with it once it is whole; returns what came behind."""
        if not data:
            return ()
        head = self._head
        seen = max(len(head) - 3, 0)
        head += data
        self.used, self._state = True, State.HEAD
        end = head.find(b"\r\n\r\n", seen)
        try:
            if not head.startswith(b"HTTP/1."[: len(head)]):
                raise ApplicationError(f"no status line: {bytes(head[:80])!r}")
            if (end if end >= 0 else len(head)) > MAX_HEAD:
                raise ApplicationError(f"a head of more than {MAX_HEAD} bytes")
            if end < 0:
                return ()
            self._answer(*parse_response_head(bytes(head[:end])))
        except (ApplicationError, PeerError) as error:
            if not self._fail(error):
                self.used, self._state = False, State.UNUSED  # as if nothing had been written
                head.clear()
                raise
        rest = bytes(head[end + 4 :]) if end >= 0 else b""
        head.clear()
        self._answered.set()
        return (rest,) if rest else ()

    def _answer(self, status: str, fields: list[tuple[bytes, bytes]]) -> None:
        exchange = self._exchange
        request = exchange.request
        fields = [(name, value) for name, value in fields if name.lower() not in _OURS]
        if not status.startswith("101"):
            if any(name.lower() == b"transfer-encoding" for name, _ in fields):
                raise ApplicationError("a transfer coding on a socket that may not be HTTP/1.1's")
            exchange.send_head(status, fields)
            self._state = State.ANSWER
        elif not origin_allowed(request, self._handshake.origin, self._host.config.ws_origins):
            refuse_origin(exchange, self._handshake.origin)
            self._to_void()
        else:
            if request.multiplexed:  # there nothing is to be proved (RFC 8441 §5)
                fields = [(name, value) for name, value in fields if name.lower() != b"sec-websocket-accept"]
            try:
                self._tunnel = exchange.open_tunnel(fields)
            except OSError as error:
                exchange.abort(str(error))
                self._to_void()
            else:
                self._state = State.OPEN
                self._host.enter(self._member)

    def _fail(self, error: Exception) -> bool:
        """Answer 500, for the application wrote no head, or none that answers. False: it has answered otherwise."""
        try:
            self._exchange.send_head(500, [("Content-Type", "text/plain; charset=utf-8")])
        except ApplicationError:
            return False
        log.error("%s: the application wrote to the handshake's socket, but %s", self._exchange, error)
        try:
            self._exchange.finish(b"Internal Server Error\n")
        except OSError as gone:
            self._exchange.abort(str(gone))
        self._to_void()
        return True

    def _to_void(self) -> None:
        self._state = State.VOID
        self._void_until = monotonic() + VOID_SECONDS

    def _lose(self, buffers: Sequence[Bytes]) -> None:
        """Nobody reads this any more. The receiving side says so; who does not look there is told by PeerGone."""
        if self._over.is_set() or (self._state is State.VOID and monotonic() > self._void_until):
            raise PeerGone
        if buffers:
            gevent.sleep(VOID_PAUSE)

    def _pass_on(self, buffers: Sequence[Bytes]) -> None:
        assert self._tunnel is not None
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        if not self._farewell:
            for view in views:
                self._frames.advance(view)
            self._tunnel.sendv(buffers)
            return
        sent: list[Bytes] = []
        for view in views:
            end = self._frames.advance(view, stop=True)
            sent.append(view[:end])
            if self._frames.between:
                break
        if self._frames.between and not self._frames.closed:
            sent.append(self._farewell)
            self._parted = True
        self._tunnel.sendv(sent)

    def _say(self, code: int, reason: str = "") -> None:
        """Send a Close, unless there was one: at once, or within a frame at its end."""
        with self._writing:
            if self._state is State.OPEN and not (self._farewell or self._frames.closed):
                assert self._tunnel is not None
                self._farewell = b"".join(encode(Opcode.CLOSE, close_payload(code, reason)))
                if self._frames.between:
                    self._parted = True
                    self._tunnel.sendall(self._farewell)

    # --- receiving

    def recv(self, size: int) -> bytes:
        self._idle.clear()
        try:
            self._answered.wait()
            return b"" if self._closing.is_set() or self._tunnel is None else self._tunnel.recv(size)
        finally:
            self._idle.set()

    def pending(self) -> int:
        return 0 if self._tunnel is None else self._tunnel.pending()

    # --- the end

    def shutdown(self) -> None:
        """End our side, behind a Close."""
        if self._tunnel is not None and not self._shut:
            self._shut = True
            self._say(self.code)
            self._tunnel.shutdown()

    def close(self) -> None:
        """Close both sides; a second one waits for the first. What was not answered yet is answered."""
        if self._closing.is_set():
            self._over.wait()
            return
        self._closing.set()
        self._answered.set()
        try:
            if self._tunnel is not None:
                self._close(self._tunnel)
            elif self._state is State.HEAD:
                self._fail(ApplicationError("its head has no end"))
            elif self._state is State.ANSWER:
                self._exchange.finish()
        finally:
            self._leave()

    def _close(self, tunnel: Tunnel) -> None:
        timeout = self._host.config.ws_close_timeout
        timely = False
        with suppress(OSError), gevent.Timeout(timeout, False):
            self.shutdown()
            timely = True
        # Who is parked in recv() gets what comes, the peer's Close as a rule; then the rest is read away.
        if not (timely and self._idle.wait(timeout)):
            tunnel.abort()
        tunnel.close()

    def part(self, code: int, reason: str) -> None:
        """Say Close, and let the application receive the peer's: that ends it in order. Cut when it takes too long."""
        with gevent.Timeout(self._host.config.ws_close_timeout, False):
            with suppress(OSError):
                self._say(code, reason)
            self._closing.wait()
        if not self._closing.is_set():
            log.info("%s: cut: our Close was not answered", self._exchange)
            self.abort()

    def abort(self) -> None:
        if self._tunnel is not None:
            self._tunnel.abort()
        self._answered.set()
        self._leave()

    def _leave(self) -> None:
        self._closing.set()
        self._over.set()
        self._host.leave(self._member)


class RawWebSocket:
    """A handshake whose socket was asked for: ``socket`` is the application's, the rest the gateway's."""

    def __init__(self, exchange: Exchange, handshake: Handshake, host: WebSockets) -> None:
        self._tunnel = RawTunnel(exchange, handshake, host, self)
        self.socket = TunnelSocket(self._tunnel, exchange.peer, exchange.local)

    @property
    def used(self) -> bool:
        """Whether the application has answered here, or tried to."""
        return self._tunnel.used

    def is_end(self, error: BaseException) -> bool:
        """Whether *error* is how an application ends that has spoken itself: flask-sock and python-engineio leave
        gunicorn's server by StopIteration, and Werkzeug's by ConnectionError."""
        return self.used and (type(error) in (StopIteration, ConnectionError) or isinstance(error, PeerGone))

    def finish(self, error: BaseException | None = None, failed: bool = False) -> None:
        """The application has returned, *failed* or not, or raised *error*."""
        if isinstance(error, GreenletExit):
            self.socket.finish(error)
            return
        if failed or error is not None:
            self._tunnel.code = INTERNAL_ERROR
        self.socket.finish()

    # --- a member of WebSockets

    def close(self, code: int, reason: str) -> None:
        """The server stops."""
        self._tunnel.part(code, reason)

    def sweep(self) -> None:
        """Pings are the application's."""
