"""The Human Pose Classification API on AWS Fargate: a model folder as transformers writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from vitruvian.migration.table import Given, Habit, Key, Kind, Outcome, Put, Refused, System

_OURS = {"vit": "vit", "resnet": "resnet50", "clip": "clip"}
_WITH_WEIGHTS = "the folder in spec.model.pretrained"
_READ = "comes with the weights and is read from there"
_LABELS = "classes are the folders' names in spec.data.source; the head is new"
# transformers' ViTConfig and ViTImageProcessor, and what every config and processor has.
_SHAPE = (
    "architectures",
    "attention_probs_dropout_prob",
    "dtype",
    "encoder_stride",
    "finetuning_task",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "image_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
    "pooler_act",
    "pooler_output_size",
    "problem_type",
    "qkv_bias",
    "torch_dtype",
    "transformers_version",
)
_NORMALISED = ("image_mean", "image_std")
_PROCESSOR = (
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "feature_extractor_type",
    "image_processor_type",
    "resample",
    "rescale_factor",
    "size",
)
_PREPARED = "one decoder prepares pictures the same for training and serving (the model's square, 0 to 1, normalised)"


def _architecture(given: Given) -> Iterator[Outcome]:
    if given.value not in _OURS:
        yield Refused("no architecture here begins with such weights", f"it must be one of {', '.join(_OURS)}")
        return
    yield Put("spec.model.architecture", _OURS[given.value])
    yield Put("spec.model.pretrained", PurePath(given.where).parent.as_posix())


SYSTEM = System(
    title="Human Pose Classification API (AWS Fargate)",
    name="human-pose-api",
    data="the folder of your pictures, with a folder for each class in it",
    keys=(
        Key(
            "model_type",
            "spec.model.architecture",
            "and the folder of `config.json` becomes spec.model.pretrained: training goes on from these weights",
            Kind.text,
            ("S3.04",),
            rule=_architecture,
        ),
        Key(
            "_name_or_path",
            "spec.model.pretrained",
            "the weights that these were made of; write it there to begin at them instead of at the folder",
            ids=("S3.01", "S3.05"),
        ),
        Key("id2label", "`labels` in bundle.json", _LABELS, ids=("S3.04",)),
        Key("label2id", "`labels` in bundle.json", _LABELS, ids=("S3.04",)),
        *(Key(name, _WITH_WEIGHTS, _READ, ids=("S3.04",)) for name in (*_SHAPE, *_NORMALISED)),
        *(Key(name, "preprocess.json in the bundle", _PREPARED, ids=("S3.04",)) for name in _PROCESSOR),
    ),
    habits=(
        Habit("spec.data.format", "images", "pictures", ("S3.01",)),
        Habit("spec.model.architecture", "vit", "a vision transformer", ("S3.01",)),
        Habit(
            "spec.model.pretrained",
            "google/vit-base-patch16-224-in21k",
            "unless `config.json` is given",
            ("S3.01",),
        ),
    ),
)
