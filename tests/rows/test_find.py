"""Where a reader goes on, in rows and in zones; the whole search is in `test_channel`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.event import default_id, time_of
from esource.rows import find, tsv
from tests.rows.strategies import TIMES, ids, is_event, one_row, rows

ROWS = b"a\t\t1\nb\t\t2\na\t\t3\nbroken\nb\tx\nc\t\t4\n"


def test_after_an_id_is_after_its_first_event() -> None:
    assert find.after_id(ROWS, b"a") == len(b"a\t\t1\n")
    assert find.after_id(ROWS, b"b") == len(b"a\t\t1\nb\t\t2\n")
    assert find.after_id(ROWS, b"c") == len(ROWS)


def test_a_row_that_is_not_an_event_has_no_id() -> None:
    assert find.after_id(b"x\tone tab\nx\t\tevent\ny\t\t\n", b"x") == len(
        b"x\tone tab\nx\t\tevent\n"
    )
    assert find.after_id(ROWS, b"broken") is None


def test_no_other_text_is_taken_for_an_id() -> None:
    for id in (b"", b"1", b"a\t", b"a\t\t1", b"a\nb", b"A", b"\t"):
        assert find.after_id(ROWS, id) is None


def test_later_than_a_time_is_the_first_event_of_a_later_time_whatever_comes_between() -> None:
    rows = b"2020-01-02\t\t\nzzz\t\t\n2020-01-05T00:00Z\t\t\n2020-01-03\t\t\n"
    time = time_of(b"2020-01-02")
    assert time is not None
    assert find.later_than(rows, time - 1) == 0
    assert find.later_than(rows, time) == rows.index(b"2020-01-05")
    assert find.later_than(rows, time + 10**18) is None


moments = st.sampled_from([time for id in TIMES if (time := time_of(id)) is not None]).flatmap(
    lambda time: st.integers(time - 1, time + 1)
)


@given(rows, ids)
def test_after_an_id_as_a_scan_says(each: list[bytes], id: bytes) -> None:
    expected, end = None, 0
    for row in each:
        end += len(row)
        if expected is None and id and is_event(row) and tsv.id_of(row) == id:
            expected = end
    assert find.after_id(b"".join(each), id) == expected


def later_in(each: list[bytes], time: int) -> int | None:
    offset = 0
    for row in each:
        if is_event(row) and (time_of(tsv.id_of(row)) or time) > time:
            return offset
        offset += len(row)
    return None


@given(rows, moments)
def test_later_than_a_time_as_a_scan_says(each: list[bytes], time: int) -> None:
    assert find.later_than(b"".join(each), time) == later_in(each, time)


def is_uniform(block: bytes) -> bool:
    each = block.split(b"\n")[:-1]
    return find.are_uniform(each, max(each))


default_ids = st.integers(-5, 5).map(lambda n: default_id(1577880000_000000 + n))
uniform = st.lists(
    st.tuples(default_ids, st.sampled_from([b"\t\tx\n", b"\tone tab\n"])), min_size=1
)


@given(uniform, st.integers(-6000, 6000))
def test_later_than_among_default_ids_in_any_order_as_a_scan_says(
    pairs: list[tuple[bytes, bytes]], nanos: int
) -> None:
    each = [id + rest for id, rest in pairs]
    time = 1577880000_000000000 + nanos
    assert is_uniform(b"".join(each))
    assert find.later_than(b"".join(each), time) == later_in(each, time)


@given(
    st.lists(one_row, min_size=1, max_size=6)
    | uniform.map(lambda pairs: list(map(b"".join, pairs))),
    ids,
    moments,
)
def test_a_zone_never_excludes_a_place(each: list[bytes], id: bytes, time: int) -> None:
    block = b"".join(each)
    zone = find.zone(100, block)
    assert (zone.offset, zone.end) == (100, 100 + len(block))
    assert zone.admits_id(id) or find.after_id(block, id) is None
    assert zone.admits_later(time) or find.later_than(block, time) is None


def test_a_zone_of_default_ids_excludes_others_and_all_that_is_later() -> None:
    zone = find.zone(0, b"".join(default_id(n) + b"\t\tx\n" for n in range(10, 20)))
    assert [n for n in range(30) if zone.admits_id(default_id(n))] == list(range(10, 20))
    assert [n for n in range(30) if zone.admits_later(n * 1000)] == list(range(19))
    assert not zone.admits_id(b"a")


few_rows = st.lists(one_row, min_size=1, max_size=3).map(b"".join)


@given(few_rows, few_rows, st.frozensets(st.sampled_from([b"", b"a", b"one tab"])))
def test_a_zone_never_excludes_an_event_of_a_type(
    one: bytes, two: bytes, types: frozenset[bytes]
) -> None:
    joined = find.zone(0, one).joined(find.zone(len(one), two))
    assert (joined.offset, joined.end) == (0, len(one + two))
    for zone, block in ((find.zone(0, one), one), (joined, one + two)):
        assert zone.admits_types(types) or not tsv.of_types(block, types)


one_type_or_more = st.lists(
    st.sampled_from([b"\ta\tx\n", b"\ta\t\n"])
    | st.sampled_from([b"\t\tx\n", b"\tab\tx\n", b"\tone tab\n", b"\ta\tx\ty\n", b"\t\n"]),
    min_size=1,
    max_size=4,
) | st.lists(st.sampled_from([b"\ta1\tx\n", b"\ta2\tx\n"]), min_size=1, max_size=4)


@given(one_type_or_more)
def test_a_zone_of_default_ids_has_the_types_of_its_events(rests: list[bytes]) -> None:
    rows = b"".join(default_id(n) + rest for n, rest in enumerate(rests))
    types = frozenset(event.type for event in tsv.decode(rows))
    assert find.zone(0, rows).types == types


OTHER_IDS = [
    b"2020-01-01T12:00:00.00000Z", b"2020-01-01T12:00:00.0000000Z", b"2020-01-01T12:00:00.000000z",
    b"9500-01-01T12:00:00.000000Z", b"", b"2020-01-01T12:00:00.000000", b"2020-01-01T12:0a:00.000Z",
]  # fmt: skip


@pytest.mark.parametrize("other", OTHER_IDS)
def test_rows_are_uniform_if_each_begins_with_a_default_id(other: bytes) -> None:
    own, foreign = default_id(1577880000_000000) + b"\t\tx\n", other + b"\t\tx\n"
    assert is_uniform(own * 3)
    for block in (foreign + own, own + foreign, own + foreign + own, foreign):
        assert not is_uniform(block)
    assert not is_uniform(own + own[:-3].replace(b"\t", b"") + b"\n")


@given(st.integers(1, 400), st.integers(0, 399), st.sampled_from(OTHER_IDS))
def test_one_row_among_many_that_begins_otherwise_is_seen(
    count: int, place: int, other: bytes
) -> None:
    each = [default_id(1577880000_000000 + n) + b"\ta\tx\n" for n in range(count)]
    assert is_uniform(b"".join(each))
    assert find.zone(0, b"".join(each)).types == frozenset([b"a"])
    place %= count
    each[place] = each[place].replace(b"\ta\t", b"\tb\t")
    assert find.zone(0, b"".join(each)).types == frozenset([b"a", b"b"][count == 1 :])
    each[place] = other + b"\ta\tx\n"
    assert not is_uniform(b"".join(each))


def test_a_zone_excludes_types_that_it_does_not_have_if_it_has_few() -> None:
    def of(*types: bytes) -> find.Zone:
        return find.zone(0, b"".join(b"\t%b\t\n" % type for type in types))

    def many(first: int, end: int, size: int = 3) -> find.Zone:
        return of(*(b"%0*d" % (size, n) for n in range(first, end)))

    other = frozenset([b"other"])
    assert not of(b"a", b"b").admits_types(other)
    assert not of(b"a").joined(of(b"b")).admits_types(other)
    assert of(b"a").joined(of(b"other")).admits_types(other)
    assert of(b"a").admits_types(frozenset())  # which is every type
    most = find.MOST_TYPES
    assert not many(0, most).admits_types(other)
    assert not many(0, most - 9).joined(many(9, most)).admits_types(other)
    for zone in (
        many(0, most + 1), many(0, 2, find.MOST_TYPE_BYTES),
        many(0, most - 9).joined(many(most - 9, most + 1)), many(0, most + 1).joined(of(b"a")),
    ):  # fmt: skip
        assert zone.types is None  # or it would take memory
        assert zone.admits_types(other)


def test_an_id_longer_than_a_zone_keeps_is_looked_for_in_vain_or_found() -> None:
    long = b"x" * (find.PREFIX_BYTES + 10)
    zone = find.zone(0, long + b"\t\tdata\n")
    assert zone.admits_id(long)
    assert zone.admits_id(long + b"more")
