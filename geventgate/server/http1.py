"""Serve HTTP/1.1 on a stream: exchanges, one after the other (RFC 9112 §9.3).

Knows no gateway: it calls ``handle(exchange)`` once per request. Read Http1Connection.serve() top-down: it is the
whole life of a connection.
"""

import logging
from typing import IO, Any

import gevent
from gevent import getcurrent
from gevent.event import Event

from geventgate import observe
from geventgate.errors import ApplicationError, NotSupported, PeerError, PeerGone, PeerTimeout
from geventgate.exchange import Address, Bytes, ResponseFields, Tunnel
from geventgate.message import Fields, RequestHead, Tls
from geventgate.protocol.http1 import (
    CHUNKED,
    CONTINUE,
    KNOWN_LENGTH,
    UNTIL_CLOSE,
    Content,
    choose_protocol,
    compose_informational,
    compose_response_head,
    compose_trailers,
    compose_upgrade,
    encode_chunk,
    encode_last_chunk,
    expects_continue,
    parse_request_head,
    persists,
    reason,
    request_content,
    response_content,
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
from geventgate.server.clock import CLOCK, SERVER
from geventgate.server.service import Connection, Service
from geventgate.server.stream import Stream

MAX_DRAIN = 64 * 1024  # bytes of unread content worth reading to keep a connection; precedent: Go's 256 KiB
TURNS = 32  # pipelined requests answered in a row before other connections have theirs

log = logging.getLogger("geventgate")


class Http1Connection(Connection):
    """The life of one connection."""

    __slots__ = (
        "_exchange", "_hijacked", "_idles", "_local", "_peer", "_served", "_service", "_stream", "_tls", "_worker",
    )  # fmt: skip

    def __init__(self, stream: Stream, peer: Address, local: Address, service: Service, tls: Tls | None = None) -> None:
        # Set once.
        self._stream = stream
        self._peer = peer
        self._local = local
        self._service = service
        self._tls = tls
        # Owned by who serves; the sweep looks.
        self._idles = False  # nobody serves, nor is about to
        self._worker: Any = None
        self._exchange: Http1Exchange | None = None
        self._hijacked = False  # the stream is the application's now
        self._served = False
        stream.deadline = CLOCK.now + service.head_timeout

    def start(self) -> None:
        """Have a greenlet serve, in its turn, until the connection ends or idles."""
        self.wake()

    def wake(self) -> None:
        self._idles = False
        self._service.turns.add(self)

    def work(self) -> None:
        self._worker = getcurrent()
        idles = False
        try:
            idles = self.serve()
        finally:
            self._worker = None
            if idles:
                self._idles = True
                self._stream.when_readable(self)
            else:
                if not self._hijacked:
                    self._stream.close()
                self._service.leave(self)

    def serve(self) -> bool:
        """Serve until the connection idles (True: enter again with its next byte) or has served its last (False)."""
        stream = self._stream
        turns = 0
        try:
            while True:
                if not stream.inbox:
                    if not stream.poll():
                        return True
                    if stream.ended:
                        return False
                elif (turns := turns + 1) % TURNS == 0:
                    hub = gevent.get_hub()
                    hub.wait(hub.loop.timer(0.0))  # sleep(0) may come back fifty times before the hub looks at a socket
                head = self._read_head()
                if head is None or not self._serve_exchange(head):
                    return False
                self._rest()
        except PeerGone:
            pass  # nobody is left to tell
        except PeerError as error:
            self._refuse(error)
        return False

    def _read_head(self) -> RequestHead | None:
        """Return the next request's head, or None when the peer ends in its midst."""
        stream = self._stream
        limits = self._service.head_limits
        head = parse_request_head(stream.inbox, stream.start, limits)
        if head is None and self._served:  # a new connection's first byte and head share one deadline
            stream.deadline = CLOCK.now + self._service.head_timeout
        while head is None:
            if not stream.receive():
                return None
            head = parse_request_head(stream.inbox, stream.start, limits)
        stream.take(head.size)
        if self._tls is not None:
            head.scheme = "https"
        stream.deadline = 0.0
        return head

    def _serve_exchange(self, head: RequestHead) -> bool:
        """Serve one exchange; False when the connection has served its last."""
        service = self._service
        if head.connects and not service.config.allow_connect:
            raise PeerError(501, "CONNECT is not enabled: an open proxy is a trap")
        content = request_content(head, service.limit_request_body)
        if head.connects and content is not None:  # to others it is a request of its own (RFC 9110 §9.3.6)
            raise PeerError(400, "CONNECT has no content")
        continue_due = head.expect is not None and expects_continue(head) and content is not None
        self._stream.pace()
        self._served = True
        exchange = self._exchange = Http1Exchange.__new__(Http1Exchange)
        exchange.begin(head, self._peer, self._local, self._tls, content is not None)
        exchange.carry(self._stream, content, continue_due, service)
        try:
            return answer(exchange, service.handle, service)
        finally:
            self._exchange = None
            self._hijacked = exchange.hijacked
            exchange.leave()

    def _rest(self) -> None:
        """Set the deadline for what comes next."""
        stream, service = self._stream, self._service
        if stream.inbox:
            stream.deadline = CLOCK.now + service.head_timeout
        else:
            stream.deadline = CLOCK.now + (DRAIN_SECONDS if service.drains else service.keep_alive)

    def _refuse(self, error: PeerError) -> None:
        """Answer what is not even a request. Nothing behind it is served."""
        log.info("%s:%s: %s: %s", *self._peer, error.status, error)
        self._service.tell_refused(self._peer, error.status, str(error))
        text = reason(error.status).encode("ascii") + b"\n"
        head = compose_response_head(error.status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        self._stream.write(head.wire + b"Connection: close\r\n" + CLOCK.server_and_date + text)
        # One who was too slow is not waited for again.
        linger(self._stream, 0.0 if isinstance(error, PeerTimeout) else LINGER_SECONDS)

    # --- called by the server, in the hub

    def sweep(self, now: float) -> None:
        """Once a second: whoever is too slow is cut."""
        stream = self._stream
        if self._idles:
            if stream.deadline <= now:
                stream.close()
                self._service.leave(self)
            return
        exchange = self._exchange
        if exchange is not None and exchange.hijacked:
            return
        config = self._service.config
        stream.sweep(now, exchange is not None and not exchange.tunnelled, config.min_rate, config.write_timeout)

    def drain(self) -> None:
        """The server goes away: an idle connection is closed after a moment, a running exchange says so."""
        if self._exchange is None and not self._stream.inbox:
            self._stream.deadline = min(self._stream.deadline, CLOCK.now + DRAIN_SECONDS)

    def kill(self) -> None:
        """End at once; the peer sees its answer cut."""
        if self._worker is not None:
            self._worker.kill(block=False)  # which ends what it serves
        else:
            self._service.turns.discard(self)
            self._stream.close()
            self._service.leave(self)


def linger(stream: Stream, seconds: float = LINGER_SECONDS) -> None:
    """End our side, and let a peer that is still sending read our last bytes."""
    stream.deadline = CLOCK.now + seconds
    try:
        stream.linger()
    except PeerError as error:
        log.debug("while lingering: %s", error)  # it has gone, or would not end: either way we are done


class Http1Exchange(CarriedExchange):
    """One exchange on a stream that carries nothing else meanwhile."""

    __slots__ = (
        "_content", "_continue_due", "_cut", "_persistent", "_service", "_stream", "_tunnel", "hijacked",
    )  # fmt: skip

    def carry(self, stream: Stream, content: Content | None, continue_due: bool, service: Service) -> None:
        """After begin()."""
        # Set once.
        self._stream = stream
        self._content = content
        self._service = service
        # Owned by the reading greenlet.
        self._continue_due = continue_due
        # Owned by the writing greenlet.
        self._persistent = persists(self.request)
        self._cut = False
        self._tunnel: Http1Tunnel | None = None
        self.hijacked = False  # the stream is the application's

    # --- the request

    def read(self, size: int) -> bytes:
        content = self._content
        if content is None:
            return b""
        stream = self._stream
        if self._continue_due:
            self._send_continue()
        while not content.ended:
            data, taken = content.decode(stream.inbox, stream.start, size)
            if taken:
                stream.take(taken)
                if data:
                    return data
            elif not stream.receive():
                raise PeerGone("the request's content was cut short")
        return b""

    def readinto(self, buffer: memoryview) -> int:
        content, stream = self._content, self._stream
        if content is None or not content.plain or content.ended or self._continue_due or stream.inbox:
            return CarriedExchange.readinto(self, buffer)
        count = stream.receive_into(buffer[: content.remaining])
        if not count:
            raise PeerGone("the request's content was cut short")
        content.note(count)
        return count

    def take_whole(self) -> bytes | None:
        content, stream = self._content, self._stream
        if content is None or not content.plain or self._continue_due:
            return None
        size = content.remaining
        if not 0 < size <= stream.pending():
            return None
        data = stream.inbox[stream.start : stream.start + size]
        stream.take(size)
        content.note(size)
        return data

    def _send_continue(self) -> None:
        """Tell a waiting client to go on. "A server MAY omit sending a 100 [...] if it has already received some or
        all of the content" (RFC 9110 §10.1.1)."""
        self._continue_due = False
        if self._said in (NOTHING, HEAD_HELD) and not self._stream.inbox:
            self._stream.write(CONTINUE)
            self._stream.flush()

    def trailers(self) -> Fields:
        return self._content.trailers if self._content is not None else ()

    @property
    def closed(self) -> Event:
        if self._closed is None:
            self._closed = Event()
            if self._said is not FINISHED or self._tunnel is not None:
                self._stream.watch(self._closed.set)
        return self._closed

    # --- the response

    def send_informational(self, status: int, fields: ResponseFields) -> None:
        if self._said is not NOTHING:
            raise ApplicationError("an interim response comes before the head")
        if not self.request.old:  # "MUST NOT send a 1xx response to an HTTP/1.0 client" (RFC 9110 §15.2)
            self._stream.write(compose_informational(status, fields))
            self._stream.flush()

    def send(self, data: bytes) -> None:
        if self._said is HEAD_HELD:
            self._write_head()
        self._write_content(data)
        self._stream.flush()

    def send_file(self, file: IO[bytes], offset: int, count: int) -> None:
        if self._said is HEAD_HELD:
            self._write_head()
        elif self._said is not HEAD_SENT:
            raise ApplicationError("content outside of a response")
        if self._framing is KNOWN_LENGTH:
            sent = self._send_by_kernel(file, offset, min(count, self._left))
            self._left -= sent
            self.sent += sent
            offset, count = offset + sent, min(count - sent, self._left)
        super().send_file(file, offset, count)

    def _send_by_kernel(self, file: IO[bytes], offset: int, count: int) -> int:
        """Send by sendfile(2); 0 where it cannot be done so."""
        try:
            return self._stream.sendfile(file.fileno(), offset, count) if count > 0 else 0
        except PeerError:
            raise
        except OSError as error:
            log.debug("%s: not by sendfile: %s", self, error)
            return 0

    def finish(self, data: bytes = b"", trailers: ResponseFields = ()) -> None:
        if self._said is HEAD_HELD and not trailers:
            self._send_whole(data)
        else:
            self._send_last(data, trailers)
        self._said = FINISHED

    def _send_whole(self, data: bytes) -> None:
        """Head and content in one: of a known length, or none."""
        head = self._take_head(len(data))
        data = self._measure(data)
        self._cut = self._falls_short()
        self._stream.sendv((head, data))

    def _send_last(self, data: bytes, trailers: ResponseFields) -> None:
        lines = compose_trailers(trailers) if trailers else ()
        if self._said is HEAD_HELD:
            self._write_head()
        if data:
            self._write_content(data)
        elif self._said is not HEAD_SENT:
            raise ApplicationError("content outside of a response")
        if trailers and self._framing is not CHUNKED:
            observe.warn_once("trailers", f"{self}: trailers need chunked content; they were dropped")
        if self._framing is CHUNKED:
            self._stream.write(encode_last_chunk(lines))
        else:
            self._cut = self._falls_short()
        self._stream.flush()

    def _write_head(self) -> None:
        """Of content whose length is not known."""
        self._stream.write(self._take_head(-1))

    def _take_head(self, length: int) -> bytes:
        """The held head and what the server adds to it. *length* is the content's, or -1 when not known."""
        head = self._head
        request = self.request
        assert head is not None
        stated = head.content_length if head.content_length >= 0 else length
        if head.closing or self._continue_due or self._service.drains or self._too_much_unread():
            self._persistent = False
        framing = self._framing = response_content(request, head.code, stated, self._persistent)
        added = b""
        if framing is KNOWN_LENGTH:
            self._left = stated
            if head.content_length < 0:
                added = b"Content-Length: %d\r\n" % stated
        elif framing is CHUNKED:
            added = b"Transfer-Encoding: chunked\r\n"
        elif framing is UNTIL_CLOSE:
            self._persistent = False
        elif request.method == "HEAD" and length > 0 and head.content_length < 0:
            added = b"Content-Length: %d\r\n" % length  # as GET would (RFC 9110 §9.3.2)
        if head.code == 426:
            added += b"Connection: upgrade\r\n" if self._persistent else b"Connection: upgrade, close\r\n"
        elif not self._persistent:
            added += b"Connection: close\r\n"
        elif request.old:
            added += b"Connection: keep-alive\r\n"
        self.status = head.code
        self._said = HEAD_SENT
        if head.dated or head.named:
            stamp = (b"" if head.named else SERVER) + (b"" if head.dated else CLOCK.date) + b"\r\n"
            return head.wire + added + stamp
        if added:
            return head.wire + added + CLOCK.server_and_date
        return head.stamped(CLOCK.server_and_date)

    def _too_much_unread(self) -> bool:
        content = self._content
        return content is not None and not content.ended and content.remaining - self._stream.pending() > MAX_DRAIN

    def _write_content(self, data: bytes) -> None:
        data = self._measure(data)
        if not data:
            return
        if self._framing is not CHUNKED:
            self._stream.write(data)
        else:
            for piece in encode_chunk(data):
                self._stream.write(piece)

    # --- leaving HTTP

    def open_tunnel(self, fields: ResponseFields = (), protocol: str | None = None) -> "Http1Tunnel":
        protocol = choose_protocol(self.request, protocol)
        self._check_still_http()
        head = compose_upgrade(protocol, fields)
        if self._continue_due and not self._too_much_unread():
            # "the server MUST send a 100 (Continue) response before sending a 101" (RFC 9110 §7.8)
            self._send_continue()
        if not self._drain():
            raise NotSupported("the request has too much content to leave HTTP behind it")
        self._stream.write(head)
        self._said = FINISHED
        self._persistent = False
        self.status = 101 if protocol else 200
        self._tunnel = Http1Tunnel(self._stream)
        self._stream.flush()
        return self._tunnel

    def hijack(self) -> tuple[Any, bytes]:
        self._check_still_http()
        stream = self._stream
        stream.unwatch()
        unread = stream.inbox[stream.start :]
        stream.take(len(unread))
        self._content = None
        self._said = FINISHED
        self._persistent = False
        self.hijacked = True
        if self.tls is not None:
            return Http1Tunnel(stream), unread
        return gevent.socket.socket(fileno=stream.detach()), unread

    def _check_still_http(self) -> None:
        if self._tunnel is not None:
            raise ApplicationError("this request has left HTTP before")
        if self.hijacked:
            raise ApplicationError("the connection was hijacked before")
        if self._said is not NOTHING:
            raise ApplicationError("a response has begun")

    @property
    def tunnelled(self) -> bool:
        return self._tunnel is not None

    # --- the end

    def cut(self) -> None:
        if self.hijacked:
            return
        begun = self._said is HEAD_SENT
        self._said = FINISHED
        self._persistent = False
        if begun and self._framing is UNTIL_CLOSE:
            self._stream.reset()  # a mere end would look like the content's
        else:
            self._stream.close()

    def complete(self) -> bool:
        if self.hijacked:
            return False
        if self._tunnel is not None:
            self._tunnel.close()
            return False
        if self._said is not FINISHED:
            log.error("%s: the gateway did not finish", self)
            return self.fail(500, "")
        if self._cut or self._stream.reading is not None:  # a greenlet of the application still reads
            return False
        content = self._content
        try:
            if self._persistent and self._drain():
                return True
        except PeerError as error:
            log.debug("%s: behind its answer: %s", self, error)
        if (content is not None and not content.ended) or self._stream.unread():
            linger(self._stream)
        return False

    def _drain(self) -> bool:
        """Read what the application left unread, if it is little."""
        content = self._content
        if content is None or content.ended:
            return True
        if self._continue_due or self._too_much_unread():
            return False
        left = MAX_DRAIN
        while left > 0 and (data := self.read(left)):
            left -= len(data)
        return content.ended

    def fail(self, status: int, why: str, persistent: bool = True) -> bool:
        self._persistent = self._persistent and persistent
        if self._tunnel is not None:
            self._tunnel.abort()
        return super().fail(status, why, persistent)

    def leave(self) -> None:
        if self._closed is not None and not self.hijacked:
            self._stream.unwatch()
        CarriedExchange.leave(self)  # super() is slow when compiled


class Http1Tunnel(Tunnel):
    """What follows HTTP on a stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def recv(self, size: int) -> bytes:
        stream = self._stream
        if not stream.inbox and not stream.receive():
            return b""
        data = stream.inbox
        if stream.start or len(data) > size:
            data = data[stream.start : stream.start + size]
        stream.take(len(data))
        return data

    def pending(self) -> int:
        return self._stream.pending()

    def sendall(self, data: Bytes) -> None:
        self._stream.sendv((data,))

    def sendv(self, buffers: Any) -> None:
        self._stream.sendv(buffers)

    def shutdown(self) -> None:
        self._stream.shutdown()

    def close(self) -> None:
        stream = self._stream
        try:
            if stream.reading is None and not stream.ended:
                linger(stream)
        finally:
            stream.close()

    def abort(self) -> None:
        self._stream.reset()
