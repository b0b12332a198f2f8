"""The benchmark: `python -m bench [WORKLOAD ...]`. Opens with what each workload measures.

Servers and load generators run on this machine, on loopback. `bench/README.md` says how to
read what comes out.
"""

import argparse
import contextlib
import inspect
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import fanout, growing, ingest, publishing, reading, servers
from bench.figures import HEAD, Case, Line, measure, row
from bench.machine import commit, machine, versions
from bench.plots import draw
from bench.scale import SCALES, Bench
from bench.subscribers import Subscribers, compile_clients

Workload = Callable[[Bench], Iterator[Case]]

WORKLOADS: dict[str, Workload] = {
    "seed": publishing.seed,
    "publish": publishing.publish,
    "channels": publishing.channels,
    "fan-out": fanout.fan_out,
    "latency": fanout.latency,
    "tail": fanout.tail,
    "idle": fanout.idle,
    "replay": reading.replay,
    "download": reading.download,
    "resume": reading.resume,
    "start": growing.start,
    "upload": growing.upload,
    "ingest": ingest.ingest,
}


def catalogue(names: list[str]) -> str:
    """Return what each workload measures, from its docstring."""
    paragraphs = []
    for name in names:
        lines = [line for line in (inspect.getdoc(WORKLOADS[name]) or "").splitlines() if line]
        paragraphs.append("\n".join(f"{'' if n else name:10}{x}" for n, x in enumerate(lines)))
    return "\n".join(paragraphs)


def main() -> int:
    """Run what is asked for; return 1 if a subscriber of the hub has missed an event."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help="of: " + ", ".join(WORKLOADS)
    )
    parser.add_argument("--list", action="store_true", help="only say what each one measures")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how large and how long")
    parser.add_argument("--quick", action="store_const", const="quick", dest="scale")
    parser.add_argument("--rounds", type=int, help="how often each line is measured")
    parser.add_argument(
        "--against", nargs="*", choices=servers.BASELINES, default=servers.BASELINES,
        metavar="BASELINE", help="only these, or none; of: " + ", ".join(servers.BASELINES),
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw PNGs there")
    parser.add_argument("--dir", type=Path, help="on the disk to use (default: the system's)")
    options = parser.parse_args()
    names = options.workloads or list(WORKLOADS)
    for name in names:
        if name not in WORKLOADS:
            parser.error(f"there is no workload {name!r}; there are: {', '.join(WORKLOADS)}")
    print(catalogue(names))
    if options.list:
        return 0
    servers.against = set(options.against)
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="esource-bench-", dir=options.dir) as home:
        Subscribers.program = compile_clients(Path(home))
        report = run(names, Path(home), options.scale, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plots:
        draw(report, options.plots)
    missed = [
        line
        for line in report["results"]
        if line["subject"].startswith("hub") and line["lost"] + line["twice"]
    ]
    for line in missed:
        print(
            f"{line['workload']}, {line['case']}: {line['lost']} events did not arrive, "
            f"{line['twice']} arrived twice",
            file=sys.stderr,
        )
    return 1 if missed else 0


def run(names: list[str], home: Path, scale_name: str, rounds: int | None) -> dict[str, Any]:
    """Run workloads, printing each line as it is there; return everything for machines."""
    scale = SCALES[scale_name]
    rounds = rounds or scale.rounds
    report: dict[str, Any] = {
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "scale": scale_name,
        "rounds": rounds,
        "machine": machine(home),
        "versions": versions(),
    }
    print(f"\ncommit {report['commit']}, {report['started']}, {scale_name}, rounds: {rounds}")
    for part in ("machine", "versions"):
        print("; ".join(f"{name}: {value}" for name, value in report[part].items()))
    if report["machine"]["load_before"] > 0.5:
        print("this machine is busy with something else: take the figures for rough ones")
    lines: list[Line] = []
    began = time.monotonic()
    for name in names:
        started = time.monotonic()
        print(f"\n{name}\n{HEAD}", flush=True)
        for case in WORKLOADS[name](Bench(servers.place(home), scale)):
            measured = measure(name, case, rounds)
            for line in measured:
                print(row(line, line is measured[0]), flush=True)
            lines += measured
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    report["seconds"] = round(time.monotonic() - began, 1)
    report["skipped"] = servers.skipped
    report["results"] = [line.as_json() for line in lines]
    return report


def raise_descriptor_limit() -> None:
    """Let this process and all that it starts hold ten thousand connections, if that is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, servers.DESCRIPTORS), hard):
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return


if __name__ == "__main__":
    sys.exit(main())
