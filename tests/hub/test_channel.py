"""A channel in this process: publish, crash, reopen, resume, against a plain list."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import gevent
import gevent.socket
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esource.errors import PreconditionFailed, StorageError
from esource.event import Event, time_of
from esource.hub.channel import Channel
from esource.hub.commit import Commit, Wish
from esource.hub.followers import Follower
from esource.hub.tail import FIRST_BYTES, Push, Stretch, Tail
from esource.hub.view import View
from esource.hub.work import Work
from esource.log import Written
from esource.log.file import FileLog
from esource.rows import tsv
from esource.rows.find import Verdict
from esource.rows.formats import TSV
from tests.harness.channels import age, append_by_hand, channel_of, publish, read_to_end


class PublishCrashResume(RuleBasedStateMachine):
    """The channel file, as a list of events."""

    @initialize()
    def begin(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "orders.tsv"
        self.events: list[Event] = []
        self.channel = channel_of(self.path)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(
        id=st.sampled_from([b"", b"", b"a", b"b", b"2020-01-01T00:00:00.000000Z"]),
        data=st.text(st.characters(exclude_characters="\0\x0b\r", exclude_categories=["Cs"])),
    )
    def publish(self, id: bytes, data: str) -> None:
        self.events.append(publish(self.channel, Event(id, b"", data.encode())))

    @rule(count=st.integers(2, 20))
    def publish_together(self, count: int) -> None:
        events = [Event(b"", b"t", b"%d" % n) for n in range(count)]
        greenlets = [gevent.spawn(publish, self.channel, event) for event in events]
        published = [greenlet.get() for greenlet in greenlets]
        assert [event.data for event in published] == [event.data for event in events]
        self.events += sorted(published)  # in the order of their ids, which is the file's

    @rule(torn=st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")))
    def crash(self, torn: bytes) -> None:
        append_by_hand(self.path, torn)
        self.channel = channel_of(age(self.path))

    @rule(by_hand=st.sampled_from([b"x\t\tby hand\n", b"x\ty\tby hand\n"]))
    def somebody_appends(self, by_hand: bytes) -> None:
        append_by_hand(self.path, by_hand)
        self.events += tsv.decode(by_hand)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        ids = [event.id for event in self.events]
        id = data.draw(st.sampled_from([*ids, b"unknown", b"0"]))
        view, offset, verdict = self.channel.after(self.channel.refresh(), id)
        assert verdict is (Verdict.EXACT if id in ids else Verdict.START)
        start = ids.index(id) + 1 if id in ids else 0
        assert read_to_end(self.channel, view.log, offset) == self.events[start:]

    @invariant()
    def the_file_is_the_list(self) -> None:
        rows = self.path.read_bytes() if self.path.exists() else b""
        assert list(tsv.decode(rows)) == self.events
        assigned = [event.id for event in self.events if event.id.startswith(b"202")]
        fresh = [id for id in assigned if id != b"2020-01-01T00:00:00.000000Z"]
        assert fresh == sorted(set(fresh))


PublishCrashResume.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestPublishCrashResume = PublishCrashResume.TestCase


def test_events_published_together_share_one_write_and_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    publish(channel, Event(b"", b"", b"first"))
    appended: list[bytes] = []
    log = channel.view.log
    real_write = log.write_soon

    def write(blocks: Sequence[bytes]) -> Written | None:
        appended.extend(blocks)
        return real_write(blocks)

    monkeypatch.setattr(log, "write_soon", write)
    events = [gevent.spawn(publish, channel, Event(b"", b"", b"x")) for _ in range(100)]
    gevent.joinall(events)
    assert sum(rows.count(b"\n") for rows in appended) == 100
    assert len(appended) <= 2


def test_publishers_are_answered_before_readers_are_woken(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    publish(channel, Event(b"", b"", b"the first one looks for the newest id, and waits"))
    order = []

    def read() -> None:
        for stretch in channel.follow(channel.view.log, channel.view.end, heartbeat=10):
            order.append("reader")
            if stretch:
                return

    def publisher() -> None:
        publish(channel, Event(b"", b"", b"x"))
        order.append("publisher")

    readers = [gevent.spawn(read) for _ in range(200)]
    gevent.sleep(0)
    publishers = [gevent.spawn(publisher) for _ in range(5)]
    gevent.joinall([*readers, *publishers], raise_error=True)
    assert order == ["publisher"] * 5 + ["reader"] * 200


def test_publishers_are_answered_before_anything_is_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    publish(channel, Event(b"", b"", b"the first one looks for the newest id, and waits"))
    order = []
    take = Follower.take

    def note(follower: Follower, tail: Tail, view: View, now: float) -> bool:
        order.append("pushed")
        return take(follower, tail, view, now)

    def publisher() -> None:
        publish(channel, Event(b"", b"", b"x"))
        order.append("publisher")

    monkeypatch.setattr(Follower, "take", note)
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        push = Push(TSV.encode, bytes)
        view = channel.view
        stretches = channel.follow(view.log, view.end, heartbeat=10, client=ours, push=push)
        reader = gevent.spawn(next, stretches, None)
        gevent.sleep(0)
        gevent.joinall([gevent.spawn(publisher) for _ in range(5)], raise_error=True)
        received = b""
        while received.count(b"\n") < 5:
            received += theirs.recv(1 << 16)
        reader.kill()
    assert order == ["publisher"] * 5 + ["pushed"]


def test_a_read_begins_with_little_and_goes_on_with_more(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    path.write_bytes(b"".join(b"%d\t\t%b\n" % (n, b"x" * 100) for n in range(10_000)))
    channel = channel_of(path)
    read = list(channel.read(channel.view, 0))
    follower = Follower(channel.followers, channel.view.log, 0, None, None)
    followed = list(channel.go_on(follower, 60, 0))
    for stretches in (read, [each for each in followed if isinstance(each, Stretch)]):
        assert b"".join(each.rows for each in stretches) == path.read_bytes()
        sizes = [len(each.rows) for each in stretches]
        assert 0.8 * FIRST_BYTES < sizes[0] <= FIRST_BYTES
        assert len(sizes) < 12, "of a MiB"


def test_readers_at_the_tail_share_one_encoding(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    encodings = []

    def encode(rows: bytes, malformed: list[bytes]) -> bytes:
        encodings.append(rows)
        return rows

    def read() -> bytes:
        for stretch in channel.follow(channel.view.log, 0, heartbeat=10):
            if isinstance(stretch, Stretch):
                return stretch.encoded(encode)[0]
        return b""

    readers = [gevent.spawn(read) for _ in range(100)]
    gevent.sleep(0)
    event = publish(channel, Event(b"", b"", b"x"))
    gevent.joinall(readers, raise_error=True)
    assert [reader.value for reader in readers] == [tsv.encode(event)] * 100
    assert len(encodings) == 1


def test_a_reader_who_knows_an_event_from_the_file_before_it_is_committed_does_not_get_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    publish(channel, Event(b"", b"", b"first"))
    written, synced = threading.Event(), threading.Event()

    def sync(fd: int) -> None:
        written.set()
        assert synced.wait(10)

    monkeypatch.setattr("esource.log.disk.sync", sync)
    publisher = gevent.spawn(publish, channel, Event(b"", b"", b"second"))
    with gevent.Timeout(10):
        while not written.is_set():
            gevent.sleep(0.001)
    seen = tsv.id_of((tmp_path / "orders.tsv").read_bytes().split(b"\n")[1])
    reader = gevent.spawn(channel.after, channel.view, seen)
    gevent.sleep(0.01)  # it has looked, and has not found it
    synced.set()
    view, offset, verdict = reader.get()
    assert (view, offset, verdict) == (channel.view, channel.view.end, Verdict.EXACT)
    assert publisher.get().id == seen


def test_a_place_that_was_found_before_the_file_was_replaced_leads_into_the_new_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"seen"))
    view, offset, _ = channel.after(channel.view, b"1")
    path.rename(tmp_path / "archive.tsv")
    missed = [publish(channel, Event(id, b"", b"missed otherwise")) for id in (b"2", b"3")]
    assert read_to_end(channel, view.log, offset) == missed


def test_a_follower_that_is_behind_reads_a_file_that_was_moved_away_to_its_own_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    old = [publish(channel, Event(b"", b"", b"of the old file")) for _ in range(10)]
    log = channel.view.log
    path.rename(tmp_path / "archive.tsv")
    new = publish(channel, Event(b"", b"", b"of the new one"))
    assert read_to_end(channel, log, 0) == [*old, new]


def test_an_idle_channel_holds_nothing(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    path = tmp_path / "orders.tsv"
    publish(channel, Event(b"", b"", b"x"))
    assert is_open(path)
    gone = weakref.ref(channel)
    del channel
    with gevent.Timeout(10):
        while gone() or is_open(path):
            gevent.sleep(0.01)


def test_a_follower_holds_no_log_but_the_one_that_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"", b"", b"0"))
    got = []

    def follow() -> None:
        for stretch in channel.follow(channel.view.log, 0, heartbeat=1000):
            assert isinstance(stretch, Stretch)
            got.append(stretch.rows)
            del stretch

    follower = gevent.spawn(follow)
    try:
        for number in range(1, 4):
            path.rename(tmp_path / f"moved-{number}")
            publish(channel, Event(b"", b"", b"%d" % number))
            with gevent.Timeout(10):
                while len(got) <= number:
                    gevent.sleep(0.001)
        gevent.sleep(0.01)
        assert [name for name in open_files() if "/moved-" in name] == []
    finally:
        follower.kill()


@pytest.mark.parametrize("unique", [False, True])
def test_however_much_others_append_at_once_the_next_event_is_stored(
    tmp_path: Path, unique: bool
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"", b"", b"0"))
    by_hand = b"".join(b"%d\t\t%b\n" % (number, b"x" * 1000) for number in range(1500))
    with path.open("ab") as file:
        file.write(by_hand)
    event = Event(b"id" if unique else b"", b"", b"1")
    channel.append([tsv.draft(event)], Wish(unique=unique)).wait()
    rows = path.read_bytes()
    assert rows.count(by_hand) == 1
    assert rows.endswith(b"\t\t1\n")


def open_files() -> list[str]:
    """Return the names of the files that this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return links


