"""Several hubs on one engine: what is true at one of them is true at all."""

import json
import random
import re
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from esource.log.postgresql import PostgreSQL
from tests.harness import (
    AWKWARD,
    Hub,
    Publishers,
    Stream,
    Upload,
    Wire,
    eventually,
    needs,
    size,
)  # fmt: skip
from tests.harness.engine import data_of, engine_hubs, rows_at
from tests.harness.postgres import Postgres
from tests.harness.rows import ids_of
from tests.harness.waiting import together

ROUNDS = 200
FEW = 40


def of_each(hubs: list[Hub], path: str, **headers: str) -> bytes:
    """Return the body that all hubs answer with."""
    bodies = {hub.get(path, **headers).body for hub in hubs}
    assert len(bodies) == 1, bodies
    return bodies.pop()


# -- 201 here, then GET there ------------------------------------------------------------------


def test_an_event_that_one_hub_has_acknowledged_is_in_the_next_read_of_each_other(
    hubs: list[Hub],
) -> None:
    for n in range(ROUNDS):
        hubs[n % 3].publish("/alternating", f"{n}")
        assert hubs[(n + 1) % 3].get("/alternating?tail=1&format=raw").body == b"%d\n" % n
        assert hubs[(n + 2) % 3].get("/alternating").body.endswith(b"\t\t%d\n" % n)
    assert data_of(rows_at(hubs[0], "alternating")) == [b"%d" % n for n in range(ROUNDS)]


def test_so_it_is_while_the_other_hub_appends_to_the_same_channel(hubs: list[Hub]) -> None:
    here, there, _ = hubs
    with Publishers(there, "busy-reads", 4) as publishers, Wire(here) as wire:
        publishers.reach(10)
        missed = 0
        for n in range(2 * FEW):
            id = wire.post("/busy-reads?event=mine", b"%d" % n).body
            missed += id.strip() not in there.get("/busy-reads?event=mine").body
        assert missed == 0
    assert publishers.is_unharmed


def test_the_first_read_at_a_hub_asks_an_engine_once_what_is_there(
    tmp_path: Path, server: Postgres
) -> None:
    url = server.database("log_statement = 'all'")
    with engine_hubs(tmp_path, url) as (here, there):
        first = here.publish("/cold-orders", "one")
        here.publish("/cold-orders", "two")
        before = server.log.stat().st_size
        answer = there.get(f"/cold-orders?after={first}&format=raw")
        asked = server.log.read_text()[before:]
    assert answer.body == b"two\n", (answer, dict(answer.headers), asked)
    assert asked.count("'cold-orders'") == 1, asked
    assert 'SELECT "end" - length(rows), rows' not in asked  # few rows come with the head


@pytest.mark.parametrize("is_for_long", [False, True], ids=["for a moment", "for long"])
def test_of_the_commits_of_many_channels_few_are_at_an_engine_at_once(
    tmp_path: Path, server: Postgres, is_for_long: bool
) -> None:
    crowd, url = 40, server.database()
    name = url.rsplit("/", 1)[-1]
    waiting = f"""SELECT count(*) FROM pg_stat_activity
        WHERE datname = '{name}' AND wait_event_type = 'Lock'"""
    statuses = dict[int, int]()
    seconds = "2" if is_for_long else "20"
    with engine_hubs(tmp_path, url, 1, ESOURCE_STORE_TIMEOUT=seconds) as [hub], ExitStack() as lock:
        for n in range(crowd):
            hub.publish(f"/many-{n}", "first")
        connection = lock.enter_context(psycopg.connect(url))
        connection.execute("LOCK TABLE esource.channel IN EXCLUSIVE MODE")

        def publish(number: int) -> None:
            statuses[number] = hub.post(f"/many-{number}", "second").status

        publishers = threading.Thread(target=together, args=(crowd, publish))
        publishers.start()
        eventually(lambda: server.do(waiting) >= [(16,)])
        more = time.monotonic() + 1
        while time.monotonic() < more:
            assert server.do(waiting) <= [(16,)]
        if is_for_long:
            publishers.join()
            assert set(statuses.values()) == {503}
        lock.close()
        publishers.join()
        if is_for_long:
            eventually(lambda: hub.post("/many-0", "back").status == 201)
        assert is_for_long or set(statuses.values()) == {201}
        for n in range(1, crowd):
            assert hub.publish(f"/many-{n}", "third")
            assert data_of(rows_at(hub, f"many-{n}"))[-1] == b"third"
        assert "Traceback" not in hub.log


