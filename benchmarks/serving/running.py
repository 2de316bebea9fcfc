"""Servers as processes: started, waited for, measured as a whole tree, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.serving.load import HOST

_GONE = (ProcessLookupError, psutil.NoSuchProcess)


class Failed(Exception):
    """A server that didn't come up."""


class Running:
    """A server's process and all that it started."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self._ended: dict[int, float] = {}

    def _tree(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes so far, those that ended meanwhile included as last seen."""
        for process in self._tree():
            try:
                times = process.cpu_times()
                self._ended[process.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._ended.values())

    def memory(self) -> int:
        """Return the bytes that belong to these processes, what they share counted once for each that shares it."""
        total = 0
        for process in self._tree():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return total


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path], port: int, *, environment: Mapping[str, str] | None = None, seconds: float = 180.0
) -> Iterator[Running]:
    """Start a server and wait until it listens; end it and all that it started afterwards."""
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=out,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        server = Running(process, port, log)
        try:
            _wait(server, seconds)
            yield server
        finally:
            tree = server._tree()
            with suppress(*_GONE):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            for left in tree:
                with suppress(*_GONE):
                    left.kill()


def until_ready(server: Running, path: str, seconds: float = 180.0) -> None:
    """Wait until a server says that it is ready."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{server.port}{path}", timeout=5):
                return
        except OSError:
            time.sleep(0.02)
    raise Failed(f"isn't ready within {seconds:g} s: {server.log.read_text()[-2000:]}")


def _wait(server: Running, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise Failed(f"ended with {server.process.returncode}: {server.log.read_text()[-2000:]}")
        with socket.socket() as trial:
            trial.settimeout(1)
            if trial.connect_ex((HOST, server.port)) == 0:
                return
        time.sleep(0.02)
    raise Failed(f"didn't listen within {seconds:g} s: {server.log.read_text()[-2000:]}")
