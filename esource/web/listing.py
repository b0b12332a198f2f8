"""The list of a folder's channels, a page at a time. Pure but for blocking `os` calls.

A folder may hold a hundred thousand files. Their names are read when the folder has
changed, and kept. Only those on a page are opened, and of each no more is read than its end:

    |--- rows, never read here ----------|-- at most TAIL_BYTES --|
    0                                                           size

What was cut off in the middle there, at the front, is not looked at, and what follows the
last LF is not an event yet.
"""

import heapq
import os
import time
from bisect import bisect_right
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from esource.hub.hub import channel_names
from esource.log.file import FLAGS
from esource.rows import tsv

SETTLED_NS = 2_000_000_000  # the coarsest clocks of file systems count in 2 s
RUN = 10_000  # names that are sorted at a time: two milliseconds
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


class Names:
    """The names of a folder's channels, in order.

    They are read again only once the folder has changed: somebody may look every second.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is read yet."""
        self._folder = folder
        self._read: tuple[int, list[str]] = (-1, [])  # when the folder was changed, and names

    def all(self) -> list[str]:
        """Return the names of all channels that have a file. Blocks; none without a folder."""
        try:
            changed = os.stat(self._folder).st_mtime_ns
            if changed != self._read[0]:
                names = _ordered(list(channel_names(self._folder)))
                # Within a tick of the file system's clock another file may still come unseen.
                settled = time.time_ns() - changed > SETTLED_NS
                self._read = (changed if settled else -1, names)
        except FileNotFoundError:
            return []
        return self._read[1]


def _ordered(names: list[str]) -> list[str]:
    """Return the names in order, and let the loop have the interpreter in between."""
    runs = [sorted(names[start : start + RUN]) for start in range(0, len(names), RUN)]
    return list(heapq.merge(*runs))


def page(names: list[str], after: str, match: str, limit: int) -> Page:
    """Return the first `limit` names greater than `after` that contain `match`, in any case.

    The names must be in order.
    """
    match = match.lower()
    matching = [name for name in names if match in name.lower()] if match else names
    start = bisect_right(matching, after)
    found = matching[start : start + limit]
    return Page(found, len(matching), found[-1] if start + limit < len(matching) else None)


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
            place, found = tsv.last(rows, 1, frozenset())
            if found:
                newest_id = tsv.id_of(rows[place:])
            if found or not start:
                break
        return File(name, size, newest_id, status.st_mtime)
    finally:
        os.close(fd)
