"""The routes that people write by hand: pictures in, labels with scores out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.errors import DataError
from vitruvian.inference.admission import Ticket
from vitruvian.inference.lanes import Answer, Input
from vitruvian.inference.oip import all_predictions
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.problems import UNUSABLE
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.routes.taking import Files, Taken, as_json, header, suited, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks, wanted
from vitruvian.inference.uploads import Asked, asked_in_batch, asked_in_body, asked_in_json

PRECISION = "x-precision"
"""fp32 for an answer in full precision."""


class People:
    """One method for each route."""

    def __init__(self, tracks: Tracks, files: Files) -> None:
        self.tracks = tracks
        self.files = files

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [
            Route("/predict/image", self.predict_image, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/predict/batch", self.predict_batch, methods=["POST"]),
        ]

    async def predict_image(self, request: Request) -> Response:
        content_type = header(request, "content-type") or ""
        return await self._one(request, partial(asked_in_body, content_type))

    async def predict(self, request: Request) -> Response:
        content_type = header(request, "content-type") or ""
        return await self._one(request, partial(asked_in_json, content_type))

    async def predict_batch(self, request: Request) -> Response:
        content_type = header(request, "content-type") or ""
        async with taken(request, self.tracks) as held:
            read = asked_in_batch(content_type, held.body, held.service.settings.max_inputs, held.ticket)
            asked = (await read).or_else(query(request))
            top = checked_top(asked.top_k)
            service, answers = await self._answers(request, held, asked, several=True)
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, DataError):
                raise answer
        results = [
            {"index": at, "name": sent.where, **_told_or_why(answer, top)}
            for at, (sent, answer) in enumerate(zip(asked.files, answers, strict=True))
        ]
        return as_json({**said_by(service), "results": results, "request_id": request.state.request_id})

    async def _one(self, request: Request, read: Callable[[bytes, Ticket], Coroutine[Any, Any, Asked]]) -> Response:
        async with taken(request, self.tracks) as held:
            asked = (await read(held.body, held.ticket)).or_else(query(request))
            top = checked_top(asked.top_k)
            service, answers = await self._answers(request, held, asked)
            (prediction,) = all_predictions(answers)
        return as_json({**said_by(service), **told(prediction, top), "request_id": request.state.request_id})

    async def _answers(
        self, request: Request, held: Taken, asked: Asked, *, several: bool = False
    ) -> tuple[Service, list[Answer]]:
        ticket = held.ticket
        precision = header(request, PRECISION) if asked.precision is None else asked.precision
        service = suited(request, self.tracks, held.service, labels=asked.labels, precision=precision)
        state = request.scope["state"]
        what = await wanted(state, service, asked.labels, asked.templates, precision, ticket)
        found: list[Input | DataError] = []
        for sent in asked.files:
            try:
                found.append(await self.files.input(sent, service, ticket, what, held.fetched.add))
            except Malformed as e:
                if not several:
                    raise
                found.append(DataError(str(e), where=sent.where))
        good = [item for item in found if isinstance(item, Input)]
        if not several and isinstance(found[0], DataError):
            raise found[0]
        answers = iter(await service.predict(good, ticket))
        return service, [next(answers) if isinstance(item, Input) else item for item in found]


def said_by(service: Service) -> dict[str, Any]:
    """Return who answers."""
    info = service.predictor.bundle.info
    return {"classifier": info.name, "version": info.version, "track": service.settings.track}


def told(prediction: Prediction, top: int | None = None) -> dict[str, Any]:
    """Return a prediction as people get it."""
    return {
        "label": prediction.label,
        "confidence": round(prediction.confidence, 6),
        "predictions": [{"class_name": label, "score": round(score, 6)} for label, score in prediction.ranked()[:top]],
    }


def _told_or_why(answer: Answer, top: int | None) -> dict[str, Any]:
    if isinstance(answer, Prediction):
        return told(answer, top)
    assert isinstance(answer, DataError)
    return {"error": {"title": UNUSABLE.title, "detail": answer.what}}


def query(request: Request) -> Mapping[str, str]:
    """Return a request's query, which hardly any has."""
    return request.query_params if request.scope["query_string"] else {}


def checked_top(value: object) -> int | None:
    """Return how many labels are wanted, None for all; raises `Malformed`."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Malformed("'top_k' is not a whole number above 0")
    return value
