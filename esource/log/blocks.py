r"""Logs on an engine that several hubs share: rows in blocks.

    |-- block --|-- block --|-- removed before `start`; the rest is kept --|
    0                       start                                        end

A block is whole rows that were appended together, at most 256 KiB of them, or one longer row. It is
found by the offset of its end, never changes, and has the *nonce* of its append: a number that no
other append has. By it an append finds itself, if the answer to the first try was lost; and two
histories of one length are told apart.

A log without rows that gets some of others behind a byte order mark, or that begin elsewhere, is
replaced by one that begins there: so no reader stands before the first row.

What differs between engines is an `Engine`; what is here is the same for all.
"""
# ruff: noqa: D102 -- what the calls of a log promise, the contract says

import base64
import os
import secrets
import sys
import time
from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeAlias

from esource.errors import StorageError
from esource.event import default_id
from esource.log import (
    MARK_BYTES,
    Appended,
    Log,
    Moved,
    Notice,
    Replaced,
    Written,
    reading,
    settled,
)
from esource.log.index import Gone, Index, Kind, Part, Span, few_bytes, run_bytes, zone_bytes
from esource.rows import tsv
from esource.rows.find import Wanted
from esource.rules import Rule

BLOCK_BYTES = 1 << 18
READ_BYTES = 1 << 20  # of blocks, that are asked for at a time
FEW_BYTES = 1 << 14  # whoever wants no more of the rows gets the block that they are in
CACHE_BYTES = 1 << 26  # of blocks, of all channels: what was read last
CACHED = 1000  # times that was read
NEWS_BYTES = 5000  # of rows, that others are told together; of more they are told where they end
NEWS = 64  # appends, of a log, that wait to be told
LAST_BYTES = 1 << 14  # of the last rows, which are known without a read: a mark is made of fewer
# What the index is called in an engine. Hashes are numbers as this machine has them.
KINDS: Mapping[Kind, str] = {"zone": "zone", "ids": f"ids, {sys.byteorder} endian"}
# After which an append looks at the head first: it is looked for behind the known end, under the
# lock of all that append. Of a million blocks there that took 1.1 s.
STALE_SECONDS = 10.0


# What a URL that cannot be read is answered: nothing of it, since any part may be of a password.
ESCAPE = "in a password, each of @ / : ? # % and spaces is to be written as %40 and the like"


class Head(NamedTuple):
    """What an engine says of a channel: where its rows begin and end."""

    generation: int = 0  # a random number, made with the first rows; 0 before
    start: int = 0  # the offset of the first byte that is kept
    begin: int = 0  # of the first row that is kept, behind a byte order mark
    end: int = 0
    nonce: int = 0  # of the last block
    erasures: int = 0  # how many events have been overwritten
    modified: float = 0.0  # by the engine's clock, in seconds since 1970


class Entry(NamedTuple):
    """What is to be appended."""

    blocks: "list[bytes | memoryview[int]]"  # of large rows no copies are made
    expected: int | None  # the offset at which they must begin; None: at the end, and then
    least: bytes  # must be greater than every default id there, if it is not empty
    greatest: bytes  # default id in the rows; empty without one
    newest_id: bytes  # of the last event; empty without one
    begin: int  # of the first row, if these are the first bytes of the channel
    nonce: int
    asked: float | None = None  # since when they are waited for, by the monotonic clock; None: now

    @property
    def size(self) -> int:
        """How many bytes it is."""
        return sum(map(len, self.blocks))


class Answer(NamedTuple):
    """What came of an append, or of a question."""

    head: Head  # as it is now
    goes_on: bool  # whether the rows before the known end are still those that were known
    start: int | None = None  # where the rows of the entry are; None if they are not there


