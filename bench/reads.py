"""How fast events come out: replay by format, and finding a place in a large channel.

    python -m bench.reads [--size 1000] [--rounds 5] [--json]

Catalogue (a channel of default ids with 71 bytes of data: 100 bytes a row)

    replay FORMAT    all events of the first 100 MB, in MB/s of the answer and events/s
    download         the whole file as TSV, by sendfile
    cold             the first search after the start, near the end
    warm             the same again, near the end: the median of 50
        tail=10      the last ten events
        after        ten events before the end, by id (`limit=5`)
        since        likewise by a time that is no id
    others           how long a small request of somebody else takes meanwhile, at worst

The client is a raw socket that counts bytes. `--size` is in MB.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from esource.event import default_id
from tests.harness import Hub

START = 1_700_000_000_000_000  # microseconds; every event is one millisecond after the last
ROW_BYTES = 100


def write_channel(path: Path, megabytes: int) -> int:
    """Write a channel of default ids; return how many events it has."""
    data = b"x" * (ROW_BYTES - 30)
    count = megabytes * 1_000_000 // ROW_BYTES
    with path.open("wb") as file:
        for start in range(0, count, 10_000):
            rows = [
                b"%b\t\t%b\n" % (default_id(START + n * 1000), data)
                for n in range(start, min(start + 10_000, count))
            ]
            file.write(b"".join(rows))
        os.fsync(file.fileno())
    return count


def get(hub: Hub, path: str) -> tuple[int, float, float]:
    """Return the bytes of an answer, and the seconds to its first and to its last one."""
    with hub.connect() as connection:
        started = time.perf_counter()
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: hub\r\n\r\n".encode())
        buffer = bytearray(1 << 20)
        size = connection.recv_into(buffer)
        first = time.perf_counter() - started
        while received := connection.recv_into(buffer):
            size += received
        return size, first, time.perf_counter() - started


class Others:
    """Small requests of somebody else, and how long the slowest took."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.times: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.times.append(get(self.hub, "/nobody?limit=0")[2])
            time.sleep(0.005)

    def __enter__(self) -> "Others":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description="reads in MB/s and ms")
    parser.add_argument("--size", type=int, default=1000, help="of the large channel, in MB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        hub = Hub(Path(home))
        hub.folder.mkdir()
        count = write_channel(hub.file("large"), options.size)
        write_channel(hub.file("small"), 100)
        results = dict(lines(hub, count, options.rounds))
    if options.json:
        print(json.dumps(results))
        return
    for name, line in results.items():
        print(f"{name:16}" + "  ".join(f"{value:12,.2f} {unit}" for unit, value in line.items()))


def lines(hub: Hub, count: int, rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name and the figures of each line."""
    near = default_id(START + (count - 10) * 1000).decode()
    between = near[:-2] + "5Z"
    searches = {
        "tail=10": "/large?tail=10",
        "after": f"/large?after={near}&limit=5",
        "since": f"/large?since={between}&limit=5",
    }
    for name, path in searches.items():
        with running(hub):
            get(hub, "/nobody")
            with Others(hub) as others:
                _, _, cold = get(hub, path)
            yield f"cold {name}", {"ms": cold * 1e3, "ms others": max(others.times) * 1e3}
    with running(hub):
        get(hub, searches["after"])
        get(hub, searches["since"])
        for name, path in searches.items():
            times = [get(hub, path)[2] for _ in range(50)]
            yield f"warm {name}", {"ms": median(times) * 1e3, "ms max": max(times) * 1e3}
        for format in ("sse", "ndjson", "json", "raw", "tsv"):
            replays = [get(hub, f"/small?format={format}&follow=0&limit=999999999")
                       if format == "tsv" else get(hub, f"/small?format={format}&follow=0")
                       for _ in range(rounds)]  # fmt: skip
            size, _, seconds = sorted(replays, key=lambda replay: replay[2])[rounds // 2]
            yield f"replay {format}", {"MB/s": size / seconds / 1e6, "events/s": 1e6 / seconds}
        downloads = [get(hub, "/large") for _ in range(rounds)]
        size, _, seconds = sorted(downloads, key=lambda download: download[2])[rounds // 2]
        yield "download", {"MB/s": size / seconds / 1e6}


class running:  # noqa: N801
    """The hub on its folder, started and stopped."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def __enter__(self) -> None:
        self.hub.start()

    def __exit__(self, *_: object) -> None:
        self.hub.stop()


if __name__ == "__main__":
    main()
