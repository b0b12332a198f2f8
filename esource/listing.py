"""The list of a folder's channels, a page at a time. Pure but for blocking `os` calls.

A folder may hold a hundred thousand files. Finding a page reads all of their names, which
the folder itself knows, but opens only those on the page, and of each reads no more than
its end:

    |--- rows, never read here ----------|-- at most TAIL_BYTES --|
    0                                                           size

What was cut off in the middle there, at the front, is not looked at, and what follows the
last LF is not an event yet.
"""

import heapq
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from esource import selection, tsv
from esource.hub import NAME
from esource.log import FLAGS

TAIL_BYTES = 1 << 16
PEEK_BYTES = 1 << 12  # which is enough for most rows


class Page(NamedTuple):
    """The names on one page, in order; how many there are on all; where the next one begins."""

    names: list[str]
    total: int
    next: str | None  # the last of these names, if more follow


class File(NamedTuple):
    """What a file says of a channel."""

    name: str
    size: int  # bytes up to the end of the last whole row, as far as can be seen
    newest_id: bytes  # empty if there is no event, or its row is longer than `TAIL_BYTES`
    modified: float  # seconds since 1970


def names(folder: Path) -> Iterator[str]:
    """Yield the names of all channels that have a file, in no order. Blocks."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name, _, suffix = entry.name.partition(".")
            if suffix == "tsv" and NAME.fullmatch(name) and entry.is_file(follow_symlinks=False):
                yield name


def page(names: Iterator[str], after: str, match: str, limit: int) -> Page:
    """Return the first `limit` names greater than `after` that contain `match`, in any case."""
    total = 0
    match = match.lower()

    def candidates() -> Iterator[str]:
        nonlocal total
        for name in names:
            if match in name.lower():
                total += 1
                if name > after:
                    yield name

    # Not `sorted`: of a hundred thousand names it holds the interpreter for tens of milliseconds.
    found = heapq.nsmallest(limit + 1, candidates())
    more = len(found) > limit
    return Page(found[:limit], total, found[limit - 1] if more else None)


def files(folder: Path, names: Collection[str], known: Collection[str]) -> list[File]:
    """Return what the files say; of those `known` only when they were modified. Blocks.

    Files that are gone meanwhile are left out.
    """
    found = []
    for name in names:
        path = folder / f"{name}.tsv"
        try:
            if name in known:
                found.append(File(name, 0, b"", os.lstat(path).st_mtime))
            else:
                found.append(_look(path, name))
        except OSError:
            continue
    return found


def _look(path: Path, name: str) -> File:
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        status = os.fstat(fd)
        size, newest_id = status.st_size, b""
        for peek in (PEEK_BYTES, TAIL_BYTES):
            start = max(status.st_size - peek, 0)
            rows = os.pread(fd, status.st_size - start, start)
            size = start + rows.rfind(b"\n") + 1
            # The first row may have begun before.
            first = rows.find(b"\n") + 1 if start else 0
            rows = rows[first : rows.rfind(b"\n") + 1]
            place, found = selection.last(rows, 1, frozenset())
            if found:
                newest_id = tsv.id_of(rows[place:])
            if found or not start:
                break
        return File(name, size, newest_id, status.st_mtime)
    finally:
        os.close(fd)
