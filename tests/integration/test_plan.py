"""A plan holds against what really happens: bytes of real workers and checkpoints, and the command itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.projects import CLASSES, TINY, VITRUVIAN, write_data
from tests.training_runs import last_checkpoint, make_job, run_ranks, train_until
from vitruvian.models.registry import architecture
from vitruvian.planning.memory import Setting, checkpoint_bytes, needed
from vitruvian.spec import Model, Strategy, Training
from vitruvian.training.measure import count
from vitruvian.training.parallel import Learner, own

MODELS: dict[str, dict[str, Any]] = {
    "vit": {"architecture": "vit", "dimensions": TINY},
    "clip": {"architecture": "clip", "dimensions": TINY},
    "resnet50": {"architecture": "resnet50", "dimensions": {"imageSize": 32}},
    "heatmap-cnn": {"architecture": "heatmap-cnn"},
}


def plan(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VITRUVIAN, "plan", "-f", "classifier.yaml", *options],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def declare(folder: Path, model: dict[str, Any], **training: Any) -> None:
    form = "heatmaps" if model["architecture"] == "heatmap-cnn" else "images"
    source = "synthetic://poses?count=200" if form == "heatmaps" else "data"
    spec = {"data": {"source": source, "format": form}, "model": model, "training": training}
    (folder / "classifier.yaml").write_text(yaml.safe_dump({"metadata": {"name": "tiny"}, "spec": spec}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_data(home / "data")
    return home


@pytest.mark.parametrize("name", MODELS)
def test_the_command_plans_every_architecture(home: Path, name: str) -> None:
    declare(home, MODELS[name], strategy="ddp", workers=2, batchSize=16, gpusPerWorker=1)
    done = plan(home, "--gpus", "a10g:4", "--no-measure", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["plan"]["workers"] == 4 and found["plan"]["dollars"][0] > 0
    assert found["parameters"] == count(Model.model_validate(MODELS[name]), CLASSES).values or name == "heatmap-cnn"
    assert found["examples"]["training"] == (130 if name == "heatmap-cnn" else 78)


def test_people_see_what_is_measured_and_what_is_computed(home: Path) -> None:
    declare(home, MODELS["vit"], batchSize=16)
    done = plan(home)
    assert done.returncode == 0, done.stderr
    for part in ("Memory of a worker", "optimizer state", "Measured:", "Assumed:", "counted in data", "15 epochs"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_what_can_not_fit_ends_with_one_line(home: Path) -> None:
    large = {"imageSize": 224, "patchSize": 16, "hiddenSize": 768, "layers": 12, "heads": 12}
    declare(home, {"architecture": "vit", "dimensions": large}, batchSize=384, gpusPerWorker=1)
    done = plan(home, "--gpus", "a10g", "--no-measure", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["fits"] is False
    (line,) = done.stderr.strip().splitlines()
    assert "an a10g has 22.0 GiB; accumulate: 2 fits" in line
    assert "; or activationCheckpointing: true fits" in line
    assert "strategy: fsdp with 2 workers" in line and "batchSize: 192" in line


@pytest.mark.parametrize(("batch", "remarked"), [(78, False), (79, True)])
def test_a_step_of_more_examples_than_there_are_is_remarked(home: Path, batch: int, remarked: bool) -> None:
    declare(home, MODELS["vit"], batchSize=batch)
    done = plan(home, "--no-measure", "--json")
    assert done.returncode == 0, done.stderr
    said = "batchSize 79 is more than the 78 examples to train on: an epoch is one step of them all, counted as 79"
    assert (said in json.loads(done.stdout)["remarks"]) is remarked


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--gpus", "a10:1"), "did you mean 'a10g'?"),
        (("--gpus", "a10g:2"), "strategy none trains with one worker, not with 2; write a10g:1"),
        (("--gpus", "a10g:0"), "'0' is no number of devices"),
    ],
)
def test_bad_options_get_one_line(home: Path, options: tuple[str, ...], part: str) -> None:
    declare(home, MODELS["vit"])
    done = plan(home, *options)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert part in line


def test_a_source_that_is_elsewhere_needs_a_number(home: Path, tmp_path: Path) -> None:
    declare(tmp_path, MODELS["vit"])
    refused = plan(tmp_path, "--no-measure")
    assert refused.returncode == 1 and "--examples 10000" in refused.stderr
    done = plan(tmp_path, "--no-measure", "--json", "--examples", "800")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["examples"]
    assert (found["training"], found["validation"]) == (800, 200)


@pytest.mark.parametrize("name", ["vit", "heatmap-cnn"])
def test_a_real_checkpoint_has_the_planned_bytes(tmp_path: Path, name: str) -> None:
    job = make_job(tmp_path, name, epochs=1)
    train_until(job)
    classes = tuple(json.loads((Path(job.prepared) / "index.json").read_text())["classes"])
    saved = last_checkpoint(job)
    parts = [saved["model"], saved["optimizer"], saved.get("chosen")]
    total = sum(own(tensor).nbytes for part in parts for tensor in _tensors(part))
    assert total == checkpoint_bytes(count(job.model, classes))


def _tensors(nested: Any) -> list[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        return [nested]
    inner = nested.values() if isinstance(nested, dict) else nested if isinstance(nested, list | tuple) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


def _hold(rank: int, world: int, folder: Path) -> None:
    for name, declared in MODELS.items():
        model = Model.model_validate(declared)
        shape = (17, 64, 48) if name == "heatmap-cnn" else (3, 32, 32)
        strategies: tuple[Strategy, ...] = ("ddp", "fsdp")
        for strategy in strategies:
            module = architecture(name).build(model, CLASSES)
            training = Training.model_validate({"strategy": strategy, "workers": world})
            learner = Learner(module, training, world, torch.device("cpu"))
            learnt = [p for p in module.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(learnt, fused=True)
            learner.trained.train()
            torch.autograd.backward(learner.trained(torch.rand(2, *shape)).sum())
            optimizer.step()
            held = {
                "weights": sum(own(tensor).nbytes for tensor in [*module.parameters(), *module.buffers()]),
                "gradients": sum(own(p.grad).nbytes for p in learnt if p.grad is not None),
                "optimizer": sum(own(tensor).nbytes for tensor in _tensors(list(optimizer.state.values()))),
            }
            (folder / f"{name}-{strategy}-{rank}.json").write_text(json.dumps(held))


def test_two_real_workers_hold_the_planned_bytes(tmp_path: Path) -> None:
    run_ranks(_hold, 2, tmp_path)
    for name, declared in MODELS.items():
        counts = count(Model.model_validate(declared), CLASSES)
        strategies: tuple[Strategy, ...] = ("ddp", "fsdp")
        for strategy in strategies:
            planned = needed(counts, Setting(strategy, 2, 4))
            held = json.loads((tmp_path / f"{name}-{strategy}-0.json").read_text())
            assert held == {part: getattr(planned, part) for part in held}, (name, strategy)
