"""asyncio on gevent's hub: while coroutines wait greenlets run, and while greenlets wait coroutines do. A leaf.

The loop is asyncio's own, with another selector: where that would block the thread, its greenlet leaves for the hub.
And asyncio keeps the running loop and the current task for the thread, in which gevent has many greenlets: so a loop
runs in a greenlet of its own, a ``Runner``, which takes them away when it is left and puts them back when it is entered
again. A blocking call in a coroutine then holds up the coroutines of its loop, and nobody else.
"""

import asyncio
import logging
import os
import selectors
import sys
from asyncio import events, tasks, unix_events
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from time import perf_counter
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import gevent
from gevent import GreenletExit, get_hub, getcurrent, monkey
from gevent.event import Event
from gevent.exceptions import BlockingSwitchOutError
from greenlet import greenlet  # type: ignore[import-untyped]

READ = 1  # an event of libev's
TURN_SECONDS = 0.005  # that callbacks may take before greenlets have their turn
LONGEST_WAIT = 24 * 3600.0  # asyncio's own

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")

log = logging.getLogger("geventgate")

# The one whose descriptor becomes readable when one of those it watches does; patched, the module has none.
_Selector: Any = monkey.get_original("selectors", "EpollSelector" if sys.platform == "linux" else "KqueueSelector")
_native_ident: Callable[[], int] = monkey.get_original("threading", "get_ident")

# Python 3.14 warns of policies, which end with 3.16; until then there is no other way to be what asyncio.run() takes.
_Policy: Any = getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events.DefaultEventLoopPolicy
_set_policy: Any = getattr(events, "_set_event_loop_policy", None) or events.set_event_loop_policy


