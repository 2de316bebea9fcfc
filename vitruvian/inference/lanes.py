"""Threads that decode and predict what is queued, each on a core of its own.

A lane takes what waits, as much at once as was seen to pay, and never waits for more. Decoding, model and answer of an
input stay in one lane. What nobody waits for any more, or what can't be ready in time, isn't begun.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitruvian.errors import DataError
from vitruvian.inference.admission import Costs, Ticket, Waits, late
from vitruvian.inference.predictor import Head, Prediction, Predictor, Prepared

_NEXT_TO_NOTHING = 0.001
"""Seconds."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Wanted:
    """What is wanted of an input: its answer by the bundle's labels, if nothing else is said."""

    head: Head | None = None
    """Other labels to tell apart."""
    embedding: bool = False
    """The model's output itself instead of an answer."""
    exact: bool = False
    """In full precision."""


USUAL = Wanted()


@dataclass(eq=False, slots=True)
class Input:
    """Something to predict, decoded only when its turn comes."""

    prepare: Callable[[], Prepared]
    """Returns it as the preprocessing leaves it, or as the model takes it where `tensor` is set; or what is wrong."""
    where: object
    wanted: Wanted = USUAL
    tensor: bool = False
    content: bytes | None = None
    """The file that it is decoded from, for those who decode it otherwise."""


Answer = Prediction | NDArray[np.float32] | DataError | Exception
"""A prediction or an embedding; or what is wrong with the input, or with the server."""


class Observer(Protocol):
    """What is told of what lanes do."""

    def observe_stage(self, stage: str, seconds: float) -> None: ...

    def ran(self, size: int) -> None: ...


class _Group:
    """What was put in together is answered together."""

    __slots__ = ("answers", "done", "left", "ticket")

    def __init__(self, count: int, ticket: Ticket, done: Callable[[list[Any]], None]) -> None:
        self.answers: list[Any] = [None] * count
        self.left = count
        self.ticket = ticket
        self.done = done


@dataclass(eq=False, slots=True)
class _Item:
    group: _Group
    at: int
    queued: float
    input: Input | None = None
    job: Callable[[], Any] | None = None
    seconds: float = 0.0
    """What a job is expected to take."""
    foretold: float = 0.0
    """How long it would wait, by what all that is before it costs."""

    @property
    def kind(self) -> object:
        """What may run together."""
        return self if self.input is None else (self.input.wanted.exact, self.input.tensor)


