"""A bundle that answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vitruvian.bundle import Bundle, ExportRecord
from vitruvian.data.decode import Bounds
from vitruvian.errors import BundleError, DataError
from vitruvian.inference.engine import ENGINES, EXACT, REMAKE, Engine
from vitruvian.machine import usable_cpus

T = TypeVar("T")

_QUANTISED = 0.05
"""What another CPU's rounding may change of a probability where a model computes in less than full precision."""
CHUNK = 32
"""Inputs given to the model at once: bounds its memory whatever the number asked for."""

Prepared = NDArray[np.generic] | DataError
"""One input as the preprocessing leaves it, or what is wrong with it."""


def _as_it_is(batch: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(batch, dtype=np.float32)


@dataclass(frozen=True)
class Prediction:
    """The answer for one input: a probability for each label, in the labels' order."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]

    @cached_property
    def _best(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """The most probable label; of equals the first."""
        return self.labels[self._best]

    @property
    def confidence(self) -> float:
        """The probability of `label`."""
        return float(self.probabilities[self._best])

    def ranked(self) -> list[tuple[str, float]]:
        """Return every label with its probability, best first."""
        pairs = zip(self.labels, self.probabilities.tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])


@dataclass(frozen=True, eq=False)
class Head:
    """Tells labels apart by an image's embedding: the logits are its products with a row for each label.

    `weight` is (labels, width).
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path, labels: tuple[str, ...]) -> Head:
        """Return a bundle's own head; raises `BundleError` naming a file that isn't one."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            weight = load_file(path)["weight"]
        except (SafetensorError, OSError, KeyError) as e:
            raise BundleError("is not a head", where=path, hint=REMAKE) from e
        if weight.ndim != 2 or len(weight) != len(labels):
            what = f"has shape {list(weight.shape)} for {len(labels)} labels"
            raise BundleError(what, where=path, hint=REMAKE)
        return cls(labels, np.asarray(weight, np.float32))

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (n, labels) of embeddings (n, width)."""
        return np.asarray(embeddings @ self.weight.T, dtype=np.float32)


