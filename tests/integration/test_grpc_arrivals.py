"""Messages over gRPC that are never sent whole: whom they are read for, for how long, and whom they keep waiting."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from tritonclient.grpc import aio as triton

from tests.bundles import picture
from vitruvian.bundle import open_bundle
from vitruvian.inference.access.guard import Guard
from vitruvian.inference.grpc import arrivals
from vitruvian.inference.grpc import server as grpc_server
from vitruvian.inference.grpc.messages import message
from vitruvian.inference.server import Extras, Server
from vitruvian.inference.service import Settings

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    yield from _serving(store, Settings(), Extras(grpc_port=0))


def _serving(store: Path, settings: Settings, extras: Extras) -> Iterator[str]:
    server = Server(open_bundle(store), settings=settings, extras=extras).start()
    assert server.grpc_address is not None
    yield server.grpc_address
    server.stop()


async def _never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _call(channel: grpc.aio.Channel, route: str, messages: AsyncIterator[bytes]) -> Any:
    kind = channel.stream_stream if route == STREAM else channel.stream_unary
    return kind(route)(messages, timeout=60)


async def _code(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


async def _infer(address: str) -> Any:
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([picture("red")], dtype=np.object_))
    async with triton.InferenceServerClient(address) as client:
        return (await client.infer("yoga", [image])).as_numpy("label")[0]


class InferStream:
    """One stream, on which a picture is sent now and then."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.stream_stream(STREAM)()

    async def infer(self) -> str:
        request = message("inference.ModelInferRequest")(model_name="yoga")
        request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(picture("red"))
        await self._call.write(request.SerializeToString())
        answer = message("inference.ModelStreamInferResponse").FromString(await self._call.read()).infer_response
        (label,) = (output for output in answer.outputs if output.name == "label")
        return str(label.contents.bytes_contents[0].decode())

    async def code(self) -> grpc.StatusCode:
        return await _code(self._call)


def run(address: str, what: Callable[[grpc.aio.Channel], Awaitable[None]]) -> None:
    async def ask() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            await what(channel)

    asyncio.run(ask())


@pytest.mark.parametrize("route", [INFER, STREAM])
def test_who_isnt_known_is_refused_before_a_message_is_read(store: Path, tmp_path: Path, route: str) -> None:
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": []}))
    (tmp_path / "access.yaml").write_text("keys: keys.yaml\n")
    extras = Extras(grpc_port=0, guard=lambda: Guard.open(tmp_path / "access.yaml"))

    async def ask(channel: grpc.aio.Channel) -> None:
        assert await _code(_call(channel, route, _never())) is grpc.StatusCode.UNAUTHENTICATED

    for address in _serving(store, Settings(), extras):
        run(address, ask)


def test_a_message_that_never_comes_ends_its_call(store: Path) -> None:
    async def ask(channel: grpc.aio.Channel) -> None:
        assert await _code(_call(channel, INFER, _never())) is grpc.StatusCode.DEADLINE_EXCEEDED

    for address in _serving(store, Settings(body_seconds=0.5), Extras(grpc_port=0)):
        run(address, ask)


def test_messages_that_never_come_keep_neither_others_nor_probes_from_their_answers(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_GRACE_SECONDS", 0.2)

    for address in _serving(store, Settings(max_bodies=20_000_000), Extras(grpc_port=0)):

        async def ask(channel: grpc.aio.Channel, address: str = address) -> None:
            stuck = [_call(channel, INFER, _never()) for _ in range(40)]
            await asyncio.sleep(0.5)
            async with triton.InferenceServerClient(address) as client:
                assert await client.is_server_live()
                assert await client.is_server_ready()
                assert (await client.get_model_metadata("yoga")).name == "yoga"
            assert await _infer(address) == b"red"
            for call in stuck:
                call.cancel()

        run(address, ask)


def test_many_calls_on_one_channel_are_all_answered(address: str) -> None:
    async def ask(channel: grpc.aio.Channel) -> None:
        image = triton.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([picture("red")], dtype=np.object_))
        async with triton.InferenceServerClient(address) as client:
            answers = await asyncio.gather(*(client.infer("yoga", [image]) for _ in range(128)))
        assert {answer.as_numpy("label")[0] for answer in answers} == {b"red"}

    run(address, ask)


