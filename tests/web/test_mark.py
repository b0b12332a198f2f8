"""A byte order mark at the beginning of a file: no part of an id, whoever asks in whatever way."""

import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.harness import QUIET, Hub, Stream, running_hub

BOM = b"\xef\xbb\xbf"
ROWS = b"2017-01-01\tone\tfirst\n2017-01-02\ttwo\tsecond\n"
FORMATS = ("tsv", "sse", "sse-json", "ndjson", "json", "raw")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the same rows in two files, one of which begins with a mark."""
    with running_hub(tmp_path_factory.mktemp("hub"), **QUIET) as hub:
        hub.put("plain", ROWS)
        hub.put("marked", BOM + ROWS)
        yield hub


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "query",
    [
        "event=one&event=two", "after=2017-01-01", "after=", "since=2016-12-31", "since=2017-01-01",
        "tail=2", "tail=1", "event=one", "limit=1", "before=2017-01-02", "from=one", "until=one",
        "after=no",
    ],
)  # fmt: skip
def test_every_read_is_that_of_a_file_without_it(hub: Hub, format: str, query: str) -> None:
    marked, plain = (
        hub.get(f"/{name}?{query}&follow=0&format={format}") for name in ("marked", "plain")
    )
    assert plain.body
    assert (marked.status, marked.body) == (plain.status, plain.body)
    for name in ("Esource-Resume", "Last-Event-ID", "Content-Length"):
        assert marked.headers[name] == plain.headers[name]


def test_a_resume_after_the_first_event_is_exact(hub: Hub) -> None:
    with Stream(hub, "/marked", Last_Event_ID="2017-01-01") as stream:
        assert stream.headers["Esource-Resume"] == "exact"
        assert [event.id for event in stream.read(1)] == [b"2017-01-02"]
    place = hub.get("/marked?prime=1&after=&limit=1&format=sse&follow=0").body.split(b"\n")[1]
    answer = hub.get("/marked?follow=0", Last_Event_ID=place.removeprefix(b"id: ").decode())
    assert (answer.headers["Esource-Resume"], answer.body) == ("exact", ROWS)


def test_the_whole_file_is_sent_as_it_is_so_that_a_copy_can_be_gone_on_with(hub: Hub) -> None:
    whole = hub.get("/marked", Want_Repr_Digest="sha-256=1")
    digest = b64encode(sha256(BOM + ROWS).digest()).decode()
    assert whole.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert (whole.body, int(whole.headers["Content-Length"])) == (BOM + ROWS, 3 + len(ROWS))
    part = hub.get("/marked", Range="bytes=10-", If_Range=whole.headers["ETag"])
    assert (part.status, part.body) == (206, (BOM + ROWS)[10:])
    assert hub.post("/copied", whole.body, Content_Type="text/tab-separated-values").status == 201
    assert hub.content("copied") == ROWS


def test_an_event_that_is_there_is_found_by_unique(hub: Hub) -> None:
    hub.put("marked_too", BOM + ROWS)
    assert hub.post("/marked_too?id=2017-01-01&event=one&unique=1", "first").status == 200
    assert hub.post("/marked_too?id=2017-01-01&event=one&unique=1", "other").status == 409
    assert hub.post("/marked_too?expect=2017-01-02", "third").status == 201


def test_the_list_and_check_do_not_see_it(hub: Hub, tmp_path: Path) -> None:
    hub.put("one_marked", BOM + b"1\t\tx\n")
    [row] = json.loads(hub.get("/-/channels?match=one_mark&format=json").body)["channels"]
    assert row["newest_id"] == "1"
    (tmp_path / "marked.tsv").write_bytes(BOM + b"1\t\tx\n1\t\ty\n")
    command = [sys.executable, "-m", "esource", "check", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, check=False, text=True).stdout
    assert "marked.tsv, line 2: the id 1 is repeated\n" in found


def test_a_follower_of_a_channel_without_rows_does_not_see_it(hub: Hub) -> None:
    hub.put("empty", b"")
    with Stream(hub, "/empty") as stream:
        hub.put("empty", BOM + ROWS)
        hub.get("/empty")
        assert [event.id for event in stream.read(2)] == [b"2017-01-01", b"2017-01-02"]


def test_an_id_that_begins_with_it_is_not_the_first_of_a_file(hub: Hub) -> None:
    answer = hub.post("/first_id?id=%EF%BB%BF1", "x")
    assert (answer.status, answer.text.count("\n")) == (400, 1)
    assert not hub.has("first_id")
    hub.publish("/first_id", "x")
    assert hub.post("/first_id?id=%EF%BB%BF1", "x").status == 201
