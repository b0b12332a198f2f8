"""Readers at the tail, whom the waker writes to: each gets exactly the file, whole frames only."""

import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import gevent
import gevent.socket
import pytest

from esource.hub.clients import Clients
from esource.hub.followers import Follower, Followers
from esource.hub.malformed import Malformed
from esource.hub.stats import Stats
from esource.hub.tail import PUSH_BYTES, TAIL_BYTES, News, Push, Tail
from esource.hub.view import View
from esource.log import Log
from esource.log.memory import MemoryLogs
from esource.rows import sse
from tests.harness import Hub, Publishers, Stream, encoded, running_hub
from tests.harness.rows import ENCODE
from tests.harness.waiting import AT_ONCE_SECONDS
from tests.harness.wire import NarrowDoor, reset


def follow(
    hub: Hub, channel: str, query: str = "format=sse", version: str = "1.1", buffer: int = 0
) -> Stream:
    """Follow a channel in any format, over either version."""
    stream = Stream(NarrowDoor(hub.port, buffer), f"/{channel}?follow=1&{query}", version=version)
    assert (stream.headers.get("Transfer-Encoding") == "chunked") == (version == "1.1")
    return stream


# -- exactly the file --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_readers_with_small_buffers_who_read_late_get_exactly_the_file(
    hub: Hub, version: str
) -> None:
    channel = f"late-{version[-1]}"
    followers = [follow(hub, channel, version=version, buffer=2048) for _ in range(6)]
    quick = follow(hub, channel, version=version)
    with Publishers(hub, channel, size=2000) as publishers:
        for follower in followers[:2]:
            publishers.reach(200)
            for _ in range(40):
                follower.read_more(777)
        publishers.reach(400)
    hub.publish(f"/{channel}?id=end", "the end")
    expected = encoded(hub, channel, "sse")
    for follower in [quick, *followers]:
        assert follower.read_up_to(b"data: the end\n\n") == expected
        follower.close()


def test_readers_of_every_format_and_filter_at_one_tail_get_exactly_theirs(hub: Hub) -> None:
    followers = {
        (format, version): follow(hub, "formats", f"format={format}", version)
        for format in ENCODE
        for version in ("1.0", "1.1")
    }
    filtered = follow(hub, "formats", "format=raw&event=p1&event=last")
    limited = follow(hub, "formats", "format=ndjson&limit=5", "1.0")
    array = follow(hub, "formats", "format=json")
    with Publishers(hub, "formats") as publishers:
        publishers.reach(300)
    hub.publish("/formats?id=end&event=last", "the end")
    last = encoded(hub, "formats", "tsv").rfind(b"\n", 0, -1) + 1
    for (format, _), follower in followers.items():
        end = encoded(hub, "formats", format, last)
        assert follower.read_up_to(end) == encoded(hub, "formats", format)
        follower.close()
    rows = hub.rows("formats")
    mine = [row.split(b"\t")[2] for row in rows if row.split(b"\t")[1] in (b"p1", b"last")]
    assert filtered.read_up_to(b"the end\n") == b"".join([data + b"\n" for data in mine])
    lines = limited.read_to_end().splitlines()
    assert [json.loads(line)["id"].encode() for line in lines] == [
        row.split(b"\t")[0] for row in rows[:5]
    ]
    array.read_up_to(b'"the end"}')
    assert len(json.loads(array.content + b"]")) == len(rows)
    filtered.close()
    limited.close()
    array.close()


def test_more_than_one_push_takes_comes_at_once(hub: Hub) -> None:
    hub.publish("/much", "first")
    followers = [follow(hub, "much", "format=raw&tail=1", v) for v in ("1.0", "1.1")]
    for follower in followers:
        follower.read_up_to(b"first\n")  # they wait
    started = time.monotonic()
    lines = b"".join([b"%010d\n" % n for n in range(6000)])
    assert len(lines) > PUSH_BYTES > 0.6 * len(lines)  # of two stretches, since there are so many
    assert TAIL_BYTES > 40 * 6000  # with ids: it stays in memory
    assert hub.post("/much?each=line", lines).status == 201
    for follower in followers:
        assert follower.read_up_to(lines[-11:]) == b"first\n" + lines
        follower.close()
    assert time.monotonic() - started < AT_ONCE_SECONDS


