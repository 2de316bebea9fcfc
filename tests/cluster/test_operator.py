"""A Classifier that is applied is trained, gated, published and served; one that is deleted leaves nothing."""

from __future__ import annotations

import difflib
import json
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import S3, Published, Release
from tests.cluster.kube import CHART, get, ingress_address, knows, kubectl, run, soon
from tests.projects import TINY
from vitruvian.store import open_store

CHILDREN = (
    "rayjob,raycluster,job,inferenceservice,rayservice,deployment,service,ingress,hpa,poddisruptionbudget,configmap,pod"
)
# What any model reaches, and none.
EASY, IMPOSSIBLE = 0.0, 1.0


def _install(release: Release) -> None:
    """Install the chart with little reserved for Ray's pods."""
    release.install(wait=False)
    small = ",".join(
        f"{role}.settings.{pod}.{what}"
        for role in ("trainer", "rayserve")
        for pod in ("head", "worker")
        for what in ("cpu=50m", "memory=3Gi")
    )
    release.helm("upgrade", "v", CHART, "--reuse-values", "--set", small, "--wait", "--timeout", "120s")


def _declared(s3: S3, folder: str = "operated", **parts: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vitruvian.dev/v1alpha1",
        "kind": "Classifier",
        "metadata": {"name": "operated"},
        "spec": {
            "data": {"source": "synthetic://poses?count=300"},
            "model": {"architecture": "vit", "dimensions": TINY},
            # `kubectl apply` leaves the null out of what it sends.
            "training": {"epochs": 2, "batchSize": 16, "learningRate": 2e-3, "earlyStopping": None},
            "gates": [{"metric": "accuracy", "atLeast": EASY}],
            "artifacts": f"s3://{s3.bucket}/{folder}",
            **parts,
        },
    }


def _apply(namespace: str, declared: dict[str, Any], **more: Any) -> str:
    return kubectl("-n", namespace, "apply", "-f", "-", text=yaml.safe_dump(declared), **more)


def _status(namespace: str, name: str = "operated") -> dict[str, Any]:
    """Return the status; empty while it is about a declaration before this one."""
    found = get(namespace, "classifier", name)
    status: dict[str, Any] = found.get("status") or {}
    return status if status.get("observedGeneration") == found["metadata"]["generation"] else {}


def _is(phase: str, namespace: str) -> dict[str, Any] | None:
    status = _status(namespace)
    return status if status.get("phase") == phase else None


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})


def _runs(namespace: str) -> list[str]:
    return kubectl("-n", namespace, "get", "rayjobs", "-o", "name").split()


def _names(namespace: str, kinds: str = CHILDREN) -> set[str]:
    return set(kubectl("-n", namespace, "get", kinds, "-o", "name").split())


def _phase_in_time(namespace: str, phase: str, seconds: float = 400) -> dict[str, Any]:
    try:
        found: dict[str, Any] = soon(f"the phase is {phase}", partial(_is, phase, namespace), seconds)
    except AssertionError as e:
        told = kubectl("-n", namespace, "get", "classifier", "operated", "-o", "yaml", check=False)
        raise AssertionError(f"{e}\n{told}\n{_log(namespace)}") from e
    return found


