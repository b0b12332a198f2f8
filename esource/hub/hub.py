"""Channel names -> channels, and the folder that they share.

A channel is opened when somebody asks for it. The hub holds on to those used last; any
other lives for as long as a reader, a publisher or a commit holds it, and no longer. So
there is never more than one `Channel` of a file, and an idle one costs nothing.

Two locks, both `flock` on files in the folder, so that the kernel lets go of them however
a process ends:

    .lock          one server: held by gunicorn's master from start to end
    .writer.lock   one writing process: a worker waits here until the last one is gone,
                   which is how a reload hands the folder over
"""

import fcntl
import logging
import os
import re
import resource
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from esource.config import Config
from esource.errors import BadInput, StartError
from esource.hub.channel import Channel
from esource.hub.followers import shut
from esource.hub.limits import Limit
from esource.hub.loop import give_way, in_thread, reads
from esource.hub.stats import Stats
from esource.log.file import sync_folder

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9_-]{4,64}")
SERVER_LOCK = ".lock"
WRITER_LOCK = ".writer.lock"
KEEP_OPEN = 1024  # channels used last, if that is not too large a part of all descriptors
LOCK_POLL_SECONDS = 0.02
TURN_CHANNELS = 1000  # looked at, before others get a turn
COUNT_SECONDS = 10.0  # between counts of the files, once there are too many
LOCK_REMINDER_SECONDS = 10.0


class FolderLock:
    """An exclusive lock on a file, until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Name the lock; nothing is locked or made yet."""
        self.path = path
        self._fd = -1

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

    def holder(self) -> str:
        """Return who wrote itself into the lock's file, for a person."""
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


def prepare_folder(folder: Path) -> FolderLock:
    """Make the folder if need be, and return its server lock, taken. Raises `StartError`."""
    try:
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(folder.absolute().parent)  # or the folder is gone after a power cut
        lock = FolderLock(folder / SERVER_LOCK)
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


def channel_names(folder: Path) -> Iterator[str]:
    """Yield the names of all channels that have a file, in no order. Blocks; raises `OSError`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name, _, suffix = entry.name.partition(".")
            if suffix == "tsv" and NAME.fullmatch(name) and entry.is_file(follow_symlinks=False):
                yield name


class Hub:
    """All channels of one folder."""

    def __init__(self, config: Config) -> None:
        """Configure a hub; nothing is opened or locked yet."""
        self.config = config
        self.stats = Stats(config.metrics_channels)
        self.draining = False
        self._lock = FolderLock(config.dir / WRITER_LOCK)
        self._opened = False
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()
        self._recent: OrderedDict[str, Channel] = OrderedDict()
        self._streaming: set[Any] = set()  # sockets of clients who send a body without end
        self.subscribers = 0
        self.keep_open = min(KEEP_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._max_subscribers = Limit("max_subscribers", config.max_subscribers)
        self._max_channels = Limit("max_channels", config.max_channels)
        self._files = -1  # how many channels have a file, when they were last counted
        self._counted = 0.0  # when that was
        self._admitted: set[str] = set()  # files that may have come since

    def open(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Make the folder and become its one writer; wait for as long as another process is.

        `waiting` is called again and again meanwhile. Raises `StartError`.
        """
        started = reminded = time.monotonic()
        try:
            self.config.dir.mkdir(exist_ok=True)
            while not self._lock.acquire():
                waiting()
                time.sleep(LOCK_POLL_SECONDS)
                if time.monotonic() - reminded > LOCK_REMINDER_SECONDS:
                    reminded = time.monotonic()
                    logger.warning(
                        "waiting for %s to leave %s since %d s",
                        self._lock.holder(), self.config.dir, reminded - started,
                    )  # fmt: skip
        except OSError as error:
            raise StartError(
                f"cannot write to the folder {self.config.dir}: {error.strerror}"
            ) from None
        self._opened = True

    def channel(self, name: str) -> Channel:
        """Return the open channel of this name. Blocks; raises `BadInput`, `StorageError`."""
        channel = self._channels.get(name)
        if channel is None:
            if not NAME.fullmatch(name):
                raise BadInput(
                    f"{name!r} is not a channel name, which is 4 to 64 letters of "
                    f"A-Z a-z 0-9 _ - ({NAME.pattern})"
                )
            if not self._opened:  # not under gunicorn, whose hook opens the hub
                self.open()
            path = self.config.dir / f"{name}.tsv"
            channel = Channel(path, self.config.fsync, self.config.dedup_events, self.stats)
            self._channels[name] = channel
            channel.draining = self.draining
        self._recent[name] = channel
        self._recent.move_to_end(name)
        if len(self._recent) > self.keep_open:
            self._recent.popitem(last=False)
        return channel.open()

    def opened(self, name: str) -> Channel | None:
        """Return the channel of this name if it is open now."""
        channel = self._channels.get(name)
        return channel if channel and channel.is_open else None

    def open_channels(self) -> Iterator[Channel]:
        """Yield the channels that are open now. They may be many: gives way meanwhile."""
        for count, reference in enumerate(self._channels.valuerefs(), 1):
            channel = reference()
            if channel and channel.is_open:
                yield channel
            if not count % TURN_CHANNELS:
                give_way()

    def admit_subscriber(self) -> None:
        """Raise `Busy` if no more may follow; not while stopping, or browsers would give up."""
        if self.subscribers >= self._max_subscribers.value and not self.draining:
            self._max_subscribers.refuse("too many subscribers; come back later")

    def admit_channel(self, channel: Channel) -> None:
        """Raise `Busy` if the channel has no file and there may be no more. Blocks to count."""
        name = channel.path.name
        if channel.log.inode or name in self._admitted:
            return
        limit = self._max_channels.value
        now = time.monotonic()
        full = self._files + len(self._admitted) >= limit
        if self._files < 0 or (full and now - self._counted > COUNT_SECONDS):
            self._counted = now
            self._admitted.clear()
            self._files = in_thread(reads(), self.count_files)
        if self._files + len(self._admitted) >= limit:
            self._max_channels.refuse(f"there are {limit} channels already")
        self._admitted.add(name)

    def count_files(self) -> int:
        """Return how many channels have a file. Blocks."""
        return sum(1 for _ in channel_names(self.config.dir))

    @contextmanager
    def streaming(self, client: Any) -> Iterator[None]:
        """Let a body without end be ended by `drain`."""
        self._streaming.add(client)
        try:
            yield
        finally:
            self._streaming.discard(client)

    def drain(self) -> None:
        """End every stream, out and in, now and from now on. Publishing goes on."""
        self.draining = True
        for client in list(self._streaming - {None}):
            shut(client, socket.SHUT_RD)
        for channel in list(self._channels.values()):
            channel.drain()

    def cut_off(self) -> None:
        """Shut the connections of streams that have not ended since `drain`."""
        for channel in list(self._channels.values()):
            channel.readers.cut_off()

    def sync(self) -> None:
        """Put everything committed on disk; the kernel lets go of the lock after the last write."""
        for channel in list(self._channels.values()):
            channel.sync()
