"""Drawing recorded motion: a folder of keypoint sequences becomes a folder of pictures or heatmaps per class."""

from __future__ import annotations

import csv
import json
import math
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitruvian.data import render
from vitruvian.data.skeleton import KEYPOINTS
from vitruvian.errors import DataError

Form = Literal["heatmaps", "images"]
Labels = Literal["class", "coarse"]
Frame = Literal["peak", "all"]

GROUPS_FILE: Final = "groups.csv"

_INDEX: Final = "index.json"
_JOINTS: Final = "sequences.npz"
_WITHOUT_COARSE: Final = "sequences without a coarse label"
_WITHOUT_JOINTS: Final = "frames without joints"

# Streams of random numbers that must not meet.
_VIEW, _LOOK = 100, 101


@dataclass(frozen=True)
class Summary:
    """How many files were written per class, and how much was left out for which reason."""

    counts: Mapping[str, int]
    skipped: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Sequence:
    """One take: its frames are `joints[start : start + length]`, `peak` is counted from its start."""

    id: str
    label: str
    group: str
    start: int
    length: int
    peak: int
    novel: bool


@dataclass(frozen=True, eq=False)
class Motion:
    """Sequences of keypoints: joints (frames, 17, 2 or 3), NaN where unknown; `coarse` maps classes to coarser ones."""

    sequences: tuple[Sequence, ...]
    joints: NDArray[np.floating]
    coarse: Mapping[str, str]

    @property
    def dimensions(self) -> int:
        return int(self.joints.shape[2])


class _Shot(NamedTuple):
    """One file to write."""

    path: str
    sequence: Sequence
    frame: int
    view: int


def render_keypoints(
    source: Path,
    out: Path,
    form: Form,
    labels: Labels = "class",
    frame: Frame = "peak",
    yaw: float = 0.0,
    views: int = 1,
    size: int = 64,
    seed: int = 0,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Draw the sequences under `source` as `out/<class>/<id>-<frame>[-<view>].png` or `.npy`, and `out/groups.csv`.

    Pictures are `size` pixels square; heatmaps are float16 (17, 64, 48). Each is turned about the upright axis by an
    angle within `yaw` degrees either way, a pure function of (seed, sequence, frame, view). `out` appears when
    complete, and not at all otherwise. `most` spreads that many frames of `frame="all"` over each take. `progress` is
    called with (done, total).

    Raises DataError for a bad source, an `out` that isn't empty, or settings that don't fit the data.
    """
    _check_settings(form, labels, frame, yaw, views, size, seed, most)
    motion = read_motion(source)
    if yaw and motion.dimensions == 2:
        raise DataError("2D keypoints can't be turned", where=source, hint="leave out --yaw")
    if labels == "coarse" and not motion.coarse:
        raise DataError("no coarse labels", where=source / _INDEX, hint="use --labels class")
    if views > 1 and form == "heatmaps" and not yaw:
        raise DataError("several views without a yaw are the same heatmap", where=source, hint="set --yaw, or one view")

    skipped: Counter[str] = Counter()
    shots = list(_shots(motion, form, labels, frame, most, views, skipped))
    if not shots:
        raise DataError("nothing to draw", where=source, hint="see its index.json for labels and lengths")
    with _Appearing(out) as folder:
        for label in {shot.path.partition("/")[0] for shot in shots}:
            (folder / label).mkdir()
        for done, shot in enumerate(shots, 1):
            _write(folder / shot.path, motion, shot, yaw, size, seed)
            if progress is not None:
                progress(done, len(shots))
        with (folder / GROUPS_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "group"))
            writer.writerows((shot.path, shot.sequence.group) for shot in shots)
    counts = Counter(shot.path.partition("/")[0] for shot in shots)
    return Summary(counts=dict(sorted(counts.items())), skipped=dict(skipped))


def read_motion(source: Path) -> Motion:
    """Read `sequences.npz` and `index.json` under a folder.

    Raises DataError, naming the file, for what is missing, unreadable, or doesn't fit together.
    """
    index, arrays = _read_index(source / _INDEX), _read_arrays(source / _JOINTS)
    joints = arrays["joints"]
    if joints.ndim != 3 or joints.shape[1] != len(KEYPOINTS) or joints.shape[2] not in (2, 3):
        raise DataError(
            f"joints are {'x'.join(map(str, joints.shape))}, not frames x 17 x 2 or 3",
            where=source / _JOINTS,
            hint="give the 17 COCO keypoints",
        )
    if not np.issubdtype(joints.dtype, np.floating):
        raise DataError(f"joints are {joints.dtype}, not floating point", where=source / _JOINTS)
    if tuple(index.get("keypoints", KEYPOINTS)) != KEYPOINTS:
        raise DataError(
            "keypoints are not the 17 of COCO in order", where=source / _INDEX, hint=f"expected {', '.join(KEYPOINTS)}"
        )
    sequences = tuple(_sequence(entry, number, source / _INDEX) for number, entry in enumerate(index["sequences"]))
    _check_match(sequences, arrays, source)
    return Motion(sequences, joints, _coarse(index.get("coarse", {}), source / _INDEX))


def project(joints: NDArray[np.floating], yaw: float) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Turn joints (17, 3), y up, about y by `yaw` degrees: points (17, 2), x right and y down, and depth (17,).

    At 0 a person facing +z is seen from the front, their left (+x) on the right. Depth is larger for what is nearer.
    """
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    x, y, z = np.asarray(joints, np.float32).T
    return np.stack([x * cos + z * sin, -y], axis=1), z * cos - x * sin


def _check_settings(
    form: str, labels: str, frame: str, yaw: float, views: int, size: int, seed: int, most: int | None
) -> None:
    for name, value, known in (("--as", form, Form), ("--labels", labels, Labels), ("--frame", frame, Frame)):
        if value not in get_args(known):
            raise DataError(f"{name} {value} is unknown", hint=f"it is one of {', '.join(get_args(known))}")
    if not 0 <= yaw <= 180:
        raise DataError(f"--yaw {yaw} is not within 0 and 180 degrees")
    if not 1 <= views <= 1000:
        raise DataError(f"--views {views} is not within 1 and 1000")
    if not 16 <= size <= 1024:
        raise DataError(f"--size {size} is not within 16 and 1024 pixels")
    if seed < 0:
        raise DataError(f"--seed {seed} is negative")
    if most is not None and most < 1:
        raise DataError(f"--most {most} is less than 1")
    if most is not None and frame == "peak":
        raise DataError("--most is for all frames", hint="set --frame all, or leave it out")


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=path, hint=f"SOURCE is a folder with {_INDEX} and {_JOINTS}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"not readable as JSON ({error})", where=path) from None
    if not isinstance(index, dict) or not isinstance(index.get("sequences"), list):
        raise DataError("no list of sequences", where=path, hint='expected {"sequences": [...]}')
    return index


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    needed = ("joints", "seq_start", "seq_len", "seq_id")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in needed if name not in arrays]
            if missing:
                raise DataError(f"no array {', '.join(missing)}", where=path, hint=f"expected {', '.join(needed)}")
            return {name: arrays[name] for name in needed}
    except FileNotFoundError:
        raise DataError("no such file", where=path, hint=f"SOURCE is a folder with {_INDEX} and {_JOINTS}") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"not readable as .npz without pickles ({error})", where=path) from None


