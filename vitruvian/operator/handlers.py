"""The operator as kopf runs it: every change that is seen, and time itself, leads to one look at one Classifier.

Nothing is kept in annotations or finalizers: a Classifier can be deleted where no operator is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import kopf

from vitruvian.cluster import rayjob, rayservice, serving
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import CLASSIFIER
from vitruvian.errors import VitruvianError
from vitruvian.operator.act import SECONDS_AFTER_TROUBLE, reconcile
from vitruvian.operator.crd import KIND

_log = logging.getLogger(__name__)
_CHILDREN: Final = (rayjob.KIND, rayservice.KIND, serving.KIND)
# Many changes come at once, as those that a look itself makes.
_SECONDS_AFTER_CHANGE: Final = 0.5
_LONGEST_LOOK: Final = 600.0


class Agenda:
    """When each classifier is looked at next."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._changed = asyncio.Event()

    def put(self, name: str, seconds: float) -> None:
        """Have a classifier looked at after so many seconds, or earlier where that was said already."""
        due = time.monotonic() + seconds
        self._due[name] = min(due, self._due.get(name, due))
        self._changed.set()

    async def next(self) -> str:
        """Return the classifier that is due first, when it is due."""
        while True:
            self._changed.clear()
            name = min(self._due, key=self._due.__getitem__, default=None)
            wait = None if name is None else self._due[name] - time.monotonic()
            if name is not None and wait is not None and wait <= 0:
                del self._due[name]
                return name
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)


class Worker:
    """Looks at one classifier after the other, in a thread: the client isn't made for several at once."""

    def __init__(self, look: Callable[[str], float | None]) -> None:
        self.agenda = Agenda()
        self._look = look
        self._since: float | None = None

    @property
    def seconds_at_it(self) -> float:
        """How long the look takes that goes on now."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self) -> None:
        """Look whenever a classifier is due, for ever."""
        while True:
            name = await self.agenda.next()
            self._since = time.monotonic()
            try:
                seconds = await asyncio.to_thread(self._look, name)
            except VitruvianError as e:
                _log.warning("%s: %s", name, e)
                seconds = SECONDS_AFTER_TROUBLE
            except Exception:
                # One classifier's trouble is not the others'.
                _log.exception("%s", name)
                seconds = SECONDS_AFTER_TROUBLE
            finally:
                self._since = None
            if seconds is not None:
                self.agenda.put(name, seconds)


def handlers(look: Callable[[str], float | None]) -> kopf.OperatorRegistry:
    """Return what kopf is to do."""
    registry = kopf.OperatorRegistry()
    worker: Worker | None = None
    task: asyncio.Task[None] | None = None

    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        nonlocal worker, task
        # Whatever is watched is in one namespace and there at the start: no right for the whole cluster is needed.
        settings.scanning.disabled = True
        settings.posting.enabled = False
        worker = Worker(look)
        task = asyncio.create_task(worker.run())

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        if task is not None:
            task.cancel()

    @kopf.on.probe(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def looks(**_: Any) -> float:
        seconds = worker.seconds_at_it if worker else 0.0
        if seconds > _LONGEST_LOOK:
            raise RuntimeError(f"one look takes {seconds:.0f} s")
        return seconds

    @kopf.on.event(KIND[0], KIND[1], registry=registry)
    async def changed(name: str | None, **_: Any) -> None:
        if worker and name:
            worker.agenda.put(name, _SECONDS_AFTER_CHANGE)

    async def child_changed(labels: Mapping[str, str], **_: Any) -> None:
        if worker:
            worker.agenda.put(labels[CLASSIFIER], _SECONDS_AFTER_CHANGE)

    for api, kind in _CHILDREN:
        kopf.on.event(api, kind, labels={CLASSIFIER: kopf.PRESENT}, registry=registry)(child_changed)
    return registry


def run(cluster: Cluster, port: int | None) -> None:
    """Run the operator of a namespace until it is asked to end; `port` tells whether it lives, at /healthz.

    Raises `VitruvianError` where the cluster has no Classifiers.
    """
    cluster.list(*KIND, "")
    # What kopf tells of itself is for those who write operators.
    kopf.configure(quiet=True, log_format=kopf.LogFormat.PLAIN)
    logging.getLogger("vitruvian").setLevel(logging.INFO)
    _log.info("looking after the Classifiers of namespace %s", cluster.namespace)
    kopf.run(
        registry=handlers(lambda name: reconcile(cluster, name)),
        standalone=True,
        namespaces=[cluster.namespace],
        liveness_endpoint=None if port is None else f"http://0.0.0.0:{port}/healthz",
    )
