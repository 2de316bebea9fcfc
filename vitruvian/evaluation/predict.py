"""Asking a trained model for its answers to a part of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.models.registry import architecture

BATCH = 64


def load_model(name: str, folder: Path) -> nn.Module:
    """Return a trained model, ready to answer."""
    return architecture(name).load(folder).eval()


@torch.inference_mode()
def predict(
    module: nn.Module, prepared: Prepared, part: PreparedPart, advance: Callable[[int], None] = lambda count: None
) -> NDArray[np.float32]:
    """Return the probabilities (n, classes) that a model gives to every example of a part."""
    rows = []
    for start in range(0, len(part), BATCH):
        indices = np.arange(start, min(start + BATCH, len(part)))
        inputs = torch.from_numpy(prepared.preprocess.tensor(part.gather(indices)))
        rows.append(module(inputs).double().softmax(1).float().numpy())
        advance(len(indices))
    return np.concatenate(rows)
