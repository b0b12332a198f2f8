"""Commits of several channels that share one sync: what fails, what is slow, and who is hurt."""

import errno
import re
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection

import pytest

from tests.harness import PATIENCE_SECONDS, Hub, Publisher, Stream, Wire, eventually, size, started
from tests.harness.faults import Fault, check_a_fault
from tests.harness.shims import Build, Disk

CHANNELS = 6
PLACES = range(size(10, 24))  # n
FAULTS = {
    "EIO": Fault((("sync_all", errno.EIO, 1),), frozenset({503})),
    "EIO thrice": Fault((("sync_all", errno.EIO, 3),), frozenset({503})),
    "ENOSPC": Fault((("sync_all", errno.ENOSPC, 1),), frozenset({503, 507})),
    "EIO, and cutting back": Fault(
        (("sync_all", errno.EIO, 1), ("truncate", errno.EIO, 2)), frozenset({503})
    ),
}
AHEAD_SECONDS = 0.25  # that a round takes while the next one gathers
SLOW_SECONDS = 0.1


# -- one round ---------------------------------------------------------------------------------


class Round:
    """Publishers of several channels whose events meet in one round of commits."""

    def __init__(self, hub: Hub, disk: Disk, name: str, *faults: tuple[str, int, int]) -> None:
        """Publish; `faults` (kind of call, how many pass, errno) are of the round alone.

        The channels have one event, "before", when it begins, and then are sent "in it".
        """
        self.channels = [f"{name}-{n}" for n in range(CHANNELS)]
        disk.heal()
        for channel in self.channels:
            hub.publish(f"/{channel}", "before")
        with ExitStack() as stack:
            ahead, *wires = (stack.enter_context(Wire(hub)) for _ in range(1 + CHANNELS))
            disk.forget()
            disk.slow("sync", 0, AHEAD_SECONDS, times=1)
            ahead.send(f"/{name}-ahead", b"x")
            eventually(lambda: "s" in disk.trace())
            disk.forget()
            for kind, left, error in faults:
                disk.fail(kind, left, error)
            for wire, channel in zip(wires, self.channels, strict=True):
                wire.send(f"/{channel}", b"in it")
            self.ahead = ahead.reply().status
            self.statuses = [wire.reply().status for wire in wires]
        self.trace = "".join(call for call in disk.trace() if call in "wsaWSA")
        disk.heal()


def met(
    hub: Hub, disk: Disk, name: str, calls: str, *faults: tuple[str, int, int]
) -> Round:  # fmt: skip
    """Return a round that made such writes and syncs.

    On a busy machine some may come too late for it: then there is another one.
    """
    traces = []
    for n in range(10):
        round = Round(hub, disk, f"{name}-{n}", *faults)
        assert round.ahead == 201, "a round ahead is hurt by what comes later"
        if re.fullmatch(calls, round.trace):
            return round
        traces.append(round.trace)
    raise AssertionError(f"no round with the calls {calls}, but {traces}")


def test_commits_of_several_channels_share_one_sync(broken: tuple[Hub, Disk]) -> None:
    hub, disk = broken
    round = met(hub, disk, "shared", "w{6}a")
    assert round.statuses == [201] * CHANNELS
    assert all(hub.data(channel) == [b"before", b"in it"] for channel in round.channels)


@pytest.mark.parametrize("reads_fail", [False, True])
def test_after_a_failed_sync_of_all_each_file_is_opened_and_read_before_it_takes_more(
    broken: tuple[Hub, Disk], reads_fail: bool
) -> None:
    hub, disk = broken
    round = met(hub, disk, f"reread-{reads_fail}", "w{6}A", ("sync_all", 0, errno.EIO))
    assert round.statuses == [503] * CHANNELS
    for channel in round.channels:
        assert hub.get(f"/{channel}").body.endswith(b"\t\tbefore\n")
        with Stream(hub, f"/{channel}") as stream:
            disk.forget()
            if reads_fail:
                disk.fail("read", 0, errno.EIO, times=1000)
                assert hub.post(f"/{channel}", "refused").status == 503
                disk.heal()
                assert "w" not in disk.trace()
            assert hub.post(f"/{channel}", "later").status == 201
            assert re.search("o.*r.*w", disk.trace())
            assert [event.data for event in stream.read(1)] == [b"later"]
        assert hub.data(channel) == [b"before", b"later"]


@pytest.mark.parametrize(
    ("calls", "status", "faults"),
    [
        ("wwWwwwa", 503, [("write", 2, errno.EIO)]),
        ("wwWwwwa", 507, [("write", 2, errno.ENOSPC)]),
        ("wwWWwwwa", 507, [("write", 2, -errno.ENOSPC)]),  # short, and then
        ("wwWWwwwa", 503, [("write", 2, -errno.EIO), ("truncate", 0, errno.EIO)]),
    ],
)
def test_a_failed_write_refuses_the_publishers_of_its_channel_alone(
    broken: tuple[Hub, Disk], calls: str, status: int, faults: Sequence[tuple[str, int, int]]
) -> None:
    hub, disk = broken
    name = f"write-{status}-{len(calls)}"
    round = met(hub, disk, name, calls, *faults)
    assert sorted(round.statuses) == [201] * (CHANNELS - 1) + [status]
    for channel, told in zip(round.channels, round.statuses, strict=True):
        stored = [b"before", b"in it"] if told == 201 else [b"before"]
        served = hub.get(f"/{channel}").body.split(b"\n")[:-1]
        assert [row.split(b"\t", 2)[2] for row in served] == stored
        assert hub.post(f"/{channel}", "later").status == 201
        assert hub.data(channel) == [*stored, b"later"]


