"""The index of a file of rows, beside it.

    orders.tsv    rows
    orders.idx    lines, each for a part of them (`index`)
    orders.ids    a token, and the hashes of ids, one part after the other

    of a file that grows    {"form": …, "inode": …, "token": of the hashes}
                            crc zone size start mark […]      as they are learned
                            crc ids  size start place count

    of a closed file        {"form": …, "name": …, "size": …, "modified": …, "sha256": …,
                             "token": …, "first": bytes, "zones": count}
                            the lines of runs, which have so many bytes
                            the lines of zones, which are read only if a run admits what is wanted

A line begins with the CRC-32 of the rest. The index of a closed file is believed by name, size and
time, since a copy has another inode; that of one which grows by inode, and by the mark of the last
zone, the checksum of its last 4 KiB. It can be removed at any time, and is made again by and by. A
line stays bytes until it is wanted: there is one for each MiB of rows.
"""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol
from zlib import crc32

import orjson

from esource.log import MARK_BYTES, disk
from esource.log.ids import FLAGS, Ids
from esource.log.index import (
    BAD,
    Gone,
    Index,
    Kind,
    Part,
    Rows,
    Span,
    few_bytes,
    run_bytes,
    zone_bytes,
)
from esource.log.segments import INDEXES
from esource.rows.find import Wanted, Zone

SUFFIX, IDS_SUFFIX = INDEXES
FORM = f"esource index 3, {sys.byteorder} endian"
HEADS_FORM = "esource heads 1"
PIECE_BYTES = 1 << 20  # of rows that are only summed up, which does not hold the interpreter
HEAD_BYTES = 1 << 20  # in which the first line ends
HEADS_BYTES = 1 << 24  # of the file of heads, at most


class FileRows(Rows, Protocol):
    """A file of rows."""

    def status(self) -> os.stat_result | None:
        """Return what the system says of the file; None if there is none."""


class _Line(NamedTuple):
    """A line of an index, which may be damaged."""

    text: bytes  # without its end
    number: int  # the mark of a zone, or the place of hashes

    @property
    def says(self) -> bytes | None:
        """What it says of its part; None if it is damaged."""
        checksum, _, rest = self.text.partition(b" ")
        return rest.split(b" ", 4)[4] if checksum == b"%d" % crc32(rest) else None


class _Head(NamedTuple):
    """What the index of a closed file begins with."""

    text: bytes  # its first line, and the lines of runs
    size: int  # of the file, in bytes
    modified: int  # likewise, in ns since 1970
    whole: list[object]  # the zone of all its rows


class Heads:
    """The heads of the indexes of a channel's closed files, and a zone of each of these files.

    All in one file, so that a search right after a start does not read hundreds:

        crc, of the rest
        {"form": …, "heads": {index: [bytes, size, modified, zone], …}}
        the heads, one after the other

    It is a copy, and believed as each index is; what is missing is read there.
    """

    def __init__(self, path: Path) -> None:
        """Name the file that a channel is in, or the link; nothing is read yet."""
        self._path = path.with_suffix(SUFFIX)
        self._heads: dict[str, _Head] | None = None  # by the names of indexes
        self._is_stored = False  # they are on disk, all of them

    def of(self, path: Path, status: os.stat_result) -> _Head | None:
        """Return the head of an index, of a file of rows as it is now; None if it is not known."""
        head = self._load().get(path.name)
        return head if head and head[1:3] == _size_and_time(status) else None

    def forget(self, path: Path) -> None:
        """Forget the head of an index: that is another now."""
        if self._load().pop(path.name, None):
            self._is_stored = False

    def keep(self, paths: Sequence[Path]) -> Iterator[None]:
        """Store the heads of the indexes of these closed files, and no others; in steps."""
        heads = {}
        for path in (each.with_suffix(SUFFIX) for each in paths):
            with suppress(OSError, *BAD):
                heads[path.name] = self._load().get(path.name) or _head(path)
            yield
        if heads != self._load() or (heads and not self._is_stored):
            self._heads = heads
            text = b"".join(each.text for each in heads.values())
            about = {name: (len(each.text), *each[1:]) for name, each in heads.items()}
            rest = orjson.dumps({"form": HEADS_FORM, "heads": about}) + b"\n" + text
            with suppress(OSError):  # else they are in memory alone
                _replace(self._path, [b"%d" % crc32(rest + b"\n"), rest])
                self._is_stored = True

    def _load(self) -> dict[str, _Head]:
        if self._heads is None:
            self._heads = {}
            with suppress(OSError, *BAD):
                self._heads, self._is_stored = self._read(), True
        return self._heads

    def _read(self) -> dict[str, _Head]:
        """Return the heads on disk; raises what `BAD` says, and `OSError`."""
        with _opened(self._path) as file:
            checksum, _, rest = file.read(HEADS_BYTES).partition(b"\n")
        first, _, text = rest.partition(b"\n")
        said = orjson.loads(first)
        if checksum != b"%d" % crc32(rest) or said["form"] != HEADS_FORM:
            raise ValueError("other heads")
        heads, stop = {}, 0
        for name, (size, *about) in said["heads"].items():
            start, stop = stop, stop + size
            heads[name] = _Head(text[start:stop], *about)
        return heads


