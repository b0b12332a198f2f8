import subprocess
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from esource.hub.stats import Stats
from esource.hub.usage import Usage
from esource.rows.find import Verdict
from esource.web import metrics
from esource.web.metrics import Gauges
from tests.harness import needs

GAUGES = Gauges(
    subscribers=7,
    parked_subscribers=5,
    open_channels=3,
    refusing_channels=1,
    subscribers_by_channel={},
    body_bytes=9,
    usage=Usage(files=4, bytes=1000, newest=time.time() - 60, free=5000),
)
OPEN_METRICS = "application/openmetrics-text;version=1.0.0"


def counted(by_channel: bool = False) -> Stats:
    stats = Stats(by_channel)
    now = time.monotonic() - 3600
    stats.committed("orders", 3, 100, 0.02, 0.01, now)
    stats.committed("others", 2, 10, 0.03, 0.0, now)
    stats.delivered = 11
    stats.malformed = 1
    stats.resumed(Verdict.EXACT)
    stats.refuse(400)
    stats.refuse(507)
    stats.lagged(0.25)
    stats.lagged(0.125)
    return stats


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in prometheus(text)
        for sample in family.samples
    }


def test_every_number_is_there() -> None:
    text, _ = metrics.text(counted(), GAUGES, "")
    found = samples(text.decode())

    def value(name: str, **labels: str) -> float:
        return found[f"esource_{name}", frozenset(labels.items())]

    assert value("published_events_total") == 5
    assert value("published_bytes_total") == 110
    assert value("commit_events_count") == 2
    assert value("commit_events_sum") == 5
    assert value("commit_events_bucket", le="2.0") == 1
    assert value("commit_events_bucket", le="5.0") == 2
    assert value("commit_events_bucket", le="+Inf") == 2
    assert value("commit_duration_seconds_sum") == pytest.approx(0.05)
    assert value("sync_duration_seconds_count") == 1
    assert value("delivered_events_total") == 11
    assert value("malformed_rows_total") == 1
    assert value("subscribers") == 7
    assert value("open_channels") == 3
    assert value("refusing_channels") == 1
    assert value("resumes_total", verdict="exact") == 1
    assert value("resumes_total", verdict="time") == 0  # there from the start, for `rate()`
    assert value("refused_requests_total", status="400") == 1
    assert value("refused_requests_total", status="507") == 1
    assert value("refused_requests_total", status="503") == 0  # likewise
    assert value("event_loop_lag_seconds_count") == 2
    assert value("event_loop_lag_max_seconds") == 0.25
    assert value("files") == 4
    assert value("kept_bytes") == 1000
    assert value("disk_free_bytes") == 5000
    assert 60 <= value("last_event_age_seconds") < 3000


def test_the_client_gets_the_format_that_it_understands() -> None:
    stats = counted()
    text, content_type = metrics.text(stats, GAUGES, "")
    assert content_type.startswith("text/plain; version=0.0.4")
    names = {family.name for family in prometheus(text.decode())}
    text, content_type = metrics.text(stats, GAUGES, OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in open_metrics(text.decode())}  # type: ignore[no-untyped-call]
    assert "esource_published_events" in names & families


@pytest.mark.parametrize("by_channel", [False, True])
def test_promtool_finds_nothing_to_complain_about(by_channel: bool) -> None:
    [promtool] = needs("promtool")
    gauges = GAUGES._replace(subscribers_by_channel={"orders": 7} if by_channel else {})
    text, _ = metrics.text(counted(by_channel), gauges, "")
    run = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_channels_have_series_of_their_own_only_if_asked_for() -> None:
    text, _ = metrics.text(counted(), GAUGES, "")
    assert b"channel=" not in text
    usage = GAUGES.usage._replace(by_channel={"orders": time.time() - 90})
    gauges = GAUGES._replace(subscribers_by_channel={"orders": 7}, usage=usage)
    text, _ = metrics.text(counted(by_channel=True), gauges, "")
    found = samples(text.decode())
    age = found["esource_channel_last_event_age_seconds", frozenset({("channel", "orders")})]
    assert 90 <= age < 150
    orders = frozenset({("channel", "orders")})
    assert found["esource_channel_published_events_total", orders] == 3
    assert found["esource_channel_published_bytes_total", orders] == 100
    assert found["esource_channel_subscribers", orders] == 7


def test_the_process_is_measured_too() -> None:
    text, _ = metrics.text(Stats(), GAUGES, "")
    found = samples(text.decode())
    assert found["process_open_fds", frozenset()] > 0
    assert found["process_resident_memory_bytes", frozenset()] > 0


def test_the_last_event_may_be_later_than_the_last_look_at_the_files() -> None:
    stats = counted()
    stats.newest = time.monotonic() - 10
    text, _ = metrics.text(stats, GAUGES, "")
    assert 10 <= samples(text.decode())["esource_last_event_age_seconds", frozenset()] < 60


def test_without_an_event_there_is_no_time_since_the_last() -> None:
    text, _ = metrics.text(Stats(), GAUGES._replace(usage=Usage()), "")
    assert b"esource_last_event_age_seconds" not in text
    assert b"esource_disk_free_bytes" not in text
