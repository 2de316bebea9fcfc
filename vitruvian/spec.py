"""The Classifier: what to learn, how good it must be and how to serve it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from vitruvian import synthetic
from vitruvian.controls import escaped, steers
from vitruvian.errors import MISUNDERSTOOD, SpecError


@dataclass(frozen=True)
class Planned:
    """Marks a field, or some of its values, that a later release carries out; until then it is refused by name."""

    values: frozenset[str] | None = None

    def covers(self, value: object) -> bool:
        """Tell whether a value set by a user is one that isn't carried out yet."""
        if self.values is None:
            return bool(value)
        return any(item in self.values for item in (value if isinstance(value, tuple) else (value,)))


def planned(*values: str) -> Planned:
    return Planned(frozenset(values) or None)


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def is_repository(source: str) -> bool:
    """Tell whether a source is the address of a Git repository."""
    return source.startswith("git+")


def repository(source: str) -> tuple[str, str]:
    """Return a repository's own address and a folder in it, of an address as pip takes it; raises `ValueError`."""
    found = _REPOSITORY.fullmatch(source)
    if not found:
        raise ValueError(
            "is no address of data in a Git repository; write git+https://HOST/REPOSITORY.git#subdirectory=FOLDER, "
            "also with ssh or file in the place of https, and a revision into data.version"
        )
    if found["secret"]:
        raise ValueError("holds a password, which every bundle would tell; leave it to Git's credential helper")
    return found["address"], found["folder"].rstrip("/")


# A revision behind @ as pip has it would be a second place for data.version.
_REPOSITORY = re.compile(
    r"git\+(?P<address>(?:https?|ssh|file)://(?:[^/@:]*(?P<secret>:[^/@]*)?@)?[^@#]+)"
    r"#subdirectory=(?P<folder>(?!\.\.?(?:/|$))[^/&-][^&]*)"
)


def _readable(source: str) -> str:
    if synthetic.is_synthetic(source):
        synthetic.parse(source)
    if is_repository(source):
        repository(source)
    return source


def _unsteered(address: str) -> str:
    if steers(address):
        raise ValueError(f"{brief(address)} holds a control character; remove it")
    return address


Place = Annotated[str, Field(min_length=1), AfterValidator(_unsteered)]
Share = Annotated[float, Field(gt=0, lt=1)]
Share0 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1, le=1_000_000_000)]
Servers = Annotated[int, Field(ge=1, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Part(BaseModel):
    """A part of the declaration: camelCase in YAML, snake_case in Python, unknown keys refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class Data(Part):
    """What to learn from."""

    source: Annotated[Place, AfterValidator(_readable)]
    """Where the data is: a folder, file://, s3://BUCKET/PREFIX, synthetic://poses, or
    git+https://HOST/REPOSITORY.git#subdirectory=FOLDER, which DVC fetches."""
    version: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_./@+-]*$")] | None = None
    """A tag, branch or commit of the Git repository in which the source lies; DVC fetches the folder as it was there.
    None: a folder as it is, of a git+ address the newest commit."""
    format: Annotated[
        Literal["images", "heatmaps", "posedb", "huggingface"],
        planned("posedb", "huggingface"),
    ] = "images"
    """images: a folder for each class; heatmaps: the same with .npy files of [1, 17, 64, 48]."""
    test_size: Share = 0.2
    """Share of all examples (or groups) that is kept for the test."""
    validation_size: Share = 0.2
    """Share of what the test leaves that is kept for validation: 0.2 and 0.2 give 64/16/20."""
    group_by: Annotated[str, Field(min_length=1)] | None = None
    """A column of the source's groups.csv (path, GROUP…): examples of one group are never split."""
    seed: Seed = 0
    """Decides which examples go where."""

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if synthetic.is_synthetic(self.source) and self.group_by is not None:
            synthetic.check_groups(synthetic.parse(self.source), self.group_by)
        if self.version is not None and "://" in self.source and not self.source.startswith(("git+", "file://")):
            raise ValueError(
                f"version {self.version} means a commit of a Git repository, and {self.source} lies in none; "
                "remove it, or write git+https://HOST/REPOSITORY.git#subdirectory=FOLDER"
            )
        return self


class Dimensions(Part):
    """The size of a model that is trained from scratch."""

    image_size: Annotated[int, Field(ge=1, le=1024)] = 64
    """Height and width of the input in pixels; of a vit or clip a multiple of patchSize."""
    patch_size: Positive = 8
    """Height and width of a patch in pixels."""
    hidden_size: Annotated[int, Field(ge=1, le=8192)] = 96
    """Width of a token; a multiple of heads."""
    layers: Annotated[int, Field(ge=1, le=256)] = 4
    """Number of encoder layers."""
    heads: Positive = 4
    """Number of attention heads."""
    intermediate_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Width between the two layers of a feed-forward block; none: four times hiddenSize."""

    @model_validator(mode="after")
    def _fits(self) -> Dimensions:
        if self.hidden_size % self.heads:
            raise ValueError(f"hiddenSize {self.hidden_size} is not a multiple of heads {self.heads}")
        return self


Template = Annotated[str, Field(max_length=300)]
Coefficient = Annotated[float, Field(ge=0, le=1)]


class Clip(Part):
    """How a clip tells classes apart, and what of it learns."""

    head: Literal["prompts", "linear"] = "prompts"
    """prompts: an image belongs to the class whose prompts its features are nearest to; linear: a new linear layer on
    the visual tower's features."""
    templates: Annotated[tuple[Template, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=100)] = (
        "a photo of a person, {}.",
        "a picture of someone in the pose {}.",
        "a person doing {}.",
    )
    """The prompts of a class: {} stands for its name, read as words ("arms-raised": arms raised)."""
    unfreeze_visual: Annotated[int, Field(ge=0)] | None = None
    """How many of the visual tower's last layers learn; none: of pretrained weights 0, from scratch or with lora
    all."""
    unfreeze_text: Annotated[int, Field(ge=0)] | None = None
    """The same of the text tower; with head prompts only."""
    interpolation: (
        Annotated[tuple[Coefficient, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=100)] | None
    ) = None
    """Points between the pretrained weights, 0, and the learnt ones, 1; the one with the best validation accuracy
    becomes the model, of equals the one nearest to 0. None: the learnt weights. With head prompts only."""

    @model_validator(mode="after")
    def _consistent(self) -> Clip:
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"the template '{template}' needs {{}} once, where the class' name stands")
        unused = sorted(map(to_camel, self.model_fields_set & {"templates", "unfreeze_text", "interpolation"}))
        if self.head == "linear" and unused:
            raise ValueError(f"with head linear there are no prompts; remove {', '.join(unused)}")
        return self


