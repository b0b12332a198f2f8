"""A hub under attack: what one hostile client costs the others, measured.

The others are a publisher and a follower of the channel `quiet`: each publish and each delivery
is timed. Memory is looked at all the time. `attacks` has the hostile clients.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.harness.attacks import ATTACKS, MIB
from tests.harness.encrypted import EncryptedHub
from tests.harness.hub import Hub, started
from tests.harness.machine import ROOT, size
from tests.harness.measures import memory, p99
from tests.harness.stream import Stream
from tests.harness.waiting import PATIENCE_SECONDS
from tests.harness.wire import Wire

PAUSE_SECONDS = 0.005  # between two publishes
AFTERWARDS_SECONDS = 0.2  # that the others are measured for when the attack is over


# -- what an attack finds ---------------------------------------------------------------------


def write_channel(path: Path, megabytes: int, id: bytes) -> None:
    """Write rows of 300 bytes with rising ids; `id` is a strftime of them but for its last part."""
    block = b"".join(b"@%03d000Z\t\t%b\n" % (n, b"x" * 270) for n in range(1000))
    with path.open("wb") as file:
        for second in range(megabytes * 1_000_000 // len(block)):
            at = time.strftime(id.decode(), time.gmtime(1_700_000_000 + second)).encode()
            file.write(block.replace(b"@", at))


DEFAULT_IDS = b"%Y-%m-%dT%H:%M:%S."
OTHER_TIMES = b"%Y-%m-%dT%H:%M:%S.0"  # of another width: no default ids


def long_channels(folder: Path) -> None:
    """Make `default` and `times`, of 300 MB each."""
    write_channel(folder / "default.tsv", 300, DEFAULT_IDS)
    write_channel(folder / "times.tsv", 300, OTHER_TIMES)


def long_channel(folder: Path) -> None:
    """Make `default`, of 300 MB."""
    write_channel(folder / "default.tsv", 300, DEFAULT_IDS)


def large_events(folder: Path) -> None:
    """Make `large` and `large0` to `large7`, of events of 1 MiB; all of them are one file."""
    with (folder / "large.tsv").open("wb") as file:
        for n in range(size(300, 900)):
            file.write(b"%d\t\t%b\n" % (n, b"x" * (MIB - 99)))
    for n in range(8):
        (folder / f"large{n}.tsv").hardlink_to(folder / "large.tsv")


def many_channels(folder: Path) -> None:
    """Make 3000 channels of an event."""
    for n in range(3000):
        (folder / f"{'a' * 50}-{n}.tsv").write_bytes(b"1\t\tx\n")


def nothing(folder: Path) -> None:
    """Make nothing."""


class Family(NamedTuple):
    """What the hub of a family of attacks has."""

    prepare: Callable[[Path], None] = nothing
    settings: dict[str, str] = {}  # noqa: RUF012
    kind: type[Hub] = Hub


FAMILIES = {
    "heads": Family(),
    "unread": Family(),
    "chunks": Family(settings={"ESOURCE_FSYNC": "always"}),  # a slow commit is waited for
    "batches": Family(),
    "unfinished": Family(),
    "unique": Family(large_events),
    "queries": Family(),
    "searches": Family(long_channels),
    "downloads": Family(long_channel),
    "pipelines": Family(),
    "lists": Family(many_channels, {"ESOURCE_METRICS_CHANNELS": "1"}),
    "connections": Family(),
    "owed": Family(),
    "tls": Family(long_channel, kind=EncryptedHub),
    "followers": Family(long_channel, {"ESOURCE_MAX_SUBSCRIBERS": "200"}),
}
assert {attack.family for attack in ATTACKS.values()} == set(FAMILIES)


@contextmanager
def attacked_hub(family: str, home: Path, **settings: str) -> Iterator[Hub]:
    """A hub with what a family of attacks finds there; the family's own settings win."""
    prepare, more, kind = FAMILIES[family]
    hub = kind(home, **{**settings, **more})
    hub.folder.mkdir()
    prepare(hub.folder)
    with started(hub, *getattr(hub, "options", ())):
        yield hub


# -- what is measured -------------------------------------------------------------------------


class Measured(NamedTuple):
    """What the others saw while one attacked."""

    publishes: list[float]  # seconds from a request to its answer
    deliveries: list[float]  # seconds from a request to its event at the follower
    grown: int  # bytes of memory: the most that it was meanwhile, less what it was before
    logged: list[str]  # lines of the hub's log

    @property
    def worst(self) -> float:
        """The longest that one of them waited, in seconds."""
        return max(self.publishes + self.deliveries)

    def __repr__(self) -> str:
        return (
            f"publish p99 {p99(self.publishes) * 1e3:.0f} ms, delivery p99 "
            f"{p99(self.deliveries) * 1e3:.0f} ms, worst {self.worst * 1e3:.0f} ms of "
            f"{len(self.publishes)}; memory +{self.grown / MIB:.0f} MiB; {len(self.logged)} lines"
        )


def options_of(hub: Hub) -> list[str]:
    """Return how a hostile client gets to a hub."""
    return [str(hub.port), *(["--tls"] if isinstance(hub, EncryptedHub) else [])]


def attack(name: str, hub: Hub, seconds: float, way: list[str] | None = None) -> Measured:
    """Attack a hub for so many seconds; by itself, or by another way: a port, and options.

    Raises `RuntimeError` if it was no attack, `OSError` if the others were not served at all.
    """
    port, *options = way or options_of(hub)
    before, logged = memory(hub), len(hub.log)
    most = before
    over = threading.Event()

    def watch_memory() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, memory(hub))

    watch = threading.Thread(target=watch_memory)
    publishes: list[float] = []
    deliveries: list[float] = []
    with Stream(hub, "/quiet") as stream, Wire(hub) as wire:
        command = [sys.executable, "-m", "tests.harness.attacks", name, port, str(seconds)]
        attacker = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE)
        watch.start()
        try:
            until = float("inf")
            while time.monotonic() < until:
                began = time.perf_counter()
                status = wire.post("/quiet", b"x").status
                publishes.append(time.perf_counter() - began)
                if status != 201:
                    raise RuntimeError(f"the others are answered {status}")
                stream.read(len(stream.events) + 1)
                deliveries.append(time.perf_counter() - began)
                time.sleep(PAUSE_SECONDS)
                if until == float("inf") and attacker.poll() is not None:
                    until = time.monotonic() + AFTERWARDS_SECONDS
        finally:
            attacker.kill()
            _, said = attacker.communicate(timeout=PATIENCE_SECONDS)
            over.set()
            watch.join()
    if attacker.returncode != -signal.SIGALRM:
        raise RuntimeError(f"{name} is no attack: {said.decode()}")
    return Measured(publishes, deliveries, most - before, hub.log[logged:].splitlines())


def threads(hub: Hub) -> int:
    """Return how many threads the worker has."""
    return len(os.listdir(f"/proc/{hub.worker}/task"))