class Engine(Protocol):
    """What keeps heads and blocks. All calls block, each for a limited time.

    They raise `StorageError`.
    """

    def head(self, name: str, known: Head, asked: float | None = None) -> Answer:
        """Return what is there now, and whether that goes on from what is known.

        It is waited for since it was `asked`, by the monotonic clock; None: now.
        """

    def append(self, name: str, known: Head, entry: Entry) -> Answer:
        """Append blocks, all or none, at most once; those that are answered for are durable."""

    def read(self, name: str, head: Head, offset: int, stop: int) -> tuple[int, bytes]:
        """Return (start, rows) of a few blocks, the first with the byte at an offset.

        The last of them has the byte before `stop`, if that is not far. No rows: there is none, or
        the last block of the head is not there: a server that lacked it has taken over, and what
        is there now does not go on from it.
        """

    def trim(self, name: str, rule: Rule) -> int:
        """Remove the oldest blocks that a rule need not keep; return how many bytes they had.

        All rows of these are older than its age, by the engine's clock, or beyond its size. The
        last block stays. A few thousand at a time: 0 says that there are no more.
        """

    def trimmable(self, name: str, rule: Rule) -> int:
        """Return how many bytes `trim` would remove until there are no more; remove nothing."""

    # The index (`esource.log.index.Store`), which is never the truth:

    def lines(
        self, name: str, head: Head, spans: Sequence[Span]
    ) -> Sequence[Sequence[tuple[int, bytes]]]:
        """Return the lines of each span, by the starts of their parts, in order."""

    def hashes(
        self, name: str, head: Head, wanted: Sequence[tuple[Part, int, int]]
    ) -> Sequence[bytes | None]:
        """Return pieces of hashes, of each (part, place, size in bytes); None of what is gone."""

    def learn(
        self, name: str, known: Head, kind: Kind, part: Part, line: bytes, hashes: bytes
    ) -> None:
        """Store a line, and the hashes that go with it, if there is none for the part.

        Only if the rows are still those that are known, and none was erased since then. It need
        not be durable. Hashes take the place of those of smaller parts.

        With the rows of a part its lines go; with an event that is erased the zones that have it.
        """

    # For commands:

    def create(self, name: str, start: int) -> None:
        """Make a channel without rows, whose next row is at an offset; not if there is one."""

    def date(self, name: str, start: int, end: int, modified: float) -> None:
        """Have rows be stored, and the channel changed, at a time in seconds since 1970."""

    def erase(self, name: str, offset: int, row: bytes, by: str, reason: str) -> None:
        """Put a row in the place of one of that length; record who did so, when, where and why."""

    def remove(self, name: str) -> None:
        """Remove a channel with all its rows."""


Key: TypeAlias = tuple[int, int]  # what rows are of: a log, and how many erasures it has had


class Cache:
    """The rows of blocks that were read last, of all channels. For any number of threads.

    It needs no lock: each step is one call of a dictionary or a list, and what is missed is read.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Keep so many bytes, about."""
        self._limit = limit
        self._rows: OrderedDict[tuple[Key, int], bytes] = OrderedDict()  # by key and start
        self._starts: dict[Key, list[int]] = {}  # in order

    def at(self, key: Key, offset: int) -> tuple[int, bytes] | None:
        """Return (start, rows) of blocks that have the byte at an offset, if they are here."""
        starts = self._starts.get(key, [])
        number = bisect_right(starts, offset) - 1
        if number < 0:
            return None
        try:
            start = starts[number]
            rows = self._rows[key, start]
            self._rows.move_to_end((key, start))
        except (IndexError, KeyError):
            return None  # another thread has let it go
        return (start, rows) if offset < start + len(rows) else None

    def put(self, key: Key, start: int, rows: bytes) -> None:
        """Keep rows, and let others go if they are too many."""
        if (key, start) not in self._rows:
            insort(self._starts.setdefault(key, []), start)
        self._rows[key, start] = rows
        while len(self._rows) > CACHED or sum(map(len, list(self._rows.values()))) > self._limit:
            with suppress(KeyError, ValueError):
                self._drop(*self._rows.popitem(last=False)[0])

    def _drop(self, key: Key, start: int) -> None:
        starts = self._starts[key]
        starts.remove(start)
        if not starts:
            del self._starts[key]


