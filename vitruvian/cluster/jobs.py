"""What a verb of the command line becomes on a cluster: the words that its pods run, and how many pods there are.

Pure. What the verb would refuse there is refused here, and so is what no pod can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vitruvian import variants
from vitruvian.cluster.rayjob import FILE, Job, check, check_reach, stages, workers_of
from vitruvian.cluster.raypods import METRICS_PORT
from vitruvian.errors import SpecError
from vitruvian.inference.stored import within
from vitruvian.spec import Classifier
from vitruvian.store import open_store

Given = Mapping[str, Any]
"""What stands on the command line, by the names of the verb's parameters."""

TRACKED: Final = ("run", "train", "tune", "study")
"""The verbs that tell MLflow and Weights & Biases."""
# What is drawn first says whether a space is one to draw from.
_DRAWN = 100
_OWN_DISK = "a pod's own disk goes with the pod"
_OF_SUBMIT = "is an option of submit itself"
_BEFORE = "write it before the --"
_REFUSED: Final = {
    "metrics_port": ("--metrics-port", f"is {METRICS_PORT} on a cluster", "leave it out"),
    "metrics_host": ("--metrics-host", "is each pod's own on a cluster", "leave it out"),
    "tensorboard": ("--tensorboard", _OWN_DISK, "track with --mlflow or --wandb"),
    "csv": ("--csv", _OWN_DISK, "for parts as CSV: --out s3://BUCKET/PREFIX and --format csv"),
    "mlflow": ("--mlflow", _OF_SUBMIT, _BEFORE),
    "wandb": ("--wandb", _OF_SUBMIT, _BEFORE),
}


def asked(classifier: Classifier, verb: str, words: Sequence[str], given: Given, workers: int | None = None) -> Job:
    """Return the job that a verb with these words is, `given` being what the verb's own parser made of them.

    `workers` is for what says nothing of them by itself. Raises `SpecError` for what can't be done on a cluster.
    """
    check_verb(verb)
    for name, (option, what, hint) in _REFUSED.items():
        if given.get(name) is not None:
            raise SpecError(what, where=option, hint=hint)
    if workers is not None and verb != "predict":
        said = "--concurrent" if verb == "tune" else "spec.training.workers"
        raise SpecError("is for predict", where="--workers", hint=f"leave it out: {said} says how many there are")
    if given.get("file") not in (None, Path(FILE)):
        raise SpecError(_OF_SUBMIT, where="-f", hint=_BEFORE)
    check(classifier, verb)
    return JOBS[verb](classifier, words, given, workers or 0)


def _stages(verb: str) -> Callable[[Classifier, Sequence[str], Given, int], Job]:
    return lambda classifier, words, given, workers: stages(classifier, verb, words)


def _tune(classifier: Classifier, words: Sequence[str], given: Given, workers: int) -> Job:
    """Return a search: each of its trials has a pod while it trains."""
    tuning = variants.tuning_of(classifier)
    trials: int = given.get("trials") or tuning.trials
    for each in variants.draw(classifier, tuning, min(trials, _DRAWN), variants.ONE_PROCESS):
        check(each.classifier)
    if "out" in given:
        check_reach(given["out"], "--out")
        variants.place_of_best(given["out"])
        out: tuple[str, ...] = ()
    else:
        out = ("--out", f"{classifier.artifacts.rstrip('/')}/best.yaml")
    fewest, most = workers_of(classifier.spec.training)
    if "concurrent" in given:
        fewest = most = given["concurrent"]
    # With strategy none, too: the leading pod has no room for a trial.
    most = min(trials, max(1, most))
    gpus = classifier.spec.training.gpus_per_worker
    return Job("tune", ("vitruvian", "tune", "-f", FILE, *words, *out), min(most, max(1, fewest)), most, gpus)


def _study(classifier: Classifier, words: Sequence[str], given: Given, workers: int) -> Job:
    """Return a study: its variants come one after the other, so that the largest one's pods do for all."""
    axes = variants.axes(given.get("vary") or [], given.get("seeds"), given.get("split_seeds"))
    compared, _ = variants.compared(classifier, axes, skip_invalid=bool(given.get("skip_invalid")))
    for each in compared:
        check(each.classifier)
    if "out" in given:
        check_reach(given["out"], "--out")
    trainings = [each.classifier.spec.training for each in compared]
    sizes = [workers_of(training) for training in trainings]
    fewest, most = max(size[0] for size in sizes), max(size[1] for size in sizes)
    gpus = max(training.gpus_per_worker for training in trainings)
    return Job("study", ("vitruvian", "study", "-f", FILE, *words), fewest, most, gpus)


def _predict(classifier: Classifier, words: Sequence[str], given: Given, workers: int) -> Job:
    """Return a prediction of many files with what the classifier publishes: each worker does a part at a time."""
    if len(given["paths"]) != 1:
        what = f"takes one s3:// prefix of files, not {len(given['paths'])}"
        hint = f"the bundle is what the declaration publishes, {classifier.artifacts}"
        raise SpecError(what, where="submit predict", hint=hint)
    if given.get("out") is None:
        raise SpecError(
            "is missing, so that the answers have no place", where="--out", hint="add --out s3://BUCKET/PREFIX"
        )
    check_reach(given["paths"][0], "submit predict")
    check_reach(given["out"], "--out")
    if within(open_store(given["out"]), open_store(given["paths"][0])):
        raise SpecError("the answers can't go to where the files are", where="--out", hint="name a place outside of it")
    count = workers or max(1, workers_of(classifier.spec.training)[1])
    return Job("predict", ("vitruvian", "predict", classifier.artifacts, *words, "--on-ray"), count, count, 0)


JOBS: Final[Mapping[str, Callable[[Classifier, Sequence[str], Given, int], Job]]] = {
    **{verb: _stages(verb) for verb in ("run", "train", "evaluate")},
    "tune": _tune,
    "study": _study,
    "predict": _predict,
}
"""The verbs that a cluster does."""


def check_verb(verb: str) -> None:
    """Raise `SpecError` for what no RayJob is made of."""
    if verb not in JOBS:
        raise SpecError(f"no RayJob is made of '{verb}'", where="submit", hint=f"name one of {', '.join(JOBS)}")


def words_of(classifier: Classifier, verb: str, words: Sequence[str]) -> list[str]:
    """Return what the verb's parser reads: with the bundle for `predict`, with the declaration for any other."""
    return [classifier.artifacts, *words] if verb == "predict" else ["-f", FILE, *words]
