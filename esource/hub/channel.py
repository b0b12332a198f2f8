"""One channel: the face of what writes to a log, reads from it, and follows it.

    publishers ──► writer ──► head: the newest view ──► followers
                                  ▲
                         what others do to the log

A channel is a log and a view of it. Publishing makes the next view; reading goes from an offset to
the view's end; following reads and then waits for the next view. So live, resumed and slow
followers are one loop and differ in their offset alone. None of them has a queue: a slow one reads
the log later.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from socket import socket

from esource.hub.clients import Clients
from esource.hub.commit import PLAIN, Receipt, Wish
from esource.hub.committer import Committer
from esource.hub.followers import Follower, Followers, Stream
from esource.hub.head import Head
from esource.hub.known import Known
from esource.hub.loop import Shared, reads
from esource.hub.malformed import Malformed
from esource.hub.parking import Parked, Parking
from esource.hub.stats import Stats
from esource.hub.tail import FIRST_BYTES, READ_BYTES, Push, Stretch, Tail, read_stretch
from esource.hub.view import Place, View
from esource.hub.work import Work
from esource.hub.writer import Writer
from esource.log import Log
from esource.rows.find import Verdict
from esource.rows.tsv import Draft

EVERY: frozenset[bytes] = frozenset()  # type of events
CALM_SECONDS = 1.0  # at the tail, before a follower that has lagged is parked again
PROBE_SECONDS = 0.05  # after a client's EOF, and then twice as long each time


class Silence:
    """Since when a follower has heard nothing, and until when that may be. In seconds."""

    __slots__ = ("_deadline", "_heartbeat", "_probe", "began")

    def __init__(self, heartbeat: float, timeout: float | None, began: float = 0.0) -> None:
        """Begin now: of at most `heartbeat`, and with a `timeout` not for longer than that.

        Or it has begun already, by the monotonic clock.
        """
        self._heartbeat = heartbeat
        self._probe = 0.0  # until the next proof of life; 0 while the client is quiet
        self.began = began or time.monotonic()
        self._deadline = None if timeout is None else self.began + timeout

    def left(self, heard: float = 0.0) -> float | None:
        """Return for how long it may go on, 0 or less if it has; None once all time is over.

        `heard` is when the client last heard of something in another way, by the monotonic clock.
        """
        now = time.monotonic()
        self.began = max(self.began, heard)
        seconds = self.began + min(self._probe or self._heartbeat, self._heartbeat) - now
        if self._deadline is None:
            return seconds
        return None if self._deadline <= now else min(seconds, self._deadline - now)

    def probe(self, is_first: bool) -> None:
        """Break it sooner: at first soon after the client said something, then ever more rarely."""
        if is_first:
            self._probe = PROBE_SECONDS
        else:
            self._probe = self._probe * 2 if self._probe < self._heartbeat else 0.0

    def end(self) -> None:
        """Begin anew: the client hears of something now."""
        self.began = time.monotonic()


class Channel:
    """An ordered, append-only list of events.

    It needs no closing: an idle channel holds no greenlet, and its log is closed with the last
    reference to it.
    """

    def __init__(
        self, name: str, open_log: Callable[[], Log], dedup_events: int = 10_000,
        stats: Stats | None = None, clients: Clients | None = None,
        committer: Committer | None = None, parking: Parking[Follower] | None = None,
    ) -> None:  # fmt: skip
        """Name a channel. Nothing is opened yet: `open_log` blocks, and raises `StorageError`.

        It has a part in what is given, or else it is a hub of its own.
        """
        self.name = name
        self.stats = stats or Stats()
        self.draining = False
        self.clients = clients or Clients()
        self._malformed = Malformed(self.stats)
        self._read = Shared(reads)  # a crowd that comes back reads the same
        self._tail = Tail(self._malformed)
        self.followers = Followers(self.clients, self.stats, self._tail, parking)
        known = Known(dedup_events)
        self._head = Head(open_log, self.followers, known)
        committer = committer or Committer()
        self._writer = Writer(name, self._head, self.followers, known, self.stats, committer)

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

        Publishing sees that anyway; this is for reads. The log is opened if it was not. Raises
        `StorageError`.
        """
        return self._head.refresh()

    def heed(self, goes_on: Callable[[Log], bool]) -> None:
        """Take in what others have told of the log, which was not read; or else what is there.

        `goes_on` is `esource.log.Shared.heed`. Blocks; raises `StorageError`.
        """
        self._head.heed(goes_on)
        self._writer.be_quiet_soon()

    def tend(self, now: float, may_remove: bool) -> str:
        """Do what time asks of the log (see `esource.log.Log.tend`). Blocks."""
        return self._head.tend(now, may_remove)

    # -- publishing ----------------------------------------------------------------------

    def append(
        self, drafts: Sequence[Draft], wish: Wish = PLAIN, after: Receipt | None = None,
        done: Callable[[], None] | None = None,
    ) -> Receipt:  # fmt: skip
        """Queue rows, at least one, to be committed as one run with nothing in between.

        Returns at once; `Receipt.wait` tells what came of them. Rows without id get default ids
        when they are appended. `wish` is asked then; rows that go `after` others are only appended
        if those were. `done` is called when they are committed or refused, and need no memory.
        """
        return self._writer.append(self, drafts, wish, after, done)

    def sync(self) -> None:
        """Put what is committed on disk, if it is not (under ESOURCE_FSYNC=interval). Blocks."""
        self._writer.sync()

    # -- finding a place -----------------------------------------------------------------

    def after(self, view: View, id: bytes, work: Work | None = None) -> tuple[View, int, Verdict]:
        """Return (a view, where in it a follower goes on that has seen `id`, how it was found).

        The view is the one given, or a later one: of a log that can be read by others an event may
        be known that is not committed yet. Blocks while the log is searched: see `Search.after`.
        """
        unfinished = self._writer.unfinished
        offset, verdict = self._head.search(view.log).after(view, id, work)
        if verdict is not Verdict.EXACT and unfinished:
            unfinished.wait()
            view = self.view
            offset, verdict = self._head.search(view.log).after(view, id, work)
        return view, offset, verdict

    def before(self, view: View, id: bytes, time: int | None, work: Work) -> View | None:
        """Return the view that ends before an event, or the first of a `time` or later.

        None if there is no such event. See `Search.before`.
        """
        end = self._head.search(view.log).before(view, id, time, work)
        return None if end is None else work.do(View.of, view.log, end)

    def later_than(self, view: View, time: int, work: Work) -> int:
        """Return the offset of the first event whose id is a later time, in ns since 1970."""
        return self._head.search(view.log).later_than(view, time, work)

    def last(self, view: View, count: int, start: int, types: frozenset[bytes], work: Work) -> int:
        """Return the offset of the last `count` events, of these types if any are given.

        None of them is before `start`. Blocks while the log is read, from its end.
        """
        return self._head.search(view.log).last(view, count, start, types, work)

    def digest(self, view: View, work: Work) -> bytes | None:
        """Return the SHA-256 of a view's rows, all of them; None if it is not known soon.

        Blocks for up to 64 MiB that were not hashed yet; more is hashed in the background.
        """
        return self._head.digest(view.log).of(view.end, work)

    # -- reading -------------------------------------------------------------------------

    def read(
        self, view: View, offset: int, types: frozenset[bytes] = EVERY, work: Work | None = None
    ) -> Iterator[Stretch]:  # fmt: skip
        """Yield the rows of a view from an offset on; with `types`, such events at least.

        Few at first, and then more: the first are there soon, and are all for one who wants few.
        Blocks; raises `StorageError`, and `ClientLeft`: the rows are read as the client's `work`,
        which must be told what the client has heard. Raises `ConnectionResetError` if rows have
        been removed before they were read: an answer that ended well would hide that.
        """
        work, size = work or Work(), FIRST_BYTES
        while offset < view.end:
            work.check()
            stretch = self._stretch(view.log, offset, view.end, types, work, size)
            if stretch.rows:
                yield stretch
            elif not stretch.is_selected:
                raise ConnectionResetError(errno.ECONNRESET, f"{view.log.name} has lost rows")
            offset, size = stretch.end, min(2 * size, READ_BYTES)

    def follow(
        self, log: Log, offset: int, heartbeat: float, client: socket | None = None,
        timeout: float | None = None, push: Push | None = None, types: frozenset[bytes] = EVERY,
    ) -> Iterator[Stretch | Place]:  # fmt: skip
        """Yield the rows from an offset on, as they are committed; where it stands, for silence.

        `heartbeat` is the silence in seconds. Ends after `timeout` seconds (0: as soon as there
        is nothing more) with where it stands, and when the hub drains. With the `client`'s socket,
        an EOF or a byte from the client is a silence too, and shorter ones follow, so that a client
        that has gone is found out: of two heartbeats in short order the second cannot be sent. (An
        EOF alone is no proof: a client may close only its sending side.)

        With `push`, rows may go to the socket instead, while the caller waits for the next. With
        `types`, rows of others are passed over as far as they are not in memory: raises
        `ClientLeft` if that takes long, and the client has.
        """
        follower = Follower(self.followers, log, offset, client, push)
        return self.go_on(follower, heartbeat, timeout, types)

    def go_on(
        self, follower: Follower, heartbeat: float, timeout: float | None = None,
        types: frozenset[bytes] = EVERY, stream: Stream | None = None,
    ) -> Iterator[Stretch | Place]:  # fmt: skip
        """Yield what `follow` does, for a follower that is new, or was parked.

        With a `stream`, it is parked wherever it can be: raises `Parked`, and the stream goes on
        with it. One that has lagged may lag again soon, which would take a greenlet each time: it
        is parked after a while at the tail.
        """
        work = Work(follower.client)
        silence = Silence(heartbeat, timeout, follower.pushed_at)
        is_calm = follower.stream is None  # it was never parked
        size = FIRST_BYTES
        with follower:
            follower.send_rest()
            while not self.draining:
                view = self.view
                if follower.is_passed:
                    return
                if end := self.more(follower):
                    if timeout and silence.left() is None:
                        yield Place(follower.log, follower.offset)
                        return
                    stretch = self.take(follower, end, types, work, size)
                    size = min(2 * size, READ_BYTES)
                    if stretch.rows:
                        yield stretch
                        work.heard()
                        silence.end()
                    del stretch  # if the log was cut, there may be another file by now
                    continue
                if types:
                    work = Work(follower.client)  # what comes next is searched in a new one
                seconds = silence.left(follower.pushed_at)
                if seconds is None:
                    yield Place(follower.log, follower.offset)
                    return
                assert self.view is view, "a commit that came meanwhile would be missed"
                may_park = stream is not None and follower.can_be_parked
                if seconds > 0 and may_park and is_calm:
                    assert stream
                    follower.park(silence.began, stream)
                    raise Parked
                if seconds > 0:
                    woken = follower.wait(min(seconds, CALM_SECONDS) if may_park else seconds)
                    is_calm = woken is False
                    if woken is not None:
                        continue
                silence.probe(is_first=seconds > 0)
                yield Place(follower.log, follower.offset)
                silence.end()

    def more(self, follower: Follower) -> int:
        """Return the end of the rows that a follower has not seen; 0 if it has seen all of them.

        One that has seen all of a log that was replaced is moved to the next. No greenlet switches.
        """
        while True:
            log, view = follower.log, self.view
            end = view.end if log is view.log else log.end  # an old one is read to its own end
            if follower.offset < end:
                return end
            moved = self.followers.moved(log)
            if not moved:
                return 0
            follower.log, follower.offset = moved

    def take(
        self, follower: Follower, end: int, types: frozenset[bytes], work: Work,
        size: int = READ_BYTES,
    ) -> Stretch:  # fmt: skip
        """Return the next of the rows up to an end, of which there are some; move a follower on.

        With `types`, there may be none of them in the stretch. Blocks; raises `StorageError`. It
        stays where its rows are gone, and is passed by then, unless all of the log is.
        """
        stretch = self._stretch(follower.log, follower.offset, end, types, work, size)
        if stretch.rows or stretch.is_selected:
            follower.offset = stretch.end
        elif not follower.is_passed:  # the file was cut: there will be another
            follower.offset = end
        return stretch

    def _stretch(
        self, log: Log, offset: int, end: int, types: frozenset[bytes], work: Work, size: int
    ) -> Stretch:
        stretch = self._tail.at(log, offset)
        if stretch and stretch.end <= end:
            return stretch
        until = self._tail.until(log, offset, end)
        if types:
            rows, place = self._head.search(log).select(offset, until, types, work)
            if place is not None:
                return Stretch(log, offset, rows, self._malformed, place)
            return Stretch(log, offset, b"", self._malformed)
        return self._read(read_stretch, log, offset, until, self._malformed, size)

    # -- stopping ------------------------------------------------------------------------

    def drain(self) -> None:
        """Let every follower end, now and from now on. Publishing goes on."""
        self.draining = True
        self.followers.wake()
