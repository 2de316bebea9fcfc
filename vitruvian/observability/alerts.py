"""What people are called for: one source of the chart's PrometheusRule and of the runbooks' names. Pure data.

`python scripts/generate.py` writes the rules where the chart ships them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vitruvian.observability import metrics as names
from vitruvian.observability.metrics import PREDICTING

RUNBOOKS = "docs/runbooks"
"""Where each alert has a page of its name; the chart's values put an address in front of it."""

ERRORS = 0.05
SHED = 0.01
REQUESTS_A_SECOND = 0.1
"""Fewer requests than this call nobody: shares of them say little."""
SECONDS_OF_A_REQUEST = 1.0
RESTARTS = 3
MINUTES_WITHOUT_PROGRESS = 15
ATTEMPTS = 3


@dataclass(frozen=True)
class Alert:
    """One rule: what must hold for how long, and what those who are called need to know."""

    name: str
    severity: Literal["critical", "warning"]
    expression: str
    lasts: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """The page that says what it means, where to look and what to do."""
        return f"{RUNBOOKS}/{self.name}.md"

    def rule(self) -> dict[str, Any]:
        """Return the rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": self.runbook,
            },
        }


@dataclass(frozen=True)
class Record:
    """A series that Prometheus makes of others and keeps, because an alert needs it."""

    name: str
    expression: str

    def rule(self) -> dict[str, Any]:
        """Return the rule as Prometheus reads it."""
        return {"record": self.name, "expr": self.expression}


_TRACK = "by (namespace, classifier, track)"
_VERSION = "by (namespace, classifier, version, track)"
_POD = "by (namespace, pod, classifier, version, track)"
_LEARNER = "by (namespace, classifier, training)"
_PREDICTIONS = f'route=~"{PREDICTING}"'
_FAILED, _REFUSED = ', code=~"5.."', ', code="429"'
_IT = "{{ $labels.classifier }} in {{ $labels.namespace }}"
_VERSION_OF_IT = "{{ $labels.classifier }} {{ $labels.version }} in {{ $labels.namespace }}"


def _answers(more: str = "") -> str:
    return f"sum {_VERSION} (rate({names.REQUESTS.name}{{{_PREDICTIONS}{more}}}[5m]))"


# On a quiet night one failure is a large share.
_ASKED_OFTEN = f"and {_answers()} > {REQUESTS_A_SECOND}"


def _ready(more: str = "") -> str:
    return f"max {_TRACK} ({names.READY.name}{more})"


def _with_deployment(servers: str) -> str:
    """Return servers, each with the Deployment that its pod's name begins with."""
    return f'label_replace({servers}, "deployment", "$1", "pod", "(.+)-[^-]+-[^-]+")'


def _with_classifier(services: str) -> str:
    """Return RayServices, each with the classifier that it serves."""
    return f'label_replace({services}, "classifier", "$1", "name", "(.+)")'


# Every server that shows metrics.
_SHOWN = f"group by (namespace, deployment, classifier, track) ({_with_deployment(names.READY.name)})"
# Who kube-state-metrics and KubeRay say wants servers.
_DEPLOYMENTS, _SERVICES = "kube_deployment_spec_replicas", "kuberay_service_info"
_WANTS = f"({_DEPLOYMENTS} > 0)"
_WANTED = "vitruvian:servers:wanted"
# A Prometheus that was away for some minutes goes on where it was.
_REMEMBERED = f"last_over_time({_WANTED}[10m])"

WANTED = Record(
    _WANTED,
    # Remembers who served, for as long as kube-state-metrics knows of a Deployment that wants servers, or KubeRay of a
    # RayService; what these serve now replaces what they served before.
    f"{_SHOWN}\n"
    f"or\n({_REMEMBERED}\nand on (namespace, deployment) {_WANTS}\n"
    f"unless on (namespace, deployment) {_SHOWN})\n"
    f"or\n({_REMEMBERED}\nand on (namespace, classifier) {_with_classifier(_SERVICES)}\n"
    f"unless on (namespace, classifier) {_SHOWN})",
)

# Who was ready a moment ago, but for those whose Deployment serves another classifier now, and whose Deployment or
# RayService was removed or scaled to none. Pods go some minutes after what they belong to, so that is remembered for
# longer; who tells of it may itself begin anew.
_REMOVED_DEPLOYMENTS = f"(max_over_time({_DEPLOYMENTS}[30m]) unless on (namespace, deployment) {_WANTS})"
_REMOVED_SERVICES = f"(max_over_time({_SERVICES}[30m]) unless on (namespace, name) {_SERVICES})"
_LATELY_READY = (
    f"({_with_deployment(f'max_over_time({names.READY.name}[15m])')} == 1\n"
    f"unless on (namespace, deployment) {_SHOWN}\n"
    f"unless on (namespace, deployment) {_REMOVED_DEPLOYMENTS}\n"
    f"unless on (namespace, classifier) {_with_classifier(_REMOVED_SERVICES)})"
)

