"""Readers are told of what is new: once, all of them, and whatever becomes of the others."""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import get_hub

from geventgate import native
from geventgate.server import selector as module
from geventgate.server.selector import MOST_EVENTS, Reader, Selector, Watchers
from geventgate.server.switching import ready_of

Pair = tuple[socket.socket, socket.socket]


class Told(Reader):
    """Counts how often it was told."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        Reader.__init__(self)
        self.times = 0
        self._then = then

    def readable(self) -> None:
        self.times += 1
        self._then()


@pytest.fixture(params=["reference", "twin"] if native.COMPILED else ["reference"])
def selector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Selector:
    if request.param == "reference":
        monkeypatch.setattr(module, "tell", native.references.get("tell", module.tell))
    return Selector(get_hub())


@pytest.fixture(params=[Selector, Watchers])
def either(request: pytest.FixtureRequest) -> Any:
    return request.param(get_hub())


@pytest.fixture
def pairs() -> Iterator[Callable[[int], list[Pair]]]:
    made: list[Pair] = []

    def make(count: int) -> list[Pair]:
        made.extend(socket.socketpair() for _ in range(count))
        return made[-count:]

    yield make
    for pair in made:
        for end in pair:
            end.close()


def test_what_is_new_is_told_once(selector: Selector, pairs: Any) -> None:
    ((ours, theirs),) = pairs(1)
    reader = Told()
    selector.listen(reader, ours.fileno())
    gevent.sleep(0.01)
    assert reader.times == 0
    for times in (1, 2):
        theirs.send(b"a")
        gevent.sleep(0.01)
        assert reader.times == times
    selector.listen(reader, ours.fileno())
    gevent.sleep(0.01)
    assert reader.times == 3, "asked again, it looks again"
    selector.forget(reader, ours.fileno(), closes=False)


def test_bytes_that_were_there_before_are_told(either: Any, pairs: Any) -> None:
    ((ours, theirs),) = pairs(1)
    theirs.send(b"a")
    reader = Told()
    either.listen(reader, ours.fileno())
    gevent.sleep(0.01)
    assert reader.times == 1
    either.forget(reader, ours.fileno(), closes=False)


def test_who_is_forgotten_is_told_nothing(either: Any, pairs: Any) -> None:
    ((ours, theirs),) = pairs(1)
    reader = Told()
    either.forget(reader, ours.fileno(), closes=False)  # it never listened
    either.forget(reader, -1, closes=True)
    either.listen(reader, ours.fileno())
    either.forget(reader, ours.fileno(), closes=False)
    theirs.send(b"a")
    gevent.sleep(0.01)
    assert reader.times == 0


def test_the_number_of_one_that_was_closed_is_another_s(either: Any, pairs: Any) -> None:
    for _ in range(2):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reader = Told()
            either.listen(reader, ours.fileno())
            theirs.send(b"a")
            gevent.sleep(0.01)
            assert reader.times == 1
            either.forget(reader, ours.fileno(), closes=True)


def test_the_end_behind_the_bytes_is_told(selector: Selector, pairs: Any) -> None:
    ((ours, theirs),) = pairs(1)
    reader = Told()
    theirs.send(b"a")
    selector.listen(reader, ours.fileno())
    gevent.sleep(0.01)
    assert not reader._ending
    theirs.shutdown(socket.SHUT_WR)
    gevent.sleep(0.01)
    assert reader._ending
    selector.forget(reader, ours.fileno(), closes=False)


def test_more_than_are_taken_at_a_time(selector: Selector, pairs: Any) -> None:
    readers = {ours.fileno(): Told() for ours, theirs in pairs(MOST_EVENTS + 10) if theirs.send(b"a")}
    for fd, reader in readers.items():
        selector.listen(reader, fd)
    gevent.sleep(0.02)
    assert {reader.times for reader in readers.values()} == {1}
    for fd, reader in readers.items():
        selector.forget(reader, fd, closes=False)


def test_one_that_fails_leaves_the_others_told(selector: Selector, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[Any] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda *error: faults.append(error[2]))
    readers = [Told(lambda: 1 / 0), Told()]  # in either order
    for reader, (ours, theirs) in zip([*readers, readers[0]], pairs(3), strict=True):
        theirs.send(b"a")
        selector.listen(reader, ours.fileno())
    gevent.sleep(0.01)
    assert [reader.times for reader in readers] == [2, 1]
    assert list(map(type, faults)) == [ZeroDivisionError] * 2


def test_who_was_forgotten_in_the_midst_is_not_told(selector: Selector, pairs: Any) -> None:
    ends = [ours for ours, theirs in pairs(2) if theirs.send(b"a")]
    readers: list[Told] = []

    def forget_both() -> None:
        for reader, end in zip(readers, ends, strict=True):
            selector.forget(reader, end.fileno(), closes=False)

    readers += [Told(forget_both), Told(forget_both)]
    for reader, end in zip(readers, ends, strict=True):
        selector.listen(reader, end.fileno())
    gevent.sleep(0.01)
    assert sum(reader.times for reader in readers) == 1


def test_who_listens_keeps_the_hub_alive_and_nobody_else_does(pairs: Any) -> None:
    ((ours, _),) = pairs(1)

    def wait_for_all() -> list[object]:
        """In a hub of its own."""
        hub = get_hub()
        selector, reader = Selector(hub), Told()
        ended: list[object] = [hub.join(timeout=1)]
        selector.listen(reader, ours.fileno())
        ended.append(hub.join(timeout=0.05))
        selector.forget(reader, ours.fileno(), closes=False)
        ended.append(hub.join(timeout=1))
        return ended

    assert get_hub().threadpool.apply(wait_for_all) == [True, False, True]


def test_a_child_hears_for_itself_and_takes_nothing_from_its_parent(pairs: Any) -> None:
    """The kernel's set is shared by a fork: an edge that the child has seen would be lost to the parent."""
    ((ours, theirs),) = pairs(1)
    selector, reader = ready_of(get_hub()).selector, Told()
    selector.listen(reader, ours.fileno())
    child = gevent.fork()
    if child == 0:
        with gevent.Timeout(5, False):
            while not reader.times:
                gevent.sleep(0.01)
        os._exit(reader.times)
    theirs.send(b"a")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    gevent.sleep(0.01)
    assert reader.times == 1
    selector.forget(reader, ours.fileno(), closes=False)
