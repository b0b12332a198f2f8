"""Rows on their way to the log: what their publishers hold, and the write that they share.

publishers ──► receipts ──► commit, which takes more ──► asked, written, synced ──► answered
▲     │
other programs have appended ──┘
"""

import time
import zlib
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.errors import BadInput, EsourceError, PreconditionFailed, StorageError
from esource.event import default_id
from esource.hub.known import Known
from esource.hub.tail import TAIL_BYTES
from esource.hub.view import View
from esource.log import MARK_BYTES, Appended, Moved, Written, last_bytes, mark, settled
from esource.rows import tsv
from esource.rows.dedup import Dedup, Fresh, digests
from esource.rows.tsv import Draft

SOON_BYTES = 1 << 18  # of rows that are written in the loop
SOON_EVENTS = 1000  # in batches: to give them ids, or look each up, takes some microseconds
TRIES = 100  # while other programs append again and again

Precondition = Callable[[View], None]  # raises `PreconditionFailed`


class Wish(NamedTuple):
    """How rows are to be appended."""

    precondition: Precondition | None = None  # asked of the view right before them
    unique: bool = False  # leave out what is among the last events already

    @property
    def is_exact(self) -> bool:
        """Whether the rows may only be appended behind those that the wish was asked of."""
        return self.unique or self.precondition is not None


PLAIN = Wish()


class Moment(NamedTuple):
    """What is true where the rows of a receipt would be appended."""

    view: View  # up to and with the rows of those before
    newest: int  # microseconds since 1970 of the greatest default id before
    now: int  # microseconds since 1970
    dedup: Dedup | None  # of what is in the log
    fresh: dict[bytes, bytes]  # digests of the rows of those before, by id
    last: bytes = b""  # bytes of rows, as many as a mark is made of
    least: bytes = b""  # of the default ids made for those before
    is_exact: bool = False  # whether what was asked holds only if no other rows come in between
    lead: int = 0  # microseconds between the greatest default id before and the next at least


