"""The prepare stage: read every example once, refuse what is broken, split and pack."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitruvian.data.prepared import PARTS, Prepared, Writer
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.data.sources import Example, Source
from vitruvian.data.split import count, split
from vitruvian.errors import DataError
from vitruvian.spec import Data

REPORTED = 20


def prepare(
    source: Source,
    data: Data,
    preprocess: ImagePreprocess | HeatmapPreprocess,
    folder: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> Prepared:
    """Write a prepared data set into an empty folder.

    Raises `DataError` with a line for each broken file (the first `REPORTED`), or where the split can't be made.
    """
    labels = [example.label for example in source.examples]
    groups = [example.group or "" for example in source.examples] if data.group_by else None
    parts = split(labels, groups, data.test_size, data.validation_size, data.seed)
    classes = sorted(set(labels))
    number = {name: i for i, name in enumerate(classes)}
    broken: list[str] = []
    for part in PARTS:
        writer = Writer(folder, part, preprocess.shape, preprocess.dtype)
        examples = [source.examples[i] for i in parts[part]]
        for example, result in _read_ahead(source, examples):
            try:
                writer.add(result.result(), number[example.label], example.name)
            except DataError as e:
                broken.append(str(e))
            advance(1)
        if not broken:
            writer.close()
    if broken:
        more = [f"… and {len(broken) - REPORTED} more files"] if len(broken) > REPORTED else []
        raise DataError("\n".join([*broken[:REPORTED], *more]))
    index = {"classes": classes, "preprocess": preprocess.model_dump()}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "statistics.json").write_text(json.dumps(count(labels, parts), indent=1))
    return Prepared.open(folder)


def _read_ahead(source: Source, examples: list[Example]) -> Iterator[tuple[Example, Future[NDArray[np.generic]]]]:
    """Yield examples in order while a bounded number of the next ones are being decoded."""
    workers = 2 * (os.cpu_count() or 1)
    coming = iter(examples)
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque((example, pool.submit(source.read, example)) for example in islice(coming, 8 * workers))
        try:
            while waiting:
                yield waiting.popleft()
                waiting.extend((example, pool.submit(source.read, example)) for example in islice(coming, 1))
        finally:
            for _, future in waiting:
                future.cancel()
