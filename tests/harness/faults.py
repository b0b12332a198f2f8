"""Publishers that meet a fault of the disk, and what must hold for them and for all others."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from tests.harness.hub import Hub
from tests.harness.publisher import Publisher
from tests.harness.rows import increases, numbers
from tests.harness.shims import Disk
from tests.harness.stream import Stream
from tests.harness.waiting import eventually


class Fault(NamedTuple):
    """What fails, with which status publishers are told, and where the sequence begins."""

    rules: tuple[tuple[str, int, int], ...]  # kind of call, errno, how often
    statuses: frozenset[int]


def check_a_fault(hub: Hub, disk: Disk, fault: Fault, place: int, channels: Sequence[str]) -> str:
    """Publish through a fault at the n-th call; return the trace of the calls.

    There is a publisher for each of `channels`, in which one may stand more than once. Every answer
    is compared with the file, the file with a follower, and all downloads meanwhile with the file.
    """
    disk.heal()
    disk.forget()
    publishers = [Publisher(hub, f"p{n}", channel) for n, channel in enumerate(channels)]
    downloads: list[tuple[str, bytes]] = []

    def over() -> bool:
        downloads.extend((channel, hub.get(f"/{channel}").body) for channel in set(channels))
        return not any(disk.pending(kind) for kind, *_ in fault.rules)

    with ExitStack() as stack:
        streams = {
            channel: stack.enter_context(Stream(hub, f"/{channel}")) for channel in set(channels)
        }
        for kind, error, times in fault.rules:
            disk.fail(kind, place if kind == fault.rules[0][0] else 0, error, times)
        for publisher in publishers:
            publisher.start()
        eventually(over)
        counts = [len(publisher.acknowledged) for publisher in publishers]
        eventually(
            lambda: all(
                len(publisher.acknowledged) > count + 3
                for publisher, count in zip(publishers, counts, strict=True)
            )
        )
        for publisher in publishers:
            publisher.stop()
        for channel, stream in streams.items():
            rows = hub.rows(channel)
            own = [publisher for publisher in publishers if publisher.channel == channel]
            assert hub.file(channel).read_bytes().endswith(b"\n")
            for publisher in own:
                found = numbers(rows, publisher.name)
                assert found == publisher.acknowledged  # in order, once, nothing that was refused
                assert increases(found)
            assert len(rows) == sum(len(publisher.acknowledged) for publisher in own)
            events = stream.read(len(rows))
            assert [event.data for event in events] == [row.split(b"\t", 2)[2] for row in rows]
    statuses = {status for publisher in publishers for _, status in publisher.refused}
    assert statuses <= fault.statuses
    assert bool(statuses) == bool(fault.statuses)
    whole = {channel: hub.file(channel).read_bytes() for channel in streams}
    for channel, content in downloads:
        assert whole[channel].startswith(content)
        assert content.endswith(b"\n") or not content
    for channel, content in whole.items():
        assert hub.get(f"/{channel}").body == content
    return disk.trace()
