"""What hubs that share an engine tell one another: which channels have grown.

    a commit ──► tell ─ ─ ─ the engine ─ ─ ─► listen ──► refresh ──► followers
                                    every two seconds ──►┘

A notice is a hint, and may be lost: the sweep finds what it would have told. Only channels with
followers are looked at, since whoever reads another one looks himself.
"""

import logging
from collections.abc import Callable, Iterable

import gevent
from gevent.event import Event as Signal  # an event is always an `event.Event`
from gevent.pool import Pool
from gevent.threadpool import ThreadPool

from esource.errors import EsourceError
from esource.hub.channel import Channel
from esource.hub.loop import in_thread
from esource.log import Shared

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
AT_ONCE = 8  # channels that are refreshed: each is a call of the engine
STEP = 1000  # channels that are asked about in one call


class News:
    """Tells, listens and sweeps, for the channels of one hub."""

    def __init__(self, logs: Shared, channels: Callable[[], Iterable[Channel]]) -> None:
        """Begin with nothing to tell; `channels` are those that are open."""
        self._logs = logs
        self._channels = channels
        self._grown: set[str] = set()  # of which others are to be told
        self._signal = Signal()
        self._threads = ThreadPool(3)  # nobody else waits for these calls
        self._refreshing = Pool(AT_ONCE)

    def start(self) -> None:
        """Go on for ever; return at once."""
        for work in (self._tell, self._listen, self._sweep):
            gevent.spawn(self._go_on, work)

    def grown(self, name: str) -> None:
        """Note that rows of this hub are in a log."""
        self._grown.add(name)
        self._signal.set()

    def _go_on(self, work: Callable[[], None]) -> None:
        while True:
            try:
                work()
            except EsourceError as error:  # the engine is away, which others say, too
                logger.debug("%s", error.text)
            except Exception:
                logger.exception("news of other hubs")
                gevent.sleep(SWEEP_SECONDS)

    def _tell(self) -> None:
        self._signal.wait()
        self._signal.clear()
        names, self._grown = self._grown, set()
        in_thread(self._threads, self._logs.tell, sorted(names))

    def _listen(self) -> None:
        names = in_thread(self._threads, self._logs.listen, SWEEP_SECONDS)
        if names is None:
            self._look()
        elif names:
            wanted = set(names)
            self._refresh(channel for channel in self._followed() if channel.name in wanted)

    def _sweep(self) -> None:
        gevent.sleep(SWEEP_SECONDS)
        self._look()

    def _look(self) -> None:
        """Refresh those that others have appended to. Blocks."""
        followed = list(self._followed())
        for start in range(0, len(followed), STEP):
            some = followed[start : start + STEP]
            logs = [channel.view.log for channel in some]
            grown = set(map(id, in_thread(self._threads, self._logs.grown, logs)))
            self._refresh(
                channel for channel, log in zip(some, logs, strict=True) if id(log) in grown
            )

    def _followed(self) -> Iterable[Channel]:
        return (channel for channel in self._channels() if channel.followers)

    def _refresh(self, channels: Iterable[Channel]) -> None:
        """Take in what is there, which followers are told; return once all are begun."""
        for channel in channels:
            self._refreshing.spawn(self._refresh_one, channel)

    def _refresh_one(self, channel: Channel) -> None:
        try:
            channel.refresh()
        except EsourceError as error:
            logger.warning("%s: %s", channel.name, error.text)
