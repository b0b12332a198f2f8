"""`httplint`, the lint of redbot, finds nothing wrong with any kind of answer of a hub.

What it finds all the same is argued with in `ARGUED`, and is expected exactly where it is found.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from httplint.message import HttpRequestLinter, HttpResponseLinter
from httplint.note import levels

from tests.harness import Hub, Stream, running_hub
from tests.harness.wire import unchunked

ORIGIN = "https://page.example"
ARGUED = {
    "CREATED_WITHOUT_LOCATION": "An event has no address of its own. Without Location, what was "
    "made is at the target of the request (RFC 9110, 15.3.2): in the channel.",
    "STATUS_BAD_REQUEST": "It says no more than that the status is 400, which is meant.",
    "STATUS_412_WITHOUT_PRECONDITION": "The precondition is `expect=`, in the query.",
    "FRESHNESS_NO_CACHE_NO_VALIDATOR": "What starts a time ago, or with the next event, starts "
    "elsewhere the next time: there is nothing to ask about.",
}


NONE: Mapping[str, str] = {}


class Ask(NamedTuple):
    """A request, the status that is its answer, and what is argued with there."""

    method: str
    path: str
    status: int
    fields: Mapping[str, str] = NONE
    body: bytes = b""
    argued: frozenset[str] = frozenset()


CREATED = frozenset({"CREATED_WITHOUT_LOCATION"})
MOVES = frozenset({"FRESHNESS_NO_CACHE_NO_VALIDATOR"})
EXPECTED = frozenset({"STATUS_412_WITHOUT_PRECONDITION"})
BAD = frozenset({"STATUS_BAD_REQUEST"})
NDJSON = {"Content-Type": "application/x-ndjson"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-any"}
FORMATS = ("tsv", "sse", "sse-json", "ndjson", "json", "raw")
ASKS = [
    # publishes: on the fast path, past it, in batches, and those that change nothing
    Ask("POST", "/orders?event=paid&id=1", 201, NONE, b"x", CREATED),
    Ask("POST", "/orders", 201, {"Cookie": "a=b"}, b"x", CREATED),
    Ask("POST", "/orders?each=line", 201, NONE, b"x\ny\n", CREATED),
    Ask("POST", "/orders", 201, NDJSON, b'{"data":"x"}\n', CREATED),
    Ask("POST", "/orders?id=1&event=paid&unique=1", 200, NONE, b"x"),
    Ask("POST", "/orders?each=line", 200),
    # reads that end
    Ask("GET", "/orders", 200),
    Ask("HEAD", "/orders", 200),
    Ask("GET", "/nothing-in-it", 200),
    Ask("HEAD", "/nothing-in-it", 200),
    *[Ask("GET", f"/orders?format={format}&follow=0", 200) for format in FORMATS],
    *[Ask("HEAD", f"/orders?format={format}&follow=0", 200) for format in FORMATS],
    Ask("GET", "/orders?tail=1&event=paid", 200),
    Ask("GET", "/orders?before=1", 200),
    Ask("GET", "/orders?since=1h", 200, argued=MOVES),
    Ask("GET", "/orders?wait=0", 200, argued=MOVES),
    Ask("GET", "/orders?lastEventId=1&wait=0", 200),
    Ask("GET", "/orders", 206, {"Range": "bytes=5-"}),
    Ask("GET", "/orders", 200, {"Range": "bytes=5-", "If-Range": '"another"'}),
    Ask("GET", "/orders", 304, {"If-None-Match": "*"}),
    Ask("GET", "/orders?format=ndjson", 304, {"If-None-Match": "*"}),
    Ask("GET", "/orders", 200, {"Origin": ORIGIN}),
    Ask(
        "GET", "/orders", 303,
        {"Accept": "text/html", "Sec-Fetch-Dest": "document", "Upgrade-Insecure-Requests": "1"},
    ),
    # streams
    *[Ask("GET", f"/orders?format={format}&follow=1&timeout=0", 200) for format in FORMATS],
    Ask("GET", "/orders?after=&timeout=0", 200, {"Accept": "text/event-stream"}),
    Ask(
        "GET", "/orders?timeout=0", 200,
        {"Accept": "text/event-stream", "Pragma": "no-cache", "Origin": ORIGIN},
    ),
    Ask("GET", "/orders?until=paid", 204, {"Accept": "text/event-stream", "Last-Event-ID": "1"}),
    Ask("GET", "/-/read?channel=orders&channel=others&after=&timeout=0&follow=1", 200),
    Ask("GET", "/-/read?channel=orders&channel=others&format=json", 200),
    # refusals
    Ask("GET", "/orders?tail=", 400, argued=BAD),
    Ask("GET", "/abc", 400, argued=BAD),
    Ask("POST", "/orders", 400, NDJSON, b'{"message":"x"}\n', BAD),
    Ask("GET", "/orders", 400, {"Upgrade": "websocket"}, b"", BAD),
    Ask("GET", "/-/read", 400, argued=BAD),
    Ask("GET", "*", 400, argued=BAD),
    Ask("POST", "/orders", 403, {"Origin": "https://evil.example"}, b"x"),
    Ask("GET", "/orders/new", 404),
    Ask("GET", "/health", 404),
    Ask("PUT", "/orders", 405, NONE, b"x"),
    Ask("POST", "/-/health", 405, NONE, b"x"),
    Ask("POST", "/orders?id=1&unique=1", 409, NONE, b"another"),
    Ask("POST", "/orders", 412, {"If-None-Match": "*"}, b"x"),
    Ask("POST", "/orders?expect=9", 412, NONE, b"x", EXPECTED),
    Ask("POST", "/orders", 413, NONE, b"x" * (1 << 20) + b"x"),
    Ask("POST", "/orders", 415, {"Content-Encoding": "gzip"}, b"x"),
    Ask("POST", "/orders", 415, {"Content-Type": "multipart/form-data; boundary=b"}, b"x"),
    Ask("GET", "/orders", 416, {"Range": "bytes=99999-"}),
    Ask("GET", "/orders", 421, {"Host": "elsewhere.example"}),
    Ask("GET", "/orders", 431, {"Accept": "text/plain, " * 100}),
    Ask("POST", "/broken", 503, NONE, b"x"),
    # what pages ask beforehand
    Ask("OPTIONS", "/orders", 204),
    Ask("OPTIONS", "/orders", 204, {"Origin": ORIGIN, **PREFLIGHT}),
    Ask("OPTIONS", "/orders", 403, {"Origin": "https://evil.example", **PREFLIGHT}),
    # the hub's own
    Ask("GET", "/", 200),
    Ask("HEAD", "/", 200),
    Ask("GET", "/", 200, {"Accept": "text/html"}),
    Ask("GET", "/-/page/page.js", 200),
    Ask("GET", "/-/page/page.js", 304, {"If-None-Match": "*"}),
    *[Ask("GET", f"/-/{name}", 200) for name in ("", "health", "ready", "metrics", "channels")],
    Ask("GET", "/-/openapi.json", 200),
    *[Ask("GET", f"/-/{name}?format=json", 200) for name in ("", "health", "ready", "channels")],
]  # fmt: skip
# While there are as many followers as there may be.
FULL = [
    Ask("GET", "/orders?follow=1&format=ndjson", 503),
    Ask("GET", "/orders", 200, {"Accept": "text/event-stream"}),
]


@pytest.fixture(scope="module")
def linted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub for two followers, with a channel that cannot be written, and one with events."""
    settings = {
        "ESOURCE_CORS_ORIGINS": ORIGIN,
        "ESOURCE_ALLOWED_HOSTS": "hub.example 127.0.0.1",
        "ESOURCE_MAX_SUBSCRIBERS": "2",
    }
    with running_hub(tmp_path_factory.mktemp("hub"), **settings) as hub:
        hub.file("broken").mkdir()
        yield hub


