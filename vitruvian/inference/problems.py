"""Errors as HTTP answers: problem details (RFC 9457) that also carry the Open Inference Protocol's `error`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"


class Kind(NamedTuple):
    """One kind of problem; `slug` is stable, clients may rely on it."""

    slug: str
    status: int
    title: str


MALFORMED = Kind("malformed-request", 400, "The request can't be read")
UNAUTHENTICATED = Kind("unauthenticated", 401, "Nobody is known to ask this")
FORBIDDEN = Kind("forbidden", 403, "This isn't allowed")
NOT_FOUND = Kind("not-found", 404, "There is nothing here")
WRONG_METHOD = Kind("wrong-method", 405, "This method isn't allowed here")
TOO_SLOW = Kind("body-too-slow", 408, "The body took too long to arrive")
HEAD_TOO_SLOW = Kind("head-too-slow", 408, "The request's head took too long to arrive")
TOO_LARGE = Kind("body-too-large", 413, "The body is too large")
UNSUPPORTED = Kind("unsupported-content", 415, "The body's type isn't supported")
UNUSABLE = Kind("unusable-input", 422, "The input can't be used")
BUSY = Kind("busy", 429, "Too many predictions are waiting")
RATE_LIMITED = Kind("rate-limited", 429, "Too many requests in too short a time")
LATE = Kind("no-time-left", 429, "There is no time left for an answer")
HEAD_TOO_LARGE = Kind("head-too-large", 431, "The request's line and headers are too large")
INTERNAL = Kind("internal", 500, "The server failed")
NOT_READY = Kind("not-ready", 503, "The server isn't ready")
OUT_OF_MEMORY = Kind("out-of-memory", 503, "There isn't enough memory for this input now")

_KINDS = {kind.status: kind for kind in (MALFORMED, NOT_FOUND, WRONG_METHOD, TOO_LARGE, UNSUPPORTED)}


class Problem(Exception):
    """An answer other than what was asked for."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> None:
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members
        super().__init__(f"{kind.slug}: {detail}")


def retry(kind: Kind, detail: str, seconds: int, **members: object) -> Problem:
    """Return a problem that goes away by itself."""
    return Problem(kind, detail, {"Retry-After": str(seconds)}, **members)


def kind_of(status: int) -> Kind:
    """Return the kind for a status code that has no cause of its own."""
    return _KINDS.get(status) or Kind(f"http-{status}", status, HTTPStatus(status).phrase)


def problem_response(problem: Problem, path: str, request_id: str) -> Response:
    """Return the problem as an answer to a request for `path`."""
    document = {
        **problem.members,
        "type": f"urn:vitruvian:problem:{problem.kind.slug}",
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.detail,
        "instance": quote(path[:200], safe="/:@+,;=~!$&'()*"),
        "request_id": request_id,
        "error": problem.detail,
    }
    return Response(json_bytes(document), problem.kind.status, problem.headers, PROBLEM_JSON)


def json_bytes(value: Any) -> bytes:
    """Return JSON; arrays of numpy are lists, and what isn't a finite number is null."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # Half of a surrogate pair, in a text that a client sent.
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
