"""Predicting the parts of many files on all nodes of a Ray cluster at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from vitruvian.artifact import cache_folder
from vitruvian.inference.batch import Batch, Worker
from vitruvian.training.ray_cluster import logged_to, start_ray


class _Predict:
    """What Ray Data runs on each node: it keeps the model between parts."""

    def __init__(self, batch: Batch) -> None:
        self.worker = Worker(batch)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        return {"files": len(self.worker.batch.keys_of(part)), "failed": self.worker.write(part)}


def write(
    batch: Batch, parts: Sequence[int], advance: Callable[[int], None], cpus: int = 1
) -> Iterator[tuple[int, int]]:
    """Write parts, as many at once as the cluster has room for; yield each one's files, and those that can't be used.

    `cpus` are those of one part. The cluster is that of RAY_ADDRESS, or else this machine.
    """
    log = cache_folder() / "logs" / "predict.log"
    with logged_to(log):
        start_ray(cpus, log)
        try:
            at_once = max(1, min(len(parts), int(ray.cluster_resources().get("CPU", 1)) // cpus))
            ray.data.DataContext.get_current().enable_progress_bars = False
            todo = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
            done = todo.map(_Predict, fn_constructor_args=(batch,), num_cpus=cpus, concurrency=(1, at_once))
            for row in done.iter_rows():
                advance(row["files"])
                yield row["files"], row["failed"]
        finally:
            ray.shutdown()