class Lora(Part):
    """Low-rank changes that learn in the place of a layer's whole weights (LoRA, Hu et al., 2022)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of each change."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """A change counts alpha / rank times."""
    dropout: Share0 = 0.0
    """Share of a change's inputs that each step leaves out."""
    targets: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple), Field(min_length=1)
    ] = ("q_proj", "v_proj")
    """The linear maps of an encoder layer that are changed: q_proj, k_proj, v_proj; of a vit also o_proj, of a clip
    out_proj; mlp.fc1, mlp.fc2."""


class Model(Part):
    """What learns."""

    architecture: Literal["vit", "clip", "resnet50", "heatmap-cnn"]
    """vit, clip and resnet50 for images, heatmap-cnn for heatmaps."""
    pretrained: Place | None = None
    """Weights to begin with: a hub name (hf-hub: may stand before it), or a folder, file:// or s3://BUCKET/PREFIX with
    config.json and model.safetensors, or what open_clip saves, or the safetensors of torchvision's ResNet, or a bundle,
    or a classifier's artifacts for its champion; none: from scratch."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """What stays as it is: the first N encoder layers of a vit, the first N of a resnet50's 4 stages, and what comes
    before them. For a clip see clip.unfreezeVisual."""
    dimensions: Dimensions | None = None
    """The size of a vit or clip that is trained from scratch; of a resnet50 its imageSize, also with pretrained."""
    clip: Clip | None = None
    """How a clip learns."""
    lora: Lora | None = None
    """Of a pretrained vit or clip learn low-rank changes, and a new head, only; what the other fields keep as it is
    gets none. Of a clip it is the visual tower's layers, unless clip.unfreezeVisual or clip.unfreezeText say others."""

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.clip and self.architecture != "clip":
            raise ValueError(f"clip is for the architecture clip, not for {self.architecture}; remove it")
        if self.architecture == "heatmap-cnn" and (self.pretrained or self.freeze_layers):
            raise ValueError("a heatmap-cnn is trained from scratch; remove pretrained and freezeLayers")
        if self.architecture == "clip" and self.freeze_layers:
            raise ValueError("freezeLayers is not for a clip; set clip.unfreezeVisual and clip.unfreezeText")
        if self.dimensions:
            self._check_dimensions(self.dimensions)
        if self.lora:
            self._check_lora()
        if self.clip and self.clip.interpolation and not self.pretrained:
            raise ValueError("clip.interpolation begins at pretrained weights; set pretrained, or remove it")
        return self

    def _check_lora(self) -> None:
        if self.architecture not in ("vit", "clip"):
            raise ValueError(f"lora is for a vit or clip, not for a {self.architecture}; remove it")
        if not self.pretrained:
            raise ValueError("lora changes pretrained weights a little; set pretrained, or remove lora")
        if self.clip and self.clip.unfreeze_visual == 0 and not self.clip.unfreeze_text:
            raise ValueError("with clip.unfreezeVisual 0 there is nothing that lora could change; remove one of them")

    def _check_dimensions(self, size: Dimensions) -> None:
        if self.architecture == "heatmap-cnn":
            raise ValueError("a heatmap-cnn has one size; remove dimensions")
        if self.architecture == "resnet50":
            unused = sorted(map(to_camel, size.model_fields_set - {"image_size"}))
            if unused:
                raise ValueError(f"of dimensions a resnet50 has imageSize only; remove {', '.join(unused)}")
        elif self.pretrained:
            raise ValueError("pretrained weights bring their dimensions; remove one of them")
        elif size.image_size % size.patch_size:
            raise ValueError(f"imageSize {size.image_size} is not a multiple of patchSize {size.patch_size}")


