"""Power loss: what was not synced may vanish, and no acknowledged event is part of that.

Simulated by `power.c`, which notes what was synced: after a kill, everything else is taken
out of the folder. And for real, with an ext4 that is shut down without flushing anything.
"""

import fcntl
import os
import random
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from esource.log.file import FileLog
from tests.harness import Hub, Publisher, Stream, eventually, increases, needs, numbers, size
from tests.harness.channels import age
from tests.harness.machine import command, mounted
from tests.harness.power import Power, anything, nothing
from tests.harness.shims import Build, preload

CYCLES = size(8, 24)
CHANNELS = 6
KEEP = "shared-1/segment=1M:orders-*-1/segment=1M"  # these channels are closed again and again
FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/fs.h
WITHOUT_FLUSHING_THE_LOG = 2


def padding(channel: int, number: int) -> bytes:
    """Return what fills the rows of those channels that are to be closed."""
    return b"x" * 30_000 + b" " if channel == 1 else b""


def power_of(hub: Hub, shim: Build) -> Power:
    """Return the power switch of a hub that is not started yet."""
    power = Power(hub.folder, hub.home / "synced")
    preload(hub, shim("power"), POWER_JOURNAL=str(power.journal))
    return power


class Watcher:
    """A subscriber; what it has seen must never be lost."""

    def __init__(self, hub: Hub, channel: str) -> None:
        self.seen: set[bytes] = set()
        self._stream = Stream(hub, f"/{channel}")
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        with self._stream as stream:
            try:
                stream.read_to_end()
            except OSError:
                pass
            finally:
                self.seen = {event.data for event in stream.events}

    def join(self) -> set[bytes]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.seen


def outages(hub: Hub, power: Power, cycles: int) -> Iterator[tuple[int, int]]:
    """Publish, cut the power and start again; yield how many events were acknowledged and lost.

    There are publishers of several channels, one of which has more than one, and of new ones.
    """
    publishers = [
        Publisher(hub, f"p{n}", f"shared-{n % CHANNELS}", padding=partial(padding, n % CHANNELS))
        for n in range(CHANNELS + 2)
    ]
    shown_and_lost = 0
    for cycle in range(cycles):
        if hub.folder.exists():
            power.begin()
        hub.start()
        fresh = [Publisher(hub, f"f{n}", f"fresh-{cycle}-{n}") for n in range(3)]
        watchers = {name: Watcher(hub, name) for name in {p.channel for p in publishers}}
        before = {publisher.name: len(publisher.acknowledged) for publisher in publishers}
        for publisher in [*publishers, *fresh]:
            publisher.start()

        def done(fresh: list[Publisher] = fresh) -> int:
            return min(len(publisher.acknowledged) for publisher in fresh)

        wanted = random.randrange(1, 30)
        eventually(lambda wanted=wanted, done=done: done() >= wanted)  # type: ignore[misc]
        hub.kill()
        for publisher in [*publishers, *fresh]:
            publisher.join()
        seen = {name: watcher.join() for name, watcher in watchers.items()}
        power.cut(anything if cycle % 2 else nothing)
        power.begin()
        hub.start()
        acknowledged = lost = 0
        for publisher in [*publishers, *fresh]:
            served = hub.get(f"/{publisher.channel}").body
            assert served.endswith(b"\n") or not served
            found = numbers(served.split(b"\n")[:-1], publisher.name)
            assert increases(found)
            answered = publisher.acknowledged[before.get(publisher.name, 0) :]
            acknowledged += len(answered)
            lost += len(set(answered) - set(found))
        for name, events in seen.items():
            rows = hub.get(f"/{name}").body.split(b"\n")[:-1]
            shown_and_lost += len(events - {row.split(b"\t", 2)[2] for row in rows})
        hub.kill()
        yield acknowledged, lost
    if hub.environ["ESOURCE_FSYNC"] == "always":
        assert shown_and_lost == 0


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_power_cuts_lose_no_acknowledged_event_with_always_and_some_with_never(
    tmp_path: Path, shim: Build, fsync: str
) -> None:
    """`never` shows that the test can see a loss."""
    random.seed(2)
    hub = Hub(tmp_path, ESOURCE_FSYNC=fsync, ESOURCE_KEEP=KEEP)
    hub.folder.mkdir()
    power = power_of(hub, shim)
    acknowledged = lost = 0
    try:
        for more, gone in outages(hub, power, CYCLES if fsync == "always" else 2):
            acknowledged += more
            lost += gone
    finally:
        if hub.process:
            hub.stop()
    print(f"{fsync}: {acknowledged} acknowledged, {lost} lost")
    assert acknowledged > 0
    assert ": closed " in hub.log or fsync == "never"
    if fsync == "always":
        assert lost == 0
    else:
        assert lost > 0


