"""What trackers are told, when, and what becomes of one that fails."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.unit.test_training_metrics import RECORD, start, step
from vitruvian import spec
from vitruvian.console import Teller
from vitruvian.errors import GateFailed, Terminated, VitruvianError
from vitruvian.evaluation.metrics import measure
from vitruvian.spec import Model, Training
from vitruvian.store import open_store
from vitruvian.training.job import Job
from vitruvian.training.progress import EpochTable, span
from vitruvian.training.sweep import Sweep
from vitruvian.training.trackers import (
    Row,
    Run,
    Status,
    TensorBoard,
    Trackers,
    _instead_of_path,
    _without_password,
    open_trackers,
    reason_of,
)
from vitruvian.tune import Trial, _lasting, _take
from vitruvian.variants import Variant

DECLARED = (
    "apiVersion: vitruvian.dev/v1alpha1\nkind: Classifier\nmetadata: {name: yoga}\n"
    "spec: {data: {source: 'synthetic://poses'}, model: {architecture: vit}}\n"
)
RUN = Run("yoga", "0123456789abcdef", {"training.batchSize": 16}, "kind: Classifier\n")


class Book:
    """A tracker that writes into lists; `away` decides whether it answers."""

    name = "Book"
    place = "the shelf"
    nests = False

    def __init__(self, held: Mapping[str, float] | None = None, away: Callable[[], bool] = lambda: False) -> None:
        self.held = dict(held or {})
        self.away = away
        self.rows: list[Row] = []
        self.facts: dict[str, str] = {}
        self.ended: Status | None = None
        self.run: Run | None = None

    def check(self) -> None:
        if self.away():
            raise OSError(111, "Connection refused")

    def begin(self, run: Run) -> Mapping[str, float]:
        self.check()
        self.run = run
        return self.held

    def declare(self, declaration: str) -> None:
        self.check()

    def log(self, rows: Sequence[Row]) -> None:
        self.check()
        self.rows += rows

    def note(self, facts: Mapping[str, str]) -> None:
        self.check()
        self.facts |= facts

    def files(self, folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    def end(self, status: Status) -> None:
        self.ended = status

    def at(self, axis: str) -> list[int]:
        return [row.at for row in self.rows if row.axis == axis]


def epoch(number: int) -> dict[str, float]:
    return {**RECORD, "epoch": number}


def test_events_become_rows_by_epoch_and_by_step() -> None:
    book = Book()
    with Trackers([book], print) as trackers:
        trackers.begin(RUN, begun=False)
        for event in (start(), step(0, 4, loss=1.5), {"kind": "checkpoint", "step": 4, "seconds": 0.1}):
            trackers.take(event)
        trackers.take({"kind": "epoch", **epoch(1)})
        trackers.take(step(1, 2))
        trackers.tested({"accuracy": 0.5})
    assert book.at("step") == [4, 12]
    assert book.rows[0].values == {"step": 4, "step/loss": 1.5, "step/accuracy": 0.25}
    assert book.rows[1].values["validation/accuracy"] == RECORD["validationAccuracy"]
    assert book.rows[-1].values == {"test/accuracy": 0.5}
    assert book.facts == {"precision": "fp32"}
    assert book.ended == "finished"


def test_what_a_run_holds_is_not_told_again() -> None:
    book = Book({"epoch": 2.0, "step": 25.0, "test/accuracy": 0.5})
    with Trackers([book], print) as trackers:
        trackers.begin(RUN, begun=True)
        trackers.take(start(epoch=2, step=3, history=[epoch(1), epoch(2)]))
        for number in (4, 5, 6):
            trackers.take(step(2, number))
        trackers.take(start(epoch=2, step=4, history=[epoch(1), epoch(2)]))
        trackers.take(step(2, 6))
        trackers.take(step(2, 7))
        trackers.replay([epoch(1), epoch(2), epoch(3)])
        trackers.tested({"accuracy": 0.5})
    assert book.at("step") == [26, 27]
    assert book.at("epoch") == [3]
    assert book.at("end") == []


def test_at_the_end_the_best_epoch_is_told_once() -> None:
    history = [{**epoch(n), "validationAccuracy": accuracy} for n, accuracy in ((1, 0.5), (2, 0.75), (3, 0.25))]
    book = Book()
    with Trackers([book], print) as trackers:
        trackers.begin(RUN, begun=False)
        for _ in range(2):
            trackers.trained(history)
        trackers.trained([])
    assert book.at("epoch") == [1, 2, 3]
    assert [row.values for row in book.rows if row.axis == "end"] == [
        {"best/epoch": 2, "best/validation_accuracy": 0.75}
    ]


def test_what_is_measured_keeps_digits_with_their_letters() -> None:
    metrics = measure(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"])
    assert {"f1", "accuracy", "balanced_accuracy", "worst_class_recall", "log_loss"} <= set(metrics.measured())


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("mlflow.db", "write sqlite:///mlflow.db"),
        ("file:///kept/runs.sqlite", "write sqlite:////kept/runs.sqlite"),
        ("file:///kept", "write sqlite:////kept/mlflow.db, or set MLFLOW_ALLOW_FILE_STORE=true"),
        ("http://host:5000", None),
        ("sqlite:///mlflow.db", None),
        ("databricks", None),
    ],
)
def test_a_path_in_place_of_an_address_is_told_as_one(uri: str, hint: str | None) -> None:
    assert _instead_of_path(uri) == hint


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GateFailed("accuracy"), "finished"),
        (KeyboardInterrupt(), "killed"),
        (Terminated("SIGTERM"), "killed"),
        (VitruvianError("broken"), "failed"),
    ],
)
def test_how_a_command_ended_is_how_its_run_ended(error: BaseException, status: Status) -> None:
    book = Book()

    def command() -> None:
        with Trackers([book], print) as trackers:
            trackers.begin(RUN, begun=False)
            raise error

    with pytest.raises(type(error)):
        command()
    assert book.ended == status


class Shelf(Book):
    """A book whose runs hold others."""

    name = "Shelf"
    nests = True


GROUP = Run("yoga", "study-0123456789ab", {}, "kind: Classifier\n", title="yoga study 0123456789ab")


class Library:
    """Opens books, and keeps them."""

    def __init__(self, away: Callable[[], bool] = lambda: False) -> None:
        self.away = away
        self.books: list[tuple[Book, Book]] = []
        self.told: list[str] = []

    def __call__(self) -> Trackers:
        self.books.append((Shelf(away=self.away), Book(away=self.away)))
        return Trackers(self.books[-1], self.told.append)


def test_each_training_of_a_group_is_a_run_and_the_group_is_one_only_where_runs_hold_others() -> None:
    library = Library()
    ends: dict[str, Status | None] = {"lr=1": "finished", "lr=2": "killed", "lr=3": None}
    with Sweep(library, GROUP) as sweep:
        for title, status in ends.items():
            one = sweep.one(title)
            one.begin(RUN, begun=False)
            one.take({"kind": "epoch", **epoch(1)})
            if status:
                one.end(status)
        sweep.chosen("lr=2", 0.75)
    (whole, none), *ones = library.books
    assert whole.run == GROUP and none.run is None
    assert (whole.facts, whole.rows[-1].values) == ({"best": "lr=2"}, {"best/validation_accuracy": 0.75})
    for number, books in enumerate(ones, 1):
        for book in books:
            assert book.run == replace(RUN, group=GROUP, title=f"lr={number}") and book.run.id == RUN.id
            assert book.at("epoch") == [1]
    # What ended by itself stays what it was.
    assert [book.ended for pair in library.books for book in pair if book.run] == [
        "finished",
        *("finished", "finished"),
        *("killed", "killed"),
        *("finished", "finished"),
    ]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "killed"), (VitruvianError("no"), "failed")])
def test_what_is_left_of_a_group_ends_as_its_command_does(error: BaseException, status: Status) -> None:
    library = Library()

    def command() -> None:
        with Sweep(library, GROUP) as sweep:
            with sweep.one("lr=1") as one:
                one.begin(RUN, begun=False)
            sweep.one("lr=2").begin(RUN, begun=False)
            raise error

    with pytest.raises(type(error)):
        command()
    assert [books[0].ended for books in library.books] == [status, "finished", status]


def test_a_group_is_refused_by_a_tracker_that_is_away_and_stopped_by_none_later() -> None:
    away = threading.Event()
    library = Library(away.is_set)
    with Sweep(library, GROUP) as sweep:
        away.set()
        one = sweep.one("lr=1")
        one.check()
        one.begin(RUN, begun=False)
        one.take({"kind": "epoch", **epoch(1)})
        assert any("Shelf at the shelf fails: Connection refused; training goes on" in line for line in library.told)
        began = time.monotonic()
        with one:
            pass
        # All are waited for at once, at the end.
        assert time.monotonic() - began < 1
        assert not any("not got everything" in line for line in library.told)
    assert any("not got everything" in line for line in library.told)
    with pytest.raises(VitruvianError, match="can't be used: Connection refused"), Sweep(library, GROUP):
        raise AssertionError("nothing is begun")


@pytest.mark.parametrize(
    ("option", "asked"),
    [("--mlflow", ("", None, None)), ("--wandb", (None, " ", None)), ("--tensorboard", (None, None, Path()))],
)
def test_an_option_that_says_nothing_is_refused(option: str, asked: tuple[Any, Any, Any]) -> None:
    with pytest.raises(VitruvianError, match=f"{option}: is empty; say where to track, or leave it out"):
        open_trackers(*asked, print)


def test_nothing_is_tracked_where_nobody_asked() -> None:
    with Sweep(None, GROUP) as sweep, sweep.one("lr=1") as one:
        one.begin(RUN, begun=False)
        one.trained([epoch(1)])
        sweep.chosen("lr=1", 0.5)


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ([(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5)], "finished"),
        ([(1, 0.5), (2, 0.4)], "killed"),
        ([(1, 0.5), (2, math.nan)], "failed"),
        ([], "failed"),
    ],
    ids=["all its epochs", "the scheduler", "an error after two", "an error at once"],
)
def test_a_trials_run_ends_as_the_trial_did(tmp_path: Path, last: list[tuple[int, float]], status: Status) -> None:
    library, trial = Library(), tuned()
    teller, store = Teller(Console(file=io.StringIO())), open_store(tmp_path)
    told = [{"kind": "epoch", "past": False, **epoch(n), "validationAccuracy": accuracy} for n, accuracy in last]
    end: dict[str, Any] = {"kind": "failed", "error": "out of memory"} if status == "failed" else {"kind": "ended"}
    with Sweep(library, GROUP) as sweep:
        # A process that died tells again what it did.
        again = [{**one, "past": True} for one in told]
        began: dict[str, Any] = {"kind": "began"}
        for event in (began, *told, began, *again, end):
            _take(teller, store, trial, event, 1, sweep)
    _, (book, _) = library.books
    assert book.run == replace(trial.run, group=GROUP, title="trial 3: learningRate=0.01")
    assert book.at("epoch") == [number for number, _ in last]
    assert len(book.at("end")) == bool(last)
    assert book.ended == status


def tuned() -> Trial:
    classifier = spec.parse(DECLARED, "classifier.yaml")
    values = {"training.learningRate": 0.01}
    return Trial(3, Variant(values, classifier), job(), RUN)


def test_a_title_that_is_too_long_for_a_runs_name_is_cut() -> None:
    assert RUN.shown == "yoga" and GROUP.shown == GROUP.title
    long = replace(RUN, title="x" * 500).shown
    assert len(long) == 120 and long.endswith("x…")


def test_one_that_is_away_at_the_start_is_refused_in_one_line() -> None:
    book = Book(away=lambda: True)
    with pytest.raises(VitruvianError) as refused, Trackers([book], print) as trackers:
        trackers.begin(RUN, begun=False)
    assert str(refused.value) == (
        "Book at the shelf: can't be used: Connection refused; "
        "mend the address or the credentials, or leave this tracker out"
    )


def test_one_that_goes_away_is_told_of_once_and_gets_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitruvian.training.trackers._SECONDS_BETWEEN_TRIES", 0.05)
    away = threading.Event()
    away.set()
    told: list[str] = []
    book, other = Book(away=away.is_set), Book()
    with Trackers([book, other], told.append) as trackers:
        trackers.begin(RUN, begun=True)
        trackers.take(start())
        for number in range(1, 6):
            trackers.take(step(0, number))
            time.sleep(0.06)
        assert other.at("step") == [1, 2, 3, 4, 5]
        assert book.rows == []
        away.clear()
        trackers.take(step(0, 6))
    assert book.at("step") == [1, 2, 3, 4, 5, 6]
    assert [line for line in told if "fails" in line] == [
        "Book at the shelf fails: Connection refused; training goes on, and what waits is sent when it works again"
    ]


def test_what_never_arrived_is_told_at_the_end() -> None:
    told: list[str] = []
    with Trackers([Book(away=lambda: True)], told.append) as trackers:
        trackers.begin(RUN, begun=True)
        trackers.take(start())
        trackers.take(step(0, 1))
    assert "has not got everything" in told[-1]


def test_files_that_are_refused_hold_nothing_else_up(tmp_path: Path) -> None:
    told: list[str] = []
    book = Book()
    with Trackers([book], told.append) as trackers:
        trackers.begin(RUN, begun=False)
        trackers.files(tmp_path)
        trackers.note({"version": "abc"})
    assert book.facts == {"version": "abc"}
    assert book.ended == "finished"
    assert sum("Permission denied" in line for line in told) == 1


def test_a_slow_one_does_not_hold_up_the_training() -> None:
    let = threading.Event()

    class Slow(Book):
        def log(self, rows: Sequence[Row]) -> None:
            let.wait(30)
            super().log(rows)

    slow = Slow()
    with Trackers([slow], print) as trackers:
        trackers.begin(RUN, begun=False)
        trackers.take(start())
        for number in range(1, 11):
            trackers.take(step(0, number))
        assert slow.rows == []
        let.set()
    assert slow.at("step") == list(range(1, 11))


def test_a_library_that_is_missing_names_the_extra(tmp_path: Path) -> None:
    file = tmp_path / "classifier.yaml"
    file.write_text(DECLARED)
    for flag, library in (("--mlflow", "mlflow"), ("--wandb", "wandb"), ("--tensorboard", "tensorboard")):
        code = f"import sys; sys.modules['{library}'] = None; from vitruvian.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "run", "-f", str(file), flag, "there"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"the library '{library}" in done.stderr and "pip install '.[track]' in a clone" in done.stderr


def test_the_reason_is_what_the_operating_system_said() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as e:
            raise RuntimeError("Max retries exceeded\nwith url") from e
    except RuntimeError as e:
        assert reason_of(e) == "Connection refused"
    assert reason_of(ValueError("No such project. Ask somebody.\nmore")) == "No such project"
    assert len(reason_of(ValueError("x" * 1000))) < 310


def test_a_password_in_an_address_is_not_shown() -> None:
    assert _without_password("https://me:secret@host:5000/x") == "https://me:…@host:5000/x"
    assert _without_password("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


CLIP = {"architecture": "clip", "clip": {"unfreezeVisual": 0}}
KNOWING = {"architecture": "vit", "pretrained": "weights"}


def job(model: dict[str, Any] | None = None, **training: Any) -> Job:
    declared = Model.model_validate(model or {"architecture": "vit"})
    return Job(declared, Training.model_validate({"epochs": 4, **training}), "", "")


def beginning(of: Job, *, fixed: bool = False, **event: Any) -> str:
    """Return what the table says before its first row."""
    console = Console(file=io.StringIO(), width=100)
    with EpochTable(console, of) as table:
        if fixed:
            table.show({"kind": "features", "found": True, "count": 10})
        table.show(start(**event))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_epoch_whose_loss_is_no_number_is_never_the_best() -> None:
    console = Console(file=io.StringIO(), width=120)
    with EpochTable(console, job()) as table:
        table.show(start())
        table.show({"kind": "epoch", **epoch(1), "trainLoss": math.nan})
    assert isinstance(console.file, io.StringIO)
    row = console.file.getvalue().splitlines()[-1]
    assert "✗ diverged: lower training.learningRate" in row and "best" not in row


@pytest.mark.parametrize(
    ("of", "event", "line"),
    [
        (job(), {}, "  learning rate 0.001, fp32\n"),
        (job(), {"learningRate": 5e-5, "precision": "bf16"}, "  learning rate 5e-05, bf16\n"),
        (job(accumulate=4, loaders=0), {}, "  learning rate 0.001, fp32, accumulate 4, loaders 0\n"),
        (job(), {}, "lower training.batchSize, raise training.epochs, or begin with model.pretrained\n"),
        (job(KNOWING), {}, "lower training.batchSize, or raise training.epochs\n"),
        (job({"architecture": "heatmap-cnn"}), {}, "lower training.batchSize, or raise training.epochs\n"),
        (job(), {"world": 1}, " 16 examples a step\n"),
        (job(), {}, " 16 examples a step: 8 on each of 2 workers\n"),
        (job(accumulate=2), {}, " 16 examples a step: 8 on each of 2 workers, in 2 parts of 4\n"),
        (job(accumulate=3), {"world": 1}, " 16 examples a step: in 3 parts of up to 6\n"),
        (job(), {"world": 3}, " 16 examples a step: up to 6 on each of 3 workers\n"),
        (job(), {"idleGpus": 1}, "  this machine has a GPU that isn't used: set training.gpusPerWorker: 1\n"),
        (job(), {"idleGpus": 4}, "  this machine has 4 GPUs that aren't used: set training.gpusPerWorker: 1\n"),
        (job(), {"step": 3}, "  going on from epoch 1, step 3\n"),
        (
            job(),
            {"epoch": 1, "step": 3, "history": [epoch(1)]},
            "  going on from epoch 2, step 3; best so far: epoch 1, validation accuracy 60.0%\n",
        ),
    ],
)
def test_the_table_begins_with_how_it_trains_and_what_would_help(of: Job, event: dict[str, Any], line: str) -> None:
    told = beginning(of, **event)
    assert line in told and "Epoch" in told


@pytest.mark.parametrize(
    ("model", "fixed", "line"),
    [
        (CLIP, True, "set model.pretrained, or raise model.clip.unfreezeVisual\n"),
        ({"architecture": "resnet50", "freezeLayers": 4}, True, "set model.pretrained, or lower model.freezeLayers\n"),
        (KNOWING, True, ""),
        ({"architecture": "vit"}, False, ""),
    ],
)
def test_a_front_that_has_never_learnt_is_told_of(model: dict[str, Any], fixed: bool, line: str) -> None:
    told = beginning(job(model), fixed=fixed)
    assert ("nothing before the head has ever learnt" in told) == bool(line) and line in told


@pytest.mark.parametrize(
    ("training", "epochs", "line"),
    [
        ({}, 4, "  trained already: 4 epochs\n"),
        ({"epochs": 1}, 1, "  trained already: 1 epoch\n"),
        ({"epochs": 9, "earlyStopping": {"patience": 2}}, 3, "  trained already: 3 epochs\n"),
    ],
)
def test_a_training_with_nothing_left_to_do_says_so_and_nothing_else(
    training: dict[str, Any], epochs: int, line: str
) -> None:
    # The first is best.
    history = [{**epoch(number), "validationAccuracy": 0.9 / number} for number in range(1, epochs + 1)]
    told = beginning(job(CLIP, **training), fixed=True, epoch=epochs, history=history)
    assert told.endswith(line)
    assert "going on" not in told and "only" not in told and "ever learnt" not in told


def test_an_epoch_shows_its_training_and_then_its_validation_while_they_run() -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    with EpochTable(console, job()) as table:
        table.show(start())
        table.show(step(0, 5))
        table.bar.refresh()
        table.show({"kind": "validation", "epoch": 0, "step": 1, "steps": 3, "loss": 0.5, "accuracy": 0.75})
        table.bar.refresh()
        table.show(step(1, 1))
        table.bar.refresh()
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    first, then, last = (told.index(f"Epoch {place}") for place in ("1/4 [Train]", "1/4 [Valid]", "2/4 [Train]"))
    assert first < then < last
    assert "5/10" in told[first:then] and " 1/3 " in told[then:last] and "accuracy 75.0%" in told[then:last]
    assert "0:00:00" in told


def test_steps_a_second_stand_beside_the_bar() -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    with EpochTable(console, job()) as table:
        table.show(start())
        for number in range(1, 6):
            table.show(step(0, number))
        table.bar.refresh()
    assert isinstance(console.file, io.StringIO)
    assert re.search(r"\d steps/s", console.file.getvalue())


def shown_at(width: int, *events: dict[str, Any]) -> list[str]:
    """Return the lines that a terminal of some width shows while an epoch runs."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with EpochTable(console, job(epochs=100, earlyStopping={"patience": 10})) as table:
        table.show(start(epochs=100, steps=1200, world=1))
        for event in events:
            table.show(event)
            table.bar.refresh()
    assert isinstance(console.file, io.StringIO)
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()))


