"""Rows that are no events: counted when they are met, and named in the log, once each."""

import logging
from weakref import WeakKeyDictionary

import gevent

from esource.hub.loop import in_thread, reads
from esource.hub.stats import Stats
from esource.log import Log
from esource.rows import tsv

logger = logging.getLogger(__name__)

NAMED_ROWS = 100  # of one log; a file of another kind must not flood the log of the hub
COUNT_BYTES = 1 << 18  # of rows whose lines are counted at a time


class _Named:
    """What was said of one log."""

    def __init__(self) -> None:
        self.places: set[int] = set()  # offsets of rows that are named, or will be at once
        self.line = 0, 1  # the offset of one of them, and the number of its line


class Malformed:
    """The rows of a channel that were met and are no events."""

    def __init__(self, stats: Stats) -> None:
        """Begin with none."""
        self._stats = stats
        self._named: WeakKeyDictionary[Log, _Named] = WeakKeyDictionary()

    def note(self, log: Log, offset: int, rows: bytes, count: int) -> None:
        """Count `count` of the rows that begin at an offset; name them soon; return at once."""
        self._stats.malformed += count
        named = self._named.setdefault(log, _Named())
        places = [offset + place for place in tsv.malformed(rows)]
        places = [place for place in places if place not in named.places]
        places = places[: NAMED_ROWS - len(named.places)]
        named.places.update(places)  # before anything waits: another format meets the same rows
        if places:
            gevent.spawn(_name, log, named, places, len(named.places) == NAMED_ROWS)


def _name(log: Log, named: _Named, places: list[int], are_the_last: bool) -> None:
    for place in places:
        offset, line = named.line if named.line[0] <= place else (0, 1)
        line += in_thread(reads(), _lines_between, log, offset, place)
        named.line = place, line
        logger.warning("%s, line %d: not an event (fewer than two tabs)", log.name, line)
    if are_the_last:
        logger.warning("%s: more such lines are not named", log.name)


def _lines_between(log: Log, start: int, end: int) -> int:
    """Return how many lines end between two offsets. Blocks."""
    lines = 0
    for offset in range(start, end, COUNT_BYTES):
        lines += log.pread(offset, min(COUNT_BYTES, end - offset)).count(b"\n")
    return lines
