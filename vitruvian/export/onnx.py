"""ONNX with a batch of any size (opset and exporter as torch has them by default)."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitruvian.errors import ExportError

if TYPE_CHECKING:
    from vitruvian.export.source import Source

FILE = "model.onnx"


def export(source: Source, folder: Path) -> Path:
    """Write a model and return its file; raises `ExportError`."""
    return Path(shutil.copy(source.onnx, folder / FILE))


def to_onnx(
    module: nn.Module, example: torch.Tensor, input: str, output: str, dynamic: dict[int, Any], path: Path
) -> Path:
    """Write a module of one input and one output, some sizes of the input open; raises `ExportError`."""
    # The exporter tells its progress and torchvision's absence; neither is for the user.
    with warnings.catch_warnings(), _hushed("torch.onnx"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=[input],
                output_names=[output],
                dynamic_shapes=(dynamic,),
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