class EarlyStopping(Part):
    """When to stop before the last epoch."""

    patience: Positive = 10
    """Epochs without a better one (validation accuracy, of equals the lower loss) after which training stops."""


class Checkpoints(Part):
    """When training saves what it needs to go on after an interruption."""

    every_steps: Positive | None = None
    """Optimizer steps between checkpoints; none: at the end of each epoch only."""
    keep: Positive = 3
    """How many of the latest checkpoints are kept."""


class Workers(Part):
    """A number of workers that may change while training."""

    min: Positive
    """The fewest that training goes on with."""
    max: Positive
    """The most that it uses."""


Select = Literal["best", "last"]
Strategy = Literal["none", "ddp", "fsdp"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Training(Part):
    """How to learn."""

    strategy: Strategy = "none"
    """none: one process; ddp: every worker holds the model and gradients are averaged; fsdp: weights, gradients and the
    optimizer's state are shared out over the workers (FSDP2)."""
    workers: Annotated[Positive | Workers, "workers"] = 1
    """Number of worker processes; a range: as many as there is room for, from its min to its max, at any time."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """1: each worker has a GPU of its own, with nccl between workers; 0: the CPU, with gloo."""
    precision: Precision = "auto"
    """fp32; bf16: matrices are multiplied in bfloat16, weights stay in float32; fp16: in float16, with losses scaled so
    that no gradient becomes 0; auto: bf16 on a GPU that is built for it, fp16 on an older one, fp32 elsewhere."""
    accumulate: Positive = 1
    """In how many parts a worker computes its share of a step: more of them take less memory. Batch normalisation sees
    each part by itself, all else stays the same."""
    activation_checkpointing: bool = False
    """Whether what happens within a layer is computed twice instead of being kept: less memory, a third more work."""
    cpu_offload: bool = False
    """Whether weights, gradients and the optimizer's state of fsdp lie in main memory and come to the GPU block by
    block: less of a GPU's memory, more time."""
    compile: bool = False
    """Whether layers are compiled (torch.compile); the machine needs a C++ compiler, and the first steps minutes."""
    loaders: Annotated[int, Field(ge=0, le=64)] | None = None
    """Threads of each worker that prepare the next steps' examples; 0: the loop does it; none: 2 with a GPU, else 0."""
    epochs: Annotated[int, Field(ge=0, le=1_000_000_000)] = 15
    """Passes over the training part, at most; 0: a pretrained clip with head prompts answers as it is."""
    batch_size: Positive = 64
    """Examples of one optimizer step, over all workers."""
    learning_rate: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Peak of the learning rate; none: 1e-3 from scratch and where only a new head learns, 5e-4 with lora, 5e-5 from
    other pretrained weights."""
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.05
    """Decoupled weight decay (AdamW) of all matrices."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of all steps in which the learning rate rises before it falls as a cosine."""
    largest_norm: Annotated[Annotated[float, Field(gt=0)] | None, Field(alias="gradientClip")] = 1.0
    """The largest norm of all gradients together; a larger one is scaled down to it; null: all stay as they are."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over all classes."""
    augmentation: Literal["none", "light", "medium", "strong"] = "light"
    """light: examples are moved and recoloured at random; medium, strong: also scaled, turned and partly covered."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    """When to stop early; null: never."""
    select: Select = "best"
    """Which epoch's weights become the model: best: by validation accuracy, of equals the lower loss; last: the last,
    where the validation part is too small or too unlike the rest to choose by."""
    checkpoints: Checkpoints = Checkpoints()
    """When to save."""
    seed: Seed = 0
    """Decides initial weights, order and augmentation."""

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.strategy == "none" and self.workers != 1:
            asked = self.workers if isinstance(self.workers, int) else f"{self.workers.min} to {self.workers.max}"
            raise ValueError(f"workers is {asked} but strategy is none; set strategy: ddp")
        if self.cpu_offload and not (self.strategy == "fsdp" and self.gpus_per_worker):
            raise ValueError("cpuOffload is for what fsdp holds on GPUs; set strategy: fsdp and gpusPerWorker: 1")
        if isinstance(self.workers, Workers) and self.workers.min > self.workers.max:
            raise ValueError(f"workers.min {self.workers.min} is more than workers.max {self.workers.max}")
        if self.select == "last" and self.early_stopping:
            raise ValueError("select is last, but earlyStopping ends training by validation; set earlyStopping: null")
        if self.batch_size < self.world_size:
            raise ValueError(f"batchSize {self.batch_size} is less than one example for each worker")
        if self.batch_size < self.world_size * self.accumulate:
            asked = f"{self.world_size} workers with accumulate {self.accumulate}"
            raise ValueError(f"batchSize {self.batch_size} is less than one example for each part of {asked}")
        return self

    @property
    def world_size(self) -> int:
        """The number of worker processes, of a range the most."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def gradient_clip(self) -> float:
        """The largest norm that gradients keep; infinite where all stay as they are."""
        return math.inf if self.largest_norm is None else self.largest_norm


class Gate(Part):
    """A condition on a measured value that a bundle must meet to be published."""

    metric: Literal["accuracy", "balancedAccuracy", "precision", "recall", "f1", "worstClassRecall"]
    """The value, measured on the test part; precision, recall and f1 are weighted by class size."""
    at_least: Annotated[float, Field(ge=-1, le=1)]
    """The smallest value, or with versus the smallest difference, that passes."""
    versus: Literal["champion"] | None = None
    """Compare with the bundle that serves now, measured on the same test part."""


Format = Literal[
    "onnx",
    "onnx-int8",
    "openvino",
    "openvino-bf16",
    "openvino-int8",
    "torchscript",
    "tensorrt",
    "tensorrt-fp16",
    "tensorrt-int8",
]


class Export(Part):
    """The formats that are made for serving."""

    formats: Annotated[
        tuple[Format, ...],
        BeforeValidator(_as_tuple),
        Field(min_length=1),
    ] = ("onnx",)
    """Formats to export; the fastest that keeps accuracyDrop is served, chosen again where a server starts on another
    CPU. Where all that a server could run compute in less than full precision, onnx is added, for audits. torchscript
    and tensorrt are for programs elsewhere: no server here runs them."""
    accuracy_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """The most accuracy on the validation part that a format may lose against the trained model."""

    @model_validator(mode="after")
    def _once(self) -> Export:
        if len(set(self.formats)) != len(self.formats):
            raise ValueError("formats names one format twice")
        return self


class Replicas(Part):
    """Limits of the autoscaler."""

    min: Servers = 1
    """The fewest servers."""
    max: Servers = 1
    """The most servers."""
    cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 70
    """The share of the reserved CPU, in percent, above which servers are added; Ray Serve doesn't look at it."""
    queue_length: Annotated[float, Field(ge=0.01, le=10_000)] | None = None
    """Waiting predictions for each server above which servers are added; kserve needs a Prometheus adapter. None:
    kserve looks at CPU only, rayserve adds servers above one waiting prediction each."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"replicas.min {self.min} is more than replicas.max {self.max}")
        return self


class Rollout(Part):
    """How a challenger takes over from the champion."""

    canary: Annotated[tuple[Annotated[int, Field(gt=0, lt=100)], ...], BeforeValidator(_as_tuple)] = (10, 50)
    """Shares of the traffic in percent, one step after the other."""
    judge: dict[str, Any] = Field(default_factory=dict)
    """What the canary is judged by."""


class Serving(Part):
    """How the bundle is served on a cluster."""

    backend: Literal["kserve", "rayserve"] = "kserve"
    """What runs the servers: kserve: an InferenceService; rayserve: a RayService of KubeRay."""
    replicas: Replicas = Replicas()
    """How many servers."""
    rollout: Annotated[Rollout, planned()] = Rollout()
    """How a new version takes over."""


class Retraining(Part):
    """When the classifier is trained again by itself."""

    on_data_change: Annotated[bool, planned()] = False
    """When the data's version changes."""
    schedule: Annotated[str | None, planned()] = None
    """A cron expression."""
    on_drift: Annotated[bool, planned()] = False
    """When predictions drift."""


Finite = Annotated[float, Field(allow_inf_nan=False)]
Bounds = Annotated[tuple[Finite, Finite], BeforeValidator(_as_tuple)]


class Domain(Part):
    """What the values of one field are drawn from: one of these."""

    uniform: Bounds | None = None
    """Numbers between two bounds, each as likely."""
    log_uniform: Bounds | None = None
    """Numbers between two bounds above 0, each order of magnitude as likely."""
    integer: Annotated[
        Annotated[tuple[int, int], BeforeValidator(_as_tuple)] | None,
        Field(alias="int"),
    ] = None
    """Whole numbers from the first to the last, each as likely."""
    choice: Annotated[tuple[Any, ...], BeforeValidator(_as_tuple), Field(min_length=1)] | None = None
    """Any of the listed values, each as likely."""

    @model_validator(mode="after")
    def _consistent(self) -> Domain:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError("write one of uniform, logUniform, int and choice")
        bounds = self.uniform or self.log_uniform or self.integer
        if bounds and bounds[0] >= bounds[1]:
            raise ValueError(f"the first bound, {bounds[0]}, is not below the second, {bounds[1]}")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"logUniform needs bounds above 0, not {self.log_uniform[0]}")
        return self

    @property
    def examples(self) -> tuple[Any, ...]:
        """The values that show whether all that is drawn fits the field: the bounds, or each choice."""
        drawn = self.uniform or self.log_uniform
        return tuple(map(float, drawn)) if drawn else self.integer or self.choice or ()


