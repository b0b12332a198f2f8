"""The benchmark: that it still runs, says what it promises, and that its subscribers can count.

Its figures are not looked at: they are for a quiet machine.
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bench import plots
from bench.connections import Connections
from bench.figures import Line, exponent
from bench.message import whole
from bench.publishers import request
from bench.servers import GEVENT, HUB, HUB_WITHOUT_COUNTING, Server, place
from tests.harness import ROOT, do_without, needs, some

PATIENCE_SECONDS = 300
FIRST = (
    "seed", "publish", "crowd", "channels", "closing", "nginx", "pipelined", "beside", "fan-out",
    "tail", "idle", "connects", "return", "counting", "many",
)  # fmt: skip
COUNTED = {
    "seed", "fan-out", "tail", "many", "counting", "latency", "replay", "return", "again", "engine",
}  # fmt: skip
SECOND = (
    "latency",
    "replay",
    "download",
    "resume",
    "history",
    "engine",
    "start",
    "upload",
    "ingest",
    "tricks",
    "hostile",
    "again",
    "retry",
    "engine-hubs",
    "engine-places",
    "zones",
)


def bench(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_every_workload_runs_and_loses_nothing(tmp_path: Path) -> None:
    needs("ab", "wrk", "cc")
    first, second = some(FIRST, 3), some(SECOND, 3)
    runs = [
        bench(*first, "--scale", "tiny", "--json", str(tmp_path / "0.json"), "--against", "gevent"),
        bench(*second, "--scale", "tiny", "--json", str(tmp_path / "1.json")),
    ]
    results: list[dict[str, Any]] = []
    missing: list[str] = []
    for n, run in enumerate(runs):
        said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 0, said
        report = json.loads((tmp_path / f"{n}.json").read_text())
        assert report["failed"] == [], said
        assert {"commit", "started", "scale", "rounds", "skipped", "seconds"} < set(report)
        assert {"processor", "cores", "kernel", "file_system", "fsync_ms"} < set(report["machine"])
        assert {"python", "gunicorn", "gevent", "flask", "ab", "wrk"} < set(report["versions"])
        results += report["results"]
        missing += report["skipped"]
    assert list(dict.fromkeys(line["workload"] for line in results)) == [*first, *second]
    for line in results:
        assert len(line["values"]) == 1, line
        assert {"case", "size", "subject", "unit", "median", "spread", "hub_ratio"} < set(line)
        assert {"server", "generator", "received", "lost", "twice"} < set(line), line
        assert line["lost"] == line["twice"] == 0, line
    counted = {line["workload"] for line in results if line["received"]}
    assert counted == COUNTED & {*first, *second}
    ratios = {line["subject"] for line in results if line["hub_ratio"]}
    assert {"bare gunicorn", "bare gevent"} < ratios
    if missing:  # all the rest held
        do_without("; ".join(missing))


def test_the_catalogue_names_every_workload() -> None:
    said, _ = bench("--list").communicate(timeout=PATIENCE_SECONDS)
    names = [line.split()[0] for line in said.splitlines() if not line.startswith(" ")]
    assert sorted(names) == sorted([*FIRST, *SECOND])


def test_the_hub_that_does_not_count_publishes_and_does_not_count(tmp_path: Path) -> None:
    for kind, counted in ((HUB, 1), (HUB_WITHOUT_COUNTING, 0)):
        with kind.start(place(tmp_path)) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("POST", "/orders", b"x")
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (201, True)
            connection.request("GET", "/-/metrics")
            metrics = connection.getresponse().read().decode()
            connection.close()
            for name in ("published_events_total", "publish_duration_seconds_count"):
                assert f"\nesource_{name} {counted}.0\n" in metrics, kind.name


# -- how figures grow ------------------------------------------------------------------------


def line(size: int, value: float, case: str = "{} MB") -> dict[str, Any]:
    return Line(
        "zones", case.format(size), size, "hub", "ms", values=[value], server=0, generator=0
    ).as_json()


def test_figures_grow_with_a_power_of_the_size() -> None:
    assert exponent([(10, 5), (100, 50), (1000, 500)]) == pytest.approx(1)
    assert exponent([(10, 5), (1000, 5)]) == pytest.approx(0)
    assert exponent([(1, 8), (4, 4), (16, 2)]) == pytest.approx(-0.5)
    for points in ([], [(10, 5)], [(10, 5), (10, 6)], [(1, 5), (10, 0)]):
        assert exponent(points) is None


def test_of_a_run_in_pieces_the_last_of_the_same_lines_counts() -> None:
    pieces = [[line(10, 7), line(100, 50)], [line(10, 5), line(10, 1, "cold, {} MB")]]
    run = plots.joined([{"results": lines} for lines in pieces])
    curves = plots.points(run["results"], plots.PICTURES["zones"])
    assert {name: [point.median for point in curve] for name, curve in curves.items()} == {
        "hub": [5, 50], "cold": [1],
    }  # fmt: skip
    assert plots.table(run).splitlines()[2:] == [
        "| zones | hub | 5 ms at 10 | 50 ms at 100 | 1.00 |"
    ]


def test_each_picture_is_of_a_workload() -> None:
    assert {picture.workload for picture in plots.PICTURES.values()} <= {*FIRST, *SECOND}


# -- connections of this process -------------------------------------------------------------


def test_a_message_ends_where_its_declared_length_does() -> None:
    long, short = b"POST /x HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", b"GET / HTTP/1.1\r\n\r\n"
    for message in (long, short):
        assert [whole(message[:n]) for n in range(len(message))] == [0] * len(message)
        for behind in (b"", b"P", long):
            assert whole(message + behind) == len(message)


def test_each_request_is_sent_once_or_until_each_connection_has_an_answer(tmp_path: Path) -> None:
    with GEVENT.start(place(tmp_path)) as server, Connections(server, 10) as connections:
        times = connections.post([request("/some", b"x")] * 25)
        assert (len(times), sorted(times)) == (25, times)
        assert len(connections.post_on(request("/some", b"x"))) == 10


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b""])
def test_a_connection_that_gets_no_2xx_fails_the_run(tmp_path: Path, answer: bytes) -> None:
    some = subprocess.Popen(["true"])  # instead of a server's process
    with some, socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        server = Server("some", listener.getsockname()[1], some, tmp_path)
        with Connections(server, 1) as connections, pytest.raises(RuntimeError, match="some"):
            connections.post([request("/some", b"x")])
        thread.join()


# -- sse_clients.c -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 7, 1 << 18])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, reading so many bytes at once: the first of them cuts at every place."""
    path = tmp_path_factory.mktemp("bench") / "sse_clients"
    subprocess.run(
        ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
         "-fno-sanitize-recover=undefined", f"-DBUFFER={request.param}", "-o", path,
         ROOT / "bench" / "sse_clients.c"],
        check=True,
    )  # fmt: skip
    return path