def _head(path: Path) -> _Head:
    """Return the head of the index of a closed file; raises what `BAD` says, and `OSError`."""
    with _opened(path) as file:
        first = file.readline(HEAD_BYTES)
        about = orjson.loads(first)
        runs = file.read(int(about["first"]))
    lines = _sorted(_parsed(runs)["zone", run_bytes()])
    zones = [Zone.of(orjson.loads(line.says or b"")) for line in lines]
    whole = reduce(Zone.joined, zones)
    if whole.end - whole.offset != sum(zone.end - zone.offset for zone in zones):
        raise ValueError("a line is missing")
    return _Head(first + runs, int(about["size"]), int(about["modified"]), whole.fields())


class Beside:
    """The index of one file (see `index.Store`). Without a path it is in memory."""

    is_remote = False

    def __init__(
        self, path: Path | None, size: int | None = None, heads: Heads | None = None
    ) -> None:
        """Name the file of rows; `size` is that of a closed one, in bytes. Nothing is read yet.

        The head of the index is in `heads`, too, if these are given.
        """
        self._path = path and path.with_suffix(SUFFIX)
        self._size = size
        self._heads = heads
        self._lines: dict[tuple[str, int], dict[int, _Line]] | None = None
        self._ids: Ids | None = None
        self._written = 0, 0  # of an index that grows: its inode, and how long it is
        self._zones: tuple[int, int] | None = None  # of a closed file: where they are, and how many

    @property
    def hashed(self) -> tuple[int, ...]:
        """The sizes of parts of which there are hashes: few, since the file only grows."""
        return few_bytes(), run_bytes()

    @property
    def has_room(self) -> bool:
        """Whether hashes can be stored."""
        return self._path is not None

    def is_complete(self, rows: FileRows) -> bool:
        """Return whether all of a closed file is known."""
        self._load(rows)
        return self._zones is not None

    def is_gone(self) -> bool:
        """Return whether somebody has removed it, whatever is known."""
        return self._path is not None and not self._path.exists()

    def lines(self, rows: FileRows, *spans: Span) -> list[Sequence[tuple[int, bytes]]]:
        """Return the lines of parts that are not damaged."""
        return [self._lines_of(rows, *span) for span in spans]

    def _lines_of(
        self, rows: FileRows, kind: Kind, size: int, start: int, stop: int
    ) -> Sequence[tuple[int, bytes]]:
        lines = self._load(rows).get((kind, size), {})
        if self._zones and (kind, size) == ("zone", zone_bytes()):
            lines = self._zone_lines(*self._zones)
        starts = range(start, min(stop, max(list(lines), default=0) + 1), size)
        found = ((each, lines[each].says) for each in starts if each in lines)
        return [(each, says) for each, says in found if says is not None]

    def hashes(self, rows: FileRows, wanted: Sequence[tuple[Part, int, int]]) -> list[bytes]:
        """Return pieces of the hashes of parts."""
        lines = self._load(rows)
        try:
            if not self._ids:
                raise FileNotFoundError
            return self._ids.read(
                (lines["ids", part.size][part.start].number + place, size)
                for part, place, size in wanted
            )
        except (OSError, EOFError, KeyError) as error:
            raise Gone from error

    def put(self, rows: FileRows, kind: Kind, part: Part, line: bytes, hashes: bytes = b"") -> None:
        """Put a line behind those that are there, if these are as they were left."""
        lines = self._load(rows)
        number = 0
        try:
            if self._path:
                number = self._append_hashes(rows, hashes) if hashes else 0
                number = _mark(Zone.of(orjson.loads(line)), rows) if kind == "zone" else number
        except (OSError, EOFError):
            self._path = None  # from now on all is in memory
        if hashes and not self._path:
            return
        text = b"%b %d %d %d %b" % (kind.encode(), *part, number, line)
        text = b"%d %b" % (crc32(text), text)
        try:
            if self._path:
                self._append(self._path, rows, text + b"\n")
        except OSError:
            self._path = None
        lines.setdefault((kind, part.size), {})[part.start] = _Line(text, number)

    def lose(self) -> None:
        """Remove it."""
        self._lines, self._written, self._zones = {}, (0, 0), None
        if self._path:
            if self._heads:
                self._heads.forget(self._path)
            with suppress(OSError):
                self._path.unlink()

    def whole(self, rows: FileRows) -> Zone | None:
        """Return the zone of a closed file, if there is nothing to be read for that."""
        status = self._heads and rows.status()
        head = status and self._head(status)
        with suppress(*BAD):
            zone = Zone.of(head.whole) if head else None
            return zone if zone and (zone.offset, zone.end) == (rows.begin, self._size) else None
        return None

    def _head(self, status: os.stat_result) -> _Head | None:
        return self._heads.of(self._path, status) if self._heads and self._path else None

    # -- reading ---------------------------------------------------------------------------

    def _load(self, rows: FileRows) -> dict[tuple[str, int], dict[int, _Line]]:
        """Return the lines by kind and size, and start; read them at first, if they are believed.

        Without those of the zones of a closed file, if that is complete.
        """
        if self._lines is not None:
            return self._lines
        lines: dict[tuple[str, int], dict[int, _Line]] = {}
        status = rows.status()
        if self._path and status:
            head = self._head(status)
            try:
                with BytesIO(head.text) if head else _opened(self._path) as file:
                    lines = self._read(file, self._path, rows, status)
            except (OSError, *BAD):
                self._written, self._zones = (0, 0), None
        if status or not self._path:
            self._lines = lines
        return lines

    def _read(
        self, file: BinaryIO, path: Path, rows: FileRows, status: os.stat_result
    ) -> dict[tuple[str, int], dict[int, _Line]]:
        """Return the lines on disk; raises what `BAD` says, and `OSError`."""
        first = file.readline(HEAD_BYTES)
        head = orjson.loads(first)
        if head["form"] != FORM:
            raise ValueError("another form")
        self._ids = Ids(path.with_suffix(IDS_SUFFIX), str(head["token"]))
        if "inode" in head:
            if head["inode"] != status.st_ino:
                raise ValueError("another file")
            text = file.read(_most(status.st_size))
            lines = _parsed(text)
            if not _is_of(lines.get(("zone", zone_bytes()), {}), rows, status.st_size):
                raise ValueError("other rows")
            size = len(first) + text.rfind(b"\n") + 1
            self._written = os.fstat(file.fileno()).st_ino, size
            return lines
        is_this = head["name"], head["size"], head["modified"]
        if is_this != (path.name, *_size_and_time(status)):
            raise ValueError("another file")
        size, count = int(head["first"]), int(head["zones"])
        lines = _parsed(file.read(min(size, _most(status.st_size))))
        if self._bounds(lines) != (rows.begin, self._size):
            raise ValueError("other rows")
        self._zones = len(first) + size, count
        return lines

    def _bounds(self, lines: dict[tuple[str, int], dict[int, _Line]]) -> tuple[int, int] | None:
        """Return (offset, end) of all runs."""
        runs = lines.get(("zone", run_bytes()), {})
        if not runs:
            return None
        ends = [runs[each].says or b"" for each in (min(runs), max(runs))]
        first, last = (Zone.of(orjson.loads(says)) for says in ends)
        return first.offset, last.end

    def _zone_lines(self, place: int, count: int) -> dict[int, _Line]:
        """Return the lines of the zones of a closed file. Raises `Gone`."""
        assert self._path
        try:
            with _opened(self._path) as file:
                file.seek(place)
                zones = _parsed(file.read(_most(self._size or 0)))
        except OSError as error:
            raise Gone from error
        lines = zones.get(("zone", zone_bytes()), {})
        if len(lines) != count:
            raise Gone
        return lines

    # -- writing ---------------------------------------------------------------------------

    def _append_hashes(self, rows: FileRows, hashes: bytes) -> int:
        """Put hashes on disk; return their place. Raises `OSError` and `EOFError`."""
        if not self._written[0]:
            self._begin(rows)
        assert self._ids
        lines = self._load(rows)
        if not any(kind == "ids" for kind, _ in lines):
            self._ids.make()
        return self._ids.append(hashes)

    def _append(self, path: Path, rows: FileRows, text: bytes) -> None:
        """Put a line on disk, if the others are still as they were left. Raises `OSError`."""
        if not self._written[0]:
            self._begin(rows)
        inode, size = self._written
        fd = os.open(path, os.O_RDWR | FLAGS)
        try:
            status = os.fstat(fd)
            if status.st_ino != inode or status.st_size < size:
                raise FileNotFoundError(f"{path.name} is another")
            os.ftruncate(fd, size)
            if os.pwrite(fd, text, size) < len(text):
                raise OSError(errno.ENOSPC, "a line is torn")
            self._written = inode, size + len(text)
        finally:
            os.close(fd)

    def _begin(self, rows: FileRows) -> None:
        """Make an index without a line. Raises `OSError`."""
        status = rows.status()
        if not (status and self._path):
            raise FileNotFoundError("there are no rows")
        self._ids = Ids(self._path.with_suffix(IDS_SUFFIX), secrets.token_hex(8))
        head = {"form": FORM, "inode": status.st_ino, "token": self._ids.token}
        self._written = _replace(self._path, [orjson.dumps(head)])

    def finish(self, rows: FileRows, status: os.stat_result) -> Iterator[None]:
        """Store what is known of a closed file, with its SHA-256, if it still is as it was."""
        path, size = self._path, self._size
        if not path or not size:
            return
        digest, offset = sha256(), 0
        while piece := rows.pread(offset, min(PIECE_BYTES, size - offset)):
            digest.update(piece)
            offset += len(piece)
            yield
        try:
            lines = self._load(rows)
            ids = Ids(path.with_name(f".{path.stem}{IDS_SUFFIX}.new"), secrets.token_hex(8))
            runs = [line.text for line in _sorted(lines.get(("zone", run_bytes()), {}))]
            for text in self._copied(lines.get(("ids", run_bytes()), {}), ids):
                runs.append(text)
                yield
            zones = [line.text for line in _sorted(lines.get(("zone", zone_bytes()), {}))]
            now = rows.status()
            is_same = now and _size_and_time(now) == _size_and_time(status)
            if offset < size or not (is_same and self._bounds(lines) == (rows.begin, size)):
                return
            head = {
                "form": FORM, "name": path.name, "size": status.st_size,
                "modified": status.st_mtime_ns, "sha256": digest.hexdigest(), "token": ids.token,
                "first": sum(len(text) + 1 for text in runs), "zones": len(zones),
            }  # fmt: skip
            if ids.path.exists():
                ids.path.replace(path.with_suffix(IDS_SUFFIX))
            else:
                path.with_suffix(IDS_SUFFIX).unlink(missing_ok=True)
            _replace(path, [orjson.dumps(head), *runs, *zones])
            if self._heads:
                self._heads.forget(path)
            self._lines = None  # it is read when it is needed
        except (OSError, EOFError, *BAD):
            self._path = None

    def _copied(self, lines: dict[int, _Line], ids: Ids) -> Iterator[bytes]:
        """Copy the hashes of runs to other ids; yield their lines. Raises `OSError`, `EOFError`."""
        is_made = False
        for start, line in sorted(lines.items()):
            count, place = int(line.says or b"0"), 0
            if count and self._ids:
                if not is_made:
                    ids.make()
                is_made = True
                place = ids.append(self._ids.read([(line.number, count * 5)])[0])
            text = b"ids %d %d %d %d" % (run_bytes(), start, place, count)
            yield b"%d %b" % (crc32(text), text)


