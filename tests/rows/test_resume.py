"""Where a reader goes on, in a block of rows; the whole search is in `test_channel`."""

from hypothesis import given
from hypothesis import strategies as st

from esource.event import time_of
from esource.rows import resume, tsv

ROWS = b"a\t\t1\nb\t\t2\na\t\t3\nbroken\nb\tx\nc\t\t4\n"


def test_after_an_id_is_after_its_first_event() -> None:
    assert resume.after_id(ROWS, b"a") == len(b"a\t\t1\n")
    assert resume.after_id(ROWS, b"b") == len(b"a\t\t1\nb\t\t2\n")
    assert resume.after_id(ROWS, b"c") == len(ROWS)


def test_a_row_that_is_not_an_event_has_no_id() -> None:
    assert resume.after_id(b"x\tone tab\nx\t\tevent\ny\t\t\n", b"x") == len(
        b"x\tone tab\nx\t\tevent\n"
    )
    assert resume.after_id(ROWS, b"broken") == -1


def test_no_other_text_is_taken_for_an_id() -> None:
    for id in (b"", b"1", b"a\t", b"a\t\t1", b"a\nb", b"A", b"\t"):
        assert resume.after_id(ROWS, id) == -1


def test_later_than_a_time_is_the_first_event_of_a_later_time_whatever_comes_between() -> None:
    rows = b"2020-01-02\t\t\nzzz\t\t\n2020-01-05T00:00Z\t\t\n2020-01-03\t\t\n"
    time = time_of(b"2020-01-02")
    assert time is not None
    assert resume.later_than(rows, time - 1) == 0
    assert resume.later_than(rows, time) == rows.index(b"2020-01-05")
    assert resume.later_than(rows, time + 10**18) == -1


ids = st.sampled_from([b"", b"a", b"aa", b"b", b"2020-01-01", b"2020-01-02", b"2020-01-01T12:00Z"])
texts = st.sampled_from([b"%b\t\tdata\n", b"%b\ta\tdata\ta\n", b"%b\n", b"%b\tone tab\n"])


@given(st.lists(st.tuples(ids, texts)), ids, st.integers(0, 2))
def test_as_a_plain_list_says(rows: list[tuple[bytes, bytes]], id: bytes, day: int) -> None:
    block = b"".join(text % row_id for row_id, text in rows)
    after = later = -1
    offset = 0
    time = 1577836800_000000000 + (day - 1) * 86400_000000000
    for row_id, text in rows:
        row = text % row_id
        if list(tsv.decode(row)):
            if row_id == id and id and after < 0:
                after = offset + len(row)
            if later < 0 and (time_of(row_id) or 0) > time:
                later = offset
        offset += len(row)
    assert resume.after_id(block, id) == after
    assert resume.later_than(block, time) == later
