"""Workload: a publisher that sends little, beside others that send as much as they can."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

from bench.connections import Connections
from bench.cpu import Busy
from bench.figures import Case, Cases, Sample
from bench.ingest import batches
from bench.publishers import Posts, events, request, wrk
from bench.publishing import takes
from bench.scale import Bench, fresh
from bench.servers import HUB, Server, started
from tests.harness.measures import p99

SIZE = 128
LINE_BYTES = 1000
EVERY_SECONDS = 0.01
SETTLE_SECONDS = 0.3

# Loads a server for a while; returns by unit what came of it.
Load = Callable[[Server], dict[str, float]]


def beside(bench: Bench) -> Cases:
    """Publish an event of 128 bytes every 10 ms to a channel of its own: milliseconds to its 201.

    One connection; an event that is due waits until the one before is answered. `alone`; beside
    so many busy channels, to each of which something was published before (`wrk`, as many
    connections as channels); beside a batch of 62 MiB (64 MiB of rows: lines of 1000 bytes), sent
    again and again to one other channel. What the others get stored meanwhile is there, too.
    """
    scale = bench.scale
    count, batch = scale.beside
    seconds = 2.5 * scale.seconds
    path = fresh("busy")

    def alone(_: Server) -> dict[str, float]:
        time.sleep(seconds)
        return {}

    def channels(server: Server) -> dict[str, float]:
        return {"events/s beside": wrk(server, path, count, scale.seconds, SIZE, count).rate}

    def batched(server: Server) -> dict[str, float]:
        began = time.perf_counter()
        lines = batches(batch, server, "lines", LINE_BYTES, seconds)
        took = time.perf_counter() - began
        return {"MB/s beside": lines * (LINE_BYTES + 1) / took / 1e6}

    with started(bench.home, HUB) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, SIZE)
            with Connections(server, count) as connections:
                connections.post([request(f"{path}{n}", b"x") for n in range(1, count + 1)])
        loads: list[tuple[str, int, Load]] = [
            ("alone", 0, alone),
            (f"beside {count} channels", count, channels),
            (f"beside batches, {batch >> 20} MiB", batch, batched),
        ]
        for name, size, load in loads:
            yield Case(name, size, takes(servers, partial(lone, load)))


def lone(load: Load, server: Server) -> Sample:
    """Publish little for as long as the load lasts."""
    times: list[float] = []
    with (
        Busy(server.process.pid) as busy,
        ThreadPoolExecutor(1) as pool,
        Posts(server, fresh("lone")) as publisher,
    ):
        loading = pool.submit(load, server)
        time.sleep(SETTLE_SECONDS)
        due = time.perf_counter()
        while not loading.done() or not times:
            time.sleep(max(0, due - time.perf_counter()))
            began = time.perf_counter()
            publisher.send(events(len(times), 1, 0, SIZE))
            publisher.end()
            ended = time.perf_counter()
            times.append((ended - began) * 1e3)
            due = max(due + EVERY_SECONDS, ended)
        done = loading.result()
    figures = {"ms p50": median(times), "ms p99": p99(times), **done}
    return Sample(figures, busy.server, busy.generator)
