"""One file: whole rows, repair, and what a disk can do."""

import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esource.errors import StorageError, StorageFull
from esource.log import Appended, Moved, Replaced, Written, disk
from esource.log.file import SETTLED_SECONDS, FileLog
from tests.harness.channels import age, append_by_hand

ROWS = b"1\t\tone\n2\t\ttwo\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.tsv"


def torn_files(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.parent.glob(path.name + ".torn-*"))]


def test_reading_does_not_create_a_file_and_the_first_append_does(path: Path) -> None:
    log = FileLog(path)
    assert log.read(0, 100, 100) == b""
    assert not path.exists()
    log.append(None, [ROWS])
    assert path.read_bytes() == ROWS
    assert path.stat().st_mode & 0o777 == 0o640 & ~os.umask(os.umask(0o022))


@pytest.mark.parametrize("soon", [False, True])
def test_a_file_is_locked_before_the_first_byte_is_in_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    write = os.write

    def looked_at(fd: int, data: bytes) -> int:
        with path.open("rb") as file:
            assert not disk.lock(file.fileno()), "a command could close it"
        return write(fd, data)

    monkeypatch.setattr(os, "write", looked_at)
    log = FileLog(path)
    assert log.write_soon([ROWS]) if soon else log.write(None, [ROWS])
    assert path.read_bytes() == ROWS


def lock_at_once(lock: Callable[[int], bool], fd: int, seconds: float = 0.0) -> bool:
    assert not seconds
    return lock(fd)


