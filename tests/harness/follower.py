"""One who follows as an `EventSource` does: comes back after each end, with the last id."""

import socket
import threading
from contextlib import suppress

from esource.event import Event
from tests.harness.stream import Stream
from tests.harness.waiting import eventually
from tests.harness.wire import Door

AGAIN_SECONDS = 0.05  # between a hub that is not there and the next try


class Follower:
    """Follows a channel from its start, in a thread, until it is stopped."""

    def __init__(self, door: Door, channel: str, **headers: str) -> None:
        """Do nothing yet; `headers` go with each request."""
        self.events: list[Event] = []
        self.connections = 0  # that a stream began on
        self._door, self._channel, self._headers = door, channel, headers
        self._over = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._follow)

    @property
    def ids(self) -> list[str]:
        """The ids of the events until now."""
        return [event.id.decode() for event in self.events]

    @property
    def data(self) -> list[bytes]:
        """The data of the events until now."""
        return [event.data for event in self.events]

    def start(self) -> "Follower":
        """Follow from now on."""
        self._thread.start()
        return self

    def reach(self, id: str) -> None:
        """Return when the last event is the one with an id."""
        eventually(lambda: self.ids[-1:] == [id])

    def stop(self) -> None:
        """Follow no more."""
        self._over.set()
        if self._stream:
            with suppress(OSError):
                self._stream.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _follow(self) -> None:
        while not self._over.is_set():
            last = self.events[-1].id.decode() if self.events else "0"
            headers = {"Last_Event_ID": last, **self._headers}
            try:
                with Stream(self._door, f"/{self._channel}", **headers) as self._stream:
                    self.connections += 1
                    self._read(self._stream)
            except (OSError, AssertionError):
                self._over.wait(AGAIN_SECONDS)  # the hub is not there, or goes away

    def _read(self, stream: Stream) -> None:
        taken, more = 0, True
        while more and not self._over.is_set():
            self.events += stream.events[taken:]
            taken = len(stream.events)
            more = stream.read_more()
        self.events += stream.events[taken:]
