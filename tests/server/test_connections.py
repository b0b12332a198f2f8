"""How connections end, on a stop, a reload and a worker's own end; and who shares a channel."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from gunicorn import http
from gunicorn.config import Config as GunicornConfig

from esource.config import Config
from esource.hub.followers import COHORT
from esource.hub.hub import Hub as Channels
from esource.rows import ndjson
from esource.server.body import RequestBody
from esource.server.connections import Connections
from esource.server.gunicorn import Request, Worker
from tests.harness import (
    PATIENCE_SECONDS,
    Hub,
    Publishers,
    Stream,
    Wire,
    encoded,
    eventually,
    running_hub,
    size,
)
from tests.harness.hub import children
from tests.harness.measures import bytes_read, memory
from tests.harness.shims import SLOW_DISK, customized
from tests.harness.waiting import AT_ONCE_SECONDS


def ids(hub: Hub, channel: str) -> list[str]:
    return [row.split(b"\t")[0].decode() for row in hub.rows(channel)]


# -- a worker's own end ------------------------------------------------------------------------


def test_a_worker_that_has_served_enough_is_replaced_though_a_reader_follows(
    tmp_path: Path,
) -> None:
    acknowledged: list[str] = []
    received: list[str] = []
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.02):
            acknowledged.append(hub.publish("/many", f"{len(acknowledged)}"))

    with running_hub(tmp_path, "--max-requests", "5") as hub:
        publisher = threading.Thread(target=publish)
        stream = Stream(hub, "/many")
        publisher.start()
        try:
            for count in (2, 3):
                started = time.monotonic()
                with stream:
                    assert re.search(rb"\nretry: \d+\n\Z", stream.read_to_end())
                    received += [event.id.decode() for event in stream.events]
                eventually(lambda count=count: hub.log.count("channels in") >= count)  # type: ignore[misc]
                assert time.monotonic() - started < PATIENCE_SECONDS
                stream = Stream(hub, "/many", Last_Event_ID=received[-1] if received else "0")
            reached = len(acknowledged)
            eventually(lambda: len(acknowledged) > reached)
        finally:
            done.set()
            publisher.join()
            stream.close()
        with Stream(hub, "/many", Last_Event_ID=received[-1]) as last:
            while len(received) + len(last.events) < len(acknowledged):
                if not last.read_more():
                    break
        stored = ids(hub, "many")
        received += [event.id.decode() for event in last.events]
        assert stored == acknowledged
        assert received == stored[: len(received)]
        assert "Traceback" not in hub.log


def test_a_second_master_that_is_asked_for_by_signal_refuses_and_the_first_serves_on(
    own_hub: Hub,
) -> None:
    assert own_hub.process
    master, worker = own_hub.process.pid, own_hub.worker
    first = own_hub.publish("/upgrade", "before")
    with Stream(own_hub, "/upgrade", Last_Event_ID="0") as stream:
        refusal = f"is in use by another hub (process {master})"
        for count in (1, 2):  # and again: the first one's end is noticed
            own_hub.process.send_signal(signal.SIGUSR2)
            eventually(lambda count=count: own_hub.log.count(refusal) == count)  # type: ignore[misc]
            eventually(lambda: len(children(master)) == 1)
        second = own_hub.publish("/upgrade", "after")
        assert [event.id.decode() for event in stream.read(2)] == [first, second]
    assert ids(own_hub, "upgrade") == [first, second]
    assert children(master) == [worker]
    assert own_hub.log.count("channels in") == 1  # no second worker has looked at the folder
    assert "Traceback" not in own_hub.log


# -- a stop while finite reads go on -----------------------------------------------------------


def long_channel(hub: Hub) -> None:
    """Put 60 MB of rows into a channel, of which a search takes seconds."""
    hub.file("long").write_bytes(b"1\t\tx\n" * 10_000_000)


def stuck(hub: Hub) -> list[socket.socket]:
    """A client who asks for all of a long channel, and reads nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", hub.port))
    connection.sendall(b"GET /long?format=ndjson HTTP/1.1\r\nHost: h\r\n\r\n")
    assert connection.recv(1) == b"H"
    return [connection]


def searching(hub: Hub) -> list[socket.socket]:
    """Clients who wait for an event of a type that a long channel has not."""
    connections, before = [], bytes_read(hub)
    for _ in range(12):
        connection = hub.connect()
        connection.sendall(b"GET /long?format=ndjson&event=none HTTP/1.1\r\nHost: h\r\n\r\n")
        connections.append(connection)
    eventually(lambda: bytes_read(hub) > before + (1 << 20))
    return connections