def test_the_lock_of_a_new_file_is_never_waited_for_where_others_would_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command may find the file right after it was made."""
    log, real, others = FileLog(path), FileLog._adopt, []

    def adopt(self: FileLog, fd: int) -> os.stat_result:
        others.append(path.open("rb"))
        assert disk.lock(others[0].fileno())
        return real(self, fd)

    with monkeypatch.context() as patch:
        patch.setattr(FileLog, "_adopt", adopt)
        patch.setattr(disk, "lock", partial(lock_at_once, disk.lock))
        assert log.write_soon([ROWS]) is None
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.05)
    with pytest.raises(StorageError, match="locked by another program"):
        log.append(None, [ROWS])
    others[0].close()
    assert isinstance(log.append(None, [ROWS]), Appended)
    assert path.read_bytes() == ROWS


def test_a_torn_last_row_is_saved_aside_and_the_log_still_appends(path: Path) -> None:
    path.write_bytes(ROWS + b"3\t\tthr")
    log = FileLog(age(path))
    assert log.end == len(ROWS)
    assert torn_files(path) == [b"3\t\tthr"]
    log.append(None, [b"4\t\tfour\n"])
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"


def test_truncation_at_every_byte_repairs_to_the_whole_rows_and_then_appends(path: Path) -> None:
    whole = ROWS + b"3\ta type\tdata\twith tabs\x0band lines\n"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        log = FileLog(age(path))
        kept = whole[: whole.rfind(b"\n", 0, size) + 1]
        assert path.read_bytes() == kept
        assert torn_files(path) == ([whole[len(kept) : size]] if len(kept) < size else [])
        log.append(None, [b"next\t\t\n"])
        assert path.read_bytes() == kept + b"next\t\t\n"
        for file in path.parent.iterdir():
            file.unlink()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 70))
def test_any_bytes_are_repaired_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, rows_in_front: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "orders.tsv"
    content = (b"\t" * 1000 + b"\n") * rows_in_front + content
    path.write_bytes(content)
    log = FileLog(age(path))
    assert path.read_bytes() + b"".join(torn_files(path)) == content
    assert b"".join(rows for _, rows in reversed(list(log.backwards(log.end)))) == path.read_bytes()
    assert path.read_bytes().endswith(b"\n")


# -- at once -----------------------------------------------------------------------------------


def by_hand(path: Path, log: FileLog) -> None:
    append_by_hand(path, b"x\t\tby hand\n")


def in_place(path: Path, log: FileLog) -> None:
    age(path).write_bytes(ROWS.replace(b"t", b"T"))
    age(path)


def cut(path: Path, log: FileLog) -> None:
    os.truncate(path, 3)


def replaced(path: Path, log: FileLog) -> None:
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(ROWS.replace(b"t", b"T"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.rename(path.with_name("away"))
    other.rename(path)


def removed(path: Path, log: FileLog) -> None:
    path.unlink()


def torn(path: Path, log: FileLog) -> None:
    append_by_hand(path, b"half a row")


def torn_and_seen(path: Path, log: FileLog) -> None:
    torn(path, log)
    assert isinstance(log.append(None, [b"no\t\t\n"]), Moved)
    assert log.refresh() is None


def refused(path: Path, log: FileLog) -> None:
    log.refusal = "it was not synced"


def read_only(path: Path, log: FileLog) -> None:
    log._is_read_only = True


def a_folder(path: Path, log: FileLog) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [
    by_hand,
    in_place,
    cut,
    replaced,
    removed,
    torn,
    torn_and_seen,
    refused,
    read_only,
    a_folder,
]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_written_at_once_unless_the_file_is_as_it_was_left(
    path: Path, change: Callable[[Path, FileLog], None]
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    change(path, log)
    before = path.read_bytes() if path.is_file() else None
    assert log.write_soon([b"no\t\t\n"]) is None
    assert (path.read_bytes() if path.is_file() else None) == before
    log.write(None, [])  # it is not held


@pytest.mark.parametrize("how", ["removed", "created"])
def test_a_file_that_changes_right_before_it_is_written_at_once_gets_no_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    log = FileLog(path)
    if how == "removed":
        log.append(None, [ROWS])
    real = FileLog._is_as_left

    def look(self: FileLog) -> bool:
        found = real(self)
        if how == "removed":
            path.unlink()
        else:
            path.write_bytes(b"x\t\tby hand\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(FileLog, "_is_as_left", look)
        assert log.write_soon([b"no\t\t\n"]) is None
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert change.by.pread(0, 100) == (b"x\t\tby hand\n" if how == "created" else b"")


def test_rows_that_others_append_while_ours_are_written_at_once_are_behind_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    real = FileLog._is_as_left

    def look(self: FileLog) -> bool:
        found = real(self)
        append_by_hand(path, b"x\t\tby hand\ny\t\tha")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(FileLog, "_is_as_left", look)
        written = log.write_soon([b"3\t\t", b"three\n"])
    assert isinstance(written, Written)
    log.sync()
    log.settle(written, 0.0)
    assert log.end == len(ROWS) + len(b"3\t\tthree\n")
    assert path.read_bytes() == ROWS + b"3\t\tthree\nx\t\tby hand\ny\t\tha"
    assert log.write_soon([b"no\t\t\n"]) is None
    append_by_hand(path, b"lf\n")
    assert isinstance(log.append(None, [b"4\t\tfour\n"]), Appended)
    assert path.read_bytes().endswith(b"x\t\tby hand\ny\t\thalf\n4\t\tfour\n")


def test_rows_that_others_append_before_a_failed_sync_are_kept(path: Path) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    written = log.write_soon([b"3\t\tthree\n"])
    assert isinstance(written, Written)
    append_by_hand(path, b"x\t\tby hand\n")
    with pytest.raises(StorageError):
        log.settle(written, 0.0, OSError(errno.EIO, "Input/output error"))
    assert log.end == len(ROWS)
    assert "x\t\tby hand" in path.read_text() + "".join(map(bytes.decode, torn_files(path)))


def test_a_size_that_cannot_be_seen_after_the_write_leaves_no_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    fault = Fault(monkeypatch, "fstat", errno.EIO)
    with pytest.raises(StorageError):
        log.write_soon([b"3\t\tthree\n"])
    fault.mend()
    assert log.refusal
    assert isinstance(log.append(None, [b"4\t\tfour\n"]), Appended)
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"


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
        target = "esource.log.disk.sync" if name == "fdatasync" else f"os.{name}"
        self.patch.setattr(target, self)

    def __call__(self, *arguments: object) -> object:
        self.after -= 1
        if self.after < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments)

    def mend(self) -> None:
        self.patch.undo()


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    real_write = os.write

    def short_then_full(fd: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, bytes(data)[:4])

    monkeypatch.setattr(os, "write", short_then_full)
    with pytest.raises(StorageFull):
        log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS
    monkeypatch.undo()
    log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"


def test_a_short_write_is_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:3]))
    FileLog(path).append(None, [ROWS])
    assert path.read_bytes() == ROWS


def test_a_failed_sync_is_not_pretended_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    fault = Fault(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(StorageError, match="could not be synced"):
        log.append(None, [b"3\t\tthree\n"])
    assert log.end == len(ROWS)
    assert path.read_bytes() == ROWS
    assert log.refusal == "orders.tsv could not be synced: Input/output error"
    with pytest.raises(StorageError, match=r"cannot write orders\.tsv: Input/output error"):
        log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS
    fault.mend()
    log.append(None, [b"3\t\tthree\n"])
    assert log.refusal == ""
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"


def test_after_a_failed_sync_the_file_is_opened_again_before_rows_are_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    fault = Fault(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(StorageError):
        log.append(None, [b"3\t\tthree\n"])
    fault.mend()
    # The kernel tells of a failed sync once on each description: the next one needs another.
    fault = Fault(monkeypatch, "open", errno.EMFILE)
    with pytest.raises(StorageError, match="Too many open files"):
        log.append(None, [b"3\t\tthree\n"])
    fault.mend()
    before = len(os.listdir("/proc/self/fd"))
    mark(path)
    log.append(None, [b"3\t\tthree\n"])
    assert len(os.listdir("/proc/self/fd")) == before
    assert not mark(path)


def mark(path: Path) -> bool:
    """Mark the description by which this process has a file open; return whether it was marked."""
    [fd] = [
        int(name) for name in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{name}") == str(path)
    ]  # fmt: skip
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
    return not flags & os.O_NONBLOCK


def test_a_file_of_which_rows_are_gone_after_a_fault_is_another_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the kernel had dropped what it could not write."""
    log = FileLog(path)
    log.append(None, [ROWS])
    fault = Fault(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(StorageError):
        log.append(None, [b"3\t\tthree\n"])
    fault.mend()
    with path.open("r+b") as file:
        file.seek(len(ROWS) - 1)
        file.write(b"\0")
    age(path)
    assert isinstance(log.append(None, [b"3\t\tthree\n"]), Moved)
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert change.by.end == len(b"1\t\tone\n")
    assert torn_files(path) == [b"2\t\ttwo\0"]


def test_an_unfinished_write_that_cannot_be_cut_off_is_saved_aside_before_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    fault = Fault(monkeypatch, "ftruncate", errno.EIO)
    monkeypatch.setattr("esource.log.disk.sync", Fault(monkeypatch, "fdatasync", errno.EIO))
    for _ in range(2):
        with pytest.raises(StorageError):
            log.append(None, [b"3\t\tnever acknowledged\n"])
        assert log.refresh() is None  # what is behind the end is nobody's row
        assert log.end == len(ROWS)
    fault.mend()
    log.append(None, [b"4\t\tfour\n"])
    assert torn_files(path)[-1] == b"3\t\tnever acknowledged\n"
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"


def test_no_descriptors_left_is_an_error_and_later_appends_succeed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    fault = Fault(monkeypatch, "open", errno.EMFILE)
    with pytest.raises(StorageError, match="Too many open files"):
        log.append(None, [ROWS])
    fault.mend()
    log.append(None, [ROWS])
    assert path.read_bytes() == ROWS


# -- a file that others change -----------------------------------------------------------------


def test_whole_rows_of_others_are_taken_in_and_the_rest_once_it_is_whole(path: Path) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"by hand\t\t\nunfini")
    assert log.refresh() is None
    assert log.end == len(ROWS + b"by hand\t\t\n")
    assert log.is_current()
    append_by_hand(path, b"shed\t\t\n")
    assert not log.is_current()
    appended = log.append(None, [b"3\t\tthree\n"])
    assert isinstance(appended, Appended)
    assert appended.start == len(ROWS + b"by hand\t\t\nunfinished\t\t\n")
    assert path.read_bytes() == ROWS + b"by hand\t\t\nunfinished\t\t\n3\t\tthree\n"
    assert torn_files(path) == []


