"""Running the loop under Ray Train, and passing on what its workers tell.

Ray's controller and the mailbox import this module: torch is imported on workers only, which saves their start.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitruvian.artifact import cache_folder
from vitruvian.errors import Terminated, TrainingError, VitruvianError
from vitruvian.machine import usable_cpus
from vitruvian.training import notice
from vitruvian.training.collector import resting
from vitruvian.training.job import Emit, Event, Job
from vitruvian.training.ray_cluster import logged_to, start_ray

if TYPE_CHECKING:
    import torch

_RESTARTS = 1000
_RESTARTS_IN_PLACE = 4
_SECONDS_BETWEEN_LOOKS = 0.1
# Asking an actor takes time from workers that have every core.
_SECONDS_BETWEEN_LETTERS = 0.5
# Less than pods have between SIGTERM and SIGKILL.
_SECONDS_TO_SAVE = 50.0

_LOOK = "see the log for what ends the workers"
_MORE_MEMORY = (
    "use fewer workers or a smaller training.batchSize, or end what else runs there (vitruvian plan tells what is "
    "needed); the same command goes on"
)

QUIET = {
    # The controller looks at its workers every 2 s by default: that is how late it would see them end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # What a step's gradients and activations lie in is kept for the next step: the kernel would clear it each time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}


def run(job: Job, log: Path, terminated: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train, and yield what the workers tell while they work; Ray's own log lines go to a file.

    Raises `TrainingError` where training failed for good, or what a worker raised for the user to mend; `Terminated`
    once `terminated` holds, after the workers have had time to save.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    train = _in_this_process if job.training.strategy == "none" else _on_workers
    with _noticed(), contextlib.closing(train(job, log)) as events:
        for event in events:
            if event is not None:
                yield event
            if terminated():
                raise _terminated()


@contextlib.contextmanager
def _noticed() -> Iterator[None]:
    """Have a place for notices: a pod's where it has one, or this run's, which workers on this machine share."""
    if notice.place() is not None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="vitruvian-notice-") as name:
        os.environ[notice.VARIABLE] = f"{name}/notice"
        try:
            yield
        finally:
            del os.environ[notice.VARIABLE]


def _terminated() -> Terminated:
    saved = notice.leave(_SECONDS_TO_SAVE)
    what = "ended by SIGTERM; " + ("all is saved" if saved else "what came after the last checkpoint is lost")
    return Terminated(what, hint="run the same command again to go on")


def _in_this_process(job: Job, log: Path) -> Generator[Event | None]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def take() -> list[Event]:
        return [events.get() for _ in range(events.qsize())]

    with logged_to(log):
        yield from follow(lambda: _fit(job, events.put, workers=0), take)


def _on_workers(job: Job, log: Path) -> Generator[Event | None]:
    with resting():
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # What `_fit` needs.
        from vitruvian.training import losses, rendezvous, resize, trainer  # noqa: F401

    ours = not ray.is_initialized()
    with logged_to(log):
        alone = ours and start_ray(job.training.world_size, log)
        try:
            # Beside the driver: with a worker's machine it would be lost, and the run with it.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
            tell = _Tell(mailbox)
            asked = job.training.workers
            workers = asked if isinstance(asked, int) else (asked.min, asked.max)
            if isinstance(workers, tuple):
                # So long Ray waits for a node that it counts on and that is lost, before it goes on with fewer workers;
                # what is there is reserved at once, however long workers take to start.
                os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
            yield from follow(
                lambda: _fit(job, tell, workers, ours, alone),
                lambda: ray.get(mailbox.take.remote()),
                _SECONDS_BETWEEN_LETTERS,
            )
        finally:
            if ours:
                ray.shutdown()


class _Mailbox:
    """Holds what rank 0 tells until the driver takes it."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def put(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        taken, self.events = self.events, []
        return taken


