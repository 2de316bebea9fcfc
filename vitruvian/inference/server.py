"""Listening on a port, and the end of it: not ready at once, going on while proxies learn that, then draining."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette

from vitruvian.bundle import Bundle
from vitruvian.errors import VitruvianError
from vitruvian.inference.app import create_admin, create_app
from vitruvian.inference.challenger import open_challenger
from vitruvian.inference.connections import HEAD_SECONDS, MOST_HEAD_BYTES, Count, counted_by
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.processes import Board, run
from vitruvian.inference.rules import Rules
from vitruvian.inference.service import Service, Settings, State
from vitruvian.inference.startup import Startup
from vitruvian.machine import keep_small_memory, usable_cpus

if TYPE_CHECKING:
    from vitruvian.inference.access.guard import Guard
    from vitruvian.inference.access.tls import Tls
    from vitruvian.inference.grpc.server import GrpcServer
    from vitruvian.inference.remote.fetch import Fetcher

_log = logging.getLogger(__name__)
_KEEP_ALIVE_SECONDS = 75
_TICKS_OF_A_BEAT = 5
"""Uvicorn's main loop ticks ten times a second."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


@dataclass(frozen=True)
class Extras:
    """What a server may have beside predictions on its main port."""

    grpc_port: int | None = None
    """Where the Open Inference Protocol is spoken over gRPC."""
    admin_port: int | None = None
    """Where health and metrics are shown instead of on the main port."""
    fetcher: Callable[[], Fetcher] | None = None
    """Makes what gets pictures by their URLs."""
    guard: Callable[[], Guard] | None = None
    """Makes what lets requests in or not."""
    tls: Tls | None = None
    """Certificates of the main port and gRPC's."""
    challenger: str | None = None
    """The address of the bundle that is tried beside the other."""
    rules: Rules | None = None
    """What the challenger gets of the traffic."""
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)
    """Sockets that are bound already, by what they are for: `http`, `grpc`, `admin`."""


