"""A bundle on a real Ray Serve answers as `vitruvian serve` does."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.bundles import make_bundle
from tests.rayserves import serving
from vitruvian import spec
from vitruvian.cluster import rayservice
from vitruvian.cluster.settings import RayServeSettings
from vitruvian.serving import rayserve

METRICS = 8095


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a bundle on Ray Serve, as `serve run` starts it."""
    root = tmp_path_factory.mktemp("bundle")
    folder = make_bundle(root).folder
    words = (rayservice.IMPORT_PATH, f"bundle={folder}", "name=poses")
    with serving(root, *words, **{rayserve.METRICS_PORT: str(METRICS)}) as address:
        yield address


def test_the_page_a_prediction_and_the_protocol_are_those_of_every_server(served: str) -> None:
    page = urllib.request.urlopen(urllib.request.Request(served, headers={"Accept": "text/html"})).read()
    assert b"<!doctype html>" in page
    model = json.load(urllib.request.urlopen(f"{served}/v2/models/poses"))
    assert model["name"] == "poses" and model["inputs"]
    asked = subprocess.run(
        [Path(sys.executable).parent / "vitruvian", "probe", served], capture_output=True, text=True, check=True
    )
    assert "answers:" in asked.stdout
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{served}/v2/models/poses/infer", b"{")
    assert json.load(refused.value)["type"].endswith("malformed-request")


def test_a_replica_shows_its_metrics_on_a_port_of_its_own(served: str) -> None:
    urllib.request.urlopen(f"{served}/health").read()
    told = urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics").read().decode()
    assert 'vitruvian_requests_total{classifier="poses"' in told


def test_what_serve_is_told_is_what_the_application_takes() -> None:
    declared = {
        "metadata": {"name": "yoga"},
        "spec": {"data": {"source": "s3://a/b"}, "model": {"architecture": "vit"}, "serving": {"backend": "rayserve"}},
    }
    classifier = spec.parse(yaml.safe_dump(declared))
    bundle = "s3://models/yoga/bundles/7"
    (service,) = rayservice.ray_service(classifier, bundle, "7", "studio", RayServeSettings(access="who"))
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == rayservice.IMPORT_PATH
    arguments = rayserve.Arguments.model_validate(application.args)
    assert arguments.bundle == bundle
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in group["containers"][0]["volumeMounts"]}
    assert arguments.access == Path(mounted["access"]) / "access.yaml"
    assert [each["secret"]["secretName"] for each in group["volumes"] if "secret" in each] == ["who"]
    assert [deployment.name for deployment in application.deployments] == [getattr(rayserve.Server, "name")]  # noqa: B009
    assert rayservice.METRICS_VARIABLE == rayserve.METRICS_PORT
