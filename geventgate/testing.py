"""For tests of applications and gateways: a request in memory, a server on a free port, a WebSocket client.

``FakeExchange`` keeps the carriers' rules without a socket; ``running()`` serves an application for real;
``WebSocketClient`` talks to it. Everything blocks gevent's way, so a test need not be monkey-patched, but its own
sockets are ``gevent.socket``'s or live in another process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

from gevent import socket
from gevent.event import Event
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from geventgate.assemble import assemble
from geventgate.config import Config
from geventgate.errors import ApplicationError, GeventgateError, PeerError, PeerGone
from geventgate.exchange import Address, Bytes, Exchange, ResponseFields, Text, Tunnel
from geventgate.message import Fields, RequestHead, ResponseHead, Tls
from geventgate.protocol.http1 import (
    Framing,
    check_final,
    choose_protocol,
    compose_informational,
    compose_response_head,
    compose_upgrade,
    encode_last_chunk,
    parse_request_head,
    request_content,
    response_content,
)
from geventgate.server.server import Server

TextFields = list[tuple[str, str]]
TUNNEL_CAPACITY = 64 * 1024  # bytes on their way; then a sender waits, as a socket's does


# --- in memory


def request_head(
    method: str = "GET", target: Text = "/", fields: ResponseFields = (), http_version: str = "1.1"
) -> RequestHead:
    """The head that a client's request would have. A missing Host is added. Raises PeerError, as for a client."""
    lines = [b"%b %b HTTP/%b" % (_bytes(method), _bytes(target), _bytes(http_version))]
    if http_version == "1.1" and all(_bytes(name).lower() != b"host" for name, _ in fields):
        lines.append(b"Host: localhost")
    lines += [b"%b: %b" % (_bytes(name), _bytes(value)) for name, value in fields]
    wire = b"\r\n".join(lines) + b"\r\n\r\n"
    head = parse_request_head(wire)
    if head is None or head.size != len(wire):
        raise ValueError(f"not one head: {wire!r}")
    return head


