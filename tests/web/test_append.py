"""Appending safely: preconditions, `expect=`, `unique=1`. SPEC, section 6."""

import http.client
import random
import re
import resource
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from tests.harness import (
    PATIENCE_SECONDS,
    Answer,
    Hub,
    Upload,
    eventually,
    post_chunked,
    post_whole,
    running_hub,
)
from tests.harness.waiting import together

TSV = "tsv"
NEVER = '"never-an-etag"'


@pytest.fixture(scope="module")
def small_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that knows three events back."""
    with running_hub(tmp_path_factory.mktemp("small"), ESOURCE_DEDUP_EVENTS="3") as hub:
        yield hub


def result_of(answer: Answer) -> dict[str, Any]:
    result: dict[str, Any] = orjson.loads(answer.body)
    return result


def is_refused(answer: Answer, status: int) -> bool:
    """Whether the answer is of this status and one line for a person."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("text/plain")
    return bool(re.fullmatch(r"[^\n]+\n", answer.text))


# -- ETag, If-Match, If-None-Match -------------------------------------------------------------


def test_the_etag_names_the_end_of_the_channel_on_get_head_and_201(hub: Hub) -> None:
    etags = [hub.get("/etag").headers["ETag"]]
    for n in range(3):
        etags.append(hub.post("/etag", f"{n}").headers["ETag"])
        assert re.fullmatch(r'"[!#-~]+"', etags[-1])
        assert hub.get("/etag").headers["ETag"] == etags[-1]
        assert hub.request("HEAD", "/etag").headers["ETag"] == etags[-1]
        assert hub.get("/etag?tail=1").headers["ETag"] == etags[-1]
    assert len(set(etags)) == 4


def test_a_precondition_takes_the_etag_of_any_format(hub: Hub) -> None:
    hub.publish("/formats", "0")
    etags = set()
    for format in ("tsv", "sse", "sse-json", "ndjson", "json", "raw"):
        answer = hub.get(f"/formats?follow=0&format={format}")
        etags.add(answer.headers["ETag"])
        assert hub.post("/formats", "x", If_None_Match=answer.headers["ETag"]).status == 412
        assert hub.post("/formats", format, If_Match=answer.headers["ETag"]).status == 201
        assert hub.post("/formats", format, If_Match=answer.headers["ETag"]).status == 412
    assert len(etags) == 6


def test_if_match_appends_only_if_nothing_was_appended_since(hub: Hub) -> None:
    first = hub.post("/if_match?id=1", "one").headers["ETag"]
    second = hub.post("/if_match?id=2", "two", If_Match=first)
    assert second.status == 201
    refused = hub.post("/if_match?id=3", "three", If_Match=first)
    assert is_refused(refused, 412)
    assert refused.headers["ETag"] == second.headers["ETag"]
    assert hub.rows("if_match") == [b"1\t\tone", b"2\t\ttwo"]
    assert hub.post("/if_match?id=3", "3", If_Match=refused.headers["ETag"]).status == 201


@pytest.mark.parametrize(
    ("field", "value", "empty", "filled"),
    [
        ("If_Match", "*", 412, 201),
        ("If_Match", NEVER, 412, 412),
        ("If_Match", "{etag}", 201, 201),
        ("If_Match", NEVER + ", {etag}", 201, 201),
        ("If_Match", "W/{etag}", 412, 412),  # RFC 9110, 13.1.1: the strong comparison
        ("If_Match", '""', 412, 412),
        ("If_Match", '"", W/"", , "', 412, 412),
        ("If_Match", '"", {etag}', 201, 201),
        ("If_None_Match", '""', 201, 201),
        ("If_None_Match", "*", 201, 412),
        ("If_None_Match", NEVER, 201, 201),
        ("If_None_Match", "{etag}", 412, 412),
        ("If_None_Match", "W/{etag}", 412, 412),  # 13.1.2: the weak one
        ("If_None_Match", NEVER + ", {etag}", 412, 412),
    ],
)
def test_preconditions(hub: Hub, field: str, value: str, empty: int, filled: int) -> None:
    channel = f"precondition-{abs(hash((field, value)))}"
    for status in (empty, filled):
        etag = hub.get(f"/{channel}").headers["ETag"]
        rows = hub.rows(channel)
        answer = hub.post(f"/{channel}", "x", **{field: value.format(etag=etag)})
        assert answer.status == status
        assert len(hub.rows(channel)) == len(rows) + (status == 201)
        if status == 412:
            assert is_refused(answer, 412)
            assert answer.headers["ETag"] == etag
        if not hub.rows(channel):
            hub.publish(f"/{channel}", "now it is filled")


