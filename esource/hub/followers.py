"""The followers of a channel: offsets into a log, and how each learns of a commit.

                    ┌─────────────────────────────────────────────┐
    reading ──► waiting ──► pushed ──► waiting ──► …              │
       ▲           │           └──► rest ──► woken: sends it ─────┤
       └───────────┴──────────────────► woken ◄───────────────────┘

A follower that waits at the tail for every event is moved on by the waker: that writes the new
events, encoded once for all, to the client's socket, and the follower's greenlet sleeps on. What a
socket does not take at once is the follower's own business: it is woken, sends the rest, and reads
on from its offset. So are those that wait in any other way.

Where the server can do without it, there is no greenlet that sleeps: the follower is parked (see
`parking`). It is pushed to in the same way, and to wake it is to begin a greenlet that goes on.

Followers wait in cohorts of up to `COHORT`; between two cohorts others get a turn. A commit that
comes meanwhile starts another round, after which every follower has seen it.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from socket import socket
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import gevent
from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.hub.clients import Client, Clients, attached, detached, has_said_something
from esource.hub.loop import give_way
from esource.hub.parking import Parking
from esource.hub.stats import Stats
from esource.hub.tail import Push, Tail
from esource.hub.view import View
from esource.log import Log

COHORT = 64


class _Watcher(Protocol):
    """A watcher of the loop's, for one descriptor."""

    def start(self, callback: Callable[..., object], *args: object) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Stream(Protocol):
    """What a follower's client is sent, as the one knows who makes it."""

    def go_on(self, follower: "Follower") -> Iterator[bytes]:
        """Yield the rest of a stream whose follower was parked. Raises `Parked` if it is again."""


class State(Enum):
    """Who has a follower: its client's socket is written to by nobody else."""

    READING = "its greenlet"
    WAITING = "the waker; its greenlet sleeps"
    PARKED = "the waker; it has no greenlet"


READING, WAITING, PARKED = State


class _Cohort:
    """Up to `COHORT` followers. Either all are pushed to or none is.

    Those that are not have to be woken for every commit, and the others must not be, with them.
    """

    __slots__ = ("due", "followers", "has_push", "parked", "pushable", "signal", "waiting")

    def __init__(self, has_push: bool) -> None:
        self.has_push = has_push
        self.followers = 0
        self.waiting = 0
        self.pushable: set[Follower] = set()  # of those that wait
        self.parked: set[Follower] = set()
        self.due = math.inf  # when the first of these is to hear something; or later than that
        self.signal = Signal()

    def tell(self, tail: Tail, view: View) -> None:
        """Let the followers that wait have what is new: it is sent to them, or they are woken."""
        served = 0
        now = time.monotonic()
        for follower in self.pushable:
            served += follower.take(tail, view, now)
        if served < self.waiting:
            self._wake_waiting()
        for follower in [each for each in self.parked if not each.take(tail, view, now)]:
            follower.wake()

    def wake(self) -> None:
        """Wake the followers that wait."""
        self._wake_waiting()
        for follower in list(self.parked):
            follower.wake()

    def _wake_waiting(self) -> None:
        # A fresh signal first: a follower that is woken and waits again waits for the next commit.
        signal, self.signal = self.signal, Signal()
        signal.set()

    def beat(self, now: float) -> None:
        """Send the parked ones the heartbeats that are due, and note when the next are."""
        for follower in [f for f in self.parked if f.due <= now and not f.beat(now)]:
            follower.wake()
        self.due = min((follower.due for follower in self.parked), default=math.inf)


class _Readable(BaseException):
    """Thrown into a waiting follower when its client's socket has something to read."""


