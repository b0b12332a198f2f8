"""`esource pipe`: a channel made of another, exactly once."""

import sys
from pathlib import Path

import pytest

from tests.harness import Hub, eventually, size
from tests.harness.client import Numbers, command, kill_again_and_again, run, running

UPPER = """
import json, sys
for line in sys.stdin:
    event = json.loads(line)
    event["data"] = event["data"].upper()
    if event["data"] != "LEFT OUT":
        print(json.dumps(event), flush=True)
"""
CMD = (sys.executable, "-c", UPPER)


def test_what_the_command_makes_of_events_is_the_other_channel(hub: Hub) -> None:
    for id, text in (("a", "one"), ("b", "left out"), ("c", "two\nlines")):
        hub.publish(f"/made-of?id={id}&event=t", text)
    with running("pipe", f"{hub.url}/made-of", f"{hub.url}/made", "--", *CMD) as pipe:
        eventually(lambda: hub.rows("made") == [b"a\tt\tONE", b"c\tt\tTWO\x0bLINES"])
        hub.publish("/made-of?id=d", "live")
        eventually(lambda: hub.rows("made")[2:] == [b"d\t\tLIVE"])
        pipe.terminate()
        assert pipe.wait(30) == 0


def test_killed_at_any_moment_it_loses_doubles_and_turns_round_nothing(own_hub: Hub) -> None:
    hub = own_hub
    numbers = Numbers(hub, "numbers")
    words = command("pipe", f"{hub.url}/numbers", f"{hub.url}/derived", "--", *CMD)

    def halfway() -> None:
        hub.kill()
        hub.start()

    kill_again_and_again(words, size(4, 50), lambda: len(hub.rows("derived")), halfway)
    count = numbers.end(size(100, 10_000))
    with running(*words[3:]) as pipe:
        hub.publish("/numbers?id=last", "last")
        eventually(lambda: hub.rows("derived")[-1:] == [b"last\t\tLAST"])
        pipe.terminate()
        assert pipe.wait(30) == 0
    assert hub.rows("derived")[:-1] == hub.rows("numbers")[:-1]
    assert len(hub.rows("numbers")) == count + 1


@pytest.mark.parametrize("first", ["2026-01-01T00:00:00.000001Z", "x"])
@pytest.mark.parametrize("resumed", [False, True])
def test_it_ends_at_an_id_that_comes_again(hub: Hub, first: str, resumed: bool) -> None:
    channel = f"again-{len(first)}-{resumed}"
    second = first.replace("1Z", "2Z") + ("" if "Z" in first else "2")
    for id in (first, second):
        hub.publish(f"/{channel}?id={id}", "fine")
    words = ("pipe", f"{hub.url}/{channel}", f"{hub.url}/{channel}-out", "--", *CMD)
    if resumed:
        with running(*words):
            eventually(lambda: len(hub.rows(f"{channel}-out")) == 2)
    hub.publish(f"/{channel}?id={first}", "again")
    done = run(*words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
    assert f"more than one event with the id {first!r}" in done.stderr
    assert [row.split(b"\t")[0].decode() for row in hub.rows(f"{channel}-out")] == [first, second]


def test_it_ends_at_an_event_without_an_id(hub: Hub) -> None:
    hub.file("nameless").write_bytes(b"1\t\tfine\n\t\tno id\n")
    hub.get("/nameless")
    done = run("pipe", f"{hub.url}/nameless", f"{hub.url}/named", "--", *CMD)
    assert done.returncode == 1
    assert "without an id, after '1'" in done.stderr
    assert hub.rows("named") == [b"1\t\tFINE"]


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("import sys; sys.stdin.readline(); sys.exit(7)", "ended with 7"),
        ("import sys; sys.stdin.readline()", "ended with 0"),
        ("print('no json', flush=True); input()", "no line of NDJSON"),
        ('print(\'{"id":"other","data":""}\', flush=True); input(); input()', "'other'"),
        ('input(); print(\'{"id":"1","data":"","more":1}\', flush=True); input()', "more"),
    ],
)
def test_a_command_that_does_not_keep_to_it_ends_it(hub: Hub, script: str, text: str) -> None:
    if not hub.rows("piped"):
        hub.publish("/piped?id=1", "x")
    done = run("pipe", f"{hub.url}/piped", f"{hub.url}/unpiped", "--", sys.executable, "-c", script)
    assert done.returncode == 1
    assert text in done.stderr.splitlines()[-1]
    assert hub.rows("unpiped") == []


def test_without_the_event_that_it_made_last_it_ends(hub: Hub) -> None:
    hub.publish("/lost?id=1", "x")
    hub.publish("/kept?id=of-another", "x")
    done = run("pipe", f"{hub.url}/lost", f"{hub.url}/kept", "--", *CMD)
    assert done.returncode == 1
    assert "has no event 'of-another'" in done.stderr
    assert len(hub.rows("kept")) == 1


def test_it_waits_for_a_hub_that_is_not_there_yet(own_hub: Hub, tmp_path: Path) -> None:
    own_hub.publish("/waits?id=1", "x")
    own_hub.stop()
    with running("pipe", f"{own_hub.url}/waits", f"{own_hub.url}/waited", "--", *CMD):
        own_hub.start()
        eventually(lambda: own_hub.rows("waited") == [b"1\t\tX"])