def test_rows_of_others_are_on_disk_before_anybody_sees_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"by hand\t\t\n")
    fault = Fault(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(StorageError, match="could not be synced"):
        log.refresh()
    assert log.end == len(ROWS)
    fault.mend()
    assert log.append(None, [b"3\t\tthree\n"])


def test_while_rows_of_others_are_synced_nobody_else_has_to_look_at_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"by hand\t\t\n")
    seen = []
    monkeypatch.setattr(disk, "sync", lambda fd: seen.append(log.is_current()))
    log.refresh()
    assert seen == [True]


def test_nothing_is_lost_of_a_row_that_is_finished_while_its_half_is_saved_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"half a ")
    age(path)
    save = disk.save_aside

    def save_slowly(fd: int, start: int, end: int, file: Path) -> Path:
        saved = save(fd, start, end, file)
        if not path.read_bytes().endswith(b"row\t\t\n"):  # the first time
            append_by_hand(path, b"row\t\t\n")
        return saved

    monkeypatch.setattr(disk, "save_aside", save_slowly)
    log.append(None, [b"3\t\tthree\n"])
    assert b"row\t\t\n" in path.read_bytes() + b"".join(torn_files(path))


def test_whole_rows_of_others_stay_though_a_sync_of_them_has_failed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"by hand\t\t\n")
    fault = Fault(monkeypatch, "fdatasync", errno.EIO)
    with pytest.raises(StorageError):
        log.refresh()
    fault.mend()
    log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS + b"by hand\t\t\n3\t\tthree\n"
    assert torn_files(path) == []


