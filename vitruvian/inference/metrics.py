"""The serving metrics of one server, on a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from vitruvian.bundle import Bundle
from vitruvian.inference.predictor import Prediction
from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import Metric


class ServingMetrics:
    """What `/metrics` shows for one bundle on one track (`stable` or `canary`)."""

    def __init__(self, bundle: Bundle, track: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.identity = (bundle.info.name, bundle.info.version, track)
        ProcessCollector(registry=self.registry)
        self._requests = self._counter(names.REQUESTS)
        self._request_time = self._histogram(names.REQUEST_TIME)
        self._stage_time = self._histogram(names.STAGE_TIME)
        self._predictions = self._counter(names.PREDICTIONS)
        self._confidence = self._histogram(names.CONFIDENCE).labels(*self.identity)
        self._batch_size = self._histogram(names.BATCH_SIZE).labels(*self.identity)
        self.in_flight = self._gauge(names.REQUESTS_IN_FLIGHT).labels(*self.identity)
        self._ready = self._gauge(names.READY).labels(*self.identity)
        self._startup = self._gauge(names.STARTUP_TIME)
        self._queue = self._gauge(names.QUEUE_LENGTH).labels(*self.identity)
        self._gauge(names.BUNDLE_INFO).labels(*self.identity, bundle.digest, bundle.info.architecture).set(1)
        # A series that begins at its first event would hide that event from rate().
        for label in bundle.info.labels:
            self._predictions.labels(*self.identity, label)
        for stage in names.STAGES:
            self._stage_time.labels(*self.identity, stage)

    def watch(self, *, ready: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """Ask these functions at every scrape."""
        self._ready.set_function(lambda: float(ready()))
        self._queue.set_function(lambda: float(waiting()))

    def started(self, seconds: Mapping[str, float]) -> None:
        """Record how long each stage of the start took."""
        for stage, value in seconds.items():
            self._startup.labels(*self.identity, stage).set(value)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Count one HTTP request; `route` is a template, never a path."""
        self._requests.labels(*self.identity, route, str(code)).inc()
        self._request_time.labels(*self.identity, route).observe(seconds)

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        """Count the predictions of one request."""
        self._batch_size.observe(len(predictions))
        for prediction in predictions:
            self._predictions.labels(*self.identity, prediction.label).inc()
            self._confidence.observe(prediction.confidence)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time that a stage took."""
        self._stage_time.labels(*self.identity, stage).observe(seconds)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe_stage(stage, time.perf_counter() - started)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type, in the format that the scraper accepts."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)
