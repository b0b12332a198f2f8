"""Whole rows out of bytes at offsets, forwards and backwards: of one file, or of several."""

import os
from collections.abc import Iterator
from typing import Protocol

from esource.log.disk import CHUNK

LAST_BYTES = 1 << 12  # of rows that are looked at first, from behind: mostly the last one is enough
BLOCK_BYTES = 1 << 20


class Bytes(Protocol):
    """Bytes at offsets, of which some are rows."""

    @property
    def begin(self) -> int:
        """The offset of the first row."""

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`."""


def read(log: Bytes, offset: int, limit: int, stop: int) -> bytes:
    """Return whole rows from `offset`, as `esource.log.Log.read`."""
    while True:
        size = min(limit, stop - offset)
        rows = log.pread(offset, size)
        whole = rows.rfind(b"\n") + 1
        if whole or len(rows) < size or size == stop - offset:
            return rows[:whole] if whole < len(rows) else rows
        limit *= 2  # one row is longer than the limit


def backwards(log: Bytes, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, whole rows), the last before `stop` first, as `esource.log.Log.backwards`."""
    size = LAST_BYTES
    while stop > log.begin:
        start = max(stop - size, log.begin)
        block = log.pread(start, stop - start)
        # The first row may have begun before the block: it belongs to the next one.
        cut = block.find(b"\n", 0, -1) + 1 if start > log.begin else 0
        if start > log.begin and not cut:
            size *= 2
            continue
        yield start + cut, block[cut:]
        stop = start + cut
        size = min(2 * size, CHUNK)


def stretches(fd: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, whole rows) of a file from its first byte on, none of them at or after `stop`.

    Raises `OSError`.
    """
    offset, rest = 0, b""
    while block := os.pread(fd, min(BLOCK_BYTES, stop - offset - len(rest)), offset + len(rest)):
        rows = rest + block
        whole = rows.rfind(b"\n") + 1
        if whole:
            yield offset, rows[:whole]
        offset, rest = offset + whole, rows[whole:]