# -- the same bytes ----------------------------------------------------------------------------


def test_bytes_stand_at_the_same_offsets_at_each_hub(hubs: list[Hub], tmp_path: Path) -> None:
    for n, text in enumerate(AWKWARD):
        assert hubs[n % 3].post("/bytes?event=some", text).status == 201
    whole = of_each(hubs, "/bytes")
    answers = [hub.get("/bytes") for hub in hubs]
    for name in ("ETag", "Last-Modified", "Last-Event-ID", "Content-Length"):
        assert len({answer.headers[name] for answer in answers}) == 1, name
    etag = answers[0].headers["ETag"]
    copy, chance = bytearray(), random.Random(1)
    while len(copy) < len(whole):
        hub = chance.choice(hubs)
        stop = len(copy) + chance.randrange(1, 300_000)
        answer = hub.get("/bytes", Range=f"bytes={len(copy)}-{stop}", If_Range=etag)
        assert answer.status == 206
        copy += answer.body
    assert bytes(copy) == whole
    for hub in hubs:
        assert hub.get("/bytes", If_None_Match=etag).status == 304
        assert hub.get("/bytes", Range="bytes=0-9", If_Range='"other"').status == 200
    needs("curl")
    for n, cut in enumerate((0, 1, 1000, len(whole) // 2, len(whole) - 1)):
        path = tmp_path / f"copy-{n}"
        path.write_bytes(whole[:cut])
        done = hubs[n % 3].curl("-C", "-", "-o", str(path), f"{hubs[n % 3].url}/bytes")
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == whole
    hubs[1].publish("/bytes", "more")
    assert all(hub.get("/bytes", If_None_Match=etag).status == 200 for hub in hubs)
    assert of_each(hubs, "/bytes").startswith(whole)


# -- append safely -----------------------------------------------------------------------------


def test_a_hub_that_knew_an_empty_channel_goes_on_with_what_others_have_put_there(
    hubs: list[Hub],
) -> None:
    here, there, third = hubs
    for hub in hubs:
        assert hub.get("/was-empty").body == b""
    first = here.publish("/was-empty", "one")
    answer = there.post("/was-empty", "two")  # it has not looked since
    assert answer.status == 201
    assert answer.headers["ETag"] == here.get("/was-empty").headers["ETag"]
    assert third.post(f"/was-empty?expect={answer.id.decode()}", "three").status == 201
    assert data_of(rows_at(here, "was-empty")) == [b"one", b"two", b"three"]
    for hub in hubs:
        assert hub.get("/was-empty-2").body == b""
    made = here.post("/was-empty-2", "one")
    assert there.post("/was-empty-2", "two", If_Match=made.headers["ETag"]).status == 201
    assert third.post("/was-empty-2", "no", If_None_Match="*").status == 412
    assert first < answer.id.decode()


@pytest.mark.parametrize("way", ["If-Match", "expect"])
def test_a_good_state_of_another_hub_is_never_refused_and_an_old_one_always_is(
    hubs: list[Hub], way: str
) -> None:
    channel, chance = f"states-{way}", random.Random(2)

    def post(hub: Hub, state: tuple[str, str]) -> tuple[int, tuple[str, str]]:
        if way == "expect":
            answer = hub.post(f"/{channel}?expect={state[1]}", "x")
        else:
            answer = hub.post(f"/{channel}", "x", If_Match=state[0])
        return answer.status, (answer.headers["ETag"], answer.headers.get("Last-Event-ID", ""))

    made = hubs[0].post(f"/{channel}", "first")
    state = made.headers["ETag"], made.id.decode()
    for n in range(FEW):
        hub = chance.choice(hubs)
        old = state
        status, state = post(hub, state)
        assert status == 201, n
        assert post(chance.choice(hubs), old)[0] == 412
        read = chance.choice(hubs).get(f"/{channel}")
        assert (read.headers["ETag"], read.headers["Last-Event-ID"]) == state
    assert len(rows_at(hubs[0], channel)) == 1 + FEW


def test_an_account_does_not_go_below_zero_whichever_hubs_it_is_drawn_at(hubs: list[Hub]) -> None:
    hubs[0].publish("/account?event=balance", "30")
    drawn = []

    def draw(number: int) -> None:
        chance = random.Random(number)
        while True:
            read = chance.choice(hubs).get("/account?tail=1&format=raw")
            balance = int(read.body)
            if not balance:
                return
            answer = chance.choice(hubs).post(
                f"/account?expect={read.headers['Last-Event-ID']}", str(balance - 1)
            )
            assert answer.status in (201, 412)
            if answer.status == 201:
                drawn.append(balance - 1)

    together(6, draw)
    assert sorted(drawn) == list(range(30))
    assert data_of(rows_at(hubs[1], "account")) == [b"%d" % n for n in range(30, -1, -1)]


def test_what_is_there_already_is_known_at_each_hub(hubs: list[Hub]) -> None:
    for n in range(60):
        here, there, third = hubs[n % 3], hubs[(n + 1) % 3], hubs[(n + 2) % 3]
        path = f"/unique-ids?unique=1&id=order-{n}"
        assert here.post(path, f"{n}").status == 201
        assert there.post(path, f"{n}").status == 200
        assert third.post(path, "other").status == 409
        assert there.post(path, "other").status == 409
        assert here.post(path, f"{n}").status == 200
    assert ids_of(rows_at(hubs[2], "unique-ids")) == [f"order-{n}" for n in range(60)]
    assert there.post("/unique-ids?unique=1&id=order-0", "0").status == 200


def test_of_one_id_that_is_sent_to_all_hubs_at_once_one_event_is_stored(hubs: list[Hub]) -> None:
    statuses: list[list[int]] = [[] for _ in range(40)]

    def send(number: int) -> None:
        with Wire(hubs[number % 3]) as wire:
            for n in range(40):
                statuses[n].append(wire.post(f"/races?unique=1&id=race-{n}", b"same").status)

    together(6, send)
    assert all(sorted(each) == [200] * 5 + [201] for each in statuses), statuses
    assert sorted(ids_of(rows_at(hubs[0], "races"))) == sorted(f"race-{n}" for n in range(40))


# -- resume ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered(hubs: list[Hub]) -> list[str]:
    """The ids of a channel `numbered`: default ones, the data their numbers."""
    return [hubs[n % 3].publish(f"/numbered?event=t{n % 5}", str(n)) for n in range(40)]


def test_each_hub_resumes_by_id_place_and_time_as_any_other(
    hubs: list[Hub], numbered: list[str]
) -> None:
    whole = of_each(hubs, "/numbered")
    for n in (0, 7, 38):
        raw = b"".join(b"%d\n" % m for m in range(n + 1, 40))
        time = datetime.fromisoformat(numbered[n].replace("Z", "+00:00"))
        between = (time + timedelta(microseconds=1)).astimezone(timezone.utc)
        for hub in hubs:
            answer = hub.get("/numbered?format=raw", Last_Event_ID=numbered[n])
            assert (answer.body, answer.headers["Esource-Resume"]) == (raw, "exact")
            between_text = between.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            answer = hub.get("/numbered?format=raw", Last_Event_ID=between_text)
            assert (answer.body, answer.headers["Esource-Resume"]) == (raw, "time")
            assert hub.get(f"/numbered?format=raw&since={numbered[n]}").body == raw
        with Stream(hubs[0], "/numbered?prime=1", Last_Event_ID=numbered[n]) as stream:
            place = re.findall(rb"^id: (@.+)$", stream.read_until(b"\n\n"), re.MULTILINE)[0]
        for hub in hubs:
            answer = hub.get("/numbered?format=raw", Last_Event_ID=place.decode())
            assert (answer.body, answer.headers["Esource-Resume"]) == (raw, "exact")
    assert of_each(hubs, "/numbered?tail=3&format=raw") == b"37\n38\n39\n"
    assert of_each(hubs, "/numbered?from=t3&format=raw") == b"38\n39\n"
    assert of_each(hubs, f"/numbered?before={numbered[2]}&format=raw") == b"0\n1\n"
    assert of_each(hubs, "/numbered?event=t0&limit=2&format=raw") == b"0\n5\n"
    assert of_each(hubs, "/numbered?until=t1&format=raw") == b"0\n1\n"
    assert of_each(hubs, "/numbered?format=tsv") == whole


def test_a_long_poll_is_answered_by_what_another_hub_has_stored(hubs: list[Hub]) -> None:
    answers = []
    hubs[0].publish("/polled", "old")
    poll = threading.Thread(
        target=lambda: answers.append(hubs[1].get("/polled?wait=15&format=raw"))
    )
    poll.start()
    eventually(lambda: hubs[1].get("/-/metrics").text.count("esource_subscribers 1"))
    began = time.monotonic()
    hubs[0].publish("/polled", "new")
    poll.join(20)
    assert answers[0].body == b"new\n"
    assert time.monotonic() - began < 5


def test_several_channels_in_one_stream_come_from_all_hubs_and_the_cursor_is_good_at_each(
    hubs: list[Hub],
) -> None:
    names = [f"several-{n}" for n in range(3)]
    for name in names:
        hubs[0].publish(f"/{name}", "0")
    query = "&".join(f"channel={name}" for name in names)
    seen: list[tuple[str, str]] = []
    path = f"/-/read?{query}&format=ndjson&after=&follow=1"
    with Stream(hubs[1], path, Accept="*/*") as stream:
        stream.read_until(b'"several-2"')
        for n in range(1, 21):
            for name, hub in zip(names, hubs, strict=True):
                hub.publish(f"/{name}", str(n))
        while stream.body.count(b"\n") < 63:
            assert stream.read_more()
        events = [json.loads(line) for line in stream.body.splitlines()]
    seen = [(event["channel"], event["data"]) for event in events]
    for name in names:
        assert [data for channel, data in seen if channel == name] == [str(n) for n in range(21)]
    cursor = events[20]["id"]
    for hub in hubs:
        rest = hub.get(f"/-/read?{query}&format=ndjson&after={cursor}").body.splitlines()
        assert sorted((e["channel"], e["data"]) for e in map(json.loads, rest)) == sorted(seen[21:])


# -- live --------------------------------------------------------------------------------------


def test_followers_at_all_hubs_have_each_event_once_in_order_and_soon(hubs: list[Hub]) -> None:
    hubs[0].publish("/live-one", "before")
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(hub, "/live-one")) for hub in hubs for _ in range(2)]
        slowest = 0.0
        for n in range(60):
            began = time.monotonic()
            hubs[n % 3].publish("/live-one", f"{n}")
            for stream in streams:
                while len(stream.events) <= n:
                    assert stream.read_more()
            slowest = max(slowest, time.monotonic() - began)
        for stream in streams:
            assert [event.data for event in stream.events] == [b"%d" % n for n in range(60)]
            ids = [event.id for event in stream.events]
            assert all(a < b for a, b in pairwise(ids))
    assert slowest < 1.5, "a notice was lost, and the sweep found it"


