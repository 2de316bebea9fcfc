"""A predictor behind a server: its state, its lanes, and how much it takes on at once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect

from vitruvian.artifact import cache_folder
from vitruvian.data.decode import Bounds
from vitruvian.errors import VitruvianError
from vitruvian.inference.admission import Bodies, Ticket, check_wait, late
from vitruvian.inference.aside import aside
from vitruvian.inference.budget import Budget
from vitruvian.inference.labels import Encoder, LabelSets, read_labels
from vitruvian.inference.lanes import USUAL, Answer, Input, Lanes, Wanted
from vitruvian.inference.metrics import ServingMetrics
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import LATE, NOT_READY, UNUSABLE, Problem, retry
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.startup import Startup
from vitruvian.machine import usable_cpus

T = TypeVar("T")

_ROUNDS_TO_LEARN = 3
_EXACT = Wanted(exact=True)
_SECONDS_TO_LOAD = 2
"""When to come again, where the time was too short to load an export."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The bounds of one server."""

    max_body: int = 20_000_000
    """Bytes of one body, also after decompression."""
    max_bodies: int = 512_000_000
    """Bytes of all bodies in memory at once."""
    max_decoded: int = 64_000_000
    """Bytes that one picture may hold while it is decoded: a JPEG of 100 megapixels, a PNG of 16."""
    max_decoding: int = 256_000_000
    """Bytes that all pictures together may hold while they are decoded."""
    body_seconds: float = 60.0
    """How long a body may take to arrive."""
    max_inputs: int = 64
    """Inputs in one request."""
    queue_seconds: float = 10.0
    """How long accepted work may wait; more is refused with 429."""
    deadline_seconds: float = 30.0
    """How long an answer may take where the client says nothing."""
    lanes: int | None = None
    """Threads that decode and predict; the usable CPUs where None."""
    track: str = "stable"
    """`stable` or `canary`, for the metrics."""
    linger_seconds: float = 0.0
    """How long a server that is asked to end goes on as before, but isn't ready: until proxies know that it leaves."""
    drain_seconds: float = 30.0
    """How long it then waits for what it has accepted."""


class State(StrEnum):
    """Where a server is in its life."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    DRAINING = "draining"
    FAILED = "failed"


class Watcher(Protocol):
    """What looks on while predictions are made."""

    def watch(self, inputs: Sequence[Input]) -> Callable[[list[Answer]], None] | None:
        """Return what wants to be told these inputs' answers, if anything does."""


