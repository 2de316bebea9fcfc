"""What the driver and the workers tell each other; torch isn't needed to understand it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitruvian.spec import Model, Select, Training

Event = dict[str, Any]
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    model: Model
    training: Training
    prepared: str
    """The address of the prepared data: each machine fetches its own copy of what isn't in a folder."""
    checkpoints: str
    """The address of the run's checkpoints."""


def chosen_epoch(history: Sequence[Mapping[str, float]], select: Select) -> int:
    """Return the index of the epoch whose weights become the model."""
    return best_epoch(history) if select == "best" else len(history) - 1


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """Return the index of the epoch with the best validation accuracy; of equals, of the lowest validation loss."""
    return max(range(len(history)), key=lambda i: (history[i]["validationAccuracy"], -history[i]["validationLoss"]))


def waited(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs since the best one."""
    return len(history) - 1 - best_epoch(history) if history else 0


def ended(history: Sequence[Mapping[str, float]], training: Training) -> bool:
    """Return whether a training with this history has no epoch to go: it had all of them, or is out of patience."""
    patience = training.early_stopping.patience if training.early_stopping else None
    return len(history) >= training.epochs or (patience is not None and waited(history) >= patience)
