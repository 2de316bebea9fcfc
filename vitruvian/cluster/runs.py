"""Runs on a cluster: begin, list, follow and end them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import CLASSIFIER, JOB, Object, is_name, owned
from vitruvian.cluster.pods import obstacle
from vitruvian.cluster.rayjob import KIND, Job, build, name_of, stages, trains
from vitruvian.cluster.settings import TrainerSettings
from vitruvian.errors import Conflict, GateFailed, NotFound, VitruvianError
from vitruvian.spec import Classifier

_SECONDS_BETWEEN_LOOKS = 1.0
# A pod that trains has a minute and a half to save and go.
_SECONDS_TO_GO = 180.0
_OURS = "app.kubernetes.io/component=trainer"
_LONGEST_LABEL = 63
_WITHOUT_NEWS = ("Job is currently running", "Job finished successfully")
_ENDED = frozenset({"Complete", "Failed", "ValidationFailed"})


@dataclass(frozen=True)
class Run:
    """A RayJob as people ask for it."""

    name: str
    classifier: str
    state: str
    """Waiting, Starting, Running, Succeeded, Failed, Suspended."""
    attempt: int
    created: str
    ended: str | None
    message: str
    missed: bool = False
    """Whether it failed by a gate that wasn't met."""
    job: str = "run"
    """The verb that it is of."""

    @property
    def alone(self) -> bool:
        """Whether it writes what others of its classifier write, so that there is one of them at a time."""
        return trains(self.job)

    @property
    def over(self) -> bool:
        return self.state in ("Succeeded", "Failed")


def run_of(rayjob: Object) -> Run:
    """Return what a RayJob's two status strings say together."""
    metadata, spec, status = rayjob["metadata"], rayjob.get("spec") or {}, rayjob.get("status") or {}
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment in _ENDED:
        state = "Succeeded" if deployment == "Complete" and job == "SUCCEEDED" else "Failed"
    elif deployment == "Running":
        state = "Running"
    elif deployment in ("Suspended", "Suspending") or spec.get("suspend"):
        state = "Suspended"
    else:
        state = "Starting" if deployment in ("Initializing", "Retrying") else "Waiting"
    return Run(
        name=metadata["name"],
        classifier=metadata.get("labels", {}).get(CLASSIFIER, ""),
        state=state,
        attempt=int(status.get("failed") or 0) + (0 if deployment in _ENDED and state == "Failed" else 1),
        created=metadata["creationTimestamp"],
        ended=status.get("endTime"),
        message=_short(str(status.get("message") or status.get("reason") or "")),
        job=metadata.get("labels", {}).get(JOB, "run"),
        missed=f"exit code {GateFailed.exit_code}," in str(status.get("message")),
    )


def _short(message: str) -> str:
    """Return what of a RayJob's message says why: of a log its line for people, and nothing of one that runs."""
    problems = [line for line in message.splitlines() if line.lstrip().startswith("✗ ")]
    if problems:
        return " ".join(problems[-1].split()).removeprefix("✗ ")
    said = message.partition(", last available logs")[0]
    return "" if said.startswith(_WITHOUT_NEWS) else " ".join(said.split())


def submit(
    cluster: Cluster,
    classifier: Classifier,
    declaration: str,
    settings: TrainerSettings,
    job: Job | None = None,
    owner: Object | None = None,
) -> str:
    """Begin a run, which goes when its owner does, and return its name.

    Raises `Conflict` where one of this classifier isn't over, unless either is a prediction.
    """
    job = job or stages(classifier)
    alone = trains(job.verb)
    for run in runs(cluster, classifier.name) if alone else ():
        if run.alone and not run.over:
            hint = f"follow it with 'vitruvian logs {run.name}', or end it with 'vitruvian cancel {run.name}'"
            raise Conflict(f"run {run.name} of this classifier is not over", where=cluster.namespace, hint=hint)
    name = name_of(classifier)
    rayjob, *others = build(classifier, declaration, name, cluster.namespace, settings, job)
    kept = None
    try:
        kept = cluster.create(rayjob if owner is None else owned(rayjob, owner))
        for other in others:
            cluster.create(owned(other, kept))
        if alone:
            _give_way(cluster, classifier.name, name)
    except BaseException as e:
        # Ctrl-C may come when it is made and that isn't known here yet.
        if kept is not None or not isinstance(e, VitruvianError):
            _withdraw(cluster, name, e)
        raise
    return name


def _withdraw(cluster: Cluster, name: str, why: BaseException) -> None:
    """Delete a run that is half made: its pods would wait for ever, and the next run would wait for it."""
    try:
        cluster.delete(*KIND, name)
    except NotFound:
        return
    except VitruvianError as e:
        what, where = (why.what, why.where) if isinstance(why, VitruvianError) else ("interrupted", None)
        hint = f"have it deleted, which you may not: kubectl -n {cluster.namespace} delete rayjob {name}"
        raise VitruvianError(f"{what}; RayJob {name} is left behind", where=where, hint=hint) from e


