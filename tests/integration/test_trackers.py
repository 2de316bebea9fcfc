"""What MLflow, W&B and TensorBoard hold of real trainings: read from their own files."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ports import free_port
from tests.projects import TINY, VITRUVIAN, declare, vitruvian
from vitruvian.bundle import read_champion
from vitruvian.store import open_store
from vitruvian.training import wandb_log

EPOCHS = 12
TINY_RUN = {"epochs": EPOCHS, "earlyStopping": None, "checkpoints": {"everySteps": 2}}
ENV = {"PYTHONUNBUFFERED": "1", "WANDB_MODE": "offline"}


def project(root: Path, **spec: Any) -> Path:
    training = {**TINY_RUN, **spec.pop("training", {})}
    return declare(root, "synthetic://poses?count=60", training=training, **spec)


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute(query).fetchall()


def steps_of(database: Path, metric: str) -> list[int]:
    return [step for (step,) in rows(database, f"select step from metrics where key = '{metric}' order by step")]


def offline_runs(folder: Path) -> list[list[Any]]:
    """Return the records of W&B's offline runs, the oldest first."""
    return [list(wandb_log.records(path)) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run twice with all three trackers."""
    root = tmp_path_factory.mktemp("tracked")
    file = project(root, gates=[{"metric": "accuracy", "atLeast": 0.0}], training={"learningRate": None})
    words = ("run", "-f", file, "--mlflow", "sqlite:///mlflow.db", "--wandb", "poses", "--tensorboard", "runs")
    for _ in range(2):
        done = vitruvian(*words, cwd=root, **ENV)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "fails" not in done.stdout and not done.stderr
    assert done.stdout.count("✓ fresh") == 6
    return root


def test_mlflow_holds_one_run_with_everything_once(tracked: Path) -> None:
    database = tracked / "mlflow.db"
    ((run, name, status),) = rows(database, "select run_uuid, name, status from runs")
    assert (name, status) == ("poses", "FINISHED")
    decided = dict(rows(database, "select key, value from params"))
    assert decided["model.dimensions.hiddenSize"] == str(TINY["hiddenSize"])
    assert decided["training.learningRate"] == "0.001"
    for metric in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"):
        assert steps_of(database, metric) == list(range(1, EPOCHS + 1))
    trained = steps_of(database, "step/loss")
    assert trained == sorted(set(trained)) and trained[-1] == steps_of(database, "step")[-1]
    for metric in ("test/worst_class_recall", "test/f1", "best/epoch", "best/validation_accuracy"):
        assert steps_of(database, metric) == [0]
    tags = dict(rows(database, "select key, value from tags"))
    assert tags["precision"] == "fp32"
    # What may change while the run goes on is no parameter: those can't.
    assert tags["training.workers"] == "1" and "training.workers" not in decided
    assert tags["gates"].startswith("passed; accuracy")
    assert tags["version"] == read_champion(open_store(tracked / "artifacts"))
    files = {path.name for path in (tracked / "mlruns").rglob(f"{run}/artifacts/**/*") if path.is_file()}
    assert {"classifier.yaml", "report.html", "curves.html", "curves.png", "confusion-matrix.png"} <= files


def test_wandb_keeps_a_run_offline_that_goes_on_under_the_same_id(tracked: Path) -> None:
    first, second = offline_runs(tracked)
    ids = {record.run.run_id for records in (first, second) for record in records if record.HasField("run")}
    assert len(ids) == 1 and ids.pop().startswith("poses-")
    (begun, *_) = [record.run for record in first if record.HasField("run")]
    assert (begun.display_name, begun.project) == ("poses", "poses")
    told = list(wandb_log.rows(first))
    assert [row["epoch"] for row in told if "train/loss" in row] == list(range(1, EPOCHS + 1))
    assert any("report/curves" in row for row in told) and any("step/loss" in row for row in told)
    assert not any("train/loss" in row for row in wandb_log.rows(second))
    summary = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for record in first
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["gates"].startswith("passed") and 0 <= summary["test/accuracy"] <= 1
    assert any(record.HasField("artifact") for record in first)


def test_tensorboard_holds_the_curves_once(tracked: Path) -> None:
    (folder,) = (tracked / "runs").iterdir()
    held = EventAccumulator(str(folder), {"scalars": 0, "images": 0})
    held.Reload()
    for metric in ("train/loss", "validation/accuracy"):
        assert [event.step for event in held.Scalars(metric)] == list(range(1, EPOCHS + 1))
    assert [event.step for event in held.Scalars("test/accuracy")] == [0]
    assert "report/confusion-matrix" in held.Tags()["images"]


@contextmanager
def training(root: Path, *words: str | Path, until: str = rf"^[^e]* 2/{EPOCHS} ") -> Iterator[subprocess.Popen[str]]:
    """Begin a training, and go on when its second epoch is over and the last isn't."""
    env = {**os.environ, **ENV, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    process = subprocess.Popen(
        [VITRUVIAN, *map(str, words)],
        cwd=root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What a script starts in the background is deaf to Ctrl-C, and so is all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if re.search(until, line):
            break
    assert process.poll() is None, told
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_training_that_goes_on_is_the_same_run(tmp_path: Path, ending: signal.Signals) -> None:
    file, database = project(tmp_path), tmp_path / "mlflow.db"
    words = ("train", "-f", file, "--mlflow", "sqlite:///mlflow.db", "--wandb", "poses")
    # A tracker that is killed may lag behind what is printed.
    with training(tmp_path, *words, until=rf"^[^e]* 5/{EPOCHS} ") as process:
        process.send_signal(ending)
        process.wait(60)
    assert len(steps_of(database, "train/loss")) < EPOCHS
    if ending == signal.SIGINT:
        assert rows(database, "select status from runs") == [("KILLED",)]
    done = vitruvian(*words, cwd=tmp_path, **ENV)
    assert done.returncode == 0, done.stderr
    assert "going on from epoch" in done.stdout
    assert rows(database, "select status from runs") == [("FINISHED",)]
    assert steps_of(database, "train/loss") == list(range(1, EPOCHS + 1))
    trained = steps_of(database, "step/loss")
    assert trained == sorted(set(trained))
    told = [row for records in offline_runs(tmp_path) for row in wandb_log.rows(records)]
    assert [row["epoch"] for row in told if "train/loss" in row] == list(range(1, EPOCHS + 1))
    trained = [row["step"] for row in told if "step/loss" in row]
    assert trained == sorted(set(trained))


SWEPT = ("--mlflow", "sqlite:///mlflow.db", "--wandb", "poses", "--tensorboard", "runs")


def below(database: Path, group: str) -> dict[str, tuple[str, str]]:
    """Return the id and the status of MLflow's runs below the one run of a group, by their names."""
    ((parent,),) = rows(database, f"select run_uuid from runs where name like 'poses {group} %'")
    found = rows(
        database,
        "select name, runs.run_uuid, status from runs join tags on runs.run_uuid = tags.run_uuid "
        f"where tags.key = 'mlflow.parentRunId' and tags.value = '{parent}'",
    )
    assert len({name for name, _, _ in found}) == len(found)
    return {name: (run, status) for name, run, status in found}


def epochs_of(database: Path, run: str) -> list[int]:
    told = rows(database, f"select step from metrics where run_uuid = '{run}' and key = 'train/loss' order by step")
    return [step for (step,) in told]


def begun_offline(folder: Path) -> set[tuple[str, str, str]]:
    """Return W&B's id, name and group of each run; one that goes on offline is in several folders."""
    runs = [record.run for records in offline_runs(folder) for record in records if record.HasField("run")]
    return {(run.run_id, run.display_name, run.run_group) for run in runs}


def test_a_tunings_trials_are_runs_of_one_group_and_stay_those_when_it_goes_on(tmp_path: Path) -> None:
    # Seed 1 draws the good value first; the other is stopped after an epoch.
    space = {"training.learningRate": {"choice": [1e-2, 1e-9]}}
    tuning = {"space": space, "trials": 2, "seed": 1, "metric": "validationLoss", "gracePeriod": 1}
    file, database = project(tmp_path, training={"strategy": "none"}, tuning=tuning), tmp_path / "mlflow.db"
    words = ("tune", "-f", file, "--concurrent", "1", *SWEPT)
    with training(tmp_path, *words, until="trial 1, epoch 3 of") as process:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert below(database, "tuning")["trial 1: learningRate=0.01"][1] == "KILLED"
    done = vitruvian(*words, cwd=tmp_path, **ENV)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fails" not in done.stdout and "not got" not in done.stdout
    whole = rows(database, "select status, run_uuid from runs where name like '%tuning%'")
    assert [status for status, _ in whole] == ["FINISHED"]
    tags = dict(rows(database, f"select key, value from tags where run_uuid = '{whole[0][1]}'"))
    assert tags["best"] == "trial 1: learningRate=0.01"

    held = below(database, "tuning")
    assert {name: status for name, (_, status) in held.items()} == {
        "trial 1: learningRate=0.01": "FINISHED",
        "trial 2: learningRate=1e-09": "KILLED",
    }
    good, bad = (held[name][0] for name in sorted(held))
    assert epochs_of(database, good) == list(range(1, EPOCHS + 1)) and epochs_of(database, bad) == [1]
    params = dict(rows(database, f"select key, value from params where run_uuid = '{bad}'"))
    assert params["training.learningRate"] == "1e-09" and params["training.batchSize"] == "16"

    runs = begun_offline(tmp_path)
    assert len({id for id, _, _ in runs}) == 2 and {name for _, name, _ in runs} == set(held)
    (group,) = {group for _, _, group in runs}
    assert group.startswith("poses-tuning-")
    told = [
        row["epoch"] for records in offline_runs(tmp_path) for row in wandb_log.rows(records) if "train/loss" in row
    ]
    assert sorted(told) == sorted([*range(1, EPOCHS + 1), 1])
    shown = {name: f"{name.replace(': ', '-').replace(' ', '-')}_{id}" for id, name, _ in runs}
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == set(shown.values())
    assert shown["trial 1: learningRate=0.01"].startswith("trial-1-learningRate=0.01_poses-")

    # The winner goes on in its run when it is tested.
    tested = vitruvian("run", "-f", "best.yaml", "--mlflow", "sqlite:///mlflow.db", cwd=tmp_path, **ENV)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert below(database, "tuning") == held and len(rows(database, "select * from runs")) == 3
    assert rows(database, f"select * from metrics where run_uuid = '{good}' and key = 'test/accuracy'")


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="needs a machine without a GPU: hide it with CUDA_VISIBLE_DEVICES=''"
)
def test_a_studys_variants_are_runs_of_one_group_however_often_it_is_run(tmp_path: Path) -> None:
    file, database = project(tmp_path, training={"epochs": 2}), tmp_path / "mlflow.db"
    # No GPU is here.
    words = ("study", "-f", file, "--vary", "training.gpusPerWorker=0,1", *SWEPT)
    for _ in range(2):
        done = vitruvian(*words, cwd=tmp_path, **ENV)
        assert done.returncode == 1 and not done.stderr, done.stdout + done.stderr
        assert "fails" not in done.stdout and "not got" not in done.stdout
        held = below(database, "study")
        assert {name: status for name, (_, status) in held.items()} == {
            "gpusPerWorker=0": "FINISHED",
            "gpusPerWorker=1": "FAILED",
        }
        good = held["gpusPerWorker=0"][0]
        assert epochs_of(database, good) == [1, 2] and not epochs_of(database, held["gpusPerWorker=1"][0])
        assert rows(database, f"select * from metrics where run_uuid = '{good}' and key = 'test/accuracy'")
        runs = begun_offline(tmp_path)
        assert len(runs) == 2 and {name for _, name, _ in runs} == set(held)
    assert len(rows(database, "select * from runs")) == 3
    # Compared with others too, a variant is shown there, and is still one run.
    done = vitruvian("study", "-f", file, "--vary", "training.gpusPerWorker=0", *SWEPT[:2], cwd=tmp_path, **ENV)
    assert done.returncode == 0, done.stdout + done.stderr
    parents = rows(database, f"select value from tags where run_uuid = '{good}' and key = 'mlflow.parentRunId'")
    assert len(parents) == 1 and len(rows(database, "select * from runs")) == 4


@contextmanager
def mlflow_server(root: Path, port: int) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    store = ("--backend-store-uri", f"sqlite:///{root}/server.db", "--artifacts-destination", f"{root}/kept")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "mlflow", "server", "--port", str(port), "--workers", "1", *store],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def test_a_server_that_goes_away_stops_no_training_and_gets_the_rest_later(tmp_path: Path) -> None:
    file, port, database = project(tmp_path), free_port(), tmp_path / "server.db"
    with mlflow_server(tmp_path, port) as url:
        words = ("run", "-f", file, "--mlflow", url)
        began = training(tmp_path, *words)
        process = began.__enter__()
    assert process.stdout is not None
    told = process.stdout.read()
    assert process.wait() == 0, told
    assert told.count("training goes on") == 1 and told.count("has not got everything") == 1
    assert len(steps_of(database, "train/loss")) < EPOCHS
    with mlflow_server(tmp_path, port):
        done = vitruvian(*words, cwd=tmp_path, **ENV)
    assert done.returncode == 0 and "fails" not in done.stdout, done.stdout + done.stderr
    assert steps_of(database, "train/loss") == list(range(1, EPOCHS + 1))
    assert rows(database, "select status from runs") == [("FINISHED",)]
    assert list((tmp_path / "kept").rglob("report/curves.html"))


@pytest.mark.parametrize("verb", ["tune", "study"])
def test_what_can_not_track_a_sweep_is_refused_before_work_begins(tmp_path: Path, verb: str) -> None:
    file = project(tmp_path, tuning={"space": {"training.learningRate": {"choice": [1e-2]}}})
    vary = ("--vary", "training.learningRate=1e-2") if verb == "study" else ()
    done = vitruvian(verb, "-f", file, *vary, "--mlflow", f"http://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1 and "Connection refused" in done.stderr
    assert not (tmp_path / "artifacts").exists()


_REFUSED = (
    "nobody answers",
    "no such scheme",
    "a folder",
    "a folder as a database",
    "no file",
    "another place",
    "a database's file",
    "no folder",
    "no key",
)


@pytest.mark.parametrize("case", _REFUSED)
def test_what_can_not_track_is_refused_before_work_begins(tmp_path: Path, case: str) -> None:
    words, said = {
        "nobody answers": (("--mlflow", f"http://me:secret@127.0.0.1:{free_port()}"), "Connection refused"),
        "no such scheme": (("--mlflow", "localhost:5000"), "localhost:5000"),
        "a folder": (("--mlflow", "mlruns"), "write sqlite:///mlruns/mlflow.db, or set MLFLOW_ALLOW_FILE_STORE=true"),
        "a folder as a database": (("--mlflow", "sqlite:///."), "is a folder; write sqlite:///./mlflow.db\n"),
        "a database's file": (("--mlflow", "mlflow.db"), "; write sqlite:///mlflow.db\n"),
        "no file": (("--mlflow", "sqlite:///"), "--mlflow sqlite:///: names no file; write sqlite:///mlflow.db\n"),
        "another place": (("--tensorboard", "s3://b/p"), "is no folder of this machine; write one, and copy it to S3"),
        "no folder": (("--tensorboard", "poses.yaml"), "poses.yaml: is a file; it wants a folder"),
        "no key": (("--wandb", "poses"), "run wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline"),
    }[case]
    env = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = vitruvian("run", "-f", project(tmp_path), *words, cwd=tmp_path, **env)
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("✗ ")
    assert said in done.stderr and "secret" not in done.stderr
    assert not list((tmp_path / "artifacts").glob("stages/*"))
