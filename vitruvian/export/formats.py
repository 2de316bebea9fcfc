"""Every format once: what makes it, and what runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, cast

from vitruvian.export.source import Source
from vitruvian.inference.engine import ENGINES, Open

Export = Callable[[Source, Path], Path]

_MADE_BY: Final = {
    "onnx": ("onnx", "export"),
    "onnx-int8": ("onnx_int8", "export"),
    "openvino": ("openvino", "export"),
    "openvino-bf16": ("openvino", "export_bf16"),
    "openvino-int8": ("openvino", "export_int8"),
    "torchscript": ("torchscript", "export"),
    "tensorrt": ("tensorrt", "export"),
    "tensorrt-fp16": ("tensorrt", "export_fp16"),
    "tensorrt-int8": ("tensorrt", "export_int8"),
}
_RUN_BY: Final = {"torchscript": ("torchscript", "ScriptEngine"), "tensorrt": ("tensorrt", "TensorrtEngine")}
SERVABLE: Final = frozenset(ENGINES)
"""Formats that a server, which has neither torch nor a GPU, can run."""


def check(formats: Iterable[str]) -> None:
    """Raise `ExportError` where one of the formats can't be made on this machine."""
    for format in formats:
        if format.startswith("tensorrt"):
            # Only these need what a machine may lack.
            cast(Callable[[str], object], _named("tensorrt", "needed"))(format)


def exporter(format: str) -> Export:
    """Return what makes a format; its library is loaded now."""
    return cast(Export, _named(*_MADE_BY[format]))


def opener(format: str) -> Open:
    """Return what runs a format: the engines of servers, or what stands in for programs elsewhere."""
    return ENGINES.get(format) or cast(Open, _named(*_RUN_BY[format.split("-")[0]]))


def _named(file: str, name: str) -> object:
    return getattr(importlib.import_module(f"vitruvian.export.{file}"), name)
