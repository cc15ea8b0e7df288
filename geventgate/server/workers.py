"""Greenlets that serve one connection after the other: a new one costs more than a small request.

Nothing leaks from one job to the next: requests run in contexts of their own (http1.py), and what ``gevent.local``
(so a patched ``threading.local`` too) has registered to be cleaned up at the greenlet's end is cleaned up at the job's.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from gevent import Greenlet, get_hub, getcurrent

MAX_IDLE = 256  # of a few kilobytes each
TURN_SECONDS = 0.005  # one connection's requests may take before other connections have their turn

Job = Callable[[], None]


class Worker(Greenlet):  # type: ignore[misc]
    """One greenlet; killed, or left by an exception, it is not used again."""

    __slots__ = ("_begun", "_idle", "_job", "locals")  # so it has no dict

    spawning_stack_limit = 0  # gevent would keep who made it: 700 bytes that say nothing, for it serves many

    def __init__(self, idle: list["Worker"], job: Job) -> None:
        super().__init__()
        self._idle = idle
        self._job: Job | None = job
        self._begun = False
        self.locals: list[Callable[[Any], None]] = []  # of the running job, to be told of its end

    def rawlink(self, callback: Callable[[Any], None]) -> None:
        """Locals of the running job ask here to be told of its end."""
        if getcurrent() is self:
            self.locals.append(callback)
        else:
            super().rawlink(callback)

    def unwind(self) -> bool:
        """Kill it. Whether its job has begun, and so ends what it serves as it unwinds; else the caller must."""
        self.kill(block=False)
        return self._begun

    def _run(self) -> None:
        self._begun = True
        hub = get_hub()
        try:
            while self._job is not None:
                try:
                    self._job()
                finally:
                    self._end_job()
                if len(self._idle) >= MAX_IDLE:
                    return
                self._idle.append(self)
                self._job = hub.switch()
        finally:
            if self in self._idle:  # killed while it idled
                self._idle.remove(self)

    def _end_job(self) -> None:
        self._job = None
        self.forget()

    def forget(self) -> None:
        """What runs here next shall find no locals of what ran before."""
        while self.locals:
            self.locals.pop()(self)


class Workers:
    """Hands jobs to greenlets, idle ones first."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._run_callback = get_hub().loop.run_callback

    def run(self, job: Job) -> Worker:
        """Have a worker begin *job* in the hub's next turn, and return it."""
        if self._idle:
            worker = self._idle.pop()
            self._run_callback(worker.switch, job)
        else:
            worker = Worker(self._idle, job)
            worker.start()
        return worker

    def stop(self) -> None:
        """End the idle ones."""
        while self._idle:
            self._run_callback(self._idle.pop().switch, None)


class Turns:
    """Serves one item after the other, in as few greenlets as do not block.

    Before each item another worker is made due if more are pending: one that blocks holds up nobody.
    """

    __slots__ = ("_batch", "_coming", "_due", "_rest", "_workers")

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        # A queue of two lists: a deque has no types to be compiled by.
        self._coming: list[Any] = []
        self._batch: list[Any] = []  # the next one is its last
        self._due = False
        self._rest = False

    def add(self, item: object) -> None:
        self._coming.append(item)
        if not self._due:
            self._due = True
            self._workers.run(self._work)

    def serve(self, item: Any) -> None:
        raise NotImplementedError

    def discard(self, item: object) -> None:
        """Forget *item*, if its turn has not come."""
        for items in (self._coming, self._batch):
            if item in items:
                items.remove(item)

    def _work(self) -> None:
        if self._rest:
            hub = get_hub()
            hub.wait(hub.loop.timer(0.0))  # so that the hub looks at other connections' sockets
        self._due = self._rest = False  # together: who rests relies on one that is due
        worker = getcurrent()
        locals_ = worker.locals
        end = perf_counter() + TURN_SECONDS
        while (self._batch or self._coming) and not self._rest:
            if not self._batch:
                self._batch, self._coming = self._coming, self._batch
                self._batch.reverse()
            item = self._batch.pop()
            if not self._due and (self._batch or self._coming):
                self._due = True
                self._workers.run(self._work)
            try:
                self.serve(item)
            finally:
                if locals_:
                    worker.forget()
            self._rest = self._due and perf_counter() > end
