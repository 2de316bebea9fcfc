"""Looking for better values with Ray Tune, and writing the declaration that has them.

What lies below `tuning/ID` of the artifacts: a record of each trial that came to an end, the table and the best
declaration. ID follows from everything that decides a trial but how many there are.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from vitruvian import interrupt, spec
from vitruvian.artifact import cache_folder, digest_of
from vitruvian.console import BETWEEN, Teller, fitting
from vitruvian.errors import NotFound, SpecError, Terminated, TrainingError
from vitruvian.models import layers
from vitruvian.pipeline import Made, Pipeline, declared
from vitruvian.spec import Classifier, Tuning
from vitruvian.store import Store, open_store
from vitruvian.training import sweep as tracking
from vitruvian.training.job import Job, chosen_epoch, ended
from vitruvian.training.sweep import Sweep
from vitruvian.training.trackers import Run, Status, Trackers
from vitruvian.variants import ONE_PROCESS, Variant, draw, names, place_of_best, shown, tuning_of, variant
from vitruvian.words import counted

_RECORDED = (
    "epoch",
    "trainLoss",
    "trainAccuracy",
    "validationLoss",
    "validationAccuracy",
    "seconds",
    "imagesPerSecond",
)
_NUMBERS = ("trial", "val acc", "val loss", "best epoch", "epochs", "seconds")
# In this order a terminal's columns are left out where there is no room for all.
_LEAST_NEEDED = ("seconds", "epochs", "best epoch", "val loss")
_TOGETHER = "values"
"""What is drawn, in one column: for a terminal too narrow for one for each field."""
# What the scheduler stopped, or what broke off, hasn't failed.
_TRACKED: Mapping[str, Status] = {"ended": "finished", "stopped": "killed", "failed": "failed", "open": "killed"}
# Ray sets it for what `ray job submit` runs.
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass
class Trial:
    """One drawn variant, and how far it got."""

    number: int
    variant: Variant
    job: Job
    run: Run
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    """A record for each finished epoch."""
    over: bool = False
    error: str = ""
    trackers: Trackers | None = None
    """Those that it is a run of, once it began."""

    @property
    def title(self) -> str:
        return f"trial {self.number}: {self.variant.title}"

    @property
    def name(self) -> str:
        """The key of the train stage that it is the training of."""
        return self.job.checkpoints.rpartition("/")[2]

    @property
    def history(self) -> list[dict[str, float]]:
        return [self.epochs[number] for number in sorted(self.epochs)]

    @property
    def status(self) -> Literal["ended", "stopped", "failed", "open"]:
        """ended: it had all its epochs, or no patience left; stopped: the scheduler ended it; open: it broke off."""
        if self.error:
            return "failed"
        if not self.over or not self.epochs:
            return "open"
        return "ended" if ended(self.history, self.job.training) else "stopped"

    @property
    def chosen(self) -> dict[str, float]:
        """The record of the epoch whose weights the model has."""
        return self.history[chosen_epoch(self.history, self.job.training.select)]


def run_tuning(
    teller: Teller,
    classifier: Classifier,
    count: int | None,
    concurrent: int | None,
    out: str,
    trackers: tracking.Open | None = None,
) -> int:
    """Train what is drawn from the space, write the best declaration to `out`, and return how many trials failed.

    `out` is a file or s3://BUCKET/KEY. Run again after an interruption, it goes on: finished trials are known, others
    go on from their checkpoints. `trackers` is called for each trial.
    """
    tuning = tuning_of(classifier)
    _check_free(out, classifier)
    id = _id(classifier, tuning)
    group = Run(classifier.name, f"tuning-{id}", {}, declared(classifier), title=f"{classifier.name} tuning {id}")
    with Sweep(trackers, group) as sweep:
        trials, store = _searched(teller, classifier, tuning, count or tuning.trials, concurrent, sweep)
        return _conclude(teller, classifier, tuning, trials, store, out, sweep)


def _searched(
    teller: Teller, classifier: Classifier, tuning: Tuning, count: int, concurrent: int | None, sweep: Sweep
) -> tuple[list[Trial], Store]:
    from vitruvian.training import search

    id = _id(classifier, tuning)
    trials = _drawn(teller, classifier, tuning, count)
    artifacts = open_store(classifier.artifacts)
    store = artifacts.at(f"tuning/{id}")
    for trial in trials:
        _recall(store, trial)
        if trial.over:
            _track_end(sweep, trial)
    todo = [trial for trial in trials if not trial.over]
    log = (artifacts.local() or cache_folder()) / "logs" / f"tune-{id}.log"
    teller.note(f"{len(trials)} trials, {len(trials) - len(todo)} of them known; [dim]Ray's log: {escape(str(log))}[/]")
    if todo:
        by_name = {trial.name: trial for trial in todo}
        jobs = [search.Trial(trial.name, trial.job) for trial in todo]
        known = [trial.history for trial in trials if trial.over]
        with (
            interrupt.termination() as terminated,
            closing(search.search(jobs, tuning, known, concurrent, log)) as events,
        ):
            for event in events:
                interrupt.look()
                if terminated():
                    what = "ended by SIGTERM; what came after each trial's last checkpoint is lost"
                    raise Terminated(what, hint="run the same command again to go on")
                if event is not None:
                    _take(teller, store, by_name[event["trial"]], event, len(trials), sweep)
    return trials, store


def _check_free(out: str, classifier: Classifier) -> None:
    """Raise `SpecError` where `out` holds something else than this classifier's declaration, or can't be written."""
    there = None
    if not out.startswith("s3://"):
        there = spec.load(Path(out)) if Path(out).exists() else None
        _check_folder(out)
    else:
        place, key = place_of_best(out)
        with suppress(NotFound):
            there = spec.parse(open_store(place).get(key).decode(errors="replace"), out)
    if there is not None and there.name != classifier.name:
        raise SpecError("declares another classifier", where=out, hint="give another file with --out")


def _check_folder(out: str) -> None:
    # Folders that aren't there yet are made.
    nearest = next(folder for folder in Path(out).absolute().parents if folder.exists())
    what = "is no folder" if not nearest.is_dir() else "can't be written" if not os.access(nearest, os.W_OK) else None
    if what:
        raise SpecError(f"{nearest} {what}", where=f"--out {out}", hint="give another file with --out")


def _drawn(teller: Teller, classifier: Classifier, tuning: Tuning, count: int) -> list[Trial]:
    shared: dict[str, Made] = {}
    trials = []
    for number, each in enumerate(draw(classifier, tuning, count, ONE_PROCESS, layers.check), 1):
        pipeline = Pipeline(each.classifier, teller, shared=shared)
        trials.append(Trial(number, each, pipeline.job, pipeline.tracked))
    if len(trials) < count:
        teller.note(f"[yellow]the space has no more than {len(trials)} valid combinations[/]")
    return trials


def _id(classifier: Classifier, tuning: Tuning) -> str:
    decides = classifier.spec.model_dump(include={"data", "model", "training"})
    return digest_of([decides, tuning.model_dump(exclude={"trials"})])[:12]


def _recall(store: Store, trial: Trial) -> None:
    try:
        saved = json.loads(store.get(f"{trial.name}.json"))
        trial.epochs = {int(record["epoch"]): record for record in saved["history"]}
        trial.over = True
    except NotFound:
        return
    except (ValueError, KeyError, TypeError) as e:
        where = store.address(f"{trial.name}.json")
        raise TrainingError("is damaged", where=where, hint="delete it and run the same command again") from e


def _tracked(sweep: Sweep, trial: Trial) -> Trackers:
    """Return what tracks a trial; its run begins with the first call."""
    if trial.trackers is None:
        trial.trackers = sweep.one(trial.title)
        trial.trackers.begin(trial.run, begun=True)
    return trial.trackers


def _track_end(sweep: Sweep, trial: Trial) -> None:
    trackers = _tracked(sweep, trial)
    trackers.trained(trial.history)
    trackers.end(_TRACKED[trial.status])


def _take(teller: Teller, store: Store, trial: Trial, event: Mapping[str, Any], of: int, sweep: Sweep) -> None:
    if event["kind"] == "began":
        _tracked(sweep, trial)
        return
    if event["kind"] == "epoch":
        trial.epochs[int(event["epoch"])] = {name: event[name] for name in _RECORDED}
        if event["past"]:
            _tracked(sweep, trial).replay([event])
        else:
            _tracked(sweep, trial).take(dict(event))
        accuracy = f"{event['validationAccuracy']:.1%}"
        teller.note(f"[dim]trial {trial.number}, epoch {event['epoch']} of {trial.job.training.epochs}: {accuracy}[/]")
        return
    if event["kind"] == "failed":
        trial.error = event["error"]
    elif not trial.error:
        trial.over = True
        saved = {"values": dict(trial.variant.values), "status": trial.status, "history": trial.history}
        store.put(f"{trial.name}.json", json.dumps(saved, indent=1).encode())
    else:
        return
    _track_end(sweep, trial)
    reached = (
        f"{trial.chosen['validationAccuracy']:.1%} after {counted(len(trial.epochs), 'epoch')}" if trial.epochs else ""
    )
    told = {
        "ended": "[green]✓ ended[/]",
        "stopped": "[yellow]stopped[/]",
        "failed": f"[red]✗ failed: {escape(trial.error)}[/]",
        "open": "open",
    }
    teller.note(f"[bold]trial {trial.number}/{of}[/]  {escape(trial.variant.words)}  {reached}  {told[trial.status]}")


def ranked(trials: Sequence[Trial], tuning: Tuning, select: str) -> list[Trial]:
    """Return the trials that got somewhere, the best first; with `select` last only those that came to their end."""

    def rank(trial: Trial) -> tuple[float, float, bool]:
        accuracy, loss = trial.chosen["validationAccuracy"], trial.chosen["validationLoss"]
        # The loss of a training that diverged is no number.
        loss = math.inf if math.isnan(loss) else loss
        first, second = (-accuracy, loss) if tuning.metric == "validationAccuracy" else (loss, -accuracy)
        return (first, second, trial.status != "ended")

    fit = [trial for trial in trials if trial.over and trial.epochs and (select == "best" or trial.status == "ended")]
    return sorted(fit, key=rank)


def _conclude(
    teller: Teller,
    classifier: Classifier,
    tuning: Tuning,
    trials: Sequence[Trial],
    store: Store,
    out: str,
    sweep: Sweep,
) -> int:
    best_first = ranked(trials, tuning, classifier.spec.training.select)
    failed = [trial for trial in trials if trial.error]
    if not best_first:
        error = failed[0].error if failed else "no trial came to its end"
        raise TrainingError(f"no trial can be chosen: {error}", where="tune", hint="mend this, and run it again")
    rest = [trial for trial in trials if trial not in best_first]
    _show(teller, tuning, [*best_first, *rest])
    store.put("trials.csv", _csv(tuning, [*best_first, *rest]).encode())
    sweep.chosen(best_first[0].title, best_first[0].chosen["validationAccuracy"])
    content = declared(variant(classifier, best_first[0].variant.values).classifier).encode()
    store.put("best.yaml", content)
    place, key = place_of_best(out)
    open_store(place).put(key, content)
    teller.note(f"all trials: {escape(store.address('trials.csv'))}")
    best = _lasting(out, store)
    how = "" if best.startswith("s3://") else "vitruvian run -f "
    teller.note(f"the best by {tuning.metric}: {how}{escape(best)}")
    return len(failed)


def _lasting(out: str, store: Store) -> str:
    """Return where the best declaration is to be looked for: the copy, where `out` goes with the folder of a job."""
    if _IN_A_JOB not in os.environ or out.startswith("s3://") or Path(out).is_absolute():
        return out
    return str(store.local("best.yaml") or store.address("best.yaml"))


def _show(teller: Teller, tuning: Tuning, trials: Sequence[Trial]) -> None:
    measured, drawn = _measured(trials), _values(tuning, trials)
    room = teller.console.width - _wide(drawn)
    heads = fitting(measured, _LEAST_NEEDED, room)
    if _wide([(head, measured[head]) for head in heads]) > room:
        words = [[f"{name}={value}" for value in column] for name, column in drawn]
        drawn = [(_TOGETHER, [", ".join(of_one) for of_one in zip(*words, strict=True)])]
    trial, *others = [(head, measured[head]) for head in heads]
    columns = [trial, *drawn, *others]
    table = Table(box=None, padding=(0, BETWEEN, 0, 0), pad_edge=False, header_style="dim")
    for head, _ in columns:
        justify: JustifyMethod = "right" if head in _NUMBERS else "left"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=head != _TOGETHER)
    for place, row in enumerate(zip(*(cells for _, cells in columns), strict=True)):
        table.add_row(*map(escape, row), style="bold" if place == 0 else None)
    teller.console.print(table)


def _values(tuning: Tuning, trials: Sequence[Trial]) -> list[tuple[str, list[str]]]:
    """Return a column for each field that the trials differ in."""
    short = names(list(tuning.space))
    return [(name, [shown(trial.variant.values[path]) for trial in trials]) for path, name in short.items()]


def _measured(trials: Sequence[Trial]) -> dict[str, list[str]]:
    """Return a column for each thing that is known of a trial."""
    rows = []
    for trial in trials:
        row = dict.fromkeys(_NUMBERS, "") | {"trial": str(trial.number), "status": trial.status}
        if trial.epochs:
            row |= {
                "val acc": f"{trial.chosen['validationAccuracy']:.1%}",
                "val loss": f"{trial.chosen['validationLoss']:.4f}",
                "best epoch": f"{trial.chosen['epoch']:.0f}",
                "epochs": str(len(trial.epochs)),
                "seconds": f"{sum(record['seconds'] for record in trial.history):,.1f}",
            }
        rows.append(row)
    return {head: [row[head] for row in rows] for head in rows[0]}


def _wide(columns: Sequence[tuple[str, Sequence[str]]]) -> int:
    return sum(max(map(len, (head, *cells))) + BETWEEN for head, cells in columns)


def _csv(tuning: Tuning, trials: Sequence[Trial]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    short = names(list(tuning.space))
    measured = ("validationAccuracy", "validationLoss", "epoch")
    writer.writerow(["trial", *short.values(), "validationAccuracy", "validationLoss", "bestEpoch", "epochs", "status"])
    for trial in trials:
        cells = [trial.chosen[name] for name in measured] if trial.epochs else ["", "", ""]
        values = [shown(trial.variant.values[path]) for path in short]
        writer.writerow([trial.number, *values, *cells, len(trial.epochs), trial.status])
    return out.getvalue()
