"""The prepare stage's artifact: every example decoded once, packed and split."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitruvian.data.preprocess import PREPROCESS, HeatmapPreprocess, ImagePreprocess

PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, ...] = ("train", "validation", "test")
SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PreparedPart:
    """The examples of one part, read from disk as they are needed."""

    shards: tuple[NDArray[np.generic], ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.generic]:
        """Return prepared examples by index, in that order."""
        starts = np.cumsum([0, *(len(shard) for shard in self.shards)])[:-1].tolist()
        rows = []
        for index in indices:
            shard = bisect_right(starts, int(index)) - 1
            rows.append(self.shards[shard][int(index) - starts[shard]])
        return np.stack(rows)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set on the local disk."""

    folder: Path
    classes: tuple[str, ...]
    preprocess: ImagePreprocess | HeatmapPreprocess

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Read the artifact that `Writer` wrote."""
        index = json.loads((folder / "index.json").read_text())
        return cls(folder, tuple(index["classes"]), PREPROCESS.validate_python(index["preprocess"]))

    def part(self, name: PartName) -> PreparedPart:
        """Return one part, its examples mapped from disk."""
        listed = json.loads((self.folder / f"{name}.json").read_text())
        shards = tuple(np.load(self.folder / shard, mmap_mode="r") for shard in listed["shards"])
        return PreparedPart(shards, np.asarray(listed["labels"], dtype=np.int64), tuple(listed["names"]))

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return the number of examples of each class in each part."""
        counts: dict[str, dict[str, int]] = json.loads((self.folder / "statistics.json").read_text())
        return counts


class Writer:
    """Packs the examples of one part into shards of at most `SHARD_BYTES`."""

    def __init__(self, folder: Path, name: PartName, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self.folder, self.name, self.shape, self.dtype = folder, name, shape, dtype
        size = int(np.prod(shape)) * dtype.itemsize
        self.rows_of_a_shard = max(1, SHARD_BYTES // size)
        self.rows: list[NDArray[np.generic]] = []
        self.shards: list[str] = []
        self.labels: list[int] = []
        self.names: list[str] = []

    def add(self, row: NDArray[np.generic], label: int, name: str) -> None:
        """Add one prepared example."""
        self.rows.append(row)
        self.labels.append(label)
        self.names.append(name)
        if len(self.rows) == self.rows_of_a_shard:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the part's index."""
        if self.rows:
            self._flush()
        listed = {"shards": self.shards, "labels": self.labels, "names": self.names}
        (self.folder / f"{self.name}.json").write_text(json.dumps(listed))

    def _flush(self) -> None:
        shard = f"{self.name}-{len(self.shards):04d}.npy"
        np.save(self.folder / shard, np.stack(self.rows).astype(self.dtype))
        self.shards.append(shard)
        self.rows = []
