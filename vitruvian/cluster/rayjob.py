"""What is applied for one run: a ConfigMap with the declaration and a KubeRay RayJob that does something with it.

Pure: from a declaration and settings to plain objects. Fields as in KubeRay 1.6's `ray.io/v1`.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vitruvian.cluster.objects import JOB, Object, check_name, declared, labels
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
    with_ports,
    worker_pod,
)
from vitruvian.cluster.settings import Resources, TrainerSettings
from vitruvian.controls import steers
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
FILE: Final = f"{_FOLDER}/classifier.yaml"
"""Where pods find the declaration."""
# Of the mebibyte that a ConfigMap may hold.
_LARGEST_DECLARATION: Final = 1_000_000
# Of a pod's time between the order to end and its end: what Ray needs after training has saved.
_SECONDS_TO_END: Final = 10


@dataclass(frozen=True)
class Job:
    """What a RayJob does, and the pods that it needs for it."""

    verb: str
    """Of the command line."""
    command: tuple[str, ...]
    """What the leading pod runs."""
    fewest: int
    """Pods of workers; with none the leading pod does it by itself."""
    most: int
    gpus: int
    """Of each worker."""
    measured: bool = False
    """Whether it shows metrics on METRICS_PORT."""


def trains(verb: str) -> bool:
    """Tell whether a verb makes something of the classifier's data; a prediction only reads what is published."""
    return verb != "predict"


def stages(classifier: Classifier, verb: str = "run", options: Sequence[str] = ()) -> Job:
    """Return the job that does the stages of a classifier up to what the verb makes."""
    shown = ("--metrics-host", "0.0.0.0", "--metrics-port", str(METRICS_PORT)) if verb == "run" else ()
    training = classifier.spec.training
    command = ("vitruvian", verb, "-f", FILE, *shown, *options)
    return Job(verb, command, *workers_of(training), training.gpus_per_worker, measured=bool(shown))


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
    job: Job | None = None,
) -> list[Object]:
    """Return the objects of a run: the RayJob first, which owns the others. Raises as `check` does.

    Without a job it does all stages.
    """
    job = job or stages(classifier)
    check(classifier, job.verb)
    if job.most > _MOST_WORKERS:
        what = f"{job.most:,} pods are more than {_MOST_WORKERS:,}"
        raise SpecError(what, where=f"submit {job.verb}", hint="ask for fewer")
    if settings.queue is not None and job.fewest != job.most:
        what = (
            f"Kueue, whose queue {settings.queue} the settings name, refuses runs that change their number of workers"
        )
        raise SpecError(what, where="spec.training.workers", hint="write one number instead of min and max")
    if len(declaration.encode()) > _LARGEST_DECLARATION:
        what = f"is {len(declaration.encode()):,} bytes; a cluster takes {_LARGEST_DECLARATION:,}"
        raise SpecError(what, where="the declaration", hint="shorten it")
    metadata = {"name": name, "namespace": namespace, "labels": labels(classifier.name, "trainer")}
    file = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"classifier.yaml": declaration}}
    return [declared(_rayjob(job, metadata, settings), classifier), file]


def tracked(mlflow: str | None, wandb: str | None) -> list[str]:
    """Return the options of a run that is tracked; raises `SpecError` for what pods can't reach."""
    asked = {"--mlflow": mlflow, "--wandb": wandb}
    for option, value in asked.items():
        if value is not None and steers(value):
            raise SpecError(f"{value!a} holds a control character", where=option, hint="leave it out")
    if mlflow is not None and re.match(r"\w+://[^/]*@", mlflow):
        hint = "put MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD into a Secret of trainer.settings.secrets"
        raise SpecError("an address with a password would be seen by all who see the run", where="--mlflow", hint=hint)
    if mlflow is not None and not _in_reach(mlflow):
        hint = "give a server's http://HOST:PORT, https://HOST or databricks://PROFILE"
        raise SpecError(f"'{mlflow}' is no MLflow server that the cluster's pods reach", where="--mlflow", hint=hint)
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


