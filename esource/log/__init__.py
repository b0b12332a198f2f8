r"""The contract of a log: the rows of one channel, as bytes at offsets.

    |-- kept: whole rows, LF-terminated --|
    begin                               end

    log = logs.open("orders")
    appended = log.append(log.end, [b"1\t\tone coffee\n"])
    assert isinstance(appended, Appended)
    rows = log.read(appended.start, limit=1 << 18, stop=log.end)

Offsets never change their meaning, and rows between `begin` and `end` never change. `begin` moves
when the oldest rows are removed, or are there again. `end` moves in `append`, `refresh` and `tend`
alone, once the rows before it are synced, if the log was asked to sync. A
log is one *generation*: when the rows of a name are replaced, `refresh` hands out the next one, and
this one can be read for as long as there is a reference to it.

All calls block, and may raise `StorageError`. One party at a time may append (from `write` to
`settle`), refresh or tend; the caller sees to that: there is no lock, in which the hub could hang.
All other calls may be made by any number of threads at once.

Kinds of logs: `file` (one plain file), `segmented` (several), `blocks` (on an engine, such as
`postgresql`), `memory` (a list, for the tests).
What all of them promise is tested by `tests/log/test_contract.py`.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from esource.rows.find import Wanted

NAME = re.compile(r"[A-Za-z0-9_-]{4,64}")  # of a channel; shorter ones are free for the hub itself
MARK_BYTES = 1 << 12  # of the rows right before an offset, by which two logs are compared


class Appended(NamedTuple):
    """The rows are in the log, one after the other, from an offset on."""

    start: int
    sync_seconds: float  # how long it took to sync them; 0.0 if they were not
    is_due: bool  # whether `flush` is to be called within a second or so


class Written(NamedTuple):
    """Rows stand in the log from an offset on; they are not its own before `settle`."""

    start: int
    to_sync: bool  # whether they are to be synced first
    about: object = None  # the log's own business


class Moved(NamedTuple):
    """Nothing was appended: other programs have changed the log. Ask again, of what is there."""

    why: str  # for a person
    end: int | None  # where its rows end now; None if it takes a `refresh` to see what is there
    seconds: float = 0.0  # to wait first, in a row about a second at most
    is_kept: bool = True  # whether rows of others that come now need not be in the way at `end`


class Replaced(NamedTuple):
    """The name has another log now."""

    by: "Log"
    why: str  # for a person


class Log(Protocol):
    """The rows of one channel, appended and never changed."""

    @property
    def name(self) -> str:
        """Its name for a person, such as `orders.tsv`."""

    @property
    def generation(self) -> str:
        """Hexadecimal digits that tell what holds the rows from what does of others of its name.

        None before a row.
        """

    @property
    def start(self) -> int:
        """The offset of the first byte that is kept; more than 0 once rows have been removed."""

    @property
    def begin(self) -> int:
        """The offset of the first row that is kept, behind a byte order mark."""

    @property
    def end(self) -> int:
        """The offset after the last row."""

    @property
    def is_remote(self) -> bool:
        """Whether each call may wait for another machine, and so takes a thread.

        Or a greenlet, of the loop that the log was made for (see `esource.log.waiting`).
        """

    @property
    def refusal(self) -> str:
        """Why appends fail now. The next one tries to repair that. Empty if they do not."""

    @property
    def modified(self) -> float:
        """When `end` has moved last, in seconds since 1970; 0.0 if it never has."""

    def generation_at(self, offset: int) -> str:
        """Return hexadecimal digits that tell the rows around an offset from those of other logs.

        They stay, also when other rows of the log are removed.
        """

    def append(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b""
    ) -> Appended | Moved:
        """Append blocks of whole rows, LF-terminated: all or none.

        At `expected` or not at all; for None at the end, wherever that is, if `least` (the least
        default id that was made for these rows, if there is one) is greater than every default id
        that other programs have appended meanwhile. On return the rows are before `end`, and on
        disk if the log was asked to sync. If it raises, none of them is in the log. Without rows it
        says whether they could be appended. At a place that was told by `Moved` right before, and
        is kept, rows of others that came since need not be in the way.
        """

    # An append in parts, so that many logs are synced at once:
    #
    #     written = log.write(log.end, [b"1\t\tone coffee\n"])
    #     if isinstance(written, Written):
    #         appended = settled(log, written)

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        """Do the first part of `append`; without rows there is no other.

        `asked` is since when somebody waits for it, by the monotonic clock; None: since now. After
        `Written` comes `settle`, and until then no other append or refresh.
        """

    def write_soon(self, blocks: Sequence[bytes]) -> Written | None:
        """Write rows at the end, if others have left the log alone and nothing is to be mended.

        Else None, and nothing is done. A few calls to the system, which wait for no disk unless
        the system has too much to write already.
        """

    def sync(self) -> float:
        """Put what was written on disk; return how many seconds it took. Raises `OSError`."""

    def settle(
        self, written: Written, seconds: float, failure: Exception | None = None
    ) -> Appended:
        """Do the last part of `append`: make rows the log's own, which were synced, or had not to.

        With the `failure` of a sync, take them away; raises that as a `StorageError`.
        """

    def is_current(self) -> bool:
        """Whether the log is as it was last looked at or appended to. Cheap.

        An append in progress is no change.
        """

    def refresh(self) -> Replaced | None:
        """Take in what other programs have appended, which moves `end`; or return the next log.

        Does not cut off a torn row, but opening the next log does.
        """

    def flush(self) -> float:
        """Put all rows on disk; return how many seconds it took.

        A failure is raised, and is a `refusal` from then on. May be called during an append.
        """

    def tend(self, now: float, may_remove: bool) -> str:
        """Do what the log's rule and what others did to its files ask for, once a minute or so.

        `now` is in seconds since 1970. May close files, which moves nothing, move `end`, and, if it
        `may_remove` what need not be kept, `begin`. Return what was removed, for a person.
        """

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        """Return whole rows from `offset`, where a row begins, none of them at or after `stop`.

        At most `limit` bytes, but at least one row; nothing if there is none.
        """

    def pread(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`, whether rows begin and end there or not."""

    def backwards(self, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, whole rows), the last before `stop`, where a row begins, first."""

    def places(
        self, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each part between two offsets that can have it, in order.

        Where rows are not known yet, that is all of them. Some parts are empty: each step takes a
        few milliseconds at most. What is before a part, or behind it if `is_backwards`, and in
        none that was yielded, is not wanted.
        """

    def learn(self, stop: int) -> Iterator[None]:
        """Learn where in the rows up to an offset something can be, for `places`.

        Each step takes a few milliseconds. For one party at a time. It may be left at any step, and
        goes on with the next call.
        """

    def sendfile(self, socket_fd: int, offset: int, size: int) -> int:
        """Send up to `size` bytes at `offset` to a non-blocking socket; return how many went.

        Raises `BlockingIOError` when the socket takes none now, and `OSError`. 0: there are none.
        """


