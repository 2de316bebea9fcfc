"""Servers end and are replaced behind their Service, and no client notices.

VITRUVIAN_RESTARTS=200 python -m pytest tests/cluster/test_restarts.py -s
"""

from __future__ import annotations

import os
from collections.abc import Set
from functools import partial

import pytest

from tests.cluster.conftest import Published, Release, answers
from tests.cluster.kube import Load, get, kubectl, soon

COUNT = int(os.environ.get("VITRUVIAN_RESTARTS", "6"))
SERVERS, AT_ONCE = 4, 2


@pytest.mark.timeout(600 + 15 * COUNT)
def test_servers_that_end_behind_their_service_fail_no_request(release: Release, published: Published) -> None:
    namespace = release.namespace
    release.install(enabled=True, bundle=published.address, replicas=SERVERS, drainSeconds=3)
    address = get(namespace, "service", "v-server")["spec"]["clusterIP"]
    if not answers(address, 80):
        pytest.skip("needs to run where addresses of Services lead: on a node of the cluster")
    url = f"http://{address}/v2/models/poses/infer"
    ended: list[str] = []
    with Load(url, published.request, 4, 0.01, **{"Content-Type": "application/json"}) as load:
        soon("it answers", lambda: load.total > 100)
        while len(ended) < COUNT:
            going = sorted(_ready(namespace))[:AT_ONCE]
            kubectl("-n", namespace, "delete", "--wait=false", "pod", *going)
            ended += going
            soon("others have taken their place", partial(_replaced, namespace, frozenset(ended)), 60)
        enough = load.total + 200
        soon("enough was asked", lambda: load.total >= enough)
    print(f"{len(ended)} servers ended, {load.total} requests: {dict(load.answers)}")
    assert load.failed == {}


def _replaced(namespace: str, ended: Set[str]) -> bool:
    return len(_ready(namespace) - ended) == SERVERS


def _ready(namespace: str) -> set[str]:
    """Return the names of the servers' pods that are ready and stay."""
    pods = get(namespace, "pods", "-l", "app.kubernetes.io/component=server")["items"]
    return {
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))
    }
