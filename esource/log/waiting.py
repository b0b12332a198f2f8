"""How a call of an engine waits: in a thread, or in a loop that many share.

Most calls are made in threads, which wait in the system. One that is made in the loop of the hub,
such as the append of a few rows, must not: there the loop says when a connection is ready, and
others go on meanwhile. (A hop to a thread and back, and the waits for the interpreter between
them, took as long as the append.)
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
READ, WRITE = 1, 2


class Waiting(Protocol):
    """What a call that has to wait asks, in whatever thread it is."""

    def is_in_loop(self) -> bool:
        """Return whether the caller is in the loop, and so must not block."""

    def ready(self, fd: int, wanted: int, seconds: float) -> int:
        """Wait until a descriptor is ready for `READ`, `WRITE`, or one of both; return for which.

        0 after so many seconds. In the loop alone.
        """

    def apart(self, function: Callable[..., T], *args: object) -> T:
        """Call a function that blocks; in the loop, have a thread do so. Raises what it raises."""


class InThreads:
    """There is no loop: every caller may block."""

    def is_in_loop(self) -> bool:
        """Return that the caller is not."""
        return False

    def ready(self, fd: int, wanted: int, seconds: float) -> int:
        """Never called."""
        raise NotImplementedError

    def apart(self, function: Callable[..., T], *args: object) -> T:
        """Call it."""
        return function(*args)


IN_THREADS: Waiting = InThreads()
