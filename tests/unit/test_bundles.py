"""What a bundle may say of itself: what would only fail later, or steer a terminal, is refused when it is opened."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bundle
from vitruvian.artifact import Manifest, commit
from vitruvian.bundle import CHAMPION, CHECKSUMS, Bundle, open_bundle
from vitruvian.errors import BundleError, StoreError
from vitruvian.store import FolderStore


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), clip=True, measured=True)


def told(bundle: Bundle, folder: Path, field: str, value: object) -> Bundle:
    """Return the bundle with another value of a field, its checksums right."""
    document: Any = json.loads((bundle.folder / "bundle.json").read_text())
    *above, last = field.split(".")
    part = document
    for name in above:
        part = part[name]
    part[last] = value
    store = FolderStore(folder)
    commit(store, "changed", bundle.folder, manifest=CHECKSUMS)
    store.put("changed/bundle.json", json.dumps(document).encode())
    commit(store, "again", folder / "changed", manifest=CHECKSUMS)
    return open_bundle(folder / "again")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text.templates", []),
        ("text.templates", ["a photo"]),
        ("text.templates", ["{} and {}"]),
        ("text.context", -1),
        ("text.context", 2),
        ("text.context", 10**30),
        ("text.pad", -5),
        ("text.scale", 0),
        ("text.scale", float("inf")),
        ("text.scale", float("nan")),
        ("labels", ["red", "green", "red"]),
        ("labels", []),
        ("labels", ["red", "\x1b[31mgreen", "blue"]),
        ("labels", ["red", "gre\u202een", "blue"]),
        ("name", "yo\nga"),
        ("version", "v1\x07"),
    ],
)
def test_a_field_that_would_fail_later_is_named_when_a_bundle_is_opened(
    bundle: Bundle, tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(BundleError, match=rf"bundle\.json: {field}") as caught:
        told(bundle, tmp_path, field, value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", ["rot", "grün", "青 い"]),
        ("name", "Yoga für alle"),
        ("text.context", 3),
        ("text.templates", ["{}", "ein Bild: {}"]),
    ],
)
def test_what_people_write_is_taken(bundle: Bundle, tmp_path: Path, field: str, value: object) -> None:
    assert told(bundle, tmp_path, field, value).digest


def test_a_bundle_reached_through_a_link_to_its_folder_is_the_same(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(bundle.folder)
    assert open_bundle(tmp_path / "linked").digest == bundle.digest
    assert bundle.card is not None
    assert bundle.card.startswith(b"---")


def test_a_card_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "made", measured=True)
    card = bundle.folder / "README.md"
    card.rename(tmp_path / "elsewhere")
    card.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"README\.md: is a link to outside the artifact"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("model", "beside"),
    [("model.xml", "model.bin"), ("model.onnx", "model.onnx.data"), ("model.onnx", "model.onnx_data")],
)
def test_what_an_engine_would_read_unverified_is_refused_by_name(tmp_path: Path, model: str, beside: str) -> None:
    made = make_bundle(tmp_path / "made").folder
    document = json.loads((made / "bundle.json").read_text())
    export = document["exports"][0]
    folder = (made / export["path"]).parent
    (made / export["path"]).rename(folder / model)
    (folder / beside).write_bytes(b"weights")
    export["path"] = (folder / model).relative_to(made).as_posix()
    (made / "bundle.json").write_text(json.dumps(document))
    whole = commit(FolderStore(tmp_path), "whole", made, manifest=CHECKSUMS)
    assert open_bundle(tmp_path / "whole").digest == whole.digest
    name = (folder / beside).relative_to(made).as_posix()
    listed = tmp_path / "whole" / CHECKSUMS
    listed.write_bytes(Manifest({path: file for path, file in whole.files.items() if path != name}, {}).to_json())
    with pytest.raises(BundleError, match=rf"{re.escape(name)}: isn't listed in checksums\.json") as caught:
        open_bundle(tmp_path / "whole")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [CHECKSUMS, CHAMPION])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_refused_and_not_read(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=rf"{name}: is not a regular file"):
        open_bundle(tmp_path)


def test_a_pipe_for_a_listed_file_is_refused_and_not_read(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    model = bundle.folder / bundle.served.path
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(BundleError, match=rf"{bundle.served.path}: is missing"):
        open_bundle(bundle.folder)
