"""Ctrl-C where foreign code is at work.

The exception that a signal raises may be swallowed, or turned into another one, within the import of a compiled module;
within torch's exporter it may end the process. So what came is kept in mind: it is raised again at the next look, and
held back where it does harm.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_came = 0
_holding = False


def install() -> None:
    """Take Ctrl-C from now on, in the main thread; a process that was started deaf to it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _take)


def came() -> bool:
    """Return whether Ctrl-C was pressed, whatever became of it."""
    return _came > 0


def look() -> None:
    """Raise `KeyboardInterrupt` where Ctrl-C came."""
    if came():
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let the block finish before Ctrl-C has its effect; a second one has it at once."""
    global _holding
    _holding = True
    try:
        yield
    finally:
        _holding = False
    look()


def _take(number: int, frame: FrameType | None) -> None:
    global _came
    _came += 1
    if not _holding or _came > 1:
        raise KeyboardInterrupt
