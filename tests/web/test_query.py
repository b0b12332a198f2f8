"""One grammar of parameters: what is read, and how each thing is refused."""

import time
from typing import Any

import pytest

from esource.errors import BadInput
from esource.web import query
from esource.web.query import EVERYTHING, Selection, parameters, parse

ALLOWED = ("id", "event")
NANO = 1_000_000_000


def test_parameters_are_told_by_name() -> None:
    assert parameters("event=&id=gr%C3%B6%C3%9Fe+1", ALLOWED) == {
        "event": "", "id": "größe 1",
    }  # fmt: skip
    assert parameters("id=größe".encode().decode("latin-1"), ALLOWED) == {"id": "größe"}
    assert parameters("", ALLOWED) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id=1&Id=2", "unknown parameter 'Id'; allowed here: id, event"),
        ("id=1&event=a&id=1", "id is given twice"),
        ("id=%ff", "the query is not valid UTF-8, or has too many parameters"),
    ],
)
def test_others_and_repeated_ones_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInput) as error:
        parameters(text, ALLOWED)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("kind", "values", "refused", "what"),
    [
        (query.FLAG, {"0": False, "1": True}, ["2", "true", "01"], "0 or 1"),
        (query.one_of("text", "json"), {"text": "text"}, ["xml", "Text"], "one of text, json"),
        (query.one_of("line"), {"line": "line"}, ["lines"], "line"),
        (
            query.COUNT, {"0": 0, "007": 7, "9" * 18: 10**18 - 1},
            ["-1", "1.5", "9" * 19, "٣", "1\n"], "a whole number of events, 0 or more",
        ),
        (query.up_to(1000), {"1": 1, "1000": 1000}, ["0", "1001", "-1", "9" * 20], "1 to 1000"),
        (
            query.SECONDS, {"0": 0.0, "1.5": 1.5},
            ["-1", "1e9", "nan", ".5", "1.", "9" * 10], "a number of seconds",
        ),
        (
            query.MOMENT, {"1970-01-02": 86_400 * NANO}, ["now", "1w", "19700102", "-1h"],
            "a time such as 2026-01-31T10:00Z, or a duration such as 90s, 15m, 24h, 7d",
        ),
    ],
)  # fmt: skip
def test_a_value_is_read_or_refused_and_an_empty_one_is_none_at_all(
    kind: query.Kind[Any], values: dict[str, Any], refused: list[str], what: str
) -> None:  # fmt: skip
    assert kind({}, "name") is kind({"name": ""}, "name") is None
    for text, value in values.items():
        assert kind({"name": text}, "name") == value
    for text in refused:
        with pytest.raises(BadInput) as error:
            kind({"name": text}, "name")
        assert str(error.value) == f"name is {text!r}, but must be {what}"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_a_duration_is_so_long_ago(text: str, seconds: int) -> None:
    before = time.time_ns()
    since = query.MOMENT({"since": text}, "since")
    assert since is not None
    assert before <= since + seconds * NANO <= time.time_ns()


# -- reads ---------------------------------------------------------------------------------


def test_a_selection_says_what_the_query_says() -> None:
    assert parse([]) is EVERYTHING
    assert EVERYTHING.is_whole
    pairs = [
        ("after", "ä"), ("since", "1970-01-01"), ("tail", "3"), ("event", "a"), ("limit", "5"),
        ("event", ""), ("follow", "0"), ("timeout", "1.5"), ("format", "sse"),
    ]  # fmt: skip
    wanted = parse(pairs)
    assert wanted == Selection(
        after="ä".encode(), since=0, tail=3, types=frozenset([b"a", b""]), limit=5, follow=False,
        timeout=1.5, format="sse",
    )  # fmt: skip
    assert not wanted.is_whole


@pytest.mark.parametrize("name", query.RESUME_PARAMETERS)
def test_the_place_to_resume_has_several_names_of_which_one_may_be_given(name: str) -> None:
    other = next(each for each in query.RESUME_PARAMETERS if each != name)
    assert parse([(name, "1"), (other, "")]) == Selection(after=b"1")
    with pytest.raises(BadInput, match="mean the same; give one of them"):
        parse([(name, "1"), (other, "1")])


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        (
            [("id", "1")],
            f"unknown parameter 'id'; allowed here: {', '.join(query.READ_PARAMETERS)}",
        ),
        ([("tail", "1"), ("tail", "1")], "tail is given twice"),
        ([("event", "a\tb")], "event holds a control character (tab, line break, …)"),
        ([("follow", "yes")], "follow is 'yes', but must be 0 or 1"),
        (
            [("format", "xml")],
            "format is 'xml', but must be one of tsv, sse, sse-json, ndjson, json, raw",
        ),
    ],
)
def test_a_read_that_makes_no_sense_is_refused(pairs: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(pairs)
    assert str(error.value) == reason
