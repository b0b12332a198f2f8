"""Rows that are no events: each is named once, and not too many of them."""

from typing import Any

import gevent
import pytest

from esource.hub.malformed import NAMED_ROWS, Malformed
from esource.hub.stats import Stats
from esource.log import Log
from esource.log.memory import MemoryLogs


def log_of(rows: bytes) -> Log:
    log = MemoryLogs().open("orders")
    log.append(0, [rows])
    return log


@pytest.fixture
def naming(monkeypatch: pytest.MonkeyPatch) -> list[gevent.Greenlet]:
    """The greenlets that name rows."""
    spawned = []
    spawn = gevent.spawn

    def remember(*call: Any) -> gevent.Greenlet:
        spawned.append(spawn(*call))
        return spawned[-1]

    monkeypatch.setattr(gevent, "spawn", remember)
    return spawned


def test_rows_that_two_formats_meet_at_once_are_named_once(
    caplog: pytest.LogCaptureFixture, naming: list[gevent.Greenlet]
) -> None:
    stats = Stats()
    rows = b"no event\n1\t\tone\nnor this\n"
    malformed, log = Malformed(stats), log_of(rows)
    malformed.note(log, 0, rows, 2)
    malformed.note(log, 0, rows, 2)
    gevent.joinall(naming, raise_error=True)
    assert [text.partition(":")[0] for text in caplog.messages] == [
        "orders, line 1", "orders, line 3",
    ]  # fmt: skip
    assert stats.malformed == 4  # each time that they were met


def test_a_file_of_another_kind_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, naming: list[gevent.Greenlet]
) -> None:
    malformed = Malformed(Stats())
    rows = b"no event\n" * 10 * NAMED_ROWS
    malformed.note(log_of(rows), 0, rows, 10 * NAMED_ROWS)
    gevent.joinall(naming, raise_error=True)
    assert len(caplog.messages) == NAMED_ROWS + 1
    assert caplog.messages[-1] == "orders: more such lines are not named"
