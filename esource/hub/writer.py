"""Rows on their way to the disk: what their publishers hold, and the commit that they share.

Everybody who publishes while the writer is at the disk is in the next commit: one write, one
sync, one signal when it is done.
"""

import time
from collections.abc import Callable

from gevent.event import Event as Signal  # an event is always an `event.Event`

from esource.errors import EsourceError, PreconditionFailed
from esource.log.file import Log
from esource.rows import tsv
from esource.rows.dedup import Dedup
from esource.rows.tsv import Draft

# Given an end and a newest id; raises `PreconditionFailed`.
Precondition = Callable[[int, bytes], None]

TAIL_BYTES = 1 << 18  # of rows of the last commits kept for the readers at the tail


class Receipt:
    """What a publisher holds of rows that are on their way to the disk.

    After `wait` it says what became of them: how many were appended, the first and last id.
    """

    __slots__ = (
        "_after", "_commit", "_drafts", "_precondition", "_unique",
        "appended", "end", "error", "first", "last", "queued", "skipped",
    )  # fmt: skip

    def __init__(
        self, commit: "Commit", drafts: list[tuple[Draft, int]],
        precondition: Precondition | None, unique: bool, after: "Receipt | None",
    ) -> None:  # fmt: skip
        self._commit = commit
        self._drafts = drafts  # each with the time of its first default id
        self._precondition = precondition
        self._unique = unique
        self._after = after
        self.queued = time.monotonic()
        self.error: EsourceError | None = None
        self.appended = self.skipped = 0  # events
        self.first = self.last = b""
        self.end = 0  # where the next row after them begins

    def wait(self) -> "Receipt":
        """Block until the rows are committed: on disk, under ESOURCE_FSYNC=always.

        Raises `StorageError`, `PreconditionFailed`, `Conflict`; then none is in the file.
        """
        if not self._commit.done.is_set():
            self._commit.done.wait()
        error = self._commit.error or self.error
        if error:
            raise error.again() from error
        return self

    @property
    def failed(self) -> bool:
        """Whether the rows were refused, as far as it is known."""
        return bool(self._commit.error or self.error)

    def rows(self, end: int, newest_id: bytes, recent: Dedup | None) -> list[bytes]:
        """Return the rows to append at `end`, with their ids; on an error none."""
        self.appended = self.skipped = 0
        blocks = []
        seen: dict[bytes, bytes] = {}
        try:
            if self._after and self._after.failed:
                raise PreconditionFailed("what went before it was refused")
            for draft, micros in self._drafts:
                rows, events = tsv.stamp(draft, micros), draft.events
                if self._unique and recent:
                    rows, events = recent.new(rows, seen)
                    self.skipped += draft.events - events
                self.appended += events
                if rows:
                    blocks.append(rows)
            # Last, and not for rows that are all there: a retry is harmless.
            if blocks and self._precondition:
                self._precondition(end, newest_id)
        except EsourceError as error:
            self.error = error
            self.appended = 0
            return []
        if blocks:
            self.first = tsv.id_of(blocks[0])
            last = blocks[-1]
            self.last = tsv.id_of(last[last.rfind(b"\n", 0, -1) + 1 :])
        if recent:
            for rows in blocks:
                recent.add(rows)
        return blocks


class Commit:
    """Rows that are written and synced together; their publishers share one signal."""

    __slots__ = ("done", "error", "receipts", "size")

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.size = 0  # bytes of the rows, about
        self.done = Signal()
        self.error: EsourceError | None = None

    def append_to(self, log: Log, newest_id: bytes, recent: Dedup | None) -> tuple[bytes, int]:
        """Append to the log; return the rows if they are few, and where they begin. Blocks.

        Runs in a thread: it may be tens of megabytes, of which no step is more than one.
        """
        offset = end = log.end
        blocks = []
        for receipt in self.receipts:
            rows = receipt.rows(end, newest_id, recent)
            end += sum(map(len, rows))
            receipt.end = end
            newest_id = receipt.last or newest_id
            blocks += rows
        if blocks:
            if end - offset <= TAIL_BYTES:
                blocks = [b"".join(blocks)]
            offset = log.append(*blocks)
        return (blocks[0] if len(blocks) == 1 else b""), offset
