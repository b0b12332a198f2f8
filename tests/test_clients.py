"""The clients that people use, each against a real hub: SPEC, sections 3 and 4.

A client here is a generator function. Given an address it follows a channel, for ever and
across connections, and yields what it sees: None when the stream is open, and then the events.
`httpx-sse` and `sseclient-py` only decode, and their users reconnect; so it is with `curl`, in a
loop. The others reconnect by themselves.

All of them follow the same channel at the same time, so one restart does for all. What a client
loses of an event through a fault of its own is stated, exactly, in `MAKES`. Of ids, none here is
beyond ASCII: `requests-sse` and `launchdarkly-eventsource` cannot send such an id back as UTF-8
(`http.client` makes Latin-1 of a header, or raises).
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote, urlencode

import aiohttp
import httpx
import httpx_sse
import ld_eventsource
import ld_eventsource.actions
import ld_eventsource.config
import pytest
import requests_sse
import sseclient
from aiohttp_sse_client2 import client as aiohttp_sse_client

from tests.harness import (
    AWKWARD,
    PATIENCE_SECONDS,
    ROOT,
    Hub,
    eventually,
    kept,
    needs,
    running_hub,
)
from tests.harness.npm import with_packages

END = "end"  # the type of the last event of all
TYPES = ("", "deploy", "two words", "", "grün ✓", "message")
MORE_AWKWARD = [
    "\n",
    " ",
    "blank lines at the end\n\n\n",
    "what str.splitlines splits at: \x0c \x1c \x1d \x1e \x85 \u2028 \u2029 here",
]
# The 1 MiB event comes first: who has seen any event has seen that one, and the many others are
# still on their way when the hub stops.
FIRST_HALF = [*reversed(AWKWARD), *MORE_AWKWARD]
SECOND_HALF = [*AWKWARD, *MORE_AWKWARD]
BY_HAND = "while the hub was down"
PAUSE_SECONDS = 0.1  # between two connections
PROGRAMS = Path(__file__).parent / "clients"
LARGEST_LINE_BYTES = 1 << 21


class Seen(NamedTuple):
    """An event as a client gives it to its user. The type of one that has none is `message`."""

    id: str
    type: str
    data: str


Follow = Generator["Seen | None", None, None]
Client = Callable[[str], Follow]
Run = Callable[..., IO[bytes]]


# -- the clients -------------------------------------------------------------------------------


def patience() -> Callable[[], bool]:
    """Return what says whether a client may still go on trying: none outlives its test."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    return lambda: time.monotonic() < deadline


def with_httpx_sse(url: str) -> Follow:
    """`httpx-sse` decodes one response; its user reconnects with the id of the last event."""
    patient = patience()
    last = ""
    with httpx.Client(timeout=PATIENCE_SECONDS) as http:
        while patient():
            headers = {"Last-Event-ID": last} if last else {}
            try:
                with httpx_sse.connect_sse(http, "GET", url, headers=headers) as source:
                    yield None
                    for event in source.iter_sse():
                        last = event.id
                        yield Seen(event.id, event.event, event.data)
            except httpx.TransportError:  # the hub is not there
                time.sleep(PAUSE_SECONDS)


def with_sseclient_py(url: str) -> Follow:
    """`sseclient-py` decodes one response, of httpx here; its user reconnects."""
    patient = patience()
    last = ""
    with httpx.Client(timeout=PATIENCE_SECONDS) as http:
        while patient():
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            try:
                with http.stream("GET", url, headers=headers) as response:
                    yield None
                    source = sseclient.SSEClient(response.iter_bytes())
                    for event in source.events():
                        last = event.id or ""
                        yield Seen(last, event.event, event.data)
            except httpx.TransportError:  # the hub is not there
                time.sleep(PAUSE_SECONDS)


def with_requests_sse(url: str) -> Follow:
    """`requests-sse` reconnects by itself, after twice the time that `retry:` asks for."""
    patient = patience()

    def on_error() -> None:
        if not patient():
            raise TimeoutError

    with requests_sse.EventSource(
        url, timeout=PATIENCE_SECONDS, on_error=on_error,
        reconnection_time=timedelta(seconds=PAUSE_SECONDS),
    ) as source:  # fmt: skip
        yield None
        for event in source:
            assert event.type is not None
            assert event.data is not None
            yield Seen(event.last_event_id, event.type, event.data)


