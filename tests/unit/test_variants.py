"""What varies is read strictly, and every variant is a declaration by itself."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vitruvian import spec, variants
from vitruvian.console import Teller
from vitruvian.errors import SpecError
from vitruvian.models.layers import check
from vitruvian.pipeline import Pipeline
from vitruvian.spec import Classifier
from vitruvian.variants import Axis, axes, grid


def _classifier(**more: Any) -> Classifier:
    model = {"architecture": "vit", "dimensions": {"layers": 4}}
    declared = {"data": {"source": "data"}, "model": model, "training": {"epochs": 9}, **more}
    return spec.check({"metadata": {"name": "poses"}, "spec": declared})


def test_values_are_read_as_yaml_reads_them() -> None:
    written = [
        "model.pretrained=null,google/vit",
        "training.learningRate=1e-3,0.1",
        "training.earlyStopping={patience: 2}",
    ]
    assert variants.axes(written, seeds="0, 1") == (
        Axis("model.pretrained", (None, "google/vit")),
        Axis("training.learningRate", (1e-3, 0.1)),
        Axis("training.earlyStopping", ({"patience": 2},)),
        Axis("training.seed", (0, 1)),
    )


@pytest.mark.parametrize(
    ("vary", "seeds", "said"),
    [
        ([], None, "--vary: nothing varies; write --vary model.freezeLayers=0,2,4"),
        (["model.freezeLayers"], None, "is not PATH=VALUE,VALUE"),
        (["=1,2"], None, "is not PATH=VALUE,VALUE"),
        (["model.freezelayers=1"], None, "there is no field 'model.freezelayers'; did you mean 'model.freezeLayers'?"),
        (["training.freezeLayers=1"], None, "no field 'training.freezeLayers'; did you mean 'model.freezeLayers'?"),
        (["training.learning_rate=1"], None, "did you mean 'training.learningRate'?"),
        (["nonsense=1"], None, "there is no field 'nonsense'"),
        (["training.lr=1"], None, "there is no field 'training.lr'; did you mean 'training.learningRate'?"),
        (["model.lora.x=1"], None, "there is no field 'model.lora.x'; fields of model.lora: rank, alpha"),
        (["gates=1"], None, "gates changes nothing that is trained"),
        (["serving.backend=kserve"], None, "serving.backend changes nothing that is trained"),
        (["tuning.trials=1"], None, "tuning.trials changes nothing that is trained"),
        (["training.epochs="], None, "there are no values"),
        (["training.epochs=1,2,1"], None, "a value stands twice"),
        (["training.epochs=[1"], None, "is not a list of YAML's values"),
        (["training.seed=!!int ''"], None, "is not a list of YAML's values"),
        (["training.seed=!!timestamp x"], None, "is not a list of YAML's values"),
        (["model.pretrained=2020-01-01"], None, "holds what no declaration can; put dates and the like in quotes"),
        (["training={1: 2, b: 3}"], None, "holds what no declaration can"),
        (["training.epochs=1", "training.epochs=2"], None, "--vary training.epochs: varies twice"),
        (["training.seed=1"], "1,2", "--vary training.seed: varies twice"),
        (
            ["model.dimensions={}", "model.dimensions.layers=1"],
            None,
            "model.dimensions.layers lies within model.dimensions",
        ),
    ],
)
def test_what_cant_vary_is_refused(vary: list[str], seeds: str | None, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        variants.axes(vary, seeds)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(SpecError) as refused:
        variants.axes(["model.freezelayers=1", "training.epochs="])
    assert len(str(refused.value).splitlines()) == 2


def test_the_grid_has_every_combination_and_names_those_that_arent_valid() -> None:
    axes = variants.axes(["model.architecture=vit,heatmap-cnn", "training.epochs=1,0"])
    valid, refused = variants.grid(_classifier(), axes)
    assert [variant.values for variant in valid] == [{"model.architecture": "vit", "training.epochs": 1}]
    assert len(refused) == 3
    assert "model.architecture=heatmap-cnn, training.epochs=1: spec.model: a heatmap-cnn has one size" in "".join(
        refused
    )


def test_a_value_takes_its_place_and_leaves_the_rest() -> None:
    classifier = _classifier(gates=[{"metric": "accuracy", "atLeast": 0.5}])
    made = variants.variant(classifier, {"model.dimensions.heads": 2, "training.earlyStopping.patience": 3}).classifier
    assert made.spec.model.dimensions == spec.Dimensions.model_validate({"layers": 4, "heads": 2})
    assert made.spec.training.early_stopping == spec.EarlyStopping(patience=3)
    assert made.spec.gates == classifier.spec.gates
    assert classifier.spec.model.dimensions == spec.Dimensions(layers=4)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (2, "2"), (2e-6, "2e-06"), ("vit", "vit"), ({"patience": 3}, "{patience: 3}")]
)
def test_a_value_is_shown_on_one_line(value: object, text: str) -> None:
    assert variants.shown(value) == text


def test_names_are_short_where_that_is_clear() -> None:
    assert variants.names(["training.epochs", "data.seed", "training.seed"]) == {
        "training.epochs": "epochs",
        "data.seed": "data.seed",
        "training.seed": "training.seed",
    }


SPACE = {
    "training.learningRate": {"logUniform": [1e-5, 1e-2]},
    "training.labelSmoothing": {"uniform": [0, 0.3]},
    "training.epochs": {"int": [2, 4]},
    "training.augmentation": {"choice": ["none", "light"]},
}


def test_what_is_drawn_lies_in_the_space_and_follows_from_the_seed() -> None:
    classifier = _classifier(tuning={"space": SPACE})
    assert classifier.spec.tuning
    many = variants.draw(classifier, classifier.spec.tuning, 50, {"training.strategy": "none"})
    few = variants.draw(classifier, classifier.spec.tuning, 3, {"training.strategy": "none"})
    assert [variant.values for variant in many[:3]] == [variant.values for variant in few]
    assert {variant.values["training.epochs"] for variant in many} == {2, 3, 4}
    assert {variant.values["training.augmentation"] for variant in many} == {"none", "light"}
    rates = [variant.classifier.spec.training.learning_rate or 0.0 for variant in many]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    # Each order of magnitude is as likely: a third of them lies below 1e-4.
    assert 5 <= sum(rate < 1e-4 for rate in rates) <= 30
    assert all(variant.classifier.spec.tuning is None for variant in many)


def test_more_combinations_than_anybody_trains_are_refused_at_once() -> None:
    many = tuple(range(300))
    axes = [variants.Axis(path, many) for path in ("training.epochs", "training.batchSize", "training.seed")]
    with pytest.raises(SpecError, match=r"--vary: 27,000,000 combinations, more than 10,000; name fewer values"):
        variants.grid(_classifier(), axes)


def test_a_space_of_two_values_gives_two_however_many_are_asked_for() -> None:
    classifier = _classifier(tuning={"space": {"training.seed": {"choice": [0, 1]}}})
    assert classifier.spec.tuning
    assert len(variants.draw(classifier, classifier.spec.tuning, 10_000, {})) == 2


def test_invalid_draws_are_drawn_again_and_a_small_space_ends() -> None:
    space = {"model.dimensions.heads": {"choice": [3, 5, 7]}, "model.dimensions.hiddenSize": {"choice": [15, 30]}}
    classifier = _classifier(tuning={"space": space})
    assert classifier.spec.tuning
    drawn = variants.draw(classifier, classifier.spec.tuning, 20, {})
    found = {(v.values["model.dimensions.heads"], v.values["model.dimensions.hiddenSize"]) for v in drawn}
    assert found == {(3, 15), (3, 30), (5, 15), (5, 30)}
    assert len(drawn) == 4


def test_a_space_without_a_valid_combination_says_why() -> None:
    classifier = _classifier(tuning={"space": {"model.dimensions.heads": {"choice": [7, 11]}}})
    assert classifier.spec.tuning
    with pytest.raises(SpecError, match=r"no combination that was drawn is valid.* is not a multiple of heads"):
        variants.draw(classifier, classifier.spec.tuning, 5, {})


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ({}, "spec.tuning.space: is missing"),
        ({"space": {"training.seed": {"int": None}}}, "write one of uniform, logUniform, int and choice"),
        ({"space": {}}, "spec.tuning.space"),
        ({"space": {"training.lr": {"uniform": [0, 1]}}}, "there is no field 'training.lr'"),
        ({"space": {"training.learningrate": {"uniform": [0, 1]}}}, "did you mean 'training.learningRate'?"),
        ({"space": {"data.seed": {"int": [0, 9]}}}, "data.seed can't be tuned: trials share the prepared data"),
        ({"space": {"gates": {"choice": [1]}}}, "gates can't be tuned"),
        ({"space": {"training.workers": {"int": [1, 4]}}}, "training.workers is the same for all trials"),
        ({"space": {"training.compile": {"choice": [True, False]}}}, "training.compile is the same for all trials"),
        ({"space": {"training.workers.min": {"int": [1, 4]}}}, "training.workers.min is the same for all trials"),
        ({"space": {"training.epochs": {}}}, "write one of uniform, logUniform, int and choice"),
        ({"space": {"training.epochs": {"int": [1, 2], "choice": [1]}}}, "write one of uniform, logUniform, int"),
        ({"space": {"training.epochs": {"int": [4, 2]}}}, "the first bound, 4, is not below the second, 2"),
        ({"space": {"training.epochs": {"int": [1, 2.5]}}}, "should be a valid integer"),
        ({"space": {"training.epochs": {"int": [1]}}}, "is missing"),
        ({"space": {"training.epochs": {"int": [-1, 4]}}}, "training.epochs can't be -1: input should be greater than"),
        (
            {"space": {"training.epochs": {"uniform": [1, 9]}}},
            "training.epochs can't be 1.0: input should be a valid integer",
        ),
        ({"space": {"training.learningRate": {"logUniform": [0, 1]}}}, "logUniform needs bounds above 0"),
        ({"space": {"training.learningRate": {"uniform": [0.1, float("inf")]}}}, "finite number"),
        ({"space": {"training.learningRate": {"choice": []}}}, "at least 1 item"),
        ({"space": {"training.learningRate": {"loguniform": [1, 2]}}}, "did you mean 'logUniform'?"),
        ({"space": {"training.augmentation": {"choice": ["lihgt"]}}}, "training.augmentation can't be lihgt"),
        ({"space": SPACE, "scheduler": "none", "gracePeriod": 2}, "gracePeriod is for the scheduler asha"),
        ({"space": SPACE, "scheduler": "hyperband"}, "is not one of asha, none"),
        ({"space": SPACE, "metric": "accuracy"}, "is not one of validationAccuracy, validationLoss"),
        (
            {"space": {"training.learningRate": {"uniform": [0.1, 1]}}, "gracePeriod": 10},
            "tuning.gracePeriod 10 is more than training.epochs 9",
        ),
        (
            {"space": {"model.dimensions": {"choice": [{}]}, "model.dimensions.layers": {"int": [1, 2]}}},
            "model.dimensions.layers lies within model.dimensions",
        ),
    ],
)
def test_a_space_that_cant_be_drawn_from_is_refused(tuning: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        _classifier(tuning=tuning)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_tuning_changes_no_stage(tmp_path: Path) -> None:
    def job(**more: Any) -> str:
        classifier = _classifier(**more, data={"source": "synthetic://poses?count=60"}, artifacts=str(tmp_path))
        return Pipeline(classifier, Teller(Console(file=StringIO()))).job.checkpoints

    assert job() == job(tuning={"space": SPACE})
    assert job() != job(training={"epochs": 8})


def test_weights_of_another_architecture_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    for kind, config in (("vit", {"num_hidden_layers": 2, "image_size": 32}), ("resnet", {"depths": [1, 1]})):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind} | config))
    vit, resnet = tmp_path / "vit", tmp_path / "resnet"
    declared = {"data": {"source": "here"}, "model": {"architecture": "vit", "pretrained": str(vit)}}
    classifier = Classifier.model_validate({"metadata": {"name": "poses"}, "spec": declared})
    valid, refused = grid(classifier, axes(["model.architecture=vit,resnet50", "model.freezeLayers=0,3"]), check)
    assert [each.words for each in valid] == ["model.architecture=vit, model.freezeLayers=0"]
    assert "freezeLayers=3: model.freezeLayers: is 3, but there are 2 layers" in refused[0]
    assert "these are weights of a 'vit', not of a resnet50" in refused[1] and "--vary 'model={" in refused[1]
    whole = f"model={{architecture: vit, pretrained: {vit}}},{{architecture: resnet50, pretrained: {resnet}}}"
    valid, refused = grid(classifier, axes([whole]), check)
    assert len(valid) == 2 and not refused
