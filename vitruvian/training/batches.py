"""Sample order and augmentation as pure functions of (seed, epoch, index), so that nothing but a position is saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from vitruvian.data.prepared import PreparedPart
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess

Strength = Literal["none", "light", "medium", "strong"]
T = TypeVar("T")


class _Ranges(NamedTuple):
    """How far each change may go."""

    scale: float
    shift: float
    degrees: float
    colour: float
    cover: float
    jitter: float
    """Of heatmaps: how far each keypoint may move by itself, as a share of the height."""


_RANGES: dict[str, _Ranges] = {
    "light": _Ranges(scale=0.0, shift=0.06, degrees=0, colour=0.15, cover=0.0, jitter=0.02),
    "medium": _Ranges(scale=0.2, shift=0.1, degrees=12, colour=0.2, cover=0.2, jitter=0.04),
    "strong": _Ranges(scale=0.3, shift=0.15, degrees=20, colour=0.3, cover=0.3, jitter=0.06),
}


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of all examples in an epoch, whatever the number of workers."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def share(indices: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """Return one worker's part of a step's examples."""
    return indices[rank::world]


def load(
    part: PreparedPart, indices: NDArray[np.int64], preprocess: ImagePreprocess | HeatmapPreprocess
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs as the model takes them, (n, …) of float32, and labels (n,)."""
    inputs = torch.from_numpy(preprocess.tensor(part.gather(indices)))
    return inputs, torch.from_numpy(part.labels[indices])


def ahead(steps: Iterable[int], make: Callable[[int], T], loaders: int) -> Iterator[T]:
    """Yield what `make` returns for each step, in order; so many threads make the next ones while one is used."""
    if not loaders:
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(loaders, "loader") as pool:
        made: deque[Future[T]] = deque()
        try:
            for step in steps:
                made.append(pool.submit(make, step))
                if len(made) > loaders:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for future in made:
                future.cancel()


def augment(
    inputs: torch.Tensor, indices: NDArray[np.int64], kind: str, strength: Strength, seed: int, epoch: int
) -> torch.Tensor:
    """Return inputs (n, channels, height, width) moved and recoloured; from medium on scaled, turned, covered.

    Images are never mirrored: in many pose classes left and right differ.
    """
    if strength == "none":
        return inputs
    draws = torch.from_numpy(np.stack([_draw(seed, epoch, int(index), inputs.shape[1]) for index in indices]))
    ranges = _RANGES[strength]
    if kind == "image":
        moved = _move(inputs, draws[:, :5], ranges, "border")
        recoloured = moved * (1 + ranges.colour * draws[:, 5, None, None, None])
        recoloured = recoloured + ranges.colour * draws[:, 6:9, None, None]
        return _cover(recoloured, draws[:, 9:14], ranges.cover)
    height, across, down, unseen = draws[:, 14:].chunk(4, 1)
    moved = _move(_jitter(inputs, across, down, ranges.jitter), draws[:, :5], ranges, "zeros")
    heights = 1 + ranges.colour * height[:, :, None, None]
    # A keypoint that isn't seen has no heatmap.
    hidden = unseen.abs()[:, :, None, None] < ranges.cover / 4
    return (moved * heights).masked_fill(hidden, 0)


def _draw(seed: int, epoch: int, index: int, channels: int) -> NDArray[np.float32]:
    key = np.random.Philox(key=[seed, epoch], counter=[0, 0, index, 1])
    return np.random.Generator(key).uniform(-1, 1, 14 + 4 * channels).astype(np.float32)


def _jitter(heatmaps: torch.Tensor, across: torch.Tensor, down: torch.Tensor, most: float) -> torch.Tensor:
    """Move every keypoint by whole pixels: people differ in their limbs, and estimators err by keypoint."""
    height, width = heatmaps.shape[2:]
    rows = (torch.arange(height) - (down * most * height).round().long()[:, :, None]).clamp(0, height - 1)
    columns = (torch.arange(width) - (across * most * height).round().long()[:, :, None]).clamp(0, width - 1)
    lifted = heatmaps.gather(2, rows[:, :, :, None].expand(-1, -1, -1, width))
    return lifted.gather(3, columns[:, :, None, :].expand(-1, -1, height, -1))


def _move(inputs: torch.Tensor, draws: torch.Tensor, ranges: _Ranges, outside: str) -> torch.Tensor:
    height, width = inputs.shape[2:]
    scale = 1 + ranges.scale * draws[:, 0]
    angle = torch.deg2rad(ranges.degrees * draws[:, 1])
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # In the grid's units both sides are 2 long: without their ratio a turn would shear what isn't square.
    rows = [
        torch.stack([cos, -sin * height / width, 2 * ranges.shift * draws[:, 2]], 1),
        torch.stack([sin * width / height, cos, 2 * ranges.shift * draws[:, 3]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def _cover(images: torch.Tensor, draws: torch.Tensor, chance: float) -> torch.Tensor:
    """Lay a grey rectangle over some images (random erasing, Zhong et al., 2020)."""
    if not chance:
        return images
    size = images.shape[2]
    middle = (draws[:, :2] + 1) / 2 * size
    half = (0.05 + 0.1 * (draws[:, 2:4] + 1) / 2) * size
    place = torch.arange(size)
    inside = [(place[None] - middle[:, i, None]).abs() < half[:, i, None] for i in range(2)]
    box = inside[1][:, :, None] & inside[0][:, None, :]
    box &= ((draws[:, 4] + 1) / 2 < chance)[:, None, None]
    return images.masked_fill(box[:, None], 0)
