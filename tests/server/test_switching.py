"""Who is woken by whom, and in how many switches."""

import gevent
import greenlet
import pytest
from gevent import get_hub, getcurrent
from gevent.exceptions import BlockingSwitchOutError

from geventgate.server.selector import Reader
from geventgate.server.switching import Ready, ready_of, switch_to


class Log(list[str]):
    """What happened, in order."""


def waiting(ready: Ready, log: Log, name: str, times: int = 1) -> tuple[Reader, gevent.Greenlet]:
    """A greenlet that waits *times* as its own reader."""
    reader = Reader()

    def run() -> None:
        for _ in range(times):
            ready.wait(reader)
            log.append(name)

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    assert reader.reading is greenlet
    return reader, greenlet


def test_one_hub_has_one() -> None:
    assert ready_of(get_hub()) is ready_of(get_hub())


def test_those_of_a_hub_that_has_ended_are_forgotten() -> None:
    theirs = gevent.get_hub().threadpool.apply(lambda: ready_of(get_hub()))
    assert theirs is not ready_of(get_hub())


def test_each_goes_on_once() -> None:
    ready, log = ready_of(get_hub()), Log()
    readers = [waiting(ready, log, name) for name in "abc"]
    for reader, _ in readers:
        get_hub().loop.run_callback(ready.add, reader)
    gevent.joinall([greenlet for _, greenlet in readers], timeout=1)
    assert sorted(log) == ["a", "b", "c"]


def test_who_waits_again_goes_on_to_the_next_without_the_hub() -> None:
    ready, log = ready_of(get_hub()), Log()
    readers = [waiting(ready, log, name, 2) for name in "ab"]
    switches: list[object] = []

    def wake() -> None:
        for reader, _ in readers:
            ready.add(reader)

    get_hub().loop.run_callback(wake)
    before = greenlet.settrace(lambda event, args: switches.append(args))
    gevent.sleep(0.01)
    greenlet.settrace(before)
    ours = [one for _, one in readers]
    assert sorted(log) == ["a", "b"]
    assert (ours[1], ours[0]) in switches or (ours[0], ours[1]) in switches
    gevent.killall(ours)


def test_who_went_on_otherwise_is_passed_over() -> None:
    ready, log = ready_of(get_hub()), Log()
    gone, killed = waiting(ready, log, "gone")
    reader, greenlet = waiting(ready, log, "here")

    def wake() -> None:
        ready.add(gone)
        ready.add(reader)
        killed.throw(gevent.GreenletExit)

    get_hub().loop.run_callback(wake)
    greenlet.join(1)
    assert log == ["here"]


def test_others_go_on_while_one_waits_elsewhere() -> None:
    ready, log = ready_of(get_hub()), Log()

    def sleeps(reader: Reader, name: str) -> None:
        ready.wait(reader)
        gevent.sleep(0.01)
        log.append(name)

    readers = [Reader(), Reader()]
    greenlets = [gevent.spawn(sleeps, reader, "sleeper") for reader in readers]
    gevent.sleep(0)
    last, greenlet = waiting(ready, log, "last")
    for reader in (*readers, last):
        get_hub().loop.run_callback(ready.add, reader)
    gevent.joinall([*greenlets, greenlet], timeout=1)
    assert log == ["last", "sleeper", "sleeper"]


def test_what_is_thrown_in_is_raised() -> None:
    ready, log = ready_of(get_hub()), Log()
    reader, greenlet = waiting(ready, log, "never")
    get_hub().loop.run_callback(greenlet.throw, ValueError("thrown"))
    with pytest.raises(ValueError, match="thrown"):
        greenlet.get(timeout=1)
    assert (reader.reading, log) == (None, [])


def test_nobody_waits_in_the_hub() -> None:
    ready, raised = ready_of(get_hub()), Log()

    def wait() -> None:
        with pytest.raises(BlockingSwitchOutError):
            ready.wait(Reader())
        raised.append("raised")

    get_hub().loop.run_callback(wait)
    gevent.sleep(0.01)
    assert raised == ["raised"]


def test_only_greenlets_are_switched_to() -> None:
    assert getcurrent()
    with pytest.raises((AttributeError, TypeError)):
        switch_to(1)
