"""A bundle on Ray Serve, with the HTTP contract of `vitruvian serve`; or many, each loaded when it is asked for.

serve run vitruvian.serving.rayserve:app bundle=s3://BUCKET/PREFIX
serve run vitruvian.serving.rayserve:models root=s3://BUCKET/PREFIX most=3

`serve build vitruvian.serving.rayserve:built` writes a Serve config of the bundle that VITRUVIAN_BUNDLE names.
"""

# No postponed annotations here: Serve reads those of `app` to check what it is given.
import asyncio
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Literal

import click
from prometheus_client import CollectorRegistry, start_http_server
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from vitruvian.bundle import Bundle, find_bundle, open_bundle
from vitruvian.errors import VitruvianError
from vitruvian.inference.access.guard import Guard
from vitruvian.inference.app import create_app
from vitruvian.inference.choice import fastest
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import NOT_FOUND, Problem, problem_response
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.fetch import Fetcher
from vitruvian.inference.service import Settings
from vitruvian.inference.startup import Startup
from vitruvian.machine import usable_cpus

BUNDLE = "VITRUVIAN_BUNDLE"
"""The environment variable with the address of the bundle of `built`."""
METRICS_PORT = "VITRUVIAN_METRICS_PORT"
"""The environment variable with the port on which a replica shows its metrics; unset: only through the proxy."""

_log = logging.getLogger("ray.serve")
_OF_THE_OUTER_APPLICATION = ("app", "endpoint", "path_params", "route")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SECONDS_UNTIL_THE_PORT_IS_TRIED_AGAIN = 2.0


class Arguments(BaseModel):
    """What `serve run` and a Serve config's `args` may say."""

    model_config = ConfigDict(extra="forbid")

    bundle: str
    """A classifier's artifacts (its champion) or one version: a folder or s3://BUCKET/PREFIX."""
    name: str | None = None
    """The model's name in the protocols; none: the classifier's."""
    track: Literal["stable", "canary"] = "stable"
    """A label of the metrics."""
    access: Path | None = None
    """A file that says who may ask (docs/access.md); none: everybody. Each replica holds to its limits by itself."""
    allow_url: str = ""
    """Hosts to fetch pictures from, with commas between; empty: no URLs."""
    queue_seconds: float = Field(default=10.0, ge=0.001)
    """How long accepted work may wait."""
    deadline: float = Field(default=30.0, ge=0.001)
    """Seconds for an answer where a client says none."""


def _predictor(bundle: Bundle) -> Predictor:
    lanes = usable_cpus()
    bundle = fastest(bundle, lanes, _log.info)
    return Predictor.open(bundle, threads=1, lanes=lanes)


# A server judges itself how much it takes on, and refuses more with 429, as it does without Ray; what waits before it,
# in Ray's own proxies, is bounded and refused alike.
_BOUNDED: dict[str, Any] = {
    "max_ongoing_requests": 1000,
    "max_queued_requests": 1000,
    "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
}


@serve.deployment(**_BOUNDED)
@serve.ingress()
class Server:
    """One replica: ready once the golden example was predicted and matched."""

    def __init__(self, arguments: Arguments) -> None:
        startup = Startup()
        with startup.time("fetch" if arguments.bundle.startswith("s3://") else "verify"):
            bundle = open_bundle(arguments.bundle)
        bundle = bundle.named(arguments.name) if arguments.name else bundle
        with startup.time("load"):
            predictor = _predictor(bundle)
        settings = Settings(
            track=arguments.track, queue_seconds=arguments.queue_seconds, deadline_seconds=arguments.deadline
        )
        self._app = create_app(
            predictor,
            settings,
            startup=startup,
            ready_first=True,
            guard=Guard.open(arguments.access) if arguments.access else None,
            fetcher=Fetcher(Allowed.parse(arguments.allow_url.split(","))) if arguments.allow_url else None,
        )
        if port := os.environ.get(METRICS_PORT):
            _show(self._app.state.service.metrics.registry, int(port))

    def __serve_build_asgi_app__(self) -> Starlette:
        return self._app


def app(arguments: Arguments) -> Application:
    """Return the Serve application for a bundle; `serve run` and a RayService build it.

    Relative paths are meant from where this is called. Raises `click.ClickException`, of which `serve` shows one line,
    where nothing that can be served lies there.
    """
    bundle = _whole(arguments.bundle)
    if bundle != arguments.bundle:
        try:
            find_bundle(bundle)
        except VitruvianError as e:
            raise click.ClickException(f"bundle={arguments.bundle}: {e}") from e
    access = arguments.access and Path(_whole(str(arguments.access)))
    if access != arguments.access and not os.access(str(access), os.R_OK):
        raise click.ClickException(f"access={arguments.access}: no file that can be read at {access}; check the path")
    bound: Any = Server
    return bound.bind(arguments.model_copy(update={"bundle": bundle, "access": access}))


