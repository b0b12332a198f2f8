"""Hubs on one engine whose clocks differ: ids increase, and no hub starves."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness import QUIET, Hub, size
from tests.harness.crowd import Crowd
from tests.harness.engine import engine_hub, engine_hubs, stop
from tests.harness.postgres import shared_postgres
from tests.harness.shims import Build, preload

EVENTS = size(1000, 3000)


def test_nobody_starves_behind_an_id_of_the_far_future(tmp_path: Path) -> None:
    """Each default id is right behind the one before."""
    url = shared_postgres().database()
    with engine_hubs(tmp_path, url, 3, **QUIET) as hubs:
        hubs[0].publish("/far-future?id=2099-01-01T00:00:00.000000Z", "first")
        Crowd(hubs, "far-future", others=1).run(EVENTS // 2)


@contextmanager
def skewed(home: Path, url: str, shim: Build, seconds: Sequence[int]) -> Iterator[list[Hub]]:
    """Have hubs whose clocks are so many seconds off."""
    with ExitStack() as stack:
        hubs = []
        for n, offset in enumerate(seconds):
            hub = engine_hub(home / f"hub{n}", url, **QUIET)
            clock = hub.home / "clock"
            clock.write_bytes(struct.pack("q", offset))
            preload(hub, shim("clock"), CLOCK_OFFSET=str(clock))
            stack.callback(stop, hub)
            hubs.append(hub)
            hub.launch()
        for hub in hubs:
            hub.wait_until_up()
        yield hubs


def test_nobody_starves_and_ids_increase_if_clocks_differ(tmp_path: Path, shim: Build) -> None:
    url = shared_postgres().database()
    with skewed(tmp_path, url, shim, (0, 2, -2)) as hubs:
        crowd = Crowd(hubs, "skewed")
        crowd.run(EVENTS)
        assert min(crowd.of_each()) > EVENTS // 15
