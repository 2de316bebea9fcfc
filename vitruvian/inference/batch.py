"""Predicting all that lies in a store, in parts: each part is written whole or not at all, and never twice.

What is asked is written down first; whoever goes on with it later does the parts that are not there yet.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from vitruvian.artifact import digest_of
from vitruvian.bundle import BUNDLES, CHECKSUMS, Bundle, open_bundle
from vitruvian.errors import Conflict, DataError, StoreError
from vitruvian.inference import stored
from vitruvian.inference.choice import chosen, fastest
from vitruvian.inference.predictor import Prediction, Predictor, Prepared
from vitruvian.machine import usable_cpus
from vitruvian.store import Store, open_store

Format = Literal["parquet", "csv", "jsonl"]
# Readers of a whole folder (Arrow, pandas, Spark) pass over names that begin so.
ASKED: Final = "_batch.json"
DONE: Final = "_SUCCESS"


@dataclass(frozen=True)
class Batch:
    """Which files of a store to predict with which bundle, and where the answers go."""

    bundle: str
    """The address of one version."""
    export: str
    """Which of the bundle's exports answers, on whatever machine a part is done."""
    source: str
    out: str
    format: Format
    size: int
    """Files of a part."""
    keys: tuple[str, ...]

    @property
    def parts(self) -> int:
        return -(-len(self.keys) // self.size)

    def keys_of(self, part: int) -> tuple[str, ...]:
        """Return the files of a part."""
        return self.keys[part * self.size : (part + 1) * self.size]

    def name_of(self, part: int) -> str:
        """Return the key that a part's answers are written under."""
        return f"part-{part:06d}.{self.format}"


def begin(bundle: str, source: str, out: str, format: Format = "parquet", size: int = 1000) -> Batch:
    """Write down what is asked, or go on with what was asked before.

    Raises `DataError` where there is nothing to predict, or where the answers that are there are to something else.
    """
    if size < 1:
        raise DataError(f"a part can't hold {size} files", where="--part", hint="use 1 or more")
    if format == "parquet":
        _pyarrow()
    files, store = open_store(source), open_store(out)
    if stored.within(store, files):
        hint = "name a place outside of it"
        raise DataError("the answers can't go to where the files are", where=store.url, hint=hint)
    opened = open_bundle(bundle)
    found = stored.suitable(files, opened.preprocess.suffixes)
    # Another version may become the champion while parts are written.
    published = open_store(bundle).tag(CHECKSUMS) is None
    pinned = f"{bundle.rstrip('/')}/{BUNDLES}/{opened.info.version}" if published else bundle
    version = f"{opened.info.version} {opened.digest[:16]}"
    asked: dict[str, Any] = {"bundle": version, "source": files.url, "format": format, "size": size}
    asked |= {"files": len(found), "digest": digest_of([[entry.key, entry.size, entry.tag] for entry in found])}
    if any(store.list("part-")) and store.tag(ASKED) is None:
        what = f"parts are here, but not {ASKED}, which says what they are of"
        raise DataError(what, where=store.url, hint="name another place for the answers")
    export = _begun(asked, store, opened)
    return Batch(pinned, export, source, out, format, size, tuple(entry.key for entry in found))


def _begun(asked: Mapping[str, Any], store: Store, bundle: Bundle) -> str:
    """Return the export that answers: that of who began, and else the one that a server here would serve."""
    if store.tag(ASKED) is None:
        export = fastest(bundle, usable_cpus()).info.serve
        with suppress(Conflict):
            store.put(ASKED, json.dumps({**asked, "export": export}, indent=1).encode(), if_absent=True)
            return export
    return _export_of(asked, store, bundle)


def _export_of(asked: Mapping[str, Any], store: Store, bundle: Bundle) -> str:
    """Return the export that was decided on before; raises `DataError` where that was for something else."""
    where = store.address(ASKED)
    try:
        before = dict(json.loads(store.get(ASKED)))
        export = str(before["export"])
    except (ValueError, TypeError, KeyError) as e:
        raise DataError("is damaged", where=where, hint="name another place for the answers") from e
    names = {"digest": "other files", "files": "other files", "size": "another size of parts"}
    other = [names.get(name, f"another {name}") for name, value in asked.items() if before.get(name) != value]
    if other:
        what = f"answers to something else are here: {', '.join(dict.fromkeys(other))}"
        raise DataError(what, where=where, hint="name another place for the answers, or ask for the same as before")
    return chosen(bundle, export).info.serve


def missing(batch: Batch) -> list[int]:
    """Return the parts that nobody has written yet."""
    there = {entry.key for entry in open_store(batch.out).list("part-")}
    return [part for part in range(batch.parts) if batch.name_of(part) not in there]


def finish(batch: Batch) -> None:
    """Mark the answers as complete; raises `DataError` where a part is missing."""
    left = missing(batch)
    if left:
        what = f"{len(left)} of {batch.parts} parts are missing"
        raise DataError(what, where=batch.out, hint="run the same command again to go on")
    open_store(batch.out).put(DONE, b"")


class Worker:
    """Predicts parts; a model is read once, when the first one is asked for."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor.open(open_bundle(self.batch.bundle).serving(self.batch.export))

    def write(self, part: int, advance: Callable[[int], None] = lambda count: None) -> int:
        """Write the answers to a part; return how many of its files can't be used.

        `advance` is told how many files are predicted.
        """
        source, keys = open_store(self.batch.source), self.batch.keys_of(part)
        results: list[Prediction | DataError] = []
        for chunk in self._predictor.predict_in_chunks(keys, lambda key: self._prepared(source, key), source.address):
            results += [result for _, result in chunk]
            advance(len(chunk))
        with tempfile.TemporaryDirectory(prefix="vitruvian-batch-") as folder:
            file = Path(folder) / "part"
            _WRITERS[self.batch.format](keys, results, self._predictor.labels, file)
            open_store(self.batch.out).upload(self.batch.name_of(part), file)
        return sum(isinstance(result, DataError) for result in results)

    def _prepared(self, source: Store, key: str) -> Prepared:
        content = stored.read(source, key)
        return content if isinstance(content, DataError) else self._predictor.prepare(content, source.address(key))


def _row(key: str, result: Prediction | DataError) -> dict[str, Any]:
    if isinstance(result, DataError):
        return {"path": key, "label": None, "confidence": None, "probabilities": None, "error": str(result)}
    shares = result.probabilities.tolist()
    row = {"path": key, "label": result.label, "confidence": float(result.confidence), "probabilities": shares}
    return {**row, "error": None}


def _write_jsonl(
    keys: Sequence[str], results: Sequence[Prediction | DataError], labels: Sequence[str], file: Path
) -> None:
    with open(file, "w", encoding="utf-8") as out:
        for key, result in zip(keys, results, strict=True):
            row = _row(key, result)
            if row["probabilities"] is not None:
                row["probabilities"] = dict(zip(labels, row["probabilities"], strict=True))
            out.write(json.dumps(row) + "\n")


def _write_csv(
    keys: Sequence[str], results: Sequence[Prediction | DataError], labels: Sequence[str], file: Path
) -> None:
    # A file's name need not be text; its bytes come out as they are.
    with open(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "label", "confidence", "error", *labels])
        for key, result in zip(keys, results, strict=True):
            row = _row(key, result)
            shares = [f"{share:.6f}" for share in row["probabilities"] or ()] or [""] * len(labels)
            confidence = "" if row["confidence"] is None else f"{row['confidence']:.6f}"
            writer.writerow([key, row["label"] or "", confidence, row["error"] or "", *shares])


def _write_parquet(
    keys: Sequence[str], results: Sequence[Prediction | DataError], labels: Sequence[str], file: Path
) -> None:
    pa, parquet = _pyarrow()
    rows = [_row(key, result) for key, result in zip(keys, results, strict=True)]
    columns = {
        "path": pa.array([_text(row["path"]) for row in rows], pa.string()),
        "label": pa.array([row["label"] for row in rows], pa.string()),
        "confidence": pa.array([row["confidence"] for row in rows], pa.float32()),
        "probabilities": pa.array([row["probabilities"] for row in rows], pa.list_(pa.float32())),
        "error": pa.array([row["error"] and _text(row["error"]) for row in rows], pa.string()),
    }
    # What each of the probabilities belongs to.
    table = pa.table(columns).replace_schema_metadata({"labels": json.dumps(list(labels))})
    parquet.write_table(table, file)


def _text(name: str) -> str:
    """Return a file's name, which need not be text, as text; different names stay different."""
    return name.encode(errors="backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as e:
        hint = "run pip install '.[train]' in a clone of Vitruvian, or ask for csv or jsonl"
        raise StoreError("Parquet needs pyarrow", where="--format", hint=hint) from e
    return pyarrow, parquet


_WRITERS: Final[dict[Format, Callable[..., None]]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "jsonl": _write_jsonl,
}
