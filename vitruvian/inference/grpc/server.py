"""A gRPC server over the same services as HTTP, in the same event loop."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from vitruvian.errors import VitruvianError
from vitruvian.inference import oip, triton
from vitruvian.inference.envelope import FORESEEN, problem_of
from vitruvian.inference.grpc import tensors
from vitruvian.inference.grpc.arrivals import Arrivals, Streams
from vitruvian.inference.grpc.messages import message, methods
from vitruvian.inference.labels import MOST_LABELS
from vitruvian.inference.problems import (
    FORBIDDEN,
    INTERNAL,
    LATE,
    NOT_FOUND,
    UNAUTHENTICATED,
    Problem,
)
from vitruvian.inference.service import Service, State
from vitruvian.inference.tracks import TOLD, Tracks, wanted

if TYPE_CHECKING:
    from vitruvian.inference.access.guard import Guard
    from vitruvian.inference.access.policy import Group

_log = logging.getLogger(__name__)
_INFERENCE, _HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
_PREDICTS = ("ModelInfer", "ModelStreamInfer")
_PROBES = ("ServerLive", "ServerReady", "ModelReady", "Check")
_ROOM_FOR_NAMES = 65_536
"""Bytes of a message beside its tensors."""
_LEAST_MESSAGES = 16
_MOST_QUESTIONS, _QUESTION_SECONDS = 8, 5.0
"""Messages on their way at once that ask for no prediction; each may be as large as those that do."""
_EMPTY = ("ServerLive", "ServerReady")
"""Methods whose messages say nothing: they are answered without reading them, whatever else is on its way."""
_MOST_STREAMS = 64
"""Streams of messages at once, where so many messages have room."""
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    # Several processes share the port.
    ("grpc.so_reuseport", 1),
    # Else what isn't read yet may be 8 MB; what is read gets the window that it needs.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 15_000),
    # Who has vanished would else be noticed after two hours, and what it began to send be kept for so long.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
)
_MOST_CALLS = 2048
"""Calls at once, those included of which no message is read yet: a stream that isn't read holds 64 kB."""

Handle = Callable[[Any, Any, "_Call"], Awaitable[Any]]


