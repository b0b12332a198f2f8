"""The man page, as `man` shows it. That it says what the code does, `tests/docs` sees to."""

import os
import re
import subprocess
from dataclasses import fields

import pytest

from esource import __main__ as main
from esource.config import Config, variable
from tests.harness import PATIENCE_SECONDS, ROOT, needs

PAGE = ROOT / "deploy" / "man" / "esource.1"


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*words, str(PAGE)], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def shown() -> str:
    """What a reader sees, a paragraph in each line."""
    [man] = needs("man")
    done = run(man, "--no-hyphenation", "-l")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("device", ["utf8", "ascii"])
def test_nothing_is_wrong_with_its_macros(device: str) -> None:
    [groff] = needs("groff")
    done = run(groff, "-man", "-ww", "-z", f"-T{device}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_in_ascii_so_that_no_program_has_to_guess() -> None:
    assert PAGE.read_bytes().isascii()


def test_it_shows_each_command_and_each_setting(shown: str) -> None:
    for command in main.COMMANDS.values():
        assert f"   esource {command.name} {command.usage}".replace("…", "...").rstrip() in shown
    for setting in fields(Config):
        assert re.search(rf"^ +{variable(setting.name)}\b", shown, re.MULTILINE)


def test_what_one_would_copy_from_it_is_as_it_must_be_typed(shown: str) -> None:
    """Not with a hyphen for a minus, or with quotation marks for apostrophes."""
    assert "esource erase orders 17 --reason 'request of 12 May'\n" in shown
    assert "curl -N -H 'Accept: text/event-stream' localhost:9000/orders\n" in shown
    assert not re.search("[\u2010\u2018\u2019\u2212]", shown)


def test_what_is_known_of_it_without_opening_it_is_one_line() -> None:
    [lexgrog] = needs("lexgrog")
    assert f'{PAGE}: "esource - ' in run(lexgrog).stdout
