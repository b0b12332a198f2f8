"""Many connections, each with a request at a time: one epoll loop of this process.

For what programs of others cannot do: connections that are open before anything is counted,
and a known set of requests, each sent once.
"""

import itertools
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from bench.message import whole
from bench.publishers import TIMEOUT_SECONDS
from bench.servers import Server
from tests.harness import eventually

LISTENING = "0A"


class Connections:
    """So many connections to a server, for a `with`. From the start the server has accepted all."""

    def __init__(self, server: Server, count: int) -> None:
        """Connect; return when no connection is left in the server's listen queue."""
        self._server = server
        self._sockets = {}
        self._epoll = select.epoll()
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[client.fileno()] = client
            self._epoll.register(client.fileno(), select.EPOLLIN)
        eventually(lambda: not unaccepted(server.port))

    def post(self, requests: list[bytes]) -> list[float]:
        """Send each request once, as soon as a connection is free; wait for all answers.

        Return when each answer was there, in the order in which they came: seconds since the
        first request was sent. An answer that is not 2xx raises `RuntimeError`.
        """
        return [seconds for _, seconds in self._answers(iter(requests))]

    def post_on(self, request: bytes) -> list[float]:
        """Send a request on each connection, again and again, until each has had an answer.

        Return when the first answer of each was there, as `post` does.
        """
        first: dict[int, float] = {}
        for descriptor, seconds in self._answers(itertools.repeat(request)):
            first.setdefault(descriptor, seconds)
            if len(first) == len(self._sockets):
                break
        return list(first.values())

    def _answers(self, requests: Iterator[bytes]) -> Iterator[tuple[int, float]]:
        """Send requests, one at a time on each connection; yield where and when it is answered."""
        received = {}
        started = time.perf_counter()
        for (descriptor, client), request in zip(self._sockets.items(), requests, strict=False):
            received[descriptor] = b""
            client.sendall(request)
        while received:
            ready = self._epoll.poll(TIMEOUT_SECONDS)
            if not ready:
                raise RuntimeError(f"{self._server.name} answers no more")
            for descriptor, _ in ready:
                client = self._sockets[descriptor]
                piece = client.recv(1 << 16)
                answer = received.pop(descriptor, b"") + piece
                if not piece or (len(answer) > 9 and answer[9:10] != b"2"):
                    raise RuntimeError(f"{self._server.name}: {answer.decode()}")
                if not whole(answer):
                    received[descriptor] = answer
                    continue
                yield descriptor, time.perf_counter() - started
                request = next(requests, b"")
                if request:
                    received[descriptor] = b""
                    client.sendall(request)

    def __enter__(self) -> "Connections":
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()
        for client in self._sockets.values():
            client.close()


def unaccepted(port: int) -> int:
    """Return how many connections wait to be accepted by whoever listens at a port of IPv4."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
            return int(queues.rpartition(":")[2], 16)
    return 0
