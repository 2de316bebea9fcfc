"""The client against real servers: what it returns, what it raises, and when it asks again."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bundles import heatmaps, make_bundle, picture
from vitruvian.bundle import open_bundle
from vitruvian.client import AsyncInferenceClient, InferenceClient, InferenceError, NoAnswer, Prediction
from vitruvian.inference.server import Server


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root, clip=True)
    server = Server(open_bundle(root / "store")).start()
    yield server.address
    server.stop()


def test_a_picture_may_be_given_in_many_ways(address: str, tmp_path: Path) -> None:
    content = picture("blue")
    (tmp_path / "a.png").write_bytes(content)
    with InferenceClient(address) as client:
        array = np.zeros((20, 30, 3), np.uint8)
        array[..., 2] = 255
        given = (content, tmp_path / "a.png", str(tmp_path / "a.png"), array, Image.fromarray(array))
        assert [client.predict(one).label for one in given] == ["blue"] * 5
        found = client.predict_from_image_path(tmp_path / "a.png")
        assert isinstance(found, Prediction)
        assert (found.classifier, found.version) == ("yoga", "v1")
        assert found.confidence == max(found.scores.values())
        assert client.is_ready()
        assert client.about()["labels"] == ["red", "green", "blue"]
        assert client.limits()["lanes"] >= 1


def test_a_batch_takes_what_one_picture_takes(address: str) -> None:
    more: dict[str, Any] = {"labels": ["yellow", "white"], "templates": ["a {}"], "precision": "fp32", "top_k": 1}

    def shown(answers: list[Prediction | InferenceError]) -> list[dict[str, float]]:
        return [answer.scores for answer in answers if isinstance(answer, Prediction)]

    async def ask() -> list[Prediction | InferenceError]:
        async with AsyncInferenceClient(address) as client:
            return await client.predict_batch([picture("yellow")], **more)

    with InferenceClient(address) as client:
        alone = client.predict(picture("yellow"), **more).scores
        assert list(alone) == ["yellow"]
        assert shown(client.predict_batch([picture("yellow")] * 2, **more)) == [alone, alone]
        assert shown(asyncio.run(ask())) == [alone]


def test_labels_embeddings_and_batches_are_asked_for_alike(address: str) -> None:
    with InferenceClient(address) as client:
        assert client.predict(picture("yellow"), labels=["yellow", "white"], templates=["a {}"]).label == "yellow"
        assert list(client.predict(picture("red"), top_k=1).scores) == ["red"]
        assert client.predict(picture("red"), precision="fp32").label == "red"
        texts = client.embed_texts(["red", "blue"])
        (image,) = client.embed_images([picture("blue")])
        assert np.argmax(texts @ image) == 1
        good, bad = client.predict_batch([picture("green"), b"junk"])
        assert isinstance(good, Prediction) and good.label == "green"
        assert isinstance(bad, InferenceError) and "not an image" in bad.detail


def test_the_asynchronous_client_asks_many_at_once(address: str) -> None:
    async def ask() -> Sequence[str]:
        async with AsyncInferenceClient(address) as client:
            assert await client.is_ready()
            assert (await client.embed_texts(["red"])).shape == (1, 3)
            assert (await client.about())["classifier"] == "yoga"
            assert (await client.limits())["lanes"] >= 1
            colours = ["red", "green", "blue"] * 5
            found = await asyncio.gather(*(client.predict(picture(colour)) for colour in colours))
            return [one.label for one in found]

    assert asyncio.run(ask()) == ["red", "green", "blue"] * 5


def test_heatmaps_are_predicted_as_arrays(tmp_path: Path) -> None:
    make_bundle(tmp_path, "heatmap")
    server = Server(open_bundle(tmp_path / "store")).start()
    try:
        with InferenceClient(server.address) as client:
            assert client.predict(heatmaps(1)).label == "green"
    finally:
        server.stop()


def test_a_refusal_is_an_error_with_its_kind_that_travels_between_processes(address: str) -> None:
    with InferenceClient(address) as client, pytest.raises(InferenceError) as refused:
        client.predict(b"junk")
    error = pickle.loads(pickle.dumps(refused.value))
    assert (error.status, error.kind) == (422, "unusable-input")
    assert error.request_id and "not an image" in str(error)
    with InferenceClient(address) as client, pytest.raises(InferenceError, match="switched off"):
        client.predict_from_image_url("http://127.0.0.1/x.png")


def test_a_file_that_cant_be_used_is_named_by_its_path(address: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(picture("green"))
    bad.write_bytes(b"junk")
    with InferenceClient(address) as client:
        for ask in (client.predict, client.predict_from_image_path):
            with pytest.raises(InferenceError) as refused:
                ask(bad)
            assert str(refused.value).startswith(f"{bad}: ") and "image:" not in str(refused.value)
        with pytest.raises(InferenceError, match=r"^.*bad\.png: "):
            client.embed_images([str(good), str(bad)])
        first, second = client.predict_batch([good, bad])
    assert isinstance(first, Prediction)
    assert isinstance(second, InferenceError) and str(second).startswith(f"{bad}: ")


def test_the_constructors_say_what_they_take() -> None:
    for kind in (InferenceClient, AsyncInferenceClient):
        assert list(inspect.signature(kind).parameters) == ["url", "api_key", "timeout", "headers"]


# Servers that misbehave


@contextmanager
def answering(*answers: bytes | None) -> Iterator[tuple[str, list[float]]]:
    """Answer each connection with the next of the answers, None: close it; yield address and when each was asked."""
    times: list[float] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(20)

        def work() -> None:
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 20)
                    times.append(time.monotonic())
                    if answer is not None:
                        connection.sendall(answer)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", times


def reply(status: int, document: Any, **headers: str) -> bytes:
    body = json.dumps(document).encode()
    head = {"Content-Length": str(len(body)), "Content-Type": "application/json", "Connection": "close", **headers}
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status} X\r\n{fields}\r\n".encode() + body


FINE = reply(
    200,
    {
        "classifier": "yoga",
        "version": "v1",
        "label": "tree",
        "confidence": 0.9,
        "predictions": [{"class_name": "tree", "score": 0.9}],
    },
)


@pytest.mark.parametrize(
    "first",
    [
        reply(503, {}),
        reply(502, "not even a document"),
        reply(429, {}, Retry_After="1"),
        None,
        FINE[:40],
        FINE[:-20],
    ],
    ids=["503", "502", "429", "closed", "cut off in its head", "cut off in its body"],
)
def test_what_may_pass_by_itself_is_asked_for_again(first: bytes | None) -> None:
    with answering(first, FINE) as (address, times), InferenceClient(address, timeout=10) as client:
        assert client.predict(b"x").label == "tree"
        if first is not None and b"Retry-After" in first:
            assert times[1] - times[0] >= 1


def test_what_wont_pass_by_itself_is_asked_for_once() -> None:
    with answering(reply(422, {"detail": "no"}), FINE) as (address, times), InferenceClient(address) as client:
        with pytest.raises(InferenceError, match="no"):
            client.predict(b"x")
        assert len(times) == 1


def test_nobody_waits_longer_than_the_timeout() -> None:
    began = time.monotonic()
    busy = reply(429, {"detail": "busy"}, Retry_After="60")
    refused = pytest.raises(InferenceError, match="busy")
    with answering(busy) as (address, _), InferenceClient(address, timeout=1) as client, refused:
        client.predict(b"x")
    with InferenceClient("http://127.0.0.1:9", timeout=1) as client, pytest.raises(NoAnswer, match="no answer"):
        client.predict(b"x")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("name", ["nofile.png", "."])
def test_a_path_that_cant_be_read_is_pythons_own_error_and_nobody_is_asked(name: str) -> None:
    expected = FileNotFoundError if name == "nofile.png" else IsADirectoryError

    async def ask() -> None:
        # Nobody is there: whoever asks gets NoAnswer.
        async with AsyncInferenceClient("http://127.0.0.1:9", timeout=1) as client:
            with pytest.raises(expected, match=name):
                await client.predict(name)
            with pytest.raises(expected, match=name):
                await client.predict_batch([picture("red"), name])

    asyncio.run(ask())
    with InferenceClient("http://127.0.0.1:9", timeout=1) as client:
        for failing in (client.predict, client.predict_from_image_path):
            with pytest.raises(expected, match=name):
                failing(name)
        for asked in (client.predict_batch, client.embed_images):
            with pytest.raises(expected, match=name):
                asked([name])
