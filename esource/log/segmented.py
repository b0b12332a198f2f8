"""A log in several files: closed ones, which never change, and the one that grows.

    |-- closed ----|-- closed ----|-- growing --|
    begin                                      end

What there is of the log is one value, `_Files`, replaced in one assignment; the growing file is a
`FileLog`, whose offsets are its own, and everything that is said of that holds.

Closing, before the append that would overflow a segment: all of the file is synced, whatever
`ESOURCE_FSYNC` says; the next one is made, and its name synced; then it is the growing one. So at
each moment the files on disk are a history, and the old file goes on if anything fails. Commands
close and remove files beside this process: while they close one they hold its `flock`, which an
append holds, too; what they have done is seen by the next append, or at the next `tend`.
"""

import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from esource.errors import StorageError
from esource.log import (
    Appended,
    Log,
    Moved,
    Replaced,
    Written,
    disk,
    erasures,
    reading,
    segments,
    settled,
)  # fmt: skip
from esource.log.beside import ClosedIndex, Heads
from esource.log.file import SETTLED_SECONDS, FileLog
from esource.log.segments import ClosedRows, Move, Segment
from esource.rows.find import Wanted
from esource.rules import Rule

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0  # after a file could not be closed
LATE_BYTES = 1 << 24  # of late rows, that are moved at a time


class _Files(NamedTuple):
    """What a log consists of."""

    closed: tuple[Segment, ...]  # in order, each where the one before ends
    growing: FileLog
    base: int  # the offset of the growing file


