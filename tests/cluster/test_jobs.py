"""Jobs other than a run end on a cluster, and what they make is in S3: the commands of docs/studies.md and batch.md."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import yaml

from tests.bundles import picture
from tests.cluster.conftest import S3, SMALL, Published, Release
from tests.cluster.kube import get, run
from tests.integration.test_docs import commands
from tests.projects import TINY
from vitruvian import spec
from vitruvian.store import open_store


def _submit(release: Release, folder: Path, declared: Path, verb: str, places: dict[str, str]) -> str:
    """Submit what a page says with small pods, and return what was told until it was over."""
    pages = {"study": "studies", "tune": "studies", "predict": "batch"}
    start = f"vitruvian submit {verb} "
    (line,) = [line for line in commands(f"docs/{pages[verb]}.md") if line.startswith(start)]
    for said, meant in {"classifier.yaml": str(declared), "studio": release.namespace, **places}.items():
        line = line.replace(said, meant)
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(SMALL))
    return run(*line.split(), "--settings", settings, seconds=900)


@pytest.mark.timeout(2000)
def test_searches_and_studies_end_and_what_they_found_is_in_s3(release: Release, s3_here: S3, tmp_path: Path) -> None:
    artifacts = f"s3://{s3_here.bucket}/jobs-{secrets.token_hex(2)}"
    declared = tmp_path / "declared.yaml"
    whole = {
        "data": {"source": "synthetic://poses?count=200", "format": "images"},
        "model": {"architecture": "vit", "dimensions": TINY},
        "training": {"epochs": 1, "batchSize": 16},
        "tuning": {"space": {"training.learningRate": {"logUniform": [1.0e-3, 1.0e-2]}}},
        "artifacts": artifacts,
    }
    head = {"apiVersion": "vitruvian.dev/v1alpha1", "kind": "Classifier", "metadata": {"name": "jobs"}}
    declared.write_text(yaml.safe_dump({**head, "spec": whole}))
    release.install()
    store = open_store(artifacts)

    _submit(release, tmp_path, declared, "tune", {"--trials 20 --concurrent 4": "--trials 2 --concurrent 2"})
    (table,) = [entry.key for entry in store.list("tuning/") if entry.key.endswith("trials.csv")]
    assert store.get(table).decode().count(",ended") == 2
    assert spec.parse(store.get("best.yaml").decode()).spec.tuning is None
    (job,) = get(release.namespace, "rayjobs")["items"]
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (job["metadata"]["labels"]["vitruvian.dev/job"], group["replicas"]) == ("tune", 2)

    _submit(release, tmp_path, declared, "study", {})
    (table,) = [entry.key for entry in store.list("studies/") if entry.key.endswith("study.csv")]
    assert len(store.get(table).decode().splitlines()) == 3
    rows = run("vitruvian", "status", "jobs", "-n", release.namespace).splitlines()[1:]
    assert [row.split()[2:4] for row in rows] == [["tune", "Succeeded"], ["study", "Succeeded"]]


@pytest.mark.timeout(1200)
def test_a_prediction_of_many_files_ends_and_its_answers_are_in_s3(
    release: Release, published: Published, s3_here: S3, tmp_path: Path
) -> None:
    tail = secrets.token_hex(2)
    source, answers = (open_store(f"s3://{s3_here.bucket}/{name}-{tail}") for name in ("new", "answers"))
    for index in range(10):
        source.put(f"{index}.png", picture("green", (32, 32)))
    release.install()
    places = {"s3://data/new": source.url, "s3://models/answers": answers.url, "--workers 4": "--workers 2 --part 5"}
    _submit(release, tmp_path, published.declared, "predict", places)
    assert {entry.key for entry in answers.list()} >= {"_SUCCESS", "part-000000.parquet", "part-000001.parquet"}
