"""The serving metrics of one server, on a registry of its own; those of a challenger are on its champion's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from vitruvian.bundle import Bundle
from vitruvian.inference.predictor import Prediction
from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import Metric

F = TypeVar("F")


class ServingMetrics:
    """What `/metrics` shows for one bundle on one track (`stable` or `canary`).

    `beside` has the metrics of the champion, where the bundle is its challenger.
    """

    def __init__(self, bundle: Bundle, track: str, beside: ServingMetrics | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = CollectorRegistry() if beside is None else beside.registry
        self.identity = (bundle.info.name, bundle.info.version, track)
        self._families: dict[str, Any] = {} if beside is None else beside._families
        if beside is None:
            ProcessCollector(registry=self.registry)
        self._requests = self._counter(names.REQUESTS)
        self._request_time = self._histogram(names.REQUEST_TIME)
        self._stage_time = self._histogram(names.STAGE_TIME)
        self._predictions = self._counter(names.PREDICTIONS)
        self._confidence = self._histogram(names.CONFIDENCE).labels(*self.identity)
        self._batch_size = self._histogram(names.BATCH_SIZE).labels(*self.identity)
        self.in_flight = self._gauge(names.REQUESTS_IN_FLIGHT).labels(*self.identity)
        self._ready = self._gauge(names.READY)
        self._startup = self._gauge(names.STARTUP_TIME)
        self._queue = self._gauge(names.QUEUE_LENGTH).labels(*self.identity)
        self._wait = self._gauge(names.QUEUE_WAIT).labels(*self.identity)
        self._gauge(names.BUNDLE_INFO).labels(*self.identity, bundle.digest, bundle.info.architecture).set(1)
        self._labels = bundle.info.labels
        # A series that begins at its first event would hide that event from rate().
        self._by_class = {label: self._predictions.labels(*self.identity, label) for label in self._labels}
        self._stages = {stage: self._stage_time.labels(*self.identity, stage) for stage in names.STAGES}
        # Looking a series up costs more than adding to it.
        self._request_series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch(self, *, ready: Callable[[], bool] | None, waiting: Callable[[], int], wait: Callable[[], float]) -> None:
        """Ask these functions at every scrape; `ready` is None for a challenger: it is no server of its own."""
        if ready is not None:
            self._ready.labels(*self.identity).set_function(lambda: float(ready()))
        self._queue.set_function(lambda: float(waiting()))
        self._wait.set_function(wait)

    def started(self, seconds: Mapping[str, float]) -> None:
        """Record how long each stage of the start took."""
        for stage, value in seconds.items():
            self._startup.labels(*self.identity, stage).set(value)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Count one HTTP request; `route` is a template, never a path."""
        known = self._request_series.get((route, code))
        if known is None:
            known = self._request_series[route, code] = (
                self._requests.labels(*self.identity, route, str(code)),
                self._request_time.labels(*self.identity, route),
            )
        known[0].inc()
        known[1].observe(seconds)

    def answers(self, answers: Sequence[object]) -> None:
        """Count the predictions of one request, those by the bundle's own labels by class."""
        for answer in answers:
            if isinstance(answer, Prediction) and answer.labels == self._labels:
                self._by_class[answer.label].inc()
                self._confidence.observe(answer.confidence)

    def ran(self, size: int) -> None:
        """Record a run of the model on so many inputs."""
        self._batch_size.observe(size)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time that a stage took."""
        self._stages[stage].observe(seconds)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type, in the format that the scraper accepts."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, metric: Metric) -> Counter:
        return self._family(metric, Counter)

    def _gauge(self, metric: Metric) -> Gauge:
        return self._family(metric, Gauge)

    def _histogram(self, metric: Metric) -> Histogram:
        return self._family(metric, partial(Histogram, buckets=metric.buckets))

    def _family(self, metric: Metric, make: Callable[..., F]) -> F:
        known: F | None = self._families.get(metric.name)
        if known is None:
            known = self._families[metric.name] = make(metric.name, metric.help, metric.labels, registry=self.registry)
        return known
