"""The Open Inference Protocol's inference request and response (version 2, REST) with the binary tensor extension.

Pure functions between bytes and tensors. JSON carries BYTES inputs as base64, since JSON has no bytes.
Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal, TypeGuard

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from vitruvian.inference.problems import UNUSABLE, Problem, json_bytes

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = ("FP32", "BYTES")
LARGE = 256_000
"""Bytes of JSON or of a form from which on reading them could hold up others."""
MOST_ITEMS = 65_536
"""Items of a BYTES tensor, where nothing else bounds them."""
_MOST_MARKS = 100_000
_BYTES_OF_A_MARK = 32
_MAX_RANK = 8
_MAX_SIZE = 1 << 31
_NUMBERS = {int, float}

Datatype = Literal["FP32", "BYTES"]


class Malformed(Exception):
    """A request that isn't one by the protocol's rules."""


@dataclass(frozen=True)
class Tensor:
    """A named tensor: `data` is float32 of `shape`, or for BYTES a flat list of as many items."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: NDArray[np.float32] | list[bytes]


@dataclass(frozen=True)
class InferRequest:
    """Inputs, and the outputs asked for by name with whether each is wanted as binary; none means all."""

    inputs: tuple[Tensor, ...]
    id: str | None = None
    outputs: Mapping[str, bool] = field(default_factory=dict)
    binary: bool = False
    """Whether outputs that aren't asked for by name are wanted as binary."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read_header_length(header: str | None) -> int | None:
    """Return the length of the JSON part of a request with binary tensors; None without any."""
    if header is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", header):
        raise Malformed(f"{HEADER_LENGTH} is not a number of bytes")
    return int(header)


def read_json(content: bytes, *, numbers: bool = False) -> dict[str, Any]:
    """Return the JSON object in a body; raises `Malformed`.

    Of a large one most has to be the texts in it, or its numbers where those are meant.
    """
    check_values(content, numbers=numbers)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as e:
        raise Malformed(f"the body is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise Malformed("the body is not a JSON object")
    return value


def check_values(content: bytes, *, numbers: bool = False) -> None:
    """Raise `Malformed` where JSON holds far more values than files, tensors and texts of its size have.

    Each value takes tens of bytes once it is read, while `[],` is three.
    """
    if len(content) <= LARGE:
        return
    left = _MOST_MARKS + len(content) // _BYTES_OF_A_MARK
    # Lists, objects and texts are known by how they begin, numbers only by what parts them.
    for mark in (b"[", b"{", b'"', *(() if numbers else (b",",))):
        left -= content.count(mark)
        if left < 0:
            raise Malformed(f"the body holds too many values for its {len(content)} bytes")


def read_base64(text: object, what: str) -> bytes:
    """Return the bytes of a base64 string, line breaks allowed; raises `Malformed`."""
    if not isinstance(text, str):
        raise Malformed(f"{what} is not a string of base64")
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        try:
            # As bytes: a list of what whitespace parts can be many times as large as the text.
            return pybase64.b64decode(text.encode("ascii").translate(None, b" \t\n\r\v\f"), validate=True)
        except ValueError as e:
            raise Malformed(f"{what} is not base64") from e


def read_request(body: bytes, header_length: int | None, most: int = MOST_ITEMS) -> InferRequest:
    """Return the inference request in a body.

    Raises `Malformed`, and a `Problem` for a BYTES input of more than `most` items.
    """
    if header_length is not None and header_length > len(body):
        raise Malformed(f"{HEADER_LENGTH} is {header_length}, but the body has {len(body)} bytes")
    end = len(body) if header_length is None else header_length
    document = read_json(body[:end], numbers=True)
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Malformed("'id' is not a string")
    blob = _Blob(memoryview(body)[end:])
    inputs = tuple(_input(entry, blob, most) for entry in _entries(document, "inputs"))
    if not inputs:
        raise Malformed("'inputs' is missing or empty")
    blob.finish()
    _refuse_twice("inputs", [tensor.name for tensor in inputs])
    parameters = _parameters(document)
    binary = _flag(parameters, "binary_data_output", False)
    outputs = [
        (_text(entry, "name"), _flag(_parameters(entry), "binary_data", binary))
        for entry in _entries(document, "outputs")
    ]
    _refuse_twice("outputs", [name for name, _ in outputs])
    # By the protocol there are no others, and these are kept for as long as the answer takes.
    scalars = {key: value for key, value in parameters.items() if not isinstance(value, (list, dict))}
    return InferRequest(inputs, identity, dict(outputs), binary, scalars)


def write_response(
    request: InferRequest, model: str, version: str, answers: Sequence[Tensor]
) -> tuple[bytes, int | None]:
    """Return the body with the outputs that were asked for, and the length of its JSON part where it has a binary one.

    Raises `Malformed` where an output isn't among the answers.
    """
    unknown = set(request.outputs) - {answer.name for answer in answers}
    if unknown:
        known = ", ".join(answer.name for answer in answers)
        raise Malformed(f"there is no output '{min(unknown)[:100]}', but: {known}")
    blobs, outputs = [], []
    for answer in answers:
        if request.outputs and answer.name not in request.outputs:
            continue
        output = {"name": answer.name, "datatype": answer.datatype, "shape": list(answer.shape)}
        if request.outputs.get(answer.name, request.binary):
            blobs.append(to_binary(answer))
            outputs.append({**output, "parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            outputs.append({**output, "data": _to_json(answer)})
    identity = {} if request.id is None else {"id": request.id}
    header = json_bytes({"model_name": model, "model_version": version, **identity, "outputs": outputs})
    return b"".join((header, *blobs)), len(header) if blobs else None


class _Blob:
    """The binary part of a body, taken from front to back."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def take(self, size: int, name: str) -> memoryview:
        if size > len(self._content):
            raise Malformed(f"input '{name}' claims {size} bytes, but {len(self._content)} are left in the body")
        taken, self._content = self._content[:size], self._content[size:]
        return taken

    def finish(self) -> None:
        if len(self._content):
            raise Malformed(f"the body has {len(self._content)} bytes that no input claims")