def _whole(address: str) -> str:
    """Return the address by which a replica finds what is meant here: it works in the folder that its head began in."""
    # What is no relative path may lie on the nodes alone.
    return address if "://" in address or address.startswith("~") else os.path.join(os.getcwd(), address)


def __getattr__(name: str) -> Application:
    # `serve build` takes an application, not what makes one, and gives it no arguments.
    if name != "built":
        raise AttributeError(name)
    if not os.environ.get(BUNDLE):
        raise click.ClickException(f"{BUNDLE}: isn't set; set it to a bundle's folder or s3:// address")
    return app(Arguments(bundle=os.environ[BUNDLE]))


class ModelsArguments(BaseModel):
    """What `serve run` and a Serve config's `args` may say of many bundles."""

    model_config = ConfigDict(extra="forbid")

    root: str
    """A folder or s3://BUCKET/PREFIX with a folder for each classifier's artifacts."""
    most: int = Field(default=3, ge=1)
    """How many a replica keeps loaded; the one that was asked for longest ago gives way."""


@serve.deployment(**_BOUNDED)
class Models:
    """Many classifiers; a request's header `serve_multiplexed_model_id` names one, by its folder."""

    def __init__(self, arguments: ModelsArguments) -> None:
        self._root = arguments.root.rstrip("/")
        load: Any = serve.multiplexed(max_num_models_per_replica=arguments.most)(_load)
        self._load = load

    async def __call__(self, request: Request) -> Any:
        name = serve.get_multiplexed_model_id()
        try:
            if not _NAME.fullmatch(name):
                what = f"the header serve_multiplexed_model_id names no classifier: '{name[:100]}'"
                raise Problem(NOT_FOUND, what)
            loaded: _Loaded = await self._load(self, name)
        except (Problem, VitruvianError) as e:
            problem = e if isinstance(e, Problem) else Problem(NOT_FOUND, e.what)
            return problem_response(problem, request.url.path, request.headers.get("x-request-id", ""))
        return await _answered(loaded.app, request)


class _Loaded:
    def __init__(self, app: Starlette) -> None:
        self.app = app

    def __del__(self) -> None:
        self.app.state.service.close()


async def _load(self: Any, name: str) -> _Loaded:
    bundle = await asyncio.to_thread(open_bundle, f"{self._root}/{name}")
    app = create_app(await asyncio.to_thread(_predictor, bundle))
    service = app.state.service
    await service.start()
    if service.failure is not None:
        raise service.failure
    return _Loaded(app)


async def _answered(app: Starlette, request: Request) -> Response:
    """Return an application's answer as an object: what Serve calls gets no socket."""
    begun: dict[str, Any] = {}
    chunks: list[bytes] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            begun.update(message)
        else:
            chunks.append(message.get("body", b""))

    scope = {
        key: value for key, value in request.scope.items() if key not in ("route", "endpoint", "path_params", "app")
    }
    await app({**scope, "state": {}}, request.receive, send)
    response = Response(b"".join(chunks), begun["status"])
    response.raw_headers = list(begun["headers"])
    return response


def models(arguments: ModelsArguments) -> Application:
    """Return the Serve application for all classifiers below a root.

    A relative root is meant from where this is called. Raises `click.ClickException`, of which `serve` shows one line,
    where there is no such folder.
    """
    root = _whole(arguments.root)
    if root != arguments.root and not (Path(root).is_dir() and os.access(root, os.R_OK | os.X_OK)):
        raise click.ClickException(f"root={arguments.root}: no folder that can be read at {root}; check the path")
    bound: Any = Models
    return bound.bind(arguments.model_copy(update={"root": root}))


def _show(registry: CollectorRegistry, port: int) -> None:
    def bind() -> None:
        # While a rolling update lasts, the replica that this one replaces may hold the port.
        while True:
            try:
                start_http_server(port, registry=registry)
                return
            except OSError as e:
                _log.info("metrics aren't shown on port %s yet: %s", port, e)
                time.sleep(_SECONDS_UNTIL_THE_PORT_IS_TRIED_AGAIN)

    threading.Thread(target=bind, name="metrics", daemon=True).start()
