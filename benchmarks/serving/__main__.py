"""Measure serving beside its peers: make bench-serving, a part of it with ARGS="--what overload --peers kserve"."""

from __future__ import annotations

import argparse

from rich.console import Console

from benchmarks.serving import (
    framework,
    fuzz,
    hostile,
    overload,
    photo,
    restarts,
    startup,
    tally,
    tensor,
    vit,
    zeroshot,
)
from benchmarks.serving.peers import PEERS

PARTS = {
    "overload": overload.run,
    "framework": framework.run,
    "tensor": tensor.run,
    "vit": vit.run,
    "photo": photo.run,
    "zeroshot": zeroshot.run,
    "startup": startup.run,
    "hostile": hostile.run,
    "fuzz": fuzz.run,
    "restarts": restarts.run,
    "tally": tally.run,
}


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--peers", default="", help="beginnings of peers' names; none: all")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of each load")
    asked = parser.parse_args()
    chosen = [peer for peer in PEERS if peer.name.lower().startswith(tuple(asked.peers.lower().split(",")))]
    console = Console(width=140)
    for part in asked.what.split(","):
        PARTS[part](console, asked.seconds, chosen)


if __name__ == "__main__":
    main()
