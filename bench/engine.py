"""Workloads: hubs on an engine, next to one with a folder.

    files        a hub, and its folder
    PostgreSQL   hub A ──┐
    Valkey       hub B ──┴── a server that syncs for each commit

Each engine is one server on this machine, without a standby or replicas.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TypeAlias

from bench.cpu import Busy
from bench.fanout import deliver
from bench.figures import Case, Cases, Sample, Take
from bench.history import IDS
from bench.ingest import batches
from bench.machine import ROOT
from bench.publishers import wrk
from bench.publishing import timed
from bench.reading import events_in, first_event, get
from bench.scale import Bench, fresh
from bench.servers import Server, place
from esource.log import Log
from esource.log.engines import logs_of
from esource.log.file import FileLog
from tests.harness import Hub, Stream
from tests.harness.engine import engine_hub
from tests.harness.postgres import postgres
from tests.harness.valkey import valkey

TSV = "text/tab-separated-values"
BATCH_BYTES = 4 << 20
MOST_MEGABYTES = 50
MOST_FOLLOWERS = 1000
CONNECTIONS = (1, 10, 100)
EVENTS = 200  # that go from one hub to the other
CHANNELS = 100  # that are many
ENGINE_SECONDS = 30.0  # that a call of an engine may take


@dataclass(frozen=True)
class Store:
    """Where hubs have their channels."""

    name: str  # of its hubs, in the table
    home: Path
    url: str  # of an engine; empty: a folder, which is one hub's

    def hub(self) -> Hub:
        """Return one more hub, which is not started yet."""
        if self.url:
            return engine_hub(place(self.home), self.url, PYTHONPATH=str(ROOT))
        return Hub(self.home, ESOURCE_FSYNC="always", PYTHONPATH=str(ROOT))


# What is measured with the hubs of a store, of which some run.
Measure: TypeAlias = Callable[[Sequence[Hub]], Sample]


@contextmanager
def stores(bench: Bench) -> Iterator[list[Store]]:
    """Have a folder, and an engine of each kind, which end with the block."""
    with postgres() as database, valkey() as server:
        urls = {"hub": "", "hub, PostgreSQL": database.url(), "hub, Valkey": server.url}
        yield [Store(name, place(bench.home), url) for name, url in urls.items()]


@contextmanager
def running(store: Store, count: int = 1) -> Iterator[list[Hub]]:
    """Start so many hubs; stop them at the end."""
    with ExitStack() as stack:
        hubs = []
        for _ in range(count):
            hubs.append(store.hub().start())
            stack.callback(hubs[-1].stop)
        yield hubs


def server_of(hub: Hub) -> Server:
    """Return a hub as others of the benchmark take it."""
    assert hub.process is not None
    return Server("hub", hub.port, hub.process, hub.folder)


def engine(bench: Bench) -> Cases:
    """Publish and follow with a folder, on PostgreSQL and on Valkey, side by side; one hub each.

    `publish`: events of 128 bytes over so many connections, each waiting for its 201; nobody
    listens. `batch`: bodies of 4 MiB, one after the other, with events of 100 bytes. `fan-out`: to
    so many followers, as `fan-out` does it.
    """
    with stores(bench) as all:
        yield from _with_one_hub(bench, all)


def engine_hubs(bench: Bench) -> Cases:
    """Do the same with several hubs on each engine.

    `live`: milliseconds from before a publish at hub A until the event is at a follower of hub B
    (with a folder, of A), and how long that publish took. `hubs`: 100 connections, spread over so
    many hubs, to one channel and to many.
    """
    with stores(bench) as all:
        yield from _with_several(bench, all)


def engine_places(bench: Bench) -> Cases:
    """Read from a folder, PostgreSQL and Valkey, as the first request of a hub that has started.

    `replay`: all of a channel as NDJSON. A place: milliseconds to the first byte, by the id of an
    event in the middle, and by one that is `not there`; another hub has made the index.
    """
    with stores(bench) as all:
        yield from _of_a_hub_that_starts(bench, all)


def _with_one_hub(bench: Bench, all: list[Store]) -> Cases:
    seconds, followers = bench.scale.seconds, min(MOST_FOLLOWERS, max(bench.scale.subscribers))
    batch = min(BATCH_BYTES, bench.scale.batch)
    with ExitStack() as stack:
        hubs = {store.name: stack.enter_context(running(store)) for store in all}
        for each in hubs.values():
            wrk(server_of(each[0]), fresh("warm"), 10, bench.scale.warm_up_seconds, 128)

        def takes(measure: Measure) -> dict[str, Take]:
            return {name: partial(measure, each) for name, each in hubs.items()}

        for connections in CONNECTIONS:
            name = f"publish, {connections} connection{'s' if connections > 1 else ''}"
            yield Case(name, connections, takes(partial(_publish, connections, 1, seconds)))
        for format in ("tsv", "ndjson"):
            name = f"batch {format}, {batch >> 10} KiB"
            yield Case(name, batch, takes(partial(_batches, batch, format, seconds)))
        name = f"fan-out, {followers} followers"
        yield Case(name, followers, takes(partial(_fan_out, followers, seconds)))


def _with_several(bench: Bench, all: list[Store]) -> Cases:
    folder, *engines = all
    with ExitStack() as stack:
        [alone] = stack.enter_context(running(folder))
        hubs = {store.name: stack.enter_context(running(store, 2)) for store in engines}
        both = {folder.name: [alone, alone], **hubs}
        takes: dict[str, Take] = {name: partial(_live, each) for name, each in both.items()}
        yield Case("live, from A to B", 1, takes)
    for count in bench.scale.hubs:
        with ExitStack() as stack:
            [alone] = stack.enter_context(running(folder))
            hubs = {store.name: stack.enter_context(running(store, count)) for store in engines}
            of_each = {folder.name: [alone], **hubs}
            for channels in (1, CHANNELS):
                measure = partial(_publish, CONNECTIONS[-1], channels, bench.scale.seconds)
                takes = {name: partial(measure, each) for name, each in of_each.items()}
                name = f"{count} hub{'s' if count > 1 else ''}, {channels} channel"
                yield Case(name + ("s" if channels > 1 else ""), count, takes)


def _of_a_hub_that_starts(bench: Bench, all: list[Store]) -> Cases:
    megabytes = min(bench.scale.histories[0], MOST_MEGABYTES)
    kinds = list(IDS) if megabytes == MOST_MEGABYTES else ["UUIDs"]
    for ids in kinds:
        channel = fresh("places").strip("/")
        near = {store.name: _fill(store, channel, ids, megabytes) for store in all}
        if ids == kinds[0]:
            takes: dict[str, Take]
            takes = {store.name: partial(_replay, store, channel, megabytes) for store in all}
            yield Case(f"replay, {megabytes} MB", megabytes, takes)
        takes = {store.name: partial(_place, store, channel, near[store.name]) for store in all}
        yield Case(f"{megabytes} MB, {ids}", megabytes, takes)


# -- what is measured --------------------------------------------------------------------------


def _publish(connections: int, channels: int, seconds: float, hubs: Sequence[Hub]) -> Sample:
    """Publish over so many connections, spread over the hubs."""
    servers, path = [server_of(hub) for hub in hubs], fresh("publish")
    if len(servers) == 1:
        return timed(
            servers[0], partial(wrk, servers[0], path, connections, seconds, 128, channels)
        )
    each = connections // len(servers)
    with ThreadPoolExecutor(len(servers)) as threads:
        sent = list(
            threads.map(lambda server: wrk(server, path, each, seconds, 128, channels), servers)
        )
    return Sample(
        {"events/s": sum(one.rate for one in sent), "ms p99": max(one.p99_ms for one in sent)}
    )


def _batches(batch: int, format: str, seconds: float, hubs: Sequence[Hub]) -> Sample:
    """Send batches of so many bytes over one connection."""
    server, began = server_of(hubs[0]), time.perf_counter()
    with Busy(server.process.pid) as busy:
        count = batches(batch, server, format, 100, seconds)
        took = time.perf_counter() - began
    return Sample({"events/s": count / took}, busy.server, busy.generator)


def _fan_out(followers: int, seconds: float, hubs: Sequence[Hub]) -> Sample:
    """Deliver events as lines of one body."""
    return deliver(server_of(hubs[0]), False, followers, 128, seconds)


def _live(hubs: Sequence[Hub]) -> Sample:
    """Publish at one hub; return when the events were at the other."""
    one, other = hubs
    path, took, published = fresh("live"), [], []
    with Stream(other, path) as stream:
        for number in range(1, EVENTS + 1):
            began = time.perf_counter()
            one.publish(path, "x" * 128)
            published.append(1e3 * (time.perf_counter() - began))
            stream.read(number)
            took.append(1e3 * (time.perf_counter() - began))
    return Sample(
        {
            "ms p50": median(took),
            "ms p99": quantiles(took, n=100)[-1],
            "ms p50, publish": median(published),
        }
    )


def _replay(store: Store, channel: str, megabytes: int) -> Sample:
    """Start a hub, and read all of a channel."""
    with running(store) as [hub]:
        server = server_of(hub)
        get(server, "/nobody?limit=0")
        with Busy(server.process.pid) as busy:
            _, seconds = get(server, f"/{channel}?format=ndjson&limit={1 << 50}")
    return Sample({"events/s": events_in(megabytes) / seconds}, busy.server, busy.generator)


def _fill(store: Store, channel: str, ids: str, megabytes: int) -> str:
    """Fill a channel; return the id of an event in the middle, once the channel is indexed."""
    count, id_of = events_in(megabytes), IDS[ids]
    with running(store) as [hub]:
        rows: list[bytes] = []
        for n in range(count):
            rows.append((b"%b\t\t#%d " % (id_of(n), n)).ljust(99, b"x") + b"\n")
            if len(rows) * 100 >= BATCH_BYTES or n == count - 1:
                answer = hub.post(f"/{channel}", b"".join(rows), Content_Type=TSV)
                assert answer.status == 201, answer
                rows = []

        folder = hub.folder
    # A hub learns when it has nothing else to do: what is not learned yet is not what is measured.
    with ExitStack() as stack:
        if store.url:
            logs = logs_of(store.url, ENGINE_SECONDS)
            stack.callback(logs.close)
            log: Log = logs.open(channel)
        else:
            log = FileLog(folder / f"{channel}.tsv")
        for _ in log.learn(log.end):
            pass
    return id_of(count // 2).decode()


def _place(store: Store, channel: str, near: str) -> Sample:
    """Start a hub, and find a place; then another, and an id that is not there."""
    figures = {}
    headers = f"Accept: text/event-stream\r\nLast-Event-ID: {near}\r\n"
    with running(store) as [hub]:
        get(server_of(hub), "/nobody?limit=0")
        figures["ms id"] = 1e3 * first_event(server_of(hub), f"/{channel}", headers)
    with running(store) as [hub]:
        get(server_of(hub), "/nobody?limit=0")
        path = f"/{channel}?after=not-there&limit=1"
        figures["ms not there"] = 1e3 * get(server_of(hub), path)[1]
    return Sample(figures)
