"""The CustomResourceDefinition takes every valid Classifier, and is what Kubernetes calls structural."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS30Validator

from tests.projects import declare
from vitruvian import spec
from vitruvian.errors import SpecError
from vitruvian.operator import crd
from vitruvian.operator.status import ChampionStatus, Condition, RunStatus, Status

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VALIDATOR = OAS30Validator(crd.schema())


def _blocks() -> Iterator[Any]:
    """Yield every Classifier of the samples and the docs."""
    for sample in sorted((ROOT / "k8s" / "samples").glob("*.yaml")):
        found = [each for each in yaml.safe_load_all(sample.read_text()) if each["kind"] == "Classifier"]
        yield from (pytest.param(each, id=sample.name) for each in found)
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
            if "kind: Classifier" in block:
                yield pytest.param(yaml.safe_load(block), id=f"{page.name} {number}")


def _of(**parts: Any) -> dict[str, Any]:
    whole = {"data": {"source": "s3://studio/yoga"}, "model": {"architecture": "vit"}, **parts}
    return {"apiVersion": "vitruvian.dev/v1alpha1", "kind": "Classifier", "metadata": {"name": "yoga"}, "spec": whole}


CLIP = {
    "architecture": "clip",
    "pretrained": "s3://models/clip",
    "clip": {"templates": ["a person doing {}."], "unfreezeVisual": 2, "interpolation": [0, 0.5, 1]},
    "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj"]},
}
SPACE = {
    "training.learningRate": {"logUniform": [1e-5, 1e-2]},
    "training.batchSize": {"int": [16, 64]},
    "training.augmentation": {"choice": ["none", "light"]},
}
VALID = {
    "a range of workers": _of(training={"strategy": "ddp", "workers": {"min": 1, "max": 4}}),
    "a number of workers": _of(training={"strategy": "ddp", "workers": 4}),
    "a clip": _of(model=CLIP),
    "a space": _of(tuning={"space": SPACE}),
    "nulls": _of(training={"earlyStopping": None, "learningRate": None}, tuning=None),
    "whole numbers": _of(training={"learningRate": 1, "warmup": 0}, gates=[{"metric": "f1", "atLeast": 1}]),
    "autoscaling": _of(serving={"backend": "rayserve", "replicas": {"min": 1, "max": 3, "queueLength": 0.5}}),
}


@pytest.mark.parametrize("declared", [*_blocks(), *(pytest.param(each, id=name) for name, each in VALID.items())])
def test_what_is_valid_is_taken_as_it_is_written_and_with_every_default(declared: dict[str, Any]) -> None:
    classifier = spec.check(declared)
    VALIDATOR.validate(declared)
    VALIDATOR.validate(classifier.model_dump(by_alias=True, mode="json"))


def test_what_tests_declare_is_taken(tmp_path: Path) -> None:
    for form in ("images", "heatmaps"):
        VALIDATOR.validate(yaml.safe_load(declare(tmp_path, "s3://studio/yoga", form).read_text()))


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        (_of(model={"architecture": "vgg"}), "vgg"),
        (_of(data={}), "source"),
        (_of(training={"epochs": -1}), "epochs"),
        (_of(training={"epochs": 1.5}), "epochs"),
        (_of(data={"source": "s3://d", "testSize": 1}), "testSize"),
        (_of(gates=[{"metric": "accuracy"}]), "atLeast"),
        (_of(gates=[{"metric": "accuracy", "atLeast": 2}]), "atLeast"),
        (_of(export={"formats": []}), "formats"),
        (_of(serving={"replicas": {"min": 0}}), "min"),
        ({**_of(), "metadata": {"name": "a.b"}}, "name"),
    ],
)
def test_what_is_wrong_by_itself_is_refused_by_the_cluster_too(declared: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError):
        spec.check(declared)
    told = [f"{list(error.absolute_path)} {error.message}" for error in VALIDATOR.iter_errors(declared)]
    assert any(named in line for line in told), told


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from _nodes(each, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _nodes(schema[key], f"{path}[]")


def test_the_schema_is_structural() -> None:
    known = {"description", "enum", "pattern", "required", "nullable", "exclusiveMinimum", "exclusiveMaximum"}
    known |= {f"{end}{what}" for end in ("min", "max") for what in ("imum", "Items", "Length")}
    known |= {"type", "properties", "items", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
    known |= {"x-kubernetes-list-type", "x-kubernetes-list-map-keys"}
    nodes = dict(_nodes(crd.schema()))
    for path, node in nodes.items():
        assert set(node) <= known, path
        assert isinstance(node.get("type", ""), str), path
        # Of what has no type anything is taken; of what has one, what isn't listed is unknown.
        assert "type" in node or node["x-kubernetes-preserve-unknown-fields"], path
        assert not {"properties", "additionalProperties"} <= set(node), path
    open_nodes = {path for path, node in nodes.items() if "x-kubernetes-preserve-unknown-fields" in node}
    assert open_nodes == {
        ".spec.training.workers",
        ".spec.serving.rollout.judge",
        ".spec.tuning.space[].choice[]",
        ".status",
    }


def test_every_field_of_the_declaration_is_in_it() -> None:
    nodes = {path.replace("[]", "").lstrip(".") for path, _ in _nodes(crd.schema())}
    wanted = {line.path.replace("[]", "").replace(".FIELD", "") for line in spec.fields()}
    assert {path for path in wanted - nodes if not path.startswith(("metadata.", "spec.training.workers."))} == set()


def test_a_status_is_taken_and_may_be_a_later_releases() -> None:
    ready = Condition(
        type="Ready",
        status="True",
        reason="Serving",
        observed_generation=1,
        last_transition_time="2026-01-01T00:00:00Z",
    )
    run = RunStatus(name="yoga-1", digest="0", state="Succeeded")
    status = Status(phase="Serving", conditions=(ready,), champion=ChampionStatus(version="1"), run=run).written()
    VALIDATOR.validate({**_of(), "status": status})
    VALIDATOR.validate({**_of(), "status": {**status, "phase": "Canary", "challenger": {"version": "2"}}})