def with_launchdarkly(url: str) -> Follow:
    """`launchdarkly-eventsource` reconnects by itself if asked to; it does not heed `retry:`."""
    patient = patience()
    connect = ld_eventsource.config.ConnectStrategy.http(
        url, urllib3_request_options={"timeout": PATIENCE_SECONDS}
    )
    errors = ld_eventsource.config.ErrorStrategy.from_lambda(lambda _: (not patient(), None))
    with ld_eventsource.SSEClient(
        connect, initial_retry_delay=PAUSE_SECONDS, error_strategy=errors
    ) as source:
        for action in source.all:
            if isinstance(action, ld_eventsource.actions.Comment):
                yield None  # the hub's first bytes
            elif isinstance(action, ld_eventsource.actions.Event):
                yield Seen(action.id, action.event, action.data)


# An id counts once its frame is whole. The loop asks `tee`, so it goes on when there is no hub.
CURL_LOOP = """
while curl -sN --max-time 60 -H 'Accept: text/event-stream' -H "Last-Event-ID: $last" "$1" |
    tee -a "$2"
do
    last=$(awk '/^id: / { id = substr($0, 5) } /^$/ { last = id } END { print last }' "$2")
    sleep 0.1
done
"""
FRAME = re.compile(
    r"(?:event: (.+)\n)?id: (.+)\n((?:data: .*\n)*)\n"
)  # without data it names a place


def with_curl(run: Run, kept_in: Path, url: str) -> Follow:
    """`curl` in a shell loop, which looks in what it has kept for the id to go on after."""
    frame = ""
    for line in run("sh", "-c", CURL_LOOP, "sh", url, str(kept_in)):
        if line == b":\n":
            yield None
        elif not line.startswith(b"retry: "):
            frame += line.decode()
            if line == b"\n":
                match = FRAME.fullmatch(frame)
                assert match, f"not a frame: {frame!r:.200}"
                if match[3]:
                    lines = match[3][:-1].split("\n")
                    data = "\n".join(line.removeprefix("data: ") for line in lines)
                    yield Seen(match[2], match[1] or "message", data)
                frame = ""


def with_aiohttp(url: str) -> Follow:
    """`aiohttp-sse-client2` reconnects by itself, after twice the time that `retry:` asks for.

    But not where nobody listens: its user connects again. It has the type None for no type, and a
    line may have up to twice `read_bufsize` bytes.
    """
    patient = patience()

    async def follow() -> AsyncGenerator[Seen | None, None]:
        opened: list[None] = []
        async with (
            aiohttp.ClientSession(read_bufsize=LARGEST_LINE_BYTES) as session,
            aiohttp_sse_client.EventSource(
                url, session=session, on_open=lambda: opened.append(None)
            ) as source,
        ):
            yield opened.pop()
            while patient():
                try:
                    async for event in source:
                        yield Seen(event.last_event_id, event.type or "message", event.data)
                except aiohttp.ClientConnectionError:  # the hub is not there
                    await asyncio.sleep(PAUSE_SECONDS)

    loop = asyncio.new_event_loop()
    events = follow()
    try:
        while True:
            yield loop.run_until_complete(anext(events))
    finally:
        loop.run_until_complete(events.aclose())
        loop.close()


def with_npm(run: Run, programs: Path, package: str, url: str) -> Follow:
    """A package of npm, in Node, reconnects by itself."""
    names = sorted({*filter(None, TYPES), END})
    for line in run("node", str(programs / "follow.mjs"), package, url, *names):
        event = json.loads(line)
        yield event and Seen(*event)


@pytest.fixture
def run() -> Iterator[Run]:
    """A way to start a program and read its stdout; it ends, with its children, with the test."""
    with ExitStack() as stack:

        def start(*command: str) -> IO[bytes]:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            stack.enter_context(process)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            assert process.stdout is not None
            return process.stdout

        yield start


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs for Node in a folder of their own, with the packages that they need."""
    needs("node")
    return with_packages(PROGRAMS, tmp_path_factory.mktemp("clients"))


@pytest.fixture
def clients(run: Run, programs: Path, tmp_path: Path) -> dict[str, Client]:
    """All of them, by name."""
    packages = (
        "eventsource", "event-source-polyfill", "eventsource-client",
        "@microsoft/fetch-event-source",
    )  # fmt: skip
    return {
        "httpx-sse": with_httpx_sse,
        "sseclient-py": with_sseclient_py,
        "requests-sse": with_requests_sse,
        "launchdarkly-eventsource": with_launchdarkly,
        "aiohttp-sse-client2": with_aiohttp,
        "curl": partial(with_curl, run, tmp_path / "kept"),
        **{package: partial(with_npm, run, programs, package) for package in packages},
    }


def without_spaces(data: str) -> str:
    """What requests-sse (0.5.3) and aiohttp-sse-client2 (0.3.0) make of data.

    At the front of each line they strip every space, not only the one after the colon; at the end
    of the data they strip every line break, not only the one of their own making.
    """
    return "\n".join(line.lstrip(" ") for line in data.split("\n")).rstrip("\n")


def without_beginning(data: str) -> str:
    """What @microsoft/fetch-event-source (2.0.1) makes of data.

    At the front of each line it drops a byte order mark, and at the front of the data blank lines.
    """
    return "\n".join(line.removeprefix("\ufeff") for line in data.split("\n")).lstrip("\n")


MAKES: dict[str, Callable[[str], str]] = {
    "requests-sse": without_spaces,
    "aiohttp-sse-client2": without_spaces,
    "@microsoft/fetch-event-source": without_beginning,
}


# -- what they are shown, and what they see ----------------------------------------------------


class Reader(threading.Thread):
    """A client at work: what it has seen until now."""

    def __init__(self, follow: Follow) -> None:
        super().__init__(daemon=True)
        self.is_open = False
        self.seen: list[Seen] = []
        self._follow = follow

    def run(self) -> None:
        """Read up to the last event of all."""
        with closing(self._follow):
            for seen in self._follow:
                self.is_open = True
                if seen:
                    self.seen.append(seen)
                    if seen.type == END:
                        return


@pytest.fixture(scope="module")
def silent_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub whose heartbeats never come.

    So no stream owes it to a heartbeat that it is open, and who waits in vain times out.
    """
    with running_hub(tmp_path_factory.mktemp("silent"), ESOURCE_HEARTBEAT_SECONDS="600") as hub:
        yield hub


