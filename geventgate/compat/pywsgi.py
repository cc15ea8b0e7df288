"""Our HTTP/1 and WebSockets inside gevent's own ``gevent.pywsgi.WSGIServer``: ``handler_class=WebSocketHandler``.

gevent's server accepts, spawns, speaks TLS and stops; a connection is served like all of ours, with limits and
timeouts. Knows of that server what pywsgi's handlers use: ``application, get_environ(), log, error_log``, and when it
has stopped.
"""

import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from ssl import SSLError, SSLWantReadError, SSLWantWriteError
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary, ref

from gevent import get_hub
from gevent.event import Event
from gevent.socket import socket as GeventSocket

from geventgate import compat, observe
from geventgate.accesslog import AccessLog
from geventgate.assemble import SOFTWARE
from geventgate.compat import geventwebsocket
from geventgate.config import Config
from geventgate.exchange import Address, Bytes, Exchange
from geventgate.gateway.wsgi import Application, WsgiGateway
from geventgate.message import Tls
from geventgate.server.clock import CLOCK
from geventgate.server.http1 import Http1Connection
from geventgate.server.server import KILL_SECONDS
from geventgate.server.service import Connection, Service
from geventgate.server.stream import Stream

# What the environ of a server says of it: it stands there on purpose. Every other key of a request is the request's.
SERVERS_KEYS = (
    "GATEWAY_INTERFACE", "SERVER_NAME", "SERVER_PORT", "SERVER_SOFTWARE",
    "wsgi.errors", "wsgi.multiprocess", "wsgi.multithread", "wsgi.run_once", "wsgi.version",
)  # fmt: skip
RECORD = 16 * 1024  # bytes that one record may hold (RFC 8446 §5.1)


class WebSocketHandler:
    """The ``handler_class`` for a ``gevent.pywsgi.WSGIServer``: plain HTTP too, ``environ["wsgi.websocket"]`` for
    WebSockets. Limits and times are those of ``config``, a subclass may have others."""

    config = Config()
    # What is done around each application of a server.
    wrap: Callable[[Application, Any], Application] = staticmethod(lambda application, server: compat.wrap(application))

    def __init__(self, sock: Any, address: Any, server: Any, rfile: object = None) -> None:
        self.socket = sock
        self.client_address = address
        self.server = server

    def handle(self) -> None:
        """Serve the connection until it has ended. Killed, cut it."""
        hosted = _hosted.get(self.server)
        if hosted is None or hosted.handler_class is not type(self):
            hosted = _hosted[self.server] = Hosted(self.server, type(self))
        hosted.serve(self.socket, self.client_address)


class GeventWebSocketHandler(WebSocketHandler):
    """For applications that name gevent-websocket's handler: they get its WebSockets, whether its names are
    installed (``--compat geventwebsocket``) or not."""

    wrap = staticmethod(lambda application, server: geventwebsocket.wrap(compat.wrap(application), server))