def serve(
    bundle: Bundle,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    settings: Settings | None = None,
    startup: Startup | None = None,
    extras: Extras | None = None,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer for a bundle until SIGTERM or Ctrl-C; what was accepted before is still answered.

    `announce` is told the address once the server is ready. Raises `VitruvianError` where the address can't be used,
    `BundleError` where the bundle can't be served.
    """
    server = Server(bundle, host, port, settings=settings, startup=startup, extras=extras)
    server.run(lambda: announce(server.address))


def serve_in_processes(
    bundle: Bundle,
    host: str,
    port: int,
    count: int,
    *,
    settings: Settings | None = None,
    extras: Extras | None = None,
    announce: Callable[[str], None] = lambda address: None,
) -> int:
    """Answer for a bundle in so many processes that share the CPUs, until SIGTERM or Ctrl-C; return the exit code.

    Call `processes.prepare_metrics` before anything imports this module. Raises as `serve` does.
    """
    settings, extras = settings or Settings(), extras or Extras()
    sockets = _bound(host, port, extras)
    shared = replace(extras, sockets=sockets)
    each = replace(settings, max_bodies=settings.max_bodies // count)
    address = _url(host, sockets["http"].getsockname()[1], "https" if extras.tls else "http")

    def work(slot: int, board: Board) -> int:
        os.environ["VITRUVIAN_CPUS"] = str(max(1, usable_cpus() // count))
        server = Server(bundle, host, port, settings=each, extras=shared, ready_first=True)
        server.beat = lambda: board.beat(slot, server.service.state is State.READY)
        server.others_go_on = lambda: not board.ends
        server.run()
        return 0

    return run(
        count,
        work,
        linger=settings.linger_seconds,
        drain=settings.drain_seconds,
        tell=lambda: announce(address),
    )


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
        extras: Extras | None = None,
        ready_first: bool = False,
    ) -> None:
        settings, startup, extras = settings or Settings(), startup or Startup(), extras or Extras()
        _allow_many_connections()
        keep_small_memory()
        # First the ports: loading a large model only to find one taken wastes a minute.
        self._sockets = _bound(host, port, extras)
        try:
            guard = extras.guard and extras.guard()
            with startup.time("load"):
                lanes = settings.lanes or usable_cpus()
                predictor = Predictor.open(bundle, threads=max(1, usable_cpus() // lanes), lanes=lanes)
            app = create_app(
                predictor,
                settings,
                startup=startup,
                settled=self._settled,
                fetcher=extras.fetcher and extras.fetcher(),
                challenger=_challenger(extras, bundle, settings),
                rules=extras.rules,
                admin=extras.admin_port is None,
                guard=guard,
                around=_bounds(settings, grpc="grpc" in self._sockets),
            )
        except BaseException:
            for bound in self._sockets.values():
                bound.close()
            raise
        self.address = _url(host, self._sockets["http"].getsockname()[1], "https" if extras.tls else "http")
        self.service: Service = app.state.service
        self.grpc_address: str | None = None
        grpc_server = None
        if "grpc" in self._sockets:
            from vitruvian.inference.grpc.server import GrpcServer

            self.grpc_address = f"{_named(host)}:{self._sockets['grpc'].getsockname()[1]}"
            bound_to = f"{_bracketed(host)}:{self._sockets['grpc'].getsockname()[1]}"
            grpc_server = GrpcServer(
                app.state.tracks,
                bound_to,
                max_message=settings.max_body,
                max_messages=settings.max_bodies,
                message_seconds=settings.body_seconds,
                credentials=extras.tls and extras.tls.grpc_credentials(),
                guard=guard,
            )
        self._ready: Callable[[], None] = lambda: None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.beat: Callable[[], None] = lambda: None
        """Called twice a second while the event loop moves."""
        self.others_go_on: Callable[[], bool] = lambda: False
        """Whether other processes accept from the same socket after this one has ended."""
        count = self.service.metrics.answered
        admin = None
        if "admin" in self._sockets:
            # Without a start and an end of its own: it shows what the other application is.
            admin = _Beside(_config(create_admin(self.service), settings, count, lifespan="off"))
        context = extras.tls.context if extras.tls else None
        self._uvicorn = _Uvicorn(_config(app, settings, count, context=context), self.service, admin, self._sockets)
        self._uvicorn.tls = extras.tls
        self._uvicorn.grpc_server = grpc_server
        self._uvicorn.ready_first = ready_first
        self._uvicorn.beat = lambda: self.beat()
        self._uvicorn.others_go_on = lambda: self.others_go_on()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer until a signal or `stop`.

        `ready` is called once, in another thread, and may send requests; what it raises ends the server and is raised
        here. Raises `BundleError` for a wrong golden answer.
        """
        self._ready = ready
        try:
            self._uvicorn.run(sockets=[self._sockets["http"]])
        finally:
            for bound in self._sockets.values():
                bound.close()
            self.service.settled.set()
        failure = self.service.failure or self._failure
        if failure is not None:
            raise failure

    def start(self) -> Server:
        """Answer from a thread of its own; returns once ready, raises `BundleError` for a wrong golden answer."""
        self._thread = threading.Thread(
            target=self._uvicorn.run, args=([self._sockets["http"]],), name="server", daemon=True
        )
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


def _challenger(extras: Extras, champion: Bundle, settings: Settings) -> Callable[[], Predictor] | None:
    if extras.challenger is None:
        return None
    return partial(open_challenger, extras.challenger, champion, settings, extras.rules or Rules())


def _bounds(settings: Settings, *, grpc: bool) -> dict[str, dict[str, float] | None]:
    """Return the limits of what is around the application, as `GET /limits` tells them."""
    connections = {
        "max_head": MOST_HEAD_BYTES,
        "head_seconds": HEAD_SECONDS,
        "keep_alive_seconds": _KEEP_ALIVE_SECONDS,
    }
    if not grpc:
        return {"connections": connections, "grpc": None}
    from vitruvian.inference.grpc.server import limits

    calls = limits(settings.max_body, settings.max_bodies)
    return {"connections": connections, "grpc": {**calls, "message_seconds": settings.body_seconds}}


def _config(
    app: Starlette,
    settings: Settings,
    count: Count,
    *,
    lifespan: Any = "on",
    context: ssl.SSLContext | None = None,
) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=counted_by(count),
        loop="uvloop",
        ws="none",
        lifespan=lifespan,
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
    if context is not None:
        config.load()
        config.ssl = context
    return config


class _Uvicorn(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        admin: _Beside | None,
        sockets: Mapping[str, socket.socket],
    ) -> None:
        super().__init__(config)
        self._service = service
        self._admin = admin
        self._sockets = sockets
        self._lingering: threading.Timer | None = None
        self._signalled = False
        self.beat: Callable[[], None] = lambda: None
        self.others_go_on: Callable[[], bool] = lambda: False
        self.ready_first = False
        self.grpc_server: GrpcServer | None = None
        self.tls: Tls | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.ready_first:
            await self._service.start()
            if self._service.failure is not None:
                self.should_exit = True
                return
        if self.grpc_server is not None:
            try:
                await self.grpc_server.start()
            except VitruvianError as e:
                self._service.failure = e
                self.should_exit = True
                return
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        most = self._service.settings.drain_seconds
        self._say(f"ends: takes nothing more, and answers what it has taken within {most:g} s")
        ending = [super().shutdown(sockets)]
        if self.grpc_server is not None:
            ending.append(self.grpc_server.stop(most))
        await asyncio.gather(*ending)
        self._say("has ended")

    def _say(self, what: str) -> None:
        # Of several processes the parent says it; and who calls `stop` knows.
        if self._signalled and not self.ready_first:
            print(what, file=sys.stderr, flush=True)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_OF_A_BEAT == 0:
            self._service.metrics.refresh()
            self.beat()
            if self.tls is not None:
                self.tls.look()
        return await super().on_tick(counter)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        if self._admin is None:
            await super().serve(sockets)
            return
        beside = asyncio.create_task(self._admin.serve([self._sockets["admin"]]))
        try:
            await super().serve(sockets)
        finally:
            # Last of all: it tells what happens until the end.
            self._admin.should_exit = True
            await beside

    def end(self) -> None:
        # At once, so that no probe finds the server ready; what reaches its sockets until they are closed is answered.
        self._service.leave()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Uvicorn would raise the signal again at the end and so die by it; a server asked to stop exits with 0.
        self._signalled = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        seconds = self._service.settings.linger_seconds
        if sig == signal.SIGINT or not seconds or self._service.state is not State.READY:
            self.end()
            return
        self._service.leave()
        if self.others_go_on():
            # A connection that the others can take is better with them. In the loop: this is a signal's handler.
            for server in self.servers:
                server.get_loop().call_soon_threadsafe(server.close)
        _log.info("not ready any more; answers for %g s yet", seconds)
        self._lingering = threading.Timer(seconds, self.end)
        self._lingering.daemon = True
        self._lingering.start()


class _Beside(uvicorn.Server):
    """A server in the loop of another, which alone hears signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bound(host: str, port: int, extras: Extras) -> dict[str, socket.socket]:
    """Return a bound socket for each port that is wanted; raises `VitruvianError`."""
    wanted = {"http": port, "grpc": extras.grpc_port, "admin": extras.admin_port}
    _check_apart(wanted)
    sockets: dict[str, socket.socket] = {}
    try:
        for name, number in wanted.items():
            if number is not None:
                # gRPC binds by itself: this one holds the port, and tells which it is.
                sockets[name] = extras.sockets.get(name) or listen(host, number, shared=name == "grpc")
    except VitruvianError:
        for bound in sockets.values():
            bound.close()
        raise
    return sockets


def _check_apart(wanted: Mapping[str, int | None]) -> None:
    # gRPC shares its port with other processes, so the system wouldn't refuse it.
    flags: dict[int, str] = {}
    for name, number in wanted.items():
        flag = "--port" if name == "http" else f"--{name}-port"
        if not number:
            continue
        if number in flags:
            hint = "give each a port of its own"
            raise VitruvianError(f"{flags[number]} and {flag} are the same port", where=str(number), hint=hint)
        flags[number] = flag


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket bound to an address, which others of this user may share where that is said.

    Raises `VitruvianError` saying why it can't be.
    """
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
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
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


def _url(host: str, port: int, scheme: str) -> str:
    return f"{scheme}://{_named(host)}:{port}"


def _named(host: str) -> str:
    """Return what clients on this machine call a host that a server listens on."""
    return _bracketed(_EVERYWHERE.get(host, host))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host or "[::]"
