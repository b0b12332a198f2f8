"""Parked followers: each gets exactly its bytes whatever becomes of it, and counts as before."""

import os
import random
import re
import select
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from esource.server.streams import Streams
from tests.harness import QUIET, Hub, Stream, eventually, running_hub, size
from tests.harness.rows import ENCODE
from tests.harness.shims import customized
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import Chunks, NarrowDoor, connect_slowly_reading, reset

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: h\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"
KINDS = [("sse", "1.0"), ("sse", "1.1"), ("tsv", "1.0"), ("raw", "1.1"), ("ndjson", "1.1")]


def gauge(hub: Hub, name: str) -> int:
    """Return what a gauge says now."""
    found = re.search(rf"^esource_{name} (\S+)$", hub.get("/-/metrics").text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def parked(hub: Hub) -> int:
    """Return how many followers are parked."""
    return gauge(hub, "parked_subscribers")


def follow(hub: Hub, channel: str, version: str = "1.1", query: str = "", **fields: str) -> Stream:
    """Follow a channel; return once that is parked."""
    before = parked(hub)
    stream = Stream(hub, f"/{channel}?{query}", version=version, **fields)
    eventually(lambda: parked(hub) > before)
    return stream


# -- one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_parked_follower_gets_what_comes_and_stays_parked(own_hub: Hub, version: str) -> None:
    with follow(own_hub, "orders", version) as stream:
        for n in range(3):
            own_hub.publish(f"/orders?id={n}", f"event {n}")
            stream.read(n + 1)
        assert [event.data for event in stream.events] == [b"event 0", b"event 1", b"event 2"]
        assert (parked(own_hub), gauge(own_hub, "subscribers")) == (1, 1)
    eventually(lambda: (parked(own_hub), gauge(own_hub, "subscribers")) == (0, 0))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_parked_follower_hears_a_heartbeat_in_every_silence(tmp_path: Path, version: str) -> None:
    with (
        running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="2") as hub,
        follow(hub, "silence", version) as stream,
    ):
        started, body = time.monotonic(), len(stream.body)
        stream.read_bytes(body + 2 * len(b":\n"))
        took = time.monotonic() - started
        assert stream.body[body:] == b":\n" * 2
        assert 2.0 < took < AT_ONCE_SECONDS  # the first silence may have begun before
        assert parked(hub) == 1
        with follow(hub, "silence", version, "heartbeat=1") as other:  # is due before the others
            started = time.monotonic()
            other.read_bytes(len(b":\n") * 3)
            assert 1.0 < time.monotonic() - started < 3.5
            assert parked(hub) == 2


def test_what_a_parked_follower_does_not_take_at_once_is_read_on_and_it_is_parked_again(
    own_hub: Hub,
) -> None:
    streams = [
        Stream(NarrowDoor(own_hub.port, 4096), "/lags", version=version)
        for version in ("1.0", "1.1")
    ]
    eventually(lambda: parked(own_hub) == 2)
    lines = b"".join([b"%0100d\n" % n for n in range(10_000)])
    for _ in range(3):
        assert own_hub.post("/lags?each=line", lines).status == 201
    own_hub.publish("/lags?id=end", "the end")
    assert parked(own_hub) == 0
    expected = ENCODE["sse"](own_hub.content("lags"), [])
    for stream in streams:
        assert stream.read_up_to(b"data: the end\n\n") == expected
    eventually(lambda: parked(own_hub) == 2)
    own_hub.publish("/lags?id=more", "more")
    for stream in streams:
        stream.read_up_to(b"data: more\n\n")
        stream.close()


NEVER_CALM = "import esource.hub.channel as channel; channel.CALM_SECONDS = 3600.0"


