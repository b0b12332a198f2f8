"""The newest view: replaced at once, and found again whatever others did to the log."""

import threading
from pathlib import Path

import gevent
import pytest

from esource.errors import StorageError
from esource.event import Event
from esource.hub.channel import Channel
from esource.hub.commit import Wish
from esource.hub.view import View
from esource.log import Log, disk
from esource.log.file import FileLog
from esource.rows import tsv
from tests.harness.channels import append_by_hand, at_a_gate, channel_of, publish, read_to_end

ROWS = b"1\t\tone\n2\t\ttwo\n"
SOON_SECONDS = 0.2  # in which what need not wait is done; what must not be done in it, is not


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.tsv"


def test_a_log_is_opened_once_however_many_ask(path: Path) -> None:
    path.write_bytes(ROWS)
    opened = []

    def open_log() -> FileLog:
        opened.append(FileLog(path))
        return opened[-1]

    channel = Channel("orders", open_log)
    gevent.joinall([gevent.spawn(channel.open) for _ in range(10)], raise_error=True)
    assert opened == [channel.view.log]


def test_who_opens_a_log_to_read_it_does_not_look_again_whether_it_has_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS)
    looks, real = [], FileLog.is_current

    def is_current(log: FileLog) -> bool:
        looks.append(log)
        return real(log)

    monkeypatch.setattr(FileLog, "is_current", is_current)
    channel = Channel("orders", lambda: FileLog(path))
    assert channel.refresh().end == len(ROWS)
    assert looks == []
    append_by_hand(path, ROWS)
    assert channel.refresh().end == 2 * len(ROWS)
    assert len(looks) == 1


def test_who_asks_while_a_log_is_opened_for_another_looks_for_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found may be older than the question."""
    path.write_bytes(ROWS)
    channel = Channel("orders", lambda: FileLog(path))
    with at_a_gate(monkeypatch, View, "of", once=True) as gate:
        first = gevent.spawn(channel.refresh)
        gate.wait_until_reached()
        append_by_hand(path, ROWS)
        second = gevent.spawn(channel.refresh)
        second.join(SOON_SECONDS)
    assert second.get().end == 2 * len(ROWS)
    assert first.get().end >= len(ROWS)


def test_a_view_of_what_others_did_never_replaces_that_of_a_later_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    append_by_hand(path, b"2\t\tby hand\n")
    with at_a_gate(monkeypatch, View, "of", once=True) as gate:
        looking = gevent.spawn(channel.refresh)
        gate.wait_until_reached()
        publishing = gevent.spawn(publish, channel, Event(b"3", b"", b"three"))
        publishing.join(SOON_SECONDS)
    gevent.joinall([looking, publishing], raise_error=True)
    assert channel.view.end == path.stat().st_size
    assert channel.view.newest_id == b"3"


def test_a_read_does_not_wait_for_a_commit_that_is_at_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    before = channel.view
    with at_a_gate(monkeypatch, disk, "sync") as gate:
        publishing = gevent.spawn(publish, channel, Event(b"2", b"", b"two"))
        gate.wait_until_reached()
        assert gevent.spawn(channel.refresh).get(timeout=10) == before
    publishing.get()
    assert channel.refresh().newest_id == b"2"


def test_a_crowd_looks_once_at_what_others_did(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(ROWS)
    channel = channel_of(path)
    looks, look = [], FileLog.is_current

    def counted(log: FileLog) -> bool:
        looks.append(log)
        return look(log)

    monkeypatch.setattr(FileLog, "is_current", counted)
    append_by_hand(path, b"3\t\tby hand\n")
    crowd = [gevent.spawn(channel.refresh) for _ in range(100)]
    gevent.joinall(crowd, raise_error=True)
    assert {each.value.newest_id for each in crowd} == {b"3"}
    assert len(looks) == 1


def test_a_view_that_could_not_be_made_is_made_at_the_next_look(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS)
    channel = channel_of(path)
    append_by_hand(path, b"3\t\tby hand\n")

    def fail(log: Log) -> View:
        raise StorageError("cannot read it")

    monkeypatch.setattr(View, "of", fail)
    with pytest.raises(StorageError):
        channel.refresh()
    assert channel.view.newest_id == b"2"
    monkeypatch.undo()
    assert channel.refresh().newest_id == b"3"


def test_followers_of_a_file_that_was_edited_go_on_after_the_newest_id(path: Path) -> None:
    path.write_bytes(ROWS)
    channel = channel_of(path)
    old = channel.view
    new = path.with_name("new")
    new.write_bytes(b"0\t\tbefore all\n1\t\tone\n2\t\tedited\n3\t\tthree\n")
    new.replace(path)
    channel.refresh()
    assert [event.id for event in read_to_end(channel, old.log, old.end)] == [b"3"]


def test_the_hub_waits_in_threads_and_not_in_the_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS)
    channel = channel_of(path)
    threads = []
    is_current = FileLog.is_current

    def where(log: FileLog) -> bool:
        threads.append(threading.get_ident())
        return is_current(log)

    monkeypatch.setattr(FileLog, "is_current", where)
    channel.refresh()
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("what", ["the file", "its folder", "the file, and another was there"])
def test_followers_of_a_file_that_was_away_go_on_where_they_were(tmp_path: Path, what: str) -> None:
    path = tmp_path / "events" / "orders.tsv"
    path.parent.mkdir()
    path.write_bytes(ROWS)
    channel = channel_of(path)
    log, end = channel.view.log, channel.view.end
    moved = path if what.startswith("the file") else path.parent
    aside = moved.with_name("aside")
    moved.rename(aside)
    assert channel.refresh().end == 0
    if what.endswith("there"):
        assert publish(channel, Event(b"3", b"", b"three")).id == b"3"
        assert [event.id for event in read_to_end(channel, log, end)] == [b"3"]
    empty = channel.view
    aside.rename(moved)
    append_by_hand(path, b"4\t\tby hand\n")
    channel.refresh()
    for old, offset in ((log, end), (empty.log, empty.end)):
        assert [event.id for event in read_to_end(channel, old, offset)][-1:] == [b"4"]
        assert len(read_to_end(channel, old, offset)) <= 2
    again = channel.append([tsv.draft(Event(b"2", b"", b"two"))], Wish(unique=True)).wait()
    assert again.skipped == 1


def test_another_file_under_the_name_of_one_that_is_away_is_read_from_its_start(
    path: Path,
) -> None:
    path.write_bytes(ROWS)
    channel = channel_of(path)
    log, end = channel.view.log, channel.view.end
    path.rename(path.with_name("aside"))
    channel.refresh()
    path.write_bytes(ROWS.replace(b"t", b"T") + b"3\t\tthree\n")
    channel.refresh()
    assert len(read_to_end(channel, log, end)) == 3
