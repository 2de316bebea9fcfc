"""The Human Pose Classifier with a vision transformer on AWS: four JSON files, one for each of its stages."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vitruvian import spec
from vitruvian.migration.entries import shown
from vitruvian.migration.table import Aside, Given, Habit, Key, Kind, Outcome, Put, Refused, Remark, System, Whole

HUB = "the Hugging Face Hub isn't a source yet; download the set, a folder for each class, name it in spec.data.source"
_METRICS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1", "f1_score": "f1"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MOST_LAYERS = 12


def hub(given: Given) -> Iterator[Outcome]:
    """Name a data set on the Hugging Face Hub, as a comment while that isn't implemented."""
    data = {"source": f"hf://{given.value}", "format": "huggingface"}
    later = any(spec.unimplemented(spec.Data.model_validate(data)))
    for field, why in (("source", HUB), ("format", "goes with it")):
        path = f"spec.data.{field}"
        yield Aside(path, data[field], why) if later else Put(path, data[field])


def _frozen(given: Given) -> Iterator[Outcome]:
    if not 0 <= given.value <= _MOST_LAYERS:
        yield Refused(f"{given.value} is not between 0 and {_MOST_LAYERS}", "name how many of the first layers stay")
    yield Put("spec.model.freezeLayers", given.value)


def _gpu(given: Given) -> Iterator[Outcome]:
    yield Put("spec.training.gpusPerWorker", int(given.value))
    if given.value:
        yield Remark("with spec.training.gpusPerWorker 1 a machine without a GPU is refused; 0 trains on its CPU")


def _enabled(given: Given) -> Iterator[Outcome]:
    if given.value and "push_model_s3.bucket_name" not in given.values:
        yield Remark("names no bucket, so spec.artifacts is a folder on this machine")
    elif not given.value:
        yield Remark("nothing goes to S3, and no gate ends a run; spec.artifacts is a folder on this machine")


def _pushes(given: Given) -> bool:
    return given.values.get("push_model_s3.enabled") is True


def _conditions(given: Given) -> Iterator[Outcome]:
    gates = []
    for condition in given.value:
        pair = condition if isinstance(condition, dict) else {}
        metric, least = pair.get("metric"), pair.get("threshold")
        if not isinstance(metric, str) or metric.lower() not in _METRICS:
            called = f"the metric '{shown(metric, 40)}'" if isinstance(metric, str) else "a condition without a metric"
            choice = ", ".join(dict.fromkeys(_METRICS.values()))
            yield Refused(f"{called} can't be a gate", f"choose from {choice}, or remove this condition")
        elif isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            yield Refused(f"the threshold of {metric} is no number from 0 to 1", "write 0.8 for 80 percent")
        else:
            gates.append({"metric": _METRICS[metric.lower()], "atLeast": float(least)})
    if gates:
        yield (
            Put("spec.gates", gates)
            if _pushes(given)
            else Aside("spec.gates", gates, "push_model_s3.enabled isn't true, so nothing is asked of a model")
        )


def _bucket(given: Given) -> Iterator[Outcome]:
    if not _BUCKET.fullmatch(given.value):
        yield Refused("is no bucket's name", "3 to 63 lower-case letters, digits, '-' and '.'")
        return
    address = f"s3://{given.value}/{given.values.get('push_model_s3.prefix', '').strip('/')}".rstrip("/")
    if _pushes(given):
        yield Put("spec.artifacts", address)
        yield Remark("the bucket must exist; data, checkpoints and reports lie there, too, not only the model")
    else:
        yield Aside("spec.artifacts", address, "push_model_s3.enabled isn't true")


def _prefix(given: Given) -> Iterator[Outcome]:
    if "push_model_s3.bucket_name" not in given.values:
        yield Remark("is nothing without push_model_s3.bucket_name")


