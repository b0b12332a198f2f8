"""The hashes of ids, sorted: in which zones of a part of a log an id can be.

    |-- hashes, 4 bytes each, in order --|-- of each the number of its zone, 1 byte, from 1 on --|

For ids of which the least and the greatest of a zone say nothing, as random ones. Hashes are as
good as random, so each is where it should be, and is found with one read. Two ids may have the same
one: what is found is where an id can be. What is not there must not be taken for an id that is not
there, so zeros, as a file system puts them in the place of what it has lost, are told from both.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from math import isqrt
from pathlib import Path
from typing import TypeVar

from esource.log import disk

RUN = 4096  # hashes that are sorted at a time: a millisecond
# Hashes on both sides of the place where one should be, at most, and as a multiple of the root of
# how many there are: eight times as far as it is off.
NEAR, ROOTS = 2048, 4
FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
assert array("I").itemsize == 4
assert array("Q").itemsize == 8

P = TypeVar("P")  # a part


class Hashes:
    """The hashes of a part that are being made."""

    def __init__(self) -> None:
        self._runs: list[array[int]] = []  # each in order: hash, and number of the zone

    def add(self, number: int, hashes: Iterable[int]) -> Iterator[None]:
        """Add those of a zone, a run at a time. Its number is less than 255."""
        rest = iter(hashes)
        while run := list(islice(rest, RUN)):
            self._runs.append(array("Q", sorted([each << 8 | number for each in run])))
            yield

    def merge(self, hashes: bytes, first: int) -> Iterator[None]:
        """Add those of a smaller part, whose zones are numbered from `first` on.

        Raises `ValueError` for what are no hashes.
        """
        count = len(hashes) // 5
        values, numbers = array("I", hashes[: 4 * count]), hashes[4 * count :]
        _check(values)
        if 0 in numbers:
            raise ValueError("numbers are lost")
        for start in range(0, count, RUN):
            some = zip(values[start : start + RUN], numbers[start : start + RUN], strict=True)
            self._runs.append(array("Q", [each << 8 | first + number - 1 for each, number in some]))
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
            numbers = bytes([(each & 255) + 1 for each in both])
            yield array("I", [each >> 8 for each in both]).tobytes(), numbers


def numbers(
    counts: Mapping[P, int], wanted: int,
    read: Callable[[Sequence[tuple[P, int, int]]], Sequence[bytes]],
    together: bool = False,
) -> dict[P, bytes]:  # fmt: skip
    """Return, for each part, the numbers of the zones that have a hash.

    `counts` says how many hashes each part has. `read` returns pieces of the hashes of parts, of
    each (part, place, size in bytes): it is called twice, or a few times more; once less if the
    numbers of all hashes that are looked at are read `together` with these. Raises `ValueError` for
    what are no hashes.
    """
    told: dict[P, bytes] = {}
    times, left = 1, list(counts)  # as near as that
    some_of: list[tuple[P, int, int]] = []  # where the numbers are that were not read yet
    while left:
        spans = [_span(counts[part], wanted, times) for part in left]
        places = [(part, 4 * start, 4 * (stop - start)) for part, (start, stop)
                  in zip(left, spans, strict=True)]  # fmt: skip
        if together:
            places += [(part, 4 * counts[part] + start, stop - start) for part, (start, stop)
                       in zip(left, spans, strict=True)]  # fmt: skip
        pieces = read(places)
        again = []
        numbered: Sequence[bytes | None] = pieces[len(left) :] if together else [None] * len(left)
        for part, (start, stop), piece, own in zip(
            left, spans, pieces[: len(left)], numbered, strict=True
        ):
            some = array("I", piece)
            _check(some)
            first, end = bisect_left(some, wanted), bisect_right(some, wanted)
            if (first or not start) and (end < len(some) or stop == counts[part]):
                if own is not None:
                    told[part] = own[first:end]
                elif first < end:
                    some_of.append((part, 4 * counts[part] + start + first, end - first))
            else:
                again.append(part)
        times, left = times * 4, again
    pieces = read(some_of) if some_of else []
    told |= {part: piece for (part, _, _), piece in zip(some_of, pieces, strict=True)}
    # They are kept plus one: a zero, where one is lost, becomes no byte but a `ValueError`.
    return {part: bytes(number - 1 for number in told.get(part, b"")) for part in counts}


def _check(values: "array[int]") -> None:
    """Raise `ValueError` if zeros stand in the place of hashes, behind other ones or of all.

    Those at the beginning are of events without an id.
    """
    rest = values.tobytes().lstrip(b"\0")
    if len(values) > 1 and (not rest or bytes(8) in rest or values[-1] < values[-2]):
        raise ValueError("hashes are lost")


def _span(count: int, wanted: int, times: int) -> tuple[int, int]:
    """Return (start, stop) of the hashes, among so many, near the place where one should be."""
    guess, near = wanted * count >> 32, min(NEAR, ROOTS * isqrt(count) + 1) * times
    return max(guess - near, 0), min(guess + near, count)


class Ids:
    """A file of the hashes of several parts, behind a token. A file of another token is another.

    All calls block, and raise `OSError`, and `EOFError` where something is not all there.
    """

    def __init__(self, path: Path, token: str) -> None:
        """Name it; nothing is read or made yet."""
        self.path = path
        self.token = token

    def make(self) -> None:
        """Begin anew, without hashes."""
        self.path.unlink(missing_ok=True)
        flags = FLAGS | os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(self.path, flags, disk.FILE_MODE), "wb") as file:
            file.write(self.token.encode())

    def append(self, hashes: bytes) -> int:
        """Put the hashes of a part on disk; return their place."""
        fd = self._open(os.O_RDWR)
        try:
            place = os.fstat(fd).st_size
            done = 0
            while done < len(hashes):
                done += os.pwrite(fd, memoryview(hashes)[done:], place + done)
            disk.sync(fd)
        finally:
            os.close(fd)
        return place

    def read(self, pieces: Iterable[tuple[int, int]]) -> list[bytes]:
        """Return what is at some places: of each (place, size in bytes)."""
        fd = self._open(os.O_RDONLY)
        try:
            return [_exactly(fd, place, size) for place, size in pieces]
        finally:
            os.close(fd)

    def _open(self, flags: int) -> int:
        fd = os.open(self.path, flags | FLAGS)
        with suppress(OSError):
            if os.pread(fd, len(self.token), 0) == self.token.encode():
                return fd
        os.close(fd)
        raise FileNotFoundError(f"{self.path.name} is another")


def _exactly(fd: int, place: int, size: int) -> bytes:
    if place + size > os.fstat(fd).st_size:
        raise EOFError
    return os.pread(fd, size, place)