def start(follows: dict[str, Follow]) -> dict[str, Reader]:
    """Let clients follow, by name; return when all their streams are open."""
    readers = {name: Reader(follow) for name, follow in follows.items()}
    for reader in readers.values():
        reader.start()
    eventually(lambda: all(reader.is_open for reader in readers.values()))
    return readers


def restart(hub: Hub, channel: str) -> None:
    """Restart the hub; have an event there that no client is connected to see.

    Whoever is back early enough might miss nothing by mere luck; not with this one.
    """
    hub.stop()
    hub.put(channel, f"by hand\t\t{BY_HAND}\n".encode())
    hub.start()


def events(hub: Hub, channel: str) -> list[Seen]:
    """Return the events of the file, as a client should see them."""
    return [
        Seen(id, type or "message", data.replace("\x0b", "\n"))
        for id, type, data in (row.decode().split("\t", 2) for row in hub.rows(channel))
    ]


def assert_all_saw(readers: dict[str, Reader], wanted: dict[str, list[Seen]]) -> None:
    """Wait for the end of all; each has seen what was wanted of it."""
    eventually(lambda: not any(reader.is_alive() for reader in readers.values()), 60)
    differences = {
        name: found
        for name, reader in readers.items()
        if (found := difference(reader.seen, wanted[name]))
    }
    assert not differences


def difference(seen: list[Seen], wanted: list[Seen]) -> list[str]:
    """Compare in order; name what differs in short, for some of it is long."""
    places = zip(count(), seen, wanted, strict=False)
    found = [f"{n}: {a!r:.120} is not {b!r:.120}" for n, a, b in places if a != b]
    return found if len(seen) == len(wanted) else [*found, f"{len(seen)} of {len(wanted)}"]


def publish(hub: Hub, channel: str, data: list[str], types: Iterator[str]) -> None:
    for text in data:
        hub.publish(f"/{channel}?" + urlencode({"event": next(types)}), text)


def test_every_client_sees_every_event_once_across_a_restart(
    silent_hub: Hub, clients: dict[str, Client]
) -> None:
    url = f"{silent_hub.url}/orders"
    readers = start({name: client(url) for name, client in clients.items()})
    assert not silent_hub.has("orders")  # so they are open without an event
    types = cycle(TYPES)
    publish(silent_hub, "orders", FIRST_HALF, types)
    eventually(lambda: all(reader.seen for reader in readers.values()))
    restart(silent_hub, "orders")
    publish(silent_hub, "orders", SECOND_HALF, types)
    publish(silent_hub, "orders", [""], iter([END]))
    rows = events(silent_hub, "orders")
    assert [row.data for row in rows] == [*map(kept, [*FIRST_HALF, BY_HAND, *SECOND_HALF]), ""]
    assert_all_saw(
        readers,
        {
            name: [row._replace(data=MAKES.get(name, str)(row.data)) for row in rows]
            for name in readers
        },
    )


