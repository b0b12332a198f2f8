"""What a publisher holds of rows that are on their way to the log.

queued ──► asked: precondition, unique, ids ──► appended, or refused
└── again, if somebody else has appended meanwhile ──┘
"""

import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from esource.errors import EsourceError, PreconditionFailed
from esource.event import default_id
from esource.hub.view import View
from esource.rows import tsv
from esource.rows.dedup import Dedup, digests
from esource.rows.tsv import Draft

if TYPE_CHECKING:
    from esource.hub.commit import Commit

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


class Receipt:
    """Rows that are to be appended as one run; after `wait`, what became of them."""

    __slots__ = (
        "_after", "_commit", "_drafts", "_error",
        "appended", "first", "last", "queued", "skipped", "view", "wish",
    )  # fmt: skip

    def __init__(
        self, commit: "Commit", drafts: Sequence[Draft], wish: Wish, after: "Receipt | None"
    ) -> None:
        self._commit = commit
        self._drafts = drafts
        self.wish = wish
        self._after = after
        self._error: EsourceError | None = None
        self.queued = time.monotonic()
        self.appended = self.skipped = 0  # events
        self.first = self.last = b""  # ids of those that were appended
        self.view: View  # right behind these rows, or where they were refused; once asked

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
    def was_refused(self) -> bool:
        """Whether the rows were refused, as far as it is known."""
        return bool(self._commit.error or self._error)

    def forget_before(self) -> None:
        """Once it is done: or an endless stream would be an endless chain."""
        self._after = None

    def move(self, by: int) -> None:
        """Note that the rows stand further on, by so many bytes, than where they were asked."""
        if self.appended:
            self.view = self.view._replace(end=self.view.end + by)

    def ask(self, moment: "Moment") -> list[bytes]:
        """Return the rows to append at the moment, with their ids; none if they are refused.

        May be asked again: nothing of an earlier answer is left.
        """
        self._error = None
        self.appended = self.skipped = 0
        self.first = self.last = b""
        newest = moment.newest
        fresh: dict[bytes, bytes] = {}
        blocks = []
        least = b""
        try:
            if self._after and self._after.was_refused:
                raise PreconditionFailed("what went before it was refused")
            for draft in self._drafts:
                rows, events, micros = draft.rows, draft.events, draft.newest_micros
                newest = newest if micros is None else max(newest, micros)
                if draft.without_id:
                    micros = max(moment.now, newest + 1)
                    rows, newest = tsv.stamp(draft, micros), micros + draft.without_id - 1
                    least = least or default_id(micros)
                if self.wish.unique and moment.dedup:
                    rows, events = moment.dedup.new(rows, ChainMap(fresh, moment.fresh))
                    self.skipped += draft.events - events
                elif moment.dedup:
                    fresh.update(digests(rows))
                self.appended += events
                if rows:
                    blocks.append(rows)
            # Last, and not for rows that are all there: a retry is harmless.
            if blocks and self.wish.precondition:
                self.wish.precondition(moment.view)
        except EsourceError as error:
            self._error = error
            self.appended = self.skipped = 0
            self.view = moment.view
            return []
        if blocks:
            self.first = tsv.id_of(blocks[0])
            last = blocks[-1]
            self.last = tsv.id_of(last[last.rfind(b"\n", 0, -1) + 1 :])
            moment.take(blocks, self.last, newest, least, fresh, self.wish.is_exact)
        self.view = moment.view
        return blocks


class Moment:
    """What is true while the receipts of a commit are asked, one after the other."""

    __slots__ = ("dedup", "fresh", "is_exact", "least", "newest", "now", "view")

    def __init__(self, view: View, newest: int, dedup: Dedup | None) -> None:
        """Begin with what is in the log; `newest` is the time of its greatest default id."""
        self.view = view  # up to and with the rows that were taken
        self.newest = newest  # microseconds since 1970
        self.dedup = dedup  # of the rows in the log
        self.fresh: dict[bytes, bytes] = {}  # digests of the rows that were taken, by id
        self.least = b""  # of the default ids that were made
        self.is_exact = False  # whether some of them may be appended nowhere else
        self.now = time.time_ns() // 1000

    def take(
        self, blocks: list[bytes], last: bytes, newest: int, least: bytes,
        fresh: dict[bytes, bytes], is_exact: bool,
    ) -> None:  # fmt: skip
        """Go on behind the rows of a receipt that was not refused."""
        self.view = View(self.view.log, self.view.end + sum(map(len, blocks)), last)
        self.newest = newest
        self.least = self.least or least
        self.fresh.update(fresh)
        self.is_exact |= is_exact
