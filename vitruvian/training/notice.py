"""The notice that a machine is about to go: whoever ends it leaves a file, and the loop there saves at its next step.

`VITRUVIAN_NOTICE` says where the file is. While a loop runs it holds a lock beside it, so that nobody waits for a loop
that isn't there, or that has died.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "VITRUVIAN_NOTICE"
_SECONDS_BETWEEN_LOOKS = 0.1


def place() -> Path | None:
    """Return where notices are left on this machine; None: nobody leaves any."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def shared(path: Path | None) -> None:
    """Take the driver's place where this process has none and runs on the driver's machine."""
    if path is not None and path.parent.is_dir():
        os.environ.setdefault(VARIABLE, str(path))


def given() -> bool:
    """Return whether there is a notice that isn't answered."""
    path = place()
    return path is not None and path.exists()


def answer() -> None:
    """Take the notice away: everything up to now is saved."""
    path = place()
    if path is not None:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Tell those who leave notices here that a loop is there to answer them."""
    path = place()
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(_lock(path), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def running() -> bool:
    """Return whether a loop runs on this machine that answers notices."""
    path = place()
    if path is None:
        return False
    try:
        with open(_lock(path)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def leave(seconds: float) -> bool:
    """Leave a notice, and return whether it was answered in time; at once where no loop runs."""
    path = place()
    if path is None or not running():
        return False
    path.touch()
    until = time.monotonic() + seconds
    while path.exists() and time.monotonic() < until and running():
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    answered = not path.exists()
    path.unlink(missing_ok=True)
    return answered


def _lock(path: Path) -> Path:
    return path.with_name(path.name + ".lock")
