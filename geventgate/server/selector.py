"""Tells readers of their bytes: one set of descriptors for all of a hub. A leaf.

gevent has a watcher for each descriptor, a few hundred bytes, and goes through several layers whenever one is ready.
The kernel's own set, epoll(7), needs one watcher for all, and says only what is new ("edges").
"""

import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import monkey

from geventgate import native

MOST_EVENTS = 256  # taken at a time; what is left comes in the hub's next turn
READ = 1  # an event of libev's
HAS_EPOLL = hasattr(select, "EPOLLET")
if HAS_EPOLL:
    epoll: Any = monkey.get_original("select", "epoll")  # patched, the module has none
    IN: int = select.EPOLLIN
    EDGES: int = IN | select.EPOLLRDHUP | select.EPOLLET


class Reader:
    """Who may wait for bytes, in a greenlet or without one."""

    __slots__ = ("_ending", "_listens", "reading")

    def __init__(self) -> None:
        self.reading: Any = None  # the greenlet that waits, if one does
        self._listens = False  # readable() will be called when more comes than has been received
        self._ending = False  # the end has come behind the bytes, and will not be told again

    def readable(self) -> None:
        """Bytes have come, or the end. Called in the hub."""
        raise NotImplementedError


class Selector:
    """Of one hub, and by one epoll."""

    __slots__ = ("_count", "_epoll", "_hub", "_readers", "_watcher")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._readers: list[Reader | None] = []  # by their descriptors
        self._count = 0
        self._open()

    def _open(self) -> None:
        self._epoll = epoll()
        self._watcher = self._hub.loop.io(self._epoll.fileno(), READ)

    def listen(self, reader: Reader, fd: int) -> None:
        """Call readable() of *reader* if there are bytes at *fd*, or the end, and whenever more comes."""
        readers = self._readers
        if fd >= len(readers):
            readers.extend([None] * (fd + 1 - len(readers)))
        reader._listens = True
        if readers[fd] is reader:
            self._epoll.modify(fd, EDGES)  # which looks again
            return
        self._epoll.register(fd, EDGES)
        readers[fd] = reader
        self._count += 1
        if self._count == 1:
            self._watcher.start(self._select)  # while it runs, the hub has something to wait for

    def forget(self, reader: Reader, fd: int, closes: bool) -> None:
        """Before *fd* is somebody else's; or *closes*, and then leaves the kernel's set by itself. Where a child has it
        open too, whoever comes to have its number may be told of nothing, which does no harm."""
        if 0 <= fd < len(self._readers) and self._readers[fd] is reader:
            self._readers[fd] = None
            if not closes:
                self._epoll.unregister(fd)
            self._count -= 1
            if not self._count:
                self._watcher.stop()

    def _select(self) -> None:
        """Called in the hub."""
        tell(self._epoll, self._readers, self._failed)

    def _failed(self, reader: Reader) -> None:
        self._hub.handle_error(reader, *sys.exc_info())

    def forked(self) -> None:
        """In a child, which shares the kernel's set with its parent, it is made anew."""
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()
        self._open()
        for fd, reader in enumerate(self._readers):
            if reader is not None:
                with suppress(OSError):
                    self._epoll.register(fd, EDGES)
        if self._count:
            self._watcher.start(self._select)


def tell(epoll: Any, readers: list[Reader | None], failed: Callable[[Reader], None]) -> None:
    """Call readable() of those of *readers* for whom *epoll* has something new; *failed* where it raises, so that the
    others are told too: nobody tells them again."""
    for fd, events in epoll.poll(0, MOST_EVENTS):
        reader = readers[fd]
        if reader is not None:
            if events != IN:
                reader._ending = True
            try:
                reader.readable()
            except BaseException:
                failed(reader)


class Watchers:
    """The same where there is no epoll: a watcher of gevent's for each, asked again each time."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._watchers: dict[int, Any] = {}

    def listen(self, reader: Reader, fd: int) -> None:
        watcher = self._watchers.get(fd)
        if watcher is None:
            watcher = self._watchers[fd] = self._hub.loop.io(fd, READ)
        reader._listens = True
        watcher.start(self._tell, reader, watcher)

    def _tell(self, reader: Reader, watcher: Any) -> None:
        watcher.stop()
        reader._listens = False
        reader.readable()

    def forget(self, reader: Reader, fd: int, closes: bool) -> None:
        watcher = self._watchers.pop(fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def forked(self) -> None:
        """libev sees to it."""


def make_selector(hub: Any) -> Selector | Watchers:
    """A new one for *hub*."""
    return Selector(hub) if HAS_EPOLL else Watchers(hub)


tell = native.twin(tell, "geventgate.server._selector")
