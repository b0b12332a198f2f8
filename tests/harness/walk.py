"""Somebody who types what a page says, and looks at what is shown.

The walk of a page is its `console` blocks, in order:

- `$ COMMAND` is typed into a terminal, in one scratch folder, and must show the lines that follow.
- A command that follows (`curl -N`, `esource follow`, `esource pipe`, a program that is called
  `live` or `ship`; not in a pipe, and without an end that is near) is typed into a terminal of its
  own and goes on there, once it has shown its lines.
- A block that begins without a command is what the last follower still running shows next.
- `^C` as the last line ends that follower. Before, nothing may be there that is not shown.
- `.venv/bin/gunicorn` stops the hub with Ctrl-C, and starts it anew; `systemctl stop esource` and
  `start` do the one and the other.
- A line that is `...` stands for any lines.

What is printed and what the page shows must be the same, but for what differs each time: an id
that is a time stands for one real id, wherever it is shown, in commands too; what `VARYING` matches
stands for anything that it matches; `localhost:9000` stands for the address of the test's hub.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.harness.document import Saved, Step
from tests.harness.hub import Hub
from tests.harness.machine import ROOT
from tests.harness.terminal import Terminal
from tests.harness.waiting import PATIENCE_SECONDS, eventually

SERVE = ".venv/bin/gunicorn"
STOP, START = "systemctl stop esource", "systemctl start esource"
FOLLOWS = re.compile(
    r"(curl -\w*N |esource (follow|pipe) |\w+ ([Ll]ive|ship)\w*\.)"
    r"(?!.*(\||--limit|--until|--once|timeout=\d\b))"
)
ANY_LINES = "..."
ID = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
VARYING = [
    r"(?<=: )\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$",  # a date
    r'(?<=^ETag: )"[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"$',
    r"(?<=@)[0-9a-f]{12}(?=-\d)",  # of a place
    r"(?<=^retry: )\d{4}$",
    r'(?<="by": )"[^"]+"',
    r"(?<=OpenSSL/)[\w.]+(?=: error)",
    r"(?<=  )\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(?=  )",  # when a channel was written to, and
    r"(?<=  )\d\.\d(?=  )",  # how many events it gets
]


class Checkout(Hub):
    """Plain `gunicorn` in the repository, in a terminal of its own."""

    enter: Sequence[str] = ()  # words before that of a shell, which bring it to where the hub is

    def command(self) -> list[str]:
        """Return what the set-up says."""
        return [sys.executable, "-m", "gunicorn"]

    def launch(self, *options: str, **popen: Any) -> "subprocess.Popen[bytes]":
        """Start it in the repository."""
        return super().launch(*options, cwd=ROOT, start_new_session=True, **popen)

    def interrupt(self) -> None:
        """Press Ctrl-C: all processes of the terminal get the signal."""
        process, self.process = self.process, None
        assert process is not None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0, self.log


class Walk:
    """Somebody with a hub, a terminal for commands, and one for each follower."""

    def __init__(self, hub: Checkout) -> None:
        self.hub = hub
        self._real_ids: dict[str, str] = {}
        path = f"{hub.home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        # With PYTHONUNBUFFERED, Python writes a line and its end one after the other.
        ours = ("ESOURCE", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._environ = {**kept, "PATH": path, "LC_ALL": "C.UTF-8"}
        self._terminal = self._open()
        self._followers: list[Terminal] = []

    def go(self, steps: Iterable[Step | Saved]) -> None:
        """Do all of it. What still follows at the end has shown all that it was to show."""
        try:
            for step in steps:
                if isinstance(step, Saved):
                    self._save(step)
                else:
                    self._take(step)
            for follower in self._followers:
                assert follower.rest() == ""
        finally:
            for terminal in (self._terminal, *self._followers):
                terminal.close()

    def _open(self) -> Terminal:
        return Terminal(self.hub.home, self._environ, self.hub.enter)

    def _save(self, file: Saved) -> None:
        (self.hub.home / file.name).write_text(self._ours(file.text))

    def _take(self, step: Step) -> None:
        command = self._ours(step.command)
        lines = step.shown.count("\n")
        if step.command == SERVE:
            self.hub.interrupt()
            self.hub.start()
            shown = ""
        elif step.command == STOP:
            self.hub.stop()
            shown = ""
        elif step.command == START:
            self.hub.start()
            shown = ""
        elif FOLLOWS.match(step.command):
            before = self._subscribers()
            self._followers.append(self._open())
            self._followers[-1].type(command)
            shown = self._followers[-1].read_lines(lines)
            if not lines and "ship" not in command:  # nothing says that it is there
                eventually(lambda: self._subscribers() > before)
        elif not step.command:
            shown = self._followers[-1].read_lines(lines)
        else:
            self._terminal.type(command)
            shown = self._terminal.read_to_prompt()
        self._compare(step, shown)
        if step.interrupted:
            follower = self._followers.pop()
            assert follower.rest() == ""
            follower.interrupt()
            follower.read_to_prompt()
            follower.close()

    def _subscribers(self) -> float:
        for line in self.hub.get("/-/metrics").text.splitlines():
            if line.startswith("esource_subscribers "):
                return float(line.split()[1])
        raise AssertionError("the hub does not count its subscribers")

    def _compare(self, step: Step, shown: str) -> None:
        for sample, id in zip(ID.findall(step.shown), ID.findall(shown), strict=False):
            self._real_ids.setdefault(sample, id)
        assert len(set(self._real_ids.values())) == len(self._real_ids)
        wanted, found = _varying(self._ours(step.shown)), _varying(shown)
        if ANY_LINES in wanted.splitlines():
            lines = ["(?:.*\n)*" if line == ANY_LINES else re.escape(f"{line}\n")
                     for line in wanted.splitlines()]  # fmt: skip
            assert re.fullmatch("".join(lines), f"{found}\n"), f"{step.command}: {found}"
        else:
            assert found == wanted, f"{step.command}\n{found}\nis not\n{wanted}"

    def _ours(self, text: str) -> str:
        """Return a text with our ids and our address."""
        text = ID.sub(lambda match: self._real_ids.get(match[0], match[0]), text)
        return text.replace("localhost:9000", self.hub.url[7:])


def _varying(text: str) -> str:
    """Return a text without what differs each time, and without a LF at its end."""
    text = text.replace("\r\n", "\n").removesuffix("\n")
    for pattern in VARYING:
        text = re.sub(pattern, "…", text, flags=re.MULTILINE)
    return text
