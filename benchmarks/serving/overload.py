"""A model of exactly 50 pictures a second, asked for twice and for five times as much by clients that wait a second."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import Tally, open_loop
from benchmarks.serving.peers import OURS, PEERS, Peer
from benchmarks.serving.pictures import noisy
from benchmarks.serving.running import Failed

CAPACITY = 50
RATES = (100, 250)
DEADLINE = 1.0
_REFUSALS = (429, 503, "ConnectionRefusedError")


def measure(peer: Peer, rate: float, seconds: float, content: bytes, port: int) -> dict[str, float]:
    """Return good answers a second and what became of the rest."""
    tally = open_loop(port, content, rate, seconds)
    good = [second for second in tally.seconds.get(200, ()) if second <= DEADLINE]
    refused = [outcome for outcome in tally.seconds if outcome in _REFUSALS]
    return {
        "good": tally.within(DEADLINE, seconds) / seconds,
        "late": len(tally.seconds.get(200, ())) - len(good),
        "refused": sum(tally.counts[outcome] for outcome in refused),
        "failed": sum(count for outcome, count in tally.counts.items() if outcome != 200 and outcome not in refused),
        "refusal": 1000 * tally.quantile(0.99, *refused),
    }


def run(console: Console, seconds: float, peers: Sequence[Peer] = PEERS) -> None:
    """Print the table."""
    jpeg = noisy(55_000)
    table = Table(title=f"overload: {CAPACITY}/s offered more for {seconds:g} s, {DEADLINE:g} s deadline")
    for name in (
        "server",
        "offered/s",
        "good/s",
        "of capacity",
        "late 200",
        "refused",
        "failed",
        "refused, p99",
    ):
        table.add_column(name, justify="left" if name == "server" else "right")
    for peer in (OURS, *peers):
        try:
            with peer.running("sleep") as server:
                content = peer.ask(jpeg)
                warm = open_loop(server.port, content, CAPACITY / 5, 3)
                if not warm.counts[200]:
                    raise Failed(f"answers {dict(warm.counts)}")
                for rate in RATES:
                    row = measure(peer, rate, seconds, content, server.port)
                    _drained(server.port, content)
                    table.add_row(
                        peer.name,
                        str(rate),
                        f"{row['good']:.1f}",
                        f"{row['good'] / CAPACITY:.2f}",
                        f"{row['late']:.0f}",
                        f"{row['refused']:.0f}",
                        f"{row['failed']:.0f}",
                        f"{row['refusal']:.1f} ms",
                    )
        except Failed as e:
            console.print(f"{peer.name}: {e}", highlight=False)
    console.print(table)


def _drained(port: int, content: bytes) -> Tally:
    """Wait until what one load left behind is worked off."""
    while True:
        tally = open_loop(port, content, 1, 2)
        if tally.quantile(1.0, 200) < DEADLINE / 2:
            return tally
