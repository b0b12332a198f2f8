"""Rows that are read and sent together. Pure, but for the reading itself.

What is at the tail is read by thousands at a time, and encoded once for all of them.
"""

from esource.log.file import Log
from esource.rows.tsv import Encode

READ_BYTES = 1 << 18  # of rows encoded at a time, and
READ_ROWS = 4000  # how many: together about two milliseconds of the loop


class Batch:
    """Whole rows that stand together in a file, encoded at most once for each format."""

    __slots__ = ("_encoded", "malformed", "offset", "rows")

    def __init__(self, offset: int, rows: bytes) -> None:
        self.offset = offset
        self.rows = rows
        self.malformed: list[bytes] = []
        self._encoded: dict[Encode, tuple[bytes, int]] = {}

    def is_encoded(self, encode: Encode) -> bool:
        """Whether somebody has asked for this format before."""
        return encode in self._encoded

    def encoded(self, encode: Encode) -> tuple[bytes, int]:
        """Return the rows in a format, and how many events they are.

        (In TSV a row that is not an event counts, too: it is sent like all others.)
        """
        if encode not in self._encoded:
            self.malformed = []
            text = encode(self.rows, self.malformed)
            self._encoded[encode] = text, self.rows.count(b"\n") - len(self.malformed)
        return self._encoded[encode]


def read_few(log: Log, offset: int, end: int) -> bytes:
    """Return whole rows from an offset, as many as can be encoded without holding the loop."""
    rows = log.read(offset, READ_BYTES, end)
    return few_rows(rows) or rows


def few_rows(rows: bytes) -> bytes:
    """Return whole rows from the beginning, about `READ_ROWS` at most; empty if there is none."""
    size = len(rows)
    count = rows.count(b"\n")
    if count > READ_ROWS:
        size = size * READ_ROWS // count
    return rows[: rows.rfind(b"\n", 0, size) + 1]
