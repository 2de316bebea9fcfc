"""Everything that the dashboards ask has an answer, after the other tests have trained and served here."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import answers
from tests.cluster.kube import CHART, get, soon
from tests.promql import queries, substituted

NEEDED = {"training": "test_training.py", "serving": "test_serving.py"}
_HOURS = 2


@pytest.fixture(scope="module")
def prometheus() -> Iterator[str]:
    """The address of the Service `prometheus` in namespace `monitoring`, which scrapes annotated pods."""
    try:
        address = get("monitoring", "service", "prometheus")["spec"]["clusterIP"]
    except AssertionError:
        pytest.skip("needs a Prometheus that scrapes annotated pods: the Service prometheus in namespace monitoring")
    if answers(address, 9090):
        yield f"http://{address}:9090"
        return
    forward = subprocess.Popen(["kubectl", "-n", "monitoring", "port-forward", "service/prometheus", "19090:9090"])
    soon("the port is forwarded", lambda: answers("127.0.0.1", 19090))
    yield "http://127.0.0.1:19090"
    forward.terminate()


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_every_query_of_a_dashboard_returns_data(name: str, prometheus: str, request: pytest.FixtureRequest) -> None:
    needed = NEEDED[name]
    if not any(item.path.name == needed for item in request.session.items):
        pytest.skip(f"needs tests/cluster/{needed} in the same session: its pods are what this dashboard shows")
    dashboard = json.loads((CHART / "dashboards" / f"{name}.json").read_text())
    unanswered = [
        f"{title}: {query}" for title, query in queries(dashboard) if not _points(prometheus, substituted(query))
    ]
    assert unanswered == []


def _points(prometheus: str, query: str) -> int:
    """Return how many numbers a query has over the last hours."""
    now = time.time()
    asked = urllib.parse.urlencode({"query": query, "start": now - _HOURS * 3600, "end": now, "step": 5})
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{asked}", timeout=60) as response:
            found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    except urllib.error.HTTPError as e:
        raise AssertionError(f"{query}: {e.read().decode()}") from e
    return sum(math.isfinite(float(value)) for series in found for _, value in series["values"])
