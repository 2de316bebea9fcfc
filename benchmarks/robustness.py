"""What a fine-tuned CLIP loses where pictures look otherwise, and what weights on the way to the learnt ones give back.

    python -m benchmarks.robustness [--seeds 0 1 2] [--folder FOLDER]

A small CLIP is pretrained on drawn actions in all sorts of looks: textures laid over the pictures, and their colours
exchanged. Then it is fine-tuned on plain drawings, and asked about other plain drawings (in distribution) and about
drawings under textures that neither training saw (out of distribution). Points between the pretrained and the learnt
weights (WiSE-FT, Wortsman et al., 2022) are chosen on the plain validation part. All through the product's commands.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.motion import run
from vitruvian.data import synthetic

SIZE = 48
PEOPLE = 40
POINTS = (0, 0.2, 0.4, 0.6, 0.8, 1)
WORLD, PLAIN = 6000, 1500
PLAIN_FROM = 1_000_000
Picture = NDArray[np.floating]

HEADER = "apiVersion: vitruvian.dev/v1alpha1\nkind: Classifier\n"
PRETRAIN = """\
metadata: {{name: world}}
spec:
  data: {{source: {source}, seed: {seed}}}
  model:
    architecture: clip
    dimensions: {{imageSize: 48, patchSize: 8, hiddenSize: 96, layers: 4, heads: 4, intermediateSize: 192}}
  training:
    {{strategy: none, epochs: 16, batchSize: 64, learningRate: 1e-3, augmentation: light, earlyStopping: null,
      seed: {seed}}}
  artifacts: {artifacts}
"""
FINE_TUNE = """\
metadata: {{name: plain}}
spec:
  data: {{source: {source}, seed: {seed}}}
  model:
    architecture: clip
    pretrained: {pretrained}
    clip: {{unfreezeVisual: 4, interpolation: {points}}}
  training:
    {{strategy: none, epochs: 12, batchSize: 64, learningRate: 5e-4, augmentation: none, earlyStopping: null,
      seed: {seed}}}
  artifacts: {artifacts}
"""


def _stripes(rng: np.random.Generator, across: float) -> Picture:
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    angle = np.deg2rad(across + rng.uniform(-15, 15))
    wave = np.sin(2 * np.pi * rng.uniform(3, 8) * (rows * np.sin(angle) + columns * np.cos(angle)) + rng.uniform(0, 6))
    return np.where(wave > 0, 1.0, 0.0)[:, :, None] * rng.random(3)


def _blocks(rng: np.random.Generator) -> Picture:
    few = rng.random((int(rng.integers(3, 9)),) * 2 + (3,))
    return np.kron(few, np.ones((SIZE // len(few) + 1,) * 2 + (1,)))[:SIZE, :SIZE]


def _noise(rng: np.random.Generator) -> Picture:
    return rng.random((SIZE, SIZE, 1)) * rng.random(3)


def _rings(rng: np.random.Generator) -> Picture:
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    away = np.hypot(rows - rng.random(), columns - rng.random())
    return np.where(np.sin(2 * np.pi * rng.uniform(3, 8) * away) > 0, 1.0, 0.0)[:, :, None] * rng.random(3)


def _chequers(rng: np.random.Generator) -> Picture:
    side = int(rng.integers(3, 9))
    rows, columns = np.mgrid[:SIZE, :SIZE] // side
    odd: Picture = ((rows + columns) % 2).astype(np.float64)
    return odd[:, :, None] * rng.random(3)


SEEN: tuple[Callable[[np.random.Generator], Picture], ...] = (
    lambda rng: _stripes(rng, 0),
    lambda rng: _stripes(rng, 90),
    _blocks,
    _noise,
)
UNSEEN: tuple[Callable[[np.random.Generator], Picture], ...] = (_rings, _chequers, lambda rng: _stripes(rng, 45))


def restyle(
    picture: NDArray[np.uint8], rng: np.random.Generator, textures: tuple[Callable[[np.random.Generator], Picture], ...]
) -> NDArray[np.uint8]:
    """Return a picture (48, 48, 3) with its colours exchanged, under a texture."""
    values = picture[:, :, rng.permutation(3)] / 255
    if rng.random() < 0.5:
        values = 1 - values
    share = rng.uniform(0.25, 0.5)
    values = (1 - share) * values + share * textures[int(rng.integers(len(textures)))](rng)
    return (values * 255).round().astype(np.uint8)


def draw(folder: Path, first: int, count: int, seed: int, textures: tuple[Callable[..., Picture], ...]) -> Path:
    """Draw a folder of classes; without textures they stay plain."""
    for index in range(first, first + count):
        figure = synthetic.figure(index, seed, PEOPLE)
        picture = synthetic.picture(figure, SIZE)
        if textures:
            picture = restyle(picture, np.random.default_rng([seed, index]), textures)
        path = folder / figure.label / f"{index:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def train(folder: Path, name: str, text: str, **values: object) -> Path:
    """Train as a file says; return where its bundles lie."""
    declared, artifacts = folder / f"{name}.yaml", folder / name
    quoted = {key: json.dumps(str(value)) if isinstance(value, Path) else value for key, value in values.items()}
    declared.write_text(HEADER + text.format(artifacts=json.dumps(str(artifacts)), **quoted))
    run("run", "-f", declared)
    return artifacts


def accuracy(artifacts: Path, pictures: Path, answers: Path) -> float:
    """Return the share of right answers to a folder of classes."""
    run("predict", artifacts, pictures, "--csv", answers)
    with open(answers, newline="") as file:
        return statistics.mean(Path(row["path"]).parent.name == row["label"] for row in csv.DictReader(file))


def compare(folder: Path, seed: int) -> dict[str, tuple[float, float]]:
    """Return accuracy in and out of distribution of each point, and of the chosen one."""
    world = draw(folder / "world", 0, WORLD, seed, SEEN)
    plain = draw(folder / "plain", PLAIN_FROM, PLAIN, seed, ())
    same = draw(folder / "same", 2 * PLAIN_FROM, PLAIN, seed, ())
    other = draw(folder / "other", 2 * PLAIN_FROM, PLAIN, seed, UNSEEN)
    pretrained = train(folder, "pretrain", PRETRAIN, source=world, seed=seed)
    bundles = {f"{point:g}": [point] for point in POINTS} | {"chosen": list(POINTS)}
    found = {}
    for name, points in bundles.items():
        artifacts = train(folder, "tuned", FINE_TUNE, source=plain, seed=seed, pretrained=pretrained, points=points)
        found[name] = tuple(accuracy(artifacts, asked, folder / "answers.csv") for asked in (same, other))
    return found  # type: ignore[return-value]


def main() -> None:
    """Print a table over all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where to work; it is kept")
    asked = parser.parse_args()
    found = []
    for seed in asked.seeds:
        root = Path(tempfile.mkdtemp(prefix="vitruvian-robustness-")) if asked.folder is None else asked.folder
        found.append(compare(root / str(seed), seed))
        print(seed, found[-1], file=sys.stderr)
        if asked.folder is None:
            shutil.rmtree(root)
    table = Table("weights", "in distribution", "out of it", "against plain fine-tuning", title=f"seeds {asked.seeds}")
    means = {name: [statistics.mean(each[name][i] for each in found) for i in (0, 1)] for name in found[0]}
    for name, (same, other) in means.items():
        change = f"{100 * (same - means['1'][0]):+.1f}, {100 * (other - means['1'][1]):+.1f}"
        table.add_row(name, f"{same:.3f}", f"{other:.3f}", change)
    Console().print(table)


if __name__ == "__main__":
    main()
