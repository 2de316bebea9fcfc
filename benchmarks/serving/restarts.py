"""Processes of a server are ended and replaced while it is asked: does a client notice?"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.serving.load import Connection, request
from benchmarks.serving.peers import Peer
from benchmarks.serving.running import Running, free_port, running
from tests.bundles import make_bundle, picture

_CLIENTS = 8
_PROCESSES = 2
_PAUSE = 0.02
_SECONDS_TO_START = 1.0


@dataclass
class Restarts:
    """What clients got while processes were replaced."""

    done: int = 0
    outcomes: Counter[object] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Requests that weren't answered with 200."""
        return sum(self.outcomes.values()) - self.outcomes[200]


async def _client(port: int, content: bytes, restarts: Restarts, over: asyncio.Event) -> None:
    connection = Connection(port)
    while not over.is_set():
        try:
            status, _ = await asyncio.wait_for(connection.send(content), 30)
            restarts.outcomes[status] += 1
        except (OSError, EOFError, TimeoutError) as e:
            restarts.outcomes[type(e).__name__] += 1
        await asyncio.sleep(_PAUSE)
    connection.close()


async def _restart(server: Running, count: int, restarts: Restarts, over: asyncio.Event) -> None:
    """End the oldest process as soon as the youngest is old enough to answer."""
    parent = psutil.Process(server.process.pid)
    while restarts.done < count:
        # A child may be gone between two looks at it.
        with suppress(psutil.NoSuchProcess):
            children = sorted(parent.children(), key=lambda child: child.create_time())
            if len(children) == _PROCESSES and time.time() - children[-1].create_time() > _SECONDS_TO_START:
                os.kill(children[0].pid, signal.SIGTERM)
                restarts.done += 1
                if restarts.done % 20 == 0:
                    print(f"{restarts.done} of {count}: {dict(restarts.outcomes)}", file=sys.stderr, flush=True)
                while children[0].status() != psutil.STATUS_ZOMBIE:
                    await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
    over.set()


def restart(count: int, linger: float = 0.5) -> Restarts:
    """Replace so many processes, one after the other, and return what clients got meanwhile."""
    restarts = Restarts()
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder))
        port = free_port()
        flags = ["--port", str(port), "--processes", str(_PROCESSES), "--linger", str(linger)]
        command = [sys.executable, "-c", "from vitruvian.cli import main; main()", "serve", f"{folder}/store", *flags]
        content = request("/predict/image", picture("red", (64, 64), "JPEG"), {"Content-Type": "image/jpeg"})
        with running(command, port) as server:

            async def load() -> None:
                over = asyncio.Event()
                clients = (_client(port, content, restarts, over) for _ in range(_CLIENTS))
                await asyncio.gather(_restart(server, count, restarts, over), *clients)

            asyncio.run(load())
    return restarts


def run(console: Console, seconds: float, peers: Sequence[Peer] = ()) -> None:
    """Print what came of 200 restarts."""
    found = restart(200)
    console.print(
        f"restarts: {found.done} processes ended and replaced, {sum(found.outcomes.values())} requests meanwhile, "
        f"{found.failed} of them not answered with 200 {dict(found.outcomes)}",
        highlight=False,
    )
