"""`esource check`, also beside a hub, and `esource repair`."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esource.check import check
from esource.log.folder import Folder
from esource.rules import Rule
from tests.harness import Hub, Publishers

GOOD = b"2020-01-01T00:00:00.000001Z\t\ta\n2020-01-01T00:00:00.000002Z\t\tb\nmine\t\tc\n"


def esource(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "esource", *arguments], capture_output=True, text=True, check=False
    )


def left(folder: Path) -> set[str]:
    """Return the names of what is in a folder, its locks left out."""
    return {path.name for path in folder.iterdir()} - {".lock", ".writer.lock"}


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
    os.utime(folder / "wrong.tsv", (0, 0))  # nobody is writing to it
    assert [(found.line, found.kind) for found in check(folder, "wrong")] == [(line, kind)]
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
    assert (done.returncode, done.stdout) == (0, "1 file, 0 of them with something wrong\n")
    assert [path.name for path in folder.iterdir()] == ["good.tsv"]
    assert esource("repair", str(folder)).returncode == 0
    assert left(folder) == {"good.tsv"}
    assert (folder / "good.tsv").read_bytes() == GOOD


def test_rows_that_span_blocks_are_whole(folder: Path) -> None:
    (folder / "long.tsv").write_bytes(b"1\t\t" + b"x" * 3_000_000 + b"\n2\t\t\n")
    assert list(check(folder, "long")) == []


def in_segments(folder: Path, *pieces: bytes) -> list[Path]:
    """Make a channel of several files."""
    paths, offset = [], 0
    for piece in pieces:
        paths.append(folder / f"parts.{offset:020}.tsv")
        paths[-1].write_bytes(piece)
        offset += len(piece)
    (folder / "parts.tsv").symlink_to(paths[-1].name)
    return paths


FIRST, SECOND, THIRD = GOOD.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lambda paths: None, []),
        (lambda paths: paths[0].unlink(), []),  # the oldest is removed by rules, and by hand
        (lambda paths: paths[0].with_name("parts.tsv").unlink(), []),  # the hub makes it
        (lambda paths: paths[1].unlink(), [("parts.tsv", "gap")]),
        (lambda paths: paths[1].write_bytes(b"x"), [("parts.tsv", "gap"), ("parts.1.tsv", "torn")]),
        (lambda paths: paths[1].write_bytes(SECOND + b"late\t\t\n"), [("parts.1.tsv", "late")]),
        (lambda paths: paths[1].write_bytes(SECOND + b"half"), [("parts.1.tsv", "late")]),
        (
            lambda paths: (
                paths[0].with_name("parts.tsv").unlink(),
                paths[0].with_name("parts.tsv").symlink_to(paths[1].name),
            ),
            [("parts.tsv", "link")],
        ),
        (
            lambda paths: (
                paths[0].with_name("parts.tsv").unlink(),
                paths[0].with_name("parts.tsv").write_bytes(GOOD),
            ),
            [("parts.tsv", "link")],
        ),
        (lambda paths: paths[2].write_bytes(FIRST), [("parts.2.tsv", "order")]),
        (lambda paths: paths[2].write_bytes(SECOND), [("parts.2.tsv", "repeated")]),
        (
            lambda paths: (
                paths[0]
                .with_name("parts.erasures")
                .write_text(
                    '{"step": "begun", "id": "mine", "offset": 1, "size": 9, "modified": 1}'
                )
            ),
            [("parts.tsv", "erasure")],
        ),
    ],
)
def test_what_is_wrong_with_a_history_of_several_files_is_named(
    tmp_path: Path, harm: Callable[[list[Path]], object], found: list[tuple[str, str]]
) -> None:
    paths = in_segments(tmp_path, FIRST, SECOND, THIRD)
    harm(paths)
    names = {path.name: f"parts.{n}.tsv" for n, path in enumerate(paths)}
    findings = list(check(tmp_path, "parts"))
    assert [(names.get(each.file, each.file), each.kind) for each in findings] == found
    done = esource("check", str(tmp_path))
    assert done.returncode == bool(found)
    for finding in findings:
        assert f"{finding.file}" in done.stdout
        assert finding.text in done.stdout


def test_only_the_file_that_grows_is_repaired(tmp_path: Path) -> None:
    paths = in_segments(tmp_path, FIRST, SECOND + THIRD)
    for path in paths:
        path.write_bytes(path.read_bytes() + b"half")
    done = esource("repair", str(tmp_path))
    assert done.stdout.endswith("1 file, 1 repaired\n")
    assert [path.read_bytes() for path in paths] == [FIRST + b"half", SECOND + THIRD]


def test_beside_a_hub_nothing_is_locked_and_what_is_under_way_is_not_wrong(own_hub: Hub) -> None:
    hub = own_hub
    with Publishers(hub, "orders") as publishers:
        for _ in range(2):
            publishers.reach(50)
            done = esource("check", str(hub.folder))
            assert (done.returncode, done.stdout.split()[0]) == (0, "1"), done.stdout
    assert publishers.is_unharmed


def test_half_a_row_that_grows_to_a_whole_one_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    with (folder / "good.tsv").open("ab", buffering=0) as file:
        file.write(b"in two ")

        def go_on(seconds: float) -> None:
            waits.append(seconds)
            file.write(b"blocks\t" if len(waits) == 1 else b"\t\n")

        monkeypatch.setattr(time, "sleep", go_on)
        assert list(check(folder, "good")) == []
    assert waits == [1.0, 1.0]


def test_a_repair_cuts_the_torn_row_and_keeps_the_original(folder: Path) -> None:
    torn = GOOD + b"torn"
    (folder / "torn.tsv").write_bytes(torn)
    done = esource("repair", str(folder))
    assert (done.returncode, "2 files, 1 repaired" in done.stdout) == (0, True)
    assert (folder / "torn.tsv").read_bytes() == GOOD
    assert [p.read_bytes() for p in folder.glob("torn.tsv.before-repair-*")] == [torn]
    assert [p.read_bytes() for p in folder.glob("torn.tsv.torn-*")] == [b"torn"]
    assert esource("check", str(folder)).returncode == 0


def test_a_folder_that_a_hub_holds_is_not_repaired(own_hub: Hub) -> None:
    own_hub.publish("/held", "x")
    own_hub.file("torn").write_bytes(b"torn")
    done = esource("repair", str(own_hub.folder))
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
    assert done.stdout.startswith("1 file, 0 ")
    assert left(folder) == {"good.tsv", name}
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
    assert left(folder) == {"link.tsv"}
    assert secret.read_bytes() == b"torn"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",), ("repair",), ("check", "--against", "http://127.0.0.1:1"), ("rotate", "good"),
        ("trim", "good", "--older-than", "1d"), ("join", "good"), ("rm", "good"),
        ("erase", "good", "mine", "--reason", "x"),
    ],
)  # fmt: skip
def test_no_server_is_loaded_for_it(
    folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESOURCE_DIR", str(folder))
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
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False,
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
    assert (done.returncode, done.stdout) == (0, b"1 file, 0 of them with something wrong\n")
    percents = [int(percent) for percent in re.findall(r"\rlarge.tsv (\d+) %", shown)]
    assert len(percents) > 50
    assert percents == sorted(set(percents))
    assert percents[-1] == 100


@pytest.mark.parametrize("rules", [[], [Rule("*", segment=3 << 20)]], ids=["a file", "segments"])
def test_a_byte_that_has_changed_is_found_in_its_mib_and_nothing_is_written(
    tmp_path: Path, rules: list[Rule]
) -> None:
    row = b"\t\t" + b"x" * 1000 + b"\n"
    log = Folder(tmp_path, "never", rules).open("orders")
    for start in range(0, 6400, 3200):
        log.append(None, [b"".join(b"%05d" % n + row for n in range(start, start + 3200))])
    for _ in log.learn(log.end):
        pass
    assert kinds(tmp_path) == []
    path = sorted(tmp_path.glob("orders.[0-9]*.tsv" if rules else "orders.tsv"))[0]
    status = path.stat()
    with path.open("r+b") as file:
        file.seek((3 << 19) + 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(b"y" if byte == b"x" else b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    files = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    assert [(f.file, f.kind) for f in check(tmp_path, "orders")] == [(path.name, "changed")]
    assert "MiB 1 " in next(check(tmp_path, "orders")).text
    assert {e.name: e.read_bytes() for e in tmp_path.iterdir() if e.is_file()} == files
    index = path.with_suffix(".idx")
    index.write_bytes(index.read_bytes()[:-20] + b"not an index at all\n")
    torn = index.read_bytes()
    list(check(tmp_path, "orders"))
    assert index.read_bytes() == torn


def kinds(folder: Path) -> list[str]:
    return [finding.kind for finding in check(folder, "orders")]
