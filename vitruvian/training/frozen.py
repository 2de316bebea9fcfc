"""What of a model doesn't learn: it stays as it was built, so that checkpoints hold its digest only."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict


def frozen_digest(module: nn.Module) -> str | None:
    """Identify the weights that don't learn; None where all do. Call it before a module is shared out."""
    found = {name: value for name, value in module.named_parameters() if not value.requires_grad}
    if not found:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(found.items()):
        take_in(digest, name, value)
    return digest.hexdigest()


def take_in(digest: hashlib._Hash, name: str, value: torch.Tensor) -> None:
    """Add a value, its name, type and shape to a digest."""
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


class Chosen:
    """What the chosen epoch knew beyond the weights that don't learn; until one is chosen, what the run began with."""

    def __init__(self, module: nn.Module, frozen: str) -> None:
        self._module = module
        self.frozen = frozen
        """The digest of the weights that don't learn."""
        self.state = {name: value.detach().clone() for name, value in self._learned().items()}

    def _learned(self) -> dict[str, torch.Tensor]:
        found = get_model_state_dict(self._module, options=StateDictOptions(ignore_frozen_params=True))
        return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}

    @torch.no_grad()
    def take(self) -> None:
        """Remember the module as it is now."""
        for name, value in self._learned().items():
            self.state[name].copy_(value)

    def put_back(self) -> None:
        """Make the module what it was then."""
        set_model_state_dict(self._module, dict(self.state), options=StateDictOptions(strict=False))
