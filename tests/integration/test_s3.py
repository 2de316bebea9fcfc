from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import boto3
import httpx
import pytest
from moto.s3.models import s3_backends
from typer.testing import CliRunner

from tests.bundles import make_bundle
from tests.ports import free_port
from tests.processes import serving
from tests.stores import BUCKET, MB, Faulty, S3Server, StoreContract, keys, moto, versity, versitygw
from vitruvian import artifact
from vitruvian.bundle import promote, read_champion
from vitruvian.cli import app
from vitruvian.errors import ArtifactError, Conflict, NotFound, SpecError, StoreError
from vitruvian.store import Store, open_store

_numbers = count()


def _use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.settings().items():
        monkeypatch.setenv(name, value)


def _make_bucket(server: S3Server) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _use(server, monkeypatch)
        boto3.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def moto_server() -> Iterator[S3Server]:
    with moto() as server:
        _make_bucket(server)
        yield server


@pytest.fixture(scope="module")
def versity_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if not versitygw().exists():
        pytest.skip(f"no S3 gateway at {versitygw()}: build one with '../shared/cluster/build versitygw'")
    folder = tmp_path_factory.mktemp("versity") / "buckets"
    folder.mkdir()
    with versity(folder) as server:
        _make_bucket(server)
        yield server


@pytest.fixture
def on_moto(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    _use(moto_server, monkeypatch)
    assert moto_server.faulty is not None
    moto_server.faulty.faults.clear()
    moto_server.faulty.requests.clear()
    return moto_server.faulty


@pytest.fixture
def on_versity(versity_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    _use(versity_server, monkeypatch)
    assert versity_server.folder is not None
    return versity_server.folder


def _empty() -> Store:
    return open_store(f"s3://{BUCKET}/{next(_numbers)}/some where")


class TestMoto(StoreContract):
    @pytest.fixture
    def store(self, on_moto: Faulty) -> Store:
        return _empty()


class TestVersity(StoreContract):
    @pytest.fixture
    def store(self, on_versity: Path) -> Store:
        return _empty()


class TestFaults:
    @pytest.fixture
    def store(self, on_moto: Faulty) -> Store:
        return _empty()

    @pytest.mark.parametrize("fault", ["unavailable", "answer lost"])
    def test_a_fault_that_passes_is_not_noticed(
        self, store: Store, on_moto: Faulty, tmp_path: Path, fault: str
    ) -> None:
        (tmp_path / "file").write_bytes(b"content")
        for method in ("PUT", "PUT", "GET", "HEAD", "DELETE"):
            on_moto.faults.append((method, fault))  # type: ignore[arg-type]
        store.put("key", b"content")
        store.upload("file", tmp_path / "file")
        assert store.get("key") == b"content"
        assert store.tag("key") is not None
        store.delete("key")
        assert keys(store) == ["file"]
        assert not on_moto.faults

    def test_a_conditional_write_whose_answer_was_lost_has_won(self, store: Store, on_moto: Faulty) -> None:
        on_moto.faults.append(("PUT", "answer lost"))
        tag = store.put("key", b"one", if_absent=True)
        assert tag == store.tag("key")
        on_moto.faults.append(("PUT", "answer lost"))
        later = store.put("key", b"two", if_match=tag)
        assert later == store.tag("key") != tag
        assert store.get("key") == b"two"

    def test_the_same_content_by_another_writer_is_not_taken_for_ours(self, store: Store, on_moto: Faulty) -> None:
        store.put("key", b"the same", if_absent=True)
        on_moto.faults.append(("PUT", "unavailable"))
        with pytest.raises(Conflict):
            store.put("key", b"the same", if_absent=True)

    def test_an_answer_that_broke_off_is_asked_for_again(self, store: Store, on_moto: Faulty, tmp_path: Path) -> None:
        store.put("key", b"x" * MB)
        on_moto.faults.append(("GET", "cut short"))
        assert store.get("key") == b"x" * MB
        on_moto.faults.append(("GET", "cut short"))
        store.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"x" * MB

    def test_a_fault_that_stays_is_said(self, store: Store, on_moto: Faulty) -> None:
        on_moto.faults.extend([("GET", "unavailable")] * 4)
        with pytest.raises(
            StoreError, match=r"key: the S3 server http://127\.0\.0\.1:\d+ answered 503.*try again later"
        ):
            store.get("key")

    def test_a_part_of_a_large_file_is_sent_again(self, store: Store, on_moto: Faulty, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(os.urandom(20 * MB))
        on_moto.faults.extend([("PUT", "unavailable"), ("PUT", "answer lost")])
        store.upload("key", tmp_path / "file")
        assert store.get("key") == (tmp_path / "file").read_bytes()


def test_a_server_that_is_not_there_is_named(on_moto: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "file").write_bytes(b"")
    store = open_store("s3://models/yoga")
    for attempt in (
        lambda: store.get("key"),
        lambda: store.put("key", b""),
        lambda: store.upload("key", tmp_path / "file"),
        lambda: store.download("key", tmp_path / "copy"),
        lambda: keys(store),
    ):
        with pytest.raises(
            StoreError, match=r"s3://models/yoga.*can't be reached.*run the same command again"
        ) as caught:
            attempt()
        assert address in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("server", ["on_moto", "on_versity"])
def test_a_missing_bucket_is_named(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.getfixturevalue(server)
    store = open_store("s3://nowhere/yoga")
    (tmp_path / "file").write_bytes(b"")
    for attempt in (
        lambda: store.get("key"),
        lambda: store.put("key", b"", if_absent=True),
        lambda: store.upload("key", tmp_path / "file"),
        lambda: keys(store),
        lambda: store.tag("key"),
    ):
        with pytest.raises(StoreError, match="there is no bucket 'nowhere'; create it first") as caught:
            attempt()
        assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("server", ["on_moto", "on_versity"])
def test_nothing_is_nowhere_unless_a_server_says_so(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue(server)
    store = _empty()
    assert store.nowhere()
    store.put("key", b"")
    assert not store.nowhere()
    assert open_store(f"{store.url}/key").nowhere()
    assert open_store("s3://nowhere/yoga").nowhere()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert not open_store("s3://nowhere/yoga").nowhere()


def test_a_mistyped_challenger_on_s3_ends_the_start_with_one_line(
    on_moto: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = make_bundle(tmp_path).folder
    for address in (f"s3://{BUCKET}/yogga", f"s3://{BUCKET}/yoga/bundles/v9", "s3://modells/yoga"):
        failed = CliRunner().invoke(app, ["serve", str(champion), "--challenger", address]).exception
        assert isinstance(failed, SpecError)
        assert str(failed) == f"--challenger: there is nothing at '{address}'; check the address"
    # Who can't be reached may be so later; the champion serves.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with serving(champion, "--challenger", "s3://modells/yoga") as (_, address):
        assert httpx.get(f"{address}/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "unknown")], ids=["secret", "key"]
)
def test_wrong_credentials_are_said(on_versity: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    store = _empty()
    store.put("key", b"content")
    monkeypatch.setenv(name, value)
    stranger = open_store(store.url)
    for attempt in (lambda: stranger.get("key"), lambda: stranger.put("key", b""), lambda: stranger.tag("key")):
        with pytest.raises(StoreError, match=r"access denied.*check the AWS credentials"):
            attempt()
    assert store.get("key") == b"content"


def test_no_credentials_are_said(on_moto: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"no AWS credentials were found.*aws configure"):
        open_store("s3://models").get("key")


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "not an address"), ("AWS_PROFILE", "nobody")])
def test_a_setting_that_can_not_be_is_said(
    on_moto: Faulty, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=f"s3://models: .*{value}.*check AWS_ENDPOINT_URL, AWS_PROFILE"):
        open_store("s3://models").get("key")


def test_more_keys_than_a_page_holds_are_all_listed_on_moto(on_moto: Faulty) -> None:
    backend = s3_backends["123456789012"]["aws"]
    wanted = [f"many/{number:05d}" for number in range(5100)]
    for key in wanted:
        backend.put_object(BUCKET, key, b"")
    assert keys(open_store(f"s3://{BUCKET}"), "many/") == wanted
    assert keys(open_store(f"s3://{BUCKET}/many")) == [key.removeprefix("many/") for key in wanted]


def test_more_keys_than_a_page_holds_are_all_listed_on_versity(on_versity: Path) -> None:
    wanted = [f"many/{number:05d}" for number in range(5100)]
    (on_versity / BUCKET / "many").mkdir()
    for key in wanted:
        (on_versity / BUCKET / key).write_bytes(b"")
    assert keys(open_store(f"s3://{BUCKET}"), "many/") == wanted


@pytest.mark.parametrize("server", ["on_moto", "on_versity"])
def test_the_empty_folder_of_a_console_is_no_key(server: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(server)
    store = _empty()
    store.put("folder/key", b"")
    boto3.client("s3", region_name="us-east-1").put_object(Bucket=BUCKET, Key=f"{store.url.split('/', 3)[3]}/folder/")
    assert keys(store) == ["folder/key"]


@pytest.mark.parametrize("server", ["on_moto", "on_versity"])
class TestArtifacts:
    @pytest.fixture
    def store(self, server: str, request: pytest.FixtureRequest) -> Store:
        request.getfixturevalue(server)
        return _empty()

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "made"
        (folder / "exports").mkdir(parents=True)
        (folder / "config.json").write_bytes(b"{}")
        (folder / "exports" / "model.onnx").write_bytes(os.urandom(MB))
        return folder

    def test_a_fetched_artifact_is_kept_and_checked_again(self, store: Store, folder: Path, tmp_path: Path) -> None:
        artifact.commit(store, "made/1", folder, {"stage": "export"})
        here = artifact.fetch(store, "made/1", tmp_path / "cache")
        assert (here / "exports" / "model.onnx").read_bytes() == (folder / "exports" / "model.onnx").read_bytes()
        (here / "config.json").write_bytes(b"[]")
        (here / "exports" / "model.onnx").unlink()
        untouched = (here / "manifest.json").stat()
        assert artifact.fetch(store, "made/1", tmp_path / "cache") == here
        assert (here / "config.json").read_bytes() == b"{}"
        assert (here / "exports" / "model.onnx").stat().st_size == MB
        assert (here / "manifest.json").stat().st_size == untouched.st_size

    def test_what_is_in_the_cache_is_not_downloaded_again(self, store: Store, folder: Path, tmp_path: Path) -> None:
        artifact.commit(store, "made/1", folder)
        here = artifact.fetch(store, "made/1", tmp_path / "cache")
        store.delete("made/1/exports/model.onnx")
        assert artifact.fetch(store, "made/1", tmp_path / "cache") == here

    def test_many_fetch_the_same_at_once(self, store: Store, folder: Path, tmp_path: Path) -> None:
        artifact.commit(store, "made/1", folder)
        with ThreadPoolExecutor(4) as pool:
            here = set(pool.map(lambda _: artifact.fetch(store, "made/1", tmp_path / "cache"), range(4)))
        assert len(here) == 1
        assert artifact.read_manifest(open_store(here.pop())) == artifact.read_manifest(store, "made/1")

    @pytest.mark.parametrize("change", ["changed", "missing"])
    def test_a_file_that_differs_is_named(self, store: Store, folder: Path, tmp_path: Path, change: str) -> None:
        artifact.commit(store, "made/1", folder)
        if change == "changed":
            store.put("made/1/config.json", b"[]")
        else:
            store.delete("made/1/config.json")
        with pytest.raises(ArtifactError, match=r"made/1/config\.json: (differs from its checksum|is missing)"):
            artifact.fetch(store, "made/1", tmp_path / "cache")

    def test_of_many_who_promote_at_once_the_last_one_told_so_serves(self, store: Store) -> None:
        def challenge(number: int) -> int | None:
            try:
                promote(store, str(number), "digest")
            except Conflict:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = {number for number in pool.map(challenge, range(8)) if number is not None}
        champion = read_champion(store)
        assert champion is not None
        assert int(champion) in winners
