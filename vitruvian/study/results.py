"""What a study found: runs, and rows that average over their seeds, the best by validation first."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitruvian.artifact import digest_of
from vitruvian.variants import SEEDS, Axis, names, shown


@dataclass(frozen=True)
class Outcome:
    """What was learnt and measured in one run."""

    validation_accuracy: float
    """Of the epoch whose weights were taken; so is the loss."""
    validation_loss: float
    epoch: int
    """The epoch whose weights were taken, from 1."""
    epochs: int
    """How many there were."""
    seconds: float
    """Of all epochs, with their validation."""
    accuracy: float
    """On the test part; so is all that follows."""
    low: float
    """With 95 % confidence the accuracy is not less; `high`: not more."""
    high: float
    worst_class: str
    worst_class_recall: float
    examples: int
    learnt: int
    """Parameters that training changes, of `parameters` in all."""
    parameters: int
    parts: str
    """Identifies the examples of the validation and the test part."""


@dataclass(frozen=True)
class Run:
    """One variant with one set of seeds: what came of it, or why nothing did."""

    values: Mapping[str, Any]
    outcome: Outcome | None
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """The mean of a value over seeds, and its standard deviation, which takes two of them."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """One variant, over all its seeds."""

    values: Mapping[str, Any]
    """Without the seeds."""
    runs: tuple[Run, ...]

    @property
    def outcomes(self) -> list[Outcome]:
        return [run.outcome for run in self.runs if run.outcome]

    @property
    def errors(self) -> list[str]:
        return [run.error for run in self.runs if not run.outcome]

    def over_seeds(self, value: Callable[[Outcome], float]) -> Spread:
        """Return a value's mean and sample standard deviation over the seeds that came to an end."""
        found = [value(outcome) for outcome in self.outcomes]
        return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)


def rows(runs: Sequence[Run]) -> list[Row]:
    """Gather runs that differ in seeds only: the best validation accuracy first, of equals the lower loss."""
    gathered: dict[str, list[Run]] = {}
    for run in runs:
        gathered.setdefault(digest_of(_without_seeds(run.values)), []).append(run)
    return sorted((Row(_without_seeds(same[0].values), tuple(same)) for same in gathered.values()), key=_rank)


def _without_seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if path not in SEEDS}


def _rank(row: Row) -> tuple[float, float]:
    if not row.outcomes:
        return (math.inf, 0.0)
    loss = row.over_seeds(lambda outcome: outcome.validation_loss).mean
    # A diverged training's loss is no number: it comes after every other.
    return (
        -row.over_seeds(lambda outcome: outcome.validation_accuracy).mean,
        math.inf if math.isnan(loss) else loss,
    )


def comparable(found: Sequence[Row]) -> bool:
    """Return whether all variants were measured on the same examples."""
    return len({tuple(sorted({outcome.parts for outcome in row.outcomes})) for row in found if row.outcomes}) <= 1


def table(runs: Sequence[Run], axes: Sequence[Axis]) -> str:
    """Return a CSV of all runs, with a column for each field that varies."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    short = names([axis.path for axis in axes])
    writer.writerow([*short.values(), *_COLUMNS, "error"])
    for run in runs:
        cells = [column(run.outcome) if run.outcome else "" for column in _COLUMNS.values()]
        writer.writerow([*(shown(run.values[path]) for path in short), *cells, run.error])
    return out.getvalue()


# In this order a terminal's columns are left out where there is no room for all.
LEAST_NEEDED = ("parameters", "best epoch", "trained", "seconds", "worst class", "test 95 %")

_COLUMNS: dict[str, Callable[[Outcome], str | int | float]] = {
    "validationAccuracy": lambda outcome: outcome.validation_accuracy,
    "validationLoss": lambda outcome: outcome.validation_loss,
    "bestEpoch": lambda outcome: outcome.epoch,
    "epochs": lambda outcome: outcome.epochs,
    "seconds": lambda outcome: outcome.seconds,
    "testAccuracy": lambda outcome: outcome.accuracy,
    "testAccuracyLow95": lambda outcome: outcome.low,
    "testAccuracyHigh95": lambda outcome: outcome.high,
    "testExamples": lambda outcome: outcome.examples,
    "worstClass": lambda outcome: outcome.worst_class,
    "worstClassRecall": lambda outcome: outcome.worst_class_recall,
    "trainedParameters": lambda outcome: outcome.learnt,
    "parameters": lambda outcome: outcome.parameters,
}


def columns(row: Row) -> dict[str, str]:
    """Return a row's values as people read them, by the heads of their columns; none of a row that failed."""
    outcomes = row.outcomes
    if not outcomes:
        return {}
    single = outcomes[0] if len(row.runs) == 1 else None
    worst = _percent(row.over_seeds(lambda outcome: outcome.worst_class_recall))
    interval = {"test 95 %": _interval(single.low, single.high)} if single else {}
    return {
        "val acc": _percent(row.over_seeds(lambda outcome: outcome.validation_accuracy)),
        "test acc": _percent(row.over_seeds(lambda outcome: outcome.accuracy)),
        **interval,
        "worst class": f"{worst} {single.worst_class}" if single else worst,
        "trained": f"{outcomes[0].learnt:,}",
        "parameters": f"{outcomes[0].parameters:,}",
        "seconds": f"{row.over_seeds(lambda outcome: outcome.seconds).mean:,.1f}",
        "best epoch": "/".join(str(outcome.epoch) for outcome in outcomes),
    }


def _interval(low: float, high: float) -> str:
    # Of many examples it is so narrow that whole percents don't tell its ends apart.
    digits = 0 if high - low >= 0.1 else 1
    return f"{100 * low:.{digits}f}-{100 * high:.{digits}f} %"


def _percent(spread: Spread) -> str:
    if spread.deviation is None:
        return f"{100 * spread.mean:.1f} %"
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f} %"
