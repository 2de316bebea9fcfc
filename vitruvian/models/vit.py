"""Vision Transformer (Dosovitskiy et al., 2021), as transformers implements it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils import logging

from vitruvian.errors import SpecError
from vitruvian.models.inputs import pretrained_config
from vitruvian.spec import Dimensions, Model

# Its bars for files of a few megabytes would tear those of the stages.
logging.disable_progress_bar()
logging.set_verbosity_error()


class Vit(nn.Module):
    """Images (n, 3, size, size) to logits (n, classes)."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(pixel_values=images).logits
        return logits


def build(model: Model, classes: int) -> nn.Module:
    """Return a Vision Transformer, from scratch or from pretrained weights with a new head."""
    inner = _pretrained(model.pretrained, classes) if model.pretrained else _scratch(model, classes)
    _freeze(inner, model.freeze_layers)
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


def _pretrained(name: str, classes: int) -> Any:
    kind = pretrained_config(name, "config.json").get("model_type")
    where = f"model.pretrained: {name}"
    if kind != "vit":
        raise SpecError(f"these are weights of a '{kind}', not of a vit", where=where, hint="choose other weights")
    try:
        inner, loaded = ViTForImageClassification.from_pretrained(
            name, num_labels=classes, ignore_mismatched_sizes=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        first = str(e).splitlines()[0]
        raise SpecError(first, where=where, hint="weights must be safetensors; pickled ones are refused") from e
    lacking = sorted(key for key in loaded["missing_keys"] if not key.startswith("classifier."))
    if lacking:
        what = f"the weights lack {len(lacking)} of the model's tensors, such as {lacking[0]}"
        raise SpecError(what, where=where, hint="choose weights of a whole vit")
    return inner


def _freeze(inner: Any, count: int) -> None:
    layers = inner.vit.layers if hasattr(inner.vit, "layers") else inner.vit.encoder.layer
    if count > len(layers):
        raise SpecError(f"is {count}, but there are {len(layers)} layers", where="model.freezeLayers", hint="lower it")
    for part in [inner.vit.embeddings, *layers[:count]] if count else []:
        part.requires_grad_(False)


def adapt(module: nn.Module, examples: Callable[[int], torch.Tensor]) -> None:
    """Do nothing: preprocessing has normalised the images."""


def save(module: nn.Module, folder: Path) -> None:
    """Write the weights as transformers' `from_pretrained` reads them."""
    assert isinstance(module, Vit)
    module.inner.save_pretrained(folder)


def load(folder: Path) -> nn.Module:
    """Return the module that `save` wrote."""
    return Vit(ViTForImageClassification.from_pretrained(folder, use_safetensors=True))