@pytest.mark.parametrize("clients", [stuck, searching])
def test_a_stop_does_not_wait_for_a_finite_read(
    own_hub: Hub, clients: Callable[[Hub], list[socket.socket]]
) -> None:
    long_channel(own_hub)
    connections = clients(own_hub)
    started = time.monotonic()
    assert own_hub.stop() == 0
    assert time.monotonic() - started < AT_ONCE_SECONDS
    assert "Traceback" not in own_hub.log
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("clients", [stuck, searching])
def test_a_reload_does_not_wait_for_a_finite_read_and_nor_do_publishers(
    own_hub: Hub, clients: Callable[[Hub], list[socket.socket]]
) -> None:
    long_channel(own_hub)
    connections = clients(own_hub)
    assert own_hub.process
    old = own_hub.worker
    started = time.monotonic()
    own_hub.process.send_signal(signal.SIGHUP)
    published = []
    while own_hub.log.count("channels in") < 2:
        before = time.monotonic()
        published.append(own_hub.publish("/meanwhile", "x"))
        assert time.monotonic() - before < AT_ONCE_SECONDS
        assert time.monotonic() - started < AT_ONCE_SECONDS
    published.append(own_hub.publish("/meanwhile", "x"))
    eventually(lambda: not os.path.exists(f"/proc/{old}"))
    assert ids(own_hub, "meanwhile") == published
    assert "Traceback" not in own_hub.log
    for connection in connections:
        connection.close()


