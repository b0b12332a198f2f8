"""What was counted, as Prometheus reads it. The only room that knows `prometheus_client`.

Nothing is counted with that library's objects: they lock, and look labels up. When somebody
asks, the plain numbers of `stats` become samples, are written in the format that the client
understands (OpenMetrics, or Prometheus' own), and are forgotten.

Totals alone, unless the operator wants more: a series for each channel costs Prometheus
memory for as long as it keeps its data.
"""

import platform
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

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
from esource.hub.stats import Histogram, Stats
from esource.hub.usage import Counts, Usage

# There from the start, or `rate()` would miss the first one.
WATCHED = (500, 503, 507)
_process = ProcessCollector(registry=None)


class Gauges(NamedTuple):
    """What is so now, and is not counted."""

    subscribers: int
    parked_subscribers: int
    open_channels: int
    refusing_channels: int
    subscribers_by_channel: dict[str, int]  # none, unless there are series for each channel
    body_bytes: int
    usage: Usage
    store: Counts | None = None  # of the engine, if there is one


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
        usage, since = gauges.usage, time.time()
        ages_of_newest = [since - usage.newest] if usage.newest else []
        if stats.newest is not None:  # the files may have been looked at a minute ago
            ages_of_newest.append(time.monotonic() - stats.newest)
        age = max(min(ages_of_newest), 0.0) if ages_of_newest else None
        version = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("esource", "Which hub this is", version)
        counters = (
            ("published_events", "Events that were committed", stats.events),
            ("published_bytes", "Bytes of the rows that were committed", stats.bytes),
            ("failed_commits", "Commits whose publishers were refused", stats.failed_commits),
            ("delivered_events", "Events sent to readers, but for downloads", stats.delivered),
            ("malformed_rows", "Rows that readers met and that are no events", stats.malformed),
        )
        for name, meaning, count in counters:
            yield CounterMetricFamily(f"esource_{name}", meaning, count)
        histograms = (
            ("commit_events", "Events of one commit", stats.commit_events),
            ("commit_duration_seconds", "Time of a commit: write and sync", stats.commit_seconds),
            ("sync_duration_seconds", "Time of a sync (fsync) alone", stats.sync_seconds),
            (
                "publish_duration_seconds",
                "Time from when an event or batch was queued until it could be answered",
                stats.publish_seconds,
            ),
            (
                "event_loop_lag_seconds",
                "By how much the event loop was late, twice a second",
                stats.lag_seconds,
            ),
        )
        for name, meaning, histogram in histograms:
            yield _histogram(f"esource_{name}", meaning, histogram)
        now = (
            ("subscribers", "Clients that follow now", gauges.subscribers),
            (
                "parked_subscribers",
                "Of these, clients that wait for the next event and cost next to nothing",
                gauges.parked_subscribers,
            ),
            ("open_channels", "Channels that are open now", gauges.open_channels),
            (
                "refusing_channels",
                "Open channels that a fault keeps from taking events; a read-only file is none",
                gauges.refusing_channels,
            ),
            (
                "body_memory_bytes",
                "Memory of bodies that are on their way, with their rows and receipts",
                gauges.body_bytes,
            ),
            ("event_loop_lag_max_seconds", "The most of the last minute", max(stats.lags.copy())),
            ("files", "Files of channels", usage.files),
            ("segments", "Of these, parts of a history", usage.segments),
            ("kept_bytes", "Bytes of these files", usage.bytes),
            ("disk_free_bytes", "Bytes that the disk has for more", usage.free),
            ("last_event_age_seconds", "Time since the last event", age),
        )
        for name, meaning, value in now:
            if value is not None:
                yield GaugeMetricFamily(f"esource_{name}", meaning, value)
        if gauges.store:
            yield from _store(gauges.store)
        resumes = {verdict.value: count for verdict, count in stats.resumes.items()}
        yield _labelled(
            CounterMetricFamily, "resumes", "Reads by how their beginning was found", "verdict",
            resumes,
        )  # fmt: skip
        refused = dict.fromkeys(WATCHED, 0) | stats.refused
        yield _labelled(
            CounterMetricFamily, "refused_requests", "Requests that the hub refused, by status",
            "status", {str(status): count for status, count in sorted(refused.items())},
        )  # fmt: skip
        if stats.published is not None:
            published = stats.published.copy()
            events = {channel: one.events for channel, one in published.items()}
            size = {channel: one.bytes for channel, one in published.items()}
            ages = {name: max(since - at, 0.0) for name, at in usage.by_channel.items()}
            series: tuple[tuple[Any, str, Mapping[str, float]], ...] = (
                (CounterMetricFamily, "published_events", events),
                (CounterMetricFamily, "published_bytes", size),
                (GaugeMetricFamily, "subscribers", gauges.subscribers_by_channel),
                (GaugeMetricFamily, "last_event_age_seconds", ages),
            )
            for family, name, values in series:
                meaning = f"As esource_{name}"
                yield _labelled(family, f"channel_{name}", meaning, "channel", values)
        yield from _process.collect()


def _store(counts: Counts) -> Iterator[Metric]:
    up = "Whether the engine has answered the last call"
    yield GaugeMetricFamily("esource_store_up", up, float(counts.is_up))
    for name, meaning, count in (
        ("appends", "Appends that the engine has answered", counts.appends),
        ("append_seconds", "Time of these", counts.seconds),
        ("retries", "Calls that were made again, since the engine was away", counts.retries),
        ("unknown_outcomes", "Appends that may have been stored, and got a 503", counts.unknown),
        ("notices", "Notices of other hubs that channels have grown", counts.notices),
        ("gaps", "Times that notices may have been missed, and all was looked at", counts.gaps),
    ):
        yield CounterMetricFamily(f"esource_store_{name}", meaning, count)


def _labelled(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str, meaning: str, label: str, values: Mapping[str, float],
) -> Metric:  # fmt: skip
    metric = family(f"esource_{name}", meaning, labels=[label])
    for text, value in values.items():
        metric.add_metric([text], value)
    return metric


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    counts = accumulate(histogram.counts.copy())
    return HistogramMetricFamily(
        name, meaning, list(zip(bounds, counts, strict=True)), histogram.sum
    )
