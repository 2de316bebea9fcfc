"""Which settings decide what is learnt, and which only how it is computed; torch isn't needed to tell."""

from __future__ import annotations

from vitruvian.models.rates import default_learning_rate
from vitruvian.spec import Model, Training

_HOW = ("strategy", "workers", "checkpoints", "loaders", "activation_checkpointing", "cpu_offload", "compile")
_WITH_BATCH_NORMALISATION = {"resnet50"}


def how(model: Model) -> tuple[str, ...]:
    """Return the fields of `training` that change what this model learns by rounding at most.

    A checkpoint that was written with some values of them is gone on from with any others. Not among them:
    gpusPerWorker, since a GPU multiplies in other precisions than a CPU.
    """
    # Batch normalisation sees each part of a step by itself.
    return _HOW if model.architecture in _WITH_BATCH_NORMALISATION else (*_HOW, "accumulate")


def decisive(model: Model, training: Training) -> Training:
    """Return the settings with the defaults in the place of all that makes no difference to what is learnt."""
    same = list(how(model))
    if training.learning_rate == default_learning_rate(model):
        same.append("learning_rate")
    fields = Training.model_fields
    return training.model_copy(update={name: fields[name].default for name in same})
