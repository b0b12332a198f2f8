"""What commands do to the files of a channel: nothing is lost, whenever it ends."""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from esource.errors import EsourceError, Missing, StorageError
from esource.log import disk, history, segments
from esource.log.folder import Folder
from esource.rules import Rule
from tests.harness.killed import killed_at, traced

ONE, TWO, THREE = b"1\t\tone\n", b"2\t\ttwo\n", b"3\t\tthree\n"
ROWS = ONE + TWO + THREE
DAY = 86_400


def segment(folder: Path, offset: int) -> Path:
    return folder / f"orders.{offset:020}.tsv"


def history_of(folder: Path) -> bytes:
    log = Folder(folder).open("orders")
    return log.pread(log.start, log.end - log.start)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes | str]:
    """Return all that is in a folder: the bytes of files, the targets of links."""
    return {
        path.name: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.iterdir()
    }


def in_segments(folder: Path, *pieces: bytes) -> list[Path]:
    """Make a channel of several files, of which each is older than the next one."""
    offset, paths = 0, []
    for piece in pieces:
        paths.append(segment(folder, offset))
        paths[-1].write_bytes(piece)
        offset += len(piece)
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (time.time() - age * DAY,) * 2)
    (folder / "orders.tsv").symlink_to(paths[-1].name)
    return paths


def killed_folders(
    home: Path, pieces: list[bytes], work: Callable[[Path, str], object]
) -> Iterator[Path]:
    """Yield folders of a channel in which some work was killed: each time a call later.

    A first piece without bytes was removed from the front.
    """
    for call in range(500):
        folder = home / str(call)
        folder.mkdir()
        if len(pieces) == 1:
            (folder / "orders.tsv").write_bytes(pieces[0])
        elif not pieces[0]:
            in_segments(folder, ONE, *pieces[1:])[0].unlink()
        else:
            in_segments(folder, *pieces)
        if not killed_at(call, partial(work, folder, "orders")):
            return
        yield folder
    pytest.fail("it never ended")


# -- rotate ------------------------------------------------------------------------------------


def test_the_one_file_becomes_the_first_segment(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    first, second = segment(tmp_path, 0), segment(tmp_path, len(ROWS))
    assert history.rotate(tmp_path, "orders") == (first, second)
    assert content(tmp_path) == {
        first.name: ROWS, second.name: b"", "orders.tsv": second.name,
    }  # fmt: skip


def test_a_segment_is_closed_where_its_rows_end(tmp_path: Path) -> None:
    in_segments(tmp_path, ONE, TWO + THREE)
    closed, growing = segment(tmp_path, len(ONE)), segment(tmp_path, len(ROWS))
    assert history.rotate(tmp_path, "orders") == (closed, growing)
    assert os.readlink(tmp_path / "orders.tsv") == growing.name
    assert time.time() - closed.stat().st_mtime < 60
    assert history_of(tmp_path) == ROWS
    before = content(tmp_path)
    assert history.rotate(tmp_path, "orders") is None, "there is nothing to close"
    assert content(tmp_path) == before


def test_all_is_on_disk_in_an_order_in_which_a_power_cut_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    steps = traced(monkeypatch, tmp_path, "fsync", "fdatasync", "rename", "symlink", "close")
    monkeypatch.setattr(disk, "sync", os.fdatasync)
    history.rotate(tmp_path, "orders")
    first, second = (segment(tmp_path, offset).name for offset in (0, len(ROWS)))
    assert [step for step in steps if "close ." not in step or second in step] == [
        "fdatasync ./orders.tsv", "rename ./orders.tsv", "fsync .",
        f"symlink {first}", f"close ./{second}", "fsync .", f"symlink {second}",
    ]  # fmt: skip


def test_a_rotation_that_is_killed_leaves_the_history(tmp_path: Path) -> None:
    for folder in killed_folders(tmp_path, [ROWS], history.rotate):
        assert history_of(folder) == ROWS
        history.rotate(folder, "orders")
        assert history_of(folder) == ROWS
        growing = segment(folder, len(ROWS))
        assert segments.files(folder, "orders")[-1] == (len(ROWS), growing)
        assert os.readlink(folder / "orders.tsv") == growing.name


def test_half_a_row_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    path.write_bytes(ROWS[:-3])

    def go_on() -> None:
        with path.open("ab") as file:
            file.write(ROWS[-3:])

    timer = threading.Timer(0.2, go_on)
    timer.start()
    try:
        assert history.rotate(tmp_path, "orders")
    finally:
        timer.join()
    assert segment(tmp_path, 0).read_bytes() == ROWS


def test_half_a_row_that_stays_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS + b"4\t\tfo")
    with pytest.raises(StorageError, match=r"orders\.tsv ends with half a row"):
        history.rotate(tmp_path, "orders")
    assert content(tmp_path) == {"orders.tsv": ROWS + b"4\t\tfo"}


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
@pytest.mark.parametrize("command", ["rotate", "join"])
def test_what_root_makes_belongs_to_who_owned_it(tmp_path: Path, command: str) -> None:
    for above in tmp_path.parents[:-2]:  # that user has to get there
        above.chmod(above.stat().st_mode | 0o011)
    os.chown(tmp_path, 65534, 65534)
    paths = in_segments(tmp_path, ONE, TWO)
    for path in paths:
        path.chmod(0o604)
        os.chown(path, 65534, 12345)
    if command == "rotate":
        history.rotate(tmp_path, "orders")
        made = segment(tmp_path, len(ONE + TWO))
        assert os.lstat(tmp_path / "orders.tsv").st_uid == 65534
    else:
        history.join(tmp_path, "orders")
        made = tmp_path / "orders.tsv"
    status = made.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 12345, 0o604)
    assert os.geteuid() == 0


