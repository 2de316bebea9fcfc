"""What is frozen is computed once, and only where that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests.training_runs import chosen_weights, equal, last_checkpoint, make_job, train_ranks, train_until
from vitruvian.data.prepared import Prepared
from vitruvian.data.preprocess import ImagePreprocess
from vitruvian.errors import TrainingError
from vitruvian.models.registry import Featured, architecture
from vitruvian.spec import Model
from vitruvian.store import open_store
from vitruvian.training.checkpoints import read_state
from vitruvian.training.features import computed, fixed

SIZES = {"imageSize": 16, "patchSize": 8, "hiddenSize": 16, "layers": 1, "heads": 2}
FROZEN: dict[str, dict[str, Any]] = {
    "linear clip": {"architecture": "clip", "dimensions": SIZES, "clip": {"head": "linear", "unfreezeVisual": 0}},
    "prompted clip": {"architecture": "clip", "dimensions": SIZES, "clip": {"unfreezeVisual": 0, "unfreezeText": 0}},
    "vit": {"architecture": "vit", "dimensions": SIZES, "freezeLayers": 1},
    "resnet50": {"architecture": "resnet50", "dimensions": {"imageSize": 16}, "freezeLayers": 4},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitruvian" / "features"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def _told(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == "features"]


@pytest.mark.parametrize("name", FROZEN)
def test_an_answer_by_features_is_the_models_answer(name: str) -> None:
    model = Model.model_validate(FROZEN[name])
    torch.manual_seed(0)
    module = architecture(model.architecture).build(model, ["sit", "stand"])
    assert isinstance(module, Featured)
    assert fixed(module)
    learning = {name for name, value in module.named_parameters() if value.requires_grad}
    assert learning
    images = torch.randn(3, 3, 16, 16)
    module.eval()
    assert torch.allclose(module(images), module.classify(module.features(images)), atol=1e-6)


@pytest.mark.parametrize(
    "declared",
    [
        {"architecture": "clip", "dimensions": SIZES, "clip": {"head": "linear"}},
        {"architecture": "vit", "dimensions": SIZES | {"layers": 2}, "freezeLayers": 1},
        {"architecture": "resnet50", "freezeLayers": 3},
        {"architecture": "heatmap-cnn"},
    ],
    ids=lambda declared: str(declared["architecture"]),
)
def test_where_something_learns_before_the_head_nothing_is_kept(declared: dict[str, Any]) -> None:
    model = Model.model_validate(declared)
    assert not fixed(architecture(model.architecture).build(model, ["sit", "stand"]))


@pytest.mark.parametrize("name", ["linear clip", "vit"])
def test_a_head_learns_from_kept_features_what_it_learns_from_images(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = Model.model_validate(FROZEN[name])
    kept = make_job(root, model=declared, run=f"kept-{name}", augmentation="none")
    images = make_job(root, model=declared, run=f"images-{name}", augmentation="none")
    events = train_until(kept)
    assert [event["found"] for event in _told(events)] == [False]
    with monkeypatch.context() as patch:
        patch.setattr("vitruvian.training.loop.hindrance", lambda settings: "asked for here")
        train_until(images)
    first, second = chosen_weights(kept), chosen_weights(images)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.allclose(first[key], second[key], atol=1e-5), key


def test_a_run_that_goes_on_and_workers_use_the_same_features(root: Path) -> None:
    declared = Model.model_validate(FROZEN["linear clip"])
    whole = make_job(root, model=declared, run="probe", augmentation="none")
    assert [event["found"] for event in _told(train_until(whole))] == [False]
    broken = make_job(root, model=declared, run="probe-broken", augmentation="none")
    train_until(broken, lambda event: event["kind"] == "checkpoint" and event["step"] == 10)
    assert [event["found"] for event in _told(train_until(broken))] == [True]
    assert equal(chosen_weights(whole), chosen_weights(broken))
    two = make_job(root, model=declared, run="probe-two", augmentation="none", strategy="ddp", workers=2)
    train_ranks(two, 2)
    for key, value in chosen_weights(whole).items():
        assert torch.allclose(value, chosen_weights(two)[key], atol=1e-4), key


@pytest.mark.parametrize("name", FROZEN)
def test_checkpoints_hold_what_learns_and_a_run_goes_on_from_them_to_the_bit(root: Path, name: str) -> None:
    declared = Model.model_validate(FROZEN[name])
    whole = make_job(root, model=declared, run=f"learns {name}")
    train_until(whole)
    learning, chosen = last_checkpoint(whole)["model"], chosen_weights(whole)
    assert 0 < sum(value.numel() for value in learning.values()) < sum(value.numel() for value in chosen.values())
    broken = make_job(root, model=declared, run=f"learns {name} broken")
    train_until(broken, lambda event: event["kind"] == "checkpoint" and event["step"] == 18)
    assert read_state(open_store(broken.checkpoints)).weights is None
    train_until(broken)
    assert equal(chosen, chosen_weights(broken))
    assert equal(last_checkpoint(whole), last_checkpoint(broken))


def test_weights_that_dont_learn_must_be_those_that_a_run_began_with(root: Path, tmp_path: Path) -> None:
    built = Model.model_validate({"architecture": "vit", "dimensions": SIZES})
    architecture("vit").save(architecture("vit").build(built, ["sit", "stand"]), tmp_path / "weights")
    declared = Model.model_validate({"architecture": "vit", "pretrained": str(tmp_path / "weights"), "freezeLayers": 1})
    job = make_job(root, model=declared, run="other weights")
    train_until(job, lambda event: event["kind"] == "checkpoint" and event["step"] == 10)
    torch.manual_seed(1)
    architecture("vit").save(architecture("vit").build(built, ["sit", "stand"]), tmp_path / "weights")
    with pytest.raises(TrainingError, match="are not those that this run began with"):
        train_until(job)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({}, "augmentation is medium; with none they would be computed once")],
)
def test_augmentation_forbids_it_and_that_is_told(root: Path, settings: dict[str, Any], why: str) -> None:
    declared = Model.model_validate(FROZEN["linear clip"])
    job = make_job(root, model=declared, run="augmented", epochs=1, **settings)
    assert [event["why"] for event in _told(train_until(job))] == [why]


def test_other_weights_data_or_transforms_never_use_them(root: Path, cache: Path) -> None:
    model = Model.model_validate(FROZEN["linear clip"])
    prepared = Prepared.open(Path(make_job(root, model=model, run="keys").prepared))
    assert isinstance(prepared.preprocess, ImagePreprocess)

    def module(seed: int = 0) -> Featured:
        torch.manual_seed(seed)
        built = architecture("clip").build(model, prepared.classes)
        assert isinstance(built, Featured)
        return built

    def found(module: Featured, data: Prepared, half: torch.dtype | None = None) -> bool:
        return computed(module, data, 0, 1, torch.device("cpu"), half)[1]

    assert not found(module(), prepared)
    assert found(module(), prepared)
    assert not found(module(seed=1), prepared)
    changed = prepared.preprocess.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    assert not found(module(), Prepared(prepared.folder, prepared.classes, changed))
    other = Prepared.open(Path(make_job(root, model=model, run="keys", count=120).prepared))
    assert not found(module(), other)
    assert not found(module(), prepared, torch.bfloat16)
    assert len(list(cache.glob("*.safetensors"))) == 5


@pytest.mark.parametrize("damage", ["cut", "a byte", "rows", "a folder", "nowhere to write"])
def test_what_was_damaged_since_is_computed_again(root: Path, cache: Path, damage: str) -> None:
    declared = Model.model_validate(FROZEN["linear clip"])
    whole = make_job(root, model=declared, run=f"before {damage}", augmentation="none", epochs=1)
    train_until(whole)
    (place,) = cache.glob("*.safetensors")
    content = place.read_bytes()
    if damage == "cut":
        place.write_bytes(content[:100])
    elif damage == "a byte":
        place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "rows":
        place.write_bytes(save({"train": torch.zeros(1, 16), "validation": torch.zeros(1, 16)}))
    else:
        place.unlink()
        if damage == "a folder":
            place.mkdir()
        else:
            cache.rmdir()
            cache.write_text("a file")
    again = make_job(root, model=declared, run=f"after {damage}", augmentation="none", epochs=1)
    assert [event["found"] for event in _told(train_until(again))] == [False]
    assert equal(chosen_weights(whole), chosen_weights(again))
