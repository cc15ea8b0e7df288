"""``--workers N`` and ``--reload``: processes that serve, kept alive by one that does not.

gunicorn's arbiter forks, counts and signals; worker.py serves. Here the two get the command line's Config instead of
gunicorn's settings, and a reload that ends the old workers when the new ones serve, or not at all. The arbiter never
runs the hub: its waits are the system's. Knows no requests. To be imported after monkey-patching.
"""

import logging
import math
import mmap
import os
import signal
import sys
import time
from _queue import SimpleQueue  # the system's own, which signals interrupt; that of queue may be gevent's
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

import gevent
import gevent.subprocess  # now: who we become may not be able to read it
from gunicorn import arbiter, glogging
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.reloader import Reloader

from geventgate import logs, process, signals, worker
from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.logs import LogFile
from geventgate.server.addresses import Bound, bequest

BEQUEST = "_GEVENTGATE_BEQUEST"  # the variable by which USR2 passes the sockets on, behind our process id
UNWIND_SECONDS = 5.0  # beyond the graceful timeout, for a worker to cut what has not ended and to leave
ALL_SECONDS = 0.2  # for the arbiter to say that all stop, where a supervisor has told us too: systemd's KillMode
QUIT_SECONDS = 2.0  # for a worker to leave at once
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts to start what does not start
STATE_BYTES = 4096  # of memory shared with a worker
STARTS, SERVES, WANTS_RELIEF = 0, 1, 2  # the first of them


@dataclass
class Launch:
    """What the command line hands over."""

    config: Config
    load: Callable[[], Any]  # the application; raises ConfigError
    errors: LogFile
    access: LogFile | None
    sockets: Sequence[Bound]
    start_line: str  # who serves what where, to be logged when that is so
    tell: Callable[[str], None]  # the supervisor, how we are
    environ: Mapping[str, str]  # as it was at the start, for USR2
    folder: str  # likewise
    heir_of: int  # the process that USR2 started this one from, or 0


def inheritance(environ: MutableMapping[str, str]) -> tuple[int, str]:
    """The process id of the server that this one is to succeed, and its sockets' bequest; 0 and "" if there is none."""
    of, _, sockets = environ.pop(BEQUEST, "").partition(":")
    return (int(of), sockets) if of == str(os.getppid()) else (0, "")