class _Tell:
    """Sends an event without waiting for it to arrive."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox

    def __call__(self, event: Event) -> None:
        self.mailbox.put.remote(event)


def _fit(job: Job, tell: Emit, workers: int | tuple[int, int], ours: bool = False, alone: bool = False) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from vitruvian.training.losses import TellsOfLosses
    from vitruvian.training.rendezvous import Rendezvous
    from vitruvian.training.resize import SavesBeforeResizing
    from vitruvian.training.trainer import Trainer

    resized = [SavesBeforeResizing(_SECONDS_TO_SAVE)] if isinstance(workers, tuple) else []
    gpus = job.training.gpus_per_worker
    # A CPU is a place for a worker; how many threads it uses is its machine's matter.
    each = {"CPU": 1} | ({"GPU": gpus} if gpus else {})
    # Gradients are averaged between GPUs, what the loop counts and agrees on between CPUs.
    joined = ("cpu:gloo,cuda:nccl" if gpus else "gloo") if workers else None
    Trainer(
        _work,
        ours=ours,
        alone=alone,
        train_loop_config={"job": job, "tell": tell, "joined": joined, "notice": notice.place()},
        backend_config=Rendezvous(),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=bool(gpus), resources_per_worker=each if workers else None
        ),
        run_config=RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=str(cache_folder() / "ray"),
            failure_config=FailureConfig(max_failures=_RESTARTS),
            callbacks=[TellsOfLosses(tell), *resized],
        ),
    ).fit()


def _work(config: dict[str, Any]) -> None:
    """What Ray runs on every worker, or in this process."""
    from vitruvian.training.rendezvous import join

    with resting():
        if config["joined"]:
            join(config["joined"])
        import ray.train
        import torch

        from vitruvian.training.loop import train

        context = ray.train.get_context()
        rank = context.get_world_rank()
        torch.set_num_threads(max(1, usable_cpus() // context.get_local_world_size()))
        tell = config["tell"] if rank == 0 else _nobody
        notice.shared(config["notice"])
        try:
            train(config["job"], rank, context.get_world_size(), tell, _device(config["job"]))
        except VitruvianError as e:
            # A restart would not mend it: end well and let the driver say what is wrong.
            config["tell"]({"kind": "error", "error": e})


def _device(job: Job) -> torch.device:
    import torch

    if not job.training.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        what = f"torch {torch.__version__} finds no GPU on this worker"
        raise TrainingError(what, where="spec.training.gpusPerWorker", hint="set it to 0, or look at the GPU's driver")
    from ray.train.torch import get_device

    device: torch.device = get_device()
    torch.cuda.set_device(device)
    return device


def _nobody(event: Event) -> None:
    pass


def follow(fit: Callable[[], None], take: Callable[[], list[Event]], seconds: float = 0) -> Generator[Event | None]:
    """Run `fit` in a thread of its own, so that Ctrl-C reaches this one at once, and yield events as they come.

    From the first step on events are taken every so many seconds only; between them, too, the caller is asked now and
    then: with None.
    """
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            fit()
        except BaseException as e:
            failures.append(e)

    thread = threading.Thread(target=guarded, daemon=True, name="fit")
    thread.start()
    progress = Progress()
    due, stepped = 0.0, False
    while True:
        alive = thread.is_alive()
        events: list[Event] = []
        if not alive or time.monotonic() >= due:
            try:
                events = take()
            except Exception as e:
                raise _failed(e) from e
            due = time.monotonic() + (seconds if stepped else 0)
        for event in events:
            if event["kind"] == "error":
                raise event["error"]
            stepped = stepped or event["kind"] == "step"
            progress.take(event)
            yield event
        if not alive:
            break
        yield None
        thread.join(_SECONDS_BETWEEN_LOOKS)
    if failures:
        raise _failed(failures[0])


class Progress:
    """Tells a training that comes further from one that begins again and again."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int]] = []
        self.lost: list[Event] = []
        """What was told of workers that were lost since training began last."""

    def take(self, event: Event) -> None:
        """Raise `TrainingError` where it doesn't come further any more."""
        if event["kind"] == "lost":
            self.lost.append(event)
            if len(self.lost) > _RESTARTS_IN_PLACE:
                self._refuse(f"workers were lost {len(self.lost)} times before training began")
        elif event["kind"] == "start":
            self.began.append((event["epoch"], event["step"]))
            # Machines may be lost any number of times, as long as there is a checkpoint in between.
            latest = self.began[-_RESTARTS_IN_PLACE - 1 :]
            if len(latest) > _RESTARTS_IN_PLACE and len(set(latest)) == 1:
                epoch, step = latest[0]
                place = f"epoch {epoch + 1}, step {step}"
                self._refuse(f"training was begun {len(latest)} times at {place}, and got no further")
            self.lost = []

    def _refuse(self, what: str) -> None:
        if not self.lost:
            raise TrainingError(what, hint=_LOOK)
        last = self.lost[-1]
        raise TrainingError(f"{what}: {last['why']}", hint=_MORE_MEMORY if last["memory"] else _LOOK)


def _failed(error: BaseException) -> BaseException:
    from vitruvian.training.losses import why

    if isinstance(error, VitruvianError) or not isinstance(error, Exception):
        return error
    reason = why(error)
    hint = _MORE_MEMORY if reason.memory else f"run the same command again to go on, or {_LOOK}"
    return TrainingError(f"training failed: {reason.text}", hint=hint)
