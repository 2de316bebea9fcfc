"""Every architecture learns what it is told to and nothing else, and comes back from disk as it was."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel, ResNetConfig, ResNetForImageClassification

from tests.training_runs import equal
from vitruvian.data.decode import HEATMAP_SHAPE
from vitruvian.errors import SpecError
from vitruvian.evaluation.interpolation import choose
from vitruvian.models.clip import PromptedClip, between, prompts_of
from vitruvian.models.inputs import preprocess_for, weights_version
from vitruvian.models.rates import default_learning_rate
from vitruvian.models.registry import architecture
from vitruvian.models.resnet50 import Resnet
from vitruvian.spec import Model
from vitruvian.training.features import fixed

CLASSES = ("arms-raised", "standing", "t_pose")
TINY = {"imageSize": 16, "patchSize": 8, "hiddenSize": 16, "layers": 3, "heads": 2}
SCRATCH: dict[str, dict[str, Any]] = {
    "vit": {"architecture": "vit", "dimensions": TINY},
    "resnet50": {"architecture": "resnet50", "dimensions": {"imageSize": 32}},
    "clip": {"architecture": "clip", "dimensions": TINY},
    "clip-linear": {"architecture": "clip", "dimensions": TINY, "clip": {"head": "linear"}},
    "heatmap-cnn": {"architecture": "heatmap-cnn"},
}


def _model(**declared: Any) -> Model:
    return Model.model_validate(declared)


def _build(model: Model, classes: tuple[str, ...] = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return architecture(model.architecture).build(model, classes)


def _images(model: Model, count: int = 6) -> torch.Tensor:
    return torch.rand(count, *preprocess_for(model).tensor_shape, generator=torch.Generator().manual_seed(1))


def _learn(module: nn.Module, images: torch.Tensor, steps: int = 2) -> None:
    """Train some steps as the loop does."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.05)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(images), torch.arange(len(images)) % len(CLASSES)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _changed(module: nn.Module, act: Callable[[], None]) -> set[str]:
    """Return the names of the values that an act changes."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    act()
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of small pretrained weights of five classes, by what they are of."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], num_labels=5)
    modules = {name: _build(_model(**SCRATCH[name]), tuple("abcde")) for name in ("vit", "clip", "clip-linear")}
    modules["resnet50"] = Resnet(ResNetForImageClassification(small))
    for name, module in modules.items():
        (root / name).mkdir()
        architecture(name.removesuffix("-linear")).save(module, root / name)
    return {name: str(root / name) for name in modules}


def _pretrained(weights: dict[str, str], name: str, **declared: Any) -> Model:
    size = {"dimensions": {"imageSize": 32}} if name == "resnet50" else {}
    head = {"clip": {"head": "linear"}} if name == "clip-linear" else {}
    kind = name.removesuffix("-linear")
    return _model(**{"architecture": kind, "pretrained": weights[name], **size, **head, **declared})


def _same(module: nn.Module, loaded: nn.Module, images: torch.Tensor) -> bool:
    """Tell whether two modules have the same values to the bit, and the same answers."""
    one, other = module.state_dict(), loaded.state_dict()
    # How sums are rounded may follow from where values lie in memory: it was seen to differ, once, in the whole suite.
    near = torch.allclose(module(images), loaded(images), rtol=1e-5, atol=1e-5)
    return near and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", SCRATCH)
def test_what_is_saved_answers_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    model = _model(**SCRATCH[name])
    module, images = _build(model), _images(model)
    _learn(module, images)
    module.eval()
    architecture(model.architecture).save(module, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = architecture(model.architecture).load(tmp_path).eval()
    with torch.inference_mode():
        assert _same(module, loaded, images)
        assert loaded(images).shape == (6, 3)
    assert _changed(loaded, lambda: architecture(model.architecture).save(loaded, tmp_path)) == set()


@pytest.mark.parametrize("name", SCRATCH)
def test_a_copy_without_values_takes_them_from_another(name: str, tmp_path: Path) -> None:
    model = _model(**SCRATCH[name])
    module, images = _build(model), _images(model)
    shell = copy.deepcopy(module).to("meta")
    shell.load_state_dict(module.state_dict(), assign=True)
    architecture(model.architecture).save(shell, tmp_path)
    loaded = architecture(model.architecture).load(tmp_path).eval()
    with torch.inference_mode():
        assert _same(module.eval(), loaded, images)


@pytest.mark.parametrize("name", SCRATCH)
def test_from_scratch_everything_learns(name: str) -> None:
    model = _model(**SCRATCH[name])
    module = _build(model)
    changed = _changed(module, lambda: _learn(module, _images(model)))
    # Keys have no bias that matters: a softmax doesn't see what all its inputs have in common.
    assert {key for key, _ in module.named_parameters()} - changed <= {
        key for key, _ in module.named_parameters() if key.endswith(("k_proj.bias", "key.bias"))
    }


def test_a_resnet50_is_one_and_takes_pictures_of_any_size() -> None:
    module = _build(_model(architecture="resnet50")).eval()
    # The published network has 25 557 032 values, 2 049 000 of them in its head for 1000 classes.
    assert sum(p.numel() for p in module.parameters()) == 25_557_032 - 2_049_000 + 3 * 2049
    for size in (16, 50, 64):
        assert module(torch.rand(1, 3, size, size)).shape == (1, 3)


def test_one_small_picture_alone_is_a_step_too() -> None:
    module = _build(_model(architecture="resnet50"))
    _learn(module, torch.rand(1, 3, 32, 32), steps=1)
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_frozen_layers_of_a_vit_keep_their_values(count: int) -> None:
    model = _model(**SCRATCH["vit"], freezeLayers=count)
    module = _build(model)
    changed = _changed(module, lambda: _learn(module, _images(model)))
    layers = {int(found[1]) for name in changed if (found := re.search(r"layers?\.(\d+)\.", name))}
    assert layers == set(range(count, 3))
    assert any("embeddings" in name for name in changed) == (count == 0)
    assert any("classifier" in name for name in changed)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_frozen_stages_of_a_resnet_keep_values_and_running_statistics(weights: dict[str, str], count: int) -> None:
    model = _pretrained(weights, "resnet50", freezeLayers=count)
    module = _build(model)
    changed = _changed(module, lambda: _learn(module, _images(model)))
    assert {int(found[1]) for name in changed if (found := re.search(r"stages\.(\d)\.", name))} == set(range(count, 4))
    running = {name for name in changed if "running" in name}
    assert any("embedder" in name for name in changed) == (count == 0)
    assert any("embedder.embedder.normalization.running_mean" in name for name in running) == (count == 0)
    assert bool(running) == (count < 4)
    assert any("classifier" in name for name in changed)


@pytest.mark.parametrize(
    ("declared", "visual", "text", "others"),
    [
        ({}, set(), set(), {"visual_projection"}),
        ({"unfreezeVisual": 1}, {2}, set(), {"visual_projection", "post_layernorm"}),
        ({"unfreezeText": 2}, set(), {1, 2}, {"visual_projection", "text_projection", "final_layer_norm"}),
        (
            {"unfreezeVisual": 3},
            {0, 1, 2},
            set(),
            {"visual_projection", "post_layernorm", "vision_model.embeddings", "pre_layrnorm"},
        ),
        ({"head": "linear"}, set(), set(), {"head"}),
        ({"head": "linear", "unfreezeVisual": 2}, {1, 2}, set(), {"head", "post_layernorm"}),
    ],
)
def test_of_a_pretrained_clip_only_what_is_unfrozen_learns(
    weights: dict[str, str], declared: dict[str, Any], visual: set[int], text: set[int], others: set[str]
) -> None:
    model = _pretrained(weights, "clip", clip=declared)
    module = _build(model)
    changed = _changed(module, lambda: _learn(module, _images(model)))
    for tower, layers in (("vision_model", visual), ("text_model", text)):
        found = [re.search(rf"{tower}\.encoder\.layers\.(\d)\.", name) for name in changed]
        assert {int(match[1]) for match in found if match} == layers
    rest = {name for name in changed if ".layers." not in name}
    assert all(any(part in name for name in rest) for part in others), rest
    assert all(any(part in name for part in others) for name in rest), rest


LORA = [
    ("vit", {}, {0, 1, 2}, {"classifier"}),
    ("vit", {"freezeLayers": 2}, {2}, {"classifier"}),
    ("clip", {}, {0, 1, 2}, set()),
    ("clip", {"clip": {"unfreezeVisual": 1, "unfreezeText": 2}}, {2}, set()),
    ("clip-linear", {}, {0, 1, 2}, {"head"}),
]


@pytest.mark.parametrize(("name", "declared", "layers", "others"), LORA)
def test_with_lora_low_rank_changes_and_the_head_learn_and_nothing_else(
    weights: dict[str, str], name: str, declared: dict[str, Any], layers: set[int], others: set[str]
) -> None:
    model = _pretrained(weights, name, **declared, lora={"rank": 2})
    module = _build(model)
    changed = _changed(module, lambda: _learn(module, _images(model)))
    rest = {name for name in changed if not re.search(r"(q|v)_proj\.lora_[AB]\.", name)}
    assert all(any(part in name for part in others) for name in rest), rest
    assert all(any(part in name for name in rest) for part in others), rest
    found: dict[str, set[int]] = {"visual": set(), "text": set()}
    for key in changed - rest:
        found["text" if "text_model" in key else "visual"].add(int(key.split("layers.")[1][0]))
    assert found == {"visual": layers, "text": {1, 2} if "unfreezeText" in str(declared) else set()}
    ranks = {value.shape[0] for key, value in module.named_parameters() if "lora_A" in key}
    assert ranks == {2}


@pytest.mark.parametrize(("name", "declared"), [(case[0], case[1]) for case in LORA])
def test_what_lora_learnt_is_saved_as_plain_weights_and_learns_on(
    weights: dict[str, str],
    name: str,
    declared: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _pretrained(weights, name, **declared, lora={"targets": ["q_proj", "mlp.fc1"], "dropout": 0.1})
    module, images = _build(model), _images(model)
    _learn(module, images)
    module.eval()
    shell = copy.deepcopy(module).to("meta")
    shell.load_state_dict(module.state_dict(), assign=True)
    kind = architecture(model.architecture)
    assert _changed(module, lambda: kind.save(module, tmp_path)) == set()
    # Who loads it needn't have what it was learnt with.
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = kind.load(tmp_path).eval()
    monkeypatch.undo()
    plain = architecture(model.architecture).load(Path(weights[name])).state_dict()
    assert loaded.state_dict().keys() == plain.keys()
    learnt = {key for key, value in loaded.state_dict().items() if not torch.equal(value, plain[key])}
    assert any("q_proj" in key for key in learnt) and any("mlp.fc1" in key for key in learnt)
    with torch.inference_mode():
        expected = module(images)
        torch.testing.assert_close(loaded(images), expected, atol=1e-5, rtol=1e-5)
    (tmp_path / "shell").mkdir()
    kind.save(shell, tmp_path / "shell")
    assert equal(kind.load(tmp_path / "shell").state_dict(), loaded.state_dict())
    assert _changed(module, lambda: _learn(module, images))


def test_a_new_lora_changes_nothing_yet(weights: dict[str, str]) -> None:
    plain = _build(_pretrained(weights, "clip")).eval()
    changed = _build(_pretrained(weights, "clip", lora={})).eval()
    images = _images(_pretrained(weights, "clip"))
    with torch.inference_mode():
        assert torch.equal(plain(images), changed(images))


@pytest.mark.parametrize("name", ["vit", "resnet50", "clip", "clip-linear"])
def test_pretrained_weights_are_taken_with_a_new_head(weights: dict[str, str], name: str) -> None:
    model = _pretrained(weights, name)
    module, saved = _build(model), architecture(model.architecture).load(Path(weights[name]))
    state = saved.state_dict()
    head = {key for key in state if key.startswith(("head.", "inner.classifier"))}
    assert bool(head) == (name != "clip")
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items() if key not in head)
    assert module(_images(model)).shape == (6, 3)


def test_a_whole_clip_gives_its_visual_tower_to_a_linear_head(weights: dict[str, str]) -> None:
    module = _build(_pretrained(weights, "clip", clip={"head": "linear"}))
    whole = CLIPModel.from_pretrained(weights["clip"])
    tower = whole.vision_model.state_dict()
    assert all(torch.equal(value, tower[key]) for key, value in module.vision_model.state_dict().items())  # type: ignore[union-attr]


def test_weights_in_half_precision_are_learnt_in_full(weights: dict[str, str], tmp_path: Path) -> None:
    CLIPModel.from_pretrained(weights["clip"]).half().save_pretrained(tmp_path)
    for file in Path(weights["clip"]).glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    module = _build(_model(architecture="clip", pretrained=str(tmp_path)))
    assert {value.dtype for value in module.parameters()} == {torch.float32}


def test_prompts_answer_as_transformers_own_clip_does(weights: dict[str, str]) -> None:
    model = _pretrained(weights, "clip", clip={"templates": ["a person, {}."]})
    module, images = _build(model).eval(), _images(model)
    assert isinstance(module, PromptedClip)
    theirs = CLIPModel.from_pretrained(weights["clip"]).eval()
    texts = ["a person, arms raised.", "a person, standing.", "a person, t pose."]
    tokens = module.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = theirs(pixel_values=images, **tokens).logits_per_image
        torch.testing.assert_close(module(images), expected, atol=1e-5, rtol=1e-4)


def test_several_templates_stand_for_their_mean(weights: dict[str, str]) -> None:
    templates = ["a person, {}.", "{} is what this is"]
    features = []
    for used in ([templates[0]], [templates[1]], templates):
        module = _build(_pretrained(weights, "clip", clip={"templates": used}))
        assert isinstance(module, PromptedClip)
        features.append(module.classes)
    torch.testing.assert_close(features[2], F.normalize((features[0] + features[1]) / 2))


def test_text_that_learns_is_computed_anew_for_answers(weights: dict[str, str]) -> None:
    model = _pretrained(weights, "clip", clip={"unfreezeText": 1})
    module, images = _build(model), _images(model)
    assert isinstance(module, PromptedClip)
    before = module.classes.clone()
    _learn(module, images)
    trained = module(images)
    torch.testing.assert_close(module.eval()(images), trained)
    assert not torch.equal(module.classes, before)


def test_class_names_become_words() -> None:
    prompts = prompts_of(("arms-raised", "T_pose", "down dog"), ["a person, {}.", "{}"])
    assert prompts == {
        "arms-raised": ["a person, arms raised.", "arms raised"],
        "T_pose": ["a person, T pose.", "T pose"],
        "down dog": ["a person, down dog.", "down dog"],
    }
    with pytest.raises(SpecError, match="the classes 't-pose' and 'T_Pose' are the same words"):
        prompts_of(("t-pose", "T_Pose"), ["{}"])


def test_inputs_are_normalised_as_the_weights_expect(weights: dict[str, str], tmp_path: Path) -> None:
    def made(**declared: Any) -> tuple[Any, ...]:
        how = preprocess_for(_model(**declared)).model_dump()
        return how["size"], round(how["mean"][0], 3), round(how["std"][0], 3)

    assert made(architecture="vit") == (64, 0.5, 0.5)
    assert made(architecture="resnet50") == (64, 0.485, 0.229)
    assert made(architecture="resnet50", dimensions={"imageSize": 50}) == (50, 0.485, 0.229)
    assert made(architecture="resnet50", pretrained=weights["resnet50"]) == (224, 0.485, 0.229)
    assert made(architecture="resnet50", pretrained=weights["resnet50"], dimensions={"imageSize": 48})[0] == 48
    assert made(architecture="clip") == (64, 0.481, 0.269)
    assert made(architecture="clip", pretrained=weights["clip"]) == (16, 0.481, 0.269)
    assert made(architecture="clip", pretrained=weights["clip-linear"]) == (16, 0.481, 0.269)
    assert preprocess_for(_model(architecture="heatmap-cnn")).tensor_shape == HEATMAP_SHAPE
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    assert made(architecture="resnet50", pretrained=str(tmp_path)) == (224, 0.1, 1.0)
    (tmp_path / "preprocess.json").write_text('{"kind": "image", "size": 40, "mean": [0.7, 0, 0], "std": [0.9, 1, 1]}')
    assert made(architecture="resnet50", pretrained=str(tmp_path)) == (40, 0.7, 0.9)


def test_another_tokenizer_is_another_beginning(weights: dict[str, str], tmp_path: Path) -> None:
    for file in Path(weights["clip"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    versions = {weights_version(_model(architecture="clip", pretrained=weights["clip"]))}
    model = _model(architecture="clip", pretrained=str(tmp_path))
    versions.add(weights_version(model))
    assert len(versions) == 1
    (tmp_path / "merges.txt").write_text("a b")
    assert weights_version(model) not in versions


REFUSED_WEIGHTS = [
    ("weights of something else", "resnet50", {"architecture": "vit"}, "weights of a 'resnet', not of a vit"),
    ("a vit for a resnet", "vit", {"architecture": "resnet50"}, "weights of a 'vit', not of a resnet"),
    ("a vit for a clip", "vit", {"architecture": "clip"}, "weights of a 'vit', not of a clip"),
    (
        "a tower without text",
        "clip-linear",
        {"architecture": "clip"},
        "weights of a 'clip_vision_model', not of a clip",
    ),
    ("too many stages", "resnet50", {"architecture": "resnet50", "freezeLayers": 5}, "is 5, but there are 4 stages"),
    ("too many layers", "vit", {"architecture": "vit", "freezeLayers": 4}, "is 4, but there are 3 layers"),
    (
        "a tall tower",
        "clip",
        {"clip": {"unfreezeVisual": 4}},
        "clip.unfreezeVisual: is 4, but there are 3 layers",
    ),
    ("a long text", "clip", {"clip": {"unfreezeText": 9}}, "model.clip.unfreezeText: is 9, but there are 3 layers"),
    (
        "lora",
        "vit",
        {"architecture": "vit", "lora": {"targets": ["query"]}},
        "a layer has no 'query'; choose of q_proj,",
    ),
    (
        "lora nowhere",
        "vit",
        {"architecture": "vit", "lora": {}, "freezeLayers": 3},
        "all 3 layers are kept as they are",
    ),
    ("a long prompt", "clip", {"clip": {"templates": ["a" * 80 + "{}"]}}, "has 92 tokens, more than 77; shorten it"),
]


@pytest.mark.parametrize(
    ("name", "declared", "line"), [case[1:] for case in REFUSED_WEIGHTS], ids=[case[0] for case in REFUSED_WEIGHTS]
)
def test_weights_that_dont_fit_are_one_clear_line(
    weights: dict[str, str], name: str, declared: dict[str, Any], line: str
) -> None:
    with pytest.raises(SpecError) as refused:
        _build(_model(**{"architecture": "clip", "pretrained": weights[name], **declared}))
    assert line in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"hidden_size": 32}, "of the weights' tensors have other sizes than config.json says, such as "),
        ({"hidden_size": 0}, "can't be read with its config.json"),
        ({"patch_size": 0}, "can't be read with its config.json"),
        ({"num_hidden_layers": "x"}, "can't be read with its config.json"),
        ({"hidden_act": "nope"}, "can't be read with its config.json (KeyError: 'nope')"),
        ({"hidden_size": "x"}, "field 'hidden_size': TypeError: Field 'hidden_size' expected int, got str"),
        ({"num_hidden_layers": 10**9}, "config.json counts 1,000,000,000 layers, and there can be 1 to 1,024"),
        ({"num_hidden_layers": 0}, "config.json counts 0 layers, and there can be 1 to 1,024"),
        ({"num_hidden_layers": 1}, "tensors more than config.json says, such as vit."),
        ({"num_channels": 10**9}, "weights, which files of "),
    ],
    ids=str,
)
def test_a_config_that_isnt_that_of_the_weights_is_one_clear_line(
    weights: dict[str, str], changed: dict[str, Any], line: str, tmp_path: Path
) -> None:
    for file in Path(weights["vit"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(SpecError) as refused:
        _build(_pretrained({"vit": str(tmp_path)}, "vit"))
    assert line in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["vit", "resnet50", "clip", "clip-linear"])
@pytest.mark.parametrize("fault", ["pickled", "cut short", "incomplete", "no config", "no numbers"])
def test_weights_that_cant_be_trusted_are_one_clear_line(
    weights: dict[str, str], name: str, fault: str, tmp_path: Path
) -> None:
    for file in Path(weights[name]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "model.safetensors"
    if fault == "pickled":
        file.unlink()
        torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    elif fault == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif fault == "no numbers":
        save_file({name: each * torch.nan for name, each in load_file(file).items()}, file, metadata={"format": "pt"})
    elif fault == "incomplete":
        tensors = load_file(file)
        # The new head's are the ones that may lack.
        tensors.pop(next(key for key in sorted(tensors) if "layernorm" in key or "normalization" in key))
        save_file(tensors, file, metadata={"format": "pt"})
    else:
        (tmp_path / "config.json").unlink()
    with pytest.raises(SpecError) as refused:
        _build(_pretrained({name: str(tmp_path)}, name))
    shown = str(refused.value)
    assert str(tmp_path) in shown
    assert len(shown.splitlines()) == 1
    wanted = {"pickled": "pickled ones are refused", "incomplete": "the weights lack 1 of", "no config": "config.json"}
    wanted["no numbers"] = "of the weights' tensors hold what is no number, such as "
    assert wanted.get(fault, "safetensors") in shown


def test_answers_have_names_whatever_the_config_says(weights: dict[str, str], tmp_path: Path) -> None:
    for file in Path(weights["vit"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"return_dict": False}))
    module = _build(_pretrained({"vit": str(tmp_path)}, "vit"))
    assert module(torch.zeros(1, 3, config["image_size"], config["image_size"])).shape[0] == 1


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": {}}'])
def test_an_index_of_weights_that_is_none_is_named(weights: dict[str, str], index: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((Path(weights["vit"]) / "config.json").read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(SpecError, match=r"with its config.json or model.safetensors.index.json \("):
        _build(_pretrained({"vit": str(tmp_path)}, "vit"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("clip-x", "there is no folder clip-x here, and 127.0.0.1:1 can't be reached; give a folder"),
        ("./clip-x", "there is no folder ./clip-x here; give a folder"),
    ],
)
def test_weights_that_are_nowhere_are_one_clear_line(name: str, line: str, tmp_path: Path) -> None:
    code = (
        "from vitruvian.models.inputs import preprocess_for; from vitruvian.spec import Model\n"
        "from vitruvian.errors import SpecError\n"
        f"try: preprocess_for(Model(architecture='clip', pretrained='{name}'))\n"
        "except SpecError as e: print(e)"
    )
    # The hub's address is read when its library is loaded.
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith(f"model.pretrained: {name}: {line}") and done.stdout.count("\n") == 1
    assert not done.stderr


def test_weights_that_were_fetched_before_need_no_hub(tmp_path: Path) -> None:
    kept = tmp_path / "hub" / "models--some--clip"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (kept / "snapshots" / ("0" * 40) / "config.json").write_text('{"model_type": "clip"}')
    code = "from vitruvian.models.inputs import pretrained_config; print(pretrained_config('some/clip', 'config.json'))"
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout == "{'model_type': 'clip'}\n", done.stderr


def test_a_clip_without_its_tokenizer_is_refused(weights: dict[str, str], tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((Path(weights["clip"]) / file).read_bytes())
    with pytest.raises(SpecError, match=r"tokenizer.*merges\.txt"):
        _build(_model(architecture="clip", pretrained=str(tmp_path)))
    _build(_model(architecture="clip", pretrained=str(tmp_path), clip={"head": "linear"}))


REFUSED = [
    ({"architecture": "vit", "clip": {}}, "clip is for the architecture clip, not for vit"),
    ({"architecture": "clip", "freezeLayers": 1}, "freezeLayers is not for a clip; set clip.unfreezeVisual"),
    ({"architecture": "resnet50", "dimensions": {"layers": 3, "imageSize": 64}}, "imageSize only; remove layers"),
    ({"architecture": "heatmap-cnn", "dimensions": {}}, "a heatmap-cnn has one size; remove dimensions"),
    ({"architecture": "heatmap-cnn", "pretrained": "x"}, "trained from scratch; remove pretrained and freezeLayers"),
    ({"architecture": "vit", "pretrained": "x", "dimensions": {}}, "pretrained weights bring their dimensions"),
    ({"architecture": "clip", "dimensions": {"imageSize": 50}}, "imageSize 50 is not a multiple of patchSize 8"),
    ({"architecture": "vit", "dimensions": {"hiddenSize": 50}}, "hiddenSize 50 is not a multiple of heads 4"),
    ({"architecture": "clip", "clip": {"templates": []}}, "at least 1 item"),
    ({"architecture": "clip", "clip": {"templates": ["a person"]}}, "the template 'a person' needs {} once"),
    ({"architecture": "clip", "clip": {"head": "linear", "unfreezeText": 1}}, "no prompts; remove unfreezeText"),
    ({"architecture": "resnet50", "pretrained": "x", "lora": {}}, "lora is for a vit or clip, not for a resnet50"),
    ({"architecture": "heatmap-cnn", "lora": {}}, "lora is for a vit or clip, not for a heatmap-cnn"),
    ({"architecture": "vit", "lora": {}}, "lora changes pretrained weights a little; set pretrained"),
    (
        {"architecture": "clip", "pretrained": "x", "lora": {}, "clip": {"unfreezeVisual": 0}},
        "with clip.unfreezeVisual 0 there is nothing that lora could change",
    ),
    ({"architecture": "clip", "clip": {"interpolation": [0, 1]}}, "interpolation begins at pretrained weights"),
    ({"architecture": "clip", "pretrained": "x", "clip": {"interpolation": [2]}}, "less than or equal to 1"),
    (
        {"architecture": "clip", "pretrained": "x", "clip": {"head": "linear", "interpolation": [1]}},
        "no prompts; remove interpolation",
    ),
]


@pytest.mark.parametrize(("declared", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_settings_that_mean_nothing_are_refused(declared: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _model(**declared)
    assert line in str(refused.value)


def test_a_new_layer_alone_learns_faster_than_weights_that_know_something(weights: dict[str, str]) -> None:
    rates = {
        "from scratch": default_learning_rate(_model(architecture="clip")),
        "prompts": default_learning_rate(_pretrained(weights, "clip")),
        "probe": default_learning_rate(_pretrained(weights, "clip", clip={"head": "linear"})),
        "lora": default_learning_rate(_pretrained(weights, "clip", lora={})),
        "tuned": default_learning_rate(_pretrained(weights, "clip", clip={"head": "linear", "unfreezeVisual": 1})),
    }
    assert rates == {"from scratch": 1e-3, "prompts": 5e-5, "probe": 1e-3, "lora": 5e-4, "tuned": 5e-5}


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("vit", {"freezeLayers": "all"}),
        ("vit", {"freezeLayers": 1}),
        ("vit", {}),
        ("resnet50", {"freezeLayers": "all"}),
        ("resnet50", {"freezeLayers": 3}),
        ("clip", {"clip": {"head": "linear", "unfreezeVisual": 0}}),
        ("clip", {"clip": {"head": "linear", "unfreezeVisual": 1}}),
        ("clip", {"clip": {"head": "linear"}}),
    ],
    ids=str,
)
def test_the_rate_is_that_of_a_new_head_where_nothing_learns_before_it(
    weights: dict[str, str], name: str, declared: dict[str, Any]
) -> None:
    layers = SCRATCH["vit"]["dimensions"]["layers"] if name == "vit" else 4
    model = _pretrained(weights, name, **{key: layers if value == "all" else value for key, value in declared.items()})
    assert default_learning_rate(model) == (1e-3 if fixed(_build(model)) else 5e-5)


@pytest.mark.parametrize(
    ("accuracy", "chosen"),
    [({0.0: 0.5, 0.5: 0.9, 1.0: 0.8}, 0.5), ({0.0: 0.5, 0.5: 0.9, 1.0: 0.9}, 0.5), ({1.0: 0.2, 0.25: 0.2}, 0.25)],
)
def test_of_equally_good_points_the_one_nearest_to_the_pretrained_weights_is_taken(
    accuracy: dict[float, float], chosen: float
) -> None:
    assert choose(accuracy) == chosen


def test_points_between_two_models_are_what_they_say(weights: dict[str, str]) -> None:
    model = _pretrained(weights, "clip", clip={"unfreezeVisual": 1, "unfreezeText": 1})
    first, last = _build(model), _build(model)
    assert isinstance(first, PromptedClip) and isinstance(last, PromptedClip)
    _learn(last, _images(model))
    last.eval()(_images(model))
    points = [between(first, last, point).eval() for point in (0, 0.25, 1)]
    assert equal(points[0].state_dict(), first.state_dict())
    assert equal(points[2].state_dict(), last.state_dict())
    assert not torch.equal(points[0].classes, points[2].classes)
    torch.testing.assert_close(points[2].classes, last.classes)
    for key, value in points[1].state_dict().items():
        expected = 0.75 * first.state_dict()[key] + 0.25 * last.state_dict()[key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)


def test_saved_weights_name_their_kind(weights: dict[str, str]) -> None:
    kinds = {name: json.loads((Path(folder) / "config.json").read_text()) for name, folder in weights.items()}
    assert {name: config["model_type"] for name, config in kinds.items()} == {
        "vit": "vit",
        "resnet50": "resnet",
        "clip": "clip",
        "clip-linear": "clip_vision_model",
    }
