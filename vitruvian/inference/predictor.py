"""A bundle that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vitruvian.bundle import Bundle
from vitruvian.errors import BundleError, DataError
from vitruvian.inference.engine import ENGINES, Engine
from vitruvian.machine import usable_cpus

T = TypeVar("T")

CHUNK = 32
"""Inputs given to the model at once: bounds its memory whatever the number asked for."""

Timer = Callable[[str], AbstractContextManager[object]]
"""Makes a context that measures one stage, `decode` or `predict`."""


Prepared = NDArray[np.generic] | DataError
"""One input as the preprocessing leaves it, or what is wrong with it."""


def untimed(stage: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


def _as_it_is(batch: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(batch, dtype=np.float32)


@dataclass(frozen=True)
class Prediction:
    """The answer for one input: a probability for each label, in the labels' order."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]

    @property
    def label(self) -> str:
        """The most probable label; of equals the first."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """The probability of `label`."""
        return float(self.probabilities.max())

    def ranked(self) -> list[tuple[str, float]]:
        """Return every label with its probability, best first."""
        pairs = zip(self.labels, self.probabilities.tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])


class Predictor:
    """A bundle's preprocessing, model and labels; its methods may be called from several threads at once."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.labels = bundle.info.labels
        self._engine = engine

    @classmethod
    def open(cls, bundle: Bundle, threads: int | None = None) -> Predictor:
        """Return the predictor of a bundle's served export; `threads` defaults to the CPUs that may be used.

        Raises `BundleError` naming a file that can't be run.
        """
        served = bundle.served
        if served.format not in ENGINES:
            known = ", ".join(ENGINES)
            what = f"format '{served.format}' can't be served"
            raise BundleError(what, where=bundle.folder, hint=f"export the model as one of: {known}")
        engine = ENGINES[served.format](
            bundle.folder / served.path, bundle.preprocess.tensor_shape, threads or usable_cpus()
        )
        return cls(bundle, engine)

    def predict_tensors(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities (n, classes) for a batch as the model takes it, (n, *tensor_shape) of float32.

        Raises `DataError` naming the first input that the model has no finite answer to, and `BundleError` where the
        model doesn't fit the labels.
        """
        return _checked(self._probabilities(batch))

    def predict(self, prepared: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return probabilities (n, classes) for prepared inputs, (n, *preprocess.shape) of the preprocessing's type.

        Raises as `predict_tensors` does.
        """
        return _checked(self._probabilities(prepared, self.bundle.preprocess.tensor))

    def prepare(self, content: bytes, where: object) -> Prepared:
        """Return the bytes of a file as a prepared input, or what is wrong with them."""
        try:
            return self.bundle.preprocess.prepare(content, where)
        except DataError as e:
            return e

    def predict_prepared(self, prepared: Sequence[Prepared], where: Sequence[object]) -> list[Prediction | DataError]:
        """Return the answer for each prepared input that is one; what is wrong stays in its place."""
        good = [array for array in prepared if not isinstance(array, DataError)]
        rows = iter(self._probabilities(np.stack(good), self.bundle.preprocess.tensor) if good else ())
        return [
            made if isinstance(made, DataError) else self._prediction(next(rows), place)
            for made, place in zip(prepared, where, strict=True)
        ]

    def predict_in_chunks(
        self, items: Sequence[T], prepare: Callable[[T], Prepared], where: Callable[[T], object] = lambda item: item
    ) -> Iterator[list[tuple[T, Prediction | DataError]]]:
        """Yield the items in order, some at a time, each with its answer or with what is wrong.

        `prepare` is called for several at once; `where` says what an error calls an item.
        """
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                prepared = list(pool.map(prepare, chunk))
                yield list(zip(chunk, self.predict_prepared(prepared, list(map(where, chunk))), strict=True))

    def predict_files(
        self, files: Sequence[tuple[bytes, object]], time: Timer = untimed
    ) -> list[Prediction | DataError]:
        """Return the answer, or what is wrong, for each file given as (content, where it comes from)."""
        with time("decode"):
            prepared = [self.prepare(content, where) for content, where in files]
        with time("predict"):
            return self.predict_prepared(prepared, [where for _, where in files])

    def warm_up(self) -> None:
        """Predict the golden example; raises `BundleError` where the answer isn't the one stored in the bundle."""
        golden = self.bundle.info.golden
        where = self.bundle.folder / golden.input
        hint = "make the bundle again; this one must not be served"
        try:
            probabilities = self.predict(self.bundle.preprocess.prepare(self.bundle.golden_input(), where)[None])[0]
        except DataError as e:
            raise BundleError(f"the golden example {e.what}", where=e.where or where, hint=hint) from e
        if len(golden.probabilities) != len(probabilities):
            what = f"the golden answer has {len(golden.probabilities)} probabilities for {len(probabilities)} labels"
            raise BundleError(what, where=where, hint=hint)
        difference = float(np.abs(probabilities - np.asarray(golden.probabilities)).max())
        # Written so that a difference that isn't a number fails too.
        if not difference <= golden.tolerance:
            what = f"the golden example's answer differs by {difference:.3g}, more than {golden.tolerance:.3g}"
            raise BundleError(what, where=where, hint=hint)

    def _prediction(self, row: NDArray[np.float32], where: object) -> Prediction | DataError:
        return Prediction(self.labels, row) if np.isfinite(row).all() else _out_of_range(where)

    def _probabilities(
        self, inputs: NDArray[np.generic], tensor: Callable[[NDArray[np.generic]], NDArray[np.float32]] = _as_it_is
    ) -> NDArray[np.float32]:
        starts = range(0, len(inputs), CHUNK)
        chunks = [softmax(self._logits(tensor(inputs[start : start + CHUNK]))) for start in starts]
        return np.concatenate(chunks) if chunks else np.zeros((0, len(self.labels)), np.float32)

    def _logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = self._engine.run(batch)
        if logits.shape != (len(batch), len(self.labels)):
            what = f"answers with shape {list(logits.shape)} instead of {[len(batch), len(self.labels)]}"
            path = self.bundle.folder / self.bundle.served.path
            raise BundleError(what, where=path, hint="export the model and publish the bundle again")
        return logits


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities (n, classes) for logits (n, classes); a row that overflowed stays not a number."""
    with np.errstate(invalid="ignore"):
        raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        shares = raised / raised.sum(axis=1, keepdims=True)
    return np.asarray(shares, dtype=np.float32)


def _checked(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise _out_of_range(f"input {int(finite.argmin())}")
    return probabilities


def _out_of_range(where: object) -> DataError:
    return DataError("drives the model out of its range", where=where, hint="send values like those in training")
