"""A picture as numbers in the Open Inference Protocol's binary extension: CPU of the server for 224 x 224 x 3 FP32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import closed_loop
from benchmarks.serving.peers import KSERVE, OURS, Peer, v2_binary
from benchmarks.serving.running import Failed

CONNECTIONS = 4


def run(console: Console, seconds: float, peers: Sequence[Peer] = ()) -> None:
    """Print the table, KServe's own server beside ours."""
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype("<f4")
    content = v2_binary(
        "/v2/models/m/infer", {"name": "pixels", "shape": list(pixels.shape), "datatype": "FP32"}, pixels.tobytes()
    )
    table = Table(title="tensor: 224 x 224 x 3 FP32, V2 binary")
    for name in ("server", "CPU ms a request", "requests/s"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for peer in (OURS, *(peer for peer in peers if peer is KSERVE)):
        try:
            with peer.running("null", BENCH_SIZE="224") as server:
                warm = closed_loop(server.port, content, CONNECTIONS, 2)
                if not warm.counts[200]:
                    raise Failed(f"answers {dict(warm.counts)}")
                before = server.cpu_seconds()
                tally = closed_loop(server.port, content, CONNECTIONS, seconds / 2)
                spent = 1000 * (server.cpu_seconds() - before) / tally.counts[200]
                table.add_row(peer.name, f"{spent:.2f}", f"{tally.counts[200] / tally.elapsed:.0f}")
        except Failed as e:
            console.print(f"{peer.name}: {e}", highlight=False)
    console.print(table)
