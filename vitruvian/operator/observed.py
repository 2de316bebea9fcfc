"""What was observed of a Classifier, and what follows from it. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from vitruvian.cluster.objects import Object
from vitruvian.cluster.runs import Run
from vitruvian.operator.status import ChampionStatus, RunState, RunStatus, read
from vitruvian.spec import Classifier

DIGEST: Final = "vitruvian.dev/declaration"
"""The annotation of a run that says what it is for."""
AGAIN: Final = "vitruvian.dev/run"
"""The annotation of a Classifier by which somebody asks for another run of what is declared: any new value does."""
# What makes a bundle; `serving` only says how it is served.
_OF_A_BUNDLE: Final = ("data", "model", "training", "gates", "export", "artifacts")


@dataclass(frozen=True)
class Seen:
    """A run on the cluster that is of this classifier's name."""

    run: Run
    digest: str
    """What it is for, where we began it for this very Classifier; empty for anybody else's."""
    leaving: bool
    """Whether it is being deleted."""
    waits_for: str = ""


@dataclass(frozen=True)
class Served:
    """What serves the classifier, with any backend."""

    service: Object
    lacking: str
    """What it lacks until it answers; empty where it does."""
    url: str


@dataclass(frozen=True)
class Observed:
    """All that a plan is made of."""

    resource: Object
    """The Classifier as the cluster keeps it."""
    now: str
    """UTC, RFC 3339."""
    classifier: Classifier | None
    """What it declares; None where that is refused."""
    refused: str = ""
    """Why it is refused."""
    runs: tuple[Seen, ...] = ()
    """The oldest first."""
    champion: ChampionStatus | None = None
    unknown: str = ""
    """Why nobody can tell which version is the champion."""
    wanted: tuple[Object, ...] = ()
    """What would serve the champion: first what owns the others."""
    kept: tuple[Object, ...] = ()
    """What the cluster has of its servers, whoever made it."""
    served: tuple[Served, ...] = ()


def digest_of(resource: Object) -> str:
    """Return what tells a declaration that needs a run of its own from others, as it is written, not as it is read.

    So nothing is trained again when a later release has other defaults.
    """
    spec, metadata = resource["spec"], resource["metadata"]
    parts = [{key: spec[key] for key in _OF_A_BUNDLE if key in spec}, (metadata.get("annotations") or {}).get(AGAIN)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def run_for(seen: Observed) -> RunStatus | None:
    """Return how the run goes, or went, that what is declared needs; None where there is none yet."""
    known = read(seen.resource).run
    if seen.classifier is None:
        return known
    digest = digest_of(seen.resource)
    found = [each for each in seen.runs if each.digest == digest and not each.leaving]
    if found:
        run = found[-1].run
        message = run.message or found[-1].waits_for
        return RunStatus(name=run.name, digest=digest, state=_state(run), message=message)
    if known is None or known.digest != digest:
        return None
    return known if known.over else known.model_copy(update={"state": "Cancelled", "message": "somebody ended it"})


def _state(run: Run) -> RunState:
    if not run.over:
        return "Running"
    return "Succeeded" if run.state == "Succeeded" else "GateMissed" if run.missed else "Failed"


def current(seen: Observed) -> Served | None:
    """Return what serves now: with the backend that is declared where there is such a one."""
    kind = seen.wanted[0]["kind"] if seen.wanted else None
    return next((each for each in seen.served if kind in (None, each.service["kind"])), None)
