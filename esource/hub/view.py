"""What a channel is at one moment: a value, replaced in one assignment.

Whatever needs a consistent picture holds a view: a read that waits for a search, an answer with its
`ETag`, a precondition, a download. It stays true however the channel goes on.
"""

from typing import NamedTuple

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
        for _, rows in log.backwards(end):
            place, found = tsv.last(rows, 1)
            if found:
                return cls(log, end, tsv.id_of(rows[place:]), mark(log, end))
        return cls(log, end, b"", mark(log, end))

    @property
    def version(self) -> str:
        """What names these rows: another with every append, for every log, and if they change."""
        return f"{self.log.generation}-{self.end:x}-{self.mark:x}" if self.end else "0-0"
