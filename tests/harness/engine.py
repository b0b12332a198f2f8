"""Several hubs on one engine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness.hub import Hub


def engine_hub(home: Path, url: str, **settings: str) -> Hub:
    """Return a hub on an engine, which is not started yet; `home` is made for its log."""
    home.mkdir(exist_ok=True)
    return Hub(home, ESOURCE_DIR="", ESOURCE_STORE=url, **settings)


@contextmanager
def engine_hubs(home: Path, url: str, count: int = 2, **settings: str) -> Iterator[list[Hub]]:
    """Have some hubs that run on one engine, which end with the block."""
    with ExitStack() as stack:
        hubs = [engine_hub(home / f"hub{n}", url, **settings) for n in range(count)]
        for hub in hubs:
            hub.start()
            stack.callback(lambda hub=hub: hub.process and hub.stop())
        yield hubs
