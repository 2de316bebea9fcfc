"""Predict all files of a folder or S3 prefix with a bundle, as a Ray job on as many nodes as there are.

ray job submit --working-dir . -- python ray_jobs/batch_predict.py --bundle s3://BUCKET/poses \\
    --source s3://BUCKET/pictures --out s3://BUCKET/answers

Each part of the files is answered once, however often the job is killed: the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import get_args

from rich.console import Console

from vitruvian.errors import VitruvianError
from vitruvian.inference.batch import Format
from vitruvian.inference.offline import batch_command
from vitruvian.serving import spread


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
    write = partial(spread.write, cpus=asked.cpus)
    try:
        batch_command(asked.bundle, asked.source, asked.out, asked.format, asked.part, Console(), write)
    except VitruvianError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
