"""Where people watch trainings beside the terminal: MLflow, Weights & Biases, TensorBoard.

Trackers hang on the driver's events, so one process tracks whatever the number of workers. Each works in a thread of
its own: one that is slow or away holds up neither the training nor the other ones.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from vitruvian.errors import GateFailed, Terminated, VitruvianError
from vitruvian.store import explained
from vitruvian.training import wandb_log
from vitruvian.training.job import Event, best_epoch

Status = Literal["finished", "failed", "killed"]

_EPOCH: Final = {
    "train/loss": "trainLoss",
    "train/accuracy": "trainAccuracy",
    "train/images_per_second": "imagesPerSecond",
    "train/epoch_seconds": "seconds",
    "validation/loss": "validationLoss",
    "validation/accuracy": "validationAccuracy",
}
_STEP: Final = {"step/loss": "loss", "step/accuracy": "accuracy"}
# An outage of hours stays below it.
_MOST_WAITING: Final = 100_000
_ROWS_AT_ONCE: Final = 200
# MLflow's own limits of a request.
_PARAMETERS_AT_ONCE: Final = 100
_METRICS_AT_ONCE: Final = 1000
# W&B's own limit of a run's name is 128.
_LONGEST_TITLE: Final = 120
# What TensorBoard writes before its first values, and more.
_ROOM: Final = 64 * 1024
# A file's name may have 255 bytes; TensorBoard's list shows fewer.
_LONGEST_IN_A_PATH: Final = 80
_DATABASES: Final = (".db", ".sqlite", ".sqlite3")
_SECONDS_TO_BEGIN: Final = 20.0
_SECONDS_BETWEEN_TRIES: Final = 5.0
_SECONDS_TO_END: Final = 60.0
# Of the time that a pod has left after training has saved.
_SECONDS_TO_BREAK_OFF: Final = 5.0

_QUIET: Final = {
    # MLflow's own would have a dead server tell so after minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Run:
    """What trackers know a training by."""

    name: str
    """The classifier's name."""
    key: str
    """The train stage's key: a training that goes on goes on in the same run."""
    parameters: Mapping[str, Any]
    """What decides the training, flat: `training.batchSize` and the like."""
    declaration: str
    """The whole Classifier as YAML; what isn't trained, such as gates, may change under one key."""
    title: str = ""
    """What it is shown as in a group, where all have the same name."""
    group: Run | None = None
    """What it is compared in: a run that holds its own in MLflow, a group in W&B."""

    @property
    def id(self) -> str:
        return f"{self.name[:40]}-{self.key}"

    @property
    def shown(self) -> str:
        title = self.title or self.name
        return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"


@dataclass(frozen=True)
class Row:
    """Values that belong together."""

    axis: Literal["epoch", "step", "end"]
    at: int
    """The epoch's number, or that of the optimizer step, from 1; 0 for what is known at the end."""
    values: Mapping[str, float]
    time: float = field(default_factory=time.time)


class Tracker(Protocol):
    """One place that runs are shown in; all but `check` is called in one thread, `begin` first."""

    name: str
    place: str
    """Where to look, once `begin` has been called."""
    nests: bool
    """Whether a run can hold others."""

    def check(self) -> None:
        """Raise an error that says why nothing can be tracked here."""

    def begin(self, run: Run) -> Mapping[str, float]:
        """Begin the run, or go on with it; return the latest values that it holds by name."""

    def declare(self, declaration: str) -> None:
        """Keep the Classifier's YAML."""

    def log(self, rows: Sequence[Row]) -> None:
        """Add values."""

    def note(self, facts: Mapping[str, str]) -> None:
        """Set what is known of the run in words."""

    def files(self, folder: Path) -> None:
        """Keep a report's files."""

    def end(self, status: Status) -> None:
        """End the run."""


Job = Row | Callable[[Tracker], None]


