"""Shims under a hub: a disk that fails or is slow, a power cut's journal, clocks that a test moves.

These are in C, and their sources in `tests/faults`. In Python: a disk that hangs.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_int64
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

    KINDS = ("write", "sync", "sync_all", "sync_folder", "truncate", "open", "read")
    _RULE = struct.Struct("iii")  # calls to let pass, how often then, errno or microseconds
    _DELAYS_AT = len(KINDS) * _RULE.size
    _HEALS_AT = 2 * _DELAYS_AT
    _TRACED_AT = _HEALS_AT + 4
    _TRACE_AT = _TRACED_AT + 4
    _TRACE_BYTES = 65000

    def __init__(self, hub: Hub, library: Path) -> None:
        """Put the shim under a hub that is not started yet."""
        path = hub.home / "faults"
        path.write_bytes(bytes(self._TRACE_AT + self._TRACE_BYTES + 3))
        with path.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 0)
        preload(hub, library, FAULTS_CONTROL=str(path), FAULTS_FOLDER=str(hub.folder))

    def fail(self, kind: str, left: int, error: int, times: int = 1) -> None:
        """Let `left` calls pass, then fail `times` ones; -1: all.

        With `error` 0 a write is short; with a negative one it is, and the next one fails.
        """
        self._rule(self._fault_at(kind), left, times, error)

    def slow(self, kind: str, left: int, seconds: float, times: int = -1) -> None:
        """Let `left` calls pass, then have `times` ones take so much longer; -1: all.

        They are in the trace when they begin. `heal` ends those that are under way.
        """
        self._rule(self._DELAYS_AT + self._fault_at(kind), left, times, round(seconds * 1e6))

    def _fault_at(self, kind: str) -> int:
        return self.KINDS.index(kind) * self._RULE.size

    def _rule(self, at: int, left: int, times: int, value: int) -> None:
        self._RULE.pack_into(self._control, at, left, 0, value)
        struct.pack_into("i", self._control, at + 4, times)

    def heal(self) -> None:
        """Let every call pass, and at once."""
        for kind in self.KINDS:
            self.fail(kind, 0, 0, times=0)
            self.slow(kind, 0, 0, times=0)
        heals: int = struct.unpack_from("i", self._control, self._HEALS_AT)[0]
        struct.pack_into("i", self._control, self._HEALS_AT, heals + 1)

    def pending(self, kind: str) -> int:
        """Return how many calls of a kind are still to fail."""
        pending: int = self._RULE.unpack_from(self._control, self._fault_at(kind))[1]
        return pending

    def trace(self) -> str:
        """Return the calls since the last `forget`: a letter each, a capital if it failed.

        w(rite), s(ync), a (the sync of all), d (the folder's sync), t(runcate), o(pen), r(ead).
        """
        count: int = struct.unpack_from("i", self._control, self._TRACED_AT)[0]
        return self._control[self._TRACE_AT : self._TRACE_AT + count].decode()

    def forget(self) -> None:
        """Begin a new trace."""
        struct.pack_into("i", self._control, self._TRACED_AT, 0)


class Clock:
    """The test's end of `clock.c`: moves the clocks of a hub that has not started yet."""

    def __init__(self, hub: Hub, library: Path) -> None:
        """Put the shim under the hub; its clocks are right until they are moved."""
        path = hub.home / "clock"
        path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            # As numbers, and not with `struct`, which would let the hub see zeros in between.
            self._offsets = (c_int64 * 2).from_buffer(mmap.mmap(file.fileno(), 0))
        preload(hub, library, CLOCK_OFFSET=str(path))

    def jump(self, seconds: int) -> None:
        """Have the wall clock alone be off by so much, from now on."""
        self._offsets[0] = seconds

    def go_by(self, seconds: int) -> None:
        """Let time go by: all clocks and timers, at once. For gunicorn, the worker has hung then.

        So it is started with `--timeout 0`. Threads that wait do not notice.
        """
        self._offsets[1] += seconds

    @property
    def gone_by(self) -> int:
        """How many seconds have gone by, but for those that have."""
        return self._offsets[1]


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


@contextmanager
def on_a_disk(home: Path, shim: Build, **settings: str) -> Iterator[tuple[Hub, Disk]]:
    """Run a hub on a disk that fails, or is slow, when it is told to."""
    hub = Hub(home, **settings)
    hub.folder.mkdir()
    disk = Disk(hub, shim("disk"))
    try:
        hub.start()
        yield hub, disk
    finally:
        disk.heal()
        if hub.process:
            hub.stop()