def test_half_a_row_of_others_is_saved_aside_before_an_append(path: Path) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"unfini")
    assert log.refresh() is None
    began = time.monotonic()
    while isinstance(moved := log.append(None, [b"3\t\tthree\n"]), Moved):
        assert path.read_bytes() == ROWS + b"unfini"
        time.sleep(moved.seconds)
    assert SETTLED_SECONDS - 0.1 < time.monotonic() - began < SETTLED_SECONDS + 4
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"
    assert torn_files(path) == [b"unfini"]


def test_a_fresh_half_of_a_row_is_left_alone_when_the_file_is_opened(path: Path) -> None:
    path.write_bytes(ROWS + b"unfini")
    log = FileLog(path)
    assert (log.end, log.is_current(), log.refusal) == (len(ROWS), True, "")
    assert isinstance(log.append(None, [b"3\t\tthree\n"]), Moved)
    append_by_hand(path, b"shed\t\t\n")
    log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS + b"unfinished\t\t\n3\t\tthree\n"
    assert torn_files(path) == []


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_half_a_row_is_waited_for_a_second_whatever_the_clock_does(path: Path, step: float) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"unfini")
    age(path, step)
    waits = 0.0
    while isinstance(moved := log.append(None, [b"3\t\tthree\n"]), Moved):
        waits += moved.seconds
        assert waits < SETTLED_SECONDS + 0.1
        time.sleep(moved.seconds)
    assert torn_files(path) == [b"unfini"]


