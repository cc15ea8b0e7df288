"""``import eventlet``: what web applications use of it, over gevent and our WebSocket and Server.

Green threads are greenlets of gevent's hub; ``eventlet.green.X`` is the standard module X, patched or not as the whole
library is. What is not here is missed by name (docs/compat.md has the list of what is).
"""

import errno
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, TextIO, cast
from weakref import WeakKeyDictionary

import gevent
from gevent import GreenletExit, event, get_hub, getcurrent, local, lock, monkey, queue, socket, ssl

from geventgate import logs, observe, signals
from geventgate.accesslog import MONTHS, quoted
from geventgate.assemble import Server
from geventgate.config import Config
from geventgate.errors import ConfigError, WebSocketError
from geventgate.exchange import Address, Bytes, Exchange
from geventgate.gateway import websocket as ours
from geventgate.server.addresses import Bound, url

Application = Callable[..., Iterable[bytes]]

VERSION = "0.41.3"  # whose names these are
MAX_FRAME_LENGTH = 8 << 20  # bytes, as there
POOL_SIZE = 1000
GONE = (errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN)  # what a handler may raise of a client that went away
LOG_FORMAT = '%(client_ip)s - - [%(date_time)s] "%(request_line)s" %(status_code)s %(body_length)s %(wall_seconds).6f'


# --- eventlet.websocket


class WebSocket:
    """What a handler is given. wait() and send() may be called from several green threads."""

    def __init__(self, websocket: ours.WebSocket, environ: dict[str, Any], protocol: str | None) -> None:
        self.environ = environ
        self.path: str = environ["PATH_INFO"]
        self.origin: str | None = environ.get("HTTP_ORIGIN")
        self.protocol = protocol  # the chosen one
        self.version = int(websocket.version)
        self._websocket = websocket

    @property
    def websocket_closed(self) -> bool:
        return self._websocket.closed

    def wait(self) -> str | bytes | None:
        """The next message, None once it is closed."""
        try:
            return self._websocket.receive()
        except WebSocketError:
            return None

    def send(self, message: str | Bytes) -> None:
        """Raises BrokenPipeError once it is closed."""
        try:
            self._websocket.send(message)
        except WebSocketError as error:
            raise BrokenPipeError(errno.EPIPE, str(error)) from error

    def close(self, close_data: tuple[int, str] | None = None) -> None:
        """*close_data* is a close code and a reason."""
        self._websocket.close(*(close_data or ()))


