"""How fast training steps, and how soon the first one is done, against what others run.

    python -m benchmarks.training [--rounds 3] [--what steps launch]

Two workers (gloo, CPU, one thread each) learn a small vision transformer. Steps: images per second of whole epochs but
the first, ours under Ray with metrics of every step, against a plain DDP loop under torchrun without any, and against
the Hugging Face Trainer (left out where `accelerate` isn't installed). Launch: from the command until the first
optimizer step is done, against torchrun; Ray as it comes is beside it. All of them by turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests import rays
from tests.ports import free_port
from vitruvian.spec import Model, Training
from vitruvian.training.job import Job

VIT = {"imageSize": 64, "patchSize": 8, "hiddenSize": 192, "layers": 6, "heads": 3}
BATCH = 32
# Enough that what an epoch's end costs doesn't count.
STEPS = 120
PEERS = Path(__file__).with_name("peers.py")
ROOT = PEERS.parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(PEERS)]
COMMANDS = {
    "torchrun": [*TORCHRUN, "torchrun"],
    "Trainer": [*TORCHRUN, "trainer"],
    "Ray as it comes": [sys.executable, str(PEERS), "ray"],
    "ours": [sys.executable, "-m", "benchmarks.training", "--ours"],
    "ours, Ray runs already": [sys.executable, "-m", "benchmarks.training", "--ours"],
}


def write_job(root: Path, epochs: int = 2) -> Path:
    """Return the file of the job that all of them train."""
    # It imports torch, which our driver has no need of.
    from tests.training_runs import make_job

    job = make_job(
        root,
        count=round(STEPS * BATCH / 0.7),
        model=Model.model_validate({"architecture": "vit", "dimensions": VIT}),
        epochs=epochs,
        batchSize=BATCH,
        learningRate=1e-3,
        augmentation="light",
        strategy="ddp",
        workers=2,
        earlyStopping=None,
        checkpoints={"everySteps": None},
    )
    path = root / "job.json"
    declared = {
        "model": job.model.model_dump(mode="json", by_alias=True),
        "training": job.training.model_dump(mode="json", by_alias=True),
        "prepared": job.prepared,
    }
    path.write_text(json.dumps(declared))
    return path


def ours(path: Path) -> None:
    """Train as `vitruvian run` does; print what the others print."""
    from vitruvian.training.launch import run

    asked = json.loads(path.read_text())
    with tempfile.TemporaryDirectory(prefix="vitruvian-training-") as folder:
        model, training = Model.model_validate(asked["model"]), Training.model_validate(asked["training"])
        job = Job(model, training, asked["prepared"], f"{folder}/run")
        first = True
        for event in run(job, Path(folder) / "log"):
            if event["kind"] == "step" and first:
                first = False
                print("first step", flush=True)
            if event["kind"] == "epoch":
                print(f"epoch {BATCH / event['imagesPerSecond']}", flush=True)


def timed(name: str, path: Path, until_first: bool) -> float:
    """Return seconds until the first step, or those of a step: the median of all epochs but the first.

    Raises `RuntimeError` where it ended without.
    """
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*COMMANDS[name], str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as process:
        assert process.stdout is not None
        epochs = []
        first = 0.0
        for line in process.stdout:
            # Ray puts a worker's name before what it prints.
            _, told, rest = line.partition("first step") if "first step" in line else line.partition("epoch ")
            if told == "first step":
                first = time.monotonic() - began
                if until_first:
                    process.terminate()
                    break
            elif told:
                epochs.append(float(rest.split()[0].removesuffix("\x1b[0m")))
        error = process.communicate()[1]
    if not first and not epochs:
        raise RuntimeError(f"{name}: {error[-2000:]}")
    return first if until_first else statistics.median(epochs[1:])


@contextlib.contextmanager
def running_ray() -> Iterator[None]:
    """Run a Ray cluster that stays up; raises `RuntimeError` where it doesn't start."""
    port = free_port()
    # On a machine that many share it answers only who knows its token.
    asked = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(asked)
    try:
        with rays.head(port, 2, "--include-dashboard", "false", "--disable-usage-stats"):
            os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
            yield
    finally:
        for name in ("RAY_ADDRESS", *asked):
            os.environ.pop(name, None)


def show(title: str, found: dict[str, list[float]], unit: str, scale: float) -> None:
    """Print medians, and what they are against torchrun's of the same round."""
    table = Table("", unit, "against torchrun", "in each round", title=title)
    for name, values in found.items():
        ratios = [value / peer for value, peer in zip(values, found["torchrun"], strict=True)]
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(name, f"{statistics.median(values) * scale:.3g}", f"{statistics.median(ratios):.3f}", each)
    Console().print(table)


def steps(path: Path, rounds: int) -> None:
    """Compare the time that a step takes."""
    names = ["torchrun", "ours", "Trainer"]
    if importlib.util.find_spec("accelerate") is None:
        names.remove("Trainer")
        print("left out: the Hugging Face Trainer (pip install accelerate)", file=sys.stderr)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name in names:
            found[name].append(timed(name, path, until_first=False))
            print(name, found[name][-1], file=sys.stderr)
    show(f"a step of {BATCH} images on two workers", found, "ms", 1000)


def launch(path: Path, rounds: int) -> None:
    """Compare the time until the first step."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name in ("torchrun", "ours", "Ray as it comes"):
            found[name].append(timed(name, path, until_first=True))
            print(name, found[name][-1], file=sys.stderr)
    with running_ray():
        name = "ours, Ray runs already"
        timed(name, path, until_first=True)
        for _ in range(rounds):
            found[name].append(timed(name, path, until_first=True))
            print(name, found[name][-1], file=sys.stderr)
    show("from the command until the first step", found, "seconds", 1)


def main() -> None:
    """Compare what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", nargs="+", choices=["steps", "launch"], default=["steps", "launch"])
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        ours(asked.ours)
        return
    root = Path(tempfile.mkdtemp(prefix="vitruvian-training-"))
    try:
        path = write_job(root)
        for what in asked.what:
            {"steps": steps, "launch": launch}[what](path, asked.rounds)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
