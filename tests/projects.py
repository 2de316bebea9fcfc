"""Small projects for tests of the command line: a folder of data and a file that declares a classifier."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from vitruvian.data import synthetic

VITRUVIAN = Path(sys.executable).parent / "vitruvian"
CLASSES = ("arms-raised", "standing", "t-pose")
TINY = {"imageSize": 32, "patchSize": 8, "hiddenSize": 32, "layers": 1, "heads": 2}


def write_data(folder: Path, form: str = "images", each: int = 40) -> Path:
    """Write figures of three poses as a folder for each class."""
    counts = dict.fromkeys(CLASSES, 0)
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
    index = 0
    while min(counts.values()) < each:
        figure = synthetic.figure(index, seed=5)
        index += 1
        if figure.label not in counts or counts[figure.label] == each:
            continue
        path = folder / figure.label / f"{counts[figure.label]:03d}"
        counts[figure.label] += 1
        if form == "images":
            Image.fromarray(synthetic.picture(figure, 32)).save(path.with_suffix(".png"))
        else:
            np.save(path.with_suffix(".npy"), synthetic.heatmap(figure)[None])
    return folder


def declare(root: Path, source: Path | str, form: str = "images", name: str = "poses", **spec: Any) -> Path:
    """Write a Classifier below `root` and return its file."""
    model: dict[str, Any] = (
        {"architecture": "vit", "dimensions": TINY} if form == "images" else {"architecture": "heatmap-cnn"}
    )
    training = {"epochs": 2, "batchSize": 16, "learningRate": 2e-3, **spec.pop("training", {})}
    whole = {
        "apiVersion": "vitruvian.dev/v1alpha1",
        "kind": "Classifier",
        "metadata": {"name": name},
        "spec": {
            "data": {"source": str(source), "format": form, **spec.pop("data", {})},
            "model": model,
            "training": training,
            "artifacts": str(root / "artifacts"),
            **spec,
        },
    }
    file = root / f"{name}.yaml"
    file.write_text(yaml.safe_dump(whole))
    return file


def vitruvian(*arguments: str | Path, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as people do, in a process of its own."""
    return subprocess.run(
        [VITRUVIAN, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", **env},
        timeout=540,
        check=False,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every artifact's file, without logs and locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".incomplete" not in path.parts and "logs" not in path.parts
    }
