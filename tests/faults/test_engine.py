"""The engine of several hubs fails: what was acknowledged is there once, or nothing was."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg

from esource.event import DEFAULT_ID
from esource.log.postgresql import PostgreSQL
from tests.harness import Follower, Hub, Publisher, Stream, eventually, numbers, size
from tests.harness.engine import data_of, engine_hubs, rows_at
from tests.harness.postgres import pair, postgres
from tests.harness.rows import ids_of
from tests.harness.waiting import together

WRITERS = 4
SECONDS = size(1, 2)  # of load before a fault
PADDING = b"x" * 4000
OTHERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'esource'"
BEATS = {"ESOURCE_HEARTBEAT_SECONDS": "1"}


class Load:
    """Writers at some hubs, and a follower at each."""

    def __init__(self, hubs: Sequence[Hub], channel: str) -> None:
        self.hubs, self.channel = hubs, channel
        self.followers = [Follower(hub, channel).start() for hub in hubs]
        self.writers = [
            Publisher(hub, f"p{n}-{m}", channel, padding=lambda _: PADDING).start()
            for n, hub in enumerate(hubs) for m in range(WRITERS)
        ]  # fmt: skip

    @property
    def acknowledged(self) -> int:
        """How many events are, until now."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    def data(self) -> set[bytes]:
        """Return the data of what is acknowledged until now."""
        return {w.data(n) for w in self.writers for n in list(w.acknowledged)}

    def goes_on(self, seconds: float = 30) -> None:
        """Return when each hub has acknowledged more: the channel is alive."""
        before = [len(writer.acknowledged) for writer in self.writers]
        eventually(
            lambda: all(
                len(w.acknowledged) > count + 5
                for w, count in zip(self.writers, before, strict=True)
            ),
            seconds,
        )

    def stop(self) -> None:
        """End all of it."""
        for writer in self.writers:
            writer.stop()
        for follower in self.followers:
            follower.stop()

    def check(self, refused: bool = False, lost: bool = False) -> int:
        """Check what has become of it; return how many acknowledged events are lost.

        With `refused`, some publishers may have been; with `lost`, followers have seen lost ones.
        """
        for writer in self.writers:
            writer.stop()
            assert not writer.broken
            assert all(status == 503 for _, status in writer.refused)
            assert refused or not writer.refused
        rows = rows_at(self.hubs[0], self.channel)
        data, ids = data_of(rows), ids_of(rows)
        assert len(set(data)) == len(data), "doubled"
        made = [id for id in ids if DEFAULT_ID.fullmatch(id.encode())]
        assert sorted(set(made)) == made
        for writer in self.writers:
            in_order = numbers(rows, writer.name)
            assert sorted(in_order) == in_order
        gone = self.data() - set(data)
        assert lost or not gone
        for hub, follower in zip(self.hubs, self.followers, strict=True):
            assert rows_at(hub, self.channel) == rows
            follower.reach(ids[-1])
            assert len(set(follower.data)) == len(follower.data)
            if lost:
                assert set(follower.data) - set(data) <= gone | self.unknown()
                assert [one for one in follower.data if one in set(data)] == data
            else:
                assert follower.data == data
            assert follower.connections == 1, "its stream has ended"
        return len(gone)

    def unknown(self) -> set[bytes]:
        """Return the data of what was refused, and may have been stored."""
        return {w.data(n) for w in self.writers for n, _ in w.refused}


@contextmanager
def loaded(hubs: Sequence[Hub], channel: str) -> Iterator[Load]:
    """Load on a channel that is there already when the body begins, and ends with it."""
    load = Load(hubs, channel)
    try:
        load.goes_on()
        time.sleep(SECONDS)
        yield load
    finally:
        load.stop()


# -- the primary dies --------------------------------------------------------------------------


def test_a_server_that_is_killed_and_started_again_has_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    with (
        postgres() as server, engine_hubs(tmp_path, server.url(), 2, **BEATS) as hubs,
        loaded(hubs, "killed") as load,
    ):  # fmt: skip
        for _ in range(2):
            server.stop(signal.SIGKILL)
            time.sleep(0.5)
            server.start()
            load.goes_on()
        assert load.check() == 0


def test_a_synchronous_standby_that_takes_over_has_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    with pair() as (primary, standby, url):
        primary.wait_for("standby")
        with engine_hubs(tmp_path, url, 2, **BEATS) as hubs, loaded(hubs, "synchronous") as load:
            standby.freeze()
            time.sleep(1)
            primary.stop(signal.SIGKILL)
            standby.freeze(False)
            standby.promote()
            load.goes_on()
            assert load.check() == 0


