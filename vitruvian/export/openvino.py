"""OpenVINO's intermediate representation: in full precision, for bfloat16, and in 8-bit integers by NNCF.

Quantisation looks at examples of the training part (post-training quantisation, Jacob et al., 2018; SmoothQuant for
transformers, Xiao et al., 2023).
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from vitruvian.errors import ExportError
from vitruvian.export.source import Source
from vitruvian.inference.engine import first_line

FILE = "model.xml"


def export(source: Source, folder: Path) -> Path:
    """Write a model in full precision and return its file; its weights lie beside it. Raises `ExportError`."""
    return _save(_read(source), folder, "openvino", half=False)


def export_bf16(source: Source, folder: Path) -> Path:
    """Write a model that is computed in bfloat16, its weights in half precision; raises `ExportError`."""
    return _save(_read(source), folder, "openvino-bf16", half=True)


def export_int8(source: Source, folder: Path) -> Path:
    """Write a model of 8-bit integers; raises `ExportError`."""
    with contextlib.redirect_stdout(io.StringIO()):
        import nncf

        nncf.set_log_level("ERROR")
        try:
            quantised = nncf.quantize(
                _read(source),
                nncf.Dataset(list(source.inputs())),
                model_type=nncf.ModelType.TRANSFORMER if source.transformer else None,
                subset_size=len(source.calibration),
            )
        except Exception as e:  # It raises whatever its passes raise.
            raise ExportError(f"NNCF can't quantise this model ({first_line(e)})", where="openvino-int8") from e
    return _save(quantised, folder, "openvino-int8", half=False)


def _read(source: Source) -> Any:
    import openvino

    return openvino.Core().read_model(source.onnx)


def _save(model: Any, folder: Path, format: str, *, half: bool) -> Path:
    import openvino

    path = folder / FILE
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except Exception as e:  # Its errors have no common class of their own.
        raise ExportError(f"OpenVINO can't write this model ({first_line(e)})", where=format) from e
    return path