SERVING = (
    Alert(
        "VitruvianNoReadyServer",
        "critical",
        # Servers that are there but not ready, that were ready a moment ago and are gone without anybody removing them,
        # or that are gone for long and still wanted.
        f"{_ready()} == 0\n"
        f"or\n(max {_TRACK} {_LATELY_READY} unless {_ready()})\n"
        f"or\n(max {_TRACK} ({_WANTED}) unless {_ready()})",
        "2m",
        f"No server of {_IT} is ready",
        f"Requests to {_IT} (track {{{{ $labels.track }}}}) get no predictions: no server is ready for 2 minutes.",
    ),
    Alert(
        "VitruvianServerNotReady",
        "warning",
        f"max {_POD} ({names.READY.name}) == 0",
        "10m",
        "Server {{ $labels.pod }} doesn't become ready",
        f"{{{{ $labels.pod }}}} of {_VERSION_OF_IT} runs but is not ready for 10 minutes: "
        "its golden example isn't predicted as it should be, or it doesn't finish starting or draining.",
    ),
    Alert(
        "VitruvianServerRestarts",
        "warning",
        # Only what its own metrics tell: a server that never got as far as showing them isn't seen here.
        f"(max by (namespace, pod) (changes({names.PROCESS_START.name}[15m]))\n"
        "* on (namespace, pod) group_left (classifier, version, track)\n"
        f"group {_POD} (max_over_time({names.READY.name}[15m]))) >= {RESTARTS}",
        "0m",
        "Server {{ $labels.pod }} restarts again and again",
        f"{{{{ $labels.pod }}}} of {_VERSION_OF_IT} began anew {{{{ $value }}}} times within 15 minutes.",
    ),
    Alert(
        "VitruvianErrors",
        "critical",
        f"{_answers(_FAILED)}\n/ {_answers()} > {ERRORS}\n{_ASKED_OFTEN}",
        "5m",
        f"{{{{ $value | humanizePercentage }}}} of the requests to {_IT} fail",
        f"{_VERSION_OF_IT} (track {{{{ $labels.track }}}}) answers {{{{ $value | humanizePercentage }}}} of the "
        f"requests to predict with 5xx; {ERRORS:.0%} are tolerated.",
    ),
    Alert(
        "VitruvianSlow",
        "warning",
        "histogram_quantile(0.99, sum by (le, namespace, classifier, version, track) "
        f"(rate({names.REQUEST_TIME.name}_bucket{{{_PREDICTIONS}}}[5m]))) > {SECONDS_OF_A_REQUEST:g}\n{_ASKED_OFTEN}",
        "10m",
        f"Predictions of {_IT} are slow",
        f"One of 100 requests to {_VERSION_OF_IT} takes {{{{ $value | humanizeDuration }}}} or longer; "
        f"{SECONDS_OF_A_REQUEST:g} s are tolerated.",
    ),
    Alert(
        "VitruvianShedding",
        "warning",
        f"{_answers(_REFUSED)}\n/ {_answers()} > {SHED}\n{_ASKED_OFTEN}",
        "5m",
        f"Servers of {_IT} refuse requests",
        f"{{{{ $value | humanizePercentage }}}} of the requests to {_VERSION_OF_IT} are answered with 429: "
        "the servers' queues are full.",
    ),
    Alert(
        "VitruvianQueueNeverEmpty",
        "warning",
        f"min {_VERSION} (min_over_time({names.QUEUE_LENGTH.name}[5m])) > 0",
        "5m",
        f"All servers of {_IT} are behind",
        f"No server of {_VERSION_OF_IT} had an empty queue for 10 minutes: more is asked than they can answer.",
    ),
)

_RUNS = f"max {_LEARNER} ({names.TRAINING_RUNNING.name}) == 1"

TRAINING = (
    Alert(
        "VitruvianTrainingStalled",
        "warning",
        f"time() - max {_LEARNER} ({names.TRAINING_PROGRESS.name}) > {60 * MINUTES_WITHOUT_PROGRESS}\nand {_RUNS}",
        "1m",
        f"Training of {_IT} makes no progress",
        f"Workers of training {{{{ $labels.training }}}} of {_IT} told nothing for "
        "{{ $value | humanizeDuration }}, though the run goes on.",
    ),
    Alert(
        "VitruvianTrainingAttempts",
        "warning",
        f"max {_LEARNER} (max_over_time({names.TRAINING_ATTEMPT.name}[1h]))\n"
        f"- min {_LEARNER} (min_over_time({names.TRAINING_ATTEMPT.name}[1h])) >= {ATTEMPTS}\nand {_RUNS}",
        "0m",
        f"Training of {_IT} begins again and again",
        f"Workers of training {{{{ $labels.training }}}} of {_IT} were lost {{{{ $value }}}} times within an hour.",
    ),
    Alert(
        "VitruvianTrainingDiverged",
        "warning",
        # What isn't a number is the only value that isn't itself.
        f'count {_LEARNER} ({names.TRAINING_LOSS.name}{{part="train"}} '
        f'!= {names.TRAINING_LOSS.name}{{part="train"}})\nand {_RUNS}',
        "1m",
        f"Training of {_IT} diverged",
        f"The loss of training {{{{ $labels.training }}}} of {_IT} is no number any more.",
    ),
)

ALERTS = (*SERVING, *TRAINING)


def rules() -> dict[str, Any]:
    """Return all rules as Prometheus reads them from a file, and as a PrometheusRule's spec."""
    groups: dict[str, tuple[Record | Alert, ...]] = {
        "vitruvian-serving": (WANTED, *SERVING),
        "vitruvian-training": TRAINING,
    }
    return {"groups": [{"name": name, "rules": [each.rule() for each in rules]} for name, rules in groups.items()]}
