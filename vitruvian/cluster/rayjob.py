"""What is applied for one run: a ConfigMap with the declaration and a KubeRay RayJob that runs it.

Pure: from a declaration and settings to plain objects. Fields as in KubeRay 1.6's `ray.io/v1`.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from vitruvian.cluster.objects import Object, check_name, declared, labels
from vitruvian.cluster.raypods import (
    GRACE_SECONDS,
    HEAD_PORTS,
    METRICS_PORT,
    SCRATCH_MOUNTS,
    autoscaled,
    config_mount,
    container,
    head_place,
    head_pod,
    measured,
    pod_spec,
    ray_cluster,
    scratch_volumes,
    worker_pod,
)
from vitruvian.cluster.settings import Resources, TrainerSettings
from vitruvian.errors import SpecError
from vitruvian.spec import Classifier, Training, Workers, is_repository
from vitruvian.synthetic import is_synthetic
from vitruvian.training.notice import VARIABLE as NOTICE

KIND: Final = ("ray.io/v1", "RayJob")
# KubeRay derives other names from a RayJob's and refuses longer ones.
_LONGEST_NAME: Final = 47
_LONGEST_SHOWN: Final = 200
# A larger number is taken for a slip.
_MOST_WORKERS: Final = 1000
_FOLDER: Final = "/etc/vitruvian"
# Of the mebibyte that a ConfigMap may hold.
_LARGEST_DECLARATION: Final = 1_000_000
# Of a pod's time between the order to end and its end: what Ray needs after training has saved.
_SECONDS_TO_END: Final = 10
_PORTS: Final = {**HEAD_PORTS, "run-metrics": METRICS_PORT}


def name_of(classifier: Classifier) -> str:
    """Return a name for a new run: the classifier's, and something that tells it from other runs."""
    tail = "-" + secrets.token_hex(3)
    return classifier.name[: _LONGEST_NAME - len(tail)].rstrip("-") + tail


def build(
    classifier: Classifier,
    declaration: str,
    name: str,
    namespace: str,
    settings: TrainerSettings,
    options: Sequence[str] = (),
) -> list[Object]:
    """Return the objects of a run: the RayJob first, which owns the others. Raises as `check` does.

    `options` are more words for `vitruvian run`.
    """
    check(classifier)
    fewest, most = _workers(classifier.spec.training)
    if settings.queue is not None and fewest != most:
        what = (
            f"Kueue, whose queue {settings.queue} the settings name, refuses runs that change their number of workers"
        )
        raise SpecError(what, where="spec.training.workers", hint="write one number instead of min and max")
    if len(declaration.encode()) > _LARGEST_DECLARATION:
        what = f"is {len(declaration.encode()):,} bytes; a cluster takes {_LARGEST_DECLARATION:,}"
        raise SpecError(what, where="the declaration", hint="shorten it")
    metadata = {"name": name, "namespace": namespace, "labels": labels(classifier.name, "trainer")}
    file = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"classifier.yaml": declaration}}
    return [declared(_rayjob(classifier, metadata, settings, options), classifier), file]


def tracked(mlflow: str | None, wandb: str | None) -> list[str]:
    """Return the options of a run that is tracked; raises `SpecError` for what pods can't reach."""
    if mlflow is not None and re.match(r"\w+://[^/]*@", mlflow):
        hint = "put MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD into a Secret of trainer.settings.secrets"
        raise SpecError("an address with a password would be seen by all who see the run", where="--mlflow", hint=hint)
    if mlflow is not None and not _in_reach(mlflow):
        hint = "give a server's http://HOST:PORT, https://HOST or databricks://PROFILE"
        raise SpecError(f"'{mlflow}' is no MLflow server that the cluster's pods reach", where="--mlflow", hint=hint)
    asked = {"--mlflow": mlflow, "--wandb": wandb}
    return [word for name, value in asked.items() if value is not None for word in (name, value)]


