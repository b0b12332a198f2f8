"""What an engine cannot do: the right status, a line that says why, and nothing is changed."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from esource.errors import StartError
from esource.log.engines import logs_of
from tests.harness import Hub, Stream, eventually, size
from tests.harness.engine import data_of, engine_hub, engine_hubs, rows_at
from tests.harness.engine import stop as stopped
from tests.harness.machine import command, mounted
from tests.harness.network import HUB, PEER, inside, network
from tests.harness.postgres import Postgres, postgres
from tests.harness.valkey import Server, valkey

PATIENCE_SECONDS = 60  # a worker begins, on a busy machine
SHORT = {"ESOURCE_STORE_TIMEOUT": "1", "ESOURCE_HEARTBEAT_SECONDS": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory, server: Postgres) -> Iterator[list[Hub]]:
    """Two hubs on PostgreSQL."""
    with engine_hubs(tmp_path_factory.mktemp("postgresql"), server.url(), 2, **SHORT) as hubs:
        yield hubs


@pytest.fixture(scope="module")
def memory() -> Iterator[Server]:
    with valkey("user hub on >s3cret ~* &* +@all") as memory:
        yield memory


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory, memory: Server) -> Iterator[Hub]:
    """A hub on Valkey."""
    url = memory.url.replace("//", "//hub:s3cret@")
    with engine_hubs(tmp_path_factory.mktemp("valkey"), url, 1, **SHORT) as [hub]:
        yield hub


def said(url: str) -> str:
    """Return why a hub on an engine does not start; empty if it does."""
    try:
        with closing(logs_of(url, 1)) as logs:
            logs.hold(lambda: None)
    except StartError as error:
        return str(error)
    return ""


# -- full --------------------------------------------------------------------------------------


def fill(hub: Hub, channel: str) -> tuple[list[bytes], str]:
    """Publish until it is refused; return the data that was acknowledged, and the refusal."""
    told: list[bytes] = []
    for number in range(200):
        data = b"%d " % number + os.urandom(50_000).hex().encode()
        answer = hub.post(f"/{channel}", data)
        if answer.status != 201:
            assert answer.status == 507, answer
            return told, answer.text
        told.append(data)
    raise AssertionError("it is never full")


def test_a_full_disk_at_postgresql_is_a_507_and_room_is_used_at_once(
    hubs: list[Hub], server: Postgres
) -> None:
    here, there = hubs
    here.publish("/disk", "before")
    tiny, owner = server.folder.with_name("tiny"), server.folder.stat().st_uid
    with (
        mounted(tiny, "-t", "tmpfs", "-o", f"size=4m,uid={owner}", "tmpfs") as folder,
        Stream(there, "/disk") as stream,
    ):
        server.do(
            f"CREATE TABLESPACE tiny LOCATION '{folder}'",
            "ALTER TABLE esource.block SET TABLESPACE tiny",
        )
        try:
            told, refusal = fill(here, "disk")
            assert "No space left on device" in refusal
            assert "may have been stored" not in refusal
            assert str(folder) not in refusal
            assert data_of(rows_at(there, "disk")) == [b"before", *told]
            assert here.post("/disk?id=x&unique=1", os.urandom(99_000).hex()).status == 507
        finally:
            server.do("ALTER TABLE esource.block SET TABLESPACE pg_default", "DROP TABLESPACE tiny")
        here.publish("/disk", "after")
        assert [event.data for event in stream.read(len(told) + 1)] == [*told, b"after"]
    assert data_of(rows_at(here, "disk")) == [b"before", *told, b"after"]
    assert "No space left on device" in here.log
    assert "Traceback" not in here.log


@pytest.mark.skipif(not size(0, 1), reason="takes long: only in full")
def test_a_full_disk_of_the_log_of_postgresql_ends_it_and_what_was_acknowledged_is_kept(
    tmp_path: Path,
) -> None:
    with postgres() as server:
        server.stop()
        wal, own = server.folder / "pg_wal", server.folder.with_name("wal")
        owner = server.folder.stat()
        kind = ("-t", "tmpfs", "-o", f"size=50m,mode=700,uid={owner.st_uid},gid={owner.st_gid}")
        with mounted(own, *kind, "tmpfs"):
            command("cp", "-a", f"{wal}/.", own)
            shutil.rmtree(wal)
            wal.symlink_to(own)
            server.start("wal_keep_size=1GB")
            with closing(logs_of(server.url(), 30)) as logs:
                logs.hold(lambda: None)  # to make the tables may take longer than the hub waits
            with engine_hubs(tmp_path, server.url(), 1, **SHORT) as [hub]:
                told: list[bytes] = []
                while True:
                    data = b"%d " % len(told) + os.urandom(200_000).hex().encode()
                    answer = hub.post("/log-", data)
                    if answer.status != 201:
                        break
                    told.append(data)
                assert answer.status == 503
                assert "may have been stored" in answer.text
                command("mount", "-o", "remount,size=400m", own)

                def goes_on() -> bool:  # it has ended, or starts by itself
                    if server.process is None or server.process.poll() is not None:
                        server.start()
                    return hub.post("/log-?id=last&unique=1", "last").status in (200, 201)

                eventually(goes_on, 60)
                stored = data_of(rows_at(hub, "log-"))
                assert [one for one in stored if one != data] == [*told, b"last"]
            server.stop(signal.SIGKILL)


def test_full_memory_at_valkey_is_a_507_and_room_is_used_at_once(
    in_memory: Hub, memory: Server
) -> None:
    hub = in_memory
    hub.publish("/memory", "before")
    used = memory.do("INFO", "memory")["used_memory"]
    memory.do("CONFIG", "SET", "maxmemory", used + 2_000_000)
    try:
        told, refusal = fill(hub, "memory")
        assert "maxmemory" in refusal
        assert data_of(rows_at(hub, "memory")) == [b"before", *told]
    finally:
        memory.do("CONFIG", "SET", "maxmemory", 0)
    hub.publish("/memory", "after")
    assert data_of(rows_at(hub, "memory")) == [b"before", *told, b"after"]
    assert "maxmemory" in hub.log
    assert "Traceback" not in hub.log


# -- it may not be written to ------------------------------------------------------------------


def test_postgresql_that_may_only_be_read_refuses_publishers_until_it_may_be_written_to(
    hubs: list[Hub], server: Postgres
) -> None:
    assert "read-only" in said(server.database("default_transaction_read_only = on"))
    here, there = hubs
    here.publish("/read", "before")
    with Stream(there, "/read") as stream:
        server.do("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            eventually(lambda: server.do("SHOW default_transaction_read_only") == [("on",)])
            answer = here.post("/read", "refused")
            assert answer.status == 503
            assert answer.text.startswith("PostgreSQL is away"), "it was asked once"
            assert here.get("/-/health").status == 503
        finally:
            server.do(
                "SET default_transaction_read_only = off",
                "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()",
            )  # fmt: skip
        eventually(lambda: here.post("/read?id=after&unique=1", "after").status in (200, 201))
        assert [event.data for event in stream.read(1)] == [b"after"]
    assert data_of(rows_at(there, "read")) == [b"before", b"after"]
    assert "read-only" in here.log
    assert "PostgreSQL is back" in here.log
    assert "Traceback" not in here.log


def test_a_valkey_server_that_is_a_replica_now_refuses_publishers_until_it_is_none(
    in_memory: Hub, memory: Server
) -> None:
    hub = in_memory
    hub.publish("/read", "before")
    with Stream(hub, "/read") as stream:
        memory.do("REPLICAOF", "127.0.0.1", 1)
        try:
            assert hub.post("/read", "refused").status == 503
            assert hub.get("/-/health").status == 503
        finally:
            memory.do("REPLICAOF", "NO", "ONE")
        eventually(lambda: hub.post("/read?id=after&unique=1", "after").status in (200, 201))
        assert [event.data for event in stream.read(1)] == [b"after"]
    assert data_of(rows_at(hub, "read")) == [b"before", b"after"]
    assert "it is a replica" in hub.log
    assert "Traceback" not in hub.log


# -- it is set up otherwise, now ---------------------------------------------------------------


def test_a_valkey_server_that_evicts_now_is_named_by_health(in_memory: Hub, memory: Server) -> None:
    memory.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        answer = in_memory.get("/-/health")
        assert answer.status == 503
        assert "maxmemory-policy allkeys-lru, and may lose events" in answer.text
    finally:
        memory.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert in_memory.get("/-/health").status == 200


def test_a_password_that_is_another_now_refuses_and_is_shown_nowhere(
    in_memory: Hub, memory: Server
) -> None:
    hub = in_memory
    hub.publish("/password", "before")
    memory.do("ACL", "SETUSER", "hub", "resetpass", ">an0ther")
    try:
        memory.do("CLIENT", "KILL", "USER", "hub")
        texts = [hub.post("/password", "refused").text, hub.get("/-/health").text]
        assert hub.post("/password", "refused").status == 503
    finally:
        memory.do("ACL", "SETUSER", "hub", "resetpass", ">s3cret")
    assert all("invalid username-password pair" in text for text in texts)
    eventually(lambda: hub.post("/password?id=after&unique=1", "after").status in (200, 201))
    assert data_of(rows_at(hub, "password")) == [b"before", b"after"]
    assert "invalid username-password pair" in hub.log
    assert not any("s3cret" in text or "an0ther" in text for text in (*texts, hub.log))


# -- it is away --------------------------------------------------------------------------------


def test_a_reload_and_a_crash_while_the_engine_is_away_end_no_hub_and_disturb_no_other(
    tmp_path: Path,
) -> None:
    with postgres() as server, engine_hubs(tmp_path, server.url(), 2, **SHORT) as (here, there):
        here.publish("/away", "before")
        with Stream(there, "/away") as stream:
            server.stop(signal.SIGKILL)
            assert here.process is not None
            for fault in (signal.SIGHUP, signal.SIGKILL)[: size(1, 2)]:
                worker = here.worker
                os.kill(here.process.pid if fault == signal.SIGHUP else worker, fault)
                eventually(partial(_serves_anew, here, worker), PATIENCE_SECONDS)
                assert here.post("/away", "refused").status == 503
                answer = here.get("/away", Accept="text/event-stream")
                assert (answer.status, b"retry:" in answer.body) == (200, True)
            server.start()
            for hub, id in ((here, "after"), (there, "last")):  # each finds its way back by itself
                again = partial(hub.post, f"/away?id={id}&unique=1", id)
                eventually(lambda again=again: again().status in (200, 201))  # type: ignore[misc]
            assert [event.data for event in stream.read(2)] == [b"after", b"last"]
        assert data_of(rows_at(here, "away")) == [b"before", b"after", b"last"]
        eventually(lambda: here.get("/-/health").status == 200, PATIENCE_SECONDS)
        assert "[ERROR] ESOURCE_STORE: connection failed: " in here.log
        assert "Traceback" not in here.log


def _serves_anew(hub: Hub, worker: int) -> bool:
    """Return whether another worker than that one serves."""
    try:
        return hub.worker != worker and hub.get("/-/ready").status == 200
    except (OSError, IndexError):
        return False


@pytest.mark.skipif(not size(0, 1), reason="takes long: only in full")
def test_a_network_that_is_cut_between_a_hub_and_the_engine_delays_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    with network() as net, postgres() as server, ExitStack() as stack:
        server.stop()
        with (server.folder / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {HUB}/32 trust\n")
        is_up, over = threading.Event(), threading.Event()

        def serve() -> None:  # for as long as its thread lives
            server.start("listen_addresses=*")
            is_up.set()
            over.wait()

        thread = threading.Thread(target=inside, args=[net.peer, serve])
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        assert is_up.wait(30)
        url = server.url().replace("127.0.0.1", PEER)
        away = engine_hub(tmp_path / "away", url, ESOURCE_STORE_TIMEOUT="3")
        near = engine_hub(tmp_path / "near", server.url(), ESOURCE_STORE_TIMEOUT="3")
        for hub in (away, near):
            stack.callback(stopped, hub)
        inside(net.hub, away.start)
        inside(net.peer, near.start)
        inside(net.hub, lambda: away.publish("/network", "before"))
        stream = inside(net.hub, lambda: Stream(away, "/network"))
        with stream:
            net.lose()
            inside(net.peer, lambda: near.publish("/network", "meanwhile"))
            answer = inside(net.hub, lambda: away.post("/network", "refused"))
            assert answer.status == 503
            assert "may have been stored" in answer.text
            assert inside(net.hub, lambda: away.get("/-/ready")).status == 200
            assert inside(net.hub, lambda: away.get("/-/health")).status == 503
            for address in (HUB, PEER):
                command("ip", "-n", net.router, "route", "del", "blackhole", f"{address}/32")

            def again() -> bool:
                return away.post("/network?id=after&unique=1", "after").status in (200, 201)

            inside(net.hub, lambda: eventually(again, 60))
            last = stream.read_until(b"data: after\n")
        assert last.count(b"data: meanwhile\n") == 1
        data = data_of(inside(net.peer, lambda: rows_at(near, "network")))
        assert data == data_of(inside(net.hub, lambda: rows_at(away, "network")))
        assert [one for one in data if one != b"refused"] == [b"before", b"meanwhile", b"after"]
        assert data.count(b"refused") <= 1
        assert "PostgreSQL is away" in away.log
        assert "Traceback" not in away.log
