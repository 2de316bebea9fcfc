"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vitruvian.errors import BundleError
from vitruvian.inference.engine import INPUT, OUTPUTS, REMAKE, first_line


class OnnxEngine:
    """ONNX Runtime on the CPU; raises `BundleError` naming a file that doesn't load or has another interface."""

    def __init__(self, path: Path, shape: tuple[int, ...], threads: int, lanes: int = 1) -> None:
        # Callers that run it at once need nothing of their own: with one thread each computes in the caller's.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin take the CPU time that decoding needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # The runtime's errors have no common class of their own.
            raise BundleError(f"can't be loaded ({first_line(e)})", where=path, hint=REMAKE) from e
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        if list(inputs) != [INPUT] or len(outputs) != 1 or outputs[0] not in OUTPUTS:
            found = f"has inputs {list(inputs)} and outputs {outputs} instead of '{INPUT}' and '{OUTPUTS[0]}'"
            raise BundleError(found, where=path, hint=REMAKE)
        if not _takes(inputs[INPUT], shape):
            expected = ["batch", *shape]
            raise BundleError(f"takes {inputs[INPUT]} instead of {expected}", where=path, hint=REMAKE)

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        (output,) = self._session.run(None, {INPUT: batch})
        return np.asarray(output, dtype=np.float32)


def _takes(declared: list[object], shape: tuple[int, ...]) -> bool:
    """Decide whether a model with this declared input accepts batches of any size of this shape."""
    if len(declared) != len(shape) + 1 or isinstance(declared[0], int):
        return False
    return all(not isinstance(size, int) or size == wanted for size, wanted in zip(declared[1:], shape, strict=True))
