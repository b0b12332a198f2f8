"""Workloads: many subscribers at the tail of one channel."""

import json
import math
import random
import resource
import time
from functools import partial
from statistics import median

from bench.cpu import Busy, resident_bytes
from bench.figures import Case, Cases, Sample, Take
from bench.publishers import Posts, Stream, events
from bench.publishing import takes
from bench.scale import Bench, fresh
from bench.servers import HUB, NCHAN, NCHAN_TWO, Kind, Server, installed, place, skipped, started
from bench.subscribers import Received, Subscribers
from tests.harness.measures import p99

SETTLE_SECONDS = 0.3  # nchan's workers tell each other who subscribes after its headers
WINDOWS_AHEAD = 3
# nchan numbers the events of a second from 0 to 32767, and delivers none after that.
NCHAN_EVENTS_PER_SECOND = 25_000
EVENTS_PER_SECOND = 200
SPARE_DESCRIPTORS = 1000  # of a server, for all but followers
SOME_WORK = [{"n": n, "text": f"{n} times"} for n in range(240)]
EACH_ADDRESS = 10_000  # followers that come from one: it has 28 000 ports


def fan_out(bench: Bench) -> Cases:
    """Deliver events to so many subscribers, as fast as they take them: deliveries/s.

    The publisher is one connection, and stays three windows of events ahead of the
    subscribers. `hub`: a window is one chunk of a stream with `each=line`, so that events share
    commits and writes. `hub, POST each` and nchan, which knows no batches: a `POST` for each
    event, sent without waiting for the answers, so with few subscribers it is publishing that
    sets the pace. Each event is checked at each subscriber by its sequence number. nchan gets
    25 000 events/s at most: it stops delivering after 32 768 within a second.
    """
    scale = bench.scale

    def of(count: int, size: int) -> dict[str, Take]:
        def take(server: Server, one_by_one: bool) -> Take:
            return partial(deliver, server, one_by_one, count, size, scale.seconds)

        hub, *others = servers
        subjects = {hub.name: take(hub, False), "hub, POST each": take(hub, True)}
        return subjects | {other.name: take(other, True) for other in others}

    with started(bench.home, HUB, NCHAN, NCHAN_TWO) as servers:
        for server in servers:
            warm_up(server, scale.warm_up_seconds)
        for size in scale.sizes:
            for count in scale.subscribers:
                name = f"{count} subscriber{'s' if count > 1 else ''}, {size} B"
                yield Case(name, count, of(count, size))


