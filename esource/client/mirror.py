"""A copy of a channel on another hub, byte for byte and live.

The copy is the cursor: it ends where the mirror goes on, and each append names the end that it is
for (`If-Match`). So an append whose answer got lost is found in the copy, or is not there: nothing
is doubled, and what else writes to the copy is noticed.

    channel   |-- trimmed --|------------------------------------|
    copy                    |-- at the same distance --|-- next append
                                                       `after=` the place of that offset
"""

import re
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from typing import NamedTuple

from esource.client.patience import Patience, Stop
from esource.client.target import ETAG, Away, Kept, Refused, Target
from esource.errors import EsourceError
from esource.event import PLACE
from esource.rows.sse import Decoder

# What a hub that is sent rows gives or takes: an id where there is none, a CR, a byte order mark.
ALTERED = re.compile(rb"^\t|^\xef\xbb\xbf|\r", re.MULTILINE)
WAIT_SECONDS = 60
# What one append is made of: the hub would take 64 MiB, and a small one stalls nobody.
APPEND_BYTES = 1 << 22
TSV = {"Accept": "text/tab-separated-values"}


class Differs(EsourceError):
    """The copy is none, or cannot become one."""


class Place(NamedTuple):
    """Between two rows of a channel; `after=` takes it as text."""

    generation: str
    offset: int

    def __str__(self) -> str:
        return f"@{self.generation}-{self.offset}"


class Mirror:
    """One channel and its copy."""

    def __init__(self, channel: Target, copy: Target, stop: Stop) -> None:
        """Name both; nothing is asked yet."""
        self._channel = channel
        self._copy = copy
        self._stop = stop
        self._patience = Patience(stop)

    def run(self, told: Callable[[bytes, int], None], once: bool = False) -> None:
        """Copy what there is and what comes, until a signal; with `once`, what there is.

        `told` is called after each append, with its rows and how many bytes there still were when
        the hub was asked last. Raises `Differs`, `Refused`, and `Stopped` with nothing half done.
        """
        while True:
            try:
                self._go_on(told, once)
                return
            except Away as away:
                self._patience.wait(away)
            finally:
                self._channel.close()
                self._copy.close()

    def _go_on(self, told: Callable[[bytes, int], None], once: bool) -> None:
        """Copy from where the copy ends now; return at the channel's end, and only with `once`."""
        with self._stop.waiting():
            copy = self._copy.kept()
            place = self._place(copy)
        self._patience.works()
        while True:
            query = [("after", str(place) if place else "")]
            if not once:
                query.append(("wait", str(WAIT_SECONDS)))
            with self._stop.waiting():
                answer = self._channel.ask("GET", query, TSV, timeout=2.0 * WAIT_SECONDS)
            if place and answer.headers.get("Esource-Resume") != "exact":
                raise Differs(f"{self._channel.url} has nothing at {place}, where the copy ends")
            etag = ETAG.fullmatch(answer.headers.get("ETag", ""))  # not after a wait
            end = int(etag[2], 16) if etag else 0
            for rows in self._rows(answer):
                copy = self._append(rows, copy)
                if place:
                    place = place._replace(offset=place.offset + len(rows))
                told(rows, max(0, end - place.offset) if place else 0)
            if once:
                return
            if not place and copy.end:
                place = self._place(copy)

    def _place(self, copy: Kept) -> Place | None:
        """Return where the copy ends in the channel; None if it is empty. Raises `Differs`."""
        if not copy.end:
            return None
        beginning = place_after(self._channel, "")
        last = self._copy.text(self._copy.ask("GET", [("tail", "1")], TSV))
        if beginning:
            end = Place(beginning.generation, copy.end)
            before = end._replace(offset=copy.end - len(last))
            answer = self._channel.ask("GET", [("after", str(before)), ("limit", "1")], TSV)
            same = self._channel.text(answer)
            if same == last and answer.headers.get("Esource-Resume") in ("exact", "start"):
                return end
            if beginning.offset and copy.newest:  # begun when the channel had lost its beginning
                place = place_after(self._channel, copy.newest)
                if place:
                    return place
        raise Differs(
            f"{self._copy.url} is no copy of {self._channel.url}: its last row is not there"
        )

    def _rows(self, answer: HTTPResponse) -> Iterator[bytes]:
        """Yield the rows of an answer as they come, whole; raise `Away` if it breaks off."""
        rest = b""
        while True:
            with self._stop.waiting():
                piece = self._channel.piece(answer, APPEND_BYTES)
            rows, lf, rest = (rest + piece).rpartition(b"\n")
            if lf:
                yield rows + lf
            if not piece:
                return

    def _append(self, rows: bytes, copy: Kept) -> Kept:
        """Append rows to the copy, which is as said; return what it is then."""
        if bad := ALTERED.search(rows):
            row = rows[rows.rfind(b"\n", 0, bad.start()) + 1 :].partition(b"\n")[0]
            text = row[:80].decode("utf-8", "replace")
            raise Differs(f"{self._copy.url} would not keep this row byte for byte: {text!r}")
        fields = {"Content-Type": "text/tab-separated-values", "If-Match": copy.etag}
        try:
            answer = self._copy.ask("POST", (), fields, rows)
        except Refused as refused:
            if refused.status == 412:  # a try before it came through, or somebody else writes
                raise Away(str(refused)) from None
            raise
        self._copy.text(answer)
        etag = answer.headers.get("ETag", "")
        match = ETAG.fullmatch(etag)
        if not match or int(match[2], 16) != copy.end + len(rows):
            raise Differs(f"{self._copy.url} did not keep {len(rows)} bytes byte for byte")
        return copy._replace(end=copy.end + len(rows), etag=etag)


def place_after(channel: Target, id: str) -> Place | None:
    """Return the place behind the first event with an id, or with none that of the beginning.

    None if there is no such event, or nothing at all yet.
    """
    query = [("after", id), ("prime", "1"), ("timeout", "0"), ("limit", "1")]
    answer = channel.ask("GET", query, {"Accept": "text/event-stream"})
    decoder = Decoder()
    first, blank, _ = channel.text(answer).partition(b"\n\n")
    decoder.feed(first + blank)
    place = PLACE.fullmatch(decoder.last_id)
    if not place or (id and answer.headers.get("Esource-Resume") != "exact"):
        return None
    return Place(place[1].decode(), int(place[2]))
