"""Champion and challenger beside each other: who they are, how far they agree, and both answers to one input."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.errors import DataError
from vitruvian.inference.agreement import difference
from vitruvian.inference.oip import all_predictions
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.routes.people import checked_top, query, said_by, told
from vitruvian.inference.routes.taking import Files, Taken, as_json, header, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks, tell_exact
from vitruvian.inference.uploads import Asked, Sent, asked_in_body, asked_in_json, kind_of_content


class Compare:
    """One method for each route."""

    def __init__(self, tracks: Tracks, files: Files) -> None:
        self.tracks = tracks
        self.files = files

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [Route("/tracks", self.about), Route("/compare", self.compare, methods=["POST"])]

    async def about(self, request: Request) -> Response:
        return as_json(self.tracks.told())

    async def compare(self, request: Request) -> Response:
        """Answer one input by both versions, one after the other: neither takes CPUs from the other's seconds."""
        challenger = self.tracks.challenger
        async with taken(request, self.tracks, self.tracks.stable) as held:
            champion, ticket, body, _ = held
            self.tracks.claim(challenger, request.state.headers, ticket.left)
            content_type = header(request, "content-type") or ""
            read = asked_in_json if kind_of_content(content_type) == "application/json" else asked_in_body
            asked = (await read(content_type, body, ticket)).or_else(query(request))
            mine, one, content = await self._answer(champion, asked, asked.files[0], held)
            # A URL is fetched once.
            theirs, other, _ = await self._answer(challenger, asked, Sent(asked.files[0].where, content), held)
            if asked.precision is not None:
                tell_exact(request.scope["state"], champion)
        return as_json(
            {
                "classifier": champion.predictor.bundle.info.name,
                "stable": mine,
                "canary": theirs,
                "same": one.label == other.label,
                "difference": round(difference(one, other), 6),
                "request_id": request.state.request_id,
            }
        )

    async def _answer(
        self, service: Service, asked: Asked, sent: Sent, held: Taken
    ) -> tuple[dict[str, Any], Prediction, bytes]:
        """Return an answer as people get it and as it is, and the file that it is to."""
        ticket, top = held.ticket, checked_top(asked.top_k)
        wanted = await service.wanted(asked.labels, asked.templates, asked.precision, ticket)
        found = await self.files.input(sent, service, ticket, wanted, held.fetched.add)
        if isinstance(found, DataError):
            raise found
        began = time.monotonic()
        (prediction,) = all_predictions(await service.predict([found], ticket))
        seconds = round(time.monotonic() - began, 6)
        return {**said_by(service), **told(prediction, top), "seconds": seconds}, prediction, found.content or b""
