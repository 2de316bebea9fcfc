"""Studies and searches train for real, go on after they were killed, and lead to a declaration that runs."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
import yaml
from transformers import ViTConfig, ViTForImageClassification

from tests.projects import VITRUVIAN, declare, vitruvian, write_data
from tests.stores import BUCKET, moto
from vitruvian import spec
from vitruvian.store import open_store

# No GPU is here: it is missed only when its variant's turn comes.
GPUS = ("--vary", "training.gpusPerWorker=0,1")
needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="needs a machine without a GPU: hide it with CUDA_VISIBLE_DEVICES=''"
)


@pytest.fixture(scope="module")
def heatmaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "heatmaps", "heatmaps", each=16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "pictures", each=16)


def _until(line: str, *arguments: str | Path, then: Callable[[], bool] = lambda: True) -> str:
    """Run a command, kill it -9 after the first line with a text, once `then` holds, and return what it told."""
    process = subprocess.Popen(
        [VITRUVIAN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    told = ""
    for read in process.stdout:
        told += read
        if line in read:
            while not then() and process.poll() is None:
                time.sleep(0.005)
            process.kill()
            break
    assert process.wait(60) == -9, told
    return told


def _lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "study.csv") as file:
        return list(csv.DictReader(file))


def test_a_killed_study_goes_on_and_ends_with_a_table(tmp_path: Path, heatmaps: Path) -> None:
    file = declare(tmp_path, heatmaps, "heatmaps", training={"epochs": 1})
    study = ("study", "-f", file, "--vary", "training.learningRate=1e-2,1e-3", "--seeds", "0,1")
    told = _until("variant 3 of 4", *study)
    assert told.count("2/6 train") == 2
    done = vitruvian(*study)
    assert done.returncode == 0, done.stdout + done.stderr
    # What was done is fresh, and the data was read once for all.
    assert len(re.findall("2/6 train .*fresh", done.stdout)) == 2
    assert len(re.findall("1/6 prepare", done.stdout)) == 1
    (folder,) = (tmp_path / "artifacts" / "studies").iterdir()
    assert {path.name for path in folder.iterdir()} == {"study.html", "study.png", "study.csv", "best.yaml"}
    lines = _lines(folder)
    assert [(line["learningRate"], line["seed"]) for line in lines] == [
        ("0.01", "0"),
        ("0.01", "1"),
        ("0.001", "0"),
        ("0.001", "1"),
    ]
    mean = {
        rate: sum(float(line["validationAccuracy"]) for line in lines if line["learningRate"] == rate) / 2
        for rate in ("0.01", "0.001")
    }
    best = spec.load(folder / "best.yaml")
    assert mean[f"{best.spec.training.learning_rate:g}"] == max(mean.values())
    assert best.spec.training.seed == 0
    assert f"vitruvian run -f {folder / 'best.yaml'}" in done.stdout
    # A study that is done is free, and is the same one.
    again = vitruvian(*study)
    assert len(re.findall("2/6 train .*fresh", again.stdout)) == 4
    assert [path.name for path in (tmp_path / "artifacts" / "studies").iterdir()] == [folder.name]


@needs_no_gpu
def test_one_variant_that_fails_is_a_line_and_the_rest_go_on(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, training={"epochs": 1})
    out = tmp_path / "freezing"
    done = vitruvian("study", "-f", file, "--vary", "model.freezeLayers=0,1", *GPUS, "--out", out)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in _lines(out) if line["gpusPerWorker"] == "1"]
    lines = {line["freezeLayers"]: line for line in _lines(out) if line not in failed}
    assert len(failed) == 2 and all("GPU" in line["error"] and not line["testAccuracy"] for line in failed)
    assert int(lines["0"]["trainedParameters"]) == int(lines["0"]["parameters"])
    assert 0 < int(lines["1"]["trainedParameters"]) < int(lines["1"]["parameters"])
    assert failed[0]["error"] in (out / "study.html").read_text().replace("&#39;", "'")
    assert not (tmp_path / "artifacts" / "studies").exists()


def test_combinations_that_arent_valid_are_named_before_anything_is_trained(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, training={"epochs": 1})
    study = ("study", "-f", file, "--vary", "model.architecture=vit,resnet50", "--vary", "model.freezeLayers=0")
    refused = vitruvian(*study)
    assert refused.returncode == 2
    assert refused.stderr.startswith("✗ model.architecture=resnet50, model.freezeLayers=0: spec.model: of dimensions")
    assert not (tmp_path / "artifacts").exists()
    done = vitruvian(*study, "--skip-invalid")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "artifacts" / "studies").iterdir()
    assert [line["architecture"] for line in _lines(folder)] == ["vit"]
    assert "Left out, not valid: model.architecture=resnet50" in (folder / "study.html").read_text()


@pytest.mark.parametrize("command", ["study", "tune"])
def test_layers_that_arent_there_are_named_before_anything_is_trained(
    tmp_path: Path, pictures: Path, command: str
) -> None:
    if command == "study":
        file = declare(tmp_path, pictures, training={"epochs": 1})
        refused = vitruvian("study", "-f", file, "--vary", "model.freezeLayers=0,9")
    else:
        file = _searched(tmp_path, pictures, "images", space={"model.freezeLayers": {"choice": [8, 9]}}, trials=2)
        refused = vitruvian("tune", "-f", file, "--out", tmp_path / "best.yaml")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "model.freezeLayers=9: model.freezeLayers: is 9, but there are 1 layers" in refused.stderr
    assert not (tmp_path / "artifacts").exists()


def _searched(tmp_path: Path, source: Path, form: str = "heatmaps", **tuning: Any) -> Path:
    return declare(tmp_path, source, form, training={"epochs": 3}, tuning=tuning)


def test_a_killed_search_goes_on_and_asha_stops_a_bad_trial(tmp_path: Path, heatmaps: Path) -> None:
    # Seed 1 draws the good value first.
    space = {"training.learningRate": {"choice": [1e-2, 1e-9]}}
    file = _searched(tmp_path, heatmaps, space=space, trials=2, seed=1, metric="validationLoss")
    out = tmp_path / "best.yaml"
    tune = ("tune", "-f", file, "--concurrent", "1", "--out", out)
    told = _until("trial 1/2", *tune)
    assert "learningRate=0.01" in told
    (folder,) = (tmp_path / "artifacts" / "tuning").iterdir()
    (record,) = folder.glob("*.json")
    known = record.read_bytes()

    done = vitruvian(*tune)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials, 1 of them known" in done.stdout and "trial 1/2" not in done.stdout
    assert record.read_bytes() == known
    with open(folder / "trials.csv") as table:
        first, second = csv.DictReader(table)
    # The scheduler knows of the first trial by its record only: it ran before the kill.
    assert (first["learningRate"], first["epochs"], first["status"]) == ("0.01", "3", "ended")
    assert (second["learningRate"], second["epochs"], second["status"]) == ("1e-09", "1", "stopped")

    best = yaml.safe_load(out.read_text())["spec"]
    assert best["training"]["learningRate"] == 0.01 and "tuning" not in best
    assert out.read_bytes() == (folder / "best.yaml").read_bytes()
    trained = vitruvian("train", "-f", out)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    # What the winner learnt as a trial isn't learnt again: its epochs are the same, to the second they took.
    (stage,) = (tmp_path / "artifacts" / "stages" / "train").iterdir()
    history = json.loads((stage / "history.json").read_text())
    recorded = json.loads(known)["history"]
    assert [epoch["seconds"] for epoch in history] == [epoch["seconds"] for epoch in recorded]


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path, heatmaps: Path) -> None:
    space = {"training.learningRate": {"choice": [1e-2]}}
    file = _searched(tmp_path, heatmaps, space=space, trials=1, scheduler="none")
    tune = ("tune", "-f", file, "--out", tmp_path / "best.yaml")

    def saved() -> bool:
        # Checkpoints are written behind the training.
        states = [
            json.loads(path.read_text()) for path in (tmp_path / "artifacts" / "checkpoints").glob("*/state.json")
        ]
        return any(state["checkpoints"] for state in states)

    _until("trial 1, epoch 1 of 3", *tune, then=saved)
    (checkpoints,) = (tmp_path / "artifacts" / "checkpoints").iterdir()
    state = json.loads((checkpoints / "state.json").read_text())
    first = json.loads((checkpoints / state["checkpoints"][0] / "manifest.json").read_text())["position"]["history"][0]
    done = vitruvian(*tune)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "artifacts" / "tuning").iterdir()
    (record,) = folder.glob("*.json")
    history = json.loads(record.read_text())["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert history[0]["seconds"] == first["seconds"]


def test_a_trial_that_fails_is_told_and_the_rest_go_on(tmp_path: Path, pictures: Path) -> None:
    size = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 32}
    config = ViTConfig(**size, num_hidden_layers=1, num_attention_heads=2)
    ViTForImageClassification(config).save_pretrained(tmp_path / "weights")
    # Maps that aren't there are missed only where a model is built.
    space = {"model.lora": {"choice": [{"rank": 2}, {"rank": 2, "targets": ["nothing"]}]}}
    file = _searched(tmp_path, pictures, "images", space=space, trials=2, scheduler="none")
    declared = yaml.safe_load(file.read_text())
    declared["spec"]["model"] = {"architecture": "vit", "pretrained": str(tmp_path / "weights")}
    declared["spec"]["training"]["epochs"] = 1
    file.write_text(yaml.safe_dump(declared))
    done = vitruvian("tune", "-f", file, "--out", tmp_path / "best.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the space has no more" not in done.stdout
    assert len(re.findall("nothing.*failed: ", done.stdout)) == 1
    assert spec.load(tmp_path / "best.yaml").spec.model.lora == spec.Lora(rank=2)


def test_a_search_needs_a_space_and_leaves_other_declarations_alone(tmp_path: Path, heatmaps: Path) -> None:
    file = declare(tmp_path, heatmaps, "heatmaps")
    refused = vitruvian("tune", "-f", file)
    assert refused.returncode == 2 and refused.stderr.startswith("✗ spec.tuning: is missing")
    other = declare(tmp_path, heatmaps, "heatmaps", name="other")
    file = _searched(tmp_path, heatmaps, space={"training.epochs": {"int": [1, 2]}})
    before = other.read_bytes()
    refused = vitruvian("tune", "-f", file, "--out", other)
    assert refused.returncode == 2 and "declares another classifier" in refused.stderr
    refused = vitruvian("tune", "-f", file, "--out", other / "best.yaml")
    assert refused.returncode == 2 and f"{other} is no folder; give another file with --out" in refused.stderr
    assert other.read_bytes() == before


def test_the_best_declaration_may_go_to_s3_and_leaves_another_ones_alone(tmp_path: Path, heatmaps: Path) -> None:
    space = {"training.epochs": {"int": [1, 2]}}
    file = _searched(tmp_path, heatmaps, space=space, trials=1)
    other = declare(tmp_path, heatmaps, "heatmaps", name="other", tuning={"space": space})
    with moto() as server, pytest.MonkeyPatch.context() as patched:
        for name, value in server.settings().items():
            patched.setenv(name, value)
        boto3.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)
        out = f"s3://{BUCKET}/poses/best.yaml"
        done = vitruvian("tune", "-f", file, "--out", out)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"the best by validationAccuracy: {out}" in done.stdout
        best = open_store(f"s3://{BUCKET}/poses").get("best.yaml")
        assert spec.parse(best.decode()).spec.tuning is None
        refused = vitruvian("tune", "-f", other, "--out", out)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert refused.stderr.startswith(f"✗ {out}: declares another classifier")
        nameless = vitruvian("tune", "-f", file, "--out", f"s3://{BUCKET}/")
        assert nameless.stderr.startswith("✗ --out: names no file; write s3://")
