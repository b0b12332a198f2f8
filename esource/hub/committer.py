"""The committer of a hub: the commits of all channels, in rounds of one sync.

    writers ──► round: each is written ──► one sync for all ──► each is settled ──► writers go on

A thousand channels that are published to would else wait for a thousand syncs. What comes while a
round is at the disk is the next round.

What the disk takes at once is done in the loop: a hop to a thread and back, and the wait for the
interpreter behind it, cost more. So small commits are written in the loop, which takes some
microseconds each; and they are synced there, as long as that takes less than a millisecond. The
first call that waits for long ends it for a while (`Pace`).
A commit that is large, or whose log others have changed, is alone: nobody waits for somebody
else's batch. At an engine each commit is alone: a greenlet waits for it, and takes a thread only
if there is more to do than to append.
"""

import logging
import resource
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import gevent
from gevent.hub import Waiter
from gevent.lock import BoundedSemaphore

from esource.hub.commit import LATER, SOON_BYTES, Commit, Done, Later, Staged
from esource.hub.known import Known
from esource.hub.loop import commits, give_way, in_thread
from esource.hub.view import View
from esource.log import Log, Moved, Written

QUICK_SECONDS = 0.0007  # of a sync: a hop to a thread and back takes as long
STEADY = 16  # syncs that must have been quick, one after the other, before one is made in the loop
SLOW_SECONDS = 0.01  # of a write or a sync in the loop; then there is none for a while
NOT_SYNCED = RuntimeError("it was not synced")
PAUSE_SECONDS = 1.0, 256.0  # which is longer each time, less the time that went well
TURN_SECONDS = 0.002  # before others have a turn
CALLS = 16  # commits at an engine at once: each has a connection, which is kept (`IDLE` there)

logger = logging.getLogger(__name__)

SyncOf: TypeAlias = Callable[[Sequence[Written]], Callable[[], float] | None]


class Pace:
    """Whether a call that waits for the disk is made in the loop: as long as it takes no time."""

    def __init__(self, steady: int = 0) -> None:
        """Begin with a call that must have been quick so often in a row before it is believed."""
        self._steady = steady
        self._left = steady
        self._until = self._pause = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether it is made in the loop now."""
        return not self._left and time.monotonic() >= self._until

    def note(self, seconds: float) -> None:
        """Note how long one took in a thread, or quickly in the loop."""
        self._left = max(self._left - 1, 0) if seconds < QUICK_SECONDS else self._steady

    def was_slow(self) -> None:
        """Note one in the loop that was slow: there is none for a while."""
        now = time.monotonic()
        least, most = PAUSE_SECONDS
        self._pause = min(max(self._pause * 4 - (now - self._until), least), most)
        self._until = now + self._pause


class Part:
    """A commit's part in a round."""

    __slots__ = ("_outcome", "_waiter", "commit", "known", "staged", "synced", "view")

    def __init__(self, commit: Commit, view: View, known: Known) -> None:
        self.commit, self.view, self.known = commit, view, known
        self.staged: Staged | Later | Exception | None = LATER
        self.synced: float | Exception = NOT_SYNCED  # how many seconds it took
        self._outcome: Done | Moved | Exception | None = None
        self._waiter: Waiter[None] = Waiter()

    def wait(self) -> Done | Moved | None:
        """Block until it is over. Raises what has failed.

        Whoever ends the greenlet waits, too: the rows are on their way, and the log is held.
        """
        while True:
            try:
                self._waiter.get()
                break
            except gevent.GreenletExit:
                continue
        outcome, self._outcome = self._outcome, None
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # or it would hold this frame, and so itself and the rows

    def write(self) -> None:
        """Write the rows, or find that it takes a thread."""
        try:
            self.staged = self.commit.write_soon(self.view, self.known)
        except Exception as error:
            self.staged = error

    @property
    def to_sync(self) -> bool:
        """Whether there is something to sync."""
        return isinstance(self.staged, Staged) and self.staged.written.to_sync

    def sync(self) -> None:
        """Sync its rows alone."""
        try:
            self.synced = self.view.log.sync()
        except Exception as error:
            self.synced = error

    def settle(self) -> None:
        """Settle the rows, if some were written; let the writer go on."""
        staged, self.staged = self.staged, None
        if not isinstance(staged, Staged):
            assert staged is not LATER
            self.end(staged)
            return
        seconds, failure = 0.0, None
        if isinstance(self.synced, float):
            seconds = self.synced
        elif staged.written.to_sync:
            failure = self.synced
        try:
            self.end(self.commit.settle(staged, self.known, seconds, failure))
        except Exception as error:
            self.end(error)

    def append(self) -> None:
        """Do all of it in a thread, while others go on. Blocks."""
        try:
            self.end(in_thread(commits(), self.commit.append_to, self.view, self.known))
        except Exception as error:
            self.end(error)

    def end(self, outcome: Done | Moved | Exception | None) -> None:
        """Let the writer go on."""
        self._outcome = outcome
        gevent.get_hub().loop.run_callback(self._waiter.switch, None)


