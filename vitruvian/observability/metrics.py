"""Every metric once: name, kind, meaning, labels and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IDENTITY = ("classifier", "version", "track")
"""The labels that every serving metric carries first."""
LEARNER = ("classifier", "training")
"""The labels that every training metric carries first; `training` is the key of the training's checkpoints."""

REQUEST_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARES = tuple(tenth / 10 for tenth in range(1, 11))
DIFFERENCES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
CHECKPOINT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


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
    "Answered HTTP requests by route and status code; route none: what was refused before it was a whole request.",
    (*IDENTITY, "route", "code"),
)
REQUEST_TIME = Metric(
    "vitruvian_request_seconds",
    "histogram",
    "From the first byte of a request to the end of its answer.",
    (*IDENTITY, "route"),
    REQUEST_SECONDS,
)
REQUESTS_IN_FLIGHT = Metric("vitruvian_requests_in_flight", "gauge", "Requests that aren't answered yet.")
STARTUP_TIME = Metric(
    "vitruvian_startup_seconds",
    "gauge",
    "Time from the process's start to the first right answer, by stage: start, fetch, verify, choose, load, warm_up.",
    (*IDENTITY, "stage"),
)
QUEUE_LENGTH = Metric("vitruvian_queue_length", "gauge", "Accepted predictions that wait for a free thread.")
QUEUE_WAIT = Metric("vitruvian_queue_wait_seconds", "gauge", "How long a prediction that came now would wait.")
STAGE_TIME = Metric(
    "vitruvian_stage_seconds",
    "histogram",
    "Time spent in one stage of a prediction: queue, decode, predict.",
    (*IDENTITY, "stage"),
    STAGE_SECONDS,
)
BATCH_SIZE = Metric("vitruvian_batch_size", "histogram", "Inputs that the model answered at once.", buckets=COUNTS)
LAST_INFERENCE = Metric(
    "vitruvian_last_inference_timestamp_seconds", "gauge", "When the model ran last, as Unix time; 0: it never did."
)
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
    QUEUE_WAIT,
    STAGE_TIME,
    BATCH_SIZE,
    LAST_INFERENCE,
    PREDICTIONS,
    CONFIDENCE,
)
"""What a predictor's server measures."""

STAGES = ("queue", "decode", "predict")
"""The stages of a prediction that `vitruvian_stage_seconds` tells apart."""

CHALLENGER_READY = Metric(
    "vitruvian_challenger_ready",
    "gauge",
    "1 while the challenger beside this version accepts predictions, 0 while it doesn't; absent without a challenger.",
)
FALLBACKS = Metric(
    "vitruvian_fallbacks_total",
    "counter",
    "Requests of the challenger's share that this version took over, by reason: not-ready, busy, no-time-left, "
    "unsuited.",
    (*IDENTITY, "reason"),
)
SHADOW = Metric(
    "vitruvian_shadow_total",
    "counter",
    "Inputs that the champion answered and this version was to answer, too, by agreement: same, different, dropped, "
    "failed.",
    (*IDENTITY, "champion", "agreement"),
)
SHADOW_DIFFERENCE = Metric(
    "vitruvian_shadow_difference",
    "histogram",
    "Largest difference of a label's probability between the champion's answer and this version's.",
    (*IDENTITY, "champion"),
    DIFFERENCES,
)
SHADOW_TIME = Metric(
    "vitruvian_shadow_seconds",
    "histogram",
    "From the decoded input to the answer, of the inputs that both versions answered.",
    buckets=STAGE_SECONDS,
)
SHADOW_CONFUSION = Metric(
    "vitruvian_shadow_confusion_total",
    "counter",
    "Inputs that the champion and this version took for different classes; rare pairs are counted as (other).",
    (*IDENTITY, "champion", "champion_class", "class"),
)

TRACKS = (CHALLENGER_READY, FALLBACKS, SHADOW, SHADOW_DIFFERENCE, SHADOW_TIME, SHADOW_CONFUSION)
"""What a server measures of its challenger; `champion` is the version beside which it is tried."""

AGREEMENTS = ("same", "different", "dropped", "failed")
"""What `vitruvian_shadow_total` tells apart."""

PREDICTING = "/predict.*|.*/infer"
"""A regular expression of the routes that predict: probes and pages say nothing about how well a server serves."""

PROCESS_MEMORY = Metric("process_resident_memory_bytes", "gauge", "Memory of the server's process.", ())
PROCESS_CPU = Metric("process_cpu_seconds_total", "counter", "CPU time of the server's process.", ())
PROCESS_START = Metric("process_start_time_seconds", "gauge", "When the server's process began, as Unix time.", ())
PROCESS = (PROCESS_MEMORY, PROCESS_CPU, PROCESS_START)
"""What prometheus_client measures of a server's process, as far as dashboards and alerts look at it."""

TRAINING_RUNNING = Metric(
    "vitruvian_training_running", "gauge", "1 while workers train or are awaited, else 0.", LEARNER
)
TRAINING_PROGRESS = Metric(
    "vitruvian_training_progress_timestamp_seconds",
    "gauge",
    "When workers told of progress last (at first: when training began), as Unix time.",
    LEARNER,
)
TRAINING_ATTEMPT = Metric(
    "vitruvian_training_attempt", "gauge", "How often workers were started, the first time included.", LEARNER
)
TRAINING_WORKERS = Metric("vitruvian_training_workers", "gauge", "Workers of this attempt.", LEARNER)
TRAINING_EPOCH = Metric("vitruvian_training_epoch", "gauge", "Finished epochs.", LEARNER)
TRAINING_EPOCHS = Metric("vitruvian_training_epochs", "gauge", "The most epochs there will be.", LEARNER)
TRAINING_STEP = Metric(
    "vitruvian_training_step", "gauge", "Finished optimizer steps since the first epoch's begin.", LEARNER
)
TRAINING_IMAGES = Metric(
    "vitruvian_training_images_total",
    "counter",
    "Examples that all workers trained on, those repeated after an interruption included.",
    LEARNER,
)
TRAINING_LOSS = Metric(
    "vitruvian_training_loss",
    "gauge",
    "Mean loss of an example: of this epoch so far (part train), of the latest finished epoch (part validation).",
    (*LEARNER, "part"),
)
TRAINING_ACCURACY = Metric(
    "vitruvian_training_accuracy",
    "gauge",
    "Share of right answers: of this epoch so far (part train), of the latest finished epoch (part validation).",
    (*LEARNER, "part"),
)
TRAINING_CHECKPOINT_TIME = Metric(
    "vitruvian_training_checkpoint_seconds",
    "histogram",
    "Time that workers waited for a checkpoint to be saved.",
    LEARNER,
    CHECKPOINT_SECONDS,
)

TRAINING = (
    TRAINING_RUNNING,
    TRAINING_PROGRESS,
    TRAINING_ATTEMPT,
    TRAINING_WORKERS,
    TRAINING_EPOCH,
    TRAINING_EPOCHS,
    TRAINING_STEP,
    TRAINING_IMAGES,
    TRAINING_LOSS,
    TRAINING_ACCURACY,
    TRAINING_CHECKPOINT_TIME,
)
"""What a run measures while it trains."""
