"""A bundle in S3 becomes a RayService that answers as every other server does, and loses no request on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import S3, Published, Release
from tests.cluster.kube import CHART, Load, get, ingress_address, knows, kubectl, run, settings, soon
from vitruvian.cluster.objects import CONTAINER_SECURITY, POD_SECURITY

REQUESTS = 2000
REDIS = os.environ.get("VITRUVIAN_REDIS_IMAGE")
_HOST = "ray.example.com"
# Asks the head of a pod's Ray cluster for its jobs, without and with the pod's token.
_ASK = """
import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen
for token in ("", "Bearer guessed", "Bearer " + os.environ["RAY_AUTH_TOKEN"]):
    headers = {"Authorization": token} if token else {}
    try:
        print(urlopen(Request(f"http://{os.environ['FQ_RAY_IP']}:8265/api/jobs/", headers=headers)).status)
    except HTTPError as e:
        print(e.code)
"""
_SMALL = {"cpu": "50m", "memory": "2Gi"}


def _declared(published: Published, folder: Path, **replicas: int) -> Path:
    declaration = yaml.safe_load(published.declared.read_text())
    declaration["spec"]["serving"] = {"backend": "rayserve", "replicas": replicas}
    file = folder / f"rayserve-{'-'.join(map(str, replicas.values()))}.yaml"
    file.write_text(yaml.safe_dump(declaration))
    return file


def _install(release: Release, **rayserve: Any) -> None:
    values = settings()
    values["s3"] = release.s3.values
    values["kserve"] = {"enabled": False, "storageContainer": False}
    values["rayserve"] = {"settings": {"head": _SMALL, "worker": _SMALL, "ingress": {"domain": _HOST}, **rayserve}}
    values["networkPolicy"]["egressPorts"] = [443, 80, 9000, 6443, 6379]
    file = release.folder / "rayserve-values.yaml"
    file.write_text(yaml.safe_dump(values))
    release.helm("upgrade", "--install", "v", CHART, "-f", file)


def _servers(namespace: str) -> list[str]:
    """Return the pods with a server that Kubernetes sends requests to; the head pod only passes them on."""
    slices = get(namespace, "endpointslices", "-l", "kubernetes.io/service-name=poses-serve-svc")["items"]
    return [
        endpoint["targetRef"]["name"]
        for each in slices
        for endpoint in each.get("endpoints") or []
        if endpoint["conditions"].get("ready") and "-head-" not in endpoint["targetRef"]["name"]
    ]


def _counts(namespace: str, number: int) -> Callable[[], bool]:
    return lambda: len(_servers(namespace)) == number


def test_a_new_version_and_another_number_of_ray_servers_fail_no_request(
    release: Release, published: Published, s3: S3, tmp_path: Path
) -> None:
    namespace, (old, new) = release.namespace, published.versions
    _install(release)
    one, three = (_declared(published, tmp_path, min=count, max=count) for count in (1, 3))
    deploy = ("vitruvian", "deploy", "-n", namespace, "--wait", "420", "-f")
    told = run(*deploy, one, "--version", old, env=s3.outside, seconds=450)
    host = f"poses-{namespace}.{_HOST}"
    assert f"it answers at http://{host}" in told
    address = soon("the ingress has an address", ingress_address)
    url = f"{address}/v2/models/poses/infer"
    headers = {"Host": host, "Content-Type": "application/json"}
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    # The head passes requests on as soon as it has a server, which may be before Kubernetes has seen that it is ready.
    soon("the server's pod is ready", _counts(namespace, 1))
    (server,) = _servers(namespace)
    asked = kubectl("-n", namespace, "exec", server, "-c", "ray", "--", "python", "-c", _ASK)
    assert asked.split() == ["401", "403", "200"], "Ray answers only those with the token"
    with Load(url, published.request, 4, 0.02, **headers) as load:
        soon("the old version answers", lambda: load.answers[f"200 {old}"] > 100)
        run(*deploy, one, env=s3.outside, seconds=450)
        soon("the new version answers", lambda: load.answers[f"200 {new}"] > 100)
        for count, file in ((3, three), (1, one)):
            run(*deploy, file, env=s3.outside, seconds=450)
            soon(f"{count} servers are there", _counts(namespace, count), 420)
        enough = max(REQUESTS, load.total + 200)
        soon("enough was asked", lambda: load.total >= enough)
    print(dict(load.answers))
    assert load.failed == {}
    assert load.total >= REQUESTS
    kubectl("-n", namespace, "delete", "rayservice", "poses")
    pods = partial(get, namespace, "pods", "-l", "vitruvian.dev/classifier=poses")
    soon("its pods are gone", lambda: not pods()["items"])


@pytest.mark.timeout(900)
@pytest.mark.skipif(REDIS is None, reason="needs a Redis: set VITRUVIAN_REDIS_IMAGE to an image that pods can pull")
def test_servers_answer_while_the_head_is_lost_and_made_anew(
    release: Release, published: Published, s3: S3, tmp_path: Path
) -> None:
    namespace = release.namespace
    kubectl("-n", namespace, "apply", "-f", "-", text=_redis())
    kubectl("-n", namespace, "rollout", "status", "deployment/redis", "--timeout=120s")
    _install(release, gcsFaultTolerance={"redisAddress": "redis:6379", "redisSecret": "redis"})
    two = _declared(published, tmp_path, min=2, max=2)
    run("vitruvian", "deploy", "-n", namespace, "--wait", "420", "-f", two, env=s3.outside, seconds=450)
    soon("two servers are there", _counts(namespace, 2), 420)
    address, host = soon("the ingress has an address", ingress_address), f"poses-{namespace}.{_HOST}"
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    before, cluster = _head(namespace), _cluster(namespace)
    servers = _servers(namespace)
    headers = {"Host": host, "Content-Type": "application/json"}
    with Load(f"{address}/v2/models/poses/infer", published.request, 2, 0.05, **headers) as load:
        soon("it answers", lambda: load.total > 100)
        kubectl("-n", namespace, "delete", "pod", before, "--grace-period=0", "--force")
        soon("there is another head, and it is ready", lambda: _head(namespace) not in ("", before), 240)
        answered = load.total
        soon("the servers answer beside it", lambda: load.total > answered + 200)
    print(dict(load.answers))
    assert sum(load.failed.values()) < load.total / 100, "only what the lost head's own proxy held is lost"
    assert _cluster(namespace) == cluster and set(servers) <= set(_servers(namespace))
    kubectl("-n", namespace, "delete", "rayservice", "poses")
    clusters = partial(get, namespace, "rayclusters")
    soon("its state is gone from Redis, and the Ray cluster with it", lambda: not clusters()["items"], 240)


def _head(namespace: str) -> str:
    """Return the head pod that is ready; empty where none is."""
    for pod in get(namespace, "pods", "-l", "ray.io/node-type=head")["items"]:
        if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ())):
            return str(pod["metadata"]["name"])
    return ""


def _cluster(namespace: str) -> str:
    return str(get(namespace, "rayservice", "poses")["status"]["activeServiceStatus"]["rayClusterName"])


def _redis() -> str:
    marks = {"app": "redis"}
    secret = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    container = {
        "name": "redis",
        "image": REDIS,
        "command": ["sh", "-c", 'exec redis-server --dir /tmp --save "" --requirepass "$PASSWORD"'],
        "env": [secret],
        "securityContext": CONTAINER_SECURITY,
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {"securityContext": POD_SECURITY, "containers": [container], "volumes": [{"name": "tmp", "emptyDir": {}}]}
    template = {"metadata": {"labels": marks}, "spec": pod}
    ports = [{"port": 6379, "protocol": "TCP"}]
    parts: list[tuple[str, str, dict[str, Any]]] = [
        ("v1", "Secret", {"stringData": {"password": "not-a-secret"}}),
        ("v1", "Service", {"spec": {"selector": marks, "ports": ports}}),
        ("apps/v1", "Deployment", {"spec": {"selector": {"matchLabels": marks}, "template": template}}),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            {"spec": {"podSelector": {"matchLabels": marks}, "ingress": [{"ports": ports}]}},
        ),
    ]
    items = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": "redis"}, **part} for version, kind, part in parts
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
