"""A log in one file: opened, repaired, appended to, read back. Knows the disk, LF, and default ids.

    |-- whole rows --------------------|-- being appended, or half a row --|
    begin                             end                                size of the file

`begin` is 0, or 3 behind a byte order mark. A log without rows, whose file gets some behind a mark,
is replaced by one that begins there: so no reader stands before it.

One process writes through the hub; others may append by hand (`>>`) in blocks of any size, move the
file away or put another in its place. So before every append the file is looked at:

- Whole rows that came are before ours. If they have to be asked about, it is told where they end
  (`Moved`), and the next append may be at exactly that place, whatever comes meanwhile.
- What others append between the look and our write, or between two of our writes, is put behind
  ours, where nobody has read it yet: `rows | theirs | ours` becomes `rows | ours | theirs`. A row
  that they write in two blocks stays one.
- Half a row that has grown meanwhile is treated in the same way. One that stands there is waited
  for, for a second, then copied to `<name>.torn-<time>` and cut off.
- Of what was acknowledged the first row and the last 4 KiB are compared, if the time of the file is
  not that of our last look. After any change of theirs the append returns `Moved`.

After a failed sync the kernel may have dropped the pages and forgotten that they were dirty (the
"fsyncgate" of 2018): what was written since the last good sync is unknown, and a second sync that
succeeds proves nothing. So the file is cut back to `end`, and the log refuses rows until the file
has been opened again.
"""

import errno
import logging
import os
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from esource.errors import StorageError
from esource.event import default_id
from esource.log import (
    MARK_BYTES,
    Appended,
    Log,
    Moved,
    Replaced,
    Written,
    disk,
    erasures,
    mark,
    reading,
    settled,
)  # fmt: skip
from esource.log.beside import Beside
from esource.log.disk import FILE_MODE, FLAGS
from esource.log.index import Index
from esource.rows import tsv
from esource.rows.find import Wanted

logger = logging.getLogger(__name__)

TORN = "the last row had no end (a torn write)"
FAILED = "an append has failed"
GROWN_BYTES = 1 << 20  # by so many a file may have grown and still be appended to unasked
SHIFT_BYTES = 1 << 26  # of others' rows that are put behind ours, in memory
SETTLED_SECONDS = 1.0  # after which half a row that has not grown is torn
POLL_SECONDS = 0.01  # between looks at one that may grow


def _size_and_time(status: os.stat_result | None) -> tuple[int, int]:
    """Return what shows that a file was changed; (0, 0) if there is none."""
    return (status.st_size, status.st_mtime_ns) if status else (0, 0)


class _Tail(NamedTuple):
    """What an append has left behind `end`, until it is settled."""

    stop: int  # where its rows end
    written: int  # where those of others end that came meanwhile, and are behind them now
    theirs: bytes
    modified: int  # ns since 1970
    device: int


def devices(written: Iterable[Written]) -> set[int]:
    """Return the devices that rows were written to."""
    return {each.about.device for each in written if isinstance(each.about, _Tail)}


