"""kubectl, helm and the project's own command against a real cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "vitruvian"
SERVER = os.environ.get("VITRUVIAN_SERVER_IMAGE", "vitruvian/server:dev")
SERVER_RAY = os.environ.get("VITRUVIAN_SERVER_RAY_IMAGE", "vitruvian/server-ray:dev")
OPERATOR = os.environ.get("VITRUVIAN_OPERATOR_IMAGE", "vitruvian/operator:dev")
TRAINER = os.environ.get("VITRUVIAN_TRAINER_IMAGE", "vitruvian/trainer:dev")
Environment = dict[str, str]


def run(
    *command: str | Path,
    text: str | None = None,
    check: bool = True,
    seconds: float = 300,
    env: Environment | None = None,
) -> str:
    """Return what a command writes; an `AssertionError` with all of it where it fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PATH": path, **(env or {})},
        check=False,
    )
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


def kubectl(*words: str | Path, **more: Any) -> str:
    return run("kubectl", *words, **more)


def get(namespace: str, *words: str) -> dict[str, Any]:
    """Return an object, or a list of them, as kubectl prints it."""
    found: dict[str, Any] = json.loads(kubectl("-n", namespace, "get", *words, "-o", "json"))
    return found


def soon(what: str, holds: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the first value that counts as true; an `AssertionError` where there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.5)


def ingress_address() -> str:
    """Return the address of the ingress controller as the Ingresses' status tells it; empty while none does."""
    found = [
        place.get("ip") or place.get("hostname")
        for ingress in json.loads(kubectl("get", "ingress", "-A", "-o", "json"))["items"]
        for place in ingress.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    ]
    return f"http://{found[0]}" if found else ""


def knows(url: str, **headers: str) -> bool:
    """Tell whether an ingress controller has read the Ingress for a host: a moment before, it answers 404 itself."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/health", headers=headers), timeout=5):
            return True
    except OSError:
        return False


def settings(**server: Any) -> dict[str, Any]:
    """Return the chart's values for a small cluster with these images."""
    images = {
        role: dict(zip(("repository", "tag"), name.rsplit(":", 1), strict=True))
        for role, name in (("server", SERVER), ("serverRay", SERVER_RAY), ("operator", OPERATOR), ("trainer", TRAINER))
    }
    # The Prometheus of the cluster's standard set-up has no label of its own.
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    # A test leaves nothing behind that isn't in its namespace.
    crd = {"keep": False}
    return {"images": images, "server": server, "crd": crd, "networkPolicy": {"metricsFrom": [prometheus]}}


class Load:
    """Asks an address for predictions from several threads until told to stop, and counts what comes back."""

    def __init__(self, url: str, body: bytes, threads: int = 4, pause: float = 0.0, **headers: str) -> None:
        self.request = (url, body, headers)
        self.pause = pause
        self.answers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def total(self) -> int:
        return sum(self.answers.values())

    @property
    def failed(self) -> dict[str, int]:
        return {answer: count for answer, count in self.answers.items() if not answer.startswith("200")}

    def _ask(self) -> None:
        url, body, headers = self.request
        while not self._stop.is_set():
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as response:
                    told = json.loads(response.read())
                answer = f"200 {told.get('model_version') or told['version']}"
            except urllib.error.HTTPError as e:
                answer = f"{e.code} {e.read(200)!r}"
            except Exception as e:
                answer = f"{type(e).__name__} {e}"
            with self._lock:
                self.answers[answer] += 1
            self._stop.wait(self.pause)
