"""What a training is known by: all that decides what is learnt, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from vitruvian.spec import Model, Training
from vitruvian.training.identity import decisive, how

VIT = Model.model_validate({"architecture": "vit"})
RESNET = Model.model_validate({"architecture": "resnet50"})
PLAIN = Training()


def _known_by(model: Model = VIT, **training: Any) -> Training:
    return decisive(model, Training.model_validate(training))


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "ddp", "workers": 4},
        {"strategy": "fsdp", "workers": {"min": 1, "max": 8}},
        {"checkpoints": {"everySteps": 10, "keep": 5}},
        {"loaders": 0},
        {"accumulate": 4},
        {"activationCheckpointing": True},
        {"compile": True},
        {"learningRate": 1e-3},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_a_training_is_the_same_however_it_is_computed(settings: dict[str, Any]) -> None:
    assert _known_by(**settings) == PLAIN


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 3},
        {"batchSize": 32},
        {"learningRate": 1e-4},
        {"weightDecay": 0.0},
        {"warmup": 0.0},
        {"gradientClip": 2.0},
        {"gradientClip": None},
        {"labelSmoothing": 0.1},
        {"augmentation": "none"},
        {"earlyStopping": None},
        {"earlyStopping": None, "select": "last"},
        {"seed": 1},
        {"precision": "bf16"},
        {"gpusPerWorker": 1},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_a_training_is_another_where_something_else_is_learnt(settings: dict[str, Any]) -> None:
    assert _known_by(**settings) != PLAIN


def test_a_training_without_such_settings_is_known_by_what_it_was_known_by_before() -> None:
    settings = Training.model_validate({"epochs": 3, "seed": 7})
    assert decisive(VIT, settings).model_dump() == settings.model_dump()


def test_parts_of_a_step_are_another_training_where_batches_are_normalised() -> None:
    assert _known_by(RESNET, accumulate=4) != PLAIN
    assert _known_by(RESNET, strategy="ddp", workers=4) == PLAIN


def test_every_setting_is_looked_at() -> None:
    decides = set(Training.model_fields) - set(how(VIT))
    assert decides == {
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "warmup",
        "largest_norm",
        "label_smoothing",
        "augmentation",
        "early_stopping",
        "select",
        "seed",
        "precision",
        "gpus_per_worker",
    }
