"""What bodies may hold, what reading them may cost, and what is said of one that is misspelt."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from tests.bundles import make_bundle, picture
from tests.serving import b64, infer_binary, problem, service, serving
from vitruvian.bundle import Bundle
from vitruvian.inference import protocol, uploads
from vitruvian.inference.admission import Ticket
from vitruvian.inference.grpc import tensors
from vitruvian.inference.grpc.messages import message
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import Problem
from vitruvian.inference.protocol import LARGE, Malformed, read_base64, read_json, read_request
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.fetch import Fetcher
from vitruvian.inference.routes.v1 import _read
from vitruvian.inference.service import Settings
from vitruvian.inference.uploads import Asked, asked_in_body, asked_in_json, in_turn

FORM = {"content-type": "multipart/form-data; boundary=a"}
RED = b64(picture("red"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), clip=True)


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[TestClient]:
    with serving(Predictor.open(bundle)) as client:
        yield client


def form(*parts: bytes, end: bytes = b"--a--") -> bytes:
    return b"".join(b"--a\r\n" + part + b"\r\n" for part in parts) + end


def file(content: bytes, name: str = "file") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content


def asked(body: bytes) -> Asked:
    return asyncio.run(asked_in_body(FORM["content-type"], body, Ticket(60)))


# Forms


def test_a_form_is_read_no_further_than_it_may_have_parts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def noted(head: bytes) -> tuple[str, str]:
        read.append(head)
        return "", ""

    monkeypatch.setattr(uploads, "_names", noted)
    body = form(*[b"x:\r\n" * 8 + b"\r\n"] * 100_000)
    assert "parts" in problem(client.post("/predict/image", content=body, headers=FORM), 400)["detail"]
    assert len(read) == 1 + 1024


def test_headers_of_a_part_are_bounded(client: TestClient) -> None:
    body = form(b"x: y\r\n" * 10_000 + file(picture("red")))
    assert "headers" in problem(client.post("/predict/image", content=body, headers=FORM), 400)["detail"]


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"-", b"\r\n-", b"\r\n--" * 9, b"\r\n\r\n", b"\r\n--b\r\n", b"\0\xff"]
)
@pytest.mark.parametrize("before", [b"", b"preamble\r\n"])
@pytest.mark.parametrize("end", [b"--a--", b"--a--\r\n", b"--a--\r\nepilogue"])
def test_a_part_is_what_stands_between_boundaries(content: bytes, before: bytes, end: bytes) -> None:
    (sent,) = asked(before + form(file(content), end=end)).files
    assert sent.content == content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--a",
        b"--a--",
        b"--a\r\n--a--",
        form(file(b"x"), end=b""),
        form(file(b"x"), end=b"--ab"),
        form(b"no headers end here"),
        form(b"Content-Type: image/png\r\n\r\nx"),
        form(file(b"x"), file(b"y")),
    ],
)
def test_a_form_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        asked(body)


# JSON


@pytest.mark.parametrize(
    ("path", "head", "item", "tail"),
    [
        ("/predict", b'{"x":[', b"[],", b"[]]}"),
        ("/predict", b'{"x":[', b"{},", b"{}]}"),
        ("/predict", b'{"x":[', b"1.5,", b"0]}"),
        ("/predict/batch", b'{"images":[', b'"",', b'""]}'),
        ("/v1/models/yoga:predict", b'{"instances":["AAAA"],"x":[', b"[],", b"[]]}"),
        ("/v1/models/yoga:predict", b'{"instances":[[', b'"1",', b'"1"]]}'),
        ("/v1/embeddings", b'{"input":"x","y":[', b"[],", b"[]]}"),
        ("/v2/models/yoga/infer", b'{"inputs":[{"data":[', b'"",', b'""]}]}'),
    ],
)
def test_json_of_far_more_values_than_its_size_is_for_is_refused_before_it_is_read(
    client: TestClient, path: str, head: bytes, item: bytes, tail: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orjson, "loads", lambda content: pytest.fail("it was read"))
    body = head + item * (1_000_000 // len(item)) + tail
    assert "too many values" in problem(client.post(path, content=body), 400)["detail"]


def test_as_many_numbers_as_a_body_may_have_are_read() -> None:
    data = np.random.default_rng(0).integers(-9, 9, (64, 3, 224, 224)).astype(np.int8)
    nested = [[[row.tolist() for row in plane] for plane in image] for image in data]
    document = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": data.shape, "data": nested}]}
    body = orjson.dumps(document)
    assert len(body) > 19_000_000
    (tensor,) = read_request(body, None).inputs
    assert np.array_equal(np.asarray(tensor.data), data)


def test_as_many_pictures_and_labels_as_a_request_may_have_are_read() -> None:
    pictures = [{"image_bytes": {"b64": b64(bytes(4000))}}] * 64
    document = {"instances": pictures, "labels": [f"a, b [{at}]" for at in range(1000)], "text": 'a "word", ' * 40_000}
    assert read_json(orjson.dumps(document)) == document


def test_v1_keeps_only_what_it_needs() -> None:
    document = {"instances": [[[1.5, 2.5]], RED], "labels": ["red"], "x": [[]] * 10, "signature_name": "y"}
    kept = _read(json.dumps(document).encode(), 64)
    assert set(kept) == {"instances", "labels"}
    assert isinstance(kept["instances"][0], np.ndarray)


def test_v2_keeps_no_parameters_that_the_protocol_has_not() -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}
    body = json.dumps({"inputs": [tensor], "parameters": {"precision": "fp32", "x": [1.5], "y": {}}}).encode()
    assert read_request(body, None).parameters == {"precision": "fp32"}


def test_whitespace_in_base64_makes_no_list_of_what_it_parts() -> None:
    text = "\r\n".join(RED[at : at + 76] for at in range(0, len(RED), 76))
    assert read_base64(text, "x") == picture("red")
    for wrong in ("AA\u00a0AA", "ÄÄÄÄ", "A A"):
        with pytest.raises(Malformed):
            read_base64(wrong, "x")


# Where it is read


def test_large_bodies_are_read_in_a_thread_one_after_the_other_and_small_ones_at_once() -> None:
    inside, most, threads = 0, 0, set()

    def read() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threads.add(threading.current_thread())
        threading.Event().wait(0.01)
        inside -= 1

    async def several(size: int) -> None:
        await asyncio.gather(*(in_turn(size, read, Ticket(60)) for _ in range(4)))

    asyncio.run(several(LARGE + 1))
    assert most == len(threads) == 1
    assert threading.current_thread() not in threads
    threads.clear()
    asyncio.run(several(LARGE))
    assert threads == {threading.current_thread()}


def test_who_waits_for_a_turn_waits_no_longer_than_for_an_answer() -> None:
    go, read = threading.Event(), []

    async def wait() -> None:
        first = asyncio.create_task(in_turn(LARGE + 1, lambda: go.wait(30), Ticket(60)))
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="deadline"):
            await in_turn(LARGE + 1, lambda: read.append(1), Ticket(0.01))
        go.set()
        assert await first

    asyncio.run(wait())
    assert not read


@pytest.mark.parametrize("size", [1000, LARGE])
def test_every_route_reads_large_bodies_in_turn(client: TestClient, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    for name in ("sent_in_json", "_names"):
        real = getattr(uploads, name)

        def noted(*given: Any, real: Any = real) -> Any:
            read.append(threading.current_thread().name)
            return real(*given)

        monkeypatch.setattr(uploads, name, noted)
    content = bytes(size)
    problem(client.post("/predict", json={"image": b64(content)}), 422)
    assert client.post("/predict/batch", json={"images": [b64(content)]}).status_code == 200
    problem(client.post("/predict/image", files={"file": content}), 422)
    assert [name.startswith("reader") for name in read] == [size == LARGE] * 3


# BYTES


def test_items_beyond_the_most_are_refused_before_any_is_made(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_bytes_items", lambda name, content: pytest.fail("an item was made"))
    response = infer_binary(client, "image", "BYTES", [1001], bytes(4 * 1001))
    assert "1000 at most" in problem(response, 422)["detail"]
    infer = message("inference.ModelInferRequest")()
    infer.inputs.add(name="image", datatype="BYTES", shape=[4_900_000])
    infer.raw_input_contents.append(b"")
    with pytest.raises(Problem, match="4900000 items"):
        tensors.read(infer)


def test_no_more_items_are_made_than_the_shape_means() -> None:
    content = memoryview(bytes(4 * 100) + struct.pack("<I", 99))
    with pytest.raises(Malformed, match="means 2 items, but it has more"):
        protocol.from_binary("image", "BYTES", 2, content)


# What addresses bring


class Pictures(BaseHTTPRequestHandler):
    """Brings one picture, whatever is asked."""

    def do_GET(self) -> None:
        content = picture("red")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_fetched_counts_as_a_body_does(bundle: Bundle, site: str) -> None:
    size = len(picture("red"))
    fetcher = Fetcher(Allowed.parse([site, "127.0.0.1/32"]))
    with serving(Predictor.open(bundle), Settings(max_body=3 * size), fetcher=fetcher) as client:
        urls = [{"url": f"{site}/x.png"}] * 4
        items = [{"type": "image_url", "image_url": each} for each in urls]
        routes: list[tuple[str, str, list[Any]]] = [
            ("/predict/batch", "images", urls),
            ("/v1/models/yoga:predict", "instances", urls),
            ("/v1/embeddings", "input", items),
        ]
        for path, name, given in routes:
            assert client.post(path, json={name: given[:3]}).status_code == 200
            assert "addresses bring" in problem(client.post(path, json={name: given}), 413)["detail"]
        assert client.post("/predict", json=urls[0]).status_code == 200
        bodies = service(client).bodies
        assert bodies.held == 0
        # Room for the body, and for one of two pictures.
        bodies.limit = size + 500
        problem(client.post("/predict/batch", json={"images": urls[:2]}), 429)
        assert client.post("/predict/batch", json={"images": urls[:1]}).status_code == 200
        assert bodies.held == 0


# Names


@pytest.mark.parametrize(
    ("path", "document", "words"),
    [
        ("/predict", {"image": RED, "topk": 1}, "'topk'; did you mean 'top_k'?"),
        ("/predict", {"image": RED, "label": ["red"]}, "'label'; did you mean 'labels'?"),
        ("/predict", {"image": RED, "Top_K": 1}, "did you mean 'top_k'?"),
        ("/predict", {"image": RED, "zzzz": 1}, "there are: image,"),
        ("/predict/batch", {"images": [RED], "topk": 1}, "did you mean 'top_k'?"),
        ("/predict/batch", {"image": RED}, "did you mean 'images'?"),
    ],
)
def test_a_field_that_is_not_known_is_refused_with_the_nearest(
    client: TestClient, path: str, document: Any, words: str
) -> None:
    assert words in problem(client.post(path, json=document), 400)["detail"]


@pytest.mark.parametrize(("path", "name"), [("/predict/image", "file"), ("/predict/batch", "files")])
def test_a_forms_field_that_is_not_known_is_refused_with_the_nearest(client: TestClient, path: str, name: str) -> None:
    response = client.post(path, files={name: picture("red")}, data={"topk": "1"})
    assert "'topk'; did you mean 'top_k'?" in problem(response, 400)["detail"]


def test_protocols_that_allow_more_fields_keep_them(client: TestClient) -> None:
    assert client.post("/v1/models/yoga:predict", json={"instances": [RED], "signature_name": "x"}).status_code == 200
    assert client.post("/v1/embeddings", json={"input": "x", "user": "y", "dimensions": 3}).status_code == 200
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [RED], "x": 1}
    assert client.post("/v2/models/yoga/infer", json={"inputs": [tensor], "y": 2}).status_code == 200


def test_the_query_says_what_a_body_that_is_a_file_cant(client: TestClient) -> None:
    content = picture("red")
    found = client.post("/predict/image?top_k=1&precision=fp32", content=content).json()
    assert [entry["class_name"] for entry in found["predictions"]] == ["red"]
    assert len(client.post("/predict/image?top_k=1", files={"file": content}).json()["predictions"]) == 1
    first = client.post("/predict?top_k=1", json={"image": RED, "top_k": 2}).json()
    assert len(first["predictions"]) == 2
    for query, words in (
        ("top_k=0", "top_k"),
        ("top_k=x", "top_k"),
        ("topk=1", "did you mean"),
        ("precision=x", "fp32"),
    ):
        assert words in problem(client.post(f"/predict/image?{query}", content=content), 400)["detail"]


def test_a_form_or_a_file_where_json_belongs_is_told_where_to_go(client: TestClient) -> None:
    content = picture("red")
    assert "/predict/image" in problem(client.post("/predict", files={"file": content}), 415)["detail"]
    for path in ("/predict", "/predict/batch"):
        response = client.post(path, content=content, headers={"content-type": "image/png"})
        assert "/predict/image" in problem(response, 415)["detail"]


def test_one_line_is_no_list_of_labels(client: TestClient) -> None:
    def ask(labels: str) -> Any:
        return client.post("/predict/image", files={"file": picture("red")}, data={"labels": labels})

    assert '["tree pose", "warrior pose"]' in problem(ask("tree pose,warrior pose"), 400)["detail"]
    assert ask('["red"]').json()["label"] == "red"


def test_json_without_a_content_type_is_still_json() -> None:
    body = json.dumps({"image": RED}).encode()
    for content_type in ("", "application/x-www-form-urlencoded", "application/json"):
        (sent,) = asyncio.run(asked_in_json(content_type, body, Ticket(60))).files
        assert sent.content == picture("red")
