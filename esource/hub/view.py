"""What a channel is at one moment: a value, replaced in one assignment.

Whatever needs a consistent picture holds a view: a read that waits for a search, an answer with its
`ETag`, a precondition, a download. It stays true however the channel goes on.
"""

from typing import NamedTuple

from esource.event import PLACE
from esource.log import Log, mark
from esource.rows import tsv


class View(NamedTuple):
    """A log, and how far it is committed."""

    log: Log
    end: int  # where readers stop
    newest_id: bytes  # of the event before `end`; empty if there is none
    mark: int = 0  # the checksum of the last 4 KiB before `end`

    @classmethod
    def of(cls, log: Log, end: int | None = None) -> "View":
        """Return the view of what a log holds, up to an end. Blocks; raises `StorageError`."""
        end = log.end if end is None else end
        _, rows = last_event(log, end)
        return cls(log, end, tsv.id_of(rows) if rows else b"", mark(log, end))

    @property
    def version(self) -> str:
        """What names these rows: another with every append, for every log, and if they change."""
        return f"{self.log.generation}-{self.end:x}-{self.mark:x}" if self.end else "0-0"

    def offset_of(self, id: bytes) -> int | None:
        """Return the offset of a place, if the id is that of one in this view. Blocks."""
        match = PLACE.fullmatch(id)
        if not match:
            return None
        offset = int(match[2])
        if not self.log.begin <= offset <= self.end:
            return None
        if match[1].decode() != self.log.generation_at(offset):
            return None
        is_whole = offset == self.log.begin or self.log.pread(offset - 1, 1) == b"\n"
        return offset if is_whole else None


class Place(NamedTuple):
    """Where a reader stands in a log: between two rows."""

    log: Log
    offset: int

    @property
    def id(self) -> bytes:
        """What names it, to go on from there.

        In a log that has no rows yet, that is a name which none ever has: its start.
        """
        return b"@%b-%d" % (self.log.generation_at(self.offset).encode() or b"0", self.offset)


def last_event(log: Log, end: int) -> tuple[int, bytes]:
    """Return (the offset of the last event before an offset, the rows from it on); none: no rows.

    Blocks; raises `StorageError`.
    """
    for offset, rows in log.backwards(end):
        place, found = tsv.last(rows, 1)
        if found:
            return offset + place, rows[place:]
    return log.begin, b""
