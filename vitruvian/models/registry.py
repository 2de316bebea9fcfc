"""The one place that knows every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import nn

from vitruvian.models import heatmap_cnn, vit
from vitruvian.spec import Model


class Architecture(Protocol):
    """What a file of this folder offers."""

    def build(self, model: Model, classes: int) -> nn.Module:
        """Return a module from inputs (n, …) to logits (n, classes), drawn from torch's global generator."""

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""

    def load(self, folder: Path) -> nn.Module:
        """Return the module that `save` wrote."""


ARCHITECTURES: dict[str, Architecture] = {"vit": vit, "heatmap-cnn": heatmap_cnn}


def default_learning_rate(model: Model) -> float:
    """Return the peak learning rate where the user gives none."""
    return 5e-5 if model.pretrained else 1e-3
