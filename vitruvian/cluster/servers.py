"""Servers on a cluster: bring a version to it, and take it away again."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Final

from vitruvian.bundle import BUNDLES, CHECKSUMS, read_champion
from vitruvian.cluster import rayservice, serving
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import VERSION, Object, declared, is_ours, owned, servers_of
from vitruvian.cluster.rayservice import ray_service
from vitruvian.cluster.readiness import pods_of
from vitruvian.cluster.serving import autoscaler, disruption_budget, inference_service
from vitruvian.cluster.settings import RayServeSettings
from vitruvian.errors import BundleError, NotAllowed, NotFound, StoreError, VitruvianError
from vitruvian.spec import Classifier
from vitruvian.store import Store, open_store

_SECONDS_BETWEEN_LOOKS = 1.0
# Proxies and load balancers learn of a new address later than the API server.
_SECONDS_FOR_PROXIES = 10.0
_VERSION = re.compile(r"[0-9a-f]{12}")
_COMPANIONS: Final = {
    serving.KIND: (("autoscaling/v2", "HorizontalPodAutoscaler"), ("policy/v1", "PodDisruptionBudget")),
    rayservice.KIND: (rayservice.INGRESS, ("policy/v1", "PodDisruptionBudget")),
}
"""What each backend's object may own, of our making."""


def objects(
    classifier: Classifier,
    version: str | None,
    namespace: str,
    settings: RayServeSettings,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Object]:
    """Return what serves a version, the champion where None: first what owns the others.

    A version that is named needs no S3 here: where it can't be looked up, `tell` hears why. Raises `BundleError` where
    there is no champion, or no such version. `settings` are for Ray Serve only.
    """
    store = open_store(classifier.artifacts)
    named, version = version, read_champion(store) if version is None else version
    if version is None:
        hint = "train one with 'vitruvian submit' or 'vitruvian run'"
        raise BundleError("there is no champion yet", where=store.url, hint=hint)
    if not _VERSION.fullmatch(version):
        hint = "a version is 12 hexadecimal digits, as 'vitruvian run' prints it"
        raise BundleError(f"'{version[:40]}' is no version", where=store.url, hint=hint)
    try:
        _look_up(store, version)
    except StoreError as e:
        if named is None:
            raise
        tell(f"version {version} is not looked up from here: {e.what}")
    return serving_objects(classifier, store.address(f"{BUNDLES}/{version}"), version, namespace, settings)


def _look_up(store: Store, version: str) -> None:
    if store.tag(f"{BUNDLES}/{version}/{CHECKSUMS}") is None:
        hint = f"see what there is: aws s3 ls {store.address(BUNDLES)}/"
        raise BundleError(f"there is no version {version}", where=store.url, hint=hint)


def serving_objects(
    classifier: Classifier, bundle: str, version: str, namespace: str, settings: RayServeSettings
) -> list[Object]:
    """Return what serves one version from its address: first what owns the others."""
    if classifier.spec.serving.backend == "rayserve":
        served, *beside = ray_service(classifier, bundle, version, namespace, settings)
        return [declared(served, classifier), *beside]
    made = declared(inference_service(classifier, bundle, version, namespace), classifier)
    others = (autoscaler(classifier, namespace), disruption_budget(classifier, namespace))
    return [made, *(other for other in others if other is not None)]


def existing(cluster: Cluster, name: str) -> list[Object]:
    """Return what there is of a classifier's servers and what goes with them, whoever made it: the servers first."""
    beside = {kind: servers_of(name) for kinds in _COMPANIONS.values() for kind in kinds}
    found = [_seen(cluster, kind, each) for kind, each in [*((kind, name) for kind in _COMPANIONS), *beside.items()]]
    return [each for each in found if each is not None]


def deploy(cluster: Cluster, made: list[Object]) -> str:
    """Apply what serves a version and return the version; what a former one had beside it and this one hasn't goes.

    Raises `VitruvianError` where something of the name is there that isn't ours.
    """
    service, *others = made
    name = service["metadata"]["name"]
    for each in made:
        found = _seen(cluster, _kind(each), each["metadata"]["name"])
        if found is not None and not is_ours(found, name):
            raise _not_ours(cluster, each)
    kept = cluster.apply(service)
    for other in others:
        cluster.apply(owned(other, kept))
    wanted = {_kind(other) for other in others}
    for left in _companions(cluster, kept):
        if _kind(left) not in wanted:
            _delete(cluster, left)
    return str(service["metadata"]["annotations"][VERSION])