class Lanes:
    """Threads that share one queue; what is put in is answered by a call, in one of the threads."""

    def __init__(self, predictor: Predictor, count: int, observer: Observer | None = None) -> None:
        self.count = count
        self.observer = observer
        self._predictor = predictor
        self._costs = {False: Costs(), True: Costs()}
        self._waits = Waits()
        self._waiting = {False: 0, True: 0}
        self._job_seconds = 0.0
        self._queue: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._idle: list[threading.Lock] = []
        """What each idle lane waits for; a condition variable would make a new one each time."""
        self._ends = [0.0] * count
        """When each lane is expected to be free; 0 for one that is."""
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"lane-{lane}", daemon=True) for lane in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Inputs that no lane has taken yet."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        """Lanes that work."""
        return self.count - len(self._idle)

    def overdue(self) -> float:
        """Return for how many seconds all lanes have worked longer than was expected; 0 where one didn't."""
        now = time.monotonic()
        return max(0.0, min(now - end if end else 0.0 for end in self._ends))

    def wait(self) -> float:
        """Return how many seconds work that is put in now would wait."""
        return self._waits.corrected(self._ahead())

    def _ahead(self) -> float:
        """Return how many seconds the lanes need, by its costs, for all that is there."""
        if not self._queue and self._idle:
            return 0.0
        now = time.monotonic()
        ahead = self._job_seconds
        for end in self._ends:
            if end > now:
                ahead += end - now
        for exact, count in self._waiting.items():
            ahead += count * self._costs[exact].each
        return ahead / self.count

    def work(self, inputs: int, *, exact: bool = False) -> float:
        """Return how many seconds so many inputs are expected to take once they begin."""
        costs = self._costs[exact] if self._costs[exact].each else self._costs[False]
        return costs.each * max(1.0, inputs / self.count)

    def expect(self, seconds: float) -> None:
        """Take so many seconds for what an input costs, until runs tell better."""
        for costs in self._costs.values():
            costs.expect(seconds)

    def put(self, inputs: Sequence[Input], ticket: Ticket, done: Callable[[list[Answer]], None]) -> None:
        """Queue inputs; `done` is given their answers, in order, once all are there."""
        now = time.monotonic()
        group = _Group(len(inputs), ticket, done)
        self._enqueue([_Item(group, at, now, item) for at, item in enumerate(inputs)])

    def put_job(
        self, job: Callable[[], Any], ticket: Ticket, seconds: float, done: Callable[[list[Any]], None]
    ) -> None:
        """Queue a function that is expected to take so many seconds; `done` is given a list of what it returned."""
        self._enqueue([_Item(_Group(1, ticket, done), 0, time.monotonic(), None, job, seconds)])

    def close(self) -> None:
        """End once what was put in is answered."""
        with self._lock:
            self._closing = True
            self._wake(self.count)

    def _wake(self, lanes: int) -> None:
        for _ in range(min(lanes, len(self._idle))):
            self._idle.pop().release()

    def _is_soon_done(self) -> bool:
        """Decide whether a lane that works already had better take what waits, too.

        Where inputs cost next to nothing, a second lane would only be in the first one's way: one of them runs Python.
        """
        each = self._costs[False].each
        cheap = 0 < each * (len(self._queue) + 1) < _NEXT_TO_NOTHING
        return cheap and 0 < len(self._idle) < self.count and not self._job_seconds and not self._waiting[True]

    def _enqueue(self, items: list[_Item]) -> None:
        with self._lock:
            for item in items:
                item.foretold = self._ahead()
                self._count(item, 1)
                self._queue.append(item)
            if not self._is_soon_done():
                self._wake(len(items))

    def _count(self, item: _Item, by: int) -> None:
        if item.input is None:
            self._job_seconds += by * item.seconds
        else:
            self._waiting[item.input.wanted.exact] += by

    def _work(self, lane: int) -> None:
        woken = threading.Lock()
        woken.acquire()
        while True:
            with self._lock:
                self._ends[lane] = 0.0
                if not self._queue:
                    if self._closing:
                        return
                    self._idle.append(woken)
                    batch = None
                else:
                    batch, dropped = self._take()
                    now = time.monotonic()
                    self._ends[lane] = now + sum(self._expected(item) for item in batch)
                    saturated = bool(self._queue) and not self._idle
            if batch is None:
                woken.acquire()
                continue
            for item in dropped:
                self._answer(item, late())
            if batch:
                self._run(batch, now, saturated)

    def _take(self) -> tuple[list[_Item], list[_Item]]:
        """Take the next items that run together from the queue, and those before them that nobody needs any more."""
        batch: list[_Item] = []
        dropped: list[_Item] = []
        size, soonest = 0, math.inf
        now = time.monotonic()
        while self._queue and (not batch or len(batch) < size):
            item = self._queue[0]
            ticket = item.group.ticket
            ready = now + (len(batch) + 1) * self._expected(item)
            # Nobody's answer is made late by company.
            if batch and (item.kind != batch[0].kind or ready > min(soonest, ticket.deadline)):
                break
            self._queue.popleft()
            self._count(item, -1)
            self._waits.observe(item.foretold, now - item.queued)
            if ticket.gone or ready > ticket.deadline:
                dropped.append(item)
                continue
            batch.append(item)
            soonest = min(soonest, ticket.deadline)
            if not size:
                share = 1 + len(self._queue) // self.count
                size = 1 if item.input is None else self._costs[item.input.wanted.exact].batch_size(share)
        return batch, dropped

    def _expected(self, item: _Item) -> float:
        return item.seconds if item.input is None else self._costs[item.input.wanted.exact].each

    def _run(self, batch: list[_Item], began: float, saturated: bool) -> None:
        for item in batch:
            self._observe("queue", began - item.queued)
        if batch[0].input is None:
            self._answer(batch[0], _outcome(batch[0].job))
            return
        prepared: list[NDArray[np.generic]] = []
        good: list[_Item] = []
        for item in batch:
            decoding = time.monotonic()
            made = _outcome(item.input.prepare if item.input else None)
            self._observe("decode", time.monotonic() - decoding)
            if isinstance(made, Exception):
                self._answer(item, made)
            else:
                prepared.append(made)
                good.append(item)
        if not good:
            return
        first = good[0].input
        assert first is not None
        running = time.monotonic()
        answers = _outcome(lambda: self._answers(prepared, [item.input for item in good if item.input]))
        ended = time.monotonic()
        if self.observer is not None:
            self.observer.ran(len(good))
        self._costs[first.wanted.exact].observe(len(good), ended - running, ended - began, saturated=saturated)
        for at, item in enumerate(good):
            self._observe("predict", ended - running)
            self._answer(item, answers if isinstance(answers, Exception) else answers[at])

    def _observe(self, stage: str, seconds: float) -> None:
        if self.observer is not None:
            self.observer.observe_stage(stage, seconds)

    def _answers(self, prepared: list[NDArray[np.generic]], inputs: list[Input]) -> list[Answer]:
        run = self._predictor.outputs_of_tensors if inputs[0].tensor else self._predictor.outputs
        # A large input is worth no copy where it is alone.
        batch: NDArray[Any] = prepared[0][None] if len(prepared) == 1 else np.stack(prepared)
        outputs = run(batch, exact=inputs[0].wanted.exact)
        answers: list[Answer] = [None] * len(inputs)  # type: ignore[list-item]
        for wanted in {item.wanted for item in inputs}:
            places = [at for at, item in enumerate(inputs) if item.wanted is wanted]
            chosen = outputs[places]
            made: Sequence[Answer] = (
                list(chosen)
                if wanted.embedding
                else self._predictor.answers(chosen, [inputs[at].where for at in places], wanted.head)
            )
            for at, answer in zip(places, made, strict=True):
                answers[at] = answer
        return answers

    def _answer(self, item: _Item, answer: Any) -> None:
        group = item.group
        group.answers[item.at] = answer
        with self._lock:
            group.left -= 1
            last = not group.left
        if last:
            group.done(group.answers)


def _outcome(call: Callable[[], Any] | None) -> Any:
    assert call is not None
    try:
        return call()
    except (DataError, MemoryError) as e:
        return e
    except Exception as e:
        _log.exception("a prediction failed")
        return e
