"""Texts as embeddings: a bundle's text tower, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from vitruvian.bundle import TextTower
from vitruvian.errors import BundleError, DataError
from vitruvian.inference.engine import EMBEDDING, REMAKE, first_line

TOKENS = "tokens"
_SHOWN = 60


class Texts:
    """A text tower in full precision on one thread; raises `BundleError` naming a file that doesn't load."""

    def __init__(self, folder: Path, tower: TextTower) -> None:
        self._context = tower.context
        path = folder / tower.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
            self._tokenizer.enable_truncation(tower.context)
            self._tokenizer.enable_padding(pad_id=tower.pad)
            path = folder / tower.model
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # Neither library's errors have a common class of their own.
            raise BundleError(f"can't be loaded ({first_line(e)})", where=path, hint=REMAKE) from e

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return embeddings (n, width) of length 1; raises `DataError` for a text that wouldn't be read to its end."""
        encoded = self._tokenizer.encode_batch(list(texts))
        at = _first_cut(encoded)
        if at is not None:
            what = f"is too long: this model reads {self._context} tokens, and its end would not be read"
            raise DataError(what, where=repr(texts[at][:_SHOWN]), hint="shorten it")
        tokens = np.array([one.ids for one in encoded], np.int64)
        (embeddings,) = self._session.run([EMBEDDING], {TOKENS: tokens})
        return np.asarray(embeddings, np.float32)

    def too_long(self, texts: Sequence[str]) -> int | None:
        """Return the place of the first text that isn't read to its end; None where there is none."""
        return _first_cut(self._tokenizer.encode_batch(list(texts)))


def _first_cut(encoded: Sequence[Encoding]) -> int | None:
    return next((at for at, one in enumerate(encoded) if one.overflowing), None)