def settled(log: Log, written: Written) -> Appended:
    """Sync what was written, if it is to be, and settle it. Blocks; raises `StorageError`."""
    try:
        seconds = log.sync() if written.to_sync else 0.0
    except Exception as error:  # whatever it is: what was begun must be settled
        return log.settle(written, 0.0, error)
    return log.settle(written, seconds)


def last_bytes(log: Log, end: int) -> bytes:
    """Return the last 4 KiB that are kept before an offset. Blocks."""
    start = max(end - MARK_BYTES, log.start)
    return log.pread(start, end - start)


def mark(log: Log, end: int) -> int:
    """Return the checksum of the last 4 KiB before an offset; 0 if there are none. Blocks."""
    return zlib.crc32(last_bytes(log, end))


class Summary(NamedTuple):
    """What can be seen of a channel without opening it."""

    name: str
    size: int  # bytes up to the end of the last whole row
    newest_id: bytes  # empty if there is no event, or it cannot be seen easily
    modified: float  # seconds since 1970
    segments: int = 0  # files that its history is in; 0 if it is not in segments


class Kept(NamedTuple):
    """What is kept of a channel, or in one file of it, as far as it costs nothing to see."""

    name: str
    size: int  # bytes
    modified: float  # seconds since 1970
    is_part: bool = False  # of the history