class Trackers:
    """All trackers of one command; a context whose end ends the run."""

    def __init__(self, trackers: Sequence[Tracker], tell: Callable[[str], None]) -> None:
        self._trackers = trackers
        self._tell = tell
        self._watchers: list[_Watcher] = []
        self._steps = 0
        self._title = ""
        self._group: Run | None = None

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(status_after(error))
        # Those of a group are waited for together, when all of them are over.
        if self._group is None:
            self.wait(deadline_after(error))

    def join(self, group: Run, title: str) -> None:
        """Make the run that begins one of a group whose trackers have been checked: from now on nothing is refused."""
        self._group, self._title = group, title

    def nesting(self) -> Trackers:
        """Return those whose runs can hold others."""
        return Trackers([tracker for tracker in self._trackers if tracker.nests], self._tell)

    def end(self, status: Status) -> None:
        """End the run, unless it has been ended."""
        for watcher in self._watchers:
            watcher.end(status)

    def wait(self, deadline: float) -> None:
        """Wait until all has been sent, or the monotonic clock shows the deadline: then it is told of."""
        for watcher in self._watchers:
            watcher.wait(deadline)

    def check(self) -> None:
        """Raise `VitruvianError` where a tracker can't be used: before any work, while somebody looks."""
        if self._group is not None:
            return
        for tracker in self._trackers:
            try:
                tracker.check()
            except Exception as e:
                raise _refused(tracker, e) from e

    def begin(self, run: Run, *, begun: bool) -> None:
        """Begin the run in every tracker.

        Raises as `check` does; where the training or its group has begun before, a tracker that fails doesn't stop it.
        """
        if self._group is not None:
            run, begun = replace(run, group=self._group, title=self._title), True
        if not begun:
            self.check()
        for tracker in self._trackers:
            watcher = _Watcher(tracker, run, self._tell)
            failure = watcher.start()
            if failure is not None and not begun:
                raise _refused(tracker, failure) from failure
            self._watchers.append(watcher)
            if failure is not None:
                watcher.failed(failure)
        self._do(lambda tracker: tracker.declare(run.declaration))

    def take(self, event: Event) -> None:
        """Track one event of the loop."""
        if event["kind"] == "start":
            self._steps = event["steps"]
            self.note({"precision": event["precision"]})
            self.replay(event["history"])
        elif event["kind"] == "step":
            at = event["epoch"] * self._steps + event["step"]
            self._do(Row("step", at, {"step": at, **{name: event[key] for name, key in _STEP.items()}}))
        elif event["kind"] == "epoch":
            self._do(_of_epoch(event))

    def replay(self, history: Iterable[Mapping[str, float]]) -> None:
        """Track finished epochs; those that a tracker has are left out."""
        for record in history:
            self._do(_of_epoch(record))

    def trained(self, history: Sequence[Mapping[str, float]]) -> None:
        """Track all epochs of a training that is over, and which of them was best."""
        self.replay(history)
        if history:
            best = history[best_epoch(history)]
            values = {"best/epoch": best["epoch"], "best/validation_accuracy": best["validationAccuracy"]}
            self._do(Row("end", 0, values))

    def tested(self, values: Mapping[str, float]) -> None:
        """Track what was measured on the test part."""
        self._do(Row("end", 0, {f"test/{name}": value for name, value in values.items()}))

    def chosen(self, title: str, accuracy: float) -> None:
        """Track which of a group is the best, and its validation accuracy."""
        self.note({"best": title})
        self._do(Row("end", 0, {"best/validation_accuracy": accuracy}))

    def note(self, facts: Mapping[str, str]) -> None:
        """Track facts in words: the gates' decision, the bundle's version."""
        self._do(lambda tracker: tracker.note(facts))

    def files(self, folder: Path) -> None:
        """Track the report's files."""
        self._do(lambda tracker: tracker.files(folder))

    def _do(self, job: Job) -> None:
        for watcher in self._watchers:
            watcher.put(job)


