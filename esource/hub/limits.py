"""What the operator hears when the hub begins to refuse.

A client that is refused is told so in the answer. The operator, who sets the limit, has the log: a
line when it begins, and one a minute for as long as it goes on. With a line for each refusal, a
stranger would write the log.
"""

import logging
import math
import time
from typing import NoReturn

from esource.config import variable
from esource.errors import Busy

logger = logging.getLogger(__name__)

RETRY_SECONDS = 10  # after which a client that was refused may come back
QUIET_SECONDS = 60.0


class Reminder:
    """A warning that is logged once a minute at most, however often there is cause."""

    def __init__(self) -> None:
        self._warned = -math.inf

    def warn(self, text: str, *args: object) -> None:
        """Log the warning, if the last one is a minute old."""
        now = time.monotonic()
        if now - self._warned >= QUIET_SECONDS:
            self._warned = now
            logger.warning(text, *args)


class Limit:
    """A setting that says how many there may be."""

    def __init__(self, name: str, value: int) -> None:
        """Name the setting as `Config` does."""
        self.value = value
        self._variable = variable(name)
        self._reminder = Reminder()

    def refuse(self, text: str) -> NoReturn:
        """Raise `Busy` with a text for the client; the operator has a line in the log."""
        self._reminder.warn(
            "%s is %d, and as many there are: more are refused", self._variable, self.value
        )
        raise Busy(text, RETRY_SECONDS)
