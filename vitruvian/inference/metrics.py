"""The serving metrics of one server, on a registry of its own, or in files that several processes share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

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

from vitruvian.bundle import Bundle
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.processes import METRICS_FOLDER
from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import Metric


class ServingMetrics:
    """What `/metrics` shows for one bundle on one track (`stable` or `canary`)."""

    def __init__(self, bundle: Bundle, track: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._shared = METRICS_FOLDER in os.environ
        self._asked: list[tuple[Gauge, Callable[[], float]]] = []
        self.identity = (bundle.info.name, bundle.info.version, track)
        if not self._shared:
            ProcessCollector(registry=self.registry)
        self._requests = self._counter(names.REQUESTS)
        self._request_time = self._histogram(names.REQUEST_TIME)
        self._stage_time = self._histogram(names.STAGE_TIME)
        self._predictions = self._counter(names.PREDICTIONS)
        self._confidence = self._histogram(names.CONFIDENCE).labels(*self.identity)
        self._batch_size = self._histogram(names.BATCH_SIZE).labels(*self.identity)
        self.in_flight = self._gauge(names.REQUESTS_IN_FLIGHT, "livesum").labels(*self.identity)
        self._ready = self._gauge(names.READY, "livemax").labels(*self.identity)
        self._startup = self._gauge(names.STARTUP_TIME, "max")
        self._queue = self._gauge(names.QUEUE_LENGTH, "livesum").labels(*self.identity)
        self._wait = self._gauge(names.QUEUE_WAIT, "livemax").labels(*self.identity)
        self._gauge(names.BUNDLE_INFO, "max").labels(*self.identity, bundle.digest, bundle.info.architecture).set(1)
        self._labels = bundle.info.labels
        # A series that begins at its first event would hide that event from rate().
        self._by_class = {label: self._predictions.labels(*self.identity, label) for label in self._labels}
        self._stages = {stage: self._stage_time.labels(*self.identity, stage) for stage in names.STAGES}
        # Looking a series up costs more than adding to it.
        self._request_series: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def watch(self, *, ready: Callable[[], bool], waiting: Callable[[], int], wait: Callable[[], float]) -> None:
        """Ask these functions at every scrape."""
        asked: dict[Gauge, Callable[[], float]] = {
            self._ready: lambda: float(ready()),
            self._queue: lambda: float(waiting()),
            self._wait: wait,
        }
        for gauge, ask in asked.items():
            if self._shared:
                self._asked.append((gauge, ask))
            else:
                gauge.set_function(ask)

    def refresh(self) -> None:
        """Note what the watched functions say now; other processes' scrapes see what was noted last."""
        for gauge, ask in self._asked:
            gauge.set(ask())

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
        self.refresh()
        if not self._shared:
            return encode(self.registry), content_type
        whole = CollectorRegistry()
        multiprocess.MultiProcessCollector(whole)  # type: ignore[no-untyped-call]
        whole.register(_Processes())
        return encode(whole), content_type

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: Metric, mode: Literal["livesum", "livemax", "max"]) -> Gauge:
        """Return a gauge; `mode` says what several processes' values come to."""
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)


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
