"""Pictures are found by words, and embedded once for as long as they stay as they are."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.bundles import make_bundle, picture, publish_exports
from vitruvian.bundle import Bundle, open_bundle
from vitruvian.errors import BundleError, DataError
from vitruvian.inference.labels import Labels
from vitruvian.inference.predictor import CHUNK, Predictor
from vitruvian.inference.search import Index, embed_texts, index, search_command
from vitruvian.inference.texts import Texts
from vitruvian.store import open_store

COLOURS = ("red", "green", "blue", "yellow", "white")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clip")
    make_bundle(root, clip=True)
    return root / "store"


@pytest.fixture(scope="module")
def bundle(store: Path) -> Bundle:
    return open_bundle(store)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(10):
        place = folder / f"{number % 2}" / f"{number:02}-{COLOURS[number % 5]}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(COLOURS[number % 5], (20, 20)))
    (folder / "notes.txt").write_text("no picture")
    return folder


def look(bundle: Bundle, pictures: Path) -> Index:
    return index(Predictor.open(bundle, threads=1), open_store(pictures), pictures.parent / "cache")


def table(*arguments: object, top: int = 2, complaints: list[str] | None = None) -> list[str]:
    store, folder, *texts = map(str, arguments)
    out = io.StringIO()
    told = [] if complaints is None else complaints
    search_command(store, folder, texts, top, None, Console(file=out, width=40), told.append)
    return out.getvalue().splitlines()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_looked_for_comes_first(bundle: Bundle, pictures: Path, colour: str) -> None:
    (row,) = embed_texts(bundle, [colour])
    best = look(bundle, pictures).rank(row, 10)
    assert len(best) == 10
    assert [colour in key for key, _ in best] == [True] * 2 + [False] * 8
    assert all(-1.0001 <= cosine <= 1.0001 for _, cosine in best)
    assert [cosine for _, cosine in best] == sorted((cosine for _, cosine in best), reverse=True)


def test_a_score_is_the_cosine_of_a_pictures_and_a_texts_embedding(bundle: Bundle, pictures: Path) -> None:
    assert bundle.info.text is not None
    (key, cosine), *_ = look(bundle, pictures).rank(embed_texts(bundle, ["a red photo"])[0], 1)
    prepared = bundle.preprocess.prepare((pictures / key).read_bytes(), key)
    (image,) = Predictor.open(bundle, threads=1).outputs(prepared[None])
    sentences = Labels(("a red photo",), bundle.info.text.templates).prompts("a red photo")
    assert sentences == ["a photo of a red photo."]
    (text,) = Texts(bundle.folder, bundle.info.text).encode(sentences)
    assert cosine == pytest.approx(float(image @ text) / np.linalg.norm(image) / np.linalg.norm(text), abs=1e-5)


def test_words_that_arent_read_to_their_end_are_refused(bundle: Bundle) -> None:
    with pytest.raises(DataError, match="is too long: this model reads 16 tokens"):
        embed_texts(bundle, ["red", "red " * 30])


def test_a_picture_is_embedded_once(bundle: Bundle, pictures: Path) -> None:
    first = look(bundle, pictures)
    again = look(bundle, pictures)
    assert (first.computed, again.computed) == (10, 0)
    assert first.keys == again.keys
    assert (first.embeddings == again.embeddings).all()


def test_what_is_new_or_changed_is_embedded_and_what_is_gone_is_dropped(bundle: Bundle, pictures: Path) -> None:
    before = look(bundle, pictures)
    (pictures / "0" / "00-red.png").write_bytes(picture("blue", (20, 20)))
    (pictures / "1" / "01-green.png").unlink()
    (pictures / "2").mkdir()
    (pictures / "2" / "new.png").write_bytes(picture("white", (20, 20)))
    after = look(bundle, pictures)
    assert after.computed == 2
    assert {*before.keys} - {*after.keys} == {"1/01-green.png"}
    assert {*after.keys} - {*before.keys} == {"2/new.png"}
    blue = [key for key, _ in after.rank(embed_texts(bundle, ["blue"])[0], 3)]
    assert "0/00-red.png" in blue
    # The kept ones hold no row of what is gone: it is computed again when it comes back.
    (pictures / "1" / "01-green.png").write_bytes(picture("green", (20, 20)))
    assert look(bundle, pictures).computed == 1


def test_what_another_bundle_embedded_is_never_used(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    look(bundle, pictures)
    # The same version of the same name, but other weights.
    weights = np.diag(np.array([1, 2, 3], np.float32))
    other = make_bundle(tmp_path / "other", clip=True, weights=weights)
    assert other.info.version == bundle.info.version
    assert look(other, pictures).computed == 10
    assert look(other, pictures).computed == look(bundle, pictures).computed == 0
    # Not even under its own name.
    kept, theirs = (tmp_path / "cache").iterdir()
    shutil.copy(kept, theirs)
    assert sorted([look(other, pictures).computed, look(bundle, pictures).computed]) == [0, 10]


def test_damaged_embeddings_are_computed_again(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    look(bundle, pictures)
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    for content in (b"", b"junk", whole[:-9], whole[: len(whole) // 2], whole.replace(b'["', b"[1")):
        kept.write_bytes(content)
        assert look(bundle, pictures).computed == 10
        assert look(bundle, pictures).computed == 0


def test_what_was_computed_before_an_interruption_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2 * CHUNK + 5):
        (folder / f"{number:03}.png").write_bytes(picture(COLOURS[number % 5], (20, 20)))

    def press(done: int, total: int) -> None:
        assert total == 2 * CHUNK + 5
        if done == 2 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(Predictor.open(bundle, threads=1), open_store(folder), tmp_path / "cache", press)
    assert look(bundle, folder).computed == 5


def test_a_file_that_cant_be_used_harms_no_other_and_is_named(store: Path, bundle: Bundle, pictures: Path) -> None:
    (pictures / "0" / "broken.png").write_bytes(b"junk")
    found = look(bundle, pictures)
    assert len(found.keys) == 10 and len(found.failed) == 1
    complaints: list[str] = []
    assert len(table(store, pictures, "red", complaints=complaints)) == 3
    (line,) = complaints
    assert "broken.png" in line
    (pictures / "0" / "broken too.png").write_bytes(b"junk")
    table(store, pictures, "red", complaints=complaints)
    assert complaints[1].endswith("1 more can't be used")


def test_a_cache_that_cant_be_written_only_costs_the_time(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = index(Predictor.open(bundle, threads=1), open_store(pictures), tmp_path / "file" / "cache")
    assert found.computed == 10


def test_the_command_prints_a_table_for_each_text(store: Path, pictures: Path) -> None:
    lines = table(store, f"{pictures}/", " red ", "yellow", "red", top=3)
    assert [line for line in lines if not line.startswith(" ")] == ["red", "yellow"]
    places = [line.split() for line in lines[1:4]]
    assert [place for place, _, _ in places] == ["1", "2", "3"]
    assert [path for _, _, path in places[:2]] == [str(pictures / "0/00-red.png"), str(pictures / "1/05-red.png")]
    assert float(places[0][1]) > 0.9
    assert len(lines) == 8


def test_pictures_are_embedded_by_the_export_that_a_server_would_serve_here(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = make_bundle(tmp_path / "clip", clip=True)
    model = (bundle.folder / bundle.served.path).read_bytes()
    models = {"onnx": model, "onnx-int8": b"can't be run here"}
    store = publish_exports(tmp_path / "clip", bundle, models, "onnx-int8")
    assert table(store, pictures, "red")[1].endswith("red.png")


def test_a_csv_holds_a_row_for_each_place(store: Path, pictures: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    search_command(str(store), str(pictures), ["red", "blue"], 4, tmp_path / "out.csv", Console(file=out), print)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["rank"]) for row in rows] == [
        (text, f"{at}") for text in ("red", "blue") for at in (1, 2, 3, 4)
    ]
    assert all(Path(row["path"]).exists() for row in rows)
    assert rows[0]["path"].endswith("red.png") and rows[4]["path"].endswith("blue.png")


def test_a_bundle_without_a_text_tower_is_refused_in_one_line(pictures: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "plain")
    with pytest.raises(BundleError, match="knows its own labels only: it has no text tower; search with a CLIP"):
        table(tmp_path / "plain" / "store", pictures, "red")


def test_what_cant_be_searched_is_refused_in_one_line(store: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="TEXT: is empty"):
        table(store, pictures, "red", " ")
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        table(store, tmp_path / "nowhere", "red")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no file that ends in"):
        table(store, tmp_path / "empty", "red")
    (tmp_path / "empty" / "broken.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"holds no file that can be used: .*broken\.png"):
        table(store, tmp_path / "empty", "red")


def test_no_name_of_a_picture_steers_the_terminal(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a\x1b[31m\u202e.png").write_bytes(picture("red", (20, 20)))
    (folder / "b\x07.png").write_bytes(b"junk")
    complaints: list[str] = []
    _, row = table(store, folder, "red", complaints=complaints)
    assert row.endswith("/a\\x1b[31m\\u202e.png")
    assert "b\\x07.png: is not an image" in complaints[0]
