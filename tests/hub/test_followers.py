"""Readers at the tail, whom the waker writes to: each gets exactly the file, whole frames only."""

import http.client
import itertools
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import gevent.socket
import pytest

from esource.hub.clients import Clients
from esource.hub.followers import Follower, Followers
from esource.hub.malformed import Malformed
from esource.hub.stats import Stats
from esource.hub.tail import News, Push, Tail
from esource.log.memory import MemoryLogs
from esource.rows import ndjson, sse, tsv
from tests.harness import Hub, Stream, eventually, running_hub

FORMATS: dict[str, Callable[[bytes, list[bytes]], bytes]] = {
    "sse": sse.encode,
    "ndjson": ndjson.encode,
    "raw": tsv.encode_raw,
    "tsv": lambda rows, malformed: rows,
}


def unchunked(text: bytes) -> tuple[bytes, bool]:
    """Return the content of chunks, and whether the last one has come; fail if one is malformed."""
    content = b""
    while text:
        size, end, rest = text.partition(b"\r\n")
        if not end:
            assert re.fullmatch(rb"[0-9A-Fa-f]*\r?", size), size
            return content, False
        assert re.fullmatch(rb"[0-9A-Fa-f]+", size), size
        count = int(size, 16)
        if count == 0:
            assert rest == b"\r\n", rest
            return content, True
        content += rest[:count]
        assert b"\r\n".startswith(rest[count : count + 2])
        text = rest[count + 2 :]
    return content, False


class HttpFollower:
    """One who follows a channel in any format, over either version, and reads when told."""

    def __init__(
        self, hub: Hub, channel: str, query: str = "format=sse", version: str = "1.1",
        buffer: int = 0,
    ) -> None:  # fmt: skip
        """Return when the response's head has come."""
        self.connection = socket.socket()
        if buffer:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.connection.settimeout(20)
        self.connection.connect(("127.0.0.1", hub.port))
        request = f"GET /{channel}?follow=1&{query} HTTP/{version}\r\n"
        self.connection.sendall(request.encode() + b"Host: h\r\nConnection: close\r\n\r\n")
        self.received = b""
        self.is_chunked = version == "1.1"
        while b"\r\n\r\n" not in self.received:
            assert self.receive()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        assert b" 200 OK\r\n" in head
        assert (b"\r\nTransfer-Encoding: chunked" in head) == self.is_chunked

    def receive(self, size: int = 1 << 16) -> bool:
        """Read what there is; return whether that is more than the end."""
        piece = self.connection.recv(size)
        self.received += piece
        return bool(piece)

    @property
    def content(self) -> bytes:
        """What has been sent until now, heartbeats left out."""
        return re.sub(rb"^:\n", b"", self.text, flags=re.MULTILINE)

    @property
    def text(self) -> bytes:
        """What has been sent until now, without the frames of chunks."""
        return unchunked(self.received)[0] if self.is_chunked else self.received

    def read(self, wanted: bytes) -> bytes:
        """Return the content, as soon as it ends with `wanted`."""
        # With its last line end, which may come in a packet of its own.
        while not (
            self.received.rstrip(b"\r\n").endswith(wanted.rstrip(b"\n"))
            and (not wanted.endswith(b"\n") or self.text.endswith(wanted))
        ):
            assert self.receive(), self.received[-200:]
        return self.content

    def read_to_end(self) -> bytes:
        """Return the content, once the hub has ended it; chunks must have their end."""
        while self.receive():
            pass
        assert not self.is_chunked or unchunked(self.received)[1]
        return self.content

    def close(self) -> None:
        self.connection.close()


class Publishers:
    """Threads that publish numbered events until told to stop, each on one connection."""

    def __init__(self, hub: Hub, channel: str, count: int = 4, size: int = 100) -> None:
        self.acknowledged: list[bytes] = []
        self.failed: list[bytes] = []
        self._hub, self._channel, self._size = hub, channel, size
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[n]) for n in range(count)]

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._hub.port, timeout=20)
        try:
            self._publish_on(connection, number)
        finally:
            connection.close()

    def _publish_on(self, connection: http.client.HTTPConnection, number: int) -> None:
        for n in itertools.count():
            if self._done.is_set():
                return
            data = f"{number}-{n} ".encode() + b"x" * (n * 37 % self._size)
            try:
                connection.request("POST", f"/{self._channel}?event=p{number}", data)
                response = connection.getresponse()
                response.read()
                if response.status == 201:
                    self.acknowledged.append(data)
            except (OSError, http.client.HTTPException):
                self.failed.append(data)
                return

    def __enter__(self) -> "Publishers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def reach(self, more: int) -> None:
        """Wait until `more` events than now are stored."""
        goal = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= goal)


