"""The command line: what it says, and the exit codes that scripts rely on."""

import subprocess
import sys
from pathlib import Path

import pytest

from esource import __version__
from tests.harness import PATIENCE_SECONDS, ROOT, Hub


def esource(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "esource", *arguments], capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_is_what_the_documentation_shows(word: str) -> None:
    done = esource(word)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"```text\n{done.stdout}```\n" in (ROOT / "docs" / "command.md").read_text()


@pytest.mark.parametrize("word", ["--version", "-v", "version"])
def test_the_version_is_printed(word: str) -> None:
    done = esource(word)
    assert (done.returncode, done.stdout) == (0, f"esource {__version__}\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "check",
            ("[--json]", "torn", "malformed", "order", "repeated", "changed", "gap", "ESOURCE_DIR"),
        ),
        ("rotate", ("CHANNEL", "--dir", "on disk", "esource rotate orders")),
        (
            "trim",
            ("--older-than", "--larger-than", "--dry-run", "from\nthe", "esource trim orders"),
        ),
        ("join", ("CHANNEL", "on disk", "esource join orders")),
        ("rm", ("CHANNEL", "from the disk", "esource rm orders")),
        ("erase", ("--reason", "--at", "--all", "on disk", "esource erase orders 17")),
        ("repair", ("before-repair", "ESOURCE_DIR")),
        ("serve", ("--bind", "--access-logfile")),
    ],
)
def test_each_command_explains_itself(command: str, words: tuple[str, ...]) -> None:
    done = esource(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: esource {command if command != 'serve' else ''}" in done.stdout
    for word in words:
        assert word in done.stdout


def test_exit_code_0_of_a_folder_without_faults_and_1_of_one_with(tmp_path: Path) -> None:
    (tmp_path / "orders.tsv").write_bytes(b"1\t\ta\n2\t\tto")
    assert esource("check", str(tmp_path)).returncode == 1
    assert esource("repair", str(tmp_path)).returncode == 0
    assert esource("check", str(tmp_path)).returncode == 0


def test_exit_code_1_if_nothing_can_be_done(own_hub: Hub) -> None:
    nowhere = own_hub.home / "nowhere"
    for command, folder in (("check", nowhere), ("repair", nowhere), ("repair", own_hub.folder)):
        done = esource(command, str(folder))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("esource: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("chek",),
        ("check", "--jsn"),
        ("check", "a", "b"),
        ("repair", "--json"),
        ("--bnd", "x"),
        ("check", "--against", "hub.example.org"),
        ("check", "-H", "no colon"),
        ("rotate",),
        ("rm", "a", "b"),
        ("trim", "orders"),
        ("trim", "orders", "--older-than", "90"),
        ("trim", "orders", "--older-than", "1d", "--larger-than", "1G"),
        ("erase", "orders", "1"),
        ("erase", "orders", "1", "--reason", " "),
        ("erase", "orders", "--reason", "x"),
        ("erase", "orders", "1", "--reason", "x", "--at", "1", "--all"),
    ],
)
def test_exit_code_2_of_a_line_that_makes_no_sense(arguments: tuple[str, ...]) -> None:
    done = esource(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_exit_code_0_of_a_hub_that_was_told_to_stop(own_hub: Hub) -> None:
    assert own_hub.stop() == 0


def test_exit_code_3_of_a_hub_that_fails_while_it_starts_to_serve(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    (hub.folder / ".writer.lock").mkdir(parents=True)
    assert hub.launch().wait(PATIENCE_SECONDS) == 3
    assert f"cannot write to the folder {hub.folder}: Is a directory" in hub.log
