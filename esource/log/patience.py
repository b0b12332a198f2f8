"""How long an engine is waited for, by one call and by all of them.

    a call ──► tried again and again ──► answered, or refused once its time is over
                    └── nobody has answered for as long as that ──► refused at once, but for one

So calls that wait for a thread do not wait for one another while the engine is away: of all of them
one asks whether it is back. Until it has heard so, the others are refused: it asks again soon, and
leaves the asking to another one once it has no time for it.

While the engine is well, a call has its time from when it begins: what it has waited for was the
work of others. Once it is not, each call has its time from when it was *asked* for: commits of one
channel queue behind one another, and the one behind has been waited for as long as the one before.
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
PROBE_SECONDS = 0.25  # the same at most, of the one that asks for all
LEAST_SECONDS = 0.1  # that a try is worth


class Again(Exception):
    """A call was not answered as it should be, and may be made again. The text is for the log."""


class Away(Again):
    """It was not answered at all: no other one will be, now."""


class TooLate(Away):
    """It was not asked, since it could not answer in the time that is left."""


class Unsafe(Again):
    """What was written is not safe yet: nothing that is written will be, now."""


class Untried(StorageError):
    """The engine was not asked."""


class Patience:
    """That of one hub, with one engine: with what reads, or with what writes.

    Two, since a replica that is missing holds up what is written, and nothing else.
    """

    def __init__(self, name: str, seconds: float, counts: Counts, writes: bool = False) -> None:
        """Name the engine for a person; each call takes up to so many seconds."""
        self._name = name
        self._gone, self._back = (
            ("takes no events", "takes events again") if writes else ("is away", "is back")
        )
        self._seconds = seconds
        self._counts = counts
        self._why = ""  # no call was answered for that long, for a person; empty if one was
        self._probes = deque([None])  # who has it asks whether it is back

    def call(self, once: Callable[[float], T], asked: float | None = None) -> T:
        """Return what is answered to what may be asked again; it is told until when, monotonic.

        `asked` is when somebody began to wait for it, by the same clock; None: now. Blocks; raises
        what `once` raises, `StorageError` for `Again`, once time is over, and `Untried` if there
        was none. What the engine says, and where it is, is for the log and not for clients.
        """
        began = time.monotonic()
        if not self._why:  # it is well
            return self._try(once, began + self._seconds)
        try:
            probe = self._probes.pop()
        except IndexError:
            raise Untried(self._why) from None
        try:
            deadline = (began if asked is None else asked) + self._seconds
            if deadline - began <= LEAST_SECONDS:
                raise Untried(self._why)
            return self._try(once, deadline, is_probe=True)
        finally:
            self._probes.append(probe)

    def _try(self, once: Callable[[float], T], deadline: float, is_probe: bool = False) -> T:
        pause, most = PAUSE_SECONDS
        most = PROBE_SECONDS if is_probe else most
        while True:
            try:
                done = once(deadline)
            except Again as error:
                self._counts.is_up = False
                left = deadline - time.monotonic()
                if left <= LEAST_SECONDS or (is_probe and isinstance(error, TooLate)):
                    raise StorageError(self._given_up(error)) from error
                self._counts.retries += 1
                time.sleep(min(random.uniform(pause / 2, pause), left))
                pause = min(pause * 2, most)
            else:
                self._counts.is_up = True
                if self._why:
                    self._why = ""
                    logger.warning("%s %s", self._name, self._back)
                return done

    def _given_up(self, error: Again) -> str:
        """Note that time is over; return why, for a client."""
        is_away = isinstance(error, Away)
        why = f"{self._name} is away" if is_away else f"{self._name}: {error}"
        if is_away or isinstance(error, Unsafe):
            if not self._why:
                logger.error("%s %s: %s", self._name, self._gone, error)
            self._why = why
        return why


def cause(error: StorageError) -> str:
    """Return what a person who starts a hub is told: with what the engine has said, and where."""
    said = error.__cause__
    return f"{error.text}: {said}" if isinstance(said, Away) else error.text
