"""A log in one file: opened, repaired, appended to, read back. Knows the disk, LF, and default ids.

    |-- whole rows --------------------|-- being appended, or torn --|
    0                                 end                           size of the file

One process writes through the hub; others may append by hand (`>>`), move the file away or put
another in its place. So before every append the file is looked at. Whole rows that came are before
ours; half a row is copied to `<name>.torn-<time>` and cut off; after any other change the append
returns `Moved`.

After a failed sync the kernel may have dropped the pages and forgotten that they were dirty (the
"fsyncgate" of 2018): what was written since the last good sync is unknown, and a second sync that
succeeds proves nothing. So the file is cut back to `end`, and the log refuses rows until the file
has been opened again.

What a file cannot do: an append at exactly one place is two calls, a look and a write. A row that
another program appends between the two, some microseconds, stands before ours, and nothing was
asked about it.
"""

import errno
import logging
import os
import stat
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from esource.errors import StorageError
from esource.event import default_id
from esource.log import Appended, Moved, Replaced, disk
from esource.log.disk import CHUNK, FILE_MODE, FLAGS
from esource.rows import tsv

logger = logging.getLogger(__name__)

SAME_BYTES = 1 << 12  # by which two files are compared
TORN = "the last row had no end (a torn write)"
FAILED = "an append has failed"
GROWN_BYTES = 1 << 20  # by so many a file may have grown and still be appended to without a refresh


