"""ResNets that torchvision saved answer here as they do there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitruvian.errors import SpecError
from vitruvian.models.inputs import pinned, preprocess_for, pretrained_config, weights_version
from vitruvian.models.layers import check
from vitruvian.models.rates import only_a_new_head_learns
from vitruvian.models.registry import architecture
from vitruvian.spec import Model

MODELS = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _network(name: str, **settings: Any) -> Any:
    """Return torchvision's network with everything drawn: what begins as zeros or ones would hide what is mixed up."""
    models = pytest.importorskip("torchvision.models", reason="needs torchvision: it comes with open_clip_torch")
    torch.manual_seed(0)
    module = getattr(models, name)(weights=None, **settings).eval()
    for key, value in module.state_dict().items():
        if value.dim() == 1:
            value.uniform_(0.5, 1) if key.endswith(("weight", "var")) else value.normal_(std=0.1)
    return module


def _small(**settings: Any) -> Any:
    """Return a network of torchvision's with one block in each layer."""
    resnet = pytest.importorskip("torchvision.models.resnet", reason="needs torchvision: it comes with open_clip_torch")
    torch.manual_seed(0)
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], **settings).eval()


def _save(module: Any, file: Path, *without: str, **more: torch.Tensor) -> str:
    file.parent.mkdir(exist_ok=True)
    values = {name: value for name, value in module.state_dict().items() if not name.endswith(without or "-")}
    save_file(values | more, file)
    return str(file.parent)


def _model(pretrained: str, **settings: Any) -> Model:
    return Model.model_validate({"architecture": "resnet50", "pretrained": pretrained, **settings})


@pytest.mark.parametrize(
    ("name", "depths", "without"),
    [
        ("resnet50", [3, 4, 6, 3], ()),
        ("resnet18", [2, 2, 2, 2], ()),
        # As torch saved before it counted batches.
        ("resnet18", [2, 2, 2, 2], ("num_batches_tracked",)),
    ],
)
def test_the_same_pictures_have_the_same_logits(
    tmp_path: Path, name: str, depths: list[int], without: tuple[str, ...]
) -> None:
    theirs = _network(name, num_classes=3)
    folder = _save(theirs, tmp_path / "weights" / f"{name}.safetensors", *without)
    model = _model(folder)
    ours = architecture("resnet50").build(model, ["a", "b", "c"]).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert expected.std() > 1e-3
        assert torch.allclose(ours(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert pretrained_config(folder, "config.json")["depths"] == depths


def test_everything_before_training_reads_names_and_shapes_only(tmp_path: Path) -> None:
    folder = _save(_small(), tmp_path / "weights" / "model.safetensors")
    file = tmp_path / "weights" / "model.safetensors"
    # Cut off after the header.
    file.write_bytes(file.read_bytes()[: 2**16])
    model = _model(folder, freezeLayers=4)
    check(model)
    made = preprocess_for(model)
    assert (made.size, made.mean[0], made.std[0]) == (224, 0.485, 0.229)  # type: ignore[union-attr]
    assert only_a_new_head_learns(model) and pinned(model) == model
    with pytest.raises(SpecError, match="these are weights of a 'resnet', not of a vit"):
        check(_model(folder).model_copy(update={"architecture": "vit"}))
    with pytest.raises(SpecError, match=r"model\.safetensors can't be read"):
        architecture("resnet50").build(model, ["a"])


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_means_itself_whatever_lies_beside_it(tmp_path: Path, scheme: str) -> None:
    folder = _save(_small(), tmp_path / "weights" / "one.safetensors")
    (tmp_path / "weights" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "weights" / "preprocess.json").write_text('{"size": 7}')
    model = _model(f"{scheme}{folder}/one.safetensors", freezeLayers=1)
    before = weights_version(model)
    other = _small()
    _save(other, tmp_path / "weights" / "two.safetensors")
    check(model)
    assert preprocess_for(model).size == 224  # type: ignore[union-attr]
    assert weights_version(model) == before
    built = architecture("resnet50").build(model, ["a"])
    values = built.state_dict()["inner.resnet.embedder.embedder.convolution.weight"]
    assert torch.equal(values, other.conv1.weight)
    _save(other, tmp_path / "weights" / "one.safetensors", more=torch.ones(1))
    assert weights_version(model) != before


def test_a_head_of_several_layers_is_left_out(tmp_path: Path) -> None:
    module = _small()
    module.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2048, 5))
    model = _model(_save(module, tmp_path / "weights" / "model.safetensors"))
    check(model)
    assert architecture("resnet50").build(model, ["a", "b"])(torch.randn(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("settings", "without", "more", "odd"),
    [
        ({"groups": 32, "width_per_group": 4}, (), "", "layer1.0.conv1.weight"),
        ({"width_per_group": 128}, (), "", "layer1.0.conv1.weight"),
        ({}, ("layer3.0.downsample.0.weight",), "", "layer3.0.downsample.0.weight"),
        ({}, (), "layer1.0.se.weight", "layer1.0.se.weight"),
    ],
    ids=["resnext", "wide", "incomplete", "more"],
)
def test_other_networks_are_refused_before_training(
    tmp_path: Path, settings: dict[str, Any], without: tuple[str, ...], more: str, odd: str
) -> None:
    added = {more: torch.ones(1)} if more else {}
    folder = _save(_small(**settings), tmp_path / "weights" / "model.safetensors", *without, **added)
    with pytest.raises(SpecError, match=f"torchvision's tensor {odd} isn't as in a ResNet"):
        check(_model(folder))


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]", b"\x09" + b"\0" * 7 + b'{"a": {}}']
)
def test_weights_of_nobody_need_a_config(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(SpecError, match=r"the folder holds no config\.json"):
        check(_model(str(tmp_path)))


@pytest.mark.parametrize("address", ["FOLDER", "FOLDER/resnet50.pth", "file://FOLDER/resnet50.pth"])
def test_a_pickle_is_refused_and_the_way_to_safetensors_told(tmp_path: Path, address: str) -> None:
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "resnet50.pth")
    with pytest.raises(
        SpecError, match=r"resnet50\.pth is pickled; weights must be safetensors; .*save_file"
    ) as refused:
        check(_model(address.replace("FOLDER", str(tmp_path))))
    assert len(str(refused.value).splitlines()) == 1


def test_what_the_docs_make_is_read(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="needs torchvision: it comes with open_clip_torch")
    (code,) = re.findall(r"```python\n(.*?)```", MODELS.read_text(), re.DOTALL)
    # Nothing is downloaded here.
    drawn = code.replace('weights="DEFAULT"', "weights=None")
    assert drawn != code
    subprocess.run([sys.executable, "-c", drawn], cwd=tmp_path, check=True)
    check(_model(str(tmp_path / "resnet50.safetensors"), freezeLayers=4))
