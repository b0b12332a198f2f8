"""A log in memory: the contract in its plainest form, and the model that the tests hold others to.

Several logs of one name share its rows, as several processes share a file or an engine.
"""
# ruff: noqa: D102 -- what each call promises, the contract says

import os
import time
from collections.abc import Callable, Iterator, Sequence

from esource.errors import StorageError
from esource.event import default_id
from esource.log import Appended, Kept, Moved, Replaced, Summary, WithoutFiles, Written, settled
from esource.log.beside import Beside
from esource.log.index import Index
from esource.rows import tsv
from esource.rows.find import Wanted


class Rows:
    """The rows that have one name now: what a file or a database is for other logs."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.modified = 0.0


class MemoryLog:
    """The rows of one channel (see `esource.log.Log`)."""

    is_remote = False

    start = begin = 0
    refusal = ""

    def __init__(self, logs: "MemoryLogs", name: str) -> None:
        """Begin with what is there."""
        self.name = name
        self._logs = logs
        self._rows = logs.rows.setdefault(name, Rows())
        self.end = len(self._rows.content)
        self._is_busy = False
        self._index = Index(Beside(None))

    @property
    def generation(self) -> str:
        return f"{id(self._rows):x}" if self.end else ""

    def generation_at(self, offset: int) -> str:
        return self.generation

    def append(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b""
    ) -> Appended | Moved:
        written = self.write(expected, blocks, least)
        return settled(self, written) if isinstance(written, Written) else written

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        if self._logs.rows.get(self.name) is not self._rows:
            return Moved(f"{self.name} was replaced", None)
        start = len(self._rows.content)
        if expected is not None and expected != start:
            return Moved(f"{self.name} is {start} bytes long, not {expected}", start)
        newest = tsv.newest_micros(bytes(self._rows.content[self.end :]))
        if least and newest is not None and default_id(newest) >= least:
            return Moved(f"{self.name} has grown by rows of a later time", start)
        if not blocks:
            return Appended(start, 0.0, is_due=False)
        self._rows.content += b"".join(blocks)
        self._is_busy = True
        return Written(start, to_sync=False, about=len(self._rows.content))

    def write_soon(self, blocks: Sequence[bytes]) -> Written | None:
        written = self.write(self.end, blocks) if self.is_current() else None
        return written if isinstance(written, Written) else None

    def sync(self) -> float:
        return 0.0

    def settle(
        self, written: Written, seconds: float, failure: Exception | None = None
    ) -> Appended:
        assert isinstance(written.about, int)
        self._is_busy = False
        if failure:
            del self._rows.content[written.start : written.about]
            raise StorageError(f"{self.name} could not be synced: {failure}")
        self.end, self._rows.modified = written.about, time.time()
        return Appended(written.start, seconds, is_due=False)

    def is_current(self) -> bool:
        rows = self._logs.rows.get(self.name)
        return self._is_busy or (rows is self._rows and len(rows.content) == self.end)

    def refresh(self) -> Replaced | None:
        if self._logs.rows.get(self.name) is not self._rows:
            return Replaced(MemoryLog(self._logs, self.name), f"{self.name} was replaced")
        self.end = len(self._rows.content)
        return None

    def flush(self) -> float:
        return 0.0

    def tend(self, now: float, may_remove: bool) -> str:
        return ""

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        size = 0
        for row in self.pread(offset, stop - offset).split(b"\n")[:-1]:
            if size and size + len(row) + 1 > limit:
                break
            size += len(row) + 1
        return self.pread(offset, size)

    def pread(self, offset: int, size: int) -> bytes:
        return bytes(self._rows.content[offset : offset + size])

    def backwards(self, stop: int) -> Iterator[tuple[int, bytes]]:
        for row in reversed(self.pread(0, stop).split(b"\n")[:-1]):
            stop -= len(row) + 1
            yield stop, row + b"\n"

    def status(self) -> None:
        return None

    def places(
        self, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        return self._index.places(self, wanted, start, stop, is_backwards)

    def learn(self, stop: int) -> Iterator[None]:
        return self._index.learn(self, stop)

    def sendfile(self, socket_fd: int, offset: int, size: int) -> int:
        return os.write(socket_fd, self.pread(offset, size))

    @property
    def modified(self) -> float:
        return self._rows.modified


class MemoryLogs(WithoutFiles):
    """Logs in memory, by name (see `esource.log.Logs`)."""

    shared = None

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {}

    def place(self) -> str:
        return "memory"

    def hold(self, waiting: Callable[[], None]) -> None:
        pass

    def open(self, name: str) -> MemoryLog:
        return MemoryLog(self, name)

    def names(self) -> list[str]:
        return sorted(name for name, rows in self.rows.items() if rows.content)

    def summaries(self, names: Sequence[str]) -> list[Summary]:
        found = []
        for name in names:
            log = self.open(name)
            events = list(tsv.decode(log.pread(0, log.end)))
            newest_id = events[-1].id if events else b""
            found.append(Summary(name, log.end, newest_id, log.modified))
        return found

    def kept(self) -> Iterator[Kept]:
        for name in self.names():
            yield Kept(name, len(self.rows[name].content), self.rows[name].modified)

    def due(self, now: float) -> list[str]:
        return []

    def problems(self) -> list[str]:
        return []
