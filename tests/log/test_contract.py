"""What every kind of log promises, held against a plain list of rows: see `esource.log`."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esource.errors import StorageError
from esource.event import default_id
from esource.log import MARK_BYTES, Appended, Log, Logs, Moved, Replaced, Written, mark
from esource.log.folder import Folder
from esource.log.memory import MemoryLogs
from esource.log.postgresql import PostgreSQL
from esource.log.valkey import Valkey
from esource.rows import tsv
from esource.rules import Rule
from tests.harness.machine import size
from tests.harness.postgres import shared_postgres
from tests.harness.valkey import shared_valkey

ROWS = b"1\t\tone\n2\t\ttwo\n"


class Kind:
    """One kind of logs, and how its rows are replaced behind its back."""

    is_written_soon = True  # rows can be written at once, and taken away until they are settled

    def logs(self) -> Logs:
        raise NotImplementedError

    def replace(self, rows: bytes) -> None:
        """Give the name `orders` other rows."""
        raise NotImplementedError

    def close(self) -> None:
        pass


class Files(Kind):
    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name)

    def logs(self) -> Logs:
        return Folder(self.path)

    def replace(self, rows: bytes) -> None:
        (self.path / "other").write_bytes(rows)
        (self.path / "other").replace(self.path / "orders.tsv")

    def close(self) -> None:
        self.folder.cleanup()


class Segments(Files):
    """A segment takes a few rows, so that files are closed again and again."""

    def logs(self) -> Logs:
        return Folder(self.path, rules=[Rule("*", segment=100)])

    def replace(self, rows: bytes) -> None:
        for path in self.path.glob("orders.*"):
            path.unlink()
        if rows:
            (self.path / f"orders.{0:020}.tsv").write_bytes(rows)


class Memory(Kind):
    def __init__(self) -> None:
        self.memory = MemoryLogs()

    def logs(self) -> Logs:
        return self.memory

    def replace(self, rows: bytes) -> None:
        self.memory.rows.pop("orders", None)
        self.memory.open("orders").append(0, [rows] if rows else [])


class Engine(Kind):
    """Of one server, which is empty each time."""

    is_written_soon = False

    def __init__(self) -> None:
        self.server = shared_postgres()
        self.server.do("DROP SCHEMA IF EXISTS esource CASCADE")
        self.hubs: list[PostgreSQL] = []

    def logs(self) -> Logs:
        logs = PostgreSQL(self.server.url(), 10)
        self.hubs.append(logs)
        logs.hold(lambda: None)
        return logs

    def close(self) -> None:
        for logs in self.hubs:
            logs.close()

    def replace(self, rows: bytes) -> None:
        self.server.do("TRUNCATE esource.channel CASCADE")  # the old rows can still be read
        if rows:
            self.logs().open("orders").append(0, [rows])


class Valkeys(Kind):
    """Of one server, which is empty each time."""

    is_written_soon = False
    settings = ""

    def __init__(self) -> None:
        self.server = shared_valkey()
        self.server.do("FLUSHALL")
        self.hubs: list[Valkey] = []

    def logs(self) -> Logs:
        logs = Valkey(self.server.url + self.settings, 10)
        self.hubs.append(logs)
        logs.hold(lambda: None)
        return logs

    def close(self) -> None:
        for logs in self.hubs:
            logs.close()

    def replace(self, rows: bytes) -> None:
        self.server.do("DEL", "esource:{orders}")  # the old rows can still be read
        if rows:
            self.logs().open("orders").append(0, [rows])


KINDS = [Files, Segments, Memory, Engine, Valkeys]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    kind = request.param()
    yield kind
    kind.close()


@pytest.fixture
def logs(kind: Kind) -> Logs:
    return kind.logs()


@pytest.fixture
def log(logs: Logs) -> Log:
    return logs.open("orders")


def content(log: Log) -> bytes:
    return log.pread(log.begin, log.end - log.begin)


# -- appending ---------------------------------------------------------------------------------


def test_a_log_that_nobody_has_written_to_is_empty(logs: Logs, log: Log) -> None:
    assert (log.begin, log.end, log.generation, log.modified, log.refusal) == (0, 0, "", 0.0, "")
    assert (log.read(0, 100, 0), list(log.backwards(0)), logs.names()) == (b"", [], [])
    assert log.is_current()
    assert log.refresh() is None


def test_rows_are_where_the_append_says(logs: Logs, log: Log) -> None:
    first, second = log.append(0, [ROWS]), log.append(None, [b"3\t\t", b"three\n"])
    assert isinstance(first, Appended)
    assert isinstance(second, Appended)
    assert (first.start, second.start) == (0, len(ROWS))
    assert content(log) == ROWS + b"3\t\tthree\n"
    assert content(logs.open("orders")) == content(log)
    assert log.modified > 0
    assert logs.names() == ["orders"]


def test_an_append_that_expects_another_end_appends_nothing(log: Log) -> None:
    log.append(0, [ROWS])
    assert isinstance(log.append(0, [b"no\t\t\n"]), Moved)
    assert isinstance(log.append(len(ROWS) + 1, [b"no\t\t\n"]), Moved)
    assert content(log) == ROWS
    assert log.is_current()


def test_rows_of_others_come_first_wherever_the_end_is(logs: Logs, log: Log) -> None:
    log.append(0, [ROWS])
    other = logs.open("orders")
    log.append(None, [b"by hand\t\t\n"])
    assert isinstance(other.append(len(ROWS), [b"no\t\t\n"]), Moved)
    appended = other.append(None, [b"3\t\tthree\n"])
    assert isinstance(appended, Appended)
    assert appended.start == len(ROWS) + len(b"by hand\t\t\n")
    assert isinstance(log.append(appended.start, [b"no\t\t\n"]), Moved)
    assert content(other) == ROWS + b"by hand\t\t\n3\t\tthree\n"


@pytest.mark.parametrize(("theirs", "ours", "fits"), [(5, 6, True), (5, 5, False), (5, 4, False)])
def test_default_ids_that_others_have_passed_are_not_appended(
    logs: Logs, log: Log, theirs: int, ours: int, fits: bool
) -> None:
    log.append(0, [ROWS])
    other = logs.open("orders")
    row = default_id(theirs) + b"\t\ttheirs\n" + b"named\t\ttheirs, too\n"
    other.append(None, [row])
    least = default_id(ours)
    appended = log.append(None, [least + b"\t\tours\n"], least)
    assert isinstance(appended, Appended) == fits
    assert content(logs.open("orders")) == ROWS + row + (least + b"\t\tours\n" if fits else b"")


# -- appending in parts ------------------------------------------------------------------------


def begun(log: Log, blocks: list[bytes], soon: bool) -> Written:
    written = log.write_soon(blocks) if soon else log.write(log.end, blocks)
    assert isinstance(written, Written)
    return written


@pytest.mark.parametrize("soon", [False, True])
def test_rows_are_the_logs_own_once_they_are_settled(
    kind: Kind, log: Log, logs: Logs, soon: bool
) -> None:
    if soon and not kind.is_written_soon:
        assert log.write_soon([ROWS]) is None
        return
    for before in (b"", ROWS):  # the first ones make the file
        modified = log.modified
        written = begun(log, [ROWS], soon)
        assert (written.start, log.end, content(log)) == (len(before), len(before), before)
        assert log.is_current(), "an append in progress is no change"
        assert log.modified == modified
        if written.to_sync:
            log.sync()
        appended = log.settle(written, 0.5)
        assert (appended.start, appended.sync_seconds) == (len(before), 0.5)
        assert content(log) == content(logs.open("orders")) == before + ROWS
        assert log.is_current()
        assert log.modified > modified
    assert log.refresh() is None
    assert isinstance(log.append(log.end, [ROWS]), Appended)


@pytest.mark.parametrize("kind", [Engine, Valkeys], indirect=True)
@pytest.mark.parametrize(
    "theirs", [[b"3\t\ttheirs\n"], 50 * [b"3\t\t" + 100 * b"x" + b"\n"], [300 * ROWS]]
)
@pytest.mark.parametrize("before", [ROWS, 1000 * ROWS, 100_000 * ROWS])
def test_what_is_written_is_read_behind_rows_of_others_before_it_is_settled(
    kind: Kind, before: bytes, theirs: list[bytes]
) -> None:
    one, mine = kind.logs().open("orders"), b"4\t\tmine\n"
    one.append(0, [before])
    other = kind.logs().open("orders")
    for rows in theirs:
        one.append(None, [rows])
    whole = before + b"".join(theirs) + mine
    written = other.write(None, [mine])
    assert isinstance(written, Written)
    assert written.start == len(whole) - len(mine)
    marks = [mark(other, place) for place in (len(whole), written.start)]
    assert marks == [crc32(whole[:place][-MARK_BYTES:]) for place in (len(whole), written.start)]
    assert other.pread(0, len(whole)) == whole
    assert other.end == len(before)
    other.settle(written, 0.0)
    assert other.pread(0, len(whole)) == whole
    assert one.refresh() is None
    assert content(one) == whole


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("before", [b"", ROWS])
def test_rows_that_could_not_be_synced_are_taken_away(
    kind: Kind, log: Log, logs: Logs, soon: bool, before: bytes
) -> None:
    if not kind.is_written_soon:
        return
    if before:
        log.append(0, [before])
    written = begun(log, [b"3\t\t", b"three\n"], soon)
    with pytest.raises(StorageError, match="could not be synced"):
        log.settle(written, 0.0, OSError(5, "Input/output error"))
    assert content(log) == content(logs.open("orders")) == before
    appended = log.append(log.end, [b"4\t\tfour\n"])
    assert isinstance(appended, Appended)
    assert appended.start == len(before)
    assert content(log) == content(logs.open("orders")) == before + b"4\t\tfour\n"
    assert log.refusal == ""


def test_nothing_is_written_soon_once_others_have_changed_the_log(
    kind: Kind, logs: Logs, log: Log
) -> None:
    if not kind.is_written_soon:
        return
    log.append(0, [ROWS])
    other = logs.open("orders")
    other.append(None, [b"by hand\t\t\n"])
    assert log.write_soon([b"no\t\t\n"]) is None
    assert log.refresh() is None
    log.settle(begun(log, [b"3\t\t\n"], soon=True), 0.0)
    for rows in (b"", b"other\t\t\n", content(log)):
        kind.replace(rows)
        assert log.write_soon([b"no\t\t\n"]) is None
        assert content(logs.open("orders")) == rows
        assert isinstance(log.append(None, [b"no\t\t\n"]), Moved)
        change = log.refresh()
        assert isinstance(change, Replaced)
        log = change.by
    begun(log, [b"4\t\t\n"], soon=True)


def test_one_party_at_a_time_may_append_or_refresh() -> None:
    kind = Files()
    log = kind.logs().open("orders")
    written = begun(log, [ROWS], soon=True)
    for call in (
        log.refresh, lambda: log.write_soon([ROWS]), lambda: log.append(None, [ROWS]),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="one party at a time"):
            call()
    log.settle(written, 0.0)
    assert log.refresh() is None
    kind.close()


# -- others ------------------------------------------------------------------------------------


def test_rows_of_others_are_taken_in_when_asked(logs: Logs, log: Log) -> None:
    log.append(0, [ROWS])
    other = logs.open("orders")
    log.append(None, [b"3\t\tthree\n"])
    assert not other.is_current()
    assert other.end == len(ROWS)
    assert other.refresh() is None
    assert other.is_current()
    assert content(other) == content(log)


@pytest.mark.parametrize(
    ("rows", "is_in"),
    [
        (b"other\t\t\n", False),
        (b"", False),
        (b"other\t\tand longer than the rows were\n", False),
        (ROWS, True),
        (ROWS + b"3\t\t\n", True),
    ],
)
def test_a_log_whose_name_has_other_rows_hands_out_the_next_one(
    kind: Kind, log: Log, rows: bytes, is_in: bool
) -> None:
    log.append(0, [ROWS])
    kind.replace(rows)
    assert not log.is_current()
    assert isinstance(log.append(None, [b"no\t\t\n"]), Moved)
    change = log.refresh()
    assert isinstance(change, Replaced)
    assert (mark(change.by, log.end) == mark(log, log.end)) == is_in
    assert content(change.by) == rows
    assert change.by.generation != log.generation
    assert change.by.is_current()
    assert content(log) == ROWS  # whoever reads it still can


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Files, Engine, Valkeys], indirect=True)
def test_rows_of_others_behind_a_byte_order_mark_are_of_a_log_that_begins_there(
    kind: Kind, logs: Logs
) -> None:
    first, second = logs.open("orders"), logs.open("orders")
    kind.replace(tsv.BOM + b"2020-01-01T00:00:00.000000Z\tone\tonly\n")
    [summary] = logs.summaries(["orders"])
    assert summary.newest_id == b"2020-01-01T00:00:00.000000Z"
    change = first.refresh()
    assert isinstance(change, Replaced)
    assert (first.end, change.by.begin) == (0, len(tsv.BOM))
    moved = second.append(None, [b"2\t\ttwo\n"])
    assert isinstance(moved, Moved)
    assert moved.end is None
    change = second.refresh()
    assert isinstance(change, Replaced)
    assert isinstance(change.by.append(None, [b"2\t\ttwo\n"]), Appended)
    assert content(change.by).startswith(b"2020-01-01T00:00:00.000000Z\t")


def test_a_read_is_whole_rows_at_most_the_limit_but_at_least_one(log: Log) -> None:
    log.append(0, [ROWS + b"x" * 1000 + b"\n"])
    end = log.end
    assert log.read(0, 13, end) == b"1\t\tone\n"
    assert log.read(0, 1, end) == b"1\t\tone\n"
    assert log.read(0, 100, 7) == b"1\t\tone\n"
    assert log.read(7, 1000, len(ROWS)) == b"2\t\ttwo\n"
    assert log.read(len(ROWS), 10, end) == b"x" * 1000 + b"\n"
    assert log.read(end, 10, end) == b""


def test_backwards_is_whole_rows_last_first(log: Log) -> None:
    rows = [b"%d\t\t%b\n" % (n, b"x" * (n * 37 % 5000)) for n in range(200)]
    rows[100] = b"100\t\t" + b"y" * 300_000 + b"\n"
    log.append(0, [b"".join(rows)])
    stop = log.end - len(rows[-1])
    blocks = list(log.backwards(stop))
    assert len(blocks) >= 5
    assert all(block.endswith(b"\n") for _, block in blocks)
    assert b"".join(block for _, block in reversed(blocks)) == b"".join(rows[:-1])
    assert all(log.read(offset, len(block), stop) == block for offset, block in blocks)


def test_bytes_go_to_a_socket_as_they_are(log: Log) -> None:
    log.append(0, [ROWS])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert log.sendfile(ours.fileno(), 3, 7) == 7
        assert theirs.recv(100) == ROWS[3:10]
        assert log.sendfile(ours.fileno(), log.end, 7) == 0
        with suppress(BlockingIOError):
            while True:
                log.sendfile(ours.fileno(), 0, len(ROWS))


def test_what_can_be_seen_without_opening(logs: Logs, log: Log) -> None:
    log.append(0, [ROWS + b"no event\n"])
    [summary] = (
        logs.summaries(["gone", "orders"])
        if isinstance(logs, Folder)
        else (logs.summaries(["orders"]))
    )
    assert summary[:3] == ("orders", log.end, b"2")
    assert abs(summary.modified - log.modified) < 10
    names = ["also", "more", "orders"]
    for name in reversed(names[:-1]):
        logs.open(name).append(0, [ROWS])
    assert [each.name for each in logs.summaries(names)] == names


# -- two appenders, and a list -----------------------------------------------------------------


class TwoAppenders(RuleBasedStateMachine):
    """Two logs of one name, as two hubs have them, against the plain list of rows."""

    kind: type[Kind]

    @initialize()
    def begin(self) -> None:
        self.place = self.kind()
        self.rows: list[bytes] = []
        self.held = [self.place.logs().open("orders") for _ in range(2)]
        self.micros = 1

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()

    def log(self, who: int) -> Log:
        change = self.held[who].refresh()
        if change:
            self.held[who] = change.by
        return self.held[who]

    def end(self) -> int:
        return sum(map(len, self.rows))

    @rule(who=st.integers(0, 1), names=st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
    def append_at_the_end(self, who: int, names: list[str]) -> None:
        rows = [f"{name}\t\tx\n".encode() for name in names]
        for _ in range(2):
            appended = self.held[who].append(None, rows)
            if isinstance(appended, Appended):
                assert appended.start == self.end()
                self.rows += rows
                return
            self.log(who)  # the name had other rows
        raise AssertionError("twice in a row nobody else has done anything")

    @rule(who=st.integers(0, 1), step=st.integers(-3, 3))
    def append_a_default_id(self, who: int, step: int) -> None:
        micros = max(self.micros + step, 1)
        least = default_id(micros)
        greatest = max((row[:27] for row in self.rows if row.startswith(b"1970")), default=b"")
        knew_all = self.held[who].is_current()
        appended = self.held[who].append(None, [least + b"\t\tx\n"], least)
        if isinstance(appended, Appended):
            # A log is asked of what others have appended; of its own rows its caller knows.
            assert knew_all or least > greatest or self.held[who].end > self.end()
            self.rows.append(least + b"\t\tx\n")
            self.micros = max(self.micros, micros)
        else:
            assert not knew_all or least <= greatest
            self.log(who)

    @rule(who=st.integers(0, 1), expected=st.integers(0, 3))
    def append_exactly(self, who: int, expected: int) -> None:
        offset = self.end() - sum(map(len, self.rows[len(self.rows) - expected :]))
        log = self.log(who)
        appended = log.append(offset, [b"exactly\t\tx\n"])
        assert isinstance(appended, Appended) == (offset == self.end())
        if isinstance(appended, Appended):
            self.rows.append(b"exactly\t\tx\n")

    @rule(keep=st.integers(0, 3), other=st.booleans())
    def replace(self, keep: int, other: bool) -> None:
        self.rows = self.rows[:keep] + [b"other\t\tx\n"] * other
        self.place.replace(b"".join(self.rows))

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        self.held[who] = self.place.logs().open("orders")

    @invariant()
    def a_fresh_look_is_the_list(self) -> None:
        if not hasattr(self, "place"):
            return
        assert content(self.place.logs().open("orders")) == b"".join(self.rows)

    @rule(who=st.integers(0, 1))
    def a_refreshed_log_is_the_list(self, who: int) -> None:
        log = self.log(who)
        assert content(log) == b"".join(self.rows)
        assert b"".join(r for _, r in reversed(list(log.backwards(log.end)))) == content(log)


class _OfFiles(TwoAppenders):
    kind = Files


class _OfMemory(TwoAppenders):
    kind = Memory


class _OfEngine(TwoAppenders):
    kind = Engine


class _OfValkey(TwoAppenders):
    kind = Valkeys


for machine, examples in (
    (_OfFiles, 60), (_OfMemory, 60), (_OfEngine, size(10, 60)), (_OfValkey, size(10, 60)),
):  # fmt: skip
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=30, deadline=None
    )
TestTwoAppendersOfEngine = _OfEngine.TestCase
TestTwoAppendersOfFiles = _OfFiles.TestCase
TestTwoAppendersOfMemory = _OfMemory.TestCase
TestTwoAppendersOfValkey = _OfValkey.TestCase
