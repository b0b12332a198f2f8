"""Channel names -> channels, and what they share.

A channel is opened when it is asked for. The hub holds on to those used last; any other lives
for as long as a follower, a publisher or a commit holds it, and no longer. So there is never more
than one `Channel` of a name, and an idle one costs nothing.
"""

import logging
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import gevent

from esource.config import Config
from esource.errors import BadInput, StartError
from esource.hub.channel import Channel
from esource.hub.clients import Clients
from esource.hub.committer import Committer
from esource.hub.followers import Follower
from esource.hub.limits import Limit
from esource.hub.loop import InLoop, give_way, in_thread, reads, share_the_interpreter
from esource.hub.memory import BodyMemory
from esource.hub.news import News
from esource.hub.parking import Parking
from esource.hub.retention import Retention
from esource.hub.stats import Stats
from esource.hub.usage import Meter
from esource.log import NAME as NAME
from esource.log import Logs
from esource.log.folder import Folder
from esource.log.lock import prepare_folder
from esource.log.waiting import IN_THREADS, Waiting

if TYPE_CHECKING:
    from esource.log.engines import EngineLogs

logger = logging.getLogger(__name__)

KEEP_OPEN = 10_000  # channels used last, if that is not more than half of all descriptors
TURN_CHANNELS = 1000  # looked at, before others get a turn
COUNT_SECONDS = 10.0  # between counts of the channels, once there are too many


def prepare(config: Config) -> Callable[[], None]:
    """Before there is a hub: make what it needs, and be the one server that uses it.

    Return what lets go of that. Raises `StartError`.
    """
    if config.store:  # which several hubs have: whether it can be had is seen before the fork
        logs = _logs_on(config, IN_THREADS)  # a loop, and its threads, do not survive a fork
        logs.hold(lambda: None)
        logs.close()
        return lambda: None
    return prepare_folder(config.dir).release


def _logs(config: Config) -> Logs:
    """Return the logs of a hub; nothing is opened yet. Raises `StartError`."""
    if config.store:
        return _logs_on(config, InLoop())
    return Folder(config.dir, config.fsync, config.keep)


def _logs_on(config: Config, waiting: Waiting) -> "EngineLogs":
    from esource.log.engines import logs_of

    return logs_of(config.store, config.store_timeout, config.keep, waiting)


class Hub:
    """All channels of one folder, or of one engine."""

    def __init__(self, config: Config) -> None:
        """Configure a hub; nothing is opened or locked yet."""
        self.config = config
        self.stats = Stats(config.metrics_channels)
        self.draining = False
        self.logs = _logs(config)
        shared = self.logs.shared
        self.news = News(shared, self.open_channels, self.opened) if shared else None
        grown = self.news.grown if self.news else lambda log: None
        self._committer = Committer(self.logs.sync_all, grown)
        self.meter = Meter(self.logs, config.metrics_channels)
        self.clients = Clients()
        self.parking: Parking[Follower] = Parking()
        # Plain publishes have a part of their own: what is large keeps none of them out.
        self.plain_bodies = BodyMemory(config.max_body_memory // 4)
        self.bodies = BodyMemory(config.max_body_memory - self.plain_bodies.limit)
        self._is_open = False
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()
        self._recent: OrderedDict[str, Channel] = OrderedDict()
        self.subscribers = 0
        self.keep_open = min(KEEP_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._max_subscribers = Limit("max_subscribers", config.max_subscribers)
        self._max_channels = Limit("max_channels", config.max_channels)
        self._counted: float | None = None  # when the channels with rows were last counted
        self._count = 0  # how many there were
        self._admitted: set[str] = set()  # those that may have come since

    def open(
        self, waiting: Callable[[], None] = lambda: None, *, is_prepared: bool = False
    ) -> None:  # fmt: skip
        """Become the one that writes; wait for as long as another process is.

        `waiting` is called again and again meanwhile. Raises `StartError`; not of an engine that
        `prepare` has seen: it may be away just now, and the hub waits for it as it always does.
        """
        try:
            self.logs.hold(waiting)
            if self.logs.shared:
                self.logs.shared.warm_up()
        except StartError as error:
            if not (is_prepared and self.logs.shared):
                raise
            logger.error("%s", error)
        share_the_interpreter()
        self._is_open = True
        Retention(self.logs, self.channel).start()
        if self.news:
            self.news.start()

    def channel(self, name: str) -> Channel:
        """Return the open channel of this name. Blocks; raises `BadInput`, `StorageError`."""
        return self.unopened(name).open()

    def unopened(self, name: str) -> Channel:
        """Return the channel of this name, open or not: for who refreshes it first, which opens it.

        (To open it and to look then whether it has changed would be two looks at an engine.)
        Raises `BadInput`.
        """
        channel = self._channels.get(name)
        if channel is None:
            if not NAME.fullmatch(name):
                raise BadInput(
                    f"{name!r} is not a channel name, which is 4 to 64 letters of "
                    f"A-Z a-z 0-9 _ - ({NAME.pattern})"
                )
            if not self._is_open:  # not under gunicorn, whose hook opens the hub
                self.open()
            channel = Channel(
                name, partial(self.logs.open, name), self.config.dedup_events, self.stats,
                self.clients, self._committer, self.parking,
            )  # fmt: skip
            self._channels[name] = channel
            channel.draining = self.draining
        self._recent[name] = channel
        self._recent.move_to_end(name)
        if len(self._recent) > self.keep_open:
            self._recent.popitem(last=False)
        return channel

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

    def admit_subscribers(self, count: int = 1) -> None:
        """Raise `Busy` if no more may follow; not while stopping, or browsers would give up."""
        if self.subscribers + count > self._max_subscribers.value and not self.draining:
            self._max_subscribers.refuse("too many subscribers; come back later")

    def admit_channel(self, channel: Channel) -> None:
        """Raise `Busy` if the channel was never written to and there may be no more.

        Blocks to count.
        """
        name = channel.name
        if channel.view.end or name in self._admitted:
            return
        limit = self._max_channels.value
        now = time.monotonic()
        is_full = self._count + len(self._admitted) >= limit
        if self._counted is None or (is_full and now - self._counted > COUNT_SECONDS):
            self._count = in_thread(reads(), self.count)
            self._counted = now
            self._admitted.clear()
        if self._count + len(self._admitted) >= limit:
            if self.logs.shared and channel.refresh().end:
                return  # another hub has made it
            self._max_channels.refuse(f"there are {limit} channels already")
        self._admitted.add(name)

    @property
    def body_bytes(self) -> int:
        """How many bytes of bodies are in memory, with their rows and receipts."""
        return self.plain_bodies.used + self.bodies.used

    def count(self) -> int:
        """Return how many channels have been written to. Blocks."""
        return len(self.logs.names())

    def drain(self) -> None:
        """End every stream, out and in, now and from now on. Publishing goes on."""
        self.draining = True
        self.clients.end_bodies()
        for channel in list(self._channels.values()):
            channel.drain()

    def wait_for_turns(self, seconds: float) -> None:
        """Block until each stream has had its turn to end since `drain`; for `seconds` at most."""
        wakers = [channel.followers.waker for channel in list(self._channels.values())]
        gevent.joinall([waker for waker in wakers if waker], seconds)

    def cut_off(self) -> None:
        """Shut the connections of streams that have not ended since `drain`."""
        self.clients.cut_off()

    def sync(self) -> None:
        """Put everything committed on disk; the kernel lets go of the lock after the last write."""
        for channel in list(self._channels.values()):
            channel.sync()
