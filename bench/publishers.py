"""Who sends: programs of others where only rates count, this process where order and time do.

ab, wrk, redis_benchmark   many connections, each with a request at a time
Posts                      one connection, a `POST` for each event, sent without waiting
Stream                     one connection, one chunked body, every line an event
"""

import csv
import json
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import Server, program

SCRIPT = Path(__file__).with_name("post.lua")
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Sent:
    """What a program has sent."""

    requests: int  # that were answered 2xx
    seconds: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def _run(name: str, *arguments: str, seconds: float | None = None) -> str:
    """Run a program and return what it says; after `seconds`, tell it to come to its end."""
    process = subprocess.Popen(
        [str(program(name)), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{name} failed: {said}")
    return said


def ab(server: Server, path: str, body: Path, requests: int, connections: int) -> Sent:
    """Run `ab -k`, the seed's own benchmark. What is not answered 2xx fails the run."""
    said = _run(
        "ab", "-k", "-l", "-q", "-c", str(min(connections, requests)),
        "-n", str(requests), "-p", str(body), "-T", "text/plain", server.url(path),
    )  # fmt: skip

    def field(pattern: str) -> float:
        match = re.search(pattern + r"\s+([\d.]+)", said)
        return float(match[1]) if match else 0.0

    refused = field("Non-2xx responses:") + field("Failed requests:")
    if refused:
        raise RuntimeError(f"ab: {refused:.0f} requests of {server.name} failed\n{said}")
    return Sent(
        int(field("Complete requests:")), field("Time taken for tests:"), field(r"\n\s+99%")
    )


def wrk(
    server: Server,
    path: str,
    connections: int,
    seconds: float,
    size: int,
    channels: int = 1,
    headers: tuple[str, ...] = (),
) -> Sent:
    """Run `wrk` with POSTs of `size` bytes, to one channel or to many in turn.

    `headers` go with each request, as in `curl -H`.

    It counts from when it begins to connect, so a thousand connections get more time. If nothing at
    all was answered, as on a machine that does much else, it is run again for twice as long.
    """
    asked, seconds = seconds, seconds * (1 + 1.5 * connections / 1000)
    said = _run(
        "wrk", "--latency", "-t", "1", "-c", str(connections), "-d", "60s",
        "--timeout", "30s", "-s", str(SCRIPT), *(f"-H{header}" for header in headers),
        server.url(path),
        "--", path, str(channels), str(size), seconds=seconds,
    )  # fmt: skip
    fields: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    if fields["errors"]:
        raise RuntimeError(f"wrk: {fields['errors']} requests of {server.name} failed\n{said}")
    if not fields["requests"]:
        if seconds > TIMEOUT_SECONDS:
            raise RuntimeError(f"wrk: {server.name} answered nothing within {seconds} s")
        return wrk(server, path, connections, 2 * asked, size, channels, headers)
    return Sent(fields["requests"], fields["seconds"], fields["p99_ms"])


def redis_benchmark(server: Server, connections: int, requests: int, size: int) -> Sent:
    """Run `redis-benchmark` with `XADD` of `size` bytes."""
    said = _run(
        "redis-benchmark", "-p", str(server.port), "-c", str(connections),
        "-n", str(requests), "--csv", "XADD", "bench", "*", "d", "x" * size,
    )  # fmt: skip
    fields = list(csv.DictReader(said.splitlines()))[-1]
    return Sent(requests, requests / float(fields["rps"]), float(fields["p99_latency_ms"]))


def events(first: int, count: int, stamp: int, size: int) -> list[bytes]:
    """Return the data of events that `sse_clients` can check and time, `size` bytes each."""
    return [(b"#%d %d " % (n, stamp)).ljust(size, b"x") for n in range(first, first + count)]


def request(path: str, data: bytes) -> bytes:
    """Return a plain `POST` of an event, as it is sent."""
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
    )


class _Connection:
    """One connection for publishing, for a `with`."""

    def __init__(self, server: Server, path: str) -> None:
        """Connect; nothing is sent yet."""
        self.path = path
        self._socket = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Go away, whatever is still on its way."""
        self._socket.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class Posts(_Connection):
    """A `POST` for each event on one connection. The server answers them one after another."""

    def __init__(self, server: Server, path: str) -> None:
        """Connect."""
        super().__init__(server, path)
        self._unanswered = 0
        self._received = b""

    def send(self, data: list[bytes], packet: int = 1 << 20) -> None:
        """Send events, in packets of so many bytes at most.

        The answers are not waited for, but those that are there are taken.
        """
        content = b"".join(request(self.path, event) for event in data)
        for start in range(0, len(content), packet):
            self._socket.sendall(content[start : start + packet])
        self._unanswered += len(data)
        self._socket.setblocking(False)
        try:
            self._take()
        except BlockingIOError:
            pass
        finally:
            self._socket.settimeout(TIMEOUT_SECONDS)

    def _take(self) -> None:
        """Read once, and count the answers in it."""
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise RuntimeError(f"{self.path}: the server has closed the connection")
        received = self._received + piece
        answers = list(re.finditer(rb"HTTP/1\.1 (\d\d\d)", received))
        for answer in answers:
            if not answer[1].startswith(b"2"):
                raise RuntimeError(f"{self.path}: {received[answer.start() :].decode()}")
        self._unanswered -= len(answers)
        # A status line may be torn; a whole one must not be counted again.
        self._received = received[max(len(received) - 11, answers[-1].end() if answers else 0) :]

    def end(self, ahead: int = 0) -> None:
        """Wait until every event is answered, or all but `ahead`."""
        while self._unanswered > ahead:
            self._take()

    def __enter__(self) -> "Posts":
        return self


class Stream(_Connection):
    """One chunked body with `each=line`: the hub commits its lines as they arrive."""

    def __init__(self, server: Server, path: str) -> None:
        """Connect, and send the head."""
        super().__init__(server, path)
        self._sent = 0
        self._socket.sendall(
            f"POST {path}?each=line HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    def send(self, data: list[bytes]) -> None:
        """Send events as one chunk."""
        lines = b"\n".join(data) + b"\n"
        self._socket.sendall(b"%X\r\n%b\r\n" % (len(lines), lines))
        self._sent += len(data)

    def end(self) -> None:
        """End the body; wait until all of it is committed."""
        self._socket.sendall(b"0\r\n\r\n")
        received = b""
        while not received.endswith(b"}\n"):
            piece = self._socket.recv(65536)
            if not piece:
                raise RuntimeError(f"{self.path}: {received.decode()}")
            received += piece
        stored = json.loads(received.partition(b"\r\n\r\n")[2])["count"]
        if stored != self._sent:
            raise RuntimeError(f"{self.path}: {stored} of {self._sent} events were stored")

    def __enter__(self) -> "Stream":
        return self
