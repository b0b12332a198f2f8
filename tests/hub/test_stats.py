from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from esource.hub.stats import RATE_SECONDS, Histogram, Rates, Stats


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_up_to_its_bound(values: list[float]) -> None:
    bounds = (0.5, 1, 10)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    for n, bound in enumerate(bounds):
        assert sum(histogram.counts[: n + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.counts) == len(values)
    assert histogram.sum == sum(values)


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from("ab"), st.integers(1, 9))))
def test_a_rate_is_the_mean_of_the_last_seconds(commits: list[tuple[float, str, int]]) -> None:
    rates = Rates()
    commits.sort()
    for now, channel, events in commits:
        rates.add(channel, events, now)
    for now in (30.5, 35.0, 39.9, 40.5, 100.0):
        lately = set(range(int(now) - RATE_SECONDS + 1, int(now) + 1))
        for channel in "ab":
            events = sum(n for when, name, n in commits if name == channel and int(when) in lately)
            assert rates.of(channel, now) == events / RATE_SECONDS


def test_channels_without_events_are_forgotten() -> None:
    rates = Rates()
    for second in range(1000):
        rates.add(f"channel{second}", 1, float(second))
    assert sum(len(counts) for _, counts in rates._seconds) == RATE_SECONDS


def test_a_commit_is_counted_in_every_total() -> None:
    stats = Stats(by_channel=True)
    stats.committed("orders", 3, 100, 0.02, 0.01, 0.0)
    stats.committed("orders", 1, 10, 0.02, 0.0, 0.0)
    stats.committed("others", 1, 10, 0.02, 0.0, 0.0)
    assert (stats.events, stats.bytes) == (5, 120)
    assert stats.commit_events.sum == 5
    assert sum(stats.commit_events.counts) == sum(stats.commit_seconds.counts) == 3
    assert stats.commit_seconds.counts[bisect_left(stats.commit_seconds.bounds, 0.02)] == 3
    assert sum(stats.sync_seconds.counts) == 1  # the others were not synced
    assert stats.published is not None
    assert (stats.published["orders"].events, stats.published["orders"].bytes) == (4, 110)


def test_channels_are_not_counted_one_by_one_unless_asked_for() -> None:
    stats = Stats()
    stats.committed("orders", 3, 100, 0.02, 0.01, 0.0)
    assert stats.published is None
