"""Holding an exported model against the trained one, on every example of the test part."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vitruvian.bundle import ExportRecord
from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.errors import ExportError
from vitruvian.inference.engine import EXACT, Engine
from vitruvian.inference.predictor import softmax

TOLERANCE = 1e-3
BATCH = 32


def measure(
    format: str,
    path: str,
    engine: Engine,
    prepared: Prepared,
    part: PreparedPart,
    trained: NDArray[np.float32],
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[ExportRecord, NDArray[np.float32]]:
    """Return what an export answers, (n, classes), and how it compares with the trained model's probabilities."""
    rows, seconds = [], 0.0
    for start in range(0, len(part), BATCH):
        indices = np.arange(start, min(start + BATCH, len(part)))
        inputs = prepared.preprocess.tensor(part.gather(indices))
        began = time.perf_counter()
        logits = engine.run(inputs)
        seconds += time.perf_counter() - began
        rows.append(softmax(logits))
        advance(len(indices))
    answers = np.concatenate(rows)
    record = ExportRecord(
        format=format,
        path=path,
        max_difference=float(np.abs(answers - trained).max()),
        top1_agreement=float((answers.argmax(1) == trained.argmax(1)).mean()),
        accuracy=float((answers.argmax(1) == part.labels).mean()),
        seconds_per_image=seconds / len(part),
    )
    return record, answers


def choose(records: list[ExportRecord], accuracy: float, accuracy_drop: float) -> ExportRecord:
    """Return the fastest export that keeps the accuracy; raises `ExportError` with a line for each that doesn't."""
    reasons = []
    good = []
    for record in records:
        drop = accuracy - record.accuracy
        if record.format in EXACT and not record.max_difference <= TOLERANCE:
            reasons.append(
                f"export {record.format}: a probability differs by {record.max_difference:.2g} from the trained model, "
                f"more than {TOLERANCE:g}; export again, or report this"
            )
        elif drop > accuracy_drop + 1e-9:
            reasons.append(
                f"export {record.format}: loses {drop:.4f} of accuracy, more than {accuracy_drop:g}; "
                "raise export.accuracyDrop or choose another format"
            )
        else:
            good.append(record)
    if not good:
        raise ExportError("\n".join(reasons))
    return min(good, key=lambda record: record.seconds_per_image)
