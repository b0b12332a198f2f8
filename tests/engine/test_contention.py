"""Three hubs, four writers at each, one channel: one order, in which nothing is lost or doubled."""

import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from esource.event import DEFAULT_ID
from tests.harness import QUIET, Hub, Publisher, Stream, eventually, numbers, size
from tests.harness.engine import data_of, engine_hub, engine_hubs, rows_at
from tests.harness.postgres import Postgres
from tests.harness.rows import ids_of
from tests.harness.shims import build, preload
from tests.harness.waiting import together

WRITERS = 4
EVENTS = size(1500, 8000)
TRIES = 3.0  # for a commit, on average


class Crowd:
    """Writers of one channel at several hubs, and a follower at each, while the block runs."""

    def __init__(self, hubs: Sequence[Hub], channel: str, others: int = 0) -> None:
        """`others` is how many events are there already."""
        self.hubs, self.channel, self.others = hubs, channel, others
        self.writers = [
            Publisher(hub, f"p{n}-{m}", channel) for n, hub in enumerate(hubs)
            for m in range(WRITERS)
        ]  # fmt: skip

    @property
    def acknowledged(self) -> int:
        """How many events are, until now."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    def of_each(self) -> list[int]:
        """Return how many events are acknowledged by each hub."""
        counts = [len(writer.acknowledged) for writer in self.writers]
        return [sum(counts[n : n + WRITERS]) for n in range(0, len(counts), WRITERS)]

    def run(self, events: int) -> None:
        """Publish so many, and check what has become of them."""
        with ExitStack() as stack:
            streams = [stack.enter_context(Stream(hub, f"/{self.channel}", Last_Event_ID="0")) for hub in self.hubs]
            for writer in self.writers:
                stack.callback(writer.stop)
                writer.start()
            eventually(lambda: self.acknowledged >= events or self.problems(), 120)
            for writer in self.writers:
                writer.stop()
            assert not self.problems()
            rows = rows_at(self.hubs[0], self.channel)
            together(len(streams), lambda n: self._read(streams[n], len(rows)))
        assert all(rows_at(hub, self.channel) == rows for hub in self.hubs)
        data = data_of(rows)
        for stream in streams:
            assert [event.data for event in stream.events] == data
            assert [event.id.decode() for event in stream.events] == ids_of(rows)
        assert len(rows) == self.acknowledged + self.others
        for writer in self.writers:
            assert numbers(rows, writer.name) == writer.acknowledged
        ids = ids_of(rows)
        assert all(DEFAULT_ID.fullmatch(id.encode()) for id in ids)
        assert all(a < b for a, b in zip(ids, ids[1:], strict=False))

    def problems(self) -> list[object]:
        """Return what was refused or broke."""
        return [writer.refused for writer in self.writers if writer.refused or writer.broken]

    def _read(self, stream: Stream, count: int) -> None:
        while len(stream.events) < count:
            assert stream.read_more(), "it has ended"


@contextmanager
def counted(server: Postgres, url: str) -> Iterator[list[float]]:
    """Count how often an append was tried in a database, for each that has appended."""
    database = url.rpartition("/")[2]
    ratio: list[float] = []
    yield ratio
    server.do("SELECT pg_stat_force_next_flush()", database=database)
    calls = """SELECT calls FROM pg_stat_user_functions WHERE funcname = 'append'"""
    appends = """SELECT count(DISTINCT nonce) FROM esource.block"""

    def tries() -> float:
        [(called,)] = server.do(calls, database=database) or [(0,)]
        [(appended,)] = server.do(appends, database=database)
        assert isinstance(called, int)
        assert isinstance(appended, int)
        ratio[:] = [called / max(appended, 1)]
        return ratio[0]

    eventually(lambda: tries() >= 1.0)


def test_nothing_is_refused_lost_doubled_or_out_of_order(tmp_path: Path, server: Postgres) -> None:
    url = server.database("track_functions = 'pl'")
    with counted(server, url) as tries, engine_hubs(tmp_path, url, 3, **QUIET) as hubs:
        Crowd(hubs, "contended").run(EVENTS)
    assert tries[0] <= TRIES
    print("tries", tries)


def test_so_it_is_where_an_id_of_the_far_future_came_first(
    tmp_path: Path, server: Postgres
) -> None:
    """Each default id is right behind the one before."""
    url = server.database("track_functions = 'pl'")
    with counted(server, url) as tries, engine_hubs(tmp_path, url, 3, **QUIET) as hubs:
        hubs[0].publish("/far-future?id=2099-01-01T00:00:00.000000Z", "first")
        Crowd(hubs, "far-future", others=1).run(EVENTS // 2)
    assert tries[0] <= TRIES


@contextmanager
def skewed(home: Path, url: str, seconds: Sequence[int]) -> Iterator[list[Hub]]:
    """Have hubs whose clocks are so many seconds off."""
    library = build("clock", home)
    with ExitStack() as stack:
        hubs = []
        for n, offset in enumerate(seconds):
            hub = engine_hub(home / f"hub{n}", url, **QUIET)
            clock = hub.home / "clock"
            clock.write_bytes(struct.pack("q", offset))
            preload(hub, library, CLOCK_OFFSET=str(clock))
            stack.callback(lambda hub=hub: hub.process and hub.stop())
            hubs.append(hub)
            hub.launch()
        for hub in hubs:
            hub.wait_until_up()
        yield hubs


def test_nobody_starves_and_ids_increase_if_clocks_differ(
    tmp_path: Path, server: Postgres
) -> None:
    url = server.database("track_functions = 'pl'")
    with counted(server, url) as tries, skewed(tmp_path, url, (0, 2, -2)) as hubs:
        crowd = Crowd(hubs, "skewed")
        crowd.run(EVENTS)
        print("of each", crowd.of_each())
        assert min(crowd.of_each()) > EVENTS // 15
    print("tries", tries)
    assert tries[0] <= TRIES
