"""``import uwsgi``: what WebSocket applications call of uWSGI's plugin, over ``wsgi.websocket``. Knows no server.

Each function acts on the request whose application is running: wrap() keeps it in a context variable. Greenlets that
the application spawns have no request; they pass one, as ``request_context=``. Failures are OSErrors, as there.
"""

import logging
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, cast

import gevent
from gevent import socket
from gevent.lock import Semaphore
from gevent.queue import Queue

from geventgate.errors import WebSocketError
from geventgate.exchange import Bytes
from geventgate.gateway.websocket import WebSocket

Application = Callable[..., Iterable[bytes]]

AHEAD = 16  # messages received before the application asks for them, once it waits with select()
VERSION = (2, 0, 31, 0, b"")  # whose functions these are

log = logging.getLogger("uwsgi")


class Messages:
    """A WebSocket's messages, received ahead of the application, and a descriptor that can be read while there are any,
    and when there will be no more."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()  # holds one byte for each message in the queue
        self._queue = Queue()
        self._room = Semaphore(AHEAD)
        self._receiver: gevent.Greenlet | None = None

    def start(self, websocket: WebSocket) -> None:
        if self._receiver is None:
            self._receiver = gevent.spawn(self._receive, websocket)

    def fileno(self) -> int:
        return cast(int, self._theirs.fileno())

    def get(self, block: bool) -> str | bytes | None:
        """The next message, "" where there is none and *block* is false; None once it is closed."""
        if not block and self._queue.empty():
            return ""
        message = cast("str | bytes | None", self._queue.get())
        if message is None:
            self._queue.put(None)  # for whoever asks again; so does its byte
        else:
            self._theirs.recv(1)
            self._room.release()
        return message

    def _receive(self, websocket: WebSocket) -> None:
        message: str | bytes | None = ""
        while message is not None:
            self._room.acquire()
            try:
                message = websocket.receive()
            except OSError as error:
                log.debug("%s", error)
                message = None
            self._queue.put(message)
            self._ours.send(b"-")

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.kill(block=False)
        self._ours.close()
        self._theirs.close()


class Request:
    """What uWSGI calls a request context."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.websocket: WebSocket | None = environ.get("wsgi.websocket")
        self.disconnected = environ.get("geventgate.disconnected")
        self.logvars: dict[str, bytes] = {}
        self.messages: Messages | None = None

    def accepted(self) -> WebSocket:
        if self.websocket is None or not self.websocket.accepted:
            raise WebSocketError("there is no websocket: call websocket_handshake()")
        return self.websocket

    def receive(self, block: bool) -> bytes:
        websocket = self.accepted()
        message: str | bytes | None
        if self.messages is not None:
            message = self.messages.get(block)
        else:
            try:
                message = websocket.receive(None if block else 0)
            except TimeoutError:
                message = ""
        if message is None:
            raise WebSocketError("unable to receive websocket message: it is closed")
        return message.encode() if isinstance(message, str) else message


_current: ContextVar[Request] = ContextVar("uwsgi request")


def wrap(application: Application) -> Application:
    """*application*, whose requests these functions find."""

    def with_request(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        _current.set(Request(environ))  # the context is the request's own: generators still find it when they run
        return application(environ, start_response)

    return with_request


def _request(given: Request | None) -> Request:
    request = given or _current.get(None)
    if request is None:
        raise SystemError("a function of uwsgi was called outside of a request, without its request_context")
    return request


def request_context() -> Request:
    """The current request, for use in other greenlets."""
    return _request(None)


# --- WebSockets


def websocket_handshake(
    key: str | bytes = "", origin: str | bytes = "", proto: str | bytes = "", request_context: Request | None = None
) -> None:
    """Accept the WebSocket with subprotocol *proto*, or the client's favourite; *key* and *origin* are known."""
    request = _request(request_context)
    websocket = request.websocket
    if websocket is None:
        raise WebSocketError("unable to complete websocket handshake: the request is none")
    offered = websocket.subprotocols
    wanted = proto.decode("latin-1") if isinstance(proto, bytes) else proto
    websocket.accept(wanted or (offered[0] if offered else None))
    if request.messages is not None:
        request.messages.start(websocket)


def websocket_recv(request_context: Request | None = None) -> bytes:
    """The next message, of either kind; waits. Raises OSError once it is closed."""
    return _request(request_context).receive(True)


def websocket_recv_nb(request_context: Request | None = None) -> bytes:
    """The next message, or b"" if none has come. Raises OSError once it is closed."""
    return _request(request_context).receive(False)


def websocket_send(message: str | Bytes, request_context: Request | None = None) -> None:
    """Send a text. Raises OSError once it is closed."""
    _request(request_context).accepted().send(message, binary=False)


def websocket_send_binary(message: str | Bytes, request_context: Request | None = None) -> None:
    """Send bytes. Raises OSError once it is closed."""
    _request(request_context).accepted().send(message, binary=True)


def connection_fd() -> int:
    """A descriptor for select() and nothing else: readable when websocket_recv_nb() has something to give, or to raise.
    -1 for a request that opens no WebSocket."""
    request = _request(None)
    if request.websocket is None:
        return -1
    if request.messages is None:
        request.messages = Messages()
        weakref.finalize(request, request.messages.close).atexit = False
        if request.websocket.accepted:
            request.messages.start(request.websocket)
    return request.messages.fileno()


def disconnect() -> None:
    """Close the WebSocket, if there is one."""
    websocket = _request(None).websocket
    if websocket is not None and websocket.accepted:
        websocket.close()


def is_connected(fd: int) -> bool:
    """Whether the peer of the current request is there, whatever *fd* says."""
    disconnected = _request(None).disconnected
    return disconnected is None or not disconnected.is_set()


# --- the server, as far as applications ask for it when they are imported

version = ".".join(map(str, VERSION[:3])).encode()
version_info = VERSION
opt: dict[str, bytes | bool] = {
    "enable-threads": True, "gevent": b"10000", "http-websockets": True, "py-call-uwsgi-fork-hooks": True,
    "single-interpreter": True,
}  # fmt: skip
numproc = 1


def worker_id() -> int:
    """1, in every process."""
    return 1


def masterpid() -> int:
    """0: there is none that takes uWSGI's signals, timers or spooler."""
    return 0


def log_message(message: str | bytes) -> bool:
    """``uwsgi.log``: a line of logger ``uwsgi``."""
    log.info("%s", message.decode("utf-8", "replace") if isinstance(message, bytes) else message)
    return True


def set_logvar(name: str, value: str | bytes) -> None:
    """Only for get_logvar(): the access log has its own format."""
    _request(None).logvars[name] = value.encode() if isinstance(value, str) else value


def get_logvar(name: str) -> bytes | None:
    return _request(None).logvars.get(name)


NAMES = (
    "connection_fd", "disconnect", "get_logvar", "is_connected", "masterpid", "numproc", "opt", "request_context",
    "set_logvar", "version", "version_info", "websocket_handshake", "websocket_recv", "websocket_recv_nb",
    "websocket_send", "websocket_send_binary", "worker_id",
)  # fmt: skip


def modules() -> dict[str, ModuleType]:
    """What ``import uwsgi`` brings."""
    uwsgi = ModuleType("uwsgi", __doc__)
    uwsgi.__file__ = __file__
    vars(uwsgi).update({name: globals()[name] for name in NAMES}, log=log_message, __getattr__=_missing)
    return {"uwsgi": uwsgi}


def _missing(name: str) -> Any:
    raise AttributeError(f"geventgate's uwsgi has no {name}: it is for WebSockets (docs/compat.md)")