def test_all_preconditions_must_hold(hub: Hub) -> None:
    etag = hub.post("/all_of?id=1", "x").headers["ETag"]
    for path, fields in {
        "/all_of?expect=1": {"If_Match": NEVER},
        "/all_of?expect=0": {"If_Match": etag},
        "/all_of": {"If_Match": etag, "If_None_Match": "*"},
    }.items():
        assert is_refused(hub.post(path, "y", **fields), 412)
    assert hub.post("/all_of?expect=1", "y", If_Match=etag, If_None_Match=NEVER).status == 201
    assert len(hub.rows("all_of")) == 2


def test_the_first_event_is_written_once_by_many_who_try(hub: Hub) -> None:
    answers: list[Answer] = []
    together(20, lambda n: answers.append(hub.post("/once", f"{n}", If_None_Match="*")))
    assert sorted(answer.status for answer in answers) == [201] + [412] * 19
    (winner,) = (answer for answer in answers if answer.status == 201)
    (row,) = hub.rows("once")
    assert row.split(b"\t")[0] == winner.id


def test_who_comes_second_to_an_empty_channel_is_told_its_etag(hub: Hub) -> None:
    for attempt in range(10):  # not every time do two share the first commit
        answers: list[Answer] = []

        def first(n: int, channel: str = f"/second-{attempt}") -> None:
            answers.append(hub.post(channel, f"{n}", If_None_Match="*"))  # noqa: B023

        together(20, first)
        etag = hub.get(f"/second-{attempt}").headers["ETag"]
        assert {answer.headers["ETag"] for answer in answers} == {etag}


def test_the_etag_of_a_201_names_the_end_right_after_ones_own_event(hub: Hub) -> None:
    # Many share a commit: who took the commit's end for their own would overlook the others.
    etags: dict[bytes, str] = {}

    def publish(number: int) -> None:
        for n in range(10):
            answer = hub.post("/own_end", f"{number} {n}")
            etags[answer.id] = answer.headers["ETag"]

    together(30, publish)
    assert len(set(etags.values())) == 300
    ids = [row.split(b"\t")[0] for row in hub.rows("own_end")]
    for id in ids[:-1:50]:
        assert hub.post("/own_end", "late", If_Match=etags[id]).status == 412
    assert hub.post("/own_end", "in time", If_Match=etags[ids[-1]]).status == 201
    assert len(hub.rows("own_end")) == 301


def test_etags_and_newest_ids_are_the_same_after_a_restart(own_hub: Hub) -> None:
    etag = own_hub.post("/restart?id=1", "x").headers["ETag"]
    own_hub.restart()
    assert own_hub.get("/restart").headers["ETag"] == etag
    assert own_hub.post("/restart?expect=0", "y").status == 412
    assert own_hub.post("/restart", "y", If_Match=NEVER).status == 412
    assert own_hub.post("/restart?id=2&expect=1", "y", If_Match=etag).status == 201
    own_hub.restart()
    assert own_hub.post("/restart?expect=1", "z").status == 412
    assert own_hub.post("/restart?expect=2", "z").status == 201


