"""A sample, a case, and what is said about them. Knows nothing of hubs or processes.

A *case* is one point of a workload (100 connections) with its *subjects*: the hub first, then
whatever it is held against. A *take* measures one subject once and returns a *sample*. The
subjects take turns in every round, A B A B, so that a noisy machine is noisy for all of them,
and the ratio of a line is the median of the rounds' ratios.
"""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import log
from statistics import linear_regression, median
from typing import Any


@dataclass
class Sample:
    """What one take has measured."""

    figures: dict[str, float]  # unit -> value: {"events/s": 9800.0}
    server: float = 0.0  # CPU of the server's processes, in cores
    generator: float = 0.0  # likewise of publishers, subscribers and this process
    # Where subscribers check what comes: how many events they got, all of them together, how
    # many they did not get, and how many again.
    received: int = 0
    lost: int = 0
    twice: int = 0


Take = Callable[[], Sample]


@dataclass(frozen=True)
class Case:
    """One point of a workload."""

    name: str
    size: int  # where the point is on the workload's axis
    takes: dict[str, Take]  # by subject


# What a workload is: its servers run until the last of its cases is measured, or it is closed.
Cases = Generator[Case, None, None]


@dataclass
class Line:
    """One figure of one subject in one case: a line of the table."""

    workload: str
    case: str
    size: int
    subject: str
    unit: str
    values: list[float]
    server: float
    generator: float
    received: int = 0
    lost: int = 0
    twice: int = 0
    # The hub's figure divided by this one: None for the hub itself.
    hub_ratio: float | None = None

    @property
    def median(self) -> float:
        """The middle one of the values."""
        return median(self.values)

    @property
    def spread(self) -> float:
        """How far the values lie apart, as a share of their median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return everything about the line."""
        return {**vars(self), "median": self.median, "spread": self.spread}


def measure(workload: str, case: Case, rounds: int) -> tuple[list[Line], list[str]]:
    """Let the subjects of a case take turns; return a line for each figure of each.

    A subject that fails (`RuntimeError`) gets no line, and no further turn; why is returned, too.
    """
    samples: dict[str, list[Sample]] = {subject: [] for subject in case.takes}
    failures = {}
    for _ in range(rounds):
        for subject, take in case.takes.items():
            if subject not in failures:
                try:
                    samples[subject].append(take())
                except RuntimeError as error:
                    failures[subject] = f"{workload}, {case.name}, {subject}: {error}"
    first = next(iter(case.takes))
    whole = {subject: taken for subject, taken in samples.items() if subject not in failures}
    units = next(iter(whole.values()))[0].figures if whole else {}
    lines = []
    for unit in units:
        for subject, taken in whole.items():
            line = Line(
                workload, case.name, case.size, subject, unit,
                values=[sample.figures[unit] for sample in taken],
                server=median(sample.server for sample in taken),
                generator=median(sample.generator for sample in taken),
                received=sum(sample.received for sample in taken),
                lost=sum(sample.lost for sample in taken),
                twice=sum(sample.twice for sample in taken),
            )  # fmt: skip
            if subject != first and first in whole and all(line.values):
                line.hub_ratio = median(
                    ours.figures[unit] / theirs.figures[unit]
                    for ours, theirs in zip(whole[first], taken, strict=True)
                )
            lines.append(line)
    return lines, list(failures.values())


HEAD = (
    f"{'':26}{'':20}{'median':>12} {'unit':18}{'spread':>7}{'hub is ×':>10}{'server':>8}{'load':>6}"
)


def row(line: Line, first: bool) -> str:
    """Return a line of the table; only the `first` one of a case carries its name."""
    name = line.case if first else ""
    digits = 0 if line.median >= 1000 else 1 if line.median >= 10 else 2
    ratio = "" if line.hub_ratio is None else f"{line.hub_ratio:.2f}"
    text = (
        f"{name:26}{line.subject:20}{line.median:12,.{digits}f} {line.unit:18}"
        f"{line.spread:7.0%}{ratio:>10}{line.server:8.0%}{line.generator:6.0%}"
    )
    if line.generator > 0.9 and line.server < 0.9:
        text += "  the load generator was the bottleneck"
    if line.lost or line.twice:
        text += f"  {line.received:,} received, {line.lost:,} LOST, {line.twice:,} TWICE"
    elif first and line.received:
        text += f"  all {line.received:,} received, each once"
    return text


def growth(lines: list[Line]) -> list[str]:
    """Return how the first subject's figures grow from the smallest size to the largest one."""
    series: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.subject == lines[0].subject:
            series.setdefault((family(line.case, line.size), line.unit), []).append(line)
    said = []
    for (common, unit), of_sizes in series.items():
        least, most = of_sizes[0], of_sizes[-1]
        if least.size < most.size and least.median:
            name = ", ".join(filter(None, (least.subject, common, unit)))
            times = most.median / least.median
            power = exponent([(line.size, line.median) for line in of_sizes])
            text = f"{name}: × {times:.2f} from {least.size} to {most.size}"
            said.append(text if power is None else f"{text}, exponent {power:.2f}")
    return said


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the power of the size that a figure grows with: 1 is as the size, 0 not at all.

    `points` are (size, figure); the slope of the best line through their logarithms. None if there
    are fewer than two sizes, or a figure is not positive.
    """
    if len({size for size, _ in points}) < 2 or min(figure for _, figure in points) <= 0:
        return None
    sizes, figures = zip(*((log(size), log(figure)) for size, figure in points), strict=True)
    return linear_regression(sizes, figures).slope


def family(case: str, size: int) -> str:
    """Return what the name of a case has in common with those of other sizes; it may be nothing."""
    return re.sub(rf"\b{size} \w+(, )?", "", case, count=1).removesuffix(", ")
