"""The committer: what shares a sync, whom a fault hurts, and when the loop waits for the disk."""

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from esource.errors import StorageError, StorageFull
from esource.event import Event
from esource.hub import committer as module
from esource.hub.channel import Channel
from esource.hub.commit import SOON_BYTES, SOON_EVENTS, Commit, Receipt, Wish
from esource.hub.committer import PAUSE_SECONDS, QUICK_SECONDS, STEADY, Committer, Pace
from esource.hub.view import View
from esource.log import Appended, Log, Moved, Written, disk
from esource.log.file import FileLog
from esource.log.filesystem import FileSystem
from esource.log.folder import Folder
from esource.log.memory import MemoryLog, MemoryLogs
from esource.rows import tsv
from tests.harness.channels import append_by_hand, at_a_gate, publish
from tests.harness.waiting import PATIENCE_SECONDS

COUNT = 5


def eio() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def enospc() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


Failure = Callable[[], Exception]  # an error that was raised would hold what it was raised in


class Syncs:
    """What is synced, and where: the file system as a whole, or one file."""

    def __init__(self) -> None:
        self.all = 0
        self.one = 0
        self.in_loop = 0
        self.fails: Failure | None = None  # what each does
        self._loop = threading.get_ident()

    def note(self, is_all: bool) -> None:
        self.all += is_all
        self.one += not is_all
        self.in_loop += threading.get_ident() == self._loop
        if self.fails:
            raise self.fails()


class Channels:
    """Some channels of a folder, with one committer, each with an event."""

    def __init__(self, path: Path, count: int = COUNT) -> None:
        self.path = path
        self.folder = Folder(path)
        self.committer = Committer(self.folder.sync_all)
        self.all = [self.channel(f"channel-{n}") for n in range(count)]
        for _ in "12":  # the file system is looked at in the first round
            for receipt in self.append(b"before"):
                receipt.wait()

    def channel(self, name: str) -> Channel:
        def opened() -> Log:
            return self.folder.open(name)

        return Channel(name, opened, committer=self.committer).open()

    def append(self, data: bytes, wish: Wish = Wish()) -> list[Receipt]:  # noqa: B008
        """Publish to each, in one round; return what tells of them."""
        return [channel.append([draft(data)], wish) for channel in self.all]

    def stored(self) -> list[list[bytes]]:
        """Return the data of each, as it is in the file and in the view, after those before."""
        found = []
        for channel in self.all:
            view = channel.refresh()
            rows = view.log.pread(0, view.end)
            assert (self.path / f"{channel.name}.tsv").read_bytes() == rows
            found.append([event.data for event in tsv.decode(rows)][2:])
        return found

    def check(self) -> None:
        """The next event of each is stored, and a refresh sees it."""
        before = self.stored()
        with gevent.Timeout(PATIENCE_SECONDS):
            for receipt in self.append(b"after"):
                receipt.wait()
            assert self.stored() == [[*data, b"after"] for data in before]
            for channel in self.all:
                append_by_hand(self.path / f"{channel.name}.tsv", b"x\t\tby hand\n")
            assert self.stored() == [[*data, b"after", b"by hand"] for data in before]
            for receipt in self.append(b"last"):
                receipt.wait()


def draft(data: bytes = b"x") -> tsv.Draft:
    return tsv.draft(Event(b"", b"", data))


def outcome(receipt: Receipt) -> str:
    """Return how a publisher is answered, within a while."""
    try:
        with gevent.Timeout(PATIENCE_SECONDS):
            receipt.wait()
    except StorageError as error:
        return error.text
    return "stored"


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    """Count the syncs; the file system is sure, and nothing else is written to it."""
    syncs = Syncs()
    real, real_all = disk.sync, FileSystem._sync

    def sync(fd: int) -> None:
        syncs.note(is_all=False)
        real(fd)

    def sync_all(self: FileSystem) -> float:
        syncs.note(is_all=True)
        return real_all(self)

    monkeypatch.setattr(disk, "sync", sync)
    monkeypatch.setattr(FileSystem, "_sync", sync_all)
    monkeypatch.setattr("esource.log.filesystem._is_sure", lambda device: True)
    monkeypatch.setattr(FileSystem, "_has_much_to_write", lambda self: False)
    return syncs


@pytest.fixture
def channels(tmp_path: Path, syncs: Syncs) -> Channels:
    channels = Channels(tmp_path)
    syncs.all = syncs.one = syncs.in_loop = 0
    return channels


