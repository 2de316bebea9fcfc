"""What a model costs: counted without computing anything, and measured by some steps of this very declaration."""

from __future__ import annotations

import copy
import functools
import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vitruvian.data.prepared import PreparedPart
from vitruvian.machine import usable_cpus
from vitruvian.models.inputs import preprocess_for
from vitruvian.models.rates import default_learning_rate
from vitruvian.models.registry import architecture
from vitruvian.spec import Model, Spec
from vitruvian.training.batches import augment, load
from vitruvian.training.counts import Cost, Counts, Line, Measured, Parameter, Way
from vitruvian.training.parallel import LEAST, blocks, groups, recompute
from vitruvian.training.precision import autocast, half

# Two sizes tell what each example adds; large ones, so that the peaks are theirs and not the weights'.
_SIZES = (64, 128)
_SECONDS_OF_A_STEP = 1.0
_STEPS = 5
_TRIES = 3
# On a machine that is slow or busy, fewer steps say enough.
_SECONDS_OF_ALL = 15.0
_INPUTS = 16


def count(model: Model, classes: Sequence[str]) -> Counts:
    """Count bytes and operations of a step: the real module runs on tensors that have a size but no content.

    Raises `SpecError` where pretrained weights can't be read.
    """
    module = hollow(model, classes).to_empty(device="meta")
    fake, shape = _fake(), preprocess_for(model).tensor_shape

    @functools.cache
    def cost(way: Way) -> Cost:
        # Copied before it is fake: of a fake tensor's copy a view has a storage of its own.
        used = copy.deepcopy(module)
        if way.recomputes:
            recompute(used)
        with fake:
            used.to_empty(device="cpu")
            first, second = (inside(used, torch.zeros(size, *shape), halved=way.halved) for size in _SIZES)
        copies = int(first.pop("copies"))
        return Cost(copies, **{name: _line(first[name], second[name]) for name in first})

    parts = [_bytes(p for block in together for p in block.parameters()) for together in groups(module, LEAST)]
    saved = {name for name in module.state_dict() if name not in dict(module.named_parameters())}
    return Counts(
        parameters=tuple(
            Parameter(p.shape[0] if p.ndim else 1, p.numel(), p.requires_grad) for p in module.parameters()
        ),
        buffers=_bytes(module.buffers()),
        saved_buffers=_bytes(buffer for name, buffer in module.named_buffers() if name in saved),
        repeats=bool(blocks(module)),
        gathered=max(parts, default=0),
        rest=_bytes(module.parameters()) - sum(parts),
        input_values=math.prod(shape),
        cost=cost,
    )


def hollow(model: Model, classes: Sequence[str]) -> nn.Module:
    """Return a module whose weights have no content, unless it takes theirs to know its size."""
    if model.pretrained:
        return architecture(model.architecture).build(model, classes)
    with torch.device("meta"):
        return architecture(model.architecture).build(model, classes)


def _fake() -> FakeTensorMode:
    # The CPU's kernels keep for attention what a GPU's keep: the output, not the matrix.
    return FakeTensorMode(allow_non_fake_inputs=True)


