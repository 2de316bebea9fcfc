"""What FSDP2 costs and saves against DDP on two workers: bits, time of a step, memory of parameters and optimizer.

    python -m benchmarks.sharding [--rounds 3]

Both train the same small vision transformer through the product's own loop (gloo, CPU, one thread each), by turns.
Memory is what a worker's parameters and optimizer hold between two steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.training import BATCH, STEPS, VIT
from tests.training_runs import chosen_weights, equal, last_checkpoint, make_job, run_ranks
from vitruvian.spec import Model
from vitruvian.training.job import Job
from vitruvian.training.loop import train
from vitruvian.training.parallel import own

WORLD = 2
STRATEGIES = ("ddp", "fsdp")


def work(rank: int, world: int, job: Job, told: Path) -> None:
    """Train as one of the workers; the first writes down what it saw."""
    held: list[int] = []
    speeds: list[float] = []

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        values = [value for group in optimizer.param_groups for value in group["params"]]
        values += [value for state in optimizer.state.values() for value in state.values() if value.ndim]
        held.append(sum(own(value).nbytes for value in values))

    def emit(event: dict[str, Any]) -> None:
        if event["kind"] == "epoch":
            speeds.append(BATCH / event["imagesPerSecond"])

    register_optimizer_step_post_hook(count)
    train(job, rank, world, emit)
    if rank == 0:
        told.write_text(json.dumps({"bytes": held[-1], "seconds": statistics.median(speeds[1:])}))


def main() -> None:
    """Print both side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    held: dict[str, int] = {}
    jobs: dict[str, Job] = {}
    with tempfile.TemporaryDirectory(prefix="vitruvian-sharding-") as name:
        root = Path(name)
        for number in range(asked.rounds):
            for strategy in STRATEGIES:
                job = make_job(
                    root,
                    run=f"{strategy}-{number}",
                    count=round(STEPS * BATCH / 0.7),
                    model=Model.model_validate({"architecture": "vit", "dimensions": VIT}),
                    epochs=3,
                    batchSize=BATCH,
                    learningRate=1e-3,
                    strategy=strategy,
                    workers=WORLD,
                    checkpoints={"everySteps": None},
                )
                run_ranks(work, WORLD, job, root / "told.json")
                told = json.loads((root / "told.json").read_text())
                seconds[strategy].append(told["seconds"])
                held[strategy] = told["bytes"]
                jobs[strategy] = job
        weights = equal(*(chosen_weights(jobs[strategy]) for strategy in STRATEGIES))
        ddp, fsdp = (last_checkpoint(jobs[strategy]) for strategy in STRATEGIES)
        states = equal(ddp["optimizer"]["state"], fsdp["optimizer"]["state"])
    table = Table("", *STRATEGIES, "ratio", title="two workers")
    both = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
    table.add_row("a step, ms", *(f"{both[name]:.0f}" for name in STRATEGIES), f"{both['fsdp'] / both['ddp']:.3f}")
    sizes = [held[name] / 1e6 for name in STRATEGIES]
    table.add_row("parameters and optimizer, MB", *(f"{size:.2f}" for size in sizes), f"{sizes[1] / sizes[0]:.3f}")
    Console().print(table)
    print(f"equal to the bit: weights {weights}, the optimizer's state {states}")


if __name__ == "__main__":
    main()
