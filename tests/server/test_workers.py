"""Recycled greenlets: jobs are handed over, nothing of one is left to the next, a killed one is not used again."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.local import local

from geventgate.server import workers as module
from geventgate.server.workers import MAX_IDLE, Turns, Worker, Workers


@pytest.fixture
def workers(faults: list[Any]) -> Any:
    workers = Workers()
    yield workers
    workers.stop()
    gevent.sleep(0)
    assert not workers._idle
    assert faults == []


def test_a_worker_is_used_again(workers: Workers) -> None:
    ran = []

    def job() -> None:
        ran.append(gevent.getcurrent())

    first = workers.run(job)
    assert ran == [], "a job begins in the hub's next turn"
    gevent.sleep(0)
    assert workers.run(job) is first
    gevent.sleep(0)
    assert ran == [first, first]


def test_a_job_that_waits_holds_up_nobody(workers: Workers) -> None:
    go, ran = Event(), []
    slow = workers.run(go.wait)
    for number in range(3):
        assert workers.run(lambda number=number: ran.append(number)) is not slow
        gevent.sleep(0)
    assert ran == [0, 1, 2]
    go.set()
    gevent.sleep(0)


def test_a_job_may_begin_another(workers: Workers) -> None:
    ended = Event()
    workers.run(lambda: workers.run(ended.set))
    assert ended.wait(5)


def test_locals_are_forgotten_when_the_job_ends(workers: Workers) -> None:
    mine = local()
    seen = []

    class Value:
        def __del__(self) -> None:
            seen.append("deleted")

    def job() -> None:
        seen.append(getattr(mine, "value", None))
        mine.value = Value()

    first = workers.run(job)
    gevent.sleep(0)
    assert seen == [None, "deleted"]
    assert workers.run(job) is first
    gevent.sleep(0)
    assert seen == [None, "deleted"] * 2


def test_links_are_told_of_the_jobs_end(workers: Workers) -> None:
    told: list[Any] = []
    worker = workers.run(lambda: gevent.getcurrent().rawlink(told.append))
    gevent.sleep(0)
    assert told == [worker]
    workers.run(lambda: None)
    gevent.sleep(0)
    assert told == [worker]


def test_a_killed_worker_is_not_used_again(workers: Workers) -> None:
    begun = Event()

    def job() -> None:
        begun.set()
        gevent.sleep(5)

    killed = workers.run(job)
    assert begun.wait(5)
    killed.kill()
    assert killed.dead
    assert workers.run(lambda: None) is not killed
    gevent.sleep(0)


def test_a_worker_killed_while_it_idles_is_not_used_again(workers: Workers) -> None:
    idle = workers.run(lambda: None)
    gevent.sleep(0)
    assert workers._idle == [idle]
    idle.kill()
    assert workers._idle == []
    ended = Event()
    workers.run(ended.set)
    assert ended.wait(5)


def test_a_worker_left_by_an_exception_is_not_used_again(workers: Workers, faults: list[Any]) -> None:
    def job() -> None:
        raise ValueError("on purpose")

    left = workers.run(job)
    left.join(5)
    assert [error[1] for error in faults] == [ValueError]
    faults.clear()
    assert workers.run(lambda: None) is not left
    gevent.sleep(0)


def test_not_more_than_so_many_idle(workers: Workers) -> None:
    ran: list[int] = []
    for number in range(MAX_IDLE + 10):
        workers.run(lambda number=number: ran.append(number))
    with gevent.Timeout(5):
        while len(ran) < MAX_IDLE + 10:
            gevent.sleep(0.01)
    assert len(workers._idle) == MAX_IDLE


def test_stop_ends_the_idle(workers: Workers) -> None:
    worker: Worker = workers.run(lambda: None)
    gevent.sleep(0)
    workers.stop()
    worker.join(5)
    assert worker.successful()


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["others first", "in one go"])
def test_turns_leave_no_item_behind(workers: Workers, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """However items that wait, and those that do not, end while another worker lets the hub look at its sockets."""
    monkeypatch.setattr(module, "TURN_SECONDS", seconds)
    served: list[int] = []

    def serve(item: int) -> None:
        for _ in range(item % 7):
            gevent.sleep(0)
        served.append(item)

    turns = Calls(workers, serve)
    for item in range(500):
        turns.add(item)
    with gevent.Timeout(10, False):
        while len(served) < 500:
            gevent.sleep(0.01)
    assert sorted(served) == list(range(500))


def test_turns_are_taken_in_order_by_one_greenlet_while_none_waits(workers: Workers) -> None:
    served: list[Any] = []
    turns = Calls(workers, lambda item: served.append((item, gevent.getcurrent())))
    for item in range(50):
        turns.add(item)
    assert served == [], "a turn begins in the hub's next turn"
    gevent.sleep(0.01)
    assert [item for item, _ in served] == list(range(50))
    assert len({greenlet for _, greenlet in served}) == 1


class Calls(Turns):
    def __init__(self, workers: Workers, serve: Callable[[Any], None]) -> None:
        super().__init__(workers)
        self._call = serve

    def serve(self, item: Any) -> None:
        self._call(item)


def test_a_turn_that_waits_holds_up_nobody(workers: Workers, until: Callable[..., None]) -> None:
    go, served = Event(), []

    def serve(item: int) -> None:
        if item % 3 == 0:
            go.wait()
        served.append(item)

    turns = Calls(workers, serve)
    for item in range(30):
        turns.add(item)
    until(lambda: sorted(served) == [item for item in range(30) if item % 3])
    go.set()
    until(lambda: sorted(served) == list(range(30)))


def test_a_turn_may_be_given_up(workers: Workers, until: Callable[..., None]) -> None:
    served: list[int] = []
    turns = Calls(workers, served.append)
    for item in range(3):
        turns.add(item)
    turns.discard(1)
    turns.discard(3)
    until(lambda: served == [0, 2])
    turns.discard(0)
    assert served == [0, 2]


def test_a_turn_may_add_another(workers: Workers) -> None:
    served: list[int] = []

    def serve(item: int) -> None:
        served.append(item)
        if item:
            turns.add(item - 1)

    turns = Calls(workers, serve)
    turns.add(3)
    gevent.sleep(0.01)
    assert served == [3, 2, 1, 0]


def test_locals_are_forgotten_when_the_turn_ends(workers: Workers) -> None:
    mine = local()
    seen: list[Any] = []

    def serve(item: int) -> None:
        seen.append((getattr(mine, "value", None), gevent.getcurrent()))
        mine.value = item

    turns = Calls(workers, serve)
    for item in range(20):
        turns.add(item)
    gevent.sleep(0.01)
    assert [value for value, _ in seen] == [None] * 20
    assert len({greenlet for _, greenlet in seen}) == 1


@pytest.mark.parametrize("error", [ValueError, gevent.GreenletExit])
def test_a_turn_that_kills_its_greenlet_takes_nobody_along(
    workers: Workers, faults: list[Any], error: type[BaseException]
) -> None:
    served: list[int] = []

    def serve(item: int) -> None:
        if item % 4 == 1:
            raise error
        served.append(item)

    turns = Calls(workers, serve)
    for item in range(20):
        turns.add(item)
    gevent.sleep(0.02)
    assert served == [item for item in range(20) if item % 4 != 1]
    assert [fault[1] for fault in faults] == ([error] * 5 if error is ValueError else [])
    faults.clear()


def test_others_have_their_turn_between_many(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub looks at sockets and timers while one connection has any number of turns to take."""
    monkeypatch.setattr(module, "TURN_SECONDS", 0.001)
    served: list[int] = []

    def serve(item: int) -> None:
        until = perf_counter() + 0.002
        while perf_counter() < until:
            pass
        served.append(item)

    turns = Calls(workers, serve)
    for item in range(100):
        turns.add(item)
    for _ in range(5):
        gevent.sleep(0.001)
    assert 0 < len(served) < 50
    with gevent.Timeout(10):
        while len(served) < 100:
            gevent.sleep(0.01)
    assert served == list(range(100))
