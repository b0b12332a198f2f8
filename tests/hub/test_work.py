"""Long work: who has the thread of searches next, and what becomes of it when its client leaves."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import gevent
import pytest

from esource.hub.work import (
    CROWD,
    GRACE_SECONDS,
    LOOK_SECONDS,
    ClientLeft,
    Learning,
    Listing,
    Work,
    look_seconds,
)
from tests.harness import Hub, eventually
from tests.harness.measures import bytes_read


@contextmanager
def long_works(count: int, done: list[int]) -> Iterator[None]:
    """Works that never end, and note their numbers at each step; all have had their first one."""

    def go_on(number: int) -> None:
        work = Work()
        while True:
            work.step(lambda deadline: time.sleep(0.001))
            done.append(number)

    works = [gevent.spawn(go_on, number) for number in range(count)]
    try:
        while len(set(done)) < count:
            gevent.sleep(0.001)
        yield
    finally:
        gevent.killall(works)


def test_a_short_work_waits_for_one_step_however_many_long_ones_there_are() -> None:
    done: list[int] = []
    with long_works(30, done):
        for _ in range(10):
            before = len(done)
            Work().step(lambda deadline: None)
            assert len(done) - before <= 2
            gevent.sleep(0.01)


def test_a_long_step_of_a_list_holds_up_no_search() -> None:
    over = threading.Event()
    with gevent.Timeout(10):
        listing = gevent.spawn(Listing().do, over.wait)
        gevent.sleep(0)
        assert Work().do(lambda: "found") == "found"
        assert not listing.ready()
        over.set()
        listing.get()


def test_long_works_take_turns_and_are_not_kept_from_them_by_short_ones() -> None:
    done: list[int] = []
    with long_works(3, done):
        while len(done) < 300:
            Work().step(lambda deadline: None)
    counts = Counter(done)
    assert max(counts.values()) < 2 * min(counts.values()), counts


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_work_of_a_client_that_stays_goes_on(pair: tuple[socket.socket, socket.socket]) -> None:
    work = Work(pair[0])
    time.sleep(GRACE_SECONDS)
    assert work.step(lambda deadline: "found") == "found"


def test_a_work_ends_with_its_client_but_a_short_one_does_not(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    work = Work(ours)
    theirs.shutdown(socket.SHUT_WR)
    assert work.step(lambda deadline: "found") == "found"
    time.sleep(GRACE_SECONDS)
    with pytest.raises(ClientLeft):
        work.step(lambda deadline: "found")
    work.heard()  # it takes what it is sent
    assert work.step(lambda deadline: "found") == "found"


def test_a_work_ends_with_its_client_while_it_waits_and_others_go_on(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.close()
    other = gevent.spawn(Work().do, time.sleep, 1.0)
    gevent.sleep(0.01)
    started = time.monotonic()
    with pytest.raises(ClientLeft):
        Work(ours).do(time.sleep, 0.0)
    assert time.monotonic() - started < 0.9
    waiting = gevent.spawn(Work().do, time.sleep, 0.0)
    gevent.sleep(0.01)
    waiting.kill()  # as a stop does
    other.join()
    assert Work().step(lambda deadline: "found") == "found"


# -- over HTTP ---------------------------------------------------------------------------------

SEARCHES = {
    "tail": "event=none&tail=1",
    "since": "since=2100-01-01",
    "finite": "event=none",
    "follow": "event=none&follow=1&after=0",
    "malformed": "format=json",
}


@pytest.fixture(scope="module")
def large(hub: Hub) -> Hub:
    """A hub with channels of 50 MB: of times in no form of the hub's, and of rows without tabs.

    The first one has more types than its index knows, so all of it is searched for any.
    """
    rows = b"".join(
        b"2026-01-02T03:04:%02d.%03dZ\t%d\t\n" % (n % 60, n % 997, n % 97) for n in range(15_000)
    )
    hub.file("large").write_bytes(rows * 112)
    hub.file("none").write_bytes(b"no event at all, but a line\n" * (50_000_000 // 28))
    for name in ("large", "none"):  # opening the latter looks for its newest event, in vain
        assert hub.request("HEAD", f"/{name}").status == 200
    assert hub.get("/large?event=none").body == b""  # which has it indexed
    assert hub.get("/none?event=none").body == b""

    eventually(partial(is_idle, hub))  # it is indexed, or will be beside the searches
    return hub


def is_idle(hub: Hub) -> bool:
    """Return whether a hub reads nothing, for a while."""
    before = bytes_read(hub)
    time.sleep(0.5)
    return bytes_read(hub) - before < 100_000


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_search_ends_with_its_client(large: Hub, kind: str) -> None:
    channel = "none" if kind == "malformed" else "large"
    clients = [large.connect() for _ in range(10)]
    for client in clients:
        client.sendall(f"GET /{channel}?{SEARCHES[kind]} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    time.sleep(0.2)
    for client in clients:
        client.close()
    assert large.get("/large?tail=1").status == 200
    before = bytes_read(large)
    eventually(partial(is_idle, large))
    size = large.file(channel).stat().st_size
    assert bytes_read(large) - before < 5 * size  # and not ten times


def test_a_half_closed_client_is_answered_unless_its_search_is_long(large: Hub) -> None:
    for query, status in (("tail=1", b"200"), (SEARCHES["tail"], b"408")):
        request = f"GET /large?{query} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        assert large.raw(request, half_close=True).split(b" ")[1] == status
    eventually(lambda: large.get("/large?tail=1").status == 200)


def test_what_is_learned_goes_before_a_crowd_of_searches_and_not_before_few() -> None:
    for crowd, is_first in ((CROWD * 2, True), (CROWD // 2, False)):
        done: list[int] = []
        with long_works(crowd, done):
            learning = Learning()
            for _ in range(5):  # so that it has had steps, for which it lets others pass
                learning.step(lambda deadline: None)
            before = len(done)
            learning.step(lambda deadline: None)
            assert (len(done) - before < 5) is is_first


def test_the_more_clients_wait_the_more_rarely_each_is_looked_at() -> None:
    assert look_seconds(1000) > 10 * look_seconds()
    with long_works(200, []):
        assert look_seconds() > 5 * LOOK_SECONDS
    assert look_seconds() == LOOK_SECONDS
