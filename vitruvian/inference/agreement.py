"""How far two versions agree: of one input, and of all so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from prometheus_client.samples import Sample

from vitruvian.inference.predictor import Prediction
from vitruvian.intervals import wilson
from vitruvian.observability import metrics as names

_DIGITS = 6


def difference(one: Prediction, other: Prediction) -> float:
    """Return the largest difference of a label's probability, which is 0 for a label that a version doesn't know."""
    if one.labels == other.labels:
        return float(np.abs(one.probabilities - other.probabilities).max())
    mine, theirs = dict(one.ranked()), dict(other.ranked())
    return max(abs(mine.get(label, 0.0) - theirs.get(label, 0.0)) for label in mine | theirs)


def agreement(samples: Iterable[Sample]) -> dict[str, Any]:
    """Return for JSON what a server's metrics tell of its challenger; the share that agrees with its 95 % interval."""
    counts = dict.fromkeys(names.AGREEMENTS, 0)
    confusion: Counter[tuple[str, str]] = Counter()
    apart = 0.0
    for sample in samples:
        if sample.name == names.SHADOW.name:
            counts[sample.labels["agreement"]] += int(sample.value)
        elif sample.name == names.SHADOW_CONFUSION.name:
            confusion[sample.labels["champion_class"], sample.labels["class"]] += int(sample.value)
        elif sample.name == f"{names.SHADOW_DIFFERENCE.name}_sum":
            apart += sample.value
    compared = counts["same"] + counts["different"]
    return {
        "samples": compared,
        **counts,
        "agreement": _share(counts["same"], compared) if compared else None,
        "mean_difference": round(apart / compared, _DIGITS) if compared else None,
        "confusion": [
            {"champion": champion, "challenger": challenger, "count": count}
            for (champion, challenger), count in confusion.most_common()
        ],
    }


def _share(hits: int, n: int) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {"share": round(hits / n, _DIGITS), "low": round(low, _DIGITS), "high": round(high, _DIGITS)}
