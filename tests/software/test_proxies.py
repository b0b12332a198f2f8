"""The proxies of `docs/proxies.md`, each in front of a real hub, and in the ways they are found."""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.harness import Follower, Hub, Stream, Upload, eventually, running_hub
from tests.harness.hub import Answer, answer_on
from tests.harness.proxies import Proxy, apache, caddy, haproxy, nginx, varnish

TYPES = (
    "text/event-stream text/tab-separated-values application/x-ndjson application/json text/plain"
)
Make = Callable[[Path, Hub], AbstractContextManager[Proxy]]
PROXIES: dict[str, Make] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "haproxy-compressing": lambda home, hub: haproxy(
        home, hub, f"    compression algo gzip\n    compression type {TYPES}\n"
    ),
    "apache": apache,
    "apache-compressing": lambda home, hub: apache(
        home, hub, f"AddOutputFilterByType DEFLATE {TYPES}\n"
    ),
    "caddy": caddy,
    "varnish": varnish,
    "varnish-by-itself": lambda home, hub: varnish(home, hub, with_page=False),
}
COME_BACK = ["haproxy", "haproxy-compressing", "caddy", "varnish"]
FAULT_SECONDS = 1.0  # an event that takes this long was held back


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """All of them, in front of one hub."""
    with (
        running_hub(tmp_path_factory.mktemp("hub"), ESOURCE_HEARTBEAT_SECONDS="1") as hub,
        ExitStack() as stack,
    ):
        yield {
            name: stack.enter_context(make(tmp_path_factory.mktemp(name), hub))
            for name, make in PROXIES.items()
        }
        hub.stop()  # first: a stop of Apache waits for streams that are open, for ten seconds


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, proxies: dict[str, Proxy]) -> Proxy:
    return proxies[request.param]


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[-64:]


def ask(proxy: Proxy, method: str, path: str, body: bytes | None = None, **more: str) -> Answer:
    return answer_on(proxy.connect(), method, path, body, **more)


@pytest.mark.parametrize("query", ["", "?format=ndjson&follow=1", "?format=raw&follow=1"])
def test_an_event_is_there_at_once_and_no_stream_is_compressed(
    proxy: Proxy, channel: str, query: str
) -> None:
    took = []
    start = f"{query or '?'}&after="
    with Stream(proxy, f"/{channel}{start}", version="1.1", Accept_Encoding="gzip, br") as stream:
        assert "Content-Encoding" not in stream.headers
        for number in range(9):
            before = time.monotonic()
            published = ask(proxy, "POST", f"/{channel}", b"event-%d" % number)
            assert published.status == 201
            stream.read_until(b"event-%d" % number)
            took.append(time.monotonic() - before)
    assert statistics.median(took) < 0.1, took
    assert max(took) < FAULT_SECONDS, took


def test_no_read_is_older_than_the_last_publish(proxy: Proxy, channel: str) -> None:
    etag = ""
    for number in range(3):
        # Through the proxy, and past it.
        door = proxy if number % 2 else proxy.hub
        assert answer_on(door.connect(), "POST", f"/{channel}?id={number}", b"x").status == 201
        for query in ("", "?format=ndjson"):
            answer = ask(proxy, "GET", f"/{channel}{query}", If_None_Match=etag)
            assert (answer.status, answer.headers["Last-Event-ID"]) == (200, str(number))
            assert answer.body.count(b"\n") == number + 1
            assert ask(proxy, "HEAD", f"/{channel}").headers["Last-Event-ID"] == str(number)
            etag = answer.headers["ETag"]
            again = ask(proxy, "GET", f"/{channel}{query}", If_None_Match=etag)
            assert (again.status, again.body) == (304, b"")


def test_what_was_not_there_is_there_once_it_is(proxies: dict[str, Proxy]) -> None:
    hub = next(iter(proxies.values())).hub
    for proxy in proxies.values():
        assert ask(proxy, "GET", "/status").status == 404
    hub.publish("/status", "well")
    for name, proxy in proxies.items():
        assert ask(proxy, "GET", "/status?format=raw").body == b"well\n", name


def test_a_client_resumes_after_what_it_has_seen(proxy: Proxy, channel: str) -> None:
    for number in range(4):
        proxy.hub.publish(f"/{channel}?id={number}", f"event {number}")
    with Stream(proxy, f"/{channel}", version="1.1", Last_Event_ID="1") as stream:
        assert stream.headers["Esource-Resume"] == "exact"
        assert [event.id for event in stream.read(2)] == [b"2", b"3"]
    copy = ask(proxy, "GET", f"/{channel}", Range="bytes=11-")
    assert (copy.status, copy.body) == (206, proxy.hub.file(channel).read_bytes()[11:])


def test_an_upload_is_passed_on_as_it_comes(proxy: Proxy, channel: str) -> None:
    with Upload(proxy, f"/{channel}?each=line") as upload:
        for number in range(3):
            upload.send(b"line %d\n" % number)
            eventually(
                lambda number=number: len(proxy.hub.rows(channel)) == number + 1,  # type: ignore[misc]
                4,
            )
        assert upload.end().status == 201


def test_followers_come_through_a_restart_of_the_hub_and_are_missed_when_they_leave(
    proxies: dict[str, Proxy],
) -> None:
    hub = next(iter(proxies.values())).hub
    followers = {name: Follower(proxy, "restart").start() for name, proxy in proxies.items()}
    try:
        for number in range(10):
            hub.publish(f"/restart?id=a{number}", "x")
        eventually(lambda: all(len(each.ids) == 10 for each in followers.values()))
        hub.restart()
        for number in range(10):
            hub.publish(f"/restart?id=b{number}", "x")
        eventually(lambda: all(len(each.ids) >= 20 for each in followers.values()))
    finally:
        for each in followers.values():
            each.stop()
    ids = [f"{part}{number}" for part in "ab" for number in range(10)]
    assert {name: each.ids for name, each in followers.items() if each.ids != ids} == {}
    eventually(lambda: subscribers(hub) == 0)


def test_while_the_hub_is_away_a_stream_is_told_when_to_come_back(
    proxies: dict[str, Proxy],
) -> None:
    """And nothing else is: an empty `200` would be no error to it."""
    hub = next(iter(proxies.values())).hub
    hub.stop()
    try:
        for name in COME_BACK:
            proxy = proxies[name]
            stream = ask(proxy, "GET", "/away", Accept="text/event-stream")
            assert (stream.status, stream.headers["Content-Type"]) == (200, "text/event-stream")
            assert re.fullmatch(r"retry: [1-4]\d{3}\n", stream.text), name
            assert "no-store" in stream.headers["Cache-Control"]
            for method, accept in (("POST", "text/event-stream"), ("GET", "*/*")):
                assert ask(proxy, method, "/away", Accept=accept).status in (502, 503), name
    finally:
        hub.start()


def subscribers(hub: Hub) -> float:
    lines = hub.get("/-/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("esource_subscribers "))
