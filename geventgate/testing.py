"""For tests of applications and gateways: a request in memory, a server on a free port, clients.

``FakeExchange`` keeps the carriers' rules without a socket; ``running()`` serves an application for real;
``WebSocketClient`` and ``Http2Client`` talk to it, ``Http2WebSocketClient`` does the one over the other. Everything
blocks gevent's way, so a test need not be monkey-patched, but its own sockets are ``gevent.socket``'s or live in
another process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from gevent import socket, ssl
from gevent.event import Event
from gevent.lock import RLock
from h2 import events as heard
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
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
from geventgate.errors import ApplicationError, GeventgateError, NotSupported, PeerError, PeerGone
from geventgate.exchange import Address, Bytes, Exchange, ResponseFields, Text, Tunnel
from geventgate.message import Fields, RequestHead, ResponseHead, Tls
from geventgate.protocol.http1 import (
    Framing,
    check_final,
    choose_protocol,
    compose_informational,
    compose_response_head,
    compose_trailers,
    compose_upgrade,
    parse_request_head,
    request_content,
    response_content,
)
from geventgate.protocol.http2 import CANCEL, REFUSED_STREAM, check_request
from geventgate.server.server import Server

TextFields = list[tuple[str, str]]
TUNNEL_CAPACITY = 64 * 1024  # bytes on their way; then a sender waits, as a socket's does
CONNECTION_WINDOW = 16 * 1024 * 1024  # octets more of HTTP/2: a stream that is not received holds up no other
FRAME_HEAD, GOAWAY = 9, 7  # octets, and a frame's type (RFC 9113 §4.1, §6.8)


# --- in memory


def request_head(
    method: str = "GET",
    target: Text = "/",
    fields: ResponseFields = (),
    http_version: str = "1.1",
    *,
    protocol: str | None = None,
    ended: bool = True,
) -> RequestHead:
    """The head that a client's request would have. Raises PeerError, as for a client.

    A missing Host is added: over HTTP/2 as :authority. *protocol* is the :protocol of an extended CONNECT (RFC 8441
    §4); *ended* is said of HTTP/2, too: no content follows.
    """
    if http_version == "2":
        return _http2_request_head(method, target, fields, protocol, ended)
    lines = [b"%b %b HTTP/%b" % (_bytes(method), _bytes(target), _bytes(http_version))]
    if http_version == "1.1" and all(_bytes(name).lower() != b"host" for name, _ in fields):
        lines.append(b"Host: localhost")
    lines += [b"%b: %b" % (_bytes(name), _bytes(value)) for name, value in fields]
    wire = b"\r\n".join(lines) + b"\r\n\r\n"
    head = parse_request_head(wire)
    if head is None or head.size != len(wire):
        raise ValueError(f"not one head: {wire!r}")
    return head


def _http2_request_head(
    method: str, target: Text, fields: ResponseFields, protocol: str | None, ended: bool
) -> RequestHead:
    head = check_request(_request_fields(method, "http", "localhost", target, fields, protocol), ended)
    if head is None:
        raise PeerError(400, "malformed request")
    return head


def _request_fields(
    method: str, scheme: str, authority: str, target: Text, fields: ResponseFields, protocol: str | None
) -> list[tuple[bytes, bytes]]:
    """A request's field section in HTTP/2 (RFC 9113 §8.3.1). A Host among *fields* becomes its :authority."""
    regular = [(_bytes(name).lower(), _bytes(value)) for name, value in fields]
    host = next((value for name, value in regular if name == b"host"), _bytes(authority))
    section = [(b":method", _bytes(method)), (b":authority", host)]
    if method == "CONNECT" and protocol is None:
        section[1] = (b":authority", _bytes(target))
    else:
        section += [(b":scheme", _bytes(scheme)), (b":path", _bytes(target))]
    if protocol is not None:
        section.append((b":protocol", _bytes(protocol)))
    return section + [field for field in regular if field[0] != b"host"]