def exchange(hub: Hub, ask: Ask) -> tuple[int, frozenset[str]]:
    """Ask; return the status, and the names of all that is found wrong with the answer."""
    fields = {"Host": "hub.example", "User-Agent": "test", "Connection": "close", **ask.fields}
    if ask.body or ask.method == "POST":
        fields["Content-Length"] = str(len(ask.body))
    lines = [f"{name}: {value}" for name, value in fields.items()]
    now = time.time()
    request = HttpRequestLinter(start_time=now)
    request.process_request_topline(ask.method.encode(), ask.path.encode(), b"1.1")
    request.process_headers([(name.encode(), value.encode()) for name, value in fields.items()])
    request.feed_content(ask.body)
    request.finish_content(True)

    head = "\r\n".join([f"{ask.method} {ask.path} HTTP/1.1", *lines, "", ""]).encode()
    head, _, content = hub.raw(head + ask.body).partition(b"\r\n\r\n")
    first, *lines_back = head.split(b"\r\n")
    version, status, phrase = first.split(b" ", 2)
    is_complete = True
    if b"Transfer-Encoding: chunked" in lines_back:
        content, is_complete = unchunked(content)

    response = HttpResponseLinter(start_time=now, _related=request)
    response.is_head_response = ask.method == "HEAD"
    response.process_response_topline(version.removeprefix(b"HTTP/"), status, phrase)
    answered = [line.partition(b": ")[::2] for line in lines_back]
    response.process_headers(answered)
    response.feed_content(content)
    response.finish_content(is_complete)
    notes = [note for each in response.notes for note in (each, *each.subnotes)]
    wrong = {type(note).__name__ for note in notes if note.level in (levels.WARN, levels.BAD)}
    # Without a word caches keep a 200 and a 404 for as long as they like (RFC 9111, 4.2.2).
    control = dict(answered).get(b"Cache-Control", b"")
    if ask.method in ("GET", "HEAD") and not re.match(b"no-(store|cache)", control):
        wrong.add("MAY_BE_KEPT_WITHOUT_ASKING")
    return int(status), frozenset(wrong)


@pytest.mark.parametrize("asks", [ASKS, FULL], ids=["quiet", "full"])
def test_every_kind_of_answer_is_clean_or_argued_with(linted: Hub, asks: list[Ask]) -> None:
    with ExitStack() as stack:
        for _ in range(2 if asks is FULL else 0):
            stack.enter_context(Stream(linted, "/orders", Host="hub.example"))
        found = [(ask, exchange(linted, ask)) for ask in asks]
    assert [each for each in found if each[1] != (each[0].status, each[0].argued)] == []


def test_nothing_is_argued_with_that_is_not_found() -> None:
    assert set(ARGUED) == {name for ask in ASKS for name in ask.argued}