def test_a_power_cut_at_every_byte_of_what_was_not_synced(tmp_path: Path, shim: Build) -> None:
    """A hub with `never` makes a file of which nothing is synced; so every size is possible."""
    hub = Hub(tmp_path, ESOURCE_FSYNC="never")
    hub.folder.mkdir()
    power = power_of(hub, shim)
    power.begin()
    hub.start()
    for n in range(4):
        hub.publish(f"/orders?event=type{n}", f"data {n}\nof two lines")
    hub.kill()
    path = hub.file("orders")
    whole = path.read_bytes()
    assert power.synced().sizes.get(path.stat().st_ino, 0) == 0
    for kept in range(len(whole) + 1):
        path.write_bytes(whole[:kept])
        age(path)
        rows = whole[: whole.rfind(b"\n", 0, kept) + 1]
        log = FileLog(path)
        assert log.pread(0, log.end) == rows
        log.append(None, [b"next\t\t\n"])
        assert path.read_bytes() == rows + b"next\t\t\n"
        for torn in path.parent.glob("*.torn-*"):
            torn.unlink()


def test_the_new_folder_itself_survives_a_power_cut(tmp_path: Path, shim: Build) -> None:
    hub = Hub(tmp_path)
    power = power_of(hub, shim)
    power.begin()
    hub.start()
    try:
        hub.publish("/orders", "x")
        entries = power.synced().folders.get(tmp_path.stat().st_ino, {})
        assert entries.get("events") == hub.folder.stat().st_ino
    finally:
        hub.stop()


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_a_real_ext4_that_is_shut_down_under_load(tmp_path: Path, fsync: str) -> None:
    """`never` shows that events can be lost."""
    random.seed(3)
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    [mkfs] = needs("mkfs.ext4")
    command(mkfs, "-q", image)
    hub = Hub(tmp_path, ESOURCE_FSYNC=fsync, ESOURCE_KEEP=KEEP)
    hub.folder = tmp_path / "mnt-0" / "events"
    hub.environ["ESOURCE_DIR"] = str(hub.folder)
    lost = acknowledged = 0
    before: list[int] = []
    for cycle in range(size(3, 9) if fsync == "always" else 1):
        publishers = [
            Publisher(
                hub,
                f"p{n}",
                f"orders-{cycle}-{n % CHANNELS}",
                padding=partial(padding, n % CHANNELS),
            )
            for n in range(CHANNELS + 2)
        ]
        try:
            with mounted(tmp_path / f"mnt-{2 * cycle}", "-o", "loop", image) as mount:
                hub.folder = mount / "events"
                hub.environ["ESOURCE_DIR"] = str(hub.folder)
                if cycle == 0:
                    hub.folder.mkdir()
                    command("sync", "-f", mount)
                hub.start()
                for publisher in publishers:
                    publisher.start()
                wanted = random.randrange(10, 100)
                eventually(lambda p=publishers, n=wanted: min(len(a.acknowledged) for a in p) > n)  # type: ignore[misc]
                fd = os.open(mount, os.O_RDONLY)
                try:
                    how = struct.pack("I", WITHOUT_FLUSHING_THE_LOG)
                    # With the power an answer would be gone, too; here syncs in progress may
                    # still end well, with nothing on disk.
                    before = [len(publisher.acknowledged) for publisher in publishers]
                    fcntl.ioctl(fd, FS_IOC_SHUTDOWN, how)
                finally:
                    os.close(fd)
                # What the disk refuses from now on is refused to publishers, too.
                eventually(lambda p=publishers: all(a.refused for a in p) or fsync == "never")  # type: ignore[misc]
                hub.kill()
                for publisher in publishers:
                    publisher.join()
            with mounted(tmp_path / f"mnt-{2 * cycle + 1}", "-o", "loop", image) as mount:
                hub.folder = mount / "events"
                hub.environ["ESOURCE_DIR"] = str(hub.folder)
                hub.start()
                try:
                    for publisher, count in zip(publishers, before, strict=True):
                        served = hub.get(f"/{publisher.channel}").body
                        found = numbers(served.split(b"\n")[:-1], publisher.name)
                        assert increases(found)
                        answered = publisher.acknowledged[:count]
                        acknowledged += len(answered)
                        lost += len(set(answered) - set(found))
                        assert {status for _, status in publisher.refused} <= {503}
                finally:
                    hub.kill()
        finally:
            if hub.process:
                hub.kill()
    print(f"{fsync}: {acknowledged} acknowledged, {lost} lost")
    assert acknowledged > 0
    assert ": closed " in hub.log or fsync == "never"
    if fsync == "always":
        assert lost == 0
    else:
        assert lost > 0
