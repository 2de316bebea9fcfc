"""Signals that end a command: Ctrl-C where foreign code is at work, SIGTERM where there is something to save.

The exception that Ctrl-C raises may be swallowed, or turned into another one, within the import of a compiled module;
within torch's exporter it may end the process. So what came is kept in mind: it is raised again at the next look, and
held back where it does harm. Whoever presses it once more doesn't wait for what is being tidied up.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# What starts a command for somebody may pass on a Ctrl-C that the terminal has sent already.
_SECONDS_OF_ONE = 0.5

_came: float | None = None
"""When, in seconds of the monotonic clock."""
_holding = False


def install(end: Callable[[], object]) -> None:
    """Take Ctrl-C from now on, in the main thread; a process that was started deaf to it stays so.

    A second one calls `end`, which may be in the middle of anything and is to end the process.
    """

    def take(number: int, frame: FrameType | None) -> None:
        global _came
        if _came is None:
            _came = time.monotonic()
            if not _holding:
                raise KeyboardInterrupt
        elif time.monotonic() - _came > _SECONDS_OF_ONE:
            end()

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, take)


def came() -> bool:
    """Return whether Ctrl-C was pressed, whatever became of it."""
    return _came is not None


def look() -> None:
    """Raise `KeyboardInterrupt` where Ctrl-C came."""
    if came():
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let the block finish before Ctrl-C has its effect."""
    global _holding
    _holding = True
    try:
        yield
    finally:
        _holding = False
    look()


@contextlib.contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether SIGTERM came: in the block it ends nothing, so that work can be saved first."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def termination_at_once() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether SIGTERM came: in the block it raises `KeyboardInterrupt`, for what has nothing to save.

    It is raised once, so that what then tidies up isn't torn apart.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def take(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) == 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, before)
