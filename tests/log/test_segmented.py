"""A log of several files, whatever is done to them, held against a plain string of bytes."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esource.errors import StorageError
from esource.hub.view import Place, View
from esource.log import Appended, Log, Moved, disk, history, segmented, segments
from esource.log.folder import Folder
from esource.log.segmented import SegmentedLog
from esource.rules import Rule
from tests.harness.channels import age, append_by_hand

HOUR = 3600.0
MEMORY = Path("/dev/shm")  # what is on disk is not what is tested here
RULES = {
    "none": None,
    "segments": Rule("*", segment=150),
    "size": Rule("*", segment=150, size=500),
    "age": Rule("*", segment=300, age=10 * 3600),
    "both": Rule("*", segment=150, size=1000, age=10 * 3600),
}


def path_of(folder: Path, offset: int) -> Path:
    return folder / f"orders.{offset:020}.tsv"


def starts(folder: Path) -> list[int]:
    return sorted(int(path.name.split(".")[1]) for path in folder.glob("orders.[0-9]*.tsv"))


def link(folder: Path, target: str) -> None:
    (folder / "orders.tsv").unlink(missing_ok=True)
    (folder / "orders.tsv").symlink_to(target)


def append(log: Log, rows: bytes) -> tuple[Log, Appended]:
    """Append as a writer does, at the end, wherever that is; return the log that has the rows."""
    refusals: list[str] = []
    while len(refusals) < 9 or refusals[-1].endswith("half a row"):
        appended = log.append(log.end, [rows])
        if isinstance(appended, Appended):
            return log, appended
        assert isinstance(appended, Moved)
        refusals.append(appended.why)
        time.sleep(appended.seconds)
        change = log.refresh()
        log = change.by if change else log
    raise AssertionError(refusals)


class Life(RuleBasedStateMachine):
    """All that may happen to a channel in years."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.folder = Path(self.temporary.name) / "events"
        self.folder.mkdir()
        self.away = Path(self.temporary.name) / "away"
        self.away.mkdir()
        self.content = b""  # of the whole history, what was removed included
        self.half = b""  # of a row, at the end of the growing file
        self.late: dict[int, bytes] = {}  # behind closed files
        self.places: list[int] = []
        self.ids: list[bytes] = []  # of the places
        self.count = 0

    def teardown(self) -> None:
        self.temporary.cleanup()

    @initialize(kind=st.sampled_from([*RULES]), first=st.sampled_from([b"", b"0\t\told\n"]))
    def begin(self, kind: str, first: bytes) -> None:
        if first:  # from before there was a rule
            (self.folder / "orders.tsv").write_bytes(first)
            self.content = first
        self.open(kind)

    def open(self, kind: str) -> None:
        rule = RULES[kind]
        self.rule = rule
        self.logs = Folder(self.folder, "never", [rule] if rule else [])
        self.log = self.logs.open("orders")

    # -- what is expected ------------------------------------------------------------------

    @property
    def growing(self) -> Path:
        found = starts(self.folder)
        return path_of(self.folder, found[-1]) if found else self.folder / "orders.tsv"

    @property
    def closed(self) -> list[int]:
        return starts(self.folder)[:-1]

    @property
    def start(self) -> int:
        """Where the run of files without a gap begins."""
        found = starts(self.folder)
        start = found.pop() if found else 0
        while found and path_of(self.folder, found[-1]).stat().st_size >= start - found[-1]:
            start = found.pop()
        return start

    def row(self, size: int = 10) -> bytes:
        self.count += 1
        return b"%d\t\t%b\n" % (self.count, b"x" * size)

    def refreshed(self) -> Log:
        if not self.log.is_current():
            change = self.log.refresh()
            self.log = change.by if change else self.log
            assert self.log.is_current()
        return self.log

    @invariant()
    def all_is_there(self) -> None:
        log, start, end = self.refreshed(), self.start, len(self.content)
        assert (log.start, log.begin, log.end) == (start, start, end)
        assert log.refusal == ""
        assert log.pread(start, end - start) == self.content[start:]
        offset = start
        while rows := log.read(offset, 40, end):
            assert rows == self.content[offset : offset + len(rows)]
            assert rows.endswith(b"\n")
            offset += len(rows)
        assert offset == end
        for place, rows in log.backwards(end):
            assert place + len(rows) == offset
            assert rows == self.content[place:offset]
            offset = place
        assert offset == start
        view = View.of(log)
        for remembered, id in zip(self.places, self.ids, strict=True):
            found = view.offset_of(id)
            if start < remembered <= end or remembered == start == 0:
                assert found == remembered
            else:
                assert found in (None, remembered)

    def stays(self, what: Callable[[], None]) -> None:
        """Do something after which the rows are named as before, unless the first are gone."""
        log = self.refreshed()
        before = log.start, log.end, log.generation
        what()
        log = self.refreshed()
        after = log.start, log.end, log.generation
        if before[:2] == after[:2]:
            assert after[2] == before[2]
        elif before[0] != after[0]:
            assert after[2] != before[2]

    def forget_places(self) -> None:
        self.places, self.ids = [], []

    # -- rows ------------------------------------------------------------------------------

    @rule(size=st.sampled_from([5, 5, 40, 400]), count=st.integers(1, 5))
    def publish(self, size: int, count: int) -> None:
        rows = b"".join(self.row(size) for _ in range(count))
        if self.half:
            age(self.growing)
        self.log, appended = append(self.log, rows)
        assert appended.start == len(self.content)
        self.content += rows
        self.half = b""

    publish_more = publish  # it is what most often happens

    @rule(rows=st.integers(1, 2), half=st.booleans())
    def append_by_hand(self, rows: int, half: bool) -> None:
        if not self.growing.exists():
            return
        text = b"".join(self.row() for _ in range(rows))
        rest = b"half" if half else b""
        append_by_hand(self.growing, text + rest)
        self.content += self.half + text
        self.half = rest

    @precondition(lambda self: self.closed and self.start in self.closed)
    @rule(data=st.data(), half=st.booleans())
    def append_to_a_closed_file(self, data: st.DataObject, half: bool) -> None:
        offset = data.draw(st.sampled_from([each for each in self.closed if each >= self.start]))
        text = b"half" if half else self.row()
        append_by_hand(path_of(self.folder, offset), text)
        self.late[offset] = self.late.get(offset, b"") + text

    # -- time ------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([0, 0, 2, 20]), may_remove=st.booleans())
    def tend(self, hours: int, may_remove: bool) -> None:
        self.stays(lambda: self._tend(hours, may_remove))

    def _tend(self, hours: int, may_remove: bool) -> None:
        before, segmented = self.start, isinstance(self.refreshed(), SegmentedLog)
        for offset in self.late:
            age(path_of(self.folder, offset))
        if self.half and any(b"\n" in late for late in self.late.values()):
            age(self.growing)
            self.half = b""
        for offset in sorted(self.late) if segmented else []:
            whole = self.late[offset].rpartition(b"\n")
            self.content += whole[0] + whole[1]
            self.late[offset] = whole[2]
            if not (whole[0] or not whole[2]):
                self.late[offset] = b""  # it was saved aside
        self.late = {offset: rows for offset, rows in self.late.items() if rows}
        names = self.logs.due(time.time() + hours * HOUR)
        self.log.tend(time.time() + hours * HOUR, may_remove)
        if self.start != before:
            assert may_remove
            assert self.rule
            assert names == ["orders"]
            kept = len(self.content) - self.start
            ages = self.rule.age and hours * HOUR >= self.rule.age
            assert ages or (self.rule.size and kept >= self.rule.size)
            self.late = {at: rows for at, rows in self.late.items() if at >= self.start}
        elif may_remove and segmented and self.rule and self.rule.size and self.closed:
            first = starts(self.folder)[starts(self.folder).index(self.start) :][1:2]
            assert not first or len(self.content) - first[0] < self.rule.size

    # -- commands and crashes --------------------------------------------------------------

    @rule()
    def rotate(self) -> None:
        if self.growing.exists() and not self.half:
            self.stays(lambda: history.rotate(self.folder, "orders") and None)

    @rule(size=st.sampled_from([0, 100, 1000]))
    def trim(self, size: int) -> None:
        if self.growing.exists():
            before = self.start
            condition = Rule("*", size=size)
            gone = history.trim(self.folder, "orders", condition, time.time(), dry_run=False)
            for segment in gone:
                self.late.pop(segment.offset, None)
                assert not segment.late
            assert self.start == before + sum(segment.size for segment in gone)
            assert not gone or len(self.content) - self.start >= size

    @rule(
        kind=st.sampled_from([*RULES]),
        left=st.sampled_from(["", "half", "next", "no link", "stale link", "new link"]),
    )
    def crash(self, kind: str, left: str) -> None:
        def restart() -> None:
            del self.log
            found = starts(self.folder)
            if found:
                if left == "half":
                    append_by_hand(self.growing, b"torn")
                    age(self.growing)
                elif left == "next" and self.growing.stat().st_size and not self.half:
                    end = found[-1] + self.growing.stat().st_size
                    path_of(self.folder, end).touch()  # and the link is stale
                elif left == "no link":
                    (self.folder / "orders.tsv").unlink(missing_ok=True)
                elif left == "stale link":
                    link(self.folder, path_of(self.folder, 7).name)
                elif left == "new link":
                    with suppress(FileExistsError):
                        (self.folder / ".orders.tsv.link").symlink_to("nowhere")
            if self.half:
                age(self.growing)
            self.half = b""
            self.open(kind)

        self.stays(restart)
        if starts(self.folder):
            assert (self.folder / "orders.tsv").resolve() == self.growing.resolve()

    # -- what people do --------------------------------------------------------------------

    @rule(at_once=st.booleans())
    def remove_the_oldest(self, at_once: bool) -> None:
        found = starts(self.folder)
        if len(found) > 1:
            before, was_kept = self.refreshed().generation, found[0] == self.start
            path_of(self.folder, found[0]).rename(self.away / f"{found[0]}")
            self.late.pop(found[0], None)
            if not at_once:
                self._tend(0, may_remove=False)
            elif was_kept:
                assert self.refreshed().generation != before

    @rule(data=st.data(), way=st.sampled_from(["move", "cut", "copy", "rewrite"]))
    def harm_a_closed_file(self, data: st.DataObject, way: str) -> None:
        if not self.closed:
            return
        self._settle_late()
        offset = data.draw(st.sampled_from(self.closed))
        path = path_of(self.folder, offset)
        before = self.refreshed().generation
        if way == "move":
            path.rename(self.away / f"{offset}")
        elif way == "cut":
            shutil.copy2(path, self.away / f"{offset}")
            os.truncate(path, path.stat().st_size // 2)
            if path.stat().st_size >= starts(self.folder)[self.closed.index(offset) + 1] - offset:
                os.truncate(path, 0)
        else:
            shutil.copy2(path, self.away / "copy")
            if way == "copy":
                (self.away / "copy").replace(path)
        is_kept = offset >= self.start
        self.log.tend(time.time(), False)
        self.forget_places()
        if is_kept and way == "copy":
            assert self.refreshed().generation != before

    def _settle_late(self) -> None:
        """Take late rows away, where it would be too much to say what becomes of them."""
        found = starts(self.folder)
        for offset, end in pairwise(found):
            path = path_of(self.folder, offset)
            if path.stat().st_size > end - offset:
                os.truncate(path, end - offset)
        self.late = {}

    @rule()
    def put_back(self) -> None:
        """What was moved away, as far as it is of this history."""
        self._settle_late()
        for path in list(self.away.iterdir()):
            if path.name.isdigit():
                text, offset = path.read_bytes(), int(path.name)
                found = [each for each in starts(self.folder) if each > offset]
                size = (found[0] if found else 0) - offset
                is_ours = found and text[:size] == self.content[offset : offset + len(text[:size])]
                if is_ours and len(text) >= size:
                    path.write_bytes(text[:size])
                    path.replace(path_of(self.folder, offset))
                else:
                    path.unlink()
        self.forget_places()
        self.log.tend(time.time(), False)

    @rule()
    def remove_the_growing_file(self) -> None:
        found = starts(self.folder)
        if len(found) > 1 and found[-2] >= self.start:
            self._settle_late()
            self.growing.unlink()
            self.content, self.half = self.content[: found[-1]], b""
            self.forget_places()
            for path in self.away.iterdir():
                path.unlink()

    @rule(data=st.data())
    def cut_the_growing_file(self, data: st.DataObject) -> None:
        found = starts(self.folder)
        if found and self.growing.stat().st_size:
            rows = self.content[found[-1] :].splitlines(keepends=True)
            kept = sum(map(len, rows[: data.draw(st.integers(0, len(rows)))]))
            os.truncate(self.growing, kept)
            self.content, self.half = self.content[: found[-1] + kept], b""
            self.forget_places()

    @rule(link=st.booleans())
    def remove_all(self, link: bool) -> None:
        for path in self.folder.glob("orders.*tsv"):
            if link or not path.is_symlink():
                path.unlink()
        for path in self.away.iterdir():
            path.unlink()
        self.content, self.half, self.late = b"", b"", {}
        self.forget_places()

    @rule(look=st.sampled_from(["read", "tend", "publish", ""]), folder=st.booleans())
    def move_all_away_for_a_moment(self, look: str, folder: bool) -> None:
        self._settle_late()
        if folder:
            self.folder.rename(self.folder.with_name("moved"))
        else:
            shutil.copytree(self.folder, self.folder.with_name("moved"), symlinks=True)
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.forget_places()  # copies are other files
        if look == "read":
            assert self.refreshed().end == 0
        elif look == "tend":
            self.log.tend(time.time(), False)
        elif look == "publish" and folder:
            with suppress(StorageError):
                self.log.append(0, [b"refused\t\t\n"])
        if not folder:
            shutil.rmtree(self.folder)
        self.folder.with_name("moved").rename(self.folder)

    # -- places ----------------------------------------------------------------------------

    @rule(data=st.data())
    def remember_a_place(self, data: st.DataObject) -> None:
        log, start = self.refreshed(), self.start
        ends = [start]
        for row in self.content[start:].splitlines(keepends=True):
            ends.append(ends[-1] + len(row))
        if log.end:
            place = Place(log, data.draw(st.sampled_from(ends)))
            self.places.append(place.offset)
            self.ids.append(place.id)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


# -- kills and power cuts at every step ------------------------------------------------------------


@pytest.fixture
def folders() -> Iterator[Path]:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


CALLS = [
    "fsync",
    "fdatasync",
    "ftruncate",
    "open",
    "rename",
    "replace",
    "symlink",
    "unlink",
    "write",
]


class Outage:
    """A process that is killed right before one of its calls, and what is on disk then."""

    def __init__(self, folder: Path, work: Callable[[Callable[[], None]], None]) -> None:
        """`work` is done in a child; it says what is acknowledged."""
        self.folder = folder
        self.work = work
        self.journal: list[list[str]] = []

    def kill(self, step: int) -> tuple[int, bool]:
        """Do the work up to a step; return how much was acknowledged, and if it was all."""
        self.journal.clear()
        here, there = os.pipe()
        child = os.fork()
        if not child:
            with suppress(BaseException):
                self._work(step, there)
            os._exit(1)
        os.close(there)
        with open(here) as lines:
            self.journal = [line.split() for line in lines]
        _, status = os.waitpid(child, 0)
        assert os.WEXITSTATUS(status) in (0, 9)
        return self.journal.count(["A"]), not status

    def _work(self, step: int, there: int) -> None:
        write, count = os.write, 0

        def say(*words: object) -> None:
            write(there, " ".join(map(str, words)).encode() + b"\n")

        def patched(name: str, call: Callable[..., object]) -> Callable[..., object]:
            def counted(*arguments: object, **options: object) -> object:
                nonlocal count
                count += 1
                if count > step:
                    os._exit(9)
                result = call(*arguments, **options)
                if "sync" in name:
                    say(*synced(arguments[0]))
                return result

            return counted

        for name in CALLS:
            setattr(os, name, patched(name, getattr(os, name)))
        disk.sync = os.fdatasync
        self.work(lambda: say("A"))
        os._exit(0)

    def cut_the_power(self) -> None:
        """Take away all that was not synced."""
        entries = {path.name: path.lstat().st_ino for path in self.folder.iterdir()}
        sizes: dict[int, int] = {}
        kept: dict[str, int] = {}
        for kind, *words in self.journal:
            if kind == "F":
                sizes[int(words[0])] = int(words[1])
            elif kind == "D":
                kept = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        for name, inode in entries.items():
            before = [other for other in kept if kept[other] == inode]
            if not before:
                (self.folder / name).unlink()
            elif before != [name]:
                (self.folder / name).rename(self.folder / before[0])
        for path in self.folder.glob("*.tsv"):
            if not path.is_symlink():
                os.truncate(path, min(sizes.get(path.stat().st_ino, 0), path.stat().st_size))


def synced(fd: object) -> list[object]:
    """Return what a sync has put on disk: a file's size, or a folder's entries."""
    assert isinstance(fd, int)
    path = Path(os.readlink(f"/proc/self/fd/{fd}"))
    if path.is_dir():
        pairs = [(entry.name, entry.inode()) for entry in os.scandir(path)]
        return ["D", *(word for pair in pairs for word in pair)]
    return ["F", os.fstat(fd).st_ino, os.fstat(fd).st_size]


ROWS = [b"%d\t\t%b\n" % (n, b"x" * 30) for n in range(8)]


def content(log: Log) -> bytes:
    return log.pread(log.start, log.end - log.start)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("fsync", ["always", "never"])
def test_no_step_of_closing_loses_or_moves_a_row(folders: Path, fsync: str, power: bool) -> None:
    segments = [Rule("*", segment=100)]
    step, is_done = 0, False
    while not is_done:
        folder = folders / f"{step}"
        folder.mkdir()
        plain = folder / "orders.tsv"  # from before there was a rule
        plain.write_bytes(ROWS[0])

        def work(acknowledge: Callable[[], None], folder: Path = folder) -> None:
            Folder(folder, "always").open("orders")
            acknowledge()
            log = Folder(folder, fsync, segments).open("orders")
            for row in ROWS[1:]:
                assert isinstance(log.append(log.end, [row]), Appended)
                acknowledge()

        outage = Outage(folder, work)
        count, is_done = outage.kill(step)
        whole = [path.read_bytes() for path in sorted(folder.glob("orders.[0-9]*.tsv"))]
        if power and count:
            outage.cut_the_power()
        log = Folder(folder, fsync, segments).open("orders")
        rows = content(log)
        assert (log.start, rows) == (0, b"".join(ROWS)[: len(rows)])
        assert rows.count(b"\n") >= (count if fsync == "always" or not power else 0)
        if whole[:-1]:
            assert rows.startswith(b"".join(whole[:-1]))
        append(log, b"next\t\t\n")
        assert content(log) == rows + b"next\t\t\n"
        if len(whole) > 1:
            assert plain.read_bytes().endswith(b"next\t\t\n")
        step += 1
    assert step > 40


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_no_step_of_moving_late_rows_loses_or_doubles_one(folders: Path, power: bool) -> None:
    step, is_done = 0, False
    late = ROWS[4] + ROWS[5]
    before = b"".join([*ROWS[:3], late])  # ends with the same rows as were late
    while not is_done:
        folder = folders / f"{step}"
        folder.mkdir()
        closed = path_of(folder, 0)
        closed.write_bytes(ROWS[0] + late)
        path_of(folder, len(ROWS[0])).write_bytes(before[len(ROWS[0]) :])

        def work(acknowledge: Callable[[], None], folder: Path = folder) -> None:
            log = Folder(folder, "always").open("orders")
            with path_of(folder, 0).open("rb") as file:
                os.fsync(file.fileno())
            acknowledge()
            log.tend(time.time(), False)
            acknowledge()

        outage = Outage(folder, work)
        count, is_done = outage.kill(step)
        if power and count:
            outage.cut_the_power()
        log = Folder(folder, "always").open("orders")
        if step % 2:  # it was moved before, or is moved now
            log, _ = append(log, ROWS[6])
            append_by_hand(closed, ROWS[7])
        log.tend(time.time(), False)
        log.tend(time.time(), False)
        rows = content(log)
        assert rows.startswith(before)
        after = [row + b"\n" for row in rows[len(before) :].split(b"\n")[:-1]]
        added = ROWS[6:8] if step % 2 else []
        assert sorted(after) == sorted([ROWS[4], ROWS[5], *added])
        assert closed.read_bytes() == ROWS[0]
        step += 1
    assert step > 10


def test_no_step_of_removing_leaves_a_gap(folders: Path) -> None:
    step, is_done = 0, False
    by_size = [Rule("*", segment=100, size=200)]
    everything = b"".join(ROWS)
    while not is_done:
        folder = folders / f"{step}"
        folder.mkdir()
        log = Folder(folder, "never", by_size).open("orders")
        for row in ROWS:
            log.append(None, [row])

        def work(acknowledge: Callable[[], None], folder: Path = folder) -> None:
            Folder(folder, "never", by_size).open("orders").tend(time.time(), True)

        _, is_done = Outage(folder, work).kill(step)
        logs = Folder(folder, "never", by_size)
        log = logs.open("orders")
        assert content(log) == everything[log.start :]
        logs.due(time.time())
        assert logs.gaps() == []
        log.tend(time.time(), True)
        assert 200 <= log.end - log.start < 200 + 2 * 100
        step += 1
    assert step > 5


# -- what the model meets too rarely ---------------------------------------------------------------


def in_files(folder: Path, *sizes: int, start: int = 0, rows: Sequence[bytes] = ROWS) -> bytes:
    """Make files of so many rows each, the first at an offset; return all that is in them."""
    text = b""
    for size in sizes:
        part, rows = b"".join(rows[:size]), rows[size:]
        path_of(folder, start + len(text)).write_bytes(part)
        text += part
    return text


@pytest.mark.parametrize("segmented", [True, False], ids=["rule", "no rule"])
@pytest.mark.parametrize("way", ["read", "publish", "tend"])
def test_a_history_that_was_away_for_a_moment_is_back_where_it_was(
    folders: Path, way: str, segmented: bool
) -> None:
    """Also if there is no file at offset 0, and no link."""
    folder = folders / "events"
    folder.mkdir()
    text = in_files(folder, 2, 2, 2, start=700)
    logs = Folder(folder, "never", [Rule("*", segment=100)] if segmented else [])
    log: Log = logs.open("orders")
    folder.rename(folders / "moved")
    change = log.refresh()
    assert change
    log = change.by
    assert (log.start, log.end) == (0, 0)
    (folders / "moved").rename(folder)
    if way == "tend":
        (folder / "orders.tsv").unlink()
        assert logs.due(time.time()) == ["orders"]
        log.tend(time.time(), False)
    if way == "publish":
        log, appended = append(log, ROWS[6])
        assert appended.start == 700 + len(text)
        text += ROWS[6]
    elif not log.is_current():
        change = log.refresh()
        log = change.by if change else log
    assert (log.start, content(log)) == (700, text)


def test_late_rows_of_a_program_that_goes_on_writing_are_moved_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = in_files(tmp_path, 2, 2)
    closed = path_of(tmp_path, 0)
    log = Folder(tmp_path, "never").open("orders")
    assert isinstance(log, SegmentedLog)
    append_by_hand(closed, b"late 0\t\t\n")
    count, sync = 0, log.sync

    def sync_while_more_comes() -> float:
        nonlocal count
        count += 1
        append_by_hand(closed, b"late %d\t\t\n" % count if count < 4 else b"")
        return sync()

    monkeypatch.setattr(log, "sync", sync_while_more_comes)
    for _ in range(6):
        log.tend(time.time(), False)
    assert content(log) == text + b"".join(b"late %d\t\t\n" % n for n in range(4))
    assert closed.read_bytes() == text[: len(closed.read_bytes())]
    assert list(tmp_path.glob(".*late*")) == []


def test_a_file_that_others_made_grows_from_the_next_look_on(tmp_path: Path) -> None:
    """The greatest one grows; what is no run with it does not count, as after a restart."""
    in_files(tmp_path, 2, 2)
    log = Folder(tmp_path, "never").open("orders")
    path_of(tmp_path, 5000).write_bytes(ROWS[7])
    log.tend(time.time(), False)
    assert not log.is_current()
    change = log.refresh()
    assert change
    assert (change.by.start, content(change.by)) == (5000, ROWS[7])
    assert change.by.is_current()


def test_a_byte_order_mark_is_before_the_first_row_alone(tmp_path: Path) -> None:
    rows = [b"\xef\xbb\xbf" + row for row in ROWS]
    text = in_files(tmp_path, 2, 2, 2, rows=rows)
    log = Folder(tmp_path, "never", [Rule("*", segment=100)]).open("orders")
    assert (log.start, log.begin, content(log)) == (0, 3, text)
    log, _ = append(log, ROWS[7])
    assert (log.start, log.begin) == (0, 3)
    path_of(tmp_path, 0).unlink()
    log.refresh()
    assert log.begin == log.start == len(rows[0] + rows[1])


def test_a_file_whose_sync_has_failed_is_not_closed_before_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Folder(tmp_path, "interval", [Rule("*", segment=100)]).open("orders")
    log, _ = append(log, ROWS[0] + ROWS[1])

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        with suppress(StorageError):
            log.flush()
    assert log.refusal
    log.append(None, [ROWS[2]])
    assert starts(tmp_path) == [0]
    assert log.refusal == ""
    log.append(None, [ROWS[3]])
    assert len(starts(tmp_path)) == 2


def test_what_a_failed_append_has_left_is_not_cut_from_a_file_that_was_closed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, write = in_files(tmp_path, 2), os.write
    log = Folder(tmp_path, "never").open("orders")

    def write_once(fd: int, data: bytes) -> int:
        if bytes(data) == ROWS[2]:
            return write(fd, data)
        raise OSError(5, "Input/output error")

    def fail(fd: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_once)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageError):
            log.append(None, [ROWS[2], b"not written"])
    assert "holds an unfinished write" in log.refusal
    history.rotate(tmp_path, "orders")
    log, appended = append(log, ROWS[3])
    assert appended.start == len(text + ROWS[2])
    assert (log.start, content(log)) == (0, text + ROWS[2] + ROWS[3])
    assert list(tmp_path.glob("*.torn-*")) == []


