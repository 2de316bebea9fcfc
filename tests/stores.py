"""What every store promises, and the servers on which S3 stores are held to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.ports import free_port
from vitruvian.errors import Conflict, NotFound, StoreError
from vitruvian.store import Store, open_store

BUCKET = "models"
MB = 2**20

COUNT = """
import sys
from vitruvian.errors import Conflict
from vitruvian.store import open_store
store = open_store(sys.argv[1])
for _ in range(int(sys.argv[2])):
    while True:
        try:
            tag = store.tag("count")
            store.put("count", str(int(store.get("count")) + 1).encode(), if_match=tag)
            break
        except Conflict:
            pass
"""

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from vitruvian.store import open_store
store = open_store(sys.argv[1])
store.tag("big")
print("ready", flush=True)
while True:
    store.upload("big", Path(sys.argv[2]))
"""


def count(store: Store, times: int) -> None:
    """Add to the number in `count` by compare-and-swap."""
    for _ in range(times):
        while True:
            tag = store.tag("count")
            with contextlib.suppress(Conflict):
                store.put("count", str(int(store.get("count")) + 1).encode(), if_match=tag)
                break


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


class StoreContract:
    """The promises; a test class for each kind of store gives the fixture `store`, an empty one."""

    @pytest.mark.parametrize("content", [b"", b"words", bytes(range(256)) * 5000], ids=["empty", "short", "long"])
    def test_what_is_put_is_got(self, store: Store, content: bytes) -> None:
        store.put("folder/key", content)
        assert store.get("folder/key") == content
        for size in (1, 5, 2**19):
            assert store.start("folder/key", size) == content[:size]
        store.put("folder/key", b"other")
        assert store.get("folder/key") == b"other"

    def test_an_uploaded_file_is_downloaded(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "up").write_bytes(os.urandom(20 * MB + 7))
        (tmp_path / "down").write_bytes(b"earlier")
        store.upload("a/file", tmp_path / "up")
        store.download("a/file", tmp_path / "down")
        store.download("a/file", tmp_path / "new" / "folder" / "file")
        wanted = hashlib.sha256((tmp_path / "up").read_bytes()).digest()
        assert hashlib.sha256((tmp_path / "down").read_bytes()).digest() == wanted
        assert hashlib.sha256((tmp_path / "new" / "folder" / "file").read_bytes()).digest() == wanted
        assert [(entry.key, entry.size) for entry in store.list()] == [("a/file", 20 * MB + 7)]
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["down", "new", "up"]

    def test_a_missing_key_is_not_found(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "kept").write_bytes(b"earlier")
        store.put("folder/key", b"")
        for key in ("missing", "folder", "folder/other"):
            with pytest.raises(NotFound) as caught:
                store.get(key)
            assert str(caught.value) == f"{store.address(key)}: not found"
            with pytest.raises(NotFound):
                store.start(key, 1)
            with pytest.raises(NotFound):
                store.download(key, tmp_path / "kept")
            assert store.tag(key) is None
            store.delete(key)
        assert (tmp_path / "kept").read_bytes() == b"earlier"
        assert keys(store, "missing/") == []
        assert keys(store) == ["folder/key"]

    def test_keys_are_listed_in_order_with_their_sizes(self, store: Store) -> None:
        written = ["b/z", "b/a/c", "b-c", "b.c", "b0", "B", "é", "a", "z/1/2/3"]
        for size, key in enumerate(written):
            store.put(key, b"x" * size)
        assert [(entry.key, entry.size) for entry in store.list()] == sorted(
            (key, size) for size, key in enumerate(written)
        )
        assert keys(store, "b/") == ["b/a/c", "b/z"]
        assert keys(store, "b") == ["b-c", "b.c", "b/a/c", "b/z", "b0"]
        assert keys(store, "z/1") == ["z/1/2/3"]
        assert keys(store, "b/a/c") == ["b/a/c"]
        assert keys(store, "none/") == []

    def test_odd_names_are_names(self, store: Store) -> None:
        odd = ["100% sure", "a+b=c&d", "a?b#c", "naïve 姿势", "tilde~'quote\"", "{braces}[brackets]", "a:b;c,d@e"]
        for key in odd:
            store.put(f"odd/{key}", key.encode())
        assert keys(store) == sorted(f"odd/{key}" for key in odd)
        assert [store.get(f"odd/{key}").decode() for key in odd] == odd
        for key in odd:
            store.delete(f"odd/{key}")
        assert keys(store) == []

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "..", "a/../b", "../a", "a//b", "a/", "./a", "a\\b", "a\0b", ".incomplete/a"]
    )
    def test_a_key_that_leads_elsewhere_is_refused(self, store: Store, tmp_path: Path, key: str) -> None:
        (tmp_path / "file").write_bytes(b"")
        attempts: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.put(key, b""),
            lambda: store.tag(key),
            lambda: store.upload(key, tmp_path / "file"),
            lambda: store.download(key, tmp_path / "file"),
            lambda: store.delete(key),
        ]
        for attempt in attempts:
            with pytest.raises(StoreError, match="not a valid key"):
                attempt()

    @pytest.mark.parametrize("prefix", ["../", "../a", "/", "a/../"])
    def test_a_prefix_that_leads_elsewhere_is_refused(self, store: Store, prefix: str) -> None:
        if prefix != "/":
            with pytest.raises(StoreError, match="not a valid key"):
                list(store.list(prefix))
        with pytest.raises(StoreError, match="not a valid key"):
            store.at(prefix)

    def test_a_store_below_a_prefix_holds_the_same_keys(self, store: Store) -> None:
        store.put("runs/one/model", b"1")
        store.put("runs/two/model", b"2")
        below = store.at("runs/one")
        assert keys(below) == ["model"]
        assert below.get("model") == b"1"
        assert below.address("model") == store.address("runs/one/model")
        assert store.at("runs").at("two/").get("model") == b"2"

    def test_an_address_opens_the_same_store(self, store: Store) -> None:
        below = store.at("50% off #1?/here")
        below.put("key", b"content")
        assert open_store(below.url).get("key") == b"content"

    def test_a_deleted_key_is_gone(self, store: Store) -> None:
        store.put("folder/a", b"")
        store.put("folder/b", b"")
        store.delete("folder/a")
        assert keys(store) == ["folder/b"]
        store.put("folder/a", b"again", if_absent=True)
        assert store.get("folder/a") == b"again"

    def test_the_tag_of_a_key_follows_its_content(self, store: Store) -> None:
        assert store.tag("key") is None
        first = store.put("key", b"one")
        assert store.tag("key") == first
        second = store.put("key", b"two")
        assert store.tag("key") == second
        assert first != second

    def test_a_write_that_wants_no_key_meets_one(self, store: Store) -> None:
        store.put("key", b"one", if_absent=True)
        with pytest.raises(Conflict) as caught:
            store.put("key", b"two", if_absent=True)
        assert store.address("key") in str(caught.value)
        assert store.get("key") == b"one"

    def test_a_write_that_knows_the_former_content_wins_once(self, store: Store) -> None:
        tag = store.put("key", b"one")
        store.put("key", b"two", if_match=tag)
        with pytest.raises(Conflict):
            store.put("key", b"three", if_match=tag)
        assert store.get("key") == b"two"

    def test_a_write_that_knows_a_deleted_key_loses(self, store: Store) -> None:
        tag = store.put("key", b"one")
        store.delete("key")
        with pytest.raises(Conflict):
            store.put("key", b"two", if_match=tag)
        assert keys(store) == []

    def test_of_many_writers_of_a_new_key_one_wins(self, store: Store) -> None:
        together = threading.Barrier(32)

        def write(number: int) -> int | None:
            together.wait()
            try:
                store.put("key", b"%d" % number, if_absent=True)
            except Conflict:
                return None
            return number

        with ThreadPoolExecutor(32) as pool:
            winners = [number for number in pool.map(write, range(32)) if number is not None]
        assert len(winners) == 1
        assert store.get("key") == b"%d" % winners[0]

    def test_of_many_writers_of_the_same_content_one_wins(self, store: Store) -> None:
        together = threading.Barrier(16)

        def write(_: int) -> bool:
            together.wait()
            try:
                store.put("key", b"the same", if_absent=True)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(write, range(16))) == 1

    def test_compare_and_swap_loses_no_update(self, store: Store) -> None:
        store.put("count", b"0")
        processes = [python(COUNT, store.url, 8) for _ in range(3)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, [store] * 4, [8] * 4))
        assert [process.wait() for process in processes] == [0, 0, 0]
        assert store.get("count") == b"56"

    def test_a_reader_sees_whole_writes_only(self, store: Store) -> None:
        store.put("key", b"0" * MB)
        done = threading.Event()

        def read() -> set[bytes]:
            seen = set()
            while not done.is_set():
                content = store.get("key")
                assert content == content[:1] * MB
                seen.add(content[:1])
            return seen

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            for letter in b"123456789":
                store.put("key", bytes([letter]) * MB)
            done.set()
            assert set().union(*(reader.result() for reader in readers)) <= {b"%d" % i for i in range(10)}

    def test_a_killed_writer_leaves_the_former_content_or_none(self, store: Store, tmp_path: Path) -> None:
        possible: set[str | None] = {None}
        for letter, delay in ((b"a", 0.0), (b"b", 0.01), (b"c", 0.05), (b"d", 0.15)):
            (tmp_path / "big").write_bytes(letter * 24 * MB)
            written = hashlib.sha256(letter * 24 * MB).hexdigest()
            with python(WRITE_FOR_EVER, store.url, tmp_path / "big") as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "ready\n"
                time.sleep(delay)
                writer.kill()
            found = None
            with contextlib.suppress(NotFound):
                found = hashlib.sha256(store.get("big")).hexdigest()
                assert [(entry.key, entry.size) for entry in store.list()] == [("big", 24 * MB)]
            assert found in possible | {written}
            # What a server was asked before its client died, it may still do.
            possible = {found, written}
        store.put("big", b"after all")
        assert store.get("big") == b"after all"

    def test_a_file_that_is_not_there_is_named(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="nowhere"):
            store.upload("key", tmp_path / "nowhere")
        assert keys(store) == []


