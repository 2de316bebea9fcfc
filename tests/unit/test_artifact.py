from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.stores import keys
from vitruvian import artifact
from vitruvian.artifact import File, Manifest, commit, fetch, read_manifest, remove
from vitruvian.errors import ArtifactError, Conflict, StoreError
from vitruvian.store import FolderStore, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "made", {"config.json": b"{}", "exports/model.onnx": b"weights", "exports/empty": b""})


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class Far(FolderStore):
    """A folder that says it is on another machine."""

    def local(self, key: str = "") -> Path | None:
        return None

    def at(self, prefix: str) -> Store:
        return Far(self.root / prefix)


def test_what_is_committed_is_fetched(store: Store, folder: Path) -> None:
    written = commit(store, "made/1", folder, {"stage": "export"})
    here = fetch(store, "made/1")
    assert here == store.local("made/1")
    assert (here / "exports" / "model.onnx").read_bytes() == b"weights"
    assert read_manifest(store, "made/1") == written
    assert written.about == {"stage": "export"}
    assert sorted(written.files) == ["config.json", "exports/empty", "exports/model.onnx"]
    assert written.files["exports/model.onnx"].size == 7


def test_progress_tells_every_byte(store: Store, folder: Path) -> None:
    told: list[int] = []
    commit(store, "made/1", folder, advance=told.append)
    assert sum(told) == 9


def test_a_file_of_the_manifest_s_name_further_down_is_kept(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "made", {"manifest.json": b"a former one", "exports/manifest.json": b"another's"})
    assert sorted(commit(store, "made/1", folder).files) == ["exports/manifest.json"]
    assert (fetch(store, "made/1") / "exports" / "manifest.json").read_bytes() == b"another's"


def test_an_artifact_without_its_manifest_is_none(store: Store, folder: Path) -> None:
    commit(store, "made/1", folder)
    store.delete("made/1/manifest.json")
    assert read_manifest(store, "made/1") is None
    with pytest.raises(ArtifactError, match="made/1: there is no complete artifact here"):
        fetch(store, "made/1")


@pytest.mark.parametrize("name", ["config.json", "exports/model.onnx", "exports/empty"])
def test_one_byte_changed_is_named(store: Store, folder: Path, name: str) -> None:
    commit(store, "made/1", folder)
    content = store.get(f"made/1/{name}")
    store.put(f"made/1/{name}", bytes([content[0] ^ 1]) + content[1:] if content else b"x")
    with pytest.raises(ArtifactError, match=f"made/1/{name}: differs from its checksum"):
        fetch(store, "made/1")


def test_a_missing_file_is_named(store: Store, folder: Path) -> None:
    commit(store, "made/1", folder)
    store.delete("made/1/exports/model.onnx")
    with pytest.raises(ArtifactError, match=r"made/1/exports/model\.onnx: is missing"):
        fetch(store, "made/1")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x"])
@pytest.mark.parametrize("kind", [FolderStore, Far])
def test_a_manifest_that_leads_outside_is_refused(tmp_path: Path, name: str, kind: type[FolderStore]) -> None:
    store = kind(tmp_path / "store")
    (tmp_path / "x").write_bytes(b"")
    described = artifact.describe(tmp_path / "x")
    store.put("made/manifest.json", Manifest({name: described}).to_json())
    with pytest.raises(ArtifactError, match=r"manifest\.json: names a file outside the artifact"):
        fetch(store, "made", tmp_path / "cache")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{", b"[]", b"1", b"{}", b'{"files": 1}', b'{"files": {"a": {"size": 1}}}', b'{"files": {"a": 1}}'],
)
def test_what_is_no_manifest_is_said(store: Store, content: bytes) -> None:
    store.put("made/manifest.json", content)
    with pytest.raises(ArtifactError, match=r"made/manifest\.json: is not a manifest"):
        fetch(store, "made")


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_interrupted_commit_leaves_no_artifact_and_the_next_one_succeeds(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    uploads = 0
    upload = FolderStore.upload

    def interrupted(self: FolderStore, key: str, path: Path) -> None:
        nonlocal uploads
        uploads += 1
        if uploads == nth:
            raise KeyboardInterrupt
        upload(self, key, path)

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "upload", interrupted)
        with pytest.raises(KeyboardInterrupt):
            commit(store, "made/1", folder)
    assert read_manifest(store, "made/1") is None
    commit(store, "made/1", folder)
    assert (fetch(store, "made/1") / "config.json").read_bytes() == b"{}"


def test_files_of_an_earlier_commit_do_not_matter(store: Store, folder: Path) -> None:
    store.put("made/1/left-over", b"from an interrupted commit")
    store.put("made/1/config.json", b"of an interrupted commit")
    written = commit(store, "made/1", folder, once=True)
    assert "left-over" not in written.files
    assert (fetch(store, "made/1") / "config.json").read_bytes() == b"{}"


