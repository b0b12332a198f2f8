"""The benchmark: that it still runs, says what it promises, and that its subscribers can count.

Its figures are not looked at: they are for a quiet machine.
"""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

PATIENCE_SECONDS = 120
FIRST = ("seed", "publish", "channels", "fan-out", "tail", "idle")
SECOND = ("latency", "replay", "download", "resume", "start", "upload", "ingest")

needs_generators = pytest.mark.skipif(
    not (shutil.which("ab") and shutil.which("wrk")), reason="needs apache2-utils and wrk"
)


def bench(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@needs_generators
def test_every_workload_runs_and_loses_nothing(tmp_path: Path) -> None:
    runs = [
        bench(*FIRST, "--scale", "tiny", "--json", str(tmp_path / "0.json"), "--against"),
        bench(*SECOND, "--scale", "tiny", "--json", str(tmp_path / "1.json")),
    ]
    results: list[dict[str, Any]] = []
    for n, run in enumerate(runs):
        said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 0, said
        report = json.loads((tmp_path / f"{n}.json").read_text())
        assert report["failed"] == [], said
        assert {"commit", "started", "scale", "rounds", "skipped", "seconds"} < set(report)
        assert {"processor", "cores", "kernel", "file_system", "fsync_ms"} < set(report["machine"])
        assert {"python", "gunicorn", "gevent", "flask", "ab", "wrk"} < set(report["versions"])
        results += report["results"]
    assert list(dict.fromkeys(line["workload"] for line in results)) == [*FIRST, *SECOND]
    for line in results:
        assert len(line["values"]) == 1, line
        assert {"case", "size", "subject", "unit", "median", "spread", "hub_ratio"} < set(line)
        assert {"server", "generator", "received", "lost", "twice"} < set(line), line
        assert line["lost"] == line["twice"] == 0, line
    counted = {line["workload"] for line in results if line["received"]}
    assert counted == {"seed", "fan-out", "tail", "latency", "replay"}
    ratios = {line["subject"] for line in results if line["hub_ratio"]}
    assert "bare gunicorn" in ratios


def test_the_catalogue_names_every_workload() -> None:
    said, _ = bench("--list").communicate(timeout=PATIENCE_SECONDS)
    names = [line.split()[0] for line in said.splitlines() if not line.startswith(" ")]
    assert sorted(names) == sorted([*FIRST, *SECOND])


# -- sse_clients.c -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "sse_clients"
    source = ROOT / "bench" / "sse_clients.c"
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
         "-fno-sanitize-recover=undefined", "-o", path, source],
        check=True,
    )  # fmt: skip
    return path


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return HEAD + b"%x\r\n%b\r\n" % (len(body), body)


def received(program: Path, pieces: Iterable[bytes], expected: int) -> dict[str, Any]:
    """What one subscriber reports who is sent these pieces, each in a packet of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += connection.recv(4096)
                assert asked.startswith(b"GET /some HTTP/1.1\r\n"), asked
                assert b"\r\nAccept: text/event-stream\r\n" in asked, asked
                for piece in pieces:
                    connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        done = subprocess.run(
            [program, "-p", str(server.getsockname()[1]), "-u", "/some", "-n", "1"],
            input=f"expect {expected}\n".encode(), capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        thread.join()
    fields: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return fields


def frames(*sequence: int) -> bytes:
    return b"".join(b"id: %03d\ndata: #%d 1 xxx\n\n" % (n, n) for n in sequence)


def test_subscribers_count_events_by_the_rules_of_sse(program: Path) -> None:
    body = b":\nevent: x\ndata: a\ndata: b\n\n: no event\n\nid: only\n\ndata\n\ndata:\n\ndata: cut"
    fields = received(program, [chunked(body)], 2)
    assert fields["events"] == 2  # a lone `data` without colon is nobody's here
    assert (fields["lost"], fields["twice"], fields["comments"]) == (0, 0, 2)


def test_subscribers_tell_lost_events_from_repeated_ones(program: Path) -> None:
    assert received(program, [chunked(frames(0, 1, 2))], 3)["lost"] == 0
    fields = received(program, [chunked(frames(0, 1, 1, 4))], 6)
    assert fields["lost"] == 2 + 1  # two in a gap, one at the end
    assert fields["twice"] == 1
    assert fields["unordered_ids"] == 1
    assert received(program, [chunked(b"data: x\n\n" * 3)], 5)["lost"] == 2
    assert received(program, [chunked(b"data: x\n\n" * 5)], 3)["twice"] == 2


def test_subscribers_count_alike_however_the_bytes_are_cut(program: Path) -> None:
    whole = chunked(frames(*range(5)) + b"data: " + b"x" * 300 + b"\n\n")

    def bytewise() -> Iterator[bytes]:
        for n in range(len(whole)):
            yield whole[n : n + 1]

    fields = received(program, bytewise(), 6)
    assert (fields["events"], fields["lost"], fields["twice"]) == (6, 0, 0)
    assert fields["unordered_ids"] == 0
