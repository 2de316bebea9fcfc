"""The trained model itself, as PyTorch runs it: what exports are held against, and what they are faster than."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitruvian.bundle import TrainedRecord
from vitruvian.export.parity import Examples, Trained, first_inputs
from vitruvian.inference.choice import seconds_per_image


class TorchEngine:
    """Runs a module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._module(torch.from_numpy(batch)).float().numpy())


def answers(module: nn.Module, examples: Examples, classes: int) -> Trained:
    """Return what the trained model says of examples."""
    engine = TorchEngine(module)
    rows = [np.zeros((0, classes), np.float32), *map(engine.run, examples.batches())]
    return Trained(examples, np.concatenate(rows))


def record(module: nn.Module, validation: Trained, test: Trained, lanes: int) -> TrainedRecord:
    """Return what the module that is exported costs as it is, timed as exports are."""
    with _one_thread():
        seconds = seconds_per_image(TorchEngine(module), first_inputs(test), lanes)
    return TrainedRecord(
        seconds_per_image=seconds,
        size=sum(tensor.nbytes for tensor in module.state_dict().values()),
        accuracy=test.accuracy,
        validation_accuracy=validation.accuracy if len(validation.examples) else None,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have each lane compute with a thread of its own, as engines do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
