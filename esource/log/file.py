"""One file of whole rows: open, repair, append, read.

What this room knows: bytes at offsets, LF, and how a disk fails. It does not know what
a row means. Every call is a plain blocking `os` call, to be made from a thread where a
loop must not wait.

    |--- rows, on disk, readable ---|--- being appended ---|
    0                              end                size of the file

`end` moves only when an append is complete (and synced, where the log syncs), so nobody
reads what could still be lost. One process writes; appends are not concurrent; reads are.

After a failed sync the kernel may have dropped the pages and forgotten that they were
dirty (the "fsyncgate" of 2018): what was written since the last good sync is unknown, and
a second sync that succeeds proves nothing. So the file is cut back to `end`, and the log
takes no more rows until it is opened again, and read again, from the disk.
"""

import errno
import logging
import os
import stat
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from esource.errors import LogStale, StorageError, StorageFull

logger = logging.getLogger(__name__)

FLAGS = os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block the open
FILE_MODE = 0o640  # events may be private; the group is for backups
CHUNK = 1 << 16

# Only the data and the size need to be on disk, not the times (macOS has no fdatasync).
_sync = getattr(os, "fdatasync", os.fsync)


class Log:
    """The rows of one file, or of one that does not exist yet.

    The file stays open until the last reference to the log is gone.
    """

    def __init__(self, path: Path, sync: bool = True) -> None:
        """Open and repair the file, if there is one.

        With `sync`, an append is on disk when it returns, and so is everything that is
        in the file now. Raises `StorageError`.
        """
        self.path = path
        self.sync = sync
        self.end = 0  # bytes; everything before is whole rows
        self.read_only = ""  # why there can be no appends, if so
        self.failed = ""  # why there can be none until the file is opened again, if so
        self.sync_seconds = 0.0  # which the last `flush` took
        self._fd = -1
        self._identity = (0, 0)
        self._size = 0  # of the file, when it was last looked at or written
        self._folder_synced = False
        try:
            self._open()
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StorageError(
                    f"{path.name} is a symbolic link; the hub follows none"
                ) from error
            raise _storage_error("open", path, error) from error

    # -- opening -------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | FLAGS)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            fd = os.open(self.path, os.O_RDONLY | FLAGS)
            self.read_only = f"{self.path.name} is read-only"
        self._adopt(fd)
        self._size = os.fstat(fd).st_size
        self.end = self._whole_rows(0, self._size)
        if self.read_only:
            return
        if self.end < self._size:
            try:
                self._cut_torn_row()
            except OSError as error:  # a full disk: what is whole can still be read
                self.failed = f"{self.path.name} needs repair: {error.strerror}"
                logger.critical("%s", self.failed)
                return
        if self.sync:
            self._sync_all()

    def _adopt(self, fd: int) -> None:
        weakref.finalize(self, os.close, fd)
        self._fd = fd
        status = os.fstat(fd)
        self._identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")

    def _whole_rows(self, start: int, end: int) -> int:
        """Return where the last whole row between two offsets ends, or `start`."""
        while end > start:
            chunk_start = max(end - CHUNK, start)
            newline = os.pread(self._fd, end - chunk_start, chunk_start).rfind(b"\n")
            if newline >= 0:
                return chunk_start + newline + 1
            end = chunk_start
        return start

    def _cut_torn_row(self) -> None:
        """Cut off what follows the last whole row, after saving it."""
        saved = self._save_aside(self.end, self._size)
        os.ftruncate(self._fd, self.end)
        os.fsync(self._fd)
        logger.warning(
            "%s: the last row had no end (a torn write); its %d bytes are now in %s",
            self.path, self._size - self.end, saved,
        )  # fmt: skip
        self._size = self.end

    def _save_aside(self, start: int, end: int) -> str:
        """Copy bytes of the file to a new file next to it, on disk on return; return its name."""
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        path = self.path.with_name(f"{self.path.name}.torn-{stamp}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, FILE_MODE)
        try:
            with open(fd, "wb") as copy:
                while start < end:
                    start += copy.write(os.pread(self._fd, min(end - start, CHUNK), start))
                copy.flush()
                os.fsync(fd)
        except OSError:
            path.unlink()
            raise
        self._sync_folder()
        return path.name

    def _sync_all(self) -> None:
        _sync(self._fd)
        if not self._folder_synced:
            self._sync_folder()

    def _sync_folder(self) -> None:
        sync_folder(self.path.parent)
        self._folder_synced = True

    # -- appending -----------------------------------------------------------------------

    def append(self, *blocks: bytes) -> int:
        """Append whole rows, LF-terminated, all or none; return the offset where they begin.

        One write for each block, and one sync. On return they are before `end`, and on disk
        if the log syncs. Creates the file. Raises `StorageFull` or `StorageError` with the
        file as it was, or `LogStale` if somebody else changed it: see `is_same_file`.
        """
        if self.read_only or self.failed:
            raise StorageError(self.read_only or self.failed)
        self.check_unchanged()
        if self.is_torn:
            raise LogStale(f"{self.path.name} ends with an unfinished row")
        try:
            if self._fd < 0:
                self._create()
            for block in blocks:
                view = memoryview(block)
                while view:  # a disk that fills up writes short first, then fails
                    view = view[os.write(self._fd, view) :]
            size = sum(map(len, blocks))
            start = self._start_of_append(size)
        except OSError as error:
            self._cut_back(error)
            raise _storage_error("write", self.path, error) from error
        if self.sync:
            self.flush(cut=True)
        self.end = self._size = start + size
        return start

    def _start_of_append(self, size: int) -> int:
        """Return where the rows that were just written begin: at `end`, if nobody else writes.

        With O_APPEND the kernel leaves the file's position after them.
        """
        if not os.fstat(self._fd).st_nlink:
            raise LogStale(f"{self.path.name} was removed")
        start = os.lseek(self._fd, 0, os.SEEK_CUR) - size
        if start < self.end or (start > self.end and os.pread(self._fd, 1, start - 1) != b"\n"):
            self.failed = f"{self.path.name} was changed by somebody else at the same time"
            raise StorageError(self.failed)
        return start

    def flush(self, cut: bool = False) -> None:
        """Put everything written on disk. After a failure the log refuses appends.

        With `cut`, a failure also cuts off what was written after `end`. Raises `StorageError`.
        """
        if self._fd < 0:
            return
        began = time.monotonic()
        try:
            self._sync_all()
            self.sync_seconds = time.monotonic() - began
        except OSError as error:
            if cut:
                self._cut_back(error)
            self.failed = f"{self.path.name} could not be synced: {error.strerror}"
            logger.critical("%s; no more writes until it is opened again", self.failed)
            raise StorageError(self.failed) from error

    def _create(self) -> None:
        self._adopt(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, FILE_MODE))

    def _cut_back(self, cause: OSError) -> None:
        """Take away what an append left after `end`."""
        if self._fd < 0:
            return
        try:
            if os.fstat(self._fd).st_size > self.end:  # never make it longer, with zeros
                os.ftruncate(self._fd, self.end)
        except OSError as error:
            # An unfinished row stands in the file. Opening it again saves that aside.
            self.failed = f"{self.path.name} holds an unfinished write: {error.strerror}"
            logger.critical("%s (after: %s)", self.failed, cause.strerror)

    # -- has the file changed? -------------------------------------------------------------

    def check_unchanged(self) -> None:
        """Raise `LogStale` if the file is not as it was last seen, or `StorageError`."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            if self._fd >= 0:
                raise LogStale(f"{self.path.name} was removed") from None
            return
        except OSError as error:
            raise _storage_error("look at", self.path, error) from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise LogStale(f"{self.path.name} was replaced")
        if status.st_size != self._size:
            raise LogStale(f"{self.path.name} is {status.st_size} bytes long, not {self._size}")

    @property
    def is_torn(self) -> bool:
        """Whether something that is no whole row was last seen after `end`."""
        return self._size != self.end

    def is_same_file(self) -> bool:
        """Return whether the name is still this log's file, and no row of it was cut off."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        same = (status.st_dev, status.st_ino) == self._identity
        return same and status.st_size >= self.end

    def take_in(self) -> int:
        """Move `end` past the whole rows that others have appended; return how many bytes.

        What follows the last of them is left alone: somebody may be in the middle of
        writing it. (The next append cuts it off, or finds it finished.) They are on disk
        if the log syncs. Raises `StorageError`.
        """
        try:
            self._size = os.fstat(self._fd).st_size
            end = self._whole_rows(self.end, self._size)
        except OSError as error:
            raise _storage_error("read", self.path, error) from error
        if self.sync and not self.read_only:
            self.flush()
        grown, self.end = end - self.end, end
        return grown

    def reopened(self) -> "Log":
        """Return a new log on the file that now has this log's name.

        If appends failed, what they may have left after `end` was never acknowledged: it is
        saved aside and cut off first. Raises `StorageError`.
        """
        try:
            if self.failed and self._fd >= 0 and self.is_same_file():
                size = os.fstat(self._fd).st_size
                if size > self.end:
                    self._save_aside(self.end, size)
                    os.ftruncate(self._fd, self.end)
        except OSError as error:
            raise _storage_error("reopen", self.path, error) from error
        return Log(self.path, self.sync)

    # -- reading -------------------------------------------------------------------------

    def read(self, offset: int, limit: int, stop: int = -1) -> bytes:
        """Return whole rows from `offset`, which is the start of a row.

        At most `limit` bytes, but at least one row; none at or after `stop` (default: the
        end). Raises `StorageError`.
        """
        stop = self.end if stop < 0 else stop
        while True:
            size = min(limit, stop - offset)
            rows = self.pread(offset, size)
            whole = rows.rfind(b"\n") + 1
            if whole or len(rows) < size or size == stop - offset:
                return rows[:whole] if whole < len(rows) else rows
            limit *= 2  # one row is longer than the limit

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`. Raises `StorageError`."""
        if size <= 0 or self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise _storage_error("read", self.path, error) from error

    def backwards(self, stop: int = -1) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of whole rows and their offsets, the last before `stop` (the end) first.

        Raises `StorageError`.
        """
        stop = self.end if stop < 0 else stop
        size = CHUNK
        while stop:
            start = max(stop - size, 0)
            block = self.pread(start, stop - start)
            # The first row may have begun before the block: it belongs to the next one.
            cut = block.find(b"\n", 0, -1) + 1 if start else 0
            if start and not cut:
                size *= 2
                continue
            yield start + cut, block[cut:]
            stop = start + cut
            size = CHUNK

    def sendfile(self, socket_fd: int, offset: int, size: int) -> int:
        """Send up to `size` bytes at `offset` to a non-blocking socket; return how many went.

        Raises `BlockingIOError` when the socket takes none now, and `OSError`.
        """
        return os.sendfile(socket_fd, self._fd, offset, size)

    @property
    def modified(self) -> float:
        """When the file was last written, in seconds since 1970; 0.0 if there is none."""
        return os.fstat(self._fd).st_mtime if self._fd >= 0 else 0.0

    @property
    def inode(self) -> int:
        """The number that tells this file from one that replaces it; 0 if there is none."""
        return self._identity[1]


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk: a file whose name is lost is lost."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _storage_error(verb: str, path: Path, error: OSError) -> StorageError:
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(f"cannot {verb} {path.name}: {error.strerror or error}")
