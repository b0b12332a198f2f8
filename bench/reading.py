"""Workloads: one reader, and a channel that is there already.

The channel has default ids, a millisecond apart, and rows of 100 bytes.
"""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from bench.cpu import Busy
from bench.figures import Case, Cases, Sample, Take
from bench.publishing import takes
from bench.scale import Bench
from bench.servers import HUB, REDIS, Server, files_kind, place, started
from bench.subscribers import Subscribers
from esource.event import default_id

START = 1_700_000_000_000_000  # microseconds
ROW_BYTES = 100
FORMATS = ("ndjson", "json", "raw", "tsv")
REDIS_EVENTS = 1_000_000  # as many as Redis is given: they stay in its memory
MAPPED_SECONDS = 0.005  # in which nobody can have searched much of a file
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 30  # for a large file; a second for each MB, and one more
CROWD = 20  # readers at once
NEAR_THE_END = 10  # events before it


def replay(bench: Bench) -> Cases:
    """Read all of a channel of so many MB from its first event: events/s.

    As SSE each event is checked by its sequence number, in other formats the answer's bytes are
    counted. Redis: `XRANGE` over a stream of the same events, up to a million.
    """
    sizes = bench.scale.megabytes

    def as_sse(server: Server, megabytes: int) -> Sample:
        count = events_in(megabytes)
        path = f"/channel-{megabytes}?follow=0"
        started = time.monotonic_ns()
        with Subscribers(server, path, 1) as reader:
            with Busy(server.process.pid, reader.pid) as busy:
                received = reader.received(count)
            seconds = (received.last_ns - started) / 1e9
            return Sample(
                {"events/s": received.events / seconds},
                busy.server,
                busy.generator,
                received.events,
                received.lost,
                received.twice,
            )

    def as_bytes(server: Server, megabytes: int, format: str) -> Sample:
        # With a limit, or TSV would be a download.
        path = f"/channel-{megabytes}?format={format}&follow=0&limit={1 << 50}"
        with Busy(server.process.pid) as busy:
            _, seconds = get(server, path)
        return Sample({"events/s": events_in(megabytes) / seconds}, busy.server, busy.generator)

    with started(bench.home, HUB, REDIS) as (server, *others):
        for megabytes in sizes:
            put_channel(bench, server.folder, megabytes)
            subjects: dict[str, Take] = {"hub": partial(as_sse, server, megabytes)}
            for other in others:
                if events_in(megabytes) <= REDIS_EVENTS:
                    fill(other, events_in(megabytes))
                    subjects["redis XRANGE"] = partial(range_of, other, events_in(megabytes))
            yield Case(f"sse, {megabytes} MB", megabytes, subjects)
        middle = sizes[len(sizes) // 2]
        for format in FORMATS:
            takes = {"hub": partial(as_bytes, server, middle, format)}
            yield Case(f"{format}, {middle} MB", middle, dict(takes))


def download(bench: Bench) -> Cases:
    """Download a channel of so many MB as TSV: MB/s. nginx serves the same file."""

    def load(megabytes: int, server: Server) -> Sample:
        path = f"/channel-{megabytes}" + (".tsv" if server.name == "nginx" else "")
        # Small ones several times, so that there is something to measure.
        times = max(1, 200 // megabytes)
        seconds = 0.0
        with Busy(server.process.pid) as busy:
            for _ in range(times):
                size, taken = get(server, path)
                assert size >= megabytes * 1_000_000
                seconds += taken
        return Sample({"MB/s": times * megabytes / seconds}, busy.server, busy.generator)

    with started(bench.home, HUB) as (server,):
        for megabytes in bench.scale.megabytes:
            put_channel(bench, server.folder, megabytes)
        with started(bench.home, files_kind(server.folder)) as others:
            for megabytes in bench.scale.megabytes:
                servers = [server, *others]
                yield Case(f"{megabytes} MB", megabytes, takes(servers, partial(load, megabytes)))


def resume(bench: Bench) -> Cases:
    """Find a place near the end of a channel of so many MB: milliseconds to the first event.

    `id`: an event stream with the `Last-Event-ID` of ten events before the end; `time`: a read
    `since=` a time that is no event's id; `tail`: the last ten events; `type`: all events of a type
    that is not there, for one reader and for twenty at once. Cold is the first search
    after the hub's start, with no index beside the file. Then the hub maps the file in the
    background; `s mapping` is how long that takes, and warm the median of fifty searches after it.
    `ms others` is how long a small request of somebody else took during the cold one, at worst.
    """
    home = place(bench.home)
    (home / "events").mkdir()

    def search(server: Server, kind: str, megabytes: int) -> float:
        near = default_id(START + (events_in(megabytes) - NEAR_THE_END) * 1000).decode()
        channel = f"/channel-{megabytes}"
        if kind == "id":
            headers = f"Accept: text/event-stream\r\nLast-Event-ID: {near}\r\n"
            return first_event(server, channel, headers)
        if kind.startswith("type"):
            with ThreadPoolExecutor(CROWD) as readers:
                paths = [f"{channel}?event=none&format=raw"] * (CROWD if "at once" in kind else 1)
                began = time.perf_counter()
                list(readers.map(partial(get, server), paths))
                return time.perf_counter() - began
        between = near[:-2] + "5Z"
        query = f"?since={between}&limit=5" if kind == "time" else "?tail=10"
        return get(server, channel + query)[1]

    def take(kind: str, megabytes: int) -> Sample:
        for index in (home / "events").glob("*.id?"):  # that the hub before has left
            index.unlink()
        with HUB.start(home) as server:
            get(server, "/nobody?limit=0")
            with Busy(server.process.pid) as busy:
                with Others(server) as others:
                    cold = search(server, kind, megabytes)
                began = time.monotonic()
                # A filter maps what it reads.
                while not kind.startswith("type") and (
                    search(server, kind, megabytes) > max(cold / 20, MAPPED_SECONDS)
                ):
                    time.sleep(POLL_SECONDS)
                    if time.monotonic() - began > min(PATIENCE_SECONDS, 1 + megabytes):
                        break
                mapping = time.monotonic() - began
                warm = [search(server, kind, megabytes) for _ in range(bench.scale.searches)]
            figures = {
                "ms cold": cold * 1e3,
                "ms warm": median(warm) * 1e3,
                "s mapping": mapping,
                "ms others": max(others.times) * 1e3,
            }
            return Sample(figures, busy.server, busy.generator)

    for megabytes in bench.scale.megabytes:
        put_channel(bench, home / "events", megabytes)
        for kind in ("id", "time", "tail", "type", f"type, {CROWD} at once"):
            name = f"{kind}, {megabytes} MB"
            yield Case(name, megabytes, {HUB.name: partial(take, kind, megabytes)})


# -- the channel ---------------------------------------------------------------------------


def events_in(megabytes: int) -> int:
    """Return how many events a channel of this size has."""
    return megabytes * 1_000_000 // ROW_BYTES


def put_channel(bench: Bench, folder: Path, megabytes: int) -> None:
    """Put `channel-<megabytes>.tsv` into a folder, from the place where the whole run has it."""
    path = bench.home.parent / f"channel-{megabytes}.tsv"
    if not path.exists():
        write_channel(path, megabytes)
    (folder / path.name).hardlink_to(path)


def write_channel(path: Path, megabytes: int) -> None:
    """Write a channel; it is on disk on return."""
    count = events_in(megabytes)
    with path.open("wb") as file:
        for start in range(0, count, 1000):
            second = default_id(START + start * 1000)[:20]
            file.writelines(
                b"%b%03d000Z\t\t%b\n" % (second, n - start, data(n))
                for n in range(start, min(start + 1000, count))
            )
        os.fsync(file.fileno())


def data(n: int) -> bytes:
    """Return the data of the n-th event."""
    return (b"#%d 0 " % n).ljust(ROW_BYTES - 30, b"x")


# -- one reader ----------------------------------------------------------------------------


def get(server: Server, path: str) -> tuple[int, float]:
    """Download, and throw away; return the bytes of the answer and the seconds it took."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        started = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        buffer = bytearray(1 << 20)
        size = connection.recv_into(buffer)
        if b" 200 " not in bytes(buffer[:16]):
            raise RuntimeError(f"{path}: {bytes(buffer[:size]).decode(errors='replace')}")
        while received := connection.recv_into(buffer):
            size += received
        return size, time.perf_counter() - started


def first_event(server: Server, path: str, headers: str) -> float:
    """Subscribe; return the seconds until the first event was there."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        started = time.perf_counter()
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        connection.sendall(request.encode())
        received = b""
        while b"\ndata: #" not in received:
            piece = connection.recv(65536)
            if not piece:
                raise RuntimeError(f"{path}: no event, but {received.decode()}")
            received += piece
        return time.perf_counter() - started


class Others:
    """Small requests of somebody else, and how long each took."""

    def __init__(self, server: Server) -> None:
        """Send none yet."""
        self.times: list[float] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.times.append(get(self._server, "/nobody?limit=0")[1])
            time.sleep(0.005)

    def __enter__(self) -> "Others":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


# -- Redis ---------------------------------------------------------------------------------


def fill(server: Server, count: int) -> None:
    """Put as many events of the same kind into a stream of Redis, in place of those before."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        answers = connection.makefile("rb")
        connection.sendall(command(b"DEL", b"channel"))
        answers.readline()
        for start in range(0, count, 10_000):
            block = range(start, min(start + 10_000, count))
            connection.sendall(
                b"".join(command(b"XADD", b"channel", b"*", b"d", data(n)) for n in block)
            )
            for _ in block:
                answers.readline()  # its length
                answers.readline()  # the id


def range_of(server: Server, count: int) -> Sample:
    """Read all of the stream in Redis with one `XRANGE`, and count its bytes."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        started = time.perf_counter()
        with Busy(server.process.pid) as busy:
            connection.sendall(command(b"XRANGE", b"channel", b"-", b"+") + command(b"PING"))
            buffer = bytearray(1 << 20)
            last = b""
            # The answer to PING tells the end.
            while not last.endswith(b"+PONG\r\n"):
                size = connection.recv_into(buffer)
                last = (last + bytes(buffer[max(0, size - 7) : size]))[-7:]
        seconds = time.perf_counter() - started
        return Sample({"events/s": count / seconds}, busy.server, busy.generator)


def command(*words: bytes) -> bytes:
    """Return a command as Redis takes it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
