"""What V1, batches, labels in requests, embeddings and addresses answer, and what they refuse."""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.bundles import LABELS, SIZE, heatmaps, make_bundle, npy, picture
from tests.serving import Held, b64, infer_binary, items, problem, service, serving
from tests.versions import wait_until
from vitruvian.bundle import Bundle
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.remote.allowed import Allowed
from vitruvian.inference.remote.fetch import Fetcher, Limits
from vitruvian.inference.server import Extras, Server
from vitruvian.inference.service import Settings


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("clip"), clip=True)


@pytest.fixture(scope="module")
def client(clip: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with serving(Predictor.open(clip)) as client:
            yield client


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(Predictor.open(make_bundle(tmp_path_factory.mktemp("plain")))) as client:
        yield client


def shares(found: Any) -> list[np.float32]:
    """Return the probabilities of labels in the labels' order, as they were before they became text."""
    by_label = {entry["class_name"]: entry["score"] for entry in found["predictions"]}
    return [np.float32(by_label[label]) for label in LABELS]


def test_every_way_in_gives_the_same_answer_to_the_bit(client: TestClient) -> None:
    content = picture("purple", format="JPEG")
    file = {"name": "image", "shape": [1], "datatype": "BYTES"}
    exact = [
        client.post("/v2/models/yoga/infer", json={"inputs": [{**file, "data": [b64(content)]}]}).json()["outputs"][0][
            "data"
        ],
        infer_binary(client, "image", "BYTES", [1], items(content)).json()["outputs"][0]["data"],
        *(
            list(client.post("/v1/models/yoga:predict", json=asked).json()["predictions"][0]["probabilities"].values())
            for asked in (
                {"instances": [b64(content)]},
                {"instances": [{"b64": b64(content)}]},
                {"instances": [{"image_bytes": {"b64": b64(content)}}]},
                {"instances": [{"image": {"b64": b64(content)}}]},
            )
        ),
    ]
    first = np.array(exact[0], np.float32)
    assert all((np.array(answer, np.float32) == first).all() for answer in exact)
    rounded = [
        client.post("/predict/image", content=content),
        client.post("/predict/image", content=gzip.compress(content), headers={"content-encoding": "gzip"}),
        client.post("/predict/image", content=zlib.compress(content), headers={"content-encoding": "deflate"}),
        client.post("/predict/image", files={"image": content}),
        client.post("/predict", json={"image": b64(content)}),
        client.post("/predict", json={"image": {"b64": b64(content)}}),
        client.post("/predict", json={"image": f"data:image/jpeg;base64,{b64(content)}"}),
        client.post("/predict", json={"image_url": {"url": f"data:image/jpeg;base64,{b64(content)}"}}),
    ]
    for response in rounded:
        assert response.status_code == 200, response.text
        assert shares(response.json()) == pytest.approx(first, abs=1e-6)
    batch = client.post("/predict/batch", json={"images": [b64(content), b64(content)]}).json()["results"]
    assert [shares(result) for result in batch] == [shares(rounded[0].json())] * 2


# V1


def test_v1_lists_its_model_for_kserves_and_openais_clients(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["models"] == ["yoga"]
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["yoga"])
    assert client.get("/v1/models/yoga").json() == {"name": "yoga", "ready": True}
    problem(client.get("/v1/models/other"), 404)
    problem(client.post("/v1/models/other:predict", json={"instances": []}), 404)


def test_v1_takes_tensors_and_several_instances(plain: TestClient) -> None:
    tensor = np.zeros((3, SIZE, SIZE), np.float32)
    tensor[1] = 1
    asked = {"instances": [tensor.tolist(), b64(picture("blue")), {"b64": b64(picture("red"))}]}
    answers = plain.post("/v1/models/yoga:predict", json=asked).json()["predictions"]
    assert [answer["label"] for answer in answers] == ["green", "blue", "red"]
    assert answers[0]["confidence"] == max(answers[0]["probabilities"].values())


@pytest.mark.parametrize(
    ("instances", "status", "words"),
    [
        (None, 400, "instances"),
        ([], 400, "instances"),
        ([3], 400, "instances[0]"),
        ([{"x": 1}], 400, "instances[0]"),
        (["no base64!"], 400, "instances[0]"),
        ([[["a"]]], 400, "instances[0]"),
        ([[[1.0], [1.0, 2.0]]], 400, "instances[0]"),
        ([[1.0, 2.0]], 422, "shape"),
        (["AAAA"], 422, "instances[0]"),
        (["AAAA"] * 65, 422, "too many"),
    ],
)
def test_instances_that_cant_be_are_refused(plain: TestClient, instances: Any, status: int, words: str) -> None:
    assert words in problem(plain.post("/v1/models/yoga:predict", json={"instances": instances}), status)["detail"]


# Batches


def test_one_bad_picture_of_a_batch_harms_no_other(plain: TestClient) -> None:
    contents = [b64(picture("red")), b64(b"junk"), b64(picture("blue"))]
    results = plain.post("/predict/batch", json={"images": contents, "top_k": 1}).json()["results"]
    assert [result.get("label") for result in results] == ["red", None, "blue"]
    assert "not an image" in results[1]["error"]["detail"]
    assert [len(result["predictions"]) for result in results if "predictions" in result] == [1, 1]


def test_a_batch_may_be_a_form(plain: TestClient) -> None:
    files = [("files", (f"{colour}.png", picture(colour))) for colour in ("green", "red")]
    results = plain.post("/predict/batch", files=files).json()["results"]
    assert [(result["name"], result["label"]) for result in results] == [("green.png", "green"), ("red.png", "red")]


def test_heatmaps_may_be_a_batch(tmp_path: Path) -> None:
    with serving(Predictor.open(make_bundle(tmp_path, "heatmap"))) as client:
        images = [b64(npy(heatmaps(strong))) for strong in (2, 0)]
        results = client.post("/predict/batch", json={"images": images}).json()["results"]
        assert [result["label"] for result in results] == ["blue", "red"]


def test_what_is_wrong_with_one_of_a_batch_stays_in_its_place(plain: TestClient) -> None:
    red = b64(picture("red"))
    images = [red, "zz!", None, {"url": "https://example.com/a.png"}, {"path": "x"}, {"image": red}, {"b64": red}]
    results = plain.post("/predict/batch", json={"images": images}).json()["results"]
    assert [result.get("label") for result in results] == ["red", None, None, None, None, "red", "red"]
    words = ("images[1]' is not base64", "not a string of base64", "switched off", "needs one of")
    for result, word in zip(results[1:5], words, strict=True):
        assert word in result["error"]["detail"]
    problem(plain.post("/predict", json={"image": "zz!"}), 400)


@pytest.mark.parametrize("images", [None, "AAAA", [], ["AAAA"] * 65])
def test_batches_that_cant_be_are_refused(plain: TestClient, images: Any) -> None:
    problem(plain.post("/predict/batch", json={"images": images}), 400)


# Labels in requests


def test_labels_in_a_request_are_told_apart(client: TestClient) -> None:
    content = picture("yellow")
    labels = ["red", "yellow", "white"]
    answers = [
        client.post("/predict", json={"image": b64(content), "labels": labels}),
        client.post("/predict", json={"image": b64(content), "labels": labels, "templates": ["a {}.", "{}"]}),
        client.post("/predict/image", files={"image": content}, data={"labels": "\n".join(labels)}),
        client.post("/predict/image", files={"image": content}, data={"labels": json.dumps(labels)}),
        client.post("/predict/image", files={"image": content}, data={"labels": labels}),
    ]
    for response in answers:
        assert response.json()["label"] == "yellow", response.text
        assert {entry["class_name"] for entry in response.json()["predictions"]} == set(labels)
    v1 = client.post("/v1/models/yoga:predict", json={"instances": [b64(content)], "labels": labels}).json()
    assert v1["predictions"][0]["label"] == "yellow"
    file = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(content)]}
    texts = {"name": "labels", "shape": [3], "datatype": "BYTES", "data": [b64(label.encode()) for label in labels]}
    outputs = client.post("/v2/models/yoga/infer", json={"inputs": [file, texts]}).json()["outputs"]
    assert (outputs[0]["shape"], outputs[1]["data"]) == ([1, 3], ["yellow"])


