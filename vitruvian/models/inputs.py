"""What each architecture takes as its input, known without loading torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.errors import SpecError
from vitruvian.spec import Dimensions, Model


def preprocess_for(model: Model) -> ImagePreprocess | HeatmapPreprocess:
    """Return how inputs are prepared for a model; raises `SpecError` where pretrained weights don't tell."""
    if model.architecture == "heatmap-cnn":
        return HeatmapPreprocess()
    if model.pretrained is None:
        return ImagePreprocess(size=(model.dimensions or Dimensions()).image_size)
    size = int(pretrained_config(model.pretrained, "config.json").get("image_size", 224))
    try:
        saved = pretrained_config(model.pretrained, "preprocessor_config.json")
    except SpecError:
        # Weights that were saved without their preprocessing: ViT's own defaults.
        return ImagePreprocess(size=size)
    mean, std = saved.get("image_mean", [0.5] * 3), saved.get("image_std", [0.5] * 3)
    return ImagePreprocess(size=size, mean=tuple(mean), std=tuple(std))


def pretrained_config(name: str, file: str) -> dict[str, Any]:
    """Return a JSON file that lies beside pretrained weights, in a folder or on the hub; raises `SpecError`."""
    path = Path(name).expanduser() / file
    where = f"model.pretrained: {name}"
    if not Path(name).expanduser().is_dir():
        path = _from_hub(name, file, where)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as e:
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
