"""One channel: the queue, the writer, the commit, and the readers. All of gevent is here.

A channel is a log and a position in it, `committed`. Publishing moves `committed`;
reading goes from an offset to `committed`, then waits for it to move:

    publishers ──► queue ──► writer ──► log.append ──► committed moves
                                                        1. the publishers are answered
                                                        2. the readers are woken
    readers: offset < committed?  ── yes ──►  rows, offset moves
                                  ── no ───►  wait

So live, resumed and slow readers are one loop and differ in their offset alone. None of
them has a queue: who is slow reads the file later. The last commits are also kept in
memory, encoded once for all who read at the tail.

Group commit: what is in the queue when the writer comes round is one write and one sync.
While it is at the disk, in a thread, the queue fills for the next round.

Greenlets switch only where they wait. Lines that rely on it say so.
"""

import functools
import logging
import socket as sockets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import gevent
from gevent.event import Event as Signal  # an event is always an `event.Event`
from gevent.lock import BoundedSemaphore
from gevent.queue import Empty, SimpleQueue
from gevent.threadpool import ThreadPool

from esource import resume, tsv
from esource.errors import EsourceError, LogStale, StorageError
from esource.event import Event, default_id, micros_of, time_of
from esource.log import Log

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Encodes whole rows, and puts those that are not events into the list.
Encode = Callable[[bytes, list[bytes]], bytes]

READ_BYTES = 1 << 18  # of rows encoded at a time: about a millisecond of the loop
SCAN_BYTES = 1 << 20  # of rows searched at a time, in a thread: about half a millisecond
SEND_BYTES = 1 << 20  # of a download, in a thread
TAIL_BYTES = 1 << 20  # of rows of the last commits kept for the readers at the tail
COHORT = 64  # readers woken in one go; then others get a turn
WRITER_IDLE_SECONDS = 30.0
SYNC_SECONDS = 1.0  # between syncs under ESOURCE_FSYNC=interval
PROBE_SECONDS = 0.05  # after a client's EOF, and then twice as long each time
NAMED_ROWS = 100  # of those that are not events; a file of another kind must not flood the log


@functools.cache
def _commits() -> ThreadPool:
    """Return the threads that write and sync. gevent's own are everybody's: no place to queue."""
    return ThreadPool(32)


@functools.cache
def _reads() -> ThreadPool:
    return ThreadPool(8)


class Batch:
    """Whole rows that stand together in the file, encoded at most once for each format."""

    __slots__ = ("_encoded", "malformed", "offset", "rows")

    def __init__(self, offset: int, rows: bytes) -> None:
        self.offset = offset
        self.rows = rows
        self.malformed: list[bytes] = []
        self._encoded: dict[Encode, bytes] = {}

    def encoded(self, encode: Encode) -> bytes:
        """Return the rows in a format."""
        if encode not in self._encoded:
            self.malformed = []
            self._encoded[encode] = encode(self.rows, self.malformed)
        return self._encoded[encode]


class _Commit:
    """What the publishers of one batch wait for: one signal for all is cheaper than one each."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = Signal()
        self.error: EsourceError | None = None


class _Cohort:
    """Up to `COHORT` readers, who are woken together."""

    __slots__ = ("readers", "signal")

    def __init__(self) -> None:
        self.readers = 0
        self.signal = Signal()

    def wake(self) -> None:
        # A fresh signal first: who is woken and waits again waits for the next commit.
        signal, self.signal = self.signal, Signal()
        signal.set()


class _Readable(BaseException):
    """Thrown into a waiting reader when its client's socket has something to read."""


