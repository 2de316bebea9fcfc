"""The garbage collector in training: it rests until the model is built, and passes over what is there by then."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Don't look for garbage until `awake` is called: among what imports make there is none, again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def awake() -> None:
    """Look for garbage from now on, but not among what is there by now."""
    gc.freeze()
    gc.enable()
