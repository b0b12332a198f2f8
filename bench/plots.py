"""Pictures of runs, small PNG files: `python -m bench.plots RESULTS.json ... DIR`.

Needs matplotlib (`pip install -e '.[bench]'`). A run may be in pieces, a file each: of a line that
is in several the last one counts. It also says how each curve grows: the first and the last figure,
and the power of the size that it grows with (`figures.exponent`).
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.figures import exponent, family

COLOURS = {
    "hub": "#c0392b",
    "hub, POST each": "#e59866",
    "hub, fsync never": "#f1b6ad",
    "bare gunicorn": "#7f8c8d",
    "bare gevent": "#34495e",
    "nchan, 1 worker": "#2e86c1",
    "nchan, 2 workers": "#85c1e9",
    "redis": "#27ae60",
    "redis XRANGE": "#27ae60",
    "nginx": "#2e86c1",
}


class Picture(NamedTuple):
    """One picture: how a figure of a workload grows along its axis."""

    workload: str
    unit: str
    axis: str
    title: str
    cases: str = ""  # only those of which the name has this in it


PICTURES = {
    "publish": Picture("publish", "events/s", "connections", "Publish, 128 B, fsync always"),
    "channels": Picture("channels", "events/s", "channels", "Publish to many channels"),
    "channels-new": Picture("channels", "events/s, new", "channels", "First event of each channel"),
    "closing": Picture("closing", "events/s", "connections", "Publish, 1000 B, files closed"),
    "nginx": Picture("nginx", "events/s", "connections", "Publish through nginx, http", "http"),
    "fan-out-128": Picture("fan-out", "deliveries/s", "subscribers", "Fan-out, 128 B", "128 B"),
    "fan-out-692": Picture("fan-out", "deliveries/s", "subscribers", "Fan-out, 692 B", "692 B"),
    "latency": Picture("latency", "ms p99", "subscribers", "Latency p99 at 200 events/s"),
    "latency-p50": Picture("latency", "ms p50", "subscribers", "Latency p50 at 200 events/s"),
    "idle": Picture("idle", "bytes each", "subscribers", "Memory of an idle subscriber"),
    "return": Picture("return", "s", "followers", "Back after a restart"),
    "retry": Picture("retry", "s", "followers", "A stop that tells all followers"),
    "replay": Picture("replay", "events/s", "MB", "Replay as SSE", "sse"),
    "download": Picture("download", "MB/s", "MB", "Download"),
    "resume": Picture("resume", "ms warm", "MB", "A place near the end, known, warm"),
    "resume-cold": Picture("resume", "ms cold", "MB", "A place near the end, no index"),
    "history": Picture("history", "ms id", "MB", "A place by id, after a start", "segments"),
    "zones": Picture("zones", "ms", "MB", "A time near the end, no index"),
    "engine": Picture("engine", "events/s", "connections", "Publish, on engines", "connection"),
    "engine-hubs": Picture("engine-hubs", "events/s", "hubs", "Several hubs on an engine"),
    "start": Picture("start", "ms", "files", "Start to first answer"),
    "upload": Picture("upload", "MB more", "MB", "Memory during one chunked body"),
    "ingest": Picture("ingest", "events/s", "bytes of an event", "Ingest, one connection"),
}


class Point(NamedTuple):
    """A figure of one size."""

    size: float
    median: float
    least: float
    most: float


Curves = dict[str, list[Point]]


def joined(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one report with the lines of all; the last one counts of those that are the same."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for report in reports:
        for line in report["results"]:
            key = tuple(line[name] for name in ("workload", "case", "subject", "unit"))
            lines[key] = line
    return {"results": list(lines.values())}


def draw(report: dict[str, Any], folder: Path) -> None:
    """Draw every picture for which the report has at least two points; say if it cannot."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is not installed (pip install -e '.[bench]')")
        return
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        curves = points(report["results"], picture)
        if any(len(curve) > 1 for curve in curves.values()):
            draw_one(picture, curves, folder / f"{name}.png")


def points(lines: list[dict[str, Any]], picture: Picture) -> Curves:
    """Return the curves of a picture by name: the subject, the kind of case, or both."""
    wanted = [
        line
        for line in lines
        if (line["workload"], line["unit"]) == picture[:2] and picture.cases in line["case"]
    ]
    kinds = {family(line["case"], line["size"]) for line in wanted}
    subjects = {line["subject"] for line in wanted}
    curves: Curves = {}
    for line in wanted:
        kind = family(line["case"], line["size"]) if len(kinds) > 1 else ""
        subject = line["subject"] if len(subjects) > 1 or not kind else ""
        curves.setdefault(", ".join(filter(None, (subject, kind))), []).append(
            Point(line["size"], line["median"], min(line["values"]), max(line["values"]))
        )
    return {name: sorted(curve) for name, curve in curves.items()}


def power(curve: list[Point]) -> float | None:
    """Return the exponent of a curve, None if it has none."""
    return exponent([(point.size, point.median) for point in curve])


def draw_one(picture: Picture, curves: Curves, path: Path) -> None:
    """Draw a picture with the spread as bars, logarithmic where figures differ much."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), dpi=80, layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        sizes, medians, least, most = zip(*curve, strict=True)
        below = [middle - low for middle, low in zip(medians, least, strict=True)]
        above = [high - middle for middle, high in zip(medians, most, strict=True)]
        grows = power(curve)
        axes.errorbar(
            sizes, medians, [below, above],
            label=name if grows is None else f"{name}: {grows:+.2f}", color=COLOURS.get(name),
            marker="o", markersize=4, capsize=2, linewidth=2 if name == "hub" else 1.2,
        )  # fmt: skip
    axes.set(xscale="log", xlabel=picture.axis, ylabel=picture.unit)
    figures = [point.median for curve in curves.values() for point in curve]
    if max(figures) > 10 * min(figures):
        axes.set(yscale="log")
    else:
        axes.set(ylim=(0, None))
    axes.set_title(f"{picture.title} (and exponents)", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.savefig(path, pil_kwargs={"optimize": True})


def table(report: dict[str, Any]) -> str:
    """Return how each curve grows, a line of a Markdown table for each."""
    rows = ["| picture | curve | from | to | exponent |", "| --- | --- | --- | --- | --- |"]
    for name, picture in PICTURES.items():
        for curve, of_sizes in points(report["results"], picture).items():
            grows = power(of_sizes)
            if grows is not None:
                ends = " | ".join(
                    f"{_shown(point.median)} {picture.unit} at {point.size:g}"
                    for point in (of_sizes[0], of_sizes[-1])
                )
                rows.append(f"| {name} | {curve} | {ends} | {grows:.2f} |")
    return "\n".join(rows)


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


if __name__ == "__main__":
    run = joined([json.loads(Path(name).read_text()) for name in sys.argv[1:-1]])
    draw(run, Path(sys.argv[-1]))
    print(table(run))
