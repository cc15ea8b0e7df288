"""The WebSocket an application holds, and all of a gateway's together. Opens no socket.

The rules are protocol.websocket's; here is who reads, who writes and who waits. One greenlet reads at a time, holding
``_turn``: the one in receive(), or, while the application is elsewhere, a pump that answers pings, sees the peer's
Close and takes a few messages ahead. One greenlet writes at a time, holding ``_frames``. What came to wait meanwhile,
messages of others and what the protocol owes, leaves in the next write together, whoever does it.
"""

import logging
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from enum import Enum, auto
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import unquote_to_bytes

import gevent
from gevent import GreenletExit, get_hub, getcurrent
from gevent.lock import Semaphore

from geventgate.config import Config
from geventgate.errors import ApplicationError, WebSocketError
from geventgate.exchange import Bytes, Exchange, ResponseFields, Tunnel
from geventgate.protocol.deflate import negotiate
from geventgate.protocol.handshake import Handshake, accept_fields, origin_allowed
from geventgate.protocol.websocket import (
    ABNORMAL,
    CLOSED,
    CLOSING,
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    OPEN,
    Message,
    WebSocketProtocol,
)

RECEIVE_SIZE = 64 * 1024
QUEUE_SIZE = 16  # messages taken ahead of the application; then the peer has to wait
READ_AHEAD = 16 * 1024 * 1024  # bytes of an unfinished message taken ahead, be it as large as it may
MAX_OWED = 1024  # control frames that may wait behind a frame being written; then reading waits too
TICK = 1.0  # seconds between two sweeps
AWAY_TICKS = 2  # sweeps that find the application elsewhere, before a pump reads in its place
TURNS = 64  # messages received before it is seen to that other greenlets have their turn
LEAST_WAIT = 0.001  # seconds: receive(timeout=0) still sees what has already come

log = logging.getLogger("geventgate.websocket")


class Member(Protocol):
    """What WebSockets keeps: a WebSocket, or one that the application speaks itself (rawsocket.py)."""

    def close(self, code: int, reason: str, /) -> None: ...
    def sweep(self) -> None: ...


