"""What is told of a Classifier: its status, and what of it is new. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vitruvian.operator.observed import Observed, current
from vitruvian.operator.status import (
    LONGEST_MESSAGE,
    ChampionStatus,
    Condition,
    Kind,
    Phase,
    RunState,
    RunStatus,
    Status,
    Truth,
    read,
)


def status_of(seen: Observed, run: RunStatus | None) -> Status:
    """Return what the status says, where this is the run that what is declared needs."""
    before = read(seen.resource)
    champion = seen.champion or (before.champion if seen.unknown else None)
    state = None if run is None else run.state
    told: dict[Kind, tuple[Truth, str, str]] = {
        "Trained": _trained(seen, run),
        "Gated": _gated(run),
        "Published": _published(seen, run, champion),
        "Serving": _answers(seen),
    }
    phase = _phase(seen, run, told["Serving"][0])
    stalled = phase in ("Invalid", "GateMissed", "Failed", "Cancelled")
    deciding: Kind = "Trained" if state != "Succeeded" else "Serving" if champion else "Published"
    line = seen.refused or (run.message if run and stalled else "") or told[deciding][2]
    told["Ready"] = ("True" if phase == "Serving" else "False", phase, line)
    told["Reconciling"] = _whether(not stalled and phase != "Serving", phase, line)
    told["Stalled"] = _whether(stalled, phase, line)
    generation = seen.resource["metadata"]["generation"]
    served = current(seen)
    return Status(
        phase=phase,
        observed_generation=generation,
        conditions=tuple(_condition(before, kind, *each, generation, seen.now) for kind, each in told.items()),
        champion=champion,
        url=(served.url or None) if served else None,
        run=run,
    )


def _whether(so: bool, phase: Phase, line: str) -> tuple[Truth, str, str]:
    return ("True", phase, line) if so else ("False", phase, "")


def _phase(seen: Observed, run: RunStatus | None, answers: Truth) -> Phase:
    if seen.classifier is None:
        return "Invalid"
    if run is None:
        return "Pending"
    phases: dict[RunState, Phase] = {
        "Running": "Training",
        "Succeeded": "Serving" if answers == "True" else "Deploying",
        "GateMissed": "GateMissed",
        "Failed": "Failed",
        "Cancelled": "Cancelled",
    }
    return phases[run.state]


def _trained(seen: Observed, run: RunStatus | None) -> tuple[Truth, str, str]:
    if run is None:
        others = [each.run.name for each in seen.runs if not each.run.over or each.leaving]
        waits = f"run {others[0]} isn't over" if others else "no run is begun yet"
        return "Unknown", "Pending", "" if seen.classifier is None else waits
    if run.state == "Running":
        return "Unknown", "Running", run.message or f"run {run.name} goes on"
    if run.state in ("Succeeded", "GateMissed"):
        return "True", "Trained", f"run {run.name}"
    return "False", f"Run{run.state}", f"run {run.name}: {run.message or 'no reason is given'}"


def _gated(run: RunStatus | None) -> tuple[Truth, str, str]:
    if run is not None and run.state == "Succeeded":
        return "True", "GatesMet", "every gate is met"
    if run is not None and run.state == "GateMissed":
        return "False", "GateMissed", run.message
    return "Unknown", "Pending", ""


def _published(seen: Observed, run: RunStatus | None, champion: ChampionStatus | None) -> tuple[Truth, str, str]:
    if seen.unknown:
        return "Unknown", "StoreUnreadable", seen.unknown
    if run is not None and run.state == "Succeeded":
        if champion is None:
            return "False", "NoChampion", "the artifacts name no champion"
        return "True", "Published", f"version {champion.version}"
    if run is not None and run.state == "GateMissed":
        return "False", "GateMissed", f"version {champion.version} stays the champion" if champion else ""
    return "Unknown", "Pending", ""


def _answers(seen: Observed) -> tuple[Truth, str, str]:
    served = current(seen)
    if served is None:
        return "False", "NotDeployed", "nothing is deployed yet"
    return ("False", "NotReady", served.lacking) if served.lacking else ("True", "Answers", served.url)


def _condition(
    before: Status, kind: Kind, status: Truth, reason: str, message: str, generation: int, now: str
) -> Condition:
    """Return a condition whose time is that of its last change of status."""
    former = before.condition(kind)
    since = former.last_transition_time if former is not None and former.status == status else now
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:LONGEST_MESSAGE],
        observed_generation=generation,
        last_transition_time=since,
    )


def troubled(status: Status, line: str, now: str) -> Status:
    """Return a status that says why something couldn't be done, which is tried again."""
    generation = status.observed_generation
    conditions = [_condition(status, "Reconciling", "True", "Retrying", line, generation, now)]
    ready = status.condition("Ready")
    if ready is None or ready.status != "True":
        conditions.append(_condition(status, "Ready", "False", "Retrying", line, generation, now))
    told = {each.type: each for each in (*status.conditions, *conditions)}
    return status.model_copy(update={"conditions": tuple(told.values())})


@dataclass(frozen=True)
class News:
    """What is told once, as an Event of the Classifier."""

    reason: str
    message: str
    warning: bool = False


def news(before: Status, after: Status) -> list[News]:
    """Return what a status says that the one before it didn't: what was decided, each once."""
    told: dict[str, News] = {}
    for each in after.conditions:
        former = before.condition(each.type)
        changed = former is None or (former.status, former.reason) != (each.status, each.reason)
        bad = each.status == ("True" if each.type == "Stalled" else "False")
        good = each.status == "True" and each.type in ("Trained", "Gated", "Published", "Serving")
        again = bad and former is not None and former.observed_generation != each.observed_generation
        matters = good or (bad and each.type in ("Trained", "Gated", "Stalled"))
        if matters and (changed or again) and each.message:
            told.setdefault(each.message, News(each.reason, each.message, bad))
    return list(told.values())
