"""Batch normalisation over the examples of all workers, on whatever device.

torch's own synchronised one refuses the CPU, and without any the statistics differ with the number of workers and from
worker to worker: what one validates, another doesn't save.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


class _Sum(torch.autograd.Function):
    """A tensor's sum over all workers, through which gradients flow."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor) -> torch.Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Like `BatchNorm2d`, but a step's statistics, and so the running ones, are those of all workers' examples."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return self._with_running_ones(inputs)
        if dist.is_initialized() and dist.get_world_size() > 1:
            return self._with_everyones(inputs)
        # One value alone has no spread.
        return self._with_running_ones(inputs) if inputs[:, 0].numel() == 1 else super().forward(inputs)

    def _with_running_ones(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _with_everyones(self, inputs: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        variance, mean = torch.var_mean(inputs, (0, 2, 3), correction=0)
        # In double precision, so that the difference of the squares keeps its digits.
        mean, variance = mean.double(), variance.double()
        count = torch.full_like(mean[:1], inputs[:, 0].numel())
        total = _Sum.apply(torch.cat([mean * count, (variance + mean.square()) * count, count]))
        count = total[-1]
        mean, square = (total[:-1] / count).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        with torch.no_grad():
            spread = variance * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(spread.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt().to(inputs.dtype)
        shift = self.bias - mean.to(inputs.dtype) * scale
        return torch.addcmul(shift[:, None, None], inputs, scale[:, None, None])


def share(module: nn.Module) -> None:
    """Put a `SharedBatchNorm` with the same values in the place of every `BatchNorm2d` below a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            share(child)
