"""Several processes, some of them killed while they answer: does what they count equal what their clients got?"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.serving.load import Connection, request
from benchmarks.serving.peers import Peer
from benchmarks.serving.running import Running, free_port, running
from tests.bundles import make_bundle, picture

_SECONDS_BETWEEN_KILLS = 0.25
_CLIENTS = 12
_ABORTED = "499"


@dataclass
class Tally:
    """What clients got and what the server says, by route and status."""

    clients: Counter[tuple[str, str]] = field(default_factory=Counter)
    server: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: int = 0
    """Requests whose connection broke before their answer was there."""
    killed: int = 0

    @property
    def lost(self) -> int:
        """Answers that clients got and the server doesn't know of."""
        return sum((self.clients - self.server).values())

    @property
    def unseen(self) -> int:
        """Answers that the server counted and no client got."""
        return sum((self.server - self.clients).values())


def requests() -> list[tuple[str, bytes]]:
    """Return the routes that are asked, each with a request."""
    good = picture("red", (64, 64), "JPEG")
    return [
        ("/predict/image", request("/predict/image", good, {"Content-Type": "image/jpeg"})),
        ("/predict/image", request("/predict/image", good, {"Content-Type": "image/jpeg"})),
        ("/predict/image", request("/predict/image", b"junk", {"Content-Type": "image/jpeg"})),
        ("/predict/image", request("/predict/image", b"", {"Content-Type": "image/jpeg"})),
        ("/predict/image", request("/predict/image", b"x", {"Content-Type": "text/plain"})),
        ("/predict", request("/predict", b"{")),
        ("/predict/image", request("/predict/image", b"", method="GET")),
        ("/v2/models/{name}", request("/v2/models/yoga", b"", method="GET")),
        ("/v2/models/{name}", request("/v2/models/other", b"", method="GET")),
        ("other", request("/nothing/here", b"")),
        ("none", b"not a request\r\n\r\n"),
    ]


async def _client(port: int, count: int, seed: int, tally: Tally) -> None:
    rng = random.Random(seed)
    known = requests()
    connection = Connection(port)
    for _ in range(count):
        if rng.random() < 0.02:
            # Somebody who leaves in the middle of a request.
            await _leave(port)
        route, content = rng.choice(known)
        try:
            status, _ = await asyncio.wait_for(connection.send(content), 30)
        except (OSError, EOFError, TimeoutError):
            tally.broken += 1
            await asyncio.sleep(0.05)
        else:
            tally.clients[route, str(status)] += 1
    connection.close()


async def _leave(port: int) -> None:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predict/image HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()
    except OSError:
        pass


async def _kill(server: Running, tally: Tally, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_KILLS)
        children = psutil.Process(server.process.pid).children()
        if children:
            os.kill(rng.choice(children).pid, signal.SIGKILL)
            tally.killed += 1


def count(total: int, processes: int = 4, *, seed: int = 0) -> Tally:
    """Ask so many times while processes are killed, and return both sides' counts."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder))
        port = free_port()
        serve = ["serve", f"{folder}/store", "--port", str(port), "--processes", str(processes)]
        command = [sys.executable, "-c", "from vitruvian.cli import main; main()", *serve]
        with running(command, port) as server:
            while len(psutil.Process(server.process.pid).children()) < processes:
                continue

            async def load() -> None:
                killer = asyncio.create_task(_kill(server, tally, seed))
                each = total // _CLIENTS
                await asyncio.gather(*(_client(port, each, seed + at, tally) for at in range(_CLIENTS)))
                killer.cancel()

            asyncio.run(load())
            tally.server = _scrape(port)
    return tally


def _shown(port: int) -> str:
    """Return what the server counted; the last kills may leave nobody who listens for a moment."""
    until = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _scrape(port: int) -> Counter[tuple[str, str]]:
    shown = _shown(port)
    found: Counter[tuple[str, str]] = Counter()
    for line in shown.splitlines():
        if line.startswith("vitruvian_requests_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if labels["code"] != _ABORTED and labels["route"] != "/metrics":
                found[labels["route"], labels["code"]] += int(float(line.rpartition(" ")[2]))
    return found


def run(console: Console, seconds: float, peers: Sequence[Peer] = ()) -> None:
    """Print what came of 10,000 requests."""
    tally = count(10_000)
    console.print(
        f"counters: {sum(tally.clients.values())} answers to clients, {tally.killed} processes killed; "
        f"{tally.lost} answers that the server didn't count, {tally.unseen} that it counted and no client got, "
        f"of {tally.broken} requests whose connection broke",
        highlight=False,
    )
