"""`wait=SECONDS`, the long poll: SPEC, section 6."""

import json
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness import PATIENCE_SECONDS, Answer, Hub, eventually, running_hub
from tests.harness.hub import answer_on
from tests.harness.waiting import AT_ONCE_SECONDS

LONG = 60  # seconds, which no test waits


def subscribers(hub: Hub) -> int:
    text = hub.get("/-/metrics").text
    [line] = [line for line in text.splitlines() if line.startswith("esource_subscribers ")]
    return int(float(line.split()[1]))


class Poll:
    """A long poll, in a thread of its own; begun once the hub waits."""

    def __init__(self, hub: Hub, path: str, **headers: str) -> None:
        self.answers: list[Answer] = []
        self.connection = hub.connect()
        before = subscribers(hub)

        def ask() -> None:
            self.answers.append(answer_on(self.connection, "GET", path, None, **headers))

        self._thread = threading.Thread(target=ask)
        self._thread.start()
        eventually(lambda: subscribers(hub) == before + 1)

    def answer(self) -> Answer:
        self._thread.join(PATIENCE_SECONDS)
        [answer] = self.answers
        return answer


# -- what it answers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    {
        "after=1": "two three ",
        "after=": "one two three ",
        "after=1&event=a": "three ",
        "after=1&limit=1": "two ",
        "tail=1": "three ",
        "from=b": "two three ",
        "after=&until=b": "one two ",
        "since=1970-01-01": "",  # there is none, so it waits
    }.items(),
)
def test_what_there_is_comes_at_once(hub: Hub, query: str, expected: str) -> None:
    hub.prepare("there", b"1\ta\tone\n2\tb\ttwo\n3\ta\tthree\n")
    wait = LONG if expected else 0
    for format in ("raw", "tsv"):
        answer = hub.get(f"/there?format={format}&wait={wait}&{query}")
        assert answer.status == 200
        data = [line.rpartition("\t")[2] + " " for line in answer.text.splitlines()]
        assert "".join(data) == expected


@pytest.mark.parametrize("format", ["tsv", "ndjson", "json", "raw", "sse", "sse-json"])
@pytest.mark.parametrize(
    ("query", "verdict"),
    [("", "live"), ("after=1", "exact"), ("tail=0", None), ("event=a", "live"),
     ("after=1&event=a&limit=1", "exact"), ("from=z&event=none&until=a", "start")],
)  # fmt: skip
def test_else_the_next_event_comes(
    hub: Hub, format: str, query: str, verdict: str | None
) -> None:  # fmt: skip
    channel = f"next-{format}-{quote(query, safe='').replace('%', '_')}"[:64]
    hub.publish(f"/{channel}?id=1&event=b", "old")
    poll = Poll(hub, f"/{channel}?follow=0&format={format}&wait={LONG}&{query}")
    if "event" in query:
        hub.publish(f"/{channel}?event=b", "not for it")
    hub.publish(f"/{channel}?event=a", "the next")
    answer = poll.answer()
    assert (answer.status, answer.headers["Esource-Resume"]) == (200, verdict)
    assert b"the next" in answer.body
    assert b"old" not in answer.body
    assert b"not for it" not in answer.body
    assert "ETag" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("query", ["", "after=1", "tail=0", "event=a", "event=a&after="])
def test_and_after_that_long_an_empty_answer(hub: Hub, query: str) -> None:
    hub.post("/nothing?id=1&event=b&unique=1", "old")
    began = time.monotonic()
    answer = hub.get(f"/nothing?wait=0.2&{query}")
    assert 0.2 <= time.monotonic() - began < AT_ONCE_SECONDS
    assert (answer.status, answer.body, answer.headers["Last-Event-ID"]) == (200, b"", "1")
    assert hub.get(f"/nothing?wait=0&{query}").body == b""


def test_a_channel_that_nobody_has_written_to_is_waited_for(hub: Hub) -> None:
    poll = Poll(hub, f"/nobody?wait={LONG}")
    assert not hub.has("nobody")
    id = hub.publish("/nobody", "the first")
    answer = poll.answer()
    assert (answer.text, answer.headers["Last-Event-ID"]) == (f"{id}\t\tthe first\n", id)


def test_one_that_finds_no_event_at_all_has_something_to_go_on_with(hub: Hub) -> None:
    answer = hub.get("/nobody-yet?wait=0.1")
    hub.post("/nobody-yet?id=between", b"two polls")
    cursor = quote(answer.headers["Last-Event-ID"])
    assert hub.get(f"/nobody-yet?wait=9&after={cursor}&format=raw").text == "two polls\n"


def test_a_busy_channel_of_other_types_does_not_make_it_longer(hub: Hub) -> None:
    done = threading.Event()

    def publish() -> None:
        while not done.is_set():
            hub.publish("/busy?event=noise", "x")

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        began = time.monotonic()
        assert hub.get("/busy?event=signal&wait=0.3").body == b""
        assert time.monotonic() - began < AT_ONCE_SECONDS
    finally:
        done.set()
        thread.join()


