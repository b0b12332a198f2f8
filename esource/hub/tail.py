"""What is read together, and the last of it in memory: encoded once for all followers.

    log      |--------------------------------|----|--|------|   committed
    tail                                      |----|--|------|   stretches, without a gap
                                              begin          end

What is at the tail is read by thousands at a time. Of a log that is published to and followed the
last commits are kept; with the first gap, or once it is quiet, they are forgotten, since everything
is in the log.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from esource.hub.clients import SEND_BUFFER_BYTES
from esource.hub.malformed import Malformed
from esource.hub.view import View
from esource.log import Log
from esource.rows import tsv
from esource.rows.tsv import Encode

READ_BYTES = 1 << 18  # of rows encoded at a time, and
READ_ROWS = 4000  # how many: together about two milliseconds of the loop
FIRST_BYTES = 1 << 14  # of rows, which are read at first: so there is soon something to be sent
TAIL_BYTES = 1 << 18  # of rows kept in memory, at most, and
KEPT_BYTES = 1 << 15  # of them in a stretch, so that two or so are a push when they are encoded
TAIL_STRETCHES = 256  # how many: each costs as much as some kilobytes
PUSH_BYTES = 1 << 16  # of encoded events pushed at a time: what a socket may take
assert PUSH_BYTES <= SEND_BUFFER_BYTES


class Stretch:
    """Whole rows that stand together in a log, encoded at most once for each format."""

    __slots__ = ("_count", "_encoded", "_malformed", "end", "is_selected", "log", "offset", "rows")

    def __init__(
        self, log: Log, offset: int, rows: bytes, malformed: Malformed, end: int | None = None,
        count: int | None = None,
    ) -> None:  # fmt: skip
        """Hold the rows from an offset on; `malformed` is told of rows that are no events.

        With an `end`, they are those of the rows up to there that were asked for. `count` is how
        many they are, where that is known.
        """
        self.log = log
        self.offset = offset
        self.rows = rows
        self.is_selected = end is not None
        self.end = offset + len(rows) if end is None else end  # the offset after the last row
        self._malformed = malformed
        self._count = count
        self._encoded: dict[Encode, tuple[bytes, int]] = {}

    @property
    def count(self) -> int:
        """How many rows there are."""
        if self._count is None:
            self._count = tsv.count(self.rows)
        return self._count

    def is_encoded(self, encode: Encode) -> bool:
        """Whether this format has been asked for before."""
        return encode in self._encoded

    def encoded(self, encode: Encode) -> tuple[bytes, int]:
        """Return (the rows in a format, how many events they are).

        (In TSV a row that is not an event counts, too: it is sent like all others.)
        """
        if encode not in self._encoded:
            skipped: list[bytes] = []
            text = encode(self.rows, skipped)
            self._encoded[encode] = text, self.count - len(skipped)
            if skipped:
                self._malformed.note(self.log, self.offset, self.rows, len(skipped))
        return self._encoded[encode]


def read_stretch(
    log: Log, offset: int, end: int, malformed: Malformed, size: int = READ_BYTES
) -> Stretch:
    """Read whole rows from an offset, as many as can be encoded in one turn. Blocks.

    About `size` bytes of them, if that is fewer.
    """
    few, count = few_rows(log.read(offset, size, end))
    return Stretch(log, offset, few, malformed, count=count)


def few_rows(rows: bytes) -> tuple[bytes, int]:
    """Return (rows from the beginning, about `READ_ROWS` at most, how many they are).

    What follows the last whole row is left out. At least one row, if there is any.
    """
    count = tsv.count(rows)
    if count <= READ_ROWS:
        return rows[: rows.rfind(b"\n") + 1], count
    few = rows[: rows.rfind(b"\n", 0, len(rows) * READ_ROWS // count) + 1]
    few = few or rows[: rows.index(b"\n") + 1]
    return few, tsv.count(few)


class Push(NamedTuple):
    """How what is new is written to a socket: one value for all that are written to alike."""

    encode: Encode
    frame: Callable[[bytes], bytes]  # for the protocol that the response is sent with
    last: bytes = b""  # after everything
    beat: bytes = b""  # what is sent after a silence, framed; empty if nothing is
    silence: float = math.inf  # in seconds


class News(NamedTuple):
    """What is new to a follower at the tail."""

    data: bytes  # ready to be sent; nothing if the follower must read it itself
    events: int  # how many that is
    end: int  # the offset behind it
    is_all: bool  # there is nothing more after it


NO_NEWS = News(b"", 0, 0, is_all=False)


class Tail:
    """The last commits of one log, in stretches that end where a view ends."""

    def __init__(self, malformed: Malformed) -> None:
        """Begin with nothing in memory."""
        self._malformed = malformed
        self._log: Log | None = None
        self._end = 0
        self._bytes = 0
        self._stretches: dict[int, Stretch] = {}  # by offset, in order
        self._news: tuple[object, News] = None, NO_NEWS  # for which followers, and what

    def keep(self, log: Log, start: int, rows: bytes) -> None:
        """Keep the rows of a commit, and so many of those before as there is room for."""
        if (log, start) != (self._log, self._end):
            self.forget()
            self._log = log
        begin = 0
        while begin < len(rows):
            few, count = few_rows(rows[begin : begin + KEPT_BYTES])
            if not few:
                few, count = rows[begin : rows.index(b"\n", begin) + 1], 1
            offset = start + begin
            self._stretches[offset] = Stretch(log, offset, few, self._malformed, count=count)
            begin += len(few)
        self._end = start + begin
        self._bytes += begin
        self._news = None, NO_NEWS  # of now on: followers that are told later get all at once
        while len(self._stretches) > TAIL_STRETCHES or (
            self._bytes > TAIL_BYTES and len(self._stretches) > 1
        ):
            self._bytes -= len(self._stretches.pop(next(iter(self._stretches))).rows)

    def forget(self) -> None:
        """Keep nothing in memory."""
        self._log = None
        self._end = self._bytes = 0
        self._stretches.clear()
        self._news = None, NO_NEWS

    def at(self, log: Log, offset: int) -> Stretch | None:
        """Return the stretch that begins at an offset, if it is in memory."""
        return self._stretches.get(offset) if log is self._log else None

    def until(self, log: Log, offset: int, end: int) -> int:
        """Return how far to read what is not in memory: up to what is, or to the end."""
        begin = next(iter(self._stretches), end) if log is self._log else end
        return begin if offset < begin < end else end

    def news(self, view: View, log: Log, offset: int, push: Push) -> News:
        """Return what is to be written next to a follower at an offset into a log.

        Nothing, if it is not in memory, or is so much that no socket takes it at once.
        """
        key = log, offset, view.end, push
        if key == self._news[0]:  # most followers are at the same offset
            return self._news[1]
        pieces = []
        size, end, events = 0, offset, 0
        while stretch := self.at(log, end):
            piece, count = stretch.encoded(push.encode)
            size += len(piece)
            if size > PUSH_BYTES:
                break
            pieces.append(piece)
            end = stretch.end
            events += count
        data = b"".join(pieces)
        is_all = log is view.log and end >= view.end  # there may be a later commit already
        self._news = key, News(push.frame(data) if data else b"", events, end, is_all)
        return self._news[1]
