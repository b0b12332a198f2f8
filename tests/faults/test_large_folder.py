"""A folder with many files: who lists them waits a moment, and nobody else does."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import Hub, Wire, running_hub, size
from tests.harness.measures import metric, p99

FILES = size(50_000, 90_000)
LIST_SECONDS = 5.0  # a page takes a tenth of one
DELAY_SECONDS = 0.25


@contextmanager
def small_requests(hub: Hub) -> Iterator[list[float]]:
    """Publish and read on one connection each, all the time; give how long each answer took."""
    times: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with Wire(hub) as wire:
            while not over.is_set():
                started = time.perf_counter()
                assert wire.post("/small", b"x").status == 201
                answered = time.perf_counter()
                assert hub.get("/small?tail=1&format=raw").body == b"x\n"
                times.extend((answered - started, time.perf_counter() - answered))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()


@pytest.mark.alone
def test_a_list_of_many_files_delays_nobody_else(tmp_path: Path) -> None:
    # Without fsync: this is about the loop, and the disk has thousands of new files to write down.
    with running_hub(tmp_path, ESOURCE_FSYNC="never") as hub:
        for n in range(FILES):
            (hub.folder / f"channel-{n:06}.tsv").write_bytes(b"1\t\tx\n")
        lists = []
        with small_requests(hub) as times:
            for query in ("", "&match=99", "&match=CHANNEL", "&after=channel-02", "&limit=1"):
                for _ in range(size(4, 8)):
                    hub.file("newer").touch()  # so that the names are read anew
                    started = time.perf_counter()
                    answer = hub.get(f"/-/channels?format=json{query}")
                    lists.append(time.perf_counter() - started)
                    hub.file("newer").unlink()
                    listed = json.loads(answer.body)
                    assert listed["channels"]

            assert listed["total"] == FILES + 2  # with `small` and `newer`
        lag = metric(hub, "esource_event_loop_lag_max_seconds")
        print(
            f"a page: max {max(lists) * 1e3:.0f} ms; {len(times)} small requests: "
            f"p99 {p99(times) * 1e3:.0f} ms, max {max(times) * 1e3:.0f} ms; "
            f"the loop: late by {lag * 1e3:.0f} ms"
        )
        assert max(lists) < LIST_SECONDS
        assert len(times) > 10 * len(lists)  # 60 times as many; 6 if they wait for the lists
        assert p99(times) < DELAY_SECONDS
        assert lag < DELAY_SECONDS
