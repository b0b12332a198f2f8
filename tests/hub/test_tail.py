"""The last commits in memory: without a gap, and what is new encoded once for each way."""

import pytest

from esource.hub.malformed import Malformed
from esource.hub.stats import Stats
from esource.hub.tail import (
    KEPT_BYTES,
    READ_ROWS,
    TAIL_BYTES,
    TAIL_STRETCHES,
    Push,
    Stretch,
    Tail,
    read_stretch,
)
from esource.hub.view import View
from esource.log.memory import MemoryLogs
from esource.rows import sse
from esource.rows.formats import TSV

ROW = b"1\t\tone\n"


def tail() -> Tail:
    return Tail(Malformed(Stats()))


def test_after_a_gap_only_what_is_behind_it_is_kept() -> None:
    log, kept = MemoryLogs().open("orders"), tail()
    kept.keep(log, 0, ROW)
    kept.keep(log, 7, ROW)
    assert kept.at(log, 0)
    assert kept.until(log, 0, 100) == 100
    kept.keep(log, 21, ROW)  # and of 14 to 21 nothing is known
    assert kept.at(log, 0) is None
    assert kept.until(log, 0, 100) == 21
    assert isinstance(kept.at(log, 21), Stretch)


def test_another_log_has_nothing_in_memory() -> None:
    logs = MemoryLogs()
    log, other, kept = logs.open("orders"), logs.open("others"), tail()
    kept.keep(log, 0, ROW)
    assert kept.at(log, 0)
    assert kept.at(other, 0) is None
    kept.keep(other, 7, ROW)
    assert kept.at(log, 0) is None


def test_no_more_is_kept_than_has_room() -> None:
    log, kept = MemoryLogs().open("orders"), tail()
    for n in range(TAIL_STRETCHES + 1):
        kept.keep(log, n * 7, ROW)
    assert kept.at(log, 0) is None
    assert kept.at(log, 7)
    large = b"2\t\t" + b"x" * TAIL_BYTES + b"\n"
    end = (TAIL_STRETCHES + 1) * 7
    kept.keep(log, end, large)
    assert kept.at(log, end - 7) is None
    assert kept.at(log, end)


def test_what_is_new_is_as_each_follower_wants_it() -> None:
    log, kept = MemoryLogs().open("orders"), tail()
    kept.keep(log, 0, ROW)
    view = View(log, 7, b"1")
    ways = [Push(sse.encode, bytes), Push(TSV.encode, bytes), Push(TSV.encode, bytes.upper)]
    for _ in "12":
        told = [kept.news(view, log, 0, way) for way in ways]
        assert [news.data for news in told] == [b"id: 1\ndata: one\n\n", ROW, ROW.upper()]
        assert {(news.events, news.end, news.is_all) for news in told} == {(1, 7, True)}
    assert kept.news(view, log, 7, ways[0]) == (b"", 0, 7, True)
    kept.keep(log, 7, ROW)
    assert not kept.news(View(log, 21, b"1"), log, 0, ways[0]).is_all


def test_a_later_commit_that_is_sent_as_well_leaves_nothing_to_wake_for() -> None:
    log, kept = MemoryLogs().open("orders"), tail()
    kept.keep(log, 0, ROW)
    kept.keep(log, 7, ROW)
    news = kept.news(View(log, 7, b"1"), log, 0, Push(TSV.encode, bytes))  # of the first one
    assert (news.end, news.is_all) == (14, True)


def test_a_follower_that_is_told_later_gets_a_later_commit_as_well() -> None:
    log, kept = MemoryLogs().open("orders"), tail()
    push = Push(TSV.encode, bytes)
    kept.keep(log, 0, ROW)
    first = View(log, 7, b"1")
    assert kept.news(first, log, 0, push).end == 7
    kept.keep(log, 7, ROW)  # while the followers are told of the first one
    assert kept.news(first, log, 0, push).end == 14


@pytest.mark.parametrize("size", [1, 60, KEPT_BYTES, KEPT_BYTES + 100])
@pytest.mark.parametrize("few", [1, 10, READ_ROWS, 2 * READ_ROWS])
def test_a_stretch_counts_its_events_whatever_it_was_cut_from(size: int, few: int) -> None:
    rows = b"1\t\t\n" * few + (b"2\t\t" + b"x" * size + b"\n") * 10 + b"3\t\t\n" * few
    log, kept = MemoryLogs().open("orders"), tail()
    log.append(None, [rows])
    kept.keep(log, 0, rows)

    def read(offset: int) -> Stretch | None:
        return read_stretch(log, offset, len(rows), Malformed(Stats()))

    for offset, take in (0, read), (kept.until(log, -1, len(rows)), lambda at: kept.at(log, at)):
        while offset < len(rows):
            stretch = take(offset)
            assert stretch is not None
            assert stretch.rows == rows[offset : stretch.end]
            assert stretch.rows.endswith(b"\n")
            assert stretch.encoded(TSV.encode) == (stretch.rows, stretch.rows.count(b"\n"))
            offset = stretch.end
