"""Parked followers: those at the tail for which no greenlet waits.

    at the tail ──► parked ──► pushed, a heartbeat ──► parked ──► …
                      │
                      └─► it lags, its client says something or leaves, another log, a stop:
                          a greenlet goes on with it

A follower at the tail is a value: an offset, how its client is written to, and the client's
descriptor. The greenlet that waited there would be twenty times as large. So it ends, and what
remains to be done for the follower is done here or by its channel's waker, for all together: one
epoll sees whose client says something or leaves, one greenlet sends the heartbeats. Whatever
takes more than one write is done by a greenlet again, which is begun for it.

Knows descriptors and time; not what is sent.
"""

import errno
import heapq
import math
import select
import time
from collections.abc import Callable
from itertools import count
from typing import Generic, Protocol, TypeVar

import gevent
from gevent import monkey
from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.hub.loop import give_way

SEEN = 64  # clients that said something, in a round of the loop
TIMES = 64  # at which heartbeats are due, and twice as many as are so, are kept
BEAT_SECONDS = 0.05  # heartbeats that are due within this time are sent together


class Parked(BrokenPipeError):
    """Ends the greenlet that has parked a follower; a server takes it for a client that left.

    So it writes nothing more, not even a last chunk, and closes a socket that is detached.
    """

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the follower is parked")


class Value(Protocol):
    """A follower, as far as it matters here."""

    @property
    def descriptor(self) -> int:
        """The client's."""

    def wake(self) -> None:
        """Begin a greenlet that goes on with it; return at once."""


class Beating(Protocol):
    """Followers that are sent heartbeats together."""

    due: float  # by the monotonic clock, when the next has to be sent; infinite: never

    def beat(self, now: float) -> None:
        """Send the heartbeats that are due, and say when the next are."""


F = TypeVar("F", bound=Value)


class Parking(Generic[F]):
    """All parked followers of a hub. All of it is of the loop's thread."""

    def __init__(self) -> None:
        """Begin without any: there may be none before `open`."""
        self._go_on: Callable[[F], object] | None = None
        self._epoll: select.epoll | None = None
        self._parked: dict[int, F] = {}
        self._due: list[tuple[float, int, Beating]] = []  # a heap; some are so no longer
        self._most_due = TIMES
        self._number = count()
        self._is_sooner = Signal()
        self._heart: gevent.Greenlet | None = None

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def is_open(self) -> bool:
        """Whether followers may be parked."""
        return self._go_on is not None

    def open(self, go_on: Callable[[F], object]) -> None:
        """Let followers be parked; `go_on` is the greenlet of one that cannot be any more."""
        self._go_on = go_on
        # gevent takes it away, since to wait in it would hold all others up.
        self._epoll = monkey.get_original("select", "epoll")()
        assert self._epoll is not None
        self._seen = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
        self._seen.start(self._see)

    def add(self, follower: F) -> None:
        """Park a follower, whose descriptor nobody else reads."""
        assert self.is_open
        assert self._epoll
        number = follower.descriptor
        assert number not in self._parked
        self._epoll.register(number, select.EPOLLIN | select.EPOLLRDHUP)
        self._parked[number] = follower

    def go_on(self, follower: F) -> None:
        """Begin a greenlet that goes on with a parked follower; return at once."""
        assert self._epoll
        assert self._go_on
        number = follower.descriptor
        del self._parked[number]
        self._epoll.unregister(number)
        gevent.spawn(self._go_on, follower)

    def _see(self) -> None:
        """Go on with followers whose clients said something or have left. In the loop itself."""
        assert self._epoll
        for number, _ in self._epoll.poll(0, SEEN):
            self._parked[number].wake()

    # -- heartbeats ----------------------------------------------------------------------

    def beat(self, followers: Beating) -> None:
        """Have heartbeats sent to followers when they are `due`, and then again and again."""
        if len(self._due) >= self._most_due:  # who comes and leaves at once leaves nothing for long
            self._due = [each for each in self._due if each[0] == each[2].due]
            heapq.heapify(self._due)
            self._most_due = TIMES + 2 * len(self._due)
        heapq.heappush(self._due, (followers.due, next(self._number), followers))
        if self._heart is None:
            self._heart = gevent.spawn(self._beat)
        elif self._due[0][2] is followers:
            self._is_sooner.set()

    def _beat(self) -> None:
        """Be the greenlet that sends heartbeats, while there is anybody to whom."""
        while self._due:
            due, _, followers = self._due[0]
            now = time.monotonic()
            if due != followers.due:
                heapq.heappop(self._due)  # another entry says when
            elif due > now:
                self._is_sooner.clear()
                self._is_sooner.wait(due - now + BEAT_SECONDS)
            else:
                heapq.heappop(self._due)
                followers.beat(now)
                if followers.due < math.inf:
                    heapq.heappush(self._due, (followers.due, next(self._number), followers))
                give_way()
        self._heart = None
