"""Accept connections, keep them within bounds, and go away gracefully.

A Listener is one bound address; the Server owns them, the connections and the one sweep a second.
"""

import errno
import logging
import resource
import socket
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from gevent import get_hub
from gevent.event import Event
from gevent.server import StreamServer

from geventgate.config import Config
from geventgate.exchange import Address, Exchange
from geventgate.server.addresses import Bound, listen_all, parse_bind, url
from geventgate.server.certificates import certificates
from geventgate.server.clock import CLOCK
from geventgate.server.descriptor import accept
from geventgate.server.http1 import Http1Connection
from geventgate.server.opening import CleartextOpening
from geventgate.server.proxy import ProxyOpening
from geventgate.server.service import Connection, Service
from geventgate.server.stream import Stream
from geventgate.server.tls import TlsOpening
from geventgate.trust import Peers

SPARE_FILES = 64  # descriptors left to the application, and to us for logs
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE_SECONDS = 0.1  # between attempts to accept without descriptors
KILL_SECONDS = 2.0  # for killed greenlets to unwind

log = logging.getLogger("geventgate")


class Gateway(Protocol):
    """Who answers. ``drain`` tells what lives long (WebSockets) that the server goes away, and whether another takes
    its place; ``stop`` that the last exchange has ended. ``start`` may raise, and may take its time."""

    def start(self) -> None: ...
    def handle(self, exchange: Exchange) -> None: ...
    def drain(self, restarts: bool) -> None: ...
    def stop(self) -> None: ...


class Listener(StreamServer):  # type: ignore[misc]
    """One bound address."""

    def __init__(self, bound: Bound, server: "Server") -> None:
        self._server = server
        self._bound = bound
        sock = bound.sock
        sock.setblocking(False)
        super().__init__(sock, handle=self.do_handle)
        if bound.shared:
            self.max_accept = 1  # others have theirs
        self.url = url(sock, "https" if server.certificates else "http")
        name = sock.getsockname()
        self._unix = sock.family == socket.AF_UNIX
        if not self._unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # which connections inherit
        self._local: Address | None = None  # where it is the same for all
        if self._unix:
            self._local = ("", "")
        elif name[0] not in ("0.0.0.0", "::"):
            self._local = (name[0], str(name[1]))

    def full(self) -> bool:
        return self._server.full

    def do_read(self) -> tuple[Any, Any] | None:
        """Accept one connection; None when there is none for now."""
        try:
            return accept(self.socket)
        except OSError as error:
            if error.errno in OUT_OF_FILES:
                self._server.out_of_files(error)
                return None
            if error.errno in self.fatal_errors:
                raise
            return None  # the peer gave up in the queue (ECONNABORTED): nothing to serve

    def do_handle(self, sock: Any, address: Any) -> None:
        """Give the connection a greenlet."""
        try:
            if self._unix:
                peer = local = ("", "")
            else:
                peer = (address[0], str(address[1]))
                local = self._local or _address(sock)
        except OSError:
            sock.close()  # reset before we came to it (CVE-2024-49769)
            return
        proxies = self._server.proxies
        if proxies is not None and peer[0] in proxies:
            self._server.service.enter(ProxyOpening(sock, peer, local, self._server.service, self.open))
        else:
            self.open(sock, peer, local)

    def open(self, sock: Any, peer: Address, local: Address) -> Connection:
        """Have the connection served: by TLS first, where that is spoken."""
        service = self._server.service
        stream = Stream(sock)
        connection: Connection
        if self._server.certificates is not None:
            connection = TlsOpening(stream, peer, local, service, self._server.certificates)
        elif service.config.http2_cleartext == "off":
            connection = Http1Connection(stream, peer, local, service)
        else:
            connection = CleartextOpening(stream, peer, local, service)
        service.enter(connection)
        return connection

    def accept_queued(self) -> None:
        """Accept what the kernel has queued: closing would reset it."""
        self._bound.hide()
        while (accepted := self.do_read()) is not None:
            self.do_handle(*accepted)

    def end(self, restarts: bool) -> None:
        """Close; the queue of a shared socket is left to those who go on."""
        if not (restarts and self._bound.shared):
            self.accept_queued()
        self.close()

    def close(self) -> None:
        super().close()
        self._bound.close()


