"""What hubs that share an engine tell one another: what was appended to which channels.

    a commit ──► tell ─ ─ ─ the engine ─ ─ ─► listen ──► heed ─────► followers
                                               else └──► refresh ───►┘
                                    every two seconds ──►┘

A notice has the rows, if they are few; where they go on from what a hub knows, it need not ask the
engine. It may be lost: the sweep finds what it would have told. Only channels with followers are
looked at, since whoever reads another one looks himself.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import gevent
from gevent.event import Event as Signal  # an event is always an `event.Event`
from gevent.pool import Pool
from gevent.threadpool import ThreadPool

from esource.errors import EsourceError
from esource.hub.channel import Channel
from esource.hub.loop import in_thread
from esource.log import Log, Notice, Shared

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0
AT_ONCE = 8  # channels that are refreshed: each is a call of the engine
STEP = 1000  # channels that are asked about in one call


class News:
    """Tells, listens and sweeps, for the channels of one hub."""

    def __init__(
        self, logs: Shared, channels: Callable[[], Iterable[Channel]],
        opened: Callable[[str], Channel | None],
    ) -> None:  # fmt: skip
        """Begin with nothing to tell; `channels` are those that are open, `opened` is one."""
        self._logs = logs
        self._channels = channels
        self._opened = opened
        self._grown: dict[str, Log] = {}  # of which others are to be told, by name
        self._signal = Signal()
        self._thread = ThreadPool(1)  # for what takes long; nobody else waits for it
        self._refreshing = Pool(AT_ONCE)

    def start(self) -> None:
        """Go on for ever; return at once."""
        for work in (self._tell, self._listen, self._sweep):
            gevent.spawn(self._go_on, work)

    def grown(self, log: Log) -> None:
        """Note that rows of this hub are in a log."""
        self._grown[log.name] = log
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
        logs, self._grown = self._grown, {}
        self._logs.tell(list(logs.values()))

    def _listen(self) -> None:
        notices = self._logs.listen(SWEEP_SECONDS)
        if notices is None:
            self._look()
            return
        told = defaultdict[str, list[Notice]](list)
        for notice in notices:
            told[notice.name].append(notice)
        for name, some in told.items():
            channel = self._opened(name)
            if channel and channel.followers:
                self._refreshing.spawn(self._take, channel, some)

    def _sweep(self) -> None:
        gevent.sleep(SWEEP_SECONDS)
        self._look()

    def _look(self) -> None:
        """Refresh those that others have appended to. Blocks."""
        followed = list(self._followed())
        for start in range(0, len(followed), STEP):
            some = followed[start : start + STEP]
            logs = [channel.view.log for channel in some]
            grown = set(map(id, in_thread(self._thread, self._logs.grown, logs)))
            for channel, log in zip(some, logs, strict=True):
                # A commit that was refused may have learned of rows that nobody was shown yet.
                if id(log) in grown or log.end != channel.view.end:
                    self._refreshing.spawn(self._take, channel, None)

    def _followed(self) -> Iterable[Channel]:
        return (channel for channel in self._channels() if channel.followers)

    def _take(self, channel: Channel, notices: Sequence[Notice] | None) -> None:
        """Take in what was told, or what is there; followers are shown it."""
        try:
            if notices is None:
                channel.refresh()
            else:
                channel.heed(lambda log: self._logs.heed(log, notices))
        except EsourceError as error:
            logger.warning("%s: %s", channel.name, error.text)
