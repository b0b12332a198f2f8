"""The commands for one channel's files: as a person runs them, beside a hub or without one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import (
    PATIENCE_SECONDS,
    QUIET,
    Answer,
    Follower,
    Hub,
    Publishers,
    Stream,
    eventually,
    running_hub,
)

ROWS = b"".join(b"%d\t\tevent %d\n" % (n, n) for n in range(1, 10))


def esource(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "esource", *arguments], capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
        env={**os.environ, "ESOURCE_DIR": str(folder), **variables},
    )  # fmt: skip


def done(folder: Path, *arguments: str) -> str:
    """Run a command that must work; return what it says."""
    result = esource(folder, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def files(folder: Path, channel: str = "orders") -> list[Path]:
    return sorted(folder.glob(f"{channel}.[0-9]*.tsv"))


def content(folder: Path) -> dict[str, bytes | str]:
    return {
        path.name: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.iterdir()
        if path.name not in (".lock", ".writer.lock")
    }


@pytest.fixture(scope="module")
def quiet_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(
        tmp_path_factory.mktemp("hub"), ESOURCE_KEEP="ruled/segment=1G", **QUIET
    ) as hub:
        yield hub


# -- beside a hub --------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["ruled", "orders"])
def test_a_rotation_beside_a_busy_hub_costs_nobody_an_event(quiet_hub: Hub, channel: str) -> None:
    hub = quiet_hub
    follower = Follower(hub, channel).start()
    try:
        with Publishers(hub, channel, count=3) as publishers:
            for count in range(1, 4):
                publishers.reach(20)
                said = done(hub.folder, "rotate", channel)
                assert len(files(hub.folder, channel)) == count + 1
                closed, growing = files(hub.folder, channel)[-2:]
                assert said == f"{channel}: closed {closed.name}; what comes is in {growing.name}\n"
            publishers.reach(20)
        assert publishers.is_unharmed
        rows = b"".join(path.read_bytes() for path in files(hub.folder, channel))
        assert rows.count(b"\n") == publishers.acknowledged
        eventually(lambda: len(follower.events) >= publishers.acknowledged)
    finally:
        follower.stop()
    assert hub.get(f"/{channel}").body == rows
    assert follower.ids == [row.split(b"\t")[0].decode() for row in rows.splitlines()]
    assert follower.connections == 1
    assert os.readlink(hub.file(channel)) == files(hub.folder, channel)[-1].name
    assert "rror" not in hub.log
    assert esource(hub.folder, "check", str(hub.folder)).returncode == 0


def test_what_is_trimmed_is_gone_from_the_next_read(quiet_hub: Hub) -> None:
    hub = quiet_hub
    ids = [hub.publish("/trimmed", f"event {n}") for n in range(3)]
    places = [hub.get("/trimmed").headers["Content-Length"]]
    for n in range(3, 5):
        done(hub.folder, "rotate", "trimmed")
        ids.append(hub.publish("/trimmed", f"event {n}"))
        places.append(hub.get("/trimmed").headers["Content-Length"])
    first, second, growing = files(hub.folder, "trimmed")
    os.utime(first, (0, 0))  # its ids are of now
    assert "removed 0 files" in done(hub.folder, "trim", "trimmed", "--older-than", "1h")
    assert "removed 0 files" in done(hub.folder, "trim", "trimmed", "--larger-than", "1M")
    with first.open("r+b") as file:
        rows = file.read()
        file.seek(0)
        file.write(rows.replace(b"20", b"19"))  # a hundred years ago
    os.utime(first, (0, 0))
    would = done(hub.folder, "trim", "trimmed", "--older-than", "1h", "--dry-run")
    assert f"would remove {first.name}, {places[0]} bytes\n" in would
    assert files(hub.folder, "trimmed") == [first, second, growing]
    said = done(hub.folder, "trim", "trimmed", "--older-than", "1h")
    assert said == would.replace("would remove", "removed")
    assert files(hub.folder, "trimmed") == [second, growing]
    answer = hub.get("/trimmed")
    assert [row.split(b"\t")[0].decode() for row in answer.body.splitlines()] == ids[3:]
    assert hub.get(f"/trimmed?after={ids[0]}").headers["Esource-Resume"] == "trimmed"
    with Stream(hub, "/trimmed", Last_Event_ID="unknown") as stream:
        assert stream.headers["Esource-Resume"] == "trimmed"
        assert [event.id.decode() for event in stream.read(2)] == ids[3:]
        ids.append(hub.publish("/trimmed", "another"))
        assert stream.read(3)[-1].id.decode() == ids[-1]


@pytest.mark.parametrize(
    "arguments",
    [("join", "orders"), ("rm", "orders"), ("erase", "orders", "1", "--reason", "x"), ("repair",)],
)
def test_what_needs_the_folder_is_refused_while_a_hub_holds_it(
    quiet_hub: Hub, arguments: tuple[str, ...]
) -> None:
    quiet_hub.publish("/orders", "there")
    before = content(quiet_hub.folder)
    result = esource(quiet_hub.folder, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert "is held by a hub (process " in result.stderr
    assert result.stderr.count("\n") == 1
    assert content(quiet_hub.folder) == before


# -- there and back again ------------------------------------------------------------------------

LARGE = b"x" * 300_000  # of which three are in a segment
RULE = "*/segment=1M"


class Row(NamedTuple):
    """What was published, and what the publisher was told."""

    id: str
    event: str
    data: bytes
    offset: int  # of its first byte, if nothing had ever been removed

    @property
    def bytes(self) -> bytes:
        return f"{self.id}\t{self.event}\t".encode() + self.data + b"\n"

    @property
    def end(self) -> int:
        return self.offset + len(self.bytes)


class Walk:
    """A channel that goes through all that its files can be, and those who look at it."""

    def __init__(self, hub: Hub, channel: str, *, is_trimmed: bool = False) -> None:
        self.hub, self.channel, self.is_trimmed = hub, channel, is_trimmed
        self.rows: list[Row] = []
        self.gone = 0  # rows that were trimmed
        self.start = 0  # the offset that the first byte of the only file had in the segments
        self.etag = ""  # as it was last seen
        self.copy = hub.home / f"{channel}.copy"  # with which curl goes on
        self.follower = Follower(hub, channel).start()
        self.places: list[str] = []  # behind the rows 1 and 6

    @property
    def files(self) -> list[Path]:
        return files(self.hub.folder, self.channel)

    @property
    def kept(self) -> list[Row]:
        return self.rows[self.gone :]

    def text(self, first: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of rows that are kept, of all of them by itself."""
        return b"".join(row.bytes for row in self.kept[first:stop])

    def get(self, query: str = "", **headers: str) -> Answer:
        return self.hub.get(f"/{self.channel}{query}", **headers)

    def publish(self, count: int) -> None:
        for n in range(len(self.rows), len(self.rows) + count):
            event, data = f"t{n % 3}", LARGE + b"%d" % n
            id = self.hub.publish(f"/{self.channel}?event={event}", data)
            self.rows.append(Row(id, event, data, self.rows[-1].end if self.rows else 0))

    def note_place(self, n: int) -> None:
        """Note the place behind a row, as a browser is told it."""
        path = f"/{self.channel}?prime=1"
        with Stream(self.hub, path, Last_Event_ID=self.rows[n].id) as stream:
            stream.read_until(b"\n\n")
            self.places.append(stream.body.partition(b"id: ")[2].partition(b"\n")[0].decode())

    def resume(self, point: str) -> tuple[str, bytes]:
        """Return how a client goes on behind a point, and what it gets."""
        answer = self.get(Last_Event_ID=point)
        return answer.headers["Esource-Resume"], answer.body

    def curl(self) -> int:
        """Have curl go on with its copy; return its exit code."""
        options = ("-f", "-C", "-", "-o", str(self.copy))
        return self.hub.curl(*options, f"{self.hub.url}/{self.channel}").returncode

    def look(self) -> None:
        """See that it is one list, to every client."""
        rows, text = self.kept, self.text()
        answer = self.get()
        assert (answer.status, answer.body) == (200, text)
        assert answer.headers["Last-Event-ID"] == rows[-1].id
        self.etag = answer.headers["ETag"]
        assert self.get(If_None_Match=self.etag).status == 304
        for n in (0, len(rows) // 2, len(rows) - 1):
            assert self.resume(rows[n].id) == ("exact", self.text(n + 1))
            assert self.get(f"?tail={n + 1}").body == self.text(len(rows) - n - 1)
            assert self.get(f"?before={rows[n].id}").body == self.text(0, n)
        assert self.get("?tail=1000").body == text
        oldest = rows[0]
        query = f"?unique=1&id={oldest.id}&event={oldest.event}"
        again = self.hub.post(f"/{self.channel}{query}", oldest.data)
        assert (again.status, again.id.decode()) == (200, oldest.id)
        is_whole = oldest.offset == self.start
        assert answer.headers["Accept-Ranges"] == ("bytes" if is_whole else "none")
        for row in rows[2::3] if is_whole else []:  # the last ones of files
            edge = row.end - self.start
            part = self.get(Range=f"bytes={edge - 7}-{edge + 6}", If_Range=self.etag)
            assert (part.status, part.body) == (206, text[edge - 7 : edge + 7])

    # -- what it goes through --------------------------------------------------------------

    def as_one_file(self) -> None:
        self.publish(3)
        self.look()
        assert self.files == []
        self.note_place(1)
        assert self.curl() == 0

    def with_a_rule(self) -> None:
        etag = self.etag
        self.look()
        assert (self.etag, len(self.files)) == (etag, 1)
        self.publish(5)
        self.look()
        assert len(self.files) == 3
        assert b"".join(path.read_bytes() for path in self.files) == self.text()
        assert os.readlink(self.hub.file(self.channel)) == self.files[-1].name
        self.note_place(6)

    def without_it(self) -> None:
        etag, before = self.etag, self.files
        self.look()
        assert self.etag == etag
        self.publish(3)
        self.look()
        assert self.files == before
        assert before[-1].stat().st_size > 1 << 20
        assert (self.curl(), self.copy.read_bytes()) == (0, self.text())
        assert self.resume(self.places[0]) == ("exact", self.text(2))
        assert self.resume(self.places[1]) == ("exact", self.text(7))
        if self.is_trimmed:
            self.trim()

    def trim(self) -> None:
        etag, before, copied = self.etag, self.files, self.copy.read_bytes()
        eventually(lambda: len(self.follower.events) == len(self.rows))
        done(self.hub.folder, "trim", self.channel, "--larger-than", "2M")
        self.gone = 3
        self.look()
        assert self.files == before[1:]
        assert self.etag != etag
        for point in (self.rows[0].id, self.rows[2].id, self.places[0], "unknown"):
            assert self.resume(point) == ("trimmed", self.text())
        assert self.resume(self.places[1]) == ("exact", self.text(7 - self.gone))
        assert (self.curl(), self.copy.read_bytes()) == (33, copied)  # it has no ranges

    def join(self) -> None:
        text, offset = self.text(), self.kept[0].offset
        modified = self.files[-1].stat().st_mtime_ns
        said = done(self.hub.folder, "join", self.channel).splitlines()
        assert len(said) == (2 if offset else 1)
        self.start = offset
        path = self.hub.file(self.channel)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (text, modified)
        assert list(self.hub.folder.glob(f"{self.channel}*")) == [path]

    def as_one_file_again(self) -> None:
        etag, asleep = self.etag, self.rows[0].id
        self.look()
        part = self.get(Range="bytes=7-", If_Range=etag)
        assert (part.status, part.body) == (200, self.text())  # it is another file
        self.publish(2)
        self.look()
        assert self.files == []
        assert self.hub.file(self.channel).read_bytes() == self.text()
        if not self.gone:
            assert (self.curl(), self.copy.read_bytes()) == (0, self.text())
        missed = self.kept if self.gone else self.rows[1:]
        with Stream(self.hub, f"/{self.channel}", Last_Event_ID=asleep) as stream:
            ids = [event.id.decode() for event in stream.read(len(missed))]
        assert ids == [row.id for row in missed]
        eventually(lambda: len(self.follower.events) >= len(self.rows))


def test_a_channel_gets_a_rule_loses_it_and_is_one_file_again_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    hub = Hub(tmp_path, **QUIET)
    walks = Walk(hub, "whole"), Walk(hub, "trimmed", is_trimmed=True)
    try:
        for rule, step, end in (
            ("", Walk.as_one_file, hub.kill),
            (RULE, Walk.with_a_rule, hub.kill),
            ("", Walk.without_it, hub.stop),
        ):
            hub.environ["ESOURCE_KEEP"] = rule
            hub.start()
            for walk in walks:
                step(walk)
            end()
        for walk in walks:
            walk.join()
        assert esource(hub.folder, "check", str(hub.folder)).returncode == 0
        hub.start()
        for walk in walks:
            walk.as_one_file_again()
    finally:
        for walk in walks:
            walk.follower.stop()
        if hub.process:
            hub.stop()
    for walk in walks:
        assert walk.follower.ids == [row.id for row in walk.rows]
    assert "ERROR" not in hub.log


# -- without one ---------------------------------------------------------------------------------


def test_a_channel_is_one_file_again_and_can_be_served(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        for n in range(3):
            hub.publish("/orders", f"event {n}")
            done(hub.folder, "rotate", "orders")
        rows = hub.get("/orders").body
        hub.stop()
        said = done(hub.folder, "join", "orders")
        assert said == f"orders: all of it is in orders.tsv now, {len(rows)} bytes\n"
        assert content(hub.folder) == {"orders.tsv": rows}
        assert done(hub.folder, "join", "orders") == "orders: is one file already\n"
        hub.start()
        assert hub.get("/orders").body == rows
        hub.publish("/orders", "more")
        assert hub.file("orders").read_bytes().startswith(rows)


def test_a_trimmed_history_begins_at_0_when_it_is_joined(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    done(tmp_path, "rotate", "orders")
    with files(tmp_path)[-1].open("ab") as file:
        file.write(ROWS)
    files(tmp_path)[0].unlink()
    said = done(tmp_path, "join", "orders")
    assert f"orders: its first byte was at offset {len(ROWS)}, and is at 0 now\n" in said
    assert content(tmp_path) == {"orders.tsv": ROWS}


def test_a_channel_is_removed_and_what_stays_is_named(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    (tmp_path / "others.tsv").write_bytes(ROWS)
    (tmp_path / "orders.tsv.torn-1").write_bytes(b"torn")
    done(tmp_path, "rotate", "orders")
    said = done(tmp_path, "rm", "orders")
    assert said == "orders: removed 2 files\nnot removed: orders.tsv.torn-1\n"
    assert content(tmp_path) == {"others.tsv": ROWS, "orders.tsv.torn-1": b"torn"}


def test_an_event_is_erased_and_a_client_goes_on_where_it_was(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        ids = [hub.publish("/orders?event=login", f"secret {n}") for n in range(4)]
        before = hub.get("/orders")
        hub.stop()
        modified = hub.file("orders").stat().st_mtime_ns
        os.link(hub.file("orders"), tmp_path / "a-backup")
        said = done(hub.folder, "erase", "orders", ids[1], "--reason", "a request of 12 May")
        assert said.splitlines() == [
            f"orders: erased 1 events with the id {ids[1]}",
            "orders.tsv has 1 more hard links (cp -al?), which are changed, too",
            "not reached: backups, archives, snapshots, clients that have it, orders.erasures",
        ]
        hub.start()
        after = hub.get("/orders")
        assert len(after.body) == len(before.body)
        rows = zip(before.body.splitlines(), after.body.splitlines(), strict=True)
        assert [old == new for old, new in rows] == [True, False, True, True]
        assert b"secret 1" not in after.body
        assert after.headers["ETag"] != before.headers["ETag"]
        assert hub.file("orders").stat().st_mtime_ns == modified
        with Stream(hub, "/orders", Last_Event_ID=ids[1]) as stream:
            assert stream.headers["Esource-Resume"] == "exact"
            assert [event.data for event in stream.read(2)] == [b"secret 2", b"secret 3"]
        begun, finished = map(json.loads, (hub.folder / "orders.erasures").read_text().splitlines())
        assert (begun["id"], begun["reason"]) == (ids[1], "a request of 12 May")
        assert finished["step"] == "done"


def test_of_several_events_with_an_id_it_has_to_be_said_which(tmp_path: Path) -> None:
    path = tmp_path / "orders.tsv"
    row, other = b"1\tlogin\tsecret\n", b"2\tlogin\tkept\n"
    path.write_bytes(row + other + row + row)
    offsets = [0, len(row + other), len(row + other + row)]
    reason = ("--reason", "a request")
    result = esource(tmp_path, "erase", "orders", "1", *reason)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"esource: 3 events of orders have the id 1, at {', '.join(map(str, offsets))}; "
        "say which with --at OFFSET, or --all\n"
    )
    assert content(tmp_path) == {"orders.tsv": row + other + row + row}
    done(tmp_path, "erase", "orders", "1", *reason, "--at", str(offsets[1]))
    erased = b"1\terased\t" + b" " * (len(row) - 10) + b"\n"
    assert path.read_bytes() == row + other + erased + row
    done(tmp_path, "erase", "orders", "1", *reason, "--all")
    assert path.read_bytes() == erased + other + erased + erased
    assert done(tmp_path, "erase", "orders", "1", *reason) == "orders: 1 is erased already\n"


def test_an_event_without_an_id_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(b"\t\tone\n\t\tthe other\n")
    result = esource(tmp_path, "erase", "orders", "", "--reason", "x", "--all")
    assert result.returncode == 1
    assert "the ID is empty" in result.stderr
    done(tmp_path, "erase", "orders", "", "--reason", "x", "--at", "6")
    assert (tmp_path / "orders.tsv").read_bytes() == b"\t\tone\n\terased\t   \n"


# -- what makes no sense -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("rotate", "missing"), "has no channel missing"),
        (("rotate", "x"), "'x' is no name of a channel"),
        (("rotate", "../orders"), "is no name of a channel"),
        (("rotate", "half"), "half.tsv ends with half a row"),
        (("trim", "missing", "--older-than", "1d"), "has no channel missing"),
        (("trim", "../orders", "--larger-than", "1M"), "is no name of a channel"),
        (("join", "missing"), "has no channel missing"),
        (("join", "gone"), "gone has a gap: gone.00000000000000000070.tsv is 0 bytes long"),
        (("rm", "missing"), "has no channel missing"),
        (("erase", "missing", "1", "--reason", "x"), "has no channel missing"),
        (("erase", "orders", "77", "--reason", "x"), "no event with the id 77 in orders"),
        (("erase", "orders", "1", "--reason", "x", "--at", "3"), "in orders at offset 3"),
        (("rotate", "orders", "--dir", "/nowhere"), "/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    (tmp_path / "half.tsv").write_bytes(b"1\t\thalf")
    for offset, rows in ((0, ROWS), (70, b""), (140, ROWS)):
        (tmp_path / f"gone.{offset:020}.tsv").write_bytes(rows)
    (tmp_path / "gone.tsv").symlink_to(f"gone.{140:020}.tsv")
    before = content(tmp_path)
    result = esource(tmp_path, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert why in result.stderr
    assert (result.stderr.startswith("esource: "), result.stderr.count("\n")) == (True, 1)
    assert content(tmp_path) == before


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(ROWS)
    (tmp_path / "orders.erasures").mkdir()
    result = esource(tmp_path, "erase", "orders", "1", "--reason", "x")
    assert (result.returncode, result.stdout) == (1, "")
    assert f"esource: {tmp_path}/orders.erasures: Is a directory\n" in result.stderr
    assert (tmp_path / "orders.tsv").read_bytes() == ROWS
