"""What workers agree on."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist


def everywhere(here: bool, world: int) -> bool:
    """Return whether it holds on all workers; all of them call it together."""
    if world == 1:
        return here
    held = torch.tensor([here], dtype=torch.int32)
    dist.all_reduce(held, dist.ReduceOp.MIN)
    return bool(held)


def anywhere(here: bool, world: int) -> Callable[[], bool]:
    """Begin to ask whether it holds on any worker; the answer, the same on all, comes beside the step's work."""
    if world == 1:
        return lambda: here
    held = torch.tensor([here], dtype=torch.int32)
    asked = dist.all_reduce(held, dist.ReduceOp.MAX, async_op=True)

    def answer() -> bool:
        asked.wait()
        return bool(held)

    return answer
