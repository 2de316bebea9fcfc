"""A bundle on a real Ray Serve answers as `vitruvian serve` does."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import cli

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


def _served(application: Application) -> Any:
    """Return the arguments that a replica of an application gets."""
    bound: Any = application
    return bound._bound_deployment.init_args[0]


def test_relative_paths_are_meant_from_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path)
    (tmp_path / "access.yaml").write_text("keys: keys.yaml\n")
    monkeypatch.chdir(tmp_path)
    asked = _served(rayserve.app(rayserve.Arguments(bundle="store", access=Path("access.yaml"))))
    assert (asked.bundle, asked.access) == (str(tmp_path / "store"), tmp_path / "access.yaml")
    assert _served(rayserve.models(rayserve.ModelsArguments(root="."))).root == f"{tmp_path}/."
    monkeypatch.setenv(rayserve.BUNDLE, "store")
    assert _served(rayserve.built).bundle == str(tmp_path / "store")


@pytest.mark.parametrize("address", ["s3://models/yoga", "file:///nowhere/yoga", "/only/on/the/nodes/"])
def test_other_addresses_are_left_to_the_replicas(address: str) -> None:
    assert _served(rayserve.app(rayserve.Arguments(bundle=address))).bundle == address
    assert _served(rayserve.models(rayserve.ModelsArguments(root=address))).root == address


def test_what_isnt_where_the_command_runs_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    refused = {
        ("app", "bundle=nothing"): "there is no such folder",
        ("app", "bundle=empty"): "there is no bundle here",
        ("app", "bundle=store", "access=nothing"): f"no file that can be read at {tmp_path}/nothing",
        ("models", "root=nothing"): f"no folder that can be read at {tmp_path}/nothing",
    }
    for (name, *words), what in refused.items():
        # It ends before it looks for a cluster.
        told = CliRunner().invoke(cli, ["run", f"vitruvian.serving.rayserve:{name}", *words])
        assert told.exit_code == 1 and what in told.output, told.output
        (line,) = [line for line in told.output.splitlines() if not line.endswith(f"rayserve:{name}'.")]
        assert line.startswith(f"Error: {words[-1]}: ")
        assert "Traceback" not in told.output


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
