"""Workload: a hub on an engine, next to one with a folder."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from bench.figures import Case, Cases, Sample
from bench.history import IDS
from bench.machine import ROOT
from bench.publishers import wrk
from bench.publishing import takes, timed
from bench.reading import events_in, first_event, get
from bench.scale import Bench, fresh
from bench.servers import HUB, Kind, Server, place, started
from tests.harness import Hub, Stream, eventually
from tests.harness.engine import engine_hub
from tests.harness.postgres import postgres

TSV = "text/tab-separated-values"
BATCH_BYTES = 4 << 20
MOST_MEGABYTES = 50
EVENTS = 200  # that go from one hub to the other


@contextmanager
def on_postgres(home: Path) -> Iterator[Server]:
    """Start PostgreSQL, and a hub on it."""
    with postgres() as database, _hub(home, database.url()) as hub:
        yield _server(ON_POSTGRES.name, hub)


@contextmanager
def _hub(home: Path, url: str) -> Iterator[Hub]:
    hub = engine_hub(place(home), url, PYTHONPATH=str(ROOT)).start()
    try:
        yield hub
    finally:
        hub.stop()


def _server(name: str, hub: Hub) -> Server:
    assert hub.process is not None
    return Server(name, hub.port, hub.process, hub.folder)


ON_POSTGRES = Kind("hub, PostgreSQL", on_postgres)


def engine(bench: Bench) -> Cases:
    """Publish events of 128 bytes; follow at another hub; find a place in a channel of 50 MB.

    Publish: so many connections, nobody listens. Follow: milliseconds from before the publish at
    one hub until the event is at the other. A place: milliseconds to the first byte, by the id of
    an event in the middle, and by one that is `not there`, as the first request of a hub that has
    just started; another hub has made the index.
    """
    scale = bench.scale

    def send(connections: int, server: Server) -> Sample:
        path = fresh("publish")
        return timed(server, partial(wrk, server, path, connections, scale.seconds, 128))

    with started(bench.home, HUB, ON_POSTGRES) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, 128)
        for connections in (1, 10, 100):
            name = f"publish, {connections} connection{'s' if connections > 1 else ''}"
            yield Case(name, connections, takes(servers, partial(send, connections)))
    with postgres() as database:
        url = database.url()
        with _hub(bench.home, url) as one, _hub(bench.home, url) as other:
            yield Case("follow at another hub", 1, {"hub": partial(_follow, one, other)})
        megabytes = min(scale.histories[0], MOST_MEGABYTES)
        for ids in IDS if megabytes == MOST_MEGABYTES else ("UUIDs",):
            channel = fresh("places").strip("/")
            near = _fill(bench, url, channel, ids, megabytes)
            take = partial(_place, bench, url, channel, near)
            yield Case(f"{megabytes} MB, {ids}", megabytes, {"hub": take})


def _follow(one: Hub, other: Hub) -> Sample:
    """Publish at one hub; return when the events were at the other."""
    path, took = fresh("follow"), []
    with Stream(other, path) as stream:
        for number in range(1, EVENTS + 1):
            began = time.perf_counter()
            one.publish(path, "x" * 128)
            stream.read(number)
            took.append(1e3 * (time.perf_counter() - began))
    return Sample({"ms p50": median(took), "ms p99": quantiles(took, n=100)[-1]})


def _fill(bench: Bench, url: str, channel: str, ids: str, megabytes: int) -> str:
    """Fill a channel; return the id of an event in the middle, once the channel is indexed."""
    count, id_of = events_in(megabytes), IDS[ids]
    with _hub(bench.home, url) as hub:
        rows: list[bytes] = []
        for n in range(count):
            rows.append((b"%b\t\t#%d " % (id_of(n), n)).ljust(99, b"x") + b"\n")
            if len(rows) * 100 >= BATCH_BYTES or n == count - 1:
                answer = hub.post(
                    f"/{channel}", b"".join(rows), Content_Type="text/tab-separated-values"
                )
                assert answer.status == 201, answer
                rows = []
        server = _server("hub", hub)

        def is_known() -> bool:
            began = time.monotonic()
            get(server, f"/{channel}?after=not-there&limit=1")
            return time.monotonic() - began < 0.1

        eventually(is_known, 120)
        time.sleep(3)  # what is left of the index
    return id_of(count // 2).decode()


def _place(bench: Bench, url: str, channel: str, near: str) -> Sample:
    """Start a hub, and find a place; then another, and an id that is not there."""
    figures = {}
    headers = f"Accept: text/event-stream\r\nLast-Event-ID: {near}\r\n"
    with _hub(bench.home, url) as hub:
        get(_server("hub", hub), "/nobody?limit=0")
        figures["ms id"] = 1e3 * first_event(_server("hub", hub), f"/{channel}", headers)
    with _hub(bench.home, url) as hub:
        get(_server("hub", hub), "/nobody?limit=0")
        path = f"/{channel}?after=not-there&limit=1"
        figures["ms not there"] = 1e3 * get(_server("hub", hub), path)[1]
    return Sample(figures)