def is_open(path: Path) -> bool:
    """Return whether this process has the file open."""
    return str(path) in open_files()


def test_after_a_failed_sync_the_channel_reopens_before_it_acknowledges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    first = publish(channel, Event(b"", b"", b"first"))

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    seen = gevent.spawn(read_two, channel)
    monkeypatch.setattr("esource.log.disk.sync", fail)
    for _ in range(3):
        with pytest.raises(StorageError):
            publish(channel, Event(b"", b"", b"lost"))
    assert list(tsv.decode(path.read_bytes())) == [first]
    monkeypatch.undo()
    second = publish(channel, Event(b"", b"", b"second"))
    assert list(tsv.decode(path.read_bytes())) == [first, second]
    assert seen.get() == [first, second]


def read_two(channel: Channel) -> list[Event]:
    events: list[Event] = []
    for stretch in channel.follow(channel.view.log, 0, heartbeat=10):
        if isinstance(stretch, Stretch):
            events += tsv.decode(stretch.rows)
        if len(events) >= 2:
            break
    return events


def test_an_id_given_by_a_publisher_moves_the_next_default_id(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    publish(channel, Event(b"2999-12-31T23:59:59.999999Z", b"", b""))
    assert publish(channel, Event(b"", b"", b"")).id == b"3000-01-01T00:00:00.000000Z"
    publish(channel, Event(b"9999-12-31T23:59:59.999999Z", b"", b""))
    assert publish(channel, Event(b"", b"", b"")).id == b"3000-01-01T00:00:00.000001Z"


@pytest.mark.parametrize("published_before", [True, False])
@pytest.mark.parametrize("replaced", [True, False])
def test_a_default_id_in_rows_of_others_moves_the_next_one(
    tmp_path: Path, published_before: bool, replaced: bool
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    rows = b"2999-12-31T23:59:59.999999Z\t\tby hand\n"
    if published_before:
        publish(channel, Event(b"", b"", b""))
    if published_before and not replaced:
        rows = path.read_bytes() + rows
    if replaced:
        (tmp_path / "other").write_bytes(rows)
        (tmp_path / "other").replace(path)
    else:
        path.write_bytes(rows)
    channel.refresh()
    assert publish(channel, Event(b"", b"", b"")).id == b"3000-01-01T00:00:00.000000Z"


def test_the_clock_may_step_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    ids = [publish(channel, Event(b"", b"", b"")).id]
    for nanoseconds in (1, 0, 10**18):
        monkeypatch.setattr("time.time_ns", lambda now=nanoseconds: now)
        ids += [publish(channel, Event(b"", b"", b"")).id for _ in range(3)]
        channel = channel_of(tmp_path / "orders.tsv")
    assert ids == sorted(set(ids))


def test_only_what_was_appended_is_counted(tmp_path: Path) -> None:
    channel = channel_of(tmp_path / "orders.tsv")

    def never(view: View) -> None:
        raise PreconditionFailed("never")

    draft = tsv.draft(Event(b"", b"", b"x"))
    receipts = [channel.append([draft, draft], Wish(never)), channel.append([draft])]
    with pytest.raises(PreconditionFailed):
        receipts[0].wait()
    receipts[1].wait()
    assert channel.stats.events == 1
    assert channel.stats.bytes == channel.view.end
    assert sum(channel.stats.commit_events.counts) == 1  # both were in one commit


# -- rows that others append, and refusals ------------------------------------------------------


def expects(id: bytes) -> Wish:
    """Wish that the newest id is this one."""

    def check(view: View) -> None:
        if view.newest_id != id:
            raise PreconditionFailed(f"the newest id is {view.newest_id!r}", view)

    return Wish(check)


def draft(id: bytes, data: bytes) -> tsv.Draft:
    return tsv.draft(Event(id, b"", data))


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_expected_is_asked_of_rows_that_nobody_has_read_yet(
    tmp_path: Path, beside: bool
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"a", b"", b"1"))
    append_by_hand(path, b"h\t\tby hand\n")
    receipts = [channel.append([draft(b"b", b"expects h")], expects(b"h"))]
    if beside:  # a plain one in the same commit may be appended anywhere
        receipts.append(channel.append([draft(b"c", b"plain")]))
    for receipt in receipts:
        receipt.wait()
    assert [event.id for event in tsv.decode(path.read_bytes())][:3] == [b"a", b"h", b"b"]
    for receipt in receipts:
        assert path.read_bytes()[: receipt.view.end].endswith(
            receipt.last + b"\t\t" + (b"expects h\n" if receipt.last == b"b" else b"plain\n")
        )


def test_the_view_of_what_was_there_already_is_of_a_place_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"a", b"", b"1"))
    append_by_hand(path, b"h\t\tby hand\n")
    channel.append([draft(b"b", b"plain")])
    skipped = channel.append([draft(b"a", b"1")], Wish(unique=True)).wait()
    assert skipped.skipped == 1
    assert path.read_bytes()[: skipped.view.end].endswith(skipped.view.newest_id + b"\t\tplain\n")