def encoded(hub: Hub, channel: str, format: str, start: int = 0) -> bytes:
    malformed: list[bytes] = []
    text = FORMATS[format](hub.file(channel).read_bytes()[start:], malformed)
    assert not malformed
    return text


# -- exactly the file --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_readers_with_small_buffers_who_read_late_get_exactly_the_file(
    hub: Hub, version: str
) -> None:
    """Fails if what a socket did not take of a push is lost (`_rest` left empty)."""
    channel = f"late-{version[-1]}"
    followers = [HttpFollower(hub, channel, version=version, buffer=2048) for _ in range(6)]
    quick = HttpFollower(hub, channel, version=version)
    with Publishers(hub, channel, size=2000) as publishers:
        for follower in followers[:2]:
            publishers.reach(200)
            for _ in range(40):
                follower.receive(777)
        publishers.reach(400)
    hub.publish(f"/{channel}?id=end", "the end")
    expected = encoded(hub, channel, "sse")
    for follower in [quick, *followers]:
        assert follower.read(b"data: the end\n\n") == expected
        follower.close()


def test_readers_of_every_format_and_filter_at_one_tail_get_exactly_theirs(hub: Hub) -> None:
    """Fails if what is new is cached without `direct`: for all formats, chunked or not."""
    followers = {
        (format, version): HttpFollower(hub, "formats", f"format={format}", version)
        for format in FORMATS
        for version in ("1.0", "1.1")
    }
    filtered = HttpFollower(hub, "formats", "format=raw&event=p1&event=last")
    limited = HttpFollower(hub, "formats", "format=ndjson&limit=5", "1.0")
    array = HttpFollower(hub, "formats", "format=json")
    with Publishers(hub, "formats") as publishers:
        publishers.reach(300)
    hub.publish("/formats?id=end&event=last", "the end")
    last = encoded(hub, "formats", "tsv").rfind(b"\n", 0, -1) + 1
    for (format, _), follower in followers.items():
        end = encoded(hub, "formats", format, last)
        assert follower.read(end) == encoded(hub, "formats", format)
        follower.close()
    rows = hub.rows("formats")
    mine = [row.split(b"\t")[2] for row in rows if row.split(b"\t")[1] in (b"p1", b"last")]
    assert filtered.read(b"the end\n") == b"".join([data + b"\n" for data in mine])
    lines = limited.read_to_end().splitlines()
    assert [json.loads(line)["id"].encode() for line in lines] == [
        row.split(b"\t")[0] for row in rows[:5]
    ]
    array.read(b'"the end"}')
    assert len(json.loads(array.content + b"]")) == len(rows)
    filtered.close()
    limited.close()
    array.close()


def test_more_than_one_push_takes_comes_at_once(hub: Hub) -> None:
    """Fails if a reader who was sent a part is not woken for the rest: that came 10 s later."""
    followers = [HttpFollower(hub, "much", "format=raw", version) for version in ("1.0", "1.1")]
    time.sleep(0.1)  # they wait
    started = time.monotonic()
    lines = b"".join([b"%010d\n" % n for n in range(20_000)])  # in memory, and over 64 KiB
    assert hub.post("/much?each=line", lines).status == 201
    for follower in followers:
        assert follower.read(lines[-11:]) == lines
        follower.close()
    assert time.monotonic() - started < 5


def test_a_reader_who_pauses_in_the_middle_of_a_frame_gets_the_rest_of_it_first(hub: Hub) -> None:
    """Fails if `wait` does not send what is left of a push."""
    for version in ("1.0", "1.1"):
        channel = f"pauses-{version[-1]}"
        follower = HttpFollower(hub, channel, version=version, buffer=2048)
        data = "".join(f"{n:06d}" for n in range(10_000))  # 60 kB: one push, and more than fits
        for n in range(12):
            hub.publish(f"/{channel}?id={n}", data)
        hub.publish(f"/{channel}?id=end", "the end")
        follower.receive(1000)
        assert follower.read(b"data: the end\n\n") == encoded(hub, channel, "sse")
        follower.close()


