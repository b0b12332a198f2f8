"""Rows that are no events: counted when they are met, and named in the log, once each."""

import logging
import time
from weakref import WeakKeyDictionary

import gevent

from esource.hub.stats import Stats
from esource.hub.work import Work
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
    work = Work()
    for place in places:
        offset, line = named.line if named.line[0] <= place else (0, 1)
        while offset < place:
            offset, line = work.step(_count_lines, log, offset, place, line)
        named.line = place, line
        logger.warning("%s, line %d: not an event (fewer than two tabs)", log.name, line)
    if are_the_last:
        logger.warning("%s: more such lines are not named", log.name)


def _count_lines(deadline: float, log: Log, offset: int, end: int, line: int) -> tuple[int, int]:
    """Return (how far the lines are counted, the number of the line there). Blocks."""
    while offset < end and time.monotonic() < deadline:
        line += log.pread(offset, min(COUNT_BYTES, end - offset)).count(b"\n")
        offset += min(COUNT_BYTES, end - offset)
    return offset, line
