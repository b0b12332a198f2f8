"""The index of a file of rows: where in it something can be, so that a search reads little of it.

    orders.tsv    |-- zone --|-- zone --|-- zone --|-- less than a zone, not known yet --|
    orders.idx    a line of JSON for each zone (`esource.rows.find.Zone`)
    orders.ids    where zones do not tell ids apart: the hashes of these (`ids`)

It is never the truth: what it does not say is read in the file, and what it says of another file is
not believed. It can be removed at any time, and is made again by and by.

    of a file that grows    {"form": …, "inode": …, "token": of the ids}
                            {"zone": […], "mark": …}    a line more for each zone
                            {"ids": […]}                a block, instead of those in it

    of a closed file        {"form": …, "name": …, "size": …, "modified": …, "sha256": …,
                             "token": …, "all": [the zone of all], "zones": count, "ids": [blocks]}
                            {"zone": […]}       read only if one of them can have what is wanted

Each line is a list: its CRC-32, and what is shown here. The index of a closed file is believed by
name, size and time, since a copy has another inode; that of one which grows by inode, and by the
mark of the last zone, the checksum of its last 4 KiB.
"""

import errno
import os
import secrets
import stat
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, reduce
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from zlib import crc32

import orjson

from esource.log import MARK_BYTES, disk, reading
from esource.log.ids import FLAGS, Block, Hashes, Ids
from esource.log.segments import INDEXES
from esource.rows import find
from esource.rows.find import ZONE_BYTES, Wanted, Zone

SUFFIX, IDS_SUFFIX = INDEXES
FORM = f"esource index 1, {sys.byteorder} endian"
ROWS_BYTES = 1 << 16  # of rows that are looked at in one step
PIECE_BYTES = 1 << 20  # likewise, of what is only summed up, which does not hold the interpreter
FEW, MANY = 8, 128  # zones whose ids are one block: at first, and once there are so many
# Of a zone that have hashes, on average of a block. One takes 5 bytes, which rows of less than 32
# are not worth, and 8 in memory while a block is made.
MOST_IDS = ZONE_BYTES >> 5
HEAD_BYTES = 1 << 20  # in which the first line ends
_BAD = (ValueError, TypeError, KeyError, IndexError, OverflowError)  # what an index says