def test_a_refused_retry_is_answered_as_ever_after_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"a", b"", b"1"))

    def fail(*about: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr("esource.log.disk.sync", fail)
        disk.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageError):
            publish(channel, Event(b"b", b"", b"refused"))
    assert channel.append([draft(b"a", b"1")], Wish(unique=True)).wait().skipped == 1
    with pytest.raises(PreconditionFailed):
        channel.append([draft(b"c", b"")], expects(b"b")).wait()
    assert path.read_bytes() == b"a\t\t1\n"


def test_rows_of_others_that_come_all_the_time_refuse_nobody(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = Channel("orders", lambda: FileLog(path, "never")).open()
    done = threading.Event()

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"other\t\tx\n")
                done.wait(0.0005)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for n in range(300):
            receipt = channel.append([draft(b"%d" % n, b"")], Wish(unique=True)).wait()
            assert receipt.appended == 1
    finally:
        done.set()
        thread.join()


def test_default_ids_go_on_after_a_rotation_that_a_read_has_seen_first(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"", b"", b"one"))
    append_by_hand(path, b"2999-12-31T23:59:59.000000Z\t\tby hand\n")
    channel.refresh()
    path.rename(tmp_path / "archive")
    channel.refresh()
    assert publish(channel, Event(b"", b"", b"two")).id == b"2999-12-31T23:59:59.000001Z"


