"""What the driver and the workers tell each other; torch isn't needed to understand it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitruvian.spec import Model, Training

Event = dict[str, Any]
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    model: Model
    training: Training
    prepared: str
    """The local folder of the prepared data."""
    checkpoints: str
    """The address of the run's checkpoints."""


def waited(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs since the best validation accuracy."""
    values = [record["validationAccuracy"] for record in history]
    return len(values) - 1 - values.index(max(values)) if values else 0
