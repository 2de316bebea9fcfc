"""What a server says of itself: the page, its health, its metrics and its limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitruvian.bundle import Bundle
from vitruvian.data.decode import MAX_PIXELS
from vitruvian.inference import oip
from vitruvian.inference.labels import LONGEST_LABEL, LONGEST_TEMPLATE, MOST_LABELS, MOST_PROMPTS, MOST_TEMPLATES
from vitruvian.inference.page import page_files
from vitruvian.inference.routes.openai import LONGEST_TEXT
from vitruvian.inference.routes.page import shown
from vitruvian.inference.routes.taking import as_json
from vitruvian.inference.service import Settings
from vitruvian.inference.tracks import Tracks

if TYPE_CHECKING:
    from vitruvian.inference.access.guard import Guard

_TEXTS = {
    "max_labels": MOST_LABELS,
    "max_templates": MOST_TEMPLATES,
    "max_prompts": MOST_PROMPTS,
    "max_label_characters": LONGEST_LABEL,
    "max_template_characters": LONGEST_TEMPLATE,
    "max_embedded_characters": LONGEST_TEXT,
}
_VARY = {"Vary": "Accept"}


class About:
    """One method for each route; `around` are limits of what is around the application."""

    def __init__(
        self, tracks: Tracks, *, admin: bool = True, guard: Guard | None = None, around: Mapping[str, Any] | None = None
    ) -> None:
        self._admin = admin
        self._guard = guard
        self._around = {"fetching": None, "connections": None, "grpc": None, **(around or {})}
        self.service = tracks.stable
        self._about = _about(self.service.predictor.bundle, self.service.settings)

    def routes(self) -> list[Route]:
        """Return the routes that belong here."""
        shown = self.admin_routes() if self._admin else [Route("/health", self.health)]
        return [Route("/", self.home), *shown, Route("/limits", self.limits)]

    def admin_routes(self) -> list[Route]:
        """Return the routes for those who run the server."""
        return [Route("/health", self.health), Route("/metrics", self.metrics)]

    async def home(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return shown(request, page_files()["index.html"], _VARY)
        return as_json({**self._about, "state": self.service.state}, _VARY)

    async def health(self, request: Request) -> Response:
        self.service.check_ready()
        info = self.service.predictor.bundle.info
        return as_json({"status": "ok", "classifier": info.name, "version": info.version})

    async def metrics(self, request: Request) -> Response:
        content, content_type = self.service.metrics.expose(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    async def limits(self, request: Request) -> Response:
        lanes = self.service.lanes
        now = {
            "waiting": lanes.waiting,
            "wait_seconds": round(lanes.wait(), 4),
            "seconds_per_input": round(lanes.work(1) / lanes.count, 6),
        }
        settings = asdict(self.service.settings) | {"lanes": lanes.count, "max_pixels": MAX_PIXELS}
        more = {"texts": None if self.service.labels is None else _TEXTS, **self._around}
        rate = None if self._guard is None else self._guard.gives(request.state.asker)
        return as_json({**settings, **more, "rate_limit_per_process": rate, "now": now})


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
