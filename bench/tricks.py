"""Workload: what each trick of publishing is worth."""

from functools import partial

from bench.figures import Case, Cases, Sample
from bench.pipelined import AHEAD_BYTES, SIZE, ahead, in_seconds
from bench.publishers import wrk
from bench.publishing import takes, timed
from bench.scale import Bench, fresh
from bench.servers import HUB, Server, hub_kind, started


def tricks(bench: Bench) -> Cases:
    """Publish with one trick less each time (`bench/without.py`): `hub is ×` is what it is worth.

    Events of 128 bytes. `the loop`: small writes and quick syncs are made without a thread; 10
    connections. `one sync` for many files (`syncfs`): 100 channels, 1000 connections. `patience` of
    the garbage collector: 1000 channels. `plans` of heads, which are kept: 100 connections.
    `pipelines`: one connection, 64 KiB ahead.
    """
    scale = bench.scale

    def send(connections: int, channels: int, server: Server) -> Sample:
        path = fresh("tricks")
        return timed(
            server, partial(wrk, server, path, connections, scale.seconds, SIZE, channels)
        )  # fmt: skip

    most = max(scale.connections)
    ways = {
        "the loop": partial(send, min(10, most), 1),
        "one sync": partial(send, most, min(100, max(scale.channels))),
        "patience": partial(send, most, min(1000, max(scale.channels))),
        "plans": partial(send, min(100, most), 1),
        "pipelines": partial(in_seconds, partial(ahead, SIZE, AHEAD_BYTES), scale.seconds),
    }
    with started(bench.home, HUB) as servers:
        wrk(servers[0], fresh("warm"), 10, scale.warm_up_seconds, SIZE)
        for trick, way in ways.items():
            with started(bench.home, hub_kind(f"without {trick}", without=trick)) as others:
                wrk(others[0], fresh("warm"), 10, scale.warm_up_seconds, SIZE)
                yield Case(trick, 1, takes([*servers, *others], way))
