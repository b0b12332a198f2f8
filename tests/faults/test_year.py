"""A year of a channel of which 30 days are kept, by clocks that the test moves."""

import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tests.harness import Hub, Stream, eventually, size
from tests.harness.measures import memory
from tests.harness.shims import Build, Clock

DAY = 86_400
DAYS = size(60, 183)
BATCHES = 3  # a day, 8 hours apart
BATCH = 4_000  # events
KEPT = 30  # days
CLOSED = KEPT / 10  # days that are in a file
STEADY = 45  # days, after which the hub does nothing that it has not done before
JUMPED = "the clock has jumped"
GROWTH = 8 << 20  # bytes; of the memory of a hub, which is 40 MB


class Year:
    """A hub that has started as the year begins, and what was published to it, and when."""

    def __init__(self, hub: Hub, clock: Clock) -> None:
        self.hub, self.clock = hub, clock
        self.times: list[float] = []  # of batches, seconds since 1970
        self.count = 0  # events

    @property
    def now(self) -> float:
        return time.time() + self.clock.gone_by

    def publish(self) -> None:
        self.times.append(self.now)
        lines = b"".join(data(self.count + n) + b"\n" for n in range(BATCH))
        answer = self.hub.post("/orders?each=line", lines)
        assert answer.status == 201, answer
        self.count += BATCH

    def go_on(self) -> None:
        """Let the time until the next batch go by."""
        self.clock.go_by(DAY // BATCHES)

    def jump(self, seconds: int) -> None:
        """Have the wall clock be wrong by so much; return when the hub has seen that."""
        jumps = self.hub.log.count(JUMPED)
        self.clock.jump(seconds)
        self.look(61, lambda: self.hub.log.count(JUMPED) > jumps)

    def look(self, seconds: int, has_seen: Callable[[], bool]) -> None:
        """Let time go by, until the hub has looked at its files and seen something."""
        for _ in range(20):  # one look may be under way, and the next is a minute after it
            self.clock.go_by(seconds)
            with suppress(AssertionError):
                return eventually(has_seen, 1.0)
        raise AssertionError(self.hub.log)

    def files(self) -> list[Path]:
        return sorted(self.hub.folder.glob("orders.[0-9]*.tsv"))

    def oldest(self) -> list[bytes]:
        """Return the rows of the oldest file; none while that is being removed."""
        with suppress(FileNotFoundError):
            return self.files()[0].read_bytes().splitlines()
        return []

    def is_bounded(self) -> bool:
        """Whether the hub has removed what the rule does not keep."""
        if not (rows := self.oldest()):
            return False
        newest = datetime.fromisoformat(rows[-1].partition(b"\t")[0].decode()).timestamp()
        return self.now - newest < KEPT * DAY and len(self.files()) <= KEPT / CLOSED + 3

    def least(self) -> int:
        """Return the number of the oldest event that must be kept."""
        return BATCH * bisect_right(self.times, self.now - KEPT * DAY)


def data(number: int) -> bytes:
    return b"%d an order of the usual length" % number


def number(row: bytes) -> int:
    return int(row.split(b"\t")[2].split(b" ")[0])


def test_a_year_of_a_channel_and_of_a_follower_that_sleeps_for_weekends(
    tmp_path: Path, shim: Build
) -> None:
    hub = Hub(tmp_path, ESOURCE_KEEP="orders/age=30d")
    clock = Clock(hub, shim("clock"))
    hub.folder.mkdir()
    hub.start("--timeout", "0")
    try:
        year = Year(hub, clock)
        clock.go_by(3601)  # in its first hour it removes nothing
        seen, first, last = 0, b"", b""
        for day in range(DAYS):
            if day == STEADY:
                used, descriptors = memory(hub), hub.descriptors()
            if day % 7 < 5:
                with Stream(hub, "/orders", Last_Event_ID=last.decode()) as stream:
                    assert stream.headers["Esource-Resume"] == ("exact" if day else "live")
                    for _ in range(BATCHES):
                        year.publish()
                        stream.read(year.count - seen)
                        year.go_on()
                assert [event.data for event in stream.events] == [
                    data(n) for n in range(seen, year.count)
                ]
                ids = [event.id for event in stream.events]
                assert [last, *ids] == sorted({last, *ids})
                seen, first, last = year.count, first or ids[0], ids[-1]
            else:
                for _ in range(BATCHES):
                    year.publish()
                    year.go_on()
            year.look(61, year.is_bounded)
            assert number(year.oldest()[0]) <= year.least(), "it removed what the rule keeps"
        rows = hub.get("/orders").body.splitlines()
        numbers = [number(row) for row in rows]
        assert numbers == list(range(numbers[0], year.count))
        late = hub.get(f"/orders?after={first.decode()}")
        assert late.headers["Esource-Resume"] == "trimmed"
        assert late.body.count(b"\n") == len(rows)
        assert memory(hub) - used < GROWTH
        eventually(lambda: hub.descriptors() <= descriptors)
        health = hub.get("/-/health")
        assert (health.status, health.body) == (200, b"ok\n")
        assert JUMPED not in hub.log
        a_wrong_clock_that_is_put_right_within_the_hour_costs_no_event(year)
    finally:
        hub.stop()
    assert "ERROR" not in hub.log


def a_wrong_clock_that_is_put_right_within_the_hour_costs_no_event(year: Year) -> None:
    year.publish()
    rows, files = year.hub.get("/orders").body, year.files()
    for seconds in (400 * DAY, 0):
        year.jump(seconds)
        eventually(lambda: len(year.files()) > len(files))  # closed, as its time has come
    year.publish()
    assert year.hub.get("/orders").body.startswith(rows)
    growing = year.files()[-1]
    year.look(round(CLOSED * DAY), lambda: year.files()[-1] != growing)  # it removes, too
    eventually(year.is_bounded)
    assert number(year.oldest()[0]) <= year.least()
