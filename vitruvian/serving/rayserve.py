"""A bundle on Ray Serve, with the HTTP contract of `vitruvian serve`.

serve run vitruvian.serving.rayserve:app bundle=s3://BUCKET/PREFIX
"""

# No postponed annotations here: Serve reads those of `app` to check what it is given.
import logging
import os
import threading
import time
from typing import Any, Literal

from prometheus_client import CollectorRegistry, start_http_server
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from vitruvian.bundle import open_bundle
from vitruvian.inference.app import create_app
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.service import Settings
from vitruvian.inference.startup import Startup

METRICS_PORT = "VITRUVIAN_METRICS_PORT"
"""The environment variable with the port on which a replica shows its metrics; unset: only through the proxy."""

_log = logging.getLogger("ray.serve")
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


# A server judges itself how much it takes on, and refuses more with 429, as it does without Ray.
@serve.deployment(max_ongoing_requests=1000)
@serve.ingress()
class Server:
    """One replica: ready once the golden example was predicted and matched."""

    def __init__(self, arguments: Arguments) -> None:
        startup = Startup()
        with startup.time("fetch" if arguments.bundle.startswith("s3://") else "verify"):
            bundle = open_bundle(arguments.bundle)
        bundle = bundle.named(arguments.name) if arguments.name else bundle
        with startup.time("load"):
            predictor = Predictor.open(bundle)
        self._app = create_app(predictor, Settings(track=arguments.track), startup=startup, ready_first=True)
        if port := os.environ.get(METRICS_PORT):
            _show(self._app.state.service.metrics.registry, int(port))

    def __serve_build_asgi_app__(self) -> Starlette:
        return self._app


def app(arguments: Arguments) -> Application:
    """Return the Serve application for a bundle; `serve run` and a RayService build it."""
    bound: Any = Server
    return bound.bind(arguments)


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
