"""How one model is spread over workers: whole on each (DDP), or shared out (FSDP2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from vitruvian.spec import Strategy


class Learner:
    """A module as one of `world` workers trains it."""

    def __init__(self, module: nn.Module, strategy: Strategy, world: int, device: torch.device) -> None:
        self.module = module
        """What holds the weights, or this worker's share of them."""
        self.trained: nn.Module = module
        """What is called in training: it averages gradients over the workers."""
        self._shell: nn.Module | None = None
        if world == 1:
            return
        if strategy == "ddp":
            self.trained = DistributedDataParallel(module)
        else:
            # What the whole weights are put into to be saved; without any of its own it takes no memory.
            self._shell = copy.deepcopy(module).to("meta")
            _shard(module, world, device)

    def save_whole(self, save: Callable[[nn.Module, Path], None], folder: Path, rank: int) -> None:
        """Have rank 0 save the module with all of its weights; all ranks call it together."""
        if self._shell is None:
            if rank == 0:
                save(self.module, folder)
            return
        whole = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            self._shell.load_state_dict(whole, assign=True)
            save(self._shell, folder)


def _shard(module: nn.Module, world: int, device: torch.device) -> None:
    """Share out weights, gradients and the optimizer's state; each block is put together only while it computes."""
    mesh = init_device_mesh(device.type, (world,))
    for block in list(blocks(module)):
        if not isinstance(block, FSDPModule):
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a module that are put together one after the other: its lists' layers."""
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            yield from part