def test_late_rows_of_any_length_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmented, "LATE_BYTES", 50)
    text = in_files(tmp_path, 2, 2)
    log = Folder(tmp_path, "never").open("orders")
    late = ROWS[4] + b"long\t\t" + b"x" * 200 + b"\n" + ROWS[5]
    append_by_hand(path_of(tmp_path, 0), late)
    age(path_of(tmp_path, 0))
    for _ in range(3):
        log.tend(time.time(), False)
    assert content(log) == text + late
    assert list(tmp_path.glob("*.torn-*")) == []


def test_a_file_that_begins_in_the_middle_of_a_row_cuts_none(tmp_path: Path) -> None:
    """Files of a channel were restored while it was published to, or one was edited."""
    first, second = (tmp_path / f"orders.{offset:020}.tsv" for offset in (0, 7))
    first.write_bytes(b"1\t\tpublished\n")
    second.write_bytes(b"2\t\trestored\n")
    log = Folder(tmp_path).open("orders")
    log.tend(time.time() + 60, may_remove=False)
    assert (log.start, log.pread(7, 100)) == (7, second.read_bytes())
    assert first.read_bytes() == b"1\t\tpublished\n"
    assert list(tmp_path.glob("*.torn-*")) == []


@pytest.mark.parametrize("offset", ["1" + "0" * 19, "9" * 20])
def test_an_offset_that_no_file_can_have_is_none(tmp_path: Path, offset: str) -> None:
    (tmp_path / f"orders.{offset}.tsv").write_bytes(b"1\t\tone\n")
    assert segments.offsets(tmp_path) == {}
    assert Folder(tmp_path).names() == []
