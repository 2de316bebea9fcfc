"""Answers in full precision from servers of an export that has less: loaded when first asked for, and checked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest

from tests.bundles import SIZE, linear_model, make_bundle, picture
from tests.serving import b64, problem, serving
from tests.versions import both
from vitruvian.bundle import Bundle, ExportRecord
from vitruvian.inference.engine import ENGINES, Engine, with_exact
from vitruvian.inference.engines.onnx import OnnxEngine
from vitruvian.inference.grpc.messages import message
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.rules import Rules
from vitruvian.inference.server import Extras, Server
from vitruvian.inference.service import Settings

AUDIT = {"X-Precision": "fp32"}
TOLD = "x-vitruvian-export"


def rounded(root: Path, *, weights: float = 1.0, **exact: Any) -> Bundle:
    """Return a bundle served as onnx-int8, whose other export answers by weights so many times as large."""
    bundle = make_bundle(root)
    served = bundle.served.model_copy(update={"format": "onnx-int8"})
    (bundle.folder / "exports/exact").mkdir()
    model = linear_model(3, (SIZE, SIZE), weights * 4 * np.eye(3, dtype=np.float32))
    onnx.save(model, bundle.folder / "exports/exact/model.onnx")
    own = {"golden": bundle.info.golden.probabilities, **exact}
    other = bundle.served.model_copy(update={"path": "exports/exact/model.onnx", **own})
    info = bundle.info.model_copy(update={"exports": (served, other), "serve": "onnx-int8"})
    return Bundle(bundle.folder, info, bundle.preprocess, bundle.digest)


class Slow:
    """Loads exports in full precision, counted, once it is let."""

    def __init__(self, bundle: Bundle) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.times = 0
        self.failure: Exception | None = None
        self._bundle = bundle

    def __call__(self, record: ExportRecord) -> Engine:
        self.times += 1
        self.began.release()
        assert self.go.wait(30)
        if self.failure is not None:
            raise self.failure
        return ENGINES[record.format](self._bundle.folder / record.path, self._bundle.preprocess.tensor_shape, 1, 1)


def slow(bundle: Bundle) -> tuple[Predictor, Slow]:
    load, shape = Slow(bundle), bundle.preprocess.tensor_shape
    served, exact = bundle.info.exports
    return Predictor(bundle, OnnxEngine(bundle.folder / served.path, shape, 1), exact=exact, load=load), load


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        (["openvino-int8"], ["openvino-int8", "onnx"]),
        (["onnx-int8", "torchscript"], ["onnx-int8", "torchscript", "onnx"]),
        (["openvino", "openvino-bf16"], ["openvino", "openvino-bf16"]),
        (["onnx", "openvino-int8"], ["onnx", "openvino-int8"]),
        (["torchscript"], ["torchscript"]),
    ],
)
def test_what_a_server_could_run_is_exported_in_full_precision_too(asked: list[str], made: list[str]) -> None:
    assert list(with_exact(asked)) == made


def test_every_answer_tells_which_export_gave_it(tmp_path: Path) -> None:
    asked = {"image": b64(picture("red"))}
    file = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [asked["image"]]}
    with serving(Predictor.open(rounded(tmp_path))) as client:
        for path, document in (
            ("/predict", asked),
            ("/predict/batch", {"images": [asked["image"]]}),
            ("/v1/models/yoga:predict", {"instances": [asked["image"]]}),
            ("/v2/models/yoga/infer", {"inputs": [file]}),
        ):
            assert client.post(path, json=document).headers.get_list(TOLD) == ["onnx-int8"]
            assert client.post(path, json=document, headers=AUDIT).headers.get_list(TOLD) == ["onnx"]
        assert client.post("/predict", json={**asked, "precision": "fp32"}).headers.get_list(TOLD) == ["onnx"]


def test_of_two_versions_each_tells_its_own_export(tmp_path: Path) -> None:
    one, two = make_bundle(tmp_path / "one"), rounded(tmp_path / "two")
    with both(Predictor.open(one), Predictor.open(two), Rules()) as client:
        for track, more, told in (("stable", {}, "onnx"), ("canary", {}, "onnx-int8"), ("canary", AUDIT, "onnx")):
            headers = {"X-Vitruvian-Track": track, **more}
            response = client.post("/predict/image", content=picture("red"), headers=headers)
            assert (response.status_code, response.headers.get_list(TOLD)) == (200, [told])


def test_audits_that_wait_for_their_export_hold_no_lane_and_load_it_once(tmp_path: Path) -> None:
    predictor, load = slow(rounded(tmp_path))
    with serving(predictor, Settings(lanes=1)) as client, ThreadPoolExecutor() as pool:

        def ask(headers: dict[str, str]) -> Any:
            return client.post("/predict/image", content=picture("red"), headers=headers)

        audits = [pool.submit(ask, AUDIT) for _ in range(3)]
        assert load.began.acquire(timeout=30)
        assert ask({}).json()["label"] == "red"
        late = ask({**AUDIT, "X-Request-Timeout": "0.2"})
        assert "is being loaded" in problem(late, 429)["detail"] and late.headers["retry-after"]
        load.go.set()
        assert [(audit.result().status_code, audit.result().headers[TOLD]) for audit in audits] == [(200, "onnx")] * 3
        assert load.times == 1


def test_a_load_that_fails_for_want_of_memory_is_tried_again(tmp_path: Path) -> None:
    predictor, load = slow(rounded(tmp_path))
    load.go.set()
    load.failure = MemoryError()
    with serving(predictor) as client:
        problem(client.post("/predict/image", content=picture("red"), headers=AUDIT), 503)
        load.failure = None
        assert client.post("/predict/image", content=picture("red"), headers=AUDIT).status_code == 200


def damaged(bundle: Bundle) -> Bundle:
    (bundle.folder / "exports/exact/model.onnx").write_bytes(b"junk")
    return bundle


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda root: rounded(root, weights=0.5), "the golden example's answer differs by 0."),
        (lambda root: rounded(root, weights=-1, golden=None), "the golden example's answer differs by 0."),
        (lambda root: damaged(rounded(root)), "export in full precision can't be used"),
    ],
    ids=["another answer", "another answer than the rounded one", "damaged"],
)
def test_an_audit_by_a_wrong_export_is_refused_and_all_else_is_answered(
    tmp_path: Path, made: Callable[[Path], Bundle], words: str
) -> None:
    with serving(Predictor.open(made(tmp_path))) as client:
        for _ in range(2):
            refused = client.post("/predict/image", content=picture("red"), headers=AUDIT)
            assert words in problem(refused, 422)["detail"]
            assert str(tmp_path) not in refused.text
            assert client.post("/predict/image", content=picture("red")).json()["label"] == "red"
        assert client.get("/v2/health/ready").status_code == 200


def test_an_export_without_a_golden_answer_of_its_own_may_differ_by_rounding(tmp_path: Path) -> None:
    with serving(Predictor.open(rounded(tmp_path, weights=1.01, golden=None))) as client:
        assert client.post("/predict/image", content=picture("red"), headers=AUDIT).headers[TOLD] == "onnx"


def test_an_export_that_lost_too_much_audits_nothing(tmp_path: Path) -> None:
    with serving(Predictor.open(rounded(tmp_path, kept=False))) as client:
        refused = client.post("/predict/image", content=picture("red"), headers=AUDIT)
        assert "no export in full precision" in problem(refused, 422)["detail"]


def test_over_grpc_metadata_behind_an_answer_tells_the_export(tmp_path: Path) -> None:
    asked = message("inference.ModelInferRequest")(model_name="yoga")
    asked.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(picture("red"))
    server = Server(rounded(tmp_path), settings=Settings(), extras=Extras(grpc_port=0)).start()
    try:
        with grpc.insecure_channel(str(server.grpc_address)) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            for more, told in (((), "onnx-int8"), ((("x-precision", "fp32"),), "onnx")):
                _, call = infer.with_call(asked.SerializeToString(), timeout=30, metadata=more)
                assert [value for name, value in call.trailing_metadata() if name == TOLD] == [told]
    finally:
        server.stop()
