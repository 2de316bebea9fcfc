"""How long training stands still for a checkpoint of a gigabyte, against gathering it and `torch.save`.

    python -m benchmarks.checkpoints

Two FSDP2 workers (gloo, CPU) hold a ViT of 88 million weights with AdamW's state. Peer: the whole state is gathered on
rank 0, which saves it while all wait. Ours: `Checkpoints.save`, which writes behind the training; the steps done
meanwhile are timed against those done without.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from tests.training_runs import run_ranks
from vitruvian.models.registry import architecture
from vitruvian.spec import Model, Training
from vitruvian.store import FolderStore
from vitruvian.training.checkpoints import Checkpoints, Position, State
from vitruvian.training.parallel import Learner
from vitruvian.training.together import everywhere

WORLD = 2
TIMES = 3
STEPS = 10
MODEL = {"imageSize": 32, "patchSize": 8, "hiddenSize": 768, "layers": 12, "heads": 12}


def rank_of(rank: int, world: int, folder: str) -> None:
    """Measure as one of the workers; rank 0 prints."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    torch.manual_seed(0)
    model = Model.model_validate({"architecture": "vit", "dimensions": MODEL})
    module = architecture("vit").build(model, [str(index) for index in range(15)])
    training = Training.model_validate({"strategy": "fsdp", "workers": WORLD, "batchSize": 2})
    learner = Learner(module, training, WORLD, torch.device("cpu"))
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    images = torch.randn(1, 3, 32, 32)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(learner.answer(images).square().sum())
        optimizer.step()

    for _ in range(3):
        step()
    peer = [_timed(lambda: _gather_and_save(module, optimizer, Path(folder) / "peer.pt", rank)) for _ in range(TIMES)]
    undisturbed = [_timed(step) for _ in range(STEPS)]

    checkpoints = Checkpoints(FolderStore(Path(folder) / "ours"), keep=1)
    if rank == 0:
        checkpoints.claim()
    else:
        checkpoints.state = State(attempt=1)
    dist.barrier()
    still, meanwhile, written = [], [], []
    for number in range(TIMES + 1):
        done: list[float] = []
        began = time.monotonic()
        checkpoints.save(module, optimizer, Position(), number, rank, WORLD, done.append)
        still.append(time.monotonic() - began)
        steps = []
        while not everywhere(bool(done), WORLD):
            steps.append(_timed(step))
        checkpoints.settle()
        dist.barrier()
        if number:
            meanwhile += steps
            written += done
    if rank == 0:
        size = sum(path.stat().st_size for path in (Path(folder) / "ours").rglob("*.distcp"))
        _print(size, peer, still, undisturbed, meanwhile, written)


def _gather_and_save(module: nn.Module, optimizer: torch.optim.Optimizer, path: Path, rank: int) -> None:
    whole: Any = get_state_dict(module, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save(whole, path)
    dist.barrier()


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _print(
    size: int,
    peer: list[float],
    still: list[float],
    undisturbed: list[float],
    meanwhile: list[float],
    written: list[float],
) -> None:
    theirs, ours = statistics.median(peer), statistics.median(still[1:])
    quiet, busy = statistics.median(undisturbed), statistics.median(meanwhile)
    table = Table("", "seconds", "ratio", title=f"a checkpoint of {size / 1e9:.2f} GB, {WORLD} workers")
    table.add_row("gather + torch.save: training stands still", f"{theirs:.2f}", "1.00")
    table.add_row("Checkpoints.save: training stands still", f"{ours:.3f}", f"{ours / theirs:.3f}")
    table.add_row("the first of a run, which makes room for the copy", f"{still[0]:.3f}", f"{still[0] / theirs:.3f}")
    table.add_row("until it is written", f"{statistics.median(written):.2f}", "")
    table.add_row("a step without a checkpoint", f"{quiet:.3f}", "1.00")
    table.add_row("a step while one is written: speed", f"{busy:.3f}", f"{quiet / busy:.2f}")
    Console().print(table)


def main() -> None:
    """Start the workers."""
    with tempfile.TemporaryDirectory() as folder:
        run_ranks(rank_of, WORLD, folder)


if __name__ == "__main__":
    main()
