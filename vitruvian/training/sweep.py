"""Tracking trainings that are compared: each is a run of its own, and all of them are in one group."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from vitruvian.training.trackers import Run, Trackers, deadline_after, status_after

Open = Callable[[], Trackers | None]
"""Returns trackers that have not begun; None where nothing is tracked."""


class Sweep:
    """The trackers of a tuning or a study; a context whose end ends whatever run of it is left.

    Entering it raises `VitruvianError` where a tracker can't be used; after that none stops anything.
    """

    def __init__(self, open_trackers: Open | None, group: Run) -> None:
        self._open = open_trackers or (lambda: None)
        self._group = group
        self._begun: list[Trackers] = []

    def __enter__(self) -> Sweep:
        trackers = self._new()
        trackers.check()
        self._whole = trackers.nesting()
        self._whole.begin(self._group, begun=False)
        self._begun.append(self._whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        deadline = deadline_after(error)
        for trackers in self._begun:
            trackers.end(status_after(error))
        for trackers in self._begun:
            trackers.wait(deadline)

    def one(self, title: str) -> Trackers:
        """Return the trackers of one training."""
        trackers = self._new()
        trackers.join(self._group, title)
        self._begun.append(trackers)
        return trackers

    def chosen(self, title: str, accuracy: float) -> None:
        """Track which training is the best, and its validation accuracy."""
        self._whole.chosen(title, accuracy)

    def _new(self) -> Trackers:
        return self._open() or Trackers([], lambda text: None)