@contextmanager
def waiting(ours: socket.socket) -> Iterator[Follower]:
    """A follower at the beginning of an empty log, whose greenlet waits."""
    followers = Followers(Clients(), Stats(), Tail(Malformed(Stats()).note))
    log = MemoryLogs().open("orders")
    with Follower(followers, log, 0, ours, Push(sse.encode, bytes)) as follower:
        greenlet = gevent.spawn(follower.wait, 10)
        gevent.sleep(0)
        yield follower
        greenlet.kill()


def test_what_a_socket_did_not_take_goes_before_anything_else() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs, waiting(ours) as follower:
        much, more = News(b"x" * (1 << 23), 1, 10, True), News(b"more", 1, 20, True)
        assert not follower.take(lambda _: much, now=1.0)  # has to wake
        assert theirs.recv(1 << 23)  # now there is room
        assert not follower.take(lambda _: more, now=2.0)
        assert (follower.offset, follower.pushed_at) == (10, 1.0)


def test_a_defect_while_the_waker_encodes_wakes_the_follower_which_will_report_it() -> None:
    ours, theirs = gevent.socket.socketpair()

    def broken(follower: Follower) -> News:
        raise ValueError(follower)

    with ours, theirs, waiting(ours) as follower:
        assert not follower.take(broken, now=1.0)


# -- silence and time --------------------------------------------------------------------------


def test_there_are_no_heartbeats_while_pushes_go_on(tmp_path: Path) -> None:
    """Fails if a push does not count as a sign of life."""
    with running_hub(tmp_path, ESOURCE_HEARTBEAT_SECONDS="0.3") as hub:
        follower = HttpFollower(hub, "silence", version="1.0")
        follower.read(b":\n")
        for n in range(15):
            hub.publish(f"/silence?id={n}", "x")
            time.sleep(0.1)
        hub.publish("/silence?id=end", "the end")
        follower.read(b"the end\n\n")
        events = follower.received[follower.received.index(b"id: 0\n") :]
        assert b"\n:" not in events
        # And afterwards they come again.
        follower.received = b""
        follower.read(b":\n:\n")
        follower.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_timeout_ends_a_follow_while_pushes_go_on(hub: Hub, version: str) -> None:
    """Fails if each push begins the time anew."""
    channel = f"timeout-{version[-1]}"
    with Publishers(hub, channel, count=2) as publishers:
        publishers.reach(1)
        started = time.monotonic()
        follower = HttpFollower(hub, channel, "format=tsv&after=0&timeout=1", version)
        content = follower.read_to_end()
        assert 0.9 < time.monotonic() - started < 4
        publishers.reach(5)
    assert content.endswith(b"\n")
    assert content.count(b"\n") > 10
    assert hub.file(channel).read_bytes().startswith(content)
    follower.close()


# -- files that change under readers -----------------------------------------------------------


@pytest.mark.parametrize("how", ["other", "copy"])
def test_a_file_that_is_replaced_under_readers_at_the_tail(own_hub: Hub, how: str) -> None:
    """Fails if readers of the old file begin at the start of the new one."""
    followers = [HttpFollower(own_hub, "replaced", "format=tsv", v) for v in ("1.0", "1.1") * 3]
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
        content = follower.read(b"the end")
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
        assert set(publishers.acknowledged) <= set(data)
    assert not publishers.failed


# -- a stop ------------------------------------------------------------------------------------


def test_a_stop_under_load_ends_every_stream_with_a_whole_frame_and_a_retry(
    tmp_path: Path,
) -> None:
    """Fails if `wait` does not send what is left of a push."""
    with running_hub(tmp_path) as hub:
        followers = [
            HttpFollower(hub, "stop", version=version, buffer=buffer)
            for version in ("1.0", "1.1")
            for buffer in (0, 0, 4096)
        ]
        contents: dict[int, bytes] = {}

        def read(number: int) -> None:
            contents[number] = followers[number].read_to_end()

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
    """Fails if the waker dies of a socket that is gone: nobody would hear of anything again."""
    with Stream(hub, "/leaves") as stays:
        leaving = [HttpFollower(hub, "leaves") for _ in range(10)]
        with Publishers(hub, "leaves", count=2) as publishers:
            for follower in leaving:
                publishers.reach(10)
                follower.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: a reset
                follower.close()
        hub.publish("/leaves?id=end", "the end")
        stays.read_text(b"data: the end\n\n")
        assert stays.text.replace(b":\n", b"", 1) == encoded(hub, "leaves", "sse")
    assert "Traceback" not in hub.log
