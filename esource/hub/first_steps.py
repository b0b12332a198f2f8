"""The first steps of works, taken together: a crowd of short works needs few turns of the loop.

    works ──► waiting ──► all that wait, in one turn of the thread or a few ──► each is told
                 ▲
                 └── those that come meanwhile are the next

Each alone would be a turn and two switches of threads, which take longer than most first steps.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import gevent
from gevent.event import AsyncResult

from esource.errors import again
from esource.hub.loop import give_way
from esource.hub.work import Joint, look_seconds

S = TypeVar("S")  # what a work is about
TOLD = 16  # before others have a turn: each that is told goes on at once, mostly to send


class FirstSteps(Generic[S]):
    """Where works wait for their first steps."""

    def __init__(self, begin: Callable[[Sequence[S]], Iterator[Sequence[S]]]) -> None:
        """Have `begin` called in the thread, with what the works that wait are about.

        It does something for each, in short steps, and yields those whose first step is done.
        """
        self._begin = begin
        self._waiting: dict[S, AsyncResult] = {}
        self._work = Joint()
        self._is_under_way = False

    def take(self, about: S, check: Callable[[], None]) -> None:
        """Take the first step of a work. Blocks.

        Raises what `begin` raises, and what `check` does, which is called now and then.
        """
        done = self._waiting[about] = AsyncResult()
        if not self._is_under_way:
            self._is_under_way = True
            gevent.spawn(self._be)  # not who asks first: that may be ended
        try:
            with self._work.waited_for():
                done.wait(look_seconds())
                while not done.ready():
                    check()
                    done.wait(look_seconds())
        finally:
            self._waiting.pop(about, None)
        if done.value:
            raise again(done.value)

    def _be(self) -> None:
        """Be the greenlet that goes on while any wait."""
        try:
            while self._waiting:
                self._take_all([*self._waiting])
        finally:
            self._is_under_way = False

    def _take_all(self, some: Sequence[S]) -> None:
        error = None
        try:
            steps, is_over = self._begin(some), False
            while not is_over:
                done, is_over = self._work.step(_several, steps)
                self._work.served(len(done))
                self._tell(done)
        except Exception as failure:
            error = failure
        self._tell(some, error)

    def _tell(self, some: Sequence[S], error: Exception | None = None) -> None:
        for count, about in enumerate(some, 1):
            if done := self._waiting.pop(about, None):
                done.set(error)
            if not count % TOLD:
                give_way()


def _several(deadline: float, steps: Iterator[Sequence[S]]) -> tuple[list[S], bool]:
    """Take steps until a time; return what they have yielded, and whether there are no more."""
    done: list[S] = []
    for some in steps:
        done += some
        if time.monotonic() > deadline:
            return done, False
    return done, True
