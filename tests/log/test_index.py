"""The index of a file: when it is believed, what it costs, and that it may be lost at any time."""

import hashlib
import os
import resource
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from esource.event import default_id
from esource.log import Log, ids, index, segments
from esource.log.beside import ClosedIndex
from esource.log.folder import Folder
from esource.log.index import Index, Kind, Part, Rows, Span
from esource.log.segments import ClosedRows, Segment
from esource.rows.find import Wanted, Zone
from esource.rules import Rule
from tests.harness.machine import size

ROWS = [b"%03d\t\tx\n" % n for n in range(100)]  # which rise
MIXED = [b"%03d\t\tx\n" % (n * 37 % 101) for n in range(100)]
RULE = [Rule("*", segment=400)]


@pytest.fixture(scope="module", autouse=True)
def small_zones() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "ZONE_BYTES", 50)
        patch.setattr(index, "ROWS_BYTES", 20)
        patch.setattr(index, "FEW", 2)
        patch.setattr(index, "MANY", 4)
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "orders.tsv"
    path.write_bytes(b"".join(ROWS))
    return path


def learned(log: Log) -> Log:
    for _ in log.learn(log.end):
        pass
    return log


def opened(path: Path) -> Log:
    return Folder(path.parent, "never").open("orders")


def looked_at(log: Log, id: bytes) -> int:
    """Return in how many bytes an id can be."""
    return sum(end - offset for offset, end in log.places(Wanted(id=id), log.begin, log.end))


def is_known(log: Log) -> bool:
    return looked_at(log, b"050") < 120 < log.end


def head(path: Path) -> dict[str, object]:
    line, _, _ = path.with_suffix(".idx").read_bytes().partition(b"\n")
    return dict(orjson.loads(line))


def lines(path: Path, kind: bytes, size: int) -> list[list[bytes]]:
    """Return the lines of an index for parts of so many zones."""
    all_of = [line.split(b" ", 5) for line in path.with_suffix(".idx").read_bytes().splitlines()]
    return [line for line in all_of[1:] if line[1:3] == [kind, b"%d" % (size * 50)]]


# -- a file that grows ---------------------------------------------------------------------


def test_what_was_learned_is_known_after_a_start(path: Path) -> None:
    assert not is_known(opened(path))
    learned(opened(path))
    assert is_known(opened(path))
    assert not list(path.parent.glob("*.ids")), "where ids rise the zones tell them apart"


def test_a_file_that_has_grown_has_a_line_more_for_each_zone(path: Path) -> None:
    log = learned(opened(path))
    before = path.with_suffix(".idx").read_bytes()
    log.append(None, [b"100\t\tx\n"])
    learned(log)
    assert path.with_suffix(".idx").read_bytes() == before, "less than a zone"
    log.append(None, [b"%03d\t\tx\n" % n for n in range(101, 120)])
    learned(log)
    after = path.with_suffix(".idx").read_bytes()
    assert after.startswith(before)
    assert len(lines(path, b"zone", 1)) == before.count(b" zone 50 ") + 2
    assert looked_at(opened(path), b"110") < 120


def test_an_index_is_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ZONE_BYTES", 1 << 20)
    monkeypatch.setattr(index, "ROWS_BYTES", 1 << 16)
    row = b"\torder\t%b\n" % (b"x" * 65)
    path.write_bytes(b"".join(default_id(n) + row for n in range(40_000)))
    learned(opened(path))
    assert path.with_suffix(".idx").stat().st_size < path.stat().st_size / 4000


@pytest.mark.parametrize(
    "change", ["another file", "copied", "other last rows", "cut", "as before and longer"]
)
def test_an_index_of_other_rows_is_not_believed_and_made_again(path: Path, change: str) -> None:
    learned(opened(path))
    content = path.read_bytes()
    if change in ("another file", "copied"):
        (path.parent / "other").write_bytes(
            content if change == "copied" else content.replace(b"x", b"y")
        )
        (path.parent / "other").replace(path)
    elif change == "other last rows":
        with path.open("r+b") as file:
            file.seek(-20, os.SEEK_END)  # in the last zone
            file.write(b"y")
    elif change == "cut":
        os.truncate(path, 350)
    else:
        with path.open("ab") as file:
            file.write(b"1\t\tx\n")
    log = opened(path)
    assert is_known(log) == (change == "as before and longer")
    assert is_known(learned(log))
    assert is_known(opened(path))


