"""Around each WebSocket request what gevent-websocket's handler did, and its WebSocket over ours. Knows no server.

There the 101 is sent before the application is called, so it is here: an application may keep the WebSocket for others
to send on, and wait. Facts: gevent-websocket 0.10.1.
"""

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import count
from typing import Any
from weakref import ref

from geventgate import errors
from geventgate.errors import WebSocketError
from geventgate.exchange import Bytes
from geventgate.gateway import websocket as gateway
from geventgate.protocol.websocket import MAX_REASON, NORMAL, is_close_code

Application = Callable[..., Any]
Environ = dict[str, Any]

MSG_SOCKET_DEAD = "Socket is dead"
MSG_ALREADY_CLOSED = "Connection is already closed"
MSG_CLOSED = "Connection closed"

log = logging.getLogger("geventgate.compat")


class ProtocolError(WebSocketError):
    """The peer broke the protocol: for those who catch it. Ours close with 1002 and say so by ``receive()``."""


class FrameTooLargeException(ProtocolError):
    """A frame is too large."""


class WebSocket:
    """gevent-websocket's over *websocket*, ours, whose other names work too.

    ``receive()`` gives binary messages as bytearrays, and raises WebSocketError once None was received.
    """

    OPCODE_CONTINUATION = 0x00
    OPCODE_TEXT = 0x01
    OPCODE_BINARY = 0x02
    OPCODE_CLOSE = 0x08
    OPCODE_PING = 0x09
    OPCODE_PONG = 0x0A

    def __init__(self, websocket: gateway.WebSocket, environ: Environ, handler: "RequestHandler") -> None:
        self.environ: Environ | None = environ  # None once its handler has returned
        self.handler = handler
        self._websocket = websocket
        self._ended = False  # the application knows: it was told so, or it did so

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    # --- what it is

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent, and everything was received."""
        return self._ended or (self._websocket.closed and not self._websocket.ahead)

    @property
    def stream(self) -> "Stream | None":
        return None if self.closed else Stream(self.handler)

    @property
    def path(self) -> str | None:
        return self._key("PATH_INFO")

    @property
    def origin(self) -> str | None:
        return self._key("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """What the client offers, as it wrote it."""
        return self._key("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        return self._key("HTTP_SEC_WEBSOCKET_VERSION")

    def _key(self, name: str) -> str | None:
        return None if self.environ is None else self.environ.get(name)

    @property
    def logger(self) -> Any:
        return self.handler.logger

    @property
    def current_app(self) -> Any:
        return getattr(self.handler.server.application, "current_app", None) or NoApplication()

    # --- what it does

    def receive(self) -> str | bytearray | None:
        """The next message; None when it was closed, however. Raises WebSocketError the next time."""
        if self._ended:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        message = self._websocket.receive()
        if message is None:
            self._ended = True
        return bytearray(message) if isinstance(message, bytes) else message

    def __iter__(self) -> Iterator[str | bytearray]:
        while not self._ended and (message := self.receive()) is not None:
            yield message

    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send text if it is a str, or *binary* says so, else bytes. Raises WebSocketError."""
        if binary or (binary is None and not isinstance(message, str)):
            data = message.encode("utf-8") if isinstance(message, str) else message
            opcode = self.OPCODE_BINARY
        else:
            data, opcode = message, self.OPCODE_TEXT
        try:
            self.send_frame(data, opcode)
        except WebSocketError as error:
            raise WebSocketError(MSG_SOCKET_DEAD, error.code, error.reason) from error

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send a message whole, or a control frame. Raises WebSocketError."""
        if self.closed:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        if opcode == self.OPCODE_TEXT:
            self._websocket.send(_text(message))
        elif opcode == self.OPCODE_BINARY:
            self._websocket.send(_bytes(message))
        elif opcode == self.OPCODE_PING:
            self._websocket.ping(_text(message).encode("utf-8"))
        elif opcode == self.OPCODE_PONG:
            self._websocket.pong(bytes(_bytes(message)))
        elif opcode == self.OPCODE_CLOSE:
            self.close(message=message)
        else:
            raise errors.ApplicationError(f"no frame of opcode {opcode} can be sent alone")

    def close(self, code: int | None = NORMAL, message: Any = b"") -> None:
        """Close it; may be called again. What cannot be sent as a code becomes 1000: there it was never sent."""
        self._ended = True
        if code is None or not is_close_code(code):
            code = NORMAL
        self._websocket.close(code, _text(message).encode("utf-8")[:MAX_REASON].decode("utf-8", "ignore"))


def _text(message: Any) -> str:
    """As text is meant there: bytes are UTF-8, nothing is "", and anything else is shown."""
    if isinstance(message, (bytes, bytearray, memoryview)):
        return str(message, "utf-8")
    return message if isinstance(message, str) else str(message or "")


def _bytes(message: Any) -> Bytes:
    return message if isinstance(message, (bytes, bytearray, memoryview)) else bytes(message)


class NoApplication:
    """``current_app`` where there is none."""

    def on_close(self, *arguments: Any) -> None:
        return None


class Stream:
    """``ws.stream``, for what it is asked for: its handler."""

    __slots__ = ("handler",)

    def __init__(self, handler: "RequestHandler") -> None:
        self.handler = handler


class Client:
    """An open WebSocket in ``server.clients``. Applications add what they want to know of it."""

    def __init__(self, address: tuple[Any, ...], ws: WebSocket) -> None:
        self.address = address
        self.ws = ws


class Clients(dict[tuple[Any, ...], Client]):
    """``server.clients``: by address. Its values can be looped over while others come and go, as in a broadcast."""

    def values(self) -> list[Client]:  # type: ignore[override]
        return list(super().values())

    def items(self) -> list[tuple[tuple[Any, ...], Client]]:  # type: ignore[override]
        return list(super().items())


def _free_address(environ: Environ, clients: Container[tuple[Any, ...]]) -> tuple[Any, ...]:
    """(host, port); with a number behind it for another WebSocket of one connection (HTTP/2), or where are no ports."""
    host, port = environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"] or 0)
    address: tuple[Any, ...] = (host, port)
    numbers = count(2)
    while address in clients:
        address = (host, port, next(numbers))
    return address


class Host:
    """``ws.handler.server`` where gevent-websocket's server is none of ours to be."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.clients = Clients()
        self.logger = log


