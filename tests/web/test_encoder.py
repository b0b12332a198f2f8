"""What of a read waits for a turn to be encoded, and what does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from esource.hub.malformed import Malformed
from esource.hub.stats import Stats
from esource.hub.tail import Stretch
from esource.log.memory import MemoryLog, MemoryLogs
from esource.rows.formats import NDJSON
from esource.web import encoder
from esource.web.encoder import SMALL_BYTES, Encoder
from esource.web.query import Selection
from tests.harness import Hub
from tests.harness.measures import bytes_read

ROW = b"id\ttype\t%b\n" % (b"x" * 100)
ROWS = ROW * (4 * SMALL_BYTES // len(ROW))


@pytest.mark.parametrize(
    ("wanted", "turns"),
    [
        (Selection(limit=1), 0), (Selection(limit=100), 0), (Selection(limit=200), 1),
        (Selection(), 1), (Selection(limit=1, types=frozenset([b"other"])), 1),
        (Selection(limit=1, until=b"other"), 1),
    ],
)  # fmt: skip
def test_a_few_rows_of_many_wait_for_no_turn(
    monkeypatch: pytest.MonkeyPatch, wanted: Selection, turns: int
) -> None:
    taken = 0

    @contextmanager
    def turn() -> Iterator[None]:
        nonlocal taken
        taken += 1
        yield

    monkeypatch.setattr(encoder, "turn", turn)
    stats = Stats()
    channel: Any = SimpleNamespace(stats=stats, draining=False)
    stretch = Stretch(MemoryLog(MemoryLogs(), "rows"), 0, ROWS, Malformed(stats))
    encode = Encoder(channel, wanted, NDJSON, follows=True)
    count = encode(stretch).count(b"\n")
    assert taken == turns
    if wanted.is_whole or not (wanted.types or wanted.until):
        assert count == stats.delivered == (wanted.limit or ROWS.count(b"\n"))
    assert encode.is_done == (wanted.limit == count)


@pytest.mark.files("what the worker reads of a file is counted")
@pytest.mark.parametrize("query", ["follow=1&after=0-500", "after=0-500", "format=json"])
def test_who_wants_few_events_has_few_read(hub: Hub, query: str) -> None:
    rows = b"".join(b"0-%d\t\t%b\n" % (n, b"x" * 100) for n in range(20_000))
    hub.file("few-events").write_bytes(rows)
    assert hub.get(f"/few-events?{query}&limit=1").status == 200  # it is opened

    def read_for(limit: int) -> int:
        before = bytes_read(hub)
        assert hub.get(f"/few-events?{query}&limit={limit}").status == 200
        return bytes_read(hub) - before

    least = read_for(0)  # the search for the id, too
    assert read_for(1) - least < 2 * SMALL_BYTES
    assert read_for(2000) - least > 200_000
