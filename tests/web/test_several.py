"""`GET /-/read`: several channels in one stream, with one cursor (SPEC, section 6)."""

import itertools
import json
import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from tests.harness import Answer, Hub, Stream, eventually, running_hub

Pairs = list[tuple[str, str]]
TYPES = ["", "a", "b"]


class Row(NamedTuple):
    """An event of a channel."""

    channel: str
    id: str
    type: str
    data: str


def path_of(channels: list[str], *more: tuple[str, str]) -> str:
    return "/-/read?" + urlencode([*(("channel", name) for name in channels), *more])


def row_of(event: dict[str, Any]) -> Row:
    assert list(event) == ["channel", "id", "event_id", "event", "data"]
    return Row(event["channel"], event["event_id"], event["event"], event["data"])


def from_ndjson(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines()]


def from_json(body: bytes) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(body)
    assert body.count(b"\n") == 2 + len(events)
    return events


def from_frames(body: bytes) -> list[dict[str, Any]]:
    events = []
    for block in body.decode().removeprefix(":\n").split("\n\n"):
        lines = [line for line in block.split("\n") if line and line != ":"]
        if lines and not lines[0].startswith("retry"):
            id, data = lines
            events.append(json.loads(data.removeprefix("data: ")))
            assert id == f"id: {events[-1]['id']}"
    return events


FORMATS: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "ndjson": from_ndjson, "json": from_json, "sse-json": from_frames,
}  # fmt: skip


def events_of(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer
    return from_ndjson(answer.body)


def of_channel(events: list[dict[str, Any]], name: str) -> list[Row]:
    return [row_of(event) for event in events if event["channel"] == name]


def hours(count: int) -> str:
    moment = datetime(2020, 1, 1, tzinfo=timezone.utc) + timedelta(hours=count)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def write(hub: Hub, channel: str, count: int) -> list[Row]:
    rows = [Row(channel, hours(n), TYPES[n % 3], f"{channel} {n}") for n in range(count)]
    text = "".join(f"{row.id}\t{row.type}\t{row.data}\n" for row in rows)
    hub.prepare(channel, text)
    return rows


# -- the merge of the lists ----------------------------------------------------------------


def merged(
    rows: dict[str, list[Row]], since: int | None, tail: int | None, types: tuple[str, ...]
) -> dict[str, list[Row]]:
    chosen = {}
    for name, each in rows.items():
        found = each if since is None else each[since + 1 :]
        found = [row for row in found if not types or row.type in types]
        chosen[name] = found if tail is None else found[len(found) - min(tail, len(found)) :]
    return chosen


CHOICES = list(
    itertools.product([None, 1, 99], [None, 0, 2], [(), ("a",), ("", "b")], [None, 0, 4], FORMATS)
)


@pytest.mark.parametrize("follow", [False, True])
def test_every_selection_is_the_merge_of_the_lists(hub: Hub, follow: bool) -> None:
    names = [f"walk-{follow}-{n}" for n in range(4)]
    rows = {name: write(hub, name, 7 * n) for n, name in enumerate(names)}
    for since, tail, types, limit, format in CHOICES:
        pairs: Pairs = [("format", format), ("event", ""), ("event", "b")][
            : 1 + 2 * (len(types) == 2)
        ]
        pairs += [("event", "a")] * (types == ("a",))
        pairs += [("follow", "1"), ("timeout", "0")] if follow else [("follow", "0")]
        pairs += [("since", hours(since))] if since is not None else []
        pairs += [("tail", str(tail))] if tail is not None else []
        pairs += [("limit", str(limit))] if limit is not None else []
        pairs += [("after", "")] if follow and since is None and tail is None else []
        answer = hub.get(path_of(names, *pairs))
        assert answer.status == 200, answer
        got = FORMATS[format](answer.body)
        expected = merged(rows, since, tail, types)
        count = sum(map(len, expected.values()))
        assert len(got) == (count if limit is None else min(limit, count)), pairs
        for name in names:
            each = of_channel(got, name)
            assert each == expected[name][: len(each)], pairs
        assert ("Last-Event-ID" in answer.headers) == (not follow and limit is None)


def test_history_comes_in_turns_of_blocks(hub: Hub) -> None:
    for name in ("turn-a", "turn-b"):
        hub.put(name, b"".join(b"%d\t\t%b\n" % (n, b"x" * 500) for n in range(2000)))
    events = events_of(hub.get(path_of(["turn-a", "turn-b"])))
    assert len(events) == 4000
    runs = [len(list(run)) for _, run in itertools.groupby(events, lambda event: event["channel"])]
    assert len(runs) >= 6
    for name in ("turn-a", "turn-b"):
        assert [row.id for row in of_channel(events, name)] == [str(n) for n in range(2000)]


# -- the cursor ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "carried_by", ["after", "lastEventId", "last_event_id", "Last-Event-ID", "header"]
)
def test_every_id_is_a_cursor(hub: Hub, carried_by: str) -> None:
    names = [f"cursor-{carried_by[-3:]}-{n}".lower() for n in range(3)]
    for n, name in enumerate(names):
        write(hub, name, 3 * n)
    every = events_of(hub.get(path_of(names)))
    types = random.Random(2).choices(["", "a", None], k=len(every))
    for n, (event, type) in enumerate(zip(every, types, strict=True)):
        only: Pairs = [] if type is None else [("event", type)]
        if carried_by == "header":
            rest = events_of(hub.get(path_of(names, *only), Last_Event_ID=event["id"]))
        else:  # and the last of them wins over where the link started
            first: Pairs = [] if carried_by == "after" else [("tail", "0")]
            rest = events_of(hub.get(path_of(names, *only, *first, (carried_by, event["id"]))))
        wanted = [each for each in every[n + 1 :] if type is None or each["event"] == type]
        for name in names:
            assert of_channel(rest, name) == of_channel(wanted, name)