class FakeExchange(Exchange):
    """One request and its response, in memory.

    *content* is the request's: bytes, or pieces that come one by one. An exception among the pieces is raised by the
    read that meets it; a PeerError by every later read too. The response is what the application said, checked, without
    what a carrier adds: ``status`` and ``fields``; ``faults``, what a carrier would correct and log; ``sends``, its
    content as it was sent; ``files``, (offset, count) of each send_file; ``informational``; ``sent_trailers``;
    ``finished``; ``aborted``, why, or None. ``pushed``, what was promised, if the peer *can_push*. ``tunnel`` is the
    peer's end of an open one, ``hijacked`` the peer's socket of a connection that was given away.
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
        protocol: str | None = None,
        can_push: bool = False,
        peer: Address = ("127.0.0.1", "50000"),
        local: Address = ("127.0.0.1", "8000"),
        tls: Tls | None = None,
    ) -> None:
        pieces = [content] if isinstance(content, bytes) else content
        framing = {_bytes(name).lower() for name, _ in fields} & {b"content-length", b"transfer-encoding"}
        if content and not framing:
            if isinstance(content, bytes):
                fields = [*fields, ("Content-Length", str(len(content)))]
            elif http_version != "2":
                fields = [*fields, ("Transfer-Encoding", "chunked")]
        # Set once.
        self.request = request_head(method, target, fields, http_version, protocol=protocol, ended=not content)
        self.peer = peer
        self.local = local
        self.tls = tls
        if http_version == "2":
            self.has_content = bool(content) and self.request.protocol is None
        else:
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
        self.pushed: list[RequestHead] = []
        self.finished = False
        self.aborted: str | None = None
        self.tunnel: MemoryTunnel | None = None
        self.hijacked: Any = None
        self._can_push = can_push
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
        return _joined(self.fields, name)

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

    @property
    def can_push(self) -> bool:
        return self._can_push

    def push(self, path: bytes, fields: ResponseFields = ()) -> bool:
        if not self._can_push or self.finished:
            return False
        authority = self.request.authority.decode("latin-1")
        promise = _request_fields("GET", self.request.scheme, authority, path, fields, None)
        head = check_request(promise, True)
        if head is None:
            raise ApplicationError(f"no request for {path!r} can be promised")
        self.pushed.append(head)
        return True

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
        compose_trailers(trailers)
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
        if self.request.http_version == "2":
            protocol = ""  # an extended CONNECT's is agreed on by its 200 (RFC 8441 §5)
        self.fields = _fields(compose_upgrade(protocol, fields))
        self.status = 101 if protocol else 200
        self.finished = True
        ours, self.tunnel = MemoryTunnel.pair()
        return ours

    def hijack(self) -> tuple[Any, bytes]:
        if self.request.http_version == "2":
            raise NotSupported("this connection carries other requests too")
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


def _bytes(text: Text) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _text(text: Text) -> str:
    return text if isinstance(text, str) else text.decode("latin-1")


def _fields(wire: bytes) -> TextFields:
    """The fields of a composed head."""
    lines = wire.decode("latin-1").split("\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines if line)]


def _joined(fields: TextFields, wanted: str) -> str | None:
    values = [value for name, value in fields if name.lower() == wanted.lower()]
    return ", ".join(values) if values else None


# --- for real


@dataclass(frozen=True)
class Running:
    """A server that runs in this process. *url* is http://HOST:PORT, https://HOST:PORT, or unix:PATH."""

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
        peer = socket.create_connection((where.hostname, where.port or (443 if _secure(url) else 80)), timeout)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return peer
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(timeout)
    path = url.removeprefix("unix:")
    peer.connect(f"\0{path[1:]}" if path.startswith("@") else path)
    return peer


def _secure(url: str) -> bool:
    return url.startswith(("https:", "wss:"))


def _open(url: str, timeout: float, ca_certs: str | None, protocol: str) -> Any:
    """Connect, and speak TLS where *url* says so, to choose *protocol* there (RFC 7301)."""
    peer = _connect(url, timeout)
    if not _secure(url):
        return peer
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_certs:
            context.load_verify_locations(ca_certs)
        else:
            context.load_default_certs()
        context.set_alpn_protocols([protocol])
        peer = context.wrap_socket(peer, server_hostname=urlsplit(url).hostname)
        if protocol == "h2" and peer.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not choose HTTP/2")
    except BaseException:
        peer.close()
        raise
    return peer


class Refused(GeventgateError):
    """The server answered an opening handshake with an ordinary response."""

    def __init__(self, status: int, fields: TextFields, content: bytes) -> None:
        super().__init__(f"{status}: {content!r}")
        self.status = status
        self.fields = fields
        self.content = content