VALIDATION = {"kind": "validation", "epoch": 0, "step": 10, "steps": 1000, "loss": 0.5, "accuracy": 0.75}


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_bar_is_one_line_of_any_terminal_and_its_times_are_whole(width: int) -> None:
    bars = [line for line in shown_at(width, step(0, 1100), step(0, 1101), VALIDATION) if line.startswith("Epoch 1/")]
    assert bars and max(map(len, bars)) <= width
    # How much is left is the last of the columns to go.
    assert all(re.search(r" \d:\d\d:\d\d *$| -:--:-- *$", line) for line in bars)
    assert any(re.search(r" 1101/1200 ", line) for line in bars) and "…" not in "".join(bars)
    assert any("accuracy 75.0%" in line for line in bars) is (width > 60)


def test_a_validations_bar_does_not_begin_with_what_the_training_came_to() -> None:
    bars = [line for line in shown_at(140, step(0, 5), VALIDATION) if "[Valid]" in line]
    begun = [line for line in bars if " 0/1000" in line]
    assert begun and not any("loss" in line for line in begun)
    assert "loss 0.5000" in bars[-1]


@pytest.mark.parametrize(("width", "whole"), [(80, False), (100, True)])
def test_an_epochs_row_fits_into_a_terminal(width: int, whole: bool) -> None:
    ends = [{"kind": "epoch", **epoch(number), "validationAccuracy": 1 / number} for number in (1, 2)]
    lines = shown_at(width, *ends)
    head = next(line for line in lines if "Train loss" in line)
    rows = [line for line in lines if re.match(r" +\d+/100 ", line)]
    assert len(rows) == 2 and rows[1].endswith("wait 1/10")
    assert max(map(len, (head, *rows))) <= width and ("Images/s" in head) is whole
    assert head.index("Status") == rows[0].index("✓")