def test_on_a_quiet_channel_no_client_loses_what_comes_while_it_is_away(
    silent_hub: Hub, clients: dict[str, Client]
) -> None:
    """None has seen an event before; each follows the link that `docs/clients.md` names for it."""
    silent_hub.publish("/quiet", "long ago")
    newest = silent_hub.request("HEAD", "/quiet").headers["Last-Event-ID"]
    table = (ROOT / "docs" / "clients.md").read_text()
    links = dict(re.findall(r"^\| (?:[^|]* )?`([^`]+)`.*\| `/orders(.*?)` \|", table, re.MULTILINE))
    urls = {
        name: f"{silent_hub.url}/quiet" + links[name].replace("ID", quote(newest))
        for name in clients
    }
    readers = start({name: client(urls[name]) for name, client in clients.items()})
    restart(silent_hub, "quiet")
    publish(silent_hub, "quiet", ["the end"], iter([END]))
    assert_all_saw(readers, dict.fromkeys(readers, events(silent_hub, "quiet")[1:]))


def test_the_polyfill_sees_every_event_once_on_every_kind_of_link(
    silent_hub: Hub, clients: dict[str, Client]
) -> None:
    """It comes back with the same link and `lastEventId`, which wins over what the link says."""
    rows = partial(events, silent_hub, "links")
    publish(silent_hub, "links", ["1", "2", "3", "4"], cycle(["deploy", ""]))
    second = rows()[1].id
    polyfill = clients["event-source-polyfill"]
    queries: dict[str, dict[str, str | list[str]]] = {
        "after": {"after": second}, "beginning": {"after": ""}, "tail": {"tail": "2"},
        "time": {"since": second}, "ago": {"since": "1h"}, "parameter": {"lastEventId": second},
        "types": {"event": ["deploy", END]}, "snapshot": {"from": "deploy"},
    }  # fmt: skip
    readers = start(
        {
            name: polyfill(f"{silent_hub.url}/links?{urlencode(query, doseq=True)}")
            for name, query in queries.items()
        }
    )
    publish(silent_hub, "links", ["5"], iter(["deploy"]))
    eventually(lambda: all(reader.seen[-1:] == rows()[4:] for reader in readers.values()))
    restart(silent_hub, "links")
    publish(silent_hub, "links", ["6", "7", "the end"], iter(["deploy", "", END]))
    assert_all_saw(
        readers,
        dict.fromkeys(("after", "tail", "time", "parameter", "snapshot"), rows()[2:])
        | dict.fromkeys(("beginning", "ago"), rows())
        | {"types": [row for row in rows()[4:] if row.type in ("deploy", END)]},
    )


def test_a_client_that_is_cut_off_in_the_middle_of_a_frame_sees_it_whole_later(
    silent_hub: Hub,
) -> None:
    clients: list[Client] = [
        with_httpx_sse, with_sseclient_py, with_launchdarkly, with_requests_sse,
    ]  # fmt: skip
    big = AWKWARD[-1]  # more than the buffers between the hub and a client hold
    with ExitStack() as stack:
        follows = [stack.enter_context(closing(c(f"{silent_hub.url}/middle"))) for c in clients]
        assert [next(follow) for follow in follows] == [None] * len(clients)
        silent_hub.publish("/middle", "before")
        assert [next(filter(None, follow)).data for follow in follows] == ["before"] * len(clients)
        silent_hub.publish("/middle", big)
        silent_hub.restart()  # while nobody reads
        silent_hub.publish("/middle", "after")
        for client, follow in zip(clients, follows, strict=True):
            events = filter(None, follow)
            assert next(events).data == big, client
            assert next(events).data == "after", client


# -- clients that ask once ---------------------------------------------------------------------


def test_axios_is_understood_with_its_defaults(silent_hub: Hub, run: Run, programs: Path) -> None:
    """It prefers JSON, so a channel is an array of objects. A publish is answered by a line."""
    lines = run("node", str(programs / "ask.mjs"), f"{silent_hub.url}/axios").readlines()
    [first, second, read] = map(json.loads, lines)
    order = '{"order":17,"goods":["tee","küchlein"]}'
    assert silent_hub.data("axios") == [order.encode(), b"the bill"]
    id = events(silent_hub, "axios")[0].id
    text = "text/plain; charset=utf-8"
    assert first == [201, text, id, f"{id}\n"]
    assert second == [201, text, "18", 18]  # axios tries to read any text as JSON
    assert read == [
        200, "application/json", "18",
        [{"id": id, "event": "", "data": order}, {"id": "18", "event": "", "data": "the bill"}],
    ]  # fmt: skip


def test_java_is_understood_with_its_defaults(silent_hub: Hub, run: Run) -> None:
    """Its `Accept` names `text/html`, and yet it gets the rows and not a page."""
    [java] = needs("java")
    lines = run(java, str(PROGRAMS / "Ask.java"), f"{silent_hub.url}/java").read().decode()
    [row] = silent_hub.rows("java")
    id = row.split(b"\t")[0].decode()
    assert lines == (
        f"201 text/plain; charset=utf-8 {id}\n{id}\n"
        f"200 text/tab-separated-values; charset=utf-8 {id}\n{id}\t\tthe bill & the change\n"
    )
