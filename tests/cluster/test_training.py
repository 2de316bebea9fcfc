"""A RayJob trains on real motion from S3, and goes on whatever is taken from it."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import S3, SMALL, Published, Release
from tests.cluster.kube import get, kubectl, run, soon
from tests.projects import declare
from vitruvian.store import open_store

MOTION = Path(__file__).parents[3] / "shared" / "data" / "mocap-17kp"
# 3,000 figures make 1,920 to learn from.
_STEP_OF_TWO = re.compile(r"2 workers, 160 steps an epoch.*epoch +\d+/8  step ", re.DOTALL)


def _declare(folder: Path, s3: S3, source: str, epochs: int, **training: Any) -> Path:
    declared = {
        "apiVersion": "vitruvian.dev/v1alpha1",
        "kind": "Classifier",
        "metadata": {"name": "motion"},
        "spec": {
            "data": {
                "source": source,
                "format": "heatmaps",
                **({"groupBy": "group"} if source.startswith("s3") else {}),
            },
            "model": {"architecture": "heatmap-cnn"},
            "training": {
                "strategy": "ddp",
                "workers": 2,
                "epochs": epochs,
                "batchSize": 16,
                "checkpoints": {"everySteps": 5},
                "earlyStopping": None,
                **training,
            },
            "gates": [{"metric": "accuracy", "atLeast": 0.3}],
            "artifacts": f"s3://{s3.bucket}/motion-{secrets.token_hex(2)}",
        },
    }
    file = folder / "motion.yaml"
    file.write_text(yaml.safe_dump(declared))
    return file


@pytest.mark.timeout(1500)
@pytest.mark.skipif(not MOTION.exists(), reason=f"needs the motion capture in {MOTION}")
def test_a_lost_worker_and_a_lost_cluster_cost_no_more_than_an_interval(
    release: Release, s3_here: S3, tmp_path: Path
) -> None:
    rendered = tmp_path / "rendered"
    run("vitruvian", "data", "render-keypoints", MOTION, rendered, "--as", "heatmaps", "--labels", "coarse")
    source = open_store(f"s3://{s3_here.bucket}/motion-data")
    for path in sorted(rendered.rglob("*")):
        if path.is_file():
            source.upload(path.relative_to(rendered).as_posix(), path)
    namespace = release.namespace
    release.install()
    file = _declare(tmp_path, s3_here, source.url, epochs=20)
    name = _submit(namespace, file)
    checkpoints = open_store(yaml.safe_load(file.read_text())["spec"]["artifacts"])

    soon("training has saved twice", lambda: _step(checkpoints) >= 10, 240)
    workers = get(namespace, "pods", "-l", "ray.io/node-type=worker")["items"]
    assert len(workers) == 2
    lost = workers[0]["metadata"]["name"]
    saved = _step(checkpoints)
    kubectl("-n", namespace, "delete", "pod", lost, "--grace-period=0", "--force")
    soon("training goes on without being asked", lambda: _step(checkpoints) > saved + 5, 240)
    assert _attempts(namespace, name) == 1, "the run itself was not begun anew"

    cluster = get(namespace, "rayjob", name)["status"]["rayClusterName"]
    saved = _step(checkpoints)
    kubectl("-n", namespace, "delete", "raycluster", cluster, "--wait=false")
    told = run("vitruvian", "logs", name, "-n", namespace, seconds=900)
    assert "going on from epoch" in told
    assert "publish" in told
    assert _step(checkpoints) > saved
    assert "Succeeded" in run("vitruvian", "status", "-n", namespace)
    info: dict[str, Any] = json.loads(checkpoints.get("champion.json"))
    assert checkpoints.get(f"bundles/{info['version']}/bundle.json")


@pytest.mark.timeout(900)
def test_a_minute_without_s3_costs_nothing(release: Release, published: Published, s3_here: S3, tmp_path: Path) -> None:
    namespace = release.namespace
    release.install()
    file = _declare(tmp_path, s3_here, "synthetic://poses?count=400", epochs=15)
    name = _submit(namespace, file)
    checkpoints = open_store(yaml.safe_load(file.read_text())["spec"]["artifacts"])
    soon("training has saved", lambda: _step(checkpoints) >= 5, 240)

    kubectl("-n", "s3", "scale", "deployment", "s3", "--replicas=0")
    try:
        release.install(wait=False, enabled=True, bundle=published.address)
        time.sleep(60)
        assert get(namespace, "rayjob", name)["status"]["jobStatus"] == "RUNNING"
    finally:
        kubectl("-n", "s3", "scale", "deployment", "s3", "--replicas=1")
    run("vitruvian", "logs", name, "-n", namespace, seconds=600)
    assert _attempts(namespace, name) == 1
    assert json.loads(checkpoints.get("champion.json"))["version"]
    kubectl("-n", namespace, "rollout", "status", "deployment/v-server", "--timeout=180s")
    assert "Succeeded" in release.helm("test", "v")


@pytest.mark.timeout(900)
def test_a_pod_that_is_asked_to_go_costs_no_step_and_training_takes_the_room_there_is(
    release: Release, s3_here: S3, tmp_path: Path
) -> None:
    namespace = release.namespace
    release.install()
    range_of_workers = {"workers": {"min": 1, "max": 2}, "batchSize": 4, "checkpoints": {"everySteps": 100_000}}
    file = _declare(tmp_path, s3_here, "synthetic://poses?count=1000", epochs=8, **range_of_workers)
    name = _submit(namespace, file)
    checkpoints = open_store(yaml.safe_load(file.read_text())["spec"]["artifacts"])

    log = tmp_path / "log.txt"
    with open(log, "w") as out:
        follow = [str(Path(sys.executable).with_name("vitruvian")), "logs", name, "-n", namespace]
        following = subprocess.Popen(follow, stdout=out, stderr=subprocess.STDOUT)
    try:
        soon("two workers train", lambda: _STEP_OF_TWO.search(log.read_text()), 400)
        workers = get(namespace, "pods", "-l", "ray.io/node-type=worker")["items"]
        kubectl("-n", namespace, "delete", "pod", workers[0]["metadata"]["name"])
        saved = _step(checkpoints)
        assert saved > 0, "a pod is gone only when its training is saved"
        place = f"going on from epoch {1 + saved // 160}, step {saved % 160}"
        soon("training goes on at this very step", lambda: place in log.read_text(), 240)
        assert following.wait(600) == 0, log.read_text()
    finally:
        following.kill()
        following.wait()
    assert _attempts(namespace, name) == 1
    assert json.loads(checkpoints.get("champion.json"))["version"]
    begun = [
        (int(epoch), int(step)) for epoch, step in re.findall(r"going on from epoch (\d+), step (\d+)", log.read_text())
    ]
    assert begun == sorted(set(begun)), "each number of workers goes on where the last one was"


def _submit(namespace: str, file: Path) -> str:
    """Submit a run with little reserved, and return its name."""
    small = file.with_name("settings.yaml")
    small.write_text(yaml.safe_dump(SMALL))
    told = run("vitruvian", "submit", "-f", file, "-n", namespace, "--settings", small, "--no-follow")
    return told.split()[1]


def _step(store: Any) -> int:
    """Return the optimizer step of the newest complete checkpoint; 0 where there is none."""
    steps = [0]
    for entry in store.list("checkpoints/"):
        if entry.key.endswith("state.json"):
            steps += [int(name.split("-")[1]) for name in json.loads(store.get(entry.key))["checkpoints"]]
    return max(steps)


def _attempts(namespace: str, name: str) -> int:
    return int(get(namespace, "rayjob", name)["status"].get("failed") or 0) + 1


def test_a_run_whose_declaration_is_refused_leaves_nothing(namespace: str, tmp_path: Path) -> None:
    full = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}}
    quota = {**full, "spec": {"hard": {"count/configmaps": "0"}}}
    kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(quota))
    soon("the quota holds", lambda: get(namespace, "resourcequota", "full").get("status", {}).get("hard"))
    file = declare(tmp_path, "synthetic://poses", artifacts="s3://models/poses")
    told = run("vitruvian", "submit", "-f", file, "-n", namespace, check=False)
    assert "exceeded quota" in told
    soon("no run is left", lambda: not get(namespace, "rayjobs")["items"])
