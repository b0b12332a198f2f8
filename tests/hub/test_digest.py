"""The SHA-256 of a log: near, far, of an earlier view, and of one that grows."""

import gc
import hashlib
import weakref
from pathlib import Path

import gevent
import pytest

from esource.errors import StorageError
from esource.event import Event
from esource.hub import digest
from esource.hub.channel import Channel
from esource.hub.digest import Digest
from esource.hub.work import Work
from tests.harness.channels import append_by_hand, channel_of, publish
from tests.harness.waiting import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "NEAR_BYTES", 1000)
    monkeypatch.setattr(digest, "PIECE_BYTES", 7)


def with_rows(path: Path, count: int) -> Channel:
    path.write_bytes(b"id\t\t3456789\n" * count)
    return channel_of(path)


def sha256(path: Path, end: int | None = None) -> bytes:
    return hashlib.sha256(path.read_bytes()[:end]).digest()


def test_a_digest_is_of_a_view_also_an_earlier_one_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    assert channel.digest(channel.view, Work()) == hashlib.sha256().digest()
    for data in (b"one", b"two"):
        earlier = channel.view
        publish(channel, Event(b"", b"", data))
        assert channel.digest(channel.view, Work()) == sha256(path)
        assert channel.digest(earlier, Work()) == sha256(path, earlier.end)


def test_many_that_ask_at_once_get_each_the_digest_of_its_view(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    asked = []
    for n in range(20):
        publish(channel, Event(b"", b"", b"%d" % n * 9))
        asked.append((channel.view.end, gevent.spawn(channel.digest, channel.view, Work())))
    for end, asking in asked:
        assert asking.get() == sha256(path, end)


def test_what_is_far_away_is_hashed_in_the_background_for_a_later_request(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = with_rows(path, 200)
    earlier = channel.view
    with gevent.Timeout(PATIENCE_SECONDS):
        assert channel.digest(channel.view, Work()) is None
        while (found := channel.digest(channel.view, Work())) is None:
            gevent.sleep(0.001)
        assert found == sha256(path)
        append_by_hand(path, b"id\t\tmore\n" * 200)
        while (found := channel.digest(channel.refresh(), Work())) is None:
            gevent.sleep(0.001)
        assert found == sha256(path)
    assert channel.digest(earlier, Work()) is None  # to hash it anew would take long


def test_another_file_of_the_name_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = with_rows(path, 3)
    earlier, first = channel.view, sha256(path)
    assert channel.digest(earlier, Work()) == first
    (tmp_path / "new").write_bytes(b"id\t\tothers\n" * 4)
    (tmp_path / "new").replace(path)
    assert channel.digest(channel.refresh(), Work()) == sha256(path)
    assert channel.digest(earlier, Work()) == first


def test_nothing_goes_on_with_a_log_that_has_lost_its_name(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = with_rows(path, 1_000_000)
    assert channel.digest(channel.view, Work()) is None
    log = weakref.ref(channel.view.log)
    gevent.sleep(0.01)
    path.unlink()
    channel.refresh()
    with gevent.Timeout(2.0):  # to its end it would take longer
        while log():
            gc.collect()
            gevent.sleep(0.001)


def test_a_file_that_was_cut_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = with_rows(path, 10)
    with path.open("r+b") as file:
        file.truncate(20)
    with gevent.Timeout(PATIENCE_SECONDS), pytest.raises(StorageError, match="ended before"):
        Digest(channel.view.log).of(channel.view.end, Work())
