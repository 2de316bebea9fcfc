"""What there is of a Classifier on the cluster and in its artifacts. Reads, and writes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from vitruvian import spec
from vitruvian.bundle import BUNDLES, BundleInfo, read_champion
from vitruvian.cluster import rayjob, rayservice, readiness, runs, servers, serving
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import CLASSIFIER, Object, is_ours
from vitruvian.cluster.settings import RayServeSettings, administered, without_chart
from vitruvian.errors import ArtifactError, SpecError, StoreError
from vitruvian.operator.crd import GROUP, KIND
from vitruvian.operator.observed import DIGEST, Observed, Seen, Served
from vitruvian.operator.status import ChampionStatus, read
from vitruvian.spec import Classifier
from vitruvian.store import Store, open_store

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_SERVERS: Final = (serving.KIND[1], rayservice.KIND[1])


def observe(cluster: Cluster, name: str) -> Observed | None:
    """Return what there is; None where there is no such Classifier, or where it is being deleted."""
    found = cluster.find(*KIND, name)
    if found is None or "deletionTimestamp" in found["metadata"]:
        return None
    resource = as_applied(found)
    classifier, refused = None, ""
    champion, unknown = None, ""
    wanted: list[Object] = []
    try:
        classifier = declared(resource)
        store = open_store(classifier.artifacts)
        champion, unknown = _champion(store, read(resource).champion)
        if champion is not None:
            wanted = _wanted(cluster, classifier, store, champion.version)
    except SpecError as e:
        classifier, refused = None, "; ".join(str(e).splitlines())
    kept = servers.existing(cluster, name)
    return Observed(
        resource=resource,
        now=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        classifier=classifier,
        refused=refused,
        runs=tuple(_seen(cluster, resource, each) for each in _runs(cluster, name)),
        champion=champion,
        unknown=unknown,
        wanted=tuple(wanted),
        kept=tuple(kept),
        served=tuple(_served(cluster, each) for each in kept if each["kind"] in _SERVERS and is_ours(each, name)),
    )


def as_applied(resource: Object) -> Object:
    """Return a Classifier with each null that its file has: `kubectl apply` leaves them out, and keeps the file aside.

    Without `earlyStopping: null` training would stop early.
    """
    try:
        applied = json.loads((resource["metadata"].get("annotations") or {})[_LAST_APPLIED])["spec"]
    except (KeyError, TypeError, ValueError):
        return resource
    return {**resource, "spec": _with_nulls(resource["spec"], applied)}


def _with_nulls(kept: Any, applied: Any) -> Any:
    if not isinstance(kept, dict) or not isinstance(applied, dict):
        return kept
    nulls = {key: None for key, each in applied.items() if each is None and key not in kept}
    return {key: _with_nulls(each, applied.get(key)) for key, each in kept.items()} | nulls


def declared(resource: Object) -> Classifier:
    """Return what a Classifier declares; raises `SpecError` for what isn't valid, or can't be done on a cluster."""
    metadata = resource["metadata"]
    # What is said to the operator isn't said of servers, whose pods would be made anew for it.
    others = {key: each for key, each in (metadata.get("annotations") or {}).items() if not key.startswith(f"{GROUP}/")}
    head = {key: resource[key] for key in ("apiVersion", "kind")}
    document = {**head, "metadata": {**metadata, "annotations": others}, "spec": resource["spec"]}
    classifier = spec.check(document, f"Classifier {metadata['name']}")
    rayjob.check(classifier)
    return classifier


def _champion(store: Store, known: ChampionStatus | None) -> tuple[ChampionStatus | None, str]:
    """Return the champion, or why it can't be told."""
    try:
        version = read_champion(store)
        if version is None or (known is not None and known.version == version):
            return known if version else None, ""
        info = BundleInfo.model_validate_json(store.get(f"{BUNDLES}/{version}/bundle.json"))
    except (StoreError, ArtifactError) as e:
        return None, str(e)
    except ValidationError:
        # Of another release: it serves all the same.
        return ChampionStatus(version=version), ""
    accuracy = info.metrics.get("accuracy")
    return ChampionStatus(version=version, accuracy=None if accuracy is None else round(accuracy, 4)), ""


def _wanted(cluster: Cluster, classifier: Classifier, store: Store, version: str) -> list[Object]:
    # KServe's servers need none of it, not even that it can be read.
    ray = classifier.spec.serving.backend == "rayserve"
    settings = administered(RayServeSettings, cluster) if ray else without_chart(RayServeSettings)
    bundle = store.address(f"{BUNDLES}/{version}")
    return servers.serving_objects(classifier, bundle, version, cluster.namespace, settings)


def _runs(cluster: Cluster, name: str) -> list[Object]:
    """Return the RayJobs of a classifier; without predictions, which take nothing from what it trains."""
    return [each for each in cluster.list(*rayjob.KIND, f"{CLASSIFIER}={name}") if runs.run_of(each).alone]


def _seen(cluster: Cluster, resource: Object, job: Object) -> Seen:
    metadata, run = job["metadata"], runs.run_of(job)
    owners = [owner["uid"] for owner in metadata.get("ownerReferences") or ()]
    ours = resource["metadata"]["uid"] in owners
    return Seen(
        run=run,
        digest=(metadata.get("annotations") or {}).get(DIGEST, "") if ours else "",
        leaving="deletionTimestamp" in metadata,
        waits_for="" if run.over else runs.waits_for(cluster, run.name, run),
    )


def _served(cluster: Cluster, service: Object) -> Served:
    return Served(service, readiness.lacking(cluster, service), readiness.address(cluster, service))
