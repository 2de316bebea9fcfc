"""What dashboards and alerts ask Prometheus, and which names they use for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vitruvian.observability import metrics

_NAME = re.compile(r"\b(?:vitruvian|process)_[a-z_]+\b")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the title and the query of every target of every panel."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def substituted(query: str) -> str:
    """Return a query as Grafana sends it where everything is chosen."""
    return re.sub(r"\$[a-z]+", ".*", query.replace("$__rate_interval", "1m"))


def exported() -> set[str]:
    """Return every name under which a metric that the code declares reaches Prometheus."""
    declared = (*metrics.SERVING, *metrics.TRACKS, *metrics.PROCESS, *metrics.TRAINING)
    return {metric.name + suffix for metric in declared for suffix in _SUFFIXES[metric.kind]}


def names_in(query: str) -> set[str]:
    """Return the names of metrics in a query."""
    return set(_NAME.findall(query))
