"""In how many bits matrices are multiplied, and how far losses are scaled so that no gradient in float16 becomes 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vitruvian.errors import TrainingError
from vitruvian.spec import Training

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_STEPS_UNTIL_GROWTH = 2000
_GROWTH, _BACKOFF = 2.0, 0.5
_LEAST = 2.0**-14


def half(settings: Training, device: torch.device) -> torch.dtype | None:
    """Return what matrices are multiplied in: by default in what a GPU is built for; None: float32."""
    if settings.precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return _HALVES.get(settings.precision)


def name(half: torch.dtype | None) -> str:
    """Return the precision as a spec names it."""
    return next((name for name, dtype in _HALVES.items() if dtype == half), "fp32")


def autocast(device: torch.device, half: torch.dtype | None) -> torch.autocast:
    """Return the context in which matrices are multiplied in so many bits."""
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)


@dataclass(frozen=True)
class LossScale:
    """The factor of the next step's loss.

    It moves as that of `torch.amp.GradScaler`, which can't clip a norm that is spread over workers.
    """

    factor: float = 2.0**16
    steps: int = 0
    """Steps since it changed."""

    def after(self, finite: bool) -> LossScale:
        """Return the scale after a step whose gradients were finite, or weren't; raises `TrainingError` below all."""
        if not finite:
            if self.factor <= _LEAST:
                hint = "set a smaller learningRate, or precision: fp32"
                raise TrainingError("gradients in float16 aren't finite any more", where="training", hint=hint)
            return LossScale(self.factor * _BACKOFF)
        if self.steps + 1 == _STEPS_UNTIL_GROWTH:
            return LossScale(self.factor * _GROWTH)
        return LossScale(self.factor, self.steps + 1)
