"""What people watch while a model trains: a bar for the epoch, a row for each finished one."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitruvian.training.job import waited

_HEAD = ("Epoch", "Train loss", "Train acc", "Val loss", "Val acc", "Images/s", "Time", "Status")
_WIDTH = (6, 10, 9, 8, 7, 8, 6, 0)


class EpochTable:
    """Shows the loop's events on a console."""

    def __init__(self, console: Console, patience: int | None) -> None:
        self.console = console
        self.patience = patience
        self.history: list[dict[str, Any]] = []
        self.epochs = 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.1%}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("starting workers", total=None, loss=float("nan"), accuracy=0.0, visible=False)

    def __enter__(self) -> EpochTable:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if event["kind"] == "start":
            self._start(event)
        elif event["kind"] == "step":
            self.bar.update(
                self.task,
                description=f"Epoch {event['epoch'] + 1}/{self.epochs}",
                completed=event["step"],
                loss=event["loss"],
                accuracy=event["accuracy"],
                visible=True,
            )
        elif event["kind"] == "epoch":
            self.history.append(event)
            self.console.print(self._row(event))

    def _start(self, event: dict[str, Any]) -> None:
        self.epochs = event["epochs"]
        self.history = list(event["history"])
        workers = f"{event['world']} workers" if event["world"] > 1 else "1 worker"
        self.console.print(
            f"  {event['parameters']:,} parameters, {workers}, {event['steps']} steps an epoch, "
            f"{event['batch']} examples a step"
        )
        if event["epoch"] or event["step"]:
            self.console.print(f"  going on from epoch {event['epoch'] + 1}, step {event['step']}")
        self.console.print("  " + "  ".join(name.rjust(size) for name, size in zip(_HEAD, _WIDTH, strict=True)))
        self.bar.reset(self.task, total=event["steps"], loss=float("nan"), accuracy=0.0, visible=False)

    def _row(self, event: dict[str, Any]) -> str:
        since = waited(self.history)
        best = since == 0
        status = (
            "[green]✓ best[/]" if best else f"[dim]wait {since}" + (f"/{self.patience}[/]" if self.patience else "[/]")
        )
        cells = (
            f"{event['epoch']}/{self.epochs}",
            f"{event['trainLoss']:.4f}",
            f"{event['trainAccuracy']:.1%}",
            f"{event['validationLoss']:.4f}",
            f"{event['validationAccuracy']:.1%}",
            f"{event['imagesPerSecond']:.0f}",
            f"{event['seconds']:.1f} s",
        )
        row = "  ".join(cell.rjust(size) for cell, size in zip(cells, _WIDTH, strict=False))
        return f"  [bold]{row}[/]  {status}" if best else f"  {row}  {status}"
