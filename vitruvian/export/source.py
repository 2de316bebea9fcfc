"""What is exported: a trained model, and examples to calibrate with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitruvian.data.prepared import Prepared
from vitruvian.export.onnx import to_onnx
from vitruvian.inference.engine import EMBEDDING, INPUT, OUTPUT

CALIBRATION = 128
"""Examples of the training part that quantisation looks at."""


@dataclass(frozen=True)
class Source:
    """A model from inputs (n, *shape) to logits or, of a tower, to unit-length embeddings."""

    module: nn.Module
    shape: tuple[int, ...]
    calibration: NDArray[np.float32]
    """Inputs (n, *shape)."""
    scratch: Path
    """A folder for what several formats are made of."""
    embeds: bool = False
    transformer: bool = False
    """Whether it is one: quantisation knows patterns of theirs."""

    @property
    def output(self) -> str:
        """The name of the output."""
        return EMBEDDING if self.embeds else OUTPUT

    @cached_property
    def onnx(self) -> Path:
        """The model as ONNX in full precision, made once."""
        batch = {0: torch.export.Dim("batch")}
        example = torch.zeros(2, *self.shape)
        return to_onnx(self.module, example, INPUT, self.output, batch, self.scratch / "model.onnx")

    def inputs(self) -> Iterator[NDArray[np.float32]]:
        """Yield the examples to calibrate with, each as a batch of one."""
        yield from self.calibration[:, None]


def calibration(prepared: Prepared, count: int = CALIBRATION, seed: int = 0) -> NDArray[np.float32]:
    """Return so many examples of the training part, drawn at random, as the model takes them."""
    part = prepared.part("train")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(part))[:count])
    return prepared.preprocess.tensor(part.gather(chosen))
