"""One grammar of parameters: what is read, and how each thing is refused."""

import time
from typing import Any

import pytest

from esource.errors import BadInput
from esource.web import query
from esource.web.query import EVERYTHING, Kind, Pairs, Selection, pairs, parameters, parse

KINDS: dict[str, Kind[Any]] = {"id": query.ID, "event": query.TYPE, "unique": query.FLAG}
NANO = 1_000_000_000


def test_a_query_is_names_and_values() -> None:
    assert pairs("event=&id=gr%C3%B6%C3%9Fe+1&&unique") == [
        ("event", ""), ("id", "größe 1"), ("unique", None),
    ]  # fmt: skip
    assert pairs("id=größe&a%3Db=c=d".encode().decode("latin-1")) == [
        ("id", "größe"),
        ("a=b", "c=d"),
    ]
    assert pairs("") == []
    for text in ("id=%ff", "%ff=1", "id=\xff"):
        with pytest.raises(BadInput) as error:
            pairs(text)
        assert str(error.value) == "the query is not valid UTF-8"


def test_some_names_are_not_the_hubs_business() -> None:
    assert pairs("_=1&id=2&_=3", ["_"]) == [("id", "2")]


def test_parameters_are_told_by_name() -> None:
    assert parameters([("id", "größe"), ("event", ""), ("unique", None)], KINDS) == {
        "id": "größe".encode(), "event": b"", "unique": True,
    }  # fmt: skip
    assert parameters([], KINDS) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id=1&Id=2", "unknown parameter 'Id'; did you mean id? known here: id, event, unique"),
        ("evnt=a", "unknown parameter 'evnt'; did you mean event? known here: id, event, unique"),
        ("x=1", "unknown parameter 'x'; known here: id, event, unique"),
        ("x" * 4000, f"unknown parameter {'x' * 40!r}; known here: id, event, unique"),
        ("id=1&event=a&id=1", "id is given twice"),
        ("unique=", "unique is '', but must be 0 or 1"),
    ],
)
def test_others_and_repeated_ones_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInput) as error:
        parameters(pairs(text), KINDS)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("kind", "values", "refused", "what"),
    [
        (query.FLAG, {"0": False, "1": True, None: True}, ["2", "true", "01"], "0 or 1"),
        (query.one_of("text", "json"), {"text": "text"}, ["xml", "Text"], "one of text, json"),
        (query.one_of("line"), {"line": "line"}, ["lines"], "line"),
        (
            query.COUNT, {"0": 0, "007": 7, "9" * 18: 10**18 - 1},
            ["-1", "1.5", "9" * 19, "٣", "1\n", None], "a whole number of events, 0 or more",
        ),
        (query.up_to(1000), {"1": 1, "1000": 1000}, ["0", "1001", "-1", "9" * 20], "1 to 1000"),
        (
            query.SECONDS, {"0": 0.0, "1.5": 1.5},
            ["-1", "1e9", "nan", ".5", "1.", "9" * 10], "a number of seconds",
        ),
        (
            query.MOMENT, {"1970-01-02": 86_400 * NANO, "1700000000": 1_700_000_000 * NANO},
            ["now", "1y", "19700102", "-1h", "17000000000", "1h ", "1h-2m", "1m" * 6],
            "a time such as 2026-01-31T10:00Z, a duration such as 15m, 1h30m, 7d, or ten digits: "
            "seconds since 1970",
        ),
    ],
)  # fmt: skip
def test_a_value_is_read_or_refused_and_so_is_an_empty_one(
    kind: Kind[Any], values: dict[str | None, Any], refused: list[str | None], what: str
) -> None:  # fmt: skip
    for text, value in values.items():
        assert kind("name", text) == value
    for text in [*refused, ""]:
        with pytest.raises(BadInput) as error:
            kind("name", text)
        assert str(error.value) == f"name is {text or ''!r}, but must be {what}"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("1w", 604_800), ("1h30m", 5400)],
)
def test_a_duration_is_so_long_ago(text: str, seconds: int) -> None:
    before = time.time_ns()
    since = query.MOMENT("since", text)
    assert before <= since + seconds * NANO <= time.time_ns()


# -- reads ---------------------------------------------------------------------------------


def test_a_selection_says_what_the_query_says() -> None:
    assert parse([]) is EVERYTHING
    assert EVERYTHING.is_whole
    given: Pairs = [
        ("after", "ä"), ("since", "1970-01-01"), ("tail", "3"), ("event", "a"), ("limit", "5"),
        ("event", ""), ("follow", None), ("timeout", "1.5"), ("format", "sse"),
    ]  # fmt: skip
    wanted = parse(given)
    assert wanted == Selection(
        after="ä".encode(), since=0, tail=3, types=frozenset([b"a", b""]), limit=5, follow=True,
        timeout=1.5, format="sse",
    )  # fmt: skip
    assert not wanted.is_whole


def test_a_type_that_ends_a_read_is_one_of_those_it_is_sent() -> None:
    assert parse([("until", "z")]) == Selection(until=b"z")
    assert not parse([("until", "z")]).is_whole
    assert parse([("until", "z"), ("event", "a")]).types == frozenset([b"a", b"z"])
    assert parse([("from", "ä"), ("prime", None)]) == Selection(newest="ä".encode(), prime=True)


def test_a_bound_is_an_id_and_may_be_a_time() -> None:
    assert parse([("before", "1")]).before == (b"1", None)
    assert parse([("before", "1970-01-02")]).before == (b"1970-01-02", 86_400 * NANO)
    assert parse([("before", "1700000000")]).before == (b"1700000000", 1_700_000_000 * NANO)
    for text, moves in {"15m": True, "1970-01-02": False, "1": False}.items():
        assert parse([("before", text)]).moves == moves


def test_seconds_of_a_read_have_bounds() -> None:
    for name, least, most in (("wait", 0, 300), ("heartbeat", 1, 3600)):
        for seconds in (least, most, 1.5):
            assert getattr(parse([(name, f"{seconds}")]), name) == seconds
        for text in ("", "-1", f"{most}.1", "0.5" if least else "301", "nan", "1m"):
            with pytest.raises(BadInput):
                parse([(name, text)])


@pytest.mark.parametrize("name", query.RESUME_PARAMETERS)
def test_of_the_places_where_the_client_has_got_to_the_last_one_counts(name: str) -> None:
    other = next(each for each in query.RESUME_PARAMETERS if each != name)
    assert parse([(other, "1"), (name, "2"), (name, "3"), (other, "")]) == Selection(resume=b"3")
    assert parse([(name, "1"), ("after", "2")]) == Selection(resume=b"1", after=b"2")


def test_an_empty_place_to_start_after_is_not_none() -> None:
    assert parse([("after", "")]) == Selection(after=b"")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            [("id", "1")],
            f"unknown parameter 'id'; known here: {', '.join(query.READ_KINDS)}",
        ),
        ([("tail", "1"), ("tail", "1")], "tail is given twice"),
        ([("event", "a\tb")], "event holds a control character (tab, line break, …)"),
        ([("tail", "")], "tail is '', but must be a whole number of events, 0 or more"),
        ([("follow", "yes")], "follow is 'yes', but must be 0 or 1"),
        (
            [("format", "xml")],
            "format is 'xml', but must be one of tsv, sse, sse-json, ndjson, json, raw",
        ),
    ],
)
def test_a_read_that_makes_no_sense_is_refused(given: Pairs, reason: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(given)
    assert str(error.value) == reason