def _give_way(cluster: Cluster, classifier: str, name: str) -> None:
    """Raise `Conflict` where somebody else began a run of the classifier at the same time, and before this one."""
    going = (run for run in runs(cluster, classifier) if run.alone and not run.over)
    # There is none where this one was ended at once.
    first = min(going, key=lambda run: (run.created, run.name), default=None)
    if first is not None and first.name != name:
        hint = f"follow it with 'vitruvian logs {first.name}'"
        raise Conflict(f"run {first.name} of this classifier was begun just before", where=cluster.namespace, hint=hint)


def runs(cluster: Cluster, classifier: str | None = None) -> list[Run]:
    """Return the runs of one classifier or of all, the oldest first."""
    if classifier is not None and not (is_name(classifier) and len(classifier) <= _LONGEST_LABEL):
        return []
    selector = f"{_OURS},{CLASSIFIER}" + (f"={classifier}" if classifier else "")
    return [run_of(job) for job in cluster.list(*KIND, selector)]


def find(cluster: Cluster, name: str) -> Run:
    """Return a run by its name, or the latest of a classifier by the classifier's; raises `NotFound`."""
    try:
        return run_of(cluster.get(*KIND, name))
    except NotFound as e:
        of_classifier = runs(cluster, name)
        if not of_classifier:
            hint = "'vitruvian status' lists the runs there are"
            raise NotFound(f"there is no run or classifier {name[:70]!r}", where=cluster.namespace, hint=hint) from e
        return of_classifier[-1]


def follow(cluster: Cluster, name: str) -> Iterator[str]:
    """Yield what a run writes, attempt after attempt, until it is over; what it waits for comes as lines, too.

    Raises `VitruvianError` where the run failed.
    """
    heard: set[str] = set()
    told = ""
    while True:
        try:
            run = run_of(cluster.get(*KIND, name))
        except NotFound as e:
            hint = "somebody cancelled it, or its time to stay was over; its checkpoints stay"
            raise NotFound("the run is gone", where=name, hint=hint) from e
        for pod in cluster.list("v1", "Pod", f"job-name={name}"):
            if pod["metadata"]["uid"] not in heard and pod["status"]["phase"] in ("Running", "Succeeded", "Failed"):
                heard.add(pod["metadata"]["uid"])
                yield from _said(cluster, pod)
        if run.over:
            break
        waits = waits_for(cluster, name, run)
        if waits != told:
            told = waits
            if waits:
                yield waits
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if run.missed:
        raise GateFailed(f"the run ended without a bundle: {run.message}", where=name)
    if run.state == "Failed":
        hint = f"see 'kubectl describe rayjob {name}'; submit it again to go on from the last checkpoint"
        raise VitruvianError(f"the run failed: {run.message or 'no reason is given'}", where=name, hint=hint)


def _said(cluster: Cluster, pod: Object) -> Iterator[str]:
    try:
        yield from cluster.log(pod["metadata"]["name"], pod["spec"]["containers"][0]["name"])
    except NotFound:
        # The pod went before its log was read to the end; the next attempt has one of its own.
        return


def waits_for(cluster: Cluster, name: str, run: Run) -> str:
    """Return what a run that hasn't begun to write waits for; empty where it has."""
    if run.state == "Running":
        return ""
    if run.state == "Suspended":
        return f"{name} is suspended: its queue lets it start when there is room"
    waiting = []
    for pod in cluster.list("v1", "Pod", f"{CLASSIFIER}={run.classifier},{_OURS},ray.io/node-type"):
        reason = obstacle(pod)
        if reason:
            waiting.append(f"{pod['metadata']['name']}: {reason}")
    return f"{name} is starting" + ("; " + ", ".join(waiting) if waiting else "")


def cancel(cluster: Cluster, name: str) -> Run:
    """End a run and remove its pods; checkpoints stay, so that a new run goes on from the last one.

    Returns the run as it was when it is gone; raises `VitruvianError` where that takes too long.
    """
    run = find(cluster, name)
    cluster.delete(*KIND, run.name)
    deadline = time.monotonic() + _SECONDS_TO_GO
    # KubeRay ends its job first: until then a new run of the classifier would be refused.
    while cluster.find(*KIND, run.name) is not None:
        if time.monotonic() > deadline:
            hint = f"see 'kubectl -n {cluster.namespace} describe rayjob {run.name}'"
            raise VitruvianError(f"isn't gone after {_SECONDS_TO_GO:.0f} s", where=run.name, hint=hint)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return run