def test_a_models_inputs_name_what_labels_go_in(client: TestClient, plain: TestClient) -> None:
    names = [entry["name"] for entry in client.get("/v2/models/yoga").json()["inputs"]]
    assert names == ["image", "pixels", "labels", "templates"]
    assert [entry["name"] for entry in plain.get("/v2/models/yoga").json()["inputs"]] == ["image", "pixels"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"labels": []}, "0 texts"),
        ({"labels": "red"}, "not a list"),
        ({"labels": ["red", "red"]}, "twice"),
        ({"labels": ["red"], "templates": ["none"]}, "needs {} once"),
        ({"templates": ["{}"]}, "send both"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"precision": "int4"}, "fp32"),
    ],
)
def test_what_cant_be_asked_is_refused(client: TestClient, asked: dict[str, Any], words: str) -> None:
    assert words in problem(client.post("/predict", json={"image": b64(picture("red")), **asked}), 400)["detail"]


def test_a_start_warms_known_labels_in_the_background_and_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = make_bundle(tmp_path, clip=True)
    asked = {"image": b64(picture("yellow")), "labels": ["white", "yellow"]}
    with serving(Predictor.open(bundle)) as client:
        answer = client.post("/predict", json=asked).json()["predictions"]
    # From now on nothing can be encoded, and the first file that is read hangs until somebody writes to it.
    (bundle.folder / "exports/text/model.onnx").unlink()
    folder = tmp_path / "cache" / "vitruvian" / "labels"
    os.mkfifo(folder / "slow.safetensors")
    with serving(Predictor.open(bundle)) as client:
        labels = service(client).labels
        assert labels is not None
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post("/predict/image", content=picture("red")).status_code == 200
        assert not labels.known
        (folder / "slow.safetensors").write_bytes(b"")
        wait_until(lambda: labels.known != [], "labels are warm")
        for path in folder.iterdir():
            path.unlink()
        assert client.post("/predict", json=asked).json()["predictions"] == answer


