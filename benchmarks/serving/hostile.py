"""What hostile pictures cost: growth of memory and CPU of each, by our decoding and by Pillow's plain way."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.serving.peers import Peer
from tests.hostile import pictures
from vitruvian.data.decode import Bounds, decode_image
from vitruvian.errors import DataError

_LIMIT = 6 << 30
"""Bytes of address space for a way: the plain one would take all there is."""
_BOUNDS = Bounds(64_000_000, lambda size: nullcontext())


def ours(content: bytes) -> None:
    """Decode as a server does."""
    with suppress(DataError):
        decode_image(content, "x", 224, _BOUNDS)


def plain(content: bytes) -> None:
    """Decode as tutorials do."""
    Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224))


def _peak() -> int:
    """Return the most memory since it was last asked, in bytes, and begin anew."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            Path("/proc/self/clear_refs").write_text("5")
            return 1024 * int(line.split()[1])
    raise AssertionError


def _measure(way: Callable[[bytes], None]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))
    known = list(pictures())
    for one in known:
        ours(one.content)
    for one in known:
        _peak()
        before = _resident()
        began = time.thread_time()
        try:
            way(one.content)
            outcome = "decoded or refused"
        except Exception as e:
            outcome = type(e).__name__
        spent = time.thread_time() - began
        print(json.dumps([one.name, max(0, _peak() - before), spent, outcome]))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured(way: str) -> dict[str, tuple[int, float]]:
    """Return each picture's growth in bytes and CPU in seconds, measured in a process of its own."""
    done = subprocess.run([sys.executable, "-m", __name__, way], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (growth, spent) for name, growth, spent, _ in rows}


def run(console: Console, seconds: float = 0, peers: Sequence[Peer] = ()) -> None:
    """Print the dearest pictures of each way."""
    one, other = measured("ours"), measured("plain")
    table = Table(title=f"hostile pictures: {len(one)}, the dearest")
    for name in ("picture", "MB", "CPU ms", "Pillow MB", "Pillow CPU ms"):
        table.add_column(name, justify="left" if name == "picture" else "right")
    dear = sorted(one, key=lambda name: -max(one[name][0] / 1e6, 1000 * one[name][1], other[name][0] / 1e6))
    for name in dear[:15]:
        cells = [f"{growth / 1e6:.1f} {1000 * spent:.1f}".split() for growth, spent in (one[name], other[name])]
        table.add_row(name, *cells[0], *cells[1])
    most = [
        unit * max(found[name][at] for name in found) for found in (one, other) for at, unit in enumerate((1e-6, 1e3))
    ]
    table.add_row("[bold]the most[/]", *(f"{value:.1f}" for value in most))
    console.print(table)


if __name__ == "__main__":
    _measure({"ours": ours, "plain": plain}[sys.argv[1]])
