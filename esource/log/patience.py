"""How long an engine is waited for, by one call and by all of them.

    a call ──► tried again and again ──► answered, or refused once its time is over
                    └── nobody has answered for as long as that ──► refused at once, but for one

So calls that wait for a thread do not wait for one another while the engine is away: of all of them
one asks whether it is back.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from esource.errors import StorageError
from esource.log import Counts

T = TypeVar("T")
logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.05, 1.0  # between tries
LEAST_SECONDS = 0.1  # that a try is worth


class Again(Exception):
    """A call was not answered as it should be, and may be made again. The text is for the log."""


class Away(Again):
    """It was not answered at all: no other one will be, now."""


class Patience:
    """That of one hub, with one engine."""

    def __init__(self, name: str, seconds: float, counts: Counts) -> None:
        """Name the engine for a person; each call takes up to so many seconds."""
        self._name = name
        self._seconds = seconds
        self._counts = counts
        self._away: float | None = None  # since when no call was answered, by the monotonic clock
        self._probes = deque([None])  # who has it asks whether it is back, after a while

    def call(self, once: Callable[[float], T]) -> T:
        """Return what is answered to what may be asked again; it is told until when, monotonic.

        Blocks; raises what `once` raises, and `StorageError` for `Again`, once time is over. What
        the engine says, and where it is, is for the log and not for clients.
        """
        began = time.monotonic()
        if self._away is None or began - self._away <= self._seconds:
            return self._try(once, began)
        try:
            probe = self._probes.pop()
        except IndexError:
            raise StorageError(f"{self._name} is away") from None
        try:
            return self._try(once, began)
        finally:
            self._probes.append(probe)

    def _try(self, once: Callable[[float], T], began: float) -> T:
        deadline = began + self._seconds
        pause, most = PAUSE_SECONDS
        while True:
            try:
                done = once(deadline)
            except Again as error:
                is_away = isinstance(error, Away)
                self._counts.is_up = False
                left = deadline - time.monotonic()
                if left <= LEAST_SECONDS:
                    if not is_away:
                        raise StorageError(f"{self._name}: {error}") from error
                    if self._away is None:
                        self._away = began
                        logger.error("%s is away: %s", self._name, error)
                    raise StorageError(f"{self._name} is away") from error
                self._counts.retries += 1
                time.sleep(min(random.uniform(pause / 2, pause), left))
                pause = min(pause * 2, most)
            else:
                self._counts.is_up = True
                if self._away is not None:
                    self._away = None
                    logger.warning("%s is back", self._name)
                return done


def cause(error: StorageError) -> str:
    """Return what a person who starts a hub is told: with what the engine has said, and where."""
    said = error.__cause__
    return f"{error.text}: {said}" if isinstance(said, Away) else error.text
