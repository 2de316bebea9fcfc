"""What Prometheus sees of a training follows its events, over interruptions and attempts."""

from __future__ import annotations

import socket
import time
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vitruvian.errors import VitruvianError
from vitruvian.observability import metrics as names
from vitruvian.training.metrics import TrainingMetrics

RECORD = {
    "epoch": 1,
    "trainLoss": 0.9,
    "trainAccuracy": 0.5,
    "validationLoss": 0.8,
    "validationAccuracy": 0.6,
    "seconds": 2.0,
    "imagesPerSecond": 80.0,
}


def start(epoch: int = 0, step: int = 0, attempt: int = 1, **more: Any) -> dict[str, Any]:
    whole = {"kind": "start", "attempt": attempt, "epoch": epoch, "step": step, "epochs": 4, "steps": 10, "batch": 16}
    learns = {"parameters": 1000, "learning": 1000, "learningRate": 1e-3, "precision": "fp32"}
    return {**whole, **learns, "world": 2, "history": [], **more}


def step(epoch: int, number: int, loss: float = 1.0, accuracy: float = 0.25) -> dict[str, Any]:
    return {"kind": "step", "epoch": epoch, "step": number, "loss": loss, "accuracy": accuracy}


def shown(metrics: TrainingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"classifier": "yoga", "training": "abc", **labels})


def test_every_declared_training_metric_reaches_prometheus_and_no_other() -> None:
    metrics = TrainingMetrics("yoga")
    with metrics.training("abc") as take:
        for event in (start(), step(0, 10), {"kind": "checkpoint", "step": 10, "seconds": 0.2}):
            take(event)
        take({"kind": "epoch", **RECORD})
    port = metrics.serve("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert {family.name for family in families if family.samples} == {
        metric.name.removesuffix("_total") for metric in names.TRAINING
    }
    declared = {metric.name.removesuffix("_total"): metric for metric in names.TRAINING}
    for family in families:
        assert family.type == declared[family.name].kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(declared[family.name].labels)


def test_events_become_numbers() -> None:
    metrics = TrainingMetrics("yoga")
    with metrics.training("abc") as take:
        assert shown(metrics, "vitruvian_training_running") == 1
        assert shown(metrics, "vitruvian_training_loss", part="train") is None
        take(start())
        take(step(0, 4, loss=1.5, accuracy=0.25))
        assert shown(metrics, "vitruvian_training_step") == 4
        assert shown(metrics, "vitruvian_training_images_total") == 4 * 16
        assert shown(metrics, "vitruvian_training_loss", part="train") == 1.5
        take(step(0, 10))
        take({"kind": "checkpoint", "step": 10, "seconds": 0.2})
        take({"kind": "epoch", **RECORD})
        assert shown(metrics, "vitruvian_training_epoch") == 1
        assert shown(metrics, "vitruvian_training_epochs") == 4
        assert shown(metrics, "vitruvian_training_workers") == 2
        assert shown(metrics, "vitruvian_training_images_total") == 10 * 16
        assert shown(metrics, "vitruvian_training_checkpoint_seconds_sum") == 0.2
        assert shown(metrics, "vitruvian_training_accuracy", part="validation") == 0.6
    assert shown(metrics, "vitruvian_training_running") == 0


def test_a_training_that_goes_on_shows_at_once_what_it_had_reached() -> None:
    metrics = TrainingMetrics("yoga")
    with metrics.training("abc") as take:
        take(start(epoch=1, step=3, attempt=2, history=[RECORD]))
        assert shown(metrics, "vitruvian_training_attempt") == 2
        assert shown(metrics, "vitruvian_training_step") == 13
        assert shown(metrics, "vitruvian_training_epoch") == 1
        assert shown(metrics, "vitruvian_training_loss", part="validation") == 0.8
        assert shown(metrics, "vitruvian_training_images_total") == 0, "earlier processes trained on those"


def test_what_a_lost_worker_repeats_counts_as_work() -> None:
    metrics = TrainingMetrics("yoga")
    with metrics.training("abc") as take:
        take(start())
        take(step(0, 8))
        take(start(epoch=0, step=5, attempt=2))
        assert shown(metrics, "vitruvian_training_step") == 5
        take(step(0, 8))
    assert shown(metrics, "vitruvian_training_step") == 8
    assert shown(metrics, "vitruvian_training_images_total") == (8 + 3) * 16


def test_every_event_is_progress_and_waiting_for_workers_is_none() -> None:
    metrics = TrainingMetrics("yoga")
    with metrics.training("abc") as take:
        began = shown(metrics, "vitruvian_training_progress_timestamp_seconds")
        assert began is not None and abs(began - time.time()) < 60
        time.sleep(0.01)
        assert shown(metrics, "vitruvian_training_progress_timestamp_seconds") == began
        take(start())
        assert (shown(metrics, "vitruvian_training_progress_timestamp_seconds") or 0) > began


def test_a_training_that_fails_does_not_stay_running() -> None:
    metrics = TrainingMetrics("yoga")
    with pytest.raises(RuntimeError), metrics.training("abc"):
        raise RuntimeError
    assert shown(metrics, "vitruvian_training_running") == 0


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(VitruvianError, match=rf"127\.0\.0\.1:{port}.*choose another --metrics-port"):
            TrainingMetrics("yoga").serve("127.0.0.1", port)
