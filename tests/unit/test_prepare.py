"""What can't be learned from is refused with the file's name; what can is packed as serving will see it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitruvian.data.decode import HEATMAP_SHAPE
from vitruvian.data.prepare import prepare
from vitruvian.data.prepared import Prepared
from vitruvian.data.preprocess import HeatmapPreprocess, ImagePreprocess
from vitruvian.data.sources import open_source
from vitruvian.errors import DataError
from vitruvian.spec import Data

IMAGES = ImagePreprocess(size=16)
HEATMAPS = HeatmapPreprocess()


def picture(colour: int, size: tuple[int, int] = (20, 12)) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, (colour, 255 - colour, colour // 2)).save(made, "PNG")
    return made.getvalue()


def folder_of_pictures(root: Path, classes: tuple[str, ...] = ("left", "right"), each: int = 6) -> Path:
    for label in classes:
        (root / label).mkdir(parents=True)
        for i in range(each):
            (root / label / f"{i}.png").write_bytes(picture(10 * i))
    return root


def data(source: Path | str, **more: Any) -> Data:
    return Data.model_validate({"source": str(source), **more})


def prepared(source: Path, out: Path, preprocess: Any = IMAGES, **more: Any) -> Prepared:
    out.mkdir()
    declared = data(source, **more)
    return prepare(open_source(declared, preprocess), declared, preprocess, out)


def test_what_is_packed_is_what_serving_decodes(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source")
    made = prepared(source, tmp_path / "out")
    assert made.classes == ("left", "right")
    names = set()
    for part in (made.part("train"), made.part("validation"), made.part("test")):
        for i, name in enumerate(part.names):
            expected = IMAGES.prepare((source / name).read_bytes(), name)
            assert np.array_equal(part.gather([i])[0], expected)
            assert made.classes[part.labels[i]] == name.split("/")[0]
            names.add(name)
    assert len(names) == 12


def test_statistics_count_every_class_of_every_part(tmp_path: Path) -> None:
    made = prepared(folder_of_pictures(tmp_path / "source", each=10), tmp_path / "out")
    assert made.statistics() == {
        "train": {"left": 6, "right": 6},
        "validation": {"left": 2, "right": 2},
        "test": {"left": 2, "right": 2},
    }


@pytest.mark.parametrize("shape", [HEATMAP_SHAPE, (1, *HEATMAP_SHAPE)])
def test_heatmaps_come_with_or_without_a_leading_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "source" / label).mkdir(parents=True)
        for i in range(5):
            np.save(tmp_path / "source" / label / f"{i}.npy", rng.random(shape, dtype=np.float32))
    made = prepared(tmp_path / "source", tmp_path / "out", HEATMAPS)
    assert made.part("train").gather([0, 1]).shape == (2, *HEATMAP_SHAPE)


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


BROKEN_IMAGES = {
    "empty": (b"", "the file is empty"),
    "text": (b"not a picture", "is not an image"),
    "cut off": (picture(3, (400, 400))[:-300], "can't be decoded as an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
}
BROKEN_HEATMAPS = {
    "text": (b"not an array", "is not a .npy file"),
    "wrong shape": (_npy(np.zeros((17, 48, 64), np.float32)), r"has shape \[17, 48, 64\] instead of \[1, 17, 64, 48\]"),
    "two people": (_npy(np.zeros((2, *HEATMAP_SHAPE), np.float32)), r"has shape \[2, 17, 64, 48\]"),
    "pickled objects": (_npy(np.full(HEATMAP_SHAPE, None)), "holds object instead of real numbers"),
    "complex": (_npy(np.zeros(HEATMAP_SHAPE, complex)), "holds complex128 instead of real numbers"),
    "not a number": (_npy(np.full(HEATMAP_SHAPE, np.nan, np.float32)), "aren't finite numbers"),
    "cut off": (_npy(np.zeros(HEATMAP_SHAPE, np.float32))[:1000], "is cut off"),
    "a claim of 1 TB": (
        _npy(np.zeros(1))[:10].ljust(10) + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2**40,)}",
        "npy",
    ),
}


@pytest.mark.parametrize("case", BROKEN_IMAGES)
def test_a_broken_picture_is_named(tmp_path: Path, case: str) -> None:
    content, message = BROKEN_IMAGES[case]
    source = folder_of_pictures(tmp_path / "source")
    (source / "left" / "bad.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"left/bad\.jpg: .*{message}.*; replace or remove it"):
        prepared(source, tmp_path / "out")


@pytest.mark.parametrize("case", BROKEN_HEATMAPS)
def test_a_broken_heatmap_is_named(case: str) -> None:
    content, message = BROKEN_HEATMAPS[case]
    with pytest.raises(DataError, match=rf"bad\.npy: .*{message}"):
        HEATMAPS.prepare(content, "left/bad.npy")


def test_every_broken_file_gets_a_line(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source")
    for i in range(3):
        (source / "left" / f"bad-{i}.png").write_bytes(b"x")
    with pytest.raises(DataError) as refused:
        prepared(source, tmp_path / "out")
    assert len(str(refused.value).splitlines()) == 3


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source")
    (source / "nobody").mkdir()
    with pytest.raises(DataError, match="nobody: the class folder holds no image"):
        open_source(data(source), IMAGES)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is only one class, 'left'"):
        open_source(data(folder_of_pictures(tmp_path / "source", ("left",))), IMAGES)


def test_a_class_whose_name_would_steer_terminals_is_refused(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source", ("left", "ri\x1b[31mght"))
    with pytest.raises(DataError, match=r"class folder 'ri\\x1b\[31mght' has a control character"):
        open_source(data(source), IMAGES)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: there is no such folder"):
        open_source(data(tmp_path / "absent"), IMAGES)


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes: the class folder holds no heatmap \(\.npy\)"):
        open_source(data(tmp_path), HEATMAPS)


def test_foreign_and_hidden_files_are_ignored_and_counted(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source")
    (source / "left" / "notes.txt").write_text("hello")
    (source / "left" / ".DS_Store").write_bytes(b"x")
    opened = open_source(data(source), IMAGES)
    assert len(opened.examples) == 12
    assert opened.ignored == 1


def test_groups_come_from_a_column_of_groups_csv(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source", each=6)
    rows = [f"{label}/{i}.png,day,person-{i // 2}" for label in ("left", "right") for i in range(6)]
    (source / "groups.csv").write_text("path,time,subject\n" + "\n".join(rows) + "\n")
    made = prepared(source, tmp_path / "out", groupBy="subject", testSize=0.3, validationSize=0.5)
    seen = [{int(name[-5]) // 2 for name in made.part(part).names} for part in ("train", "validation", "test")]
    assert sorted(person for part in seen for person in part) == [0, 1, 2]


GROUPS = [
    ("path,person\n", "there is no column 'subject'; the columns are: path, person"),
    ("file,subject\n", "there is no column 'path'"),
    ("path,subject\nleft/0.png,anna\n", "names no group for left/1.png; add a row for it"),
    (None, "data.groupBy needs this file"),
]


@pytest.mark.parametrize(("content", "message"), GROUPS)
def test_groups_that_dont_fit_are_explained(tmp_path: Path, content: str | None, message: str) -> None:
    source = folder_of_pictures(tmp_path / "source")
    if content is not None:
        (source / "groups.csv").write_text(content)
    with pytest.raises(DataError, match=rf"groups\.csv: {message}"):
        open_source(data(source, groupBy="subject"), IMAGES)


def test_the_version_changes_with_a_file_and_only_then(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "source")
    before = open_source(data(source), IMAGES).version
    (source / "left" / "notes.txt").write_text("hello")
    assert open_source(data(source), IMAGES).version == before
    (source / "left" / "0.png").write_bytes(picture(99))
    assert open_source(data(source), IMAGES).version != before


def test_the_synthetic_set_is_a_source_of_both_kinds(tmp_path: Path) -> None:
    for preprocess in (IMAGES, HEATMAPS):
        opened = open_source(data("synthetic://poses?count=40", groupBy="subject"), preprocess)
        assert len(opened.examples) == 40
        made = opened.read(opened.examples[3])
        assert made.shape == preprocess.shape
        assert made.dtype == preprocess.dtype


def test_the_synthetic_set_knows_its_only_group() -> None:
    with pytest.raises(ValueError, match="'colour' is no column of the synthetic set; write subject"):
        data("synthetic://poses", groupBy="colour")


def test_many_shards_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitruvian.data.prepared.SHARD_BYTES", 2 * 16 * 16 * 3)
    source = folder_of_pictures(tmp_path / "source", each=10)
    made = prepared(source, tmp_path / "out")
    part = made.part("train")
    assert len(part.shards) == 6
    for i in (11, 0, 5):
        assert np.array_equal(part.gather([i])[0], IMAGES.prepare((source / part.names[i]).read_bytes(), i))
