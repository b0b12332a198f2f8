"""What a publisher holds of rows that are on their way to the log.

queued ──► asked: precondition, unique, ids ──► appended, or refused
└── again, if another program has appended meanwhile ──┘
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


class Moment(NamedTuple):
    """What is true where the rows of a receipt would be appended."""

    view: View  # up to and with the rows of those before
    newest: int  # microseconds since 1970 of the greatest default id before
    now: int  # microseconds since 1970
    dedup: Dedup | None  # of what is in the log
    fresh: dict[bytes, bytes]  # digests of the rows of those before, by id
    least: bytes = b""  # of the default ids made for those before
    is_exact: bool = False  # whether some of those before may stand nowhere else


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

    def ask(self, moment: Moment) -> tuple[list[bytes], Moment]:
        """Return the rows to append at a moment, with their ids, and the moment behind them.

        If they are refused there are none, and the moment is the same. May be asked again: nothing
        of an earlier answer is left.
        """
        self._error = None
        self.appended = self.skipped = 0
        self.first = self.last = b""
        self.view = moment.view
        newest, least = moment.newest, moment.least
        fresh: dict[bytes, bytes] = {}
        blocks = []
        try:
            if self._after and self._after.was_refused:
                raise PreconditionFailed("what went before it was refused")
            for draft in self._drafts:
                rows, events = draft.rows, draft.events
                if draft.newest_micros is not None:
                    newest = max(newest, draft.newest_micros)
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
            return [], moment
        if not blocks:
            return [], moment
        self.first = tsv.id_of(blocks[0])
        last = blocks[-1]
        self.last = tsv.id_of(last[last.rfind(b"\n", 0, -1) + 1 :])
        end = moment.view.end + sum(map(len, blocks))
        self.view = View(moment.view.log, end, self.last)
        moment.fresh.update(fresh)
        is_exact = moment.is_exact or self.wish.is_exact
        return blocks, moment._replace(
            view=self.view, newest=newest, least=least, is_exact=is_exact
        )
