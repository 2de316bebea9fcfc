"""How far two versions agree: of one input, and of all so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitruvian.inference.predictor import Prediction
from vitruvian.intervals import wilson

OTHER = "(other)"
"""What stands for both classes of a pair that came after the most pairs were known."""
_MOST_PAIRS = 100
_DIGITS = 6


def difference(one: Prediction, other: Prediction) -> float:
    """Return the largest difference of a label's probability, 0 for a label that a version doesn't know."""
    if one.labels == other.labels:
        return float(np.abs(one.probabilities - other.probabilities).max())
    mine, theirs = dict(one.ranked()), dict(other.ranked())
    return max(abs(mine.get(label, 0.0) - theirs.get(label, 0.0)) for label in mine | theirs)


@dataclass
class Agreement:
    """What came of the inputs that the challenger was to answer after the champion did."""

    same: int = 0
    different: int = 0
    failed: int = 0
    """The challenger had no answer."""
    dropped: int = 0
    """The challenger wasn't asked: too many waited."""
    largest: float = 0.0
    """The largest difference of a probability."""
    total: float = 0.0
    """The sum of each input's largest difference."""
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often the champion's answer was one label and the challenger's another."""

    def add(self, champion: Prediction, challenger: Prediction) -> tuple[float, tuple[str, str] | None]:
        """Count two answers to one input; return their difference, and the pair that they count for if they differ."""
        apart = difference(champion, challenger)
        self.largest = max(self.largest, apart)
        self.total += apart
        pair = (champion.label, challenger.label)
        if pair[0] == pair[1]:
            self.same += 1
            return apart, None
        self.different += 1
        if pair not in self.pairs and len(self.pairs) >= _MOST_PAIRS:
            pair = (OTHER, OTHER)
        self.pairs[pair] += 1
        return apart, pair

    def told(self) -> dict[str, Any]:
        """Return all of it for JSON; the share that agrees with its 95 % interval."""
        samples = self.same + self.different
        return {
            "samples": samples,
            "same": self.same,
            "different": self.different,
            "failed": self.failed,
            "dropped": self.dropped,
            "agreement": _share(self.same, samples) if samples else None,
            "largest_difference": round(self.largest, _DIGITS),
            "mean_difference": round(self.total / samples, _DIGITS) if samples else None,
            "confusion": [
                {"champion": champion, "challenger": challenger, "count": count}
                for (champion, challenger), count in self.pairs.most_common()
            ],
        }


def _share(hits: int, n: int) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {"share": round(hits / n, _DIGITS), "low": round(low, _DIGITS), "high": round(high, _DIGITS)}
