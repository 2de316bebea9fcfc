"""Embeddings of texts and pictures, asked for as OpenAI's clients ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.errors import DataError
from vitruvian.inference.lanes import Wanted
from vitruvian.inference.problems import NOT_FOUND, UNUSABLE, Problem
from vitruvian.inference.protocol import Malformed, read_json
from vitruvian.inference.routes.taking import Files, Taken, as_json, taken
from vitruvian.inference.tracks import Tracks
from vitruvian.inference.uploads import Sent, in_turn, sent_in_json

_EMBEDDING = Wanted(embedding=True)
_FORMS = ("float", "base64")
_MODALITIES = ("text", "image")
LONGEST_TEXT = 8192


class OpenAi:
    """One method for each route."""

    def __init__(self, tracks: Tracks, files: Files) -> None:
        self.tracks = tracks
        self.files = files

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [Route("/v1/embeddings", self.embeddings, methods=["POST"])]

    async def embeddings(self, request: Request) -> Response:
        # Embeddings of two versions can't be compared: nobody gets another's by chance.
        version = self.tracks.asked(request.state.headers) or self.tracks.stable
        async with taken(request, self.tracks, version) as held:
            service = held.service
            name = service.predictor.bundle.info.name
            if service.predictor.head is None:
                raise Problem(UNUSABLE, "this model gives no embeddings; a clip with prompts does")
            document = await in_turn(len(held.body), lambda: read_json(held.body), held.ticket)
            if document.get("model", name) != name:
                raise Problem(NOT_FOUND, f"there is no model '{str(document['model'])[:100]}' here, but '{name}'")
            _check_width(document.get("dimensions"), service.predictor.head.weight.shape[1])
            form = _one_of(document, "encoding_format", _FORMS, "float")
            items = _items(document, service.settings.max_inputs)
            del document
            rows = await self._embedded(items, held)
        data = [{"object": "embedding", "index": at, "embedding": _shown(row, form)} for at, row in enumerate(rows)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return as_json({"object": "list", "data": data, "model": name, "usage": usage})

    async def _embedded(self, items: Sequence[str | Sent], held: Taken) -> list[NDArray[np.float32]]:
        service, ticket, _, fetched = held
        texts = [item for item in items if isinstance(item, str)]
        pictures = [item for item in items if isinstance(item, Sent)]
        rows: dict[str, list[NDArray[np.float32]]] = {"text": [], "picture": []}
        if texts:
            if service.labels is None:
                raise Problem(UNUSABLE, "this model embeds no texts: it has no text tower")
            rows["text"] = list(await service.labels.embed(texts, ticket))
        if pictures:
            found = [await self.files.input(sent, service, ticket, _EMBEDDING, fetched.add) for sent in pictures]
            good = [item for item in found if not isinstance(item, DataError)]
            bad = [item for item in found if isinstance(item, DataError)]
            for answer in [*bad, *(await service.predict(good, ticket) if not bad else ())]:
                if isinstance(answer, Exception):
                    raise answer
                assert isinstance(answer, np.ndarray)
                rows["picture"].append(answer)
        # In the order in which they came.
        each = {kind: iter(found) for kind, found in rows.items()}
        return [next(each["text" if isinstance(item, str) else "picture"]) for item in items]


def _items(document: dict[str, Any], most: int) -> list[str | Sent]:
    """Return the texts and pictures of a request; raises `Malformed`."""
    modality = _one_of(document, "modality", _MODALITIES, None)
    given = document.get("input")
    listed = given if isinstance(given, list) else [given]
    if not 1 <= len(listed) <= most:
        raise Malformed(f"'input' holds {len(listed)} items, and may hold 1 to {most}")
    return [_item(item, f"input[{at}]", modality) for at, item in enumerate(listed)]


def _item(item: object, where: str, modality: str | None) -> str | Sent:
    if isinstance(item, dict):
        kind = item.get("type")
        if kind == "text":
            return _item(item.get("text"), where, "text")
        if kind == "image_url":
            return sent_in_json({"image_url": item.get("image_url")}, where)
        raise Malformed(f"{where} is neither of the type text nor of the type image_url")
    if not isinstance(item, str):
        raise Malformed(f"{where} is neither a text nor a picture")
    if modality == "image" and item.startswith(("http://", "https://")):
        return Sent(where, url=item)
    if modality == "image" or (modality is None and item.startswith("data:")):
        return sent_in_json(item, where)
    if not 1 <= len(item) <= LONGEST_TEXT:
        raise Malformed(f"{where} has {len(item)} characters, and may have 1 to {LONGEST_TEXT}")
    return item


def _one_of(document: dict[str, Any], name: str, known: Sequence[str], default: str | None) -> str | None:
    value = document.get(name, default)
    if value is not None and value not in known:
        raise Malformed(f"'{name}' is none of: {', '.join(known)}")
    found: str | None = value
    return found


def _check_width(asked: object, width: int) -> None:
    """Raise `Malformed` for embeddings of another width than they have."""
    if asked is not None and (isinstance(asked, bool) or asked != width):
        raise Malformed(f"'dimensions' can't be chosen: this model's embeddings have {width}; leave it out")


def _shown(row: NDArray[np.float32], form: str | None) -> Any:
    return pybase64.b64encode(row.astype("<f4").tobytes()).decode() if form == "base64" else row
