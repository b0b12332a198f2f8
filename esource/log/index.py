"""The index of a log: where in it something can be, so that a search reads little of it.

    log    |-- zone --|-- zone --|-- … --|-- zone --|-- zone --|-- less than a zone, not known --|
    parts  |-- few: ids ---------|       |
           |-- run: a zone of all, ids --|

A *part* is the rows that begin in so many bytes from an offset on, which is a multiple of these. So
of the same rows everybody learns the same parts. Of each `ZONE_BYTES` there is a zone
(`esource.rows.find.Zone`); of each run of `MANY`, once all its zones are known, there is a zone of
all, and its own are read only if that admits what is wanted. Where zones do not tell ids apart,
there are the hashes of these (`ids`): of `FEW` zones, and then of the run.

It is never the truth: what it does not say is read in the log. Where it is kept, and when that is
believed, is a `Store`: beside a file (`beside`), or in an engine (`blocks`).
"""

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial, reduce
from typing import Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar
from zlib import crc32

import orjson

from esource.log import ids, reading
from esource.log.ids import Hashes
from esource.rows import find
from esource.rows.find import ZONE_BYTES, Wanted, Zone

ROWS_BYTES = 1 << 16  # of rows that are looked at in one step
FEW, MANY = 8, 128  # zones whose ids are hashed together: at first, and once there are so many
# Of a zone that have hashes, on average of a part. One takes 5 bytes, which rows of less than 32
# are not worth, and 8 in memory while they are made.
MOST_IDS = ZONE_BYTES >> 5
RECENT = 32  # runs, of all logs, whose zones are in memory
EVER = 1 << 62  # an offset behind all rows
BAD = (ValueError, TypeError, KeyError, IndexError, OverflowError)  # what a line says

Kind: TypeAlias = Literal["zone", "ids"]


class Part(NamedTuple):
    """Rows that begin in so many bytes from an offset on."""

    size: int
    start: int  # a multiple of it

    @property
    def stop(self) -> int:
        """The offset at which the next part starts."""
        return self.start + self.size