class Receipt:
    """Rows that are to be appended as one run; after `wait`, what became of them."""

    __slots__ = (
        "_after", "_commit", "_done", "_drafts", "_error",
        "appended", "first", "last", "queued", "skipped", "view", "wish",
    )  # fmt: skip

    def __init__(
        self, commit: "Commit", drafts: Sequence[Draft], wish: Wish, after: "Receipt | None",
        done: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._commit = commit
        self._drafts = drafts
        self.wish = wish
        self._after = after
        self._done = done
        self._error: EsourceError | None = None
        self.queued = time.monotonic()
        self.appended = self.skipped = 0  # events
        self.first = self.last = b""  # ids of those that were appended
        self.view: View  # which ends with these rows; if refused, which was asked. Set by `ask`

    def wait(self) -> "Receipt":
        """Block until the rows are committed: on disk, under ESOURCE_FSYNC=always.

        Raises `StorageError`, `PreconditionFailed`, `Conflict`; then none is in the log.
        """
        self._commit.wait()
        error = self._commit.error or self._error
        if error:
            raise error.again() from error
        return self

    @property
    def is_done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        return self._commit.is_done

    @property
    def was_refused(self) -> bool:
        """Whether the rows were refused, as far as it is known."""
        return bool(self._commit.error or self._error)

    def forget(self) -> None:
        """Once it is done, let go of the rows and, or an endless stream is a chain, of the others.

        Called at once, and in the loop's thread.
        """
        self._after, self._drafts = None, ()
        if self._done:
            self._done()

    def move(self, by: int) -> None:
        """Note that the rows stand so many bytes behind the place that they were asked of."""
        if self.appended:
            end = self.view.end + by
            self.view = self.view._replace(end=end, mark=mark(self.view.log, end))

    def ask(self, moment: Moment) -> tuple[list[bytes], Moment]:
        """Return the rows to append at a moment, with their ids, and the moment behind them.

        If they are refused there are none, and the moment is the same. May be asked again: nothing
        of an earlier answer is left.
        """
        self._error = None
        self.appended = self.skipped = 0
        self.first = self.last = b""
        self.view = moment.view
        if self.wish.is_exact:  # a refusal, too, is of just this moment
            moment = moment._replace(is_exact=True)
        newest, least = moment.newest, moment.least
        fresh = Fresh()
        blocks = []
        try:
            if self._after and self._after.was_refused:
                raise PreconditionFailed("what went before it was refused")
            for draft in self._drafts:
                rows, events = draft.rows, draft.events
                if draft.newest_micros is not None:
                    newest = max(newest, draft.newest_micros)
                if draft.without_id:
                    micros = max(moment.now, newest + 1 + moment.lead)
                    rows, newest = tsv.stamp(draft, micros), micros + draft.without_id - 1
                    least = least or default_id(micros)
                if self.wish.unique and moment.dedup:
                    rows, events = moment.dedup.new(rows, fresh, moment.fresh)
                    self.skipped += draft.events - events
                elif moment.dedup:
                    fresh.latest = moment.dedup.last({**fresh.latest, **digests(rows)})
                self.appended += events
                if rows:
                    blocks.append(rows)
            if blocks and not moment.view.end and blocks[0].startswith(tsv.BOM):
                raise BadInput("the first id of a channel cannot begin with a byte order mark")
            # Last, and not for rows that are all there: a retry is harmless.
            if blocks and self.wish.precondition:
                self.wish.precondition(moment.view)
        except EsourceError as error:
            self._error = error.again()  # its traceback would hold this receipt, and the log
            self.appended = self.skipped = 0
            return [], moment
        if not blocks:
            return [], moment
        self.first = tsv.id_of(blocks[0])
        row = blocks[-1]
        self.last = tsv.id_of(row[row.rfind(b"\n", 0, -1) + 1 :])
        end, last = moment.view.end + sum(map(len, blocks)), moment.last
        for block in blocks:
            last = (last + block[-MARK_BYTES:])[-MARK_BYTES:]
        self.view = View(moment.view.log, end, self.last, zlib.crc32(last))
        moment.fresh.update(fresh.latest)
        known = moment.dedup.last(moment.fresh) if moment.dedup else moment.fresh
        return blocks, Moment(
            self.view, newest, moment.now, moment.dedup, known, last, least, moment.is_exact
        )


class Staged(NamedTuple):
    """Rows of a commit that are written, and what is true once they are settled."""

    view: View  # up to and with them
    rows: bytes  # these, if they are few enough for the tail in memory
    written: Written
    moment: Moment | None  # behind them; None if rows of others came in between


class Done(NamedTuple):
    """What a commit has appended."""

    view: View  # up to and with its rows
    rows: bytes  # these, if they are few enough for the tail in memory
    appended: Appended


class Later(Enum):
    """That a commit takes a thread."""

    LATER = "later"


LATER = Later.LATER
Decided: TypeAlias = Literal[Later.LATER] | None


class Commit:
    """The receipts of publishers that share a write."""

    __slots__ = ("_done", "error", "events", "receipts", "size")

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.size = 0  # bytes of the rows, about
        self.events = 0
        self.error: EsourceError | None = None  # why none of the rows is in the log, if so
        self._done = Signal()

    def add(
        self, drafts: Sequence[Draft], wish: Wish, after: Receipt | None,
        done: Callable[[], None] | None = None,
    ) -> Receipt:  # fmt: skip
        """Take rows in; return what their publisher holds."""
        receipt = Receipt(self, drafts, wish, after, done)
        self.receipts.append(receipt)
        for draft in drafts:
            self.size += draft.size
            self.events += draft.events
        return receipt

    @property
    def asked(self) -> float:
        """When the first of the rows were handed in, by the monotonic clock."""
        return self.receipts[0].queued

    @property
    def is_done(self) -> bool:
        """Whether its rows are written or refused."""
        return bool(self._done.is_set())

    def answer(self) -> list[Receipt]:
        """Let the publishers go on, well or badly; return their receipts, at once."""
        self._done.set()
        receipts, self.receipts = self.receipts, []  # they hold the commit: no need for a cycle
        return receipts

    def wait(self) -> None:
        """Block until it is done."""
        if not self._done.is_set():
            self._done.wait()

    def append_to(self, view: View, known: Known) -> Done | Moved | None:
        """Write the rows, sync them, and settle them: of one commit alone. Blocks, as `write`."""
        staged = self.write(view, known)
        if not isinstance(staged, Staged):
            return staged
        return _done(staged, known, settled(staged.view.log, staged.written))

    def write(self, view: View, known: Known) -> Staged | Moved | None:
        """Ask the receipts, and write the rows of those that are not refused.

        Return None if there are none, and `Moved` if the log has other rows now. Rows that other
        programs append meanwhile are asked about, and come first. Blocks: runs in a thread, since
        it may be tens of megabytes, of which no step is more than one. Raises `StorageError`.
        """
        log, expected = view.log, None
        if log.end != view.end:  # it has taken in more than could be made a view of
            view = View.of(log)
        for _ in range(TRIES):
            known.catch_up(view, self._is_unique)
            is_known = known.is_of(view, with_dedup=False)  # or it knows more than that
            last = known.last if is_known else last_bytes(log, view.end)
            blocks, moment = self._ask(view, known, last)
            # Without rows, too: a refusal must be decided on all that is there.
            expected = view.end if moment.is_exact else expected
            written = log.write(expected, blocks, moment.least, self.asked)
            if not isinstance(written, Moved):
                break
            if written.end is None:
                return written
            view, expected = View.of(log, written.end), written.end
            if not written.is_kept:
                if not moment.is_exact:
                    known.fall_behind()
                expected = None
        else:
            raise StorageError(f"{log.name} has changed, again and again")
        return self._staged(view, blocks, moment, written) if isinstance(written, Written) else None

    def _staged(
        self, view: View, blocks: list[bytes], moment: Moment, written: Written
    ) -> Staged:  # fmt: skip
        """Return the rows that were asked of a view, and are written now."""
        log = view.log
        ahead = written.start - view.end  # rows that others have appended right before
        if not ahead:
            return Staged(moment.view, _few(blocks), written, moment)
        try:
            for receipt in self.receipts:
                receipt.move(ahead)
            view = View.of(log, moment.view.end + ahead)
        except Exception as error:  # what was begun must be settled
            log.settle(written, 0.0, error)
            raise
        return Staged(view, _few(blocks), written, None)

    def write_soon(self, view: View, known: Known) -> Staged | Decided:
        """Do the same in the loop, if others have left the log alone, as far as it is known.

        On an engine also if they have appended little. None if there are no rows to write; `LATER`
        if it takes a thread, and nothing is done. Does not block, but for an engine, which the
        greenlet waits for.
        """
        is_few = self.size <= SOON_BYTES and self.events - len(self.receipts) <= SOON_EVENTS
        is_known = view.end == view.log.end and known.keeps_up(view, self._is_unique)
        if not (is_few and is_known):
            return LATER
        blocks, moment = self._ask(view, known, known.last)
        if view.log.is_remote:
            expected = view.end if moment.is_exact else None
            there = view.log.write(expected, blocks, moment.least, self.asked)
            if isinstance(there, Moved):
                return LATER
            return self._staged(view, blocks, moment, there) if isinstance(there, Written) else None
        if not blocks:
            return None if view.log.is_current() else LATER
        written = view.log.write_soon(blocks)
        return Staged(moment.view, _few(blocks), written, moment) if written else LATER

    def settle(
        self, staged: Staged, known: Known, seconds: float, failure: Exception | None = None
    ) -> Done:
        """Let the rows be the log's, which were synced in so many seconds, or had not to be.

        Raises `StorageError` if that has failed.
        """
        return _done(staged, known, staged.view.log.settle(staged.written, seconds, failure))

    @property
    def _is_unique(self) -> bool:
        return any(receipt.wish.unique for receipt in self.receipts)

    def _ask(self, view: View, known: Known, last: bytes) -> tuple[list[bytes], Moment]:
        """Return the rows of all receipts, in one block if they are few, and the moment behind."""
        now = time.time_ns() // 1000
        moment = Moment(view, known.newest, now, known.dedup, {}, last, lead=known.lead)
        blocks: list[bytes] = []
        for receipt in self.receipts:
            rows, moment = receipt.ask(moment)
            blocks += rows
        if len(blocks) > 1 and moment.view.end - view.end <= TAIL_BYTES:
            blocks = [b"".join(blocks)]
        return blocks, moment


def _done(staged: Staged, known: Known, appended: Appended) -> Done:
    known.keep_up()
    if moment := staged.moment:
        known.advance(staged.view, moment.newest, moment.fresh, moment.last)
    return Done(staged.view, staged.rows, appended)


def _few(blocks: list[bytes]) -> bytes:
    return blocks[0] if len(blocks) == 1 else b""
