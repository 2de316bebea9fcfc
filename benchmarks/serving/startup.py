"""From the start of a process to its first right answer, and the memory that it takes then: ViT-B/16, local disk."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving import models
from benchmarks.serving.load import closed_loop
from benchmarks.serving.peers import FASTAPI, OURS, Peer
from benchmarks.serving.pictures import photograph
from benchmarks.serving.running import free_port, running

_TIMES = 5


def started(command: Sequence[str | Path], port: int, content: bytes, **variables: str) -> tuple[float, float, float]:
    """Return seconds to the first answer, those of CPU, and bytes resident after some more answers."""
    began = time.perf_counter()
    with running(command, port, environment=variables) as server:
        while not closed_loop(port, content, 1, 0.001).counts[200]:
            time.sleep(0.01)
        seconds, spent = time.perf_counter() - began, server.cpu_seconds()
        closed_loop(port, content, 4, 5)
        return seconds, spent, psutil.Process(server.process.pid).memory_info().rss


def run(console: Console, seconds: float, peers: Sequence[Peer] = ()) -> None:
    """Print the table: the two in turn, several times."""
    bundle, jpeg = str(models.vit().folder.absolute()), photograph(640, 480)
    weights = models.vit_weights().absolute()
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(_TIMES):
        port = free_port()
        ours = [sys.executable, "-c", "from vitruvian.cli import main; main()", "serve", bundle, "--port", str(port)]
        rows.setdefault("vitruvian serve, 8 bits", []).append(started(ours, port, OURS.ask(jpeg)))
        port = free_port()
        plain = FASTAPI.command(Path(sys.executable), port, Path())
        variables = {"BENCH_MODEL": "vit", "BENCH_WEIGHTS": str(weights)}
        rows.setdefault(FASTAPI.name, []).append(started(plain, port, FASTAPI.ask(jpeg), **variables))
    table = Table(title=f"ViT-B/16, start to first answer, median of {_TIMES}")
    for name in ("server", "seconds", "of ours", "CPU seconds", "MB resident"):
        table.add_column(name, justify="left" if name == "server" else "right")
    middle = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rows.items()}
    first = next(iter(middle.values()))[0]
    for name, (took, spent, memory) in middle.items():
        table.add_row(name, f"{took:.2f}", f"{took / first:.2f}", f"{spent:.2f}", f"{memory / 1e6:.0f}")
    console.print(table)
