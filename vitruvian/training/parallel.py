"""How one model is spread over workers: whole on each (DDP), or shared out (FSDP2)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vitruvian.models.registry import Featured
from vitruvian.spec import Training
from vitruvian.training.checkpoints import Checkpoints
from vitruvian.training.features import Head
from vitruvian.training.precision import LossScale, autocast, half

LEAST = 4_000_000
"""So many weights are put together at once, or more: with fewer, workers wait for each other more than they save."""


class Learner:
    """A module as one of `world` workers trains it."""

    def __init__(
        self, module: nn.Module, settings: Training, world: int, device: torch.device, on_features: bool = False
    ) -> None:
        self.module = module
        """What holds the weights, or this worker's share of them."""
        self.called = Head(module) if on_features and isinstance(module, Featured) else module
        """What is called for an answer."""
        self.trained: nn.Module = self.called
        """The same in training: it averages gradients over the workers."""
        self.device = device
        self.half = half(settings, device)
        """What matrices are multiplied in; None: float32."""
        self.scale = LossScale() if self.half == torch.float16 else LossScale(1.0)
        """What losses are multiplied by; of anything but float16 it stays 1."""
        self._shell: nn.Module | None = None
        shared_out = world > 1 and settings.strategy == "fsdp"
        if shared_out:
            # What the whole weights are put into to be saved; without any of its own it takes no memory.
            self._shell = copy.deepcopy(module).to("meta")
        if settings.activation_checkpointing:
            recompute(module)
        if settings.compile:
            for block in blocks(module) or [module]:
                block.compile()
        if shared_out:
            _shard(module, world, device, self.half, settings.cpu_offload)
        elif world > 1:
            self.trained = DistributedDataParallel(self.called)

    def answer(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of float32, of images or their features."""
        called = self.trained if self.module.training else self.called
        with autocast(self.device, self.half):
            logits: torch.Tensor = called(inputs.to(self.device))
        return logits.float()

    def averaging(self, now: bool) -> contextlib.AbstractContextManager[object]:
        """Average gradients over the workers in what follows, or only add them up here."""
        if now or not isinstance(self.trained, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.trained.no_sync()

    def clip(self, most: float) -> bool:
        """Take the losses' scale off all gradients, and scale them down where their norm is more.

        Return whether they are finite: in float16 a step without effect, which is followed by smaller ones, in all else
        taken for granted.
        Only whole rows are shared out, and what they sum up to is added up in float64: then it makes no difference to
        the scale how.
        """
        shares = [own(value.grad) for value in self.module.parameters() if value.grad is not None]
        rows = torch.cat(
            [torch.linalg.vector_norm(value.flatten(1), dim=1) for value in shares if value.ndim > 1]
            + [value.flatten() for value in shares if value.ndim <= 1]
        ).double()
        squares = rows.dot(rows)
        if self._shell is not None:
            dist.all_reduce(squares)
        factor = self.scale.factor
        if self.half == torch.float16:
            finite = bool(squares.isfinite())
            self.scale = self.scale.after(finite)
            if not finite:
                return False
        scale = ((most / (squares.sqrt() / factor + 1e-6)).clamp(max=1) / factor).float()
        for value in shares:
            value.mul_(scale)
        return True

    def keep_whole(
        self, save: Callable[[nn.Module, Path], None], checkpoints: Checkpoints, epoch: int, rank: int
    ) -> None:
        """Have rank 0 keep the module with all of its weights; all ranks call it together."""
        kept = self.module
        if self._shell is not None:
            whole = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
            kept = self._shell
            if rank == 0:
                kept.load_state_dict(whole, assign=True)
        if rank == 0:
            checkpoints.keep_weights(lambda folder: save(kept, folder), epoch)


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the layers that a module repeats: they are put together one after the other."""
    return [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part]


def groups(module: nn.Module, least: int) -> list[list[nn.Module]]:
    """Return the layers that are put together at once: neighbours, of at least so many weights together.

    What belongs to none of them is put together with the whole module, and stays so from forward to backward.
    """
    found: list[list[nn.Module]] = []
    for part in module.modules():
        # Of blocks within blocks the inner ones only.
        if not isinstance(part, nn.ModuleList) or any(blocks(block) for block in part):
            continue
        together: list[list[nn.Module]] = [[]]
        for block in part:
            together[-1].append(block)
            if sum(value.numel() for each in together[-1] for value in each.parameters()) >= least:
                together.append([])
        few = together.pop()
        if together:
            together[-1] += few
        found += together
    return found


def recompute(module: nn.Module) -> None:
    """Keep only what goes into each block, and compute it again for its gradients."""
    for part in list(module.modules()):
        if isinstance(part, nn.ModuleList):
            for index, block in enumerate(part):
                # Of blocks within blocks the inner ones only: the outer would compute all of theirs a third time.
                if not blocks(block):
                    part[index] = checkpoint_wrapper(block)


def own(value: torch.Tensor) -> torch.Tensor:
    """Return this worker's share of a value."""
    return value.to_local() if isinstance(value, DTensor) else value


def _shard(module: nn.Module, world: int, device: torch.device, half: torch.dtype | None, offload: bool) -> None:
    """Share out weights, gradients and the optimizer's state; layers are put together only while they compute."""
    mesh = init_device_mesh(device.type, (world,))
    # Weights travel as they are used, gradients are added up in full.
    policy = MixedPrecisionPolicy(half, torch.float32) if half else MixedPrecisionPolicy()
    kept = CPUOffloadPolicy() if offload else OffloadPolicy()
    for together in groups(module, LEAST):
        fully_shard(together, mesh=mesh, mp_policy=policy, offload_policy=kept)
    fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=kept)
