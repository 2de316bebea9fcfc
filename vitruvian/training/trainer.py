"""Ray Train's trainer without the processes that a run of ours has no use for.

There is no public hook for it: these are Ray Train's own callbacks and policies, as in `resize`.
"""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Starts the controller and the workers, and nothing beside them."""

    def __init__(self, *arguments: Any, ours: bool, alone: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ours = ours
        """Whether this process's connection to Ray is for this run only, and ends with it."""
        self.alone = alone
        """Whether the Ray cluster is this run's own: nobody can add machines to it."""

    def _create_default_callbacks(self) -> list[Any]:
        # Examples don't come from Ray Data; what a lost controller had reserved is freed with the connection, too.
        needless = DatasetsCallback | PlacementGroupCleanerCallback if self.ours else DatasetsCallback
        return [each for each in super()._create_default_callbacks() if not isinstance(each, needless)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self.alone and isinstance(options["scaling_policy"], FixedScalingPolicy):
            options["scaling_policy"] = _OnThisMachine(self.scaling_config)
        return super()._initialize_and_run_controller(**options)


class _OnThisMachine(FixedScalingPolicy):  # type: ignore[misc]
    """Asks no autoscaler for machines."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
