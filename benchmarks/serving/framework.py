"""What a server costs by itself: CPU of all its processes for a 55 KB JPEG that is neither decoded nor predicted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import closed_loop, with_header
from benchmarks.serving.peers import OURS, OURS_BASE64, OURS_V2, PEERS, Peer
from benchmarks.serving.pictures import noisy
from benchmarks.serving.running import Failed

CONNECTIONS = 16
KEY = "vtv_" + "k" * 43
"""Ours looks it up and takes it off a limit; the others have neither."""


def run(console: Console, seconds: float, peers: Sequence[Peer] = PEERS) -> None:
    """Print the table: each server in turn, and all of them once more, the lesser figure counts."""
    jpeg = noisy(55_000)
    found: dict[str, tuple[float, float, float]] = {}
    for _ in range(2):
        for peer in (OURS, OURS_V2, OURS_BASE64, *peers):
            try:
                with peer.running("null", BENCH_KEY=KEY) as server:
                    content = with_header(peer.ask(jpeg), "X-API-Key", KEY)
                    warm = closed_loop(server.port, content, CONNECTIONS, 2)
                    if not warm.counts[200]:
                        raise Failed(f"answers {dict(warm.counts)}")
                    before = server.cpu_seconds()
                    tally = closed_loop(server.port, content, CONNECTIONS, seconds / 4)
                    spent = 1000 * (server.cpu_seconds() - before) / tally.counts[200]
                    memory = server.memory() / 1e6
            except Failed as e:
                console.print(f"{peer.name}: {e}", highlight=False)
                continue
            best = found.get(peer.name)
            if best is None or spent < best[0]:
                found[peer.name] = (spent, tally.counts[200] / tally.elapsed, memory)
    table = Table(title=f"framework: a JPEG of {len(jpeg) / 1000:.0f} KB, {CONNECTIONS} connections")
    for name in ("server", "CPU ms a request", "of ours", "requests/s", "MB"):
        table.add_column(name, justify="left" if name == "server" else "right")
    ours = found[OURS.name][0]
    for name, (spent, rate, memory) in found.items():
        table.add_row(name, f"{spent:.2f}", f"{spent / ours:.1f}", f"{rate:.0f}", f"{memory:.0f}")
    console.print(table)
