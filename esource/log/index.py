"""The index of a log: where in it something can be, so that a search reads little of it.

    log    |-- zone --|-- zone --|-- … --|-- zone --|-- zone --|-- less than a zone, not known --|
    parts  |-- few: ids ---------|       |
           |-- run: a zone of all, ids --|

A *part* is the rows that begin in so many bytes from an offset on, which is a multiple of these. So
of the same rows everybody learns the same parts. Of each `ZONE_BYTES` there is a zone
(`esource.rows.find.Zone`); of each run of `MANY`, once all its zones are known, there is a zone of
all, and its own are read only if that admits what is wanted. Where zones do not tell ids apart,
there are the hashes of these (`ids`): of some zones, and then of the run.

It is never the truth: what it does not say is read in the log. Where it is kept, and when that is
believed, is a `Store`: beside a file (`beside`), or in an engine (`blocks`).
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
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
FEW, MANY = 8, 128  # zones that are taken together, once there are so many
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


class Span(NamedTuple):
    """Lines of one kind and size that are asked for: of parts that start between two offsets."""

    kind: Kind
    size: int
    start: int
    stop: int


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
    def hashed(self) -> tuple[int, ...]:
        """The sizes of parts of which there are hashes, in order; the last one is that of a run."""

    @property
    def has_room(self) -> bool:
        """Whether hashes can be stored."""

    @property
    def is_remote(self) -> bool:
        """Whether each call asks another machine, so that one for more is better than two."""

    def lines(self, rows: R_contra, *spans: Span) -> Sequence[Sequence[tuple[int, bytes]]]:
        """Return the lines of each span, by the starts of their parts, in order.

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

    def hashed(self, start: int, stop: int) -> dict[Part, int]:
        """Return the parts between two offsets that have hashes, and how many, the largest."""
        ids, found = self.ids.copy(), dict[Part, int]()
        sizes = {part.size for part in ids}
        for part, count in sorted(ids.items(), reverse=True):
            if count and part.start < stop and part.stop > start:
                larger = (_part(part.start, size) for size in sizes if size > part.size)
                if not any(each in found for each in larger):
                    found[part] = count
        return found


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
            for first, last, can_have in self._sifted(rows, wanted, start, stop, is_backwards):
                offset, end = max(first, start), min(last, stop)
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
    ) -> Iterator[tuple[int, int, bool]]:
        """Yield what is known between two offsets, in order: (offset, end, whether it can have it).

        That is a zone, a run, or several zones in a row that cannot.
        """
        if wanted == Wanted():
            return
        known, size = self._latest(rows, stop), run_bytes()
        found = {} if wanted.id is None else self._found(rows, known, wanted.id, start, stop)
        runs, admits = range(start - start % size, stop, size), _admission(wanted)
        for run in reversed(runs) if is_backwards else runs:
            whole = known.runs.get(run)
            if whole and not (admits(whole) and found.get(Part(size, run), True)):
                yield whole.offset, whole.end, False
                continue
            zones, low, high = self._zones(rows, known, run), 0, 0  # of those that cannot
            for zone in reversed(zones) if is_backwards else zones:
                can_have = admits(zone) and self._may_hold(found, zone)
                if not can_have and zone.offset == high:
                    high = zone.end
                elif not can_have and zone.end == low:
                    low = zone.offset
                else:
                    yield low, high, False
                    low, high = (0, 0) if can_have else (zone.offset, zone.end)
                    if can_have:
                        yield zone.offset, zone.end, True
            yield low, high, False

    def _may_hold(self, found: dict[Part, set[int]], zone: Zone) -> bool:
        """Return whether a zone can have an id by the hashes that were `found`, if it has any."""
        own = _part(zone.offset, ZONE_BYTES).start
        hashed = (found.get(_part(own, each)) for each in self._store.hashed)
        return all(starts is None or own in starts for starts in hashed)

    def _found(
        self, rows: R, known: _Known, id: bytes, start: int, stop: int
    ) -> dict[Part, set[int]]:
        """Return, of parts that have hashes, the starts of the zones that can have an id."""
        counts = known.hashed(start, stop)
        try:
            numbers = ids.numbers(
                counts, crc32(id), partial(self._store.hashes, rows), self._store.is_remote
            )
        except ValueError as error:
            raise Gone from error
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

    def _load(self, rows: R, stop: int = 0) -> _Known:
        """Return what is known; read it at first.

        Together with the zones of the run that has `stop`, if that takes no call of its own: of
        all but the last run, its own zone will do.
        """
        known = self._known
        if known is None:
            known, last = _Known(), _part(stop, run_bytes())
            spans = [Span("zone", run_bytes(), 0, EVER)]
            spans += [Span("ids", size, 0, EVER) for size in self._store.hashed]
            with_zones = self._store.is_remote and stop > 0
            if with_zones:
                spans.append(Span("zone", ZONE_BYTES, last.start, last.stop))
            runs, *found = self._store.lines(rows, *spans)
            for whole in _zones_of(runs, run_bytes()):
                known.runs[_part(whole.offset, run_bytes()).start] = whole
            for size, some in zip(self._store.hashed, found, strict=False):
                known.ids |= {Part(size, start): _count(line) for start, line in some}
            if with_zones:
                zones = list(_zones_of(found[-1], ZONE_BYTES))
                self._keep(_recent_key(known, last.start), zones)
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
        return self._load(rows, stop)

    def _zones(self, rows: R, known: _Known, run: int) -> list[Zone]:
        """Return the zones of the run that starts at an offset."""
        key = _recent_key(known, run)  # before they are read: others may be stored meanwhile
        zones = _recent.get(key)
        if zones is None:
            zones = list(self._stored(rows, ZONE_BYTES, run, run + run_bytes()))
        self._keep(key, zones)
        return zones

    def _keep(self, key: tuple[_Known, int, int], zones: list[Zone]) -> None:
        """Keep the zones of a run in memory, as those that were looked at last."""
        _recent[key] = zones
        with suppress(KeyError):  # in another thread it was let go
            _recent.move_to_end(key)
            while len(_recent) > RECENT:
                _recent.popitem(last=False)

    def _stored(self, rows: R, size: int, start: int, stop: int) -> Iterator[Zone]:
        """Yield the zones of one size that are stored, as far as these make sense."""
        [lines] = self._store.lines(rows, Span("zone", size, start, stop))
        yield from _zones_of(lines, size)

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
        top, begin, size = b"", rows.begin, run_bytes()
        for run in range(begin - begin % size, stop, size):
            known = self._load(rows)
            whole = known.runs.get(run)
            for part in [Part(size, run)] if whole else self._smaller(run):
                if not self._store.has_room:
                    return
                if self._has_ids(rows, known, part):
                    continue
                zones = self._zones(rows, known, run)
                before = max([top, *(zone.greatest for zone in zones if zone.offset < part.start)])
                own = [zone for zone in zones if part.start <= zone.offset < part.stop]
                behind = [zone for zone in zones if zone.offset >= part.stop][:1]
                is_full = whole or (own and own[-1].end >= part.stop)
                if is_full and _is_unclear(own, behind, before):
                    hashes = yield from self._hashed(rows, known, part, own)
                    if hashes is None:
                        return
                    self._store.put(rows, "ids", part, b"%d" % (len(hashes) // 5), hashes)
                elif whole:
                    self._store.put(rows, "ids", part, b"0")
                self._has_ids(rows, known, part)
                yield
            zones = [whole] if whole else self._zones(rows, known, run)
            top = max([top, *(zone.greatest for zone in zones)])

    def _smaller(self, run: int) -> list[Part]:
        """Return the parts of a run of which there are hashes before it is full."""
        stop = run + run_bytes()
        return [
            Part(size, start)
            for size in self._store.hashed[:-1]
            for start in range(run, stop, size)
        ]  # fmt: skip

    def _has_ids(self, rows: R, known: _Known, part: Part) -> bool:
        """Return whether there are hashes of a part, or it needs none; know what is stored."""
        if any(_part(part.start, size) in known.ids for size in self._store.hashed
               if size >= part.size):  # fmt: skip
            return True
        [lines] = self._store.lines(rows, Span("ids", part.size, part.start, part.stop))
        for start, line in lines:
            known.ids[Part(part.size, start)] = _count(line)
        return part in known.ids

    def _hashed(
        self, rows: R, known: _Known, part: Part, zones: list[Zone]
    ) -> Generator[None, None, bytes | None]:
        """Return the hashes of the ids in a part; None of rows that are gone.

        Those of smaller parts are there already.
        """
        hashes = Hashes()
        smaller = known.hashed(part.start, part.stop)
        for each, count in smaller.items():
            [some] = self._store.hashes(rows, [(each, 0, 5 * count)])
            try:
                yield from hashes.merge(some, (each.start - part.start) // ZONE_BYTES)
            except ValueError as error:
                raise Gone from error
        for zone in zones:
            if any(each.start <= zone.offset < each.stop for each in smaller):
                continue
            of_zone, offset = set[int](), zone.offset
            while offset < zone.end:
                found = reading.read(rows, offset, ROWS_BYTES, zone.end)
                if not found:
                    return None
                of_zone.update(find.hashes(found))
                offset += len(found)
                yield
            yield from hashes.add((zone.offset - part.start) // ZONE_BYTES, of_zone)
        pieces = []
        for piece in hashes.sorted():
            pieces.append(piece)
            yield
        return b"".join([each[0] for each in pieces] + [each[1] for each in pieces])


# -- parts ---------------------------------------------------------------------------------


def zone_bytes() -> int:
    """Return the size of the part of a zone."""
    return ZONE_BYTES


def few_bytes() -> int:
    """Return the size of a part that is less than a run."""
    return FEW * ZONE_BYTES


def run_bytes() -> int:
    """Return the size of a run."""
    return MANY * ZONE_BYTES


def _admission(wanted: Wanted) -> Callable[[Zone], bool]:
    """Return what tells of a zone whether it admits what is wanted: of an id, in one comparison."""
    if wanted.id is None or wanted != Wanted(id=wanted.id):
        return lambda zone: zone.admits(wanted)
    start = (wanted.id + b"\t")[: find.PREFIX_BYTES]
    return lambda zone: zone.least <= start <= zone.greatest


def _part(offset: int, size: int) -> Part:
    """Return the part of a size that has the row which begins at an offset."""
    return Part(size, offset - offset % size)


def _recent_key(known: _Known, run: int) -> tuple[_Known, int, int]:
    return known, run, -1 if run in known.runs else known.version


def _zones_of(lines: Sequence[tuple[int, bytes]], size: int) -> Iterator[Zone]:
    """Yield the zones of a size that lines tell of, as far as these make sense."""
    for at, line in lines:
        with suppress(*BAD):
            zone = Zone.of(orjson.loads(line))
            if at <= zone.offset < at + size:
                yield zone


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


def _is_unclear(zones: list[Zone], behind: list[Zone], top: bytes) -> bool:
    """Return whether zones do not tell ids apart, and these are not too many.

    `top` is the greatest beginning of a row before them, and `behind` the zone right after them, if
    that is known: without it, the first zone of ids in no order would be clear. Of all others,
    taken together, one zone admits an id.
    """
    are_few = sum(zone.rows for zone in zones) <= MOST_IDS * len(zones)
    return are_few and not find.rises(zones + behind, top)