class Hosted(Service):
    """What the connections of one server of gevent's share. Its timers run only while there are any."""

    def __init__(self, server: Any, handler_class: type[WebSocketHandler]) -> None:
        draining = Event()
        whose = ref(server)  # it owns us
        config = getattr(server, "gate_config", handler_class.config)  # geventgate's own has its own
        self.handler_class = handler_class
        self._gateway = WsgiGateway(
            Calling(whose, handler_class.wrap), config, draining=draining, errors=server.error_log, software=SOFTWARE
        )
        super().__init__(config, self._gateway.handle, draining)
        self.own_listeners = (ServerLog(whose),)
        self._ends: dict[Connection, Event] = {}
        self._sweeper: Any = None
        if server.started:  # else somebody accepts by other means, in a process forked for it
            server._stop_event.rawlink(self.drain)

    def serve(self, sock: Any, address: Any) -> None:
        """Serve a connection until it has ended."""
        if self._sweeper is None:
            CLOCK.tick()
        try:
            connection = open_connection(sock, address, self)
        except OSError:
            return  # reset before we came to it
        ended = self._ends[connection] = Event()
        self.enter(connection)
        if self.drains:
            connection.drain()
        try:
            ended.wait()
        except BaseException:
            connection.kill()
            ended.wait(KILL_SECONDS)
            raise

    def enter(self, connection: Connection) -> None:
        if self._sweeper is None:
            self._sweeper = get_hub().loop.timer(1.0, 1.0)
            self._sweeper.start(self._sweep)
            self._gateway.start()
        super().enter(connection)

    def leave(self, connection: Connection) -> None:
        super().leave(connection)
        ended = self._ends.pop(connection, None)
        if ended is not None:
            ended.set()
        if not self.connections:
            get_hub().loop.run_callback(self._rest)  # once the greenlet that served it idles too

    def _rest(self) -> None:
        if self.connections or self._sweeper is None:
            return
        self._sweeper.stop()
        self._sweeper.close()
        self._sweeper = None
        self._gateway.drain(False)
        self.stop()

    def _sweep(self) -> None:
        CLOCK.tick()
        self.sweep(CLOCK.now)

    def drain(self, _: object = None) -> None:
        """The server has stopped: WebSockets are closed with 1001, idle connections after a moment."""
        super().drain()
        for server, hosted in list(_hosted.items()):
            if hosted is self:
                del _hosted[server]  # it may be started again
        for connection in list(self.connections):
            connection.drain()
        if self._sweeper is not None:
            self._gateway.drain(False)


_hosted: WeakKeyDictionary[Any, Hosted] = WeakKeyDictionary()


class Calling:
    """Calls the ``application`` of a server as pywsgi does: the one it has now, and with what ``get_environ()`` says of
    the server. *server* returns it."""

    def __init__(self, server: Callable[[], Any], wrap: Callable[[Application, Any], Application]) -> None:
        self._server = server
        self._wrap = wrap
        self._application: object = None
        self._wrapped: Application = _no_application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        server = self._server()
        if server.application is not self._application:
            self._application, self._wrapped = server.application, self._wrap(server.application, server)
        said = server.get_environ()
        for key, value in said.items():
            if key in SERVERS_KEYS or key not in environ:
                environ[key] = value
        if not server.ssl_enabled and said.get("wsgi.url_scheme") == "https":  # of a proxy's, as whoever set it knows
            environ["wsgi.url_scheme"] = "https"
            environ["HTTPS"] = "on"
        if type(said) is not dict:  # environ_class
            said.update(environ)
            environ = said

        def start(status: Any, headers: Any, *exc_info: Any) -> Any:
            check_lines(status, headers)
            return start_response(status, headers, *exc_info)

        result = self._wrapped(environ, start)
        if (type(result) is list or type(result) is tuple) and len(result) > 1 and not any(map(_is_text, result)):
            return [b"".join(result)]  # whole, so that its length is stated
        return result


def check_lines(status: str | int, headers: Iterable[tuple[str | bytes, str | bytes]]) -> None:
    """Raise pywsgi's ValueError for what would be another line: "Servers should check for errors in the headers at the
    time start_response is called" (PEP 3333), so that the application may answer something else."""
    if _breaks(status):
        raise ValueError("carriage return or newline in status", status)
    for name, value in headers:
        if _breaks(name):
            raise ValueError("carriage return or newline in header name", name)
        if _breaks(value):
            raise ValueError("carriage return or newline in header value", value)


def _breaks(text: object) -> bool:
    return isinstance(text, str) and ("\n" in text or "\r" in text)


def _is_text(data: object) -> bool:
    """Not bytes: it is to be refused as ever."""
    return not isinstance(data, (bytes, bytearray, memoryview))


def _no_application(environ: object, start_response: object) -> Iterable[bytes]:
    raise TypeError("the server has no application")


