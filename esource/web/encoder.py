"""Stretches of rows -> the selected events of them, in a format, until the limit is reached."""

from esource.hub.channel import Channel
from esource.hub.loop import turn
from esource.hub.tail import Stretch
from esource.rows import tsv
from esource.rows.formats import TSV, Format
from esource.web.query import Selection

SMALL_BYTES = 1 << 14  # of rows, which need not wait for a turn to be encoded


class Encoder:
    """What one read is sent of a channel."""

    __slots__ = (
        "_channel", "_follows", "_format", "_is_over", "_remaining", "_separator", "_wanted",
    )  # fmt: skip

    def __init__(self, channel: Channel, wanted: Selection, format: Format, follows: bool) -> None:
        self._channel = channel
        self._follows = follows
        self._wanted = wanted
        self._format = format
        self._remaining = wanted.limit
        self._is_over = False  # since an event was sent that is the last
        self._separator = len(format.separator)  # the first event has none before it

    @property
    def is_done(self) -> bool:
        """Whether no more events are wanted."""
        return self._is_over or self._remaining == 0

    def __call__(self, stretch: Stretch) -> bytes:
        """Return what is to be sent of a stretch; it may be nothing. Waits for a turn, if large.

        On a stop, a follower's turn comes at once: it is nothing, and the stream ends.
        """
        encode = self._format.encode
        is_encoded = self._wanted.is_whole and stretch.is_encoded(encode)
        if len(stretch.rows) <= SMALL_BYTES or is_encoded or self._ends_soon(stretch.rows):
            return self._encode(stretch)
        with turn():
            if self._follows and self._channel.draining:
                return b""
            return self._encode(stretch)

    def _ends_soon(self, rows: bytes) -> bool:
        """Return whether the limit is reached with few rows: then these alone are looked at."""
        wanted = self._wanted
        if self._remaining is None or wanted.types or wanted.until is not None:
            return False
        return rows.count(b"\n", 0, SMALL_BYTES) >= self._remaining

    def _encode(self, stretch: Stretch) -> bytes:
        wanted = self._wanted
        # No row need be looked at to find a limit that is far; but TSV has rows that are not
        # events, and does not know how many.
        if wanted.is_whole or (
            self._remaining is not None
            and self._remaining >= stretch.count
            and not wanted.types
            and wanted.until is None
            and self._format is not TSV
        ):
            piece, count = stretch.encoded(self._format.encode)
            self._channel.stats.delivered += count
            if self._remaining is not None:
                self._remaining -= count
        else:
            rows = stretch.rows
            if wanted.types and not stretch.is_selected:
                rows = tsv.of_types(rows, wanted.types)
            if wanted.until is not None:
                rows, self._is_over = tsv.until(rows, wanted.until)
            if self._remaining is not None:
                rows, count = tsv.first(rows, self._remaining)
                self._remaining -= count
            malformed: list[bytes] = []
            piece = self._format.encode(rows, malformed)
            self._channel.stats.delivered += rows.count(b"\n") - len(malformed)
        if piece and self._separator:
            piece = piece[self._separator :]
            self._separator = 0
        return piece
