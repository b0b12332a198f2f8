"""What years do to channels, by clocks that the test sets: closing, removing, and a jump."""

import logging
import os
from functools import partial
from pathlib import Path

import pytest

from esource.event import Event, default_id
from esource.hub.channel import Channel
from esource.hub.retention import QUIET_SECONDS, Retention
from esource.log.folder import Folder
from esource.rows import tsv
from esource.rows.find import Verdict
from esource.rules import Rule
from tests.harness.channels import append_by_hand, read_to_end

DAY = 86_400.0
BEGIN = 4_000_000_000.0  # later than any file is: so the ids say how old events are


class Years:
    """Channels in a folder, and clocks that go as they are told."""

    def __init__(self, folder: Path, *rules: Rule) -> None:
        self.folder = folder
        self.rules = rules
        self.now, self.monotonic = BEGIN, 1000.0
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        self.logs = Folder(self.folder, "never", self.rules)
        self.channels: dict[str, Channel] = {}
        self.retention = Retention(self.logs, self.channel, lambda: (self.now, self.monotonic))

    def channel(self, name: str) -> Channel:
        if name not in self.channels:
            self.channels[name] = Channel(name, partial(self.logs.open, name)).open()
        return self.channels[name]

    def publish(self, count: int = 1) -> None:
        micros = round(self.now * 1e6)
        events = [Event(default_id(micros + n), b"", b"x" * 100) for n in range(count)]
        self.channel("orders").append([tsv.draft(event) for event in events]).wait()

    def wait(self, seconds: float, looks: int = 1) -> None:
        """Let time go by."""
        for _ in range(looks):
            self.now += seconds / looks
            self.monotonic += seconds / looks
            self.retention.look()

    def after(self, id: bytes) -> tuple[int, Verdict]:
        _, offset, verdict = self.channel("orders").after(self.channel("orders").refresh(), id)
        return offset, verdict

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("orders.[0-9]*.tsv"))


@pytest.fixture
def years(tmp_path: Path) -> Years:
    return Years(tmp_path, Rule("orders", age=round(30 * DAY)))


def test_a_year_of_a_channel_and_of_a_follower_that_sleeps_for_weekends(years: Years) -> None:
    everything: list[Event] = []
    place = 0
    for day in range(365):
        for _ in range(2):
            years.publish(12)
            years.wait(DAY / 2)
        if day % 100 == 50:
            years.start()  # within the first hour nothing is removed
        channel = years.channel("orders")
        log = channel.refresh().log
        if day % 7 < 5:
            new = read_to_end(channel, log, place)
            everything += new
            place = log.end
        assert len(years.files()) <= 13
        first = next(iter(tsv.decode(log.read(log.begin, 1, log.end))))
        is_new = everything and first.id > everything[0].id
        assert not is_new or first.id < default_id(round((years.now - 29.9 * DAY) * 1e6))
        assert day % 100 == 50 or first.id > default_id(round((years.now - 34 * DAY) * 1e6))
    ids = [event.id for event in everything]
    assert ids == sorted(set(ids))
    assert len(ids) >= 363 * 24
    assert place > 363 * 24 * 100
    # And one that has slept for a year is told so, and gets what is kept.
    begin = years.channel("orders").view.log.begin
    assert years.after(ids[0]) == (begin, Verdict.TRIMMED)
    assert years.after(ids[-1])[1] is Verdict.EXACT
    assert years.after(b"never") == (begin, Verdict.TRIMMED)


def test_a_channel_that_nobody_publishes_to_is_closed_and_removed_by_age(years: Years) -> None:
    years.publish()
    years.wait(2.9 * DAY)
    assert len(years.files()) == 1
    years.wait(0.2 * DAY)
    assert len(years.files()) == 2
    years.wait(26.8 * DAY)
    assert len(years.files()) == 2
    years.wait(0.2 * DAY)
    assert [path.stat().st_size for path in years.files()] == [0]
    log = years.channel("orders").refresh().log
    assert log.begin == log.end > 100


