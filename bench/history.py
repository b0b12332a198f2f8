"""Workloads: places in a long history, right after a start.

The channel has rows of 100 bytes, with ids of one kind; one event in the middle is of a type of its
own. It is one file, or segments of 64 MiB.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.cpu import cpu_seconds
from bench.figures import Case, Cases, Sample
from bench.machine import ROOT
from bench.reading import NEAR_THE_END, START, events_in, first_event, get, put_channel
from bench.scale import Bench
from bench.servers import HUB, Server, place
from esource.event import default_id
from tests.harness import Hub, eventually

CHANNEL = "history"
SEGMENT_BYTES = 64 << 20
SMALL = 100  # MB; less than that is looked for by id alone
ONE_FILE = 1000  # MB; more is kept in segments
QUIET_SECONDS = 10.0  # in which an index that is not complete grows: it may be merged meanwhile
LEARN_SECONDS = 1800.0


IDS: dict[str, Callable[[int], bytes]] = {
    "default ids": lambda n: default_id(START + n * 1000),
    "other times": lambda n: default_id(START + n * 1000)[:-1] + b"+00:00",
    "UUIDs": lambda n: str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))).encode(),
    "order-N": lambda n: b"order-%d" % n,
}


def history(bench: Bench) -> Cases:
    """Find a place in a history of so many MB, right after a start: milliseconds to the first byte.

    By the `id` of an event in the middle, by one that is `not there`, by `time`, by a `type` of one
    event, and the last ten (`tail`); each is the first request after a start of its own, with
    nothing of the files in the system's memory. `MB read` is the most that the hub has read for one
    of them. In one file, and in segments; after the hub was stopped, and after it was killed.
    """
    for megabytes in bench.scale.histories:
        for ids in IDS if megabytes >= SMALL else ("UUIDs",):
            for layout in ("one file", "segments") if megabytes <= ONE_FILE else ("segments",):
                home = place(bench.home)
                near = write(home / "events", megabytes, IDS[ids], layout == "segments")
                learn(home, megabytes)
                takes = {
                    HUB.name: partial(take, home, megabytes, near, is_killed=False),
                    "hub, kill -9": partial(take, home, megabytes, near, is_killed=True),
                }
                yield Case(f"{megabytes} MB, {ids}, {layout}", megabytes, dict(takes))
                for path in (home / "events").iterdir():
                    path.unlink()


def take(home: Path, megabytes: int, near: bytes, is_killed: bool) -> Sample:
    """Search for each kind of place once; `near` is the id of an event in the middle."""
    figures, most = {}, 0.0
    for kind in searches(megabytes, near):
        with running(home, is_killed):
            pass  # something to begin anew from
        forget(home / "events")
        with running(home, is_killed=False) as (server, worker):
            before = bytes_read(worker)
            figures[f"ms {kind}"] = 1e3 * searches(megabytes, near)[kind](server)
            most = max(most, bytes_read(worker) - before)
    return Sample({**figures, "MB read": most / 1e6})


def searches(megabytes: int, near: bytes) -> dict[str, Callable[[Server], float]]:
    """Return what looks for a place, by its kind; each returns the seconds that it took."""
    path = f"/{CHANNEL}"
    text = near.decode().replace("+", "%2B")

    def by_id(server: Server) -> float:
        headers = f"Accept: text/event-stream\r\nLast-Event-ID: {near.decode()}\r\n"
        return first_event(server, path, headers)

    def asked(query: str, server: Server) -> float:
        return get(server, f"{path}?{query}")[1]

    found: dict[str, Callable[[Server], float]] = {"id": by_id}
    if megabytes >= SMALL:
        found["not there"] = partial(asked, "after=not-there&limit=1")
        if near.startswith(b"20"):
            found["time"] = partial(asked, f"since={text}&limit=1")
        found["type"] = partial(asked, "event=rare")
        found["tail"] = partial(asked, "tail=10")
    return found


def zones(bench: Bench) -> Cases:
    """Find a time near the end of one file of so many MB that no hub knows yet: ms/MB.

    It is the first search after a start, with no index beside the file, so it looks at all rows.
    `cold`: with nothing of the file in the system's memory; `read`: all of it is there.
    `ms/MB learned` is the hub's processor time for the index, which it makes afterwards.
    """
    home = place(bench.home)
    (home / "events").mkdir()

    def take(megabytes: int, is_cold: bool) -> Sample:
        channel = f"/channel-{megabytes}"
        for index in (home / "events").glob("*.id?"):
            index.unlink()
        forget(home / "events")
        near = default_id(START + (events_in(megabytes) - NEAR_THE_END) * 1000).decode()
        with running(home, is_killed=False) as (server, worker):
            if not is_cold:
                (home / "events" / f"channel-{megabytes}.tsv").read_bytes()
            took = get(server, f"{channel}?since={near[:-2]}5Z&limit=1")[1]
            used = cpu_seconds([worker])
            eventually(quiet(home / "events", 1.0), LEARN_SECONDS)
            learned = cpu_seconds([worker]) - used
        return Sample(
            {
                "ms/MB": 1e3 * took / megabytes,
                "ms": 1e3 * took,
                "ms/MB learned": 1e3 * learned / megabytes,
            }
        )

    for megabytes in bench.scale.megabytes:
        put_channel(bench, home / "events", megabytes)
        for name, is_cold in ("cold", True), ("read", False):
            takes = {HUB.name: partial(take, megabytes, is_cold)}
            yield Case(f"{name}, {megabytes} MB", megabytes, dict(takes))


# -- the channel ---------------------------------------------------------------------------


def write(folder: Path, megabytes: int, id_of: Callable[[int], bytes], in_segments: bool) -> bytes:
    """Write the channel, and have it on disk; return the id of an event in the middle."""
    folder.mkdir()
    count = events_in(megabytes)
    size = offset = 0
    with contextlib.ExitStack() as stack:
        file = None
        for n in range(count):
            if file is None or (in_segments and size >= SEGMENT_BYTES):
                offset, size = offset + size, 0
                name = f"{CHANNEL}.{offset:020}.tsv" if in_segments else f"{CHANNEL}.tsv"
                file = stack.enter_context((folder / name).open("wb"))
            kind = b"rare" if n == count // 3 else b"some"
            row = b"%b\t%b\t#%d 0 " % (id_of(n), kind, n)
            size += file.write(row.ljust(99, b"x") + b"\n")
    os.sync()
    return id_of(count // 2)


def learn(home: Path, megabytes: int) -> None:
    """Have the hub make the index, which it does once it has been published to."""
    with running(home, is_killed=False) as (server, _):
        get(server, f"/{CHANNEL}?after=not-there&limit=1")  # small ones are learned when they grow
        seconds = QUIET_SECONDS if megabytes >= SMALL else 1.0
        eventually(quiet(home / "events", seconds), LEARN_SECONDS)


def quiet(folder: Path, seconds: float) -> Callable[[], bool]:
    """Return what asks if indexes have not grown for so long, and closed files have theirs."""
    seen, since = 0, time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        parts = sorted(folder.glob(f"{CHANNEL}.[0-9]*.tsv"))
        indexes = [path.with_suffix(".idx") for path in parts[:-1]]
        size = sum(path.stat().st_size for path in folder.glob("*.id?"))
        is_done = all(path.exists() and b'"sha256"' in path.read_bytes() for path in indexes)
        if size != seen or not is_done:
            seen, since = size, time.monotonic()
        return time.monotonic() - since > seconds

    return is_quiet


@contextlib.contextmanager
def running(home: Path, is_killed: bool) -> Iterator[tuple[Server, int]]:
    """Start the hub and ask it for something else; stop or kill it in the end."""
    hub = Hub(home, PYTHONPATH=str(ROOT)).start()
    assert hub.process is not None
    server = Server(HUB.name, hub.port, hub.process, hub.folder)
    try:
        get(server, "/nobody?limit=0")
        yield server, hub.worker
    finally:
        if is_killed:
            hub.kill()
        else:
            hub.stop()


def bytes_read(pid: int) -> int:
    """Return how many bytes a process has read from files and sockets so far."""
    lines = Path(f"/proc/{pid}/io").read_text().split("\n")
    return int(lines[0].removeprefix("rchar: "))


def forget(folder: Path) -> None:
    """Have the system keep nothing in memory of what is in these files."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
