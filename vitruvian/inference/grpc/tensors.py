"""Between the protocol's messages and tensors. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitruvian.inference.grpc.messages import message
from vitruvian.inference.protocol import (
    DATATYPES,
    MOST_ITEMS,
    InferRequest,
    Malformed,
    Tensor,
    check_items,
    from_binary,
    to_binary,
)

_MOST_RANK = 8
_LARGEST = 1 << 31


def read(asked: Any, most: int = MOST_ITEMS) -> InferRequest:
    """Return a ModelInferRequest's tensors, parameters and wanted outputs.

    Raises `Malformed`, and a `Problem` for a BYTES input of more than `most` items.
    """
    raw = asked.raw_input_contents
    if not asked.inputs:
        raise Malformed("'inputs' is missing or empty")
    if raw and len(raw) != len(asked.inputs):
        raise Malformed(f"raw_input_contents has {len(raw)} items for {len(asked.inputs)} inputs")
    names = [given.name for given in asked.inputs]
    if len(set(names)) != len(names):
        raise Malformed("'inputs' names one tensor twice")
    inputs = tuple(_tensor(given, raw[at] if raw else None, most) for at, given in enumerate(asked.inputs))
    outputs = {wanted.name: bool(raw) for wanted in asked.outputs}
    return InferRequest(inputs, asked.id or None, outputs, bool(raw), _parameters(asked.parameters))


def _tensor(given: Any, raw: bytes | None, most: int) -> Tensor:
    name, shape = given.name[:100], tuple(given.shape)
    if len(shape) > _MOST_RANK or not all(1 <= size < _LARGEST for size in shape):
        raise Malformed(f"the shape of input '{name}' is not a list of at most {_MOST_RANK} sizes from 1")
    if given.datatype not in DATATYPES:
        raise Malformed(f"the datatype of input '{name}' is none of: {', '.join(DATATYPES)}")
    count = math.prod(shape)
    check_items(name, given.datatype, count, most)
    if raw is not None:
        data = from_binary(name, given.datatype, count, memoryview(raw))
    else:
        items = given.contents.bytes_contents if given.datatype == "BYTES" else given.contents.fp32_contents
        if len(items) != count:
            raise Malformed(f"the shape of input '{name}' doesn't mean the {len(items)} items that it has")
        # An array of a sequence would be three times as slow.
        data = list(items) if given.datatype == "BYTES" else np.fromiter(items, np.float32, count)
    return Tensor(name, given.datatype, shape, data if isinstance(data, list) else data.reshape(shape))


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for name, value in given.items()
    }


def write(request: InferRequest, model: str, version: str, answers: Sequence[Tensor]) -> Any:
    """Return a ModelInferResponse with the outputs that were asked for, as raw bytes where the inputs were.

    Raises `Malformed` where an output isn't among the answers.
    """
    unknown = set(request.outputs) - {answer.name for answer in answers}
    if unknown:
        known = ", ".join(answer.name for answer in answers)
        raise Malformed(f"there is no output '{min(unknown)[:100]}', but: {known}")
    made = message("inference.ModelInferResponse")(model_name=model, model_version=version, id=request.id or "")
    for answer in answers:
        if request.outputs and answer.name not in request.outputs:
            continue
        output = made.outputs.add(name=answer.name, datatype=answer.datatype, shape=answer.shape)
        if request.binary:
            made.raw_output_contents.append(to_binary(answer))
        elif isinstance(answer.data, list):
            output.contents.bytes_contents.extend(answer.data)
        else:
            output.contents.fp32_contents.extend(answer.data.ravel())
    return made
