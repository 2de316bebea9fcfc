"""A TensorRT engine, which runs on the kind of NVIDIA GPU that it was built on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitruvian.errors import ExportError
from vitruvian.export.source import Source

FILE = "model.trt"
LARGEST_BATCH = 32
_INSTALL = "pip install 'tensorrt>=10,<11'"
# Networks of TensorRT 11 are strongly typed: it has no flags that let it choose a precision, and calibrates nothing.
_FLAGS = {"tensorrt": (), "tensorrt-fp16": ("FP16",), "tensorrt-int8": ("FP16", "INT8")}
_OLDEST = 10


def export(source: Source, folder: Path) -> Path:
    """Write an engine in full precision and return its file; raises `ExportError`."""
    return _build(source, folder, "tensorrt")


def export_fp16(source: Source, folder: Path) -> Path:
    """Write an engine that may compute in half precision; raises `ExportError`."""
    return _build(source, folder, "tensorrt-fp16")


def export_int8(source: Source, folder: Path) -> Path:
    """Write an engine that may compute in 8-bit integers, calibrated by its own rule; raises `ExportError`."""
    return _build(source, folder, "tensorrt-int8")


def _build(source: Source, folder: Path, format: str) -> Path:
    trt = needed(format)
    try:
        built = _built(trt, source, format)
    except AttributeError as e:
        raise ExportError(f"TensorRT {trt.__version__} works otherwise ({e})", where=format, hint=_INSTALL) from e
    path = folder / FILE
    path.write_bytes(built)
    return path


def _built(trt: Any, source: Source, format: str) -> bytes:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(source.onnx.read_bytes()):
        raise ExportError(f"TensorRT can't read this model ({parser.get_error(0)})", where=format)
    config = builder.create_builder_config()
    for flag in _FLAGS[format]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if "INT8" in _FLAGS[format]:
        config.int8_calibrator = _calibrator(trt, source)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, (1, *source.shape), (1, *source.shape), (LARGEST_BATCH, *source.shape))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ExportError("TensorRT can't build this model", where=format, hint="see its messages above")
    return bytes(built)


def needed(format: str) -> Any:
    """Return the library; raises `ExportError` without it or a GPU, or where its version can't make the format."""
    if not torch.cuda.is_available():
        hint = "export on a machine with one, or remove it from export.formats"
        raise ExportError("needs an NVIDIA GPU, and here is none", where=format, hint=hint)
    try:
        import tensorrt  # type: ignore[import-not-found]
    except ImportError as e:
        raise ExportError("needs TensorRT", where=format, hint=_INSTALL) from e
    _check(tensorrt, format)
    return tensorrt


def _check(trt: Any, format: str) -> None:
    """Raise `ExportError` where this TensorRT can't make the format."""
    version = str(trt.__version__)
    if int(version.partition(".")[0]) < _OLDEST:
        raise ExportError(f"needs TensorRT {_OLDEST}, and here is {version}", where=format, hint=_INSTALL)
    flags = all(hasattr(trt.BuilderFlag, flag) for flag in _FLAGS[format])
    if not flags or ("INT8" in _FLAGS[format] and not hasattr(trt, "IInt8EntropyCalibrator2")):
        what = f"needs TensorRT {_OLDEST}: {version}, which is here, leaves no choice of the precision"
        raise ExportError(what, where=format, hint=f"{_INSTALL}, or export tensorrt, in full precision")


def _calibrator(trt: Any, source: Source) -> Any:
    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._batches: Iterator[NDArray[np.float32]] = source.inputs()
            self._on_gpu: torch.Tensor | None = None

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> list[int] | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._on_gpu = torch.from_numpy(batch).cuda()
            return [self._on_gpu.data_ptr()]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: bytes) -> None:
            return None

    return Calibrator()


class TensorrtEngine:
    """Runs what was written on the GPU, to be held against the trained model."""

    def __init__(self, path: Path, shape: tuple[int, ...], threads: int, lanes: int) -> None:
        trt = needed("tensorrt")
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ExportError("TensorRT can't read what it wrote", where=path, hint="see its messages above")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        self._input, self._output = names

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        given = torch.from_numpy(batch).cuda()
        self._context.set_input_shape(self._input, tuple(given.shape))
        made = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device="cuda")
        self._context.set_tensor_address(self._input, given.data_ptr())
        self._context.set_tensor_address(self._output, made.data_ptr())
        self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        output: NDArray[np.float32] = made.cpu().numpy()
        return output
