"""Where examples come from: a folder or S3 prefix with a folder for each class, or the synthetic set."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitruvian.artifact import digest_of
from vitruvian.controls import steers
from vitruvian.data import synthetic, versions
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.errors import DataError, NotFound, SpecError
from vitruvian.spec import Data
from vitruvian.store import Store, open_store
from vitruvian.synthetic import is_synthetic, parse

GROUPS = "groups.csv"


@dataclass(frozen=True)
class Example:
    """One input with its class, and the group that must not be split."""

    name: str
    label: str
    group: str | None = None


class Source(ABC):
    """Examples that can be listed and read one by one."""

    examples: tuple[Example, ...]
    version: str
    """Changes when the data changes."""
    ignored: int = 0
    """Files that are no examples."""

    @abstractmethod
    def read(self, example: Example) -> NDArray[np.generic]:
        """Return a prepared input; raises `DataError` naming the file. Safe to call from several threads."""


class SyntheticSource(Source):
    """Figures drawn on demand."""

    def __init__(self, data: Data, preprocess: ImagePreprocess | HeatmapPreprocess) -> None:
        self.preprocess = preprocess
        asked = parse(data.source)
        grouped = data.group_by is not None
        self.figures = [synthetic.figure(i, asked.seed, asked.subjects) for i in range(asked.count)]
        self.examples = tuple(
            Example(f"{figure.label}/{i:06d}", figure.label, figure.subject if grouped else None)
            for i, figure in enumerate(self.figures)
        )
        self.version = digest_of([synthetic.GENERATION, asked.count, asked.seed, asked.subjects])

    def read(self, example: Example) -> NDArray[np.generic]:
        figure = self.figures[int(example.name.rpartition("/")[2])]
        if isinstance(self.preprocess, HeatmapPreprocess):
            return synthetic.heatmap(figure).astype(np.float16)
        return synthetic.picture(figure, self.preprocess.size)


class FolderSource(Source):
    """A folder (or S3 prefix) for each class, with a file for each example."""

    def __init__(self, data: Data, preprocess: ImagePreprocess | HeatmapPreprocess) -> None:
        self.preprocess = preprocess
        self.store = open_store(data.source)
        local = self.store.local()
        if local is not None and not local.is_dir():
            raise DataError("there is no such folder", where=local, hint="check data.source")
        listed = list(self.store.list())
        keys = [entry.key for entry in listed if not _hidden(entry.key)]
        files = [key for key in keys if "/" in key and not key.endswith("/")]
        fitting = [key for key in files if key.lower().endswith(preprocess.suffixes)]
        self.ignored = len([key for key in keys if key != GROUPS and not key.endswith("/")]) - len(fitting)
        _check_names(fitting, self.store)
        self._check_classes(fitting, _folders(self.store, keys))
        groups = read_groups(self.store, data.group_by, fitting) if data.group_by else {}
        self.examples = tuple(Example(key, key.split("/", 1)[0], groups.get(key)) for key in fitting)
        read = {*fitting, GROUPS}
        table = [[entry.key, entry.size, entry.tag] for entry in listed if entry.key in read]
        self.version = digest_of([self.store.url, table])

    def read(self, example: Example) -> NDArray[np.generic]:
        return self.preprocess.prepare(self.store.get(example.name), self.store.address(example.name))

    def _check_classes(self, fitting: list[str], folders: set[str]) -> None:
        found = Counter(key.split("/", 1)[0] for key in fitting)
        kinds = " ".join(self.preprocess.suffixes)
        for folder in sorted(folders - set(found)):
            raise DataError(
                f"the class folder holds no {self.preprocess.kind} ({kinds})",
                where=self.store.address(folder),
                hint="add files or remove the folder",
            )
        for name in filter(steers, sorted(found)):
            what = f"the class folder {name!a} has a control character in its name"
            raise DataError(what, where=self.store.url, hint="rename the folder")
        if len(found) < 2:
            what = f"there is only one class, '{next(iter(found))}'" if found else f"there is no {self.preprocess.kind}"
            raise DataError(what, where=self.store.url, hint=f"make a folder of {kinds} files for each class")


def open_source(data: Data, preprocess: ImagePreprocess | HeatmapPreprocess) -> Source:
    """Return the source that a spec names; raises `DataError` for one that can't be learned from."""
    if is_synthetic(data.source):
        return SyntheticSource(data, preprocess)
    if (declared := versions.pinned(data)).version is not None:
        folder = versions.checkout(declared)
        source = FolderSource(data.model_copy(update={"source": str(folder)}), preprocess)
        # Wherever and whenever it was fetched.
        source.version = digest_of([data.source, declared.version])
        return source
    if data.source.startswith("hf://"):
        raise SpecError("hf:// is not implemented yet", where="data.source", hint="download it as a folder per class")
    return FolderSource(data, preprocess)


def _check_names(keys: list[str], store: Store) -> None:
    for key in keys:
        try:
            key.encode()
        except UnicodeEncodeError as e:
            name = ascii(key)
            raise DataError(f"{name} is no UTF-8 name", where=store.url, hint="rename the file or folder") from e


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _folders(store: Store, keys: list[str]) -> set[str]:
    local = store.local()
    if local is None:
        return {key.split("/", 1)[0] for key in keys if "/" in key}
    return {path.name for path in local.iterdir() if path.is_dir() and not path.name.startswith(".")}


def read_groups(store: Store, column: str, keys: list[str]) -> dict[str, str]:
    """Return each example's group from groups.csv; raises `DataError` where an example has none."""
    where = store.address(GROUPS)
    try:
        rows = csv.DictReader(io.StringIO(store.get(GROUPS).decode("utf-8-sig"), newline=""))
        columns = list(rows.fieldnames or [])
        if "path" not in columns or column not in columns:
            missing = "path" if "path" not in columns else column
            raise DataError(
                f"there is no column '{missing}'", where=where, hint=f"the columns are: {', '.join(columns)}"
            )
        groups: dict[str, str] = {}
        for row in rows:
            if groups.setdefault(row["path"], row[column]) != row[column]:
                raise DataError(f"names two groups for {row['path']}", where=where, hint="keep one of the rows")
    except csv.Error as e:
        raise DataError(f"is not a CSV file ({e})", where=where, hint="save it as CSV") from e
    except NotFound as e:
        hint = "write a CSV file with the columns path and the group's name, or remove data.groupBy"
        raise DataError("data.groupBy needs this file", where=where, hint=hint) from e
    except UnicodeDecodeError as e:
        raise DataError("is not UTF-8 text", where=where, hint="save it as UTF-8") from e
    for key in keys:
        if not groups.get(key):
            raise DataError(f"names no group for {key}", where=where, hint="add a row for it")
    return groups