class RequestHandler:
    """``ws.handler``: the request, and the server whose clients can be seen."""

    def __init__(self, server: Any, environ: Environ) -> None:
        self.server = server
        self.environ = environ
        self.application: Application = server.application
        self.client_address: tuple[Any, ...] = ()
        self.websocket: WebSocket | None = None

    @property
    def active_client(self) -> Client:
        client: Client = self.server.clients[self.client_address]
        return client

    @property
    def logger(self) -> Any:
        return getattr(self.server, "logger", log)


class Upgrading:
    """*application*, which is given gevent-websocket's WebSockets, already open. *server* is what ``ws.handler.server``
    is to be: it gets ``clients``, and may have a ``pre_start_hook`` and a ``logger``."""

    def __init__(self, application: Application, server: Any = None) -> None:
        self.application = application
        self._host = Host(application) if server is None else None
        self._server = None if server is None else ref(server)  # it may own us
        if server is not None and not hasattr(server, "clients"):
            server.clients = Clients()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        server = self._host if self._server is None else self._server()
        handler = RequestHandler(server, environ)
        hook = getattr(server, "pre_start_hook", None)
        if hook and hook(handler):
            for key in ("wsgi.websocket", "wsgi.websocket_version"):
                environ.pop(key, None)
        websocket = environ.get("wsgi.websocket")
        if websocket is None or isinstance(websocket, WebSocket):  # open already, by another around us
            return self.application(environ, start_response)  # type: ignore[no-any-return]
        choose = getattr(self.application, "app_protocol", None)
        subprotocol = choose(environ["PATH_INFO"]) if choose else ""
        if subprotocol is None:  # a Resource that has nothing here
            return self.application(environ, start_response)  # type: ignore[no-any-return]
        if not websocket.accepted:
            websocket.accept(subprotocol if subprotocol in websocket.subprotocols else None)
        self._serve(handler, WebSocket(websocket, environ, handler))
        return []

    def _serve(self, handler: RequestHandler, websocket: WebSocket) -> None:
        clients, environ = handler.server.clients, handler.environ
        handler.websocket = environ["wsgi.websocket"] = websocket
        address = handler.client_address = _free_address(environ, clients)
        clients[address] = Client(address, websocket)
        try:
            result = self.application(environ, _ignore)
            try:
                for _ in result or ():
                    pass
            finally:
                if hasattr(result, "close"):
                    result.close()
        finally:
            del clients[address]
            environ["wsgi.websocket"] = handler.websocket = websocket.environ = None  # no cycle


def _ignore(status: Any, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
    """start_response() of an application whose 101 has been sent."""
    return lambda data: None


def wrap(application: Application, server: Any = None) -> Application:
    """*application* as Upgrading, for *server* if one is told. May be repeated."""
    if not isinstance(application, Upgrading):
        return Upgrading(application, server)
    return application if server is None else Upgrading(application.application, server)