def test_known_labels_are_there_before_they_are_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = make_bundle(tmp_path, clip=True)
    asked = {"image": b64(picture("yellow")), "labels": ["white", "yellow"]}
    with serving(Predictor.open(bundle)) as client:
        answer = client.post("/predict", json=asked).json()["predictions"]
    (bundle.folder / "exports/text/model.onnx").unlink()
    slow = tmp_path / "cache" / "vitruvian" / "labels" / "slow.safetensors"
    os.mkfifo(slow)
    with serving(Predictor.open(bundle)) as client:
        assert client.post("/predict", json=asked).json()["predictions"] == answer
        slow.write_bytes(b"")


def test_a_model_without_a_text_tower_refuses_labels(plain: TestClient) -> None:
    asked = {"image": b64(picture("red")), "labels": ["a", "b"]}
    assert "no text tower" in problem(plain.post("/predict", json=asked), 422)["detail"]


def test_labels_of_requests_make_no_series(client: TestClient) -> None:
    client.post("/predict", json={"image": b64(picture("white")), "labels": ["white", "yellow"]})
    assert 'class="white"' not in client.get("/metrics").text


def test_the_best_may_be_asked_for_alone(plain: TestClient) -> None:
    found = plain.post("/predict", json={"image": b64(picture("red")), "top_k": 2}).json()
    assert found["predictions"][0]["class_name"] == "red"
    assert len(found["predictions"]) == 2
    data = {"top_k": "1"}
    assert len(plain.post("/predict/image", files={"file": picture("red")}, data=data).json()["predictions"]) == 1


def test_full_precision_may_be_asked_for(plain: TestClient) -> None:
    content = picture("red")
    usual = plain.post("/predict", json={"image": b64(content)}).json()["predictions"]
    assert plain.post("/predict", json={"image": b64(content), "precision": "fp32"}).json()["predictions"] == usual
    headers = {"X-Precision": "fp32"}
    assert plain.post("/predict/image", content=content, headers=headers).json()["predictions"] == usual
    file = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(content)]}
    asked = {"inputs": [file], "parameters": {"precision": "fp32"}}
    assert plain.post("/v2/models/yoga/infer", json=asked).status_code == 200


