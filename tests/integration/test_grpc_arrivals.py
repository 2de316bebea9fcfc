"""Messages over gRPC that are never sent whole: whom they are read for, for how long, and whom they keep waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
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


def test_so_many_streams_and_no_more_are_open_at_once(address: str) -> None:
    async def ask(channel: grpc.aio.Channel) -> None:
        streams = [_call(channel, STREAM, _never()) for _ in range(70)]
        ended = [asyncio.ensure_future(_code(stream)) for stream in streams]
        done, _ = await asyncio.wait(ended, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert {each.result() for each in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await _infer(address) == b"red"
        for stream in streams:
            stream.cancel()

    run(address, ask)
