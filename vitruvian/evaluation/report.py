"""What people read about a run: one HTML page, pictures, JSON and Excel."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter

from vitruvian.evaluation import plots
from vitruvian.evaluation.gates import Decision
from vitruvian.evaluation.metrics import Metrics
from vitruvian.spec import Select
from vitruvian.store import explained
from vitruvian.training.job import chosen_epoch

Cell = str | int | float


@dataclass(frozen=True)
class Report:
    """What a report tells of one run."""

    name: str
    """The classifier's name."""
    version: str
    created: datetime
    architecture: str
    metrics: Metrics
    """Measured on the test part."""
    decision: Decision
    statistics: Mapping[str, Mapping[str, int]]
    """The number of examples: part, then class."""
    epochs: Sequence[Mapping[str, float]] = ()
    """One record for each epoch: epoch, trainLoss, trainAccuracy, validationLoss, validationAccuracy."""
    select: Select = "best"
    """Which epoch's weights were taken."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """Digests and versions, nested at will."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The declaration, as it is written in YAML."""


def write_report(folder: Path, report: Report) -> None:
    """Write `report.html`, `curves.html`, `metrics.json`, `metrics.xlsx` and three pictures into a folder.

    The pages need no other file and no other host. Raises `StoreError` where the folder can't be written.
    """
    metrics = report.metrics
    labels = [each.label for each in metrics.classes]
    figures = {
        "confusion-matrix": plots.confusion(metrics.confusion, labels),
        "per-class": plots.per_class(
            labels, [each.accuracy for each in metrics.classes], [each.support for each in metrics.classes]
        ),
    }
    if report.epochs:
        figures["curves"] = plots.curves(report.epochs, report.select)
    files = {f"{name}.png": plots.png(figure) for name, figure in figures.items()}
    files["metrics.json"] = metrics.model_dump_json(by_alias=True, indent=1).encode()
    files["metrics.xlsx"] = workbook(report)
    drawn = {name: plots.svg(figure) for name, figure in figures.items()}
    files["report.html"] = page(report, drawn).encode()
    if "curves" in drawn:
        files["curves.html"] = _curves_page(
            report.name, f"version {report.version}", report.epochs, report.select, drawn["curves"]
        ).encode()
    _write(folder, files)


def write_curves(folder: Path, name: str, about: str, epochs: Sequence[Mapping[str, float]], select: Select) -> None:
    """Write `curves.html` and `curves.png` of a training into a folder; raises `StoreError` where that can't be.

    `name` is the classifier's, `about` what tells this training from others.
    """
    figure = plots.curves(epochs, select)
    content = _curves_page(name, about, epochs, select, plots.svg(figure)).encode()
    _write(folder, {"curves.html": content, "curves.png": plots.png(figure)})


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as e:
        raise explained(e, folder) from e


def page(report: Report, figures: Mapping[str, str]) -> str:
    """Return the HTML page; `figures` are `<svg>` elements by name."""
    parts = report.statistics
    counts = [(each.label, [part.get(each.label, 0) for part in parts.values()]) for each in report.metrics.classes]
    return _template("report.html").render(
        report=report,
        metrics=report.metrics,
        figures={name: Markup(figure) for name, figure in figures.items()},
        parts=list(parts),
        rows=counts,
        totals=[sum(part.values()) for part in parts.values()],
        lineage=list(flat(report.lineage)),
        spec=yaml.safe_dump(dict(report.spec), sort_keys=False, allow_unicode=True).strip() if report.spec else "",
    )


def _curves_page(name: str, about: str, epochs: Sequence[Mapping[str, float]], select: Select, figure: str) -> str:
    """Return the HTML page of the curves, `figure` as an `<svg>` element, and of the numbers behind them."""
    chosen = epochs[chosen_epoch(epochs, select)]["epoch"]
    return _template("curves.html").render(name=name, about=about, epochs=epochs, figure=Markup(figure), chosen=chosen)


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("vitruvian", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    return environment.get_template(name)


def workbook(report: Report) -> bytes:
    """Return an Excel file with the sheets summary, per class and confusion matrix."""
    metrics = report.metrics
    labels = [each.label for each in metrics.classes]
    book = Workbook()
    book.remove(book.worksheets[0])
    summary: list[Sequence[Cell]] = [
        ("classifier", report.name),
        ("version", report.version),
        ("created", report.created.isoformat(timespec="seconds")),
        ("architecture", report.architecture),
        ("examples", metrics.examples),
        *metrics.headline().items(),
        ("accuracyLow95", metrics.accuracy_interval.low),
        ("accuracyHigh95", metrics.accuracy_interval.high),
        ("worstClass", metrics.worst_class),
        ("logLoss", metrics.log_loss),
        ("calibrationError", metrics.calibration_error),
        *((gate.gate, f"{'passed' if gate.passed else 'failed'}: {gate.text}") for gate in report.decision.gates),
    ]
    _sheet(book, "summary", ("metric", "value"), summary)
    per_class: list[Sequence[Cell]] = [
        (each.label, each.precision, each.recall, each.f1, each.support) for each in metrics.classes
    ]
    _sheet(book, "per class", ("class", "precision", "recall (accuracy)", "f1", "support"), per_class)
    counts: list[Sequence[Cell]] = [(label, *row) for label, row in zip(labels, metrics.confusion, strict=True)]
    _sheet(book, "confusion matrix", ("true \\ predicted", *labels), counts)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with dotted names."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _sheet(book: Workbook, title: str, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    sheet = book.create_sheet(title)
    widths = [0] * len(header)
    for y, row in enumerate((header, *rows), 1):
        for x, value in enumerate(row, 1):
            cell = sheet.cell(y, x)
            if isinstance(value, str):
                cell.value = ILLEGAL_CHARACTERS_RE.sub("", value)
                # A class whose name begins with '=' is no formula.
                cell.data_type = "s"
            else:
                cell.value = value
                cell.number_format = "0.0000" if isinstance(value, float) else "0"
            if y == 1 or x == 1:
                cell.font = Font(bold=True)
            widths[x - 1] = max(widths[x - 1], len(str(value)) if isinstance(value, str) else 8)
    for x, width in enumerate(widths, 1):
        sheet.column_dimensions[get_column_letter(x)].width = min(width, 60) + 2
    sheet.freeze_panes = "B2"
