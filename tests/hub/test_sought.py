"""Searches that begin together: each finds what it finds alone, and what is read is read once."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.errors import StorageError
from esource.event import default_id
from esource.hub import sought
from esource.hub.sought import Sought
from esource.log import index
from esource.log.memory import MemoryLog, MemoryLogs
from esource.rows import find
from esource.rows.find import Wanted

ROWS = [b"%b\ta\tdata\n" % default_id(1577880000_000000 + n) for n in range(200)]
ENDS = [sum(map(len, ROWS[: n + 1])) for n in range(len(ROWS))]
PIECE = 128


@pytest.fixture(scope="module", autouse=True)
def small_zones() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "ZONE_BYTES", 512)
        patch.setattr(index, "MANY", 4)
        yield


class Read(MemoryLog):
    """A log that notes which pieces were read, and fails where it is told to."""

    def __init__(self, rows: list[bytes]) -> None:
        super().__init__(MemoryLogs(), "orders")
        self.append(None, rows)
        self.pieces: list[tuple[int, int, int]] = []
        self.bad: range = range(0)
        self.is_lost = False  # what is known of it

    def read(self, offset: int, limit: int, stop: int) -> bytes:
        self.pieces.append((offset, limit, stop))
        if offset in self.bad:
            raise StorageError("cannot read it")
        return super().read(offset, limit, stop)

    def places(
        self, wanted: Wanted, start: int, stop: int, is_backwards: bool = False
    ) -> Iterator[tuple[int, int]]:
        for part in super().places(wanted, start, stop, is_backwards):
            if self.is_lost:
                raise StorageError("cannot read what is known")
            yield part


def for_id(log: MemoryLog, id: bytes, end: int | None = None) -> Sought:
    def place_in(rows: bytes) -> int | None:
        return find.after_id(rows, id)

    return Sought(log, Wanted(id=id), log.end if end is None else end, place_in, PIECE, lambda: 0)


def learn(log: MemoryLog, stop: int) -> None:
    for _ in log.learn(stop):
        pass


def begun(log: MemoryLog, searches: list[Sought]) -> list[Sought]:
    return [each for some in sought.begin(log, searches) for each in some]


def go_on(search: Sought) -> int | None:
    while not search.is_over:
        search.step(1e12)
    return search.found


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 35), st.floats(0, 1)), max_size=20),
    st.floats(0, 1), st.booleans(),
)  # fmt: skip
def test_each_of_many_finds_the_first_event_with_its_id_up_to_its_own_end(
    numbers: list[int], wanted: list[tuple[int, float]], known: float, are_slow: bool
) -> None:
    """Ids in no order, and some several times; learned in part, or not at all."""
    ids = [b"id-%d" % (number * 617 % 1009) for number in range(36)]
    rows = [b"%b\ta\tdata\n" % ids[number] for number in numbers]
    log = Read(rows)
    learn(log, int(known * log.end))
    expected, searches = [], []
    for number, part in wanted:
        end = len(b"".join(rows[: int(part * len(rows))]))
        searches.append(for_id(log, ids[number], end))
        found = find.after_id(b"".join(rows)[:end], ids[number])
        expected.append(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sought, "BEGIN_SECONDS", 0.0 if are_slow else 1e12)
        assert sorted(map(id, begun(log, searches))) == sorted(map(id, searches))
        assert are_slow or all(each.is_over for each in searches)
    assert [go_on(each) for each in searches] == expected


@pytest.mark.parametrize("is_known", [True, False])
def test_many_read_each_piece_once(monkeypatch: pytest.MonkeyPatch, is_known: bool) -> None:
    """Those, too, whose id is not where it could be, which look on behind what is known."""
    monkeypatch.setattr(sought, "BEGIN_SECONDS", 1e12)
    log = Read(ROWS)
    learn(log, log.end if is_known else 0)
    numbers = [n * 77 % 200 for n in range(200)]
    ids = [ROWS[n].split(b"\t")[0] for n in numbers]
    searches = [for_id(log, id + end) for id in ids for end in (b"", b"x")]
    begun(log, searches)
    assert [each.found for each in searches[::2]] == [ENDS[n] for n in numbers]
    assert {each.found for each in searches[1::2]} == {None}
    assert len(log.pieces) == len(set(log.pieces))


def test_one_that_takes_long_goes_on_by_itself_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sought, "BEGIN_SECONDS", 0.0)
    log = Read(ROWS)
    searches = [for_id(log, b"none"), for_id(log, b"none")]
    assert len(begun(log, searches)) == 2
    before = len(log.pieces)
    assert before < 5
    assert go_on(searches[0]) is None
    assert len(log.pieces) < before + log.end // 100


def test_one_that_fails_does_so_where_it_goes_on_and_the_others_do_not() -> None:
    log = Read(ROWS)
    learn(log, log.end)
    log.bad = range(ENDS[90], ENDS[110])
    searches = [for_id(log, ROWS[n].split(b"\t")[0]) for n in (10, 100, 190)]
    assert len(begun(log, searches)) == 3
    assert [each.found for each in searches] == [ENDS[10], None, ENDS[190]]
    with pytest.raises(StorageError):
        go_on(searches[1])
    log.bad = range(0)  # it can be read again
    assert go_on(searches[1]) == ENDS[100]


def test_what_is_known_of_a_log_may_be_read_at_the_second_try() -> None:
    log = Read(ROWS)
    log.is_lost = True
    search = for_id(log, ROWS[100].split(b"\t")[0])
    assert begun(log, [search]) == [search]
    assert not search.is_over
    with pytest.raises(StorageError):
        search.step(1e12)
    log.is_lost = False
    assert go_on(search) == ENDS[100]


def test_what_is_learned_meanwhile_leaves_less_to_be_looked_at() -> None:
    log, taught = Read(ROWS), 0
    id = ROWS[190].split(b"\t")[0]
    search = Sought(
        log, Wanted(id=id), log.end, lambda rows: find.after_id(rows, id), PIECE, lambda: taught
    )
    search.begin(None)
    search.begin(log.read(0, PIECE, log.end))
    learn(log, log.end)
    taught = log.end
    log.pieces.clear()
    assert go_on(search) == ENDS[190]
    assert len(log.pieces) < 8