def test_an_index_that_another_has_replaced_is_left_alone(path: Path) -> None:
    old = opened(path)
    steps = old.learn(old.end)
    for _ in range(10):
        next(steps)
    path.replace(path.with_name("moved"))
    path.write_bytes(b"".join(MIXED))
    learned(opened(path))
    after = path.with_suffix(".idx").read_bytes()
    for _ in steps:
        pass
    assert path.with_suffix(".idx").read_bytes() == after
    assert is_known(old)


def test_where_ids_do_not_rise_their_hashes_tell_zones_apart(path: Path) -> None:
    path.write_bytes(b"".join(MIXED))
    log = learned(opened(path))
    for each in (log, opened(path)):
        assert looked_at(each, b"050") < 200, "the zone, and those that are not hashed yet"
        assert looked_at(each, b"xyz") < 120, "an id that is not there"
    assert len(lines(path, b"ids", 4)) == 3
    path.with_suffix(".ids").unlink()
    log = opened(path)
    assert looked_at(log, b"050") > 500, "hashes that are gone say nothing"
    assert looked_at(learned(log), b"050") < 200
    assert looked_at(opened(path), b"050") < 200


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """Let no file of this process become longer than so many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("left", [0, 250, 700])
@pytest.mark.parametrize("rows", [ROWS, MIXED])
def test_what_cannot_be_stored_is_known_in_memory(path: Path, left: int, rows: list[bytes]) -> None:
    path.write_bytes(b"".join(rows))
    with full_disk(left):
        log = learned(opened(path))
    assert looked_at(log, b"999") == looked_at(log, b"") < log.end
    assert is_known(log) == (rows is ROWS)  # there are no hashes
    assert is_known(learned(opened(path))), "with room for it, all of it is stored"
    assert is_known(opened(path))


def test_a_line_that_was_damaged_is_not_believed(path: Path) -> None:
    learned(opened(path))
    target = path.with_suffix(".idx")
    target.write_bytes(target.read_bytes().replace(b'"050\\t"', b'"052\\t"'))
    log = opened(path)
    assert looked_at(log, b"050") == 56, "its zone is read"
    assert looked_at(log, b"030") == 49 + 56, "all others are known"
    assert is_known(learned(log))


@pytest.mark.parametrize("foreign", ["folder", "fifo", "link", "no json", "huge"])
def test_a_foreign_index_is_no_error(path: Path, foreign: str) -> None:
    target = path.with_suffix(".idx")
    if foreign == "folder":
        target.mkdir()
    elif foreign == "fifo":
        os.mkfifo(target)
    elif foreign == "link":
        target.symlink_to("/dev/zero")
    elif foreign == "no json":
        target.write_bytes(b"\xff\x00[[[" * 100 + b"\n")
    else:
        with target.open("wb") as file:
            file.truncate(1 << 40)
    log = opened(path)
    assert looked_at(log, b"050") == log.end
    assert is_known(learned(log))
    assert is_known(opened(path)) == (foreign != "folder")


def test_of_a_long_file_few_lines_are_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is: a line for each run, and those of the runs that can have it."""
    monkeypatch.setattr(index, "MANY", 50)
    path.write_bytes(b"".join(b"%06d\t\tx\n" % n for n in range(5000)))  # 1000 zones
    learned(opened(path))
    looked = []

    def look(fields: list[object], of: Callable[[list[object]], Zone] = Zone.of) -> Zone:
        looked.append(fields)
        return of(fields)

    monkeypatch.setattr(Zone, "of", look)
    for id in (b"000100", b"002500", b"004999"):
        looked.clear()
        assert 0 < looked_at(opened(path), id) <= 100
        assert len(looked) < 20 + 50 + 10
    looked.clear()
    log = opened(path)
    assert list(log.places(Wanted(), 0, log.end, is_backwards=True)) == [(0, log.end)]
    assert not looked, "who wants the last events asks for no index"


class Held:
    """An index in memory, with all hashes, of which a part may be lost."""

    has_room = True

    def __init__(self, is_remote: bool = False) -> None:
        self.is_remote = is_remote
        self.hashed = 50, 100, 200
        self.kept: dict[tuple[Kind, Part], tuple[bytes, bytes]] = {}

    def lines(self, rows: Rows, *spans: Span) -> list[list[tuple[int, bytes]]]:
        return [
            sorted(
                (part.start, line) for (of, part), (line, _) in self.kept.items()
                if of == kind and part.size == size and start <= part.start < stop
            ) for kind, size, start, stop in spans
        ]  # fmt: skip

    def hashes(self, rows: Rows, wanted: Sequence[tuple[Part, int, int]]) -> list[bytes]:
        try:
            return [self.kept["ids", part][1][at : at + size] for part, at, size in wanted]
        except KeyError as error:
            raise index.Gone from error

    def put(self, rows: Rows, kind: Kind, part: Part, line: bytes, hashes: bytes = b"") -> None:
        self.kept.setdefault((kind, part), (line, hashes))

    def lose(self) -> None:
        self.kept.clear()