def test_nothing_is_removed_within_an_hour_of_the_start_which_says_what_will_be(
    years: Years, caplog: pytest.LogCaptureFixture
) -> None:
    years.publish(3)
    years.wait(4 * DAY)
    years.now += 60 * DAY
    years.start()
    years.retention.announce()
    size = years.files()[0].stat().st_size
    assert f"1 segments with {size} bytes will be removed in an hour" in caplog.text
    years.wait(QUIET_SECONDS - 1, looks=3)
    assert len(years.files()) == 2
    caplog.set_level(logging.INFO)
    years.wait(2)
    assert len(years.files()) == 1
    assert f"orders: removed 1 files, {size} bytes" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("jump", [-400 * DAY, 61, 400 * DAY])
def test_nothing_is_removed_for_an_hour_once_the_clock_has_jumped(
    years: Years, caplog: pytest.LogCaptureFixture, jump: float
) -> None:
    years.publish(3)
    years.wait(4 * DAY)
    before = years.files()
    assert len(before) == 2
    years.now += jump
    years.wait(60)
    assert "the clock has jumped" in caplog.text
    years.wait(QUIET_SECONDS - 61, looks=10)
    assert years.files()[:1] == before[:1]
    years.now -= jump  # somebody has set it right
    years.wait(60)
    years.wait(QUIET_SECONDS, looks=10)
    assert years.files()[:1] == before[:1]
    years.wait(40 * DAY)
    assert before[0] not in years.files()


def test_what_comes_back_counts_within_a_look_and_a_gap_is_named(years: Years) -> None:
    for _ in range(4):
        years.publish(3)
        years.wait(3.1 * DAY)
    files, log = years.files(), years.channel("orders").refresh().log
    assert len(files) == 5
    content = log.pread(0, log.end)
    away = files[1].rename(years.folder / "away")
    years.wait(60)
    assert log.start == int(files[2].name.split(".")[1])
    [gap] = years.logs.gaps()
    assert gap.startswith("orders")
    assert files[1].name in gap or files[0].name in gap
    assert years.channel("orders").after(years.channel("orders").view, b"x")[2] is Verdict.TRIMMED
    away.rename(files[1])
    years.wait(60)
    assert years.logs.gaps() == []
    log = years.channel("orders").refresh().log
    assert (log.start, log.pread(0, log.end)) == (0, content)


def test_late_rows_are_moved_to_the_end_once_and_followers_get_them(
    years: Years, caplog: pytest.LogCaptureFixture
) -> None:
    years.publish(3)
    years.wait(3.1 * DAY)
    years.publish()
    channel = years.channel("orders")
    end, closed = channel.view.end, years.files()[0]
    size = closed.stat().st_size
    append_by_hand(closed, b"late\t\tone\nhalf\t\tof")
    years.wait(60)
    append_by_hand(closed, b" it\n")
    years.wait(60, looks=3)
    assert closed.stat().st_size == size
    expected = [Event(b"late", b"", b"one"), Event(b"half", b"", b"of it")]
    assert read_to_end(channel, channel.view.log, end) == expected
    assert channel.view.newest_id == b"half"
    assert list(years.folder.glob(".*late*")) == []
    append_by_hand(closed, b"late\t\tone\nnever a row")
    os.utime(closed, (BEGIN / 4, BEGIN / 4))
    years.wait(60, looks=3)
    assert closed.stat().st_size == size
    assert read_to_end(channel, channel.view.log, end) == [*expected, expected[0]]
    [saved] = years.folder.glob("*.torn-*")
    assert saved.read_bytes() == b"never a row"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_one_channel_that_cannot_be_tended_keeps_no_other_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    years = Years(tmp_path, Rule("*", age=round(30 * DAY)))
    (tmp_path / "bad0.tsv").write_text("1\t\tx\n")
    (tmp_path / f"bad0.{0:020}.tsv").mkdir()
    (tmp_path / f"bad1.{7:020}.tsv").mkdir()
    for name in ("bad1", "last"):
        (tmp_path / f"{name}.tsv").write_text("1\t\tx\n")
    years.wait(31 * DAY)
    years.wait(31 * DAY)
    assert "bad0" in caplog.text
    assert [path.stat().st_size for path in tmp_path.glob("last.0*.tsv")] == [0]