def test_a_file_that_somebody_else_changed_is_not_as_expected(own_hub: Hub) -> None:
    etag = own_hub.post("/changed?id=1", "x").headers["ETag"]
    own_hub.put("changed", "2\t\tby hand\n")
    refused = own_hub.post("/changed", "y", If_Match=etag)
    assert is_refused(refused, 412)
    assert own_hub.post("/changed?expect=1", "y").status == 412
    assert own_hub.post("/changed?expect=2", "y", If_Match=refused.headers["ETag"]).status == 201
    assert len(own_hub.rows("changed")) == 3


# -- expect= -----------------------------------------------------------------------------------


def test_expect_appends_only_after_the_event_that_it_names(hub: Hub) -> None:
    for id in ("1", "größe & 2", "a+b=%"):
        hub.publish(f"/expect?id={quote(id)}", "x")
        assert is_refused(hub.post("/expect?expect=another", "y"), 412)
        newest = hub.publish(f"/expect?expect={quote(id)}", "y")
        assert hub.post(f"/expect?expect={quote(id)}", "z").status == 412
        assert hub.post(f"/expect?expect={newest}", "z").status == 201
    assert len(hub.rows("expect")) == 9


def test_an_empty_expect_expects_an_empty_channel(hub: Hub) -> None:
    assert hub.post("/expect_empty?expect=1", "x").status == 412
    assert not hub.has("expect_empty")
    assert hub.post("/expect_empty?expect=", "x").status == 201
    assert is_refused(hub.post("/expect_empty?expect=", "y"), 412)
    assert len(hub.rows("expect_empty")) == 1


def test_a_channel_whose_newest_event_has_no_id_is_not_empty(hub: Hub) -> None:
    hub.put("no_id", b"1\t\tone\n\t\ttwo\n")  # by hand
    assert hub.post("/no_id?expect=", "x").status == 412
    assert hub.content("no_id") == b"1\t\tone\n\t\ttwo\n"


def test_a_412_says_what_the_newest_id_is_and_reading_it_helps(hub: Hub) -> None:
    hub.publish("/newest?id=17", "x")
    refused = hub.post("/newest?expect=16", "y")
    assert "17" in refused.text
    newest = hub.request("HEAD", "/newest").headers["Last-Event-ID"]
    assert hub.post(f"/newest?expect={newest}", "y").status == 201


# -- batches -----------------------------------------------------------------------------------

WAYS = {"whole": post_whole, "chunked": post_chunked}


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_is_appended_only_as_expected(hub: Hub, way: str) -> None:
    channel = f"batch-expect-{way}"
    post = WAYS[way]
    answer = post(hub, f"/{channel}?expect=", TSV, b"1\t\tx\n2\t\tx\n")
    assert answer.status == 201
    assert answer.headers["ETag"] == hub.get(f"/{channel}").headers["ETag"]
    assert is_refused(post(hub, f"/{channel}?expect=1", TSV, b"3\t\tx\n" * 10_000), 412)
    assert is_refused(post(hub, f"/{channel}?expect=", TSV, b"3\t\tx\n"), 412)
    assert post(hub, f"/{channel}?expect=2", TSV, b"3\t\tx\n" * 10_000).status == 201
    assert len(hub.rows(channel)) == 10_002


def test_a_batch_of_declared_length_that_is_refused_carries_the_etag(hub: Hub) -> None:
    etag = hub.post("/batch_etag", "x").headers["ETag"]
    answer = hub.post("/batch_etag?each=line", "y\n", If_Match=NEVER)
    assert is_refused(answer, 412)
    assert answer.headers["ETag"] == etag


def test_a_stream_that_is_refused_carries_the_etag(hub: Hub) -> None:
    etag = hub.post("/stream_etag", "x").headers["ETag"]
    with Upload(hub, "/stream_etag?each=line", If_Match=NEVER) as upload:
        upload.send(b"y\n")
        answer = upload.end()
    assert is_refused(answer, 412)
    assert answer.headers["ETag"] == etag