# -- rounds ------------------------------------------------------------------------------------


class Remote(MemoryLog):
    """A log at an engine, which answers once a signal is given, if there is one."""

    is_remote = True
    signal: Signal | None = None

    def write(
        self, expected: int | None, blocks: Sequence[bytes], least: bytes = b"",
        asked: float | None = None,
    ) -> Written | Appended | Moved:  # fmt: skip
        self.thread = threading.get_ident()
        if self.signal:
            self.signal.wait()
        return super().write(expected, blocks, least, asked)


def test_a_commit_at_an_engine_waits_for_no_other() -> None:
    """And takes no thread, once the channel's rows are known."""
    logs, committer, signal = MemoryLogs(), Committer(), Signal()
    held_up, other = Remote(logs, "held-up"), Remote(logs, "other")
    slow = Channel("held-up", lambda: held_up, committer=committer).open()
    quick = Channel("other", lambda: other, committer=committer).open()
    for channel in (slow, quick):
        channel.append([draft()]).wait()
    held_up.signal = signal
    with gevent.Timeout(PATIENCE_SECONDS):
        held = slow.append([draft()])
        for _ in range(3):
            quick.append([draft()]).wait()
        assert not held.is_done
        signal.set()
        held.wait()
    assert held_up.thread == other.thread == threading.get_ident()


@pytest.mark.parametrize("theirs", [b"1\t\ttheirs\n", 200_000 * b"1\t\ttheirs\n"])
def test_a_commit_behind_few_rows_of_another_hub_takes_no_thread(theirs: bytes) -> None:
    logs = MemoryLogs()
    log = Remote(logs, "shared")
    channel = Channel("shared", lambda: log).open()
    channel.append([draft()]).wait()
    logs.open("shared").append(None, [theirs])
    channel.append([draft()]).wait()
    first = channel.append([draft()]).wait().first
    assert (log.thread == threading.get_ident()) == (len(theirs) < 100)
    again = channel.append([draft(b"again")]).wait()
    assert (log.thread, again.view) == (threading.get_ident(), View.of(channel.view.log))
    assert again.first > first


def test_commits_of_many_channels_are_one_sync(channels: Channels, syncs: Syncs) -> None:
    assert [outcome(receipt) for receipt in channels.append(b"in it")] == ["stored"] * COUNT
    assert (syncs.all, syncs.one) == (1, 0)
    assert channels.stored() == [[b"in it"]] * COUNT


def test_one_commit_is_a_sync_of_its_file(channels: Channels, syncs: Syncs) -> None:
    publish(channels.all[0], Event(b"", b"", b"x"))
    assert (syncs.all, syncs.one) == (0, 1)