def test_what_a_standby_lacks_is_gone_at_all_hubs_and_nothing_of_it_is_mixed_with_what_comes(
    tmp_path: Path,
) -> None:
    with (
        pair() as (primary, standby, url), engine_hubs(tmp_path, url, 2, **BEATS) as hubs,
        loaded(hubs, "asynchronous") as load,
    ):  # fmt: skip
        hubs[0].publish("/also", "kept")
        eventually(lambda: standby.do("SELECT count(*) FROM esource.channel") == [(2,)])
        standby.leave()
        load.goes_on()
        for hub in hubs:
            hub.publish("/also", "first there")
        lost = [hub.get("/also") for hub in hubs]
        primary.stop(signal.SIGKILL)
        standby.promote()
        load.goes_on()
        gone = load.check(lost=True)
        assert gone > 0
        for hub in hubs:
            assert "acknowledged bytes" in hub.log
        for hub in hubs:  # as long as what was lost, at the same offsets
            hub.publish("/also", "then others")
        there = [hub.get("/also") for hub in hubs]
        assert there[0].body == there[1].body
        assert [data_of(one.body.splitlines()) for one in (lost[0], there[0])] == [
            [b"kept", b"first there", b"first there"],
            [b"kept", b"then others", b"then others"],
        ]
        assert there[0].headers["ETag"] != lost[0].headers["ETag"]
        stored = standby.do(
            """SELECT string_agg(rows, ''::bytea ORDER BY b."end") FROM esource.block b """
            "JOIN esource.channel c USING (generation) WHERE name = 'asynchronous'"
        )
        assert stored == [(hubs[1].get("/asynchronous").body,)]
        for hub in hubs:
            old = hub.get("/also", Range="bytes=60-", If_Range=lost[0].headers["ETag"])
            assert (old.status, old.body) == (200, there[0].body)


# -- connections break -------------------------------------------------------------------------