def test_nothing_is_said_of_gpus_where_none_is_left_alone() -> None:
    assert "GPU" not in beginning(job(), idleGpus=0) + beginning(job(gpusPerWorker=1), idleGpus=0)


def test_the_table_tells_the_time_that_is_left() -> None:
    console = Console(file=io.StringIO(), width=100)
    with EpochTable(console, job()) as table:
        table.show(start())
        table.show({"kind": "epoch", **epoch(1), "seconds": 20.0})
        table.show({"kind": "epoch", **epoch(2), "seconds": 40.0})
    assert isinstance(console.file, io.StringIO)
    head, first, second = console.file.getvalue().splitlines()[-3:]
    assert "Left" in head
    assert " 1:00  " in first and " 1:00  " in second
    assert [span(45), span(725), span(10930)] == ["0:45", "12:05", "3:02:10"]


def test_tensorboards_folder_is_called_by_the_title_and_found_by_the_key(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    runs = tmp_path / "runs"

    def tracked(run: Run, epoch: int) -> Mapping[str, float]:
        board = TensorBoard(runs)
        held = board.begin(run)
        board.log([Row("epoch", epoch, {"epoch": float(epoch)})])
        board.end("finished")
        return held

    long = replace(RUN, key="b" * 16, title="trial 2: model={a: '/x/y'}, " + "z" * 200)
    assert tracked(replace(RUN, title="trial 1: learningRate=0.01"), 1) == {}
    # In another study it is called otherwise, alone not at all, and is still one run.
    assert tracked(replace(RUN, title="learningRate=0.01"), 2) == {"epoch": 1.0}
    assert tracked(RUN, 3) == {"epoch": 2.0}
    assert tracked(long, 1) == {}
    # The same training of another classifier is another run.
    assert tracked(replace(RUN, name="my-yoga"), 1) == {} and tracked(replace(RUN, name="my-yoga"), 2) == {"epoch": 1.0}
    names = sorted(folder.name for folder in runs.iterdir())
    assert names == [
        f"my-yoga-{RUN.key}",
        f"trial-1-learningRate=0.01_yoga-{RUN.key}",
        f"trial-2-model=-a-x-y-,-{'z' * 57}_yoga-{long.key}",
    ]


@pytest.mark.parametrize(
    ("out", "job", "named"),
    [
        ("best.yaml", False, "best.yaml"),
        ("best.yaml", True, "ARTIFACTS/tuning/7/best.yaml"),
        ("/shared/best.yaml", True, "/shared/best.yaml"),
        ("s3://models/best.yaml", True, "s3://models/best.yaml"),
    ],
)
def test_a_search_names_a_best_declaration_that_outlasts_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, job: bool, named: str
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert _lasting(out, open_store(tmp_path).at("tuning/7")) == named.replace("ARTIFACTS", str(tmp_path))
