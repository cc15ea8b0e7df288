"""Serve HTTP/2 on a stream (RFC 9113): many exchanges at once, a greenlet for each.

Knows no gateway, as http1.py, and no frames: those are the engine's. The reader feeds the engine what comes and never
writes; a writer, which exists only while there is something to write, pulls what the engine has to say as fast as the
peer takes it, so that what goes first is decided at the last moment. Exchanges wait for neither, only for their own
content, and while too much of their own is queued.
"""

import logging
from collections import deque
from functools import partial
from typing import IO, Any

from gevent import get_hub, getcurrent
from gevent.event import Event
from gevent.hub import Waiter

from geventgate.errors import ApplicationError, NotSupported, PeerError, PeerGone, PeerTimeout
from geventgate.exchange import Address, Bytes, Exchange, ResponseFields, Tunnel
from geventgate.message import Field, Fields, RequestHead, Tls
from geventgate.protocol import http2
from geventgate.protocol.http1 import (
    KNOWN_LENGTH,
    NO_CONTENT,
    choose_protocol,
    compose_connected,
    compose_interim_head,
    compose_response_head,
    compose_trailers,
    expects_continue,
    request_content,
    response_content,
)
from geventgate.protocol.http2 import (
    CANCEL,
    INTERNAL_ERROR,
    REFUSED_STREAM,
    Data,
    Engine,
    Goaway,
    Pong,
    Request,
    Reset,
    Trailers,
    Writable,
    check_request,
    parse_priority,
)
from geventgate.server.carrier import (
    DRAIN_SECONDS,
    FINISHED,
    HEAD_HELD,
    HEAD_SENT,
    LINGER_SECONDS,
    NOTHING,
    CarriedExchange,
    answer,
)
from geventgate.server.clock import CLOCK
from geventgate.server.service import Connection, Service
from geventgate.server.stream import GRACE_SECONDS, Stream
from geventgate.server.workers import Turns, Workers

PULL_SIZE = 64 * 1024  # octets given to the socket at a time
PIECE = 16 * 1024  # of content is queued at a time: the largest frame that every peer takes (RFC 9113 §4.2)
CRUMB = 1024  # unread pieces up to this size are joined: DATA of two octets would cost thirty times what is in them
WIDER = 192 * 1024  # octets more that may be sent ahead to an application that reads
END_SECONDS = 1.0  # for the peer to hear that the connection ends
# For a request to end that was answered and is not read any more, in the window it has: clients in wide use (curl 7.88)
# lose the answer when a reset comes with it, whatever RFC 9113 §8.1 says.
UNREAD_SECONDS = 1.0
SERVER_FIELD = (b"server", b"geventgate")

KEEP_ALIVE, DRAINING = b"\0keeping", b"draining"  # what our PINGs are for

LEFT_BEHIND = PeerGone, "the exchange is over"

log = logging.getLogger("geventgate")


class Unread:
    """What is left of a request that nobody reads any more. It is reset once as much has come as a window holds, since
    it will not end soon; not at once if it was *refused*, for then clients stop by themselves."""

    __slots__ = ("octets", "refused", "until", "wide")

    def __init__(self, octets: int, refused: bool, wide: bool) -> None:
        self.octets = octets  # whose credit is to be returned
        self.refused = refused
        self.wide = wide
        self.until = CLOCK.now + UNREAD_SECONDS


