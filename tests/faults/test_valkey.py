"""Failovers of Valkey, by Sentinel and in a cluster, and slots that move, under load."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from esource.errors import StorageError
from esource.log import Moved, Notice
from esource.log.valkey import Valkey
from tests.harness.machine import size
from tests.harness.valkey import Cluster, Server, cluster, with_sentinels
from tests.harness.waiting import eventually

WRITERS = 4
LARGE = 1 << 16  # bytes, of which a few hundred rows are more than the sockets of a replica take


class Load:
    """Writers of some channels by two hubs while the block runs, and what they were told."""

    def __init__(self, url: str, channels: Sequence[str], size: int) -> None:
        """Rows are of up to so many bytes."""
        self.size = size
        self.hubs = [Valkey(url, 8) for _ in range(2)]
        self.channels = channels
        self.told: dict[str, list[bytes]] = {name: [] for name in channels}
        self.failed: list[str] = []
        self.longest = 0.0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=[n]) for n in range(WRITERS)]

    def start(self) -> None:
        """Write from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Write no more; return when the last answer is there."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        """How many events are acknowledged until now."""
        return sum(map(len, self.told.values()))

    def more(self, events: int) -> None:
        """Wait until so many more events than now are acknowledged."""
        goal = self.count + events
        eventually(lambda: self.count >= goal, 60)

    def _write(self, number: int) -> None:
        logs = [self.hubs[number % 2].open(name) for name in self.channels]
        count = 0
        while not self._over.is_set():
            for place, log in enumerate(logs):
                row = b"%d-%d\t\t%b\n" % (number, count, b"x" * (self.size - count % 100))
                began = time.monotonic()
                try:
                    while isinstance(log.append(None, [row]), Moved):
                        change = log.refresh()
                        if change:
                            log = logs[place] = change.by
                    self.told[log.name].append(row)
                except StorageError as error:
                    self.failed.append(error.text)
                self.longest = max(self.longest, time.monotonic() - began)
            count += 1

    def rows(self, hub: int) -> dict[str, list[bytes]]:
        """Return what a hub has."""
        found = {}
        for name in self.channels:
            log = self.hubs[hub].open(name)
            found[name] = log.pread(0, log.end).splitlines(keepends=True)
        return found

    def lost(self) -> int:
        """Return how many that were acknowledged are gone; nothing may be doubled or torn."""
        rows = self.rows(0)
        assert rows == self.rows(1)
        for name, each in rows.items():
            assert len(each) == len(set(each)), "an event is there twice"
            assert all(row.endswith(b"\n") and row.count(b"\t") == 2 for row in each), name
        return sum(len(set(self.told[name]) - set(rows[name])) for name in self.channels)


@contextmanager
def load(url: str, *channels: str, size: int = 200) -> Iterator[Load]:
    work = Load(url, channels, size)
    with ExitStack() as stack:
        for hub in work.hubs:
            hub.hold(lambda: None)
            stack.callback(hub.close)
        work.start()
        try:
            yield work
        finally:
            work.stop()
            print(f"{url}: {work.count} told, longest {work.longest:.1f} s, failed {work.failed}")


@pytest.mark.parametrize("lagging", [True, False][: size(1, 2)])
def test_with_wait_nothing_is_lost_when_the_primary_dies(lagging: bool) -> None:
    """One replica lags: Sentinel takes the one that has all."""
    with with_sentinels(2) as servers, load(f"{servers.url}?wait=1", "orders", size=LARGE) as work:
        work.more(300)
        before = servers.primary
        behind = next(server for server in servers.servers if server is not before)
        if lagging:
            behind.send(signal.SIGSTOP)
            work.more(100)
        before.stop(signal.SIGKILL)
        behind.send(signal.SIGCONT)
        work.more(300)
        assert servers.primary is not before
        work.stop()
        assert work.lost() == 0
        assert work.failed == []


def test_without_wait_replicas_that_lag_lose_events_and_all_hubs_agree_on_what_is_left() -> None:
    with with_sentinels(1) as servers, load(servers.url, "orders", size=LARGE) as work:
        work.more(300)
        primary, replica = servers.servers
        # What it has read of the lost rows is of no use afterwards.
        reader = Valkey(servers.url, 8)
        reader.open("orders").pread(0, 1 << 30)
        replica.send(signal.SIGSTOP)
        work.more(300)
        primary.stop(signal.SIGKILL)
        replica.send(signal.SIGCONT)
        work.more(300)
        work.stop()
        lost = work.lost()
        print(f"{lost} acknowledged events are lost")
        assert lost
        assert reader.open("orders").pread(0, 1 << 30).splitlines(True) == work.rows(0)["orders"]
        reader.close()


def test_a_cluster_goes_on_when_a_primary_dies() -> None:
    names = [f"channel-{n}" for n in range(6)]
    with cluster() as servers, load(servers.url, *names) as work:
        ears = work.hubs[0]
        assert ears.listen(1) is None
        work.more(300)
        owner = _owner(servers, b"esource")
        owner.stop(signal.SIGKILL)
        work.more(600)
        eventually(lambda: ears.listen(0.5) is None)
        work.hubs[1].tell([work.hubs[1].open("orders")])
        assert ears.listen(5) == [Notice("orders")]
        assert ears.names() == names
        work.stop()
        assert work.lost() == 0
        assert work.failed == []


@pytest.mark.parametrize("times", [size(2, 4)])
def test_slots_that_move_to_another_server_lose_and_double_nothing(times: int) -> None:
    """Key by key: in between some keys of a channel are here, and others there."""
    with cluster(2) as servers, load(servers.url, "orders", "invoices") as work:
        for _ in range(times):
            work.more(200)
            for name in work.channels:
                _move(servers, name)
        work.more(200)
        work.stop()
        assert work.lost() == 0
        assert work.failed == []


def _owner(servers: Cluster, key: bytes) -> Server:
    slot = servers.servers[0].do("CLUSTER", "KEYSLOT", key)
    for server in servers.servers[: servers.count]:
        for first, last, (_, port, *_), *_ in server.do("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in servers.servers if each.port == port)
    raise AssertionError("no server has the slot")


def _move(servers: Cluster, name: str) -> None:
    """Move the slot of a channel to the other primary."""
    key = f"esource:{{{name}}}"
    old = _owner(servers, key.encode())
    [new] = [each for each in servers.servers[:2] if each is not old]
    slot = old.do("CLUSTER", "KEYSLOT", key)
    old_id, new_id = (each.do("CLUSTER", "MYID").decode() for each in (old, new))
    new.do("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
    old.do("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
    while keys := old.do("CLUSTER", "GETKEYSINSLOT", slot, 1):
        time.sleep(0.1)
        old.do("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *keys)
    for each in (new, old):
        each.do("CLUSTER", "SETSLOT", slot, "NODE", new_id)
