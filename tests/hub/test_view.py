"""A moment of a channel, and what names it."""

from pathlib import Path

from esource.hub.view import View
from esource.log.file import FileLog
from esource.log.memory import MemoryLogs

ROWS = b"1\t\tone\n2\t\ttwo\n"


def view_of(path: Path, rows: bytes) -> View:
    path.write_bytes(rows)
    return View.of(FileLog(path))


def test_a_view_is_all_that_a_log_holds(tmp_path: Path) -> None:
    view = view_of(tmp_path / "orders.tsv", ROWS + b"no event\n")
    assert (view.end, view.newest_id) == (len(ROWS) + 9, b"2")
    assert View.of(MemoryLogs().open("orders"))[1:3] == (0, b"")


def test_a_version_names_the_rows_of_one_log(tmp_path: Path) -> None:
    first = view_of(tmp_path / "orders.tsv", ROWS + b"3\t\tthree\n")
    assert first.version == View.of(FileLog(tmp_path / "orders.tsv")).version
    others = [
        view_of(
            tmp_path / "orders.tsv", ROWS.replace(b"1", b"9") + b"3\t\tthree\n"
        ),  # of the same size and inode
        view_of(tmp_path / "others.tsv", ROWS + b"3\t\tthree\n"),
        View.of(first.log, 7),
        view_of(tmp_path / "edited.tsv", ROWS + b"3\t\tTHREE\n")._replace(log=first.log),
        View.of(MemoryLogs().open("orders")),
    ]
    assert len({first.version, *(other.version for other in others)}) == 6
