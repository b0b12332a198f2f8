"""When to try again, what is said of it, and the signal that ends everything in order."""

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from esource.client.target import Away
from esource.errors import printable

LEAST_SECONDS = 0.5
MOST_SECONDS = 30.0


class Stopped(Exception):
    """A signal has come, and nothing is half done."""


class Stop:
    """SIGTERM and SIGINT: what is at work is ended first, what only waits is left at once."""

    def __init__(self) -> None:
        """Take the signals over; to be made in the main thread."""
        self.asked = threading.Event()
        self._waits = False
        self.on_ask: Callable[[], None] = lambda: None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self.asked.is_set()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # a person who asks twice does not want to wait
        self.asked.set()
        self.on_ask()
        if self._waits:
            raise Stopped

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say that nothing is at work meanwhile: a signal raises `Stopped` here, at once.

        For the main thread, which is the one that signals interrupt.
        """
        self._waits = True
        try:
            if self.is_asked:
                raise Stopped
            yield
        finally:
            self._waits = False

    def sleep(self, seconds: float) -> None:
        """Wait that long, or raise `Stopped`."""
        with self.waiting():
            time.sleep(seconds)


class Patience:
    """What lies between one try and the next: twice as long each time, with jitter, up to 30 s."""

    def __init__(self, stop: Stop, least: float = LEAST_SECONDS) -> None:
        """Begin with `least` seconds."""
        self._stop = stop
        self._least = least
        self._seconds = least
        self._is_told = False

    def works(self) -> None:
        """Begin anew: somebody answered."""
        if self._is_told:
            print("esource: it goes on", file=sys.stderr)
        self._seconds = self._least
        self._is_told = False

    def wait(self, away: Away, at_least: float = 0.0) -> None:
        """Wait for the next try, at least so many seconds; raise `Stopped` at a signal."""
        self._stop.sleep(self.delay(away, at_least))

    def delay(self, away: Away, at_least: float = 0.0) -> float:
        """Return the seconds until the next try; say why, once until it works again."""
        if not self._is_told and self._seconds > self._least:  # a reload is not worth a line
            print(f"esource: {printable(str(away))}; trying again", file=sys.stderr)
            self._is_told = True
        seconds = max(self._seconds * random.uniform(0.5, 1.0), at_least, away.seconds)
        self._seconds = min(2 * self._seconds, MOST_SECONDS)
        return seconds
