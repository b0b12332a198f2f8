"""What is lost when an engine's primary dies: `python -m bench.failover [WORD ...]`.

    two hubs, eight writers of events of 32 kB, a follower at each hub
    └─ replicas stand still and lag ─ kill -9 of the primary ─ another takes over ─ all is counted

The exit code is 1 if a row loses what it promises to keep, or if in any row an event is doubled,
hubs differ, ids do not increase, or a follower lacks an event or has one twice.
"""

import argparse
import contextlib
import http.client
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import psycopg

from bench.machine import ROOT
from esource.event import DEFAULT_ID
from esource.rows import sse
from tests.harness import Hub, eventually
from tests.harness.engine import engine_hubs, rows_at
from tests.harness.patroni import TTL_SECONDS, missing, patroni
from tests.harness.postgres import pair, postgres
from tests.harness.valkey import Cluster, Server, cluster, valkey, with_sentinels
from tests.harness.waiting import together
from tests.harness.wire import NarrowDoor, Wire

CHANNEL = "failover"
WRITERS = 4  # at each hub
EVENT_BYTES = 32_000
SECONDS = 2.0  # of load before anything fails, and after it
LAG_SECONDS = 1.2
LAG_EVENTS = 1000  # more than the sockets to a replica that stands still take
PATIENCE_SECONDS = 90.0
ORDINARY = {"ESOURCE_HEARTBEAT_SECONDS": "2"}
PATIENT = {**ORDINARY, "ESOURCE_STORE_TIMEOUT": "45"}  # longer than Patroni takes
HEAD = (
    "| configuration | acknowledged before | LOST | shown, but lost | doubled | longest publish "
    "| refused | notes |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


G = TypeVar("G", bound="Going")


class Going:
    """Something that goes on in a thread from `start` to `stop`."""

    def __init__(self) -> None:
        """Do nothing yet."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self: G) -> G:
        """Go on from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Begin nothing more; return when what was begun has ended."""
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        raise NotImplementedError


class Writer(Going):
    """One connection that publishes numbered events, one after the other."""

    def __init__(self, hub: Hub, name: str) -> None:
        """Do nothing yet."""
        super().__init__()
        self.acknowledged: list[bytes] = []
        self.refused = 0
        self.broken = 0
        self.longest = 0.0  # seconds, of those that were acknowledged
        self._hub, self._name = hub, name

    def _run(self) -> None:
        count = 0
        while not self._over.is_set():
            with contextlib.suppress(OSError), Wire(NarrowDoor(self._hub.port, 0)) as wire:
                while not self._over.is_set():
                    key = f"{self._name} {count} ".encode()
                    count += 1
                    began = time.monotonic()
                    status = wire.post(f"/{CHANNEL}", key.ljust(EVENT_BYTES, b"x")).status
                    if status == 201:
                        self.acknowledged.append(key)
                        self.longest = max(self.longest, time.monotonic() - began)
                    else:
                        self.refused += 1
                return
            self.broken += 1


class Follower(Going):
    """Follows, and keeps what tells an event from others."""

    def __init__(self, hub: Hub) -> None:
        """Do nothing yet."""
        super().__init__()
        self.keys: list[bytes] = []
        self.streams = 0
        self._hub = hub

    def _run(self) -> None:
        last = "0"
        while not self._over.is_set():
            client = http.client.HTTPConnection("127.0.0.1", self._hub.port, timeout=60)
            decoder = sse.Decoder()
            with contextlib.suppress(OSError, http.client.HTTPException):
                headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
                client.request("GET", f"/{CHANNEL}", headers=headers)
                answer = client.getresponse()
                self.streams += answer.status == 200
                while not self._over.is_set() and (piece := answer.read1(1 << 18)):
                    for event in decoder.feed(piece):
                        self.keys.append(key_of(event.data))
                        last = event.id.decode()
            client.close()
            self._over.wait(0.05)


def key_of(data: bytes) -> bytes:
    """Return what tells an event from the others: all but the padding."""
    return data[: data.rindex(b" ") + 1]


class Load:
    """Writers and followers at all hubs while the block runs, and what they were told."""

    def __init__(self, hubs: Sequence[Hub]) -> None:
        """Start."""
        self.hubs = hubs
        self.before = 0  # events that were acknowledged when the primary died
        self.notes: list[str] = []
        self.followers = [Follower(hub).start() for hub in hubs]
        self.writers = [
            Writer(hub, f"w{n}-{m}").start() for n, hub in enumerate(hubs) for m in range(WRITERS)
        ]

    def count(self) -> int:
        """Return how many events are acknowledged until now."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    def refused(self) -> int:
        """Return how many publishes were refused until now."""
        return sum(writer.refused for writer in self.writers)

    def goes_on(self) -> None:
        """Return when every writer has had more events acknowledged."""
        before = [len(writer.acknowledged) for writer in self.writers]

        def more() -> bool:
            pairs = zip(self.writers, before, strict=True)
            return all(len(writer.acknowledged) > count + 2 for writer, count in pairs)

        eventually(more, PATIENCE_SECONDS)

    def lag(self, events: int = 0) -> None:
        """Return once replicas that stand still lag, by so many events at least."""
        goal = self.count() + events
        time.sleep(LAG_SECONDS)
        eventually(lambda: self.count() >= goal, PATIENCE_SECONDS)

    def dies(self) -> None:
        """Take note that the primary dies now."""
        self.before = self.count()

    def stop(self) -> None:
        """End all of it."""
        for writer in self.writers:
            writer.stop()
        for follower in self.followers:
            follower.stop()


class Scene(NamedTuple):
    """Servers that run, and how they fail; it is over when publishing can go on."""

    url: str
    fail: Callable[[Load], None]


class Case(NamedTuple):
    """A row of the table."""

    name: str
    promises: bool  # to lose nothing that was acknowledged
    scene: Callable[[], AbstractContextManager[Scene]]
    settings: dict[str, str] = ORDINARY


# -- Valkey ------------------------------------------------------------------------------------


@contextmanager
def valkey_alone() -> Iterator[Scene]:
    """Have one server, which is started again."""
    with valkey() as server:

        def fail(load: Load) -> None:
            load.dies()
            server.stop(signal.SIGKILL)
            server.start()

        yield Scene(server.url, fail)


@contextmanager
def sentinel(
    parameters: str = "", *, replicas: int = 2, lagging: int = 0, events: int = 0, dying: int = 1
) -> Iterator[Scene]:
    """Have a primary and replicas, of which the last ones lag; the first ones die, all at once."""
    with with_sentinels(replicas) as group:

        def fail(load: Load) -> None:
            primary, late = group.servers[0], group.servers[len(group.servers) - lagging :]
            for server in late:
                server.send(signal.SIGSTOP)
            load.lag(events)
            load.dies()
            for server in group.servers[:dying]:
                server.send(signal.SIGKILL)
            for server in late:
                server.send(signal.SIGCONT)
            eventually(lambda: group.primary is not primary, PATIENCE_SECONDS)
            if "wait" in parameters and dying == replicas:
                _wants_another(load, primary, group.primary)

        yield Scene(group.url + parameters, fail)


def _wants_another(load: Load, dead: Server, primary: Server) -> None:
    """See that nothing is acknowledged; start the dead server as a replica of the primary."""
    count, refused = load.count(), load.refused()
    eventually(lambda: load.refused() >= refused + len(load.writers), PATIENCE_SECONDS)
    load.notes.append(f"503 until another replica was there ({load.count() - count} acknowledged)")
    dead.stop(signal.SIGKILL)
    dead.settings += (f"replicaof 127.0.0.1 {primary.port}",)
    dead.start()


@contextmanager
def valkey_cluster() -> Iterator[Scene]:
    """Have three primaries, and a replica of each."""
    with cluster() as group:

        def fail(load: Load) -> None:
            load.dies()
            _owner(group).stop(signal.SIGKILL)

        yield Scene(group.url, fail)


def _owner(group: Cluster) -> Server:
    slot = group.servers[0].do("CLUSTER", "KEYSLOT", f"esource:{{{CHANNEL}}}")
    for first, last, (_, port, *_), *_ in group.servers[0].do("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return next(server for server in group.servers if server.port == port)
    raise AssertionError("no server has the channel")


# -- PostgreSQL --------------------------------------------------------------------------------


@contextmanager
def postgres_alone() -> Iterator[Scene]:
    """Have one server, which is started again."""
    with postgres() as server:

        def fail(load: Load) -> None:
            load.dies()
            server.stop(signal.SIGKILL)
            server.start()

        yield Scene(server.url(), fail)


@contextmanager
def standby(*, is_synchronous: bool, events: int = 0) -> Iterator[Scene]:
    """Have a primary and a standby, which lags and is promoted by hand."""
    with pair() as (primary, other, url):
        if is_synchronous:
            primary.wait_for("standby")

        def fail(load: Load) -> None:
            other.freeze()
            load.lag(events)
            load.dies()
            primary.stop(signal.SIGKILL)
            other.freeze(False)
            other.promote()

        yield Scene(url, fail)


@contextmanager
def patroni_loses(*, standby_too: bool = False) -> Iterator[Scene]:
    """Have three machines; the primary's dies, alone or with the synchronous standby's."""
    with patroni() as group:

        def fail(load: Load) -> None:
            roles = group.roles()
            dying = [roles["leader"], *([roles["sync_standby"]] if standby_too else [])]
            late = roles["replica"]
            late.freeze()
            load.lag(LAG_EVENTS if standby_too else 0)
            load.dies()
            for node in dying:
                node.kill()
            late.freeze(False)
            if standby_too:
                told = {key for writer in load.writers for key in writer.acknowledged}
                time.sleep(1.5 * TTL_SECONDS)
                assert "leader" not in group.roles(), "a machine that lacks events leads"
                lacks = len(told - set(map(key_of, _data(_stored(late.server.url())))))
                load.notes.append(f"nothing promoted: the one that is left lacks {lacks}")
                for node in dying:
                    node.start()
            else:
                eventually(lambda: group.roles().get("leader") not in (None, dying[0]), 60)

        yield Scene(group.url, fail)


def _stored(url: str) -> list[bytes]:
    """Return the rows that a server has, a standby, too, once it has replayed all."""
    query = 'SELECT rows FROM esource.block ORDER BY generation, "end"'
    while True:
        try:
            with psycopg.connect(url) as connection:
                rows = b"".join(rows for (rows,) in connection.execute(query, binary=True))
                return rows.splitlines()
        except psycopg.errors.SerializationFailure:  # what is replayed is in the way
            time.sleep(0.1)


# -- the table ---------------------------------------------------------------------------------

CASES = (
    Case("Valkey always, alone, started again", True, valkey_alone),
    Case("Valkey always, Sentinel, no WAIT, no lag", False, sentinel),
    Case(
        "Valkey always, Sentinel, no WAIT, both replicas lag", False,
        partial(sentinel, lagging=2, events=LAG_EVENTS),
    ),
    Case(
        "Valkey always, WAIT 1, one of two replicas lags", True,
        partial(sentinel, "?wait=1", lagging=1),
    ),
    Case(
        "Valkey always, WAIT 1 and WAITAOF 1 1, one of two replicas lags", True,
        partial(sentinel, "?wait=1&waitaof=1", lagging=1),
    ),
    Case(
        "Valkey WAIT 1, one replica lags, the primary AND the other die", False,
        partial(sentinel, "?wait=1", lagging=1, events=LAG_EVENTS, dying=2),
    ),
    Case("Valkey WAIT 1, one replica only", True, partial(sentinel, "?wait=1", replicas=1)),
    Case("Valkey Cluster 3+3, no WAIT, no lag", False, valkey_cluster),
    Case("PostgreSQL alone, started again", True, postgres_alone),
    Case(
        "PostgreSQL, asynchronous standby lags", False,
        partial(standby, is_synchronous=False, events=LAG_EVENTS),
    ),
    Case("PostgreSQL, synchronous standby lags", True, partial(standby, is_synchronous=True)),
    Case("Patroni, strict: the primary dies", True, patroni_loses, PATIENT),
    Case(
        "Patroni, strict: the primary AND the synchronous standby die", True,
        partial(patroni_loses, standby_too=True), PATIENT,
    ),
)  # fmt: skip


def _data(rows: Sequence[bytes]) -> list[bytes]:
    return [row.split(b"\t", 2)[2] for row in rows]


def run(case: Case, home: Path) -> tuple[str, list[str]]:
    """Return the row of a case, and what must not be."""
    with ExitStack() as stack:
        scene = stack.enter_context(case.scene())
        settings = {**case.settings, "PYTHONPATH": str(ROOT)}
        hubs = stack.enter_context(engine_hubs(home, scene.url, 2, **settings))
        load = Load(hubs)
        stack.callback(load.stop)
        load.goes_on()
        time.sleep(SECONDS)
        scene.fail(load)
        load.goes_on()
        time.sleep(SECONDS)
        together(len(load.writers), lambda number: load.writers[number].stop())
        wrong: list[str] = []
        rows = rows_at(hubs[0], CHANNEL)
        if rows != rows_at(hubs[1], CHANNEL):
            wrong.append("the hubs have different rows")
        keys = list(map(key_of, _data(rows)))
        there = set(keys)
        with contextlib.suppress(AssertionError):  # said below
            eventually(lambda: all(each.keys[-1:] == keys[-1:] for each in load.followers), 30)
        load.stop()
        told = {key for writer in load.writers for key in writer.acknowledged}
        shown = {key for follower in load.followers for key in follower.keys}
        lost, doubled = len(told - there), len(keys) - len(there)
        if lost and case.promises:
            wrong.append(f"{lost} acknowledged events are lost")
        if doubled:
            wrong.append(f"{doubled} events are there twice")
        ids = [row.split(b"\t", 1)[0] for row in rows]
        if ids != sorted(set(ids)) or not all(map(DEFAULT_ID.fullmatch, ids)):
            wrong.append("the ids do not increase")
        for number, follower in enumerate(load.followers):
            if [key for key in follower.keys if key in there] != keys:
                wrong.append(f"the follower of hub {number} has other events than the channel")
            if follower.streams != 1:
                wrong.append(f"a stream of hub {number} ended")
        if lost and not all("acknowledged bytes" in hub.log for hub in hubs):
            wrong.append("the log of a hub does not tell of the loss")
    longest = max(writer.longest for writer in load.writers)
    cells = [
        case.name, f"{load.before:,}", f"**{lost:,}**" if lost else "0", f"{len(shown - there):,}",
        str(doubled), f"{longest:.1f} s", str(load.refused()), "; ".join([*load.notes, *wrong]),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |", wrong


def main() -> int:
    """Print the rows whose names have one of the words; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="of the rows; default: all rows")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    options = parser.parse_args()
    chosen = [
        case for case in CASES
        if not options.words or any(word.lower() in case.name.lower() for word in options.words)
    ]  # fmt: skip
    if options.list or not chosen:
        print("\n".join(case.name for case in chosen or CASES))
        return 0 if options.list else 2
    failed = False
    print(HEAD, flush=True)
    for case in chosen:
        if case.name.startswith("Patroni") and (lacks := missing()):
            print(f"| {case.name} | | | | | | | skipped: missing {', '.join(lacks)} |", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="esource-failover-") as folder:
            try:
                line, wrong = run(case, Path(folder))
            except Exception as error:
                line, wrong = f"| {case.name} | | | | | | | FAILED: {error!r} |", ["failed"]
        print(line, flush=True)
        failed = failed or bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
