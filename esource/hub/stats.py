"""What the hub counts while it works. Pure.

The hot path adds to plain numbers, once for each commit or batch and not for each event or
reader. `metrics` and `ops` read them; nothing is sent. All of it is
written by the loop's thread alone, so there are no locks; a reader in another thread sees
numbers of slightly different moments.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from esource.rows.find import Verdict

RATE_SECONDS = 10  # over which a rate is the mean
LAG_SAMPLES = 120  # of the event loop, two a second: a minute

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000)


class Histogram:
    """How many values were up to each of some bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is of those above all bounds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Rates:
    """How many events a second each channel has got lately.

    A dictionary for each of the last seconds: channels that nobody publishes to any more
    are forgotten with the second in which they were last published to.
    """

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, dict[str, int]]] = deque()  # the newest is the last

    def add(self, channel: str, events: int, now: float) -> None:
        """Count events; `now` is in seconds of a clock that does not step back."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._forget(second)
            self._seconds.append((second, {}))
        counts = self._seconds[-1][1]
        counts[channel] = counts.get(channel, 0) + events

    def of(self, channel: str, now: float) -> float:
        """Return the events a second of a channel, the mean of the last `RATE_SECONDS`."""
        self._forget(int(now))
        return sum(counts.get(channel, 0) for _, counts in self._seconds) / RATE_SECONDS

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - RATE_SECONDS:
            self._seconds.popleft()


class Published:
    """What one channel has got since the start."""

    __slots__ = ("bytes", "events")

    def __init__(self) -> None:
        self.events = self.bytes = 0


class Stats:
    """The counters of one hub, from its start on."""

    def __init__(self, by_channel: bool = False) -> None:
        """Begin with nothing; `by_channel` also counts each channel for itself, for ever."""
        self.events = 0  # committed
        self.bytes = 0  # of their rows
        self.commit_events = Histogram(EVENTS)
        self.commit_seconds = Histogram(SECONDS)
        self.sync_seconds = Histogram(SECONDS)
        self.publish_seconds = Histogram(SECONDS)
        self.newest: float | None = None  # when the last commit was, on the clock of `committed`
        self.failed_commits = 0
        self.delivered = 0  # events, to readers
        self.malformed = 0  # rows that readers met
        self.resumes = dict.fromkeys(Verdict, 0)  # reads
        self.refused: dict[int, int] = {}  # requests, by status
        self.lag_seconds = Histogram(SECONDS)
        self.lags: deque[float] = deque([0.0], LAG_SAMPLES)  # the last ones
        self.rates = Rates()
        self.published: dict[str, Published] | None = {} if by_channel else None

    def committed(
        self, channel: str, events: int, size: int, seconds: float, sync_seconds: float, now: float
    ) -> None:
        """Count a commit of `size` bytes, which took so many seconds, some of them to sync."""
        self.events += events
        self.bytes += size
        self.newest = now
        self.commit_events.observe(events)
        self.commit_seconds.observe(seconds)
        if sync_seconds:
            self.sync_seconds.observe(sync_seconds)
        self.rates.add(channel, events, now)
        if self.published is not None:
            published = self.published.get(channel)
            if published is None:
                published = self.published[channel] = Published()
            published.events += events
            published.bytes += size

    def resumed(self, verdict: Verdict) -> None:
        """Count a read that says where it begins."""
        self.resumes[verdict] += 1

    def refuse(self, status: int) -> None:
        """Count a request that was answered with an error."""
        self.refused[status] = self.refused.get(status, 0) + 1

    def lagged(self, seconds: float) -> None:
        """Note by how much the loop was late."""
        self.lag_seconds.observe(seconds)
        self.lags.append(seconds)
