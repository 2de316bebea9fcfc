from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.stores import MB, StoreContract, keys
from vitruvian.bundle import promote, read_champion
from vitruvian.errors import BundleError, Conflict, NotFound, StoreError
from vitruvian.store import FolderStore, S3Store, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


class TestFolder(StoreContract):
    pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a full disk needs root: run the tests as root, or in a container, to mount one of 1 MB")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a full disk needs leave to mount one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_full_disk_leaves_what_was_there(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(small_disk)
    (tmp_path / "big").write_bytes(b"x" * 2 * MB)
    store.put("folder/key", b"earlier")
    with pytest.raises(StoreError, match="folder/key: the disk is full; free some space"):
        store.put("folder/key", b"y" * 2 * MB)
    with pytest.raises(StoreError, match="new/key: the disk is full"):
        store.upload("new/key", tmp_path / "big")
    open_store(tmp_path / "store").upload("big", tmp_path / "big")
    with pytest.raises(StoreError, match="copy: the disk is full"):
        open_store(tmp_path / "store").download("big", small_disk / "copy")
    assert store.get("folder/key") == b"earlier"
    assert files(small_disk) == ["folder", "folder/key"]
    store.delete("folder/key")
    assert files(small_disk) == []


def test_nothing_is_left_beside_the_keys(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    tag = store.put("a/key", b"one")
    store.put("a/key", b"two", if_match=tag)
    with pytest.raises(Conflict):
        store.put("a/key", b"three", if_absent=True)
    with pytest.raises(Conflict):
        store.put("b/key", b"three", if_match=tag)
    store.put("c/d/key", b"")
    store.delete("c/d/key")
    assert files(tmp_path / "store") == ["a", "a/key"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    store = open_store(tmp_path / "store")
    store.put("key", b"earlier")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.put("key", b"later")
    with pytest.raises(KeyboardInterrupt):
        store.put("new/key", b"later")
    assert files(tmp_path / "store") == ["key"]
    assert store.get("key") == b"earlier"


def test_what_a_killed_writer_left_is_no_key_and_holds_nobody_off(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    (tmp_path / "store" / "a" / ".incomplete").mkdir(parents=True)
    (tmp_path / "store" / "a" / ".incomplete" / "half").write_bytes(b"ha")
    assert keys(store) == []
    store.put("a/key", b"", if_absent=True)
    assert keys(store) == ["a/key"]


def test_files_are_as_open_to_others_as_the_user_wants(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        open_store(tmp_path).put("key", b"")
    finally:
        os.umask(former)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o640


def test_linked_folders_are_listed_and_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"1")
    store = open_store(tmp_path / "store")
    store.put("a/file", b"2")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "a" / "circle").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "broken").symlink_to(tmp_path / "nowhere")
    assert keys(store) == ["a/file", "link/file"]
    assert store.get("link/file") == b"1"


def test_a_folder_that_is_not_there_holds_nothing_and_is_not_made(tmp_path: Path) -> None:
    store = open_store(tmp_path / "nowhere")
    assert keys(store) == []
    assert store.tag("key") is None
    store.delete("key")
    with pytest.raises(NotFound):
        store.get("key")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("key", ["file/below", "folder"])
def test_a_key_in_the_way_of_another_is_said(tmp_path: Path, key: str) -> None:
    store = open_store(tmp_path)
    store.put("file", b"1")
    store.put("folder/key", b"2")
    with pytest.raises(StoreError, match=key) as caught:
        store.put(key, b"3")
    assert not isinstance(caught.value, Conflict | NotFound)
    assert keys(store) == ["file", "folder/key"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything: run the tests as another user")
def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("closed/key", b"")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(StoreError, match="closed: not allowed"):
            keys(store)
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_a_folder_says_where_its_keys_lie(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/my%20models")
    assert store.local() == tmp_path / "my models"
    assert store.local("a/b") == tmp_path / "my models" / "a" / "b"
    assert store.address("a/b") == f"file://{tmp_path}/my models/a/b"
    asked = open_store(tmp_path / "100% #1?")
    assert asked.url == f"file://{tmp_path}/100%25 %231%3F"
    assert open_store(asked.url).local() == tmp_path / "100% #1?"


def test_an_s3_address_is_a_bucket_and_a_prefix() -> None:
    for address in ("s3://models/yoga/v#1?", "s3://models/yoga/v#1?/"):
        store = open_store(address)
        assert isinstance(store, S3Store)
        assert (store.bucket, store.prefix) == ("models", "yoga/v#1?")
        assert store.url == "s3://models/yoga/v#1?"
    assert open_store("s3://models").url == "s3://models"


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///prefix", "file://", "gs://bucket", "://", "s3://b/../c", "file://host/x"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(StoreError):
        open_store(address)


def test_a_plain_path_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_store("artifacts").local() == tmp_path / "artifacts"
    assert open_store("~/artifacts").local() == tmp_path / "home" / "artifacts"


NAMES = st.sampled_from(["a", "b/c", "b/d", "b/e/f", "g h/i", "b.c"])
CONTENTS = st.binary(max_size=20)


class FolderAsDictionary(RuleBasedStateMachine):
    """A folder behaves like a dictionary, whatever is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store: Store = FolderStore(Path(self.folder.name) / "store")
        self.model: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(key=NAMES, content=CONTENTS)
    def put(self, key: str, content: bytes) -> None:
        self.tags[key] = self.store.put(key, content)
        self.model[key] = content

    @rule(key=NAMES, content=CONTENTS)
    def upload(self, key: str, content: bytes) -> None:
        path = Path(self.folder.name) / "file"
        path.write_bytes(content)
        self.store.upload(key, path)
        self.model[key] = content

    @rule(key=NAMES, content=CONTENTS)
    def put_if_absent(self, key: str, content: bytes) -> None:
        with pytest.raises(Conflict) if key in self.model else contextlib.nullcontext():
            self.store.put(key, content, if_absent=True)
            self.model[key] = content

    @rule(key=NAMES, content=CONTENTS)
    def put_if_unchanged(self, key: str, content: bytes) -> None:
        known = self.tags.get(key, "none")
        with pytest.raises(Conflict) if known != self.store.tag(key) else contextlib.nullcontext():
            self.tags[key] = self.store.put(key, content, if_match=known)
            self.model[key] = content

    @rule(key=NAMES)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=NAMES)
    def get(self, key: str) -> None:
        with contextlib.nullcontext() if key in self.model else pytest.raises(NotFound):
            assert self.store.get(key) == self.model[key]

    @rule(prefix=st.sampled_from(["", "a", "b", "b/", "b/e/", "g", "x/"]))
    def listed(self, prefix: str) -> None:
        wanted = [(key, len(self.model[key])) for key in sorted(self.model) if key.startswith(prefix)]
        assert [(entry.key, entry.size) for entry in self.store.list(prefix)] == wanted

    @invariant()
    def holds_nothing_else(self) -> None:
        root = Path(self.folder.name) / "store"
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == sorted(
            self.model
        )
        assert all(any(folder.iterdir()) for folder in root.rglob("*") if folder.is_dir())


TestFolderAsDictionary = FolderAsDictionary.TestCase
TestFolderAsDictionary.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


def _only(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let AWS's variables lead to an endpoint and nowhere else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in {**keys, **files, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.timeout(60)
def test_an_s3_server_that_never_answers_is_given_up_in_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _only(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"s3://models/yoga: the store can't be reached \(ReadTimeoutError\)"):
            open_store("s3://models/yoga").get("key")
        assert time.monotonic() - began < 30


class _Page(BaseHTTPRequestHandler):
    """A web server that has the same page for everything."""

    page: ClassVar[bytes] = b"<!DOCTYPE html>\n<html><body>Welcome</body></html>"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.page)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *words: object) -> None:
        pass


def test_a_web_server_is_taken_for_no_store_and_nothing_is_to_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _only(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        store = open_store("s3://models/yoga")
        attempts: list[Callable[[], object]] = [
            lambda: store.put("key", b"", if_absent=True),
            lambda: store.tag("key"),
            lambda: promote(store, "1", "digest"),
        ]
        for attempt in attempts:
            with pytest.raises(StoreError, match="what answers is no S3 server; check that http://127"):
                attempt()
        with pytest.raises(BundleError, match=r"begins with '<!DOCTYPE html>.*check the address, and AWS") as refused:
            read_champion(store)
        assert "delete" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
        server.shutdown()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b"\xff\xfe", b"3", b'"1"', b"[" * 100_000])
def test_a_champion_of_somebody_else_is_not_to_be_deleted(content: bytes, store: Store) -> None:
    store.put("champion.json", content)
    with pytest.raises(BundleError, match=r"champion\.json: is not what Vitruvian writes") as refused:
        read_champion(store)
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize("version", ["", ".", "..", "a/b", 7, None])
def test_a_champion_of_ours_that_is_damaged_may_be_deleted(version: object, store: Store) -> None:
    store.put("champion.json", json.dumps({"version": version}).encode())
    with pytest.raises(BundleError, match=r"champion\.json: doesn't name a version; delete it and publish again"):
        read_champion(store)