def test_a_cursor_is_of_any_order_and_a_channel_that_is_not_in_it_is_read_from_its_start(
    hub: Hub,
) -> None:
    rows = {name: write(hub, name, 4) for name in ("part-a", "part-b", "part-c")}
    cursor = hub.get(path_of(["part-a", "part-b"])).headers["Last-Event-ID"]
    events = events_of(hub.get(path_of(["part-c", "part-b", "part-a"], ("after", cursor))))
    assert [row_of(event) for event in events] == rows["part-c"]
    answer = hub.get(path_of(["part-a"], ("after", "unheard of")))
    assert of_channel(events_of(answer), "part-a") == rows["part-a"]
    assert answer.headers["Esource-Resume"] == "start"


def test_a_place_of_one_channel_is_a_cursor(hub: Hub) -> None:
    rows = write(hub, "single", 3)
    body = hub.get("/single?format=sse&follow=0&prime=1&tail=1").body
    place = body.split(b"\n")[1].removeprefix(b"id: ").decode()
    assert (
        of_channel(events_of(hub.get(path_of(["single"], ("after", place)))), "single") == rows[2:]
    )
    cursor = events_of(hub.get(path_of(["single"])))[1]["id"]
    answer = hub.get(f"/single?after={cursor}")
    assert answer.headers["Esource-Resume"] == "exact"
    assert answer.text == hub.get("/single?tail=1").text


def test_sixteen_channels_have_a_cursor_of_a_kilobyte_at_most(hub: Hub) -> None:
    names = [f"sixteen-{n}" for n in range(16)]
    for name in names:
        write(hub, name, 1)
    assert len(events_of(hub.get(path_of(names)))[-1]["id"]) <= 1024


# -- following -----------------------------------------------------------------------------


def test_what_several_publishers_send_comes_once_and_in_order_over_cuts(hub: Hub) -> None:
    names = [f"live-{n}" for n in range(5)]
    sent: dict[str, list[str]] = {name: [] for name in names}

    def publish(name: str) -> None:
        for n in range(60):
            sent[name].append(hub.publish(f"/{name}", f"{name} {n}"))

    cursor = ""
    got: list[dict[str, Any]] = []
    publishers = [threading.Thread(target=publish, args=(name,)) for name in names]
    for each in publishers:
        each.start()
    chance = random.Random(5)
    while len(got) < 60 * len(names):
        count = min(chance.randint(1, 40), 60 * len(names) - len(got))
        more: Pairs = [("after", cursor), ("format", "sse-json"), ("limit", str(count))]
        with Stream(hub, path_of(names, *more)) as stream:
            body = stream.read_to_end()
        got += from_frames(body)
        cursor = got[-1]["id"]
    for each in publishers:
        each.join()
    for name in names:
        assert [row.id for row in of_channel(got, name)] == sent[name]


def test_a_follow_is_primed_for_an_event_source_and_tells_a_filtered_one_where_it_stands(
    own_hub: Hub,
) -> None:
    own_hub.post("/left", b"old")
    path = path_of(["left", "right"], ("event", "x"), ("heartbeat", "1"))
    with Stream(own_hub, path, Pragma="no-cache") as stream:
        stream.read_until(b"\n\n")
        first = stream.body.split(b"\n")[1].removeprefix(b"id: ").decode()
        own_hub.post("/right?event=x", b"seen")
        own_hub.post("/left", b"passed over")
        stream.read_until(b"seen")
        seen = len(stream.body)
        place = stream.read_until(b"\n\n:\n")[seen:].split(b"id: ")[-1].split(b"\n")[0].decode()
    for cursor, data in ((first, ["passed over", "seen"]), (place, [])):
        events = events_of(own_hub.get(path_of(["left", "right"], ("after", cursor))))
        assert sorted(event["data"] for event in events) == data
    assert from_ndjson(own_hub.get(path_of(["left"], ("after", place))).body) == []


