"""``gunicorn -k geventgate.Worker``: a process of gunicorn's that serves with our Server.

gunicorn's arbiter binds, forks, counts and signals; this is the life of one of its children, from the fork to the end.
What gunicorn's settings mean to us, and what its users see around a request, is hosted.py's. Knows no protocol.

At its top it imports nothing of gevent: gunicorn imports it to have setup() patch the standard library.
"""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from mmap import mmap
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from gunicorn.errors import HaltServer
from gunicorn.workers import base

from geventgate import __version__, native
from geventgate.config import Config, speaks_http2
from geventgate.errors import ConfigError

if TYPE_CHECKING:
    from geventgate.assemble import Server
    from geventgate.exchange import Exchange
    from geventgate.server.addresses import Bound

BOOT_ERROR = 3  # the exit status that has gunicorn give up, rather than start another that will fail too
PULSE_SECONDS = 1.0  # between signs of life
QUIT_SECONDS = 3.0  # to leave at once, when the hub is blocked
HEARD = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)  # from the fork on
OURS = os.path.dirname(__file__)

log = logging.getLogger("geventgate")


class Worker(base.Worker):  # type: ignore[misc]
    """One process that serves. gunicorn makes the object in its own process, and calls init_process() in the child.

    Subclasses may have another way to be configured (server_config), to log (open_logs), to see requests (host) and to
    know whether others go on listening (restarts).
    """

    alive: bool
    nr: int  # requests so far
    sockets: list[Any]

    _early: tuple[str, ...] = ()  # modules that were imported before patching
    _shared: mmap | None = None  # one byte, of the arbiter and its workers: 1 once nobody will listen any more
    _met: Any = None  # the settings whose pre_fork leads to meet()

    # --- in the arbiter's process

    @classmethod
    def setup(cls) -> None:
        """Patch, before the application is imported; gunicorn calls it again and again."""
        from geventgate.cli import imported_too_early, patch

        early = imported_too_early(dict(sys.modules))
        if patch(forks=True):
            known = ("ssl", "threading", "gunicorn", "__config__")  # and works; the last is its configuration file
            Worker._early = tuple(name for name in early if name not in known)
        from geventgate import compat, hosted

        try:
            compat.install(*hosted.gaps(os.environ).get("compat", ()))
        except ConfigError as error:
            sys.exit(f"geventgate: error: {error}")

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Once, before the first worker: say what is not as it seems, or why there will be none."""
        from geventgate import hosted
        from geventgate.protocol.http2 import engine
        from geventgate.server.certificates import certificates

        try:
            config = hosted.translate(cfg)
            certificates(config, ["http/1.1"])
            http2 = f"HTTP/2 ({engine(config.http2_engine).name}), " if speaks_http2(config) else ""
        except ConfigError as error:
            log.error("geventgate: %s", error)
            sys.exit(1)
        log.info("geventgate %s: %sHTTP/1.1, WebSocket", __version__, http2)
        for line in [*hosted.unheeded(cfg, os.environ), native.regret()]:
            if line:
                log.warning("geventgate: %s", line)
        if cls._early:
            log.warning(
                "imported too early, before the standard library was patched: %s; what they hold may block every "
                "request",
                ", ".join(cls._early),
            )

    def __init__(self, age: int, ppid: int, sockets: list[Any], app: Any, timeout: float, cfg: Any, log: Any) -> None:
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        if Worker._met is not cfg:  # they are new with each HUP
            Worker._met = cfg
            theirs = cfg.pre_fork

            def pre_fork(arbiter: Any, worker: "Worker") -> None:
                worker.meet(arbiter)
                theirs(arbiter, worker)

            cfg.set("pre_fork", pre_fork)
        self.given = False  # the sockets are a supervisor's, which may go on listening
        self._told = 0.0  # when notify() was called
        # Set by signals, for attend() to see.
        self._reopens = False
        self._quits = False
        self._quitting: Any = None  # the greenlet that does
        self._over = False  # run() has ended, or will not

    def meet(self, arbiter: Any) -> None:
        """Before each fork: have *arbiter*, gunicorn's, do what ours needs of it."""
        self.given = arbiter.systemd
        # Until _listen_early(): Python forgets at a fork what it has not come to see.
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        if Worker._shared is not None:
            return
        shared = Worker._shared = mmap(-1, 1)
        theirs = arbiter.stop

        def stop(graceful: bool = True) -> None:
            # The one before USR2, or the one after it, listens on the same sockets.
            shared[0] = arbiter.reexec_pid == 0 and arbiter.master_pid == 0
            stopped = False
            while not stopped:
                try:
                    theirs(graceful)
                    stopped = True
                except HaltServer:
                    pass  # another worker that cannot start: it would leave the rest running

        arbiter.stop = stop
        os.register_at_fork(after_in_parent=_hear)
        _reexecute_by_name(arbiter)
        if not getattr(arbiter.cfg, "control_socket_disable", True):
            _wait_in_the_hub(arbiter)

    # --- the seam

    def server_config(self) -> Config:
        """Raises ConfigError."""
        from geventgate import hosted

        return hosted.translate(self.cfg)

    def open_logs(self) -> TextIO:
        """Have ``geventgate``'s lines come where gunicorn's do; what it returns is ``wsgi.errors``."""
        from geventgate import hosted

        log.handlers = [hosted.Lines(self.log)]
        log.propagate = False
        log.setLevel(getattr(getattr(self.log, "error_log", None), "level", logging.INFO))
        return cast(TextIO, hosted.ErrorFile(self.log))

    def bound(self) -> "list[Bound]":
        """What to listen on."""
        from geventgate.server.addresses import Bound

        return [Bound(sock, given=self.given, shared=not self.cfg.reuse_port) for sock in self.sockets]

    def spent(self) -> None:
        """It has served max_requests; called with each request from then on, while it is alive."""
        log.info("%d requests: another worker takes the place of this one", self.nr)
        self.alive = False
        self._leave.set()

    def host(self, server: "Server") -> None:
        """Have *server*, which has not started, do around each request what gunicorn does."""
        from geventgate import hosted

        hosted.host(self, server)

    def cannot_start(self, error: ConfigError) -> NoReturn:
        """End, so that no other starts, only to fail as well."""
        self.log.error("geventgate: %s", error)
        sys.exit(BOOT_ERROR)

    def serving(self) -> None:
        """It accepts connections."""

    def restarts(self) -> bool:
        """Whether others go on listening on our sockets: false once all stop, and only then. A filter for the kernel's
        queue would close them to those others, for good."""
        return Worker._shared is None or not Worker._shared[0]

    # --- from fork to end

    def init_process(self) -> None:
        import gevent
        from gevent import monkey
        from gevent.event import Event
        from gevent.socket import socket

        self._listen_early()
        gevent.reinit()
        if monkey.is_module_patched("socket"):
            monkey.patch_os()
            monkey.patch_signal()
            monkey.patch_subprocess()
        self._leave = Event()
        self.sockets = [socket(fileno=one.sock.detach()) for one in self.sockets]
        try:
            self.server = self._assemble()  # before we become another user: its keys may be root's
            super().init_process()
        except ConfigError as error:
            self.cannot_start(error)

    def _listen_early(self) -> None:
        """Take signals from now on: init_signals() is called late, and till then gunicorn's handlers would queue them
        for an arbiter that is not in this process."""
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        signal.signal(signal.SIGINT, self.handle_quit)
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        _hear()

    def _assemble(self) -> "Server":
        from geventgate.assemble import Server

        config = self.server_config()
        errors = self.open_logs()
        server = Server(lambda *arguments: self.application(*arguments), config, errors=errors, sockets=self.bound())
        self.host(server)
        handle = server.service.handle

        def count(exchange: "Exchange") -> None:
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.spent()
            handle(exchange)

        server.service.handle = count
        return server

    def application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """gunicorn's, once it is loaded; host() may put another in its place."""
        return self.wsgi(environ, start_response)  # type: ignore[no-any-return]

    def run(self) -> None:
        """Serve, until told to leave; then drain."""
        from gevent import get_hub

        from geventgate import assemble, logs, signals

        logs.revive()
        self.wsgi: Any = self.server.adapt(self.wsgi)
        assemble.own_asyncio()
        loop = get_hub().loop
        interval = min(PULSE_SECONDS, self.timeout / 2 or PULSE_SECONDS)  # self.timeout is half of gunicorn's
        pulse = loop.timer(interval, interval)
        woken = loop.io(self.PIPE[0], 1)  # where the system writes of each signal, so that the hub hears of it
        pulse.start(self._beat)
        woken.start(self.attend)
        try:
            self.server.start()  # even if we are to leave by now: somebody may wait in the kernel's queue
        except ConfigError as error:
            self.cannot_start(error)
        self.notify()  # before the first request, which may block: until then nobody waits for signs of life
        self.serving()
        self.attend()
        self._leave.wait()
        self.server.stop(restarts=self.restarts())
        pulse.stop()
        woken.stop()
        self._over = True
        signals.leave_threads(0)

    def notify(self) -> None:
        """Tell gunicorn that the hub runs."""
        super().notify()
        self._told = time.monotonic()

    def _beat(self) -> None:
        """In the hub: when it does not run, gunicorn hears nothing of us."""
        if self._over:
            return  # the hub may run once more while the interpreter ends
        self.notify()
        if self.alive and os.getppid() != self.ppid:
            log.warning("the master process, %d, has gone; leaving", self.ppid)
            self.alive = False
        self.attend()

    def attend(self) -> None:
        """In the hub: do what signals have asked for."""
        import gevent

        try:
            while os.read(self.PIPE[0], 4096):
                pass
        except BlockingIOError:
            pass
        if self._reopens:
            self._reopens = False
            gevent.spawn(self.log.reopen_files)
        if self._quits and self._quitting is None:  # a terminal's INT comes with the QUIT of gunicorn's
            self._quitting = gevent.spawn(self._quit)
        if not self.alive:
            self._leave.set()

    def _quit(self) -> None:
        try:
            self.cfg.worker_int(self)
        finally:
            self.server.stop(0.0, self.restarts())

    # --- signals: their handlers interrupt whatever runs, so they only leave word

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """TERM: drain."""
        self.alive = False

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """QUIT and INT: leave at once, even when the hub is blocked."""
        self.alive = False
        self._quits = True
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, QUIT_SECONDS)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """USR1: reopen the logs."""
        self._reopens = True

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """ABRT: gunicorn has heard nothing for *timeout*, and will kill us in a moment. Say what blocked, and end."""
        from gevent import get_hub, getcurrent

        if self._over:
            os._exit(1)  # the interpreter does not come to its end
        waits = frame is not None and frame.f_code is type(get_hub()).run.__code__
        if waits or time.monotonic() - self._told < self.timeout:
            log.warning("this process, or the machine, did not run for a while; nothing blocks it now")
            self.notify()  # in time: gunicorn looks again before it kills
            return
        self.alive, self._over = False, True
        self.log.critical("%s", blocked(self.timeout * 2, frame))
        self.cfg.worker_abort(self)
        main = get_hub().parent
        if getcurrent() not in (main, get_hub()):
            main.throw(SystemExit(1))  # out of this greenlet, where it would be an error of the request that runs
        sys.exit(1)


