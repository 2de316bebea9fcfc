"""`vitruvian serve` as a process of its own, as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.ports import free_port


@contextmanager
def serving(store: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `vitruvian serve` and yield it with its address over HTTP once it is ready."""
    port = free_port()
    command = [sys.executable, "-c", "from vitruvian.cli import main; main()", "serve", str(store), "--port", str(port)]
    with subprocess.Popen(
        [*command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ) as server:
        try:
            assert server.stdout is not None
            said = []
            for line in server.stdout:
                said.append(line)
                if "is ready at" in line:
                    break
            else:
                raise AssertionError("".join(said))
            yield server, f"http://127.0.0.1:{port}"
        finally:
            for child in psutil.Process(server.pid).children() if server.poll() is None else ():
                child.kill()
            server.kill()
