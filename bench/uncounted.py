"""The hub's own settings, in a process whose `Stats` count nothing: `-c python:bench.uncounted`.

What is left is what the hot path does by itself: it adds to a few plain numbers, and looks at
the clock to know how long a commit took.
"""

from esource.hub.stats import Histogram, Stats
from esource.server import *  # noqa: F403 -- all that gunicorn's own `-c` takes from there


def _nothing(*_: object) -> None:
    """Count nothing."""


for _counter, _names in (
    (Histogram, ("observe",)),
    (Stats, ("committed", "resumed", "refuse", "lagged")),
):
    for _name in _names:
        assert callable(getattr(_counter, _name))
        setattr(_counter, _name, _nothing)
