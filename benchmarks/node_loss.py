"""How soon the next optimizer step is done after a node is lost, against Ray Train as it comes.

    python -m benchmarks.node_loss [--rounds 3]

A Ray cluster of real processes on this machine has two nodes for one worker each; `workers: {min: 1, max: 2}` train on
them until one node is killed and none comes for it. By turns: Ray's `TorchTrainer` on a cluster with its defaults, and
ours on one whose head watches its nodes as in the pods that we make.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from benchmarks.training import write_job
from vitruvian.cluster.raypods import WATCHFUL
from vitruvian.spec import Model, Training
from vitruvian.training.job import Job

_SECONDS = 300
_STEPS_BEFORE = 5
THEIRS, OURS = "Ray as it comes", "ours"


@contextlib.contextmanager
def cluster(env: Mapping[str, str]) -> Iterator[Any]:
    """Run a Ray cluster with a head that trains nothing and two nodes for a worker each; yield how one is lost."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.update(env)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost = [nodes.add_node(num_cpus=1) for _ in range(2)][-1]
        nodes.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = nodes.address
        yield lambda: nodes.remove_node(lost, allow_graceful=False)
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()
        nodes.shutdown()


def theirs(path: Path, told: Path, found: Callable[[float], object]) -> None:
    """Tell seconds from the loss to the next step under Ray Train as it comes."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    def worker() -> None:
        import torch
        import torch.distributed as dist
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from benchmarks.peers import Work, loop

        def tell(*_: Any) -> None:
            with open(told, "a") as file:
                file.write(f"{os.getpid()} {time.monotonic()}\n")

        register_optimizer_step_post_hook(tell)
        torch.set_num_threads(1)
        loop(Work(path), dist.get_rank(), dist.get_world_size())

    def steps() -> list[tuple[str, float]]:
        lines = told.read_text().splitlines() if told.exists() else []
        return [(line.split()[0], float(line.split()[1])) for line in lines]

    with cluster({}) as lose, tempfile.TemporaryDirectory() as storage:
        ray.init(logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})
        trainer = TorchTrainer(
            worker,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=(1, 2)),
            run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=-1)),
        )
        threading.Thread(target=_quietly, args=(trainer.fit,), daemon=True).start()
        _until(lambda: len(steps()) >= 2 * _STEPS_BEFORE)
        before = {pid for pid, _ in steps()}
        lost = time.monotonic()
        lose()
        _until(lambda: any(pid not in before for pid, _ in steps()))
        found(next(at for pid, at in steps() if pid not in before) - lost)


def _quietly(fit: Any) -> None:
    with contextlib.suppress(Exception):
        fit()


def _until(holds: Any) -> None:
    until = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError(f"nothing happened for {_SECONDS} s")
        time.sleep(0.05)


def ours(job: Job, log: Path, found: Callable[[float], object]) -> None:
    """Tell seconds from the loss to the next step of ours."""
    from vitruvian.training.launch import run

    lost: float | None = None
    begun_again = False
    with cluster(WATCHFUL) as lose, contextlib.closing(cast("Generator[dict[str, Any]]", run(job, log))) as events:
        for event in events:
            if event["kind"] == "start" and lost:
                begun_again = True
            if event["kind"] != "step":
                continue
            if begun_again and lost:
                found(time.monotonic() - lost)
                return
            if lost is None and event["step"] >= _STEPS_BEFORE:
                lost = time.monotonic()
                lose()
    raise RuntimeError("training ended before a node was lost")


def measure(name: str, root: Path) -> None:
    """Write seconds from the loss to the next step of one of the two to a file in a folder of its own.

    As soon as they are known: Ray may end a process whose cluster goes while it trains.
    """
    path = write_job(root, epochs=1000)

    def found(seconds: float) -> None:
        (root / "seconds").write_text(str(seconds))

    if name == THEIRS:
        theirs(path, root / "steps", found)
        return
    declared = json.loads(path.read_text())
    training = Training.model_validate(declared["training"] | {"workers": {"min": 1, "max": 2}})
    job = Job(Model.model_validate(declared["model"]), training, declared["prepared"], str(root / "run"))
    ours(job, root / "log", found)


def measured(name: str) -> float:
    """Return what `measure` finds in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="vitruvian-node-loss-") as folder:
        command = [sys.executable, "-m", "benchmarks.node_loss", "--measure", name, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = Path(folder) / "seconds"
        if not told.exists():
            raise RuntimeError(f"{name}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return float(told.read_text())


def main() -> None:
    """Print both side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        name, folder = asked.measure
        measure(name, Path(folder))
        return
    found: dict[str, list[float]] = {THEIRS: [], OURS: []}
    for _ in range(asked.rounds):
        for name, values in found.items():
            values.append(measured(name))
            print(name, values[-1], file=sys.stderr)
    table = Table("", "seconds", "in each round", title="from the loss of a node to the next step")
    for name, values in found.items():
        table.add_row(name, f"{statistics.median(values):.1f}", " ".join(f"{value:.1f}" for value in values))
    Console().print(table)
    ratios = [mine / peer for mine, peer in zip(found[OURS], found[THEIRS], strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
