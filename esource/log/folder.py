"""A folder of plain files: which of them are channels, and what can be seen of them.

    <name>.tsv             a channel, if the name is one and it is a regular file
    <name>.<offset>.tsv    a part of one (see `segments`); nothing else is

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
from functools import partial
from pathlib import Path

from esource.errors import StorageError
from esource.log import Kept, Log, Summary, Written, erasures, history, segments
from esource.log.disk import FLAGS, storage_error
from esource.log.file import FileLog, devices
from esource.log.filesystem import FileSystem
from esource.log.lock import Lock
from esource.log.segmented import SegmentedLog
from esource.log.survey import Survey
from esource.rows import tsv
from esource.rules import Rule, rule_of

SETTLED_NS = 2_000_000_000  # the coarsest clocks of file systems count in 2 s
RUN = 10_000  # names that are sorted at a time: two milliseconds
TAIL_BYTES = 1 << 16
PEEK_BYTES = 1 << 12  # which is enough for most rows
PROBE_BYTES = 4096


def channel_of(entry: os.DirEntry[str]) -> str | None:
    """Return the name of the channel whose file this is; None for anything else in the folder."""
    parsed = segments.parse(entry.name)
    return parsed[0] if parsed and entry.is_file(follow_symlinks=False) else None


def channel_names(folder: Path) -> list[str]:
    """Return the names of all channels that have a file, in no order. Raises `OSError`."""
    with os.scandir(folder) as entries:
        return list({name for entry in entries if (name := channel_of(entry)) is not None})


class Folder:
    """The logs of a folder (see `esource.log.Logs`)."""

    shared = None  # one hub has it

    def __init__(self, path: Path, fsync: str = "always", rules: Sequence[Rule] = ()) -> None:
        """Name the folder; nothing is read, made or locked yet. `fsync` is as for `FileLog`.

        Channels for which there is a rule are kept in segments.
        """
        self.path = path
        self._fsync = fsync
        self._rules = rules
        self._starts: dict[str, list[int]] | None = None  # of segments, by channel; None: not known
        self._survey = Survey(path, rules)
        self._lock = Lock.of_writer(path)
        self._names: tuple[int, list[str]] = (-1, [])  # when the folder was changed, and names
        self._file_system = FileSystem(path)

    def place(self) -> str:
        """Return the path, and when rows are synced."""
        return f"{self.path.absolute()}, fsync {self._fsync}"

    def hold(self, waiting: Callable[[], None]) -> None:
        """Make the folder and become its one writer; wait for as long as another process is.

        What a command has begun there and not finished is finished.
        """
        self._lock.wait(waiting)
        erasures.finish(self.path)
        history.finish(self.path)

    def open(self, name: str) -> Log:
        """Return the log of a channel; its files are repaired if need be, and need not exist."""
        try:
            starts = self._known(name)
            rule = rule_of(self._rules, name)
            if rule and not starts and segments.adopt(self.path, name):
                starts = [0]
        except OSError as error:
            raise storage_error("open", segments.plain_path(self.path, name), error) from error
        plain = segments.plain_path(self.path, name)
        if starts and segments.is_file(plain):
            raise StorageError(f"{plain.name} and segments are both there; move one of them away")
        reopen = partial(self._reopened, name)
        if not (rule or starts or segments.linked(self.path, name)):
            return FileLog(plain, self._fsync, reopen, partial(self._is_closed, name))
        if starts:
            self._note(name, starts)
        on_begun = partial(self._begun, name)
        return SegmentedLog(self.path, name, self._fsync, rule, starts, reopen, on_begun)

    def _reopened(self, name: str) -> Log:
        self._note(name, self._look(name))
        return self.open(name)

    def _known(self, name: str) -> list[int]:
        """Return where the segments of a channel begin, in order; none if it is one file.

        They are looked for in the whole folder once, and then only if there is a sign that a
        command has changed them.
        """
        if self._starts is None:
            self._starts = segments.offsets(self.path)
        starts = self._starts.get(name, [])
        if segments.is_last(self.path, name, starts):
            return starts
        return self._look(name)

    def _look(self, name: str) -> list[int]:
        return segments.offsets(self.path, name).get(name, [])

    def _note(self, name: str, starts: list[int]) -> None:
        if self._starts is not None:
            self._starts[name] = starts

    def _begun(self, name: str, start: int) -> None:
        """Note that a file begins at an offset now."""
        if self._starts is not None:
            self._starts[name] = [*self._starts.get(name, []), start]

    def _is_closed(self, name: str, end: int, is_changed: bool) -> bool:
        """Return whether a channel that was one file, or none, is segments now."""
        are_known = not end and bool(self._starts and self._starts.get(name))
        return are_known or (is_changed and not segments.is_last(self.path, name, []))

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
                found.append(self._summary(name))
        return found

    def _summary(self, name: str) -> Summary:
        starts = self._known(name)
        if not starts:
            return _summary(segments.plain_path(self.path, name), name)
        for start in reversed(starts):  # the growing file may have no rows yet
            found = _summary(segments.path_of(self.path, name, start), name)
            if found.newest_id:
                break
        return found._replace(size=found.size + start, segments=len(starts))

    def kept(self) -> Iterator[Kept]:
        """Yield size and time of each file, of those that are not gone meanwhile."""
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                parsed = segments.parse(entry.name)
                if parsed and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        is_part = parsed[1] is not None
                        yield Kept(parsed[0], status.st_size, status.st_mtime, is_part)

    def due(self, now: float) -> list[str]:
        """Return the names of channels whose files are others than before, or too many, or old."""
        self._survey.look()
        found = {name: each.starts for name, each in self._survey.histories.items() if each.starts}
        known = found if self._starts is None else self._starts
        due = [name for name, starts in known.copy().items() if starts and name not in found]
        for name in self._survey.histories:
            with suppress(OSError):
                is_known = known.get(name, []) == found.get(name, known.get(name, []))
                if self._survey.needs(name, now) or not is_known:
                    due.append(name)
        self._starts = found
        return due

    def removable(self, now: float) -> tuple[int, int]:
        """Return how many segments, of how many bytes, the rules need not keep."""
        gone = self._survey.removable(now)
        return len(gone), sum(segment.size for segment in gone)

    def gaps(self) -> list[str]:
        """Return what was missing of histories at the last look."""
        return self._survey.gaps()

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
            first = rows.find(b"\n") + 1 if start else tsv.mark_bytes(rows)
            rows = rows[first : rows.rfind(b"\n") + 1]
            place, found = tsv.last(rows, 1)
            if found:
                newest_id = tsv.id_of(rows[place:])
            if found or not start:
                break
        return Summary(name, size, newest_id, status.st_mtime)
    finally:
        os.close(fd)
