"""Training goes on exactly where it broke off, whoever stopped it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from benchmarks.exactness import CELLS, Cell, differences
from benchmarks.faults import KINDS
from benchmarks.faults import runs as strike_runs
from tests.training_runs import (
    Killed,
    chosen_weights,
    equal,
    last_checkpoint,
    make_job,
    run_ranks,
    train_ranks,
    train_until,
)
from vitruvian import artifact
from vitruvian.artifact import fetch
from vitruvian.data.prepared import Prepared
from vitruvian.errors import ArtifactError, TrainingError
from vitruvian.models.registry import architecture
from vitruvian.store import FolderStore, open_store
from vitruvian.training import batches, loop, notice
from vitruvian.training.batches import order
from vitruvian.training.behind import Behind
from vitruvian.training.checkpoints import STATE, Checkpoints, Position, read_state
from vitruvian.training.identity import decisive
from vitruvian.training.job import Job, best_epoch
from vitruvian.training.launch import run
from vitruvian.training.parallel import LEAST, Learner, own
from vitruvian.training.precision import LossScale


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def _position(job: Job) -> dict[str, Any]:
    store = open_store(job.checkpoints)
    folder = fetch(store, read_state(store).checkpoints[-1])
    position: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["position"]
    return position


def _history(job: Job) -> list[dict[str, float]]:
    history = _position(job)["history"]
    timed = ("seconds", "imagesPerSecond")
    return [{name: value for name, value in record.items() if name not in timed} for record in history]


@pytest.mark.parametrize("architecture", ["vit", "heatmap-cnn"])
@pytest.mark.parametrize(
    ("epoch", "step"), [(0, 2), (1, 3), (1, 0)], ids=["first epoch", "middle of an epoch", "end of an epoch"]
)
def test_a_run_that_broke_off_ends_with_the_same_bits(root: Path, architecture: str, epoch: int, step: int) -> None:
    whole = make_job(root, architecture, f"whole-{architecture}")
    if not read_state(open_store(whole.checkpoints)).checkpoints:
        train_until(whole)
    broken = make_job(root, architecture, f"broken-{architecture}-{epoch}-{step}")
    steps = 7
    train_until(broken, lambda event: event["kind"] == "checkpoint" and event["step"] == epoch * steps + step)
    events = train_until(broken)
    assert (events[0]["epoch"], events[0]["step"]) == (epoch, step)
    assert equal(last_checkpoint(whole), last_checkpoint(broken))
    assert equal(chosen_weights(whole), chosen_weights(broken))
    assert _history(whole) == _history(broken)


@pytest.mark.parametrize("cell", [CELLS[1], CELLS[2], CELLS[4], CELLS[15]], ids=str)
def test_a_run_that_is_killed_ends_with_the_bits_of_one_that_isnt(cell: Cell, tmp_path: Path) -> None:
    assert differences(cell, [3, 8], tmp_path) == []


def test_whatever_strikes_training_goes_on_from_the_newest_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    struck, runs, right, stale = strike_runs(len(KINDS), 0, tmp_path, print)
    assert {fault.kind for fault in struck} == set(KINDS)
    assert [fault for fault in struck if not fault.went_on] == []
    assert (right, stale) == (runs, 0)


Legs = list[tuple[int, int | None]]
"""Numbers of workers, each with the step at whose checkpoint they break off."""


def _note(rank: int, world: int, job: Job, stop_at: int | None, notes: Path) -> None:
    """Train, and write down where it begins and which examples each step learns from."""
    augment = batches.augment
    # By lines: what ends another worker ends this one between two of them.
    with open(notes / str(rank), "w", buffering=1) as file:

        def augmented(inputs: torch.Tensor, indices: Any, *arguments: Any) -> torch.Tensor:
            file.write(json.dumps(indices.tolist()) + "\n")
            return augment(inputs, indices, *arguments)

        def emit(event: dict[str, Any]) -> None:
            if event["kind"] == "start":
                file.write(f"{event['epoch'] * event['steps'] + event['step']}\n")
            if event["kind"] == "checkpoint" and event["step"] == stop_at:
                raise Killed

        with mock.patch.object(loop, "augment", augmented):
            loop.train(job, rank, world, emit)


def _examples(notes: Path) -> dict[int, list[int]]:
    """Return which examples each step learnt from, all workers together."""
    steps: dict[int, list[int]] = {}
    for path in notes.iterdir():
        first, *lines = path.read_text().splitlines()
        for step, line in enumerate(lines, int(first)):
            steps[step] = sorted([*steps.get(step, []), *json.loads(line)])
    return steps


@pytest.mark.parametrize(
    "legs",
    [[(2, None)], [(4, None)], [(2, 4), (1, 10), (2, None)]],
    ids=["2 workers", "4 workers", "2, then 1, then 2"],
)
def test_any_number_of_workers_learns_from_the_same_examples_in_the_same_order(
    root: Path, tmp_path: Path, legs: Legs
) -> None:
    one = make_job(root, run="one")
    if not read_state(open_store(one.checkpoints)).checkpoints:
        train_until(one)
    several = make_job(root, run=f"several-{tmp_path.name}", strategy="ddp", workers=2)
    learnt: dict[int, list[int]] = {}
    for leg, (world, stop_at) in enumerate(legs):
        notes = tmp_path / str(leg)
        notes.mkdir()
        try:
            run_ranks(_note, world, several, stop_at, notes)
        except ProcessRaisedException as e:
            assert "Killed" in str(e)
        # Of what was learnt twice the last time counts.
        learnt |= _examples(notes)
    batch, count = several.training.batch_size, len(Prepared.open(Path(several.prepared)).part("train"))
    steps = -(-count // batch)
    assert sorted(learnt) == list(range(several.training.epochs * steps))
    for step, examples in learnt.items():
        epoch, within = divmod(step, steps)
        shuffled = order(several.training.seed, epoch, count)
        assert examples == sorted(shuffled[within * batch : (within + 1) * batch].tolist()), step
    for first, second in zip(_history(one), _history(several), strict=True):
        assert first["trainLoss"] == pytest.approx(second["trainLoss"], abs=1e-5)
        assert first["validationLoss"] == pytest.approx(second["validationLoss"], abs=1e-5)


@pytest.mark.parametrize("architecture", ["vit", "heatmap-cnn"])
def test_a_model_that_is_shared_out_learns_what_a_whole_one_learns(root: Path, architecture: str) -> None:
    whole = make_job(root, architecture, f"whole-{architecture}-ddp", strategy="ddp", workers=2)
    train_ranks(whole, 2)
    # At once, and layer by layer, where it has any.
    for least in (LEAST, 1)[: 2 if architecture == "vit" else 1]:
        shared = make_job(root, architecture, f"shared-{architecture}-{least}", strategy="fsdp", workers=2)
        train_ranks(shared, 2, least=least)
        assert _history(whole) == _history(shared)
        assert equal(chosen_weights(whole), chosen_weights(shared))


def test_a_shared_out_run_that_broke_off_ends_with_the_same_bits(root: Path) -> None:
    whole, broken = (make_job(root, run=f"fsdp-{run}", strategy="fsdp", workers=2) for run in ("whole", "broken"))
    train_ranks(whole, 2)
    train_ranks(broken, 2, stop_at=10, least=1)
    assert len(_history(broken)) == 1
    # What is put together at once makes no difference to what is saved.
    train_ranks(broken, 2)
    assert equal(last_checkpoint(whole), last_checkpoint(broken))
    assert equal(chosen_weights(whole), chosen_weights(broken))


def test_a_shared_out_run_goes_on_with_one_worker(root: Path) -> None:
    whole, changed = (make_job(root, run=f"fsdp-{run}", strategy="fsdp", workers=2) for run in ("two", "two-one"))
    train_ranks(whole, 2)
    train_ranks(changed, 2, stop_at=10)
    train_until(changed)
    for first, second in zip(_history(whole), _history(changed), strict=True):
        assert first["trainLoss"] == pytest.approx(second["trainLoss"], abs=1e-5)


def test_validation_tells_how_far_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(root, run="told", epochs=2)
    monkeypatch.setattr(loop, "_BATCH_OF_VALIDATION", 10)
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_EVENTS", -1)
    events = train_until(job)
    told = [event for event in events if event["kind"] == "validation"]
    batches_of = -(-len(Prepared.open(Path(job.prepared)).part("validation")) // 10)
    assert [(event["epoch"], event["step"]) for event in told] == [
        (epoch, step) for epoch in range(2) for step in range(1, batches_of + 1)
    ]
    measured = [(event["loss"], event["accuracy"]) for event in told if event["step"] == event["steps"]]
    assert measured == [(record["validationLoss"], record["validationAccuracy"]) for record in _history(job)]


@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (1, {}),
        (2, {"strategy": "fsdp", "workers": 2}),
        (2, {"strategy": "ddp", "workers": 2, "accumulate": 2, "activationCheckpointing": True}),
        (1, {"loaders": 2, "activationCheckpointing": True, "checkpoints": {"everySteps": 5, "keep": 1}}),
    ],
    ids=["one process", "shared out", "in parts, computed again", "with loaders"],
)
@pytest.mark.parametrize("began", ["ddp", "fsdp"])
def test_a_run_goes_on_however_it_is_computed_from_then_on(
    root: Path, began: str, world: int, settings: dict[str, Any]
) -> None:
    whole = make_job(root, run="computed-one-way")
    if not read_state(open_store(whole.checkpoints)).checkpoints:
        train_until(whole)
    run = f"computed-{began}-{'-'.join(settings)}"
    first = make_job(root, run=run, strategy=began, workers=2, activationCheckpointing=began == "fsdp")
    second = make_job(root, run=run, **settings)
    assert decisive(first.model, first.training) == decisive(second.model, second.training)
    train_ranks(first, 2, stop_at=10)
    assert len(_history(first)) == 1
    if world == 1:
        train_until(second)
    else:
        train_ranks(second, world)
    for one, other in zip(_history(whole), _history(second), strict=True):
        assert one["trainLoss"] == pytest.approx(other["trainLoss"], abs=1e-5)
        assert one["validationLoss"] == pytest.approx(other["validationLoss"], abs=1e-5)


def test_training_stops_when_patience_is_over(root: Path) -> None:
    job = make_job(root, run="patience", epochs=30, learningRate=1e-2, earlyStopping={"patience": 2})
    epochs = [event for event in train_until(job) if event["kind"] == "epoch"]
    values = [(event["validationAccuracy"], -event["validationLoss"]) for event in epochs]
    assert len(epochs) < 30
    assert len(values) - 1 - values.index(max(values)) == 2


def test_the_last_epochs_weights_are_taken_where_they_are_asked_for(root: Path) -> None:
    best = make_job(root, run="best", epochs=6, learningRate=3e-2, earlyStopping=None)
    last = make_job(root, run="last", epochs=6, learningRate=3e-2, earlyStopping=None, select="last")
    train_until(best)
    train_until(last)
    history = _history(best)
    assert history == _history(last)
    assert read_state(open_store(best.checkpoints)).weights == f"weights-{best_epoch(history) + 1:04d}-attempt-1"
    assert read_state(open_store(last.checkpoints)).weights == "weights-0006-attempt-1"


def test_only_the_latest_checkpoints_and_the_chosen_weights_are_kept(root: Path) -> None:
    job = make_job(root, run="kept", checkpoints={"everySteps": 2, "keep": 2})
    train_until(job)
    store = open_store(job.checkpoints)
    state = read_state(store)
    assert len(state.checkpoints) == 2
    left = {entry.key.split("/")[0] for entry in store.list()}
    assert left == {STATE, state.weights, *state.checkpoints}


def test_a_stale_attempt_cant_commit(root: Path) -> None:
    job = make_job(root, run="stale")
    store = open_store(job.checkpoints)
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    stale, later = Checkpoints(store, keep=3), Checkpoints(store, keep=3)
    assert (stale.claim().attempt, later.claim().attempt) == (1, 2)
    later.save(module, optimizer, Position(), 4, 0, 1)
    later.settle()
    stale.save(module, optimizer, Position(), 9, 0, 1)
    with pytest.raises(TrainingError, match="attempt 1 is stale: a later one has taken over"):
        stale.settle()
    assert read_state(store) == later.state


def test_of_attempts_that_claim_at_once_each_gets_its_own_number(root: Path) -> None:
    store = open_store(make_job(root, run="claims").checkpoints)
    claimed: list[int] = []
    threads = [threading.Thread(target=lambda: claimed.append(Checkpoints(store, 3).claim().attempt)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 9))


def test_a_damaged_checkpoint_is_named(root: Path) -> None:
    job = make_job(root, run="damaged")
    train_until(job, lambda event: event["kind"] == "checkpoint")
    store = open_store(job.checkpoints)
    shard = next(entry.key for entry in store.list() if entry.key.endswith(".distcp"))
    store.put(shard, store.get(shard)[:-1] + b"x")
    with pytest.raises(ArtifactError, match="distcp"):
        train_until(job)


def test_of_checkpoints_the_newest_whole_one_is_gone_on_from(root: Path) -> None:
    whole, job = make_job(root, run="undamaged"), make_job(root, run="passed-over")
    train_until(whole)
    train_until(job, lambda event: event["kind"] == "checkpoint" and event["step"] == 6)
    store = open_store(job.checkpoints)
    *_, fourth, sixth = read_state(store).checkpoints
    for entry in list(store.list(f"{sixth}/")):
        store.delete(entry.key)
    events = train_until(job)
    passed_over = [event["error"] for event in events if event["kind"] == "passed over"]
    assert [error.what for error in passed_over] == ["there is no complete artifact here"]
    assert next(event["step"] for event in events if event["kind"] == "start") == 4, fourth
    assert equal(last_checkpoint(whole), last_checkpoint(job))


@pytest.mark.parametrize(
    "about",
    [
        {"world": 1},
        {"world": "x"},
        {"world": 0},
        {"position": {"x": 1}},
        {"position": "a"},
        {"position": {"epoch": -3, "step": 0, "history": []}},
        {"position": {"epoch": 0, "step": 2, "history": [1]}},
        {"position": {"epoch": 1, "step": 2, "history": [{}]}},
        {"position": {"epoch": 1, "step": 2, "history": [{"validationAccuracy": "x", "validationLoss": None}]}},
        {"position": {"epoch": 0, "step": 2, "history": [], "loss_sum": "x"}},
        {"files": {}},
    ],
    ids=str,
)
def test_a_checkpoint_whose_manifest_makes_no_sense_is_passed_over(root: Path, about: dict[str, Any]) -> None:
    job = make_job(root, run="senseless")
    store = open_store(job.checkpoints)
    if not read_state(store).checkpoints:
        train_until(job, lambda event: event["kind"] == "checkpoint" and event["step"] == 6)
    *_, before, newest = read_state(store).checkpoints
    key = f"{newest}/manifest.json"
    content = store.get(key)
    saved = json.loads(content)
    position = {} if "position" in about or "files" in about else {"position": "none"}
    store.put(key, json.dumps({**saved, **position, **about}).encode())
    checkpoints = Checkpoints(store, keep=3, state=read_state(store))
    found = checkpoints.find(1)
    store.put(key, content)
    assert found is not None
    assert (found[0].name, [fault.what for fault in found[1]]) == (before, ["is damaged"])


@pytest.mark.parametrize(
    ("end", "content"),
    [(".metadata", b"junk"), (".metadata", pickle.dumps({"storage_data": {}})), (".distcp", b"junk" * 1000)],
    ids=["no pickle", "of something else", "no tensors"],
)
def test_a_checkpoint_that_torch_cant_read_is_passed_over(root: Path, end: str, content: bytes) -> None:
    job = make_job(root, run="unreadable")
    store = open_store(job.checkpoints)
    if not read_state(store).checkpoints:
        train_until(job, lambda event: event["kind"] == "checkpoint" and event["step"] == 6)
    *_, before, newest = read_state(store).checkpoints
    folder = store.local(newest)
    assert folder is not None
    path = next(path for path in folder.iterdir() if path.name.endswith(end))
    manifest = folder / "manifest.json"
    former, content_of_manifest = path.read_bytes(), manifest.read_bytes()
    path.write_bytes(content)
    saved = json.loads(content_of_manifest)
    saved["files"][path.name] = vars(artifact.describe(path))
    manifest.write_text(json.dumps(saved))
    found = Checkpoints(store, keep=3, state=read_state(store)).find(1)
    path.write_bytes(former)
    manifest.write_bytes(content_of_manifest)
    assert found is not None
    assert (found[0].name, [fault.what for fault in found[1]]) == (before, ["is damaged"])


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"attempt": Infinity, "checkpoints": [], "weights": null}', '{"attempt": 1}', ""]
    + [
        f'{{"attempt": {attempt}, "checkpoints": {names}, "weights": {weights}}}'
        for attempt, names, weights in (
            (-5, "[]", "null"),
            (1, "[1, 2]", "null"),
            (1, '"abc"', "null"),
            (1, '["../../x"]', "null"),
            (1, "[]", "3"),
            (1, "[]", "0"),
            (1, "[]", '"/x"'),
            (1, "[]", '"\\u0000"'),
        )
    ],
    ids=lambda content: content[:60],
)
def test_a_damaged_state_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    with pytest.raises(TrainingError, match=r"state.json: is damaged; delete it to begin this run anew"):
        Checkpoints(FolderStore(tmp_path), keep=3).claim()


def test_a_state_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE).mkdir()
    with pytest.raises(TrainingError, match=r"state.json: can't be written: something else is there; delete it"):
        Checkpoints(FolderStore(tmp_path), keep=3).claim()


class _Slow(FolderStore):
    """A store whose writes of shards wait for leave."""

    def __init__(self, root: Path, leave: threading.Event) -> None:
        super().__init__(root)
        self.leave = leave

    def at(self, prefix: str) -> FolderStore:
        return _Slow(self.root / prefix, self.leave)

    def upload(self, key: str, path: Path) -> None:
        assert self.leave.wait(60)
        super().upload(key, path)


def test_what_is_learnt_while_a_checkpoint_is_written_isnt_in_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)

    def step() -> None:
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    step()
    before = [value.clone() for value in module.parameters()]
    leave, told = threading.Event(), threading.Event()
    checkpoints = Checkpoints(_Slow(tmp_path, leave), keep=3)
    checkpoints.claim()
    checkpoints.save(module, optimizer, Position(step=1), 1, 0, 1, lambda seconds: told.set())
    step()
    assert not told.is_set()
    assert read_state(FolderStore(tmp_path)).checkpoints == ()
    leave.set()
    checkpoints.settle()
    assert told.is_set()
    found = checkpoints.find(1)
    assert found is not None
    position = checkpoints.load(found[0], module, optimizer, 0, 1)
    assert position == Position(step=1)
    assert all(map(torch.equal, before, module.parameters()))


@pytest.mark.parametrize("niceness", [0, 15, 19])
def test_checkpoints_are_written_whatever_priority_and_user_a_worker_has(tmp_path: Path, niceness: int) -> None:
    # Ray's workers begin with 15, and in a pod nobody may go below.
    code = f"""