class WebSocketClient:
    """A WebSocket to *url* (http:, ws:, https:, wss:, or unix:PATH). Raises Refused, OSErrors, and wsproto's
    RemoteProtocolError.

    *timeout* in seconds is that of every operation on ``socket``. *ca_certs* is a PEM file of whom to believe, if not
    those the system believes.
    """

    def __init__(
        self,
        url: str,
        path: str = "/",
        *,
        subprotocols: Sequence[str] = (),
        headers: ResponseFields = (),
        ca_certs: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._begin(_open(url, timeout, ca_certs, "http/1.1"), WSConnection(ConnectionType.CLIENT))
        try:
            self._open(urlsplit(url).netloc or "localhost", path, subprotocols, headers)
        except BaseException:
            self.socket.close()
            raise

    def _begin(self, sock: Any, connection: WSConnection | Connection) -> None:
        self.socket = sock
        self.subprotocol: str | None = None
        self.headers: TextFields = []  # of the answer, without those of the handshake
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._connection = connection
        self._events: deque[Any] = deque()

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
                if self._connection.state is ConnectionState.OPEN:  # behind a Close nothing is sent (RFC 6455 §5.5.1)
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


# --- HTTP/2


class StreamReset(GeventgateError, ConnectionResetError):
    """The stream was reset (RFC 9113 §6.4); *code* says why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the stream was reset: error {code}")
        self.code = code


@dataclass(frozen=True)
class Http2Response:
    """A response, whole. ``informational`` are (status, fields) before it, ``pushed`` the streams it promised."""

    status: int
    fields: TextFields
    content: bytes
    trailers: TextFields
    informational: list[tuple[int, TextFields]]
    pushed: list["Http2Stream"]

    def field(self, name: str) -> str | None:
        """The field *name*, values joined with ", " when repeated, or None."""
        return _joined(self.fields, name)


class Http2Client:
    """An HTTP/2 connection to *url*: http: or unix:PATH with prior knowledge, https: by ALPN. For many greenlets.

    Nothing is read but while somebody waits for something: PINGs are answered then, and credit for content is
    returned when it is received from its stream. Raises StreamReset and other OSErrors, h2's ProtocolError.

    *settings* are those of RFC 9113 §6.5.2, by their numbers. *timeout* in seconds is that of every wait. *ca_certs* is
    a PEM file of whom to believe, if not those the system believes.
    """

    def __init__(
        self,
        url: str,
        *,
        settings: Mapping[int, int] | None = None,
        ca_certs: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.socket = _open(url, timeout, ca_certs, "h2")
        self.goaway: tuple[int, int, bytes] | None = None  # the server's last: last stream, error, debug data
        self.pongs: list[bytes] = []
        self._scheme = "https" if _secure(url) else "http"
        self._authority = urlsplit(url).netloc or "localhost"
        self._timeout = timeout
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        self._streams: WeakValueDictionary[int, Http2Stream] = WeakValueDictionary()
        self._inbox = b""
        self._lost: BaseException | None = None
        self._sending = RLock()  # frames leave in the order in which they were made
        self._reading = False
        self._changed = Event()  # since somebody looked
        try:
            self.h2.initiate_connection()
            if settings:
                self.h2.update_settings(dict(settings))
            self.h2.increment_flow_control_window(CONNECTION_WINDOW)
            self.flush()
            self._settled = False
            while not self._settled:
                self.wait()
        except BaseException:
            self.socket.close()
            raise

    def request(
        self,
        method: str = "GET",
        path: Text = "/",
        fields: ResponseFields = (),
        content: bytes | Iterable[bytes] = b"",
        trailers: ResponseFields = (),
    ) -> Http2Response:
        """The response to a request. *content* may come in pieces; the length of bytes is stated."""
        if isinstance(content, bytes):
            if content and _joined([(_text(name), "") for name, _ in fields], "content-length") is None:
                fields = [*fields, ("content-length", str(len(content)))]
            content = [content] if content else []
            if not content and not trailers:
                return self.open(method, path, fields, ended=True).response()
        stream = self.open(method, path, fields)
        with suppress(StreamReset):  # then the response says why, or response() raises it again
            for piece in content:
                stream.send(piece)
            stream.end(trailers)
        return stream.response()

    def open(
        self,
        method: str = "GET",
        path: Text = "/",
        fields: ResponseFields = (),
        *,
        protocol: str | None = None,
        ended: bool = False,
    ) -> "Http2Stream":
        """Send a request's head; *ended*: all of the request. *path* is that of CONNECT's host and port, too."""
        self.check()
        if self.goaway is not None:
            raise ConnectionResetError("the server goes away")
        stream = Http2Stream(self, self.h2.get_next_available_stream_id())
        section = _request_fields(method, self._scheme, self._authority, path, fields, protocol)
        self.h2.send_headers(stream.stream_id, section, end_stream=ended)
        self._streams[stream.stream_id] = stream
        self.flush()
        return stream

    def ping(self, payload: bytes = b"geventga") -> None:
        """Wait for the answer to a PING of 8 octets."""
        self.check()
        self.h2.ping(payload)
        self.flush()
        while payload not in self.pongs:
            self.wait()
        self.pongs.remove(payload)

    def wait(self) -> None:
        """Wait until something has come. Who comes first reads for all."""
        self.check()
        if self._reading:
            if not self._changed.wait(self._timeout):
                raise TimeoutError("nothing has come")
            return
        self._reading = True
        try:
            self._take(self.socket.recv(64 * 1024))
        except TimeoutError:
            raise
        except (OSError, ProtocolError) as error:
            self._lost = error
            raise
        finally:
            self._reading = False
            changed, self._changed = self._changed, Event()
            changed.set()

    def check(self) -> None:
        """Raises ConnectionResetError once the connection has ended."""
        if self._lost is not None:
            raise ConnectionResetError("the connection has ended") from self._lost

    def flush(self) -> None:
        """Send what there is to say."""
        with self._sending:
            try:
                if data := self.h2.data_to_send():
                    self.socket.sendall(data)
            except BaseException as error:
                self._lost = self._lost or error  # in the middle of a frame
                raise

    def close(self) -> None:
        """Close. The server sees the streams that are open as cut."""
        self._lost = self._lost or ConnectionAbortedError("closed")
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        self._inbox += data
        while len(self._inbox) >= FRAME_HEAD:
            size = FRAME_HEAD + int.from_bytes(self._inbox[:3])
            if len(self._inbox) < size:
                break
            frame, self._inbox = self._inbox[:size], self._inbox[size:]
            if frame[3] == GOAWAY:  # h2 would take nothing more of the streams that go on
                self._go_away(frame[FRAME_HEAD:])
            else:
                for event in self.h2.receive_data(frame):
                    self._hear(event)
        self.flush()

    def _go_away(self, payload: bytes) -> None:
        """ "Activity on streams numbered lower than or equal to the last stream identifier might still complete
        successfully" (RFC 9113 §6.8)."""
        last = int.from_bytes(payload[:4]) & 0x7FFF_FFFF
        self.goaway = last, int.from_bytes(payload[4:8]), payload[8:]
        for stream in list(self._streams.values()):
            if stream.stream_id > last and stream.stream_id % 2 and not stream.ended:
                stream.reset_code = REFUSED_STREAM

    def _hear(self, event: heard.Event) -> None:
        match event:
            case heard.RemoteSettingsChanged():
                self._settled = True
            case heard.PingAckReceived():
                self.pongs.append(event.ping_data)
            case heard.PushedStreamReceived():
                if parent := self._streams.get(event.parent_stream_id or 0):
                    pushed = Http2Stream(self, event.pushed_stream_id or 0, _text_fields(event.headers or ()))
                    self._streams[pushed.stream_id] = pushed
                    parent.pushed.append(pushed)
            case _:
                stream = self._streams.get(getattr(event, "stream_id", None) or 0)
                if stream is not None:
                    stream.hear(event)
                elif isinstance(event, heard.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


class Http2Stream:
    """A request and its response on a stream of *client*, or a promised one (``request`` is its fields then).

    ``status`` is 0 until the head has come.
    """

    def __init__(self, client: Http2Client, stream_id: int, request: TextFields | None = None) -> None:
        self.stream_id = stream_id
        self.request = request
        self.status = 0
        self.fields: TextFields = []
        self.trailers: TextFields = []
        self.informational: list[tuple[int, TextFields]] = []
        self.pushed: list[Http2Stream] = []
        self.ended = False  # the server has ended its side
        self.reset_code: int | None = None
        self._client = client
        self._inbox: deque[bytes] = deque()
        self._said_all = request is not None

    # --- the response

    def head(self) -> int:
        """Wait for the head of the response; return its status."""
        while not self.status:
            self._check_reset()
            self._client.wait()
        return self.status

    def receive(self, size: int = 64 * 1024) -> bytes:
        """1 to *size* bytes of content, whose credit is returned; b"" at its end."""
        while not self._inbox:
            if self.ended:
                return b""
            self._check_reset()
            self._client.wait()
        data = self._inbox.popleft()
        if len(data) > size:
            self._inbox.appendleft(data[size:])
            data = data[:size]
        self._acknowledge(len(data))
        return data

    def response(self) -> Http2Response:
        """Wait for all of the response that has not been received yet."""
        self.head()
        content = b"".join(iter(self.receive, b""))
        return Http2Response(self.status, self.fields, content, self.trailers, self.informational, self.pushed)

    # --- the request

    def send(self, data: Bytes) -> None:
        """Send content; wait while the server has given no credit for it."""
        view = memoryview(data).cast("B")
        h2 = self._client.h2
        while view:
            self._check_reset()
            room = min(h2.local_flow_control_window(self.stream_id), h2.max_outbound_frame_size)
            if room > 0:
                h2.send_data(self.stream_id, view[:room].tobytes())
                view = view[room:]
                self._client.flush()
            else:
                self._client.wait()

    def end(self, trailers: ResponseFields = ()) -> None:
        """End our side, with *trailers*."""
        self._check_reset()
        self._said_all = True
        if trailers:
            self._client.h2.send_headers(self.stream_id, _wire_fields(trailers), end_stream=True)
        else:
            self._client.h2.end_stream(self.stream_id)
        self._client.flush()

    def reset(self, code: int = CANCEL) -> None:
        """Give the stream up (RFC 9113 §6.4)."""
        if self.reset_code is None and not (self.ended and self._said_all):
            self._client.check()
            self.reset_code = code
            self._client.h2.reset_stream(self.stream_id, code)
            self._client.flush()

    # --- as a socket is spelt

    sendall = send
    recv = receive

    def close(self) -> None:
        """End our side, unless that has happened."""
        if not self._said_all and self.reset_code is None:
            with suppress(ConnectionError):
                self.end()

    # ---

    def hear(self, event: heard.Event) -> None:
        match event:
            case heard.InformationalResponseReceived():
                fields = _text_fields(event.headers)
                self.informational.append((int(fields[0][1]), fields[1:]))
            case heard.ResponseReceived():
                fields = _text_fields(event.headers)
                self.status, self.fields = int(fields[0][1]), fields[1:]
            case heard.DataReceived():
                if event.data:
                    self._inbox.append(event.data)
                self._acknowledge(event.flow_controlled_length - len(event.data))  # padding
            case heard.TrailersReceived():
                self.trailers = _text_fields(event.headers)
            case heard.StreamEnded():
                self.ended = True
            case heard.StreamReset():
                self.reset_code = int(event.error_code)

    def _acknowledge(self, count: int) -> None:
        if count:
            self._client.h2.acknowledge_received_data(count, self.stream_id)
            self._client.flush()

    def _check_reset(self) -> None:
        if self.reset_code is not None:
            raise StreamReset(self.reset_code)
        self._client.check()


class Http2WebSocketClient(WebSocketClient):
    """A WebSocket on a stream of *client* (RFC 8441), as WebSocketClient. Its ``socket`` is the stream."""

    def __init__(
        self,
        client: Http2Client,
        path: str = "/",
        *,
        subprotocols: Sequence[str] = (),
        headers: ResponseFields = (),
    ) -> None:
        fields: list[tuple[Text, Text]] = [("sec-websocket-version", "13"), *headers]
        if subprotocols:
            fields.append(("sec-websocket-protocol", ", ".join(subprotocols)))
        stream = client.open("CONNECT", path, fields, protocol="websocket")
        self._begin(stream, Connection(ConnectionType.CLIENT))
        if stream.head() != 200:
            stream.close()
            raise Refused(stream.status, stream.fields, stream.response().content)
        self.subprotocol = _joined(stream.fields, "sec-websocket-protocol")
        self.headers = [field for field in stream.fields if field[0] != "sec-websocket-protocol"]


def _wire_fields(fields: ResponseFields) -> list[tuple[bytes, bytes]]:
    return [(_bytes(name).lower(), _bytes(value)) for name, value in fields]


def _text_fields(fields: Iterable[tuple[Any, Any]]) -> TextFields:
    return [(_text(name), _text(value)) for name, value in fields]