def limits(max_message: int, max_messages: int) -> dict[str, int]:
    """Return the bounds of a server whose messages hold so many bytes of tensors, one and all together."""
    most = max(_LEAST_MESSAGES, max_messages // max_message)
    return {
        "max_message": max_message + _ROOM_FOR_NAMES,
        "messages_at_once": most,
        "streams_at_once": min(_MOST_STREAMS, most),
        "calls_at_once": _MOST_CALLS,
    }


def _address(peer: str) -> str:
    """Return the address in what gRPC calls a peer, such as ipv4:127.0.0.1:5000."""
    return peer.partition(":")[2].rpartition(":")[0]


def _code(problem: Problem) -> grpc.StatusCode:
    if problem.kind is LATE:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return _CODES.get(problem.kind.status, grpc.StatusCode.UNKNOWN)


def _group(route: str) -> Group:
    name = route.rpartition("/")[2]
    return "predict" if name in _PREDICTS else "health" if name in _PROBES else "metadata"


async def _come(message: Any) -> Any:
    return message


class _Call:
    """What one call is answered with beside its message."""

    def __init__(self, context: Any, stable: Service) -> None:
        self.context = context
        self.metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        headers = {name.encode(): value.encode() for name, value in self.metadata.items()}
        self.request_id = self.metadata.get("x-request-id") or f"{random.getrandbits(128):032x}"
        self.state: dict[str, Any] = {"headers": headers, "service": stable}

    @property
    def service(self) -> Service:
        """The service that has taken it; the stable one until one has."""
        service: Service = self.state["service"]
        return service

    @property
    def said(self) -> list[tuple[str, str]]:
        """What of who answers is told beside the answer."""
        return [(name.decode(), value.decode()) for name, value in self.state.get("said", ()) if name in TOLD]


class GrpcServer:
    """Listens on a port of its own; `start`, `drain` and `stop` are called in the event loop."""

    def __init__(
        self,
        tracks: Tracks,
        address: str,
        *,
        max_message: int,
        max_messages: int = 512_000_000,
        message_seconds: float = 60.0,
        credentials: grpc.ServerCredentials | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._tracks = tracks
        self._address = address
        bounds = limits(max_message, max_messages)
        most = bounds["messages_at_once"]
        self._limit = bounds["max_message"]
        self._pictures = Arrivals(most, message_seconds)
        self._questions = Arrivals(_MOST_QUESTIONS, _QUESTION_SECONDS)
        self._streams = Streams(bounds["streams_at_once"], message_seconds)
        self._credentials = credentials
        self._guard = guard
        self._server: Any = None

    async def start(self) -> None:
        """Listen; raises `VitruvianError` where the address can't be used."""
        options = [("grpc.max_receive_message_length", self._limit), *_OPTIONS]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MOST_CALLS)
        self._server.add_generic_rpc_handlers([self._handlers(_INFERENCE), self._handlers(_HEALTH)])
        try:
            if self._credentials is None:
                self._server.add_insecure_port(self._address)
            else:
                self._server.add_secure_port(self._address, self._credentials)
        except RuntimeError as e:
            raise VitruvianError(
                "gRPC can't listen here", where=self._address, hint="choose another --grpc-port"
            ) from e
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Accept no more calls; those accepted are answered within so many seconds."""
        if self._server is not None:
            await self._server.stop(seconds)

    def _handlers(self, service: str) -> Any:
        made = {}
        for method in methods(service):
            handle: Handle = getattr(self, f"_{method.name}")
            route = f"/{service}/{method.name}"
            kind, answered = (
                (grpc.stream_stream_rpc_method_handler, self._answered_each)
                if method.streams
                # As a stream's, its one message isn't read before the guard was asked.
                else (grpc.stream_unary_rpc_method_handler, self._answered)
            )
            made[method.name] = kind(
                answered(route, handle, method.response),
                request_deserializer=method.request.FromString,
                response_serializer=method.response.SerializeToString,
            )
        return grpc.method_handlers_generic_handler(service, made)

    def _answered(self, route: str, handle: Handle, response: Any) -> Callable[[Any, Any], Awaitable[Any]]:
        """Return what answers a call, and turns problems into the protocol's codes."""
        name = route.rpartition("/")[2]
        arrivals = self._pictures if name in _PREDICTS else self._questions
        receive = _come if name in _EMPTY else arrivals.only

        async def answer(asked: AsyncIterator[Any], context: Any) -> Any:
            call = _Call(context, self._tracks.stable)
            made, problem = await self._counted(route, handle, response, partial(receive, asked), call)
            if problem is None:
                context.set_trailing_metadata((("x-request-id", call.request_id), *call.said))
                return made
            headers = ((name.lower(), value) for name, value in problem.headers.items())
            trailing = (("x-request-id", call.request_id), ("problem", problem.kind.slug), *call.said, *headers)
            return await context.abort(_code(problem), problem.detail, trailing)

        return answer

    def _answered_each(self, route: str, handle: Handle, response: Any) -> Callable[[Any, Any], AsyncIterator[Any]]:
        """Return what answers each message of a stream in turn; a problem is an answer, and the stream goes on."""

        async def answer(asked: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            stable = self._tracks.stable
            try:
                # Before a message of it is read.
                if self._guard is not None:
                    await self._guard.admit(_Call(context, stable).state["headers"], _group(route))
                async with self._streams.place():
                    while (one := await self._streams.next(asked)) is not None:
                        receive = partial(_come, one)
                        made, problem = await self._counted(route, handle, response, receive, _Call(context, stable))
                        if problem is not None and problem.kind in (UNAUTHENTICATED, FORBIDDEN):
                            break
                        yield made if problem is None else response(error_message=problem.detail)
                    else:
                        return
            except Problem as e:
                stable.metrics.answered(route, e.kind.status, 0.0)
                problem = e
            assert problem is not None
            await context.abort(_code(problem), problem.detail)

        return answer

    async def _counted(
        self, route: str, handle: Handle, response: Any, receive: Callable[[], Awaitable[Any]], call: _Call
    ) -> tuple[Any, Problem | None]:
        """Return the answer to one message, or what is wrong with it; counted either way."""
        began = time.perf_counter()
        made, problem = None, None
        call.service.metrics.in_flight.inc()
        try:
            if self._guard is not None:
                identity = await self._guard.check(call.state["headers"], _group(route), _address(call.context.peer()))
                if identity is not None:
                    call.state["identity"] = identity.name
            made = await handle(await receive(), response, call)
        except FORESEEN as e:
            problem = problem_of(e)
        except Exception:
            _log.exception("request %s failed", call.request_id)
            problem = Problem(INTERNAL, "this is the server's fault; its log has the details")
        finally:
            call.service.metrics.in_flight.dec()
        code = 200 if problem is None else problem.kind.status
        call.service.metrics.answered(route, code, time.perf_counter() - began)
        return made, problem

    # One method for each of the protocol's.

    async def _ServerLive(self, asked: Any, response: Any, call: _Call) -> Any:
        return response(live=True)

    async def _ServerReady(self, asked: Any, response: Any, call: _Call) -> Any:
        return response(ready=call.service.state is State.READY)

    async def _ModelReady(self, asked: Any, response: Any, call: _Call) -> Any:
        service = self._named(asked.name, asked.version)
        return response(ready=service.state is State.READY)

    async def _ServerMetadata(self, asked: Any, response: Any, call: _Call) -> Any:
        return response(**oip.server_metadata())

    async def _ModelMetadata(self, asked: Any, response: Any, call: _Call) -> Any:
        described = oip.model_metadata(self._named(asked.name, asked.version).predictor.bundle)
        return response(**{**described, "versions": self._tracks.versions})

    async def _ModelInfer(self, asked: Any, response: Any, call: _Call) -> Any:
        version = self._tracks.named(asked.model_name, asked.model_version)
        drawn, ticket = self._tracks.take(call.state, call.context.time_remaining(), version)
        share = drawn.bodies.share()
        try:
            share.add(asked.ByteSize())
            most = max(MOST_LABELS, drawn.settings.max_inputs)
            request, labels, templates = oip.take_texts(tensors.read(asked, most))
            ticket.limit(oip.timeout(request))
            precision = call.metadata.get("x-precision") or request.parameters.get("precision")
            floats = any(tensor.datatype == "FP32" for tensor in request.inputs)
            service = self._tracks.suited(call.state, drawn, tensors=floats, labels=labels, precision=precision)
            what = await wanted(call.state, service, labels, templates, precision, ticket)
            inputs = oip.inputs(request, service.predictor, service.settings.max_inputs, what)
            answers = oip.outputs(await service.predict(inputs, ticket))
        finally:
            share.end()
        info = service.predictor.bundle.info
        return tensors.write(request, info.name, info.version, answers)

    async def _ModelStreamInfer(self, asked: Any, response: Any, call: _Call) -> Any:
        return response(infer_response=await self._ModelInfer(asked, message("inference.ModelInferResponse"), call))

    async def _ModelStatistics(self, asked: Any, response: Any, call: _Call) -> Any:
        version = self._tracks.named(asked.name, asked.version) if asked.name else None
        return response(model_stats=self._tracks.statistics(version))

    async def _ModelConfig(self, asked: Any, response: Any, call: _Call) -> Any:
        service = self._named(asked.name, asked.version)
        return response(config=triton.configuration(service.predictor.bundle, service.settings.max_inputs))

    async def _RepositoryIndex(self, asked: Any, response: Any, call: _Call) -> Any:
        return response(models=self._tracks.indexed())

    async def _Check(self, asked: Any, response: Any, call: _Call) -> Any:
        if asked.service not in ("", _INFERENCE):
            raise Problem(NOT_FOUND, f"there is no service '{asked.service[:100]}' here")
        return response(status=1 if call.service.state is State.READY else 2)

    def _named(self, name: str, version: str) -> Service:
        return self._tracks.named(name, version) or self._tracks.stable
