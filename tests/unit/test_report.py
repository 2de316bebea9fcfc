from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from openpyxl import load_workbook
from PIL import Image

from vitruvian.errors import StoreError
from vitruvian.evaluation import plots
from vitruvian.evaluation.gates import decide
from vitruvian.evaluation.metrics import Metrics, measure
from vitruvian.evaluation.report import Report, workbook, write_report

LABELS = ["kneeling", "sitting", "tree"]
EPOCHS = [
    {
        "epoch": i + 1,
        "trainLoss": 1 / (i + 1),
        "trainAccuracy": i / 5,
        "validationLoss": 1.1 / (i + 1),
        "validationAccuracy": i / 6,
    }
    for i in range(5)
]


@dataclass(frozen=True)
class Gate:
    metric: str
    at_least: float
    versus: str | None = None


def report(labels: Sequence[str] = LABELS) -> Report:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(labels), 90)
    probabilities = rng.dirichlet(np.ones(len(labels)), 90)
    probabilities[np.arange(90), truth] += 0.5
    metrics = measure(truth, probabilities / 1.5, labels)
    return Report(
        name="yoga",
        version="20260801-1f9c",
        created=datetime(2026, 8, 1, 12, 30, tzinfo=UTC),
        architecture="vit",
        metrics=metrics,
        decision=decide([Gate("accuracy", 0.1), Gate("worstClassRecall", 0.999)], metrics.headline(), None),
        statistics={"train": dict.fromkeys(labels, 64), "test": {labels[0]: 20}},
        epochs=EPOCHS,
        lineage={"data": "sha256:1234", "versions": {"numpy": "2"}},
        spec={"kind": "Classifier", "metadata": {"name": "yoga"}},
    )


class Page(HTMLParser):
    """Collects what a page links to and runs, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    write_report(tmp_path / "report", report())
    files = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert sorted(files) == [
        "confusion-matrix.png",
        "curves.html",
        "curves.png",
        "metrics.json",
        "metrics.xlsx",
        "per-class.png",
        "report.html",
    ]
    for name in ("confusion-matrix.png", "curves.png", "per-class.png"):
        with Image.open(io.BytesIO(files[name])) as image:
            assert image.width > 300
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert Metrics.model_validate_json(files["metrics.json"]) == report().metrics
    assert json.loads(files["metrics.json"])["accuracyInterval"]["low"] < report().metrics.accuracy


def test_the_page_tells_what_people_ask_for(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    found = Page((tmp_path / "report.html").read_text())
    metrics = report().metrics
    for wanted in (
        "yoga",
        "20260801-1f9c",
        "2026-08-01 12:30 UTC",
        f"{metrics.accuracy:.1%}",
        f"{metrics.f1:.1%}",
        "1 of 2 gates failed",
        "worstClassRecall >= 0.999",
        report().decision.misses[0],
        "sha256:1234",
        "versions.numpy",
        "kind: Classifier",
        metrics.most_confused[0].predicted,
        "84",
    ):
        assert wanted in found.words
    assert found.tags.count("svg") == 3


def test_the_curves_are_a_page_of_their_own(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    text = (tmp_path / "curves.html").read_text()
    found = Page(text)
    assert found.tags.count("svg") == 1
    assert "prefers-color-scheme: dark" in text
    for record in EPOCHS:
        assert f"{record['validationLoss']:.4f}" in found.words


@pytest.mark.parametrize("name", ["report.html", "curves.html"])
def test_a_page_needs_no_other_file_and_no_host(tmp_path: Path, name: str) -> None:
    write_report(tmp_path, report())
    text = (tmp_path / name).read_text()
    found = Page(text)
    assert all(link.startswith("#") for link in found.links)
    assert not {"script", "link", "iframe", "img"} & set(found.tags)
    assert not re.findall(r"url\((?!#)", text)


def test_a_name_with_markup_stays_a_name(tmp_path: Path) -> None:
    hostile = ["<script>alert(1)</script>", "$a_{b}$", "=1+1\x07", "x & y"]
    write_report(tmp_path, replace(report(hostile), name="<img src=x onerror=alert(1)>"))
    found = Page((tmp_path / "report.html").read_text())
    assert not {"script", "img"} & set(found.tags)
    assert "<img src=x onerror=alert(1)>" in found.words
    assert found.words.count("$a_{b}$") >= 4
    sheet = load_workbook(tmp_path / "metrics.xlsx")["per class"]
    assert [(cell.value, cell.data_type) for cell in sheet["A"]][3] == ("=1+1", "s")


def test_a_report_without_epochs_gates_or_mistakes_is_one_still(tmp_path: Path) -> None:
    truth = np.arange(30) % 3
    metrics = measure(truth, np.eye(3, dtype=np.float32)[truth], LABELS)
    bare = Report("yoga", "1", datetime(2026, 8, 1, tzinfo=UTC), "vit", metrics, decide([], {}, None), {})
    write_report(tmp_path, bare)
    words = Page((tmp_path / "report.html").read_text()).words
    assert "Nothing was confused." in words
    assert "gates" not in words
    assert "There is no epoch: the weights are the ones it began with." in words
    assert not list(tmp_path.glob("curves.*"))


def test_the_workbook_holds_all_numbers() -> None:
    given = report()
    book = load_workbook(io.BytesIO(workbook(given)))
    assert book.sheetnames == ["summary", "per class", "confusion matrix"]
    summary = {row[0]: row[1] for row in book["summary"].iter_rows(values_only=True)}
    assert summary["classifier"] == "yoga"
    assert summary["accuracy"] == pytest.approx(given.metrics.accuracy)
    assert summary["worstClassRecall"] == pytest.approx(given.metrics.worst_class_recall)
    rows = list(book["per class"].iter_rows(values_only=True))
    assert rows[0] == ("class", "precision", "recall (accuracy)", "f1", "support")
    assert [row[0] for row in rows[1:]] == LABELS
    matrix = list(book["confusion matrix"].iter_rows(values_only=True))
    assert matrix[0][1:] == tuple(LABELS)
    assert tuple(row[1:] for row in matrix[1:]) == given.metrics.confusion


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_pictures_hold_any_number_of_classes(classes: int) -> None:
    labels = [f"class number {i}" for i in range(classes)]
    metrics = report(labels).metrics
    drawn = plots.svg(plots.confusion(metrics.confusion, labels))
    assert all(drawn.count(label) >= 2 for label in labels)
    assert all(label in plots.svg(plots.per_class(labels, [0.5] * classes, [9] * classes)) for label in labels)


def test_of_equally_good_epochs_curves_name_the_one_with_the_lower_loss() -> None:
    tied = [{**record, "validationAccuracy": 0.5} for record in EPOCHS]
    lowest = min(tied, key=lambda record: record["validationLoss"])["epoch"]
    assert f"epoch {lowest:.0f}: 50.0%" in plots.svg(plots.curves(tied))


def test_one_epoch_is_enough_for_curves() -> None:
    assert "epoch 1: 0.0%" in plots.svg(plots.curves(EPOCHS[:1]))


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_report(tmp_path / name, report())
    for path in sorted((tmp_path / "first").iterdir()):
        if path.suffix != ".xlsx":  # Excel files carry the time of writing.
            assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        write_report(tmp_path / "taken", report())
