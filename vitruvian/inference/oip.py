"""What the Open Inference Protocol's requests mean to a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitruvian.bundle import Bundle
from vitruvian.data.decode import half_heatmaps
from vitruvian.errors import DataError
from vitruvian.inference.lanes import USUAL, Answer, Input, Wanted
from vitruvian.inference.predictor import Prediction, Predictor, Prepared
from vitruvian.inference.problems import UNUSABLE, Problem
from vitruvian.inference.protocol import InferRequest, Malformed, Tensor

VERSION = version("vitruvian")
EXTENSIONS = ["binary_tensor_data", "statistics", "model_configuration", "model_repository"]
FILES = {"image": "image", "heatmap": "heatmap"}
"""The input that takes encoded files as BYTES, for each kind of preprocessing."""
TEXTS = ("labels", "templates")
"""The inputs that take texts as BYTES, of a model with a text tower: other labels, and the sentences they stand in."""
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
    texts = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in TEXTS if bundle.info.text is not None]
    return {
        "name": bundle.info.name,
        "versions": [bundle.info.version],
        "platform": f"{bundle.info.serve}_{bundle.info.architecture}",
        # One name can't be listed with two datatypes; heatmaps are taken as BYTES of .npy files too.
        "inputs": [*([] if files["name"] == tensors["name"] else [files]), tensors, *texts],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(bundle.info.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def take_texts(request: InferRequest) -> tuple[InferRequest, object, object]:
    """Return a request without its inputs `labels` and `templates`, and their texts; None for one that isn't there."""
    texts: dict[str, list[str] | None] = dict.fromkeys(TEXTS)
    for tensor in request.inputs:
        if tensor.name in texts:
            if not isinstance(tensor.data, list):
                raise Malformed(f"input '{tensor.name}' doesn't take {tensor.datatype}")
            texts[tensor.name] = [_text(item, tensor.name) for item in tensor.data]
    if not any(texts.values()):
        return request, None, None
    left = tuple(tensor for tensor in request.inputs if tensor.name not in texts)
    labels, templates = (texts[name] for name in TEXTS)
    return replace(request, inputs=left), labels, templates


def _text(item: bytes, name: str) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError as e:
        raise Malformed(f"an item of input '{name}' is no text in UTF-8") from e


def timeout(request: InferRequest) -> float | None:
    """Return the seconds that a request's parameter `timeout`, in microseconds, gives; raises `Malformed`."""
    given = request.parameters.get("timeout")
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given <= 0:
        raise Malformed("parameter 'timeout' is not a number of microseconds above 0")
    return given / 1e6


def inputs(request: InferRequest, predictor: Predictor, limit: int, wanted: Wanted = USUAL) -> list[Input]:
    """Return what a request asks to be predicted.

    Raises `Malformed` for an input that the model doesn't have, a `Problem` for one that it can't use.
    """
    preprocess = predictor.bundle.preprocess
    kind = preprocess.kind
    if len(request.inputs) != 1:
        raise Malformed(f"one input is expected, not {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name not in (FILES[kind], TENSORS[kind]):
        known = "' or '".join(dict.fromkeys((FILES[kind], TENSORS[kind])))
        raise Malformed(f"there is no input '{tensor.name}', but '{known}'")
    if tensor.shape and tensor.shape[0] > limit:
        raise Problem(UNUSABLE, f"{tensor.shape[0]} inputs are more than the {limit} that one request may have")
    if isinstance(tensor.data, list) and tensor.name == FILES[kind]:
        if tensor.shape not in ((len(tensor.data),), (len(tensor.data), 1)):
            raise _wrong_shape(tensor, "[n]")
        return [file_input(predictor, item, f"{tensor.name}[{at}]", wanted) for at, item in enumerate(tensor.data)]
    if isinstance(tensor.data, list) or tensor.name != TENSORS[kind]:
        raise Malformed(f"input '{tensor.name}' doesn't take {tensor.datatype}")
    if tensor.shape[1:] != preprocess.tensor_shape or not tensor.shape:
        raise _wrong_shape(tensor, f"[n, {', '.join(map(str, preprocess.tensor_shape))}]")
    places = [tensor.name if len(tensor.data) == 1 else f"{tensor.name}[{at}]" for at in range(len(tensor.data))]
    return tensor_inputs(predictor, tensor.data, places, wanted)


def tensor_inputs(
    predictor: Predictor, batch: NDArray[np.float32], places: Sequence[str], wanted: Wanted = USUAL
) -> list[Input]:
    """Return inputs (n, *tensor_shape) as the model takes them as something to predict; raises a `Problem`."""
    preprocess = predictor.bundle.preprocess
    if batch.shape[1:] != preprocess.tensor_shape:
        expected = f"[n, {', '.join(map(str, preprocess.tensor_shape))}]"
        raise Problem(UNUSABLE, f"{places[0]} has shape {list(batch.shape)} instead of {expected}")
    return [
        Input(partial(_checked, row, place, preprocess.kind), place, wanted, tensor=True)
        for row, place in zip(batch, places, strict=True)
    ]


def outputs(answers: Sequence[Answer]) -> list[Tensor]:
    """Return the outputs `probabilities` [n, classes] and `label` [n].

    Raises a `Problem` that names the items that can't be used: the protocol has no answer for some of them.
    """
    predictions = all_predictions(answers)
    rows = np.stack([prediction.probabilities for prediction in predictions])
    labels = [prediction.label.encode() for prediction in predictions]
    return [Tensor("probabilities", "FP32", rows.shape, rows), Tensor("label", "BYTES", (len(labels),), labels)]


def all_predictions(answers: Sequence[Answer]) -> list[Prediction]:
    """Return answers that are all predictions; raises a `Problem` that names the others, or the server's error."""
    bad = [answer for answer in answers if isinstance(answer, DataError)]
    if bad:
        raise Problem(UNUSABLE, "; ".join(f"{error.where}: {error.what}" for error in bad[:5]))
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return [answer for answer in answers if isinstance(answer, Prediction)]


def file_input(predictor: Predictor, content: bytes, where: object, wanted: Wanted = USUAL) -> Input:
    """Return an encoded file as something to predict."""
    return Input(partial(predictor.prepare, content, where), where, wanted, content=content)


def _checked(row: NDArray[np.float32], where: str, kind: str) -> Prepared:
    if not np.isfinite(row).all():
        return DataError("holds values that aren't finite numbers", where=where)
    if kind == "image":
        return row
    try:
        # Heatmaps are rounded to half precision, as they were in training.
        return half_heatmaps(row, where).astype(np.float32)
    except DataError as e:
        return e


def _wrong_shape(tensor: Tensor, expected: str) -> Problem:
    return Problem(UNUSABLE, f"input '{tensor.name}' has shape {list(tensor.shape)} instead of {expected}")
