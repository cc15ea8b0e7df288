"""Switching greenlets: who comes to wait for bytes goes on straight to another whose bytes have come. A leaf.

By way of the hub it would be two switches for each that is woken; and gevent's own are methods of Python, which cost
half as much again as the switch itself.
"""

import os
from typing import Any

from gevent import getcurrent

from geventgate import native
from geventgate.server.selector import Reader, make_selector


class Ready:
    """The readers of one hub whose bytes have come, and who have yet to go on."""

    __slots__ = ("_due", "_hub", "_readers", "selector")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self.selector = make_selector(hub)
        self._readers: list[Reader] = []
        self._due = False

    def add(self, reader: Reader) -> None:
        """Have *reader* go on, unless it does so otherwise before. Called in the hub."""
        self._readers.append(reader)
        if not self._due:
            self._due = True
            self._hub.loop.run_callback(self._run)

    def wait(self, reader: Reader) -> None:
        """Wait until somebody switches here: after add(), or to throw something in."""
        current = getcurrent()
        switch_out = getattr(current, "switch_out", None)
        if switch_out is not None:
            switch_out()  # the hub's says that nobody may wait there; asyncio's greenlet takes its loop away
        reader.reading = current
        try:
            switch_to(self._next())
        finally:
            reader.reading = None
            if switch_out is not None:
                current.switch_in()

    def _next(self) -> Any:
        """The greenlet to go on with."""
        while self._readers:
            reader = self._readers.pop()
            if reader.reading is not None:
                return reader.reading
        return self._hub

    def _run(self) -> None:
        """Called in the hub, which comes back when there is no next, or one waits elsewhere."""
        self._due = False
        while (greenlet := self._next()) is not self._hub:
            switch_to(greenlet)


_all: dict[Any, Ready] = {}


def ready_of(hub: Any) -> Ready:
    ready = _all.get(hub)
    if ready is None:
        for other in [other for other in _all if other.dead]:
            del _all[other]
        ready = _all[hub] = Ready(hub)
    return ready


def _renew_selectors() -> None:
    for ready in _all.values():
        ready.selector.forked()


os.register_at_fork(after_in_child=_renew_selectors)


def switch_to(greenlet: Any) -> None:
    """Go on in *greenlet*, until somebody switches back here."""
    greenlet.switch()


switch_to = native.twin(switch_to, "geventgate.server._switching")
