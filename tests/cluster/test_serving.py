"""A bundle in S3 becomes an InferenceService; what replaces it, or changes its number, loses no request."""

from __future__ import annotations

import json
from functools import partial

from tests.cluster.conftest import S3, Published, Release
from tests.cluster.kube import Load, get, kubectl, run, soon

REQUESTS = 2000


def _ingress() -> str:
    """Return the address of the ingress controller as the Ingresses' status tells it."""
    found = [
        place.get("ip") or place.get("hostname")
        for ingress in json.loads(kubectl("get", "ingress", "-A", "-o", "json"))["items"]
        for place in ingress.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    ]
    return f"http://{found[0]}" if found else ""


def _load(published: Published, namespace: str, threads: int = 4) -> Load:
    host = get(namespace, "inferenceservice", "poses")["status"]["url"].removeprefix("http://")
    address = soon("the ingress has an address", _ingress)
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
