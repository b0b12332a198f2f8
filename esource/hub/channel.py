"""One channel: the face of what writes to a log, reads from it, and follows it.

    publishers ──► writer ──► head: the newest view ──► followers
                                  ▲
                         what others do to the log

A channel is a log and a view of it. Publishing makes the next view; reading goes from an offset to
the view's end; following reads and then waits for the next view. So live, resumed and slow
followers are one loop and differ in their offset alone. None of them has a queue: a slow one reads
the log later.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from socket import socket

from esource.hub.clients import Clients
from esource.hub.commit import PLAIN, Receipt, Wish
from esource.hub.followers import Follower, Followers
from esource.hub.head import Head
from esource.hub.known import Known
from esource.hub.loop import in_thread, reads
from esource.hub.malformed import Malformed
from esource.hub.stats import Stats
from esource.hub.tail import Push, Stretch, Tail, read_stretch
from esource.hub.view import View
from esource.hub.writer import Writer
from esource.log import Log
from esource.rows.find import Verdict
from esource.rows.tsv import Draft

PROBE_SECONDS = 0.05  # after a client's EOF, and then twice as long each time


class Channel:
    """An ordered, append-only list of events.

    It needs no closing: an idle channel holds no greenlet, and its log is closed with the last
    reference to it.
    """

    def __init__(
        self, name: str, open_log: Callable[[], Log], dedup_events: int = 10_000,
        stats: Stats | None = None, clients: Clients | None = None,
    ) -> None:  # fmt: skip
        """Name a channel. Nothing is opened yet: `open_log` blocks, and raises `StorageError`."""
        self.name = name
        self.stats = stats or Stats()
        self.draining = False
        self.clients = clients or Clients()
        self._malformed = Malformed(self.stats)
        self._tail = Tail(self._malformed)
        self.followers = Followers(self.clients, self.stats, self._tail)
        known = Known(dedup_events)
        self._head = Head(open_log, self.followers, known)
        self._writer = Writer(name, self._head, self.followers, known, self.stats)

    def open(self) -> "Channel":
        """Open and repair the log if that was not done yet. Blocks; raises `StorageError`."""
        self._head.open()
        return self

    @property
    def is_open(self) -> bool:
        """Whether `open` has returned."""
        return self._head.is_open

    @property
    def view(self) -> View:
        """What is committed now; `open` must have returned."""
        return self._head.view

    @property
    def refusal(self) -> str:
        """The fault for which it takes no events, if there is one; empty if it does."""
        return self._head.view.log.refusal

    def refresh(self) -> View:
        """Return what is committed now, with what others have done to the log meanwhile. Blocks.

        Publishing sees that anyway; this is for reads. Raises `StorageError`.
        """
        return self._head.refresh()

    # -- publishing ----------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], wish: Wish = PLAIN, after: Receipt | None = None
    ) -> Receipt:
        """Queue rows, at least one, to be committed as one run with nothing in between.

        Returns at once; `Receipt.wait` tells what came of them. Rows without id get default ids
        when they are appended. `wish` is asked then; rows that go `after` others are only appended
        if those were.
        """
        return self._writer.append(self, drafts, wish, after)

    def sync(self) -> None:
        """Put what is committed on disk, if it is not (under ESOURCE_FSYNC=interval). Blocks."""
        self._writer.sync()

    # -- finding a place -----------------------------------------------------------------

    def after(self, view: View, id: bytes) -> tuple[View, int, Verdict]:
        """Return (a view, where in it a follower goes on that has seen `id`, how it was found).

        The view is the one given, or a later one: of a log that can be read by others an event may
        be known that is not committed yet. Blocks while the log is searched: see `Search.after`.
        """
        unfinished = self._writer.unfinished
        offset, verdict = self._head.search(view.log).after(view, id)
        if verdict is not Verdict.EXACT and unfinished:
            unfinished.wait()
            view = self.view
            offset, verdict = self._head.search(view.log).after(view, id)
        return view, offset, verdict

    def later_than(self, view: View, time: int) -> int:
        """Return the offset of the first event whose id is a later time, in ns since 1970."""
        return self._head.search(view.log).later_than(view, time)

    def last(self, view: View, count: int, start: int, types: frozenset[bytes]) -> int:
        """Return the offset of the last `count` events, of these types if any are given.

        None of them is before `start`. Blocks while the log is read, from its end.
        """
        return self._head.search(view.log).last(view, count, start, types)

    # -- reading -------------------------------------------------------------------------

    def read(self, view: View, offset: int) -> Iterator[Stretch]:
        """Yield the rows of a view from an offset on. Blocks; raises `StorageError`."""
        while offset < view.end:
            stretch = self._stretch(view.log, offset, view.end)
            if not stretch.rows:
                return
            yield stretch
            offset = stretch.end

    def follow(
        self, log: Log, offset: int, heartbeat: float, client: socket | None = None,
        timeout: float | None = None, push: Push | None = None,
    ) -> Iterator[Stretch | None]:  # fmt: skip
        """Yield the rows from an offset on, as they are committed; None for silence.

        `heartbeat` is the silence in seconds. Ends after `timeout` seconds (0: as soon as there
        is nothing more), and when the hub drains. With the `client`'s socket, an EOF or a byte
        from the client is a silence too, and shorter ones follow, so that a client that has gone
        is found out: of two heartbeats in short order the second cannot be sent. (An EOF alone
        is no proof: a client may close only its sending side.)

        With `push`, rows may go to the socket instead, while the caller waits for the next.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        probe = 0.0  # seconds until the next proof of life; 0 while the client is quiet
        spoke = time.monotonic()  # when the client last heard something
        with Follower(self.followers, log, offset, client, push) as follower:
            del log  # which may be replaced while this goes on for days
            while not self.draining:
                view = self.view
                end = view.end if follower.log is view.log else follower.log.end
                if follower.offset < end:
                    if timeout and deadline is not None and time.monotonic() > deadline:
                        return
                    stretch = self._stretch(follower.log, follower.offset, end)
                    if stretch.rows:
                        yield stretch
                        follower.offset = stretch.end
                        del stretch
                        spoke = time.monotonic()
                        continue
                    follower.offset = end  # the file was cut; there may be another one by now
                    continue
                if moved := self.followers.moved(follower.log):
                    follower.log, follower.offset = moved
                    continue
                now = time.monotonic()
                spoke = max(spoke, follower.pushed_at)
                seconds = spoke + min(probe or heartbeat, heartbeat) - now
                if deadline is not None:
                    if deadline <= now:
                        return
                    seconds = min(seconds, deadline - now)
                if seconds > 0:
                    assert self.view is view, "a commit that came meanwhile would be missed"
                    if follower.wait(seconds) is not None:
                        continue
                    probe = PROBE_SECONDS
                else:
                    probe = probe * 2 if probe < heartbeat else 0.0
                yield None
                spoke = time.monotonic()

    def _stretch(self, log: Log, offset: int, end: int) -> Stretch:
        stretch = self._tail.at(log, offset)
        if stretch and stretch.end <= end:
            return stretch
        until = self._tail.until(log, offset, end)
        return in_thread(reads(), read_stretch, log, offset, until, self._malformed)

    # -- stopping ------------------------------------------------------------------------

    def drain(self) -> None:
        """Let every follower end, now and from now on. Publishing goes on."""
        self.draining = True
        self.followers.wake()
