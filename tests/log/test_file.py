"""One file: whole rows, repair, and what a disk can do."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esource.errors import LogStale, StorageError, StorageFull
from esource.log.file import Log

ROWS = b"1\t\tone\n2\t\ttwo\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.tsv"


def torn_files(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.parent.glob(path.name + ".torn-*"))]


def test_reading_does_not_create_a_file_and_the_first_append_does(path: Path) -> None:
    log = Log(path)
    assert log.read(0, 100) == b""
    assert log.end == 0
    assert not path.exists()
    log.append(ROWS)
    assert path.read_bytes() == ROWS
    assert path.stat().st_mode & 0o777 == 0o640 & ~os.umask(os.umask(0o022))


def test_appends_are_read_back_from_any_row_on(path: Path) -> None:
    log = Log(path)
    log.append(ROWS)
    log.append(b"3\t\tthree\n")
    assert log.end == path.stat().st_size
    assert log.read(0, 1000) == ROWS + b"3\t\tthree\n"
    assert log.read(7, 1000) == b"2\t\ttwo\n3\t\tthree\n"
    assert Log(path).read(0, 1000) == log.read(0, 1000)


def test_a_read_is_whole_rows_at_most_the_limit_but_at_least_one(path: Path) -> None:
    log = Log(path)
    log.append(ROWS + b"x" * 1000 + b"\n")
    assert log.read(0, 13) == b"1\t\tone\n"
    assert log.read(0, 1) == b"1\t\tone\n"
    assert log.read(0, 100, stop=7) == b"1\t\tone\n"
    assert log.read(len(ROWS), 10) == b"x" * 1000 + b"\n"
    assert log.read(log.end, 10) == b""


def test_a_torn_last_row_is_saved_aside_and_the_log_still_appends(path: Path) -> None:
    path.write_bytes(ROWS + b"3\t\tthr")
    log = Log(path)
    assert log.end == len(ROWS)
    assert torn_files(path) == [b"3\t\tthr"]
    log.append(b"4\t\tfour\n")
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"


def test_truncation_at_every_byte_repairs_to_the_whole_rows_and_then_appends(path: Path) -> None:
    whole = ROWS + b"3\ta type\tdata\twith tabs\x0band lines\n"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        log = Log(path)
        kept = whole[: whole.rfind(b"\n", 0, size) + 1]
        assert path.read_bytes() == kept
        assert torn_files(path) == ([whole[len(kept) : size]] if len(kept) < size else [])
        log.append(b"next\t\t\n")
        assert Log(path).read(0, 1000) == kept + b"next\t\t\n"
        for file in path.parent.iterdir():
            file.unlink()


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(1, 70))
def test_any_bytes_are_repaired_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, rows_in_front: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "orders.tsv"
    content = (b"\t" * 1000 + b"\n") * rows_in_front + content
    path.write_bytes(content)
    log = Log(path)
    assert path.read_bytes() + b"".join(torn_files(path)) == content
    assert b"".join(rows for _, rows in reversed(list(log.backwards()))) == path.read_bytes()
    assert path.read_bytes().endswith(b"\n")


def test_backwards_yields_whole_rows_last_first(path: Path) -> None:
    rows = [b"%d\t\t%b\n" % (n, b"x" * (n * 37 % 5000)) for n in range(200)]
    rows[100] = b"100\t\t" + b"y" * 300_000 + b"\n"
    log = Log(path)
    log.append(b"".join(rows))
    blocks = list(log.backwards())
    assert len(blocks) >= 5
    assert all(block.endswith(b"\n") for _, block in blocks)
    assert b"".join(block for _, block in reversed(blocks)) == b"".join(rows)
    assert all(log.read(offset, len(block)) == block for offset, block in blocks)


# -- faults ------------------------------------------------------------------------------------


class Fault:
    """Replaces a call of `os` by one that fails from the n-th time on. (A disk that does so is
    in `tests/faults`.)"""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, code: int, after: int = 0):
        self.real = getattr(os, name)
        self.code = code
        self.after = after
        self.patch = monkeypatch
        self.name = name
        target = "esource.log.file._sync" if name == "fdatasync" else f"os.{name}"
        self.patch.setattr(target, self)

    def __call__(self, *arguments: object) -> object:
        self.after -= 1
        if self.after < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments)

    def mend(self) -> None:
        self.patch.undo()


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path)
    log.append(ROWS)
    real_write = os.write

    def short_then_full(fd: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, bytes(data)[:4])

    monkeypatch.setattr(os, "write", short_then_full)
    with pytest.raises(StorageFull):
        log.append(b"3\t\tthree\n")
    assert path.read_bytes() == ROWS
    monkeypatch.undo()
    log.append(b"3\t\tthree\n")
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"


def test_a_short_write_is_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:3]))
    Log(path).append(ROWS)
    assert path.read_bytes() == ROWS


def test_a_failed_sync_is_not_pretended_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(path)
    log.append(ROWS)
    fault = Fault(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(StorageError, match="could not be synced"):
        log.append(b"3\t\tthree\n")
    assert log.end == len(ROWS)
    assert path.read_bytes() == ROWS
    fault.mend()
    with pytest.raises(StorageError, match="could not be synced"):
        log.append(b"3\t\tthree\n")  # the disk works again, but the log was not reopened
    again = log.reopened()
    again.append(b"3\t\tthree\n")
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"


def test_an_unfinished_write_that_cannot_be_cut_off_is_saved_at_reopening(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(path)
    log.append(ROWS)
    fault = Fault(monkeypatch, "ftruncate", errno.EIO)
    monkeypatch.setattr("esource.log.file._sync", Fault(monkeypatch, "fdatasync", errno.EIO))
    with pytest.raises(StorageError):
        log.append(b"3\t\tnever acknowledged\n")
    with pytest.raises(StorageError):
        log.append(b"4\t\tfour\n")
    with pytest.raises(StorageError):
        log.reopened()
    fault.mend()
    again = log.reopened()
    assert path.read_bytes() == ROWS
    assert torn_files(path)[-1] == b"3\t\tnever acknowledged\n"
    again.append(b"4\t\tfour\n")
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"


def test_no_descriptors_left_is_an_error_and_later_appends_succeed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(path)
    fault = Fault(monkeypatch, "open", errno.EMFILE)
    with pytest.raises(StorageError, match="Too many open files"):
        log.append(ROWS)
    fault.mend()
    log.append(ROWS)
    assert path.read_bytes() == ROWS


# -- a file that others change -----------------------------------------------------------------


def test_rows_appended_by_others_are_noticed_and_taken_in(path: Path) -> None:
    log = Log(path)
    log.append(ROWS)
    with path.open("ab") as file:
        file.write(b"by hand\t\t\nunfini")
    with pytest.raises(LogStale, match="bytes long"):
        log.append(b"3\t\tthree\n")
    assert log.is_same_file()
    assert log.take_in() == len(b"by hand\t\t\n")
    log.check_unchanged()
    assert log.is_torn
    with path.open("ab") as file:
        file.write(b"shed\t\t\n")
    assert log.take_in() == len(b"unfinished\t\t\n")
    log.append(b"3\t\tthree\n")
    assert path.read_bytes() == ROWS + b"by hand\t\t\nunfinished\t\t\n3\t\tthree\n"
    assert torn_files(path) == []


def test_somebody_elses_unfinished_row_is_saved_aside_before_an_append(path: Path) -> None:
    log = Log(path)
    log.append(ROWS)
    with path.open("ab") as file:
        file.write(b"unfini")
    assert log.take_in() == 0
    with pytest.raises(LogStale, match="unfinished row"):
        log.append(b"3\t\tthree\n")
    log = log.reopened()
    log.append(b"3\t\tthree\n")
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"
    assert torn_files(path) == [b"unfini"]


def test_rows_appended_by_others_in_the_same_moment_do_not_get_in_the_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(path)
    log.append(ROWS)
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        with path.open("ab") as file:
            file.write(b"by hand\t\t\n")
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    start = log.append(b"3\t\tthree\n")
    assert start == len(ROWS) + len(b"by hand\t\t\n")
    assert log.read(0, 1000) == ROWS + b"by hand\t\t\n3\t\tthree\n"


def test_a_read_only_file_is_read_and_refuses_appends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS + b"3\t\tthr")
    real_open = os.open

    def read_only(name: Path, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EACCES, "Permission denied")
        return real_open(name, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    log = Log(path)
    assert log.read(0, 100) == ROWS
    with pytest.raises(StorageError, match="is read-only"):
        log.append(b"4\t\tfour\n")
    log.check_unchanged()
    assert path.read_bytes() == ROWS + b"3\t\tthr"
    assert torn_files(path) == []


def test_a_torn_row_that_cannot_be_saved_is_left_and_the_rest_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS + b"3\t\tthr")
    fault = Fault(monkeypatch, "fsync", errno.ENOSPC)
    log = Log(path)
    assert log.read(0, 100) == ROWS
    assert path.read_bytes() == ROWS + b"3\t\tthr"
    assert torn_files(path) == []
    with pytest.raises(StorageError, match="needs repair"):
        log.append(b"4\t\tfour\n")
    fault.mend()
    again = log.reopened()
    again.append(b"4\t\tfour\n")
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"
    assert torn_files(path) == [b"3\t\tthr"]


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced", "emptied"])
def test_a_file_that_went_away_is_noticed(path: Path, how: str) -> None:
    log = Log(path)
    log.append(ROWS)
    if how == "removed":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_name("orders-2017.tsv"))
    elif how == "replaced":
        other = path.with_name("other")
        other.write_bytes(b"other\t\t\n")
        other.replace(path)
    else:
        os.truncate(path, 0)
    with pytest.raises(LogStale):
        log.append(b"3\t\tthree\n")
    assert not log.is_same_file()
    again = log.reopened()
    before = path.read_bytes() if path.exists() else b""
    again.append(b"3\t\tthree\n")
    assert path.read_bytes() == before + b"3\t\tthree\n"
    if how != "emptied":
        assert log.read(0, 100) == ROWS  # who reads the old file still can


def test_links_and_other_things_than_files_are_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(ROWS)
    path.symlink_to(target)
    with pytest.raises(StorageError):
        Log(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StorageError, match="not a regular file"):
        Log(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError):
        Log(path)


def test_the_descriptor_is_closed_with_the_last_reference(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    log = Log(path)
    log.append(ROWS)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del log
    assert len(os.listdir("/proc/self/fd")) == before