class Followers:
    """All that follow one channel, and the tail in memory that they share."""

    def __init__(
        self, clients: Clients, stats: Stats, tail: Tail,
        parking: "Parking[Follower] | None" = None,
    ) -> None:  # fmt: skip
        """Begin with none."""
        self.clients = clients
        self.parking: Parking[Follower] = Parking() if parking is None else parking
        self.stats = stats
        self._tail = tail
        self._cohorts: list[_Cohort] = []
        # Log that was replaced -> where followers go on that have read all of it.
        self._moved: WeakKeyDictionary[Log, tuple[Log, int]] = WeakKeyDictionary()
        self.waker: gevent.Greenlet | None = None  # while followers are being told of something
        self._shown: View | None = None  # of a commit of which a cohort may not have heard
        self._must_look = False  # something else has changed, that every follower must look at

    def __len__(self) -> int:
        return sum(cohort.followers for cohort in self._cohorts)

    def __bool__(self) -> bool:
        return bool(self._cohorts)

    def show(self, view: View, start: int, rows: bytes) -> None:
        """After a commit: let all that wait have what is new, soon; return at once.

        The rows, if there are few and so they are given, begin at `start` and end with the view.
        """
        if not self._cohorts:
            return
        if rows:
            self._tail.keep(view.log, start, rows)
        else:
            self._tail.forget()
        self._shown = view
        self._begin()

    def wake(self) -> None:
        """After any other change: wake all that wait, soon; return at once."""
        self._must_look = True
        self._begin()

    def move(self, old: Log, new: Log, offset: int) -> None:
        """After a change by others: have those that have all of a log go on in another one.

        It may be the same, which has grown. They read what is new from the log.
        """
        self._tail.forget()
        if old is not new:
            self._moved[old] = new, offset
        self.wake()

    def moved(self, log: Log) -> tuple[Log, int] | None:
        """Return where a follower goes on that has all of a log; None if that is the newest."""
        return self._moved.get(log)

    def be_quiet(self) -> None:
        """When nothing is being written: what is in memory is in the log, too."""
        if self.waker is None:  # or it is still being shown
            self._tail.forget()

    def _begin(self) -> None:
        if self.waker is None:
            self.waker = gevent.spawn(self._wake)

    def _wake(self) -> None:
        """Be the waker greenlet: ten thousand followers in slices, not in one long breath."""
        while self._must_look or self._shown:
            must_look, self._must_look = self._must_look, False
            view, self._shown = self._shown, None
            for cohort in list(self._cohorts):
                if view and not must_look:
                    cohort.tell(self._tail, view)
                else:
                    cohort.wake()
                give_way()
        self.waker = None  # at once: what is new from here on needs another

    def place(self, follower: "Follower") -> _Cohort:
        """Return a cohort with room for a follower, which is in it from now on."""
        has_push = follower.push is not None
        # The newest first: of a crowd that comes it is the one with room.
        cohorts = reversed(self._cohorts)
        fitting = (c for c in cohorts if c.followers < COHORT and c.has_push == has_push)
        cohort = next(fitting, None)
        if cohort is None:
            cohort = _Cohort(has_push)
            self._cohorts.append(cohort)
        cohort.followers += 1
        return cohort

    def leave(self, cohort: _Cohort) -> None:
        """Let a follower out of its cohort."""
        cohort.followers -= 1
        if not cohort.followers:
            self._cohorts.remove(cohort)
            cohort.due = math.inf
        if not self._cohorts:
            self._tail.forget()


_NO_REST = memoryview(b"")


