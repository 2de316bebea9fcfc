"""Running an exported model: what an engine is, and which one runs which format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

INPUT: Final = "input"
OUTPUT: Final = "logits"
EMBEDDING: Final = "unit_embedding"
"""The output of a tower, of length 1. Not just embedding: torch names inner values so."""
OUTPUTS: Final = (OUTPUT, EMBEDDING)
REMAKE: Final = "export the model and publish the bundle again"


class Engine(Protocol):
    """A loaded model; it may be run from several threads at once."""

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the model makes of a batch (n, ...): logits (n, classes), or embeddings (n, width)."""


class Open(Protocol):
    """Loads a file."""

    def __call__(
        self, path: Path, shape: tuple[int, ...], threads: int, lanes: int, content: str | None = None
    ) -> Engine:
        """Return the engine for inputs of one shape, run by `lanes` callers at once with `threads` each.

        What is made of the file may be kept under the name `content`, which must tell it from all others.
        """


def _onnx(path: Path, shape: tuple[int, ...], threads: int, lanes: int, content: str | None = None) -> Engine:
    from vitruvian.inference.engines.onnx import OnnxEngine

    return OnnxEngine(path, shape, threads, lanes)


def _openvino(precision: str) -> Open:
    def opened(path: Path, shape: tuple[int, ...], threads: int, lanes: int, content: str | None = None) -> Engine:
        from vitruvian.inference.engines.openvino import OpenvinoEngine

        return OpenvinoEngine(path, shape, threads, lanes, precision, content)

    return opened


ENGINES: Final[dict[str, Open]] = {
    "onnx": _onnx,
    "onnx-int8": _onnx,
    "openvino": _openvino("f32"),
    "openvino-bf16": _openvino("bf16"),
    # What isn't quantised stays in full precision.
    "openvino-int8": _openvino("f32"),
}
"""What runs each format that a server can run; its library is loaded then."""
EXACT: Final = frozenset({"onnx", "openvino"})
"""Formats that compute in full precision."""


def with_exact(formats: Sequence[str]) -> tuple[str, ...]:
    """Return formats, and `onnx` besides where servers would run them in less than full precision only.

    Audits ask any server for answers in full precision.
    """
    reduced = any(format in ENGINES for format in formats) and EXACT.isdisjoint(formats)
    return (*formats, "onnx") if reduced else tuple(formats)


def first_line(error: Exception) -> str:
    """Return the beginning of what an error says: runtimes go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
