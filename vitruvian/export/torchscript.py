"""TorchScript, for programs in C++; a server has no torch and so can't run it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitruvian.errors import ExportError
from vitruvian.export.source import Source
from vitruvian.inference.engine import first_line

FILE = "model.torchscript"


def export(source: Source, folder: Path) -> Path:
    """Write a traced model and return its file; raises `ExportError`."""
    path = folder / FILE
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        # torch calls all of TorchScript deprecated; C++ has nothing else that needs no compiler.
        warnings.simplefilter("ignore")
        try:
            example = torch.zeros(2, *source.shape)
            traced = torch.jit.trace(source.module, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced), str(path))
        except Exception as e:  # The tracer raises whatever the model's code raises.
            raise ExportError(f"torch can't trace this model ({first_line(e)})", where="torchscript") from e
    return path


class ScriptEngine:
    """Runs what was written, to be held against the trained model."""

    def __init__(self, path: Path, shape: tuple[int, ...], threads: int, lanes: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output: NDArray[np.float32] = self._module(torch.from_numpy(batch)).numpy()
        return output
