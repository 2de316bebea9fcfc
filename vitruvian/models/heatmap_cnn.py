"""A small convolutional network on the heatmaps of 17 keypoints, with the keypoints' places as extra features.

After PoseConv3D (Duan et al., 2022), which showed that heatmaps carry an action better than coordinates alone, and
the soft-argmax of Sun et al. (2018), which reads a place from a heatmap without losing the gradient.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vitruvian.data.decode import HEATMAP_SHAPE
from vitruvian.spec import Model

KEYPOINTS, HEIGHT, WIDTH = HEATMAP_SHAPE


class Places(nn.Module):
    """Heatmaps (n, 17, 64, 48) to every keypoint's place, relative to the body, and its certainty: (n, 51)."""

    grid: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        self.register_buffer("grid", torch.stack([x, y]).flatten(1).float() / HEIGHT, persistent=False)

    def forward(self, heatmaps: torch.Tensor) -> torch.Tensor:
        flat = heatmaps.flatten(2).clamp_min(0)
        peak = flat.amax(2)
        # The square favours the peak over the noise around it.
        weight = flat.square()
        place = weight @ self.grid.T / (weight.sum(2, keepdim=True) + 1e-6)
        seen = peak.clamp_max(1).unsqueeze(2)
        middle = (place * seen).sum(1, keepdim=True) / (seen.sum(1, keepdim=True) + 1e-6)
        around = (place - middle) * seen
        spread = around.square().sum((1, 2), keepdim=True).div(seen.sum((1, 2), keepdim=True) + 1e-6).sqrt()
        return torch.cat([(around / (spread + 1e-3)).flatten(1), seen.flatten(1)], 1)


class HeatmapCnn(nn.Module):
    """Heatmaps (n, 17, 64, 48) to logits (n, classes)."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        # Group normalisation: batch statistics would differ with the number of workers.
        self.layers = nn.Sequential(
            *_block(KEYPOINTS, width, stride=2),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 4 * width, stride=2),
            *_block(4 * width, 4 * width, stride=2),
            # What moves, not where in the picture: places are in a branch of their own.
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.places = Places()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4 * width, classes))
        # What a linear classifier finds in the places is there from the start; the layers add what it can't.
        self.linear = nn.Linear(3 * KEYPOINTS, classes)

    def forward(self, heatmaps: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(heatmaps)) + self.linear(self.places(heatmaps))
        return logits


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.GELU()]


def build(model: Model, classes: int) -> nn.Module:
    """Return a network from scratch."""
    return HeatmapCnn(classes)


def save(module: nn.Module, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`."""
    assert isinstance(module, HeatmapCnn)
    classes = module.head[-1].out_features
    (folder / "config.json").write_text(json.dumps({"model_type": "heatmap-cnn", "num_labels": classes}, indent=1))
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path) -> nn.Module:
    """Return the module that `save` wrote."""
    module = HeatmapCnn(json.loads((folder / "config.json").read_text())["num_labels"])
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module
