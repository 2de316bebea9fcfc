"""Servers on a cluster: wait until what was applied last answers, and say what is in the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from vitruvian.bundle import BUNDLES
from vitruvian.cluster import rayservice
from vitruvian.cluster.api import MANAGER, Cluster
from vitruvian.cluster.objects import CLASSIFIER, VERSION, Object, servers_of
from vitruvian.cluster.pods import obstacle
from vitruvian.cluster.serving import POD_LABEL
from vitruvian.errors import NotAllowed, NotFound, VitruvianError

_SECONDS_BETWEEN_LOOKS = 1.0
# So late KubeRay tells what Serve does: before it the old version runs, and that it runs is all that is told.
_SECONDS_OF_KUBERAY = 6.0
_LONGEST_MESSAGE: Final = 300


def wait(cluster: Cluster, service: Object, seconds: float, tell: Callable[[str], None]) -> str:
    """Return the address of what `deploy` applied once it is ready; `tell` hears what it waits for.

    Raises `VitruvianError` where that takes too long, or where its pods can't use the version.
    """
    name, version = service["metadata"]["name"], service["metadata"]["annotations"][VERSION]
    rayserve, pods = _is_ray(service), pods_of(service)
    deadline = time.monotonic() + seconds
    told, since = "", time.monotonic()
    while True:
        found = _still(cluster, service, version)
        _refuse_unknown_runtime(found, cluster.namespace)
        lacking = _lacks_of(cluster, found)
        if not lacking:
            if not rayserve or time.monotonic() - since > _SECONDS_OF_KUBERAY:
                return address(cluster, found)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            continue
        since = time.monotonic()
        stops = _stops(cluster, pods) or _not_made(cluster, pods)
        if f"{BUNDLES}/" in stops and f"{BUNDLES}/{version}" not in stops:
            # A pod of another version, which goes.
            stops = ""
        # Pods are patient with S3 before they give up; what names this version isn't left from another.
        reason = next((text for text in (stops, lacking) if f"{BUNDLES}/{version}" in text), None)
        if reason is not None:
            hint = "deploy a version that can be: one that served before goes on"
            if "access denied" in reason or "credentials" in reason:
                reason = reason.partition(";")[0]
                hint = f"check the S3 keys that the chart gives to pods in namespace {cluster.namespace}"
            raise VitruvianError(f"version {version} can't be served: {reason}", where=name, hint=hint)
        lacking = f"{lacking}; {stops}" if stops else lacking
        if lacking != told:
            told = lacking
            tell(lacking)
        if time.monotonic() > deadline:
            hint = f"see 'kubectl -n {cluster.namespace} describe pods -l {pods}'"
            raise VitruvianError(f"isn't ready after {seconds:.0f} s: {lacking}", where=name, hint=hint)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def lacking(cluster: Cluster, service: Object) -> str:
    """Return what an InferenceService or a RayService still lacks, and what is in the way; empty where it answers."""
    lacks = _lacks_of(cluster, service)
    if not lacks:
        just_applied = _is_ray(service) and _seconds_since_applied(service) < _SECONDS_OF_KUBERAY
        return "KubeRay hasn't looked at it yet" if just_applied else ""
    pods = pods_of(service)
    stops = _stops(cluster, pods) or _not_made(cluster, pods)
    return f"{lacks}; {stops}" if stops else lacks


def address(cluster: Cluster, service: Object) -> str:
    """Return where an InferenceService or a RayService answers; empty where it doesn't yet."""
    if _is_ray(service):
        return _ray_address(cluster, service)
    return str((service.get("status") or {}).get("url", ""))


def within(service: Object) -> tuple[str, int]:
    """Return the Service, and its port, by which pods reach an InferenceService or a RayService."""
    name = service["metadata"]["name"]
    return (f"{name}-serve-svc", rayservice.PORT) if _is_ray(service) else (f"{name}-predictor", 80)


