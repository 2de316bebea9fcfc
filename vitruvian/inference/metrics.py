"""The serving metrics of one server, on a registry of its own, or in files that several processes share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    multiprocess,
)
from prometheus_client import (
    Metric as Family,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from vitruvian.bundle import Bundle
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.processes import METRICS_FOLDER
from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import Metric

F = TypeVar("F")
Identity = tuple[str, str, str]
"""The values of the labels that every metric has."""


class ServingMetrics:
    """What `/metrics` shows for one bundle on one track (`stable` or `canary`).

    `beside` has the metrics of the champion, where the bundle is its challenger.
    """

    def __init__(self, bundle: Bundle, track: str, beside: ServingMetrics | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = CollectorRegistry() if beside is None else beside.registry
        self._families: dict[str, Any] = {} if beside is None else beside._families
        self._asked: list[tuple[Gauge, Callable[[], float]]] = [] if beside is None else beside._asked
        self._shared = METRICS_FOLDER in os.environ
        self.identity: Identity = (bundle.info.name, bundle.info.version, track)
        if beside is None and not self._shared:
            ProcessCollector(registry=self.registry)
        self._requests = self.counter(names.REQUESTS)
        self._request_time = self.histogram(names.REQUEST_TIME)
        self._stage_time = self.histogram(names.STAGE_TIME)
        self._predictions = self.counter(names.PREDICTIONS)
        self._confidence = self.histogram(names.CONFIDENCE).labels(*self.identity)
        self._batch_size = self.histogram(names.BATCH_SIZE).labels(*self.identity)
        self._last_inference = self.gauge(names.LAST_INFERENCE, "max").labels(*self.identity)
        self.in_flight = self.gauge(names.REQUESTS_IN_FLIGHT, "livesum").labels(*self.identity)
        self._ready = self.gauge(names.READY, "livemax")
        self._startup = self.gauge(names.STARTUP_TIME, "max")
        self._queue = self.gauge(names.QUEUE_LENGTH, "livesum").labels(*self.identity)
        self._wait = self.gauge(names.QUEUE_WAIT, "livemax").labels(*self.identity)
        self.gauge(names.BUNDLE_INFO, "max").labels(*self.identity, bundle.digest, bundle.info.architecture).set(1)
        self._labels = bundle.info.labels
        # A series that begins at its first event would hide that event from rate().
        self._by_class = {label: self._predictions.labels(*self.identity, label) for label in self._labels}
        self._stages = {stage: self._stage_time.labels(*self.identity, stage) for stage in names.STAGES}
        # Looking a series up costs more than adding to it.
        self._request_series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch(self, *, ready: Callable[[], bool] | None, waiting: Callable[[], int], wait: Callable[[], float]) -> None:
        """Ask these functions at every scrape; `ready` is None for a challenger: it is no server of its own."""
        if ready is not None:
            self.ask(self._ready.labels(*self.identity), lambda: float(ready()))
        self.ask(self._queue, lambda: float(waiting()))
        self.ask(self._wait, wait)

    def ask(self, gauge: Gauge, question: Callable[[], float]) -> None:
        """Set a gauge to a function's value at every scrape."""
        if self._shared:
            self._asked.append((gauge, question))
        else:
            gauge.set_function(question)

    def refresh(self) -> None:
        """Note what the watched functions say now; other processes' scrapes see what was noted last."""
        for gauge, question in self._asked:
            gauge.set(question())

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
        self._last_inference.set_to_current_time()

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time that a stage took."""
        self._stages[stage].observe(seconds)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their content type, in the format that the scraper accepts."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):
            # A version that is none; what can't be compared is a TypeError.
            encode, content_type = choose_encoder("")
        return encode(self._whole()), content_type

    def samples(self) -> Iterator[Sample]:
        """Yield every value, of all processes together."""
        for family in self._whole().collect():
            yield from family.samples

    def _whole(self) -> CollectorRegistry:
        self.refresh()
        if not self._shared:
            return self.registry
        whole = CollectorRegistry()
        multiprocess.MultiProcessCollector(whole)  # type: ignore[no-untyped-call]
        whole.register(_Processes())
        return whole

    def counter(self, metric: Metric) -> Counter:
        """Return a counter of this server's."""
        return self._family(metric, Counter)

    def gauge(self, metric: Metric, mode: Literal["livesum", "livemin", "livemax", "max"]) -> Gauge:
        """Return a gauge of this server's; `mode` says what several processes' values come to."""
        return self._family(metric, partial(Gauge, multiprocess_mode=mode))

    def histogram(self, metric: Metric) -> Histogram:
        """Return a histogram of this server's."""
        return self._family(metric, partial(Histogram, buckets=metric.buckets))

    def _family(self, metric: Metric, make: Callable[..., F]) -> F:
        known: F | None = self._families.get(metric.name)
        if known is None:
            known = self._families[metric.name] = make(metric.name, metric.help, metric.labels, registry=self.registry)
        return known


class _Processes(Collector):
    """CPU time and memory of all processes of this server together, those that ended included."""

    def collect(self) -> Iterator[Family]:
        parent = os.getppid()
        cpu, memory = 0.0, 0
        with suppress(OSError, ValueError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            # Of the parent those that have ended, too.
            cpu += _ticks(parent, 4)
            memory += _resident(parent)
            for child in children:
                with suppress(OSError, ValueError):
                    cpu += _ticks(int(child), 2)
                    memory += _resident(int(child))
        yield CounterMetricFamily(names.PROCESS_CPU.name.removesuffix("_total"), names.PROCESS_CPU.help, value=cpu)
        yield GaugeMetricFamily(names.PROCESS_MEMORY.name, names.PROCESS_MEMORY.help, value=memory)
        yield GaugeMetricFamily(names.PROCESS_START.name, names.PROCESS_START.help, value=_began(parent))


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ticks(pid: int, fields: int) -> float:
    """Return seconds of CPU: user and system, and with four fields those of children that ended."""
    return sum(map(int, _stat(pid)[11 : 11 + fields])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _began(pid: int) -> float:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/stat").read_text().splitlines()
        booted = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
        return booted + int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK")
    return 0.0
