"""The doctor's look at a store, on real S3 servers: one that keeps its word, and others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.ports import free_port
from tests.stores import S3Server
from vitruvian.doctor import storage
from vitruvian.store import S3Store, open_store

CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")


class Forgetful:
    """moto's S3, which here overlooks the named conditions of writes."""

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.overlooks: tuple[str, ...] = ()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        for name in self.overlooks:
            environ.pop(name, None)
        answer: Iterable[bytes] = self.app(environ, start_response)
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forgetful]:
    app = Forgetful()
    listening = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    for name, value in S3Server(f"http://127.0.0.1:{listening.server_port}").settings().items():
        monkeypatch.setenv(name, value)
    S3Store("doctor").client.create_bucket(Bucket="doctor")
    yield app
    for entry in list(open_store("s3://doctor").list()):
        open_store("s3://doctor").delete(entry.key)
    S3Store("doctor").client.delete_bucket(Bucket="doctor")
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.mark.parametrize(
    ("overlooks", "told"),
    [
        ((), "conditional writes hold"),
        (CONDITIONS[:1], "ignores If-None-Match,"),
        (CONDITIONS[1:], "ignores If-Match,"),
        (CONDITIONS, "ignores If-None-Match and If-Match,"),
    ],
)
def test_a_server_that_lets_two_writers_win_is_found_out(
    server: Forgetful, overlooks: tuple[str, ...], told: str
) -> None:
    server.overlooks = overlooks
    finding = storage.writable("s3://doctor/models")
    assert told in finding.found
    assert finding.level == ("error" if overlooks else "ok")
    assert list(open_store("s3://doctor").list()) == [], "the probe is gone"


def test_a_bucket_that_is_not_there_and_data_that_is_not_there_are_told_with_a_remedy(server: Forgetful) -> None:
    missing = storage.writable("s3://nowhere/models")
    assert missing.level == "error" and "aws s3 mb s3://nowhere" in missing.hint
    empty = storage.data("s3://doctor/yoga")
    assert empty.level == "error" and empty.command == "aws s3 sync FOLDER s3://doctor/yoga"
    open_store("s3://doctor").put("yoga/tree/1.jpg", b"")
    assert storage.data("s3://doctor/yoga").level == "ok"


def test_a_store_that_is_not_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server(f"http://127.0.0.1:{free_port()}").settings().items():
        monkeypatch.setenv(name, value)
    finding = storage.writable("s3://doctor/models")
    assert finding.level == "error" and "can't be reached" in finding.found and "AWS_ENDPOINT_URL" in finding.hint
