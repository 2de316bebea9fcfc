"""Everything that lies in a store is predicted once, whatever happens meanwhile."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet  # type: ignore[import-untyped]

from tests.bundles import LABELS, make_bundle, picture, publish_exports
from vitruvian.errors import DataError
from vitruvian.inference.batch import ASKED, DONE, Batch, Format, Worker, begin, finish, missing

COLOURS = ("red", "green", "blue")
WORK = """
import sys
from vitruvian.inference.batch import Worker, begin, missing
batch = begin(*sys.argv[1:4], "jsonl", 4)
worker = Worker(batch)
for part in missing(batch):
    worker.write(part)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root)
    return str(root / "store")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for index in range(30):
        place = folder / f"{index % 4}" / f"{index:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(COLOURS[index % 3], (20, 20)))
    (folder / "0" / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_bytes(picture("red", (20, 20)))
    return folder


def _all(batch: Batch) -> Batch:
    worker = Worker(batch)
    for part in missing(batch):
        worker.write(part)
    finish(batch)
    return batch


def _wanted(source: Path) -> dict[str, str | None]:
    pictures = {path for path in source.rglob("*.png") if ".hidden" not in path.parts}
    return {
        str(path.relative_to(source)): COLOURS[int(path.stem) % 3] if path.stem.isdigit() else None for path in pictures
    }


def test_every_file_has_one_row_with_its_answer_or_what_is_wrong_with_it(
    bundle: str, source: Path, tmp_path: Path
) -> None:
    batch = _all(begin(bundle, str(source), str(tmp_path / "out"), "jsonl", 7))
    lines = [line for path in sorted((tmp_path / "out").glob("part-*.jsonl")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert [row["path"] for row in rows] == sorted(_wanted(source)) == list(batch.keys)
    assert {row["path"]: row["label"] for row in rows} == _wanted(source)
    (broken,) = (row for row in rows if row["label"] is None)
    assert "broken.png" in broken["error"] and broken["probabilities"] is None
    assert all(set(row["probabilities"]) == set(LABELS) for row in rows if row is not broken)
    assert (tmp_path / "out" / DONE).exists()


def test_all_formats_say_the_same(bundle: str, source: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("parquet", "csv", "jsonl")}
    for name, place in places.items():
        _all(begin(bundle, str(source), str(place), name, 100))  # type: ignore[arg-type]
    written = [json.loads(line) for line in (places["jsonl"] / "part-000000.jsonl").read_text().splitlines()]
    table = parquet.read_table(places["parquet"] / "part-000000.parquet")
    labels = json.loads(table.schema.metadata[b"labels"])
    with open(places["csv"] / "part-000000.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == table["path"].to_pylist() == [row["path"] for row in written]
    for line, row, shares in zip(written, rows, table["probabilities"].to_pylist(), strict=True):
        assert (row["label"] or None) == line["label"]
        if line["error"]:
            assert shares is None and row["error"]
            continue
        for name, share in zip(labels, shares, strict=True):
            assert share == pytest.approx(line["probabilities"][name]) == pytest.approx(float(row[name]), abs=1e-6)


def test_a_folder_of_answers_is_read_as_one_table(bundle: str, source: Path, tmp_path: Path) -> None:
    _all(begin(bundle, str(source), str(tmp_path / "out"), "parquet", 7))
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert {row["path"]: row["label"] for row in rows} == _wanted(source)
    assert len(rows) == len(_wanted(source))


def test_a_killed_work_goes_on_and_answers_each_file_once(bundle: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", WORK, bundle, str(source), str(out)]
    kept: dict[Path, int] = {}
    for parts in (1, 3, 5):
        with subprocess.Popen(command) as process:
            while len(list(out.glob("part-*"))) < parts and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        # What is written is never written again.
        for path, when in kept.items():
            assert path.stat().st_mtime_ns == when
        kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    subprocess.run(command, check=True)
    finish(begin(bundle, str(source), str(out), "jsonl", 4))
    names = [json.loads(line)["path"] for path in sorted(out.glob("part-*")) for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(_wanted(source))


def test_answers_to_something_else_are_not_mixed_with_these(bundle: str, source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    begin(bundle, str(source), out, "csv", 10)
    with pytest.raises(
        DataError, match=f"{ASKED}: answers to something else are here: another format, another size of parts"
    ):
        begin(bundle, str(source), out, "jsonl", 5)
    (source / "0" / "new.png").write_bytes(picture("red", (20, 20)))
    with pytest.raises(DataError, match="other files; name another place"):
        begin(bundle, str(source), out, "csv", 10)
    (tmp_path / "out" / ASKED).write_text("[")
    with pytest.raises(DataError, match="is damaged; name another place"):
        begin(bundle, str(source), out, "csv", 10)


def _two_exports(root: Path) -> str:
    """Publish a bundle with two exports that a server can run; of one, red is green."""
    bundle = make_bundle(root)
    turned = make_bundle(root / "turned", weights=4 * np.roll(np.eye(3, dtype=np.float32), 1, axis=1))
    right, wrong = ((one.folder / one.served.path).read_bytes() for one in (bundle, turned))
    return str(publish_exports(root, bundle, {"onnx": right, "onnx-int8": wrong}, "onnx"))


def test_whoever_goes_on_answers_with_the_export_that_was_begun_with(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle, out = _two_exports(tmp_path / "two"), tmp_path / "out"
    begun = begin(bundle, str(source), str(out), "jsonl", 20)
    asked = json.loads((out / ASKED).read_text())
    assert asked["export"] == begun.export
    for export, red in (("onnx", "red"), ("onnx-int8", "green")):
        # As if it had been begun on a machine where this one is the fastest.
        (out / ASKED).write_text(json.dumps({**asked, "export": export}))
        batch = begin(bundle, str(source), str(out), "jsonl", 20)
        assert batch.export == export
        Worker(batch).write(0)
        rows = [json.loads(line) for line in (out / "part-000000.jsonl").read_text().splitlines()]
        assert {row["label"] for row in rows if row["path"] == "0/000.png"} == {red}
        (out / "part-000000.jsonl").unlink()


def test_the_export_that_a_server_would_serve_here_answers(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = make_bundle(tmp_path)
    model = (bundle.folder / bundle.served.path).read_bytes()
    store = publish_exports(tmp_path, bundle, {"onnx": model, "onnx-int8": b"can't be run here"}, "onnx-int8")
    batch = _all(begin(str(store), str(source), str(tmp_path / "out"), "jsonl", 100))
    assert batch.export == "onnx"


def test_a_batch_that_doesnt_say_which_export_answers_is_damaged(bundle: str, source: Path, tmp_path: Path) -> None:
    begin(bundle, str(source), str(tmp_path / "out"), "csv", 10)
    asked = json.loads((tmp_path / "out" / ASKED).read_text())
    del asked["export"]
    (tmp_path / "out" / ASKED).write_text(json.dumps(asked))
    with pytest.raises(DataError, match="is damaged; name another place"):
        begin(bundle, str(source), str(tmp_path / "out"), "csv", 10)


def test_what_cant_be_predicted_is_refused(bundle: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a part can't hold 0 files"):
        begin(bundle, str(source), str(tmp_path / "out"), size=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no file that ends in"):
        begin(bundle, str(tmp_path / "empty"), str(tmp_path / "out"))
    with pytest.raises(DataError, match="31 of 31 parts are missing; run the same command again"):
        finish(begin(bundle, str(source), str(tmp_path / "out"), "csv", 1))


def test_the_answers_of_another_bundle_or_source_are_refused(bundle: str, source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    begin(bundle, str(source), out, "csv", 10)
    # The same version's name, but another classifier.
    make_bundle(tmp_path / "other", weights=np.eye(3, dtype=np.float32))
    with pytest.raises(DataError, match="answers to something else are here: another bundle; name another place"):
        begin(str(tmp_path / "other" / "store"), str(source), out, "csv", 10)
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copy2)
    with pytest.raises(DataError, match="answers to something else are here: another source; name another place"):
        begin(bundle, str(tmp_path / "copy"), out, "csv", 10)


def test_parts_that_nothing_is_known_of_are_not_taken_for_answers(bundle: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.csv").write_text("path,label")
    with pytest.raises(DataError, match=r"parts are here, but not _batch\.json"):
        begin(bundle, str(source), str(tmp_path / "out"), "csv", 10)


def test_a_place_that_cant_be_the_source_or_take_the_answers_is_refused(
    bundle: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(source)
    for out in (source, source / "answers", tmp_path / "link" / "answers"):
        with pytest.raises(DataError, match="the answers can't go to where the files are; name a place outside of it"):
            begin(bundle, str(source), str(out))
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        begin(bundle, str(tmp_path / "nowhere"), str(tmp_path / "out"))
    with pytest.raises(DataError, match=r"000\.png: is not a folder"):
        begin(bundle, str(source / "0" / "000.png"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    # What only begins with the same letters is another place.
    begin(bundle, str(source), f"{source}-answers")


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_files_that_cant_be_read_are_rows_with_the_error(
    bundle: str, source: Path, tmp_path: Path, format: Format
) -> None:
    (source / "back\\slash.png").write_bytes(picture("red", (20, 20)))
    for name, content in ((b"odd\xff.png", picture("red", (20, 20))), (b"odd\xfe.png", b"no picture")):
        Path(os.fsdecode(os.path.join(os.fsencode(source), name))).write_bytes(content)
    batch = begin(bundle, str(source), str(tmp_path / "out"), format, 100)
    (source / "0" / "000.png").unlink()
    assert Worker(batch).write(0) == 4
    path = tmp_path / "out" / f"part-000000.{format}"
    if format == "parquet":
        rows = parquet.read_table(path).to_pylist()
    elif format == "csv":
        with open(path, newline="", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["path"] for row in rows}) == len(rows) == 34
    errors = {row["path"].encode(errors="replace").decode(): row["error"] for row in rows if row["error"]}
    assert "was removed meanwhile" in errors["0/000.png"]
    assert "can't be a key" in errors["back\\slash.png"]
    assert len(errors) == 4
