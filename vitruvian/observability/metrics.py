"""Every metric once: name, kind, meaning, labels and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IDENTITY = ("classifier", "version", "track")
"""The labels that every serving metric carries first."""

REQUEST_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARES = tuple(tenth / 10 for tenth in range(1, 11))
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True)
class Metric:
    """One metric as Prometheus knows it; units are base units and part of the name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = IDENTITY
    buckets: tuple[float, ...] = ()


BUNDLE_INFO = Metric(
    "vitruvian_bundle_info", "gauge", "The bundle that is served; always 1.", (*IDENTITY, "digest", "architecture")
)
READY = Metric("vitruvian_ready", "gauge", "1 while predictions are accepted, else 0.")
REQUESTS = Metric(
    "vitruvian_requests_total",
    "counter",
    "Answered HTTP requests by route and status code.",
    (*IDENTITY, "route", "code"),
)
REQUEST_TIME = Metric(
    "vitruvian_request_seconds",
    "histogram",
    "From the first byte of a request to the end of its answer.",
    (*IDENTITY, "route"),
    REQUEST_SECONDS,
)
REQUESTS_IN_FLIGHT = Metric("vitruvian_requests_in_flight", "gauge", "HTTP requests that aren't answered yet.")
STARTUP_TIME = Metric(
    "vitruvian_startup_seconds",
    "gauge",
    "Time from the process's start to the first right answer, by stage: start, fetch, verify, load, warm_up.",
    (*IDENTITY, "stage"),
)
QUEUE_LENGTH = Metric("vitruvian_queue_length", "gauge", "Accepted predictions that wait for a free thread.")
STAGE_TIME = Metric(
    "vitruvian_stage_seconds",
    "histogram",
    "Time spent in one stage of a prediction: queue, decode, predict.",
    (*IDENTITY, "stage"),
    STAGE_SECONDS,
)
BATCH_SIZE = Metric("vitruvian_batch_size", "histogram", "Inputs that the model answered at once.", buckets=COUNTS)
PREDICTIONS = Metric("vitruvian_predictions_total", "counter", "Predicted inputs by class.", (*IDENTITY, "class"))
CONFIDENCE = Metric("vitruvian_confidence", "histogram", "Probability of the predicted class.", buckets=SHARES)

SERVING = (
    BUNDLE_INFO,
    READY,
    STARTUP_TIME,
    REQUESTS,
    REQUEST_TIME,
    REQUESTS_IN_FLIGHT,
    QUEUE_LENGTH,
    STAGE_TIME,
    BATCH_SIZE,
    PREDICTIONS,
    CONFIDENCE,
)
"""What a predictor's server measures."""

STAGES = ("queue", "decode", "predict")
"""The stages of a prediction that `vitruvian_stage_seconds` tells apart."""
