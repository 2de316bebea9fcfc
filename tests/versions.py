"""Two versions of a small classifier, and servers of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from tests.bundles import make_bundle
from tests.serving import serving
from vitruvian.bundle import Bundle
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.rules import Rules
from vitruvian.inference.service import Settings
from vitruvian.inference.tracks import Tracks

OTHER_WEIGHTS = np.array([[4, 3, 0], [1, 3, 0], [0, 3, 3]], np.float32)
"""Of a model that sees green in more pictures than the usual one does."""


def make_other(root: Path, **more: Any) -> Bundle:
    """Return version v2, which answers some pictures otherwise than `make_bundle`'s v1."""
    return make_bundle(root, **({"version": "v2", "weights": OTHER_WEIGHTS} | more))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def both(
    stable: Predictor,
    canary: Predictor | Callable[[], Predictor],
    rules: Rules | None = None,
    settings: Settings | None = None,
    *,
    state: str = "ready",
) -> Iterator[TestClient]:
    """Serve a champion with a challenger beside it, once that is in a state."""
    load = canary if callable(canary) else lambda: canary
    with serving(stable, settings, challenger=load, rules=rules) as client:
        wait_until(lambda: tracks(client).state == state, f"the challenger isn't {state}")
        if state == "ready" and rules is not None and rules.shadow:
            wait_until(lambda: tracks(client).shadow is not None, "there is no shadow")
        yield client


def tracks(client: TestClient) -> Tracks:
    """Return what decides behind a client."""
    found = client.app.state.tracks  # type: ignore[attr-defined]
    assert isinstance(found, Tracks)
    return found
