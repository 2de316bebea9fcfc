"""The HTTP interface of a predictor as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitruvian.bundle import Bundle
from vitruvian.errors import DataError
from vitruvian.inference import oip
from vitruvian.inference.page import page
from vitruvian.inference.predictor import Prediction, Predictor
from vitruvian.inference.problems import (
    INTERNAL,
    MALFORMED,
    NOT_FOUND,
    OUT_OF_MEMORY,
    UNUSABLE,
    Problem,
    json_bytes,
    kind_of,
    problem_response,
    retry,
)
from vitruvian.inference.protocol import (
    HEADER_LENGTH,
    Malformed,
    read_header_length,
    read_request,
    write_response,
)
from vitruvian.inference.service import Service, Settings
from vitruvian.inference.startup import Startup
from vitruvian.inference.uploads import file_in_body, file_in_json, read_body

_log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CLIENT_GONE = 499


def create_app(
    predictor: Predictor,
    settings: Settings | None = None,
    *,
    startup: Startup | None = None,
    settled: Callable[[], None] = lambda: None,
    ready_first: bool = False,
) -> Starlette:
    """Return the application that answers for one predictor.

    The golden example is predicted when the application starts; `settled` is called afterwards in a thread of its own,
    whatever came of it. With `ready_first` the application's start ends only then, and fails with the `BundleError` of
    a wrong answer: for those who hold an application that has started for ready. The `Service` behind the application
    is its `state.service`.
    """
    service = Service(predictor, settings or Settings(), startup or Startup())
    handlers = _Handlers(service)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def start() -> None:
            await service.start()
            await asyncio.to_thread(settled)

        starting = asyncio.create_task(start())
        if ready_first:
            await starting
            if service.failure is not None:
                raise service.failure
        yield
        service.drain()
        service.close()
        with suppress(asyncio.CancelledError):
            await starting

    app = Starlette(
        routes=handlers.routes(),
        lifespan=lifespan,
        middleware=[Middleware(_Envelope, service=service)],
        exception_handlers=dict.fromkeys((Problem, HTTPException, Malformed, DataError, MemoryError), _answer_error),
    )
    app.state.service = service
    return app


class _Handlers:
    """One method for each route."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.predictor = service.predictor
        self.info = service.predictor.bundle.info
        self._about = _about(service.predictor.bundle, service.settings)

    def routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        versioned = f"{model}/versions/{{version}}"
        return [
            Route("/", self.home),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/predict/image", self.predict_image, methods=["POST"]),
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(base, self.model) for base in (model, versioned)),
            *(Route(f"{base}/ready", self.model_ready) for base in (model, versioned)),
            *(Route(f"{base}/infer", self.infer, methods=["POST"]) for base in (model, versioned)),
        ]

    async def home(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            html, policy = page()
            headers = {
                "Content-Security-Policy": policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",
                "Vary": "Accept",
            }
            return Response(html, headers=headers, media_type="text/html")
        return _json({**self._about, "state": self.service.state}, {"Vary": "Accept"})

    async def health(self, request: Request) -> Response:
        self.service.check_ready()
        return _json({"status": "ok", "classifier": self.info.name, "version": self.info.version})

    async def metrics(self, request: Request) -> Response:
        content, content_type = self.service.metrics.expose(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    async def predict_image(self, request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        return await self._classify(request, lambda body: file_in_body(content_type, body))

    async def predict(self, request: Request) -> Response:
        return await self._classify(request, file_in_json)

    async def _classify(self, request: Request, find: Callable[[bytes], tuple[bytes, str]]) -> Response:
        with self.service.accepted():
            body = await read_body(request, self.service.settings)

            def job() -> Prediction:
                metrics = self.service.metrics
                (answer,) = self.predictor.predict_files([find(body)])
                if isinstance(answer, DataError):
                    raise answer
                metrics.predicted([answer])
                return answer

            prediction = await self.service.run(job)
        ranked = prediction.ranked()
        return _json(
            {
                "classifier": self.info.name,
                "version": self.info.version,
                "label": prediction.label,
                "confidence": round(prediction.confidence, 6),
                "predictions": [{"class_name": label, "score": round(score, 6)} for label, score in ranked],
                "request_id": request.state.request_id,
            }
        )

    async def server(self, request: Request) -> Response:
        return _json(oip.server_metadata())

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        self.service.check_ready()
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        self._check_model(request)
        return _json(oip.model_metadata(self.predictor.bundle))

    async def model_ready(self, request: Request) -> Response:
        self._check_model(request)
        self.service.check_ready()
        return _json({"name": self.info.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        self._check_model(request)
        header_length = read_header_length(request.headers.get(HEADER_LENGTH))
        with self.service.accepted():
            body = await read_body(request, self.service.settings)

            def job() -> tuple[bytes, int | None]:
                asked = read_request(body, header_length)
                limit = self.service.settings.max_inputs
                answers = oip.infer(self.predictor, asked, self.service.metrics, limit)
                return write_response(asked, self.info.name, self.info.version, answers)

            content, json_length = await self.service.run(job)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER_LENGTH: str(json_length)}, media_type="application/octet-stream")

    def _check_model(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", self.info.version)
        if name != self.info.name:
            raise Problem(NOT_FOUND, f"there is no model '{name[:100]}' here, but '{self.info.name}'")
        if version != self.info.version:
            raise Problem(NOT_FOUND, f"there is no version '{version[:100]}' here, but '{self.info.version}'")


class _Envelope:
    """Around every request: an id, a count, a duration, and a problem document for what nobody foresaw."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        code = 0

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            code = _CLIENT_GONE
        except Exception:
            _log.exception("request %s failed", request_id)
            if code:
                raise
            problem = Problem(INTERNAL, "this is the server's fault; its log has the details")
            await problem_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            self.metrics.in_flight.dec()
            route = scope.get("route")
            template = route.path_format if isinstance(route, Route) else "other"
            self.metrics.answered(template, code, time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
            break
    return uuid.uuid4().hex


async def _answer_error(request: Request, error: Exception) -> Response:
    return problem_response(_problem(error), request.url.path, request.state.request_id)


def _problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(kind_of(error.status_code), error.detail, error.headers)
    if isinstance(error, Malformed):
        return Problem(MALFORMED, str(error))
    if isinstance(error, DataError):
        return Problem(UNUSABLE, error.what if error.where is None else f"{error.where}: {error.what}")
    return retry(OUT_OF_MEMORY, "send a smaller input, or try again later", 5)


def _json(value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(value), headers=headers, media_type="application/json")


def _about(bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """Return what `GET /` says of a bundle; numbers that aren't finite become null."""
    info = json.loads(bundle.info.model_dump_json(exclude={"golden", "format", "spec"}))
    preprocess = bundle.preprocess
    return {
        "service": "vitruvian",
        "service_version": oip.VERSION,
        "classifier": info.pop("name"),
        **info,
        "digest": bundle.digest,
        "input": {
            "kind": preprocess.kind,
            "suffixes": preprocess.suffixes,
            "shape": preprocess.tensor_shape,
            "max_bytes": settings.max_body,
        },
    }
