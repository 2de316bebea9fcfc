"""Holding an exported model against the trained one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitruvian.bundle import ExportRecord
from vitruvian.errors import ExportError
from vitruvian.export.formats import SERVABLE
from vitruvian.inference.choice import seconds_per_image
from vitruvian.inference.engine import EXACT, Engine
from vitruvian.inference.predictor import Head, softmax

TOLERANCE = 1e-3
BATCH = 32

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Examples:
    """Some inputs, read as they are needed, and what they show."""

    tensors: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    """From indices to inputs (n, *shape) as the model takes them."""
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """Yield all inputs in order, some at a time."""
        for start in range(0, len(self), BATCH):
            yield self.tensors(np.arange(start, min(start + BATCH, len(self))))


@dataclass(frozen=True)
class Trained:
    """What the trained model says of examples: logits (n, classes)."""

    examples: Examples
    logits: NDArray[np.float32]

    @property
    def accuracy(self) -> float:
        """The share that it says right; not a number without examples."""
        return _share(self.logits.argmax(1) == self.examples.labels)


def first_inputs(trained: Trained) -> NDArray[np.float32]:
    """Return what is timed with."""
    return trained.examples.tensors(np.arange(min(8, len(trained.examples))))


def logits_of(engine: Engine, head: Head | None, trained: Trained, advance: Advance) -> NDArray[np.float32]:
    """Return what an export says of examples: logits (n, classes)."""
    rows = [trained.logits[:0]]
    for batch in trained.examples.batches():
        rows.append(_logits(engine, head, batch))
        advance(len(batch))
    return np.concatenate(rows)


def _logits(engine: Engine, head: Head | None, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    outputs = engine.run(batch)
    return outputs if head is None else head.logits(outputs)


def measure(
    format: str,
    path: Path,
    folder: Path,
    engine: Engine,
    head: Head | None,
    validation: Trained,
    test: Trained,
    golden: NDArray[np.float32],
    lanes: int,
    advance: Advance = lambda count: None,
) -> ExportRecord:
    """Return how an export compares with the trained model on the validation and test parts, and what it costs.

    `golden` is the golden example as the model takes it, (1, *shape).
    """
    chosen = logits_of(engine, head, validation, advance)
    tested = logits_of(engine, head, test, advance)
    difference = np.abs(softmax(tested) - softmax(test.logits)).max()
    return ExportRecord(
        format=format,
        path=path.relative_to(folder).as_posix(),
        max_difference=float(difference),
        top1_agreement=_share(tested.argmax(1) == test.logits.argmax(1)),
        accuracy=_share(tested.argmax(1) == test.examples.labels),
        seconds_per_image=seconds_per_image(engine, first_inputs(test), lanes),
        cosine=least_cosine(tested, test.logits),
        validation_accuracy=_share(chosen.argmax(1) == validation.examples.labels) if len(chosen) else None,
        size=sum(file.stat().st_size for file in path.parent.iterdir()),
        golden=tuple(float(share) for share in softmax(_logits(engine, head, golden))[0]),
    )


def least_cosine(logits: NDArray[np.float32], trained: NDArray[np.float32]) -> float:
    """Return the least cosine between two models' logits for one input."""
    sizes = np.linalg.norm(logits, axis=1) * np.linalg.norm(trained, axis=1)
    return float(((logits * trained).sum(1) / np.maximum(sizes, 1e-30)).min())


def judged(records: Sequence[ExportRecord], validation: Trained, test: Trained, drop: float) -> list[ExportRecord]:
    """Return the records with whether each keeps the accuracy."""
    return [record.model_copy(update={"kept": not _fault(record, validation, test, drop)}) for record in records]


def choose(records: Sequence[ExportRecord], validation: Trained, test: Trained, drop: float) -> ExportRecord:
    """Return the fastest export that keeps the accuracy and that a server can run.

    Raises `ExportError` with a line for each that doesn't.
    """
    faults = [fault for record in records if (fault := _fault(record, validation, test, drop))]
    good = [record for record in records if record.kept and record.format in SERVABLE]
    if good:
        return min(good, key=lambda record: record.seconds_per_image)
    if not faults:
        formats = ", ".join(record.format for record in records)
        hint = f"add one of: {', '.join(sorted(SERVABLE))}"
        raise ExportError(f"no server can run {formats}", where="export.formats", hint=hint)
    raise ExportError("\n".join(faults))


def _fault(record: ExportRecord, validation: Trained, test: Trained, drop: float) -> str | None:
    """Return why an export may not be served; None where it may.

    It is held to the validation part, so that the test part stays what nothing was chosen by; to the test part where
    there is no other.
    """
    if record.format in EXACT and not record.max_difference <= TOLERANCE:
        return (
            f"export {record.format}: a probability differs by {record.max_difference:.2g} from the trained model, "
            f"more than {TOLERANCE:g}; export again, or report this"
        )
    if record.validation_accuracy is None:
        lost = test.accuracy - record.accuracy
    else:
        lost = validation.accuracy - record.validation_accuracy
    if not lost <= drop + 1e-9:
        return (
            f"export {record.format}: loses {lost:.4f} of accuracy, more than {drop:g}; "
            "raise export.accuracyDrop or choose another format"
        )
    return None


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else float("nan")