class FileLog:
    """The rows of one file, or of one that does not exist yet (see `esource.log.Log`).

    The file stays open until the last reference to the log is gone.
    """

    is_remote = False

    def __init__(
        self, path: Path, fsync: str = "always", reopen: Callable[[], Log] | None = None,
        is_closed: Callable[[int, bool], bool] = lambda end, is_changed: False,
        is_first: bool = True,
    ) -> None:  # fmt: skip
        """Open and repair the file, if there is one.

        With `always`, an append is on disk when it returns; with that and `interval`, so is
        everything that is in the file now. Raises `StorageError`.

        What `reopen` returns goes on once the file is another. `is_closed` is asked whether another
        program has begun the file that follows this one: at least if that begins where the rows
        end, or wherever that is if this one was changed. In a file that is not the `is_first` of
        its channel, a byte order mark is part of an id.
        """
        self.path = path
        self.name = path.name
        self._generation = ""
        self.start = self.begin = self.end = 0
        self.modified = 0.0
        self.refusal = ""
        self._fsync = fsync
        self._reopen = reopen or (lambda: FileLog(path, fsync))
        self._is_closed = is_closed
        self._is_first = is_first
        self._index = Index(Beside(path))
        self._fd = -1
        self._identity = (0, 0)
        self._seen = (0, 0)  # size and time of the file, when it was last looked at or written
        self._mark = 0  # of the rows before `end`
        self._told: int | None = None  # where whole rows ended, if the last append was told that
        self._half = (0, 0.0)  # the size of a file that ends with half a row, and since when
        self._is_read_only = False
        self._is_held = False  # somebody appends or refreshes
        self._is_locked = False
        self._is_busy = False  # what is there now is being appended, or taken in
        self._leftover: int | None = None  # from where on there may be bytes of a failed append
        self._folder_is_synced = False
        try:
            self._erasures = erasures.mark(path)
            self._open()
        except OSError as error:
            raise disk.storage_error("open", path, error) from error

    @property
    def generation(self) -> str:
        """What tells the file from others of its name, and from itself before an erasure."""
        return self._generation and self._generation + self._erasures

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
        status = self._adopt(fd)
        size = status.st_size
        end = disk.whole_rows(fd, 0, size)
        if end < size and self._has_settled(status) and not self._is_read_only:
            try:
                self._cut(end, size, TORN)
            except OSError as error:  # a full disk: what is whole can still be read
                self.refusal = f"{self.name} needs repair: {error.strerror}"
                logger.critical("%s", self.refusal)
        if self._fsync != "never" and not (self._is_read_only or self.refusal):
            self._sync()
        self.begin = len(tsv.BOM) if self._is_marked(end) else 0
        self._move_end(end, status.st_mtime)
        self._seen = _size_and_time(os.fstat(fd))

    def _adopt(self, fd: int) -> os.stat_result:
        weakref.finalize(self, os.close, fd)
        self._fd = fd
        status = os.fstat(fd)
        self._identity = status.st_dev, status.st_ino
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return status

    def _move_end(self, end: int, modified: float) -> None:
        """Show rows to readers; not if they cannot be read: raises `StorageError`."""
        end_mark, generation = mark(self, end), self._generation or self._generation_of(end)
        self._told = None
        self.end, self.modified, self._mark, self._generation = end, modified, end_mark, generation

    def _is_marked(self, end: int) -> bool:
        """Return whether there are rows before an offset, behind a byte order mark."""
        return self._is_first and end > 0 and self.pread(0, len(tsv.BOM)) == tsv.BOM

    def _generation_of(self, end: int) -> str:
        """Return what tells this file from others: an inode comes back, and a row may, too."""
        if not end:
            return ""
        return disk.generation(self._fd, self.pread(0, min(end, MARK_BYTES)))

    def _has_settled(self, status: os.stat_result) -> bool:
        """Whether half a row at the end of the file has not grown for a second."""
        now = time.monotonic()
        if self._half[0] != status.st_size:
            age = min(max(time.time() - status.st_mtime, 0.0), 2 * SETTLED_SECONDS)
            self._half = status.st_size, now - age
        return now - self._half[1] >= SETTLED_SECONDS

    def _cut(self, end: int, size: int, why: str) -> bool:
        """Cut off what follows an offset, after saving it, unless more has come meanwhile."""
        saved = disk.save_aside(self._fd, end, size, self.path)
        if os.fstat(self._fd).st_size != size:
            saved.unlink()
            return False
        os.ftruncate(self._fd, end)
        os.fsync(self._fd)
        self._half = 0, 0.0
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
        written = self.write(expected, blocks, least)
        return settled(self, written) if isinstance(written, Written) else written

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        """Do what comes before the sync; with `Written`, the log is held until `settle`."""
        self._hold()
        self._is_busy = True
        written: Written | Appended | Moved | None = None
        try:
            if not self._lock(disk.LOCK_SECONDS):
                raise self._locked_away()
            written = self._write(expected, blocks, least)
            return written
        except OSError as error:
            raise disk.storage_error("write", self.path, error) from error
        finally:
            if not isinstance(written, Written):
                self._let_go()

    def write_soon(self, blocks: Sequence[bytes]) -> Written | None:
        """Write rows if the file is as it was left, whole; else None, and `write` finds out why."""
        if self.refusal or self._is_read_only:
            return None
        self._hold()
        self._is_busy = True
        written: Written | Moved | None = None
        try:
            if self._lock() and self.is_whole():
                written = self._append_at(self.end, blocks)
            return written if isinstance(written, Written) else None
        except OSError as error:
            raise disk.storage_error("write", self.path, error) from error
        finally:
            if not isinstance(written, Written):
                self._let_go()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep appends and commands away meanwhile. Blocks; raises `StorageError`."""
        self._hold()
        try:
            if not self._lock(disk.LOCK_SECONDS):
                raise self._locked_away()
            yield
        finally:
            self._let_go()

    def is_whole(self) -> bool:
        """Return whether the file is as it was left, in order, and nothing is behind its rows."""
        return not self.refusal and self._is_as_left() and self._seen[0] == self.end

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self._fd >= 0

    def _hold(self) -> None:
        assert not self._is_held, "one party at a time may append or refresh"
        self._is_held = True

    def _let_go(self) -> None:
        if self._is_locked and self._fd >= 0:
            disk.unlock(self._fd)
        self._is_held = self._is_busy = self._is_locked = False

    def _lock(self, seconds: float = 0.0) -> bool:
        """Keep away the commands that close a file, with its `flock`; return whether it is done.

        It is there until the append is settled. Another program's is waited for so many seconds.
        """
        self._is_locked = self._fd < 0 or disk.lock(self._fd, seconds)
        return self._is_locked

    def _write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes
    ) -> Written | Appended | Moved:
        if self.refusal or self._is_read_only:
            self._mend()
        status, why = self._look()
        if why:
            return Moved(why, None)
        size = _size_and_time(status)[0]
        told, self._told = self._told, None
        if expected is not None and expected == told and size - told <= SHIFT_BYTES:
            end = told
        else:
            end = disk.whole_rows(self._fd, self.end, size)
            if why := self._missed(end, expected, least):
                self._told = end if end > self.end else None
                return Moved(why, end)
        if not blocks:
            return Appended(end, 0.0, is_due=False)
        whole, before = disk.whole_rows(self._fd, end, size), self._half[0]
        if status is None or whole == size:
            self._half = 0, 0.0
        elif self._has_settled(status):
            if not self._cut(whole, size, TORN):
                return Moved(f"{self.name} is being written to", None, POLL_SECONDS)
        elif before in (0, size):  # it has not grown yet: nobody may be writing to it
            return Moved(f"{self.name} ends with half a row", None, POLL_SECONDS)
        return self._append_at(end, blocks)

    def _missed(self, end: int, expected: int | None, least: bytes) -> str:
        """Return why rows may not be appended at `end`, because of those that came before it."""
        if expected not in (None, end):
            return f"{self.name} is {end} bytes long, not {expected}"
        if not least or end == self.end:
            return ""
        if end - self.end > GROWN_BYTES:
            return f"{self.name} has grown by {end - self.end} bytes"
        newest = tsv.newest_micros(self.pread(self.end, end - self.end))
        is_passed = newest is not None and default_id(newest) >= least
        return f"{self.name} has grown by rows of a later time" if is_passed else ""

    def _append_at(self, end: int, blocks: Sequence[bytes]) -> Written | Moved:
        """Put rows at `end`, where whole rows end, and what others have behind that behind them."""
        try:
            if self._fd < 0 and not self._create():
                return Moved(f"{self.name} is locked by another program", None)
        except FileExistsError:
            return Moved(f"{self.name} was created", None)
        self._leftover = end
        written, theirs = end, b""
        try:
            for block in blocks:
                view = memoryview(block)
                while view:  # a disk that fills up writes short first, then fails
                    count = os.write(self._fd, view)
                    # With O_APPEND the kernel leaves the file's position after what it wrote.
                    stop = os.lseek(self._fd, 0, os.SEEK_CUR)
                    if between := stop - count - written:
                        theirs += os.pread(self._fd, between, written)
                    written, view = max(stop, written), view[count:]
            stop = end + sum(map(len, blocks))
            if written - stop != len(theirs):
                self.refusal = f"{self.name} was changed by another program at the same time"
                raise StorageError(self.refusal)
            if theirs:
                disk.overwrite(self._fd, end, b"".join([*blocks, theirs]))
            status = os.fstat(self._fd)
        except OSError as error:
            self._cut_back(end, written, theirs, error)
            raise
        if not status.st_nlink:
            return Moved(f"{self.name} was removed", None)
        about = _Tail(stop, written, theirs, status.st_mtime_ns, status.st_dev)
        return Written(end, self._fsync == "always", about)

    def settle(
        self, written: Written, seconds: float, failure: Exception | None = None
    ) -> Appended:
        """Show the rows, which are synced as far as they have to be; or take them away.

        They are read first, after the sync: of a file system that was shut down meanwhile, since
        its device is gone, ext4's `syncfs` says nothing before Linux 6.13; a read fails.
        """
        tail = written.about
        assert isinstance(tail, _Tail)
        try:
            if not failure:
                try:
                    # The time is not that of the write, which is before it was shown.
                    self._move_end(tail.stop, time.time())
                except StorageError as error:
                    failure = error
            if failure:
                refused = self._unsynced(failure)
                self._cut_back(written.start, tail.written, tail.theirs, failure)
                raise refused from failure
            self._folder_is_synced |= written.to_sync
            self._leftover = None
            self._seen = tail.stop, tail.modified
            is_whole = tail.theirs[-1:] in (b"", b"\n")
            self._half = (0, 0.0) if is_whole else (tail.written, time.monotonic())
            return Appended(written.start, seconds, is_due=self._fsync == "interval")
        finally:
            self._let_go()

    def _create(self) -> bool:
        """Make the file; return whether it is locked: a command may have been faster."""
        self._adopt(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, FILE_MODE))
        return self._lock()  # not waited for: that is for the next try, in a thread

    def _cut_back(self, end: int, written: int, theirs: bytes, cause: BaseException | None) -> None:
        """Take away what an append has left between two offsets, unless others are there, too."""
        try:
            size = os.fstat(self._fd).st_size
            if theirs or end < written < size:
                raise OSError(errno.EBUSY, "others have written there, too")
            if end < size <= written:  # never make it longer, with zeros
                os.ftruncate(self._fd, end)
            self._leftover = None
        except OSError as error:
            # An unfinished row stands in the file. Mending it saves that aside.
            self.refusal = f"{self.name} holds an unfinished write: {error.strerror}"
            logger.critical("%s (after: %s)", self.refusal, cause)

    def sync(self) -> float:
        """Put everything written on disk, the file's name included; return how long it took."""
        began = time.monotonic()
        self._sync()
        return time.monotonic() - began

    def flush(self) -> float:
        """Put everything written on disk; return how long it took. A failure is a `refusal`."""
        if self._fd < 0 or self._fsync == "never":
            return 0.0
        return self.flush_always()

    def flush_always(self) -> float:
        """Do the same whatever the policy, of a file that exists."""
        try:
            return self.sync()
        except OSError as error:
            raise self._unsynced(error) from error

    def _locked_away(self) -> StorageError:
        return StorageError(f"{self.name} is locked by another program (flock)")

    def _unsynced(self, error: Exception) -> StorageError:
        why = getattr(error, "strerror", None) or repr(error)
        self.refusal = f"{self.name} could not be synced: {why}"
        logger.critical("%s; no more writes until it is opened again", self.refusal)
        return StorageError(self.refusal)

    def _mend(self) -> None:
        """After a fault, open the file again, and save aside and cut off what an append has left.

        That was never acknowledged. Raises `StorageError` if the file is still read-only, and
        `OSError`. If another file has the name now, or follows this one, nothing is done: that is
        found next.
        """
        if self._is_closed(self.end, True):  # then what was left counts
            return
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
            if not self._lock():  # the old one was
                raise self._locked_away()
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

    def _look(self) -> tuple[os.stat_result | None, str]:
        """Return what there is of the file, and how it is not the one whose rows these are."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            if self._fd >= 0:
                return None, f"{self.name} was removed"
            return None, f"{self.name} is elsewhere" if self._is_closed(0, False) else ""
        why = ""
        if (status.st_dev, status.st_ino) != self._identity:
            why = f"{self.name} was {'replaced' if self._fd >= 0 else 'created'}"
        elif status.st_size < self.end:
            why = f"{self.name} is {status.st_size} bytes long, not {self.end}"
        elif _size_and_time(status) != self._seen and (
            (mark(self, self.end), self._generation_of(self.end)) != (self._mark, self._generation)
        ):
            why = f"{self.name} was changed in place"
        elif self._is_closed(self.end, _size_and_time(status) != self._seen):
            why = f"{self.name} was closed by a command"
        elif not self.end and self._is_marked(disk.whole_rows(self._fd, 0, status.st_size)):
            why = f"{self.name} begins with a byte order mark"
        return status, why

    def is_current(self) -> bool:
        """Whether nobody else has changed the file since it was last looked at. One `stat`."""
        try:
            return self._is_as_left() or self._is_busy
        except OSError as error:
            raise disk.storage_error("look at", self.path, error) from error

    def _is_as_left(self) -> bool:
        """Return whether the file is as it was last looked at or written. Raises `OSError`."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return self._fd < 0 and not self._is_closed(0, False)
        is_this = (status.st_dev, status.st_ino) == self._identity
        is_same = is_this and _size_and_time(status) == self._seen
        return is_same and not self._is_closed(self.end, False)

    def refresh(self) -> Replaced | None:
        """Take in whole rows that others have appended, or open the file that has the name now.

        What follows the last whole row is left alone: its writer may be in the middle of it. After
        an append has failed nothing is taken in: what is behind `end` may be of that one. The rows
        are on disk where appends are.
        """
        self._hold()
        try:
            status, why = self._look()
            if why:
                return self._next(why)
            seen = _size_and_time(status)
            end = self.end if self.refusal else disk.whole_rows(self._fd, self.end, seen[0])
            if end > self.end:
                self._is_busy = True
                if self._fsync == "always" and not self._is_read_only:
                    self.flush()
                self._move_end(end, time.time())
            self._seen = seen
        except OSError as error:
            raise disk.storage_error("read", self.path, error) from error
        finally:
            self._let_go()
        return None

    def _next(self, why: str) -> Replaced:
        """Open the file that has the name now, and take in the last rows of this one."""
        new = self._reopen()
        if self._fd >= 0 and not (self.refusal or self._is_closed(self.end, True)):
            with suppress(StorageError):  # logged there; the rows are no longer of this name
                self.flush()
            end = disk.whole_rows(self._fd, self.end, os.fstat(self._fd).st_size)
            if self.end or not self._is_marked(end):  # else they are for the next one alone
                self._move_end(end, self.modified)
        return Replaced(new, why)

    def tend(self, now: float, may_remove: bool) -> str:
        """Do nothing: a file without a rule only grows."""
        return ""

    # -- reading -------------------------------------------------------------------------

    def generation_at(self, offset: int) -> str:
        """Return what tells this file from others of its name."""
        return self._generation

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        """Return whole rows from `offset`, where a row begins, none of them at or after `stop`."""
        return reading.read(self, offset, limit, stop)

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
        return reading.backwards(self, stop)

    def status(self) -> os.stat_result | None:
        """Return what the system says of the file; None if there is none."""
        return os.fstat(self._fd) if self.exists else None

    def places(
        self, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each part between two offsets that can have it, in order."""
        return self._index.places(self, wanted, start, stop, is_backwards)

    def learn(self, stop: int) -> Iterator[None]:
        """Learn where in the rows up to an offset something can be."""
        return self._index.learn(self, stop)

    def sendfile(self, socket_fd: int, offset: int, size: int) -> int:
        """Send up to `size` bytes at `offset` to a non-blocking socket; return how many went."""
        return os.sendfile(socket_fd, self._fd, offset, size)
