"""Workloads: many publishers, an event in each request."""

import time
from collections.abc import Callable
from functools import partial

from bench.connections import Connections
from bench.cpu import Busy
from bench.figures import Case, Cases, Sample, Take
from bench.publishers import Sent, ab, redis_benchmark, request, wrk
from bench.scale import Bench, fresh
from bench.servers import (
    BARE,
    GEVENT,
    HUB,
    HUB_IN_SEGMENTS,
    HUB_WITHOUT_FSYNC,
    NCHAN,
    REDIS,
    Kind,
    Server,
    installed,
    place,
    started,
)
from bench.subscribers import Subscribers

SEED_CONNECTIONS = 100


def seed(bench: Bench) -> Cases:
    """Publish as the seed's benchmark did: `seq 1 200` as body, `ab -k -c 100`, one listener.

    Every event is counted at the listener, and must be there once for each 201. Bare gunicorn
    has no listener.
    """
    body = bench.home / "body"
    body.write_text("".join(f"{n}\n" for n in range(1, 201)))

    def take(server: Server) -> Sample:
        path = fresh("seed")
        if server.name == BARE.name:
            with Busy(server.process.pid) as busy:
                sent = ab(server, path, body, bench.scale.requests, SEED_CONNECTIONS)
            return Sample(
                {"events/s": sent.rate, "ms p99": sent.p99_ms}, busy.server, busy.generator
            )
        with Subscribers(server, path, 1) as listener:
            with Busy(server.process.pid, listener.pid) as busy:
                sent = ab(server, path, body, bench.scale.requests, SEED_CONNECTIONS)
                received = listener.received(sent.requests)
            twice = received.twice
            if server.name.startswith("hub"):
                twice += received.unordered_ids
            return Sample(
                {"events/s": sent.rate, "ms p99": sent.p99_ms},
                busy.server,
                busy.generator,
                received.events,
                received.lost,
                twice,
            )

    with started(bench.home, HUB, BARE, NCHAN, HUB_WITHOUT_FSYNC) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, bench.scale.warm_up_seconds, 692)
        yield Case(f"ab -k -c {SEED_CONNECTIONS}, 692 B", SEED_CONNECTIONS, takes(servers, take))


def publish(bench: Bench) -> Cases:
    """Publish events of 128 bytes over so many connections, each waiting for its 201.

    Nobody listens. Redis: `XADD` over as many connections, `appendfsync always`.
    """
    scale = bench.scale

    def send(connections: int, server: Server) -> Sample:
        if server.name == REDIS.name:
            requests = int(scale.seconds * min(40_000, 2000 * connections))
            return timed(server, partial(redis_benchmark, server, connections, requests, 128))
        path = fresh("publish")
        return timed(server, partial(wrk, server, path, connections, scale.seconds, 128))

    with started(bench.home, HUB, BARE, GEVENT, NCHAN, REDIS, HUB_WITHOUT_FSYNC) as servers:
        for server in servers:
            if server.name != REDIS.name:
                wrk(server, fresh("warm"), 10, scale.warm_up_seconds, 128)
        for connections in scale.connections:
            name = f"{connections} connection{'s' if connections > 1 else ''}"
            yield Case(name, connections, takes(servers, partial(send, connections)))


def crowd(bench: Bench) -> Cases:
    """Publish over 1000 connections at once to a new channel: milliseconds to the first answers.

    The connections are open and accepted before, and silent until then. `slowest` is when the
    last connection has its first 201, `p50` when half of them have it. `once each`: each sends one
    event of 128 bytes; crowd after crowd, on new connections and another channel, of which the
    median one is shown. `going on`: who is answered sends the next, so that it stands in the way
    of others; the first crowd of a server that has just started.
    """
    scale = bench.scale
    count = scale.crowd

    def gather(going_on: bool, server: Server) -> Sample:
        post = request(fresh("crowd"), b"x" * 128)
        with Connections(server, count) as connections, Busy(server.process.pid) as busy:
            times = connections.post_on(post) if going_on else connections.post([post] * count)
        figures = {"ms slowest": times[-1] * 1e3, "ms p50": times[count // 2] * 1e3}
        return Sample(figures, busy.server, busy.generator)

    def crowds(server: Server) -> Sample:
        until = time.monotonic() + scale.seconds
        samples = [gather(False, server)]
        while time.monotonic() < until:
            samples.append(gather(False, server))
        return sorted(samples, key=lambda sample: sample.figures["ms slowest"])[len(samples) // 2]

    def first(kind: Kind) -> Sample:
        with kind.start(place(bench.home)) as server:
            return gather(True, server)

    kinds = installed(HUB, BARE, GEVENT)
    with started(bench.home, *kinds) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, 128)
        yield Case(f"{count}, once each", count, takes(servers, crowds))
    yield Case(f"{count}, going on", count, {kind.name: partial(first, kind) for kind in kinds})


def channels(bench: Bench) -> Cases:
    """Publish to so many channels at once, in turn: 1000 connections, events of 128 bytes.

    To each of them an event was published before, so that making the files is not counted.
    `events/s, new` is the rate of that: to channels that were not there, each once.
    """
    scale = bench.scale
    connections = min(1000, 10 * max(scale.channels))

    def send(count: int, server: Server) -> Sample:
        path = fresh("many")
        new = 0.0
        if count > 1:
            with Connections(server, min(connections, count)) as each:
                first = [request(f"{path}{n}", b"x" * 128) for n in range(1, count + 1)]
                new = count / each.post(first)[-1]
        sample = timed(server, partial(wrk, server, path, connections, scale.seconds, 128, count))
        if count > 1:
            sample.figures["events/s, new"] = new
        return sample

    with started(bench.home, HUB, BARE, GEVENT, NCHAN, HUB_WITHOUT_FSYNC) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, 128)
        for count in scale.channels:
            name = f"{count} channel{'s' if count > 1 else ''}"
            yield Case(name, count, takes(servers, partial(send, count)))


def closing(bench: Bench) -> Cases:
    """Publish events of 1000 bytes while the channel's files are closed, a MiB each.

    So many connections, each waiting for its 201. `closed/s` is how many files were.
    """
    scale = bench.scale

    def send(connections: int, server: Server) -> Sample:
        path = fresh("closing")
        sample = timed(server, partial(wrk, server, path, connections, scale.seconds, 1000))
        closed = len(list(server.folder.glob(f"{path.strip('/')}.[0-9]*.tsv"))) - 1
        sample.figures["closed/s"] = max(closed, 0) / scale.seconds
        return sample

    with started(bench.home, HUB, HUB_IN_SEGMENTS) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, 1000)
        for connections in scale.connections:
            name = f"{connections} connection{'s' if connections > 1 else ''}"
            yield Case(name, connections, takes(servers, partial(send, connections)))


def timed(server: Server, send: Callable[[], Sent]) -> Sample:
    """Return what a program of others sends, and who was busy meanwhile."""
    with Busy(server.process.pid) as busy:
        sent = send()
    return Sample({"events/s": sent.rate, "ms p99": sent.p99_ms}, busy.server, busy.generator)


def takes(servers: list[Server], take: Callable[[Server], Sample]) -> dict[str, Take]:
    """Return the same measurement for each of the servers."""
    return {server.name: partial(take, server) for server in servers}
