"""What keeps a pod from starting. Pure: from a pod's status to one line."""

from __future__ import annotations

from vitruvian.cluster.objects import Object

_PASSING = ("ContainerCreating", "PodInitializing")


def obstacle(pod: Object) -> str:
    """Return why a pod doesn't start; empty where nothing is known to be wrong."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _line(str(condition.get("message", "")))
    containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return next(filter(None, map(_obstacle, containers)), "")


def _obstacle(container: Object) -> str:
    if container.get("ready"):
        return ""
    state = container.get("state") or {}
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    if ended.get("exitCode"):
        # The last line of what it wrote says what was wrong, where the pod keeps it.
        said = [line for line in str(ended.get("message", "")).splitlines() if line.strip()]
        return _line(said[-1]) if said else f"{ended.get('reason', 'Error')} (exit code {ended['exitCode']})"
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    return "" if reason in ("", *_PASSING) else _line(f"{reason} {waiting.get('message', '')}")


def _line(text: str) -> str:
    return " ".join(text.split()).removeprefix("✗ ")
