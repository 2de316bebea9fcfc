"""The page for browsers, and what it tells of a bundle besides: the model card and what was measured."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.bundle import Bundle
from vitruvian.inference.openapi import document
from vitruvian.inference.page import HEADERS, PageFile, page_files
from vitruvian.inference.page.reference import reference
from vitruvian.inference.problems import NOT_FOUND, Problem
from vitruvian.inference.routes.taking import as_json, header
from vitruvian.inference.tracks import Tracks


class Page:
    """One method for each route."""

    def __init__(self, tracks: Tracks) -> None:
        self.tracks = tracks

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        return [
            Route("/page/{name}", self.file),
            Route("/docs", self.docs),
            Route("/openapi.json", self.openapi),
            Route("/card", self.card),
            Route("/evaluation", self.evaluation),
        ]

    async def file(self, request: Request) -> Response:
        found = page_files().get(request.path_params["name"])
        if found is None or found.type == "text/html":
            raise Problem(NOT_FOUND, f"the page has no file '{request.path_params['name'][:100]}'")
        return shown(request, found)

    async def docs(self, request: Request) -> Response:
        content = reference(self._document(request))
        return Response(content, headers=HEADERS, media_type="text/html")

    async def openapi(self, request: Request) -> Response:
        return as_json(self._document(request))

    async def card(self, request: Request) -> Response:
        bundle = self._bundle(request)
        return Response(_told(bundle, bundle.card, "model card"), media_type="text/markdown")

    async def evaluation(self, request: Request) -> Response:
        bundle = self._bundle(request)
        return Response(_told(bundle, bundle.evaluation, "evaluation"), media_type="application/json")

    def _document(self, request: Request) -> dict[str, object]:
        """Return the description of what is routed here: not every server shows its metrics."""
        routed = {route.path for route in request.app.routes if isinstance(route, Route)}
        return document(self.tracks.stable.predictor.bundle, routed)

    def _bundle(self, request: Request) -> Bundle:
        """Return the bundle of the version that is asked for, the champion's unless another's is."""
        return (self.tracks.asked(request.state.headers) or self.tracks.stable).predictor.bundle


def _told(bundle: Bundle, content: bytes | None, what: str) -> bytes:
    if content is None:
        raise Problem(NOT_FOUND, f"version '{bundle.info.version}' was published without its {what}")
    return content


def shown(request: Request, file: PageFile, headers: dict[str, str] | None = None) -> Response:
    """Return a file of the page; a browser that has it already is only told so."""
    headers = {**HEADERS, **(headers or {}), "ETag": file.tag}
    if file.tag in (header(request, "if-none-match") or ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.type)
