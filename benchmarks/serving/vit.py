"""ViT-B/16 on this machine's CPUs, from a JPEG to the answer: the bare engine, our server, and the plain one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving import models
from benchmarks.serving.load import closed_loop
from benchmarks.serving.peers import FASTAPI, KSERVE, OURS, Peer
from benchmarks.serving.pictures import photograph
from benchmarks.serving.running import Failed, Running
from vitruvian.bundle import Bundle
from vitruvian.inference.engine import ENGINES
from vitruvian.machine import usable_cpus

CONNECTIONS = 4


def bare(bundle: Bundle, seconds: float) -> tuple[float, float]:
    """Return images a second of the engine alone, one at a time in each lane, and CPU ms an image."""
    lanes = usable_cpus()
    engine = ENGINES[bundle.info.serve](bundle.folder / bundle.served.path, bundle.preprocess.tensor_shape, 1, lanes)
    batch = np.random.default_rng(0).random((1, *bundle.preprocess.tensor_shape), np.float32)
    engine.run(batch)
    counts = [0] * lanes
    until = time.perf_counter() + seconds

    def work(lane: int) -> None:
        while time.perf_counter() < until:
            engine.run(batch)
            counts[lane] += 1

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    began, spent = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(counts)
    return total / (time.perf_counter() - began), 1000 * (time.process_time() - spent) / total


def served(server: Running, content: bytes, seconds: float, connections: int = CONNECTIONS) -> tuple[float, float]:
    """Return images a second from end to end, and CPU ms an image."""
    warm = closed_loop(server.port, content, connections, 3)
    if not warm.counts[200]:
        raise Failed(f"answers {dict(warm.counts)}")
    before = server.cpu_seconds()
    tally = closed_loop(server.port, content, connections, seconds)
    good = tally.counts[200]
    return good / tally.elapsed, 1000 * (server.cpu_seconds() - before) / good


def run(console: Console, seconds: float, peers: Sequence[Peer] = (FASTAPI, KSERVE)) -> None:
    """Print the table: each in turn, and all of them once more."""
    bundle, jpeg = models.vit(), photograph(640, 480)
    rows: dict[str, list[tuple[float, float]]] = {}
    for _ in range(2):
        rows.setdefault(f"bare engine, {bundle.info.serve}", []).append(bare(bundle, seconds))
        for peer, model in ((OURS, str(bundle.folder.absolute())), (FASTAPI, "vit"), (KSERVE, "vit")):
            if peer is not OURS and peer not in peers:
                continue
            try:
                with peer.running(model) as server:
                    rows.setdefault(peer.name, []).append(served(server, peer.ask(jpeg), seconds))
            except Failed as e:
                console.print(f"{peer.name}: {e}", highlight=False)
    best = {name: max(found) for name, found in rows.items()}
    whole = next(iter(best.values()))[0]
    table = Table(title=f"ViT-B/16, {usable_cpus()} CPUs, a JPEG of 640 x 480, {CONNECTIONS} connections")
    for name in ("", "images/s", "of the bare engine", "CPU ms an image"):
        table.add_column(name, justify="right" if name else "left")
    for name, (rate, spent) in best.items():
        table.add_row(name, f"{rate:.2f}", f"{rate / whole:.2f}", f"{spent:.1f}")
    console.print(table)
