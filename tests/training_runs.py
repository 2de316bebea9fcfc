"""Small training runs for tests: real data on disk, real processes, real checkpoints."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.ports import free_port
from vitruvian.artifact import fetch
from vitruvian.data.prepare import prepare
from vitruvian.data.sources import open_source
from vitruvian.evaluation.predict import load_model
from vitruvian.models.inputs import preprocess_for
from vitruvian.spec import Data, Model, Training
from vitruvian.store import open_store
from vitruvian.training import parallel
from vitruvian.training.checkpoints import read_state
from vitruvian.training.job import Job
from vitruvian.training.loop import train

# Each process of a group is forked from one that has imported all that it needs.
multiprocessing.set_forkserver_preload(["vitruvian.training.loop", "vitruvian.models.vit", "tests.training_runs"])

TINY_VIT = {"imageSize": 16, "patchSize": 8, "hiddenSize": 16, "layers": 1, "heads": 2}


def make_job(
    root: Path,
    architecture: str = "vit",
    run: str = "run",
    count: int = 160,
    model: Model | None = None,
    **training: Any,
) -> Job:
    """Return a job on a prepared synthetic set below `root`; several runs share the data."""
    declared = {"architecture": architecture} | ({"dimensions": TINY_VIT} if architecture == "vit" else {})
    model = model or Model.model_validate(declared)
    folder = root / f"prepared-{model.architecture}-{count}"
    if not folder.exists():
        folder.mkdir(parents=True)
        data = Data.model_validate({"source": f"synthetic://poses?count={count}"})
        preprocess = preprocess_for(model)
        prepare(open_source(data, preprocess), data, preprocess, folder)
    settings = {"epochs": 3, "batchSize": 16, "augmentation": "medium", "checkpoints": {"everySteps": 2}} | training
    return Job(model, Training.model_validate(settings), str(folder), str(root / run))


class Killed(Exception):
    """Stands for the end of a process between two steps."""


def train_until(job: Job, stop: Callable[[dict[str, Any]], bool] | None = None) -> list[dict[str, Any]]:
    """Train in this process until an event for which `stop` holds; return the events."""
    events: list[dict[str, Any]] = []

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if stop and stop(event):
            raise Killed

    # The bits of a sum follow from the number of threads: the same here as in a rank of its own.
    torch.set_num_threads(1)
    try:
        train(job, 0, 1, emit)
    except Killed:
        return events
    assert stop is None, "training was never stopped"
    return events


def train_ranks(job: Job, world: int, stop_at: int | None = None, least: int = parallel.LEAST) -> None:
    """Train with real gloo ranks, each a process of its own; all of them end where a step's checkpoint is saved.

    So many weights are put together at once of what is shared out.
    """
    try:
        run_ranks(_rank, world, job, stop_at, least)
        assert stop_at is None, "training was never stopped"
    except ProcessRaisedException as e:
        if stop_at is None or "Killed" not in str(e):
            raise


def _rank(rank: int, world: int, job: Job, stop_at: int | None, least: int) -> None:
    parallel.LEAST = least

    def emit(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint" and event["step"] == stop_at:
            raise Killed

    train(job, rank, world, emit)


def run_ranks(work: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run `work(rank, world, …)` in processes of its own that make up a gloo group; raises what one of them raises."""
    start_processes(  # type: ignore[no-untyped-call]
        _in_group, (world, *_passed_on(work, arguments)), nprocs=world, start_method="forkserver"
    )


def start_ranks(work: Callable[..., None], world: int, *arguments: Any) -> list[ForkServerProcess]:
    """Start the same, and leave it to the caller to end them."""
    kind, passed_on = multiprocessing.get_context("forkserver"), _passed_on(work, arguments)
    ranks = [kind.Process(target=_in_group, args=(rank, world, *passed_on)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    return ranks


def _passed_on(work: Callable[..., None], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    # What they are forked from has the environment of the time when it was started.
    return free_port(), dict(os.environ), work, arguments


def _in_group(
    rank: int, world: int, port: int, environ: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=world, rank=rank)
    try:
        work(rank, world, *arguments)
    finally:
        dist.destroy_process_group()


def killed_after(steps: int) -> None:
    """Have this process end like one that is killed, after so many steps of its optimizer."""
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)


def chosen_model(job: Job) -> torch.nn.Module:
    """Return the model with the weights that a run kept."""
    store = open_store(job.checkpoints)
    weights = read_state(store).weights
    assert weights is not None
    return load_model(job.model.architecture, fetch(store, weights))


def chosen_weights(job: Job) -> dict[str, torch.Tensor]:
    """Return the weights that a run kept."""
    return chosen_model(job).state_dict()


def last_checkpoint(job: Job) -> dict[str, Any]:
    """Return every value of a run's newest checkpoint."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    store = open_store(job.checkpoints)
    newest = read_state(store).checkpoints[-1]
    folder = fetch(store, newest)
    flat = folder.parent / f"{newest}.pt"
    dcp_to_torch_save(folder, flat)
    loaded: dict[str, Any] = torch.load(flat, weights_only=False)
    return loaded


def equal(first: Any, second: Any) -> bool:
    """Tell whether two nested values are the same to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
