"""What commands do to the files of a channel: close, remove and join them.

Beside a hub, under the lock that its appends take, too (`rotate`, `trim`):

    rotate    orders.<offset>.tsv is closed as a hub closes it, and the next one is the growing one
    trim      the oldest closed files go

In a folder that no hub holds (`join`, `remove`, `finish`):

    join      orders.tsv is one file again, of all rows; then the segments go, the oldest first
    remove    all files of the channel go

At each moment the files on disk are a history. After a crash in a `join` the one file is there, and
segments, with whose rows it ends: they are the rest, which `finish` removes.

All calls block, and raise `OSError` and `EsourceError`.
"""

import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from esource.errors import Missing, StorageError
from esource.log import disk, segments
from esource.log.disk import FLAGS
from esource.log.file import POLL_SECONDS, SETTLED_SECONDS
from esource.log.reading import BLOCK_BYTES
from esource.log.segmented import SegmentedLog
from esource.log.segments import Segment
from esource.rules import Rule

logger = logging.getLogger(__name__)

JOINING = ".tsv.join"  # of a file that is being made; one of the `segments.rests`


class Joined(NamedTuple):
    """What became of the files of a channel."""

    path: Path
    size: int  # bytes
    start: int  # the offset that its first byte had before


# -- beside a hub ----------------------------------------------------------------------------


def rotate(folder: Path, channel: str) -> tuple[Path, Path] | None:
    """Close the growing file of a channel; return its path and that of the next one.

    Both are on disk on return. None if it has no rows. Waits a second for the end of half a row.
    """
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        with _growing(folder, channel) as (fd, start, path):
            size = os.fstat(fd).st_size
            if not size:
                return None
            if os.pread(fd, 1, size - 1) == b"\n":
                return _closed(folder, channel, fd, start, size)
        if time.monotonic() > deadline:
            raise StorageError(
                f"{path.name} ends with half a row; stop the program that writes it, or publish, "
                "so that a hub cuts it off"
            )
        time.sleep(POLL_SECONDS)


def _closed(folder: Path, channel: str, fd: int, start: int | None, size: int) -> tuple[Path, Path]:
    disk.sync(fd)
    status = os.fstat(fd)
    with disk.made_like(status):
        if start is None:
            segments.adopt(folder, channel)
            start = 0
            segments.link(folder, channel, start)
        path = segments.path_of(folder, channel, start + size)
        # From now on it may have rows of a hub, so it stays whatever comes.
        mode = stat.S_IMODE(status.st_mode)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, mode))
        disk.sync_folder(folder)
        segments.link(folder, channel, start + size)
    return segments.path_of(folder, channel, start), path


def trim(
    folder: Path, channel: str, rule: Rule, now: float, *, dry_run: bool
) -> tuple[Segment, ...]:
    """Remove the closed files that a rule need not keep, the oldest first; return them.

    They are gone from the disk on return; with `dry_run` nothing is removed. `now` is in seconds
    since 1970. From a file with late rows on, which a hub will move, all is kept.
    """
    with _growing(folder, channel) as (fd, start, _):
        if start is None:
            return ()
        starts = segments.offsets(folder, channel)[channel]
        closed, _ = segments.run(folder, channel, starts)
        gone = tuple(segments.removable(closed, start + os.fstat(fd).st_size, rule, now))
        if gone and not dry_run:
            for segment in gone:
                segments.remove(segment.path)
        return gone


@contextmanager
def _growing(folder: Path, channel: str) -> Iterator[tuple[int, int | None, Path]]:
    """Open and lock the growing file; (descriptor, offset, path). No offset: it is the only one."""
    while True:
        files = _files(folder, channel)
        start, path = files[-1]
        try:
            fd = os.open(path, os.O_RDWR | FLAGS)
        except FileNotFoundError:
            continue
        try:
            if not disk.lock(fd, disk.LOCK_SECONDS):
                raise StorageError(f"{path.name} is locked by another program (flock)")
            if segments.files(folder, channel)[-1:] == files[-1:] and _is_at(fd, path):
                is_only = path == segments.plain_path(folder, channel)
                yield fd, None if is_only else start, path
                return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Return whether this file has this name still."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    return False


def _files(folder: Path, channel: str) -> list[tuple[int, Path]]:
    """Return (offset, path) of each file of a channel; raise `Missing` if there is none."""
    files = segments.files(folder, channel)
    if not files:
        raise Missing(f"{folder} has no channel {channel}")
    return files


# -- in a folder that no hub holds -----------------------------------------------------------


