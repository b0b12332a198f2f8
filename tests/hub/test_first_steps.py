"""First steps that are taken together: who is told what, and that others have their turns."""

import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import gevent
import pytest

from esource.errors import StorageError
from esource.hub.first_steps import TOLD, FirstSteps
from esource.hub.loop import give_way
from esource.hub.work import (
    FIRST_SECONDS,
    LOOK_SECONDS,
    MOST_PASSED,
    PASSED,
    ClientLeft,
    Urgent,
    Work,
    look_seconds,
)


class Firsts(FirstSteps[object]):
    """First steps that take no time, or some seconds twice; notes how many were done together."""

    def __init__(self) -> None:
        super().__init__(self.begin)
        self.batches: list[int] = []
        self.fails = False
        self.seconds = 0.0

    def begin(self, some: Sequence[object]) -> Iterator[Sequence[object]]:
        self.batches.append(len(some))
        if self.fails:
            raise StorageError("cannot begin")
        time.sleep(self.seconds)
        for each in some:
            yield []
            yield [each]
        time.sleep(self.seconds)

    def take_many(self, count: int) -> list[gevent.Greenlet]:
        return [gevent.spawn(Work().begin, partial(self.take, object())) for _ in range(count)]


def test_first_steps_that_wait_are_done_together() -> None:
    firsts = Firsts()
    other = gevent.spawn(Work().do, time.sleep, 0.1)
    gevent.sleep(0.01)
    crowd = firsts.take_many(100)
    gevent.sleep(0.01)
    assert look_seconds() > 5 * LOOK_SECONDS
    crowd += firsts.take_many(100)
    gevent.joinall([other, *crowd], 10, raise_error=True)
    assert firsts.batches == [100, 100]
    Work().begin(partial(firsts.take, object()))
    assert firsts.batches == [100, 100, 1]
    assert look_seconds() == LOOK_SECONDS


def test_others_have_turns_while_a_crowd_is_told() -> None:
    crowd, told = Firsts().take_many(10 * TOLD), [0]
    while told[-1] < len(crowd):
        give_way()
        told.append(sum(each.ready() for each in crowd))
    assert max(after - before for before, after in pairwise(told)) <= 2 * TOLD


def test_a_first_step_that_was_done_with_others_counts_as_the_works_own() -> None:
    work, seconds = Work(), []
    work.begin(partial(Firsts().take, object()))
    work.step(lambda deadline: seconds.append(deadline - time.monotonic()))
    assert seconds[0] > FIRST_SECONDS


def test_each_is_told_why_a_first_step_has_failed_and_the_next_is_tried() -> None:
    firsts = Firsts()
    firsts.fails = True
    crowd = firsts.take_many(3)
    gevent.joinall(crowd, 10)
    assert {str(each.exception) for each in crowd} == {"cannot begin"}
    assert len({id(each.exception) for each in crowd}) == 3
    firsts.fails = False
    Work().begin(partial(firsts.take, object()))


def test_one_that_waits_for_its_first_step_ends_with_its_client_and_others_do_not() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    firsts = Firsts()
    other = gevent.spawn(Work().do, time.sleep, 1.0)
    gevent.sleep(0.01)
    crowd = firsts.take_many(3)
    started = time.monotonic()
    with ours, pytest.raises(ClientLeft):
        Work(ours).begin(partial(firsts.take, object()))
    assert time.monotonic() - started < 0.9
    crowd[0].kill()  # as a stop does
    gevent.joinall([other, *crowd], 10, raise_error=True)
    assert look_seconds() == LOOK_SECONDS


def test_long_works_go_on_however_many_first_steps_are_done_together() -> None:
    """A turn that serves many is as so many turns to those that let others pass."""
    done: list[None] = []

    def be_long() -> None:
        work = Work()
        while True:
            done.append(work.step(lambda deadline: time.sleep(0.001)))

    long_work = gevent.spawn(be_long)
    try:
        with gevent.Timeout(10):
            while len(done) < MOST_PASSED // PASSED + 1:
                gevent.sleep(0.001)
        streams = [Firsts(), Firsts()]
        for each in streams:
            each.seconds = 0.02  # so that one always waits
        crowds = [each.take_many(PASSED) for each in streams]
        before = len(done)
        for _ in range(20):
            for number, firsts in enumerate(streams):
                gevent.joinall(crowds[number], 10, raise_error=True)
                crowds[number] = firsts.take_many(PASSED)
        assert len(done) - before >= 4  # of five or six
        gevent.joinall([each for crowd in crowds for each in crowd], 10, raise_error=True)
    finally:
        long_work.kill()


def test_urgent_work_waits_for_no_turn() -> None:
    other = gevent.spawn(Work().do, time.sleep, 0.5)
    gevent.sleep(0.01)
    started, urgent = time.monotonic(), Urgent()
    urgent.begin(partial(Firsts().take, object()))
    assert urgent.step(lambda deadline: "found") == "found"
    assert time.monotonic() - started < 0.4
    other.join()