def test_what_no_notice_tells_of_is_found_by_the_sweep(hubs: list[Hub]) -> None:
    hubs[0].publish("/untold", "before")
    logs = PostgreSQL(hubs[0].environ["ESOURCE_STORE"], 10)
    try:
        with Stream(hubs[1], "/untold") as stream:
            for n in range(2):  # as of a hub that dies right after its commit
                logs.open("untold").append(None, [b"%d\t\tno notice\n" % n])
                assert [event.id for event in stream.read(n + 1)][n:] == [b"%d" % n]
    finally:
        logs.close()


def test_rows_that_a_publisher_was_told_are_there_already_are_shown(hubs: list[Hub]) -> None:
    """His hub has learned of them by the attempt: the sweep must not take them for shown."""
    hubs[0].publish("/learned", "before")
    logs = PostgreSQL(hubs[0].environ["ESOURCE_STORE"], 10)
    try:
        with Stream(hubs[1], "/learned") as stream:
            logs.open("learned").append(None, [b"1\t\tno notice\n"])
            assert hubs[1].post("/learned?id=1&unique=1", "no notice").status == 200
            assert [event.id for event in stream.read(1)] == [b"1"]
    finally:
        logs.close()


def test_a_body_of_chunks_is_seen_at_another_hub_while_it_is_sent(hubs: list[Hub]) -> None:
    hubs[0].publish("/chunked", "before")
    with Stream(hubs[1], "/chunked") as stream, Upload(hubs[0], "/chunked?each=line") as upload:
        for n in range(5):
            upload.send(b"a%d\nb%d\n" % (n, n))
            stream.read(2 * n + 2)
        assert upload.end().status == 201
        assert [event.data for event in stream.events] == [
            data for n in range(5) for data in (b"a%d" % n, b"b%d" % n)
        ]


