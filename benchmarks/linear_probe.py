"""What a linear probe costs with its features computed once, against computing them in every epoch.

    python -m benchmarks.linear_probe [--epochs 15] [--count 230]

A linear layer on a frozen tower of ViT-B/32's size learns on one worker, in this process. CPU seconds, and whether both
heads are equal to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

from tests.training_runs import chosen_weights, equal, make_job, train_until
from vitruvian.spec import Model
from vitruvian.training import loop
from vitruvian.training.job import Job

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def pretrained(folder: Path, kind: str) -> Path:
    """Write the random weights of a tower of ViT-B/32's size."""
    if kind == "vit":
        config = ViTConfig(image_size=224, patch_size=32, **_BASE)
        ViTForImageClassification(config).save_pretrained(folder)
        return folder
    vision = _BASE | {"image_size": 224, "patch_size": 32}
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


def job_of(root: Path, run: str, kind: str, weights: Path, epochs: int, count: int) -> Job:
    """Return the job of a linear probe."""
    declared: dict[str, Any] = {"architecture": kind, "pretrained": str(weights)}
    clip = {"head": "linear", "unfreezeVisual": 0}
    declared |= {"freezeLayers": _BASE["num_hidden_layers"]} if kind == "vit" else {"clip": clip}
    # Checkpoints as the product makes them when nothing is said: one an epoch.
    settings: dict[str, Any] = {"epochs": epochs, "augmentation": "none", "earlyStopping": None, "checkpoints": {}}
    model = Model.model_validate(declared)
    return make_job(root, run=run, count=count, model=model, learningRate=1e-2, **settings)


def told(job: Job, kept: bool) -> tuple[float, dict[str, Any]]:
    """Train; return CPU seconds and what was told about the features."""
    with contextlib.nullcontext() if kept else mock.patch.object(loop, "fixed", return_value=False):
        began = time.process_time()
        events = train_until(job)
        spent = time.process_time() - began
    return spent, next((event for event in events if event["kind"] == "features"), {})


def main() -> None:
    """Print the costs side by side, and whether anything that changed was noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--count", type=int, default=230, help="pictures, of which training and validation have 85 %%")
    parser.add_argument("--architecture", choices=["vit", "clip"], default="clip")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="vitruvian-probe-"))
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    try:
        kind = asked.architecture
        weights = pretrained(root / "weights", kind)
        once, again, each = (
            job_of(root, run, kind, weights, asked.epochs, asked.count) for run in ("once", "again", "each")
        )
        # What is imported at first isn't told to any of them.
        told(job_of(root, "first", kind, weights, 1, 64), kept=False)
        spent_once, first = told(once, kept=True)
        spent_again, second = told(again, kept=True)
        spent_each, _ = told(each, kept=False)
        same = equal(chosen_weights(once), chosen_weights(each))
    finally:
        shutil.rmtree(root)
    table = Table("", "CPU seconds", "ratio", title=f"a linear probe of a {kind} B/32, {asked.epochs} epochs")
    table.add_row("features in every epoch", f"{spent_each:.1f}", "1")
    table.add_row("features once", f"{spent_once:.1f}", f"1 / {spent_each / spent_once:.1f}")
    table.add_row("features of a run before", f"{spent_again:.1f}", f"1 / {spent_each / spent_again:.1f}")
    Console().print(table)
    print(f"found: {first.get('found')}, again: {second.get('found')}; the head is equal to the bit: {same}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
