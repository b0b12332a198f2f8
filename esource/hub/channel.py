"""One channel: the queue, the writer, the commit, and where readers go on.

A channel is a log and a position in it, `committed`. Publishing moves `committed`; reading
goes from an offset to `committed`, then waits for it to move:

    publishers ──► queue ──► writer ──► log.append ──► committed moves
                                                        1. the publishers are answered
                                                        2. the readers have it
    readers: offset < committed?  ── yes ──►  rows, offset moves
                                  ── no ───►  wait

So live, resumed and slow readers are one loop and differ in their offset alone. None of
them has a queue: who is slow reads the file later. The last commits are also kept in
memory, encoded once for all who read at the tail.

Group commit: the rows of all who publish while the writer is at the disk become the next
commit, which is one write and one sync.

Greenlets switch only where they wait. Lines that rely on it say so.
"""

import logging
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import BoundedSemaphore
from gevent.queue import Empty, SimpleQueue

from esource.errors import EsourceError, LogStale, StorageError
from esource.event import Event, micros_of
from esource.hub.download import send_for_a_while
from esource.hub.followers import Direct, News, Reader, Readers
from esource.hub.loop import commits, in_thread, reads
from esource.hub.search import Search, id_before
from esource.hub.stats import Stats
from esource.hub.tail import READ_BYTES, Batch, few_rows, read_few
from esource.hub.writer import TAIL_BYTES, Commit, Precondition, Receipt
from esource.log.file import Log
from esource.rows import tsv
from esource.rows.dedup import Dedup
from esource.rows.find import Verdict
from esource.rows.tsv import Draft, Encode

logger = logging.getLogger(__name__)

COMMIT_BYTES = 1 << 22  # of rows after which the next publisher begins another commit
TAIL_BATCHES = 256  # of the last commits kept in memory, at most
PUSH_BYTES = 1 << 16  # of encoded events sent to a reader at a time: what its socket may take
WRITER_IDLE_SECONDS = 0.1  # after which a channel of which nobody else knows is closed
SYNC_SECONDS = 1.0  # between syncs under ESOURCE_FSYNC=interval
PROBE_SECONDS = 0.05  # after a client's EOF, and then twice as long each time
NO_NEWS = News(b"", 0, 0, False)
NAMED_ROWS = 100  # of those that are not events; a file of another kind must not flood the log
# Publishers' ids of the default form move the hub's own next one, until the year 9000.
FOLLOWED_MICROS = micros_of(b"9000-01-01T00:00:00.000000Z") or 0


class Position(NamedTuple):
    """A place in a file: where a row begins, or the end. The file may since have been replaced."""

    log: Log
    offset: int