# Embeddings


def test_pictures_and_texts_are_embedded_alike(client: TestClient) -> None:
    texts = client.post("/v1/embeddings", json={"input": ["a red.", "a blue."]}).json()
    assert (texts["object"], texts["model"]) == ("list", "yoga")
    picture_url = f"data:image/png;base64,{b64(picture('blue'))}"
    asked = [
        {"input": picture_url},
        {"input": [b64(picture("blue"))], "modality": "image"},
        {"input": [{"type": "image_url", "image_url": {"url": picture_url}}]},
    ]
    for one in asked:
        (found,) = client.post("/v1/embeddings", json=one).json()["data"]
        row = np.array(found["embedding"], np.float32)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
        assert np.argmax([row @ np.array(text["embedding"], np.float32) for text in texts["data"]]) == 1


def test_embeddings_come_in_the_order_asked_and_as_base64(client: TestClient) -> None:
    mixed = ["red", f"data:image/png;base64,{b64(picture('green'))}", "blue"]
    plain = client.post("/v1/embeddings", json={"input": mixed}).json()["data"]
    coded = client.post("/v1/embeddings", json={"input": mixed, "encoding_format": "base64"}).json()["data"]
    assert [entry["index"] for entry in plain] == [0, 1, 2]
    for one, other in zip(plain, coded, strict=True):
        raw = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert (np.array(one["embedding"], np.float32) == raw).all()
    assert [int(np.argmax(entry["embedding"])) for entry in plain] == [0, 1, 2]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({}, 400),
        ({"input": []}, 400),
        ({"input": 3}, 400),
        ({"input": [3]}, 400),
        ({"input": ""}, 400),
        ({"input": "x" * 9000}, 400),
        ({"input": ["x"] * 65}, 400),
        ({"input": "x", "encoding_format": "hex"}, 400),
        ({"input": "x", "modality": "audio"}, 400),
        ({"input": "no base64!", "modality": "image"}, 400),
        ({"input": [{"type": "audio"}]}, 400),
        ({"input": "data:image/png;base64,AAAA"}, 422),
        ({"input": "x", "model": "other"}, 404),
    ],
)
def test_what_cant_be_embedded_is_refused(client: TestClient, asked: dict[str, Any], status: int) -> None:
    problem(client.post("/v1/embeddings", json=asked), status)


def test_embeddings_of_another_width_than_they_have_are_refused(client: TestClient) -> None:
    (found,) = client.post("/v1/embeddings", json={"input": "red", "dimensions": None}).json()["data"]
    width = len(found["embedding"])
    asked = {"input": "red", "dimensions": width}
    assert client.post("/v1/embeddings", json=asked).json()["data"] == [found]
    for other in (width - 1, str(width), True, 0):
        refused = client.post("/v1/embeddings", json={**asked, "dimensions": other})
        assert f"embeddings have {width}; leave it out" in problem(refused, 400)["detail"]


def test_a_text_that_isnt_read_to_its_end_is_refused(client: TestClient) -> None:
    long = "red " * 30
    found = problem(client.post("/v1/embeddings", json={"input": ["a red.", long]}), 422)
    assert "'red red " in found["detail"] and "this model reads 16 tokens" in found["detail"]
    asked = {"image": b64(picture("red")), "labels": [long, "blue"]}
    found = problem(client.post("/predict", json=asked), 422)
    assert "the label 'red red " in found["detail"] and "in the template 'a photo of {}.'" in found["detail"]


def test_a_model_without_embeddings_says_so(plain: TestClient) -> None:
    assert "no embeddings" in problem(plain.post("/v1/embeddings", json={"input": "x"}), 422)["detail"]


# Time


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e9", ""])
def test_a_senseless_timeout_is_refused(plain: TestClient, value: str) -> None:
    problem(plain.post("/predict/image", content=picture("red"), headers={"X-Request-Timeout": value}), 400)


