"""A small convolutional network on the heatmaps of 17 keypoints, with the limbs' directions as extra features.

After PoseConv3D (Duan et al., 2022), which showed that heatmaps carry an action better than coordinates alone, the
soft-argmax of Sun et al. (2018), which reads a place from a heatmap without losing the gradient, and the bone stream of
2s-AGCN (Shi et al., 2019): vectors along the limbs hold for people of any build where places don't.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vitruvian.data import skeleton as sk
from vitruvian.data.decode import HEATMAP_SHAPE
from vitruvian.spec import Model

KEYPOINTS, HEIGHT, WIDTH = HEATMAP_SHAPE

_LIMBS = (
    (sk.L_SHOULDER, sk.L_ELBOW),
    (sk.L_ELBOW, sk.L_WRIST),
    (sk.R_SHOULDER, sk.R_ELBOW),
    (sk.R_ELBOW, sk.R_WRIST),
    (sk.L_HIP, sk.L_KNEE),
    (sk.L_KNEE, sk.L_ANKLE),
    (sk.R_HIP, sk.R_KNEE),
    (sk.R_KNEE, sk.R_ANKLE),
    (sk.L_SHOULDER, sk.L_HIP),
    (sk.R_SHOULDER, sk.R_HIP),
    (sk.L_SHOULDER, sk.R_SHOULDER),
    (sk.L_HIP, sk.R_HIP),
    (sk.L_SHOULDER, sk.NOSE),
    (sk.R_SHOULDER, sk.NOSE),
    (sk.L_SHOULDER, sk.L_WRIST),
    (sk.R_SHOULDER, sk.R_WRIST),
    (sk.L_HIP, sk.L_ANKLE),
    (sk.R_HIP, sk.R_ANKLE),
    (sk.L_WRIST, sk.R_WRIST),
    (sk.L_ANKLE, sk.R_ANKLE),
)
_EXAMPLES_TO_ADAPT_TO = 512
_FEATURES = 2 * len(_LIMBS) + KEYPOINTS


class Limbs(nn.Module):
    """Heatmaps (n, 17, 64, 48) to vectors along the limbs, in units of the body's size, and certainties: (n, 57)."""

    grid: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        self.register_buffer("grid", torch.stack([x, y]).flatten(1).float() / HEIGHT, persistent=False)
        self.register_buffer("mean", torch.zeros(_FEATURES))
        self.register_buffer("deviation", torch.ones(_FEATURES))
        self.starts, self.ends = (list(column) for column in zip(*_LIMBS, strict=True))

    def measure(self, heatmaps: torch.Tensor) -> torch.Tensor:
        """Return the features as they are, (n, 57)."""
        flat = heatmaps.flatten(2).clamp_min(0)
        # The square favours the peak over the noise around it.
        weight = flat.square()
        place = weight @ self.grid.T / (weight.sum(2, keepdim=True) + 1e-6)
        seen = flat.amax(2).clamp_max(1).unsqueeze(2)
        total = seen.sum(1, keepdim=True) + 1e-6
        around = (place - (place * seen).sum(1, keepdim=True) / total) * seen
        size = (around.square().sum((1, 2), keepdim=True) / (2 * total)).sqrt() + 1e-3
        # A limb with an end that isn't seen has no direction.
        both = seen[:, self.starts] * seen[:, self.ends]
        vectors = (place[:, self.ends] - place[:, self.starts]) / size * both
        return torch.cat([vectors.flatten(1), seen.flatten(1)], 1)

    def forward(self, heatmaps: torch.Tensor) -> torch.Tensor:
        return (self.measure(heatmaps) - self.mean) / self.deviation


class HeatmapCnn(nn.Module):
    """Heatmaps (n, 17, 64, 48) to logits (n, classes)."""

    def __init__(self, classes: int, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        # Group normalisation: batch statistics would differ with the number of workers.
        self.layers = nn.Sequential(
            *_block(KEYPOINTS, width, stride=2),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 4 * width, stride=2),
            *_block(4 * width, 4 * width, stride=2),
            # What is there, not where in the picture: the limbs tell that without the picture's frame.
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4 * width, classes))
        # The layers learn faster and less generally: where they are left out, the limbs have to suffice.
        self.presence = nn.Dropout(0.5)
        self.limbs = Limbs()
        self.limbs_head = nn.Sequential(
            nn.Linear(_FEATURES, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, classes)
        )

    def forward(self, heatmaps: torch.Tensor) -> torch.Tensor:
        shape: torch.Tensor = self.head(self.layers(heatmaps))
        limbs: torch.Tensor = self.limbs_head(self.limbs(heatmaps))
        logits: torch.Tensor = limbs + shape * self.presence(torch.ones_like(shape[:, :1]))
        return logits


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.GELU()]


def build(model: Model, classes: Sequence[str]) -> nn.Module:
    """Return a network from scratch."""
    return HeatmapCnn(len(classes))


@torch.no_grad()
def adapt(module: nn.Module, examples: Callable[[int], torch.Tensor]) -> None:
    """Bring the limbs' features to mean 0 and deviation 1, as some examples have them."""
    assert isinstance(module, HeatmapCnn)
    features = module.limbs.measure(examples(_EXAMPLES_TO_ADAPT_TO))
    module.limbs.mean.copy_(features.mean(0))
    # What hardly varies in training must not be blown up where it does.
    module.limbs.deviation.copy_(features.std(0, correction=0).clamp_min(0.05))


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
