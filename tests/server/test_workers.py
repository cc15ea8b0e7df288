"""Recycled greenlets: jobs are handed over, nothing of one is left to the next, a killed one is not used again."""

from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.local import local

from geventgate.server.workers import MAX_IDLE, Worker, Workers


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
    for _ in range(MAX_IDLE + 10):
        workers.run(lambda: None)
    gevent.sleep(0.01)
    assert len(workers._idle) == MAX_IDLE


def test_stop_ends_the_idle(workers: Workers) -> None:
    worker: Worker = workers.run(lambda: None)
    gevent.sleep(0)
    workers.stop()
    worker.join(5)
    assert worker.successful()
