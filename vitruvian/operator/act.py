"""Carries out what was planned, and says so."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from datetime import UTC, datetime
from typing import Final

from vitruvian import spec
from vitruvian.cluster import rayjob, runs, servers
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import Object
from vitruvian.cluster.settings import TrainerSettings, administered
from vitruvian.errors import Conflict, NotFound, VitruvianError
from vitruvian.operator.crd import KIND
from vitruvian.operator.observe import declared, observe
from vitruvian.operator.observed import DIGEST
from vitruvian.operator.plan import Action, BeginRun, Deploy, EndRun, Retire, plan
from vitruvian.operator.report import News, news, troubled
from vitruvian.operator.status import Status, read

_log = logging.getLogger(__name__)
SECONDS_AFTER_TROUBLE: Final = 15.0
_COMPONENT: Final = "vitruvian-operator"
_LONGEST_NOTE: Final = 1000


def reconcile(cluster: Cluster, name: str) -> float | None:
    """Do what a Classifier needs now, write its status where that changed, and return the seconds until the next look.

    None where there is no such Classifier any more.
    """
    seen = observe(cluster, name)
    if seen is None:
        return None
    planned = plan(seen)
    troubles = [trouble for action in planned.actions if (trouble := _try(cluster, seen.resource, action))]
    if planned.actions:
        # The status says what is, not what was meant.
        again = observe(cluster, name)
        if again is None:
            return None
        seen, planned = again, plan(again)
    status = troubled(planned.status, "; ".join(troubles), seen.now) if troubles else planned.status
    _report(cluster, seen.resource, status)
    return SECONDS_AFTER_TROUBLE if troubles else planned.seconds


def _try(cluster: Cluster, resource: Object, action: Action) -> str:
    """Carry out one action and tell of it; return why that couldn't be done, empty where it was: others go on."""
    try:
        _tell(cluster, resource, _act(cluster, resource, action))
    except VitruvianError as e:
        return "; ".join(str(e).splitlines())
    return ""


def _act(cluster: Cluster, resource: Object, action: Action) -> News:
    """Carry out one action and return what is to be told of it."""
    match action:
        case BeginRun(digest):
            classifier = declared(resource)
            marked = classifier.metadata.model_copy(
                update={"annotations": {**classifier.metadata.annotations, DIGEST: digest}}
            )
            run = runs.submit(
                cluster,
                classifier.model_copy(update={"metadata": marked}),
                _text(resource),
                administered(TrainerSettings, cluster),
                owner=resource,
            )
            return News("RunBegun", f"run {run}")
        case EndRun(name):
            with contextlib.suppress(NotFound):
                cluster.delete(*rayjob.KIND, name)
            return News("RunEnded", f"run {name}: what is declared has changed")
        case Deploy(version, wanted):
            servers.deploy(cluster, list(wanted))
            return News("Deployed", f"version {version} as {servers.called(wanted[0])}")
        case Retire(service):
            servers.remove(cluster, service, pause=True)
            return News("Removed", f"{servers.called(service)}: another backend serves")


def _text(resource: Object) -> str:
    """Return the declaration as a run reads it."""
    head = {key: resource[key] for key in ("apiVersion", "kind")}
    return spec.dump({**head, "metadata": {"name": resource["metadata"]["name"]}, "spec": resource["spec"]})


def _report(cluster: Cluster, resource: Object, status: Status) -> None:
    """Write a status where it isn't what the cluster keeps, and tell what is new in it."""
    before = read(resource)
    if status == before:
        return
    name = resource["metadata"]["name"]
    try:
        cluster.apply_status(
            {"apiVersion": KIND[0], "kind": KIND[1], "metadata": {"name": name}, "status": status.written()}
        )
    except NotFound:
        # Deleted meanwhile.
        return
    for each in news(before, status):
        _tell(cluster, resource, each)


def _tell(cluster: Cluster, resource: Object, told: News) -> None:
    """Make an Event: of one generation each text once, since its name is made of both."""
    metadata, now = resource["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _log.info("%s: %s: %s", metadata["name"], told.reason, told.message)
    words = f"{metadata['uid']} {metadata['generation']} {told.reason} {told.message}"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{hashlib.sha256(words.encode()).hexdigest()[:16]}",
            "namespace": cluster.namespace,
        },
        "involvedObject": {
            "apiVersion": KIND[0],
            "kind": KIND[1],
            "name": metadata["name"],
            "namespace": cluster.namespace,
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion"),
        },
        "type": "Warning" if told.warning else "Normal",
        "reason": told.reason,
        "message": told.message[:_LONGEST_NOTE],
        "source": {"component": _COMPONENT},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        cluster.create(event)
    except Conflict:
        return
    except VitruvianError as e:
        # What is done isn't undone because it can't be told.
        _log.warning("%s", e)