class Rows(Protocol):
    """A file of rows."""

    @property
    def begin(self) -> int:
        """The offset of the first row."""

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`."""

    def status(self) -> os.stat_result | None:
        """Return what the system says of the file; None if there is none."""


class _Known:
    """What is known of a file, which only grows; once a part of it is wrong, there is another."""

    def __init__(self) -> None:
        self.zones: list[Zone] = []  # from the first row on; of a closed file they are on disk
        self.blocks: dict[int, Block] = {}  # by their first zones
        self.ids: Ids | None = None
        self.written = 0, 0  # of an index that grows: its inode, and how long it is
        self.all: Zone | None = None  # of a closed file
        self.count = self.head_size = 0  # of its zones, and bytes of the first line

    def note(self, block: Block) -> None:
        """Take in a block, instead of those in it."""
        for first in range(block.first, block.first + block.zones):
            self.blocks.pop(first, None)
        self.blocks[block.first] = block

    def has_ids(self, first: int, count: int) -> bool:
        """Return whether there is one block with the ids of all these zones."""
        some = (self.blocks.get(first), self.blocks.get(first - first % MANY))
        return any(block and first + count <= block.first + block.zones for block in some)


class Index:
    """What is known of one file. All calls block; only one thread at a time may learn."""

    def __init__(self, path: Path | None, size: int | None = None) -> None:
        """Name the file of rows, if there is one; `size` is that of a closed one, in bytes.

        Nothing is read yet. Without a file all is in memory.
        """
        self._path = path and path.with_suffix(SUFFIX)
        self._size = size
        self._known: _Known | None = None

    # -- searching -------------------------------------------------------------------------

    def places(
        self, rows: Rows, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each part between two offsets that can have it, in order."""
        known = self._load(rows)
        if known.all and not known.all.admits(wanted):
            return
        excluded = set() if wanted.id is None else self._excluded(known, wanted.id)
        if known.all and len(excluded) == known.count:
            return
        zones = self._zones(known)
        end = zones[-1].end if zones else rows.begin
        numbers = range(
            max(bisect_right(zones, start, key=attrgetter("offset")) - 1, 0),
            bisect_left(zones, stop, key=attrgetter("offset")),
        )
        if is_backwards and end < stop:
            yield max(end, start), stop
        for number in reversed(numbers) if is_backwards else numbers:
            zone = zones[number]
            if number not in excluded and zone.end > start and zone.admits(wanted):
                yield max(zone.offset, start), min(zone.end, stop)
        if not is_backwards and end < stop:
            yield max(end, start), stop

    def changed(self, rows: Rows) -> Iterator[Zone]:
        """Yield the zones whose rows are not those that the index was made of. Reads all of them.

        None without an index that is believed. Writes nothing; raises `OSError`.
        """
        known = self._load(rows)
        try:
            zones = self.closed_zones(known) if known.all else known.zones
        except (OSError, *_BAD):
            return
        for zone in zones:
            if crc32(rows.pread(zone.offset, zone.end - zone.offset)) != zone.checksum:
                yield zone

    def _excluded(self, known: _Known, id: bytes) -> set[int]:
        """Return the numbers of zones that do not have an id, as its hash says."""
        excluded: set[int] = set()
        blocks = list(known.blocks.values())
        if blocks and known.ids:
            try:
                for block, found in zip(blocks, known.ids.zones(blocks, id), strict=True):
                    excluded.update(range(block.first, block.first + block.zones))
                    excluded -= found
            except (OSError, EOFError):
                self._lose()
                return set()
        return excluded

    def _zones(self, known: _Known) -> list[Zone]:
        if not known.all:
            return known.zones
        try:
            return _zones_of(self, known)
        except (OSError, *_BAD):
            self._lose()
            return []

    # -- reading ---------------------------------------------------------------------------

    def _load(self, rows: Rows) -> _Known:
        """Return what is known, which is on disk at first, if that is to be believed."""
        if self._known:
            return self._known
        known, status = _Known(), rows.status()
        if self._path and status:
            try:
                self._read(self._path, known, rows, status)
            except (OSError, *_BAD):
                known = _Known()
        if status or not self._path:
            self._known = known
        return known

    def _lose(self) -> None:
        """Know nothing, since a part of it is not there: all is made again."""
        self._known = _Known()
        if self._path:
            with suppress(OSError):
                self._path.unlink()

    def _read(self, path: Path, known: _Known, rows: Rows, status: os.stat_result) -> None:
        with _opened(path) as file:
            first = file.readline(HEAD_BYTES)
            head = _of_line(first)
            if head["form"] != FORM:
                raise ValueError("another form")
            known.ids = Ids(path.with_suffix(IDS_SUFFIX), str(head["token"]))
            if "all" in head:
                known.all = Zone.of(head["all"])
                known.head_size, known.count = len(first), int(head["zones"])
                known.blocks = {block.first: block for block in map(Block.of, head["ids"])}
                is_this = head["name"], head["size"], head["modified"]
                if is_this != (path.name, *_size_and_time(status)) or (
                    known.all.offset,
                    known.all.end,
                ) != (rows.begin, self._size):
                    raise ValueError("another file")
            elif head["inode"] == status.st_ino:
                lines = file.read(_most(status.st_size))
                size = _take_in(known, lines, rows, status.st_size)
                known.written = os.fstat(file.fileno()).st_ino, len(first) + size

    def closed_zones(self, known: _Known) -> list[Zone]:
        """Return the zones of a closed file from disk; raises what `_BAD` says, and `OSError`."""
        if not (self._path and known.all):
            raise ValueError("it is not stored")
        with _opened(self._path) as file:
            file.seek(known.head_size)
            lines = file.read(_most(known.all.end))
        zones = [Zone.of(fields["zone"]) for fields, _ in _parsed(lines)]
        ends = [known.all.offset, *(zone.end for zone in zones)]
        if len(zones) != known.count or ends != [*(z.offset for z in zones), known.all.end]:
            raise ValueError("zones are missing")
        return zones

    # -- learning --------------------------------------------------------------------------

    def learn(self, rows: Rows, stop: int) -> Iterator[None]:
        """Learn what is to be known of the rows up to an offset, in steps of a millisecond or so.

        Raises `StorageError`. What cannot be stored is kept in memory.
        """
        known = self._load(rows)
        if known.all:
            return
        stop = stop if self._size is None else self._size
        status = rows.status()
        while self._is_due(known, rows, stop):
            zone = yield from _next_zone(known, rows, stop)
            if not zone or self._known is not known:
                return  # the file was cut, or the index is lost
            known.zones.append(zone)
            if self._size is None:
                self._store(known, rows, {"zone": zone.fields(), "mark": _mark(zone, rows)})
        if self._path and status:
            try:
                yield from (
                    self._hash(known, rows)
                    if self._size is None
                    else self._finish(known, rows, status)
                )
            except (OSError, EOFError):
                self._path = None

    def _is_due(self, known: _Known, rows: Rows, stop: int) -> bool:
        """Return whether there is a zone that is not known."""
        left = stop - (known.zones[-1].end if known.zones else rows.begin)
        return left >= ZONE_BYTES or (self._size is not None and left > 0)

    def _hash(self, known: _Known, rows: Rows) -> Iterator[None]:
        """Make blocks of the ids in zones of a file that grows, if more than one admits an id."""
        for count in (FEW, MANY):
            for first, zones in _unclear(known.zones, count):
                if len(zones) < count or known.has_ids(first, count):
                    continue
                if not (known.ids and known.written[0]):
                    return  # nothing can be stored
                if not known.blocks:
                    known.ids.make()
                block = yield from _block(rows, first, zones, known.ids)
                if not block or self._known is not known:
                    return
                self._store(known, rows, {"ids": list(block)})
                known.note(block)

    def _finish(self, known: _Known, rows: Rows, status: os.stat_result) -> Iterator[None]:
        """Store all that is known of a closed file, and its SHA-256. Raises `OSError`."""
        path, size = self._path, self._size
        assert path
        assert size is not None
        digest, offset = sha256(), 0
        while piece := rows.pread(offset, min(PIECE_BYTES, size - offset)):
            digest.update(piece)
            offset += len(piece)
            yield
        ids = Ids(path.with_name(f".{path.stem}{IDS_SUFFIX}.new"), secrets.token_hex(8))
        blocks: list[Block] = []
        for first, zones in _unclear(known.zones, MANY):
            if not blocks:
                ids.make()
            block = _copied(known, first, len(zones), ids)
            block = block or (yield from _block(rows, first, zones, ids))
            if not block:
                return
            blocks.append(block)
        now = rows.status()
        is_same = now and _size_and_time(now) == _size_and_time(status)
        if self._known is not known or offset < size or not (known.zones and is_same):
            return
        head = {
            "form": FORM, "name": path.name, "size": status.st_size,
            "modified": status.st_mtime_ns, "sha256": digest.hexdigest(), "token": ids.token,
            "all": reduce(Zone.joined, known.zones).fields(), "zones": len(known.zones),
            "ids": [list(block) for block in blocks],
        }  # fmt: skip
        if blocks:
            ids.path.replace(path.with_suffix(IDS_SUFFIX))
        else:
            path.with_suffix(IDS_SUFFIX).unlink(missing_ok=True)
        _replace(path, [head, *({"zone": zone.fields()} for zone in known.zones)])
        self._known = None  # it is read when it is needed

    # -- writing ---------------------------------------------------------------------------

    def _store(self, known: _Known, rows: Rows, line: dict[str, Any]) -> None:
        """Put a line behind those of an index that grows, if that is still as it was left."""
        if not self._path:
            return
        try:
            if not known.written[0]:
                self._begin(self._path, known, rows)
            inode, size = known.written
            fd = os.open(self._path, os.O_RDWR | FLAGS)
            try:
                status = os.fstat(fd)
                if status.st_ino != inode or status.st_size < size:
                    raise FileNotFoundError(f"{self._path.name} is another")
                os.ftruncate(fd, size)
                text = _line(line)
                if os.pwrite(fd, text, size) < len(text):
                    raise OSError(errno.ENOSPC, "a line is torn")
                known.written = inode, size + len(text)
            finally:
                os.close(fd)
        except OSError:
            self._path = None  # from now on all is in memory

    def _begin(self, path: Path, known: _Known, rows: Rows) -> None:
        """Make an index without a line. Raises `OSError`."""
        status = rows.status()
        if not status:
            raise FileNotFoundError("there are no rows")
        known.ids = Ids(path.with_suffix(IDS_SUFFIX), secrets.token_hex(8))
        head = {"form": FORM, "inode": status.st_ino, "token": known.ids.token}
        known.written = _replace(path, [head])


# -- zones ---------------------------------------------------------------------------------


def _next_zone(known: _Known, rows: Rows, stop: int) -> Generator[None, None, Zone | None]:
    """Return the next zone, before an offset; None if the rows are gone."""
    offset = known.zones[-1].end if known.zones else rows.begin
    zone: Zone | None = None
    while offset < stop and (zone is None or offset - zone.offset < ZONE_BYTES):
        some = reading.read(rows, offset, ROWS_BYTES, stop)
        if not some:
            return None
        more = find.zone(offset, some, zone.checksum if zone else 0)
        zone = zone.joined(more) if zone else more
        offset = zone.end
        yield
    return zone


def _unclear(zones: list[Zone], count: int) -> Iterator[tuple[int, list[Zone]]]:
    """Yield runs of so many zones, and the number of the first, which do not tell ids apart.

    Of all others, taken together, one zone admits an id, or they are of too many ids.
    """
    top = b""
    for first in range(0, len(zones), count):
        some = zones[first : first + count]
        are_few = sum(zone.rows for zone in some) <= MOST_IDS * len(some)
        if are_few and not find.rises(some, top):
            yield first, some
        top = max([top, *(zone.greatest for zone in some)])


def _block(
    rows: Rows, first: int, zones: Sequence[Zone], ids: Ids
) -> Generator[None, None, Block | None]:
    """Put the hashes of the ids in some zones on disk; return the block, None of rows gone."""
    hashes = Hashes()
    for number, zone in enumerate(zones):
        offset, of_zone = zone.offset, set[int]()
        while offset < zone.end:
            some = reading.read(rows, offset, ROWS_BYTES, zone.end)
            if not some:
                return None
            of_zone.update(find.hashes(some))
            offset += len(some)
            yield
        for _ in hashes.add(number, of_zone):
            yield
    parts = []
    for part in hashes.sorted():
        parts.append(part)
        yield
    block = b"".join([part[0] for part in parts] + [part[1] for part in parts])
    return Block(first, len(zones), ids.append(block), len(block) // 5)


def _copied(known: _Known, first: int, count: int, ids: Ids) -> Block | None:
    """Copy a block to other ids, if there is one of just these zones."""
    block = known.blocks.get(first)
    if known.ids and block and block.zones == count:
        with suppress(OSError, EOFError):
            return block._replace(place=ids.append(known.ids.read(block)))
    return None


# -- files ---------------------------------------------------------------------------------


class OpenRows:
    """The rows of a file that is open."""

    def __init__(self, fd: int, begin: int) -> None:
        """`begin` is the offset of the first row."""
        self.begin = begin
        self._fd = fd

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`. Raises `OSError`."""
        return os.pread(self._fd, size, offset)

    def status(self) -> os.stat_result:
        """Return what the system says of the file."""
        return os.fstat(self._fd)


def _size_and_time(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _most(size: int) -> int:
    """Return how many bytes the lines of an index may have, for so many bytes of rows."""
    return HEAD_BYTES + size // 16


def _opened(path: Path) -> BinaryIO:
    """Open a file to read; raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return open(fd, "rb")