class Bytes:
    """Rows in memory."""

    def __init__(self, rows: list[bytes], first: int) -> None:
        self.all = b"".join(rows)
        self.begin = len(b"".join(rows[:first]))

    def pread(self, offset: int, size: int) -> bytes:
        return self.all[offset : offset + size]


some_rows = st.lists(
    st.builds(
        lambda id, type, long: b"%03d\t%b\t%b\n" % (id, type, b"x" * long),
        st.integers(0, 120), st.sampled_from([b"a", b"b", b""]), st.sampled_from([1, 1, 1, 9, 150]),
    ),
    min_size=20, max_size=60,
)  # fmt: skip


@settings(max_examples=size(20, 300), phases=[Phase.explicit, Phase.generate])
@given(
    rows=some_rows,
    first=st.integers(0, 19),
    lost=st.sets(st.integers(0, 200)),
    cut=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    is_remote=st.booleans(),
)
def test_whatever_part_of_an_index_is_lost_nothing_is_hidden(
    rows: list[bytes], first: int, lost: set[int], cut: tuple[int, int], is_remote: bool
) -> None:
    """And what is learned again is the same, wherever the rows begin that are left."""
    store, whole, later = Held(is_remote), Bytes(rows, 0), Bytes(rows, first)
    stop = len(whole.all)
    for _ in Index(store).learn(whole, stop):
        pass
    everything = dict(store.kept)
    for number, key in enumerate(sorted(everything)):
        if number in lost:
            del store.kept[key]
    offsets = [0, *accumulate(map(len, rows))]
    for wanted in [Wanted(id=row[:3]) for row in rows] + [Wanted(types=frozenset([b"b"]))]:
        start, end = max(cut[0], later.begin), max(stop - cut[1], later.begin)
        forth = list(Index(store).places(later, wanted, start, end))
        back = list(Index(store).places(later, wanted, start, end, is_backwards=True))
        for found in (forth, back[::-1]):
            flat = [offset for part in found for offset in part]
            assert flat == sorted(flat)
            assert all(start <= offset <= end for offset in flat)
            for row, offset in zip(rows, offsets, strict=False):
                _, type, _ = row.split(b"\t")
                is_wanted = wanted.id == row[:3] if wanted.id else type == b"b"
                if is_wanted and start <= offset < end:
                    assert any(x <= offset < y for x, y in found)
    for kind, part in everything.keys() - store.kept.keys():
        if kind == "zone":  # an erasure takes those of both sizes
            store.kept.pop((kind, Part(200, part.start // 200 * 200)), None)
    fresh = Held()
    for each in (store, fresh):
        for _ in Index(each).learn(later, stop):
            pass
        for kind, part in everything:
            if kind == "zone" and part.size == 50 and part.start > later.begin:
                assert each.kept[kind, part] == everything[kind, part]


class Interrupted(Held):
    """One of which, right after lines were read, more is learned: as in another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.then: dict[int, Callable[[], None]] = {}  # by the number of the read

    def lines(self, rows: Rows, *spans: Span) -> list[list[tuple[int, bytes]]]:
        found = super().lines(rows, *spans)
        self.reads += 1
        self.then.pop(self.reads, lambda: None)()
        return found


@pytest.mark.parametrize("steps", range(1, 60, 2))
@pytest.mark.parametrize("read", range(1, 4))
def test_what_is_learned_while_another_reads_hides_nothing(read: int, steps: int) -> None:
    rows, store = Bytes(MIXED, 0), Interrupted()
    stop = len(rows.all)
    for _ in Index(store).learn(rows, 330):
        pass
    both = Index(store)
    learning = both.learn(rows, stop)

    def learn_some() -> None:
        for _ in islice(learning, steps):
            pass

    store.reads, store.then = 0, {read: learn_some}
    list(both.places(rows, Wanted(id=b"000"), 0, stop))
    for _ in learning:
        pass
    for row, offset in zip(MIXED, accumulate(map(len, MIXED)), strict=True):
        found = list(both.places(rows, Wanted(id=row[:3]), 0, stop))
        assert any(start < offset <= end for start, end in found), row


@pytest.mark.parametrize("together", [False, True])
def test_a_number_that_is_lost_names_no_zone(together: bool) -> None:
    kept = array("I", [5, 9]).tobytes() + bytes([1, 0])  # and zeros where the file system lost one

    def read(wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        return [kept[at : at + size] for _, at, size in wanted]

    assert ids.numbers({"part": 2}, 5, read, together) == {"part": bytes([0])}
    with pytest.raises(ValueError, match="range"):
        ids.numbers({"part": 2}, 9, read, together)


# -- closed files --------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Return the first of two segments, of which all is learned."""
    for offset, rows in ((0, MIXED), (len(b"".join(MIXED)), ROWS)):
        segments.path_of(tmp_path, "orders", offset).write_bytes(b"".join(rows))
    learned(opened(tmp_path / "orders.tsv"))
    return segments.path_of(tmp_path, "orders", 0)


def known_parts(path: Path, id: bytes | None = b"xyz", *types: bytes) -> int:
    """Return how many bytes of a closed file can have an id, as is known after a start."""
    size, wanted = path.stat().st_size, Wanted(id=id, types=frozenset(types))
    rows = ClosedRows(Segment(0, size, path))
    return sum(end - start for start, end in ClosedIndex(path, size).places(rows, wanted, 0, size))


def test_of_a_closed_file_all_is_known_and_its_digest(closed: Path) -> None:
    said = head(closed)
    assert said["sha256"] == hashlib.sha256(closed.read_bytes()).hexdigest()
    assert said["zones"] == len(lines(closed, b"zone", 1)) == 14
    assert said["size"] == closed.stat().st_size
    assert known_parts(closed) == 0
    assert known_parts(closed, b"050") < 120


def test_a_copy_with_its_times_is_believed_and_any_other_is_not(closed: Path) -> None:
    copy = closed.parent / "copy"
    shutil.copytree(closed.parent, copy, symlinks=True)  # as `rsync -a` does
    assert known_parts(copy / closed.name) == 0
    os.utime(copy / closed.name)
    assert known_parts(copy / closed.name) == closed.stat().st_size
    learned(opened(copy / "orders.tsv"))
    assert known_parts(copy / closed.name) == 0
    closed.with_suffix(".idx").rename(copy / closed.with_suffix(".idx").name)
    assert known_parts(copy / closed.name) == closed.stat().st_size


def test_a_summary_is_enough_where_a_file_does_not_have_it(closed: Path) -> None:
    path = closed.with_suffix(".idx")
    first = lines(closed, b"zone", 1)[0]
    whole, _, _ = path.read_bytes().partition(b"\n" + first[0])
    path.write_bytes(whole + b"\n")  # its zones are gone
    assert known_parts(closed, None, b"other type") == 0
    assert known_parts(closed, b"050") == closed.stat().st_size


def test_an_index_of_a_closed_file_that_lacks_zones_is_made_again(closed: Path) -> None:
    path = closed.with_suffix(".idx")
    path.write_bytes(
        path.read_bytes().rpartition(b"\n" + lines(closed, b"zone", 1)[5][0])[0] + b"\n"
    )
    assert known_parts(closed, b"050") == closed.stat().st_size
    assert not path.exists()
    learned(opened(closed.parent / "orders.tsv"))
    assert known_parts(closed, b"050") < 120


def test_what_was_learned_of_a_file_that_grows_is_kept_when_it_is_closed(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "never", RULE)
    log = folder.open("orders")
    for row in MIXED[:50]:
        log.append(None, [row])
        learned(log)
    assert len(list(tmp_path.glob("*.idx"))) == 1
    log.append(None, [b"".join(MIXED[50:])])
    first = segments.path_of(tmp_path, "orders", 0)
    assert "inode" in head(first)
    learned(log)
    assert head(first)["sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert looked_at(log, b"050") < 120


# -- the heads of the indexes of closed files ----------------------------------------------------

COUNT = 20  # closed files


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a channel of some files, of five rows each, of which all is learned."""
    folder = tmp_path_factory.mktemp("history")
    for start in range(0, 5 * COUNT + 5, 5):
        rows = b"".join(ROWS[start : start + 5])
        segments.path_of(folder, "orders", len(b"".join(ROWS[:start]))).write_bytes(rows)
    learned(opened(folder / "orders.tsv"))
    return folder


@pytest.fixture
def history(original: Path, tmp_path: Path) -> Path:
    """Return a copy of it, with its times."""
    return Path(shutil.copytree(original, tmp_path / "history", symlinks=True))


def opens(folder: Path, id: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return in how many bytes an id can be, and how many files are opened to know it."""
    paths = []

    def note(path: Path | str, *rest: Any, open: Any = os.open) -> int:
        paths.append(path)
        return int(open(path, *rest))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", note)
        log = opened(folder / "orders.tsv")
        assert log.generation
        return looked_at(log, id), len(paths)


def test_a_search_right_after_a_start_opens_few_files_of_how_many_there_are(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, count = opens(history, b"xyz", monkeypatch)
    assert (size, count < 8) == (0, True)
    size, count = opens(history, b"050", monkeypatch)
    assert 0 < size <= 120
    assert count < 8


def test_a_search_right_after_a_start_looks_at_one_zone_of_each_file_that_cannot_have_it(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def look(fields: list[object], of: Callable[[list[object]], Zone] = Zone.of) -> Zone:
        looked.append(fields)
        return of(fields)

    log = opened(history / "orders.tsv")
    monkeypatch.setattr(Zone, "of", look)
    for _ in range(2):
        assert looked_at(log, b"xyz") == 0
        assert len(looked) == COUNT


@pytest.mark.parametrize("harm", ["gone", "torn", "flipped", "foreign", "folder", "huge", "other"])
def test_heads_that_are_not_those_of_the_indexes_are_not_believed_and_made_again(
    history: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = history / "orders.idx"
    text = heads.read_bytes()
    few, _ = opens(history, b"052", monkeypatch)
    heads.unlink()
    if harm == "torn":
        heads.write_bytes(text[: len(text) // 2])
    elif harm == "flipped":
        heads.write_bytes(text.replace(b'"050\\t"', b'"054\\t"'))
        assert heads.read_bytes() != text
    elif harm == "foreign":
        heads.write_bytes(b"\xff\x00[[[" * 100 + b"\n")
    elif harm == "folder":
        heads.mkdir()
    elif harm == "huge":
        with heads.open("wb") as file:
            file.truncate(1 << 40)
    elif harm == "other":
        shutil.copy(next(history.glob("orders.*.idx")), heads)
    size, count = opens(history, b"052", monkeypatch)
    assert (size, count > COUNT) == (few, True), "each index is read"
    assert opened(history / "orders.tsv").read(0, 1 << 20, 1 << 20) == b"".join(ROWS)
    learned(opened(history / "orders.tsv"))
    assert (opens(history, b"052", monkeypatch)[1] < 8) == (harm != "folder")


@pytest.mark.parametrize("change", ["rows", "index", "another file"])
def test_the_head_of_a_file_that_was_changed_is_not_believed(history: Path, change: str) -> None:
    """Rows that were written over the closed ones are found, and what is removed is made again."""
    path = sorted(history.glob("orders.0*.tsv"))[10]
    text = path.read_bytes()
    if change == "index":
        path.with_suffix(".idx").unlink()
    else:
        if change == "another file":
            path.unlink()
        path.write_bytes(text.replace(b"052", b"xyz"))
    log = opened(history / "orders.tsv")
    found = b"052" if change == "index" else b"xyz"
    places = log.places(Wanted(id=found), 0, log.end)
    assert any(found in log.pread(start, end - start) for start, end in places)
    learned(opened(history / "orders.tsv"))
    assert path.with_suffix(".idx").exists()
    assert looked_at(opened(history / "orders.tsv"), found) < 120


def test_the_heads_say_nothing_of_files_that_are_gone(history: Path) -> None:
    heads, first = history / "orders.idx", sorted(history.glob("orders.0*.tsv"))[0]
    assert b'"004\\t"' in heads.read_bytes()
    log = opened(history / "orders.tsv")
    segments.remove(first)
    assert not heads.exists()
    log.refresh()
    learned(log)
    assert b'"004\\t"' not in heads.read_bytes()
    assert b'"009\\t"' in heads.read_bytes()


# -- with its files ------------------------------------------------------------------------------


def test_a_channel_that_gets_a_rule_keeps_its_index_and_loses_it_with_its_files(
    path: Path,
) -> None:
    learned(opened(path))
    Folder(path.parent, "never", RULE).open("orders")
    assert not path.with_suffix(".idx").exists()
    first = segments.path_of(path.parent, "orders", 0)
    assert "inode" in head(first)
    segments.remove(first)
    assert not list(path.parent.glob("*.id*"))


def test_ids_of_rows_so_short_that_it_is_not_worth_it_have_no_hashes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger decides how short rows are: a MiB of the shortest has 150 000 ids."""
    monkeypatch.setattr(index, "MOST_IDS", 7)  # of 8 in a zone
    path.write_bytes(b"".join(MIXED))
    log = learned(opened(path))
    assert not path.with_suffix(".ids").exists()
    assert looked_at(log, b"050") > log.end / 2
    monkeypatch.setattr(index, "MOST_IDS", 8)
    path.with_suffix(".idx").unlink()
    log = learned(opened(path))
    assert looked_at(log, b"050") < log.end / 2
