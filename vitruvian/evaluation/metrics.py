"""What is measured on a test part, from true labels and predicted probabilities."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from vitruvian import intervals
from vitruvian.errors import DataError, TrainingError

_CALIBRATION_BINS = 15
_CONFUSED_PAIRS = 10


class _Record(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True)


class ClassMetrics(_Record):
    """How well one class is recognised, all from 0 to 1."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Its examples in the test part."""

    @property
    def accuracy(self) -> float:
        """The share of its examples that were recognised, which is its recall."""
        return self.recall


class ConfusedPair(_Record):
    """Examples of one class that were taken for another."""

    truth: str
    predicted: str
    count: int
    share: float
    """Of the true class's examples."""


class Interval(_Record):
    """Where a value lies with 95 % confidence."""

    low: float
    high: float


class Metrics(_Record):
    """What was measured on one test part."""

    examples: int
    accuracy: float
    accuracy_interval: Interval
    """Wilson's score interval."""
    precision: float
    """Mean over the classes, weighted by support; so are recall and f1."""
    recall: float
    f1: float
    balanced_accuracy: float
    """The mean recall of the classes."""
    worst_class_recall: float
    worst_class: str
    log_loss: float
    """Mean negative logarithm of the true class's probability, in nats."""
    calibration_error: float
    """Expected difference of confidence and accuracy, over 15 bins of confidence."""
    classes: tuple[ClassMetrics, ...]
    """In the order of the labels."""
    confusion: tuple[tuple[int, ...], ...]
    """Counts: a row for each true class, a column for each predicted one."""
    most_confused: tuple[ConfusedPair, ...]
    """The largest first, ten at most."""

    def headline(self) -> dict[str, float]:
        """Return the values that gates can name."""
        return {
            "accuracy": self.accuracy,
            "balancedAccuracy": self.balanced_accuracy,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "worstClassRecall": self.worst_class_recall,
        }

    def measured(self) -> dict[str, float]:
        """Return every single number, as trackers name them."""
        return {_snake(name): value for name, value in self.headline().items()} | {
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
        }


def measure(truth: NDArray[np.integer], probabilities: NDArray[np.floating], labels: Sequence[str]) -> Metrics:
    """Measure predictions, (n, classes) of probabilities, against true labels, (n,) of indices into `labels`.

    Agrees with scikit-learn's metrics, with 0 for a precision without predictions. Classes without examples count
    neither as the worst class nor in the balanced accuracy. Raises `DataError` where there are no examples and
    `TrainingError` where a probability isn't a number.
    """
    n, k = len(truth), len(labels)
    if probabilities.shape != (n, k):
        raise ValueError(f"{n} labels of {k} classes need probabilities of shape {(n, k)}, not {probabilities.shape}")
    if n == 0:
        raise DataError("there are no examples to measure", where="test", hint="enlarge data.testSize or add examples")
    if not np.isfinite(probabilities).all():
        hint = "training has diverged: lower training.learningRate and train again"
        raise TrainingError("the model answers with values that aren't numbers", hint=hint)

    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k)
    hits, support = confusion.diagonal(), confusion.sum(axis=1)
    precision, recall = _share(hits, confusion.sum(axis=0)), _share(hits, support)
    f1 = _share(2 * hits, support + confusion.sum(axis=0))
    present = np.flatnonzero(support)
    worst = int(present[recall[present].argmin()])
    correct = int(hits.sum())
    return Metrics(
        examples=n,
        accuracy=correct / n,
        accuracy_interval=wilson(correct, n),
        precision=float(precision @ support / n),
        recall=float(recall @ support / n),
        f1=float(f1 @ support / n),
        balanced_accuracy=float(recall[present].mean()),
        worst_class_recall=float(recall[worst]),
        worst_class=labels[worst],
        log_loss=log_loss(truth, probabilities),
        calibration_error=calibration_error(truth, probabilities),
        classes=tuple(
            ClassMetrics(label=label, precision=p, recall=r, f1=f, support=s)
            for label, p, r, f, s in zip(
                labels, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True
            )
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        most_confused=_most_confused(confusion, labels),
    )


def wilson(correct: int, n: int) -> Interval:
    """Return Wilson's 95 % interval of a share; unlike a bootstrap's, it has a width where all or none are correct."""
    low, high = intervals.wilson(correct, n)
    return Interval(low=low, high=high)


def log_loss(truth: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Return the mean negative logarithm of the true class's probability, in nats."""
    # The smallest step of float32: a probability that was rounded to zero must not cost infinity.
    least = float(np.finfo(np.float32).eps)
    given = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(given.clip(least, 1.0)).mean())


def calibration_error(
    truth: NDArray[np.integer], probabilities: NDArray[np.floating], bins: int = _CALIBRATION_BINS
) -> float:
    """Return the expected calibration error over equally wide bins of confidence.

    Source: C. Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == truth
    chosen = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(chosen, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(truth))


def _snake(name: str) -> str:
    """Return worst_class_recall for worstClassRecall; pydantic's to_snake would make f_1 of f1."""
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)


def _most_confused(confusion: NDArray[np.int64], labels: Sequence[str]) -> tuple[ConfusedPair, ...]:
    wrong = confusion - np.diag(confusion.diagonal())
    support = confusion.sum(axis=1)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSED_PAIRS]
    cells = [divmod(int(cell), len(labels)) for cell in largest]
    return tuple(
        ConfusedPair(truth=labels[t], predicted=labels[p], count=int(wrong[t, p]), share=wrong[t, p] / support[t])
        for t, p in cells
        if wrong[t, p]
    )