def _line(fields: dict[str, Any]) -> bytes:
    text = orjson.dumps(fields)
    return b"[%d,%b]\n" % (crc32(text), text)


def _of_line(line: bytes) -> dict[str, Any]:
    """Return what a line says; raises `ValueError` if it is torn or damaged."""
    checksum, _, text = line.rstrip().removesuffix(b"]").partition(b",")
    if checksum != b"[%d" % crc32(text):
        raise ValueError("a line is damaged")
    fields = orjson.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("no line of an index")
    return fields


def _parsed(lines: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (what a line says, where it ends), up to one that is torn. Raises `ValueError`."""
    end = 0
    for line in lines.split(b"\n")[:-1]:
        end += len(line) + 1
        yield _of_line(line), end


def _take_in(known: _Known, lines: bytes, rows: Rows, size: int) -> int:
    """Know what lines say of a file of this size; return how many bytes of them are good."""
    zones, mark, good = known.zones, None, 0
    with suppress(*_BAD):
        for fields, end in _parsed(lines):
            if "zone" in fields:
                zone = Zone.of(fields["zone"])
                if zone.offset != (zones[-1].end if zones else rows.begin):
                    break
                zones.append(zone)
                mark = fields["mark"]
            else:
                known.note(Block.of(fields["ids"]))
            good = end
    if zones and not (zones[-1].end <= size and mark == _mark(zones[-1], rows)):
        raise ValueError("other rows")
    return good


def _mark(zone: Zone, rows: Rows) -> int:
    """Return the checksum of the last bytes of a zone: one read tells whether it is of the rows."""
    start = max(zone.end - MARK_BYTES, zone.offset)
    return crc32(rows.pread(start, zone.end - start))


def _replace(path: Path, lines: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Put a new file in the place of one, synced; return its inode and size."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, FLAGS | os.O_WRONLY | os.O_CREAT | os.O_EXCL, disk.FILE_MODE)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.writelines(map(_line, lines))
        disk.sync(fd)
        status = os.fstat(fd)
        new.replace(path)
    except OSError:
        new.unlink()
        raise
    finally:
        os.close(fd)
    return status.st_ino, status.st_size


@lru_cache(maxsize=32)
def _zones_of(index: Index, known: _Known) -> list[Zone]:
    """Return the zones of a closed file; those of a few files are kept in memory."""
    return index.closed_zones(known)