class Runner(greenlet):  # type: ignore[misc]
    """Runs a loop: what asyncio keeps for the thread is there only while this greenlet is."""

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__(self._drive, get_hub())
        self._run = run
        self._kept: tuple[Any, Any, Any] | None = None
        self.gr_context = copy_context()
        self.ended = Event()
        self.error: BaseException | None = None

    def _drive(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error  # whoever waits for the end raises it
        finally:
            self.ended.set()

    def switch_out(self) -> None:
        """Called before this greenlet is left: by gevent's hub, too."""
        loop = asyncio._get_running_loop()
        if loop is not None:
            task = tasks.current_task(loop)
            if task is not None:
                tasks._leave_task(loop, task)
            asyncio._set_running_loop(None)
            self._kept = loop, task, sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(None, None)

    def switch_in(self) -> None:
        """Called when it goes on; by whoever has not switched to it by its own methods, too."""
        if self._kept is not None:
            (loop, task, hooks), self._kept = self._kept, None
            asyncio._set_running_loop(loop)
            if task is not None:
                tasks._enter_task(loop, task)
            sys.set_asyncgen_hooks(*hooks)

    def switch(self, *args: Any) -> Any:
        self.switch_in()
        return super().switch(*args)

    def throw(self, *args: Any) -> Any:
        self.switch_in()
        return super().throw(*args)


class HubSelector(_Selector):  # type: ignore[misc]
    """A selector whose select() leaves the thread to the hub."""

    def __init__(self) -> None:
        super().__init__()
        self._hub: Any = None  # of the thread that runs the loop, while one does
        self._watcher: Any = None
        self._watches = False
        self._parked: Runner | None = None  # in select()
        self._due = False  # it is about to be resumed
        self._entered = False  # so it was: to run what is ready, and not to look at descriptors
        self._back: Any = None  # the greenlet that has switched here, and is switched back to
        self._turn_ends = 0.0
        _selectors.add(self)

    def attach(self) -> None:
        self._hub = get_hub()
        self._watcher = self._hub.loop.io(self.fileno(), READ)

    def detach(self) -> None:
        watcher, self._watcher, self._hub = self._watcher, None, None
        self._watches = self._due = False
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def abandon(self) -> None:
        """In a child, which shares the kernel's set with its parent: the loop cannot go on, only be closed."""
        self._parked = self._back = None
        self.detach()
        self._selector.close()
        self._selector: Any = _Selector()._selector

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._park(timeout)
        elif perf_counter() > self._turn_ends:
            self._park(0.0)  # more is to be done, but not before others have had their turn
        if self._entered:
            self._entered = False
            return []
        return super().select(0)  # type: ignore[no-any-return]

    def _park(self, timeout: float | None) -> None:
        if self._hub is None:
            raise RuntimeError("this loop is the parent's: a forked child needs its own")
        timer = None
        if timeout is not None:
            timer = self._hub.loop.timer(min(timeout, LONGEST_WAIT))
            timer.start(self._resume)
        if not self._watches:
            self._watches = True
            self._watcher.start(self._readable)
        runner = self._parked = getcurrent()
        back, self._back = self._back, None
        try:
            if back is None:
                self._hub.switch()
            else:
                runner.switch_out()
                back.switch()
        finally:
            self._parked = None
            self._turn_ends = perf_counter() + TURN_SECONDS
            if timer is not None:
                timer.stop()
                timer.close()

    def _readable(self) -> None:
        if self._parked is not None:
            self._parked.switch()
        else:  # a callback blocks: the hub need not look again and again meanwhile
            self._watcher.stop()
            self._watches = False

    def _resume(self) -> None:
        self._due = False
        if self._parked is not None:
            self._parked.switch()

    def wake(self) -> None:
        """End a select() of this thread, in the hub's next turn."""
        if self._parked is not None and not self._due:
            self._due = True
            self._hub.loop.run_callback(self._resume)

    def enter(self) -> None:
        """End it at once, and come back when there is another, or somebody blocks."""
        current = getcurrent()
        if self._parked is None or current is self._hub:
            self.wake()
            return
        self._back = current
        self._entered = True
        try:
            self._parked.switch()
        finally:
            if self._back is current:
                self._back = None


_selectors: WeakSet[HubSelector] = WeakSet()


class GeventLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on this thread's hub. Whatever waits in it leaves the thread to greenlets; it may be called from
    any greenlet of the thread. Not to be shared with a forked child.
    """

    def __init__(self) -> None:
        self._hub_selector = HubSelector()
        self._native_thread = 0  # that runs it, or has last
        super().__init__(self._hub_selector)

    def run_forever(self) -> None:
        """As asyncio's. What is thrown into the calling greenlet meanwhile, as a gevent.Timeout, is thrown into what
        runs in the loop, ends the loop, and is raised here."""
        self._check_closed()  # type: ignore[attr-defined]
        self._check_running()  # type: ignore[attr-defined]
        hub = get_hub()
        if getcurrent() is hub:
            raise BlockingSwitchOutError("a loop was to be run in the hub, where nobody may wait")
        runner = Runner(self._run)
        hub.loop.run_callback(runner.switch)
        thrown: BaseException | None = None
        while not runner.ended.is_set():
            try:
                runner.ended.wait()
            except BaseException as error:
                thrown = error
                hub.loop.run_callback(self._interrupt, runner, error)
        thrown, runner.error = runner.error or thrown, None
        if thrown is not None:
            try:
                raise thrown
            finally:
                del thrown  # no cycle

    def _interrupt(self, runner: Runner, error: BaseException) -> None:
        """Called in the hub."""
        if not runner.ended.is_set():
            self.stop()  # for a coroutine may catch it
            runner.throw(error)

    def _run(self) -> None:
        """In a Runner."""
        self._check_running()  # type: ignore[attr-defined]
        self._native_thread = _native_ident()
        self._hub_selector.attach()
        try:
            super().run_forever()
        finally:
            self._hub_selector.detach()

    def start(self) -> None:
        """Run for as long as the hub does, in the background."""
        get_hub().loop.run_callback(Runner(self._serve).switch)

    def _serve(self) -> None:
        while not self.is_closed():
            try:
                self._run()
            except GreenletExit:
                return
            except BaseException as error:
                # A task has let SystemExit through; or a gevent.Timeout that was started in a coroutine, and was to
                # strike a greenlet, has found the loop: the others' tasks go on.
                self.call_exception_handler({"message": "an exception in the loop, not in a task", "exception": error})
                gevent.sleep(0)  # whatever it is, the hub does not stand still

    def enter(self) -> None:
        """Run what is ready now, as far as it goes without waiting, instead of in the hub's next turn."""
        self._hub_selector.enter()

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]
        handle = super().call_soon(*args, **kwargs)
        if handle._source_traceback:  # type: ignore[attr-defined]
            del handle._source_traceback[-1]  # type: ignore[attr-defined]  # in debug mode: this frame
        self._hub_selector.wake()
        return handle

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = super().call_at(*args, **kwargs)
        if handle._source_traceback:  # type: ignore[attr-defined]
            del handle._source_traceback[-1]  # type: ignore[attr-defined]
        self._hub_selector.wake()
        return handle

    def _write_to_self(self) -> None:
        if _native_ident() == self._native_thread:
            self._hub_selector.wake()
        else:
            super()._write_to_self()  # type: ignore[misc]

    def _check_thread(self) -> None:
        """In debug mode. To gevent's threading each greenlet is a thread; to us they are one."""
        if self.is_running() and _native_ident() != self._native_thread:
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")