def test_a_follower_that_has_lagged_keeps_its_greenlet_for_a_while(tmp_path: Path) -> None:
    """Or a crowd that lags with every commit would need a crowd of greenlets for each."""
    with running_hub(tmp_path, **customized(tmp_path, NEVER_CALM)) as hub:
        stream = Stream(NarrowDoor(hub.port, 4096), "/lags", version="1.1")
        eventually(lambda: parked(hub) == 1)
        lines = b"".join([b"%0100d\n" % n for n in range(10_000)])
        for n in range(3):
            assert hub.post("/lags?each=line", lines).status == 201
            hub.publish(f"/lags?id={n}", f"end {n}")
            stream.read_up_to(b"data: end %d\n\n" % n)
            assert parked(hub) == 0
        hub.publish("/lags?id=more", "more")  # is pushed
        stream.read_up_to(b"data: more\n\n")
        assert (parked(hub), gauge(hub, "subscribers")) == (0, 1)
        stream.close()
        eventually(lambda: gauge(hub, "subscribers") == 0)


def test_a_client_that_closed_its_sending_side_or_said_something_is_not_parked_and_gets_all(
    tmp_path: Path,
) -> None:
    with running_hub(tmp_path, **QUIET) as hub:
        half, speaks = follow(hub, "orders"), follow(hub, "orders")
        half.connection.shutdown(socket.SHUT_WR)
        speaks.connection.sendall(b"x")
        for stream in (half, speaks):
            stream.read_until(b":\n:\n")  # in short order, though heartbeats are rare
        assert (parked(hub), gauge(hub, "subscribers")) == (0, 2)
        hub.publish("/orders", "one")
        for stream in (half, speaks):
            assert stream.read(1)[0].data == b"one"
            stream.close()
        eventually(lambda: gauge(hub, "subscribers") == 0)


def test_a_parked_follower_counts_for_the_limits(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_MAX_SUBSCRIBERS="1") as hub, follow(hub, "orders"):
        with Stream(hub, "/orders") as refused:
            assert b"too many subscribers" in refused.read_to_end()
        assert parked(hub) == 1


def test_parked_followers_count_for_the_connections_that_gunicorn_may_have(tmp_path: Path) -> None:
    hub = Hub(tmp_path).start("--worker-connections", "3")
    try:
        streams = [Stream(hub, "/orders") for _ in range(3)]
        with connect_slowly_reading(("127.0.0.1", hub.port)) as waiting:
            waiting.sendall(b"GET /-/health HTTP/1.0\r\nHost: h\r\n\r\n")
            assert not select.select([waiting], [], [], 1)[0]
            streams.pop().close()
            assert waiting.recv(100).startswith(b"HTTP/1.0 200")
        for stream in streams:
            stream.close()
    finally:
        hub.stop()


