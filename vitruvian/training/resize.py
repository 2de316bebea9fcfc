"""Losing nothing where Ray Train changes the number of workers.

It ends all of them for that and begins the training anew, so they have to save before. There is no public hook for it:
these are Ray Train's own callbacks, which it takes for "custom workarounds" beside its public ones.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import ResizingState

from vitruvian.training import notice


class SavesBeforeResizing(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Leaves a notice on every worker once the controller has decided on another number of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.workers: Any = None

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Keep the workers that train now."""
        self.workers = worker_group

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Have them save; where they can't, what came after the last checkpoint is done again."""
        if isinstance(current_state, ResizingState) and self.workers is not None:
            with contextlib.suppress(Exception):
                self.workers.execute(notice.leave, self.seconds)