Fault = Literal["unavailable", "answer lost", "cut short"]


@dataclass
class Faulty:
    """A WSGI application that fails as servers and networks do, the next requests of a method first."""

    app: Callable[..., Iterable[bytes]]
    faults: deque[tuple[str, Fault]] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)
    _writes: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.requests.append(method)
        fault = self.faults.popleft()[1] if self.faults and self.faults[0][0] == method else None
        if fault is None:
            return self._answer(environ, start_response)
        answer: list[Any] = []
        if fault == "unavailable":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        else:
            body = b"".join(self._answer(environ, lambda *head: answer.extend(head)))
        if fault == "cut short":
            start_response(*answer[:2])
            return [body[: len(body) // 2]]
        start_response("503 Slow Down" if fault == "unavailable" else "500 Internal Server Error", [])
        return [b""]

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # moto checks a condition and writes in two steps, which a real server does in one.
        with self._writes if environ["REQUEST_METHOD"] in ("PUT", "POST") else contextlib.nullcontext():
            return list(self.app(environ, start_response))


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server listens, with the keys of its owner."""

    url: str
    faulty: Faulty | None = None
    folder: Path | None = None
    """Where its buckets lie."""

    def settings(self) -> dict[str, str]:
        """Return the AWS variables that lead to this server and to no other."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test-access-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret-key",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def moto() -> Iterator[S3Server]:
    """Run moto's S3 in this process."""
    faulty = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield S3Server(f"http://127.0.0.1:{server.server_port}", faulty)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def versitygw() -> Path:
    """Return where the test cluster's build puts the Versity S3 gateway."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "test-cluster" / "bin" / "versitygw"


@contextlib.contextmanager
def versity(folder: Path) -> Iterator[S3Server]:
    """Run a Versity S3 gateway over a folder."""
    port = free_port()
    keys = {"ROOT_ACCESS_KEY": "test-access-key", "ROOT_SECRET_KEY": "test-secret-key"}
    command = [str(versitygw()), "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(folder)]
    log = folder.parent / "versitygw.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield S3Server(f"http://127.0.0.1:{port}", folder=folder)
    finally:
        process.terminate()
        process.wait()
