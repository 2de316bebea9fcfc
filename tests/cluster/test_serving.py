"""A bundle in S3 becomes an InferenceService; what replaces it, or changes its number, loses no request."""

from __future__ import annotations

import io
import json
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.cluster.conftest import S3, Published, Release, answers
from tests.cluster.kube import SERVER, Load, get, ingress_address, knows, kubectl, run, soon

REQUESTS = 2000


def _load(published: Published, namespace: str, threads: int = 4) -> Load:
    host = get(namespace, "inferenceservice", "poses")["status"]["url"].removeprefix("http://")
    address = soon("the ingress has an address", ingress_address)
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    url = f"{address}/v2/models/poses/infer"
    headers = {"Host": host, "Content-Type": "application/json"}
    return Load(url, published.request, threads, 0.005, **headers)


def test_a_new_version_and_another_number_of_servers_fail_no_request(
    release: Release, published: Published, s3: S3
) -> None:
    namespace, (old, new) = release.namespace, published.versions
    release.install()
    deploy = ("vitruvian", "deploy", "-f", published.declared, "-n", namespace)
    told = run(*deploy, "--version", old, env=s3.outside)
    assert "it answers at http://poses-" in told
    with _load(published, namespace) as load:
        soon("the old version answers", lambda: load.answers[f"200 {old}"] > 100)
        run(*deploy, env=s3.outside)
        soon("the new version answers", lambda: load.answers[f"200 {new}"] > 100)
        for count in (3, 1):
            patch = {"spec": {"predictor": {"minReplicas": count, "maxReplicas": count}}}
            kubectl("-n", namespace, "patch", "inferenceservice", "poses", "--type=merge", "-p", json.dumps(patch))
            soon(f"{count} servers are there", partial(_has, namespace, count))
        enough = max(REQUESTS, load.total + 200)
        soon("enough was asked", lambda: load.total >= enough)
    print(dict(load.answers))
    assert load.failed == {}
    assert load.total >= REQUESTS


def test_a_challenger_predicts_beside_the_champion_and_fails_nobody(release: Release, published: Published) -> None:
    namespace, (old, new) = release.namespace, published.versions
    base = published.address.removesuffix("/")
    tried = {"bundle": f"{base}/bundles/{old}", "share": 20, "shadow": 100}
    release.install(enabled=True, bundle=f"{base}/bundles/{new}", challenger=tried)
    address = get(namespace, "service", "v-server")["spec"]["clusterIP"]
    if not answers(address, 80):
        pytest.skip("needs to run where addresses of Services lead: on a node of the cluster")
    headers = {"Content-Type": "application/json"}
    with Load(f"http://{address}/v2/models/poses/infer", published.request, 2, 0.02, **headers) as load:
        soon("both versions answer", lambda: min(load.answers[f"200 {each}"] for each in (old, new)) > 50)
        # Prometheus looks every 5 s, and rates need several looks.
        enough = load.total + REQUESTS
        soon("enough was asked", lambda: load.total >= enough)
    assert load.failed == {}
    (pod,) = get(namespace, "pods", "-l", "app.kubernetes.io/component=server")["items"]
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080/metrics") as answer:
        assert b"vitruvian_shadow_total{" in answer.read()


def test_a_bundle_is_fetched_by_our_means_whatever_else_takes_its_address(
    release: Release, published: Published, s3: S3
) -> None:
    namespace = release.namespace
    release.install()
    # Which of several KServe would take isn't defined; of as many as these hardly ever ours.
    others = [_fetcher(f"{namespace}-{number}", namespace, published.address) for number in range(4)]
    try:
        kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": others}))
        told = run("vitruvian", "deploy", "-f", published.declared, "-n", namespace, env=s3.outside)
        assert "it answers at http" in told
        pods = get(namespace, "pods", "-l", "serving.kserve.io/inferenceservice=poses")["items"]
        fetchers = {each["image"] for pod in pods for each in pod["spec"]["initContainers"]}
        assert fetchers == {SERVER}
    finally:
        kubectl("delete", "clusterstoragecontainers", "-l", f"vitruvian.dev/test={namespace}")


def _fetcher(name: str, test: str, address: str) -> dict[str, Any]:
    """Return a ClusterStorageContainer that takes a classifier's bundles, and whose image is nowhere."""
    container = {"name": "storage-initializer", "image": "registry.invalid/none:1"}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterStorageContainer",
        "metadata": {"name": name, "labels": {"vitruvian.dev/test": test}},
        "spec": {
            "workloadType": "initContainer",
            "supportedUriFormats": [{"prefix": f"{address}/"}],
            "container": container,
        },
    }


def test_servers_are_added_while_predictions_wait_and_go_afterwards(
    release: Release, published: Published, s3: S3, tmp_path: Path
) -> None:
    namespace = release.namespace
    release.install()
    declaration = yaml.safe_load(published.declared.read_text())
    # So much CPU that the queue decides.
    declaration["spec"]["serving"] = {"replicas": {"min": 1, "max": 3, "cpuPercent": 1000, "queueLength": 1}}
    (tmp_path / "scaled.yaml").write_text(yaml.safe_dump(declaration))
    run("vitruvian", "deploy", "-f", tmp_path / "scaled.yaml", "-n", namespace, env=s3.outside)
    at_once = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}
    kubectl("-n", namespace, "patch", "hpa", "poses-servers", "--type=merge", "-p", json.dumps(at_once))
    host = get(namespace, "inferenceservice", "poses")["status"]["url"].removeprefix("http://")
    # A large picture keeps the predicting threads busy, a small tensor only the loop that moves bytes.
    address = soon("the ingress has an address", ingress_address)
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    url = f"{address}/predict/image"
    body, content_type = _multipart(_large_picture())
    with Load(url, body, 24, 0.0, **{"Host": host, "Content-Type": content_type}) as load:
        soon("predictions wait", lambda: _queue(namespace) > 1)
        soon("servers were added", lambda: _servers(namespace) > 1)
    print(dict(load.answers))
    assert set(load.failed) <= {answer for answer in load.answers if answer.startswith("429")}
    soon("one server is left", partial(_has, namespace, 1), 240)


def _queue(namespace: str) -> float:
    """Return what the autoscaler knows of the queue, in predictions for each server."""
    status = get(namespace, "hpa", "poses-servers").get("status", {})
    for metric in status.get("currentMetrics") or []:
        if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] == "vitruvian_queue_length":
            value = str(metric["pods"]["current"]["averageValue"])
            return float(value.removesuffix("m")) / (1000 if value.endswith("m") else 1)
    return 0.0


def _large_picture() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((2400, 1800)).save(file, "JPEG", quality=80)
    return file.getvalue()


def _multipart(content: bytes) -> tuple[bytes, str]:
    head = b'--mark\r\nContent-Disposition: form-data; name="file"; filename="large.jpg"\r\n\r\n'
    return head + content + b"\r\n--mark--\r\n", "multipart/form-data; boundary=mark"


def _has(namespace: str, count: int) -> bool:
    return _servers(namespace) == count


def _servers(namespace: str) -> int:
    """Return the number of ready servers; -1 while one comes or goes."""
    pods = get(namespace, "pods", "-l", "serving.kserve.io/inferenceservice=poses")["items"]
    ready = [
        pod
        for pod in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]
    return len(ready) if len(ready) == len(pods) else -1
