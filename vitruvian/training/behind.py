"""Work that is done in its own thread while training goes on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

_NICEST = 19


class Behind:
    """Does one piece of work after the other, in the order given; after one that failed none is begun."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None
        self._error: BaseException | None = None

    def add(self, work: Callable[[], None]) -> None:
        """Have a piece of work done after all before it."""
        self._last = threading.Thread(target=self._do, args=(work, self._last), name="behind", daemon=True)
        self._last.start()

    def settle(self) -> None:
        """Wait until all is done; raises what a piece of work raised."""
        if self._last is not None:
            self._last.join()
            self._last = None
        if self._error is not None:
            raise self._error

    def _do(self, work: Callable[[], None], former: threading.Thread | None) -> None:
        if former is not None:
            former.join()
        if self._error is not None:
            return
        try:
            _step_back()
            work()
        except BaseException as e:
            self._error = e


def _step_back() -> None:
    """Let training come first: on Linux threads have a priority each, which only root may raise again."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICEST)
