"""The training loop that every worker runs, from top to bottom."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from vitruvian.artifact import fetch
from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.models.registry import architecture, default_learning_rate
from vitruvian.spec import Training
from vitruvian.store import open_store
from vitruvian.training import notice
from vitruvian.training.batches import augment, load, order, share
from vitruvian.training.checkpoints import Checkpoints, Position
from vitruvian.training.job import Emit, Job, waited
from vitruvian.training.parallel import Learner

_BATCH_OF_VALIDATION = 256
_SECONDS_BETWEEN_EVENTS = 0.2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sums:
    """Loss and hits over examples, summed over all workers."""

    loss: float
    correct: int
    seen: int

    @property
    def mean_loss(self) -> float:
        return self.loss / max(1, self.seen)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.seen)


def train(job: Job, rank: int, world: int, emit: Emit, device: torch.device = CPU) -> None:
    """Train as one of `world` workers, from the latest checkpoint where there is one.

    The chosen epoch's weights end up beside the checkpoints; rank 0 emits events for people to watch.
    """
    with notice.heeded():
        _train(job, rank, world, emit, device)


def _train(job: Job, rank: int, world: int, emit: Emit, device: torch.device) -> None:
    settings = job.training
    torch.manual_seed(settings.seed)
    prepared = _prepared(job)
    part, validation = prepared.part("train"), prepared.part("validation")
    # Drawn on the CPU: the same weights whatever trains them.
    module = architecture(job.model.architecture).build(job.model, prepared.classes).to(device)
    learner = Learner(module, settings.strategy, world, device)
    optimizer = _optimizer(module, settings, settings.learning_rate or default_learning_rate(job.model))

    checkpoints = Checkpoints(open_store(job.checkpoints), settings.checkpoints.keep)
    position = _resume(checkpoints, module, optimizer, rank, world)
    if position == Position():
        # The same examples on every worker, whatever their number.
        first = order(settings.seed, 0, len(part))
        architecture(job.model.architecture).adapt(
            module, lambda count: load(part, first[:count], prepared.preprocess)[0].to(device)
        )
    steps = math.ceil(len(part) / settings.batch_size)
    emit(
        {
            "kind": "start",
            "attempt": checkpoints.state.attempt,
            "epoch": position.epoch,
            "step": position.step,
            "epochs": settings.epochs,
            "steps": steps,
            "batch": settings.batch_size,
            "world": world,
            "history": list(position.history),
            "parameters": sum(p.numel() for p in module.parameters()),
            "learning": sum(p.numel() for p in module.parameters() if p.requires_grad),
        }
    )

    while position.epoch < settings.epochs and not _out_of_patience(position, settings):
        began = time.monotonic()
        epoch = position.epoch
        shuffled = order(settings.seed, epoch, len(part))
        # The sums of an interrupted epoch are counted once, on rank 0.
        loss_sum, correct, seen = (position.loss_sum, position.correct, position.seen) if rank == 0 else (0.0, 0, 0)
        told = 0.0
        learner.trained.train()
        for step in range(position.step, steps):
            everyone = shuffled[step * settings.batch_size : (step + 1) * settings.batch_size]
            mine = share(everyone, rank, world)
            _set_learning_rate(optimizer, epoch * steps + step, settings.epochs * steps, settings.warmup)
            leaving = _anyone(notice.given(), world)
            loss, hits = _step(
                learner.trained, optimizer, part, prepared, settings, epoch, everyone, mine, world, device
            )
            loss_sum, correct, seen = loss_sum + loss, correct + hits, seen + len(mine)

            done = epoch * steps + step + 1
            due = settings.checkpoints.every_steps and done % settings.checkpoints.every_steps == 0
            if (leaving() or due) and step + 1 < steps:
                sums = _summed(loss_sum, correct, seen, world)
                here = Position(epoch, step + 1, sums.loss, sums.correct, sums.seen, position.history)
                _save(checkpoints, module, optimizer, here, done, rank, world, emit)
                loss_sum, correct, seen = (sums.loss, sums.correct, sums.seen) if rank == 0 else (0.0, 0, 0)
            if time.monotonic() - told > _SECONDS_BETWEEN_EVENTS or step + 1 == steps:
                told = time.monotonic()
                emit(
                    {
                        "kind": "step",
                        "epoch": epoch,
                        "step": step + 1,
                        "loss": loss_sum / max(1, seen),
                        "accuracy": correct / max(1, seen),
                    }
                )

        learned = _summed(loss_sum, correct, seen, world)
        trained = time.monotonic()
        valid = _validate(module, validation, prepared, rank, world, device)
        record = {
            "epoch": epoch + 1,
            "trainLoss": learned.mean_loss,
            "trainAccuracy": learned.accuracy,
            "validationLoss": valid.mean_loss,
            "validationAccuracy": valid.accuracy,
            "seconds": time.monotonic() - began,
            "imagesPerSecond": (steps - position.step) * settings.batch_size / max(1e-9, trained - began),
        }
        position = Position(epoch + 1, history=(*position.history, record))
        # Which epoch is the last is known before; which is the best so far is not.
        taken = position.epoch == settings.epochs if settings.select == "last" else waited(position.history) == 0
        if taken:
            _keep(checkpoints, learner, job, epoch + 1, rank)
        _save(checkpoints, module, optimizer, position, position.epoch * steps, rank, world, emit)
        emit({"kind": "epoch", **record})


def _prepared(job: Job) -> Prepared:
    store = open_store(job.prepared)
    # The driver has checked what lies in a folder.
    return Prepared.open(store.local() or fetch(store, ""))


def _optimizer(module: nn.Module, settings: Training, rate: float) -> torch.optim.Optimizer:
    learnt = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    for group in groups:
        group["peak"] = rate
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _warmed_cosine(step: int, total: int, warmup: float) -> float:
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, total: int, warmup: float) -> None:
    factor = _warmed_cosine(step, total, warmup)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _step(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: PreparedPart,
    prepared: Prepared,
    settings: Training,
    epoch: int,
    everyone: np.ndarray[Any, np.dtype[np.int64]],
    mine: np.ndarray[Any, np.dtype[np.int64]],
    world: int,
    device: torch.device,
) -> tuple[float, int]:
    # A worker without an example in the last, short step still takes part in the average, with a weight of 0.
    used = mine if len(mine) else everyone[:1]
    weight = world / len(everyone) if len(mine) else 0.0
    inputs, labels = load(part, used, prepared.preprocess)
    inputs = augment(inputs, used, prepared.preprocess.kind, settings.augmentation, settings.seed, epoch)
    inputs, labels = inputs.to(device), labels.to(device)
    logits = learner(inputs)
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=settings.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    # DDP takes the mean over workers: scaled so, it is the mean over the step's examples.
    torch.autograd.backward(loss * weight)
    nn.utils.clip_grad_norm_(learner.parameters(), settings.gradient_clip)
    optimizer.step()
    if not len(mine):
        return 0.0, 0
    return float(loss.detach()), int((logits.detach().argmax(1) == labels).sum())


@torch.no_grad()
def _validate(
    module: nn.Module, part: PreparedPart, prepared: Prepared, rank: int, world: int, device: torch.device
) -> Sums:
    module.eval()
    mine = share(np.arange(len(part)), rank, world)
    loss_sum, correct = 0.0, 0
    # As many batches on each worker: a module that is shared out computes on all of them together.
    for start in range(0, math.ceil(len(part) / world), _BATCH_OF_VALIDATION):
        batch = mine[start : start + _BATCH_OF_VALIDATION]
        inputs, labels = load(part, batch if len(batch) else np.arange(1), prepared.preprocess)
        inputs, labels = inputs.to(device), labels.to(device)
        logits = module(inputs)
        if len(batch):
            loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
    return _summed(loss_sum, correct, len(mine), world)


def _summed(loss: float, correct: int, seen: int, world: int) -> Sums:
    if world == 1:
        return Sums(loss, correct, seen)
    sums = torch.tensor([loss, correct, seen], dtype=torch.float64)
    dist.all_reduce(sums)
    return Sums(float(sums[0]), int(sums[1]), int(sums[2]))


def _anyone(here: bool, world: int) -> Callable[[], bool]:
    """Begin to ask all workers whether it holds for any; the answer, the same on all, comes beside the step's work."""
    if world == 1:
        return lambda: here
    anyone = torch.tensor([here], dtype=torch.int32)
    asked = dist.all_reduce(anyone, dist.ReduceOp.MAX, async_op=True)

    def answer() -> bool:
        asked.wait()
        return bool(anyone)

    return answer


