"""The V1 protocol that KServe and TensorFlow Serving have: instances in, predictions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.errors import DataError
from vitruvian.inference.admission import Ticket
from vitruvian.inference.lanes import Input
from vitruvian.inference.oip import all_predictions, tensor_inputs
from vitruvian.inference.predictor import Prediction
from vitruvian.inference.problems import UNUSABLE, Problem
from vitruvian.inference.protocol import Malformed, read_json
from vitruvian.inference.routes.people import PRECISION
from vitruvian.inference.routes.taking import Files, as_json, header, named, suited, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks, tell_exact
from vitruvian.inference.uploads import in_turn, sent_in_json

_KEPT = ("instances", "labels", "templates", "precision")
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
        async with taken(request, self.tracks) as (drawn, ticket, body, fetched):
            document = await in_turn(len(body), lambda: _read(body, drawn.settings.max_inputs), ticket)
            precision = header(request, PRECISION) or document.get("precision")
            tensors = any(isinstance(each, np.ndarray) for each in document["instances"])
            labels = document.get("labels")
            service = suited(request, self.tracks, drawn, tensors=tensors, labels=labels, precision=precision)
            found = await predictions(document, service, ticket, self.files, precision, fetched.add)
            if precision is not None:
                tell_exact(request.scope["state"], service)
        return as_json({"predictions": found})


async def predictions(
    document: Mapping[str, Any],
    service: Service,
    ticket: Ticket,
    files: Files,
    precision: object = None,
    add: Callable[[int], None] = lambda size: None,
) -> list[dict[str, Any]]:
    """Return an answer for each of a document's instances; `add` is told the bytes that are fetched.

    Raises `Malformed` and a `Problem` for what can't be asked or answered.
    """
    instances = _instances(document, service.settings.max_inputs)
    labels, templates = document.get("labels"), document.get("templates")
    wanted = await service.wanted(labels, templates, precision or document.get("precision"), ticket)
    inputs: list[Input] = []
    for at, instance in enumerate(instances):
        where = f"instances[{at}]"
        given = _unwrapped(instance, where)
        if isinstance(given, np.ndarray):
            inputs += tensor_inputs(service.predictor, given[None], [where], wanted)
            continue
        made = await files.input(sent_in_json(given, where), service, ticket, wanted, add)
        if isinstance(made, DataError):
            raise made
        inputs.append(made)
    return [_told(prediction) for prediction in all_predictions(await service.predict(inputs, ticket))]


def _read(body: bytes, most: int) -> dict[str, Any]:
    """Return what is needed of a body, its tensors as arrays: lists take ten times the bytes of the body.

    Raises `Malformed`, and a `Problem` for more than `most` instances.
    """
    document = read_json(body, numbers=True)
    instances = [_unwrapped(each, f"instances[{at}]") for at, each in enumerate(_instances(document, most))]
    return {name: document[name] for name in _KEPT if name in document} | {"instances": instances}


def _instances(document: Mapping[str, Any], most: int) -> list[Any]:
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise Malformed("'instances' is not a list of one or more")
    if len(instances) > most:
        raise Problem(UNUSABLE, f"{len(instances)} instances are too many; /limits tells the most")
    return instances


def _unwrapped(instance: Any, where: str) -> NDArray[np.float32] | Any:
    """Return an instance's tensor, or what its file is sent in; raises `Malformed`."""
    if isinstance(instance, dict) and len(instance) == 1 and next(iter(instance)) in _WRAPPED:
        (instance,) = instance.values()
    if not isinstance(instance, list):
        return instance
    try:
        return np.array(instance, np.float32)
    except (ValueError, TypeError, OverflowError) as e:
        raise Malformed(f"{where} is no tensor of numbers") from e


def _told(prediction: Prediction) -> dict[str, Any]:
    shares = dict(zip(prediction.labels, prediction.probabilities.tolist(), strict=True))
    return {"label": prediction.label, "confidence": prediction.confidence, "probabilities": shares}
