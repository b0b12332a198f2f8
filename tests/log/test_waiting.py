"""Calls of an engine that are made in a loop: others of it go on, and deadlines hold."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import gevent
import pytest

from esource.errors import StorageError
from esource.hub.loop import InLoop
from esource.log import Appended, Log
from esource.log.engines import EngineLogs, logs_of
from esource.log.valkey_servers import Servers, where
from tests.harness.postgres import postgres
from tests.harness.valkey import encrypted_valkey, valkey

SECONDS = 1.5  # that a call may take
LATE = 0.7  # that it may end later
TICK_SECONDS = 0.005
ROW = b"1\t\tone\n"
Freeze = Callable[[bool], None]


@pytest.fixture(scope="module", params=["postgresql", "valkey"])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, Freeze]]:
    """A server of its own: its URL, and what has it stand still."""
    if request.param == "postgresql":
        with postgres() as database:
            yield database.url(), database.freeze
    else:
        with valkey() as server:
            yield server.url, lambda is_frozen: server.send(SIGSTOP if is_frozen else SIGCONT)


@pytest.fixture
def logs(engine: tuple[str, Freeze]) -> Iterator[EngineLogs]:
    """Logs of this thread's loop, without channels."""
    url, freeze = engine
    with closing(logs_of(url, SECONDS, waiting=InLoop())) as logs:
        logs.hold(lambda: None)
        yield logs
        freeze(False)
        for name in logs.names():
            logs.remove(name)


@contextmanager
def counted() -> Iterator[list[float]]:
    """Count the ticks of another greenlet, meanwhile."""
    ticks: list[float] = []

    def tick() -> None:
        while True:
            gevent.sleep(TICK_SECONDS)
            ticks.append(time.monotonic())

    ticking = gevent.spawn(tick)
    try:
        yield ticks
    finally:
        ticking.kill()


def appended(log: Log, rows: bytes) -> int:
    done = log.append(None, [rows])
    assert isinstance(done, Appended), done
    return done.start


def test_others_go_on_while_an_append_waits(logs: EngineLogs, engine: tuple[str, Freeze]) -> None:
    log, (_, freeze) = logs.open("orders"), engine
    freeze(True)
    gevent.spawn_later(0.5, freeze, False)
    with counted() as ticks:
        assert appended(log, ROW) == 0
    assert len(ticks) > 50
    assert max(after - before for before, after in pairwise(ticks)) < 0.25


def test_others_go_on_while_a_connection_is_made(
    logs: EngineLogs, engine: tuple[str, Freeze]
) -> None:
    log, (_, freeze) = logs.open("orders"), engine
    logs.close()
    freeze(True)
    gevent.spawn_later(0.5, freeze, False)
    with counted() as ticks:
        assert appended(log, ROW) == 0
    assert len(ticks) > 50


def test_a_server_that_says_nothing_is_waited_for_as_long_as_said(
    logs: EngineLogs, engine: tuple[str, Freeze]
) -> None:
    log, (_, freeze) = logs.open("orders"), engine
    freeze(True)
    began = time.monotonic()
    with counted() as ticks, pytest.raises(StorageError, match="may have been stored"):
        appended(log, ROW)
    assert SECONDS - LATE < time.monotonic() - began < SECONDS + LATE
    assert len(ticks) > 100


def test_what_is_more_than_a_socket_takes_is_sent_in_parts_and_comes_back_whole(
    logs: EngineLogs, engine: tuple[str, Freeze]
) -> None:
    # Not the channel of the test before, whose last row may still be stored.
    log, (_, freeze) = logs.open("large"), engine
    rows = b"".join(b"%d\t\t%b\n" % (n, b"x" * 99_000) for n in range(200))
    freeze(True)
    gevent.spawn_later(0.3, freeze, False)
    with counted() as ticks:
        assert appended(log, rows) == 0
    assert len(ticks) > 20
    assert logs.open("large").pread(0, len(rows)) == rows


def test_who_is_ended_leaves_no_answer_to_the_next_call(
    logs: EngineLogs, engine: tuple[str, Freeze]
) -> None:
    log, (_, freeze) = logs.open("orders"), engine
    freeze(True)
    ended = gevent.spawn(appended, log, ROW)
    gevent.sleep(0.1)
    ended.kill()
    freeze(False)
    again = logs.open("others")
    assert appended(again, b"2\t\ttwo\n") == 0
    assert appended(again, b"3\t\tthree\n") == len(b"2\t\ttwo\n")
    assert logs.open("orders").pread(0, 100) in (b"", ROW)


def test_threads_and_the_loop_use_the_same_connections_in_turns(logs: EngineLogs) -> None:
    log = logs.open("orders")
    for number in range(20):
        row = b"%d\t\tx\n" % number
        if number % 2:
            gevent.get_hub().threadpool.apply(appended, (log, row))
        else:
            appended(log, row)
    assert log.end == sum(len(b"%d\t\tx\n" % number) for number in range(20))


def test_tls_is_spoken_in_the_loop(tmp_path: Path) -> None:
    with encrypted_valkey(tmp_path) as (server, port, certificate):
        at = where(f"rediss://127.0.0.1:{port}?ca={certificate}")
        with closing(Servers(at, 5, InLoop())) as servers:
            assert servers.call(b"k", lambda link: link.ask(("PING",))) == [b"PONG"]
            big = b"x" * 3_000_000
            server.send(SIGSTOP)
            gevent.spawn_later(0.3, server.send, SIGCONT)
            with counted() as ticks:
                assert servers.call(b"k", lambda link: link.ask(("ECHO", big))) == [big]
            assert len(ticks) > 20


def test_others_go_on_while_a_server_does_not_take_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in "12":  # of which nobody takes the first, and the second does not get in
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        with closing(Servers(where(f"redis://127.0.0.1:{port}"), SECONDS, InLoop())) as servers:
            with counted() as ticks, pytest.raises(StorageError, match="away"):
                servers.call(b"k", lambda link: link.ask(("PING",)))
            assert len(ticks) > 50


def test_a_thread_is_not_in_the_loop() -> None:
    waiting, seen = InLoop(), []
    thread = threading.Thread(target=lambda: seen.append(waiting.is_in_loop()))
    thread.start()
    thread.join()
    assert (seen, waiting.is_in_loop(), gevent.spawn(waiting.is_in_loop).get()) == (
        [False], True, True,
    )  # fmt: skip


def test_no_thread_is_made_before_the_fork(engine: tuple[str, Freeze]) -> None:
    """A worker would count on it, and not have it."""
    program = """
import os
from esource.config import Config
from esource.hub.hub import prepare
prepare(Config.from_env(os.environ))
print(len(os.listdir("/proc/self/task")))
"""
    environ = {**os.environ, "ESOURCE_STORE": engine[0]}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True,
        timeout=20,
    )  # fmt: skip
    assert done.stdout == "1\n"
