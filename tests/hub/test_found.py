"""Places of ids: one search for all who ask for the same id, and what is remembered of it."""

import socket
from pathlib import Path

import gevent
import pytest
from gevent.event import Event as Signal

from esource.errors import StorageError
from esource.event import Event, default_id
from esource.hub import found
from esource.hub.found import PLACES
from esource.hub.search import Search
from esource.hub.view import View
from esource.hub.work import ClientLeft, Work
from esource.log.memory import MemoryLog, MemoryLogs
from esource.rows.find import Verdict
from tests.harness.channels import append_by_hand, channel_of, publish

CROWD = 100
FEW_IDS = [default_id(1577880000_000000 + n) for n in range(3)]


class Looks:
    """A search that notes what it is asked, and waits until it may go on."""

    def __init__(self, log: MemoryLog) -> None:
        self.search = Search(log)
        self.running = 0
        self.ids: list[bytes] = []
        self.go_on = Signal()
        self.go_on.set()
        self.found = found.Found()

    def __call__(self, view: View, id: bytes, work: Work) -> tuple[int, Verdict]:
        self.ids.append(id)
        self.running += 1
        try:
            while not self.go_on.wait(0.001):
                work.check()
        finally:
            self.running -= 1
        return self.search.look_after(view, id, work)

    def after(self, id: bytes, client: socket.socket | None = None) -> tuple[int, Verdict]:
        return self.found.after(View.of(self.search.log), id, Work(client), self)


@pytest.fixture
def looks() -> Looks:
    log = MemoryLog(MemoryLogs(), "orders")
    log.append(None, [b"".join(b"%b\t\tdata\n" % id for id in FEW_IDS)])
    return Looks(log)


def test_a_crowd_with_one_id_makes_one_search(looks: Looks) -> None:
    looks.go_on.clear()
    crowd = [gevent.spawn(looks.after, FEW_IDS[1]) for _ in range(CROWD)]
    gevent.sleep(0.01)
    looks.go_on.set()
    gevent.joinall(crowd, raise_error=True)
    place = looks.search.look_after(View.of(looks.search.log), FEW_IDS[1], Work())
    assert {each.value for each in crowd} == {place}
    assert looks.ids == [FEW_IDS[1]]
    looks.after(FEW_IDS[1])
    assert looks.ids == [FEW_IDS[1]]


def test_a_place_that_is_known_stays_known_as_the_log_grows(looks: Looks) -> None:
    place = looks.after(FEW_IDS[0])
    looks.search.log.append(None, [b"%b\t\tagain\n" % FEW_IDS[0]])
    assert looks.after(FEW_IDS[0]) == place
    assert len(looks.ids) == 1


@pytest.mark.parametrize("id", [b"later", default_id(1577880000_000009)])
def test_what_was_not_there_is_looked_for_again_once_the_log_has_grown(
    looks: Looks, id: bytes
) -> None:
    assert looks.after(id)[1] is not Verdict.EXACT
    looks.after(id)
    assert len(looks.ids) == 1
    looks.search.log.append(None, [b"%b\t\tcomes\n" % id])
    assert looks.after(id) == (looks.search.log.end, Verdict.EXACT)


def test_a_place_behind_the_end_of_a_view_is_none_in_it(looks: Looks) -> None:
    before = View.of(looks.search.log)
    looks.search.log.append(None, [b"new\t\tevent\n"])
    assert looks.after(b"new")[1] is Verdict.EXACT
    assert looks.found.after(before, b"new", Work(), looks)[1] is Verdict.START


def test_only_so_many_places_are_remembered_and_those_asked_for_last(looks: Looks) -> None:
    for n in range(PLACES):
        looks.after(b"%d" % n)
    looks.after(b"0")
    looks.after(b"another")
    looks.after(b"0")
    assert looks.ids.count(b"0") == 1
    looks.after(b"1")
    assert looks.ids.count(b"1") == 2


def test_a_search_ends_with_the_last_of_its_clients_and_not_with_the_first(looks: Looks) -> None:
    looks.go_on.clear()
    pairs = [socket.socketpair() for _ in range(3)]
    crowd = [gevent.spawn(looks.after, FEW_IDS[0], ours) for ours, _ in pairs]
    for (_, theirs), each in zip(pairs[:2], crowd, strict=False):
        theirs.close()
        with pytest.raises(ClientLeft):
            each.get(timeout=10)
    looks.go_on.set()
    assert crowd[2].get(timeout=10)[1] is Verdict.EXACT
    assert looks.ids == [FEW_IDS[0]]

    looks.go_on.clear()
    alone = gevent.spawn(looks.after, b"nobody waits", pairs[2][0])
    gevent.sleep(0.01)
    pairs[2][1].close()
    with pytest.raises(ClientLeft):
        alone.get(timeout=10)
    gevent.sleep(0.01)
    assert not looks.running
    looks.go_on.set()
    assert looks.after(b"nobody waits")[1] is Verdict.START
    assert looks.ids.count(b"nobody waits") == 2
    for ours, _ in pairs:
        ours.close()


def test_a_reader_that_is_ended_ends_no_search_that_others_wait_for(looks: Looks) -> None:
    looks.go_on.clear()
    first, second = (gevent.spawn(looks.after, FEW_IDS[0]) for _ in range(2))
    gevent.sleep(0.01)
    first.kill()
    looks.go_on.set()
    assert second.get(timeout=10)[1] is Verdict.EXACT
    assert looks.ids == [FEW_IDS[0]]


def test_each_of_a_crowd_is_told_why_a_search_has_failed_and_the_next_tries_again() -> None:
    tried = []

    def fail(view: View, id: bytes, work: Work) -> tuple[int, Verdict]:
        tried.append(id)
        gevent.sleep(0.01)
        raise StorageError("cannot read it")

    places, view = found.Found(), View.of(MemoryLog(MemoryLogs(), "orders"))
    crowd = [gevent.spawn(places.after, view, b"1", Work(), fail) for _ in range(3)]
    gevent.joinall(crowd)
    assert len({id(each.exception) for each in crowd}) == 3
    assert {str(each.exception) for each in crowd} == {"cannot read it"}
    assert tried == [b"1"]
    with pytest.raises(StorageError):
        places.after(view, b"1", Work(), fail)
    assert tried == [b"1", b"1"]


def test_the_first_event_with_an_id_counts_after_rows_are_there_again() -> None:
    view = View(MemoryLog(MemoryLogs(), "orders"), 10, b"")
    answers = iter([(5, Verdict.EXACT), (7, Verdict.EXACT)])
    places = found.Found()

    class Moved(MemoryLog):
        begin = 3

    def look(view: View, id: bytes, work: Work) -> tuple[int, Verdict]:
        return next(answers)

    assert places.after(view, b"1", Work(), look) == (5, Verdict.EXACT)
    again = view._replace(log=Moved(MemoryLogs(), "orders"))
    assert places.after(again, b"1", Work(), look) == (7, Verdict.EXACT)


def test_a_channel_finds_what_was_appended_by_hand_after_it_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    channel = channel_of(path)
    publish(channel, Event(b"1", b"", b"one"))
    for n in range(3):
        append_by_hand(path, b"hand-%d\t\tx\n" % n)
        view, offset, verdict = channel.after(channel.refresh(), b"hand-%d" % n)
        assert (offset, verdict) == (view.end, Verdict.EXACT)
