"""The files of a folder: looked at, also beside a hub, and repaired while none is running.

What is looked for: a last row without its end, rows that are not events, default ids that do not
increase, ids that stand there twice; and of files that are one history, what is missing of it. None
of it stops a hub; all of it is worth knowing before a resume point is trusted.

`check` writes nothing and locks nothing. What a hub is in the middle of is looked at twice.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from esource.errors import StartError, StorageError
from esource.event import DEFAULT_ID
from esource.log import Moved, disk, erasures, reading, segments
from esource.log.beside import Beside, OpenRows
from esource.log.disk import FLAGS
from esource.log.file import SETTLED_SECONDS, FileLog
from esource.log.folder import channel_names
from esource.log.index import Index
from esource.rows import tsv

LOOK_SECONDS = 0.1  # until what looks wrong is looked at again


class Finding(NamedTuple):
    """Something wrong with a file; `line` counts from 1, and is 0 for the file, or the channel."""

    file: str
    line: int
    kind: str
    text: str


def channels(folder: Path) -> list[str]:
    """Return the names of the channels that have a file, in order. Raises `StartError`."""
    if not folder.is_dir():
        raise StartError(f"{folder} is not a folder")
    return sorted(channel_names(folder))


# -- check -----------------------------------------------------------------------------------


def check(
    folder: Path, channel: str, progress: Callable[[Path, int, int], None] = lambda *_: None,
    known: Mapping[str, list[int]] | None = None,
) -> Iterator[Finding]:  # fmt: skip
    """Yield what is wrong with a channel, the oldest file first.

    `progress` is told of each file how many bytes of how many have been read; `known` is as for
    `segments.files`. Reads block by block. Remembers the ids that are no default ids, and those
    alone.
    """
    yield from _history(folder, channel, segments.files(folder, channel, known))
    ids = Ids()
    for start, stop, path in segments.spans(folder, channel, known):
        size = None if stop is None else stop - start
        with suppress(FileNotFoundError):  # it was removed meanwhile, as the oldest are
            yield from _check(path, size, not start, ids, progress)


def _history(folder: Path, channel: str, files: list[tuple[int, Path]]) -> Iterator[Finding]:
    """Yield what is wrong with the files as parts of one history."""
    plain, before = segments.plain_path(folder, channel).name, None
    while (wrong := _wrong(folder, channel, files)) != before:
        if not wrong:
            return
        before = wrong
        time.sleep(LOOK_SECONDS)
        files = segments.files(folder, channel)
    for kind, text in wrong:
        yield Finding(plain, 0, kind, text)


def _wrong(folder: Path, channel: str, files: list[tuple[int, Path]]) -> list[tuple[str, str]]:
    """Return (kind, text) of all that is wrong with the history now."""
    wrong, plain = [], segments.plain_path(folder, channel)
    if files and files != [(0, plain)]:
        _, gap = segments.run(folder, channel, [start for start, _ in files])
        if gap:
            wrong.append(("gap", f"the history begins after a gap: {gap}"))
        target = files[-1][1].name
        if segments.is_file(plain):
            wrong.append(("link", "it is no link, and no part of its channel"))
        elif plain.is_symlink() and os.readlink(plain) != target:
            wrong.append(("link", f"it leads to {os.readlink(plain)}, not to {target}"))
    for each in erasures.pending(folder, channel):
        text = f"an erasure at byte {each.offset} was begun and is not done; start the hub"
        wrong.append(("erasure", text))
    return wrong


class Ids:
    """The ids of a channel, as far as they are to be remembered."""

    def __init__(self) -> None:
        """Begin with none."""
        self.newest = b""  # the greatest default id
        self.others: set[bytes] = set()

    def wrong_rows(self, file: str, line: int, rows: bytes) -> Iterator[Finding]:
        """Yield what is wrong with the next rows of a file, whole rows that begin at a line."""
        for number, row in enumerate(rows.split(b"\n")[:-1], line):
            if not tsv.is_event(row):
                yield Finding(file, number, "malformed", "not an event (fewer than two tabs)")
            elif wrong := self._wrong(tsv.id_of(row)):
                yield Finding(file, number, *wrong)

    def _wrong(self, id: bytes) -> tuple[str, str] | None:
        """Take the next id; return (kind, text) if something is wrong with it."""
        shown = id.decode(errors="replace")
        if DEFAULT_ID.fullmatch(id):
            newest, self.newest = self.newest, max(id, self.newest)
            if id == newest:
                return "repeated", f"the id {shown} is repeated"
            return ("order", f"the id {shown} is earlier than one before") if id < newest else None
        if id in self.others:
            return "repeated", f"the id {shown} is repeated"
        if id:
            self.others.add(id)
        return None


def _check(
    path: Path, size: int | None, is_first: bool, ids: Ids,
    progress: Callable[[Path, int, int], None],
) -> Iterator[Finding]:  # fmt: skip
    """Yield what is wrong with a file, of which `size` bytes count; None: all, and it may grow."""
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        there = os.fstat(fd).st_size
        stop = there if size is None else min(size, there)
        line, end = 1, 0
        for offset, rows in reading.stretches(fd, stop):
            is_begin = is_first and not offset
            yield from ids.wrong_rows(
                path.name, line, rows.removeprefix(tsv.BOM) if is_begin else rows
            )
            line += rows.count(b"\n")
            end = offset + len(rows)
            progress(path, end, stop)
        begin = tsv.mark_bytes(os.pread(fd, len(tsv.BOM), 0)) if is_first else 0
        for zone in Index(Beside(path, size)).changed(OpenRows(fd, begin)):
            text = f"MiB {zone.offset >> 20} (bytes {zone.offset} to {zone.end}) is not as it was"
            yield Finding(path.name, 0, "changed", f"{text} when it was indexed")
        if torn := stop - end if size is not None else _torn(fd, end):
            text = f"the last row has no end; {torn} bytes are torn"
            yield Finding(path.name, line, "torn", text)
        if size is not None and there > size:
            text = f"{there - size} bytes were written into it after it was closed"
            yield Finding(path.name, 0, "late", f"{text}; a hub moves whole rows to the end")
    finally:
        os.close(fd)


def _torn(fd: int, end: int) -> int:
    """Return how many bytes of half a row are at an offset; 0 once it has grown to a whole one."""
    seen = 0
    while (size := (status := os.fstat(fd)).st_size) > end:
        if disk.whole_rows(fd, end, size) > end:
            break
        if size == seen or time.time() - status.st_mtime >= SETTLED_SECONDS:
            return size - end
        seen = size
        time.sleep(SETTLED_SECONDS)
    return 0


# -- repair ----------------------------------------------------------------------------------


def repairable(folder: Path) -> list[Path]:
    """Return the files that a hub appends to, by name. Raises `StartError`."""
    known = segments.offsets(folder)
    return [segments.files(folder, channel, known)[-1][1] for channel in channels(folder)]


def repair(path: Path) -> Path | None:
    """Repair a file as the hub does before it appends; return the copy made of it before.

    None if there was nothing to repair. Waits a second if the file is being written to, so that no
    half of a row is cut off. Raises `StorageError`.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return None
        file.seek(size - 1)
        if file.read() == b"\n":
            return None
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    copy = path.with_name(f"{path.name}.before-repair-{stamp}")
    try:
        shutil.copy2(path, copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot copy {path.name} to {copy.name}: {error.strerror}") from None
    log = FileLog(path)
    while isinstance(moved := log.append(None, [b""]), Moved):  # nothing, behind whole rows
        if not moved.seconds:
            raise StorageError(moved.why)
        time.sleep(moved.seconds)
    return copy
