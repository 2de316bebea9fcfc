"""The synthetic set as files: a folder for each class, as people's own pictures lie."""

from __future__ import annotations

import csv
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from vitruvian.data import synthetic
from vitruvian.errors import DataError
from vitruvian.store import explained


def draw_pictures(
    out: Path,
    count: int,
    seed: int = 0,
    subjects: int = 40,
    size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Draw figures as `out/<class>/<number>.png` of `size` pixels square, and `out/groups.csv` with their subjects.

    `out` appears when complete, and not at all otherwise. Returns how many there are of each class. Raises `DataError`
    for a folder that holds something, `StoreError` for one that can't be written.
    """
    # A name of its own, as `.` has none.
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("is in the way", where=out, hint="choose a new or empty folder")
    counts: Counter[str] = Counter()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as aside:
            folder = Path(aside) / "drawn"
            folder.mkdir()
            with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as file:
                groups = csv.writer(file, lineterminator="\n")
                groups.writerow(("path", "subject"))
                for number in range(count):
                    figure = synthetic.figure(number, seed, subjects)
                    path = f"{figure.label}/{number:06d}.png"
                    (folder / figure.label).mkdir(exist_ok=True)
                    Image.fromarray(synthetic.picture(figure, size)).save(folder / path)
                    groups.writerow((path, figure.subject))
                    counts[figure.label] += 1
                    progress(number + 1, count)
            os.replace(folder, out)
    except OSError as e:
        raise explained(e, out) from e
    return dict(counts)
