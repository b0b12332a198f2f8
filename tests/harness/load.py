"""Publishers and a follower that are at it while the operator does something."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.harness.follower import Follower
from tests.harness.hub import Hub
from tests.harness.publisher import Publisher
from tests.harness.rows import ids_of
from tests.harness.waiting import eventually
from tests.harness.wire import Door

PUBLISHERS = 3


class Load:
    """Some publishers, with a connection for each event, and a follower of one channel."""

    def __init__(self, hub: Hub, channel: str, at: Door, **headers: str) -> None:
        self.follower = Follower(at, channel, **headers).start()
        self.publishers = [
            Publisher(hub, f"p{n}", channel, retry=True, keep_alive=False).start()
            for n in range(PUBLISHERS)
        ]

    @property
    def acknowledged(self) -> int:
        """How many events are acknowledged until now, of all publishers."""
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    @property
    def nobody(self) -> int:
        """How many connections found nobody who listens."""
        return sum(publisher.nobody for publisher in self.publishers)

    def acknowledged_ids(self) -> set[str]:
        """Return the ids that are acknowledged until now."""
        return {
            publisher.id(number)
            for publisher in self.publishers
            for number in publisher.acknowledged
        }

    def goes_on(self, events: int = 30) -> None:
        """Return when more events are acknowledged: the channel is alive."""
        reached = self.acknowledged
        eventually(lambda: self.acknowledged >= reached + events)

    def stop_publishing(self) -> None:
        """Publish no more."""
        for publisher in self.publishers:
            publisher.stop()

    def stop(self) -> None:
        """End all of it."""
        self.stop_publishing()
        self.follower.stop()

    def check(self, rows: Iterable[bytes]) -> None:
        """Check that each acknowledged event is in the rows once, and was followed so."""
        ids = ids_of(rows)
        assert sorted(ids) == sorted(set(ids)), "something is there twice"
        assert set(ids) == self.acknowledged_ids()
        for publisher in self.publishers:
            own = [id for id in ids if id.startswith(f"{publisher.name}-")]
            assert own == [publisher.id(n) for n in range(len(publisher.acknowledged))]
            assert publisher.refused == []
        assert self.follower.ids == ids


@contextmanager
def load_on(hub: Hub, channel: str, at: Door | None = None, **headers: str) -> Iterator[Load]:
    """Load on a channel that is there already when the body begins, and ends with it.

    It is followed at another door than the hub's, if there is one, and with headers for that.
    """
    load = Load(hub, channel, at or hub, **headers)
    try:
        load.goes_on()
        yield load
        load.goes_on()
        load.stop_publishing()
        eventually(lambda: len(load.follower.events) >= load.acknowledged)
    finally:
        load.stop()