def deliver(server: Server, one_by_one: bool, count: int, size: int, seconds: float) -> Sample:
    """Deliver events of `size` bytes to `count` subscribers; `fan_out` says how."""
    path = fresh("fan")
    least, most, of_all = (5, 100, 20_000) if one_by_one else (20, 5000, 100_000)
    window = min(most, max(least, of_all // count))
    with (
        Subscribers(server, path, count, window=window) as subscribers,
        (Posts if one_by_one else Stream)(server, path) as publisher,
    ):
        time.sleep(SETTLE_SECONDS)
        with Busy(server.process.pid, subscribers.pid) as busy:
            started = time.monotonic_ns()
            sent = ahead = 0
            limit = NCHAN_EVENTS_PER_SECOND if server.name.startswith("nchan") else math.inf
            due = time.monotonic()
            while time.monotonic_ns() - started < seconds * 1e9:
                if ahead == WINDOWS_AHEAD:
                    subscribers.wait_for_window()
                    ahead -= 1
                # What was not sent in time is not made up for: that would be too many at once.
                time.sleep(max(0, due - time.monotonic()))
                due = max(due, time.monotonic()) + window / limit
                publisher.send(events(sent, window, time.monotonic_ns(), size))
                sent += window
                ahead += 1
            publisher.end()
            received = subscribers.received(sent)
        took = (received.last_ns - started) / 1e9
        return sample({"deliveries/s": received.events / took}, busy, received)


def latency(bench: Bench) -> Cases:
    """Publish 200 events/s of 128 bytes at even intervals: milliseconds until they are received.

    Counted from when an event was due, whether or not the one before it was answered; over all
    subscribers and all events. `no server` is the machine: as often this process does what takes it
    about half a millisecond, without a call of the system, and is done so long after it was due.
    """
    scale = bench.scale
    total = int(EVENTS_PER_SECOND * max(0.2, scale.seconds * 2))

    def alone() -> Sample:
        late = []
        started = time.monotonic_ns()
        for n in range(total):
            due = started + n * 1_000_000_000 // EVENTS_PER_SECOND
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
            json.loads(json.dumps(SOME_WORK))
            late.append((time.monotonic_ns() - due) / 1e6)
        return Sample({"ms p50": median(late), "ms p99": p99(late)})

    def pace(count: int, server: Server) -> Sample:
        path = fresh("pace")
        with Subscribers(server, path, count) as subscribers, Posts(server, path) as publisher:
            time.sleep(SETTLE_SECONDS)
            with Busy(server.process.pid, subscribers.pid) as busy:
                started = time.monotonic_ns()
                for n in range(total):
                    due = started + n * 1_000_000_000 // EVENTS_PER_SECOND
                    time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
                    publisher.send(events(n, 1, due, 128))
                publisher.end()
                received = subscribers.received(total)
            figures = {"ms p50": received.p50_ms, "ms p99": received.p99_ms}
            return sample(figures, busy, received)

    with started(bench.home, HUB, NCHAN) as servers:
        for server in servers:
            warm_up(server, scale.warm_up_seconds)
        for count in scale.listeners:
            name = f"{count} subscriber{'s' if count > 1 else ''}, {EVENTS_PER_SECOND}/s"
            machine = {"no server": alone} if count == scale.listeners[0] else {}
            yield Case(name, count, takes(servers, partial(pace, count)) | machine)


def tail(bench: Bench) -> Cases:
    """Publish one event at a time while 5000 subscribers are at the tail: milliseconds to the 201.

    A thousand events, with pauses of up to 100 ms in between, of random length, so that some come
    while the one before is still on its way to the subscribers.
    """
    scale = bench.scale
    count = scale.tail

    def take(server: Server) -> Sample:
        path = fresh("tail")
        total = scale.tail_publishes
        pauses = random.Random(1)
        with Subscribers(server, path, count) as subscribers, Posts(server, path) as publisher:
            time.sleep(SETTLE_SECONDS)
            times = []
            with Busy(server.process.pid, subscribers.pid) as busy:
                for n in range(total):
                    started = time.monotonic_ns()
                    publisher.send(events(n, 1, started, 128))
                    publisher.end()
                    times.append((time.monotonic_ns() - started) / 1e6)
                    time.sleep(pauses.uniform(0, 0.1))
                received = subscribers.received(total)
            times.sort()
            figures = {
                "ms p50": times[total // 2],
                "ms p99": times[total * 99 // 100],
                "ms p99, received": received.p99_ms,
            }
            return sample(figures, busy, received)

    with started(bench.home, HUB, NCHAN) as servers:
        for server in servers:
            warm_up(server, scale.warm_up_seconds)
        yield Case(f"{count} subscribers", count, takes(servers, take))


def idle(bench: Bench) -> Cases:
    """Hold so many subscribers to whom nothing is sent: resident bytes for each.

    What all of the server's processes take more than before. nginx sets memory aside for its
    connections at the start, which therefore only shows in `MB in all`.
    """
    scale = bench.scale

    def hold(kind: Kind, count: int) -> Sample:
        # A server each time: memory that was used once is there for the next subscriber.
        with kind.start(place(bench.home)) as server:
            warm_up(server, scale.warm_up_seconds)
            before = resident_bytes(server.pids)
            with (
                Subscribers(server, fresh("idle"), count) as subscribers,
                Busy(server.process.pid, subscribers.pid) as busy,
            ):
                time.sleep(scale.seconds / 2)
                after = resident_bytes(server.pids)
            figures = {
                "bytes each": (after - before) / count,
                "MB in all": after / 1e6,
                "connects/s": count / subscribers.connecting_seconds,
            }
            return Sample(figures, busy.server, busy.generator)

    kinds = installed(HUB, NCHAN)
    for count in scale.idle:
        holds = {kind.name: partial(hold, kind, count) for kind in kinds}
        yield Case(f"{count} subscribers", count, dict(holds))


def many(bench: Bench) -> Cases:
    """Hold 50 000 subscribers on one hub, from several addresses: memory, and an event for all.

    `s` until all have their headers; resident bytes for each, and MB of all of the hub; an event is
    published, `ms to all` is when the last one has it. Where a process may have fewer descriptors
    (`ulimit -n`), it is as many as it may have, which is said.
    """
    scale = bench.scale
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
    count = min(scale.many, most)
    if count < scale.many:
        said = f"{count} of {scale.many} subscribers: a process here may have no more descriptors"
        skipped.append(said)
        print(f"skipped: {said}", flush=True)

    def hold() -> Sample:
        with HUB.start(place(bench.home)) as server:
            warm_up(server, scale.warm_up_seconds)
            before = resident_bytes(server.pids)
            path = fresh("many")
            addresses = -(-count // EACH_ADDRESS)
            with (
                Subscribers(server, path, count, addresses=addresses) as subscribers,
                Posts(server, path) as publisher,
            ):
                time.sleep(scale.seconds / 2)
                after = resident_bytes(server.pids)
                with Busy(server.process.pid, subscribers.pid) as busy:
                    publisher.send(events(0, 1, time.monotonic_ns(), 128))
                    publisher.end()
                    received = subscribers.received(1)
            figures = {
                "bytes each": (after - before) / count,
                "MB in all": after / 1e6,
                "ms to all": received.max_ms,
                "s": subscribers.connecting_seconds,
            }
            return sample(figures, busy, received)

    yield Case(f"{count} subscribers", count, {HUB.name: hold})


def warm_up(server: Server, seconds: float) -> None:
    """Publish for a moment to a few subscribers."""
    path = fresh("warm")
    with Subscribers(server, path, 5) as subscribers, Posts(server, path) as publisher:
        time.sleep(SETTLE_SECONDS)
        sent = 0
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            publisher.send(events(sent, 10, 0, 128))
            publisher.end()
            sent += 10
        subscribers.received(sent)


def sample(figures: dict[str, float], busy: Busy, received: Received) -> Sample:
    """Return a sample with what the subscribers have missed."""
    return Sample(
        figures, busy.server, busy.generator, received.events, received.lost, received.twice
    )