def test_the_precondition_of_a_stream_is_for_its_beginning(hub: Hub) -> None:
    etag = hub.get("/beginning").headers["ETag"]
    with Upload(hub, "/beginning?each=line&expect=", If_Match=etag) as upload:
        upload.send(b"one\n")
        eventually(lambda: len(hub.rows("beginning")) == 1)
        hub.publish("/beginning", "two")
        upload.send(b"three\n")
        assert upload.end().status == 201
    assert [row.split(b"\t")[2] for row in hub.rows("beginning")] == [b"one", b"two", b"three"]


def test_a_stream_whose_precondition_fails_stores_nothing_of_all_that_follows(hub: Hub) -> None:
    hub.publish("/stores_nothing", "x")
    with Upload(hub, "/stores_nothing?each=line&expect=another") as upload:
        upload.send(*(b"%d\n" % n for n in range(1000)))
        answer = upload.end()
    assert is_refused(answer, 412)
    assert len(hub.rows("stores_nothing")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_the_etag_of_a_batch_names_the_end_right_after_its_rows(hub: Hub, way: str) -> None:
    channel = f"batch-end-{way}"
    answers: list[Answer] = []
    together(
        10, lambda n: answers.append(WAYS[way](hub, f"/{channel}?each=line", "each=line", b"x\n"))
    )
    newest = max(answers, key=lambda answer: str(result_of(answer)["last"]))
    assert len({answer.headers["ETag"] for answer in answers}) == 10
    for answer in answers:
        status = 201 if answer is newest else 412
        assert hub.post(f"/{channel}", "y", If_Match=answer.headers["ETag"]).status in (status, 412)
    assert newest.headers["ETag"] != hub.get(f"/{channel}").headers["ETag"]


# -- unique=1 ----------------------------------------------------------------------------------


def test_a_retry_is_harmless(hub: Hub) -> None:
    first = hub.post("/retry?id=1&event=t&unique=1", "one\ntwo")
    again = hub.post("/retry?unique=1&event=t&id=1", "one\r\ntwo\n")
    assert (first.status, first.id) == (201, b"1")
    assert (again.status, again.id) == (200, b"1")
    assert again.headers["Content-Type"].startswith("text/plain")
    assert hub.rows("retry") == [b"1\tt\tone\x0btwo"]
    assert again.headers["ETag"] == hub.get("/retry").headers["ETag"]


@pytest.mark.parametrize(
    ("path", "body"), [("id=1", "other"), ("id=1", ""), ("id=1&event=t", "x"), ("id=1", "x\n\n")]
)
def test_the_same_id_with_other_content_is_a_conflict(hub: Hub, path: str, body: str) -> None:
    hub.post("/conflict?id=1&unique=1", "x")
    assert is_refused(hub.post(f"/conflict?{path}&unique=1", body), 409)
    assert hub.rows("conflict") == [b"1\t\tx"]


def test_events_that_were_published_otherwise_count_too(hub: Hub) -> None:
    hub.publish("/otherwise?id=1", "before anybody asked")
    assert hub.post("/otherwise?id=1&unique=1", "before anybody asked").status == 200
    hub.publish("/otherwise?id=2", "since")
    post_whole(hub, "/otherwise", TSV, b"3\t\tin a batch\n")
    assert hub.post("/otherwise?id=2&unique=1", "since").status == 200
    assert hub.post("/otherwise?id=3&unique=1", "in a batch").status == 200
    assert hub.post("/otherwise?id=3&unique=1", "other").status == 409
    hub.put("otherwise", "4\t\tby hand\n")
    assert hub.post("/otherwise?id=4&unique=1", "by hand").status == 200
    assert len(hub.rows("otherwise")) == 4


def test_without_unique_an_id_may_repeat(hub: Hub) -> None:
    for path in ("/repeat?id=1", "/repeat?id=1&unique=0", "/repeat?id=1&_="):
        assert hub.post(path, "x").status == 201
    assert len(hub.rows("repeat")) == 3


def test_unique_needs_an_id(hub: Hub) -> None:
    for path in ("/needs_id?unique=1", "/needs_id?unique=1&id="):
        assert is_refused(hub.post(path, "x"), 400)
    for value in ("=yes", "="):
        assert is_refused(hub.post(f"/needs_id?id=1&unique{value}", "x"), 400)
    assert is_refused(hub.post("/needs_id?unique", "x"), 400)  # a flag may stand alone
    assert not hub.has("needs_id")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("each=line", b"x\n"),
        (TSV, b"\t\tx\n"),
        ("ndjson", b'{"data":"x"}\n'),
        ("sse", b"data: x\n\n"),
    ],
)
def test_unique_needs_the_ids_of_a_batch_too(hub: Hub, name: str, body: bytes, way: str) -> None:
    each = "&each=line" if name == "each=line" else ""
    assert is_refused(WAYS[way](hub, f"/needs_ids?unique=1{each}", name, body), 400)
    assert not hub.has("needs_ids")


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_leaves_out_what_is_there_and_says_how_many(hub: Hub, way: str) -> None:
    path = f"/leaves-out-{way}?unique=1"
    post = WAYS[way]
    rows = [b"%d\tt\tdata %d\n" % (n, n) for n in range(6)]
    answer = post(hub, path, TSV, b"".join(rows[:3]))
    assert (answer.status, result_of(answer)) == (201, {"count": 3, "first": "0", "last": "2"})
    answer = post(hub, path, TSV, b"".join(rows[1:5]))
    assert answer.status == 201
    assert result_of(answer) == {"count": 2, "first": "3", "last": "4", "skipped": 2}
    answer = post(hub, path, TSV, b"".join(rows[:5]))
    assert answer.status == 200
    assert result_of(answer) == {"count": 0, "first": None, "last": None, "skipped": 5}
    assert answer.headers["ETag"] == hub.get(path.partition("?")[0]).headers["ETag"]
    assert hub.rows(f"leaves-out-{way}") == [row[:-1] for row in rows[:5]]


