"""The memory of bodies: how many bytes of them there may be, and which has to give way.

    arrives ──► taken ──► rows ──► committed or refused ──► given back
                  └─ too much: the body that has stood longest is given up

Counted are bytes as they stand in memory: of a body that is not whole, of the rows that it becomes
(with their ids), and of receipts. A body *stands* while something of it is in memory and its last
byte has not come; one that is committed in parts stands anew with each of them. So it is not the
new one that is refused, but the one that has waited for its client for longest.
"""

import ctypes
from collections.abc import Callable

import gevent

from esource.hub.limits import Limit
from esource.hub.loop import in_thread, reads

RECEIPT_BYTES = 800  # of a receipt and its draft, beyond the rows
TRIM_BYTES = 1 << 26  # after so many bytes were given back, the system is given them, too,
TRIM_SECONDS = 3.0  # as soon as this


class BodyMemory:
    """What bodies may take together. All of it is of the loop's thread."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes."""
        self.limit = limit
        self.used = 0
        self._most = 0  # that was used since a trim was due
        self._trimmer: gevent.Greenlet | None = None
        self._leaving = 0  # of it, of bodies that were given up and have not gone yet
        self._standing: dict[Share, None] = {}  # the one that has stood longest is the first
        self._setting = Limit("max_body_memory", limit)

    def share(self, wake: Callable[[], None]) -> "Share":
        """Return the share of a body, as a context; `wake` ends a wait for more of it."""
        return Share(self, wake)

    def change(self, share: "Share", by: int, *, is_anew: bool = False) -> None:
        """Count a change of what a body holds; with `is_anew` it stands since now."""
        share.held += by
        self.used += by
        self._most = max(self._most, self.used)
        if self._most - self.used > TRIM_BYTES and self._trimmer is None:
            self._most = self.used
            self._trimmer = gevent.spawn_later(TRIM_SECONDS, self._trim)
        if share.is_given_up:
            self._leaving += by
            return
        if is_anew or share.is_whole or not share.held:
            self._standing.pop(share, None)
        if share.held and not share.is_whole:
            self._standing.setdefault(share)

    def _trim(self) -> None:
        """Be the greenlet that has malloc give back what it keeps for later, as glibc's can."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            in_thread(reads(), trim, 0)
        self._trimmer = None

    def make_room(self, taker: "Share") -> None:
        """Give bodies up until there is room. Raises `Busy` if the taker is one, or no other is."""
        while (is_full := self.used - self._leaving > self.limit) and self._standing:
            share = next(iter(self._standing))
            del self._standing[share]
            share.is_given_up = True
            self._leaving += share.held
            if share is not taker:
                share.wake()
        if is_full or taker.is_given_up:
            self._setting.refuse("the memory for bodies is full; send it again later")


class Share:
    """What one body takes. After the block of the context nothing of it is there any more."""

    __slots__ = ("_memory", "held", "is_given_up", "is_whole", "wake")

    def __init__(self, memory: BodyMemory, wake: Callable[[], None]) -> None:
        self._memory = memory
        self.wake = wake
        self.held = 0  # bytes
        self.is_whole = self.is_given_up = False

    def take(self, size: int) -> None:
        """Count so many bytes more. Raises `Busy` if this body has to give way, or has had to.

        To take nothing tells whether it was given up, or its client has ended it.
        """
        self._memory.change(self, size)
        self._memory.make_room(self)

    def give(self, size: int) -> None:
        """Count so many bytes less, since a part of the body is committed or refused."""
        self._memory.change(self, -size, is_anew=True)

    def complete(self) -> None:
        """Note that its last byte has come: it is not given up now. Raises `Busy` if it was."""
        self.is_whole = True
        self.take(0)

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *_: object) -> None:
        self.is_whole = True
        self.give(self.held)
