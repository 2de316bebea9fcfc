"""What the Open Inference Protocol's requests mean to a predictor."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from vitruvian.bundle import Bundle
from vitruvian.data.decode import half_heatmaps
from vitruvian.errors import DataError
from vitruvian.inference.metrics import ServingMetrics
from vitruvian.inference.predictor import Prediction, Predictor
from vitruvian.inference.problems import UNUSABLE, Problem
from vitruvian.inference.protocol import InferRequest, Malformed, Tensor

VERSION = version("vitruvian")
EXTENSIONS = ["binary_tensor_data"]
FILES = {"image": "image", "heatmap": "heatmap"}
"""The input that takes encoded files as BYTES, for each kind of preprocessing."""
TENSORS = {"image": "pixels", "heatmap": "heatmap"}
"""The input that takes FP32 as the model does, for each kind of preprocessing."""


def server_metadata() -> dict[str, Any]:
    """Return the answer to `GET /v2`."""
    return {"name": "vitruvian", "version": VERSION, "extensions": EXTENSIONS}


def model_metadata(bundle: Bundle) -> dict[str, Any]:
    """Return the answer to `GET /v2/models/NAME`: a request has one of the inputs, whichever suits."""
    kind = bundle.preprocess.kind
    files = {"name": FILES[kind], "datatype": "BYTES", "shape": [-1]}
    tensors = {"name": TENSORS[kind], "datatype": "FP32", "shape": [-1, *bundle.preprocess.tensor_shape]}
    return {
        "name": bundle.info.name,
        "versions": [bundle.info.version],
        "platform": f"{bundle.info.serve}_{bundle.info.architecture}",
        # One name can't be listed with two datatypes; heatmaps are taken as BYTES of .npy files too.
        "inputs": [tensors] if files["name"] == tensors["name"] else [files, tensors],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(bundle.info.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def infer(predictor: Predictor, request: InferRequest, metrics: ServingMetrics, limit: int) -> list[Tensor]:
    """Return the outputs `probabilities` [n, classes] and `label` [n] for a request's one input.

    Raises `Malformed` for an input that the model doesn't have, a `Problem` that names the items that can't be used.
    """
    kind = predictor.bundle.preprocess.kind
    if len(request.inputs) != 1:
        raise Malformed(f"one input is expected, not {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name not in (FILES[kind], TENSORS[kind]):
        known = "' or '".join(dict.fromkeys((FILES[kind], TENSORS[kind])))
        raise Malformed(f"there is no input '{tensor.name}', but '{known}'")
    if tensor.shape and tensor.shape[0] > limit:
        raise Problem(UNUSABLE, f"{tensor.shape[0]} inputs are more than the {limit} that one request may have")
    if isinstance(tensor.data, list) and tensor.name == FILES[kind]:
        predictions = _classify_files(predictor, tensor, tensor.data, metrics)
    elif not isinstance(tensor.data, list) and tensor.name == TENSORS[kind]:
        predictions = _classify_tensors(predictor, tensor, tensor.data, metrics)
    else:
        raise Malformed(f"input '{tensor.name}' doesn't take {tensor.datatype}")
    metrics.predicted(predictions)
    rows = np.stack([prediction.probabilities for prediction in predictions])
    labels = [prediction.label.encode() for prediction in predictions]
    return [Tensor("probabilities", "FP32", rows.shape, rows), Tensor("label", "BYTES", (len(labels),), labels)]


def _classify_files(
    predictor: Predictor, tensor: Tensor, items: list[bytes], metrics: ServingMetrics
) -> list[Prediction]:
    if tensor.shape not in ((len(items),), (len(items), 1)):
        raise _wrong_shape(tensor, "[n]")
    answers = predictor.predict_files([(item, f"{tensor.name}[{at}]") for at, item in enumerate(items)])
    bad = [answer for answer in answers if isinstance(answer, DataError)]
    if bad:
        # The protocol has no answer for some of the items.
        raise Problem(UNUSABLE, "; ".join(f"{error.where}: {error.what}" for error in bad[:5]))
    return [answer for answer in answers if isinstance(answer, Prediction)]


def _classify_tensors(
    predictor: Predictor, tensor: Tensor, data: np.ndarray[Any, np.dtype[np.float32]], metrics: ServingMetrics
) -> list[Prediction]:
    preprocess = predictor.bundle.preprocess
    if tensor.shape[1:] != preprocess.tensor_shape or not tensor.shape:
        raise _wrong_shape(tensor, f"[n, {', '.join(map(str, preprocess.tensor_shape))}]")
    if not np.isfinite(data).all():
        raise Problem(UNUSABLE, f"input '{tensor.name}' holds values that aren't finite numbers")
    with metrics.time("decode"):
        # Heatmaps are rounded to half precision, as they were in training.
        batch = data if preprocess.kind == "image" else half_heatmaps(data, tensor.name).astype(np.float32)
    with metrics.time("predict"):
        return [Prediction(predictor.labels, row) for row in predictor.predict_tensors(batch)]


def _wrong_shape(tensor: Tensor, expected: str) -> Problem:
    return Problem(UNUSABLE, f"input '{tensor.name}' has shape {list(tensor.shape)} instead of {expected}")