def join(folder: Path, channel: str) -> Joined | None:
    """Make one file of all segments of a channel; it is on disk on return. None if it is one.

    Takes as much space as the history until the segments go. A history with a gap, or a file that
    another program writes to, raises `StorageError`, and all is as it was.
    """
    files, plain = _files(folder, channel), segments.plain_path(folder, channel)
    if files != [(0, plain)] and segments.is_file(plain):
        raise StorageError(f"{plain.name} is no link, and no part of its channel; move it away")
    log = settle(folder, channel)
    if not log:
        return None
    closed, gap = segments.run(folder, channel, [start for start, _ in files])
    if gap:
        raise StorageError(
            f"the history of {channel} has a gap: {gap}; move what is before it away"
        )
    start, last = files[-1]
    status = os.lstat(last)
    busy = [segment.path for segment in closed if segment.late]
    if log.end != start + status.st_size:
        busy.append(last)
    if busy:
        raise StorageError(f"{busy[0].name} ends with half a row; stop the program that writes it")
    new = folder / f".{channel}{JOINING}"
    new.unlink(missing_ok=True)
    try:
        _write(new, log, status)
        new.replace(plain)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    disk.sync_folder(folder)
    _remove([path for _, path in files])
    return Joined(plain, log.end - log.start, log.start)


def settle(folder: Path, channel: str) -> SegmentedLog | None:
    """Move late rows to the end of a channel, as a hub does; return it. None if it is one file."""
    files = _files(folder, channel)
    if files == [(0, segments.plain_path(folder, channel))]:
        return None
    log = _opened(folder, channel, [start for start, _ in files])
    log.tend(time.time(), may_remove=False)
    return log


def _opened(folder: Path, channel: str, starts: Sequence[int]) -> SegmentedLog:
    return SegmentedLog(
        folder, channel, "always", None, starts,
        reopen=lambda: _opened(folder, channel, starts), on_begun=lambda offset: None,
    )  # fmt: skip


def _write(path: Path, log: SegmentedLog, status: os.stat_result) -> None:
    """Write all rows of a log to a new file, like the one of that status; sync it."""
    with disk.made_like(status):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS
        fd = os.open(path, flags, stat.S_IMODE(status.st_mode))
    with open(fd, "wb") as file:
        offset = log.start
        while offset < log.end:
            piece = log.pread(offset, min(BLOCK_BYTES, log.end - offset))
            if not piece:
                raise StorageError(f"{log.name} ended before byte {log.end}")
            offset += file.write(piece)
        file.flush()
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(fd)


def remove(folder: Path, channel: str) -> list[Path]:
    """Remove all files of a channel, its link and its indexes; return the files with rows.

    The record of its erasures stays.
    """
    paths = [path for _, path in _files(folder, channel)]
    plain = segments.plain_path(folder, channel)
    # The link goes first: as long as there is a file, the same command goes on after a crash.
    _remove([*([plain] if plain not in paths and os.path.lexists(plain) else []), *paths])
    return paths


def finish(folder: Path) -> None:
    """Finish each `join` that was broken off in a folder, which is the caller's alone.

    Copies of growing files in the place of their links go, and rests of files that were being made.
    What fails is logged.
    """
    for channel, starts in segments.offsets(folder).items():
        plain = segments.plain_path(folder, channel)
        growing = segments.path_of(folder, channel, starts[-1])
        try:
            if not segments.is_file(plain):
                continue
            if _ends_with(plain, folder, channel, starts):
                _remove([segments.path_of(folder, channel, start) for start in starts])
                logger.warning("%s: finished a join that was begun", plain.name)
            elif _begins_with(growing, plain):
                segments.link(folder, channel, starts[-1], is_copy=True)
                logger.warning("%s was a copy of %s; it is a link again", plain.name, growing.name)
        except OSError as error:
            logger.error("%s: a join that was begun cannot be finished: %s", plain.name, error)
    with suppress(OSError):
        for path in segments.rests(folder):
            path.unlink()


def _begins_with(growing: Path, plain: Path) -> bool:
    """Return whether a file is or was a copy of the growing one: `scp` and `cp -L` follow links."""
    with growing.open("rb") as whole, plain.open("rb") as part:
        while block := part.read(BLOCK_BYTES):
            if block != whole.read(len(block)):
                return False
    return True


def _ends_with(plain: Path, folder: Path, channel: str, starts: Sequence[int]) -> bool:
    """Return whether the last bytes of a file are those of all segments of its channel."""
    paths = [segments.path_of(folder, channel, start) for start in starts]
    end = starts[-1] + paths[-1].stat().st_size
    first = end - plain.stat().st_size  # the offset of the file's first byte, if so
    if first > starts[0]:
        return False
    with plain.open("rb") as whole:
        whole.seek(starts[0] - first)
        for path, stop in zip(paths, [*starts[1:], end], strict=True):
            with path.open("rb") as part:
                while block := part.read(BLOCK_BYTES):
                    if whole.read(len(block)) != block:
                        return False
            if whole.tell() + first != stop:
                return False
    return True


def _remove(paths: Sequence[Path]) -> None:
    """Remove files in this order, and what is beside them: whatever happens, the end is left."""
    for path in paths:
        segments.remove(path)
