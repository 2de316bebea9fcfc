"""The HTTP interface of a predictor as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from vitruvian.inference.envelope import FORESEEN, Envelope, answer_error
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.routes.about import About
from vitruvian.inference.routes.compare import Compare
from vitruvian.inference.routes.openai import OpenAi
from vitruvian.inference.routes.page import Page
from vitruvian.inference.routes.people import People
from vitruvian.inference.routes.taking import Files
from vitruvian.inference.routes.v1 import V1
from vitruvian.inference.routes.v2 import V2
from vitruvian.inference.rules import Rules
from vitruvian.inference.service import Service, Settings, State
from vitruvian.inference.startup import Startup
from vitruvian.inference.tracks import Tracks

if TYPE_CHECKING:
    from vitruvian.inference.access.guard import Guard
    from vitruvian.inference.remote.fetch import Fetcher


def create_app(
    predictor: Predictor,
    settings: Settings | None = None,
    *,
    startup: Startup | None = None,
    settled: Callable[[], None] = lambda: None,
    ready_first: bool = False,
    challenger: Callable[[], Predictor] | None = None,
    rules: Rules | None = None,
    fetcher: Fetcher | None = None,
    admin: bool = True,
    guard: Guard | None = None,
    around: Mapping[str, Any] | None = None,
) -> Starlette:
    """Return the application that answers for one predictor.

    The golden example is predicted when the application starts; `settled` is called afterwards in a thread of its own,
    whatever came of it. With `ready_first` the application's start ends only then, and fails with the `BundleError` of
    a wrong answer: for those who hold an application that has started for ready. `fetcher` gets the pictures whose URLs
    clients send. `challenger` returns what is tried beside it by the rules; it is called once the predictor is ready.
    With `admin` it shows its metrics, too. `around` are limits of what it runs in, which it tells with its own. The
    `Service` behind the application is its `state.service`, the `Tracks` its `state.tracks`.
    """
    service = Service(predictor, settings or Settings(), startup or Startup())
    tracks = Tracks(service, rules, challenger)
    files = Files(fetcher)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async def start() -> None:
            await service.start()
            await asyncio.to_thread(settled)

        async def try_challenger() -> None:
            # Not `await starting`: who ends this one would end that one, too.
            await asyncio.wait({starting})
            if service.state is State.READY:
                await tracks.start()

        starting = asyncio.create_task(start())
        trying = asyncio.create_task(try_challenger())
        if ready_first:
            await starting
            if service.failure is not None:
                raise service.failure
        yield
        service.drain()
        service.close()
        tracks.close()
        trying.cancel()
        if fetcher is not None:
            fetcher.close()
        with suppress(asyncio.CancelledError):
            await starting

    parts = (
        People(tracks, files),
        V2(tracks),
        V1(tracks, files),
        OpenAi(tracks, files),
        Compare(tracks, files),
        About(
            tracks,
            admin=admin,
            guard=guard,
            around={"fetching": None if fetcher is None else fetcher.limits, **(around or {})},
        ),
        Page(tracks),
    )
    app = Starlette(
        # The busiest first: they are looked through in this order.
        routes=[route for part in parts for route in part.routes()],
        lifespan=lifespan,
        middleware=[Middleware(Envelope, service=service), *_guarded(guard)],
        exception_handlers=dict.fromkeys(FORESEEN, answer_error),
    )
    app.state.service, app.state.tracks = service, tracks
    return _without_redirects(app)


def _guarded(guard: Guard | None) -> list[Middleware]:
    """Return what asks who is there; other sites' pages ask whether they may before they say who they are."""
    if guard is None:
        return []
    from vitruvian.inference.access.guard import GuardMiddleware, with_cors

    cors = [Middleware(with_cors, policy=guard.policy)] if guard.policy.cors else []
    return [*cors, Middleware(GuardMiddleware, guard=guard)]


def create_admin(service: Service) -> Starlette:
    """Return the application for a port of its own that shows a service's health and metrics, and nothing else."""
    tracks = Tracks(service)
    app = Starlette(
        routes=[*About(tracks).admin_routes(), *V2(tracks).health_routes()],
        middleware=[Middleware(Envelope, service=service)],
        exception_handlers=dict.fromkeys(FORESEEN, answer_error),
    )
    return _without_redirects(app)


def _without_redirects(app: Starlette) -> Starlette:
    """Have a path with a slash too many be one that isn't there: redirects would lead wherever Host says."""
    app.router.redirect_slashes = False
    return app
