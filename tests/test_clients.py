"""The clients that people use, each against a real hub: SPEC, sections 3 and 4.

A client here is a generator function. Given a channel's address it follows the channel, for
ever and across connections, and yields what it sees: None when the stream is open, and then
the events. `curl` in a loop, `requests-sse`, `launchdarkly-eventsource` and npm's
`eventsource` reconnect by themselves; `httpx-sse` and `sseclient-py` only decode, and their
users reconnect.

What a client loses of an event through a fault of its own is stated, exactly, at its test. Of
ids, none here is beyond ASCII: `requests-sse` and `launchdarkly-eventsource` cannot send such
an id back as UTF-8 (`http.client` makes Latin-1 of a header, or raises).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlencode

import httpx
import httpx_sse
import ld_eventsource
import ld_eventsource.actions
import ld_eventsource.config
import pytest
import requests_sse
import sseclient

from tests.harness import AWKWARD, PATIENCE_SECONDS, Hub, eventually, kept, needs, running_hub

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
NODE_PROGRAM = Path(__file__).parent / "clients"


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
FRAME = re.compile(r"(?:event: (.+)\n)?id: (.+)\n((?:data: .*\n)+)\n")


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
                lines = match[3][:-1].split("\n")
                data = "\n".join(line.removeprefix("data: ") for line in lines)
                yield Seen(match[2], match[1] or "message", data)
                frame = ""


def with_npm_eventsource(run: Run, program: Path, url: str) -> Follow:
    """npm's `eventsource`, a browser's `EventSource` for Node, reconnects by itself."""
    names = sorted({*filter(None, TYPES), END})
    for line in run("node", str(program), url, *names):
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


def follow_across_a_restart(
    hub: Hub, channel: str, client: Client
) -> tuple[list[Seen], list[Seen]]:
    """Publish to a client, with a restart in mid-stream; return what it saw, and the file."""
    reader = Reader(client(f"{hub.url}/{channel}"))
    reader.start()
    eventually(lambda: reader.is_open)
    assert not hub.file(channel).exists()  # so it is open without an event
    types = cycle(TYPES)
    publish(hub, channel, FIRST_HALF, types)
    eventually(lambda: reader.seen)
    hub.stop()
    # Whoever is back early enough might miss nothing by mere luck; not with this one.
    with open(hub.file(channel), "ab") as file:
        file.write(f"by hand\t\t{BY_HAND}\n".encode())
    hub.start()
    publish(hub, channel, SECOND_HALF, types)
    publish(hub, channel, [""], iter([END]))
    eventually(lambda: not reader.is_alive())
    rows = [
        Seen(id, type or "message", data.replace("\x0b", "\n"))
        for id, type, data in (row.decode().split("\t", 2) for row in hub.rows(channel))
    ]
    assert [row.data for row in rows] == [*map(kept, [*FIRST_HALF, BY_HAND, *SECOND_HALF]), ""]
    return reader.seen, rows


def publish(hub: Hub, channel: str, data: list[str], types: Iterator[str]) -> None:
    for text in data:
        hub.publish(f"/{channel}?" + urlencode({"event": next(types)}), text)


def assert_same(seen: list[Seen], wanted: list[Seen]) -> None:
    """Compare in order; name what differs in short, for some of it is long."""
    places = zip(count(), seen, wanted, strict=False)
    assert not [f"{n}: {a!r:.120} is not {b!r:.120}" for n, a, b in places if a != b]
    assert len(seen) == len(wanted)


@pytest.mark.parametrize("client", [with_httpx_sse, with_sseclient_py, with_launchdarkly])
def test_a_python_client_sees_every_event_once_across_a_restart(
    silent_hub: Hub, client: Client
) -> None:
    seen, rows = follow_across_a_restart(silent_hub, client.__name__, client)
    assert_same(seen, rows)


def test_requests_sse_sees_every_event_once_across_a_restart_but_not_all_of_its_white_space(
    silent_hub: Hub,
) -> None:
    """Two faults of requests-sse (0.5.3), in `EventSource.__next__` and `_dispatch_event`.

    At the front of each line of data it strips every space, not only the one after the colon;
    at the end of the data it strips every line break, not only the one of its own making.
    """
    stripped = {
        " ": "",
        "  edge spaces  ": "edge spaces  ",
        "ends with a space \n and a line": "ends with a space \nand a line",
        "blank lines at the end\n\n": "blank lines at the end",
    }
    seen, rows = follow_across_a_restart(silent_hub, "requests_sse", with_requests_sse)
    assert stripped.keys() <= {row.data for row in rows}
    assert_same(seen, [row._replace(data=stripped.get(row.data, row.data)) for row in rows])


def test_curl_in_a_loop_sees_every_event_once_across_a_restart(
    silent_hub: Hub, run: Run, tmp_path: Path
) -> None:
    curl = partial(with_curl, run, tmp_path / "kept")
    seen, rows = follow_across_a_restart(silent_hub, "curl", curl)
    assert_same(seen, rows)


@pytest.fixture
def node_program(tmp_path: Path) -> Path:
    """The program for Node in a folder of its own, with the package that it needs."""
    needs("node", "npm")
    folder = tmp_path / "clients"
    shutil.copytree(NODE_PROGRAM, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(
        ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"],
        cwd=folder, check=True, timeout=120,
    )  # fmt: skip
    return folder / "follow.mjs"


def test_npm_eventsource_sees_every_event_once_across_a_restart(
    silent_hub: Hub, run: Run, node_program: Path
) -> None:
    node = partial(with_npm_eventsource, run, node_program)
    seen, rows = follow_across_a_restart(silent_hub, "npm_eventsource", node)
    assert_same(seen, rows)


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