def test_a_reader_who_pauses_in_the_middle_of_a_frame_gets_the_rest_of_it_first(hub: Hub) -> None:
    for version in ("1.0", "1.1"):
        channel = f"pauses-{version[-1]}"
        follower = follow(hub, channel, version=version, buffer=2048)
        data = "".join(f"{n:06d}" for n in range(10_000))  # 60 kB: one push, and more than fits
        for n in range(12):
            hub.publish(f"/{channel}?id={n}", data)
        hub.publish(f"/{channel}?id=end", "the end")
        follower.read_more(1000)
        assert follower.read_up_to(b"data: the end\n\n") == encoded(hub, channel, "sse")
        follower.close()


@contextmanager
def waiting(ours: socket.socket) -> Iterator[Follower]:
    """A follower at the beginning of an empty log, whose greenlet waits."""
    followers = Followers(Clients(), Stats(), Tail(Malformed(Stats())))
    log = MemoryLogs().open("orders")
    with Follower(followers, log, 0, ours, Push(sse.encode, bytes)) as follower:
        greenlet = gevent.spawn(follower.wait, 10)
        gevent.sleep(0)
        yield follower
        greenlet.kill()


def telling(news: News | Exception) -> tuple[Tail, View]:
    """A tail that has this news for every follower of a view."""

    class Telling(Tail):
        def news(self, view: View, log: Log, offset: int, push: Push) -> News:
            if isinstance(news, Exception):
                raise news
            return news

    return Telling(Malformed(Stats())), View.of(MemoryLogs().open("orders"))


def test_what_a_socket_did_not_take_goes_before_anything_else() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs, waiting(ours) as follower:
        much, more = News(b"x" * (1 << 23), 1, 10, True), News(b"more", 1, 20, True)
        assert not follower.take(*telling(much), now=1.0)  # has to wake
        assert theirs.recv(1 << 23)  # now there is room
        assert not follower.take(*telling(more), now=2.0)
        assert (follower.offset, follower.pushed_at) == (10, 1.0)


def test_a_defect_while_the_waker_encodes_wakes_the_follower_which_will_report_it() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs, waiting(ours) as follower:
        assert not follower.take(*telling(ValueError("it cannot be encoded")), now=1.0)


def test_a_follower_that_was_woken_and_waits_again_waits_for_the_next_commit() -> None:
    followers = Followers(Clients(), Stats(), Tail(Malformed(Stats())))
    with Follower(followers, MemoryLogs().open("orders"), 0, None, None) as follower:
        waiting = gevent.spawn(follower.wait, 10)
        gevent.sleep(0)
        followers.wake()
        assert waiting.get(timeout=10) is True
        assert follower.wait(0.01) is False


# -- silence and time --------------------------------------------------------------------------


def test_there_are_no_heartbeats_while_pushes_go_on(tmp_path: Path) -> None:
    with running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="0.3") as hub:
        follower = follow(hub, "silence", version="1.0")
        follower.read_until(b":\n")
        moments = [time.monotonic()]
        while moments[-1] < moments[0] + 1.5:
            hub.publish("/silence?id=0", "x")
            moments.append(time.monotonic())
        hub.publish("/silence?id=end", "the end")
        follower.read_up_to(b"the end\n\n")
        events = follower.body[follower.body.index(b"id: 0\n") :]
        # On a machine that is busy with other things pushes may be rarer than heartbeats.
        assert events.count(b"\n:") <= sum(b - a > 0.2 for a, b in pairwise(moments))
        follower.read_up_to(b"the end\n\n:\n:\n")  # and afterwards they come again
        follower.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_timeout_ends_a_follow_while_pushes_go_on(hub: Hub, version: str) -> None:
    channel = f"timeout-{version[-1]}"
    with Publishers(hub, channel, count=2) as publishers:
        publishers.reach(1)
        started = time.monotonic()
        follower = follow(hub, channel, "format=tsv&after=0&timeout=1", version)
        content = follower.read_to_end()
        assert 0.9 < time.monotonic() - started < AT_ONCE_SECONDS
        publishers.reach(5)
    assert content.endswith(b"\n")
    assert content.count(b"\n") > 10
    assert hub.file(channel).read_bytes().startswith(content)
    follower.close()