def received(program: Path, *chunks: bytes, expected: int) -> dict[str, Any]:
    """What one subscriber reports who is sent these chunks."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += connection.recv(4096)
                assert asked.startswith(b"GET /some HTTP/1.1\r\n"), asked
                assert b"\r\nAccept: text/event-stream\r\n" in asked, asked
                connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for chunk in chunks:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))

        thread = threading.Thread(target=serve)
        thread.start()
        process = subprocess.Popen(
            [program, "-p", str(server.getsockname()[1]), "-u", "/some", "-n", "1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"expect {expected}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline().startswith(b'{"ready": 1, ')
        fields: dict[str, Any] = json.loads(process.stdout.readline())
        process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
        thread.join()
    return fields


def frames(*sequence: int) -> bytes:
    return b"".join(b"id: %03d\ndata: #%d 1 xxx\n\n" % (n, n) for n in sequence)


def test_subscribers_count_events_by_the_rules_of_sse(program: Path) -> None:
    body = b":\nevent: x\ndata: a\ndata: b\n\n: no event\n\nid: only\n\ndata\n\ndata:\n\ndata: cut"
    fields = received(program, body, expected=2)
    assert fields["events"] == 2  # a lone `data` without colon is nobody's here
    assert (fields["lost"], fields["twice"], fields["comments"]) == (0, 0, 2)


def test_subscribers_tell_lost_events_from_repeated_ones(program: Path) -> None:
    assert received(program, frames(0, 1, 2), expected=3)["lost"] == 0
    fields = received(program, frames(0, 1, 1, 4), expected=6)
    assert fields["lost"] == 2 + 1  # two in a gap, one at the end
    assert fields["twice"] == 1
    assert fields["unordered_ids"] == 1
    assert received(program, b"data: x\n\n" * 3, expected=5)["lost"] == 2
    assert received(program, b"data: x\n\n" * 5, expected=3)["twice"] == 2


def test_subscribers_count_what_sends_them_away(program: Path) -> None:
    fields = received(program, b"retry: 1\n", frames(0), b"retry: 2000\n: retry: 1\n", expected=1)
    assert (fields["retries"], fields["comments"], fields["events"]) == (2, 1, 1)


def test_each_subscriber_has_a_header_of_its_own(program: Path, tmp_path: Path) -> None:
    each = tmp_path / "each"
    each.write_text("X-Own: 1\nX-Own: 2\n")
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in "12":
                with server.accept()[0] as connection:
                    asked.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nretry: 1\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with subprocess.Popen(
            [program, "-p", str(server.getsockname()[1]), "-u", "/some", "-n", "2", "-F", each],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as run:  # fmt: skip
            assert run.stdin
            assert run.stdout
            run.stdin.write(b"ended\n")
            run.stdin.flush()  # and open: at its end the program does not wait for the streams
            said = [run.stdout.readline(), run.stdout.readline()]
        thread.join()
    assert [f"\r\nX-Own: {n}\r\n\r\n".encode() in text for n, text in enumerate(asked, 1)] == [
        True
    ] * 2
    result = json.loads(said[-1])
    assert (result["ended"], result["retries"]) == (2, 2)


def test_subscribers_come_from_so_many_addresses(program: Path) -> None:
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in "123":
                connection, (address, _) = server.accept()
                with connection:
                    came.append(address)
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = str(server.getsockname()[1])
        with subprocess.Popen(
            [program, "-p", port, "-u", "/some", "-n", "3", "-a", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as run:  # fmt: skip
            assert run.stdout
            assert run.stdout.readline().startswith(b'{"ready": 3, ')
        thread.join()
    assert sorted(came) == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]


def test_subscribers_count_lines_of_any_length(program: Path) -> None:
    body = frames(*range(5)) + b"data: #5 1 " + b"x" * 300 + b"\n\n"
    fields = received(program, body, expected=6)
    assert (fields["events"], fields["lost"], fields["twice"]) == (6, 0, 0)
    assert (fields["unordered_ids"], fields["timed"]) == (0, 6)


def test_subscribers_take_a_stream_in_chunks_of_any_size(program: Path) -> None:
    body = frames(*range(20))
    pieces = [body[n : n + 9] for n in range(0, len(body), 9)]
    assert received(program, *pieces, expected=20)["least"] == 20