class WebSockets:
    """The open WebSockets of a gateway: kept alive, and closed together."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._open: set[Member] = set()
        self._timer: Any = None
        self._farewell: tuple[int, str] | None = None  # said to all, late comers too

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        self._farewell = None
        self._timer = get_hub().loop.timer(TICK, TICK)
        self._timer.start(self.sweep)

    def stop(self, code: int = GOING_AWAY) -> None:
        """Close all with *code*, as a server that goes away does. Does not wait."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self.close_all(code)

    def close_all(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """Close all at once, and those that are still to come. Does not wait: their handlers end when they are told."""
        self._farewell = (code, reason)
        for websocket in list(self._open):
            gevent.spawn(websocket.close, code, reason)

    def sweep(self) -> None:
        """Once a second, in the hub: nothing here blocks."""
        for websocket in list(self._open):
            websocket.sweep()

    def enter(self, websocket: Member) -> None:
        self._open.add(websocket)
        if self._farewell is not None:
            gevent.spawn(websocket.close, *self._farewell)

    def leave(self, websocket: Member) -> bool:
        """Whether it was still here."""
        if websocket not in self._open:
            return False
        self._open.remove(websocket)
        return True


class Lock:
    """Held by one greenlet at a time. A flag, until two want it at once; from then on a Semaphore."""

    __slots__ = ("_flag", "_semaphore")

    def __init__(self) -> None:
        self._flag = False
        self._semaphore: Semaphore | None = None

    def held(self) -> bool:
        return self._flag if self._semaphore is None else self._semaphore.locked()

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait, *timeout* seconds at most; whether it is ours."""
        if self._semaphore is None:
            if not self._flag:
                self._flag = True
                return True
            self._semaphore = Semaphore(0)
        return bool(self._semaphore.acquire(timeout=timeout))

    def release(self) -> None:
        if self._semaphore is None:
            self._flag = False
        else:
            self._semaphore.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class Waiting:
    """A message that waits behind one being written."""

    __slots__ = ("buffers", "sent")

    def __init__(self, buffers: tuple[Bytes, ...]) -> None:
        self.buffers = buffers
        self.sent = False


class Ping(Enum):
    """The keep-alive ping of a peer that is quiet."""

    NONE = auto()
    DUE = auto()  # its greenlet waits to write
    SENT = auto()


NO_PING = Ping.NONE


class WebSocket:
    """``environ["wsgi.websocket"]`` (RFC 6455). The first accept(), receive(), send() or ping() opens it; until then
    the application may still answer with an ordinary response.

    May be used from several greenlets. Once closed, receive() returns None and ``close_code`` says why; sending raises
    WebSocketError, an OSError.
    """

    __slots__ = (
        "environ", "handshake", "subprotocol", "refused",
        "_exchange", "_host", "_protocol", "_tunnel",
        "_queue", "_turn", "_receivers", "_reading", "_ends", "_turns", "_turned", "_pumping", "_away", "_quiet",
        "_ping", "_frames", "_waiting", "_fragments", "_fragmenting", "__weakref__",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, handshake: Handshake, host: WebSockets) -> None:
        # Set once.
        self.environ: dict[str, Any] = {}  # of the request; the gateway's to set
        self._exchange = exchange
        self.handshake = handshake
        self._host = host
        # Set by accept().
        self.subprotocol: str | None = None
        self.refused = False  # the handshake was answered 403 for its Origin
        self._tunnel: Tunnel | None = None
        self._protocol = WebSocketProtocol(host.config.websocket_max_message_size)
        # Owned by the greenlet that has the turn to read; the sweep looks.
        self._turn = Lock()
        self._queue: deque[Message] | None = None  # made by the first pump
        self._receivers = 0  # greenlets in receive()
        self._reading = False  # one is waiting for the peer's bytes
        self._ends = False  # the piece that _receive() has returned ends its message
        self._turns = 0  # messages, the large ones for more, ...
        self._turned = 0.0  # ... since then, by the loop's clock
        self._pumping = False
        self._away = 0  # sweeps that found no greenlet in receive()
        self._quiet = 0.0  # seconds of waiting since the peer's last bytes
        self._ping = NO_PING
        # Owned by the greenlets that send.
        self._frames = Lock()  # held while bytes are written
        self._waiting: list[Waiting] | None = None  # for the next write, in this order
        self._fragments = Lock()  # held from a message's first fragment to its last
        self._fragmenting: Any = None  # the greenlet that holds it

    # --- what it is

    @property
    def origin(self) -> str | None:
        """Of the page that opened it; None outside of browsers."""
        return self.handshake.origin

    @property
    def path(self) -> str:
        """Of the request's target, decoded: UTF-8, other bytes as surrogates."""
        return unquote_to_bytes(self._exchange.request.path).decode("utf-8", "surrogateescape")

    @property
    def version(self) -> str:
        return self.handshake.version

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """What the client offers, its favourite first."""
        return self.handshake.subprotocols

    @property
    def protocol(self) -> str | None:
        """The chosen subprotocol; before a choice, all that are offered (as gevent-websocket has it)."""
        return self.subprotocol or ", ".join(self.subprotocols) or None

    @property
    def accepted(self) -> bool:
        return self._tunnel is not None

    @property
    def closed(self) -> bool:
        """Whether it can no longer send: a Close was said or heard, or the peer has gone."""
        return self._protocol.state is not OPEN

    @property
    def ahead(self) -> int:
        """Messages that receive() has without waiting, although it is closed: they came before the peer's Close."""
        return len(self._queue or ())

    @property
    def close_code(self) -> int | None:
        """Of the first Close, the peer's or ours; 1005 if it had none, 1006 if there was no Close; None while open."""
        return self._protocol.close_code

    @property
    def close_reason(self) -> str:
        return self._protocol.close_reason

    # --- opening

    def accept(
        self,
        subprotocol: str | None = None,
        headers: ResponseFields = (),
        origins: Collection[str] | None = None,
        compress: bool | None = None,
        max_message_size: int | None = None,
    ) -> None:
        """Open the WebSocket with one of ``subprotocols``, or none; *headers* are added to the answer. *compress*:
        whether to agree to permessage-deflate; with *max_message_size* in bytes, instead of what the options say.

        Pages of the request's own host may open it, and those of *origins* (default: --ws-origins; "*" is any). Another
        page's attempt is answered 403 and raises WebSocketError. Raises ApplicationError when it is too late.
        """
        with self._frames:  # the answer is written: nobody else may begin to
            if self._tunnel is not None:
                raise ApplicationError("the WebSocket was accepted before")
            self._open(subprotocol, headers, origins, compress, max_message_size)

    def _opened(self) -> Tunnel:
        """The bytes behind the handshake, which is accepted if it is not yet."""
        if self._tunnel is None:
            with self._frames:
                if self._tunnel is None:
                    return self._open()
        return self._tunnel

    def _open(
        self,
        subprotocol: str | None = None,
        headers: ResponseFields = (),
        origins: Collection[str] | None = None,
        compress: bool | None = None,
        max_message_size: int | None = None,
    ) -> Tunnel:
        if self.closed:
            raise WebSocketError("the WebSocket was refused" if self.refused else "the peer has gone")
        config = self._host.config
        agreed = None
        if config.ws_per_message_deflate if compress is None else compress:
            agreed = negotiate(self.handshake.extensions)
        fields = accept_fields(self.handshake, subprotocol, headers, agreed.answer if agreed else "")
        request = self._exchange.request
        if not origin_allowed(request, self.origin, config.ws_origins if origins is None else origins):
            self._refuse(request.authority.decode("latin-1"))
        if max_message_size is None:
            max_message_size = config.websocket_max_message_size
        self._protocol = WebSocketProtocol(max_message_size, agreed)
        try:
            tunnel = self._tunnel = self._exchange.open_tunnel(fields)
        except OSError as error:
            self._lose(str(error))
            raise WebSocketError(str(error)) from error
        self.subprotocol = subprotocol
        request.forget_fields()  # it may last, and was asked what it is asked
        self._host.enter(self)
        return tunnel

    def _refuse(self, host: str) -> None:
        """Cross-site WebSocket hijacking: the browser would have lent that page its user's cookies (RFC 6455 §10.2)."""
        refuse_origin(self._exchange, self.origin)
        self.refused = True
        self._lose("refused")
        raise WebSocketError(f"a page of {self.origin!r} may not open WebSockets of {host}")

    # --- receiving

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, text as str and binary as bytes; None once it is closed. Raises TimeoutError after
        *timeout* seconds; nothing is lost by that."""
        return self._receive(timeout, False)

    def receive_fragments(self, timeout: float | None = None) -> Iterator[Message]:
        """The next message in pieces as they come, all str or all bytes, at least one; none once it is closed.

        It is never held whole. What is left of it when the loop is left early is received next. Raises TimeoutError
        after *timeout* seconds without a piece, and WebSocketError when it is closed before the message's end.
        """
        ends = given = False
        while not ends:
            piece = self._receive(timeout, True)
            ends = self._ends
            if piece is None:
                if given:
                    self._protocol.check_open()
                return
            if piece or not given:
                given = True
                yield piece

    def _receive(self, timeout: float | None, pieces: bool) -> Message | None:
        """A message, or a piece of one; what a pump has taken comes first. ``_ends`` says whether it is the end."""
        if self._tunnel is None and self._open_to_receive() is None:
            return None
        self._away = 0
        queue = self._queue
        if queue:
            return self._taken(queue)
        until = None if timeout is None else monotonic() + timeout
        ours = False
        self._receivers += 1  # a pump hands the turn over
        try:
            ours = self._turn.acquire(_left(until))
            if not ours:
                raise TimeoutError("no message came in time")
            queue = self._queue
            return self._taken(queue) if queue else self._next(until, pieces)
        finally:
            self._receivers -= 1
            if ours:
                self._end_turn()

    def _open_to_receive(self) -> Tunnel | None:
        """As _opened(); None: refused, so that a handler that only loops over messages ends quietly."""
        try:
            return self._opened()
        except WebSocketError:
            if self.refused:
                return None
            raise

    def _taken(self, queue: deque[Message]) -> Message:
        """The next message of those that a pump has taken."""
        self._ends = True
        return queue.popleft()

    def __iter__(self) -> Iterator[Message]:
        """The messages, until it is closed."""
        while (message := self.receive()) is not None:
            yield message

    def _next(self, until: float | None = None, pieces: bool = False, most: int = sys.maxsize) -> Message | None:
        """Read the next message, or a piece of one; ``_ends`` says whether it is the end. None: closed, or *most* bytes
        of one are held. The caller has the turn, and others have theirs even in a flood."""
        tunnel, protocol = self._tunnel, self._protocol
        assert tunnel is not None
        if self._turns >= TURNS:
            self._give_turns()
        while True:
            message = self._piece() if pieces else protocol.next_message(most)
            if protocol.owed:
                self._settle()
            if message is not None:
                if self._turns == 0:
                    self._turned = get_hub().loop.now()
                self._turns += 1 + len(message) // RECEIVE_SIZE  # it may have been a few bytes, compressed
                return message
            if protocol.state is CLOSED:
                self._leave()
                return None
            if protocol.held() >= most:
                return None
            self._reading = True  # till _end_turn(), if something is thrown in
            try:
                data = tunnel.recv(RECEIVE_SIZE) if until is None else self._recv_until(until)
            except OSError:
                data = self._cut()
            self._reading = False
            if data is None:
                raise TimeoutError("no message came in time")
            if data:
                self._quiet = 0.0
                self._ping = NO_PING
                protocol.feed(data)
                if len(data) == RECEIVE_SIZE:  # there is more, and recv() will not wait
                    _give_way()
            else:
                self._lose("the connection ended without a Close")

    def _give_turns(self) -> None:
        """Let others have their turn, unless they have had it: until then the loop's clock stands still."""
        if get_hub().loop.now() == self._turned:
            _give_way()
        self._turns = 0

    def _piece(self) -> Message | None:
        piece, self._ends = self._protocol.next_piece() or (None, True)
        return piece

    def _recv_until(self, until: float) -> bytes | None:
        """As the tunnel's recv(); None: nothing has come in time."""
        assert self._tunnel is not None
        with gevent.Timeout(_left(until)) as timer:
            try:
                return self._tunnel.recv(RECEIVE_SIZE)
            except gevent.Timeout as expired:
                if expired is not timer:
                    raise
                return None

    def _cut(self) -> bytes:
        log.debug("%s: cut", self._exchange, exc_info=True)
        return b""

    def _end_turn(self) -> None:
        self._reading = False
        self._turn.release()

    def _pump(self) -> None:
        """Read in place of an application that is elsewhere, until it is back or has enough to do."""
        self._turn.acquire()
        try:
            queue = self._queue = self._queue or deque()
            while not self._receivers and not self._has_enough():
                message = self._next(None, False, READ_AHEAD)
                if message is None:
                    break
                queue.append(message)
        finally:
            self._end_turn()
            self._pumping = False
            self._away = 0

    def _has_enough(self) -> bool:
        """Whether enough was taken ahead of the application."""
        return len(self._queue or ()) >= QUEUE_SIZE or self._protocol.held() >= READ_AHEAD

    # --- sending

    def send(self, message: Message | Bytes, binary: bool | None = None, *, compress: bool | None = None) -> None:
        """Send a message whole: str as text, bytes as binary. Blocks while the peer is slow. Raises WebSocketError.

        *binary* says which, whatever the message is: text is UTF-8 then, and ValueError what is not. *compress* says
        whether to, if it is agreed with the peer; None: if there are 16 bytes or more.

        When it returns, the bytes have been handed to the carrier. What other greenlets send to a peer that is slow
        leaves together.
        """
        if binary is not None:
            message = _recast(message, binary)
        if self._tunnel is None:
            self._opened()
        protocol = self._protocol
        protocol.check_open()  # no need to wait for a turn that will be refused
        if self._frames.held() and self._fragmenting is None and not protocol.compresses:
            self._send_with_others(protocol.message(message))
            return
        self._begin_message()
        try:
            self._write(protocol.message(message, compress, _give_way))
        finally:
            self._frames.release()

    def _begin_message(self) -> None:
        """Hold ``_frames``, with no other greenlet in the middle of a message."""
        self._frames.acquire()
        while self._fragmenting is not None and self._fragmenting is not getcurrent():
            self._frames.release()
            with self._fragments:
                pass
            self._frames.acquire()

    def _send_with_others(self, frames: tuple[Bytes, ...]) -> None:
        """Have *frames* sent in the next write, by us or by whoever writes first."""
        waiting = Waiting(frames)
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(waiting)
        try:
            with self._frames:
                if not waiting.sent:
                    self._protocol.check_open()
                    self._write(())
        finally:
            if waiting in self._waiting:  # something was thrown in, or it is closed
                self._waiting.remove(waiting)

    def send_fragments(self, parts: Iterable[Message | Bytes], *, compress: bool | None = None) -> None:
        """Send one message as *parts* come, all str or all bytes. Other messages wait until it is done; control frames
        do not. When *parts* raises, the message cannot be taken back: the WebSocket is closed with 1011.

        Each part can be read as soon as it has come, compressed or not; *compress* as for send(), None: if agreed.
        """
        self._opened()
        self._protocol.check_open()
        inside = self._fragmenting is getcurrent()  # another one's parts: the protocol refuses it, if that has begun
        if not inside:
            self._fragments.acquire()
            self._fragmenting = getcurrent()
        try:
            try:
                for part in parts:
                    with self._frames:
                        self._write(self._protocol.fragment(part, compress, _give_way))
                with self._frames:
                    self._write(self._protocol.end_fragments())
            except Exception:
                self.close(INTERNAL_ERROR)
                raise
            except BaseException as error:
                self._abort(f"a message was cut by {type(error).__name__}")
                raise
        finally:
            if not inside:
                self._fragmenting = None
                self._fragments.release()

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping, with at most 125 bytes. The peer's pong only shows that it is there."""
        self._opened()
        self._protocol.ping(payload)
        self._settle()

    def pong(self, payload: bytes = b"") -> None:
        """Send a pong nobody asked for; pings are answered without it."""
        self._opened()
        self._protocol.pong(payload)
        self._settle()

    def _settle(self) -> None:
        """Send what is owed, unless a greenlet that writes a frame will do so behind it."""
        if self._frames.held() and len(self._protocol.owed) <= MAX_OWED:
            return
        with self._frames, suppress(WebSocketError):  # then the state says so
            self._write(())

    def _write(self, frames: tuple[Bytes, ...]) -> None:
        """Send whole frames, and behind them what is owed. The caller holds ``_frames``."""
        tunnel, protocol = self._tunnel, self._protocol
        assert tunnel is not None
        try:
            if self._waiting or protocol.owed:
                self._write_together(tunnel, frames)
            elif frames:
                tunnel.sendv(frames)
            while protocol.owed:
                self._write_together(tunnel, ())
        except BaseException as error:
            # A frame was cut in its middle: nothing can follow it.
            self._abort(str(error))
            if isinstance(error, OSError):
                raise WebSocketError(f"the peer has gone: {error}", ABNORMAL, str(error)) from error
            raise

    def _write_together(self, tunnel: Tunnel, frames: tuple[Bytes, ...]) -> None:
        """Send in one write what waits, *frames*, and what is owed."""
        protocol = self._protocol
        waiting, self._waiting = self._waiting or [], []
        buffers = [buffer for message in waiting for buffer in message.buffers]
        buffers += frames
        owed = protocol.take_owed()
        tunnel.sendv(buffers + owed)
        for message in waiting:
            message.sent = True
        if owed and protocol.state is CLOSED:
            # "the server MUST close the WebSocket connection immediately" (RFC 6455 §5.5.1)
            tunnel.shutdown()

    # --- closing

    def close(self, code: int = NORMAL, reason: str | bytes = "") -> None:
        """Close it, and wait ws_close_timeout seconds at most for the peer to agree. May be called again.

        Messages that are still coming are dropped. Raises ValueError for a code or reason that may not be sent.
        """
        if isinstance(reason, bytes):
            reason = reason.decode("utf-8")
        try:
            tunnel = self._opened()
        except WebSocketError:
            return  # there is nothing to close
        protocol = self._protocol
        protocol.close(code, reason)
        if protocol.state is CLOSING:
            self._part()
        tunnel.close()

    def _part(self) -> None:
        """Send our Close and read on to the peer's. Whoever reads already does it for us, and hands over the turn."""
        timer = gevent.Timeout.start_new(self._host.config.ws_close_timeout)
        try:
            self._settle()
            self._turn.acquire()
            try:
                self._next()
            finally:
                self._end_turn()
        except gevent.Timeout as expired:
            if expired is not timer:
                raise
            self._lose("our Close was not answered")
        finally:
            timer.close()

    def finish(self, error: BaseException | None = None) -> None:
        """The application has returned, or raised *error*. Called by the gateway once it is accepted."""
        if isinstance(error, GreenletExit):
            self._abort("its greenlet was killed")
        else:
            self.close(NORMAL if error is None else INTERNAL_ERROR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tunnel is not None:  # else the application may still answer
            self.finish(error)

    def _abort(self, why: str) -> None:
        self._lose(why)
        if self._tunnel is not None:
            self._tunnel.abort()

    def _lose(self, why: str) -> None:
        self._protocol.lost(why)
        self._leave()

    def _leave(self) -> None:
        if self._host.leave(self) and self._protocol.fault is not None:
            log.info("%s: closed with %s: %s", self._exchange, self.close_code, self._protocol.fault)

    # --- called by the host, in the hub

    def sweep(self) -> None:
        """Once a second: a quiet peer is asked whether it is there, and somebody reads in any case."""
        if self._reading:
            self._watch_quiet()
        elif not (self._receivers or self._pumping or self.closed or self._has_enough()):
            self._away += 1
            if self._away >= AWAY_TICKS:
                self._pumping = True
                gevent.spawn(self._pump)

    def _watch_quiet(self) -> None:
        """Only seconds in which we waited for the peer count: what we did not read it may well have sent."""
        config = self._host.config
        self._quiet += TICK
        if self._ping is NO_PING:
            if 0 < config.ws_ping_interval <= self._quiet:
                self._ping = Ping.DUE
                gevent.spawn(self._send_ping)
        elif self._ping is Ping.SENT and self._quiet >= config.ws_ping_timeout:
            self._abort("ping timeout")

    def _send_ping(self) -> None:
        with suppress(WebSocketError), self._frames:  # closed meanwhile: nobody to keep alive
            self._protocol.ping()
            self._write(())
            if self._ping is Ping.DUE:
                self._ping = Ping.SENT
                self._quiet = 0.0  # from here on its pong is awaited


def refuse_origin(exchange: Exchange, origin: str | None) -> None:
    """Answer the handshake of a page of *origin* with 403. Raises ApplicationError when a response has begun."""
    exchange.send_head(403, [("Content-Type", "text/plain; charset=utf-8")])
    host = exchange.request.authority.decode("latin-1")
    log.warning("refused a page of %r to open %s: list it with --ws-origins if it may", origin, host)
    try:
        exchange.finish(b"Pages of this origin may not open WebSockets here.\n")
    except OSError as error:
        exchange.abort(str(error))


def _recast(message: Message | Bytes, binary: bool) -> Message | Bytes:
    """*message* as bytes, or as text."""
    if binary:
        return message.encode("utf-8") if isinstance(message, str) else message
    return message if isinstance(message, str) else str(message, "utf-8")


def _give_way() -> None:
    """Let every socket and timer that is ready have its turn. sleep(0) would not: gevent runs up to 50 such callbacks
    before it looks at them."""
    gevent.idle(get_hub().loop.MAXPRI)


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - monotonic(), LEAST_WAIT)
