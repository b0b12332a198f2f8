"""The writer: who it keeps alive, how often it tries, and what it counts."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gevent
import pytest
from gevent.event import Event as Signal

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


# -- at an engine --------------------------------------------------------------------------


class Engine(MemoryLog):
    """A log that is waited for, if it is told so; the next tries may be `spoiled`."""

    is_remote = True

    def __init__(self) -> None:
        self.logs = MemoryLogs()
        super().__init__(self.logs, "orders")
        self.begun = 0
        self.may_go: list[Signal] = []  # of each commit that waits
        self.spoiled: list[Moved | StorageError] = []

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        self.begun += 1
        if self.may_go:
            self.may_go.pop(0).wait()
        if self.spoiled:
            spoiled = self.spoiled.pop()
            if isinstance(spoiled, StorageError):
                raise spoiled.again()  # or its traceback would hold the rows
            return spoiled
        return super().write(expected, blocks, least, asked)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def at_engine(engine: Engine) -> Iterator[Channel]:
    channel = Channel("orders", lambda: engine).open()
    channel.append([DRAFT]).wait()
    with gevent.Timeout(PATIENCE_SECONDS):
        yield channel


def draft(id: bytes) -> tsv.Draft:
    return tsv.draft(Event(id, b"", b"some"))


def test_an_engine_works_on_the_next_commit_while_the_first_is_answered(
    engine: Engine, at_engine: Channel
) -> None:
    engine.may_go = [first := Signal(), second := Signal()]
    begun: list[int] = []
    receipt = at_engine.append([draft(b"2")], done=lambda: begun.append(engine.begun))
    gevent.idle()
    later = at_engine.append([draft(b"3")])
    first.set()
    receipt.wait()
    gevent.idle()
    assert begun == [3], "with the one of the fixture"
    assert not later.is_done
    assert at_engine.view.newest_id == b"2", "what is on its way is not shown"
    second.set()
    assert later.wait().first == b"3"
    assert at_engine.append([draft(b"4")]).wait().appended == 1


@pytest.mark.parametrize(
    "look",
    [Channel.refresh, lambda channel: channel.heed(lambda _: False), lambda c: c.tend(0, False)],
    ids=["a read", "news", "what time asks"],
)
def test_others_have_their_turn_before_the_next_commit_is_begun(
    engine: Engine, at_engine: Channel, look: Callable[[Channel], object]
) -> None:
    engine.may_go = [first := Signal(), second := Signal()]
    at_engine.append([draft(b"2")])
    gevent.idle()
    MemoryLog(engine.logs, "orders").append(None, [b"theirs\t\tsome\n"])
    looking = gevent.spawn(look, at_engine)
    while not at_engine._head.is_wanted:
        gevent.sleep(0.001)
    later = at_engine.append([draft(b"3")])
    first.set()
    looking.get()
    assert at_engine.view.newest_id == b"2"
    assert not later.is_done
    second.set()
    later.wait()


@pytest.mark.parametrize(
    ("spoiled", "is_stored"),
    [(Moved("it has grown", None), True), (StorageError("it is away"), False)],
    ids=["is moved", "fails"],
)
def test_a_commit_that_was_begun_early_is_as_any_other(
    engine: Engine, at_engine: Channel, spoiled: Moved | StorageError, is_stored: bool
) -> None:
    engine.may_go = [first := Signal(), second := Signal()]
    at_engine.append([draft(b"2")])
    gevent.idle()
    later = at_engine.append([draft(b"3")])
    first.set()
    while engine.begun < 3:
        gevent.sleep(0.001)
    engine.spoiled = [spoiled, spoiled] if is_stored else [spoiled]  # in the loop, in a thread
    second.set()
    if is_stored:
        assert later.wait().appended == 1
    else:
        with pytest.raises(StorageError, match="it is away"):
            later.wait()
    assert at_engine.append([draft(b"4")]).wait().first == b"4"
    assert (b"3\t\tsome\n" in engine.pread(0, engine.end)) is is_stored