def check(classifier: Classifier, verb: str = "run") -> None:
    """Raise `SpecError` for what a cluster can't run, as for folders that pods on other machines couldn't reach."""
    # A run's name is made shorter than the classifier's where that is too long.
    check_name(classifier.name[:_LONGEST_NAME], KIND[1], _LONGEST_NAME)
    workers = classifier.spec.training.world_size
    if trains(verb) and workers > _MOST_WORKERS:
        what = f"{workers:,} pods are more than {_MOST_WORKERS:,}"
        raise SpecError(what, where="spec.training.workers", hint="write a smaller number")
    if trains(verb) and not is_synthetic(classifier.spec.data.source):
        check_reach(classifier.spec.data.source, "spec.data.source")
    check_reach(classifier.artifacts, "spec.artifacts")


def check_reach(address: str, where: str) -> None:
    """Raise `SpecError` where pods can't reach an address."""
    hint = f"use s3://BUCKET/PREFIX, not {address[:_LONGEST_SHOWN]}"
    if is_repository(address):
        raise SpecError("the cluster's pods have no dvc", where=where, hint=f"copy it to S3 and {hint}")
    if not address.startswith("s3://"):
        raise SpecError("the cluster's pods can't reach a folder of this machine", where=where, hint=hint)
    if not re.fullmatch(r"s3://[A-Za-z0-9][-\w.]*(/.*)?", address):
        raise SpecError("names no bucket", where=where, hint=hint)


def _rayjob(job: Job, metadata: Object, settings: TrainerSettings) -> Object:
    spec: Object = {
        "entrypoint": shlex.join(job.command),
        "submissionMode": "K8sJobMode",
        "backoffLimit": settings.attempts - 1,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": settings.ttl_seconds,
        # The submitter only waits: a pod that was lost is made anew, the run itself isn't begun twice by it.
        "submitterConfig": {"backoffLimit": 3},
        "submitterPodTemplate": _submitter(metadata["labels"], settings),
        "rayClusterSpec": _cluster(job, metadata, settings),
    }
    if settings.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = settings.deadline_seconds
    marks = {**metadata["labels"], JOB: job.verb}
    if settings.queue is not None:
        spec["suspend"] = True
        marks["kueue.x-k8s.io/queue-name"] = settings.queue
    return {"apiVersion": KIND[0], "kind": KIND[1], "metadata": {**metadata, "labels": marks}, "spec": spec}


def _cluster(job: Job, metadata: Object, settings: TrainerSettings) -> Object:
    marks, declared = metadata["labels"], (config_mount(metadata["name"], _FOLDER),)
    group = {
        "groupName": "workers",
        "replicas": job.most,
        "minReplicas": job.fewest,
        "maxReplicas": job.most,
        "rayStartParams": {"num-cpus": "1"} | ({"num-gpus": str(job.gpus)} if job.gpus else {}),
        "template": _saves_last(worker_pod(marks, settings, job.gpus, declared)),
    }
    head = _saves_last(head_pod(marks, settings, declared))
    if job.measured:
        head = measured(head, {**HEAD_PORTS, "run-metrics": METRICS_PORT}, settings)
    else:
        head = with_ports(head, HEAD_PORTS)
    cluster = ray_cluster(head, [group] if job.most else [])
    return cluster if job.fewest == job.most else autoscaled(cluster)


def _saves_last(pod: Object) -> Object:
    """Return a pod that isn't ended before the training on it, where there is one, has saved or its time is over."""
    (ray,) = pod["spec"]["containers"]
    env = [*ray["env"], {"name": NOTICE, "value": "/tmp/vitruvian/notice"}]
    command = ["vitruvian", "leave", "--seconds", str(GRACE_SECONDS - _SECONDS_TO_END)]
    ended = {**ray, "env": env, "lifecycle": {"preStop": {"exec": {"command": command}}}}
    return {**pod, "spec": {**pod["spec"], "containers": [ended]}}


def workers_of(training: Training) -> tuple[int, int]:
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
