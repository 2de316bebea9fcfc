"""A published bundle as a KubeRay RayService: Ray Serve with the HTTP contract of every other server.

Pure: from a declaration and settings to plain objects. Fields as in KubeRay 1.6's `ray.io/v1` and Ray 2.60's Serve
config. A new version changes the Serve config only: Serve replaces server by server on the cluster that runs, and needs
room for one more, not for a second cluster.
"""

from __future__ import annotations

from typing import Final

from vitruvian.cluster.objects import (
    VERSION,
    Object,
    bundle_in_reach,
    check_host,
    check_name,
    is_host,
    labels,
    manifest,
    servers_of,
)
from vitruvian.cluster.raypods import (
    HEAD_PORTS,
    METRICS_PORT,
    autoscaled,
    head_pod,
    measured,
    ray_cluster,
    with_ports,
    with_secret,
    worker_pod,
)
from vitruvian.cluster.settings import GcsFaultTolerance, RayServeSettings
from vitruvian.errors import SpecError
from vitruvian.spec import Classifier, Replicas

KIND: Final = ("ray.io/v1", "RayService")
INGRESS: Final = ("networking.k8s.io/v1", "Ingress")
PORT: Final = 8000
_MOST_PODS: Final = 1000
# KubeRay derives other names from a RayService's and never begins one with a longer name.
_LONGEST_NAME: Final = 47
_PLACES: Final = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
# What is asked from outside, as in the chart: neither /metrics nor what Serve says of itself.
_PUBLIC: Final = {
    "/": "Exact",
    "/card": "Exact",
    "/compare": "Exact",
    "/docs": "Exact",
    "/evaluation": "Exact",
    "/health": "Exact",
    "/limits": "Exact",
    "/openapi.json": "Exact",
    "/page": "Prefix",
    "/predict": "Prefix",
    "/tracks": "Exact",
    "/v1": "Prefix",
    "/v2": "Prefix",
}
METRICS_VARIABLE: Final = "VITRUVIAN_METRICS_PORT"
IMPORT_PATH: Final = "vitruvian.serving.rayserve:app"
_ACCESS: Final = "/etc/vitruvian/access"


def ray_service(
    classifier: Classifier, bundle: str, version: str, namespace: str, settings: RayServeSettings
) -> list[Object]:
    """Return the objects that serve one version: the RayService first, which owns the others.

    Raises `SpecError` for a bundle that pods can't reach, and for a name that KubeRay doesn't take.
    """
    check_name(classifier.name, KIND[1], _LONGEST_NAME)
    marks = labels(classifier.name, "rayserve")
    metadata = {"name": classifier.name, "namespace": namespace, "labels": marks}
    service: Object = {
        "apiVersion": KIND[0],
        "kind": KIND[1],
        "metadata": {**metadata, "annotations": {VERSION: version}},
        "spec": {
            # The head pod has no server, but always a proxy: while servers move from pod to pod it may be the only one.
            "excludeHeadPodFromServeSvc": False,
            "serveConfigV2": _serve_config(classifier, bundle_in_reach(bundle), settings),
            "rayClusterConfig": _cluster(classifier.spec.serving.replicas, marks, settings),
        },
    }
    made = [service]
    if settings.ingress is not None:
        made.append(_ingress(metadata, settings))
    if classifier.spec.serving.replicas.min > 1:
        made.append(_disruption_budget(metadata, classifier.spec.serving.replicas))
    return made


def _serve_config(classifier: Classifier, bundle: str, settings: RayServeSettings) -> str:
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
    args = {"bundle": bundle, "name": classifier.name}
    if settings.access:
        args["access"] = f"{_ACCESS}/access.yaml"
    application = {
        "name": classifier.name,
        "import_path": IMPORT_PATH,
        "route_prefix": "/",
        "args": args,
        "deployments": [deployment],
    }
    http = {"host": "0.0.0.0", "port": PORT, "keep_alive_timeout_s": 75}
    return manifest([{"http_options": http, "applications": [application]}])


def _cluster(replicas: Replicas, marks: dict[str, str], settings: RayServeSettings) -> Object:
    worker = measured(worker_pod(marks, settings), {"serve": PORT, "server-metrics": METRICS_PORT}, settings)
    if settings.access:
        worker = with_secret(worker, "access", settings.access, _ACCESS)
    container = worker["spec"]["containers"][0]
    container["env"] = [*container["env"], {"name": METRICS_VARIABLE, "value": str(METRICS_PORT)}]
    # Where there is room, no node and no zone takes all servers with it.
    worker["spec"]["topologySpreadConstraints"] = [_spread(marks, key) for key in _PLACES]
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
    head = with_ports(head_pod(marks, settings), {**HEAD_PORTS, "serve": PORT})
    cluster = autoscaled(ray_cluster(head, [group]))
    if settings.gcs_fault_tolerance is not None:
        cluster["gcsFaultToleranceOptions"] = _fault_tolerance(settings.gcs_fault_tolerance)
    return cluster


def _spread(marks: dict[str, str], key: str) -> Object:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _servers(marks)},
        # While a second Ray cluster takes over, each is spread by itself.
        "matchLabelKeys": ["ray.io/cluster"],
    }


def _fault_tolerance(wanted: GcsFaultTolerance) -> Object:
    # No externalStorageNamespace: a cluster that takes over would read and write the state of the one before it.
    options: Object = {"redisAddress": wanted.redis_address}
    if wanted.redis_secret is not None:
        key = {"name": wanted.redis_secret, "key": "password"}
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": key}}
    return options


def _disruption_budget(metadata: Object, replicas: Replicas) -> Object:
    """Return the PodDisruptionBudget by which nodes are drained server by server."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {**metadata, "name": servers_of(metadata["name"])},
        # A number of them, since a RayCluster doesn't tell Kubernetes how many pods it wants.
        "spec": {"minAvailable": replicas.min - 1, "selector": {"matchLabels": _servers(metadata["labels"])}},
    }


def _servers(marks: dict[str, str]) -> dict[str, str]:
    """Return the labels of a service's pods but its head."""
    return {**marks, "ray.io/node-type": "worker"}


def _ingress(metadata: Object, settings: RayServeSettings) -> Object:
    wanted = settings.ingress
    assert wanted is not None
    name = metadata["name"]
    backend = {"service": {"name": f"{name}-serve-svc", "port": {"number": PORT}}}
    paths = [{"path": path, "pathType": kind, "backend": backend} for path, kind in _PUBLIC.items()]
    first = f"{name}-{metadata['namespace']}"
    check_host(first)
    host = f"{first}.{wanted.domain}"
    if not is_host(host):
        hint = (
            "rayserve.settings.ingress.domain: words of a-z, 0-9 and '-' with single dots, 253 characters with the name"
        )
        raise SpecError(f"'{host[:100]}' can't be a host", where="ingress.domain", hint=hint)
    spec: Object = {"rules": [{"host": host, "http": {"paths": paths}}]}
    if wanted.class_name:
        spec["ingressClassName"] = wanted.class_name
    return {
        "apiVersion": INGRESS[0],
        "kind": INGRESS[1],
        "metadata": {**metadata, "name": servers_of(name), "annotations": wanted.annotations},
        "spec": spec,
    }
