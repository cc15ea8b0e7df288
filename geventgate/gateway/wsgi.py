"""Answer an exchange with a WSGI application (PEP 3333). Knows no socket and no server."""

import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from io import BufferedRandom, BufferedReader, BytesIO, FileIO
from time import monotonic
from types import TracebackType
from typing import IO, Any, TextIO

from gevent.lock import Semaphore

from geventgate.config import Config
from geventgate.errors import ApplicationError, PeerError, WebSocketError
from geventgate.exchange import Address, EventLike, Exchange, ResponseFields, Tunnel
from geventgate.gateway.environ import Environ, build_environ, environ_template, with_room
from geventgate.gateway.forwarded import Forwarding
from geventgate.gateway.rawsocket import HandshakeFile, RawWebSocket
from geventgate.gateway.upgrade import TunnelSocket
from geventgate.gateway.websocket import WebSocket, WebSockets
from geventgate.protocol.handshake import Handshake, check_handshake, is_websocket
from geventgate.protocol.websocket import GOING_AWAY, SERVICE_RESTART

Application = Callable[..., Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

MAX_TEMPLATES = 1024  # addresses: a transparent proxy's PROXY header may name any

# What stands in the environ for the key that a handshake over HTTP/2 has not: no client sees what is made of it.
NO_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="

log = logging.getLogger("geventgate")


class FileWrapper:
    """``wsgi.file_wrapper``: sent by sendfile(2) where that can be, else read in blocks (PEP 3333)."""

    __slots__ = ("block_size", "file")

    def __init__(self, file: IO[bytes], block_size: int = 64 * 1024) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while block := self.file.read(self.block_size):
            yield block

    def close(self) -> None:
        close = getattr(self.file, "close", None)
        if close is not None:
            close()

    def extent(self) -> tuple[int, int] | None:
        """Where the file stands and how many bytes are left, if it is a regular one; else None.

        Other objects may have the fileno() of something else than what they read: gzip's is of the compressed bytes.
        """
        file = self.file
        raw = file.raw if isinstance(file, BufferedReader | BufferedRandom) else file
        if type(raw) is not FileIO:
            return None
        status = os.fstat(raw.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        offset = file.tell()
        return offset, max(status.st_size - offset, 0)


class WsgiResponse:
    """start_response() and write() of one request, what can be sent besides, and the ways out of HTTP."""

    __slots__ = (
        "_exchange", "_fields", "_hijacked", "_raw", "_socket", "_started", "_status", "_trailers", "_websocket",
        "input",
    )  # fmt: skip

    def begin(self, exchange: Exchange, websocket: WebSocket | None) -> None:
        """In place of __init__(), as CarriedExchange's."""
        self._exchange = exchange
        self._websocket = websocket
        self.input: BytesIO | None = None
        self._status: str | int | None = None
        self._fields: ResponseFields = ()
        self._trailers: ResponseFields = ()
        self._started = False  # the head is out of our hands
        self._socket: TunnelSocket | None = None
        self._hijacked = False
        self._raw: RawWebSocket | None = None

    def start_response(
        self, status: str | int, fields: ResponseFields, exc_info: ExcInfo | None = None
    ) -> "WsgiResponse":
        """Also takes an int status, and fields as bytes."""
        if exc_info is not None:
            try:
                # "If exc_info is provided, and the HTTP headers have already been output, start_response must raise"
                if self._started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no cycle through the traceback
        elif self._status is not None:
            raise ApplicationError("start_response() was called twice without exc_info")
        self._status = status
        self._fields = fields
        return self  # as write(): a callable is all PEP 3333 asks for

    def __call__(self, data: bytes) -> None:
        """PEP 3333's write()."""
        if self._has_left_http():
            return
        if type(data) is not bytes:
            data = _as_bytes(data)
        if not self._started:
            self._send_head()
        self._exchange.send(data)

    def _send_head(self, fields: ResponseFields = ()) -> None:
        if self._status is None:
            raise ApplicationError("start_response() was not called")
        self._exchange.send_head(self._status, [*self._fields, *fields] if fields else self._fields)
        self._started = True

    def send_result(self, result: Iterable[bytes]) -> None:
        """Send what the application returned, each block before the next is asked for; close it, whatever happens."""
        if type(result) is list or type(result) is tuple:  # which have nothing to close
            self._send_blocks(result)
            return
        try:
            if type(result) is FileWrapper and not self._has_left_http() and (extent := result.extent()) is not None:
                self._send_file(result.file, *extent)
                self._finish(b"")
            else:
                self._send_blocks(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _send_blocks(self, blocks: Iterable[bytes]) -> None:
        if self._has_left_http():
            return
        if (type(blocks) is list or type(blocks) is tuple) and len(blocks) == 1:
            self._finish(blocks[0])  # whole: its length is known, and it leaves in one write
            return
        for data in blocks:
            if data:
                self(data)
        if not self._has_left_http():
            self._finish(b"")

    def _has_left_http(self) -> bool:
        """Whether this is answered in another way: a WebSocket was opened, or refused for its origin."""
        if self._hijacked or self._socket is not None or (self._raw is not None and self._raw.used):
            return True
        return self._websocket is not None and (self._websocket.accepted or self._websocket.refused)

    def early_hints(self, headers: ResponseFields) -> None:
        """``wsgi.early_hints``: send 103 with *headers* (RFC 8297), before the response. Raises ApplicationError."""
        self._exchange.send_informational(103, headers)

    def push(self, path: str, headers: ResponseFields = ()) -> bool:
        """``geventgate.push``: have a GET of *path* (written as RAW_URI), with *headers*, answered before the client
        asks (RFC 9113 §8.4). Whether it will be: clients seldom want it. Raises ApplicationError."""
        try:
            return self._exchange.push(path.encode("latin-1"), headers)
        except UnicodeEncodeError:
            raise ApplicationError(f"not latin-1 (PEP 3333): {path!r}") from None

    def send_trailers(self, trailers: ResponseFields) -> None:
        """``geventgate.send_trailers``: fields to send behind the content (RFC 9110 §6.5), called before its end.

        Over HTTP/1.1 they need content of no stated length.
        """
        self._trailers = trailers

    def upgrade(self, headers: ResponseFields = (), protocol: str | None = None) -> TunnelSocket:
        """``geventgate.upgrade``: leave HTTP for *protocol*, or what the client prefers, and return what follows.

        *headers* are added to the 101, or the 200 to CONNECT. Raises ApplicationError when a response has begun,
        NotSupported for a protocol that was not offered; then the application may still answer.
        """
        exchange = self._exchange
        self._socket = TunnelSocket(exchange.open_tunnel(headers, protocol), exchange.peer, exchange.local)
        self._take_input()  # what was left unread before a tunnel is not its
        return self._socket

    def hijack(self) -> tuple[Any, bytes]:
        """``geventgate.hijack``: the connection is the application's, and so are the bytes received and not yet read.

        It comes as a gevent socket, over TLS as one that is like it. Raises ApplicationError when a response has begun.
        """
        exchange = self._exchange
        connection, unread = exchange.hijack()
        unread = self._take_input() + unread
        self._hijacked = True
        if isinstance(connection, Tunnel):
            connection = TunnelSocket(connection, exchange.peer, exchange.local)
        return connection, unread

    def _take_input(self) -> bytes:
        """What nobody has read of content that was taken whole."""
        return b"" if self.input is None else self.input.read()

    def raw_socket(self, handshake: Handshake, host: WebSockets) -> TunnelSocket:
        """The socket of a WebSocket handshake, for an application that writes even its head; made once."""
        if self._raw is None:
            self._raw = RawWebSocket(self._exchange, handshake, host)
        return self._raw.socket

    def end(self, error: BaseException | None = None) -> bool:
        """The application has returned, or raised *error*, and with it ends what followed HTTP. Whether *error* is but
        how that ends, and no failure."""
        if self._socket is not None:
            self._socket.finish(error)
        return self._websocket is not None and self._end_websocket(self._websocket, error)

    def _end_websocket(self, websocket: WebSocket, error: BaseException | None) -> bool:
        websocket.environ = {}  # no cycle
        ended = isinstance(error, WebSocketError) and websocket.closed  # its own: the peer has gone
        raw = self._raw
        if raw is not None:
            over = error is not None and raw.is_end(error)
            # A framework may have caught the error, and made a page of it that nobody will see.
            raw.finish(None if over else error, failed=str(self._status).startswith("5"))
            ended = ended or over
        if websocket.accepted:
            websocket.finish(error)
        if ended:
            log.debug("%s: %s", self._exchange, error)
        return ended

    def _send_file(self, file: IO[bytes], offset: int, count: int) -> None:
        if not self._started:
            stated = any(_lower(name) == "content-length" for name, _ in self._fields)
            self._send_head(() if stated else [("Content-Length", str(count))])
        self._exchange.send_file(file, offset, count)

    def _finish(self, data: bytes) -> None:
        if type(data) is not bytes:
            data = _as_bytes(data)
        if not self._started:
            self._send_head()
        self._exchange.finish(data, self._trailers)


def _as_bytes(data: object) -> bytes:
    """A subclass of bytes, or what forgiving servers take too. PEP 3333 wants bytes."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise ApplicationError(f"the application sent {type(data).__name__}, not bytes")


def _lower(name: str | bytes) -> str:
    return (name if isinstance(name, str) else name.decode("latin-1")).lower()


class WsgiGateway:
    """Calls *application* for every exchange. *errors* is ``wsgi.errors``, *software* SERVER_SOFTWARE. The raw socket
    of WebSocket handshakes is offered under *socket_key* too: another server's, where that is to be expected.

    ``at_start`` is called before the first exchange, with ``geventgate.draining`` and ``geventgate.at_stop``; what it
    raises, start() does. Those given to ``geventgate.at_stop`` are called after the last exchange, the last one first,
    with the seconds that they may take.
    """

    def __init__(
        self,
        application: Application,
        config: Config,
        *,
        draining: EventLike,
        errors: TextIO,
        software: str,
        socket_key: str = "",
    ) -> None:
        self._application = application
        self._socket_key = socket_key
        mount = config.root_path.strip("/")
        self._root_path = f"/{mount}" if mount else ""
        self.at_start: Callable[[EventLike, Callable[[Callable[[float], object]], None]], object] | None = None
        self._at_stop: list[Callable[[float], object]] = []
        self._stopping = Semaphore()
        self._graceful_timeout = config.graceful_timeout
        self._drained = 0.0
        self._draining = draining
        self._errors = errors
        self._software = software
        self._early_hints = config.early_hints
        self._multiprocess = config.workers > 1
        self._websockets = WebSockets(config)
        forwarding = Forwarding(config)
        self._forwarding = forwarding if forwarding else None
        self._templates: dict[Address, Environ] = {}
        self._lasting: dict[Address, Environ] = {}  # for requests that may last, those for another protocol: small

    def start(self) -> None:
        if self.at_start is not None:
            self.at_start(self._draining, self._at_stop.append)
        self._websockets.start()

    def drain(self, restarts: bool) -> None:
        """The server goes away: WebSockets are closed with 1001, or 1012 when there will soon be another."""
        self._drained = monotonic()
        self._websockets.stop(SERVICE_RESTART if restarts else GOING_AWAY)

    def stop(self) -> None:
        """The last exchange has ended. A second call waits for the first."""
        with self._stopping:
            while self._at_stop:
                self._at_stop.pop()(max(self._drained + self._graceful_timeout - monotonic(), 0.0))

    def handle(self, exchange: Exchange) -> None:
        front = self._forwarding.apply(exchange) if self._forwarding is not None else None
        protocol = exchange.request.protocol
        templates = self._templates if protocol is None else self._lasting
        environ = build_environ(
            exchange, templates.get(exchange.local) or self._template(exchange.local, protocol), front
        )
        websocket = None
        if protocol is not None and is_websocket(exchange.request):
            websocket = self._handshake(exchange)
            if websocket is None:
                return
        response = WsgiResponse.__new__(WsgiResponse)
        response.begin(exchange, websocket)
        _offer(environ, response, exchange, self._early_hints)
        if websocket is not None:
            self._offer_websocket(environ, response, websocket, exchange)
        try:
            response.send_result(self._application(environ, response.start_response))
        except BaseException as error:
            if not response.end(error):
                raise
        else:
            response.end()

    def _handshake(self, exchange: Exchange) -> WebSocket | None:
        """The WebSocket that the application may accept instead of answering; None: the handshake was answered."""
        try:
            return WebSocket(exchange, check_handshake(exchange.request), self._websockets)
        except PeerError as error:
            _refuse_handshake(exchange, error)
            return None

    def _offer_websocket(
        self, environ: Environ, response: WsgiResponse, websocket: WebSocket, exchange: Exchange
    ) -> None:
        websocket.environ = environ
        if exchange.request.multiplexed:
            # There it is CONNECT, without these fields (RFC 8441 §4); routers tell WebSockets by them, Werkzeug's too.
            environ["REQUEST_METHOD"] = "GET"
            environ["HTTP_CONNECTION"], environ["HTTP_UPGRADE"] = "Upgrade", "websocket"
            environ["HTTP_SEC_WEBSOCKET_KEY"] = NO_KEY
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = "13"
        handshake, host = websocket.handshake, self._websockets
        if not exchange.has_content:
            environ["wsgi.input"] = HandshakeFile(response.raw_socket, handshake, host)
        if self._socket_key:
            environ[self._socket_key] = response.raw_socket(handshake, host)

    def _template(self, local: Address, protocol: str | None) -> Environ:
        template = environ_template(local, self._root_path, self._errors, self._draining, self._software)
        template["wsgi.file_wrapper"] = FileWrapper
        template["wsgi.multiprocess"] = self._multiprocess
        template["geventgate.at_stop"] = self._at_stop.append
        if protocol is None:
            template, templates = with_room(template), self._templates
        else:
            template, templates = dict(template.items()), self._lasting  # a mere copy has the room of the original
        if len(templates) < MAX_TEMPLATES:
            templates[local] = template
        return template


def _offer(environ: Environ, response: WsgiResponse, exchange: Exchange, early_hints: bool) -> None:
    """Put into *environ* what an application can do beyond PEP 3333. *early_hints*: over HTTP/1.1 too."""
    request = exchange.request
    if exchange.has_content and type(content := environ["wsgi.input"]) is BytesIO:
        response.input = content
    if request.protocol is not None:
        environ["geventgate.protocol"] = request.protocol
        environ["geventgate.upgrade"] = response.upgrade
    if request.multiplexed:
        environ["wsgi.early_hints"] = response.early_hints
        if exchange.can_push:
            environ["geventgate.push"] = response.push
    else:
        environ["geventgate.hijack"] = response.hijack
        if request.old:
            return
        if early_hints:
            environ["wsgi.early_hints"] = response.early_hints
    environ["geventgate.send_trailers"] = response.send_trailers


def _refuse_handshake(exchange: Exchange, error: PeerError) -> None:
    """A malformed opening handshake (RFC 6455 §4.2.2, §4.4)."""
    fields: list[tuple[Any, Any]] = [("Content-Type", "text/plain; charset=utf-8")]
    if error.status == 426:
        fields += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    exchange.send_head(error.status, fields)
    exchange.finish(f"{error}\n".encode())