@pytest.mark.parametrize("message", [None, b"\xff\xff\xff", b"\0" * 30_000_000])
def test_no_message_an_unreadable_and_too_large_a_one_are_the_clients_fault(
    address: str, message: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def one() -> AsyncIterator[bytes]:
        assert message is not None
        yield message

    async def ask(channel: grpc.aio.Channel) -> None:
        code = await _code(_call(channel, INFER, _nothing() if message is None else one()))
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert await _infer(address) == b"red"

    run(address, ask)
    assert "Traceback" not in caplog.text


def test_an_unreadable_message_ends_its_stream_as_the_clients_fault(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    async def ask(channel: grpc.aio.Channel) -> None:
        assert await _code(_call(channel, STREAM, one())) is grpc.StatusCode.INVALID_ARGUMENT

    run(address, ask)
    assert "Traceback" not in caplog.text


def test_so_many_streams_and_no_more_are_open_at_once(address: str) -> None:
    async def ask(channel: grpc.aio.Channel) -> None:
        streams = [_call(channel, STREAM, _never()) for _ in range(30)]
        ended = [asyncio.ensure_future(_code(stream)) for stream in streams]
        done, _ = await asyncio.wait(ended, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert {each.result() for each in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await _infer(address) == b"red"
        for stream in streams:
            stream.cancel()

    run(address, ask)


def test_streams_hold_no_more_than_bodies_may(store: Path) -> None:
    for settings, most in (
        (Settings(), 25),
        (Settings(max_body=1_000_000), 64),
        (Settings(max_body=20_000_000, max_bodies=100_000_000), 16),
    ):

        async def ask(channel: grpc.aio.Channel, most: int = most) -> None:
            streams = [_call(channel, STREAM, _never()) for _ in range(most + 3)]
            ended = [asyncio.ensure_future(_code(stream)) for stream in streams]
            async with asyncio.timeout(30):
                while sum(each.done() for each in ended) < 3:
                    await asyncio.sleep(0.05)
            for stream in streams:
                stream.cancel()
            assert (await asyncio.gather(*ended)).count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3

        for address in _serving(store, settings, Extras(grpc_port=0)):
            run(address, ask)


def test_a_stream_may_be_silent_until_another_needs_its_place(store: Path) -> None:
    async def ask(channel: grpc.aio.Channel) -> None:
        silent = [InferStream(channel) for _ in range(16)]
        for stream in silent:
            assert await stream.infer() == "red"
        # Longer than a message may take to arrive.
        await asyncio.sleep(1.5)
        for stream in silent:
            assert await stream.infer() == "red"
        await asyncio.sleep(1)
        assert await silent[0].infer() == "red"
        newcomer = InferStream(channel)
        assert await newcomer.infer() == "red"
        assert await silent[1].code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for stream in (silent[0], *silent[2:], newcomer):
            assert await stream.infer() == "red"

    settings = Settings(body_seconds=0.5, max_bodies=100_000_000)
    for address in _serving(store, settings, Extras(grpc_port=0)):
        run(address, ask)


def test_who_has_vanished_amid_a_message_is_hung_up_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(grpc_server._OPTIONS)["grpc.keepalive_time_ms"] <= 60_000
    sooner = {"grpc.keepalive_time_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    monkeypatch.setattr(grpc_server, "_OPTIONS", tuple((dict(grpc_server._OPTIONS) | sooner).items()))
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": STREAM,
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    head = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    half = b"\0" + (1_000_000).to_bytes(4, "big") + b"half"
    for address in _serving(store, Settings(), Extras(grpc_port=0)):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            raw.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4) + _frame(4, 1) + _frame(1, 4, head) + _frame(0, 0, half)
            )
            # Nobody answers the server's pings.
            with suppress(ConnectionError):
                while raw.recv(65536):
                    pass


def _frame(kind: int, flags: int = 0, content: bytes = b"") -> bytes:
    """Return a frame of HTTP/2: settings (4) of the connection, headers (1) and data (0) of its first stream."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + (kind != 4).to_bytes(4, "big") + content


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