class Http2Connection(Connection):
    """The life of one connection. It ends when the reader has ended, and with it the writer and every exchange."""

    __slots__ = (
        "_ended", "_heard", "_lingering", "_local", "_parted", "_peer", "_pinged", "_quiet", "_reader",
        "_service", "_slow", "_spare", "_stream", "_taken", "_tls", "_turns", "_unread", "_writer", "engine",
        "exchanges",
    )  # fmt: skip

    def __init__(self, stream: Stream, peer: Address, local: Address, service: Service, tls: Tls | None = None) -> None:
        assert service.http2_engine is not None
        # Set once.
        self._stream = stream
        self._peer = peer
        self._local = local
        self._service = service
        self._tls = tls
        self.engine: Engine = service.http2_engine(service.http2_limits)
        self._turns = ExchangeTurns(service.workers, self)
        # Owned by the reader; the sweep looks.
        self._reader: Any = None
        self._ended = False  # nothing is read any more
        self._heard = True  # since the last sweep
        # Owned by the writer.
        self._writer: Any = None
        self._parted = False  # our side has ended
        # Owned by all of them.
        self.exchanges: dict[int, Http2Exchange] = {}
        self._spare = service.http2_limits.spare_window
        self._unread: dict[int, Unread] = {}  # requests that have been answered, and have not ended
        # Owned by the sweep.
        self._lingering: dict[int, float] = {}  # tunnels whose peer still sends, and until when it may
        self._slow: dict[int, tuple[int, int, int]] = {}  # a stream's seconds, those without progress, and octets
        self._taken = 0
        self._quiet = 0
        self._pinged = False
        stream.deadline = CLOCK.now + service.config.head_timeout

    def start(self) -> None:
        self.wake()
        self.wake_writer()

    # --- reading

    def wake(self) -> None:
        self._reader = self._service.workers.run(self._read)

    def _read(self) -> None:
        idles = False
        try:
            idles = self._serve()
        except PeerError as error:
            log.debug("%s:%s: HTTP/2 connection lost: %s", *self._peer, error)
        finally:
            self._reader = None
            if idles:
                self._stream.when_readable(self)
            else:
                self._end()

    def _serve(self) -> bool:
        """Feed the engine what has come (True: enter again with the next byte), or the end (False)."""
        stream, engine = self._stream, self.engine
        while True:
            if not stream.inbox:
                if not stream.poll():
                    return True
                if stream.ended:
                    return False
            data = stream.inbox[stream.start :]
            stream.take(len(data))
            if self._parted:
                continue  # read away, so that our last frames are not destroyed by a reset
            self._heard = True
            engine.receive(data, CLOCK.now)
            self._deliver(engine.events())
            self.wake_writer()
            stream.rest()  # what an engine makes of 64 KiB may take it milliseconds

    def _deliver(self, events: list[http2.Event]) -> None:
        exchanges = self.exchanges
        for event in events:
            kind = type(event)
            if kind is Request:
                self._open(event)  # type: ignore[arg-type]
            elif kind is Goaway:
                self._hear_goaway(event)  # type: ignore[arg-type]
            elif kind is Pong:
                if event.opaque == DRAINING:  # type: ignore[union-attr]
                    self.engine.goaway()  # what the peer sent before it heard of the drain has come (RFC 9113 §6.8)
            else:
                exchange = exchanges.get(event.stream_id)  # type: ignore[union-attr]
                if exchange is not None:
                    exchange.hear(event)  # type: ignore[arg-type]
                else:
                    self._read_away(event)  # type: ignore[arg-type]

    def _read_away(self, event: Data | Trailers | Reset | Writable) -> None:
        """Nobody is there for it any more."""
        unread = self._unread.get(event.stream_id)
        if isinstance(event, Data):
            if unread is None:
                self.engine.consume(event.stream_id, len(event.data))
            else:
                unread.octets += len(event.data)
                self._judge_unread(event.stream_id, unread, event.ended)
        elif unread is not None and not isinstance(event, Writable):
            self._judge_unread(event.stream_id, unread, True)

    def leave_unread(self, stream_id: int, unread: Unread) -> None:
        """A request has been answered before its end."""
        self._unread[stream_id] = unread
        self._judge_unread(stream_id, unread, False)

    def _judge_unread(self, stream_id: int, unread: Unread, ended: bool) -> None:
        if ended or (unread.octets >= self._service.http2_limits.stream_window and not unread.refused):
            self._forget_unread(stream_id)

    def _forget_unread(self, stream_id: int) -> None:
        """Its credit returns only now, so that its peer cannot go on for ever."""
        unread = self._unread.pop(stream_id)
        self.engine.release(stream_id)
        self.engine.consume(stream_id, unread.octets)
        if unread.wide:
            self.narrow()
        self.wake_writer()

    def _hear_goaway(self, event: Goaway) -> None:
        if event.local:
            log.info("%s:%s: HTTP/2 connection given up: %s (error %d)", *self._peer, event.why, event.code)
            self._lose_all("the connection was given up")
        elif event.code:
            log.info("%s:%s: HTTP/2 peer gave up: error %d %s", *self._peer, event.code, event.why)

    def _open(self, event: Request) -> None:
        # "A stream's slot is free only when its greenlet has ended": else a reset would buy a new one (CVE-2023-44487)
        if len(self.exchanges) >= self._service.http2_limits.streams:
            self.engine.reset(event.stream_id, REFUSED_STREAM)
            return
        self._stream.deadline = 0.0
        if self._tls is not None:
            event.head.scheme = "https"
        self.add(event.stream_id, event.head, event.ended, self._peer)

    def add(self, stream_id: int, head: RequestHead, ended: bool, peer: Address) -> None:
        """Have a request served. *ended*: so has its content."""
        exchange = self.exchanges[stream_id] = Http2Exchange()
        exchange.begin(head, peer, self._local, self._tls, not ended and head.protocol is None)
        exchange.carry(self, stream_id, ended)
        self._turns.add(exchange)

    def _lose_all(self, why: str) -> None:
        for exchange in list(self.exchanges.values()):
            exchange.lose(PeerGone, why)

    # --- one exchange

    def serve_exchange(self, exchange: "Http2Exchange") -> None:
        try:
            if exchange.lost is None:  # else it was reset before it began
                exchange.worker = getcurrent()
                refusal = self.refusal(exchange.request)
                handle = self._service.handle if refusal is None else partial(_refuse, refusal)
                answer(exchange, handle, self._service)
        finally:
            exchange.leave()
            del self.exchanges[exchange.stream_id]
            if not self.exchanges and not self._parted:
                service = self._service
                self._stream.deadline = CLOCK.now + (DRAIN_SECONDS if service.drains else service.config.keep_alive)
            self.wake_writer()
            if self._ended:
                self._leave_if_done()

    def refusal(self, head: RequestHead) -> PeerError | None:
        """Why a request, well formed as it is, is not served."""
        limits = self._service.head_limits
        if len(head.target) > limits.line:
            return PeerError(414, "the path is too long")
        if head.lines > limits.fields or head.size > limits.size:
            return PeerError(431, "the request's fields are too many or too large")
        if head.protocol == "" and not self._service.config.allow_connect:
            return PeerError(501, "CONNECT is not enabled: an open proxy is a trap")
        if head.content_length is None and head.expect is None:
            return None
        try:
            if head.connects and head.content_length is not None:
                return PeerError(400, "CONNECT has no content")
            request_content(head, self._service.config.limit_request_body)
            expects_continue(head)
        except PeerError as error:
            return error
        return None

    @property
    def limit_request_body(self) -> int:
        return self._service.config.limit_request_body

    @property
    def low_water(self) -> int:
        return self._service.http2_limits.low_water

    def widen(self, stream_id: int) -> bool:
        """Let an application that reads have more at hand, if there is more to spare."""
        if self._spare < WIDER:
            return False
        self._spare -= WIDER
        self.engine.widen(stream_id, WIDER)
        return True

    def narrow(self) -> None:
        self._spare += WIDER

    def linger(self, stream_id: int) -> None:
        """Our side of this tunnel has ended; its peer's has some time."""
        self._lingering[stream_id] = CLOCK.now + LINGER_SECONDS

    # --- writing

    def wake_writer(self) -> None:
        if self._writer is None and not self._parted:
            self._writer = self._service.workers.run(self._write)

    def _write(self) -> None:
        engine, stream = self.engine, self._stream
        try:
            while True:
                out = engine.pull(PULL_SIZE, CLOCK.now)
                events = engine.events()
                if events:
                    self._deliver(events)
                if not out:
                    break
                stream.sendv((out,))
            if engine.done and not self._parted:
                self._parted = True
                stream.deadline = CLOCK.now + END_SECONDS
                stream.shutdown()
        except PeerError as error:
            log.debug("%s:%s: HTTP/2 connection lost: %s", *self._peer, error)
            self._parted = True
            stream.close()  # which ends the reader
            if self._reader is None:
                self._end()
        finally:
            self._writer = None
            if self._ended:
                self._leave_if_done()

    # --- the end

    def _time_out(self) -> bool:
        """Nothing has come in time: a request, or the end. Whether something may still come."""
        if self._parted:
            return False
        self.engine.goaway()
        self.wake_writer()
        self._stream.deadline = CLOCK.now + END_SECONDS
        return True

    def _end(self) -> None:
        """The reader has ended: nobody is there any more."""
        if not self._ended:
            self._ended = self._parted = True
            self._stream.close()
            self._lose_all("the peer has gone")
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self.exchanges and self._writer is None and self in self._service.connections:
            self._service.leave(self)

    # --- called by the server, in the hub

    def sweep(self, now: float) -> None:
        config, stream, engine = self._service.config, self._stream, self.engine
        for exchange in list(self.exchanges.values()):
            exchange.sweep(config.min_rate)
        for stream_id in [stream_id for stream_id, until in self._lingering.items() if until <= now]:
            del self._lingering[stream_id]
            engine.reset(stream_id, CANCEL)
            self.wake_writer()
        for stream_id in [stream_id for stream_id, unread in self._unread.items() if unread.until <= now]:
            self._forget_unread(stream_id)
        if not self._parted:
            if self._writer is None:  # else the way is full, which Stream judges, and who waits for it is not slow
                self._sweep_backlog(config.min_rate, config.write_timeout)
            self._sweep_quiet(config.http2_ping_interval, config.http2_ping_timeout)
        if not engine.idle and not self.exchanges and stream.deadline > 0 and not self._parted:
            stream.deadline = max(stream.deadline, now + 1.0)  # an answer is still on its way
        if self._reader is None and not self._ended and 0 < stream.deadline <= now and not self._time_out():
            self._end()
        stream.sweep(now, False, config.min_rate, config.write_timeout)  # of the writer

    def _sweep_backlog(self, min_rate: int, stall: float) -> None:
        """Reset the streams whose peer takes what is queued too slowly, by the rule of Stream.sweep()."""
        slow = {}
        for stream_id, sent in self.engine.backlog():
            ticks, stalled, last = self._slow.get(stream_id, (0, 0, sent))
            ticks, stalled = ticks + 1, stalled + 1 if sent == last else 0
            if stalled >= stall or (min_rate and ticks > GRACE_SECONDS + sent / min_rate):
                self.engine.reset(stream_id, CANCEL)
                if stream_id in self.exchanges:
                    self.exchanges[stream_id].lose(PeerTimeout, "the peer takes our bytes too slowly")
                self.wake_writer()
            else:
                slow[stream_id] = ticks, stalled, sent
        self._slow = slow

    def _sweep_quiet(self, interval: float, timeout: float) -> None:
        """Ask a quiet peer whether it is there, while something waits for it."""
        self._quiet += 1
        taken, self._taken = self._taken, self._stream.sent
        # A full way that moves is a sign of life, too: our PING, and its answer, would wait behind all of it.
        if self._heard or not self.exchanges or (self._writer is not None and taken != self._taken):
            self._heard, self._pinged, self._quiet = False, False, 0
        elif not self._pinged:
            if 0 < interval <= self._quiet:
                self._pinged, self._quiet = True, 0
                self.engine.ping(KEEP_ALIVE)
                self.wake_writer()
        elif self._quiet >= timeout:
            log.info("%s:%s: HTTP/2 connection lost: no answer to a ping", *self._peer)
            self._end()

    def drain(self) -> None:
        """The server goes away: the peer is told, twice (RFC 9113 §6.8), and what it has asked for is answered."""
        self.engine.drain()
        self.engine.ping(DRAINING)
        if not self.exchanges:
            self._stream.deadline = min(self._stream.deadline, CLOCK.now + DRAIN_SECONDS)
        self.wake_writer()

    def kill(self) -> None:
        """End at once; the peer sees its answers cut."""
        self._end()
        for exchange in list(self.exchanges.values()):
            if exchange.worker is not None:
                exchange.worker.kill(block=False)


