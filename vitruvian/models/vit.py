"""Vision Transformer (Dosovitskiy et al., 2021), as transformers implements it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from vitruvian.errors import SpecError
from vitruvian.models.layers import refuse_more, types_of
from vitruvian.models.lora import attach, merged
from vitruvian.models.pretrained import pretrained
from vitruvian.models.registry import Featured
from vitruvian.spec import Dimensions, Model


class Vit(Featured):
    """Images (n, 3, size, size) to logits (n, classes)."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(pixel_values=images).logits
        return logits

    def front(self) -> Sequence[nn.Module]:
        """Return all before the last normalisation, which learns whatever is frozen."""
        return [self.inner.vit.embeddings, *_layers(self.inner)]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the first token's features (n, width), which the class is told by."""
        hidden: torch.Tensor = self.inner.vit.embeddings(images)
        for layer in _layers(self.inner):
            hidden = layer(hidden)
        return hidden[:, 0]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of features (n, width)."""
        logits: torch.Tensor = self.inner.classifier(self.inner.vit.layernorm(features))
        return logits


def build(model: Model, classes: Sequence[str]) -> nn.Module:
    """Return a Vision Transformer, from scratch or from pretrained weights with a new head."""
    if model.pretrained:
        inner = pretrained(
            ViTForImageClassification,
            model.pretrained,
            "vit",
            types_of(model),
            new="classifier.",
            num_labels=len(classes),
        )
    else:
        inner = _scratch(model, len(classes))
    layers = _layers(inner)
    refuse_more(model.freeze_layers, len(layers), "layers", "freezeLayers")
    if model.lora:
        if model.freeze_layers == len(layers):
            what = f"all {len(layers)} layers are kept as they are: there is nothing to change"
            raise SpecError(what, where="model.lora", hint="lower freezeLayers")
        attach(inner.vit, layers[model.freeze_layers :], model.lora)
    elif model.freeze_layers:
        for part in [inner.vit.embeddings, *layers[: model.freeze_layers]]:
            part.requires_grad_(False)
    return Vit(inner)


def _scratch(model: Model, classes: int) -> Any:
    size = model.dimensions or Dimensions()
    config = ViTConfig(
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size or 4 * size.hidden_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_labels=classes,
        # The usual 0.02 suits 768 features; with it a narrow model hardly begins to learn.
        initializer_range=0.02 * math.sqrt(768 / size.hidden_size),
    )
    return ViTForImageClassification(config)


def _layers(inner: Any) -> Any:
    return inner.vit.layers if hasattr(inner.vit, "layers") else inner.vit.encoder.layer


def adapt(module: nn.Module, examples: Callable[[int], torch.Tensor]) -> None:
    """Do nothing: preprocessing has normalised the images."""


def save(module: nn.Module, folder: Path) -> None:
    """Write the weights as transformers' `from_pretrained` reads them."""
    module = merged(module)
    assert isinstance(module, Vit)
    module.inner.save_pretrained(folder)


def load(folder: Path) -> nn.Module:
    """Return the module that `save` wrote."""
    return Vit(ViTForImageClassification.from_pretrained(folder, use_safetensors=True))
