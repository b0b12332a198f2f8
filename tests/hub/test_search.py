"""Places in a log, with zones of a few rows, against a plain list of rows."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.errors import StorageError
from esource.event import Event, default_id, time_of
from esource.hub import search
from esource.hub.search import Search
from esource.hub.view import View
from esource.hub.work import CROWD, ClientLeft, Work
from esource.log import Log, ids, index, reading, segments
from esource.log.folder import Folder
from esource.rows.find import Verdict
from tests.harness.channels import channel_of, publish

TYPES = [b"", b"a", b"b", b"rare"]
one_row = st.sampled_from([
    *[b"id\t%b\tdata\n" % type for type in TYPES], b"id\ta\tdata\twith\ttabs\tin\n",
    b"no event\n", b"id\trare\n", b"\ta\t\n",
])  # fmt: skip
each_row = st.lists(one_row, min_size=8, max_size=40)
some_types = st.frozensets(st.sampled_from([*TYPES, b"data", b"none"]), min_size=1, max_size=2)
# Default ids and others that are times, ids in no order, and of any one several.
IDS = [
    *[default_id(1577880000_000000 + n) for n in range(12)],
    *[b"2020-01-01T12:00:%02d+00:00" % n for n in range(12)],
    *[b"order-%d" % n for n in range(12)], *map(bytes.fromhex, ["c3bc", "ff", "c3bc41"]), b"",
]  # fmt: skip
rows_of_ids = st.lists(
    st.tuples(st.sampled_from(IDS), st.sampled_from([b"\t\t\n", b"\ta\tdata\n", b"\n"])).map(
        b"".join
    ),
    min_size=8, max_size=40,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_zones() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (search, index):
            patch.setattr(module, "ZONE_BYTES", 50)
            patch.setattr(module, "ROWS_BYTES", 20)
        patch.setattr(search, "LEARN_BYTES", 100)
        patch.setattr(index, "FEW", 2)
        patch.setattr(index, "MANY", 4)
        patch.setattr(ids, "NEAR", 1)
        patch.setattr(reading, "LAST_BYTES", 60)
        patch.setattr(reading, "CHUNK", 60)
        yield


def put(folder: Path, rows: list[bytes], parts: int = 1) -> None:
    """Put rows into a folder, in one file or in several segments."""
    if parts == 1:
        (folder / "orders.tsv").write_bytes(b"".join(rows))
        return
    offset, step = 0, -(-len(rows) // parts)
    for first in range(0, len(rows), step):
        part = b"".join(rows[first : first + step])
        segments.path_of(folder, "orders", offset).write_bytes(part)
        offset += len(part)


def log_in(folder: Path) -> Log:
    return Folder(folder, "never").open("orders")


def learn(log: Log, stop: int) -> None:
    for _ in log.learn(stop):
        pass


def search_in(rows: list[bytes]) -> Search:
    with TemporaryDirectory() as folder:  # of a file, which is read in blocks of many rows
        put(Path(folder), rows)
        return Search(log_in(Path(folder)))


def end_of(searched: Search) -> None:
    """Have nothing more learned, so that the files can be removed."""
    searched.close()
    with gevent.Timeout(10):
        while searched._is_learning:
            gevent.sleep(0.001)


def selected(searched: Search, start: int, end: int, types: frozenset[bytes]) -> bytes:
    found, place = b"", start
    while place < end:
        some, next_place = searched.select(place, end, types, Work())
        assert next_place is not None
        found, place = found + some, next_place
    assert place == end
    return found


def of_types(rows: list[bytes], types: frozenset[bytes]) -> list[bytes]:
    return [row for row in rows if row.count(b"\t") > 1 and row.split(b"\t")[1] in types]


@given(each_row, st.integers(1, 3), st.data())
def test_what_is_filtered_is_as_a_plain_filter_says_whatever_is_known(
    rows: list[bytes], parts: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        put(folder, rows, parts)
        searched = Search(log_in(folder))
        ends = [sum(map(len, rows[:n])) for n in range(len(rows) + 1)]
        learn(searched.log, data.draw(st.sampled_from([0, ends[8], ends[-1]]), "known"))
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
                found = selected(searched, ends[start], ends[end], types)
                assert found == b"".join(of_types(rows[start:end], types))
        end_of(searched)


def after_id(rows: list[bytes], id: bytes) -> int | None:
    offset = 0
    for row in rows:
        offset += len(row)
        if id and row.count(b"\t") > 1 and row.split(b"\t")[0] == id:
            return offset
    return None


def later_than(rows: list[bytes], time: int) -> int:
    offset = 0
    for row in rows:
        named = time_of(row.split(b"\t")[0]) if row.count(b"\t") > 1 else None
        if named is not None and named > time:
            break
        offset += len(row)
    return offset


def damaged(folder: Path, data: st.DataObject) -> None:
    """Do to an index what crashes, backups and people do."""
    one, two = data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)), "files")
    part = data.draw(st.floats(0, 1), "at")  # of the file: how long it is, changes with the time
    harm = data.draw(st.sampled_from(["gone", "cut", "zeros", "flipped", "other"]), "harm")
    some = sorted(path for path in folder.iterdir() if path.suffix != ".tsv")
    if not some:
        return
    path, other = some[one % len(some)], some[two % len(some)]
    content = path.read_bytes()
    at = int(part * len(content))
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:at])
    elif harm == "zeros":
        path.write_bytes(content[:at] + bytes(max(len(content) - at, 0)))
    elif path.suffix == ".ids":  # whose blocks are on disk before the index says so
        path.write_bytes(b"x" * len(content))
    elif harm == "flipped":
        path.write_bytes(content[:at] + b"1" + content[at + 1 :])
    elif other != path:
        shutil.copy(other, path)


@given(rows_of_ids, st.integers(1, 3), st.data())
def test_a_search_finds_what_a_plain_list_says_with_any_index_or_none(
    rows: list[bytes], parts: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        count = len(rows)
        if parts == 1:
            count = data.draw(st.integers(1, count), "rows at first")
        put(folder, rows[:count], parts)
        log = log_in(folder)
        learn(log, data.draw(st.sampled_from([0, 60, log.end]), "known"))
        if data.draw(st.booleans(), "anew"):
            damaged(folder, data)
            log = log_in(folder)
        if count < len(rows):
            log.append(None, rows[count:])
        if data.draw(st.booleans(), "learns on"):
            learn(log, log.end)
            if data.draw(st.booleans(), "anew"):
                log = log_in(folder)
        searched, view = Search(log), View.of(log)
        assert view.end == len(b"".join(rows))
        for id in data.draw(st.lists(st.sampled_from([*IDS, b"none"]), max_size=5), "ids"):
            assert searched._after_id(view, id, Work()) == after_id(rows, id)
            time = time_of(id)
            if time is not None:
                assert searched.later_than(view, time, Work()) == later_than(rows, time)
        end_of(searched)
        if data.draw(st.booleans(), "and again"):
            log = log_in(folder)
            learn(log, log.end)
            id = data.draw(st.sampled_from(IDS), "id")
            searched = Search(log)
            assert searched._after_id(View.of(log), id, Work()) == after_id(rows, id)
            end_of(searched)


@pytest.mark.parametrize("parts", [1, 2])
def test_zeros_in_the_place_of_hashes_are_not_taken_for_ids_that_are_not_there(
    tmp_path: Path, parts: int
) -> None:
    """As a file system leaves them where it has lost something."""
    some = [b"%08d" % (n * 7919 % 64) for n in range(64)]
    rows = [b"%b\t\tdata\n" % id for id in [*some, *some]]  # each twice, in no order
    put(tmp_path, rows, parts)
    learn(log_in(tmp_path), len(b"".join(rows)))
    for path in sorted(tmp_path.glob("*.ids")):
        kept = path.read_bytes()
        beside = {each: each.read_bytes() for each in tmp_path.glob("*.idx")}
        for at in range(0, len(kept), 7):
            path.write_bytes(kept[:at] + bytes(len(kept) - at))
            log = log_in(tmp_path)
            searched = Search(log)
            for id in some[::9]:
                assert searched._after_id(View.of(log), id, Work()) == after_id(rows, id), at
            end_of(searched)
            for each, content in beside.items():
                each.write_bytes(content)
        path.write_bytes(kept)


# -- how much is read ----------------------------------------------------------------------


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


def rows_like(id_of: Callable[[int], bytes], count: int = 1000) -> list[bytes]:
    return [b"%b\t%b\tx\n" % (id_of(n), b"rare" if n == 500 else b"a") for n in range(count)]


ROWS = rows_like(lambda n: b"%d" % n)
RARE = frozenset([b"rare"])
KINDS: dict[str, Callable[[int], bytes]] = {
    "default": lambda n: default_id(1577880000_000000 + n),
    "other times": lambda n: b"2020-01-01T12:%02d:%02d+00:00" % divmod(n, 60),
    "in no order": lambda n: b"%04d" % (n * 617 % 1009),
    "order-N": lambda n: b"order-%d" % n,
}


@pytest.mark.parametrize("parts", [1, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_reads_a_zone_or_two_right_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, parts: int
) -> None:
    rows = rows_like(KINDS[kind])
    put(tmp_path, rows, parts)
    log = log_in(tmp_path)
    learn(log, log.end)
    searched = Search(log_in(tmp_path))  # which knows what is on disk
    sizes = bytes_read(searched, monkeypatch)
    view = View.of(searched.log)

    def reads_little(found: Callable[[], object], expected: object) -> None:
        del sizes[:]
        assert found() == expected
        assert sum(sizes) < 400, kind  # of 10 to 30 KB: zones of 70, and what is not one yet

    place = len(b"".join(rows[:701]))
    reads_little(lambda: searched._after_id(view, KINDS[kind](700), Work()), place)
    reads_little(lambda: searched._after_id(view, b"none", Work()), None)
    reads_little(lambda: selected(searched, len(rows[0]), view.end, RARE), rows[500])
    reads_little(lambda: searched.last(view, 1, 0, RARE, Work()), len(b"".join(rows[:500])))
    time = time_of(KINDS[kind](700))
    if time is not None:
        reads_little(lambda: searched.later_than(view, time, Work()), place)


def test_the_first_of_two_segments_with_an_id_counts(tmp_path: Path) -> None:
    rows = rows_like(KINDS["in no order"], 100) * 2
    put(tmp_path, rows, 2)
    learn(log_in(tmp_path), 0)
    searched = Search(log_in(tmp_path))
    id = KINDS["in no order"](70)
    place, verdict = searched.after(View.of(searched.log), id)
    assert (place, verdict) == (len(b"".join(rows[:71])), Verdict.EXACT)


@pytest.mark.parametrize("way", ["select", "last", "after"])
def test_what_has_read_much_has_the_log_learn_in_the_background(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    searched = search_in(ROWS)
    sizes = bytes_read(searched, monkeypatch)
    view = View.of(searched.log)
    start = len(b"".join(ROWS[:10]))

    def look() -> None:
        if way == "last":
            assert searched.last(view, 2, start, RARE, Work()) == start
        if way == "after":
            assert searched._after_id(view, b"999", Work()) == view.end
        if way == "select":
            assert selected(searched, start, view.end, RARE) == ROWS[500]

    look()
    with gevent.Timeout(10):
        while searched._is_learning:
            gevent.sleep(0.001)
    del sizes[:]
    look()
    assert sum(sizes) < 300


def test_a_crowd_with_different_ids_waits_for_what_is_learned_and_reads_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = search_in(ROWS)
    sizes = bytes_read(searched, monkeypatch)
    view = View.of(searched.log)
    numbers = range(0, 1000, 10)
    crowd = [gevent.spawn(searched.after, view, b"%d" % n) for n in numbers]
    gevent.joinall(crowd, 20, raise_error=True)
    expected = [(len(b"".join(ROWS[: n + 1])), Verdict.EXACT) for n in numbers]
    assert [each.value for each in crowd] == expected
    few = CROWD * view.end  # those that came before they were a crowd
    assert sum(sizes) < few + 2 * view.end


def test_a_crowd_with_different_ids_reads_together_what_they_are_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = search_in(ROWS)
    learn(searched.log, searched.log.end)
    sizes = bytes_read(searched, monkeypatch)
    view = View.of(searched.log)
    crowd = [gevent.spawn(searched.after, view, b"%d" % n) for n in range(1000)]
    gevent.joinall(crowd, 20, raise_error=True)
    ends = itertools.accumulate(map(len, ROWS))
    assert [each.value for each in crowd] == [(end, Verdict.EXACT) for end in ends]
    assert sum(sizes) < 3 * view.end  # and not each a zone or two


def test_one_of_a_crowd_reads_nothing_while_there_is_more_to_be_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = search_in(ROWS)
    view = View.of(searched.log)
    sizes = bytes_read(searched, monkeypatch)
    monkeypatch.setattr(searched, "_searches", 2 * CROWD)
    monkeypatch.setattr(searched, "_is_learning", True)  # for as long as this test wants
    search = gevent.spawn(searched.after, view, b"999")
    gevent.sleep(0.1)
    assert not sizes
    monkeypatch.setattr(searched, "_is_learning", False)
    searched._teach(view.end)
    search.join(10)
    assert search.value == (view.end, Verdict.EXACT)


def test_a_crowd_that_waits_for_what_is_learned_ends_with_its_clients_and_with_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Left(Work):
        def check(self) -> None:
            raise ClientLeft("it has")

    searched = search_in(ROWS)
    view = View.of(searched.log)
    monkeypatch.setattr(searched, "_searches", 2 * CROWD)
    with pytest.raises(ClientLeft):
        searched.after(view, b"999", Left())

    def broken(stop: int) -> Iterator[None]:
        raise StorageError("the disk is gone")

    other = search_in(ROWS)
    monkeypatch.setattr(other.log, "learn", broken)
    monkeypatch.setattr(other, "_searches", 2 * CROWD)
    with gevent.Timeout(10):
        assert other.after(View.of(other.log), b"999") == (view.end, Verdict.EXACT)


def test_a_little_that_is_read_is_not_worth_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = search_in(ROWS)
    sizes = bytes_read(searched, monkeypatch)
    searched.select(searched.log.end - 50, searched.log.end, RARE, Work())
    assert not searched._is_learning
    assert sum(sizes) <= 50


def test_a_channel_learns_as_it_grows_and_keeps_it_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path / "orders.tsv")
    for n in range(60):
        publish(channel, Event(b"%03d" % n, b"", b"x" * 10))
    path = tmp_path / "orders.idx"
    with gevent.Timeout(10):  # nobody has searched anything
        while not path.exists() or path.read_bytes().count(b"zone") < 14:
            gevent.sleep(0.001)
    del channel
    searched = Search(log_in(tmp_path))
    sizes = bytes_read(searched, monkeypatch)
    assert searched._after_id(View.of(searched.log), b"003", Work())
    assert sum(sizes) < 150
