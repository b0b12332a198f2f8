"""The files of a channel's history: their names, which of them count, and what is done to them.

    orders.00000000000000000000.tsv    closed: it never changes
    orders.00000000000268435456.tsv    closed; its name is the offset of its first byte
    orders.00000000000536870912.tsv    the growing one, which is the last
    orders.tsv                         a symbolic link to that, for people; to the hub it is a hint

A closed file counts up to where the next one begins. The history is the run without a gap that
ends with the growing file: before a file that is missing, or too short, nothing counts; nor if the
next one begins in the middle of a row.

All calls block, and raise `OSError`.
"""

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from esource.event import MAX_ID_BYTES, time_of
from esource.log import MARK_BYTES, NAME, disk
from esource.log.disk import (
    FILE_MODE,
    FLAGS,
    birth,
    lock,
    storage_error,
    sync_folder,
)  # fmt: skip
from esource.rows import tsv
from esource.rules import Rule

logger = logging.getLogger(__name__)

SUFFIX = ".tsv"
INDEXES = (".idx", ".ids")
RECENT = 1024  # closed files, of all channels, whose generations are in memory
NEWEST_BYTES = 1 << 16  # at the end of a file, in which its newest default id is looked for
_FILE = re.compile(rf"({NAME.pattern})(?:\.(0[0-9]{{19}}))?\{SUFFIX}")  # no file is longer
_BESIDE = re.compile(rf"\.?({NAME.pattern}\.[0-9]{{20}})\.(?:idx|ids|late)")
_UNFINISHED = re.compile(
    rf"\.{NAME.pattern}(?:\.[0-9]{{20}})?\.(?:tsv\.(?:join|link)|(?:idx|ids|late)\.new)"
)


class Segment(NamedTuple):
    """A closed file of a history."""

    offset: int  # of its first byte
    size: int  # bytes that count: the next file begins behind them
    path: Path
    late: int = 0  # bytes that a program has written behind them, since it was closed
    modified: float = 0.0  # seconds since 1970
    identity: str = ""  # what tells the file from others of its name, unless its rows are changed
    mark_bytes: int = 0  # of a byte order mark, behind which its first row is

    @property
    def end(self) -> int:
        """The offset behind its last byte that counts."""
        return self.offset + self.size


class Move(NamedTuple):
    """Rows behind a closed file that are moved; those before them have been."""

    start: int  # in that file
    stop: int
    offset: int  # in the history, where they are then


def parse(name: str) -> tuple[str, int | None] | None:
    """Return the channel that a file of this name is of, and its offset; None for the one file.

    None at all if it is no channel's file.
    """
    found = _FILE.fullmatch(name)
    return found and (found[1], None if found[2] is None else int(found[2]))


def plain_path(folder: Path, channel: str) -> Path:
    """Return the path of a channel that is one file; of the link, if it is several."""
    return folder / f"{channel}{SUFFIX}"


def path_of(folder: Path, channel: str, offset: int) -> Path:
    """Return the path of the segment that begins at an offset."""
    return folder / f"{channel}.{offset:020}{SUFFIX}"


def offsets(folder: Path, only: str | None = None) -> dict[str, list[int]]:
    """Return the offsets of all segments, in order, by channel; or of those of one channel."""
    found: dict[str, list[int]] = {}
    prefix = "" if only is None else f"{only}."
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            parsed = entry.name.startswith(prefix) and parse(entry.name)
            if parsed and parsed[1] is not None and entry.is_file(follow_symlinks=False):
                found.setdefault(parsed[0], []).append(parsed[1])
    for each in found.values():
        each.sort()
    return found


def files(
    folder: Path, channel: str, known: Mapping[str, list[int]] | None = None
) -> list[tuple[int, Path]]:
    """Return (offset, path) of each file of a channel, the oldest first; none if there is none.

    All of them, also those before a gap. The one file of a channel begins at 0. With the `offsets`
    that are `known` of a folder, that is not looked through again.
    """
    starts = (offsets(folder, channel) if known is None else known).get(channel, [])
    if starts:
        return [(start, path_of(folder, channel, start)) for start in starts]
    plain = plain_path(folder, channel)
    return [(0, plain)] if is_file(plain) else []


def spans(
    folder: Path, channel: str, known: Mapping[str, list[int]] | None = None
) -> list[tuple[int, int | None, Path]]:
    """Return (offset, that of the next one, path) of each of `files`; None: it is the last."""
    found = files(folder, channel, known)
    stops = [*(start for start, _ in found), None][1:]
    return [(start, stop, path) for (start, path), stop in zip(found, stops, strict=True)]


def is_last(folder: Path, channel: str, starts: Sequence[int]) -> bool:
    """Return whether nothing speaks against it that the last of these files is the growing one.

    Without any: that the channel is one file, or none.
    """
    try:
        target = os.readlink(plain_path(folder, channel))
    except OSError:  # it is no link, or is not there
        target = ""
    if not starts:
        return not target
    last = path_of(folder, channel, starts[-1])
    with suppress(FileNotFoundError):
        size = last.stat().st_size
        is_linked = target in ("", last.name)
        return is_linked and not (size and path_of(folder, channel, starts[-1] + size).exists())
    return False


