"""Where in rows a reader goes on, and which parts of a log are worth a look. Pure.

Ids are opaque: they need not be unique, ordered or times. So an id is looked for from the
start of the log, block by block, and its first occurrence counts: with a later one, the
rows between the two could be lost to the reader.

    log  |-- zone --|-- zone --|-- zone --|-- less than a zone --|
           least       least      least     not known: read it
           greatest    greatest   greatest
           newest      newest     newest
           types       types      types

A *zone* is about `ZONE_BYTES` of whole rows. Of each is kept what its rows begin with, in the order
of bytes, the latest time that is an id, and which types its events have, if those are few. An id,
the first later time, or an event of a type can only stand in a zone that admits it. So of a channel
in the order of time a search reads one zone and not the log. A zone is a summary of rows that never
change; `log.index` makes it, and keeps it.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

from esource.event import DEFAULT_ID_BYTES, MAX_ID_BYTES, MAX_TYPE_BYTES, default_id, time_of
from esource.rows import tsv

ZONE_BYTES = 1 << 20
# No comparison needs more of a row: ids are shorter, but for foreign ones, and then a zone
# that admits the beginning of an id is searched in vain.
PREFIX_BYTES = 1100
# Of the types in a zone: a channel may have one for each of its events.
MOST_TYPES, MOST_TYPE_BYTES = 64, 4096
assert MAX_ID_BYTES + len(b"\t") < PREFIX_BYTES

# What a row begins with that has a default id, with a 0 for each digit.
_HEAD = b"0000-00-00T00:00:00.000000Z\t"
_NO_DEFAULT_ID = b"95"  # which no default id is as great as (see `event`)
# What may be a time, behind an LF: without a zone, and the zone.
_TIME = re.compile(
    rb"\n(\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)?)"
    rb"([Zz]|[+ -]\d\d(?::?\d\d)?|)\t"
)
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_TOGETHER = 128  # rows


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
    each = tsv.each_of(rows)
    if not each:
        return None
    greatest = max(each)
    uniform = are_uniform(each, greatest)
    bound = id_of_time(time)
    if bound is not None and uniform:  # the order of bytes is that of time
        offset = 0
        for row in each if greatest[:DEFAULT_ID_BYTES] > bound else ():
            id = row[:DEFAULT_ID_BYTES]
            if id > bound and tsv.is_event(row) and time_of(id) is not None:
                return offset
            offset += len(row)
        return None
    newest = _newest_time(rows, greatest, uniform)
    if newest is None or newest <= time:
        return None
    for event in tsv.BEGINNING.finditer(rows):
        event_time = time_of(event[1])
        if event_time is not None and event_time > time:
            return event.start()
    return None


def _newest_time(rows: bytes, greatest: bytes, uniform: bool) -> int | None:
    """Return the latest time that is an id in whole rows, in nanoseconds since 1970.

    Given the greatest row, and whether all begin with a default id. None if there is no time. A row
    that is no event, but begins like one, may count.
    """
    if uniform:
        newest = time_of(greatest[:DEFAULT_ID_BYTES])
        if newest is not None:
            return newest
    found = _TIME.findall(b"\n" + rows)
    if len({local.translate(_DIGITS) + zone for local, zone in found}) == 1:
        newest = time_of(b"".join(max(found)))  # of one form: the order of bytes is that of time
        if newest is not None:
            return newest
    times = (time_of(local + zone) for local, zone in found)
    return max((time for time in times if time is not None), default=None)


def hashes(rows: bytes) -> Iterator[int]:
    """Return a checksum of 32 bits of each id in whole rows, and of some other texts."""
    return map(zlib.crc32, [row[: row.find(b"\t")] for row in tsv.each_of(rows)])


# -- in zones ------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """What is looked for: all that is given must be admitted."""

    id: bytes | None = None
    later_than: int | None = None  # nanoseconds since 1970
    types: frozenset[bytes] = frozenset()  # of events, any of them; none: of any type


class Zone(NamedTuple):
    """What is known of the rows from `offset` to `end`."""

    offset: int
    end: int
    rows: int  # how many
    checksum: int  # CRC-32
    least: bytes  # what the least and
    greatest: bytes  # the greatest row begin with, up to and with the tab behind the id
    newest: int | None  # of the times that are ids, in microseconds since 1970, rounded up
    types: frozenset[bytes] | None  # of the events; None if they are too many to be kept

    def admits(self, wanted: Wanted) -> bool:
        """Return whether what is wanted can be here."""
        return (
            (wanted.id is None or self.admits_id(wanted.id))
            and (wanted.later_than is None or self.admits_later(wanted.later_than))
            and self.admits_types(wanted.types)
        )

    def admits_id(self, id: bytes) -> bool:
        """Return whether an event with this id can be here."""
        start = (id + b"\t")[:PREFIX_BYTES]
        return self.least <= start <= self.greatest

    def admits_later(self, time: int) -> bool:
        """Return whether an id here can be a time after `time`, in nanoseconds since 1970."""
        return self.newest is not None and self.newest * 1000 > time

    def admits_types(self, types: frozenset[bytes]) -> bool:
        """Return whether an event of one of these types can be here; without types, of any."""
        return not types or self.types is None or not self.types.isdisjoint(types)

    def joined(self, other: "Zone") -> "Zone":
        """Return the zone of these rows and of those of the zone right behind them.

        The checksum is that of the other.
        """
        types = None if self.types is None or other.types is None else self.types | other.types
        times = [time for time in (self.newest, other.newest) if time is not None]
        return Zone(
            self.offset,
            other.end,
            self.rows + other.rows,
            other.checksum,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
            max(times, default=None),
            types and _few(types),
        )

    def fields(self) -> list[object]:
        """Return all of it as JSON has it: bytes are Latin-1."""
        types = self.types
        return [
            self.offset, self.end, self.rows, self.checksum, self.least.decode("latin-1"),
            self.greatest.decode("latin-1"), self.newest,
            None if types is None else sorted(type.decode("latin-1") for type in types),
        ]  # fmt: skip

    @classmethod
    def of(cls, fields: list[object]) -> "Zone":
        """Return what `fields` has returned; raises `ValueError` for anything else."""
        match fields:
            case [
                int(offset), int(end), int(count), int(checksum), str(least), str(greatest),
                int() | None as newest, list() | None as types,
            ] if 0 <= offset < end:  # fmt: skip
                ends = least.encode("latin-1"), greatest.encode("latin-1")
                kept = None if types is None else frozenset(map(_latin_1, types))
                return cls(offset, end, count, checksum, *ends, newest, kept)
        raise ValueError("no zone")


def _latin_1(type: object) -> bytes:
    if not isinstance(type, str):
        raise ValueError("no type")
    return type.encode("latin-1")


def zone(offset: int, rows: bytes, checksum: int = 0) -> Zone:
    """Return the zone of whole rows, at least one, that begin at an offset.

    Its checksum goes on from that of the rows before them.
    """
    each = tsv.each_of(rows)
    greatest = max(each)
    type = _one_type(each)
    uniform = greatest < _NO_DEFAULT_ID if type is not None else are_uniform(each, greatest)
    newest = _newest_time(rows, greatest, uniform)
    return Zone(
        offset,
        offset + len(rows),
        len(each),
        zlib.crc32(rows, checksum),
        _beginning(min(each)),
        _beginning(greatest),
        None if newest is None else -(-newest // 1000),
        _few(frozenset(tsv.types(rows) if type is None else (type,))),
    )


def _one_type(each: list[bytes]) -> bytes | None:
    """Return the type of rows, if all are events of the same one with ids like default ones."""
    start = len(_HEAD)
    end = each[0].find(b"\t", start, start + MAX_TYPE_BYTES + 1)
    type, zeros = each[0][start:end], each[0][start : end + 1].translate(_DIGITS)
    if end < 0 or not _begin_alike(each, _HEAD + zeros):
        return None
    alike = zeros.startswith(type) or len(set(map(itemgetter(slice(start, end)), each))) == 1
    return type if alike else None


def rises(zones: list[Zone], before: bytes = b"") -> bool:
    """Return whether at most one of these zones, or one that ends with `before`, admits an id.

    Or, of an id that stands where two zones meet, two.
    """
    for zone in zones:
        if zone.least < before:
            return False
        before = zone.greatest
    return True


def _beginning(row: bytes) -> bytes:
    """Return what is kept of a row."""
    return row[: row.find(b"\t") + 1 or None][:PREFIX_BYTES]


def _few(types: frozenset[bytes]) -> frozenset[bytes] | None:
    """Return types as a zone keeps them."""
    few = len(types) <= MOST_TYPES and sum(map(len, types)) <= MOST_TYPE_BYTES
    return types if few else None


def are_uniform(each: list[bytes], greatest: bytes) -> bool:
    """Return whether rows, at least one, all begin with a default id; one is the greatest."""
    return greatest < _NO_DEFAULT_ID and _begin_alike(each, _HEAD)


def _begin_alike(each: list[bytes], head: bytes) -> bool:
    """Return whether all rows begin with a head, but for digits, each of which is a 0 there.

    Of each row as much as the head is packed; what is shorter is filled up with zeros, and a head
    ends with a tab. A third of the time of a slice for each.
    """
    pack, wanted = _packing(len(head)), head * _TOGETHER
    for start in range(0, len(each), _TOGETHER):
        some = each[start : start + _TOGETHER]
        some += some[:1] * (_TOGETHER - len(some))
        if pack(*some).translate(_DIGITS) != wanted:
            return False
    return True


@lru_cache(maxsize=16)
def _packing(size: int) -> Callable[..., bytes]:
    """Return what packs so many bytes of each of some rows."""
    return Struct(f"{size}s" * _TOGETHER).pack


def id_of_time(time: int) -> bytes | None:
    """Return the greatest default id that is not after a time; None if no default id is that.

    `time` is in nanoseconds since 1970.
    """
    try:
        return default_id(time // 1000)
    except (OverflowError, ValueError):
        return None
