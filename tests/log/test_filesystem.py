"""One sync for many files: where it is made, and where each file is synced by itself."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from esource.errors import StorageError
from esource.log import Written, filesystem
from esource.log.file import devices
from esource.log.filesystem import LEAST_FILES, MOST_DIRTY_BYTES, SURE, FileSystem
from esource.log.folder import Folder
from tests.harness import needs
from tests.harness.machine import command, mounted

ROW = b"1\t\tone\n"
SHUTDOWN, WITHOUT_THE_JOURNAL = 0x8004587D, 2  # an ioctl of ext4 and xfs


@pytest.fixture(autouse=True)
def nothing_else_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MOST_DIRTY_BYTES", 1 << 62)


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    with ExitStack() as mounts:
        yield mounts


def image(path: Path, kind: str) -> Path:
    """Make a file system in a file; return it."""
    [make] = needs(f"mkfs.{kind}")
    path.touch()
    os.truncate(path, 1 << 26)
    command(make, "-q", *(["-F"] if kind.startswith("ext") else []), path)
    return path


def device_of(path: Path) -> int:
    return path.stat().st_dev


def is_for_all(folder: Folder, *names: str) -> bool:
    """Write to channels; sync and settle them; return whether that was one sync."""
    logs = [folder.open(name) for name in names]
    written = []
    for log in logs:
        found = log.write(log.end, [ROW])
        assert isinstance(found, Written)
        written.append(found)
    sync_all = folder.sync_all(written)
    if sync_all:
        assert sync_all() >= 0
    for log, each in zip(logs, written, strict=True):
        log.settle(each, 0.0 if sync_all else log.sync())
        assert log.pread(log.end - len(ROW), 100) == ROW
    return sync_all is not None


# -- which are sure ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "ext3", "ext2"])
def test_what_kind_of_file_system_a_folder_is_on_decides(
    tmp_path: Path, mounts: ExitStack, kind: str
) -> None:
    if kind == "tmpfs":
        place = mounts.enter_context(mounted(tmp_path / "place", "-t", kind, kind))
    else:
        disk = image(tmp_path / "image", kind)
        place = mounts.enter_context(mounted(tmp_path / "place", "-o", "loop", disk))
    assert filesystem._is_sure(device_of(place)) == (kind != "ext2")
    folder = Folder(place)
    assert not is_for_all(folder, "one1", "two2"), "it is looked at first"
    assert is_for_all(folder, "one1", "two2") == (kind != "ext2")
    assert not is_for_all(folder, *["one1"] * (LEAST_FILES - 1))


@pytest.mark.parametrize(
    "name", [b"a blank", b"a - ext4", b"l\nf", b"\xff\xfe", b"\x0c\r\x1c", b"-"]
)
def test_any_name_of_a_mount_is_read(tmp_path: Path, mounts: ExitStack, name: bytes) -> None:
    place = mounts.enter_context(mounted(tmp_path / os.fsdecode(name), "-t", "tmpfs", "-"))
    assert filesystem._is_sure(device_of(place))
    folder = Folder(place)
    assert [is_for_all(folder, "one1", "two2") for _ in "12"] == [False, True]


def test_an_overlay_is_not_sure(tmp_path: Path, mounts: ExitStack) -> None:
    base = mounts.enter_context(mounted(tmp_path / "base", "-t", "tmpfs", "tmpfs"))
    for name in ("lower", "upper", "work"):
        (base / name).mkdir()
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    place = mounts.enter_context(mounted(tmp_path / "place", "-t", "overlay", "-o", options, "x"))
    folder = Folder(place)
    assert not any(is_for_all(folder, "one1", "two2") for _ in "123")


@pytest.mark.parametrize(
    ("release", "is_sure"),
    [("5.16.20-generic", False), ("5.17.0", True), ("5.4.0-1", False), ("10.0-rc1", True),
     ("4.99.0", False), ("unknown", False)],
)  # fmt: skip
def test_an_older_linux_is_not_sure(
    tmp_path: Path, mounts: ExitStack, monkeypatch: pytest.MonkeyPatch, release: str, is_sure: bool
) -> None:
    place = mounts.enter_context(mounted(tmp_path / "place", "-t", "tmpfs", "tmpfs"))
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:2], release, *real[3:])))
    assert filesystem._is_sure(device_of(place)) == is_sure


def test_a_device_that_is_mounted_nowhere_is_not_sure() -> None:
    assert not filesystem._is_sure(os.makedev(4095, 77))


def test_a_folder_that_is_not_there_is_not_sure(tmp_path: Path) -> None:
    system = FileSystem(tmp_path / "gone")
    assert all(system.sync_of(2, {device_of(tmp_path)}) is None for _ in "12")


# -- which it is -------------------------------------------------------------------------------


def test_a_folder_that_is_moved_away_and_another_mounted_is_looked_at_anew(
    tmp_path: Path, mounts: ExitStack
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    folder = Folder(place)
    for _ in "12":
        is_for_all(folder, "one1", "two2")
    place.rename(tmp_path / "away")
    mounts.enter_context(mounted(place, "-t", "tmpfs", "tmpfs"))
    assert [is_for_all(folder, "one1", "two2") for _ in "123"] == [False, True, True]
    assert folder._file_system._device == device_of(place)


def test_another_file_system_over_the_folder_is_looked_at_anew(
    tmp_path: Path, mounts: ExitStack
) -> None:
    first = mounts.enter_context(mounted(tmp_path / "place", "-t", "tmpfs", "tmpfs"))
    folder = Folder(first)
    assert [is_for_all(folder, "one1", "two2") for _ in "12"] == [False, True]
    below = [folder.open(name) for name in ("one1", "two2")]
    command("mount", "-t", "tmpfs", "tmpfs", first)
    mounts.callback(command, "umount", "--lazy", first)
    # Those that are still open are on the one below, and written to it.
    written = [log.write(log.end, []) for log in below]
    assert not any(isinstance(each, Written) for each in written)
    assert [is_for_all(folder, "one1", "two2") for _ in "12"] == [False, True]


@pytest.mark.parametrize("bound", [1, 2])
def test_a_channels_file_on_another_device_has_its_round_synced_one_by_one(
    tmp_path: Path, mounts: ExitStack, bound: int
) -> None:
    place = mounts.enter_context(mounted(tmp_path / "place", "-t", "tmpfs", "tmpfs"))
    other = mounts.enter_context(mounted(tmp_path / "other", "-t", "tmpfs", "tmpfs"))
    names = ["bound-1", "bound-2"][:bound]
    for name in names:
        for path in (place, other):
            (path / f"{name}.tsv").touch()
        command("mount", "--bind", other / f"{name}.tsv", place / f"{name}.tsv")
        mounts.callback(command, "umount", "--lazy", place / f"{name}.tsv")
    folder = Folder(place)
    is_for_all(folder, "one1", "two2")
    for _ in "12":
        assert not is_for_all(folder, *names, *["one1", "two2"][bound - 1 :])
        assert is_for_all(folder, "one1", "two2")
    assert (other / f"{names[0]}.tsv").read_bytes() == 2 * ROW


# -- when --------------------------------------------------------------------------------------


def test_with_much_to_write_each_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, pages = Path.read_bytes, {b"nr_dirty": 0, b"nr_writeback": 0}

    def read_bytes(path: Path) -> bytes:
        if path != Path("/proc/vmstat"):
            return read(path)
        return b"nr_free_pages 99999999\n" + b"".join(b"%b %d\n" % item for item in pages.items())

    monkeypatch.setattr(filesystem, "MOST_DIRTY_BYTES", MOST_DIRTY_BYTES)
    monkeypatch.setattr(filesystem, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(filesystem, "_is_sure", lambda device: True)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    system, on = FileSystem(tmp_path), {device_of(tmp_path)}
    assert system.sync_of(2, on) is None
    assert system.sync_of(2, on)
    for name in pages:
        pages[name] = MOST_DIRTY_BYTES // os.sysconf("SC_PAGESIZE") + 1
        assert system.sync_of(2, on) is None
        pages[name] = 0
    assert system.sync_of(2, on)
    pages.clear()
    assert system.sync_of(2, on) is None, "nobody knows"


def test_this_system_says_how_much_there_is_to_write() -> None:
    assert len(filesystem._DIRTY.findall(Path("/proc/vmstat").read_bytes())) == 2


def test_a_file_system_that_has_become_read_only_has_not_synced(
    tmp_path: Path, mounts: ExitStack
) -> None:
    place = mounts.enter_context(mounted(tmp_path / "place", "-t", "tmpfs", "tmpfs"))
    system = FileSystem(place)
    assert system.sync_of(2, {device_of(place)}) is None
    sync = system.sync_of(2, {device_of(place)})
    assert sync
    assert sync() >= 0
    command("mount", "-o", "remount,ro", place)
    with pytest.raises(OSError, match="Read-only") as caught:
        sync()
    assert caught.value.errno == errno.EROFS


def test_rows_of_a_file_system_that_is_shut_down_before_they_are_synced_are_refused(
    tmp_path: Path, mounts: ExitStack
) -> None:
    """As ext4 is when its device is gone. Before Linux 6.13 the sync may say that all is well."""
    disk = image(tmp_path / "image", "ext4")
    place = mounts.enter_context(mounted(tmp_path / "place", "-o", "loop", disk))
    folder = Folder(place)
    for _ in "12":
        is_for_all(folder, "one1", "two2")
    logs = [folder.open(name) for name in ("one1", "two2")]
    written = [log.write_soon([ROW]) for log in logs]
    sync = folder.sync_all([each for each in written if each])
    assert sync
    fd = os.open(place, os.O_RDONLY)
    fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", WITHOUT_THE_JOURNAL))
    os.close(fd)
    with suppress(OSError):
        sync()
    for log, each in zip(logs, written, strict=True):
        assert each
        with pytest.raises(StorageError):
            log.settle(each, 0.0)
        assert log.end == 2 * len(ROW)
        assert log.refusal


def test_what_a_failed_sync_says_is_told(tmp_path: Path) -> None:
    system = FileSystem(tmp_path)
    system.sync_of(2, {device_of(tmp_path)})
    system._close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        system._sync()


def test_the_devices_are_those_of_the_files(tmp_path: Path) -> None:
    log = Folder(tmp_path).open("orders")
    written = log.write(0, [ROW])
    assert isinstance(written, Written)
    assert devices([written]) == {device_of(tmp_path)}
    log.settle(written, log.sync())
    assert {b"ext4", b"xfs"} <= SURE
