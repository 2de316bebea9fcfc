"""The V1 protocol that KServe and TensorFlow Serving have: instances in, predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.errors import DataError
from vitruvian.inference.admission import Ticket
from vitruvian.inference.lanes import Input, Wanted
from vitruvian.inference.oip import all_predictions, tensor_inputs
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.problems import UNUSABLE, Problem
from vitruvian.inference.protocol import Malformed, read_json
from vitruvian.inference.routes.people import PRECISION
from vitruvian.inference.routes.taking import Files, as_json, header, named, suited, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks
from vitruvian.inference.uploads import sent_in_json

_WRAPPED = ("image_bytes", "image", "heatmap")
"""What an instance may hold its file in; TensorFlow Serving's habit is a name that ends in _bytes."""


class V1:
    """One method for each route."""

    def __init__(self, tracks: Tracks, files: Files) -> None:
        self.tracks = tracks
        self.files = files

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [
            Route("/v1/models/{name}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{name}", self.model),
            Route("/v1/models", self.models),
        ]

    async def models(self, request: Request) -> Response:
        """Answer KServe's clients and OpenAI's, who ask the same of one route."""
        info = self.tracks.stable.predictor.bundle.info
        model = {"id": info.name, "object": "model", "created": 0, "owned_by": "vitruvian"}
        return as_json({"models": [info.name], "object": "list", "data": [model]})

    async def model(self, request: Request) -> Response:
        service = named(request, self.tracks) or self.tracks.stable
        service.check_ready()
        return as_json({"name": service.predictor.bundle.info.name, "ready": True})

    async def predict(self, request: Request) -> Response:
        named(request, self.tracks)
        async with taken(request, self.tracks) as (drawn, ticket, body):
            document = read_json(body)
            precision = header(request, PRECISION) or document.get("precision")
            tensors = any(isinstance(each, list) for each in _instances(document))
            labels = document.get("labels")
            service = suited(request, self.tracks, drawn, tensors=tensors, labels=labels, precision=precision)
            found = await predictions(document, service, ticket, self.files, precision)
        return as_json({"predictions": found})


async def predictions(
    document: Mapping[str, Any], service: Service, ticket: Ticket, files: Files, precision: object = None
) -> list[dict[str, Any]]:
    """Return an answer for each of a document's instances.

    Raises `Malformed` and a `Problem` for what can't be asked or answered.
    """
    instances = _instances(document)
    if len(instances) > service.settings.max_inputs:
        raise Problem(UNUSABLE, f"{len(instances)} instances are too many; /limits tells the most")
    labels, templates = document.get("labels"), document.get("templates")
    wanted = await service.wanted(labels, templates, precision or document.get("precision"), ticket)
    inputs = [await _input(one, f"instances[{at}]", service, ticket, files, wanted) for at, one in enumerate(instances)]
    return [_told(prediction) for prediction in all_predictions(await service.predict(inputs, ticket))]


def _instances(document: Mapping[str, Any]) -> list[Any]:
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise Malformed("'instances' is not a list of one or more")
    return instances


async def _input(instance: object, where: str, service: Service, ticket: Ticket, files: Files, wanted: Wanted) -> Input:
    """Return one instance as something to predict: nested numbers, or a file; raises `Malformed`, `DataError`."""
    if isinstance(instance, dict) and len(instance) == 1 and next(iter(instance)) in _WRAPPED:
        (instance,) = instance.values()
    if isinstance(instance, list):
        try:
            tensor = np.array(instance, np.float32)
        except (ValueError, TypeError, OverflowError) as e:
            raise Malformed(f"{where} is no tensor of numbers") from e
        return tensor_inputs(service.predictor, tensor[None], [where], wanted)[0]
    made = await files.input(sent_in_json(instance, where), service, ticket, wanted)
    if isinstance(made, DataError):
        raise made
    return made


def _told(prediction: Prediction) -> dict[str, Any]:
    shares = dict(zip(prediction.labels, prediction.probabilities.tolist(), strict=True))
    return {"label": prediction.label, "confidence": prediction.confidence, "probabilities": shares}