# -- one round after the other -----------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_the_nth_sync_of_all_is_told_to_its_publishers_and_hurts_nobody_else(
    broken: tuple[Hub, Disk], name: str
) -> None:
    hub, disk = broken
    prefix = re.sub("[^a-z]+", "-", name.lower())
    for place in PLACES:
        channels = [f"{prefix}-{place}-{n % CHANNELS}" for n in range(2 * CHANNELS)]
        check_a_fault(hub, disk, FAULTS[name], place, channels)
    assert "Traceback" not in hub.log


# -- a slow disk -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, shim: Build) -> Iterator[tuple[Hub, Disk]]:
    """A hub with a heartbeat each second, on a disk that is slow when it is told to be."""
    hub = Hub(tmp_path_factory.mktemp("slow"), ESOURCE_HEARTBEAT_SECONDS="1")
    hub.folder.mkdir()
    disk = Disk(hub, shim("disk"))
    with started(hub):
        yield hub, disk
        disk.heal()


class Latencies:
    """How long `GET /-/health` takes, again and again on one connection, while the block runs."""

    def __init__(self, hub: Hub) -> None:
        self.seconds: list[float] = []
        self._client = HTTPConnection("127.0.0.1", hub.port, timeout=PATIENCE_SECONDS)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._over.wait(0.005):  # a moment in which the hub may have nothing else to do
            began = time.monotonic()
            self._client.request("GET", "/-/health")
            assert self._client.getresponse().read() == b"ok\n"
            self.seconds.append(time.monotonic() - began)

    def over(self, seconds: float) -> list[float]:
        """Return those that took longer."""
        return [took for took in self.seconds if took > seconds]

    def __enter__(self) -> "Latencies":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()


@contextmanager
def publishing(hub: Hub, name: str, channels: int) -> Iterator[list[Publisher]]:
    """A publisher for each of so many channels, all at work when the body begins, and after it."""
    publishers = [Publisher(hub, f"p{n}", f"{name}-{n}").start() for n in range(channels)]

    def go_on() -> None:
        counts = [len(publisher.acknowledged) for publisher in publishers]
        eventually(
            lambda: all(
                len(publisher.acknowledged) > count + 3
                for publisher, count in zip(publishers, counts, strict=True)
            )
        )

    try:
        go_on()
        yield publishers
        go_on()
    finally:
        for publisher in publishers:
            publisher.stop()
    for publisher in publishers:
        assert not publisher.refused
        assert len(hub.rows(publisher.channel)) == len(publisher.acknowledged)


@pytest.mark.parametrize("channels", [1, CHANNELS])
@pytest.mark.parametrize("kinds", [("sync", "sync_all"), ("write",)])
def test_the_loop_does_not_wait_for_a_disk_that_is_slow(
    slow: tuple[Hub, Disk], kinds: Sequence[str], channels: int
) -> None:
    """At its first hiccup it may wait: until then it was fast."""
    hub, disk = slow
    name = f"slow-{kinds[0]}-{channels}"
    with (
        Stream(hub, f"/{name}") as quiet, publishing(hub, name, channels),
        Latencies(hub) as latencies,
    ):  # fmt: skip
        eventually(lambda: len(latencies.seconds) > 20)
        latencies.seconds.clear()
        disk.forget()
        for kind in kinds:
            disk.slow(kind, 0, SLOW_SECONDS)
        beats = quiet.body.count(b"\n:\n")
        while quiet.body.count(b"\n:\n") < beats + 2:
            assert quiet.read_more()
        calls = sum(call in ("w" if kinds == ("write",) else "sa") for call in disk.trace())
        disk.heal()
    assert calls >= 10, "the disk was hardly asked for anything"
    assert len(latencies.over(0.9 * SLOW_SECONDS)) <= 1 + calls // 10, latencies.seconds
    assert statistics.median(latencies.seconds) < SLOW_SECONDS / 4
    assert max(latencies.seconds) < 1


@pytest.mark.parametrize("channels", [1, CHANNELS])
def test_a_disk_that_hangs_once_holds_up_one_request_elsewhere_at_most(
    slow: tuple[Hub, Disk], channels: int
) -> None:
    hub, disk = slow
    with publishing(hub, f"hangs-{channels}", channels), Latencies(hub) as latencies:
        eventually(lambda: len(latencies.seconds) > 20)
        latencies.seconds.clear()
        kind = "sync" if channels == 1 else "sync_all"
        disk.forget()
        disk.slow(kind, 10, 2.0, times=1)
        eventually(lambda: len(disk.trace()) > 300)  # it goes on
        disk.heal()
    assert len(latencies.over(0.5)) <= 1, latencies.over(0.5)
