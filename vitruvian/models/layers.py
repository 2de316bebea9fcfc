"""Whether a model's weights are of its architecture and have the layers that its fields count, known without torch."""

from __future__ import annotations

from typing import Any, Final

from vitruvian.errors import SpecError
from vitruvian.models.inputs import pretrained_config
from vitruvian.spec import Clip, Dimensions, Model

_TYPES: Final = {"vit": ("vit",), "resnet50": ("resnet",), "clip": ("clip",)}
_STAGES: Final = 4
_MOST: Final = 1024


def check(model: Model) -> None:
    """Raise `SpecError` where a model can't be built: its weights are another's, or too few for what is frozen."""
    if model.architecture == "heatmap-cnn":
        return
    clip = model.clip or Clip()
    config: dict[str, Any] = {}
    if model.pretrained:
        config = pretrained_config(model.pretrained, "config.json")
        refuse_unfit(model.pretrained, config, model.architecture, types_of(model))
    if model.architecture != "clip":
        what = "stages" if model.architecture == "resnet50" else "layers"
        refuse_more(model.freeze_layers, depth(model, config), what, "freezeLayers")
    else:
        deep = (model.dimensions or Dimensions()).layers
        for field, tower, learning in (
            ("clip.unfreezeVisual", "vision_config", clip.unfreeze_visual),
            ("clip.unfreezeText", "text_config", clip.unfreeze_text if clip.head == "prompts" else None),
        ):
            told = config.get(tower, config)
            refuse_more(learning or 0, _layers(told if isinstance(told, dict) else {}, deep), "layers", field)


def types_of(model: Model) -> tuple[str, ...]:
    """Return the `model_type`s of weights that a model can begin with."""
    types = _TYPES[model.architecture]
    # A linear head needs no text.
    linear = model.architecture == "clip" and (model.clip or Clip()).head == "linear"
    return (*types, "clip_vision_model") if linear else types


def depth(model: Model, config: dict[str, Any]) -> int:
    """Return how many layers of a vit, or stages of a resnet50, there are by the config.json of its weights."""
    if model.architecture == "resnet50":
        depths = config.get("depths")
        return len(depths) if isinstance(depths, list) else _STAGES
    return _layers(config, (model.dimensions or Dimensions()).layers)


def _layers(config: dict[str, Any], otherwise: int) -> int:
    there = config.get("num_hidden_layers", 12 if config else otherwise)
    return there if isinstance(there, int) else 12


def refuse_unfit(name: str, config: dict[str, Any], what: str, types: tuple[str, ...]) -> None:
    """Raise `SpecError` where the config.json of weights is of no type that is wanted, or counts layers as none has."""
    found = config.get("model_type")
    if found not in types:
        hint = "choose other weights; a study compares several with --vary 'model={architecture: …, pretrained: …},{…}'"
        raise SpecError(
            f"these are weights of a '{found}', not of a {what}", where=f"model.pretrained: {name}", hint=hint
        )
    for told in (config, config.get("vision_config"), config.get("text_config")):
        if not isinstance(told, dict):
            continue
        depths = told.get("depths")
        counts = [told.get("num_hidden_layers"), *(depths if isinstance(depths, list) else ())]
        for count in counts:
            if isinstance(count, int) and not 1 <= count <= _MOST:
                what = f"config.json counts {count:,} layers, and there can be 1 to {_MOST:,}"
                raise SpecError(
                    what, where=f"model.pretrained: {name}", hint="save the weights again with save_pretrained"
                )


def refuse_more(count: int, there: int, what: str, field: str) -> None:
    """Raise `SpecError` where a field counts more layers than there are."""
    if count > there:
        raise SpecError(f"is {count}, but there are {there} {what}", where=f"model.{field}", hint="lower it")
