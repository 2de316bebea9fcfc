"""Runs on a cluster as people see them in their terminal."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vitruvian.cluster.api import Cluster
from vitruvian.cluster.runs import Run
from vitruvian.cluster.runs import follow as lines_of
from vitruvian.cluster.runs import runs as list_runs
from vitruvian.errors import Unwatched
from vitruvian.training.progress import bar_of, progress_bar, show_bar

_COLOURS = {"Succeeded": "green", "Failed": "red", "Running": "cyan"}


def follow(console: Console, cluster: Cluster, name: str) -> None:
    """Print what a run writes until it is over, with a bar for the epoch; raises `VitruvianError` where it failed.

    Ctrl-C ends the watching only, and that is what the error says.
    """
    try:
        with progress_bar(console) as bar:
            task = bar.add_task("", total=None, loss=None, accuracy=None, visible=False)
            for line in lines_of(cluster, name):
                now = bar_of(line)
                if now is not None and console.is_terminal:
                    show_bar(bar, task, now)
                else:
                    bar.update(task, visible=False)
                    console.print(Text.from_ansi(line), soft_wrap=True)
    except KeyboardInterrupt as e:
        hint = f"'vitruvian logs {name}' follows it, 'vitruvian cancel {name}' ends it"
        raise Unwatched("is no longer watched, and goes on", where=f"run {name}", hint=hint) from e


def status(console: Console, cluster: Cluster, classifier: str | None) -> None:
    """Print a row for each run, the oldest first."""
    found = list_runs(cluster, classifier)
    if not found:
        of = f" of classifier {escape(classifier)}" if classifier else ""
        console.print(f"no runs{of} in namespace {escape(cluster.namespace)}", highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("run", "classifier", "job", "state", "attempt", "took"):
        table.add_column(head, overflow="fold")
    # Of a long one the beginning; all of it is at the end of its log.
    table.add_column("message", overflow="ellipsis", no_wrap=True)
    for run in found:
        colour = _COLOURS.get(run.state, "yellow")
        table.add_row(
            run.name,
            run.classifier,
            escape(run.job),
            f"[{colour}]{run.state}[/]",
            str(run.attempt),
            _took(run),
            escape(run.message),
        )
    console.print(table)


def _took(run: Run) -> str:
    end = datetime.fromisoformat(run.ended) if run.ended else datetime.now(UTC)
    seconds = int((end - datetime.fromisoformat(run.created)).total_seconds())
    hours, rest = divmod(max(0, seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
