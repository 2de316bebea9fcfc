"""A client for servers of bundles: predictions as objects, retries that do what the server says, one connection pool.

    with InferenceClient("http://127.0.0.1:8080") as client:
        print(client.predict_from_image_path("photo.jpg").label)

`AsyncInferenceClient` is the same for asyncio. Needs httpx: pip install '.[client]' in a clone.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from vitruvian.errors import VitruvianError

TIMEOUT: Final = "X-Request-Timeout"
_COMES_BACK: Final = (429, 502, 503, 504)
"""Answers that another attempt may change: a full queue, a server that begins or ends, a proxy between two of them."""
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0

Picture = bytes | str | os.PathLike[str] | NDArray[np.generic] | Any
"""A file's bytes, its path, an array (height, width, 3) of uint8, a heatmap (1, 17, 64, 48), or Pillow's image."""


class InferenceError(VitruvianError):
    """What a server answered instead of a prediction (RFC 9457)."""

    def __init__(self, status: int, document: Mapping[str, Any], where: str) -> None:
        self.status = status
        self.kind = str(document.get("type", "")).rpartition(":")[2] or f"http-{status}"
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail") or document.get("error") or f"HTTP {status}")
        self.request_id = document.get("request_id")
        super().__init__(self.detail, where=where)

    def __reduce__(self) -> tuple[object, ...]:
        document = {"type": self.kind, "title": self.title, "detail": self.detail, "request_id": self.request_id}
        return type(self), (self.status, document, self.where)


class NoAnswer(VitruvianError):
    """A server that couldn't be reached, or wasn't heard of in time."""


@dataclass(frozen=True)
class Prediction:
    """One answer: every label with its score, best first."""

    label: str
    confidence: float
    scores: dict[str, float]
    classifier: str
    version: str
    request_id: str | None = None
    document: dict[str, Any] = field(default_factory=dict, repr=False)
    """The whole answer."""


@dataclass(frozen=True)
class _Asked:
    """One request."""

    method: str
    path: str
    json: Any = None
    names: Mapping[str, str] = field(default_factory=dict)
    """Paths of the files in it, by what the server calls them."""


class _Client(ABC):
    """What both clients have in common: requests, and what is to be done about answers. Nothing here waits."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Connect when the first question comes.

        `url` is the server's address. `api_key` is a key or a token, sent as `Authorization: Bearer`. `timeout` is how
        many seconds an answer may take, all attempts together. `headers` go with every request.
        """
        self.url = url.rstrip("/")
        self.timeout = timeout
        bearer = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._open({"Accept": "application/json", **bearer, **(headers or {})})

    @abstractmethod
    def _open(self, headers: Mapping[str, str]) -> None:
        """Make what sends requests to `url`, all with these headers."""

    def _sent(self, until: float) -> dict[str, Any]:
        left = until - time.monotonic()
        if left <= 0:
            raise NoAnswer(f"no answer within {self.timeout:g} s", where=self.url)
        return {"headers": {TIMEOUT: f"{left:.3f}"}, "timeout": left}

    def _wait(self, answer: httpx.Response | None, attempt: int, until: float) -> float | None:
        """Return how long to wait before another attempt; None where there is none."""
        if answer is not None and answer.status_code not in _COMES_BACK:
            return None
        asked = (answer.headers.get("retry-after", "") if answer is not None else "").strip()
        # As the server says; else longer each time. All clients at once would come back at once.
        least = float(asked) if asked.isdecimal() else min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
        wait = least * random.uniform(1.0, 1.25)
        return wait if time.monotonic() + wait < until else None

    def _read(self, answer: httpx.Response, asked: _Asked) -> Any:
        if answer.is_success:
            return answer.json()
        try:
            document = answer.json()
        except ValueError:
            document = {}
        document = document if isinstance(document, dict) else {}
        raise InferenceError(answer.status_code, *_with_names(document, str(answer.url), asked.names))

    def _predict(
        self,
        picture: Picture,
        labels: Sequence[str] | None,
        templates: Sequence[str] | None,
        top_k: int | None,
        precision: str | None,
    ) -> _Asked:
        given = {"labels": labels, "templates": templates, "top_k": top_k, "precision": precision}
        body = {"image": base64.b64encode(content_of(picture)).decode()}
        return _Asked("POST", "/predict", {**body, **_without_none(given)}, _names("image", [picture]))

    def _predict_url(self, url: str, more: Mapping[str, Any]) -> _Asked:
        return _Asked("POST", "/predict", {"url": url, **_without_none(more)})

    def _batch(
        self,
        pictures: Sequence[Picture],
        labels: Sequence[str] | None,
        templates: Sequence[str] | None,
        top_k: int | None,
        precision: str | None,
    ) -> _Asked:
        images = [base64.b64encode(content_of(picture)).decode() for picture in pictures]
        names = _names("images[{}]", pictures)
        given = {"labels": labels, "templates": templates, "top_k": top_k, "precision": precision}
        return _Asked("POST", "/predict/batch", {"images": images, **_without_none(given)}, names)

    def _embed(self, items: Sequence[Any], modality: str) -> _Asked:
        texts = list(items) if modality == "text" else [base64.b64encode(content_of(item)).decode() for item in items]
        body = {"input": texts, "modality": modality, "encoding_format": "base64"}
        return _Asked("POST", "/v1/embeddings", body, {} if modality == "text" else _names("input[{}]", items))


def _names(called: str, pictures: Sequence[Picture]) -> dict[str, str]:
    paths = [(at, os.fspath(one)) for at, one in enumerate(pictures) if isinstance(one, str | os.PathLike)]
    return {called.format(at): str(path) for at, path in paths}


def _with_names(document: Mapping[str, Any], where: str, names: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Return what went wrong, and where: at a file of the caller's, if the server says so."""
    detail = str(document.get("detail", ""))
    for called, path in names.items():
        if detail.startswith(f"{called}: "):
            return {**document, "detail": detail.removeprefix(f"{called}: ")}, path
    return dict(document), where


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def content_of(picture: Picture) -> bytes:
    """Return a picture as the bytes of a file; raises `OSError` for a path that can't be read."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    file = io.BytesIO()
    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.dtype == np.uint8:
        from PIL import Image

        Image.fromarray(picture).save(file, "PNG")
    elif isinstance(picture, np.ndarray):
        np.save(file, picture)
    else:
        picture.convert("RGB").save(file, "PNG")
    return file.getvalue()


def _prediction(document: Mapping[str, Any], said_by: Mapping[str, Any] | None = None) -> Prediction:
    by = said_by or document
    return Prediction(
        label=document["label"],
        confidence=document["confidence"],
        scores={entry["class_name"]: entry["score"] for entry in document["predictions"]},
        classifier=by["classifier"],
        version=by["version"],
        request_id=by.get("request_id"),
        document=dict(document),
    )


def _results(document: Mapping[str, Any], names: Mapping[str, str]) -> list[Prediction | InferenceError]:
    found: list[Prediction | InferenceError] = []
    for result in document["results"]:
        if "error" in result:
            error = {**result["error"], "type": "unusable-input", "request_id": document.get("request_id")}
            called = str(result["name"])
            found.append(InferenceError(422, error, names.get(called, called)))
        else:
            found.append(_prediction(result, document))
    return found


def _rows(document: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.stack([np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in document["data"]])


class InferenceClient(_Client):
    """Asks a server; from one thread or several.

    Raises `InferenceError` and `NoAnswer`, and `OSError` for a path that can't be read.
    """

    def _open(self, headers: Mapping[str, str]) -> None:
        self._http = httpx.Client(base_url=self.url, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def predict(
        self,
        picture: Picture,
        *,
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        precision: str | None = None,
    ) -> Prediction:
        """Return what a picture shows: of the model's labels, or of those given."""
        return _prediction(self._ask(self._predict(picture, labels, templates, top_k, precision)))

    def predict_from_image_path(self, path: str | os.PathLike[str], **more: Any) -> Prediction:
        """Return what a file shows."""
        return self.predict(Path(path), **more)

    def predict_from_image_url(self, url: str, **more: Any) -> Prediction:
        """Return what the picture at a URL shows; the server fetches it, if it is allowed to."""
        return _prediction(self._ask(self._predict_url(url, more)))

    def predict_batch(
        self,
        pictures: Sequence[Picture],
        top_k: int | None = None,
        *,
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        precision: str | None = None,
    ) -> list[Prediction | InferenceError]:
        """Return an answer for each picture, in order; an `InferenceError` in the place of one that can't be used."""
        asked = self._batch(pictures, labels, templates, top_k, precision)
        return _results(self._ask(asked), asked.names)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return texts' embeddings (n, width), of length 1."""
        return _rows(self._ask(self._embed(texts, "text")))

    def embed_images(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Return pictures' embeddings (n, width), of length 1."""
        return _rows(self._ask(self._embed(pictures, "image")))

    def about(self) -> dict[str, Any]:
        """Return what the server says of itself: classifier, version, labels, metrics."""
        found: dict[str, Any] = self._ask(_Asked("GET", "/"))
        return found

    def limits(self) -> dict[str, Any]:
        """Return the server's limits, and how much waits."""
        found: dict[str, Any] = self._ask(_Asked("GET", "/limits"))
        return found

    def is_ready(self) -> bool:
        """Tell whether the server is there and ready; asks once."""
        try:
            return self._http.get("/v2/health/ready", timeout=min(5.0, self.timeout)).is_success
        except httpx.HTTPError:
            return False

    def _ask(self, asked: _Asked) -> Any:
        until, attempt = time.monotonic() + self.timeout, 0
        while True:
            sent = self._sent(until)
            answer: httpx.Response | None = None
            failure: httpx.HTTPError | None = None
            try:
                answer = self._http.request(asked.method, asked.path, json=asked.json, **sent)
            except httpx.HTTPError as e:
                # A prediction changes nothing: it may be asked for again though it may have been made.
                failure = e
            wait = self._wait(answer, attempt, until)
            if wait is None:
                return self._read(answer, asked) if answer is not None else _give_up(failure, self.url)
            attempt += 1
            time.sleep(wait)


class AsyncInferenceClient(_Client):
    """Asks a server from an event loop; see `InferenceClient`."""

    def _open(self, headers: Mapping[str, str]) -> None:
        self._http = httpx.AsyncClient(base_url=self.url, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def predict(
        self,
        picture: Picture,
        *,
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
        precision: str | None = None,
    ) -> Prediction:
        """Return what a picture shows: of the model's labels, or of those given."""
        return _prediction(await self._ask(self._predict(picture, labels, templates, top_k, precision)))

    async def predict_from_image_path(self, path: str | os.PathLike[str], **more: Any) -> Prediction:
        """Return what a file shows."""
        return await self.predict(Path(path), **more)

    async def predict_from_image_url(self, url: str, **more: Any) -> Prediction:
        """Return what the picture at a URL shows; the server fetches it, if it is allowed to."""
        return _prediction(await self._ask(self._predict_url(url, more)))

    async def predict_batch(
        self,
        pictures: Sequence[Picture],
        top_k: int | None = None,
        *,
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        precision: str | None = None,
    ) -> list[Prediction | InferenceError]:
        """Return an answer for each picture, in order; an `InferenceError` in the place of one that can't be used."""
        asked = self._batch(pictures, labels, templates, top_k, precision)
        return _results(await self._ask(asked), asked.names)

    async def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return texts' embeddings (n, width), of length 1."""
        return _rows(await self._ask(self._embed(texts, "text")))

    async def embed_images(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Return pictures' embeddings (n, width), of length 1."""
        return _rows(await self._ask(self._embed(pictures, "image")))

    async def about(self) -> dict[str, Any]:
        """Return what the server says of itself: classifier, version, labels, metrics."""
        found: dict[str, Any] = await self._ask(_Asked("GET", "/"))
        return found

    async def limits(self) -> dict[str, Any]:
        """Return the server's limits, and how much waits."""
        found: dict[str, Any] = await self._ask(_Asked("GET", "/limits"))
        return found

    async def is_ready(self) -> bool:
        """Tell whether the server is there and ready; asks once."""
        try:
            return (await self._http.get("/v2/health/ready", timeout=min(5.0, self.timeout))).is_success
        except httpx.HTTPError:
            return False

    async def _ask(self, asked: _Asked) -> Any:
        until, attempt = time.monotonic() + self.timeout, 0
        while True:
            sent = self._sent(until)
            answer: httpx.Response | None = None
            failure: httpx.HTTPError | None = None
            try:
                answer = await self._http.request(asked.method, asked.path, json=asked.json, **sent)
            except httpx.HTTPError as e:
                failure = e
            wait = self._wait(answer, attempt, until)
            if wait is None:
                return self._read(answer, asked) if answer is not None else _give_up(failure, self.url)
            attempt += 1
            await asyncio.sleep(wait)


def _give_up(failure: httpx.HTTPError | None, url: str) -> Any:
    what = str(failure) or type(failure).__name__
    raise NoAnswer(f"no answer ({what})", where=url, hint="check the address, and that the server runs") from failure
