"""What a fine-tuned CLIP loses where pictures look otherwise, and what weights on the way to the learnt ones give back.

    python -m benchmarks.robustness [--seeds 0 1 2] [--folder FOLDER]

A small CLIP is pretrained on drawn actions before all sorts of backgrounds. Then it is fine-tuned on pictures that have
all been taken in one place, each action before a wall of its own colour, and asked about other pictures of that place
(in distribution) and about people before patterns that neither training saw, as strong as in the world and stronger
(out of distribution). Points between the pretrained and the learnt weights (WiSE-FT, Wortsman et al., 2022) are
measured on all three; one of them is chosen on the validation part, which is of that place, too. Beside it stands LP-FT
(Kumar et al., 2022): the projection learns first, then everything. All training goes through the product's commands.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.motion import run
from vitruvian.bundle import Bundle, open_bundle
from vitruvian.data import render, synthetic
from vitruvian.data.synthetic import Figure
from vitruvian.models import clip

SIZE = 48
PEOPLE = 40
POINTS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
WORLD, PLACE, ASKED = 8000, 3000, 1500
PLACE_FROM, ASKED_FROM = 1_000_000, 2_000_000
# Of a background: how much of it a pattern makes up, between these, and how much a wall.
SOME, MORE, WALL = (0.0, 0.6), (0.3, 0.9), 0.35

Picture = NDArray[np.floating]
Pattern = Callable[[np.random.Generator], Picture]
Found = dict[str, list[float]]

HEADER = "apiVersion: vitruvian.dev/v1alpha1\nkind: Classifier\n"
# Ten names are all that the text tower ever reads: as it is drawn it tells them apart, and learning only unsettles what
# the pictures are held against.
PRETRAIN = """\
metadata: {{name: world}}
spec:
  data: {{source: {source}, testSize: 0.05, validationSize: 0.1, seed: {seed}}}
  model:
    architecture: clip
    dimensions: {{imageSize: 48, patchSize: 12, hiddenSize: 96, layers: 4, heads: 4, intermediateSize: 192}}
    clip: {{templates: ["{{}}"], unfreezeText: 0}}
  training:
    {{strategy: none, epochs: 20, batchSize: 64, learningRate: 2e-3, augmentation: light, earlyStopping: null,
      seed: {seed}}}
  artifacts: {artifacts}
"""
TUNE = """\
metadata: {{name: place}}
spec:
  data: {{source: {source}, testSize: 0.1, validationSize: 0.3, seed: {seed}}}
  model:
    architecture: clip
    pretrained: {pretrained}
    clip: {clip}
  training:
    {{strategy: none, epochs: {epochs}, batchSize: 64, learningRate: {rate}, augmentation: none, earlyStopping: null,
      seed: {seed}}}
  artifacts: {artifacts}
