"""Servers on a cluster: bring a version to it and wait until it answers."""

from __future__ import annotations

import time
from collections.abc import Callable

from vitruvian.bundle import BUNDLES, read_champion
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import VERSION, Object, owned
from vitruvian.cluster.serving import KIND, autoscaler, inference_service
from vitruvian.errors import BundleError, VitruvianError
from vitruvian.spec import Classifier
from vitruvian.store import open_store

_SECONDS_BETWEEN_LOOKS = 1.0


def objects(classifier: Classifier, version: str | None, namespace: str) -> list[Object]:
    """Return what serves a version, the champion where None; raises `BundleError` where there is none."""
    store = open_store(classifier.artifacts)
    version = version or read_champion(store)
    if version is None:
        hint = "train one with 'vitruvian submit' or 'vitruvian run'"
        raise BundleError("there is no champion yet", where=store.url, hint=hint)
    made = inference_service(classifier, store.address(f"{BUNDLES}/{version}"), version, namespace)
    scaler = autoscaler(classifier, namespace)
    return [made] if scaler is None else [made, scaler]


def deploy(cluster: Cluster, made: list[Object]) -> str:
    """Apply what serves a version and return the version; what an InferenceService needs goes with it."""
    service, *others = made
    kept = cluster.apply(service)
    for other in others:
        cluster.apply(owned(other, kept))
    return str(service["metadata"]["annotations"][VERSION])


def wait(cluster: Cluster, name: str, seconds: float, tell: Callable[[str], None]) -> str:
    """Return the address of a server once the version applied last is ready; `tell` hears what it waits for.

    Raises `VitruvianError` where that takes too long.
    """
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        service = cluster.get(*KIND, name)
        lacking = _lacks(cluster, service)
        if not lacking:
            return str(service["status"].get("url", ""))
        if lacking != told:
            told = lacking
            tell(lacking)
        if time.monotonic() > deadline:
            hint = f"see 'kubectl -n {cluster.namespace} describe pods -l {_pods_of(name)}'"
            raise VitruvianError(f"isn't ready after {seconds:.0f} s: {lacking}", where=name, hint=hint)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _lacks(cluster: Cluster, service: Object) -> str:
    """Return what an InferenceService still lacks; empty where all servers run what was applied last."""
    status, metadata = service.get("status") or {}, service["metadata"]
    if status.get("observedGeneration", 0) < metadata["generation"]:
        return "KServe hasn't seen it yet"
    for condition in status.get("conditions", ()):
        if condition["status"] != "True" and condition["type"] in ("PredictorReady", "IngressReady", "Ready"):
            return f"{condition['type']}: {condition.get('reason', '')} {condition.get('message', '')}".strip()
    for deployment in cluster.list("apps/v1", "Deployment", _pods_of(metadata["name"])):
        now, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
        if now.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
            return "a new Deployment begins"
        if now.get("updatedReplicas", 0) < wanted or now.get("replicas", 0) > now.get("updatedReplicas", 0):
            return f"{now.get('updatedReplicas', 0)} of {wanted} servers run the new version"
        if now.get("availableReplicas", 0) < wanted:
            return f"{now.get('availableReplicas', 0)} of {wanted} servers are ready"
    return "" if status.get("conditions") else "no condition is told yet"


def _pods_of(name: str) -> str:
    return f"serving.kserve.io/inferenceservice={name}"
