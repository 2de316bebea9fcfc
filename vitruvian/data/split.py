"""Which examples learn, which choose and which judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitruvian.data.prepared import PARTS, PartName
from vitruvian.errors import DataError

_TRIES = 500


def split(
    labels: Sequence[str], groups: Sequence[str] | None, test_size: float, validation_size: float, seed: int
) -> dict[PartName, NDArray[np.int64]]:
    """Return the sorted indices of each part: the test first, then validation out of what is left.

    Classes keep their shares; with groups, no group is in two parts. Raises `DataError` where a part would lack a
    class.
    """
    everything = np.arange(len(labels))
    classes = np.asarray(labels)
    grouped = None if groups is None else np.asarray(groups)
    rng = np.random.default_rng(seed)
    # The test leaves two of each class, for validation and training.
    rest, test = _cut(everything, classes, grouped, test_size, rng, "test", leave=2)
    train, validation = _cut(rest, classes, grouped, validation_size, rng, "validation", leave=1)
    parts: dict[PartName, NDArray[np.int64]] = {"train": train, "validation": validation, "test": test}
    for name in PARTS:
        _check(name, classes[parts[name]], sorted(set(labels)), grouped is not None)
    return parts


def _check(part: str, present: NDArray[np.str_], classes: Sequence[str], grouped: bool) -> None:
    missing = [name for name in classes if name not in set(present)]
    if missing:
        kind = "groups" if grouped else "examples"
        raise DataError(
            f"no example of class '{missing[0]}' is left for the {part} part",
            where="data.testSize, data.validationSize",
            hint=f"add {kind} of this class (each of the three parts needs one) or change the sizes",
        )


def _cut(
    indices: NDArray[np.int64],
    labels: NDArray[np.str_],
    groups: NDArray[np.str_] | None,
    share: float,
    rng: np.random.Generator,
    part: str,
    leave: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    taken = (
        _by_class(indices, labels[indices], share, rng, leave)
        if groups is None
        else _by_group(indices, labels[indices], groups[indices], share, rng, part, leave)
    )
    return np.setdiff1d(indices, taken), np.sort(taken)


def _by_class(
    indices: NDArray[np.int64], labels: NDArray[np.str_], share: float, rng: np.random.Generator, leave: int
) -> NDArray[np.int64]:
    taken = []
    for name in np.unique(labels):
        members = rng.permutation(indices[labels == name])
        count = min(max(1, round(share * len(members))), len(members) - leave)
        taken.append(members[: max(0, count)])
    return np.concatenate(taken)


def _by_group(
    indices: NDArray[np.int64],
    labels: NDArray[np.str_],
    groups: NDArray[np.str_],
    share: float,
    rng: np.random.Generator,
    part: str,
    leave: int,
) -> NDArray[np.int64]:
    names = np.unique(groups)
    classes = np.unique(labels)
    if len(names) < 2:
        raise DataError(
            f"there are too few groups to leave one for the {part} part", where="data.groupBy", hint="add groups"
        )
    counts = np.array([[np.sum((groups == g) & (labels == c)) for c in classes] for g in names])
    wanted = share * counts.sum(0)
    best: NDArray[np.int64] | None = None
    lowest = np.inf
    for _ in range(_TRIES):
        order = rng.permutation(len(names))
        sums = np.cumsum(counts[order], axis=0)
        holders = np.cumsum(counts[order] > 0, axis=0)
        # Every prefix but the whole is a candidate; a class that lacks a group on either side outweighs any imbalance.
        for size in range(1, len(names)):
            inside = sums[size - 1]
            lacking = np.sum(inside == 0) + np.sum(holders[-1] - holders[size - 1] < leave)
            cost = 1000.0 * lacking + np.sum(np.abs(inside - wanted)) / len(labels)
            if cost < lowest:
                lowest, best = float(cost), order[:size]
    assert best is not None
    return indices[np.isin(groups, names[best])]


def count(labels: Sequence[str], parts: dict[PartName, NDArray[np.int64]]) -> dict[str, dict[str, int]]:
    """Return the number of examples of each class in each part."""
    classes = sorted(set(labels))
    found = {name: Counter(labels[index] for index in indices) for name, indices in parts.items()}
    return {name: {label: found[name][label] for label in classes} for name in PARTS}
