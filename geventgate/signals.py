"""What a process does on signals: TERM and INT drain, a second INT ends at once; HUP and USR1 reopen the logs,
HUP reads the certificates again.

For the main thread, and to be imported after monkey-patching.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import gevent

from geventgate import logs

INTERRUPTED = 130  # the shell's exit status for SIGINT
THREADS_SECONDS = 1.0  # that the application's threads have to end, at least


def reopen_logs() -> None:
    """From here on HUP and USR1 reopen the logs; neither kills, while the application is imported either."""
    gevent.signal_handler(signal.SIGHUP, logs.reopen)
    gevent.signal_handler(signal.SIGUSR1, logs.reopen)


def reload_certificates(reload: Callable[[], None]) -> None:
    """From here on HUP calls *reload* too."""
    gevent.signal_handler(signal.SIGHUP, reload)


def end_on_interrupt() -> None:
    """While there is nothing to drain, INT ends at once, by the kernel: gevent's hub may begin to wait without having
    heard of a signal, and a KeyboardInterrupt can get lost in it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Stop:
    """From its creation on TERM and INT call *drain*, once, which may take *timeout* seconds."""

    def __init__(self, drain: Callable[[], None], timeout: float) -> None:
        self._drain = drain
        self._timeout = timeout
        self._deadline = 0.0  # once it has begun
        self._interrupted = False
        self._loop = gevent.get_hub().loop
        self._term = gevent.signal_handler(signal.SIGTERM, self._begin, "SIGTERM")
        # Not gevent's, which wait for the hub: when the application blocks it, a second INT is the way out.
        self._before = signal.signal(signal.SIGINT, self._interrupt)

    def forget(self) -> None:
        """What a program does on these signals afterwards is its own affair again."""
        self._term.cancel()
        signal.signal(signal.SIGINT, self._before)

    @property
    def left(self) -> float:
        """Seconds of the timeout that are left."""
        return self._deadline - time.monotonic() if self._deadline else self._timeout

    def _begin(self, name: str) -> None:
        if not self._deadline:
            self._deadline = time.monotonic() + self._timeout
            logs.log.info("%s: stopping; what runs may go on for %g s", name, self._timeout)
            self._drain()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        self._loop.run_callback_threadsafe(gevent.spawn, self._begin, "SIGINT")


def leave_threads(status: int, seconds: float = THREADS_SECONDS) -> None:
    """Exit with *status* after *seconds* though threads go on: Python waits for all that are no daemons, for ever.

    Call it last: nothing but the interpreter's own end may follow.
    """

    def names() -> list[str]:
        return [one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]

    def leave(number: int, frame: FrameType | None) -> None:
        logs.log.warning("ended without threads of the application: %s", ", ".join(names()))
        os._exit(status)

    if not names():
        return  # else the alarm may find a slow interpreter that has put away its handlers
    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, THREADS_SECONDS))
