"""The one place that knows every architecture."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from tokenizers import Tokenizer
from torch import nn

from vitruvian.spec import Model


class Architecture(Protocol):
    """What a file of this folder offers."""

    def build(self, model: Model, classes: Sequence[str]) -> nn.Module:
        """Return a module from inputs (n, …) to logits (n, classes), drawn from torch's global generator."""

    def adapt(self, module: nn.Module, examples: Callable[[int], torch.Tensor]) -> None:
        """Fit a new module's fixed statistics before its first step; `examples(n)` returns training inputs (n, …)."""

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""

    def load(self, folder: Path) -> nn.Module:
        """Return the module that `save` wrote."""


@dataclass(frozen=True)
class Towers:
    """A model of images and texts in parts: what embeds each, and the rows that tell its classes apart."""

    image: nn.Module
    """Images (n, 3, size, size) to unit-length embeddings (n, width)."""
    text: nn.Module
    """Tokens (n, length) to unit-length embeddings (n, width)."""
    weight: torch.Tensor
    """(classes, width): logits are an embedding's products with them."""
    scale: float
    """What a cosine counts in a logit."""
    tokenizer: Tokenizer
    context: int
    """The most tokens of a text."""
    pad: int
    """The token that fills up shorter texts."""


class Featured(nn.Module):
    """A model that comes in two parts: features of images, and logits of features."""

    def front(self) -> Sequence[nn.Module]:
        """Return what the features follow from."""
        raise NotImplementedError

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (n, width) of images (n, 3, size, size)."""
        raise NotImplementedError

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of features (n, width); after `features`, what `forward` returns."""
        raise NotImplementedError


def towers(name: str, module: nn.Module) -> Towers | None:
    """Return the parts of a trained model of images and texts; None of any other."""
    return cast(Towers | None, getattr(architecture(name), "towers", lambda module: None)(module))


_FILES = {"vit": "vit", "clip": "clip", "resnet50": "resnet50", "heatmap-cnn": "heatmap_cnn"}


def architecture(name: str) -> Architecture:
    """Return the architecture of a name that the spec knows; only its own file and libraries are loaded."""
    return cast(Architecture, importlib.import_module(f"vitruvian.models.{_FILES[name]}"))


def parameters(model: Model, classes: Sequence[str]) -> tuple[int, int]:
    """Return how many parameters of a model training changes, and how many it has; draws nothing from a generator."""
    with torch.random.fork_rng():
        module = architecture(model.architecture).build(model, classes)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)
