"""How long a server took from its process's first instruction to its first right answer, and with what."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGES = ("start", "fetch", "verify", "choose", "load", "warm_up")
"""Python and imports; copying and checking a bundle, or checking one that lies here, for as long as that goes on after
the imports; the fastest export; the model; the golden answer."""


class Startup:
    """Seconds of each stage so far; begins when the process did."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.seconds["start"] = _age()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - began

    def __str__(self) -> str:
        parts = ", ".join(f"{name.replace('_', '-')} {value:.2f}" for name, value in self.seconds.items() if value)
        return f"{sum(self.seconds.values()):.2f} s ({parts})"


def _age() -> float:
    """Return the seconds since this process began; 0 where the system doesn't tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