class Server:
    """Serves *gateway* on every address of ``config.bind``, or on *sockets*.

    A context manager: started inside, drained at the end. Raises ConfigError.
    """

    def __init__(self, config: Config, gateway: Gateway, draining: Event, sockets: Sequence[Bound] = ()) -> None:
        for bind in config.bind:
            parse_bind(bind)
        self.config = config
        self.certificates = certificates(config, ["h2", "http/1.1"] if config.http2 else ["http/1.1"])
        self.service = Service(config, gateway.handle, draining)
        self.service.on_leave = self._left
        self._gateway = gateway
        self.proxies = Peers(config.proxy_allow_from) if config.proxy_protocol != "off" else None
        self._sockets = list(sockets)
        self._listeners: list[Listener] = []
        self._sweeper = get_hub().loop.timer(1.0, 1.0)
        self._retry = get_hub().loop.timer(PAUSE_SECONDS)
        self._stopped = Event()
        self._empty = Event()
        self._paused = False
        self._complained = 0.0
        self._capacity = _capacity(config.worker_connections)

    @property
    def listeners(self) -> Sequence[Listener]:
        """Who accepts, once it is started."""
        return self._listeners

    @property
    def addresses(self) -> list[str]:
        """The URLs served: http://HOST:PORT, https://HOST:PORT or unix:PATH."""
        return [listener.url for listener in self._listeners]

    def start(self) -> None:
        """Bind every address and begin to accept. Raises ConfigError; then nothing is left bound."""
        CLOCK.tick()
        try:
            sockets, self._sockets = self._sockets or listen_all(self.config), []
            self._listeners = [Listener(bound, self) for bound in sockets]
            self._gateway.start()
        except BaseException:
            for listener in self._listeners:
                listener.close()
            self._listeners = []
            raise
        self._sweeper.start(self._sweep)
        for listener in self._listeners:
            listener.start()

    def serve_forever(self) -> None:
        """Serve until stop() has been called and has ended."""
        if not self._listeners:
            self.start()
        self._stopped.wait()

    def stop(self, timeout: float | None = None, restarts: bool = False) -> None:
        """Drain: accept nothing more, let what runs end within *timeout* seconds (default: graceful_timeout), then cut.

        Connections in the kernel's queue are still served; WebSockets get a Close 1001. *restarts* says that another
        process listens in our place: the queue of a shared listener is left to it, the Close is 1012. May be called
        again, with a shorter timeout, while it runs.
        """
        self._empty.clear()
        self.close(restarts)
        if self.service.connections:
            self._empty.wait(self.config.graceful_timeout if timeout is None else timeout)
        if self.service.connections:
            log.warning("%d connections were cut: the graceful timeout is over", len(self.service.connections))
            self._empty.clear()
            for connection in list(self.service.connections):
                connection.kill()
            if self.service.connections:
                self._empty.wait(KILL_SECONDS)
        self._sweeper.stop()
        self._retry.stop()
        self.service.stop()
        self._gateway.stop()
        self._stopped.set()

    def close(self, restarts: bool = False) -> None:
        """Accept nothing more, and tell who is connected that it ends. Does not wait: stop() does, and ends it."""
        self.service.drain()
        for listener in self._listeners:
            if not listener.closed:
                listener.end(restarts)
        for connection in list(self.service.connections):
            connection.drain()
        self._gateway.drain(restarts)

    def reload(self) -> None:
        """Read the certificates again, for new connections."""
        if self.certificates is not None:
            self.certificates.reload()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- bounds

    @property
    def full(self) -> bool:
        """Whether accepting pauses: what cannot be served waits in the kernel's queue."""
        if len(self.service.connections) >= self._capacity and not self.service.drains:
            self._pause("full: %d connections; more wait in the backlog", self._capacity)
            return True
        return False

    def out_of_files(self, error: OSError) -> None:
        """Accepting pauses for a moment."""
        if self.service.drains:
            return
        self._pause("cannot accept: %s; %d connections are open", error.strerror, len(self.service.connections))
        self._retry.stop()
        self._retry = get_hub().loop.timer(PAUSE_SECONDS)  # one that has fired would fire at once
        self._retry.start(self._resume)

    def _pause(self, message: str, *arguments: object) -> None:
        self._paused = True
        for listener in self._listeners:
            listener.stop_accepting()
        if CLOCK.now - self._complained >= 1.0:  # one line a second
            self._complained = CLOCK.now
            log.warning(message, *arguments)

    def _resume(self) -> None:
        if self._paused and not self.service.drains:
            self._paused = False
            for listener in self._listeners:
                listener.start_accepting()

    def _left(self) -> None:
        if self._paused and len(self.service.connections) < self._capacity:
            self._resume()
        if not self.service.connections:
            self._empty.set()

    def _sweep(self) -> None:
        """One timer for every deadline: a request arms none."""
        CLOCK.tick()
        self.service.sweep(CLOCK.now)


def room_for_connections() -> int:
    """How many the limit of open files has room for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else max(files - SPARE_FILES, 1)


def _capacity(connections: int) -> int:
    """At most *connections*."""
    room = room_for_connections()
    if room < connections:
        files = room + SPARE_FILES
        log.warning("room for %d connections, not %d: the limit of open files is %d", room, connections, files)
    return min(room, connections)


def _address(sock: Any) -> Address:
    host, port = sock.getsockname()[:2]
    return host, str(port)
