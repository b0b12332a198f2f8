"""`esource check` and `esource repair`: the files while no hub runs."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from esource.check import check
from tests.harness import Hub

GOOD = b"2020-01-01T00:00:00.000001Z\t\ta\n2020-01-01T00:00:00.000002Z\t\tb\nmine\t\tc\n"


def esource(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "esource", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.tsv").write_bytes(GOOD)
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "line", "kind"),
    [
        (GOOD + b"torn", 4, "torn"),
        (GOOD + b"no tabs\n", 4, "malformed"),
        (b"one\ttab\n" + GOOD, 1, "malformed"),
        (GOOD + b"2020-01-01T00:00:00.000001Z\t\tx\n", 4, "order"),
        (b"2020-01-01T00:00:00.000001Z\t\tx\n" + GOOD, 2, "repeated"),
        (GOOD + b"mine\t\tx\n", 4, "repeated"),
    ],
)
def test_what_is_wrong_is_found_and_named(folder: Path, rows: bytes, line: int, kind: str) -> None:
    (folder / "wrong.tsv").write_bytes(rows)
    assert [(found.line, found.kind) for found in check(folder / "wrong.tsv")] == [(line, kind)]
    done = esource("check", str(folder))
    assert done.returncode == 1
    assert f"wrong.tsv, line {line}: " in done.stdout
    assert "2 files, 1 of them with something wrong" in done.stdout
    report = json.loads(esource("check", "--json", str(folder)).stdout)
    assert report["files"] == 2
    assert [(found["line"], found["kind"]) for found in report["findings"]] == [(line, kind)]
    assert (folder / "wrong.tsv").read_bytes() == rows


def test_a_good_folder_is_good_and_nothing_is_written(folder: Path) -> None:
    done = esource("check", str(folder))
    assert (done.returncode, done.stdout) == (0, "1 files, 0 of them with something wrong\n")
    assert esource("repair", str(folder)).returncode == 0
    assert [path.name for path in folder.iterdir()] == ["good.tsv"]


def test_rows_that_span_blocks_are_whole(folder: Path) -> None:
    (folder / "long.tsv").write_bytes(b"1\t\t" + b"x" * 3_000_000 + b"\n2\t\t\n")
    assert list(check(folder / "long.tsv")) == []


def test_a_repair_cuts_the_torn_row_and_keeps_the_original(folder: Path) -> None:
    torn = GOOD + b"torn"
    (folder / "torn.tsv").write_bytes(torn)
    done = esource("repair", str(folder))
    assert (done.returncode, "2 files, 1 repaired" in done.stdout) == (0, True)
    assert (folder / "torn.tsv").read_bytes() == GOOD
    assert [p.read_bytes() for p in folder.glob("torn.tsv.before-repair-*")] == [torn]
    assert [p.read_bytes() for p in folder.glob("torn.tsv.torn-*")] == [b"torn"]
    assert esource("check", str(folder)).returncode == 0


@pytest.mark.parametrize("command", ["check", "repair"])
def test_a_folder_that_a_hub_holds_is_left_alone(own_hub: Hub, command: str) -> None:
    own_hub.publish("/held", "x")
    own_hub.file("torn").write_bytes(b"torn")
    done = esource(command, str(own_hub.folder))
    assert done.returncode == 1
    assert "is held by a hub" in done.stderr
    assert done.stderr.count("\n") == 1
    assert own_hub.file("torn").read_bytes() == b"torn"


@pytest.mark.parametrize("command", ["check", "repair"])
@pytest.mark.parametrize("name", ["ab.tsv", "not a name.tsv", ".hidden.tsv", "x" * 129 + ".tsv"])
def test_a_file_that_no_hub_would_open_is_none_of_its_business(
    folder: Path, name: str, command: str
) -> None:
    (folder / name).write_bytes(b"torn")
    done = esource(command, str(folder))
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("1 files, 0 ")
    assert {path.name for path in folder.iterdir()} == {"good.tsv", name}
    assert (folder / name).read_bytes() == b"torn"


@pytest.mark.parametrize("command", ["check", "repair"])
def test_a_link_is_not_followed_and_what_it_leads_to_is_not_copied(
    tmp_path: Path, command: str
) -> None:
    folder, secret = tmp_path / "events", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(b"torn")
    (folder / "link.tsv").symlink_to(secret)
    done = esource(command, str(folder))
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("0 files, 0 ")
    assert [path.name for path in folder.iterdir()] == ["link.tsv"]
    assert secret.read_bytes() == b"torn"


@pytest.mark.parametrize("command", ["check", "repair"])
def test_no_server_is_loaded_for_it(folder: Path, command: str) -> None:
    program = """
import sys
from esource.__main__ import main
sys.argv = ["esource", *sys.argv[1:]]
try:
    main()
finally:
    print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, command, str(folder)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    loaded = done.stderr.splitlines()[-1]
    assert "'esource'" in loaded
    for library in ("gevent", "greenlet", "flask", "gunicorn", "prometheus_client"):
        assert f"'{library}'" not in loaded


@pytest.mark.parametrize("command", ["check", "repair"])
def test_nothing_that_a_file_says_or_is_called_reaches_a_terminal_with_a_control_character(
    tmp_path: Path, command: str
) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    folder = tmp_path / f"events{evil}"
    folder.mkdir()
    row = f"id{evil}\t\tx\n".encode() + b"\xff\x1b\t\tx\n"
    (folder / "evil.tsv").write_bytes(row + row + b"\x1btorn")
    (folder / "dead.tsv").mkdir()
    for arguments in ([str(folder)], [str(tmp_path / f"no{evil}")], ["--json", str(folder)]):
        if "--json" in arguments and command == "repair":
            continue
        done = esource(command, *arguments)
        assert "evil" in done.stdout + done.stderr or done.returncode
        shown = (done.stdout + done.stderr).replace("\n", "")
        assert shown
        assert shown.isprintable(), shown


@pytest.mark.parametrize("arguments", [["chekc"], ["check", "--nope"], ["repair", "a", "b"]])
def test_a_command_line_that_makes_no_sense_exits_with_2(arguments: list[str]) -> None:
    assert esource(*arguments).returncode == 2


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = esource("check", str(tmp_path / "no"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_terminal_is_told_how_far_a_large_file_has_been_read(tmp_path: Path) -> None:
    row = b"%d\t\t" + b"x" * (1 << 20) + b"\n"
    with (tmp_path / "large.tsv").open("wb") as file:
        for number in range(70):
            file.write(row % number)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "esource", "check", str(tmp_path)],
                stdout=subprocess.PIPE, stderr=theirs, check=False,
            )  # fmt: skip
        finally:
            os.close(theirs)
        shown = terminal.read(1 << 16).decode()
    assert (done.returncode, done.stdout) == (0, b"1 files, 0 of them with something wrong\n")
    percents = [int(percent) for percent in re.findall(r"\rlarge.tsv (\d+) %", shown)]
    assert len(percents) > 50
    assert percents == sorted(set(percents))
    assert percents[-1] == 100