def former(cluster: Cluster, service: Object) -> Object | None:
    """Return what serves the same classifier with another backend; None where nothing does that may be seen."""
    name = service["metadata"]["name"]
    found = [_seen(cluster, kind, name) for kind in _COMPANIONS if kind != _kind(service)]
    return next((each for each in found if each is not None and is_ours(each, name)), None)


def deployed(cluster: Cluster, name: str) -> list[Object]:
    """Return what serves a classifier, with whatever backends.

    Raises `NotFound` where nothing does, and `VitruvianError` where what does isn't ours.
    """
    found, refused = [], None
    for kind in _COMPANIONS:
        try:
            found.append(cluster.find(*kind, name))
        except NotAllowed as e:
            refused = e
    there = [each for each in found if each is not None]
    ours = [each for each in there if is_ours(each, name)]
    if ours:
        return ours
    if there:
        raise _not_ours(cluster, there[0])
    if refused is not None:
        raise refused
    hint = f"see 'kubectl -n {cluster.namespace} get inferenceservices,rayservices'"
    raise NotFound(f"nothing serves {name[:70]!r}", where=f"namespace {cluster.namespace}", hint=hint)


def remove(cluster: Cluster, service: Object, pause: bool = False) -> list[Object]:
    """Delete what serves a classifier with all that `deploy` made for it, and return that.

    With `pause` servers go on while proxies forget their address.
    """
    companions = _companions(cluster, service)
    for each in companions:
        # Without the right to delete it, it goes with its owner.
        with contextlib.suppress(NotAllowed):
            _delete(cluster, each)
    if pause:
        time.sleep(_SECONDS_FOR_PROXIES)
    _delete(cluster, service)
    return [service, *companions]


def wait_gone(cluster: Cluster, going: list[Object], seconds: float, tell: Callable[[str], None]) -> None:
    """Return when objects that are being deleted are gone, with their pods; `tell` hears what it waits for.

    Raises `VitruvianError` where that takes too long.
    """
    deadline = time.monotonic() + seconds
    told = ""
    while left := [each for each in going if _is_there(cluster, each)]:
        waits = f"waiting for {', '.join(map(called, left))} to go"
        if waits != told:
            told = waits
            tell(waits)
        if time.monotonic() > deadline:
            what, first = f"isn't gone after {seconds:.0f} s", left[0]
            hint = f"see 'kubectl -n {cluster.namespace} describe {_argument(first)}'"
            raise VitruvianError(what, where=called(first), hint=hint)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def called(made: Object) -> str:
    """Return what people call an object: its kind and name."""
    return f"{made['kind']} {made['metadata']['name']}"


def _kind(made: Object) -> tuple[str, str]:
    return made["apiVersion"], made["kind"]


def _argument(made: Object) -> str:
    """Return an object as kubectl's argument."""
    return f"{made['kind'].lower()} {made['metadata']['name']}"


def _not_ours(cluster: Cluster, made: Object) -> VitruvianError:
    hint = f"choose another name, or remove it: kubectl -n {cluster.namespace} delete {_argument(made)}"
    return VitruvianError("is there, and 'vitruvian deploy' didn't make it", where=called(made), hint=hint)


def _seen(cluster: Cluster, kind: tuple[str, str], name: str) -> Object | None:
    """Return an object; None where there is none, or none that may be seen."""
    with contextlib.suppress(NotAllowed):
        return cluster.find(*kind, name)
    return None


def _companions(cluster: Cluster, service: Object) -> list[Object]:
    """Return what a service owns of our making; what another backend took over is that one's."""
    name, uid = service["metadata"]["name"], service["metadata"]["uid"]
    found = [_seen(cluster, kind, servers_of(name)) for kind in _COMPANIONS[_kind(service)]]
    ours = [each for each in found if each is not None and is_ours(each, name)]
    return [each for each in ours if uid in [owner["uid"] for owner in each["metadata"].get("ownerReferences", ())]]


def _delete(cluster: Cluster, made: Object) -> None:
    with contextlib.suppress(NotFound):
        cluster.delete(*_kind(made), made["metadata"]["name"])


def _is_there(cluster: Cluster, made: Object) -> bool:
    """Tell whether an object, or a pod of it, is there still."""
    found = _seen(cluster, _kind(made), made["metadata"]["name"])
    if found is not None and found["metadata"]["uid"] == made["metadata"]["uid"]:
        return True
    if found is not None or _kind(made) not in _COMPANIONS:
        return False
    with contextlib.suppress(NotAllowed):
        return bool(cluster.list("v1", "Pod", pods_of(made)))
    return False