def status_after(error: BaseException | None) -> Status:
    """Return what a run is that ended with this error, or without one."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "killed"
    return "finished" if error is None or isinstance(error, GateFailed) else "failed"


def deadline_after(error: BaseException | None) -> float:
    """Return until when trackers are waited for."""
    return time.monotonic() + (_SECONDS_TO_BREAK_OFF if status_after(error) == "killed" else _SECONDS_TO_END)


def _of_epoch(record: Mapping[str, Any]) -> Row:
    # What a tuning kept of its trials once had fewer values.
    values = {name: float(record[key]) for name, key in _EPOCH.items() if key in record}
    return Row("epoch", int(record["epoch"]), {"epoch": record["epoch"], **values})


def _refused(tracker: Tracker, error: Exception) -> VitruvianError:
    if isinstance(error, VitruvianError):
        return error
    hint = "mend the address or the credentials, or leave this tracker out"
    return VitruvianError(f"can't be used: {reason_of(error)}", where=f"{tracker.name} at {tracker.place}", hint=hint)


def reason_of(error: BaseException) -> str:
    """Return in one line why a library failed: what the operating system said, where it said something."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for each in reversed(chain):
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.split(r"(?<=\w)\. ", lines[0])[0] if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


class _Watcher:
    """One tracker at work: what it is given waits until it could be delivered."""

    def __init__(self, tracker: Tracker, run: Run, tell: Callable[[str], None]) -> None:
        self.tracker = tracker
        self._run = run
        self._tell = tell
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque(maxlen=_MOST_WAITING)
        self._known: dict[str, float] | None = None
        self._told = False
        self._ending = threading.Event()
        self._begun: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker-{tracker.name}")

    def start(self) -> Exception | None:
        """Begin the run; return why that failed, if it did: it is tried again later."""
        self._thread.start()
        return self._begun.get()

    def put(self, job: Job) -> None:
        self._queue.put(job)

    def end(self, status: Status) -> None:
        if self._ending.is_set():
            return
        self.put(lambda tracker: tracker.end(status))
        self._ending.set()
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        missing = sum(isinstance(job, Row) for job in self._waiting)
        if self._thread.is_alive() or missing:
            self._tell(
                f"{self.tracker.name} at {self.tracker.place} has not got everything; the same command, run again, "
                "sends what is missing of epochs and results"
            )

    def failed(self, error: Exception) -> None:
        """Tell of the first failure."""
        if not self._told:
            self._told = True
            self._tell(
                f"{self.tracker.name} at {self.tracker.place} fails: {reason_of(error)}; training goes on, and what "
                "waits is sent when it works again"
            )

    def _work(self) -> None:
        try:
            self._begin()
        except Exception as e:
            self._begun.put(e)
        else:
            self._begun.put(None)
        ended = False
        while not ended:
            taken = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(self._queue.get_nowait())
            ended = None in taken
            self._waiting.extend(job for job in taken if job is not None)
            try:
                self._deliver()
            except Exception as e:
                self.failed(e)
                self._ending.wait(_SECONDS_BETWEEN_TRIES)

    def _begin(self) -> dict[str, float]:
        if self._known is None:
            self._known = dict(self.tracker.begin(self._run))
            self._tell(f"{self.tracker.name}: {self.tracker.place}")
        return self._known

    def _deliver(self) -> None:
        known = self._begin()
        while self._waiting:
            job = self._waiting[0]
            if isinstance(job, Row):
                rows = list(itertools.islice(_leading_rows(self._waiting), _ROWS_AT_ONCE))
                if new := _new(rows, known):
                    self.tracker.log(new)
                for row in new:
                    known.update(row.values)
                for _ in rows:
                    self._waiting.popleft()
                continue
            self._waiting.popleft()
            try:
                job(self.tracker)
            except Exception as e:
                self.failed(e)


def _leading_rows(jobs: Iterable[Job]) -> Iterator[Row]:
    for job in jobs:
        if not isinstance(job, Row):
            return
        yield job