def _log(namespace: str) -> str:
    return kubectl("-n", namespace, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=200", check=False)


def _stays(what: Callable[[], Any], seconds: float) -> Any:
    """Return what stays the same for so long."""
    first, deadline = what(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(1)
        now = what()
        assert now == first, _changes(first, now)
    return first


def _comes_to_rest(what: Callable[[], Any], seconds: float = 10, within: float = 120) -> None:
    """Wait until something stays the same for so long: KServe may say that it is ready, and then take that back."""
    deadline = time.monotonic() + within
    last, since = what(), time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, "it doesn't come to rest"
        time.sleep(1)
        now = what()
        if now != last:
            last, since = now, time.monotonic()


def _changes(first: Any, now: Any) -> str:
    """Return what isn't the same, line by line: whole, objects are too long to read."""
    before, after = (json.dumps(each, indent=1, sort_keys=True).splitlines() for each in (first, now))
    return "\n".join(difflib.unified_diff(before, after, n=3, lineterm=""))


def _versions(namespace: str) -> dict[str, Any]:
    """Return what the operator wrote of a Classifier, and what is of it; a write that changes anything shows."""
    items = get(namespace, "classifiers,rayjobs,inferenceservices,hpa,poddisruptionbudgets,events")["items"]
    ours = [each for each in items if each["kind"] != "Event" or each["involvedObject"]["kind"] == "Classifier"]
    return {f"{each['kind']}/{each['metadata']['name']}": _written(each) for each in ours}


def _written(item: dict[str, Any]) -> Any:
    if item["kind"] in ("Classifier", "Event"):
        return {"version": item["metadata"]["resourceVersion"], "status": item.get("status")}
    # The status of all else is others' to write.
    metadata = {name: item["metadata"].get(name) for name in ("labels", "annotations", "ownerReferences")}
    return {"metadata": metadata, "spec": item["spec"]}


@pytest.mark.timeout(1200)
def test_what_is_applied_serves_and_what_is_deleted_is_gone(release: Release, published: Published, s3: S3) -> None:
    namespace = release.namespace
    _install(release)
    before = _names(namespace)
    declared = _declared(s3)
    assert "created" in _apply(namespace, declared)
    status = _phase_in_time(namespace, "Serving")
    kinds = ("Ready", "Trained", "Gated", "Published", "Serving")
    assert [_condition(status, kind)["status"] for kind in kinds] == ["True"] * len(kinds)
    assert [_condition(status, kind)["status"] for kind in ("Reconciling", "Stalled")] == ["False", "False"]
    version = _champion(s3)
    assert status["champion"]["version"] == version and 0 <= status["champion"]["accuracy"] <= 1
    assert _answer(namespace, status["url"], published.request) == version
    kubectl("-n", namespace, "wait", "--for=condition=Ready", "clf/operated", "--timeout=5s")
    told = kubectl("-n", namespace, "get", "clf")
    assert told.split()[:4] == ["NAME", "PHASE", "CHAMPION", "ACCURACY"]
    assert ["operated", "Serving", version] == told.splitlines()[1].split()[:3]
    (run_of_it,) = _runs(namespace)
    assert "earlyStopping: null" in get(namespace, "configmap", run_of_it.partition("/")[2])["data"]["classifier.yaml"]
    reasons = [each["reason"] for each in _events(namespace)]
    assert {"RunBegun", "Trained", "GatesMet", "Published", "Deployed", "Answers"} <= set(reasons)
    assert len(reasons) == len(set(reasons)), "every decision is told once"
    _comes_to_rest(partial(_versions, namespace))
    _stays(partial(_versions, namespace), 15)

    # Another way to serve needs no other bundle.
    declared["spec"]["serving"] = {"replicas": {"min": 2, "max": 3, "queueLength": 2}}
    _apply(namespace, declared)
    _phase_in_time(namespace, "Serving", 200)
    assert _runs(namespace) == [run_of_it]
    assert get(namespace, "inferenceservice", "operated")["spec"]["predictor"]["minReplicas"] == 2
    assert {"horizontalpodautoscaler.autoscaling/operated-servers", "poddisruptionbudget.policy/operated-servers"} <= (
        _names(namespace)
    )
    _comes_to_rest(partial(_versions, namespace))
    assert _status(namespace)["phase"] == "Serving"
    # A look changes nothing where nothing has changed.
    kubectl("-n", namespace, "annotate", "clf", "operated", "vitruvian.dev/look=now")
    _stays(lambda: (_versions(namespace), _log(namespace).count("Deployed")), 15)

    # What somebody takes away comes back; what nobody wants any more goes.
    kubectl("-n", namespace, "delete", "poddisruptionbudget", "operated-servers")
    budget = "poddisruptionbudget.policy/operated-servers"
    soon("the budget is back", lambda: budget in _names(namespace), 90)
    del declared["spec"]["serving"]
    _apply(namespace, declared)
    soon("the budget is gone", lambda: budget not in _names(namespace), 90)
    _phase_in_time(namespace, "Serving", 200)

    # A gate that isn't met changes nothing of what serves.
    declared["spec"]["gates"][0]["atLeast"] = IMPOSSIBLE
    _apply(namespace, declared)
    status = _phase_in_time(namespace, "GateMissed")
    assert "misses 1.000" in _condition(status, "Gated")["message"]
    stalled, serving = _condition(status, "Stalled"), _condition(status, "Serving")
    assert (stalled["status"], stalled["reason"], serving["status"]) == ("True", "GateMissed", "True")
    assert len(_runs(namespace)) == 2
    assert _answer(namespace, status["url"], published.request) == version == status["champion"]["version"]
    # It isn't tried again but where somebody asks for it.
    _stays(partial(_runs, namespace), 10)
    kubectl("-n", namespace, "annotate", "clf", "operated", "vitruvian.dev/run=again")
    soon("another run is begun", lambda: len(_runs(namespace)) == 3, 60)

    kubectl("-n", namespace, "delete", "classifier", "operated", "--timeout=30s")
    soon("all of it is gone", lambda: _names(namespace) == before, 180)
    assert _champion(s3) == version, "what is in S3 stays"


@pytest.mark.timeout(900)
def test_what_deploy_made_is_taken_over_and_another_backend_takes_over_from_it(
    release: Release, published: Published, s3: S3
) -> None:
    namespace = release.namespace
    _install(release)
    run("vitruvian", "deploy", "-f", published.declared, "-n", namespace, "--wait", "0", env=s3.outside)
    deployed = get(namespace, "inferenceservice", "poses")["metadata"]
    declared = yaml.safe_load(published.declared.read_text())
    declared["spec"]["data"] = {"source": "synthetic://poses?count=300"}
    declared["spec"]["gates"] = [{"metric": "accuracy", "atLeast": IMPOSSIBLE}]
    _apply(namespace, declared)

    def owner() -> str:
        owners = get(namespace, "inferenceservice", "poses")["metadata"].get("ownerReferences", [])
        return str(owners[0]["kind"]) if owners else ""

    assert soon("the Classifier owns it", owner, 60) == "Classifier"
    assert get(namespace, "inferenceservice", "poses")["metadata"]["uid"] == deployed["uid"]

    declared["spec"]["serving"] = {"backend": "rayserve"}
    _apply(namespace, declared)
    soon("Ray Serve serves", lambda: "rayservice.ray.io/poses" in _names(namespace), 60)
    soon("KServe doesn't any more", lambda: not _names(namespace, "inferenceservice"), 400)
    status = soon("it is said", lambda: _status(namespace, "poses"))
    assert _condition(status, "Serving")["status"] == "True" and status["champion"]["version"] == published.versions[1]
    _stays(lambda: get(namespace, "rayservice", "poses")["metadata"]["generation"], 15)
    kubectl("-n", namespace, "delete", "classifier", "poses", "--timeout=30s")
    soon("nothing serves any more", lambda: not _names(namespace, "rayservice,raycluster,rayjob"), 180)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two fields that don't go together": ({"training": {"workers": 4}}, "workers is 4 but strategy is none"),
    "a folder of no pod": ({"data": {"source": "data/yoga"}}, "can't reach a folder of this machine"),
    "what isn't implemented yet": ({"retraining": {"schedule": "0 3 * * 0"}}, "is not implemented yet"),
}


def test_what_cant_be_done_is_said_in_one_line_and_begins_nothing(release: Release, s3: S3) -> None:
    namespace = release.namespace
    _install(release)
    for part, line in WRONG.values():
        _apply(namespace, _declared(s3, "wrong", **part))
        stalled = _condition(_phase_in_time(namespace, "Invalid", 30), "Stalled")
        assert stalled["status"] == "True" and line in stalled["message"] and "\n" not in stalled["message"]
        soon("it is told", partial(_is_told_once, namespace, stalled["message"]), 10)
    assert not _runs(namespace)
    # What the schema says itself, the API server says.
    for wrong, line in (("epoch", 'unknown field "spec.training.epoch"'), ("epochs", "spec.training.epochs")):
        refused = _apply(namespace, _declared(s3, "wrong", training={wrong: -1}), check=False)
        assert line in refused
    # Nothing holds a Classifier back, not even that there is no operator.
    kubectl("-n", namespace, "scale", "deployment/v-operator", "--replicas=0")
    kubectl("-n", namespace, "delete", "classifier", "operated", "--timeout=10s")


def _is_told_once(namespace: str, message: str) -> bool:
    told = [each["message"] for each in _events(namespace) if each["type"] == "Warning"]
    return told.count(message) == 1


def _events(namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(namespace, "events", "--field-selector=involvedObject.kind=Classifier")["items"]
    return found


def _champion(s3: S3) -> str:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3.outside.items():
            patched.setenv(name, value)
        return str(json.loads(open_store(f"s3://{s3.bucket}/operated").get("champion.json"))["version"])


def _answer(namespace: str, url: str, body: bytes) -> str:
    """Return the version that answers a prediction."""
    host = url.removeprefix("http://")
    address = soon("the ingress has an address", ingress_address)
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    headers = {"Host": host, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v2/models/operated/infer", body, headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(json.loads(response.read())["model_version"])
