"""ResNets as torchvision saves them, made into those that transformers reads; neither torch nor torchvision is needed.

A state dict of `torchvision.models.resnet50` comes without a config: its names and shapes tell what network it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitruvian.errors import SpecError
from vitruvian.models.rewriting import rewrite

Shapes = Mapping[str, tuple[int, ...]]

# Names and shapes come first in safetensors; those of the deepest ResNet take less than a third of it.
HEADER: Final = 2**19
_STEM: Final = ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer1.0.conv2.weight")
_LAYERS: Final = ("layer1", "layer2", "layer3", "layer4")
_CHOOSE: Final = "choose torchvision's resnet18, 34, 50, 101 or 152"
_PART: Final = re.compile(r"(?:layer([1-4])\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)")
_KINDS: Final = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}


def shapes_of(start: bytes) -> Shapes:
    """Return names and shapes of the tensors of safetensors that begin so; none where they aren't torchvision's."""
    try:
        header = json.loads(start[8 : 8 + int.from_bytes(start[:8], "little")])
        shapes = {name: tuple(map(int, each["shape"])) for name, each in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return shapes if all(name in shapes for name in _STEM) else {}


def config_of(shapes: Shapes, where: str) -> dict[str, Any]:
    """Return transformers' config.json of a state dict; raises `SpecError` for networks unlike a ResNet."""
    last = "conv3" if "layer1.0.conv3.weight" in shapes else "conv2"
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": 3,
        "embedding_size": _wide(shapes, "conv1.weight"),
        "hidden_sizes": [_wide(shapes, f"{layer}.0.{last}.weight") for layer in _LAYERS],
        "depths": [len({name.split(".")[1] for name in shapes if name.startswith(f"{layer}.")}) for layer in _LAYERS],
        "layer_type": "bottleneck" if last == "conv3" else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        # Where torchvision has its strides, too: in what is called ResNet v1.5.
        "downsample_in_bottleneck": False,
    }
    wanted = dict(_convolutions(config))
    odd = [name for name in {**wanted, **shapes} if _is_odd(name, shapes.get(name), wanted.get(name))]
    if odd:
        raise SpecError(f"torchvision's tensor {odd[0]} isn't as in a ResNet", where=where, hint=_CHOOSE)
    return config


def _wide(shapes: Shapes, name: str) -> int:
    return (shapes.get(name) or (0,))[0]


def _convolutions(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each convolution that a network has by its config."""
    before = config["embedding_size"]
    yield "conv1.weight", (before, 3, 7, 7)
    for layer, depth, wide in zip(_LAYERS, config["depths"], config["hidden_sizes"], strict=True):
        # One that is lacking as a whole is told by the first tensor of it.
        for block in range(max(depth, 1)):
            at, inner = f"{layer}.{block}", wide // 4
            if config["layer_type"] == "basic":
                yield f"{at}.conv1.weight", (wide, before, 3, 3)
                yield f"{at}.conv2.weight", (wide, wide, 3, 3)
            else:
                yield f"{at}.conv1.weight", (inner, before, 1, 1)
                yield f"{at}.conv2.weight", (inner, inner, 3, 3)
                yield f"{at}.conv3.weight", (wide, inner, 1, 1)
            if block == 0 and (layer != _LAYERS[0] or before != wide):
                yield f"{at}.downsample.0.weight", (wide, before, 1, 1)
            before = wide


def _is_odd(name: str, there: tuple[int, ...] | None, wanted: tuple[int, ...] | None) -> bool:
    """Return whether a tensor isn't as the config says: lacking, of another shape, or one that no ResNet has."""
    return there != wanted if wanted or len(there or ()) == 4 else not _renamed(name) and not name.startswith("fc.")


def _renamed(name: str) -> str | None:
    """Return transformers' name of a tensor; None where it has none."""
    if name in ("fc.weight", "fc.bias"):
        return f"classifier.1.{name.removeprefix('fc.')}"
    found = _PART.fullmatch(name)
    if not found:
        return None
    layer, block, kind, number, value = found.groups()
    if layer is None:
        return f"resnet.embedder.embedder.{_KINDS[kind]}.{value}" if name[: -len(value)] in ("conv1.", "bn1.") else None
    at = f"resnet.encoder.stages.{int(layer) - 1}.layers.{block}"
    if kind == "downsample.":
        return f"{at}.shortcut.{_KINDS[number]}.{value}" if number in _KINDS else None
    return f"{at}.layer.{int(number) - 1}.{_KINDS[kind]}.{value}"


def converted(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return torchvision's tensors under transformers' names, without a head of more than one layer."""
    made = {renamed: value for name, value in weights.items() if (renamed := _renamed(name))}
    for name in [name for name in made if name.endswith(".running_mean")]:
        # What torch before 0.4.1 saved doesn't count the batches.
        made.setdefault(name.replace("running_mean", "num_batches_tracked"), np.array(0, np.int64))
    return made


def convert(file: Path, into: Path, where: str) -> None:
    """Write a state dict's weights as transformers' `from_pretrained` reads them; raises `SpecError`."""
    with open(file, "rb") as start:
        config = config_of(shapes_of(start.read(HEADER)), where)
    try:
        rewrite(file, converted, into, where, "weights must be whole safetensors; save them again")
    except TypeError as e:
        # numpy knows no bfloat16 and no float8.
        raise SpecError(f"{file.name} can't be read ({e})", where=where, hint="save it as float32 or float16") from e
    (into / "config.json").write_text(json.dumps(config, indent=1))
