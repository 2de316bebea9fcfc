"""The HTTP interface: what every route answers, and what it refuses."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from tests.bundles import LABELS, heatmaps, make_bundle, npy, picture
from tests.serving import HEADER, Held, b64, infer_binary, items, problem, sample, service, serving
from vitruvian.bundle import Bundle
from vitruvian.inference.engines.onnx import OnnxEngine
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.service import Settings, State
from vitruvian.observability.metrics import IDENTITY, SERVING

PHOTOS = Path(__file__).parents[3] / "shared/data/odd-photos"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[TestClient]:
    with serving(Predictor.open(bundle)) as client:
        yield client


@pytest.fixture(scope="module")
def heatmap_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(Predictor.open(make_bundle(tmp_path_factory.mktemp("heatmap"), "heatmap"))) as client:
        yield client


@pytest.fixture
def held(bundle: Bundle) -> Iterator[Held]:
    engine = Held(bundle)
    yield engine
    engine.go.set()


# People


def test_browsers_get_the_page_and_programs_get_json(client: TestClient) -> None:
    page = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["vary"] == "Accept"
    about = client.get("/").json()
    assert (about["classifier"], about["version"], about["state"]) == ("yoga", "v1", "ready")
    assert about["labels"] == list(LABELS)
    assert about["metrics"]["accuracy"] == 0.9312
    assert about["gates"][0]["passed"] is True
    assert about["input"]["kind"] == "image"


def test_the_page_asks_no_other_host(client: TestClient) -> None:
    html = client.get("/", headers={"Accept": "text/html"}).text
    assert not [word for word in ("https://", "//cdn", "@import", " style=", " onclick=") if word in html]


@pytest.mark.parametrize("field", ["file", "image"])
def test_an_uploaded_picture_is_classified(client: TestClient, field: str) -> None:
    response = client.post("/predict/image", files={field: ("a.png", picture("green"))})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["classifier"], answer["version"], answer["label"]) == ("yoga", "v1", "green")
    assert answer["confidence"] == answer["predictions"][0]["score"]
    assert {entry["class_name"] for entry in answer["predictions"]} == set(LABELS)
    scores = [entry["score"] for entry in answer["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert answer["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "IMAGE/JPEG; q=1", None])
def test_a_picture_may_be_the_whole_body(client: TestClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = client.post("/predict/image", content=picture("blue"), headers=headers)
    assert response.json()["label"] == "blue"


def test_every_way_in_gives_the_same_answer(client: TestClient) -> None:
    content = picture("purple", format="JPEG")
    form = client.post("/predict/image", files={"file": content}).json()["predictions"]
    raw = client.post("/predict/image", content=content).json()["predictions"]
    plain = client.post("/predict", json={"image": b64(content)}).json()["predictions"]
    url = client.post("/predict", json={"image": f"data:image/jpeg;base64,{b64(content)}"}).json()["predictions"]
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(content)]}
    infer = client.post("/v2/models/yoga/infer", json={"inputs": [tensor]}).json()["outputs"][0]["data"]
    assert form == raw == plain == url
    by_label = {entry["class_name"]: entry["score"] for entry in form}
    assert infer == pytest.approx([by_label[label] for label in LABELS], abs=1e-6)


def test_heatmaps_are_classified_by_every_way_in(heatmap_client: TestClient) -> None:
    content, array = npy(heatmaps(1)), heatmaps(1)
    assert heatmap_client.post("/predict/image", files={"file": content}).json()["label"] == "green"
    assert heatmap_client.post("/predict/image", content=content).json()["label"] == "green"
    assert heatmap_client.post("/predict", json={"heatmap": b64(content)}).json()["label"] == "green"
    tensor = {"name": "heatmap", "shape": [1, 17, 64, 48], "datatype": "FP32", "data": array.ravel().tolist()}
    files = {"name": "heatmap", "shape": [1], "datatype": "BYTES", "data": [b64(content)]}
    answers = [
        heatmap_client.post("/v2/models/yoga/infer", json={"inputs": [one]}).json()["outputs"]
        for one in (tensor, files)
    ]
    assert answers[0] == answers[1]
    assert answers[0][1]["data"] == ["green"]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"{PHOTOS} is absent")
def test_odd_photos_decode_or_are_refused_as_expected(client: TestClient) -> None:
    for item in json.loads((PHOTOS / "index.json").read_text())["items"]:
        content = (PHOTOS / item["file"]).read_bytes()
        response = client.post("/predict/image", files={"file": (item["file"], content)})
        if item["expect"] == "decodes":
            assert response.status_code == 200, item
        else:
            assert Path(item["file"]).name in problem(response, 422)["detail"]


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/yoga/versions/v9/ready", 404),
        ("POST", "/v2/models/yoga/versions/v9/infer", 404),
        ("GET", "/predict/image", 405),
        ("DELETE", "/", 405),
        ("POST", "/metrics", 405),
    ],
)
def test_what_is_not_there_is_said_so(client: TestClient, method: str, path: str, status: int) -> None:
    problem(client.request(method, path), status)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"plain text", 422),
        (picture("red", format="JPEG")[:500], 422),
        (b"\xff\xd8\xff", 422),
        (b"GIF89a", 422),
    ],
)
def test_what_is_no_picture_is_refused(client: TestClient, body: bytes, status: int) -> None:
    problem(client.post("/predict/image", content=body, headers={"content-type": "image/jpeg"}), status)


@pytest.mark.parametrize("shape", [(1,), (17, 64, 47), (2, 17, 64, 48), (1, 1, 17, 64, 48), (0, 17, 64, 48)])
def test_heatmaps_of_another_shape_are_refused_with_it(heatmap_client: TestClient, shape: tuple[int, ...]) -> None:
    response = heatmap_client.post("/predict/image", files={"file": ("h.npy", npy(np.zeros(shape, np.float32)))})
    assert str(list(shape)) in problem(response, 422)["detail"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_heatmaps_that_are_not_finite_are_refused(heatmap_client: TestClient, value: float) -> None:
    array = heatmaps(0).astype(np.float32)
    array[0, 3, 3, 3] = value
    problem(heatmap_client.post("/predict/image", content=npy(array)), 422)
    blob = array.astype("<f4").tobytes()
    problem(infer_binary(heatmap_client, "heatmap", "FP32", [1, 17, 64, 48], blob), 422)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"x", {"content-type": "text/plain"}, 415),
        (b"x", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"x", {"content-type": "image/png", "content-encoding": "br"}, 415),
        (b"x", {"content-type": "image/png", "content-encoding": "gzip"}, 400),
        (gzip.compress(b"x")[:-4], {"content-type": "image/png", "content-encoding": "gzip"}, 400),
        (b"x", {"content-type": "multipart/form-data"}, 400),
        (b"x", {"content-type": "multipart/form-data; boundary=b"}, 400),
        (b"--b\r\n\r\nx\r\n--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 400),
        (b"--b\r\n" * 3, {"content-type": f"multipart/form-data; boundary={'b' * 500}"}, 400),
    ],
)
def test_bodies_that_carry_no_file_are_refused(
    client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    problem(client.post("/predict/image", content=content, headers=headers), status)


def test_a_form_with_two_files_is_refused(client: TestClient) -> None:
    files = [("file", ("a.png", picture("red"))), ("file", ("b.png", picture("blue")))]
    assert "2 fields" in problem(client.post("/predict/image", files=files), 400)["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"image": 3}',
        b'{"image": null}',
        b'{"image": "no base64!"}',
        b'{"image": "AAA"}',
        '{"image": "ÄÖÜ"}'.encode(),
        b'{"image": "\\ud800"}',
        b'{"image": "data:image/png,raw"}',
        b'{"image": "AAAA", "heatmap": "AAAA"}',
        b"{}",
        b'{"image": NaN}',
        b'{"x": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_without_a_file_is_refused(client: TestClient, body: bytes) -> None:
    problem(client.post("/predict", content=body), 400)


def test_addresses_are_not_fetched(client: TestClient) -> None:
    response = client.post("/predict", json={"url": "http://127.0.0.1/secret.png"})
    assert "switched off" in problem(response, 400)["detail"]


def test_large_bodies_are_refused_whether_declared_or_streamed(bundle: Bundle) -> None:
    def endless() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(20))

    with serving(Predictor.open(bundle), Settings(max_body=5000)) as client:
        for path in ("/predict/image", "/predict", "/v2/models/yoga/infer"):
            problem(client.post(path, content=b"x" * 5001), 413)
            problem(client.post(path, content=endless()), 413)
        assert client.post("/predict/image", content=picture("red", (20, 20))).status_code == 200


# Request ids


def test_a_request_id_is_echoed(client: TestClient) -> None:
    assert client.get("/health", headers={"X-Request-ID": "a-1:b/c"}).headers["x-request-id"] == "a-1:b/c"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode(), b"\xff", "<script>"])
def test_a_strange_request_id_is_replaced(client: TestClient, given: str | bytes) -> None:
    response = client.get(
        "/missing", headers=[(b"X-Request-ID", given if isinstance(given, bytes) else given.encode())]
    )
    assert len(problem(response, 404)["request_id"]) == 32


# The life of a server


def test_ready_only_after_the_golden_example(bundle: Bundle, held: Held) -> None:
    with serving(Predictor(bundle, held), settle=False) as client:
        assert held.running.acquire(timeout=30)
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/").json()["state"] == "starting"
        for path in ("/health", "/v2/health/ready", "/v2/models/yoga/ready"):
            response = client.get(path)
            assert problem(response, 503)["ready"] is False
            assert int(response.headers["retry-after"]) > 0
        problem(client.post("/predict/image", content=picture("red")), 503)
        held.go.set()
        assert service(client).settled.wait(30)
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/yoga/versions/v1/ready").json() == {"name": "yoga", "ready": True}


def test_a_wrong_golden_answer_is_never_ready(tmp_path: Path) -> None:
    with serving(Predictor.open(make_bundle(tmp_path, golden_shift=0.5))) as client:
        problem(client.get("/v2/health/ready"), 503)
        assert client.get("/v2/health/live").status_code == 200
        assert service(client).state is State.FAILED
        assert "golden" in str(service(client).failure)


def test_draining_answers_what_was_accepted_and_refuses_the_rest(bundle: Bundle, held: Held) -> None:
    held.go.set()
    with serving(Predictor(bundle, held)) as client, ThreadPoolExecutor() as pool:
        held.go.clear()
        held.running = threading.Semaphore(0)
        accepted = pool.submit(client.post, "/predict/image", content=picture("red"))
        assert held.running.acquire(timeout=30)
        service(client).drain()
        problem(client.post("/predict/image", content=picture("red")), 503)
        problem(client.get("/v2/health/ready"), 503)
        held.go.set()
        assert accepted.result().json()["label"] == "red"


def test_a_full_queue_is_refused_and_nobody_waits_for_a_prediction_to_learn_it(bundle: Bundle, held: Held) -> None:
    held.go.set()
    with (
        serving(Predictor(bundle, held), Settings(queue_seconds=25, deadline_seconds=1000, lanes=1)) as client,
        ThreadPoolExecutor() as pool,
    ):
        # As if each had taken ten seconds so far.
        service(client).lanes.expect(10)
        held.go.clear()
        colours = ("red", "green", "blue")
        waiting = []
        for at, colour in enumerate(colours):
            waiting.append(pool.submit(client.post, "/predict/image", content=picture(colour)))
            until(client, "vitruvian_queue_length", at)
        refused = client.post("/predict/image", content=picture("red"))
        problem(refused, 429)
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        held.go.set()
        assert [future.result().json()["label"] for future in waiting] == list(colours)
        assert client.post("/predict/image", content=picture("red")).status_code == 200


def until(client: TestClient, metric: str, value: float) -> None:
    deadline = time.monotonic() + 30
    while metric not in (text := client.get("/metrics").text) or sample(text, metric) != value:
        assert time.monotonic() < deadline


def test_a_fault_of_the_server_is_a_problem_document_without_its_text(bundle: Bundle) -> None:
    class Broken(OnnxEngine):
        def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.fine:
                return super().run(batch)
            raise RuntimeError("a secret")

        fine = True

    engine = Broken(bundle.folder / bundle.served.path, bundle.preprocess.tensor_shape, 1)
    with serving(Predictor(bundle, engine)) as client:
        engine.fine = False
        response = client.post("/predict/image", content=picture("red"))
        assert problem(response, 500)["type"].endswith("internal")
        assert "secret" not in response.text


# The Open Inference Protocol


def test_metadata_follows_the_protocol(client: TestClient) -> None:
    extensions = client.get("/v2").json()["extensions"]
    assert extensions == ["binary_tensor_data", "statistics", "model_configuration", "model_repository"]
    model = client.get("/v2/models/yoga").json()
    assert model == client.get("/v2/models/yoga/versions/v1").json()
    assert (model["name"], model["versions"]) == ("yoga", ["v1"])
    assert {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, 32, 32]} in model["inputs"]
    assert {"name": "image", "datatype": "BYTES", "shape": [-1]} in model["inputs"]
    assert [output["name"] for output in model["outputs"]] == ["probabilities", "label"]


def test_several_pictures_are_answered_in_order_in_json_and_in_binary(client: TestClient) -> None:
    contents = [picture(colour) for colour in ("blue", "red", "green", "red")]
    tensor = {"name": "image", "shape": [4], "datatype": "BYTES", "data": [b64(content) for content in contents]}
    text = client.post("/v2/models/yoga/infer", json={"id": "42", "inputs": [tensor]}).json()
    assert (text["id"], text["model_name"], text["model_version"]) == ("42", "yoga", "v1")
    probabilities, label = text["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [4], "data": ["blue", "red", "green", "red"]}
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [4, 3])
    for shape in ([4], [4, 1]):
        binary = infer_binary(client, "image", "BYTES", shape, items(*contents))
        assert binary.json()["outputs"] == text["outputs"]


def test_binary_outputs_hold_the_same_numbers(client: TestClient) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype("<f4")
    text = infer_binary(client, "pixels", "FP32", [3, 3, 32, 32], pixels.tobytes()).json()
    response = infer_binary(
        client, "pixels", "FP32", [3, 3, 32, 32], pixels.tobytes(), parameters={"binary_data_output": True}
    )
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    header, blob = json.loads(response.content[:length]), response.content[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in header["outputs"]]
    assert sum(sizes) == len(blob)
    assert (np.frombuffer(blob[: sizes[0]], "<f4") == np.array(text["outputs"][0]["data"], np.float32)).all()
    assert blob[sizes[0] :] == items(*(label.encode() for label in text["outputs"][1]["data"]))


def test_only_the_requested_outputs_come_back(client: TestClient) -> None:
    blob = items(picture("red"))
    only = infer_binary(client, "image", "BYTES", [1], blob, outputs=[{"name": "label"}]).json()
    assert [output["name"] for output in only["outputs"]] == ["label"]
    mixed = infer_binary(
        client,
        "image",
        "BYTES",
        [1],
        blob,
        outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}],
    )
    header = json.loads(mixed.content[: int(mixed.headers[HEADER])])
    assert "data" not in header["outputs"][0]
    assert header["outputs"][1]["data"] == ["red"]
    problem(infer_binary(client, "image", "BYTES", [1], blob, outputs=[{"name": "nonsense"}]), 400)


def test_nested_and_flat_data_mean_the_same(client: TestClient) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    answers = [
        client.post(
            "/v2/models/yoga/infer",
            json={"inputs": [{"name": "pixels", "shape": [2, 3, 32, 32], "datatype": "FP32", "data": data}]},
        ).json()
        for data in (pixels.tolist(), pixels.ravel().tolist())
    ]
    assert answers[0] == answers[1]


def test_a_bad_item_is_named_by_its_place(client: TestClient) -> None:
    response = infer_binary(client, "image", "BYTES", [3], items(picture("red"), b"junk", picture("blue")))
    assert "image[1]" in problem(response, 422)["detail"]


def test_too_many_inputs_are_refused(client: TestClient) -> None:
    assert "1000" in problem(infer_binary(client, "image", "BYTES", [1000], items(*[b"x"] * 1000)), 422)["detail"]


FP32 = {"name": "pixels", "shape": [1, 3, 32, 32], "datatype": "FP32"}
FILE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(picture("red"))]}


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({}, 400),
        ({"inputs": []}, 400),
        ({"inputs": {}}, 400),
        ({"inputs": [3]}, 400),
        ({"inputs": [{}]}, 400),
        ({"inputs": [FILE, FILE]}, 400),
        ({"inputs": [FILE, {**FILE, "name": "other"}]}, 400),
        ({"inputs": [{**FILE, "name": "other"}]}, 400),
        ({"inputs": [{**FILE, "name": "é" * 200}]}, 400),
        ({"inputs": [{**FILE, "name": "\ud800"}]}, 400),
        ({"inputs": [{**FILE, "datatype": "FP64"}]}, 400),
        ({"inputs": [{**FILE, "datatype": None}]}, 400),
        ({"inputs": [{**FILE, "datatype": ["BYTES"]}]}, 400),
        ({"inputs": [{**FILE, "shape": [2]}]}, 400),
        ({"inputs": [{**FILE, "shape": []}]}, 422),
        ({"inputs": [{**FILE, "shape": [1, 1, 1]}]}, 422),
        ({"inputs": [{**FILE, "shape": [-1]}]}, 400),
        ({"inputs": [{**FILE, "shape": [0], "data": []}]}, 400),
        ({"inputs": [{**FILE, "shape": [True]}]}, 400),
        ({"inputs": [{**FILE, "shape": [1.0]}]}, 400),
        ({"inputs": [{**FILE, "shape": [10**30]}]}, 400),
        ({"inputs": [{**FILE, "shape": [1] * 100}]}, 400),
        ({"inputs": [{**FILE, "shape": "1"}]}, 400),
        ({"inputs": [{**FILE, "data": ["not base64"]}]}, 400),
        ({"inputs": [{**FILE, "data": [3]}]}, 400),
        ({"inputs": [{**FILE, "data": "AAAA"}]}, 400),
        ({"inputs": [{**FILE, "data": ["AAAA"]}]}, 422),
        ({"inputs": [{**FILE, "data": [""]}]}, 422),
        ({"inputs": [FILE], "id": 3}, 400),
        ({"inputs": [FILE], "parameters": []}, 400),
        ({"inputs": [FILE], "parameters": {"binary_data_output": 1}}, 400),
        ({"inputs": [FILE], "outputs": "label"}, 400),
        ({"inputs": [FILE], "outputs": [{"name": "label"}, {"name": "label"}]}, 400),
        ({"inputs": [{**FILE, "parameters": {"binary_data_size": 10}}]}, 400),
        ({"inputs": [{**FP32, "parameters": {"binary_data_size": 10}}]}, 400),
        ({"inputs": [{**FP32, "parameters": {"binary_data_size": -4}}]}, 400),
        ({"inputs": [{**FP32, "parameters": {"binary_data_size": 10**20}}]}, 400),
        ({"inputs": [FP32]}, 400),
        ({"inputs": [{**FP32, "data": [0.5]}]}, 400),
        ({"inputs": [{**FP32, "data": [None] * 3072}]}, 400),
        ({"inputs": [{**FP32, "data": ["1"] * 3072}]}, 400),
        ({"inputs": [{**FP32, "data": [True] * 3072}]}, 400),
        ({"inputs": [{**FP32, "data": [[1.0], 2.0]}]}, 400),
        ({"inputs": [{**FP32, "data": [{}] * 3072}]}, 400),
        ({"inputs": [{**FP32, "data": [10**400] * 3072}]}, 400),
        ({"inputs": [{**FP32, "data": [1e300] * 3072}]}, 422),
        ({"inputs": [{**FP32, "data": [3e38] * 3072}]}, 422),
        ({"inputs": [{**FP32, "data": [0.5], "shape": [1]}]}, 422),
        ({"inputs": [{**FP32, "data": [0.5], "shape": []}]}, 422),
        ({"inputs": [{**FP32, "data": [0.5] * 3072, "shape": [3, 1, 32, 32]}]}, 422),
        ({"inputs": [{**FP32, "data": [0.5] * 3072, "shape": [1, 1 << 40, 0, 3]}]}, 400),
        ({"inputs": [{**FILE, "name": "pixels"}]}, 400),
        ({"inputs": [{**FP32, "name": "image", "data": [0.5] * 3072}]}, 400),
    ],
)
def test_malformed_tensors_are_refused(client: TestClient, document: Any, status: int) -> None:
    content = json.dumps(document).encode()
    problem(client.post("/v2/models/yoga/infer", content=content), status)
    problem(client.post("/v2/models/yoga/infer", content=content, headers={HEADER: str(len(content))}), status)


@pytest.mark.parametrize("length", ["", "-1", "1.5", "abc", "0x10", "²", "99999999", "9" * 400, "3", "0"])
def test_a_wrong_header_length_is_refused(client: TestClient, length: str) -> None:
    content = json.dumps({"inputs": [FILE]}).encode()
    headers = [(HEADER.encode(), length.encode())]
    problem(client.post("/v2/models/yoga/infer", content=content, headers=headers), 400)


@pytest.mark.parametrize(
    ("datatype", "shape", "blob", "status"),
    [
        ("BYTES", [1], b"", 400),
        ("BYTES", [1], b"\x01", 400),
        ("BYTES", [1], struct.pack("<I", 100) + b"short", 400),
        ("BYTES", [1], struct.pack("<I", 0xFFFFFFFF), 400),
        ("BYTES", [1], items(b"a", b"b"), 400),
        ("BYTES", [1], items(b""), 422),
        ("FP32", [1, 3, 32, 32], b"\0" * 12287, 400),
        ("FP32", [1, 3, 32, 32], b"\0" * 12284, 400),
        ("FP32", [1, 3, 32, 32], struct.pack("<f", float("nan")) * 3072, 422),
        ("FP32", [1, 3, 32, 32], struct.pack("<f", float("inf")) * 3072, 422),
        ("FP32", [1, 3, 32, 32], struct.pack("<f", 3e38) * 3072, 422),
    ],
)
def test_malformed_binary_tensors_are_refused(
    client: TestClient, datatype: str, shape: list[int], blob: bytes, status: int
) -> None:
    name = "image" if datatype == "BYTES" else "pixels"
    problem(infer_binary(client, name, datatype, shape, blob), status)


def test_bytes_that_no_input_claims_are_refused(client: TestClient) -> None:
    content = json.dumps({"inputs": [FILE]}).encode()
    problem(client.post("/v2/models/yoga/infer", content=content + b"x", headers={HEADER: str(len(content))}), 400)


# Metrics


def test_metrics_count_what_happened(bundle: Bundle) -> None:
    with serving(Predictor.open(bundle), Settings(track="canary")) as client:
        for colour in ("red", "red", "blue"):
            client.post("/predict/image", content=picture(colour))
        client.post("/predict/image", content=b"junk")
        client.get("/v2/models/yoga")
        client.get("/surprise/1")
        client.get("/surprise/2")
        text = client.get("/metrics").text
        mine = {"classifier": "yoga", "version": "v1", "track": "canary"}
        assert sample(text, "vitruvian_requests_total", route="/predict/image", code="200", **mine) == 3
        assert sample(text, "vitruvian_requests_total", route="/predict/image", code="422", **mine) == 1
        assert sample(text, "vitruvian_requests_total", route="/v2/models/{name}", code="200", **mine) == 1
        assert sample(text, "vitruvian_requests_total", route="other", code="404", **mine) == 2
        assert sample(text, "vitruvian_request_seconds_count", route="/predict/image", **mine) == 4
        assert sample(text, "vitruvian_predictions_total", **mine, **{"class": "red"}) == 2
        assert sample(text, "vitruvian_predictions_total", **mine, **{"class": "green"}) == 0
        assert sample(text, "vitruvian_confidence_count", **mine) == 3
        assert sample(text, "vitruvian_stage_seconds_count", stage="decode", **mine) == 4
        assert sample(text, "vitruvian_requests_in_flight", **mine) == 1
        assert sample(text, "vitruvian_ready", **mine) == 1
        assert sample(text, "vitruvian_bundle_info", digest=bundle.digest, **mine) == 1


def test_every_defined_metric_is_exposed_and_well_named(client: TestClient) -> None:
    client.post("/predict/image", content=picture("red"))
    text = client.get("/metrics").text
    for metric in SERVING:
        assert f"# TYPE {metric.name} {metric.kind}" in text
        assert metric.name.startswith("vitruvian_")
        assert metric.labels[: len(IDENTITY)] == IDENTITY
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)


def test_strange_paths_and_names_make_no_new_series(client: TestClient) -> None:
    before = client.get("/metrics").text.count("vitruvian_requests_total{")
    for at in range(5):
        client.get(f"/unknown-{at}")
        client.get(f"/v2/models/unknown-{at}/ready")
    after = client.get("/metrics").text
    assert "unknown" not in after
    assert after.count("vitruvian_requests_total{") <= before + 2


# Paths that aren't there


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/predict/image", 405, "send POST"),
        ("POST", "/metrics", 405, "send GET"),
        ("POST", "/v1/models/yoga:explain", 405, "POST /v1/models/NAME:predict"),
        ("GET", "/nothing/here", 404, "/openapi.json"),
        ("GET", "/health/", 404, "leave out the last slash: /health"),
        ("POST", "/predict/image/", 404, "leave out the last slash: /predict/image"),
    ],
)
def test_what_isnt_there_tells_what_is(client: TestClient, method: str, path: str, status: int, words: str) -> None:
    assert words in problem(client.request(method, path), status)["detail"]


def test_nobody_is_sent_to_another_host(client: TestClient) -> None:
    for path in ("/health/", "/metrics/", "/predict/image/"):
        answer = client.get(path, headers={"Host": "evil.example.com"}, follow_redirects=False)
        assert "location" not in answer.headers
        problem(answer, 404)


@pytest.mark.parametrize("path", ["/metrics%0A", "/health%0a", "/metrics%00", "/limits%0D%0A", "/v2/models/yo%7Fga"])
def test_a_path_with_control_characters_is_nowhere(client: TestClient, path: str) -> None:
    problem(client.get(path), 404)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=a.b",
        "application/openmetrics-text;version=1.0.0.",
        "text/plain;version=é",
        f"text/plain;version={'9' * 5000}",
        "application/openmetrics-text;version=-1;escaping=x",
        "text/plain;version==1,;=;",
    ],
)
def test_metrics_are_shown_whatever_version_is_accepted(client: TestClient, accept: str) -> None:
    answer = client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})
    assert answer.status_code == 200
    assert "vitruvian_requests" in answer.text
