"""A published bundle as a KubeRay RayService: Ray Serve with the HTTP contract of every other server.

Pure: from a declaration and settings to plain objects. Fields as in KubeRay 1.6's `ray.io/v1` and Ray 2.60's Serve
config. A new version changes the Serve config only: Serve replaces server by server on the cluster that runs, and needs
room for one more, not for a second cluster.
"""

from __future__ import annotations

from typing import Final

from vitruvian.cluster.objects import VERSION, Object, bundle_in_reach, labels, manifest
from vitruvian.cluster.raypods import METRICS_PORT, autoscaled, head_pod, measured, ray_cluster, worker_pod
from vitruvian.cluster.settings import RayServeSettings
from vitruvian.spec import Classifier, Replicas

KIND: Final = ("ray.io/v1", "RayService")
PORT: Final = 8000
_MOST_PODS: Final = 1000
METRICS_VARIABLE: Final = "VITRUVIAN_METRICS_PORT"
IMPORT_PATH: Final = "vitruvian.serving.rayserve:app"


def ray_service(
    classifier: Classifier, bundle: str, version: str, namespace: str, settings: RayServeSettings
) -> list[Object]:
    """Return the objects that serve one version: the RayService first, which owns the others.

    Raises `SpecError` for a bundle that pods can't reach.
    """
    marks = labels(classifier.name, "rayserve")
    metadata = {"name": classifier.name, "namespace": namespace, "labels": marks}
    service: Object = {
        "apiVersion": KIND[0],
        "kind": KIND[1],
        "metadata": {**metadata, "annotations": {VERSION: version}},
        "spec": {
            # The head pod has no server, but always a proxy: while servers move from pod to pod it may be the only one.
            "excludeHeadPodFromServeSvc": False,
            "serveConfigV2": _serve_config(classifier, bundle_in_reach(bundle)),
            "rayClusterConfig": _cluster(classifier.spec.serving.replicas, marks, settings),
        },
    }
    if settings.ingress is None:
        return [service]
    return [service, _ingress(metadata, settings)]


def _serve_config(classifier: Classifier, bundle: str) -> str:
    """Return Serve's own configuration file."""
    replicas = classifier.spec.serving.replicas
    # A server works on one request and lets the others wait.
    ongoing = 2.0 if replicas.queue_length is None else 1.0 + replicas.queue_length
    deployment = {
        "name": "Server",
        "autoscaling_config": {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": ongoing,
        },
        "ray_actor_options": {"num_cpus": 1},
        # The new server first, then the old one goes.
        "max_surge_percent": 25,
    }
    application = {
        "name": classifier.name,
        "import_path": IMPORT_PATH,
        "route_prefix": "/",
        "args": {"bundle": bundle, "name": classifier.name},
        "deployments": [deployment],
    }
    http = {"host": "0.0.0.0", "port": PORT, "keep_alive_timeout_s": 75}
    return manifest([{"http_options": http, "applications": [application]}])


def _cluster(replicas: Replicas, marks: dict[str, str], settings: RayServeSettings) -> Object:
    worker = measured(worker_pod(marks, settings), {"serve": PORT, "server-metrics": METRICS_PORT})
    container = worker["spec"]["containers"][0]
    container["env"] = [*container["env"], {"name": METRICS_VARIABLE, "value": str(METRICS_PORT)}]
    group = {
        "groupName": "servers",
        "replicas": replicas.min,
        # KubeRay never changes a service's bounds: how many servers there are is Serve's to say.
        "minReplicas": 0,
        "maxReplicas": _MOST_PODS,
        # One server a pod.
        "rayStartParams": {"num-cpus": "1"},
        "template": worker,
    }
    return autoscaled(ray_cluster(head_pod(marks, settings), [group]))


def _ingress(metadata: Object, settings: RayServeSettings) -> Object:
    wanted = settings.ingress
    assert wanted is not None
    name = metadata["name"]
    backend = {"service": {"name": f"{name}-serve-svc", "port": {"number": PORT}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    host = f"{name}-{metadata['namespace']}.{wanted.domain}"
    spec: Object = {"rules": [{"host": host, "http": {"paths": [path]}}]}
    if wanted.class_name:
        spec["ingressClassName"] = wanted.class_name
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {**metadata, "annotations": wanted.annotations},
        "spec": spec,
    }
