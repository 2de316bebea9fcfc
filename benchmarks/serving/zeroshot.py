"""A CLIP asked for labels of the client's own that are encoded already, and for its own: what do they cost?"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.serving import models
from benchmarks.serving.load import Tally, closed_loop, request
from benchmarks.serving.peers import OURS, Peer
from benchmarks.serving.pictures import photograph
from benchmarks.serving.running import Failed, Running

COUNTS = (10, 100, 1000)
ROUNDS = 10
GOAL = 1.05
_BEST = 5
"""Labels of an answer: what it is long would be measured otherwise."""
_PATIENCE = 900.0


def ask(jpeg: bytes, labels: int) -> bytes:
    """Return a request with so many labels; 0: the bundle's own."""
    document: dict[str, object] = {"image": base64.b64encode(jpeg).decode(), "top_k": _BEST}
    if labels:
        document["labels"] = [f"a person in pose {number}" for number in range(labels)]
        document["templates"] = ["a photo of {}."]
    return request("/predict", json.dumps(document).encode(), {"Content-Type": "application/json"})


def encoded(server: Running, content: bytes) -> None:
    """Wait until a request's labels are encoded; raises `Failed` where they never are."""
    until = time.monotonic() + _PATIENCE
    while not (tally := closed_loop(server.port, content, 1, 1)).counts[200]:
        if time.monotonic() > until:
            raise Failed(f"answers {dict(tally.counts)}")


def measure(server: Running, contents: Sequence[bytes], seconds: float) -> list[Tally]:
    """Return what came of each request, sent one after another's answer; all of them in turn, again and again."""
    tallies = [Tally() for _ in contents]
    for _ in range(ROUNDS):
        for content, tally in zip(contents, tallies, strict=True):
            for outcome, found in closed_loop(server.port, content, 1, seconds / ROUNDS).seconds.items():
                tally.seconds.setdefault(outcome, []).extend(found)
    return tallies


def run(console: Console, seconds: float, peers: Sequence[Peer] = ()) -> None:
    """Print the table."""
    bundle, jpeg = models.clip_b32(), photograph(640, 480)
    counts = (0, *COUNTS)
    contents = [ask(jpeg, labels) for labels in counts]
    # A second run finds the labels there.
    cache = str((models.FOLDER / "cache").absolute())
    with OURS.running(str(bundle.folder.absolute()), XDG_CACHE_HOME=cache) as server:
        for content in contents:
            encoded(server, content)
        tallies = measure(server, contents, seconds)
    base = tallies[0].quantile(0.5, 200)
    table = Table(title=f"CLIP ViT-B/32, {bundle.info.serve}, a JPEG of 640 x 480, the best {_BEST} labels asked for")
    for name in ("labels", "answers", "others", "p50", "p99", f"p50 of its own's (goal {GOAL:g})"):
        table.add_column(name, justify="left" if name == "labels" else "right")
    for labels, tally in zip(counts, tallies, strict=True):
        good, p50 = tally.counts[200], tally.quantile(0.5, 200)
        table.add_row(
            f"{labels:,} of the request" if labels else f"its own {len(models.CLASSES)}",
            f"{good}",
            f"{tally.counts.total() - good}",
            f"{1000 * p50:.1f} ms",
            f"{1000 * tally.quantile(0.99, 200):.1f} ms",
            f"{p50 / base:.3f}",
        )
    console.print(table)