class Predictor:
    """A bundle's preprocessing, model and labels; its methods may be called from several threads at once.

    The model's output is a row of logits for each input, or with a `head` an embedding. `exact` is the export in full
    precision where the one served isn't; `load` loads it when it is first asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        head: Head | None = None,
        exact: ExportRecord | None = None,
        load: Callable[[ExportRecord], Engine] | None = None,
    ) -> None:
        self.bundle = bundle
        self.labels = bundle.info.labels
        self.head = head
        self._engine = engine
        self.exact = bundle.served if bundle.served.format in EXACT else exact
        """The export that answers in full precision; None without one."""
        self._load = load
        self._exact_engine = engine if self.exact is bundle.served else None
        self._loading = threading.Lock()
        self.bounds: Bounds | None = None
        """What pictures may take while they are decoded; none: what they take."""

    @classmethod
    def open(cls, bundle: Bundle, threads: int | None = None, *, lanes: int = 1) -> Predictor:
        """Return the predictor of a bundle's served export.

        `lanes` callers run the model at once, each with `threads`, which default to the CPUs that may be used. Raises
        `BundleError` naming a file that can't be run.
        """
        served = bundle.served
        if served.format not in ENGINES:
            known = ", ".join(ENGINES)
            what = f"format '{served.format}' can't be served"
            raise BundleError(what, where=bundle.folder, hint=f"export the model as one of: {known}")

        def load(record: ExportRecord) -> Engine:
            path, shape = bundle.folder / record.path, bundle.preprocess.tensor_shape
            content = f"{bundle.digest} {record.path}"
            return ENGINES[record.format](path, shape, threads or usable_cpus(), lanes, content)

        head = None if bundle.info.head is None else Head.read(bundle.folder / bundle.info.head, bundle.info.labels)
        exact = next((record for record in bundle.info.exports if record.format in EXACT and record.kept), None)
        return cls(bundle, load(served), head=head, exact=exact, load=load)

    @property
    def has_exact(self) -> bool:
        """Whether answers in full precision can be asked for."""
        return self.exact is not None

    @property
    def is_exact_loaded(self) -> bool:
        """Whether an answer in full precision waits for nothing to be loaded."""
        return self._exact_engine is not None

    def load_exact(self) -> Engine:
        """Load the export in full precision, unless it is there, and have it predict the golden example.

        Raises `BundleError` where it can't be run, or its answer isn't the one stored in the bundle: it answers nobody.
        """
        with self._loading:
            # Whoever waited for another to load it has it now.
            if self._exact_engine is None:
                assert self.exact is not None and self._load is not None
                engine = self._load(self.exact)
                self._check_golden(engine, self.exact)
                self._exact_engine = engine
            return self._exact_engine

    def outputs(self, prepared: NDArray[np.generic], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the model's outputs (n, width) for prepared inputs, (n, *preprocess.shape) of its type.

        Raises `BundleError` where the model's output has another shape than it should have.
        """
        return self._outputs(prepared, self.bundle.preprocess.tensor, exact)

    def outputs_of_tensors(self, batch: NDArray[np.float32], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the model's outputs (n, width) for a batch as the model takes it, (n, *tensor_shape) of float32."""
        return self._outputs(batch, _as_it_is, exact)

    def probabilities(self, outputs: NDArray[np.float32], head: Head | None = None) -> NDArray[np.float32]:
        """Return probabilities (n, labels) of outputs, by another head than the bundle's where one is given."""
        head = head or self.head
        return softmax(outputs if head is None else head.logits(outputs))

    def answers(
        self, outputs: NDArray[np.float32], where: Sequence[object], head: Head | None = None
    ) -> list[Prediction | DataError]:
        """Return the answer of each output, or what is wrong with the input that it came from."""
        labels = head.labels if head else self.labels
        rows = self.probabilities(outputs, head)
        return [
            Prediction(labels, row) if np.isfinite(row).all() else out_of_range(place)
            for row, place in zip(rows, where, strict=True)
        ]

    def predict_tensors(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities (n, classes) for a batch as the model takes it, (n, *tensor_shape) of float32.

        Raises `DataError` naming the first input that the model has no finite answer to, and `BundleError` where the
        model doesn't fit the labels.
        """
        return _checked(self.probabilities(self.outputs_of_tensors(batch)))

    def predict(self, prepared: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return probabilities (n, classes) for prepared inputs, (n, *preprocess.shape) of the preprocessing's type.

        Raises as `predict_tensors` does.
        """
        return _checked(self.probabilities(self.outputs(prepared)))

    def prepare(self, content: bytes, where: object) -> Prepared:
        """Return the bytes of a file as a prepared input, or what is wrong with them."""
        try:
            return self.bundle.preprocess.prepare(content, where, self.bounds)
        except DataError as e:
            return e

    def predict_prepared(self, prepared: Sequence[Prepared], where: Sequence[object]) -> list[Prediction | DataError]:
        """Return the answer for each prepared input that is one; what is wrong stays in its place."""
        good = [
            (array, place) for array, place in zip(prepared, where, strict=True) if not isinstance(array, DataError)
        ]
        arrays = [array for array, _ in good]
        answers = iter(self.answers(self.outputs(np.stack(arrays)), [place for _, place in good]) if arrays else ())
        return [made if isinstance(made, DataError) else next(answers) for made in prepared]

    def predict_in_chunks(
        self, items: Sequence[T], prepare: Callable[[T], Prepared], where: Callable[[T], object] = lambda item: item
    ) -> Iterator[list[tuple[T, Prediction | DataError]]]:
        """Yield the items in order, some at a time, each with its answer or with what is wrong.

        `prepare` is called for several at once; `where` says what an error calls an item.
        """
        for chunk, prepared in in_chunks(items, prepare):
            yield list(zip(chunk, self.predict_prepared(prepared, list(map(where, chunk))), strict=True))

    def predict_files(self, files: Sequence[tuple[bytes, object]]) -> list[Prediction | DataError]:
        """Return the answer, or what is wrong, for each file given as (content, where it comes from)."""
        prepared = [self.prepare(content, where) for content, where in files]
        return self.predict_prepared(prepared, [where for _, where in files])

    def warm_up(self) -> None:
        """Predict the golden example; raises `BundleError` where the answer isn't the one stored in the bundle."""
        self._check_golden(self._engine, self.bundle.served)

    def _check_golden(self, engine: Engine, record: ExportRecord) -> None:
        golden, own = self.bundle.info.golden, record.golden
        expected = golden.probabilities if own is None else own
        where = self.bundle.folder / golden.input
        hint = "make the bundle again; this one must not be served"
        try:
            prepared = self.bundle.preprocess.prepare(self.bundle.golden_input(), where)[None]
            outputs = self._checked_outputs(engine, self.bundle.preprocess.tensor(prepared), record)
            probabilities = _checked(self.probabilities(outputs))[0]
        except DataError as e:
            raise BundleError(f"the golden example {e.what}", where=e.where or where, hint=hint) from e
        if len(expected) != len(probabilities):
            what = f"the golden answer has {len(expected)} probabilities for {len(probabilities)} labels"
            raise BundleError(what, where=where, hint=hint)
        difference = float(np.abs(probabilities - np.asarray(expected)).max())
        # What another export answered, where this one's own answer isn't known, may have been rounded.
        rounded = record.format not in EXACT or (own is None and record is not self.bundle.served)
        tolerance = max(golden.tolerance, _QUANTISED) if rounded else golden.tolerance
        # Written so that a difference that isn't a number fails too.
        if not difference <= tolerance:
            what = f"the golden example's answer differs by {difference:.3g}, more than {tolerance:.3g}"
            raise BundleError(what, where=where, hint=hint)

    def _outputs(
        self,
        inputs: NDArray[np.generic],
        tensor: Callable[[NDArray[np.generic]], NDArray[np.float32]],
        exact: bool,
    ) -> NDArray[np.float32]:
        engine = self.load_exact() if exact else self._engine
        record = self.exact if exact and self.exact else self.bundle.served
        starts = range(0, len(inputs), CHUNK)
        chunks = [self._checked_outputs(engine, tensor(inputs[start : start + CHUNK]), record) for start in starts]
        return np.concatenate(chunks) if chunks else np.zeros((0, self._width), np.float32)

    @property
    def _width(self) -> int:
        return len(self.labels) if self.head is None else self.head.weight.shape[1]

    def _checked_outputs(self, engine: Engine, batch: NDArray[np.float32], record: ExportRecord) -> NDArray[np.float32]:
        outputs = engine.run(batch)
        if outputs.shape != (len(batch), self._width):
            what = f"answers with shape {list(outputs.shape)} instead of {[len(batch), self._width]}"
            raise BundleError(what, where=self.bundle.folder / record.path, hint=REMAKE)
        return outputs


def in_chunks(items: Sequence[T], prepare: Callable[[T], Prepared]) -> Iterator[tuple[Sequence[T], list[Prepared]]]:
    """Yield the items in order, as many at a time as a model is given, with what `prepare` makes of each.

    `prepare` is called for several at once.
    """
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            yield chunk, list(pool.map(prepare, chunk))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities (n, classes) for logits (n, classes); a row that overflowed stays not a number."""
    with np.errstate(invalid="ignore"):
        raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        shares = raised / raised.sum(axis=1, keepdims=True)
    return np.asarray(shares, dtype=np.float32)


def _checked(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise out_of_range(f"input {int(finite.argmin())}")
    return probabilities


def out_of_range(where: object) -> DataError:
    return DataError("drives the model out of its range", where=where, hint="send values like those in training")
