"""Fetching what an allowed URL names: one GET, no more than is allowed, over a connection to a checked address."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urljoin

import httpcore

from vitruvian.errors import DataError
from vitruvian.inference.remote.addresses import Address, read_address
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.urls import NotAllowedUrl, Url, check_characters, read_url

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""From a host's name and a port to the host's addresses; raises `OSError`."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_REDIRECTS = (301, 302, 303, 307, 308)
# The last is what S3 calls an object that nobody gave a type.
_BINARY = ("application/octet-stream", "binary/octet-stream")

_log = logging.getLogger(__name__)


class NotFetched(DataError):
    """An allowed URL that brought no picture."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one fetch with all its redirects, and how many run at once."""

    max_body: int = 20_000_000
    """Bytes."""
    max_head: int = 32_768
    """Bytes of an answer's headers."""
    seconds: float = 10.0
    """From the wait for a turn to the last byte."""
    connect_seconds: float = 3.0
    """For each address of a host."""
    max_redirects: int = 3
    at_once: int = 16


class Fetcher:
    """Fetches what allowed URLs name; `close` it at the end."""

    def __init__(
        self,
        allowed: Allowed,
        limits: Limits | None = None,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._allowed = allowed
        self._limits = limits or Limits()
        # Of its own: a DNS server that doesn't answer keeps a thread for as long as the system likes.
        self._threads = ThreadPoolExecutor(self._limits.at_once, "resolve")
        self._resolve = resolve or self._ask_system
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._backend = backend or httpcore.AnyIOBackend()
        self._places = asyncio.Semaphore(self._limits.at_once)

    @property
    def limits(self) -> dict[str, Any]:
        """What may be fetched, by schemes, hosts and ports, and the bounds of it."""
        return {"hosts": [str(place) for place in self._allowed.places], **asdict(self._limits)}

    async def fetch(self, text: str) -> bytes:
        """Return the body that an allowed URL brings.

        Raises `NotAllowedUrl` for what isn't allowed, `NotFetched` where an allowed host doesn't bring a picture in
        the bounds.
        """
        url = read_url(text)
        if not self._allowed.names(url):
            raise NotAllowedUrl(f"this server fetches nothing from {url.origin}", hint="send the picture itself")
        try:
            async with asyncio.timeout(self._limits.seconds), self._places:
                return await self._follow(url)
        except TimeoutError as e:
            raise NotFetched(f"brought no picture within {self._limits.seconds:g} s", where=url.origin) from e

    def close(self) -> None:
        """Let the threads go, without a wait for what they do."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, url: Url) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            found = await self._get(url)
            if isinstance(found, bytes):
                return found
            if not self._allowed.names(found) or (url.scheme, found.scheme) == ("https", "http"):
                raise _astray(url, found.origin)
            url = found
        raise NotFetched(f"redirects more than {self._limits.max_redirects} times", where=url.origin)

    async def _get(self, url: Url) -> bytes | Url:
        """Return the body of a URL, or the URL that it redirects to."""
        stream = await self._connect(url)
        try:
            if url.scheme == "https":
                stream = await self._encrypt(stream, url)
            wire = _Wire(self._limits.max_head)
            answer = await self._ask(url, _Metered(stream, wire))
            if answer.status in _REDIRECTS:
                return _location(url, answer)
            return await self._body(url, answer, wire)
        finally:
            await stream.aclose()

    async def _connect(self, url: Url) -> httpcore.AsyncNetworkStream:
        for address in await self._addresses(url):
            try:
                stream = await self._backend.connect_tcp(str(address), url.port, self._limits.connect_seconds)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            peer = stream.get_extra_info("server_addr")
            if peer is None or read_address(peer[0]) != address or peer[1] != url.port:
                await stream.aclose()
                raise _nowhere(url, f"the connection to {address} ended at {peer}")
            return stream
        raise NotFetched("can't be reached", where=url.origin)

    async def _addresses(self, url: Url) -> list[Address]:
        """Return where a host is; every address that DNS names has to be allowed."""
        if url.address is not None:
            texts: list[str] = [url.host]
        else:
            try:
                texts = list(await self._resolve(url.host, url.port))
            except OSError as e:
                raise _nowhere(url, str(e)) from e
        addresses = [address for address in map(read_address, texts) if address and self._allowed.admits(address)]
        if not addresses or len(addresses) < len(texts):
            raise _nowhere(url, f"DNS names {', '.join(texts[:10]) or 'no address'}")
        return addresses

    async def _ask_system(self, host: str, port: int) -> Iterable[str]:
        loop = asyncio.get_running_loop()
        # As bytes: text would be recoded by rules of its own.
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
        )
        return [str(entry[4][0]) for entry in found]

    async def _encrypt(self, stream: httpcore.AsyncNetworkStream, url: Url) -> httpcore.AsyncNetworkStream:
        try:
            return await stream.start_tls(self._ssl_context, url.host)
        except httpcore.ConnectError as e:
            cause = e.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise NotFetched(f"its certificate isn't trusted: {cause.verify_message}", where=url.origin) from e
            raise NotFetched("doesn't speak TLS as it should", where=url.origin) from e

    async def _ask(self, url: Url, stream: _Metered) -> httpcore.Response:
        """Send the request; return the answer as far as its headers."""
        request = httpcore.Request(
            "GET",
            httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target),
            headers={
                "Host": url.authority,
                "User-Agent": "vitruvian",
                "Accept": "image/*, application/octet-stream",
                "Accept-Encoding": "identity",
                "Connection": "close",
            },
        )
        # It has this stream, and no other way to connect.
        connection = httpcore.AsyncHTTP11Connection(request.url.origin, stream)
        try:
            return await connection.handle_async_request(request)
        except _Exhausted as e:
            raise NotFetched(f"sends more than {self._limits.max_head} bytes of headers", where=url.origin) from e
        except (httpcore.NetworkError, httpcore.ProtocolError) as e:
            raise NotFetched("doesn't answer as an HTTP server does", where=url.origin) from e

    async def _body(self, url: Url, answer: httpcore.Response, wire: _Wire) -> bytes:
        if answer.status != 200:
            raise NotFetched(f"answered with status {answer.status}", where=url.origin)
        if any(value.lower() != "identity" for value in _values(answer, "content-encoding")):
            raise NotFetched("sends it compressed, unasked", where=url.origin)
        kinds = [value.partition(";")[0].strip().lower() for value in _values(answer, "content-type")]
        if len(kinds) != 1 or not (kinds[0].startswith("image/") or kinds[0] in _BINARY):
            raise NotFetched("sends something whose Content-Type isn't image/…", where=url.origin)
        lengths, coding = _values(answer, "content-length"), _values(answer, "transfer-encoding")
        if not lengths and not coding:
            raise NotFetched("doesn't say where the picture ends, so half of one could pass for it", where=url.origin)
        most = self._limits.max_body
        too_large = NotFetched(f"sends more than {most} bytes", where=url.origin)
        if any(int(length) > most for length in lengths):
            raise too_large
        # What frames the chunks comes on top.
        wire.left += most + most // 8
        body = bytearray()
        try:
            async for chunk in answer.aiter_stream():
                body += chunk
                if len(body) > most:
                    raise too_large
        except _Exhausted as e:
            raise too_large from e
        except (httpcore.NetworkError, httpcore.ProtocolError) as e:
            raise NotFetched(f"broke off after {len(body)} bytes", where=url.origin) from e
        return bytes(body)


class _Exhausted(Exception):
    """More bytes than may arrive."""


@dataclass
class _Wire:
    """How many bytes may still arrive, whatever they mean: headers, interim answers, chunks' frames, a body."""

    left: int


class _Metered(httpcore.AsyncNetworkStream):
    """A connection that takes no more bytes than its wire has left."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, wire: _Wire) -> None:
        self._stream = stream
        self._wire = wire

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._wire.left <= 0:
            raise _Exhausted
        data = await self._stream.read(min(max_bytes, self._wire.left), timeout)
        self._wire.left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()


# In what follows the client gets the same words whatever an internal network knows; the log has the cause.
def _nowhere(url: Url, why: str) -> NotAllowedUrl:
    _log.info("nothing is fetched from %s: %s", url.origin, why)
    return NotAllowedUrl("has no address that this server may fetch from", where=url.origin)


def _astray(url: Url, why: str) -> NotAllowedUrl:
    _log.info("a redirect of %s isn't followed: %s", url.origin, why)
    return NotAllowedUrl("redirects to where this server fetches nothing from", where=url.origin)


def _values(answer: httpcore.Response, name: str) -> list[str]:
    wanted = name.encode()
    return [value.decode("latin-1").strip() for key, value in answer.headers if key.lower() == wanted]


def _location(url: Url, answer: httpcore.Response) -> Url:
    locations = _values(answer, "location")
    if len(locations) != 1:
        raise NotFetched(f"answered with status {answer.status} and no one place to go", where=url.origin)
    try:
        return read_url(_join(url, locations[0]))
    except (NotAllowedUrl, ValueError) as e:
        raise _astray(url, str(e)) from e


def _join(url: Url, reference: str) -> str:
    # `urljoin` is for paths only: it drops characters that it doesn't like, and takes http:x for a path.
    check_characters(reference)
    if reference.startswith("//"):
        return f"{url.scheme}:{reference}"
    return reference if _SCHEME.match(reference) else urljoin(str(url), reference)
