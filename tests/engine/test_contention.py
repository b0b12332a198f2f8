"""Three hubs, four writers at each, one channel: one order, in which nothing is lost or doubled."""

from pathlib import Path

from tests.harness import QUIET
from tests.harness.crowd import Crowd, counted
from tests.harness.engine import engine_hubs
from tests.harness.postgres import Postgres

EVENTS = 800
TRIES = 3.0  # for a commit, on average


def test_nothing_is_refused_lost_doubled_or_out_of_order(tmp_path: Path, server: Postgres) -> None:
    url = server.database("track_functions = 'pl'")
    with counted(server, url) as tries, engine_hubs(tmp_path, url, 3, **QUIET) as hubs:
        Crowd(hubs, "contended").run(EVENTS)
    assert tries[0] <= TRIES