def test_what_comes_while_a_round_is_at_the_disk_is_the_next_one(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_a_gate(monkeypatch, FileSystem, "_sync") as gate:
        first = channels.append(b"1")
        gate.wait_until_reached()
        second = channels.append(b"2") + channels.append(b"3")
    assert {outcome(receipt) for receipt in first + second} == {"stored"}
    assert syncs.all == 2


def test_nothing_is_shown_before_it_is_synced(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [channel.view.end for channel in channels.all]
    with at_a_gate(monkeypatch, FileSystem, "_sync") as gate:
        receipts = channels.append(b"in it")
        gate.wait_until_reached()
        assert [channel.refresh().end for channel in channels.all] == ends
        assert not any(receipt.is_done for receipt in receipts)
    assert {outcome(receipt) for receipt in receipts} == {"stored"}
    assert all(c.view.end > end for c, end in zip(channels.all, ends, strict=True))


def test_without_a_sure_file_system_each_file_is_synced(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileSystem, "_has_much_to_write", lambda self: True)
    assert {outcome(receipt) for receipt in channels.append(b"in it")} == {"stored"}
    assert (syncs.all, syncs.one) == (0, COUNT)


def test_a_commit_without_rows_and_one_that_is_not_synced_share_a_round(
    tmp_path: Path, syncs: Syncs
) -> None:
    committer = Committer()
    channel = Channel(
        "never", lambda: FileLog(tmp_path / "never.tsv", "never"), committer=committer
    )
    channel.open().append([tsv.draft(Event(b"1", b"", b"x"))]).wait()
    syncs.one = 0
    again = channel.append([tsv.draft(Event(b"1", b"", b"x"))], Wish(unique=True))
    assert again.wait().skipped == 1
    channel.append([draft()]).wait()
    assert syncs.one == 0


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [eio, ZeroDivisionError])
def test_a_sync_that_fails_refuses_its_whole_round_and_no_other(
    channels: Channels, syncs: Syncs, failure: Failure
) -> None:
    syncs.fails = failure
    refused = [outcome(receipt) for receipt in channels.append(b"refused")]
    syncs.fails = None
    assert all("could not be synced" in text for text in refused)
    assert channels.stored() == [[]] * COUNT
    channels.check()


@pytest.mark.parametrize("failure", [eio, ZeroDivisionError])
def test_a_file_that_cannot_be_synced_alone_refuses_its_own_events(
    channels: Channels, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    monkeypatch.setattr(FileSystem, "_has_much_to_write", lambda self: True)
    bad = channels.all[2].view.log

    def sync() -> float:
        raise failure()

    with monkeypatch.context() as patch:
        patch.setattr(bad, "sync", sync)
        told = [outcome(receipt) == "stored" for receipt in channels.append(b"in it")]
    assert told == [True, True, False, True, True]
    assert channels.stored() == [[b"in it"] if stored else [] for stored in told]
    channels.check()


def test_a_round_of_which_nobody_knows_whether_it_is_synced_is_refused(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(written: Sequence[Written]) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(channels.committer, "_sync_of", broken)
        refused = [outcome(receipt) for receipt in channels.append(b"refused")]
    assert all("could not be synced" in text for text in refused)
    assert channels.stored() == [[]] * COUNT
    channels.check()


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (eio, "cannot write"),
        (enospc, "No space"),
        (ZeroDivisionError, "ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_write_that_fails_refuses_its_own_events(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch, failure: Failure,
    text: str, in_thread: bool,
) -> None:  # fmt: skip
    bad = channels.all[2].view.log

    def write(end: int, blocks: Sequence[bytes]) -> Written:
        raise failure()

    if in_thread:
        channels.committer._writes.was_slow()
    with monkeypatch.context() as patch:
        patch.setattr(bad, "_append_at", write)
        told = [outcome(receipt) for receipt in channels.append(b"in it")]
    assert [answer == "stored" for answer in told] == [True, True, False, True, True]
    assert text in told[2]
    assert (syncs.all, syncs.one) == (1, 0)
    assert channels.stored() == [[b"in it"] if answer == "stored" else [] for answer in told]
    channels.check()


def test_a_full_disk_is_told_as_such(channels: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise enospc()

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        receipts = channels.append(b"refused")
        for receipt in receipts:
            with pytest.raises(StorageFull):
                receipt.wait()
    channels.check()


def test_a_defect_in_settling_hurts_its_channel_alone(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Commit.settle

    def settle(self: Commit, staged: Any, known: Any, *about: Any) -> Any:
        done = real(self, staged, known, *about)
        if known is channels.all[2]._writer._known:
            raise ZeroDivisionError
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Commit, "settle", settle)
        told = [outcome(receipt) == "stored" for receipt in channels.append(b"in it")]
    assert told == [True, True, False, True, True]
    assert channels.stored() == [[b"in it"]] * COUNT
    channels.check()


def test_rows_that_cannot_be_read_once_they_are_synced_are_not_there(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that was shut down may say that all is synced; a read tells."""
    bad = channels.all[2].view.log

    def pread(offset: int, size: int) -> bytes:
        raise StorageError("cannot read it")

    with monkeypatch.context() as patch:
        patch.setattr(bad, "pread", pread)
        told = [outcome(receipt) for receipt in channels.append(b"in it")]
    assert [text == "stored" for text in told] == [True, True, False, True, True]
    assert channels.stored() == [[b"in it"] if text == "stored" else [] for text in told]
    channels.check()


def test_rows_behind_those_of_others_that_cannot_be_read_are_not_there(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, path = channels.all[0], channels.path / "channel-0.tsv"
    append_by_hand(path, b"x\t\tby hand\n")

    def fail(self: Receipt, by: int) -> None:
        raise StorageError("cannot read it")

    with monkeypatch.context() as patch:
        patch.setattr(Receipt, "move", fail)
        assert outcome(channel.append([draft()])) != "stored"
    assert path.read_bytes().endswith(b"x\t\tby hand\n")
    publish(channel, Event(b"", b"", b"next"))
    channels.all[1:] = []
    assert channels.stored() == [[b"by hand", b"next"]]
    channels.check()


def test_rows_of_others_of_which_no_view_could_be_made_are_before_ours(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, path = channels.all[0], channels.path / "channel-0.tsv"
    append_by_hand(path, b"2999-01-01T00:00:00.000000Z\t\tby hand\n")

    def fail(log: FileLog, end: int | None = None) -> View:
        raise StorageError("cannot read it")

    with monkeypatch.context() as patch:
        patch.setattr(View, "of", fail)
        with pytest.raises(StorageError):
            channel.refresh()
    receipt = channel.append([draft(b"in it")]).wait()
    assert receipt.view.end == channel.view.end == path.stat().st_size
    assert channel.view == View.of(channel.view.log)
    assert receipt.first > b"2999"
    channels.all[1:] = []
    channels.check()


# -- those who do not wait ---------------------------------------------------------------------


def large() -> tsv.Draft:
    return tsv.Draft(b"large\t\t" + b"x" * SOON_BYTES + b"\n", 1, 0)


def many() -> tsv.Draft:
    return tsv.Draft(b"many\t\t\n" * (SOON_EVENTS + 2), SOON_EVENTS + 2, 0)


@pytest.mark.parametrize("batch", [large, many])
def test_a_large_commit_makes_nobody_wait(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch,
    batch: Callable[[], tsv.Draft],
) -> None:  # fmt: skip
    log = channels.all[0].view.log
    with at_a_gate(monkeypatch, log, "sync") as gate:
        behind = channels.all[0].append([batch()])
        gate.wait_until_reached()
        others = [channel.append([draft(b"in it")]) for channel in channels.all[1:]]
        assert {outcome(receipt) for receipt in others} == {"stored"}
        assert not behind.is_done
    assert outcome(behind) == "stored"
    # One sync of all would wait for all that the large one has written.
    assert (syncs.all, syncs.one) == ((0, COUNT) if batch is large else (1, 1))
    channels.all[:1] = []
    channels.check()


def test_a_log_that_others_have_changed_makes_nobody_wait(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_by_hand(channels.path / "channel-0.tsv", b"x\t\tby hand\n")
    with at_a_gate(monkeypatch, channels.all[0].view.log, "sync") as gate:
        receipts = channels.append(b"in it")
        gate.wait_until_reached()
        assert {outcome(receipt) for receipt in receipts[1:]} == {"stored"}
        assert not receipts[0].is_done
    assert outcome(receipts[0]) == "stored"
    assert (syncs.all, syncs.one) == (1, 1)
    channels.check()


def test_a_writer_that_is_ended_in_the_middle_goes_on_until_all_is_told(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_a_gate(monkeypatch, FileSystem, "_sync") as gate:
        receipts = channels.append(b"in it")
        gate.wait_until_reached()
        behind = channels.append(b"behind it")
        for channel in channels.all:
            assert channel._writer._greenlet
            channel._writer._greenlet.kill(block=False)
        gevent.sleep(0.01)
        assert not any(receipt.is_done for receipt in receipts)
    assert {outcome(receipt) for receipt in receipts + behind} == {"stored"}
    assert channels.stored() == [[b"in it", b"behind it"]] * COUNT
    channels.check()


def test_a_reader_that_is_ended_leaves_the_log_to_nobody_while_a_thread_reads_it(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those are that have not ended when the hub stops."""
    channel = channels.all[0]
    append_by_hand(channels.path / "channel-0.tsv", b"x\t\tby hand\n")
    with at_a_gate(monkeypatch, channel.view.log, "flush") as gate:
        reader = gevent.spawn(channel.refresh)
        gate.wait_until_reached()
        reader.kill()
        receipt = channel.append([draft(b"in it")])
        gevent.sleep(0.01)
        assert not receipt.is_done
    assert outcome(receipt) == "stored"
    channels.all[1:] = []
    channels.check()


# -- any order ---------------------------------------------------------------------------------


class Rounds(RuleBasedStateMachine):
    """Publishers of several channels, while others append by hand at any moment of a round.

    Of each channel there are two lists: rows that were acknowledged, and rows by hand. Its files
    hold both, each in its order, and nothing else.
    """

    @initialize(is_sure=st.booleans())
    def begin(self, is_sure: bool) -> None:
        self.home = TemporaryDirectory()
        self.path = Path(self.home.name)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("esource.log.filesystem._is_sure", lambda device: is_sure)
        self.patch.setattr(FileSystem, "_has_much_to_write", lambda self: False)
        self.fault = ""  # the kind of call that fails next
        self.may_fail = False
        # To which channel somebody appends, right after a kind of call, and at once or in halves.
        self.meanwhile: dict[str, deque[tuple[int, bytes, bool]]] = {
            kind: deque() for kind in ("look", "write", "sync")
        }
        self.rests: dict[int, bytes] = {}  # second halves of rows
        self.lock = threading.Lock()  # one program appends by hand
        for owner, name, kind in (
            (FileLog, "_is_as_left", "look"), (FileLog, "_look", "look"),
            (FileLog, "_append_at", "write"), (disk, "sync", "sync"), (FileSystem, "_sync", "sync"),
        ):  # fmt: skip
            self.watch(owner, name, kind)
        self.hub = Channels(self.path, 3)
        self.count = 0
        self.waiting: list[tuple[int, bytes, Receipt]] = []
        self.published: list[list[bytes]] = [[b"before"] * 2 for _ in range(3)]
        self.by_hand: list[list[bytes]] = [[] for _ in range(3)]
        self.shown = [b""] * 3

    def watch(self, owner: Any, name: str, kind: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any) -> Any:
            if self.fault == kind:
                self.fault = ""
                raise eio()
            found = real(*args)
            self.append_what_is_due(kind)
            return found

        self.patch.setattr(owner, name, call)

    def append_what_is_due(self, kind: str) -> None:
        with self.lock:
            if kind == "look":
                for n in list(self.rests):
                    append_by_hand(self.file(n), self.rests.pop(n))
            while self.meanwhile[kind]:
                self.append_now(*self.meanwhile[kind].popleft())

    def append_now(self, n: int, id: bytes, halved: bool) -> None:
        data = self.next(b"h")
        row = self.rests.pop(n, b"") + b"%b\t\t%b\n" % (id, data)
        cut = len(row) - 5 if halved else len(row)
        self.by_hand[n].append(data)
        append_by_hand(self.file(n), row[:cut])
        if halved:
            self.rests[n] = row[cut:]

    def file(self, n: int) -> Path:
        return self.path / f"channel-{n}.tsv"

    def next(self, prefix: bytes) -> bytes:
        self.count += 1
        return prefix + b"%d" % self.count

    @rule(n=st.integers(0, 2), unique=st.booleans(), size=st.sampled_from([0, 0, 0, SOON_BYTES]))
    def publish(self, n: int, unique: bool, size: int) -> None:
        data = self.next(b"p") + b"x" * size
        event = Event(b"named-%d" % self.count if unique else b"", b"", data)
        receipt = self.hub.all[n].append([tsv.draft(event)], Wish(unique=unique))
        self.waiting.append((n, data, receipt))

    @rule(
        n=st.integers(0, 2), kind=st.sampled_from(["look", "write", "sync"]), ahead=st.booleans(),
        halved=st.booleans(),
    )  # fmt: skip
    def append_in_the_middle(self, n: int, kind: str, ahead: bool, halved: bool) -> None:
        id = b"2999-01-01T00:00:00.%06dZ" % self.count if ahead else b"h"
        self.meanwhile[kind].append((n, id, halved))

    @rule(n=st.integers(0, 2))
    def append_by_hand(self, n: int) -> None:
        with self.lock:
            self.append_now(n, b"h", halved=False)

    @rule(kind=st.sampled_from(["write", "sync"]))
    def fail(self, kind: str) -> None:
        self.fault, self.may_fail = kind, True

    @rule(is_quick=st.booleans())
    def pace(self, is_quick: bool) -> None:
        """Have the disk waited for in the loop from now on, or in threads."""
        committer = self.hub.committer
        for pace in (committer._syncs, committer._sync_alls, committer._writes):
            pace._left, pace._until = (0, 0.0) if is_quick else (STEADY, 1e12)

    @rule(n=st.integers(0, 2))
    def read(self, n: int) -> None:
        try:
            self.hub.all[n].refresh()
        except StorageError:
            assert self.may_fail
        self.look(n)

    def look(self, n: int) -> bytes:
        """Return the rows that are shown; those that were shown before are among them."""
        view = self.hub.all[n].view
        rows = view.log.pread(0, view.end)
        assert rows.startswith(self.shown[n])
        assert rows.endswith(b"\n")
        assert view.newest_id == tsv.id_of(rows[rows.rfind(b"\n", 0, -1) + 1 :])
        self.shown[n] = rows
        return rows

    @rule()
    def wait(self) -> None:
        for n, data, receipt in self.waiting:
            if outcome(receipt) == "stored":
                self.published[n].append(data)
                assert receipt.appended == 1
            else:
                assert self.may_fail
            self.look(n)
        self.waiting.clear()
        self.may_fail = bool(self.fault)

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.wait()
        self.fault = ""
        for kind in ("sync", "write", "look", "look"):
            self.append_what_is_due(kind)
        for n, channel in enumerate(self.hub.all):
            self.published[n].append(self.next(b"p"))
            with gevent.Timeout(PATIENCE_SECONDS):
                publish(channel, Event(b"", b"", self.published[n][-1]))
            rows = self.look(n)
            assert self.file(n).read_bytes() == rows
            events = list(tsv.decode(rows))
            found = [event.data for event in events]
            assert [data for data in found if not data.startswith(b"h")] == self.published[n]
            # What stands behind a write that failed is saved aside with it.
            aside = b"".join(file.read_bytes() for file in self.path.glob(f"channel-{n}.tsv.torn*"))
            kept = [data for data in self.by_hand[n] if b"\t\t%b\n" % data not in aside]
            assert [data for data in found if data.startswith(b"h")] == kept
            newest = b""
            for event in events:
                if event.id[:1] == b"2":
                    assert event.data.startswith(b"h") or event.id > newest
                    newest = max(newest, event.id)
        self.patch.undo()
        self.home.cleanup()


Rounds.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, phases=[Phase.generate]
)
TestRounds = Rounds.TestCase


# -- the pace ----------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    with monkeypatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now[0])
        yield now


def test_a_call_is_made_in_the_loop_once_it_was_quick_in_a_row(clock: list[float]) -> None:
    pace = Pace(3)
    for seconds, is_quick in [
        (0.0001, False), (0.0001, False), (QUICK_SECONDS, False), (0.0001, False),
        (0.0001, False), (0.0001, True), (0.0001, True), (0.001, False), (0.0001, False),
    ]:  # fmt: skip
        pace.note(seconds)
        assert pace.is_quick == is_quick
    assert Pace().is_quick


def test_after_a_slow_call_there_is_none_in_the_loop_for_ever_longer(clock: list[float]) -> None:
    pace, pauses = Pace(), []
    least, most = PAUSE_SECONDS
    for _ in range(7):
        pace.was_slow()
        began = clock[0]
        while not pace.is_quick:
            clock[0] += 0.5
        pauses.append(clock[0] - began)
    assert pauses == [least, 4, 16, 64, most, most, most]
    clock[0] += 2 * most  # that went well
    pace.was_slow()
    assert not pace.is_quick
    clock[0] += 4 * most - 2 * most
    assert pace.is_quick
    clock[0] += 10 * most
    pace.was_slow()
    clock[0] += least
    assert pace.is_quick


def test_a_disk_that_gets_slow_holds_the_loop_up_once(
    channels: Channels, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", 10.0)
    monkeypatch.setattr(module, "SLOW_SECONDS", 10.0)
    for _ in range(STEADY + 2):
        for receipt in channels.append(b"x"):
            receipt.wait()
    assert syncs.in_loop >= 1
    syncs.in_loop = 0
    monkeypatch.setattr(module, "QUICK_SECONDS", 0.0)
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    for _ in range(5):
        for receipt in channels.append(b"x"):
            receipt.wait()
    assert syncs.in_loop == 1
    monkeypatch.setattr(module, "QUICK_SECONDS", 10.0)
    for _ in range(STEADY + 2):  # within the second it may be as quick as it will
        for receipt in channels.append(b"x"):
            receipt.wait()
    assert syncs.in_loop == 1


def test_a_write_that_waits_holds_the_loop_up_once(
    channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, where = [0], []

    def count() -> int:
        waits[0] += 1
        return waits[0]

    real = FileLog.write_soon

    def write_soon(self: FileLog, blocks: Sequence[bytes]) -> Written | None:
        where.append(threading.current_thread() is threading.main_thread())
        return real(self, blocks)

    monkeypatch.setattr(FileLog, "write_soon", write_soon)
    monkeypatch.setattr(module, "_waits", count)
    for receipt in channels.append(b"quick"):
        receipt.wait()
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.0)
    for _ in "12":
        for receipt in channels.append(b"slow"):
            receipt.wait()
    assert where == [True] * 2 * COUNT + [False] * COUNT
