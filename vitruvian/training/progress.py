"""What people watch while a model trains: a bar for the epoch, a row for each finished one.

Where the output is no terminal, lines stand in for the bar; `bar_of` reads them back, so that whoever follows a log
sees a bar again.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vitruvian.console import whole
from vitruvian.training.job import Job, best_epoch, ended, waited
from vitruvian.words import counted

_HEAD = ("Epoch", "Train loss", "Train acc", "Val loss", "Val acc", "Images/s", "Time", "Left", "Status")
_WIDTH = (6, 10, 9, 8, 7, 8, 6, 5, 0)
# A row with all of it takes so many characters; a narrower terminal does without what is left out.
_ALL = 88
_LEFT_OUT = ("Images/s",)

_SECONDS_BETWEEN_LINES = 5.0
_FEW_STEPS = 200
_LINE = re.compile(r"  epoch (\d+)/(\d+)  (step|valid) (\d+)/(\d+)  loss ([\d.]+|nan)  accuracy ([\d.]+)%")

Phase = Literal["Train", "Valid"]
_WORDS: dict[Phase, str] = {"Train": "step", "Valid": "valid"}


class Bar(NamedTuple):
    """How far an epoch's training, or its validation, is."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    phase: Phase = "Train"

    def line(self) -> str:
        """Return this as a line of a log."""
        return (
            f"  epoch {self.epoch}/{self.epochs}  {_WORDS[self.phase]} {self.step}/{self.steps}  "
            f"loss {self.loss:.4f}  accuracy {100 * self.accuracy:.1f}%"
        )


def bar_of(line: str) -> Bar | None:
    """Return what a log's line says of an epoch; None for any other line."""
    found = _LINE.fullmatch(line.rstrip())
    if found is None:
        return None
    epoch, epochs, word, step, steps, loss, accuracy = found.groups()
    phase = next(phase for phase, said in _WORDS.items() if said == word)
    return Bar(int(epoch), int(epochs), int(step), int(steps), float(loss), float(accuracy) / 100, phase)


def span(seconds: float) -> str:
    """Return a time as people write it: 0:45, 12:05, 3:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def unused(gpus: int) -> str | None:
    """Return what to say where training leaves so many GPUs of its machine alone; None where there are none."""
    if not gpus:
        return None
    what = "a GPU that isn't used" if gpus == 1 else f"{gpus} GPUs that aren't used"
    return f"this machine has {what}: set training.gpusPerWorker: 1"


class _Learnt(ProgressColumn):
    """Loss and accuracy so far; nothing before the first step."""

    def render(self, task: Task) -> Text:
        loss, accuracy = task.fields["loss"], task.fields["accuracy"]
        return Text("" if loss is None else f"loss {loss:.4f}  accuracy {accuracy:.1%}")


class _Speed(ProgressColumn):
    """Steps a second, as of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} steps/s", style="progress.data.speed")


class _EpochBar(Progress):
    """A bar on one line, with the columns that its terminal has room for."""

    def __init__(self, console: Console) -> None:
        self._terminal = console
        # Each with the width of a terminal below which it's left out.
        self._every: tuple[tuple[ProgressColumn, int], ...] = (
            (TextColumn("{task.description}", table_column=whole()), 0),
            (BarColumn(), 75),
            (MofNCompleteColumn(table_column=whole()), 0),
            (_Learnt(table_column=whole()), 70),
            (_Speed(table_column=whole()), 110),
            (TimeElapsedColumn(table_column=whole()), 90),
            (TimeRemainingColumn(table_column=whole()), 0),
        )
        super().__init__(console=console, transient=True, disable=not console.is_terminal)

    def get_renderables(self) -> Iterable[RenderableType]:
        # Each time anew: a terminal's width may change while an epoch runs.
        self.columns = tuple(column for column, least in self._every if self._terminal.width >= least)
        yield from super().get_renderables()


def progress_bar(console: Console) -> Progress:
    """Return the bar of an epoch; its tasks have the fields loss and accuracy, both None before the first step."""
    return _EpochBar(console)