@pytest.mark.parametrize(
    "headers", [{"X-Request-Timeout": "0.3"}, {"X-Envoy-Expected-Rq-Timeout-Ms": "300"}, {"timeout": "300000"}]
)
def test_an_answer_comes_by_the_deadline_or_not_at_all(plain: TestClient, headers: dict[str, str]) -> None:
    bundle = service(plain).predictor.bundle
    held = Held(bundle)
    held.go.set()
    with serving(Predictor(bundle, held)) as client:
        held.go.clear()
        began = time.monotonic()
        if "timeout" in headers:
            file = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(picture("red"))]}
            asked = {"inputs": [file], "parameters": {"timeout": int(headers["timeout"])}}
            late = client.post("/v2/models/yoga/infer", json=asked)
        else:
            late = client.post("/predict/image", content=picture("red"), headers=headers)
        assert problem(late, 429)["type"].endswith("no-time-left")
        assert time.monotonic() - began < 20
        held.go.set()


def test_a_bomb_of_zeros_is_refused_once_it_is_larger_than_a_body_may_be(plain: TestClient) -> None:
    bundle = service(plain).predictor.bundle
    with serving(Predictor.open(bundle), Settings(max_body=100_000)) as client:
        bomb = gzip.compress(bytes(10_000_000))
        problem(client.post("/predict/image", content=bomb, headers={"content-encoding": "gzip"}), 413)


def test_bodies_in_memory_are_bounded(plain: TestClient) -> None:
    bundle = service(plain).predictor.bundle
    with serving(Predictor.open(bundle), Settings(max_bodies=1000)) as client:
        problem(client.post("/predict/image", content=bytes(1001)), 429)
        problem(client.post("/predict/image", content=bytes(900)), 422)
        assert service(client).bodies.held == 0


def test_limits_of_texts_are_told_where_they_are_taken(client: TestClient, plain: TestClient) -> None:
    texts = client.get("/limits").json()["texts"]
    assert (texts["max_labels"], texts["max_embedded_characters"]) == (1000, 8192)
    long = {"image": b64(picture("red")), "labels": ["x" * (texts["max_label_characters"] + 1), "red"]}
    problem(client.post("/predict", json=long), 400)
    assert plain.get("/limits").json()["texts"] is None


def test_limits_tell_what_may_be_fetched(plain: TestClient) -> None:
    assert plain.get("/limits").json()["fetching"] is None
    places = ["images.example.com", "*.cdn.example.com", "http://minio.internal:9000", "10.0.0.0/8"]
    fetcher = Fetcher(Allowed.parse(places), Limits(max_body=1000))
    with serving(Predictor.open(service(plain).predictor.bundle), fetcher=fetcher) as client:
        told = client.get("/limits").json()["fetching"]
    hosts = ["https://images.example.com:443", "https://*.cdn.example.com:443", "http://minio.internal:9000"]
    assert told == {**asdict(Limits(max_body=1000)), "hosts": hosts}


@pytest.mark.parametrize("port", [None, 0])
def test_limits_tell_those_of_connections_and_of_grpc_where_it_is_spoken(plain: TestClient, port: int | None) -> None:
    settings = Settings(max_body=1_000_000, max_bodies=20_000_000)
    server = Server(service(plain).predictor.bundle, settings=settings, extras=Extras(grpc_port=port)).start()
    try:
        told = httpx.get(f"{server.address}/limits").json()
    finally:
        server.stop()
    assert told["connections"] == {"max_head": 65536, "head_seconds": 15, "keep_alive_seconds": 75}
    assert (told["grpc"] is None) == (port is None)
    if port is not None:
        assert (told["grpc"]["messages_at_once"], told["grpc"]["streams_at_once"]) == (20, 20)
        assert told["grpc"]["max_message"] > 1_000_000


def test_limits_can_be_read(plain: TestClient) -> None:
    limits = plain.get("/limits").json()
    assert limits["max_body"] == Settings.max_body
    assert limits["lanes"] >= 1
    assert limits["now"]["waiting"] == 0
    assert limits["now"]["seconds_per_input"] > 0
