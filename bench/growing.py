"""Workloads: a folder with many files, and a body without end."""

import contextlib
import http.client
import time
from functools import partial
from pathlib import Path

from bench.cpu import Busy, cpu_seconds, resident_bytes
from bench.figures import Case, Cases, Sample
from bench.publishers import Stream
from bench.scale import Bench, fresh
from bench.servers import BARE, HUB, HUB_WITHOUT_FSYNC, Kind, installed, place

LINES = 10_000
LINE_BYTES = 99  # and its end


def start(bench: Bench) -> Cases:
    """Start with so many channel files in the folder: milliseconds from exec to the first answer.

    The answer is the content of one of the channels. Bare gunicorn has no files.
    """

    def launch(kind: Kind, home: Path) -> Sample:
        began = time.perf_counter()
        with kind.start(home) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            with contextlib.closing(connection):
                connection.request("GET", "/channel-0")
                answer = connection.getresponse()
                content = answer.read()
            seconds = time.perf_counter() - began
            busy = cpu_seconds(server.pids) / seconds
            assert answer.status in (200, 201), content
            assert content, "the channel is empty"
        return Sample({"ms": seconds * 1e3}, busy)

    kinds = installed(HUB, BARE)
    for count in bench.scale.files:
        home = place(bench.home)
        folder = home / "events"
        folder.mkdir()
        for n in range(count):
            (folder / f"channel-{n}.tsv").write_bytes(b"%d\t\tdata\n" % n)
        takes = {kind.name: partial(launch, kind, home) for kind in kinds}
        yield Case(f"{count} files", count, dict(takes))


def upload(bench: Bench) -> Cases:
    """Send so many MB of lines as one chunked body, fsync never: how far memory grows, at most.

    A bound that holds is about the same for a body ten times as long.
    """

    def send(megabytes: int) -> Sample:
        lines = [b"%d " % n + b"x" * (LINE_BYTES - len(b"%d " % n)) for n in range(LINES)]
        times = max(1, megabytes * 1_000_000 // (LINES * (LINE_BYTES + 1)))
        with HUB_WITHOUT_FSYNC.start(place(bench.home)) as server:
            before = peak = resident_bytes(server.pids)
            with Busy(server.process.pid) as busy, Stream(server, fresh("upload")) as stream:
                for _ in range(times):
                    stream.send(lines)
                    peak = max(peak, resident_bytes(server.pids))
                stream.end()
            figures = {"MB more": (peak - before) / 1e6, "MB/s": megabytes / busy.seconds}
            return Sample(figures, busy.server, busy.generator)

    for megabytes in bench.scale.upload:
        yield Case(f"{megabytes} MB", megabytes, {HUB_WITHOUT_FSYNC.name: partial(send, megabytes)})