class Logs(Protocol):
    """All logs of a hub, by the names of their channels. All calls block."""

    @property
    def shared(self) -> "Shared | None":
        """What tells of other hubs that append to these logs, if there can be any."""

    def place(self) -> str:
        """Return where they are kept, and how safely, for a person: one line, without secrets."""

    def hold(self, waiting: Callable[[], None]) -> None:
        """Wait until this process may append, and call `waiting` meanwhile. Raises `StartError`."""

    def open(self, name: str) -> Log:
        """Return the log of a channel, which may be empty. Its name is not checked."""

    def names(self) -> list[str]:
        """Return the names of all channels that have been written to, in order."""

    def summaries(self, names: Sequence[str]) -> list[Summary]:
        """Return what can be seen of these channels, whose names are in order, in that order.

        Those that are gone are left out.
        """

    def kept(self) -> Iterator[Kept]:
        """Yield what is kept of each channel, in no order; in several parts, if there are.

        Each step blocks; raises `OSError`.
        """

    def due(self, now: float) -> list[str]:
        """Return the names of logs that are to be tended (`Log.tend`)."""

    def removable(self, now: float) -> tuple[int, int]:
        """Return how many segments, of how many bytes, tending all logs would remove.

        As of the last time that `due` has looked.
        """

    def gaps(self) -> list[str]:
        """Return what was missing of any history at the last look, a line each."""

    def free(self) -> int | None:
        """Return how many bytes can still be kept; None if that is not known."""

    def sync_all(self, written: Sequence[Written]) -> Callable[[], float] | None:
        """Return what syncs rows of several logs at once; None: these are to be synced one by one.

        What is returned is as `Log.sync`. Does not block.
        """

    def problems(self) -> list[str]:
        """Return why nothing can be appended now, a line each; empty if something can."""


class WithoutFiles:
    """What logs are not asked, or have no answer to, that are in no files (see `Logs`)."""

    def removable(self, now: float) -> tuple[int, int]:
        """Return that no segments are to be removed: there are none."""
        return 0, 0

    def gaps(self) -> list[str]:
        """Return that nothing is missing: no file can be."""
        return []

    def free(self) -> int | None:
        """Return that it is not known how much can be kept."""
        return None

    def sync_all(self, written: Sequence[Written]) -> Callable[[], float] | None:
        """Return that there is nothing to sync."""
        return None


class Counts:
    """What was counted of the calls of an engine: by several threads, and so about right."""

    __slots__ = ("appends", "gaps", "is_up", "notices", "retries", "seconds", "unknown")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.is_up = True  # whether the last call was answered
        self.appends = 0
        self.seconds = 0.0  # of these appends
        self.retries = 0  # calls that were made again
        self.unknown = 0  # appends of which nobody knows whether they were done
        self.notices = 0  # of other hubs, that logs have grown
        self.gaps = 0  # times that notices may have been missed


class Notice(NamedTuple):
    """What a hub tells others of a log."""

    name: str
    about: str = ""  # what was appended, in the engine's own words; else only that something was


class Shared(Protocol):
    """Logs that several hubs append to. All calls block; raise `StorageError`."""

    @property
    def counts(self) -> Counts:
        """What was counted, of this hub."""

    def warm_up(self) -> None:
        """Make some connections, so that the first requests need not. A failure is no matter."""

    def tell(self, logs: Sequence[Log]) -> None:
        """Tell other hubs what was appended to these logs. It may be lost."""

    def listen(self, seconds: float) -> list[Notice] | None:
        """Wait until others tell that logs have grown; return what they have told.

        Nothing after so many seconds; None if some of it may have been missed.
        """

    def heed(self, log: Log, notices: Sequence[Notice]) -> bool:
        """Let a log go on as others tell, and return whether that was all. Does not block.

        False: it is to be refreshed. Nobody else may append to the log, or refresh it, meanwhile.
        """

    def grown(self, logs: Sequence[Log]) -> list[Log]:
        """Return those of some logs that are not as they were last looked at or appended to."""
