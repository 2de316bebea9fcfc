"""The doctor on a cluster: with everything, with nothing, with few rights, and without any cluster."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import S3, Release
from tests.cluster.kube import CHART, get, kubectl, run
from vitruvian.doctor.cluster import DEPLOY, TRAIN
from vitruvian.store import open_store

ACCOUNTS = ("trainer account", "server account")
FROM_THE_CHART = ("settings", "runtime", *ACCOUNTS, "bundle fetcher", "S3 keys", "server S3 keys")


@dataclass(frozen=True)
class Told:
    """What the doctor said."""

    text: str
    findings: dict[str, dict[str, str]]
    code: int

    def level(self, name: str) -> str:
        return self.findings[name]["level"]


def doctor(*words: str | Path, env: dict[str, str] | None = None) -> Told:
    """Ask for JSON, and return it with the exit code."""
    out = run("bash", "-c", 'vitruvian doctor --json "$@"; echo "code $?"', "-", *words, env=env)
    text, _, code = out.rpartition("code ")
    found: dict[str, Any] = json.loads(text)
    assert found["ok"] is (int(code) == 0)
    return Told(text, {each["name"]: each for each in found["findings"]}, int(code))


def _declare(folder: Path, s3: S3, prefix: str) -> Path:
    spec = {
        "data": {"source": f"s3://{s3.bucket}/{prefix}-data"},
        "model": {"architecture": "vit"},
        "training": {"strategy": "ddp", "workers": 2},
        "serving": {"replicas": {"min": 1, "max": 2, "queueLength": 4}},
        "artifacts": f"s3://{s3.bucket}/{prefix}",
    }
    file = folder / "classifier.yaml"
    file.write_text(yaml.safe_dump({"metadata": {"name": "yoga"}, "spec": spec}))
    return file


def test_with_the_chart_and_the_data_nothing_essential_is_missing(
    release: Release, s3_here: S3, tmp_path: Path
) -> None:
    release.install(wait=False)
    file = _declare(tmp_path, s3_here, "doctor")
    store = open_store(f"s3://{s3_here.bucket}")

    told = doctor("-n", release.namespace, "-f", file)
    assert told.code == 1 and told.level("data") == "error", "there is no data yet"
    store.put("doctor-data/tree/1.jpg", b"")
    told = doctor("-n", release.namespace, "-f", file)
    assert told.code == 0, told.text
    needed = ("API server", "namespace", "rights", "KubeRay", "KServe", "CPU metrics", "queue metric", "artifacts")
    assert {name: told.level(name) for name in (*FROM_THE_CHART, *needed)} == dict.fromkeys(
        (*FROM_THE_CHART, *needed), "ok"
    )
    assert "restricted" in told.findings["namespace"]["found"]
    assert [entry.key for entry in store.list("doctor")] == ["doctor-data/tree/1.jpg"], "the probe is gone"
    keys = get(release.namespace, "secret", "vitruvian-s3")["data"]
    assert base64.b64decode(keys["AWS_SECRET_ACCESS_KEY"]).decode() not in told.text


def test_an_empty_namespace_lacks_the_chart_and_is_told_how_to_get_it(namespace: str) -> None:
    told = doctor("-n", namespace)
    assert told.code == 1
    for name in ("settings", "runtime", "server account"):
        assert told.level(name) == "error"
    assert told.findings["settings"]["command"].startswith(f"helm install vitruvian charts/vitruvian -n {namespace}")
    assert "create secret generic vitruvian-s3" in told.findings["S3 keys"]["command"]
    assert told.level("KubeRay") == told.level("API server") == "ok"
    seen = run("vitruvian", "doctor", "-n", namespace, check=False)
    assert "✗ missing: settings, runtime, server account" in seen


def test_a_classifier_of_ray_serve_needs_its_settings_and_no_kserve_runtime(namespace: str, tmp_path: Path) -> None:
    spec = {
        "data": {"source": "synthetic://poses"},
        "model": {"architecture": "vit"},
        "serving": {"backend": "rayserve"},
        "artifacts": "folder",
    }
    file = tmp_path / "classifier.yaml"
    file.write_text(yaml.safe_dump({"metadata": {"name": "yoga"}, "spec": spec}))
    told = doctor("-n", namespace, "-f", file)
    assert (told.level("Ray Serve"), told.level("runtime")) == ("error", "note")
    assert told.level("artifacts") == "warning", "pods can't reach a folder of this machine"


def test_a_namespace_that_is_not_there_is_named() -> None:
    told = doctor("-n", "vitruvian-nowhere")
    assert told.findings["namespace"]["command"] == "kubectl create namespace vitruvian-nowhere"


def test_settings_that_no_node_satisfies_and_a_missing_queue_are_told(namespace: str) -> None:
    settings = yaml.safe_dump({"worker": {"cpu": "500", "memory": "6Gi"}, "queue": "team"})
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "vitruvian-trainer"},
        "data": {"settings.yaml": settings},
    }
    kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(made))
    told = doctor("-n", namespace)
    assert told.level("room") == "warning" and "a worker (500 CPUs" in told.findings["room"]["found"]
    assert told.level("Kueue") == "error" and "team" in told.findings["Kueue"]["found"]
    made["data"] = {"settings.yaml": "wrker: {}"}
    kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(made))
    assert "wrker" in doctor("-n", namespace).findings["settings"]["found"]


@pytest.fixture
def submitter(release: Release, tmp_path: Path) -> dict[str, str]:
    """The variables of somebody who may submit runs in the namespace, and nothing else."""
    release.install(wait=False)
    namespace = release.namespace
    kubectl("-n", namespace, "create", "serviceaccount", "somebody")
    kubectl(
        "-n",
        namespace,
        "create",
        "rolebinding",
        "somebody",
        "--role=v-submitter",
        f"--serviceaccount={namespace}:somebody",
    )
    token = kubectl("-n", namespace, "create", "token", "somebody").strip()
    config = yaml.safe_load(kubectl("config", "view", "--raw", "--minify", "--flatten"))
    user = config["contexts"][0]["context"]["user"]
    config["users"] = [{"name": user, "user": {"token": token}}]
    config["contexts"][0]["context"]["namespace"] = namespace
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(file)}


def test_somebody_with_few_rights_is_told_what_could_not_be_seen(release: Release, submitter: dict[str, str]) -> None:
    told = doctor(env=submitter)
    assert told.code == 0, told.text
    assert told.level("rights") == "warning"
    assert told.findings["rights"]["found"].startswith("may submit, status, logs, cancel; may not deploy")
    assert told.level("settings") == "ok"
    for name in ("S3 keys", "room", "GPUs", "KubeRay"):
        assert told.level(name) == "warning"
        assert "not allowed to look at" in told.findings[name]["found"]
    assert told.findings["namespace"]["found"] == f"not allowed to look at namespaces {release.namespace}"
    assert "ray.io/v1 is served" in told.findings["KubeRay"]["found"]
    assert "the cluster's administrator may run the same command" in run("vitruvian", "doctor", env=submitter)


def test_a_token_that_nobody_knows_is_one_line(submitter: dict[str, str]) -> None:
    file = Path(submitter["KUBECONFIG"])
    config = yaml.safe_load(file.read_text())
    config["users"][0]["user"]["token"] = "nobody's"
    file.write_text(yaml.safe_dump(config))
    told = doctor(env=submitter)
    assert told.code == 1
    assert "doesn't know this user" in told.findings["API server"]["found"]


def test_the_rights_that_are_asked_for_are_those_of_the_charts_roles() -> None:
    rendered = yaml.safe_load_all(run("helm", "template", "v", CHART))
    given = {
        role["metadata"]["name"]: {
            (verb, group, resource)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for role in rendered
        if role and role["kind"] == "Role"
    }
    asked = {"v-submitter": set(TRAIN), "v-deployer": {right for each in DEPLOY.values() for right in each}}
    assert {name: given[name] for name in asked} == asked


def test_without_a_cluster_it_is_one_line_and_the_rest_is_told(tmp_path: Path) -> None:
    nowhere = {"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    told = doctor(env=nowhere)
    assert told.code == 1
    assert [each["name"] for each in told.findings.values() if each["level"] == "error"] == ["kubeconfig"]
    assert "no cluster is configured" in told.findings["kubeconfig"]["found"]
    assert told.level("Python") == "ok"
    assert told.findings["kubeconfig"]["hint"].startswith("set KUBECONFIG")
    assert "Traceback" not in run("vitruvian", "doctor", check=False, env=nowhere)
