"""A disk that is full or fails, at the n-th call for many n, and a real full one."""

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import Hub, Publisher, Stream, Wire, eventually, numbers, size
from tests.harness.channels import age
from tests.harness.faults import Fault, check_a_fault
from tests.harness.machine import mounted
from tests.harness.shims import Disk

PLACES = range(size(16, 32))  # n


FAULTS = {
    "write ENOSPC": Fault((("write", errno.ENOSPC, 1),), frozenset({507})),
    "write ENOSPC thrice": Fault((("write", errno.ENOSPC, 3),), frozenset({507})),
    "write EDQUOT": Fault((("write", errno.EDQUOT, 1),), frozenset({507})),
    "write EIO": Fault((("write", errno.EIO, 1),), frozenset({503})),
    "write short": Fault((("write", 0, 1),), frozenset()),
    "write short thrice": Fault((("write", 0, 3),), frozenset()),
    "write short, then ENOSPC": Fault((("write", -errno.ENOSPC, 1),), frozenset({507})),
    "write short, then EIO": Fault((("write", -errno.EIO, 1),), frozenset({503})),
    "sync EIO": Fault((("sync", errno.EIO, 1),), frozenset({503})),
    "sync EIO thrice": Fault((("sync", errno.EIO, 3),), frozenset({503})),
    "sync ENOSPC": Fault((("sync", errno.ENOSPC, 1),), frozenset({503, 507})),
    "write short, then EIO, and cutting back": Fault(
        (("write", -errno.EIO, 1), ("truncate", errno.EIO, 1)), frozenset({503})
    ),
    "write short, then ENOSPC, and cutting back twice": Fault(
        (("write", -errno.ENOSPC, 1), ("truncate", errno.EIO, 2)), frozenset({503, 507})
    ),
    "sync, and cutting back": Fault(
        (("sync", errno.EIO, 1), ("truncate", errno.EIO, 1)), frozenset({503})
    ),
}
FIRST_FAULTS = {  # of calls that are made for a new file, or for none but the first event
    "folder sync EIO": Fault((("sync_folder", errno.EIO, 1),), frozenset({503})),
    "folder sync EIO thrice": Fault((("sync_folder", errno.EIO, 3),), frozenset({503})),
    "open EMFILE": Fault((("open", errno.EMFILE, 1),), frozenset({503})),
    "open ENOSPC": Fault((("open", errno.ENOSPC, 1),), frozenset({507})),
    "open EROFS": Fault((("open", errno.EROFS, 2),), frozenset({503})),
    "open EACCES": Fault((("open", errno.EACCES, 2),), frozenset({503})),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_the_nth_call_is_told_to_its_publishers_and_hurts_nobody_else(
    broken: tuple[Hub, Disk], name: str
) -> None:
    hub, disk = broken
    channel = re.sub("[^a-z]+", "-", name.lower())
    for place in PLACES:
        check_a_fault(hub, disk, FAULTS[name], place, [f"{channel}-{place}"] * 3)
    assert "Traceback" not in hub.log


@pytest.mark.parametrize("name", FIRST_FAULTS)
def test_a_fault_in_making_the_file_is_told_and_the_next_event_makes_it(
    broken: tuple[Hub, Disk], name: str
) -> None:
    hub, disk = broken
    channel = re.sub("[^a-z]+", "-", name.lower())
    trace = check_a_fault(hub, disk, FIRST_FAULTS[name], 0, [channel] * 3)
    assert "D" not in trace or "d" in trace[trace.rindex("D") :], "its name is not on disk"
    assert "Traceback" not in hub.log


@pytest.mark.parametrize("reads_fail", [False, True])
def test_after_a_failed_sync_nothing_is_acknowledged_until_the_file_was_reopened_and_read(
    broken: tuple[Hub, Disk], reads_fail: bool
) -> None:
    hub, disk = broken
    for place in range(1, 1 + PLACES.stop):
        disk.heal()
        path = f"/reread-{reads_fail}-{place}"
        with Wire(hub) as wire:
            for n in range(place):
                assert wire.post(path, b"%d" % n).status == 201
            disk.forget()
            disk.fail("sync", 0, errno.EIO)
            assert wire.post(path, b"refused").status == 503
            assert len(hub.get(path).body.splitlines()) == place
            if reads_fail:
                disk.fail("read", 0, errno.EIO, times=1000)
                for _ in range(3):
                    assert wire.post(path, b"refused").status == 503
                disk.heal()
            else:
                disk.fail("open", 0, errno.EMFILE, times=1)
                assert wire.post(path, b"refused").status == 503
            assert wire.post(path, b"later").status == 201
        trace = disk.trace()
        # From the failed sync to the next write: at least an open and then a read that succeed.
        between = trace[trace.index("S") + 1 : trace.rindex("w")]
        assert "w" not in between, trace
        assert re.search("o.*r", between), trace
        rows = hub.rows(path[1:])
        data = [row.split(b"\t", 2)[2] for row in rows]
        assert data == [*(b"%d" % n for n in range(place)), b"later"]


def test_a_torn_row_is_cut_off_only_when_its_copy_is_on_disk_with_its_name(
    broken: tuple[Hub, Disk],
) -> None:
    hub, disk = broken
    disk.heal()
    hub.file("torn-row").write_bytes(b"1\t\twhole\n2\t\ttorn")
    age(hub.file("torn-row"))
    disk.forget()
    assert hub.publish("/torn-row?id=3", "later") == "3"
    trace = disk.trace()
    assert re.search("d+t", trace), trace  # its name is synced, and then the row is cut off
    hub.file("torn-again").write_bytes(b"1\t\twhole\n2\t\ttorn")
    age(hub.file("torn-again"))
    disk.fail("sync_folder", 0, errno.EIO)
    hub.post("/torn-again?id=3", "refused, or after a second try")
    copies = hub.folder.glob("torn-again.tsv.torn-*")
    assert hub.rows("torn-again")[0] == b"1\t\twhole"
    kept = [hub.file("torn-again").read_bytes()[9:], *(copy.read_bytes() for copy in copies)]
    assert b"2\t\ttorn" in kept
    disk.heal()
    hub.publish("/torn-again?id=4", "stored")
    assert hub.rows("torn-again")[-1] == b"4\t\tstored"


def test_refused_rows_that_could_not_be_cut_off_are_never_shown(
    broken: tuple[Hub, Disk],
) -> None:
    hub, disk = broken
    disk.heal()
    hub.publish("/shown", "first")
    with Stream(hub, "/shown") as stream:
        disk.fail("write", 0, -errno.ENOSPC)
        disk.fail("truncate", 0, errno.EIO)
        assert hub.post("/shown?each=line", b"refused\n" * 100).status == 507
        assert hub.rows("shown")[1:], "the fault has left nothing"
        assert hub.get("/shown").body.count(b"\n") == 1
        hub.publish("/shown", "second")
        assert [event.data for event in stream.read(1)] == [b"second"]
    data = [row.split(b"\t", 2)[2] for row in hub.rows("shown")]
    assert data == [b"first", b"second"]


def test_a_batch_that_meets_a_fault_is_stored_whole_or_not_at_all(
    broken: tuple[Hub, Disk],
) -> None:
    hub, disk = broken
    batch = b"".join(b"row %d\n" % n for n in range(2000))
    stored = 0
    with Wire(hub) as wire:
        for place in range(4):
            for kind, error in [
                ("write", -errno.ENOSPC), ("write", 0), ("write", errno.EIO), ("sync", errno.EIO),
            ]:  # fmt: skip
                disk.heal()
                disk.fail(kind, place, error)
                while disk.pending(kind):
                    reply = wire.post("/batch?each=line", batch)
                    assert reply.status in (201, 503, 507)
                    stored += reply.status == 201
                    assert len(hub.rows("batch")) == 2000 * stored
    assert stored > 0


@contextmanager
def small_disk(home: Path) -> Iterator[tuple[Hub, Path]]:
    """A hub on a disk of 512 KiB, 200 kB of which are taken by a file that may be deleted."""
    with mounted(home / "small", "-t", "tmpfs", "-o", "size=512k", "tmpfs") as small:
        hub = Hub(home)
        hub.folder = small / "events"
        hub.environ["ESOURCE_DIR"] = str(hub.folder)
        hub.start()
        try:
            ballast = small / "ballast"
            ballast.write_bytes(bytes(200_000))
            yield hub, ballast
        finally:
            if hub.process:
                hub.stop()
            shutil.rmtree(hub.folder)


def test_a_full_disk_makes_the_hub_unhealthy_until_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path) as (hub, ballast):
        hub.publish("/orders", "x")
        assert hub.get("/-/health").status == 200
        with suppress(OSError), (ballast.parent / "more").open("wb", buffering=0) as more:
            while more.write(bytes(4096)):
                pass
        for _ in range(2):
            answer = hub.get("/-/health")
            assert answer.status == 503
            reason = f"cannot write to the folder {hub.folder}: No space left on device\n"
            assert answer.text == reason
            assert hub.post("/orders", "x" * 8192).status == 507
        ballast.unlink()
        answer = hub.get("/-/health")
        assert (answer.status, answer.text) == (200, "ok\n")
        assert hub.post("/orders", "x" * 8192).status == 201


