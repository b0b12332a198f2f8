"""Turns: who always has more to do, and who waits behind them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import gevent
import pytest
from gevent.event import Event as Signal

from esource.errors import StorageError
from esource.hub.loop import Rounds, Shared, Together, give_way, reads, turn, unswitched
from tests.harness import Hub, Publishers, Stream, eventually, running_hub
from tests.harness.load import load_on

ROUNDS = 600


def test_a_party_that_never_blocks_takes_turns_with_one_that_does() -> None:
    turns = {"never blocks": 0, "blocks": 0}

    def take(name: str) -> None:
        while sum(turns.values()) < ROUNDS:
            with turn():
                turns[name] += 1
            if name == "blocks":
                give_way()

    gevent.joinall([gevent.spawn(take, name) for name in turns], raise_error=True)
    assert max(turns.values()) < 2 * min(turns.values()), turns


def test_three_parties_that_never_block_take_turns() -> None:
    turns = [0, 0, 0]

    def take(number: int) -> None:
        while sum(turns) < ROUNDS:
            with turn():
                turns[number] += 1

    gevent.joinall([gevent.spawn(take, number) for number in range(3)], raise_error=True)
    assert max(turns) < 2 * min(turns), turns


def test_in_a_round_of_the_loop_so_many_begin_and_the_first_first() -> None:
    rounds, begun, begun_in_round = Rounds(3), list[int](), list[int]()

    def begin(number: int) -> None:
        rounds.wait()
        begun.append(number)

    def count() -> None:
        while len(begun) < 20:
            before = len(begun)
            give_way()
            begun_in_round.append(len(begun) - before)

    counting = gevent.spawn(count)
    waiting = [gevent.spawn(begin, number) for number in range(20)]
    assert rounds.room == 3
    gevent.sleep(0)
    assert rounds.room == 0
    counting.join(10)
    assert rounds.room == 3
    assert begun == list(range(20))
    assert max(begun_in_round) == 3
    gevent.joinall(waiting, raise_error=True)


def test_who_is_ended_while_it_waits_takes_nobodys_turn() -> None:
    rounds, begun = Rounds(2), list[int]()

    def begin(number: int) -> None:
        rounds.wait()
        begun.append(number)

    waiting = [gevent.spawn(begin, number) for number in range(6)]
    gevent.sleep(0)
    for each in waiting[2:5]:
        each.kill()
    assert rounds.room == 1  # since one alone waits
    gevent.joinall(waiting, 10)
    assert begun == [0, 1, 5]
    rounds.wait()  # at once, or after a round


def test_calls_at_once_are_one_and_those_that_come_meanwhile_share_the_next() -> None:
    together, seen, asking, now, go_on = Together(), [], [], 0, Signal()

    def look() -> bool:
        seen.append(now)
        return bool(go_on.wait())

    def ask() -> None:
        asking.append(asked := now)
        together(look)
        assert max(seen) >= asked, "what was there when it asked was not looked at"

    crowd = [gevent.spawn(ask) for _ in range(100)]
    while not seen:  # the first look is under way
        gevent.sleep(0)
    now = 1
    for count in (200, 300):
        crowd += [gevent.spawn(ask) for _ in range(100)]
        while len(asking) < count:
            gevent.sleep(0)
    crowd[0].kill()
    go_on.set()
    gevent.joinall(crowd, raise_error=True)
    assert seen == [0, 1]


def test_the_same_call_is_made_once_for_all_that_come_while_it_is_under_way() -> None:
    calls, is_due, shared = list[int](), threading.Event(), Shared(reads)

    def call(number: int) -> int:
        calls.append(number)
        is_due.wait(10)
        if number == 3:
            raise StorageError("it is gone")
        return number * 2

    asked = [gevent.spawn(shared, call, number) for number in (1, 2, 1, 3, 1, 3)]
    with gevent.Timeout(10):
        while len(calls) < 3:
            gevent.sleep(0.001)
    asked[0].kill()  # and the others go on
    is_due.set()
    gevent.joinall(asked, 10)
    assert sorted(calls) == [1, 2, 3]
    assert [each.value for each in asked[1:3]] == [4, 2]
    assert all(isinstance(asked[n].exception, StorageError) for n in (3, 5))
    assert asked[3].exception is not asked[5].exception
    assert shared(call, 1) == 2  # it is over, and so made again
    assert sorted(calls) == [1, 1, 2, 3]


def test_each_that_shares_a_call_is_told_of_its_failure() -> None:
    together = Together()

    def fail() -> bool:
        raise StorageError("cannot look")

    crowd = [gevent.spawn(together, fail) for _ in range(3)]
    gevent.joinall(crowd)
    assert {str(each.exception) for each in crowd} == {"cannot look"}
    assert len({id(each.exception) for each in crowd}) == 3


@pytest.mark.parametrize("switch", [True, False])
def test_a_switch_where_none_may_be_fails(switch: bool) -> None:
    other = gevent.spawn(lambda: None)
    failure = pytest.raises(AssertionError, match="a greenlet has switched where none may")
    with failure if switch else nullcontext(), unswitched():
        if switch:
            gevent.sleep(0)
    other.join()


def test_what_is_raised_where_no_switch_may_be_is_told_and_not_hidden() -> None:
    def fail() -> None:
        with unswitched():
            gevent.sleep(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


# -- over HTTP ---------------------------------------------------------------------------------

# Options for a hub that counts switches where it serves, so that its `unswitched` hold or fail.
COUNTING = """
from esource import server
from esource.server import *

