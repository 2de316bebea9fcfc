"""Real motion, single frames of groups (a style, a source of films) that training never saw.

Ways to tell the classes apart, measured on the same frames: a logistic regression on the keypoints, and the product's
architectures, which learn from scratch: the heatmap CNN from heatmaps, the others from drawn pictures. They run through
the product's own commands, as a user would run them; they learn from the peak frame, in several views where the motion
is known in three dimensions, and from a few of all frames.

Few groups make any one split a matter of luck: each seed gives another one.

    make bench-motion [ARGS="--seeds 0 1 2 --architectures vit clip --data FOLDER --folder FOLDER"]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitruvian.data.keypoints import read_motion
from vitruvian.evaluation.metrics import wilson

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "mocap-17kp"
VIEWS = 8
YAW = 30
FRAMES = 4
FRAMES_OF_2D = 12

CLASSIFIER = """\
apiVersion: vitruvian.dev/v1alpha1
kind: Classifier
metadata: {{name: motion-{architecture}}}
spec:
  data: {{source: {source}, format: {form}, groupBy: group, seed: {seed}}}
  model: {model}
  training:
    {{strategy: ddp, workers: 2, batchSize: 32, augmentation: light, labelSmoothing: 0.1, earlyStopping: null,
      select: last, seed: {seed}, {training}}}
  artifacts: {artifacts}
"""
SMALL = "{imageSize: 48, patchSize: 8, hiddenSize: 96, layers: 4, heads: 4, intermediateSize: 192}"
MODELS = {
    "heatmap-cnn": "{architecture: heatmap-cnn}",
    "vit": f"{{architecture: vit, dimensions: {SMALL}}}",
    "clip": f"{{architecture: clip, dimensions: {SMALL}}}",
    "resnet50": "{architecture: resnet50, dimensions: {imageSize: 48}}",
}
TRAINING = {
    "heatmap-cnn": "epochs: 3, learningRate: 2e-3, weightDecay: 1.0",
    "vit": "epochs: 24, learningRate: 2e-3",
    "clip": "epochs: 24, learningRate: 1e-3",
    "resnet50": "epochs: 6, learningRate: 1e-3",
}


@dataclass(frozen=True)
class Row:
    """What one way reached."""

    name: str
    correct: int
    examples: int
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples


def run(*command: str | Path) -> None:
    """Run one of the product's commands."""
    done = subprocess.run([Path(sys.executable).parent / "vitruvian", *command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def classifier(name: str, data: Path, folder: Path, seed: int) -> tuple[dict[str, str], set[str], float]:
    """Train one architecture; return its answers to every peak frame seen from the front, and its test groups."""
    form = "heatmaps" if name == "heatmap-cnn" else "images"
    seen, asked = rendered(data, folder, form)
    began = time.monotonic()
    declared = folder / f"{name}-{seed}.yaml"
    artifacts = folder / f"artifacts-{name}-{seed}"
    source, kept = json.dumps(str(seen)), json.dumps(str(artifacts))
    how = {"architecture": name, "model": MODELS[name], "training": TRAINING[name], "form": form}
    declared.write_text(CLASSIFIER.format(source=source, artifacts=kept, seed=seed, **how))
    run("run", "-f", declared)
    seconds = time.monotonic() - began
    answers = folder / f"{name}-{seed}.csv"
    run("predict", artifacts, asked, "--csv", answers)
    with open(answers, newline="") as file:
        labels = {_take(row["path"]): row["label"] for row in csv.DictReader(file)}
    return labels, _test_groups(artifacts, seen), seconds


def rendered(data: Path, folder: Path, form: str) -> tuple[Path, Path]:
    """Return the folders of what training sees, and of every peak frame seen from the front."""
    seen, asked = folder / f"{form}-train", folder / f"{form}-front"
    motion = read_motion(data)
    common = ["--as", form, "--labels", "coarse" if motion.coarse else "class"]
    if not asked.exists():
        run("data", "render-keypoints", data, asked, *common, "--frame", "peak")
    if seen.exists():
        return seen, asked
    if motion.dimensions == 2:
        run(
            "data",
            "render-keypoints",
            data,
            seen,
            *common,
            "--seed",
            "1",
            "--frame",
            "all",
            "--most",
            str(FRAMES_OF_2D),
        )
        return seen, asked
    turned = [*common, "--yaw", str(YAW), "--seed", "1"]
    peaks, frames = folder / f"{form}-peaks", folder / f"{form}-frames"
    for out in (peaks, frames):
        shutil.rmtree(out, ignore_errors=True)
    run("data", "render-keypoints", data, peaks, *turned, "--frame", "peak", "--views", str(VIEWS))
    run("data", "render-keypoints", data, frames, *turned, "--frame", "all", "--most", str(FRAMES))
    _merge(frames, peaks)
    peaks.rename(seen)
    return seen, asked


def _merge(source: Path, target: Path) -> None:
    """Move the files of one folder of classes into another, and its groups with them."""
    _, *rows = (source / "groups.csv").read_text().splitlines(keepends=True)
    with open(target / "groups.csv", "a") as file:
        file.writelines(rows)
    for path in source.glob("*/*"):
        path.rename(target / path.relative_to(source))
    shutil.rmtree(source)


def _take(path: str) -> str:
    # OUT/CLASS/ID-FRAME.EXT: the take's id is what every way knows it by.
    return Path(path).stem.rpartition("-")[0]


def _test_groups(artifacts: Path, source: Path) -> set[str]:
    """Return the groups of the test part of the newest prepared data."""
    with open(source / "groups.csv", newline="") as file:
        groups = {row["path"]: row["group"] for row in csv.DictReader(file)}
    newest = max((artifacts / "stages" / "prepare").glob("*/test.json"), key=lambda path: path.stat().st_mtime)
    return {groups[name] for name in json.loads(newest.read_text())["names"]}


def keypoints(data: Path) -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]]:
    """Return front-view keypoints of every peak frame in its own box (n, 34 or less), labels, groups and ids.

    Joints that the data never knows are left out.
    """
    motion = read_motion(data)
    rows, labels, groups, ids = [], [], [], []
    for take in motion.sequences:
        if motion.coarse and take.label not in motion.coarse:
            continue
        joints = motion.joints[take.start + take.peak].astype(np.float64)
        flat = joints if motion.dimensions == 2 else np.stack([joints[:, 0], -joints[:, 1]], 1)
        low, high = np.nanmin(flat, 0), np.nanmax(flat, 0)
        rows.append(((flat - (low + high) / 2) / (high - low).max()).ravel())
        labels.append(motion.coarse.get(take.label, take.label))
        groups.append(take.group)
        ids.append(take.id)
    features = np.array(rows)
    features = np.nan_to_num(features[:, ~np.isnan(features).all(0)])
    return features, np.array(labels), np.array(groups), np.array(ids)