# -- trim --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (Rule("*", age=DAY * 3 // 2), [1, 2]),
        (Rule("*", age=DAY // 2), [2]),
        (Rule("*", age=1), [2]),  # the growing one stays
        (Rule("*", age=DAY * 5 // 2), [0, 1, 2]),
        (Rule("*", size=len(TWO + THREE)), [1, 2]),
        (Rule("*", size=len(TWO + THREE) + 1), [0, 1, 2]),
        (Rule("*", size=1), [2]),
    ],
)
def test_what_the_condition_does_not_keep_goes(tmp_path: Path, rule: Rule, left: list[int]) -> None:
    paths = in_segments(tmp_path, ONE, TWO, THREE)
    before = content(tmp_path)
    gone = [path for n, path in enumerate(paths) if n not in left]
    would = history.trim(tmp_path, "orders", rule, time.time(), dry_run=True)
    assert [each.path for each in would] == gone
    assert content(tmp_path) == before
    assert history.trim(tmp_path, "orders", rule, time.time(), dry_run=False) == would
    assert names(tmp_path) == sorted([paths[n].name for n in left] + ["orders.tsv"])
    assert history_of(tmp_path) == b"".join((ONE, TWO, THREE)[n] for n in left)


def test_rows_that_a_hub_has_to_move_yet_stay(tmp_path: Path) -> None:
    paths = in_segments(tmp_path, ONE, TWO, THREE)
    with paths[1].open("ab") as file:
        file.write(b"late\t\trow\n")
    os.utime(paths[1], (0, 0))
    gone = history.trim(tmp_path, "orders", Rule("*", size=1), time.time(), dry_run=False)
    assert [each.path for each in gone] == paths[:1]


def test_one_file_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    assert not history.trim(tmp_path, "orders", Rule("*", size=1), time.time(), dry_run=False)
    assert content(tmp_path) == {"orders.tsv": ROWS}


@pytest.mark.parametrize("pieces", [[ROWS], [ONE, TWO + THREE]])
def test_nothing_is_closed_or_removed_while_an_append_has_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    path = tmp_path / "orders.tsv"
    if len(pieces) == 1:
        path.write_bytes(ROWS)
    else:
        path = in_segments(tmp_path, *pieces)[-1]
    before = content(tmp_path)
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.05)
    with path.open("rb") as file:
        assert disk.lock(file.fileno())
        with pytest.raises(StorageError, match="locked by another program"):
            history.rotate(tmp_path, "orders")
        with pytest.raises(StorageError, match="locked by another program"):
            history.trim(tmp_path, "orders", Rule("*", size=1), 0.0, dry_run=False)
    assert content(tmp_path) == before


def test_a_file_that_a_hub_closes_meanwhile_is_not_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_segments(tmp_path, ONE, TWO)
    lock = disk.lock
    waits: list[float] = []

    def closed_meanwhile(fd: int, seconds: float = 0.0) -> bool:
        if not waits:
            segments.begin_at(tmp_path, "orders", len(ONE + TWO))
        waits.append(seconds)
        return lock(fd, seconds)

    monkeypatch.setattr(disk, "lock", closed_meanwhile)
    assert history.rotate(tmp_path, "orders") is None
    assert len(segments.files(tmp_path, "orders")) == 3
    assert len(waits) == 2


# -- join --------------------------------------------------------------------------------------


def test_all_rows_are_in_one_file_again(tmp_path: Path) -> None:
    paths = in_segments(tmp_path, ONE, TWO, THREE)
    modified = paths[-1].stat().st_mtime_ns
    paths[0].with_suffix(".idx").write_bytes(b"an index")
    joined = history.join(tmp_path, "orders")
    assert joined == (tmp_path / "orders.tsv", len(ROWS), 0)
    assert content(tmp_path) == {"orders.tsv": ROWS}
    assert (tmp_path / "orders.tsv").stat().st_mtime_ns == modified
    assert history.join(tmp_path, "orders") is None
    assert content(tmp_path) == {"orders.tsv": ROWS}


def test_no_segment_goes_before_the_one_file_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = in_segments(tmp_path, ONE, TWO)
    steps = traced(monkeypatch, tmp_path, "fsync", "replace", "unlink")
    history.join(tmp_path, "orders")
    steps = steps[steps.index("fsync ./.orders.tsv.join") :]
    rows = [step for step in steps if not step.endswith((".idx", ".ids", ".late"))]
    assert rows == [
        "fsync ./.orders.tsv.join", "replace ./.orders.tsv.join", "fsync .",
        f"unlink ./{first.name}", "fsync .", f"unlink ./{second.name}", "fsync .",
    ]  # fmt: skip


def test_what_was_removed_before_is_told(tmp_path: Path) -> None:
    in_segments(tmp_path, ONE, TWO, THREE)[0].unlink()
    joined = history.join(tmp_path, "orders")
    assert joined == (tmp_path / "orders.tsv", len(TWO + THREE), len(ONE))
    assert content(tmp_path) == {"orders.tsv": TWO + THREE}


def test_late_rows_are_in_it_once(tmp_path: Path) -> None:
    paths = in_segments(tmp_path, ONE, TWO, THREE)
    with paths[0].open("ab") as file:
        file.write(b"late\t\trow\n")
    history.join(tmp_path, "orders")
    assert content(tmp_path) == {"orders.tsv": ROWS + b"late\t\trow\n"}


def test_a_note_of_what_was_moved_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the same row, written again, would be taken for moved."""
    paths = in_segments(tmp_path, ONE, TWO)
    with paths[0].open("ab") as file:
        file.write(THREE)
    steps = traced(monkeypatch, tmp_path, "unlink", "fsync")
    history.settle(tmp_path, "orders")
    gone = steps.index(f"unlink ./.{paths[0].stem}.late")
    assert steps[gone - 1 :][::2] == [f"fsync ./{paths[0].name}", "fsync ."]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda paths: paths[1].unlink(), "has a gap"),
        (lambda paths: paths[1].write_bytes(b""), "has a gap"),
        (lambda paths: paths[2].write_bytes(THREE + b"half"), "ends with half a row"),
        (lambda paths: paths[0].write_bytes(ONE + b"half"), "ends with half a row"),
        (lambda paths: paths[0].with_name("orders.tsv").unlink() or
         paths[0].with_name("orders.tsv").write_bytes(b"x\t\tother\n"), "no part of its channel"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_not_joined(tmp_path: Path, harm: object, why: str) -> None:
    paths = in_segments(tmp_path, ONE, TWO, THREE)
    assert callable(harm)
    harm(paths)
    before = content(tmp_path)
    with pytest.raises(StorageError, match=why):
        history.join(tmp_path, "orders")
    assert content(tmp_path) == before


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_join_that_is_killed_loses_nothing_and_goes_on(tmp_path: Path, trimmed: bool) -> None:
    pieces = [b"" if trimmed else ONE, TWO, THREE, b""]
    for folder in killed_folders(tmp_path, pieces, history.join):
        rows = b"".join(pieces)
        if trimmed:  # it is the next hub that goes on
            logs = Folder(folder)
            logs.hold(lambda: None)
            assert history_of(folder) == rows
            logs.open("orders").append(None, [b"4\t\tfour\n"])
            rows += b"4\t\tfour\n"
            assert history_of(folder) == rows
        history.finish(folder)
        assert not [name for name in names(folder) if "join" in name]
        history.join(folder, "orders")
        assert (folder / "orders.tsv").read_bytes() == rows
        assert set(names(folder)) <= {"orders.tsv", ".writer.lock"}


def test_a_file_of_other_rows_is_not_taken_for_what_was_joined(tmp_path: Path) -> None:
    for other in (ROWS[:-2] + b"x\n", ROWS + ONE, TWO + THREE, b"x"):
        folder = tmp_path / str(len(other))
        folder.mkdir()
        in_segments(folder, ONE, TWO, THREE)
        (folder / "orders.tsv").unlink()
        (folder / "orders.tsv").write_bytes(other)
        before = content(folder)
        history.finish(folder)
        assert content(folder) == before


@pytest.mark.parametrize("copy", [b"", TWO, TWO + THREE])
def test_a_copy_of_the_growing_file_in_the_place_of_its_link_is_that_again(
    tmp_path: Path, copy: bytes
) -> None:
    """`scp -r`, `cp -rL` and `rsync -L` follow links, perhaps while a hub appends."""
    growing = in_segments(tmp_path, ONE, TWO + THREE)[-1]
    before = content(tmp_path)
    (tmp_path / "orders.tsv").unlink()
    (tmp_path / "orders.tsv").write_bytes(copy)
    history.finish(tmp_path)
    assert content(tmp_path) == before
    (tmp_path / "orders.tsv").unlink()
    (tmp_path / "orders.tsv").write_bytes(TWO + ONE)
    before = content(tmp_path)
    history.finish(tmp_path)
    assert content(tmp_path) == before
    assert growing.read_bytes() == TWO + THREE


def test_what_a_crash_has_left_of_others_goes_and_nothing_else(tmp_path: Path) -> None:
    paths = in_segments(tmp_path, ONE, TWO)
    stem = f"gone.{0:020}"
    rests = [
        f".{paths[0].stem}.idx.new", f".{paths[0].stem}.ids.new", ".orders.idx.new",
        ".orders.tsv.link", ".orders.tsv.join", f".{paths[0].stem}.late.new",
        f"{stem}.idx", f"{stem}.ids", f".{stem}.late",
    ]  # fmt: skip
    stay = [
        "plain.idx", f"{paths[0].stem}.idx", f".{paths[0].stem}.late", f"{stem}.tsv.torn-1",
        "orders.erasures", f"{stem}.idx.gz", ".lock", "x.new",
    ]  # fmt: skip
    for name in (*rests, *stay):
        (tmp_path / name).write_bytes(b"login")
    before = names(tmp_path)
    history.finish(tmp_path)
    assert names(tmp_path) == sorted(set(before) - set(rests))


# -- rm ----------------------------------------------------------------------------------------


def test_all_files_of_a_channel_go_and_no_others(tmp_path: Path) -> None:
    paths = in_segments(tmp_path, ONE, TWO, THREE)
    paths[1].unlink()  # what is before the gap goes, too
    for beside in (paths[0].with_suffix(".idx"), tmp_path / f".{paths[0].stem}.late"):
        beside.write_bytes(b"about it")
    others = {"orders-2.tsv": ROWS, "orders.erasures": b"", "orders.tsv.torn-1": b"torn"}
    for name, rows in others.items():
        (tmp_path / name).write_bytes(rows)
    assert history.remove(tmp_path, "orders") == [paths[0], paths[2]]
    assert content(tmp_path) == others
    assert history.remove(tmp_path, "orders-2") == [tmp_path / "orders-2.tsv"]


@pytest.mark.parametrize("pieces", [[ROWS], [ONE, TWO, THREE]])
def test_a_removal_that_is_killed_goes_on_and_leaves_nothing(
    tmp_path: Path, pieces: list[bytes]
) -> None:
    def remove(folder: Path, channel: str) -> None:
        for path in folder.glob("*.tsv"):
            path.with_suffix(".idx").write_bytes(b"login")
        history.remove(folder, channel)

    for folder in killed_folders(tmp_path, pieces, remove):
        if segments.files(folder, "orders"):
            assert b"".join(pieces).endswith(history_of(folder))
            history.remove(folder, "orders")
        history.finish(folder)
        assert names(folder) == []


@pytest.mark.parametrize("command", ["rotate", "join", "remove"])
def test_a_channel_that_is_not_there(tmp_path: Path, command: str) -> None:
    (tmp_path / "other").write_bytes(ROWS)
    (tmp_path / "orders.tsv").symlink_to("other")  # which no hub would open
    before = content(tmp_path)
    with pytest.raises(Missing, match="has no channel orders"):
        getattr(history, command)(tmp_path, "orders")
    with pytest.raises(EsourceError, match="has no channel orders"):
        history.trim(tmp_path, "orders", Rule("*", size=1), 0.0, dry_run=False)
    assert content(tmp_path) == before
