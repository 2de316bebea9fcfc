"""What a worker holds at the moment it holds most, by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitruvian.spec import Precision, Strategy
from vitruvian.training.counts import Counts, Way

_BYTES = 4
# What AdamW keeps beside its two moments: the number of steps, for each tensor.
_STEP = 4
BATCH_OF_VALIDATION = 256
# Assumed. A CUDA context with the kernels and workspaces of cuBLAS and cuDNN; a process with torch and Ray.
CONTEXT = {"gpu": 0.75 * 2**30, "cpu": 0.5 * 2**30}
# Assumed: what torch's allocator has reserved beyond what lives.
SLACK = 0.05


@dataclass(frozen=True)
class Setting:
    """How a model is trained, as far as memory goes."""

    strategy: Strategy
    workers: int
    batch: int
    """Examples of a step, over all workers."""
    accumulate: int = 1
    """In how many parts a worker computes its share."""
    recomputes: bool = False
    """Whether it keeps only what goes into each layer (activationCheckpointing)."""
    offloads: bool = False
    """Whether what fsdp shares out lies in main memory (cpuOffload)."""
    precision: Precision = "auto"
    """What matrices are multiplied in, as a spec says it."""

    @property
    def examples(self) -> int:
        """The most examples of a worker's step."""
        return math.ceil(self.batch / self.workers)

    @property
    def at_once(self) -> int:
        """The most examples that a worker computes at once."""
        return math.ceil(self.examples / self.accumulate)

    def way(self, kind: str) -> Way:
        """Return how a step is computed on a GPU (every one is built for some 16 bits) or a CPU."""
        halved = kind == "gpu" if self.precision == "auto" else self.precision != "fp32"
        return Way(halved, self.recomputes)


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker; only the last two are assumptions."""

    weights: float
    """With the buffers."""
    gradients: float
    optimizer: float
    buckets: float
    """What ddp copies gradients into to average them."""
    gathered: float
    """What fsdp puts together for the layers that compute."""
    copies: float
    """The weights in 16 bits, made of those in float32 to multiply with."""
    activations: float
    working: float
    """What lives for a moment beyond all that, or in validation if it takes more than a step."""
    copy: float
    """What is written as a checkpoint while training goes on; of a GPU's it lies in main memory."""
    context: float
    slack: float

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


def needed(counts: Counts, setting: Setting, kind: str = "gpu") -> Memory:
    """Return what the first worker needs: with fsdp no other holds more rows of any tensor."""
    world = setting.workers if setting.strategy == "fsdp" else 1
    learning = [p for p in counts.parameters if p.learns]
    weights = sum(_share(p.rows, p.values, world) for p in counts.parameters) * _BYTES
    gradients = sum(_share(p.rows, p.values, world) for p in learning) * _BYTES
    alone = setting.workers == 1
    # One worker averages with nobody: none, whatever its strategy is called.
    buckets = counts.learning * _BYTES if setting.strategy == "ddp" and not alone else 0
    # The weights outside all layers, and for those that compute and those that come next: put together, the
    # buffer that they arrive in, and gradients before they are shared out.
    gathered = counts.rest + 2 * 3 * counts.gathered if setting.strategy == "fsdp" and not alone else 0
    # Shared out weights travel in 16 bits: there is nothing to copy.
    done = counts.cost(setting.way(kind))
    copies = 0 if setting.strategy == "fsdp" and not alone else done.copies
    examples = setting.at_once
    activations = done.activations.at(examples)
    step = max(gradients + done.forward_peak.at(examples), done.backward_peak.at(examples))
    validation = gradients + done.validation_peak.at(BATCH_OF_VALIDATION)
    working = max(step, validation) - gradients - activations
    optimizer = 2 * gradients + _STEP * len(learning)
    if setting.offloads and setting.strategy == "fsdp" and not alone and kind == "gpu":
        weights = gradients = optimizer = 0
    copy = weights + counts.buffers + optimizer if kind == "cpu" else 0
    shared = weights + counts.buffers + gradients + optimizer + buckets + gathered
    own = shared + copies + activations + max(0, working) + copy
    return Memory(
        weights=weights + counts.buffers,
        gradients=gradients,
        optimizer=optimizer,
        buckets=buckets,
        gathered=gathered,
        copies=copies,
        activations=activations,
        working=max(0, working),
        copy=copy,
        context=CONTEXT[kind],
        slack=SLACK * own,
    )


def _share(rows: int, values: int, world: int) -> int:
    """Return how many values of a tensor the first of `world` workers holds (FSDP2 cuts the first dimension)."""
    return math.ceil(rows / world) * (values // max(1, rows))


def checkpoint_bytes(counts: Counts) -> int:
    """Return the bytes of a checkpoint's tensors, all workers' together."""
    learning = [p for p in counts.parameters if p.learns]
    moments = sum(2 * p.values * _BYTES + _STEP for p in learning)
    learned = sum(p.values for p in learning) * _BYTES + counts.saved_buffers
    # What doesn't learn isn't saved; what the chosen epoch learned is, beside the latest.
    return moments + (learned if len(learning) == len(counts.parameters) else 2 * learned)


def weights_bytes(counts: Counts) -> int:
    """Return the bytes of the weights that become the model."""
    return counts.values * _BYTES + counts.saved_buffers
