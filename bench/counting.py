"""Workload: what the hub's counters cost."""

from functools import partial

from bench.fanout import deliver, warm_up
from bench.figures import Case, Cases, Sample
from bench.publishers import wrk
from bench.publishing import takes, timed
from bench.scale import Bench, fresh
from bench.servers import HUB, HUB_WITHOUT_COUNTING, Server, started

SIZE = 128


def counting(bench: Bench) -> Cases:
    """Publish and deliver with the hub as it is, and with one whose counters do nothing.

    128 bytes: publishing over 100 connections with `wrk`, and fan-out to 1000 subscribers of
    what comes as lines of one chunked body. `hub, not counting` is the same code, but the
    methods of `Stats` and `Histogram` return at once: `hub is ×` is what counting leaves.
    """
    scale = bench.scale

    def send(connections: int, server: Server) -> Sample:
        path = fresh("counted")
        return timed(server, partial(wrk, server, path, connections, scale.seconds, SIZE))

    def fan(count: int, server: Server) -> Sample:
        return deliver(server, False, count, SIZE, scale.seconds)

    with started(bench.home, HUB, HUB_WITHOUT_COUNTING) as servers:
        for server in servers:
            warm_up(server, scale.warm_up_seconds)
            wrk(server, fresh("warm"), 10, scale.warm_up_seconds, SIZE)
        connections, count = scale.counting
        yield Case(
            f"{connections} connections", connections, takes(servers, partial(send, connections))
        )
        yield Case(f"{count} subscribers", count, takes(servers, partial(fan, count)))