def test_a_batch_with_a_conflict_is_refused_whole(hub: Hub) -> None:
    hub.publish("/batch_conflict?id=1", "one")
    answer = post_whole(hub, "/batch_conflict?unique=1", TSV, b"0\t\tx\n1\t\tother\n2\t\ty\n")
    assert is_refused(answer, 409)
    assert hub.rows("batch_conflict") == [b"1\t\tone"]
    answer = post_whole(hub, "/batch_conflict?unique=1", TSV, b"0\t\tx\n1\t\tone\n2\t\ty\n")
    assert result_of(answer) == {"count": 2, "first": "0", "last": "2", "skipped": 1}


@pytest.mark.parametrize(
    "between",
    [
        0,
        50_000,
    ],
)
def test_an_id_that_is_twice_in_a_batch_is_there_once(hub: Hub, between: int) -> None:
    rows = b"".join(b"%d\t\tx\n" % n for n in range(between))
    answer = post_whole(hub, f"/twice-{between}?unique=1", TSV, b"a\t\tx\n" + rows + b"a\t\tx\n")
    assert result_of(answer)["count"] == between + 1
    assert result_of(answer)["skipped"] == 1
    assert hub.content(f"twice-{between}") == b"a\t\tx\n" + rows


@pytest.mark.parametrize(
    "between",
    [
        0,
        50_000,
    ],
)
def test_a_batch_that_contradicts_itself_is_a_conflict(hub: Hub, between: int) -> None:
    rows = b"".join(b"%d\t\tx\n" % n for n in range(between))
    body = b"a\t\tx\n" + rows + b"a\t\ty\n"
    assert is_refused(post_whole(hub, f"/contra-{between}?unique=1", TSV, body), 409)
    assert not hub.has(f"contra-{between}")


