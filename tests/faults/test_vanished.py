"""Peers who vanish without a FIN are gone within 10 s, also in mid-body; who only pauses is not."""

import socket
import time
from contextlib import suppress
from pathlib import Path

from esource.event import Event
from esource.rows import sse
from tests.harness import QUIET, Hub, eventually, size
from tests.harness.network import HUB, PEER, inside, network

PAUSE_SECONDS = size(5, 10)
GONE_SECONDS = 10.0
COUNT = 5  # of each kind


def subscribe(address: tuple[str, int], channel: str) -> socket.socket:
    """Subscribe; return when the headers and the first comment are there."""
    connection = socket.create_connection(address, 20)
    connection.sendall(
        f"GET /{channel} HTTP/1.0\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    received = b""
    while not received.endswith(b"\r\n\r\n:\n"):
        received += connection.recv(1000)
    return connection


def begin(address: tuple[str, int], framing: str) -> socket.socket:
    """Send a part of a body."""
    connection = socket.create_connection(address, 20)
    connection.sendall(f"POST /begun HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n1\r\nx".encode())
    return connection


def established(hub: Hub, address: str) -> int:
    """Return how many connections the worker's namespace has with an address."""
    remote = socket.inet_aton(address)[::-1].hex().upper()
    lines = Path(f"/proc/{hub.worker}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(field[2].startswith(remote) and field[3] == "01" for field in fields)


def sockets(hub: Hub) -> int:
    """Return how many sockets the worker has open."""
    links = []
    for fd in Path(f"/proc/{hub.worker}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(fd.readlink()))
    return sum(link.startswith("socket:") for link in links)


def test_peers_who_vanish_are_gone_within_10_s_and_a_paused_reader_gets_everything(
    tmp_path: Path,
) -> None:
    with network() as net:
        hub = Hub(tmp_path, **QUIET)  # a heartbeat would put something in flight to all
        hub.environ["ESOURCE_BIND"] = f"0.0.0.0:{hub.port}"
        here = ("127.0.0.1", hub.port)
        there = (HUB, hub.port)
        connections: list[socket.socket] = []
        try:
            inside(net.hub, hub.start)
            base = sockets(hub)

            def subscribe_all() -> list[socket.socket]:
                kinds = ("idle", "in-flight", "stuck")
                followers = [subscribe(there, kind) for kind in kinds for _ in range(COUNT)]
                framings = ("Content-Length: 1000000", "Transfer-Encoding: chunked")
                return followers + [begin(there, each) for each in framings for _ in range(COUNT)]

            connections += inside(net.peer, subscribe_all)
            live = inside(net.hub, lambda: subscribe(here, "in-flight"))
            paused = inside(net.hub, lambda: subscribe(here, "stuck"))
            connections += [live, paused]
            data = "x" * 500_000

            def fill() -> list[str]:
                return [hub.publish("/stuck", data) for _ in range(40)]

            ids = inside(net.hub, fill)
            assert established(hub, PEER) == 5 * COUNT
            time.sleep(PAUSE_SECONDS)  # the probes of their zero windows become rare meanwhile
            net.lose()
            lost = time.monotonic()

            def publish() -> str:
                return hub.publish("/in-flight", "1")

            while established(hub, PEER) and time.monotonic() < lost + GONE_SECONDS + 5:
                inside(net.hub, publish)
                time.sleep(0.2)
            gone = time.monotonic() - lost
            print(f"{established(hub, PEER)} left after {gone:.1f} s")
            time.sleep(max(0, lost + 12 + PAUSE_SECONDS - time.monotonic()))
            # Who is still there has lost nothing.
            decoder = sse.Decoder()
            events: list[Event] = []
            while len(events) < len(ids):
                piece = paused.recv(1 << 20)
                assert piece, f"the paused reader was cut off after {len(events)} events"
                events += decoder.feed(piece)
            assert [event.id.decode() for event in events] == ids
            assert {len(event.data) for event in events} == {len(data)}
            live.settimeout(0.1)
            assert b"data: 1" in live.recv(1 << 16)
            assert gone < GONE_SECONDS
            eventually(lambda: sockets(hub) <= base + 2)
            assert "Traceback" not in hub.log
        finally:
            for connection in connections:
                connection.close()
            if hub.process:
                hub.stop()
