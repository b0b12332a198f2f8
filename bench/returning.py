"""Workloads: crowds of followers that come, come back, and are sent away."""

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from threading import Event as Signal

from bench.cpu import Busy
from bench.fanout import warm_up
from bench.figures import Case, Cases, Sample, Take
from bench.history import forget
from bench.publishers import Posts, events
from bench.reading import NEAR_THE_END, START, events_in, get, put_channel
from bench.scale import Bench, fresh
from bench.servers import HUB, NCHAN, Kind, Server, installed, place
from bench.subscribers import Subscribers
from esource.event import default_id
from tests.harness.measures import p99

SIZE = 128
BEFORE = 1000  # events in a channel that is followed again
EVERY_SECONDS = 0.01  # between two events of a publisher


def comeback(bench: Bench) -> Cases:
    """Come back, so many followers at once, after a restart of the hub: seconds until all are.

    Each has the id of the newest event, so with its headers it is at the tail; an event that is
    published then must reach all. Meanwhile an event is published every 10 ms to another channel,
    by one connection that is kept, and by a new one for each: milliseconds to its 201.
    """

    def take(count: int) -> Sample:
        home = place(bench.home)
        path = fresh("back")
        with HUB.start(home) as server:
            fill(server, path, BEFORE)
            newest = publish(server, path)
        with HUB.start(home) as server, ThreadPoolExecutor(2) as pool:
            get(server, "/nobody?limit=0")
            are_back = Signal()
            kept = pool.submit(publish_on, server, are_back, one_connection)
            new = pool.submit(publish_on, server, are_back, new_connections)
            try:
                time.sleep(10 * EVERY_SECONDS)
                with Busy(server.process.pid) as busy:
                    followers = Subscribers(server, path, count, f"Last-Event-ID: {newest}")
            finally:
                are_back.set()
            with followers:
                times = kept.result(), new.result()
                fill(server, path, 1)
                received = followers.received(1)
            figures = {
                "s": followers.connecting_seconds,
                "ms p99 kept": p99(times[0]),
                "ms p99 new": p99(times[1]),
            }
            return Sample(
                figures, busy.server, busy.generator, received.events, received.lost,
                received.twice,
            )  # fmt: skip

    for count in bench.scale.back:
        yield Case(f"{count} followers", count, {HUB.name: partial(take, count)})


def connects(bench: Bench) -> Cases:
    """Connect so many followers, 128 at a time: connects/s, until each has its headers.

    `live`: without an id. `resumed`: with the id of the newest event of a channel of 1000.
    """
    count = bench.scale.connects

    def connect(kind: Kind, is_resumed: bool) -> Sample:
        with kind.start(place(bench.home)) as server:  # a new one: connections take time to close
            warm_up(server, bench.scale.warm_up_seconds)
            path, headers = fresh("come"), []
            if is_resumed:
                fill(server, path, BEFORE)
                headers = [f"Last-Event-ID: {publish(server, path)}"]
            with (
                Busy(server.process.pid) as busy,
                Subscribers(server, path, count, *headers) as followers,
            ):
                pass
            figures = {"connects/s": count / followers.connecting_seconds}
            return Sample(figures, busy.server, busy.generator)

    live = {kind.name: partial(connect, kind, False) for kind in installed(HUB, NCHAN)}
    yield Case(f"{count} live", count, dict(live))
    yield Case(f"{count} resumed", count, {HUB.name: partial(connect, HUB, True)})