def _sequence(entry: object, number: int, where: Path) -> Sequence:
    texts, numbers = ("id", "class", "group"), ("start", "length", "peak")
    if not isinstance(entry, dict):
        raise DataError(f"sequence {number} is not an object", where=where)
    missing = [name for name in (*texts, *numbers) if name not in entry]
    if missing:
        raise DataError(f"sequence {number} has no {', '.join(missing)}", where=where)
    for name in texts:
        if not _is_file_name(entry[name]):
            raise DataError(f"sequence {number}: {name} {entry[name]!r} can't be a file name", where=where)
    for name in numbers:
        if type(entry[name]) is not int:
            raise DataError(f"sequence {number}: {name} {entry[name]!r} is not a whole number", where=where)
    if not 0 <= entry["peak"] < entry["length"]:
        raise DataError(f"{entry['id']}: peak {entry['peak']} is not one of its {entry['length']} frames", where=where)
    return Sequence(
        id=entry["id"],
        label=entry["class"],
        group=entry["group"],
        start=entry["start"],
        length=entry["length"],
        peak=entry["peak"],
        novel=bool(entry.get("novel", False)),
    )


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and name[:1] not in ("", ".") and not set(name) & set("/\\")


def _check_match(sequences: tuple[Sequence, ...], arrays: Mapping[str, NDArray[Any]], source: Path) -> None:
    where, hint = source / _JOINTS, f"{_INDEX} and {_JOINTS} must come from the same release"
    starts, lengths, ids = (arrays[name].tolist() for name in ("seq_start", "seq_len", "seq_id"))
    if len(sequences) != len(starts):
        raise DataError(f"{len(starts)} sequences, but {len(sequences)} in {_INDEX}", where=where, hint=hint)
    if len({sequence.id for sequence in sequences}) < len(sequences):
        raise DataError("two sequences have the same id", where=source / _INDEX)
    for sequence, start, length, name in zip(sequences, starts, lengths, ids, strict=True):
        if (sequence.id, sequence.start, sequence.length) != (name, start, length):
            raise DataError(f"{sequence.id} differs from {_INDEX}", where=where, hint=hint)
        if start < 0 or start + length > len(arrays["joints"]):
            raise DataError(f"{sequence.id} lies outside the {len(arrays['joints'])} frames", where=where, hint=hint)


