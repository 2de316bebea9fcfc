"""The routes that people write by hand: a picture in, labels with scores out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.inference.lanes import USUAL, Wanted
from vitruvian.inference.oip import all_predictions, file_input
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.problems import UNUSABLE, Problem
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.routes.taking import as_json, header, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks
from vitruvian.inference.uploads import file_in_body, file_in_json

PRECISION = "x-precision"
"""fp32 for an answer in full precision."""


class People:
    """One method for each route."""

    def __init__(self, tracks: Tracks) -> None:
        self.tracks = tracks

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [
            Route("/predict/image", self.predict_image, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
        ]

    async def predict_image(self, request: Request) -> Response:
        content_type = header(request, "content-type") or ""
        return await self._classify(request, lambda body: file_in_body(content_type, body))

    async def predict(self, request: Request) -> Response:
        return await self._classify(request, file_in_json)

    async def _classify(self, request: Request, find: Callable[[bytes], tuple[bytes, str]]) -> Response:
        async with taken(request, self.tracks) as (service, ticket, body):
            content, where = find(body)
            wanted = wanted_precision(service, header(request, PRECISION))
            inputs = [file_input(service.predictor, content, where, wanted)]
            (prediction,) = all_predictions(await service.predict(inputs, ticket))
        return as_json({**said_by(service), **told(prediction), "request_id": request.state.request_id})


def said_by(service: Service) -> dict[str, Any]:
    """Return who answers."""
    info = service.predictor.bundle.info
    return {"classifier": info.name, "version": info.version, "track": service.settings.track}


def told(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as people get it."""
    return {
        "label": prediction.label,
        "confidence": round(prediction.confidence, 6),
        "predictions": [{"class_name": label, "score": round(score, 6)} for label, score in prediction.ranked()],
    }


_EXACT = Wanted(exact=True)


def wanted_precision(service: Service, asked: object) -> Wanted:
    """Return what a request for `fp32`, or for nothing, means; raises `Malformed`, or a `Problem` where it can't be."""
    if asked is None:
        return USUAL
    if asked != "fp32":
        raise Malformed("the precision that can be asked for is fp32; without it, it is the one that is served")
    if not service.predictor.has_exact:
        raise Problem(UNUSABLE, "this bundle has no export in full precision")
    return _EXACT
