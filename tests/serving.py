"""Servers of small bundles inside the test's process, and how their answers are read."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.testclient import TestClient

from vitruvian.bundle import Bundle
from vitruvian.inference.app import create_app
from vitruvian.inference.engines.onnx import OnnxEngine
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.service import Service, Settings

HEADER = "Inference-Header-Content-Length"
PROBLEM = "application/problem+json"


class Held(OnnxEngine):
    """A model that answers only while it is let."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.folder / bundle.served.path, bundle.preprocess.tensor_shape, 1)
        self.bundle = bundle
        self.go = threading.Event()
        self.running = threading.Semaphore(0)

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.running.release()
        assert self.go.wait(30)
        return super().run(batch)


@contextmanager
def serving(
    predictor: Predictor, settings: Settings | None = None, *, settle: bool = True, **more: Any
) -> Iterator[TestClient]:
    app = create_app(predictor, settings, **more)
    with TestClient(app, raise_server_exceptions=False) as client:
        if settle:
            assert service(client).settled.wait(30)
        yield client


def service(client: TestClient) -> Service:
    found = client.app.state.service  # type: ignore[attr-defined]
    assert isinstance(found, Service)
    return found


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:vitruvian:problem:")
    assert document["title"]
    assert document["detail"] == document["error"]
    assert document["instance"].startswith("/")
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def infer_binary(client: TestClient, name: str, datatype: str, shape: list[int], blob: bytes, **more: Any) -> Any:
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(blob)}}
    header = json.dumps({"inputs": [tensor], **more}).encode()
    return client.post("/v2/models/yoga/infer", content=header + blob, headers={HEADER: str(len(header))})


def items(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def sample(text: str, name: str, **labels: str) -> float:
    for line in text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {name} with {labels}")
