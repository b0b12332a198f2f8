"""Where in rows a reader goes on, and which parts of a log are worth a look. Pure.

Ids are opaque: they need not be unique, ordered or times. So an id is looked for from the
start of the log, block by block, and its first occurrence counts: with a later one, the
rows between the two could be lost to the reader.

    log  |-- zone --|-- zone --|-- zone --|-- less than a zone --|
           least       least      least     not mapped: read it
           greatest    greatest   greatest
           types       types      types

A *zone* is about `ZONE_BYTES` of whole rows. Of each the map keeps the least and the greatest
row, in the order of bytes, whether all its ids are default ids, and which types its events have,
if those are few. An id, the first later time, or an event of a type can only stand in a zone that
admits it. So of a channel in the order of time a search reads one zone and not the log; of any
other it reads more, and is as right. The map is a summary of rows that never change: made when it
is first needed, grown with the log, never stored.
"""

import re
from enum import Enum
from typing import NamedTuple

from esource.event import DEFAULT_ID, DEFAULT_ID_BYTES, MAX_ID_BYTES, default_id, time_of
from esource.rows import tsv

ZONE_BYTES = 1 << 20
# No comparison needs more of a row: ids are shorter, but for foreign ones, and then a zone
# that admits the beginning of an id is searched in vain.
PREFIX_BYTES = 1100
# Of the types in a zone: a channel may have one for each of its events.
MOST_TYPES, MOST_TYPE_BYTES = 64, 4096
assert MAX_ID_BYTES + len(b"\t") < PREFIX_BYTES

_OTHER_ID = re.compile(rb"\n(?!" + DEFAULT_ID.pattern + rb"\t)")


class Verdict(str, Enum):
    """How the place where a read begins was found; the values are for clients and metrics."""

    EXACT = "exact"  # after the event with the id
    TIME = "time"  # at the first event of a later time
    START = "start"  # at the first event, since the id is unknown
    LIVE = "live"  # after the last event
    TRIMMED = "trimmed"  # at the first event that is kept: what was asked for may be gone


# -- in rows -------------------------------------------------------------------------------


def after_id(rows: bytes, id: bytes) -> int | None:
    """Return the offset right after the first event with this id, in whole rows."""
    if not id or b"\t" in id or b"\n" in id:
        return None
    beginning = id + b"\t"
    start = 0  # the first row has no LF before it
    while True:
        if rows.startswith(beginning, start):
            end = rows.index(b"\n", start) + 1
            if tsv.is_event(rows[start:end]):
                return end
        start = rows.find(b"\n" + beginning, start) + 1
        if not start:
            return None


def later_than(rows: bytes, time: int) -> int | None:
    """Return the offset of the first event whose id is a time after `time`, in whole rows.

    `time` is in nanoseconds since 1970.
    """
    bound = id_of_time(time)
    if bound is not None and is_uniform(rows):  # then the order of bytes is that of time
        offset = 0
        for row in rows.split(b"\n"):
            id = row[:DEFAULT_ID_BYTES]
            if id > bound and tsv.is_event(row) and time_of(id) is not None:
                return offset
            offset += len(row) + 1
        return None
    for event in tsv.BEGINNING.finditer(rows):
        event_time = time_of(event[1])
        if event_time is not None and event_time > time:
            return event.start()
    return None


# -- in zones ------------------------------------------------------------------------------


class Zone(NamedTuple):
    """What is known of the rows from `offset` to `end`."""

    offset: int
    end: int
    least: bytes
    greatest: bytes
    is_uniform: bool  # all ids are default ids
    types: frozenset[bytes] | None  # of the events; None if they are too many to be kept

    def admits_id(self, id: bytes) -> bool:
        """Return whether an event with this id can be here."""
        start = (id + b"\t")[:PREFIX_BYTES]
        return self.least[: len(start)] <= start <= self.greatest

    def admits_later(self, time: int) -> bool:
        """Return whether an id here can be a time after `time`, in nanoseconds since 1970."""
        bound = id_of_time(time)
        return not self.is_uniform or bound is None or self.greatest[: len(bound)] > bound

    def admits_types(self, types: frozenset[bytes]) -> bool:
        """Return whether an event of one of these types can be here; without types, of any."""
        return not types or self.types is None or not self.types.isdisjoint(types)

    def joined(self, other: "Zone") -> "Zone":
        """Return the zone of these rows and of those of the zone right behind them."""
        types = None if self.types is None or other.types is None else self.types | other.types
        return Zone(
            self.offset,
            other.end,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
            self.is_uniform and other.is_uniform,
            types and _few(types),
        )


def zone(offset: int, rows: bytes) -> Zone:
    """Return the zone of whole rows, at least one, that begin at an offset."""
    each = rows.split(b"\n")
    each.pop()
    return Zone(
        offset,
        offset + len(rows),
        min(each)[:PREFIX_BYTES],
        max(each)[:PREFIX_BYTES],
        is_uniform(rows),
        _few(frozenset(tsv.types(rows))),
    )


def _few(types: frozenset[bytes]) -> frozenset[bytes] | None:
    """Return types as a zone keeps them."""
    few = len(types) <= MOST_TYPES and sum(map(len, types)) <= MOST_TYPE_BYTES
    return types if few else None


def is_uniform(rows: bytes) -> bool:
    """Return whether all rows begin with a default id."""
    first = DEFAULT_ID.match(rows) and rows[DEFAULT_ID_BYTES : DEFAULT_ID_BYTES + 1] == b"\t"
    return bool(first) and not _OTHER_ID.search(rows, 0, len(rows) - 1)


def id_of_time(time: int) -> bytes | None:
    """Return the greatest default id that is not after a time; None if no default id is that.

    `time` is in nanoseconds since 1970.
    """
    try:
        return default_id(time // 1000)
    except (OverflowError, ValueError):
        return None
