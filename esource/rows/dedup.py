"""The last events of a log by id, so that a publisher can send an event again. Pure.

    id -> digest of its content: what follows the id in its row; the newest event is the last

The same id with the same content is the same event, which is there already. The same id with
other content is a mistake. Only the last events are kept: a publisher tries again soon.
"""

from collections.abc import Mapping
from hashlib import blake2b
from itertools import islice

from esource.errors import Conflict
from esource.event import MAX_ID_BYTES
from esource.rows import tsv

DIGEST_BYTES = 16
# Of a dictionary with two million ids one step of growth holds the interpreter for 0.1 s. (With
# more parts each is so small that malloc keeps it: 40 MiB more were left after such a batch.)
PARTS = 4


class Fresh:
    """The digests of events that are to be appended together, by id."""

    __slots__ = ("latest", "parts")

    def __init__(self) -> None:
        """Begin with none."""
        self.latest: dict[bytes, bytes] = {}  # in order; of many, the last are enough
        self.parts: list[dict[bytes, bytes]] = []  # all, by hash; none before `Dedup.new`


class Dedup:
    """The ids of the last `limit` events that have one, each with a digest of its content."""

    def __init__(self, limit: int, rows: bytes = b"") -> None:
        """Begin with the events of whole rows."""
        self._limit = limit
        self._digests: dict[bytes, bytes] = {}
        self.add(digests(rows))

    def add(self, digests: dict[bytes, bytes]) -> None:
        """Take note of events: their digests by id, in order."""
        for id, digest in self.last(digests).items():
            self._digests.pop(id, None)  # the newest is the last in the dictionary
            self._digests[id] = digest
        while len(self._digests) > self._limit:
            del self._digests[next(iter(self._digests))]

    def last(self, digests: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the last of them: as many as are kept, or up to twice as many."""
        more = len(digests) - self._limit
        return dict(islice(digests.items(), more, None)) if more > self._limit else digests

    def new(self, rows: bytes, fresh: Fresh, earlier: Mapping[bytes, bytes]) -> tuple[bytes, int]:
        """Return the rows whose events are neither there nor in `fresh` or `earlier`, and how many.

        All rows must be events with an id. The digests of the new ones are put into `fresh`,
        by id; they are not added. Raises `Conflict` if an id is known with other content.
        """
        new = []
        fresh.parts = fresh.parts or [{} for _ in range(PARTS)]
        parts, latest = fresh.parts, fresh.latest
        for row in rows.split(b"\n")[:-1]:
            id, _, content = row.partition(b"\t")
            digest = _digest(content)
            part = parts[hash(id) % PARTS]
            known = part.get(id) or earlier.get(id) or self._digests.get(id)
            if known is None:
                part[id] = latest[id] = digest
                new.append(row + b"\n")
            elif known != digest:
                raise Conflict(f"the id {id.decode()!r} is that of an event with other content")
        fresh.latest = self.last(latest)
        return b"".join(new), len(new)


def digests(rows: bytes) -> dict[bytes, bytes]:
    """Return the digest of each event in whole rows by its id; without an id it cannot come again.

    Of an id that stands there twice the last one counts, and is the last in order.
    """
    found: dict[bytes, bytes] = {}
    for row in rows.split(b"\n"):
        id, _, content = row.partition(b"\t")
        if 0 < len(id) <= MAX_ID_BYTES and tsv.is_event(row):  # a longer one cannot be sent
            found.pop(id, None)
            found[id] = _digest(content)
    return found


def _digest(content: bytes) -> bytes:
    # What is shorter cannot be mistaken for a digest; it has a tab, so it is not empty.
    if len(content) < DIGEST_BYTES:
        return content
    return blake2b(content, digest_size=DIGEST_BYTES).digest()
