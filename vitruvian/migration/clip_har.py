"""Human Action Recognition using CLIP: flags of its commands, and a YAML file whose keys are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vitruvian import spec
from vitruvian.migration.table import Given, Habit, Key, Kind, Outcome, Put, Refused, Remark, System

_MODEL = "openai/clip-vit-base-patch16"
_BATCH = 256
_STRENGTHS = ("none", "light", "medium", "strong")
_MODES = ("none", "ddp", "fsdp")
_EXPORTER = frozenset({"export_format", "precision", "validate"})
_TRAINER = frozenset({"max_epochs", "lr", "distributed_mode", "unfreeze_visual", "unfreeze_text", "eval_batch_size"})
_TRACK = "flags of `run`, `train`, `tune` and `study`; without them nothing is tracked, where there both trackers were"
_UNTRACKED = "nothing is tracked without `--mlflow URI`, `--wandb PROJECT` or `--tensorboard FOLDER`"
_HUB = "the bundle of a run, with its model card, as one commit; `--private`, `--revision BRANCH`"
_RAY = "Ray finds the workers"
_BUNDLE = "a bundle says what it is, and holds its classes"
# Layers of a tower in OpenAI's models: (visual, text).
_LAYERS = {"base": (12, 12), "large": (24, 12)}


def _workers(values: Mapping[str, Any]) -> int | None:
    """Return how many processes train; none: as many as there are GPUs."""
    if values.get("distributed_mode") in (None, "none"):
        return 1
    count = values.get("nproc_per_node")
    return int(count) if isinstance(count, int | str) and re.fullmatch(r"[1-9]\d{0,5}", str(count)) else None


def _processes(given: Given) -> Iterator[Outcome]:
    if given.values.get("distributed_mode") in (None, "none"):
        yield Remark("with distributed_mode none one process trains")
    elif _workers(given.values) is None:
        yield Remark("set spec.training.workers to the number of processes")


def _mode(given: Given) -> Iterator[Outcome]:
    if given.value not in _MODES:
        yield Refused("is no way to distribute", f"write one of {', '.join(_MODES)}")
        return
    yield Put("spec.training.strategy", given.value)
    if given.value == "none":
        yield Remark("one process on the CPU; set spec.training.gpusPerWorker to 1 for a GPU")
        return
    workers = _workers(given.values)
    yield Put("spec.training.workers", workers or 1)
    yield Put("spec.training.gpusPerWorker", 1)
    if workers is None:
        yield Remark("the launcher counted GPUs; set spec.training.workers to their number")


def _batch(given: Given) -> Iterator[Outcome]:
    if not _TRAINER & given.values.keys() and _EXPORTER & given.values.keys():
        yield Put("spec.training.batchSize", _BATCH)
        if "batch_size" in given.values:
            yield Remark("an exported model takes any number of inputs at once")
        return
    workers = _workers(given.values)
    yield Put("spec.training.batchSize", given.value * (workers or 1))
    if workers is None:
        yield Remark("was for each GPU; spec.training.batchSize is for all workers, so multiply it by their number")
    elif workers > 1:
        together = given.value * workers
        yield Remark(
            f"{given.value} for each of {workers} processes; spec.training.batchSize is all of them, {together}"
        )


def _augmentation(given: Given) -> Iterator[Outcome]:
    if given.value in _STRENGTHS:
        yield Put("spec.training.augmentation", given.value)
    else:
        yield Refused("is no strength that is known here", f"write one of {', '.join(_STRENGTHS)}")


def _unfreeze(tower: int, path: str) -> Callable[[Given], Iterator[Outcome]]:
    def rule(given: Given) -> Iterator[Outcome]:
        name = str(given.values.get("model_name", _MODEL))
        layers = next((counts[tower] for size, counts in _LAYERS.items() if f"vit-{size}" in name.lower()), None)
        if not given.value:
            yield Put(path, 0)
        elif layers is None:
            yield Remark(f"set {path} to the number of the tower's layers, all of which learnt")
        else:
            yield Put(path, layers)
            yield Remark("all layers learn; spec.model.lora learns small changes of them instead, in less memory")

    return rule


def _mixed(given: Given) -> Iterator[Outcome]:
    if given.value:
        yield Remark("set spec.training.precision to fp32")
    else:
        yield Remark("spec.training.precision is auto, bfloat16 on a GPU that is built for it, float16 on an older one")


def _experiment(given: Given) -> Iterator[Outcome]:
    name = re.sub(r"[^a-z0-9]+", "-", given.value.lower())[:63].strip("-")
    if name:
        yield Put("metadata.name", name)
        yield Remark(
            "names the classifier and MLflow's experiment; --name and MLFLOW_EXPERIMENT_NAME name them otherwise"
        )
    else:
        yield Remark("no classifier can be called so; lower-case letters, digits and '-' make a name")


def _tracker(flag: str, on: bool) -> Callable[[Given], Iterator[Outcome]]:
    def rule(given: Given) -> Iterator[Outcome]:
        yield Remark(f"add {flag} to `vitruvian run` or `train`" if given.value is on else _UNTRACKED)

    return rule


def _formats(given: Given) -> Iterator[Outcome]:
    known = spec.Export.model_json_schema()["properties"]["formats"]["items"]["enum"]
    asked = list(given.value)
    if not asked or any(name not in known for name in asked):
        yield Refused("has a format that isn't known", f"choose from {', '.join(known)}")
        return
    precision = given.values.get("precision")
    suffix = f"-{precision}" if precision in ("fp16", "int8") else ""
    yield Put("spec.export.formats", [f"{name}{suffix}" if name == "tensorrt" else name for name in asked])


def _precision(given: Given) -> Iterator[Outcome]:
    if "tensorrt" not in (given.values.get("export_format") or ()):
        yield Remark("was TensorRT's; set spec.export.formats to tensorrt, tensorrt-fp16 or tensorrt-int8")


SYSTEM = System(
    title="Human Action Recognition using CLIP (CLIP_HAR_PROJECT)",
    name="clip-har",
    data="the folder of your pictures (the Hub's data set, downloaded), with a folder for each class in it",
    nested=True,
    keys=(
        Key(
            "model_name",
            "spec.model.pretrained",
            "a hub name or a folder; openai/clip-vit-base-patch16 unless it is set",
            Kind.text,
            ("S4.10",),
            default=_MODEL,
        ),
        Key(
            "unfreeze_visual",
            "spec.model.clip.unfreezeVisual",
            "true or false: true becomes the number of the tower's layers, false or nothing 0; a number of last layers "
            "is written here. `model.lora` learns small changes instead",
            Kind.flag,
            ("S4.15",),
            rule=_unfreeze(0, "spec.model.clip.unfreezeVisual"),
        ),
        Key(
            "unfreeze_text",
            "spec.model.clip.unfreezeText",
            "true or false, the same of the text tower",
            Kind.flag,
            ("S4.16",),
            rule=_unfreeze(1, "spec.model.clip.unfreezeText"),
        ),
        Key(
            "distributed_mode",
            "spec.training.strategy",
            "none, ddp, fsdp; ddp and fsdp with gpusPerWorker 1",
            Kind.text,
            ("S4.09",),
            default="none",
            rule=_mode,
        ),
        Key(
            "nproc_per_node",
            "spec.training.workers",
            "of torchrun; the launcher counted GPUs, here their number is written down, or a range",
            ids=("S4.22",),
            rule=_processes,
        ),
        Key("master_addr", "spec.training.workers", _RAY, ids=("S4.22",)),
        Key("master_port", "spec.training.workers", _RAY, ids=("S4.22",)),
        Key(
            "batch_size",
            "spec.training.batchSize",
            "there for each GPU, here of a step over all workers; 256 unless it is set. `training.accumulate` computes "
            "it in parts. On the exporter: an exported model takes any number of inputs at once",
            Kind.integer,
            ("S4.11", "S4.50"),
            default=_BATCH,
            rule=_batch,
        ),
        Key(
            "eval_batch_size",
            "`vitruvian evaluate -f FILE`",
            "chooses its own, which changes no result",
            ids=("S4.12",),
        ),
        Key("max_epochs", "spec.training.epochs", "15 unless it is set", Kind.integer, ("S4.13",), default=15),
        Key("lr", "spec.training.learningRate", "3e-6 unless it is set", Kind.number, ("S4.14",), default=3e-6),
        Key(
            "no_mixed_precision",
            "spec.training.precision",
            "fp32; the default, auto, is bfloat16 on a GPU that is built for it, float16 on an older one",
            Kind.flag,
            ("S4.17",),
            rule=_mixed,
        ),
        Key(
            "augmentation_strength",
            "spec.training.augmentation",
            "none, light, medium, strong",
            Kind.text,
            ("S4.02",),
            rule=_augmentation,
        ),
        Key(
            "output_dir",
            "spec.artifacts",
            "a folder or s3://BUCKET/PREFIX; reports and the model lie below it",
            Kind.text,
            ("S4.18",),
        ),
        Key("config_path", "`-f FILE`", "the Classifier", ids=("S4.27", "S4.50")),
        Key("config", "`-f FILE`", "the Classifier", ids=("S4.27", "S4.28")),
        Key(
            "dataset_version",
            "spec.data.version",
            "a tag, branch or commit of the repository in which `spec.data.source` lies; `dvc` gets it, and the "
            "bundle's lineage names the commit",
            Kind.text,
            ("S4.29",),
        ),
        Key(
            "checkpoint",
            "spec.model.pretrained",
            "a `.pt` is a pickle and isn't read; write it with save_pretrained and name that folder. A run that broke "
            "off goes on by itself",
            ids=("S4.30",),
        ),
        Key("push_to_hub", "`vitruvian push ARTIFACTS OWNER/NAME`", _HUB, ids=("S4.31",)),
        Key(
            "experiment_name",
            "metadata.name",
            "as lower-case letters, digits and '-'; it names MLflow's experiment, unless `MLFLOW_EXPERIMENT_NAME` does",
            Kind.text,
            ("S4.42",),
            rule=_experiment,
        ),
        Key("project_name", "`vitruvian run --wandb PROJECT`", _TRACK, ids=("S4.42",)),
        Key("group_name", "`WANDB_RUN_GROUP`", "W&B's own variable", ids=("S4.42",)),
        Key(
            "use_mlflow",
            "`vitruvian run --mlflow URI`",
            _TRACK,
            Kind.flag,
            ("S4.41",),
            rule=_tracker("--mlflow URI", True),
        ),
        Key("no_mlflow", "no `--mlflow`", _TRACK, Kind.flag, ("S4.41",), rule=_tracker("--mlflow URI", False)),
        Key(
            "use_wandb",
            "`vitruvian run --wandb PROJECT`",
            _TRACK,
            Kind.flag,
            ("S4.41",),
            rule=_tracker("--wandb PROJECT", True),
        ),
        Key("no_wandb", "no `--wandb`", _TRACK, Kind.flag, ("S4.41",), rule=_tracker("--wandb PROJECT", False)),
        Key(
            "no_tracking",
            "neither flag",
            _TRACK,
            Kind.flag,
            ("S4.41",),
            rule=_tracker("--mlflow URI, --wandb PROJECT or both", False),
        ),
        Key(
            "export_format",
            "spec.export.formats",
            "onnx, torchscript, tensorrt; openvino and the formats of lower precision besides",
            Kind.list,
            ("S4.45",),
            rule=_formats,
        ),
        Key(
            "precision",
            "spec.export.formats",
            "TensorRT's: tensorrt, tensorrt-fp16 and tensorrt-int8 are formats, as are onnx-int8 and openvino-int8",
            ids=("S4.49",),
            rule=_precision,
        ),
        Key(
            "validate",
            "spec.export.accuracyDrop",
            "always; an export that answers otherwise than the model, or loses more accuracy, is refused",
            ids=("S4.50",),
        ),
        Key("benchmark", "`vitruvian export`", "always; the table is in the bundle", ids=("S4.45", "S4.50")),
        Key("model_path", "`vitruvian serve BUNDLE`", _BUNDLE, ids=("S4.33", "S4.53")),
        Key("model_type", "`vitruvian serve BUNDLE`", _BUNDLE, ids=("S4.53", "S4.54")),
        Key("class_names", "`labels` in bundle.json", _BUNDLE, ids=("S4.55",)),
        Key("port", "`vitruvian serve BUNDLE --port PORT`", "8080 unless it is set", ids=("S4.53",)),
    ),
    habits=(
        Habit("spec.data.format", "images", "pictures", ("S4.01",)),
        Habit("spec.model.architecture", "clip", "CLIP with a prompt for each class", ("S4.07",)),
        Habit("spec.model.clip.head", "prompts", "your own prompts go to `model.clip.templates`", ("S4.07",)),
        Habit("spec.training.earlyStopping", None, "it trains all its epochs", ("S4.13",)),
    ),
)