import os, sys
from vitruvian.training.behind import Behind
os.nice({niceness})
if os.geteuid() == 0:
    os.setuid(65534)
behind = Behind()
behind.add(lambda: open({str(tmp_path / "done")!r}, "w").close())
behind.settle()
"""
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists(), done.stderr


def test_work_that_fails_is_told_and_nothing_after_it_is_done() -> None:
    behind, did = Behind(), []
    behind.add(lambda: did.append(1 // 0))
    behind.add(lambda: did.append(2))
    with pytest.raises(ZeroDivisionError):
        behind.settle()
    assert did == []


@pytest.mark.parametrize(
    "settings", [{"loaders": 2}, {"activationCheckpointing": True}], ids=["loaders", "activation checkpointing"]
)
def test_how_examples_and_activations_come_changes_no_bit(root: Path, settings: dict[str, Any]) -> None:
    plain, other = make_job(root, run="plain"), make_job(root, run=f"plain-{next(iter(settings))}", **settings)
    if not read_state(open_store(plain.checkpoints)).checkpoints:
        train_until(plain)
    train_until(other, lambda event: event["kind"] == "checkpoint" and event["step"] == 10)
    train_until(other)
    assert equal(chosen_weights(plain), chosen_weights(other))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_step_in_parts_teaches_what_it_teaches_at_once(root: Path, strategy: str) -> None:
    once = make_job(root, run="at-once", epochs=2)
    parts = make_job(root, run=f"parts-{strategy}", epochs=2, accumulate=3, strategy=strategy, workers=2)
    if not read_state(open_store(once.checkpoints)).checkpoints:
        train_until(once)
    train_ranks(parts, 2)
    for first, second in zip(_history(once), _history(parts), strict=True):
        assert first["trainLoss"] == pytest.approx(second["trainLoss"], abs=1e-5)
        assert first["validationLoss"] == pytest.approx(second["validationLoss"], abs=1e-5)


@pytest.mark.parametrize("strategy", ["none", "ddp", "fsdp"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_keeps_float32_weights(root: Path, precision: str, strategy: str) -> None:
    workers = 1 if strategy == "none" else 2
    job = make_job(root, run=f"{precision}-{strategy}", precision=precision, strategy=strategy, workers=workers)
    train_until(job) if strategy == "none" else train_ranks(job, 2)
    losses = [record["trainLoss"] for record in _history(job)]
    assert losses[-1] < losses[0]
    full = make_job(root, run="fp32", precision="fp32")
    if not read_state(open_store(full.checkpoints)).checkpoints:
        train_until(full)
    assert losses != [record["trainLoss"] for record in _history(full)]
    assert losses == pytest.approx([record["trainLoss"] for record in _history(full)], abs=0.1)
    assert {value.dtype for value in chosen_weights(job).values()} == {torch.float32}


@pytest.mark.parametrize(("most", "norm"), [(None, 300.0), (1000.0, 300.0), (2.0, 2.0)])
def test_gradients_keep_their_norm_unless_it_is_larger_than_asked(root: Path, most: float | None, norm: float) -> None:
    job = make_job(root, gradientClip=most)
    module = torch.nn.Linear(3, 3, bias=False)
    module.weight.grad = torch.full_like(module.weight, 100.0)
    learner = Learner(module, job.training, 1, torch.device("cpu"))
    assert learner.clip(job.training.gradient_clip)
    assert float(module.weight.grad.norm()) == pytest.approx(norm)


@pytest.mark.parametrize("strategy", ["none", "fsdp"])
def test_a_step_whose_gradients_overflow_is_left_out_and_scaled_less(tmp_path: Path, strategy: str) -> None:
    world = 1 if strategy == "none" else 2
    job = make_job(tmp_path, precision="fp16", strategy=strategy, workers=world)
    run_ranks(_overflow, world, job, tmp_path) if world > 1 else _overflow(0, 1, job, tmp_path)
    for rank in range(world):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told == {"stepped": False, "scale": asdict(LossScale(2.0**15)), "untouched": True}


def _overflow(rank: int, world: int, job: Job, folder: Path) -> None:
    torch.manual_seed(0)
    module = architecture(job.model.architecture).build(job.model, ["a", "b"])
    learner = Learner(module, job.training, world, torch.device("cpu"))
    before = [own(value).detach().clone() for value in module.parameters()]
    optimizer = torch.optim.AdamW(module.parameters())
    for index, value in enumerate(module.parameters()):
        value.grad = torch.ones_like(value)
        if index == 0 and rank == 0:
            own(value.grad).fill_(float("inf"))
    stepped = learner.clip(1.0)
    if stepped:
        optimizer.step()
    untouched = all(torch.equal(own(value), old) for value, old in zip(module.parameters(), before, strict=True))
    told = {"stepped": stepped, "scale": asdict(learner.scale), "untouched": untouched}
    (folder / f"{rank}.json").write_text(json.dumps(told))


def test_a_run_in_float16_goes_on_with_the_scale_it_had(root: Path) -> None:
    whole, cut = (make_job(root, run=f"fp16-{run}", precision="fp16") for run in ("whole", "cut"))
    train_until(whole)
    train_until(cut, lambda event: event["kind"] == "checkpoint" and event["step"] == 10)
    train_until(cut)
    assert _position(cut)["scale"] == _position(whole)["scale"]
    assert _position(cut)["scale"] != asdict(LossScale())
    assert equal(last_checkpoint(whole), last_checkpoint(cut))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
def test_compiled_layers_learn_what_the_others_learn(root: Path) -> None:
    plain, compiled = (
        make_job(root, run=f"compiled-{compile}", epochs=1, batchSize=102, compile=compile) for compile in (False, True)
    )
    train_until(plain)
    train_until(compiled)
    assert _history(plain)[0]["trainLoss"] == pytest.approx(_history(compiled)[0]["trainLoss"], abs=1e-4)
    assert chosen_weights(plain).keys() == chosen_weights(compiled).keys()


def test_a_worker_that_is_killed_under_ray_loses_no_more_than_an_interval(root: Path, tmp_path: Path) -> None:
    job = make_job(root, run="ray", count=400, strategy="ddp", workers=2, epochs=6)
    whole = make_job(root, run="ray-whole", count=400, strategy="ddp", workers=2, epochs=6)
    train_ranks(whole, 2)
    starts, checkpoints, killed = [], [], False
    for event in run(job, tmp_path / "ray.log"):
        if event["kind"] == "start":
            starts.append(event)
        if event["kind"] == "checkpoint":
            checkpoints.append(event["step"])
            if not killed:
                killed = _kill_a_worker()
    assert killed
    assert [start["attempt"] for start in starts] == [1, 2]
    went_on = starts[1]["epoch"] * starts[1]["steps"] + starts[1]["step"]
    assert went_on > 0
    assert equal(chosen_weights(whole), chosen_weights(job))
    assert "ray" in (tmp_path / "ray.log").read_text()


def test_of_a_range_of_workers_training_uses_what_there_is(root: Path, tmp_path: Path) -> None:
    elastic = make_job(root, run="elastic", count=400, strategy="ddp", workers={"min": 1, "max": 2}, epochs=2)
    whole = make_job(root, run="elastic-whole", count=400, strategy="ddp", workers=2, epochs=2)
    train_ranks(whole, 2)
    starts = [event for event in run(elastic, tmp_path / "ray.log") if event["kind"] == "start"]
    assert [start["world"] for start in starts] == [2]
    assert equal(chosen_weights(whole), chosen_weights(elastic))


def test_a_notice_makes_the_loop_save_at_its_next_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(root, run="noticed", checkpoints={"everySteps": 1000})
    place = root / "noticed-here" / "notice"
    monkeypatch.setenv(notice.VARIABLE, str(place))
    answered: list[bool] = []
    asking = threading.Thread(target=lambda: answered.append(notice.leave(60)))

    def ask(event: dict[str, Any]) -> bool:
        if event["kind"] == "start":
            asking.start()
            while not place.exists():
                time.sleep(0.01)
        # The notice is answered when the checkpoint counts: training is broken off only after that.
        return bool(event["kind"] == "step" and event["epoch"] == 1)

    events = train_until(job, ask)
    asking.join()
    assert next(event["step"] for event in events if event["kind"] == "checkpoint") == 1
    assert answered == [True]
    assert not place.exists()


def test_workers_save_together_when_one_has_a_notice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(root, run="noticed-ranks", count=400, strategy="ddp", workers=2, checkpoints={"everySteps": 1000})
    whole = make_job(root, run="unnoticed-ranks", count=400, strategy="ddp", workers=2)
    train_ranks(whole, 2)
    place = root / "noticed-ranks-here" / "notice"
    monkeypatch.setenv(notice.VARIABLE, str(place))
    answered: list[bool] = []

    def ask() -> None:
        while not notice.running():
            time.sleep(0.01)
        answered.append(notice.leave(60))

    asking = threading.Thread(target=ask)
    asking.start()
    train_ranks(job, 2)
    asking.join()
    assert answered == [True]
    assert equal(chosen_weights(whole), chosen_weights(job))


def test_where_nothing_trains_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notice.VARIABLE, str(tmp_path / "notice"))
    assert not notice.leave(600)
    with notice.heeded():
        assert notice.running()
    assert not notice.leave(600)
    assert not (tmp_path / "notice").exists()


def _kill_a_worker() -> bool:
    def working() -> list[psutil.Process]:
        mine = psutil.Process().children(recursive=True)
        return [process for process in mine if "RayTrainWorker" in " ".join(process.cmdline())]

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for process in working():
            os.kill(process.pid, signal.SIGKILL)
            return True
        time.sleep(0.05)
    return False
