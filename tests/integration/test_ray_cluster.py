"""Ray clusters that a process starts for itself."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import ray
from ray._common.usage.usage_lib import get_cluster_metadata

from vitruvian.training.ray_cluster import start_ray


def _running() -> set[int]:
    """Return the processes below this one that haven't ended."""
    running = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.add(process.pid)
    return running


def test_a_cluster_of_our_own_answers_only_who_knows_its_token_and_is_gone_at_the_end(tmp_path: Path) -> None:
    before = _running()
    start_ray(1, tmp_path / "log")
    try:
        address = ray.get_runtime_context().gcs_address
        asked = f"import ray; ray.init({address!r}); print(ray.cluster_resources())"
        known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}

        def ask(mode: str) -> subprocess.CompletedProcess[str]:
            env = {**known, "RAY_AUTH_MODE": mode}
            return subprocess.run([sys.executable, "-c", asked], env=env, capture_output=True, text=True, check=False)

        assert "CPU" in ask("token").stdout
        refused = ask("disabled")
        assert refused.returncode != 0 and "InvalidAuthToken" in refused.stderr
        # Of another cluster than `ray.init`'s it would be told that nothing is to be told.
        metadata = get_cluster_metadata(ray._private.worker.global_worker.gcs_client)
        assert metadata["ray_init_cluster"] and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert _running() - before
    finally:
        ray.shutdown()
    assert not _running() - before
