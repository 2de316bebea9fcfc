"""Workers that are lost: telling the driver of them, which Ray begins anew without a word, and why in one line.

There is no public hook for workers that don't even start: these are Ray Train's own callbacks, as in `resize`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState

from vitruvian.training.job import Emit

# What is found in an error, what is told of it, and whether more memory would have helped.
_KNOWN: Final = (
    (
        re.compile(r"low on memory.*?was (\S+) used / (\S+) limit", re.DOTALL),
        r"a machine's memory was full (\1 of \2), and Ray ended what it could",
        True,
    ),
    (re.compile(r"\bits node has died|\bnode .*marked dead|NodeDiedError"), "a machine is gone", False),
    (
        re.compile(r"connection error code 2\. End of file"),
        "a process was killed, by the system where its memory was full or by somebody",
        True,
    ),
)
_LONGEST: Final = 300


@dataclass(frozen=True)
class Reason:
    """Why processes of Ray's ended, in one line."""

    text: str
    memory: bool = False
    """Whether more memory would have helped, or might have."""


class TellsOfLosses(ControllerCallback):  # type: ignore[misc]
    """Tells the driver why the controller begins the workers again."""

    def __init__(self, tell: Emit) -> None:
        self.tell = tell

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Tell of what was lost; waiting for machines is no loss."""
        if not isinstance(current_state, RestartingState | ReschedulingState):
            return
        error = current_state.training_failed_error
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return
        reason = why(error)
        self.tell({"kind": "lost", "why": reason.text, "memory": reason.memory})


def why(error: BaseException) -> Reason:
    """Return why processes of Ray's ended."""
    text = str(error)
    for pattern, told, memory in _KNOWN:
        if found := pattern.search(text):
            return Reason(found.expand(told), memory)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return Reason(last if len(last) <= _LONGEST else f"{last[:_LONGEST]}…")