def serve(launch: Launch) -> tuple[int, float]:
    """Serve until TERM or INT; returns the exit status, and the seconds that the application's threads may go on.

    Returns in the workers too, each at its end. Raises ConfigError.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)  # neither kills, while the application is imported either
    application = Application(launch)
    try:
        Arbiter(application).run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        return status, application.until - time.monotonic()
    return 0, 0.0


class Application(BaseApplication):  # type: ignore[misc]
    """What gunicorn asks for: its settings, and the application."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.stopping = mmap.mmap(-1, 1)  # shared with the workers: 1 when all stop
        self.until = 0.0  # when a worker that stops has had its time
        super().__init__()

    def do_load_config(self) -> None:
        try:
            self.load_default_config()
            self.load_config()
        except Exception as error:  # gunicorn looks at the current directory, for one
            raise ConfigError(str(error)) from error

    def load_config(self) -> None:
        config = self.launch.config
        settings = {
            "worker_class": Worker,
            "logger_class": Log,
            "workers": max(config.workers, 1),
            "timeout": math.ceil(config.timeout),
            "graceful_timeout": math.ceil(config.graceful_timeout),
            "max_requests": config.max_requests,
            "max_requests_jitter": config.max_requests_jitter,
            "preload_app": config.preload,
            "user": os.geteuid(),  # whom we may have become meanwhile
            "group": os.getegid(),
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        application = self.launch.load()
        logs.revive()
        return application


class Log(glogging.Logger):  # type: ignore[misc]
    """gunicorn's lines in our error log. What it tells of its own course is for those who debug."""

    def __init__(self, cfg: Any) -> None:
        self.error_log, self.access_log = logs.log, logs.access
        self.setup(cfg)

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None:
        logs.log.debug(msg, *args, **kwargs)

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        pass

    def critical(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Of a stack each line is one: a line of ours may hold no others."""
        for line in (msg % args if args else msg).splitlines():
            logs.log.critical("%s", line)

    def reopen_files(self) -> None:
        logs.reopen()

    def close_on_exec(self) -> None:
        """They all are already."""


class Listening:
    """One of the server's sockets, as gunicorn passes it from process to process."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.sock = bound.sock
        self.FAMILY = bound.sock.family

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


class Arbiter(arbiter.Arbiter):  # type: ignore[misc]
    """Keeps the workers of one generation serving. HUP begins another, which takes over once all of it serves."""

    SIG_QUEUE: "SimpleQueue[int]"
    reexec_pid: int

    def __init__(self, app: Application) -> None:
        self.WORKERS: dict[int, Worker] = {}
        self.generation = self._begun = 1
        self._serving = 0  # the generation that has taken over
        self._failures = 0  # of workers to start, since one did
        self._not_before = 0.0
        self._interrupts = 0
        self._stops = False
        self._held = ExitStack()  # the pid file, once it is ours
        super().__init__(app)
        del os.environ["SERVER_SOFTWARE"]  # gunicorn's
        self.SIG_QUEUE = SimpleQueue()
        self.LISTENERS = [Listening(bound) for bound in app.launch.sockets]
        self.master_pid = app.launch.heir_of

    def setup(self, app: Application) -> None:
        super().setup(app)
        self.timeout = app.launch.config.timeout

    # --- workers

    def spawn_worker(self) -> Any:
        """Signals wait until the worker has handlers of its own: Python's fork forgets those that come in between."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def manage_workers(self) -> None:
        """Start those that are missing; let a generation that serves take over; end those too many."""
        current = self.current()
        if time.monotonic() >= self._not_before:
            for _ in range(self.num_workers - len(current)):
                self.spawn_worker()
        if len(current) >= self.num_workers and all(one.serves for one in current):
            if self._serving != self.generation:
                self._take_over()
            stay = current[-self.num_workers :]
            for one in self._workers():
                if one not in stay:
                    self.dismiss(one)

    def current(self) -> list["Worker"]:
        """Those that are to stay."""
        mine = [one for one in self._workers() if one.generation == self.generation]
        return [one for one in mine if not one.leaving and not one.wants_relief]

    def _workers(self) -> list["Worker"]:
        """The oldest first."""
        return list(self.WORKERS.values())

    def _take_over(self) -> None:
        first, self._serving, self._failures = not self._serving, self.generation, 0
        if first:
            logs.log.info(self.app.launch.start_line)
            self.app.launch.tell("READY=1")
        else:
            logs.log.info("reloaded: the new workers serve, the old ones end what runs")

    def dismiss(self, worker: "Worker") -> None:
        """Have it end what runs, and go."""
        if not worker.leaving:
            worker.leaving = True
            self.kill_worker(worker.pid, signal.SIGTERM)

    def reap_workers(self) -> None:
        """Raises HaltServer when there is nothing to go on with."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.reexec_pid:
                self.reexec_pid = 0
                logs.log.warning("the server that USR2 started has ended (%s); this one goes on", ending(status))
            elif pid in self.WORKERS:
                worker = self.WORKERS.pop(pid)
                worker.tmp.close()
                self._ended(worker, status)

    def _ended(self, worker: "Worker", status: int) -> None:
        if worker.leaving or self._stops:
            return
        if worker.serves:
            level = logging.ERROR if status else logging.INFO
            logs.log.log(level, "worker %d has ended (%s); another takes its place", worker.pid, ending(status))
            return
        why = worker.failure or f"worker {worker.pid} has ended ({ending(status)}) before it served"
        if not self._serving:
            raise HaltServer(why, 1)
        if worker.generation != self._serving:
            logs.log.error("not reloaded, the workers that serve go on: %s", why)
            self._give_up()
            return
        pause = PAUSES[min(self._failures, len(PAUSES) - 1)]
        self._failures += 1
        self._not_before = time.monotonic() + pause
        logs.log.error("no worker to take its place, the next attempt is in %g s: %s", pause, why)

    def _give_up(self) -> None:
        """Leave it at the generation that serves."""
        self.generation = self._serving
        for one in self._workers():
            if one.generation != self._serving:
                self.dismiss(one)

    # --- signals

    def signal(self, sig: int, frame: FrameType | None) -> None:
        self._interrupts += sig == signal.SIGINT
        if self._interrupts > 1:
            for pid in self.WORKERS:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os._exit(signals.INTERRUPTED)
        super().signal(sig, frame)

    def handle_int(self) -> None:
        self._say_stop("SIGINT")
        raise StopIteration

    def handle_term(self) -> None:
        self._say_stop("SIGTERM")
        raise StopIteration

    def _say_stop(self, name: str) -> None:
        logs.log.info("%s: stopping; what runs may go on for %g s", name, self.app.launch.config.graceful_timeout)

    def stop(self, graceful: bool = True) -> None:
        """End the workers: each drains, and the last ones empty the sockets' queues. Not *graceful*: at once."""
        self._stops = True
        self.reap_workers()
        self.maybe_promote_master()
        alone = not (self.reexec_pid or self.master_pid)  # or others listen on the same sockets
        self.app.stopping[0] = alone
        for listening in self.LISTENERS:
            listening.bound.close() if alone else listening.bound.leave()
        self.LISTENERS = []
        self.app.launch.tell("STOPPING=1")
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        seconds = self.app.launch.config.graceful_timeout + UNWIND_SECONDS if graceful else QUIT_SECONDS
        until = time.monotonic() + seconds
        while self.WORKERS and (left := until - time.monotonic()) > 0:
            for sig in self.wait_for_signals(min(left, 1.0)):
                if sig == signal.SIGUSR1:
                    self.handle_usr1()
                elif sig == signal.SIGQUIT:
                    self.kill_workers(sig)
                    until = min(until, time.monotonic() + QUIT_SECONDS)
            self.reap_workers()
        if self.WORKERS:
            logs.log.warning("killed, since they would not end: %s", ", ".join(map(str, self.WORKERS)))
            self.kill_workers(signal.SIGKILL)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        self.stop(graceful=any(one.serves for one in self._workers()))
        self._held.close()
        if reason is not None:
            raise ConfigError(reason)
        sys.exit(exit_status)

    def reload(self) -> None:
        logs.reopen()
        self.kill_workers(signal.SIGUSR1)
        if self.app.launch.config.preload:
            logs.log.info(
                "SIGHUP: new workers of the application as it was imported (--preload); USR2 imports it again"
            )
        else:
            logs.log.info("SIGHUP: reloading in new workers")
        if self._serving and self.generation != self._serving:
            self._give_up()  # the last one has not taken over yet, and never will
        self._begun += 1
        self.generation = self._begun
        self._not_before = 0.0

    def reexec(self) -> None:
        """Start the command line once more, with the sockets that are here; TERM to the one or the other decides."""
        if self.reexec_pid or self.master_pid:
            logs.log.warning("SIGUSR2: ignored, since there are two servers already")
            return
        logs.log.info("SIGUSR2: starting another server on the same sockets")
        of = os.getpid()
        self.reexec_pid = os.fork()
        if self.reexec_pid:
            return
        try:
            launch = self.app.launch
            os.chdir(launch.folder)
            passed = {BEQUEST: f"{of}:{bequest([listening.bound for listening in self.LISTENERS])}"}
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**launch.environ, **passed})
        finally:
            os._exit(1)

    def maybe_promote_master(self) -> None:
        """The server that was before this one has gone: the pid file is ours."""
        launch = self.app.launch
        if self.master_pid and self.master_pid != os.getppid():
            self.master_pid = 0
            logs.log.info("the server before this one has ended")
            if launch.config.pid:
                try:
                    self._held.enter_context(process.pid_file(launch.config.pid))
                    os.unlink(f"{launch.config.pid}.2")
                except (ConfigError, OSError) as error:
                    logs.log.warning("%s", error)


