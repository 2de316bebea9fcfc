"""The Open Inference Protocol, version 2, over REST."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.inference import oip, triton
from vitruvian.inference.labels import MOST_LABELS
from vitruvian.inference.protocol import HEADER_LENGTH, read_header_length, read_request, write_response
from vitruvian.inference.routes.people import PRECISION
from vitruvian.inference.routes.taking import as_json, header, named, suited, taken
from vitruvian.inference.tracks import Tracks, wanted
from vitruvian.inference.uploads import in_turn


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
            *self.health_routes(),
            Route("/v2", self.server),
            Route("/v2/models", self.models),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/models/stats", self.statistics),
            *(Route(base, self.model) for base in (model, versioned)),
            *(Route(f"{base}/ready", self.model_ready) for base in (model, versioned)),
            *(Route(f"{base}/stats", self.statistics) for base in (model, versioned)),
            *(Route(f"{base}/config", self.configuration) for base in (model, versioned)),
        ]

    def health_routes(self) -> list[Route]:
        """Return the routes of probes."""
        return [Route("/v2/health/live", self.live), Route("/v2/health/ready", self.ready)]

    async def server(self, request: Request) -> Response:
        return as_json(oip.server_metadata())

    async def models(self, request: Request) -> Response:
        return as_json({"models": [self.tracks.stable.predictor.bundle.info.name]})

    async def index(self, request: Request) -> Response:
        return as_json(self.tracks.indexed())

    async def live(self, request: Request) -> Response:
        return as_json({"live": True})

    async def ready(self, request: Request) -> Response:
        self.tracks.stable.check_ready()
        return as_json({"ready": True})

    async def model(self, request: Request) -> Response:
        service = named(request, self.tracks) or self.tracks.stable
        return as_json({**oip.model_metadata(service.predictor.bundle), "versions": self.tracks.versions})

    async def model_ready(self, request: Request) -> Response:
        service = named(request, self.tracks) or self.tracks.stable
        service.check_ready()
        return as_json({"name": service.predictor.bundle.info.name, "ready": True})

    async def statistics(self, request: Request) -> Response:
        version = named(request, self.tracks) if "name" in request.path_params else None
        return as_json({"model_stats": self.tracks.statistics(version)})

    async def configuration(self, request: Request) -> Response:
        service = named(request, self.tracks) or self.tracks.stable
        return as_json(triton.configuration(service.predictor.bundle, service.settings.max_inputs))

    async def infer(self, request: Request) -> Response:
        version = named(request, self.tracks)
        header_length = read_header_length(header(request, HEADER_LENGTH))
        async with taken(request, self.tracks, version) as (drawn, ticket, body, _):
            most = max(MOST_LABELS, drawn.settings.max_inputs)
            # What is binary is only looked at, not read.
            size = len(body) if header_length is None else min(header_length, len(body))
            asked, labels, templates = oip.take_texts(
                await in_turn(size, lambda: read_request(body, header_length, most), ticket)
            )
            ticket.limit(oip.timeout(asked))
            precision = header(request, PRECISION) or asked.parameters.get("precision")
            tensors = any(tensor.datatype == "FP32" for tensor in asked.inputs)
            service = suited(request, self.tracks, drawn, tensors=tensors, labels=labels, precision=precision)
            what = await wanted(request.scope["state"], service, labels, templates, precision, ticket)
            inputs = oip.inputs(asked, service.predictor, service.settings.max_inputs, what)
            answers = oip.outputs(await service.predict(inputs, ticket))
        info = service.predictor.bundle.info
        content, json_length = write_response(asked, info.name, info.version, answers)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER_LENGTH: str(json_length)}, media_type="application/octet-stream")
