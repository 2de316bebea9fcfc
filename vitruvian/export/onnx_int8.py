"""ONNX whose matrices are 8-bit integers; what flows through them is quantised anew for each input (dynamic)."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

from vitruvian.errors import ExportError
from vitruvian.export.onnx import FILE
from vitruvian.export.source import Source
from vitruvian.inference.engine import first_line


def export(source: Source, folder: Path) -> Path:
    """Write a model and return its file; raises `ExportError`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / FILE
    model = onnx.load(source.onnx)
    # Shapes that torch has noted: they don't fit any more once weights are turned around.
    del model.graph.value_info[:]
    logging.getLogger("root").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            # Convolutions in integers are slower on CPUs than in floating point, and lose more.
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        except Exception as e:  # It raises whatever its passes raise.
            raise ExportError(f"ONNX Runtime can't quantise this model ({first_line(e)})", where="onnx-int8") from e
    return path
