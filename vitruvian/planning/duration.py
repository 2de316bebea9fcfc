"""How long a training takes and how much it writes, by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitruvian.planning.devices import Device, Machine, Precision
from vitruvian.planning.memory import Setting, checkpoint_bytes, weights_bytes
from vitruvian.spec import Precision as Asked
from vitruvian.training.counts import Cost, Counts

# Assumed: the share of the peak that matrices of a real step reach (MFU), from, usual and to.
UTILISATION: dict[Precision, tuple[float, float, float]] = {
    "fp32": (0.35, 0.5, 0.7),
    "bf16": (0.2, 0.35, 0.5),
    "fp16": (0.2, 0.35, 0.5),
}
# Assumed: the share of a pass behind which traffic between workers can hide.
OVERLAP = 0.7
# Assumed: the share of a link's speed that traffic reaches, and seconds until a message arrives.
LINK_SHARE = 0.7
LATENCY = {"link": 5e-6, "network": 30e-6}
BUCKET = 25 * 2**20
# Assumed: what a worker writes to its store.
STORE = 200e6
# AdamW reads weight, gradient and two moments and writes back three of them; clipping reads and writes gradients.
_OPTIMIZER_BYTES = 4 * (7 + 3)
# Reading and augmenting where nobody measured it, for each number of an input: a core of a Xeon, in seconds.
INPUT_SECONDS = 60e-9
# Assumed, and in no time that is told: Ray and imports, before the first step.
START = 20.0


@dataclass(frozen=True)
class Work:
    """What is to be done."""

    counts: Counts
    training: int
    """Examples of the training part."""
    validation: int
    epochs: int
    every_steps: int | None = None
    """Steps between checkpoints, beside the one of each epoch."""
    keep: int = 3
    precision: Asked = "auto"
    """What it means, each device says."""
    input_seconds: float | None = None
    """Measured, of one example."""


@dataclass(frozen=True)
class Step:
    """Seconds of one step; the parts come one after the other."""

    reading: float
    computing: float
    optimizer: float
    waiting: float
    """What of the traffic between workers no computing hides."""

    @property
    def total(self) -> float:
        return self.reading + self.computing + self.optimizer + self.waiting


@dataclass(frozen=True)
class Duration:
    """Seconds at one utilisation."""

    step: Step
    steps: int
    """Of an epoch."""
    validation: float
    checkpoints: float
    """Of an epoch."""

    @property
    def epoch(self) -> float:
        return self.steps * self.step.total + self.validation + self.checkpoints


def step(
    work: Work, setting: Setting, device: Device, machine: Machine | None, utilisation: float, *, reading: bool = True
) -> Step:
    """Return the seconds of a step of as many examples as a step can have."""
    counts, examples = work.counts, setting.examples
    rate = _rate(work, device, utilisation)
    done = _cost(work, setting, device)
    forward, backward = done.forward.at(examples) / rate, done.backward.at(examples) / rate
    held = counts.learning / (setting.workers if setting.strategy == "fsdp" else 1)
    return Step(
        reading=examples * _reading(work, setting, device) if reading else 0.0,
        computing=forward + backward,
        optimizer=held * _OPTIMIZER_BYTES / device.bandwidth,
        waiting=_waiting(counts, setting, device, machine, forward, backward),
    )


def _cost(work: Work, setting: Setting, device: Device) -> Cost:
    return work.counts.cost(setting.way(device.kind))


def _rate(work: Work, device: Device, utilisation: float) -> float:
    return device.peak[device.precision(work.precision)] * utilisation


def _reading(work: Work, setting: Setting, device: Device) -> float:
    each = work.counts.input_values * INPUT_SECONDS if work.input_seconds is None else work.input_seconds
    # Workers on one machine's CPU share it; those with GPUs have as much CPU each as was measured.
    return each * (setting.workers if device.is_cpu else 1)


def _waiting(
    counts: Counts, setting: Setting, device: Device, machine: Machine | None, forward: float, backward: float
) -> float:
    workers = setting.workers
    if workers == 1:
        return 0.0
    across = machine is not None and workers > machine.gpus
    speed = LINK_SHARE * (min(device.link, machine.network) if across and machine else device.link)
    latency = LATENCY["network" if across else "link"] * 2 * math.ceil(math.log2(workers))
    ring = (workers - 1) / workers

    def seconds(content: float, passes: float) -> float:
        return passes * ring * content / speed + latency * math.ceil(content / BUCKET)

    learnt, all_of_it = 4.0 * counts.learning, 4.0 * counts.values
    if setting.strategy == "ddp":
        # Every byte goes around the ring twice: once to be summed, once to be told.
        # Nothing is left to hide the last bucket behind.
        return max(seconds(min(learnt, BUCKET), 2), seconds(learnt, 2) - OVERLAP * backward)
    gathering = max(seconds(counts.rest, 1), seconds(all_of_it, 1) - OVERLAP * forward)
    return gathering + max(0.0, seconds(all_of_it, 1) + seconds(learnt, 1) - OVERLAP * backward)


def duration(work: Work, setting: Setting, device: Device, machine: Machine | None, utilisation: float) -> Duration:
    """Return how long an epoch takes at one utilisation; the last, shorter step counts as a whole one."""
    steps = math.ceil(work.training / setting.batch)
    rate = _rate(work, device, utilisation)
    validated = math.ceil(work.validation / setting.workers)
    each = _cost(work, setting, device).validation.at(1) / rate + _reading(work, setting, device)
    return Duration(
        step=step(work, setting, device, machine, utilisation),
        steps=steps,
        validation=validated * each,
        checkpoints=saved(work, setting) * checkpoint_bytes(work.counts) / setting.workers / STORE
        + weights_bytes(work.counts) / STORE,
    )


def saved(work: Work, setting: Setting) -> int:
    """Return the number of checkpoints of an epoch."""
    steps = math.ceil(work.training / setting.batch)
    return 1 + ((steps - 1) // work.every_steps if work.every_steps else 0)


@dataclass(frozen=True)
class Traffic:
    """Bytes that go to the store."""

    checkpoint: int
    """One of them."""
    kept: int
    """What lies there at once: checkpoints and the chosen weights."""
    written: int
    """In all epochs, were every epoch's weights the best so far."""


def traffic(work: Work, setting: Setting) -> Traffic:
    """Return what checkpoints come to."""
    one, weights = checkpoint_bytes(work.counts), weights_bytes(work.counts)
    total = saved(work, setting) * work.epochs
    return Traffic(one, min(work.keep, total) * one + weights, total * one + work.epochs * weights)
