import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource import listing
from esource.listing import PEEK_BYTES, TAIL_BYTES

NAMES = st.lists(st.text("abAB", min_size=4, max_size=6), unique=True)


@given(NAMES, st.integers(1, 5), st.sampled_from(["", "a", "AB", "x"]))
def test_pages_one_after_the_other_are_all_names_in_order(
    names: list[str], limit: int, match: str
) -> None:
    wanted = sorted(name for name in names if match.lower() in name.lower())
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = listing.page(iter(names), after, match, limit)
        assert page.total == len(wanted)
        assert len(page.names) <= limit
        seen += page.names
        after = page.next
    assert seen == wanted


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
    assert list(listing.names(tmp_path)) == ["orders"]


LONG = b"long\t\t" + b"x" * PEEK_BYTES + b"\n"
LONGER = b"longer\t\t" + b"x" * TAIL_BYTES + b"\n"


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
    [file] = listing.files(tmp_path, ["orders"], ())
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
    listing.files(tmp_path, ["orders"], ())
    assert max(read) == TAIL_BYTES
    assert sum(read) <= TAIL_BYTES + PEEK_BYTES


def test_files_that_go_away_meanwhile_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").touch()
    files = listing.files(tmp_path, ["gone", "orders", "gone-too"], {"gone-too"})
    assert [file.name for file in files] == ["orders"]
