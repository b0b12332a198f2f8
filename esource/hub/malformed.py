"""Rows that are no events: counted when they are met, and named in the log, once each."""

import logging

import gevent

from esource.hub.loop import in_thread, reads
from esource.hub.stats import Stats
from esource.hub.tail import Stretch
from esource.log import Log
from esource.rows import tsv

logger = logging.getLogger(__name__)

NAMED_ROWS = 100  # of one log; a file of another kind must not flood ours
COUNT_BYTES = 1 << 18  # of rows whose lines are counted at a time


class Malformed:
    """The rows of a channel that were met and are no events."""

    def __init__(self, stats: Stats) -> None:
        """Begin with none."""
        self._stats = stats
        self._log: Log | None = None
        self._named: set[int] = set()  # offsets of those that are in our log, or will be at once
        self._line = 0, 1  # the offset of one of them, and the number of its line

    def note(self, stretch: Stretch, count: int) -> None:
        """Count `count` rows of a stretch that are no events; name them soon; return at once."""
        self._stats.malformed += count
        if stretch.log is not self._log:
            self._log, self._named, self._line = stretch.log, set(), (0, 1)
        room = NAMED_ROWS - len(self._named)
        places = [stretch.offset + offset for offset in tsv.malformed(stretch.rows)]
        places = [place for place in places if place not in self._named][:room]
        self._named.update(places)  # before anything waits: another format meets the same rows
        if places:
            gevent.spawn(self._name, stretch.log, places, len(self._named) == NAMED_ROWS)

    def _name(self, log: Log, places: list[int], are_the_last: bool) -> None:
        for place in places:
            offset, line = self._line if log is self._log and self._line[0] <= place else (0, 1)
            line += in_thread(reads(), _lines_between, log, offset, place)
            if log is self._log:
                self._line = place, line
            logger.warning("%s, line %d: not an event (fewer than two tabs)", log.name, line)
        if are_the_last:
            logger.warning("%s: more such lines are not named", log.name)


def _lines_between(log: Log, start: int, end: int) -> int:
    """Return how many lines end between two offsets. Blocks."""
    lines = 0
    for offset in range(start, end, COUNT_BYTES):
        lines += log.pread(offset, min(COUNT_BYTES, end - offset)).count(b"\n")
    return lines