def run(folder: Path, channel: str, starts: Sequence[int]) -> tuple[tuple[Segment, ...], str]:
    """Return the closed files that count, in order, and what is missing before them, if it is.

    `starts` are the offsets of all files, in order, the growing one last.
    """
    closed: list[Segment] = []
    for start, end in zip(reversed(starts[:-1]), reversed(starts[1:]), strict=True):
        segment, why = _closed(path_of(folder, channel, start), start, end)
        if not segment:
            return tuple(reversed(closed)), why
        closed.append(segment)
    return tuple(reversed(closed)), ""


def _closed(path: Path, start: int, end: int) -> tuple[Segment | None, str]:
    """Look at a closed file; nothing of it is read but of the first one, or if it is too long."""
    try:
        status = os.lstat(path)
        size, late = end - start, status.st_size - (end - start)
        if not stat.S_ISREG(status.st_mode) or late < 0:
            return None, f"{path.name} is {status.st_size} bytes long, and the next begins at {end}"
        if late and not ends_row(path, size):
            return None, f"{path.name} has a row that goes beyond {end}, where the next begins"
        if not os.access(path, os.R_OK):
            return None, f"{path.name}: {os.strerror(errno.EACCES)}"
        mark_bytes = 0 if start else tsv.mark_bytes(_read(path, min(size, MARK_BYTES), 0))
        return segment_of(path, start, size, status, mark_bytes), ""
    except OSError as error:
        return None, f"{path.name}: {error.strerror}"


def segment_of(
    path: Path, start: int, size: int, status: os.stat_result, mark_bytes: int
) -> Segment:
    """Return the segment that a file is of which so many bytes count; raises `OSError`."""
    late = status.st_size - size
    # Where births are not known, the time of the last write is one that rows in it do not change.
    identity = f"{disk.birth(path) or status.st_mtime_ns:x}.{status.st_ino:x}"
    return Segment(start, size, path, late, status.st_mtime, identity, mark_bytes)


@lru_cache(RECENT)
def generation(segment: Segment) -> str:
    """Return what `disk.generation` says of a closed file, which is read; raises `OSError`."""
    with reading(segment) as fd:
        if fd < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return disk.generation(fd, os.pread(fd, min(segment.size, MARK_BYTES), 0))


def _read(path: Path, size: int, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def ends_row(path: Path, size: int) -> bool:
    """Return whether a row ends behind so many bytes of a file."""
    return size == 0 or _read(path, 1, size - 1) == b"\n"


def is_file(path: Path) -> bool:
    """Return whether there is a file, and no link or folder, of this name."""
    with suppress(FileNotFoundError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def linked(folder: Path, channel: str) -> Path | None:
    """Return the path to which a channel's link leads, if that may be one of its files."""
    try:
        target = os.readlink(plain_path(folder, channel))
    except OSError:  # it is no link, or is not there
        return None
    parsed = parse(target)
    return folder / target if parsed and parsed[0] == channel and parsed[1] is not None else None


def are_there(folder: Path, channel: str) -> bool:
    """Return whether there is a sign of a channel's files, which takes no look at the folder."""
    return is_file(linked(folder, channel) or plain_path(folder, channel))


def begin_at(folder: Path, channel: str, offset: int) -> None:
    """Make the file of the segment that begins at an offset; its name is on disk on return.

    Raises `FileExistsError`. If anything fails, there is no such file.
    """
    path = path_of(folder, channel, offset)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, FILE_MODE))
    try:
        sync_folder(folder)
    except OSError:
        path.unlink()
        raise


def link(folder: Path, channel: str, offset: int, *, is_copy: bool = False) -> None:
    """Let the name that people know lead to the growing file.

    A file of that name stays, unless it is a copy of that.
    """
    path, target = plain_path(folder, channel), path_of(folder, channel, offset).name
    with suppress(OSError):
        if os.readlink(path) == target:
            return
    with suppress(FileNotFoundError):
        if not (is_copy or stat.S_ISLNK(os.lstat(path).st_mode)):
            logger.error("%s is no link, and no part of its channel; move it away", path.name)
            return
    new = path.with_name(f".{path.name}.link")
    with suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(target)
    new.replace(path)


def adopt(folder: Path, channel: str) -> bool:
    """Make the one file of a channel its first segment; return whether there was one."""
    path = plain_path(folder, channel)
    if not is_file(path):
        return False
    first = path_of(folder, channel, 0)
    if first.exists():
        raise FileExistsError(f"{path.name} and {first.name} are both there")
    path.rename(first)
    for old, new in zip(indexes(path), indexes(first), strict=True):
        with suppress(FileNotFoundError):
            old.replace(new)
    sync_folder(folder)
    return True


