"""Whatever a client sends, the answer is never the server's fault."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from tests.bundles import heatmaps, make_bundle, npy
from vitruvian.inference.app import create_app
from vitruvian.inference.predictor import Predictor

HEADER = "Inference-Header-Content-Length"
PATHS = ("/", "/health", "/metrics", "/predict", "/predict/image", "/v2", "/v2/models/yoga", "/v2/models/yoga/infer")


def encoded(format: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return a small picture in one of the formats that are decoded."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    image = Image.fromarray(noise).convert(mode)
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}), **options)
    return file.getvalue()


FILES = (
    encoded("JPEG"),
    encoded("JPEG", "CMYK"),
    encoded("JPEG", progressive=True),
    encoded("PNG"),
    encoded("PNG", "P"),
    encoded("PNG", "LA"),
    encoded("WEBP"),
    encoded("BMP"),
    encoded("GIF", "P"),
    encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"),
    npy(heatmaps(0)),
    npy(heatmaps(0)[0].astype(np.float16)),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
WORDS = (
    "inputs",
    "outputs",
    "parameters",
    "name",
    "shape",
    "datatype",
    "data",
    "id",
    "binary_data_size",
    "binary_data",
)
VALUES = ("pixels", "image", "heatmap", "FP32", "BYTES", "label", "AAAA", -1, 0, 1, 1 << 40, 1e300, [1], [1, 3, 32, 32])
ALMOST = st.recursive(
    st.sampled_from(VALUES) | JSON,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6)
        | st.fixed_dictionaries({"inputs": st.lists(inner, max_size=2)})
    ),
    max_leaves=20,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a file with some bytes changed, and perhaps cut off or doubled in part."""
    content = bytearray(draw(st.sampled_from(FILES)))
    # Most of what a decoder believes stands at the front.
    places = st.integers(0, len(content) - 1) | st.integers(0, min(200, len(content) - 1))
    for at, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=12)):
        content[at] = value
    start, end = sorted((draw(places), draw(places)))
    return bytes(draw(st.sampled_from((content, content[:end], content[start:], content[:end] + content[start:]))))


@pytest.fixture(scope="module", params=["image", "heatmap"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = create_app(Predictor.open(make_bundle(tmp_path_factory.mktemp("bundle"), request.param)))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert app.state.service.settled.wait(30)
        yield client
        # The last word: after all of this the server is as well as before.
        assert client.get("/health").status_code == 200


def check(response: Any) -> None:
    assert response.status_code < 500, response.text
    if response.request.method == "HEAD":
        return
    if response.status_code >= 400:
        assert response.json()["status"] == response.status_code
    if response.headers.get("content-type") == "application/json":
        json.loads(response.content, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))


hard = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


@hard
@given(content=mutated())
def test_damaged_files_are_the_clients_fault(client: TestClient, content: bytes) -> None:
    check(client.post("/predict/image", content=content))
    check(client.post("/predict", json={"image": base64.b64encode(content).decode()}))
    header = json.dumps({"inputs": [infer_input(content, 4 + len(content))]}).encode()
    body = header + struct.pack("<I", len(content)) + content
    check(client.post("/v2/models/yoga/infer", content=body, headers={HEADER: str(len(header))}))


def infer_input(content: bytes, size: int) -> dict[str, Any]:
    """Return a BYTES input whose content follows the JSON."""
    name = "heatmap" if content[1:6] == b"NUMPY" else "image"
    return {"name": name, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "(" * 150 + ")" * 150,
        "-" * 4000 + "1",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (17, 64",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 17, 64, 48)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (17, 64, -48)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (17, 64, 48)}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (17, 64, 48)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (17, 64, 48)}",
        "__import__('os').abort()",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3, 9])
def test_a_heatmap_with_a_strange_header_is_refused(client: TestClient, header: str, version: int) -> None:
    size = struct.pack("<H" if version == 1 else "<I", len(header) + 1)
    content = b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + b"\n" + bytes(4 * 17 * 64 * 48)
    response = client.post("/predict/image", content=content)
    check(response)
    assert response.status_code == 422


@hard
@given(document=ALMOST, cut=st.integers(-3, 3), extra=st.binary(max_size=8))
def test_damaged_json_is_the_clients_fault(client: TestClient, document: Any, cut: int, extra: bytes) -> None:
    content = json.dumps(document).encode()
    for path in ("/predict", "/v2/models/yoga/infer"):
        check(client.post(path, content=content + extra))
        check(client.post(path, content=content + extra, headers={HEADER: str(len(content) + cut)}))


@hard
@given(
    method=st.sampled_from(("GET", "HEAD", "POST", "PUT", "OPTIONS", "PATCH")),
    path=st.sampled_from(PATHS) | st.text(max_size=30).map(lambda text: "/" + text),
    names=st.lists(
        st.sampled_from(("content-type", "content-encoding", "content-length", "accept", "x-request-id", HEADER))
        | st.from_regex(r"[a-z-]{1,20}", fullmatch=True),
        max_size=4,
    ),
    values=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40), min_size=4, max_size=4),
    body=st.binary(max_size=60),
)
def test_strange_paths_and_headers_are_the_clients_fault(
    client: TestClient, method: str, path: str, names: list[str], values: list[str], body: bytes
) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in zip(names, values, strict=False)]
    try:
        request = client.build_request(method, path, headers=headers, content=body)
    except Exception:
        return  # The client itself refuses to send this.
    check(client.send(request))


@hard
@given(
    head=st.sampled_from(
        ("multipart/form-data; boundary=b", "multipart/form-data; boundary=", 'multipart/form-data;"=')
    ),
    parts=st.lists(
        st.sampled_from((b"--b", b"--b--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="file"', b": ", b'"'))
        | st.binary(max_size=10),
        max_size=12,
    ),
)
def test_damaged_forms_are_the_clients_fault(client: TestClient, head: str, parts: list[bytes]) -> None:
    check(client.post("/predict/image", content=b"".join(parts), headers={"content-type": head}))
