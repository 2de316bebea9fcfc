"""The stock KServe server with our adapter, and KServe's own clients on our server."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.bundles import SIZE, make_bundle, picture
from tests.ports import free_port
from vitruvian.bundle import open_bundle
from vitruvian.inference.server import Server

# Looked for, not imported: its gRPC messages and tritonclient's have the same names, and one process can't hold both.
if importlib.util.find_spec("kserve") is None:
    pytest.skip("needs kserve: pip install '.[kserve]'", allow_module_level=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root, clip=True)
    return root / "store"


@pytest.fixture(scope="module")
def stock(store: Path) -> Iterator[str]:
    """Run KServe's server with the adapter and yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "vitruvian.serving.kserve", "--bundle", str(store), "--model_name", "yoga"]
    flags = ["--http_port", str(port), "--enable_grpc", "false"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                assert server.poll() is None, server.stderr and server.stderr.read()
                assert time.monotonic() < deadline
                try:
                    if httpx.get(f"{address}/v2/models/yoga/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_the_stock_server_answers_as_ours_does(stock: str, store: Path) -> None:
    v1 = {"instances": [{"b64": b64(picture("green"))}, {"b64": b64(picture("red"))}]}
    pixels = np.zeros((1, 3, SIZE, SIZE), np.float32)
    pixels[:, 2] = 1
    v2 = {
        "inputs": [{"name": "pixels", "shape": [1, 3, SIZE, SIZE], "datatype": "FP32", "data": pixels.ravel().tolist()}]
    }
    files = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(picture("blue"))]}]}
    server = Server(open_bundle(store)).start()
    try:
        for path, asked in (
            ("/v1/models/yoga:predict", v1),
            ("/v2/models/yoga/infer", v2),
            ("/v2/models/yoga/infer", files),
        ):
            theirs, ours = (httpx.post(f"{address}{path}", json=asked).json() for address in (stock, server.address))
            key = "predictions" if "predictions" in ours else "outputs"
            assert _numbers(theirs[key]) == pytest.approx(_numbers(ours[key]), abs=1e-6)
            assert theirs.get("model_version") == ours.get("model_version")
    finally:
        server.stop()


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        ("/v1/models/yoga:predict", {"instances": ["no base64!"]}, 400),
        ("/v1/models/yoga:predict", {"instances": ["AAAA"]}, 422),
        (
            "/v2/models/yoga/infer",
            {"inputs": [{"name": "other", "shape": [1], "datatype": "FP32", "data": [1.0]}]},
            400,
        ),
    ],
)
def test_the_stock_server_says_what_is_wrong(stock: str, path: str, asked: Any, status: int) -> None:
    answer = httpx.post(f"{stock}{path}", json=asked)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("type", [None, "application/x-www-form-urlencoded", "application/json", "text/plain"])
def test_the_stock_server_takes_v1_whatever_its_type_is_called(stock: str, type: str | None) -> None:
    head = {} if type is None else {"Content-Type": type}
    body = json.dumps({"instances": [{"image_bytes": {"b64": b64(picture("green"))}}]})
    answer = httpx.post(f"{stock}/v1/models/yoga:predict", content=body.encode(), headers=head)
    assert answer.json()["predictions"][0]["label"] == "green"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"instances": 1}', b"\xff"])
@pytest.mark.parametrize("head", [{}, {"Content-Type": "application/json"}])
def test_the_stock_server_refuses_what_is_no_v1_request(stock: str, body: bytes, head: dict[str, str]) -> None:
    answer = httpx.post(f"{stock}/v1/models/yoga:predict", content=body, headers=head)
    assert answer.status_code == 400
    assert "Traceback" not in answer.text


CLIENT = """
import asyncio, json, sys
url, content = sys.argv[1:3]
sys.argv = sys.argv[:1]
import numpy as np
from kserve import InferenceRESTClient, RESTConfig, InferRequest, InferInput

async def main():
    found = {}
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", timeout=30))
    found["v1"] = (await v1.infer(url, {"instances": [{"b64": content}]}, model_name="yoga"))["predictions"][0]["label"]
    v2 = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    found["live"] = await v2.is_server_live(url)
    found["ready"] = await v2.is_server_ready(url)
    found["model"] = await v2.is_model_ready(url, "yoga")
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    pixels[:, 1] = 1
    tensor = InferInput("pixels", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels, binary_data=True)
    answer = await v2.infer(url, InferRequest("yoga", [tensor]), model_name="yoga")
    found["v2"] = answer.outputs[1].data[0]
    print(json.dumps(found))

asyncio.run(main())
"""


def test_kserves_client_drives_our_server(store: Path) -> None:
    server = Server(open_bundle(store)).start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, server.address, b64(picture("blue"))],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found == {"v1": "blue", "live": True, "ready": True, "model": True, "v2": "green"}
    finally:
        server.stop()
