"""Requests over plain sockets: as many at once as there are connections, or at a fixed rate whatever comes back.

The second is how real clients come; the first hides that a server collapses, since its clients wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

HOST = "127.0.0.1"
_PATIENCE = 30.0


def request(path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> bytes:
    """Return a request's bytes."""
    fields = {"Host": HOST, "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def with_header(content: bytes, name: str, value: str) -> bytes:
    """Return a request with one header more."""
    first, rest = content.split(b"\r\n", 1)
    return first + f"\r\n{name}: {value}\r\n".encode() + rest


@dataclass
class Tally:
    """What came back."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[object, list[float]] = field(default_factory=dict)
    """From when each request was due to its answer, by status, or by the kind of failure."""
    ended: dict[object, list[float]] = field(default_factory=dict)
    """Seconds after the load began at which each answer came."""
    elapsed: float = 0.0
    body: bytes = b""
    """Of the latest answer with status 200."""

    def add(self, outcome: object, due: float) -> None:
        now = time.perf_counter()
        self.seconds.setdefault(outcome, []).append(now - due)
        self.ended.setdefault(outcome, []).append(now - self.began)

    def within(self, deadline: float, window: float) -> int:
        """Return how many good answers came in time and while the load lasted."""
        answers = zip(self.seconds.get(200, ()), self.ended.get(200, ()), strict=True)
        return sum(seconds <= deadline and ended <= window for seconds, ended in answers)

    @property
    def counts(self) -> Counter[object]:
        return Counter({outcome: len(seconds) for outcome, seconds in self.seconds.items()})

    def quantile(self, share: float, *outcomes: object) -> float:
        """Return a quantile of the seconds of these outcomes; not a number without any."""
        found = sorted(second for outcome in outcomes for second in self.seconds.get(outcome, ()))
        return found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")


class Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, content: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port, limit=1 << 20)
        reader, writer = self._streams
        try:
            writer.write(content)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            if "content-length" in fields:
                body = await reader.readexactly(int(fields["content-length"]))
            else:
                body = await _chunks(reader)
            if fields.get("connection") == "close":
                self.close()
            return int(lines[0].split()[1]), body
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def _one(connection: Connection, content: bytes, tally: Tally, due: float) -> None:
    try:
        status, body = await asyncio.wait_for(connection.send(content), _PATIENCE)
    except (OSError, EOFError, TimeoutError, ValueError) as e:
        tally.add(type(e).__name__, due)
        return
    tally.add(status, due)
    if status == 200:
        tally.body = body


async def _closed(port: int, content: bytes, connections: int, seconds: float) -> Tally:
    tally, until = Tally(), time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port)
        while (now := time.perf_counter()) < until:
            await _one(connection, content, tally, now)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    tally.elapsed = time.perf_counter() - began
    return tally


async def _open(port: int, content: bytes, rate: float, seconds: float) -> Tally:
    tally = Tally()
    idle: list[Connection] = []

    async def send(due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        await _one(connection, content, tally, due)
        idle.append(connection)

    began = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(send(due)))
    await asyncio.gather(*tasks)
    tally.elapsed = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return tally


def closed_loop(port: int, content: bytes, connections: int, seconds: float) -> Tally:
    """Send again as soon as an answer is there, on so many connections."""
    return asyncio.run(_closed(port, content, connections, seconds))


def open_loop(port: int, content: bytes, rate: float, seconds: float) -> Tally:
    """Send so many requests a second, whether answers come or not."""
    return asyncio.run(_open(port, content, rate, seconds))