class Rows(Protocol):
    """Rows that are indexed."""

    @property
    def begin(self) -> int:
        """The offset of the first row."""

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`."""


R = TypeVar("R", bound=Rows)
R_contra = TypeVar("R_contra", bound=Rows, contravariant=True)


class Gone(Exception):
    """Something that was stored is not there any more."""


class Store(Protocol[R_contra]):
    """Where the index of some rows is kept: a line for a part, which says what is known of it.

    All calls block, and may raise `StorageError`.
    """

    @property
    def has_room(self) -> bool:
        """Whether hashes can be stored."""

    def lines(
        self, rows: R_contra, kind: Kind, size: int, start: int, stop: int
    ) -> Sequence[tuple[int, bytes]]:
        """Return the lines of parts of this size, by their starts between two offsets, in order.

        May raise `Gone`.
        """

    def hashes(self, rows: R_contra, wanted: Sequence[tuple[Part, int, int]]) -> list[bytes]:
        """Return pieces of the hashes of parts: of each (part, place, size in bytes).

        Raises `Gone`.
        """

    def put(self, rows: R_contra, kind: Kind, part: Part, line: bytes, hashes: bytes = b"") -> None:
        """Store a line, and the hashes that go with it; of several for one part, the first stays.

        What cannot be stored may be forgotten.
        """

    def lose(self) -> None:
        """Forget what is stored, since something of it is gone: all is made again."""


class _Known:
    """What was read of what is stored."""

    def __init__(self) -> None:
        self.runs: dict[int, Zone] = {}  # by the starts of the runs
        self.ids: dict[Part, int] = {}  # how many hashes there are; 0: the zones are enough
        self.version = 0  # of the zones of other runs


# The zones of the runs that were looked at last, in order: those of all would fill the memory.
_recent: OrderedDict[tuple[_Known, int, int], list[Zone]] = OrderedDict()


class Index(Generic[R]):
    """What is known of some rows. All calls block; only one thread at a time may learn."""

    def __init__(self, store: Store[R]) -> None:
        """Say where it is kept; nothing is read yet."""
        self._store = store
        self._known: _Known | None = None

    # -- searching -------------------------------------------------------------------------

    def places(
        self, rows: R, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each part between two offsets that can have it, in order."""
        at = stop if is_backwards else start  # up to here all is yielded, or cannot have it
        try:
            for zone, can_have in self._sifted(rows, wanted, start, stop, is_backwards):
                offset, end = max(zone.offset, start), min(zone.end, stop)
                if offset >= end:
                    continue
                if is_backwards and end < at:
                    yield end, at
                elif not is_backwards and at < offset:
                    yield at, offset
                at = offset if is_backwards else end
                if can_have:
                    yield offset, end
        except Gone:
            self._known = None
            self._store.lose()
        rest = (start, at) if is_backwards else (at, stop)
        if rest[0] < rest[1]:
            yield rest

    def _sifted(
        self, rows: R, wanted: Wanted, start: int, stop: int, is_backwards: bool
    ) -> Iterator[tuple[Zone, bool]]:
        """Yield what is known between two offsets, in order: a zone, and whether it can have it."""
        if wanted == Wanted():
            return
        known, size = self._latest(rows, stop), run_bytes()
        found = {} if wanted.id is None else self._found(rows, known, wanted.id, start, stop)
        runs = range(start - start % size, stop, size)
        for run in reversed(runs) if is_backwards else runs:
            whole = known.runs.get(run)
            if whole and not (whole.admits(wanted) and found.get(Part(size, run), True)):
                yield whole, False
                continue
            zones = self._zones(rows, known, run)
            for zone in reversed(zones) if is_backwards else zones:
                own = _part(zone.offset, ZONE_BYTES).start
                hashed = (found.get(_part(own, each)) for each in hashed_bytes())
                is_found = all(starts is None or own in starts for starts in hashed)
                yield zone, is_found and zone.admits(wanted)

    def _found(
        self, rows: R, known: _Known, id: bytes, start: int, stop: int
    ) -> dict[Part, set[int]]:
        """Return, of parts that have hashes, the starts of the zones that can have an id."""
        size = run_bytes()
        counts = {
            part: count for part, count in list(known.ids.items())
            if count and part.start < stop and part.stop > start
            and (part.size == size or not known.ids.get(_part(part.start, size)))
        }  # fmt: skip
        numbers = ids.numbers(counts, crc32(id), partial(self._store.hashes, rows))
        return {
            part: {part.start + number * ZONE_BYTES for number in some}
            for part, some in numbers.items()
        }

    def changed(self, rows: R) -> Iterator[Zone]:
        """Yield the zones whose rows are not those that the index was made of. Reads all of them.

        None without an index that is believed. Writes nothing; raises `OSError`.
        """
        with suppress(Gone):
            for zone in self._stored(rows, ZONE_BYTES, 0, EVER):
                if crc32(rows.pread(zone.offset, zone.end - zone.offset)) != zone.checksum:
                    yield zone

    # -- reading ---------------------------------------------------------------------------

    def _load(self, rows: R) -> _Known:
        """Return what is known; read it at first."""
        known = self._known
        if known is None:
            known = _Known()
            for whole in self._stored(rows, run_bytes(), 0, EVER):
                known.runs[_part(whole.offset, run_bytes()).start] = whole
            for size in hashed_bytes():
                for start, line in self._store.lines(rows, "ids", size, 0, EVER):
                    known.ids[Part(size, start)] = _count(line)
            self._known = known
        return known

    def _latest(self, rows: R, stop: int) -> _Known:
        """Return the same, read again if a zone is missing: another hub may have learned it."""
        if self._known:
            known, size = self._known, run_bytes()
            end = max((whole.end for whole in list(known.runs.values())), default=rows.begin)
            zones = self._zones(rows, known, _part(end, size).start) if end < stop else []
            end = max([end, *(zone.end for zone in zones[-1:])])
            if _part(end, ZONE_BYTES).stop <= stop:
                self._known = None
        return self._load(rows)

    def _zones(self, rows: R, known: _Known, run: int) -> list[Zone]:
        """Return the zones of the run that starts at an offset."""
        key = known, run, -1 if run in known.runs else known.version
        zones = _recent.get(key)
        if zones is None:
            zones = _recent[key] = list(self._stored(rows, ZONE_BYTES, run, run + run_bytes()))
        with suppress(KeyError):  # in another thread it was let go
            _recent.move_to_end(key)
            while len(_recent) > RECENT:
                _recent.popitem(last=False)
        return zones

    def _stored(self, rows: R, size: int, start: int, stop: int) -> Iterator[Zone]:
        """Yield the zones of one size that are stored, as far as these make sense."""
        for at, line in self._store.lines(rows, "zone", size, start, stop):
            with suppress(*BAD):
                zone = Zone.of(orjson.loads(line))
                if at <= zone.offset < at + size:
                    yield zone

    # -- learning --------------------------------------------------------------------------

    def learn(self, rows: R, stop: int, is_final: bool = False) -> Iterator[None]:
        """Learn what is to be known of the rows up to an offset, in steps of a millisecond or so.

        `is_final`: there will be no more, so a part may be less than its size. Raises
        `StorageError`. What cannot be stored is kept in memory, if it is not large.
        """
        size, at = run_bytes(), rows.begin
        try:
            for run in range(at - at % size, stop, size):
                at = yield from self._learn_run(rows, run, at, stop, is_final)
                if at < min(run + size, stop):
                    break
            yield from self._learn_ids(rows, stop)
        except Gone:
            self._known = None
            self._store.lose()

    def _learn_run(
        self, rows: R, run: int, at: int, stop: int, is_final: bool
    ) -> Generator[None, None, int]:
        """Learn the zones of a run, from an offset on; return up to where they are known."""
        whole = self._load(rows).runs.get(run)
        if whole:
            return whole.end
        part = Part(run_bytes(), run)
        zones, seen = dict[int, Zone](), list[Zone]()
        while at < (min(part.stop, stop) if is_final else part.stop):
            own = _part(at, ZONE_BYTES)
            if own.start not in zones:  # what others have learned meanwhile is there, too
                found = self._stored(rows, ZONE_BYTES, own.start, part.stop)
                zones.update((_part(zone.offset, ZONE_BYTES).start, zone) for zone in found)
            zone = zones.get(own.start)
            if zone is None or zone.end <= at:
                is_due = own.stop <= stop or is_final
                zone = (yield from _zone(rows, at, own.stop, stop)) if is_due else None
                if zone is None:
                    return at
                zones[own.start] = zone
                self._put_zone(rows, own, zone)
            seen.append(zone)
            at = zone.end
        if seen:  # else one long row ends behind all of it
            self._put_zone(rows, part, reduce(Zone.joined, seen))
        return at

    def _put_zone(self, rows: R, part: Part, zone: Zone) -> None:
        known = self._load(rows)
        self._store.put(rows, "zone", part, orjson.dumps(zone.fields()))
        if part.size == run_bytes():
            known.runs[part.start] = zone
        known.version += 1

    def _learn_ids(self, rows: R, stop: int) -> Iterator[None]:
        """Hash the ids of parts in which more than one zone admits an id."""
        top, begin = b"", rows.begin
        few, size = hashed_bytes()
        for run in range(begin - begin % size, stop, size):
            known = self._load(rows)
            whole = known.runs.get(run)
            starts = range(run, run + size, few)
            for part in [Part(size, run)] if whole else [Part(few, start) for start in starts]:
                if not self._store.has_room:
                    return
                if whole and part in known.ids:
                    continue
                zones = [
                    zone for zone in self._zones(rows, known, run)
                    if part.start <= zone.offset < part.stop
                ]  # fmt: skip
                is_full = whole or (zones and zones[-1].end >= part.stop)
                if is_full and not self._has_ids(rows, known, part):
                    if _is_unclear(zones, top):
                        made = yield from _hashed(rows, part, zones)
                        if made is None:
                            return
                        self._store.put(rows, "ids", part, b"%d" % (len(made) // 5), made)
                    elif whole:
                        self._store.put(rows, "ids", part, b"0")
                    self._has_ids(rows, known, part)
                top = max([top, *(zone.greatest for zone in zones)])
            top = max(top, whole.greatest) if whole else top
            yield

    def _has_ids(self, rows: R, known: _Known, part: Part) -> bool:
        """Return whether there are hashes of a part, and know those that are stored."""
        if part not in known.ids:
            for start, line in self._store.lines(rows, "ids", part.size, part.start, part.stop):
                known.ids[Part(part.size, start)] = _count(line)
        return part in known.ids


# -- parts ---------------------------------------------------------------------------------


def zone_bytes() -> int:
    """Return the size of the part of a zone."""
    return ZONE_BYTES


def run_bytes() -> int:
    """Return the size of a run."""
    return MANY * ZONE_BYTES


def hashed_bytes() -> tuple[int, int]:
    """Return the sizes of the parts of which there may be hashes."""
    return FEW * ZONE_BYTES, MANY * ZONE_BYTES


def _part(offset: int, size: int) -> Part:
    """Return the part of a size that has the row which begins at an offset."""
    return Part(size, offset - offset % size)


def _count(line: bytes) -> int:
    """Return how many hashes there are, as a line says; none if it makes no sense."""
    return int(line) if line.isdigit() else 0


def _zone(rows: Rows, offset: int, due: int, stop: int) -> Generator[None, None, Zone | None]:
    """Return the zone from an offset to the first end of a row that is not before `due`.

    Or that ends at `stop`; None if rows are gone.
    """
    zone: Zone | None = None
    while offset < min(due, stop):
        some = reading.read(rows, offset, ROWS_BYTES, stop)
        if not some:
            return None
        if offset + len(some) > due:
            some = some[: some.index(b"\n", due - offset - 1) + 1]
        more = find.zone(offset, some, zone.checksum if zone else 0)
        zone = zone.joined(more) if zone else more
        offset = zone.end
        yield
    return zone


def _is_unclear(zones: list[Zone], top: bytes) -> bool:
    """Return whether zones do not tell ids apart, and these are not too many.

    `top` is the greatest beginning of a row before them. Of all others, taken together, one zone
    admits an id.
    """
    are_few = sum(zone.rows for zone in zones) <= MOST_IDS * len(zones)
    return are_few and not find.rises(zones, top)


def _hashed(rows: Rows, part: Part, zones: list[Zone]) -> Generator[None, None, bytes | None]:
    """Return the hashes of the ids in the zones of a part; None of rows that are gone."""
    hashes = Hashes()
    for zone in zones:
        offset, of_zone = zone.offset, set[int]()
        while offset < zone.end:
            some = reading.read(rows, offset, ROWS_BYTES, zone.end)
            if not some:
                return None
            of_zone.update(find.hashes(some))
            offset += len(some)
            yield
        for _ in hashes.add((zone.offset - part.start) // ZONE_BYTES, of_zone):
            yield
    parts = []
    for some_sorted in hashes.sorted():
        parts.append(some_sorted)
        yield
    return b"".join([each[0] for each in parts] + [each[1] for each in parts])
