"""A crowd: writers of one channel at several hubs, and what must be true of what they wrote."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise

from esource.event import DEFAULT_ID
from tests.harness.engine import data_of, rows_at
from tests.harness.hub import Hub
from tests.harness.measures import metric
from tests.harness.publisher import Publisher
from tests.harness.rows import ids_of, numbers
from tests.harness.stream import Stream
from tests.harness.waiting import eventually, together

WRITERS = 4  # at each hub
TRIES = 3.0  # for a commit, on average


class Crowd:
    """Writers of one channel at several hubs, and a follower at each, while the block runs."""

    def __init__(self, hubs: Sequence[Hub], channel: str, others: int = 0) -> None:
        """`others` is how many events are there already."""
        self.hubs, self.channel, self.others = hubs, channel, others
        self.writers = [
            Publisher(hub, f"p{n}-{m}", channel) for n, hub in enumerate(hubs)
            for m in range(WRITERS)
        ]  # fmt: skip

    @property
    def acknowledged(self) -> int:
        """How many events are, until now."""
        return sum(len(writer.acknowledged) for writer in self.writers)

    def of_each(self) -> list[int]:
        """Return how many events are acknowledged by each hub."""
        counts = [len(writer.acknowledged) for writer in self.writers]
        return [sum(counts[n : n + WRITERS]) for n in range(0, len(counts), WRITERS)]

    def run(self, events: int) -> None:
        """Publish so many, and check what has become of them."""
        appends, commits = self.calls()
        with ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(hub, f"/{self.channel}", Last_Event_ID="0"))
                for hub in self.hubs
            ]
            for writer in self.writers:
                stack.callback(writer.stop)
                writer.start()
            eventually(lambda: self.acknowledged >= events or self.problems(), 120)
            for writer in self.writers:
                writer.stop()
            assert not self.problems()
            asked, done = self.calls()
            assert (asked - appends) / (done - commits) <= TRIES
            rows = rows_at(self.hubs[0], self.channel)
            together(len(streams), lambda n: self._read(streams[n], len(rows)))
        assert all(rows_at(hub, self.channel) == rows for hub in self.hubs)
        data = data_of(rows)
        for stream in streams:
            assert [event.data for event in stream.events] == data
            assert [event.id.decode() for event in stream.events] == ids_of(rows)
        assert len(rows) == self.acknowledged + self.others
        for writer in self.writers:
            assert numbers(rows, writer.name) == writer.acknowledged
        ids = ids_of(rows)
        assert all(DEFAULT_ID.fullmatch(id.encode()) for id in ids)
        assert all(a < b for a, b in pairwise(ids))

    def problems(self) -> list[object]:
        """Return what was refused or broke."""
        return [writer.refused for writer in self.writers if writer.refused or writer.broken]

    def _read(self, stream: Stream, count: int) -> None:
        while len(stream.events) < count:
            assert stream.read_more(), "it has ended"

    def calls(self) -> tuple[float, float]:
        """Return how many appends the engine has answered, and how many commits there were."""
        return (
            sum(metric(hub, "esource_store_appends_total") for hub in self.hubs),
            sum(metric(hub, "esource_commit_duration_seconds_count") for hub in self.hubs),
        )
