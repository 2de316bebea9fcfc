"""A study's table tells which variant is best by validation, over all its seeds."""

from __future__ import annotations

import csv
import io
import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from tests.training_runs import make_job
from vitruvian.console import Teller
from vitruvian.evaluation import plots
from vitruvian.spec import Training, Tuning
from vitruvian.study.page import Study, files
from vitruvian.study.plot import picture
from vitruvian.study.results import Outcome, Run, columns, comparable, rows, table
from vitruvian.study.run import _show
from vitruvian.training.job import ended
from vitruvian.training.search import scheduler
from vitruvian.training.trackers import Run as Tracked
from vitruvian.tune import Trial
from vitruvian.tune import _show as show_trials
from vitruvian.variants import Axis, Variant

BASE = Outcome(0.8, 0.5, 3, 5, 12.0, 0.7, 0.6, 0.8, "t-pose", 0.4, 100, 10, 1000, "same")
LAYERS = Axis("model.freezeLayers", (0, 2, 4))
SEEDS = Axis("training.seed", (0, 1))


def _run(layers: int, seed: int | None = None, **changed: object) -> Run:
    values = {"model.freezeLayers": layers} | ({} if seed is None else {"training.seed": seed})
    return Run(values, replace(BASE, **changed))  # type: ignore[arg-type]


def test_the_best_by_validation_comes_first_whatever_the_test_says() -> None:
    nan = float("nan")
    runs = [
        Run({"model.freezeLayers": 8}, None, "no such layer"),
        _run(0, validation_accuracy=0.7, accuracy=0.99),
        _run(2, validation_accuracy=0.9, validation_loss=nan),
        _run(4, validation_accuracy=0.9, validation_loss=2.0),
    ]
    assert [row.values["model.freezeLayers"] for row in rows(runs)] == [4, 2, 0, 8]


def test_seeds_are_averaged_over() -> None:
    runs = [_run(2, 0, accuracy=0.6), _run(0, 0, accuracy=0.9), _run(2, 1, accuracy=0.8), _run(0, 1, accuracy=0.9)]
    found = {row.values["model.freezeLayers"]: row for row in rows(runs)}
    spread = found[2].over_seeds(lambda outcome: outcome.accuracy)
    assert spread.mean == pytest.approx(0.7)
    assert spread.deviation == pytest.approx(0.1414, abs=1e-4)
    assert columns(found[2])["test acc"] == "70.0 ± 14.1 %"
    assert "test 95 %" not in columns(found[2])
    assert columns(rows([_run(2)])[0])["test 95 %"] == "60-80 %"
    assert columns(rows([_run(2, low=0.961, high=0.979)])[0])["test 95 %"] == "96.1-97.9 %"


def test_a_seed_that_failed_is_told_beside_the_others() -> None:
    (row,) = rows([_run(2, 0), Run({"model.freezeLayers": 2, "training.seed": 1}, None, "out of memory")])
    assert row.errors == ["out of memory"]
    assert row.over_seeds(lambda outcome: outcome.accuracy).mean == pytest.approx(0.7)


def test_numbers_of_other_examples_are_not_compared() -> None:
    assert comparable(rows([_run(0), _run(2)]))
    assert not comparable(rows([_run(0), _run(2, parts="others")]))
    # Another split for each seed, the same ones for each variant.
    assert comparable(rows([_run(n, seed, parts=f"split {seed}") for n in (0, 2) for seed in (0, 1)]))


def test_the_csv_has_a_line_for_each_run() -> None:
    runs = [_run(0, 0), _run(0, 1), Run({"model.freezeLayers": 2, "training.seed": 0}, None, "no, such")]
    lines = list(csv.DictReader(io.StringIO(table(runs, (LAYERS, SEEDS)))))
    assert [(line["freezeLayers"], line["seed"], line["error"]) for line in lines] == [
        ("0", "0", ""),
        ("0", "1", ""),
        ("2", "0", "no, such"),
    ]
    assert float(lines[0]["testAccuracyLow95"]) == 0.6


