"""Pictures of a run, small PNG files: `python -m bench.plots RESULTS.json DIR`.

Needs matplotlib (`pip install -e '.[bench]'`).
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
    cases: str  # only cases that end so
    axis: str
    title: str


PICTURES = {
    "publish": Picture("publish", "events/s", "", "connections", "Publish, 128 B, fsync always"),
    "channels": Picture("channels", "events/s", "", "channels", "Publish to many channels"),
    "fan-out-128": Picture("fan-out", "deliveries/s", "128 B", "subscribers", "Fan-out, 128 B"),
    "fan-out-692": Picture("fan-out", "deliveries/s", "692 B", "subscribers", "Fan-out, 692 B"),
    "latency": Picture("latency", "ms p99", "", "subscribers", "Latency p99 at 200 events/s"),
    "idle": Picture("idle", "bytes each", "", "subscribers", "Memory of an idle subscriber"),
    "download": Picture("download", "MB/s", "", "MB", "Download"),
    "resume": Picture("resume", "ms warm", "", "MB", "Resume near the end, warm"),
    "resume-cold": Picture("resume", "ms cold", "", "MB", "Resume near the end, after the start"),
    "start": Picture("start", "ms", "", "files", "Start to first answer"),
}


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


def points(
    lines: list[dict[str, Any]], picture: Picture
) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return the curves of a picture by name: size, median, least and most."""
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for line in lines:
        if (line["workload"], line["unit"]) == picture[:2] and line["case"].endswith(picture.cases):
            name = line["subject"]
            if line["workload"] == "resume":
                name = line["case"].partition(",")[0]
            curves.setdefault(name, []).append(
                (line["size"], line["median"], min(line["values"]), max(line["values"]))
            )
    return {name: sorted(curve) for name, curve in curves.items()}


def draw_one(
    picture: Picture, curves: dict[str, list[tuple[float, float, float, float]]], path: Path
) -> None:
    """Draw a picture with the spread as bars, logarithmic where figures differ much."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        sizes, medians, least, most = zip(*curve, strict=True)
        below = [middle - low for middle, low in zip(medians, least, strict=True)]
        above = [high - middle for middle, high in zip(medians, most, strict=True)]
        axes.errorbar(
            sizes, medians, [below, above], label=name, color=COLOURS.get(name),
            marker="o", markersize=4, capsize=2, linewidth=2 if name == "hub" else 1.2,
        )  # fmt: skip
    axes.set(xscale="log", xlabel=picture.axis, ylabel=picture.unit)
    figures = [point[1] for curve in curves.values() for point in curve]
    if max(figures) > 10 * min(figures):
        axes.set(yscale="log")
    else:
        axes.set(ylim=(0, None))
    axes.set_title(picture.title, fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.savefig(path, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
