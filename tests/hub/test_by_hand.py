"""Rows that another program appends by hand (`>>`) while others publish: all are there, whole."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import PATIENCE_SECONDS, Hub, Publisher, needs, numbers, running_hub
from tests.harness.channels import age, append_by_hand

ROW_BYTES = 53  # which is no divisor of a block
SECONDS = 1.0

# Each writes `hand-<n> TAB TAB <padding> LF` for a while, and then its last whole row.
PERL = r"""
use Time::HiRes qw(time sleep); use Fcntl;
my ($path, $block, $seconds, $pause) = @ARGV;
sysopen(my $file, $path, O_WRONLY | O_APPEND) or die $!;
my ($end, $n, $rows) = (time + $seconds, 0, "");
while (time < $end) {
    $rows .= sprintf("hand-%08d\t\t%s\n", $n++, "x" x 37) while length($rows) < ($block || 1);
    my $size = $block || length($rows);
    syswrite($file, $rows, $size);
    $rows = substr($rows, $size);
    sleep $pause if $pause;
}
syswrite($file, $rows) if length($rows);
"""
WAYS = {
    "blocks of 4 KiB": (4096, 0.002),
    "blocks of 8 KiB": (8192, 0.002),
    "blocks of 8 KiB without pause": (8192, 0),
    "slow blocks of 4 KiB": (4096, 0.2),
    "row by row": (0, 0.0005),
    "row by row without pause": (0, 0),
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path) as hub:
        hub.publish("/orders?id=first", "x")
        yield hub


def by_hand(hub: Hub, block: int, pause: float, seconds: float) -> "subprocess.Popen[bytes]":
    """Start a program that appends rows in blocks of so many bytes; 0: row by row."""
    [perl] = needs("perl")
    arguments = [str(hub.file("orders")), str(block), str(seconds), str(pause)]
    return subprocess.Popen([perl, "-e", PERL, *arguments])


@pytest.mark.parametrize("way", WAYS)
def test_no_row_is_cut_and_no_publisher_refused(hub: Hub, way: str) -> None:
    writer = by_hand(hub, *WAYS[way], SECONDS)
    publishers = [Publisher(hub, f"p{n}", "orders").start() for n in range(2)]
    count, expected = 0, {}  # by id
    while writer.poll() is None:
        assert hub.post(f"/orders?unique=1&id=unique-{count}", "x").status == 201
        newest = hub.request("HEAD", "/orders").headers["Last-Event-ID"]
        answer = hub.post(f"/orders?expect={newest}&id=expected-{count}", "x")
        assert answer.status in (201, 412), answer
        if answer.status == 201:
            expected[f"expected-{count}"] = newest
        count += 1
    for publisher in publishers:
        publisher.stop()
        assert publisher.refused == []
        assert publisher.broken == 0
    rows = hub.rows("orders")
    hand = [row for row in rows if row.startswith(b"hand-")]
    assert {len(row) for row in hand} == {ROW_BYTES - 1}
    assert [int(row[5:13]) for row in hand] == list(range(len(hand)))
    ours = [row for row in rows if row.endswith(b" ")]
    for publisher in publishers:
        assert numbers(ours, publisher.name) == list(range(publisher.sent))
    assert len(rows) == 1 + len(hand) + count + len(expected) + len(ours)
    ids = [row.split(b"\t")[0].decode() for row in rows]
    default_ids = [id for id in ids if id.startswith("20")]
    assert default_ids == sorted(set(default_ids))
    for id, before in expected.items():
        assert ids[ids.index(id) - 1] == before
    assert hub.get("/orders").body == hub.file("orders").read_bytes()
    assert list(hub.folder.glob("*.torn-*")) == []
    assert "ERROR" not in hub.log


def test_half_a_row_that_stays_is_cut_off_after_a_second_and_nobody_else_waits(hub: Hub) -> None:
    hub.publish("/others", "x")
    append_by_hand(hub.file("orders"), b"half\t\tof a r")
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(hub.post, "/orders?id=second", "x")
        while not publishing.done():
            moment = time.monotonic()
            assert hub.get("/orders").body.startswith(b"first\t\tx\n")
            hub.publish("/others", "x")
            assert time.monotonic() - moment < 0.9  # the half row stays for 1 s
        assert publishing.result().status == 201
    assert 0.8 < time.monotonic() - began < 3
    append_by_hand(hub.file("orders"), b"ow\n")
    assert hub.rows("orders") == [b"first\t\tx", b"second\t\tx", b"ow"]
    assert [file.read_bytes() for file in hub.folder.glob("*.torn-*")] == [b"half\t\tof a r"]
    assert "the last row had no end" in hub.log


def test_a_fresh_half_of_a_row_outlives_a_restart(hub: Hub) -> None:
    hub.stop()
    append_by_hand(hub.file("orders"), b"half\t\tof a r")
    age(hub.file("orders"), -PATIENCE_SECONDS)  # which it still is once the hub has started
    hub.start()
    assert hub.get("/orders").body == b"first\t\tx\n"
    append_by_hand(hub.file("orders"), b"ow\n")
    hub.publish("/orders?id=second", "x")
    assert hub.rows("orders") == [b"first\t\tx", b"half\t\tof a row", b"second\t\tx"]
    assert list(hub.folder.glob("*.torn-*")) == []
