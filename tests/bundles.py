"""Small real bundles: a folder store, an ONNX model, a golden example, checksums; made without torch."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from vitruvian.bundle import (
    Bundle,
    BundleInfo,
    ExportRecord,
    GateDecision,
    Golden,
    TextTower,
    open_bundle,
    promote,
    publish,
)
from vitruvian.card import card
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.evaluation.metrics import Metrics, measure
from vitruvian.inference.engine import EMBEDDING, INPUT, OUTPUT
from vitruvian.inference.predictor import softmax
from vitruvian.inference.texts import TOKENS
from vitruvian.store import open_store

LABELS = ("red", "green", "blue")
SIZE = 32
SCALE = 10.0
COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "yellow": (1, 1, -1), "white": (1, 1, 1)}
WORDS = ("?", "a", "photo", "of", ".", *COLOURS)
FIGURE = (
    *((8, 24), (7, 25), (7, 23), (8, 27), (8, 21)),
    *((16, 30), (16, 18), (18, 38), (18, 10), (15, 45), (15, 3)),
    *((33, 27), (33, 21), (45, 32), (45, 16), (58, 36), (58, 12)),
)
"""Row and column of each COCO keypoint of a figure with spread arms and legs."""


def linear_model(
    channels: int, spatial: tuple[int, int], weights: NDArray[np.float32], *, unit: bool = False
) -> onnx.ModelProto:
    """Return a model whose output is weights (channels, classes) times the mean of each channel.

    Its output is logits, or an embedding of length 1 where `unit` is set.
    """
    classes = weights.shape[1]
    output = EMBEDDING if unit else OUTPUT
    nodes = [
        helper.make_node("ReduceMean", [INPUT], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["products" if unit else output]),
    ]
    if unit:
        nodes.append(helper.make_node("LpNormalization", ["products"], [output], axis=1, p=2))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", channels, *spatial])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return _model(graph)


def text_model(vectors: NDArray[np.float32]) -> onnx.ModelProto:
    """Return a text tower: the sum of each token's vector (tokens, width), made unit length."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["vectors", TOKENS], ["found"], axis=0),
            helper.make_node("ReduceSum", ["found", "places"], ["sums"], keepdims=0),
            helper.make_node("LpNormalization", ["sums"], [EMBEDDING], axis=1, p=2),
        ],
        "text",
        [helper.make_tensor_value_info(TOKENS, TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", vectors.shape[1]])],
        [numpy_helper.from_array(vectors, "vectors"), numpy_helper.from_array(np.array([1], np.int64), "places")],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
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
    clip: bool = False,
    weights: NDArray[np.float32] | None = None,
    size: int = SIZE,
    measured: bool = False,
) -> Bundle:
    """Publish a small bundle in a folder store and return it opened.

    An image bundle of three labels answers with the strongest of red, green and blue; a heatmap bundle with the
    strongest third of the joints. `golden_shift` makes the stored golden answer wrong by that much. With `clip` an
    image bundle has a text tower that knows the words of `WORDS` and embeds them as a picture of that colour.
    `weights` (channels, labels) are another model's, `size` another preprocessing's. With `measured` it has a report
    and a model card.
    """
    folder = root / "making"
    (folder / "exports").mkdir(parents=True)
    preprocess = ImagePreprocess(size=size) if kind == "image" else HeatmapPreprocess()
    channels = preprocess.tensor_shape[0]
    if weights is None:
        weights = np.zeros((channels, len(labels)), np.float32)
        for channel in range(channels):
            weights[channel, channel % len(labels)] = 4 if kind == "image" else 40
    content = picture("red") if kind == "image" else npy(heatmaps(0))
    tensor = preprocess.tensor(preprocess.prepare(content, "golden")[None])
    logits = tensor.mean(axis=(2, 3)) @ weights
    if clip:
        logits = SCALE * (logits / np.linalg.norm(logits, axis=1, keepdims=True)) @ _texts(labels).T
    golden = softmax(logits)[0] + np.float32(golden_shift)
    golden_path = "golden.png" if kind == "image" else "golden.npy"
    spatial = preprocess.tensor_shape[1], preprocess.tensor_shape[2]
    onnx.save(linear_model(channels, spatial, weights, unit=clip), folder / "exports/model.onnx")
    if clip:
        save_file({"weight": (SCALE * _texts(labels)).astype(np.float32)}, folder / "exports/head.safetensors")
        (folder / "exports/text").mkdir()
        onnx.save(text_model(_vectors()), folder / "exports/text/model.onnx")
        words = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token=WORDS[0]))
        words.pre_tokenizer = Whitespace()
        words.save(str(folder / "exports/text/tokenizer.json"))
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
        head="exports/head.safetensors" if clip else None,
        text=TextTower(
            model="exports/text/model.onnx",
            tokenizer="exports/text/tokenizer.json",
            templates=("a photo of {}.",),
            context=16,
            pad=0,
            scale=SCALE,
        )
        if clip
        else None,
        lineage={"data": "sha256:5b1f0c9a", "code": "0.1.0", "stages": {"prepare": "9c1d", "train": "77ab"}},
        spec={},
    )
    if measured:
        (folder / "report").mkdir()
        (folder / "report/metrics.json").write_text(_measured(labels).model_dump_json(by_alias=True))
        (folder / "README.md").write_text(card(info, {part: {"red": 60} for part in ("train", "validation", "test")}))
    store = open_store(root / "store")
    digest = publish(store, folder, info)
    promote(store, version, digest)
    return open_bundle(root / "store")


def publish_exports(root: Path, bundle: Bundle, models: Mapping[str, bytes], serve: str) -> Path:
    """Publish a bundle's other version with these models as its exports, as if of another CPU; return the store."""
    folder, store = root / "again", open_store(root / "store")
    shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns("checksums.json", "bundle.json"))
    for format, content in models.items():
        (folder / "exports" / format).mkdir()
        (folder / "exports" / format / "model.onnx").write_bytes(content)
    records = tuple(
        bundle.served.model_copy(update={"format": format, "path": f"exports/{format}/model.onnx"}) for format in models
    )
    info = bundle.info.model_copy(update={"version": "v2", "exports": records, "serve": serve})
    promote(store, info.version, publish(store, folder, info))
    return root / "store"


def _measured(labels: Sequence[str]) -> Metrics:
    """Return what was measured on 20 of each class: 2 were taken for the next one, but of the last none."""
    k = len(labels)
    truth = np.repeat(np.arange(k), 20)
    predicted = np.where((np.arange(20 * k) % 20 < 2) & (truth < k - 1), truth + 1, truth)
    return measure(truth, 0.1 / k + 0.9 * np.eye(k)[predicted], labels)


def _vectors() -> NDArray[np.float32]:
    """Return each word's vector: what a picture of that colour becomes; of words that aren't colours almost nothing."""
    vectors = np.full((len(WORDS), 3), 1e-3, np.float32)
    for at, colour in COLOURS.items():
        vectors[WORDS.index(at)] = colour
    return vectors


def _texts(labels: Sequence[str]) -> NDArray[np.float32]:
    """Return the labels' embeddings, of length 1."""
    found = np.stack([_vectors()[WORDS.index(label)] for label in labels])
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)
