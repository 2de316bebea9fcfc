"""The Open Inference Protocol, version 2, over REST."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.inference import oip
from vitruvian.inference.protocol import HEADER_LENGTH, read_header_length, read_request, write_response
from vitruvian.inference.routes.people import PRECISION, wanted_precision
from vitruvian.inference.routes.taking import as_json, header, taken
from vitruvian.inference.service import Service
from vitruvian.inference.tracks import Tracks


class V2:
    """One method for each route."""

    def __init__(self, tracks: Tracks) -> None:
        self.tracks = tracks

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        model = "/v2/models/{name}"
        versioned = f"{model}/versions/{{version}}"
        return [
            *(Route(f"{base}/infer", self.infer, methods=["POST"]) for base in (model, versioned)),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2", self.server),
            *(Route(base, self.model) for base in (model, versioned)),
            *(Route(f"{base}/ready", self.model_ready) for base in (model, versioned)),
        ]

    async def server(self, request: Request) -> Response:
        return as_json(oip.server_metadata())

    async def live(self, request: Request) -> Response:
        return as_json({"live": True})

    async def ready(self, request: Request) -> Response:
        self.tracks.stable.check_ready()
        return as_json({"ready": True})

    async def model(self, request: Request) -> Response:
        bundle = self._named(request).predictor.bundle
        return as_json({**oip.model_metadata(bundle), "versions": self.tracks.versions})

    async def model_ready(self, request: Request) -> Response:
        service = self._named(request)
        service.check_ready()
        return as_json({"name": service.predictor.bundle.info.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        named = self.tracks.named(request.path_params["name"], request.path_params.get("version"))
        header_length = read_header_length(header(request, HEADER_LENGTH))
        async with taken(request, self.tracks, named) as (service, ticket, body):
            asked = read_request(body, header_length)
            wanted = wanted_precision(service, header(request, PRECISION))
            inputs = oip.inputs(asked, service.predictor, service.settings.max_inputs, wanted)
            answers = oip.outputs(await service.predict(inputs, ticket))
        info = service.predictor.bundle.info
        content, json_length = write_response(asked, info.name, info.version, answers)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER_LENGTH: str(json_length)}, media_type="application/octet-stream")

    def _named(self, request: Request) -> Service:
        named = self.tracks.named(request.path_params["name"], request.path_params.get("version"))
        return named or self.tracks.stable
