"""Slow publishers, idle connections and many channels keep nobody from being served."""

import http.client
import os
import signal
import socket
import statistics
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS, Hub, Wire, eventually, running_hub, size
from tests.harness.measures import memory, p99
from tests.harness.waiting import together

SLOW = size(500, 1500)  # in headers, and as many in bodies
IDLE = size(1000, 3000)  # connections that say nothing, and as many that have said something
CHANNELS = size(3000, 12_000)
KEEP_OPEN = 1024  # which is half of the descriptors here
TYPICAL_CHANNELS = 2 * KEEP_OPEN


@pytest.mark.alone
def test_slow_publishers_and_idle_connections_keep_nobody_from_being_served(
    own_hub: Hub,
) -> None:
    with ExitStack() as stack:
        connections: list[socket.socket] = []

        def connect(start: bytes) -> None:
            connection = own_hub.connect()
            stack.callback(connection.close)
            connection.sendall(start)
            connections.append(connection)

        before = own_hub.descriptors()
        for _ in range(SLOW):
            connect(b"POST /slow HTTP/1.1\r\nHost: h\r\nX-A")
            connect(b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nx")
        for _ in range(IDLE):
            connect(b"")
            connect(b"GET /up__ HTTP/1.1\r\nHost: h\r\n\r\n")
        eventually(lambda: own_hub.descriptors() >= before + len(connections) - 1, 60)
        times = []
        for n in range(200):
            for connection in connections[n % 7 : 2 * SLOW : 101]:
                connection.sendall(b"x")  # one more byte now and then
            started = time.perf_counter()
            own_hub.publish("/quick", f"{n}")
            times.append(time.perf_counter() - started)
        print(
            f"{len(connections)} slow or idle: publish p50 "
            f"{statistics.median(times) * 1e3:.1f} ms, p99 {p99(times) * 1e3:.1f} ms"
        )
        assert p99(times) < 0.25
        assert len(own_hub.rows("quick")) == 200
    eventually(lambda: own_hub.descriptors() < before + 20, 60)
    assert own_hub.rows("slow") == []
    own_hub.publish("/quick", "still")


def files_open(hub: Hub) -> int:
    """Return how many channel files the worker has open."""
    count = 0
    for fd in Path(f"/proc/{hub.worker}/fd").iterdir():
        try:
            count += os.readlink(fd).endswith(".tsv")
        except FileNotFoundError:
            continue
    return count


@pytest.mark.parametrize(
    "method",
    [
        "GET",
        pytest.param("POST"),
    ],
)
def test_channels_that_were_touched_once_leave_memory_and_descriptors_as_they_were(
    tmp_path: Path, method: str
) -> None:
    with running_hub(tmp_path, ESOURCE_FSYNC="never") as hub, ExitStack() as stack:
        hub.limit_descriptors(2 * KEEP_OPEN)
        wire = stack.enter_context(Wire(hub))

        def touch(first: int, last: int) -> int:
            most = 0
            for n in range(first, last):
                if method == "GET":
                    head = f"GET /channel-{n} HTTP/1.1\r\nHost: h\r\n\r\n"
                    wire.connection.sendall(head.encode())
                    assert wire.reply().status == 200
                else:
                    assert wire.post(f"/channel-{n}", b"x").status == 201
                if n % 500 == 0:
                    most = max(most, files_open(hub))
            return most

        if method == "GET":
            hub.folder.joinpath("channel-0.tsv").write_bytes(b"")
            for n in range(CHANNELS):
                (hub.folder / f"channel-{n}.tsv").write_bytes(b"1\t\tx\n")
        touch(0, TYPICAL_CHANNELS)
        before = memory(hub)
        most = touch(TYPICAL_CHANNELS, CHANNELS)
        grown = memory(hub) - before
        print(f"{method}: at most {most} files open, RSS +{grown / 1e6:.1f} MB")
        assert most <= KEEP_OPEN + 350  # those that were just published to stay for a moment
        assert grown < 8e6
        hub.get("/channel-0")


RELOADS = size(10, 30)


def test_reloads_cost_busy_publishers_no_error(own_hub: Hub) -> None:
    """Eight kept-alive connections, which a publisher renews only where an answer says so."""
    over, acknowledged = threading.Event(), [0] * 8

    def publish(number: int) -> None:
        client = http.client.HTTPConnection("127.0.0.1", own_hub.port, timeout=PATIENCE_SECONDS)
        with closing(client):
            while not over.is_set():
                client.request("POST", "/busy", b"%d %d" % (number, acknowledged[number]))
                answer = client.getresponse()
                assert answer.status == 201, answer.read()
                answer.read()
                acknowledged[number] += 1

    def reload(_: int) -> None:
        try:
            for count in range(2, RELOADS + 2):
                reached = sum(acknowledged)
                own_hub.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
                eventually(lambda count=count: own_hub.log.count("channels in") == count)  # type: ignore[misc]
                eventually(lambda reached=reached: sum(acknowledged) > reached + 50)  # type: ignore[misc]
        finally:
            over.set()

    together(9, lambda n: publish(n) if n < 8 else reload(n))
    ours = [b"%d %d" % (n, k) for n in range(8) for k in range(acknowledged[n])]
    assert sorted(own_hub.data("busy")) == sorted(ours)