class Channel:
    """An ordered, append-only list of events in one file.

    It needs no closing: an idle channel holds no greenlet, and its file is closed with
    the last reference to it.
    """

    def __init__(
        self, path: Path, fsync: str = "always", dedup_events: int = 10_000,
        stats: Stats | None = None,
    ) -> None:  # fmt: skip
        """Name a channel; its file need not exist. Nothing is opened yet."""
        self.path = path
        self.name = path.stem
        self.stats = stats or Stats()
        self.committed = 0  # bytes; where readers stop
        self.newest_id = b""  # of the event before `committed`
        self.readers = Readers(self.stats)
        self.draining = False
        self._fsync = fsync
        self._dedup_events = dedup_events
        self._log: Log | None = None
        self._search: Search | None = None  # in the log
        self._file_lock = BoundedSemaphore(1)  # held while the file is written or opened
        # Where those go on who still have a log that was replaced, readers and searches.
        self._successors: WeakKeyDictionary[Log, Position] = WeakKeyDictionary()
        self._newest_micros = -2  # of the greatest default id given or found; -2: not looked for
        self._queue: SimpleQueue[Commit] = SimpleQueue()
        self._open_commit: Commit | None = None  # the last in the queue, which takes more rows
        self._unfinished: Commit | None = None  # the last that was begun, until it is done
        self._writer: gevent.Greenlet | None = None
        self._tail: dict[int, Batch] = {}  # the last commits, by offset; no gaps
        self._tail_bytes = 0
        self._newest_news: tuple[Any, News] = None, NO_NEWS  # for whom, and what
        self._recent: Dedup | None = None
        self._sync_due = False
        self._named: set[int] = set()  # offsets of rows that are not events, already logged
        self._line = 0, 1  # the offset of the last of them, and the number of its line

    # -- the file ------------------------------------------------------------------------

    def open(self) -> "Channel":
        """Open and repair the file if that was not done yet. Blocks; raises `StorageError`."""
        if self._log is None:
            with self._file_lock:
                if self._log is None:
                    self._take(in_thread(reads(), Log, self.path, self._fsync != "never"))
        return self

    @property
    def is_open(self) -> bool:
        """Whether `open` has returned."""
        return self._log is not None

    @property
    def log(self) -> Log:
        """The file as it was opened; `open` must have returned."""
        assert self._log is not None
        return self._log

    @property
    def tail(self) -> Position:
        """Where the next event will be."""
        return Position(self.log, self.committed)

    def version(self, end: int) -> str:
        """Return what names an end of the file: another with every append, and for every file."""
        return f"{self.log.inode:x}-{end:x}"

    def _take(self, log: Log, search: Search | None = None) -> None:
        """Go on with a log, and with what is known of it."""
        newest_id = in_thread(reads(), id_before, log, log.end)
        if self._newest_micros != -2:  # else it is looked for when it is needed
            newest_micros = in_thread(reads(), _newest_micros, log)
            self._newest_micros = max(self._newest_micros, newest_micros)
        # No greenlet switch from here: offset, id and file belong together.
        log.sync = self._fsync == "always"
        self._log = log
        if self._search is None or self._search.log is not log:
            if self._search:
                self._search.close()
            self._search = search or Search(log)
        self.committed = log.end
        self.newest_id = newest_id
        self._recent = None
        self._forget_tail()

    def refresh(self) -> None:
        """See whether somebody else changed the file, and read it anew. Blocks.

        Publishing sees it anyway; this is for those who only read. Raises `StorageError`.
        """
        if self.log.failed:
            return  # what is after `end` may be ours, and refused; the next append sees to it
        try:
            in_thread(reads(), self.log.check_unchanged)
        except LogStale as stale:
            if self._file_lock.locked():
                return  # an append in progress: it looks like a change, and sees to others'
            with self._file_lock:
                self._follow_change(stale)

    def _follow_change(self, stale: LogStale) -> None:
        """Take in what others appended, or move to the file that now has this name."""
        if not in_thread(reads(), self.log.is_same_file):
            logger.warning("%s; opening it anew", stale)
            self._reopen()
        elif in_thread(reads(), self.log.take_in):
            self._take(self.log)
            self.readers.wake()

    def _reopen(self) -> None:
        """Open the file anew after a fault or a change from outside; readers move over."""
        old, newest_id = self.log, self.newest_id
        new = in_thread(reads(), old.reopened)
        if new.read_only and old.read_only and old.is_same_file():
            return
        search, offset = Search(new), old.end
        if new.inode != old.inode or in_thread(reads(), id_before, new, offset) != newest_id:
            logger.error(
                "%s: a file with %d acknowledged bytes (newest id %r) is gone from this name",
                old.path, old.end, newest_id.decode(errors="replace"),
            )  # fmt: skip
            offset, _ = search.after(new.end, newest_id)
        self._take(new, search)
        # No greenlet switch since the log was replaced: who has the old one needs this.
        self._successors[old] = Position(new, offset)
        self.readers.wake()

    # -- publishing ----------------------------------------------------------------------

    def publish(self, event: Event) -> Event:
        """Append an event; return it with its id.

        Blocks until it is committed: on disk, under ESOURCE_FSYNC=always. Raises
        `StorageError`; then the event is not in the file.
        """
        receipt = self.append([tsv.draft(event)]).wait()
        return event._replace(id=receipt.first)

    def append(
        self,
        drafts: Sequence[Draft],
        precondition: Precondition | None = None,
        unique: bool = False,
        after: Receipt | None = None,
    ) -> Receipt:
        """Queue rows, at least one, to be committed as one run with nothing in between.

        Those without id get default ids. A `precondition` is asked right before, with the
        end and the newest id of all that goes before, and raises if they are not to be
        appended. With `unique`, rows that are among the recent ones are left out, and an id
        that is there with other content makes all of it fail. `after` others they are only
        appended if those were.

        Returns at once, but for the first time, when the newest default id is looked for.
        """
        if self._newest_micros == -2:
            newest = in_thread(reads(), _newest_micros, self.log)
            self._newest_micros = max(self._newest_micros, newest)
        # No greenlet switch from here to the end: ids are in the order of rows.
        now = time.time_ns() // 1000
        commit = self._open_commit
        if commit is None or commit.size >= COMMIT_BYTES:
            commit = self._open_commit = self._unfinished = Commit()
            self._queue.put(commit)
            if self._writer is None:
                self._writer = gevent.spawn(self._write)
        timed = []
        for draft in drafts:
            newest = -1 if draft.newest_micros is None else draft.newest_micros
            if self._newest_micros < newest < FOLLOWED_MICROS:
                self._newest_micros = newest
            micros = max(now, self._newest_micros + 1)
            if draft.without_id:
                self._newest_micros = micros + draft.without_id - 1
            timed.append((draft, micros))
            commit.size += len(draft.rows)
        receipt = Receipt(commit, timed, precondition, unique, after)
        commit.receipts.append(receipt)
        return receipt

    def _write(self) -> None:
        """Be the writer greenlet: commit what is queued, until the channel is idle."""
        while True:
            try:
                commit = self._queue.get(timeout=WRITER_IDLE_SECONDS)
            except Empty:
                # No greenlet switch from here: who publishes next must find no writer.
                if not self._queue.qsize():
                    self._writer = None
                    if not self.readers.are_being_told:
                        self._forget_tail()  # who still lacks something reads the file
                    return
                continue
            # No greenlet switch from here until it takes no more rows.
            if commit is self._open_commit:
                self._open_commit = None
            began, size = time.monotonic(), 0
            try:
                size = self._commit(commit)
            except EsourceError as error:
                logger.error(
                    "%s: %d publishers refused: %s", self.path, len(commit.receipts), error
                )
                commit.error = error
            except Exception as error:
                logger.exception("%s: %d publishers refused", self.path, len(commit.receipts))
                commit.error = StorageError(f"cannot write {self.path.name}: {error!r}")
            if commit is self._unfinished:
                self._unfinished = None
            if commit.error:
                self._recent = None  # it may know rows that are not in the file
            commit.done.set()
            self._count(commit, size, time.monotonic() - began)
            # After the publishers, who are many and wait for a row that is on disk: both are
            # callbacks of the loop, which runs them in the order of these two lines.
            if self.readers and not commit.error:
                self.readers.tell(self._news_for)

    def _count(self, commit: Commit, size: int, seconds: float) -> None:
        """Count a commit of `size` bytes that has been done, well or badly."""
        stats, now, events = self.stats, time.monotonic(), 0
        for receipt in commit.receipts:
            receipt._after = None  # or an endless stream would be an endless chain
            events += receipt.appended
            stats.publish_seconds.observe(now - receipt.queued)
        if commit.error:
            stats.failed_commits += 1
        elif size:
            synced = self.log.sync_seconds if self.log.sync else 0.0
            stats.committed(self.name, events, size, seconds, synced, now)

    def _commit(self, commit: Commit) -> int:
        """Append what is queued and move `committed`; return how many bytes were appended."""
        with self._file_lock:
            if self.log.failed or self.log.read_only:
                self._reopen()
            try:
                rows, offset = self._append(commit)
            except LogStale as stale:
                self._recent = None
                self._follow_change(stale)
                if self.log.is_torn:
                    self._reopen()
                rows, offset = self._append(commit)
        # No greenlet switch from here: offset, id and tail belong together.
        if self.log.end == self.committed:
            return 0  # no precondition held, or every event was there already
        if self.readers:
            self._keep(offset, rows)
        self.committed = self.log.end
        self.newest_id = next(r.last for r in reversed(commit.receipts) if r.last)
        if self._fsync == "interval" and not self._sync_due:
            self._sync_due = True
            gevent.spawn_later(SYNC_SECONDS, self.sync)
        return self.committed - offset

    def _append(self, commit: Commit) -> tuple[bytes, int]:
        if self._recent is None and any(receipt._unique for receipt in commit.receipts):
            rows = in_thread(reads(), _last_rows, self.log, self._dedup_events)
            self._recent = Dedup(self._dedup_events, rows)
        return in_thread(commits(), commit.append_to, self.log, self.newest_id, self._recent)

    def sync(self) -> None:
        """Put what is committed on disk (ESOURCE_FSYNC=interval does so later than it commits)."""
        if not self._sync_due:
            return
        self._sync_due = False
        with suppress(StorageError):  # logged there; the log refuses writes from now on
            in_thread(commits(), self.log.flush)
            self.stats.sync_seconds.observe(self.log.sync_seconds)

    # -- the tail in memory --------------------------------------------------------------

    def _keep(self, offset: int, rows: bytes) -> None:
        """Keep the last commits in memory, without a gap up to `committed`."""
        if offset != self.committed or not rows:
            self._forget_tail()
        start = 0
        while start < len(rows):
            few = few_rows(rows[start : start + READ_BYTES]) or rows[start:]
            self._tail[offset + start] = Batch(offset + start, few)
            start += len(few)
        self._tail_bytes += len(rows)
        while len(self._tail) > TAIL_BATCHES or (
            self._tail_bytes > TAIL_BYTES and len(self._tail) > 1
        ):
            oldest = self._tail.pop(next(iter(self._tail)))
            self._tail_bytes -= len(oldest.rows)

    def _forget_tail(self) -> None:
        self._tail.clear()
        self._tail_bytes = 0
        self._newest_news = None, NO_NEWS

    # -- finding a place -----------------------------------------------------------------

    def after(self, id: bytes) -> tuple[Position, Verdict]:
        """Return where a reader goes on who has seen `id`, and how it was found.

        How is `EXACT`, `TIME` or `START`: see `Search.after`. Blocks while the file is
        searched, block by block in a thread.
        """
        search, unfinished = self._searched, self._unfinished
        offset, verdict = search.after(self.committed, id)
        if verdict is not Verdict.EXACT and unfinished:
            # Who reads the file itself may know an event that is not committed yet.
            unfinished.done.wait()
            search = self._searched
            offset, verdict = search.after(self.committed, id)
        return Position(search.log, offset), verdict

    def later_than(self, time: int) -> Position:
        """Return the place of the first event whose id is a later time, in ns since 1970."""
        search = self._searched
        return Position(search.log, search.later_than(self.committed, time))

    def last(self, count: int, start: int, types: frozenset[bytes]) -> Position:
        """Return the place of the last `count` events, of these types if any are given.

        None of them is before `start`. Blocks while the file is read, from its end.
        """
        search = self._searched
        return Position(search.log, search.last(self.committed, count, start, types))

    @property
    def _searched(self) -> Search:
        assert self._search
        return self._search

    # -- reading -------------------------------------------------------------------------

    def read(self, position: Position, end: int) -> Iterator[Batch]:
        """Yield the rows from a position to an end, in batches."""
        log, offset = position
        while offset < end:
            batch = self._batch(log, offset, end)
            if not batch.rows:
                return
            yield batch
            offset += len(batch.rows)

    def follow(
        self, position: Position, heartbeat: float, client: Any = None,
        timeout: float | None = None, direct: Direct | None = None,
    ) -> Iterator[Batch | None]:  # fmt: skip
        """Yield every batch of rows from a position on, as it is committed; None for silence.

        `heartbeat` is the silence in seconds. Ends after `timeout` seconds (0: as soon as there
        is nothing more), and when the hub drains. With the `client`'s socket, an EOF or a byte
        from the client is a silence too, and shorter ones follow, so that a client who has gone
        is found out: of two heartbeats in short order the second cannot be sent. (An EOF alone
        is no proof: a client may close only its sending side.)

        With `direct`, a batch may go to the socket instead, while the caller waits for the next.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        probe = 0.0  # seconds until the next proof of life; 0 while the client is quiet
        spoke = time.monotonic()  # when the client last heard something
        with Reader(self.readers, position, client, direct, self._forget_tail) as reader:
            while not self.draining:
                end = self.committed if reader.log is self._log else reader.log.end
                if reader.offset < end:
                    if timeout and deadline is not None and time.monotonic() > deadline:
                        return
                    batch = self._batch(reader.log, reader.offset, end)
                    if batch.rows:
                        yield batch
                        reader.offset = batch.offset + len(batch.rows)
                        spoke = time.monotonic()
                        continue
                    reader.offset = end  # the file was cut under us; its successor is found below
                if reader.log is not self._log:
                    reader.log, reader.offset = self._successors.get(reader.log) or self.tail
                    continue
                now = time.monotonic()
                spoke = max(spoke, reader.pushed_at)
                seconds = spoke + min(probe or heartbeat, heartbeat) - now
                if deadline is not None:
                    if deadline <= now:
                        return
                    seconds = min(seconds, deadline - now)
                if seconds > 0:
                    # No greenlet switch since `committed` was read, or its news would be missed.
                    if reader.wait(seconds) is not None:
                        continue
                    probe = PROBE_SECONDS
                else:
                    probe = probe * 2 if probe < heartbeat else 0.0
                yield None
                spoke = time.monotonic()

    def _news_for(self, reader: Reader) -> News:
        """Return what a reader with `direct` is to be sent next.

        Nothing, if it is not in memory, or is so much that no socket takes it at once.
        """
        key = reader.log, reader.offset, self.committed, reader.direct
        if key == self._newest_news[0]:  # most readers are at the same offset
            return self._newest_news[1]
        pieces = []
        size, end, events = 0, reader.offset, 0
        direct = reader.direct
        while direct and reader.log is self._log and (batch := self._tail.get(end)):
            piece, count = self.encoded(batch, direct.encode)
            size += len(piece)
            if size > PUSH_BYTES:
                break
            pieces.append(piece)
            end += len(batch.rows)
            events += count
        data = b"".join(pieces)
        if direct and direct.is_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        is_all = reader.log is self._log and end == self.committed
        self._newest_news = key, News(data, events, end, is_all)
        return self._newest_news[1]

    def _batch(self, log: Log, offset: int, end: int) -> Batch:
        if log is self._log:
            if offset in self._tail and offset + len(self._tail[offset].rows) <= end:
                return self._tail[offset]
            if self._tail:  # read up to where the shared batches begin
                first = next(iter(self._tail))
                end = first if offset < first < end else end
        return Batch(offset, in_thread(reads(), read_few, log, offset, end))

    def encoded(self, batch: Batch, encode: Encode) -> tuple[bytes, int]:
        """Return a batch in a format, and how many events it is (see `Batch.encoded`).

        Rows that are not events are named in the log, once.
        """
        encoded = batch.encoded(encode)
        if batch.malformed:
            self.stats.malformed += len(batch.malformed)
            batch.malformed = []
            if len(self._named) < NAMED_ROWS:
                gevent.spawn(self._name_malformed, batch)  # the reader need not wait for it
        return encoded

    def _name_malformed(self, batch: Batch) -> None:
        """Name in the log the lines of a batch that are not events, once each."""
        places = [batch.offset + offset for offset in tsv.malformed(batch.rows)]
        places = [place for place in places if place not in self._named]
        for place in places[: NAMED_ROWS - len(self._named)]:
            self._named.add(place)
            offset, line = self._line if self._line[0] <= place else (0, 1)
            line += in_thread(reads(), _lines_between, self.log, offset, place)
            self._line = place, line
            logger.warning("%s, line %d: not an event (fewer than two tabs)", self.path, line)
            if len(self._named) == NAMED_ROWS:
                logger.warning("%s: more such lines are not named", self.path)

    def send(self, position: Position, end: int, client: Any) -> Iterator[bytes]:
        """Send bytes of the file to a client; yield those that it could not be sent directly.

        First yields nothing, `b""`, so that the server sends its headers. With a plain
        socket the rest is `sendfile`, in a thread: reading a cold file blocks.
        """
        log, offset = position
        yield b""
        if client is None or isinstance(client, ssl.SSLSocket):
            while offset < end:
                piece = in_thread(reads(), log.pread, offset, min(READ_BYTES, end - offset))
                if not piece:
                    return
                yield piece
                offset += len(piece)
            return
        fd = client.fileno()
        with self.readers.sending(client):
            while offset < end:
                sent, is_full = in_thread(reads(), send_for_a_while, log, fd, offset, end)
                offset += sent
                if is_full:
                    gevent.socket.wait_write(fd)
                elif not sent:  # the file was cut under us: the client sees that bytes are missing
                    raise ConnectionAbortedError(f"{self.path.name} ended before byte {end}")

    # -- stopping ------------------------------------------------------------------------

    def drain(self) -> None:
        """Let every reader end, now and from now on. Publishing goes on."""
        self.draining = True
        self.readers.wake()


# -- of files, in threads -------------------------------------------------------------------


def _newest_micros(log: Log) -> int:
    """Return the greatest time of a default id near the end, in microseconds; -1 without one.

    Near the end is the last block that holds one. The hub's own ids increase, so the last
    is the greatest; publishers' ids of the same form may not, and are looked at that far.
    """
    return next(
        (new for _, rows in log.backwards() if (new := tsv.newest_micros(rows)) is not None), -1
    )


def _last_rows(log: Log, count: int) -> bytes:
    """Return the rows of the last `count` events."""
    blocks = []
    for _, rows in log.backwards():
        place, found = tsv.last(rows, count, frozenset())
        blocks.append(rows[place:])
        count -= found
        if count <= 0:
            break
    return b"".join(reversed(blocks))


def _lines_between(log: Log, start: int, end: int) -> int:
    lines = 0
    for offset in range(start, end, READ_BYTES):
        lines += log.pread(offset, min(READ_BYTES, end - offset)).count(b"\n")
    return lines
