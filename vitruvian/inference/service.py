"""A predictor behind a server: its state, its threads, and how much it takes on at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from vitruvian.errors import VitruvianError
from vitruvian.inference.metrics import ServingMetrics
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import BUSY, NOT_READY, retry
from vitruvian.inference.startup import Startup
from vitruvian.machine import usable_cpus

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The bounds of one server."""

    max_body: int = 20_000_000
    """Bytes."""
    body_seconds: float = 60.0
    """How long a body may take to arrive."""
    max_inputs: int = 64
    """Inputs in one request."""
    max_pending: int = 64
    """Predictions accepted and not yet answered; more are refused with 429."""
    workers: int | None = None
    """Threads that decode and predict; the usable CPUs where None."""
    track: str = "stable"
    """`stable` or `canary`, for the metrics."""
    drain_seconds: float = 30.0
    """How long a stopping server waits for what it has accepted."""


class State(StrEnum):
    """Where a server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Service:
    """Runs predictions in threads of its own, so that the event loop only ever moves bytes."""

    def __init__(self, predictor: Predictor, settings: Settings, startup: Startup) -> None:
        self.predictor = predictor
        self.settings = settings
        self.startup = startup
        self.state = State.STARTING
        self.failure: VitruvianError | None = None
        self.settled = threading.Event()
        """Set once the state isn't `starting` any more."""
        self.metrics = ServingMetrics(predictor.bundle, settings.track)
        self.metrics.watch(ready=lambda: self.state is State.READY, waiting=lambda: self._waiting)
        self._pool = ThreadPoolExecutor(settings.workers or usable_cpus(), thread_name_prefix="predict")
        self._pending = 0
        self._waiting = 0

    async def start(self) -> None:
        """Predict the golden example; ready if the answer is right, else failed with `failure` set."""
        try:
            with self.startup.time("warm_up"):
                await asyncio.get_running_loop().run_in_executor(self._pool, self.predictor.warm_up)
            self.metrics.started(self.startup.seconds)
            if self.state is State.STARTING:
                self.state = State.READY
        except VitruvianError as e:
            self.state, self.failure = State.FAILED, e
        except Exception as e:
            self.state = State.FAILED
            self.failure = VitruvianError(f"can't predict ({e})", where=self.predictor.bundle.folder)
        finally:
            self.settled.set()

    def drain(self) -> None:
        """Accept no more predictions; those accepted are answered."""
        self.state = State.DRAINING

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check_ready(self) -> None:
        """Raise the `Problem` that says why no predictions are accepted, if they aren't."""
        if self.state is not State.READY:
            raise retry(NOT_READY, f"the server is {self.state}", 2, ready=False)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Hold one of the places for a prediction; raises a `Problem` where there is none."""
        self.check_ready()
        if self._pending >= self.settings.max_pending:
            raise retry(BUSY, f"{self._pending} predictions are waiting already", 1)
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    async def run(self, job: Callable[[], T]) -> T:
        """Return what a job returns, or raise what it raises; it runs in one of the threads when one is free."""
        queued = time.perf_counter()

        def timed() -> T:
            loop.call_soon_threadsafe(leave_queue)
            self.metrics.observe_stage("queue", time.perf_counter() - queued)
            return job()

        def leave_queue() -> None:
            self._waiting -= 1

        loop = asyncio.get_running_loop()
        self._waiting += 1
        return await loop.run_in_executor(self._pool, timed)
