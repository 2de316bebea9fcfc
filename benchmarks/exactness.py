"""Whether a run that is killed ends with the bits of one that isn't, for every kind of model and way to train it.

    python -m benchmarks.exactness [--kills 5] [--only vit resnet50] [--seed 0]

Each cell trains a small model on two workers (gloo, CPU) with random augmentation: once undisturbed, and once for each
kill, where all workers end by SIGKILL after a random step and the same run is begun again. All weights, all values of
the optimizer, every rank's generator and the weights that were kept must be equal (`torch.equal`).
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.training_runs import chosen_weights, equal, killed_after, last_checkpoint, make_job, start_ranks
from vitruvian.spec import Model
from vitruvian.store import open_store
from vitruvian.training.checkpoints import read_state
from vitruvian.training.job import Job
from vitruvian.training.loop import train

WORLD = 2
EPOCHS = 2
STEPS = 5
BATCH = 8
TINY = {"imageSize": 32, "patchSize": 16, "hiddenSize": 32, "layers": 2, "heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "clip": {"dimensions": TINY, "clip": {"unfreezeText": 1}},
    "vit": {"dimensions": TINY},
    "resnet50": {"dimensions": {"imageSize": 32}},
    "heatmap-cnn": {},
}


@dataclass(frozen=True)
class Cell:
    """One way to train one kind of model."""

    architecture: str
    strategy: str
    loaders: int


CELLS = [Cell(*values) for values in product(MODELS, ("ddp", "fsdp"), (0, 2))]


def work(rank: int, world: int, job: Job, kill_after: int | None) -> None:
    """Train as one of the workers, which may be killed."""
    if kill_after is not None:
        killed_after(kill_after)
    train(job, rank, world, lambda event: None)


def job_of(root: Path, cell: Cell, run: str) -> Job:
    """Return a cell's job; all of its runs share their data."""
    return make_job(
        root,
        run=run,
        # Of ten examples seven are for training.
        count=round(STEPS * BATCH / 0.7),
        model=Model.model_validate({"architecture": cell.architecture, **MODELS[cell.architecture]}),
        epochs=EPOCHS,
        batchSize=BATCH,
        augmentation="strong",
        strategy=cell.strategy,
        workers=WORLD,
        loaders=cell.loaders,
    )


def run_to_the_end(job: Job, kill_after: int | None = None) -> None:
    """Train, and begin again where the workers were killed; raises `RuntimeError` where they fail otherwise."""
    for after in (kill_after, None) if kill_after else (None,):
        ranks = start_ranks(work, WORLD, job, after)
        for rank in ranks:
            rank.join()
        ended = {rank.exitcode for rank in ranks}
        if ended != ({-9} if after else {0}):
            raise RuntimeError(f"workers ended with {sorted(ended, key=str)}")


def differences(cell: Cell, kills: list[int], root: Path) -> list[int]:
    """Return the steps after which a killed run ended with other bits than an undisturbed one."""
    whole = job_of(root, cell, "whole")
    run_to_the_end(whole)
    wanted = last_checkpoint(whole), chosen_weights(whole)
    different = []
    for step in kills:
        broken = job_of(root, cell, f"killed-{step}")
        run_to_the_end(broken, step)
        # The killed attempt and the one that went on.
        assert read_state(open_store(broken.checkpoints)).attempt == 2
        if not equal(wanted, (last_checkpoint(broken), chosen_weights(broken))):
            different.append(step)
        shutil.rmtree(broken.checkpoints)
    return different


def main() -> None:
    """Print a table of all cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="in each cell")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="ARCHITECTURE")
    parser.add_argument("--seed", type=int, default=0, help="what decides when they are killed")
    asked = parser.parse_args()
    drawn = random.Random(asked.seed)
    table = Table("architecture", "strategy", "loaders", "killed after step", "equal", title="a killed run's last bits")
    exact = True
    for cell in CELLS:
        kills = sorted(drawn.sample(range(1, EPOCHS * STEPS), asked.kills))
        if cell.architecture not in asked.only:
            continue
        with tempfile.TemporaryDirectory(prefix="vitruvian-exactness-") as name:
            different = differences(cell, kills, Path(name))
        exact &= not different
        told = f"{len(kills) - len(different)} of {len(kills)}"
        table.add_row(cell.architecture, cell.strategy, str(cell.loaders), " ".join(map(str, kills)), told)
        print(cell, told, file=sys.stderr)
    Console().print(table)
    sys.exit(not exact)


if __name__ == "__main__":
    main()
