"""`GET /<channel>` with parameters: SPEC, section 6, through a real server.

The walks ask for combinations of everything, and compare what comes with a plain list: `select`
is all that the page says about selection, and each format is parsed by a few lines of its own.
"""

import http.client
import itertools
import json
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from tests.harness import (
    PATIENCE_SECONDS,
    Answer,
    Hub,
    Stream,
    eventually,
    running_hub,
    store,
)
from tests.harness.measures import bytes_read
from tests.harness.shims import customized
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import reset

Pairs = list[tuple[str, str]]


class Row(NamedTuple):
    """An event, as a reader sees it."""

    id: str
    type: str
    data: str


# -- the formats: bytes -> events ----------------------------------------------------------


def from_tsv(body: bytes) -> list[Row]:
    *lines, rest = body.decode().split("\n")
    assert rest == ""
    return [
        Row(id, type, data.replace("\v", "\n"))
        for id, type, data in (line.split("\t", 2) for line in lines)
    ]


def from_sse(body: bytes) -> list[Row]:
    assert body.startswith(b":\n")
    *frames, rest = body.decode().split("\n\n")
    assert re.fullmatch(r"(:\n)*(retry: \d+\n)?", rest), rest
    rows = []
    for frame in frames:
        lines = re.sub(r"^(:\n)+", "", frame).split("\n")
        names, values = zip(*(line.split(": ", 1) for line in lines), strict=True)
        assert re.fullmatch(r"(event )?(id )?data( data)*", " ".join(names)), frame
        fields = dict(zip(names, values, strict=True))
        data = [value for name, value in zip(names, values, strict=True) if name == "data"]
        rows.append(Row(fields.get("id", ""), fields.get("event", ""), "\n".join(data)))
    return rows


def _from_object(object: Any) -> Row:
    assert list(object) == ["id", "event", "data"]
    assert all(type(value) is str for value in object.values())
    return Row(*object.values())


def from_sse_json(body: bytes) -> list[Row]:
    rows = []
    for frame in from_sse(body):
        row = _from_object(json.loads(frame.data))
        assert frame == Row(row.id, "", frame.data)
        rows.append(row)
    return rows


def from_ndjson(body: bytes) -> list[Row]:
    *lines, rest = body.split(b"\n")
    assert rest == b""
    return [_from_object(json.loads(line)) for line in lines]


def from_json(body: bytes) -> list[Row]:
    first, *lines, last, rest = body.split(b"\n")
    assert (first, last, rest) == (b"[", b"]", b"")
    assert [line.endswith(b",") for line in lines] == [True] * (len(lines) - 1) + [False] * bool(
        lines
    )
    rows = [_from_object(object) for object in json.loads(body)]
    assert len(rows) == len(lines)  # one a line, for `grep`
    return rows


def from_raw(body: bytes) -> str:
    return body.decode()


class Format(NamedTuple):
    media_type: str
    charset: str
    parse: Callable[[bytes], object]


EVENT_STREAMS = ("sse", "sse-json")
FORMATS = {
    "tsv": Format("text/tab-separated-values", "; charset=utf-8", from_tsv),
    "sse": Format("text/event-stream", "; charset=utf-8", from_sse),
    "sse-json": Format("text/event-stream", "; charset=utf-8", from_sse_json),
    "ndjson": Format("application/x-ndjson", "", from_ndjson),
    "json": Format("application/json", "", from_json),
    "raw": Format("text/plain", "; charset=utf-8", from_raw),
}


def seen_in(format: str, rows: list[Row]) -> object:
    """Return what parsing these rows in a format gives: raw knows of the data alone."""
    return "".join(row.data + "\n" for row in rows) if format == "raw" else rows


def content_type(format: str) -> str:
    return FORMATS[format].media_type + FORMATS[format].charset


# -- the selection: a plain list -----------------------------------------------------------


class Choice(NamedTuple):
    """One selection, as in a query; None and empty where nothing is said."""

    after: str | None = None
    since: str | None = None
    newest: str | None = None  # `from`
    before: str | None = None
    tail: int | None = None
    types: tuple[str, ...] = ()
    until: str | None = None
    limit: int | None = None

    @property
    def pairs(self) -> Pairs:
        named = [
            ("after", self.after), ("since", self.since), ("from", self.newest),
            ("before", self.before), ("tail", self.tail), ("until", self.until),
            ("limit", self.limit),
        ]  # fmt: skip
        pairs = [(name, str(value)) for name, value in named if value is not None]
        return pairs + [("event", type) for type in self.types]


def time_of(text: str) -> datetime | None:
    duration = re.fullmatch(r"(\d+)([smhd])", text)
    if duration:
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[duration[2]]
        try:
            return datetime.now(timezone.utc) - timedelta(**{unit: int(duration[1])})
        except OverflowError:  # longer ago than anything
            return datetime.min.replace(tzinfo=timezone.utc)
    if re.fullmatch(r"\d{10}", text):
        return datetime.fromtimestamp(int(text), timezone.utc)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def first_later(rows: list[Row], moment: datetime) -> int:
    """Return the index of the first event whose id is a later time, or their number."""
    times = [time_of(row.id) for row in rows]
    return next((n for n, time in enumerate(times) if time and time > moment), len(rows))


def start_of(rows: list[Row], choice: Choice) -> tuple[int, str]:
    """Return the index of the event to start at, and how a resume point was found."""
    start, verdict = 0, ""
    if choice.after is not None:
        ids, moment = [row.id for row in rows], time_of(choice.after)
        if choice.after in ids:
            start, verdict = ids.index(choice.after) + 1, "exact"
        elif moment and rows and time_of(rows[-1].id):
            start, verdict = first_later(rows, moment), "time"
        else:
            verdict = "start"
    if choice.since is not None:
        moment = time_of(choice.since)
        assert moment
        start, verdict = max(start, first_later(rows, moment)), "time"
    return start, verdict


def end_of(rows: list[Row], choice: Choice) -> int:
    """Return the index of the event to end before, or their number."""
    ids = [row.id for row in rows]
    if choice.before is None:
        return len(rows)
    if choice.before in ids:
        return ids.index(choice.before)
    moment = time_of(choice.before)
    assert moment
    return first_later(rows, moment - timedelta(microseconds=1))


def select(rows: list[Row], choice: Choice, live: list[Row] | None = None) -> tuple[list[Row], str]:
    """Return what a reader gets of the rows there are, and of live ones if it follows.

    Start and end, then the newest event to start with, then types, then the last `tail` of what was
    there at the start, then up to the first `until`, then `limit`.
    """
    (start, verdict), end = start_of(rows, choice), end_of(rows, choice)
    if choice.newest is not None:
        newest = max((n for n in range(start, end) if rows[n].type == choice.newest), default=start)
        start, verdict = newest, "exact" if newest > start else verdict or "start"
    if live is not None and not verdict and choice.tail is None:
        start, verdict = end, "live"

    wanted = (*choice.types, choice.until) if choice.types else ()

    def of_types(rows: list[Row]) -> list[Row]:
        return [row for row in rows if not wanted or row.type in wanted]

    chosen = of_types(rows[start:end])
    if choice.tail is not None:
        chosen = chosen[len(chosen) - min(choice.tail, len(chosen)) :]
    chosen += of_types(live or [])
    types = [row.type for row in chosen]
    if choice.until in types:
        chosen = chosen[: types.index(choice.until) + 1]
    return chosen[: choice.limit], verdict


# -- a channel to walk through -------------------------------------------------------------