class WebSocketWSGI:
    """A WSGI application whose WebSockets *handler* is given; other requests are answered 400. A decorator, too.

    *max_frame_length* bounds a message, in bytes.
    """

    def __init__(self, handler: Callable[[WebSocket], object], max_frame_length: int = MAX_FRAME_LENGTH) -> None:
        self.handler = handler
        self.max_frame_length = max_frame_length
        self.supported_protocols: Sequence[str] = []
        self.origin_checker: Callable[[str | None, str], object] | None = None
        self.support_legacy_versions = True  # which no client speaks

    def __init_subclass__(cls) -> None:
        """A subclass may look for ``eventlet.input`` before it calls ours, as python-engineio's does. Only there is one
        to be found: simple-websocket would take it for its socket."""
        call = cls.__dict__.get("__call__")
        if call is not None:

            def call_with_input(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
                return call(self, {**environ, "eventlet.input": NoSocket()}, start_response)

            cls.__call__ = call_with_input  # type: ignore[method-assign]

    @classmethod
    def configured(
        cls,
        handler: Callable[[WebSocket], object] | None = None,
        supported_protocols: Sequence[str] | None = None,
        origin_checker: Callable[[str | None, str], object] | None = None,
        support_legacy_versions: bool = False,
        max_frame_length: int = MAX_FRAME_LENGTH,
    ) -> Any:
        """One with these, or a decorator that makes one.

        *origin_checker* is called with Host and Origin, "" if there is none, and decides in place of --ws-origins.
        """

        def make(handler: Callable[[WebSocket], object]) -> WebSocketWSGI:
            made = cls(handler)
            made.max_frame_length = max_frame_length
            made.supported_protocols = supported_protocols or []
            made.origin_checker = origin_checker
            made.support_legacy_versions = support_legacy_versions
            return made

        return make if handler is None else make(handler)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        websocket: ours.WebSocket | None = environ.get("wsgi.websocket")
        if websocket is None:
            start_response("400 Bad Request", [])
            return []
        check = self.origin_checker
        if check is not None and not check(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN", "")):
            start_response("403 Forbidden", [])
            return []
        protocol = next((name for name in websocket.subprotocols if name in self.supported_protocols), None)
        try:
            websocket.accept(
                protocol, origins=("*",) if check is not None else None, max_message_size=self.max_frame_length
            )
            self.handler(WebSocket(websocket, environ, protocol))
        except OSError as error:
            if not websocket.closed or (error.errno not in GONE and not isinstance(error, WebSocketError)):
                raise
        return []


class NoSocket:
    """``eventlet.input``, for whoever only looks."""

    def get_socket(self) -> None:
        return None


# --- green threads


class Event:
    """One value, or exception, for all who wait for it."""

    def __init__(self) -> None:
        self._outcome = event.AsyncResult()

    def reset(self) -> None:
        if not self.ready():
            raise AssertionError("reset() of a fresh event")
        self._outcome = event.AsyncResult()

    def ready(self) -> bool:
        return bool(self._outcome.ready())

    def has_result(self) -> bool:
        return bool(self._outcome.successful())

    def has_exception(self) -> bool:
        return self.ready() and not self.has_result()

    def wait(self, timeout: float | None = None) -> Any:
        """The value; None after *timeout* seconds. Raises the exception that was sent."""
        outcome = self._outcome
        outcome.wait(timeout)
        return outcome.get(block=False) if outcome.ready() else None

    def poll(self, notready: Any = None) -> Any:
        return self.wait() if self.ready() else notready

    def poll_result(self, notready: Any = None) -> Any:
        return self.wait() if self.has_result() else notready

    def poll_exception(self, notready: Any = None) -> Any:
        return self.wait() if self.has_exception() else notready

    def send(self, result: Any = None, exc: Any = None) -> None:
        """Send once: *result*, or *exc*, written as for ``raise`` or as sys.exc_info() has it."""
        if self.ready():
            raise AssertionError("send() to an event that was sent to")
        if exc is None:
            self._outcome.set(result)
        else:
            thrown = _thrown(exc if isinstance(exc, tuple) else (exc,))
            self._outcome.set_exception(thrown, (type(thrown), thrown, thrown.__traceback__))

    def send_exception(self, *exc: Any) -> None:
        self.send(None, exc)


class GreenThread(gevent.Greenlet):  # type: ignore[misc]
    """What spawn() returns. wait() returns what the function did, or raises it."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._function = function, args, kwargs
        self._begun = False
        self._exit = Event()
        self._linked: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()

    def _run(self) -> Any:
        self._begun = True
        function, args, kwargs = self._function
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            self._end(exc=error)
            raise
        self._end(result)
        return result

    def _end(self, result: Any = None, exc: BaseException | None = None) -> None:
        self._exit.send(result, exc)
        self._follow_links()

    def _follow_links(self) -> None:
        while self._linked:
            function, args, kwargs = self._linked.popleft()
            function(self, *args, **kwargs)

    def wait(self) -> Any:
        return self._exit.wait()

    def link(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have *function* called with this green thread and the arguments when it has ended, in it."""
        self._linked.append((function, args, kwargs))
        if self._exit.ready():
            self._follow_links()

    def unlink(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Whether it was linked."""
        try:
            self._linked.remove((function, args, kwargs))
        except ValueError:
            return False
        return True

    def kill(self, *throw_args: Any) -> None:
        kill(self, *throw_args)

    def cancel(self, *throw_args: Any) -> None:
        """Kill it if it has not begun."""
        cancel(self, *throw_args)


def spawn(function: Callable[..., Any], *args: Any, **kwargs: Any) -> GreenThread:
    thread = GreenThread(function, *args, **kwargs)
    thread.start()
    return thread


def spawn_after(seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> GreenThread:
    thread = GreenThread(function, *args, **kwargs)
    thread.start_later(seconds)
    return thread


def kill(thread: Any, *throw_args: Any) -> None:
    """Raise GreenletExit, or *throw_args*, in *thread*, and let it run."""
    if thread.dead:
        return
    thrown = _thrown(throw_args or (GreenletExit(),))
    if isinstance(thread, GreenThread):
        begun = thread._begun
        gevent.Greenlet.kill(thread, thrown, block=False)
        if not begun:
            thread._end(exc=thrown)
    else:
        gevent.kill(thread, thrown)
    gevent.sleep(0)


def cancel(thread: GreenThread, *throw_args: Any) -> None:
    """Kill *thread* if it has not begun."""
    if not thread._begun:
        kill(thread, *throw_args)


def _thrown(exc: tuple[Any, ...]) -> BaseException:
    """The exception of what ``greenlet.throw`` takes: a class or an instance, a value, a traceback."""
    kind, value, trace = (*exc, None, None)[:3]
    if isinstance(kind, BaseException):
        thrown = kind
    elif isinstance(value, BaseException):
        thrown = value
    else:
        thrown = kind() if value is None else kind(value)
    return thrown if trace is None else thrown.with_traceback(trace)


def sleep(seconds: float = 0) -> None:
    gevent.sleep(max(seconds, 0))


class GreenPool:
    """At most *size* green threads at once."""

    def __init__(self, size: int = POOL_SIZE) -> None:
        self.size = int(size)
        self.coroutines_running: set[Any] = set()
        self._slots = lock.Semaphore(self.size)
        self._excess = 0  # slots to be withdrawn when they come free
        self._empty = event.Event()
        self._empty.set()

    def resize(self, new_size: int) -> None:
        """Those that run above *new_size* run on."""
        for _ in range(self.size, new_size):
            self._release()
        for _ in range(new_size, self.size):
            if not self._slots.acquire(blocking=False):
                self._excess += 1
        self.size = new_size

    def running(self) -> int:
        return len(self.coroutines_running)

    def free(self) -> int:
        """How many may be spawned without waiting; negative after resize()."""
        return self.size - self.running()

    def waiting(self) -> int:
        """How many green threads wait to spawn."""
        return int(self._slots.linkcount())

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> GreenThread:
        """Waits for a free slot, unless it is called in one of the pool's own: then *function* is called right here."""
        thread = GreenThread(function, *args, **kwargs)
        if self._slots.locked() and getcurrent() in self.coroutines_running:
            try:
                thread._run()
            except Exception:
                get_hub().handle_error(thread, *sys.exc_info())  # as in a green thread of its own
            return thread
        self._slots.acquire()
        self.coroutines_running.add(thread)
        self._empty.clear()
        thread.link(self._done)
        thread.start()
        return thread

    def spawn_n(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.spawn(function, *args, **kwargs)

    def waitall(self) -> None:
        """Wait until none runs."""
        if getcurrent() in self.coroutines_running:
            raise AssertionError("waitall() in a green thread of the pool would never end")
        self._empty.wait()

    def _done(self, thread: GreenThread) -> None:
        self.coroutines_running.discard(thread)
        self._release()
        if not self.coroutines_running:
            self._empty.set()

    def _release(self) -> None:
        if self._excess:
            self._excess -= 1
        else:
            self._slots.release()

    def starmap(self, function: Callable[..., Any] | None, iterable: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """``function(*arguments)`` for each of *iterable*, in order; at most ``size`` at once, and as many ahead."""
        pool = GreenPool(self.size)  # its own: this one's may be waiting for the result
        threads = queue.Queue(max(self.size, 1))

        def feed() -> None:
            try:
                for arguments in iterable:
                    threads.put(pool.spawn(function or (lambda *items: items), *arguments))
            finally:
                threads.put(feeder)

        def results() -> Iterator[Any]:
            while (thread := threads.get()) is not feeder:
                yield thread.wait()
            feeder.wait()  # *iterable* may have raised

        feeder = spawn(feed)
        return results()

    def imap(self, function: Callable[..., Any] | None, *iterables: Iterable[Any]) -> Iterator[Any]:
        return self.starmap(function, zip(*iterables, strict=False))


class GreenPile:
    """Results of what spawn() was given, in order, by iteration."""

    def __init__(self, size_or_pool: "int | GreenPool" = POOL_SIZE) -> None:
        self.pool = size_or_pool if isinstance(size_or_pool, GreenPool) else GreenPool(size_or_pool)
        self._threads: deque[GreenThread] = deque()

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._threads.append(self.pool.spawn(function, *args, **kwargs))

    def __iter__(self) -> "GreenPile":
        return self

    def __next__(self) -> Any:
        if not self._threads:
            raise StopIteration
        return self._threads.popleft().wait()

    next = __next__


class Semaphore(lock.Semaphore):  # type: ignore[misc]
    @property
    def balance(self) -> int:
        """Free ones, less the green threads that wait."""
        return int(self.counter - self.linkcount())


class LightQueue(queue.JoinableQueue):  # type: ignore[misc]
    """Without a *maxsize* it takes any number; ``Queue(0)`` is a channel: put() waits for a get()."""

    def __new__(cls, maxsize: int | None = None) -> Any:
        return queue.Channel() if maxsize == 0 else super().__new__(cls)

    def resize(self, size: int | None) -> None:
        self.maxsize = size


class Timeout(gevent.Timeout):  # type: ignore[misc]
    """Runs from the moment it is made."""

    is_timeout = True

    def __init__(self, seconds: float | None = None, exception: Any = None) -> None:
        super().__init__(seconds, None if exception is True else exception)
        self.start()


def with_timeout(seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What *function* returns; *timeout_value* after *seconds*, else Timeout is raised."""
    otherwise = {key: kwargs.pop(key) for key in ("timeout_value",) if key in kwargs}
    timeout = Timeout(seconds)
    try:
        return function(*args, **kwargs)
    except Timeout as expired:
        if expired is timeout and otherwise:
            return otherwise["timeout_value"]
        raise
    finally:
        timeout.cancel()


def is_timeout(error: object) -> bool:
    return bool(getattr(error, "is_timeout", False)) or isinstance(error, TimeoutError)


def execute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``tpool.execute``: call *function* in a native thread; others go on meanwhile."""
    return get_hub().threadpool.apply(function, args, kwargs)


# --- eventlet.patcher, eventlet.hubs, eventlet.debug

PATCHES = {"os": ("os",), "select": ("select",), "socket": ("socket", "dns", "ssl"), "subprocess": ("subprocess",),
           "thread": ("thread", "queue"), "time": ("time",)}  # fmt: skip
NO_PATCHES = ("MySQLdb", "builtins", "psycopg")


def monkey_patch(**on: Any) -> None:
    """Patch the standard library, or what is named, by gevent; what is patched already stays so."""
    for name in on:
        if name not in (*PATCHES, *NO_PATCHES, "all"):
            raise TypeError(f"monkey_patch() got an unexpected keyword argument {name!r}")
    rest = on.pop("all", None)
    if rest is None:
        rest = not any(on.values())
    for name in NO_PATCHES:
        if on.get(name):
            observe.warn_once(f"eventlet {name}", f"eventlet.monkey_patch({name}=True) does nothing under gevent")
    wanted = [name for name in PATCHES if on.get(name, rest) and not is_monkey_patched(name)]
    for name in wanted:
        for part in PATCHES[name]:
            getattr(monkey, f"patch_{part}")()


def is_monkey_patched(module: Any) -> bool:
    """*module* is a module, or monkey_patch()'s name of one."""
    name = module if isinstance(module, str) else getattr(module, "__name__", "")
    return bool(monkey.is_module_patched("threading" if name == "thread" else name))


def import_patched(name: str, *_: Any, **__: Any) -> ModuleType:
    """The module itself: the standard library is patched as a whole."""
    return import_module(name)


def trampoline(
    fd: Any,
    read: bool | None = None,
    write: bool | None = None,
    timeout: float | None = None,
    timeout_exc: Any = None,
    mark_as_closed: Any = None,
) -> None:
    """Wait until *fd*, a number or something that has one, can be read or written."""
    number = fd if isinstance(fd, int) else fd.fileno()
    watcher = get_hub().loop.io(number, 1 if read else 2)
    try:
        with Timeout(timeout, timeout_exc):
            get_hub().wait(watcher)
    finally:
        watcher.close()


def ignored(*_: Any, **__: Any) -> None:
    """What only eventlet's own hub has."""


# --- listening


def connect(addr: Any, family: int = socket.AF_INET, bind: Any = None) -> Any:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if bind is not None:
            sock.bind(bind)
        sock.connect(addr)
    except BaseException:
        sock.close()
        raise
    return sock


def listen(
    addr: Any, family: int = socket.AF_INET, backlog: int = 50, reuse_addr: bool = True, reuse_port: bool = False
) -> Any:
    """A listening socket. SO_REUSEPORT is set for those only that ask: there, two servers share a port unasked."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if reuse_addr:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(addr)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


_tls: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()  # a listening socket -> what Config needs for it


def wrap_ssl(
    sock: Any,
    keyfile: str | None = None,
    certfile: str | None = None,
    server_side: bool = False,
    cert_reqs: int = ssl.CERT_NONE,
    ssl_version: Any = None,
    ca_certs: str | None = None,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    ciphers: str | None = None,
) -> Any:
    """*sock* over TLS 1.2 or later; wsgi.server() takes a listening one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = cert_reqs
    if ca_certs:
        context.load_verify_locations(ca_certs)
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if ciphers:
        context.set_ciphers(ciphers)
    wrapped = context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=do_handshake_on_connect,
        suppress_ragged_eofs=suppress_ragged_eofs,
    )
    tls = {"certfile": certfile or "", "keyfile": keyfile or "", "ciphers": ciphers or ""}
    _tls[wrapped] = tls | ({"ca_certs": ca_certs or "", "cert_reqs": str(int(cert_reqs))} if cert_reqs else {})
    return wrapped


# --- eventlet.wsgi


class RequestLog:
    """A line for each request of one server, in *format*'s words. A listener to observe.py."""

    def __init__(self, write: Callable[[str], object], format: str) -> None:
        self._write = write
        self._format = format

    def request_ended(self, exchange: Exchange, seconds: float) -> None:
        head = exchange.request
        at = time.localtime()
        words = {
            "client_ip": exchange.peer[0] or "-",
            "client_port": exchange.peer[1],
            "date_time": f"{at.tm_mday:02d}/{MONTHS[at.tm_mon]}/{time.strftime('%Y %H:%M:%S', at)}",
            "request_line": quoted(f"{head.method} {head.target.decode('latin-1')} HTTP/{head.http_version}")[1:-1],
            "status_code": f"{exchange.status:03d}",
            "body_length": exchange.sent,
            "wall_seconds": seconds,
        }
        self._write(self._format % words)

    def request_refused(self, peer: Address, status: int, why: str) -> None:
        """It is in the error log."""


def server(
    sock: Any,
    site: Application,
    log: logging.Logger | TextIO | None = None,
    environ: Mapping[str, Any] | None = None,
    max_size: int | None = None,
    max_http_version: str | None = None,
    protocol: Any = None,
    server_event: Any = None,
    minimum_chunk_size: int | None = None,
    log_x_forwarded_for: bool = True,
    custom_pool: Any = None,
    keepalive: bool | float = True,
    log_output: bool = True,
    log_format: str = LOG_FORMAT,
    url_length_limit: int | None = None,
    debug: bool = True,
    socket_timeout: float | None = None,
    capitalize_response_headers: bool = True,
) -> None:
    """Serve *site* on *sock* until the caller is killed or interrupted, or the application raises SystemExit; then
    running requests end, within the graceful timeout, and *sock* is closed. TERM and INT do that too, in the main
    greenlet of a program that has left them alone.

    *environ* is added to each request's; *max_size* or the size of *custom_pool* bounds the connections, *keepalive*
    their idle seconds, *socket_timeout* those of a slow reader; the others have no meaning here. Raises ConfigError.
    """
    options: dict[str, Any] = dict(_tls.get(sock, {}))
    if not options and isinstance(sock, ssl.SSLSocket):
        raise ConfigError("wsgi.server() takes a TLS socket that eventlet.wrap_ssl() has made")
    if (connections := getattr(custom_pool, "size", max_size)) is not None:
        options["worker_connections"] = connections
    if keepalive is not True:
        options["keep_alive"] = float(keepalive)
    if url_length_limit is not None:
        options["limit_request_line"] = url_length_limit
    if socket_timeout is not None:
        options["write_timeout"] = float(socket_timeout)
    config = Config(**options)
    errors = logs.open_error_log(config, yield_to_program=True)
    if not monkey.is_module_patched("socket"):
        logs.log.warning("the standard library is not patched: begin the program with eventlet.monkey_patch()")

    say = log.info if isinstance(log, logging.Logger) else _writer(log or sys.stderr)
    ended = event.Event()

    def application(request: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ:
            request.update(environ)
        try:
            return site(request, start_response)
        except SystemExit:
            ended.set()
            start_response("503 Service Unavailable", [], sys.exc_info())
            return []

    listening = socket.socket(fileno=os.dup(sock.fileno()))
    where = url(listening, "https" if config.certfile else "http")
    running = Server(application, config, errors=cast(TextIO, errors), sockets=[Bound(listening, given=True)])
    if log_output:
        running.service.own_listeners = (RequestLog(say, log_format),)
    stop = signals.Stop(ended.set, config.graceful_timeout) if _are_signals_ours() else None
    try:
        with running:
            say(f"({os.getpid()}) wsgi starting up on {where}")
            try:
                ended.wait()
            except (KeyboardInterrupt, SystemExit):
                say("wsgi exiting")
            finally:
                sock.close()
    finally:
        if stop is not None:
            stop.forget()
        say(f"({os.getpid()}) wsgi exited")


def _are_signals_ours() -> bool:
    """Whether nobody else has said what TERM and INT do, and the program does nothing but serve."""
    if getcurrent().parent is not None or not get_hub().main_hub:
        return False
    interrupt, term = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    return interrupt is signal.default_int_handler and term is signal.SIG_DFL


def _writer(file: TextIO) -> Callable[[str], object]:
    return lambda line: file.write(f"{line}\n")


class _Local(local.local):  # type: ignore[misc]
    already_handled = False


# --- the modules

GREEN = (
    "http", "http.client", "http.cookies", "http.server", "os", "select", "selectors", "socket", "ssl", "subprocess",
    "threading", "time", "urllib", "urllib.error", "urllib.parse", "urllib.request", "urllib.response",
)  # fmt: skip
OLD_GREEN = {
    "BaseHTTPServer": "http.server", "Queue": "queue", "SocketServer": "socketserver", "httplib": "http.client",
    "thread": "_thread",
}  # fmt: skip


def modules() -> dict[str, ModuleType]:
    """Eventlet's modules by their dotted names."""
    threads = {
        "GreenThread": GreenThread, "cancel": cancel, "getcurrent": getcurrent, "kill": kill, "sleep": sleep,
        "spawn": spawn, "spawn_after": spawn_after, "spawn_after_local": spawn_after, "spawn_n": spawn,
    }  # fmt: skip
    timeouts = {"Timeout": Timeout, "is_timeout": is_timeout, "with_timeout": with_timeout}
    pools = {"GreenPile": GreenPile, "GreenPool": GreenPool}
    semaphores = {"BoundedSemaphore": lock.BoundedSemaphore, "Semaphore": Semaphore}
    patcher = {
        "import_patched": import_patched, "is_monkey_patched": is_monkey_patched, "monkey_patch": monkey_patch,
    }  # fmt: skip
    sockets = {"connect": connect, "listen": listen, "wrap_ssl": wrap_ssl}
    top = {name: threads[name] for name in threads if name not in ("GreenThread", "cancel", "spawn_after_local")}
    contents: dict[str, dict[str, Any]] = {
        "eventlet": {
            "__version__": VERSION, "Event": Event, "Queue": LightQueue, "import_patched": import_patched,
            "monkey_patch": monkey_patch, **top, **timeouts, **pools, **semaphores, **sockets,
        },
        "eventlet.convenience": sockets,
        "eventlet.corolocal": {"get_ident": lambda: id(getcurrent()), "local": local.local},
        "eventlet.debug": {
            "hub_blocking_detection": ignored, "hub_exceptions": ignored, "hub_prevent_multiple_readers": ignored,
        },
        "eventlet.event": {"Event": Event},
        "eventlet.green": {},
        "eventlet.greenpool": pools,
        "eventlet.greenthread": threads,
        "eventlet.hubs": {"trampoline": trampoline, "use_hub": ignored},
        "eventlet.patcher": patcher,
        "eventlet.queue": {
            "Empty": queue.Empty, "Full": queue.Full, "LifoQueue": queue.LifoQueue, "LightQueue": LightQueue,
            "PriorityQueue": queue.PriorityQueue, "Queue": LightQueue,
        },
        "eventlet.semaphore": semaphores,
        "eventlet.support": {"get_errno": lambda error: getattr(error, "errno", None) or (error.args or (None,))[0]},
        "eventlet.timeout": timeouts,
        "eventlet.tpool": {"execute": execute},
        "eventlet.websocket": {
            "DEFAULT_MAX_FRAME_LENGTH": MAX_FRAME_LENGTH, "WebSocket": WebSocket, "WebSocketWSGI": WebSocketWSGI,
        },
        "eventlet.wsgi": {
            "ALREADY_HANDLED": [], "DEFAULT_LOG_FORMAT": LOG_FORMAT, "WSGI_LOCAL": _Local(), "server": server,
        },
    }  # fmt: skip
    made = {name: _module(name, inside) for name, inside in contents.items()}
    made["eventlet.support.greenlets"] = import_module("greenlet")
    for name, real in {**{name: name for name in GREEN}, **OLD_GREEN}.items():
        made[f"eventlet.green.{name}"] = import_module(real)
    return made


def _module(name: str, contents: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = __file__

    def missing(attribute: str) -> Any:
        raise AttributeError(f"geventgate's {name} has no {attribute} (docs/compat.md)")

    vars(module).update(contents, __getattr__=missing)
    return module
