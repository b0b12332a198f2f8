"""Places in a log, with zones of a few rows, against a plain list of rows."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.hub import search
from esource.hub.search import Search
from esource.hub.view import View
from esource.hub.work import Work
from esource.log import file, reading

TYPES = [b"", b"a", b"b", b"rare"]
one_row = st.sampled_from([
    *[b"id\t%b\tdata\n" % type for type in TYPES], b"id\ta\tdata\twith\ttabs\tin\n",
    b"no event\n", b"id\trare\n", b"\ta\t\n",
])  # fmt: skip
each_row = st.lists(one_row, min_size=8, max_size=40)
some_types = st.frozensets(st.sampled_from([*TYPES, b"data", b"none"]), min_size=1, max_size=2)


@pytest.fixture(scope="module", autouse=True)
def small_zones() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "ZONE_BYTES", 50)
        patch.setattr(search, "ROWS_BYTES", 20)
        patch.setattr(search, "LEARN_BYTES", 100)
        patch.setattr(reading, "CHUNK", 60)
        yield


def search_in(rows: list[bytes]) -> Search:
    with TemporaryDirectory() as folder:  # of a file, which is read in blocks of many rows
        path = Path(folder) / "orders.tsv"
        path.write_bytes(b"".join(rows))
        return Search(file.FileLog(path, "never"))


def of_types(rows: list[bytes], types: frozenset[bytes]) -> list[bytes]:
    return [row for row in rows if row.count(b"\t") > 1 and row.split(b"\t")[1] in types]


@given(each_row, st.data())
def test_what_is_filtered_is_as_a_plain_filter_says_whatever_is_mapped(
    rows: list[bytes], data: st.DataObject
) -> None:
    searched = search_in(rows)
    ends = [sum(map(len, rows[:n])) for n in range(len(rows) + 1)]
    searched._map(data.draw(st.sampled_from([0, ends[8], ends[-1]]), "mapped"), Work())
    for _ in range(5):
        end = data.draw(st.sampled_from(range(len(rows) + 1)), "end")
        start = data.draw(st.sampled_from(range(end + 1)), "start")
        types = data.draw(some_types, "types")
        count = data.draw(st.integers(1, 5), "count")
        if data.draw(st.booleans(), "from the end"):
            view = View(searched.log, ends[end], b"")
            place = searched.last(view, count, ends[start], types, Work())
            assert ends[start] <= place <= ends[end]
            first = ends.index(place)
            assert of_types(rows[first:end], types) == of_types(rows[start:end], types)[-count:]
        else:
            found, place = b"", ends[start]
            while place < ends[end]:
                some, stop = searched.select(place, ends[end], types, Work())
                assert stop is not None
                found, place = found + some, stop
            assert place == ends[end]
            assert found == b"".join(of_types(rows[start:end], types))


def bytes_read(searched: Search, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of bytes of each read from now on."""
    sizes: list[int] = []
    log = searched.log
    read, backwards = log.read, log.backwards

    def noted_read(offset: int, limit: int, stop: int) -> bytes:
        rows = read(offset, limit, stop)
        sizes.append(len(rows))
        return rows

    def noted_backwards(stop: int) -> Iterator[tuple[int, bytes]]:
        for place, rows in backwards(stop):
            sizes.append(len(rows))
            yield place, rows

    monkeypatch.setattr(log, "read", noted_read)
    monkeypatch.setattr(log, "backwards", noted_backwards)
    return sizes


ROWS = [b"%d\t%b\tx\n" % (n, b"rare" if n == 500 else b"a") for n in range(1000)]
RARE = frozenset([b"rare"])


def test_a_filter_from_the_start_maps_the_log_and_reads_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = search_in(ROWS)
    sizes = bytes_read(searched, monkeypatch)
    size = searched.log.end
    for expected in (size, 0):
        del sizes[:]
        found, place = b"", 0
        while place < size:
            some, end = searched.select(place, size, RARE, Work())
            assert end is not None
            found, place = found + some, end
        assert found == ROWS[500]
        assert expected <= sum(sizes) < expected + 200


@pytest.mark.parametrize("way", ["select", "last"])
def test_a_filter_from_elsewhere_has_the_log_mapped_in_the_background(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    searched = search_in(ROWS)
    sizes = bytes_read(searched, monkeypatch)
    view = View.of(searched.log)
    start = len(b"".join(ROWS[:10]))

    def look() -> None:
        if way == "last":
            assert searched.last(view, 2, start, RARE, Work()) == start
        place = start
        while way == "select" and place < view.end:
            _, end = searched.select(place, view.end, RARE, Work())
            assert end is not None
            place = end

    look()
    with gevent.Timeout(10):
        while searched._is_mapping:
            gevent.sleep(0.001)
    del sizes[:]
    look()
    assert sum(sizes) < 300


def test_a_little_that_is_filtered_is_not_worth_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = search_in(ROWS)
    sizes = bytes_read(searched, monkeypatch)
    searched.select(searched.log.end - 50, searched.log.end, RARE, Work())
    gevent.sleep(0.01)
    assert sum(sizes) <= 50
