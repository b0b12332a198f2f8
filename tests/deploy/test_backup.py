"""`deploy/backup.md`: its commands, as they stand there, on a hub that is busy."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import ROOT, Hub, Stream, needs, running_hub, size
from tests.harness.load import load_on
from tests.harness.rows import ids_of, rows_of

TEXT = (ROOT / "deploy" / "backup.md").read_text()
WALKS = [(ROOT / name).read_text() for name in ("README.md", "docs/recipes.md")]
# Of the walk and the recipes, and of the text itself.
DOWNLOADS = [
    *re.findall(r"^\$ (curl -.* -o .* localhost:9000/orders)$", "".join(WALKS), re.MULTILINE),
    *re.findall(r"^status=.* -o .* localhost:9000/orders.*$", TEXT, re.MULTILINE),
]
assert len(DOWNLOADS) == 4
ROUNDS = size(3, 5)


def command(heading: str, nth: int = 0) -> str:
    """Return a block of commands below a heading."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks: list[str] = re.findall(r"^```sh\n(.*?)```$", section, re.MULTILINE | re.DOTALL)
    return blocks[nth]


def run(text: str, hub: Hub, cwd: Path) -> None:
    """Run commands of the text, with the test's places in place of theirs."""
    for theirs, ours in (
        ("/var/lib/esource", str(hub.home)),
        ("/srv/", f"{cwd}/"),
        ("localhost:9000", f"127.0.0.1:{hub.port}"),
    ):
        text = text.replace(theirs, ours)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", text],
        env={**os.environ, "PATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, text + done.stdout + done.stderr


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """Where backups are."""
    away = tmp_path / "away"
    (away / "backup" / "esource").mkdir(parents=True)
    return away


def check_copy(copy: Path, home: Path, before: set[str], original: Path) -> None:
    """Check a backup: a hub of its own serves it, with all that was there before it began."""
    (home / "events").mkdir(parents=True)
    (home / "events" / "orders.tsv").write_bytes(copy.read_bytes())
    with running_hub(home) as second:
        served = second.get("/orders").body
        second.publish("/orders?id=after", "the restored channel goes on")
        assert second.rows("orders")[-1] == b"after\t\tthe restored channel goes on"
    assert served.endswith(b"\n")
    assert original.read_bytes().startswith(served)
    assert before <= set(ids_of(served.split(b"\n")[:-1]))


def by_rsync(hub: Hub, away: Path) -> Path:
    needs("rsync")
    run(command("Back up with rsync"), hub, away)
    folder = away / "backup" / "esource"
    assert not list(folder.glob(".*lock"))
    return folder / "orders.tsv"


def by_curl(hub: Hub, away: Path) -> Path:
    run(command("Back up with curl"), hub, away)
    copy = away / "orders.tsv"
    assert copy.read_bytes().endswith(b"\n")
    return copy


@pytest.mark.parametrize("back_up", [by_rsync, by_curl])
def test_a_backup_of_a_busy_hub_has_all_that_was_acknowledged_before(
    own_hub: Hub, away: Path, back_up: Callable[[Hub, Path], Path]
) -> None:
    with load_on(own_hub, "orders") as load:
        for n in range(ROUNDS):
            load.goes_on()
            before = load.acknowledged_ids()
            copy = back_up(own_hub, away)
            check_copy(copy, away / f"second{n}", before, own_hub.file("orders"))
    back_up(own_hub, away)
    back_up(own_hub, away)  # and when there is nothing new
    assert copy.read_bytes() == own_hub.file("orders").read_bytes()
    load.check(own_hub.rows("orders"))


@pytest.mark.parametrize("line", DOWNLOADS)
def test_a_download_that_is_refused_does_not_become_the_copy(
    own_hub: Hub, away: Path, line: str
) -> None:
    copy = away / re.findall(r"-o (\S+)", line)[0]
    own_hub.file("orders").mkdir()
    assert own_hub.get("/orders").status == 503
    with pytest.raises(AssertionError):
        run(line, own_hub, away)
    own_hub.file("orders").rmdir()
    own_hub.publish("/orders", "one coffee")
    run(line, own_hub, away)
    assert copy.read_bytes() == own_hub.file("orders").read_bytes()


def test_a_torn_copy_is_repaired_by_the_hub_and_by_the_next_run(own_hub: Hub, away: Path) -> None:
    """What rsync may catch in the middle of a write."""
    for n in range(3):
        own_hub.publish(f"/orders?id={n}", "data")
    copy = by_rsync(own_hub, away)
    copy.write_bytes(copy.read_bytes()[:-3])
    check_copy(copy, away / "second", {"0", "1"}, own_hub.file("orders"))
    assert by_rsync(own_hub, away).read_bytes() == own_hub.file("orders").read_bytes()


def archive(hub: Hub, away: Path) -> bytes:
    """Close, and move what is closed into the archive; return all rows that are there."""
    needs("zstd")
    run(command("Rotate and archive", 1), hub, away)
    return unpacked(hub)


def unpacked(hub: Hub) -> bytes:
    packed = sorted((hub.home / "archive").glob("orders.*.zst"))
    done = subprocess.run(["zstdcat", *map(str, packed)], capture_output=True, check=True)
    return done.stdout


def test_an_archive_of_a_busy_channel_loses_no_event_and_no_follower_misses_one(
    own_hub: Hub, away: Path
) -> None:
    before = b""
    with load_on(own_hub, "orders") as load:
        for _ in range(ROUNDS):
            load.goes_on(10)
            archived = archive(own_hub, away)
            assert archived.startswith(before), "what was archived has changed"
            before = archived
        load.goes_on(10)
    load.check([*before.split(b"\n")[:-1], *own_hub.rows("orders")])
    assert load.follower.connections == 1
    assert "error" not in own_hub.log.lower()


def test_the_nightly_commands_close_a_file_and_keep_what_is_young(own_hub: Hub, away: Path) -> None:
    ids = [own_hub.publish("/orders", str(n)) for n in range(3)]
    for _ in range(2):
        run(command("Rotate and archive"), own_hub, away)
    own_hub.publish("/orders?id=last", "3")
    answer = own_hub.get("/orders", Last_Event_ID=ids[0])
    assert answer.headers["Esource-Resume"] == "exact"
    assert ids_of(answer.body.split(b"\n")[:-1]) == [*ids[1:], "last"]
    assert len(list(own_hub.folder.glob("orders.[0-9]*.tsv"))) == 2


def test_a_copy_goes_on_after_its_last_row_once_the_beginning_is_gone(
    own_hub: Hub, away: Path
) -> None:
    own_hub.publish("/orders?id=1", "old")
    by_curl(own_hub, away)
    archive(own_hub, away)
    own_hub.publish("/orders?id=2", "of another size")
    with pytest.raises(AssertionError):
        run(command("Back up with curl"), own_hub, away)
    copy, after = away / "orders.tsv", command("Back up with curl", 1)
    assert copy.read_bytes() == b"1\t\told\n"
    run(after, own_hub, away)  # what follows the copy's last row may be gone, for all it knows
    assert copy.read_bytes() == b"1\t\told\n"
    copy.write_bytes(own_hub.get("/orders").body)
    own_hub.publish("/orders?id=3", "newer")
    run(after, own_hub, away)
    assert ids_of(rows_of(copy)) == ["2", "3"]


def test_a_channel_is_restored_while_the_hub_runs(own_hub: Hub, away: Path) -> None:
    for n in range(3):
        own_hub.publish(f"/orders?id={n}", "data")
    content = by_rsync(own_hub, away).read_bytes()
    own_hub.file("orders").unlink()
    assert own_hub.get("/orders").body == b""
    run(command("Restore"), own_hub, away)
    assert own_hub.get("/orders").body == content
    own_hub.publish("/orders?id=3", "data")
    assert ids_of(own_hub.rows("orders")) == ["0", "1", "2", "3"]


def test_a_restore_does_not_replace_a_file(own_hub: Hub, away: Path) -> None:
    own_hub.publish("/orders?id=old", "data")
    by_rsync(own_hub, away)
    own_hub.publish("/orders?id=new", "data")
    with suppress(AssertionError):  # newer versions of `mv` say that they have not
        run(command("Restore"), own_hub, away)
    assert ids_of(own_hub.rows("orders")) == ["old", "new"]


def test_an_archive_is_added_to_a_channel_again(own_hub: Hub, away: Path) -> None:
    own_hub.publish("/orders?id=1", "old")
    by_rsync(own_hub, away)
    own_hub.file("orders").unlink()
    own_hub.publish("/orders?id=2", "new")
    run(command("Restore", 1), own_hub, away)
    assert ids_of(own_hub.rows("orders")) == ["2", "1"]


SCALA = (
    "2017-04-05T11:40:10.793Z\t\tone coffee\n"
    "2017-04-05T11:40:11Z\tpaid\ttwo teas\n"
    "2017-04-05T11:40:11.5Z\t\t{\"umlaut\": \"ä\", \"tab\": \"\t\"}\n"
    "2017-04-05T11:40:11.500000001Z\tpaid\t\n"
).encode()  # fmt: skip


def test_the_scala_hubs_channels_go_on_here(tmp_path: Path, away: Path) -> None:
    """Its ids have as many digits as its clock had: none, three, up to nine."""
    needs("rsync")
    old = away / "eventsource-hub" / "events"
    old.mkdir(parents=True)
    first, second = SCALA[:60], SCALA[60:]  # the Scala hub is writing
    (old / "orders.tsv").write_bytes(first)
    (old / "not-a-channel.txt").write_text("x")
    hub = Hub(tmp_path)
    hub.folder.mkdir()
    whole = command("Move in from the Scala hub")
    running, _, stopped = whole.partition("# stop the Scala hub here\n")
    run(running, hub, away)
    with (old / "orders.tsv").open("ab") as file:
        file.write(second)
    run(stopped, hub, away)
    try:
        hub.start()
        assert [path.name for path in hub.folder.glob("[!.]*")] == ["orders.tsv"]
        assert hub.get("/orders").body == SCALA
        rows = SCALA.split(b"\n")[:-1]
        for n, row in enumerate(rows):
            last = row.split(b"\t")[0].decode()
            answer = hub.get("/orders?format=tsv", Last_Event_ID=last)
            assert answer.body.split(b"\n")[:-1] == rows[n + 1 :]
        assert hub.get("/orders?since=2017-04-05T11:40:11.2Z").body == b"\n".join([*rows[2:], b""])
        id = hub.publish("/orders", "new")
        assert id > rows[-1].split(b"\t")[0].decode()
        with Stream(hub, "/orders", Last_Event_ID="2017-04-05T11:40:11.5Z") as stream:
            assert stream.headers["Esource-Resume"] == "exact"
            assert [event.data for event in stream.read(2)] == [b"", b"new"]
    finally:
        hub.stop()
