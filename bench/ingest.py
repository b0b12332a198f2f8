"""Workload: one publisher, one channel, as many events as it takes, by format and size.

The load is made before the clock starts and sent by `sendall` from this process.
"""

import json
import socket
import time
from collections.abc import Callable
from functools import partial

from bench.cpu import Busy
from bench.figures import Case, Cases, Sample
from bench.publishers import wrk
from bench.reading import command
from bench.scale import Bench, fresh
from bench.servers import HUB, REDIS, Server, started

CHUNK = 1 << 16

TYPES = {
    "lines": "text/plain",
    "tsv": "text/tab-separated-values",
    "ndjson": "application/x-ndjson",
    "sse": "text/event-stream",
}


# Sends events of a format and size for so many seconds; returns how many.
Way = Callable[[Server, str, int, float], int]


def ingest(bench: Bench) -> Cases:
    """Send events over one connection into one channel: events/s.

    `stream` is one chunked body without end, committed as it arrives; `batch` a body of
    declared length, 32 MiB each, all or nothing; then the format of the body. Redis:
    `XADD`, pipelined.
    """
    scale = bench.scale

    def take(server: Server, way: Way, format: str, size: int) -> Sample:
        began = time.perf_counter()
        with Busy(server.process.pid) as busy:
            count = way(server, format, size, scale.seconds)
            seconds = time.perf_counter() - began
        for path in server.folder.glob("*.tsv"):
            path.unlink()  # or a run would fill the disk
        return Sample({"events/s": count / seconds}, busy.server, busy.generator)

    with started(bench.home, HUB, REDIS) as (server, *others):
        wrk(server, fresh("warm"), 10, scale.warm_up_seconds, 128)
        for size in scale.ingest:
            ways: dict[str, Way] = {"stream": stream, "batch": partial(batches, scale.batch)}
            for name, way in ways.items():
                for format in TYPES:
                    subjects = {HUB.name: partial(take, server, way, format, size)}
                    if (name, format) == ("stream", "lines"):
                        for other in others:
                            subjects[other.name] = partial(take, other, pipeline, format, size)
                    yield Case(f"{name} {format}, {size} B", size, dict(subjects))


def body(format: str, size: int, events: int) -> bytes:
    """Return a body of events whose data are `size` bytes each."""
    data = "x" * size
    if format == "lines":
        return f"{data}\n".encode() * events
    if format == "tsv":
        return f"\t\t{data}\n".encode() * events
    if format == "ndjson":
        return (json.dumps({"event": "", "data": data}) + "\n").encode() * events
    return f"data: {data}\n\n".encode() * events


def batches(batch: int, server: Server, format: str, size: int, seconds: float) -> int:
    """Send batches of so many bytes, at least one; return how many events."""
    count = batch // len(body(format, size, 1))
    content = body(format, size, count)
    events = 0
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            # In two sends: to copy the body would hold up the other threads of this process.
            connection.sendall(head(format, f"Content-Length: {len(content)}"))
            connection.sendall(content)
            assert stored(connection) == count
            events += count
    return events


def stream(server: Server, format: str, size: int, seconds: float) -> int:
    """Send one chunked body; return how many events."""
    count = max(1, CHUNK // len(body(format, size, 1)))
    content = body(format, size, count)
    chunk = b"%X\r\n%b\r\n" % (len(content), content)
    events = 0
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(head(format, "Transfer-Encoding: chunked"))
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            connection.sendall(chunk)
            events += count
        connection.sendall(b"0\r\n\r\n")
        assert stored(connection) == events
    return events


def head(format: str, framing: str) -> bytes:
    """Return the head of a POST."""
    query = "?each=line" if format == "lines" else ""
    return (
        f"POST /{format}-bench{query} HTTP/1.1\r\nHost: hub\r\n{framing}\r\n"
        f"Content-Type: {TYPES[format]}\r\n\r\n"
    ).encode()


def stored(connection: socket.socket) -> int:
    """Return how many events an answer, which must be 201, says are stored."""
    received = b""
    while not received.endswith(b"}\n"):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    assert received.startswith(b"HTTP/1.1 201"), received
    count: int = json.loads(received.partition(b"\r\n\r\n")[2])["count"]
    return count


def pipeline(server: Server, format: str, size: int, seconds: float) -> int:
    """Send `XADD` without waiting for each answer; return how many events."""
    add = command(b"XADD", b"bench", b"*", b"d", b"x" * size)
    count = CHUNK // len(add)
    events = answers = 0
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            connection.sendall(add * count)
            events += count
            while events - answers > 20 * count:
                answers += connection.recv(1 << 20).count(b"$")
        while answers < events:
            answers += connection.recv(1 << 20).count(b"$")
        connection.sendall(command(b"FLUSHALL"))
        connection.recv(100)
    return events
