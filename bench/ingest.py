"""How fast events come in: one connection, one channel, by format and size of event.

    python -m bench.ingest [--seconds 3] [--fsync always] [--json]

Catalogue

    batch   a body of declared length, 32 MiB at a time: all or nothing
    stream  one chunked body without end: committed as it arrives
    lines, tsv, ndjson, sse   the format of the body
    redis   `XADD` pipelined over one connection, `appendfsync always`, in the same run:
            what people would use instead (left out where Debian's redis-server is missing)

The load is made before the clock starts and sent by `sendall` from this process, which says
how busy it was. Every line is the median of the rounds; all workloads take turns in each
round, so that a noisy machine is noisy for all of them.
"""

import argparse
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.harness import Hub, eventually, free_port, running_hub

CHUNK = 1 << 16
BATCH = 1 << 25

TYPES = {
    "lines": "text/plain",
    "tsv": "text/tab-separated-values",
    "ndjson": "application/x-ndjson",
    "sse": "text/event-stream",
}


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


def batches(hub: Hub, format: str, size: int, seconds: float) -> tuple[int, int, float]:
    """Send batches of declared length for a while; return events, bytes and seconds."""
    one = len(body(format, size, 1))
    count = BATCH // one
    content = body(format, size, count)
    events = 0
    with hub.connect() as connection:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            connection.sendall(head(format, f"Content-Length: {len(content)}") + content)
            assert answer(connection)["count"] == count
            events += count
        return events, events * one, time.perf_counter() - started


def stream(hub: Hub, format: str, size: int, seconds: float) -> tuple[int, int, float]:
    """Send one chunked body for a while; return events, bytes and seconds until the answer."""
    one = len(body(format, size, 1))
    count = max(1, CHUNK // one)
    content = body(format, size, count)
    chunk = b"%X\r\n%b\r\n" % (len(content), content)
    events = 0
    with hub.connect() as connection:
        connection.sendall(head(format, "Transfer-Encoding: chunked"))
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            connection.sendall(chunk)
            events += count
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection)["count"] == events
        return events, events * one, time.perf_counter() - started


def head(format: str, framing: str) -> bytes:
    """Return the head of a POST."""
    query = "?each=line" if format == "lines" else ""
    return (
        f"POST /{format}-bench{query} HTTP/1.1\r\nHost: hub\r\n{framing}\r\n"
        f"Content-Type: {TYPES[format]}\r\n\r\n"
    ).encode()


def answer(connection: socket.socket) -> dict[str, int]:
    """Return the JSON of an answer that must be 201."""
    connection.settimeout(60)
    received = b""
    while not received.endswith(b"}\n"):
        received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 201"), received
    fields: dict[str, int] = json.loads(received.partition(b"\r\n\r\n")[2])
    return fields


def redis(port: int, size: int, seconds: float) -> tuple[int, int, float]:
    """Send pipelined XADDs for a while; return events, bytes and seconds."""
    data = b"x" * size
    command = b"*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\nd\r\n$%d\r\n%b\r\n" % (
        size,
        data,
    )
    count = CHUNK // len(command)
    events = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        started = time.perf_counter()
        answers = 0
        while time.perf_counter() - started < seconds:
            connection.sendall(command * count)
            events += count
            while events - answers > 20 * count:
                answers += connection.recv(1 << 20).count(b"$")
        while answers < events:
            answers += connection.recv(1 << 20).count(b"$")
        elapsed = time.perf_counter() - started
        connection.sendall(b"*1\r\n$8\r\nFLUSHALL\r\n")
        connection.recv(100)
        return events, events * size, elapsed


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description="ingest in events/s and MB/s")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 1000])
    parser.add_argument("--fsync", default="always")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        redis_process, redis_port = start_redis(Path(home))
        with running_hub(Path(home), ESOURCE_FSYNC=options.fsync) as hub:
            for _ in range(options.rounds):
                for size in options.sizes:
                    works: dict[str, Callable[[], tuple[int, int, float]]] = {}
                    for format in TYPES:
                        for way in (batches, stream):
                            name = "batch" if way is batches else "stream"
                            works[f"{name} {format} {size} B"] = (
                                lambda way=way, format=format, size=size: way(  # type: ignore[misc]
                                    hub, format, size, options.seconds
                                )
                            )
                    if redis_process:
                        works[f"redis XADD {size} B"] = lambda size=size: redis(  # type: ignore[misc]
                            redis_port, size, options.seconds
                        )
                    for name, work in works.items():
                        busy = time.process_time()
                        events, size_, elapsed = work()
                        busy = (time.process_time() - busy) / elapsed
                        results.setdefault(name, []).append(
                            (events / elapsed, size_ / elapsed / 1e6, busy)
                        )
                        for path in hub.folder.glob("*.tsv"):
                            path.unlink()
        if redis_process:
            redis_process.terminate()
            redis_process.wait()
    if options.json:
        print(json.dumps(results))
        return
    print(f"fsync {options.fsync}; median of {options.rounds} rounds of {options.seconds} s")
    print(f"{'':28}{'events/s':>12}{'MB/s':>9}{'generator':>11}")
    for name, rounds in results.items():
        rate, megabytes, busy = (median(column) for column in zip(*rounds, strict=True))
        print(f"{name:28}{rate:12,.0f}{megabytes:9.1f}{busy:10.0%}")


def start_redis(home: Path) -> tuple["subprocess.Popen[bytes] | None", int]:
    """Start Redis with its append-only file, if it is installed."""
    program = shutil.which("redis-server")
    if not program:
        print("redis-server is not installed: its lines are left out")
        return None, 0
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", "",
         "--appendonly", "yes", "--appendfsync", "always"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    eventually(up)
    return process, port


if __name__ == "__main__":
    main()