class _Rows:
    """The rows of a log at a moment, for its index."""

    def __init__(self, log: "BlockLog", head: Head) -> None:
        """Say what they are known to be."""
        self.head = head
        self.begin = head.begin
        self.pread = log.pread


class _Stored:
    """The index of a log in its engine (see `esource.log.index.Store`)."""

    has_room = True
    is_remote = True

    def __init__(self, name: str, engine: Engine) -> None:
        self.hashed = zone_bytes(), few_bytes(), run_bytes()
        self._name = name
        self._engine = engine

    def lines(self, rows: _Rows, *spans: Span) -> Sequence[Sequence[tuple[int, bytes]]]:
        return self._engine.lines(self._name, rows.head, spans)

    def hashes(self, rows: _Rows, wanted: Sequence[tuple[Part, int, int]]) -> list[bytes]:
        pieces = self._engine.hashes(self._name, rows.head, wanted)
        found = [piece for piece in pieces if piece is not None]
        if len(found) < len(wanted):
            raise Gone
        return found

    def put(self, rows: _Rows, kind: Kind, part: Part, line: bytes, hashes: bytes = b"") -> None:
        self._engine.learn(self._name, rows.head, kind, part, line, hashes)

    def lose(self) -> None:
        pass  # what was gone is replaced already


