"""Memory that all lanes together may hold for decoding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """So many bytes for pictures that are being decoded; one that needs more than all has to be alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._total)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()
