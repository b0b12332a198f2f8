"""What a channel is at one moment: a value, replaced in one assignment.

Whatever needs a consistent picture holds a view: a read that waits for a search, an answer with its
`ETag`, a precondition, a download. It stays true however the channel goes on.
"""

from typing import NamedTuple

from esource.log import Log
from esource.rows import tsv


class View(NamedTuple):
    """A log, and how far it is committed."""

    log: Log
    end: int  # where readers stop
    newest_id: bytes  # of the event before `end`; empty if there is none

    @classmethod
    def of(cls, log: Log) -> "View":
        """Return the view of all that a log holds. Blocks; raises `StorageError`."""
        end = log.end
        return cls(log, end, newest_id(log, end))

    @property
    def version(self) -> str:
        """What names these rows: another with every append, and for every log."""
        return f"{self.log.generation}-{self.end:x}" if self.end else "0-0"


def newest_id(log: Log, end: int) -> bytes:
    """Return the id of the last event before an offset; empty if there is none. Blocks."""
    for _, rows in log.backwards(end):
        place, found = tsv.last(rows, 1)
        if found:
            return tsv.id_of(rows[place:])
    return b""
