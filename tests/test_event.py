import pytest

from esource.errors import BadInput
from esource.event import MAX_ID_BYTES, check_data, check_id, default_id, micros_of, time_of

NANO = 1_000_000_000


def test_a_default_id_is_utc_of_fixed_width_with_microseconds() -> None:
    assert default_id(0) == b"1970-01-01T00:00:00.000000Z"
    assert default_id(1_491_392_410_793_000) == b"2017-04-05T11:40:10.793000Z"


def test_default_ids_sort_as_times_and_as_bytes_and_read_back() -> None:
    times = [0, 1, 999_999, 1_000_000, 1_491_392_410_793_000, 4_102_444_800_000_000]
    ids = [default_id(time) for time in times]
    assert ids == sorted(ids)
    assert [micros_of(id) for id in ids] == times


@pytest.mark.parametrize(
    "id",
    [b"", b"0", b"2017-04-05", b"2017-04-05T11:40:10.793Z", b"2017-04-05T11:40:10.793000Z ",
     b"2017-13-05T11:40:10.793000Z", b"9999-12-31T23:59:59.999999Z",
     b"9500-01-01T00:00:00.000000Z"],
)  # fmt: skip
def test_other_ids_are_no_default_ids(id: bytes) -> None:
    assert micros_of(id) is None


@pytest.mark.parametrize(
    ("id", "seconds"),
    [
        (b"1970-01-02", 86_400),
        (b"1970-01-01T01:00Z", 3600),
        (b"1970-01-01T01:00:01Z", 3601),
        (b"1970-01-01 01:00", 3600),
        (b"1970-01-01t01:00z", 3600),
        (b"1970-01-01T01:00:00.5Z", 3600.5),
        (b"1970-01-01T01:00:00,25Z", 3600.25),
        (b"1970-01-01T02:00+01:00", 3600),
        (b"1970-01-01T02:00 01:00", 3600),  # a + that a query string made a space
        (b"1969-12-31T23:00-0200", 3600),
        (b"1970-01-01T01:00:00.000000001Z", 3600.000000001),
    ],
)
def test_a_time_is_iso_8601_of_at_least_a_full_date(id: bytes, seconds: float) -> None:
    assert time_of(id) == round(seconds * NANO)


@pytest.mark.parametrize(
    "id",
    [b"", b"0", b"1970", b"1970-01", b"19700101", b"1970-1-1", b"1970-02-30", b"1970-01-01T25:00",
     b"1970-01-01T01", b"1970-01-01Z", b"1970-01-01T01:00:60Z", b"x1970-01-01", b"1970-01-01\n",
     "１９70-01-01".encode()],
)  # fmt: skip
def test_anything_else_is_no_time(id: bytes) -> None:
    assert time_of(id) is None


def test_line_breaks_become_lf() -> None:
    assert check_data(b"a\r\nb\rc\nd\r\n") == b"a\nb\nc\nd\n"


def test_other_separators_are_data() -> None:
    data = "a\u2028b\u0085c\x0cd\te".encode()
    assert check_data(data) == data


@pytest.mark.parametrize("char", ["\0", "\t", "\n", "\x1f", "\x7f", "\x80", "\x9f"])
def test_control_characters_in_an_id_are_refused(char: str) -> None:
    with pytest.raises(BadInput):
        check_id(f"a{char}b")


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u2003"])
def test_spaces_at_the_edge_of_an_id_are_refused_and_within_are_not(space: str) -> None:
    assert check_id(f"a{space}b") == f"a{space}b".encode()
    for text in (space + "a", "a" + space, space):
        with pytest.raises(BadInput):
            check_id(text)


@pytest.mark.parametrize("text", ["x", "ä"])
def test_the_limit_of_an_id_is_in_bytes(text: str) -> None:
    most = text * (MAX_ID_BYTES // len(text.encode()))
    assert check_id(most) == most.encode()
    with pytest.raises(BadInput, match="over the limit"):
        check_id(most + "x")
