"""What Prometheus sees of a training, made from the events that people watch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from vitruvian.errors import VitruvianError
from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import Metric
from vitruvian.training.job import Emit, Event


class TrainingMetrics:
    """The metrics of one run, on a registry of its own; nothing is shown before training begins."""

    def __init__(self, classifier: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.classifier = classifier
        self.registry = CollectorRegistry()
        self._gauges = {
            metric.name: Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
            for metric in names.TRAINING
            if metric.kind == "gauge"
        }
        images, saved = names.TRAINING_IMAGES, names.TRAINING_CHECKPOINT_TIME
        self._images = Counter(images.name, images.help, images.labels, registry=self.registry)
        self._saved = Histogram(saved.name, saved.help, saved.labels, registry=self.registry, buckets=saved.buckets)

    def serve(self, host: str, port: int) -> int:
        """Answer Prometheus on a port until the process ends, and return the port; 0: any free one."""
        try:
            server, _ = start_http_server(port, host, self.registry)
        except (OSError, UnicodeError) as e:
            hint = "choose another --metrics-port or --metrics-host"
            raise VitruvianError(
                f"can't show metrics ({getattr(e, 'strerror', e)})", where=f"{host}:{port}", hint=hint
            ) from e
        return int(server.server_port)

    @contextmanager
    def training(self, key: str) -> Iterator[Emit]:
        """Show one training until the end of the block; yields what is to be called with its events."""
        watched = _Training(self, (self.classifier, key))
        watched.set(names.TRAINING_RUNNING, 1)
        watched.progressed()
        try:
            yield watched.take
        finally:
            watched.set(names.TRAINING_RUNNING, 0)


class _Training:
    """Keeps what events leave unsaid: how many steps an epoch has, how many examples a step."""

    def __init__(self, metrics: TrainingMetrics, identity: tuple[str, str]) -> None:
        self._gauges = metrics._gauges
        self._identity = identity
        self._images = metrics._images.labels(*identity)
        self._saved = metrics._saved.labels(*identity)
        self._steps = self._batch = self._done = 0

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self._gauges[metric.name].labels(*self._identity, *labels).set(value)

    def progressed(self) -> None:
        self._gauges[names.TRAINING_PROGRESS.name].labels(*self._identity).set_to_current_time()

    def take(self, event: Event) -> None:
        """Record one event."""
        if event["kind"] == "start":
            self._start(event)
        elif event["kind"] == "step":
            self._reached(event["epoch"] * self._steps + event["step"])
            self._measured("train", event["loss"], event["accuracy"])
        elif event["kind"] == "checkpoint":
            self._saved.observe(event["seconds"])
        elif event["kind"] == "epoch":
            self._epoch(event)
        self.progressed()

    def _start(self, event: Event) -> None:
        self._steps, self._batch = event["steps"], event["batch"]
        self._done = event["epoch"] * self._steps + event["step"]
        self.set(names.TRAINING_ATTEMPT, event["attempt"])
        self.set(names.TRAINING_WORKERS, event["world"])
        self.set(names.TRAINING_EPOCHS, event["epochs"])
        self.set(names.TRAINING_EPOCH, event["epoch"])
        self.set(names.TRAINING_STEP, self._done)
        if event["history"]:
            # A run that goes on shows at once what it had reached.
            self._epoch(event["history"][-1])

    def _reached(self, done: int) -> None:
        self._images.inc((done - self._done) * self._batch)
        self._done = done
        self.set(names.TRAINING_STEP, done)

    def _epoch(self, record: dict[str, Any]) -> None:
        self.set(names.TRAINING_EPOCH, record["epoch"])
        for part in ("train", "validation"):
            self._measured(part, record[f"{part}Loss"], record[f"{part}Accuracy"])

    def _measured(self, part: str, loss: float, accuracy: float) -> None:
        self.set(names.TRAINING_LOSS, loss, part)
        self.set(names.TRAINING_ACCURACY, accuracy, part)