class BlockLog:
    """The rows of one channel (see `esource.log.Log`)."""

    is_remote = True
    refusal = ""  # an engine that is away may be there for the next append

    def __init__(
        self, name: str, engine: Engine, cache: Cache, head: Head, rule: Rule | None = None,
        last: bytes = b"",
    ) -> None:  # fmt: skip
        """Begin with what is there; its `last` bytes, up to `LAST_BYTES`, may be known already."""
        self.name = name
        self._engine = engine
        self._cache = cache
        self._rule = rule
        self._know(head)
        self._written: Head | None = None  # between `write` and `settle`, what comes next
        self._is_alone = False  # whether no rows of others are in what comes next
        self._few = b""  # these rows, if they are few
        # What was appended, and others are to be told: the heads before and after, and the rows if
        # they are few. None: rows of others are among them.
        self._news: deque[tuple[Head, Head, bytes] | None] = deque(maxlen=NEWS)
        self._last: tuple[Key, int, bytes] = (0, 0), 0, b""  # of the rows: (key, start, rows)
        # Not the generation: if a server that lacks the last rows takes over, other rows come to
        # stand at their offsets.
        self._number = new_number()
        self._index = head.erasures, Index(_Stored(name, engine))
        if last:
            cache.put((self._number, head.erasures), head.end - len(last), last)

    def _know(self, head: Head) -> None:
        self._head, self._known_at = head, time.monotonic()

    @property
    def generation(self) -> str:
        head = self._head
        if not head.end:
            return ""
        changes = f"{head.erasures:08x}{head.start:x}" if head.erasures or head.start else ""
        return f"{head.generation:016x}{changes}"

    def generation_at(self, offset: int) -> str:
        return f"{self._head.generation:016x}" if self._head.end else ""

    @property
    def start(self) -> int:
        return self._head.start

    @property
    def begin(self) -> int:
        return self._head.begin

    @property
    def end(self) -> int:
        return self._head.end

    @property
    def modified(self) -> float:
        return self._head.modified

    # -- appending -------------------------------------------------------------------------

    def append(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b""
    ) -> Appended | Moved:
        written = self.write(expected, blocks, least)
        return settled(self, written) if isinstance(written, Written) else written

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        if not self._head.end:
            expected = 0  # as the first rows or not at all: others' may begin behind a mark
        if not blocks or time.monotonic() - self._known_at > STALE_SECONDS:
            answer = self._engine.head(self.name, self._head, asked)
            if not (self._goes_on(answer) and expected in (None, answer.head.end)):
                return self._moved(answer, expected)
            if not blocks:
                return Appended(answer.head.end, 0.0, is_due=False)
            self._know(answer.head)
        answer = self._engine.append(self.name, self._head, _entry(blocks, expected, least, asked))
        if answer.start is None:
            return self._moved(answer, expected)
        self._is_alone = answer.start == self._head.end
        self._few = b"".join(blocks) if sum(map(len, blocks)) <= NEWS_BYTES else b""
        self._written = answer.head
        if not self._is_alone:
            self._look_behind(answer.head, answer.start)
        return Written(answer.start, to_sync=False, about=answer.head)

    def _look_behind(self, head: Head, start: int) -> None:
        """Know the rows right before those that were appended at an offset, if both are few.

        Others have appended some of them: marks are made of these, and the next append asks for
        them. What cannot be read now is read by whoever wants it.
        """
        first = max(head.start, min(self._head.end, start - MARK_BYTES))
        if not self._few or start - first > NEWS_BYTES or head.erasures != self._head.erasures:
            return
        with suppress(StorageError):
            offset, rows = self._engine.read(self.name, head, first, start)
            if offset <= first and offset + len(rows) == start:
                # Not up to the end, if an earlier try is what was found: others are behind it.
                rows, stop = (rows + self._few)[-LAST_BYTES:], start + len(self._few)
                self._last = (self._number, head.erasures), stop - len(rows), rows

    def _goes_on(self, answer: Answer) -> bool:
        """Return whether these rows go on from those that are known."""
        return answer.goes_on and (bool(self._head.end) or answer.head.begin == self._head.begin)

    def _moved(self, answer: Answer, expected: int | None) -> Moved:
        if not self._goes_on(answer):
            return Moved(f"{self.name} has other rows now", None)
        self._know(answer.head)
        end = answer.head.end
        if expected not in (None, end):
            why = f"{self.name} is {end} bytes long, not {expected}"
        else:
            why = f"{self.name} has grown by rows of a later time"
        return Moved(why, end, is_kept=False)

    def write_soon(self, blocks: Sequence[bytes]) -> Written | None:
        return None  # the engine is waited for

    def sync(self) -> float:
        return 0.0

    def settle(
        self, written: Written, seconds: float, failure: Exception | None = None
    ) -> Appended:
        """Do the last part of `append`; after a `failure` the rows are there, but not seen yet."""
        self._written = None
        if failure:
            self._number = new_number()  # what was read of them is not kept
            raise StorageError(f"{self.name}: {failure}; the event may have been stored")
        head = written.about
        assert isinstance(head, Head)
        self._news.append((self._head, head, self._few) if self._is_alone else None)
        self._few = b""
        self._know(head)
        return Appended(written.start, seconds, is_due=False)

    def flush(self) -> float:
        return 0.0

    # -- what others do --------------------------------------------------------------------

    def is_current(self) -> bool:
        return self.is_at(self._engine.head(self.name, self._head).head)

    def is_at(self, head: Head) -> bool:
        """Return whether the log is as this head says.

        Rows that are written, and not settled, are no change; but those of others are, which a
        publisher may have been told of.
        """
        return head == self._head or (self._is_alone and head == self._written)

    def news(self) -> list[Notice]:
        """Return what others are to be told of appends since this was last asked, at least one."""
        told: list[tuple[Head, Head, bytes] | None] = []
        with suppress(IndexError):
            while True:
                new = self._news.popleft()
                last = told[-1] if told else None
                if new and last and last[1] == new[0] and _can_join(last[2], new[2]):
                    told[-1] = last[0], new[1], last[2] + new[2]
                elif new or last or not told:
                    told.append(new)
        return [Notice(self.name, _about(*each) if each else "") for each in told or [None]]

    def heed(self, about: str) -> bool:
        """Go on with the rows that another hub has appended; return whether it could.

        It can if they begin where it ends, or it has them already. Does not block.
        """
        head = self._head
        try:
            end, nonce, *numbers, modified, text = about.split(" ")
            after = Head(*map(int, numbers))._replace(modified=float(modified))
            known, rows = (int(end), int(nonce)), base64.b64decode(text, validate=True)
        except (ValueError, TypeError):  # nothing is said of it, or by another program
            return False
        if head.generation == after.generation and head.end >= after.end:
            # Not so if an engine that lacks the last rows has taken over, and goes on from there.
            return head == after or (head.end > after.end and head.modified >= after.modified)
        if (
            head.generation not in (0, after.generation)
            or (head.end, head.nonce) != known
            or (rows and head.end + len(rows) != after.end)
            or (head.start, head.begin, head.erasures) != (after.start, after.begin, after.erasures)
        ):
            return False
        key, (last_key, start, last) = (self._number, head.erasures), self._last
        goes_on = last_key == key and start + len(last) == head.end
        last = ((last if goes_on else b"") + rows)[-LAST_BYTES:] if rows else b""
        self._last = key, after.end - len(last), last
        self._know(after)
        return True

    def refresh(self) -> Replaced | None:
        answer = self._engine.head(self.name, self._head)
        if self._goes_on(answer):
            self._know(answer.head)
            return None
        log = BlockLog(self.name, self._engine, self._cache, answer.head, self._rule)
        return Replaced(log, f"{self.name} has other rows now")

    def tend(self, now: float, may_remove: bool) -> str:
        size = 0
        if self._rule and may_remove:
            while removed := self._engine.trim(self.name, self._rule):
                size += removed
        return f"{size} bytes" if size else ""

    # -- reading ---------------------------------------------------------------------------

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        return reading.read(self, offset, limit, stop)

    def pread(self, offset: int, size: int) -> bytes:
        parts, stop = [], offset + size
        while offset < stop:
            found = self._at(offset, size)
            if not found:
                break
            start, rows = found
            parts.append(rows[offset - start : stop - start])
            offset = start + len(rows)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _at(self, offset: int, size: int) -> tuple[int, bytes] | None:
        """Return (start, rows) of blocks that have the byte at an offset, if it is kept.

        Also of those that are written, and not settled: the view behind them is made of these. What
        follows is asked for along, unless few bytes are wanted (`size` is how many): who reads one
        block mostly reads the next, and a call takes longer than its rows.
        """
        head = self._written or self._head
        key = self._number, head.erasures
        last_key, last_start, last = self._last
        if last_key == key and last_start <= offset < last_start + len(last):
            return last_start, last
        found = self._cache.at(key, offset)
        if found or not head.generation:
            return found
        stop = offset + (READ_BYTES if size > FEW_BYTES else size)
        start, rows = self._engine.read(self.name, head, offset, min(head.end, stop))
        if not start <= offset < start + len(rows):
            return None
        self._cache.put(key, start, rows)
        return start, rows

    def backwards(self, stop: int) -> Iterator[tuple[int, bytes]]:
        return reading.backwards(self, stop)

    def places(
        self, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        rows, index = self._indexed()
        return index.places(rows, wanted, start, stop, is_backwards)

    def learn(self, stop: int) -> Iterator[None]:
        rows, index = self._indexed()
        return index.learn(rows, stop)

    def _indexed(self) -> tuple[_Rows, Index[_Rows]]:
        """Return the rows as they are now, and their index: an erasure has changed the last one."""
        head = self._head
        if head.erasures != self._index[0]:
            self._index = head.erasures, Index(_Stored(self.name, self._engine))
        return _Rows(self, head), self._index[1]

    def sendfile(self, socket_fd: int, offset: int, size: int) -> int:
        piece = self.pread(offset, min(size, BLOCK_BYTES))
        return os.write(socket_fd, piece) if piece else 0


def _entry(
    blocks: Sequence[bytes], expected: int | None, least: bytes, asked: float | None = None
) -> Entry:
    """Return what an engine needs to know of rows to append them."""
    mark_bytes = tsv.mark_bytes(blocks[0])
    known = blocks
    if expected == 0 and mark_bytes:
        known = [blocks[0][mark_bytes:], *blocks[1:]]  # the mark is no part of an id
    micros = [found for rows in known if (found := tsv.newest_micros(rows)) is not None]
    newest_id = b""
    for rows in reversed(known):
        place, events = tsv.last(rows, 1)
        if events:
            newest_id = tsv.id_of(rows[place:])
            break
    return Entry(
        list(_gathered(blocks)),
        expected,
        least,
        default_id(max(micros)) if micros else b"",
        newest_id,
        mark_bytes,
        new_number(),
        asked,
    )


def _can_join(rows: bytes, more: bytes) -> bool:
    """Whether rows are told together: all of them, not only where they end."""
    return bool(rows and more) and len(rows) + len(more) <= NEWS_BYTES


def _about(before: Head, after: Head, rows: bytes) -> str:
    """Return how `BlockLog.heed` is told: what it must know already, and what comes next."""
    *numbers, modified = after
    fields = [before.end, before.nonce, *numbers, repr(modified), base64.b64encode(rows).decode()]
    return " ".join(map(str, fields))


def told(token: str, logs: Sequence[Log], limit: int) -> Iterator[str]:
    """Yield what a hub tells of some logs, in texts of so many bytes at most, after its token."""
    lines, size = [token], len(token)
    for log in logs:
        assert isinstance(log, BlockLog)
        for notice in log.news():
            line = f"{notice.name} {notice.about}"
            if size + 1 + len(line) > limit:
                yield "\n".join(lines)
                lines, size = [token], len(token)
            lines.append(line)
            size += 1 + len(line)
    yield "\n".join(lines)


def heard(token: str, text: str) -> list[Notice]:
    """Return what another hub has told; nothing of what this one has."""
    teller, *lines = text.split("\n")
    return [] if teller == token else [Notice(*line.split(" ", 1)) for line in lines]


def heed(log: Log, notices: Sequence[Notice]) -> bool:
    """Let a log go on as others tell (see `esource.log.Shared`)."""
    return isinstance(log, BlockLog) and all(log.heed(notice.about) for notice in notices)


def pieces(rows: bytes) -> Iterator[bytes]:
    """Yield whole rows in blocks of `BLOCK_BYTES` at most, or of one row that is longer."""
    return (rows[start:stop] for start, stop in _cuts(rows))


def _cuts(rows: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while len(rows) - start > BLOCK_BYTES:
        stop = rows.rfind(b"\n", start, start + BLOCK_BYTES) + 1
        stop = stop or rows.index(b"\n", start + BLOCK_BYTES) + 1
        yield start, stop
        start = stop
    if start < len(rows):
        yield start, len(rows)


def _gathered(blocks: Sequence[bytes]) -> "Iterator[bytes | memoryview[int]]":
    """Yield the same rows in blocks as `pieces` does: small ones are joined, none is copied else.

    A batch may be tens of megabytes, of which each copy counts.
    """
    few: list[bytes] = []
    size = 0  # of these
    for rows in blocks:
        if few and size + len(rows) > BLOCK_BYTES:
            yield b"".join(few)
            few, size = [], 0
        if len(rows) > BLOCK_BYTES:
            yield from (memoryview(rows)[start:stop] for start, stop in _cuts(rows))
        else:
            few.append(rows)
            size += len(rows)
    if few:
        yield few[0] if len(few) == 1 else b"".join(few)


def new_number() -> int:
    """Return a random number for a generation or a nonce: 63 bits, and not 0."""
    return secrets.randbits(63) or 1