class Tuning(Part):
    """How `vitruvian tune` looks for better values; no other command does anything with it."""

    space: Annotated[dict[str, Domain], Field(min_length=1)]
    """What to vary: a field of model or training by its path, such as training.learningRate."""
    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    """How many combinations of values are drawn and trained."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: after gracePeriod, 3 * gracePeriod, 9 * gracePeriod … epochs a trial that is not among the best third of
    those that got as far ends; none: each trial is trained to its end."""
    metric: Literal["validationAccuracy", "validationLoss"] = "validationAccuracy"
    """What trials are compared by."""
    grace_period: Positive = 1
    """Epochs that asha lets each trial have."""
    seed: Seed = 0
    """Decides what is drawn."""

    @model_validator(mode="after")
    def _consistent(self) -> Tuning:
        if self.scheduler == "none" and "grace_period" in self.model_fields_set:
            raise ValueError("gracePeriod is for the scheduler asha; remove it")
        check_apart(self.space)
        for path, domain in self.space.items():
            if (refusal := _untunable(path)) is not None:
                raise ValueError(refusal)
            for value in domain.examples:
                if (fault := misfit(path, value)) is not None:
                    raise ValueError(f"{path} can't be {value}: {fault}")
        return self


# One process trains a trial, and what all trials have in common makes them comparable. What a trial is known by holds
# none of how it is computed.
_SAME_FOR_ALL_TRIALS = (
    "training.strategy",
    "training.workers",
    "training.gpusPerWorker",
    "training.checkpoints",
    "training.loaders",
    "training.accumulate",
    "training.activationCheckpointing",
    "training.cpuOffload",
    "training.compile",
)


