"""The picture of a study: validation and test accuracy of every variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vitruvian.evaluation.plots import BLUE, FAINT, INK, ORANGE
from vitruvian.study.results import Outcome, Row
from vitruvian.variants import SEEDS, Axis, names, shown

_LINES = (BLUE, ORANGE, "#1a7f4b", "#8250df", "#c0362c", "#59636e")


def picture(found: Sequence[Row], axes: Sequence[Axis]) -> Figure:
    """Draw accuracies over the first field of numbers, a line for each combination of the others; else a list.

    Bars are the standard deviation over seeds, or the test accuracy's 95 % interval where there is one run.
    """
    drawn = [row for row in found if row.outcomes]
    varied = [axis for axis in axes if axis.path not in SEEDS]
    along = next((axis for axis in varied if len(axis.values) > 1 and all(map(_is_number, axis.values))), None)
    lines: dict[str, list[Row]] = {}
    for row in drawn:
        others = {path: value for path, value in row.values.items() if along is None or path != along.path}
        lines.setdefault(_words(others), []).append(row)
    if along is None or not drawn or len(lines) > len(_LINES):
        return _listed(drawn)
    return _along(along, lines)


def _along(axis: Axis, lines: dict[str, list[Row]]) -> Figure:
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for color, (words, of_line) in zip(_LINES, lines.items(), strict=False):
        ordered = sorted(of_line, key=lambda row: float(row.values[axis.path]))
        x = [float(row.values[axis.path]) for row in ordered]
        label = f"{words}: " if words else ""
        _points(axes, x, ordered, "validation", label, color)
        _points(axes, x, ordered, "test", label, color if words else ORANGE)
    positive = [float(value) for value in axis.values if value > 0]
    if len(positive) == len(axis.values) and max(positive) / min(positive) >= 100:
        axes.set_xscale("log")
    axes.set_xticks([float(value) for value in axis.values], [shown(value) for value in axis.values])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
    axes.set_xlabel(axis.path, color=INK)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    _plain(axes)
    return figure


def _points(axes: Axes, x: list[float], ordered: list[Row], part: str, label: str, color: str) -> ErrorbarContainer:
    middle, around = _measured(ordered, part)
    style = {"linestyle": "-", "marker": "o"} if part == "validation" else {"linestyle": (0, (4, 3)), "marker": "s"}
    return axes.errorbar(
        x, middle, yerr=around, color=color, linewidth=1.8, capsize=3, elinewidth=1, label=f"{label}{part}", **style
    )


def _listed(found: list[Row]) -> Figure:
    figure = Figure(figsize=(10.5, 1.2 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(found))
    for part, color, marker, shift in (("validation", BLUE, "o", -0.12), ("test", ORANGE, "s", 0.12)):
        middle, around = _measured(found, part)
        axes.errorbar(middle, y + shift, xerr=around, color=color, fmt=marker, capsize=3, elinewidth=1, label=part)
    axes.set_yticks(y, [_words(row.values) for row in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.02), min(high, 1.02))
    axes.set_xlabel("accuracy", color=INK)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    _plain(axes)
    return figure


def _measured(found: Sequence[Row], part: str) -> tuple[list[float], Any]:
    """Return the accuracies, and how far each reaches down and up, (2, rows)."""

    def of(outcome: Outcome) -> float:
        return outcome.validation_accuracy if part == "validation" else outcome.accuracy

    middle, around = [], []
    for row in found:
        spread = row.over_seeds(of)
        middle.append(spread.mean)
        if spread.deviation is not None:
            around.append((spread.deviation, spread.deviation))
        elif part == "test":
            (outcome, *_) = row.outcomes
            around.append((outcome.accuracy - outcome.low, outcome.high - outcome.accuracy))
        else:
            around.append((0.0, 0.0))
    return middle, np.asarray(around).reshape(-1, 2).T


def _words(values: Any) -> str:
    short = names(list(values))
    return ", ".join(f"{short[path]} {shown(value)}" for path, value in values.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9.5, labelcolor=INK)
    for word in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        word.set_parse_math(False)
