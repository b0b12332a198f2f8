"""Shims under a hub: in C, a disk that fails, a clock that jumps; in Python, a disk that hangs.

The sources in C are in `tests/faults`.
"""

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

from tests.harness.hub import Hub
from tests.harness.machine import ROOT, command, needs

Build = Callable[[str], Path]


def build(name: str, folder: Path) -> Path:
    """Compile `<name>.c` to a library for LD_PRELOAD."""
    needs("cc")
    source = ROOT / "tests" / "faults" / f"{name}.c"
    library = folder / f"{name}.so"
    if not library.exists():
        command("cc", "-shared", "-fPIC", "-O2", "-o", library, source)
    return library


def preload(hub: Hub, library: Path, **variables: str) -> Hub:
    """Have the hub's processes load a shim from their next start on."""
    hub.environ["LD_PRELOAD"] = str(library)
    hub.environ.update(variables)
    return hub


class Disk:
    """The test's end of `disk.c`: says which call fails, and sees which were made."""

    KINDS = ("write", "sync", "sync_folder", "truncate", "open", "read")
    _TRACE_AT = len(KINDS) * 16
    _TRACE_BYTES = 65000

    def __init__(self, hub: Hub, library: Path) -> None:
        """Put the shim under a hub that is not started yet."""
        path = hub.home / "faults"
        path.write_bytes(bytes(self._TRACE_AT + 4 + self._TRACE_BYTES + 12))
        with path.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 0)
        preload(hub, library, FAULTS_CONTROL=str(path), FAULTS_FOLDER=str(hub.folder))

    def fail(self, kind: str, left: int, error: int, times: int = 1) -> None:
        """Let `left` calls pass, then fail `times` ones.

        With `error` 0 a write is short; with a negative one it is, and the next one fails.
        """
        at = self.KINDS.index(kind) * 16
        struct.pack_into("iii", self._control, at, left, 0, error)
        struct.pack_into("i", self._control, at + 4, times)

    def heal(self) -> None:
        """Let every call pass."""
        for kind in self.KINDS:
            self.fail(kind, 0, 0, times=0)

    def pending(self, kind: str) -> int:
        """Return how many calls of a kind are still to fail."""
        pending: int = struct.unpack_from("i", self._control, self.KINDS.index(kind) * 16 + 4)[0]
        return pending

    def trace(self) -> str:
        """Return the calls since the last `forget`: a letter each, a capital if it failed.

        w(rite), s(ync), d (the folder's sync), t(runcate), o(pen), r(ead).
        """
        count = min(struct.unpack_from("i", self._control, self._TRACE_AT)[0], self._TRACE_BYTES)
        at = self._TRACE_AT + 4
        return self._control[at : at + count].decode()

    def forget(self) -> None:
        """Begin a new trace."""
        struct.pack_into("i", self._control, self._TRACE_AT, 0)


# What reaches the disk waits while a file is there.
SLOW_DISK = """
import os, time
def slow(fd, sync=os.fdatasync):
    while os.path.exists(os.environ["HANG"]):
        time.sleep(0.01)
    return sync(fd)
os.fdatasync = slow
"""


def customized(home: Path, code: str) -> dict[str, str]:
    """Return the variables that have Python run some code before it starts a hub.

    `HANG`, in its environment, is the path of a file in `home` that is not there yet.
    """
    (home / "sitecustomize.py").write_text(code)
    paths = filter(None, [str(home), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": os.pathsep.join(paths), "HANG": str(home / "hang")}
