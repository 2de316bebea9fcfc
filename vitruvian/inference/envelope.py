"""What is around every request: an id, a count, a duration, and a problem document for what nobody foresaw."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitruvian.errors import DataError
from vitruvian.inference.problems import (
    INTERNAL,
    MALFORMED,
    NOT_FOUND,
    OUT_OF_MEMORY,
    UNUSABLE,
    WRONG_METHOD,
    Problem,
    kind_of,
    problem_response,
    retry,
)
from vitruvian.inference.protocol import Malformed
from vitruvian.inference.service import Service

_log = logging.getLogger(__name__)
# Whoever sends a form that isn't one is told so; the log is the operator's.
logging.getLogger("python_multipart").setLevel(logging.ERROR)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_CONTROL = "no path here has control characters"
_VERB = re.compile(r"/v1/models/[^/]+:[^/]*")
_CLIENT_GONE = 499
_KEPT_OUT = (401, 403, 429)
_CLOSE = (b"connection", b"close")


class Envelope:
    """The outermost part of the application; requests that no service has taken are counted for the stable one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"], state["headers"] = request_id, headers
        started = time.perf_counter()
        code, counted = 0, False

        def count() -> None:
            nonlocal counted
            counted = True
            route = scope.get("route")
            if route is None and code in _KEPT_OUT:
                # The guard is asked before the routes are.
                route = next(_routes_to(scope), None)
            template = route.path_format if isinstance(route, Route) else "other"
            service: Service = state.get("service", self.service)
            service.metrics.answered(template, code, time.perf_counter() - started)

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                said = state.get("said", ())
                closing = [_CLOSE] if self.service.ends else []
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), *said, *closing]
            elif not counted and not message.get("more_body", False):
                # Before its last byte leaves: a process that is killed then has counted what its client got.
                count()
            await send(message)

        self.service.metrics.in_flight.inc()
        try:
            app = self.app
            if _CONTROL.search(scope["path"]):
                # A pattern's $ also matches before a newline that is the last.
                app = problem_response(Problem(NOT_FOUND, _NO_CONTROL), scope["path"], request_id)
            await app(scope, receive, send_with_id)
        except ClientDisconnect:
            code = _CLIENT_GONE
        except Exception:
            _log.exception("request %s failed", request_id)
            if code:
                raise
            problem = Problem(INTERNAL, "this is the server's fault; its log has the details")
            await problem_response(problem, scope["path"], request_id)(scope, receive, send_with_id)
        finally:
            service: Service = state.get("service", self.service)
            service.metrics.in_flight.dec()
            if not counted:
                count()


def _request_id(given: bytes) -> str:
    if _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    # Unlike uuid4 this asks the kernel for nothing.
    return f"{random.getrandbits(128):032x}"


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the problem document of an error that a handler raised."""
    problem = problem_of(error)
    if isinstance(error, HTTPException) and problem.kind in (NOT_FOUND, WRONG_METHOD):
        problem.detail = _what_there_is(request.scope)
    return problem_response(problem, request.scope["path"], request.state.request_id)


def _what_there_is(scope: Scope) -> str:
    """Return what somebody can do who asked for what isn't there."""
    path: str = scope["path"]
    if _VERB.fullmatch(path):
        return "the only verb of a model is predict: POST /v1/models/NAME:predict"
    methods = sorted({method for route in _routes_to(scope) for method in route.methods or ()} - {"HEAD"})
    if methods:
        return f"send {' or '.join(methods)}"
    if path.endswith("/") and any(_routes_to({**scope, "path": path.rstrip("/")})):
        return f"leave out the last slash: {path.rstrip('/')[:200]}"
    paths = [route.path for route in scope["app"].routes if isinstance(route, Route)]
    if "/openapi.json" in paths:
        return "no route has this path; GET /openapi.json or /docs lists them all"
    return f"here there are {', '.join(paths)}"


def _routes_to(scope: Scope) -> Iterator[Route]:
    """Yield the routes that a path has, those for other methods included."""
    for route in scope["app"].routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            yield route


FORESEEN = (Problem, HTTPException, Malformed, DataError, MemoryError)
"""What handlers may raise."""


def problem_of(error: Exception) -> Problem:
    """Return the problem that one of the foreseen errors is."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(kind_of(error.status_code), error.detail, error.headers)
    if isinstance(error, Malformed):
        return Problem(MALFORMED, str(error))
    if isinstance(error, DataError):
        return Problem(UNUSABLE, error.what if error.where is None else f"{error.where}: {error.what}")
    return retry(OUT_OF_MEMORY, "send a smaller input, or try again later", 5)
