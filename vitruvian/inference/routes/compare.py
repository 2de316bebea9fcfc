"""Champion and challenger beside each other: who they are, how far they agree, and both answers to one input."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.inference.admission import Ticket
from vitruvian.inference.agreement import difference
from vitruvian.inference.oip import all_predictions, file_input
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.routes.people import said_by, told
from vitruvian.inference.routes.taking import as_json, header, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks
from vitruvian.inference.uploads import file_in_body, file_in_json


class Compare:
    """One method for each route."""

    def __init__(self, tracks: Tracks) -> None:
        self.tracks = tracks

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [Route("/tracks", self.about), Route("/compare", self.compare, methods=["POST"])]

    async def about(self, request: Request) -> Response:
        return as_json(self.tracks.told())

    async def compare(self, request: Request) -> Response:
        """Answer one input by both versions, one after the other: each has the CPUs to itself for its seconds."""
        challenger = self.tracks.challenger
        async with taken(request, self.tracks, self.tracks.stable) as (champion, ticket, body):
            self.tracks.claim(challenger, request.state.headers, ticket.left)
            content_type = header(request, "content-type") or ""
            as_text = content_type.partition(";")[0].strip().lower() == "application/json"
            content, where = file_in_json(body) if as_text else file_in_body(content_type, body)
            mine, one = await _answer(champion, content, where, ticket)
            theirs, other = await _answer(challenger, content, where, ticket)
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


async def _answer(service: Service, content: bytes, where: str, ticket: Ticket) -> tuple[dict[str, Any], Prediction]:
    began = time.monotonic()
    inputs = [file_input(service.predictor, content, where)]
    (prediction,) = all_predictions(await service.predict(inputs, ticket))
    seconds = round(time.monotonic() - began, 6)
    return {**said_by(service), **told(prediction), "seconds": seconds}, prediction