def _entries(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Malformed(f"'{key}' is not a list of objects")
    return entries


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        raise Malformed(f"'{key}' is not a string of 1 to 100 characters")
    return value


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Malformed("'parameters' is not an object")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise Malformed(f"parameter '{key}' is neither true nor false")
    return value


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise Malformed(f"'{what}' names one tensor twice")


def _is_size(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _MAX_SIZE


def _input(entry: Mapping[str, Any], blob: _Blob, most: int) -> Tensor:
    name = _text(entry, "name")
    shape, datatype, parameters = entry.get("shape"), entry.get("datatype"), _parameters(entry)
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(_is_size(size, 1) for size in shape):
        raise Malformed(f"the shape of input '{name}' is not a list of at most {_MAX_RANK} sizes from 1")
    if datatype not in DATATYPES:
        raise Malformed(f"the datatype of input '{name}' is none of: {', '.join(DATATYPES)}")
    check_items(name, datatype, math.prod(shape), most)
    size = parameters.get("binary_data_size")
    if size is None:
        data = _from_json(name, datatype, math.prod(shape), entry.get("data"))
    elif not _is_size(size, 0):
        raise Malformed(f"binary_data_size of input '{name}' is not a number of bytes")
    elif "data" in entry:
        raise Malformed(f"input '{name}' has both 'data' and binary_data_size")
    else:
        data = from_binary(name, datatype, math.prod(shape), blob.take(size, name))
    return Tensor(name, datatype, tuple(shape), data if isinstance(data, list) else data.reshape(shape))


def _from_json(name: str, datatype: Datatype, count: int, data: object) -> NDArray[np.float32] | list[bytes]:
    if not isinstance(data, list):
        raise Malformed(f"'data' of input '{name}' is not a list")
    flat = _flat(name, data)
    _check_count(name, count, len(flat))
    if datatype == "BYTES":
        return [read_base64(item, f"an item of input '{name}'") for item in flat]
    if not set(map(type, flat)) <= _NUMBERS:
        raise Malformed(f"'data' of input '{name}' holds something else than numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=np.float32)
    except OverflowError as e:
        raise Malformed(f"'data' of input '{name}' holds a number that is no FP32") from e


def _flat(name: str, data: list[Any]) -> list[Any]:
    """Return nested lists as one; numpy would guess at texts, and take memory for the longest of them."""
    while data and isinstance(data[0], list):
        if not all(isinstance(part, list) for part in data):
            raise Malformed(f"'data' of input '{name}' is unevenly nested")
        data = list(chain.from_iterable(data))
    return data


def from_binary(name: str, datatype: Datatype, count: int, content: memoryview) -> NDArray[np.float32] | list[bytes]:
    """Return a tensor's items, so many as its shape means, from its bytes; raises `Malformed`."""
    if datatype == "BYTES":
        items = list(islice(_bytes_items(name, content), count + 1))
        _check_count(name, count, len(items) if len(items) <= count else "more")
        return items
    if len(content) % 4:
        raise Malformed(f"input '{name}' has {len(content)} bytes, not a multiple of 4")
    _check_count(name, count, len(content) // 4)
    return np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False)


def _bytes_items(name: str, content: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        if at + 4 > len(content):
            raise Malformed(f"input '{name}' ends within an item's length")
        (size,) = struct.unpack_from("<I", content, at)
        at += 4 + size
        if at > len(content):
            raise Malformed(f"input '{name}' ends within an item")
        yield bytes(content[at - size : at])


def check_items(name: str, datatype: str, count: int, most: int) -> None:
    """Raise a `Problem` where a BYTES tensor's shape means more than `most` items: before any of them is made."""
    if datatype == "BYTES" and count > most:
        raise Problem(UNUSABLE, f"input '{name}' has {_short(count)} items, and may have {most} at most")


def _check_count(name: str, claimed: int, found: int | str) -> None:
    if claimed != found:
        raise Malformed(f"the shape of input '{name}' means {_short(claimed)} items, but it has {found}")


def _short(count: int) -> str:
    return str(count) if count < 10**15 else "more than 10^15"


def _to_json(tensor: Tensor) -> list[str] | NDArray[np.float32]:
    if isinstance(tensor.data, list):
        return [item.decode() for item in tensor.data]
    return tensor.data.ravel()


def to_binary(tensor: Tensor) -> bytes:
    """Return a tensor as bytes."""
    if isinstance(tensor.data, list):
        return b"".join(struct.pack("<I", len(item)) + item for item in tensor.data)
    return tensor.data.astype("<f4").tobytes()