def test_a_stop_ends_it_with_when_to_come_back(own_hub: Hub) -> None:
    with Stream(own_hub, path_of(["stop-a", "stop-b"], ("heartbeat", "1000"))) as stream:
        own_hub.post("/stop-b", b"x")
        stream.read(1)
        assert own_hub.stop() == 0
        assert b"\nretry: " in stream.read_to_end()


def test_each_channel_counts_as_a_subscriber(own_hub: Hub) -> None:
    own_hub.stop()
    own_hub.environ["ESOURCE_MAX_SUBSCRIBERS"] = "4"
    own_hub.start()

    def subscribers() -> bytes:
        lines = own_hub.get("/-/metrics").body.splitlines()
        return next(line for line in lines if line.startswith(b"esource_subscribers "))

    with Stream(own_hub, path_of(["count-a", "count-b", "count-c"])):
        assert subscribers().endswith(b" 3.0")
        assert own_hub.get(path_of(["count-a", "count-b"], ("wait", "9"))).status == 503
        busy = own_hub.get(path_of(["count-a", "count-b"]), Accept="text/event-stream")
        assert (busy.status, b"retry:" in busy.body) == (200, True)
    eventually(lambda: subscribers().endswith(b" 0.0"))


# -- a long poll, and what can be asked about ----------------------------------------------


def test_a_long_poll_of_several_loses_and_repeats_nothing(hub: Hub) -> None:
    names = ["poll-a", "poll-b"]

    def publish() -> None:
        for n in range(40):
            hub.publish(f"/{names[n % 2]}", str(n))

    publisher = threading.Thread(target=publish)
    got: list[str] = []
    cursor = ""
    publisher.start()
    while len(got) < 40:
        answer = hub.get(path_of(names, ("after", cursor), ("wait", "20")))
        got += [event["data"] for event in events_of(answer)]
        assert answer.body
        cursor = answer.headers["Last-Event-ID"]
    publisher.join()
    assert sorted(got, key=int) == [str(n) for n in range(40)]


def test_a_long_poll_without_news_is_empty_and_goes_on(hub: Hub) -> None:
    write(hub, "quiet-a", 2)
    answer = hub.get(path_of(["quiet-a", "quiet-b"], ("wait", "0.1")))
    assert (answer.status, answer.body) == (200, b"")
    hub.post("/quiet-b", b"x")
    cursor = answer.headers["Last-Event-ID"]
    events = events_of(hub.get(path_of(["quiet-a", "quiet-b"], ("after", cursor), ("wait", "9"))))
    assert [event["data"] for event in events] == ["x"]


def test_a_read_of_several_can_be_asked_about(hub: Hub) -> None:
    path = path_of(["asked-a", "asked-b"])
    write(hub, "asked-a", 2)
    etag = hub.get(path).headers["ETag"]
    assert hub.get(path, If_None_Match=etag).status == 304
    assert hub.get(path + "&format=json", If_None_Match=etag).status == 200
    hub.post("/asked-b", b"x")
    assert hub.get(path, If_None_Match=etag).status == 200


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "say which"),
        ("channel=abc", "not a channel name"),
        ("channel=", "not a channel name"),
        ("channel=orders&channel=orders", "twice"),
        ("&".join(f"channel=many-{n}" for n in range(17)), "more than 16"),
        ("channel=orders&from=a", "unknown parameter 'from'"),
        ("channel=orders&until=a", "unknown parameter 'until'"),
        ("channel=orders&before=a", "unknown parameter 'before'"),
        ("channel=orders&format=tsv", "must be one of ndjson, json, sse-json"),
        ("channel=orders&format=sse", "must be one of"),
        ("channel=orders&wait=1&follow=1", "wait is for a finite read"),
        ("channel=orders&timeout=1", "timeout is for a follow"),
        ("channel=orders&tail=", "tail is ''"),
    ],
)
def test_what_makes_no_sense_is_refused(hub: Hub, query: str, text: str) -> None:
    answer = hub.get(f"/-/read?{query}")
    assert (answer.status, text in answer.text) == (400, True), answer


def test_a_listed_page_may_ask(tmp_path: Any) -> None:
    with running_hub(tmp_path, ESOURCE_CORS_ORIGINS="https://a.example") as hub:
        answer = hub.get(path_of(["orders"]), Origin="https://a.example")
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
