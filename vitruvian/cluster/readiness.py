"""Servers on a cluster: wait until what was applied last answers, and say what is in the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from vitruvian.bundle import BUNDLES
from vitruvian.cluster import rayservice
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import CLASSIFIER, VERSION, Object, servers_of
from vitruvian.cluster.pods import obstacle
from vitruvian.cluster.serving import POD_LABEL
from vitruvian.errors import NotAllowed, NotFound, VitruvianError

_SECONDS_BETWEEN_LOOKS = 1.0
_LONGEST_MESSAGE: Final = 300


def wait(cluster: Cluster, service: Object, seconds: float, tell: Callable[[str], None]) -> str:
    """Return the address of what `deploy` applied once it is ready; `tell` hears what it waits for.

    Raises `VitruvianError` where that takes too long, or where its pods can't use the version.
    """
    name, version = service["metadata"]["name"], service["metadata"]["annotations"][VERSION]
    rayserve, pods = _is_ray(service), pods_of(service)
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        found = cluster.get(service["apiVersion"], service["kind"], name)
        lacking = _lacks_ray(found) if rayserve else _lacks(cluster, found)
        if not lacking:
            return address(cluster, found)
        stops = _stops(cluster, pods)
        # Pods are patient with S3 before they give up; what names this version isn't left from another.
        reason = next((text for text in (stops, lacking) if f"{BUNDLES}/{version}" in text), None)
        if reason is not None:
            hint = "deploy a version that can be: one that served before goes on"
            raise VitruvianError(f"version {version} can't be served: {reason}", where=name, hint=hint)
        lacking = f"{lacking}; {stops}" if stops else lacking
        if lacking != told:
            told = lacking
            tell(lacking)
        if time.monotonic() > deadline:
            hint = f"see 'kubectl -n {cluster.namespace} describe pods -l {pods}'"
            raise VitruvianError(f"isn't ready after {seconds:.0f} s: {lacking}", where=name, hint=hint)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def address(cluster: Cluster, service: Object) -> str:
    """Return where an InferenceService or a RayService answers; empty where it doesn't yet."""
    if _is_ray(service):
        return _ray_address(cluster, service)
    return str((service.get("status") or {}).get("url", ""))


def pods_of(service: Object) -> str:
    """Return the selector of the pods of an InferenceService or a RayService; KServe marks its Deployments, too."""
    name = service["metadata"]["name"]
    if _is_ray(service):
        return f"{CLASSIFIER}={name},app.kubernetes.io/component=rayserve"
    return f"{POD_LABEL}={name}"


def _is_ray(service: Object) -> bool:
    return bool(service["kind"] == rayservice.KIND[1])


def _stops(cluster: Cluster, selector: str) -> str:
    """Return what keeps the newest of the pods that can't start from it; empty where nothing does or it isn't seen."""
    try:
        pods = cluster.list("v1", "Pod", selector)
    except NotAllowed:
        return ""
    coming = (pod for pod in reversed(pods) if "deletionTimestamp" not in pod["metadata"])
    return next(filter(None, map(obstacle, coming)), "")


def _lacks_ray(service: Object) -> str:
    """Return what a RayService still lacks; empty where Serve runs what was applied last."""
    status, metadata = service.get("status") or {}, service["metadata"]
    if status.get("observedGeneration", 0) < metadata["generation"]:
        return "KubeRay hasn't seen it yet"
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    active, pending = (
        ((status.get(f"{which}ServiceStatus") or {}).get("applicationStatuses") or {}).get(metadata["name"])
        for which in ("active", "pending")
    )
    version = metadata["annotations"][VERSION]
    if active is None:
        return _serve(pending, version) or "its Ray cluster starts"
    failing = _serve(active, version)
    if failing:
        return failing
    ready = conditions.get("Ready")
    if ready is not None and ready["status"] != "True":
        return f"Ready: {ready.get('reason', '')} {ready.get('message', '')}".strip()
    if conditions.get("UpgradeInProgress", {}).get("status") == "True":
        return _serve(pending, version) or "a new Ray cluster takes over"
    return ""


def _serve(application: dict[str, Any] | None, version: str) -> str:
    """Return what Serve says of an application that doesn't run: of a traceback the line about the version."""
    if application is None or application.get("status") == "RUNNING":
        return ""
    parts = (application, *(application.get("serveDeploymentStatuses") or {}).values())
    messages = [str(part["message"]) for part in parts if part.get("message")]
    about = [line for message in messages for line in message.splitlines() if f"{BUNDLES}/{version}" in line]
    # Before the address stands the error's class, once or, from another process, twice.
    text = about[-1][about[-1].find("s3://") :] if about else " ".join(" ".join(messages).split())
    return f"Serve: {application.get('status')} {text[:_LONGEST_MESSAGE]}".strip()


def _ray_address(cluster: Cluster, service: Object) -> str:
    name = service["metadata"]["name"]
    try:
        ingress = cluster.get(*rayservice.INGRESS, servers_of(name))
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
    for deployment in cluster.list("apps/v1", "Deployment", pods_of(service)):
        now, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
        if now.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
            return "a new Deployment begins"
        if now.get("updatedReplicas", 0) < wanted or now.get("replicas", 0) > now.get("updatedReplicas", 0):
            return f"{now.get('updatedReplicas', 0)} of {wanted} servers run the new version"
        if now.get("availableReplicas", 0) < wanted:
            return f"{now.get('availableReplicas', 0)} of {wanted} servers are ready"
    return "" if status.get("conditions") else "no condition is told yet"
