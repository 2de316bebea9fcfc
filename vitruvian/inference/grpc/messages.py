"""The protocol's messages, from the descriptors that `scripts/generate.py` makes of the `.proto` files.

They live in a pool of their own: the clients of Triton and KServe register the same names in the one that all share.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

DESCRIPTORS = "messages.json"
PROTOS = ("open_inference.proto", "health.proto")


@cache
def _pool() -> Any:
    text = files(__package__).joinpath(DESCRIPTORS).read_text()
    known = json_format.Parse(text, descriptor_pb2.FileDescriptorSet())
    pool = descriptor_pool.DescriptorPool()
    for file in known.file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """Return the class of a message by its full name, such as inference.ModelInferRequest."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


class Method(NamedTuple):
    """One method of a service: the classes of its messages, and whether there are several of them each way."""

    name: str
    request: Any
    response: Any
    streams: bool


def methods(service: str) -> list[Method]:
    """Return all methods of a service."""
    found = _pool().FindServiceByName(service)
    return [
        Method(
            method.name,
            message(method.input_type.full_name),
            message(method.output_type.full_name),
            method.client_streaming,
        )
        for method in found.methods
    ]
