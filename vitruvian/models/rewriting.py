"""Weights under the names that transformers reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vitruvian.errors import SpecError

Tensors = Mapping[str, NDArray[Any]]


def rewrite(
    file: Path, converted: Callable[[Tensors], dict[str, NDArray[Any]]], into: Path, where: str, hint: str
) -> None:
    """Write what is made of a file's tensors into a folder, as `model.safetensors`.

    Raises `SpecError` with the hint for a file that can't be read, and what `converted` raises.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        save_file(converted(load_file(file)), into / "model.safetensors", {"format": "pt"})
    except (OSError, SafetensorError) as e:
        raise SpecError(f"{file.name} can't be read ({type(e).__name__})", where=where, hint=hint) from e
