"""A model of images and texts taken apart: its classifier's rows and its text tower, as servers read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from vitruvian.bundle import TextTower
from vitruvian.export.onnx import FILE, to_onnx
from vitruvian.inference.engine import EMBEDDING
from vitruvian.inference.texts import TOKENS
from vitruvian.models.registry import Towers

HEAD = "head.safetensors"
TEXT = "text"
_TOKENIZER = "tokenizer.json"


def export_head(towers: Towers, folder: Path) -> str:
    """Write the rows that tell the bundle's classes apart; return where they lie in the folder."""
    save_file({"weight": towers.weight.float().contiguous()}, folder / HEAD)
    return HEAD


def export_text(towers: Towers, templates: Sequence[str], folder: Path) -> TextTower:
    """Write the text tower in full precision and its tokenizer; paths are those in the folder. Raises `ExportError`."""
    (folder / TEXT).mkdir()
    example = torch.full((2, min(9, towers.context)), towers.pad, dtype=torch.long)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=towers.context)}
    to_onnx(towers.text, example, TOKENS, EMBEDDING, sizes, folder / TEXT / FILE)
    towers.tokenizer.save(str(folder / TEXT / _TOKENIZER))
    return TextTower(
        model=f"{TEXT}/{FILE}",
        tokenizer=f"{TEXT}/{_TOKENIZER}",
        templates=tuple(templates),
        context=towers.context,
        pad=towers.pad,
        scale=towers.scale,
    )
