"""The readers of a channel that wait: who they are, and how they learn of a commit.

A reader is an offset into a file. One who waits at the tail for every event can be moved on
by the waker: it writes the new events, encoded once for all, to the reader's socket, and the
reader's greenlet sleeps on. What a socket does not take at once is the reader's own business:
it is woken, and goes on from its offset. So are those who wait in any other way.

Readers wait in cohorts of up to `COHORT`; between two cohorts others get a turn. A commit that
comes meanwhile starts another round, after which everybody has seen it.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import gevent
from gevent import monkey
from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.hub.loop import give_way
from esource.hub.stats import Stats
from esource.rows.tsv import Encode

COHORT = 64
# A client that vanished is gone within 10 s: 3 s until it is probed, 4 s without an answer, and
# the time between two looks.
LOOK_SECONDS = 1.0
ANSWER_SECONDS = 4.0


class Direct(NamedTuple):
    """How a reader reads whose socket the waker may write to."""

    encode: Encode
    is_chunked: bool  # the response is framed in chunks (RFC 9112, 7.1)


class News(NamedTuple):
    """What is new to a reader at the tail."""

    data: bytes  # ready to be sent; nothing if the reader must see to it itself
    events: int  # how many that is
    end: int  # the offset behind it
    is_all: bool  # there is nothing more after it


Tell = Callable[["Reader"], News]


class _Cohort:
    """Up to `COHORT` readers, who are woken together: all with `direct`, or none.

    Those without have to be woken for every commit, and the others must not be, with them.
    """

    __slots__ = ("direct", "is_direct", "readers", "signal", "waiting")

    def __init__(self, is_direct: bool) -> None:
        self.is_direct = is_direct
        self.readers = 0
        self.waiting = 0
        self.direct: set[Reader] = set()  # of those who wait
        self.signal = Signal()

    def tell(self, news_for: Tell) -> None:
        """Let the readers who wait have what is new: it is sent to them, or they are woken."""
        served = 0
        if self.direct:
            now = time.monotonic()
            for reader in self.direct:
                served += reader.push(news_for, now)
        if served < self.waiting:
            self.wake()

    def wake(self) -> None:
        """Wake the readers who wait."""
        # A fresh signal first: who is woken and waits again waits for the next commit.
        signal, self.signal = self.signal, Signal()
        signal.set()


class _Readable(BaseException):
    """Thrown into a waiting reader when its client's socket has something to read."""


class Readers:
    """Everybody who follows one channel."""

    def __init__(self, stats: Stats) -> None:
        """Begin with nobody; `stats` counts what they are sent."""
        self.stats = stats
        self._cohorts: list[_Cohort] = []
        self._clients: set[Any] = set()  # their sockets
        self._unanswered: dict[Any, float] = {}  # since when nothing comes back from a socket
        self._watchman: gevent.Greenlet | None = None
        self._waker: gevent.Greenlet | None = None
        self._news_for: Tell | None = None  # after a commit of which a cohort may not have heard
        self._changed = False  # something else has changed, that every reader must look at

    def __len__(self) -> int:
        return sum(cohort.readers for cohort in self._cohorts)

    def __bool__(self) -> bool:
        return bool(self._cohorts)

    @property
    def are_being_told(self) -> bool:
        """Whether some may not have heard yet of what is new."""
        return self._waker is not None

    def tell(self, news_for: Tell) -> None:
        """After a commit: let everybody who waits have what is new, soon; return at once."""
        self._news_for = news_for
        self._begin()

    def wake(self) -> None:
        """After any other change: wake everybody who waits, soon; return at once."""
        self._changed = True
        self._begin()

    def _begin(self) -> None:
        if self._waker is None:
            self._waker = gevent.spawn(self._wake)

    def _wake(self) -> None:
        """Be the waker greenlet: ten thousand readers in slices, not in one long breath."""
        while self._changed or self._news_for:
            changed, self._changed = self._changed, False
            news_for, self._news_for = self._news_for, None
            for cohort in list(self._cohorts):
                if news_for and not changed:
                    cohort.tell(news_for)
                else:
                    cohort.wake()
                give_way()
        # No greenlet switch since there was nothing new.
        self._waker = None

    def join(self, client: Any) -> None:
        """Let a client be cut off, and be looked after: it may vanish without a FIN."""
        self._clients.add(client)
        if self._watchman is None and hasattr(socket, "TCP_INFO"):
            self._watchman = gevent.spawn(self._watch)

    def leave(self, client: Any) -> None:
        """Forget a client."""
        self._clients.discard(client)
        self._unanswered.pop(client, None)

    def _watch(self) -> None:
        """Be the greenlet that cuts off clients who do not answer, while there are any."""
        while self._clients:
            gevent.sleep(LOOK_SECONDS)
            for count, client in enumerate(list(self._clients)):
                if not count % COHORT:
                    give_way()
                if client in self._clients and self._has_vanished(client):
                    shut(client, socket.SHUT_RDWR)
        # No greenlet switch since there were none.
        self._watchman = None

    def _has_vanished(self, client: Any) -> bool:
        """Return whether nothing came back for `ANSWER_SECONDS` though something must have.

        TCP_USER_TIMEOUT does not tell a client who is gone from one who answers that its
        window is full, and retransmissions alone take the kernel 15 minutes.
        """
        try:
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        except OSError:
            return False  # closed, or no TCP
        probes = info[3]  # unanswered ones, of a closed window or to keep alive
        (unacknowledged,) = struct.unpack_from("I", info, 24)  # segments
        (last_answer,) = struct.unpack_from("I", info, 56)  # ms ago
        now = time.monotonic()
        since = self._unanswered.get(client)
        if not (probes or unacknowledged):
            self._unanswered.pop(client, None)
        elif since is None or now - last_answer / 1000 > since:
            self._unanswered[client] = now
        else:
            return now - since >= ANSWER_SECONDS
        return False

    @contextmanager
    def sending(self, client: Any) -> Iterator[None]:
        """Let a client whom something is being sent to be cut off as well."""
        self.join(client)
        try:
            yield
        finally:
            self.leave(client)

    def cut_off(self) -> None:
        """Shut the sockets of all clients: those who are still there are stuck in a send."""
        for client in list(self._clients):
            shut(client, socket.SHUT_RDWR)


