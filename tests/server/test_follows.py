"""Plain follows without gunicorn: what is one, and that nobody can tell the difference."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from gunicorn import http
from gunicorn.config import Config as Options
from gunicorn.http import wsgi

from esource.config import Config
from esource.server.connections import BEGUN
from esource.server.follows import parse
from esource.server.heads import HEAD_BYTES
from esource.web.app import create_app
from esource.web.get import Get
from tests.harness import PATIENCE_SECONDS, Hub, Stream, running_hub
from tests.harness.pipeline import Client, publish
from tests.harness.wire import Chunks

# A field that the fast path does not know, so that the request is gunicorn's.
SLOW = b"X-Other: 1"
SSE = b"Accept: text/event-stream"
EVENT_SOURCE = [
    b"Connection: keep-alive", b"Accept: text/event-stream", b"Cache-Control: no-cache",
    b"Pragma: no-cache", b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)", b"Referer: http://h/a?b",
    b'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"', b"sec-ch-ua-mobile: ?0",
    b'sec-ch-ua-platform: "Linux"', b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Mode: cors",
    b"Sec-Fetch-Dest: empty", b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Accept-Language: en-US,en;q=0.9", b"Cookie: a=b; c=d", b"DNT: 1", b"Sec-GPC: 1",
    b"Priority: u=4, i",
]  # fmt: skip
NGINX = [
    b"Connection: close", b"X-Real-IP: 10.0.0.1", b"X-Forwarded-For: 10.0.0.1, 10.0.0.2",
    b"X-Forwarded-Proto: https", b"X-Forwarded-Host: hub", b"X-Forwarded-Port: 443",
    b"X-Request-ID: 1", b"Forwarded: for=10.0.0.1", b"Via: 1.1 a", b"Authorization: Basic YTpi",
]  # fmt: skip


def get(target: bytes, *fields: bytes, version: bytes = b"1.1", host: bytes = b"hub") -> bytes:
    """Return the bytes of a GET."""
    return b"\r\n".join(
        [b"GET %b HTTP/%b" % (target, version), b"Host: " + host, *fields, b"", b""]
    )


# -- what a plain follow is --------------------------------------------------------------------

PLAIN = [
    get(b"/orders", SSE),
    get(b"/orders", SSE, version=b"1.0"),
    get(b"/orders?", b"accept:TEXT/event-stream"),
    get(b"/orders?follow=1"),
    get(b"/orders?follow=1&format=ndjson&heartbeat=2", b"Accept: */*"),
    get(b"/orders?event=a&limit=2&timeout=3&tail=1&until=end", SSE),
    get(b"/orders?lastEventId=a%20b", SSE, b"Last-Event-ID: c"),
    get(b"/orders?after=", b"Accept: application/x-ndjson, text/event-stream;q=0.1"),
    get(b"/orders", *EVENT_SOURCE),
    get(b"/orders", *NGINX, SSE),
    get(b"/orders", SSE, b"Last-Event-ID: " + b"i" * 1000),
    get(b"/" + b"n" * 64, SSE, b"Connection: CLOSE"),
]
ODD = [
    get(b"/orders"), get(b"/orders", b"Accept: */*"), get(b"/orders?follow=0", SSE),
    get(b"/orders?format=tsv", SSE), get(b"/orders?follow=1&wait=1"), get(b"/orders?nobody=1", SSE),
    get(b"/orders?since=15m", SSE), get(b"/orders?heartbeat=0", SSE),
    get(b"/orders?event=%ff", SSE),
    get(b"/orders?a#b", SSE), get(b"/orders?event=\xc3\xa4", SSE), get(b"/orders/", SSE),
    get(b"/ord", SSE), get(b"/or%64ers", SSE), get(b"//orders", SSE), get(b"http://h/orders", SSE),
    get(b"/-/read?channel=orders", SSE), get(b"/", SSE), get(b"/" + b"n" * 65, SSE),
    get(b"/orders", SSE, version=b"1.2"), get(b"/orders", SSE, version=b"2.0"),
    get(b"/orders", b"Accept: text/html, text/event-stream", b"Sec-Fetch-Dest: document"),
    get(b"/orders", SSE, SLOW), get(b"/orders", SSE, SSE), get(b"/orders", SSE, b"Accept: a"),
    get(b"/orders", SSE, b"Host: h"), get(b"/orders", SSE, b"Origin: http://h"),
    get(b"/orders", SSE, b"Range: bytes=0-"), get(b"/orders", SSE, b"If-None-Match: *"),
    get(b"/orders", SSE, b"If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"),
    get(b"/orders", SSE, b"Upgrade: websocket", b"Connection: Upgrade"),
    get(b"/orders", SSE, b"Connection: keep-alive, TE"), get(b"/orders", SSE, b"TE: trailers"),
    get(b"/orders", SSE, b"Upgrade-Insecure-Requests: 1"), get(b"/orders", SSE, b"Expect: a"),
    get(b"/orders", SSE, b"Content-Length: 0"), get(b"/orders", SSE, b"Content-Length: 1"),
    get(b"/orders", SSE, b"Transfer-Encoding: chunked"), get(b"/orders", SSE, b"Content-Type: a/b"),
    get(b"/orders", SSE, b"Last-Event-ID: \xe4"), get(b"/orders", SSE, b"Last-Event-ID:"),
    get(b"/orders", SSE, b"Last-Event-ID: a", b"last-event-id: b"),
    get(b"/orders", SSE, b"Last_Event_ID: a"), get(b"/orders", SSE, b"Last-Event-ID : a"),
    get(b"/orders", SSE, b"Last-Event-ID: a\r\n b"), get(b"/orders", SSE, b"Cookie: a\tb"),
    get(b"/orders", b"Accept: text/event-stream, " + b"a/b," * 256),
    get(b"/orders", SSE, host=b"h" * 2049), get(b"/orders", SSE).replace(b"Host: hub\r\n", b""),
    get(b"/orders", SSE).replace(b"GET", b"HEAD"), get(b"/orders", SSE).replace(b"GET", b"get"),
    get(b"/orders", SSE).replace(b"GET", b"POST"), get(b"/orders", SSE).replace(b"\r\n", b"\n"),
]  # fmt: skip


def plan(tmp_path: Path, head: bytes, **settings: object) -> object:
    """Return what the hub plans for a head; nothing if it is not plain."""
    app = create_app(Config(dir=tmp_path, **settings))  # type: ignore[arg-type]
    about = parse(head)
    return about and app.extensions["esource.directly"].following.plan(about[0])


@pytest.mark.parametrize("head", PLAIN)
def test_both_ways_to_a_follow_build_the_same_request(head: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(head)
        request = next(http.get_parser(Options(), ours, ("127.0.0.1", 1)))
        about = ours, ("127.0.0.1", 1), ("127.0.0.1", 80), Options()
        _, environ = wsgi.create(request, *about)
        plain = parse(head)
        assert plain
        assert plain[0] == Get.from_environ(environ["PATH_INFO"][1:], environ)
        assert plain[1] == request.should_close()


@pytest.mark.parametrize("head", PLAIN)
def test_plain_follows_are_taken(tmp_path: Path, head: bytes) -> None:
    assert plan(tmp_path, head)


@pytest.mark.parametrize("head", ODD)
def test_other_gets_are_left(tmp_path: Path, head: bytes) -> None:
    assert plan(tmp_path, head) is None


def test_a_follow_of_a_host_that_is_not_the_hubs_is_left(tmp_path: Path) -> None:
    assert plan(tmp_path, get(b"/orders", SSE), allowed_hosts=frozenset(["hub"]))
    assert plan(tmp_path, get(b"/orders", SSE), allowed_hosts=frozenset(["other"])) is None


# -- the same answers --------------------------------------------------------------------------

REQUESTS = [
    (b"", [SSE]), (b"", EVENT_SOURCE), (b"", [*NGINX, SSE]),
    (b"", [SSE, b"Connection: keep-alive"]),
    (b"", [SSE, b"Last-Event-ID: id-1"]), (b"", [SSE, b"Last-Event-ID: nobody"]),
    (b"?lastEventId=id-2", EVENT_SOURCE), (b"?after=", [SSE]), (b"?tail=2&prime=1", [SSE]),
    (b"?follow=1", []), (b"?follow=1&format=raw&after=id-1", []),
    (b"?follow=1&format=json&tail=2", []), (b"?format=sse-json&tail=1", [SSE]),
    (b"?follow=1&format=ndjson&timeout=0&after=", []), (b"?timeout=0.05", [SSE]),
    (b"?limit=2&after=", [SSE]), (b"?limit=0", [SSE]), (b"?event=b&limit=1&after=", [SSE]),
    (b"?until=b&after=", [SSE]), (b"?until=b", [SSE, b"Last-Event-ID: id-2"]),  # 204
    (b"?since=2026-01-01&limit=1", [SSE]), (b"?from=b&limit=1", [SSE]),
    (b"?event=c&heartbeat=1&limit=1", [SSE]),
]  # fmt: skip
ENDLESS = 0.3  # seconds of silence after which what has come of an answer is all of it for now


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    settings = {"ESOURCE_CORS_ORIGINS": "http://page"}
    with running_hub(tmp_path_factory.mktemp("limited"), **settings) as hub:
        for n, type in enumerate(b"aba", 1):
            hub.publish(f"/follows?id=id-{n}&event={chr(type)}", f"event {n}")
        yield hub


def answer(hub: Hub, request: bytes) -> tuple[bytes, bool]:
    """Return all that comes of an answer for now, without its date; and whether it has ended."""
    got, is_closed = b"", False
    with hub.connect() as connection:
        connection.sendall(request)
        connection.settimeout(PATIENCE_SECONDS)
        with suppress(TimeoutError):
            while piece := connection.recv(1 << 16):
                got += piece
                connection.settimeout(ENDLESS)
            is_closed = True
    head, end, body = got.partition(b"\r\n\r\n")
    lines = [b"Date: -" if line.startswith(b"Date: ") else line for line in head.split(b"\r\n")]
    if b"Transfer-Encoding: chunked" in lines:
        chunks = Chunks()  # which may be cut in other places
        body = chunks.feed(body) + (b" and no more" if chunks.is_complete else b"")
    return b"\r\n".join(lines) + end + body, is_closed


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(("query", "fields"), REQUESTS)
def test_an_answer_is_the_one_that_gunicorn_gives(
    limited: Hub, query: bytes, fields: list[bytes], version: bytes
) -> None:
    assert parse(get(b"/follows" + query, *fields, version=version))
    fast, slow = (
        answer(limited, get(b"/follows" + query, *fields, *more, version=version))
        for more in ([], [SLOW])
    )
    assert fast == slow


def test_one_follower_too_many_and_an_error_are_answered_as_gunicorn_does(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_MAX_SUBSCRIBERS="1") as hub, Stream(hub, "/orders"):
        for query in (b"", b"?follow=1"):
            fast, slow = (
                answer(hub, get(b"/orders" + query, *[SSE][: not query], *more))
                for more in ([], [SLOW])
            )
            assert b"too many subscribers" in fast[0]
            is_same = fast == slow
            # The time to come back after is another each time.
            assert is_same or fast[0].partition(b"retry: ")[0] == slow[0].partition(b"retry: ")[0]
        hub.file("broken").mkdir(parents=True)
        fast, slow = (answer(hub, get(b"/broken", SSE, *more)) for more in ([], [SLOW]))
        assert b" 503 " in fast[0]
        assert fast == slow
        counted = hub.get("/-/metrics").text
        assert 'refused_requests_total{status="503"} 6.0' in counted  # each once


# -- on one connection -------------------------------------------------------------------------


def test_a_follow_that_ends_is_followed_by_the_next_request(limited: Hub) -> None:
    follow = get(b"/follows?timeout=0&tail=1", SSE)
    requests = [
        publish(b"/beside?id=1", b"1"), follow, publish(b"/beside?id=2", b"2"), follow,
        get(b"/beside"), follow,
    ]  # fmt: skip
    with Client(limited.connect()) as client:
        client.send(b"".join(requests))
        client.connection.settimeout(10)
        got = b""
        while got.count(b"0\r\n\r\n") < 3:
            got += client.connection.recv(1 << 16)
    assert got.count(b"HTTP/1.1 20") == 6
    assert got.count(b"event 3") == 3
    assert limited.data("beside") == [b"1", b"2"]


def test_a_head_that_comes_in_pieces_is_the_same(limited: Hub) -> None:
    head = get(b"/follows?limit=1&after=id-2", SSE, b"Connection: close")
    for cut in range(1, len(head), 7):
        with Client(limited.connect()) as client:
            client.send(head[:cut])
            time.sleep(0.005)  # so that the hub has seen the first part
            client.send(head[cut:])
            got = b""
            while piece := client.connection.recv(1 << 16):
                got += piece
        assert b"event 3" in got, cut


def test_a_head_that_is_too_long_for_the_fast_path_is_gunicorns(limited: Hub) -> None:
    head = get(b"/follows?limit=1&after=id-2", SSE, b"Cookie: " + b"c" * HEAD_BYTES)
    assert b"event 3" in answer(limited, head)[0]


# -- in turns ----------------------------------------------------------------------------------

# Options for a hub that notes how many of those it has accepted wait for a turn, at most.
NOTING = """
from esource import server
from esource.server import *

def post_worker_init(worker):
    from esource.hub.loop import Rounds
    server.post_worker_init(worker)
    wait, most = Rounds.wait, [0]

    def noted(self):
        if len(self._waiting) >= most[0]:
            most[0] = len(self._waiting) + 1
            worker.log.info("%d wait", most[0])
        wait(self)

    Rounds.wait = noted
"""


def test_of_a_crowd_only_so_many_are_accepted_as_soon_begin(tmp_path: Path) -> None:
    options = tmp_path / "options.py"
    options.write_text(NOTING)
    request = get(b"/orders?limit=1&after=", SSE, SLOW, b"Connection: close")
    with running_hub(tmp_path, "-c", str(options)) as hub:
        hub.publish("/orders", "event")
        for _ in range(5):
            with ExitStack() as stack:
                crowd = list[socket.socket]()
                for _ in range(500):
                    crowd.append(stack.enter_context(hub.connect()))
                    crowd[-1].sendall(request)
                for each in crowd:
                    each.settimeout(20)
                    while each.recv(1 << 16):
                        pass
        hub.stop()
        waited = [int(n) for n in re.findall(r"(\d+) wait\b", hub.log)]
    assert waited
    assert max(waited) <= 8 * BEGUN, "those that wait take memory here"
