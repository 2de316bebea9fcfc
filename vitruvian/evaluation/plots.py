"""Pictures of a run: training curves, confusion matrix, accuracy of each class.

Every picture is a figure of its own, without pyplot and its windows. Like all of matplotlib, one thread at a time.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vitruvian.spec import Select
from vitruvian.training.job import chosen_epoch

INK = "#1f2328"
"""The colour of words; `svg` makes it the surrounding page's own, so that a dark page stays readable."""
FAINT = "#8b949e"
BLUE = "#2f6fdb"
ORANGE = "#e8833a"
_SHADES = LinearSegmentedColormap.from_list("shades", [(0.184, 0.435, 0.859, 0.0), (0.184, 0.435, 0.859, 1.0)])


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG on white."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element for a web page: no background, words in the page's colour."""
    out = io.StringIO()
    # Without the salt and the date, the same numbers would give another file each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vitruvian"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def curves(epochs: Sequence[Mapping[str, float]], select: Select = "best") -> Figure:
    """Draw loss and accuracy over the epochs, the one whose weights were taken marked.

    An epoch's record holds epoch, trainLoss, trainAccuracy, validationLoss and validationAccuracy.
    """
    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    x = [record["epoch"] for record in epochs]
    chosen = epochs[chosen_epoch(epochs, select)]
    for axes, title, train, validation in (
        (loss, "Loss", "trainLoss", "validationLoss"),
        (accuracy, "Accuracy", "trainAccuracy", "validationAccuracy"),
    ):
        marker = "o" if len(epochs) < 3 else None
        axes.plot(x, [r[train] for r in epochs], color=FAINT, linewidth=1.6, marker=marker, label="training")
        axes.plot(x, [r[validation] for r in epochs], color=BLUE, linewidth=2, marker=marker, label="validation")
        axes.axvline(chosen["epoch"], color=ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        dot = {"color": ORANGE, "markersize": 6.5, "zorder": 3, "label": f"{select} epoch"}
        axes.plot([chosen["epoch"]], [chosen[validation]], "o", **dot)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.8)
        _plain(axes)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    loss.set_ylim(bottom=0)
    loss.legend(frameon=False, labelcolor=INK, fontsize=9)
    words = f"epoch {chosen['epoch']:.0f}: {chosen['validationAccuracy']:.1%}"
    late = chosen["epoch"] > (x[0] + x[-1]) / 2
    accuracy.annotate(
        words,
        (chosen["epoch"], chosen["validationAccuracy"]),
        xytext=(-8 if late else 8, -24),
        textcoords="offset points",
        ha="right" if late else "left",
        color=INK,
        fontsize=9,
    )
    return figure


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Draw counts, a row for each true class, shaded by their share of the row."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(labels)
    longest = max(map(len, labels))
    slanted = k > 5 or longest > 8
    cell, beside = (0.52 if k <= 12 else 0.42), 0.55 + 0.075 * longest
    figure = Figure(figsize=(beside + cell * k, cell * k + (beside * 0.75 if slanted else 0.6)), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(shares, cmap=_SHADES, vmin=0, vmax=1, edgecolors=FAINT + "40", linewidth=0.6)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.55 else INK
            size = 9.5 if count < 1000 else 7.5
            axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", color=color, fontsize=size)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xticks(np.arange(k) + 0.5, labels, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    for word in axes.get_xticklabels():
        word.set_rotation_mode("anchor")
    axes.set_yticks(np.arange(k) + 0.5, labels)
    axes.set_xlabel("predicted", color=INK, fontweight="bold")
    axes.set_ylabel("true", color=INK, fontweight="bold")
    _plain(axes, spines=False)
    return figure


def per_class(labels: Sequence[str], accuracies: Sequence[float], support: Sequence[int]) -> Figure:
    """Draw the share of each class's examples that were recognised, the best class on top."""
    order = sorted(range(len(labels)), key=lambda i: (accuracies[i], labels[i]))
    values = [accuracies[i] for i in order]
    mean = float(np.mean(accuracies))
    figure = Figure(figsize=(10.5, 1.0 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    colors = [ORANGE if value == values[0] and value < values[-1] else BLUE for value in values]
    axes.barh(range(len(order)), values, height=0.66, color=colors)
    axes.axvline(mean, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"mean {mean:.1%}",
        (mean, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=INK,
        fontsize=9,
    )
    for y, i in enumerate(order):
        axes.text(1.015, y, f"{accuracies[i]:.1%}", va="center", color=INK, fontsize=9.5)
        axes.text(1.11, y, f"n = {support[i]}", va="center", color=FAINT, fontsize=9)
    axes.set_xlim(0, 1.18)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_yticks(range(len(order)), [labels[i] for i in order])
    axes.set_xlabel("accuracy", color=INK)
    axes.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.8)
    axes.set_axisbelow(True)
    _plain(axes, spines=False)
    return figure


def _plain(axes: Axes, *, spines: bool = True) -> None:
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    if spines:
        axes.spines["bottom"].set_visible(True)
        axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=9.5, labelcolor=INK)
    for word in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        # A class named '$x$' is no formula.
        word.set_parse_math(False)