def test_a_large_batch_stands_in_one_run_and_keeps_no_other_hub_waiting(hubs: list[Hub]) -> None:
    lines = size(12, 48) << 20 >> 7  # of which the rows are within the limit of a batch
    body = b"".join(b"%0126d\n" % n for n in range(lines))
    answers = []
    batch = threading.Thread(
        target=lambda: answers.append(
            hubs[0].post("/large-batch?each=line", body, Content_Type="text/plain")
        )
    )
    with Wire(hubs[1]) as wire:
        batch.start()
        slowest = 0.0
        while batch.is_alive():
            began = time.monotonic()
            assert wire.post("/elsewhere", b"x").status == 201
            slowest = max(slowest, time.monotonic() - began)
    assert answers[0].status == 201, answers
    assert slowest < 2.0
    assert hubs[1].get("/large-batch?format=raw").body == body


# -- what is under /-/ -------------------------------------------------------------------------


def test_the_list_of_channels_is_the_same_at_each_hub(hubs: list[Hub]) -> None:
    for hub in hubs:
        assert hub.get("/listed-here").body == b""  # it is open, and empty, everywhere
    for n in range(4):
        id = hubs[n % 3].publish("/listed-here", f"{n}")
        size = len(hubs[0].get("/listed-here").body)
        for hub in hubs:
            [channel] = json.loads(hub.get("/-/channels?match=listed-here&format=json").body)[
                "channels"
            ]
            assert (channel["bytes"], channel["newest_id"]) == (size, id)
    for hub in hubs:
        assert hub.get("/-/health").body == b"ok\n"
        assert hub.get("/-/ready").status == 200
        assert "esource_" in hub.get("/-/metrics").text


def test_the_limit_of_channels_is_one_for_all_hubs_and_keeps_none_out_that_is_there(
    tmp_path: Path, server: Postgres
) -> None:
    with engine_hubs(tmp_path, server.database(), 2, ESOURCE_MAX_CHANNELS="3") as hubs:
        here, there = hubs
        for hub in hubs:
            assert hub.get("/limited-0").body == hub.get("/limited-2").body == b""
        for n in range(3):
            here.publish(f"/limited-{n}", "x")
        assert here.post("/limited-3", "x").status == 503
        assert there.post("/limited-4", "x").status == 503
        assert there.post("/limited-2", "x").status == 201, "it was there already"
        assert there.post("/limited-0", "x").status == 201