class ClosedIndex(Index[FileRows]):
    """What is known of a closed file."""

    def __init__(self, path: Path, size: int, heads: Heads | None = None) -> None:
        """Name the file, and its size in bytes; nothing is read yet."""
        self._beside = Beside(path, size, heads)
        self._size = size
        self._whole: Zone | None = None
        super().__init__(self._beside)

    def places(
        self, rows: FileRows, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each part that can have it: of none, if all of it cannot."""
        if self._known is None and self._whole is None and wanted != Wanted():
            self._whole = self._beside.whole(rows)
        if self._whole and not self._whole.admits(wanted):
            return iter(())
        return super().places(rows, wanted, start, stop, is_backwards)

    def learn(self, rows: FileRows, stop: int, is_final: bool = True) -> Iterator[None]:
        """Learn all that is to be known of it, if it is not known yet."""
        status = rows.status()
        if not status:
            return
        if self._beside.is_complete(rows):
            if not self._beside.is_gone():
                return
            self._known = None
            self._beside.lose()
        yield from super().learn(rows, self._size, is_final)
        yield from self._beside.finish(rows, status)
        self._known = None


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


def _parsed(text: bytes) -> dict[tuple[str, int], dict[int, _Line]]:
    """Return lines by kind and size, and start; what they say is not looked at."""
    lines: dict[tuple[str, int], dict[int, _Line]] = {}
    for line in text.split(b"\n")[:-1]:
        with suppress(ValueError):
            _, kind, size, start, number, _ = line.split(b" ", 5)
            of_size = lines.setdefault((kind.decode("latin-1"), int(size)), {})
            of_size[int(start)] = _Line(line, int(number))
    return lines


def _is_of(zones: dict[int, _Line], rows: FileRows, size: int) -> bool:
    """Return whether the last zone that is not damaged is of these rows, which have a size."""
    for _, line in sorted(zones.items(), reverse=True):
        if line.says is not None:
            zone = Zone.of(orjson.loads(line.says))
            return zone.end <= size and line.number == _mark(zone, rows)
    return True


def _sorted(lines: dict[int, _Line]) -> list[_Line]:
    return [line for _, line in sorted(lines.items())]


def _mark(zone: Zone, rows: Rows) -> int:
    """Return the checksum of the last bytes of a zone: one read tells whether it is of the rows."""
    start = max(zone.end - MARK_BYTES, zone.offset)
    return crc32(rows.pread(start, zone.end - start))


def _replace(path: Path, lines: Iterable[bytes]) -> tuple[int, int]:
    """Put a new file in the place of one, synced; return its inode and size."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, FLAGS | os.O_WRONLY | os.O_CREAT | os.O_EXCL, disk.FILE_MODE)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.writelines(line + b"\n" for line in lines)
        disk.sync(fd)
        status = os.fstat(fd)
        new.replace(path)
    except OSError:
        new.unlink()
        raise
    finally:
        os.close(fd)
    return status.st_ino, status.st_size
