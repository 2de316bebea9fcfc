"""The pods of a Ray cluster, whatever runs on it. Pure: from settings to plain objects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vitruvian.cluster.objects import CONTAINER_SECURITY, HOME, POD_SECURITY, Object
from vitruvian.cluster.settings import RaySettings, Resources

RAY_VERSION: Final = "2.60.0"
METRICS_PORT: Final = 8081
"""Where our own metrics are; Ray's are on 8080."""
GRACE_SECONDS: Final = 60
"""Between the order to a pod to end and its end."""
# Two minutes or so without its store cost neither a run nor a server an attempt.
_PATIENCE: Final = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "24"}
WATCHFUL: Final = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "3000"}
"""The head's environment: five looks in vain, and a node is lost. A dead one is known after 5 s, where Ray as it comes
takes 14, and one that hangs after 20 s instead of 64."""
# No terminal tells how wide the lines of `kubectl logs` may be: rich would break them at 80 characters.
_WIDTH: Final = {"COLUMNS": "160"}
# What a pod may write where its root file system can't be written.
_SCRATCH: Final = {"tmp": "/tmp", "home": HOME}
SCRATCH_MOUNTS: Final = tuple({"name": name, "mountPath": folder} for name, folder in _SCRATCH.items())
# KubeRay names none of Ray's own ports where a container names any, but `metrics`, which are Ray's.
HEAD_PORTS: Final = {"gcs-server": 6379, "dashboard": 8265}
"""What KubeRay and workers ask the head on; the port of Ray's client, which nobody uses, isn't among them."""


def head_pod(labels: dict[str, str], settings: RaySettings, mounts: tuple[Object, ...] = ()) -> Object:
    """Return the template of the pod that leads."""
    made = _pod(labels, settings, settings.head, 0, mounts, WATCHFUL)
    return {**made, "spec": made["spec"] | head_place(settings)}


def worker_pod(labels: dict[str, str], settings: RaySettings, gpus: int = 0, mounts: tuple[Object, ...] = ()) -> Object:
    """Return the template of a pod that works."""
    made = _pod(labels, settings, settings.worker, gpus, mounts)
    return {**made, "spec": made["spec"] | _place(settings.node_selector, settings.tolerations)}


def head_place(settings: RaySettings) -> Object:
    """Return where the pod that leads may run, and what else of a Ray cluster does no work."""
    return _place(settings.head_node_selector, settings.head_tolerations)


def ray_cluster(head: Object, groups: list[Object]) -> Object:
    """Return a RayCluster's spec from the head pod's template and the groups of workers.

    The head gets no work, and Ray's ports answer only those that know the token, which KubeRay makes for each cluster.
    """
    cluster: Object = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"}, "template": head},
    }
    return {**cluster, "workerGroupSpecs": groups} if groups else cluster


def measured(pod: Object, ports: dict[str, int], settings: RaySettings) -> Object:
    """Return a pod with its ports, by name, and with what Prometheus needs to find its metrics on METRICS_PORT."""
    if not settings.scrape_annotations:
        return with_ports(pod, ports)
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
        "prometheus.io/path": "/metrics",
    }
    return with_ports({**pod, "metadata": {**pod["metadata"], "annotations": annotations}}, ports)


def with_ports(pod: Object, ports: dict[str, int]) -> Object:
    """Return a pod with its ports, by name."""
    (ray,) = pod["spec"]["containers"]
    declared = [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]
    return {**pod, "spec": {**pod["spec"], "containers": [{**ray, "ports": declared}]}}


def autoscaled(cluster: Object) -> Object:
    """Return a RayCluster's spec whose number of workers Ray's autoscaler sets."""
    head = cluster["headGroupSpec"]
    template = head["template"]
    # The autoscaler asks the API server for pods.
    spec = {**template["spec"], "automountServiceAccountToken": True}
    return {
        **cluster,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"securityContext": CONTAINER_SECURITY},
        "headGroupSpec": {**head, "template": {**template, "spec": spec}},
    }


def pod_spec(settings: RaySettings) -> Object:
    """Return what all pods of a Ray cluster, and those that talk to it, have in common."""
    spec: Object = {
        "securityContext": POD_SECURITY,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
    }
    if settings.service_account:
        spec["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.priority_class:
        spec["priorityClassName"] = settings.priority_class
    return spec


def container(
    settings: RaySettings, resources: Resources, gpus: int = 0, env: Mapping[str, str] = MappingProxyType({})
) -> Object:
    """Return a container with Ray, without what it mounts."""
    env = {"HOME": HOME, **_WIDTH, **_PATIENCE, **env, **dict(sorted(settings.env.items()))}
    limits = {"memory": resources.memory}
    if resources.cpu_limit:
        limits["cpu"] = resources.cpu_limit
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    return {
        "name": "ray",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "envFrom": [{"secretRef": {"name": name, "optional": True}} for name in settings.secrets],
        "resources": {"requests": resources.requests(), "limits": limits},
        "securityContext": CONTAINER_SECURITY,
    }


def config_mount(name: str, folder: str) -> Object:
    """Return a read-only mount of a ConfigMap, for `head_pod` and `worker_pod`."""
    return {"name": name, "mountPath": folder, "readOnly": True}


def with_secret(pod: Object, name: str, secret: str, folder: str) -> Object:
    """Return a pod whose container sees the files of a Secret in a folder, read-only."""
    (ray,) = pod["spec"]["containers"]
    mounts = [*ray["volumeMounts"], {"name": name, "mountPath": folder, "readOnly": True}]
    volumes = [*pod["spec"]["volumes"], {"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}}]
    return {**pod, "spec": {**pod["spec"], "containers": [{**ray, "volumeMounts": mounts}], "volumes": volumes}}


def scratch_volumes(settings: RaySettings) -> list[Object]:
    """Return the volumes of SCRATCH_MOUNTS."""
    limit = {"sizeLimit": settings.scratch_limit} if settings.scratch_limit else {}
    return [{"name": name, "emptyDir": limit} for name in _SCRATCH]


def _pod(
    labels: dict[str, str],
    settings: RaySettings,
    resources: Resources,
    gpus: int,
    mounts: tuple[Object, ...],
    env: Mapping[str, str] = MappingProxyType({}),
) -> Object:
    made = {**container(settings, resources, gpus, env), "volumeMounts": [*mounts, *SCRATCH_MOUNTS]}
    volumes = [{"name": mount["name"], "configMap": {"name": mount["name"]}} for mount in mounts]
    spec = {**pod_spec(settings), "containers": [made], "volumes": [*volumes, *scratch_volumes(settings)]}
    return {"metadata": {"labels": labels}, "spec": spec}


def _place(node_selector: dict[str, str], tolerations: tuple[Object, ...]) -> Object:
    place: Object = {"nodeSelector": node_selector} if node_selector else {}
    return place | ({"tolerations": list(tolerations)} if tolerations else {})
