"""Exporting a trained model: every format made, measured and judged, the fastest that keeps the accuracy chosen."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitruvian import interrupt
from vitruvian.bundle import ExportRecord, TextTower
from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.export import towers as parts
from vitruvian.export.formats import exporter, opener
from vitruvian.export.parity import Trained, choose, judged, measure
from vitruvian.export.source import Source, calibration
from vitruvian.inference.predictor import Head
from vitruvian.machine import usable_cpus
from vitruvian.models.registry import towers

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
_TRANSFORMERS = ("vit", "clip")


@dataclass(frozen=True)
class Exports:
    """What was made, with paths in its folder."""

    records: tuple[ExportRecord, ...]
    serve: ExportRecord
    head: str | None = None
    text: TextTower | None = None
    accuracy: dict[str, float] = field(default_factory=dict)
    """The trained model's, by part."""


def export_all(
    architecture: str,
    module: nn.Module,
    prepared: Prepared,
    formats: Sequence[str],
    templates: Sequence[str],
    accuracy_drop: float,
    folder: Path,
    bar: Bar,
) -> Exports:
    """Write every format into a folder of its own.

    Raises `ExportError` where one can't be made, or none may be served.
    """
    trained = {name: _trained(module, prepared, prepared.part(name)) for name in ("validation", "test")}
    apart = towers(architecture, module)
    head = None if apart is None else Head(prepared.classes, apart.weight.float().numpy())
    lanes = usable_cpus()
    records = []
    with tempfile.TemporaryDirectory(prefix="vitruvian-export-") as scratch:
        source = Source(
            module if apart is None else apart.image,
            prepared.preprocess.tensor_shape,
            calibration(prepared),
            Path(scratch),
            embeds=apart is not None,
            transformer=architecture in _TRANSFORMERS,
        )
        for format in formats:
            (folder / format).mkdir()
            total = sum(len(of.part) for of in trained.values())
            with bar(f"exporting {format}", total) as advance:
                with interrupt.held():
                    path = exporter(format)(source, folder / format)
                engine = opener(format)(path, source.shape, 1, lanes)
                records.append(
                    measure(
                        format,
                        path,
                        folder,
                        engine,
                        head,
                        prepared,
                        trained["validation"],
                        trained["test"],
                        lanes,
                        advance,
                    )
                )
    held = judged(records, trained["validation"], trained["test"], accuracy_drop)
    chosen = choose(held, trained["validation"], trained["test"], accuracy_drop)
    accuracy = {name: of.accuracy for name, of in trained.items()}
    if apart is None:
        return Exports(tuple(held), chosen, accuracy=accuracy)
    with interrupt.held():
        text = parts.export_text(apart, templates, folder)
    return Exports(tuple(held), chosen, parts.export_head(apart, folder), text, accuracy)


@torch.inference_mode()
def _trained(module: nn.Module, prepared: Prepared, part: PreparedPart) -> Trained:
    """Return what the trained model says of a part."""
    rows: list[NDArray[np.float32]] = [np.zeros((0, len(prepared.classes)), np.float32)]
    for start in range(0, len(part), 64):
        indices = np.arange(start, min(start + 64, len(part)))
        inputs = torch.from_numpy(prepared.preprocess.tensor(part.gather(indices)))
        rows.append(module(inputs).float().numpy())
    return Trained(part, np.concatenate(rows))