def blocked(seconds: float, frame: FrameType | None) -> str:
    """What to log of a hub that has not run for *seconds*, and was interrupted in *frame*."""
    request, stack = "", traceback.extract_stack(frame)
    while frame is not None:
        if frame.f_code.co_name == "count" and frame.f_globals is globals():  # what is compiled has no frames
            request = f" by {frame.f_locals['exchange']}"
            break
        frame = frame.f_back
    theirs = next((at for at, line in enumerate(stack) if not line.filename.startswith(OURS)), 0)
    lines = "".join(traceback.format_list(stack[theirs:])).rstrip()
    return (
        f"the hub was blocked for more than {seconds:g} s{request}; nothing else was served. It stands here:\n{lines}"
    )


def _hear() -> None:
    """What has come meanwhile comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def _reexecute_by_name(arbiter: Any) -> None:
    """Started by ``python -m NAME``, USR2 would run ``NAME/__main__.py`` as a script, in whose folder modules shadow
    others."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        arbiter.START_CTX["args"] = [sys.executable, "-m", name, *sys.argv[1:]]


def _wait_in_the_hub(arbiter: Any) -> None:
    """gunicorn's control socket is served by a thread, which is a greenlet now: it runs while the arbiter waits."""
    from queue import SimpleQueue

    before = arbiter.SIG_QUEUE
    if not isinstance(before, SimpleQueue):
        arbiter.SIG_QUEUE = SimpleQueue()
        while not before.empty():
            arbiter.SIG_QUEUE.put(before.get())
