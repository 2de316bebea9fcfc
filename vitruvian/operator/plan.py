"""What is to be done for a Classifier. Pure: from what was observed to actions and a status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from vitruvian.cluster.objects import Object, is_ours, number, owned
from vitruvian.operator.observed import Observed, current, digest_of, run_for
from vitruvian.operator.report import status_of
from vitruvian.operator.status import RunStatus, Status

SECONDS_AT_REST: Final = 60.0
SECONDS_UNDER_WAY: Final = 5.0


@dataclass(frozen=True)
class BeginRun:
    """Begin a run for what has this digest."""

    digest: str


@dataclass(frozen=True)
class EndRun:
    """End a run that is for something else than what is declared now."""

    name: str


@dataclass(frozen=True)
class Deploy:
    """Serve the champion."""

    version: str
    wanted: tuple[Object, ...]
    """First what owns the others, and goes with the Classifier."""


@dataclass(frozen=True)
class Retire:
    """Remove what serves with another backend than the one that is declared now."""

    service: Object


Action = BeginRun | EndRun | Deploy | Retire


@dataclass(frozen=True)
class Plan:
    """What is to be done, what the status says, and when to look again."""

    actions: tuple[Action, ...]
    status: Status
    seconds: float


def plan(seen: Observed) -> Plan:
    """Return what is to be done now. Nothing is done twice: what was done is seen."""
    run = run_for(seen)
    actions = (*_training(seen, run), *_serving(seen, run))
    status = status_of(seen, run)
    at_rest = not actions and status.phase not in ("Pending", "Training", "Deploying")
    return Plan(actions, status, SECONDS_AT_REST if at_rest else SECONDS_UNDER_WAY)


def holds(found: Any, wanted: Any) -> bool:
    """Tell whether what the cluster keeps has all that is wanted; what others added to it is theirs."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_empty(each) or holds(found.get(k), each) for k, each in wanted.items())
    if isinstance(wanted, list | tuple):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(holds(*pair) for pair in zip(found, wanted, strict=True))
    # The API server writes quantities its own way: 2000m is 2.
    quantities = isinstance(wanted, str) and isinstance(found, str) and wanted[:1].isdigit() and number(wanted) > 0
    return bool(found == wanted or (quantities and number(found) == number(wanted)))


def _empty(value: Any) -> bool:
    return value is None or value == {} or value == []


def _training(seen: Observed, run: RunStatus | None) -> Sequence[Action]:
    if seen.classifier is None or run is not None:
        return ()
    # Two runs of a classifier would write to the same artifacts; somebody else's is waited for.
    others = [each for each in seen.runs if not each.run.over or each.leaving]
    if others:
        return [EndRun(each.run.name) for each in others if each.digest and not each.leaving]
    return (BeginRun(digest_of(seen.resource)),)


def _serving(seen: Observed, run: RunStatus | None) -> Sequence[Action]:
    if not seen.wanted or seen.champion is None:
        return ()
    name = seen.resource["metadata"]["name"]
    trained = run is not None and run.state == "Succeeded"
    if not trained and not any(is_ours(each.service, name) for each in seen.served):
        return ()
    service, *others = seen.wanted
    service = owned(service, seen.resource)
    kept = _kept(seen, service)
    beside = [] if kept is None else [owned(each, kept) for each in others]
    if not all(holds(_kept(seen, each), each) for each in (service, *beside)) or _left(seen, service, others):
        return (Deploy(seen.champion.version, (service, *others)),)
    serves = current(seen)
    if serves is None or serves.lacking:
        return ()
    return [Retire(each.service) for each in seen.served if each.service["kind"] != service["kind"]]


def _kept(seen: Observed, wanted: Object) -> Object | None:
    return next((each for each in seen.kept if _named(each) == _named(wanted)), None)


def _named(made: Object) -> tuple[str, str]:
    return made["kind"], made["metadata"]["name"]


def _left(seen: Observed, service: Object, others: Sequence[Object]) -> bool:
    """Tell whether the service owns what it isn't to have any more, such as a budget where one server is enough."""
    kept = _kept(seen, service)
    uid = None if kept is None else kept["metadata"]["uid"]
    owners = [
        {owner["uid"] for owner in each["metadata"].get("ownerReferences") or ()}
        for each in seen.kept
        if _named(each) not in [_named(other) for other in others]
    ]
    return any(uid in each for each in owners)
