"""Where a channel is now: its newest view, and how that comes to be another one.

    open ──► view ──► a commit ────────────────────► view
                 └──► what others did to the log ──► view

A view is replaced in one assignment, under the lock, so no two changes overlap. Followers are told
before any other greenlet runs.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
from gevent.lock import BoundedSemaphore

from esource.errors import EsourceError, StorageError
from esource.hub.digest import Digest
from esource.hub.followers import Followers
from esource.hub.known import Known
from esource.hub.loop import Together, commits, in_thread, reads, unswitched
from esource.hub.search import Search
from esource.hub.tail import TAIL_BYTES
from esource.hub.view import View
from esource.hub.work import Urgent
from esource.log import Log, mark
from esource.rows import tsv

logger = logging.getLogger(__name__)

ENDS = 4  # of earlier logs that are remembered


class Head:
    """The newest view of one channel."""

    def __init__(self, open_log: Callable[[], Log], followers: Followers, known: Known) -> None:
        """Nothing is opened yet. Of changes that others make, both are told."""
        # Held while the log is appended to or refreshed, which the log leaves to us. So by no
        # greenlet that somebody may end while a thread is at work for it.
        self.lock = BoundedSemaphore(1)
        # Held while it is opened. Not the same: who waits for that would wait for commits, too.
        self._opening = BoundedSemaphore(1)
        self._open_log = open_log
        self._followers = followers
        self._known = known
        self._waiting = 0  # who wants the lock, but for the writer
        self._look = Together()  # at what others did: a crowd that comes back asks at once
        self._view: View | None = None
        self._search: Search | None = None  # in the newest view's log
        self._digest: Digest | None = None  # of it, if there was one asked for
        # How logs of the name have ended: their files may come back. (They hold no log open.)
        self._ends: deque[tuple[int, int]] = deque(maxlen=ENDS)

    @property
    def is_open(self) -> bool:
        """Whether `open` has returned."""
        return self._view is not None

    @property
    def view(self) -> View:
        """The newest view; `open` must have returned."""
        assert self._view is not None
        return self._view

    def open(self) -> bool:
        """Open the log if that was not done yet; return whether this call has done it.

        Blocks; raises `StorageError`.
        """
        if self._view is not None:
            return False
        with self._opening:
            if self._view is None:
                self._view = in_thread(reads(), lambda: View.of(self._open_log()))
                return True
        return False

    def search(self, log: Log) -> Search:
        """Return what finds places in a log, and has learned of it if it is the newest."""
        if self._search is None or self._search.log is not log or self._search.is_closed:
            search = Search(log)
            if log is not self.view.log:
                search.close()  # it will not be asked again
                return search
            self._search = search
        return self._search

    def digest(self, log: Log) -> Digest:
        """Return the digest of a log; that of the newest one goes on from where it is."""
        if self._digest and self._digest.log is log and self._digest.start == log.start:
            return self._digest
        digest = Digest(log)
        if log is self.view.log:
            self._digest = digest
        return digest

    def refresh(self) -> View:
        """Return a view of what is in the log now, also if others put it there. Blocks.

        It is opened if it was not. An append that is in progress is not waited for. Raises
        `StorageError`.
        """
        if not (self.open() or self._look(self._is_newest)):
            error = gevent.spawn(self._refresh).get()
            if error:
                raise error.again() from error
        return self.view

    def _is_newest(self) -> bool:
        view = self.view
        return in_thread(reads(), view.log.is_current) and view.log.end == self.view.end

    def _refresh(self) -> EsourceError | None:
        """Be the greenlet that takes in what others did, which goes on though a reader is ended."""
        try:
            with self._held():
                self.take_in()
        except EsourceError as error:
            return error
        return None

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock; while it is waited for the writer gives way. Blocks."""
        self._waiting += 1
        try:
            self.lock.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self.lock.release()

    def heed(self, goes_on: Callable[[Log], bool]) -> None:
        """Let the log go on as others tell, or else take in what is there. Blocks.

        Raises `StorageError`.
        """
        with self._held():
            old = self.view
            if old.log.end != old.end or not goes_on(old.log):
                self.take_in()
            elif old.log.end > old.end:
                new, rows = in_thread(commits(), _behind, old)
                with unswitched():
                    self.advance(new)
                    self._followers.show(new, old.end, rows)

    def tend(self, now: float, may_remove: bool) -> str:
        """Do what time asks of the log; return what was removed. Blocks; raises `StorageError`."""
        with self._held():
            removed = in_thread(commits(), self.view.log.tend, now, may_remove)
            self.take_in()
        self.search(self.view.log).learn(self.view.end)
        return removed

    @property
    def is_wanted(self) -> bool:
        """Whether another than the writer waits for the lock."""
        return self._waiting > 0

    def give_way(self) -> None:
        """After a commit: let another have the lock, which the writer would take again at once."""
        if self.is_wanted:
            gevent.sleep(0)

    def take_in(self) -> None:
        """Make a view of what others did to the log, if they did. The lock must be held. Blocks.

        Raises `StorageError`, and then the view is as it was.
        """
        old = self.view
        change = in_thread(commits(), old.log.refresh)
        search: Search | None
        if change:
            if old.end:
                logger.warning("%s; opening it anew", change.why)
            with suppress(StorageError):  # of the old log: the new one can still be read
                last = in_thread(commits(), View.of, old.log)
                in_thread(commits(), self._known.leave, last)
                old = last
            new = in_thread(commits(), View.of, change.by)
            search = Search(new.log)
            place = self._place(old, new, search)
        elif old.log.end != old.end:
            new = in_thread(commits(), View.of, old.log)
            search, place = self._search, old.end
        else:
            return
        with unswitched():
            if self._search and self._search is not search:
                self._search.close()
            self._view, self._search = new, search
            if self._digest and self._digest.log is not new.log:
                self._digest = None  # which keeps the old log open, and may be going on
            self._followers.move(old.log, new.log, place)
        self.search(new.log).grow(new.end)

    def advance(self, view: View) -> None:
        """Go on with the view that a commit has made. The lock must be held."""
        self._view = view
        self.search(view.log).grow(view.end)

    def _place(self, old: View, new: View, search: Search) -> int:
        """Return where in a new log followers go on that have read the old one to its end.

        It goes on where that, or one before it, has ended: the file was moved away and is back. Or
        it is another one, in which they go on after the newest id, or from its start.
        """
        if old.end:
            self._ends.append((old.end, old.mark))
        for end, end_mark in reversed(self._ends):
            if end <= new.end and in_thread(commits(), mark, new.log, end) == end_mark:
                break
        else:
            end, end_mark = new.log.begin, None
            if old.end:
                end, _ = search.look_after(new, old.newest_id, Urgent())
        if old.end and end_mark != old.mark:
            logger.error(
                "%s: a log with %d acknowledged bytes (newest id %r) is gone from this name",
                old.log.name, old.end, old.newest_id.decode(errors="replace"),
            )  # fmt: skip
        return end


def _behind(old: View) -> tuple[View, bytes]:
    """Return the view of all that a log holds, which has grown; and what is new, if that is little.

    Blocks; raises `StorageError`.
    """
    log, size = old.log, old.log.end - old.end
    rows = log.pread(old.end, size) if size <= TAIL_BYTES else b""
    if len(rows) < size:
        return View.of(log), b""
    place, events = tsv.last(rows, 1)
    newest_id = tsv.id_of(rows[place:]) if events else old.newest_id
    return View(log, old.end + size, newest_id, mark(log, old.end + size)), rows
