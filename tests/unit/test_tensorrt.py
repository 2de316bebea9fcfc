"""What TensorRT can make is known before anything is computed, whatever version is here. A stub: no GPU needed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from vitruvian.errors import ExportError
from vitruvian.export.formats import check

FORMATS = ("tensorrt", "tensorrt-fp16", "tensorrt-int8")


def _install(monkeypatch: pytest.MonkeyPatch, version: str, **has: object) -> None:
    """Have this TensorRT on a machine with a GPU."""
    stub = ModuleType("tensorrt")
    vars(stub).update({"__version__": version, **has})
    monkeypatch.setitem(sys.modules, "tensorrt", stub)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize("format", FORMATS)
def test_tensorrt_10_makes_all_formats(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    flags = SimpleNamespace(FP16=0, INT8=1, TF32=2)
    _install(monkeypatch, "10.13.3.9", BuilderFlag=flags, IInt8EntropyCalibrator2=object)
    check([format])


def test_tensorrt_11_makes_full_precision_only_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "11.4.0.106", BuilderFlag=SimpleNamespace(TF32=2))
    check(["tensorrt"])
    for format in FORMATS[1:]:
        with pytest.raises(ExportError) as told:
            check([format])
        (line,) = str(told.value).splitlines()
        assert line.startswith(f"{format}: needs TensorRT 10: 11.4.0.106, which is here, ")
        assert "pip install 'tensorrt>=10,<11'" in line


def test_a_tensorrt_without_calibration_makes_no_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "10.99", BuilderFlag=SimpleNamespace(FP16=0, INT8=1))
    check(["tensorrt-fp16"])
    with pytest.raises(ExportError, match="leaves no choice of the precision"):
        check(["tensorrt-int8"])


@pytest.mark.parametrize("format", FORMATS)
def test_a_tensorrt_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    _install(monkeypatch, "8.6.1", BuilderFlag=SimpleNamespace(FP16=0, INT8=1), IInt8EntropyCalibrator2=object)
    with pytest.raises(ExportError, match=r"needs TensorRT 10, and here is 8\.6\.1; pip install 'tensorrt>=10,<11'"):
        check([format])


def test_without_a_gpu_or_the_library_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ExportError, match="needs an NVIDIA GPU, and here is none"):
        check(["tensorrt"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match="needs TensorRT; pip install 'tensorrt>=10,<11'"):
        check(["tensorrt-int8"])
