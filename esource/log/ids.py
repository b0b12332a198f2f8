"""The hashes of ids, sorted, in a file: in which zones of a channel an id can be.

    token | block | block | …

    block    |-- hashes, 4 bytes each, in order --|-- of each the number of its zone, 1 byte --|

For ids of which the least and the greatest of a zone say nothing, as random ones. Hashes are as
good as random, so each is where it should be, and is found with one read. Two ids may have the same
one: what is found is where an id can be.

A file of another token is another. All calls block, and raise `OSError`, and `EOFError` where a
block is not all there.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from esource.log import disk

ZONES = 256  # as many as a byte can count
RUN = 4096  # hashes that are sorted at a time: a millisecond
NEAR = 2048  # hashes on both sides of the place where one should be
FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
assert array("I").itemsize == 4
assert array("Q").itemsize == 8


class Block(NamedTuple):
    """Hashes of the ids in some zones."""

    first: int  # of the zones
    zones: int  # how many
    place: int  # in the file
    hashes: int  # how many

    @classmethod
    def of(cls, fields: list[int]) -> "Block":
        """Return what JSON has said; raises `ValueError` and `TypeError`."""
        block = cls(*fields)
        if min(block) < 0 or not 0 < block.zones <= ZONES:
            raise ValueError("no block")
        return block


class Hashes:
    """The hashes of a block that is being made."""

    def __init__(self) -> None:
        self._runs: list[array[int]] = []  # each in order: hash, and number of the zone

    def add(self, number: int, hashes: Iterable[int]) -> Iterator[None]:
        """Add those of a zone, a run at a time."""
        rest = iter(hashes)
        while run := list(islice(rest, RUN)):
            self._runs.append(array("Q", sorted([each << 8 | number for each in run])))
            yield

    def sorted(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield some hashes of all runs, in order, and the numbers of their zones."""
        starts = [0] * len(self._runs)
        for byte in range(256):  # the first one of a hash: one list would take long to sort
            both: list[int] = []
            for place, run in enumerate(self._runs):
                stop = bisect_left(run, (byte + 1) << 32, starts[place])
                both += run[starts[place] : stop]
                starts[place] = stop
            both.sort()
            numbers = bytes([each & 255 for each in both])
            yield array("I", [each >> 8 for each in both]).tobytes(), numbers


class Ids:
    """A file of blocks."""

    def __init__(self, path: Path, token: str) -> None:
        """Name it; nothing is read or made yet."""
        self.path = path
        self.token = token

    def make(self) -> None:
        """Begin anew, without a block."""
        self.path.unlink(missing_ok=True)
        flags = FLAGS | os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(self.path, flags, disk.FILE_MODE), "wb") as file:
            file.write(self.token.encode())

    def append(self, block: bytes) -> int:
        """Put a block on disk; return its place."""
        fd = self._open(os.O_RDWR)
        try:
            place = os.fstat(fd).st_size
            done = 0
            while done < len(block):
                done += os.pwrite(fd, memoryview(block)[done:], place + done)
            disk.sync(fd)
        finally:
            os.close(fd)
        return place

    def read(self, block: Block) -> bytes:
        """Return all of a block."""
        fd = self._open(os.O_RDONLY)
        try:
            return _exactly(fd, block.place, block.hashes * 5)
        finally:
            os.close(fd)

    def zones(self, blocks: Iterable[Block], id: bytes) -> Iterator[set[int]]:
        """Yield, for each block, the numbers of the zones that can have an id."""
        fd = self._open(os.O_RDONLY)
        try:
            for block in blocks:
                yield {block.first + number for number in _numbers(fd, block, crc32(id))}
        finally:
            os.close(fd)

    def _open(self, flags: int) -> int:
        fd = os.open(self.path, flags | FLAGS)
        with suppress(OSError):
            if os.pread(fd, len(self.token), 0) == self.token.encode():
                return fd
        os.close(fd)
        raise FileNotFoundError(f"{self.path.name} is another")


def _numbers(fd: int, block: Block, wanted: int) -> bytes:
    """Return the numbers, in the block, of the zones that have a hash."""
    near, guess = NEAR, wanted * block.hashes >> 32
    while True:
        start, stop = max(guess - near, 0), min(guess + near, block.hashes)
        some = array("I", _exactly(fd, block.place + 4 * start, 4 * (stop - start)))
        first, end = bisect_left(some, wanted), bisect_right(some, wanted)
        if (first or not start) and (end < len(some) or stop == block.hashes):
            place = block.place + 4 * block.hashes + start + first
            return _exactly(fd, place, end - first)
        near *= 4


def _exactly(fd: int, place: int, size: int) -> bytes:
    if place + size > os.fstat(fd).st_size:
        raise EOFError
    return os.pread(fd, size, place)
