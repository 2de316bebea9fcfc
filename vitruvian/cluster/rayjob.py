"""What is applied for one run: a ConfigMap with the declaration and a KubeRay RayJob that runs it.

Pure: from a declaration and settings to plain objects. Fields as in KubeRay 1.6's `ray.io/v1`.
"""

from __future__ import annotations

import secrets
from typing import Final

from vitruvian.cluster.objects import CONTAINER_SECURITY, HOME, POD_SECURITY, Object, labels
from vitruvian.cluster.settings import Resources, TrainerSettings
from vitruvian.errors import SpecError
from vitruvian.spec import Classifier, Training, Workers

RAY_VERSION: Final = "2.60.0"
KIND: Final = ("ray.io/v1", "RayJob")
# KubeRay derives other names from a RayJob's and refuses longer ones.
_LONGEST_NAME: Final = 47
# Two minutes or so without its store cost a run no attempt.
_PATIENCE: Final = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "24"}
# What a pod may write where its root file system can't be written.
_SCRATCH_MOUNTS: Final = ({"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": HOME})
_SCRATCH_VOLUMES: Final = ({"name": "tmp", "emptyDir": {}}, {"name": "home", "emptyDir": {}})
_FOLDER: Final = "/etc/vitruvian"


def name_of(classifier: Classifier) -> str:
    """Return a name for a new run: the classifier's, and something that tells it from other runs."""
    tail = "-" + secrets.token_hex(3)
    return classifier.name[: _LONGEST_NAME - len(tail)].rstrip("-") + tail


def build(
    classifier: Classifier, declaration: str, name: str, namespace: str, settings: TrainerSettings
) -> list[Object]:
    """Return the objects of a run: the RayJob first, which owns the others. Raises as `check` does."""
    check(classifier)
    metadata = {"name": name, "namespace": namespace, "labels": labels(classifier.name, "trainer")}
    declared = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"classifier.yaml": declaration}}
    return [_rayjob(classifier, metadata, settings), declared]


def check(classifier: Classifier) -> None:
    """Raise `SpecError` where pods on other machines couldn't reach what the declaration names."""
    for field, address in (("data.source", classifier.spec.data.source), ("artifacts", classifier.artifacts)):
        if not address.startswith(("s3://", "synthetic://")):
            hint = f"use s3://BUCKET/PREFIX, not {address}"
            raise SpecError("the cluster's pods can't reach a folder of this machine", where=f"spec.{field}", hint=hint)


def _rayjob(classifier: Classifier, metadata: Object, settings: TrainerSettings) -> Object:
    spec: Object = {
        "entrypoint": f"vitruvian run -f {_FOLDER}/classifier.yaml",
        "submissionMode": "K8sJobMode",
        "backoffLimit": settings.attempts - 1,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": settings.ttl_seconds,
        # The submitter only waits: a pod that was lost is made anew, the run itself isn't begun twice by it.
        "submitterConfig": {"backoffLimit": 3},
        "submitterPodTemplate": _submitter(metadata["labels"], settings),
        "rayClusterSpec": _cluster(classifier, metadata, settings),
    }
    if settings.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = settings.deadline_seconds
    if settings.queue is not None:
        spec["suspend"] = True
        metadata = {**metadata, "labels": {**metadata["labels"], "kueue.x-k8s.io/queue-name": settings.queue}}
    return {"apiVersion": KIND[0], "kind": KIND[1], "metadata": metadata, "spec": spec}


def _cluster(classifier: Classifier, metadata: Object, settings: TrainerSettings) -> Object:
    training = classifier.spec.training
    fewest, most = _workers(training)
    gpus = training.gpus_per_worker
    cluster: Object = {
        "rayVersion": RAY_VERSION,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": _pod(metadata, settings, settings.head, settings.head_node_selector, ()),
        },
    }
    if most:
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": fewest,
                "minReplicas": fewest,
                "maxReplicas": most,
                "rayStartParams": {"num-cpus": "1"} | ({"num-gpus": str(gpus)} if gpus else {}),
                "template": _pod(
                    metadata, settings, settings.worker, settings.node_selector, settings.tolerations, gpus
                ),
            }
        ]
    if fewest != most:
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {"securityContext": CONTAINER_SECURITY}
        # The autoscaler asks the API server for pods.
        cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] = True
    return cluster


def _workers(training: Training) -> tuple[int, int]:
    """Return the fewest and the most worker pods; with strategy none the leading pod trains by itself."""
    if training.strategy == "none":
        return 0, 0
    if isinstance(training.workers, Workers):
        return training.workers.min, training.workers.max
    return training.workers, training.workers


def _pod(
    metadata: Object,
    settings: TrainerSettings,
    resources: Resources,
    node_selector: dict[str, str],
    tolerations: tuple[Object, ...],
    gpus: int = 0,
) -> Object:
    container = {
        **_container(settings, resources, gpus),
        "volumeMounts": [{"name": "classifier", "mountPath": _FOLDER, "readOnly": True}, *_SCRATCH_MOUNTS],
    }
    volumes = [{"name": "classifier", "configMap": {"name": metadata["name"]}}, *_SCRATCH_VOLUMES]
    spec = {**_pod_spec(settings), "containers": [container], "volumes": volumes}
    if node_selector:
        spec["nodeSelector"] = node_selector
    if tolerations:
        spec["tolerations"] = list(tolerations)
    return {"metadata": {"labels": metadata["labels"]}, "spec": spec}


def _pod_spec(settings: TrainerSettings) -> Object:
    spec: Object = {
        "securityContext": POD_SECURITY,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
    }
    if settings.service_account:
        spec["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.priority_class:
        spec["priorityClassName"] = settings.priority_class
    return spec


def _container(settings: TrainerSettings, resources: Resources, gpus: int) -> Object:
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    limits = {"memory": resources.memory}
    if resources.cpu_limit:
        limits["cpu"] = resources.cpu_limit
    if resources.ephemeral_storage:
        requests["ephemeral-storage"] = resources.ephemeral_storage
    if gpus:
        limits["nvidia.com/gpu"] = str(gpus)
    return {
        "name": "ray",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [
            {"name": name, "value": value}
            for name, value in {"HOME": HOME, **_PATIENCE, **dict(sorted(settings.env.items()))}.items()
        ],
        "envFrom": [{"secretRef": {"name": name, "optional": True}} for name in settings.secrets],
        "resources": {"requests": requests, "limits": limits},
        "securityContext": CONTAINER_SECURITY,
    }


def _submitter(marks: dict[str, str], settings: TrainerSettings) -> Object:
    small = Resources(cpu="50m", memory="512Mi")
    container = {
        **_container(settings, small, 0),
        "name": "ray-job-submitter",
        "volumeMounts": list(_SCRATCH_MOUNTS),
    }
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": list(_SCRATCH_VOLUMES)}
    spec = {**_pod_spec(settings), **pod}
    return {"metadata": {"labels": marks}, "spec": spec}