class Channel:
    """An ordered, append-only list of events in one file.

    It needs no closing: an idle channel holds no greenlet, and its file is closed with
    the last reference to it.
    """

    def __init__(self, path: Path, fsync: str = "always") -> None:
        """Name a channel; its file need not exist. Nothing is opened yet."""
        self.path = path
        self.committed = 0  # bytes; where readers stop
        self.newest_id = b""  # of the event before `committed`
        self.malformed_rows = 0  # how often readers met a row that is not an event
        self._fsync = fsync
        self._log: Log | None = None
        # Where the readers of a log that was replaced go on.
        self._successors: dict[Log, tuple[Log, int]] = {}
        self._file_lock = BoundedSemaphore(1)  # held while the file is written or opened
        self._newest_micros = -1  # of the greatest default id given or found
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._commit = _Commit()  # of what is in the queue
        self._writer: gevent.Greenlet | None = None
        self._tail: dict[int, Batch] = {}  # the last commits, by offset; no gaps
        self._tail_bytes = 0
        self._cohorts: list[_Cohort] = []
        self._waker: gevent.Greenlet | None = None
        self._stale = False  # a cohort may not know of the newest commit
        self._sync_due = False
        self._draining = False
        self._sockets: set[Any] = set()  # of the clients who follow
        self._named: set[int] = set()  # offsets of rows that are not events, already logged

    def open(self) -> "Channel":
        """Open and repair the file if that was not done yet. Blocks; raises `StorageError`."""
        if self._log is None:
            with self._file_lock:
                if self._log is None:
                    log = _in_thread(_reads(), Log, self.path, self._fsync != "never")
                    self._newest_micros = _in_thread(_reads(), _newest_micros, log)
                    self._take(log)
        return self

    def _take(self, log: Log) -> None:
        newest_id = _in_thread(_reads(), _newest_id, log)
        # No greenlet switch from here: offset, id and file belong together.
        log.sync = self._fsync == "always"
        self._log = log
        self.committed = log.end
        self.newest_id = newest_id
        self._tail.clear()
        self._tail_bytes = 0

    @property
    def log(self) -> Log:
        """The file as it was opened; `open` must have returned."""
        assert self._log is not None
        return self._log

    # -- publishing ----------------------------------------------------------------------

    def publish(self, event: Event) -> Event:
        """Append an event; return it with its id.

        Blocks until it is committed: on disk, under ESOURCE_FSYNC=always. Events that
        are published meanwhile share the commit. Raises `StorageError`; then the event is
        not in the file.
        """
        # No greenlet switch from here to the queue: ids are in the order of rows.
        if not event.id:
            self._newest_micros = max(time.time_ns() // 1000, self._newest_micros + 1)
            event = event._replace(id=default_id(self._newest_micros))
        else:
            self._newest_micros = max(self._newest_micros, micros_of(event.id))
        commit = self._commit
        self._queue.put(tsv.encode(event))
        if self._writer is None:
            self._writer = gevent.spawn(self._write)
        commit.done.wait()
        if commit.error:
            raise type(commit.error)(*commit.error.args) from commit.error
        return event

    def _write(self) -> None:
        """Be the writer greenlet: commit what is queued, until the channel is idle."""
        while True:
            try:
                rows = [self._queue.get(timeout=WRITER_IDLE_SECONDS)]
            except Empty:
                # No greenlet switch from here: who publishes next must find no writer.
                if not self._queue.qsize():
                    self._writer = None
                    return
                continue
            # No greenlet switch from here to the new commit: it is of the next batch.
            while self._queue.qsize():
                rows.append(self._queue.get_nowait())
            commit, self._commit = self._commit, _Commit()
            try:
                self._append(b"".join(rows), rows[-1])
            except EsourceError as error:
                logger.error("%s: %d events refused: %s", self.path.name, len(rows), error)
                commit.error = error
            except Exception as error:
                logger.exception("%s: %d events refused", self.path.name, len(rows))
                commit.error = StorageError(f"cannot write {self.path.name}: {error!r}")
            commit.done.set()
            # After the publishers, who are many and wait for a row that is on disk: both are
            # callbacks of the loop, which runs them in the order of these two lines.
            if not commit.error:
                self._wake_readers()

    def _append(self, rows: bytes, last_row: bytes) -> None:
        with self._file_lock:
            if self.log.failed:
                self._reopen()
            try:
                _in_thread(_commits(), self.log.append, rows)
            except LogStale as stale:
                logger.warning("%s; opening it anew", stale)
                self._reopen()
                _in_thread(_commits(), self.log.append, rows)
        # No greenlet switch from here: offset, id and tail belong together.
        if self._cohorts:
            self._keep(Batch(self.committed, rows))
        self.committed += len(rows)
        self.newest_id = last_row[: last_row.index(b"\t")]
        if self._fsync == "interval" and not self._sync_due:
            self._sync_due = True
            gevent.spawn_later(SYNC_SECONDS, self.sync)

    def _keep(self, batch: Batch) -> None:
        """Keep the last commits in memory, without a gap up to `committed`."""
        newest = next(reversed(self._tail.values()), None)
        if newest and newest.offset + len(newest.rows) != batch.offset:
            self._tail.clear()
            self._tail_bytes = 0
        self._tail[batch.offset] = batch
        self._tail_bytes += len(batch.rows)
        while self._tail_bytes > TAIL_BYTES and len(self._tail) > 1:
            oldest = self._tail.pop(next(iter(self._tail)))
            self._tail_bytes -= len(oldest.rows)

    def sync(self) -> None:
        """Put what is committed on disk (ESOURCE_FSYNC=interval does so later than it commits)."""
        if not self._sync_due:
            return
        self._sync_due = False
        with suppress(StorageError):  # logged there; the log refuses writes from now on
            _in_thread(_commits(), self.log.flush)

    def refresh(self) -> None:
        """See whether somebody else changed the file, and if so open it anew. Blocks.

        Publishing sees it anyway; this is for those who only read. Raises `StorageError`.
        """
        try:
            _in_thread(_reads(), self.log.check_unchanged)
        except LogStale:
            with self._file_lock:  # an append in progress looks like a change, too
                try:
                    _in_thread(_reads(), self.log.check_unchanged)
                except LogStale as stale:
                    logger.warning("%s; opening it anew", stale)
                    self._reopen()
                    self._wake_readers()

    def _reopen(self) -> None:
        """Open the file anew after a fault or a change from outside; readers move over."""
        old, newest_id = self.log, self.newest_id
        new = _in_thread(_reads(), old.reopened)
        if new.continues(old):
            offset = old.end
            newest_micros = _in_thread(_reads(), _newest_micros, new)
            self._newest_micros = max(self._newest_micros, newest_micros)
        else:
            logger.error(
                "%s: a file with %d acknowledged bytes (newest id %r) is gone from this name",
                old.path, old.end, newest_id.decode(errors="replace"),
            )  # fmt: skip
            offset, _ = self._offset_after(new, new.end, newest_id)
        self._successors[old] = (new, offset)
        self._take(new)
        if not self._cohorts:
            self._successors.clear()

    # -- finding the way back in ---------------------------------------------------------

    def offset_after(self, id: bytes) -> tuple[int, str]:
        """Return where a reader goes on who has seen `id`, and how it was found.

        `exact`: after the first event with this id. `time`: the id is not there but is a
        time, as the newest is: at the first event of a later time. `start`: any other.
        Blocks while the file is searched, block by block in a thread.
        """
        while True:
            log = self.log
            found = self._offset_after(log, self.committed, id)
            if log is self._log:  # else the file was replaced while it was searched
                return found

    def _offset_after(self, log: Log, end: int, id: bytes) -> tuple[int, str]:
        offset = self._search(log, end, lambda rows: resume.after_id(rows, id))
        if offset >= 0:
            return offset, "exact"
        time = time_of(id)
        if time is None or time_of(_in_thread(_reads(), _newest_id, log)) is None:
            return 0, "start"
        offset = self._search(log, end, lambda rows: resume.later_than(rows, time))
        return (offset if offset >= 0 else end), "time"

    def _search(self, log: Log, end: int, find: Callable[[bytes], int]) -> int:
        """Return the first offset in the log where `find` finds something in a block; or -1."""

        def step(offset: int) -> tuple[int, int]:
            rows = log.read(offset, SCAN_BYTES, end)
            return find(rows), len(rows)

        offset = 0
        while offset < end:
            found, size = _in_thread(_reads(), step, offset)
            if found >= 0:
                return offset + found
            if not size:
                break
            offset += size
        return -1

    # -- reading -------------------------------------------------------------------------

    def follow(self, offset: int, heartbeat: float, client: Any = None) -> Iterator[Batch | None]:
        """Yield every batch of rows from `offset` on, as it is committed; None for silence.

        `heartbeat` is the silence in seconds. Ends when the hub drains. With the `client`'s
        socket, the reader is told at once that the client has gone: by two heartbeats in
        short order, of which the second cannot be sent. (An EOF alone is no proof: a
        client may close only its sending side.)
        """
        log = self.log
        cohort = self._join(client)
        readable = None
        if client is not None:
            readable = gevent.get_hub().loop.io(client.fileno(), 1)
        probe = 0.0  # seconds until the next proof of life; 0 while the client is quiet
        try:
            while not self._draining:
                end = self.committed if log is self._log else log.end
                if offset < end:
                    batch = self._batch(log, offset, end)
                    if batch.rows:
                        yield batch
                        offset = batch.offset + len(batch.rows)
                        continue
                    offset = end  # the file was cut under us; its successor is found below
                if log is not self._log:
                    log, offset = self._successors[log]
                    continue
                # No greenlet switch since `committed` was read, or its signal would be missed.
                woken = self._wait(cohort, min(probe or heartbeat, heartbeat), readable)
                if woken is None:
                    readable, probe = None, PROBE_SECONDS
                    yield None
                elif not woken:
                    probe = probe * 2 if probe < heartbeat else 0.0
                    yield None
        finally:
            if readable:
                readable.close()
            self._leave(cohort, client)

    def _batch(self, log: Log, offset: int, end: int) -> Batch:
        if log is self._log:
            if offset in self._tail:
                return self._tail[offset]
            if self._tail:  # read up to where the shared batches begin
                first = next(iter(self._tail))
                end = first if offset < first else end
        return Batch(offset, _in_thread(_reads(), log.read, offset, READ_BYTES, end))

    def _wait(self, cohort: _Cohort, seconds: float, readable: Any) -> bool | None:
        """Return True after a commit, False after `seconds`, None at the client's byte or EOF."""
        signal = cohort.signal
        try:
            if readable:
                # As gevent's Timeout does with a timer.
                readable.start(gevent.getcurrent().throw, _Readable)
            return bool(signal.wait(seconds))
        except _Readable:
            return None
        finally:
            if readable:
                readable.stop()

    def _join(self, client: Any) -> _Cohort:
        if client is not None:
            self._sockets.add(client)
        cohort = next((c for c in self._cohorts if c.readers < COHORT), None)
        if cohort is None:
            cohort = _Cohort()
            self._cohorts.append(cohort)
        cohort.readers += 1
        return cohort

    def _leave(self, cohort: _Cohort, client: Any) -> None:
        self._sockets.discard(client)
        cohort.readers -= 1
        if not cohort.readers:
            self._cohorts.remove(cohort)
        if not self._cohorts:
            self._successors.clear()
            self._tail.clear()
            self._tail_bytes = 0

    def _wake_readers(self) -> None:
        self._stale = True
        if self._waker is None and self._cohorts:
            self._waker = gevent.spawn(self._wake)

    def _wake(self) -> None:
        """Be the waker greenlet: ten thousand readers in slices, not in one long breath."""
        while self._stale:
            self._stale = False
            for cohort in list(self._cohorts):
                cohort.wake()
                gevent.sleep(0)
        # No greenlet switch since `_stale` was read.
        self._waker = None

    @property
    def subscribers(self) -> int:
        """How many follow this channel now."""
        return sum(cohort.readers for cohort in self._cohorts)

    def encoded(self, batch: Batch, encode: Encode) -> bytes:
        """Return a batch in a format; rows that are not events are named in the log, once."""
        text = batch.encoded(encode)
        if batch.malformed:
            self._name_malformed(batch)
        return text

    def _name_malformed(self, batch: Batch) -> None:
        self.malformed_rows += len(batch.malformed)
        batch.malformed = []
        for offset in tsv.malformed(batch.rows):
            place = batch.offset + offset
            if place in self._named or len(self._named) == NAMED_ROWS:
                continue
            self._named.add(place)
            line = 1 + _in_thread(_reads(), _lines_before, self.log, place)
            logger.warning("%s, line %d: not an event (fewer than two tabs)", self.path, line)
            if len(self._named) == NAMED_ROWS:
                logger.warning("%s: more such lines are not named", self.path)

    def send(self, client: Any, offset: int, end: int) -> Iterator[bytes]:
        """Send bytes of the file to a client; yield those that it could not be sent directly.

        First yields nothing, `b""`, so that the server sends its headers. With a plain
        socket the rest is `sendfile`, in a thread: reading a cold file blocks.
        """
        log = self.log
        yield b""
        if client is None or isinstance(client, ssl.SSLSocket):
            while offset < end:
                piece = _in_thread(_reads(), log.pread, offset, min(READ_BYTES, end - offset))
                if not piece:
                    return
                yield piece
                offset += len(piece)
            return
        fd = client.fileno()
        while offset < end:
            try:
                sent = _in_thread(_reads(), log.sendfile, fd, offset, min(SEND_BYTES, end - offset))
            except BlockingIOError:
                gevent.socket.wait_write(fd)
                continue
            if not sent:  # the file was cut under us: the client sees that bytes are missing
                raise ConnectionAbortedError(f"{self.path.name} ended before byte {end}")
            offset += sent

    # -- stopping ------------------------------------------------------------------------

    def drain(self) -> None:
        """Let every reader end, now and from now on. Publishing goes on."""
        self._draining = True
        self._wake_readers()

    def cut_off(self) -> None:
        """Shut the sockets of readers who have not ended: they are stuck in a send."""
        for client in list(self._sockets):
            # On a second descriptor: gevent would fail the sender on the first one, noisily.
            with suppress(OSError), client.dup() as twin:
                twin.shutdown(sockets.SHUT_RDWR)


def _in_thread(pool: ThreadPool, function: Callable[..., T], *args: object) -> T:
    """Call a blocking function; the greenlet waits, the loop does not."""
    result, error = pool.apply(_caught, (function, args))
    if error:
        raise error
    return result  # type: ignore[no-any-return]


def _caught(
    function: Callable[..., T], args: tuple[object, ...]
) -> tuple[T | None, Exception | None]:
    """Return the result and the error: gevent prints a traceback of what a thread raises."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error


def _newest_id(log: Log) -> bytes:
    """Return the id of the last event in the log; empty if there is none."""
    for rows in log.backwards():
        for row in reversed(rows.split(b"\n")):
            fields = row.split(b"\t", 2)
            if len(fields) == 3:
                return fields[0]
    return b""


def _newest_micros(log: Log) -> int:
    """Return the greatest time of a default id near the end, in microseconds; -1 without one.

    Near the end is the last block that holds one. The hub's own ids increase, so the last
    is the greatest; publishers' ids of the same form may not, and are looked at that far.
    """
    for rows in log.backwards():
        newest = max(micros_of(row.partition(b"\t")[0]) for row in rows.split(b"\n"))
        if newest >= 0:
            return newest
    return -1


def _lines_before(log: Log, offset: int) -> int:
    lines = 0
    for start in range(0, offset, SCAN_BYTES):
        lines += log.pread(start, min(SCAN_BYTES, offset - start)).count(b"\n")
    return lines
