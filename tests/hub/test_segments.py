"""A channel in segments is one list to publishers, readers and followers."""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import gevent
import pytest

from esource.event import Event
from esource.hub import several
from esource.hub.channel import Channel
from esource.hub.search import Search
from esource.hub.view import Place, View
from esource.hub.work import Work
from esource.log.folder import Folder
from esource.rows.find import ZONE_BYTES
from esource.rules import Rule
from tests.harness import PATIENCE_SECONDS, QUIET, Hub, Stream, needs, running_hub
from tests.harness.channels import publish, read_to_end

LARGE = b"x" * 400_000  # of which two are in a segment


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub"), ESOURCE_KEEP="*/segment=1M", **QUIET) as hub:
        yield hub


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own."""
    return f"c{abs(hash(request.node.name))}"


def files(hub: Hub, name: str) -> list[Path]:
    paths = sorted(hub.folder.glob(f"{name}.[0-9]*.tsv"))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def content(hub: Hub, name: str) -> bytes:
    return b"".join(path.read_bytes() for path in files(hub, name))


def rotate(hub: Hub, name: str) -> None:
    """Close the growing file as a command does."""
    last = files(hub, name)[-1]
    offset = int(last.name.split(".")[1]) + last.stat().st_size
    following = hub.folder / f"{name}.{offset:020}.tsv"
    following.touch(exist_ok=False)
    hub.file(name).unlink()
    hub.file(name).symlink_to(following.name)


def fill(hub: Hub, name: str, count: int = 5, first: int = 0) -> bytes:
    for n in range(first, first + count):
        hub.publish(f"/{name}?id=e{n}&event=t{n % 3}", LARGE + b"%d" % n)
    return content(hub, name)


# -- reading -----------------------------------------------------------------------------------


def test_every_read_sees_one_list(hub: Hub, name: str) -> None:
    text = fill(hub, name)
    assert len(files(hub, name)) == 3
    assert hub.file(name).resolve() == files(hub, name)[-1].resolve()
    answer = hub.get(f"/{name}")
    assert (answer.body, answer.headers["Accept-Ranges"]) == (text, "bytes")
    assert answer.headers["Last-Event-ID"] == "e4"
    middle = files(hub, name)[0].stat().st_size
    part = hub.get(f"/{name}", Range=f"bytes={middle - 7}-{middle + 6}")
    assert (part.status, part.body) == (206, text[middle - 7 : middle + 7])
    rows = text.splitlines(keepends=True)
    for n in range(5):
        found = hub.get(f"/{name}?after=e{n}")
        assert (found.body, found.headers["Esource-Resume"]) == (b"".join(rows[n + 1 :]), "exact")
        assert hub.get(f"/{name}?tail={n + 1}").body == b"".join(rows[4 - n :])
        assert hub.get(f"/{name}?before=e{n}").body == b"".join(rows[:n])
    assert hub.get(f"/{name}?event=t1").body == rows[1] + rows[4]
    assert hub.get(f"/{name}?from=t2").body == b"".join(rows[2:])
    assert hub.get(f"/{name}?until=t2").body == b"".join(rows[:3])


def test_what_is_published_is_decided_on_one_list(hub: Hub, name: str) -> None:
    text = fill(hub, name)
    for n in (0, 4):  # in the oldest file, and in the newest
        again = hub.post(f"/{name}?unique=1&id=e{n}&event=t{n % 3}", LARGE + b"%d" % n)
        assert (again.status, again.id) == (200, b"e%d" % n)
    rotate(hub, name)  # so that the newest event is in a closed file
    assert hub.post(f"/{name}?expect=e3&id=no", b"x").status == 412
    etag = hub.get(f"/{name}").headers["ETag"]
    assert hub.post(f"/{name}?id=e5", b"x", If_Match='"other"').status == 412
    assert hub.post(f"/{name}?id=e5", b"x", If_Match=etag).status == 201
    assert hub.post(f"/{name}?expect=e5&id=e6", b"x").status == 201
    assert content(hub, name) == text + b"e5\t\tx\ne6\t\tx\n"


def test_followers_go_on_over_closing_a_rotation_and_the_removal_of_what_they_have(
    hub: Hub, name: str
) -> None:
    fill(hub, name, 1)
    with (
        Stream(hub, f"/{name}?after=e0") as every,
        Stream(hub, f"/{name}?after=e0&event=t0&event=t1") as some,
    ):

        def expect(stop: int) -> None:
            ids = [b"e%d" % n for n in range(1, stop)]
            assert [event.id for event in every.read(len(ids))] == ids
            ids = [b"e%d" % n for n in range(1, stop) if n % 3 < 2]
            assert [event.id for event in some.read(len(ids))] == ids

        fill(hub, name, 4, first=1)
        expect(5)
        rotate(hub, name)
        fill(hub, name, 2, first=5)
        expect(7)
        files(hub, name)[0].unlink()
        assert hub.get(f"/{name}?limit=1").body.startswith(b"e2\t")
        files(hub, name)[0].unlink()
        fill(hub, name, 3, first=7)
        expect(10)
    assert "ERROR" not in hub.log


# -- names of what there is ----------------------------------------------------------------------


def test_etags_and_places_stay_over_closing_and_a_restart(hub: Hub, name: str) -> None:
    fill(hub, name, 4)
    etag = hub.get(f"/{name}").headers["ETag"]
    with Stream(hub, f"/{name}?prime=1") as stream:
        stream.read_until(b"\n\n")
        place = stream.body.partition(b"id: ")[2].partition(b"\n")[0].decode()
    assert place.startswith("@")
    for change in (partial(rotate, hub, name), hub.restart):
        change()
        assert hub.get(f"/{name}").headers["ETag"] == etag
        assert hub.get(f"/{name}", If_None_Match=etag).status == 304
    rows = fill(hub, name, 3, first=4).splitlines(keepends=True)
    answer = hub.get(f"/{name}", Last_Event_ID=place)
    assert answer.headers["Esource-Resume"] == "exact"
    assert answer.body == b"".join(rows[4:])
    assert hub.get(f"/{name}").headers["ETag"] != etag


def test_once_the_beginning_is_gone_whoever_asks_for_it_is_told(hub: Hub, name: str) -> None:
    times = [f"2026-01-0{n + 1}T00:00:00Z" for n in range(6)]
    for time in times:
        hub.publish(f"/{name}?id={time}", LARGE)
    before = hub.get(f"/{name}").headers["ETag"]
    size = files(hub, name)[0].stat().st_size
    files(hub, name)[0].unlink()
    text = content(hub, name)
    answer = hub.get(f"/{name}")
    assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, text, "none")
    assert answer.headers["ETag"] != before
    assert hub.get(f"/{name}", If_None_Match=before).status == 200
    part = hub.get(f"/{name}", Range=f"bytes={size}-")
    assert (part.status, part.body, part.headers["Accept-Ranges"]) == (200, text, "none")
    later = text[text.index(times[3].encode()) :]
    for after, verdict, body in [
        (times[0], "trimmed", text), ("2025-01-01T00:00:00Z", "trimmed", text),
        ("unknown", "trimmed", text), ("", "trimmed", text), (times[2], "exact", later),
        ("2026-01-03T12:00:00Z", "time", later),
    ]:  # fmt: skip
        answer = hub.get(f"/{name}?after={after}")
        assert (answer.headers["Esource-Resume"], answer.body) == (verdict, body), after
    assert hub.post(f"/{name}?id=next", b"x", If_Match=before).status == 201
    several = hub.get(f"/-/read?channel={name}&after=&format=ndjson")
    assert (several.body.count(b'"id"'), several.headers["Esource-Resume"]) == (5, "trimmed")
    hub.restart()
    assert hub.get(f"/{name}").body == text + b"next\t\tx\n"
    assert hub.get(f"/{name}?tail=100").body == text + b"next\t\tx\n"
    assert "ERROR" not in hub.log


def test_curl_does_not_take_a_copy_for_complete_that_is_as_long_as_what_is_left(
    hub: Hub, name: str
) -> None:
    """With a `Content-Length` of the size of its copy it says that there is nothing to do."""
    needs("curl")
    fill(hub, name, 3)
    files(hub, name)[0].unlink()
    left, copy = content(hub, name), hub.home / f"{name}.copy"
    for length in (len(left) - 1, len(left), len(left) + 1):
        copy.write_bytes(b"x" * length)
        result = hub.curl("-C", "-", "-o", str(copy), f"{hub.url}/{name}")
        assert (result.returncode, b"Cannot resume" in result.stderr) == (33, True), result.stderr
        assert copy.read_bytes() == b"x" * length


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "link", "dangling link"])
def test_a_file_that_cannot_be_closed_goes_on(hub: Hub, name: str, way: str) -> None:
    text = fill(hub, name, 2)
    following = hub.folder / f"{name}.{len(text):020}.tsv"
    if way == "folder":
        following.mkdir()
    elif way == "link":
        following.symlink_to("/etc/hostname")
    else:
        following.symlink_to("nowhere")
    fill(hub, name, 2, first=2)
    assert len(files(hub, name)[0].read_bytes()) > len(text)
    assert hub.get(f"/{name}?after=e1").headers["Esource-Resume"] == "exact"
    assert hub.get(f"/{name}").body.count(b"\n") == 4
    assert "cannot be closed, and goes on" in hub.log
    following.rmdir() if way == "folder" else following.unlink()


def test_a_link_without_files_is_no_channel_and_the_next_event_makes_it_one(
    hub: Hub, name: str
) -> None:
    fill(hub, name, 4)
    for path in files(hub, name):
        path.unlink()
    assert hub.file(name).is_symlink()
    assert hub.get(f"/{name}").body == b""
    hub.publish(f"/{name}?id=new", b"x")
    assert [path.read_bytes() for path in files(hub, name)] == [b"new\t\tx\n"]
    assert hub.rows(name) == [b"new\t\tx"]


@pytest.mark.parametrize("query", ["", "?format=ndjson", "?event=t0&event=t1"])
def test_a_read_that_is_slower_than_what_removes_its_rows_breaks_off(
    hub: Hub, name: str, query: str
) -> None:
    text = fill(hub, name, 40)
    with hub.connect() as connection:
        connection.sendall(f"GET /{name}{query} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        received = connection.recv(1000)
        for path in files(hub, name)[:-1]:
            path.unlink()
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                received += piece
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert f"Content-Length: {len(text)}".encode() in received or query
    assert len(received) < len(text) / 2
    assert not received.endswith(b"\r\n0\r\n\r\n")
    assert hub.get(f"/{name}?after=e39").headers["Esource-Resume"] == "exact"
    assert "Traceback" not in hub.log


def test_a_read_whose_rows_are_gone_before_its_answer_begins_is_told_what_is_kept(
    hub: Hub, name: str
) -> None:
    """Nobody has looked since: a place at the edge of a file is known by the one before it."""
    fill(hub, name, 8)
    paths = files(hub, name)
    first = hub.get(f"/{name}?format=sse&follow=0&prime=1&after=e3&limit=1").body
    place = first.partition(b"id: ")[2].partition(b"\n")[0].decode()
    assert place.endswith(f"-{int(paths[2].name.split('.')[1])}")
    paths[2].unlink()
    answer = hub.get(f"/{name}?limit=100", Last_Event_ID=place)
    assert (answer.status, answer.headers["Esource-Resume"]) == (200, "trimmed")
    assert answer.body == paths[3].read_bytes()


# -- in this process -----------------------------------------------------------------------------


def channel_in(folder: Path, rule: Rule) -> Channel:
    return Channel("orders", partial(Folder(folder, "never", [rule]).open, "orders")).open()


@pytest.mark.parametrize("types", [frozenset[bytes](), frozenset({b"t"})], ids=["all", "filter"])
def test_a_follower_whose_rows_are_removed_ends_and_skips_none(
    tmp_path: Path, types: frozenset[bytes]
) -> None:
    channel = channel_in(tmp_path, Rule("*", segment=1000))
    for n in range(50):
        publish(channel, Event(b"%d" % n, b"t", b"x" * 90))
    paths = sorted(tmp_path.glob("orders.[0-9]*.tsv"))
    log = channel.view.log
    for start, removed in ((0, 0), (1, 3)):
        offset = int(paths[start].name.split(".")[1])
        follower = channel.follow(log, offset, heartbeat=1000, types=types)
        paths[removed].unlink()
        with gevent.Timeout(PATIENCE_SECONDS):
            rows = b"".join(stretch.rows for stretch in follower)  # type: ignore[union-attr]
        assert rows == b"".join(path.read_bytes() for path in paths[start:removed])
    assert channel.refresh().log is log
    assert log.start == int(paths[4].name.split(".")[1])
    assert len(read_to_end(channel, log, log.begin)) == 50 - 4 * 10
    with pytest.raises(ConnectionResetError, match=r"orders\.tsv has lost rows"):
        list(channel.read(channel.view, 0, types))


def test_a_map_of_what_is_kept_still_finds_all_of_it(tmp_path: Path) -> None:
    """A zone may have begun before what is kept now."""
    row = b"x" * 980
    rows = [b"%06d\t\t%b\n" % (n, row) for n in range(3 * ZONE_BYTES // 1000)]
    text, cut = b"".join(rows), len(b"".join(rows[:500]))
    for start, part in ((0, text[:cut]), (cut, text[cut:])):
        (tmp_path / f"orders.{start:020}.tsv").write_bytes(part)
    channel = channel_in(tmp_path, Rule("*"))
    view, search = channel.view, Search(channel.view.log)
    search.later_than(view, 0, Work())  # maps it
    (tmp_path / f"orders.{0:020}.tsv").unlink()
    view = channel.refresh()
    assert view.log.begin == cut
    for n in (500, 501, 1600, len(rows) - 1):
        offset, verdict = search.after(view, b"%06d" % n)
        assert (offset, verdict.value) == (len(b"".join(rows[: n + 1])), "exact")
    assert search.after(view, b"000007")[1].value == "trimmed"


def test_the_state_of_the_end_survives_the_removal_of_what_was_before(tmp_path: Path) -> None:
    channel = channel_in(tmp_path, Rule("*", segment=1000))
    for n in range(40):
        publish(channel, Event(b"%d" % n, b"", b"x" * 200))
    before = channel.view
    for path in sorted(tmp_path.glob("orders.[0-9]*.tsv"))[:2]:
        path.unlink()
    assert channel.refresh().mark == before.mark == View.of(before.log).mark
    for path in sorted(tmp_path.glob("orders.[0-9]*.tsv"))[:-1]:
        path.unlink()
    publish(channel, Event(b"next", b"", b"x"))
    fresh = channel_in(tmp_path, Rule("*", segment=1000)).view
    assert (fresh.newest_id, fresh.end) == (b"next", channel.view.end)
    kept = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("orders.[0-9]*.tsv")))
    assert fresh.mark == zlib.crc32(kept)


def test_a_follower_of_several_channels_ends_when_rows_of_one_are_removed(tmp_path: Path) -> None:
    channel = channel_in(tmp_path, Rule("*", segment=1000))
    for n in range(30):
        publish(channel, Event(b"%d" % n, b"", b"x" * 90))
    paths = sorted(tmp_path.glob("orders.[0-9]*.tsv"))
    paths[1].unlink()
    with gevent.Timeout(PATIENCE_SECONDS):
        found = several.follow([channel], [Place(channel.view.log, 0)], 1000, None, None)
        rows = b"".join(each[1].rows for each in found if each)
    assert rows == paths[0].read_bytes()
