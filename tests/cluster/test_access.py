"""Servers ask for keys, however they run; health and metrics have a port where none is asked for."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import yaml
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from tests.cluster.conftest import S3, Published, Release, answers
from tests.cluster.kube import get, ingress_address, kubectl, run, soon
from vitruvian.inference.access.keys import digest_of, new_key

JSON = {"Content-Type": "application/json"}


def _status(url: str, body: bytes | None = None, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers | JSON), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code


def _key(namespace: str) -> str:
    """Return a key that the Secret `who` lets in."""
    key, _ = new_key()
    keys = {"keys": [{"name": "app", "sha256": digest_of(key)}]}
    files = {"access.yaml": "keys: keys.yaml\n", "keys.yaml": yaml.safe_dump(keys)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "who"}, "stringData": files}
    kubectl("-n", namespace, "apply", "-f", "-", text=yaml.safe_dump(secret))
    return key


def test_only_who_has_a_key_is_answered(release: Release, published: Published) -> None:
    namespace = release.namespace
    key = _key(namespace)
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


def test_an_inferenceservice_asks_for_the_same_keys(release: Release, published: Published, s3: S3) -> None:
    namespace = release.namespace
    key = _key(namespace)
    release.install(access={"secret": "who"}, grpc={"enabled": True})
    run("vitruvian", "deploy", "-f", published.declared, "-n", namespace, env=s3.outside)
    host = get(namespace, "inferenceservice", "poses")["status"]["url"].removeprefix("http://")
    address = soon("the ingress has an address", ingress_address)
    url = f"{address}/v2/models/poses/infer"
    soon("the ingress leads there", lambda: _status(url, published.request, Host=host) == 401)
    assert _status(url, published.request, Host=host, **{"X-API-Key": key}) == 200
    (pod,) = get(namespace, "pods", "-l", "serving.kserve.io/inferenceservice=poses")["items"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "9090"
    own = pod["status"]["podIP"]
    if not answers(own, 9090):
        pytest.skip("needs to run where addresses of pods lead: on a node of the cluster")
    assert _status(f"http://{own}:9090/metrics") == 200
    client = triton.InferenceServerClient(f"{own}:8081")
    assert client.get_model_metadata("poses", headers={"x-api-key": key}).name == "poses"
