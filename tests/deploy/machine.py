"""A machine of its own under a real systemd: its files are a copy of this one's, in memory.

Namespaces keep its processes, mounts and name apart; the network is this machine's, so that the
tests reach its hub. Nothing is left of it once it is switched off. It wants root, and a kernel
that lets root mount; where that is not so (in most containers), the test is skipped. Where it is,
and systemd is missing or does not boot, a test is skipped as well, but fails in CI.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS, ROOT, Hub, do_without, eventually, needs
from tests.harness.hub import children

SCRIPT = Path(__file__).parent / "machine.sh"
NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--cgroup")
# What boots: the journal, and what the test starts. Nothing else of the machine below.
UNITS = {
    "machine.target": "[Unit]\nWants=systemd-journald.service\n",
    "sysinit.target": "[Unit]\nDescription=Nothing\n",
    "basic.target": "[Unit]\nDescription=Nothing\n",
}
# In place of `pip install .`, which would build the hub anew: the same entry point, and the
# packages of the tests' own environment.
COMMAND = """\
#!/usr/bin/env -S LD_LIBRARY_PATH=/opt/esource/python/lib /opt/esource/python/bin/python3
import sys

sys.path[:0] = ["/opt/esource/esource-itself", "/opt/esource/packages"]
from esource.__main__ import main

main()
"""


class Machine:
    """A machine that is switched on."""

    def __init__(self, pid: int, console: list[bytes]) -> None:
        self.pid = pid  # of its systemd, as seen from here
        self._console = console

    def run(self, command: str, check: bool = True) -> str:
        """Run a line of shell as its root, in the checkout; return what it prints."""
        enter = ["nsenter", "-t", str(self.pid), *NAMESPACES, "--root"]
        clean = ["env", "-i", "-C", "/checkout", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        done = subprocess.run(
            [*enter, *clean, "sh", "-c", command],
            capture_output=True, text=True, timeout=3 * PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}{self.console}"
        return done.stdout + done.stderr

    @property
    def console(self) -> str:
        """What its systemd has said."""
        return b"".join(self._console).decode(errors="replace")


class SystemdHub(Hub):
    """The hub of a machine that has systemd."""

    def __init__(self, machine: Machine, home: Path) -> None:
        super().__init__(home)
        self.machine = machine

    def rows(self, channel: str) -> list[bytes]:
        text = self.machine.run(f"cat /var/lib/esource/events/{channel}.tsv")
        return text.encode().split(b"\n")[:-1]

    def property(self, name: str) -> str:
        """Return what systemd knows of the service."""
        return self.machine.run(f"systemctl show --value --property={name} esource").strip()


def _prepare(home: Path) -> None:
    """Lay out what the machine gets on top of the copy."""
    units = home / "units"
    units.mkdir()
    for name, text in UNITS.items():
        (units / name).write_text(text)
    (home / "checkout").mkdir()
    shutil.copytree(ROOT / "deploy", home / "checkout" / "deploy")
    opt = home / "opt"
    for name in ("bin", "python"):
        (opt / name).mkdir(parents=True)
    packages = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    shutil.copytree(
        packages, opt / "packages",
        ignore=shutil.ignore_patterns("mypy*", "pip*", "ruff*", "pandas*", "numpy*", "*.pth"),
    )  # fmt: skip
    shutil.copytree(ROOT / "esource", opt / "esource-itself" / "esource")
    (opt / "bin" / "esource").write_text(COMMAND)
    (opt / "bin" / "esource").chmod(0o755)


@contextmanager
def _own_cgroup(name: str) -> Iterator[str]:
    """A group in each hierarchy of the kernel's, for the machine to be the root of."""
    mounts = [line.split()[1:4] for line in Path("/proc/mounts").read_text().splitlines()]
    groups = [
        Path(path) / name
        for path, kind, options in mounts
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options)
    ]
    made = []
    try:
        for group in groups:
            try:
                group.mkdir()
            except OSError as error:
                pytest.skip(f"no cgroup of its own to be had here: {error}")
            made.append(group)
        yield "".join(f"echo $$ > {group}/cgroup.procs && " for group in groups)
    finally:
        for group in made:
            eventually(lambda group=group: _is_removed(group))  # type: ignore[misc]


def _is_removed(group: Path) -> bool:
    """Remove a group with all below it; return whether it is gone: its processes go first."""
    try:
        for path, _, _ in os.walk(group, topdown=False):
            os.rmdir(path)
    except OSError:
        return False
    return True


@contextmanager
def booted(home: Path) -> Iterator[Machine]:
    """A machine, switched off at the end whatever happens; skip if there can be none."""
    if os.geteuid() != 0:
        pytest.skip("a machine of its own needs root")
    needs("systemctl")
    _prepare(home)
    terminal, console = pty.openpty()
    printed: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):
            while piece := os.read(terminal, 65536):
                printed.append(piece)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    with _own_cgroup(f"esource-test-{os.getpid()}") as enter:
        words = ["unshare", *NAMESPACES, "--fork", "--kill-child=KILL"]
        script = ["bash", str(SCRIPT), str(home), os.ttyname(console)]
        process = subprocess.Popen(
            ["bash", "-c", f'{enter}exec "$@"', "-", *words, *script, sys.base_prefix],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
        )  # fmt: skip
        try:
            yield _wait_until_booted(process, printed)
        finally:
            process.kill()
            process.wait(PATIENCE_SECONDS)
            os.close(console)
            listener.join(PATIENCE_SECONDS)
            os.close(terminal)


def _wait_until_booted(process: "subprocess.Popen[bytes]", printed: list[bytes]) -> Machine:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, IndexError):
            pid = children(process.pid)[0]
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                machine = Machine(pid, printed)
                if (
                    "active"
                    in machine.run("systemctl is-active machine.target", check=False).split()
                ):
                    return machine
        time.sleep(0.05)
    said = b"".join(printed).decode(errors="replace")
    if process.poll() is not None and re.search("permission denied|not permitted", said, re.I):
        pytest.skip(f"no rights to mount here: {said}")
    do_without(f"systemd does not boot here: {said}")
