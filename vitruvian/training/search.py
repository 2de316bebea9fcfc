"""Ray Tune over trainings: each trial is the loop in one process, and a scheduler ends the bad ones early.

What Ray Tune keeps by itself isn't enough to go on after a driver was killed: `Tuner.restore` begins with an empty ASHA
and with trial states that are up to ten seconds old. But a trial's checkpoints say all that it did, so whoever calls
this keeps what trials came to an end, hands it in again, and the rest is Tune from the start: a trial that broke off
tells its finished epochs anew and goes on from its checkpoint.
"""

from __future__ import annotations

import os
import queue
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from vitruvian.artifact import cache_folder
from vitruvian.spec import Tuning
from vitruvian.training.job import Event, Job, ended
from vitruvian.training.launch import QUIET, follow
from vitruvian.training.ray_cluster import logged_to, start_ray

_REDUCTION = 3
_RESTARTS = 3
_TUNE_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Addresses may be meant from where the command was run, such as a folder of pretrained weights.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

History = list[dict[str, float]]


@dataclass(frozen=True)
class Trial:
    """One training of a search."""

    name: str
    job: Job


def search(
    trials: Sequence[Trial], tuning: Tuning, known: Sequence[History], concurrent: int | None, log: Path
) -> Generator[Event | None]:
    """Train, as many at a time as there is room for, and yield what comes: {kind, trial, …}.

    Kinds: began, again where its process died; epoch, with the epoch's record and whether it is past, done before the
    trial went on; ended, when a trial came to its end or to that of the scheduler; failed, with the error. Between
    events None is yielded now and then. `known` are the histories of trials that ended in an earlier search: the
    scheduler compares with them. Raises `TrainingError` where Ray Tune itself failed.
    """
    for name, value in {**QUIET, **_TUNE_QUIET}.items():
        os.environ.setdefault(name, value)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ours = not ray.is_initialized()
    with logged_to(log):
        local = ours and start_ray(concurrent or 1, log)
        try:
            cpus = (
                max(1, (os.cpu_count() or 1) // min(concurrent or (os.cpu_count() or 1), len(trials))) if local else 1
            )
            yield from follow(
                lambda: _fit(trials, tuning, known, concurrent, cpus, events),
                lambda: [events.get() for _ in range(events.qsize())],
            )
        finally:
            if ours:
                ray.shutdown()


def _fit(
    trials: Sequence[Trial],
    tuning: Tuning,
    known: Sequence[History],
    concurrent: int | None,
    cpus: int,
    events: queue.SimpleQueue[Event],
) -> None:
    jobs = {trial.name: trial.job for trial in trials}
    gpus = max(job.training.gpus_per_worker for job in jobs.values())
    learn = tune.with_parameters(_learn, jobs=jobs, metric=tuning.metric)
    storage, name = cache_folder() / "ray", f"tune-{time.time_ns()}"
    mode = "max" if tuning.metric == "validationAccuracy" else "min"
    tuner = tune.Tuner(
        tune.with_resources(learn, {"cpu": cpus, "gpu": gpus}),
        param_space={"trial": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(scheduler=scheduler(tuning, jobs, known, mode), max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Teller(events)],
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def scheduler(tuning: Tuning, jobs: Mapping[str, Job], known: Sequence[History], mode: str) -> TrialScheduler:
    """Return what ends trials early, knowing how earlier ones went."""
    if tuning.scheduler == "none":
        return FIFOScheduler()
    asha = ASHAScheduler(
        time_attr="epoch",
        metric=tuning.metric,
        mode=mode,
        max_t=max(tuning.grace_period, *(job.training.epochs for job in jobs.values())),
        grace_period=tuning.grace_period,
        reduction_factor=_REDUCTION,
    )
    for number, history in enumerate(known):
        # Of a trial it looks at the id only.
        past = SimpleNamespace(trial_id=f"known-{number}")
        asha.on_trial_add(None, past)
        for record in history:
            asha.on_trial_result(None, past, record)
        asha.on_trial_remove(None, past)
    return asha


def _learn(config: dict[str, Any], jobs: Mapping[str, Job], metric: str) -> None:
    """What Ray runs for each trial."""
    import torch

    from vitruvian.training.loop import train

    job = jobs[config["trial"]]
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))

    history: History = []

    def tell(record: dict[str, Any]) -> None:
        history.append(record)
        if not ended(history, job.training):
            tune.report(record)

    def emit(event: Event) -> None:
        if event["kind"] == "start":
            for record in event["history"]:
                tell({**record, "past": True})
        elif event["kind"] == "epoch":
            tell({**{name: value for name, value in event.items() if name != "kind"}, "past": False})

    try:
        train(job, 0, 1, emit, torch.device("cuda" if job.training.gpus_per_worker else "cpu"))
        # Told that a trial has its last epoch, the scheduler kills it: by now its last checkpoint is written.
        if history:
            tune.report(history[-1])
    except Exception as e:
        # Ray begins again what died; it would do so here, too, though it ended the same way.
        error = " ".join(str(e).split()) or type(e).__name__
        tune.report({"error": error, "epoch": 0, metric: float("nan")})


class _Teller(tune.Callback):  # type: ignore[misc]
    """Passes on what Ray Tune's controller learns."""

    def __init__(self, events: queue.SimpleQueue[Event]) -> None:
        self.events = events

    def __getstate__(self) -> dict[str, Any]:
        # Tune keeps its callbacks beside its state; nothing is restored from it.
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.events.put({"kind": "began", "trial": trial.config["trial"]})

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        kind = "failed" if "error" in result else "epoch"
        self.events.put({**result, "kind": kind, "trial": trial.config["trial"]})

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.events.put({"kind": "ended", "trial": trial.config["trial"]})

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        what = f"its process died {_RESTARTS + 1} times"
        self.events.put({"kind": "failed", "trial": trial.config["trial"], "error": what})
