"""A shell at a terminal of its own, with job control, as people have it.

What is typed is not shown again, and the prompt is a character that nothing else prints. So what
comes between two prompts is what a command has printed.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.harness.waiting import PATIENCE_SECONDS

PROMPT = "\x1e"
ROWS, COLUMNS = 50, 200
INTERRUPT = "\x03"


class Terminal:
    """A terminal with `bash` in it, in a folder."""

    def __init__(self, folder: Path, environ: dict[str, str], enter: Sequence[str] = ()) -> None:
        """Start the shell; `enter` are words before its own, which bring it to where it is."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self._shell = subprocess.Popen(
            [*enter, "setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            cwd=folder, stdin=slave, stdout=slave, stderr=slave,
            env={**environ, "PS1": PROMPT, "PS2": "", "TERM": "dumb", "HISTFILE": ""},
        )  # fmt: skip
        os.close(slave)
        self._bytes = b""
        self.read_to_prompt()

    def type(self, line: str) -> None:
        """Type a line, and Enter."""
        os.write(self._master, f"{line}\n".encode())

    def read_to_prompt(self) -> str:
        """Return what is shown until the next prompt; wait for that."""
        return self._read(lambda text: text.partition(PROMPT)[0] + PROMPT if PROMPT in text else "")

    def read_lines(self, count: int) -> str:
        """Return the next lines, or what there is before the next prompt; wait for that."""

        def lines(text: str) -> str:
            before, prompt, _ = text.partition(PROMPT)
            whole = before.splitlines(keepends=True)
            if len(whole) >= count and (not whole or whole[count - 1].endswith("\n")):
                return "".join(whole[:count])
            return before if prompt else ""

        return self._read(lines) if count else ""

    def rest(self) -> str:
        """Return what is shown and not yet read, the prompt left out."""
        self._take(0)
        return shown(self._bytes.replace(PROMPT.encode(), b""))

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._master, INTERRUPT.encode())

    def close(self) -> None:
        """End what runs there, and the shell."""
        os.close(self._master)  # its processes get SIGHUP
        try:
            self._shell.wait(2)
        except subprocess.TimeoutExpired:
            self._shell.send_signal(signal.SIGKILL)
            self._shell.wait()

    def _read(self, wanted: Callable[[str], str]) -> str:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (taken := wanted(self._bytes.decode(errors="replace"))):
            left = deadline - time.monotonic()
            assert left > 0, f"not more than this is shown: {self._bytes!r}"
            assert self._take(min(left, 1)), f"the shell has ended: {self._bytes!r}"
        self._bytes = self._bytes[len(taken.encode()) :]
        return shown(taken.removesuffix(PROMPT).encode())

    def _take(self, seconds: float) -> bool:
        """Take what comes within so many seconds; return whether the shell is still there."""
        while select.select([self._master], [], [], seconds)[0]:
            try:
                self._bytes += os.read(self._master, 1 << 16)
            except OSError:  # nobody has the other end any more
                return False
            seconds = 0
        return True


def shown(printed: bytes) -> str:
    """Return what stays of it: a line that was written over is there as it was last.

    One that can still be written over, as that of a progress, does not count.
    """
    text = printed.decode(errors="replace").replace("\r\n", "\n")
    text = re.sub(r"\x1b\[[\d;]*m", "", text)  # bold, colours
    text = re.sub(r"\r\x1b\[K[^\n]*\Z", "", text)
    return re.sub(r"^.*\r\x1b\[K", "", text, flags=re.MULTILINE)
