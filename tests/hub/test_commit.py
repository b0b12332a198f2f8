"""What receipts are asked, once or again, and what is left of an answer that did not count."""

from pathlib import Path

import pytest

from esource.errors import Conflict, PreconditionFailed
from esource.event import Event
from esource.hub.channel import Channel
from esource.hub.commit import Receipt, Wish
from esource.hub.view import View
from esource.log.file import FileLog
from esource.rows import tsv
from tests.harness.channels import append_by_hand, channel_of, publish

FAR = b"2999-12-31T23:59:59.999999Z"
UNIQUE = Wish(unique=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.tsv"


def never(view: View) -> None:
    raise PreconditionFailed("never")


def queued(channel: Channel, id: bytes, data: bytes, wish: Wish) -> Receipt:
    return channel.append([tsv.draft(Event(id, b"", data))], wish)


def test_a_refusal_does_not_count_once_others_have_appended(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    append_by_hand(path, b"2\t\tby hand\n")

    def after_two(view: View) -> None:
        if view.newest_id != b"2":
            raise PreconditionFailed("not after it")

    receipt = queued(channel, b"3", b"three", Wish(after_two)).wait()
    assert (receipt.first, receipt.appended) == (b"3", 1)


def test_a_yes_does_not_count_once_others_have_appended(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    asked: list[bytes] = []

    def append_at_first(view: View) -> None:
        if not asked:
            append_by_hand(path, b"2\t\tby hand, right now\n")
        asked.append(view.newest_id)

    queued(channel, b"3", b"three", Wish(append_at_first)).wait()
    assert list(dict.fromkeys(asked)) == [b"1", b"2"]


def test_a_plain_event_behind_one_with_a_precondition_does_not_free_it(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    asked: list[bytes] = []

    def append_at_first(view: View) -> None:
        if not asked:
            append_by_hand(path, b"2\t\tby hand, right now\n")
        asked.append(view.newest_id)

    wished = queued(channel, b"3", b"three", Wish(append_at_first))
    plain = queued(channel, b"4", b"four", Wish())
    assert (wished.wait().appended, plain.wait().appended) == (1, 1)
    assert list(dict.fromkeys(asked)) == [b"1", b"2"]


def test_what_is_asked_twice_counts_once(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    append_by_hand(path, FAR + b"\t\tby hand\n")
    receipt = queued(channel, b"", b"later than that", Wish()).wait()
    assert (receipt.appended, receipt.first) == (1, b"3000-01-01T00:00:00.000000Z")
    assert channel.stats.events == 2


def test_rows_are_where_they_stand_though_others_have_appended_before_them(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    append_by_hand(path, b"2\t\tby hand\n")
    receipt = queued(channel, b"3", b"three", Wish()).wait()
    assert receipt.view.version == channel.view.version
    assert receipt.view.end == path.stat().st_size


def test_a_refused_event_leaves_nothing_for_the_next_one_of_its_commit(path: Path) -> None:
    channel = channel_of(path)
    refused = queued(channel, b"1", b"refused", Wish(never, unique=True))
    accepted = queued(channel, b"1", b"other", UNIQUE)
    with pytest.raises(PreconditionFailed):
        refused.wait()
    assert accepted.wait().appended == 1
    assert path.read_bytes() == b"1\t\tother\n"
    assert queued(channel, b"1", b"other", UNIQUE).wait().skipped == 1


def test_what_goes_after_a_refused_event_is_refused(path: Path) -> None:
    channel = channel_of(path)
    refused = queued(channel, b"1", b"refused", Wish(never))
    after = channel.append([tsv.draft(Event(b"2", b"", b"two"))], after=refused)
    for receipt in (refused, after):
        with pytest.raises(PreconditionFailed):
            receipt.wait()
    assert not path.exists()


def test_an_id_is_there_once_though_it_comes_twice_in_a_commit(path: Path) -> None:
    channel = channel_of(path)
    first, again = (queued(channel, b"1", b"one", UNIQUE) for _ in "12")
    other = queued(channel, b"1", b"another", UNIQUE)
    assert (first.wait().appended, again.wait().skipped) == (1, 1)
    with pytest.raises(Conflict):
        other.wait()
    assert path.read_bytes() == b"1\t\tone\n"


def looking_back(path: Path, events: int) -> Channel:
    return Channel(path.stem, lambda: FileLog(path), events).open()


def test_no_more_ids_are_kept_of_a_commit_than_are_looked_back_for(path: Path) -> None:
    channel = looking_back(path, 2)
    receipts = [queued(channel, b"%d" % id, b"x", UNIQUE) for id in (*range(9), 8, 0)]
    assert [receipt.wait().skipped for receipt in receipts] == [0] * 9 + [1, 0]


def test_what_is_published_otherwise_is_known_to_the_next_one_of_its_commit(path: Path) -> None:
    channel = channel_of(path)
    queued(channel, b"0", b"so that ids are remembered", UNIQUE).wait()
    queued(channel, b"1", b"one", Wish())
    assert queued(channel, b"1", b"one", UNIQUE).wait().skipped == 1


def test_default_ids_of_one_commit_increase_by_what_the_one_before_took(path: Path) -> None:
    channel = channel_of(path)
    publish(channel, Event(FAR, b"", b""))  # so that the clock gives none of them
    batch = tsv.Draft(b"\t\ta\n\t\tb\n\t\tc\n", 3, 3)
    first, second = channel.append([batch]), channel.append([batch])
    assert (first.wait().last, second.wait().first) == (
        b"3000-01-01T00:00:00.000002Z", b"3000-01-01T00:00:00.000003Z",
    )  # fmt: skip


def test_a_retry_with_a_precondition_is_harmless(path: Path) -> None:
    channel = channel_of(path)
    queued(channel, b"1", b"one", UNIQUE).wait()
    assert queued(channel, b"1", b"one", Wish(never, unique=True)).wait().skipped == 1
