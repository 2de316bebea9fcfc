"""Applications on a real Ray Serve, as `serve run` starts them; one at a time, as they share a port."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitruvian.cluster import rayservice


@contextmanager
def serving(root: Path, *words: str, **env: str) -> Iterator[str]:
    """Run `serve run` and yield its address once it answers."""
    log = root / "serve.log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "serve", "run", *words],
            cwd=root,
            stdout=out,
            stderr=out,
            # Not on a cluster that runs on this machine by chance.
            env={**os.environ, "RAY_ADDRESS": "local", **env},
        )
    address = f"http://127.0.0.1:{rayservice.PORT}"
    deadline = time.monotonic() + 120
    while not _answers(f"{address}/-/healthz") or "ready at" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