def is_gone(client: Any) -> bool:
    """Return whether a client has closed its sending side: what can be known without sending."""
    return _is_ready(client, select.POLLRDHUP)


def is_full(client: Any) -> bool:
    """Return whether a client's socket takes nothing now, since the client takes nothing."""
    return not _is_ready(client, select.POLLOUT)


def _is_ready(client: Any, events: int) -> bool:
    poll = monkey.get_original("select", "poll")()  # gevent's own waits, and knows no RDHUP
    with suppress(ValueError):  # closed
        poll.register(client.fileno(), events)
    return bool(poll.poll(0))


def shut(client: Any, how: int) -> None:
    """Shut a connection, as its peer would: who reads or writes on it finds it ended.

    On a second descriptor: on the first one gevent would fail who waits, and noisily.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(client.fileno())) as twin:
        twin.shutdown(how)


_NO_REST = memoryview(b"")


class Reader:
    """One reader, as a context: joined to the others while it is entered."""

    __slots__ = (
        "_client", "_cohort", "_last_left", "_readable", "_readers", "_rest",
        "direct", "log", "offset", "pushed_at",
    )  # fmt: skip

    def __init__(
        self, readers: Readers, position: tuple[Any, int], client: Any, direct: Direct | None,
        last_left: Callable[[], None],
    ) -> None:  # fmt: skip
        """Begin at an offset into a log, with the client's socket, if there is one.

        With `direct`, the waker writes to the socket while the reader waits, and moves
        `offset`. `last_left` is called when this reader leaves and nobody else is there.
        """
        self.log, self.offset = position
        self.direct = direct
        self.pushed_at = 0.0  # when the waker last did so, by the monotonic clock
        self._readers = readers
        self._client = client
        self._last_left = last_left
        self._cohort: _Cohort | None = None
        self._readable: Any = None
        self._rest = _NO_REST  # of what the waker could not send all of

    def __enter__(self) -> "Reader":
        cohorts = self._readers._cohorts
        is_direct = self.direct is not None
        fitting = (c for c in cohorts if c.readers < COHORT and c.is_direct == is_direct)
        cohort = next(fitting, None)
        if cohort is None:
            cohort = _Cohort(is_direct)
            cohorts.append(cohort)
        cohort.readers += 1
        self._cohort = cohort
        if self._client is not None:
            self._readers.join(self._client)
            self._readable = gevent.get_hub().loop.io(self._client.fileno(), 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_client()
        self._readers.leave(self._client)
        assert self._cohort
        self._cohort.readers -= 1
        if not self._cohort.readers:
            self._readers._cohorts.remove(self._cohort)
        if not self._readers:
            self._last_left()

    def _forget_client(self) -> None:
        if self._readable:
            self._readable.close()
            self._readable = None

    def push(self, news_for: Tell, now: float) -> bool:
        """Send all that is new, from another greenlet; return whether the reader need not wake.

        Only for one who waits, so nobody else is writing to the socket, and the last write
        ended with a whole frame.
        """
        while not self._rest:
            try:
                news = news_for(self)
                if news.end == self.offset:
                    return news.is_all
                sent = os.write(self._client.fileno(), news.data) if news.data else 0
            except Exception:
                # The socket takes nothing now, or never again; or the rows cannot be encoded.
                # The reader's own greenlet will meet the same, and say so.
                return False
            self.offset = news.end
            self.pushed_at = now
            self._readers.stats.delivered += news.events
            self._rest = memoryview(news.data)[sent:]  # of what others are sent as well
            if news.is_all:
                break
        return not self._rest

    def wait(self, seconds: float) -> bool | None:
        """Return True after a commit, False after `seconds`, None at the client's byte or EOF.

        None comes once; after that the client is not watched any more. The caller has read
        how far the commits are without a greenlet switch since. Raises `OSError` if the
        client has gone meanwhile.
        """
        cohort = self._cohort
        assert cohort
        cohort.waiting += 1
        if self.direct:
            cohort.direct.add(self)
        try:
            if self._readable:
                # As gevent's Timeout does with a timer.
                self._readable.start(gevent.getcurrent().throw, _Readable)
            woken: bool | None = bool(cohort.signal.wait(seconds))
        except _Readable:
            self._forget_client()
            woken = None
        finally:
            cohort.waiting -= 1
            cohort.direct.discard(self)
            if self._readable:
                self._readable.stop()
        if self._rest:
            rest, self._rest = self._rest, _NO_REST
            self._client.sendall(rest)
        return woken