def test_a_loop_of_long_polls_loses_nothing_and_repeats_nothing(hub: Hub) -> None:
    def publish() -> None:
        for number in range(100):
            hub.publish(f"/loop?event={'ab'[number % 2]}", f"{number}")

    cursors = {"": "", "&event=a": ""}
    found: dict[str, list[str]] = {query: [] for query in cursors}

    def loop(query: str) -> None:
        while "the end" not in found[query]:
            path = f"/loop?wait={LONG}&format=ndjson&after={quote(cursors[query])}{query}"
            answer = hub.get(path)
            found[query] += [json.loads(line)["data"] for line in answer.text.splitlines()]
            cursors[query] = answer.headers["Last-Event-ID"]

    pollers = [threading.Thread(target=loop, args=[query]) for query in cursors]
    publishers = [threading.Thread(target=publish) for _ in range(2)]
    for thread in (*pollers, *publishers):
        thread.start()
    for thread in publishers:
        thread.join()
    hub.publish("/loop?event=a", "the end")
    for thread in pollers:
        thread.join(PATIENCE_SECONDS)
    rows = [row.decode().split("\t") for row in hub.rows("loop")]
    assert found[""] == [data for _, _, data in rows]
    assert found["&event=a"] == [data for _, type, data in rows if type == "a"]


def test_only_what_need_not_be_waited_for_has_a_name(hub: Hub) -> None:
    hub.publish("/named?id=1", "one")
    path = f"/named?after=&wait={LONG}"
    etag = hub.get(path).headers["ETag"]
    assert hub.get(path, If_None_Match=etag).status == 304
    for query in ("wait=0", "wait=0&after=1", "wait=0&tail=0"):
        answer = hub.get(f"/named?{query}", If_None_Match=etag)
        assert (answer.status, answer.headers["ETag"]) == (200, None)
    # What was waited for is not what the same request is answered now.
    poll = Poll(hub, f"/named?tail=0&wait={LONG}")
    hub.publish("/named?id=2", "two")
    assert "ETag" not in poll.answer().headers


# -- whom it counts as, and how it ends ----------------------------------------------------


def test_it_counts_as_a_subscriber(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_MAX_SUBSCRIBERS="1") as hub:
        poll = Poll(hub, f"/counts?wait={LONG}")
        refused = hub.get("/counts?wait=1")
        assert (refused.status, refused.text) == (503, "too many subscribers; come back later\n")
        assert refused.headers["Retry-After"]
        assert hub.get("/counts").status == 200
        hub.publish("/counts", "one")
        assert poll.answer().status == 200
        assert subscribers(hub) == 0
        assert hub.get("/counts?after=&wait=1").text.endswith("one\n")
        assert subscribers(hub) == 0


def test_a_client_that_leaves_is_noticed_at_once(own_hub: Hub) -> None:
    for query in ("", "&event=a"):
        connection = own_hub.connect()
        connection.sendall(f"GET /leaves?wait={LONG}{query} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        eventually(lambda: subscribers(own_hub) == 1)
        connection.close()
        eventually(lambda: subscribers(own_hub) == 0, AT_ONCE_SECONDS)
    assert "Traceback" not in own_hub.log


@pytest.mark.parametrize("how", ["stop", "reload"])
def test_a_stop_or_reload_ends_it_at_once(own_hub: Hub, how: str) -> None:
    own_hub.publish("/stops?id=1", "one")
    polls = [Poll(own_hub, f"/stops?wait={LONG}{query}") for query in ("", "&after=1&event=a")]
    began = time.monotonic()
    if how == "stop":
        assert own_hub.stop() == 0
    else:
        assert own_hub.process
        own_hub.process.send_signal(1)
    for poll in polls:
        answer = poll.answer()
        assert (answer.status, answer.body, answer.headers["Last-Event-ID"]) == (200, b"", "1")
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert "Traceback" not in own_hub.log


def test_a_file_that_is_moved_away_meanwhile_is_followed_by_the_next_one(own_hub: Hub) -> None:
    own_hub.publish("/moved?id=1", "old")
    polls = [Poll(own_hub, f"/moved?wait={LONG}{query}") for query in ("", "&after=1&event=a")]
    own_hub.take_away("moved")
    own_hub.publish("/moved?id=2&event=a", "new")
    for poll in polls:
        answer = poll.answer()
        assert (answer.text, answer.headers["Last-Event-ID"]) == ("2\ta\tnew\n", "2")


@pytest.mark.parametrize(
    ("query", "reason"),
    {
        "wait=301": "must be 0 to 300 seconds", "wait=-1": "must be 0 to 300 seconds",
        "wait=": "must be 0 to 300 seconds", "wait=1m": "must be 0 to 300 seconds",
        "wait=1&follow=1": "wait is for a finite read", "wait=1&format=sse": "add follow=0",
        "wait=1&before=2020-01-01": "wait is for what comes next",
        "wait=1&timeout=1": "timeout is for a follow",
    }.items(),
)  # fmt: skip
def test_what_it_is_not_for_is_refused(hub: Hub, query: str, reason: str) -> None:
    answer = hub.get(f"/refused?{query}")
    assert answer.status == 400
    assert reason in answer.text


def test_five_minutes_are_the_most(hub: Hub) -> None:
    hub.publish("/most", "one")
    assert hub.get("/most?wait=300&tail=1").status == 200
