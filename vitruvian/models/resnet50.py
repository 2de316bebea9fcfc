"""ResNet-50 (He et al., 2016) as transformers implements it: the same network as torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from vitruvian.models.batchnorm import share
from vitruvian.models.layers import refuse_more, types_of
from vitruvian.models.pretrained import pretrained
from vitruvian.models.registry import Featured
from vitruvian.spec import Model


class Resnet(Featured):
    """Images (n, 3, size, size) to logits (n, classes); the stem and the first `frozen` stages don't learn."""

    def __init__(self, inner: Any, frozen: int = 0) -> None:
        super().__init__()
        share(inner)
        self.inner = inner
        stages = inner.resnet.encoder.stages
        refuse_more(frozen, len(stages), "stages", "freezeLayers")
        self._frozen = (inner.resnet.embedder, *stages[:frozen]) if frozen else ()
        for part in self._frozen:
            part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all that learns: what is frozen keeps its running statistics, too."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(pixel_values=images).logits
        return logits

    def front(self) -> Sequence[nn.Module]:
        """Return all but the head."""
        return [self.inner.resnet]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last stage's mean over the image, (n, width)."""
        pooled: torch.Tensor = self.inner.resnet(pixel_values=images).pooler_output
        return pooled.flatten(1)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of features (n, width)."""
        logits: torch.Tensor = self.inner.classifier(features)
        return logits


def build(model: Model, classes: Sequence[str]) -> nn.Module:
    """Return a ResNet-50, from scratch or from pretrained weights (of a ResNet of any depth) with a new head."""
    if model.pretrained:
        inner = pretrained(
            ResNetForImageClassification,
            model.pretrained,
            "resnet",
            types_of(model),
            new="classifier.",
            num_labels=len(classes),
        )
    else:
        inner = ResNetForImageClassification(ResNetConfig(num_labels=len(classes)))
    return Resnet(inner, model.freeze_layers)


def adapt(module: nn.Module, examples: Callable[[int], torch.Tensor]) -> None:
    """Do nothing: preprocessing has normalised the images."""


def save(module: nn.Module, folder: Path) -> None:
    """Write the weights as transformers' `from_pretrained` reads them."""
    assert isinstance(module, Resnet)
    module.inner.save_pretrained(folder)


def load(folder: Path) -> nn.Module:
    """Return the module that `save` wrote."""
    return Resnet(ResNetForImageClassification.from_pretrained(folder, use_safetensors=True))