def post_worker_init(worker):
    from esource.hub.loop import switches
    server.post_worker_init(worker)
    switches.count()
"""


def test_no_greenlet_switches_where_none_may_while_a_hub_is_busy(tmp_path: Path) -> None:
    options = tmp_path / "options.py"
    options.write_text(COUNTING)
    with running_hub(tmp_path, "-c", str(options)) as hub:
        with load_on(hub, "orders") as load, Stream(hub, "/orders?event=none"):
            with Publishers(hub, "orders", count=3) as publishers:
                for n in range(10):
                    publishers.reach(10)
                    hub.file("orders").rename(tmp_path / f"archive-{n}")
                    load.goes_on(10)
                    hub.get("/orders?tail=2&format=ndjson")
                with hub.file("orders").open("ab") as file:
                    file.write(b"by hand\t\tx\nno event\n")
                publishers.reach(10)
            assert publishers.is_unharmed
            assert hub.post("/orders?expect=nothing", "refused").status == 412
        hub.stop()
        assert "AssertionError" not in hub.log
        assert "Traceback" not in hub.log


CHUNKS = {
    "event-stream": ("Content-Type: text/event-stream", "", b"data: an event of a stream\n\n"),
    "each=line": ("Content-Type: text/plain", "?each=line", b"a line of a log\n"),
}


@contextmanager
def endless_upload(hub: Hub, channel: str, kind: str, size: int) -> Iterator[None]:
    """Send chunks of `size` bytes, the next of which is always there, until the context ends."""
    field, query, event = CHUNKS[kind]
    body = event * ((1 << 18) // len(event))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces])
    ended = threading.Event()
    answers: list[bytes] = []
    head = f"POST /{channel}{query} HTTP/1.1\r\nHost: h\r\n{field}\r\nTransfer-Encoding: chunked"

    def send() -> None:
        with hub.connect() as connection:
            connection.sendall(head.encode() + b"\r\n\r\n")
            while not ended.is_set():
                connection.sendall(chunks)
            connection.sendall(b"0\r\n\r\n")
            answers.append(connection.recv(65536))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert answers[0].startswith(b"HTTP/1.1 201 "), answers


@pytest.mark.parametrize("size", [1 << 16, 100])
@pytest.mark.parametrize("kind", CHUNKS)
def test_everybody_else_gets_answers_while_an_endless_upload_goes_on(
    hub: Hub, kind: str, size: int
) -> None:
    """What was sent is committed and seen meanwhile, not at the end."""
    channel, history = f"endless-{kind.replace('=', '-')}-{size}", f"hist-{size}"
    hub.file(history).write_bytes(b"".join([b"%d\t\t%b\n" % (n, b"x" * 90) for n in range(10_000)]))
    with Stream(hub, f"/{channel}?limit=1000") as stream, endless_upload(hub, channel, kind, size):
        answers: list[bytes] = []
        asked = threading.Thread(
            target=lambda: answers.append(hub.get(f"/{history}?format=sse&follow=0").body)
        )
        asked.start()
        waits = []
        for _ in range(20):
            started = time.monotonic()
            assert hub.get("/-/ready").status == 200
            waits.append(time.monotonic() - started)
        eventually(lambda: answers or not asked.is_alive(), 10.0)
        asked.join()
        assert answers[0].count(b"\ndata: " + b"x" * 90 + b"\n\n") == 10_000
        stream.read_to_end()
        assert len(stream.events) == 1000
        assert max(waits) < 0.25, waits