def _in_reach(mlflow: str) -> bool:
    """Tell whether a tracking URI is a server's, not a file's or this machine's."""
    if re.fullmatch(r"databricks(-uc)?(://\S+)?", mlflow):
        return True
    try:
        parts = urlsplit(mlflow)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and host not in (None, "localhost", "127.0.0.1", "::1")


def check(classifier: Classifier) -> None:
    """Raise `SpecError` for what a cluster can't run, as for folders that pods on other machines couldn't reach."""
    # A run's name is made shorter than the classifier's where that is too long.
    check_name(classifier.name[:_LONGEST_NAME], KIND[1], _LONGEST_NAME)
    workers = classifier.spec.training.world_size
    if workers > _MOST_WORKERS:
        what = f"{workers:,} pods are more than {_MOST_WORKERS:,}"
        raise SpecError(what, where="spec.training.workers", hint="write a smaller number")
    for field, address in (("data.source", classifier.spec.data.source), ("artifacts", classifier.artifacts)):
        if is_synthetic(address) and field == "data.source":
            continue
        hint = f"use s3://BUCKET/PREFIX, not {address[:_LONGEST_SHOWN]}"
        if is_repository(address):
            raise SpecError("the cluster's pods have no dvc", where=f"spec.{field}", hint=f"copy it to S3 and {hint}")
        if not address.startswith("s3://"):
            raise SpecError("the cluster's pods can't reach a folder of this machine", where=f"spec.{field}", hint=hint)
        if not re.fullmatch(r"s3://[A-Za-z0-9][-\w.]*(/.*)?", address):
            raise SpecError("names no bucket", where=f"spec.{field}", hint=hint)


def _rayjob(classifier: Classifier, metadata: Object, settings: TrainerSettings, options: Sequence[str]) -> Object:
    command = ["vitruvian", "run", "-f", f"{_FOLDER}/classifier.yaml"]
    command += ["--metrics-host", "0.0.0.0", "--metrics-port", str(METRICS_PORT), *options]
    spec: Object = {
        "entrypoint": shlex.join(command),
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
    marks, declared = metadata["labels"], (config_mount(metadata["name"], _FOLDER),)
    group = {
        "groupName": "workers",
        "replicas": most,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": {"num-cpus": "1"} | ({"num-gpus": str(gpus)} if gpus else {}),
        "template": _saves_last(worker_pod(marks, settings, gpus, declared)),
    }
    head = measured(_saves_last(head_pod(marks, settings, declared)), _PORTS, settings)
    cluster = ray_cluster(head, [group] if most else [])
    return cluster if fewest == most else autoscaled(cluster)


def _saves_last(pod: Object) -> Object:
    """Return a pod that isn't ended before the training on it, where there is one, has saved or its time is over."""
    (ray,) = pod["spec"]["containers"]
    env = [*ray["env"], {"name": NOTICE, "value": "/tmp/vitruvian/notice"}]
    command = ["vitruvian", "leave", "--seconds", str(GRACE_SECONDS - _SECONDS_TO_END)]
    ended = {**ray, "env": env, "lifecycle": {"preStop": {"exec": {"command": command}}}}
    return {**pod, "spec": {**pod["spec"], "containers": [ended]}}


def _workers(training: Training) -> tuple[int, int]:
    """Return the fewest and the most worker pods; with strategy none the leading pod trains by itself."""
    if training.strategy == "none":
        return 0, 0
    if isinstance(training.workers, Workers):
        return training.workers.min, training.workers.max
    return training.workers, training.workers


def _submitter(marks: dict[str, str], settings: TrainerSettings) -> Object:
    small = Resources(cpu="50m", memory="512Mi")
    submitter = {
        **container(settings, small),
        "name": "ray-job-submitter",
        "volumeMounts": list(SCRATCH_MOUNTS),
    }
    pod = {"restartPolicy": "Never", "containers": [submitter], "volumes": scratch_volumes(settings)}
    spec = {**pod_spec(settings), **head_place(settings), **pod}
    return {"metadata": {"labels": marks}, "spec": spec}
