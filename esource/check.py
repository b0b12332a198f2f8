"""The files of a folder, looked at and repaired while no hub is running.

What is looked for: a last row without its end, rows that are not events, default ids that
do not increase, ids that stand there twice. None of it stops a hub; all of it is worth
knowing before a resume point is trusted.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from esource.errors import StartError, StorageError
from esource.event import DEFAULT_ID
from esource.log import Moved
from esource.log.file import FileLog
from esource.log.folder import Folder
from esource.log.lock import Lock
from esource.rows import tsv

BLOCK_BYTES = 1 << 20


class Finding(NamedTuple):
    """Something wrong with a file; `line` counts from 1."""

    file: str
    line: int
    kind: str
    text: str


def channel_files(folder: Path) -> list[Path]:
    """Return the files that a hub would open, by name. Raises `StartError`."""
    if not folder.is_dir():
        raise StartError(f"{folder} is not a folder")
    logs = Folder(folder)
    return [logs.path_of(name) for name in logs.names()]


def hold(folder: Path) -> list[Lock]:
    """Return the folder's locks, taken, as far as there are any. Raises `StartError`."""
    locks = [
        lock for lock in (Lock.of_server(folder), Lock.of_writer(folder)) if lock.path.exists()
    ]
    for lock in locks:
        if not lock.acquire():
            raise StartError(
                f"the folder {folder} is held by a hub ({lock.holder()}); stop that first"
            )
    return locks


def check(path: Path, progress: Callable[[int], None] = lambda size: None) -> Iterator[Finding]:
    """Yield what is wrong with a file; `progress` is told how many bytes have been read.

    Reads block by block. Remembers the ids that are no default ids, and those alone.
    """
    line = done = 0
    rest = newest = b""
    others: set[bytes] = set()

    def found(kind: str, text: str) -> Finding:
        return Finding(path.name, line, kind, text)

    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            rows = (rest + block).split(b"\n")
            rest = rows.pop()
            for row in rows:
                line += 1
                if line == 1:
                    row = row.removeprefix(tsv.BOM)
                if not tsv.is_event(row):
                    yield found("malformed", "not an event (fewer than two tabs)")
                    continue
                id = tsv.id_of(row)
                shown = id.decode(errors="replace")
                if DEFAULT_ID.fullmatch(id):
                    if id == newest:
                        yield found("repeated", f"the id {shown} is repeated")
                    elif id < newest:
                        yield found("order", f"the id {shown} is earlier than one before")
                    newest = max(id, newest)
                elif id in others:
                    yield found("repeated", f"the id {shown} is repeated")
                elif id:
                    others.add(id)
            done += len(block)
            progress(done)
    if rest:
        line += 1
        yield found("torn", f"the last row has no end; {len(rest)} bytes are torn")


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