class Worker(worker.Worker):
    """A process that serves, by the command line's Config."""

    app: Application

    def __init__(self, age: int, ppid: int, sockets: list[Any], *more: Any) -> None:
        super().__init__(age, ppid, sockets, *more)
        self.generation = 0
        self._watches = False  # the sources: one of them is enough
        self.leaving = False  # it has been told
        self._listening: list[Listening] = sockets
        self._state = mmap.mmap(-1, STATE_BYTES)  # shared: how it is, and behind that why it cannot start

    @classmethod
    def setup(cls) -> None:
        """The command line has patched, or not."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """The command line has."""

    # --- what the arbiter sees of it

    def meet(self, arbiter: Any) -> None:
        """Before the fork."""
        self.generation = arbiter.generation
        self._watches = not any(one._watches for one in arbiter.current())

    @property
    def serves(self) -> bool:
        return self._state[0] != STARTS

    @property
    def wants_relief(self) -> bool:
        return self._state[0] == WANTS_RELIEF

    @property
    def failure(self) -> str:
        """Why it cannot start; "" while that is not known."""
        return self._state[1:].rstrip(b"\0").decode("utf-8", "replace")

    def _tell(self, state: int) -> None:
        self._state[0] = state
        os.kill(self.ppid, signal.SIGCHLD)  # which wakes the arbiter

    # --- in its own process

    def server_config(self) -> Config:
        return self.app.launch.config

    def open_logs(self) -> TextIO:
        return cast(TextIO, self.app.launch.errors)

    def bound(self) -> list[Bound]:
        pairs = zip(self.sockets, self._listening, strict=True)
        return [Bound(sock, given=listening.bound.given, shared=True) for sock, listening in pairs]

    def host(self, server: Any) -> None:
        """There is none."""

    def cannot_start(self, error: ConfigError) -> NoReturn:
        logs.log.debug("it cannot start", exc_info=error.__cause__)
        text = str(error).encode()[: STATE_BYTES - 1]
        self._state[1 : 1 + len(text)] = text
        sys.exit(Arbiter.APP_LOAD_ERROR)

    def serving(self) -> None:
        self._tell(SERVES)

    def spent(self) -> None:
        """Serve on until another serves."""
        if not self.wants_relief:
            logs.log.debug("%d requests: another worker will take the place of this one", self.nr)
            self._tell(WANTS_RELIEF)

    def restarts(self) -> bool:
        self.app.until = time.monotonic() + self.app.launch.config.graceful_timeout
        if not self.app.stopping[0]:
            gevent.sleep(ALL_SECONDS)
        return not self.app.stopping[0] and os.getppid() == self.ppid

    def init_signals(self) -> None:
        super().init_signals()
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's are for the arbiter, which tells us
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, Arbiter.SIGNALS)

    def run(self) -> None:
        from geventgate.cli import access_log

        with access_log(self.app.launch.access):
            super().run()

    def load_wsgi(self) -> None:
        if not self.app.launch.config.reload:
            self.wsgi = self.app.wsgi()
            return
        before = set(sys.modules)
        extra: set[str] = set()
        try:
            self.wsgi = self.app.wsgi()
        except ConfigError as error:
            logs.log.error("%s; waiting for a change", error)
            self.wsgi = apology(str(error))
            self.server.config = replace(self.server.config, interface="wsgi")
            extra = places(error)
        if self._watches:
            Sources(before, extra, self.ppid).start()


# --- reloading


class Sources(Reloader):  # type: ignore[misc]
    """Looks once a second whether the source of a module has changed that the application imported; then HUP reloads.

    *before* are the modules that were imported before it, *extra* more files.
    """

    def __init__(self, before: set[str], extra: set[str], arbiter: int) -> None:
        super().__init__(extra_files=extra, callback=self.changed)
        self._before = before
        self._arbiter = arbiter
        self._seen: set[tuple[str, float]] = set()

    def get_files(self) -> list[str]:
        modules = [module for name, module in sys.modules.copy().items() if name not in self._before]
        files = {file for module in modules if (file := getattr(module, "__file__", None))}
        return [*files, *self._extra_files]

    def changed(self, file: str) -> None:
        """Called every second once a file has changed."""
        change = (file, os.stat(file).st_mtime)
        if change not in self._seen:
            self._seen.add(change)
            logs.log.info("%s has changed", file)
            os.kill(self._arbiter, signal.SIGHUP)


def places(error: ConfigError) -> set[str]:
    """The files and folders of which one must change before what raised *error* may succeed."""
    found = {os.getcwd()}
    cause = error.__cause__
    if isinstance(cause, SyntaxError) and cause.filename:
        found.add(cause.filename)
    step = cause.__traceback__ if cause else None
    while step is not None:
        found.add(step.tb_frame.f_code.co_filename)
        step = step.tb_next
    return {place for place in found if os.path.exists(place)}


def apology(why: str) -> Callable[..., Iterable[bytes]]:
    """An application that says *why* there is none."""
    content = f"{why}\n".encode()

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        fields = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))]
        start_response("500 Internal Server Error", fields)
        return [content]

    return application


def ending(status: int) -> str:
    """What wait(2) says of a process."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"status {code}"
    return f"{signal.Signals(-code).name}{', perhaps out of memory' if code == -signal.SIGKILL else ''}"
