"""A bundle in S3 becomes a RayService that answers as every other server does, and loses no request on the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from tests.cluster.conftest import S3, Published, Release
from tests.cluster.kube import CHART, Load, get, ingress_address, knows, kubectl, run, settings, soon

REQUESTS = 2000
_SMALL = {"cpu": "50m", "memory": "2Gi"}


def _declared(published: Published, folder: Path, **replicas: int) -> Path:
    declaration = yaml.safe_load(published.declared.read_text())
    declaration["spec"]["serving"] = {"backend": "rayserve", "replicas": replicas}
    file = folder / f"rayserve-{'-'.join(map(str, replicas.values()))}.yaml"
    file.write_text(yaml.safe_dump(declaration))
    return file


def _install(release: Release) -> None:
    values = settings()
    values["s3"] = release.s3.values
    values["kserve"] = {"enabled": False, "storageContainer": False}
    values["rayserve"] = {"settings": {"head": _SMALL, "worker": _SMALL, "ingress": {"domain": "ray.example.com"}}}
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
    host = f"poses-{namespace}.ray.example.com"
    assert f"it answers at http://{host}" in told
    address = soon("the ingress has an address", ingress_address)
    url = f"{address}/v2/models/poses/infer"
    headers = {"Host": host, "Content-Type": "application/json"}
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
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
