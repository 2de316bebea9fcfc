"""Runs on a cluster begin whole or not at all, and end when they are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.apiserver import ApiServer, api_server, kubeconfig, use
from vitruvian import spec
from vitruvian.cluster import runs
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import Object
from vitruvian.cluster.rayjob import tracked
from vitruvian.cluster.settings import TrainerSettings
from vitruvian.errors import Conflict, GateFailed, SpecError, VitruvianError

DECLARED = yaml.safe_dump(
    {
        "metadata": {"name": "yoga"},
        "spec": {"data": {"source": "s3://d/y"}, "model": {"architecture": "vit"}, "artifacts": "s3://models/yoga"},
    }
)
LOG = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(runs, "_SECONDS_BETWEEN_LOOKS", 0.01)
    with api_server() as made:
        (tmp_path / "config").write_text(kubeconfig(made.url))
        use(monkeypatch, tmp_path / "config")
        yield made


def _submit(cluster: Cluster) -> str:
    return runs.submit(cluster, spec.parse(DECLARED), DECLARED, TrainerSettings.model_validate({}))


def _run(name: str, **status: object) -> Object:
    marks = {"vitruvian.dev/classifier": "yoga", "app.kubernetes.io/component": "trainer"}
    metadata = {"name": name, "labels": marks, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": {}, "status": status}


def test_a_run_that_cant_be_made_whole_is_not_left_half_made(api: ApiServer) -> None:
    api.forbidden.add(("create", "configmaps"))
    with pytest.raises(VitruvianError, match="cannot create resource"):
        _submit(Cluster())
    assert api.names() == set()
    api.forbidden.add(("delete", "rayjobs"))
    with pytest.raises(VitruvianError, match=r"cannot create .*; RayJob yoga-\w+ is left behind; .*kubectl -n studio"):
        _submit(Cluster())


def test_ctrl_c_leaves_no_half_made_run(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    create = cluster.create

    def interrupted(made: Object) -> Object:
        create(made)
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _submit(cluster)
    assert api.names() == set()


def test_of_two_runs_that_are_begun_at_once_one_gives_way(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    create = cluster.create

    def raced(made: Object) -> Object:
        # Begun after this one looked for others, and before it was there.
        api.keep("rayjobs", _run("yoga-000000"))
        return create(made)

    monkeypatch.setattr(cluster, "create", raced)
    with pytest.raises(Conflict, match="run yoga-000000 of this classifier was begun just before"):
        _submit(cluster)
    assert api.names() == {"rayjobs/yoga-000000"}


def test_a_run_that_is_ended_as_soon_as_it_is_begun_is_no_error(api: ApiServer) -> None:
    api.status["RayJob"] = {"jobDeploymentStatus": "ValidationFailed", "message": "refused"}
    name = _submit(Cluster())
    assert runs.find(Cluster(), name).message == "refused"


def test_a_run_is_cancelled_when_it_is_gone(api: ApiServer) -> None:
    name = _submit(Cluster())
    assert runs.cancel(Cluster(), name).name == name
    assert api.names() == set()


@pytest.mark.parametrize(
    ("code", "log", "kind", "told"),
    [
        (3, "…\n✗ gate: accuracy 0.4 is below 0.95\nmore", GateFailed, "gate: accuracy 0.4 is below 0.95"),
        (1, "…\n✗ s3://d/y: not found; check it\n", VitruvianError, "s3://d/y: not found; check it"),
        (1, "…\nno line for people\n", VitruvianError, "Job entrypoint command failed with exit code 1"),
    ],
)
def test_a_failed_run_ends_with_its_own_line(
    api: ApiServer, code: int, log: str, kind: type[VitruvianError], told: str
) -> None:
    status = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": LOG.format(code, log)}
    made = _run("yoga-1", **status)
    api.keep("rayjobs", made)
    assert runs.run_of(made).message == told
    with pytest.raises(kind) as caught:
        list(runs.follow(Cluster(), "yoga-1"))
    assert told in caught.value.what
    assert len(str(caught.value).splitlines()) == 1


def test_a_password_is_not_written_into_a_run() -> None:
    with pytest.raises(SpecError, match="would be seen by all who see the run; put MLFLOW_TRACKING_USERNAME"):
        tracked("http://admin:secret@mlflow.mlops:5000", None)
