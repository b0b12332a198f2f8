"""Which process has a folder: two locks, `flock` on files in it, which the kernel ends with it.

.lock           one server: held by gunicorn's master from start to end
.writer.lock    one writing process: a worker waits here until the last one is gone, which is
how a reload hands the folder over
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from esource.errors import StartError
from esource.log.disk import made_like, sync_folder

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02
REMINDER_SECONDS = 10.0


class Lock:
    """An exclusive lock on a file, until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Name the lock; nothing is locked or made yet."""
        self.path = path
        self._fd = -1

    @classmethod
    def of_server(cls, folder: Path) -> "Lock":
        """Return the lock of the one server on a folder."""
        return cls(folder / ".lock")

    @classmethod
    def of_writer(cls, folder: Path) -> "Lock":
        """Return the lock of the one process that writes to a folder."""
        return cls(folder / ".writer.lock")

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it is held now. Raises `OSError`."""
        if self._fd >= 0:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._fd = fd
        with suppress(OSError):  # it is for people; on a full disk they must do without
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return True

    def wait(self, waiting: Callable[[], None]) -> None:
        """Make the folder, and take the lock as soon as it is free; call `waiting` meanwhile.

        Raises `StartError`.
        """
        folder = self.path.parent
        started = reminded = time.monotonic()
        try:
            folder.mkdir(exist_ok=True)
            while not self.acquire():
                waiting()
                time.sleep(POLL_SECONDS)
                if time.monotonic() - reminded > REMINDER_SECONDS:
                    reminded = time.monotonic()
                    logger.warning(
                        "waiting for %s to leave %s since %d s",
                        self.holder(), folder, reminded - started,
                    )  # fmt: skip
        except OSError as error:
            raise StartError(f"cannot write to the folder {folder}: {error.strerror}") from None

    def holder(self) -> str:
        """Return which process wrote itself into the lock's file, for a person."""
        try:
            pid = self.path.read_text().strip()
        except OSError:
            pid = ""
        return f"process {pid}" if pid else "another process"

    def release(self) -> None:
        """Let go of the lock, in this process alone if it was inherited by a fork."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def prepare_folder(folder: Path) -> Lock:
    """Make the folder if need be, and return its server lock, taken. Raises `StartError`."""
    try:
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(folder.absolute().parent)  # or the folder is gone after a power cut
        lock = Lock.of_server(folder)
        held = lock.acquire()
    except FileNotFoundError:
        raise StartError(
            f"cannot make the folder {folder}: its parent does not exist; "
            "make that, or set ESOURCE_DIR"
        ) from None
    except OSError as error:
        raise StartError(
            f"cannot write to the folder {folder}: {error.strerror}; "
            "give this user the rights, or set ESOURCE_DIR"
        ) from None
    if not held:
        raise StartError(
            f"the folder {folder} is in use by another hub ({lock.holder()}); "
            "stop that one, or set ESOURCE_DIR to another folder"
        )
    return lock


def hold(folder: Path) -> list[Lock]:
    """Return both locks of a folder, taken: no hub has it, or begins to. Raises `StartError`.

    They are those of a hub of the folder's owner, if root makes them.
    """
    locks = [Lock.of_server(folder), Lock.of_writer(folder)]
    try:
        with made_like(folder.stat()):
            free = [lock.acquire() for lock in locks]
    except OSError as error:
        raise StartError(f"cannot lock the folder {folder}: {error.strerror}") from None
    if not all(free):
        holder = locks[free.index(False)].holder()
        for lock in locks:
            lock.release()
        raise StartError(f"the folder {folder} is held by a hub ({holder}); stop that first")
    return locks
