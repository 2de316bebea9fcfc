"""Features of a front that doesn't learn: computed once, kept on this machine, and used in every epoch."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from vitruvian.artifact import cache_folder, digest_of
from vitruvian.data.prepared import Prepared, PreparedPart
from vitruvian.errors import StoreError
from vitruvian.models.registry import Featured
from vitruvian.spec import Training
from vitruvian.store import FolderStore
from vitruvian.training.batches import load, share
from vitruvian.training.frozen import take_in
from vitruvian.training.precision import autocast
from vitruvian.training.together import everywhere

# So many a CPU computes fastest: of more, what lies between layers doesn't stay in its caches.
_BATCH_OF_A_CPU = 16
_BATCH_OF_A_GPU = 64
_REVISION = 2


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
    module: Featured, prepared: Prepared, rank: int, world: int, device: torch.device, half: torch.dtype | None
) -> tuple[Features, bool]:
    """Return the features, and whether they were kept from before; all ranks call it together."""
    parts = {"train": prepared.part("train"), "validation": prepared.part("validation")}
    place = cache_folder() / "features" / f"{_key(module, prepared, parts, device, half)}.safetensors"
    found = _kept(place)
    if everywhere(found is not None, world):
        assert found is not None
        return found, True
    made = Features(**{name: _of(module, part, prepared, rank, world, device, half) for name, part in parts.items()})
    if rank == 0:
        _keep(made, place)
    return made, False


def _kept(place: Path) -> Features | None:
    """Return what was kept; None where there is nothing, or something else than was written."""
    try:
        with safe_open(place, "pt") as file:
            found = Features(file.get_tensor("train"), file.get_tensor("validation"))
            return found if (file.metadata() or {}).get("digest") == _digest(found) else None
    except (OSError, SafetensorError):
        return None


def _keep(made: Features, place: Path) -> None:
    content = save({"train": made.train, "validation": made.validation}, {"digest": _digest(made)})
    # Without them the next run computes them again.
    with contextlib.suppress(StoreError):
        FolderStore(place.parent).put(place.name, content)


def _digest(features: Features) -> str:
    digest = hashlib.sha256()
    for values in (features.train, features.validation):
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _key(
    module: Featured, prepared: Prepared, parts: dict[str, PreparedPart], device: torch.device, half: torch.dtype | None
) -> str:
    """Identify all that features follow from: weights, examples, preprocessing and what computes them."""
    weights, examples = hashlib.sha256(), hashlib.sha256()
    for index, part in enumerate(module.front()):
        weights.update(repr(part).encode())
        for name, value in sorted(part.state_dict().items()):
            take_in(weights, f"{index} {name}", value)
    for _, each in sorted(parts.items()):
        for shard in each.shards:
            examples.update(f"{shard.dtype} {shard.shape}".encode())
            examples.update(np.ascontiguousarray(shard).data.cast("B"))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    preprocess = prepared.preprocess.model_dump(mode="json")
    return digest_of(
        [_REVISION, weights.hexdigest(), examples.hexdigest(), preprocess, torch.__version__, kind, str(half)]
    )


@torch.no_grad()
def _of(
    module: Featured,
    part: PreparedPart,
    prepared: Prepared,
    rank: int,
    world: int,
    device: torch.device,
    half: torch.dtype | None,
) -> torch.Tensor:
    mine = share(np.arange(len(part)), rank, world)
    rows = []
    training = module.training
    module.eval()
    batch = _BATCH_OF_A_CPU if device.type == "cpu" else _BATCH_OF_A_GPU
    for start in range(0, len(mine), batch):
        images, _ = load(part, mine[start : start + batch], prepared.preprocess)
        with autocast(device, half):
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
