"""Finding out what a plan rests on: the examples, the model's counts, how fast this machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.data.sources import open_source
from vitruvian.data.split import split
from vitruvian.errors import DataError, SpecError, StoreError
from vitruvian.machine import usable_memory
from vitruvian.models.inputs import preprocess_for
from vitruvian.planning import devices
from vitruvian.planning.duration import Work
from vitruvian.planning.memory import Setting
from vitruvian.planning.plan import Examples, Plan, make
from vitruvian.spec import Classifier, Spec, Training
from vitruvian.store import Store, open_store

_CLASSES = 10


def examine(
    classifier: Classifier,
    gpus: str | None,
    *,
    measuring: bool,
    examples: int | None = None,
    prices: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Return the plan of a classifier on a device (none: what the file says, on this machine's CPU or any GPU).

    Raises `SpecError` for a device or file that isn't known, `DataError` or `StoreError` where the source can't be
    read.
    """
    spec = classifier.spec
    known = devices.priced(prices)
    setting, name, remarks = _setting(spec.training, gpus)
    tell("counting examples")
    found = _examples(classifier, examples)
    from vitruvian.training.measure import count, measure

    tell("counting bytes and operations")
    counts = count(spec.model, found.classes)
    measured = measure(spec, found.classes, counts, setting.examples, tell) if measuring else None
    memory = usable_memory()
    if measured:
        here = devices.cpu(memory, measured.flops, setting.workers, measured.reached)
    else:
        here = devices.cpu(memory, None, setting.workers)
    device = here if name == devices.CPU else known[name]
    if spec.training.batch_size > found.training:
        more = f"batchSize {spec.training.batch_size} is more than the {found.training:,} examples to train on"
        remarks.append(f"{more}: an epoch is one step of them all, counted as {spec.training.batch_size}")
    work = Work(
        counts=counts,
        training=found.training,
        validation=found.validation,
        epochs=spec.training.epochs,
        every_steps=spec.training.checkpoints.every_steps,
        keep=spec.training.checkpoints.keep,
        precision=spec.training.precision,
        input_seconds=measured.input_seconds if measured else None,
    )
    return make(classifier.name, spec.model.architecture, found, work, setting, device, known, measured, tuple(remarks))


def _setting(training: Training, gpus: str | None) -> tuple[Setting, str, list[str]]:
    """Return how many workers there are with which strategy, and on what."""
    declared = training.world_size
    # A pod with a GPU for each worker: the smallest that clouds have, where nobody says which.
    name, workers = devices.asked(gpus or ("a10g" if training.gpus_per_worker else devices.CPU), declared)
    remarks = []
    if training.strategy == "none" and workers > 1:
        what = f"strategy none trains with one worker, not with {workers}"
        raise SpecError(what, where="--gpus", hint=f"write {name}:1, or set strategy: ddp")
    if workers > training.batch_size:
        what = f"batchSize {training.batch_size} is less than one example for each of {workers} workers"
        raise SpecError(what, where="--gpus", hint=f"write {name}:{training.batch_size}, or raise batchSize")
    if gpus is None and training.gpus_per_worker:
        remarks.append("gpusPerWorker doesn't say which GPU; --gpus t4 (or another of the table) does")
    if workers != declared:
        remarks.append(f"the file says workers: {declared}; for {workers} set workers: {workers}")
    if name != devices.CPU and not training.gpus_per_worker:
        remarks.append("the file trains on CPUs; for GPUs set gpusPerWorker: 1")
    if name == devices.CPU and training.gpus_per_worker:
        remarks.append("the file trains on GPUs; for CPUs set gpusPerWorker: 0")
    if training.cpu_offload:
        remarks.append("cpuOffload: a step also waits for weights and gradients between GPU and main memory, uncounted")
    setting = Setting(
        training.strategy,
        workers,
        training.batch_size,
        training.accumulate,
        recomputes=training.activation_checkpointing,
        offloads=training.cpu_offload,
        precision=training.precision,
    )
    return setting, name, remarks


def _examples(classifier: Classifier, given: int | None) -> Examples:
    """Count what is there: the source's examples, split as the prepare stage would, or what it prepared before."""
    spec = classifier.spec
    preprocess = preprocess_for(spec.model)
    try:
        return _of_source(spec, preprocess)
    except (DataError, StoreError) as e:
        before = _prepared(open_store(classifier.artifacts), preprocess)
        if before is not None and given is None:
            return before
        if given is None:
            told = "say how many examples there are to train on: --examples 10000"
            raise type(e)(e.what, where=e.where, hint=f"{e.hint}; or {told}" if e.hint else told) from e
    validation = round(given * spec.data.validation_size / (1 - spec.data.validation_size))
    classes = tuple(f"class {number}" for number in range(1, _CLASSES + 1))
    return Examples(given, validation, classes, f"as --examples says; {_CLASSES} classes assumed")


def _of_source(spec: Spec, preprocess: ImagePreprocess | HeatmapPreprocess) -> Examples:
    source = open_source(spec.data, preprocess)
    labels = [example.label for example in source.examples]
    groups = [example.group or "" for example in source.examples] if spec.data.group_by else None
    parts = split(labels, groups, spec.data.test_size, spec.data.validation_size, spec.data.seed)
    classes = tuple(sorted(set(labels)))
    return Examples(len(parts["train"]), len(parts["validation"]), classes, f"counted in {spec.data.source}")


def _prepared(store: Store, preprocess: ImagePreprocess | HeatmapPreprocess) -> Examples | None:
    """Return what was prepared for such a model before, if it is one set of data."""
    try:
        keys = [entry.key for entry in store.list("stages/prepare/") if entry.key.endswith("/index.json")]
        fitting = [key for key in keys if json.loads(store.get(key))["preprocess"] == _plain(preprocess)]
        if len(fitting) != 1:
            return None
        index = json.loads(store.get(fitting[0]))
        counts = json.loads(store.get(fitting[0].replace("/index.json", "/statistics.json")))
    except (StoreError, ValueError, KeyError):
        return None
    training, validation = (sum(counts[part].values()) for part in ("train", "validation"))
    return Examples(training, validation, tuple(index["classes"]), "as prepared before; the source can't be read")


def _plain(preprocess: ImagePreprocess | HeatmapPreprocess) -> object:
    return json.loads(preprocess.model_dump_json())
