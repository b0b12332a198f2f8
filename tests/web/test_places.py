"""Places, and streams that begin with one: SPEC, sections 3 and 4.

A place is `@<generation>-<offset>`. A client that has seen no event yet comes back with it, and
loses none.
"""

import json
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from esource.rows import tsv
from tests.harness import Answer, Hub, Stream, eventually, running_hub
from tests.harness.hub import children

EVENT_SOURCE = {"Pragma": "no-cache"}  # beside the `Accept` that a `Stream` sends
PLACE = re.compile(rb"id: (@[0-9a-f]+-[0-9]+)\n\n")


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub whose heartbeats come all the time."""
    home = tmp_path_factory.mktemp("restless")
    with running_hub(home, ESOURCE_HEARTBEAT_SECONDS="0.05") as hub:
        yield hub


def primed(hub: Hub, path: str, **headers: str) -> Stream:
    """Follow as an `EventSource` does; return when it has its place."""
    stream = Stream(hub, path, **EVENT_SOURCE, **headers)
    stream.read_until(b"\n\n")
    return stream


def place_of(stream: Stream) -> str:
    """Return the place that a stream began with."""
    match = PLACE.search(stream.body)
    assert match, stream.body
    return match[1].decode()


def reload(hub: Hub) -> None:
    """Reload; return when the new worker serves."""
    assert hub.process
    old = hub.worker
    hub.process.send_signal(signal.SIGHUP)
    eventually(lambda: old not in children(hub.process.pid) if hub.process else None)
    hub.wait_until_up()


def place_at_the_end(hub: Hub, channel: str) -> str:
    with primed(hub, f"/{channel}") as stream:
        return place_of(stream)


def write(hub: Hub, channel: str, rows: bytes) -> None:
    hub.prepare(channel, rows)


ROWS = b"1\ta\tone\nno event\n\t\tno id\n2\tb\ttwo\n2\t\tagain\n"
BOUNDARIES = [match.end() for match in re.finditer(b"^|\n", ROWS)]


# -- who is told ---------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["sse", "sse-json"])
def test_an_event_source_is_told_first_of_all_where_it_stands(hub: Hub, format: str) -> None:
    channel = f"first-{format}"
    write(hub, channel, ROWS)
    generation = place_at_the_end(hub, channel).partition("-")[0]
    assert re.fullmatch("@[0-9a-f]{12}([0-9a-f]{4})?", generation)
    first = f"id: {generation}-{len(ROWS)}\n\n"
    with primed(hub, f"/{channel}?format={format}") as stream:
        id = hub.publish(f"/{channel}", "three")
        stream.read(1)
        data = "three" if format == "sse" else json.dumps(
            {"id": id, "event": "", "data": "three"}, separators=(",", ":")
        )  # fmt: skip
        assert stream.body.decode() == f":\n{first}id: {id}\ndata: {data}\n\n"
    # And wherever else it starts.
    for query, offset in {"after=1": 8, "after=": 0, "tail=1": len(ROWS), "from=b": 25}.items():
        with primed(hub, f"/{channel}?{query}") as stream:
            assert stream.body.startswith(f":\nid: {generation}-{offset}\n\n".encode()), query


@pytest.mark.parametrize(
    ("query", "accept", "pragma", "is_told"),
    [
        ("", "text/event-stream", "no-cache", True),
        ("", " Text/Event-Stream", "No-Cache ", True),
        ("", "text/event-stream", "", False),  # npm's eventsource, httpx-sse
        ("", "text/event-stream", "cache", False),
        ("", "text/event-stream, */*", "no-cache", False),
        ("", "text/event-stream; charset=utf-8", "no-cache", False),
        ("format=sse", "*/*", "no-cache", False),  # curl
        ("prime=0", "text/event-stream", "no-cache", False),
        ("prime=1", "text/event-stream", "", True),
        ("prime", "text/event-stream, */*", "", True),
        ("prime=1&format=sse-json", "*/*", "", True),
        ("prime=1&follow=0", "text/event-stream", "", True),
        ("prime=0&follow=0", "text/event-stream", "no-cache", False),
    ],
)
def test_others_are_told_if_they_ask_for_it(
    hub: Hub, query: str, accept: str, pragma: str, is_told: bool
) -> None:
    ends = "" if "follow" in query else "&timeout=0"
    headers = {"Accept": accept, **({"Pragma": pragma} if pragma else {})}
    body = hub.get(f"/told?{query}{ends}", **headers).body
    assert re.fullmatch(rb":\n(:\n)?" if not is_told else rb":\nid: @0-0\n\n(:\n)?", body)
    assert not hub.has("told")


@pytest.mark.parametrize("format", ["tsv", "ndjson", "json", "raw"])
def test_only_an_event_stream_has_places(hub: Hub, format: str) -> None:
    for follow in "01":
        answer = hub.get(f"/only?format={format}&follow={follow}&prime=1")
        assert (answer.status, answer.text) == (400, "prime is for event streams\n")
    answer = hub.get(f"/only?format={format}&follow=1&timeout=0", **EVENT_SOURCE)
    assert b"@" not in answer.body


# -- places as resume points ---------------------------------------------------------------


def by_each_way(hub: Hub, channel: str, place: str) -> Iterator[Answer]:
    path = f"/{channel}?format=tsv"
    yield hub.get(path, Last_Event_ID=place)
    yield hub.get(f"{path}&tail=1", Last_Event_ID=place)
    for name in ("after", "lastEventId", "last_event_id", "Last-Event-ID"):
        yield hub.get(f"{path}&{name}={place}")


def test_each_place_where_a_row_begins_resumes_there_for_as_long_as_the_file_grows(
    own_hub: Hub,
) -> None:
    write(own_hub, "grows", ROWS)
    generation = place_at_the_end(own_hub, "grows").partition("-")[0]

    def check() -> None:
        rows = own_hub.content("grows")
        for offset in (match.end() for match in re.finditer(b"^|\n", rows)):
            answer = own_hub.get(f"/grows?after={generation}-{offset}")
            assert (answer.headers["Esource-Resume"], answer.body) == ("exact", rows[offset:])
        for answer in by_each_way(own_hub, "grows", f"{generation}-{len(ROWS)}"):
            assert (answer.headers["Esource-Resume"], answer.body) == ("exact", rows[len(ROWS) :])

    check()
    own_hub.publish("/grows", "three")
    own_hub.put("grows", b"4\t\tby hand\nnone either\n5\t\tby hand\n")
    check()
    reload(own_hub)
    check()
    own_hub.stop()
    own_hub.put("grows", b"6\t\twhile it is down\n")
    own_hub.start()
    own_hub.publish("/grows", "seven")
    check()


def test_any_other_place_is_an_id_that_is_not_known(own_hub: Hub) -> None:
    write(own_hub, "other", ROWS + b"2020-01-01\t\tthe newest id is a time\n")
    rows = own_hub.content("other")
    place = place_at_the_end(own_hub, "other")
    generation, _, end = place.partition("-")

    def is_unknown(place: str) -> bool:
        answers = list(by_each_way(own_hub, "other", place))
        return (
            all(
                answer.body == own_hub.content("other")
                and answer.headers["Esource-Resume"] == "start"
                for answer in answers[2:]
            )
            and own_hub.get(f"/other?before={place}").status == 400
        )

    for offset in set(range(len(rows) + 2)) - {*BOUNDARIES, len(rows)}:
        answer = own_hub.get(f"/other?after={generation}-{offset}")
        assert (answer.headers["Esource-Resume"], answer.body) == ("start", rows), offset
    for other in (
        f"{generation}-{int(end) + 1}", f"{generation}-{10**17}", f"{generation}-{'9' * 30}",
        f"@0-{end}", "@0-0", f"{generation[:-1]}-0", f"{generation}-", f"{generation}--1",
        f"{generation.upper()}Z-0", f"{generation[1:]}-0",
    ):  # fmt: skip
        assert is_unknown(other), other
    # Another file of this name, though it has the same rows.
    own_hub.take_away("other")
    write(own_hub, "other", rows)
    assert is_unknown(place)
    assert place_at_the_end(own_hub, "other") != place


def test_a_read_may_end_before_a_place(hub: Hub) -> None:
    write(hub, "ends", ROWS)
    generation = place_at_the_end(hub, "ends").partition("-")[0]
    for end in BOUNDARIES:
        assert hub.get(f"/ends?before={generation}-{end}").body == ROWS[:end]
    path = f"/ends?after={generation}-{BOUNDARIES[1]}&before={generation}-{BOUNDARIES[4]}"
    assert hub.get(path).body == ROWS[BOUNDARIES[1] : BOUNDARIES[4]]


# -- a client that has seen nothing --------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "reload"])
def test_a_client_that_has_seen_no_event_loses_none(own_hub: Hub, how: str) -> None:
    own_hub.publish("/quiet", "old")
    own_hub.publish("/rare?event=often", "old")
    paths = ["/quiet", "/rare?event=seldom", "/empty", "/never?event=seldom"]
    streams = [primed(own_hub, path) for path in paths]
    assert not own_hub.has("empty")
    own_hub.publish("/rare?event=often", "not for it")
    if how == "restart":
        own_hub.stop()
        own_hub.put("quiet", b"1\tseldom\tby hand\n")
        own_hub.start()
    else:
        reload(own_hub)
    for path, stream in zip(paths, streams, strict=True):
        with stream:
            stream.read_to_end()
        assert stream.events == []
        channel = path.partition("?")[0]
        for type in ("often", "seldom", "often"):
            own_hub.publish(f"{channel}?event={type}", "meanwhile")
        for _ in range(2):  # until it has seen one, it comes back with the same
            with primed(own_hub, path, Last_Event_ID=place_of(stream)) as again:
                is_new = channel in ("/empty", "/never")
                assert again.headers["Esource-Resume"] == ("start" if is_new else "exact")
                last = own_hub.publish(f"{channel}?event=seldom", "live").encode()
                again.read_until(b"id: %b\ndata: live\n\n" % last)
            rows = tsv.decode(own_hub.content(channel[1:]))
            missed = [event for event in rows if event.data != b"old"]
            if "?" in path:
                missed = [event for event in missed if event.type == b"seldom"]
            assert again.events == missed


# -- a filtered stream ---------------------------------------------------------------------


def soon(stream: Stream, wanted: bytes) -> None:
    """Read until something has come; fail after a while though heartbeats come all the time."""
    eventually(lambda: wanted in stream.body or (stream.read_more() and wanted in stream.body))


def test_a_filtered_stream_repeats_its_place_once_it_has_passed_over_events(
    restless: Hub,
) -> None:
    restless.publish("/passes?event=b", "before")
    with primed(restless, "/passes?event=a") as stream:
        start = place_of(stream)
        soon(stream, b"\n\n:\n:\n:\n")  # silence is no reason
        restless.publish("/passes?event=b", "not for it")
        passed = place_at_the_end(restless, "passes")
        soon(stream, f"id: {passed}\n\n:\n:\n:\n".encode())  # once
        id = restless.publish("/passes?event=a", "for it")
        soon(stream, b"data: for it\n\n:\n:\n:\n")  # what it has seen names where it is
        restless.publish("/passes?event=b", "not for it")
        last = place_at_the_end(restless, "passes")
        soon(stream, f"id: {last}\n\n:\n:\n:\n".encode())
        beats = "(:\n)+"
        body = (
            f"{beats}id: {start}\n\n{beats}id: {passed}\n\n{beats}"
            f"event: a\nid: {id}\ndata: for it\n\n{beats}id: {last}\n\n{beats}"
        )
        assert re.fullmatch(body, stream.body.decode())


def test_no_other_stream_repeats_its_place(restless: Hub) -> None:
    restless.publish("/others", "before")
    with (
        Stream(restless, "/others?event=a") as unprimed,
        primed(restless, "/others") as whole,
        primed(restless, "/others?until=z") as until,
    ):  # fmt: skip
        restless.publish("/others?id=1", "one")
        for stream in (whole, until):
            stream.read_until(b"data: one\n\n:\n:\n:\n")
            assert len(PLACE.findall(stream.body)) == 1
        unprimed.read_until(b":\n" * 4)
        assert re.fullmatch(rb"(:\n)+", unprimed.body)


def last_id(body: bytes) -> str:
    """Return the id with which a browser would come back: that of the last whole block."""
    ids: list[bytes] = re.findall(rb"^id: (.*)$", body[: body.rfind(b"\n\n")], re.MULTILINE)
    return ids[-1].decode()


def test_a_filtered_stream_that_is_cut_at_any_moment_goes_on_without_a_gap(restless: Hub) -> None:
    chance = random.Random(7)
    total = 120

    def publish() -> None:
        chance = random.Random(8)
        for number in range(total):
            restless.publish(f"/cut_off?event={chance.choice('abbb')}", f"{number}")
            if not number % 20:
                time.sleep(0.12)  # two heartbeats: a place may be told

    seen: list[tuple[str, int]] = []  # each id that it could come back with, and how many it had
    events: list[bytes] = []
    with primed(restless, "/cut_off?event=a") as stream:
        last = place_of(stream)
    seen.append((last, 0))
    publisher = threading.Thread(target=publish)
    publisher.start()
    is_last = False
    while not is_last:
        is_last = not publisher.is_alive()
        with primed(restless, "/cut_off?event=a", Last_Event_ID=last) as stream:
            if is_last:
                restless.publish("/cut_off?event=a", "the end")
                stream.read_until(b"data: the end\n\n")
            else:
                stream.read_bytes(len(stream.body) + chance.choice([1, 2, 30, 100, 300]))
        events += [event.data for event in stream.events]
        last = last_id(stream.body)
        seen.append((last, len(events)))
    expected = [e.data for e in tsv.decode(restless.content("cut_off")) if e.type == b"a"]
    assert events == expected
    for id, count in seen:
        rest = restless.get(f"/cut_off?event=a&format=raw&after={id}")
        assert rest.headers["Esource-Resume"] == "exact" or id == "@0-0"
        assert rest.body.split() == b" ".join(expected[count:]).split()


# -- ids of that form ----------------------------------------------------------------------

PLACES = ["@0-0", "@0123abcdef-17", "@a-999999999999999999"]
NO_PLACES = ["@", "@abc", "@xyz-1", "a@0-0", "@0-0x", "@0-", "@-0", "@A-0", "0-0", "@0-0 @0-0"]


@pytest.mark.parametrize("id", PLACES)
def test_nobody_may_give_an_id_of_that_form(hub: Hub, id: str) -> None:
    good = {
        "text/tab-separated-values": b"1\t\tone\n",
        "text/event-stream": b"id: 1\ndata: one\n\n",
        "application/x-ndjson": b'{"id":"1","data":"one"}\n',
    }
    for path in (f"/forms?id={id}", f"/forms?id={id}&unique=1"):
        answer = hub.post(path, "one")
        assert answer.status == 400
        assert "@<generation>-<offset>" in answer.text
    for kind, rows in good.items():
        for body in (rows.replace(b"1", id.encode()), rows + rows.replace(b"1", id.encode())):
            answer = hub.post("/forms", body, Content_Type=kind)
            assert answer.status == 400, kind
            assert "@<generation>-<offset>" in answer.text
    assert not hub.has("forms")


def test_other_ids_that_begin_alike_are_ids(hub: Hub) -> None:
    for id in NO_PLACES:
        hub.publish(f"/alike?id={quote(id)}", "one")
    rows = b"".join(b"%b\t\tone\n" % id.encode() for id in NO_PLACES)
    answer = hub.post("/alike", rows, Content_Type="text/tab-separated-values")
    assert answer.status == 201, answer
    assert hub.content("alike") == rows * 2
    for number, id in enumerate(NO_PLACES):
        answer = hub.get(f"/alike?after={quote(id)}")
        assert answer.headers["Esource-Resume"] == "exact"
        assert answer.body.count(b"\n") == 2 * len(NO_PLACES) - number - 1


def test_a_stream_that_begins_with_a_place_is_accepted_as_it_is(restless: Hub) -> None:
    with primed(restless, "/taken?event=a") as stream:
        for id, type in ("1", "a"), ("2", "b"), ("3", "a"):
            restless.publish(f"/taken?id={id}&event={type}", id)
        stream.read(2)
        restless.publish("/taken?event=b", "passed over")
        eventually(lambda: stream.read_more() and len(PLACE.findall(stream.body)) > 1)
    body = stream.body[: stream.body.rfind(b"\n\n") + 2]
    answer = restless.post("/copied", body, Content_Type="text/event-stream")
    assert answer.status == 201, answer
    assert restless.content("copied") == b"1\ta\t1\n3\ta\t3\n"