def test_a_row_that_others_write_in_two_blocks_stays_one_though_ours_come_in_between(
    path: Path,
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"a\t\tthei")
    for row, theirs in ((b"3\t\tours\n", b"rs, an"), (b"4\t\tours\n", b"d lo")):
        assert isinstance(log.append(None, [row]), Moved)
        append_by_hand(path, theirs)
        appended = log.append(None, [row])  # it has grown: no need to wait
        assert isinstance(appended, Appended)
        assert log.pread(appended.start, 100).startswith(row)
    append_by_hand(path, b"ng\n")
    assert path.read_bytes() == ROWS + b"3\t\tours\n4\t\tours\na\t\ttheirs, and long\n"
    assert log.end == len(ROWS + b"3\t\tours\n4\t\tours\n")
    assert not log.is_current()
    log.append(None, [b"5\t\t\n"])
    assert path.read_bytes().endswith(b"4\t\tours\na\t\ttheirs, and long\n5\t\t\n")
    assert torn_files(path) == []


def test_rows_are_at_the_place_that_was_told_however_many_come_meanwhile(path: Path) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"a\t\tbefore\n")
    moved = log.append(len(ROWS), [b"3\t\tno\n"])
    assert isinstance(moved, Moved)
    append_by_hand(path, b"b\t\tmeanwhile\n")
    appended = log.append(moved.end, [b"3\t\tyes\n"])
    assert isinstance(appended, Appended)
    assert appended.start == moved.end
    content = ROWS + b"a\t\tbefore\n3\t\tyes\nb\t\tmeanwhile\n"
    assert path.read_bytes() == content
    assert log.refresh() is None
    assert log.end == len(content)


def test_a_place_that_was_told_is_none_once_the_rows_behind_it_were_seen(path: Path) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"a\t\tbefore\n")
    moved = log.append(len(ROWS), [b"3\t\tno\n"])
    assert isinstance(moved, Moved)
    append_by_hand(path, b"b\t\tseen\n")
    log.refresh()
    assert isinstance(log.append(moved.end, [b"3\t\tno\n"]), Moved)
    assert path.read_bytes() == ROWS + b"a\t\tbefore\nb\t\tseen\n"


def test_a_full_disk_cuts_off_no_row_of_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    append_by_hand(path, b"by hand\t\t\n")
    fault = Fault(monkeypatch, "write", errno.ENOSPC)
    with pytest.raises(StorageFull):
        log.append(None, [b"3\t\tthree\n"])
    fault.mend()
    assert path.read_bytes() == ROWS + b"by hand\t\t\n"
    assert log.refresh() is None


def test_cutting_back_never_makes_a_file_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])

    def cut_and_fail(fd: int, data: bytes) -> int:
        os.ftruncate(fd, 3)  # another program, right now
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", cut_and_fail)
    with pytest.raises(StorageFull):
        log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS[:3]


def test_a_copy_of_what_is_cut_off_is_on_disk_with_its_name_before_it_is_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS + b"torn")
    age(path)
    calls = []
    real_fsync, real_ftruncate = os.fsync, os.ftruncate

    def fsync(fd: int) -> None:
        link = os.readlink(f"/proc/self/fd/{fd}")
        calls.append("copy" if ".torn-" in link else "folder" if link == str(path.parent) else "")
        real_fsync(fd)

    def ftruncate(fd: int, size: int) -> None:
        calls.append("cut")
        real_ftruncate(fd, size)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    FileLog(path)
    assert calls[:3] == ["copy", "folder", "cut"]