def default_id(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def history() -> list[Row]:
    """Return rows with ids of every kind; the last ones are of the last hours."""
    now = datetime.now(timezone.utc)
    return [
        Row("2020-01-01T00:00:00.000000Z", "", "plain"),
        Row("2020-01-01T01:00:00.000000Z", "a", ""),
        Row("2020-01-01T02:00:00.000000Z", "b", "tab\tseparated\tfields"),
        Row("note", "a", "line one\n\nline three"),
        Row("2020-01-01T03:00:00.000000Z", "ä b", "  edge spaces "),
        Row("2020-01-01T04:00:00.000000Z", "a", ': a colon, and “quotes” "\\"'),
        Row("again", "", "data: x\nid: 7\n\nevent: y"),
        Row("2019-06-01T00:00:00.000000Z", "b", "came late"),
        Row("again", "b", '{"n": [1, 2]}'),
        Row("2020-01-01T06:30+01:00", "", "🛩️\u2028\u0085"),
        Row("2020-01-01T07:00:00.000000Z", "b", "[\n]\n,\n"),
        Row(default_id(now - timedelta(days=2)), "a", "\ufeff"),
        Row(default_id(now - timedelta(minutes=90)), "", "at noon"),
        Row(default_id(now - timedelta(minutes=30)), "a", "just now"),
    ]


def write(hub: Hub, channel: str, rows: Iterable[Row]) -> None:
    text = "".join("\t".join(row).replace("\n", "\v") + "\n" for row in rows)
    hub.prepare(channel, text)


def sample(seed: int, count: int, **values: list[Any]) -> list[Choice]:
    """Return so many combinations, always the same; a value that stands there twice comes twice."""
    choose = random.Random(seed).choice
    return [Choice(**{name: choose(values[name]) for name in values}) for _ in range(count)]


NO: list[Any] = [None]  # to be said as often as there are others
CHOICES = sample(
    1, 250,
    after=[*NO * 3, "2020-01-01T03:00:00.000000Z", "2020-01-01T05:00Z", "unheard of"],
    since=[*NO * 2, "2020-01-01T04:00:00Z", "1h"],
    newest=[*NO * 3, "a", "none such"],
    before=[*NO * 3, "again", "2020-01-01T07:00Z", "note"],
    tail=[*NO * 2, 0, 3],
    types=[(), (), ("a",), ("", "ä b"), ("none such",)],
    until=[*NO * 3, "b", "none such"],
    limit=[*NO * 2, 2],
)  # fmt: skip
MORE_CHOICES = sample(
    2, 2000,
    after=[*NO * 2, "", "0", "again", "2020-01-01", "2999-01-01"],
    since=[
        *NO * 4, "2019-01-01", "2020-01-01T07:30:00+01:00", "3d", "999999999d", "2999-01-01",
    ],
    newest=[*NO * 3, "a", "b", "ä b", "none such"],
    before=[
        *NO * 4, "2020-01-01T00:00:00.000000Z", "1999-01-01", "again", "2020-01-01T06:30+01:00",
        "2020-01-01T03:00Z", "1577854800", "2020-01-01T03:00:00.000001Z", "1h", "2999-01-01",
    ],
    tail=[*NO * 3, 1, 5, 10**18 - 1],
    types=[(), (), ("",), ("a", "b"), ("b", "b", "none such")],
    until=[*NO * 3, "a", "b", "ä b", "none such"],
    limit=[*NO * 3, 0, 1, 4, 10**18 - 1],
)  # fmt: skip


class Client:
    """A keep-alive connection."""

    def __init__(self, hub: Hub) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", hub.port, timeout=PATIENCE_SECONDS
        )

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, None, names)
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def asking_for(
    format: str, by_accept: bool, choice: Choice, more: Pairs
) -> tuple[str, dict[str, str]]:
    """Return the query and the headers that ask for a choice in a format."""
    if by_accept and format != "sse-json":  # which has no media type of its own
        return urlencode([*choice.pairs, *more]), {"Accept": FORMATS[format].media_type}
    return urlencode([*choice.pairs, *more, ("format", format)]), {"Accept": "*/*"}


def check_finite(answer: Answer, format: str, choice: Choice, rows: list[Row]) -> None:
    expected, verdict = select(rows, choice)
    assert answer.status == 200
    assert FORMATS[format].parse(answer.body) == seen_in(format, expected)
    assert answer.headers["Content-Type"] == content_type(format)
    assert answer.headers["Vary"] == "Accept, Last-Event-ID"
    assert (answer.headers["Esource-Resume"] or "") == verdict or choice.tail is not None
    end = end_of(rows, choice)
    is_cut_off = choice.limit is not None or choice.until is not None
    newest = rows[end - 1].id if end and not is_cut_off else None
    assert answer.headers["Last-Event-ID"] == newest
    if format == "tsv" and not choice.types and not is_cut_off:
        assert answer.headers["Content-Length"] == str(len(answer.body))