def _coarse(groups: object, where: Path) -> dict[str, str]:
    expected = 'expected {"coarse class": ["class", ...]}'
    if not isinstance(groups, dict):
        raise DataError("coarse is not an object", where=where, hint=expected)
    coarse: dict[str, str] = {}
    for name, members in groups.items():
        if not _is_file_name(name):
            raise DataError(f"coarse class {name!r} can't be a file name", where=where)
        if not isinstance(members, list):
            raise DataError(f"coarse class {name} is not a list", where=where, hint=expected)
        for member in members:
            if member in coarse:
                raise DataError(f"class {member} is in two coarse classes", where=where)
            coarse[member] = name
    return coarse


def _shots(
    motion: Motion, form: Form, labels: Labels, frame: Frame, most: int | None, views: int, skipped: Counter[str]
) -> Iterator[_Shot]:
    suffix = ".png" if form == "images" else ".npy"
    drawable = np.isfinite(motion.joints).all(axis=2).any(axis=1)
    for sequence in motion.sequences:
        label: str | None = sequence.label
        if labels == "coarse":
            label = None if sequence.novel else motion.coarse.get(sequence.label)
        if label is None:
            skipped[_WITHOUT_COARSE] += 1
            continue
        for number in (sequence.peak,) if frame == "peak" else _spread(sequence.length, most):
            if not drawable[sequence.start + number]:
                skipped[_WITHOUT_JOINTS] += 1
                continue
            for view in range(views):
                name = f"{sequence.id}-{number:03d}" + (f"-{view}" if views > 1 else "")
                yield _Shot(f"{label}/{name}{suffix}", sequence, number, view)


def _spread(length: int, most: int | None) -> list[int]:
    """Return the numbers of at most `most` frames, evenly spread, the first and the last among them."""
    if most is None or most >= length:
        return list(range(length))
    return sorted(set(np.linspace(0, length - 1, most).round().astype(int).tolist()))


def _write(path: Path, motion: Motion, shot: _Shot, yaw: float, size: int, seed: int) -> None:
    name = zlib.crc32(shot.sequence.id.encode())
    rng = np.random.default_rng((_VIEW, seed, name, shot.frame, shot.view))
    angle = rng.uniform(-yaw, yaw)
    joints = motion.joints[shot.sequence.start + shot.frame]
    points, depth = (np.asarray(joints, np.float32), None) if motion.dimensions == 2 else project(joints, angle)
    visible = render.known(points)
    if path.suffix == ".png":
        # Clothes change with every picture: kept for a take or a group, they would give its class away.
        look = render.draw_look(np.random.default_rng((_LOOK, seed, name, shot.frame, shot.view)))
        placed = render.fit(points, 1.0, 1.0)
        if depth is not None:
            depth = depth * _scale(points, placed)
        picture = render.draw_picture(placed, visible, size, rng, look=look, depth=depth)
        Image.fromarray(picture).save(path, compress_level=1)
    else:
        placed = render.fit(points, render.HEATMAP_WIDTH - 1, render.HEATMAP_HEIGHT - 1)
        # Half precision: 11 bits are far finer than what a pose model's peaks tell, for half of the disk.
        np.save(path, render.draw_heatmaps(placed, visible).astype(np.float16), allow_pickle=False)


def _scale(points: NDArray[np.floating], placed: NDArray[np.floating]) -> float:
    """How much larger `placed` is than `points`."""
    before = float(np.nanmax(np.nanmax(points, axis=0) - np.nanmin(points, axis=0)))
    after = float(np.nanmax(np.nanmax(placed, axis=0) - np.nanmin(placed, axis=0)))
    return after / max(before, 1e-6)


class _Appearing:
    """A folder that is filled under another name beside its place and moved there when complete."""

    def __init__(self, out: Path) -> None:
        # Resolved, as `.` or a trailing `..` have no sibling by name.
        self.out = out.resolve()
        self.hidden = self.out.parent / f".{self.out.name}.{uuid4().hex[:8]}"
        self.made: list[Path] = []

    def __enter__(self) -> Path:
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise DataError("is in the way", where=self.out, hint="choose a new or empty folder")
        for parent in reversed(self.out.parents):
            if not parent.exists():
                parent.mkdir()
                self.made.append(parent)
        self.hidden.mkdir()
        return self.hidden

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self.out.exists():
                self.out.rmdir()
            self.hidden.rename(self.out)
            return
        shutil.rmtree(self.hidden, ignore_errors=True)
        for parent in reversed(self.made):
            parent.rmdir()
