"""Power cuts: what is on disk for sure, as `tests/faults/power.c` notes it, and the power switch.

A cut takes the newest bytes and names that were not synced, or what one chooses of them: of each
file what is behind its synced size, and what was written over its bytes; of the folder each change
of a name, in any selection. It gives back what was removed or replaced.
"""

import ctypes
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.harness.killed import KILLED
from tests.harness.machine import ROOT

Choice = Callable[[int, int], int]  # of what survives, between the least and the most


def nothing(least: int, most: int) -> int:
    """Choose that nothing survives that was not synced."""
    return least


def anything(least: int, most: int) -> int:
    """Choose any part."""
    return random.randint(least, most)


class Synced(NamedTuple):
    """What is on disk for sure, and what was done since."""

    sizes: dict[int, int]  # of files, by inode
    folders: dict[int, dict[str, int]]  # entries, by inode
    changes: dict[int, list[list[str]]]  # of entries, in order, by the folder's inode
    overwritten: dict[int, list[tuple[int, bytes]]]  # by inode: where, and what was there; in order


class Power:
    """What is on disk of a folder for sure, and the power switch."""

    def __init__(self, folder: Path, journal: Path) -> None:
        self.folder = folder
        self.journal = journal
        self._gone = Path(f"{journal}.gone")

    def begin(self) -> None:
        """Let everything that is there count as synced."""
        lines = []
        for folder in (self.folder.parent, self.folder):
            if folder.exists():
                paths = list(folder.iterdir())
                entries = [f"{path.name} {path.lstat().st_ino}" for path in paths]
                lines.append(" ".join(["0 D", str(folder.stat().st_ino), *entries]))
                files = [path.stat() for path in paths if not path.is_symlink()]
                lines += [f"0 F {status.st_ino} {status.st_size}" for status in files]
        self.journal.write_text("".join(line + "\n" for line in lines))

    def is_unsynced(self, path: Path, size: int) -> None:
        """Let a file count as synced up to a size alone; for after `begin`."""
        with self.journal.open("a") as journal:
            journal.write(f"0 F {path.stat().st_ino} {size}\n")

    def synced(self) -> Synced:
        """Return what the journal tells."""
        found = Synced({}, {}, {}, {})
        lines = [line.split() for line in self.journal.read_text().split("\n")[:-1]]
        for _, kind, inode, *rest in sorted(lines, key=lambda line: int(line[0])):
            number = int(inode)
            if kind == "F":
                found.sizes[number] = int(rest[0])
                found.overwritten.pop(number, None)
            elif kind == "D":
                found.folders[number] = dict(zip(rest[::2], map(int, rest[1::2]), strict=True))
                found.changes.pop(number, None)
            elif kind == "W":
                place = int(rest[0]), bytes.fromhex(rest[1])
                found.overwritten.setdefault(number, []).append(place)
            else:
                found.changes.setdefault(number, []).append([kind, *rest])
        return found

    def cut(self, choose: Choice, *, in_disorder: bool = False) -> None:
        """Take away what a power cut may take, and give back what it may give back.

        With `in_disorder` the last change of a name survives, and none before it.
        """
        synced, folder = self.synced(), self.folder.stat().st_ino
        names = dict(synced.folders.get(folder, {}))
        changes = synced.changes.get(folder, [])
        known = {name for _, _, *changed in changes for name in changed} | set(names)
        pool = self.folder.with_name(f"{self.folder.name}.off")
        pool.mkdir()
        for path in [*_files(self.folder), *self._kept()]:
            number = path.lstat().st_ino
            if path.parent == self.folder and path.name not in known:
                changes.append(["+", str(number), path.name])  # it was killed before it was noted
            path.rename(pool / str(number))
        kept = changes[-1:] if in_disorder else [change for change in changes if choose(0, 1)]
        for kind, inode, *changed in kept:
            if kind != "+":
                names.pop(changed[0], None)
            if kind != "-":
                names[changed[-1]] = int(inode)
        for name, number in names.items():
            file = pool / str(number)
            if os.path.lexists(file):
                os.link(file, self.folder / name, follow_symlinks=False)
        for file in pool.iterdir():
            file.unlink()
        pool.rmdir()
        for path in _files(self.folder):
            if not path.is_symlink():
                number = path.stat().st_ino
                _take(path, choose, synced.sizes.get(number, 0), synced.overwritten.get(number, []))

    def _kept(self) -> list[Path]:
        """Return what is kept of files whose last name has gone."""
        there = {path.lstat().st_ino for path in self.folder.iterdir()}
        kept = self._gone.iterdir() if self._gone.exists() else []
        return [path for path in kept if path.lstat().st_ino not in there]


def _files(folder: Path) -> list[Path]:
    """Return what is in a folder but for folders."""
    return [path for path in folder.iterdir() if path.is_symlink() or not path.is_dir()]


def _take(path: Path, choose: Choice, synced: int, overwritten: list[tuple[int, bytes]]) -> None:
    """Take from a file what was not synced: what is behind, and what was written over its bytes."""
    status = path.stat()
    kept = choose(min(synced, status.st_size), status.st_size)
    if kept == status.st_size and not overwritten:
        return
    os.truncate(path, kept)
    with path.open("r+b") as file:
        for offset, old in reversed(overwritten):
            if offset + len(old) > status.st_size:  # it was cut off, all of it or nothing
                first, last = 0, len(old) * (1 - choose(0, 1))
            else:
                lost = len(old) - choose(0, len(old))
                first = random.randint(0, len(old) - lost)
                last = first + lost
            file.seek(offset + first)
            file.write(old[first:last])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class Commands:
    """A process that runs commands of `esource`, each in a child, which is killed before a call."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, power: Power, calls: int, *arguments: str) -> bool:
        """Run a command, which ends right before so many calls; return whether it did.

        A command that ends by itself must have worked.
        """
        assert self._process.stdin
        assert self._process.stdout
        request = [str(power.journal), str(power.folder), calls, *arguments]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        assert code in (0, KILLED), f"{arguments} ended with {code}"
        return code == KILLED


@contextmanager
def commands(library: Path) -> Iterator[Commands]:
    """Start such a process, with the shim."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT, env={**os.environ, "LD_PRELOAD": str(library)},
    ) as process:  # fmt: skip
        yield Commands(process)


def _serve() -> None:
    """Run what is asked for, a line of JSON each: journal, folder, calls, arguments."""
    from esource.__main__ import main
    from esource.log import folder  # noqa: F401  # here, and not in each child

    shim = ctypes.CDLL(None)
    for line in sys.stdin:
        journal, path, calls, *arguments = json.loads(line)
        pid = os.fork()
        if not pid:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            shim.power_begin(os.fsencode(journal), os.fsencode(path), calls)
            sys.argv[1:] = [*arguments, "--dir", path]
            try:
                main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