def test_a_conflict_ends_a_stream_and_nothing_after_it_is_stored(hub: Hub) -> None:
    hub.publish("/stream_conflict?id=taken", "x")
    rows = [b"%d\t\tx\n" % n for n in range(20)]
    with Upload(hub, "/stream_conflict?unique=1", TSV) as upload:
        upload.send(*rows[:10], b"taken\t\tother\n", *rows[10:])
        answer = upload.end()
    assert is_refused(answer, 409)
    stored = [row + b"\n" for row in hub.rows("stream_conflict")[1:]]
    assert stored == rows[: len(stored)]
    assert len(stored) <= 10
    assert f"{len(stored)} events" in answer.text


def test_a_piece_with_a_conflict_is_refused_whole_and_the_answer_says_so(hub: Hub) -> None:
    hub.publish("/same_piece?id=taken", "x")
    with Upload(hub, "/same_piece?unique=1", TSV) as upload:
        upload.send(b"1\t\tx\n2\t\tx\ntaken\t\tother\n3\t\tx\n")
        answer = upload.end()
    assert is_refused(answer, 409)
    assert hub.rows("same_piece") == [b"taken\t\tx"]
    assert "; 0 events" in answer.text


def test_the_same_event_from_many_at_once_is_stored_once(hub: Hub) -> None:
    answers: list[Answer] = []
    together(30, lambda _: answers.append(hub.post("/many?id=1&unique=1", "x")))
    assert sorted(answer.status for answer in answers) == [200] * 29 + [201]
    assert hub.rows("many") == [b"1\t\tx"]


def test_of_different_contents_at_once_one_is_stored(hub: Hub) -> None:
    statuses: list[int] = []
    together(30, lambda n: statuses.append(hub.post("/differ?id=1&unique=1", f"{n}").status))
    assert sorted(statuses) == [201] + [409] * 29
    assert len(hub.rows("differ")) == 1


def test_a_retry_is_harmless_after_a_restart_and_after_a_crash(own_hub: Hub) -> None:
    own_hub.publish("/again?id=1", "x")
    for stop in (own_hub.stop, own_hub.kill):
        stop()
        own_hub.start()
        assert own_hub.post("/again?id=1&unique=1", "x").status == 200
        assert own_hub.post("/again?id=1&unique=1", "y").status == 409
        answer = post_whole(own_hub, "/again?unique=1", TSV, b"1\t\tx\n2\t\ty\n")
        assert result_of(answer)["skipped"] >= 1
    assert own_hub.rows("again") == [b"1\t\tx", b"2\t\ty"]


def test_who_retries_through_crashes_has_stored_each_event_once(own_hub: Hub) -> None:
    count = 400
    stored = threading.Semaphore(0)
    statuses: list[int] = []

    def publish() -> None:
        for n in range(count):
            while True:
                try:
                    statuses.append(own_hub.post(f"/crashes?id={n}&unique=1", "x").status)
                    break
                except (OSError, http.client.HTTPException):
                    continue
            stored.release()

    publisher = threading.Thread(target=publish)
    publisher.start()
    for _ in range(2):
        for _ in range(100):
            assert stored.acquire(timeout=PATIENCE_SECONDS)
        own_hub.kill()
        own_hub.start()
    publisher.join(PATIENCE_SECONDS)
    assert not publisher.is_alive()
    assert set(statuses) <= {200, 201}
    assert own_hub.rows("crashes") == [b"%d\t\tx" % n for n in range(count)]


def test_only_the_last_events_are_remembered(small_hub: Hub) -> None:
    for restart in (False, True):
        channel = f"remembered-{restart}"
        for id in range(5):
            small_hub.publish(f"/{channel}?id={id}&unique=1", "x")
        if restart:
            small_hub.restart()
        for id in (4, 3, 2):
            assert small_hub.post(f"/{channel}?id={id}&unique=1", "x").status == 200
        assert small_hub.post(f"/{channel}?id=4&unique=1", "y").status == 409
        assert small_hub.post(f"/{channel}?id=1&unique=1", "x").status == 201
        assert small_hub.post(f"/{channel}?id=2&unique=1", "x").status == 201  # 3, 4, 1 are newer
        assert small_hub.post(f"/{channel}?id=3&unique=1", "x").status == 201


