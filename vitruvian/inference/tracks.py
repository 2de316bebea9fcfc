"""The champion, and the challenger that is tried beside it."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from vitruvian.inference.service import Service


class Tracks:
    """Which service answers which request."""

    def __init__(self, stable: Service) -> None:
        self.stable = stable

    def pick(self, request: HTTPConnection) -> Service:
        """Return the service that answers a request, and note it there for the metrics."""
        request.state.service = self.stable
        return self.stable