class FileLog:
    """The rows of one file, or of one that does not exist yet (see `esource.log.Log`).

    The file stays open until the last reference to the log is gone.
    """

    begin = 0

    def __init__(self, path: Path, fsync: str = "always") -> None:
        """Open and repair the file, if there is one.

        With `always`, an append is on disk when it returns; with that and `interval`, so is
        everything that is in the file now. Raises `StorageError`.
        """
        self.path = path
        self.name = path.name
        self.generation = ""
        self.end = 0
        self.modified = 0.0
        self.refusal = ""
        self._fsync = fsync
        self._fd = -1
        self._identity = (0, 0)
        self._size = 0  # of the file, when it was last looked at or written
        self._is_read_only = False
        self._lock = threading.Lock()  # while rows are appended or taken in
        self._is_busy = False  # what is there now is being appended, or taken in
        self._leftover: int | None = None  # from where on there may be bytes of a failed append
        self._folder_is_synced = False
        try:
            self._open()
        except OSError as error:
            raise disk.storage_error("open", path, error) from error

    # -- opening -------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | FLAGS)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in disk.READ_ONLY:
                raise
            fd = os.open(self.path, os.O_RDONLY | FLAGS)
            self._is_read_only = True
        self._adopt(fd)
        status = os.fstat(fd)
        self._size = status.st_size
        end = disk.whole_rows(self._fd, 0, self._size)
        if end < self._size and not self._is_read_only:
            try:
                if self._cut(end, self._size, TORN):
                    self._size = end
            except OSError as error:  # a full disk: what is whole can still be read
                self.refusal = f"{self.name} needs repair: {error.strerror}"
                logger.critical("%s", self.refusal)
        if self._fsync != "never" and not (self._is_read_only or self.refusal):
            self._sync()
        self._move_end(end, status.st_mtime)

    def _adopt(self, fd: int) -> None:
        weakref.finalize(self, os.close, fd)
        self._fd = fd
        status = os.fstat(fd)
        self._identity = (status.st_dev, status.st_ino)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")

    def _move_end(self, end: int, modified: float) -> None:
        """Show rows to readers. The first one tells this file from others; inodes come back."""
        if end and not self.generation:
            first = os.pread(self._fd, min(end, SAME_BYTES), 0).partition(b"\n")[0]
            name = b"%d %b" % (self._identity[1], first)
            self.generation = blake2b(name, digest_size=6).hexdigest()
        self.end, self.modified = end, modified

    def _cut(self, end: int, size: int, why: str) -> bool:
        """Cut off what follows an offset, after saving it, unless more has come meanwhile."""
        saved = disk.save_aside(self._fd, end, size, self.path)
        if os.fstat(self._fd).st_size != size:
            saved.unlink()
            return False
        os.ftruncate(self._fd, end)
        os.fsync(self._fd)
        logger.warning("%s: %s; its %d bytes are now in %s", self.path, why, size - end, saved.name)
        return True

    def _sync(self) -> None:
        disk.sync(self._fd)
        if not self._folder_is_synced:
            disk.sync_folder(self.path.parent)
            self._folder_is_synced = True

    # -- appending -----------------------------------------------------------------------

    def append(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b""
    ) -> Appended | Moved:
        """Append blocks of whole rows: all or none. One write for each block, and one sync.

        Creates the file. Raises `StorageFull` or `StorageError` with the file as it was.
        """
        with self._lock:
            self._is_busy = True
            try:
                if self.refusal or self._is_read_only:
                    self._mend()
                size, why = self._look()
                if why:
                    return Moved(why, None)
                end = disk.whole_rows(self._fd, self.end, size)
                if expected not in (None, end):
                    return Moved(f"{self.name} is {end} bytes long, not {expected}", end)
                if least and end - self.end > GROWN_BYTES:
                    return Moved(f"{self.name} has grown by {end - self.end} bytes", None)
                if least and end > self.end:
                    newest = tsv.newest_micros(os.pread(self._fd, end - self.end, self.end))
                    if newest is not None and default_id(newest) >= least:
                        return Moved(f"{self.name} has grown by rows of a later time", end)
                if not blocks:
                    return Appended(end, 0.0, is_due=False)
                if end < size and not self._cut(end, size, TORN):
                    return Moved(f"{self.name} is being written to", None)
                return self._append_at(end, blocks)
            except OSError as error:
                raise disk.storage_error("write", self.path, error) from error
            finally:
                self._is_busy = False

    def _append_at(self, end: int, blocks: Sequence[bytes]) -> Appended | Moved:
        """Append to the file, whose whole rows end at `end`, with nothing behind them."""
        try:
            if self._fd < 0:
                self._create()
        except FileExistsError:
            return Moved(f"{self.name} was created", None)
        self._leftover = end
        try:
            for block in blocks:
                view = memoryview(block)
                while view:  # a disk that fills up writes short first, then fails
                    view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._cut_back(end, error)
            raise
        if not os.fstat(self._fd).st_nlink:
            return Moved(f"{self.name} was removed", None)
        # With O_APPEND the kernel leaves the file's position after what it wrote.
        stop = os.lseek(self._fd, 0, os.SEEK_CUR)
        start = stop - sum(map(len, blocks))
        if start < end or (start > end and os.pread(self._fd, 1, start - 1) != b"\n"):
            self.refusal = f"{self.name} was changed by another program at the same time"
            raise StorageError(self.refusal)
        seconds = 0.0
        if self._fsync == "always":
            try:
                seconds = self.flush()
            except StorageError as error:
                self._cut_back(end, error.__cause__)
                raise
        self._leftover = None
        self._size = stop
        self._move_end(stop, time.time())  # not when it was written: that is before it was shown
        return Appended(start, seconds, is_due=self._fsync == "interval")

    def _create(self) -> None:
        self._adopt(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, FILE_MODE))

    def _cut_back(self, end: int, cause: BaseException | None) -> None:
        """Take away what an append left after `end`."""
        if self._fd < 0:
            return
        try:
            if os.fstat(self._fd).st_size > end:  # never make it longer, with zeros
                os.ftruncate(self._fd, end)
            self._leftover = None
        except OSError as error:
            # An unfinished row stands in the file. Mending it saves that aside.
            self.refusal = f"{self.name} holds an unfinished write: {error.strerror}"
            logger.critical("%s (after: %s)", self.refusal, cause)

    def flush(self) -> float:
        """Put everything written on disk; return how long it took. A failure is a `refusal`."""
        if self._fd < 0 or self._fsync == "never":
            return 0.0
        began = time.monotonic()
        try:
            self._sync()
        except OSError as error:
            self.refusal = f"{self.name} could not be synced: {error.strerror}"
            logger.critical("%s; no more writes until it is opened again", self.refusal)
            raise StorageError(self.refusal) from error
        return time.monotonic() - began

    def _mend(self) -> None:
        """After a fault, open the file again, and save aside and cut off what an append has left.

        That was never acknowledged. Raises `StorageError` if the file is still read-only, and
        `OSError`. If another file has the name now, nothing is done: that is found next.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | FLAGS)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in disk.READ_ONLY:
                raise
            raise StorageError(f"{self.name} is read-only") from error
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != self._identity:
                return
            # The old description has seen the failed sync. Reads that are under way go on.
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)
        begin, size = self._leftover, status.st_size
        if begin is not None and begin < size and not self._cut(begin, size, FAILED):
            raise StorageError(f"{self.name} is being written to by another program")
        if self._fsync != "never":
            self._sync()
        if disk.whole_rows(self._fd, 0, self.end) != self.end:  # read again, from the disk
            self._identity = (0, 0)  # what was acknowledged is not there: it is another file
        self._is_read_only = False
        self._leftover, self.refusal = None, ""

    # -- what others do ------------------------------------------------------------------

    def _look(self) -> tuple[int, str]:
        """Return the size of the file, and how it is not the one whose rows these are, if so."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return 0, f"{self.name} was removed" if self._fd >= 0 else ""
        size = status.st_size
        if (status.st_dev, status.st_ino) != self._identity:
            return size, f"{self.name} was {'replaced' if self._fd >= 0 else 'created'}"
        if size < self.end:
            return size, f"{self.name} is {size} bytes long, not {self.end}"
        return size, ""

    def is_current(self) -> bool:
        """Whether nobody else has changed the file since it was last looked at. One `stat`."""
        try:
            size, why = self._look()
        except OSError as error:
            raise disk.storage_error("look at", self.path, error) from error
        return self._is_busy or (not why and size == self._size)

    def refresh(self) -> Replaced | None:
        """Take in whole rows that others have appended, or open the file that has the name now.

        What follows the last whole row is left alone: its writer may be in the middle of it. After
        an append has failed nothing is taken in: what is behind `end` may be of that one. The rows
        are on disk where appends are.
        """
        with self._lock:
            try:
                size, why = self._look()
                if why:
                    return self._next(why)
                end = self.end if self.refusal else disk.whole_rows(self._fd, self.end, size)
                if end > self.end:
                    self._is_busy = True
                    if self._fsync == "always" and not self._is_read_only:
                        self.flush()
                    self._move_end(end, time.time())
                self._size = size
            except OSError as error:
                raise disk.storage_error("read", self.path, error) from error
            finally:
                self._is_busy = False
        return None

    def _next(self, why: str) -> Replaced:
        """Open the file that has the name now, and take in the last rows of this one."""
        new = FileLog(self.path, self._fsync)
        if self._fd >= 0 and not self.refusal:
            with suppress(StorageError):  # logged there; the rows are no longer of this name
                self.flush()
            size = os.fstat(self._fd).st_size
            self._move_end(disk.whole_rows(self._fd, self.end, size), self.modified)
        return Replaced(new, self.end if self._is_in(new) else None, why)

    def _is_in(self, other: "FileLog") -> bool:
        """Whether another file begins with these rows, by the bytes right before `end`."""
        size = min(self.end, SAME_BYTES)
        start = self.end - size
        return self.end <= other.end and self.pread(start, size) == other.pread(start, size)

    # -- reading -------------------------------------------------------------------------

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        """Return whole rows from `offset`, where a row begins, none of them at or after `stop`."""
        while True:
            size = min(limit, stop - offset)
            rows = self.pread(offset, size)
            whole = rows.rfind(b"\n") + 1
            if whole or len(rows) < size or size == stop - offset:
                return rows[:whole] if whole < len(rows) else rows
            limit *= 2  # one row is longer than the limit

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        if size <= 0 or self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise disk.storage_error("read", self.path, error) from error

    def backwards(self, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, whole rows), the last before `stop`, where a row begins, first."""
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
        """Send up to `size` bytes at `offset` to a non-blocking socket; return how many went."""
        return os.sendfile(socket_fd, self._fd, offset, size)
