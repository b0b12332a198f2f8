"""The writer of a channel: a greenlet that drains the queue into the log.

    publishers ──► queue ──► writer ──► log.append ──► the view moves
                                                        1. the publishers are answered
                                                        2. the followers are told

    an engine:   commit ──► the next one is on its way ──► the publishers of the first are answered

Group commit: rows that are queued while the writer is at the disk become the next commit. An idle
channel has no writer greenlet: the next publisher starts one.

An engine takes as long for a commit as the hub for the answers to the one before. So there the next
one is begun first, and both work at once. What a disk takes is less than a hop to a thread.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import gevent
from gevent.queue import SimpleQueue

from esource.errors import EsourceError, StorageError
from esource.hub.commit import Commit, Done, Receipt, Wish
from esource.hub.committer import Committer, Part
from esource.hub.followers import Followers
from esource.hub.head import Head
from esource.hub.known import Known
from esource.hub.loop import commits, give_way, in_thread, unswitched
from esource.hub.stats import Stats
from esource.log import Moved
from esource.rows.tsv import Draft

logger = logging.getLogger(__name__)

COMMIT_BYTES = 1 << 22  # of rows after which the next publisher begins another commit
IDLE_SECONDS = 0.1  # after which the last commits need not be in memory
SYNC_SECONDS = 1.0  # between syncs under ESOURCE_FSYNC=interval
TURN_ANSWERS = 64  # that are sent, before others have a turn: about two milliseconds
TRIES = 8  # for a commit, while the log is replaced again and again


class _Begun(NamedTuple):
    """A commit that is on its way. The lock of the head is held for it."""

    commit: Commit
    part: Part
    at: float  # when it was begun, by the monotonic clock


class Writer:
    """The queue of one channel, and the greenlet that drains it while there is something in it."""

    def __init__(
        self, name: str, head: Head, followers: Followers, known: Known, stats: Stats,
        committer: Committer,
    ) -> None:  # fmt: skip
        """Begin with nothing queued."""
        self._name = name
        self._head = head
        self._followers = followers
        self._known = known
        self._stats = stats
        self._committer = committer
        self._queue: SimpleQueue[Commit] = SimpleQueue()
        self._open: Commit | None = None  # the last in the queue, which takes more rows
        self._greenlet: gevent.Greenlet | None = None
        self._begun: _Begun | None = None  # before the one before was answered for
        self._committed = 0.0  # when the last commit was, by the monotonic clock
        self._is_quiet_due = False
        self._sync_is_due = False
        self.unfinished: Commit | None = None  # the last that was begun, until it is done

    def append(
        self, owner: object, drafts: Sequence[Draft], wish: Wish, after: Receipt | None,
        done: Callable[[], None] | None,
    ) -> Receipt:  # fmt: skip
        """Queue rows, at least one; return at once what tells of them (see `Channel.append`).

        The `owner` is kept alive until they are written: or a second channel of the name could be
        opened, and write meanwhile.
        """
        commit = self._open
        if commit is None or commit.size >= COMMIT_BYTES:
            commit = self._open = self.unfinished = Commit()
            self._queue.put(commit)
            if self._greenlet is None:
                self._greenlet = gevent.spawn(self._run, owner)
        return commit.add(drafts, wish, after, done)

    def _run(self, owner: object) -> None:
        """Be the writer greenlet: commit what is queued, until the channel is idle."""
        try:
            while self._begun or self._queue.qsize():
                begun, self._begun = self._begun, None
                self._write(begun.commit if begun else self._next(), begun, owner)
                del begun  # its rows need not stay in memory while the writer waits
                self._head.give_way()
        finally:
            # At once: the next publisher needs another; and so do those that wait, after a defect.
            waits = self._begun or self._queue.qsize()
            self._greenlet = gevent.spawn(self._run, owner) if waits else None
        self._let_be_quiet()

    def _next(self) -> Commit:
        """Take the next commit out of the queue, which has one."""
        commit: Commit = self._queue.get()
        if commit is self._open:
            self._open = None  # it takes no more
        return commit

    def be_quiet_soon(self) -> None:
        """After rows of others: let what is in memory go, once nothing has come for a while."""
        self._committed = time.monotonic()
        self._let_be_quiet()

    def _let_be_quiet(self) -> None:
        if self._followers and not self._is_quiet_due:
            self._is_quiet_due = True
            gevent.spawn_later(IDLE_SECONDS, self._be_quiet)

    def _be_quiet(self) -> None:
        """Let what is in memory go, if nothing has been written for a while."""
        self._is_quiet_due = False
        left = self._committed + IDLE_SECONDS - time.monotonic()
        if self._greenlet is None and left <= 0:
            self._followers.be_quiet()
        elif self._greenlet is None:
            self._is_quiet_due = True
            gevent.spawn_later(left, self._be_quiet)

    def _write(self, commit: Commit, begun: _Begun | None, owner: object) -> None:
        """Commit, answer the publishers, and tell the followers. It may be on its way already."""
        name, done = self._head.view.log.name, None
        began = begun.at if begun else time.monotonic()
        try:
            done = self._commit(commit, begun)
        except EsourceError as error:
            logger.error("%s: %d publishers refused: %s", name, len(commit.receipts), error.text)
            commit.error = error.again()  # its traceback would hold the rows
        except (Exception, gevent.GreenletExit) as error:
            logger.exception("%s: %d publishers refused", name, len(commit.receipts))
            commit.error = StorageError(f"cannot write {name}: {error!r}")
        seconds = time.monotonic() - began
        if done:
            self._begin_next()
        with unswitched():
            if commit is self.unfinished:
                self.unfinished = None
            receipts = commit.answer()
        # It is stored. Now it is answered, and then it is shown.
        if self._begun:
            gevent.sleep(0)
        for count, receipt in enumerate(receipts, 1):
            try:
                receipt.forget()
            except Exception:
                logger.exception("%s: a publisher is not told", name)
            if not count % TURN_ANSWERS:
                give_way()
        if done:
            self._followers.show(done.view, done.appended.start, done.rows)
        self._count(receipts, done, seconds)
        self._stats.failed_commits += commit.error is not None
        if done and done.appended.is_due and not self._sync_is_due:
            self._sync_is_due = True
            gevent.spawn_later(SYNC_SECONDS, self.sync, owner)

    def _begin_next(self) -> None:
        """Have an engine work on the next commit, if there is one, while this one is answered.

        It is sent once another greenlet has its turn.
        """
        head = self._head
        if not head.view.log.is_remote or head.is_wanted or not self._queue.qsize():
            return
        if head.lock.acquire(blocking=False):
            self._begun = self._begin(self._next())

    def _begin(self, commit: Commit) -> _Begun:
        """Begin a commit. The lock must be held, and is released when it is over."""
        part = self._committer.begin(commit, self._head.view, self._known)
        return _Begun(commit, part, time.monotonic())

    def _commit(self, commit: Commit, begun: _Begun | None) -> Done | None:
        """Append what is queued, and make the next view; None if all is refused or there already.

        Raises `StorageError`.
        """
        tries = TRIES
        while True:
            if not begun:
                self._head.lock.acquire()
            try:
                done = (begun or self._begin(commit)).part.wait()
                if not isinstance(done, Moved):
                    if done:
                        self._head.advance(done.view)
                    return done
                self._head.take_in()
            finally:
                self._head.lock.release()
            begun = None
            if done.seconds:
                gevent.sleep(done.seconds)  # no thread waits, and the lock is free
            elif not (tries := tries - 1):
                raise StorageError(f"{done.why}, again and again")

    def _count(self, receipts: list[Receipt], done: Done | None, seconds: float) -> None:
        """Count a commit that took so many seconds."""
        stats, now, events = self._stats, time.monotonic(), 0
        self._committed = now
        for receipt in receipts:
            events += receipt.appended
            stats.publish_seconds.observe(now - receipt.queued)
        if done:
            start, sync_seconds, _ = done.appended
            size = done.view.end - start
            stats.committed(self._name, events, size, seconds, sync_seconds, now)

    def sync(self, owner: object = None) -> None:
        """Put what is committed on disk, if that is still to be done. Blocks."""
        if self._sync_is_due:
            self._sync_is_due = False
            with suppress(StorageError):  # logged there; the log refuses rows from now on
                self._stats.sync_seconds.observe(in_thread(commits(), self._head.view.log.flush))
