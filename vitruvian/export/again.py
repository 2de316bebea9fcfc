"""Exporting a bundle that is published already, in more formats."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitruvian.bundle import Bundle, Exported, Machine
from vitruvian.console import Teller
from vitruvian.errors import DataError, ExportError
from vitruvian.evaluation.predict import load_model
from vitruvian.export.make import Exports, Told, export_all
from vitruvian.export.parity import Examples
from vitruvian.machine import cpu_features, cpu_model, usable_cpus

_NOISE = 0.1
_DRAWN = 32


def export_bundle(
    bundle: Bundle, formats: Sequence[str], out: Path, images: Path | None, accuracy_drop: float, teller: Teller
) -> Exports:
    """Write a bundle's model in several formats into a new folder, each held against its weights and timed.

    `images` is a folder of pictures or heatmaps to calibrate and to compare with; where its folders are named like
    classes they tell the accuracy, too. Without it the golden example, changed a little at random, stands in. Raises
    `ExportError`, and `DataError` for a folder that can't be used.
    """
    if out.exists():
        raise ExportError("is there already", where=out, hint="name a new folder with --out")
    labels, tensors = _around_golden(bundle) if images is None else _read(bundle, images)
    module = load_model(bundle.info.architecture, bundle.folder)
    told: Told = "accuracy" if labels is not None else "agreement"
    if labels is None:
        with torch.inference_mode():
            labels = np.concatenate([module(torch.from_numpy(row[None])).argmax(1).numpy() for row in tensors])
        teller.note("nothing tells what the examples show: accuracy is agreement with the bundle's weights")
    examples = Examples(lambda indices: tensors[indices], labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as aside:
        folder = Path(aside) / "made"
        folder.mkdir()
        templates = bundle.info.text.templates if bundle.info.text else ("{}",)
        made = export_all(
            bundle.info.architecture,
            module,
            bundle.info.labels,
            tensors,
            examples,
            examples,
            formats,
            templates,
            accuracy_drop,
            folder,
            teller.bar,
            golden=_golden(bundle),
            for_serving=False,
        )
        exported = Exported(
            exports=made.records,
            serve="" if made.serve is None else made.serve.format,
            golden=bundle.info.golden,
            machine=Machine(cpu=cpu_model(), features=cpu_features(), cpus=usable_cpus()),
            head=made.head,
            text=made.text,
            trained=made.trained,
        )
        (folder / "exports.json").write_text(exported.model_dump_json(by_alias=True, indent=1))
        os.replace(folder, out)
    return replace(made, told=told)


def _golden(bundle: Bundle) -> NDArray[np.float32]:
    """Return the golden example as the model takes it, (1, *shape)."""
    where = bundle.folder / bundle.info.golden.input
    return bundle.preprocess.tensor(bundle.preprocess.prepare(bundle.golden_input(), where)[None])


def _around_golden(bundle: Bundle) -> tuple[None, NDArray[np.float32]]:
    """Return inputs around the golden example."""
    example = _golden(bundle)
    noise = np.random.default_rng(0).normal(0, _NOISE, (_DRAWN, *example.shape[1:])).astype(np.float32)
    noise[0] = 0
    return None, example + noise


def _read(bundle: Bundle, folder: Path) -> tuple[NDArray[np.int64] | None, NDArray[np.float32]]:
    """Return a folder's files as inputs, with what they show where their folders are classes."""
    suffixes, known = bundle.preprocess.suffixes, bundle.info.labels
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "there is no such folder"
        raise DataError(what, where=folder, hint="check --images, or leave it out")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not files:
        hint = "give a folder with such files, or leave --images out"
        raise DataError(f"holds no file that ends in {', '.join(suffixes)}", where=folder, hint=hint)
    prepared = np.stack([bundle.preprocess.prepare(path.read_bytes(), path) for path in files])
    shown = [path.relative_to(folder).parts[0] for path in files]
    told = all(name in known for name in shown)
    labels = np.array([known.index(name) for name in shown], np.int64) if told else None
    return labels, bundle.preprocess.tensor(prepared)
