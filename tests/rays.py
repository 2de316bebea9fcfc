"""Ray clusters that run beside a test or a benchmark."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def head(
    port: int, cpus: int, *words: str, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Run `ray start --head` until it is left; raises `RuntimeError` where it doesn't start."""
    # A folder of its own, or later programs of this machine would look for this cluster; short, for its sockets' names.
    folder = tempfile.mkdtemp(prefix="ray-")
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port", str(port)]
    command += ["--num-cpus", str(cpus), "--temp-dir", folder, *words]
    process = subprocess.Popen(
        command, cwd=cwd, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        told = ""
        for line in process.stdout:
            told += line
            if "--block" in line:
                break
        if process.poll() is not None:
            raise RuntimeError(told[-2000:])
        yield
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
