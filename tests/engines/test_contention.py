"""Three hubs, four writers at each, one channel: one order, in which nothing is lost or doubled."""

from tests.harness import Hub
from tests.harness.crowd import Crowd

EVENTS = 800


def test_nothing_is_refused_lost_doubled_or_out_of_order(hubs: list[Hub]) -> None:
    Crowd(hubs, "contended").run(EVENTS)