# -- files that change under readers -----------------------------------------------------------


@pytest.mark.parametrize("how", ["other", "copy"])
def test_a_file_that_is_replaced_under_readers_at_the_tail(own_hub: Hub, how: str) -> None:
    followers = [follow(own_hub, "replaced", "format=tsv", v) for v in ("1.0", "1.1") * 3]
    file = own_hub.file("replaced")
    old = own_hub.folder / "old"
    with Publishers(own_hub, "replaced", count=3) as publishers:
        publishers.reach(150)
        new = own_hub.folder / "new"
        if how == "copy":
            shutil.copyfile(file, new)  # a few rows may be missing: those are in the old file
        else:
            new.write_bytes(b"foreign\t\t" + b"f" * (file.stat().st_size - 10) + b"\n")
        size = new.stat().st_size
        os.link(file, old)
        new.rename(file)
        publishers.reach(150)
    own_hub.publish("/replaced?id=end", "the end")
    before, after = old.read_bytes(), file.read_bytes()
    for follower in followers:
        content = follower.read_up_to(b"the end\n")
        follower.close()
        # All of the old file, then what came into the new one: nothing twice, nothing else.
        assert content.startswith(before)
        rest = content[len(before) :]
        assert rest.endswith(b"end\t\tthe end\n")
        assert after.endswith(rest)
        assert set(after[size:].splitlines()) <= set(rest.splitlines())
        rows = content.splitlines()
        assert len(rows) == len(set(rows))
        data = [row.split(b"\t", 2)[2] for row in rows]
        assert publishers.data <= set(data)
    assert publishers.is_unharmed


# -- a stop ------------------------------------------------------------------------------------


def test_a_stop_under_load_ends_every_stream_with_a_whole_frame_and_a_retry(
    tmp_path: Path,
) -> None:
    with running_hub(tmp_path) as hub:
        followers = [
            follow(hub, "stop", version=version, buffer=buffer)
            for version in ("1.0", "1.1")
            for buffer in (0, 0, 4096)
        ]
        contents: dict[int, bytes] = {}

        def read(number: int) -> None:
            followers[number].read_to_end()
            contents[number] = followers[number].content

        reading = [threading.Thread(target=read, args=[n]) for n in range(len(followers))]
        for thread in reading:
            thread.start()
        with Publishers(hub, "stop", count=4, size=3000) as publishers:
            publishers.reach(200)
            assert hub.stop() == 0
            for thread in reading:
                thread.join()
        expected = encoded(hub, "stop", "sse")
        for follower in followers:
            follower.close()
        assert len(contents) == len(followers)
        for content in contents.values():
            match = re.fullmatch(rb"(.*\n\n)retry: \d+\n", content, re.DOTALL)
            assert match, content[-100:]
            assert expected.startswith(match[1])
            assert match[1].count(b"\nid: ") >= 200
        assert "Traceback" not in hub.log


def test_a_reader_who_leaves_in_the_middle_of_pushes_hurts_nobody(hub: Hub) -> None:
    with Stream(hub, "/leaves") as stays:
        leaving = [follow(hub, "leaves") for _ in range(10)]
        with Publishers(hub, "leaves", count=2) as publishers:
            for follower in leaving:
                publishers.reach(10)
                reset(follower.connection)
        hub.publish("/leaves?id=end", "the end")
        stays.read_until(b"data: the end\n\n")
        assert stays.body.replace(b":\n", b"", 1) == encoded(hub, "leaves", "sse")
    assert "Traceback" not in hub.log