def _out_of_patience(position: Position, settings: Training) -> bool:
    if settings.early_stopping is None:
        return False
    return waited(position.history) >= settings.early_stopping.patience


def _resume(
    checkpoints: Checkpoints, module: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int
) -> Position:
    state = checkpoints.claim() if rank == 0 else None
    if world > 1:
        claimed = [state]
        dist.broadcast_object_list(claimed)
        state = claimed[0]
    assert state is not None
    checkpoints.state = state
    if not state.checkpoints:
        return Position()
    return checkpoints.load(state.checkpoints[-1], module, optimizer, rank, world)


def _save(
    checkpoints: Checkpoints,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    step: int,
    rank: int,
    world: int,
    emit: Emit,
) -> None:
    began = time.monotonic()
    checkpoints.save(module, optimizer, position, step, rank, world)
    notice.answer()
    emit({"kind": "checkpoint", "step": step, "seconds": time.monotonic() - began})


def _keep(checkpoints: Checkpoints, learner: Learner, job: Job, epoch: int, rank: int) -> None:
    with tempfile.TemporaryDirectory(prefix="vitruvian-weights-") as name:
        learner.save_whole(architecture(job.model.architecture).save, Path(name), rank)
        if rank == 0:
            checkpoints.keep_weights(Path(name), epoch)
