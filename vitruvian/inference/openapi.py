"""The description of all routes in OpenAPI 3.1: what each takes, and what it answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vitruvian.bundle import Bundle
from vitruvian.inference.oip import VERSION
from vitruvian.inference.problems import PROBLEM_JSON

Schema = dict[str, Any]

_JSON = "application/json"
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_OBJECT: Schema = {"type": "object"}
_TEXTS: Schema = {"type": "array", "items": _TEXT, "minItems": 1}
_FILE: Schema = {"type": "string", "format": "binary", "description": "the file"}
_BASE64: Schema = {"type": "string", "description": "base64, or a data: URL"}
_PART = {
    "predict": "Pictures in, labels out",
    "compare": "Champion and challenger",
    "v2": "Open Inference Protocol v2",
    "v1": "V1 and OpenAI",
    "server": "The server and its model",
}
_TOOK_ON = (400, 404, 408, 413, 415, 422, 429, 503)
"""What everything that predicts may answer besides."""


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM: Schema = {"description": "A problem (RFC 9457)", "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}


def document(bundle: Bundle, routed: Collection[str]) -> Schema:
    """Return the document for a server of a bundle that has these routes."""
    more = _options(bundle)
    paths = {path: item for path, item in _paths(bundle, more).items() if path in routed}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{bundle.info.name}, served by Vitruvian",
            "version": VERSION,
            "description": f"A {bundle.info.architecture} that tells {len(bundle.info.labels)} classes apart: "
            f"{', '.join(bundle.info.labels[:50])}{', …' if len(bundle.info.labels) > 50 else ''}. "
            "The same input gets equal answers through all routes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Relative: the server may lie below a path of another.
        "servers": [{"url": "."}],
        "tags": [{"name": name} for name in _PART.values()],
        # Whether one is needed is the operator's choice.
        "security": [{}, {"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(bundle),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _paths(bundle: Bundle, more: Schema) -> dict[str, Schema]:
    kind = bundle.preprocess.kind
    one = {"oneOf": [_only({name: schema} | more) for name, schema in {"image": _BASE64, "url": _TEXT}.items()]}
    if kind == "heatmap":
        one["oneOf"].append(_only({"heatmap": _BASE64} | more))
    form = _only({"file": _FILE} | more)
    upload = {"multipart/form-data": form, "application/octet-stream": _FILE}
    if kind == "image":
        upload |= {"image/*": _FILE}
    by_address = _only({"url": _TEXT})
    several = {
        "multipart/form-data": _only({"files": {"type": "array", "items": _FILE}} | more),
        _JSON: _only({"images": {"type": "array", "items": {"oneOf": [_BASE64, by_address]}}} | more),
    }
    precise = [_header("X-Precision", "fp32 for an answer in full precision", {"enum": ["fp32"]}), *_who_answers()]
    in_query = [_parameter("query", name, **more[name]) for name in ("top_k", "precision")]
    asked = [*precise, *in_query]
    described = {
        "/predict/image": _post("predict", "Classify a file", _ref("Prediction"), upload, asked),
        "/predict": _post("predict", "Classify a file in JSON", _ref("Prediction"), {_JSON: one}, asked),
        "/predict/batch": _post("predict", "Classify several files", _ref("Predictions"), several, asked),
        "/compare": _post(
            "compare",
            "Have both versions answer one file",
            _ref("Comparison"),
            {**upload, _JSON: one},
            in_query,
            missing=True,
        ),
        "/tracks": _get("compare", "Both versions, their state and how far they agree", _OBJECT),
        "/v1/models": _get("v1", "The models", _OBJECT),
        "/v1/models/{name}": _get("v1", "Whether a model is ready", _OBJECT, ready=True),
        "/v1/models/{name}:predict": _post(
            "v1",
            "Classify instances",
            _object({"predictions": {"type": "array", "items": _OBJECT}}),
            {_JSON: _object({"instances": {"type": "array", "minItems": 1}} | more)},
            precise,
        ),
        "/v1/embeddings": _post(
            "v1",
            "Embed texts and pictures",
            _OBJECT,
            {_JSON: _object({"input": {"oneOf": [_TEXT, {"type": "array"}]}, "encoding_format": _TEXT}, "input")},
            missing=True,
        ),
        "/v2": _get("v2", "The server and its extensions", _OBJECT),
        "/v2/health/live": _get("v2", "Whether the server runs", _OBJECT),
        "/v2/health/ready": _get("v2", "Whether the server is ready", _OBJECT, ready=True),
        "/v2/models": _get("v2", "The models", _OBJECT),
        "/v2/models/stats": _get("v2", "What was asked of all versions, and how long it took", _OBJECT),
        "/v2/repository/index": _post("v2", "All versions and their states", {"type": "array", "items": _OBJECT}),
        "/": _get("server", "The page for browsers, JSON for programs", _ref("About"), html=True),
        "/health": _get("server", "Whether the server is ready, and what it serves", _OBJECT, ready=True),
        "/limits": _get("server", "All limits, and how much waits now", _ref("Limits")),
        "/metrics": _get("server", "Metrics for Prometheus", _TEXT, kind="text/plain"),
        "/card": _get("server", "The bundle's model card", _TEXT, kind="text/markdown", tracked=True),
        "/evaluation": _get("server", "What was measured on the test part", _ref("Evaluation"), tracked=True),
        "/docs": _get("server", "This page", _TEXT, kind="text/html"),
        "/openapi.json": _get("server", "This description for programs", _OBJECT),
    }
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        described[base] = _get("v2", "A model's inputs and outputs", _OBJECT)
        described[f"{base}/ready"] = _get("v2", "Whether a model is ready", _OBJECT, ready=True)
        described[f"{base}/config"] = _get("v2", "A model's configuration, as Triton has it", _OBJECT)
        described[f"{base}/stats"] = _get("v2", "What was asked of a model", _OBJECT)
        described[f"{base}/infer"] = _post(
            "v2",
            "Classify tensors or files",
            _ref("InferResponse"),
            {_JSON: _ref("InferRequest"), "application/octet-stream": _FILE},
            precise,
        )
    return {path: _with_path(item, re.findall(r"{(\w+)}", path)) for path, item in described.items()}


def _with_path(item: Schema, names: Sequence[str]) -> Schema:
    """Return a path's operations with the names that stand in the path, and the answer to wrong ones."""
    if names:
        item["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
        for operation in item.values():
            if isinstance(operation, dict):
                operation["responses"] |= {"404": _PROBLEM}
    return item


def _options(bundle: Bundle) -> Schema:
    """Return the fields that a request may have beside its files."""
    fields: Schema = {
        "top_k": {"type": "integer", "minimum": 1, "description": "only so many labels"},
        "precision": {"enum": ["fp32"], "description": "answered by the full-precision export"},
    }
    if bundle.info.text is not None:
        fields["labels"] = _TEXTS | {"description": "labels of your own"}
        fields["templates"] = _TEXTS | {"description": "the sentences they stand in, at {}"}
    return fields


def _schemas(bundle: Bundle) -> Schema:
    score = _object({"class_name": _TEXT, "score": _NUMBER}, "class_name", "score")
    label = _TEXT if bundle.info.text is not None else {"enum": list(bundle.info.labels)}
    who = {"classifier": _TEXT, "version": _TEXT, "track": {"enum": ["stable", "canary"]}}
    answer = {"label": label, "confidence": _NUMBER, "predictions": {"type": "array", "items": score}}
    either = _object(who | answer | {"seconds": _NUMBER}, *who, *answer, "seconds")
    tensor = _object(
        {"name": _TEXT, "datatype": _TEXT, "shape": {"type": "array", "items": {"type": "integer"}}, "data": {}},
        "name",
        "datatype",
        "shape",
    )
    tensors = {"type": "array", "items": tensor}
    rate = ("requests_per_minute", "burst", "processes")
    result = {"index": {"type": "integer"}, "name": _TEXT, "error": _OBJECT} | answer
    return {
        "Prediction": _object(who | answer | {"request_id": _TEXT}, *who, *answer, "request_id"),
        "Predictions": _object(
            who | {"results": {"type": "array", "items": _object(result, "index", "name")}, "request_id": _TEXT},
            *who,
            "results",
        ),
        "Comparison": _object(
            {
                "classifier": _TEXT,
                "stable": either,
                "canary": either,
                "same": {"type": "boolean"},
                "difference": _NUMBER,
                "request_id": _TEXT,
            },
            "stable",
            "canary",
            "same",
            "difference",
        ),
        "InferRequest": _object({"id": _TEXT, "inputs": tensors, "parameters": _OBJECT}, "inputs"),
        "InferResponse": _object({"model_name": _TEXT, "model_version": _TEXT, "outputs": tensors}, "outputs"),
        "About": _object({"classifier": _TEXT, "version": _TEXT, "labels": _TEXTS, "input": _OBJECT}, "classifier"),
        "Limits": _object(
            {
                "rate_limit_per_process": {
                    "oneOf": [
                        {"type": "null"},
                        _object(dict.fromkeys(rate, _NUMBER), *rate),
                    ],
                    "description": "how often who asks may ask each of so many processes; null: as often as they like",
                },
                "texts": _limits("of labels, templates and texts to embed; null without a text tower"),
                "fetching": _limits("what may be fetched, and its bounds; null where nothing may"),
                "connections": _limits("of heads and silence; null where another server holds the connections"),
                "grpc": _limits("of messages, streams and calls; null where it isn't spoken"),
                "now": _OBJECT,
            },
            "rate_limit_per_process",
            "texts",
            "fetching",
            "connections",
            "grpc",
            "now",
        ),
        "Evaluation": _object(
            {
                "examples": {"type": "integer"},
                "accuracy": _NUMBER,
                "classes": {"type": "array", "items": _OBJECT},
                "confusion": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            },
        ),
        "Problem": _object(
            {
                "type": _TEXT,
                "title": _TEXT,
                "status": {"type": "integer"},
                "detail": _TEXT,
                "instance": _TEXT,
                "request_id": _TEXT,
                "error": _TEXT,
            },
            "type",
            "title",
            "status",
            "detail",
            "request_id",
        ),
    }


def _limits(description: str) -> Schema:
    return {"oneOf": [{"type": "null"}, _OBJECT], "description": description}


def _get(
    part: str,
    summary: str,
    schema: Schema,
    *,
    kind: str = _JSON,
    html: bool = False,
    tracked: bool = False,
    ready: bool = False,
) -> Schema:
    content = {kind: {"schema": schema}} | ({"text/html": {"schema": _TEXT}} if html else {})
    statuses = [*((404,) if tracked else ()), *((503,) if ready else ())]
    return {"get": _operation(part, summary, content, statuses, _who_answers()[:1] if tracked else [])}


def _post(
    part: str,
    summary: str,
    schema: Schema,
    bodies: Mapping[str, Schema] | None = None,
    parameters: Sequence[Schema] = (),
    *,
    missing: bool = False,
) -> Schema:
    statuses = [*((404,) if missing else ()), *(_TOOK_ON if bodies else ())]
    operation = _operation(part, summary, {_JSON: {"schema": schema}}, statuses, parameters)
    if bodies:
        content = {kind: {"schema": body} for kind, body in bodies.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return {"post": operation}


def _operation(
    part: str, summary: str, content: Schema, statuses: Collection[int], parameters: Sequence[Schema]
) -> Schema:
    operation: Schema = {"tags": [_PART[part]], "summary": summary}
    if parameters:
        operation["parameters"] = list(parameters)
    told = {str(status): _PROBLEM for status in sorted({401, 403, *statuses})}
    operation["responses"] = {"200": {"description": "The answer", "content": content}} | told
    return operation


def _who_answers() -> list[Schema]:
    return [
        _header("X-Vitruvian-Track", "the version that is asked", {"enum": ["stable", "canary"]}),
        _header("X-Vitruvian-Key", "equal keys get one version", _TEXT),
        _header("X-Request-Timeout", "seconds that the client waits", _NUMBER),
    ]


def _header(name: str, description: str, schema: Schema) -> Schema:
    return _parameter("header", name, description, **schema)


def _parameter(place: str, name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": place, "description": description, "schema": schema}


def _object(properties: Schema, *required: str) -> Schema:
    """Return an object's schema; the first property is needed where none is named."""
    return {"type": "object", "properties": properties, "required": list(required) or [next(iter(properties))]}


def _only(properties: Schema) -> Schema:
    """Return an object's schema that has no other properties, and needs the first."""
    return _object(properties) | {"additionalProperties": False}