class Service:
    """Runs predictions in lanes of its own, so that the event loop only ever moves bytes.

    `beside` is the champion's service, where this one is its challenger's.
    """

    def __init__(
        self, predictor: Predictor, settings: Settings, startup: Startup, beside: Service | None = None
    ) -> None:
        self.predictor = predictor
        self.settings = settings
        self.startup = startup
        self.state = State.STARTING
        self.failure: VitruvianError | None = None
        self.settled = threading.Event()
        """Set once the state isn't `starting` any more."""
        self.metrics: ServingMetrics = ServingMetrics(
            predictor.bundle, settings.track, beside.metrics if beside else None
        )
        self.lanes = Lanes(predictor, settings.lanes or usable_cpus())
        self.bodies = Bodies(settings.max_bodies)
        self.watcher: Watcher | None = None
        predictor.bounds = Bounds(settings.max_decoded, Budget(settings.max_decoding).hold)
        self.labels = self._labels()
        self._loading: asyncio.Task[object] | None = None
        self.metrics.watch(
            ready=None if beside else lambda: self.state is State.READY,
            waiting=lambda: self.lanes.waiting,
            wait=self.lanes.wait,
        )

    async def start(self) -> None:
        """Predict the golden example, once; ready if the answer is right, else failed with `failure` set."""
        if self.settled.is_set():
            return
        try:
            with self.startup.time("warm_up"):
                await aside(self.predictor.warm_up)
                await self._learn()
            self.lanes.observer = self.metrics
            self.metrics.started(self.startup.seconds)
            if self.labels is not None:
                self._warming = asyncio.create_task(self.labels.warm())
            if self.state is State.STARTING:
                self.state = State.READY
        except VitruvianError as e:
            self.state, self.failure = State.FAILED, e
        except Exception as e:
            self.state = State.FAILED
            self.failure = VitruvianError(f"can't predict ({e})", where=self.predictor.bundle.folder)
        finally:
            self.settled.set()

    def take_over(self) -> None:
        """Be ready at once: whoever calls has predicted the golden example already."""
        self.lanes.observer = self.metrics
        self.state = State.READY
        self.settled.set()

    async def _learn(self) -> None:
        """Have all lanes predict the golden example at once: what an input costs is known before the first client."""
        content, where = self.predictor.bundle.golden_input(), self.predictor.bundle.info.golden.input
        inputs = [Input(lambda: self.predictor.prepare(content, where), where)] * (_ROUNDS_TO_LEARN * self.lanes.count)
        for answer in await self._answers(inputs, Ticket(3600)):
            if isinstance(answer, Exception):
                raise answer

    def _labels(self) -> LabelSets | None:
        """Return the sets of labels that requests may bring along; None without a text tower."""
        bundle = self.predictor.bundle
        tower = bundle.info.text
        if tower is None:
            return None

        def load() -> Encoder:
            from vitruvian.inference.texts import Texts

            return Texts(bundle.folder, tower)

        return LabelSets(
            load,
            self.run,
            scale=tower.scale,
            identity=bundle.digest,
            templates=tower.templates,
            folder=cache_folder() / "labels",
        )

    def leave(self) -> None:
        """Be ready no more; a server that was goes on answering what reaches it."""
        if self.state is State.READY:
            self.state = State.LEAVING
        elif self.state is State.STARTING:
            self.drain()

    @property
    def ends(self) -> bool:
        """Whether clients had better go to another server."""
        return self.state in (State.LEAVING, State.DRAINING)

    def drain(self) -> None:
        """Accept no more predictions; those accepted are answered."""
        self.state = State.DRAINING

    def close(self) -> None:
        """Let the threads end."""
        self.lanes.close()

    def check_ready(self) -> None:
        """Raise the `Problem` that says why no traffic should come, if it shouldn't."""
        if self.state is not State.READY:
            raise retry(NOT_READY, f"the server is {self.state}", 2, ready=False)

    def ticket(self, seconds: float | None = None) -> Ticket:
        """Return the claim of a request that just arrived; `seconds` is how long its client waits.

        Raises a `Problem` where an answer can't be promised, before anything of its body is read.
        """
        if self.state is not State.LEAVING:
            self.check_ready()
        ticket = Ticket(self.settings.deadline_seconds if seconds is None else seconds)
        self.check_time(ticket, 1)
        return ticket

    def check_time(self, ticket: Ticket, inputs: int, *, exact: bool = False) -> None:
        """Raise a `Problem` where so many inputs can't be answered in time."""
        check_wait(self.lanes.wait(), self.lanes.work(inputs, exact=exact), ticket.left, self.settings.queue_seconds)

    async def predict(self, inputs: Sequence[Input], ticket: Ticket) -> list[Answer]:
        """Return the answer to each input, in order; what is wrong with an input stays in its place.

        Raises a `Problem` where there is no time for it, and whatever the model fails with.
        """
        self.check_time(ticket, len(inputs), exact=inputs[0].wanted.exact if inputs else False)
        told = None if self.watcher is None else self.watcher.watch(inputs)
        answers = await self._answers(inputs, ticket)
        self.metrics.answers(answers)
        if told is not None:
            told(answers)
        return answers

    async def wanted(self, labels: object, templates: object, precision: object, ticket: Ticket) -> Wanted:
        """Return what a request wants that brings along labels or a precision, or neither.

        Raises `Malformed`, and a `Problem` where this bundle can't, or where there is no time to encode the labels or
        to load the export in full precision.
        """
        exact = _is_exact(precision, self.predictor)
        if exact and not self.predictor.is_exact_loaded:
            await self._load_exact(ticket)
        if labels is None:
            if templates is not None:
                raise Malformed("'templates' are for 'labels'; send both")
            return _EXACT if exact else USUAL
        if self.labels is None:
            raise Problem(UNUSABLE, "this model knows its own labels only: it has no text tower")
        asked = read_labels(labels, templates, self.labels.templates)
        return Wanted(head=await self.labels.head(asked, ticket), exact=exact)

    async def _load_exact(self, ticket: Ticket) -> None:
        """Wait for the export in full precision, which one request loads for all, in no lane: others need those.

        Raises a `Problem` where there is no time for it, which the next request finds done, or where it can't be used.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(aside(self.predictor.load_exact))
            self._loading.add_done_callback(self._told_loaded)
        loading = self._loading
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket.on_leave(lambda: None if left.done() else left.set_result(None))
        awaited: set[asyncio.Future[Any]] = {loading, left}
        await asyncio.wait(awaited, timeout=max(0.0, ticket.left), return_when=asyncio.FIRST_COMPLETED)
        if ticket.gone:
            raise ClientDisconnect
        if not loading.done():
            raise retry(LATE, "the export in full precision is being loaded", _SECONDS_TO_LOAD)
        try:
            loading.result()
        except VitruvianError as e:
            # Where it lies is the operator's, who reads it in the log.
            what = e.what.replace(f"{self.predictor.bundle.folder}/", "")
            raise Problem(UNUSABLE, f"this bundle's export in full precision can't be used: {what}") from e

    def _told_loaded(self, loading: asyncio.Task[object]) -> None:
        error = None if loading.cancelled() else loading.exception()
        if isinstance(error, VitruvianError):
            # It stays what it is: nobody waits for it again.
            _log.warning("nothing is answered in full precision, all else is: %s", error)
        elif error is not None:
            # For want of memory, perhaps; the next request tries again.
            self._loading = None

    async def run(self, job: Callable[[], T], ticket: Ticket, seconds: float) -> T:
        """Return what a function returns, or raise what it raises; it runs in a lane and counts as so many seconds."""
        check_wait(self.lanes.wait(), seconds, ticket.left, self.settings.queue_seconds)
        (value,) = await self._done(lambda done: self.lanes.put_job(job, ticket, seconds, done), ticket)
        if isinstance(value, Exception):
            raise value
        result: T = value
        return result

    async def _answers(self, inputs: Sequence[Input], ticket: Ticket) -> list[Answer]:
        return await self._done(lambda done: self.lanes.put(inputs, ticket, done), ticket) if inputs else []

    async def _done(self, put: Callable[[Callable[[list[Any]], None]], None], ticket: Ticket) -> list[Any]:
        """Return what lanes make of what is put in, by the deadline at the latest."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()

        def end(error: Exception) -> None:
            ticket.gone = True
            if not future.done():
                future.set_exception(error)

        def settle(answers: list[Any]) -> None:
            if not future.done():
                future.set_result(answers)

        ticket.on_leave(lambda: end(ClientDisconnect()))
        expiry = loop.call_later(max(0.0, ticket.left), lambda: end(late()))

        def done(answers: list[Any]) -> None:
            # Nobody waits where the loop has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, answers)

        put(done)
        try:
            return await future
        finally:
            ticket.gone = ticket.gone or future.cancelled()
            expiry.cancel()


def _is_exact(precision: object, predictor: Predictor) -> bool:
    if precision is None:
        return False
    if precision != "fp32":
        raise Malformed("the precision that can be asked for is fp32; without it, it is the one that is served")
    if not predictor.has_exact:
        raise Problem(UNUSABLE, "this bundle has no export in full precision")
    return True
