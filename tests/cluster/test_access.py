"""The chart's own servers ask for keys over HTTP and gRPC; health and metrics have a port where none is asked for."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import yaml
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from tests.cluster.conftest import Published, Release, answers
from tests.cluster.kube import get, kubectl
from vitruvian.inference.access.keys import digest_of, new_key

JSON = {"Content-Type": "application/json"}


def _status(url: str, body: bytes | None = None, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers | JSON), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code


def test_only_who_has_a_key_is_answered(release: Release, published: Published) -> None:
    namespace, (key, _) = release.namespace, new_key()
    keys = {"keys": [{"name": "app", "sha256": digest_of(key)}]}
    files = {"access.yaml": "keys: keys.yaml\n", "keys.yaml": yaml.safe_dump(keys)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "who"}, "stringData": files}
    kubectl("-n", namespace, "apply", "-f", "-", text=yaml.safe_dump(secret))
    release.install(enabled=True, bundle=published.address, access={"secret": "who"}, grpc={"enabled": True})
    address = get(namespace, "service", "v-server")["spec"]["clusterIP"]
    if not answers(address, 80):
        pytest.skip("needs to run where addresses of Services lead: on a node of the cluster")
    url = f"http://{address}/v2/models/poses/infer"
    assert _status(url, published.request) == 401
    assert _status(url, published.request, **{"X-API-Key": key}) == 200
    assert _status(f"http://{address}:9090/v2/health/ready") == 200
    client = triton.InferenceServerClient(f"{address}:8081")
    with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
        client.get_model_metadata("poses")
    assert client.get_model_metadata("poses", headers={"x-api-key": key}).name == "poses"