def _untunable(path: str) -> str | None:
    if field_at(path) is None:
        return unknown(path)
    if not path.startswith(("model.", "training.")):
        return f"{path} can't be tuned: trials share the prepared data; use fields of model and training"
    if f"{path}.".startswith(tuple(f"{fixed}." for fixed in (*_SAME_FOR_ALL_TRIALS, "training.select"))):
        return f"{path} is the same for all trials; remove it"
    return None


class Spec(Part):
    """What a classifier is to be."""

    data: Data
    """What to learn from."""
    model: Model
    """What learns."""
    training: Training = Training()
    """How to learn."""
    gates: Annotated[tuple[Gate, ...], BeforeValidator(_as_tuple)] = ()
    """How good it must be."""
    export: Export = Export()
    """What is made for serving."""
    serving: Serving = Serving()
    """How it is served on a cluster; `vitruvian serve` needs none of it."""
    retraining: Annotated[Retraining | None, planned()] = None
    """When it is trained again."""
    tuning: Tuning | None = None
    """Where `vitruvian tune` looks for better values of model and training."""
    artifacts: Place | None = None
    """Where everything made is kept: a folder, file:// or s3://BUCKET/PREFIX; none: artifacts/NAME."""

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        wanted = "heatmaps" if self.model.architecture == "heatmap-cnn" else "images"
        if self.data.format in ("images", "heatmaps") and self.data.format != wanted:
            raise ValueError(f"model.architecture {self.model.architecture} needs data.format {wanted}")
        if self.training.epochs == 0:
            self._check_untrained()
        tuning, epochs = self.tuning, self.training.epochs
        if tuning and tuning.grace_period > epochs and "training.epochs" not in tuning.space:
            raise ValueError(f"tuning.gracePeriod {tuning.grace_period} is more than training.epochs {epochs}")
        return self

    def _check_untrained(self) -> None:
        model, clip = self.model, self.model.clip or Clip()
        if model.architecture != "clip" or clip.head != "prompts" or not model.pretrained:
            what = "training.epochs 0: only a clip with model.pretrained and head prompts can answer untrained"
            raise ValueError(f"{what}; raise it")
        unused = [name for name, value in (("lora", model.lora), ("clip.interpolation", clip.interpolation)) if value]
        if unused:
            raise ValueError(f"training.epochs 0: nothing learns; remove model.{' and model.'.join(unused)}")


_NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=63)]


class Metadata(Part):
    """What Kubernetes keeps of every object."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    """The classifier's name: lower-case letters, digits and '-'."""
    namespace: str | None = None
    """The namespace on a cluster; none: --namespace, or kubectl's current one."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels on a cluster, of its runs and servers."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations on a cluster, of its runs and servers."""


class Classifier(Part):
    """The declaration: data, model, training, gates and serving of one classifier."""

    api_version: Literal["vitruvian.dev/v1alpha1"] = "vitruvian.dev/v1alpha1"
    """The version of this format."""
    kind: Literal["Classifier"] = "Classifier"
    """Always Classifier."""
    metadata: Metadata
    """Its name."""
    spec: Spec
    """What it is to be."""

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def artifacts(self) -> str:
        """The address of the store that holds everything made."""
        return self.spec.artifacts or f"artifacts/{self.name}"

    def document(self) -> dict[str, Any]:
        """Return what was declared, as plain values under the names of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class _Loader(yaml.SafeLoader):
    """Reads YAML as Kubernetes does: 1e-3 is a number, a key stands once."""


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads as the same value."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float | bool | None):
            mark = key_node.start_mark
            raise yaml.constructor.ConstructorError(None, None, "a key must be a text; is a value left out?", mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return cast(dict[Any, Any], loader.construct_mapping(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load(path: Path) -> Classifier:
    """Read a Classifier from a YAML file; raises `SpecError` with a line for each thing that is wrong."""
    return parse(read(path), str(path))


def read(path: Path, wanted: str = "the file of a Classifier") -> str:
    """Return the text of a declaration's file; raises `SpecError`. What isn't a plain file can be read only once."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise SpecError("there is no such file", where=path, hint=f"give {wanted}") from e
    except IsADirectoryError as e:
        raise SpecError("is a folder", where=path, hint=f"give {wanted}") from e
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"can't be read ({e})", where=path, hint=f"give {wanted}") from e


_MOST_VALUES = 100_000
_LONGEST = 100


def documents(text: str, where: str) -> list[Any]:
    """Return what a YAML text holds, a key standing once in each map; raises `SpecError` where it isn't YAML."""
    try:
        found = [document for document in yaml.load_all(text, _Loader) if document is not None]
        _check_values(found)
        return found
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = getattr(e, "problem", None) or " ".join(str(e).split())
        raise SpecError(f"is not valid YAML: {problem}", where=place, hint="mend this line") from e
    except RecursionError as e:
        raise SpecError("is nested too deeply", where=where, hint="write it with fewer levels") from e
    except MISUNDERSTOOD as e:
        raise SpecError(f"holds a value that can't be read ({e})", where=where, hint="put it in quotes") from e


