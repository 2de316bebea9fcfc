"""Listening on a port."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from vitruvian.bundle import Bundle
from vitruvian.errors import VitruvianError
from vitruvian.inference.app import create_app
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.service import Service, Settings, State
from vitruvian.inference.startup import Startup
from vitruvian.machine import usable_cpus

_KEEP_ALIVE_SECONDS = 75
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def serve(
    bundle: Bundle,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    settings: Settings | None = None,
    startup: Startup | None = None,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer for a bundle until SIGTERM or Ctrl-C; what was accepted before is still answered.

    `announce` is told the address once the server is ready. Raises `VitruvianError` where the address can't be used,
    `BundleError` where the bundle can't be served.
    """
    server = Server(bundle, host, port, settings=settings, startup=startup)
    server.run(lambda: announce(server.address))


class Server:
    """A server for one bundle: in this thread with `run`, or in one of its own between `start` and `stop`.

    Port 0 takes any free port. Raises `VitruvianError` where the address can't be used, `BundleError` where the bundle
    can't be opened.
    """

    def __init__(
        self,
        bundle: Bundle,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        settings: Settings | None = None,
        startup: Startup | None = None,
    ) -> None:
        settings, startup = settings or Settings(), startup or Startup()
        # First the port: loading a large model only to find it taken wastes a minute.
        self._socket = listen(host, port)
        try:
            with startup.time("load"):
                lanes = settings.lanes or usable_cpus()
                predictor = Predictor.open(bundle, threads=max(1, usable_cpus() // lanes), lanes=lanes)
            app = create_app(predictor, settings, startup=startup, settled=self._settled)
        except BaseException:
            self._socket.close()
            raise
        self.address = _url(host, self._socket.getsockname()[1])
        self.service: Service = app.state.service
        self._ready: Callable[[], None] = lambda: None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        config = uvicorn.Config(
            app,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.drain_seconds),
        )
        self._uvicorn = _Uvicorn(config, self.service)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer until a signal or `stop`.

        `ready` is called once, in another thread, and may send requests; what it raises ends the server and is raised
        here. Raises `BundleError` for a wrong golden answer.
        """
        self._ready = ready
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self.service.settled.set()
        failure = self.service.failure or self._failure
        if failure is not None:
            raise failure

    def start(self) -> Server:
        """Answer from a thread of its own; returns once ready, raises `BundleError` for a wrong golden answer."""
        self._thread = threading.Thread(target=self._uvicorn.run, args=([self._socket],), name="server", daemon=True)
        self._thread.start()
        while not self.service.settled.wait(0.1):
            if not self._thread.is_alive():
                raise VitruvianError("the server ended before it was ready", where=self.address)
        if self.service.failure is not None:
            self.stop()
            raise self.service.failure
        return self

    def stop(self) -> None:
        """Answer what was accepted, then end."""
        self._uvicorn.end()
        if self._thread is not None:
            self._thread.join()

    def _settled(self) -> None:
        if self.service.state is State.READY:
            try:
                self._ready()
            except BaseException as e:
                self._failure = e
                self._uvicorn.end()
        elif self.service.state is State.FAILED:
            self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def end(self) -> None:
        # At once, so that no probe finds the server ready between now and the end of its sockets.
        self._service.drain()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Uvicorn would raise the signal again at the end and so die by it; a server asked to stop exits with 0.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.end()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; raises `VitruvianError` saying why it can't be."""
    where = f"{host}:{port}"
    try:
        if not 0 <= port < 1 << 16:
            raise OverflowError  # getaddrinfo would take it modulo 65536.
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as e:
        raise VitruvianError("is not an address of this machine", where=where, hint="check --host and --port") from e
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as e:
        bound.close()
        raise _refused(e, where) from e
    return bound


def _refused(error: Exception, where: str) -> VitruvianError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return VitruvianError(
            "the port is in use", where=where, hint="stop what listens there, or choose another --port"
        )
    if code == errno.EACCES:
        return VitruvianError("not allowed to use this port", where=where, hint="choose a --port above 1023")
    return VitruvianError("is not an address of this machine", where=where, hint="check --host and --port")


def _url(host: str, port: int) -> str:
    name = _EVERYWHERE.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