def _new(rows: Iterable[Row], known: Mapping[str, float]) -> list[Row]:
    """Return the rows that a run doesn't hold yet: an epoch or a step that is done again gives the same values."""
    reached = dict(known)
    found = []
    for row in rows:
        held = (math.isclose(reached.get(name, math.nan), value, rel_tol=1e-6) for name, value in row.values.items())
        if row.at > reached.get(row.axis, 0) or (row.axis == "end" and not all(held)):
            reached.update(row.values)
            found.append(row)
    return found


class MLflow:
    """Tracks with an MLflow server, or in a database that one will show."""

    name = "MLflow"
    nests = True
    # Threads that find no group's run would each make one.
    _finding = threading.Lock()

    def __init__(self, uri: str) -> None:
        _be_quiet()
        import mlflow

        # They would tell of every table that is made.
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._mlflow: Any = mlflow
        self._client: Any = None
        self._uri = uri
        self._run_id = ""
        self.place = _without_password(uri)

    def check(self) -> None:
        _check_database(self._uri)
        try:
            self._mlflow.MlflowClient(self._uri).search_experiments(max_results=1)
        except self._mlflow.MlflowException as e:
            if (hint := _instead_of_path(self._uri)) is None:
                raise
            raise VitruvianError(
                "is taken for a folder, and MLflow keeps no runs in those", where=f"--mlflow {self._uri}", hint=hint
            ) from e

    def begin(self, run: Run) -> Mapping[str, float]:
        from mlflow.entities import Param, RunTag

        self._client = client = self._mlflow.MlflowClient(self._uri)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.name)
        with self._finding:
            held = self._found(experiment, run)
            group = self._found(experiment, run.group) if run.group else None
        self._run_id = held.info.run_id
        client.update_run(self._run_id, status="RUNNING")
        if run.group and group:
            # The latest group that a training is compared in shows it.
            within = {"mlflow.parentRunId": group.info.run_id, "vitruvian.group": run.group.id}
            client.log_batch(self._run_id, tags=[RunTag(name, text) for name, text in within.items()])
        self.place = f"{_without_password(self._uri)}, run {self._run_id}"
        # A parameter can't be changed: the same data may lie elsewhere now.
        params = [Param(name, str(value)) for name, value in run.parameters.items() if name not in held.data.params]
        for start in range(0, len(params), _PARAMETERS_AT_ONCE):
            client.log_batch(self._run_id, params=params[start : start + _PARAMETERS_AT_ONCE])
        return dict(held.data.metrics)

    def _found(self, experiment: str, run: Run) -> Any:
        """Return the run, which is made where there is none."""
        from mlflow.tracking.context.registry import resolve_tags

        tags = {"vitruvian.training": run.key, "vitruvian.classifier": run.name}
        same = f"tags.`vitruvian.training` = '{run.key}'"
        for held in self._client.search_runs([experiment], same, order_by=["attributes.start_time ASC"]):
            # Once the name was all that told whose a run was.
            if held.data.tags.get("vitruvian.classifier", held.info.run_name) == run.name:
                return held
        return self._client.create_run(experiment, tags={**resolve_tags(), **tags}, run_name=run.shown)

    def _experiment(self, name: str) -> str:
        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except self._mlflow.MlflowException:
                # Another training of this classifier was faster.
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def declare(self, declaration: str) -> None:
        self._client.log_text(self._run_id, declaration, "classifier.yaml")

    def log(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(1000 * row.time), row.at) for row in rows for name, value in row.values.items()
        ]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])

    def note(self, facts: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._run_id, tags=[RunTag(name, text) for name, text in facts.items()])

    def files(self, folder: Path) -> None:
        self._client.log_artifacts(self._run_id, str(folder), "report")

    def end(self, status: Status) -> None:
        self._client.set_terminated(self._run_id, status.upper())


