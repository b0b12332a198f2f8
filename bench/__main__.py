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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import (
    behind,
    beside,
    counting,
    engine,
    fanout,
    growing,
    history,
    hostile,
    ingest,
    pipelined,
    publishing,
    reading,
    returning,
    servers,
    tricks,
)
from bench.figures import HEAD, Cases, Line, growth, measure, row
from bench.machine import commit, machine, versions
from bench.plots import draw
from bench.scale import SCALES, Bench
from bench.subscribers import Subscribers, compile_clients

Workload = Callable[[Bench], Cases]

PROGRAMS = [("apache2-utils", "ab"), ("wrk", "wrk"), ("gcc", "cc")]  # Debian's packages for them

WORKLOADS: dict[str, Workload] = {
    "seed": publishing.seed,
    "publish": publishing.publish,
    "crowd": publishing.crowd,
    "channels": publishing.channels,
    "closing": publishing.closing,
    "nginx": behind.behind,
    "pipelined": pipelined.pipelined,
    "beside": beside.beside,
    "fan-out": fanout.fan_out,
    "latency": fanout.latency,
    "tail": fanout.tail,
    "idle": fanout.idle,
    "many": fanout.many,
    "connects": returning.connects,
    "return": returning.comeback,
    "again": returning.again,
    "retry": returning.sent_away,
    "replay": reading.replay,
    "download": reading.download,
    "resume": reading.resume,
    "history": history.history,
    "zones": history.zones,
    "engine": engine.engine,
    "engine-hubs": engine.engine_hubs,
    "engine-places": engine.engine_places,
    "counting": counting.counting,
    "tricks": tricks.tricks,
    "start": growing.start,
    "upload": growing.upload,
    "ingest": ingest.ingest,
    "hostile": hostile.hostile,
}


def catalogue(names: list[str]) -> str:
    """Return what each workload measures, from its docstring."""
    paragraphs = []
    for name in names:
        lines = [line for line in (inspect.getdoc(WORKLOADS[name]) or "").splitlines() if line]
        paragraphs.append("\n".join(f"{'' if n else name:14}{x}" for n, x in enumerate(lines)))
    return "\n".join(paragraphs)


def main() -> int:
    """Run what is asked for; return 1 if the hub has lost an event, or anything failed."""
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
    for missing in filter(None, (servers.lacks(*program) for program in PROGRAMS)):
        sys.exit(f"bench: {missing}")
    raise_descriptor_limit()
    scale = SCALES[options.scale]
    rounds = options.rounds or scale.rounds
    with tempfile.TemporaryDirectory(prefix="esource-bench-", dir=options.dir) as folder:
        home = Path(folder)
        report: dict[str, Any] = {
            "commit": commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "scale": options.scale,
            "rounds": rounds,
            "machine": machine(home),
            "versions": versions(),
            "seconds": {},
            "skipped": servers.skipped,
            "failed": [],
            "results": [],
        }
        show(report)
        Subscribers.program = compile_clients(home)
        try:
            for name in names:
                run(name, Bench(servers.place(home), scale), rounds, report)
        except KeyboardInterrupt:
            report["failed"].append("interrupted")
        finally:  # what was measured until somebody lost patience is worth keeping
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plots:
        draw(report, options.plots)
    lost = [
        line
        for line in report["results"]
        if line["subject"].startswith("hub") and line["lost"] + line["twice"]
    ]
    return 1 if lost or report["failed"] else 0


def show(report: dict[str, Any]) -> None:
    """Print where and with what the run takes place."""
    print(f"\ncommit {report['commit']}; {report['started']}; {report['scale']}; ", end="")
    print(f"rounds: {report['rounds']}")
    for part in ("machine", "versions"):
        print("; ".join(f"{name}: {value}" for name, value in report[part].items()))
    if report["machine"]["load_before"] > 0.5:
        print("This machine is busy with something else: take the figures for rough ones.")


def run(name: str, bench: Bench, rounds: int, report: dict[str, Any]) -> None:
    """Run a workload, printing each line as it is there, and add it to the report."""
    started = time.monotonic()
    print(f"\n{name}\n{HEAD}", flush=True)
    lines: list[Line] = []
    with contextlib.closing(WORKLOADS[name](bench)) as cases:
        for case in cases:
            measured, failed = measure(name, case, rounds)
            for line in measured:
                print(row(line, line is measured[0]), flush=True)
            for failure in failed:
                print(f"FAILED: {failure}", flush=True)
            lines += measured
            report["results"] += [line.as_json() for line in measured]
            report["failed"] += failed
    for text in growth(lines):
        print(text)
    report["seconds"][name] = round(time.monotonic() - started, 1)
    print(f"({report['seconds'][name]:.0f} s)", flush=True)


def raise_descriptor_limit() -> None:
    """Let this process and all that it starts hold ten thousand connections, if that is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, servers.DESCRIPTORS), hard):
        with contextlib.suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return


if __name__ == "__main__":
    sys.exit(main())
