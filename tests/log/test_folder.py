"""A folder: which files are channels, and what their ends tell."""

import os
import time
from pathlib import Path

import pytest

from esource.errors import StorageError
from esource.log.folder import PEEK_BYTES, RUN, TAIL_BYTES, Folder
from esource.rules import parse


def test_only_regular_files_with_the_name_of_a_channel_are_channels(tmp_path: Path) -> None:
    for name in (
        "orders.tsv",
        "abc.tsv",
        "orders.tsv.torn-2026",
        "notes.txt",
        ".lock",
        "a b c.tsv",
    ):
        (tmp_path / name).touch()
    (tmp_path / "folder.tsv").mkdir()
    (tmp_path / "link.tsv").symlink_to("orders.tsv")
    os.mkfifo(tmp_path / "pipe.tsv")
    assert Folder(tmp_path).names() == ["orders"]


def test_all_names_are_in_order_however_many(tmp_path: Path) -> None:
    names = [f"{n % 7}-{n:05}" for n in range(RUN + 2)]
    for name in names:
        (tmp_path / f"{name}.tsv").touch()
    assert Folder(tmp_path).names() == sorted(names)


def test_names_are_read_again_only_once_the_folder_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[Path] = []
    scandir = os.scandir

    def counting(path: Path) -> object:
        scans.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    (tmp_path / "orders.tsv").touch()
    folder = Folder(tmp_path)
    for _ in range(3):  # just changed: a file may come within the same tick of the clock
        assert folder.names() == ["orders"]
    assert len(scans) == 3
    long_ago = time.time() - 10
    os.utime(tmp_path, (long_ago, long_ago))
    for _ in range(3):
        assert folder.names() == ["orders"]
    assert len(scans) == 4
    (tmp_path / "others.tsv").touch()
    assert folder.names() == ["orders", "others"]
    (tmp_path / "orders.tsv").unlink()
    assert folder.names() == ["others"]


def test_without_a_folder_there_are_no_channels(tmp_path: Path) -> None:
    assert Folder(tmp_path / "nowhere").names() == []


# With tabs in their data, so that the middle of them looks like a row.
LONG = b"long\t\t" + b"\tx" * (PEEK_BYTES // 2) + b"\n"
LONGER = b"longer\t\t" + b"\tx" * (TAIL_BYTES // 2) + b"\n"


@pytest.mark.parametrize(
    ("content", "newest_id"),
    [
        (b"", b""),
        (b"1\t\ta\n", b"1"),
        (b"1\t\ta\n2\t\tb\n", b"2"),
        (b"1\t\ta\n2\t\tto", b"1"),
        (b"torn", b""),
        (b"1\t\ta\nno event\n", b"1"),
        (b"no event\n", b""),
        (b"1\t\ta\n" + LONG, b"long"),
        (b"1\t\ta\n" + LONG + b"t" * PEEK_BYTES, b"long"),
        (b"1\t\ta\n" + LONGER, b""),
        (LONGER + b"1\t\ta\n", b"1"),
    ],
)
def test_the_end_of_a_file_tells_its_size_and_newest_id(
    tmp_path: Path, content: bytes, newest_id: bytes
) -> None:
    (tmp_path / "orders.tsv").write_bytes(content)
    [file] = Folder(tmp_path).summaries(["orders"])
    assert (file.size, file.newest_id) == (content.rfind(b"\n") + 1, newest_id)
    assert file.modified == (tmp_path / "orders.tsv").stat().st_mtime


def test_no_more_of_a_file_is_read_than_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    pread = os.pread

    def counting(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(fd, size, offset)

    (tmp_path / "orders.tsv").write_bytes(LONGER * 20)
    monkeypatch.setattr(os, "pread", counting)
    Folder(tmp_path).summaries(["orders"])
    assert max(read) == TAIL_BYTES
    assert sum(read) <= TAIL_BYTES + PEEK_BYTES


def test_files_that_go_away_meanwhile_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").touch()
    summaries = Folder(tmp_path).summaries(["gone", "orders", "gone-too"])
    assert [summary.name for summary in summaries] == ["orders"]


def test_a_file_beside_segments_of_its_name_is_not_guessed_about(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(b"1\t\tone\n")
    (tmp_path / f"orders.{0:020}.tsv").write_bytes(b"2\t\ttwo\n")
    with pytest.raises(StorageError, match="both there"):
        Folder(tmp_path).open("orders")


def test_a_look_at_the_folder_says_what_is_to_be_done(tmp_path: Path) -> None:
    day = 86_400.0
    for name, start, size, age in (
        ("late", 0, 20, 0.0), ("late", 10, 10, 0.0),
        ("gone", 10, 5, 0.0), ("gone", 30, 10, 0.0),
        ("aged", 0, 10, 9 * day), ("aged", 10, 10, 0.0),
        ("full", 0, 2 << 20, 0.0), ("full", 2 << 20, 1 << 20, 0.0),
        ("more", 0, 3 << 20, 0.0),
        ("fine", 0, 10, 0.0), ("fine", 10, 0, 0.0),
        ("torn", 0, 20, 0.0), ("torn", 12, 10, 0.0),
        ("both", 0, 10, 0.0),
    ):  # fmt: skip
        path = tmp_path / f"{name}.{start:020}.tsv"
        path.write_bytes((b"xxxx\n" * (size // 5 + 1))[-size:] if size else b"")
        os.utime(path, (time.time() - age,) * 2)
    (tmp_path / "both.tsv").touch()
    rules = parse("aged/age=8d:full/size=1M:*/segment=1M")
    folder = Folder(tmp_path, rules=rules)
    assert sorted(folder.due(time.time())) == ["aged", "full", "late", "more"]
    assert folder.removable(time.time()) == (2, 10 + (2 << 20))
    assert sorted(gap.partition(":")[0] for gap in folder.gaps()) == ["both", "gone", "torn"]
    (tmp_path / f"fine.{10:020}.tsv").unlink()
    assert "fine" in folder.due(time.time())
    assert "fine" not in folder.due(time.time())