def test_a_rotated_file_is_closed_once_nobody_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"", b"", b"one"))
    path.unlink()
    channel.refresh()
    assert not any(str(path) in link for link in open_files())


def test_an_older_view_is_searched_to_its_end_though_the_log_is_mapped_beyond(
    tmp_path: Path,
) -> None:
    rows = [
        b"2026-01-01T00:%02d:%02d.%06dZ\t\t%b\n" % (n // 60, n % 60, n, b"x" * 1000)
        for n in range(3500)
    ]
    path = tmp_path / "orders.tsv"
    path.write_bytes(b"".join(rows[:1500]))
    channel = channel_of(path)
    older = channel.view
    append_by_hand(path, b"".join(rows[1500:]))
    id = tsv.id_of(rows[1400])
    time = time_of(id)
    assert time is not None
    channel.later_than(channel.refresh(), time, Work())  # which maps it
    place = sum(map(len, rows[:1401]))
    assert channel.later_than(older, time, Work()) == place
    assert channel.after(older, id)[1:] == (place, Verdict.EXACT)


def test_nothing_that_is_no_file_is_ever_written_to(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    os.mkfifo(path)
    for _ in range(2):
        with pytest.raises(StorageError, match="not a regular file"):
            channel.refresh()
        with pytest.raises(StorageError, match="not a regular file"):
            publish(channel, Event(b"", b"", b"x"))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        assert os.read(fd, 100) == b""
    os.close(fd)
    path.unlink()
    publish(channel, Event(b"", b"", b"x"))


def test_a_refused_commit_lets_go_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")

    def fail(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    gc.collect()
    gc.disable()
    try:
        with suppress(StorageError):
            channel.append([draft(b"", b"x")]).wait()
            pytest.fail("it was stored")
        with gevent.Timeout(10):
            while any(isinstance(thing, Commit) for thing in gc.get_objects()):
                gevent.sleep(0.01)
    finally:
        gc.enable()


def test_a_row_by_hand_right_before_the_file_is_moved_away_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"a", b"", b"1"))
    view = channel.view
    append_by_hand(path, b"h\t\tby hand\n")
    path.rename(tmp_path / "archive")
    publish(channel, Event(b"b", b"", b"2"))
    events = read_to_end(channel, view.log, 0)
    assert [event.id for event in events] == [b"a", b"h", b"b"]


def test_a_read_that_has_to_wait_for_a_commit_does_not_wait_for_all_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"", b"", b""))
    monkeypatch.setattr("esource.log.disk.sync", lambda fd: time.sleep(0.005))

    def keep_publishing(after: float) -> None:
        gevent.sleep(after)
        while True:
            publish(channel, Event(b"", b"", b"x"))

    # One of them is always in the queue while another one is at the disk.
    publishers = [gevent.spawn(keep_publishing, n * 0.002) for n in range(2)]
    try:
        gevent.sleep(0.05)
        # At some moment the log has grown by a commit that is not shown yet: then it has to wait.
        with gevent.Timeout(10):
            for _ in range(2000):
                channel.refresh()
    finally:
        gevent.killall(publishers)
