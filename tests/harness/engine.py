"""Several hubs on one engine."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness.hub import Hub


def engine_hub(home: Path, url: str, **settings: str) -> Hub:
    """Return a hub on an engine, which is not started yet; `home` is made for its log."""
    home.mkdir(exist_ok=True)
    return Hub(home, ESOURCE_DIR="", ESOURCE_STORE=url, **settings)


def rows_at(hub: Hub, channel: str) -> list[bytes]:
    """Return the rows of a channel as a hub serves them, without line ends."""
    answer = hub.get(f"/{channel}")
    assert answer.status == 200, answer
    return answer.body.split(b"\n")[:-1]


def data_of(rows: Iterable[bytes]) -> list[bytes]:
    """Return the data of rows."""
    return [row.split(b"\t", 2)[2] for row in rows]


@contextmanager
def engine_hubs(home: Path, url: str, count: int = 2, **settings: str) -> Iterator[list[Hub]]:
    """Have some hubs that run on one engine, which end with the block."""
    with ExitStack() as stack:
        hubs = [engine_hub(home / f"hub{n}", url, **settings) for n in range(count)]
        for hub in hubs:
            stack.callback(stop, hub)
            hub.launch()
        for hub in hubs:
            hub.wait_until_up()
        yield hubs


def stop(hub: Hub) -> None:
    """Stop a hub if it runs."""
    if hub.process:
        hub.stop()