def test_a_commit_over_an_artifact_is_never_a_mix_of_both(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "made/1", folder)

    def full(self: FolderStore, key: str, path: Path) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "upload", full)
        with pytest.raises(StoreError, match="full"):
            commit(store, "made/1", fill(tmp_path / "other", {"config.json": b"[]"}))
    assert read_manifest(store, "made/1") is None


def test_what_is_committed_once_stays(store: Store, folder: Path, tmp_path: Path) -> None:
    commit(store, "made/1", folder, once=True)
    with pytest.raises(Conflict, match="is there already"):
        commit(store, "made/1", fill(tmp_path / "other", {"config.json": b"[]"}), once=True)
    assert (fetch(store, "made/1") / "config.json").read_bytes() == b"{}"


def test_a_file_from_afar_is_brought_once_and_checked_each_time(folder: Path, tmp_path: Path) -> None:
    store = Far(tmp_path / "far")
    commit(store, "made/1", folder, {"stage": "export"})
    here = fetch(store, "made/1", tmp_path / "cache")
    assert tmp_path / "cache" in here.parents
    store.delete("made/1/exports/model.onnx")
    assert fetch(store, "made/1", tmp_path / "cache") == here
    (here / "exports" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match=r"model\.onnx: differs"):
        fetch(store, "made/1", tmp_path / "cache")
    store.upload("made/1/exports/model.onnx", folder / "exports" / "model.onnx")
    assert fetch(store, "made/1", tmp_path / "cache") == here
    assert (here / "exports" / "model.onnx").read_bytes() == b"weights"
    assert json.loads((here / "manifest.json").read_text())["stage"] == "export"


def test_what_is_told_about_the_same_files_is_not_mixed_up(folder: Path, tmp_path: Path) -> None:
    store = Far(tmp_path / "far")
    commit(store, "made/1", folder, {"step": 1})
    commit(store, "made/2", folder, {"step": 2})
    one, two = fetch(store, "made/1", tmp_path / "cache"), fetch(store, "made/2", tmp_path / "cache")
    assert [json.loads((here / "manifest.json").read_text())["step"] for here in (one, two)] == [1, 2]


def test_the_cache_lies_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert artifact.cache_folder() == tmp_path / "caches" / "vitruvian"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert artifact.cache_folder() == tmp_path / ".cache" / "vitruvian"


@pytest.mark.parametrize("into", [True, False])
def test_a_link_that_leaves_the_artifact_is_refused_whatever_lies_there(
    store: Store, folder: Path, tmp_path: Path, into: bool
) -> None:
    commit(store, "made/1", folder)
    here = store.local("made/1/exports/model.onnx")
    assert here is not None
    here.rename(tmp_path / "elsewhere")
    here.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"model\.onnx: is a link to outside the artifact"):
        fetch(store, "made/1", into=tmp_path / "into" if into else None)


def test_links_within_an_artifact_and_to_its_folder_are_followed(store: Store, folder: Path, tmp_path: Path) -> None:
    commit(store, "made/1", folder)
    here = store.local("made/1")
    assert here is not None
    # As Kubernetes mounts what may be replaced.
    (here / "exports").rename(here / "..data")
    (here / "exports").symlink_to("..data")
    (tmp_path / "linked").symlink_to(here)
    assert fetch(open_store(tmp_path / "linked"), "") == tmp_path / "linked"


@pytest.mark.parametrize("kind", ["pipe", "link to itself"])
def test_what_is_no_file_is_missing(store: Store, folder: Path, kind: str) -> None:
    commit(store, "made/1", folder)
    here = store.local("made/1/config.json")
    assert here is not None
    here.unlink()
    if kind == "pipe":
        os.mkfifo(here)
    else:
        here.symlink_to(here)
    with pytest.raises(ArtifactError, match=r"config\.json: is missing"):
        fetch(store, "made/1")


def test_a_removed_artifact_leaves_nothing(store: Store, folder: Path) -> None:
    commit(store, "made/1", folder)
    commit(store, "made/10", folder)
    remove(store, "made/1")
    assert {key.split("/")[1] for key in keys(store)} == {"10"}
    root = store.local()
    assert root is not None
    assert os.listdir(root / "made") == ["10"]


def test_a_half_removed_artifact_is_none(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, "made/1", folder)
    deleted: list[str] = []
    monkeypatch.setattr(FolderStore, "delete", lambda self, key: deleted.append(key))
    remove(store, "made/1")
    assert deleted[0] == "made/1/manifest.json"


def test_the_digest_is_that_of_the_content_alone() -> None:
    one, two = File(1, "aa"), File(2, "bb")
    digest = Manifest({"a": one, "b": two}, {"made": "today"}).digest
    assert Manifest({"b": two, "a": one}).digest == digest
    assert Manifest({"a": two, "b": one}).digest != digest
    assert Manifest({"a": one, "c": two}).digest != digest