class ServerLog:
    """Writes what is heard of a server's requests to its ``log``, and who was refused to its ``error_log``. *server*
    returns it."""

    def __init__(self, server: Callable[[], Any]) -> None:
        self._server = server
        self._lines = AccessLog(self._write)

    def request_ended(self, exchange: Exchange, seconds: float) -> None:
        self._lines.request_ended(exchange, seconds)

    def request_refused(self, peer: Address, status: int, why: str) -> None:
        self._lines.request_refused(peer, status, why)
        self._write(f"{peer[0] or 'unix'}:{peer[1]}: {status}: {why}\n", "error_log")

    def _write(self, line: str, name: str = "log") -> None:
        try:
            getattr(self._server(), name).write(line)
        except Exception as error:  # somebody else's: no request is to fail for it
            observe.warn_once(f"the server's {name}", f"cannot write to the server's {name}: {error!r}")


# --- connections


def open_connection(sock: Any, address: Any, service: Service) -> Http1Connection:
    """HTTP/1.1 on *sock*, gevent's socket or SSLSocket, whose handshake is over. Raises OSError."""
    peer = local = ("", "")
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer, local = _host_and_port(address), _host_and_port(sock.getsockname())
    sock.setblocking(False)
    if hasattr(sock, "selected_alpn_protocol"):
        return Http1Connection(SslStream(sock), peer, local, service, describe(sock))
    return Http1Connection(Stream(sock), peer, local, service)


def _host_and_port(address: Any) -> Address:
    return address[0], str(address[1])


def describe(sock: Any) -> Tls:
    """What an SSLSocket says of itself; the name that was asked for (SNI) it does not know."""
    cipher = sock.cipher()
    return Tls(
        version=sock.version() or "",
        cipher=cipher[0] if cipher else "",
        server_name="",
        alpn=sock.selected_alpn_protocol(),
        peer_certificate=sock.getpeercert(True),
        peer=MappingProxyType(sock.getpeercert() or {}),
    )


class Unwaiting:
    """gevent's SSLSocket as a Stream uses sockets. *sock* does not wait."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.ended = False
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt
        self.close = sock.close

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Plaintext, b"" at the end. All that can be decrypted, so that no byte waits where the hub does not see it;
        with *flags*, what is on the wire."""
        if flags:
            return bytes(GeventSocket.recv(self._sock, size, flags))
        pieces: list[bytes] = []
        try:
            while not self.ended:
                piece = self._sock.recv(RECORD)
                if piece:
                    pieces.append(piece)
                else:
                    self.ended = True
        except (SSLWantReadError, SSLWantWriteError):
            if not pieces:
                raise BlockingIOError(errno.EAGAIN, "no whole record") from None
        except ValueError:  # both sides have said close_notify
            self.ended = True
        return b"".join(pieces)

    def send(self, data: Bytes) -> int:
        try:
            sent = int(self._sock.send(data))
        except (SSLWantReadError, SSLWantWriteError):
            sent = 0
        if not sent and len(data):
            raise BlockingIOError(errno.EAGAIN, "the record does not fit")
        return sent

    def sendmsg(self, buffers: Iterable[Bytes]) -> int:
        return self.send(next(iter(buffers)))

    def say_end(self) -> None:
        """close_notify (RFC 8446 §6.1), if the kernel takes it. That the peer's has not come is no matter."""
        with suppress(SSLError, ValueError):
            self._sock.unwrap()


class SslStream(Stream):
    """A Stream over gevent's SSLSocket."""

    __slots__ = ()

    def __init__(self, sock: Any) -> None:
        super().__init__(Unwaiting(sock))

    def _park_reader(self) -> None:
        if not self._sock.ended:  # nothing more may ever come behind a close_notify
            super()._park_reader()

    def sendfile(self, fd: int, offset: int, count: int) -> int:
        """Raises OSError: the kernel does not encrypt."""
        raise OSError(errno.EOPNOTSUPP, "encrypted by us")

    def shutdown(self) -> None:
        self.flush()
        self._claim_writer()
        self._sock.say_end()

    def close(self) -> None:
        if not self._broken and self._writing is None:
            self._sock.say_end()
        super().close()

    def reset(self) -> None:
        self._broken = True
        super().reset()
