"""The SHA-256 of a log: of its bytes up to a view's end, which goes on as the log grows.

    log    |-- hashed ----------|-- up to 64 MiB: hashed for the client --|
                                |-- more: in the background -----------------------...

Rows before the end of a log never change, so what was hashed is never hashed again. It is kept in
memory, and only of logs for which it was asked. All of it is `Work`: in the one thread of searches,
in steps, in turns with them.
"""

import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256

import gevent

from esource.errors import StorageError
from esource.hub.work import Work
from esource.log import Log

NEAR_BYTES = 1 << 26  # a fifth of a second or less
PIECE_BYTES = 1 << 20


class Digest:
    """How far a log is hashed."""

    def __init__(self, log: Log) -> None:
        """Begin with nothing hashed."""
        self.log = log
        self._hash = sha256()
        self.start = log.start  # as a download of the whole: a byte order mark is included
        self._offset = self.start
        self._background: gevent.Greenlet | None = None

    def of(self, end: int, work: Work) -> bytes | None:
        """Return the SHA-256 of the log up to an end; None if that is too far away.

        Then it is gone on with in the background, for as long as this is referred to. Blocks while
        up to `NEAR_BYTES` are hashed; raises `ClientLeft` and `StorageError`.
        """
        if end - self._offset > NEAR_BYTES:
            if not self._background:  # or it has ended
                self._background = gevent.spawn(_go_on, weakref.WeakMethod(self._step), end)
            return None
        offset, digest = work.step(self._step, end)
        while offset < end:
            offset, digest = work.step(self._step, end)
        if offset == end:
            return digest
        # It is of an earlier view, and a hash does not go back.
        return Digest(self.log).of(end, work)

    def _step(self, deadline: float, end: int) -> tuple[int, bytes]:
        """Hash on to an end, until a deadline; return how far, and the SHA-256 up to there.

        It is done in steps of works, of which no two run at once.
        """
        while self._offset < end:
            piece = self.log.pread(self._offset, min(PIECE_BYTES, end - self._offset))
            if not piece:
                raise StorageError(f"{self.log.name} ended before byte {end}")
            self._hash.update(piece)
            self._offset += len(piece)
            if time.monotonic() > deadline:
                break
        return self._offset, self._hash.digest()


def _go_on(step: "weakref.WeakMethod[Callable[[float, int], tuple[int, bytes]]]", end: int) -> None:
    """Hash on to an end, but for no longer than the digest is referred to by somebody else."""
    work = Work()
    with suppress(StorageError):  # what asks next meets the same, and says so
        while (hash_on := step()) and work.step(hash_on, end)[0] < end:
            del hash_on
