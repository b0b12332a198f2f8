"""Rows that are written together: one write, one sync, one signal for all their publishers.

publishers ──► commit, which takes more ──► asked, written, synced ──► done: all are answered
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.errors import EsourceError
from esource.hub.known import Known
from esource.hub.receipt import Moment, Receipt, Wish
from esource.hub.view import View
from esource.log import Moved
from esource.rows.tsv import Draft

FEW_BYTES = 1 << 18  # of rows, which are written in one piece and kept for the tail


class Done(NamedTuple):
    """What came of a commit."""

    view: View  # up to and with its rows
    start: int  # the offset where they begin; the view's end if there are none
    rows: bytes  # the rows, if they are few
    sync_seconds: float


class Commit:
    """The receipts of publishers that share a write."""

    __slots__ = ("_done", "error", "receipts", "size")

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.size = 0  # bytes of the rows, about
        self.error: EsourceError | None = None  # why none of the rows is in the log, if so
        self._done = Signal()

    def add(self, drafts: Sequence[Draft], wish: Wish, after: Receipt | None) -> Receipt:
        """Take rows in; return what their publisher holds."""
        receipt = Receipt(self, drafts, wish, after)
        self.receipts.append(receipt)
        for draft in drafts:
            self.size += len(draft.rows)
        return receipt

    def answer(self) -> None:
        """Tell the publishers that it is done, well or badly; return at once."""
        self._done.set()
        self.receipts = []  # they hold the commit: it need not hold them, too

    def wait(self) -> None:
        """Block until it is done."""
        if not self._done.is_set():
            self._done.wait()

    @property
    def needs_dedup(self) -> bool:
        """Whether some rows are only to be appended if their events are not there."""
        return any(receipt.wish.unique for receipt in self.receipts)

    def append_to(self, view: View, known: Known) -> Done | Moved:
        """Ask the receipts, one after the other, and append the rows of those that get a yes.

        `known` is what is known of the view. Blocks: runs in a thread, since it may be tens of
        megabytes, of which no step is more than one. May be called again, with another view.
        """
        moment = Moment(view, known.newest, time.time_ns() // 1000, known.dedup, {})
        blocks: list[bytes] = []
        for receipt in self.receipts:
            rows, moment = receipt.ask(moment)
            blocks += rows
        if not blocks:  # a no, too, takes all that is there
            is_current = view.log.is_current()
            return Done(view, view.end, b"", 0.0) if is_current else Moved("it has changed")
        size = sum(map(len, blocks))
        if size <= FEW_BYTES:
            blocks = [b"".join(blocks)]
        appended = view.log.append(view.end if moment.is_exact else None, blocks, moment.least)
        if isinstance(appended, Moved):
            return appended
        start, sync_seconds = appended
        made = View(view.log, start + size, moment.view.newest_id)
        if start == view.end:
            known.advance(made, moment.newest, moment.fresh)
        else:  # others appended right before, which is in the log but not known
            for receipt in self.receipts:
                receipt.move(start - view.end)
        return Done(made, start, blocks[0] if len(blocks) == 1 else b"", sync_seconds)
