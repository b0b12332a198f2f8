"""Who was busy: the CPU time of servers and of load generators, from /proc.

Work that the kernel does for a process on loopback, the other side's receiving included, is
mostly accounted to who sends. So a share near 100 % says that somebody had no time left, and
what lies far below it that he waited.
"""

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return a process and all that it has started, directly or not."""
    pids = [pid]
    for parent in pids:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        pids += map(int, children.split())
    return pids


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / TICKS


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes that is in use, RSS, all in all."""
    total = 0
    for pid in pids:
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


class Busy:
    """A span of time, and how busy both sides were in it, in cores.

    The generators are this process, the processes named, and those that ended meanwhile.
    """

    def __init__(self, server: int, *generators: int) -> None:
        """Name the server's first process, and load generators that outlive the span."""
        self._server = server
        self._generators = (os.getpid(), *generators)
        self.seconds = self.server = self.generator = 0.0

    def _used(self) -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            cpu_seconds(tree(self._server)),
            cpu_seconds(self._generators) + children.ru_utime + children.ru_stime,
        )

    def __enter__(self) -> "Busy":
        self._server_before, self._generator_before = self._used()
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        server, generator = self._used()
        self.server = (server - self._server_before) / self.seconds
        self.generator = (generator - self._generator_before) / self.seconds