@pytest.mark.parametrize("theirs", [b"by hand\t\t\n", b"by ha"])
def test_what_others_append_between_our_writes_is_behind_them(
    path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    real_write, count = os.write, 0

    def write(fd: int, data: bytes) -> int:
        nonlocal count
        append_by_hand(path, theirs)
        count += 1
        return real_write(fd, bytes(data)[:5])

    ours = [b"3\t\tthree\n", b"4\t\tfour\n"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        appended = log.append(len(ROWS), ours)
    assert isinstance(appended, Appended)
    assert (appended.start, log.end) == (len(ROWS), len(ROWS + b"".join(ours)))
    assert path.read_bytes() == ROWS + b"".join(ours) + theirs * count
    assert not log.is_current()
    append_by_hand(path, b"\n")
    assert log.refresh() is None
    assert path.read_bytes() == ROWS + b"".join(ours) + theirs * count + b"\n"


def test_a_write_that_fails_cuts_off_nothing_that_others_have_written_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        append_by_hand(path, b"by hand\t\t\n")
        return real_write(fd, bytes(data)[:6])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(StorageFull):
            log.append(None, [b"3\t\tthree\n"])
    assert log.append(None, [b"4\t\tfour\n"])
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"
    assert b"by hand\t\t\n" in b"".join(torn_files(path))


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
    log = FileLog(path)
    assert log.read(0, 100, log.end) == ROWS
    with pytest.raises(StorageError, match="is read-only"):
        log.append(None, [b"4\t\tfour\n"])
    assert (log.refusal, log.is_current()) == ("", True)  # read-only on purpose is no fault
    assert path.read_bytes() == ROWS + b"3\t\tthr"
    assert torn_files(path) == []


def test_a_torn_row_that_cannot_be_saved_is_left_and_the_rest_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(ROWS + b"3\t\tthr")
    age(path)
    fault = Fault(monkeypatch, "fsync", errno.ENOSPC)
    log = FileLog(path)
    assert log.read(0, 100, log.end) == ROWS
    assert path.read_bytes() == ROWS + b"3\t\tthr"
    assert torn_files(path) == []
    assert log.refusal == "orders.tsv needs repair: No space left on device"
    with pytest.raises(StorageFull):
        log.append(None, [b"4\t\tfour\n"])
    fault.mend()
    log.append(None, [b"4\t\tfour\n"])
    assert path.read_bytes() == ROWS + b"4\t\tfour\n"
    assert torn_files(path) == [b"3\t\tthr"]


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced", "emptied"])
def test_a_file_that_went_away_is_noticed(path: Path, how: str) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
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
    assert isinstance(log.append(None, [b"3\t\tthree\n"]), Moved)
    change = log.refresh()
    assert isinstance(change, Replaced)
    before = path.read_bytes() if path.exists() else b""
    change.by.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == before + b"3\t\tthree\n"
    if how != "emptied":
        assert log.read(0, 100, log.end) == ROWS  # the old file can still be read


def test_a_file_that_is_removed_between_the_look_and_the_write_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        path.unlink()
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    assert isinstance(log.append(None, [b"3\t\tthree\n"]), Moved)


def test_a_file_that_is_made_between_the_look_and_the_write_is_taken_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    real_open = os.open

    def make_and_open(name: Path, flags: int, *mode: int) -> int:
        path.write_bytes(ROWS)
        return real_open(name, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", make_and_open)
        assert isinstance(log.append(None, [b"3\t\tthree\n"]), Moved)
    change = log.refresh()
    assert isinstance(change, Replaced)
    change.by.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == ROWS + b"3\t\tthree\n"


def test_a_log_that_is_being_appended_to_is_current(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    seen = []
    real_write = os.write

    def write_and_look(fd: int, data: bytes) -> int:
        size = real_write(fd, data)
        seen.append(log.is_current())
        return size

    monkeypatch.setattr(os, "write", write_and_look)
    log.append(None, [b"3\t\tthree\n"])
    assert seen == [True]
    append_by_hand(path, b"4\t\tby hand\n")
    assert not log.is_current()


def test_a_file_that_has_the_number_and_the_size_of_the_one_before_is_another_log(
    path: Path,
) -> None:
    first = FileLog(path)
    first.append(None, [ROWS])
    number = path.stat().st_ino
    path.write_bytes(ROWS.replace(b"1", b"9"))
    assert path.stat().st_ino == number
    assert FileLog(path).generation != first.generation
    assert FileLog(path).generation == FileLog(path).generation


def test_a_file_that_is_made_anew_is_another_log_though_its_rows_and_its_number_are_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a file system gives a number again nobody knows: so only the birth is another here."""
    path.write_bytes(ROWS)
    first = FileLog(path).generation
    with path.open("rb") as file:
        birth = disk.birth(file.fileno())
    if birth == 0:
        pytest.skip("this file system does not know when a file was made")
    known = subprocess.run(["stat", "-c", "%W", path], capture_output=True, check=True).stdout
    assert birth // 10**9 == int(known)
    monkeypatch.setattr(disk, "birth", lambda fd: birth + 1)
    assert FileLog(path).generation != first


EDITS = {  # offset, bytes, and how long the file is before that
    "the last row": (len(ROWS) - 3, b"W", len(ROWS)),
    "the first row": (3, b"O", len(ROWS)),
    "truncated": (7, b"3\t\tnew\n", 7),
}


@pytest.mark.parametrize("where", EDITS)
def test_rows_that_were_changed_in_place_are_another_log(path: Path, where: str) -> None:
    log = FileLog(path)
    log.append(None, [ROWS])
    age(path)  # the time of a file counts in some milliseconds
    assert log.refresh() is None
    assert log.is_current()
    offset, edited, size = EDITS[where]
    os.truncate(path, size)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(edited)
    assert path.stat().st_size == len(ROWS)
    assert not log.is_current()
    assert isinstance(log.append(len(ROWS), [b"3\t\tno\n"]), Moved)
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert "changed in place" in change.why
    assert change.by.append(len(ROWS), [b"3\t\tyes\n"])


def test_links_and_other_things_than_files_are_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(ROWS)
    path.symlink_to(target)
    with pytest.raises(StorageError):
        FileLog(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StorageError, match="not a regular file"):
        FileLog(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError):
        FileLog(path)


def test_the_descriptor_is_closed_with_the_last_reference(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    log = FileLog(path)
    log.append(None, [ROWS])
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del log
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_are_read_from_behind_in_ever_larger_pieces(path: Path) -> None:
    path.write_bytes(20_000 * (b"1\t\t" + 46 * b"x" + b"\n"))
    log = FileLog(path)
    sizes = [len(rows) for _, rows in log.backwards(log.end)]
    assert sum(sizes) == log.end
    assert sizes[0] <= 4096, "mostly it is the last row that is wanted"
    assert len(sizes) < 4 + log.end / 60_000, "or many"


# -- a byte order mark -------------------------------------------------------------------------

BOM = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_before_the_first_row(path: Path) -> None:
    path.write_bytes(BOM + ROWS)
    log = FileLog(path)
    assert (log.begin, log.end) == (3, 3 + len(ROWS))
    assert log.read(log.begin, 100, log.end) == ROWS
    assert list(log.backwards(log.end)) == [(3, ROWS)]
    log.append(None, [b"3\t\tthree\n"])
    assert path.read_bytes() == BOM + ROWS + b"3\t\tthree\n"
    assert FileLog(path).generation == log.generation
    path.write_bytes(ROWS + BOM + ROWS)
    assert FileLog(path).begin == 0


@pytest.mark.parametrize("size", range(3 + len(ROWS)))
def test_a_file_that_is_cut_within_its_mark_or_first_row_has_none(path: Path, size: int) -> None:
    path.write_bytes((BOM + ROWS)[:size])
    log = FileLog(age(path))
    assert log.begin == (3 if size >= 3 + len(b"1\t\tone\n") else 0)
    log.append(None, [b"3\t\tthree\n"])
    assert log.read(log.begin, 100, log.end).endswith(b"3\t\tthree\n")
    assert not log.read(log.begin, 100, log.end).startswith(BOM)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("appends", [True, False])
def test_a_log_without_rows_is_replaced_by_one_behind_the_mark(
    path: Path, exists: bool, appends: bool
) -> None:
    if exists:
        path.touch()
    log = FileLog(path)
    append_by_hand(path, BOM)
    append_by_hand(path, ROWS)
    assert not log.is_current()
    if appends:
        moved = log.append(None, [b"3\t\tthree\n"])
        assert isinstance(moved, Moved)
        assert moved.end is None
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert (log.end, change.by.begin, change.by.end) == (0, 3, 3 + len(ROWS))
    assert change.by.refresh() is None
    assert path.read_bytes() == BOM + ROWS
