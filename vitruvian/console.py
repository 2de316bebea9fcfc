"""How stages talk to people in the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.progress import TimeRemainingColumn as TimeRemaining
from rich.table import Column, Table

BETWEEN = 2
"""Blanks between the columns of a table."""


def fitting(cells: Mapping[str, Sequence[str]], least_needed: Sequence[str], room: int) -> list[str]:
    """Return the heads of the columns that fit into `room` characters; those that are least needed go first."""
    kept = list(cells)
    for head in least_needed:
        if sum(max(map(len, (name, *cells[name]))) + BETWEEN for name in kept) <= room:
            break
        kept = [name for name in kept if name != head]
    return kept


def whole() -> Column:
    """Return a bar's column that stays in one piece: where room is scarce, the bar itself is shorter."""
    return Column(no_wrap=True)


class Teller:
    """Prints headings, bars, notes and tables on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def stage(self, number: int, of: int, name: str, about: str) -> Iterator[None]:
        """Head a stage, and tell how long it took."""
        self.console.print(f"[bold cyan]{number}/{of} {name:<9}[/] {escape(about)}", highlight=False, soft_wrap=True)
        began = time.monotonic()
        yield
        self.console.print(f"  [dim]{time.monotonic() - began:.1f} s[/]", highlight=False)

    def fresh(self, number: int, of: int, name: str, about: str) -> None:
        """Tell that a stage has nothing to do."""
        heading = f"[bold cyan]{number}/{of} {name:<9}[/] {escape(about)}  [green]✓ fresh[/]"
        self.console.print(heading, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line below a heading; it may hold rich's markup, so names in it are to be escaped."""
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, what: str, total: int, *, size: bool = False) -> Iterator[Callable[[int], None]]:
        """Show a bar that goes away when it is full; yields what advances it, by items or by bytes."""
        with self._progress(size) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.advance(task, count)

    @contextlib.contextmanager
    def counter(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar for work whose size shows only later; yields what is told how much of how much is done."""
        with self._progress(False) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def _progress(self, size: bool) -> Progress:
        name = TextColumn("  {task.description}", table_column=whole())
        kind = DownloadColumn if size else MofNCompleteColumn
        counts: ProgressColumn = kind(table_column=whole())
        columns = (name, BarColumn(), counts, TimeRemaining(table_column=whole()))
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    def statistics(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Print the number of examples of each class in each part."""
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("class")
        for part in counts:
            table.add_column(part, justify="right")
        for name in next(iter(counts.values())):
            table.add_row(escape(name), *(f"{of_part[name]:,}" for of_part in counts.values()))
        table.add_row("[bold]all[/]", *(f"[bold]{sum(of_part.values()):,}[/]" for of_part in counts.values()))
        self.console.print(table)
