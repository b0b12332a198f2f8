"""Those who publish numbered events, one after the other, and keep book of what came of each."""

import threading
from collections.abc import Callable

from tests.harness.hub import Hub
from tests.harness.waiting import eventually
from tests.harness.wire import Wire


def no_padding(number: int) -> bytes:
    """Return what stands behind a number by itself."""
    return b""


class Publisher:
    """One connection that publishes `<name> <number> <padding>`, and keeps book.

    It ends when its connection breaks. With `retry` it comes back, and what was not answered is
    sent again with its id, `<name>-<number>`, and `unique=1`, which does no harm.
    """

    def __init__(
        self, hub: Hub, name: str, channel: str, *, batch: int = 1, retry: bool = False,
        keep_alive: bool = True, type: str = "", padding: Callable[[int], bytes] = no_padding,
    ) -> None:  # fmt: skip
        """Send `batch` requests before the first answer is read.

        Without `keep_alive` each batch has a connection of its own.
        """
        self.hub, self.name, self.channel = hub, name, channel
        self.batch, self.retry, self.keep_alive = batch, retry, keep_alive
        self.type, self.padding = type, padding
        self.sent = 0
        self.acknowledged: list[int] = []
        self.refused: list[tuple[int, int]] = []  # number and status
        self.broken = 0  # connections that ended before the publisher did
        self.nobody = 0  # connections that were refused: nobody listened
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def data(self, number: int) -> bytes:
        """Return the data of an event."""
        return b"%b %d %b" % (self.name.encode(), number, self.padding(number))

    def id(self, number: int) -> str:
        """Return the id of an event of a publisher that sends again."""
        return f"{self.name}-{number}"

    def start(self) -> "Publisher":
        """Publish from now on, until `stop`, or until the connection breaks."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Publish no more; return when the last answer is there."""
        self._over.set()
        self.join()

    def join(self) -> None:
        """Return when the connection has ended, after which this does not come back."""
        assert self._thread
        if self.retry:
            self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with Wire(self.hub) as wire:
                    self._publish_on(wire)
            except ConnectionRefusedError:
                self.nobody += 1
                if not self.retry:
                    return
                self._over.wait(0.005)
            except OSError:
                self.broken += 1
                if not self.retry:
                    return

    def _publish_on(self, wire: Wire) -> None:
        while not self._over.is_set():
            numbers = self._next()
            self.sent = numbers.stop
            for number in numbers:
                wire.send(self._path(number), self.data(number))
            for number in numbers:
                status = wire.reply().status
                if status in (200, 201):
                    self.acknowledged.append(number)
                else:
                    self.refused.append((number, status))
            if not self.keep_alive:
                return

    def _next(self) -> range:
        begin = self.sent
        if self.retry:
            begin = self.acknowledged[-1] + 1 if self.acknowledged else 0
        return range(begin, begin + self.batch)

    def _path(self, number: int) -> str:
        if self.retry:
            return f"/{self.channel}?unique=1&id={self.id(number)}"
        return f"/{self.channel}?event={self.type}" if self.type else f"/{self.channel}"


class Publishers:
    """Publishers of one channel, as many as wanted, while the block runs."""

    def __init__(self, hub: Hub, channel: str, count: int = 4, size: int = 100) -> None:
        """Name them `p0`, `p1`, …, and their events' types likewise; `size`: of data, at most."""

        def padding(number: int) -> bytes:
            return b"x" * (number * 37 % size)

        self.each = [
            Publisher(hub, f"p{n}", channel, type=f"p{n}", padding=padding) for n in range(count)
        ]

    @property
    def acknowledged(self) -> int:
        """How many events are acknowledged until now, of all."""
        return sum(len(publisher.acknowledged) for publisher in self.each)

    @property
    def data(self) -> set[bytes]:
        """The data of what is acknowledged until now."""
        return {publisher.data(n) for publisher in self.each for n in publisher.acknowledged}

    @property
    def is_unharmed(self) -> bool:
        """Whether nothing was refused and no connection broke."""
        return not any(p.refused or p.broken or p.nobody for p in self.each)

    def reach(self, more: int) -> None:
        """Wait until `more` events than now are acknowledged."""
        goal = self.acknowledged + more
        eventually(lambda: self.acknowledged >= goal)

    def __enter__(self) -> "Publishers":
        for publisher in self.each:
            publisher.start()
        return self

    def __exit__(self, *_: object) -> None:
        for publisher in self.each:
            publisher.stop()
