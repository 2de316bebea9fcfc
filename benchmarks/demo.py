"""The demo, from an empty folder to a published bundle: how long it takes and how good its classifiers are.

A logistic regression on the same pictures' pixels stands beside them: what a model needs to have learned to beat it.

    make bench-demo
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitruvian.bundle import open_bundle
from vitruvian.data.prepared import Prepared

FOLDER = Path("artifacts/bench-demo")
MODELS = ("vit", "heatmap-cnn")


def linear(artifacts: Path) -> float:
    """Return the test accuracy of a logistic regression on the pixels of a prepared set."""
    prepared = Prepared.open(next((artifacts / "stages" / "prepare").iterdir()))
    train, test = prepared.part("train"), prepared.part("test")
    rows = [part.gather(np.arange(len(part))).astype(np.float32).reshape(len(part), -1) for part in (train, test)]
    # The best of several strengths on the test part itself: generous to the regression.
    scores = []
    for strength in (1e-4, 1e-3, 1e-2):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=strength))
        model.fit(rows[0], train.labels)
        scores.append(float(model.score(rows[1], test.labels)))
    return max(scores)


def main() -> None:
    """Print the table."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    command = Path(sys.executable).parent / "vitruvian"
    table = Table(title=f"vitruvian demo on {os.cpu_count()} CPUs")
    for head in ("model", "seconds", "again", "test accuracy", "worst class recall", "logistic regression on pixels"):
        table.add_column(head, justify="left" if head == "model" else "right")
    found = {}
    for model in MODELS:
        seconds = []
        for _ in range(2):
            began = time.monotonic()
            subprocess.run([command, "demo", "--model", model, "--no-serve", "--folder", FOLDER], check=True)
            seconds.append(time.monotonic() - began)
        artifacts = FOLDER / model / "artifacts"
        metrics = open_bundle(artifacts).info.metrics
        baseline = linear(artifacts) if model == "vit" else None
        found[model] = {"seconds": seconds, **metrics, "linear": baseline}
        table.add_row(
            model,
            f"{seconds[0]:.0f}",
            f"{seconds[1]:.1f}",
            f"{metrics['accuracy']:.3f}",
            f"{metrics['worstClassRecall']:.3f}",
            "" if baseline is None else f"{baseline:.3f}",
        )
    Console().print(table)
    (FOLDER / "demo.json").write_text(json.dumps({"cpus": os.cpu_count(), "rows": found}, indent=1))


if __name__ == "__main__":
    main()
