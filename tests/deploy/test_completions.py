"""The completions: what Tab offers, in a real bash and in a real zsh, at a terminal.

That they say what the code does, `tests/docs` sees to.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from esource import __main__ as main
from esource.command.settings import deploy
from tests.harness import PATIENCE_SECONDS, ROOT, needs

FOLDER = ROOT / "deploy" / "completions"
READY, END = "READY>", "\x1e"
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        f"""\
bind 'set enable-bracketed-paste off'; bind 'set bell-style none'
. {FOLDER}/esource.bash; PS1='{READY}'
show() {{ printf '<%s>' "$@"; printf '\\036\\n'; }}
esource() {{ show "$@"; }}
""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        f"""\
unset zle_bracketed_paste; setopt no_beep no_prompt_sp
fpath=({FOLDER} $fpath); autoload -Uz compinit; compinit -u -D; PS1='{READY}'
show() {{ printf '<%s>' "$@"; printf '\\036\\n'; }}
esource() {{ show "$@"; }}
""",
    ),
}


class Shell:
    """A shell at a terminal, in which `esource` prints its arguments."""

    def __init__(self, name: str, home: Path) -> None:
        words, setup = SHELLS[name]
        needs(words[0])
        (home / "setup").write_text(setup)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        kept = {key: value for key, value in os.environ.items() if "ESOURCE" not in key}
        environ = {**kept, "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8", "HISTFILE": ""}
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *words], cwd=home, stdin=slave, stdout=slave, stderr=slave,
            env=environ,
        )  # fmt: skip
        os.close(slave)
        self._shown = ""
        self.type(". ./setup\n")
        self.read(READY)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read(self, until: str) -> str:
        """Return what is shown up to a text; wait for that."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while until not in self._shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{until!r} is not shown: {self._shown!r}"
            if select.select([self._master], [], [], left)[0]:
                self._shown += os.read(self._master, 1 << 16).decode(errors="replace")
        taken, _, self._shown = self._shown.partition(until)
        return taken

    def completed(self, line: str) -> list[str]:
        """Return the arguments of `esource` once Tab was pressed after a line, and then Enter."""
        self.type(f"{line}\t\n")
        found = self.read(END)
        self.read(READY)
        return re.findall("<(.*?)>", found)

    def close(self) -> None:
        os.close(self._master)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module", params=SHELLS)
def shell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    home = tmp_path_factory.mktemp("home")
    segment = "events/metrics-1.00000000000000000000.tsv"
    for path in ("events/orders.tsv", segment, "other/teas.tsv"):
        (home / path).parent.mkdir(exist_ok=True)
        (home / path).write_text("")
    (home / "my cursor").write_text("")
    shell = Shell(request.param, home)
    try:
        yield shell
    finally:
        shell.close()


@pytest.mark.parametrize(
    ("line", "wanted"),
    {
        "esource fol": ["follow"],
        "esource vers": ["version"],
        "esource follow --curs": ["follow", "--cursor"],
        "esource follow --cursor my": ["follow", "--cursor", "my cursor"],
        "esource follow --format nd": ["follow", "--format", "ndjson"],
        "esource rotate ord": ["rotate", "orders"],
        "esource trim --larger-than 1G metr": ["trim", "--larger-than", "1G", "metrics-1"],
        "esource rm --dir other te": ["rm", "--dir", "other", "teas"],
        "esource export --dir other te": ["export", "--dir", "other", "teas"],
        "esource import --dir events orders met": [
            "import", "--dir", "events", "orders", "metrics-1"
        ],
        "esource check oth": ["check", "other"],
        "esource erase orders 17 --reas": ["erase", "orders", "17", "--reason"],
        "esource systemd esource.so": ["systemd", "esource.socket"],
        "esource config --env": ["config", "--env-file"],
        "esource serve --access": ["serve", "--access-logfile"],
        "esource --log-level inf": ["--log-level", "info"],
        "esource pipe a b -- sha256s": ["pipe", "a", "b", "--", "sha256sum"],
    }.items(),
)  # fmt: skip
def test_tab_completes(shell: Shell, line: str, wanted: list[str]) -> None:
    found = shell.completed(line)
    # A shell may offer the `=`, and a slash for what is below.
    assert [re.sub("[=/]$", "", word) for word in found] == wanted


@pytest.mark.parametrize(
    "line", ["esource follow htt", "esource no-command ", "esource erase orders 1"]
)
def test_what_nobody_knows_is_left_alone(shell: Shell, line: str) -> None:
    assert shell.completed(line) == line.split()[1:]


def offered(*words: str) -> set[str]:
    """Return all that bash offers for the last of the words."""
    needs("bash")
    script = (
        '. "$1"; shift; [[ $(complete -p esource) = "complete -F _esource esource" ]] || exit 9; '
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _esource; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-uc", script, "-", str(FOLDER / "esource.bash"), *words],
        capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


def test_each_command_and_each_option_is_offered() -> None:
    assert offered("esource", "") == {*main.COMMANDS, "serve", "version", "--help"}
    for name, command in main.COMMANDS.items():
        options = set(command.parser()._option_string_actions)
        assert offered("esource", name, "-") == options
    assert offered("esource", "systemd", "") == {
        path.name for path in (deploy() / "systemd").iterdir()
    }
    assert offered("esource", "follow", "--format", "=", "") == {"ndjson", "tsv", "raw"}


def test_gunicorn_knows_the_options_that_are_offered_for_serve() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--help"], capture_output=True, text=True, check=True,
        timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    options = offered("esource", "serve", "-")
    assert len(options) > 5
    assert options <= set(re.findall(r"--[\w-]+", done.stdout))
