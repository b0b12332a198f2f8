"""Slow readers cost nothing, lose nothing, and slow nobody; many idle ones cost little."""

import random
import re
import select
import socket
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.harness import QUIET, Hub, Stream, Wire, eventually, running_hub, size
from tests.harness.measures import memory, p99
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import connect_slowly_reading

READERS = size(40, 100)
MEGABYTES = size(24, 72)
IDLE = 10_000
AT_THE_TAIL = 5000
READS_GIVEN_UP = 1000
EVENT_BYTES = 200_000


def subscription(channel: str, *fields: str) -> bytes:
    lines = [f"GET /{channel} HTTP/1.0", "Host: h", "Accept: text/event-stream", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def head_of(connection: socket.socket) -> None:
    """Read the headers and the first comment, and not a byte more."""
    received = b""
    while not received.endswith(b"\r\n\r\n:\n"):
        piece = connection.recv(1)
        assert piece, received
        received += piece


def tcp_memory() -> int:
    """Return what the kernel holds for TCP, in bytes."""
    match = re.search(r"TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text())
    assert match
    return int(match[1]) * 4096


def publish_megabytes(hub: Hub, channel: str, megabytes: int) -> list[float]:
    """Publish events of 100 kB; return how long each took, in seconds."""
    data = random.randbytes(EVENT_BYTES // 2).hex().encode()
    times = []
    with Wire(hub) as wire:
        for _ in range(megabytes * 1_000_000 // EVENT_BYTES):
            started = time.perf_counter()
            assert wire.post(f"/{channel}", data).status == 201
            times.append(time.perf_counter() - started)
    return times


def checksums(connections: list[socket.socket], length: int) -> set[int]:
    """Read `length` bytes of each; return the checksums of what came."""
    sums = {connection.fileno(): [0, 0] for connection in connections}
    by_fd = {connection.fileno(): connection for connection in connections}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    deadline = time.monotonic() + size(60, 600)
    open_ = set(by_fd)
    while open_:
        assert time.monotonic() < deadline, f"{len(open_)} readers did not get everything"
        for fd, _ in poll.poll(1000):
            count = by_fd[fd].recv_into(view, min(len(buffer), length - sums[fd][1]))
            assert count, f"a reader was cut off after {sums[fd][1]} of {length} bytes"
            sums[fd] = [zlib.crc32(view[:count], sums[fd][0]), sums[fd][1] + count]
            if sums[fd][1] == length:
                poll.unregister(fd)
                open_.discard(fd)
    return {crc for crc, _ in sums.values()}


@pytest.mark.alone
def test_readers_who_read_nothing_cost_nothing_and_get_everything_later(tmp_path: Path) -> None:
    with running_hub(tmp_path, **QUIET) as hub, ExitStack() as stack:
        publish_megabytes(hub, "warm-up", 4)
        alone = statistics.median(publish_megabytes(hub, "nobody", MEGABYTES // 4))
        readers = []
        for _ in range(READERS):
            # What a reader's own kernel holds is not the hub's; here both are on one machine.
            reader = connect_slowly_reading(("127.0.0.1", hub.port), receive_buffer=4096)
            stack.callback(reader.close)
            reader.sendall(subscription("slow"))
            readers.append(reader)
        for reader in readers:
            head_of(reader)
        own, kernel = memory(hub), tcp_memory()
        with_readers = statistics.median(publish_megabytes(hub, "slow", MEGABYTES))
        own, kernel = memory(hub) - own, tcp_memory() - kernel
        print(
            f"{READERS} stalled readers, {MEGABYTES} MB: RSS +{own / 1e6:.1f} MB, "
            f"TCP +{kernel / 1e6:.1f} MB, publish {alone * 1e3:.2f} -> {with_readers * 1e3:.2f} ms"
        )
        assert own < 20e6 * READERS / 200 + 8e6  # the last commits are kept for all
        assert kernel < 32e6 * READERS / 200
        assert with_readers < 2 * alone + 0.002
        # The whole stream as it must be, from one reader who starts at the beginning.
        with Stream(hub, "/slow", Last_Event_ID="0") as stream:
            count = MEGABYTES * 1_000_000 // EVENT_BYTES
            decoder = zlib.crc32(b"")
            received = stream.body.removeprefix(b":\n")
            length = sum(len(f"id: {'x' * 27}\ndata: \n\n") + EVENT_BYTES for _ in range(count))
            decoder = zlib.crc32(received, decoder)
            rest = length - len(received)
            while rest:
                piece = stream.connection.recv(min(rest, 1 << 20))
                assert piece
                decoder = zlib.crc32(piece, decoder)
                rest -= len(piece)
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        started = time.monotonic()
        assert checksums(readers, length) == {decoder}
        print(f"read afterwards in {time.monotonic() - started:.1f} s")


def test_idle_subscribers_cost_at_most_20_kb_each(tmp_path: Path) -> None:
    with running_hub(tmp_path, **QUIET) as hub, ExitStack() as stack:
        hub.publish("/idle", "1")
        with Stream(hub, "/idle"):
            before, descriptors = memory(hub), hub.descriptors()
            for _ in range(IDLE):
                reader = hub.connect()
                stack.callback(reader.close)
                reader.sendall(subscription("idle"))
            eventually(lambda: hub.descriptors() >= descriptors + IDLE, 60)
            hub.publish("/idle", "2")
            each = (memory(hub) - before) / IDLE
            print(f"{IDLE} idle subscribers: {each / 1000:.1f} KB each")
            assert each < 20_000
        stack.close()
        eventually(lambda: hub.descriptors() < descriptors + 10, 60)


# -- nobody delays another ---------------------------------------------------------------------

_READER = """
import select, socket, sys
port, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
request = f"GET {path} HTTP/1.0\\r\\nHost: h\\r\\nAccept: text/event-stream\\r\\n\\r\\n".encode()
poll = select.epoll()
connections = {}
def connect():
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(request)
    connections[connection.fileno()] = connection
    poll.register(connection, select.EPOLLIN)
for _ in range(count):
    connect()
marked = begun = 0
told = False
while True:
    for fd, _ in poll.poll():
        piece = connections[fd].recv(1 << 18)
        if not piece:
            connections.pop(fd).close()
            connect()
            continue
        begun += piece.startswith(b"HTTP/1.")
        marked += b"the last" in piece
    if begun >= count and not told:
        told = True
        print("subscribed", flush=True)
    if marked == count:
        print("all have the last", flush=True)
        break
"""


@contextmanager
def crowd(hub: Hub, count: int, path: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with many subscribers, who read, and come back when their stream ends."""
    words = [sys.executable, "-c", _READER, str(hub.port), str(count), path]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"subscribed\n"
            yield process
        finally:
            process.kill()


def publish_singly(hub: Hub, channel: str, count: int, pause: float) -> list[float]:
    times = []
    with Wire(hub) as wire:
        for n in range(count):
            started = time.perf_counter()
            assert wire.post(f"/{channel}", b"event %d" % n).status == 201
            times.append(time.perf_counter() - started)
            time.sleep(pause)
        assert wire.post(f"/{channel}", b"the last").status == 201
    return times


@pytest.mark.alone
def test_thousands_at_the_tail_do_not_delay_a_publisher(tmp_path: Path) -> None:
    with (
        running_hub(tmp_path, **QUIET) as hub,
        crowd(hub, AT_THE_TAIL, "/tail") as readers,
    ):
        times = publish_singly(hub, "tail", size(60, 150), size(1, 5) * 0.04)
        assert readers.stdout
        assert readers.stdout.readline() == b"all have the last\n"
        print(f"{AT_THE_TAIL} at the tail: publish p50 {statistics.median(times) * 1e3:.1f} ms, "
              f"p99 {p99(times) * 1e3:.1f} ms, max {max(times) * 1e3:.1f} ms")  # fmt: skip
        assert p99(times) < 0.25


@pytest.mark.alone
@pytest.mark.parametrize(
    "query",
    [
        "event=none",  # reads everything, finds nothing
        "since=2999-01-01",
        "tail=1000000&event=none&follow=0",
        "lastEventId=0",
        "after=unknown&format=ndjson&follow=1",
        "format=json",
    ],
)
def test_a_position_or_filter_of_others_does_not_delay_a_publisher(
    long_history: Hub, query: str
) -> None:
    hub, count = long_history, size(200, 400)
    with crowd(hub, count, f"/long?{query}"):
        publish_singly(hub, "another", 5, 0.01)  # until all of them are at work
        times = publish_singly(hub, "another", size(60, 200), 0.01)
        times += publish_singly(hub, "long", size(60, 200), 0.01)
    print(f"{count} of {query}: publish p50 {statistics.median(times) * 1e3:.1f} ms, "
          f"p99 {p99(times) * 1e3:.1f} ms")  # fmt: skip
    assert statistics.median(times) < 0.04
    assert p99(times) < 0.25


def test_a_stop_does_not_wait_for_reads_whose_client_has_gone(long_history: Hub) -> None:
    for _ in range(READS_GIVEN_UP):
        with long_history.connect() as connection:
            connection.sendall(b"GET /long?tail=1000000&event=none HTTP/1.0\r\nHost: h\r\n\r\n")
    started = time.monotonic()
    long_history.stop()
    assert time.monotonic() - started < AT_ONCE_SECONDS
    long_history.start()


@pytest.fixture(scope="module")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a channel of many events."""
    home = tmp_path_factory.mktemp("long")
    (home / "events").mkdir()
    with (home / "events" / "long.tsv").open("wb") as file:
        for n in range(size(4, 12)):
            file.write(b"".join(
                b"2020-01-01T00:%02d:%02d.%06dZ\ttype%d\t%b\n" % (n, m // 1000, m, m % 7, b"x" * 60)
                for m in range(50_000)
            ))  # fmt: skip
    with running_hub(home) as hub:
        yield hub
