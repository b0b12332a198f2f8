"""Rows and events, and which rows of many: each function against a plain list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esource.event import Event, default_id, micros_of
from esource.rows import tsv
from esource.rows.tsv import Draft
from tests.rows.strategies import events, is_event, rows

TYPES = frozenset([b"a"])


@given(st.lists(events))
def test_rows_round_trip(many: list[Event]) -> None:
    block = b"".join(map(tsv.encode, many))
    assert block.count(b"\n") == len(many)
    assert list(tsv.decode(block)) == many


@given(st.binary())
def test_a_row_is_an_event_with_two_tabs_and_every_function_says_the_same(junk: bytes) -> None:
    block = junk + b"\n"
    each = block.splitlines(keepends=True) if b"\r" not in junk else None
    others: list[bytes] = []
    found = list(tsv.split(block, others))
    assert len(found) + len(others) == block.count(b"\n")
    assert all(b"\t".join(fields).count(b"\t") >= 2 for fields in found)
    assert not any(tsv.is_event(row) for row in others)
    assert [fields[0] for fields in found] == [match[1] for match in tsv.BEGINNING.finditer(block)]
    assert [block[place:].partition(b"\n")[0] for place in tsv.malformed(block)] == others
    assert [event.data for event in tsv.decode(block)] == [tsv.unfold(data) for _, _, data in found]
    columns = tsv.plain(block)
    if columns:
        assert [list(fields) for fields in zip(*columns, strict=True)] == found
        assert each is None or all(row.count(b"\t") == 2 for row in each)


def test_rows_are_plain_without_third_tabs_and_line_breaks() -> None:
    assert tsv.plain(b"1\ta\tx\n2\t\ty\n", end=b"!") == ([b"1", b"2"], [b"a", b""], [b"x!", b"y!"])
    assert tsv.plain(b"") == ([], [], [])
    for row in (b"1\ta\tx\ty\n", b"1\ta\tx\x0by\n", b"1\ta\tx\r\n", b"1\ta\n", b"\n"):
        assert tsv.plain(b"1\ta\tx\n" + row) is None
    assert tsv.plain(b"1\ta\n2\t\ty\tz\n") is None  # as many tabs as two plain rows


def test_raw_is_the_data_of_each_event_with_a_line_end() -> None:
    others: list[bytes] = []
    assert tsv.encode_raw(b"1\t\tx\n2\t\ty\n", others) == b"x\ny\n"
    assert not others
    assert tsv.encode_raw(b"1\t\ta\x0bb\tc\r\nno event\n2\t\t\n", others) == b"a\nb\tc\n\n"
    assert others == [b"no event"]


# -- drafts --------------------------------------------------------------------------------


@given(rows)
def test_a_draft_of_rows_says_what_is_in_them(each: list[bytes]) -> None:
    each = list(filter(is_event, each))
    ids = [tsv.id_of(row) for row in each]
    times = [micros for id in ids if (micros := micros_of(id)) is not None]
    assert Draft.of(b"".join(each)) == Draft(
        b"".join(each), len(each), ids.count(b""), max(times, default=None)
    )


@given(rows, st.integers(0, 2 * 10**15))
def test_a_stamp_gives_ids_to_those_without_and_leaves_the_others(
    each: list[bytes], micros: int
) -> None:
    each = list(filter(is_event, each))
    stamped = tsv.stamp(Draft.of(b"".join(each)), micros).splitlines(keepends=True)
    given = [
        row.removesuffix(old)
        for row, old in zip(stamped, each, strict=True)
        if row != old or old.startswith(b"\t")
    ]
    assert given == [default_id(micros + n) for n in range(len(given))]
    assert all(tsv.id_of(row) for row in stamped)
    assert [row for row in stamped if row in each] == [row for row in each if row[:1] != b"\t"]


@pytest.mark.parametrize("first", [0, 1, 999, 1000, 1577836799_999_998, 1577836799_998_000])
def test_a_stamp_of_thousands_counts_on_over_milliseconds_and_seconds(first: int) -> None:
    rows = [b"\ttype\t%d" % n for n in range(2500)]
    stamped = tsv.stamp(Draft.of(b"\n".join([*rows, b""])), first)
    assert stamped == b"".join(
        b"%b%b\n" % (default_id(first + n), row) for n, row in enumerate(rows)
    )


@pytest.mark.parametrize("id", [b"", b"own", b"2020-01-01T12:00:00.000000Z"])
def test_a_draft_of_one_event_is_that_of_its_row(id: bytes) -> None:
    event = Event(id, b"t", b"two\nlines")
    assert tsv.draft(event) == Draft.of(tsv.encode(event))


def test_the_newest_time_is_the_greatest_of_default_ids_alone() -> None:
    newest = b"2020-01-02T00:00:00.000000Z"
    block = (
        b"2020-01-01T00:00:00.000000Z\t\t\n%b\t\t\n2020-01-01T12:00:00.000000Z\t\t\n"
        b"2999-01-01\t\t\n2020-13-01T00:00:00.000000Z\t\t\n9\t\t2020-01-03T00:00:00.00000Z\t\n"
    )
    assert tsv.newest_micros(block % newest) == micros_of(newest)
    assert tsv.newest_micros(b"2999-01-01\t\t\n\t\tx\n") is None
    assert tsv.newest_micros(b"") is None


# -- some of the rows ----------------------------------------------------------------------


def type_of(row: bytes) -> bytes:
    return row.split(b"\t")[1]


@given(rows)
def test_of_types_are_the_events_of_these_types(each: list[bytes]) -> None:
    kept = [row for row in each if is_event(row) and type_of(row) in TYPES]
    assert tsv.of_types(b"".join(each), TYPES) == b"".join(kept)


wide = st.lists(st.lists(st.sampled_from([b"", b"a", b"b"]), min_size=1, max_size=6), max_size=6)


@given(wide)
def test_types_are_those_of_the_events(each: list[list[bytes]]) -> None:
    found = tsv.types(b"".join(b"\t".join(fields) + b"\n" for fields in each))
    expected = {fields[1] for fields in each if len(fields) > 2}
    assert found >= expected
    # Where some rows have no tab and others four, there may be more.
    assert found == expected or {1, 5} <= {len(fields) for fields in each}


@given(rows, st.integers(0, 5))
def test_first_is_up_to_the_last_event_of_so_many(each: list[bytes], limit: int) -> None:
    kept: list[bytes] = []
    for row in each:
        if sum(map(is_event, kept)) == limit:
            break
        kept.append(row)
    assert tsv.first(b"".join(each), limit) == (b"".join(kept), sum(map(is_event, kept)))


@given(rows, st.integers(0, 5), st.sampled_from([frozenset(), TYPES]))
def test_last_is_from_the_first_event_of_so_many(
    each: list[bytes], limit: int, types: frozenset[bytes]
) -> None:
    counts = [is_event(row) and (not types or type_of(row) in types) for row in each]
    start = len(each)
    while start > 0 and sum(counts[start:]) < limit:
        start -= 1
    place, found = tsv.last(b"".join(each), limit, types)
    assert (place, found) == (sum(map(len, each[:start])), sum(counts[start:]))


@given(rows, st.sampled_from([b"a", b"b", b"one tab"]))
def test_until_is_up_to_the_first_event_of_a_type(each: list[bytes], type: bytes) -> None:
    are_last = [is_event(row) and type_of(row) == type for row in each]
    end = are_last.index(True) + 1 if any(are_last) else len(each)
    assert tsv.until(b"".join(each), type) == (b"".join(each[:end]), any(are_last))


def test_until_is_told_by_the_type_and_not_by_data() -> None:
    block = b"1\tx\tdata\ta\t\nno\n\ta\n\t\ta\t\n2\ta\t\n3\ta\tz\n"
    assert tsv.until(block, b"a") == (block[: block.index(b"3")], True)
    assert tsv.until(b"a\ta\ta\n", b"a") == (b"a\ta\ta\n", True)
    assert tsv.until(b"", b"a") == (b"", False)


def test_until_passes_over_a_long_row_at_once() -> None:
    row = b"1\tx" + b"\ta\t" * (1 << 21) + b"\n"  # 8 MiB; at each of them again it took hours
    assert tsv.until(row + b"2\ta\t\n", b"a") == (row + b"2\ta\t\n", True)


@given(rows, st.sampled_from([b"", b"a", b"1"]))
def test_of_an_id_are_the_events_that_have_it(each: list[bytes], id: bytes) -> None:
    place, expected = 0, []
    for row in each:
        if is_event(row) and row.split(b"\t")[0] == id:
            expected.append((place, len(row)))
        place += len(row)
    assert list(tsv.of_id(b"".join(each), id)) == expected


@given(events)
def test_an_erased_row_keeps_length_and_id_and_nothing_else(event: Event) -> None:
    row = tsv.encode(event)
    erased = tsv.erased(event.id, len(row))
    (left,) = tsv.decode(erased)
    assert len(erased) == len(row)
    assert left.id == event.id
    assert b"erased".startswith(left.type)
    assert left.data.strip(b" ") == b""
    assert left.type == b"erased" or left.data == b""
