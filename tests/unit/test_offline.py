"""Predicting files without a server."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.bundles import LABELS, heatmaps, make_bundle, npy, picture, publish_exports
from vitruvian.errors import DataError, StoreError
from vitruvian.inference.answers import layout
from vitruvian.inference.offline import Row, list_inputs, predict_command, predict_paths, write_csv
from vitruvian.inference.predictor import CHUNK, Prediction, Predictor


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root)
    return root / "store"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.open(make_bundle(tmp_path_factory.mktemp("image")), threads=1)


def fill(folder: Path, **colours: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in colours.items():
        (folder / f"{name}.png").write_bytes(picture(colour, (20, 20)))
    return folder


def label(row: Row) -> str:
    assert isinstance(row.result, Prediction)
    return row.result.label


def test_every_suitable_file_below_a_folder_is_predicted_once_in_order(predictor: Predictor, tmp_path: Path) -> None:
    fill(tmp_path / "b", x="red")
    fill(tmp_path, a="blue", z="green")
    (tmp_path / "notes.txt").write_text("no picture")
    fill(tmp_path / ".hidden", y="red")
    done: list[int] = []
    rows = list(predict_paths(predictor, [tmp_path, tmp_path / "a.png"], done.append))
    assert [(row.path.relative_to(tmp_path).as_posix(), label(row)) for row in rows] == [
        ("a.png", "blue"),
        ("z.png", "green"),
        ("b/x.png", "red"),
    ]
    assert sum(done) == 3


def test_a_named_file_is_tried_whatever_its_suffix(predictor: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "picture.data"
    file.write_bytes(picture("green"))
    assert [label(row) for row in predict_paths(predictor, [file])] == ["green"]


def test_a_corrupt_file_is_a_row_of_its_own_and_harms_no_neighbour(predictor: Predictor, tmp_path: Path) -> None:
    fill(tmp_path, a="red", c="blue")
    (tmp_path / "b.png").write_bytes(b"junk")
    (tmp_path / "d.png").symlink_to(tmp_path / "nowhere")
    first, second, third, fourth = predict_paths(predictor, [tmp_path])
    assert (label(first), label(third)) == ("red", "blue")
    for row in (second, fourth):
        assert isinstance(row.result, DataError)
        assert str(row.path) in str(row.result)


def test_more_files_than_one_batch_keep_their_order(predictor: Predictor, tmp_path: Path) -> None:
    wanted = [LABELS[at % 3] for at in range(CHUNK + 5)]
    fill(tmp_path, **{f"{at:03}": colour for at, colour in enumerate(wanted)})
    assert [label(row) for row in predict_paths(predictor, [tmp_path])] == wanted


def test_a_folder_without_a_suitable_file_names_the_suffixes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"\.npy"):
        list_inputs([tmp_path], (".npy",))


def test_a_csv_holds_a_row_for_each_prediction(predictor: Predictor, tmp_path: Path) -> None:
    folder = fill(tmp_path / 'odd, "names"\n', a="red", ü="blue")
    (folder / "broken.png").write_bytes(b"")
    write_csv(predict_paths(predictor, [folder]), tmp_path / "out.csv", predictor.labels)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "label", "confidence", *LABELS]
    assert [(Path(row[0]), row[1]) for row in rows] == [(folder / "a.png", "red"), (folder / "ü.png", "blue")]
    for row in rows:
        assert float(row[2]) == max(map(float, row[3:]))
        assert sum(map(float, row[3:])) == pytest.approx(1, abs=1e-5)


def test_a_csv_is_there_whole_or_not_at_all(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("earlier")
    folder = fill(tmp_path / "in", a="red")

    def stopped() -> Iterator[Row]:
        yield from predict_paths(predictor, [folder])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(stopped(), tmp_path / "out.csv", predictor.labels)
    assert (tmp_path / "out.csv").read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["in", "out.csv"]


def test_a_csv_that_cannot_be_written_is_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing/out\.csv"):
        write_csv([], tmp_path / "missing/out.csv", predictor.labels)


def test_file_names_that_are_no_text_go_through(store: Path, tmp_path: Path) -> None:
    os.mkdir(tmp_path / "in")
    for name, content in ((b"a\xff.png", picture("red")), (b"b\xff.png", b"junk")):
        with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as file:
            file.write(content)
    lines = io.StringIO()
    complaints: list[str] = []
    for table in (tmp_path / "out.csv", None):
        assert predict_command(str(store), [tmp_path / "in"], table, Console(file=lines), complaints.append) == 1
    assert b"a\xff.png,red" in (tmp_path / "out.csv").read_bytes()
    assert "a?.png" in lines.getvalue()
    assert len(complaints) == 2
    assert all("b?.png" in line for line in complaints)


def test_the_rows_never_take_a_pictures_place(store: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", a="red", b="blue")
    (tmp_path / "link.csv").symlink_to(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    for table in (folder / "a.png", tmp_path / "link.csv"):
        with pytest.raises(DataError, match=f"{table}: is one of the files that are looked at; name another"):
            predict_command(str(store), [folder], table, Console(file=io.StringIO()), print)
    assert (folder / "a.png").read_bytes() == before


def test_files_are_answered_by_the_export_that_a_server_would_serve_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = make_bundle(tmp_path)
    model = (bundle.folder / bundle.served.path).read_bytes()
    store = publish_exports(tmp_path, bundle, {"onnx": model, "onnx-int8": b"can't be run here"}, "onnx-int8")
    out = io.StringIO()
    folder = fill(tmp_path / "in", a="green")
    assert predict_command(str(store), [folder], None, Console(file=out, width=200), print) == 0
    assert "green" in out.getvalue().splitlines()[1]


def test_the_command_prints_a_line_for_each_file(tmp_path: Path) -> None:
    make_bundle(tmp_path, "heatmap")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "first.npy").write_bytes(npy(heatmaps(0)))
    (folder / "second.npy").write_bytes(npy(heatmaps(1)))
    out = io.StringIO()
    assert predict_command(str(tmp_path / "store"), [folder], None, Console(file=out), print) == 0
    head, *rows = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert head == ["path", "label", "confidence", *LABELS]
    assert [(Path(row[0]).name, row[1]) for row in rows] == [("first.npy", "red"), ("second.npy", "green")]
    assert [len(row) for row in rows] == [6, 6]


POSES = ("arms-raised", "bridge", "chair", "lunge", "plank", "side-bend", "squat", "tree", "triangle", "warrior-two")


def told(path: str, width: int, labels: tuple[str, ...] = POSES, number: int = 3) -> list[str]:
    """Return what a terminal shows of some answers, each the last label with 0.7 and the first but one with 0.2."""
    table = layout([path] * number, labels, width)
    left = 0.1 / (len(labels) - 2)
    probabilities = dict.fromkeys(labels, left) | {labels[-1]: 0.7, labels[1]: 0.2}
    answers = [table.lines(path, labels[-1], 0.7, probabilities) for _ in range(number)]
    return [*table.head, *(line for answer in answers for line in answer)]


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_answers_of_many_classes_fit_into_a_terminal_with_the_next_best(width: int) -> None:
    lines = told("data/new/000012.png", width)
    assert max(map(len, lines)) <= width
    head, *rows = lines
    assert head.split()[:3] == ["path", "label", "confidence"] and len(rows) == 3
    assert all(row.split()[:3] == ["data/new/000012.png", "warrior-two", "0.700000"] for row in rows)
    if width == 160:
        assert head.split()[3:] == list(POSES)
    else:
        # The more room, the more of them.
        assert [row.count("0.") - 1 for row in rows] == [{60: 0, 80: 1, 120: 3}[width]] * 3
        assert all(row.find("bridge      0.200000") == head.find("next best") for row in rows)


def test_answers_of_few_classes_have_a_column_for_each() -> None:
    head, row = told("data/new/000012.png", 80, ("lunge", "plank", "tree"), 1)
    assert head.split() == ["path", "label", "confidence", "lunge", "plank", "tree"]
    assert row.split()[3:] == ["0.100000", "0.200000", "0.700000"]


def test_a_path_that_leaves_no_room_stays_whole_above_its_answer() -> None:
    path = "data/" + 70 * "x" + ".png"
    head, below, first, answer, *_ = told(path, 80)
    assert (head, first) == ("path", path)
    assert answer.split() == ["warrior-two", "0.700000", "bridge", "0.200000", *answer.split()[4:]]
    assert below.index("confidence") == answer.index("0.700000") and len(answer) <= 80


def test_the_command_shows_a_terminal_what_fits_and_a_pipe_all(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    folder = fill(tmp_path / "in", a="red")
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=40, force_terminal=terminal, color_system=None)
        assert predict_command(str(tmp_path / "store"), [folder], None, console, print) == 0
        assert ("next best" in out.getvalue()) is terminal
        assert all(label in out.getvalue() for label in LABELS) is not terminal


def test_pipes_and_devices_are_left_out_of_folders_and_refused_by_name(store: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", a="red")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "link.png").symlink_to(folder / "a.png")
    assert [path.name for path in list_inputs([folder], (".png",))] == ["a.png", "link.png"]
    complaints: list[str] = []
    named = [folder / "pipe.png", folder / "zero.png", folder / "a.png"]
    out = io.StringIO()
    assert predict_command(str(store), named, None, Console(file=out, width=40), complaints.append) == 2
    assert [line.partition("; ")[0] for line in complaints] == [f"{path}: is not a file" for path in named[:2]]
    assert len(out.getvalue().splitlines()) == 2


def test_no_name_of_a_file_steers_the_terminal(store: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", **{"a\x1b[31m\x07\nb\u202egnp": "red"})
    (folder / "b\x9b2J\u2028.png").write_bytes(b"junk")
    out = io.StringIO()
    complaints: list[str] = []
    predict_command(str(store), [folder], None, Console(file=out, width=40), complaints.append)
    head, row = out.getvalue().splitlines()
    assert "a\\x1b[31m\\x07\\x0ab\\u202egnp.png  red" in row
    assert row.index("  red") == head.index("  label")
    assert "b\\x9b2J\\u2028.png: is not an image" in complaints[0]


def test_where_nothing_can_be_predicted_only_errors_are_printed(store: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    complaints: list[str] = []
    assert predict_command(str(store), [tmp_path / "nope.png"], None, Console(file=out), complaints.append) == 1
    assert (out.getvalue().strip(), len(complaints)) == ("", 1)