class Committer:
    """What writes and syncs for all writers of a hub."""

    def __init__(
        self, sync_of: SyncOf = lambda written: None,
        grown: Callable[[Log], None] = lambda log: None,
    ) -> None:  # fmt: skip
        """Begin with nothing to do. `sync_of` is `Logs.sync_all`; without it there is none.

        `grown` is told of each log that was appended to in a thread.
        """
        self._sync_of = sync_of
        self._grown = grown
        self._parts: list[Part] = []  # of the next round
        self._greenlet: gevent.Greenlet | None = None
        self._large = 0  # commits on their way by themselves for which a sync of all would wait
        self._calls = BoundedSemaphore(CALLS)
        self._writes = Pace()
        self._syncs = Pace(STEADY)  # of one log
        self._sync_alls = Pace(STEADY)

    def begin(self, commit: Commit, view: View, known: Known) -> Part:
        """Begin to append what was queued in a commit to the log of a view; return at once.

        `Part.wait` tells what came of it (see `Commit.append_to`). Until then nobody else may
        append to the log, or refresh it.
        """
        part = Part(commit, view, known)
        if view.log.is_remote:  # it has no sync to share
            gevent.spawn(self._append_there, part)
            return part
        self._parts.append(part)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
        return part

    def _run(self) -> None:
        """Be the greenlet of the rounds, while there are any."""
        while self._parts:
            parts, self._parts = self._parts, []
            try:
                self._write(parts)
                self._sync([part for part in parts if part.to_sync])
            except Exception:  # then what is not synced is refused
                logger.exception("a round of %d commits has failed", len(parts))
            self._settle(parts)
            del parts
        self._greenlet = None

    def _settle(self, parts: list[Part]) -> None:
        turn = time.monotonic()
        for part in parts:
            if part.staged is LATER:
                gevent.spawn(self._append, part)
            else:
                part.settle()
            if time.monotonic() - turn > TURN_SECONDS:
                give_way()
                turn = time.monotonic()

    def _append_there(self, part: Part) -> None:
        """Be the greenlet of a commit at an engine."""
        with self._calls:
            part.write()
            if part.staged is LATER:
                self._append(part)
            else:
                part.settle()
                self._grown(part.view.log)

    def _append(self, part: Part) -> None:
        """Be the greenlet of a commit that is alone."""
        is_large = part.commit.size > SOON_BYTES
        self._large += is_large
        try:
            part.append()
        finally:
            self._large -= is_large
        self._grown(part.view.log)

    def _write(self, parts: list[Part]) -> None:
        if not self._writes.is_quick:
            in_thread(commits(), _write_all, parts)
            return
        waits, now = _waits(), time.monotonic()
        turn = now
        for part in parts:
            began = now
            part.write()
            now = time.monotonic()
            if now - began > SLOW_SECONDS and _waits() > waits:  # else another program had its turn
                self._writes.was_slow()
            if now - turn > TURN_SECONDS:
                give_way()
                waits, now = _waits(), time.monotonic()
                turn = now

    def _sync(self, parts: list[Part]) -> None:
        if not parts:
            return
        written = [part.staged.written for part in parts if isinstance(part.staged, Staged)]
        sync_all = None if self._large else self._sync_of(written)
        if not sync_all and len(parts) > 1:
            commits().map(Part.sync, parts)
            return
        call: Callable[[], object]
        call = (lambda: _sync_all(sync_all, parts)) if sync_all else parts[0].sync
        pace = self._sync_alls if sync_all else self._syncs
        in_loop = pace.is_quick
        seconds = _timed(call) if in_loop else in_thread(commits(), _timed, call)
        pace.note(seconds)
        if in_loop and seconds > SLOW_SECONDS:
            pace.was_slow()


def _waits() -> int:
    """Return how often this thread has waited for something: to lose its turn is not counted."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _write_all(parts: list[Part]) -> None:
    for part in parts:
        part.write()


def _sync_all(sync: Callable[[], float], parts: list[Part]) -> None:
    """Sync all parts at once: each of them is told how it went."""
    try:
        synced: float | Exception = sync()
    except Exception as error:
        synced = error
    for part in parts:
        part.synced = synced


def _timed(call: Callable[..., object], *args: object) -> float:
    """Return how many seconds a call took."""
    began = time.monotonic()
    call(*args)
    return time.monotonic() - began