def show_bar(bar: Progress, task: TaskID, now: Bar) -> None:
    """Set a bar to where an epoch's training or validation is; with each of them its clock begins anew."""
    description = f"Epoch {now.epoch}/{now.epochs} \\[{now.phase}]"
    if any(shown.id == task and shown.description != description for shown in bar.tasks):
        # What the phase before came to isn't where this one begins.
        bar.reset(task, total=now.steps, description=description, loss=None, accuracy=None)
    bar.update(task, total=now.steps, completed=now.step, loss=now.loss, accuracy=now.accuracy, visible=True)


def each_takes(batch: int, world: int, accumulate: int) -> str:
    """Return in words what of a step's examples each worker takes, and at once; empty where one takes all."""
    if world * accumulate == 1:
        return ""
    here = f"{_most(batch, world)} on each of {world} workers" if world > 1 else ""
    parts = f"in {accumulate} parts of {_most(batch, world * accumulate)}" if accumulate > 1 else ""
    return ", ".join(filter(None, (here, parts)))


def _most(examples: int, among: int) -> str:
    return f"{'up to ' if examples % among else ''}{math.ceil(examples / among)}"


class EpochTable:
    """Shows the loop's events on a console."""

    def __init__(self, console: Console, job: Job) -> None:
        self.console = console
        self.job = job
        self.fixed = False
        """Nothing learns before the model's head."""
        self.history: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.epochs = 0
        self.steps = 0
        self.told = time.monotonic()
        self.bar = progress_bar(console)
        self.task = self.bar.add_task("starting workers", total=None, loss=None, accuracy=None, visible=False)

    def __enter__(self) -> EpochTable:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if event["kind"] == "start":
            self._start(event)
        elif event["kind"] == "features":
            self._features(event)
        elif event["kind"] == "passed over":
            error = event["error"]
            self.console.print(
                f"  [yellow]a checkpoint is passed over: {escape(f'{error.where}: {error.what}')}[/]", soft_wrap=True
            )
        elif event["kind"] == "lost":
            self.console.print(
                f"  [yellow]workers were lost: {escape(event['why'])}; they begin again[/]", soft_wrap=True
            )
        elif event["kind"] == "step":
            self._step(
                Bar(event["epoch"] + 1, self.epochs, event["step"], self.steps, event["loss"], event["accuracy"])
            )
        elif event["kind"] == "validation":
            epoch, step, steps = event["epoch"] + 1, event["step"], event["steps"]
            self._step(Bar(epoch, self.epochs, step, steps, event["loss"], event["accuracy"], "Valid"))
        elif event["kind"] == "epoch":
            self.history.append(event)
            self.seconds.append(event["seconds"])
            self.console.print(self._row(event), soft_wrap=True)

    def _features(self, event: dict[str, Any]) -> None:
        self.fixed = True
        if "why" in event:
            said = f"what is frozen is computed in every epoch anew: {event['why']}"
        elif event["found"]:
            said = f"features of {event['count']} examples: kept from before, the same weights, data and transforms"
        else:
            said = f"features of {event['count']} examples: computed once, in {event['seconds']:.1f} s, for all epochs"
        self.console.print(f"  {said}", highlight=False, soft_wrap=True)

    def _start(self, event: dict[str, Any]) -> None:
        self.epochs, self.steps = event["epochs"], event["steps"]
        self.history = list(event["history"])
        some = f", {event['learning']:,} of them learn" if event["learning"] < event["parameters"] else ""
        each = each_takes(event["batch"], event["world"], self.job.training.accumulate)
        self.console.print(
            f"  {event['parameters']:,} parameters{some}, {counted(event['world'], 'worker')}, "
            f"{counted(event['steps'], 'step')} an epoch, {counted(event['batch'], 'example')} a step"
            f"{f': {each}' if each else ''}",
            soft_wrap=True,
        )
        self.console.print(f"  {self._how(event)}", highlight=False, soft_wrap=True)
        if ended(event["history"], self.job.training):
            self.console.print(f"  trained already: {counted(len(event['history']), 'epoch')}", highlight=False)
            return
        for line in self._doubts(event):
            self.console.print(f"  [yellow]{line}[/]", soft_wrap=True)
        if event["epoch"] or event["step"]:
            best = self._best_so_far()
            self.console.print(
                f"  going on from epoch {event['epoch'] + 1}, step {event['step']}{best}", soft_wrap=True
            )
        self.console.print(f"  {self._aligned(_HEAD)}", soft_wrap=True)
        self.bar.reset(self.task, total=event["steps"], loss=None, accuracy=None, visible=False)

    def _best_so_far(self) -> str:
        if not self.history:
            return ""
        best = self.history[best_epoch(self.history)]
        return f"; best so far: epoch {best['epoch']}, validation accuracy {best['validationAccuracy']:.1%}"

    def _how(self, event: dict[str, Any]) -> str:
        """Return what was left to defaults as it is, and what else tells trainings apart where it is set."""
        settings = self.job.training
        said = [f"learning rate {event['learningRate']:g}", event["precision"]]
        said += [f"accumulate {settings.accumulate}"] if settings.accumulate > 1 else []
        said += [f"loaders {settings.loaders}"] if settings.loaders is not None else []
        return ", ".join(said)

    def _doubts(self, event: dict[str, Any]) -> list[str]:
        """Return why this training may come to little, and what helps."""
        model, steps = self.job.model, event["epochs"] * event["steps"]
        found = [idle] if (idle := unused(event.get("idleGpus", 0))) else []
        if self.fixed and not model.pretrained:
            less = "raise model.clip.unfreezeVisual" if model.architecture == "clip" else "lower model.freezeLayers"
            found.append(f"nothing before the head has ever learnt: set model.pretrained, or {less}")
        if steps < _FEW_STEPS:
            # A heatmap-cnn has no pretrained weights.
            scratch = not model.pretrained and model.architecture != "heatmap-cnn"
            ways = ["lower training.batchSize", "raise training.epochs"]
            ways += ["begin with model.pretrained"] if scratch else []
            found.append(f"only {steps} steps in all: {', '.join(ways[:-1])}, or {ways[-1]}")
        return found

    def _step(self, now: Bar) -> None:
        if self.console.is_terminal:
            show_bar(self.bar, self.task, now)
        elif time.monotonic() - self.told >= _SECONDS_BETWEEN_LINES:
            self.told = time.monotonic()
            self.console.print(now.line(), highlight=False, soft_wrap=True)

    def _row(self, event: dict[str, Any]) -> str:
        since = waited(self.history)
        diverged = not math.isfinite(event["trainLoss"] + event["validationLoss"])
        best = since == 0 and not diverged
        stopping = self.job.training.early_stopping
        if diverged:
            status = "[red]✗ diverged: lower training.learningRate[/]"
        elif best:
            status = "[green]✓ best[/]"
        else:
            status = f"[dim]wait {since}" + (f"/{stopping.patience}[/]" if stopping else "[/]")
        cells = (
            f"{event['epoch']}/{self.epochs}",
            f"{event['trainLoss']:.4f}",
            f"{event['trainAccuracy']:.1%}",
            f"{event['validationLoss']:.4f}",
            f"{event['validationAccuracy']:.1%}",
            f"{event['imagesPerSecond']:.0f}",
            f"{event['seconds']:.1f} s",
            # With patience it may be over earlier.
            span((self.epochs - event["epoch"]) * sum(self.seconds) / len(self.seconds)),
        )
        row = self._aligned(cells)
        return f"  [bold]{row}[/]  {status}" if best else f"  {row}  {status}"

    def _aligned(self, cells: Sequence[str]) -> str:
        narrow = self.console.is_terminal and self.console.width < _ALL
        columns = zip(_HEAD, cells, _WIDTH, strict=False)
        return "  ".join(cell.rjust(size) for head, cell, size in columns if not (narrow and head in _LEFT_OUT))
