"""Predicting files without a server: what `vitruvian predict` runs."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vitruvian import interrupt
from vitruvian.bundle import open_bundle
from vitruvian.console import Teller
from vitruvian.errors import DataError, Interrupted, Terminated
from vitruvian.inference.answers import layout, printable, share
from vitruvian.inference.batch import Batch, Format, Worker, begin, finish, missing
from vitruvian.inference.choice import fastest
from vitruvian.inference.predictor import Prediction, Predictor, Prepared
from vitruvian.machine import usable_cpus
from vitruvian.store import explained

Writing = Callable[[Batch, Sequence[int], Callable[[int], None]], Iterator[tuple[int, int]]]
"""Writes parts, tells how many files are done, and yields of each part its files and those that can't be used."""


@dataclass(frozen=True)
class Row:
    """One file with its prediction, or with what is wrong with it."""

    path: Path
    result: Prediction | DataError


def list_inputs(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """Return the files to predict, each once: a folder's files with these suffixes, sorted, and every file named.

    Raises `DataError` for a folder that holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = _inside(path, suffixes) if path.is_dir() else [path]
        if not inside:
            what = f"holds no file that ends in {', '.join(suffixes)}"
            raise DataError(what, where=path, hint="give a folder with such files, or name the files themselves")
        found.update(dict.fromkeys(inside))
    return list(found)


def predict_paths(
    predictor: Predictor, paths: Sequence[Path], advance: Callable[[int], None] = lambda count: None
) -> Iterator[Row]:
    """Yield a row for every file among the paths, in order; a file that can't be used harms no other.

    Folders are searched as `list_inputs` does; `advance` is told how many files are done. Raises `DataError` for a
    folder without a suitable file.
    """
    files = list_inputs(paths, predictor.bundle.preprocess.suffixes)
    for chunk in predictor.predict_in_chunks(files, lambda path: _prepared(predictor, path)):
        for path, result in chunk:
            yield Row(path, result)
        advance(len(chunk))


def _prepared(predictor: Predictor, path: Path) -> Prepared:
    try:
        if _endless(path):
            return DataError("is not a file", where=path, hint="write what it gives to a file first")
        content = path.read_bytes()
    except OSError as e:
        return DataError(f"can't be read ({e.strerror})", where=path, hint="check the path and its permissions")
    return predictor.prepare(content, path)


def write_csv(rows: Iterable[Row], path: Path, labels: Sequence[str]) -> None:
    """Write path, label, confidence and every label's probability of the rows that have a prediction.

    The file is there whole or not at all; raises `StoreError` where it can't be written.
    """
    cells = (_cells(row.path, row.result) for row in rows if isinstance(row.result, Prediction))
    write_table(path, ["path", "label", "confidence", *labels], cells)


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file, whole or not at all; raises `StoreError` where it can't be written."""
    # A link is followed, and what isn't a file (a pipe, a terminal) can't be replaced.
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise DataError("is not a file", where=path, hint="name a file for the rows; without --csv they are printed")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        aside = Path(name)
        try:
            # A file name need not be text; its bytes come out as they are.
            with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(head)
                writer.writerows(rows)
            aside.chmod(0o644)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as e:
        raise explained(e, path) from e


def check_apart(table: Path | None, files: Iterable[Path]) -> None:
    """Raise `DataError` where the rows would take the place of one of the files that they are about."""
    if table is not None and table.resolve() in {path.resolve() for path in files}:
        raise DataError("is one of the files that are looked at", where=table, hint="name another file for the rows")


def predict_command(
    address: str, paths: Sequence[Path], table: Path | None, console: Console, complain: Callable[[str], None]
) -> int:
    """Predict files with the bundle at an address, print a line for each or write them to a CSV file.

    Prints path, label, confidence and every label's probability; a terminal that has no room for all gets the next
    best. `complain` is told of each file that can't be used; returns how many those were. Raises `BundleError`,
    `DataError` and `StoreError` for what ends the whole command.
    """
    # As a server here does: the same file gets the same answer.
    predictor = Predictor.open(fastest(open_bundle(address), usable_cpus()))
    files = list_inputs(paths, predictor.bundle.preprocess.suffixes)
    check_apart(table, files)
    failed = 0

    def good(rows: Iterable[Row]) -> Iterator[Row]:
        nonlocal failed
        for row in rows:
            if isinstance(row.result, DataError):
                failed += 1
                complain(printable(str(row.result)))
            else:
                yield row

    with Teller(console).bar("predicting", len(files)) as advance:
        rows = good(predict_paths(predictor, files, advance))
        if table is None:
            _print(console, rows, files, predictor.labels)
        else:
            write_csv(rows, table, predictor.labels)
    if table is not None:
        say(console, f"{len(files) - failed} of {len(files)} files are in {table}")
    return failed


def batch_command(
    bundle: str, source: str, out: str, format: Format, size: int, console: Console, write: Writing | None = None
) -> None:
    """Predict all files of a folder or S3 prefix to parts of `size` files, those parts that aren't there yet.

    They are done one after the other, or as `write` does them. A file that can't be used is a row with the error. Shows
    a bar; where no terminal is, a line for each part. Raises `Interrupted` after Ctrl-C, `Terminated` after SIGTERM,
    and what `begin` raises.
    """
    kept = "nothing is written yet"
    with interrupt.termination_at_once() as terminated:
        try:
            batch = begin(bundle, source, out, format, size)
            for parts in _written(batch, console, write or _here):
                kept = f"{parts:,} of {batch.parts:,} parts are in {printable(out)}, and stay"
                interrupt.look()
        except BaseException as e:
            # Foreign code may have swallowed the signal's exception, or made another one of it.
            if not (isinstance(e, KeyboardInterrupt) or interrupt.came() or terminated()):
                raise
            kind, name = (Terminated, "terminated") if terminated() else (Interrupted, "interrupted")
            raise kind(f"{name}: {kept}", hint="run the same command again to go on") from e


def _written(batch: Batch, console: Console, write: Writing) -> Iterator[int]:
    """Write the parts that are missing, then mark them as complete; yield how many are there, at first and after each.

    The console is told of it.
    """
    left = missing(batch)
    before, files, failed = batch.parts - len(left), len(batch.keys), 0
    done = files - sum(len(batch.keys_of(part)) for part in left)
    say(console, f"{files:,} files in {batch.parts:,} parts" + (f", {before:,} of them done before" if before else ""))
    yield before
    with Teller(console).bar("predicting", files) as advance:
        advance(done)
        for parts, (count, useless) in enumerate(write(batch, left, advance) if left else (), before + 1):
            failed += useless
            done += count
            if not console.is_terminal:
                say(console, f"{parts:,} of {batch.parts:,} parts: {done:,} files")
            yield parts
    finish(batch)
    say(console, f"{files:,} files are in {batch.out}")
    if failed:
        say(console, f"{failed:,} of those predicted now can't be used: their rows say why")


def _here(batch: Batch, left: Sequence[int], advance: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    worker = Worker(batch)
    for part in left:
        yield len(batch.keys_of(part)), worker.write(part, advance)


def _print(console: Console, rows: Iterable[Row], files: Sequence[Path], labels: Sequence[str]) -> None:
    # Known before the first answer, so that every line can be printed as it comes.
    table = layout([printable(str(path)) for path in files], labels, console.width if console.is_terminal else None)
    begun = False
    for row in rows:
        if isinstance(row.result, Prediction):
            if not begun:
                begun = True
                for line in table.head:
                    say(console, line)
            probabilities = dict(zip(labels, row.result.probabilities.tolist(), strict=True))
            for line in table.lines(printable(str(row.path)), row.result.label, row.result.confidence, probabilities):
                say(console, line)


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _cells(path: Path, prediction: Prediction) -> list[str]:
    shares = (prediction.confidence, *prediction.probabilities.tolist())
    return [str(path), prediction.label, *map(share, shares)]


def _endless(path: Path) -> bool:
    """Return whether a path leads to a pipe, a socket or a device: reading one may never end."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _inside(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(here, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes and not _endless(Path(here, name))
        ]
    return found