def again(bench: Bench) -> Cases:
    """Come back, so many at once, to a large channel right after the hub's start: seconds for all.

    With nothing of the channel in the system's memory. `one id`: that of ten events before the end,
    until each has these. `ids`: each another one, from the first event to the last, until each has
    the next event. With the index that a hub has left beside the channel, and without.
    """
    count, megabytes = bench.scale.again
    home = place(bench.home)
    (home / "events").mkdir()
    put_channel(bench, home / "events", megabytes)
    with HUB.start(home) as server:  # so that there is an index
        get(server, f"/channel-{megabytes}?after=not-there&limit=1")
        time.sleep(bench.scale.seconds)

    def take(ids: list[int], query: str, expected: int, is_known: bool) -> Sample:
        kept = {path: path.read_bytes() for path in (home / "events").glob("*.id?")}
        for path in kept if not is_known else ():
            path.unlink()
        forget(home / "events")
        channel = f"/channel-{megabytes}{query}"
        each = home / "ids"
        each.write_text("".join(f"Last-Event-ID: {id_of(n)}\n" for n in ids))
        try:
            with HUB.start(home) as server:
                get(server, "/nobody?limit=0")
                began = time.monotonic_ns()
                with (
                    Busy(server.process.pid) as busy,
                    Subscribers(server, channel, len(ids), each=each) as followers,
                ):
                    received = followers.received(expected)
                return Sample(
                    {"s": (received.last_ns - began) / 1e9}, busy.server, busy.generator,
                    received.events, max(0, len(ids) * expected - received.events),
                )  # fmt: skip
        finally:
            for file, content in kept.items():
                file.write_bytes(content)

    most = events_in(megabytes)
    same = [most - NEAR_THE_END - 1] * count
    spread = [n * (most - 1) // count for n in range(count)]
    for name, is_known in ("", True), (", no index", False):
        takes: dict[str, Take] = {HUB.name: partial(take, same, "", NEAR_THE_END, is_known)}
        yield Case(f"one id{name}", count, takes)
        takes = {HUB.name: partial(take, spread, "?limit=1", 1, is_known)}
        yield Case(f"{count} ids{name}", count, takes)


def sent_away(bench: Bench) -> Cases:
    """Stop the hub while so many follow: what share of them is told when to come back; seconds."""

    def take(count: int) -> Sample:
        with HUB.start(place(bench.home)) as server:
            path = fresh("stop")
            fill(server, path, 1)
            with Subscribers(server, path, count) as followers:
                began = time.monotonic()
                server.process.terminate()
                server.process.wait(60)
                took = time.monotonic() - began
                received = followers.ended()
            figures = {"told": received.retries / count, "s": took}
            return Sample(figures)

    for count in bench.scale.back:
        yield Case(f"{count} followers", count, {HUB.name: partial(take, count)})


# -- what is published -----------------------------------------------------------------------


def id_of(n: int) -> str:
    """Return the id of the n-th event of a channel that `put_channel` has put there."""
    return default_id(START + n * 1000).decode()


def fill(server: Server, path: str, count: int) -> None:
    """Publish so many events."""
    with Posts(server, path) as publisher:
        publisher.send(events(0, count, time.monotonic_ns(), SIZE))
        publisher.end()


def publish(server: Server, path: str) -> str:
    """Publish an event; return its id."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("POST", path, b"newest")
        return connection.getresponse().read().decode().strip()


def publish_on(
    server: Server, until: Signal, send: Callable[[Server, str], Callable[[], None]]
) -> list[float]:
    """Publish at even intervals until something; return the milliseconds of each."""
    times: list[float] = []
    due = time.perf_counter()
    publish_one = send(server, fresh("meanwhile"))
    while not (until.is_set() and times):
        time.sleep(max(0, due - time.perf_counter()))
        began = time.perf_counter()
        publish_one()
        ended = time.perf_counter()
        times.append((ended - began) * 1e3)
        due = max(due + EVERY_SECONDS, ended)
    return times


def one_connection(server: Server, path: str) -> Callable[[], None]:
    """Return what publishes an event on one connection, which is made now."""
    publisher = Posts(server, path)

    def one() -> None:
        publisher.send(events(0, 1, 0, SIZE))
        publisher.end()

    return one


def new_connections(server: Server, path: str) -> Callable[[], None]:
    """Return what publishes an event on a connection of its own."""

    def one() -> None:
        with Posts(server, path) as publisher:
            publisher.send(events(0, 1, 0, SIZE))
            publisher.end()

    return one