def test_a_refused_append_leaves_no_trace_for_unique(hub: Hub) -> None:
    hub.publish("/no_trace?id=0", "x")
    assert hub.post("/no_trace?id=1&unique=1&expect=9", "x").status == 412
    assert hub.post("/no_trace?id=1&unique=1", "other").status == 201
    assert post_whole(hub, "/no_trace?unique=1", TSV, b"2\t\tx\n0\t\tother\n").status == 409
    assert hub.post("/no_trace?id=2&unique=1", "other").status == 201
    assert len(hub.rows("no_trace")) == 3


# -- an account that must not go below zero ------------------------------------------------------

WRITERS = 50


class Account:
    """A channel of amounts. Its clients keep the connection, as a service would."""

    def __init__(self, hub: Hub, channel: str) -> None:
        self._path = f"/{channel}"
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", hub.port, timeout=PATIENCE_SECONDS
        )

    def _request(self, method: str, path: str, body: str | None, **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, names)
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def read(self) -> tuple[int, str, str]:
        """Return the balance, the newest id and the ETag."""
        answer = self._request("GET", self._path, None)
        amounts = [int(row.split(b"\t")[2]) for row in answer.body.splitlines()]
        return sum(amounts), answer.headers["Last-Event-ID"], answer.headers["ETag"]

    def append(self, amount: int, newest: str, etag: str, by: str) -> Answer:
        """Append an amount, if nothing has come between."""
        if by == "expect":
            return self._request("POST", f"{self._path}?expect={newest}", f"{amount}")
        return self._request("POST", self._path, f"{amount}", If_Match=etag)

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("by", ["expect", "If-Match"])
def test_an_account_with_fifty_writers_never_goes_below_zero(hub: Hub, by: str) -> None:
    channel = f"account-{by}"
    hub.publish(f"/{channel}", "60")
    accepted: list[bytes] = []
    refused: list[int] = []

    def withdraw(number: int) -> None:
        account = Account(hub, channel)
        chance = random.Random(number)
        try:
            while True:
                balance, newest, etag = account.read()
                amount = chance.randint(1, 9)
                if balance < amount:
                    return
                answer = account.append(-amount, newest, etag, by)
                if answer.status == 201:
                    accepted.append(answer.id)
                else:
                    refused.append(answer.status)
        finally:
            account.close()

    together(WRITERS, withdraw)
    rows = [row.split(b"\t") for row in hub.rows(channel)]
    balances = [sum(int(row[2]) for row in rows[: n + 1]) for n in range(len(rows))]
    assert min(balances) >= 0
    assert balances[-1] < 9  # they took what there was
    assert sorted(row[0] for row in rows[1:]) == sorted(accepted)  # every 201, and nothing else
    assert set(refused) == {412}  # there was a contest


@pytest.mark.files("a file that may not grow: of an engine, tests/faults")
def test_an_event_that_could_not_be_stored_is_not_taken_for_one_that_is_there(
    own_hub: Hub,
) -> None:
    own_hub.publish("/full?unique=1&id=first", b"x" * 600_000)
    unlimited = resource.prlimit(own_hub.worker, resource.RLIMIT_FSIZE)
    resource.prlimit(own_hub.worker, resource.RLIMIT_FSIZE, (1_000_000, unlimited[1]))
    assert own_hub.post("/full?unique=1&id=second", b"x" * 600_000).status in (503, 507)
    batch = b"second\t\t%b\n" % (b"x" * 600_000)
    assert post_whole(own_hub, "/full?unique=1", TSV, batch).status in (503, 507)
    resource.prlimit(own_hub.worker, resource.RLIMIT_FSIZE, unlimited)
    assert len(own_hub.rows("full")) == 1
    assert own_hub.post("/full?unique=1&id=second", b"x").status == 201
    assert own_hub.post("/full?unique=1&id=second", b"x").status == 200
    assert own_hub.data("full")[1:] == [b"x"]
