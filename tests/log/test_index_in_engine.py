"""The index of a log in its engine, which all hubs share: what one has learned, all know."""

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import pytest

from esource.event import default_id
from esource.hub.search import Search
from esource.hub.view import View
from esource.log import Log, index
from esource.log.blocks import BlockLog, Head
from esource.log.index import Part, Span
from esource.log.postgresql import PostgreSQL
from esource.log.valkey import Valkey
from esource.rows.find import Verdict, Wanted
from esource.rules import Rule
from tests.harness.machine import size
from tests.harness.postgres import shared_postgres
from tests.harness.valkey import shared_valkey

ROWS = [b"%03d\ta\tx\n" % n for n in range(200)]  # which rise; a zone is 6 or 7 of them
MIXED = [b"%03d\ta\tx\n" % (n * 37 % 211) for n in range(200)]


class Counting:
    """The engine of a hub, and how much that has read of it."""

    bytes_read = 0
    calls = 0
    asked = 0  # of these calls, those for the index

    def read(self, name, head, offset, stop):  # type: ignore[no-untyped-def]
        start, rows = super().read(name, head, offset, stop)  # type: ignore[misc]
        self.bytes_read += len(rows)
        return start, rows


class CountingPostgreSQL(Counting, PostgreSQL):
    def _call(self, statement, arguments, asked=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        rows = super()._call(statement, arguments, asked)
        if "esource.index" in statement:
            self.asked += 1
            self.bytes_read += sum(len(x) for row in rows for x in row if isinstance(x, bytes))
        return rows


class CountingValkey(Counting, Valkey):
    def _indexed(self, name, head, fields):  # type: ignore[no-untyped-def]
        self.calls += 1
        self.asked += 1
        found = super()._indexed(name, head, fields)
        self.bytes_read += sum(len(x) for x in found if x is not None)
        return found


class InPostgreSQL:
    """What makes the engine of one more hub, of an empty database."""

    def __init__(self) -> None:
        self.server = shared_postgres()
        self.server.do("DROP SCHEMA IF EXISTS esource CASCADE")
        self.made: list[Any] = []

    def __call__(self) -> Any:
        hub = CountingPostgreSQL(self.server.url(), 30)
        hub.hold(lambda: None)
        self.made.append(hub)
        return hub

    def stored(self) -> list[tuple[Any, ...]]:
        """Return what the engine keeps of the index: kind, size, start, line."""
        return self.server.do(
            "SELECT kind, size, start, line FROM esource.index ORDER BY kind, size, start"
        )

    def zones(self) -> list[Any]:
        """Return where the zones start that are kept."""
        return [row[2] for row in self.stored() if row[:2] == ("zone", 50)]

    def lose_rows(self, end: int) -> None:
        """Have the engine be as one that lacks the last rows, as after a failover."""
        self.server.do(
            f"""DELETE FROM esource.block WHERE "end" > {end}""",
            f"""DELETE FROM esource.index WHERE start + size > {end}""",
            f"""UPDATE esource.channel SET "end" = {end}, nonce = (
                SELECT nonce FROM esource.block WHERE "end" = {end})""",
        )

    def spoil(self, start: int) -> None:
        """Have the lines of parts that start at an offset make no sense."""
        self.server.do(f"UPDATE esource.index SET line = 'no zone' WHERE start = {start}")


class InValkey(InPostgreSQL):
    """The same in Valkey."""

    def __init__(self) -> None:
        self.valkey = shared_valkey()
        self.valkey.do("FLUSHALL")
        self.made = []

    def __call__(self) -> Any:
        self.made.append(CountingValkey(self.valkey.url, 30))
        return self.made[-1]

    def _fields(self) -> list[tuple[bytes, bytes, tuple[str, int, int]]]:
        """Return (key, field, (kind, size, start)) of what is kept, pieces of hashes, too."""
        found = []
        for key in self.valkey.do("KEYS", "*:index"):
            for field in self.valkey.do("HKEYS", key):
                kind, size, start, *_ = field.decode().split("/")
                found.append((key, field, (kind, int(size), int(start))))
        return found

    def stored(self) -> list[tuple[Any, ...]]:
        return sorted(
            (*part, self.valkey.do("HGET", key, field))
            for key, field, part in self._fields() if field.count(b"/") == 2
        )  # fmt: skip

    def lose_rows(self, end: int) -> None:
        for key, field, (_, length, start) in self._fields():
            if start + length > end:
                self.valkey.do("HDEL", key, field)
        [stream] = (key for key in self.valkey.do("KEYS", "*:*:*") if key[-1:].isdigit())
        blocks = self.valkey.do("XRANGE", stream, "-", end)
        self.valkey.do("DEL", stream)
        for block, fields in blocks:
            self.valkey.do("XADD", stream, block, *(x for pair in fields.items() for x in pair))
        nonce = block.removeprefix(b"%d-" % end)
        self.valkey.do("HSET", "esource:{orders}", "end", end, "nonce", nonce)

    def spoil(self, start: int) -> None:
        for key, field, part in self._fields():
            if part[2] == start:
                self.valkey.do("HSET", key, field, "no zone")


Hubs: TypeAlias = InPostgreSQL


@pytest.fixture(params=[InPostgreSQL, InValkey])
def hubs(request: pytest.FixtureRequest) -> Iterator[Hubs]:
    """Give what makes the engine of one more hub."""
    hubs = request.param()
    yield hubs
    for hub in hubs.made:
        hub.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ZONE_BYTES", 50)
    monkeypatch.setattr(index, "ROWS_BYTES", 20)
    monkeypatch.setattr(index, "FEW", 2)
    monkeypatch.setattr(index, "MANY", 4)


def filled(hub: Any, rows: Sequence[bytes] = ROWS, blocks: int = 10) -> Log:
    """Return a log with rows in so many appends."""
    log: Log = hub.open("orders")
    step = -(-len(rows) // blocks)
    for start in range(0, len(rows), step):
        log.append(None, [b"".join(rows[start : start + step])])
    return log


def learned(log: Log) -> Log:
    for _ in log.learn(log.end):
        pass
    return log


def parts(log: Log, **wanted: object) -> list[tuple[int, int]]:
    return list(log.places(Wanted(**wanted), log.begin, log.end))  # type: ignore[arg-type]


def looked_at(log: Log, **wanted: object) -> int:
    """Return in how many bytes it can be."""
    return sum(end - offset for offset, end in parts(log, **wanted))


# -- shared --------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, MIXED], ids=["in order", "in no order"])
def test_what_one_hub_has_learned_every_other_one_knows(
    hubs: Hubs, small: None, rows: list[bytes]
) -> None:
    first, second = hubs(), hubs()
    log = learned(filled(first, rows))
    other = second.open("orders")
    for each in (log, other):
        assert looked_at(each, id=b"050") < 250 < each.end / 4
        assert looked_at(each, types=frozenset([b"none"])) < 50
    assert second.bytes_read < first.bytes_read
    before, second.bytes_read = hubs.stored(), 0
    learned(other)
    assert second.bytes_read < 4000, "nothing is learned twice"
    assert hubs.stored() == before


def test_a_hub_sees_what_others_learn_later(hubs: Hubs, small: None) -> None:
    log = learned(filled(hubs(), ROWS[:50]))
    other = hubs().open("orders")
    assert looked_at(other, id=b"040") < 100
    log.append(None, [b"".join(ROWS[50:])])
    assert other.refresh() is None
    assert looked_at(other, id=b"150") > 1000
    learned(log)
    assert looked_at(other, id=b"150") < 100


def test_hubs_that_learn_at_the_same_time_find_the_same(hubs: Hubs, small: None) -> None:
    """Also of a channel whose beginning is gone for the second one."""
    first = filled(hubs(), MIXED)
    second = hubs().open("orders")
    steps = [log.learn(log.end) for log in (first, second)]
    pick = random.Random(7)
    while steps:
        each = pick.choice(steps)
        if next(each, False) is False:
            steps.remove(each)
    assert len(hubs.zones()) == len(set(hubs.zones())) == first.end // 50
    again = filled(hubs(), MIXED)  # twice as long
    hub = hubs()
    assert hub.trim("orders", Rule("*", size=again.end - 300))
    assert isinstance(hub.open("orders"), BlockLog)
    late = learned(hub.open("orders"))
    learned(again)
    third = hubs().open("orders")
    for n in range(211):
        row = b"%03d\ta\tx\n" % n
        start = third.pread(0, third.end).find(row) if third.start == 0 else -1
        for log in (late, again, third):
            rows = log.pread(log.begin, log.end - log.begin)
            place = rows.find(row)
            found = parts(log, id=b"%03d" % n)
            at = log.begin + place
            assert place < 0 or any(x <= at < y for x, y in found)
        assert start <= third.end


def test_of_ids_in_no_order_the_first_zone_is_left_out_too(
    hubs: Hubs, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it alone, with nothing before it, is in order; and while there are few zones."""
    monkeypatch.setattr(index, "FEW", 4)
    log = learned(filled(hubs(), MIXED[:22]))
    other = hubs().open("orders")
    for each in (log, other):
        assert looked_at(each, id=b"nix") < 50, "what is not known yet"
        for row in MIXED[:22]:
            assert any(row in each.pread(x, y - x) for x, y in parts(each, id=row[:3]))
        in_first = [row for row in MIXED[7:22] if (0, 56) in parts(each, id=row[:3])]
        assert in_first == []


# -- what is believed ----------------------------------------------------------------------


def test_a_hub_that_has_other_rows_stores_nothing(hubs: Hubs, small: None) -> None:
    old = filled(hubs())
    old.pread(0, old.end)  # which it remembers
    half = old.end // 2
    hubs.lose_rows(half)
    new = hubs().open("orders")
    new.append(None, [b"".join(MIXED[100:])])
    learned(old)
    assert hubs.stored() == []
    learned(new)
    assert looked_at(hubs().open("orders"), id=MIXED[150][:3]) < 250


def test_an_erasure_takes_its_zone_and_no_other(hubs: Hubs, small: None) -> None:
    hub = hubs()
    log, other = learned(filled(hub)), hubs().open("orders")
    before = hubs.zones()
    assert looked_at(other, types=frozenset([b"erased"])) < 50
    hub.erase("orders", 896, b"112\te\tx\n", "me", "test")
    gone = set(before) - set(hubs.zones())
    assert 896 // 50 * 50 in gone
    assert len(gone) <= 5, "those of one block"
    for each in (log, other):
        assert each.refresh() is None
        found = parts(each, types=frozenset([b"e"]))
        assert any(offset <= 896 < end for offset, end in found)
        assert looked_at(each, types=frozenset([b"e"])) < 400, "all others are known"
    learned(other)
    assert hubs.zones() == before
    hub.bytes_read = 0
    learned(log)
    assert hub.bytes_read < 2000, "lines, and no rows"
    assert looked_at(log, types=frozenset([b"e"])) < 100


def test_what_is_learned_while_an_event_is_erased_is_not_stored(hubs: Hubs, small: None) -> None:
    hub = hubs()
    log = filled(hub)
    steps = log.learn(log.end)
    while len(hubs.zones()) < 3:
        next(steps)
    before = hubs.zones()
    hub.erase("orders", 896, b"112\te\tx\n", "me", "test")
    for _ in steps:
        pass
    assert hubs.zones() == before
    assert log.refresh() is None
    learned(log)
    assert len(hubs.zones()) == log.end // 50


def test_the_index_goes_with_the_rows(hubs: Hubs, small: None) -> None:
    hub = hubs()
    log = learned(filled(hub, MIXED))
    everything = len(hubs.stored())
    removed = hub.trim("orders", Rule("*", size=log.end // 2))
    assert removed > 300
    assert everything > len(hubs.stored()) > everything / 3
    assert min(hubs.zones()) == removed // 50 * 50
    fresh = hubs().open("orders")
    assert looked_at(fresh, id=b"nix") < 120
    hub.remove("orders")
    assert hubs.stored() == []
    learned(log)
    assert hubs.stored() == [], "nobody knows such a channel"


def test_hashes_that_were_replaced_meanwhile_are_no_loss(hubs: Hubs, small: None) -> None:
    hub = hubs()
    log = learned(filled(hub, MIXED[:15]))
    other = hubs().open("orders")
    assert looked_at(other, id=b"nix") < 50
    assert [row[1:3] for row in hubs.stored() if row[0] != "zone"] == [(100, 0)]
    log.append(None, [b"".join(MIXED[15:])])
    learned(log)
    assert [row[1] for row in hubs.stored() if row[0] != "zone" and row[2] < 200] == [200]
    for row in MIXED[:15]:
        at = MIXED.index(row) * 8
        assert any(start <= at < end for start, end in parts(other, id=row[:3]))
    assert looked_at(other, id=b"nix") < 50, "and it knows those that took their place"


def test_what_an_index_says_that_makes_no_sense_hides_nothing(hubs: Hubs, small: None) -> None:
    learned(filled(hubs()))
    hubs.spoil(400)
    log = hubs().open("orders")
    assert any(start <= 420 < end for start, end in parts(log, id=b"xyz"))
    assert looked_at(log, id=b"xyz") < 400


# -- pieces --------------------------------------------------------------------------------


def learn(hub: Any, part: Part, hashes: bytes) -> Head:
    """Store hashes of a part of the channel, and return its head."""
    head: Head = hub.head("orders", Head()).head
    hub.learn("orders", head, "ids", part, b"%d" % (len(hashes) // 5), hashes)
    return head


def test_what_is_stored_first_stays(hubs: Hubs) -> None:
    first, second, part = hubs(), hubs(), Part(1000, 0)
    filled(first)
    head = learn(first, part, b"first")
    learn(second, part, b"second one")
    [lines] = second.lines("orders", head, [Span("ids", 1000, 0, 1 << 62)])
    assert list(lines) == [(0, b"1")]
    assert list(first.hashes("orders", head, [(part, 0, 5)])) == [b"first"]


def test_a_piece_of_hashes_is_found_wherever_it_is(hubs: Hubs) -> None:
    hub, part, other = hubs(), Part(1000, 0), Part(2000, 0)
    filled(hub)
    hashes = random.Random(7).randbytes(40_000)
    head = learn(hub, part, hashes)
    places = [(0, 5), (16380, 8), (16384, 16384), (39_990, 10), (3, 39_997)]
    found = hub.hashes("orders", head, [(part, *place) for place in places] + [(other, 0, 5)])
    assert found[-1] is None
    for (at, length), piece in zip(places, found, strict=False):
        assert piece == hashes[at : at + length], (at, length)


# -- cold ----------------------------------------------------------------------------------

KINDS: dict[str, Callable[[int], bytes]] = {
    "default ids": lambda n: default_id(1577880000_000000 + n * 1000),
    "UUIDs": lambda n: str(uuid.UUID(int=random.Random(n).getrandbits(128))).encode(),
    "order-N": lambda n: b"order-%d" % n,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_has_just_started_finds_a_place_and_reads_little(hubs: Hubs, kind: str) -> None:
    megabytes, of = size(16, 50), KINDS[kind]
    log = hubs().open("orders")
    count = megabytes << 10
    for start in range(0, count, 4096):
        rows = (b"%b\tsome\t%b\n" % (of(n), b"x" * 980) for n in range(start, start + 4096))
        log.append(None, [b"".join(rows)])
    learned(log)
    for n in (count // 2, count - 1, -1):
        hub = hubs()
        cold = hub.open("orders")
        offset, verdict = Search(cold).after(View.of(cold), of(n) if n >= 0 else b"order-none")
        assert hub.bytes_read < 4 << 20
        assert hub.asked <= 2, "for all lines at once, and for hashes"
        assert verdict is (Verdict.EXACT if n >= 0 else Verdict.START)
        if n >= 0:
            assert cold.pread(0, offset).count(b"\n") == n + 1


def test_a_search_for_nothing_in_particular_asks_for_no_index(hubs: Hubs, small: None) -> None:
    learned(filled(hubs()))
    hub = hubs()
    log = hub.open("orders")
    before = hub.calls
    assert list(log.places(Wanted(), 0, log.end, is_backwards=True)) == [(0, log.end)]
    assert hub.calls == before
