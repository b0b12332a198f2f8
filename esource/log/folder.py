"""A folder of plain files: which of them are channels, and what can be seen of them.

    <name>.tsv    a channel, if the name is one and it is a regular file: nothing else is

A folder may hold a hundred thousand files. Their names are read when the folder has changed, and
kept. Of a file that is only listed no more is read than its end:

    |--- rows, never read here ----------|-- at most TAIL_BYTES --|
    0                                                           size

What was cut off in the middle there, at the front, is not looked at, and what follows the last LF
is not an event yet.
"""

import errno
import heapq
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from esource.log import NAME, Kept, Summary, Written
from esource.log.disk import FLAGS
from esource.log.file import FileLog, devices
from esource.log.filesystem import FileSystem
from esource.log.lock import Lock
from esource.rows import tsv

SUFFIX = ".tsv"
SETTLED_NS = 2_000_000_000  # the coarsest clocks of file systems count in 2 s
RUN = 10_000  # names that are sorted at a time: two milliseconds
TAIL_BYTES = 1 << 16
PEEK_BYTES = 1 << 12  # which is enough for most rows
PROBE_BYTES = 4096


def channel_of(entry: os.DirEntry[str]) -> str | None:
    """Return the name of the channel whose file this is; None for anything else in the folder."""
    name = entry.name.removesuffix(SUFFIX)
    is_channel = name != entry.name and NAME.fullmatch(name)
    return name if is_channel and entry.is_file(follow_symlinks=False) else None


def channel_names(folder: Path) -> list[str]:
    """Return the names of all channels that have a file, in no order. Raises `OSError`."""
    with os.scandir(folder) as entries:
        return [name for entry in entries if (name := channel_of(entry)) is not None]


class Folder:
    """The logs of a folder (see `esource.log.Logs`)."""

    def __init__(self, path: Path, fsync: str = "always") -> None:
        """Name the folder; nothing is read, made or locked yet. `fsync` is as for `FileLog`."""
        self.path = path
        self._fsync = fsync
        self._lock = Lock.of_writer(path)
        self._names: tuple[int, list[str]] = (-1, [])  # when the folder was changed, and names
        self._file_system = FileSystem(path)

    def hold(self, waiting: Callable[[], None]) -> None:
        """Make the folder and become its one writer; wait for as long as another process is."""
        self._lock.wait(waiting)

    def path_of(self, name: str) -> Path:
        """Return the path of a channel's file, whether there is one or not."""
        return self.path / f"{name}{SUFFIX}"

    def open(self, name: str) -> FileLog:
        """Return the log of a channel; its file is repaired if need be, and need not exist."""
        return FileLog(self.path_of(name), self._fsync)

    def names(self) -> list[str]:
        """Return the names of all channels that have a file, in order; none without a folder.

        They are read again only once the folder has changed: a page may ask every second.
        """
        try:
            changed = os.stat(self.path).st_mtime_ns
            if changed != self._names[0]:
                names = _ordered(channel_names(self.path))
                # Within a tick of the file system's clock another file may still come unseen.
                settled = time.time_ns() - changed > SETTLED_NS
                self._names = (changed if settled else -1, names)
        except FileNotFoundError:
            return []
        return self._names[1]

    def summaries(self, names: Sequence[str]) -> list[Summary]:
        """Return what the ends of files tell; files that are gone meanwhile are left out."""
        found = []
        for name in names:
            with suppress(OSError):
                found.append(_summary(self.path_of(name), name))
        return found

    def kept(self) -> Iterator[Kept]:
        """Yield size and time of each file, of those that are not gone meanwhile."""
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                name = channel_of(entry)
                if name is not None:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield Kept(name, status.st_size, status.st_mtime)

    def free(self) -> int | None:
        """Return how many bytes the file system has for this user; None if it does not say."""
        try:
            status = os.statvfs(self.path)
        except OSError:
            return None
        return status.f_bavail * status.f_frsize

    def sync_all(self, written: Sequence[Written]) -> Callable[[], float] | None:
        """Return what syncs these rows at once, if that is faster and sure."""
        return self._file_system.sync_of(len(written), devices(written))

    def problems(self) -> list[str]:
        """Return why nothing can be written to the folder, if so.

        Only a write tells of a full disk and of a file system that went read-only. The file has no
        name, so that nobody sees it and a crash leaves nothing.
        """
        try:
            try:
                nameless = getattr(os, "O_TMPFILE", 0)
                fd = os.open(self.path, nameless | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                # Not every system has such files: then what the rights and flags say.
                if not os.access(self.path, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
                return []
            try:
                os.write(fd, bytes(PROBE_BYTES))
            finally:
                os.close(fd)
        except OSError as error:
            return [f"cannot write to the folder {self.path}: {error.strerror}"]
        return []


def _ordered(names: list[str]) -> list[str]:
    """Return the names in order, and let other threads have the interpreter in between."""
    runs = [sorted(names[start : start + RUN]) for start in range(0, len(names), RUN)]
    return list(heapq.merge(*runs))


def _summary(path: Path, name: str) -> Summary:
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        status = os.fstat(fd)
        size, newest_id = status.st_size, b""
        for peek in (PEEK_BYTES, TAIL_BYTES):
            start = max(status.st_size - peek, 0)
            rows = os.pread(fd, status.st_size - start, start)
            size = start + rows.rfind(b"\n") + 1
            # The first row may have begun before.
            first = rows.find(b"\n") + 1 if start else len(tsv.BOM) * rows.startswith(tsv.BOM)
            rows = rows[first : rows.rfind(b"\n") + 1]
            place, found = tsv.last(rows, 1)
            if found:
                newest_id = tsv.id_of(rows[place:])
            if found or not start:
                break
        return Summary(name, size, newest_id, status.st_mtime)
    finally:
        os.close(fd)