class GeventLoopPolicy(_Policy):  # type: ignore[misc]
    """Makes asyncio.run() and new_event_loop() take GeventLoop."""

    _loop_factory = GeventLoop


_background: dict[Any, GeventLoop] = {}  # by hub


def background() -> GeventLoop:
    """This thread's loop, which runs for as long as its hub: for what outlives a request, as a pool of connections."""
    hub = get_hub()
    loop = _background.get(hub)
    if loop is None or loop.is_closed():
        for other in list(_background):
            if other.dead:  # its thread has ended
                del _background[other]
        loop = _background[hub] = GeventLoop()
        loop.start()
    return loop


def _forked() -> None:
    """In a child."""
    for selector in list(_selectors):
        selector.abandon()
    _background.clear()


os.register_at_fork(after_in_child=_forked)


def run_async(awaitable: Awaitable[Result]) -> Result:
    """Run *awaitable* in this thread's loop; block this greenlet, and no other, until it has a result.

    What is thrown in here meanwhile cancels it; what it does then is not waited for. Raises RuntimeError inside a
    coroutine: await it there.
    """
    if asyncio._get_running_loop() is not None:
        if isinstance(awaitable, Coroutine):
            awaitable.close()
        raise RuntimeError("run_async() was called in a coroutine, whose loop it would block: await there")
    loop = background()
    task = asyncio.ensure_future(awaitable, loop=loop)
    try:
        loop.enter()
        if not task.done():
            done = Event()
            task.add_done_callback(lambda _: done.set())
            done.wait()
    except BaseException:
        task.cancel()
        raise
    return task.result()


async def run_blocking(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call *function* in a greenlet, where it may block, and await its result. Cancelled, it kills the greenlet."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    context = copy_context()

    def call() -> None:
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as error:
            if not future.done():
                future.set_exception(_raisable(error))
        else:
            if not future.done():
                future.set_result(result)

    worker = gevent.spawn(call)
    try:
        return await future
    finally:
        worker.kill(block=False)


def _raisable(error: BaseException) -> BaseException:
    """A future takes no StopIteration."""
    if isinstance(error, StopIteration):
        return RuntimeError(f"{error!r} was raised")
    return error


def install() -> None:
    """Have asyncio.run() and new loops be gevent's, in all greenlets of this process."""
    _set_policy(GeventLoopPolicy())