def _check_values(found: list[Any]) -> None:
    """Raise `ValueError` for what aliases make endless or endlessly large, and for text that can't be written."""
    waiting: list[Any] = [*found]
    count = 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"aliases make more than {_MOST_VALUES:,} values of it")
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def dump(value: Any) -> str:
    """Return YAML that `documents` reads as the same maps, lists, texts, numbers and booleans."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def parse(text: str, where: str = "spec") -> Classifier:
    """Read a Classifier from YAML; raises `SpecError` with a line for each thing that is wrong."""
    found = documents(text, where)
    if len(found) == 1 and not isinstance(found[0], dict):
        raise SpecError("is not a map of apiVersion, kind, metadata and spec", where=where, hint="write a Classifier")
    if len(found) != 1:
        raise SpecError(f"holds {len(found)} documents", where=where, hint="write exactly one Classifier")
    return check(found[0], where)


def check(document: object, where: str = "spec") -> Classifier:
    """Return what a document declares; raises `SpecError` with a line for each thing that is wrong."""
    try:
        classifier = Classifier.model_validate(document)
    except ValidationError as e:
        raise SpecError("\n".join(_lines(e, where))) from e
    refused = list(unimplemented(classifier))
    if refused:
        raise SpecError("\n".join(escaped(f"{where}: {line}") for line in refused))
    return classifier


def values(text: str) -> tuple[Any, ...]:
    """Read values with commas between them, each as it would be written in YAML; raises `ValueError`."""
    try:
        return tuple(yaml.load(f"[{text}]", _Loader))
    except (yaml.YAMLError, *MISUNDERSTOOD) as e:
        problem = getattr(e, "problem", None) or " ".join(str(e).split())
        raise ValueError(f"is not a list of YAML's values ({problem}); put them in quotes") from e


def _lines(error: ValidationError, where: str) -> Iterator[str]:
    lines = set()
    items = [(_path(item["loc"]), item) for item in error.errors()]
    paths = [path for path, _ in items]
    for path, item in items:
        # Where a field takes a value or a map, its errors as the one that wasn't written tell nothing.
        inside = any(other.startswith(f"{path}.") for other in paths)
        if _is_branch(item["loc"][-1]) and (inside or (item["type"] == "model_type" and paths.count(path) > 1)):
            continue
        line = f"{where}: {path}: {_message(item, [part for part in item['loc'] if isinstance(part, str)])}"
        if line not in lines:
            lines.add(line)
            yield escaped(line)


def _path(place: Sequence[int | str]) -> str:
    parts = [part for part in place if not _is_branch(part)]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _is_branch(part: int | str) -> bool:
    # pydantic names the branches of a union in an error's place; people wrote no such key.
    return isinstance(part, str) and (part in ("int", "Workers") or part.startswith(("constrained-", "function-")))


def _message(item: Any, path: list[str]) -> str:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _keys_at(path[:-1]), n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(_keys_at(path[:-1]))}"
        return f"unknown key; {hint}"
    if kind == "missing":
        return "is missing; add it ('vitruvian spec explain' tells what it means)"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        near = difflib.get_close_matches(str(value), allowed, n=1)
        return f"{brief(value)} is not one of {', '.join(allowed)}" + (f"; did you mean '{near[0]}'?" if near else "")
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "string_pattern_mismatch" and item["ctx"]["pattern"] == _NAME:
        return f"{brief(value)} is no name: small letters, digits and '-', the first and the last no '-'"
    text = item["msg"][0].lower() + item["msg"][1:]
    return f"{text}, not {brief(value)}" if isinstance(value, str | int | float | bool) else text


def brief(value: object) -> str:
    """Return a value as people wrote it, or its beginning."""
    try:
        written = repr(value)
    except ValueError:
        # Python writes no number of more than some thousand digits.
        return "a number that long"
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"


def _keys_at(path: list[str]) -> list[str]:
    model: type[BaseModel] = Classifier
    for part in path:
        for field in model.model_fields.values():
            if field.alias == part and (found := _parts_of(field.annotation)):
                model = found[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def field_at(path: str) -> FieldInfo | None:
    """Return the field at a path below spec, such as training.learningRate; None where there is none."""
    model: type[BaseModel] = Spec
    found: FieldInfo | None = None
    for number, name in enumerate(path.split(".")):
        if number:
            inner = _parts_of(found.annotation) if found else []
            if not inner:
                return None
            model = inner[0]
        found = next((field for field in model.model_fields.values() if field.alias == name), None)
    return found


def unknown(path: str) -> str:
    """Say that there is no field at a path below spec, and name the nearest."""
    known = [line.path for line in fields(Spec)]
    parent, _, last = path.rpartition(".")
    elsewhere = [each for each in known if each.rpartition(".")[2] == last]
    beside = [each.rpartition(".")[2] for each in known if parent and each.rpartition(".")[0] == parent]
    much_alike = [each for each in beside if _initials(each) == last]
    much_alike += difflib.get_close_matches(last, beside, n=1, cutoff=0.6)
    near = elsewhere or [f"{parent}.{each}" for each in much_alike]
    if not near and not beside:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean '{near[0]}'?"
    elif beside:
        hint = f"fields of {parent}: {', '.join(beside)}"
    else:
        hint = "'vitruvian spec explain' lists all, here without their 'spec.'"
    return f"there is no field '{path}'; {hint}"


def _initials(name: str) -> str:
    return (name[:1] + "".join(filter(str.isupper, name))).lower()


def misfit(path: str, value: object) -> str | None:
    """Say why a value doesn't fit the field at a path below spec, looked at by itself; None where it does."""
    field = field_at(path)
    assert field is not None
    alone: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(alone).validate_python(value, strict=True)
    except ValidationError as e:
        text = str(e.errors()[0]["msg"])
        return text[0].lower() + text[1:]
    return None


