"""The writer: who it keeps alive, how often it tries, and what it counts."""

import gc
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import gevent
import pytest

from esource.errors import StorageError
from esource.event import Event
from esource.hub.channel import Channel
from esource.log import Appended, Moved, Written, disk
from esource.log.memory import MemoryLog, MemoryLogs
from esource.rows import tsv
from tests.harness.channels import at_a_gate, channel_of
from tests.harness.waiting import PATIENCE_SECONDS

DRAFT = tsv.draft(Event(b"1", b"", b"one"))


def test_a_channel_lives_until_what_was_queued_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another one of its name might write meanwhile."""
    channel = channel_of(tmp_path / "orders.tsv")
    with at_a_gate(monkeypatch, disk, "sync") as gate:
        receipt = channel.append([DRAFT])
        alive = weakref.ref(channel)
        del channel
        gate.wait_until_reached()
        gc.collect()
        assert alive()
    assert receipt.wait().appended == 1


class Restless(MemoryLog):
    """A log that others change whenever somebody is about to append."""

    tries = 0

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        self.tries += 1
        return Moved("it has changed", None)


def test_a_commit_that_others_always_precede_is_given_up() -> None:
    log = Restless(MemoryLogs(), "orders")
    channel = Channel("orders", lambda: log).open()
    with gevent.Timeout(PATIENCE_SECONDS), pytest.raises(StorageError, match="again and again"):
        channel.append([DRAFT]).wait()
    assert 1 < log.tries < 1000
    assert channel.stats.failed_commits == 1


def test_a_defect_is_told_to_the_publishers_and_the_next_ones_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")

    def broken(fd: int) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", broken)
        with pytest.raises(StorageError, match="ZeroDivisionError"):
            channel.append([DRAFT]).wait()
    assert channel.append([tsv.draft(Event(b"2", b"", b"two"))]).wait().first == b"2"


def test_a_defect_behind_the_answers_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")

    def broken(*about: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr(channel.followers, "show", broken)
    with at_a_gate(monkeypatch, disk, "sync") as gate:
        first = channel.append([DRAFT])
        gate.wait_until_reached()
        behind = channel.append([tsv.draft(Event(b"2", b"", b"two"))])
    later = [tsv.draft(Event(b"3", b"", b"three"))]
    with gevent.Timeout(PATIENCE_SECONDS):
        assert (first.wait().first, behind.wait().first) == (b"1", b"2")
        assert channel.append(later).wait().first == b"3"


def test_rows_that_come_while_a_commit_is_written_are_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    with at_a_gate(monkeypatch, disk, "sync") as gate:
        first = channel.append([DRAFT])
        gate.wait_until_reached()
        late = [channel.append([tsv.draft(Event(b"2", b"", b"late"))]) for _ in "12"]
    assert [receipt.wait().appended for receipt in (first, *late)] == [1, 1, 1]
    assert channel.stats.commit_events.counts[0] == 1  # the two were written together


def test_a_commit_takes_as_long_as_the_disk_and_not_as_its_answers(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    channel.append([DRAFT], done=lambda: time.sleep(0.3)).wait()
    with gevent.Timeout(PATIENCE_SECONDS):
        while not sum(channel.stats.commit_seconds.counts):
            gevent.sleep(0.001)
    assert channel.stats.commit_seconds.sum < 0.3
