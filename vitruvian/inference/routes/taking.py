"""What all handlers that predict begin with: a service, a claim to an answer, and the body."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from vitruvian.inference.admission import Ticket
from vitruvian.inference.problems import json_bytes
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks
from vitruvian.inference.uploads import read_body

TIMEOUT = "X-Request-Timeout"
"""Seconds that the client waits."""
_ENVOY = "X-Envoy-Expected-Rq-Timeout-Ms"
_SECONDS_UNTIL_WATCHED = 0.05


class Taken(NamedTuple):
    """A request that predictions are made for."""

    service: Service
    ticket: Ticket
    body: bytes


@asynccontextmanager
async def taken(request: Request, tracks: Tracks) -> AsyncIterator[Taken]:
    """Read a request's body and hold its place until it is answered.

    Work for a client that leaves meanwhile isn't begun. Raises a `Problem` where it isn't taken on.
    """
    service = tracks.pick(request)
    ticket = service.ticket(_timeout(request.headers))
    with service.bodies.held() as add:
        body = await read_body(request, service.settings, add)
        watch = _Watch(request, ticket)
        try:
            yield Taken(service, ticket, body)
        finally:
            watch.end()


def _timeout(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a client waits, where it says so; raises `Malformed`."""
    for name, unit in ((TIMEOUT, 1.0), (_ENVOY, 0.001)):
        given = headers.get(name)
        if given is not None:
            try:
                seconds = float(given) * unit
            except ValueError:
                seconds = math.nan
            # Written so that what isn't a number is refused, too.
            if not 0 < seconds <= 86_400:
                raise Malformed(f"{name} is not a number of seconds above 0")
            return seconds
    return None


class _Watch:
    """Looks for a client that leaves; most are answered before it begins to."""

    def __init__(self, request: Request, ticket: Ticket) -> None:
        self._request = request
        self._ticket = ticket
        self._task: asyncio.Task[None] | None = None
        self._later = asyncio.get_running_loop().call_later(_SECONDS_UNTIL_WATCHED, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._ticket.leave()

    def end(self) -> None:
        self._later.cancel()
        if self._task is not None:
            self._task.cancel()


def as_json(value: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a value as an answer in JSON."""
    return Response(json_bytes(value), headers=headers, media_type="application/json")