def check_apart(paths: Iterable[str]) -> None:
    """Raise `ValueError` where one path lies within another: which of the two values counts would be chance."""
    for inner in (known := list(paths)):
        outer = next((path for path in known if inner.startswith(f"{path}.")), None)
        if outer:
            raise ValueError(f"{inner} lies within {outer}; remove one of them")


def _parts_of(annotation: Any) -> list[type[Part]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts_of(inner)]


def unimplemented(part: Part, path: str = "") -> Iterator[str]:
    """Yield a line for each field or value that the user set and that isn't carried out yet."""
    for name, field in type(part).model_fields.items():
        here = f"{path}.{field.alias}" if path else str(field.alias)
        value = getattr(part, name)
        mark = next((item for item in field.metadata if isinstance(item, Planned)), None)
        set_by_user = name in part.model_fields_set
        if mark and set_by_user and mark.values is not None and mark.covers(value):
            shown = value if isinstance(value, str) else ", ".join(item for item in value if mark.covers(item))
            yield f"{here}: '{shown}' is not implemented yet; choose another value"
        elif mark and set_by_user and mark.values is None and mark.covers(value):
            yield f"{here}: is not implemented yet; remove it"
        else:
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Part):
                    yield from unimplemented(inner, here)


@dataclass(frozen=True)
class FieldLine:
    """One field of the declaration, as `vitruvian spec explain` and the docs show it."""

    path: str
    kind: str
    default: str
    text: str
    planned: str


def fields(model: type[Part] = Classifier, path: str = "") -> Iterator[FieldLine]:
    """Yield every field below a part of the declaration, depth first."""
    for field in model.model_fields.values():
        here = f"{path}.{field.alias}" if path else str(field.alias)
        inner = _parts_of(field.annotation)
        listed = "tuple" in str(field.annotation) and inner
        mark = next((item for item in field.metadata if isinstance(item, Planned)), None)
        later = "" if mark is None else ", ".join(sorted(mark.values)) if mark.values is not None else "all of it"
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        yield FieldLine(here, _kind(field.annotation), default, field.description or "", later)
        for part in inner:
            below = f"{here}[]" if listed else f"{here}.FIELD" if "dict[" in str(field.annotation) else here
            yield from fields(part, below)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, Part):
        return "{}" if not value.model_fields_set else str(value.model_dump(by_alias=True))
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) if value else "none"
    return str(value).lower() if isinstance(value, bool) else str(value) if value != {} else "none"


def _kind(annotation: Any) -> str:
    if (parts := _parts_of(annotation)) and not any(held in str(annotation) for held in ("tuple", "dict[")):
        simple = [_kind(a) for a in get_args(annotation) if a is not type(None) and not _parts_of(a)]
        return " | ".join([*simple, "object"]) if parts else "object"
    text = str(annotation)
    if "Literal[" in text and "tuple" not in text:
        return " | ".join(re.findall(r"'([^']*)'", text))
    if "tuple" in text:
        return "list"
    for name, shown in (("dict", "map"), ("bool", "true | false"), ("int", "integer"), ("float", "number")):
        if name in text:
            return shown
    return "text"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the declaration."""
    return Classifier.model_json_schema(by_alias=True)
