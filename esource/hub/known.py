"""What a writer remembers of a log's rows, so as not to read them before each commit.

The time that the next default id must exceed, and which events are there already. It is known of
the rows up to the end of a view, and brought up to another one before anything is decided by it: so
rows of other programs count, and rows that were refused do not.
"""

from esource.hub.view import View
from esource.log import last_bytes
from esource.rows import tsv
from esource.rows.dedup import Dedup, digests

FEED_BYTES = 1 << 20  # of rows by others, which are read whole; of more, only the end
NEAR_BYTES = 1 << 14  # of these, which do not take a thread
MAX_LEAD = 1_000_000  # microseconds
DEDUP_BYTES = 1 << 30  # of rows, which `unique=1` looks back over at most: about a second


class Known:
    """What is known of the rows of a view."""

    def __init__(self, dedup_events: int) -> None:
        """Know nothing; `dedup_events` is how many events back a repeated id is looked for."""
        self.newest = 0  # microseconds of the greatest default id, of earlier logs of the name too
        self.dedup: Dedup | None = None  # of the last rows, from when it is first asked for
        self.last = b""  # of the rows, as many bytes as a mark is made of
        # Microseconds by which the next default id exceeds the newest one, at least: while others
        # append with later ids, by a clock that is ahead, one right behind it would come too late.
        self.lead = 0
        self._dedup_events = dedup_events
        self._view: View | None = None

    def is_of(self, view: View, with_dedup: bool) -> bool:
        """Return whether just this view is known, so that there is nothing to catch up with."""
        known = self._view
        return (
            known is not None
            and known.log is view.log
            and known.end == view.end
            and not (with_dedup and self.dedup is None)
        )

    def keeps_up(self, view: View, with_dedup: bool) -> bool:
        """Return whether just this view is known, or now is, since little was missing.

        What was missing is asked of an engine, and of no file: in the loop the greenlet waits.
        Raises `StorageError`.
        """
        if self.is_of(view, with_dedup):
            return True
        known = self._view
        is_near = known and known.log is view.log and view.end - known.end <= NEAR_BYTES
        if not (view.log.is_remote and is_near) or (with_dedup and self.dedup is None):
            return False
        self.catch_up(view, with_dedup)
        return self.is_of(view, with_dedup)

    def fall_behind(self) -> None:
        """Note that an id was not later than those that others have appended meanwhile."""
        self.lead = min(max(self.lead * 4, 1), MAX_LEAD)

    def keep_up(self) -> None:
        """Note a commit that was not too late: the next one may be earlier again."""
        self.lead //= 2

    def catch_up(self, view: View, with_dedup: bool) -> None:
        """Know all of a view. Blocks if it is not known yet; raises `StorageError`."""
        known = self._view if self._view and self._view.log is view.log else None
        if known is None or known.end < view.end:  # else it knows more: rows of others behind it
            if known and view.end - known.end <= FEED_BYTES:
                newest = tsv.newest_micros(view.log.pread(known.end, view.end - known.end))
            else:
                newest = _newest_micros(view)
            self.newest = max(self.newest, newest or 0)
            if known is None:
                self.dedup = None
            elif self.dedup:
                self._look_back(self.dedup, view, known.end)
            self.last = last_bytes(view.log, view.end)
            self._view = view
        if with_dedup and self.dedup is None:
            dedup = Dedup(self._dedup_events)
            self._look_back(dedup, view, view.log.begin)
            self.dedup = dedup  # not before it knows all

    def _look_back(self, dedup: Dedup, view: View, stop: int) -> None:
        """Add the last events of a view to `dedup`, none of them before `stop`.

        Block by block, so that there are never more rows in memory than a block, or one row.
        """
        count, found = self._dedup_events, []
        for offset, rows in view.log.backwards(view.end):
            rows = rows[max(stop - offset, 0) :]
            place, events = tsv.last(rows, count)
            found.append(digests(rows[place:]))
            count -= events
            if offset <= stop or count <= 0 or view.end - offset >= DEDUP_BYTES:
                break
        for each in reversed(found):
            dedup.add(each)

    def advance(self, view: View, newest: int, fresh: dict[bytes, bytes], last: bytes) -> None:
        """Know that a view goes on behind what is known by rows of a commit."""
        self.newest, self.last = newest, last
        if self.dedup:
            self.dedup.add(fresh)
        self._view = view

    def leave(self, view: View) -> None:
        """Know the last view of a log that was replaced, and let go of the log. Blocks."""
        if self._view:
            self.catch_up(view, with_dedup=False)
            self._view = self.dedup = None
            self.last = b""


def _newest_micros(view: View) -> int | None:
    """Return the greatest time of a default id near the end, in microseconds; None without one.

    Near the end is the last block that holds one. The hub's own ids increase, so the last is the
    greatest; publishers' ids of the same form may not, and are looked at that far.
    """
    for _, rows in view.log.backwards(view.end):
        newest = tsv.newest_micros(rows)
        if newest is not None:
            return newest
    return None
