"""Publishers and a follower that are at it while the operator does something."""

import http.client
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness import Door, Hub, Stream, eventually

PUBLISHERS = 3


class Publisher:
    """Publishes `<name>-0`, `<name>-1`, … one after the other, each until it is acknowledged.

    With `unique=1`, an event whose answer did not come is sent again without harm.
    """

    def __init__(self, hub: Hub, channel: str, name: str) -> None:
        self.name = name
        self.acknowledged = 0  # how many
        self.refused = 0  # connections: nobody listened
        self.failed: list[str] = []  # answers other than 201 and 200
        self._hub = hub
        self._channel = channel
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def _publish(self) -> None:
        while not self._stop.is_set():
            path = f"/{self._channel}?unique=1&id={self.name}-{self.acknowledged}"
            try:
                answer = self._hub.post(path, f"data of {self.acknowledged}")
            except ConnectionRefusedError:
                self.refused += 1
            except (OSError, http.client.HTTPException):
                pass  # it was closed before the answer
            else:
                if answer.status in (200, 201):
                    self.acknowledged += 1
                else:
                    self.failed.append(f"{answer.status} {answer.text}")

    def stop(self) -> None:
        """Publish no more; return when the last answer is there."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


class Follower:
    """Follows a channel from its start, and comes back after each end with the last id."""

    def __init__(self, door: Door, channel: str, **headers: str) -> None:
        self.ids: list[str] = []
        self.connections = 0  # that a stream began on
        self._door = door
        self._headers = headers
        self._channel = channel
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set():
            last = self.ids[-1] if self.ids else "0"
            try:
                with Stream(
                    self._door, f"/{self._channel}", Last_Event_ID=last, **self._headers
                ) as stream:
                    self._stream = stream
                    self.connections += 1
                    taken = 0
                    while not self._stop.is_set():
                        self.ids += [event.id.decode() for event in stream.events[taken:]]
                        taken = len(stream.events)
                        if not stream.read_more():
                            break
                    self.ids += [event.id.decode() for event in stream.events[taken:]]
            except (OSError, AssertionError):
                self._stop.wait(0.05)  # the hub is not there: again

    def stop(self) -> None:
        """Follow no more."""
        self._stop.set()
        if self._stream:
            with suppress(OSError):
                self._stream.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        assert not self._thread.is_alive()


class Load:
    """Some publishers and a follower of one channel."""

    def __init__(self, hub: Hub, channel: str, at: Door, **headers: str) -> None:
        self.follower = Follower(at, channel, **headers)
        self.publishers = [Publisher(hub, channel, f"p{n}") for n in range(PUBLISHERS)]

    @property
    def acknowledged(self) -> int:
        """How many events are acknowledged until now, of all publishers."""
        return sum(publisher.acknowledged for publisher in self.publishers)

    @property
    def refused(self) -> int:
        """How many connections found nobody who listens."""
        return sum(publisher.refused for publisher in self.publishers)

    def acknowledged_ids(self) -> set[str]:
        """Return the ids that are acknowledged until now."""
        return {
            f"{publisher.name}-{number}"
            for publisher in self.publishers
            for number in range(publisher.acknowledged)
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
            assert own == [f"{publisher.name}-{n}" for n in range(publisher.acknowledged)]
            assert publisher.failed == []
        assert self.follower.ids == ids


def ids_of(rows: Iterable[bytes]) -> list[str]:
    """Return the ids of rows."""
    return [row.split(b"\t")[0].decode() for row in rows]


def rows_of(path: Path) -> list[bytes]:
    """Return the whole rows of a file."""
    return path.read_bytes().split(b"\n")[:-1]


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
        eventually(lambda: len(load.follower.ids) >= load.acknowledged)
    finally:
        load.stop()
