"""Exporting a trained model: every format made, measured and judged, the fastest that keeps the accuracy chosen."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vitruvian import interrupt
from vitruvian.bundle import ExportRecord, TextTower, TrainedRecord
from vitruvian.data.prepared import PartName, Prepared
from vitruvian.export import towers as parts
from vitruvian.export import trained
from vitruvian.export.formats import SERVABLE, exporter, opener
from vitruvian.export.parity import Examples, choose, judged, measure
from vitruvian.export.source import Source
from vitruvian.inference.engine import with_exact
from vitruvian.inference.predictor import Head
from vitruvian.machine import usable_cpus
from vitruvian.models.registry import towers

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
Told = Literal["accuracy", "agreement"]
"""What a share of right answers is: those that people gave, or those of the trained weights."""
_TRANSFORMERS = ("vit", "clip")


@dataclass(frozen=True)
class Exports:
    """What was made, with paths in its folder."""

    records: tuple[ExportRecord, ...]
    serve: ExportRecord | None
    """The fastest that a server may run; None where none was asked for."""
    head: str | None = None
    text: TextTower | None = None
    told: Told = "accuracy"
    """What the records call accuracy."""
    trained: TrainedRecord | None = None
    """What PyTorch itself costs."""


def examples_of(prepared: Prepared, name: PartName) -> Examples:
    """Return a part of prepared data."""
    part = prepared.part(name)
    return Examples(lambda indices: prepared.preprocess.tensor(part.gather(indices)), part.labels)


def export_all(
    architecture: str,
    module: nn.Module,
    classes: tuple[str, ...],
    calibration: NDArray[np.float32],
    validation: Examples,
    test: Examples,
    formats: Sequence[str],
    templates: Sequence[str],
    accuracy_drop: float,
    folder: Path,
    bar: Bar,
    *,
    golden: NDArray[np.float32] | None = None,
    for_serving: bool = True,
) -> Exports:
    """Write every format into a folder of its own.

    `calibration` are inputs (n, *shape) that quantisation looks at; `validation` decides whether a format keeps the
    accuracy, `test` tells what it is. `golden` is the golden example as the model takes it, (1, *shape), where it isn't
    the first of `test`. For serving one in full precision is made in any case, for audits. Raises `ExportError` where
    one can't be made, or none of those asked for may be served.
    """
    held_to, tested = (trained.answers(module, part, len(classes)) for part in (validation, test))
    apart = towers(architecture, module)
    head = None if apart is None else Head(classes, apart.weight.float().numpy())
    lanes = usable_cpus()
    example = test.tensors(np.array([0])) if golden is None else golden
    records = []
    with tempfile.TemporaryDirectory(prefix="vitruvian-export-") as scratch:
        source = Source(
            module if apart is None else apart.image,
            calibration.shape[1:],
            calibration,
            Path(scratch),
            embeds=apart is not None,
            transformer=architecture in _TRANSFORMERS,
        )
        # Before exporters take it apart.
        itself = trained.record(source.module, held_to, tested, lanes)
        for format in with_exact(formats) if for_serving else formats:
            (folder / format).mkdir()
            with bar(f"exporting {format}", len(validation) + len(test)) as advance:
                with interrupt.held():
                    path = exporter(format)(source, folder / format)
                engine = opener(format)(path, source.shape, 1, lanes)
                records.append(measure(format, path, folder, engine, head, held_to, tested, example, lanes, advance))
    judgement = judged(records, held_to, tested, accuracy_drop)
    asked = [record for record in judgement if record.format in formats]
    servable = any(record.format in SERVABLE for record in asked)
    chosen = choose(asked, held_to, tested, accuracy_drop) if for_serving or servable else None
    if apart is None:
        return Exports(tuple(judgement), chosen, trained=itself)
    with interrupt.held():
        text = parts.export_text(apart, templates, folder)
    return Exports(tuple(judgement), chosen, parts.export_head(apart, folder), text, trained=itself)
