"""Which of a bundle's exports to serve on the CPU that a server lands on: the fastest of those that keep the accuracy.

What is fastest depends on the CPU's instructions, so it is measured, never assumed: once for a bundle and a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitruvian.artifact import cache_folder, digest_of
from vitruvian.bundle import Bundle, ExportRecord
from vitruvian.errors import BundleError, StoreError
from vitruvian.inference.engine import ENGINES, Engine
from vitruvian.machine import cpu_features, cpu_model, usable_cpus
from vitruvian.store import open_store

_SECONDS = 0.5
"""How long an export is timed at least."""
_LEAST_RUNS = 3
_PATIENCE = 120.0


def fastest(bundle: Bundle, lanes: int, tell: Callable[[str], None] = lambda line: None) -> Bundle:
    """Return the bundle with that export served that is fastest here, where so many lanes run it at once.

    It is measured unless the bundle was on such a CPU, or was measured here before. `tell` is told what came of it.
    """
    candidates = {record.format: record for record in bundle.info.exports if record.kept and record.format in ENGINES}
    if len(candidates) < 2 or _measured_on_this(bundle):
        return bundle
    store = open_store(cache_folder() / "choices")
    name = digest_of([bundle.digest, cpu_model(), cpu_features(), usable_cpus(), lanes])[:32]
    seconds = _read(candidates, lambda: store.get(name))
    if seconds is None:
        seconds = {format: found for format, record in candidates.items() if (found := _timed(bundle, record, lanes))}
        with suppress(StoreError):
            store.put(name, json.dumps(seconds).encode())
    if not seconds:
        return bundle
    chosen = least(seconds)
    shown = ", ".join(
        f"{format} {1000 * value:.1f} ms" for format, value in sorted(seconds.items(), key=lambda p: p[1])
    )
    tell(f"a picture takes {shown}: serving {chosen}")
    return bundle.serving(chosen)


def chosen(bundle: Bundle, format: str) -> Bundle:
    """Return the bundle with this export served; raises `BundleError` where a server can't run it, or there is none."""
    formats = [record.format for record in bundle.info.exports]
    known = [name for name in formats if name in ENGINES]
    if format in known:
        return bundle.serving(format)
    what = f"'{format}' is for programs elsewhere" if format in formats else f"has no export '{format}'"
    raise BundleError(what, where=bundle.folder, hint=f"choose one of: {', '.join(known)}")


def least(seconds: Mapping[str, float]) -> str:
    """Return the format that takes the fewest seconds."""
    return min(seconds, key=seconds.__getitem__)


def _measured_on_this(bundle: Bundle) -> bool:
    machine = bundle.info.machine
    here = (cpu_model(), cpu_features(), usable_cpus())
    return machine is not None and (machine.cpu, machine.features, machine.cpus) == here


def _read(candidates: Mapping[str, object], get: Callable[[], bytes]) -> dict[str, float] | None:
    try:
        seconds = json.loads(get())
    except (StoreError, ValueError):
        return None
    fine = isinstance(seconds, dict) and all(isinstance(value, float) for value in seconds.values())
    return seconds if fine and set(seconds) <= set(candidates) else None


def _timed(bundle: Bundle, record: ExportRecord, lanes: int) -> float | None:
    """Return the seconds of a picture, measured in a process of its own: its memory goes back. None where it fails."""
    path, shape = bundle.folder / record.path, bundle.preprocess.tensor_shape
    asked = json.dumps([record.format, str(path), shape, lanes])
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, asked], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
        return float(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None


def seconds_per_image(engine: Engine, inputs: NDArray[np.float32], lanes: int) -> float:
    """Return the seconds that an image takes where each lane runs one at a time, all at once."""
    engine.run(inputs[:1])
    began = time.perf_counter()
    counts = [0] * lanes

    def work(lane: int) -> None:
        while counts[lane] < _LEAST_RUNS or time.perf_counter() - began < _SECONDS:
            at = (counts[lane] + lane) % len(inputs)
            engine.run(inputs[at : at + 1])
            counts[lane] += 1

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / sum(counts)


def _main(asked: str) -> None:
    format, path, shape, lanes = json.loads(asked)
    engine = ENGINES[format](Path(path), tuple(shape), max(1, usable_cpus() // lanes), lanes)
    print(seconds_per_image(engine, np.random.default_rng(0).random((4, *shape), np.float32), lanes))


if __name__ == "__main__":
    _main(sys.argv[1])