def test_with_an_access_log_no_follower_is_parked_and_its_line_comes_at_its_end(
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    hub = Hub(tmp_path).start("--access-logfile", str(log))
    try:
        with Stream(hub, "/logged") as stream:
            hub.publish("/logged?id=1", "x")
            stream.read(1)
            assert parked(hub) == 0
            assert "/logged HTTP" not in log.read_text().replace("POST /logged", "")
        eventually(lambda: "GET /logged HTTP/1.0" in log.read_text())
    finally:
        hub.stop()


def test_a_stop_tells_parked_followers_when_to_come_back_and_serves_what_they_ask_next(
    own_hub: Hub,
) -> None:
    keep_alive = {"Connection": "keep-alive"}
    streams = [
        follow(own_hub, "stops", "1.0"), follow(own_hub, "stops", "1.1"),
        follow(own_hub, "stops", "1.1", **keep_alive),
    ]  # fmt: skip
    asks = Walker(own_hub, "sse", "1.1", 0, 0)
    closing = Walker(own_hub, "sse", "1.0", 0, 0)  # whose connection ends with the answer
    eventually(lambda: parked(own_hub) == len(streams) + 2)
    asks.ask()
    closing.connection.sendall(HEALTH)
    asked = Walker(own_hub, "sse", "1.1", 0, 0, HEALTH)
    asked.asked = True
    started = time.monotonic()
    assert own_hub.stop() == 0
    assert time.monotonic() - started < 4
    for stream in streams:
        assert re.fullmatch(rb"(:\n)+retry: \d+\n", stream.read_to_end())
        stream.close()
    asks.check([], has_stopped=True)
    asked.check([], has_stopped=True)
    closing.check([], has_stopped=True)
    assert "Traceback" not in own_hub.log


def test_a_worker_ends_after_the_streams_that_gunicorn_does_not_know() -> None:
    class Some(list[int]):
        def open(self, go_on: object) -> None:
            pass

    parking, notified = Some([1]), []
    worker: Any = SimpleNamespace(
        cfg=SimpleNamespace(graceful_timeout=10, statsd_host=None),
        log=SimpleNamespace(access_log_enabled=False),
        notify=lambda: notified.append(1), run=lambda: None,
    )  # fmt: skip
    parked: Any = parking
    Streams(worker, parked, lambda client, write: write(), lambda client, address: None).open()
    gevent.spawn_later(0.1, parking.clear)
    worker.run()
    assert not parking
    assert notified


def test_parked_followers_that_leave_are_forgotten(own_hub: Hub) -> None:
    streams = [Stream(own_hub, f"/leaves{n % 3}", version="1.1") for n in range(30)]
    eventually(lambda: parked(own_hub) == 30)
    for n, stream in enumerate(streams):
        if n % 2:
            reset(stream.connection)
        else:
            stream.close()
    eventually(lambda: gauge(own_hub, "subscribers") == 0)
    assert parked(own_hub) == 0
    assert "Traceback" not in own_hub.log


# -- a walk ------------------------------------------------------------------------------------


class Walker:
    """A follower that reads when it is told to, and knows which rows it must get."""

    def __init__(
        self, hub: Hub, format: str, version: str, buffer: int, start: int, next: bytes = b""
    ) -> None:  # fmt: skip
        self.format, self.start = format, start
        self.asked = self.is_half_closed = False
        self.body = b""
        self.rest = b""  # behind the end of the stream
        self._tail = b""  # the last bytes of it until now
        self._chunks = Chunks() if version == "1.1" else None
        self._head = b""
        self.connection = connect_slowly_reading(("127.0.0.1", hub.port), buffer)
        self.connection.sendall(
            f"GET /walk?follow=1&format={format} HTTP/{version}\r\nHost: h\r\n\r\n".encode() + next
        )
        while b"\r\n\r\n" not in self._head:
            self._head += self.connection.recv(1)
        assert self._head.startswith(f"HTTP/{version} 200".encode())

    def ask(self) -> None:
        """Say what has to wait for the end of the stream."""
        self.connection.sendall(HEALTH)
        self.asked = True

    def read(self, limit: int = 1 << 20, seconds: float = 0.0) -> bool:
        """Take what is there, up to a limit; return whether there was anything."""
        if not select.select([self.connection], [], [], seconds)[0]:
            return False
        piece = self.connection.recv(limit)
        if self._chunks is None:
            self.body += piece
        elif self._chunks.is_complete:
            self.rest += piece
        else:
            # The last chunk may come in pieces: what may be its beginning is looked at again.
            before, end, self.rest = (self._tail + piece).partition(LAST_CHUNK)
            fresh = (before + end)[len(self._tail) :]
            self._tail = b"" if end else (before[-len(LAST_CHUNK) + 1 :])
            self.body += self._chunks.feed(fresh)
        return bool(piece)

    def expected(self, rows: list[bytes]) -> bytes:
        """Return what it must have got by now."""
        return ENCODE[self.format](b"".join(rows[self.start :]), [])

    @property
    def content(self) -> bytes:
        """What it has got, without heartbeats."""
        if self.format != "sse":
            return self.body
        return re.sub(rb"^:\n", b"", self.body, flags=re.MULTILINE)

    def catch_up(self, rows: list[bytes]) -> None:
        """Read until everything is there, and compare it."""
        expected = self.expected(rows)
        deadline = time.monotonic() + 180  # megabytes, through a buffer of 4 KiB
        while len(self.content) < len(expected) and time.monotonic() < deadline:
            self.read(seconds=1)
        self.check(rows)

    def check(self, rows: list[bytes], has_stopped: bool = False) -> None:
        """Compare what it got, to the byte."""
        if not has_stopped:
            assert self.content == self.expected(rows)
            return
        with suppress(ConnectionResetError):
            while self.read(seconds=10):
                pass
        content = self.content
        if self.format == "sse":
            content, _, retry = content.rpartition(b"retry: ")
            assert retry.rstrip(b"\n").isdigit()
        assert content == self.expected(rows)
        if self._chunks:
            assert self._chunks.is_complete
        if self.asked:
            assert self.rest.startswith(b"HTTP/1.1 200")
            assert b"Connection: close" in self.rest
        else:
            assert not self.rest
        self.connection.close()


@pytest.mark.parametrize("seed", range(size(2, 12)))
def test_a_walk_through_all_that_can_become_of_followers(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rows: list[bytes] = []  # all that there ever were
    with running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="0.2") as hub:
        walkers: list[Walker] = []
        most_parked = 0

        def publish(count: int, length: int) -> None:
            begin = len(rows)
            new = [b"%d\t\t%b" % (begin + n, b"x" * length) for n in range(count)]
            body = b"".join([row + b"\n" for row in new])
            kind = "text/tab-separated-values"
            assert hub.post("/walk", body, Content_Type=kind).status == 201
            rows.extend([row + b"\n" for row in new])

        def join() -> None:
            buffer = chance.choice([0, 0, 4096])
            walkers.append(Walker(hub, *chance.choice(KINDS), buffer, len(rows)))

        def all_parked(count: int) -> bool:
            return parked(hub) == count

        def catch_up() -> None:
            for walker in walkers:
                walker.catch_up(rows)

        publish(3, 10)
        for _ in range(8):
            join()
        for _ in range(80):
            walker = chance.choice(walkers)
            match chance.choice(
                ["small"] * 8 + ["burst", "large", "huge", "read", "read", "read", "pause"]
                + ["join", "leave", "half-close", "ask", "catch up", "catch up", "replace", "empty"]
            ):  # fmt: skip
                case "small":
                    publish(1, chance.randrange(200))
                case "burst":
                    publish(chance.randrange(2, 500), 50)
                case "large":
                    publish(1, 100_000)
                case "huge":
                    publish(chance.randrange(3, 30), 100_000)
                case "read":
                    walker.read(chance.choice([100, 10_000, 1 << 20]))
                case "pause":
                    time.sleep(chance.random() * 0.3)
                case "join":
                    join()
                case "leave":
                    if len(walkers) > 4:
                        walkers.remove(walker)
                        (reset if chance.random() < 0.5 else socket.socket.close)(walker.connection)
                case "half-close":
                    # Of another format nothing but this end tells that the client has gone.
                    if walker.format == "sse" and not walker.asked:
                        walker.connection.shutdown(socket.SHUT_WR)
                        walker.is_half_closed = True
                case "ask":
                    if walker._chunks and not walker.asked and not walker.is_half_closed:
                        walker.ask()
                case "catch up":
                    catch_up()
                    silent = sum(not (w.asked or w.is_half_closed) for w in walkers)
                    eventually(partial(all_parked, silent))
                    most_parked = max(most_parked, silent)
                case "replace":
                    file = hub.file("walk")
                    new = tmp_path / "new"
                    new.write_bytes(b"%d\t\tby hand\n" % len(rows))
                    new.rename(file)
                    rows.append(b"%d\t\tby hand\n" % len(rows))
                    publish(1, 10)
                case "empty":
                    catch_up()  # or rows that were not read are gone
                    os.truncate(hub.file("walk"), 0)
                    publish(1, 10)
        catch_up()
        assert most_parked > 3
        assert hub.stop() == 0
        for walker in walkers:
            walker.check(rows, has_stopped=True)
        assert "Traceback" not in hub.log
