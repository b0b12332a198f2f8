"""Several hubs on one Valkey server: what holds at one of them holds at all."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esource.log.blocks import STALE_SECONDS
from tests.harness import QUIET, Hub, Publisher, Stream, Wire, eventually
from tests.harness.engine import engine_hub, engine_hubs
from tests.harness.valkey import Server, replicated, valkey
from tests.harness.waiting import together

TIMEOUT = "3"  # seconds that a call of the engine may take


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """A primary and a replica, with a user for the hubs."""
    with replicated(1, "user hub on >s3cret ~* &* +@all") as servers:
        yield servers


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory, servers: list[Server]) -> Iterator[list[Hub]]:
    """Two hubs, which the tests of this module share."""
    url = servers[0].url.replace("//", "//hub:s3cret@") + "?wait=1"
    settings = {**QUIET, "ESOURCE_STORE_TIMEOUT": TIMEOUT}
    with engine_hubs(tmp_path_factory.mktemp("hubs"), url, 2, **settings) as hubs:
        yield hubs


def test_what_one_hub_acknowledges_the_other_shows(hubs: list[Hub]) -> None:
    one, two = hubs
    for number in range(20):
        hub, other = (one, two) if number % 2 else (two, one)
        id = hub.publish("/shown", f"event {number}")
        assert other.get("/shown?tail=1").body == f"{id}\t\tevent {number}\n".encode()
    ours, theirs = one.get("/shown"), two.get("/shown")
    assert (ours.body, ours.headers["ETag"]) == (theirs.body, theirs.headers["ETag"])
    assert two.get("/shown", Range="bytes=10-39").body == ours.body[10:40]


def test_whoever_publishes_behind_an_event_of_the_other_hub_is_told_of_just_this_moment(
    hubs: list[Hub],
) -> None:
    for number in range(20):
        hub, other = hubs[number % 2], hubs[1 - number % 2]
        other.publish("/moments", "an event that the hub has not seen")
        told = hub.post("/moments", f"event {number}")
        here, there = hub.get("/moments"), other.get("/moments")
        assert told.headers["ETag"] == here.headers["ETag"] == there.headers["ETag"]
        assert here.headers["Last-Event-ID"] == told.text.strip()


def test_busy_channels_share_connections_that_are_kept(
    hubs: list[Hub], servers: list[Server]
) -> None:
    def connected() -> int:
        return int(servers[0].do("INFO", "stats")["total_connections_received"])

    def publish(number: int) -> None:
        with Wire(hubs[0]) as wire:
            for _ in range(20):
                assert wire.post(f"/busy-{number}", b"x").status == 201

    before = connected()
    together(30, publish)
    assert connected() - before < 60, "600 commits, of which 16 are at the server at once"


def test_followers_of_another_hub_see_events_as_they_come(hubs: list[Hub]) -> None:
    one, two = hubs
    with Stream(one, "/live") as ours, Stream(two, "/live") as theirs:
        ids = [hub.publish("/live", "an event") for hub in (one, two) * 20]
        for stream in (ours, theirs):
            assert [event.id.decode() for event in stream.read(40)] == ids


def test_writers_at_both_hubs_make_one_order_in_which_nothing_is_lost_or_doubled(
    hubs: list[Hub],
) -> None:
    hubs[0].publish("/crowd?id=first", "first")
    writers = [Publisher(hub, f"{n}-{m}", "crowd") for n, hub in enumerate(hubs) for m in range(4)]
    for writer in writers:
        writer.start()
    eventually(lambda: sum(len(writer.acknowledged) for writer in writers) >= 400)
    for writer in writers:
        writer.stop()
    told = [writer.data(n) for writer in writers for n in writer.acknowledged]
    rows = hubs[0].get("/crowd?after=first").body.splitlines()
    assert hubs[1].get("/crowd?after=first").body.splitlines() == rows
    assert sorted(row.split(b"\t")[2] for row in rows) == sorted(told)
    assert rows == sorted(rows), "default ids increase"
    assert not any(writer.refused or writer.broken for writer in writers)


def test_conditions_hold_across_hubs(hubs: list[Hub]) -> None:
    one, two = hubs
    id = one.publish("/books?id=a", "first")
    tag = one.get("/books").headers["ETag"]
    assert two.post(f"/books?expect={id}", "second").status == 201
    assert one.post(f"/books?expect={id}", "third").status == 412
    assert one.post("/books", "third", If_Match=tag).status == 412
    assert two.post("/books?id=a&unique=1", "first").status == 200
    assert one.post("/books?id=b&unique=1", "own").status == 201
    assert two.post("/books?id=b&unique=1", "other").status == 409
    assert one.get("/books").body == two.get("/books").body


def test_batches_and_long_histories_are_the_same_everywhere(hubs: list[Hub]) -> None:
    one, two = hubs
    lines = b"".join(b"%d\t\t%b\n" % (n, b"x" * (n * 37 % 500)) for n in range(20_000))
    batch = {"Content_Type": "text/tab-separated-values"}
    assert one.post("/batches", lines, **batch).status == 201
    assert two.get("/batches").body == lines
    assert two.get("/batches?after=19990").body == lines[lines.rindex(b"\n19991\t") + 1 :]


def test_the_list_of_channels_is_that_of_all_hubs(hubs: list[Hub]) -> None:
    one, two = hubs
    one.publish("/listed?id=newest", "x")
    assert b"listed" in two.get("/-/channels").body
    assert two.get("/-/health").status == 200


def test_a_server_that_stops_for_a_moment_costs_no_publisher_an_event(
    hubs: list[Hub], servers: list[Server]
) -> None:
    one, two = hubs
    one.publish("/moment", "before")
    with Stream(two, "/moment") as stream:
        servers[0].send(signal.SIGSTOP)
        threading.Timer(1, servers[0].send, [signal.SIGCONT]).start()
        one.publish("/moment", "during")
        one.publish("/moment", "after")
        assert [event.data for event in stream.read(2)] == [b"during", b"after"]
    assert two.get("/moment").body.count(b"\n") == 3


def test_no_password_or_warning_is_in_the_log_of_a_hub(
    hubs: list[Hub], servers: list[Server]
) -> None:
    for hub in hubs:
        assert "Warning" not in hub.log
        assert f"127.0.0.1:{servers[0].port}, wait=1, waitaof=0" in hub.log
        assert "s3cret" not in hub.log


def test_a_follower_never_sees_what_a_replica_lacks(hubs: list[Hub], servers: list[Server]) -> None:
    one, two = hubs
    one.publish("/orders?id=1", "one")
    with Stream(one, "/orders") as ours, Stream(two, "/orders") as theirs:
        servers[1].send(signal.SIGSTOP)
        answer = one.post("/orders?id=2&unique=1", "two")
        assert answer.status == 503
        assert "may have been stored" in answer.text
        assert two.get("/orders").status == 503
        assert (ours.events, theirs.events) == ([], [])
        servers[1].send(signal.SIGCONT)
        eventually(lambda: one.post("/orders?id=2&unique=1", "two").status == 200)
        for stream in (ours, theirs):
            assert [event.data for event in stream.read(1)] == [b"two"]
    assert one.get("/orders").body == two.get("/orders").body == b"1\t\tone\n2\t\ttwo\n"


def test_while_a_replica_is_missing_publishers_in_turn_are_answered_in_time(
    hubs: list[Hub], servers: list[Server]
) -> None:
    """Each queues behind a commit that has waited for nothing."""
    one, seconds = hubs[0], float(TIMEOUT)
    one.publish("/turns?id=first", "first")
    time.sleep(STALE_SECONDS)  # after which a commit looks at the head first, which waits as well
    hubs[1].publish("/turns", "of the other hub")
    servers[1].send(signal.SIGSTOP)
    began = time.monotonic()

    def publish(number: int) -> None:
        while time.monotonic() - began < 3 * seconds:
            time.sleep(number * seconds / 8)
            asked = time.monotonic()
            assert one.post(f"/turns?id=in-{number}&unique=1", "turn").status == 503
            assert time.monotonic() - asked < 1.5 * seconds

    together(6, publish)
    servers[1].send(signal.SIGCONT)

    def publish_again(number: int) -> None:
        path = f"/turns?id=in-{number}&unique=1"
        eventually(lambda: one.post(path, "turn").status in (200, 201))

    together(6, publish_again)
    rows = one.get("/turns").body.splitlines()
    assert len(rows) == len(set(rows)) == 8
    assert "Valkey takes no events: 0 of 1 replicas have it" in one.log


def test_a_hub_does_not_start_on_a_server_that_evicts(tmp_path: Path) -> None:
    with valkey("maxmemory-policy allkeys-lfu") as server:
        hub = engine_hub(tmp_path / "hub", server.url)
        assert hub.launch().wait(20) != 0
        text = "ESOURCE_STORE: the server has maxmemory-policy allkeys-lfu, and may lose events"
        assert text in hub.log


def test_while_the_server_is_away_no_call_waits_for_another_and_nobody_learns_where_it_is(
    tmp_path: Path,
) -> None:
    crowd, seconds = 60, 1.0
    with (
        valkey() as server,
        engine_hubs(tmp_path, server.url, 1, ESOURCE_STORE_TIMEOUT=str(seconds)) as [hub],
    ):  # fmt: skip
        for number in range(crowd):
            hub.publish(f"/away-{number}", "before")
        server.stop(signal.SIGKILL)
        texts: list[str] = []

        def ask(number: int) -> None:
            began = time.monotonic()
            answer = hub.get(f"/away-{number}") if number % 2 else hub.post(f"/away-{number}", "x")
            assert answer.status == 503
            assert time.monotonic() - began < 4 * seconds  # of eight threads, it would be seven
            texts.append(answer.text)

        together(crowd, ask)
        assert len(texts) == crowd
        assert all(text.startswith("Valkey is away") for text in texts)
        assert not any(str(server.port) in text for text in texts)
        server.start()
        eventually(lambda: hub.post("/away-0", "back").status == 201)
        eventually(lambda: hub.get("/away-0").status == 200)
        for said in ("is away", "is back", "takes no events", "takes events again"):
            assert hub.log.count(f"Valkey {said}") >= 1
        assert hub.log.count("Valkey is back") == hub.log.count("Valkey takes events again") == 1
