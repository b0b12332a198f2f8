"""What a hub costs, and how long it takes: memory, processor time, quantiles, its own metrics."""

import os
import re
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.hub import Hub


def memory(hub: Hub, of: str = "RssAnon") -> int:
    """Return the worker's memory, in bytes: of its own, not of files.

    Or another line of its `status`: `VmRSS` with files, `VmHWM` the most that it ever was.
    """
    status = Path(f"/proc/{hub.worker}/status").read_text()
    match = re.search(rf"{of}:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


def cpu_seconds(hub: Hub) -> float:
    """Return how much processor time the worker has used."""
    fields = Path(f"/proc/{hub.worker}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bytes_read(hub: Hub) -> int:
    """Return how many bytes the worker has read until now, of files above all."""
    return int(Path(f"/proc/{hub.worker}/io").read_text().split()[1])


def p99(times: list[float]) -> float:
    """Return the time that 99 of 100 are below."""
    return sorted(times)[len(times) * 99 // 100]


def metric(hub: Hub, name: str, **labels: str) -> float:
    """Return a sample of a hub's metrics; 0 if it is not there."""
    for family in text_string_to_metric_families(hub.get("/-/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return 0.0


def unread(hub: Hub, connection: socket.socket) -> int:
    """Return how many bytes of a connection the hub has received but not looked at yet."""
    port = connection.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(f":{hub.port:04X}") and remote.endswith(f":{port:04X}"):
            return int(queues.partition(":")[2], 16)
    raise AssertionError("no such connection")