def inside(module: nn.Module, inputs: torch.Tensor, *, halved: bool = False) -> dict[str, float]:
    """Run a step and a pass of validation; return bytes and operations by the names of `Cost`."""
    own = {_storage(tensor)._cdata for tensor in (*module.parameters(), *module.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage(tensor)
        if storage._cdata not in own and storage not in live.copies:
            saved[storage._cdata] = storage
        return tensor

    casting = functools.partial(autocast, torch.device("cpu"), torch.bfloat16 if halved else None)
    flops = _Operations(display=False)
    module.train()
    module.zero_grad(set_to_none=True)
    with Live(own) as live, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        live.add(inputs)
        with flops:
            with casting():
                logits = module(inputs)
            labels = torch.zeros(len(inputs), dtype=torch.int64)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        forward, forward_peak = flops.get_total_flops(), live.passing.most
        activations = sum(storage.nbytes() for storage in saved.values())
        # Only the graph holds them from here on: they go as the backward pass has used them.
        saved.clear()
        del logits
        live.passing.most = live.passing.now
        with flops:
            torch.autograd.backward(loss)
        backward, backward_peak = flops.get_total_flops(), live.passing.most
    module.zero_grad(set_to_none=True)
    module.eval()
    with torch.no_grad():
        # What is computed once for all answers.
        with casting():
            module(inputs)
        with Live(own) as validated, flops:
            validated.add(inputs)
            with casting():
                module(inputs)
    return {
        "copies": max(live.copies.most, validated.copies.most),
        "activations": activations,
        "forward_peak": forward_peak,
        "backward_peak": backward_peak,
        "validation_peak": validated.passing.most,
        "forward": forward,
        "backward": backward,
        "validation": flops.get_total_flops(),
    }


class _Operations(FlopCounterMode):
    """Counts operations of all modules together: to tell them apart its hooks would keep what is computed again."""

    def __init__(self, *, display: bool) -> None:
        super().__init__(display=display)
        self.mod_tracker: Any = _Untracked()


class _Untracked:
    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Begin nothing."""

    def __exit__(self, *_: object) -> None:
        """End nothing."""


class _Tally:
    """Bytes of the storages that were taken in and still live."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __contains__(self, storage: torch.UntypedStorage) -> bool:
        return storage._cdata in self._held

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is gone."""
        key, size = storage._cdata, storage.nbytes()

        def gone(_: object) -> None:
            self.now -= size
            self._held.pop(key, None)

        self._held[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes of tensors live at once: known storages left out, their copies in 16 bits apart."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passing, self.copies = _Tally(), _Tally()
        self._known = known

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is gone."""
        storage = _storage(tensor)
        if storage._cdata not in self._known and storage not in self.passing and storage not in self.copies:
            self.passing.add(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        halving = func is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16
        if halving and _storage(args[0])._cdata in self._known:
            self.copies.add(_storage(made))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return made


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _line(first: float, second: float) -> Line:
    each = (second - first) / (_SIZES[1] - _SIZES[0])
    return Line(first - each * _SIZES[0], each)


def measure(
    spec: Spec, classes: Sequence[str], counts: Counts, batch: int, tell: Callable[[str], None] = lambda text: None
) -> Measured:
    """Make some optimizer steps on this machine, on its GPU where torch has one, of at most `batch` examples."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(usable_cpus())
    settings, preprocess = spec.training, preprocess_for(spec.model)
    torch.manual_seed(settings.seed)
    tell("building the model")
    module = architecture(spec.model.architecture).build(spec.model, classes).to(device).train()
    learnt = [p for p in module.parameters() if p.requires_grad]
    rate = settings.learning_rate or default_learning_rate(spec.model)
    optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=settings.weight_decay, fused=True)
    part = _noise(preprocess.shape, preprocess.dtype)
    halved = half(settings, device)

    def examples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = np.arange(count) % len(part)
        inputs, labels = load(part, chosen, preprocess)
        return augment(inputs, chosen, preprocess.kind, settings.augmentation, settings.seed, 0), labels

    def step(count: int) -> float:
        inputs, labels = (tensor.to(device) for tensor in examples(count))
        began = _now(device)
        with autocast(device, halved):
            logits = module(inputs)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss / count)
        nn.utils.clip_grad_norm_(learnt, settings.gradient_clip)
        optimizer.step()
        return _now(device) - began

    tell("measuring some steps")
    began = time.monotonic()
    used = min(batch, 2)
    step(used)
    # The fastest: what else the machine does is no reason to measure with too few.
    took = [min(step(used) for _ in range(_TRIES))]
    fitting = min(batch, int(used * _SECONDS_OF_A_STEP / max(1e-6, took[0])))
    if fitting > used:
        used = fitting
        step(used)
        took = [step(used)]
    while len(took) < _STEPS and time.monotonic() - began < _SECONDS_OF_ALL:
        took.append(step(used))
    quartiles = statistics.quantiles(took, n=4, method="inclusive") if len(took) > 1 else took * 3
    seconds = quartiles[1]
    examples(_INPUTS)
    read = statistics.median(_timed(lambda: examples(_INPUTS)) for _ in range(_STEPS)) / _INPUTS
    # Of a way that a plan counts anyway: in 16 bits there are as many operations.
    counted = counts.cost(Way(halved=settings.precision != "fp32", recomputes=False))
    work = counted.forward.at(used) + counted.backward.at(used)
    gpu = device.type == "cuda"
    return Measured(
        device=torch.cuda.get_device_name(device) if gpu else f"the CPU, {usable_cpus()} threads",
        batch=used,
        steps=len(took),
        step_seconds=seconds,
        fastest=quartiles[0],
        slowest=quartiles[2],
        flops=work / seconds,
        input_seconds=read,
        peak_bytes=torch.cuda.max_memory_reserved(device) if gpu else None,
    )


def _noise(shape: tuple[int, ...], dtype: np.dtype[Any]) -> PreparedPart:
    """Return some examples of a shape as the prepare stage packs them."""
    drawn = np.random.default_rng(0).integers(0, 2 if dtype.kind == "f" else 256, (_INPUTS, *shape))
    return PreparedPart((drawn.astype(dtype),), np.zeros(_INPUTS, dtype=np.int64), ("",) * _INPUTS)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