class WeightsAndBiases:
    """Tracks with Weights & Biases; with WANDB_MODE=offline in a folder that `wandb sync` sends later."""

    name = "W&B"
    nests = False

    def __init__(self, project: str) -> None:
        _be_quiet()
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None
        self._project = project
        self.place = f"project {project}"

    def check(self) -> None:
        from wandb.sdk.lib.wbauth import authenticate_session

        settings = self._wandb.setup().settings
        if settings.mode in ("offline", "dryrun", "disabled"):
            return
        # wandb.init would ask for a key, in a thread that nobody can answer.
        if authenticate_session(host=settings.base_url, source="--wandb", prompt=False) is None:
            hint = "run wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline"
            raise VitruvianError("there is no API key", where=f"{self.name} at {settings.base_url}", hint=hint)

    def begin(self, run: Run) -> Mapping[str, float]:
        self.check()
        # Its copy of standard output would hold the bars.
        settings = self._wandb.Settings(
            console="off",
            silent=True,
            init_timeout=_SECONDS_TO_BEGIN,
            finish_timeout=_SECONDS_TO_END / 2,
            finish_timeout_raises=True,
        )
        self._run = held = self._run or self._wandb.init(
            project=self._project,
            name=run.shown,
            id=run.id,
            group=os.environ.get("WANDB_RUN_GROUP") or (run.group.id if run.group else None),
            resume="allow",
            # Trials run side by side.
            reinit="create_new",
            config=dict(run.parameters),
            settings=settings,
        )
        for axis, names in (("epoch", _EPOCH), ("step", _STEP)):
            held.define_metric(axis, hidden=True)
            for name in names:
                held.define_metric(name, step_metric=axis)
        if held.disabled:
            self.place = "disabled"
        elif held.offline:
            folder = Path(held.dir).parent
            self.place = f"offline; send it with: wandb sync {folder}"
            return wandb_log.reached(folder.parent, run.id, ("epoch", "step"))
        else:
            self.place = held.url
        return {name: value for name, value in dict(held.summary).items() if isinstance(value, int | float)}

    def declare(self, declaration: str) -> None:
        folder = Path(self._run.dir)
        (folder / "classifier.yaml").write_text(declaration)
        self._run.save(str(folder / "classifier.yaml"), base_path=str(folder), policy="now")

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.axis == "end":
                self._run.summary.update(dict(row.values))
            else:
                self._run.log(dict(row.values))

    def note(self, facts: Mapping[str, str]) -> None:
        self._run.summary.update(dict(facts))

    def files(self, folder: Path) -> None:
        shown = {path.stem: self._wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
        self._run.log({f"report/{name}": picture for name, picture in shown.items()})
        for path in sorted(folder.glob("*.html")):
            self._run.log({f"report/{path.stem}-page": self._wandb.Html(path.read_text(), inject=False)})
        kept = self._wandb.Artifact(f"{self._run.id}-report", type="report")
        for path in sorted(folder.iterdir()):
            kept.add_file(str(path), name=path.name)
        self._run.log_artifact(kept)

    def end(self, status: Status) -> None:
        # W&B calls 255 killed.
        self._run.finish(exit_code={"finished": 0, "failed": 1, "killed": 255}[status])


class TensorBoard:
    """Tracks in event files: a folder for each run, called by its title in a group, too."""

    name = "TensorBoard"
    nests = False

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing import event_accumulator

        self._accumulator: Any = event_accumulator
        self._writer: Any = None
        self._folder = folder
        self.place = str(folder)

    def check(self) -> None:
        where = f"--tensorboard {self._folder}"
        if self._folder.parts[:1] == ("s3:",):
            raise VitruvianError("is no folder of this machine", where=where, hint="write one, and copy it to S3 later")
        if self._folder.is_file():
            raise VitruvianError("is a file", where=where, hint="it wants a folder")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Its own writer ends in a thread that tells nobody.
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(bytes(_ROOM))
        except OSError as e:
            raise explained(e, self._folder) from e

    def begin(self, run: Run) -> Mapping[str, float]:
        from torch.utils.tensorboard import SummaryWriter

        self.check()
        folder = self._place(run)
        held = self._accumulator.EventAccumulator(str(folder), {self._accumulator.SCALARS: 1})
        if folder.exists():
            held.Reload()
        latest = {name: held.Scalars(name)[-1].value for name in held.Tags()[self._accumulator.SCALARS]}
        self._writer = SummaryWriter(str(folder))
        rows = "\n".join(f"| {name} | {value} |" for name, value in run.parameters.items())
        self._writer.add_text("parameters", f"| name | value |\n|---|---|\n{rows}")
        self.place = f"tensorboard --logdir {self._folder}"
        return latest

    def _place(self, run: Run) -> Path:
        """Return the run's folder: the one that it has, whatever its title was when it began."""
        # No classifier's name has a low line, so that this finds no other one's.
        for held in (self._folder / run.id, *sorted(self._folder.glob(f"*_{run.id}"))):
            if held.is_dir():
                return held
        title = re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", run.title)[:_LONGEST_IN_A_PATH].strip("-.")
        return self._folder / (f"{title}_{run.id}" if title else run.id)

    def declare(self, declaration: str) -> None:
        self._writer.add_text("classifier", f"```yaml\n{declaration}```")

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for name, value in row.values.items():
                self._writer.add_scalar(name, value, row.at, walltime=row.time)
        self._writer.flush()

    def note(self, facts: Mapping[str, str]) -> None:
        for name, text in facts.items():
            self._writer.add_text(name, text)

    def files(self, folder: Path) -> None:
        import numpy as np
        from PIL import Image

        for path in sorted(folder.glob("*.png")):
            with Image.open(path) as picture:
                self._writer.add_image(f"report/{path.stem}", np.asarray(picture.convert("RGB")), dataformats="HWC")

    def end(self, status: Status) -> None:
        self._writer.close()


def open_trackers(
    mlflow: str | None, wandb: str | None, tensorboard: Path | None, tell: Callable[[str], None]
) -> Trackers | None:
    """Return the trackers that were asked for, None for none.

    Raises `ModuleNotFoundError` without their library, `VitruvianError` where an option says nothing.
    """
    for option, value in (("--mlflow", mlflow), ("--wandb", wandb), ("--tensorboard", tensorboard)):
        # An empty text is the folder one is in as a path.
        if value is not None and str(value).strip() in ("", "."):
            raise VitruvianError("is empty", where=option, hint="say where to track, or leave it out")
    asked: list[Tracker] = []
    if mlflow is not None:
        asked.append(MLflow(mlflow))
    if wandb is not None:
        asked.append(WeightsAndBiases(wandb))
    if tensorboard is not None:
        asked.append(TensorBoard(tensorboard))
    return Trackers(asked, tell) if asked else None


def _be_quiet() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def _check_database(uri: str) -> None:
    """Raise `VitruvianError` where there can be no database file: MLflow itself tries again for minutes."""
    scheme, _, path = uri.partition("://")
    if scheme != "sqlite":
        return
    name, where = path.removeprefix("/").partition("?")[0], f"--mlflow {uri}"
    if name in ("", ":memory:"):
        raise VitruvianError("names no file", where=where, hint="write sqlite:///mlflow.db")
    file = Path(name)
    if file.is_dir():
        raise VitruvianError("is a folder", where=where, hint=f"write {uri.rstrip('/')}/mlflow.db")
    if file.parent.is_dir() and not os.access(file if file.exists() else file.parent, os.W_OK):
        raise VitruvianError("can't be written", where=where, hint="name another file, or mend its permissions")


def _instead_of_path(uri: str) -> str | None:
    """Return what to write instead of a path, which MLflow takes for a folder of files; None for other addresses."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or uri == "databricks":
        return None
    path = Path(parts.path)
    if path.suffix in _DATABASES or path.is_file():
        return f"write sqlite:///{path}"
    return f"write sqlite:///{path / 'mlflow.db'}, or set MLFLOW_ALLOW_FILE_STORE=true"


def _without_password(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        password = parts.password
    except ValueError:
        return uri
    return uri.replace(f":{password}@", ":…@") if password else uri
