"""What the champion answered is predicted by the challenger, too, where that costs nobody anything.

One thread does it, beside the lanes of both: a challenger that hangs holds up only this thread. It begins an input only
while a CPU is free, so it takes at most one CPU, and for one input's time at most from those who come meanwhile. (The
system's priorities are no help: a thread of low priority that holds the interpreter holds up all others.) What finds no
room in the bounded queue is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitruvian.errors import DataError
from vitruvian.inference.agreement import difference
from vitruvian.inference.lanes import USUAL, Answer, Input
from vitruvian.inference.predictor import Prediction, Prepared
from vitruvian.inference.service import Service
from vitruvian.observability import metrics as names

_log = logging.getLogger(__name__)

MOST_WAITING = 64
MOST_BYTES = 64_000_000
OTHER = "(other)"
"""What stands for both classes of a pair that came after the most pairs were known."""
_MOST_PAIRS = 100
_SECONDS_UNTIL_LOOKED_AGAIN = 0.005


@dataclass(eq=False, slots=True)
class _Seen:
    """Prepares an input for the champion, and notes how it was decoded and when."""

    prepare: Callable[[], Prepared]
    keep: bool
    made: Prepared | None = None
    at: float = 0.0

    def __call__(self) -> Prepared:
        made = self.prepare()
        if self.keep:
            self.made = made
        self.at = time.monotonic()
        return made


@dataclass(frozen=True, eq=False, slots=True)
class _Sample:
    """An input that the champion has answered, decoded where the challenger decodes alike, else as it came."""

    input: NDArray[np.generic] | bytes
    tensor: bool
    where: object
    answer: Prediction
    seconds: float
    """From the decoded input to the champion's answer."""
    size: int
    """Bytes that it holds while it waits."""


class Shadow:
    """Asks the challenger what the champion was asked, for a share of the requests (percent), and counts agreement."""

    def __init__(self, stable: Service, canary: Service, share: float) -> None:
        self.began: float | None = None
        """When the input that is being predicted was begun."""
        self._share = share
        self._predictor = canary.predictor
        self._alike = stable.predictor.bundle.preprocess == canary.predictor.bundle.preprocess
        self._lanes = (stable.lanes, canary.lanes)
        self.counts = Counts(stable, canary)
        self._queue: SimpleQueue[_Sample | None] = SimpleQueue()
        # Each is written by one thread only.
        self._bytes_in = self._bytes_out = 0
        self._failure_told = self._closing = False
        threading.Thread(target=self._work, name="shadow", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Inputs that wait for the challenger."""
        return self._queue.qsize()

    def close(self) -> None:
        """Let the thread end; what waits is left."""
        self._closing = True
        self._queue.put(None)

    def watch(self, inputs: Sequence[Input]) -> Callable[[list[Answer]], None] | None:
        """Return what wants to be told these inputs' answers, where the challenger is to answer them, too."""
        if random.random() * 100 >= self._share:
            return None
        seen = [self._see(item) for item in inputs]

        def told(answers: list[Answer]) -> None:
            # Later, when the champion's answer is on its way.
            asyncio.get_running_loop().call_soon(self._offer, inputs, seen, answers, time.monotonic())

        return told

    def _see(self, item: Input) -> _Seen | None:
        # Other labels than its own may mean nothing to the challenger, and another's tensors neither.
        if item.wanted is not USUAL or not (self._alike or item.content is not None):
            return None
        item.prepare = seen = _Seen(item.prepare, self._alike)
        return seen

    def _offer(
        self, inputs: Sequence[Input], seen: Sequence[_Seen | None], answers: Sequence[Answer], now: float
    ) -> None:
        for item, noted, answer in zip(inputs, seen, answers, strict=True):
            if noted is not None and isinstance(answer, Prediction) and not self._put(item, noted, answer, now):
                self.counts.agreements["dropped"].inc()

    def _put(self, item: Input, noted: _Seen, answer: Prediction, now: float) -> bool:
        """Queue an input, or return False where there is no room."""
        given: Any = item.content if noted.made is None else noted.made
        waits, size = self._bytes_in - self._bytes_out, memoryview(given).nbytes
        if self.waiting >= MOST_WAITING or (waits and waits + size > MOST_BYTES):
            return False
        if isinstance(given, np.ndarray) and not given.flags.owndata:
            # A row of a large body would keep all of it.
            given = given.copy()
        self._bytes_in += size
        self._queue.put(_Sample(given, item.tensor, item.where, answer, now - noted.at, size))
        return True

    def _work(self) -> None:
        while True:
            sample = self._queue.get()
            while not self._closing and not self._free():
                time.sleep(_SECONDS_UNTIL_LOOKED_AGAIN)
            if sample is None or self._closing:
                return
            self.began = time.monotonic()
            try:
                self._compare(sample)
            except Exception as e:
                self._fail(e)
            self.began = None
            self._bytes_out += sample.size

    def _free(self) -> bool:
        """Decide whether a CPU is free: the champion has a lane for each."""
        stable, canary = self._lanes
        return stable.busy + canary.busy < stable.count

    def _compare(self, sample: _Sample) -> None:
        made: Any = sample.input
        if isinstance(made, bytes):
            made = self._predictor.prepare(made, sample.where)
        if isinstance(made, DataError):
            raise made
        began = time.monotonic()
        outputs = self._predictor.outputs_of_tensors if sample.tensor else self._predictor.outputs
        (answer,) = self._predictor.answers(outputs(made[None]), [sample.where])
        if isinstance(answer, DataError):
            raise answer
        self.counts.observe(sample.answer, answer, (sample.seconds, time.monotonic() - began))

    def _fail(self, error: Exception) -> None:
        self.counts.agreements["failed"].inc()
        if not self._failure_told:
            # Once: there is one for each input, perhaps.
            self._failure_told = True
            _log.warning("the challenger has no answer where the champion has one (%s)", error)


class Counts:
    """Counts, in a server's metrics, what came of the inputs that the challenger was to answer, too."""

    def __init__(self, stable: Service, canary: Service) -> None:
        metrics = stable.metrics
        self._identity = (*canary.metrics.identity, stable.predictor.bundle.info.version)
        counts, times = metrics.counter(names.SHADOW), metrics.histogram(names.SHADOW_TIME)
        self.agreements = {name: counts.labels(*self._identity, name) for name in names.AGREEMENTS}
        self._champions = times.labels(*stable.metrics.identity)
        self._challengers = times.labels(*canary.metrics.identity)
        self._difference = metrics.histogram(names.SHADOW_DIFFERENCE).labels(*self._identity)
        self._confusion = metrics.counter(names.SHADOW_CONFUSION)
        self._pairs: set[tuple[str, str]] = set()

    def observe(self, champion: Prediction, challenger: Prediction, seconds: tuple[float, float]) -> None:
        """Record what both answered, and how long each of them took for it."""
        self._champions.observe(seconds[0])
        self._challengers.observe(seconds[1])
        self._difference.observe(difference(champion, challenger))
        pair = (champion.label, challenger.label)
        same = pair[0] == pair[1]
        self.agreements["same" if same else "different"].inc()
        if same:
            return
        if pair not in self._pairs and len(self._pairs) >= _MOST_PAIRS:
            pair = (OTHER, OTHER)
        self._pairs.add(pair)
        self._confusion.labels(*self._identity, *pair).inc()