class ExchangeTurns(Turns):
    """Of the exchanges of a connection."""

    __slots__ = ("_connection",)

    def __init__(self, workers: Workers, connection: Http2Connection) -> None:
        Turns.__init__(self, workers)
        self._connection = connection

    def serve(self, exchange: "Http2Exchange") -> None:
        self._connection.serve_exchange(exchange)


class Http2Exchange(CarriedExchange):
    """One exchange on a stream of a connection."""

    __slots__ = (
        "_connection", "_continue_due", "_ended", "_engine", "_pieces", "_read_ticks", "_reader", "_received",
        "_stalled", "_trailers", "_tunnel", "_unread", "_wide", "_writer", "lost", "stream_id", "worker",
    )  # fmt: skip

    def carry(self, connection: Http2Connection, stream_id: int, ended: bool) -> None:
        """After begin()."""
        # Set once.
        self.stream_id = stream_id
        self.worker: Any = None
        self._connection = connection
        self._engine = connection.engine
        # Owned by the connection's reader.
        self.lost: tuple[type[PeerGone] | type[PeerTimeout], str] | None = None
        self._ended = ended
        self._received = 0
        self._trailers: Fields = ()
        # Shared with the reading greenlet.
        self._pieces: deque[bytes] | None = None
        self._unread = 0
        self._reader: Waiter | None = None
        # Owned by the reading greenlet.
        self._continue_due = self.has_content and self.request.expect is not None
        self._wide = False
        self._read_ticks = 0
        # Owned by the writing greenlet.
        self._writer: Waiter | None = None
        self._stalled = False
        self._tunnel: Http2Tunnel | None = None

    # --- heard, in the connection's reader or writer

    def hear(self, event: Data | Trailers | Reset | Writable) -> None:
        if isinstance(event, Data):
            data = event.data
            if data:
                if self._pieces is None:
                    self._pieces = deque()
                if self._pieces and len(self._pieces[-1]) + len(data) <= CRUMB:
                    self._pieces[-1] += data
                else:
                    self._pieces.append(data)
                self._unread += len(data)
                self._received += len(data)
            self._ended = self._ended or event.ended
            self._wake(self._reader)
        elif isinstance(event, Trailers):
            self._trailers = event.fields
            self._ended = True
            self._wake(self._reader)
        elif isinstance(event, Writable):
            self._stalled = False
            self._wake(self._writer)
        else:
            self.lose(PeerGone, "the peer has reset the stream")

    def lose(self, kind: type[PeerGone] | type[PeerTimeout], why: str) -> None:
        """The stream is dead: whoever waits, and whoever comes, is told. Never blocks."""
        if self.lost is None:
            self.lost = kind, why
            self._wake(self._reader)
            self._wake(self._writer)
            if self._closed is not None:
                self._closed.set()

    def _wake(self, waiter: Waiter | None) -> None:
        if waiter is not None:
            get_hub().loop.run_callback(waiter.switch, None)

    def _check_lost(self) -> None:
        if self.lost is not None:
            kind, why = self.lost
            raise kind(why)

    def sweep(self, min_rate: int) -> None:
        """Once a second, in the hub: end the wait for content that comes too slowly."""
        if self._reader is not None and self._tunnel is None:
            self._read_ticks += 1
            if min_rate and self._read_ticks > GRACE_SECONDS + self._received / min_rate:
                self._reader.throw(PeerTimeout("the content comes too slowly"))

    # --- the request

    def read(self, size: int) -> bytes:
        if not self.has_content:
            return b""
        limit = self._connection.limit_request_body
        if limit and self._received > limit:
            raise PeerError(413, "the content is too large")
        if not self._ended:
            if self._continue_due:
                self._send_continue()
            if not self._wide:
                self._wide = self._connection.widen(self.stream_id)
        return self.receive(size)

    def take_whole(self) -> bytes | None:
        limit = self._connection.limit_request_body
        if not self._ended or not 0 < self._unread == self._received <= PIECE or 0 < limit < self._received:
            return None
        assert self._pieces is not None
        data = b"".join(self._pieces)
        self._pieces, self._unread = None, 0
        self._engine.consume(self.stream_id, len(data))
        return data

    def _send_continue(self) -> None:
        """Tell a waiting client to go on (RFC 9110 §10.1.1)."""
        self._continue_due = False
        if self._said in (NOTHING, HEAD_HELD) and not self._received and self.lost is None:
            self._engine.inform(self.stream_id, 100, ())
            self._connection.wake_writer()

    def receive(self, size: int) -> bytes:
        """Return 1 to *size* octets of DATA, or b"" at the end of the peer's side; its credit is returned."""
        while not self._pieces:
            if self._ended:
                return b""
            self._check_lost()
            if self._reader is not None:
                raise ApplicationError("another greenlet is reading from this exchange")
            self._reader = Waiter()
            try:
                self._reader.get()
            finally:
                self._reader = None
        data = self._pieces[0]
        if len(data) <= size:
            self._pieces.popleft()
        else:
            data, self._pieces[0] = data[:size], data[size:]
        self._unread -= len(data)
        self._engine.consume(self.stream_id, len(data))
        self._connection.wake_writer()
        return data

    def pending(self) -> int:
        """Octets that receive() has without waiting."""
        return self._unread

    def trailers(self) -> Fields:
        return self._trailers

    @property
    def closed(self) -> Event:
        if self._closed is None:
            self._closed = Event()
            if self.lost is not None:
                self._closed.set()
        return self._closed

    # --- the response

    def send_informational(self, status: int, fields: ResponseFields) -> None:
        if self._said is not NOTHING:
            raise ApplicationError("an interim response comes before the head")
        head = compose_interim_head(status, fields)
        self._check_lost()
        self._engine.inform(self.stream_id, status, head.fields)
        self._connection.wake_writer()

    @property
    def can_push(self) -> bool:
        # "PUSH_PROMISE frames MUST only be sent on a peer-initiated stream" (RFC 9113 §6.6)
        return self.stream_id % 2 == 1 and self._engine.can_push

    def push(self, path: bytes, fields: ResponseFields = ()) -> bool:
        if not self.can_push or self._said is FINISHED:
            return False
        request = self.request
        promise: list[Field] = [
            (b":method", b"GET"),
            (b":scheme", request.scheme.encode("ascii")),
            (b":authority", request.authority),
            (b":path", path),
            *compose_response_head(200, fields).fields,
        ]
        head = check_request(promise, True)
        if head is None:
            raise ApplicationError(f"no request for {path!r} can be promised")
        self._check_lost()
        stream_id = self._engine.push(self.stream_id, promise)
        if stream_id is None:
            return False
        head.scheme = request.scheme
        connection = self._connection
        connection.add(stream_id, head, True, self.peer)
        connection.wake_writer()
        return True

    def send(self, data: bytes) -> None:
        if self._said is HEAD_HELD:
            self._queue_head(self._begin(-1), False)
        self.queue(self._measure(data))

    def send_file(self, file: IO[bytes], offset: int, count: int) -> None:
        if self._said is HEAD_HELD:
            self._queue_head(self._begin(-1), False)
        elif self._said is not HEAD_SENT:
            raise ApplicationError("content outside of a response")
        super().send_file(file, offset, count)

    def finish(self, data: bytes = b"", trailers: ResponseFields = ()) -> None:
        tail = [line.field for line in compose_trailers(trailers)] if trailers else None
        if self._said is HEAD_HELD:
            fields = self._begin(-1 if tail else len(data))
            if tail is None and self._left == len(data) <= PIECE and self._framing is KNOWN_LENGTH:
                self._engine.respond(self.stream_id, self.status, fields, data)  # whole, as most are
                self._left = 0
                self.sent = len(data)
                self._said = FINISHED
                self._connection.wake_writer()
                return
            self._queue_head(fields, tail is None)
            if self._said is FINISHED:
                return
        data = self._measure(data)
        if self._framing is NO_CONTENT:
            pass  # its head was its end, and takes no trailers
        elif self._falls_short():
            self.cut()
        elif tail is None:
            self.queue(data, True)
        else:
            self.queue(data)
            self._check_lost()
            self._engine.end(self.stream_id, tail)
            self._connection.wake_writer()
        self._said = FINISHED

    def _begin(self, length: int) -> list[Field]:
        """The fields of the held head, and what the server adds. *length* is the content's, or -1 when not known."""
        head = self._head
        request = self.request
        assert head is not None
        self._check_lost()
        stated = head.content_length if head.content_length >= 0 else length
        framing = self._framing = response_content(request, head.code, stated, True)
        fields = head.fields.copy()
        if framing is KNOWN_LENGTH:
            self._left = stated
            if head.content_length < 0:
                fields.append((b"content-length", b"%d" % stated))
        elif request.method == "HEAD" and length > 0 and head.content_length < 0:
            fields.append((b"content-length", b"%d" % length))  # as GET would (RFC 9110 §9.3.2)
        if not head.named:
            fields.append(SERVER_FIELD)
        if not head.dated:
            fields.append(CLOCK.date_field)
        if head.priority is not None:
            self._engine.prioritize(self.stream_id, *parse_priority(head.priority))
        self.status = head.code
        return fields

    def _queue_head(self, fields: list[Field], last: bool) -> None:
        """*last*: nothing comes behind the content."""
        ended = self._framing is NO_CONTENT or (last and self._framing is KNOWN_LENGTH and not self._left)
        self._engine.head(self.stream_id, self.status, fields, ended)
        self._said = FINISHED if ended and last else HEAD_SENT
        self._connection.wake_writer()

    def queue(self, data: Bytes, ended: bool = False) -> None:
        """Queue content; block while too much of it is queued. What is thrown in meanwhile kills the stream."""
        if self._writer is not None:
            raise ApplicationError("another greenlet is writing to this exchange")
        self._check_lost()
        if type(data) is bytes and len(data) <= PIECE:
            if data or ended:
                self._queue_piece(data, ended, ended)
            return
        view = memoryview(data).cast("B")
        for start in range(0, max(len(view), ended), PIECE):
            last = start + PIECE >= len(view)
            self._queue_piece(bytes(view[start : start + PIECE]), ended and last, ended and last)

    def _queue_piece(self, data: bytes, ended: bool, hasty: bool) -> None:
        queued = self._engine.send(self.stream_id, data, ended)
        self._connection.wake_writer()
        if queued <= self._connection.low_water or hasty:
            return
        self._stalled = True
        try:
            while self._stalled and self.lost is None:
                self._writer = Waiter()
                self._writer.get()
        except BaseException:
            self._writer = None
            self.cut()
            raise
        self._writer = None
        self._check_lost()

    # --- leaving HTTP

    def open_tunnel(self, fields: ResponseFields = (), protocol: str | None = None) -> "Http2Tunnel":
        if self.request.method != "CONNECT":
            raise NotSupported("the request offers no protocol to switch to")
        choose_protocol(self.request, protocol)
        if self._tunnel is not None:
            raise ApplicationError("this request has left HTTP before")
        if self._said is not NOTHING:
            raise ApplicationError("a response has begun")
        head = compose_connected(fields)
        self._check_lost()
        self._engine.head(self.stream_id, 200, [*head.fields, SERVER_FIELD, CLOCK.date_field])
        self._connection.wake_writer()
        self._said = FINISHED
        self.status = 200
        self._tunnel = Http2Tunnel(self)
        return self._tunnel

    def end_side(self) -> None:
        """End our side of a tunnel."""
        self._check_lost()
        self._engine.end(self.stream_id)
        self._connection.wake_writer()

    def linger(self) -> None:
        """Let the peer of a tunnel end its side, too."""
        if self.lost is None and not self._ended:
            self._connection.linger(self.stream_id)

    # --- the end

    def complete(self) -> bool:
        if self._tunnel is not None:
            self._tunnel.close()
        elif self._said is not FINISHED:
            log.error("%s: the gateway did not finish", self)
            return self.fail(500, "")
        return True

    def cut(self) -> None:
        if self._said is FINISHED and self._tunnel is None:
            return
        self._said = FINISHED
        self._engine.reset(self.stream_id, INTERNAL_ERROR if self._tunnel is None else CANCEL)
        self.lose(PeerGone, "the exchange was given up")
        self._connection.wake_writer()

    def fail(self, status: int, why: str, persistent: bool = True) -> bool:
        if self._tunnel is not None:
            self._tunnel.abort()
        return super().fail(status, why, persistent)

    def leave(self) -> None:
        if not self._ended and self._tunnel is None and self.lost is None:
            self._connection.leave_unread(self.stream_id, Unread(self._unread, self.status >= 400, self._wide))
        else:
            if self._unread:
                self._engine.consume(self.stream_id, self._unread)
            if self._wide:
                self._connection.narrow()
        self._pieces, self._unread = None, 0
        if self.lost is None:
            self.lost = LEFT_BEHIND
            self._wake(self._reader)
            self._wake(self._writer)
        CarriedExchange.leave(self)  # super() is slow when compiled


def _refuse(refusal: PeerError, exchange: Exchange) -> None:
    raise refusal


class Http2Tunnel(Tunnel):
    """What follows a CONNECT on its stream (RFC 9113 §8.5, RFC 8441 §5)."""

    __slots__ = ("_exchange", "_shut")

    def __init__(self, exchange: Http2Exchange) -> None:
        self._exchange = exchange
        self._shut = False

    def recv(self, size: int) -> bytes:
        return self._exchange.receive(size)

    def pending(self) -> int:
        return self._exchange.pending()

    def sendall(self, data: Bytes) -> None:
        if self._shut:
            raise PeerGone("our side has ended")
        self._exchange.queue(data)

    def sendv(self, buffers: Any) -> None:
        self.sendall(buffers[0] if len(buffers) == 1 else b"".join(buffers))

    def shutdown(self) -> None:
        if not self._shut:
            self._shut = True
            self._exchange.end_side()

    def close(self) -> None:
        if self._exchange.lost is None:
            self.shutdown()
            self._exchange.linger()

    def abort(self) -> None:
        self._exchange.cut()
