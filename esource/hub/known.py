"""What a writer remembers of a log's rows, so as not to read them before each commit.

The time that the next default id must exceed, and which events are there already. It is known of
the rows up to an offset, and brought up to a view before anything is decided by it: so rows that
others have appended count, and rows that were refused do not.
"""

from typing import NamedTuple

from esource.hub.view import View
from esource.log import Log
from esource.rows import tsv
from esource.rows.dedup import Dedup, digests

FEED_BYTES = 1 << 20  # of rows of others, which are read; of more only the end is


class Place(NamedTuple):
    """How far something is known."""

    log: Log
    end: int


class Known:
    """What is known of the rows up to a place."""

    def __init__(self, dedup_events: int) -> None:
        """Know nothing; `dedup_events` is how many events back a repeated id is looked for."""
        self.newest = 0  # microseconds of the greatest default id, of earlier logs of the name too
        self.dedup: Dedup | None = None  # of the last rows, from when it is first asked for
        self._dedup_events = dedup_events
        self._place: Place | None = None

    def covers(self, view: View, with_dedup: bool) -> bool:
        """Whether all of a view is known, and nothing need be read."""
        has_all = self.dedup is not None or not with_dedup
        return has_all and self._place == (view.log, view.end)

    def catch_up(self, view: View, with_dedup: bool) -> None:
        """Know all of a view. Blocks; raises `StorageError`."""
        place = self._place
        if place and place.log is view.log and view.end - place.end <= FEED_BYTES:
            rows = view.log.pread(place.end, view.end - place.end)
            newest = tsv.newest_micros(rows)
            if self.dedup:
                self.dedup.add(digests(rows))
        else:
            newest = _newest_micros(view)
            self.dedup = None
        if with_dedup and self.dedup is None:
            self.dedup = Dedup(self._dedup_events, _last_rows(view, self._dedup_events))
        self.newest = max(self.newest, newest or 0)
        self._place = Place(view.log, view.end)

    def advance(self, view: View, newest: int, fresh: dict[bytes, bytes]) -> None:
        """Know that a view goes on behind what is known by rows of a commit."""
        self.newest = newest
        if self.dedup:
            self.dedup.add(fresh)
        self._place = Place(view.log, view.end)


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


def _last_rows(view: View, count: int) -> bytes:
    """Return the rows of the last `count` events."""
    blocks = []
    for _, rows in view.log.backwards(view.end):
        place, found = tsv.last(rows, count)
        blocks.append(rows[place:])
        count -= found
        if count <= 0:
            break
    return b"".join(reversed(blocks))
