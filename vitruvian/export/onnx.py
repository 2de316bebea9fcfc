"""ONNX with a batch of any size (opset and exporter as torch has them by default)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from vitruvian.errors import ExportError
from vitruvian.inference.engine import INPUT, OUTPUT

FILE = "model.onnx"


def export(module: nn.Module, shape: tuple[int, ...], folder: Path) -> Path:
    """Write a model that takes (batch, *shape) and return its file; raises `ExportError`."""
    path = folder / FILE
    example = torch.zeros(2, *shape)
    # The exporter tells its progress and torchvision's absence; neither is for the user.
    with warnings.catch_warnings(), _hushed("torch.onnx"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as e:
            reason = str(e).strip().splitlines()[0]
            raise ExportError(f"torch can't export this model ({reason})", where="onnx", hint="report this") from e
    return path


@contextlib.contextmanager
def _hushed(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
