"""What years ask of the channels: every minute, each log that needs it is tended.

    every minute     closed by age, late rows moved, what is there again counts again
    after an hour    what the rules need not keep is removed

Not before that hour, of a start or of a jump of the wall clock: until then a person can still say
that a rule, or the clock, is wrong.
"""

import logging
import time
from collections.abc import Callable

import gevent

from esource.errors import EsourceError
from esource.hub.channel import Channel
from esource.hub.loop import in_thread, reads
from esource.log import Logs

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
QUIET_SECONDS = 3600.0
JUMP_SECONDS = 60.0  # of the wall clock, against the monotonic one


def clocks() -> tuple[float, float]:
    """Return the time of the wall clock, and of the monotonic one, in seconds."""
    return time.time(), time.monotonic()


class Retention:
    """Tends the logs of a hub."""

    def __init__(
        self, logs: Logs, channel: Callable[[str], Channel],
        clocks: Callable[[], tuple[float, float]] = clocks,
    ) -> None:  # fmt: skip
        """Begin with a quiet hour; `channel` opens one by its name."""
        self._logs = logs
        self._channel = channel
        self._clocks = clocks
        now, monotonic = clocks()
        self._quiet_until = monotonic + QUIET_SECONDS
        self._difference = now - monotonic

    def start(self) -> None:
        """Say what will be removed, and go on for ever."""
        gevent.spawn(self._run)

    def _run(self) -> None:
        self.announce()
        while True:
            gevent.sleep(LOOK_SECONDS)
            try:
                self.look()
            except Exception:
                logger.exception("the channels' files cannot be looked at")

    def announce(self) -> None:
        """Say how much the rules are about to remove, and what is missing. Blocks."""
        now, _ = self._clocks()
        try:
            in_thread(reads(), self._logs.due, now)
            files, size = in_thread(reads(), self._logs.removable, now)
        except OSError as error:
            logger.error("the channels' files cannot be looked at: %s", error.strerror)
            return
        for gap in self._logs.gaps():
            logger.warning("%s", gap)
        if files:
            logger.warning(
                "ESOURCE_KEEP: %d segments with %d bytes will be removed in an hour", files, size
            )

    def look(self) -> None:
        """Tend every log that needs it. Blocks."""
        now, monotonic = self._clocks()
        if abs(now - monotonic - self._difference) > JUMP_SECONDS:
            logger.warning("the clock has jumped; nothing is removed for an hour")
            self._difference, self._quiet_until = now - monotonic, monotonic + QUIET_SECONDS
        may_remove = monotonic >= self._quiet_until
        for name in in_thread(reads(), self._logs.due, now):
            try:
                removed = self._channel(name).tend(now, may_remove)
            except EsourceError as error:
                logger.error("%s: %s", name, error.text)
                continue
            if removed:
                logger.info("%s: removed %s", name, removed)
