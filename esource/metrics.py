"""What was counted, as Prometheus reads it. The only room that knows `prometheus_client`.

Nothing is counted with that library's objects: they lock, and look labels up. When somebody
asks, the plain numbers of `stats` become samples, are written in the format that the client
understands (OpenMetrics, or Prometheus' own), and are forgotten.

Totals alone, unless the operator wants more: a series for each channel costs Prometheus
memory for as long as it keeps its data.
"""

import platform
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from esource import __version__
from esource.stats import Histogram, Stats

VERDICTS = ("exact", "time", "start", "live")
_process = ProcessCollector(registry=None)


class Gauges(NamedTuple):
    """What is so now, and is not counted."""

    subscribers: int
    open_channels: int
    refusing_channels: int
    subscribers_by_channel: dict[str, int]  # none, unless there are series for each channel


def text(stats: Stats, gauges: Gauges, accept: str) -> tuple[bytes, str]:
    """Return everything, and the content type, by the client's `Accept`.

    Blocks: with a series for each channel it may be megabytes.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Everything(stats, gauges)), content_type


class _Everything:
    """What the encoders ask for metrics: a registry of one use."""

    def __init__(self, stats: Stats, gauges: Gauges) -> None:
        self.stats = stats
        self.gauges = gauges

    def collect(self) -> Iterator[Metric]:
        stats, gauges = self.stats, self.gauges
        version = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("esource", "Which hub this is", version)
        yield CounterMetricFamily(
            "esource_published_events", "Events that were committed", stats.events
        )
        yield CounterMetricFamily(
            "esource_published_bytes", "Bytes of the rows that were committed", stats.bytes
        )
        yield _histogram(
            "esource_commit_events", "Events of one commit; commits", stats.commit_events
        )
        yield _histogram(
            "esource_commit_duration_seconds", "Time of a commit: write and sync",
            stats.commit_seconds,
        )  # fmt: skip
        yield _histogram(
            "esource_sync_duration_seconds", "Time of a sync (fsync) alone", stats.sync_seconds
        )
        yield _histogram(
            "esource_publish_duration_seconds",
            "Time from when an event or batch was queued until its publisher could be answered",
            stats.publish_seconds,
        )
        yield CounterMetricFamily(
            "esource_failed_commits", "Commits whose publishers were refused", stats.failed_commits
        )
        yield GaugeMetricFamily("esource_subscribers", "Who follows now", gauges.subscribers)
        yield CounterMetricFamily(
            "esource_delivered_events", "Events sent to readers, but for downloads of a file",
            stats.delivered,
        )  # fmt: skip
        resumes = CounterMetricFamily(
            "esource_resumes", "Reads by how their beginning was found", labels=["verdict"]
        )
        for verdict in VERDICTS:
            resumes.add_metric([verdict], stats.resumes.get(verdict, 0))
        yield resumes
        refused = CounterMetricFamily(
            "esource_refused_requests", "Requests answered with an error", labels=["status"]
        )
        for status, count in sorted(stats.refused.copy().items()):
            refused.add_metric([str(status)], count)
        yield refused
        yield CounterMetricFamily(
            "esource_malformed_rows", "Rows that readers met and that are no events",
            stats.malformed,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "esource_open_channels", "Channels that are open now", gauges.open_channels
        )
        yield GaugeMetricFamily(
            "esource_refusing_channels", "Open channels that take no more events",
            gauges.refusing_channels,
        )  # fmt: skip
        yield _histogram(
            "esource_event_loop_lag_seconds", "By how much the event loop was late, twice a second",
            stats.lag_seconds,
        )  # fmt: skip
        yield GaugeMetricFamily(
            "esource_event_loop_lag_max_seconds", "The most of the last minute",
            max(stats.lags.copy()),
        )  # fmt: skip
        if stats.published is not None:
            yield from self._by_channel()
        yield from _process.collect()

    def _by_channel(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "esource_channel_published_events", "As esource_published_events", labels=["channel"]
        )
        size = CounterMetricFamily(
            "esource_channel_published_bytes", "As esource_published_bytes", labels=["channel"]
        )
        for channel, published in (self.stats.published or {}).copy().items():
            events.add_metric([channel], published.events)
            size.add_metric([channel], published.bytes)
        subscribers = GaugeMetricFamily(
            "esource_channel_subscribers", "As esource_subscribers", labels=["channel"]
        )
        for channel, count in self.gauges.subscribers_by_channel.items():
            subscribers.add_metric([channel], count)
        yield from (events, size, subscribers)


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    counts = accumulate(histogram.counts.copy())
    return HistogramMetricFamily(
        name, meaning, list(zip(bounds, counts, strict=True)), histogram.sum
    )
