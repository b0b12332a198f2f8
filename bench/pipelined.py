"""Workloads: one connection, and requests that do not wait for answers, or are torn."""

import socket
import time
from collections.abc import Callable
from functools import partial

from bench.cpu import Busy
from bench.figures import Case, Cases, Sample
from bench.message import whole
from bench.publishers import TIMEOUT_SECONDS, Posts, events, request, wrk
from bench.publishing import takes
from bench.scale import Bench, fresh
from bench.servers import BARE, HUB, NCHAN, Server, started

SIZE = 128
AHEAD_BYTES = 1 << 16
TORN_SIZE, TORN_PACKET = 5000, 3000
CUTS = {"head": 40, "body": TORN_SIZE // 2}  # where in a request: in its fields, in its data


def pipelined(bench: Bench) -> Cases:
    """Publish over one connection, several requests in a packet or one in two: events/s.

    `64 KiB ahead`: sent without waiting, while less than that is unanswered. Events of 5000 bytes
    are cut into packets of 3000, wherever that is.
    `torn in the head`, `torn in the body`: events of 5000 bytes, each sent when the one before is
    answered, but cut in two: a packet is the rest of a request and the beginning of the next one.
    So none ends where a request ends.
    """
    ways: list[tuple[str, int, Callable[[Server, float], int]]] = [
        (f"{SIZE} B, {AHEAD_BYTES >> 10} KiB ahead", SIZE, partial(ahead, SIZE, AHEAD_BYTES)),
        (f"torn, {TORN_SIZE} B, the same", TORN_SIZE, partial(ahead, TORN_SIZE, TORN_PACKET)),
    ]
    for part, cut in CUTS.items():
        ways.append((f"torn in the {part}, {TORN_SIZE} B", TORN_SIZE, partial(torn, cut)))

    with started(bench.home, HUB, BARE, NCHAN) as servers:
        for server in servers:
            wrk(server, fresh("warm"), 10, bench.scale.warm_up_seconds, SIZE)
        for name, size, way in ways:
            yield Case(name, size, takes(servers, partial(in_seconds, way, bench.scale.seconds)))


def in_seconds(way: Callable[[Server, float], int], seconds: float, server: Server) -> Sample:
    """Return how many events one of the ways sends in so many seconds."""
    with Busy(server.process.pid) as busy:
        count = way(server, seconds)
    return Sample({"events/s": count / busy.seconds}, busy.server, busy.generator)


def ahead(size: int, packet: int, server: Server, seconds: float) -> int:
    """Send events without waiting, for so many seconds; return how many, all answered."""
    path = fresh("ahead")
    most = AHEAD_BYTES // len(request(path, b"x" * size))
    some = events(0, most // 4, 0, size)
    sent = 0
    with Posts(server, path) as posts:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            posts.end(most - len(some))
            posts.send(some, packet)
            sent += len(some)
        posts.end()
    return sent


def torn(cut: int, server: Server, seconds: float) -> int:
    """Send events in torn requests, for so many seconds; return how many, all answered.

    `cut` is where the second packet of a request begins, in bytes. The last request is not ended.
    """
    whole_one = request(fresh("torn"), b"x" * TORN_SIZE)
    packet = whole_one[cut:] + whole_one[:cut]
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(whole_one[:cut])
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            client.sendall(packet)
            answer = b""
            while not whole(answer):
                piece = client.recv(1 << 16)
                answer += piece
                if not piece or (len(answer) > 9 and answer[9:10] != b"2"):
                    raise RuntimeError(f"{server.name}: {answer.decode()}")
            sent += 1
    return sent
