"""How fast a model learns where nobody says so, known without torch."""

from __future__ import annotations

from vitruvian.models.inputs import pretrained_config
from vitruvian.models.layers import depth
from vitruvian.spec import Clip, Model


def default_learning_rate(model: Model) -> float:
    """Return the peak learning rate where the user gives none."""
    if model.lora:
        # Ten times that of whole weights, as measured in "LoRA Without Regret" (Schulman et al., 2025).
        return 5e-4
    if only_a_new_head_learns(model):
        return 1e-3
    return 5e-5 if model.pretrained else 1e-3


def only_a_new_head_learns(model: Model) -> bool:
    """Return whether all that a model begins with stays as it is before a head that is drawn anew."""
    if model.architecture == "clip":
        clip = model.clip or Clip()
        # Unset, all of it learns from scratch and with lora.
        unset = clip.unfreeze_visual is None and model.pretrained is not None and not model.lora
        return clip.head == "linear" and (unset or clip.unfreeze_visual == 0)
    if model.lora or not model.pretrained or not model.freeze_layers:
        return False
    return depth(model, pretrained_config(model.pretrained, "config.json")) == model.freeze_layers
