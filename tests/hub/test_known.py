"""What a writer remembers of a log, and what it must read again."""

import errno
from pathlib import Path

import pytest

from esource.errors import StorageError
from esource.event import Event
from esource.hub.channel import Channel
from esource.hub.commit import Receipt, Wish
from esource.hub.known import FEED_BYTES
from esource.rows import tsv
from esource.rows.dedup import digests
from tests.harness import Hub
from tests.harness.channels import append_by_hand, channel_of, publish
from tests.harness.measures import memory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.tsv"


def unique(channel: Channel, id: bytes, data: bytes = b"x") -> Receipt:
    return channel.append([tsv.draft(Event(id, b"", data))], Wish(unique=True)).wait()


@pytest.mark.parametrize("seen", [True, False])
def test_events_of_others_are_there_already(path: Path, seen: bool) -> None:
    """Whether they were taken in, or a plain event was appended right behind them."""
    channel = channel_of(path)
    assert unique(channel, b"1").appended == 1
    append_by_hand(path, b"2\t\tx\n")
    if seen:
        channel.refresh()
    else:
        publish(channel, Event(b"3", b"", b"x"))
    assert unique(channel, b"2").skipped == 1


def test_events_of_others_are_there_already_however_many(path: Path) -> None:
    channel = channel_of(path)
    assert unique(channel, b"1").appended == 1
    append_by_hand(path, b"long\t\t%b\n2\t\tx\n" % (b"x" * FEED_BYTES))
    assert unique(channel, b"2").skipped == 1


def test_what_is_known_grows_with_rows_of_others_and_is_not_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(path)
    old = [b"%d\t\t%b\n" % (n, b"x" * 1000) for n in range(3000)]
    append_by_hand(path, b"".join(old))
    assert unique(channel, b"7", b"x" * 1000).skipped == 1
    append_by_hand(path, b"long\t\t%b\n" % (b"x" * FEED_BYTES))
    looked_at: list[int] = []

    def counted(rows: bytes) -> dict[bytes, bytes]:
        looked_at.append(len(rows))
        return digests(rows)

    monkeypatch.setattr("esource.hub.known.digests", counted)
    assert unique(channel, b"long", b"x" * FEED_BYTES).skipped == 1
    assert unique(channel, b"7", b"x" * 1000).skipped == 1
    assert sum(looked_at) < 2 * FEED_BYTES


def test_only_the_last_events_are_looked_at_and_no_more_bytes_than_are_allowed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_by_hand(path, b"".join(b"%d\t\t%b\n" % (n, b"x" * 1000) for n in range(1000)))
    monkeypatch.setattr("esource.hub.known.DEDUP_BYTES", 300_000)
    channel = channel_of(path)
    for id, there in ((b"999", 1), (b"710", 1), (b"100", 0)):
        assert unique(channel, id, b"x" * 1000).skipped == there


def test_large_events_that_are_looked_back_over_are_not_all_in_memory(own_hub: Hub) -> None:
    with own_hub.file("large").open("wb") as file:
        for n in range(200):
            file.write(b"%d\t\t%b\n" % (n, b"x" * (1 << 20)))
    assert own_hub.post("/small?id=1&unique=1", "x").status == 201
    before = memory(own_hub, "VmHWM")
    assert own_hub.post("/large?id=0&unique=1", b"x" * (1 << 20)).status == 200
    assert memory(own_hub, "VmHWM") - before < 30_000_000


def test_what_is_published_otherwise_is_there_already(path: Path) -> None:
    channel = channel_of(path)
    assert unique(channel, b"1").appended == 1
    publish(channel, Event(b"2", b"", b"x"))
    assert unique(channel, b"2").skipped == 1


def test_events_of_a_file_that_was_moved_away_are_not_there(path: Path) -> None:
    channel = channel_of(path)
    assert unique(channel, b"1").appended == 1
    path.rename(path.with_name("archive"))
    assert unique(channel, b"1").appended == 1
    assert path.read_bytes() == b"1\t\tx\n"


def test_events_that_could_not_be_stored_are_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(path)
    assert unique(channel, b"1").appended == 1

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("esource.log.disk.sync", fail)
        with pytest.raises(StorageError):
            unique(channel, b"2")
    assert unique(channel, b"2").appended == 1
    assert path.read_bytes() == b"1\t\tx\n2\t\tx\n"


def test_ids_are_later_than_those_of_a_file_that_was_moved_away(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"2999-12-31T23:59:59.999999Z", b"", b""))
    path.rename(path.with_name("archive"))
    path.write_bytes(b"2020-01-01T00:00:00.000000Z\t\tof the new one\n")
    assert publish(channel, Event(b"", b"", b"")).id == b"3000-01-01T00:00:00.000000Z"
