"""A file that has lost its name, or whose channel is idle, is closed at once, without a collection.

Its space on the disk is free only then. So nothing that holds a log may be part of a cycle.
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import QUIET, Hub, Stream, eventually, running_hub

# No collections, and room for 128 channels.
CONFIGURATION = """
from esource.server import *
import gc, resource
gc.disable()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
"""
ROWS = b"".join(b"%d\t\t%b\n" % (number, b"x" * 1000) for number in range(5000))
SOON_SECONDS = 5.0


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "conf.py").write_text(CONFIGURATION)
    with running_hub(tmp_path, "-c", "conf.py", **QUIET) as hub:
        yield hub


def open_files(hub: Hub) -> list[str]:
    """Return the paths of the channel files that the worker has open."""
    folder = Path(f"/proc/{hub.worker}/fd")
    links = []
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            links.append(os.readlink(folder / name))
    return [link for link in links if ".tsv" in link]


def follow(hub: Hub) -> None:
    with Stream(hub, "/orders?tail=10") as stream:
        stream.read(10)


def follow_over_a_rotation(hub: Hub) -> None:
    with Stream(hub, "/orders") as stream:
        hub.file("orders").unlink()
        hub.publish("/orders", "x")
        stream.read(1)
        hub.publish("/orders", "x")
        stream.read(2)


def leave_a_download(hub: Hub) -> None:
    with hub.connect() as connection:
        connection.sendall(b"GET /orders?format=ndjson HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(100)


def refuse(hub: Hub) -> None:
    assert hub.post("/orders?expect=nothing", "x").status == 412
    assert hub.post("/orders?unique=1&id=1", "other").status == 409
    assert hub.get("/orders?tail=x").status == 400


def fail_to_read(hub: Hub) -> None:
    hub.file("orders").unlink()
    hub.file("orders").symlink_to("elsewhere")
    assert hub.get("/orders").status == hub.post("/orders", "x").status == 503


def fail_to_write(hub: Hub) -> None:
    limits = resource.prlimit(hub.worker, resource.RLIMIT_FSIZE)
    resource.prlimit(hub.worker, resource.RLIMIT_FSIZE, (len(ROWS), limits[1]))
    assert hub.post("/orders", "x").status == hub.post("/orders?unique=1&id=u", "x").status == 503
    resource.prlimit(hub.worker, resource.RLIMIT_FSIZE, limits)


USES: dict[str, Callable[[Hub], object]] = {
    "publish": lambda hub: hub.publish("/orders", "x"),
    "unique": lambda hub: hub.post("/orders?unique=1&id=u", "x"),
    "refusals": refuse,
    "a failed read": fail_to_read,
    "a failed write": fail_to_write,
    "read": lambda hub: hub.get("/orders"),
    "read in turns": lambda hub: hub.get("/orders?format=ndjson"),
    "search": lambda hub: hub.get("/orders?after=unknown"),
    "tail": lambda hub: hub.get("/orders?tail=3&event=none"),
    "since": lambda hub: hub.get("/orders?since=15m"),
    "range": lambda hub: hub.get("/orders", Range="bytes=10-20"),
    "a download that is left": leave_a_download,
    "follow": follow,
    "follow over a rotation": follow_over_a_rotation,
}


@pytest.mark.parametrize("use", USES)
def test_a_file_that_was_removed_is_closed(hub: Hub, use: str) -> None:
    hub.file("orders").write_bytes(ROWS)
    USES[use](hub)
    hub.file("orders").unlink()
    hub.publish("/orders", "into another one")
    eventually(lambda: not any("deleted" in path for path in open_files(hub)), SOON_SECONDS)


def test_channels_that_were_not_used_lately_are_closed(hub: Hub) -> None:
    for number in range(160):
        hub.publish(f"/channel-{number}", "x")
        assert hub.post(f"/channel-{number}?expect=nothing", "x").status == 412
        assert hub.get(f"/channel-{number}?after=unknown").status == 200
    eventually(lambda: len(open_files(hub)) <= 128, SOON_SECONDS)
