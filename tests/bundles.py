"""Small real bundles: a folder store, an ONNX model, a golden example, checksums; made without torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from vitruvian.bundle import Bundle, BundleInfo, ExportRecord, GateDecision, Golden, open_bundle, promote, publish
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.inference.engine import INPUT, OUTPUT
from vitruvian.inference.predictor import softmax
from vitruvian.store import open_store

LABELS = ("red", "green", "blue")
SIZE = 32
FIGURE = (
    *((8, 24), (7, 25), (7, 23), (8, 27), (8, 21)),
    *((16, 30), (16, 18), (18, 38), (18, 10), (15, 45), (15, 3)),
    *((33, 27), (33, 21), (45, 32), (45, 16), (58, 36), (58, 12)),
)
"""Row and column of each COCO keypoint of a figure with spread arms and legs."""


def linear_model(channels: int, spatial: tuple[int, int], weights: NDArray[np.float32]) -> onnx.ModelProto:
    """Return a model whose logits are weights (channels, classes) times the mean of each channel."""
    classes = weights.shape[1]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [INPUT], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], [OUTPUT]),
        ],
        "linear",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", channels, *spatial])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def picture(color: str, size: tuple[int, int] = (120, 160), format: str = "PNG") -> bytes:
    """Return the bytes of a picture of one colour with a darker figure in it."""
    image = Image.new("RGB", size, color)
    ImageDraw.Draw(image).ellipse((size[0] * 0.4, size[1] * 0.1, size[0] * 0.6, size[1] * 0.9), fill="black")
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def heatmaps(strong: int = 0) -> NDArray[np.float32]:
    """Return heatmaps (1, 17, 64, 48) of a standing figure, every third joint from `strong` on higher than the rest."""
    rows, columns = np.mgrid[0:64, 0:48]
    peaks = np.zeros((1, 17, 64, 48), np.float32)
    for joint, (row, column) in enumerate(FIGURE):
        height = 1.0 if joint % len(LABELS) == strong else 0.4
        peaks[0, joint] = height * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 5)
    return peaks


def npy(array: NDArray[np.generic]) -> bytes:
    """Return an array as the bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def make_bundle(
    root: Path,
    kind: str = "image",
    *,
    name: str = "yoga",
    version: str = "v1",
    labels: Sequence[str] = LABELS,
    golden_shift: float = 0.0,
) -> Bundle:
    """Publish a small bundle in a folder store and return it opened.

    An image bundle of three labels answers with the strongest of red, green and blue; a heatmap bundle with the
    strongest third of the joints. `golden_shift` makes the stored golden answer wrong by that much.
    """
    folder = root / "making"
    (folder / "exports").mkdir(parents=True)
    preprocess = ImagePreprocess(size=SIZE) if kind == "image" else HeatmapPreprocess()
    channels = preprocess.tensor_shape[0]
    weights = np.zeros((channels, len(labels)), np.float32)
    for channel in range(channels):
        weights[channel, channel % len(labels)] = 4 if kind == "image" else 40
    content = picture("red") if kind == "image" else npy(heatmaps(0))
    tensor = preprocess.tensor(preprocess.prepare(content, "golden")[None])
    golden = softmax(tensor.mean(axis=(2, 3)) @ weights)[0] + np.float32(golden_shift)
    golden_path = "golden.png" if kind == "image" else "golden.npy"
    onnx.save(linear_model(channels, preprocess.tensor_shape[1:], weights), folder / "exports/model.onnx")  # type: ignore[arg-type]
    (folder / "preprocess.json").write_text(preprocess.model_dump_json())
    (folder / golden_path).write_bytes(content)
    info = BundleInfo(
        name=name,
        version=version,
        created="2026-11-20T12:00:00Z",
        labels=tuple(labels),
        architecture="linear",
        metrics={"accuracy": 0.9312, "f1": 0.9288, "worstClassRecall": 0.8421, "loss": 0.2145},
        gates=(
            GateDecision(gate="accuracy >= 0.79", value=0.9312, required=0.79, passed=True),
            GateDecision(gate="worstClassRecall >= 0.5", value=0.8421, required=0.5, passed=True),
        ),
        exports=(
            ExportRecord(
                format="onnx",
                path="exports/model.onnx",
                max_difference=1e-6,
                top1_agreement=1.0,
                accuracy=0.9312,
                seconds_per_image=0.0004,
            ),
        ),
        serve="onnx",
        golden=Golden(input=golden_path, probabilities=tuple(golden.tolist()), tolerance=1e-4),
        lineage={"data": "sha256:5b1f0c9a", "code": "0.1.0", "stages": {"prepare": "9c1d", "train": "77ab"}},
        spec={},
    )
    store = open_store(root / "store")
    digest = publish(store, folder, info)
    promote(store, version, digest)
    return open_bundle(root / "store")
