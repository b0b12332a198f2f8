"""Where in a block of rows a reader goes on. Pure: whole rows in, an offset into them out.

Ids are opaque: they need not be unique, ordered or times. So an id is looked for from the
start of the file, block by block, and its first occurrence counts: with a later one, the
rows between the two could be lost to the reader.
"""

import re

from esource.event import DEFAULT_ID_BYTES, time_of
from esource.rows.zones import id_of_time, is_uniform

# The id of each row that is an event.
_IDS = re.compile(rb"^([^\t\n]*)\t[^\t\n]*\t", re.MULTILINE)


def after_id(rows: bytes, id: bytes) -> int:
    """Return the offset right after the first event with this id; -1 if there is none."""
    if not id or b"\t" in id or b"\n" in id:
        return -1
    needle = b"\n" + id + b"\t"
    start = 0  # the first row has no LF before it
    if not rows.startswith(needle[1:]):
        start = rows.find(needle) + 1
        if not start:
            return -1
    while True:
        end = rows.index(b"\n", start) + 1
        if rows.count(b"\t", start, end) >= 2:
            return end
        start = rows.find(needle, end - 1) + 1
        if not start:
            return -1


def later_than(rows: bytes, time: int) -> int:
    """Return the offset of the first event whose id is a time after `time`; -1 if there is none.

    `time` is in nanoseconds since 1970.
    """
    bound = id_of_time(time)
    if bound is not None and is_uniform(rows):  # then the order of bytes is that of time
        offset = 0
        for row in rows.split(b"\n"):
            if row[:DEFAULT_ID_BYTES] > bound and row.count(b"\t") >= 2:
                return offset
            offset += len(row) + 1
        return -1
    for match in _IDS.finditer(rows):
        row_time = time_of(match[1])
        if row_time is not None and row_time > time:
            return match.start()
    return -1