class Follower:
    """An offset into a log that moves on, as a context: among the others while it is entered.

    A parked one stays among them when it is left; it is entered again by the greenlet that goes on.
    """

    __slots__ = (
        "_client",
        "_followers",
        "_is_watched",
        "_readable",
        "_rest",
        "_state",
        "closes",
        "cohort",
        "log",
        "offset",
        "push",
        "pushed_at",
        "stream",
    )  # fmt: skip

    def __init__(
        self, followers: Followers, log: Log, offset: int, client: socket | None, push: Push | None
    ) -> None:
        """Begin at an offset, with the client's socket, if there is one.

        With `push`, the waker writes to the socket while the follower waits, and moves `offset`.
        """
        self.log, self.offset = log, offset
        self.push = push if client is not None else None
        self.pushed_at = 0.0  # when the waker last did so, by the monotonic clock
        self.stream: Stream | None = None  # once it has been parked: what goes on with it
        self.closes = True  # whether its connection ends with the stream, as the head has said
        self._followers = followers
        self._client: Client | None = client
        self.cohort: _Cohort | None = None
        self._is_watched = client is not None  # until it says something
        self._readable: _Watcher | None = None
        self._rest = _NO_REST  # of what the waker could not send all of
        self._state = READING

    def __enter__(self) -> "Follower":
        assert self._state is READING
        if self._client is not None:
            self._followers.clients.join(self._client)
        if self.cohort is None:
            self.cohort = self._followers.place(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._state is PARKED:
            return
        self._forget_client()
        self._followers.clients.leave(self._client)
        assert self.cohort
        self._followers.leave(self.cohort)
        self.cohort = None

    @property
    def is_passed(self) -> bool:
        """Whether its next rows have been removed: it ends, and is told so when it is back."""
        return self.offset < self.log.start

    @property
    def client(self) -> socket | None:
        """The client's socket, if there is one, while a greenlet has the follower."""
        assert self._state is not PARKED
        return cast(socket | None, self._client)

    @property
    def descriptor(self) -> int:
        """The client's."""
        assert self._client is not None
        return self._client.fileno()

    def _forget_client(self) -> None:
        self._is_watched = False
        self._close_watcher()

    def _close_watcher(self) -> None:
        if self._readable:
            self._readable.close()
            self._readable = None

    # -- parked --------------------------------------------------------------------------

    @property
    def is_parked(self) -> bool:
        """Whether it has no greenlet."""
        return self._state is PARKED

    @property
    def can_be_parked(self) -> bool:
        """Whether it can do without its greenlet while it waits at the tail.

        Not once its client has said something, or closed its sending side: that would be seen
        again at once, and there is no more to see.
        """
        return (
            self.push is not None
            and self._is_watched
            and self._client is not None
            and self._followers.parking.is_open
            and not has_said_something(self._client)
        )

    def park(self, since: float, stream: Stream) -> None:
        """Leave it to the waker alone, as it waits at the tail; its client was silent `since` then.

        The client's socket, as its greenlet knows it, is detached. The caller raises `Parked`.
        `stream` goes on with it, once that is needed.
        """
        assert self._state is READING
        assert not self._rest
        assert self._client is not None
        assert self.cohort
        self._close_watcher()
        clients = self._followers.clients
        clients.leave(self._client)
        self._client = detached(self._client)
        clients.join(self._client)
        self._state = PARKED
        self.stream = stream
        self.pushed_at = since
        self._followers.parking.add(self)
        cohort = self.cohort
        cohort.parked.add(self)
        if self.due < cohort.due:
            cohort.due = self.due
            self._followers.parking.beat(cohort)

    def wake(self) -> None:
        """Begin a greenlet that goes on with a parked follower; return at once."""
        assert self._state is PARKED
        assert self.cohort
        self._state = READING
        self.cohort.parked.discard(self)
        self._followers.parking.go_on(self)

    def attach(self) -> socket:
        """Return the client's socket, for the greenlet that goes on: it can be waited for again."""
        assert self._state is READING
        assert self._client is not None
        clients = self._followers.clients
        clients.leave(self._client)
        client = self._client = attached(self._client)
        clients.join(client)
        return client

    @property
    def due(self) -> float:
        """When its client has to hear something, by the monotonic clock."""
        assert self.push
        return self.pushed_at + self.push.silence

    # -- pushed --------------------------------------------------------------------------

    def beat(self, now: float) -> bool:
        """Send a parked one a heartbeat; return whether it need not be woken."""
        assert self.push
        assert self._state is PARKED
        try:
            return self._send(self.push.beat, now)
        except OSError:  # its own greenlet will meet the same
            return False

    def _send(self, data: bytes, now: float) -> bool:
        """Write to the client, from the waker; keep what it does not take, and return if it did.

        Raises `OSError` if it takes nothing.
        """
        assert not self._rest
        sent = os.write(self.descriptor, data)
        self.pushed_at = now
        if sent < len(data):
            self._rest = memoryview(data)[sent:]  # of what others are sent as well
        return sent == len(data)

    def take(self, tail: Tail, view: View, now: float) -> bool:
        """Send all that is new, from the waker; return whether the follower need not be woken.

        It must be waiting, so that nobody else writes to its socket, and the last write has ended
        with a whole frame unless there is a rest of it.
        """
        assert self.push
        assert self._state is not READING
        while not self._rest:
            try:
                news = tail.news(view, self.log, self.offset, self.push)
                if news.end == self.offset:
                    return news.is_all
                if news.data:
                    self._send(news.data, now)
            except Exception:
                # The socket takes nothing now, or never again; or the rows cannot be encoded.
                # The follower's own greenlet will meet the same, and say so.
                return False
            self.offset = news.end
            self._followers.stats.delivered += news.events
            if news.is_all:
                break
        return not self._rest

    def wait(self, seconds: float, others: Sequence["Follower"] = ()) -> bool | None:
        """Return True after a commit, False after `seconds`, None at the client's byte or EOF.

        A commit that any of the `others` would see counts: they are of the same client, and none
        of them has a `push`. None comes once; after that the client is not watched any more. No
        greenlet may have switched since it was found that there is nothing to read. Raises
        `OSError` if the client has gone meanwhile.
        """
        cohort = self.cohort
        assert cohort
        assert not self._rest
        also = [other.cohort for other in others if other.cohort] if others else ()
        cohort.waiting += 1
        for each in also:
            each.waiting += 1
        self._state = WAITING
        if self.push:
            cohort.pushable.add(self)
        try:
            if self._is_watched:
                if self._readable is None:
                    self._readable = gevent.get_hub().loop.io(self.descriptor, 1)
                # As gevent's Timeout does with a timer.
                self._readable.start(gevent.getcurrent().throw, _Readable)
            woken: bool | None
            if also:
                signals = [cohort.signal, *[each.signal for each in also]]
                woken = bool(gevent.wait(signals, seconds, 1))
            else:
                woken = bool(cohort.signal.wait(seconds))
        except _Readable:
            self._forget_client()
            woken = None
        finally:
            cohort.waiting -= 1
            for each in also:
                each.waiting -= 1
            self._state = READING
            cohort.pushable.discard(self)
            if self._readable:
                self._readable.stop()
        self.send_rest()
        return woken

    def send_rest(self) -> None:
        """Send what the waker could not: before anything else. Blocks; raises `OSError`."""
        if self._rest:
            rest, self._rest = self._rest, _NO_REST
            assert self.client is not None
            self.client.sendall(rest)
