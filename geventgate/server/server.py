"""Accept connections, keep them within bounds, and go away gracefully.

A Listener is one bound address; the Server owns them, the connections and the one sweep a second.
"""

import _socket
import errno
import logging
import os
import resource
import socket
import stat
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from gevent import get_hub
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import socket as GeventSocket

from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.exchange import Address, Exchange
from geventgate.server.clock import CLOCK
from geventgate.server.http1 import Http1Connection
from geventgate.server.service import Service
from geventgate.server.stream import Stream

SPARE_FILES = 64  # descriptors left to the application, and to us for logs
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE_SECONDS = 0.1  # between attempts to accept without descriptors
KILL_SECONDS = 2.0  # for killed greenlets to unwind

log = logging.getLogger("geventgate")


class Gateway(Protocol):
    """Who answers. ``drain`` tells what lives long (WebSockets) that the server goes away; ``stop`` that the last
    exchange has ended. ``start`` may raise, and may take its time."""

    def start(self) -> None: ...
    def handle(self, exchange: Exchange) -> None: ...
    def drain(self) -> None: ...
    def stop(self) -> None: ...


class Listener(StreamServer):  # type: ignore[misc]
    """One bound address. *bind* is HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH. Raises ConfigError."""

    def __init__(self, bind: str, server: "Server") -> None:
        self._server = server
        self._path = bind.removeprefix("unix:") if bind.startswith("unix:") else ""
        backlog = server.config.backlog
        sock = _bind_unix(self._path, backlog) if self._path else _bind_tcp(bind, backlog)
        sock.setblocking(False)
        super().__init__(sock, handle=self.do_handle)
        name = sock.getsockname()
        self._local: Address | None = None  # where it is the same for all
        if self._path:
            self._local = ("", "")
        elif name[0] not in ("0.0.0.0", "::"):
            self._local = (name[0], str(name[1]))

    @property
    def url(self) -> str:
        if self._path:
            return f"unix:{self._path}"
        host, port = self.address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def full(self) -> bool:
        return self._server.full

    def do_read(self) -> tuple[Any, Any] | None:
        """Accept one connection; None when there is none for now."""
        try:
            fd, address = self.socket._accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in OUT_OF_FILES:
                self._server.out_of_files(error)
                return None
            if error.errno in self.fatal_errors:
                raise
            return None  # the peer gave up in the queue (ECONNABORTED): nothing to serve
        sock = _socket.socket(self.family, socket.SOCK_STREAM, 0, fileno=fd)
        sock.setblocking(False)
        return sock, address

    def do_handle(self, sock: Any, address: Any) -> None:
        """Give the connection a greenlet."""
        try:
            if self._path:
                peer = local = ("", "")
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = (address[0], str(address[1]))
                local = self._local or _address(sock)
        except OSError:
            sock.close()  # reset before we came to it (CVE-2024-49769)
            return
        service = self._server.service
        service.enter(Http1Connection(Stream(sock), peer, local, service))

    def accept_queued(self) -> None:
        """Accept what the kernel has queued: closing would reset it."""
        while (accepted := self.do_read()) is not None:
            self.do_handle(*accepted)

    def close(self) -> None:
        super().close()
        if self._path:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._path = ""


class Server:
    """Serves *gateway* on every address of ``config.bind``. A context manager: started inside, drained at the end.

    Raises ConfigError.
    """

    def __init__(self, config: Config, gateway: Gateway, draining: Event) -> None:
        for bind in config.bind:
            if not bind.startswith("unix:"):
                parse_bind(bind)
        self.config = config
        self.service = Service(config, gateway.handle, draining)
        self.service.on_leave = self._left
        self._gateway = gateway
        self._listeners: list[Listener] = []
        self._sweeper = get_hub().loop.timer(1.0, 1.0)
        self._retry = get_hub().loop.timer(PAUSE_SECONDS)
        self._stopped = Event()
        self._empty = Event()
        self._paused = False
        self._complained = 0.0
        self._capacity = _capacity(config.worker_connections)

    @property
    def addresses(self) -> list[str]:
        """The URLs served: http://HOST:PORT or unix:PATH."""
        return [listener.url for listener in self._listeners]

    def start(self) -> None:
        """Bind every address and begin to accept. Raises ConfigError; then nothing is left bound."""
        CLOCK.tick()
        try:
            for bind in self.config.bind:
                self._listeners.append(Listener(bind, self))
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

    def stop(self, timeout: float | None = None) -> None:
        """Drain: accept nothing more, let what runs end within *timeout* seconds (default: graceful_timeout), then cut.

        Connections in the kernel's queue are still served; WebSockets get a Close 1001. May be called again, with a
        shorter timeout, while it runs.
        """
        self.service.draining.set()
        self._empty.clear()
        for listener in self._listeners:
            if not listener.closed:
                listener.accept_queued()
                listener.close()
        for connection in list(self.service.connections):
            connection.drain()
        self._gateway.drain()
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
        self.service.workers.stop()
        self._gateway.stop()
        self._stopped.set()

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
        if len(self.service.connections) >= self._capacity and not self.service.draining.is_set():
            self._pause("full: %d connections; more wait in the backlog", self._capacity)
            return True
        return False

    def out_of_files(self, error: OSError) -> None:
        """Accepting pauses for a moment."""
        if self.service.draining.is_set():
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
        if self._paused and not self.service.draining.is_set():
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
        for connection in list(self.service.connections):
            connection.sweep(CLOCK.now - 1.0)  # deadlines were set by a clock up to a second late: none is cut early


def _capacity(connections: int) -> int:
    """How many connections the limit of open files has room for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files - SPARE_FILES < connections:
        capacity = max(files - SPARE_FILES, 1)
        log.warning("room for %d connections, not %d: the limit of open files is %d", capacity, connections, files)
        return capacity
    return connections


def _address(sock: Any) -> Address:
    host, port = sock.getsockname()[:2]
    return host, str(port)


def parse_bind(bind: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, [IPV6]:PORT or :PORT (all IPv4 addresses). Raises ConfigError."""
    host, colon, port = bind.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"--bind {bind}: an IPv6 address stands in brackets, [::1]:8000")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--bind {bind}: not HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH")
    return host or "0.0.0.0", int(port)


def _bind_tcp(bind: str, backlog: int) -> Any:
    host, port = parse_bind(bind)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"cannot listen on {bind}: {error.strerror}") from None
    sock = GeventSocket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {bind}: {error.strerror}") from None
    return sock


def _bind_unix(path: str, backlog: int) -> Any:
    sock = GeventSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on unix:{path}: {error.strerror or error}") from None
    return sock


def _is_stale(path: str) -> bool:
    """Whether *path* is a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    probe = GeventSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        return True
    finally:
        probe.close()
    return False