def leaving(cluster: Cluster, service: Object) -> bool:
    """Tell whether servers of an InferenceService or a RayService are on their way out."""
    return any("deletionTimestamp" in pod["metadata"] for pod in _seen(cluster, "v1", "Pod", pods_of(service)))


def pods_of(service: Object) -> str:
    """Return the selector of the pods of an InferenceService or a RayService; KServe marks its Deployments, too."""
    name = service["metadata"]["name"]
    if _is_ray(service):
        return f"{CLASSIFIER}={name},app.kubernetes.io/component=rayserve"
    return f"{POD_LABEL}={name}"


def _is_ray(service: Object) -> bool:
    return bool(service["kind"] == rayservice.KIND[1])


def _lacks_of(cluster: Cluster, service: Object) -> str:
    return _lacks_ray(service) if _is_ray(service) else _lacks(cluster, service)


def _seconds_since_applied(service: Object) -> float:
    """Return how long ago we changed anything of an object but its status."""
    managed = service["metadata"].get("managedFields") or ()
    ours = [each["time"] for each in managed if each.get("manager") == MANAGER and "time" in each]
    last = max(map(datetime.fromisoformat, ours), default=datetime.min.replace(tzinfo=UTC))
    return (datetime.now(UTC) - last).total_seconds()


def _still(cluster: Cluster, service: Object, version: str) -> Object:
    """Return what is applied by now; raises `VitruvianError` where somebody else has changed or removed it."""
    kind, name = service["kind"], service["metadata"]["name"]
    found = cluster.find(service["apiVersion"], kind, name)
    if found is None:
        raise VitruvianError("was removed meanwhile", where=f"{kind} {name}", hint="run the same command again")
    now = (found["metadata"].get("annotations") or {}).get(VERSION)
    if now != version:
        what = f"version {version} doesn't serve: version {now} was deployed meanwhile"
        raise VitruvianError(what, where=name, hint="run the same command again to replace that one")
    return found


def _refuse_unknown_runtime(service: Object, namespace: str) -> None:
    """Raise `VitruvianError` where KServe has said that it doesn't know the chart's runtime."""
    model = (service.get("status") or {}).get("modelStatus") or {}
    if (model.get("lastFailureInfo") or {}).get("reason") == "RuntimeNotRecognized":
        hint = f"install the chart there ('vitruvian doctor -n {namespace}'), and run the same command again"
        raise VitruvianError("KServe finds no ServingRuntime vitruvian", where=f"namespace {namespace}", hint=hint)


def _not_made(cluster: Cluster, selector: str) -> str:
    """Return why a Deployment's pods can't even be made, as without their service account; empty where they can."""
    made = _seen(cluster, "apps/v1", "Deployment", selector)
    conditions = [each for deployment in made for each in (deployment.get("status") or {}).get("conditions") or ()]
    failed = [each for each in conditions if each["type"] == "ReplicaFailure" and each["status"] == "True"]
    return " ".join(str(failed[0].get("message", "")).split())[:_LONGEST_MESSAGE] if failed else ""


def _seen(cluster: Cluster, api_version: str, kind: str, selector: str) -> list[Object]:
    """Return the objects with these labels; none where they may not be seen."""
    try:
        return cluster.list(api_version, kind, selector)
    except NotAllowed:
        return []


def _stops(cluster: Cluster, selector: str) -> str:
    """Return what keeps the newest of the pods that can't start from it; empty where nothing does or it isn't seen."""
    pods = _seen(cluster, "v1", "Pod", selector)
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
        inside, port = within(service)
        return f"http://{inside}.{cluster.namespace}:{port}"


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
        if now.get("updatedReplicas", 0) < wanted:
            return f"{now.get('updatedReplicas', 0)} of {wanted} servers of the new version are begun"
        if now.get("replicas", 0) > now.get("updatedReplicas", 0):
            return "a server of the new version isn't ready yet"
        if now.get("availableReplicas", 0) < wanted:
            return f"{now.get('availableReplicas', 0)} of {wanted} servers are ready"
    return "" if status.get("conditions") else "no condition is told yet"
