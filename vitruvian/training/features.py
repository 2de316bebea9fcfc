"""Features of a front that doesn't learn: computed once, kept on this machine, and used in every epoch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save
from torch import nn

from vitruvian.artifact import cache_folder, digest_of
from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.models.registry import Featured
from vitruvian.spec import Training
from vitruvian.store import FolderStore
from vitruvian.training.batches import load, share
from vitruvian.training.together import everywhere

_BATCH = 64
_REVISION = 1


class Head(nn.Module):
    """What of a model learns on features (n, width)."""

    def __init__(self, whole: Featured) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes)."""
        return self.whole.classify(features)


@dataclass(frozen=True)
class Features:
    """The features (examples, width) of the parts that training looks at."""

    train: torch.Tensor
    validation: torch.Tensor


def fixed(module: nn.Module) -> bool:
    """Return whether nothing learns before a model's features, and nothing is dropped at random there."""
    if not isinstance(module, Featured):
        return False
    front = module.front()
    dropped = any(isinstance(inner, nn.Dropout) and inner.p for part in front for inner in part.modules())
    return not dropped and not any(value.requires_grad for part in front for value in part.parameters())


def hindrance(settings: Training) -> str | None:
    """Return why features that could be computed once aren't; None where they are."""
    if settings.augmentation != "none":
        return f"augmentation is {settings.augmentation}; with none they would be computed once"
    if settings.strategy == "fsdp":
        return "strategy is fsdp; with ddp they would be computed once"
    return None


def computed(
    module: Featured, prepared: Prepared, rank: int, world: int, device: torch.device, half: bool
) -> tuple[Features, bool]:
    """Return the features, and whether they were kept from before; all ranks call it together."""
    parts = {"train": prepared.part("train"), "validation": prepared.part("validation")}
    kept = cache_folder() / "features" / f"{_key(module, prepared, parts, device, half)}.safetensors"
    found = load_file(kept) if kept.exists() else None
    if everywhere(found is not None, world):
        assert found is not None
        return Features(**found), True
    made = {name: _of(module, part, prepared, rank, world, device, half) for name, part in parts.items()}
    if rank == 0:
        FolderStore(kept.parent).put(kept.name, save({name: value.contiguous() for name, value in made.items()}))
    return Features(**made), False


def _key(module: Featured, prepared: Prepared, parts: dict[str, PreparedPart], device: torch.device, half: bool) -> str:
    """Identify all that features follow from: weights, examples, preprocessing and what computes them."""
    weights, examples = hashlib.sha256(), hashlib.sha256()
    for index, part in enumerate(module.front()):
        weights.update(repr(part).encode())
        for name, value in sorted(part.state_dict().items()):
            weights.update(f"{index} {name} {value.dtype} {tuple(value.shape)}".encode())
            weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for _, each in sorted(parts.items()):
        for shard in each.shards:
            examples.update(f"{shard.dtype} {shard.shape}".encode())
            examples.update(np.ascontiguousarray(shard).data.cast("B"))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    preprocess = prepared.preprocess.model_dump(mode="json")
    return digest_of([_REVISION, weights.hexdigest(), examples.hexdigest(), preprocess, torch.__version__, kind, half])


@torch.no_grad()
def _of(
    module: Featured, part: PreparedPart, prepared: Prepared, rank: int, world: int, device: torch.device, half: bool
) -> torch.Tensor:
    mine = share(np.arange(len(part)), rank, world)
    rows = []
    training = module.training
    module.eval()
    for start in range(0, len(mine), _BATCH):
        images, _ = load(part, mine[start : start + _BATCH], prepared.preprocess)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            rows.append(module.features(images.to(device)).float().cpu())
    module.train(training)
    own = torch.cat(rows) if rows else torch.empty(0)
    if world == 1:
        return own
    everyones: list[torch.Tensor] = [own] * world
    dist.all_gather_object(everyones, own)
    whole = torch.empty(len(part), next(each for each in everyones if len(each)).shape[1])
    for each, features in enumerate(everyones):
        if len(features):
            whole[each::world] = features
    return whole