def newest(segment: Segment) -> float:
    """Return when the newest event of a closed file came at the latest, in seconds since 1970.

    That is the time of the file, and that of the greatest default id near its end.
    """
    size = min(segment.size, NEWEST_BYTES)
    with reading(segment) as fd:
        rows = os.pread(fd, size, segment.size - size) if fd >= 0 else b""
    return max(segment.modified, (tsv.newest_micros(rows) or 0) / 1e6)


def oldest(path: Path, begin: int, closed: float) -> float:
    """Return since when a growing file has events, in seconds since 1970.

    `begin` is where in it the first row is, and `closed` when the file before it was closed: what
    has an older id came later all the same.
    """
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        row = os.pread(fd, MAX_ID_BYTES + 1, begin)
        named = time_of(tsv.id_of(row)) if b"\t" in row else None
        since = birth(fd) / 1e9 if named is None else named / 1e9
    finally:
        os.close(fd)
    return max(since, closed)


def removable(closed: Sequence[Segment], end: int, rule: Rule | None, now: float) -> list[Segment]:
    """Return the closed files that a rule need not keep, the oldest first.

    None from one with late rows on: these are new. `end` is that of the history, and `now` in
    seconds since 1970.
    """
    found: list[Segment] = []
    if not rule:
        return found
    for segment in closed:
        is_beyond = rule.size is not None and end - segment.end >= rule.size
        is_needed = not (is_beyond or (rule.age is not None and _is_older(segment, now - rule.age)))
        if is_needed or segment.late:
            break
        found.append(segment)
    return found


def _is_older(segment: Segment, time: float) -> bool:
    """Return whether all events of a closed file are older than a time, in seconds since 1970."""
    return segment.modified < time and newest(segment) < time  # it is opened for the latter


def indexes(path: Path) -> list[Path]:
    """Return the paths of what makes the index of a file; they need not be there."""
    return [path.with_suffix(suffix) for suffix in INDEXES]


def remove_index(path: Path) -> None:
    """Remove the index of a file, and the heads of those of its channel, of which that is one."""
    heads = path.with_name(path.name.partition(".")[0] + INDEXES[0])
    for each in {*indexes(path), heads}:
        each.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file of rows, its index, and what was noted of it; one that is gone is as good.

    It is gone from the disk on return: so of several, removed in order, a power cut leaves the end.
    What is beside it goes first: without the file nobody would look for that.
    """
    remove_index(path)
    _note_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def rests(folder: Path) -> list[Path]:
    """Return rests of files that were being made, and what was beside files that are gone.

    The folder is the caller's alone, or they may not be rests.
    """
    names = set(os.listdir(folder))
    found = [name for name in names if _UNFINISHED.fullmatch(name)]
    for name in names:
        beside = _BESIDE.fullmatch(name)
        if beside and beside[1] + SUFFIX not in names:
            found.append(name)
    return [folder / name for name in found]


def _note_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.late")


def note(segment: Segment, move: Move) -> None:
    """Note on disk what is about to be moved, so that nothing is moved twice or not at all."""
    path = _note_path(segment.path)
    new = path.with_name(f"{path.name}.new")
    with open(new, "w") as file:
        file.write(f"{move.start} {move.stop} {move.offset}\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def noted(segment: Segment) -> Move | None:
    """Return what was about to be moved last; None if there is nothing."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return Move(*map(int, _note_path(segment.path).read_text().split()))
    return None


def forget(segment: Segment) -> None:
    """Forget what was moved: it is no longer behind the closed file.

    Else after a power cut such rows might be taken for moved that come there anew.
    """
    _note_path(segment.path).unlink(missing_ok=True)
    sync_folder(segment.path.parent)


@contextmanager
def held(segment: Segment) -> Iterator[int]:
    """Open a closed file to change it, and keep commands away meanwhile."""
    fd = os.open(segment.path, os.O_RDWR | FLAGS)
    try:
        if not lock(fd, disk.LOCK_SECONDS):
            raise OSError(errno.EWOULDBLOCK, "locked by another program")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def reading(segment: Segment) -> Iterator[int]:
    """Open a closed file to read; -1 if it is gone, or shorter than it was."""
    try:
        fd = os.open(segment.path, os.O_RDONLY | FLAGS)
    except FileNotFoundError:
        yield -1
        return
    try:
        yield fd if os.fstat(fd).st_size >= segment.size else -1
    finally:
        os.close(fd)


class ClosedRows:
    """The rows of a closed file, at offsets of its own."""

    def __init__(self, segment: Segment) -> None:
        """Begin behind a byte order mark."""
        self._segment = segment
        self.begin = segment.mark_bytes

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at an offset; none of a file that is gone."""
        segment = self._segment
        try:
            with reading(segment) as fd:
                size = min(size, segment.size - offset)
                return os.pread(fd, size, offset) if fd >= 0 and size > 0 else b""
        except OSError as error:
            raise storage_error("read", segment.path, error) from error

    def status(self) -> os.stat_result | None:
        """Return what the system says of the file; None if it is gone."""
        with suppress(OSError):
            return os.stat(self._segment.path, follow_symlinks=False)
        return None