class SegmentedLog:
    """The rows of a channel that has a rule, or had one (see `esource.log.Log`)."""

    is_remote = False

    def __init__(
        self, folder: Path, channel: str, fsync: str, rule: Rule | None, starts: Sequence[int],
        reopen: Callable[[], Log], on_begun: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Open the files that begin at `starts`; none: the first append makes the first.

        Raises `StorageError`. What `reopen` returns goes on once the files are others. `on_begun`
        is told of each offset at which a file begins from now on.
        """
        self.name = segments.plain_path(folder, channel).name
        self._folder = folder
        self._channel = channel
        self._fsync = fsync
        self._rule = rule
        self._reopen = reopen
        self._on_begun = on_begun
        self._heads = Heads(segments.plain_path(folder, channel))
        self._indexes: dict[Segment, ClosedIndex] = {}
        self._not_before = 0.0  # by the monotonic clock: the next try to close the file
        self._has_others = False  # there are files that are not of this log
        self._hole = 0  # up to where a reader has found rows to be gone, since the last look
        try:
            self._erasures = erasures.mark(segments.plain_path(folder, channel))
            self._files = self._opened(list(starts))
            self._link()
        except OSError as error:
            raise StorageError(f"cannot open {self.name}: {error.strerror or error}") from error

    # -- what there is ---------------------------------------------------------------------

    def _opened(self, starts: list[int]) -> _Files:
        base = starts[-1] if starts else 0
        growing = self._grow(base)
        closed, _ = segments.run(self._folder, self._channel, starts)
        return _Files(closed, growing, base)

    def _grow(self, base: int) -> FileLog:
        path = segments.path_of(self._folder, self._channel, base)
        is_closed = partial(self._is_closed, base)
        return FileLog(path, self._fsync, self._reopen, is_closed, is_first=not base)

    @property
    def generation(self) -> str:
        """What tells the files that hold rows from others, and themselves before an erasure."""
        files = self._files
        closed = [segment for segment in files.closed if segment.size]
        newest = files.growing.generation or (_generation(closed.pop()) if closed else "")
        if closed:
            all_of = [*(segment.identity for segment in closed), newest]
            newest = blake2b(" ".join(all_of).encode(), digest_size=6).hexdigest()
        return newest and newest + self._erasures

    def generation_at(self, offset: int) -> str:
        """Return what tells the file from others that holds the byte before an offset."""
        files = self._files
        segment = _at(files, max(offset - 1, self.start))
        return _generation(segment) if segment else files.growing.generation

    @property
    def start(self) -> int:
        """The offset of the first byte that is kept."""
        files = self._files
        return max(files.closed[0].offset if files.closed else files.base, self._hole)

    @property
    def begin(self) -> int:
        """The offset of the first row that is kept, behind a byte order mark."""
        files = self._files
        first = files.closed[0] if files.closed else None
        begin = first.offset + first.mark_bytes if first else files.base + files.growing.begin
        return max(begin, self._hole)

    @property
    def end(self) -> int:
        """The offset after the last row."""
        files = self._files
        return files.base + files.growing.end

    @property
    def refusal(self) -> str:
        """Why appends fail now."""
        return self._files.growing.refusal

    @property
    def modified(self) -> float:
        """When `end` has moved last, in seconds since 1970."""
        files = self._files
        last = files.closed[-1].modified if files.closed else 0.0
        return files.growing.modified if files.growing.end else last

    # -- appending -------------------------------------------------------------------------

    def append(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b""
    ) -> Appended | Moved:
        """Append blocks of whole rows: all or none."""
        written = self.write(expected, blocks, least)
        return settled(self, written) if isinstance(written, Written) else written

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        """Do what comes before the sync; close the growing file first, if it is time to."""
        if self._have_come():
            return Moved(f"{self.name} is there", None)
        if self._overflows(sum(map(len, blocks))):
            self._close()
        files = self._files
        existed = files.growing.exists
        written = files.growing.write(
            None if expected is None else expected - files.base, blocks, least
        )
        self._note_begun(existed)
        if isinstance(written, Moved):
            end = written.end
            return written._replace(end=None if end is None else end + files.base)
        return written._replace(start=written.start + files.base)

    def write_soon(self, blocks: Sequence[bytes]) -> Written | None:
        """Write rows at the end, if nothing else is to be done."""
        files = self._files
        if self._overflows(sum(map(len, blocks))) or self._have_come():
            return None
        existed = files.growing.exists
        written = files.growing.write_soon(blocks)
        self._note_begun(existed)
        return written and written._replace(start=written.start + files.base)

    def _note_begun(self, existed: bool) -> None:
        """After an append that may have made the first file."""
        if not existed and self._files.growing.exists:
            self._on_begun(self._files.base)
            self._link()

    def sync(self) -> float:
        """Put what was written on disk; return how many seconds it took."""
        return self._files.growing.sync()

    def settle(
        self, written: Written, seconds: float, failure: Exception | None = None
    ) -> Appended:
        """Make rows the log's own, or take them away."""
        files = self._files
        start = written.start - files.base
        appended = files.growing.settle(written._replace(start=start), seconds, failure)
        return appended._replace(start=written.start)

    def flush(self) -> float:
        """Put all rows on disk; return how many seconds it took."""
        return self._files.growing.flush()

    def _overflows(self, size: int) -> bool:
        """Return whether so many bytes more are too many for the growing file."""
        end = self._files.growing.end
        return bool(self._rule and end and end + size > self._rule.segment)

    # -- closing ---------------------------------------------------------------------------

    def _close(self) -> None:
        """Let the next file be the growing one; if that cannot be, the old one goes on.

        Not while rows of others, or half of one, are behind those that were taken in.
        """
        if time.monotonic() < self._not_before:
            return
        files = self._files
        try:
            with files.growing.held():
                if files.growing.is_whole():
                    self._close_held(files)
        except (OSError, StorageError) as error:
            self._not_before = time.monotonic() + RETRY_SECONDS
            logger.error("%s: its file cannot be closed, and goes on: %s", self.name, error)

    def _close_held(self, files: _Files) -> None:
        old = files.growing
        base = files.base + old.end
        old.flush_always()
        segments.begin_at(self._folder, self._channel, base)
        try:
            growing, status = self._grow(base), os.stat(old.path)
        except BaseException:
            segments.path_of(self._folder, self._channel, base).unlink()
            raise
        closed = segments.segment_of(old.path, files.base, old.end, status, old.begin)
        self._files = _Files((*files.closed, closed), growing, base)
        self._on_begun(base)
        logger.info("%s: closed %s", self.name, old.path.name)
        self._link()

    def _link(self) -> None:
        files = self._files
        if files.growing.exists:
            try:
                segments.link(self._folder, self._channel, files.base)
            except OSError as error:  # it is for people: a publisher can do without
                logger.error("cannot link %s: %s", self.name, error.strerror)

    # -- what others do --------------------------------------------------------------------

    def _is_closed(self, base: int, end: int, is_changed: bool) -> bool:
        """Return whether a command has closed the growing file, which began at `base`."""
        if end and segments.is_file(segments.path_of(self._folder, self._channel, base + end)):
            return True
        return is_changed and any(start > base for start in self._starts())

    def _starts(self) -> list[int]:
        return segments.offsets(self._folder, self._channel).get(self._channel, [])

    def is_current(self) -> bool:
        """Whether the log is as it was last looked at or appended to."""
        is_same = self._files.growing.is_current() and not self._have_come()
        return is_same and not (self._hole or self._has_others) and self._has_first()

    def _has_first(self) -> bool:
        """Return whether the oldest file is there: `rm` takes that first."""
        files = self._files
        return not files.closed or segments.is_file(files.closed[0].path)

    def _have_come(self) -> bool:
        """Return whether there is a sign of files, if there were none."""
        there_are = self._files.growing.exists
        return not there_are and segments.are_there(self._folder, self._channel)

    def refresh(self) -> Replaced | None:
        """Take in what others have appended, closed, and removed; or return the next log."""
        return self._files.growing.refresh() if self.is_current() else self._look()

    def _look(self) -> Replaced | None:
        """See which files there are, and go on with them; or return the next log."""
        is_other = False
        try:
            files, starts, self._hole = self._files, self._starts(), 0
            if starts and starts[-1] == files.base:
                closed, _ = segments.run(self._folder, self._channel, starts)
                self._files = files._replace(closed=closed)
            elif files.base in starts:
                is_other = not self._goes_on(starts)
            else:
                is_other = not files.growing.exists and (bool(starts) or self._have_come())
            self._has_others = is_other
            if is_other:
                return Replaced(self._reopen(), f"{self.name} has other files now")
        except OSError as error:
            raise disk.storage_error("look at", self._files.growing.path, error) from error
        return self._files.growing.refresh()

    def _goes_on(self, starts: list[int]) -> bool:
        """If a command has closed the growing file, go on with those that follow it."""
        files, new = self._files, self._opened(starts)
        same = [each for each in new.closed if each.offset == files.base]
        if not same or (files.growing.end and _generation(same[0]) != files.growing.generation):
            return False  # it is another file, or one that is not whole
        self._files = new
        self._link()
        return True

    # -- years -----------------------------------------------------------------------------

    def tend(self, now: float, may_remove: bool) -> str:
        """Do what time asks for: see which files there are, close, move late rows, and remove.

        `now` is in seconds since 1970. Return what was removed, for a person. The caller holds the
        log, as for an append. Raises `StorageError`.
        """
        if self._look():
            return ""  # the next refresh looks, too, and hands the next log out
        try:
            self._take_late()
            self._link()
            if self._is_old(now) or self._overflows(1):
                self._close()
            return self._trim(now) if may_remove else ""
        except OSError as error:
            raise StorageError(f"cannot tend {self.name}: {error.strerror or error}") from error

    def _is_old(self, now: float) -> bool:
        """Return whether the first event of the growing file is old enough to close that."""
        files, age = self._files, self._rule and self._rule.segment_age
        if not age or not files.growing.end:
            return False
        closed = files.closed[-1].modified if files.closed else 0.0
        return now - segments.oldest(files.growing.path, files.growing.begin, closed) >= age

    def _take_late(self) -> None:
        """Move rows that were written into a closed file to the end of the log."""
        late = [segment for segment in self._files.closed if segment.late]
        for segment in late:
            self._move_late(segment)
        if late:
            self._look()

    def _move_late(self, segment: Segment) -> None:
        """Move whole rows; half a row that has not grown since the last look is saved aside."""
        with segments.held(segment) as fd:
            start = self._moved(segment, fd)
            status = os.fstat(fd)
            end = disk.whole_rows(fd, start, min(status.st_size, start + LATE_BYTES))
            if end == start:  # a row may be longer
                end = disk.whole_rows(fd, start, status.st_size)
            if end > start:
                move = Move(start, end, self.end)
                segments.note(segment, move)
                rows = os.pread(fd, end - start, start)
                if not isinstance(self.append(move.offset, [rows]), Appended):
                    return  # at the next look
                self.sync()
                logger.warning(
                    "%s: %d bytes were written into it after it was closed; they are at the end of "
                    "%s now", segment.path.name, len(rows), self.name,
                )  # fmt: skip
            elif status.st_size > end and time.time() - status.st_mtime > SETTLED_SECONDS:
                disk.save_aside(fd, end, status.st_size, segment.path)
                end = status.st_size
            if os.fstat(fd).st_size == end:
                os.ftruncate(fd, segment.size)
                os.fsync(fd)
                segments.forget(segment)

    def _moved(self, segment: Segment, fd: int) -> int:
        """Return up to where rows behind a closed file have been moved, in that file."""
        move = segments.noted(segment)
        if not move:
            return segment.size
        size = move.stop - move.start
        are_there = self.pread(move.offset, size) == os.pread(fd, size, move.start)
        return move.stop if are_there else move.start  # there was a crash in between

    def _trim(self, now: float) -> str:
        """Remove what the rule need not keep, the oldest first; return what, for a person."""
        gone = segments.removable(self._files.closed, self.end, self._rule, now)
        for segment in gone:
            files = self._files
            self._files = files._replace(closed=files.closed[1:])  # first of all: reads go on
            segments.remove(segment.path)
        size = sum(segment.size for segment in gone)
        return f"{len(gone)} files, {size} bytes" if gone else ""

    # -- reading ---------------------------------------------------------------------------

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        """Return whole rows from `offset`, where a row begins, none of them at or after `stop`."""
        return reading.read(self, offset, limit, stop)

    def backwards(self, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, whole rows), the last before `stop`, where a row begins, first."""
        return reading.backwards(self, stop)

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`; fewer where files have been removed."""
        files, pieces = self._files, []
        while size > 0:
            segment = _at(files, offset)
            if segment is None:
                if offset >= files.base:
                    pieces.append(files.growing.pread(offset - files.base, size))
                break
            piece = self._pread(segment, offset - segment.offset, size)
            if not piece:
                self._hole = max(self._hole, segment.end)
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pread(self, segment: Segment, offset: int, size: int) -> bytes:
        try:
            with segments.reading(segment) as fd:
                _generation(segment)  # so that places in it are named without a wait
                return os.pread(fd, min(size, segment.size - offset), offset) if fd >= 0 else b""
        except OSError as error:
            raise disk.storage_error("read", segment.path, error) from error

    def places(
        self, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each part between two offsets that can have it, in order."""
        files = self._files
        parts = [*files.closed, None]
        for segment in reversed(parts) if is_backwards else parts:
            base, end = (segment.offset, segment.end) if segment else (files.base, stop)
            first, last = max(start, base), min(stop, end)
            if first >= last:
                continue
            inside = wanted, first - base, last - base, is_backwards
            if segment:
                some = self._index_of(segment).places(ClosedRows(segment), *inside)
            else:
                some = files.growing.places(*inside)
            yield from ((base + offset, base + part_end) for offset, part_end in some)
            yield (first, first) if is_backwards else (last, last)

    def learn(self, stop: int) -> Iterator[None]:
        """Learn where in the rows something can be, the newest first."""
        done: set[Segment] = set()
        while True:
            files = self._files
            yield from files.growing.learn(files.growing.end)
            left = [segment for segment in files.closed if segment not in done]
            if not left:
                break
            segment = left[-1]
            yield from self._index_of(segment).learn(ClosedRows(segment), segment.size)
            done.add(segment)
            yield
        self._indexes = {each: self._index_of(each) for each in self._files.closed}
        yield from self._heads.keep([segment.path for segment in self._indexes])

    def _index_of(self, segment: Segment) -> ClosedIndex:
        index = self._indexes.get(segment)
        if index is None:
            index = ClosedIndex(segment.path, segment.size, self._heads)
        return self._indexes.setdefault(segment, index)

    def sendfile(self, socket_fd: int, offset: int, size: int) -> int:
        """Send up to `size` bytes at `offset` to a non-blocking socket; return how many went."""
        files = self._files
        segment = _at(files, offset)
        if segment is None:
            if offset < files.base:
                return 0
            return files.growing.sendfile(socket_fd, offset - files.base, size)
        at = offset - segment.offset
        with segments.reading(segment) as fd:
            if fd >= 0:
                return os.sendfile(socket_fd, fd, at, min(size, segment.size - at))
        self._hole = max(self._hole, segment.end)
        return 0


def _generation(segment: Segment) -> str:
    """Return what tells a closed file from others; nothing if it is gone."""
    try:
        return segments.generation(segment)
    except OSError:
        return ""


def _at(files: _Files, offset: int) -> Segment | None:
    """Return the closed file that holds the byte at an offset, if one does."""
    place = bisect_right(files.closed, offset, key=attrgetter("offset")) - 1
    segment = files.closed[place] if place >= 0 else None
    return segment if segment and offset < segment.end else None
