"""What all handlers that predict begin with: a service, a claim to an answer, and the body."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from vitruvian.errors import DataError
from vitruvian.inference.admission import Share, Ticket, late
from vitruvian.inference.lanes import Input, Wanted
from vitruvian.inference.oip import file_input
from vitruvian.inference.problems import TOO_LARGE, TOO_SLOW, Problem, json_bytes
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks
from vitruvian.inference.uploads import Sent, read_body

if TYPE_CHECKING:
    from vitruvian.inference.remote.fetch import Fetcher

TIMEOUT = "x-request-timeout"
"""Seconds that the client waits."""
_ENVOY = "x-envoy-expected-rq-timeout-ms"
_SECONDS_UNTIL_WATCHED = 0.05
"""Most requests are answered before: what only slow ones need isn't begun for them."""


class Taken(NamedTuple):
    """A request that predictions are made for."""

    service: Service
    ticket: Ticket
    body: bytes
    fetched: Fetched


class Fetched:
    """The bytes of what one request had fetched: so many as a body may have, and they count as a body's do."""

    def __init__(self, share: Share, most: int) -> None:
        self._share = share
        self._left = self._most = most

    def add(self, size: int) -> None:
        """Count what came; raises a `Problem` where it is too much."""
        self._left -= size
        if self._left < 0:
            raise Problem(TOO_LARGE, f"what the addresses bring has more than {self._most} bytes")
        self._share.add(size)


class taken:
    """Reads a request's body and holds its place until it is answered, by `wanted` where a service is.

    Work for a client that leaves meanwhile isn't begun. Raises a `Problem` where it isn't taken on.
    """

    def __init__(self, request: Request, tracks: Tracks, wanted: Service | None = None) -> None:
        self._request = request
        self._tracks = tracks
        self._wanted = wanted

    async def __aenter__(self) -> Taken:
        state = self._request.scope["state"]
        service, ticket = self._tracks.take(state, _timeout(self._request), self._wanted)
        self._share = service.bodies.share()
        self._watch = _Watch(self._request, ticket, service.settings.body_seconds)
        try:
            body = await read_body(self._request, service.settings, self._share.add)
        except BaseException as e:
            self._share.end()
            self._watch.end(e)
            raise
        self._watch.body_is_there()
        return Taken(service, ticket, body, Fetched(self._share, service.settings.max_body))

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._share.end()
        self._watch.end(error)


def header(request: Request, name: str) -> str | None:
    """Return a header of a request, without looking through all of them."""
    value: bytes | None = request.scope["state"]["headers"].get(name.lower().encode())
    return None if value is None else value.decode("latin-1")


def _timeout(request: Request) -> float | None:
    """Return how many seconds a client waits, where it says so; raises `Malformed`."""
    for name, unit in ((TIMEOUT, 1.0), (_ENVOY, 0.001)):
        given = header(request, name)
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


class Files:
    """Where the files of requests come from: their bodies, or URLs where fetching is switched on."""

    def __init__(self, fetcher: Fetcher | None = None) -> None:
        self._fetcher = fetcher

    async def input(
        self,
        sent: Sent,
        service: Service,
        ticket: Ticket,
        wanted: Wanted,
        add: Callable[[int], None] = lambda size: None,
    ) -> Input | DataError:
        """Return a file as something to predict, or why it couldn't be had; `add` is told the bytes that are fetched.

        Raises `Malformed`, or a `Problem`.
        """
        if sent.wrong is not None:
            return DataError(sent.wrong, where=sent.where)
        if sent.url is None:
            return file_input(service.predictor, sent.content, sent.where, wanted)
        if self._fetcher is None:
            raise Malformed("fetching from addresses is switched off; send the picture itself as base64 in 'image'")
        try:
            async with asyncio.timeout(max(0.0, ticket.left)):
                content = await self._fetcher.fetch(sent.url)
        except TimeoutError as e:
            raise late() from e
        except DataError as e:
            return e
        add(len(content))
        return file_input(service.predictor, content, sent.where, wanted)


class _Watch:
    """Looks after one slow request: its body may take so many seconds, and its client may leave."""

    def __init__(self, request: Request, ticket: Ticket, body_seconds: float) -> None:
        self._request = request
        self._ticket = ticket
        self._body_seconds = body_seconds
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._looking: asyncio.Task[None] | None = None
        self._begun = self._body_there = self._too_slow = False
        self._later = self._loop.call_later(min(_SECONDS_UNTIL_WATCHED, body_seconds), self._begin)

    def body_is_there(self) -> None:
        """Let the client leave from now on."""
        self._body_there = True
        if self._begun:
            self._later.cancel()
            self._begin()

    def _begin(self) -> None:
        self._begun = True
        if self._body_there:
            self._looking = self._loop.create_task(self._look())
        else:
            left = max(0.0, self._body_seconds - _SECONDS_UNTIL_WATCHED)
            self._later = self._loop.call_later(left, self._end_body)

    def _end_body(self) -> None:
        self._too_slow = True
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._ticket.leave()

    def end(self, error: BaseException | None) -> None:
        """Stop looking; raises a `Problem` where the body was too slow."""
        self._later.cancel()
        if self._looking is not None:
            self._looking.cancel()
        ended = self._too_slow and isinstance(error, asyncio.CancelledError)
        if ended and self._task is not None and not self._task.uncancel():
            raise Problem(TOO_SLOW, f"the body didn't arrive within {self._body_seconds:g} s") from error


def as_json(value: Any, headers: dict[str, str] | None = None) -> Response:
    """Return a value as an answer in JSON."""
    return Response(json_bytes(value), headers=headers, media_type="application/json")


def named(request: Request, tracks: Tracks) -> Service | None:
    """Return the service of the version that a path names, None where it names none; raises a `Problem`."""
    return tracks.named(request.path_params["name"], request.path_params.get("version"))


def suited(
    request: Request,
    tracks: Tracks,
    service: Service,
    *,
    tensors: bool = False,
    labels: object = None,
    precision: object = None,
) -> Service:
    """Return who answers what a body asks: the champion where the challenger was drawn and can't."""
    if service is tracks.stable:
        return service
    return tracks.suited(request.scope["state"], service, tensors=tensors, labels=labels, precision=precision)
