"""What each architecture takes as its input, known without loading torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitruvian.artifact import describe, digest_of
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.errors import SpecError
from vitruvian.spec import Dimensions, Model

# What each architecture's weights are usually learnt with; vit: as in its first release, clip: as CLIP's own.
_NORMS = {
    "vit": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "resnet50": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "clip": {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
}


def preprocess_for(model: Model) -> ImagePreprocess | HeatmapPreprocess:
    """Return how inputs are prepared for a model; raises `SpecError` where pretrained weights don't tell."""
    if model.architecture == "heatmap-cnn":
        return HeatmapPreprocess()
    settings: dict[str, Any] = {**_NORMS[model.architecture]}
    if model.pretrained:
        settings |= _learnt_with(model.pretrained)
    if model.dimensions or not model.pretrained:
        settings["size"] = (model.dimensions or Dimensions()).image_size
    try:
        return ImagePreprocess.model_validate(settings)
    except ValidationError as e:
        first = e.errors()[0]
        what = f"{first['loc'][0]} of the pretrained input: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise SpecError(what, where=f"model.pretrained: {model.pretrained}", hint="save the weights again") from e


def _learnt_with(name: str) -> dict[str, Any]:
    """Return size, mean and deviation of the images that weights were learnt with, as far as they tell."""
    if Path(name).expanduser().is_dir() and (own := pretrained_config(name, "preprocess.json", default={})):
        # The folder of a bundle.
        return own
    saved = pretrained_config(name, "config.json")
    how = pretrained_config(name, "preprocessor_config.json", default={})
    size = saved.get("vision_config", saved).get("image_size", 224)
    return {"size": size} | {part: how[f"image_{part}"] for part in ("mean", "std") if f"image_{part}" in how}


def weights_version(model: Model) -> str | None:
    """Return what identifies the weights that training begins with; None from scratch.

    A folder is known by its files' content, a hub name by itself.
    """
    if model.pretrained is None:
        return None
    folder = Path(model.pretrained).expanduser()
    if not folder.is_dir():
        return model.pretrained
    files = sorted([*folder.glob("*.json"), *folder.glob("*.txt"), *folder.glob("*.safetensors")])
    return digest_of({path.name: describe(path).sha256 for path in files})


def pretrained_config(name: str, file: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a JSON file that lies beside pretrained weights, in a folder or on the hub; raises `SpecError`."""
    path = Path(name).expanduser() / file
    where = f"model.pretrained: {name}"
    if not Path(name).expanduser().is_dir():
        try:
            path = _from_hub(name, file, where)
        except SpecError:
            if default is not None:
                return default
            raise
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as e:
        if default is not None:
            return default
        raise SpecError(f"the folder holds no {file}", where=where, hint="save the weights with save_pretrained") from e
    except ValueError as e:
        raise SpecError(f"{file} is not JSON", where=where, hint="save the weights with save_pretrained") from e
    if not isinstance(content, dict):
        raise SpecError(f"{file} is not a JSON object", where=where, hint="save the weights with save_pretrained")
    return content


def _from_hub(name: str, file: str, where: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except (HFValidationError, OSError, EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError) as e:
        hint = "give a folder with config.json and model.safetensors, or a hub name that can be reached"
        raise SpecError(f"no {file} there ({type(e).__name__})", where=where, hint=hint) from e
