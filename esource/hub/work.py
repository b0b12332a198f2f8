"""Long work for one client: a search, a filter, a list. In steps, and none for a client that left.

    works ──► queue ──► one thread
                ▲  the fewest steps first: one that ends with its first step, since a map or the
                   last block answers, waits for no more than one step of a long one

One thread, since a search holds the interpreter, which is one: with eight the p99 of publishes was
five times as long. Opening a channel, reading on and committing have threads of their own. So have
lists of all channels, with a queue of their own: the names of a large folder are one long step.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import count
from socket import socket
from typing import TypeVar

from gevent.event import Event as Signal
from gevent.threadpool import ThreadPool

from esource.errors import EsourceError
from esource.hub.clients import is_gone
from esource.hub.loop import commits, in_thread

T = TypeVar("T")

FIRST_SECONDS = 0.001  # for a first step, and
STEP_SECONDS = 0.004  # for each later one
GRACE_SECONDS = 0.1  # for which a client that has closed its sending side is worked for
# Between two looks at a client that waits for a turn. It is so much for each `LOOKS` that wait: a
# thousand of them, looked at every time, would take all of the loop.
LOOK_SECONDS, LOOKS = 0.05, 16
# A work that waits is passed by so many steps for each that it has had itself, up to a number.
PASSED, MOST_PASSED = 128, 1024
CROWD = 16  # of works that wait: with more, to learn of the log comes first, without pauses


class ClientLeft(EsourceError, BrokenPipeError):
    """The client of a long work has closed its sending side: it counts as gone.

    Once an answer has begun, this is an error of its connection, which ends it.
    """

    status = 408

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.errno = errno.EPIPE


class _Queue:
    """Who has a thread next: the least number of steps before it, and of those it lets pass."""

    def __init__(self) -> None:
        self._is_taken = False
        self._steps = 0  # of all works
        self._number = count()
        self._waiting: list[tuple[int, int, Signal]] = []
        self.together = 0  # clients that wait for work that is done for several together

    @contextmanager
    def turn(self, passed: int, check: Callable[[], None]) -> Iterator[None]:
        """Have the thread, after a wait in which `check` is called, and may raise."""
        if self._is_taken:
            entry = self._steps + passed, next(self._number), Signal()
            heappush(self._waiting, entry)
            try:
                while not entry[2].wait(look_seconds(len(self))):
                    check()
            except BaseException:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    heapify(self._waiting)
                else:
                    self._pass_on()
                raise
        self._is_taken = True
        self._steps += 1
        try:
            yield
        finally:
            self._pass_on()

    def count(self, steps: int) -> None:
        """Count steps that were taken in a turn, but for the first of them."""
        self._steps += max(steps, 0)

    def _pass_on(self) -> None:
        if self._waiting:
            heappop(self._waiting)[2].set()
        else:
            self._is_taken = False

    def __len__(self) -> int:
        """Return how many clients wait."""
        return len(self._waiting) + self.together

    @cached_property
    def thread(self) -> ThreadPool:
        """The thread, which is made when it is first asked for."""
        return ThreadPool(1)


_searches, _lists = _Queue(), _Queue()


class Work:
    """What is done for one client, or for none."""

    _queue = _searches

    def __init__(self, client: socket | None = None) -> None:
        """Begin now."""
        self._client = client
        self._began = time.monotonic()
        self._steps = 0

    def heard(self) -> None:
        """Note that the client was sent something, which tells whether it is still there."""
        self._began = time.monotonic()

    def check(self) -> None:
        """Raise `ClientLeft` if it has, and there was nothing to be sent for `GRACE_SECONDS`."""
        if self._client is None or time.monotonic() - self._began < GRACE_SECONDS:
            return
        if is_gone(self._client):
            raise ClientLeft("the client has closed its sending side during a long search")

    def step(self, function: Callable[..., T], *args: object) -> T:
        """Call a function with a deadline (of `time.monotonic`) and `args`; it returns soon after.

        Blocks. Raises `ClientLeft`, and what the function raises.
        """
        seconds = STEP_SECONDS if self._steps else FIRST_SECONDS
        return self.do(lambda: function(time.monotonic() + seconds, *args))

    def do(self, function: Callable[..., T], *args: object) -> T:
        """Call a function that cannot be cut in steps, when it is this work's turn.

        Blocks. Raises `ClientLeft`, and what the function raises.
        """
        self.check()
        with self._queue.turn(self._passed(), self.check):
            self._steps += 1
            return in_thread(self._queue.thread, function, *args)

    def begin(self, take: Callable[[Callable[[], None]], None]) -> None:
        """Have the first step taken together with those of others (see `FirstSteps.take`).

        Blocks. Raises `ClientLeft`, and what `take` raises, which is given `check`.
        """
        self.check()
        take(self.check)
        self._steps += 1

    def _passed(self) -> int:
        """Return how many steps of others go before the next one, though they come later."""
        return min(PASSED * self._steps, MOST_PASSED)


class Learning(Work):
    """Work that nobody waits for, but for a crowd: what is learned ends the searches of all."""

    is_urgent = False  # since a crowd waits for it elsewhere than for a turn

    def _passed(self) -> int:
        has_crowd = self.is_urgent or len(_searches) >= CROWD
        return -MOST_PASSED if has_crowd else super()._passed()


class Urgent(Work):
    """Work that publishers wait for: where the log of a channel goes on that was replaced."""

    def do(self, function: Callable[..., T], *args: object) -> T:
        """Call a function, at once and in a thread of the commits'."""
        return in_thread(commits(), function, *args)

    def begin(self, take: Callable[[Callable[[], None]], None]) -> None:
        """Do nothing: others are not waited for."""


class Joint(Work):
    """Work for several clients together: a turn counts as one of each that it has served."""

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """While one more client waits for it."""
        _searches.together += 1
        try:
            yield
        finally:
            _searches.together -= 1

    def served(self, clients: int) -> None:
        """Count the clients that the last turn has served."""
        _searches.count(clients - 1)

    def _passed(self) -> int:
        return 0


class Listing(Work):
    """A list of all channels, of which no step makes a search wait."""

    _queue = _lists


def look_seconds(clients: int = 1) -> float:
    """Return how long to wait between two looks at a client, if so many wait with it."""
    return LOOK_SECONDS * (1 + max(clients, len(_searches)) // LOOKS)
