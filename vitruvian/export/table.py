"""What exports cost and how they compare, as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vitruvian.bundle import ExportRecord, TrainedRecord
from vitruvian.export.make import Told


def exports_table(
    records: Sequence[ExportRecord],
    served: str | None,
    told: Told | None = None,
    trained: TrainedRecord | None = None,
) -> Table:
    """Return a row for each export, after that of PyTorch itself.

    `told` is what they were measured in, where there was but one set of examples.
    """
    # As narrow as it can be: what tells which is served comes last, and has to fit into 80 columns.
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("format", no_wrap=True)
    for name in ("ms", "MB", "agrees", "cosine", *(("validation", "test") if told is None else (told,))):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    if trained is not None:
        table.add_row(
            "torch",
            f"{1000 * trained.seconds_per_image:.2f}",
            f"{trained.size / 1e6:.1f}",
            f"{1:.1%}",
            f"{1:.4f}",
            *([_shown(trained.validation_accuracy, ".3f")] if told is None else []),
            f"{trained.accuracy:.3f}",
            "",
        )
    for record in records:
        what = "[green]served[/]" if record.format == served else "" if record.kept else "[red]loses too much[/]"
        table.add_row(
            record.format,
            f"{1000 * record.seconds_per_image:.2f}",
            _shown(record.size and record.size / 1e6, ".1f"),
            f"{record.top1_agreement:.1%}",
            _shown(record.cosine, ".4f"),
            *([_shown(record.validation_accuracy, ".3f")] if told is None else []),
            f"{record.accuracy:.3f}",
            what,
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