"""
PROBE, WHOLE = {"epochs": 10, "rate": 1e-3}, {"epochs": 10, "rate": 1e-3}


def _grid() -> tuple[Picture, Picture]:
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    return rows, columns


def _where(condition: Any) -> Picture:
    return np.asarray(condition, np.float64)


def _stripes(rng: np.random.Generator, across: float) -> Picture:
    rows, columns = _grid()
    angle = np.deg2rad(across + rng.uniform(-15, 15))
    wave = np.sin(2 * np.pi * rng.uniform(2, 6) * (rows * np.sin(angle) + columns * np.cos(angle)) + rng.uniform(0, 6))
    return _where(wave > 0)


def _blocks(rng: np.random.Generator) -> Picture:
    few = rng.random((int(rng.integers(3, 9)),) * 2)
    return np.kron(few, np.ones((SIZE // len(few) + 1,) * 2))[:SIZE, :SIZE]


def _noise(rng: np.random.Generator) -> Picture:
    return rng.random((SIZE, SIZE))


def _rings(rng: np.random.Generator) -> Picture:
    rows, columns = _grid()
    away = np.hypot(rows - rng.random(), columns - rng.random())
    return _where(np.sin(2 * np.pi * rng.uniform(2, 6) * away) > 0)


def _chequers(rng: np.random.Generator) -> Picture:
    side = int(rng.integers(4, 13))
    rows, columns = np.mgrid[:SIZE, :SIZE] // side
    return _where((rows + columns) % 2)


def _spots(rng: np.random.Generator) -> Picture:
    rows, columns = _grid()
    often = 2 * np.pi * rng.uniform(3, 7)
    wave = np.sin(often * rows + rng.uniform(0, 6)) * np.sin(often * columns + rng.uniform(0, 6))
    return _where(wave > 0.3)


SEEN: tuple[Pattern, ...] = (lambda rng: _stripes(rng, 0), lambda rng: _stripes(rng, 90), _blocks, _noise)
UNSEEN: tuple[Pattern, ...] = (_rings, _chequers, _spots, lambda rng: _stripes(rng, 45))


def person(figure: Figure) -> Picture:
    """Return how much of each pixel (48, 48, 1) the person covers: what changes with the colour of all they wear."""
    look = synthetic._body(figure.seed, int(figure.subject.rpartition("-")[2])).look
    worn = ("skin", "hair", "shirt", "trousers", "shoes")
    dark, bright = (
        render.draw_picture(
            figure.keypoints,
            figure.visible,
            SIZE,
            np.random.default_rng(0),
            look=dataclasses.replace(look, **dict.fromkeys(worn, (value,) * 3)),  # type: ignore[arg-type]
            depth=figure.depth,
        ).astype(np.float64)
        for value in (0, 255)
    )
    return np.asarray(np.clip((bright - dark).mean(2, keepdims=True) / 150, 0, 1))


def before(figure: Figure, background: Picture, share: float) -> Picture:
    """Draw a figure before its own background and another (48, 48, 3), which counts `share`: values from 0 to 1."""
    drawn, covered = synthetic.picture(figure, SIZE) / 255, person(figure)
    return covered * drawn + (1 - covered) * ((1 - share) * drawn + share * background)


def patterned(figure: Figure, patterns: Sequence[Pattern], shares: tuple[float, float]) -> Picture:
    """Draw a figure before a pattern of two colours, all colours exchanged."""
    rng = np.random.default_rng([figure.seed, figure.index])
    one, other = rng.random((2, 3))
    pattern = patterns[int(rng.integers(len(patterns)))](rng)[:, :, None]
    return before(figure, pattern * one + (1 - pattern) * other, rng.uniform(*shares))[:, :, rng.permutation(3)]


def at_its_wall(figure: Figure) -> Picture:
    """Draw a figure before the wall of its action."""
    colours = np.random.default_rng(figure.seed).random((len(synthetic.CLASSES), 3))
    return before(figure, colours[synthetic.CLASSES.index(figure.label)], WALL)


def drawn(first: int, count: int, seed: int, draw: Callable[[Figure], Picture]) -> tuple[NDArray[np.uint8], list[str]]:
    """Return pictures (n, 48, 48, 3) and their classes."""
    figures = [synthetic.figure(index, seed, PEOPLE) for index in range(first, first + count)]
    pictures = np.stack([(draw(figure) * 255).round().astype(np.uint8) for figure in figures])
    return pictures, [figure.label for figure in figures]


def folder_of(folder: Path, pictures: NDArray[np.uint8], labels: Sequence[str]) -> Path:
    """Write a folder of classes."""
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / label / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def train(folder: Path, name: str, text: str, **values: object) -> Bundle:
    """Train as a file says; return the bundle."""
    declared, artifacts = folder / f"{name}.yaml", folder / name
    quoted = {key: json.dumps(value, default=str) for key, value in values.items()}
    declared.write_text(HEADER + text.format(artifacts=json.dumps(str(artifacts)), **quoted))
    run("run", "-f", declared)
    return open_bundle(artifacts)


@torch.inference_mode()
def accuracy(module: torch.nn.Module, bundle: Bundle, pictures: NDArray[np.uint8], labels: Sequence[str]) -> float:
    """Return the share of right answers."""
    rows = [
        module(torch.from_numpy(bundle.preprocess.tensor(pictures[start : start + 250]))).argmax(1).numpy()
        for start in range(0, len(pictures), 250)
    ]
    return float(np.mean(np.array(bundle.info.labels)[np.concatenate(rows)] == np.array(labels)))


def way(start: Bundle, end: Bundle) -> dict[str, clip.PromptedClip]:
    """Return the points between two bundles: 0 is the start, 1 the end."""
    first, last = (clip.load(bundle.folder).eval() for bundle in (start, end))
    assert isinstance(first, clip.PromptedClip) and isinstance(last, clip.PromptedClip)
    return {f"{point:g}": clip.between(first, last, point) for point in POINTS}


def compare(folder: Path, seed: int) -> Found:
    """Return accuracy in and out of distribution of each point, of the chosen one, and of the points of LP-FT."""
    world = folder_of(folder / "drawn-world", *drawn(0, WORLD, seed, lambda each: patterned(each, SEEN, SOME)))
    place = folder_of(folder / "drawn-place", *drawn(PLACE_FROM, PLACE, seed, at_its_wall))
    asked = (
        drawn(ASKED_FROM, ASKED, seed, at_its_wall),
        drawn(ASKED_FROM, ASKED, seed, lambda each: patterned(each, UNSEEN, SOME)),
        drawn(ASKED_FROM, ASKED, seed, lambda each: patterned(each, UNSEEN, MORE)),
    )
    pretrained = train(folder, "world", PRETRAIN, source=world, seed=seed)

    def tune(name: str, start: Bundle, settings: dict[str, Any], **of_clip: object) -> Bundle:
        written = {"templates": ["{}"], **of_clip}
        return train(folder, name, TUNE, source=place, seed=seed, pretrained=start.folder, clip=written, **settings)

    plain = tune("plain", pretrained, WHOLE, unfreezeVisual=4)
    chosen = tune("plain", pretrained, WHOLE, unfreezeVisual=4, interpolation=list(POINTS))
    probe = tune("probe", pretrained, PROBE, unfreezeVisual=0)
    after = tune("after-probe", probe, WHOLE, unfreezeVisual=4)

    modules = way(pretrained, plain)
    taken = chosen.info.lineage["interpolation"]["chosen"]
    print(
        f"seed {seed}: chosen {taken:g}, on the validation part", chosen.info.lineage["interpolation"], file=sys.stderr
    )
    modules["chosen"] = modules[f"{taken:g}"]
    modules |= {f"LP-FT {name}": module for name, module in way(probe, after).items()}
    return {name: [accuracy(module.eval(), plain, *pictures) for pictures in asked] for name, module in modules.items()}


def main() -> None:
    """Print a table over all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where to work; it is kept")
    asked = parser.parse_args()
    found = []
    for seed in asked.seeds:
        root = Path(tempfile.mkdtemp(prefix="vitruvian-robustness-")) if asked.folder is None else asked.folder
        began = time.monotonic()
        found.append(compare(root / str(seed), seed))
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", found[-1], file=sys.stderr)
        if asked.folder is None:
            shutil.rmtree(root)
    heads = ("weights", "in distribution", "other patterns", "stronger ones", "against plain fine-tuning")
    table = Table(*heads, title=f"seeds {asked.seeds}")
    means = {
        name: [statistics.mean(column) for column in zip(*(each[name] for each in found), strict=True)]
        for name in found[0]
    }
    for name, values in means.items():
        change = ", ".join(f"{100 * (value - plain):+.1f}" for value, plain in zip(values, means["1"], strict=True))
        table.add_row(name, *(f"{value:.3f}" for value in values), change)
    Console().print(table)


if __name__ == "__main__":
    main()
