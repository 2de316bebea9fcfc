"""Web servers that answer byte for byte as told, listeners that nobody may reach, and connections that are counted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping

import httpcore

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
PICTURE = b"\x89PNG\r\n\x1a\n and so on"


def reply(body: bytes = PICTURE, status: str = "200 OK", /, **headers: str | None) -> bytes:
    """Return an answer with a length and a picture's type; headers are named with _ for -, None leaves one out."""
    named: dict[str, str | None] = {"content_type": "image/png", "content_length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return reply(b"", status, location=location)


class Site:
    """What a server was asked, head by head, how many connections came, and which names TLS clients said."""

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[bytes] = []
        self.connections = 0
        self.names: list[str | None] = []


@contextlib.asynccontextmanager
async def serving(
    answers: Mapping[str, Answer], *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    """Serve an answer for each target at an address of this machine; what isn't listed is 404."""
    site = Site()

    running: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site.connections += 1
        if task := asyncio.current_task():
            running.add(task)
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            site.heads.append(head)
            told = answers.get(head.split(b" ")[1].decode(), reply(b"", "404 Not Found"))
            if isinstance(told, bytes):
                writer.write(told)
                await writer.drain()
            else:
                await told(writer)

    if tls is not None:
        tls.sni_callback = lambda _, name, __: site.names.append(name)
    server = await asyncio.start_server(answer, host, port, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Traps:
    """Listeners on one port of several addresses of this machine."""

    def __init__(self, addresses: Iterable[str] = ("127.0.0.1", "127.0.0.2", "::1")) -> None:
        self.port = 0
        self._listeners = []
        for address in addresses:
            listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            listener.setblocking(False)
            listener.bind((address, self.port))
            listener.listen()
            self.port = listener.getsockname()[1]
            self._listeners.append(listener)

    def caught(self) -> list[bytes]:
        """Return what the connections sent that came since the last call; a connection is there once it is made."""
        sent = []
        for listener in self._listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    try:
                        sent.append(connection.recv(65536))
                    except BlockingIOError:
                        sent.append(b"")
                    connection.close()
        return sent

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


@contextlib.contextmanager
def traps() -> Iterator[Traps]:
    """Listen where nothing may connect; tries other ports until one is free on all addresses."""
    for _ in range(100):
        try:
            listening = Traps()
            break
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise
    try:
        yield listening
    finally:
        listening.close()


class Counting(httpcore.AsyncNetworkBackend):
    """Real connections, each counted before it is made."""

    def __init__(self, *, connecting: bool = True) -> None:
        self.attempts: list[tuple[str, int]] = []
        self._real = httpcore.AnyIOBackend() if connecting else None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.attempts.append((host, port))
        if self._real is None:
            raise httpcore.ConnectError("there is no network")
        return await self._real.connect_tcp(host, port, timeout, local_address, socket_options)
