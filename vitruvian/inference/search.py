"""Looking for pictures by words: what `vitruvian search` runs.

A picture's embedding is computed once and kept in the cache folder, for as long as the bundle and the file stay as they
are; a text costs a product of matrices.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from vitruvian.artifact import cache_folder, digest_of
from vitruvian.bundle import Bundle, TextTower, open_bundle
from vitruvian.console import Teller
from vitruvian.errors import BundleError, DataError, StoreError
from vitruvian.inference import stored
from vitruvian.inference.answers import printable
from vitruvian.inference.choice import fastest
from vitruvian.inference.labels import Labels, vectors
from vitruvian.inference.offline import check_apart, say, write_table
from vitruvian.inference.predictor import Predictor, Prepared, in_chunks, out_of_range
from vitruvian.machine import usable_cpus
from vitruvian.store import Entry, Store, open_store

_log = logging.getLogger(__name__)

_MOST_BYTES: Final = 4_000_000_000
"""Of the embeddings of all folders together, on disk."""

Known = dict[Entry, NDArray[np.float32]]
"""Files as they were when they were embedded, with their embeddings (width) of length 1."""


@dataclass(frozen=True, eq=False)
class Index:
    """The pictures of a store that can be found, in order."""

    keys: tuple[str, ...]
    embeddings: NDArray[np.float32]
    """A row of length 1 for each key."""
    failed: tuple[DataError, ...]
    """What is wrong with the files that can't be found."""
    computed: int
    """How many rows weren't kept from before."""

    def rank(self, text: NDArray[np.float32], top: int) -> list[tuple[str, float]]:
        """Return the keys whose pictures fit a text's vector (width) best, with their cosines, best first."""
        cosines = self.embeddings @ text
        return [(self.keys[at], float(cosines[at])) for at in np.argsort(-cosines, kind="stable")[:top]]


def text_tower(bundle: Bundle) -> TextTower:
    """Return what a bundle embeds texts with; raises `BundleError` where it can't."""
    tower = bundle.info.text
    if tower is None or bundle.info.head is None:
        hint = "search with a CLIP that was trained with prompts (model: {architecture: clip, clip: {head: prompts}})"
        raise BundleError("knows its own labels only: it has no text tower", where=bundle.folder, hint=hint)
    return tower


