"""From one backend to the other and away: what serves is never missed, and nothing stays that isn't wanted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import S3, Published, Release
from tests.cluster.kube import CHART, Load, get, ingress_address, knows, kubectl, run, settings, soon

_SMALL = {"cpu": "50m", "memory": "2Gi"}
_RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
_MADE = "inferenceservice,rayservice,raycluster,deployment,pod,service,ingress,hpa,poddisruptionbudget"


def _declared(published: Published, folder: Path, backend: str, **replicas: int) -> Path:
    declaration = yaml.safe_load(published.declared.read_text())
    declaration["spec"]["serving"] = {"backend": backend, "replicas": replicas}
    file = folder / f"{backend}-{'-'.join(map(str, replicas.values()))}.yaml"
    file.write_text(yaml.safe_dump(declaration))
    return file


def _install(release: Release, domain: str) -> None:
    """Install the chart for both backends, with their hosts in one domain."""
    values = settings(resources=_RESOURCES)
    values["s3"] = release.s3.values
    values["rayserve"] = {"settings": {"head": _SMALL, "worker": _SMALL, "ingress": {"domain": domain}}}
    file = release.folder / "both-values.yaml"
    file.write_text(yaml.safe_dump(values))
    release.helm("upgrade", "--install", "v", CHART, "-f", file)


def _left(namespace: str) -> str:
    """Return what of a classifier's servers is in the namespace."""
    return kubectl("-n", namespace, "get", _MADE, "-l", "app.kubernetes.io/component!=operator", "-o", "name")


@pytest.fixture
def nowhere() -> dict[str, str]:
    """Variables of a machine that can't ask S3."""
    return {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.mark.timeout(1200)
def test_another_backend_takes_over_without_a_lost_request_and_the_one_before_goes(
    release: Release, published: Published, s3: S3, tmp_path: Path
) -> None:
    namespace = release.namespace
    _install(release, "example.com")
    kserve, rayserve = (_declared(published, tmp_path, backend, min=1, max=1) for backend in ("kserve", "rayserve"))
    deploy = ("vitruvian", "deploy", "-n", namespace, "--wait", "420", "-f")
    run(*deploy, kserve, env=s3.outside, seconds=450)
    host = get(namespace, "inferenceservice", "poses")["status"]["url"].removeprefix("http://")
    # The same host for both: requests can't tell who answers.
    _install(release, host.partition(".")[2])
    address = soon("the ingress has an address", ingress_address)
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    headers = {"Host": host, "Content-Type": "application/json"}
    with Load(f"{address}/v2/models/poses/infer", published.request, 4, 0.02, **headers) as load:
        soon("it answers", lambda: load.total > 100)
        told = run(*deploy, rayserve, env=s3.outside, seconds=450)
        assert told.rstrip().endswith(
            "✓ InferenceService poses is removed, and nothing answers at poses-predictor:80 any more"
        )
        assert "inferenceservice" not in _left(namespace)
        asked = load.total
        soon("Ray Serve answers", lambda: load.total > asked + 100)
        told = run(*deploy, kserve, env=s3.outside, seconds=450)
        assert told.rstrip().endswith(
            "✓ RayService poses is removed, and nothing answers at poses-serve-svc:8000 any more"
        )
        assert "ray" not in _left(namespace)
        asked = load.total
        soon("KServe answers", lambda: load.total > asked + 100)
    print(dict(load.answers))
    assert load.failed == {}
    run("vitruvian", "undeploy", "-f", kserve, "-n", namespace)
    assert _left(namespace) == ""


def test_servers_leave_a_node_one_by_one_and_all_of_them_go_with_undeploy(
    release: Release, published: Published, s3: S3, tmp_path: Path
) -> None:
    namespace = release.namespace
    release.install()
    deploy = ("vitruvian", "deploy", "-n", namespace, "-f")
    run(*deploy, _declared(published, tmp_path, "kserve", min=2, max=2), env=s3.outside)
    budget = soon("the servers are counted", lambda: _budget(namespace, healthy=2))
    assert budget["disruptionsAllowed"] == 1
    run(*deploy, _declared(published, tmp_path, "kserve", min=1, max=2), env=s3.outside)
    assert "poddisruptionbudget" not in _left(namespace)
    told = run("vitruvian", "undeploy", "poses", "-n", namespace)
    assert told.rstrip().endswith("InferenceService poses is removed")
    assert _left(namespace) == ""
    told = run("vitruvian", "undeploy", "poses", "-n", namespace, check=False)
    assert told.startswith(f"✗ namespace {namespace}: nothing serves 'poses'")
    run("vitruvian", "undeploy", "poses", "-n", namespace, "--ignore-not-found")


def _budget(namespace: str, healthy: int) -> dict[str, int]:
    status: dict[str, int] = get(namespace, "poddisruptionbudget", "poses-servers").get("status", {})
    return status if status.get("currentHealthy") == healthy else {}


@pytest.mark.parametrize("backend", ["kserve", "rayserve"])
def test_a_version_that_isnt_there_is_refused_or_ends_with_the_pods_reason(
    backend: str, release: Release, published: Published, s3: S3, nowhere: dict[str, str], tmp_path: Path
) -> None:
    namespace, missing = release.namespace, "0" * 12
    _install(release, "example.com")
    deploy = ("vitruvian", "deploy", "-n", namespace, "--wait", "300", "--version", missing, "-f")
    file = _declared(published, tmp_path, backend, min=1, max=1)
    told = run(*deploy, file, env=s3.outside, check=False)
    assert f"there is no version {missing}; see what there is: aws s3 ls" in told
    assert _left(namespace) == "", "nothing was applied"
    told = run(*deploy, file, env=nowhere, check=False, seconds=310)
    print(told)
    assert f"version {missing} is not looked up from here: no AWS credentials were found" in told
    (reason,) = [line for line in told.splitlines() if line.startswith("✗")]
    assert f"version {missing} can't be served: " in reason
    assert f"/bundles/{missing}: there is no bundle here" in reason
    run("vitruvian", "undeploy", "-f", file, "-n", namespace)
    assert _left(namespace) == ""
