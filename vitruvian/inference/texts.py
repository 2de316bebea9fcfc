"""Texts as embeddings: a bundle's text tower, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vitruvian.bundle import TextTower
from vitruvian.errors import BundleError
from vitruvian.inference.engine import EMBEDDING, REMAKE, first_line

TOKENS = "tokens"


class Texts:
    """A text tower in full precision on one thread; raises `BundleError` naming a file that doesn't load."""

    def __init__(self, folder: Path, tower: TextTower) -> None:
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
        """Return embeddings (n, width) of length 1; of a text that is too long its beginning counts."""
        tokens = np.array([encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))], np.int64)
        (embeddings,) = self._session.run([EMBEDDING], {TOKENS: tokens})
        return np.asarray(embeddings, np.float32)
