"""A moment of a channel, and what names it."""

import re
from pathlib import Path

from esource.hub.view import Place, View, last_event
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


def test_a_place_is_one_where_a_row_begins_in_a_view_of_this_log(tmp_path: Path) -> None:
    rows = ROWS + b"no event\n"
    view = view_of(tmp_path / "orders.tsv", rows)
    begins = [match.end() for match in re.finditer(b"^|\n", rows)]
    for offset in range(len(rows) + 3):
        id = Place(view.log, offset).id
        assert id == b"@%b-%d" % (view.log.generation.encode(), offset)
        assert view.offset_of(id) == (offset if offset in begins else None)
    part = View.of(view.log, begins[1])
    assert part.offset_of(Place(view.log, begins[1]).id) == begins[1]
    assert part.offset_of(Place(view.log, begins[2]).id) is None
    other = view_of(tmp_path / "others.tsv", rows)
    assert other.offset_of(Place(view.log, 0).id) is None
    for id in (b"", b"@", b"1", Place(view.log, 0).id + b"\n", Place(view.log, 0).id[1:]):
        assert view.offset_of(id) is None
    grown = (tmp_path / "orders.tsv").open("ab")
    grown.write(b"3\t\tthree\n")
    grown.close()
    again = View.of(FileLog(tmp_path / "orders.tsv"))  # as after a restart
    assert again.offset_of(Place(view.log, len(rows)).id) == len(rows)


def test_the_place_of_a_log_without_rows_is_none_of_any_log(tmp_path: Path) -> None:
    empty = View.of(FileLog(tmp_path / "orders.tsv"))
    place = Place(empty.log, 0).id
    assert place == b"@0-0"
    assert empty.offset_of(place) is None
    assert view_of(tmp_path / "orders.tsv", ROWS).offset_of(place) is None


def test_the_last_event_is_the_last_row_that_is_one(tmp_path: Path) -> None:
    view = view_of(tmp_path / "orders.tsv", b"no event\n" + ROWS + b"no event\n")
    assert last_event(view.log, view.end) == (16, b"2\t\ttwo\nno event\n")
    assert last_event(view.log, 16) == (9, b"1\t\tone\n")
    assert last_event(view.log, 9) == (0, b"")
