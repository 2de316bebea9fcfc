"""Other systems' clients drive the server as they are: Triton's over HTTP and gRPC, KServe's over gRPC."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.grpc import aio as triton_grpc_aio
from tritonclient.http import aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from tests.bundles import LABELS, SIZE, make_bundle, picture
from vitruvian.bundle import Bundle, open_bundle
from vitruvian.inference.server import Extras, Server


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root, clip=True)
    return open_bundle(root / "store")


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    running = Server(bundle, extras=Extras(grpc_port=0)).start()
    yield running
    running.stop()


def http_address(server: Server) -> str:
    return server.address.removeprefix("http://")


def grpc_address(server: Server) -> str:
    assert server.grpc_address is not None
    return server.grpc_address


def pixels() -> Any:
    """Return a picture of each colour, as the model takes them."""
    array = np.zeros((3, 3, SIZE, SIZE), np.float32)
    for at in range(3):
        array[at, at] = 1
    return array


def tensors(kind: Any, **binary: bool) -> list[Any]:
    tensor = kind.InferInput("pixels", [3, 3, SIZE, SIZE], "FP32")
    tensor.set_data_from_numpy(pixels(), **binary)
    return [tensor]


def files(kind: Any, *colours: str) -> list[Any]:
    tensor = kind.InferInput("image", [len(colours)], "BYTES")
    tensor.set_data_from_numpy(np.array([picture(colour, format="JPEG") for colour in colours], dtype=np.object_))
    return [tensor]


@pytest.fixture(scope="module")
def expected(server: Server) -> Any:
    client = triton_http.InferenceServerClient(http_address(server))
    return client.infer("yoga", tensors(triton_http)).as_numpy("probabilities")


def labels(answer: Any) -> list[str]:
    return [label.decode() for label in answer.as_numpy("label")]


def test_tritons_http_client_gets_the_same_answer_by_every_way(server: Server, expected: Any) -> None:
    client = triton_http.InferenceServerClient(http_address(server), concurrency=4)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("yoga") and client.is_model_ready("yoga", "v1")
    assert client.get_server_metadata()["name"] == "vitruvian"
    assert client.get_model_metadata("yoga")["versions"] == ["v1"]
    assert client.get_model_repository_index()[0]["state"] == "READY"
    outputs = [triton_http.InferRequestedOutput("probabilities", binary_data=binary) for binary in (True, False)]
    answers = [
        client.infer("yoga", tensors(triton_http, binary_data=True), outputs=[outputs[0]]),
        client.infer("yoga", tensors(triton_http, binary_data=False), outputs=[outputs[1]]),
        client.infer("yoga", tensors(triton_http), request_compression_algorithm="gzip"),
        client.infer("yoga", tensors(triton_http), request_compression_algorithm="deflate"),
        client.infer("yoga", tensors(triton_http), request_id="42", priority=1, timeout=20_000_000),
        client.async_infer("yoga", tensors(triton_http)).get_result(),
        client.infer("yoga", tensors(triton_http), model_version="v1"),
    ]
    for answer in answers:
        assert (answer.as_numpy("probabilities") == expected).all()
    assert answers[4].get_response()["id"] == "42"
    assert labels(client.infer("yoga", files(triton_http, "blue", "red"))) == ["blue", "red"]


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: client.infer("other", tensors(triton_http)), "404"),
        (lambda client: client.infer("yoga", tensors(triton_http), model_version="9"), "404"),
        (lambda client: client.load_model("yoga"), "404"),
        (lambda client: client.get_system_shared_memory_status(), "404"),
        (lambda client: client.infer("yoga", files(triton_http, "blue") + tensors(triton_http)), "400"),
    ],
)
def test_tritons_http_client_is_told_what_there_isnt(server: Server, call: Any, status: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        call(triton_http.InferenceServerClient(http_address(server)))
    assert refused.value.status() == status or status in str(refused.value)


def test_tritons_asynchronous_clients_get_the_same_answer(server: Server, expected: Any) -> None:
    async def ask() -> list[Any]:
        http = triton_http_aio.InferenceServerClient(http_address(server))
        grpc = triton_grpc_aio.InferenceServerClient(grpc_address(server))
        found = [
            await http.infer("yoga", tensors(triton_http)),
            await grpc.infer("yoga", tensors(triton_grpc)),
        ]
        assert await http.is_server_ready() and await grpc.is_server_ready()
        await http.close()
        await grpc.close()
        return found

    for answer in asyncio.run(ask()):
        assert (answer.as_numpy("probabilities") == expected).all()


def test_tritons_grpc_client_gets_the_same_answer_by_every_way(server: Server, expected: Any) -> None:
    client = triton_grpc.InferenceServerClient(grpc_address(server))
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("yoga") and client.is_model_ready("yoga", "v1")
    assert "binary_tensor_data" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata("yoga", as_json=True)
    assert {entry["name"] for entry in metadata["inputs"]} == {"image", "pixels", "labels", "templates"}
    assert client.get_model_repository_index().models[0].state == "READY"
    there = threading.Event()
    called: list[Any] = []

    def done(result: Any, error: Any) -> None:
        called.extend((result, error))
        there.set()

    client.async_infer("yoga", tensors(triton_grpc), done)
    assert there.wait(30)
    assert called[1] is None
    answers = [
        client.infer("yoga", tensors(triton_grpc), request_id="42"),
        client.infer("yoga", tensors(triton_grpc), outputs=[triton_grpc.InferRequestedOutput("probabilities")]),
        client.infer("yoga", tensors(triton_grpc), model_version="v1", client_timeout=20, timeout=20_000_000),
        client.infer("yoga", tensors(triton_grpc), compression_algorithm="gzip"),
        called[0],
    ]
    for answer in answers:
        assert (answer.as_numpy("probabilities") == expected).all()
    assert answers[0].get_response().id == "42"
    assert labels(client.infer("yoga", files(triton_grpc, "blue", "red"))) == ["blue", "red"]


def test_tritons_tools_are_told_what_a_model_takes_and_has_done(server: Server) -> None:
    over_http = triton_http.InferenceServerClient(http_address(server))
    over_grpc = triton_grpc.InferenceServerClient(grpc_address(server))

    def counts() -> dict[str, Any]:
        (found,) = over_http.get_inference_statistics("yoga")["model_stats"]
        (same,) = over_grpc.get_inference_statistics("yoga", as_json=True)["model_stats"]
        for name in ("inference_count", "last_inference"):
            assert int(same[name]) == found[name]
        assert same["inference_stats"]["success"]["count"] == str(found["inference_stats"]["success"]["count"])
        return dict(found)

    began = int(time.time() * 1000)
    over_http.infer("yoga", tensors(triton_http))
    before = counts()
    over_http.infer("yoga", tensors(triton_http))
    over_grpc.infer("yoga", tensors(triton_grpc))
    with pytest.raises(InferenceServerException):
        over_http.infer("yoga", files(triton_http, "blue") + tensors(triton_http))
    after = counts()
    assert (after["name"], after["version"]) == ("yoga", "v1")
    assert began <= before["last_inference"] <= after["last_inference"] <= time.time() * 1000
    assert after["inference_count"] - before["inference_count"] == 6
    assert 1 <= after["execution_count"] - before["execution_count"] <= 6
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 2
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    # What of the whole time is whose is told by their numbers, so that only the whole never falls.
    whole = [sum(each["inference_stats"][kind]["ns"] for kind in ("success", "fail")) for each in (before, after)]
    assert whole[1] > whole[0]
    for stage in ("queue", "compute_input", "compute_infer"):
        assert after["inference_stats"][stage]["ns"] > before["inference_stats"][stage]["ns"]
    assert over_http.get_inference_statistics()["model_stats"][0]["name"] == "yoga"

    config = over_http.get_model_config("yoga")
    pixels = next(entry for entry in config["input"] if entry["name"] == "pixels")
    assert (pixels["data_type"], pixels["dims"]) == ("TYPE_FP32", [3, SIZE, SIZE])
    same = over_grpc.get_model_config("yoga", as_json=True)["config"]
    assert same["max_batch_size"] == config["max_batch_size"] == 64
    assert [entry["name"] for entry in same["input"]] == [entry["name"] for entry in config["input"]]


def test_a_stream_of_requests_is_answered_in_order_and_outlives_a_wrong_one(server: Server, expected: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(grpc_address(server)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("yoga", tensors(triton_grpc), request_id="1")
        client.async_stream_infer("other", tensors(triton_grpc), request_id="2")
        client.async_stream_infer("yoga", tensors(triton_grpc), request_id="3")
        first, wrong, last = (answers.get(timeout=30) for _ in range(3))
    assert "no model 'other'" in str(wrong[1])
    for number, (result, error) in (("1", first), ("3", last)):
        assert error is None
        assert result.get_response().id == number
        assert (result.as_numpy("probabilities") == expected).all()


def test_labels_may_come_over_grpc(server: Server) -> None:
    texts = triton_grpc.InferInput("labels", [3], "BYTES")
    texts.set_data_from_numpy(np.array([b"red", b"yellow", b"white"], dtype=np.object_))
    client = triton_grpc.InferenceServerClient(grpc_address(server))
    answer = client.infer("yoga", [*files(triton_grpc, "yellow"), texts])
    assert labels(answer) == ["yellow"]


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: client.infer("other", tensors(triton_grpc)), "NOT_FOUND"),
        (lambda client: client.infer("yoga", tensors(triton_grpc), model_version="9"), "NOT_FOUND"),
        (lambda client: client.infer("yoga", tensors(triton_grpc) * 2), "INVALID_ARGUMENT"),
        (lambda client: client.infer("yoga", tensors(triton_grpc), client_timeout=1e-9), "DEADLINE_EXCEEDED"),
        (lambda client: client.get_inference_statistics("other"), "NOT_FOUND"),
        (lambda client: client.get_model_config("yoga", "9"), "NOT_FOUND"),
        (lambda client: client.load_model("yoga"), "UNIMPLEMENTED"),
        (lambda client: client.get_trace_settings("yoga"), "UNIMPLEMENTED"),
    ],
)
def test_tritons_grpc_client_is_told_what_there_isnt(server: Server, call: Any, status: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        call(triton_grpc.InferenceServerClient(grpc_address(server)))
    assert refused.value.status() == f"StatusCode.{status}"


def test_calls_over_grpc_are_counted(server: Server) -> None:
    import httpx

    triton_grpc.InferenceServerClient(grpc_address(server)).infer("yoga", tensors(triton_grpc))
    shown = httpx.get(f"{server.address}/metrics").text
    assert 'route="/inference.GRPCInferenceService/ModelInfer"' in shown


CLIENT = """
import asyncio, json, sys
url = sys.argv[1]
sys.argv = sys.argv[:1]
import numpy as np
from kserve import InferenceGRPCClient, InferRequest, InferInput

async def main():
    client = InferenceGRPCClient(url)
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    pixels[:, 1] = 1
    tensor = InferInput("pixels", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels, binary_data=True)
    answer = await client.infer(InferRequest("yoga", [tensor]))
    found = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("yoga")]
    print(json.dumps([*found, answer.outputs[0].as_numpy().argmax().item()]))

asyncio.run(main())
"""


def test_kserves_grpc_client_drives_the_server(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, grpc_address(server)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, True, LABELS.index("green")]


def test_a_port_of_grpc_that_is_taken_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    import socket

    from vitruvian.errors import VitruvianError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(VitruvianError, match="the port is in use"):
            Server(bundle, extras=Extras(grpc_port=taken.getsockname()[1]))
