"""No descriptors, no rights, files that others take away: an error or a new file, no silence."""

import os
import random
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esource.errors import StorageError
from esource.log import Moved, Replaced
from esource.log.file import FileLog
from tests.harness import (
    QUIET,
    Hub,
    Publisher,
    Stream,
    Wire,
    eventually,
    increases,
    numbers,
    running_hub,
    size,
)
from tests.harness.machine import command
from tests.harness.measures import cpu_seconds

ROUNDS = size(20, 60)


# -- descriptors -------------------------------------------------------------------------------


@contextmanager
def no_descriptors(hub: Hub, spare: int = 0) -> Iterator[None]:
    """Let the worker have no more descriptors than it has, and a few."""
    used = max(int(name) for name in os.listdir(f"/proc/{hub.worker}/fd")) + 1
    limits = resource.prlimit(hub.worker, resource.RLIMIT_NOFILE)
    resource.prlimit(hub.worker, resource.RLIMIT_NOFILE, (used + spare, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(hub.worker, resource.RLIMIT_NOFILE, limits)


def test_without_descriptors_publishers_get_an_error_and_all_is_well_afterwards(
    own_hub: Hub,
) -> None:
    with Wire(own_hub) as wire:
        assert wire.post("/open-already", b"1").status == 201
        with no_descriptors(own_hub):
            statuses = [wire.post(f"/new-{n}", b"1").status for n in range(20)]
            assert statuses.count(201) < 10  # a few numbers may have been free below the limit
            assert set(statuses) <= {201, 503}
            assert statuses[-10:] == [503] * 10
            assert wire.post("/open-already", b"2").status == 201
            late = own_hub.connect()  # stays in the listen queue
            late.sendall(b"GET /up__ HTTP/1.0\r\n\r\n")
            cpu = cpu_seconds(own_hub)
            time.sleep(1)
            assert cpu_seconds(own_hub) - cpu < 0.5  # does not spin
        with late:
            assert late.recv(100).startswith(b"HTTP/1.0 200")
        for n in range(20):
            assert wire.post(f"/new-{n}", b"2").status == 201
            stored = [row.split(b"\t")[2] for row in own_hub.rows(f"new-{n}")]
            assert stored == ([b"1", b"2"] if statuses[n] == 201 else [b"2"])
    assert len(own_hub.rows("open-already")) == 2
    lines = [line for line in own_hub.log.splitlines() if "Too many open files" in line]
    # A number that was free may do for a file, and not for the sync of its folder.
    [warning] = [line for line in lines if "could not be synced: Too many open files" not in line]
    assert re.search(r"\[WARNING\] Too many open files \(this process may have \d+\)", warning)
    assert "Traceback" not in own_hub.log


# -- rights ------------------------------------------------------------------------------------


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """A file or folder that not even root may change."""
    try:
        command("chattr", "+i", path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"chattr +i is not possible here: {getattr(error, 'stderr', error)}")
    try:
        yield
    finally:
        command("chattr", "-i", path)


def test_a_folder_that_becomes_read_only_refuses_new_channels_until_it_is_writable(
    own_hub: Hub,
) -> None:
    own_hub.publish("/there", "1")
    with immutable(own_hub.folder):
        answer = own_hub.post("/not-there", "1")
        assert answer.status == 503
        assert b"not-there" in answer.body
        assert own_hub.post("/there", "2").status == 201
        assert own_hub.get("/not-there").status == 200
    own_hub.publish("/not-there", "2")
    assert len(own_hub.rows("not-there")) == 1
    assert len(own_hub.rows("there")) == 2


def test_a_file_that_becomes_read_only_refuses_events_until_it_is_writable(own_hub: Hub) -> None:
    own_hub.publish("/orders", "1")
    with immutable(own_hub.file("orders")):
        for _ in range(3):
            assert own_hub.post("/orders", "refused").status == 503
        assert own_hub.get("/orders").body.count(b"\n") == 1
    own_hub.publish("/orders", "2")
    data = [row.split(b"\t")[2] for row in own_hub.rows("orders")]
    assert data == [b"1", b"2"]


def test_a_file_that_is_read_only_is_no_fault_of_the_hub(own_hub: Hub) -> None:
    own_hub.publish("/orders", "1")
    own_hub.stop()
    with immutable(own_hub.file("orders")):
        own_hub.start()
        assert own_hub.post("/orders", "refused").text == "orders.tsv is read-only\n"
        assert own_hub.get("/-/health").status == 200
        assert "\nesource_refusing_channels 0.0\n" in own_hub.get("/-/metrics").text
    own_hub.publish("/orders", "2")


# -- files under way ---------------------------------------------------------------------------


def rotate(path: Path, aside: Path) -> None:
    path.rename(aside)


def remove(path: Path, aside: Path) -> None:
    os.link(path, aside)  # so that the test sees what was in it
    path.unlink()


def replace(path: Path, aside: Path) -> None:
    os.link(path, aside)
    new = path.with_suffix(".new")
    new.write_bytes(b"foreign\t\tof somebody else \n")
    new.replace(path)


@pytest.fixture
def quiet_hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path, **QUIET) as hub:
        yield hub


@pytest.mark.parametrize("change", [rotate, remove, replace])
def test_files_that_are_taken_away_under_load_lose_and_repeat_nothing(
    quiet_hub: Hub, change: Callable[[Path, Path], None]
) -> None:
    random.seed(4)
    path = quiet_hub.file("orders")
    publishers = [Publisher(quiet_hub, f"p{n}", "orders") for n in range(4)]
    asides = [quiet_hub.home / f"aside-{n}" for n in range(ROUNDS)]
    with Stream(quiet_hub, "/orders") as stream:
        for publisher in publishers:
            publisher.start()
        for aside in asides:
            before = sum(len(publisher.acknowledged) for publisher in publishers)
            wanted = before + random.randrange(20, 60)
            eventually(
                lambda wanted=wanted: sum(len(p.acknowledged) for p in publishers) > wanted  # type: ignore[misc]
            )
            change(path, aside)
        eventually(path.exists)
        before = sum(len(publisher.acknowledged) for publisher in publishers)
        eventually(lambda: sum(len(p.acknowledged) for p in publishers) > before + 20)
        for publisher in publishers:
            publisher.stop()
        files = [aside.read_bytes() for aside in asides] + [path.read_bytes()]
        assert all(content.endswith(b"\n") for content in files)
        rows = [row for content in files for row in content.split(b"\n")[:-1]]
        ours = [row for row in rows if not row.startswith(b"foreign")]
        for publisher in publishers:
            assert publisher.refused == []
            assert numbers(ours, publisher.name) == publisher.acknowledged
        assert quiet_hub.log.count("is gone from this name") >= ROUNDS
        count = len(rows)
        received = [event.data for event in stream.read(count)]
        assert received == [row.split(b"\t", 2)[2] for row in rows]
    assert "Traceback" not in quiet_hub.log


@pytest.mark.parametrize("to", ["nothing", "the middle"])
def test_a_file_that_is_truncated_under_load_takes_whole_rows_and_says_what_is_gone(
    own_hub: Hub, to: str
) -> None:
    random.seed(5)
    path = own_hub.file("orders")
    publishers = [Publisher(own_hub, f"p{n}", "orders") for n in range(4)]
    for publisher in publishers:
        publisher.start()
    for _ in range(ROUNDS):
        before = sum(len(publisher.acknowledged) for publisher in publishers)
        wanted = before + random.randrange(20, 60)
        eventually(
            lambda wanted=wanted: sum(len(p.acknowledged) for p in publishers) > wanted  # type: ignore[misc]
        )
        os.truncate(path, 0 if to == "nothing" else path.stat().st_size // 2)
    marks = [len(publisher.acknowledged) for publisher in publishers]
    eventually(
        lambda: all(len(p.acknowledged) > n + 20 for p, n in zip(publishers, marks, strict=True))
    )
    for publisher in publishers:
        publisher.stop()
    content = path.read_bytes()
    assert content.endswith(b"\n")
    assert b"\0" not in content
    rows = content.split(b"\n")[:-1]
    assert all(row.count(b"\t") == 2 and row.endswith(b" ") for row in rows)
    for publisher, mark in zip(publishers, marks, strict=True):
        found = numbers(rows, publisher.name)
        assert increases(found)
        later = [number for number in publisher.acknowledged if number > mark + 5]
        assert set(later) <= set(found)
        assert {status for _, status in publisher.refused} <= {503}
    assert own_hub.log.count("is gone from this name") >= ROUNDS // 2
    assert own_hub.get("/orders").body == content
    assert "Traceback" not in own_hub.log


def test_a_file_that_is_cut_while_it_is_written_never_gets_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.tsv"
    log = FileLog(path)
    log.append(None, [b"1\t\tone\n2\t\ttwo\n"])
    write = os.write

    def cut_and_write(fd: int, data: bytes) -> int:
        os.truncate(path, 0)
        return write(fd, data)

    monkeypatch.setattr(os, "write", cut_and_write)
    with pytest.raises(StorageError):
        log.append(None, [b"3\t\tthree\n"])
    monkeypatch.undo()
    assert isinstance(log.append(None, [b"4\t\tfour\n"]), Moved)
    change = log.refresh()
    assert isinstance(change, Replaced)
    change.by.append(None, [b"4\t\tfour\n"])
    content = path.read_bytes()
    assert b"\0" not in content
    assert content.endswith(b"4\t\tfour\n")


def test_rows_that_went_into_a_removed_file_are_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.tsv"
    log = FileLog(path)
    log.append(None, [b"1\t\tone\n"])
    write = os.write

    def remove_and_write(fd: int, data: bytes) -> int:
        path.unlink()
        return write(fd, data)

    monkeypatch.setattr(os, "write", remove_and_write)
    assert isinstance(log.append(None, [b"2\t\ttwo\n"]), Moved)  # and goes into the new one