@pytest.mark.parametrize(
    "axes",
    [
        (LAYERS,),
        (Axis("model.architecture", ("vit", "resnet50")), LAYERS),
        (Axis("model.architecture", ("vit", "resnet50")),),
        (Axis("training.learningRate", (1e-5, 1e-3)),),
        (SEEDS,),
    ],
    ids=lambda axes: " ".join(axis.path for axis in axes),
)
def test_the_page_tells_all_and_needs_nothing_else(axes: tuple[Axis, ...]) -> None:
    combinations = itertools.product(*(axis.values for axis in axes))
    paths = [axis.path for axis in axes]
    runs = [Run(dict(zip(paths, values, strict=True)), BASE) for values in combinations]
    runs[-1] = replace(runs[-1], outcome=None, error="<b>broken</b>")
    study = Study("poses", "abc", datetime.now(UTC), axes, runs, ["left: out"], {"kind": "Classifier"})
    made = files(study, "kind: Classifier")
    page = made["study.html"].decode()
    assert "chosen by validation accuracy" in page and "only\n    reported" in page
    assert "&lt;b&gt;broken" in page and "<b>broken" not in page
    assert "left: out" in page
    assert "<svg" in page and not re.search(r'(src|href)="[^#]', page)
    assert made["study.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("seeds", [(None,), (0, 1)], ids=["one run", "seeds"])
@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_table_has_a_line_for_each_variant_and_whole_words(width: int, seeds: tuple[int | None, ...]) -> None:
    large = {"learnt": 85_798_656, "parameters": 85_798_656, "seconds": 1234.5, "worst_class": "arms-raised"}
    runs = [_run(layers, seed, **large) for layers in (0, 2) for seed in seeds]
    runs.append(Run({"model.freezeLayers": 9} | ({} if seeds == (None,) else {"training.seed": 0}), None, "no layer"))
    study = Study("poses", "abc", datetime.now(UTC), (LAYERS,), runs, [], {})
    console = Console(file=io.StringIO(), width=width)
    _show(Teller(console), study, rows(runs))
    assert isinstance(console.file, io.StringIO)
    head, *lines = console.file.getvalue().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["0", "2", "9"] and "✗" in lines[3]
    kept = re.split(r"\s{2,}", head.strip())
    assert kept[:3] == ["freezeLayers", "val acc", "test acc"]
    assert [name for name in ("freezeLayers", *columns(rows(runs)[0])) if name in kept] == kept
    assert ("parameters" in kept) == (width == 160)


def test_a_study_in_which_all_failed_has_a_page() -> None:
    study = Study("poses", "abc", datetime.now(UTC), (LAYERS,), [Run({"model.freezeLayers": 0}, None, "no")], [], {})
    assert "failed: no" in files(study, None)["study.html"].decode()
    assert plots.png(picture(rows(study.runs), (LAYERS,)))


def _record(epoch: int, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "validationAccuracy": accuracy, "validationLoss": 1 - accuracy}


@pytest.mark.parametrize(
    ("accuracies", "over"), [([], False), ([0.5], False), ([0.5, 0.4, 0.3], True), ([0.1, 0.2, 0.3, 0.4], True)]
)
def test_a_training_ends_after_its_epochs_or_its_patience(accuracies: list[float], over: bool) -> None:
    training = Training.model_validate({"epochs": 4, "earlyStopping": {"patience": 2}})
    assert ended([_record(n, accuracy) for n, accuracy in enumerate(accuracies, 1)], training) == over


@pytest.mark.parametrize("metric", ["validationAccuracy", "validationLoss"])
def test_asha_compares_with_trials_of_an_earlier_search(metric: str, tmp_path: Path) -> None:
    tuning = Tuning.model_validate({"space": {"training.epochs": {"int": [1, 9]}}, "metric": metric})
    jobs = {"trial": make_job(tmp_path, epochs=9)}
    known = [[_record(1, 0.8), _record(2, 0.9)]]
    mode = "max" if metric == "validationAccuracy" else "min"
    for past, accuracy, decision in ((known, 0.5, "STOP"), (known, 0.85, "CONTINUE"), ([], 0.5, "CONTINUE")):
        asha = scheduler(tuning, jobs, past, mode)
        trial = SimpleNamespace(trial_id="new")
        asha.on_trial_add(None, trial)
        assert asha.on_trial_result(None, trial, _record(1, accuracy)) == decision


SPACE: dict[str, Any] = {
    "training.learningRate": 0.00012345678,
    "training.batchSize": 8,
    "training.labelSmoothing": 0.1,
    "model.freezeLayers": 2,
}


def _trial(number: int, values: dict[str, Any], folder: Path) -> Trial:
    made = SimpleNamespace(values=values, title="", words="")
    epochs = {each: {**_record(each, 0.5 + each / 20), "seconds": 61.25} for each in range(1, 1 + 3 * (number < 3))}
    done = make_job(folder, epochs=3)
    return Trial(number, cast(Variant, made), done, Tracked("tiny", "id", {}, ""), epochs, True, "" if epochs else "x")


@pytest.mark.parametrize("fields", [1, 2, 4])
@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_searchs_table_fits_into_a_terminal_and_splits_no_word(width: int, fields: int, tmp_path: Path) -> None:
    values = dict(list(SPACE.items())[:fields])
    console = Console(file=io.StringIO(), width=width)
    tuning = Tuning.model_validate({"space": {path: {"choice": [value, 2 * value]} for path, value in values.items()}})
    show_trials(Teller(console), tuning, [_trial(number, values, tmp_path) for number in (2, 1, 3)])
    assert isinstance(console.file, io.StringIO)
    head, *lines = console.file.getvalue().splitlines()
    assert max(map(len, (head, *lines))) <= width
    words = " ".join((head, *lines)).replace("=", " ").replace(",", "").split()
    assert {"0.0001235", "learningRate", *(path.rpartition(".")[2] for path in values)} <= set(words)
    assert [line.split()[0] for line in lines if line[:5].strip()] == ["2", "1", "3"]
    assert {"65.0%", "ended", "failed"} <= set(words)
    # Numbers are left out before words are split, and fields share a column before the accuracy is left out.
    assert ("seconds" in head) is (width >= 120 or (width == 80 and fields == 1))
    assert ("values" in head) is (fields == 4 and width == 60) is (len(lines) > 3)