def compare(data: Path, folder: Path, seed: int, architectures: Iterable[str]) -> tuple[list[Row], list[str]]:
    """Return what each way reached on one split, and the groups of its test."""
    features, labels, groups, ids = keypoints(data)
    answers, held_out, seconds = {}, {}, {}
    for name in architectures:
        answers[name], held_out[name], seconds[name] = classifier(name, data, folder, seed)
    tested, *others = held_out.values()
    assert all(each == tested for each in others), "all saw the same groups"
    test = np.isin(groups, sorted(tested))

    began = time.monotonic()
    # It gets the groups of the validation part as well: it has no epoch to choose.
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=1.0))
    regression.fit(features[~test], labels[~test])
    right = int((regression.predict(features[test]) == labels[test]).sum())
    rows = [Row("logistic regression on keypoints", right, int(test.sum()), time.monotonic() - began)]
    truth = dict(zip(ids[test].tolist(), labels[test].tolist(), strict=True))
    for name, given in answers.items():
        right = sum(given[take] == label for take, label in truth.items())
        rows.append(Row(name, right, len(truth), seconds[name]))
    return rows, sorted(tested)


def main() -> None:
    """Print the three side by side for each split, and over all splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="a folder with sequences.npz and index.json")
    parser.add_argument("--folder", type=Path, default=Path("artifacts/bench-motion"), help="where to work")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each decides a split and the weights")
    parser.add_argument("--again", action="store_true", help="begin with an empty folder")
    parser.add_argument("--architectures", nargs="+", choices=list(MODELS), default=["heatmap-cnn", "vit"])
    asked = parser.parse_args()
    if not (asked.data / "index.json").exists():
        sys.exit(f"{asked.data}: there is no motion capture here; name a folder with ARGS='--data FOLDER'")
    if asked.again:
        shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed in asked.seeds:
        rows, groups = compare(asked.data, asked.folder, seed, asked.architectures)
        found[seed] = {
            "groups": groups,
            "rows": {
                row.name: {"accuracy": row.accuracy, "examples": row.examples, "seconds": row.seconds} for row in rows
            },
        }
        named = ", ".join(groups) if len(groups) < 6 else f"{len(groups)} of them"
        show(rows, f"split {seed}: {rows[0].examples} single frames of unseen groups: {named}")
        kept = {"cpus": os.cpu_count(), "splits": found}
        (asked.folder / "motion.json").write_text(json.dumps(kept, indent=1))
    if len(found) > 1:
        names = next(iter(found.values()))["rows"]
        show([_over(name, found.values()) for name in names], f"all {len(found)} splits")


def _over(name: str, splits: Iterable[dict[str, Any]]) -> Row:
    rows = [split["rows"][name] for split in splits]
    correct = sum(round(row["accuracy"] * row["examples"]) for row in rows)
    return Row(name, correct, sum(row["examples"] for row in rows), sum(row["seconds"] for row in rows))


def show(rows: list[Row], title: str) -> None:
    """Print a table of what each way reached."""
    table = Table(title=title)
    for head in ("", "accuracy", "95 % interval", "against the regression", "seconds"):
        table.add_column(head, justify="left" if not head else "right")
    for row in rows:
        interval = wilson(row.correct, row.examples)
        table.add_row(
            row.name,
            f"{row.accuracy:.3f}",
            f"{interval.low:.3f} to {interval.high:.3f}",
            f"{row.accuracy - rows[0].accuracy:+.3f}",
            f"{row.seconds:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