def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(tmp_path: Path) -> None:
    cut = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'esource' AND (state <> 'idle' OR random() < 0.1)
    """
    with (
        postgres() as server, engine_hubs(tmp_path, server.url(), 3, **BEATS) as hubs,
        loaded(hubs, "cut-off") as load, psycopg.connect(server.url(), autocommit=True) as own,
    ):  # fmt: skip
        for _ in range(size(60, 120)):
            own.execute(cut)
            time.sleep(0.03)
        load.goes_on()
        assert load.check() == 0
        assert not any("Traceback" in hub.log for hub in hubs)


def test_a_wait_for_a_standby_that_is_cancelled_is_no_acknowledgement(tmp_path: Path) -> None:
    waits = """SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"""
    with pair() as (primary, standby, url):
        primary.wait_for("standby")
        with engine_hubs(tmp_path, url, 2, ESOURCE_STORE_TIMEOUT="30") as hubs:
            hubs[0].publish("/cancelled", "before")
            statuses = []
            standby.freeze()
            post = threading.Thread(
                target=lambda: statuses.append(hubs[0].post("/cancelled", "waits").status)
            )
            post.start()
            for _ in range(5):
                eventually(lambda: primary.do(waits))
                for (pid,) in primary.do(waits):
                    primary.do(f"SELECT pg_cancel_backend({pid})")
                time.sleep(0.3)
                assert not statuses, "it is acknowledged, and no standby has it"
            standby.freeze(False)
            post.join(20)
            assert statuses == [201]
            assert data_of(rows_at(hubs[1], "cancelled")) == [b"before", b"waits"]


# -- the engine hangs --------------------------------------------------------------------------


def test_a_server_that_stands_still_for_a_while_delays_publishers_and_no_more(
    tmp_path: Path,
) -> None:
    with (
        postgres() as server, engine_hubs(tmp_path, server.url(), 2, **BEATS) as (here, there),
    ):  # fmt: skip
        here.publish("/still", "before")
        with Stream(there, "/still") as stream, Stream(here, "/still") as own:
            server.freeze()
            statuses, began = [], time.monotonic()
            post = threading.Thread(
                target=lambda: statuses.append(here.post("/still", "meanwhile").status)
            )
            post.start()
            beats = stream.body.count(b"\n:\n"), own.body.count(b"\n:\n")
            while stream.body.count(b":\n") < beats[0] + 4:
                assert stream.read_more()
            while own.body.count(b":\n") < beats[1] + 4:
                assert own.read_more()
            time.sleep(max(0.0, began + 4 - time.monotonic()))
            assert not statuses
            server.freeze(False)
            post.join(10)
            assert statuses == [201]
            assert [event.data for event in stream.read(1)] == [b"meanwhile"]
            assert [event.data for event in own.read(1)] == [b"meanwhile"]
        assert data_of(rows_at(there, "still")) == [b"before", b"meanwhile"]


def test_a_server_that_stands_still_for_long_refuses_in_time_and_nothing_else_waits(
    tmp_path: Path,
) -> None:
    crowd = 60
    with (
        postgres() as server,
        engine_hubs(tmp_path, server.url(), 2, ESOURCE_STORE_TIMEOUT="3", **BEATS) as hubs,
    ):  # fmt: skip
        here, there = hubs
        for n in range(crowd):
            here.publish(f"/gone-{n}?id=before", "before")
            assert here.post(f"/gone-{n}?unique=1&id=before", "before").status == 200
        with Stream(here, "/gone-0") as stream:
            server.freeze()
            took: list[tuple[str, int, float, str]] = []

            def ask(number: int) -> None:
                began = time.monotonic()
                kind = ("post", "get", "unique")[number % 3]
                if kind == "get":
                    answer = here.get(f"/gone-{number}")
                elif kind == "post":
                    answer = here.post(f"/gone-{number}", "x")
                else:
                    answer = here.post(f"/gone-{number}?unique=1&id=before", "before")
                seconds = time.monotonic() - began
                took.append((kind, answer.status, seconds, answer.text))

            ready: list[float] = []
            over = threading.Event()

            def look() -> None:
                while not over.wait(0.05):
                    began = time.monotonic()
                    assert here.get("/-/ready").status == 200
                    ready.append(time.monotonic() - began)

            looks = threading.Thread(target=look)
            looks.start()
            together(crowd, ask)
            assert {status for _, status, _, _ in took} == {503}
            assert max(seconds for _, _, seconds, _ in took) < 8, sorted(t[2] for t in took)
            posts = [text for kind, _, _, text in took if kind == "post"]
            assert any("may have been stored: repeat it with unique=1" in text for text in posts)
            assert not any(str(server.port) in text for _, _, _, text in took)
            began = time.monotonic()
            assert here.get("/-/health").status == 503
            assert time.monotonic() - began < 8
            answer = here.get("/gone-0", Accept="text/event-stream")
            assert answer.status == 200
            assert b"retry:" in answer.body
            over.set()
            looks.join()
            assert max(ready) < 1, sorted(ready)[-5:]
            server.freeze(False)
            eventually(lambda: here.get("/-/health").status == 200)
            here.publish("/gone-0", "after")
            stream.read_until(b"data: after\n")
        for n in range(crowd):
            data = data_of(rows_at(there, f"gone-{n}"))
            assert data[0] == b"before"
            assert data[1:] in ([], [b"x"], [b"after"], [b"x", b"after"])
            assert n % 3 == 0 or data == [b"before"]
        assert "Traceback" not in here.log


def test_what_was_asked_before_another_connection_failed_is_asked_again() -> None:
    """As of a primary that stood still, from which a standby has taken over."""
    with postgres() as database, psycopg.connect(database.url(), autocommit=True) as admin:
        engine = PostgreSQL(database.url(), 20)
        admin.execute("CREATE SEQUENCE tries")
        with ThreadPoolExecutor(1) as pool, closing(engine):
            asked = pool.submit(engine._call, "SELECT nextval('tries'), pg_sleep(1)", ())
            eventually(lambda: admin.execute(f"{OTHERS} AND state = 'active'").fetchall())
            engine._call("SELECT 1", ())  # on a connection of its own, which is kept
            admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS} AND state = 'idle') o")
            engine._call("SELECT 1", ())
            assert asked.result()[0][0] == 2


def test_a_primary_that_stands_still_is_left_for_the_standby_that_took_over(
    tmp_path: Path,
) -> None:
    with pair() as (primary, standby, url):
        primary.wait_for("standby")
        with (
            engine_hubs(tmp_path, url, 2, ESOURCE_STORE_TIMEOUT="5", **BEATS) as hubs,
            loaded(hubs, "deposed") as load,
        ):  # fmt: skip
            primary.freeze()
            standby.promote()
            load.goes_on(40)
            primary.freeze(False)
            load.goes_on()
            time.sleep(2)
            load.goes_on()
            assert load.check(refused=True) == 0


# -- a hub fails -------------------------------------------------------------------------------


def test_a_hub_that_is_killed_or_reloaded_disturbs_no_other(tmp_path: Path) -> None:
    with (
        postgres() as server, engine_hubs(tmp_path, server.url(), 3, **BEATS) as hubs,
        loaded(hubs[:2], "undisturbed") as load,
    ):  # fmt: skip
        third = hubs[2]
        own = Publisher(third, "own", "undisturbed").start()
        eventually(lambda: len(own.acknowledged) > 20)
        third.kill()
        own.join()
        load.goes_on()
        third.start()
        again = Publisher(third, "again", "undisturbed", retry=True, keep_alive=False).start()
        eventually(lambda: len(again.acknowledged) > 20)
        assert third.process
        third.process.send_signal(signal.SIGHUP)
        worker = third.worker
        with suppress(IndexError, ProcessLookupError):
            eventually(lambda: third.worker != worker)
        count = len(again.acknowledged)
        eventually(lambda: len(again.acknowledged) > count + 20)
        again.stop()
        load.goes_on()
        assert not again.refused
        assert load.check() == 0
        rows = rows_at(hubs[0], "undisturbed")
        assert set(own.acknowledged) <= set(numbers(rows, "own"))
        assert numbers(rows, "again") == again.acknowledged