def test_publishers_that_keep_their_connections_do_not_notice_a_reload(own_hub: Hub) -> None:
    """Told that an answer is the last, they come back; so none is ever cut off."""
    done = threading.Event()
    stored: list[str] = []
    failed: list[str] = []

    def publish(number: int) -> None:
        fields = ("X-Other: 1",) if number % 2 else ()  # by gunicorn, and by the fast path
        wire = Wire(own_hub)
        while not done.is_set():
            try:
                wire.send("/busy_ones", b"x", *fields)
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    piece = wire.connection.recv(1)
                    assert piece, f"closed after {head!r}"
                    head += piece
                assert head.startswith(b"HTTP/1.1 201 ")
                size = int(head.partition(b"Content-Length: ")[2].split(b"\r")[0])
                answered = wire.connection.recv(size, socket.MSG_WAITALL)
                stored.append(answered.decode().rstrip())
                if b"\r\nConnection: close\r\n" in head:
                    wire.close()
                    wire = Wire(own_hub)
                done.wait(0.005)  # most are between two requests when the reload comes
            except (OSError, AssertionError) as error:
                failed.append(repr(error))
                wire.close()
                wire = Wire(own_hub)
        wire.close()

    threads = [threading.Thread(target=publish, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    try:
        for count in range(2, 2 + size(4, 20)):
            reached = len(stored)
            eventually(lambda reached=reached: len(stored) > reached + 50)  # type: ignore[misc]
            assert own_hub.process
            own_hub.process.send_signal(signal.SIGHUP)
            eventually(lambda count=count: own_hub.log.count("channels in") == count)  # type: ignore[misc]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert sorted(stored) == sorted(ids(own_hub, "busy_ones"))


def test_what_an_answer_said_of_its_connection_holds_though_the_hub_stops_meanwhile(
    tmp_path: Path,
) -> None:
    alive = [True]
    ours, theirs = socket.socketpair()
    parser = http.get_parser(GunicornConfig(), ours, None)
    parser.mesg_class = partial(Request, lambda: alive[0], {})
    with ours, theirs:
        theirs.sendall(b"GET /long HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
        for is_last in (False, True):
            request = next(parser)
            request.body = RequestBody(request, Channels(Config(dir=tmp_path)).clients)
            assert request.should_close() == is_last
            alive[0] = False
            assert request.should_close() == is_last


# -- many channels, and many readers -----------------------------------------------------------


@pytest.mark.parametrize(("channels", "rounds"), [(200, 1), (20, 10)])
def test_small_commits_to_channels_that_are_followed_cost_little_memory(
    tmp_path: Path, channels: int, rounds: int
) -> None:
    """A batch that is kept costs some 600 bytes more than its short row. All of them would be 12
    MB.
    """
    with running_hub(tmp_path, ESOURCE_FSYNC="never") as hub:
        followers = [hub.connect() for _ in range(channels)]
        for n, follower in enumerate(followers):
            follower.sendall(b"GET /busy-%d?format=raw&follow=1 HTTP/1.0\r\nHost: h\r\n\r\n" % n)
            assert follower.recv(1 << 16)
            hub.publish(f"/busy-{n}", "first")
        before = memory(hub)
        for start in range(0, channels, 20):
            publish_at_once(hub, range(start, start + 20), rounds)
        grown = memory(hub) - before
        for follower in followers:
            received = b""
            while received.count(b"\n") < 1 + 100 * rounds:
                received += follower.recv(1 << 16)
            assert received == b"first\n" + b"event x\n" * 100 * rounds
            follower.close()
        assert grown < 7 << 20, f"{grown >> 10} KiB"


def publish_at_once(hub: Hub, numbers: range, rounds: int) -> None:
    """Publish a hundred events in each round to all of these channels, each a commit."""
    publishers = [(hub.connect(), n) for n in numbers]
    request = b"POST /busy-%d HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\nevent x"
    for _ in range(rounds):
        for publisher, n in publishers:
            publisher.sendall(request % n * 100)
        for publisher, _ in publishers:
            answers = b""
            while answers.count(b"HTTP/1.1 201 ") < 100 or answers[-2:] != b"Z\n":
                answers += publisher.recv(1 << 16)
    for publisher, _ in publishers:
        publisher.close()


def test_direct_readers_and_one_who_selects_each_get_exactly_their_events_at_once(
    tmp_path: Path,
) -> None:
    """The next heartbeat would make up for it, so there is none."""
    with running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="60") as hub:
        selects = Stream(hub, "/cohort?follow=1&format=ndjson&event=p1&event=last", version="1.1")
        direct = [Stream(hub, "/cohort", version=("1.0", "1.1")[n % 2]) for n in range(63)]
        with Publishers(hub, "cohort", count=3) as publishers:
            publishers.reach(300)
        hub.publish("/cohort?event=last", "the end")
        expected = encoded(hub, "cohort", "sse")
        for follower in direct:
            assert follower.read_up_to(b"data: the end\n\n") == expected
            follower.close()
        rows = [row for row in hub.rows("cohort") if row.split(b"\t")[1] in (b"p1", b"last")]
        selected = ndjson.encode(b"".join([row + b"\n" for row in rows]), [])
        assert selects.read_up_to(selected[-40:]) == selected
        selects.close()


# What draws the time after which a client comes back, last of all, holds the loop meanwhile.
SLOW_ENDS = """
import random, time
def slow(*bounds, draw=random.randint, sleep=time.sleep):
    sleep(0.01)
    return draw(*bounds)
random.randint = slow
"""


def test_a_stop_cuts_no_stream_off_before_it_had_its_turn_to_end(tmp_path: Path) -> None:
    with running_hub(tmp_path, **customized(tmp_path, SLOW_ENDS)) as hub:
        streams = [Stream(hub, "/crowd") for _ in range(COHORT + 10)]
        try:
            assert hub.stop() == 0
            ends = [stream.read_to_end() for stream in streams]
        finally:
            for stream in streams:
                stream.close()
    assert all(re.search(rb"retry: \d+\n\Z", end) for end in ends)


@pytest.mark.parametrize("channel", ["followed", "never-seen"])
def test_a_follower_that_comes_while_the_hub_stops_is_told_to_come_back(
    tmp_path: Path, channel: str
) -> None:
    with running_hub(tmp_path, **customized(tmp_path, SLOW_DISK)) as hub:
        hub.publish("/followed", "x")
        with Stream(hub, "/followed") as early, Wire(hub) as publisher, hub.connect() as late:
            late.sendall(b"GET /%b HTTP/1.0\r\nAccept: text/event-stream\r\n" % channel.encode())
            (tmp_path / "hang").touch()
            publisher.send("/followed", b"which the stop waits for")
            eventually(lambda: len(hub.rows("followed")) == 2)
            assert hub.process
            hub.process.terminate()
            early.read_to_end()  # the hub stops
            late.sendall(b"Host: h\r\n\r\n")
            received = b""
            with suppress(ConnectionResetError):  # the stop has closed it before the rest came
                received = b"".join(iter(lambda: late.recv(1 << 16), b""))
            (tmp_path / "hang").unlink()
            assert publisher.reply().status == 201
        assert hub.process.wait(PATIENCE_SECONDS) == 0
        hub.process = None
    assert not received or re.search(rb"\nretry: \d+\n\Z", received)


def test_a_connection_has_an_address_though_a_stop_has_closed_the_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gunicorn asks for it when the first request has come; a worker stands in for its own."""
    parser = http.RequestParser  # which `Connections` has make the hub's requests, here, too
    monkeypatch.setattr(parser, "mesg_class", parser.mesg_class)
    names = []

    def serve(listener: socket.socket, client: socket.socket, address: object) -> None:
        names.append(listener.getsockname())

    worker = cast(Worker, SimpleNamespace(handle=serve, handle_error=None, alive=True))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()
        with socket.create_connection(where), listener.accept()[0] as client:
            listener.close()
            Connections(worker, Channels(Config(dir=tmp_path)), None).handle(
                listener, client, where
            )
    assert names == [where]
