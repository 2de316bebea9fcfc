"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from vitruvian.errors import BundleError
from vitruvian.inference.engine import INPUT, OUTPUTS, REMAKE, first_line
from vitruvian.inference.engines import compiled
from vitruvian.machine import let_go


class OpenvinoEngine:
    """OpenVINO's CPU plug-in; raises `BundleError` naming a file that doesn't load or has another interface.

    `precision` is what it computes in where the model says nothing else: f32, or bf16. Without a word it would choose
    bf16 by itself on CPUs that have it. `content` tells this file's model from all others: what is compiled of it is
    kept under that name for the next process.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], threads: int, lanes: int, precision: str, content: str | None
    ) -> None:
        settings = {
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": lanes * threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        core = openvino.Core()
        try:
            kept = compiled.recall(core, path, settings, content)
            model = core.read_model(path) if kept is None else kept
            _check(model, path, shape)
            self._model = compiled.compile_and_keep(core, model, settings, content) if kept is None else kept
        except BundleError:
            raise
        except Exception as e:  # Its errors have no common class of their own.
            raise BundleError(f"can't be loaded ({first_line(e)})", where=path, hint=REMAKE) from e
        self._requests = threading.local()
        self._weights = path.with_suffix(".bin")

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        request: Any = getattr(self._requests, "own", None)
        first = request is None
        if first:
            request = self._requests.own = self._model.create_infer_request()
        request.infer([np.ascontiguousarray(batch, np.float32)], share_inputs=True)
        if first:
            # For the first batch the plug-in has made weights of its own of the file's.
            let_go(self._weights)
        return np.array(request.get_output_tensor().data, dtype=np.float32)


def _check(model: Any, path: Path, shape: tuple[int, ...]) -> None:
    """Raise `BundleError` where a model isn't one of ours, or takes other inputs."""
    found = [[port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs)]
    if found[0] != [INPUT] or len(found[1]) != 1 or found[1][0] not in OUTPUTS:
        what = f"has inputs {found[0]} and outputs {found[1]} instead of '{INPUT}' and '{OUTPUTS[0]}'"
        raise BundleError(what, where=path, hint=REMAKE)
    taken = model.input().partial_shape
    if not _takes(taken, shape):
        raise BundleError(f"takes {taken} instead of {['batch', *shape]}", where=path, hint=REMAKE)


def _takes(taken: Any, shape: tuple[int, ...]) -> bool:
    """Decide whether a model with this input accepts batches of any size of this shape."""
    if taken.rank.is_dynamic or len(taken) != len(shape) + 1 or taken[0].is_static:
        return False
    return all(
        size.is_dynamic or size.get_length() == expected for size, expected in zip(list(taken)[1:], shape, strict=True)
    )