def embed_texts(bundle: Bundle, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors (texts, width) of texts in the bundle's own templates; raises as `text_tower` does."""
    from vitruvian.inference.texts import Texts

    tower = text_tower(bundle)
    asked = Labels(tuple(texts), tower.templates)
    encoder = Texts(bundle.folder, tower)
    # One text at a time: a thousand sentences at once may be more than there is memory for.
    return vectors(np.concatenate([encoder.encode(asked.prompts(text)) for text in asked.labels]), len(texts))


def index(
    predictor: Predictor, source: Store, cache: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Index:
    """Return the index of all pictures in a store: those that `cache` knows as they are now, and the others computed.

    What is computed is kept, also where an error or Ctrl-C ends it. `progress` is told how many of the missing ones
    are done. Raises `DataError` where there is nothing to find.
    """
    bundle = predictor.bundle
    entries = stored.suitable(source, bundle.preprocess.suffixes)
    identity = digest_of([bundle.digest, bundle.info.serve, source.url])
    before = _load(cache, identity)
    known = {entry: before[entry] for entry in entries if entry in before}
    missing = [entry for entry in entries if entry not in known]
    failed: list[DataError] = []
    try:
        _embed(predictor, source, missing, known, failed, progress)
    finally:
        if known.keys() != before.keys():
            _save(cache, identity, known)
    if not known:
        raise DataError(f"holds no file that can be used: {failed[0]}", where=source.url)
    found = [entry for entry in entries if entry in known]
    rows = np.stack([known[entry] for entry in found])
    return Index(tuple(entry.key for entry in found), rows, tuple(failed), len(missing) - len(failed))


def _embed(
    predictor: Predictor,
    source: Store,
    missing: Sequence[Entry],
    known: Known,
    failed: list[DataError],
    progress: Callable[[int, int], None],
) -> None:
    def prepare(entry: Entry) -> Prepared:
        content = stored.read(source, entry.key)
        return content if isinstance(content, DataError) else predictor.prepare(content, source.address(entry.key))

    done = 0
    for chunk, prepared in in_chunks(missing, prepare):
        good = [(entry, array) for entry, array in zip(chunk, prepared, strict=True) if isinstance(array, np.ndarray)]
        failed += [error for error in prepared if isinstance(error, DataError)]
        outputs = predictor.outputs(np.stack([array for _, array in good])) if good else ()
        for (entry, _), row in zip(good, outputs, strict=True):
            if np.isfinite(row).all():
                known[entry] = row
            else:
                failed.append(out_of_range(source.address(entry.key)))
        done += len(chunk)
        progress(done, len(missing))


def search_command(
    address: str,
    folder: str,
    texts: Sequence[str],
    top: int,
    table: Path | None,
    console: Console,
    complain: Callable[[str], None],
) -> None:
    """Print the `top` pictures of a folder or S3 prefix that fit each text best, or write them to a CSV file.

    `complain` is told of files that can't be used. Raises `BundleError`, `DataError` and `StoreError`.
    """
    asked = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    if not all(asked):
        raise DataError("is empty", where="TEXT", hint="say what to look for, such as 'a person on a bicycle'")
    bundle = open_bundle(address)
    text_tower(bundle)
    bundle, source = fastest(bundle, usable_cpus()), open_store(folder)
    with Teller(console).counter("embedding") as progress:
        found = index(Predictor.open(bundle), source, cache_folder() / "search", progress)
    check_apart(table, filter(None, map(source.local, found.keys)))
    if found.failed:
        count = len(found.failed)
        more = "" if count == 1 else f"; {count - 1} more can't be used"
        complain(printable(f"{found.failed[0]}{more}"))
    ranked = [(text, found.rank(row, top)) for text, row in zip(asked, embed_texts(bundle, asked), strict=True)]
    places = [
        (text, str(place), f"{cosine:.4f}", f"{folder.rstrip('/')}/{key}")
        for text, best in ranked
        for place, (key, cosine) in enumerate(best, 1)
    ]

    if table is not None:
        write_table(table, ["text", "rank", "score", "path"], places)
        say(console, f"{len(places)} rows are in {table}")
        return
    for text, place, cosine, path in places:
        if place == "1":
            say(console, text)
        say(console, f"{place:>4}  {cosine:>7}  {path}")


# What is kept.


def _load(cache: Path, identity: str) -> Known:
    """Return what is kept of a bundle and a store; what is damaged is removed, and nothing is known of it."""
    from safetensors import SafetensorError, safe_open

    path = cache / f"{identity[:32]}.safetensors"
    if not path.exists():
        return {}
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            if (file.metadata() or {}).get("identity") != identity:
                return {}
            files = json.loads(file.get_tensor("files").tobytes())
            rows = file.get_tensor("embeddings")
        if rows.ndim != 2 or rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise ValueError
        return {_entry(*each): row for each, row in zip(files, rows, strict=True)}
    except (SafetensorError, ValueError, KeyError, TypeError, OSError):
        with suppress(OSError):
            path.unlink()
        return {}


def _entry(key: object, size: object, tag: object) -> Entry:
    if not (isinstance(key, str) and isinstance(size, int) and isinstance(tag, str)):
        raise ValueError
    return Entry(key, size, tag)


def _save(cache: Path, identity: str, known: Known) -> None:
    from safetensors.numpy import save

    name = f"{identity[:32]}.safetensors"
    try:
        if not known:
            open_store(cache).delete(name)
            return
        # In tensors of their own: a header can't hold millions of names.
        files = json.dumps([[entry.key, entry.size, entry.tag] for entry in known]).encode()
        rows: NDArray[np.generic] = np.stack([*known.values()])
        tensors = {"embeddings": rows, "files": np.frombuffer(files, np.uint8)}
        open_store(cache).put(name, save(tensors, {"identity": identity}))
        _tidy(cache, cache / name)
    except (StoreError, OSError) as e:
        # The next search computes them again.
        _log.warning("embeddings can't be kept: %s", e)


def _tidy(cache: Path, latest: Path) -> None:
    """Remove what wasn't written for longest, as far as it is too much."""
    total = 0
    for path in sorted(cache.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        total += path.stat().st_size
        if total > _MOST_BYTES and path != latest:
            path.unlink(missing_ok=True)
