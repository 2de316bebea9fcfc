"""Which run trained last below an artifacts address, so that one that a changed setting leaves behind is told of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from vitruvian import artifact
from vitruvian.errors import NotFound, VitruvianError
from vitruvian.store import Store
from vitruvian.training.checkpoints import read_state

PLACE: Final = "training.json"
_MOST_TOLD: Final = 3
_ABSENT: Final = object()


@dataclass(frozen=True)
class Latest:
    """A run that has begun."""

    run: str
    """What its checkpoints go by."""
    made: str
    """Where its model lies once it is finished."""
    decides: Mapping[str, Any]
    """What decides what it learns, flat: `training.batchSize` and the like."""


def begin(store: Store, latest: Latest) -> str | None:
    """Note that a run begins; return in words what another one, left unfinished, had otherwise."""
    before = _read(store)
    store.put(PLACE, json.dumps(asdict(latest), indent=1).encode())
    if before is None or before.run == latest.run or not _unfinished(store, before):
        return None
    return f"run {before.run} isn't finished, and this is another one: {differences(before.decides, latest.decides)}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words what differs between two runs' settings."""
    names = [name for name in {**before, **now} if before.get(name, _ABSENT) != now.get(name, _ABSENT)]
    told = [f"{name} was {_shown(before, name)} and is {_shown(now, name)}" for name in names[:_MOST_TOLD]]
    if more := names[_MOST_TOLD:]:
        told.append(f"and {len(more)} more")
    return ", ".join(told) or "the data or the pretrained weights have changed"


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "not set"


def _read(store: Store) -> Latest | None:
    # It decides nothing: one that is damaged is written anew.
    with contextlib.suppress(NotFound, ValueError, TypeError, RecursionError):
        latest = Latest(**json.loads(store.get(PLACE)))
        if isinstance(latest.run, str) and isinstance(latest.made, str) and isinstance(latest.decides, dict):
            return latest
    return None


def _unfinished(store: Store, before: Latest) -> bool:
    with contextlib.suppress(VitruvianError):
        saved = read_state(store.at(f"checkpoints/{before.run}")).checkpoints
        return bool(saved) and artifact.read_manifest(store, before.made) is None
    return False