class FakeExchange(Exchange):
    """One request and its response, in memory.

    *content* is the request's: bytes, or pieces that come one by one. An exception among the pieces is raised by the
    read that meets it; a PeerError by every later read too. The response is what the application said, checked, without
    what a carrier adds: ``status`` and ``fields``; ``faults``, what a carrier would correct and log; ``sends``, its
    content as it was sent; ``files``, (offset, count) of each send_file; ``informational``; ``sent_trailers``;
    ``finished``; ``aborted``, why, or None. ``tunnel`` is the peer's end of an open one, ``hijacked`` the peer's socket
    of a connection that was given away.
    """

    def __init__(
        self,
        method: str = "GET",
        target: Text = "/",
        fields: ResponseFields = (),
        content: bytes | Iterable[bytes | BaseException] = b"",
        *,
        trailers: Fields = (),
        http_version: str = "1.1",
        peer: Address = ("127.0.0.1", "50000"),
        local: Address = ("127.0.0.1", "8000"),
        tls: Tls | None = None,
    ) -> None:
        pieces = [content] if isinstance(content, bytes) else content
        framing = {_bytes(name).lower() for name, _ in fields} & {b"content-length", b"transfer-encoding"}
        if content and not framing:
            field = ("Content-Length", str(len(content))) if isinstance(content, bytes) else _CHUNKED
            fields = [*fields, field]
        # Set once.
        self.request = request_head(method, target, fields, http_version)
        self.peer = peer
        self.local = local
        self.tls = tls
        self.has_content = request_content(self.request) is not None
        if tls is not None:
            self.request.scheme = "https"
        self._trailers = trailers
        # Of the reading side.
        self._pieces = iter(pieces)
        self._unread = b""
        self._failure: PeerError | None = None
        self._ended = False
        # Of the writing side.
        self.status = 0
        self.fields: TextFields = []
        self.faults: tuple[str, ...] = ()
        self.sends: list[bytes] = []
        self.files: list[tuple[int, int]] = []
        self.informational: list[tuple[int, TextFields]] = []
        self.sent_trailers: TextFields = []
        self.finished = False
        self.aborted: str | None = None
        self.tunnel: MemoryTunnel | None = None
        self.hijacked: Any = None
        self._head: ResponseHead | None = None
        self._framing = Framing.NO_CONTENT
        self._left = 0
        # Of the peer.
        self._closed: Event | None = None
        self._gone = False

    @property
    def content(self) -> bytes:
        """The response's content, so far."""
        return b"".join(self.sends)

    @property
    def sent(self) -> int:  # type: ignore[override]
        return len(self.content)

    def field(self, name: str) -> str | None:
        """The response's field *name*, values joined with ", " when repeated, or None."""
        values = [value for field, value in self.fields if field.lower() == name.lower()]
        return ", ".join(values) if values else None

    # --- the peer, for the test

    def hang_up(self) -> None:
        """The peer goes away: ``closed`` is set, writing raises PeerGone from now on."""
        self._gone = True
        if self._closed is not None:
            self._closed.set()

    @property
    def watched(self) -> bool:
        """Whether ``closed`` has been used."""
        return self._closed is not None

    # --- the contract

    @property
    def closed(self) -> Event:
        if self._closed is None:
            self._closed = Event()
            if self._gone:
                self._closed.set()
        return self._closed

    def read(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        while not self._unread:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
                return b""
            if isinstance(piece, BaseException):
                self._failure = piece if isinstance(piece, PeerError) else None
                raise piece
            self._unread = piece
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def trailers(self) -> Fields:
        return self._trailers if self._ended else ()

    def send_informational(self, status: int, fields: ResponseFields) -> None:
        if self._head is not None or self.finished:
            raise ApplicationError("an interim response comes before the head")
        self.informational.append((status, _fields(compose_informational(status, fields))))

    def send_head(self, status: str | int, fields: ResponseFields) -> None:
        if self._head is not None or self.finished:
            raise ApplicationError("a response has one head")
        head = compose_response_head(status, fields)
        check_final(head, self.request)
        self._head = head
        self.fields = _fields(head.wire)
        self.faults = head.faults

    def send(self, data: bytes) -> None:
        self._begin(-1)
        if self._gone:
            raise PeerGone
        if self._framing is Framing.KNOWN_LENGTH:
            data = data[: self._left]
            self._left -= len(data)
        if data and self._framing is not Framing.NO_CONTENT:
            self.sends.append(data)

    def send_file(self, file: IO[bytes], offset: int, count: int) -> None:
        self.files.append((offset, count))
        file.seek(offset)
        self.send(file.read(count))

    def finish(self, data: bytes = b"", trailers: ResponseFields = ()) -> None:
        self._begin(-1 if trailers else len(data))
        self.send(data)
        if self._framing is Framing.KNOWN_LENGTH and self._left:
            self.aborted = "less than its Content-Length"
        encode_last_chunk(trailers)
        self.sent_trailers = [(_text(name), _text(value)) for name, value in trailers]
        self.finished = True

    def _begin(self, length: int) -> None:
        """The held head leaves. *length* is the content's, or -1 when not known."""
        if self._head is None or self.finished:
            raise ApplicationError("content outside of a response")
        if not self.status:
            self.status = self._head.code
            stated = self._head.content_length if self._head.content_length >= 0 else length
            self._framing = response_content(self.request, self.status, stated, True)
            self._left = max(stated, 0)

    def abort(self, why: str) -> None:
        self.aborted = why
        self.finished = True

    def open_tunnel(self, fields: ResponseFields = (), protocol: str | None = None) -> "MemoryTunnel":
        protocol = choose_protocol(self.request, protocol)
        if self._head is not None or self.finished:
            raise ApplicationError("a response has begun")
        self.fields = _fields(compose_upgrade(protocol, fields))
        self.status = 101 if protocol else 200
        self.finished = True
        ours, self.tunnel = MemoryTunnel.pair()
        return ours

    def hijack(self) -> tuple[Any, bytes]:
        if self._head is not None or self.finished:
            raise ApplicationError("a response has begun")
        self.finished = True
        ours, self.hijacked = socket.socketpair()
        return ours, self._unread


class MemoryTunnel(Tunnel):
    """One end of a tunnel in memory. What one end sends the other receives; *capacity* bytes may be on their way."""

    def __init__(self, capacity: int) -> None:
        self._other = self
        self._capacity = capacity
        self._inbox = bytearray()
        self._changed = Event()  # the inbox, since somebody looked
        self._ended = False  # nothing more comes from the other end
        self._cut = False  # nor can be: it is gone without an end, or this end is closed
        self.closed = False

    @classmethod
    def pair(cls, capacity: int = TUNNEL_CAPACITY) -> tuple[Self, Self]:
        one, other = cls(capacity), cls(capacity)
        one._other, other._other = other, one
        return one, other

    def recv(self, size: int) -> bytes:
        while not self._inbox:
            if self._cut:
                raise PeerGone
            if self._ended:
                return b""
            self._changed.wait()
        data = bytes(self._inbox[:size])
        del self._inbox[:size]
        self._tell()
        return data

    def pending(self) -> int:
        return len(self._inbox)

    def sendall(self, data: Bytes) -> None:
        view = memoryview(data).cast("B")
        other = self._other
        while view:
            if self.closed or other.closed or other._ended:
                raise PeerGone
            room = self._capacity - len(other._inbox)
            if room > 0:
                other._inbox += view[:room]
                view = view[room:]
                other._tell()
            else:
                other._changed.wait()

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        for buffer in buffers:
            self.sendall(buffer)

    def shutdown(self) -> None:
        self._other._ended = True
        self._other._tell()

    def close(self) -> None:
        self.closed = self._cut = True
        self._inbox.clear()
        self._tell()
        self.shutdown()

    def abort(self) -> None:
        self._other._cut = True
        self.close()

    def _tell(self) -> None:
        """Wake whoever waits for this end's inbox to change."""
        changed, self._changed = self._changed, Event()
        changed.set()


_CHUNKED = ("Transfer-Encoding", "chunked")


def _bytes(text: Text) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _text(text: Text) -> str:
    return text if isinstance(text, str) else text.decode("latin-1")


def _fields(wire: bytes) -> TextFields:
    """The fields of a composed head."""
    lines = wire.decode("latin-1").split("\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines if line)]


# --- for real


@dataclass(frozen=True)
class Running:
    """A server that runs in this process. *url* is http://HOST:PORT, or unix:PATH."""

    server: Server
    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def connect(self, timeout: float = 10.0) -> Any:
        """A gevent socket connected to it; *timeout* in seconds is that of every operation."""
        return _connect(self.url, timeout)


@contextmanager
def running(application: Callable[..., Iterable[bytes]], **options: Any) -> Iterator[Running]:
    """Serve *application* while inside, on a free port unless *options*, Config's fields, say where."""
    config = Config(**{"bind": ("127.0.0.1:0",), "graceful_timeout": 2.0, **options})
    with assemble(config, application) as server:
        yield Running(server, server.addresses[0])


def _connect(url: str, timeout: float) -> Any:
    if not url.startswith("unix:"):
        where = urlsplit(url)
        return socket.create_connection((where.hostname, where.port or 80), timeout)
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(timeout)
    path = url.removeprefix("unix:")
    peer.connect(f"\0{path[1:]}" if path.startswith("@") else path)
    return peer


class Refused(GeventgateError):
    """The server answered an opening handshake with an ordinary response."""

    def __init__(self, status: int, fields: TextFields, content: bytes) -> None:
        super().__init__(f"{status}: {content!r}")
        self.status = status
        self.fields = fields
        self.content = content


class WebSocketClient:
    """A WebSocket to *url* (http:, ws: or unix:PATH). Raises Refused, OSErrors, and wsproto's RemoteProtocolError.

    *timeout* in seconds is that of every operation on ``socket``.
    """

    def __init__(
        self,
        url: str,
        path: str = "/",
        *,
        subprotocols: Sequence[str] = (),
        headers: ResponseFields = (),
        timeout: float = 10.0,
    ) -> None:
        self.socket = _connect(url, timeout)
        self.subprotocol: str | None = None
        self.headers: TextFields = []  # of the answer, without those of the handshake
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Any] = deque()
        try:
            self._open(urlsplit(url).netloc or "localhost", path, subprotocols, headers)
        except BaseException:
            self.socket.close()
            raise

    def _open(self, host: str, path: str, subprotocols: Sequence[str], headers: ResponseFields) -> None:
        extra = [(_bytes(name), _bytes(value)) for name, value in headers]
        self._tell(Request(host=host, target=path, subprotocols=list(subprotocols), extra_headers=extra))
        event = self._next()
        if isinstance(event, AcceptConnection):
            self.subprotocol = event.subprotocol
            self.headers = [(_text(name), _text(value)) for name, value in event.extra_headers]
        elif isinstance(event, RejectConnection):
            content = b""
            while isinstance(part := self._next(), RejectData):
                content += part.data
                if part.body_finished:
                    break
            fields = [(_text(name), _text(value)) for name, value in event.headers]
            raise Refused(event.status_code, fields, content)
        else:
            raise ConnectionResetError("no answer to the opening handshake")

    def send(self, message: str | bytes) -> None:
        self._tell(Message(data=message))

    def ping(self, payload: bytes = b"") -> None:
        """The answer is appended to ``pongs`` by a later receive()."""
        self._tell(Ping(payload))

    def receive(self) -> str | bytes | None:
        """The next message, or None once the WebSocket is closed: see ``close_code``, 1006 without a Close."""
        parts: list[Any] = []
        while (event := self._next()) is not None:
            if isinstance(event, Message):
                parts.append(event.data)
                if event.message_finished:
                    return "".join(parts) if isinstance(event, TextMessage) else b"".join(parts)
            elif isinstance(event, Ping):
                self._tell(event.response())
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                self.close_code, self.close_reason = event.code, event.reason or ""
                if self._connection.state is ConnectionState.REMOTE_CLOSING:
                    self._tell(event.response())
                return None
        if self.close_code is None:
            self.close_code = 1006
        return None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close: send a Close, unless one has come, and wait for the peer's. May be called again."""
        try:
            if self._connection.state is ConnectionState.OPEN:
                with suppress(ConnectionError):  # it has gone already
                    self._tell(CloseConnection(code, reason))
                while self.receive() is not None:
                    pass
        finally:
            self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.socket.close()

    def _tell(self, event: Any) -> None:
        self.socket.sendall(self._connection.send(event))

    def _next(self) -> Any:
        """The next event, or None at the end."""
        while not self._events:
            if self._connection.state is ConnectionState.CLOSED:
                return None
            try:
                data = self.socket.recv(64 * 1024)
            except ConnectionError:
                data = b""
            self._connection.receive_data(data or None)
            self._events.extend(self._connection.events())
            if not data and not self._events:
                return None
        return self._events.popleft()
