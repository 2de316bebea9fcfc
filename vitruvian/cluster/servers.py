"""Servers on a cluster: bring a version to it and wait until it answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from vitruvian.bundle import BUNDLES, read_champion
from vitruvian.cluster import rayservice
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import CLASSIFIER, VERSION, Object, owned
from vitruvian.cluster.rayservice import ray_service
from vitruvian.cluster.serving import autoscaler, inference_service
from vitruvian.cluster.settings import RayServeSettings
from vitruvian.errors import BundleError, NotFound, VitruvianError
from vitruvian.spec import Classifier
from vitruvian.store import open_store

_SECONDS_BETWEEN_LOOKS = 1.0
_VERSION = re.compile(r"[0-9a-f]{12}")


def objects(classifier: Classifier, version: str | None, namespace: str, settings: RayServeSettings) -> list[Object]:
    """Return what serves a version, the champion where None: first what owns the others.

    Raises `BundleError` where there is no champion. `settings` are for Ray Serve only.
    """
    store = open_store(classifier.artifacts)
    version = read_champion(store) if version is None else version
    if version is None:
        hint = "train one with 'vitruvian submit' or 'vitruvian run'"
        raise BundleError("there is no champion yet", where=store.url, hint=hint)
    if not _VERSION.fullmatch(version):
        hint = "a version is 12 hexadecimal digits, as 'vitruvian run' prints it"
        raise BundleError(f"'{version[:40]}' is no version", where=store.url, hint=hint)
    return serving_objects(classifier, store.address(f"{BUNDLES}/{version}"), version, namespace, settings)


def serving_objects(
    classifier: Classifier, bundle: str, version: str, namespace: str, settings: RayServeSettings
) -> list[Object]:
    """Return what serves one version from its address: first what owns the others."""
    if classifier.spec.serving.backend == "rayserve":
        return ray_service(classifier, bundle, version, namespace, settings)
    made = inference_service(classifier, bundle, version, namespace)
    scaler = autoscaler(classifier, namespace)
    return [made] if scaler is None else [made, scaler]


def deploy(cluster: Cluster, made: list[Object]) -> str:
    """Apply what serves a version and return the version; what the first object needs goes with it."""
    service, *others = made
    kept = cluster.apply(service)
    for other in others:
        cluster.apply(owned(other, kept))
    return str(service["metadata"]["annotations"][VERSION])


def wait(cluster: Cluster, service: Object, seconds: float, tell: Callable[[str], None]) -> str:
    """Return the address of what `deploy` applied once it is ready; `tell` hears what it waits for.

    Raises `VitruvianError` where that takes too long.
    """
    name, rayserve = service["metadata"]["name"], service["kind"] == rayservice.KIND[1]
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        found = cluster.get(service["apiVersion"], service["kind"], name)
        lacking = _lacks_ray(found) if rayserve else _lacks(cluster, found)
        if not lacking:
            return _ray_address(cluster, found) if rayserve else str(found["status"].get("url", ""))
        if lacking != told:
            told = lacking
            tell(lacking)
        if time.monotonic() > deadline:
            pods = f"{CLASSIFIER}={name}" if rayserve else _pods_of(name)
            hint = f"see 'kubectl -n {cluster.namespace} describe pods -l {pods}'"
            raise VitruvianError(f"isn't ready after {seconds:.0f} s: {lacking}", where=name, hint=hint)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _lacks_ray(service: Object) -> str:
    """Return what a RayService still lacks; empty where Serve runs what was applied last."""
    status = service.get("status") or {}
    if status.get("observedGeneration", 0) < service["metadata"]["generation"]:
        return "KubeRay hasn't seen it yet"
    name = service["metadata"]["name"]
    application = (status.get("activeServiceStatus") or {}).get("applicationStatuses", {}).get(name)
    if application is None:
        return "its Ray cluster starts"
    if application["status"] != "RUNNING":
        return f"Serve: {application['status']} {' '.join(application.get('message', '').split())[:300]}".strip()
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] != "True":
            return f"Ready: {condition.get('reason', '')} {condition.get('message', '')}".strip()
        if condition["type"] == "UpgradeInProgress" and condition["status"] == "True":
            return "a new Ray cluster takes over"
    return ""


def _ray_address(cluster: Cluster, service: Object) -> str:
    name = service["metadata"]["name"]
    try:
        ingress = cluster.get("networking.k8s.io/v1", "Ingress", name)
        return f"http://{ingress['spec']['rules'][0]['host']}"
    except NotFound:
        return f"http://{name}-serve-svc.{cluster.namespace}:{rayservice.PORT}"


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
