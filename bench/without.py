"""The hub's own settings, without one of its tricks: `-c python:bench.without`.

`BENCH_WITHOUT`, which the benchmark sets, says without which. The hub itself has no such switch.
"""

import gc
import os

from esource.hub import committer
from esource.log import filesystem
from esource.server import *  # noqa: F403 -- all that gunicorn's own `-c` takes from there
from esource.server import fastpath, heads


def _in_threads() -> None:
    """Write and sync in threads alone."""
    committer.Pace.is_quick = property(lambda pace: False)  # type: ignore[assignment, method-assign]


def _one_by_one() -> None:
    """Sync each file by itself."""
    filesystem.SURE.clear()


def _request_by_request() -> None:
    """Begin each request of a pipeline when the one before is answered."""
    fastpath.REQUESTS = 1


def _planning() -> None:
    """Read each head anew."""
    heads.PLAN_BYTES = 0


def _collecting() -> None:
    """Look for garbage as often as Python does by default."""
    gc.set_threshold = lambda *thresholds: None


TRICKS = {
    "the loop": _in_threads, "one sync": _one_by_one, "pipelines": _request_by_request,
    "plans": _planning, "patience": _collecting,
}  # fmt: skip
TRICKS[os.environ["BENCH_WITHOUT"]]()