@contextmanager
def gathered() -> Iterator[Callable[[str], Any]]:
    """Let a walk go on after a mismatch, so that it tells which combinations are wrong."""
    wrong: list[str] = []

    @contextmanager
    def case(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an answer that cannot be parsed is wrong, too
            wrong.append(f"{name}: {error!r:.300}")
        except AssertionError as error:
            wrong.append(f"{name}: {error!s:.300}")

    yield case
    assert not wrong, "\n".join([f"{len(wrong)} combinations are wrong:", *wrong[:10]])


@pytest.mark.parametrize("format", FORMATS)
def test_finite_combinations_are_what_a_list_gives(hub: Hub, format: str) -> None:
    rows = history()
    write(hub, f"finite-{format}", rows)
    ends = [[("follow", "0")], *([[]] if format not in EVENT_STREAMS else [])]
    with Client(hub) as client, gathered() as case:
        for choice, by_accept, end in itertools.product(CHOICES, (True, False), ends):
            query, headers = asking_for(format, by_accept, choice, end)
            with case(f"{headers} {query}"):
                answer = client.get(f"/finite-{format}?{query}", **headers)
                check_finite(answer, format, choice, rows)


def test_more_finite_selections_are_what_a_list_gives(hub: Hub) -> None:
    rows = history()
    write(hub, "more", rows)
    formats = itertools.cycle(FORMATS)
    with Client(hub) as client, gathered() as case:
        for choice in MORE_CHOICES:
            format = next(formats)
            query, headers = asking_for(format, False, choice, [("follow", "0")])
            with case(query):
                answer = client.get(f"/more?{query}", **headers)
                check_finite(answer, format, choice, rows)


# -- following -----------------------------------------------------------------------------


def following(hub: Hub, path: str, **headers: str) -> Stream:
    return Stream(hub, path, version="1.1", **headers)


FOLLOW_CHOICES = sample(
    3, 1620,
    after=[*NO * 3, "2020-01-01T03:00:00.000000Z", "2020-01-01T05:00Z", "unheard of"],
    since=[*NO * 2, "2020-01-01T04:00:00Z", "1h"],
    newest=[*NO * 3, "b", "none such"],
    tail=[*NO * 2, 0, 3],
    types=[(), ("a",), ("", "ä b")],
    until=[*NO * 2, "b", "ä b"],
    limit=[*NO, 1, 5],
)  # fmt: skip
LIVE = [("", "one"), ("a", "two\nlines"), ("b", ""), ("a", "four\tfour"), ("ä b", "five")]
FOLLOWING = [(choice, list(FORMATS)[n % 6]) for n, choice in enumerate(FOLLOW_CHOICES)]
BATCH = 405  # connections at a time; a soft limit of 1024 descriptors is common


def follow_all(
    hub: Hub, channel: str, cases: list[tuple[Choice, str]], more: Pairs
) -> tuple[list[tuple[Choice, str, str, Stream]], list[Row], list[Row]]:
    """Follow in all these ways, and publish then; return who follows, history and live events."""
    rows = history()
    write(hub, channel, rows)
    followers = []
    for number, (choice, format) in enumerate(cases):
        # An event stream follows by itself.
        by_itself = format in EVENT_STREAMS and number % 3
        follow = [] if by_itself else [("follow", "1")]
        query, headers = asking_for(format, number % 2 == 0, choice, follow + more)
        followers.append((choice, format, query, following(hub, f"/{channel}?{query}", **headers)))
    live = [
        Row(hub.publish(f"/{channel}?event={quote(type)}", data), type, data) for type, data in LIVE
    ]
    return followers, rows, live


def check_follow(follower: Stream, verdict: str, format: str, choice: Choice) -> None:
    assert follower.status == 200
    assert follower.headers["Content-Type"] == content_type(format)
    assert follower.headers["Cache-Control"] == "no-store, no-transform"
    assert follower.headers["X-Accel-Buffering"] == "no"
    assert follower.headers.get("Esource-Resume", "") == verdict or choice.tail is not None


@pytest.mark.parametrize("part", range(0, len(FOLLOWING), BATCH))
def test_every_way_to_follow_until_a_timeout_is_what_a_list_gives(hub: Hub, part: int) -> None:
    # All must follow before the timeout of the first, and on an engine each is asked about there.
    step = 1 if store.chosen == store.FILES else 4
    cases = FOLLOWING[part : part + BATCH : step]
    followers, rows, live = follow_all(hub, f"follow-{part}", cases, [("timeout", "6")])
    with gathered() as case:
        for choice, format, query, follower in followers:
            with case(query), follower:
                expected, verdict = select(rows, choice, live)
                assert FORMATS[format].parse(follower.read_to_end()) == seen_in(format, expected)
                check_follow(follower, verdict, format, choice)


def test_ways_to_follow_until_the_hub_stops_are_what_a_list_gives(own_hub: Hub) -> None:
    cases = random.Random(6).sample(FOLLOWING, BATCH)
    followers, rows, live = follow_all(own_hub, "until-stop", cases, [])
    with ExitStack() as stack:
        for choice, _, _, follower in followers:
            stack.enter_context(follower)
            expected, _ = select(rows, choice, live)
            last = expected[-1] if expected else None
            if last and len(expected) != choice.limit and last.type != choice.until:
                follower.read_until(last.data.partition("\t")[0].encode())  # four, or five
        began = time.monotonic()
        assert own_hub.stop() == 0
        assert time.monotonic() - began < AT_ONCE_SECONDS
        with gathered() as case:
            for choice, format, query, follower in followers:
                with case(query):
                    expected, _ = select(rows, choice, live)
                    body = follower.read_to_end()
                    assert FORMATS[format].parse(body) == seen_in(format, expected)
    assert "Traceback" not in own_hub.log


# -- which format --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        (None, "tsv"),
        ("", "tsv"),
        ("*/*", "tsv"),  # curl
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "tsv"),  # browsers
        ("application/json, text/plain, */*", "json"),  # axios
        ("text/tab-separated-values", "tsv"),
        ("application/x-ndjson", "ndjson"),
        ("application/ndjson", "ndjson"),
        ("application/jsonl", "ndjson"),
        ("application/x-jsonlines", "ndjson"),
        ("application/json", "json"),
        ("text/plain", "raw"),
        ("text/event-stream", "sse"),
        ("APPLICATION/JSON", "json"),
        ("application/json;charset=utf-8", "json"),
        ("text/plain; charset=utf-8; q=0.4", "raw"),
        ("application/json;q=0.5, text/plain;q=0.9", "raw"),
        ("text/plain;q=0.5, application/x-ndjson", "ndjson"),
        ("text/plain, application/json", "raw"),  # of equals, the first
        ("application/json, text/plain", "json"),
        ("application/json;q=0, text/plain;q=0.1", "raw"),
        ("application/json;q=0", "tsv"),
        ("application/json;q=0, */*", "tsv"),
        ("text/event-stream;q=0.1, application/json", "sse"),  # who can take a stream gets one
        ("text/event-stream;q=0, application/json", "json"),
        ("image/png", "tsv"),  # better than a 406
        ("text/*", "tsv"),
        (";;,/,q=1;=", "tsv"),
    ],
)
def test_accept_chooses_the_format(hub: Hub, accept: str | None, format: str) -> None:
    rows = [Row("1", "a", "one\ntwo"), Row("2", "", "three")]
    write(hub, "accept", rows)
    headers = {} if accept is None else {"Accept": accept}
    answer = hub.get("/accept?follow=0", **headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == content_type(format)
    assert FORMATS[format].parse(answer.body) == seen_in(format, rows)


@pytest.mark.parametrize(("accepted", "named"), list(itertools.permutations(FORMATS, 2)))
def test_the_parameter_wins_over_accept(hub: Hub, accepted: str, named: str) -> None:
    answer = hub.get(f"/wins?follow=0&format={named}", Accept=FORMATS[accepted].media_type)
    assert answer.headers["Content-Type"] == content_type(named)


EMPTY = {
    "tsv": b"", "sse": b":\n", "sse-json": b":\n", "ndjson": b"", "json": b"[\n]\n", "raw": b"",
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_no_events_are_an_answer_too(hub: Hub, format: str) -> None:
    for query in ("", "&tail=5", "&after=1", "&since=1h", "&event=a", "&limit=3", "&limit=0"):
        answer = hub.get(f"/nobody-wrote?follow=0&format={format}{query}")
        assert (answer.status, answer.body) == (200, EMPTY[format])
        assert "Last-Event-ID" not in answer.headers
    assert not hub.has("nobody-wrote")


def test_each_format_looks_as_the_manual_says(hub: Hub) -> None:
    write(hub, "looks", [Row("1", "deploy", "one\ntwo"), Row("2", "", "“3\t4”")])
    looks = {
        "tsv": "1\tdeploy\tone\vtwo\n2\t\t“3\t4”\n",
        "sse": ":\nevent: deploy\nid: 1\ndata: one\ndata: two\n\nid: 2\ndata: “3\t4”\n\n",
        "sse-json": ':\nid: 1\ndata: {"id":"1","event":"deploy","data":"one\\ntwo"}\n\n'
        'id: 2\ndata: {"id":"2","event":"","data":"“3\\t4”"}\n\n',
        "ndjson": '{"id":"1","event":"deploy","data":"one\\ntwo"}\n'
        '{"id":"2","event":"","data":"“3\\t4”"}\n',
        "json": '[\n{"id":"1","event":"deploy","data":"one\\ntwo"},\n'
        '{"id":"2","event":"","data":"“3\\t4”"}\n]\n',
        "raw": "one\ntwo\n“3\t4”\n",
    }
    assert {format: hub.get(f"/looks?format={format}&follow=0").text for format in FORMATS} == looks


@pytest.mark.parametrize("query", ["", "&tail=1", "&event=a", "&limit=1", "&follow=1"])
@pytest.mark.parametrize("format", FORMATS)
def test_head_has_the_headers_of_get_and_no_body(hub: Hub, format: str, query: str) -> None:
    write(hub, "head", [Row("1", "a", "one"), Row("2", "a", "two")])
    follow = "" if "follow" in query else "&follow=0"
    path = f"/head?format={format}{query}{follow}"
    with Client(hub) as client:  # the connection goes on: nothing is left in it
        for _ in range(2):
            head = client.get(path, "HEAD")
            assert (head.status, head.body) == (200, b"")
        if "follow" in query:
            with following(hub, path) as follower:
                get = dict(follower.headers)
        else:
            get = dict(client.get(path).headers)
        for headers in (ours := dict(head.headers)), get:
            for name in (
                "Date",
                "Connection",
                "Transfer-Encoding",
            ):  # of the body, which HEAD has not
                headers.pop(name, None)
        # It goes on for the second after an append.
        dates = [headers.pop("Last-Modified", None) for headers in (ours, get)]
        assert (dates[0] is None) == (dates[1] is None)
        if dates[0] and dates[1]:
            later = parsedate_to_datetime(dates[1]) - parsedate_to_datetime(dates[0])
            assert 0 <= later.total_seconds() <= 1
        assert ours == get


def test_a_link_can_be_followed_on_from_where_its_reader_is(hub: Hub) -> None:
    write(hub, "link", rows := [Row(str(n), "a" * (n % 2), f"{n}") for n in range(6)])
    for query, expected in {
        "after=4": rows[3:],
        "after=unheard%20of": rows[3:],
        "since=1h": rows[3:],
        "tail=1": rows[3:],
        "tail=0&after=0": rows[3:],
        "lastEventId=0": rows[3:],
        "tail=1&event=a": [rows[3], rows[5]],
        "tail=1&limit=2": rows[3:5],
        "after=5&event=a&limit=1": [rows[3]],
    }.items():
        for format in FORMATS:
            path = f"/link?follow=0&format={format}&{query}"
            answer = hub.get(path, Last_Event_ID="2")
            assert FORMATS[format].parse(answer.body) == seen_in(format, expected), path
            assert answer.headers["Esource-Resume"] == "exact"
    answer = hub.get("/link?tail=1&format=ndjson", Last_Event_ID="")  # empty is absent
    assert from_ndjson(answer.body) == rows[5:]


@pytest.mark.parametrize("names", [("after", "lastEventId"), ("last_event_id", "Last-Event-ID")])
def test_all_names_of_a_resume_point_are_one_parameter(hub: Hub, names: tuple[str, str]) -> None:
    write(hub, "names", rows := [Row("1", "", "one"), Row("2", "", "two")])
    for name in names:
        assert from_ndjson(hub.get(f"/names?format=ndjson&{name}=1").body) == rows[1:]


def test_an_empty_place_is_the_beginning_and_an_empty_resume_point_is_absent(hub: Hub) -> None:
    write(hub, "blank", rows := [Row("1", "", "one"), Row("2", "a", "two")])
    assert from_tsv(hub.get("/blank?after=&lastEventId=").body) == rows
    assert from_tsv(hub.get("/blank?event=").body) == rows[:1]  # without type
    answer = hub.get("/blank?after=&format=ndjson&follow&timeout=0")  # a flag may stand alone
    assert answer.headers["Esource-Resume"] == "start"
    assert from_ndjson(answer.body) == rows
    answer = hub.get("/blank?lastEventId=&format=ndjson&follow&timeout=0")
    assert answer.headers["Esource-Resume"] == "live"


def test_where_the_client_has_got_to_wins_over_where_it_started(hub: Hub) -> None:
    rows = [Row(str(n), "", f"{n}") for n in range(6)]
    write(hub, "started", rows)
    for start in ("tail=1", "since=1h", "after=4", "tail=1&last_event_id=", "Last-Event-ID=4"):
        path = f"/started?{start}&lastEventId=2&format=ndjson"
        assert from_ndjson(hub.get(path).body) == rows[3:]
        assert from_ndjson(hub.get(path, Last_Event_ID="3").body) == rows[4:]


def test_a_timeout_is_for_a_follow(hub: Hub) -> None:
    answer = hub.get("/quick?timeout=60&limit=1")
    assert (answer.status, answer.text) == (400, "timeout is for a follow; add follow=1\n")


def test_parameters_of_others_are_not_refused(hub: Hub) -> None:
    write(hub, "others", rows := [Row("1", "", "one"), Row("2", "a", "two")])
    assert from_tsv(hub.get("/others?access_token=secret&_=1&_=2&datastar=%7B%7D").body) == rows
    assert hub.post("/others?_=1&id=3", "three").status == 201


def test_the_newest_id_is_not_told_where_limit_has_cut_it_off(hub: Hub) -> None:
    write(hub, "newest", [Row(str(n), "", "x") for n in range(5)])
    for format in FORMATS:
        path = f"/newest?follow=0&format={format}"
        assert "Last-Event-ID" not in hub.get(f"{path}&limit=3").headers
        assert hub.get(f"{path}&tail=3").headers["Last-Event-ID"] == "4"
        assert hub.get(f"{path}&event=none").headers["Last-Event-ID"] == "4"


# -- what is refused -----------------------------------------------------------------------

NAMES = ("after", "since", "tail", "event", "limit", "follow", "timeout", "format")
BAD = [
    # the query, what is wrong with it, what is allowed
    ("tial=5", "tial", ("did you mean tail?", *NAMES)),
    ("id=5", "'id'", NAMES),
    ("Tail=5", "Tail", NAMES),
    ("=5", "parameter", NAMES),
    ("tail=5&x%0Ay=1", "x\\ny", NAMES),
    ("format=xml", "format", FORMATS),
    ("format=TSV", "format", FORMATS),
    ("format=json%0Aq", "format", FORMATS),
    ("format=json&format=tsv", "format", ("twice",)),
    ("follow=yes", "follow", ("0", "1")),
    ("follow=2", "follow", ("0", "1")),
    ("follow=0&follow=1", "follow", ("twice",)),
    ("tail=-1", "tail", ("number", "0 or more")),
    ("tail=+1", "tail", ("number",)),
    ("tail=1.5", "tail", ("number",)),
    ("tail=all", "tail", ("number",)),
    ("tail=１", "tail", ("number",)),
    ("tail=1&tail=2", "tail", ("twice",)),
    ("limit=-1", "limit", ("number", "0 or more")),
    ("limit=ten", "limit", ("number",)),
    ("limit=1e3", "limit", ("number",)),
    ("limit=1&limit=1", "limit", ("twice",)),
    ("timeout=-1", "timeout", ("number", "seconds")),
    ("timeout=1m", "timeout", ("seconds",)),
    ("timeout=nan", "timeout", ("seconds",)),
    ("timeout=inf", "timeout", ("seconds",)),
    ("timeout=1e9", "timeout", ("seconds",)),
    ("timeout=1&timeout=2", "timeout", ("twice",)),
    ("since=yesterday", "since", ("2026-01-31T10:00Z", "15m")),
    ("since=15", "since", ("15m",)),
    ("since=-15m", "since", ("15m",)),
    ("since=1y", "since", ("7d",)),
    *((f"{name}=", name, ("must be",)) for name in ("since", "tail", "limit", "follow", "format")),
    *((name, name, ("must be",)) for name in ("since", "tail", "limit", "format")),
    ("since=20260131", "since", ("2026-01-31T10:00Z",)),
    ("since=2026-13-01", "since", ("2026-01-31T10:00Z",)),
    ("since=2026-01-31T25:00Z", "since", ("2026-01-31T10:00Z",)),
    ("since=1h&since=2h", "since", ("twice",)),
    ("after=1&after=2", "after", ("twice",)),
    *(
        (f"{name}={value}", name, (must,))
        for name, values, must in (
            ("from", ("", "a%09b"), "a type"),
            ("until", ("", "%20a"), "a type"),
            ("before", ("",), "a time"),
            ("prime", ("", "2", "yes"), "0 or 1"),
            ("wait", ("", "301", "1m", "-1"), "0 to 300"),
            ("heartbeat", ("", "0", "0.9", "3601", "1h"), "1 to 3600"),
        )
        for value in values
    ),
    ("until=a&until=b", "until", ("twice",)),
    ("from=a&from=b", "from", ("twice",)),
    ("event=a%00b", "event", ("control character",)),
    ("event=a%0Ab", "event", ("control character",)),
    ("event=%20a", "event", ("space",)),
    ("event=" + "a" * 257, "event", ("256",)),
    ("event=a&event=" + "%C3%A4" * 129, "event", ("256",)),
    ("event=%FF", "UTF-8", ()),
]


@pytest.mark.parametrize(("query", "wrong", "allowed"), BAD, ids=[query[:40] for query, *_ in BAD])
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_bad_query_is_refused_in_one_line_that_says_which_and_what_is_allowed(
    hub: Hub, accept: str, query: str, wrong: str, allowed: Iterable[str]
) -> None:
    path = f"/refused?{quote(query, safe='=&%+')}"
    answer = hub.get(path, Accept=accept)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert re.fullmatch(r"[^\n]+\n", answer.text)
    for word in (wrong, *allowed):
        assert word in answer.text
    head = hub.request("HEAD", path, None, Accept=accept)
    assert (head.status, head.body) == (400, b"")


# -- rows that others wrote ----------------------------------------------------------------

FOREIGN = (
    b"no tabs at all\n"
    b"1\tnews\tscala\x0bwas here\n"
    b"2\tone tab\n"
    b"\t\tno id\n"
    b"dos\tnews\tline\r\n"
    b"\n"
    b"mac\t\tcr\rinside\r\n"
    b"bad\tnews\tnot \xff UTF-8\n"
    b"last\tnews\t\n"
    b"\r\n"
)
FOREIGN_ROWS = [
    Row("1", "news", "scala\nwas here"),
    Row("", "", "no id"),
    Row("dos", "news", "line"),
    Row("mac", "", "cr\ninside"),
    Row("bad", "news", "not \ufffd UTF-8"),
    Row("last", "news", ""),
]


@pytest.mark.parametrize("format", ["sse", "ndjson", "json", "raw"])
@pytest.mark.parametrize(
    ("query", "expected"),
    {
        "": FOREIGN_ROWS,
        "tail=3": FOREIGN_ROWS[-3:],
        "limit=2": FOREIGN_ROWS[:2],
        "tail=5&limit=2": FOREIGN_ROWS[-5:-3],
        "after=dos": FOREIGN_ROWS[3:],
        "after=2": FOREIGN_ROWS,  # that row is no event
        "event=": [FOREIGN_ROWS[1], FOREIGN_ROWS[3]],
        "event=news&tail=2": FOREIGN_ROWS[-2:],
        "event=one%20tab": [],
    }.items(),
)
def test_rows_that_are_not_events_are_skipped_and_do_not_count(
    hub: Hub, format: str, query: str, expected: list[Row]
) -> None:
    hub.prepare("foreign", FOREIGN)
    answer = hub.get(f"/foreign?follow=0&format={format}&{query}")
    text = answer.body.decode(errors="replace").encode()  # as browsers do with a stream
    assert FORMATS[format].parse(text) == seen_in(format, expected)


@pytest.mark.parametrize(
    ("query", "expected"),
    {
        "": FOREIGN,
        "after=dos": FOREIGN[FOREIGN.index(b"\n\nmac") + 1 :],
        "tail=1": FOREIGN[FOREIGN.index(b"last") :],
        "limit=2": FOREIGN[: FOREIGN.index(b"dos")],
        "event=": b"\t\tno id\nmac\t\tcr\rinside\r\n",
    }.items(),
)
def test_tsv_shows_foreign_rows_as_they_are(hub: Hub, query: str, expected: bytes) -> None:
    hub.prepare("foreign-tsv", FOREIGN)
    assert hub.get(f"/foreign-tsv?{query}").body == expected


@pytest.mark.files("counts what is read of files")
def test_foreign_rows_at_the_end_of_a_large_file_do_not_make_its_tail_slow(own_hub: Hub) -> None:
    row = b"2020-01-01T00:00:00.000000Z\t\t" + b"x" * 970 + b"\n"
    own_hub.put("long", row * 20_000 + b"foreign\n" * 20 + b"1\t\tlast\n")

    def read() -> None:
        assert own_hub.get("/long?format=raw&tail=2").body == b"x" * 970 + b"\nlast\n"

    assert cost(own_hub, read) < 60 << 20  # once for all of them will do


def test_a_range_is_one_of_what_the_answer_is_without_it(hub: Hub) -> None:
    write(hub, "range", [Row(str(n), "", f"data {n}") for n in range(5)])
    whole = hub.get("/range", Last_Event_ID="2")
    part = hub.get("/range", Last_Event_ID="2", Range="bytes=0-5")
    assert whole.body == b"3\t\tdata 3\n4\t\tdata 4\n"
    assert (part.status, part.body) in [(200, whole.body), (206, whole.body[:6])]


def test_a_range_is_not_for_a_selection(hub: Hub) -> None:
    write(hub, "parts", [Row(str(n), "", f"data {n}") for n in range(5)])
    for format, query in itertools.product(FORMATS, ("&tail=2", "&event=", "&limit=2", "&after=2")):
        path = f"/parts?follow=0&format={format}{query}"
        answer = hub.get(path)
        assert "Accept-Ranges" not in answer.headers
        part = hub.get(path, Range="bytes=0-5")
        assert (part.status, part.body) == (200, answer.body)


# -- how a follow ends ---------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_limit_ends_a_follow_by_itself(hub: Hub, format: str) -> None:
    channel = f"limit-{format}"
    hub.publish(f"/{channel}?id=1", "one")
    path = f"/{channel}?format={format}&follow=1&limit=2"
    one, two = Row("1", "", "one"), Row("2", "", "two")
    with following(hub, f"{path}&tail=1") as follower, following(hub, path) as live:
        follower.read_until(b"one")
        hub.publish(f"/{channel}?id=2", "two")
        hub.publish(f"/{channel}?id=3", "three")
        body = follower.read_to_end()
        assert FORMATS[format].parse(body) == seen_in(format, [one, two])
        expected = seen_in(format, [two, Row("3", "", "three")])
        assert FORMATS[format].parse(live.read_to_end()) == expected
    # What there is will do: nothing is waited for.
    began = time.monotonic()
    assert hub.get(f"{path}&after=0").status == 200
    assert hub.get(f"{path}&tail=3").status == 200
    assert hub.get(f"/{channel}?format={format}&follow=1&limit=0").body == EMPTY[format]
    assert time.monotonic() - began < AT_ONCE_SECONDS


@pytest.mark.parametrize("format", FORMATS)
def test_an_event_of_a_type_ends_a_follow_whether_or_not_the_type_is_asked_for(
    hub: Hub, format: str
) -> None:
    channel = f"until-{format}"
    hub.publish(f"/{channel}?id=0&event=done", "an earlier one")
    path = f"/{channel}?format={format}&follow=1&until=done"
    rows = [Row("1", "a", "one"), Row("2", "b", "two\t\tdone\t"), Row("3", "done", "three")]
    with following(hub, path) as whole, following(hub, f"{path}&event=a") as filtered:
        for row in [*rows, Row("4", "a", "four")]:
            hub.publish(f"/{channel}?id={row.id}&event={row.type}", row.data)
        assert FORMATS[format].parse(whole.read_to_end()) == seen_in(format, rows)
        assert FORMATS[format].parse(filtered.read_to_end()) == seen_in(format, rows[::2])
    answer = hub.get(f"/{channel}?format={format}&follow=0&until=done&after=0")
    assert FORMATS[format].parse(answer.body) == seen_in(format, rows)
    assert "Last-Event-ID" not in answer.headers
    assert (answer.status, hub.get(f"{path}&after=0").body) == (200, answer.body)


def test_an_event_source_that_has_got_to_the_end_is_kept_away(hub: Hub) -> None:
    rows = [Row("1", "a", "one"), Row("2", "done", "two"), Row("3", "a", "three")]
    write(hub, "kept-away", rows)

    def status(query: str, accept: str = "text/event-stream", **headers: str) -> int:
        path = f"/kept-away?until=done&{query}"
        follows = "event-stream" in accept and "follow" not in query
        answer = hub.get(path + "&timeout=0" * follows, Accept=accept, **headers)
        if answer.status == 204:
            assert answer.body == b""
            assert answer.headers["Cache-Control"] == "no-store"
        return answer.status

    assert status("", Last_Event_ID="2") == 204
    assert status("after=1", Last_Event_ID="2") == 204
    assert status("event=a", Last_Event_ID="2") == 204
    for name in ("lastEventId", "last_event_id", "Last-Event-ID"):
        assert status(f"{name}=2") == 204
    assert status("lastEventId=2&format=sse-json", "*/*") == 204
    assert status("lastEventId=2&follow=0") == 204
    for query in ("after=2", "lastEventId=1", "lastEventId=3", "lastEventId=4", "tail=1", ""):
        assert status(query) == 200, query
    for accept in ("*/*", "application/json", "application/x-ndjson"):
        assert status("lastEventId=2", accept) == 200
    # Of an end before all events, too.
    assert status("lastEventId=2&follow=0&before=1") == 200


# -- silence -------------------------------------------------------------------------------


def test_a_read_may_have_a_heartbeat_of_its_own(hub: Hub) -> None:
    with ExitStack() as stack:
        beats = {"sse": b":\n", "sse-json": b":\n", "ndjson": b"\n"}
        streams = {
            format: stack.enter_context(
                following(hub, f"/beats?format={format}&follow=1&heartbeat=1")
            )
            for format in beats
        }
        quiet = stack.enter_context(following(hub, "/beats?format=ndjson&follow=1"))
        hub.publish("/beats?id=1", "one")
        for format, stream in streams.items():
            stream.read_until(b"one")
            stream.read_until(stream.body[stream.body.index(b"one") :] + beats[format])
        quiet.read_until(b"one")
        hub.publish("/beats?id=2", "two")
        body = streams["ndjson"].read_until(b'two"}\n')
        lines = [line for line in body.split(b"\n") if line]
        assert [json.loads(line)["id"] for line in lines] == ["1", "2"]
        assert b"\n\n" in body
        assert b"\n\n" not in quiet.read_until(b'two"}\n')
        # What the hub emits, it accepts.
        answer = hub.post("/copy-of-beats", body, Content_Type="application/x-ndjson")
        assert (answer.status, hub.rows("copy-of-beats")) == (201, hub.rows("beats"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_heartbeat_is_for_follows_that_can_have_one(hub: Hub, format: str) -> None:
    answer = hub.get(f"/beats?format={format}&follow=0&heartbeat=5")
    assert (answer.status, answer.text) == (400, "heartbeat is for a follow; add follow=1\n")
    answer = hub.get(f"/beats?format={format}&follow=1&heartbeat=5&timeout=0")
    if format in ("tsv", "json", "raw"):
        assert answer.text == "heartbeat is for event streams and ndjson\n"
    assert answer.status == (400 if format in ("tsv", "json", "raw") else 200)


# -- how a follow ends, by time ------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_timeout_ends_a_follow(hub: Hub, format: str) -> None:
    hub.publish(f"/timeout-{format}?id=1", "one")
    path = f"/timeout-{format}?format={format}&follow=1"
    with Client(hub) as client:  # and its connection goes on
        for timeout in (0.3, 0.3):
            began = time.monotonic()
            answer = client.get(f"{path}&timeout={timeout}")
            assert timeout <= time.monotonic() - began < AT_ONCE_SECONDS
            assert FORMATS[format].parse(answer.body) == seen_in(format, [])
        answer = client.get(f"{path}&timeout=0&after=0")  # what there is, and no waiting
        expected = seen_in(format, [Row("1", "", "one")])
        assert FORMATS[format].parse(answer.body) == expected


def test_a_timeout_ends_a_follow_of_a_busy_channel(hub: Hub) -> None:
    done = threading.Event()

    def publish() -> None:
        while not done.is_set():
            hub.publish("/busy?event=noise", "x")

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        began = time.monotonic()
        assert hub.get("/busy?event=signal&format=json&follow=1&timeout=0.5").body == b"[\n]\n"
        assert hub.get("/busy?event=noise&format=raw&follow=1&timeout=0.5").body.startswith(b"x\n")
        assert time.monotonic() - began < AT_ONCE_SECONDS
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_shell_script_waits_for_a_deploy(hub: Hub) -> None:
    url = f"{hub.url}/deploys?event=done&follow=1&limit=1&timeout=20"
    pipe = subprocess.PIPE
    with subprocess.Popen(["curl", "-fsNv", url], stdout=pipe, stderr=pipe) as curl:
        assert curl.stderr
        while curl.stderr.readline() != b"< \r\n":
            pass  # until the headers have ended: it follows
        hub.publish("/deploys?event=begun", "build 7")
        id = hub.publish("/deploys?event=done", "build 7")
        out, _ = curl.communicate(timeout=10)
    assert (curl.returncode, out) == (0, f"{id}\tdone\tbuild 7\n".encode())


@pytest.mark.parametrize("format", FORMATS)
def test_headers_leave_before_the_first_event(hub: Hub, format: str) -> None:
    with following(hub, f"/at-once?format={format}&follow=1") as follower:
        assert follower.status == 200
        id = hub.publish("/at-once", "one")
        follower.read_until(b"one")  # at once, not with the next
        hub.publish("/at-once", "two")
        follower.read_until(b"two")
        assert format == "raw" or id in follower.body.decode()


@pytest.mark.parametrize("way", ["closed", "reset"])
def test_a_follower_that_goes_away_is_noticed_at_once(own_hub: Hub, way: str) -> None:
    for format in ("tsv", "ndjson", "json", "raw"):
        path = f"/go_away?format={format}&follow=1"
        followers = [following(own_hub, path) for _ in range(20)]
        most = own_hub.descriptors()
        for follower in followers:
            if way == "reset":
                reset(follower.connection)
            follower.close()
        # No heartbeat would tell: there is none.
        eventually(lambda most=most: own_hub.descriptors() <= most - 20, AT_ONCE_SECONDS)  # type: ignore[misc]
    assert "Traceback" not in own_hub.log


def test_a_follower_that_sends_more_and_goes_away_is_noticed(own_hub: Hub) -> None:
    own_hub.publish("/sends_more", "one")
    with ExitStack() as stack:
        for _ in range(10):
            follower = following(own_hub, "/sends_more?format=raw&follow=1&tail=1")
            stack.enter_context(follower).read_until(b"one")
            follower.connection.sendall(b"\r\n")
        most = own_hub.descriptors()
    eventually(lambda: own_hub.descriptors() <= most - 10, AT_ONCE_SECONDS)


def test_a_request_after_a_follow_is_answered_when_it_has_ended(hub: Hub) -> None:
    hub.publish("/next", "one")
    answer = hub.raw(
        b"GET /next?follow=1&timeout=0.5&format=raw HTTP/1.1\r\nHost: h\r\n\r\n"
        b"GET /next?format=raw HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"one") == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_or_reload_ends_each_follow_properly(own_hub: Hub, stop: signal.Signals) -> None:
    own_hub.publish("/drain?id=1", "one")
    rows = [Row("1", "", "one"), Row("2", "", "two")]
    queries = ["", "&event=", "&limit=3", "&timeout=60"]
    with ExitStack() as stack:
        followers = []
        for format, query in itertools.product(FORMATS, queries):
            path = f"/drain?format={format}&follow=1&tail=1{query}"
            followers.append((format, stack.enter_context(following(own_hub, path))))
        silent = stack.enter_context(following(own_hub, "/silent?format=json&follow=1"))
        for _, follower in followers:
            follower.read_until(b"one")
        own_hub.publish("/drain?id=2", "two")
        for _, follower in followers:
            follower.read_until(b"two")
        assert own_hub.process
        began = time.monotonic()
        own_hub.process.send_signal(stop)
        for format, follower in followers:
            body = follower.read_to_end()
            assert FORMATS[format].parse(body) == seen_in(format, rows)
            assert (b"\nretry: " in body) == (format in EVENT_STREAMS)
        assert silent.read_to_end() == b"[\n]\n"
        assert time.monotonic() - began < AT_ONCE_SECONDS
    if stop != signal.SIGHUP:
        assert own_hub.process.wait(PATIENCE_SECONDS) == 0
        own_hub.process = None


# -- large files ---------------------------------------------------------------------------

ROWS, ROW_BYTES = 1_000_000, 200
SMALL = 10 << 20  # bytes; to read so many of the file is not to read it from its start
BOUND_MS = 2000  # a fault; how long it is on an idle machine, `bench resume` says (the aim is 10)


def large_id(number: int) -> str:
    return default_id(datetime(2020, 1, 1) + timedelta(seconds=number))


def large_row(number: int) -> Row:
    return Row(large_id(number), "ab"[number % 2], f"{number:0{ROW_BYTES - 31}d}")


@pytest.fixture(scope="module")
def large_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a channel of 200 MB, whose ids are the default ones, a second apart."""
    with running_hub(tmp_path_factory.mktemp("large")) as hub:
        with hub.file("large").open("w") as file:
            for first in range(0, ROWS, 10_000):
                rows = map(large_row, range(first, first + 10_000))
                file.write("".join(["\t".join(row) + "\n" for row in rows]))
        assert hub.file("large").stat().st_size == ROWS * ROW_BYTES
        yield hub
        for path in hub.folder.glob("*.tsv"):
            path.unlink()


def another_large(hub: Hub, channel: str) -> None:
    """Give the large file one more name: a channel of which nobody knows anything yet."""
    hub.file(channel).hardlink_to(hub.file("large"))


def cost(hub: Hub, read: Callable[[], object]) -> int:
    """Return how many bytes the hub reads for something."""
    before = bytes_read(hub)
    read()
    return bytes_read(hub) - before


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.files("a file of 200 MB that has many names")
def test_the_tail_of_a_large_file_is_read_from_its_end(large_hub: Hub, format: str) -> None:
    another_large(large_hub, f"tail-{format}")
    rows = [large_row(number) for number in range(ROWS - 10, ROWS)]
    for query, expected in (("", rows), ("&event=b", None), ("&limit=3", rows[:3])):

        def read(query: str = query, expected: list[Row] | None = expected) -> None:
            path = f"/tail-{format}?format={format}&tail=10&follow=0{query}"
            found = FORMATS[format].parse(large_hub.get(path).body)
            assert not expected or found == seen_in(format, expected)

        assert cost(large_hub, read) < SMALL


@pytest.mark.parametrize(
    ("channel", "query"),
    [
        ("since-time", "since={id}"),
        ("after-time", "after={near}"),
        ("after-future", "after=2999-01-01"),
        ("after-known", "after={id}"),
        ("after-header", ""),
    ],
)
@pytest.mark.files("a file of 200 MB that has many names")
def test_a_place_near_the_end_of_a_large_file_is_found_without_reading_it_all(
    large_hub: Hub, channel: str, query: str
) -> None:
    another_large(large_hub, channel)
    id = large_id(ROWS - 11)
    path = f"/{channel}?format=ndjson&{query.format(id=id, near=id.replace('000Z', '001Z'))}"
    headers = {} if query else {"Last_Event_ID": id}
    rows = [] if "future" in channel else [large_row(number) for number in range(ROWS - 10, ROWS)]

    def read() -> None:
        assert from_ndjson(large_hub.get(path, **headers).body) == rows

    read()  # which maps the file; maybe not all of it until the answer is there
    eventually(lambda: cost(large_hub, read) < SMALL)


@pytest.mark.files("a file of 200 MB that has many names")
def test_a_large_file_without_events_of_a_type_is_not_read_for_them_again(large_hub: Hub) -> None:
    another_large(large_hub, "rare")
    path = "/rare?format=ndjson&event=rare"
    assert large_hub.get(path).body == b""
    id = large_id(10)
    for query in ("", f"&after={id}", "&tail=1", f"&follow=1&timeout=0&after={id}"):
        read = partial(large_hub.get, path + query)
        # Until it is indexed, a read may cost all of it, and so may what is indexed beside a read.
        eventually(partial(lambda read: cost(large_hub, read) < SMALL, read))


@contextmanager
def small_requests(hub: Hub, path: str = "/small") -> Iterator[list[float]]:
    """Meanwhile, send small requests one after the other; give how many ms each has taken."""
    done = threading.Event()
    durations: list[float] = []

    def ask() -> None:
        with Client(hub) as client:
            while not done.is_set():
                began = time.perf_counter()
                assert client.get(path, "HEAD").status in (200, 400)
                durations.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        eventually(lambda: len(durations) > 10)
        durations.clear()
        yield durations
    finally:
        done.set()
        thread.join()


def check_quick(what: str, durations: list[float]) -> None:
    """Fail if small requests were slow; print how slow they were (`pytest -s`)."""
    ordered = sorted(durations) or [0.0]  # there may have been no time for one
    half, most = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    print(f"\n{what}: {half:.1f} ms, p99 {most:.1f}, max {ordered[-1]:.1f} of {len(ordered)}")
    assert most < BOUND_MS


def drink(hub: Hub, path: str) -> int:
    """Read a long answer as it comes, and throw it away; return how many bytes it was."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200
    size = sum(map(len, iter(lambda: response.read(1 << 20), b"")))
    connection.close()
    return size


@pytest.mark.parametrize(
    "query",
    [
        "format=raw&after={near}",
        "format=raw&since={near}",
        "format=raw&after=unheard%20of&limit=1",
        "format=ndjson&event=none",
        "format=tsv&event=none",
        "format=sse&follow=0&limit=300000",
        "format=json&tail=300000",
        "format=raw&tail=300000&event=b",
        "format=tsv&tail=600000",
    ],
)
@pytest.mark.files("a file of 200 MB that has many names")
def test_small_requests_are_quick_while_a_large_file_is_read(large_hub: Hub, query: str) -> None:
    channel = re.sub(r"\W+", "-", f"quick {query}")
    another_large(large_hub, channel)
    with small_requests(large_hub) as durations:
        drink(large_hub, f"/{channel}?{query.format(near=large_id(ROWS - 5))}")
    check_quick(query, durations)


@pytest.mark.parametrize(
    ("row", "format"),
    [
        *((b"2020-01-01T00:00:00.000000Z\ta\t" + b"x" * 70 + b"\n", format) for format in FORMATS),
        (b"12345\ta\tok\n", "tsv"),
        (b"\t\t\n", "json"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
@pytest.mark.files("a file of 200 MB that has many names")
def test_no_step_of_a_read_holds_the_loop_for_long(large_hub: Hub, row: bytes, format: str) -> None:
    channel = f"steps-{len(row)}-{format}"
    large_hub.put(channel, row * (3_000_000 // len(row) if len(row) < 50 else 200_000))
    # What is asked for takes one turn of the loop, and no thread: it waits for a step at most.
    with small_requests(large_hub, "/no") as durations:
        for _ in range(2):
            drink(large_hub, f"/{channel}?format={format}&follow=0&limit=999999999")
    durations.sort()
    print(f"\n{channel}: the slowest {durations[-10:]} ms of {len(durations)}")
    assert durations[-5] < 1000  # a fault; the aim is 10, and `bench resume` measures


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.files("a file of 200 MB that has many names")
def test_small_requests_are_quick_while_many_tiny_rows_are_read(
    large_hub: Hub, format: str
) -> None:
    if not large_hub.has("tiny"):
        large_hub.put("tiny", b"".join(b"%d\ta\tok\n" % n for n in range(300_000)))
    for query in ("", "&event=a&limit=290000&tail=300000"):
        with small_requests(large_hub) as durations:
            drink(large_hub, f"/tiny?format={format}&follow=0{query}")
        check_quick(format + query, durations)


@pytest.mark.files("a file of 200 MB that has many names")
def test_a_timeout_ends_a_follow_whose_history_takes_longer(large_hub: Hub) -> None:
    another_large(large_hub, "longer")
    received = drink(large_hub, "/longer?format=ndjson&follow=1&after=0&timeout=0.01")
    assert received < large_hub.file("longer").stat().st_size


# -- a file that is rotated while a read waits ---------------------------------------------------

# The first read in the file with this inode waits, if it is not in the loop's thread, until the
# test has done something else. Python reads this before the hub starts.
SLOW_SEARCH = """
import os, threading, time
def slow(fd, size, offset, read=os.pread):
    aside = threading.get_native_id() != os.getpid()
    if aside and os.path.exists(os.environ["HANG"] + f"-{os.fstat(fd).st_ino}"):
        try:
            os.rename(os.environ["HANG"] + f"-{os.fstat(fd).st_ino}", os.environ["HANG"])
        except FileNotFoundError:
            return read(fd, size, offset)  # another one waits
        while os.path.exists(os.environ["HANG"]):
            time.sleep(0.005)
    return read(fd, size, offset)
os.pread = slow
"""
OLD = [Row(f"old-{n}", "", f"of the old file, number {n}") for n in range(20)]
NEW = [Row(f"new-{n}", "", f"and of the new one, {n}") for n in range(20)]


@pytest.mark.parametrize(
    ("query", "of_old", "of_new"),  # how many rows of the one and of the other it would be
    [
        ("after=unheard", 20, 20),
        ("after=unheard&format=tsv", 20, 20),
        ("after=old-3", 16, 20),
        ("after=old-3&limit=100", 16, 20),
        ("after=old-3&tail=5", 5, 5),
        ("after=old-3&tail=50", 16, 20),
        ("since=2020-01-01", 0, 0),
        ("tail=5", 5, 5),
    ],
)
@pytest.mark.files("a read of a file that hangs")
def test_a_read_that_waits_while_its_file_is_rotated_is_of_one_file_throughout(
    tmp_path: Path, query: str, of_old: int, of_new: int
) -> None:
    hang = tmp_path / "hang"
    answers: list[Answer] = []
    with running_hub(tmp_path, **customized(tmp_path, SLOW_SEARCH)) as hub:
        write(hub, "rotated", OLD)
        other = "?format=ndjson" if "format" not in query else ""
        etags = {hub.get(f"/rotated{other}").headers["ETag"]: OLD}
        inode = hub.file("rotated").stat().st_ino
        Path(f"{hang}-{inode}").touch()
        path = f"/rotated?{query}" + ("" if "format" in query else "&format=ndjson")
        reader = threading.Thread(target=lambda: answers.append(hub.get(path)))
        reader.start()
        try:
            eventually(hang.exists)  # the read waits
            hub.file("rotated").rename(tmp_path / "aside.tsv")
            for row in NEW:
                hub.publish(f"/rotated?id={row.id}", row.data)
            etags[hub.get(f"/rotated{other}").headers["ETag"]] = NEW
        finally:
            hang.unlink(missing_ok=True)
            reader.join()
    [answer] = answers
    assert answer.status == 200
    rows = (from_tsv if "tsv" in query else from_ndjson)(answer.body)
    assert answer.headers["ETag"] in etags, "of rows of the one file, and the end of the other"
    file = etags[answer.headers["ETag"]]
    assert rows == file[len(file) - (of_old if file is OLD else of_new) :]
    if "limit" not in query:
        assert answer.headers["Last-Event-ID"] == file[-1].id


# -- what caches are told ------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_finite_read_is_asked_about_and_not_sent_again(hub: Hub, format: str) -> None:
    channel = f"cached-{format}"
    hub.publish(f"/{channel}?event=a", "one")
    for query in ("tail=5", "event=a", "since=2020-01-01", "limit=1", "after=&event=a"):
        path = f"/{channel}?follow=0&format={format}&{query}"
        answer = hub.get(path)
        assert answer.headers["Cache-Control"] == "no-cache"
        again = hub.get(path, If_None_Match=answer.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        others = "ndjson" if format == "tsv" else "tsv"
        other = hub.get(f"/{channel}?follow=0&format={others}&{query}").headers["ETag"]
        assert hub.get(path, If_None_Match=other).status == 200
    hub.publish(f"/{channel}?event=a", "two")
    assert hub.get(path, If_None_Match=answer.headers["ETag"]).status == 200


def test_an_answer_has_the_name_of_all_that_it_was_found_in(hub: Hub) -> None:
    write(hub, "books", rows := [Row("1", "", "one"), Row("2", "", "two")])
    path = "/books?after=3&before=2"  # which is not there yet, so that all is after it
    answer = hub.get(path)
    assert (from_tsv(answer.body), answer.headers["Last-Event-ID"]) == (rows[:1], "1")
    assert hub.get(path, If_None_Match=answer.headers["ETag"]).status == 304
    hub.publish("/books?id=3", "three")
    again = hub.get(path, If_None_Match=answer.headers["ETag"])
    assert (again.status, again.body) == (200, b"")


def test_an_event_to_end_before_must_be_there(hub: Hub) -> None:
    write(hub, "must-be", [Row("1", "", "one")])
    for id in ("2", "1 ", "unheard of", "x" * 2000):
        answer = hub.get(f"/must-be?before={quote(id)}")
        assert answer.status == 400
        assert answer.text == f"there is no event {id[:100]!r} to end before\n"
    for format in FORMATS:
        answer = hub.get(f"/must-be?before=1&follow=1&format={format}")
        assert (answer.status, answer.text) == (
            400, "before is for a finite read; add follow=0\n",
        )  # fmt: skip


def test_a_start_that_moves_with_the_clock_is_always_sent(hub: Hub) -> None:
    hub.publish("/clock", "one")
    whole = hub.get("/clock").headers["ETag"]
    answer = hub.get(
        "/clock?since=1h", If_None_Match=whole, If_Modified_Since="Fri, 01 Jan 2100 00:00:00 GMT"
    )
    assert answer.status == 200
    assert "ETag" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-cache"


# -- what people and monitors ask ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own"),
    [("health", "health"), ("healthz", "health"), ("livez", "health"), ("status", "health"),
     ("ready", "ready"), ("readyz", "ready"), ("metrics", "metrics")],
)  # fmt: skip
def test_a_probe_of_a_wrong_path_is_not_well(own_hub: Hub, name: str, own: str) -> None:
    for query in ("", "?tail=1", "?format=json"):
        answer = own_hub.get(f"/{name}{query}")
        assert answer.status == 404
        assert answer.text == f"there is no channel {name}; the hub's own is at /-/{own}\n"
        assert own_hub.request("HEAD", f"/{name}{query}").status == 404
        person = {"Accept": BROWSER, "Sec_Fetch_Dest": "document"}
        assert own_hub.get(f"/{name}{query}", **person).status == 404
    with Stream(own_hub, f"/{name}") as stream:
        assert stream.status == 200
    own_hub.publish(f"/{name}", "it is one")
    assert own_hub.get(f"/{name}").status == 200


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("sign", ["Upgrade-Insecure-Requests: 1", "Sec-Fetch-Dest: document"])
def test_a_person_who_opens_a_channel_gets_its_page(hub: Hub, sign: str) -> None:
    name, _, value = sign.partition(": ")
    headers = {name.replace("-", "_"): value, "Accept": BROWSER}
    answer = hub.get("/opened", **headers)
    assert (answer.status, answer.headers["Location"]) == (303, "/?channel=opened")
    assert answer.headers["Cache-Control"] == "no-store"
    for path, more in (
        ("/opened?format=tsv", {}), ("/opened", {"Range": "bytes=0-"}),
        ("/opened", {"Accept": "*/*"}), ("/opened", {name.replace("-", "_"): "0"}),
    ):  # fmt: skip
        assert hub.get(path, **{**headers, **more}).status in (200, 416)
    assert hub.get("/opened", Accept=BROWSER).status == 200  # Java's and curl's
