"""The training loop that every worker runs, from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from vitruvian.artifact import fetch
from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.models.rates import default_learning_rate
from vitruvian.models.registry import Featured, architecture
from vitruvian.spec import Training
from vitruvian.store import open_store
from vitruvian.training import collector, notice, precision
from vitruvian.training.batches import ahead, augment, load, order, share
from vitruvian.training.checkpoints import Checkpoints, Position
from vitruvian.training.features import Features, computed, fixed, hindrance
from vitruvian.training.frozen import Chosen, frozen_digest
from vitruvian.training.job import Emit, Job, ended, waited
from vitruvian.training.parallel import Learner
from vitruvian.training.together import anywhere, everywhere

_BATCH_OF_VALIDATION = 256
_SECONDS_BETWEEN_EVENTS = 0.5
_LOADERS_OF_A_GPU = 2
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
    with notice.heeded(), collector.resting():
        _train(job, rank, world, emit, device)


def _train(job: Job, rank: int, world: int, emit: Emit, device: torch.device) -> None:
    settings = job.training
    torch.manual_seed(settings.seed)
    prepared = _prepared(job)
    part, validation = prepared.part("train"), prepared.part("validation")
    # Drawn on the CPU: the same weights whatever trains them.
    module = architecture(job.model.architecture).build(job.model, prepared.classes).to(device)
    collector.awake()
    frozen = frozen_digest(module)
    kept = _features(module, prepared, settings, rank, world, device, emit)
    learner = Learner(module, settings, world, device, on_features=kept is not None)
    optimizer = _optimizer(module, settings, settings.learning_rate or default_learning_rate(job.model))

    checkpoints = Checkpoints(open_store(job.checkpoints), settings.checkpoints.keep)
    checkpoints.chosen = chosen = Chosen(module, frozen) if frozen else None
    position = _resume(checkpoints, module, optimizer, rank, world, emit)
    learner.scale = position.scale or learner.scale
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
            "learningRate": float(optimizer.param_groups[0]["peak"]),
            "precision": precision.name(learner.half),
            # Counted without setting one up.
            "idleGpus": torch.cuda.device_count() if device.type == "cpu" else 0,
        }
    )

    while not ended(position.history, settings):
        began = time.monotonic()
        epoch = position.epoch
        # The sums of an interrupted epoch are counted once, on rank 0.
        loss_sum, correct, seen = (position.loss_sum, position.correct, position.seen) if rank == 0 else (0.0, 0, 0)
        told = 0.0
        learner.trained.train()
        shares = _shares(part, prepared, kept, settings, epoch, position.step, rank, world, device)
        for step, examples in enumerate(shares, position.step):
            _set_learning_rate(optimizer, epoch * steps + step, settings.epochs * steps, settings.warmup)
            leaving = anywhere(notice.given(), world)
            loss, hits, count = _step(learner, optimizer, settings, examples)
            loss_sum, correct, seen = loss_sum + loss, correct + hits, seen + count

            done = epoch * steps + step + 1
            due = settings.checkpoints.every_steps and done % settings.checkpoints.every_steps == 0
            asked = leaving()
            if (asked or due) and step + 1 < steps:
                sums = _summed(loss_sum, correct, seen, world)
                here = Position(epoch, step + 1, sums.loss, sums.correct, sums.seen, position.history, learner.scale)
                _save(checkpoints, module, optimizer, here, done, rank, world, emit)
                loss_sum, correct, seen = (sums.loss, sums.correct, sums.seen) if rank == 0 else (0.0, 0, 0)
                if asked:
                    _answer(checkpoints, world)
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
        valid = _validate(learner, validation, prepared, kept, epoch, rank, world, emit)
        record = {
            "epoch": epoch + 1,
            "trainLoss": learned.mean_loss,
            "trainAccuracy": learned.accuracy,
            "validationLoss": valid.mean_loss,
            "validationAccuracy": valid.accuracy,
            "seconds": time.monotonic() - began,
            "imagesPerSecond": (steps - position.step) * settings.batch_size / max(1e-9, trained - began),
        }
        position = Position(epoch + 1, history=(*position.history, record), scale=learner.scale)
        # Which epoch is the last is known before; which is the best so far is not.
        taken = position.epoch == settings.epochs if settings.select == "last" else waited(position.history) == 0
        if taken and chosen is not None:
            chosen.take()
        elif taken:
            learner.keep_whole(architecture(job.model.architecture).save, checkpoints, epoch + 1, rank)
        _save(checkpoints, module, optimizer, position, position.epoch * steps, rank, world, emit)
        emit({"kind": "epoch", **record})
    if chosen is not None:
        # Whole only now: most of them stay the same from epoch to epoch.
        chosen.put_back()
        learner.keep_whole(architecture(job.model.architecture).save, checkpoints, position.epoch, rank)
    _answer(checkpoints, world)


def _answer(checkpoints: Checkpoints, world: int) -> None:
    """Tell whoever left a notice that all is saved; one worker's answer may end all of them."""
    checkpoints.settle()
    # Only rank 0 writes last.
    everywhere(True, world)
    notice.answer()


def _features(
    module: nn.Module, prepared: Prepared, settings: Training, rank: int, world: int, device: torch.device, emit: Emit
) -> Features | None:
    """Return what a front that doesn't learn makes of the examples, where that is the same in every epoch."""
    if not fixed(module):
        return None
    assert isinstance(module, Featured)
    why = hindrance(settings)
    if why is not None:
        emit({"kind": "features", "why": why})
        return None
    began = time.monotonic()
    features, found = computed(module, prepared, rank, world, device, precision.half(settings, device))
    emit({"kind": "features", "found": found, "count": len(features.train), "seconds": time.monotonic() - began})
    return features