def test_a_full_disk_is_told_and_forgotten_once_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path) as (hub, ballast):

        def padding(kind: int) -> Callable[[int], bytes]:
            return lambda _: b"x" * (700 * (kind + 1))

        publishers = [Publisher(hub, f"p{n}", f"orders-{n}", padding=padding(n)) for n in range(4)]
        for publisher in publishers:
            publisher.start()
        eventually(lambda: all(len(publisher.refused) > 3 for publisher in publishers))
        assert hub.post("/a-new-one", "x" * 20_000).status == 507
        ballast.unlink()
        counts = [len(publisher.acknowledged) for publisher in publishers]
        eventually(
            lambda: all(
                len(publisher.acknowledged) > count
                for publisher, count in zip(publishers, counts, strict=True)
            )
        )
        for publisher in publishers:
            publisher.stop()
            assert {status for _, status in publisher.refused} == {507}
            rows = hub.rows(publisher.channel)
            assert numbers(rows, publisher.name) == publisher.acknowledged
            assert hub.file(publisher.channel).read_bytes().endswith(b"\n")
            assert hub.get(f"/{publisher.channel}").body == (
                hub.file(publisher.channel).read_bytes()
            )
        hub.restart()
        for publisher in publishers:
            assert len(hub.rows(publisher.channel)) == len(publisher.acknowledged)
        assert "Traceback" not in hub.log
