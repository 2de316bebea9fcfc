"""The HTTP interface of a predictor as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.middleware import Middleware

from vitruvian.inference.envelope import FORESEEN, Envelope, answer_error
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.routes.about import About
from vitruvian.inference.routes.compare import Compare
from vitruvian.inference.routes.people import People
from vitruvian.inference.routes.v2 import V2
from vitruvian.inference.rules import Rules
from vitruvian.inference.service import Service, Settings, State
from vitruvian.inference.startup import Startup
from vitruvian.inference.tracks import Tracks


def create_app(
    predictor: Predictor,
    settings: Settings | None = None,
    *,
    startup: Startup | None = None,
    settled: Callable[[], None] = lambda: None,
    ready_first: bool = False,
    challenger: Callable[[], Predictor] | None = None,
    rules: Rules | None = None,
) -> Starlette:
    """Return the application that answers for one predictor.

    The golden example is predicted when the application starts; `settled` is called afterwards in a thread of its own,
    whatever came of it. With `ready_first` the application's start ends only then, and fails with the `BundleError` of
    a wrong answer: for those who hold an application that has started for ready. `challenger` returns what is tried
    beside it by the rules; it is called once the predictor is ready. The `Service` behind the application is its
    `state.service`, the `Tracks` its `state.tracks`.
    """
    service = Service(predictor, settings or Settings(), startup or Startup())
    tracks = Tracks(service, rules, challenger)

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
        with suppress(asyncio.CancelledError):
            await starting

    app = Starlette(
        # The busiest first: they are looked through in this order.
        routes=[
            route for part in (People(tracks), V2(tracks), Compare(tracks), About(tracks)) for route in part.routes()
        ],
        lifespan=lifespan,
        middleware=[Middleware(Envelope, service=service)],
        exception_handlers=dict.fromkeys(FORESEEN, answer_error),
    )
    app.state.service = service
    app.state.tracks = tracks
    return app