SYSTEM = System(
    title="Human Pose Classifier (ViT, AWS)",
    name="human-pose",
    data="the folder of your pictures, with a folder for each class in it",
    keys=(
        Key(
            "huggingface_dataset_name",
            "spec.data.source",
            f"written as a comment: {HUB}",
            Kind.text,
            ("S0.04",),
            rule=hub,
        ),
        Key("test_size", "spec.data.testSize", "the same share of all examples", Kind.number, ("S0.05",)),
        Key(
            "validation_size",
            "spec.data.validationSize",
            "the same share of what the test leaves; 0.2 and 0.2 give 64/16/20 here, too",
            Kind.number,
            ("S0.06",),
        ),
        Key("output_dir", "stages/prepare below spec.artifacts", "prepared data has its place", ids=("S0.07",)),
        Key(
            "directories_config.input_dir",
            "stages/prepare below spec.artifacts",
            "a stage finds what the one before it made",
            ids=("S0.14",),
        ),
        Key(
            "directories_config.clean_train_dir_before_training",
            "spec.training.checkpoints.keep",
            "checkpoints belong to their data and declaration: those of another training are never read, and so many "
            "of the latest are kept",
            ids=("S0.15",),
            rule=lambda given: [
                Remark(
                    "checkpoints of another training are never read; spec.training.checkpoints.keep says how many stay"
                )
            ],
        ),
        Key(
            "directories_config.train_dir", "checkpoints below spec.artifacts", "they have their place", ids=("S0.16",)
        ),
        Key(
            "directories_config.training_curve_path",
            "report/curves.png in stages/gate and in the bundle",
            "a run makes it; those of former runs stay",
            ids=("S0.17",),
        ),
        Key(
            "directories_config.best_model_path",
            "bundles/VERSION below spec.artifacts",
            "`champion.json` says which one is served",
            ids=("S0.18",),
        ),
        Key(
            "model_params.model_name",
            "spec.model.pretrained",
            "a hub name, or a folder with config.json and model.safetensors",
            Kind.text,
            ("S0.19",),
        ),
        Key(
            "model_params.nb_layers_to_freeze",
            "spec.model.freezeLayers",
            "the first N encoder layers, and the embeddings before them; none: 0. "
            "`vitruvian study --vary model.freezeLayers=0,2,4` compares several",
            Kind.integer,
            ("S0.20",),
            rule=_frozen,
        ),
        Key(
            "training_config.enable_gpu",
            "spec.training.gpusPerWorker",
            "1 or 0; with 1 a machine without a GPU is refused",
            Kind.flag,
            ("S0.21",),
            rule=_gpu,
        ),
        Key("training_config.learning_rate", "spec.training.learningRate", "the peak", Kind.number, ("S0.22",)),
        Key(
            "training_config.batch_size",
            "spec.training.batchSize",
            "of a training step; it doesn't change what validation measures",
            Kind.integer,
            ("S0.23",),
        ),
        Key("training_config.num_train_epochs", "spec.training.epochs", "the most", Kind.integer, ("S0.24",)),
        Key(
            "input_dir",
            "stages/prepare below spec.artifacts",
            "the test part is measured where it was put aside",
            ids=("S0.35",),
        ),
        Key(
            "trained_model_path",
            "stages/train below spec.artifacts",
            "`vitruvian evaluate` finds what it trained",
            ids=("S0.36",),
        ),
        Key(
            "metrics_output_file",
            "report/metrics.xlsx in stages/gate and in the bundle",
            "beside the same as HTML, JSON and pictures",
            ids=("S0.37",),
        ),
        Key(
            "push_model_s3.enabled",
            "spec.artifacts",
            "true: conditions become gates, the bucket becomes the store; false: both are written as comments",
            Kind.flag,
            ("S0.38",),
            rule=_enabled,
        ),
        Key(
            "push_model_s3.conditions",
            "spec.gates",
            "all must hold; a gate that isn't met ends the run with exit code 3",
            Kind.list,
            ("S0.39",),
            rule=_conditions,
        ),
        Key(
            "push_model_s3.conditions[].metric",
            "spec.gates[].metric",
            "accuracy, precision, recall, f1: weighted by class size here, too",
            Kind.text,
            ("S0.40",),
        ),
        Key("push_model_s3.conditions[].threshold", "spec.gates[].atLeast", "", Kind.number, ("S0.41",)),
        Key(
            "push_model_s3.bucket_name",
            "spec.artifacts",
            "s3://BUCKET/PREFIX; the bucket isn't made for you",
            Kind.text,
            ("S0.42",),
            rule=_bucket,
        ),
        Key("push_model_s3.prefix", "spec.artifacts", "s3://BUCKET/PREFIX", Kind.text, ("S0.43",), rule=_prefix),
    ),
    habits=(
        Habit("spec.data.format", "images", "pictures", ("S0.04",)),
        Habit("spec.model.architecture", "vit", "a vision transformer", ("S0.19",)),
        Habit("spec.training.earlyStopping", None, "it trains all its epochs, and keeps the most accurate", ("S0.30",)),
    ),
    wholes=(
        Whole(
            "inference_config.json",
            "`vitruvian serve BUNDLE --host HOST --port PORT`",
            "a server takes flags, and everything else from the bundle",
            ("S0.57",),
        ),
    ),
)
