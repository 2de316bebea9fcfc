"""Tests against a real cluster: what they create they delete."""

from __future__ import annotations

import base64
import json
import math
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import yaml

from tests.cluster.kube import CHART, Environment, get, kubectl, run, settings, soon
from tests.projects import declare, write_data
from vitruvian.inference.oip import TENSORS

_TOOLS = ("kubectl", "helm")
_DENY_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What the dashboards show comes from the pods of all other tests.
    items.sort(key=lambda item: item.path.name == "test_dashboards.py")
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    reason = None
    if not os.environ.get("KUBECONFIG"):
        reason = (
            "needs a cluster: set KUBECONFIG to one with KubeRay and KServe (docs/kubernetes.md says how to get it)"
        )
    elif lacking:
        reason = f"needs {' and '.join(lacking)} on the PATH"
    if reason:
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=reason))


def make_namespace(name: str) -> None:
    """Make a namespace that takes only pods of level `restricted` and lets nobody talk to anybody."""
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("-n", name, "apply", "-f", "-", text=_DENY_ALL)


@pytest.fixture
def namespace() -> Iterator[str]:
    """An empty namespace."""
    name = f"vitruvian-{secrets.token_hex(3)}"
    make_namespace(name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


SMALL = {"head": {"cpu": "50m", "memory": "3Gi"}, "worker": {"cpu": "50m", "memory": "3Gi"}}
"""Settings of trainers' pods that a small machine has room for."""


@dataclass(frozen=True)
class S3:
    """A bucket of the cluster's S3 server, as pods and as this machine see it."""

    inside: Environment
    outside: Environment
    bucket: str

    @property
    def values(self) -> dict[str, object]:
        """The chart's values for it."""
        return {
            "create": True,
            "endpoint": self.inside["AWS_ENDPOINT_URL"],
            "region": self.inside["AWS_REGION"],
            "accessKeyId": self.inside["AWS_ACCESS_KEY_ID"],
            "secretAccessKey": self.inside["AWS_SECRET_ACCESS_KEY"],
        }


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A bucket on the S3 server `s3` in namespace `s3`, with the keys of its Secret."""
    found = get("s3", "secret", "s3")["data"]
    keys = {name: base64.b64decode(found[name]).decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    keys["AWS_REGION"] = "us-east-1"
    address = get("s3", "service", "s3")["spec"]["clusterIP"]
    forward = None
    if not answers(address, 9000):
        forward = subprocess.Popen(["kubectl", "-n", "s3", "port-forward", "service/s3", "19000:9000"])
        soon("the port is forwarded", lambda: answers("127.0.0.1", 19000))
    outside = keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:19000" if forward else f"http://{address}:9000"}
    bucket = f"vitruvian-{secrets.token_hex(3)}"
    client = boto3.resource(
        "s3",
        endpoint_url=outside["AWS_ENDPOINT_URL"],
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name=keys["AWS_REGION"],
    ).Bucket(bucket)
    client.create()
    yield S3(keys | {"AWS_ENDPOINT_URL": "http://s3.s3.svc.cluster.local:9000"}, outside, bucket)
    client.objects.delete()
    client.delete()
    if forward:
        forward.terminate()


@pytest.fixture
def s3_here(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """Return the bucket, which this process and those that it starts reach."""
    for name, value in s3.outside.items():
        monkeypatch.setenv(name, value)
    return s3


def answers(host: str, port: int) -> bool:
    """Return whether anything takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Published:
    """A classifier with two published versions in S3."""

    declared: Path
    address: str
    versions: tuple[str, str]

    @property
    def request(self) -> bytes:
        """A request for one prediction over the Open Inference Protocol."""
        shape = [1, 3, 32, 32]
        tensor = {"name": TENSORS["image"], "datatype": "FP32", "shape": shape, "data": [0.5] * math.prod(shape)}
        return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture(scope="session")
def published(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two versions of a small classifier, trained here in one process; the second is the champion."""
    folder = tmp_path_factory.mktemp("published")
    write_data(folder / "data")
    address = f"s3://{s3.bucket}/poses"
    versions = []
    for seed in (1, 2):
        file = declare(folder, folder / "data", artifacts=address, training={"seed": seed})
        told = run("vitruvian", "run", "-f", file, env=s3.outside)
        versions.append(told.partition("/bundles/")[2].split()[0])
    return Published(file, address, (versions[0], versions[1]))


class Release:
    """The chart in a namespace."""

    def __init__(self, namespace: str, s3: S3, folder: Path) -> None:
        self.namespace = namespace
        self.s3 = s3
        self.folder = folder

    def install(self, wait: bool = True, **server: object) -> str:
        """Install, or upgrade to, these values of `server`."""
        small = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
        values = settings(**{"resources": small, "drainSeconds": 5, **server})
        values["s3"] = self.s3.values
        file = self.folder / f"values-{time.monotonic_ns()}.yaml"
        file.write_text(yaml.safe_dump(values))
        waits = ("--wait", "--timeout", "120s") if wait else ()
        return self.helm("upgrade", "--install", "v", CHART, "-f", file, *waits)

    def helm(self, *words: str | Path) -> str:
        return run("helm", "-n", self.namespace, *words)


@pytest.fixture
def release(namespace: str, s3: S3, tmp_path: Path) -> Iterator[Release]:
    """The chart, not installed yet; it is uninstalled afterwards, so that nothing stays that has no namespace."""
    made = Release(namespace, s3, tmp_path)
    yield made
    run("helm", "-n", namespace, "uninstall", "v", "--ignore-not-found")
