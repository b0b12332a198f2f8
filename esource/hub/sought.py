"""What is looked for in one log, and how far that search has got; and the beginnings of many.

    sought ──► the next part that can have it ──► pieces of it ──► found
                 ▲                                    │
                 └──────────── not there ─────────────┘

A part is what a log says can have it (`Log.places`). The first place counts, so parts come in
order. Searches that begin together read a piece once for all that are to look there. Knows offsets
and rows; not who waits, and for how long.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import TypeAlias

from esource.errors import StorageError
from esource.log import Log
from esource.rows.find import Wanted

BEGIN_SECONDS = 0.001  # of each search, that it has together with others

# The arguments of `Log.read`: an offset, how many bytes at most, and where a part ends.
Piece: TypeAlias = tuple[int, int, int]


class Sought:
    """One search: for the first offset where something is found, up to an end."""

    def __init__(
        self, log: Log, wanted: Wanted, end: int, place_in: Callable[[bytes], int | None],
        size: int, taught: Callable[[], int],
    ) -> None:  # fmt: skip
        """Look for what is `wanted`, which `place_in` finds in rows, `size` bytes at a time.

        `taught` says up to where all is known of the log: once that is more, less may be left.
        """
        self.found: int | None = None
        self.is_over = False
        self.looked = 0  # bytes
        self._spent = 0.0  # seconds, together with others
        self._log = log
        self._wanted = wanted
        self._end = end
        self._place_in = place_in
        self._size = size
        self._taught = taught
        self._offset = 0
        self._stop = 0  # of the part
        self._plan()

    def _plan(self) -> None:
        """Have it said by all that is known now which parts are left."""
        self._known = self._taught()
        self._offset = self._stop = max(self._offset, self._log.begin)
        self._rest = self._log.places(self._wanted, self._offset, self._end)

    @property
    def piece(self) -> Piece | None:
        """What is to be looked at next; None: the next part is to be found."""
        if self._known < self._taught():
            self._plan()
        self._offset = max(self._offset, self._log.begin)  # which may have moved meanwhile
        return (self._offset, self._size, self._stop) if self._offset < self._stop else None

    def go_on(self) -> None:
        """Find the next part, which may be empty. Blocks; raises `StorageError`."""
        try:
            part = next(self._rest, None)
        except StorageError:
            self._plan()
            raise
        if part:
            self._offset, self._stop = part
        else:
            self.is_over = True

    def look(self, rows: bytes) -> None:
        """Look at the rows of the next piece; without any, nothing is left of its part."""
        self.looked += len(rows)
        found = self._place_in(rows) if rows else None
        if found is not None:
            self.found, self.is_over = self._offset + found, True
        elif rows:
            self._offset += len(rows)
        else:
            self._stop = self._offset

    def begin(self, rows: bytes | None) -> bool:
        """Look at the rows of the next piece, or find the next part; return whether to do so again.

        Not once it is over or has had its time, or if it has failed: it will where it goes on.
        """
        began = time.monotonic()
        try:
            self.go_on() if rows is None else self.look(rows)
        except StorageError:
            return False
        self._spent += time.monotonic() - began
        return not self.is_over and self._spent < BEGIN_SECONDS

    def step(self, deadline: float) -> None:
        """Search on until it is over, or until then, by the monotonic clock.

        Blocks; raises `StorageError`.
        """
        while not self.is_over and time.monotonic() < deadline:
            if piece := self.piece:
                self.look(self._log.read(*piece))
            else:
                self.go_on()


def begin(log: Log, searches: Sequence[Sought]) -> Iterator[list[Sought]]:
    """Begin searches, in the order of the log and in short steps; yield those that are begun.

    Blocks.
    """
    due = [*searches]  # to find their next part
    waiting: dict[Piece, list[Sought]] = {}
    pieces: list[Piece] = []  # that are waited for: a heap
    while due or pieces:
        rows = None
        if due:
            some = [due.pop()]
        else:
            some = waiting.pop(pieces[0])
            try:
                rows = log.read(*heappop(pieces))
            except StorageError:
                yield some
                continue
        for search in some:
            if not search.begin(rows):
                yield [search]
                continue
            if piece := search.piece:
                if piece not in waiting:
                    heappush(pieces, piece)
                waiting.setdefault(piece, []).append(search)
            else:
                due.append(search)
            yield []
