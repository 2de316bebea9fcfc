"""What OpenVINO compiled of a model for this CPU, kept for the next process that runs the same.

Without the weights, which are read from the model's own file: a megabyte or two.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from vitruvian.artifact import cache_folder, digest_of
from vitruvian.errors import StoreError
from vitruvian.machine import cpu_features, cpu_model
from vitruvian.store import Store, open_store

_MOST = 32
"""Models that are kept."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_WITHOUT_WEIGHTS = {"CACHE_MODE": "OPTIMIZE_SIZE"}


def recall(core: openvino.Core, path: Path, settings: Mapping[str, Any], content: str | None) -> Any:
    """Return the compiled model of a file with this content, or None where none is kept that can be used."""
    if content is None:
        return None
    try:
        kept = _store().get(_name(settings, content))
    except StoreError:
        return None
    digest, blob = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() != digest:
        return None
    weights = {"WEIGHTS_PATH": str(path.with_suffix(".bin"))}
    try:
        return core.import_model(blob, "CPU", {**settings, **_WITHOUT_WEIGHTS, **weights})
    except Exception:  # Its errors have no common class of their own.
        return None


def compile_and_keep(core: openvino.Core, model: Any, settings: Mapping[str, Any], content: str | None) -> Any:
    """Return the compiled model, kept for the next process where that can be; raises what OpenVINO raises."""
    if content is None:
        return core.compile_model(model, "CPU", settings)
    compiled = core.compile_model(model, "CPU", {**settings, **_WITHOUT_WEIGHTS})
    # A folder that can't be written, or a plug-in that can't tell what it made: the next process compiles again.
    with contextlib.suppress(RuntimeError, StoreError, OSError):
        blob = compiled.export_model().getvalue()
        _store().put(_name(settings, content), hashlib.sha256(blob).digest() + blob)
        _forget_the_oldest()
    return compiled


def _store() -> Store:
    return open_store(cache_folder() / "compiled")


def _name(settings: Mapping[str, Any], content: str) -> str:
    machine = [cpu_model(), cpu_features()]
    return digest_of([openvino.get_version(), machine, dict(settings), content])[:32]


def _forget_the_oldest() -> None:
    files = [each for each in (cache_folder() / "compiled").iterdir() if each.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime)[:-_MOST]:
        file.unlink(missing_ok=True)
