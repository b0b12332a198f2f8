"""Which parts of a file can hold an id: a zone map, in memory. Pure.

A zone is about `ZONE_BYTES` of whole rows. Of each the map keeps the least and the greatest
row, in the order of bytes, and whether all its ids are default ids. An id, or the first
later time, can only stand in a zone that admits it. So of a channel in the order of time a
search reads one zone and not the file; of any other it reads more, and is as right.

The map is a summary of rows that never change: made from the file when it is first needed,
grown with it, never stored.
"""

import re
from typing import NamedTuple

from esource.event import DEFAULT_ID, DEFAULT_ID_BYTES, default_id

ZONE_BYTES = 1 << 20
# No comparison needs more of a row: ids are shorter, but for foreign ones, and then a zone
# that admits the beginning of an id is searched in vain.
PREFIX_BYTES = 1100

_OTHER_ID = re.compile(rb"\n(?!" + DEFAULT_ID.pattern + rb"\t)")


class Zone(NamedTuple):
    """What is known of the rows from `offset` to `end`."""

    offset: int
    end: int
    least: bytes
    greatest: bytes
    is_uniform: bool  # all ids are default ids

    def admits_id(self, id: bytes) -> bool:
        """Return whether an event with this id can be here."""
        start = (id + b"\t")[:PREFIX_BYTES]
        return self.least[: len(start)] <= start <= self.greatest

    def admits_later(self, time: int) -> bool:
        """Return whether an id here can be a time after `time`, in nanoseconds since 1970."""
        bound = id_of_time(time)
        return not self.is_uniform or bound is None or self.greatest[: len(bound)] > bound


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
    )


def is_uniform(rows: bytes) -> bool:
    """Return whether all rows begin with a default id."""
    first = DEFAULT_ID.match(rows) and rows[DEFAULT_ID_BYTES : DEFAULT_ID_BYTES + 1] == b"\t"
    return bool(first) and not _OTHER_ID.search(rows, 0, len(rows) - 1)


def id_of_time(time: int) -> bytes | None:
    """Return the greatest default id that is not after a time; None if no default id is that."""
    try:
        return default_id(time // 1000)
    except (OverflowError, ValueError):
        return None
