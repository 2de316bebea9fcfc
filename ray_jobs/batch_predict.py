"""Predict all files of a folder or S3 prefix with a bundle, as a Ray job on as many nodes as there are.

ray job submit --working-dir . -- python ray_jobs/batch_predict.py --bundle s3://BUCKET/poses \\
    --source s3://BUCKET/pictures --out s3://BUCKET/answers

Each part of the files is answered once, however often the job is killed: the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, get_args

import ray
import ray.data

from vitruvian.errors import VitruvianError
from vitruvian.inference.batch import Batch, Format, Worker, begin, finish, missing


class Predict:
    """What Ray Data runs on each node: it keeps the model between parts."""

    def __init__(self, batch: Batch) -> None:
        self.worker = Worker(batch)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        return {"files": len(self.worker.batch.keys_of(part)), "failed": self.worker.write(part)}


def predict(batch: Batch, cpus: int) -> None:
    """Do the parts that are missing, and tell how far that is."""
    left = missing(batch)
    print(f"{len(batch.keys)} files in {batch.parts} parts, {batch.parts - len(left)} of them done before", flush=True)
    if left:
        at_once = max(1, min(len(left), int(ray.cluster_resources().get("CPU", 1)) // cpus))
        ray.data.DataContext.get_current().enable_progress_bars = False
        parts = ray.data.from_items([{"part": part} for part in left], override_num_blocks=len(left))
        done = parts.map(Predict, fn_constructor_args=(batch,), num_cpus=cpus, concurrency=(1, at_once))
        files = failed = 0
        for number, row in enumerate(done.iter_rows(), 1):
            files, failed = files + row["files"], failed + row["failed"]
            print(f"{number} of {len(left)} parts: {files} files, {failed} of them can't be used", flush=True)
    finish(batch)
    print(f"the answers are in {batch.out}", flush=True)


def main() -> None:
    """Read the command line and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, help="the address of bundles or of one")
    parser.add_argument("--source", required=True, help="a folder or s3://BUCKET/PREFIX of files")
    parser.add_argument("--out", required=True, help="a folder or s3://BUCKET/PREFIX for the answers")
    parser.add_argument("--format", choices=get_args(Format), default="parquet")
    parser.add_argument("--part", type=int, default=1000, help="files of a part")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of a worker")
    asked = parser.parse_args()
    try:
        batch = begin(asked.bundle, asked.source, asked.out, asked.format, asked.part)
        ray.init()
        predict(batch, asked.cpus)
    except VitruvianError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