def _prepared(job: Job) -> Prepared:
    store = open_store(job.prepared)
    # The driver has checked what lies in a folder.
    return Prepared.open(store.local() or fetch(store, ""))


def _optimizer(module: nn.Module, settings: Training, rate: float) -> torch.optim.Optimizer:
    learnt = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": settings.weight_decay},
        # On a CPU the fused kernel rounds what is left over beside whole vectors otherwise: of short parameters that
        # would depend on how they are shared out.
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0, "fused": False, "foreach": True},
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


@dataclass(frozen=True)
class Examples:
    """What one worker computes at once."""

    inputs: torch.Tensor
    labels: torch.Tensor
    weight: float
    """What the sum of their losses counts for in the step's gradient; 0: they only keep the other workers company."""


def _shares(
    part: PreparedPart,
    prepared: Prepared,
    kept: Features | None,
    settings: Training,
    epoch: int,
    first: int,
    rank: int,
    world: int,
    device: torch.device,
) -> Iterator[list[Examples]]:
    """Yield this worker's share of each step of an epoch from `first` on, in as many parts as are accumulated."""
    shuffled = order(settings.seed, epoch, len(part))

    def share_of(step: int) -> list[Examples]:
        everyone = shuffled[step * settings.batch_size : (step + 1) * settings.batch_size]
        mine = share(everyone, rank, world)
        return [examples_of(some, everyone) for some in np.array_split(mine, settings.accumulate)]

    def examples_of(mine: NDArray[np.int64], everyone: NDArray[np.int64]) -> Examples:
        # A worker without an example in the last, short step still takes part in the average, with a weight of 0.
        used = mine if len(mine) else everyone[:1]
        # DDP takes the mean over workers: scaled so, it is the mean over the step's examples.
        weight = world / len(everyone) if len(mine) else 0.0
        if kept is not None:
            return Examples(kept.train[used], torch.from_numpy(part.labels[used]), weight)
        inputs, labels = load(part, used, prepared.preprocess)
        inputs = augment(inputs, used, prepared.preprocess.kind, settings.augmentation, settings.seed, epoch)
        return Examples(inputs, labels, weight)

    loaders = settings.loaders if settings.loaders is not None else 0 if device.type == "cpu" else _LOADERS_OF_A_GPU
    return ahead(range(first, math.ceil(len(part) / settings.batch_size)), share_of, loaders)


def _step(
    learner: Learner, optimizer: torch.optim.Optimizer, settings: Training, share: list[Examples]
) -> tuple[float, int, int]:
    """Learn from a step's examples; return the sum of this worker's losses, its hits and the number of its examples."""
    optimizer.zero_grad(set_to_none=True)
    loss_sum, correct, seen = 0.0, 0, 0
    for index, examples in enumerate(share):
        with learner.averaging(index + 1 == len(share)):
            labels = examples.labels.to(learner.device)
            logits = learner.answer(examples.inputs)
            loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=settings.label_smoothing)
            torch.autograd.backward(loss * (examples.weight * learner.scale.factor))
        if examples.weight:
            loss_sum += float(loss.detach())
            correct += int((logits.detach().argmax(1) == labels).sum())
            seen += len(labels)
    if learner.clip(settings.gradient_clip):
        optimizer.step()
    return loss_sum, correct, seen


@torch.no_grad()
def _validate(
    learner: Learner,
    part: PreparedPart,
    prepared: Prepared,
    kept: Features | None,
    epoch: int,
    rank: int,
    world: int,
    emit: Emit,
) -> Sums:
    learner.module.eval()
    mine = share(np.arange(len(part)), rank, world)
    loss_sum, correct, seen, told = 0.0, 0, 0, time.monotonic()
    # As many batches on each worker: a module that is shared out computes on all of them together.
    starts = range(0, math.ceil(len(part) / world), _BATCH_OF_VALIDATION)
    for step, start in enumerate(starts, 1):
        batch = mine[start : start + _BATCH_OF_VALIDATION]
        used = batch if len(batch) else np.arange(1)
        if kept is None:
            inputs, labels = load(part, used, prepared.preprocess)
        else:
            inputs, labels = kept.validation[used], torch.from_numpy(part.labels[used])
        labels = labels.to(learner.device)
        logits = learner.answer(inputs)
        if len(batch):
            loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
            seen += len(batch)
        if time.monotonic() - told > _SECONDS_BETWEEN_EVENTS or step == len(starts):
            told = time.monotonic()
            emit(
                {
                    "kind": "validation",
                    "epoch": epoch,
                    "step": step,
                    "steps": len(starts),
                    "loss": loss_sum / max(1, seen),
                    "accuracy": correct / max(1, seen),
                }
            )
    return _summed(loss_sum, correct, len(mine), world)


def _summed(loss: float, correct: int, seen: int, world: int) -> Sums:
    if world == 1:
        return Sums(loss, correct, seen)
    sums = torch.tensor([loss, correct, seen], dtype=torch.float64)
    dist.all_reduce(sums)
    return Sums(float(sums[0]), int(sums[1]), int(sums[2]))


def _resume(
    checkpoints: Checkpoints, module: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int, emit: Emit
) -> Position:
    state = checkpoints.claim() if rank == 0 else None
    if world > 1:
        claimed = [state]
        dist.broadcast_object_list(claimed)
        state = claimed[0]
    assert state is not None
    checkpoints.state = state
    found = checkpoints.find(world)
    if found is None:
        return Position()
    folder, faults = found
    for fault in faults:
        emit({"kind": "passed over", "error": fault})
    return checkpoints.load(folder, module, optimizer, rank, world)


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
    def saved(seconds: float) -> None:
        emit({"kind": "checkpoint", "step": step, "seconds": seconds})

    checkpoints.save(module, optimizer, position, step, rank, world, saved)
